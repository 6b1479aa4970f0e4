-- Returns the keys among KEYS whose entries may have a tag: the tag stands at the beginning of the entry, or the entry has
-- more tags than it lists, or the key holds a placeholder.
-- A refusal, as of a user without the permission to read, is the reply: it tells nothing about a key.
-- ARGV: the tag as an entry has it, the bytes to look at, the prefix of placeholders.
local found = {}
for _, key in ipairs(KEYS) do
    local head = redis.pcall('GETRANGE', key, 0, ARGV[2])
    if type(head) == 'table' and head.err and not string.find(head.err, 'WRONGTYPE', 1, true) then return head end
    if type(head) == 'string' and (
        string.find(head, ARGV[1], 1, true) or string.sub(head, 1, #ARGV[3]) == ARGV[3]
        or string.find(head, '^{"tcTags":null') or string.find(head, '^tc:tags:null') or string.find(head, '^tnull')
    ) then
        found[#found + 1] = key
    end
end
return found
