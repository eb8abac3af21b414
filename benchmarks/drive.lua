-- Tells wrk what to send, and writes its result as one line of JSON. Arguments:
--   read|create|list  the scenario
--   <rows>            items in the table, with the ids from 1 on

local PREPARED = 5000 -- requests built in advance, as building one costs more than sending it
local LAST_PAGE = 50

local build = {
  read = function(rows)
    return wrk.format("GET", "/items/" .. math.random(rows))
  end,
  list = function()
    return wrk.format("GET", "/items?page=" .. math.random(LAST_PAGE) .. "&per_page=20")
  end,
  create = function()
    local headers = { ["Content-Type"] = "application/json" }
    local body = string.format(
      '{"name":"Bench item %d","description":"Made by the benchmark","price":%.2f,"is_active":true}',
      math.random(1000000), math.random(100000) / 100)
    return wrk.format("POST", "/items", headers, body)
  end,
}

local threads = 0

function setup(thread)
  threads = threads + 1
  thread:set("seed", threads)
end

local prepared = {}

function init(args)
  math.randomseed(seed) -- otherwise every thread draws the same numbers
  for n = 1, PREPARED do
    prepared[n] = build[args[1]](tonumber(args[2]))
  end
end

function request()
  return prepared[math.random(PREPARED)]
end

function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    '{"requests":%d,"seconds":%.6f,"p50":%.3f,"p95":%.3f,"p99":%.3f,"refused":%d,"broken":%d}\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3,
    latency:percentile(95) / 1e3, latency:percentile(99) / 1e3, errors.status,
    errors.connect + errors.read + errors.write + errors.timeout))
end
