-- How long the tail of the reads and writes is.
--
-- Columns: ops BIGINT that ended; p50_ns, p99_ns BIGINT; times DOUBLE p99 over p50; tail_share DOUBLE of all latency in the slowest 1 %
SELECT count(*) AS ops, any_value(p50) AS p50_ns, any_value(p99) AS p99_ns, any_value(p99) / nullif(any_value(p50), 0) AS times,
       sum(latency) FILTER (latency >= p99) / nullif(sum(latency), 0) AS tail_share
FROM ops, (
    SELECT quantile_disc(latency, 0.5) AS p50, quantile_disc(latency, 0.99) AS p99 FROM ops WHERE is_data(op) AND latency IS NOT NULL
)
WHERE is_data(op) AND latency IS NOT NULL
