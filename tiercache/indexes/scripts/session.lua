-- Functions that the session scripts share.
--
-- KEYS[1] is always the thread's hash. It maps each field to its window in ms: 0 for no end, -1 for a field of another
-- writer that has been read. KEYS[2] and the following are the keys of fields' values. `tier` is the tier's window in
-- ms, 0 for no end. A script is one step for the server: no client sees the hash without the value that the hash is
-- written for.

-- The longest window in ms: 100 years.
local longest_window = 100 * 365 * 86400000

-- Returns the window in a value of the hash, or nil if there is none. A value that no process writes, such as inf or a
-- fraction, counts as -1: the field of another writer.
local function window_in(value)
    local window = tonumber(value or '')
    if not window then return nil end
    if window ~= window or window > longest_window or window % 1 ~= 0 then return -1 end
    return window
end

-- Gives a hash without expiry the longest window of its fields, if no field without end is left.
local function fit(hash)
    if redis.call('PTTL', hash) ~= -1 then return end
    local longest = 0
    for _, window in ipairs(redis.call('HVALS', hash)) do
        window = window_in(window)
        if not window or window <= 0 then return end
        longest = math.max(longest, window)
    end
    redis.call('PEXPIRE', hash, longest)
end

-- Makes the hash live for at least `life` ms, or forever if `life` is not above 0.
local function cover(hash, life)
    if life <= 0 then
        redis.call('PERSIST', hash)
        return
    end
    local left = redis.call('PTTL', hash)
    if left ~= -1 and left < life then redis.call('PEXPIRE', hash, life) end
end

-- Writes the window of a field, which lives for `life` ms from now, into the hash.
local function register(hash, field, window, life)
    local is_new = redis.call('EXISTS', hash) == 0
    local before = window_in(redis.call('HGET', hash, field))
    redis.call('HSET', hash, field, window)
    if is_new and life > 0 then
        redis.call('PEXPIRE', hash, life)
    else
        cover(hash, life)
        if before and before <= 0 then fit(hash) end
    end
end

-- Returns the reply of a pcall, and raises any error except WRONGTYPE: a key of another type holds no text, but a
-- refusal, as of a user without the permission, tells nothing about the key.
local function unless_refused(reply)
    if type(reply) == 'table' and reply.err and not string.find(reply.err, 'WRONGTYPE', 1, true) then error(reply) end
    return reply
end

-- Returns the key of the note that session_append keeps of a field with a long list.
local function note_of(hash, field)
    return (string.gsub(hash, ':__tc:thread:', ':__tc:list:', 1)) .. ':' .. field
end

-- Removes the note of a field whose value changes. A refusal must not fail the change.
local function forget_note(hash, field)
    redis.pcall('DEL', note_of(hash, field))
end

-- Reads a key behind a write. With the write, the server has forgotten that this client has read the key, and would not
-- report the next change of it (CLIENT TRACKING by interest).
local function track(key) redis.call('PTTL', key) end

-- Renews the life of a field. Returns the remaining life in ms, -1 for no end, -2 if the field is missing. With
-- `lazily` the field is renewed only after a quarter of its window has passed. `is_text`: whether the key is known to
-- hold a string.
local function slide(hash, key, field, tier, lazily, is_text)
    local left = redis.call('PTTL', key)
    if left == -2 then return -2 end
    local window = window_in(redis.call('HGET', hash, field))
    if not window or window < 0 then
        -- A field of another writer. A server without free memory refuses to note it; the field can still be read.
        if not window then pcall(register, hash, field, -1, left) end
        if tier == 0 or left == -1 or left >= tier then return left end
        window = tier
    elseif window == 0 then
        if left ~= -1 then
            redis.call('PERSIST', key)
            track(key)
        end
        cover(hash, 0)
        return -1
    end
    if lazily and left <= window and left > window * 0.75 then return left end
    if is_text then
        redis.call('PEXPIRE', key, window)
    else
        -- GETEX fails on a key that is not a string, and leaves it unchanged. It returns the whole string.
        unless_refused(redis.pcall('GETEX', key, 'PX', window))
    end
    track(key)
    cover(hash, window)
    return window
end

-- Writes a value that lives for `window` ms, forever if `window` is 0.
local function put(hash, key, field, window, value)
    register(hash, field, window, tonumber(window))
    if tonumber(window) > 0 then
        redis.call('SET', key, value, 'PX', window)
    else
        redis.call('SET', key, value)
    end
    track(key)
end

-- Returns the string under a key, or nil if the key is missing or holds another type.
local function text_of(key)
    local value = unless_refused(redis.pcall('GET', key))
    return type(value) == 'string' and value or nil
end

-- Gives a value that has just replaced `old` its life. There are two cases:
-- 1. The field existed and `given` is '': the field keeps its window, and its life is renewed.
-- 2. Otherwise the window is `given`, or the tier's window if `given` is ''.
local function settle(hash, key, field, old, given, tier)
    if old and given == '' then
        slide(hash, key, field, tier, false, true)
        return
    end
    local window = given ~= '' and tonumber(given) or tier
    register(hash, field, window, window)
    if window > 0 then
        redis.call('PEXPIRE', key, window)
    else
        redis.call('PERSIST', key)
    end
end
