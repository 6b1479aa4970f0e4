-- Returns 1 if the indexes are complete, 0 if not. ARGV: the name.
return is_complete(KEYS[1], KEYS[3], ARGV[1]) and 1 or 0
