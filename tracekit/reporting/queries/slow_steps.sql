-- The slowest steps, over the macro `per_step`.
--
-- Parameter: $most  number of rows at most
-- Columns: rank INTEGER, step BIGINT, wall_ns DOUBLE, ops BIGINT, slowest_ns DOUBLE, slowest_uri VARCHAR
SELECT rank, step, wall_ms * 1e6 AS wall_ns, ops, slowest_us * 1e3 AS slowest_ns, slowest_uri
FROM per_step()
ORDER BY wall_ms DESC NULLS LAST, rank, step
LIMIT $most::BIGINT
