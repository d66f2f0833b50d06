-- Which files had to be asked for more than once, and what did that cost?
--
-- uri VARCHAR, retried_ops BIGINT sent more than once, most_tries INTEGER, waited_ns BIGINT spent on earlier tries and waits,
-- failed_ops BIGINT of these
-- No rows: no op was sent more than once, or the trace does not say.
SELECT uri, count(*) AS retried_ops, max(tries) AS most_tries, sum(coalesce(wait_ns, 0))::BIGINT AS waited_ns,
       count(*) FILTER (error IS NOT NULL) AS failed_ops
FROM ops
WHERE tries > 1
GROUP BY uri
ORDER BY waited_ns DESC, retried_ops DESC, uri
LIMIT 20
