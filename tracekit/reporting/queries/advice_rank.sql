-- Whether one rank is slow: the mean latency of its ops against the median of the ranks.
--
-- Parameter: $by  rank or worker
-- Columns: key VARCHAR slowest; mean_ns DOUBLE of its ops; median_ns DOUBLE of the means of all; times DOUBLE mean over median;
--          keys BIGINT that have at least 20 ops
SELECT arg_max(key, mean_ns) AS key, max(mean_ns) AS mean_ns, median(mean_ns) AS median_ns,
       max(mean_ns) / nullif(median(mean_ns), 0) AS times, count(*) AS keys
FROM (
    SELECT op_key($by, uri, op, error, rank, worker) AS key, avg(latency) AS mean_ns
    FROM ops
    WHERE is_data(op) AND latency IS NOT NULL
    GROUP BY key
    HAVING count(*) >= 20
)
