-- Which requests of a replay were submitted latest, compared with their plan?
--
-- at_ns BIGINT due time, since the first submit, late_ns BIGINT submit minus due time, op VARCHAR, uri VARCHAR, rank INTEGER, worker
-- INTEGER, latency_ns BIGINT
-- No rows: the trace is not of a replay.
SELECT t_due - t0 AS at_ns, t_submit - t_due AS late_ns, op, uri, rank, worker, latency AS latency_ns
FROM ops, run_extent()
WHERE t_due IS NOT NULL AND op <> 'hint'
ORDER BY late_ns DESC, at_ns, uri
LIMIT 20
