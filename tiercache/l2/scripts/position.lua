-- Returns the number of the last change as text. A counter that is not there is begun, as in the announcements' script,
-- so that whoever subscribes knows which number comes next.
local number = redis.pcall('GET', KEYS[1])
if type(number) ~= 'string' or not string.match(number, '^%d+$') then
    local time = redis.call('TIME')
    number = string.format('%.0f', time[1] * 1000000 + time[2])
    redis.call('SET', KEYS[1], number)
end
return number
