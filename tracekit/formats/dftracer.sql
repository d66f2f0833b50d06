-- DFTracer's events as ops. Run statement by statement by dftracer.py, which registers tables in between.
--
-- Takes       $every_open  BOOLEAN  whether a successful open is a stat
-- Registered  cwds     (pid, ts, seq, cwd): where a process stood from then on, as an absolute path
--             uris     (path, uri)
--             changes  (pid, tid, ts, span): which span is the innermost of a thread from then on
-- Gives       ops      the columns of the op schema, number (line), pid, tid, epoch
--             facts    one row of counts
--
-- Later logs name the file of an event by a hash of its name as it was given, and give no descriptor. A position is
-- then rebuilt per process and file: exact while the process has the file open once, and null from a second open on
-- until all are closed, since no one can tell whose position moved. With descriptors it is rebuilt for each of them.
-- It is also null while another process moves a file that it has not opened: it may have the descriptor from this one.

-- as_integer: a number as text, a signed 64-bit one written as unsigned, or one with a fraction
CREATE MACRO as_integer(t) AS coalesce(
    try_cast(CASE WHEN NOT contains(t, '.') THEN t END AS BIGINT),
    try_cast(CASE WHEN try_cast(t AS UBIGINT) >= 9223372036854775808 THEN try_cast(t AS UBIGINT)::HUGEINT - 18446744073709551616 END AS BIGINT),
    CASE WHEN try_cast(t AS DOUBLE) >= 9223372036854775808 THEN -1 END,
    try_cast(try_cast(t AS DOUBLE) AS BIGINT)
);

-- events: calls, spans of samples, and names of files; seq is the order in the logs
CREATE TABLE events (
    seq BIGINT, number BIGINT, name VARCHAR, cat VARCHAR, ph VARCHAR, pid VARCHAR, tid VARCHAR, ts BIGINT, dur BIGINT, fname VARCHAR,
    fhash VARCHAR, fd BIGINT, ret BIGINT, count BIGINT, size BIGINT, offset_arg BIGINT, len_arg BIGINT, whence BIGINT, flags BIGINT,
    dirfd BIGINT, pathname_hash VARCHAR, cwd VARCHAR, image_idx BIGINT, step BIGINT, epoch BIGINT, meta_name VARCHAR, meta_value VARCHAR,
    host VARCHAR
);

-- counted: what the logs hold and count of themselves, for each process in parts: events, starts, ends, the number of events that the end
-- states, the highest number of an event (consecutive in a process, from 1), and events that are only in sums
CREATE TABLE counted (log BIGINT, pid VARCHAR, host VARCHAR, held BIGINT, starts BIGINT, ends BIGINT, stated HUGEINT, highest BIGINT, summed HUGEINT);

-- processes: numbers of processes that several hosts use (where the log names no host: several logs), with another name for each
CREATE TABLE processes AS
WITH seen AS (SELECT DISTINCT seq >> 40 AS log, pid, host FROM events),
hosts AS (SELECT *, coalesce(host, max(host) OVER (PARTITION BY log, pid), 'log ' || log) AS known_host FROM seen)
SELECT log, pid, host, pid || '@' || known_host AS name FROM hosts
WHERE pid IN (SELECT pid FROM hosts GROUP BY pid HAVING count(DISTINCT known_host) > 1);

UPDATE events SET pid = p.name FROM processes p
WHERE p.log = events.seq >> 40 AND p.pid = events.pid AND p.host IS NOT DISTINCT FROM events.host;

-- ends: a process that has ended leaves its number to another, which gets another name
CREATE TABLE ends AS
SELECT pid, seq FROM events WHERE ph = 'X' AND name = 'end' AND cat = 'DFTRACER';

UPDATE events SET pid = events.pid || '#' || later.ended
FROM (
    SELECT e.seq, count(*) AS ended FROM events e JOIN ends n ON n.pid = e.pid AND n.seq < e.seq AND n.seq >> 40 = e.seq >> 40 GROUP BY e.seq
) later
WHERE later.seq = events.seq;

DELETE FROM events WHERE ph = 'X' AND name = 'end' AND cat = 'DFTRACER';

-- definitions: what a hash stands for, process by process, in order of appearance
CREATE TABLE definitions AS
SELECT pid, meta_value AS fhash, seq, meta_name AS path FROM events WHERE ph = 'M' AND meta_name IS NOT NULL;

-- alone: hashes that stand for one name in all processes; many: the others
CREATE TABLE alone AS
SELECT fhash, min(path) AS path FROM definitions GROUP BY fhash HAVING count(DISTINCT path) = 1;

CREATE TABLE many AS
SELECT * FROM definitions WHERE fhash NOT IN (SELECT fhash FROM alone);

-- calls: what the program did with files, each with the name that was given; of a hash with many names it is the
-- last one that the process had by then, else its first one after
CREATE TABLE calls AS
SELECT
    e.* EXCLUDE (cwd, meta_name, meta_value, ph), coalesce(e.fname, a.path, b.path, c.path) AS given,
    e.fname IS NULL AND e.fhash IS NOT NULL AND a.path IS NULL AND b.path IS NULL AND c.path IS NULL AS unnamed,
    coalesce(r.path, (SELECT max_by(m.path, m.seq) FROM many m WHERE m.fhash = e.pathname_hash AND m.pid = e.pid)) AS relative_name
FROM (SELECT * REPLACE (CASE WHEN name = 'start' THEN cwd ELSE fhash END AS fhash) FROM events WHERE ph = 'X' AND image_idx IS NULL) e
LEFT JOIN alone a ON a.fhash = e.fhash
ASOF LEFT JOIN many b ON b.pid = e.pid AND b.fhash = e.fhash AND b.seq <= e.seq
ASOF LEFT JOIN many c ON c.pid = e.pid AND c.fhash = e.fhash AND c.seq >= e.seq
LEFT JOIN alone r ON r.fhash = e.pathname_hash;

-- located: with the whole path. Of a directory's descriptor, what follows an openat is booked under the directory's name
CREATE TABLE located AS
WITH children AS (
    SELECT * REPLACE (CASE WHEN ret = 4294967295 AND name NOT IN ('lseek', 'lseek64', 'fread', 'fwrite') THEN -1 ELSE ret END AS ret),
        last_value(CASE WHEN name LIKE 'openat%' AND dirfd >= 0 THEN relative_name WHEN name LIKE 'open%' THEN '' END IGNORE NULLS)
            OVER (PARTITION BY pid, fhash ORDER BY ts, seq) AS child
    FROM calls
    WHERE cat IN ('POSIX', 'STDIO')
)
SELECT c.* EXCLUDE (child),
    CASE
        WHEN c.given IS NULL OR c.given = '' OR starts_with(c.given, 'pipe:') OR starts_with(c.given, 'socket:') THEN NULL
        ELSE CASE WHEN starts_with(c.given, '/') OR contains(c.given, '://') OR d.cwd IS NULL THEN c.given ELSE d.cwd || '/' || c.given END
            || CASE WHEN c.fhash IS NULL OR coalesce(c.child, '') = '' THEN '' ELSE '/' || c.child END
    END AS path
FROM children c
ASOF LEFT JOIN cwds d ON d.pid = c.pid AND d.seq <= c.seq;

-- placed: with the kind of op, and how the call moves the position
CREATE TABLE placed AS
SELECT
    c.*, u.uri,
    CASE
        WHEN name IN ('read', 'fread', 'readv', 'pread', 'pread64', 'preadv', 'preadv64', 'preadv2', 'preadv64v2') THEN 'read'
        WHEN name IN ('write', 'fwrite', 'writev', 'pwrite', 'pwrite64', 'pwritev', 'pwritev64', 'pwritev2', 'pwritev64v2') THEN 'write'
        WHEN name IN ('fsync', 'fdatasync') THEN 'sync'
        WHEN opens = 1 AND (coalesce(flags, 0) & 512 <> 0 OR name LIKE 'creat%') THEN 'truncate'
        WHEN name SIMILAR TO '(__)?[fl]?x?stat(at)?(64)?|statx' OR opens = 1 OR failed_open THEN 'stat'
        WHEN name IN ('opendir', 'scandir') THEN 'list'
        WHEN name IN ('unlink', 'unlinkat', 'remove') THEN 'delete'
        WHEN name LIKE 'posix_fadvise%' OR name = 'readahead' THEN 'hint'
    END AS kind,
    CASE
        WHEN opens = 1 THEN CASE WHEN coalesce(flags, 0) & 1024 = 0 THEN 0 END
        WHEN name IN ('lseek', 'lseek64') AND ret BETWEEN 0 AND 1152921504606846976 THEN ret
        WHEN name LIKE 'fseek%' AND whence = 0 THEN offset_arg
        WHEN name = 'rewind' THEN 0
    END AS position_set,
    (opens = 1 OR closes = 1 OR name LIKE 'dup%' OR name LIKE 'fseek%' OR name = 'rewind' OR (name LIKE 'lseek%' AND coalesce(ret, 0) >= 0))::INT AS resets,
    name LIKE 'lseek%' OR name LIKE 'fseek%' OR name = 'rewind' AS seeks
FROM (
    SELECT *,
        (name SIMILAR TO 'f?open(at)?(64)?|creat(64)?' AND coalesce(ret, 0) >= 0)::INT AS opens,
        name SIMILAR TO 'f?open(at)?(64)?|creat(64)?' AND ret < 0 AS failed_open,
        (name IN ('close', 'fclose'))::INT AS closes,
        name SIMILAR TO 'p(read|write).*' AND NOT (name LIKE '%v2' AND offset_arg = -1) AS positioned,
        CASE WHEN name IN ('fread', 'fwrite') THEN coalesce(size, 1) ELSE 1 END AS item,
        least(greatest(ret, 0)::HUGEINT * item, 4611686018427387905)::BIGINT AS moved,
        CASE WHEN name NOT SIMILAR TO '.*v(64)?(2)?' THEN least(count::HUGEINT * item, 4611686018427387905) END::BIGINT AS asked
    FROM located
) c
LEFT JOIN uris u USING (path);

-- keyed: with the key under which a position is kept
CREATE TABLE keyed AS
SELECT *,
    CASE WHEN by_fd THEN concat_ws('|', pid, tid, CASE WHEN opens = 1 THEN ret ELSE fd END) ELSE concat_ws('|', pid, uri) END AS key,
    CASE WHEN kind IN ('read', 'write') AND NOT positioned THEN coalesce(moved, 0) ELSE 0 END AS advance
FROM placed, (SELECT coalesce(bool_or(fd IS NOT NULL AND kind = 'read' AND NOT positioned), false) AS by_fd FROM placed) f
WHERE uri IS NOT NULL;

-- streams: with the position before the call, and whether it can be trusted
CREATE TABLE streams AS
WITH stretches AS (
    SELECT *,
        sum(resets) OVER at_key AS stretch,
        sum(opens - closes) OVER at_key AS open_now,
        sum(opens) OVER (PARTITION BY pid, uri ORDER BY ts, seq ROWS UNBOUNDED PRECEDING) = 0
            AND NOT positioned AND (kind IN ('read', 'write') OR seeks) AS inherited
    FROM keyed
    WINDOW at_key AS (PARTITION BY key ORDER BY ts, seq ROWS UNBOUNDED PRECEDING)
),
lives AS (
    SELECT *, sum((opens = 1 AND open_now <= 1)::INT) OVER (PARTITION BY key ORDER BY ts, seq ROWS UNBOUNDED PRECEDING) AS life
    FROM stretches
)
SELECT *,
    max(position_set) OVER in_stretch + sum(advance) OVER in_stretch - advance AS position,
    min(CASE WHEN resets = 1 THEN ts END) OVER in_stretch AS stretch_ts,
    by_fd OR max(open_now) OVER (PARTITION BY key, life ORDER BY ts, seq ROWS UNBOUNDED PRECEDING) <= 1 AS one_descriptor
FROM lives
WINDOW in_stretch AS (PARTITION BY key, stretch ORDER BY ts, seq ROWS UNBOUNDED PRECEDING);

-- shared: files that are moved by processes that have not opened them, when, and by whom if by one alone
CREATE TABLE shared AS
SELECT uri, CASE WHEN by_fd THEN fd END AS of_fd, min(ts) AS first_ts, max(ts) AS last_ts,
    CASE WHEN count(DISTINCT pid) = 1 THEN min(pid) END AS only_pid
FROM streams WHERE inherited GROUP BY ALL;

CREATE TABLE spans AS
SELECT row_number() OVER (ORDER BY seq) - 1 AS span, pid, tid, ts, dur, image_idx, step, epoch FROM events WHERE image_idx IS NOT NULL;

CREATE TABLE ops AS
SELECT
    o.number, o.pid, o.tid, o.ts AS t_submit, o.uri, o.kind AS op,
    try_cast(CASE
        WHEN o.kind = 'hint' OR (o.kind IN ('read', 'write') AND o.positioned) THEN CASE WHEN o.offset_arg >= 0 THEN o.offset_arg END
        WHEN coalesce(h.first_ts < o.ts AND h.last_ts > o.stretch_ts AND h.only_pid IS DISTINCT FROM o.pid, false) THEN NULL
        WHEN o.kind IN ('read', 'write') AND o.one_descriptor AND o.position >= 0 THEN o.position
    END AS BIGINT) AS "offset",
    CASE WHEN o.kind IN ('read', 'write') THEN o.asked WHEN o.kind = 'hint' THEN o.len_arg WHEN o.kind = 'truncate' THEN 0 END AS len,
    CASE WHEN o.kind IN ('read', 'write') THEN o.moved WHEN o.kind NOT IN ('hint', 'sync', 'truncate') THEN 0 END AS bytes,
    o.dur AS latency,
    s.image_idx AS sample_id, s.step, s.epoch,
    CASE WHEN o.ret < 0 THEN CASE WHEN o.kind IN ('stat', 'list', 'delete') THEN 'not_found' ELSE 'io_error' END END AS error
FROM streams o
LEFT JOIN shared h ON h.uri = o.uri AND h.of_fd IS NOT DISTINCT FROM CASE WHEN o.by_fd THEN o.fd END
ASOF LEFT JOIN changes g ON g.pid = o.pid AND g.tid = o.tid AND g.ts <= o.ts
LEFT JOIN spans s ON s.span = g.span AND o.ts + o.dur <= s.ts + s.dur
WHERE o.kind IS NOT NULL AND ($every_open OR o.opens = 0 OR o.kind = 'truncate');

-- totals: of logs that mark where a process starts (since 2024): events held, summed and counted, processes, and those without an end.
-- Of a process without an end, the highest number of an event is the least that there were.
CREATE TABLE totals AS
WITH by_process AS (
    SELECT sum(held) AS held, sum(coalesce(summed, 0)) AS summed, sum(starts) AS starts, sum(ends) AS ends,
        CASE WHEN sum(ends) >= sum(starts) THEN sum(stated) WHEN sum(starts) = 1 THEN max(highest) END AS counted
    FROM counted GROUP BY log, pid, host
)
SELECT coalesce(sum(held) FILTER (held + summed < counted), 0)::BIGINT AS held, coalesce(sum(counted - summed) FILTER (held + summed < counted), 0)::BIGINT AS counted,
    (SELECT coalesce(sum(summed), 0)::BIGINT FROM by_process) AS summed, coalesce(sum(starts), 0)::BIGINT AS processes,
    coalesce(sum(greatest(starts - ends, 0)), 0)::BIGINT AS without_end
FROM by_process WHERE starts > 0;

CREATE TABLE facts AS
SELECT
    (SELECT count(*) FROM ops WHERE op = 'read' AND "offset" IS NULL) AS unplaced,
    (SELECT count(*) FROM placed WHERE kind IS NOT NULL AND ($every_open OR opens = 0 OR kind = 'truncate') AND uri IS NULL AND NOT coalesce(starts_with(given, 'pipe:') OR starts_with(given, 'socket:'), false)) AS unnamed,
    (SELECT count(*) FROM placed WHERE unnamed AND fhash IN (SELECT fhash FROM definitions)) AS ambiguous,
    (SELECT coalesce(sum(moved), 0)::BIGINT FROM placed WHERE kind = 'read') AS read_bytes;

-- left_out: calls that are neither ops nor moves of a descriptor, by name
CREATE TABLE left_out AS
SELECT name, count(*) AS calls FROM placed
WHERE kind IS NULL AND position_set IS NULL AND resets = 0 AND NOT seeks
    AND name NOT SIMILAR TO 'mmap.*|munmap|dup.*|fcntl.*|ftell.*|fflush|close.*|start|end|chdir|fileno|umask|msync|pipe.*|socket.*|v?fork|wait(pid|id|3|4)?|exec.*'
GROUP BY name;
