-- Requests by the bytes that they ask for, in powers of two, over the view `ops`.
--
-- Only ops with a length, and no hints. A request of 0 bytes is in the bucket [0, 1).
-- Columns:
--   lo      BIGINT  bytes, inclusive
--   hi      BIGINT  bytes, exclusive
--   counts  BIGINT  requests
SELECT
    CASE WHEN len <= 0 THEN 0 ELSE 1::BIGINT << (length(bin(len)) - 1) END AS lo,
    CASE WHEN len <= 0 THEN 1 ELSE 1::BIGINT << length(bin(len)) END AS hi,
    sum(many)::BIGINT AS counts
FROM (SELECT len, count(*) AS many FROM ops WHERE len IS NOT NULL AND op <> 'hint' GROUP BY len)
GROUP BY lo, hi
ORDER BY lo
