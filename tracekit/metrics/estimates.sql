-- The sums of each file or stream of a sample, over `ops` and the macros of the library.
--
-- Parameter: $by_stream  whether streams were chosen, else files
-- Columns:   uri VARCHAR (null by stream); rank, worker INTEGER (null by file); ops, bytes, read_ops, write_ops, read_bytes, write_bytes
--            BIGINT, null where no op says; files BIGINT 1 or 0, null by stream
SELECT
    CASE WHEN NOT $by_stream THEN uri END AS uri,
    CASE WHEN $by_stream THEN rank END AS rank,
    CASE WHEN $by_stream THEN worker END AS worker,
    count(*) AS ops,
    sum(bytes)::BIGINT AS bytes,
    count(*) FILTER (is_read(op)) AS read_ops,
    count(*) FILTER (is_write(op)) AS write_ops,
    (sum(bytes) FILTER (is_read(op)))::BIGINT AS read_bytes,
    (sum(bytes) FILTER (is_write(op)))::BIGINT AS write_bytes,
    max(CASE WHEN NOT $by_stream THEN (op <> 'list')::BIGINT END) AS files
FROM ops
WHERE op <> 'hint'
GROUP BY 1, 2, 3
