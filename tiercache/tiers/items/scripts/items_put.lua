-- Stores or removes an item. KEYS: the index, the ends, the hash.
-- ARGV: the namespace, the field, the number of the operation in its batch, the window (0: no end), the JSON (none: the
-- item is removed).
local key, field = KEYS[3], ARGV[2]
local state = space(key)
local order, last = item(redis.call('HGET', key, field))
if not ARGV[5] and redis.call('HDEL', key, field) == 0 then return 0 end
if last == 0 then state.endless = state.endless - 1 end
if ARGV[5] then
    if not order or is_over(last) then order = now_us + ARGV[3] end
    if redis.call('EXISTS', key) == 0 then state.order = order end
    local window = tonumber(ARGV[4])
    local own_last = window > 0 and now + window or 0
    local head = {text(order), text(own_last), ARGV[4], text(now_us), ARGV[5]}
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
return 1
