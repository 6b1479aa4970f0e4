-- Sets the flag that the indexes are complete, if the claim still stands that this process made before it looked at the
-- keys. Returns 1 if the claim stands and no other software is known to write here, otherwise 0.
-- ARGV: the cache's name, the claim.
if redis.call('SREM', KEYS[2], ARGV[2]) == 0 or not is_alone(KEYS[3], ARGV[1]) then return 0 end
redis.call('SET', KEYS[1], 1)
return 1
