-- Returns the sum, nil if the field holds no integer or the sum would be none of 64 bits. ARGV: field, the tier's
-- window, the call's window or '', the increment.
local old = text_of(KEYS[2])
if not old and redis.call('EXISTS', KEYS[2]) == 1 then redis.call('DEL', KEYS[2]) end
local sum = redis.pcall('INCRBY', KEYS[2], ARGV[4])
if type(sum) == 'table' then
    if string.find(sum.err, 'integer') or string.find(sum.err, 'overflow') then return false end
    return sum
end
settle(KEYS[1], KEYS[2], ARGV[1], old, ARGV[3], tonumber(ARGV[2]))
-- As text: a number of Lua's has 53 bits.
return redis.call('GET', KEYS[2])
