-- Appends an item to a list. Returns the number of items in the list, or nil if the field holds something else.
-- KEYS[3] is the note of a long list: its size in bytes, its number of items, and the digest of its two ends.
-- ARGV: the field, the tier's window, the call's window or '', the item as JSON.
--
-- There are two ways:
-- 1. The note describes the list: the item overwrites the last bracket. The cost does not depend on the list.
-- 2. Otherwise the script reads and writes the whole list, and writes a note if the list is long.
-- A list that another client replaces by one of the same size and with the same ends is taken for the noted one. Then
-- the returned number may be wrong; the items are right.
local ends_bytes = 256
local note_ms = 3600000

-- Writes the note of a list, from its size, its number of items, and its two ends.
local function note(size, count, head, tail)
    if size < 4 * ends_bytes then return end
    local text = string.format('%d %d %s', size, count, redis.sha1hex(head .. tail))
    redis.call('SET', KEYS[3], text, 'PX', note_ms)
end

-- Returns the size, the number of items and the two ends of the noted list, or nil if the field holds another one.
local function noted()
    local size, count, digest = string.match(text_of(KEYS[3]) or '', '^(%d+) (%d+) (%x+)$')
    if not size then return nil end
    -- No string: the field holds another type, or the user has no right to GETRANGE.
    local head = redis.pcall('GETRANGE', KEYS[2], 0, ends_bytes - 1)
    if type(head) ~= 'string' then return nil end
    -- One byte more than the noted list has: a longer list has it.
    local tail = redis.call('GETRANGE', KEYS[2], size - ends_bytes, size)
    if #tail ~= ends_bytes or redis.sha1hex(head .. tail) ~= digest then return nil end
    return tonumber(size), tonumber(count), head, tail
end

local tier = tonumber(ARGV[2])
local size, count, head, tail = noted()
if size then
    local added = ',' .. ARGV[4] .. ']'
    local reply = redis.pcall('SETRANGE', KEYS[2], size - 1, added)
    -- For a user without the right to SETRANGE the second way is left.
    if type(reply) == 'number' then
        note(reply, count + 1, head, string.sub(string.sub(tail, 1, -2) .. added, -ends_bytes))
        settle(KEYS[1], KEYS[2], ARGV[1], true, ARGV[3], tier, true)
        return count + 1
    end
end
local old = text_of(KEYS[2])
local list = '[' .. ARGV[4] .. ']'
count = 1
if old then
    local inside = string.match(old, '^%s*%[(.*)%]%s*$')
    local is_json, items = pcall(cjson.decode, old)
    if not inside or not is_json then return false end
    count = #items + 1
    -- The item is added as text: cjson does not write empty lists and large numbers as it has read them.
    if count > 1 then list = '[' .. inside .. ',' .. ARGV[4] .. ']' end
end
redis.call('SET', KEYS[2], list, 'KEEPTTL')
note(#list, count, string.sub(list, 1, ends_bytes), string.sub(list, -ends_bytes))
settle(KEYS[1], KEYS[2], ARGV[1], old, ARGV[3], tier)
return count
