-- Returns the data of records, the latest save first. ARGV: the prefix, the list, the largest number (-1: all).
local zset, count = ARGV[2], tonumber(ARGV[3])
local reply = {}
for _, id in ipairs(redis.call('ZRANGE', zset, 0, -1, 'REV')) do
    if #reply == count then break end
    local data = redis.call('HGET', record_key(id), 'data')
    if data then reply[#reply + 1] = data else redis.call('ZREM', zset, id) end
end
return reply
