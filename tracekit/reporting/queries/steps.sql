-- The duration of each step on its slowest rank, over the macro `per_step`.
--
-- Parameter: $most  number of steps at most: the first
-- Columns: step BIGINT; ranks BIGINT  that took the step; slowest_rank INTEGER; wall_ns BIGINT  first submit to last end on that
--          rank; median_wall_ns BIGINT  of all ranks; moved_bytes BIGINT  of all ranks; of_steps BIGINT  steps of the
--          trace; slowest_ns BIGINT and slowest_uri VARCHAR  of the slowest op of that rank
SELECT
    * EXCLUDE (slowest),
    slowest.rank AS slowest_rank,
    round(slowest.us * 1e3)::BIGINT AS slowest_ns,
    slowest.uri AS slowest_uri
FROM (
    SELECT
        step,
        count(*) AS ranks,
        round(max(wall_ms) * 1e6)::BIGINT AS wall_ns,
        round(median(wall_ms) * 1e6)::BIGINT AS median_wall_ns,
        sum(bytes)::BIGINT AS moved_bytes,
        sum(failed)::BIGINT AS failed,
        count(*) OVER () AS of_steps,
        arg_max({'rank': rank, 'us': slowest_us, 'uri': slowest_uri}, wall_ms) AS slowest
    FROM per_step()
    GROUP BY step
)
ORDER BY step
LIMIT $most::BIGINT
