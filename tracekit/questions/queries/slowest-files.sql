-- Which files or objects were slowest?
--
-- uri VARCHAR, ops BIGINT reads and writes that ended, p50_ns BIGINT, p99_ns BIGINT, max_ns BIGINT latency of these,
-- total_ns BIGINT latency of all of them, total_share DOUBLE of the latency of all reads and writes
-- No rows: no read or write has a latency.
SELECT uri, count(*) AS ops, quantile_disc(latency, 0.5) AS p50_ns, quantile_disc(latency, 0.99) AS p99_ns,
       max(latency) AS max_ns, sum(latency)::BIGINT AS total_ns, sum(latency) / sum(sum(latency)) OVER () AS total_share
FROM ops
WHERE latency IS NOT NULL AND is_data(op)
GROUP BY uri
ORDER BY p99_ns DESC, total_ns DESC, uri
LIMIT 20
