-- Whether a cap held requests back: how long the most ops that were ever in flight were in flight.
--
-- Columns: max_qd BIGINT; mean_qd DOUBLE over the time with an op in flight; at_max_share DOUBLE of that time at max_qd; near_share
--          DOUBLE of that time with more than 90 % of the largest bytes in flight; peak_bytes BIGINT
WITH levels AS (SELECT qd, inflight_bytes AS b, lead(t) OVER (ORDER BY t) - t AS ns FROM in_flight()),
peaks AS (SELECT max(qd) AS max_qd, max(b) AS peak_bytes FROM levels)
SELECT any_value(max_qd) AS max_qd, sum(qd * ns::DOUBLE) / nullif(sum(ns), 0) AS mean_qd,
       sum(ns) FILTER (qd = max_qd) / nullif(sum(ns), 0) AS at_max_share,
       sum(ns) FILTER (b > 0.9 * peak_bytes) / nullif(sum(ns), 0) AS near_share, any_value(peak_bytes) AS peak_bytes
FROM levels, peaks
WHERE qd > 0 AND ns IS NOT NULL
