-- Takes from an index members whose keys are gone and that were written more than a minute ago: a younger one's key may
-- be on its way. Looks at random ones, and goes on while a quarter of them is gone; returns 1 if that was so to the end,
-- 2 if a younger one's key was not there, which may have to go later.
local time = redis.call('TIME')
local before = time[1] * 1000 - 60000
for _ = 1, 10 do
    local members = redis.call('ZRANDMEMBER', KEYS[1], 100, 'WITHSCORES')
    local gone = 0
    local young = 0
    for i = 1, #members, 2 do
        if redis.call('EXISTS', members[i]) == 0 then
            if tonumber(members[i + 1]) < before then
                redis.call('ZREM', KEYS[1], members[i])
                gone = gone + 1
            else
                young = young + 1
            end
        end
    end
    if gone == 0 or gone * 8 < #members then return young > 0 and 2 or 0 end
end
return 1
