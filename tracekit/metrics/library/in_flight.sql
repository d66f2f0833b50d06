-- Ops and bytes in flight after every moment at which an op was submitted or ended, exactly.
--
-- in_flight(): queue depth and bytes in flight after each submit and end
--     t BIGINT ns since the epoch, qd BIGINT ops, inflight_bytes BIGINT bytes asked for; qd and inflight_bytes are
--     null if no op of the trace has a latency, since nothing then says when ops ended
-- An op counts from its first submit until just before its end, and for at least 1 ns. An op that never ended counts to the
-- last row; one whose end is unknown counts for 1 ns, so that the numbers are the least that were in flight. An op without
-- a length counts the bytes that it moved.
-- Example: SELECT max(qd), max(inflight_bytes) FROM in_flight()
CREATE OR REPLACE MACRO in_flight() AS TABLE
    WITH events AS (
        SELECT t_submit AS t, 1 AS d, coalesce(len, bytes, 0) AS b FROM ops WHERE op <> 'hint'
        UNION ALL
        SELECT t_submit + greatest(response_ns(latency, wait_ns), 1), -1, -coalesce(len, bytes, 0)
        FROM ops WHERE op <> 'hint' AND (latency IS NOT NULL OR ends_unknown())
    ),
    moments AS (SELECT t, sum(d) AS d, sum(b) AS b FROM events GROUP BY t)
    SELECT
        t,
        CASE WHEN has_ends THEN (sum(d) OVER so_far)::BIGINT END AS qd,
        CASE WHEN has_ends THEN (sum(b) OVER so_far)::BIGINT END AS inflight_bytes
    FROM moments, (SELECT has_ends FROM run_extent())
    WINDOW so_far AS (ORDER BY t ROWS UNBOUNDED PRECEDING)
    ORDER BY t;
