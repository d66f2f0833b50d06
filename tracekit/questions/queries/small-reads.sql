-- Where are small reads, of less than 64 KiB?
--
-- prefix VARCHAR scheme and two parts of the path, reads BIGINT of a known length, small_reads BIGINT of less than 64 KiB, small_share
-- DOUBLE of the reads, mean_bytes DOUBLE of all reads, small_total_ns BIGINT latency of the small ones (null if unknown)
-- No rows: no read says its length.
SELECT uri_prefix(uri, 2) AS prefix, count(*) AS reads, count(*) FILTER (len < 65536) AS small_reads,
       count(*) FILTER (len < 65536) / count(*) AS small_share, avg(len) AS mean_bytes,
       (sum(latency) FILTER (len < 65536))::BIGINT AS small_total_ns
FROM ops
WHERE is_read(op) AND len IS NOT NULL
GROUP BY prefix
ORDER BY small_reads DESC, prefix
LIMIT 20
