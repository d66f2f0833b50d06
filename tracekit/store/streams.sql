-- The streams of a trace, by rank and worker.
--
-- rank INTEGER, worker INTEGER, ops BIGINT, first_ns BIGINT the first submit, ns since the trace's epoch
SELECT rank, worker, count(*) AS ops, min(t_submit) AS first_ns
FROM ops
GROUP BY rank, worker
ORDER BY rank, worker
