-- Adds members to an index, each with the server's time as its score, and makes the index live long enough.
-- Returns the number of members that the index did not have.
-- KEYS: the index, a sorted set scored by milliseconds.
-- ARGV: how long the index must live from now on in ms (0: no expiry), then the members, which are keys.
--
-- An index without an expiry keeps none: it lists an entry that does not expire. The trim removes such an index when
-- its last member is gone.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local life = tonumber(ARGV[1])
local left = redis.call('PTTL', KEYS[1])
local count = 0
for i = 2, #ARGV do count = count + redis.call('ZADD', KEYS[1], now, ARGV[i]) end
if life == 0 then
    if left >= 0 then redis.call('PERSIST', KEYS[1]) end
elseif left == -2 or (left >= 0 and left < life) then
    redis.call('PEXPIRE', KEYS[1], life)
end
return count
