-- What each rank did, those with most time in ops first, over the view `ops`.
--
-- Parameter: $most  number of rows at most
-- Columns: rank INTEGER; workers BIGINT; ops BIGINT; moved_bytes BIGINT (null if no op says); total_ns BIGINT latency of all;
--          mean_ns DOUBLE; p99_ns BIGINT (null if none ended); failed BIGINT; of_ranks BIGINT
SELECT rank, count(DISTINCT worker) AS workers, count(*) AS ops, sum(bytes)::BIGINT AS moved_bytes, sum(latency)::BIGINT AS total_ns,
       avg(latency) AS mean_ns, quantile_disc(latency, 0.99) AS p99_ns, count(error) AS failed, count(*) OVER () AS of_ranks
FROM ops
WHERE op <> 'hint'
GROUP BY rank
ORDER BY total_ns DESC NULLS LAST, rank
LIMIT $most::BIGINT
