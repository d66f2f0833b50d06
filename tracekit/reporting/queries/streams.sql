-- The streams with the largest p99, over the view `ops`.
--
-- Parameter: $most  number of rows at most
-- Columns: stream VARCHAR rank/worker, ops BIGINT, bytes BIGINT moved (null if no op says), p99_ns BIGINT
SELECT rank::VARCHAR || '/' || worker::VARCHAR AS stream, count(*) AS ops, sum(bytes)::BIGINT AS bytes,
       quantile_disc(latency, 0.99) AS p99_ns
FROM ops
WHERE op <> 'hint'
GROUP BY rank, worker
ORDER BY p99_ns DESC NULLS LAST, rank, worker
LIMIT $most::BIGINT
