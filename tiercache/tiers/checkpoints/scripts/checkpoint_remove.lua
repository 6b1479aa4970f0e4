-- Removes checkpoints of a thread, and the blobs that no other checkpoint needs. Returns {number of removed
-- checkpoints, runs that have no checkpoint in the thread any more, 1 if no checkpoint is left}.
-- KEYS: index, content. ARGV: prefix of the keys of writes, the run whose checkpoints go or '', members that go.
local index, content, run = KEYS[1], KEYS[2], ARGV[2]
local goes = {}
for i = 3, #ARGV do goes[ARGV[i]] = true end
local needed, runs_left, parsed, lost = {}, {}, {}, {}
local members, absent = members_of(index)
-- In this order: a record that cannot be parsed ends the script, and nothing must be removed by then.
for _, member in ipairs(members) do
  if not absent[member] then
    if goes[member] then
      lost[#lost + 1] = member
    else
      local of_run, fields = parse(member, redis.call('HGET', content, 'c\0' .. member))
      if run ~= '' and of_run == run then
        lost[#lost + 1] = member
      else
        parsed[#parsed + 1] = fields
        runs_left[of_run] = true
      end
    end
  end
end
for _, fields in ipairs(parsed) do
  for _, field in ipairs(fields) do follow(content, field, needed, function() end) end
end
for _, member in ipairs(lost) do
  redis.call('ZREM', index, member)
  redis.call('HDEL', content, 'c\0' .. member)
  redis.call('DEL', ARGV[1] .. member)
end
for _, field in ipairs(redis.call('HKEYS', content)) do
  if string.sub(field, 1, 2) == 'b\0' and not needed[field] then redis.call('HDEL', content, field) end
end
local kept, gone = {}, {}
for each in string.gmatch(redis.call('HGET', content, 'r') or '', '([^%z]+)%z') do
  local list = runs_left[each] and kept or gone
  list[#list + 1] = each .. '\0'
end
if #gone > 0 then redis.call('HSET', content, 'r', table.concat(kept)) end
if #parsed == 0 then
  for member in pairs(absent) do redis.call('DEL', ARGV[1] .. member) end
  redis.call('DEL', index, content)
end
return {#lost, table.concat(gone), #parsed == 0 and 1 or 0}
