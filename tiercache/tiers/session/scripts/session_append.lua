-- Appends an item to a list. Returns the number of items in the list, or nil if the field holds something else.
-- ARGV: the field, the tier's window, the call's window or '', the item as JSON.
--
-- There are two ways:
-- 1. The note of the field describes its list: the item overwrites the last bracket. The cost does not depend on the
--    length of the list.
-- 2. Otherwise the script reads and writes the whole list, and writes a note if the list is long.
--
-- The note has the size of the list in bytes, its number of items, and the digest of its two ends. Every other change
-- by tiercache removes the note. A list that another client replaces by one of the same size and with the same ends is
-- taken for the noted one: then the returned number may be wrong, and the items are right.
local ends_bytes = 256
local longest_note = 3600000
local hash, key, field, item = KEYS[1], KEYS[2], ARGV[1], ARGV[4]
local note_key = note_of(hash, field)

-- Returns the note of a list.
local function note_for(size, count, head, tail)
    return string.format('%.0f %.0f %s', size, count, redis.sha1hex(head .. tail))
end

-- Writes the note of the list in the field, which does not outlive the field.
local function write_note(size, count, head, tail)
    if size < 4 * ends_bytes then return end
    local life = redis.call('PTTL', key)
    if life <= 0 or life > longest_note then life = longest_note end
    -- A refusal must not fail an append that is done. An older note does not describe the list.
    redis.pcall('SET', note_key, note_for(size, count, head, tail), 'PX', life)
end

-- Returns the size, the number of items and the two ends of the list, or nil if the note does not describe the field.
local function noted()
    local note = redis.pcall('GET', note_key)
    if type(note) ~= 'string' then return nil end
    local size, count = string.match(note, '^(%d+) (%d+) ')
    if not size then return nil end
    local start = string.format('%.0f', size - ends_bytes)
    local head = redis.pcall('GETRANGE', key, 0, ends_bytes - 1)
    -- One byte more than the noted list has: a longer list has it.
    local tail = redis.pcall('GETRANGE', key, start, size)
    -- No string: the field holds another type, or the user has no right to GETRANGE.
    if type(head) ~= 'string' or type(tail) ~= 'string' then return nil end
    size, count = tonumber(size), tonumber(count)
    if note ~= note_for(size, count, head, tail) then return nil end
    return size, count, head, tail
end

local tier = tonumber(ARGV[2])
local size, count, head, tail = noted()
if size then
    local added = ',' .. item .. ']'
    local longer = redis.pcall('SETRANGE', key, size - 1, added)
    -- For a user without the right to SETRANGE the second way is left.
    if type(longer) == 'number' then
        settle(hash, key, field, true, ARGV[3], tier)
        write_note(longer, count + 1, head, string.sub(string.sub(tail, 1, -2) .. added, -ends_bytes))
        return count + 1
    end
end
local old = text_of(key)
local list = '[' .. item .. ']'
count = 1
if old then
    local inside = string.match(old, '^%s*%[(.*)%]%s*$')
    local is_json, items = pcall(cjson.decode, old)
    if not inside or not is_json then return false end
    count = #items + 1
    -- The item is added as text: cjson does not write empty lists and large numbers as it has read them.
    if count > 1 then list = '[' .. inside .. ',' .. item .. ']' end
end
redis.call('SET', key, list, 'KEEPTTL')
settle(hash, key, field, old, ARGV[3], tier)
write_note(#list, count, string.sub(list, 1, ends_bytes), string.sub(list, -ends_bytes))
return count
