-- Returns 1 if the indexes are complete, otherwise 0. ARGV: the cache's name.
return is_complete(KEYS[1], KEYS[3], ARGV[1]) and 1 or 0
