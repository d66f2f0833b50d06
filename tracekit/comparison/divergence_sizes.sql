-- Requests by exact length, or by buckets of 1/64 of a power of two if there are more than $many lengths.
--
-- Over the view `ops` and the macro `latency_shift`. Only ops with a length, and no hints.
-- Parameter: $many  the most lengths that are counted one by one
-- Columns: lo BIGINT bytes inclusive; hi BIGINT bytes exclusive; counts BIGINT requests
WITH sizes AS (
    SELECT greatest(len, 0) AS size, count(*) AS n
    FROM ops
    WHERE len IS NOT NULL AND op <> 'hint'
    GROUP BY size
),
shaped AS (
    SELECT size, n, CASE WHEN count(*) OVER () > $many::BIGINT THEN latency_shift(size) ELSE 0 END AS shift FROM sizes
)
SELECT (size >> shift) << shift AS lo, ((size >> shift) + 1) << shift AS hi, sum(n)::BIGINT AS counts
FROM shaped
GROUP BY lo, hi
ORDER BY lo
