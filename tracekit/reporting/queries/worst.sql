-- The tables of the page, worst first, over the view `ops` and the macros.
--
-- Parameter: $most  rows a table
-- Columns: title VARCHAR  the table; rows JSON  a list of its rows as objects, times in ns, sizes in bytes
SELECT 'Failures' AS title, to_json(list(r)) AS rows
FROM (
    SELECT error, op, count(*) AS ops, arg_min(uri, t_submit) AS first_uri
    FROM ops WHERE error IS NOT NULL GROUP BY error, op ORDER BY ops DESC LIMIT $most
) r
UNION ALL
SELECT 'Files that own the tail', to_json(list(r))
FROM (
    SELECT key AS uri, tail_ops, lift, worst_us * 1e3 AS worst_ns
    FROM tail_by(0.01, 'uri') WHERE tail_ops > 0 ORDER BY tail_ops DESC, uri LIMIT $most
) r
UNION ALL
SELECT 'Slowest steps', to_json(list(r))
FROM (
    SELECT rank, step, wall_ms * 1e6 AS wall_ns, ops, slowest_us * 1e3 AS slowest_ns, slowest_uri
    FROM per_step() ORDER BY wall_ms DESC LIMIT $most
) r
UNION ALL
SELECT 'Streams', to_json(list(r))
FROM (
    SELECT rank::VARCHAR || '/' || worker::VARCHAR AS stream, count(*) AS ops, coalesce(sum(bytes), 0)::BIGINT AS bytes,
           quantile_disc(latency, 0.99) AS p99_ns
    FROM ops WHERE op <> 'hint' GROUP BY rank, worker ORDER BY p99_ns DESC NULLS LAST LIMIT $most
) r
