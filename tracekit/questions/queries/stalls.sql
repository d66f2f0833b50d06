-- When was nothing in flight at all, and what came before and after?
--
-- at_ns BIGINT begin of the gap, since the first submit, stall_ns BIGINT its length, run_share DOUBLE of the run, before_uri VARCHAR
-- of the op that ended last, before_step BIGINT, after_uri VARCHAR of the op that was submitted next, after_step BIGINT
-- An op that never ended counts as no time.
-- No rows: at every moment some op was in flight, or no op has a latency.
WITH timed AS (
    SELECT t_submit AS t, t_submit + response_ns(latency, wait_ns) AS t_end, uri, step
    FROM ops
    WHERE latency IS NOT NULL AND op <> 'hint'
),
gaps AS (
    SELECT t, uri, step, max({'t_end': t_end, 'uri': uri, 'step': step}) OVER (ORDER BY t, t_end ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS last
    FROM timed
)
SELECT last.t_end - t0 AS at_ns, t - last.t_end AS stall_ns, (t - last.t_end) / span_ns AS run_share, last.uri AS before_uri,
       last.step AS before_step, uri AS after_uri, step AS after_step
FROM gaps, run_extent()
WHERE t > last.t_end
ORDER BY stall_ns DESC, at_ns
LIMIT 20
