-- What a cache would serve: bytes that were read before, by the size of the cache that would have had them.
--
-- Columns: read_bytes BIGINT; again_bytes BIGINT of what was read before; cache_bytes BIGINT that would have served 80 % of them
WITH distances AS (
    SELECT hi, bytes, sum(bytes) OVER (ORDER BY hi) AS so_far, sum(bytes) OVER () AS total FROM reuse_distance() WHERE hi IS NOT NULL
)
SELECT (SELECT sum(bytes)::BIGINT FROM reuse_distance()) AS read_bytes, coalesce(sum(bytes), 0)::BIGINT AS again_bytes,
       min(hi) FILTER (so_far >= 0.8 * total) AS cache_bytes
FROM distances
