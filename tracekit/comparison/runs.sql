-- Totals of one run for a comparison: one row over the view `ops` and the macros of the metrics.
--
-- Every op counts but page-cache hints. Needs the macro `percentile(values, share)`.
-- Columns:
--   ops, failed_ops  BIGINT
--   unfinished_ops   BIGINT  null if ops lack a latency, and the source does not say which of them ended
--   bytes            BIGINT  bytes moved; null if no op that moves data says how much
--   files            BIGINT  distinct URIs, without those of listings
--   duration_ns      BIGINT  first submit to the last end or submit
--   submit_span_ns   BIGINT  first submit to last submit
--   steps            BIGINT  distinct (rank, step)
--   bytes_per_step   DOUBLE
--   retried_ops, wait_sum_ns  BIGINT  ops that were sent more than once, and ns spent on their earlier tries; null if unknown
--   latency_p50_ns, latency_p99_ns, response_p50_ns, response_p99_ns, lateness_p50_ns, lateness_p99_ns, lateness_max_ns  DOUBLE
SELECT
    ops,
    failed_ops,
    CASE WHEN ended_ops = ops OR (ended_ops > 0 AND NOT ends_unknown()) THEN ops - ended_ops END AS unfinished_ops,
    CASE WHEN unknown_bytes_ops = 0 THEN coalesce(bytes, 0) ELSE bytes END AS bytes,
    (SELECT count(*) FROM file_ids()) AS files,
    coalesce(greatest(last_end_ns, last_submit_ns) - first_submit_ns, 0) AS duration_ns,
    coalesce(last_submit_ns - first_submit_ns, 0) AS submit_span_ns,
    (SELECT count(*) FROM step_ids()) AS steps,
    step_bytes / nullif((SELECT count(*) FROM step_ids()), 0) AS bytes_per_step,
    retried_ops,
    wait_sum_ns,
    quantiles.*
FROM totals(), (
    SELECT
        percentile(latency, 0.5)::DOUBLE AS latency_p50_ns,
        percentile(latency, 0.99)::DOUBLE AS latency_p99_ns,
        percentile(response_ns(latency, wait_ns), 0.5)::DOUBLE AS response_p50_ns,
        percentile(response_ns(latency, wait_ns), 0.99)::DOUBLE AS response_p99_ns,
        percentile(t_submit - t_due, 0.5)::DOUBLE AS lateness_p50_ns,
        percentile(t_submit - t_due, 0.99)::DOUBLE AS lateness_p99_ns,
        max(t_submit - t_due)::DOUBLE AS lateness_max_ns
    FROM ops
    WHERE op <> 'hint'
) AS quantiles
