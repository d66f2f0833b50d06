-- What each batch cost, its slowest op, and how far the ranks of a step are apart.
--
-- per_step(): the bytes, the time and the slowest op of each step on each rank
--     rank INTEGER, step BIGINT, ops BIGINT, bytes BIGINT moved, first_s DOUBLE first submit since that of the trace,
--     wall_ms DOUBLE first submit to last end, latency_sum_ms DOUBLE, failed BIGINT, slowest_us DOUBLE latency of the
--     slowest op, slowest_uri VARCHAR, slowest_offset BIGINT, slowest_sample BIGINT
-- rank_steps(): when each rank began and ended a step, and how far behind the other ranks
--     rank INTEGER, step BIGINT, began BIGINT, ended BIGINT ns since the trace's epoch, behind_ms DOUBLE its end after the
--     median end of the ranks, ranks BIGINT in the step, is_last BOOLEAN
-- step_skew(): how far the ranks of a step begin and end apart
--     step BIGINT, ranks BIGINT, begin_skew_ms DOUBLE first submit of the last rank to begin since that of the first,
--     end_skew_ms DOUBLE the same of their last ends, straggler INTEGER the rank that ended last, behind_ms DOUBLE its end
--     after the median end of the ranks
-- stragglers(): how often each rank was the last to end a step, the one furthest behind first
--     rank INTEGER, steps BIGINT that it shared with other ranks, last BIGINT of them it ended last, last_share DOUBLE,
--     behind_ms DOUBLE its ends after the median of the ranks, added up over steps (negative: before), wall_ms DOUBLE
--     median wall time of its steps
-- A figure is null if no op of the step has it. Ranks of several hosts are compared within the error of their clocks.
-- Example: FROM per_step() ORDER BY wall_ms DESC LIMIT 10
-- Example: FROM stragglers() LIMIT 1
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

CREATE OR REPLACE MACRO rank_steps() AS TABLE
    SELECT
        *,
        (ended - median(ended) OVER (PARTITION BY step)) / 1e6 AS behind_ms,
        count(*) OVER (PARTITION BY step) AS ranks,
        row_number() OVER (PARTITION BY step ORDER BY ended DESC, rank) = 1 AS is_last
    FROM (
        SELECT rank, step, min(t_submit) AS began, max(t_submit + response_ns(latency, wait_ns)) AS ended
        FROM ops
        WHERE step IS NOT NULL AND op <> 'hint'
        GROUP BY rank, step
    )
    WHERE ended IS NOT NULL;

CREATE OR REPLACE MACRO step_skew() AS TABLE
    SELECT
        step,
        count(*) AS ranks,
        (max(began) - min(began)) / 1e6 AS begin_skew_ms,
        (max(ended) - min(ended)) / 1e6 AS end_skew_ms,
        max(rank) FILTER (is_last) AS straggler,
        max(behind_ms) FILTER (is_last) AS behind_ms
    FROM rank_steps()
    GROUP BY step
    ORDER BY step;

CREATE OR REPLACE MACRO stragglers() AS TABLE
    SELECT
        rank,
        count(*) AS steps,
        count(*) FILTER (is_last) AS last,
        count(*) FILTER (is_last) / count(*) AS last_share,
        sum(behind_ms) AS behind_ms,
        median(ended - began) / 1e6 AS wall_ms
    FROM rank_steps()
    WHERE ranks > 1
    GROUP BY rank
    ORDER BY behind_ms DESC, rank;
