-- Latency over time as a heat map: ops by window and quarter power of two, over the view `ops`.
--
-- Parameter: $windows  how many windows
-- Columns: s DOUBLE middle of the window since the first submit; us DOUBLE lower edge of the bucket; ops BIGINT
WITH data AS (SELECT t_submit, greatest(latency, 1) AS latency FROM ops WHERE latency IS NOT NULL AND op <> 'hint'),
extent AS (SELECT min(t_submit) AS t0, greatest(max(t_submit) - min(t_submit), 1) AS span FROM data)
SELECT
    (least((t_submit - t0)::HUGEINT * $windows::BIGINT // span, $windows::BIGINT - 1) + 0.5) * any_value(span) / $windows::BIGINT / 1e9 AS s,
    pow(2, floor(log2(latency) * 4) / 4) / 1e3 AS us,
    count(*) AS ops
FROM data, extent
GROUP BY least((t_submit - t0)::HUGEINT * $windows::BIGINT // span, $windows::BIGINT - 1), us
ORDER BY s, us
