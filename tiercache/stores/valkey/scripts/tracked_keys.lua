-- Replies how many keys the server tracks for all clients, or nil if the server does not tell. INFO has a hundred lines.
return tonumber(string.match(redis.call('INFO', 'stats'), 'tracking_total_keys:(%d+)'))
