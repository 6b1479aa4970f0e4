-- Returns the namespace, the field and the value of items, one after another.
-- KEYS: the index. ARGV: the range of namespaces, the prefix of the hashes, the number to skip, the largest number (-1:
-- all).
local found = {}
for _, name in ipairs(redis.call('ZRANGE', KEYS[1], ARGV[1], ARGV[2], 'BYLEX')) do
    local all = redis.call('HGETALL', ARGV[3] .. name)
    local place
    for i = 1, #all, 2 do
        if all[i] == '' then place = tonumber(string.match(all[i + 1], '^%d+')) end
    end
    for i = 1, #all, 2 do
        local order, last = item(all[i + 1])
        if order and string.sub(all[i], 1, 1) == 'k' and not is_over(last) then
            found[#found + 1] = {place or 0, name, order, all[i], all[i + 1]}
        end
    end
end
table.sort(found, function(a, b)
    for i = 1, 3 do
        if a[i] ~= b[i] then return a[i] < b[i] end
    end
    return a[4] < b[4]
end)
local skip, count = tonumber(ARGV[4]), tonumber(ARGV[5])
local reply = {}
for i = skip + 1, count < 0 and #found or math.min(#found, skip + count) do
    local size = #reply
    reply[size + 1], reply[size + 2], reply[size + 3] = found[i][2], found[i][4], found[i][5]
end
return reply
