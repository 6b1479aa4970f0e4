-- Writes the window of a field, whose value is about to be set, into the hash, and removes the note of the field.
-- ARGV: the field, its window.
register(KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[2]))
forget_note(KEYS[1], ARGV[1])
return 1
