-- How few files serve most of the requests, and how large a cache would hold them?
--
-- ops_share DOUBLE of all reads and writes, files BIGINT the fewest that take this share, of_files BIGINT, ops BIGINT on those files,
-- extent_bytes BIGINT their extents together
SELECT 0.5::DOUBLE AS ops_share, * FROM hot_set(0.5)
UNION ALL SELECT 0.8, * FROM hot_set(0.8)
UNION ALL SELECT 0.9, * FROM hot_set(0.9)
UNION ALL SELECT 0.95, * FROM hot_set(0.95)
UNION ALL SELECT 0.99, * FROM hot_set(0.99)
UNION ALL SELECT 1.0, * FROM hot_set(1.0)
ORDER BY ops_share
LIMIT 20
