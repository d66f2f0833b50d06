-- Throughput and rate over time, in equal windows (empty ones are rows too), over the view `ops`.
--
-- Bytes count in the window in which their op ended, ops in that in which they were submitted.
-- Parameter: $windows  how many windows
-- Columns: s DOUBLE  middle of the window since the first op; mib_per_s DOUBLE; ops_per_s DOUBLE
WITH data AS (
    SELECT t_submit, t_submit + coalesce(latency, 0) AS t_end, coalesce(bytes, 0) AS bytes
    FROM ops
    WHERE op <> 'hint'
),
extent AS (
    SELECT min(t_submit) AS t0, greatest(max(t_end) - min(t_submit), 1) AS span FROM data
),
marks AS (
    SELECT least(((t_end - t0) * $windows::BIGINT) // span, $windows::BIGINT - 1) AS win, bytes, 0 AS ops FROM data, extent
    UNION ALL
    SELECT least(((t_submit - t0) * $windows::BIGINT) // span, $windows::BIGINT - 1), 0, 1 FROM data, extent
),
windows AS (SELECT unnest(range(0, $windows::BIGINT)) AS win)
SELECT
    (win + 0.5) * any_value(span) / $windows::BIGINT / 1e9 AS s,
    coalesce(sum(bytes), 0) / 1048576.0 / (any_value(span) / 1e9 / $windows::BIGINT) AS mib_per_s,
    coalesce(sum(ops), 0) / (any_value(span) / 1e9 / $windows::BIGINT) AS ops_per_s
FROM windows LEFT JOIN marks USING (win), extent
WHERE span IS NOT NULL
GROUP BY win
ORDER BY win
