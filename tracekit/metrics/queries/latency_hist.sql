-- Ops by their latency, log-linear: 64 buckets to a power of two, over the view `ops`.
--
-- A bucket is at most 1.6 % of its lower edge wide (exact below 128 ns). Only ops that ended,
-- and no hints.
-- Columns:
--   lo      BIGINT  ns, inclusive
--   hi      BIGINT  ns, exclusive
--   counts  BIGINT  ops
WITH exponents AS (
    SELECT latency, floor(log2(greatest(latency, 1)))::INTEGER AS near
    FROM ops
    WHERE latency IS NOT NULL AND op <> 'hint'
),
shifts AS (
    -- log2 of a number just below a power of two may round up to it.
    SELECT latency, greatest(near - (CASE WHEN (1::BIGINT << near) > greatest(latency, 1) THEN 1 ELSE 0 END) - 6, 0) AS shift
    FROM exponents
)
SELECT
    (latency >> shift) << shift AS lo,
    ((latency >> shift) + 1) << shift AS hi,
    count(*) AS counts
FROM shifts
GROUP BY lo, hi
ORDER BY lo
