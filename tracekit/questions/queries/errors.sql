-- What failed, how often, and when?
--
-- error VARCHAR class, op VARCHAR, ops BIGINT, op_share DOUBLE of the ops of this kind, files BIGINT, first_at_ns BIGINT since the
-- first submit, last_at_ns BIGINT, first_uri VARCHAR of the first that failed
-- No rows: no op failed.
WITH counted AS (SELECT op, count(*) AS n FROM ops WHERE op <> 'hint' GROUP BY op)
SELECT error, op, count(*) AS ops, count(*) / any_value(n) AS op_share, count(DISTINCT uri) AS files,
       min(t_submit) - any_value(t0) AS first_at_ns, max(t_submit) - any_value(t0) AS last_at_ns,
       arg_min(uri, t_submit) AS first_uri
FROM ops JOIN counted USING (op), run_extent()
WHERE error IS NOT NULL
GROUP BY error, op
ORDER BY ops DESC, error, op
LIMIT 20
