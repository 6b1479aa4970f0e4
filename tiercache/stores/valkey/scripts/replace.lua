-- Does the work of SET ... IFEQ on servers that lack it: sets the key if it holds the expected value. Returns 1 or 0.
-- KEYS: the key. ARGV: the expected value, the new value, the lifetime in ms (0: no expiry).
if redis.pcall('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if ARGV[3] == '0' then
    redis.call('SET', KEYS[1], ARGV[2])
else
    redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
end
return 1
