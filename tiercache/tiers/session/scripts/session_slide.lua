-- Returns what the field has left in ms. ARGV: field, the tier's window.
return slide(KEYS[1], KEYS[2], ARGV[1], tonumber(ARGV[2]), false)
