-- Which reads begin or end between blocks of 4096 bytes, as direct I/O cannot?
--
-- prefix VARCHAR scheme and two parts of the path, reads BIGINT of a known offset and length, misaligned_reads BIGINT that begin or end
-- between blocks, misaligned_share DOUBLE of the reads
-- No rows: no read has an offset and a length.
SELECT uri_prefix(uri, 2) AS prefix, count(*) AS reads,
       count(*) FILTER ("offset" % 4096 <> 0 OR ("offset" + len) % 4096 <> 0) AS misaligned_reads,
       count(*) FILTER ("offset" % 4096 <> 0 OR ("offset" + len) % 4096 <> 0) / count(*) AS misaligned_share
FROM ops
WHERE is_read(op) AND "offset" IS NOT NULL AND len IS NOT NULL
GROUP BY prefix
ORDER BY misaligned_reads DESC, prefix
LIMIT 20
