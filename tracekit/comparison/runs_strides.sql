-- How reads move through their files, over the view `ops`.
--
-- A move is from the end of a read to the offset of the next one of the same stream and file.
-- Columns: bucket BIGINT 0 sequential, else the sign of the gap times (1 + log2 of its size); n BIGINT moves
WITH moves AS (
    SELECT "offset" - lag("offset" + coalesce(len, bytes, 0)) OVER walk AS gap
    FROM ops
    WHERE op IN ('read', 'write') AND "offset" IS NOT NULL
    WINDOW walk AS (PARTITION BY rank, worker, uri, op ORDER BY t_submit, "offset")
)
SELECT CASE WHEN gap = 0 THEN 0 ELSE sign(gap) * (1 + floor(log2(abs(gap)))) END::BIGINT AS bucket, count(*) AS n
FROM moves
WHERE gap IS NOT NULL
GROUP BY bucket
