-- Bytes moved and streams, over the view `internal.ops_scan`.
--
-- Columns:  bytes    HUGEINT  bytes moved
--           streams  BIGINT   distinct (rank, worker)
SELECT coalesce(sum(bytes), 0) AS bytes, count(DISTINCT (rank, worker)) AS streams FROM internal.ops_scan
