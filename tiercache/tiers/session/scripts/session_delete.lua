-- Deletes fields, and the notes of their lists. Returns how many fields existed. ARGV: the fields, in the order of
-- their keys.
local count = redis.call('DEL', unpack(KEYS, 2))
local notes = {}
for i, field in ipairs(ARGV) do notes[i] = note_of(KEYS[1], field) end
redis.call('DEL', unpack(notes))
redis.call('HDEL', KEYS[1], unpack(ARGV))
fit(KEYS[1])
return count
