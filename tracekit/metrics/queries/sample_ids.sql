-- The samples that the ops serve, over the view `ops`.
--
-- Columns: sample_id  BIGINT  each once; hints do not count
SELECT DISTINCT sample_id FROM ops WHERE sample_id IS NOT NULL AND op <> 'hint'
