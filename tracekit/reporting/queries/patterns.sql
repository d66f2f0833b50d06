-- How many files are read and written in which pattern, over the macros.
--
-- Parameter: $most  number of rows at most
-- Columns: pattern VARCHAR (see file_patterns); files BIGINT; ops BIGINT reads and writes; moved_bytes BIGINT; bytes_share DOUBLE;
--          sequential_share DOUBLE of the ops that follow another, of the files together; example_uri VARCHAR with most ops
SELECT pattern, count(*) AS files, sum(f.ops)::BIGINT AS ops, sum(bytes)::BIGINT AS moved_bytes,
       sum(bytes) / nullif(sum(sum(bytes)) OVER (), 0) AS bytes_share, sum(sequential * w.ops) / nullif(sum(w.ops), 0) AS sequential_share,
       arg_max(uri, f.ops) AS example_uri
FROM file_patterns() AS w JOIN per_file() AS f USING (uri)
GROUP BY pattern
ORDER BY ops DESC, pattern
LIMIT $most::BIGINT
