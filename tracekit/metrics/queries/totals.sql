-- The trace as a whole: one row over the view `ops`. Hints move no data and are left out.
--
-- Columns:
--   ops              BIGINT  ops
--   failed_ops       BIGINT  of them, with an error
--   unfinished_ops   BIGINT  of them, that never ended (latency is null)
--   bytes            BIGINT  bytes moved
--   requested_bytes  BIGINT  bytes asked for, where an op says
--   first_submit_ns  BIGINT  ns since the trace's epoch; null for an empty trace
--   last_submit_ns   BIGINT  ns since the trace's epoch
--   last_end_ns      BIGINT  ns since the trace's epoch: the latest submit + latency
--   step_bytes       BIGINT  bytes moved by ops that serve a step
--   latency_sum_ns   BIGINT  over ops that ended
--   latency_max_ns   BIGINT
--   latency_min_ns   BIGINT
SELECT
    count(*) AS ops,
    count(*) FILTER (error IS NOT NULL) AS failed_ops,
    count(*) FILTER (latency IS NULL) AS unfinished_ops,
    coalesce(sum(bytes), 0)::BIGINT AS bytes,
    coalesce(sum(len), 0)::BIGINT AS requested_bytes,
    min(t_submit) AS first_submit_ns,
    max(t_submit) AS last_submit_ns,
    max(t_submit + coalesce(latency, 0)) AS last_end_ns,
    coalesce(sum(bytes) FILTER (step IS NOT NULL), 0)::BIGINT AS step_bytes,
    coalesce(sum(latency), 0)::BIGINT AS latency_sum_ns,
    max(latency) AS latency_max_ns,
    min(latency) AS latency_min_ns
FROM ops
WHERE op <> 'hint'
