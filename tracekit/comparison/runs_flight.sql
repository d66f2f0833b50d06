-- Submits and latencies of the first ops of known latency, over the view `ops`.
--
-- Parameter: $most  how many at the most
-- Columns: t_submit BIGINT, latency BIGINT, both ns
SELECT t_submit, latency FROM ops WHERE op <> 'hint' AND latency IS NOT NULL ORDER BY t_submit LIMIT $most::BIGINT
