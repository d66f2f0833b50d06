-- Reads and writes of blocks as rows of a CSV file, in order of time.
--
-- Reads  ops
-- Gives  timestamp_us  DOUBLE   since the first of them, to the ns
--        device        BIGINT   the number of the file, from 0, by name
--        op            VARCHAR  R or W
--        offset        BIGINT   bytes
--        length        BIGINT   bytes asked for, else moved
--        latency_us    DOUBLE   to the ns; empty if unknown
WITH data AS (
    SELECT *, coalesce(len, bytes) AS size
    FROM ops
    WHERE op IN ('read', 'get', 'write', 'put', 'part') AND error IS NULL AND coalesce(len, bytes) > 0
        AND ("offset" IS NOT NULL OR op IN ('get', 'put'))
)
SELECT
    (t_submit - min(t_submit) OVER ()) / 1e3 AS timestamp_us,
    dense_rank() OVER (ORDER BY uri) - 1 AS device,
    CASE WHEN op IN ('read', 'get') THEN 'R' ELSE 'W' END AS op,
    coalesce("offset", 0) AS "offset",
    size AS length,
    latency / 1e3 AS latency_us
FROM data
ORDER BY t_submit;
