-- The extent of a trace, answered from file statistics alone (no page of data is read).
--
-- Columns: first_submit_ns  BIGINT  ns since the trace's epoch; null for an empty trace
--          last_submit_ns   BIGINT  ns since the trace's epoch
SELECT min(t_submit) AS first_submit_ns, max(t_submit) AS last_submit_ns
FROM ops_scan
