-- What each batch cost, and its slowest op.
--
-- per_step(): the bytes, the time and the slowest op of each step on each rank
--     rank INTEGER, step BIGINT, ops BIGINT, bytes BIGINT moved, first_s DOUBLE first submit since that of the trace,
--     wall_ms DOUBLE first submit to last end, latency_sum_ms DOUBLE, failed BIGINT, slowest_us DOUBLE latency of the
--     slowest op, slowest_uri VARCHAR, slowest_offset BIGINT, slowest_sample BIGINT
-- A figure is null if no op of the step has it.
-- Example: FROM per_step() ORDER BY wall_ms DESC LIMIT 10
CREATE OR REPLACE MACRO per_step() AS TABLE
    SELECT
        * EXCLUDE (slowest),
        slowest.latency / 1e3 AS slowest_us,
        slowest.uri AS slowest_uri,
        slowest.at AS slowest_offset,
        slowest.sample AS slowest_sample
    FROM (
        SELECT
            rank,
            step,
            count(*) AS ops,
            sum(bytes)::BIGINT AS bytes,
            (min(t_submit) - (SELECT t0 FROM run_extent())) / 1e9 AS first_s,
            CASE WHEN count(latency) > 0 THEN (max(t_submit + coalesce(response_ns(latency, wait_ns), 0)) - min(t_submit)) / 1e6 END AS wall_ms,
            sum(latency) / 1e6 AS latency_sum_ms,
            count(*) FILTER (error IS NOT NULL) AS failed,
            -- One value for the row: arg_max of a column skips the rows where that column is null.
            arg_max({'latency': latency, 'uri': uri, 'at': "offset", 'sample': sample_id}, latency) AS slowest
        FROM ops
        WHERE step IS NOT NULL AND op <> 'hint'
        GROUP BY rank, step
    )
    ORDER BY rank, step;
