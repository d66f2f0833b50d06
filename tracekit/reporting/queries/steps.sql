-- The duration of each step on its slowest rank, over the macro `per_step`.
--
-- Parameter: $most  number of steps at most: the first
-- Columns: step BIGINT; wall_ms DOUBLE  first submit to last end; ranks BIGINT  that took the step; of_steps BIGINT  steps
--          of the trace; slowest_us DOUBLE and slowest_uri VARCHAR  of the slowest op of that rank
SELECT * EXCLUDE (slowest), slowest.us AS slowest_us, slowest.uri AS slowest_uri
FROM (
    SELECT
        step,
        max(wall_ms) AS wall_ms,
        count(*) AS ranks,
        count(*) OVER () AS of_steps,
        arg_max({'us': slowest_us, 'uri': slowest_uri}, wall_ms) AS slowest
    FROM per_step()
    GROUP BY step
)
ORDER BY step
LIMIT $most::BIGINT
