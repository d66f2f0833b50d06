-- Ops and bytes in flight over time, at most $points rows (give or take one), in order of time.
--
-- Reads  ops
-- Gives  at_ns   BIGINT  ns since the trace's epoch
--        ops     BIGINT  ops submitted and not ended: after the event, or the window's maximum; as max_qd counts
--                        them (no hints, at least 1 ns each, those that never ended to the last)
--        bytes   BIGINT  bytes asked for (else moved) by them
WITH events AS (
    SELECT t_submit AS at_ns, 1 AS ops, coalesce(len, bytes, 0) AS size FROM ops WHERE op <> 'hint'
    UNION ALL
    SELECT t_submit + greatest(latency, 1), -1, -coalesce(len, bytes, 0) FROM ops WHERE op <> 'hint' AND latency IS NOT NULL
),
moments AS (
    SELECT at_ns, sum(ops) AS ops, sum(size) AS size FROM events GROUP BY at_ns
),
levels AS (
    SELECT
        at_ns,
        sum(ops) OVER (ORDER BY at_ns) AS ops,
        sum(size) OVER (ORDER BY at_ns) AS size,
        ntile($points) OVER (ORDER BY at_ns) AS window_number
    FROM moments
)
SELECT min(at_ns) AS at_ns, max(ops)::BIGINT AS ops, max(size)::BIGINT AS bytes
FROM levels
GROUP BY window_number
ORDER BY at_ns;
