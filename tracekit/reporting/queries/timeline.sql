-- When each stream had an op in flight: spans of time, over the view `ops` and the macros.
--
-- The streams are those with most time in ops. Ops of one class in one stream form a span unless the pause between
-- them is a visible part of the run. An op that never ended has no time and is left out.
-- Parameters: $lanes  streams at most; $spans  spans that may begin in all lanes together, of one class
-- Columns: lane BIGINT in order of rank and worker; stream VARCHAR rank/worker; of_lanes BIGINT streams of the trace;
--          class VARCHAR reads, writes or other ops; start_s, end_s DOUBLE since the first submit; ops BIGINT; failed BIGINT;
--          slowest_ns BIGINT
WITH chosen AS (
    SELECT rank, worker, count(*) OVER () AS of_lanes
    FROM ops
    WHERE op <> 'hint'
    GROUP BY rank, worker
    ORDER BY sum(latency) DESC NULLS LAST, count(*) DESC, rank, worker
    LIMIT $lanes::BIGINT
),
numbered AS (
    SELECT *, row_number() OVER (ORDER BY rank NULLS LAST, worker NULLS LAST) - 1 AS lane, count(*) OVER () AS lanes
    FROM chosen
),
timed AS (
    SELECT *, row_number() OVER (PARTITION BY lane, class ORDER BY t, t_end) AS n
    FROM (
        SELECT
            lane,
            of_lanes,
            op_key('worker', uri, op, error, ops.rank, ops.worker) AS stream,
            CASE WHEN is_read(op) THEN 'reads' WHEN is_write(op) THEN 'writes' ELSE 'other ops' END AS class,
            t_submit - t0 AS t,
            t_submit - t0 + greatest(response_ns(latency, wait_ns), 1) AS t_end,
            (span_ns::HUGEINT * lanes // $spans::BIGINT)::BIGINT AS pause,
            latency,
            error
        FROM ops
        JOIN numbered ON ops.rank IS NOT DISTINCT FROM numbered.rank AND ops.worker IS NOT DISTINCT FROM numbered.worker,
             run_extent()
        WHERE op <> 'hint' AND latency IS NOT NULL
    )
),
marked AS (
    SELECT *, coalesce(t > pause + max(t_end) OVER (
        PARTITION BY lane, class ORDER BY n ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
    ), true)::BIGINT AS begins
    FROM timed
),
parts AS (
    SELECT *, sum(begins) OVER (PARTITION BY lane, class ORDER BY n ROWS UNBOUNDED PRECEDING) AS part FROM marked
)
SELECT
    lane,
    any_value(stream) AS stream,
    any_value(of_lanes) AS of_lanes,
    class,
    min(t) / 1e9 AS start_s,
    max(t_end) / 1e9 AS end_s,
    count(*) AS ops,
    count(error) AS failed,
    max(latency) AS slowest_ns
FROM parts
GROUP BY lane, class, part
ORDER BY lane, class, start_s
