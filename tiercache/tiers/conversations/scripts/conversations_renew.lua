-- Lets a conversation and its entries live for a window from now. ARGV: the prefix, the id, the window.
local id, window = ARGV[2], tonumber(ARGV[3])
local key = record_key(id)
if redis.call('EXISTS', key) == 0 then return 0 end
keep(key, tips_of(key), window)
local scope = redis.call('HGET', key, 'scope')
redis.call('PEXPIRE', KEYS[1], window, 'GT')
if is_scope(scope) then redis.call('PEXPIRE', scope_list(scope), window, 'GT') end
return 1
