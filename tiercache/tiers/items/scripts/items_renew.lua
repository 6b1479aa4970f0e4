-- Restarts the windows of items. KEYS: the index, the ends, the hash. ARGV: the namespace, the fields.
local key, count = KEYS[3], 0
local state = space(key)
for i = 2, #ARGV do
    local value = redis.call('HGET', key, ARGV[i])
    local order, last, window = item(value)
    if order and not is_over(last) and window > 0 then
        last = now + window
        redis.call('HSET', key, ARGV[i], text(order) .. ' ' .. text(last) .. string.match(value, '^%d+ %d+( .*)$'))
        state.last = math.max(state.last, last)
        count = count + 1
    end
end
if count > 0 then settle(KEYS, ARGV[1], state) end
return count
