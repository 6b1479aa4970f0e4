-- Returns the names of indexes that may be trimmed now. For two minutes no other process gets the same names.
-- KEYS: the register of indexes (register_list.lua). ARGV: the most names to return.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local names = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[1])
for _, name in ipairs(names) do redis.call('ZADD', KEYS[1], 'XX', now + 120000, name) end
return names
