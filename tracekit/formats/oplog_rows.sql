-- Ops as rows of an op log in the columns of warp and s3dlio, in order of submission.
--
-- Reads  ops
-- Takes  $epoch_unix_ns  BIGINT   the trace's epoch
--        $kinds, $words  VARCHAR[]  kinds of op, and the log's word for each
-- Gives  the columns of the log; an op without a word, or that never ended, has no row.
WITH timed AS (
    SELECT *,
        -- DuckDB 2.0's own format of nanoseconds (%n) gives wrong bytes
        list_transform(
            [t_submit, t_submit + ttfb, t_submit + latency],
            lambda ns: strftime(make_timestamp((ns + $epoch_unix_ns) // 1000), '%Y-%m-%dT%H:%M:%S')
                || format('.{:09d}Z', (ns + $epoch_unix_ns) % 1000000000)
        ) AS times,
        -- The endpoint is the scheme, and for an object store the bucket: what parts a key from a URI.
        CASE WHEN regexp_matches(uri, '^(file|direct)://') THEN regexp_extract(uri, '^[a-z]+://')
            ELSE regexp_extract(uri, '^[A-Za-z][A-Za-z0-9+.-]*://[^/]*/?') END AS place
    FROM ops
    WHERE list_contains($kinds, op::VARCHAR) AND latency IS NOT NULL AND NOT regexp_matches(uri, '[\n\r\x00]')
)
SELECT
    row_number() OVER (ORDER BY t_submit) - 1 AS idx,
    worker AS thread,
    $words[list_position($kinds, op::VARCHAR)] AS op,
    'rank' || rank AS client_id,
    1 AS n_objects,
    coalesce(bytes, 0) AS bytes,
    place AS endpoint,
    substr(uri, length(place) + 1) AS file,
    error::VARCHAR AS error,
    times[1] AS start,
    times[2] AS first_byte,
    CASE WHEN error IS NULL THEN times[3] END AS last_byte,
    times[3] AS "end",
    latency AS duration_ns,
    0 AS cat
FROM timed
ORDER BY idx;
