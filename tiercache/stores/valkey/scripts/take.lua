-- Does the work of SET ... NX GET on servers that lack it: returns nil if the placeholder was set, otherwise the value
-- that the key holds.
-- KEYS: the key. ARGV: the placeholder, its lifetime in ms.
if redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then return false end
return redis.call('GET', KEYS[1])
