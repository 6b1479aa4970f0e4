-- Runs a session script, `run`, for the fields of a thread that its hash knows, if it is to be relied on. Returns {0} if
-- it is not, else {1, the script's reply, fields that are too many for one script and were left}, {1} where there is no
-- field. KEYS: the hash, and those of index.lua; ARGV: the cache's name, the most fields, what their keys begin with,
-- the script's own.
if not is_complete(KEYS[2], KEYS[4], ARGV[1]) then return {0} end
local keys, args, left = {KEYS[1]}, {unpack(ARGV, 4)}, {}
for i, field in ipairs(redis.call('HKEYS', KEYS[1])) do
    if i > tonumber(ARGV[2]) then
        left[#left + 1] = field
    else
        keys[#keys + 1] = ARGV[3] .. field
        args[#args + 1] = field
    end
end
if #keys == 1 then return {1} end
return {1, run(keys, args), left}
