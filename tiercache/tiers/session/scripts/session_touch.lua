-- Renews every field that exists, removes the others from the hash, and returns how many exist.
-- ARGV: the tier's window, the fields in the order of their keys.
local count = 0
local is_shorter = false
for i = 2, #KEYS do
    if slide(KEYS[1], KEYS[i], ARGV[i], tonumber(ARGV[1]), false) == -2 then
        redis.call('HDEL', KEYS[1], ARGV[i])
        is_shorter = true
    else
        count = count + 1
    end
end
if is_shorter then fit(KEYS[1]) end
return count
