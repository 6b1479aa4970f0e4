-- Appends an item to a list. Returns the number of items in the list, or nil if the field holds something else.
-- ARGV: the field, the tier's window, the call's window or '', the item as JSON.
local old = text_of(KEYS[2])
local list = '[' .. ARGV[4] .. ']'
local count = 1
if old then
    local inside = string.match(old, '^%s*%[(.*)%]%s*$')
    local is_json, items = pcall(cjson.decode, old)
    if not inside or not is_json then return false end
    count = #items + 1
    -- The item is added as text: cjson does not write empty lists and large numbers as it has read them.
    if count > 1 then list = '[' .. inside .. ',' .. ARGV[4] .. ']' end
end
redis.call('SET', KEYS[2], list, 'KEEPTTL')
settle(KEYS[1], KEYS[2], ARGV[1], old, ARGV[3], tonumber(ARGV[2]))
return count
