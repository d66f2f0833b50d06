-- What a run did over time, in equal windows from the first submit to the last end. Empty windows are rows.
--
-- over_time(windows)  win BIGINT number, start_s DOUBLE and s DOUBLE (middle) since the first submit,
--                     ops BIGINT submitted, bytes BIGINT of ops that ended, bytes_per_s DOUBLE, ops_per_s DOUBLE,
--                     p50_us, p90_us, p99_us, max_us DOUBLE latency of ops submitted (null where none ended),
--                     failed BIGINT, mean_qd DOUBLE ops and mean_inflight_bytes DOUBLE in flight on average
--                     (op-time in the window over its length: exact, by Little's law)
-- Example: FROM over_time(100)
CREATE OR REPLACE MACRO over_time(windows) AS TABLE
    WITH data AS (
        SELECT t_submit, t_submit + coalesce(latency, 0) AS t_end, latency, coalesce(bytes, 0) AS bytes,
               coalesce(len, bytes, 0) AS asked, error
        FROM ops
        WHERE op <> 'hint'
    ),
    extent AS (
        SELECT min(t_submit) AS t0, greatest(max(t_end) - min(t_submit), 1) AS span FROM data
    ),
    placed AS (
        SELECT *, least((t_submit - t0)::HUGEINT * windows // span, windows - 1)::BIGINT AS first_win,
               least((t_end - t0)::HUGEINT * windows // span, windows - 1)::BIGINT AS last_win
        FROM data, extent
    ),
    grid AS (SELECT unnest(range(0, windows::BIGINT)) AS win),
    submitted AS (
        SELECT first_win AS win, count(*) AS ops, count(*) FILTER (error IS NOT NULL) AS failed,
               quantile_disc(latency, 0.5) / 1e3 AS p50_us, quantile_disc(latency, 0.9) / 1e3 AS p90_us,
               quantile_disc(latency, 0.99) / 1e3 AS p99_us, max(latency) / 1e3 AS max_us
        FROM placed GROUP BY first_win
    ),
    ended AS (SELECT last_win AS win, sum(bytes)::BIGINT AS bytes FROM placed GROUP BY last_win),
    -- An op's time, cut at the windows that it touches.
    pieces AS (
        SELECT unnest(range(first_win, last_win + 1)) AS win, t_submit, t_end, asked, t0, span FROM placed
    ),
    flying AS (
        SELECT win,
               sum(greatest(least(t_end, t0 + (win + 1) * span / windows) - greatest(t_submit, t0 + win * span / windows), 0)) AS op_ns,
               sum(asked * greatest(least(t_end, t0 + (win + 1) * span / windows) - greatest(t_submit, t0 + win * span / windows), 0)) AS byte_ns
        FROM pieces GROUP BY win
    )
    SELECT
        win,
        win * span / windows / 1e9 AS start_s,
        (win + 0.5) * span / windows / 1e9 AS s,
        coalesce(submitted.ops, 0) AS ops,
        coalesce(ended.bytes, 0) AS bytes,
        coalesce(ended.bytes, 0) / (span / windows / 1e9) AS bytes_per_s,
        coalesce(submitted.ops, 0) / (span / windows / 1e9) AS ops_per_s,
        p50_us, p90_us, p99_us, max_us,
        coalesce(submitted.failed, 0) AS failed,
        coalesce(op_ns, 0) / (span / windows) AS mean_qd,
        coalesce(byte_ns, 0) / (span / windows) AS mean_inflight_bytes
    FROM grid LEFT JOIN submitted USING (win) LEFT JOIN ended USING (win) LEFT JOIN flying USING (win), extent
    WHERE span IS NOT NULL AND t0 IS NOT NULL
    ORDER BY win;
