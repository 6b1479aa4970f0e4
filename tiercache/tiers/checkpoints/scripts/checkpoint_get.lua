-- Reads a checkpoint. Returns {} if there is none; else {id, record, fields and blobs, fields and values of the pending
-- writes}. Instead of a record that the caller has, it returns '', and no blobs.
-- KEYS: index, content. ARGV: prefix of the keys of writes, ns, id or '' for the latest, id and digest of the record
-- that the caller has.
local index, content, ns, id = KEYS[1], KEYS[2], ARGV[2], ARGV[3]
if id == '' then
  local latest = redis.call('ZRANGE', index, '(' .. ns .. '\1', '[' .. ns .. '\0', 'BYLEX', 'REV', 'LIMIT', 0, 1)[1]
  if not latest then return {} end
  id = string.sub(latest, #ns + 2)
elseif not redis.call('ZSCORE', index, ns .. '\0' .. id) then
  return {}
end
local member = ns .. '\0' .. id
local writes = redis.call('HGETALL', ARGV[1] .. member)
local record = redis.call('HGET', content, 'c\0' .. member) or ''
if record ~= '' and id == ARGV[4] and string.sub(record, 1, 8) == ARGV[5] then return {id, '', {}, writes} end
local blobs, seen = {}, {}
local function take(field, blob)
  blobs[#blobs + 1] = field
  blobs[#blobs + 1] = blob
end
-- The caller recognizes a record that cannot be parsed by its digest.
local is_parsed, _, fields = pcall(parse, member, record)
if is_parsed then
  for _, field in ipairs(fields) do follow(content, field, seen, take) end
end
return {id, '=' .. record, blobs, writes}
