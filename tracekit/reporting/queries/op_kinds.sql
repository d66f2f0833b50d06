-- What kinds of ops there are, and how long each takes, over the view `ops`.
--
-- Parameter: $most  number of rows at most
-- Columns: op VARCHAR; ops BIGINT; moved_bytes BIGINT (null if no op says); total_ns, p50_ns, p99_ns, max_ns BIGINT latency (null if
--          none ended); failed BIGINT
SELECT op, count(*) AS ops, sum(bytes)::BIGINT AS moved_bytes, sum(latency)::BIGINT AS total_ns, quantile_disc(latency, 0.5) AS p50_ns,
       quantile_disc(latency, 0.99) AS p99_ns, max(latency) AS max_ns, count(error) AS failed
FROM ops
WHERE op <> 'hint'
GROUP BY op
ORDER BY ops DESC, op
LIMIT $most::BIGINT
