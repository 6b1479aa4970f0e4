-- The functions of all scripts of conversations. KEYS: the zset of all conversations. ARGV: the prefix of all keys, ...
--
-- An optional text is written as '+' and the text, or as '-' for none.
-- The hash of a record has the fields revision, tips (a JSON list of the ids of entries), scope, data.
-- The hash of an entry has the fields parent, data, and uses: the number of entries after it and of tips at it.
local prefix = ARGV[1]

local function record_key(id) return prefix .. 'r:' .. id end
local function entry_key(id) return prefix .. 'e:' .. id end

local function parent_of(id)
    local parent = redis.call('HGET', entry_key(id), 'parent')
    if parent and string.sub(parent, 1, 1) == '+' then return string.sub(parent, 2) end
end

local function tips_of(key)
    local tips = redis.call('HGET', key, 'tips')
    return tips and cjson.decode(tips) or {}
end

local function use(id)
    if redis.call('EXISTS', entry_key(id)) == 1 then redis.call('HINCRBY', entry_key(id), 'uses', 1) end
end

-- Ends a use of an entry, and removes the entries that nothing uses any more.
local function release(id)
    while id and redis.call('EXISTS', entry_key(id)) == 1 and redis.call('HINCRBY', entry_key(id), 'uses', -1) <= 0 do
        local parent = parent_of(id)
        redis.call('DEL', entry_key(id))
        id = parent
    end
end

-- Lets a conversation live for a window from now; its entries at least as long. window: milliseconds, 0 for no end.
local function keep(key, tips, window)
    if window > 0 then redis.call('PEXPIRE', key, window) else redis.call('PERSIST', key) end
    local seen = {}
    for _, id in ipairs(tips) do
        while id and not seen[id] do
            seen[id] = true
            if window > 0 then
                redis.call('PEXPIRE', entry_key(id), window, 'GT')
            else
                redis.call('PERSIST', entry_key(id))
            end
            id = parent_of(id)
        end
    end
end

-- Adds a conversation to a list, which lives as long as its conversations.
local function list(key, id, score, window)
    local is_new = redis.call('EXISTS', key) == 0
    redis.call('ZADD', key, score, id)
    if window == 0 then
        redis.call('PERSIST', key)
    elseif is_new then
        redis.call('PEXPIRE', key, window)
    else
        redis.call('PEXPIRE', key, window, 'GT')
    end
end

local function scope_list(scope) return prefix .. 's:' .. string.sub(scope, 2) end
local function is_scope(scope) return scope and string.sub(scope, 1, 1) == '+' end
