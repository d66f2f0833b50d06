-- The most ops in flight at once if each had been submitted when it was due, over a replay's view `ops`.
--
-- Columns: needed BIGINT; null without due times
WITH events AS (
    SELECT t_due AS t, 1 AS d FROM ops WHERE t_due IS NOT NULL AND op <> 'hint'
    UNION ALL
    SELECT t_due + greatest(coalesce(latency, 0), 1), -1 FROM ops WHERE t_due IS NOT NULL AND op <> 'hint'
)
SELECT max(depth)::BIGINT AS needed
FROM (SELECT sum(d) OVER (ORDER BY t, d ROWS UNBOUNDED PRECEDING) AS depth FROM events)
