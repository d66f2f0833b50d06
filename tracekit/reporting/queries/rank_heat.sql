-- The slowest op of each rank (or stream) in each window, over the view `ops` and the macros. Empty cells are no rows.
--
-- Where there are more than $lanes, neighbours share a lane.
-- Parameters: $by  rank or worker; $width  length of a window, ns; $lanes  lanes at most
-- Columns: lane BIGINT; first, last VARCHAR of the lane; win BIGINT  window of the submit; ops BIGINT; bytes BIGINT moved;
--          failed BIGINT; slowest_ns BIGINT (null if none ended)
WITH keys AS (
    SELECT op_key($by, uri, op, error, rank, worker) AS key, min(rank) AS rank, min(worker) AS worker
    FROM ops
    WHERE op <> 'hint'
    GROUP BY key
),
numbered AS (
    SELECT key, (place * least(of_keys, $lanes::BIGINT) // of_keys)::BIGINT AS lane, place
    FROM (
        SELECT key, row_number() OVER (ORDER BY rank NULLS LAST, worker NULLS LAST, key) - 1 AS place, count(*) OVER () AS of_keys
        FROM keys
    )
),
named AS (SELECT lane, arg_min(key, place) AS first, arg_max(key, place) AS last FROM numbered GROUP BY lane)
SELECT lane, first, last, window_of(t_submit, t0, span_ns, $width::BIGINT) AS win, count(*) AS ops, sum(bytes)::BIGINT AS bytes,
       count(error) AS failed, max(latency) AS slowest_ns
FROM ops JOIN numbered ON numbered.key = op_key($by, uri, op, error, rank, worker) JOIN named USING (lane), run_extent()
WHERE op <> 'hint'
GROUP BY lane, first, last, win
ORDER BY lane, win
