-- Returns the number of the last change, as text.
-- KEYS: the counter of changes.
--
-- If the counter is missing, or holds something that is not a number, this script starts it as announce.lua does, so
-- that a subscriber knows which number comes next. Returns '0' if the server has no memory for the counter.
local number = redis.pcall('GET', KEYS[1])
if type(number) ~= 'string' or #number > 18 or not string.match(number, '^%d+$') then
    local time = redis.call('TIME')
    number = string.format('%.0f', time[1] * 1000000 + time[2])
    local outcome = redis.pcall('SET', KEYS[1], number)
    if outcome.err then return '0' end
end
return number
