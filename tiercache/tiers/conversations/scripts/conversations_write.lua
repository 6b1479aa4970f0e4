-- Stores a record and new entries; returns 1, or 0 if the stored record is another one or the head is missing.
-- ARGV: the prefix, the id, the expected revision (optional), the revision, the head (optional), the tips, the scope
-- (optional), the microsecond of the save, the window, the data, and of each entry the id, the parent (optional), the data.
local id, expected, revision, head = ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local scope, score, window = ARGV[7], ARGV[8], tonumber(ARGV[9])
local key = record_key(id)
local stored = redis.call('HGET', key, 'revision')
if (stored and '+' .. stored or '-') ~= expected then return 0 end
local is_there = head == '-' or redis.call('EXISTS', entry_key(string.sub(head, 2))) == 1
for i = 11, #ARGV, 3 do is_there = is_there or ARGV[i] == string.sub(head, 2) end
if not is_there then return 0 end
local old_tips, old_scope = tips_of(key), redis.call('HGET', key, 'scope')
local tips = cjson.decode(ARGV[6])
for i = 11, #ARGV, 3 do
    local entry, parent = entry_key(ARGV[i]), ARGV[i + 1]
    local old_parent = parent_of(ARGV[i])
    if redis.call('EXISTS', entry) == 0 then
        redis.call('HSET', entry, 'uses', 0)
        if window > 0 then redis.call('PEXPIRE', entry, window) end
    end
    redis.call('HSET', entry, 'parent', parent, 'data', ARGV[i + 2])
    if string.sub(parent, 1, 1) == '+' then use(string.sub(parent, 2)) end
    if old_parent then release(old_parent) end
end
for _, tip in ipairs(tips) do use(tip) end
for _, tip in ipairs(old_tips) do release(tip) end
redis.call('HSET', key, 'revision', revision, 'tips', ARGV[6], 'scope', scope, 'data', ARGV[10])
keep(key, tips, window)
if is_scope(old_scope) and old_scope ~= scope then redis.call('ZREM', scope_list(old_scope), id) end
list(KEYS[1], id, score, window)
if is_scope(scope) then list(scope_list(scope), id, score, window) end
-- Conversations that have ended, and that no caller lists, stay few beside the others.
for _, zset in ipairs({KEYS[1], is_scope(scope) and scope_list(scope) or nil}) do
    for _, other in ipairs(redis.call('ZRANDMEMBER', zset, 5)) do
        if redis.call('EXISTS', record_key(other)) == 0 then redis.call('ZREM', zset, other) end
    end
end
return 1
