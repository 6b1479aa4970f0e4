-- Removes members from an index: each of ARGV whose key is gone and whose score is more than a minute old. The write of
-- a younger member's key may still be on its way. Returns 1.
-- KEYS: the index, a sorted set scored by milliseconds. ARGV: the members, which are keys.
local time = redis.call('TIME')
local before = time[1] * 1000 - 60000
for _, member in ipairs(ARGV) do
    local score = redis.call('ZSCORE', KEYS[1], member)
    if score and tonumber(score) < before and redis.call('EXISTS', member) == 0 then
        redis.call('ZREM', KEYS[1], member)
    end
end
return 1
