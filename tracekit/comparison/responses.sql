-- What the clients of one run waited between tries: one row over the view `ops` and the macros of the metrics.
--
-- Needs the macro `percentile(values, share)`.
-- Columns:
--   retried_ops, wait_sum_ns  BIGINT  ops that were sent more than once, and ns spent on their earlier tries; null if unknown
--   response_p50_ns, response_p99_ns  DOUBLE  from the first try of an op to its last byte
SELECT
    CASE WHEN count(tries) > 0 THEN count(*) FILTER (tries > 1) END AS retried_ops,
    sum(wait_ns)::BIGINT AS wait_sum_ns,
    percentile(response_ns(latency, wait_ns), 0.5)::DOUBLE AS response_p50_ns,
    percentile(response_ns(latency, wait_ns), 0.99)::DOUBLE AS response_p99_ns
FROM ops
WHERE op <> 'hint'
