-- The op kind of a row of schema version 1, which had no `write`: a `put` of a range.
--
-- Reads  op, offset   of one row
-- Gives  VARCHAR      an op kind of version 2
CASE WHEN op = 'put' AND "offset" IS NOT NULL THEN 'write' ELSE op END
