-- How far apart do the ranks begin and end a step?
--
-- step BIGINT, ranks BIGINT, begin_skew_ns BIGINT from the first rank to begin to the last, end_skew_ns BIGINT from the first
-- rank to end to the last, straggler INTEGER the rank that ended last, behind_ns BIGINT its end after the median end of the ranks
-- No rows: no step was taken by several ranks.
SELECT step, ranks, round(begin_skew_ms * 1e6)::BIGINT AS begin_skew_ns, round(end_skew_ms * 1e6)::BIGINT AS end_skew_ns,
       straggler, round(behind_ms * 1e6)::BIGINT AS behind_ns
FROM step_skew()
WHERE ranks > 1
ORDER BY end_skew_ns DESC, step
LIMIT 20
