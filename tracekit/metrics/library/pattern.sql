-- How a run moves through its files, and how its ops arrive.
--
-- sequentiality(by): shares of sequential, forward, backward and repeated requests of a stream in a file
--     key VARCHAR (see op_key), ops BIGINT reads and range writes that follow another of the same kind, stream and file,
--     sequential DOUBLE share that starts where the last ended, forward DOUBLE jumps ahead, backward DOUBLE jumps back,
--     same DOUBLE reads the same offset again, stride BIGINT bytes, the commonest difference of offsets (the least of
--     equally common ones)
-- interarrival(by): the gaps between submits, and how bursty they are
--     key VARCHAR, ops BIGINT, mean_us DOUBLE, p50_us DOUBLE, p99_us DOUBLE, max_us DOUBLE gaps between submits,
--     cv DOUBLE deviation over mean (1 = Poisson), burstiness DOUBLE (cv - 1) / (cv + 1) in [-1, 1] (Goh and Barabasi, 2008)
-- Reads submitted at the same time are ordered by offset.
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
    )
    SELECT
        key,
        count(*) AS ops,
        count(*) FILTER (gap = 0) / count(*) AS sequential,
        count(*) FILTER (gap <> 0 AND jump > 0) / count(*) AS forward,
        count(*) FILTER (gap <> 0 AND jump < 0) / count(*) AS backward,
        count(*) FILTER (gap <> 0 AND jump = 0) / count(*) AS same,
        mode(jump ORDER BY jump) AS stride
    FROM moves
    WHERE jump IS NOT NULL
    GROUP BY key
    ORDER BY key;
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
