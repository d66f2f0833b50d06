-- How many ops, and how much of the time in ops, move no data.
--
-- Columns: ops BIGINT; metadata_ops BIGINT; metadata_share DOUBLE; time_share DOUBLE of the latency of all (null if unknown); kinds
--          VARCHAR of them
SELECT count(*) AS ops, count(*) FILTER (NOT is_data(op)) AS metadata_ops,
       count(*) FILTER (NOT is_data(op)) / nullif(count(*), 0) AS metadata_share,
       coalesce(sum(latency) FILTER (NOT is_data(op)), 0) / nullif(sum(latency), 0) AS time_share,
       string_agg(DISTINCT op, ', ' ORDER BY op) FILTER (NOT is_data(op)) AS kinds
FROM ops
WHERE op <> 'hint'
