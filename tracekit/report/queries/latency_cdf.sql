-- The distribution of latency, as 512 quantiles and the tail, over the view `ops`.
--
-- Columns: fraction DOUBLE  share of ops that took at most `us`
--          us       DOUBLE  latency
WITH found AS (
    SELECT quantile_disc(
        latency,
        list_concat(list_transform(range(0, 513), lambda i: i / 512.0), [0.999, 0.9995, 0.9999, 0.99995, 0.99999])
    ) AS ns
    FROM ops
    WHERE latency IS NOT NULL AND op <> 'hint'
)
SELECT
    unnest(list_concat(list_transform(range(0, 513), lambda i: i / 512.0), [0.999, 0.9995, 0.9999, 0.99995, 0.99999])) AS fraction,
    unnest(ns) / 1000.0 AS us
FROM found
WHERE ns IS NOT NULL
ORDER BY fraction
