-- Returns how many of the keys hold a placeholder. ARGV: what placeholders begin with.
local count = 0
for _, key in ipairs(KEYS) do
    if redis.pcall('GETRANGE', key, 0, #ARGV[1] - 1) == ARGV[1] then count = count + 1 end
end
return count
