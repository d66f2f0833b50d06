-- A run over time, in equal windows from the first submit to the last end. Empty windows are rows.
--
-- over_time(windows): rates, latency and averages in flight in at most `windows` windows (see time_window)
--     win BIGINT number, start_s DOUBLE since the first submit, s DOUBLE middle of the window since the first submit,
--     window_s DOUBLE length (the last may be shorter than the others), ops BIGINT submitted, bytes BIGINT moved,
--     bytes_per_s DOUBLE, read_bytes_per_s DOUBLE, write_bytes_per_s DOUBLE, ops_per_s DOUBLE, p50_us DOUBLE, p90_us DOUBLE,
--     p99_us DOUBLE, max_us DOUBLE latency of the ops submitted (null if none ended), failed BIGINT, mean_qd DOUBLE
--     ops in flight on average, mean_inflight_bytes DOUBLE bytes in flight on average
-- over_windows(width_ns, early_ns := 0): the same, in windows of `width_ns`, the first from `early_ns` before the first submit
--     win BIGINT, start_s DOUBLE, s DOUBLE, window_s DOUBLE, ops BIGINT, bytes BIGINT, bytes_per_s DOUBLE,
--     read_bytes_per_s DOUBLE, write_bytes_per_s DOUBLE, ops_per_s DOUBLE, p50_us DOUBLE, p90_us DOUBLE, p99_us DOUBLE,
--     max_us DOUBLE, failed BIGINT, mean_qd DOUBLE, mean_inflight_bytes DOUBLE
-- over_windows_by(width_ns, by, early_ns := 0): the same for each value of a grouping (see op_key)
--     key VARCHAR, win BIGINT, start_s DOUBLE, s DOUBLE, window_s DOUBLE, ops BIGINT, bytes BIGINT, bytes_per_s DOUBLE,
--     read_bytes_per_s DOUBLE, write_bytes_per_s DOUBLE, ops_per_s DOUBLE, p50_us DOUBLE, p90_us DOUBLE, p99_us DOUBLE,
--     max_us DOUBLE, failed BIGINT, mean_qd DOUBLE, mean_inflight_bytes DOUBLE
-- The bytes of an op are spread evenly over its time from submit to end. Averages in flight are the time of ops in the
-- window over its length (exact, by Little's law); an op that never ended has no time and counts for nothing there.
-- bytes and the three bytes_per_s are null if no op of the trace says what it moved; averages in flight if none has a latency.
-- Example: FROM over_time(100)
CREATE OR REPLACE MACRO over_windows_by(width_ns, by_, early_ns := 0) AS TABLE
    WITH extent AS MATERIALIZED (
        SELECT *, greatest((span_ns + width - 1) // width, 1) AS n
        FROM (
            SELECT * REPLACE (t0 - early AS t0, span_ns + early AS span_ns)
            FROM (SELECT *, width_ns::BIGINT AS width, early_ns::BIGINT AS early FROM run_extent())
        )
    ),
    timed AS (
        SELECT op_key(by_, uri, op, error, rank, worker) AS key, t_submit, t_submit + coalesce(response_ns(latency, wait_ns), 0) AS t_end, latency, coalesce(bytes, 0) AS bytes,
               CASE WHEN is_write(op) THEN coalesce(bytes, 0) ELSE 0 END AS written, coalesce(len, bytes, 0) AS asked, error, t0, span_ns, width, window_of(t_submit, t0, span_ns, width) AS first_win
        FROM ops, extent
        WHERE op <> 'hint'
    ),
    placed AS NOT MATERIALIZED (
        SELECT *, greatest(first_win, window_of(t_end - 1, t0, span_ns, width)) AS last_win FROM timed
    ),
    grid AS (SELECT key, unnest(range(0, n)) AS win FROM (SELECT DISTINCT key FROM timed), extent),
    -- Most ops end in the window in which they begin: these need no cutting.
    submitted AS (
        SELECT key, first_win AS win, count(*) AS ops, count(*) FILTER (error IS NOT NULL) AS failed,
               quantile_disc(latency, [0.5, 0.9, 0.99]) AS quantiles, max(latency) / 1e3 AS max_us,
               sum(bytes) FILTER (first_win = last_win) AS bytes,
               sum(written) FILTER (first_win = last_win) AS written,
               sum(t_end - t_submit) FILTER (first_win = last_win) AS op_ns,
               sum(asked::DOUBLE * (t_end - t_submit)) FILTER (first_win = last_win) AS byte_ns
        FROM placed GROUP BY key, first_win
    ),
    pieces AS (
        SELECT key, unnest(range(first_win, last_win + 1)) AS win, t_submit, t_end, bytes, written, asked, t0, width
        FROM placed WHERE first_win <> last_win
    ),
    cut AS (
        SELECT key, win, bytes, written, asked, t_end - t_submit AS whole_ns, greatest(t0 + win * width - t_submit, 0) AS before_ns,
               least(t0 + (win + 1) * width, t_end) - t_submit AS after_ns
        FROM pieces
    ),
    flying AS (
        -- Differences of one rising whole number: the pieces of an op add up to its bytes.
        SELECT key, win, sum(bytes::HUGEINT * after_ns // whole_ns - bytes::HUGEINT * before_ns // whole_ns) AS bytes,
               sum(written::HUGEINT * after_ns // whole_ns - written::HUGEINT * before_ns // whole_ns) AS written,
               sum(after_ns - before_ns) AS op_ns, sum(asked::DOUBLE * (after_ns - before_ns)) AS byte_ns
        FROM cut GROUP BY key, win
    ),
    joined AS (
        SELECT key, win, coalesce(submitted.ops, 0) AS ops, coalesce(submitted.failed, 0) AS failed,
               (coalesce(submitted.bytes, 0) + coalesce(flying.bytes, 0))::BIGINT AS bytes,
               (coalesce(submitted.written, 0) + coalesce(flying.written, 0))::BIGINT AS written,
               coalesce(submitted.op_ns, 0) + coalesce(flying.op_ns, 0) AS op_ns,
               coalesce(submitted.byte_ns, 0) + coalesce(flying.byte_ns, 0) AS byte_ns, quantiles, max_us
        FROM grid LEFT JOIN submitted USING (key, win) LEFT JOIN flying USING (key, win)
    )
    SELECT
        key,
        win,
        (win * width - early) / 1e9 AS start_s,
        (win * width - early + long / 2) / 1e9 AS s,
        long / 1e9 AS window_s,
        ops,
        CASE WHEN has_bytes THEN bytes END AS bytes,
        CASE WHEN has_bytes THEN bytes / (long / 1e9) END AS bytes_per_s,
        CASE WHEN has_bytes THEN (bytes - written) / (long / 1e9) END AS read_bytes_per_s,
        CASE WHEN has_bytes THEN written / (long / 1e9) END AS write_bytes_per_s,
        ops / (long / 1e9) AS ops_per_s,
        quantiles[1] / 1e3 AS p50_us, quantiles[2] / 1e3 AS p90_us, quantiles[3] / 1e3 AS p99_us, max_us,
        failed,
        CASE WHEN has_ends THEN op_ns / long END AS mean_qd,
        CASE WHEN has_ends THEN byte_ns / long END AS mean_inflight_bytes
    FROM (SELECT *, least(width, span_ns - win * width) AS long FROM joined, extent)
    ORDER BY key, win;
CREATE OR REPLACE MACRO over_windows(width_ns, early_ns := 0) AS TABLE
    SELECT * EXCLUDE (key) FROM over_windows_by(width_ns, 'all', early_ns := early_ns) ORDER BY win;
CREATE OR REPLACE MACRO over_time(windows) AS TABLE
    WITH chosen AS MATERIALIZED (FROM time_window((SELECT span_ns FROM run_extent()), windows))
    FROM over_windows((SELECT width_ns FROM chosen), early_ns := (SELECT early_ns FROM chosen));
