-- Returns the id, the parent and the data of entries, from the latest back; nothing if one is missing.
-- ARGV: the prefix, the id of the latest entry, the largest number (-1: all).
local id, count = ARGV[2], tonumber(ARGV[3])
local reply = {}
while id and #reply ~= 3 * count do
    local data = redis.call('HGET', entry_key(id), 'data')
    if not data then return false end
    local parent, size = parent_of(id), #reply
    reply[size + 1], reply[size + 2], reply[size + 3] = id, parent and '+' .. parent or '-', data
    id = parent
end
return reply
