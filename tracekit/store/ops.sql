-- The view `ops`: every column of the op schema, whatever the files of the trace hold.
--
-- Reads  internal.segments      the union of the trace's files, by name; may lack non-core columns
--        internal.ops_template  an empty table with every schema column
-- Gives, in this order (unknown extra columns follow, as they are):
--   t_submit   BIGINT   ns since the trace's epoch
--   uri        VARCHAR  full URI
--   op         VARCHAR  one of schema.OP_KINDS; `read` where the file does not say
--   offset     BIGINT   bytes
--   len        BIGINT   bytes asked for
--   bytes      BIGINT   bytes moved; `len` where the file does not say and the op ended without error
--   latency    BIGINT   ns
--   ttfb       BIGINT   ns
--   tries      INTEGER
--   wait_ns    BIGINT   ns
--   sample_id  BIGINT
--   step       BIGINT
--   rank       INTEGER  0 where the file does not say
--   worker     INTEGER  0 where the file does not say
--   part       INTEGER
--   to_uri     VARCHAR  full URI
--   t_due      BIGINT   ns since the trace's epoch
--   error      VARCHAR  null = success
--
-- Foreign files may hold other integers, unsigned ones too: a value that does not fit is an error.
CREATE VIEW internal.ops_scan AS
SELECT * REPLACE (
    t_submit::BIGINT AS t_submit,
    coalesce(op, 'read') AS op,
    "offset"::BIGINT AS "offset",
    len::BIGINT AS len,
    CASE
        WHEN bytes IS NULL AND latency IS NOT NULL AND error IS NULL AND coalesce(op, 'read') IN ('read', 'get', 'write', 'put', 'part')
        THEN len
        ELSE bytes
    END::BIGINT AS bytes,
    latency::BIGINT AS latency,
    ttfb::BIGINT AS ttfb,
    tries::INTEGER AS tries,
    wait_ns::BIGINT AS wait_ns,
    sample_id::BIGINT AS sample_id,
    step::BIGINT AS step,
    coalesce(rank, 0)::INTEGER AS rank,
    coalesce(worker, 0)::INTEGER AS worker,
    part::INTEGER AS part,
    t_due::BIGINT AS t_due
)
FROM (SELECT * FROM internal.ops_template UNION ALL BY NAME SELECT * FROM internal.segments);
