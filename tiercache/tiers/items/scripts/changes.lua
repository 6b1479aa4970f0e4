-- The functions of the item scripts that change items; they follow items.lua.
local function space(key)
    local order, endless, last = string.match(redis.call('HGET', key, '') or '', '^(%d+) (%d+) (%d+)$')
    return {order = tonumber(order) or now_us, endless = tonumber(endless) or 0, last = tonumber(last) or 0}
end

-- Finds the last end of a namespace again, after an item that had it was changed.
local function find_last(key, state)
    state.last = 0
    for _, value in ipairs(redis.call('HVALS', key)) do
        local _, last = item(value)
        if last and last > state.last then state.last = last end
    end
end

local function expire(key, last)
    -- PEXPIRE takes no time in the past. Such a key has no item left that a reader would return.
    redis.call('PEXPIRE', key, text(math.max(1, last - now)))
end

-- Writes the state of a namespace, and lets its keys end with their last item.
-- keys: the index, the ends, the hash. name: the namespace.
local function settle(keys, name, state)
    local index, ends, key = keys[1], keys[2], keys[3]
    redis.call('HSET', key, '', text(state.order) .. ' ' .. text(state.endless) .. ' ' .. text(state.last))
    if redis.call('HLEN', key) == 1 then
        redis.call('DEL', key)
        redis.call('ZREM', index, name)
        redis.call('ZREM', ends, name)
    else
        redis.call('ZADD', index, 0, name)
        if state.endless > 0 then
            redis.call('PERSIST', key)
            redis.call('ZREM', ends, name)
        else
            expire(key, state.last)
            redis.call('ZADD', ends, text(state.last), name)
        end
    end
    if redis.call('ZCARD', index) > redis.call('ZCARD', ends) then
        redis.call('PERSIST', index)
        redis.call('PERSIST', ends)
    else
        local last = redis.call('ZRANGE', ends, 0, 0, 'REV', 'WITHSCORES')[2]
        if last then
            expire(index, tonumber(last))
            expire(ends, tonumber(last))
        end
    end
end
