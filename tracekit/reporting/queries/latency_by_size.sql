-- Latency by op kind and size, over the view `ops` and the macros. The size is what was asked for, else what was moved.
--
-- Parameter: $most  number of op kinds at most, those with most ops
-- Columns: op VARCHAR; lo BIGINT bytes inclusive, hi BIGINT bytes exclusive (null without a size); ops BIGINT that ended;
--          p50_ns, p99_ns, max_ns BIGINT
SELECT op, size_lo(coalesce(len, bytes)) AS lo, size_hi(coalesce(len, bytes)) AS hi, count(*) AS ops,
       quantile_disc(latency, 0.5) AS p50_ns, quantile_disc(latency, 0.99) AS p99_ns, max(latency) AS max_ns
FROM ops
WHERE op IN (SELECT op FROM ops WHERE op <> 'hint' GROUP BY op ORDER BY count(*) DESC, op LIMIT $most::BIGINT) AND latency IS NOT NULL
GROUP BY op, lo, hi
ORDER BY op, lo NULLS FIRST
