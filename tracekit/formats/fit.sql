-- What a trace is like in a few figures, for exporters of configurations.
--
-- Reads  ops, and the macros in_flight() and per_file()
-- Gives  one row:
--   reads, writes        BIGINT   successful ops that read and write data
--   read_bytes, write_bytes  BIGINT
--   gets, puts           BIGINT   of these, on whole objects
--   stats, deletes, lists    BIGINT
--   read_sizes, write_sizes  STRUCT(size BIGINT, ops BIGINT)[]  by size, where it is known
--   files                BIGINT   that data was read from or written to
--   file_bytes, file_bytes_dev  DOUBLE  mean and deviation of their extents
--   directory            VARCHAR  the first file's directory
--   followed, random     BIGINT   ops behind another of their stream, file and direction; those that do not begin where it ended
--   tenths               STRUCT(size BIGINT, ops BIGINT)[]  in which tenth of its file (0 to 9) an op begins, where it is known
--   streams, ranks       BIGINT
--   span_ns              BIGINT   first submit to last end
--   depth                DOUBLE   mean ops in flight while any was; null without latencies
--   samples, steps       BIGINT   distinct samples, and steps of all ranks
--   samples_per_step     DOUBLE   mean of distinct samples in a step
--   step_gap_ns, step_gap_dev_ns  DOUBLE  from one step's last end to the first submit of its rank's next, if that is later
WITH data AS (
    SELECT *, op IN ('read', 'get') AS reads, coalesce(bytes, len) AS size
    FROM ops
    WHERE op IN ('read', 'get', 'write', 'put', 'part') AND error IS NULL
),
walks AS (
    SELECT "offset" - lag("offset" + size) OVER (PARTITION BY rank, worker, uri, reads ORDER BY t_submit, "offset") AS gap
    FROM data
    WHERE "offset" IS NOT NULL
),
extents AS (SELECT uri, max(coalesce("offset", 0) + size) AS extent FROM data GROUP BY uri),
tenths AS (
    SELECT least("offset" * 10 // extent, 9)::BIGINT AS tenth, count(*) AS n
    FROM data JOIN extents USING (uri)
    WHERE "offset" IS NOT NULL AND extent > 0
    GROUP BY tenth
),
sizes AS (SELECT reads, size, count(*) AS n FROM data WHERE size > 0 GROUP BY reads, size),
steps AS (
    SELECT rank, step, count(DISTINCT sample_id) AS samples, min(t_submit) AS first_at, max(t_submit + latency) AS last_end
    FROM ops
    WHERE step IS NOT NULL
    GROUP BY rank, step
),
gaps AS (
    SELECT CASE WHEN before IS NOT NULL THEN greatest(first_at - before, 0) END AS gap
    FROM (SELECT first_at, lag(last_end) OVER (PARTITION BY rank ORDER BY step) AS before FROM steps)
),
levels AS (SELECT qd, lead(t) OVER (ORDER BY t) - t AS held FROM in_flight())
SELECT
    count(*) FILTER (reads) AS reads,
    count(*) FILTER (NOT reads) AS writes,
    coalesce(sum(size) FILTER (reads), 0)::BIGINT AS read_bytes,
    coalesce(sum(size) FILTER (NOT reads), 0)::BIGINT AS write_bytes,
    count(*) FILTER (op = 'get') AS gets,
    count(*) FILTER (op = 'put') AS puts,
    (SELECT count(*) FROM ops WHERE op = 'stat') AS stats,
    (SELECT count(*) FROM ops WHERE op = 'delete') AS deletes,
    (SELECT count(*) FROM ops WHERE op = 'list') AS lists,
    (SELECT list(struct_pack(size := size, ops := n) ORDER BY size) FROM sizes WHERE reads) AS read_sizes,
    (SELECT list(struct_pack(size := size, ops := n) ORDER BY size) FROM sizes WHERE NOT reads) AS write_sizes,
    count(DISTINCT uri) AS files,
    (SELECT avg(extent) FROM extents) AS file_bytes,
    (SELECT stddev_pop(extent) FROM extents) AS file_bytes_dev,
    regexp_replace(min(uri), '[^/]*$', '') AS directory,
    (SELECT count(*) FROM walks WHERE gap IS NOT NULL) AS followed,
    (SELECT count(*) FROM walks WHERE gap <> 0) AS random,
    (SELECT list(struct_pack(size := tenth, ops := n) ORDER BY tenth) FROM tenths) AS tenths,
    count(DISTINCT (rank, worker)) AS streams,
    count(DISTINCT rank) AS ranks,
    max(t_submit + coalesce(latency, 0)) - min(t_submit) AS span_ns,
    (SELECT sum(qd * held) / nullif(sum(held) FILTER (qd > 0), 0) FROM levels) AS depth,
    (SELECT count(DISTINCT sample_id) FROM ops) AS samples,
    (SELECT count(*) FROM steps) AS steps,
    (SELECT avg(samples) FROM steps WHERE samples > 0) AS samples_per_step,
    (SELECT avg(gap) FROM gaps) AS step_gap_ns,
    (SELECT stddev_pop(gap) FROM gaps) AS step_gap_dev_ns
FROM data;
