-- Returns the threads of a list that have not ended. KEYS: list.
local time = redis.call('TIME')
return redis.call('ZRANGEBYSCORE', KEYS[1], string.format("%.0f", time[1] * 1000 + math.floor(time[2] / 1000)), "inf")
