-- The functions of all item scripts.
--
-- A field of the hash of a namespace is `k` and the key of an item. Its value is
--   {order} {end} {window} {stored} {JSON}
-- order: the microsecond of the first put, end and window: milliseconds (0: no end), stored: the microsecond of the put.
-- The field with the empty name is `{order} {number of items without an end} {last end}`, of the namespace.
local time = redis.call('TIME')
local now_us = time[1] * 1000000 + time[2]
local now = math.floor(now_us / 1000)

local function text(number) return string.format('%.0f', number) end

-- Returns the order, the end and the window of an item; nothing for a field that is absent, or of other software.
local function item(value)
    if not value then return nil end
    local order, last, window = string.match(value, '^(%d+) (%d+) (%d+) %d+ ')
    return tonumber(order), tonumber(last), tonumber(window)
end

local function is_over(last) return last > 0 and last <= now end
