-- What cannot be true of ops, counted over the view `ops`.
--
-- Parameters: $kinds   the op kinds that the schema knows
--             $errors  the error classes that the schema knows
--             $ends    whether an op without a latency never ended; null: if any op has one
-- Columns:    what     VARCHAR  a sentence with a place for the count
--             n        BIGINT   ops that it is true of (rows with 0 are left out)
--             broken   BOOLEAN  whether a trace with such ops is not whole
SELECT what, n, broken
FROM (
    SELECT
        unnest([
            {'what': '{} ops have a negative offset, len, bytes, latency, ttfb, tries or wait_ns', 'broken': true,
             'n': count(*) FILTER ("offset" < 0 OR len < 0 OR bytes < 0 OR latency < 0 OR ttfb < 0 OR tries < 0 OR wait_ns < 0)},
            {'what': '{} ops end past what 64 bits hold: their offset and len, or t_submit and latency', 'broken': true,
             'n': count(*) FILTER (greatest("offset"::HUGEINT + len, t_submit::HUGEINT + latency) > 9223372036854775807)},
            {'what': '{} ops have a first byte after their last', 'broken': true,
             'n': count(*) FILTER (ttfb > latency)},
            {'what': '{} reads moved more bytes than were asked for', 'broken': true,
             'n': count(*) FILTER (op = 'read' AND bytes > len)},
            {'what': '{} ops have no submit time or no uri', 'broken': true,
             'n': count(*) FILTER (t_submit IS NULL OR uri IS NULL)},
            {'what': '{} ops never ended', 'broken': false,
             'n': CASE WHEN coalesce($ends::BOOLEAN, count(latency) > 0) THEN count(*) FILTER (latency IS NULL AND op <> 'hint') ELSE 0 END},
            {'what': '{} ops are of a kind that this tracekit does not know', 'broken': false,
             'n': count(*) FILTER (NOT list_contains($kinds::VARCHAR[], op))},
            {'what': '{} ops have an error class that this tracekit does not know', 'broken': false,
             'n': count(*) FILTER (error IS NOT NULL AND NOT list_contains($errors::VARCHAR[], error))}
        ], recursive := true)
    FROM ops
)
WHERE n > 0
