-- Ops and bytes in flight over time, at most $points rows (give or take one), in order of time.
--
-- Reads  the macro in_flight(), which defines what is in flight; no rows if that is unknown
-- Gives  at_ns   BIGINT  ns since the trace's epoch
--        ops     BIGINT  after the event, or the maximum of a group of events
--        bytes   BIGINT  likewise
WITH levels AS (
    SELECT t AS at_ns, qd AS ops, inflight_bytes AS size, ntile($points) OVER (ORDER BY t) AS window_number
    FROM in_flight()
    WHERE qd IS NOT NULL
)
SELECT min(at_ns) AS at_ns, max(ops)::BIGINT AS ops, max(size)::BIGINT AS bytes
FROM levels
GROUP BY window_number
ORDER BY at_ns;
