-- What is read again: by file, by sample, and how small the hot set is.
--
-- per_file(): how much of each file was read, and how often again
--     uri VARCHAR, ops BIGINT, bytes BIGINT moved, extent_bytes BIGINT end of the furthest request, reuse DOUBLE bytes
--     over extent (1 = all read once), p99_us DOUBLE, max_us DOUBLE,
--     latency_sum_us DOUBLE, failed BIGINT
-- per_sample(): how often each sample was read
--     sample_id BIGINT, ops BIGINT, steps BIGINT distinct, bytes BIGINT moved, latency_sum_us DOUBLE
-- hot_set(share): the fewest files that take `share` of all ops, and their size
--     files BIGINT, of_files BIGINT, ops BIGINT on those files, extent_bytes BIGINT their extents together: the cache
--     that would serve that share
-- reuse_distance(): reads of what was read before, by the bytes that were read since
--     lo BIGINT bytes inclusive, hi BIGINT bytes exclusive (both null: what was not read before), counts BIGINT reads of a
--     range or an object, bytes BIGINT moved by them
-- A cache of hi bytes that drops what was read longest ago would have served the reads in a row of reuse_distance() and those
-- before it. Reads of a range without an offset are left out.
-- A figure is null if no op of its row has it.
-- Example: FROM hot_set(0.8)
CREATE OR REPLACE MACRO per_file() AS TABLE
    SELECT
        uri,
        count(*) AS ops,
        sum(bytes)::BIGINT AS bytes,
        max(coalesce("offset", 0) + coalesce(bytes, len, 0)) AS extent_bytes,
        sum(bytes) / nullif(max(coalesce("offset", 0) + coalesce(bytes, len, 0)), 0) AS reuse,
        quantile_disc(latency, 0.99) / 1e3 AS p99_us,
        max(latency) / 1e3 AS max_us,
        sum(latency) / 1e3 AS latency_sum_us,
        count(*) FILTER (error IS NOT NULL) AS failed
    FROM ops
    WHERE is_data(op)
    GROUP BY uri
    ORDER BY bytes DESC NULLS LAST, uri;
CREATE OR REPLACE MACRO per_sample() AS TABLE
    SELECT
        sample_id,
        count(*) AS ops,
        count(DISTINCT step) AS steps,
        sum(bytes)::BIGINT AS bytes,
        sum(latency) / 1e3 AS latency_sum_us
    FROM ops
    WHERE sample_id IS NOT NULL AND op <> 'hint'
    GROUP BY sample_id
    ORDER BY ops DESC, sample_id;
CREATE OR REPLACE MACRO hot_set(share) AS TABLE
    WITH ranked AS (
        SELECT *, sum(ops) OVER (ORDER BY ops DESC, uri ROWS UNBOUNDED PRECEDING) - ops AS before, sum(ops) OVER () AS total
        FROM per_file()
    )
    SELECT
        count(*) FILTER (before < share * total) AS files,
        count(*) AS of_files,
        coalesce(sum(ops) FILTER (before < share * total), 0)::BIGINT AS ops,
        coalesce(sum(extent_bytes) FILTER (before < share * total), 0)::BIGINT AS extent_bytes
    FROM ranked;
CREATE OR REPLACE MACRO reuse_distance() AS TABLE
    WITH reads AS (
        SELECT uri, op, "offset" AS start, len, coalesce(bytes, len, 0) AS moved, t_submit,
               sum(coalesce(bytes, len, 0)) OVER (ORDER BY t_submit, uri, "offset" ROWS UNBOUNDED PRECEDING) AS so_far
        FROM ops
        WHERE is_read(op) AND (op = 'get' OR "offset" IS NOT NULL)
    ),
    again AS (
        SELECT moved, (so_far - moved - lag(so_far) OVER (PARTITION BY uri, op, start, len ORDER BY so_far))::BIGINT AS distance
        FROM reads
    )
    SELECT size_lo(distance) AS lo, size_hi(distance) AS hi, count(*) AS counts, sum(moved)::BIGINT AS bytes
    FROM again
    GROUP BY ALL
    ORDER BY lo NULLS FIRST;
