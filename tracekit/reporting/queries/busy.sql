-- How much of the run had an op in flight, over the macros.
--
-- Columns: span_ns BIGINT of the run; busy_ns BIGINT with an op in flight; idle_ns BIGINT the rest (both null if no op has a
--          latency); gaps BIGINT number of stretches of the rest; longest_ns BIGINT of them
SELECT any_value(span_ns) AS span_ns,
       CASE WHEN any_value(has_ends) THEN (any_value(span_ns) - coalesce(sum(idle_ns), 0))::BIGINT END AS busy_ns,
       CASE WHEN any_value(has_ends) THEN coalesce(sum(idle_ns), 0)::BIGINT END AS idle_ns,
       count(idle_ns) AS gaps, max(idle_ns) AS longest_ns
FROM run_extent() LEFT JOIN idle_gaps() ON true
