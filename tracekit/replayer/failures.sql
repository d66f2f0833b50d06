-- The first failed ops of a replay, in order of submit.
--
-- Parameter: $most  how many at the most
-- Columns:   uri VARCHAR, offset BIGINT bytes, len BIGINT bytes, error VARCHAR class
SELECT uri, "offset", len, error
FROM ops
WHERE error IS NOT NULL
ORDER BY t_submit
LIMIT $most::BIGINT
