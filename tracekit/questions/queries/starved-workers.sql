-- Which workers had nothing in flight for most of the run?
--
-- rank INTEGER, worker INTEGER, ops BIGINT that ended, idle_ns BIGINT time of the run in which it had no op in flight, idle_share
-- DOUBLE of the run, longest_idle_ns BIGINT longest gap between two ops, longest_at_ns BIGINT when that began, since the
-- first submit of the trace (null with one op)
-- An op that never ended counts as no time.
-- No rows: no op has a latency.
WITH timed AS (
    SELECT rank, worker, t_submit AS t, t_submit + response_ns(latency, wait_ns) AS t_end
    FROM ops
    WHERE latency IS NOT NULL AND op <> 'hint'
),
gaps AS (
    SELECT rank, worker, t, t_end,
           t - max(t_end) OVER (PARTITION BY rank, worker ORDER BY t, t_end ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS gap
    FROM timed
),
idle AS (
    SELECT rank, worker, count(*) AS ops,
           min(t) - any_value(t0) + coalesce(sum(greatest(gap, 0)), 0) + any_value(t0 + span_ns) - max(t_end) AS idle_ns,
           any_value(span_ns) AS span_ns, max(greatest(gap, 0)) AS longest_idle_ns,
           arg_max(t - gap - t0, gap) FILTER (gap > 0) AS longest_at_ns
    FROM gaps, run_extent()
    GROUP BY rank, worker
)
SELECT rank, worker, ops, idle_ns::BIGINT AS idle_ns, idle_ns / span_ns AS idle_share, longest_idle_ns, longest_at_ns
FROM idle
ORDER BY idle_ns DESC, rank, worker
LIMIT 20
