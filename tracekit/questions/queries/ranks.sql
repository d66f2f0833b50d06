-- Do the ranks read as much as each other, and as fast?
--
-- rank INTEGER, workers BIGINT, ops BIGINT, moved_bytes BIGINT (null if unknown), bytes_share DOUBLE of all bytes, first_at_ns BIGINT
-- first submit, since that of the trace, last_at_ns BIGINT last submit, p99_ns BIGINT latency, total_ns BIGINT latency of all ops
SELECT rank, count(DISTINCT worker) AS workers, count(*) AS ops, sum(bytes)::BIGINT AS moved_bytes,
       sum(bytes) / nullif(sum(sum(bytes)) OVER (), 0) AS bytes_share, min(t_submit) - any_value(t0) AS first_at_ns,
       max(t_submit) - any_value(t0) AS last_at_ns, quantile_disc(latency, 0.99) AS p99_ns, sum(latency)::BIGINT AS total_ns
FROM ops, run_extent()
WHERE op <> 'hint'
GROUP BY rank
ORDER BY total_ns DESC NULLS LAST, rank
LIMIT 20
