-- The requests of a replay that belong to a range of its plan, over the view `ops`.
--
-- Needs the extra column `plan_op` (index in the plan). `dependency` and `gate_wait` are missing in older replays.
-- Parameters: $first, $last  the range of plan_op, $last exclusive
-- Columns: the op schema's, plan_op BIGINT, dependency and gate_wait BIGINT (ns waited for ops that it
--          depends on, and for the in-flight cap)
SELECT COLUMNS(
    '^(plan_op|t_submit|t_due|uri|op|offset|len|bytes|latency|sample_id|step|rank|worker|part|to_uri|error|dependency|gate_wait)$'
)
FROM ops
WHERE op <> 'hint' AND plan_op >= $first AND plan_op < $last
ORDER BY plan_op, t_submit
