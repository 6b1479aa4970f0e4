-- Sets a field to a value that was loaded. Works as session_set, but returns 0 and changes nothing if a tier has set
-- the field while the value was being loaded: a value that was set wins over a value that was loaded.
-- ARGV: the field, its window, the value.
local window = window_in(redis.call('HGET', KEYS[1], ARGV[1]))
if window and window >= 0 and text_of(KEYS[2]) then return 0 end
put(KEYS[1], KEYS[2], ARGV[1], ARGV[2], ARGV[3])
forget_note(KEYS[1], ARGV[1])
return 1
