-- Stores a checkpoint. Returns {1, number of fields that are new, runs to renew}; or {0}, and stores nothing, if a blob
-- is gone that the checkpoint needs.
-- KEYS: index, content. ARGV: prefix of the keys of writes, ttl, member, run or '', number of needed fields, these
-- fields, then fields and values.
local index, content, member, run = KEYS[1], KEYS[2], ARGV[3], ARGV[4]
local first = 6 + tonumber(ARGV[5])
for i = 6, first - 1 do
  if redis.call('HEXISTS', content, ARGV[i]) == 0 then return {0} end
end
local added = 0
for i = first, #ARGV, 2 do added = added + redis.call('HSET', content, ARGV[i], ARGV[i + 1]) end
if run ~= '' then
  local runs = redis.call('HGET', content, 'r') or ''
  if not string.find('\0' .. runs, '\0' .. run .. '\0', 1, true) then
    redis.call('HSET', content, 'r', runs .. run .. '\0')
  end
end
redis.call('ZADD', index, 0, member)
redis.call('ZREM', index, '\255' .. member)
return {1, added, renew(index, content, ARGV[1], tonumber(ARGV[2]))}
