-- Adds to an integer. Returns the sum, or nil if the field holds no integer or the sum does not fit into 64 bits.
-- ARGV: the field, the tier's window, the call's window or '', the increment.
local old = text_of(KEYS[2])
if not old and redis.call('EXISTS', KEYS[2]) == 1 then redis.call('DEL', KEYS[2]) end
local sum = redis.pcall('INCRBY', KEYS[2], ARGV[4])
if type(sum) == 'table' then
    if string.find(sum.err, 'integer') or string.find(sum.err, 'overflow') then return false end
    return sum
end
settle(KEYS[1], KEYS[2], ARGV[1], old, ARGV[3], tonumber(ARGV[2]))
-- The sum is returned as text: a Lua number has only 53 bits.
return redis.call('GET', KEYS[2])
