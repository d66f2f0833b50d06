-- The fields of DFTracer events that matter, as text; null where an event does not say.
--
-- Reads  lines (number BIGINT, line VARCHAR)   one candidate JSON object a line
-- Gives  number BIGINT, fields VARCHAR[]       null for a line that is no JSON; else in the order of $paths
SELECT
    number,
    CASE WHEN json_valid(line) THEN json_extract_string(line, $paths::VARCHAR[]) END AS fields
FROM lines
ORDER BY number;
