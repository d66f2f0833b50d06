-- How a run moves through its files, and how its ops arrive.
--
-- sequentiality(by): shares of sequential, forward, backward and repeated requests of a stream in a file
--     key VARCHAR (see op_key), ops BIGINT reads and range writes that follow another of the same kind, stream and file,
--     sequential DOUBLE share that starts where the last ended, forward DOUBLE jumps ahead, backward DOUBLE jumps back,
--     same DOUBLE reads the same offset again, stride BIGINT bytes, the commonest difference of offsets (the least of
--     equally common ones), stride_share DOUBLE share with that difference
-- file_patterns(): whether the requests of each file are sequential, strided, repeated, random or mixed
--     uri VARCHAR, pattern VARCHAR, ops BIGINT as of sequentiality (0 if none follows another), sequential DOUBLE,
--     stride BIGINT, stride_share DOUBLE (these three are null without such ops)
-- interarrival(by): the gaps between submits, and how bursty they are
--     key VARCHAR, ops BIGINT, mean_us DOUBLE, p50_us DOUBLE, p99_us DOUBLE, max_us DOUBLE gaps between submits,
--     cv DOUBLE deviation over mean (1 = Poisson), burstiness DOUBLE (cv - 1) / (cv + 1) in [-1, 1] (Goh and Barabasi, 2008)
-- Reads submitted at the same time are ordered by offset. The pattern of a file is that of 90 % of the ops that follow another:
-- sequential, repeated (the same offset again) or strided (a constant stride, three times or more); `random` if at most 10 %
-- are sequential, `mixed` if more; `single` without such ops, `unknown` if no request has an offset.
-- Example: FROM sequentiality('worker')
CREATE OR REPLACE MACRO sequentiality(by_) AS TABLE
    WITH moves AS (
        SELECT
            op_key(by_, uri, op, error, rank, worker) AS key,
            "offset" - lag("offset") OVER walk AS jump,
            "offset" - lag("offset" + coalesce(bytes, len, 0)) OVER walk AS gap
        FROM ops
        WHERE op IN ('read', 'write') AND "offset" IS NOT NULL
        WINDOW walk AS (PARTITION BY rank, worker, uri, op ORDER BY t_submit, "offset")
    ),
    jumps AS (
        SELECT key, arg_max(jump, (n, -jump)) AS stride, max(n) AS n
        FROM (SELECT key, jump, count(*) AS n FROM moves WHERE jump IS NOT NULL GROUP BY key, jump)
        GROUP BY key
    )
    SELECT
        key,
        count(*) AS ops,
        count(*) FILTER (gap = 0) / count(*) AS sequential,
        count(*) FILTER (gap <> 0 AND jump > 0) / count(*) AS forward,
        count(*) FILTER (gap <> 0 AND jump < 0) / count(*) AS backward,
        count(*) FILTER (gap <> 0 AND jump = 0) / count(*) AS same,
        jumps.stride AS stride,
        any_value(jumps.n) / count(*) AS stride_share
    FROM moves JOIN jumps USING (key)
    WHERE jump IS NOT NULL
    GROUP BY key, jumps.stride
    ORDER BY key;
CREATE OR REPLACE MACRO file_patterns() AS TABLE
    WITH files AS (
        SELECT uri, count("offset") > 0 OR bool_and(op IN ('get', 'put')) AS placed FROM ops WHERE is_data(op) GROUP BY uri
    )
    SELECT
        files.uri,
        CASE
            WHEN NOT placed THEN 'unknown'
            WHEN ops IS NULL THEN 'single'
            WHEN sequential >= 0.9 THEN 'sequential'
            WHEN same >= 0.9 THEN 'repeated'
            WHEN stride_share >= 0.9 AND ops >= 3 THEN 'strided'
            WHEN sequential <= 0.1 THEN 'random'
            ELSE 'mixed'
        END AS pattern,
        coalesce(ops, 0) AS ops,
        sequential,
        stride,
        stride_share
    FROM files LEFT JOIN sequentiality('uri') AS walked ON walked.key = files.uri
    ORDER BY ops DESC, files.uri;
CREATE OR REPLACE MACRO interarrival(by_) AS TABLE
    WITH gaps AS (
        SELECT key, t_submit - lag(t_submit) OVER (PARTITION BY key ORDER BY t_submit) AS gap
        FROM (SELECT op_key(by_, uri, op, error, rank, worker) AS key, t_submit FROM ops WHERE op <> 'hint')
    )
    SELECT
        key,
        count(*) AS ops,
        avg(gap) / 1e3 AS mean_us,
        quantile_disc(gap, 0.5) / 1e3 AS p50_us,
        quantile_disc(gap, 0.99) / 1e3 AS p99_us,
        max(gap) / 1e3 AS max_us,
        stddev_pop(gap) / nullif(avg(gap), 0) AS cv,
        (stddev_pop(gap) - avg(gap)) / nullif(stddev_pop(gap) + avg(gap), 0) AS burstiness
    FROM gaps
    WHERE gap IS NOT NULL
    GROUP BY key
    ORDER BY key;
