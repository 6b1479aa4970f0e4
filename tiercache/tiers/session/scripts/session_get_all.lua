-- Returns field, value, field, value, ... of the fields that exist, and removes the others from the hash.
-- ARGV: the tier's window, the fields in the order of their keys.
local found = {}
local is_shorter = false
for i = 2, #KEYS do
    local field = ARGV[i]
    local value = unless_refused(redis.pcall('GET', KEYS[i]))
    if type(value) == 'string' then
        slide(KEYS[1], KEYS[i], field, tonumber(ARGV[1]), true)
        found[#found + 1] = field
        found[#found + 1] = value
    elseif not value then
        redis.call('HDEL', KEYS[1], field)
        is_shorter = true
    end
end
if is_shorter then fit(KEYS[1]) end
return found
