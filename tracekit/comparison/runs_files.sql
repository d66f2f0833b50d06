-- Ops by file, over the view `ops`.
--
-- Columns: uri VARCHAR, n BIGINT ops
SELECT uri, count(*) AS n
FROM ops
WHERE op <> 'hint' AND op <> 'list'
GROUP BY uri
