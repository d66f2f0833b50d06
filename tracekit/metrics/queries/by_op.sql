-- Ops by what they are and how they ended, over the view `ops`.
--
-- Columns:
--   scheme           VARCHAR  scheme of the URI
--   op               VARCHAR  kind
--   error            VARCHAR  class; null = success
--   ops              BIGINT
--   bytes            BIGINT  moved
--   requested_bytes  BIGINT  asked for
SELECT
    CASE WHEN contains(uri, '://') THEN lower(split_part(uri, '://', 1)) ELSE 'file' END AS scheme,
    op,
    error,
    sum(n)::BIGINT AS ops,
    sum(moved)::BIGINT AS bytes,
    sum(asked)::BIGINT AS requested_bytes
FROM (
    SELECT uri, op, error, count(*) AS n, coalesce(sum(bytes), 0) AS moved, coalesce(sum(len), 0) AS asked
    FROM ops
    GROUP BY uri, op, error
)
GROUP BY ALL
ORDER BY scheme, op, error NULLS FIRST
