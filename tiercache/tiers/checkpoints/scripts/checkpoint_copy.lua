-- Replaces a thread by a copy of another. Returns {number of copied checkpoints, runs of the copy, runs of the thread
-- that was there}. If the source is empty, nothing changes.
-- KEYS: index and content of the source, index and content of the target. ARGV: prefix of the keys of writes of the
-- target, ttl, prefix of the source.
local index, content = KEYS[3], KEYS[4]
if redis.call('EXISTS', KEYS[1]) == 0 then return {0, '', ''} end
local before = redis.call('HGET', content, 'r') or ''
for _, member in ipairs((members_of(index))) do redis.call('DEL', ARGV[1] .. member) end
redis.call('DEL', index, content)
redis.call('COPY', KEYS[1], index)
redis.call('COPY', KEYS[2], content)
local members, absent = members_of(index)
local count = 0
for _, member in ipairs(members) do
  redis.call('COPY', ARGV[3] .. member, ARGV[1] .. member, 'REPLACE')
  if not absent[member] then count = count + 1 end
end
-- Forces a renewal of all keys: a copy lives as long as its source.
redis.call('HSET', content, 't', '0')
renew(index, content, ARGV[1], tonumber(ARGV[2]))
return {count, redis.call('HGET', content, 'r') or '', before}
