-- The events on some lines of a DFTracer log. Run statement by statement for each block of lines.
--
-- Reads  lines (number BIGINT, line VARCHAR)   one candidate JSON object a line
-- Takes  $paths    VARCHAR[]  of the fields, in the order in which `parsed` names them
--        $log      BIGINT     which file of several
--        $unit_ns  BIGINT     the unit of ts and dur
-- Adds to events and counted (see dftracer.sql)

-- parsed: the fields as text; DFTracer does not escape quotes in names, so a line that names a file may not be JSON
CREATE OR REPLACE TEMP TABLE parsed AS
WITH split AS (
    SELECT number, json_valid(line) AS valid, CASE WHEN json_valid(line) THEN json_extract_string(line, $paths::VARCHAR[]) END AS f,
        CASE WHEN NOT json_valid(line) AND starts_with(line, '{"name":"FH"')
            THEN regexp_extract(line, '"pid":"?([0-9]+).*?"args":\{.*?"name":"(.*)","value":"([0-9a-f]+)"', ['pid', 'name', 'value']) END AS torn
    FROM lines
)
SELECT number,
    CASE WHEN torn.value <> '' THEN 'FH' ELSE f[1] END AS name,
    upper(f[2]) AS cat,
    CASE WHEN torn.value <> '' OR f[3] IN ('M', '4') THEN 'M' WHEN f[3] IN ('X', '1') THEN 'X' WHEN f[3] IN ('C', '3') THEN 'C' ELSE f[3] END AS ph,
    CASE WHEN torn.value <> '' THEN torn.pid ELSE f[4] END AS pid,
    f[5] AS tid, f[6] AS ts, f[7] AS dur, f[8] AS fname, f[9] AS fhash, f[10] AS fd, f[11] AS ret, f[12] AS count, f[13] AS size,
    f[14] AS offset_arg, f[15] AS len_arg, f[16] AS whence, f[17] AS flags, f[18] AS dirfd, f[19] AS pathname_hash, f[20] AS cwd,
    f[21] AS image_idx, f[22] AS step, f[23] AS epoch,
    CASE WHEN torn.value <> '' THEN torn.name ELSE f[24] END AS meta_name,
    CASE WHEN torn.value <> '' THEN torn.value ELSE f[25] END AS meta_value, f[26] AS host,
    as_integer(f[27]) AS num_events, as_integer(f[28]) AS dft_cnt, as_integer(f[29]) AS id
FROM split;

-- timed: the same with times in ns; null where a time is missing, negative or out of range
CREATE OR REPLACE TEMP TABLE timed AS
SELECT * REPLACE (
    CASE WHEN at_ns BETWEEN 0 AND 4611686018427387904 THEN at_ns END::BIGINT AS ts,
    CASE WHEN took_ns BETWEEN 0 AND 4611686018427387904 THEN took_ns END::BIGINT AS dur
) FROM (
    SELECT *, round(try_cast(ts AS DECIMAL(25, 6)) * $unit_ns::DECIMAL(10, 0)) AS at_ns,
        round(try_cast(dur AS DECIMAL(25, 6)) * $unit_ns::DECIMAL(10, 0)) AS took_ns
    FROM parsed
);

INSERT INTO events
SELECT $log::BIGINT * 1099511627776 + number, number, name, cat, ph, pid, tid, ts, dur, fname, fhash, as_integer(fd), as_integer(ret),
    as_integer(count), as_integer(size), as_integer(offset_arg), as_integer(len_arg), as_integer(whence), as_integer(flags), as_integer(dirfd),
    pathname_hash, cwd, as_integer(image_idx), as_integer(step), as_integer(epoch), meta_name, meta_value, host
FROM timed
WHERE (ph = 'M' AND name = 'FH' AND meta_value IS NOT NULL)
    OR (ph = 'X' AND name IS NOT NULL AND ts IS NOT NULL AND dur IS NOT NULL
        AND (cat IN ('POSIX', 'STDIO') OR image_idx IS NOT NULL OR name = 'start' OR (name = 'end' AND cat = 'DFTRACER')));

INSERT INTO counted
SELECT $log, pid, host, count(*) FILTER (ph = 'X' AND NOT is_end), count(*) FILTER (ph = 'X' AND name = 'start'), count(*) FILTER (is_end),
    sum(num_events) FILTER (is_end), max(id) FILTER (ph = 'X'), sum(dft_cnt) FILTER (ph = 'C')
FROM (SELECT *, coalesce(ph = 'X' AND name = 'end' AND cat = 'DFTRACER', false) AS is_end FROM timed)
WHERE ph IN ('X', 'C')
GROUP BY ALL;

SELECT number FROM timed
WHERE name IS NULL OR ph IS NULL OR (ph = 'X' AND (ts IS NULL OR dur IS NULL))
ORDER BY number;
