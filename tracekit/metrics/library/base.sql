-- What an op is and how long it took. The other files build on this one.
--
-- is_read(op) -> BOOLEAN: whether it reads data: read, get
-- is_write(op) -> BOOLEAN: whether it writes data: write, put, part
-- is_data(op) -> BOOLEAN: whether it reads or writes data
--     Every other op is a metadata op, but for a hint, which is no request.
-- response_ns(latency, wait_ns) -> BIGINT: ns from the first try of an op to its last byte
--     The latency of the try that succeeded, and what the client spent on earlier tries and waits; null if the op
--     never ended.
-- ends_unknown() -> BOOLEAN: whether an op without a latency may have ended
--     Of an imported log that lacks latencies, all or some, and does not say which ops ended.
-- Example: SELECT is_write(op) AS writes, count(*) AS ops FROM ops GROUP BY ALL
CREATE OR REPLACE MACRO is_read(op) AS op IN ('read', 'get');
CREATE OR REPLACE MACRO is_write(op) AS op IN ('write', 'put', 'part');
CREATE OR REPLACE MACRO is_data(op) AS op IN ('read', 'get', 'write', 'put', 'part');
CREATE MACRO IF NOT EXISTS ends_unknown() AS false;
CREATE OR REPLACE MACRO response_ns(latency, wait_ns) AS latency + coalesce(wait_ns, 0);
