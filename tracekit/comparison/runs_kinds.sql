-- Kinds of op and their outcomes, over the view `ops`.
--
-- Columns: kind VARCHAR, outcome VARCHAR error class or `ok`, n BIGINT ops
SELECT op AS kind, coalesce(error, 'ok') AS outcome, count(*) AS n
FROM ops
WHERE op <> 'hint'
GROUP BY kind, outcome
