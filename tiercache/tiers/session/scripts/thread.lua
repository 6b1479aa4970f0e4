-- Runs a session script, `run`, for all fields of a thread that the thread's hash lists.
-- KEYS: the hash, then the keys of index.lua. ARGV: the cache's name, the largest number of fields for one script, the
-- prefix of the fields' keys, then the arguments of the session script.
--
-- Returns one of three replies:
--   {0}: the indexes are not complete, so the hash may lack fields. Nothing was done.
--   {1}: the thread has no field.
--   {1, the session script's reply, the fields that were left because they are too many for one script}.
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
