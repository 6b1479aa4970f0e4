-- Deletes a record; returns 1, or 0 if the stored record is another one. ARGV: the prefix, the id, the revision.
local id = ARGV[2]
local key = record_key(id)
if redis.call('HGET', key, 'revision') ~= ARGV[3] then return 0 end
local tips, scope = tips_of(key), redis.call('HGET', key, 'scope')
redis.call('DEL', key)
redis.call('ZREM', KEYS[1], id)
if is_scope(scope) then redis.call('ZREM', scope_list(scope), id) end
for _, tip in ipairs(tips) do release(tip) end
return 1
