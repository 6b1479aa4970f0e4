-- What the scripts share that must know whether indexes are complete. Their keys come in this order: the flag that they
-- are, the claims of those who are about to write it, the trace of other software. `name` is the cache's.

-- Not among the keys: who may not read it is refused nothing else.
local registry = '__betterdb:caches'

-- Returns whose marker the registry has under a name: 'nobody', 'tiercache', or 'another' where it cannot be told.
local function whose(name)
    local marker = redis.pcall('HGET', registry, name)
    if not marker then return 'nobody' end
    if type(marker) ~= 'string' then return 'another' end
    local is_json, described = pcall(cjson.decode, marker)
    if is_json and type(described) == 'table' and described.engine == 'tiercache' then return 'tiercache' end
    return 'another'
end

-- Returns whether nobody but tiercache is known to write under the name.
local function is_alone(trace, name)
    return redis.call('EXISTS', trace) == 0 and whose(name) ~= 'another'
end

local function is_complete(flag, trace, name)
    return redis.call('EXISTS', flag) == 1 and is_alone(trace, name)
end
