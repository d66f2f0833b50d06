-- Latency over time as a heat map: ops by window and quarter power of two, over the view `ops`. Empty cells are no rows.
--
-- Parameter: $windows  how many windows
-- Columns: win BIGINT  window of submit time; level INTEGER  latency of 2 ** (level / 4) ns and more; ops BIGINT;
--          window_s DOUBLE  length of a window
WITH data AS (SELECT t_submit, greatest(latency, 1) AS latency FROM ops WHERE latency IS NOT NULL AND op <> 'hint'),
extent AS (SELECT min(t_submit) AS t0, greatest(max(t_submit) - min(t_submit), 1) AS span FROM data)
SELECT
    least((t_submit - t0)::HUGEINT * $windows::BIGINT // span, $windows::BIGINT - 1)::BIGINT AS win,
    floor(log2(latency) * 4)::INTEGER AS level,
    count(*) AS ops,
    any_value(span) / $windows::BIGINT / 1e9 AS window_s
FROM data, extent
GROUP BY win, level
ORDER BY win, level
