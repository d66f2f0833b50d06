-- The distribution of latency, over the macro `latency_hist`.
--
-- A point is the upper edge of a bucket, which is at most 1.6 % wide: exactly that share of ops took less. Of points that
-- lie close together the first is kept: 200 steps up to 99 %, 20 to each further factor of ten.
-- Parameter: $by  grouping (see op_key)
-- Columns: key VARCHAR
--          fraction DOUBLE  share of the ops of this key that took less than `us`
--          us       DOUBLE  latency
--          ops      BIGINT  of this key
SELECT key, fraction, us, ops
FROM (
    SELECT key, sum(counts) OVER (PARTITION BY key ORDER BY lo) / sum(counts) OVER (PARTITION BY key) AS fraction, hi / 1e3 AS us,
           (sum(counts) OVER (PARTITION BY key))::BIGINT AS ops
    FROM latency_hist($by)
    UNION ALL
    SELECT key, 0.0, min(lo) / 1e3, sum(counts)::BIGINT FROM latency_hist($by) GROUP BY key
)
QUALIFY row_number() OVER (
    PARTITION BY key, CASE WHEN fraction < 0.99 THEN floor(200 * fraction) ELSE 200 - floor(20 * log10(greatest(1 - fraction, 1e-12))) END
    ORDER BY fraction, us
) = 1
ORDER BY key, fraction, us
