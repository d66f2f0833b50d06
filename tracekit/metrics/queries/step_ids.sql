-- The steps that the ops serve, over the view `ops`.
--
-- Columns: rank  INTEGER
--          step  BIGINT   each (rank, step) once; ops without a step and hints do not count
SELECT DISTINCT rank, step FROM ops WHERE step IS NOT NULL AND op <> 'hint'
