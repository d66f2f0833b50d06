-- Scalars to group by, and the windows into which a run is cut.
--
-- uri_scheme(uri) -> VARCHAR: scheme in lower case; `file` for a plain path
-- uri_prefix(uri, depth) -> VARCHAR: the scheme, the bucket and the first `depth` parts of the path
-- log2_floor(n) -> INTEGER: exact floor(log2(n)); 0 for n < 1
-- latency_lo(ns) -> BIGINT: ns: lower edge of the bucket of a latency, inclusive
--     Buckets are log-linear, 64 to a power of two: at most 1.6 % wide.
-- latency_hi(ns) -> BIGINT: ns: upper edge of the bucket of a latency, exclusive
-- latency_shift(ns) -> INTEGER: low bits that the bucket of `ns` drops
-- size_lo(n) -> BIGINT: bytes: lower edge of the power-of-two bucket of a size; 0 is in [0, 1)
-- size_hi(n) -> BIGINT: bytes: upper edge of the power-of-two bucket of a size, exclusive
-- round_window(span_ns, windows) -> BIGINT: ns: the shortest round window of which at most `windows` cover the span
--     Round is 1, 2, 5, 10, 20, 50 ... ns.
-- step_period() -> BIGINT: ns: how far the steps of a run are apart
--     The median over 16 neighbours (of half the steps if there are fewer than 32) of their first submits; null if there are
--     fewer than 8 steps, or if the first submits of steps span less than half of the run.
-- lull(period_ns) -> BIGINT: ns: the quietest moment of a period, as the time from there to the first submit of the run
--     That is half a period from the mean of the submits on the circle of one period. 0 if they are spread evenly over the
--     circle (the mean is less than 1 % of the radius off its centre), and if the period is null.
-- time_window(span_ns, windows): the windows into which a run is cut, at most `windows`
--     width_ns BIGINT length, period_ns BIGINT of steps (null if the length is round), early_ns BIGINT from the begin of
--     the first window to the first submit
--     A load in bursts, one a step, aliases with windows of nearly a step: some hold a burst more than others. Where round
--     windows are of a quarter to 50 steps, windows of whole steps that begin between two bursts take their place: of 4
--     steps where at least 12 such windows remain, of fewer in a shorter run, of more where there would be too many.
-- window_of(t, t0, span_ns, width) -> BIGINT: number of the window of `width` ns that holds the time `t`
-- run_extent(): when the run began, how long it took, and what is known of it
--     t0 BIGINT ns first submit, span_ns BIGINT from there to the last submit or end (at least 1; both null without
--     ops), has_ends BOOLEAN whether any op ended, has_bytes BOOLEAN whether the bytes moved of any op are known
-- Example: SELECT worker, latency_lo(latency) AS lo, count(*) FROM ops GROUP BY ALL
CREATE OR REPLACE MACRO uri_scheme(uri) AS
    CASE WHEN contains(uri, '://') THEN lower(split_part(uri, '://', 1)) ELSE 'file' END;
CREATE OR REPLACE MACRO uri_prefix(uri, depth) AS
    array_to_string(string_split(uri, '/')[: depth + CASE WHEN contains(uri, '://') THEN 3 WHEN starts_with(uri, '/') THEN 1 ELSE 0 END], '/');
-- log2 of a number just below a power of two may be rounded up to it.
CREATE OR REPLACE MACRO log2_floor(n) AS
    least(floor(log2(greatest(n, 1))), 62)::INTEGER
    - CASE WHEN (1::BIGINT << least(floor(log2(greatest(n, 1))), 62)::INTEGER) > greatest(n, 1) THEN 1 ELSE 0 END;
CREATE OR REPLACE MACRO latency_shift(ns) AS greatest(log2_floor(ns) - 6, 0);
CREATE OR REPLACE MACRO latency_lo(ns) AS (ns >> latency_shift(ns)) << latency_shift(ns);
CREATE OR REPLACE MACRO latency_hi(ns) AS ((ns >> latency_shift(ns)) + 1) << latency_shift(ns);
CREATE OR REPLACE MACRO size_lo(n) AS CASE WHEN n IS NULL THEN NULL WHEN n <= 0 THEN 0 ELSE 1::BIGINT << log2_floor(n) END;
CREATE OR REPLACE MACRO size_hi(n) AS CASE WHEN n IS NULL THEN NULL WHEN n <= 0 THEN 1 ELSE 1::BIGINT << (log2_floor(n) + 1) END;
CREATE OR REPLACE MACRO round_window(span_ns, windows) AS (
    SELECT CASE
        WHEN windows < 1 THEN error('windows is less than 1')
        WHEN w <= ten THEN ten
        WHEN w <= 2 * ten THEN 2 * ten
        WHEN w <= 5 * ten THEN 5 * ten
        ELSE 10 * ten
    END::BIGINT
    FROM (
        SELECT w, (10 ** (length(w::VARCHAR) - 1))::BIGINT AS ten
        FROM (SELECT greatest((span_ns + windows::BIGINT - 1) // windows::BIGINT, 1)::BIGINT AS w)
    )
);
CREATE OR REPLACE MACRO run_extent() AS TABLE
    SELECT min(t_submit) AS t0, greatest(max(t_submit + coalesce(response_ns(latency, wait_ns), 0)) - min(t_submit), 1) AS span_ns,
           count(latency) > 0 AS has_ends, count(bytes) > 0 AS has_bytes
    FROM ops WHERE op <> 'hint';
CREATE OR REPLACE MACRO step_period() AS (
    WITH began AS (SELECT min(t_submit) AS t FROM ops WHERE step IS NOT NULL AND op <> 'hint' GROUP BY step),
    spread AS (SELECT count(*) AS n, max(t) - min(t) AS long, least(16, count(*) // 2)::INTEGER AS apart FROM began),
    distances AS (SELECT (lead(t, (SELECT apart FROM spread)) OVER (ORDER BY t) - t) / (SELECT apart FROM spread) AS d FROM began)
    SELECT CASE WHEN n >= 8 AND 2 * long >= span_ns THEN nullif(round((SELECT median(d) FROM distances))::BIGINT, 0) END
    FROM spread, run_extent()
);
CREATE OR REPLACE MACRO lull(period_ns) AS (
    WITH circle AS (
        SELECT ((t_submit - t0) % period * 64 // period) * 2 * pi() / 64 AS angle, count(*) AS n, any_value(period) AS period
        FROM ops, run_extent(), (SELECT period_ns::BIGINT AS period)
        WHERE op <> 'hint' AND period IS NOT NULL
        GROUP BY angle
    )
    SELECT coalesce(max(CASE WHEN x * x + y * y > 1e-4 * n * n THEN (pi() - atan2(y, x)) / (2 * pi()) * period END), 0)::BIGINT
    FROM (SELECT sum(n * cos(angle)) AS x, sum(n * sin(angle)) AS y, sum(n) AS n, any_value(period) AS period FROM circle)
);
CREATE OR REPLACE MACRO time_window(span, windows) AS TABLE
    SELECT width_ns, period_ns, lull(period_ns) AS early_ns
    FROM (
        SELECT CASE WHEN aliases THEN greatest((longer + period - 1) // period, least(4, span // (12 * period))) * period ELSE width END AS width_ns,
               CASE WHEN aliases THEN period END AS period_ns
        FROM (
            SELECT *, coalesce(4 * width > period AND width < 50 * period, false) AS aliases, round_window(span + period, windows) AS longer
            FROM (SELECT round_window(span, windows) AS width, step_period() AS period)
        )
    );
CREATE OR REPLACE MACRO window_of(t, t0, span_ns, width) AS
    least((t - t0) // width, greatest((span_ns + width - 1) // width, 1) - 1)::BIGINT;
