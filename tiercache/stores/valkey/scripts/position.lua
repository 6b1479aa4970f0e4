-- Returns the number of the last change as text. A counter that is not there is begun, as in the announcements' script,
-- so that whoever subscribes knows which number comes next; '0' where there is no memory for it.
local number = redis.pcall('GET', KEYS[1])
if type(number) ~= 'string' or not string.match(number, '^%d+$') then
    local time = redis.call('TIME')
    number = string.format('%.0f', time[1] * 1000000 + time[2])
    local outcome = redis.pcall('SET', KEYS[1], number)
    if outcome.err then return '0' end
end
return number
