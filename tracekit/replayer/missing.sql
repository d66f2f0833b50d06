-- The numbers of the ops of a plan that have no row in the trace of its replay, as ranges in order.
--
-- Parameter: $planned  ops of the plan
-- Columns:   first BIGINT plan_op, last BIGINT plan_op
WITH numbers AS (
    SELECT plan_op FROM ops WHERE plan_op IS NOT NULL AND op <> 'hint'
    UNION ALL
    SELECT $planned::BIGINT
),
steps AS (
    SELECT plan_op, lag(plan_op, 1, -1::BIGINT) OVER (ORDER BY plan_op) AS before FROM numbers
)
SELECT (before + 1)::BIGINT AS first, (plan_op - 1)::BIGINT AS last
FROM steps
WHERE plan_op - before > 1
ORDER BY first
