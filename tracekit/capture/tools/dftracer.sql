-- DFTracer's logs of one command, as ops. Run statement by statement by capture/preload.py.
--
-- Parameters  $logs    files: one JSON object a line, a file a process; torn lines are left out
--             $spans   file of scopes: tid,t_begin,t_end,sample_id,step,worker,rank (ns since the Unix epoch)
--             $metadata  whether stat and list are wanted
-- Registered  kept     pid, fhash, cwd, child -> uri: the files that the filters keep, made between the statements
-- Gives       ops      t_submit (ns since the Unix epoch), uri, op, offset, len, bytes, latency, sample_id, step,
--                      rank, worker, error; the columns of the op schema
--             totals   mapped: files mapped into memory, whose reads are not seen; read_bytes: of all files
--
-- DFTracer names the file of an event by a hash of the name as it was given (relative names too) and no
-- descriptor, so a file's position is rebuilt per process and file: exact while the process has the file
-- open once, null where it is open more often, since no one can tell whose position moved; and null while
-- another process moves a file that it has not opened, since it may have the descriptor from this one.

-- events: one row an event of the log, in its process's order
CREATE TABLE events AS
SELECT
    pid, tid, id, name, cat, ph, ts, dur,
    args.fhash AS fhash, args.ret AS ret, args.count AS count, args.size AS size, args.offset AS offset_arg,
    args.len AS len_arg, args.whence AS whence, args.flags AS flags, args.dirfd AS dirfd,
    args.pathname_hash AS pathname_hash, args.cwd AS cwd, args.name AS meta_name, args.value AS meta_value
FROM read_json(
    $logs, format = 'newline_delimited', ignore_errors = true, maximum_object_size = 67108864,
    columns = {
        name: 'VARCHAR', cat: 'VARCHAR', ph: 'VARCHAR', pid: 'BIGINT', tid: 'BIGINT', id: 'BIGINT', ts: 'BIGINT',
        dur: 'BIGINT',
        args: 'STRUCT(fhash VARCHAR, ret BIGINT, count BIGINT, size BIGINT, "offset" BIGINT, len BIGINT, whence BIGINT,
               flags BIGINT, dirfd BIGINT, pathname_hash VARCHAR, cwd VARCHAR, name VARCHAR, "value" VARCHAR)'
    }
)
WHERE name IS NOT NULL AND pid IS NOT NULL;

-- names: fhash -> name as the program gave it
CREATE TABLE names AS
SELECT meta_value AS fhash, any_value(meta_name) AS name
FROM events WHERE name = 'FH' AND meta_value IS NOT NULL GROUP BY ALL;

-- calls: what the program did with files. `cwd` is where it stood; `child`, for a directory's descriptor,
-- the name last opened relative to it (DFTracer books what follows under the directory's own name)
CREATE TABLE calls AS
SELECT
    * EXCLUDE (cwd, pathname_hash, meta_name, meta_value),
    last_value(CASE WHEN name = 'start' THEN cwd WHEN name = 'chdir' THEN fhash END IGNORE NULLS)
        OVER (PARTITION BY pid ORDER BY ts, id) AS cwd,
    last_value(CASE WHEN name LIKE 'openat%' AND dirfd >= 0 THEN pathname_hash WHEN name LIKE 'open%' THEN '' END IGNORE NULLS)
        OVER (PARTITION BY pid, fhash ORDER BY ts, id) AS child
FROM events
WHERE ts IS NOT NULL AND (cat IN ('POSIX', 'STDIO') OR name = 'start');

-- files: every file there is to name
CREATE VIEW files AS
SELECT DISTINCT c.pid, c.fhash, c.cwd, c.child, w.name AS cwd_name, f.name AS file_name, k.name AS child_name
FROM calls c
JOIN names f USING (fhash)
LEFT JOIN names w ON w.fhash = c.cwd
LEFT JOIN names k ON k.fhash = c.child;

-- placed: calls on files that are kept, with their kind and how they move the position
CREATE TABLE placed AS
SELECT
    c.pid, c.tid, c.id, c.name, c.ts, c.dur, k.uri, c.offset_arg, c.len_arg, c.flags,
    CASE
        WHEN c.name IN ('read', 'fread', 'readv', 'pread', 'pread64', 'preadv', 'preadv64', 'preadv2') THEN 'read'
        WHEN c.name IN ('write', 'fwrite', 'writev', 'pwrite', 'pwrite64', 'pwritev', 'pwritev64') THEN 'put'
        WHEN c.name IN ('__xstat', '__xstat64', '__lxstat', '__lxstat64', 'stat', 'stat64', 'lstat', 'lstat64') THEN 'stat'
        WHEN c.name IN ('opendir', 'scandir') THEN 'list'
        WHEN c.name IN ('remove', 'unlink', 'unlinkat') THEN 'delete'
        WHEN c.name LIKE 'posix_fadvise%' THEN 'hint'
    END AS kind,
    c.name SIMILAR TO 'p(read|write).*' AS positioned,
    greatest(c.ret, 0) * CASE WHEN c.name IN ('fread', 'fwrite') THEN coalesce(c.size, 1) ELSE 1 END AS moved,
    c.count * CASE WHEN c.name IN ('fread', 'fwrite') THEN coalesce(c.size, 1) ELSE 1 END AS asked,
    c.ret < 0 AS failed,
    (c.name SIMILAR TO 'f?open.*' OR c.name LIKE 'creat%')::INT AS opens,
    (c.name IN ('close', 'fclose'))::INT AS closes,
    CASE
        WHEN (c.name SIMILAR TO 'f?open.*' OR c.name LIKE 'creat%') AND coalesce(c.flags, 0) & 1024 = 0 THEN 0
        WHEN c.name IN ('lseek', 'lseek64') AND c.ret >= 0 THEN c.ret
        WHEN c.name IN ('fseek', 'fseeko', 'fseeko64') AND c.whence = 0 THEN c.offset_arg
    END AS position_set,
    (c.name SIMILAR TO '(f?open|creat|lseek|fseek|rewind|dup).*')::INT AS position_lost
FROM calls c
JOIN kept k ON k.pid = c.pid AND k.fhash = c.fhash AND k.cwd IS NOT DISTINCT FROM c.cwd AND k.child IS NOT DISTINCT FROM c.child;

-- streams: each call with the position of its file before it
CREATE TABLE streams AS
WITH stretches AS (
    SELECT *,
        sum(position_lost) OVER at_file AS stretch,
        sum(opens) OVER at_file - sum(closes) OVER at_file AS open_now,
        sum(opens) OVER at_file = 0 AND NOT positioned AND (kind IN ('read', 'put') OR position_lost = 1) AS inherited,
        CASE WHEN kind IN ('read', 'put') AND NOT positioned THEN moved ELSE 0 END AS advance
    FROM placed
    WINDOW at_file AS (PARTITION BY pid, uri ORDER BY ts, id ROWS UNBOUNDED PRECEDING)
)
SELECT *,
    max(position_set) OVER in_stretch + sum(advance) OVER in_stretch - advance AS position,
    min(ts) OVER in_stretch AS stretch_ts
FROM stretches
WINDOW in_stretch AS (PARTITION BY pid, uri, stretch ORDER BY ts, id ROWS UNBOUNDED PRECEDING);

-- shared: files whose position is moved by processes that have not opened them, when, and by whom if by one alone
CREATE TABLE shared AS
SELECT uri, min(ts) AS first_ts, max(ts) AS last_ts, CASE WHEN count(DISTINCT pid) = 1 THEN min(pid) END AS only_pid
FROM streams WHERE inherited GROUP BY uri;

-- scopes: when a thread was busy with a sample or a step
CREATE TABLE scopes AS
SELECT tid, t_begin, t_end, nullif(sample_id, -1) AS sample_id, nullif(step, -1) AS step, nullif(worker, -1) AS worker, rank
FROM read_csv(
    $spans, header = false, ignore_errors = true, auto_detect = false, delim = ',',
    columns = {tid: 'BIGINT', t_begin: 'BIGINT', t_end: 'BIGINT', sample_id: 'BIGINT', step: 'BIGINT', worker: 'INTEGER', rank: 'INTEGER'}
);

-- threads: streams. A thread that a scope has named keeps its number; the others come after
CREATE TABLE threads AS
WITH named AS (SELECT tid, max(worker) AS worker, max(rank) AS rank FROM scopes GROUP BY ALL)
SELECT s.pid, s.tid, coalesce(n.rank, 0)::INTEGER AS rank,
    coalesce(n.worker, (SELECT coalesce(max(worker) + 1, 0) FROM scopes)
        + dense_rank() OVER (ORDER BY n.worker IS NOT NULL, s.pid, s.tid) - 1)::INTEGER AS worker
FROM (SELECT DISTINCT pid, tid FROM streams) s LEFT JOIN named n USING (tid);

CREATE TABLE ops AS
SELECT
    o.ts AS t_submit, o.uri, o.kind AS op,
    CASE
        WHEN o.kind = 'hint' OR (o.kind IN ('read', 'put') AND o.positioned) THEN o.offset_arg
        WHEN h.first_ts < o.ts AND h.last_ts > o.stretch_ts AND h.only_pid IS DISTINCT FROM o.pid THEN NULL
        WHEN o.kind IN ('read', 'put') AND o.open_now <= 1 THEN o.position
    END AS "offset",
    CASE WHEN o.kind IN ('read', 'put') THEN coalesce(o.asked, o.moved) WHEN o.kind = 'hint' THEN o.len_arg END AS len,
    CASE WHEN o.kind IN ('read', 'put') THEN coalesce(o.moved, 0) END AS bytes,
    o.dur AS latency,
    CASE WHEN a.t_end >= o.ts THEN a.sample_id END AS sample_id,
    coalesce(CASE WHEN a.t_end >= o.ts THEN a.step END, CASE WHEN b.t_end >= o.ts THEN b.step END) AS step,
    t.rank, t.worker,
    CASE WHEN o.failed THEN 'io_error' END AS error
FROM streams o
JOIN threads t USING (pid, tid)
LEFT JOIN shared h USING (uri)
ASOF LEFT JOIN (FROM scopes WHERE sample_id IS NOT NULL) a ON a.tid = o.tid AND a.t_begin <= o.ts
ASOF LEFT JOIN (FROM scopes WHERE sample_id IS NULL) b ON b.tid = o.tid AND b.t_begin <= o.ts
WHERE o.kind IS NOT NULL AND ($metadata OR o.kind NOT IN ('stat', 'list'));

CREATE TABLE totals AS
SELECT
    (SELECT count(DISTINCT k.uri)
     FROM calls c JOIN kept k ON k.pid = c.pid AND k.fhash = c.fhash AND k.cwd IS NOT DISTINCT FROM c.cwd
         AND k.child IS NOT DISTINCT FROM c.child
     WHERE c.name LIKE 'mmap%') AS mapped,
    (SELECT coalesce(sum(greatest(ret, 0) * CASE WHEN name = 'fread' THEN coalesce(size, 1) ELSE 1 END), 0)::BIGINT
     FROM calls WHERE name SIMILAR TO '(p|f)?read.*') AS read_bytes
