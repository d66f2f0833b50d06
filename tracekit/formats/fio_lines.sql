-- The lines of a fio iolog of version 3, in order.
--
-- Reads  ops
-- Takes  $name_max     INTEGER  the longest name in bytes that fio reads
--        $length_max   BIGINT   the largest length that fio reads; a longer request is split into pieces of $piece_bytes
--        $piece_bytes  BIGINT
-- Gives  line      VARCHAR  one or more lines, each with its line end; null for an op that is left out
--        why       VARCHAR  why it is left out: `unfit` or `unnamed`
--        pieces    BIGINT   of a request: how many pieces it is split into, in the row of the first
--        remote    BOOLEAN  whether the op is on an object
WITH numbered AS (
    SELECT *, row_number() OVER (ORDER BY t_submit) AS place, regexp_matches(uri, '^(file|direct)://') AS local
    FROM ops
),
named AS (
    SELECT place, t_submit, local,
        CASE WHEN local THEN regexp_replace(uri, '^[a-z]+://', '') ELSE replace(uri, '://', '/') END AS name,
        CASE op WHEN 'get' THEN 'read' WHEN 'put' THEN 'write' WHEN 'part' THEN 'write' ELSE op::VARCHAR END AS action,
        CASE WHEN op = 'sync' THEN 0 WHEN op = 'get' OR (op = 'put' AND NOT local) THEN coalesce("offset", 0) ELSE "offset" END AS begin,
        CASE WHEN op = 'sync' THEN 0 ELSE coalesce(len, bytes) END AS size,
        error IS NULL AS went_well
    FROM numbered
),
judged AS (
    SELECT *,
        CASE
            WHEN NOT coalesce(went_well AND action IN ('read', 'write', 'sync') AND begin IS NOT NULL AND (size > 0 OR action = 'sync'), false) THEN 'unfit'
            WHEN regexp_matches(name, '[\s\x00-\x1f]') OR strlen(name) NOT BETWEEN 1 AND $name_max THEN 'unnamed'
        END AS why
    FROM named
),
kept AS (
    SELECT *,
        (t_submit - min(t_submit) OVER ()) // 1000 + 1 AS at_us,
        row_number() OVER (PARTITION BY name ORDER BY place) = 1 AS is_first,
        row_number() OVER (PARTITION BY name ORDER BY place DESC) = 1 AS is_last,
        CASE WHEN size > $length_max THEN (size - 1) // $piece_bytes + 1 ELSE 1 END AS pieces
    FROM judged
    WHERE why IS NULL
),
pieces AS (
    SELECT * EXCLUDE (begin, size), unnest(range(pieces)) AS piece, begin AS whole_begin, size AS whole_size
    FROM kept
),
lines AS (
    SELECT place, piece, NULL AS why, CASE WHEN piece = 0 THEN pieces ELSE 0 END AS pieces, NOT local AS remote,
        CASE WHEN is_first AND piece = 0 THEN format(E'{} {} add\n{} {} open\n', at_us, name, at_us, name) ELSE '' END
        || format(
            E'{} {} {} {} {}\n', at_us, name, action, whole_begin + piece * $piece_bytes,
            CASE WHEN pieces = 1 THEN whole_size ELSE least($piece_bytes, whole_size - piece * $piece_bytes) END
        )
        || CASE WHEN is_last AND piece = pieces - 1 THEN format(E'{} {} close\n', at_us, name) ELSE '' END AS line
    FROM pieces
    UNION ALL
    SELECT place, 0, why, 0, false, NULL FROM judged WHERE why IS NOT NULL
)
SELECT line, why, pieces, remote FROM lines ORDER BY place, piece;
