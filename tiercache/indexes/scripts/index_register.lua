-- Writes the marker of a tiercache process into the registry, and returns the owner of the marker that was there.
-- ARGV: the cache's name, the marker, how long the trace stays in ms.
--
-- If the old marker is another software's, that software may still be writing, and rewrites its own marker later. Then
-- no index is complete, and a look at the keys that began before cannot make one complete: the claims are removed.
local before = whose(ARGV[1])
if before == 'another' then
    redis.call('DEL', KEYS[1], KEYS[2])
    redis.call('SET', KEYS[3], 1, 'PX', ARGV[3])
end
redis.call('HSET', registry, ARGV[1], ARGV[2])
return before
