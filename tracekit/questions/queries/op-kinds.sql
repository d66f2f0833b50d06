-- What kinds of requests are there, and how long does each take?
--
-- op VARCHAR, ops BIGINT, failed_ops BIGINT, moved_bytes BIGINT (null if unknown), p50_ns BIGINT, p99_ns BIGINT, max_ns BIGINT latency,
-- total_ns BIGINT latency of all (these four are null if none has one)
SELECT op, count(*) AS ops, count(*) FILTER (error IS NOT NULL) AS failed_ops, sum(bytes)::BIGINT AS moved_bytes,
       quantile_disc(latency, 0.5) AS p50_ns, quantile_disc(latency, 0.99) AS p99_ns, max(latency) AS max_ns,
       sum(latency)::BIGINT AS total_ns
FROM ops
GROUP BY op
ORDER BY ops DESC, op
LIMIT 20
