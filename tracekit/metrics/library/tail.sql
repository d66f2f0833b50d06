-- Where the slowest ops are, and how late the ops of a replay were submitted.
--
-- tail_edge(share) -> BIGINT: ns: the least latency in the slowest `share` of ops
-- tail_by(share, by): what the slowest `share` of ops have in common, compared with all ops
--     key VARCHAR (see op_key), tail_ops BIGINT in the slowest `share` of ops, tail_share DOUBLE of that tail, ops BIGINT
--     of all, all_share DOUBLE of all, lift DOUBLE tail_share over all_share (1 = in proportion), worst_us DOUBLE
-- tail_windows(share, windows): when the slowest `share` of ops were submitted
--     win BIGINT, s DOUBLE middle since the first submit, tail_ops BIGINT, worst_us DOUBLE
-- lateness(windows): how late the ops of a replay were submitted
--     win BIGINT, s DOUBLE middle since the first submit, ops BIGINT, p50_us DOUBLE, p99_us DOUBLE, max_us DOUBLE of
--     t_submit - t_due; only ops that have a due time
-- lateness_in(width_ns, early_ns): the same, in windows of `width_ns`, the first from `early_ns` before the first submit
--     win BIGINT, s DOUBLE, ops BIGINT, p50_us DOUBLE, p99_us DOUBLE, max_us DOUBLE
-- Ops with the same latency as the edge belong to the tail. Windows are those of over_time(windows), without the empty ones.
-- Example: FROM tail_by(0.001, 'uri') LIMIT 10
CREATE OR REPLACE MACRO tail_edge(share) AS (
    SELECT latency FROM ops WHERE latency IS NOT NULL AND op <> 'hint' ORDER BY latency DESC LIMIT 1
    OFFSET (
        SELECT greatest(ceil(share * count(*)), 1)::BIGINT - 1 FROM ops WHERE latency IS NOT NULL AND op <> 'hint'
    )
);
CREATE OR REPLACE MACRO tail_by(share, by_) AS TABLE
    WITH edge AS MATERIALIZED (SELECT tail_edge(share) AS ns),
    counted AS (
        SELECT op_key(by_, uri, op, error, rank, worker) AS key, count(*) FILTER (latency >= ns) AS tail_ops,
               count(*) AS ops, max(latency) / 1e3 AS worst_us
        FROM ops, edge
        WHERE latency IS NOT NULL AND op <> 'hint'
        GROUP BY key
    )
    SELECT
        key,
        tail_ops,
        tail_ops / sum(tail_ops) OVER () AS tail_share,
        ops,
        ops / sum(ops) OVER () AS all_share,
        (tail_ops / sum(tail_ops) OVER ()) / (ops / sum(ops) OVER ()) AS lift,
        worst_us
    FROM counted
    ORDER BY tail_ops DESC, key;
CREATE OR REPLACE MACRO tail_windows(share, windows) AS TABLE
    WITH edge AS MATERIALIZED (
        SELECT tail_edge(share) AS ns, t0 - early_ns AS start, span_ns + early_ns AS long, width_ns, early_ns
        FROM run_extent(), time_window((SELECT span_ns FROM run_extent()), windows)
    )
    SELECT window_of(t_submit, start, long, width_ns) AS win,
           ((win + 0.5) * any_value(width_ns) - any_value(early_ns)) / 1e9 AS s,
           count(*) FILTER (latency >= ns) AS tail_ops,
           max(latency) / 1e3 AS worst_us
    FROM ops, edge
    WHERE latency IS NOT NULL AND op <> 'hint'
    GROUP BY win
    ORDER BY win;
CREATE OR REPLACE MACRO lateness_in(width_ns, early_ns) AS TABLE
    WITH extent AS MATERIALIZED (
        SELECT t0 - before AS start, span_ns + before AS long, width, before
        FROM (SELECT *, width_ns::BIGINT AS width, early_ns::BIGINT AS before FROM run_extent())
    ),
    timed AS (
        SELECT window_of(t_submit, start, long, width) AS win, width, before, count(*) AS ops,
               quantile_disc(t_submit - t_due, [0.5, 0.99]) AS late, max(t_submit - t_due) AS worst
        FROM ops, extent
        WHERE t_due IS NOT NULL AND op <> 'hint'
        GROUP BY win, width, before
    )
    SELECT win, ((win + 0.5) * width - before) / 1e9 AS s, ops, late[1] / 1e3 AS p50_us, late[2] / 1e3 AS p99_us,
           worst / 1e3 AS max_us
    FROM timed
    ORDER BY win;
CREATE OR REPLACE MACRO lateness(windows) AS TABLE
    WITH chosen AS MATERIALIZED (FROM time_window((SELECT span_ns FROM run_extent()), windows))
    FROM lateness_in((SELECT width_ns FROM chosen), (SELECT early_ns FROM chosen));
