-- Ops of a DFTracer log with the samples, steps and streams that the Python hooks noted. Run statement by statement.
--
-- Reads  ops      (t_submit in ns since the Unix epoch, pid, tid, …)
-- Takes  $scopes  file of scopes: tid,t_begin,t_end,sample_id,step,worker,rank (ns since the Unix epoch; -1: none)
-- Gives  scoped   the ops with sample_id, step, rank and worker

-- scopes: when a thread was busy with a sample or a step
CREATE TABLE scopes AS
SELECT tid, t_begin, t_end, nullif(sample_id, -1) AS sample_id, nullif(step, -1) AS step, nullif(worker, -1) AS worker, rank
FROM read_csv(
    $scopes, header = false, ignore_errors = true, auto_detect = false, delim = ',',
    columns = {tid: 'BIGINT', t_begin: 'BIGINT', t_end: 'BIGINT', sample_id: 'BIGINT', step: 'BIGINT', worker: 'INTEGER', rank: 'INTEGER'}
);

-- threads: streams. A thread that a scope names keeps its number; the others come after
CREATE TABLE threads AS
WITH named AS (SELECT tid, max(worker) AS worker, max(rank) AS rank FROM scopes GROUP BY ALL)
SELECT s.pid, s.tid, coalesce(n.rank, 0)::INTEGER AS rank,
    coalesce(n.worker, (SELECT coalesce(max(worker) + 1, 0) FROM scopes)
        + dense_rank() OVER (ORDER BY n.worker IS NOT NULL, try_cast(s.pid AS BIGINT), try_cast(s.tid AS BIGINT)) - 1)::INTEGER AS worker
FROM (SELECT DISTINCT pid, tid FROM ops) s LEFT JOIN named n ON n.tid = try_cast(s.tid AS BIGINT);

CREATE VIEW scoped AS
SELECT
    o.* EXCLUDE (number, pid, tid, epoch) REPLACE (
        coalesce(CASE WHEN a.t_end >= o.t_submit THEN a.sample_id END, o.sample_id) AS sample_id,
        coalesce(CASE WHEN a.t_end >= o.t_submit THEN a.step END, CASE WHEN b.t_end >= o.t_submit THEN b.step END, o.step) AS step
    ),
    t.rank, t.worker
FROM ops o
JOIN threads t ON t.pid IS NOT DISTINCT FROM o.pid AND t.tid IS NOT DISTINCT FROM o.tid
ASOF LEFT JOIN (FROM scopes WHERE sample_id IS NOT NULL) a ON a.tid = try_cast(o.tid AS BIGINT) AND a.t_begin <= o.t_submit
ASOF LEFT JOIN (FROM scopes WHERE sample_id IS NULL) b ON b.tid = try_cast(o.tid AS BIGINT) AND b.t_begin <= o.t_submit;
