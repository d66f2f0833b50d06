-- The streams with the largest p99, over the view `ops`.
--
-- Parameter: $most  number of rows at most
-- Columns: stream VARCHAR rank/worker (- where unknown); ops BIGINT; moved_bytes BIGINT (null if no op says); p50_ns, p99_ns, max_ns
--          BIGINT (null if none ended); failed BIGINT; of_streams BIGINT
SELECT op_key('worker', any_value(uri), any_value(op), any_value(error), rank, worker) AS stream, count(*) AS ops,
       sum(bytes)::BIGINT AS moved_bytes, quantile_disc(latency, 0.5) AS p50_ns, quantile_disc(latency, 0.99) AS p99_ns,
       max(latency) AS max_ns, count(error) AS failed, count(*) OVER () AS of_streams
FROM ops
WHERE op <> 'hint'
GROUP BY rank, worker
ORDER BY p99_ns DESC NULLS LAST, rank, worker
LIMIT $most::BIGINT
