-- Every URI of ops of some kinds, once, over the view `ops`.
--
-- Parameter: $kinds  the kinds of op, a list
-- Columns:   uri VARCHAR
SELECT DISTINCT uri
FROM ops
WHERE list_contains($kinds, op)
ORDER BY uri
