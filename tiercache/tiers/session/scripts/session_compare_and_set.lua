-- Returns 1 if the field held what was expected, and 0 if not. ARGV: field, the tier's window, the call's window or '',
-- '1' if a value is expected and '' if none, the value expected, the new one.
local old = text_of(KEYS[2])
if ARGV[4] == '' then
    if old then return 0 end
elseif old ~= ARGV[5] then
    return 0
end
redis.call('SET', KEYS[2], ARGV[6], 'KEEPTTL')
settle(KEYS[1], KEYS[2], ARGV[1], old, ARGV[3], tonumber(ARGV[2]))
return 1
