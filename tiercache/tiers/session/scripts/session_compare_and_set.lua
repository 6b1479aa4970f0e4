-- Sets a field if it holds the expected value. Returns 1 if it was set, otherwise 0.
-- ARGV: the field, the tier's window, the call's window or '', '1' if a value is expected or '' if the field must be
-- missing, the expected value, the new value.
local old = text_of(KEYS[2])
if ARGV[4] == '' then
    if old then return 0 end
elseif old ~= ARGV[5] then
    return 0
end
redis.call('SET', KEYS[2], ARGV[6], 'KEEPTTL')
forget_note(KEYS[1], ARGV[1])
settle(KEYS[1], KEYS[2], ARGV[1], old, ARGV[3], tonumber(ARGV[2]))
return 1
