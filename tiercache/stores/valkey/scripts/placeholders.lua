-- Returns how many of KEYS hold a placeholder of a lease. ARGV: the prefix of placeholders.
local count = 0
for _, key in ipairs(KEYS) do
    if redis.pcall('GETRANGE', key, 0, #ARGV[1] - 1) == ARGV[1] then count = count + 1 end
end
return count
