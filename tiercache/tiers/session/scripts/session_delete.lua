-- Deletes fields. Returns how many of them existed. ARGV: the fields, in the order of their keys.
local count = redis.call('DEL', unpack(KEYS, 2))
redis.call('HDEL', KEYS[1], unpack(ARGV))
fit(KEYS[1])
return count
