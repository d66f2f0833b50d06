-- When nothing was in flight.
--
-- idle_gaps(): stretches of the run in which no op was in flight, and what they lie between
--     begin_ns BIGINT since the first submit, idle_ns BIGINT length, before_op VARCHAR of the op that ended last,
--     before_uri VARCHAR, before_step BIGINT, after_op VARCHAR of the op that was submitted next (null at the end of the
--     run), after_uri VARCHAR, after_step BIGINT
-- No rows if no op has a latency. An op that never ended counts as no time.
-- Example: FROM idle_gaps() ORDER BY idle_ns DESC LIMIT 10
CREATE OR REPLACE MACRO idle_gaps() AS TABLE
    WITH timed AS (
        SELECT t_submit AS t, t_submit + greatest(response_ns(latency, wait_ns), 1) AS t_end, op, uri, step
        FROM ops
        WHERE latency IS NOT NULL AND op <> 'hint'
        UNION ALL
        SELECT t0 + span_ns, t0 + span_ns, NULL, NULL, NULL FROM run_extent() WHERE has_ends
    ),
    walked AS (
        SELECT t, op, uri, step, max({'t_end': t_end, 'op': op, 'uri': uri, 'step': step}) OVER (
            ORDER BY t, t_end, uri NULLS LAST ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
        ) AS last
        FROM timed
    )
    SELECT last.t_end - t0 AS begin_ns, t - last.t_end AS idle_ns, last.op AS before_op, last.uri AS before_uri,
           last.step AS before_step, op AS after_op, uri AS after_uri, step AS after_step
    FROM walked, run_extent()
    WHERE t > last.t_end
    ORDER BY begin_ns;
