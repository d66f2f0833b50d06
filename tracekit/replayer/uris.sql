-- Every URI that a replay of the trace reads, once, over its view `ops`.
--
-- Parameter: $kinds  the kinds of op that are replayed, a list
-- Columns:   uri VARCHAR
SELECT DISTINCT uri
FROM ops
WHERE list_contains($kinds, op)
ORDER BY uri
