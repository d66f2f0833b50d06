-- Which rank keeps the others waiting, over all steps?
--
-- rank INTEGER, steps BIGINT that it shared with other ranks, last_steps BIGINT of them it ended last, last_share DOUBLE,
-- behind_ns BIGINT its ends after the median end of the ranks, added up over steps (negative: before), wall_ns BIGINT median time
-- of its steps
-- No rows: no step was taken by several ranks.
SELECT rank, steps, last AS last_steps, last_share, round(behind_ms * 1e6)::BIGINT AS behind_ns,
       round(wall_ms * 1e6)::BIGINT AS wall_ns
FROM stragglers()
ORDER BY behind_ns DESC, rank
LIMIT 20
