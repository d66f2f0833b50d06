-- How is the work spread over the workers?
--
-- rank INTEGER, worker INTEGER, ops BIGINT, ops_share DOUBLE of all ops, moved_bytes BIGINT (null if unknown), failed_ops BIGINT, p50_ns
-- BIGINT, p99_ns BIGINT, max_ns BIGINT latency (null if none ended)
SELECT rank, worker, count(*) AS ops, count(*) / sum(count(*)) OVER () AS ops_share, sum(bytes)::BIGINT AS moved_bytes,
       count(*) FILTER (error IS NOT NULL) AS failed_ops, quantile_disc(latency, 0.5) AS p50_ns,
       quantile_disc(latency, 0.99) AS p99_ns, max(latency) AS max_ns
FROM ops
WHERE op <> 'hint'
GROUP BY rank, worker
ORDER BY p99_ns DESC NULLS LAST, rank, worker
LIMIT 20
