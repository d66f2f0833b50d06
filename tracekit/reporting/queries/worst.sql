-- The file that took most time, the stream with the largest p99 and the slowest step, in one row; null where none is known.
--
-- Columns: file STRUCT(uri VARCHAR, total_ns BIGINT, time_share DOUBLE of the latency of all reads and writes); stream STRUCT(stream
--          VARCHAR, p99_ns BIGINT); step STRUCT(step BIGINT, rank INTEGER, wall_ns BIGINT); streams, ranks BIGINT numbers of them
SELECT
    (
        SELECT {'uri': uri, 'total_ns': round(latency_sum_us * 1e3)::BIGINT, 'time_share': latency_sum_us / sum(latency_sum_us) OVER ()}
        FROM per_file() WHERE latency_sum_us > 0 ORDER BY latency_sum_us DESC, uri LIMIT 1
    ) AS file,
    (
        SELECT {'stream': op_key('worker', '', '', NULL, rank, worker), 'p99_ns': quantile_disc(latency, 0.99)}
        FROM ops WHERE op <> 'hint' AND latency IS NOT NULL GROUP BY rank, worker
        ORDER BY quantile_disc(latency, 0.99) DESC, rank, worker LIMIT 1
    ) AS stream,
    (
        SELECT {'step': step, 'rank': rank, 'wall_ns': round(wall_ms * 1e6)::BIGINT}
        FROM per_step() WHERE wall_ms IS NOT NULL ORDER BY wall_ms DESC, rank, step LIMIT 1
    ) AS step,
    (SELECT count(*) FROM (SELECT DISTINCT rank, worker FROM ops WHERE op <> 'hint')) AS streams,
    (SELECT count(*) FROM (SELECT DISTINCT rank FROM ops WHERE op <> 'hint')) AS ranks
