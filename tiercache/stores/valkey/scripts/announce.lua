#!lua flags=allow-oom
-- Numbers a change, publishes it, and returns the number; returns 0 if every process declines such an announcement.
-- KEYS: the counter of changes. ARGV: the channel, the message before the number, the message after the number; for an
-- announcement of single keys, the channel of the processes that decline them.
--
-- Every process subscribes to the first channel, and a process that declines to both. The write comes before this
-- script, so the server has reported it already to each process that it counts here as one that declines. A server or
-- a user that cannot count lets the change be published.
if ARGV[4] then
    local counts = redis.pcall('PUBSUB', 'NUMSUB', ARGV[1], ARGV[4])
    if not counts.err and counts[2] == counts[4] then return 0 end
end

-- If the counter is missing, or holds something that is not a number, this script sets it to the server's clock in
-- microseconds: a number that a process has seen before would hide the change from that process.
-- A user without permission to publish still numbers the change. The other processes then see a gap in the numbers, and
-- know that they missed a change.
local number = redis.pcall('INCR', KEYS[1])
if type(number) ~= 'number' or number == 1 then
    local time = redis.call('TIME')
    number = time[1] * 1000000 + time[2]
    redis.call('SET', KEYS[1], string.format('%.0f', number))
end
redis.pcall('PUBLISH', ARGV[1], ARGV[2] .. string.format('%.0f', number) .. ARGV[3])
return number
