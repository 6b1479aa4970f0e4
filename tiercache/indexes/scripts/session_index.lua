-- Notes fields of another writer in the thread's hash, as if each had been read, without renewing them. Returns how
-- many fields the hash did not have before. ARGV: the fields, in the order of their keys.
local count = 0
for i = 2, #KEYS do
    local left = redis.call('PTTL', KEYS[i])
    if left ~= -2 and redis.call('HEXISTS', KEYS[1], ARGV[i - 1]) == 0 then
        register(KEYS[1], ARGV[i - 1], -1, left)
        count = count + 1
    end
end
return count
