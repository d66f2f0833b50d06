-- What a run did over time, in equal windows from the first submit to the last end. Empty windows are rows.
--
-- over_time(windows)  win BIGINT number, start_s DOUBLE and s DOUBLE (middle) since the first submit,
--                     ops BIGINT submitted, bytes BIGINT of ops that ended, bytes_per_s DOUBLE, ops_per_s DOUBLE,
--                     p50_us, p90_us, p99_us, max_us DOUBLE latency of ops submitted (null where none ended),
--                     failed BIGINT, mean_qd DOUBLE ops and mean_inflight_bytes DOUBLE in flight on average
--                     (op-time in the window over its length: exact, by Little's law; an op that never ended has no
--                     op-time and counts for nothing there: see in_flight())
-- Example: FROM over_time(100)
CREATE OR REPLACE MACRO over_time(windows) AS TABLE
    WITH extent AS MATERIALIZED (
        SELECT min(t_submit) AS t0, greatest(max(t_submit + coalesce(latency, 0)) - min(t_submit), 1) AS span
        FROM ops WHERE op <> 'hint'
    ),
    placed AS NOT MATERIALIZED (
        SELECT t_submit, t_submit + coalesce(latency, 0) AS t_end, latency, coalesce(bytes, 0) AS bytes,
               coalesce(len, bytes, 0) AS asked, error, t0, span,
               least((t_submit - t0)::HUGEINT * windows // span, windows - 1)::BIGINT AS first_win,
               least((t_submit + coalesce(latency, 0) - t0)::HUGEINT * windows // span, windows - 1)::BIGINT AS last_win
        FROM ops, extent
        WHERE op <> 'hint'
    ),
    grid AS (SELECT unnest(range(0, windows::BIGINT)) AS win),
    -- Most ops end in the window in which they begin: these need no cutting.
    submitted AS (
        SELECT first_win AS win, count(*) AS ops, count(*) FILTER (error IS NOT NULL) AS failed,
               quantile_disc(latency, [0.5, 0.9, 0.99]) AS quantiles, max(latency) / 1e3 AS max_us,
               sum(bytes) FILTER (first_win = last_win) AS bytes,
               sum(t_end - t_submit) FILTER (first_win = last_win) AS op_ns,
               sum(asked::DOUBLE * (t_end - t_submit)) FILTER (first_win = last_win) AS byte_ns
        FROM placed GROUP BY first_win
    ),
    pieces AS (
        SELECT unnest(range(first_win, last_win + 1)) AS win, t_submit, t_end, bytes, asked, last_win, t0, span
        FROM placed WHERE first_win <> last_win
    ),
    cut AS (
        SELECT *, greatest(least(t_end, t0 + (win + 1) * span / windows) - greatest(t_submit, t0 + win * span / windows), 0) AS ns
        FROM pieces
    ),
    flying AS (
        SELECT win, sum(bytes) FILTER (win = last_win) AS bytes, sum(ns) AS op_ns, sum(asked * ns) AS byte_ns
        FROM cut GROUP BY win
    ),
    joined AS (
        SELECT win, coalesce(submitted.ops, 0) AS ops, coalesce(submitted.failed, 0) AS failed,
               (coalesce(submitted.bytes, 0) + coalesce(flying.bytes, 0))::BIGINT AS bytes,
               coalesce(submitted.op_ns, 0) + coalesce(flying.op_ns, 0) AS op_ns,
               coalesce(submitted.byte_ns, 0) + coalesce(flying.byte_ns, 0) AS byte_ns, quantiles, max_us
        FROM grid LEFT JOIN submitted USING (win) LEFT JOIN flying USING (win)
    )
    SELECT
        win,
        win * span / windows / 1e9 AS start_s,
        (win + 0.5) * span / windows / 1e9 AS s,
        ops,
        bytes,
        bytes / (span / windows / 1e9) AS bytes_per_s,
        ops / (span / windows / 1e9) AS ops_per_s,
        quantiles[1] / 1e3 AS p50_us, quantiles[2] / 1e3 AS p90_us, quantiles[3] / 1e3 AS p99_us, max_us,
        failed,
        op_ns / (span / windows) AS mean_qd,
        byte_ns / (span / windows) AS mean_inflight_bytes
    FROM joined, extent
    WHERE span IS NOT NULL AND t0 IS NOT NULL
    ORDER BY win;
