-- When was the throughput highest?
--
-- at_ns BIGINT begin of a window, since the first submit, window_ns BIGINT its length, moved_bytes BIGINT, bytes_per_s DOUBLE, ops_per_s
-- DOUBLE, p99_ns BIGINT latency of the ops submitted (null if none ended), mean_in_flight DOUBLE ops
-- No rows: the trace has no ops.
SELECT greatest(round(start_s * 1e9), 0)::BIGINT AS at_ns, round(window_s * 1e9)::BIGINT AS window_ns, bytes AS moved_bytes, bytes_per_s, ops_per_s,
       round(p99_us * 1e3)::BIGINT AS p99_ns, mean_qd AS mean_in_flight
FROM over_time(100)
ORDER BY bytes_per_s DESC NULLS LAST, ops_per_s DESC, at_ns
LIMIT 20
