-- Ops, bytes and median latency of each file, over the view `ops`.
--
-- Columns: uri VARCHAR, ops BIGINT, bytes BIGINT moved, p50_ns DOUBLE median latency
SELECT uri, count(*) AS ops, coalesce(sum(bytes), 0)::BIGINT AS bytes, quantile_disc(latency, 0.5)::DOUBLE AS p50_ns
FROM ops
WHERE op IN ('read', 'get', 'put')
GROUP BY uri
