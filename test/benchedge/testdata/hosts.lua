-- Asks for every route of the big table in turn: HOSTS of them, host0.test and so on.
dofile("testdata/report.lua")

local requests, at = {}, math.random(0, 999)

function init(args)
  for i = 0, tonumber(args[1]) - 1 do
    requests[#requests + 1] = wrk.format("GET", "/1k", {["Host"] = "host" .. i .. ".test"})
  end
end

function request()
  at = at % #requests + 1
  return requests[at]
end
