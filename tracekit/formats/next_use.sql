-- Reads in order of time, each with the position of the next read of the same object.
--
-- Reads  ops
-- Takes  $by_uri       BOOLEAN   true: an object is a URI; false: a URI and an offset
-- Gives  time_s        UINTEGER  s since the first read
--        object_id     UBIGINT   the same for every read of one object
--        size_bytes    BIGINT    the most that any read of the object asked for (else moved)
--        next_request  BIGINT    position (from 0) of its next read; -1 if there is none
WITH reads AS (
    SELECT
        t_submit,
        uri,
        CASE WHEN $by_uri THEN NULL ELSE "offset" END AS part,
        coalesce(len, bytes) AS size,
        row_number() OVER (ORDER BY t_submit) - 1 AS position
    FROM ops
    WHERE op IN ('read', 'get') AND error IS NULL AND coalesce(len, bytes) > 0
)
SELECT
    ((t_submit - min(t_submit) OVER ()) // 1000000000)::UINTEGER AS time_s,
    hash(uri, part)::UBIGINT AS object_id,
    max(size) OVER (PARTITION BY uri, part) AS size_bytes,
    coalesce(lead(position) OVER (PARTITION BY uri, part ORDER BY position), -1) AS next_request
FROM reads
ORDER BY position;
