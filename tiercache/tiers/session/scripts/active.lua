-- Notes the ends of threads in the set of active threads, removes those that have ended, and returns how many are left.
-- KEYS: the set, then the hash of each thread. ARGV: milliseconds for which a thread without an end counts, then the
-- threads in the order of their hashes.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for number = 2, #KEYS do
    local left = redis.call('PTTL', KEYS[number])
    if left == -2 then
        redis.call('ZREM', KEYS[1], ARGV[number])
    else
        if left == -1 then left = tonumber(ARGV[1]) end
        redis.call('ZADD', KEYS[1], string.format('%.0f', now + left), ARGV[number])
    end
end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now))
local last = redis.call('ZRANGE', KEYS[1], 0, 0, 'REV', 'WITHSCORES')[2]
if last then redis.call('PEXPIRE', KEYS[1], string.format('%.0f', tonumber(last) - now)) end
return redis.call('ZCARD', KEYS[1])
