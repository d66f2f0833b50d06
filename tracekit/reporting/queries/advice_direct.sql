-- Requests of direct I/O that begin or end between blocks of 4096 bytes.
--
-- Columns: ops BIGINT of direct I/O with an offset and a length; misaligned BIGINT of them
SELECT count(*) AS ops, count(*) FILTER ("offset" % 4096 <> 0 OR len % 4096 <> 0) AS misaligned
FROM ops
WHERE uri_scheme(uri) = 'direct' AND is_data(op) AND "offset" IS NOT NULL AND len IS NOT NULL
