-- Stores pending writes of a checkpoint. Returns the runs to renew.
-- KEYS: index, content, writes. ARGV: prefix of the keys of writes, ttl, member, then for each write its field, its
-- value, and 1 if it replaces an earlier one.
local index, content, ttl, member = KEYS[1], KEYS[2], tonumber(ARGV[2]), ARGV[3]
for i = 4, #ARGV, 3 do
  if ARGV[i + 2] == '1' or redis.call('HEXISTS', KEYS[3], ARGV[i]) == 0 then
    redis.call('HSET', KEYS[3], ARGV[i], ARGV[i + 1])
  end
end
if not redis.call('ZSCORE', index, member) then redis.call('ZADD', index, 0, '\255' .. member) end
if ttl > 0 then redis.call('PEXPIRE', KEYS[3], text_of(ttl + math.ceil(ttl / 4))) end
return renew(index, content, ARGV[1], ttl)
