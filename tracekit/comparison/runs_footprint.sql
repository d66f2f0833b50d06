-- How many different bytes a run touched, over the view `ops`.
--
-- Columns: bytes BIGINT the size of the union of all ranges
WITH ranges AS (
    SELECT uri, coalesce("offset", 0) AS first, coalesce("offset", 0) + greatest(coalesce(len, bytes, 0), 0) AS last
    FROM ops
    WHERE op IN ('read', 'get', 'write', 'put')
),
grown AS (
    SELECT
        first,
        last,
        max(last) OVER (PARTITION BY uri ORDER BY first, last ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before
    FROM ranges
)
SELECT coalesce(sum(greatest(last - greatest(first, coalesce(before, first)), 0)), 0)::BIGINT AS bytes FROM grown
