-- What parity compares, of one trace: one row over the view `ops`.
--
-- Only ops that move objects' bytes count: those of $kinds. With $planned they count as a replay is
-- to have them: bytes asked for where the recording failed or does not say, and no failures.
-- Needs the macro `percentile(values, share)`.
-- Columns:
--   ops                 BIGINT  ops
--   failed_ops          BIGINT  of them, with an error
--   bytes               BIGINT  bytes moved
--   duration_ns         BIGINT  first submit to last end
--   submit_span_ns      BIGINT  first submit to last submit
--   steps               BIGINT  distinct steps of all ranks; 0 where the trace has none
--   bytes_per_step      DOUBLE  bytes moved for steps, over steps
--   latency_p50_ns, latency_p99_ns   DOUBLE
--   lateness_p50_ns, lateness_p99_ns, lateness_max_ns  DOUBLE  t_submit - t_due; null in recordings
--   req_bytes           MAP(INTEGER, BIGINT)  requests by the power of two that their length reaches
--   window_bytes        MAP(BIGINT, BIGINT)  bytes by the window of $window_ns, from the first submit on, of their submit
WITH part AS (
    SELECT * REPLACE (
        CASE
            WHEN $planned::BOOLEAN THEN coalesce(CASE WHEN error IS NULL THEN bytes END, len, 0)
            ELSE bytes
        END AS bytes,
        CASE WHEN NOT $planned::BOOLEAN THEN error END AS error
    )
    FROM ops
    WHERE list_contains($kinds, op)
),
sizes AS (
    SELECT
        CASE WHEN coalesce(len, bytes, 0) <= 0 THEN -1 ELSE floor(log2(coalesce(len, bytes)))::INTEGER END AS bucket,
        count(*) AS n
    FROM part
    GROUP BY bucket
),
windows AS (
    SELECT (t_submit - (SELECT min(t_submit) FROM part)) // $window_ns::BIGINT AS slot, sum(bytes)::BIGINT AS moved
    FROM part
    GROUP BY slot
)
SELECT
    count(*) AS ops,
    count(*) FILTER (error IS NOT NULL) AS failed_ops,
    coalesce(sum(bytes), 0)::BIGINT AS bytes,
    coalesce(max(t_submit + coalesce(latency, 0)) - min(t_submit), 0) AS duration_ns,
    coalesce(max(t_submit) - min(t_submit), 0) AS submit_span_ns,
    count(DISTINCT (rank, step)) FILTER (step IS NOT NULL) AS steps,
    sum(bytes) FILTER (step IS NOT NULL) / nullif(count(DISTINCT (rank, step)) FILTER (step IS NOT NULL), 0)
        AS bytes_per_step,
    percentile(latency, 0.5) AS latency_p50_ns,
    percentile(latency, 0.99) AS latency_p99_ns,
    percentile(t_submit - t_due, 0.5) AS lateness_p50_ns,
    percentile(t_submit - t_due, 0.99) AS lateness_p99_ns,
    max(t_submit - t_due) AS lateness_max_ns,
    (SELECT map_from_entries(list((bucket, n))) FROM sizes) AS req_bytes,
    (SELECT map_from_entries(list((slot, moved))) FROM windows WHERE moved > 0) AS window_bytes
FROM part
