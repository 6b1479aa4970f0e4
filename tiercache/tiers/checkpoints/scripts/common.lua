-- The functions that the scripts of checkpoints share. codec.py has the form of records and blobs.

-- Returns the run of a record, and the fields of its blobs.
local function parse(member, record)
  local stem = 'b\0' .. string.match(member, '^[^%z]*') .. '\0'
  local size = struct.unpack('>H', record, 10)
  local run = string.sub(record, 12, 11 + size)
  local at = 12 + size
  local count = struct.unpack('>H', record, at)
  at = at + 2
  local fields = {}
  for i = 1, count do
    size = struct.unpack('>H', record, at + 1)
    fields[i] = stem .. string.sub(record, at + 3, at + 2 + size)
    at = at + 3 + size
  end
  return run, fields
end

-- Calls take(field, blob) with a blob, and with every blob that it is made from, except those in seen.
local function follow(content, field, seen, take)
  while field and not seen[field] do
    local blob = redis.call('HGET', content, field)
    if not blob then return end
    seen[field] = true
    take(field, blob)
    if string.sub(blob, 1, 1) ~= 'd' then return end
    local size = string.byte(blob, 3)
    field = string.match(field, '^b%z[^%z]*%z[^%z]*%z') .. string.sub(blob, 4, 3 + size)
  end
end

-- Returns the members of an index. Those of checkpoints that are not stored lose their first byte; the second table
-- has them.
local function members_of(index)
  local members, absent = redis.call('ZRANGE', index, 0, -1), {}
  for i, member in ipairs(members) do
    if string.byte(member) == 255 then
      members[i] = string.sub(member, 2)
      absent[members[i]] = true
    end
  end
  return members, absent
end

local function text_of(number)
  return string.format('%.0f', number)
end

-- Lets every key of a thread live for ttl milliseconds (0: without end). Returns the thread's runs if their lists must
-- be renewed too, else ''.
--
-- The keys of pending writes are many. They get a quarter more, so that they need a renewal at most once in a quarter
-- of ttl.
local function renew(index, content, prefix, ttl)
  local function each(command, ...)
    for _, member in ipairs((members_of(index))) do redis.call(command, prefix .. member, ...) end
  end
  if ttl == 0 then
    if redis.call('HDEL', content, 't') == 0 then return '' end
    redis.call('PERSIST', index)
    redis.call('PERSIST', content)
    each('PERSIST')
    return redis.call('HGET', content, 'r') or ''
  end
  local time = redis.call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  local lives_until = tonumber(redis.call('HGET', content, 't') or '0')
  local runs = ''
  if lives_until < now + ttl then
    local longer = ttl + math.ceil(ttl / 4)
    each('PEXPIRE', text_of(longer))
    redis.call('HSET', content, 't', text_of(now + longer))
    runs = redis.call('HGET', content, 'r') or ''
  end
  redis.call('PEXPIRE', index, text_of(ttl))
  redis.call('PEXPIRE', content, text_of(ttl))
  return runs
end
