-- How far back a range was read before, over the view `ops`.
--
-- Columns: bucket BIGINT -1 for a range read for the first time, else log2 of the number of ops since; n BIGINT reads
WITH numbered AS (
    SELECT uri, "offset", row_number() OVER (ORDER BY t_submit, uri, "offset") AS place
    FROM ops
    WHERE is_read(op)
),
again AS (
    SELECT place - lag(place) OVER (PARTITION BY uri, "offset" ORDER BY place) AS distance FROM numbered
)
SELECT CASE WHEN distance IS NULL THEN -1 ELSE floor(log2(distance)) END::BIGINT AS bucket, count(*) AS n
FROM again
GROUP BY bucket
