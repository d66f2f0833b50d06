-- Which files were read more than once, and what would a cache have saved?
--
-- uri VARCHAR, reads BIGINT, read_bytes BIGINT, extent_bytes BIGINT end of the furthest read, again_bytes BIGINT read beyond the
-- extent: at least so much was read again, reuse DOUBLE read_bytes over extent_bytes
-- No rows: no file was read beyond its extent, or the bytes are unknown.
SELECT uri, count(*) AS reads, sum(bytes)::BIGINT AS read_bytes, max(coalesce("offset", 0) + bytes) AS extent_bytes,
       (sum(bytes) - max(coalesce("offset", 0) + bytes))::BIGINT AS again_bytes,
       sum(bytes) / max(coalesce("offset", 0) + bytes) AS reuse
FROM ops
WHERE is_read(op) AND bytes > 0
GROUP BY uri
HAVING again_bytes > 0
ORDER BY again_bytes DESC, uri
LIMIT 20
