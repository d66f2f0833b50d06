-- What do the slowest 1 % of requests have in common?
--
-- grouped_by VARCHAR op, scheme, rank, worker (rank/worker), prefix or uri, key VARCHAR, tail_ops BIGINT of the slowest 1 %, tail_share
-- DOUBLE of the slowest 1 %, all_share DOUBLE of all ops, lift DOUBLE tail_share over all_share (1 = in proportion),
-- worst_ns BIGINT latency
-- No rows: no op has a latency, or no group has more than its proportion of the slowest.
WITH grouped AS (
    SELECT 'op' AS grouped_by, * FROM tail_by(0.01, 'op')
    UNION ALL SELECT 'scheme', * FROM tail_by(0.01, 'scheme')
    UNION ALL SELECT 'rank', * FROM tail_by(0.01, 'rank')
    UNION ALL SELECT 'worker', * FROM tail_by(0.01, 'worker')
    UNION ALL SELECT 'prefix', * FROM tail_by(0.01, 'prefix')
    UNION ALL SELECT 'uri', * FROM tail_by(0.01, 'uri')
)
SELECT grouped_by, key, tail_ops, tail_share, all_share, lift, round(worst_us * 1e3)::BIGINT AS worst_ns
FROM grouped
WHERE lift > 1
ORDER BY tail_share DESC, lift DESC, grouped_by, key
LIMIT 20
