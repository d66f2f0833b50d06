-- The distribution of latency, over the macro `latency_hist`.
--
-- A point is the upper edge of a bucket, which is at most 1.6 % wide: exactly that share of ops took less.
-- Columns: fraction DOUBLE  share of ops that took less than `us`
--          us       DOUBLE  latency
SELECT fraction, us
FROM (
    SELECT sum(counts) OVER (ORDER BY lo) / sum(counts) OVER () AS fraction, hi / 1e3 AS us FROM latency_hist('all')
    UNION ALL
    SELECT 0.0, min(lo) / 1e3 FROM latency_hist('all') HAVING count(*) > 0
)
ORDER BY fraction, us
