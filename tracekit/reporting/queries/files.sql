-- The files with most ops, most bytes or most time in ops, over the macros.
--
-- Parameter: $most  number of files by each of the three at most
-- Columns: uri VARCHAR; ops BIGINT reads and writes; moved_bytes BIGINT; total_ns BIGINT latency of all; p99_ns, max_ns BIGINT;
--          reuse DOUBLE bytes over extent; pattern VARCHAR (see file_patterns); failed BIGINT; of_files BIGINT
WITH placed AS (
    SELECT *, count(*) OVER () AS of_files, row_number() OVER (ORDER BY ops DESC, uri) AS by_ops,
           row_number() OVER (ORDER BY bytes DESC NULLS LAST, uri) AS by_bytes,
           row_number() OVER (ORDER BY latency_sum_us DESC NULLS LAST, uri) AS by_time
    FROM per_file()
    QUALIFY least(by_ops, by_bytes, by_time) <= $most::BIGINT
)
SELECT placed.uri, placed.ops, bytes AS moved_bytes, round(latency_sum_us * 1e3)::BIGINT AS total_ns,
       round(p99_us * 1e3)::BIGINT AS p99_ns, round(max_us * 1e3)::BIGINT AS max_ns, reuse, pattern, failed, of_files
FROM placed LEFT JOIN file_patterns() AS walked USING (uri)
ORDER BY total_ns DESC NULLS LAST, placed.ops DESC, placed.uri
