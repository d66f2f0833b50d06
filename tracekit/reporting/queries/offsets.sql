-- Where in its file each read began, over time: at most a few thousand cells, over the view `ops`.
--
-- Files are numbered in order of first use. Time and offset are cut into cells, one point a cell.
-- Parameters: $files  how many files at the most (the first used)
--             $cells  cells along each axis of a file
-- Columns: file BIGINT  number; of_files BIGINT  how many there are; uri VARCHAR; s DOUBLE  since the first op; mib DOUBLE  offset; ops BIGINT  in the cell
WITH reads AS (
    SELECT uri, t_submit, "offset"
    FROM ops
    WHERE op IN ('read', 'get') AND "offset" IS NOT NULL
),
used AS (
    SELECT uri, row_number() OVER (ORDER BY min(t_submit)) AS file, max("offset") AS high,
           count(*) OVER () AS of_files
    FROM reads
    GROUP BY uri
    QUALIFY file <= $files::BIGINT
),
extent AS (SELECT min(t_submit) AS t0, greatest(max(t_submit) - min(t_submit), 1) AS span FROM reads)
SELECT
    file,
    any_value(of_files) AS of_files,
    any_value(uri) AS uri,
    min(t_submit - t0) / 1e9 AS s,
    min("offset") / 1048576.0 AS mib,
    count(*) AS ops
FROM reads JOIN used USING (uri), extent
GROUP BY
    file,
    ((t_submit - t0) * $cells::BIGINT) // span,
    ("offset" * $cells::BIGINT) // greatest(high, 1)
ORDER BY file, s
