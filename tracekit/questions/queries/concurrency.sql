-- How many requests were in flight, and for how much of the run?
--
-- ops_in_flight BIGINT, time_ns BIGINT with that many in flight, run_share DOUBLE of the run, mean_bytes DOUBLE bytes in flight then
-- No rows: no op has a latency.
WITH levels AS (
    SELECT qd, inflight_bytes, lead(t) OVER (ORDER BY t) - t AS lasted FROM in_flight()
)
SELECT qd AS ops_in_flight, sum(lasted)::BIGINT AS time_ns, sum(lasted) / sum(sum(lasted)) OVER () AS run_share,
       sum(inflight_bytes * lasted::DOUBLE) / sum(lasted) AS mean_bytes
FROM levels
WHERE qd IS NOT NULL AND lasted IS NOT NULL
GROUP BY qd
ORDER BY time_ns DESC, ops_in_flight
LIMIT 20
