-- Latency over time as a heat map: ops by window and quarter power of two, over the macros. Empty cells are no rows.
--
-- Parameter: $width  length of a window, ns
-- Columns: win BIGINT  window of the submit; level INTEGER  latency from 2 ** (level / 4) ns (100 ns at least, where the
--          axis begins); ops BIGINT
SELECT window_of(t_submit, t0, span_ns, $width::BIGINT) AS win, floor(log2(greatest(latency, 100)) * 4)::INTEGER AS level,
       count(*) AS ops
FROM ops, run_extent()
WHERE latency IS NOT NULL AND op <> 'hint'
GROUP BY win, level
ORDER BY win, level
