-- What DELIFEQ does, for servers without it. ARGV: what must be there.
if redis.pcall('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
