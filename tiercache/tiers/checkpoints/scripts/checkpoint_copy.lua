-- Replaces a thread by a copy of another. Returns {number of copied checkpoints, runs of the copy, runs of the thread
-- that was there}. If the source has no checkpoint, but perhaps pending writes, nothing changes.
-- KEYS: index and content of the source, index and content of the target. ARGV: prefix of the keys of writes of the
-- target, ttl, prefix of the source.
local index, content = KEYS[3], KEYS[4]
local sources, without = members_of(KEYS[1])
local count = 0
for _, member in ipairs(sources) do
  if not without[member] then count = count + 1 end
end
if count == 0 then return {0, '', ''} end
local before = redis.call('HGET', content, 'r') or ''
for _, member in ipairs((members_of(index))) do redis.call('DEL', ARGV[1] .. member) end
redis.call('DEL', index, content)
redis.call('COPY', KEYS[1], index)
redis.call('COPY', KEYS[2], content)
for _, member in ipairs(sources) do redis.call('COPY', ARGV[3] .. member, ARGV[1] .. member, 'REPLACE') end
-- Forces a renewal of all keys: a copy lives as long as its source.
redis.call('HSET', content, 't', '0')
renew(index, content, ARGV[1], tonumber(ARGV[2]))
return {count, redis.call('HGET', content, 'r') or '', before}
