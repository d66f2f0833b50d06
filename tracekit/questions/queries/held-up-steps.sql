-- Which rank held up each step, and by how much?
--
-- step BIGINT, ranks BIGINT that took the step, slowest_rank INTEGER, wall_ns BIGINT of that rank, first submit to last end,
-- median_wall_ns BIGINT of all ranks, behind_ns BIGINT how much longer the slowest rank took than the median, slowest_uri VARCHAR
-- of its slowest op
-- No rows: no step was taken by several ranks.
SELECT step, count(*) AS ranks, arg_max(rank, wall_ms) AS slowest_rank, round(max(wall_ms) * 1e6)::BIGINT AS wall_ns,
       round(median(wall_ms) * 1e6)::BIGINT AS median_wall_ns,
       round((max(wall_ms) - median(wall_ms)) * 1e6)::BIGINT AS behind_ns, arg_max(slowest_uri, wall_ms) AS slowest_uri
FROM per_step()
WHERE wall_ms IS NOT NULL
GROUP BY step
HAVING count(*) > 1
ORDER BY behind_ns DESC, step
LIMIT 20
