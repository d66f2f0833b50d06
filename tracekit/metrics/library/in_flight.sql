-- Queue depth and bytes in flight after every submit and every end, exactly.
--
-- in_flight()  t BIGINT ns since the epoch, qd BIGINT ops, inflight_bytes BIGINT bytes asked for
-- At equal times ends go first; an op is in flight for at least 1 ns; one that never ended stays.
-- Example: SELECT max(qd), max(inflight_bytes) FROM in_flight()
CREATE OR REPLACE MACRO in_flight() AS TABLE
    WITH events AS (
        SELECT t_submit AS t, 1 AS d, coalesce(len, bytes, 0) AS b FROM ops WHERE op <> 'hint'
        UNION ALL
        SELECT t_submit + greatest(latency, 1), -1, -coalesce(len, bytes, 0)
        FROM ops WHERE op <> 'hint' AND latency IS NOT NULL
    )
    SELECT t, (sum(d) OVER so_far)::BIGINT AS qd, (sum(b) OVER so_far)::BIGINT AS inflight_bytes
    FROM events
    WINDOW so_far AS (ORDER BY t, d, b ROWS UNBOUNDED PRECEDING)
    ORDER BY t, d, b;
