-- Scalars to group by: where a URI belongs, and which histogram bucket a value falls into.
--
-- uri_scheme(uri)         VARCHAR  scheme in lower case; `file` for a plain path
-- uri_prefix(uri, depth)  VARCHAR  the scheme, the bucket and the first `depth` path parts
-- latency_lo(ns), latency_hi(ns)  BIGINT  ns: log-linear bucket, 64 to a power of two (at most 1.6 % wide)
-- size_lo(n), size_hi(n)  BIGINT  bytes: power-of-two bucket; 0 is in [0, 1)
-- Example: SELECT worker, latency_lo(latency) AS lo, count(*) FROM ops GROUP BY ALL
CREATE OR REPLACE MACRO uri_scheme(uri) AS
    CASE WHEN contains(uri, '://') THEN lower(split_part(uri, '://', 1)) ELSE 'file' END;
CREATE OR REPLACE MACRO uri_prefix(uri, depth) AS
    array_to_string(string_split(uri, '/')[: depth + CASE WHEN contains(uri, '://') THEN 3 WHEN starts_with(uri, '/') THEN 1 ELSE 0 END], '/');
CREATE OR REPLACE MACRO latency_shift(ns) AS
    greatest(length(bin(greatest(ns, 1))) - 7, 0)::INTEGER;
CREATE OR REPLACE MACRO latency_lo(ns) AS (ns >> latency_shift(ns)) << latency_shift(ns);
CREATE OR REPLACE MACRO latency_hi(ns) AS ((ns >> latency_shift(ns)) + 1) << latency_shift(ns);
CREATE OR REPLACE MACRO size_lo(n) AS CASE WHEN n <= 0 THEN 0 ELSE 1::BIGINT << (length(bin(n)) - 1) END;
CREATE OR REPLACE MACRO size_hi(n) AS CASE WHEN n <= 0 THEN 1 ELSE 1::BIGINT << length(bin(n)) END;
