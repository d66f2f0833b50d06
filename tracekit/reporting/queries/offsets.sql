-- Where in its file each read began, over time: at most a few thousand points, over the view `ops` and the macros.
--
-- The files are the busiest: those with most reads, in order of name where equal. Time and offset are cut into cells, with
-- one point per cell. Reads without an offset are left out.
-- Parameters: $files  number of files at most
--             $cells  cells along each axis of a file
-- Columns: file BIGINT  number, the busiest first; of_files BIGINT  files with reads; of_reads BIGINT  all reads;
--          uri VARCHAR; s DOUBLE  since the first submit; start BIGINT  offset in bytes; ops BIGINT  reads in the cell
WITH reads AS (
    SELECT uri, t_submit, "offset" AS start
    FROM ops
    WHERE is_read(op) AND "offset" IS NOT NULL
),
used AS (
    SELECT uri, row_number() OVER (ORDER BY count(*) DESC, uri) AS file, max(start) AS high, count(*) OVER () AS of_files,
           (sum(count(*)) OVER ())::BIGINT AS of_reads
    FROM reads
    GROUP BY uri
    QUALIFY file <= $files::BIGINT
)
SELECT
    file,
    any_value(of_files) AS of_files,
    any_value(of_reads) AS of_reads,
    any_value(uri) AS uri,
    min(t_submit - t0) / 1e9 AS s,
    min(start) AS start,
    count(*) AS ops
FROM reads JOIN used USING (uri), run_extent()
GROUP BY file, ((t_submit - t0)::HUGEINT * $cells::BIGINT) // span_ns, (start::HUGEINT * $cells::BIGINT) // greatest(high, 1)
ORDER BY file, s, start
