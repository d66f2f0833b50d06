-- Bytes of the steps, over the view `ops`.
--
-- Columns: moved BIGINT bytes of a step; n BIGINT steps of that many
SELECT moved, count(*) AS n
FROM (SELECT coalesce(sum(bytes), 0)::BIGINT AS moved FROM ops WHERE step IS NOT NULL AND op <> 'hint' GROUP BY rank, step)
GROUP BY moved
