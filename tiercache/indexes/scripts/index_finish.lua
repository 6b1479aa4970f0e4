-- Notes that the indexes are complete, if the claim that was made before they were looked at still stands; returns 1 if
-- it does. ARGV: the name, the claim.
if redis.call('SREM', KEYS[2], ARGV[2]) == 0 or not is_alone(KEYS[3], ARGV[1]) then return 0 end
redis.call('SET', KEYS[1], 1)
return 1
