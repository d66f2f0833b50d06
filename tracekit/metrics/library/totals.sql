-- What a snapshot counts. Hints move no data: all macros but by_op() leave them out.
--
-- totals(): the counts and sums of the snapshot, in one row
--     ops BIGINT, failed_ops BIGINT with an error, ended_ops BIGINT with a latency, bytes BIGINT moved (null if no op
--     says), unknown_bytes_ops BIGINT ops that move data but do not say how much, requested_bytes BIGINT asked for (null
--     if no op says), read_ops BIGINT, write_ops BIGINT, read_bytes BIGINT, write_bytes BIGINT moved by them (null if
--     none of them says), first_submit_ns BIGINT, last_submit_ns BIGINT ns since the trace's epoch, last_end_ns BIGINT
--     latest submit + response time, step_bytes BIGINT bytes moved for steps, latency_sum_ns BIGINT, latency_max_ns
--     BIGINT, latency_min_ns BIGINT, retried_ops BIGINT ops sent more than once (null if no op says), wait_sum_ns BIGINT
--     spent on earlier tries and waits (null likewise), response_sum_ns BIGINT, response_max_ns BIGINT,
--     response_min_ns BIGINT; a time is null if no op has it
-- by_op(): ops and bytes by scheme, kind of op and error; counts hints too
--     scheme VARCHAR, op VARCHAR, error VARCHAR class (null = success), ops BIGINT, bytes BIGINT moved (null if no op
--     says), requested_bytes BIGINT asked for (null if no op says)
-- file_ids(): each file once; ops that list are left out, since they name no file
--     uri VARCHAR
-- sample_ids(): each sample once
--     sample_id BIGINT
-- step_ids(): each pair of rank and step once
--     rank INTEGER, step BIGINT
-- Example: FROM by_op()
CREATE OR REPLACE MACRO totals() AS TABLE
    SELECT
        count(*) AS ops,
        count(*) FILTER (error IS NOT NULL) AS failed_ops,
        count(latency) AS ended_ops,
        sum(bytes)::BIGINT AS bytes,
        count(*) FILTER (bytes IS NULL AND is_data(op)) AS unknown_bytes_ops,
        sum(len)::BIGINT AS requested_bytes,
        count(*) FILTER (is_read(op)) AS read_ops,
        count(*) FILTER (is_write(op)) AS write_ops,
        sum(bytes) FILTER (is_read(op))::BIGINT AS read_bytes,
        sum(bytes) FILTER (is_write(op))::BIGINT AS write_bytes,
        min(t_submit) AS first_submit_ns,
        max(t_submit) AS last_submit_ns,
        max(t_submit + response_ns(latency, wait_ns)) AS last_end_ns,
        sum(bytes) FILTER (step IS NOT NULL)::BIGINT AS step_bytes,
        sum(latency)::BIGINT AS latency_sum_ns,
        max(latency) AS latency_max_ns,
        min(latency) AS latency_min_ns,
        CASE WHEN count(tries) > 0 THEN count(*) FILTER (tries > 1) END AS retried_ops,
        sum(wait_ns)::BIGINT AS wait_sum_ns,
        sum(response_ns(latency, wait_ns))::BIGINT AS response_sum_ns,
        max(response_ns(latency, wait_ns)) AS response_max_ns,
        min(response_ns(latency, wait_ns)) AS response_min_ns
    FROM ops
    WHERE op <> 'hint';
-- Grouping by the URI first computes the scheme once a file, not once an op.
CREATE OR REPLACE MACRO by_op() AS TABLE
    SELECT uri_scheme(uri) AS scheme, op, error, sum(n)::BIGINT AS ops, sum(moved)::BIGINT AS bytes,
           sum(asked)::BIGINT AS requested_bytes
    FROM (
        SELECT uri, op, error, count(*) AS n, sum(bytes) AS moved, sum(len) AS asked
        FROM ops
        GROUP BY uri, op, error
    )
    GROUP BY ALL
    ORDER BY scheme, op, error NULLS FIRST;
CREATE OR REPLACE MACRO file_ids() AS TABLE
    SELECT DISTINCT uri FROM ops WHERE op NOT IN ('hint', 'list');
CREATE OR REPLACE MACRO sample_ids() AS TABLE
    SELECT DISTINCT sample_id FROM ops WHERE sample_id IS NOT NULL AND op <> 'hint';
CREATE OR REPLACE MACRO step_ids() AS TABLE
    SELECT DISTINCT rank, step FROM ops WHERE step IS NOT NULL AND op <> 'hint';
