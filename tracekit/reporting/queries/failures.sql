-- Failed ops by class and kind, most first, over the view `ops`.
--
-- Parameter: $most  number of rows at most
-- Columns: error VARCHAR, op VARCHAR, ops BIGINT, first_uri VARCHAR of the first that failed
SELECT error, op, count(*) AS ops, arg_min(uri, t_submit) AS first_uri
FROM ops
WHERE error IS NOT NULL
GROUP BY error, op
ORDER BY ops DESC, error, op
LIMIT $most::BIGINT
