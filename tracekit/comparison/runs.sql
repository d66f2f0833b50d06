-- Totals of one run for a comparison: one row over the view `ops`.
--
-- Every op counts but page-cache hints. Needs the macro `percentile(values, share)`.
-- Columns:
--   ops, failed_ops  BIGINT
--   bytes            BIGINT  bytes moved
--   files            BIGINT  distinct URIs
--   duration_ns      BIGINT  first submit to last end
--   submit_span_ns   BIGINT  first submit to last submit
--   steps            BIGINT  distinct (rank, step)
--   bytes_per_step   DOUBLE
--   latency_p50_ns, latency_p99_ns, lateness_p50_ns, lateness_p99_ns, lateness_max_ns  DOUBLE
SELECT
    count(*) AS ops,
    count(*) FILTER (error IS NOT NULL) AS failed_ops,
    coalesce(sum(bytes), 0)::BIGINT AS bytes,
    count(DISTINCT uri) AS files,
    coalesce(max(t_submit + coalesce(latency, 0)) - min(t_submit), 0) AS duration_ns,
    coalesce(max(t_submit) - min(t_submit), 0) AS submit_span_ns,
    count(DISTINCT (rank, step)) FILTER (step IS NOT NULL) AS steps,
    sum(bytes) FILTER (step IS NOT NULL) / nullif(count(DISTINCT (rank, step)) FILTER (step IS NOT NULL), 0)
        AS bytes_per_step,
    percentile(latency, 0.5)::DOUBLE AS latency_p50_ns,
    percentile(latency, 0.99)::DOUBLE AS latency_p99_ns,
    percentile(t_submit - t_due, 0.5)::DOUBLE AS lateness_p50_ns,
    percentile(t_submit - t_due, 0.99)::DOUBLE AS lateness_p99_ns,
    max(t_submit - t_due)::DOUBLE AS lateness_max_ns
FROM ops
WHERE op <> 'hint'
