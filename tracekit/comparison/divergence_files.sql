-- Ops, bytes and median latency of each file, over the view `ops`.
--
-- Columns: uri VARCHAR, ops BIGINT, bytes BIGINT moved (null if unknown), p50_ns DOUBLE median latency
SELECT uri, count(*) AS ops, sum(bytes)::BIGINT AS bytes, quantile_disc(latency, 0.5)::DOUBLE AS p50_ns
FROM ops
WHERE op <> 'hint' AND op <> 'list'
GROUP BY uri
