-- A fingerprint of the ops of a trace, over the view `ops`: the same whatever the order of the rows.
--
-- Parameter: $first_ns  submit of the first op: times count from it
-- Columns: ops BIGINT, digest HUGEINT the sum over ops of 64 bits of the MD5 of what a replay depends on
SELECT
    count(*) AS ops,
    coalesce(sum(md5_number_lower(concat(
        t_submit - $first_ns::BIGINT, '/', coalesce("offset"::VARCHAR, ''), '/', coalesce(len::VARCHAR, ''), '/',
        coalesce(bytes::VARCHAR, ''), '/', coalesce(latency::VARCHAR, ''), '/', coalesce(sample_id::VARCHAR, ''), '/',
        coalesce(step::VARCHAR, ''), '/', rank, '/', worker, '/', op, '/', coalesce(error, ''), '/', uri
    ))), 0)::HUGEINT AS digest
FROM ops
