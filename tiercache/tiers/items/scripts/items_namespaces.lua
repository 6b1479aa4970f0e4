-- Returns the namespaces of a range, and the namespaces all of whose items have ended. KEYS: the index, the ends.
-- ARGV: the range.
return {
    redis.call('ZRANGE', KEYS[1], ARGV[1], ARGV[2], 'BYLEX'),
    redis.call('ZRANGE', KEYS[2], '-inf', text(now), 'BYSCORE')
}
