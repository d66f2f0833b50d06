-- A sample of latencies over the view `ops`: the same every time for the same trace.
--
-- Columns: latency BIGINT ns
-- Parameter: $n  rows at the most
SELECT latency
FROM (SELECT latency FROM ops WHERE latency IS NOT NULL AND op <> 'hint' ORDER BY hash(t_submit, uri, "offset"), latency LIMIT $n)
