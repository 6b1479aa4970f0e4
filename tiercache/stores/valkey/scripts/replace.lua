-- Does the work of SET ... IFEQ on servers that lack it: sets the key if it holds the expected value. Returns 1 or 0.
-- KEYS: the key. ARGV: the expected value, the new value, then the options of SET for the expiry.
if redis.pcall('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], unpack(ARGV, 2))
return 1
