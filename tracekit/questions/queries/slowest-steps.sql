-- Which steps took longest to load, and which request was the slowest of each?
--
-- step BIGINT, rank INTEGER, wall_ns BIGINT first submit to last end, ops BIGINT, moved_bytes BIGINT, slowest_ns BIGINT latency of
-- the slowest op, slowest_uri VARCHAR
-- No rows: the ops have no steps, or no latencies.
SELECT step, rank, round(wall_ms * 1e6)::BIGINT AS wall_ns, ops, bytes AS moved_bytes,
       round(slowest_us * 1e3)::BIGINT AS slowest_ns, slowest_uri
FROM per_step()
WHERE wall_ms IS NOT NULL
ORDER BY wall_ms DESC, step, rank
LIMIT 20
