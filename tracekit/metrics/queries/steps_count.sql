-- How many steps the trace served: one row over the view `ops`.
--
-- Columns: steps  BIGINT  distinct (rank, step); ops without a step and hints do not count
SELECT count(*) AS steps
FROM (SELECT DISTINCT rank, step FROM ops WHERE step IS NOT NULL AND op <> 'hint')
