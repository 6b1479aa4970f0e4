-- Does the work of DELIFEQ on servers that lack it: deletes the key if it holds the expected value. Returns 1 or 0.
-- KEYS: the key. ARGV: the expected value.
if redis.pcall('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
