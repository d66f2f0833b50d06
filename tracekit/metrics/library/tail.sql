-- Who owns the slowest ops, and how late a replay's ops went.
--
-- tail_by(share, by)  key VARCHAR (see op_key), tail_ops BIGINT of the slowest `share` of ops, tail_share DOUBLE of that
--                     tail, ops BIGINT of all, all_share DOUBLE of all, lift DOUBLE tail_share over all_share (1 = its
--                     fair part), worst_us DOUBLE
-- tail_windows(share, windows)  win BIGINT, s DOUBLE middle since the first submit, tail_ops BIGINT, worst_us DOUBLE
-- lateness(windows)   win BIGINT, s DOUBLE middle since the first submit, ops BIGINT, p50_us, p99_us, max_us DOUBLE of
--                     t_submit - t_due; only ops that have a due time
-- Example: FROM tail_by(0.001, 'uri') LIMIT 10
CREATE OR REPLACE MACRO tail_by(share, by_) AS TABLE
    WITH ranked AS (
        SELECT
            op_key(by_, uri, op, error, rank, worker) AS key,
            latency,
            row_number() OVER (ORDER BY latency DESC) <= greatest(ceil(share * count(*) OVER ()), 1) AS slow
        FROM ops
        WHERE latency IS NOT NULL AND op <> 'hint'
    )
    SELECT
        key,
        count(*) FILTER (slow) AS tail_ops,
        count(*) FILTER (slow) / sum(count(*) FILTER (slow)) OVER () AS tail_share,
        count(*) AS ops,
        count(*) / sum(count(*)) OVER () AS all_share,
        (count(*) FILTER (slow) / sum(count(*) FILTER (slow)) OVER ()) / (count(*) / sum(count(*)) OVER ()) AS lift,
        max(latency) / 1e3 AS worst_us
    FROM ranked
    GROUP BY key
    ORDER BY tail_ops DESC, key;
CREATE OR REPLACE MACRO tail_windows(share, windows) AS TABLE
    WITH ranked AS (
        SELECT t_submit, latency,
               row_number() OVER (ORDER BY latency DESC) <= greatest(ceil(share * count(*) OVER ()), 1) AS slow,
               min(t_submit) OVER () AS t0, greatest(max(t_submit) OVER () - min(t_submit) OVER (), 1) AS span
        FROM ops
        WHERE latency IS NOT NULL AND op <> 'hint'
    )
    SELECT least((t_submit - t0)::HUGEINT * windows // span, windows - 1)::BIGINT AS win,
           (win + 0.5) * any_value(span) / windows / 1e9 AS s,
           count(*) FILTER (slow) AS tail_ops,
           max(latency) / 1e3 AS worst_us
    FROM ranked
    GROUP BY win
    ORDER BY win;
CREATE OR REPLACE MACRO lateness(windows) AS TABLE
    WITH timed AS (
        SELECT t_submit, t_submit - t_due AS late, min(t_submit) OVER () AS t0,
               greatest(max(t_submit) OVER () - min(t_submit) OVER (), 1) AS span
        FROM ops
        WHERE t_due IS NOT NULL
    )
    SELECT least((t_submit - t0)::HUGEINT * windows // span, windows - 1)::BIGINT AS win,
           (win + 0.5) * any_value(span) / windows / 1e9 AS s,
           count(*) AS ops,
           quantile_disc(late, 0.5) / 1e3 AS p50_us,
           quantile_disc(late, 0.99) / 1e3 AS p99_us,
           max(late) / 1e3 AS max_us
    FROM timed
    GROUP BY win
    ORDER BY win;
