-- Takes from an index those of some members whose keys are gone and that were written more than a minute ago: a younger
-- one's key may be on its way. ARGV: the members.
local time = redis.call('TIME')
local before = time[1] * 1000 - 60000
for _, member in ipairs(ARGV) do
    local score = redis.call('ZSCORE', KEYS[1], member)
    if score and tonumber(score) < before and redis.call('EXISTS', member) == 0 then
        redis.call('ZREM', KEYS[1], member)
    end
end
return 1
