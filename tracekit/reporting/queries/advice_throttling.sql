-- Requests that the store refused or that were sent again.
--
-- Columns: throttled_ops BIGINT ops; retried BIGINT ops (null if no op says); waited_ns BIGINT spent on earlier tries and waits; ops BIGINT
SELECT count(*) FILTER (error = 'throttled') AS throttled_ops, CASE WHEN count(tries) > 0 THEN count(*) FILTER (tries > 1) END AS retried,
       coalesce(sum(wait_ns), 0)::BIGINT AS waited_ns, count(*) AS ops
FROM ops
WHERE op <> 'hint'
