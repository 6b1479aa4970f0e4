-- As session_set, unless a tier has set the field meanwhile: a value that was loaded gives way to one that was set.
-- Returns 0 then. ARGV: field, window, value.
local window = tonumber(redis.call('HGET', KEYS[1], ARGV[1]) or '')
if window and window >= 0 and text_of(KEYS[2]) then return 0 end
put(KEYS[1], KEYS[2], ARGV[1], ARGV[2], ARGV[3])
return 1
