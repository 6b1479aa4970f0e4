-- Lists indexes in the register of indexes, so that any process of the cache trims them. Returns 0.
-- KEYS: the register, a sorted set of the names of indexes, scored by the ms from which an index may be trimmed.
-- ARGV: how long the register must live from now on in ms (0: no expiry), then the names.
local time = redis.call('TIME')
local due = time[1] * 1000 + math.floor(time[2] / 1000) + 60000
local life = tonumber(ARGV[1])
local left = redis.call('PTTL', KEYS[1])
for i = 2, #ARGV do redis.call('ZADD', KEYS[1], 'NX', due, ARGV[i]) end
if life == 0 then
    if left >= 0 then redis.call('PERSIST', KEYS[1]) end
elseif left == -2 or (left >= 0 and left < life) then
    redis.call('PEXPIRE', KEYS[1], life)
end
return 0
