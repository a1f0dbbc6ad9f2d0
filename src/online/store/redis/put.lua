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

local key = KEYS[1]
if ARGV[6] == '0' then
  local stored = redis.call('HGET', key, ARGV[1])
  if stored then
    local seconds, nanos = time(stored)
    local new = tonumber(ARGV[2])
    if new < seconds or (new == seconds and tonumber(ARGV[3]) < nanos) then
      return 0
    end
  end
end
for first = 7, #ARGV, 1000 do
  redis.call('HSET', key, unpack(ARGV, first, math.min(first + 999, #ARGV)))
end
redis.call('HSET', key, ARGV[1], ARGV[4])
if ARGV[5] ~= '' then
  redis.call('EXPIRE', key, ARGV[5])
end
return 1
