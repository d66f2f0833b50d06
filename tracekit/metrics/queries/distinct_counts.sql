-- What the ops touch and serve, counted once each: one row over the view `ops`. Hints do not count.
--
-- Columns: files    BIGINT  distinct URIs
--          samples  BIGINT  distinct sample ids
SELECT count(DISTINCT uri) AS files, count(DISTINCT sample_id) AS samples
FROM ops
WHERE op <> 'hint'
