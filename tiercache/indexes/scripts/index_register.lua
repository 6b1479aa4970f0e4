-- Writes the marker of a tiercache process, and returns whose was there. Where it is another's, which may be writing
-- still and comes back to rewrite its own, no index is complete, nor becomes so by what was begun before. ARGV: the
-- name, the marker, how long the trace stays in ms.
local before = whose(ARGV[1])
if before == 'another' then
    redis.call('DEL', KEYS[1], KEYS[2])
    redis.call('SET', KEYS[3], 1, 'PX', ARGV[3])
end
redis.call('HSET', registry, ARGV[1], ARGV[2])
return before
