-- The files that the ops touch, over the view `ops`.
--
-- Columns: uri  VARCHAR  each once; hints do not count
SELECT DISTINCT uri FROM ops WHERE op <> 'hint'
