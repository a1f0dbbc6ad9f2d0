local key = KEYS[1]
if redis.call('HEXISTS', key, ARGV[1]) == 0 then
  return 0
end
local rows = 0
for _, field in ipairs(redis.call('HKEYS', key)) do
  if #field > 4 and string.sub(field, 1, 4) == '_ts:' then
    rows = rows + 1
  end
end
if rows == 1 then
  redis.call('DEL', key)
else
  for first = 1, #ARGV, 1000 do
    redis.call('HDEL', key, unpack(ARGV, first, math.min(first + 999, #ARGV)))
  end
end
return 1
