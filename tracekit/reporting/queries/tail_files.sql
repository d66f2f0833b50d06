-- The files with most of the slowest 1 % of ops, over the macro `tail_by`.
--
-- Parameter: $most  number of rows at most
-- Columns: uri VARCHAR, tail_ops BIGINT, lift DOUBLE, worst_ns DOUBLE
SELECT key AS uri, tail_ops, lift, worst_us * 1e3 AS worst_ns
FROM tail_by(0.01, 'uri')
WHERE tail_ops > 0
ORDER BY tail_ops DESC, worst_us DESC, uri
LIMIT $most::BIGINT
