-- Returns how many items the list has now, nil if the field holds something else. ARGV: field, the tier's window, the
-- call's window or '', the item as JSON.
local old = text_of(KEYS[2])
local list = '[' .. ARGV[4] .. ']'
local count = 1
if old then
    local inside = string.match(old, '^%s*%[(.*)%]%s*$')
    local is_json, items = pcall(cjson.decode, old)
    if not inside or not is_json then return false end
    count = #items + 1
    -- Spliced as text: what cjson writes is not what it has read (empty lists, large numbers).
    if count > 1 then list = '[' .. inside .. ',' .. ARGV[4] .. ']' end
end
redis.call('SET', KEYS[2], list, 'KEEPTTL')
settle(KEYS[1], KEYS[2], ARGV[1], old, ARGV[3], tonumber(ARGV[2]))
return count
