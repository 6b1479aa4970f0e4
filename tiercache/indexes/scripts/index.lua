-- Functions for scripts that must know whether the indexes of a cache are complete. Such scripts receive these keys, in
-- this order: the flag `complete`, the set of claims (processes about to set the flag), the trace of other software.
-- `name` is the cache's name.

-- Not among the KEYS: a user without permission to read the registry is refused nothing else.
local registry = '__betterdb:caches'

-- Returns the owner of the marker that the registry has under a name: 'tiercache', or 'another' (also if the marker
-- cannot be read), or a third word if there is no marker.
local function whose(name)
    local marker = redis.pcall('HGET', registry, name)
    if not marker then return 'nobody' end
    if type(marker) ~= 'string' then return 'another' end
    local is_json, described = pcall(cjson.decode, marker)
    if is_json and type(described) == 'table' and described.engine == 'tiercache' then return 'tiercache' end
    return 'another'
end

-- Returns whether tiercache is the only software known to write under the name.
local function is_alone(trace, name)
    return redis.call('EXISTS', trace) == 0 and whose(name) ~= 'another'
end

local function is_complete(flag, trace, name)
    return redis.call('EXISTS', flag) == 1 and is_alone(trace, name)
end
