-- Removes a thread. Returns {number of its checkpoints, its runs}.
-- KEYS: index, content. ARGV: prefix of the keys of writes.
local members, absent = members_of(KEYS[1])
local runs = redis.call('HGET', KEYS[2], 'r') or ''
local count = 0
for _, member in ipairs(members) do
  redis.call('DEL', ARGV[1] .. member)
  if not absent[member] then count = count + 1 end
end
redis.call('DEL', KEYS[1], KEYS[2])
return {count, runs}
