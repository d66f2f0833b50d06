-- How large are the requests of each kind?
--
-- op VARCHAR, from_bytes BIGINT inclusive, to_bytes BIGINT exclusive (both null: the length is unknown), ops BIGINT, op_share DOUBLE of
-- the ops of this kind, asked_bytes BIGINT
SELECT op, size_lo(len) AS from_bytes, size_hi(len) AS to_bytes, count(*) AS ops,
       count(*) / sum(count(*)) OVER (PARTITION BY op) AS op_share, sum(len)::BIGINT AS asked_bytes
FROM ops
WHERE is_data(op)
GROUP BY op, from_bytes, to_bytes
ORDER BY ops DESC, op, from_bytes
LIMIT 20
