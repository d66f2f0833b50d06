-- The median time from the first op of a step to the first op of the next step of its rank.
--
-- Columns: period BIGINT ns; null if no rank has two steps
WITH begins AS (
    SELECT rank, step, min(t_submit) AS began FROM ops WHERE step IS NOT NULL GROUP BY rank, step
),
gaps AS (
    SELECT lead(began) OVER (PARTITION BY rank ORDER BY began) - began AS gap FROM begins
)
SELECT quantile_disc(gap, 0.5)::BIGINT AS period
FROM gaps
WHERE gap IS NOT NULL
