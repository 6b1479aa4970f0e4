-- Adds a thread to a list of threads, and removes the threads that have ended. The list lives as long as its last one.
-- KEYS: list. ARGV: thread, milliseconds that the thread lives (0: without end).
local ttl = tonumber(ARGV[2])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', '(' .. string.format('%.0f', now))
redis.call('ZADD', KEYS[1], ttl > 0 and string.format('%.0f', now + ttl) or 'inf', ARGV[1])
local last = redis.call('ZRANGE', KEYS[1], 0, 0, 'REV', 'WITHSCORES')[2]
if last == 'inf' then
  redis.call('PERSIST', KEYS[1])
else
  redis.call('PEXPIRE', KEYS[1], string.format('%.0f', tonumber(last) - now))
end
return 1
