-- Renews the life of a field, and returns its remaining life in ms. ARGV: the field, the tier's window.
return slide(KEYS[1], KEYS[2], ARGV[1], tonumber(ARGV[2]), false)
