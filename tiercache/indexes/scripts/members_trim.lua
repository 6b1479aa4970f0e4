-- Removes members from an index whose keys are gone and whose scores are more than a minute old. The write of a younger
-- member's key may still be on its way.
-- KEYS: the index, a sorted set scored by milliseconds.
--
-- Looks at up to 100 random members at a time, at most 10 times, and stops when less than a quarter of them is gone.
-- Returns:
--   0: the script stopped.
--   1: at least a quarter was gone each time: the caller should run the script again soon.
--   2: the index does not exist (any more).
local time = redis.call('TIME')
local before = time[1] * 1000 - 60000
for _ = 1, 10 do
    local members = redis.call('ZRANDMEMBER', KEYS[1], 100, 'WITHSCORES')
    if #members == 0 then return 2 end
    local gone = 0
    for i = 1, #members, 2 do
        if redis.call('EXISTS', members[i]) == 0 then
            if tonumber(members[i + 1]) < before then
                redis.call('ZREM', KEYS[1], members[i])
                gone = gone + 1
            end
        end
    end
    if gone == 0 or gone * 8 < #members then return redis.call('EXISTS', KEYS[1]) == 0 and 2 or 0 end
end
return 1
