-- Writes the window of a field, whose value is about to be set, into the hash. ARGV: the field, its window.
register(KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[2]))
return 1
