-- Which single requests took longest?
--
-- at_ns BIGINT submit, since the first of the trace, op VARCHAR, uri VARCHAR, start_bytes BIGINT offset, len_bytes BIGINT asked for,
-- latency_ns BIGINT, rank INTEGER, worker INTEGER, step BIGINT, error VARCHAR class (null = success)
-- No rows: no op has a latency.
SELECT t_submit - t0 AS at_ns, op, uri, "offset" AS start_bytes, len AS len_bytes, latency AS latency_ns, rank, worker, step, error
FROM ops, run_extent()
WHERE latency IS NOT NULL AND op <> 'hint'
ORDER BY latency DESC, t_submit, uri
LIMIT 20
