#!lua flags=allow-oom
-- Numbers a change and publishes it; returns the number. KEYS: the counter; ARGV: the channel, the message before the
-- number, the message after it. A counter that is not there, or is no counter, begins at the clock's microseconds: a
-- number that has been seen before would hide a change. Who may not publish numbers it all the same, and the others see
-- that they have not heard of it.
local number = redis.pcall('INCR', KEYS[1])
if type(number) ~= 'number' or number == 1 then
    local time = redis.call('TIME')
    number = time[1] * 1000000 + time[2]
    redis.call('SET', KEYS[1], string.format('%.0f', number))
end
redis.pcall('PUBLISH', ARGV[1], ARGV[2] .. string.format('%.0f', number) .. ARGV[3])
return number
