-- When was nothing in flight at all, and what came before and after?
--
-- at_ns BIGINT begin of the gap, since the first submit, stall_ns BIGINT its length, run_share DOUBLE of the run, before_uri VARCHAR
-- of the op that ended last, before_step BIGINT, after_uri VARCHAR of the op that was submitted next (null at the end of the run), after_step BIGINT
-- An op that never ended counts as no time.
-- No rows: at every moment some op was in flight, or no op has a latency.
SELECT begin_ns AS at_ns, idle_ns AS stall_ns, idle_ns / span_ns AS run_share, before_uri, before_step, after_uri, after_step
FROM idle_gaps(), run_extent()
ORDER BY stall_ns DESC, at_ns
LIMIT 20
