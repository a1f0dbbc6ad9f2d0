-- Stores rows unless newer ones are there. Keys: those of the rows. Arguments: the time field, seconds to live or
-- nothing, whether older rows overwrite, the number of fields, the fields; then for each row its time, encoded,
-- and its values. Answers how many were stored.
--
-- Numbers here are doubles: exact for seconds, which is why seconds and nanoseconds are compared apart.
local function time(encoded)
  local seconds, nanos, at = 0, 0, 1
  while at <= #encoded do
    local tag = string.byte(encoded, at)
    at = at + 1
    local value, inverse, scale, count = 0, 0, 1, 0
    repeat
      local byte = string.byte(encoded, at)
      at = at + 1
      value = value + (byte % 128) * scale
      if count < 9 then
        inverse = inverse + (127 - byte % 128) * scale
      end
      scale = scale * 128
      count = count + 1
    until byte < 128
    if count == 10 then
      value = -inverse - 1
    end
    if tag == 8 then
      seconds = value
    else
      nanos = value
    end
  end
  return seconds, nanos
end

local function is_newer(stored, new)
  local seconds, nanos = time(stored)
  local new_seconds, new_nanos = time(new)
  return seconds > new_seconds or (seconds == new_seconds and nanos > new_nanos)
end

local call, keys, argv = redis.call, KEYS, ARGV
local time_field, ttl, overwrites, width = argv[1], argv[2], argv[3] == '1', tonumber(argv[4])
-- Fields and values of one row, in pieces that fit on the stack.
local pieces, sizes = {}, {}
for first = 1, width, 500 do
  local piece, size = {}, math.min(500, width - first + 1)
  for field = 1, size do
    piece[2 * field - 1] = argv[3 + first + field]
    piece[2 * field] = ''
  end
  pieces[#pieces + 1], sizes[#sizes + 1] = piece, size
end

local at, stored_rows = 4 + width, 0
for row = 1, #keys do
  local key, new = keys[row], argv[at + 1]
  local stored = not overwrites and call('HGET', key, time_field)
  if not stored or stored == new or not is_newer(stored, new) then
    for number = 1, #pieces do
      local piece, first = pieces[number], at + 1 + (number - 1) * 500
      for field = 1, sizes[number] do
        piece[2 * field] = argv[first + field]
      end
      if number == #pieces then
        piece[2 * sizes[number] + 1], piece[2 * sizes[number] + 2] = time_field, new
      end
      call('HSET', key, unpack(piece))
    end
    if #pieces == 0 then
      call('HSET', key, time_field, new)
    end
    if ttl ~= '' then
      call('EXPIRE', key, ttl)
    end
    stored_rows = stored_rows + 1
  end
  at = at + 1 + width
end
return stored_rows
