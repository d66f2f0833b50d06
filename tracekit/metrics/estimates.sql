-- What the whole run did, estimated from a sample of its files or its streams, over `ops` and the macros of the library.
--
-- Each file (or stream) is in the sample with probability $rate, independently, with all its ops. The sum over the sample divided by
-- the rate is an unbiased estimate of the sum over all files (Horvitz-Thompson), and so is the variance used here.
--
-- Parameters: $rate       the share of the files, or streams, that was recorded
--             $by_stream  whether streams were chosen
-- Columns:   name VARCHAR, value DOUBLE (null if no op of the sample says), standard_error DOUBLE likewise
WITH of_one AS (
    SELECT
        count(*) AS ops,
        sum(bytes) AS bytes,
        count(*) FILTER (is_read(op)) AS read_ops,
        count(*) FILTER (is_write(op)) AS write_ops,
        sum(bytes) FILTER (is_read(op)) AS read_bytes,
        sum(bytes) FILTER (is_write(op)) AS write_bytes,
        max(CASE WHEN NOT $by_stream THEN (op <> 'list')::INT END) AS files
    FROM ops
    WHERE op <> 'hint'
    GROUP BY CASE WHEN NOT $by_stream THEN uri END, CASE WHEN $by_stream THEN rank END, CASE WHEN $by_stream THEN worker END
)
SELECT name, sum(n) / $rate AS value, sqrt((1 - $rate) * sum(n * n)) / $rate AS standard_error
FROM (
    UNPIVOT (SELECT COLUMNS(*)::DOUBLE FROM of_one)
    ON ops, bytes, read_ops, write_ops, read_bytes, write_bytes, files
    INTO NAME name VALUE n
)
GROUP BY name
