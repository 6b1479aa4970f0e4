-- Stores, appends to or removes an item. KEYS: the index, the ends, the hash.
-- ARGV: the namespace, the field, the number of the operation in its batch, the window (0: no end), the condition, the
-- JSON (none: the item is removed).
-- The condition: empty: none; `-`: there is no item; `+`: the JSON is a list, and its elements are appended to the list
-- of the item; otherwise the SHA-1 of the JSON that the item must have.
-- Returns 1, or 0 if there was no item to remove or the condition does not hold.
local key, field, condition, data = KEYS[3], ARGV[2], ARGV[5], ARGV[6]
local state = space(key)
local value = redis.call('HGET', key, field)
local order, last = item(value)
local is_there = order ~= nil and not is_over(last)
if condition ~= '' then
    local json = is_there and string.match(value, '^%d+ %d+ %d+ %d+ (.*)$')
    if condition == '-' then
        if json then return 0 end
    elseif condition ~= '+' then
        if not json or redis.sha1hex(json) ~= condition then return 0 end
    elseif json then
        if not string.match(json, '^%[.*%]$') then return 0 end
        if data == '[]' then
            data = json
        elseif json ~= '[]' then
            data = string.sub(json, 1, -2) .. ',' .. string.sub(data, 2)
        end
    end
end
if not data and redis.call('HDEL', key, field) == 0 then return 0 end
if last == 0 then state.endless = state.endless - 1 end
if data then
    if not order or is_over(last) then order = now_us + ARGV[3] end
    if redis.call('EXISTS', key) == 0 then state.order = order end
    local window = tonumber(ARGV[4])
    local own_last = window > 0 and now + window or 0
    local head = {text(order), text(own_last), ARGV[4], text(now_us), data}
    redis.call('HSET', key, field, table.concat(head, ' '))
    if own_last == 0 then state.endless = state.endless + 1 end
    state.last = math.max(state.last, own_last)
    if window > 0 then
        -- Items that have ended, and that no caller removes, stay few beside the others.
        for _, other in ipairs(redis.call('HRANDFIELD', key, 5)) do
            local _, its_last = item(redis.call('HGET', key, other))
            if its_last and is_over(its_last) then redis.call('HDEL', key, other) end
        end
    end
end
if last and last > 0 and last == state.last then find_last(key, state) end
settle(KEYS, ARGV[1], state)
-- The namespaces whose hash has ended.
for _, name in ipairs(redis.call('ZRANGE', KEYS[2], '-inf', text(now), 'BYSCORE', 'LIMIT', 0, 10)) do
    redis.call('ZREM', KEYS[1], name)
    redis.call('ZREM', KEYS[2], name)
end
return (data or is_there) and 1 or 0
