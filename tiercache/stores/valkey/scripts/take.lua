-- What SET ... NX GET does, for servers without it. ARGV: the placeholder, its life in ms.
if redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then return false end
return redis.call('GET', KEYS[1])
