-- Histograms of latency and request size, by any grouping. The snapshot's are those of the group 'all'.
--
-- op_key(by, uri, op, error, rank, worker) -> VARCHAR: the value of the grouping called `by`
--     by is op, scheme, error, rank, worker, uri, prefix (the scheme and two parts of the path) or all.
--     An unknown rank or worker is `-`.
-- latency_hist(by): how many ops took how long, by bucket
--     key VARCHAR, lo BIGINT ns inclusive, hi BIGINT ns exclusive, counts BIGINT ops that ended
-- response_hist(by): the same of the response time: latency and what was spent on earlier tries and waits
--     key VARCHAR, lo BIGINT ns inclusive, hi BIGINT ns exclusive, counts BIGINT ops that ended
-- req_bytes_hist(by): how many ops asked for how much, by bucket
--     key VARCHAR, lo BIGINT bytes inclusive, hi BIGINT bytes exclusive, counts BIGINT ops that have a length
-- Example: FROM latency_hist('worker')
CREATE OR REPLACE MACRO op_key(by_, uri, op, error, rank, worker) AS
    CASE by_
        WHEN 'op' THEN op
        WHEN 'scheme' THEN uri_scheme(uri)
        WHEN 'error' THEN coalesce(error, 'ok')
        WHEN 'rank' THEN coalesce(rank::VARCHAR, '-')
        WHEN 'worker' THEN coalesce(rank::VARCHAR, '-') || '/' || coalesce(worker::VARCHAR, '-')
        WHEN 'uri' THEN uri
        WHEN 'prefix' THEN uri_prefix(uri, 2)
        WHEN 'all' THEN 'all'
        ELSE error('grouping is one of op, scheme, error, rank, worker, uri, prefix, all')
    END;
CREATE OR REPLACE MACRO latency_hist(by_) AS TABLE
    SELECT op_key(by_, uri, op, error, rank, worker) AS key, latency_lo(latency) AS lo, latency_hi(latency) AS hi,
           count(*) AS counts
    FROM ops
    WHERE latency IS NOT NULL AND op <> 'hint'
    GROUP BY ALL
    ORDER BY key, lo;
CREATE OR REPLACE MACRO response_hist(by_) AS TABLE
    SELECT op_key(by_, uri, op, error, rank, worker) AS key, latency_lo(response_ns(latency, wait_ns)) AS lo,
           latency_hi(response_ns(latency, wait_ns)) AS hi, count(*) AS counts
    FROM ops
    WHERE latency IS NOT NULL AND op <> 'hint'
    GROUP BY ALL
    ORDER BY key, lo;
-- Lengths are few: each is counted before its bucket is computed.
CREATE OR REPLACE MACRO req_bytes_hist(by_) AS TABLE
    SELECT key, size_lo(len) AS lo, size_hi(len) AS hi, sum(n)::BIGINT AS counts
    FROM (
        SELECT op_key(by_, uri, op, error, rank, worker) AS key, len, count(*) AS n
        FROM ops
        WHERE len IS NOT NULL AND op <> 'hint'
        GROUP BY ALL
    )
    GROUP BY ALL
    ORDER BY key, lo;
