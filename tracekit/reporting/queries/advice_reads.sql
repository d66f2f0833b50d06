-- How small and how scattered the reads are.
--
-- Columns: reads BIGINT with a length; small_share DOUBLE  of less than 64 KiB; median_len BIGINT bytes; sequential DOUBLE share of
--          the reads that follow another of their stream and file and start where it ended (null if none has an offset)
SELECT count(*) AS reads, count(*) FILTER (len < 65536) / nullif(count(*), 0) AS small_share,
       quantile_disc(len, 0.5) AS median_len, (SELECT sequential FROM sequentiality('op') WHERE key = 'read') AS sequential
FROM ops
WHERE is_read(op) AND len IS NOT NULL
