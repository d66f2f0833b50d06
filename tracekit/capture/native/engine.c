/* Records the file I/O of a program that is started with this library in LD_PRELOAD.
 *
 * Each call that the program makes through the C library is passed on, and one record of 64 bytes is written
 * to a log that is mapped into memory (MAP_SHARED): what has been recorded survives the death of the process,
 * by SIGKILL too. The position of a descriptor is asked of the kernel after the call, so that dup, fork and
 * seeks by others need no bookkeeping. Calls inside the C library do not pass here; what its streams (FILE)
 * read and write is found by comparing their buffers before and after each call.
 *
 * It must not harm the program: it keeps errno, holds no descriptor open, allocates no memory from the
 * program's allocator, and stops recording where it cannot go on. `logs.py` and `records.py` read the logs.
 */
#define _GNU_SOURCE
#define __NO_INLINE__ /* of the functions of stdio.h that are defined here */
#include <aio.h>
#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <link.h>
#include <pthread.h>
#include <pwd.h>
#include <sched.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>
#include <wchar.h>
#include <netinet/in.h>
#include <linux/aio_abi.h>

#ifndef SYS_openat2
#define SYS_openat2 437
#endif

#define EXPORT __attribute__((visibility("default")))
typedef int64_t i64;
typedef uint64_t u64;
typedef uint32_t u32;

/* ---- The log. records.py knows these layouts. ---- */

enum { READ = 1, WRITE, SYNC, TRUNCATE, RENAME, DELETE, HINT, MAP, STAT, LIST };
enum { HEADER = 16384, CHUNK = 32768, NAMES = 2, RECORDS = 1 };
enum { IO_URING = 1, IO_SUBMIT = 2, ENDED = 4, GPU_DIRECT = 8 };

struct record { i64 begin, took, offset, length, moved; u32 file, to, thread; unsigned char kind, unused[3]; i64 spare; };

enum { CALLERS = 16 };
/* A library that connected to other hosts, or to this one: what went through its sockets. */
struct caller { u64 moved; u32 connections; char library[52]; };

struct header {
    char magic[8];
    u32 version, pid, parent_pid, forked;
    i64 began, clock_offset, ended;
    u64 read0, written0, read1, written1;   /* rchar and wchar of /proc/self/io */
    u64 other_read, other_written;          /* of them, on pipes, sockets, terminals, files of the kernel and this log */
    u64 lost, flags;
    u64 storage_read, storage_written;      /* recorded, or about to be left out by a filter */
    u64 objects;                            /* shared objects in memory at the end: the dynamic loader read their heads */
    i64 recording, cpu0, cpu1;              /* ns that recording took, as measured; CPU time of the process */
    u64 measured;                           /* calls that were measured */
    u64 queued_read, queued_written;        /* by libaio and io_uring from and to files, which /proc/self/io does not count */
    char parent[64], program[1024], libraries[2048];
    char unseen[512];                       /* programs that were started and cannot be seen: reason, tabulator, name */
    struct caller callers[CALLERS];         /* the first: through sockets that no known library connected */
    unsigned char ports[65536 / 8];         /* a bit for each that was connected to */
};

struct entry { u32 file; unsigned short lock; unsigned char state, device; }; /* of a socket, the number of its caller; device: its name is below /dev, as that of shared memory is */
enum { UNKNOWN, STORAGE, OTHER, SOCKET, NAMELESS };
enum { INHERITED = 512 }; /* locks of positions: as many for descriptors that this program did not open, and for others */

#define MEASURED_EACH 61 /* one call in so many is measured; a prime, because programs repeat themselves */
#define MEASURED_MOST 10000 /* ns: a thread that was suspended inside a call says no more than this */

#define MAX_FD 65536
#define MAX_NAMES 32768
static struct entry table[MAX_FD];
/* In the order of their numbers, and found by a table that grows with them: what a forked child writes is a copy, by the page. */
static struct { u64 hash; u32 length, id; } known_names[MAX_NAMES];
static unsigned short name_slots[2 * MAX_NAMES];
static u32 names_known, name_mask = 255;
static FILE *streams[1024];
static u32 streams_end;            /* behind the last that was ever used */
static struct header *log_header;
static volatile u32 *alive;         /* a page that the kernel wipes in a forked child */
static volatile int dead; /* dead: recording has ended for good */
static int metadata, faults_asked, queues_seen, rings_known;
static int memory_unwanted;          /* files of /dev/shm, as no include glob names them */
static u64 memory_device;           /* the file system that is mounted there */
static struct { u64 device, inode; } redirected[3]; /* the standard streams that the command was given */
static u32 our_pid, next_file, next_chunk, name_lock, start_lock, asked_lock, rings_lock, callers_lock, next_opened;
static u32 *place_locks;            /* shared with forked children, as the positions of descriptors are */
/* What the last of the forked children that looked found in its memory map, for those with as much executable memory; shared. */
static struct noted { u64 executable, objects; u32 lock; char libraries[2048]; } *noted;
static char *name_at, *name_end;
static char wanted[1024];           /* parts of the names of libraries to note, each ended by a zero */
static char folder[2048], own[2048], log_name[64], log_path[2200];
static const char *library = "";    /* the file name of this library */
struct found_object { unsigned long long flags; void *from, *to; struct link_map *object; void *more[16]; };
static int (*find_object)(void *, struct found_object *); /* of the C library, without a lock; NULL before glibc 2.35 */
static struct { struct record *at, *end; } spare_chunks[64];
static u32 spare_lock, spare_count;
static pthread_key_t at_thread_end;

static __thread struct { struct record *at, *end; u32 thread; int busy, wait, vforked, below, opened; i64 entered; u64 outer; } me __attribute__((tls_model("initial-exec")));

/* ---- System calls that neither touch errno nor pass through a hook ---- */

static inline long sys(long number, long a, long b, long c, long d, long e, long f) {
#if defined(__x86_64__)
    long result;
    register long r10 __asm__("r10") = d, r8 __asm__("r8") = e, r9 __asm__("r9") = f;
    __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
#elif defined(__aarch64__)
    register long x8 __asm__("x8") = number, x0 __asm__("x0") = a, x1 __asm__("x1") = b, x2 __asm__("x2") = c;
    register long x3 __asm__("x3") = d, x4 __asm__("x4") = e, x5 __asm__("x5") = f;
    __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory");
    return x0;
#else
#error "this machine's system calls are not known"
#endif
}
#define SYS(n, ...) SYS_(n, __VA_ARGS__, 0, 0, 0, 0, 0, 0)
#define SYS_(n, a, b, c, d, e, f, ...) sys(n, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), (long)(f))

static int raw_open(const char *path, int flags) { return (int)SYS(SYS_openat, AT_FDCWD, path, flags | O_CLOEXEC, 0600); }
static i64 clock_of(clockid_t clock) {
    struct timespec at;
    clock_gettime(clock, &at);
    return at.tv_sec * 1000000000LL + at.tv_nsec;
}
static inline i64 now(void) { return clock_of(CLOCK_MONOTONIC); }
static inline i64 cpu(void) { return clock_of(CLOCK_THREAD_CPUTIME_ID); } /* costs more than `now`, but no waiting counts */
static inline i64 place(int fd) { return SYS(SYS_lseek, fd, 0, SEEK_CUR); }

/* A lock that never blocks for good: 0 if this thread holds it (a signal handler), or the wait took too long. */
static int take(u32 *lock) {
    u32 self = me.thread;
    for (int tries = 0; tries < 100000; tries++) {
        u32 holder = 0;
        if (__atomic_compare_exchange_n(lock, &holder, self, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED)) return 1;
        if (holder == self) return 0;
        if (tries % 1024 == 1023 && SYS(SYS_tkill, holder, 0) == -ESRCH) /* killed while it held a lock */
            __atomic_compare_exchange_n(lock, &holder, 0, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
        if (tries > 64) sched_yield();
    }
    return 0;
}
static void give(u32 *lock) { __atomic_store_n(lock, 0, __ATOMIC_RELEASE); }

/* ---- Real functions ---- */

#define REAL_AS(name, symbol) ({ \
    static __typeof__(&name) found; \
    if (__builtin_expect(!found, 0)) { me.busy++; found = (__typeof__(&name))dlsym(RTLD_NEXT, symbol); me.busy--; } \
    found; })
#define REAL(name) REAL_AS(name, #name)

/* What is recorded below a function of ours is not recorded once more by it: another library may have replaced the function, and
 * call one of ours in turn. `mine` is the kind of the call and what it is about. Nothing is left behind by a longjmp. */
enum { BELOW_TOO = 1 };
static inline u64 call_on(int kind, u32 what) { return (u64)kind << 48 | (u64)what << 1; }
#define INNERMOST(mine, result, call) \
    u64 outer = me.outer; \
    me.outer = mine; \
    result = call; \
    int innermost = me.outer == (mine); \
    me.outer = outer == (mine) ? outer | BELOW_TOO : outer;

/* ---- Writing the log ---- */

enum { FIRST = HEADER + 2 * CHUNK }; /* a log begins with a chunk of names and one of records: one file operation for all */
static const char zeros[FIRST];
static void *map_part(i64 offset, size_t length, u64 *written) {
    struct rlimit most; /* beyond it a write is a SIGXFSZ, which ends the program */
    if (!SYS(SYS_prlimit64, 0, RLIMIT_FSIZE, 0, &most) && most.rlim_cur != RLIM_INFINITY && (u64)offset + length > most.rlim_cur) return NULL;
    int fd = raw_open(log_path, O_RDWR | O_CREAT);
    if (fd < 0) return NULL;
    /* Zeros are written first: on a full disk a store into a hole would be a SIGBUS, and into reserved blocks it takes 8 us for each
     * of their pages, not 1. */
    long done = SYS(SYS_pwrite64, fd, zeros, length, offset);
    if (done > 0) __atomic_fetch_add(written, done, __ATOMIC_RELAXED); /* the kernel counts it among what the program wrote */
    long at = done != (long)length ? -1 : SYS(SYS_mmap, 0, length, PROT_READ | PROT_WRITE, MAP_SHARED, fd, offset);
    SYS(SYS_close, fd);
    return at < 0 && at > -4096 ? NULL : (void *)at;
}

static char *new_chunk(u32 kind) {
    u32 number = __atomic_fetch_add(&next_chunk, 1, __ATOMIC_RELAXED);
    char *chunk = map_part(HEADER + (i64)number * CHUNK, CHUNK, &log_header->other_written);
    if (chunk) *(u32 *)chunk = kind;
    return chunk;
}

static i64 clock_cost; /* ns of one question for the time, which a measured call asks more often */

static void took_recording(i64 ns) { __atomic_fetch_add(&log_header->recording, ns, __ATOMIC_RELAXED); }

/* The end of a call that `on` began to measure. `took` ns of it were the call of the program, which `began` then. */
static void measured(i64 began, i64 took) {
    if (__builtin_expect(!me.entered, 1)) return;
    i64 spent = now() - me.entered - (began < me.entered ? 0 : took) - clock_cost;
    me.entered = 0;
    took_recording(MEASURED_EACH * (spent < 0 ? 0 : spent < MEASURED_MOST ? spent : MEASURED_MOST));
    __atomic_fetch_add(&log_header->measured, 1, __ATOMIC_RELAXED);
}

static struct record *more_room(void) {
    if (me.busy) return NULL;
    me.busy++;
    i64 began = cpu();
    struct record *at = NULL, *end = NULL, *full = me.end;
    if (spare_count && take(&spare_lock)) {
        if (spare_count) { spare_count--; at = spare_chunks[spare_count].at; end = spare_chunks[spare_count].end; }
        give(&spare_lock);
    }
    if (!at) {
        char *chunk = new_chunk(RECORDS);
        if (chunk) { at = (struct record *)chunk + 1; end = (struct record *)(chunk + CHUNK); }
    }
    pthread_setspecific(at_thread_end, &me);
    if (full) SYS(SYS_munmap, (char *)full - CHUNK, CHUNK);
    me.end = end;
    me.at = at ? at + 1 : NULL;
    log_header->cpu1 = clock_of(CLOCK_PROCESS_CPUTIME_ID);
    me.entered = 0; /* measured here, not with the call */
    took_recording(cpu() - began);
    me.busy--;
    return at;
}

static void put(int kind, u32 file, u32 to, i64 begin, i64 took, i64 offset, i64 length, i64 moved) {
    struct record *at = __atomic_fetch_add(&me.at, sizeof(struct record), __ATOMIC_RELAXED);
    if (__builtin_expect(!me.end || at >= me.end, 0)) at = more_room();
    if (!at) { __atomic_fetch_add(&log_header->lost, 1, __ATOMIC_RELAXED); return; }
    if (moved > 0 && kind == READ) __atomic_fetch_add(&log_header->storage_read, moved, __ATOMIC_RELAXED);
    if (moved > 0 && kind == WRITE) __atomic_fetch_add(&log_header->storage_written, moved, __ATOMIC_RELAXED);
    at->begin = begin; at->took = took; at->offset = offset; at->length = length; at->moved = moved;
    at->file = file; at->to = to; at->thread = me.thread;
    __atomic_store_n(&at->kind, (unsigned char)kind, __ATOMIC_RELEASE);
}

static void thread_ended(void *unused) {
    (void)unused;
    if (me.end && me.at < me.end && take(&spare_lock)) {
        if (spare_count < 64) {
            spare_chunks[spare_count].at = me.at;
            spare_chunks[spare_count++].end = me.end;
            me.at = me.end = NULL;
        }
        give(&spare_lock);
    }
}

/* ---- Starting, forking, ending ---- */

static int digits(char *out, u64 value) {
    char text[24];
    int length = 0;
    do text[length++] = (char)('0' + value % 10); while (value /= 10);
    for (int i = 0; i < length; i++) out[i] = text[length - 1 - i];
    out[length] = 0;
    return length;
}

/* A read for ourselves, which the kernel counts among what the program read. */
static long read_for_us(int fd, void *data, size_t n, u64 *count) {
    long got = SYS(SYS_read, fd, data, n);
    if (got > 0) __atomic_fetch_add(count, got, __ATOMIC_RELAXED);
    return got;
}

static void counted_bytes(const char *path, u64 *read_, u64 *written, u64 *count) {
    char text[512];
    int fd = raw_open(path, O_RDONLY);
    if (fd < 0) return;
    long got = read_for_us(fd, text, sizeof text - 1, count);
    SYS(SYS_close, fd);
    if (got <= 0) return;
    text[got] = 0;
    char *first = strstr(text, "rchar: "), *second = strstr(text, "wchar: ");
    if (first) *read_ = strtoull(first + 7, NULL, 10);
    if (second) *written = strtoull(second + 7, NULL, 10);
}

/* How far the wall clock is ahead of the monotonic clock, as `clock_offset_ns` of tracekit/processes.py: by the reading that
 * took least, because a thread may lose its processor between two clocks. */
static i64 clock_offset(void) {
    i64 offset = 0, least = INT64_MAX;
    for (int reading = 0; reading < 8; reading++) {
        i64 before = now(), wall = clock_of(CLOCK_REALTIME), took = now() - before;
        if (took < least) {
            least = took;
            offset = wall - before - took / 2;
        }
    }
    return offset;
}

/* Make the log of this process. Called at the start, and in a forked child before its first record. */
static int new_log(int forked) {
    char before[64];
    memcpy(before, log_name, sizeof before);
    our_pid = (u32)SYS(SYS_getpid, 0);
    me.thread = (u32)SYS(SYS_gettid, 0);
    int length = digits(log_name, our_pid);
    log_name[length++] = '-';
    length += digits(log_name + length, (u64)now());
    memcpy(log_name + length, ".log", 5);
    size_t prefix = strlen(folder);
    memcpy(log_path, folder, prefix);
    log_path[prefix] = '/';
    strcpy(log_path + prefix + 1, log_name);
    name_lock = spare_lock = asked_lock = rings_lock = callers_lock = 0;
    rings_known = 0;
    me.at = me.end = NULL;
    u64 read0 = 0, written0 = 0, read_ = 0, written = 0;
    if (!forked) counted_bytes("/proc/self/io", &read0, &written0, &read_); /* a forked child begins at 0 */
    struct header *header = map_part(0, FIRST, &written);
    if (!header) return 0;
    char *names = (char *)header + HEADER, *records = names + CHUNK;
    *(u32 *)names = NAMES;
    *(u32 *)records = RECORDS;
    next_chunk = 2;
    name_at = names + 64;
    name_end = names + CHUNK;
    spare_chunks[0].at = (struct record *)records + 1;
    spare_chunks[0].end = (struct record *)(records + CHUNK);
    spare_count = 1;
    header->read0 = read0;
    header->written0 = written0;
    header->pid = our_pid;
    header->parent_pid = (u32)SYS(SYS_getppid, 0);
    header->forked = (u32)forked;
    header->began = now();
    header->clock_offset = clock_offset();
    header->cpu0 = clock_of(CLOCK_PROCESS_CPUTIME_ID);
    me.wait = (int)(header->began % MEASURED_EACH) + 1; /* short programs are measured as often as others */
    if (forked) {
        memcpy(header->parent, before, sizeof before);
        memcpy(header->program, log_header->program, sizeof header->program); /* it runs what its parent runs */
        for (int i = 0; i < CALLERS; i++) memcpy(header->callers[i].library, log_header->callers[i].library, sizeof header->callers->library);
    }
    int fd = forked ? -1 : raw_open("/proc/self/cmdline", O_RDONLY);
    if (fd >= 0) {
        read_for_us(fd, header->program, sizeof header->program - 1, &read_);
        SYS(SYS_close, fd);
    }
    header->other_read = read_;
    header->other_written = written;
    header->version = 4;
    log_header = header;
    memcpy(header->magic, "TKNATIVE", 8);
    return 1;
}

static void begin_recording(void) {
    i64 began = cpu();
    me.busy++;
    me.thread = (u32)SYS(SYS_gettid, 0);
    if (take(&start_lock)) {
        const char *logs = alive || dead ? NULL : getenv("TRACEKIT_NATIVE_LOGS");
        if (logs && *logs == '/' && strlen(logs) < sizeof folder) {
            strcpy(folder, logs);
            strcpy(own, logs);
            *strrchr(own, '/') = 0; /* the logs, and what the hooks write beside them, are never recorded */
            metadata = getenv("TRACEKIT_NATIVE_METADATA") != NULL;
            memory_unwanted = getenv("TRACEKIT_NATIVE_WITHOUT_MEMORY") != NULL;
            struct stat memory, top;
            if (memory_unwanted && !SYS(SYS_newfstatat, AT_FDCWD, "/dev/shm", &memory, AT_SYMLINK_NOFOLLOW) && S_ISDIR(memory.st_mode)
                && !SYS(SYS_newfstatat, AT_FDCWD, "/", &top, 0) && memory.st_dev != top.st_dev) memory_device = memory.st_dev;
            const char *given = getenv("TRACEKIT_NATIVE_STREAMS");
            for (int i = 0; given && *given && i < 3; i++) {
                char *end;
                redirected[i].device = strtoull(given, &end, 10);
                redirected[i].inode = *end ? strtoull(end + 1, &end, 10) : 0;
                given = *end ? end + 1 : end;
            }
            const char *parts = getenv("TRACEKIT_NATIVE_LIBRARIES");
            if (parts && strlen(parts) < sizeof wanted - 1) strcpy(wanted, parts);
            for (char *at = wanted; *at; at++) if (*at == ',') *at = 0;
            Dl_info found;
            if (dladdr(table, &found) && found.dli_fname) library = strrchr(found.dli_fname, '/') ? strrchr(found.dli_fname, '/') + 1 : found.dli_fname;
            find_object = (__typeof__(find_object))dlsym(RTLD_DEFAULT, "_dl_find_object");
            long page = SYS(SYS_mmap, 0, HEADER, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            long locks = SYS(SYS_mmap, 0, 2 * HEADER, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
            place_locks = (u32 *)locks;
            noted = (struct noted *)(locks + HEADER);
            int usable = page > 0 && locks > 0 && SYS(SYS_madvise, page, HEADER, MADV_WIPEONFORK) == 0
                && pthread_key_create(&at_thread_end, thread_ended) == 0 && new_log(0);
            if (usable) {
                clock_cost = now();
                for (int i = 0; i < 8; i++) now();
                clock_cost = (now() - clock_cost) / 9;
                if (clock_cost > 100) clock_cost = 100; /* the thread was suspended */
                *(u32 *)page = 1;
                took_recording(cpu() - began);
                __atomic_store_n(&alive, (volatile u32 *)page, __ATOMIC_RELEASE);
            }
        }
        if (!alive) dead = 1;
        give(&start_lock);
    }
    me.busy--;
}

/* Name a program in the log that this process still has mapped, once for each reason. */
static void note_unseen(const char *why, const char *path) {
    char line[320], *all = log_header->unseen;
    const char *name = strrchr(path, '/') ? strrchr(path, '/') + 1 : path;
    if (strlen(why) + strlen(name) + 3 > sizeof line || !take(&name_lock)) return;
    stpcpy(stpcpy(stpcpy(stpcpy(line, why), "\t"), name), "\n");
    if (!strstr(all, line) && strlen(all) + strlen(line) < sizeof log_header->unseen) strcat(all, line);
    give(&name_lock);
}

static void begin_in_child(void) {
    me.busy++;
    i64 began = cpu();
    start_lock = 0;
    if (new_log(1)) { *alive = 1; took_recording(cpu() - began); }
    else {
        dead = 1;
        note_unseen("without access to its log", log_header->program); /* it has changed its user or its root */
    }
    me.busy--;
}

/* Whether to record now. Never true inside this library's own work. */
static inline int on(void) {
    if (__builtin_expect(dead || me.busy, 0)) return 0;
    if (__builtin_expect(!alive, 0)) { begin_recording(); if (!alive || dead) return 0; }
    if (__builtin_expect(!*alive, 0)) { begin_in_child(); if (dead) return 0; }
    if (__builtin_expect(!me.thread, 0)) {
        me.thread = (u32)SYS(SYS_gettid, 0);
        me.wait = (int)(me.thread % MEASURED_EACH) + 1;
    }
    me.entered = 0;
    if (__builtin_expect(--me.wait <= 0, 0)) { me.wait = MEASURED_EACH; me.entered = now(); }
    return 1;
}

/* A child of vfork runs in its parent's memory until it calls exec: what it does to descriptors is not the parent's. It has the
 * thread-local variables of the thread that called vfork, which goes on only when the child has left. */
static int memory_shared; /* by a process that was made with clone */
static inline int on_descriptors(void) {
    if (!on()) return 0;
    if (__builtin_expect(!me.vforked && !memory_shared, 1)) return 1;
    if ((u32)SYS(SYS_getpid, 0) != our_pid) return 0;
    me.vforked = 0;
    return 1;
}

/* vfork returns twice, so that nothing of ours may be on the stack when it is called. */
__attribute__((visibility("hidden"), used)) void *will_vfork(void) { me.vforked = 1; return (void *)REAL(vfork); }
__asm__(".text\n.globl vfork\n.globl __vfork\n.type vfork, %function\n.type __vfork, %function\nvfork:\n__vfork:\n"
#if defined(__x86_64__)
        "endbr64\nsub $8, %rsp\ncall will_vfork\nadd $8, %rsp\njmp *%rax\n"
#else
        "stp x29, x30, [sp, -16]!\nbl will_vfork\nldp x29, x30, [sp], 16\nmov x16, x0\nbr x16\n"
#endif
        ".size vfork, .-vfork\n");
static void will_clone(i64 flags) { if (flags & CLONE_VM && !(flags & CLONE_THREAD)) memory_shared = 1; }
EXPORT int clone(int (*f)(void *), void *stack, int flags, void *given, ...) {
    va_list more;
    va_start(more, given);
    pid_t *parent = va_arg(more, pid_t *);
    void *local = va_arg(more, void *);
    pid_t *child = va_arg(more, pid_t *);
    va_end(more);
    will_clone(flags);
    return REAL(clone)(f, stack, flags, given, parent, local, child);
}

static u64 hash_of(const char *text, size_t length) {
    u64 hash = 0x9e3779b97f4a7c15u ^ length;
    for (size_t i = 0; i < length; i += 8) {
        u64 word = 0;
        memcpy(&word, text + i, length - i < 8 ? length - i : 8);
        hash = (hash ^ word) * 0xff51afd7ed558ccdu;
        hash ^= hash >> 32;
    }
    return hash;
}

/* The name of a library with that of its directory, which tells what an `_internal.abi3.so` belongs to. */
static const char *last_parts(const char *path) {
    const char *from = path + strlen(path);
    for (int slashes = 0; from > path && (from[-1] != '/' || ++slashes < 2); from--) {}
    return from;
}

static void note_mapped(void) {
    static char text[16384];
    int fd = raw_open("/proc/self/maps", O_RDONLY);
    if (fd < 0) return;
    size_t kept = 0, used = 0;
    u64 last = 0;
    long got;
    while ((got = read_for_us(fd, text + kept, sizeof text - 1 - kept, &log_header->other_read)) > 0) {
        size_t filled = kept + (size_t)got;
        text[filled] = 0;
        char *line = text, *end;
        while ((end = memchr(line, '\n', (size_t)(text + filled - line)))) {
            *end = 0;
            char *path = strchr(line, '/'), *base = path ? strrchr(path, '/') + 1 : NULL;
            u64 name = path ? hash_of(path, strlen(path)) : 0;
            int again = name == last; /* an object has several parts, one after the other */
            if (name) last = name;
            if (name && !again && strstr(base, ".so")) {
                log_header->objects++;
                const char *from = last_parts(path);
                size_t length = strlen(from);
                int known = 0;
                for (const char *part = wanted; !known && *part; part += strlen(part) + 1) known = strstr(from, part) != NULL;
                if (known && used + length + 2 <= sizeof log_header->libraries && !strstr(log_header->libraries, from)) {
                    memcpy(log_header->libraries + used, from, length);
                    used += length;
                    log_header->libraries[used++] = '\n';
                }
            }
            if (!queues_seen && strstr(line, "[io_uring]")) log_header->flags |= IO_URING;
            if (!queues_seen && strstr(line, "[aio]")) log_header->flags |= IO_SUBMIT;
            line = end + 1;
        }
        kept = (size_t)(text + filled - line);
        if (kept >= sizeof text - 1) kept = 0;
        memmove(text, line, kept);
    }
    SYS(SYS_close, fd);
}

static void look_for_rings(int first, int last);
static unsigned char looked_at[MAX_FD];

/* To read the memory map takes half a millisecond where a program has loaded many libraries. A forked child has those of others. */
static void note_libraries(void) {
    char text[2048] = "";
    int fd = log_header->forked ? raw_open("/proc/self/status", O_RDONLY) : -1;
    if (fd >= 0) {
        long got = read_for_us(fd, text, sizeof text - 1, &log_header->other_read);
        text[got > 0 ? got : 0] = 0;
        SYS(SYS_close, fd);
    }
    const char *size = strstr(text, "VmLib:"), *slots = strstr(text, "FDSize:");
    u64 executable = size ? strtoull(size + 6, NULL, 10) : 0, known = 0;
    if (executable && take(&noted->lock)) {
        known = noted->executable == executable;
        if (known) {
            strcpy(log_header->libraries, noted->libraries);
            log_header->objects = noted->objects;
        }
        give(&noted->lock);
    }
    if (known) { /* rings are in the map too, and among the descriptors */
        int last = slots ? (int)strtoul(slots + 7, NULL, 10) - 1 : MAX_FD - 1;
        if (last >= MAX_FD) last = MAX_FD - 1;
        memset(looked_at, 0, (size_t)last + 1);
        look_for_rings(0, last);
        return;
    }
    note_mapped();
    if (executable && take(&noted->lock)) {
        noted->executable = executable;
        noted->objects = log_header->objects;
        strcpy(noted->libraries, log_header->libraries);
        give(&noted->lock);
    }
}

/* Wide streams: what they write is found by the position alone. */
static inline int is_wide(FILE *f) { return f->_mode > 0 && f->_wide_data; }
static i64 unwritten(FILE *f) { return f->_flags & 0x800 ? f->_IO_write_ptr - f->_IO_write_base : 0; }
static struct entry *watched(int fd);
static void flush_stream(FILE *f);

static void last_answers(void);

static void end_recording(void) {
    if (!alive || dead || !*alive || (u32)SYS(SYS_getpid, 0) != our_pid) return;
    if (queues_seen) last_answers();
    me.busy++;
    i64 began = cpu();
    note_libraries();
    counted_bytes("/proc/self/io", &log_header->read1, &log_header->written1, &log_header->other_read);
    log_header->cpu1 = clock_of(CLOCK_PROCESS_CPUTIME_ID);
    log_header->ended = now();
    took_recording(cpu() - began);
    log_header->flags |= ENDED;
    me.busy--;
}

static void through_socket(struct entry *e, i64 moved) {
    __atomic_fetch_add(&log_header->callers[e ? e->file : 0].moved, moved, __ATOMIC_RELAXED);
}

static void count_other(struct entry *e, int kind, i64 moved) {
    if (moved <= 0 || (e && e->state == NAMELESS)) return; /* a file without a name is missed, not other */
    __atomic_fetch_add(kind == READ ? &log_header->other_read : &log_header->other_written, moved, __ATOMIC_RELAXED);
    if (e && e->state == SOCKET) through_socket(e, moved);
}

__attribute__((constructor)) static void loaded(void) { on(); }

__attribute__((destructor)) static void unloaded(void) {
    if (alive && on()) /* the C library writes what its streams hold after this, and tells nobody */
        for (int i = -2; i < (int)streams_end; i++) {
            FILE *f = i == -2 ? stdout : i == -1 ? stderr : streams[i];
            if (f && is_wide(f)) flush_stream(f);
            struct entry *e = f && unwritten(f) > 0 ? watched(f->_fileno) : NULL;
            if (e && e->state == STORAGE) put(WRITE, e->file, 0, now(), -1, place(f->_fileno), unwritten(f), unwritten(f));
            else if (e) count_other(e, WRITE, unwritten(f));
        }
    end_recording();
}

EXPORT void _exit(int code) { end_recording(); REAL(_exit)(code); __builtin_unreachable(); }
EXPORT void _Exit(int code) { end_recording(); REAL(_Exit)(code); __builtin_unreachable(); }

/* ---- Names ---- */

static u32 slot_of(u64 hash, u32 length) {
    u32 at = (u32)hash & name_mask, known;
    while ((known = name_slots[at]) && (known_names[known - 1].hash != hash || known_names[known - 1].length != length)) at = (at + 1) & name_mask;
    return at;
}

static void remember(u64 hash, u32 length, u32 id) {
    if (names_known == MAX_NAMES) names_known = 0; /* those that are used again are written again */
    int fits = names_known && names_known < (name_mask + 1) / 2;
    if (names_known && !fits) name_mask = 2 * name_mask + 1;
    if (!fits) {
        memset(name_slots, 0, (name_mask + 1) * sizeof *name_slots);
        for (u32 i = 0; i < names_known; i++) name_slots[slot_of(known_names[i].hash, known_names[i].length)] = (unsigned short)(i + 1);
    }
    known_names[names_known].hash = hash; known_names[names_known].length = length; known_names[names_known].id = id;
    u32 at = slot_of(hash, length);
    name_slots[at] = (unsigned short)++names_known;
}

/* The number of a name in this process's log; 0 if there is no room for it. Numbers go on in a forked child. */
static u32 number_of(const char *name, size_t length) {
    u64 hash = hash_of(name, length);
    if (!take(&name_lock)) return 0;
    u32 id = 0, at = slot_of(hash, (u32)length);
    if (name_slots[at]) id = known_names[name_slots[at] - 1].id;
    else {
        size_t needed = 8 + ((length + 7) & ~(size_t)7);
        if (name_at + needed > name_end) {
            char *chunk = new_chunk(NAMES);
            if (name_end) SYS(SYS_munmap, name_end - CHUNK, CHUNK);
            name_at = chunk ? chunk + 64 : NULL;
            name_end = chunk ? chunk + CHUNK : NULL;
        }
        if (name_at) {
            id = ++next_file;
            memcpy(name_at + 8, name, length);
            ((u32 *)name_at)[1] = (u32)length;
            __atomic_store_n((u32 *)name_at, id, __ATOMIC_RELEASE);
            name_at += needed;
            remember(hash, (u32)length, id);
        }
    }
    give(&name_lock);
    return id;
}

/* After a chroot the kernel's names begin at the new root: put the way to it in front. */
static char root[1024];
static size_t rooted(char *out, size_t length, size_t room) {
    size_t before = strlen(root);
    if (!before || *out != '/') return length;
    if (before + length + 1 > room) return 0;
    memmove(out + before, out, length + 1);
    memcpy(out, root, before);
    return before + length;
}

static size_t link_of(int fd, char *out, size_t room) {
    char link[40] = "/proc/self/fd/";
    digits(link + 14, (u64)fd);
    long length = SYS(SYS_readlinkat, AT_FDCWD, link, out, room - 1);
    if (length <= 0) return 0;
    out[length] = 0;
    return rooted(out, (size_t)length, room);
}

/* 1 for the part `.` of a path, 2 for `..`, 0 for others. */
static size_t dots(const char *part, size_t length) {
    return length && length <= 2 && *part == '.' && part[length - 1] == '.' ? length : 0;
}

/* Write the absolute form of `path`, without `.` and doubled slashes, to `out`; 0 if it holds `..` or is too long. */
static size_t absolute(int directory, const char *path, char *out, size_t room) {
    size_t length = 0;
    if (!path || !*path) return 0;
    if (*path != '/') {
        if (directory == AT_FDCWD) {
            long got = SYS(SYS_getcwd, out, room);
            if (got <= 1 || out[0] != '/') return 0;
            length = rooted(out, (size_t)got - 1, room);
        } else length = link_of(directory, out, room);
        if (!length) return 0;
        if (out[length - 1] == '/') length--;
    } else if (*root) length = strlen(strcpy(out, root));
    while (*path) {
        while (*path == '/') path++;
        size_t part = strcspn(path, "/");
        if (dots(path, part) == 2) return 0;
        if (part && !dots(path, part)) {
            if (length + part + 2 > room) return 0;
            out[length++] = '/';
            memcpy(out + length, path, part);
            length += part;
        }
        path += part;
    }
    out[length] = 0;
    return length;
}

/* The length of a path that is absolute as it stands; 0 of others. */
static size_t absolute_length(const char *path) {
    if (!path || *path != '/' || *root) return 0;
    size_t length = 0;
    do {
        const char *part = path + length + 1;
        size_t size = strcspn(part, "/");
        if (!size || dots(part, size)) return 0;
        length += 1 + size;
    } while (path[length]);
    return length;
}

static int is_below(const char *name, const char *directory) {
    size_t length = strlen(directory);
    return strncmp(name, directory, length) == 0 && name[length] == '/';
}

/* Files of the kernel, the logs, and what the hooks write beside them. */
static int is_left_out(const char *name) {
    return is_below(name, "/proc") || is_below(name, "/sys") || is_below(name, own) || (memory_unwanted && is_below(name, "/dev/shm"));
}

/* Whether the name is that of the file; not if it was deleted. */
static int is_file(const char *name, const struct stat *known) {
    struct stat found;
    return !SYS(SYS_newfstatat, AT_FDCWD, name, &found, AT_SYMLINK_NOFOLLOW) && found.st_ino == known->st_ino && found.st_dev == known->st_dev;
}

/* What a file of this absolute name is; without a name if it has none (0). */
static struct entry file_of_name(const char *name, size_t length) {
    struct entry found = {.state = OTHER};
    if (length && (is_left_out(name) || !strncmp(name, "/memfd:", 7))) return found;
    found.file = length ? number_of(name, length) : 0;
    found.state = found.file ? STORAGE : NAMELESS;
    found.device = found.file && is_below(name, "/dev");
    return found;
}

/* Room for a name on the stack takes pages of it that are in no cache: nothing of it where the name is known. */
static __attribute__((noinline)) struct entry file_of_link(int fd, const struct stat *status) {
    char link[4200];
    size_t length = link_of(fd, link, sizeof link);
    if (length > 10 && !strcmp(link + length - 10, " (deleted)")) length -= is_file(link, status) ? 0 : 10;
    return file_of_name(link, length);
}

static int is_of_network(int fd) {
    int family = 0;
    socklen_t size = sizeof family;
    return !SYS(SYS_getsockopt, fd, SOL_SOCKET, SO_DOMAIN, &family, &size) && (family == AF_INET || family == AF_INET6);
}

/* Find out what `fd` is. `name` is its absolute name if that is known. */
static struct entry *learn(int fd, const char *name, size_t length) {
    struct stat status;
    if (SYS(SYS_fstat, fd, &status)) { table[fd].state = UNKNOWN; return NULL; }
    struct entry found = {.state = S_ISSOCK(status.st_mode) && is_of_network(fd) ? SOCKET : OTHER};
    int given = 0;
    for (int i = 0; fd <= 2 && i < 3; i++) given |= redirected[i].inode == status.st_ino && redirected[i].device == status.st_dev;
    if (!length && memory_device && status.st_dev == memory_device) given = 1; /* to ask for its name takes 10 us */
    if (!given && (S_ISREG(status.st_mode) || S_ISBLK(status.st_mode)))
        found = length ? file_of_name(name, length) : file_of_link(fd, &status);
    found.lock = (unsigned short)(status.st_ino % INHERITED);
    table[fd] = found;
    return &table[fd];
}

static struct entry *watched(int fd) {
    if (fd < 0 || fd >= MAX_FD) return NULL;
    struct entry *e = &table[fd];
    return __builtin_expect(e->state == UNKNOWN, 0) ? learn(fd, NULL, 0) : e;
}

static u32 file_named(int directory, const char *path) {
    char name[4200];
    size_t length = absolute(directory, path, name, sizeof name);
    if (!length && path && strlen(path) < 4000) { /* `..`: let the kernel resolve the directory */
        char parent[4200];
        size_t size = strlen(path), cut;
        memcpy(parent, path, size + 1);
        while (size > 1 && parent[size - 1] == '/') parent[--size] = 0;
        for (cut = size; cut && parent[cut - 1] != '/'; cut--) {}
        const char *last = path + cut;
        parent[cut] = 0;
        int fd = (int)SYS(SYS_openat, directory, cut ? parent : ".", O_PATH | O_DIRECTORY | O_CLOEXEC, 0);
        if (fd < 0) return 0;
        length = link_of(fd, name, sizeof name);
        SYS(SYS_close, fd);
        size -= cut;
        if (!length || length + size + 2 > sizeof name) return 0;
        if (name[length - 1] != '/') name[length++] = '/';
        memcpy(name + length, last, size);
        length += size;
        name[length] = 0;
    }
    return length && !is_left_out(name) ? number_of(name, length) : 0;
}

static void forget(int fd) { if (fd >= 0 && fd < MAX_FD) { table[fd].state = UNKNOWN; looked_at[fd] = 0; } me.opened = -1; }
static int is_known_ring(int fd);
/* A ring that was made without the C library is seen by its descriptor alone, which stands beside those of the files. The kernel
 * says no type of it, as of nothing else but its other objects without a name (epoll, eventfd). */
static void look_for_rings(int first, int last) {
    char link[64];
    struct stat status;
    for (int fd = first < 0 ? 0 : first; fd <= last && fd < MAX_FD; fd++) {
        if (table[fd].state != UNKNOWN || looked_at[fd]) continue;
        looked_at[fd] = 1;
        if (!SYS(SYS_fstat, fd, &status) && !(status.st_mode & S_IFMT) && link_of(fd, link, sizeof link) && strstr(link, "[io_uring]") && !is_known_ring(fd)) log_header->flags |= IO_URING;
    }
}

/* /proc/self/fd/3 and /dev/fd/3 are another file's name, and O_TMPFILE is given a directory. */
static int stands_for_another(const char *name, int flags) {
    return is_below(name, "/proc") || is_below(name, "/dev/fd") || !strncmp(name, "/dev/std", 8) || (flags & O_TMPFILE) == O_TMPFILE;
}

static __attribute__((noinline)) struct entry *learn_path(int fd, int directory, const char *path, int flags) {
    char name[4200];
    size_t length = path ? absolute(directory, path, name, sizeof name) : 0;
    return learn(fd, name, length && stands_for_another(name, flags) ? 0 : length);
}

static void opened(int fd, int directory, const char *path, int flags, i64 begin) {
    int failure = errno;
    i64 took = now() - begin;
    if (fd >= 0 && fd == me.opened) return; /* by a function of ours below this one */
    if (fd < 0) {
        u32 file = metadata ? file_named(directory, path) : 0;
        if (file) put(STAT, file, 0, begin, took, -1, -1, -failure);
    } else if (fd < MAX_FD) {
        size_t length = absolute_length(path);
        struct entry *e = !length ? learn_path(fd, directory, path, flags) : learn(fd, path, stands_for_another(path, flags) ? 0 : length);
        look_for_rings(fd - 4, fd - 1);
        if (length && !strncmp(path, "/dev/nvidia-fs", 14)) __atomic_fetch_or(&log_header->flags, GPU_DIRECT, __ATOMIC_RELAXED);
        if (e) e->lock = (unsigned short)(INHERITED + __atomic_fetch_add(&next_opened, 1, __ATOMIC_RELAXED) % INHERITED);
        if (flags & O_TRUNC && e && e->state == STORAGE) put(TRUNCATE, e->file, 0, begin, took, -1, 0, 0);
    }
    me.opened = fd;
    measured(begin, took);
    errno = failure;
}

static void drop_ring(int fd);
static void copied(int from, int to) { if (from >= 0 && from < MAX_FD && to >= 0 && to < MAX_FD) table[to] = table[from]; }

EXPORT int chroot(const char *path) {
    char name[4200];
    int fd = on_descriptors() ? raw_open(path, O_PATH | O_DIRECTORY) : -1;
    size_t length = fd >= 0 ? link_of(fd, name, sizeof name) : 0;
    if (fd >= 0) SYS(SYS_close, fd);
    int result = REAL(chroot)(path), failure = errno;
    if (!result && length && length < sizeof root) strcpy(root, length > 1 ? name : "");
    errno = failure;
    return result;
}

/* ---- Opening and closing ---- */

#define MODE(flags) mode_t mode = 0; \
    if ((flags) & O_CREAT || ((flags) & O_TMPFILE) == O_TMPFILE) { \
        va_list more; va_start(more, flags); mode = va_arg(more, mode_t); va_end(more); }
#define OPENING(directory, path, flags, call) \
    if (!on_descriptors()) return call; \
    me.opened = -1; i64 begin = now(); int fd = call; opened(fd, directory, path, flags, begin); return fd;

EXPORT int open(const char *path, int flags, ...) { MODE(flags) OPENING(AT_FDCWD, path, flags, REAL(open)(path, flags, mode)) }
EXPORT int open64(const char *path, int flags, ...) { MODE(flags) OPENING(AT_FDCWD, path, flags, REAL(open64)(path, flags, mode)) }
int __open(const char *, int, ...), __open64(const char *, int, ...);
EXPORT int __open(const char *path, int flags, ...) { MODE(flags) OPENING(AT_FDCWD, path, flags, REAL(__open)(path, flags, mode)) }
EXPORT int __open64(const char *path, int flags, ...) { MODE(flags) OPENING(AT_FDCWD, path, flags, REAL(__open64)(path, flags, mode)) }
EXPORT int openat(int at, const char *path, int flags, ...) { MODE(flags) OPENING(at, path, flags, REAL(openat)(at, path, flags, mode)) }
EXPORT int openat64(int at, const char *path, int flags, ...) { MODE(flags) OPENING(at, path, flags, REAL(openat64)(at, path, flags, mode)) }
EXPORT int creat(const char *path, mode_t mode) { OPENING(AT_FDCWD, path, O_TRUNC, REAL(creat)(path, mode)) }
EXPORT int creat64(const char *path, mode_t mode) { OPENING(AT_FDCWD, path, O_TRUNC, REAL(creat64)(path, mode)) }
int __open_2(const char *, int), __open64_2(const char *, int), __openat_2(int, const char *, int), __openat64_2(int, const char *, int);
EXPORT int __open_2(const char *path, int flags) { OPENING(AT_FDCWD, path, flags, REAL(__open_2)(path, flags)) }
EXPORT int __open64_2(const char *path, int flags) { OPENING(AT_FDCWD, path, flags, REAL(__open64_2)(path, flags)) }
EXPORT int __openat_2(int at, const char *path, int flags) { OPENING(at, path, flags, REAL(__openat_2)(at, path, flags)) }
EXPORT int __openat64_2(int at, const char *path, int flags) { OPENING(at, path, flags, REAL(__openat64_2)(at, path, flags)) }

/* The C library opens these by itself. */
#define MADE_INSIDE(call) int fd = call; if (fd >= 0 && on_descriptors()) forget(fd); return fd;
int mkstemp64(char *), mkostemp64(char *, int), mkstemps64(char *, int), mkostemps64(char *, int, int);
EXPORT int mkstemp(char *t) { MADE_INSIDE(REAL(mkstemp)(t)) }
EXPORT int mkstemp64(char *t) { MADE_INSIDE(REAL(mkstemp64)(t)) }
EXPORT int mkostemp(char *t, int f) { MADE_INSIDE(REAL(mkostemp)(t, f)) }
EXPORT int mkostemp64(char *t, int f) { MADE_INSIDE(REAL(mkostemp64)(t, f)) }
EXPORT int mkstemps(char *t, int n) { MADE_INSIDE(REAL(mkstemps)(t, n)) }
EXPORT int mkstemps64(char *t, int n) { MADE_INSIDE(REAL(mkstemps64)(t, n)) }
EXPORT int mkostemps(char *t, int n, int f) { MADE_INSIDE(REAL(mkostemps)(t, n, f)) }
EXPORT int mkostemps64(char *t, int n, int f) { MADE_INSIDE(REAL(mkostemps64)(t, n, f)) }
EXPORT int shm_open(const char *n, int f, mode_t m) { MADE_INSIDE(REAL(shm_open)(n, f, m)) }
EXPORT int memfd_create(const char *n, unsigned f) { MADE_INSIDE(REAL(memfd_create)(n, f)) }
EXPORT int daemon(int stay, int keep) {
    int result = REAL(daemon)(stay, keep);
    if (!result && !keep && on_descriptors()) for (int fd = 0; fd < 3; fd++) forget(fd);
    return result;
}

static u32 files_closed; /* each of the first, then one in so many, looks for rings */
static void will_close(int fd) {
    if (!on_descriptors()) return;
    if (rings_known) drop_ring(fd);
    if (fd >= 0 && fd < MAX_FD && table[fd].state == STORAGE && (files_closed++ < 64 || files_closed % 16 == 0)) look_for_rings(fd + 1, fd + 4);
    forget(fd);
    measured(0, 0);
}
typedef struct __dirstream DIR;
int __close(int), __dup2(int, int), __fcntl(int, int, ...), closedir(DIR *), dirfd(DIR *);
EXPORT int close(int fd) { will_close(fd); return REAL(close)(fd); }
EXPORT int __close(int fd) { will_close(fd); return REAL(__close)(fd); }
EXPORT int closedir(DIR *d) { if (d && on_descriptors()) forget(dirfd(d)); return REAL(closedir)(d); }
static void forget_range(unsigned first, unsigned last) { for (unsigned fd = first; fd <= last && fd < MAX_FD; fd++) forget((int)fd); }
EXPORT int close_range(unsigned first, unsigned last, int flags) {
    if (on_descriptors()) forget_range(first, last);
    __typeof__(&close_range) real = REAL(close_range);
    if (real) return real(first, last, flags);
    errno = ENOSYS;
    return -1;
}
void closefrom(int);
EXPORT void closefrom(int first) { if (on_descriptors()) forget_range((unsigned)first, ~0u); REAL(closefrom)(first); }
#define DUPLICATING(from, call) int made = call, failure = errno; \
    if (made >= 0 && on_descriptors()) { copied(from, made); measured(0, 0); } \
    errno = failure; return made;
EXPORT int dup(int fd) { DUPLICATING(fd, REAL(dup)(fd)) }
EXPORT int dup2(int fd, int to) { DUPLICATING(fd, REAL(dup2)(fd, to)) }
EXPORT int __dup2(int fd, int to) { DUPLICATING(fd, REAL(__dup2)(fd, to)) }
EXPORT int dup3(int fd, int to, int flags) { DUPLICATING(fd, REAL(dup3)(fd, to, flags)) }
#define CONTROL(name) EXPORT int name(int fd, int command, ...) { \
    va_list more; va_start(more, command); long value = va_arg(more, long); va_end(more); \
    if (command != F_DUPFD && command != F_DUPFD_CLOEXEC) return REAL(name)(fd, command, value); \
    DUPLICATING(fd, REAL(name)(fd, command, value)) }
CONTROL(fcntl)
CONTROL(fcntl64)
CONTROL(__fcntl)

/* ---- Bytes ---- */

enum { AT_POSITION = -1 };

/* The lock that keeps another thread from moving the position between a call and our question for it. */
static u32 *hold_position(struct entry *e) {
    u32 *lock = &place_locks[e->lock];
    return e->state == STORAGE && take(lock) ? lock : NULL;
}

/* Whether writes go to the end of the file, as the flags of the descriptor say. -1 is an error. */
static int appends(int fd) { long flags = SYS(SYS_fcntl, fd, F_GETFL); return flags > 0 && flags & O_APPEND; }

static i64 size_of(int fd) {
    struct stat status;
    return SYS(SYS_fstat, fd, &status) ? 0 : status.st_size;
}

static void moved_elsewhere(int kind, struct entry *e, i64 begin, i64 moved) {
    i64 took = me.entered ? now() - begin : 0;
    count_other(e, kind, moved);
    measured(begin, took);
}

static void moved_bytes(int kind, int fd, struct entry *e, i64 begin, i64 offset, i64 length, i64 moved, u32 *lock, int at_end) {
    int failure = errno;
    i64 took = now() - begin;
    i64 end = offset == AT_POSITION ? place(fd) : 0;
    if (lock) give(lock);
    if (end == -ESPIPE) { /* the C library closed the file behind our back, and the number is used again */
        e = learn(fd, NULL, 0);
        if (!e || e->state != STORAGE) { count_other(e, kind, moved); errno = failure; return; }
    }
    if (offset == AT_POSITION) offset = end < 0 ? -1 : end - (moved > 0 ? moved : 0);
    else if (kind == WRITE && moved > 0 && (at_end || appends(fd))) offset = size_of(fd) - moved; /* Linux appends, whatever the offset */
    put(kind, e->file, 0, begin, took, offset, length, moved < 0 ? -failure : moved);
    measured(begin, took);
    errno = failure;
}

#ifndef RWF_APPEND
#define RWF_APPEND 16
#endif
static i64 total(const struct iovec *parts, int count) {
    i64 sum = 0;
    for (int i = 0; i < count && i < 1024; i++) sum += (i64)parts[i].iov_len;
    return sum;
}

#define MOVING_AS(kind, fd, offset_, length_, at_end, call) \
    struct entry *e = on() ? watched(fd) : NULL; \
    if (!e) return call; \
    int other = e->state != STORAGE; \
    i64 at = offset_; \
    u32 *lock = at == AT_POSITION ? hold_position(e) : NULL; \
    i64 begin = other && !me.entered ? 0 : now(); \
    INNERMOST(call_on(kind, (u32)(fd)), __typeof__(call) moved, call) \
    if (!innermost) { if (lock) give(lock); } \
    else if (other) moved_elsewhere(kind, e, begin, moved); \
    else moved_bytes(kind, fd, e, begin, at, (i64)(length_), moved, lock, at_end); \
    return moved;
#define MOVING(kind, fd, offset, length, call) MOVING_AS(kind, fd, offset, length, 0, call)

EXPORT ssize_t read(int fd, void *data, size_t n) { MOVING(READ, fd, AT_POSITION, n, REAL(read)(fd, data, n)) }
EXPORT ssize_t write(int fd, const void *data, size_t n) { MOVING(WRITE, fd, AT_POSITION, n, REAL(write)(fd, data, n)) }
EXPORT ssize_t pread(int fd, void *data, size_t n, off_t o) { MOVING(READ, fd, o, n, REAL(pread)(fd, data, n, o)) }
EXPORT ssize_t pread64(int fd, void *data, size_t n, off64_t o) { MOVING(READ, fd, o, n, REAL(pread64)(fd, data, n, o)) }
EXPORT ssize_t pwrite(int fd, const void *data, size_t n, off_t o) { MOVING(WRITE, fd, o, n, REAL(pwrite)(fd, data, n, o)) }
EXPORT ssize_t pwrite64(int fd, const void *data, size_t n, off64_t o) { MOVING(WRITE, fd, o, n, REAL(pwrite64)(fd, data, n, o)) }
EXPORT ssize_t readv(int fd, const struct iovec *v, int c) { MOVING(READ, fd, AT_POSITION, total(v, c), REAL(readv)(fd, v, c)) }
EXPORT ssize_t writev(int fd, const struct iovec *v, int c) { MOVING(WRITE, fd, AT_POSITION, total(v, c), REAL(writev)(fd, v, c)) }
#define VECTOR(name, kind) \
    EXPORT ssize_t name(int fd, const struct iovec *v, int c, off_t o) { MOVING(kind, fd, o, total(v, c), REAL(name)(fd, v, c, o)) }
#define VECTOR2(name, kind) \
    EXPORT ssize_t name(int fd, const struct iovec *v, int c, off_t o, int f) { MOVING_AS(kind, fd, o, total(v, c), f & RWF_APPEND, REAL(name)(fd, v, c, o, f)) }
VECTOR(preadv, READ) VECTOR(preadv64, READ) VECTOR(pwritev, WRITE) VECTOR(pwritev64, WRITE)
VECTOR2(preadv2, READ) VECTOR2(preadv64v2, READ) VECTOR2(pwritev2, WRITE) VECTOR2(pwritev64v2, WRITE)
ssize_t __read(int, void *, size_t), __write(int, const void *, size_t), __pread64(int, void *, size_t, off64_t), __pwrite64(int, const void *, size_t, off64_t);
EXPORT ssize_t __read(int fd, void *data, size_t n) { MOVING(READ, fd, AT_POSITION, n, REAL(__read)(fd, data, n)) }
EXPORT ssize_t __write(int fd, const void *data, size_t n) { MOVING(WRITE, fd, AT_POSITION, n, REAL(__write)(fd, data, n)) }
EXPORT ssize_t __pread64(int fd, void *data, size_t n, off64_t o) { MOVING(READ, fd, o, n, REAL(__pread64)(fd, data, n, o)) }
EXPORT ssize_t __pwrite64(int fd, const void *data, size_t n, off64_t o) { MOVING(WRITE, fd, o, n, REAL(__pwrite64)(fd, data, n, o)) }
ssize_t __read_chk(int, void *, size_t, size_t), __pread_chk(int, void *, size_t, off_t, size_t), __pread64_chk(int, void *, size_t, off_t, size_t);
EXPORT ssize_t __read_chk(int fd, void *d, size_t n, size_t r) { MOVING(READ, fd, AT_POSITION, n, REAL(__read_chk)(fd, d, n, r)) }
EXPORT ssize_t __pread_chk(int fd, void *d, size_t n, off_t o, size_t r) { MOVING(READ, fd, o, n, REAL(__pread_chk)(fd, d, n, o, r)) }
EXPORT ssize_t __pread64_chk(int fd, void *d, size_t n, off_t o, size_t r) { MOVING(READ, fd, o, n, REAL(__pread64_chk)(fd, d, n, o, r)) }

/* Copies inside the kernel are a read and a write. */
enum { MOST_AT_ONCE = 0x7ffff000 }; /* bytes that Linux moves in one call */
static void one_end(int kind, int fd, struct entry *e, i64 given, i64 begin, i64 length, i64 moved) {
    if (e && e->state == STORAGE) moved_bytes(kind, fd, e, begin, given, length, moved, NULL, 0);
    else moved_elsewhere(kind, e, begin, moved);
}
#define COPYING(in, out, in_at, out_at, n, call) \
    if (!on()) return call; \
    struct entry *source = watched(in), *target = watched(out); \
    i64 from = (in_at) ? (i64)*(in_at) : AT_POSITION, to = (out_at) ? (i64)*(out_at) : AT_POSITION, begin = now(); \
    INNERMOST(call_on(MAP, (u32)(in)), ssize_t moved, call) \
    if (!innermost) return moved; \
    i64 asked_ = (u64)(n) <= MOST_AT_ONCE ? (i64)(n) : moved; /* more stands for what there is, as in copies.py */ \
    one_end(READ, in, source, from, begin, asked_, moved); \
    one_end(WRITE, out, target, to, begin, asked_, moved); \
    return moved;
EXPORT ssize_t sendfile(int out, int in, off_t *at, size_t n) { COPYING(in, out, at, (off_t *)0, n, REAL(sendfile)(out, in, at, n)) }
EXPORT ssize_t sendfile64(int out, int in, off64_t *at, size_t n) { COPYING(in, out, at, (off_t *)0, n, REAL(sendfile64)(out, in, at, n)) }
EXPORT ssize_t copy_file_range(int in, off64_t *a, int out, off64_t *b, size_t n, unsigned f) { COPYING(in, out, a, b, n, REAL(copy_file_range)(in, a, out, b, n, f)) }
EXPORT ssize_t splice(int in, off64_t *a, int out, off64_t *b, size_t n, unsigned f) { COPYING(in, out, a, b, n, REAL(splice)(in, a, out, b, n, f)) }

/* ---- What is done to files ---- */

static void done(int kind, u32 file, u32 to, i64 begin, i64 offset, i64 length, int error) {
    int failure = errno;
    i64 took = now() - begin;
    if (file) put(kind, file, to, begin, took, offset, length, -error);
    measured(begin, took);
    errno = failure;
}
#define ON_FILE(kind, file, offset, length, call) \
    u32 known = file; \
    if (!known) return call; \
    i64 begin = now(); INNERMOST(call_on(kind, known), __typeof__(call) result, call) \
    if (innermost) done(kind, known, 0, begin, (i64)(offset), (i64)(length), result > 0 ? (int)result : result ? errno : 0); /* posix_fadvise returns its error */ \
    return result;
#define ON_DESCRIPTOR(kind, fd, offset, length, call) \
    struct entry *e = on() ? watched(fd) : NULL; \
    ON_FILE(kind, e && e->state == STORAGE ? e->file : 0, offset, length, call)
/* A directory is synchronized, too, to keep the names of its files. */
static u32 synchronized(int fd) {
    char name[4200];
    struct stat status;
    struct entry *e = on() ? watched(fd) : NULL;
    if (!e || e->state == STORAGE) return e ? e->file : 0;
    size_t length = SYS(SYS_fstat, fd, &status) || !S_ISDIR(status.st_mode) ? 0 : link_of(fd, name, sizeof name);
    return length && !is_left_out(name) ? number_of(name, length) : 0;
}
#define ON_NAME(kind, wanted, at, path, length, call) \
    u32 file = (wanted) && on() ? file_named(at, path) : 0; \
    if (!file) return call; \
    i64 begin = now(); INNERMOST(call_on(kind, file), __typeof__(call) result, call) \
    if (innermost) done(kind, file, 0, begin, -1, (i64)(length), result ? errno : 0); \
    return result;
/* Give what is open its new name. What is below a renamed directory is looked up again when it is next used. */
static void follow(u32 old, u32 new, int at, const char *path) {
    int failure = errno;
    struct stat status;
    int directory = !SYS(SYS_newfstatat, at, path, &status, 0) && S_ISDIR(status.st_mode);
    for (int fd = 0; fd < MAX_FD; fd++) {
        if (table[fd].state != STORAGE) continue;
        if (table[fd].file == old) table[fd].file = new;
        else if (directory) table[fd].state = UNKNOWN;
    }
    errno = failure;
}

#define RENAMING(at, from, at2, to, call) \
    u32 old = on() ? file_named(at, from) : 0, new = old ? file_named(at2, to) : 0; \
    if (!old) return call; \
    i64 begin = now(); INNERMOST(call_on(RENAME, old), int result, call) \
    if (!innermost) return result; \
    done(RENAME, old, new, begin, -1, -1, result ? errno : 0); \
    if (!result && new) follow(old, new, at2, to); \
    return result;

EXPORT int fsync(int fd) { ON_FILE(SYNC, synchronized(fd), -1, -1, REAL(fsync)(fd)) }
EXPORT int fdatasync(int fd) { ON_FILE(SYNC, synchronized(fd), -1, -1, REAL(fdatasync)(fd)) }
EXPORT int sync_file_range(int fd, off64_t o, off64_t n, unsigned f) { ON_DESCRIPTOR(SYNC, fd, o, n, REAL(sync_file_range)(fd, o, n, f)) }
EXPORT int ftruncate(int fd, off_t n) { ON_DESCRIPTOR(TRUNCATE, fd, -1, n, REAL(ftruncate)(fd, n)) }
EXPORT int ftruncate64(int fd, off64_t n) { ON_DESCRIPTOR(TRUNCATE, fd, -1, n, REAL(ftruncate64)(fd, n)) }
EXPORT int posix_fadvise(int fd, off_t o, off_t n, int a) { ON_DESCRIPTOR(HINT, fd, o, n, REAL(posix_fadvise)(fd, o, n, a)) }
EXPORT int posix_fadvise64(int fd, off64_t o, off64_t n, int a) { ON_DESCRIPTOR(HINT, fd, o, n, REAL(posix_fadvise64)(fd, o, n, a)) }
EXPORT ssize_t readahead(int fd, off64_t o, size_t n) { ON_DESCRIPTOR(HINT, fd, o, n, REAL(readahead)(fd, o, n)) }
EXPORT int truncate(const char *path, off_t n) { ON_NAME(TRUNCATE, 1, AT_FDCWD, path, n, REAL(truncate)(path, n)) }
EXPORT int truncate64(const char *path, off64_t n) { ON_NAME(TRUNCATE, 1, AT_FDCWD, path, n, REAL(truncate64)(path, n)) }
EXPORT int unlink(const char *path) { ON_NAME(DELETE, 1, AT_FDCWD, path, -1, REAL(unlink)(path)) }
EXPORT int unlinkat(int at, const char *path, int f) { ON_NAME(DELETE, !(f & AT_REMOVEDIR), at, path, -1, REAL(unlinkat)(at, path, f)) }
EXPORT int remove(const char *path) { ON_NAME(DELETE, 1, AT_FDCWD, path, -1, REAL(remove)(path)) }
EXPORT int rename(const char *from, const char *to) { RENAMING(AT_FDCWD, from, AT_FDCWD, to, REAL(rename)(from, to)) }
EXPORT int renameat(int a, const char *from, int b, const char *to) { RENAMING(a, from, b, to, REAL(renameat)(a, from, b, to)) }
EXPORT int renameat2(int a, const char *from, int b, const char *to, unsigned f) { RENAMING(a, from, b, to, REAL(renameat2)(a, from, b, to, f)) }
EXPORT int stat(const char *path, struct stat *s) { ON_NAME(STAT, metadata, AT_FDCWD, path, -1, REAL(stat)(path, s)) }
EXPORT int stat64(const char *path, struct stat64 *s) { ON_NAME(STAT, metadata, AT_FDCWD, path, -1, REAL(stat64)(path, s)) }
EXPORT int lstat(const char *path, struct stat *s) { ON_NAME(STAT, metadata, AT_FDCWD, path, -1, REAL(lstat)(path, s)) }
EXPORT int lstat64(const char *path, struct stat64 *s) { ON_NAME(STAT, metadata, AT_FDCWD, path, -1, REAL(lstat64)(path, s)) }
EXPORT int fstatat(int at, const char *path, struct stat *s, int f) { ON_NAME(STAT, metadata && *path, at, path, -1, REAL(fstatat)(at, path, s, f)) }
EXPORT int fstatat64(int at, const char *path, struct stat64 *s, int f) { ON_NAME(STAT, metadata && *path, at, path, -1, REAL(fstatat64)(at, path, s, f)) }
EXPORT int statx(int at, const char *path, int f, unsigned m, struct statx *s) { ON_NAME(STAT, metadata && *path, at, path, -1, REAL(statx)(at, path, f, m, s)) }
EXPORT int access(const char *path, int m) { ON_NAME(STAT, metadata, AT_FDCWD, path, -1, REAL(access)(path, m)) }
EXPORT int faccessat(int at, const char *path, int m, int f) { ON_NAME(STAT, metadata, at, path, -1, REAL(faccessat)(at, path, m, f)) }
DIR *opendir(const char *), *fdopendir(int);
EXPORT DIR *opendir(const char *path) {
    u32 file = metadata && on() ? file_named(AT_FDCWD, path) : 0;
    i64 begin = now();
    DIR *found = REAL(opendir)(path);
    done(LIST, file, 0, begin, -1, -1, found ? 0 : errno);
    return found;
}
EXPORT DIR *fdopendir(int fd) {
    char name[4200];
    size_t length = metadata && on() ? link_of(fd, name, sizeof name) : 0;
    u32 file = length ? number_of(name, length) : 0;
    i64 begin = now();
    DIR *found = REAL(fdopendir)(fd);
    done(LIST, file, 0, begin, -1, -1, found ? 0 : errno);
    return found;
}
/* Page faults are followed from the first mapping of a file that the capture keeps, because following them costs the program
 * time. The follower (faults/log.py) is asked about each file once, and answers by a link of the thread's number; it is
 * waited for a second at most. */
static void ask_for_faults(int fd, u32 file) {
    static u32 refused[MAX_NAMES / 32];
    char path[2200], question[4096], answer[4];
    if (file < MAX_NAMES && refused[file / 32] & 1u << file % 32) return;
    size_t length = strlen(own), start = (size_t)digits(question, our_pid);
    memcpy(path, own, length);
    strcpy(path + length, "/touched/ask");
    question[start++] = ' ';
    start += (size_t)digits(question + start, me.thread);
    question[start++] = ' ';
    if (!link_of(fd, question + start, sizeof question - start)) return;
    int ask = (int)SYS(SYS_openat, AT_FDCWD, path, O_WRONLY | O_NONBLOCK | O_CLOEXEC, 0);
    if (ask < 0) { faults_asked = 1; return; } /* nobody follows them */
    digits(path + length + 9, me.thread);
    SYS(SYS_unlinkat, AT_FDCWD, path, 0); /* an answer that came too late */
    size_t asked_bytes = start + strlen(question + start) + 1;
    const struct timespec pause = {0, 50000};
    long got = -1;
    if (SYS(SYS_write, ask, question, asked_bytes) == (long)asked_bytes)
        for (int tries = 0; tries < 20000 && (got = SYS(SYS_readlinkat, AT_FDCWD, path, answer, sizeof answer)) < 0; tries++)
            SYS(SYS_nanosleep, &pause, 0);
    SYS(SYS_close, ask);
    SYS(SYS_unlinkat, AT_FDCWD, path, 0);
    if (got > 0 && answer[0] == 'n') { if (file < MAX_NAMES) __atomic_fetch_or(&refused[file / 32], 1u << file % 32, __ATOMIC_RELAXED); }
    else faults_asked = 1;
}
static void mapped(int fd, int flags, i64 offset, size_t length) {
    int failure = errno;
    struct entry *e = fd >= 0 && !(flags & MAP_ANONYMOUS) && on() ? watched(fd) : NULL;
    if (e && e->state == STORAGE) {
        put(MAP, e->file, 0, now(), 0, offset, (i64)length, 0);
        if (!faults_asked && !e->device) ask_for_faults(fd, e->file);
    }
    if (e) measured(0, 0);
    errno = failure;
}
/* A library's own function, which may pass through `syscall` below: what it asks for is recorded here. */
#define ALONE(call) ({ me.below = 1; __typeof__(call) own_result = call; me.below = 0; own_result; })
static void ring_mapped(int fd, char *at, i64 offset);
static void *has_mapped(void *at, size_t n, int flags, int fd, i64 offset) {
    if (at != MAP_FAILED) { if (rings_known) ring_mapped(fd, at, offset); mapped(fd, flags, offset, n); }
    return at;
}
EXPORT void *mmap(void *where, size_t n, int p, int f, int fd, off_t o) { return has_mapped(ALONE(REAL(mmap)(where, n, p, f, fd, o)), n, f, fd, o); }
EXPORT void *mmap64(void *where, size_t n, int p, int f, int fd, off64_t o) { return has_mapped(ALONE(REAL(mmap64)(where, n, p, f, fd, o)), n, f, fd, o); }

/* ---- Sockets: counted, because object clients without a hook read through them ---- */

static ssize_t has_moved(int fd, ssize_t moved) {
    if (moved > 0 && on()) {
        struct entry *e = watched(fd);
        if (e && e->state != SOCKET && e->state != OTHER) e = learn(fd, NULL, 0); /* closed without the C library, and used again */
        if (!e || e->state == SOCKET) through_socket(e, moved);
        measured(0, 0);
    }
    return moved;
}
EXPORT ssize_t recv(int fd, void *d, size_t n, int f) { return has_moved(fd, REAL(recv)(fd, d, n, f)); }
EXPORT ssize_t recvfrom(int fd, void *d, size_t n, int f, __SOCKADDR_ARG a, socklen_t *l) { return has_moved(fd, REAL(recvfrom)(fd, d, n, f, a, l)); }
EXPORT ssize_t recvmsg(int fd, struct msghdr *m, int f) { return has_moved(fd, REAL(recvmsg)(fd, m, f)); }
EXPORT ssize_t send(int fd, const void *d, size_t n, int f) { return has_moved(fd, REAL(send)(fd, d, n, f)); }
EXPORT ssize_t sendto(int fd, const void *d, size_t n, int f, __CONST_SOCKADDR_ARG a, socklen_t l) { return has_moved(fd, REAL(sendto)(fd, d, n, f, a, l)); }
EXPORT ssize_t sendmsg(int fd, const struct msghdr *m, int f) { return has_moved(fd, REAL(sendmsg)(fd, m, f)); }
/* The number of a caller, by an address in its library. */
static u32 caller_of(void *address) {
    struct found_object found;
    if (!find_object || find_object(address, &found) || !found.object || !found.object->l_name) return 0;
    const char *name = last_parts(found.object->l_name);
    u32 number = 1;
    if (!*name) name = "program"; /* the program itself */
    size_t most = sizeof log_header->callers->library - 1;
    if (!take(&callers_lock)) return 0;
    for (; number < CALLERS && *log_header->callers[number].library && strncmp(log_header->callers[number].library, name, most); number++) {}
    if (number == CALLERS) number = 0;
    else strncpy(log_header->callers[number].library, name, most);
    give(&callers_lock);
    return number;
}
EXPORT int connect(int fd, __CONST_SOCKADDR_ARG a, socklen_t l) {
    int family = a.__sockaddr__ ? a.__sockaddr__->sa_family : 0; /* the port is at the same place in both */
    if ((family == AF_INET || family == AF_INET6) && l >= sizeof(struct sockaddr_in) && on_descriptors()) {
        unsigned port = ntohs(a.__sockaddr_in__->sin_port);
        struct entry found = {.file = caller_of(__builtin_return_address(0)), .state = SOCKET};
        __atomic_fetch_add(&log_header->callers[found.file].connections, 1, __ATOMIC_RELAXED);
        __atomic_fetch_or(&log_header->ports[port / 8], (unsigned char)(1 << port % 8), __ATOMIC_RELAXED);
        if (fd >= 0 && fd < MAX_FD) table[fd] = found;
    }
    return REAL(connect)(fd, a, l);
}
/* Who connected to this process is no store. */
#define ACCEPTING(call) int made = call; if (made >= 0 && made < MAX_FD && on_descriptors()) table[made] = (struct entry){.state = OTHER}; return made;
EXPORT int accept(int fd, __SOCKADDR_ARG a, socklen_t *l) { ACCEPTING(REAL(accept)(fd, a, l)) }
EXPORT int accept4(int fd, __SOCKADDR_ARG a, socklen_t *l, int f) { ACCEPTING(REAL(accept4)(fd, a, l, f)) }

/* ---- Users and groups: the C library reads the files of the system by streams of its own, which nobody sees ---- */

/* How much that is, is asked of the kernel at the first calls of a function, and then at one in 16, which stands for the last 16. */
struct lookup { int watched; u32 stands_for; u64 before, ours; };
static u64 thread_has_read(u64 *ours) {
    u64 read_ = 0, written;
    i64 began = now();
    counted_bytes("/proc/thread-self/io", &read_, &written, ours);
    took_recording(now() - began);
    return read_;
}
static struct lookup will_look_up(u32 *calls) {
    struct lookup l = {.watched = on()};
    if (!l.watched) return l;
    u32 number = __atomic_add_fetch(calls, 1, __ATOMIC_RELAXED);
    l.stands_for = number <= 16 ? 1 : number % 16 ? 0 : 16;
    if (l.stands_for) l.before = thread_has_read(&l.ours);
    me.entered = 0; /* the time of the call itself is not ours */
    me.busy++; /* older C libraries read these files through functions that are recorded */
    return l;
}
static void looked_up(struct lookup l) {
    if (!l.watched) return;
    me.busy--;
    if (l.stands_for) {
        u64 first = l.ours, after = thread_has_read(&l.ours);
        if (l.before && after > l.before + first) l.ours += l.stands_for * (after - l.before - first);
        __atomic_fetch_add(&log_header->other_read, l.ours, __ATOMIC_RELAXED);
    }
}
#define LOOKUP(type, name, arguments, given) EXPORT type name arguments { \
    static u32 calls; struct lookup l = will_look_up(&calls); type found = REAL(name) given; looked_up(l); return found; }
LOOKUP(struct passwd *, getpwuid, (uid_t id), (id))
LOOKUP(struct passwd *, getpwnam, (const char *name), (name))
LOOKUP(struct group *, getgrgid, (gid_t id), (id))
LOOKUP(struct group *, getgrnam, (const char *name), (name))
LOOKUP(int, getpwuid_r, (uid_t id, struct passwd *p, char *d, size_t n, struct passwd **r), (id, p, d, n, r))
LOOKUP(int, getpwnam_r, (const char *name, struct passwd *p, char *d, size_t n, struct passwd **r), (name, p, d, n, r))
LOOKUP(int, getgrgid_r, (gid_t id, struct group *g, char *d, size_t n, struct group **r), (id, g, d, n, r))
LOOKUP(int, getgrnam_r, (const char *name, struct group *g, char *d, size_t n, struct group **r), (name, g, d, n, r))
LOOKUP(int, getgrouplist, (const char *name, gid_t id, gid_t *list, int *n), (name, id, list, n))
LOOKUP(int, initgroups, (const char *name, gid_t id), (name, id))

/* ---- Requests that are asked for by one call, and answered by another: POSIX AIO, libaio, io_uring ---- */

enum { POSIX, LIBAIO, RINGS }; /* who asks; the ring in the file n is RINGS + n */
enum { MAX_ASKED = 4096, PROBES = 64 };
static struct { const void *block; i64 begin, offset, length; u32 by, file; unsigned char kind, used, storage; } asked[MAX_ASKED];
static size_t place_of(const void *block) { return (size_t)((u64)block * 0xff51afd7ed558ccdu >> 52) % MAX_ASKED; }

/* `fd` is -1 for a file that is not known. Of queues, what is neither storage nor unknown is left out. */
static void ask(u32 by, const void *block, int fd, int kind, i64 offset, i64 length) {
    int failure = errno;
    struct entry *e = on() ? watched(fd) : NULL;
    int storage = fd < 0 || (e && (e->state == STORAGE || e->state == NAMELESS));
    if ((e || fd < 0) && (storage || by == POSIX) && !dead && alive && take(&asked_lock)) {
        size_t at = place_of(block), tries = 0;
        while (tries < PROBES && asked[at].used) { at = (at + 1) % MAX_ASKED; tries++; }
        if (tries < PROBES) {
            asked[at].block = block; asked[at].by = by; asked[at].begin = now(); asked[at].kind = (unsigned char)kind;
            asked[at].offset = kind == SYNC || (kind == WRITE && appends(fd)) ? -1 : offset; asked[at].length = kind == SYNC ? -1 : length;
            asked[at].file = e && e->state == STORAGE ? e->file : 0;
            asked[at].storage = (unsigned char)storage; asked[at].used = 1;
        } else {
            __atomic_fetch_add(&log_header->lost, 1, __ATOMIC_RELAXED);
            if (by != POSIX) log_header->flags |= by == LIBAIO ? IO_SUBMIT : IO_URING;
        }
        give(&asked_lock);
    }
    measured(0, 0);
    errno = failure;
}

enum { NOT_MADE, MADE, MADE_EARLIER }; /* earlier: nobody knows when */
static void answered(u32 by, const void *block, i64 moved, int error, int how) {
    int failure = errno;
    if (on() && take(&asked_lock)) {
        size_t at = place_of(block), tries = 0;
        while (tries < PROBES && !(asked[at].used && asked[at].block == block && asked[at].by == by)) { at = (at + 1) % MAX_ASKED; tries++; }
        if (tries < PROBES) {
            int kind = asked[at].kind;
            if (how && by != POSIX && asked[at].storage && moved > 0 && kind != SYNC)
                __atomic_fetch_add(kind == READ ? &log_header->queued_read : &log_header->queued_written, moved, __ATOMIC_RELAXED);
            if (how && asked[at].file)
                put(kind, asked[at].file, 0, asked[at].begin, how == MADE ? now() - asked[at].begin : -1, asked[at].offset, asked[at].length, error ? -error : kind == SYNC ? 0 : moved);
            else if (how && by == POSIX && !asked[at].storage) count_other(NULL, kind, moved);
            asked[at].used = 0;
        }
        give(&asked_lock);
    }
    measured(0, 0);
    errno = failure;
}

#define ASKING(name, kind, type) EXPORT int name(struct type *b) { \
    ask(POSIX, b, b->aio_fildes, kind, b->aio_offset, (i64)b->aio_nbytes); int result = REAL(name)(b); if (result) answered(POSIX, b, 0, 0, NOT_MADE); return result; }
ASKING(aio_read, READ, aiocb) ASKING(aio_read64, READ, aiocb64) ASKING(aio_write, WRITE, aiocb) ASKING(aio_write64, WRITE, aiocb64)
#define ASKING_SYNC(name, type) EXPORT int name(int how, struct type *b) { \
    ask(POSIX, b, b->aio_fildes, SYNC, -1, -1); int result = REAL(name)(how, b); if (result) answered(POSIX, b, 0, 0, NOT_MADE); return result; }
ASKING_SYNC(aio_fsync, aiocb) ASKING_SYNC(aio_fsync64, aiocb64)
#define ASKING_MANY(name, type) EXPORT int name(int mode, struct type *const *list, int n, struct sigevent *when) { \
    for (int i = 0; i < n; i++) \
        if (list[i] && list[i]->aio_lio_opcode != LIO_NOP) \
            ask(POSIX, list[i], list[i]->aio_fildes, list[i]->aio_lio_opcode == LIO_READ ? READ : WRITE, list[i]->aio_offset, (i64)list[i]->aio_nbytes); \
    return REAL(name)(mode, list, n, when); }
ASKING_MANY(lio_listio, aiocb) ASKING_MANY(lio_listio64, aiocb64)
#define ANSWERING(name, asking, type) EXPORT ssize_t name(struct type *b) { \
    int error = asking(b); ssize_t moved = REAL(name)(b); answered(POSIX, b, moved, error, MADE); return moved; }
ANSWERING(aio_return, aio_error, aiocb) ANSWERING(aio_return64, aio_error64, aiocb64)

/* libaio's functions and the system calls below them differ in how they tell errors alone. */
static void submits(struct iocb **blocks, long n) {
    for (long i = 0; i < n; i++) {
        const struct iocb *b = blocks[i];
        int code = b->aio_lio_opcode, vector = code == IOCB_CMD_PREADV || code == IOCB_CMD_PWRITEV;
        int kind = code == IOCB_CMD_PREAD || code == IOCB_CMD_PREADV ? READ : code == IOCB_CMD_PWRITE || code == IOCB_CMD_PWRITEV ? WRITE
            : code == IOCB_CMD_FSYNC || code == IOCB_CMD_FDSYNC ? SYNC : 0;
        i64 length = vector ? total((const struct iovec *)b->aio_buf, (int)b->aio_nbytes) : (i64)b->aio_nbytes;
        if (kind) ask(LIBAIO, b, (int)b->aio_fildes, kind, b->aio_offset, length);
    }
}
static long submitted(struct iocb **blocks, long n, long result) {
    for (long i = result < 0 ? 0 : result; i < n; i++) answered(LIBAIO, blocks[i], 0, 0, NOT_MADE);
    return result;
}
static long got_events(const struct io_event *events, long result) {
    for (long i = 0; i < result; i++)
        answered(LIBAIO, (const void *)events[i].obj, events[i].res, events[i].res < 0 ? (int)-events[i].res : 0, MADE);
    return result;
}
int io_submit(void *, long, struct iocb **), io_getevents(void *, long, long, struct io_event *, struct timespec *);
int io_pgetevents(void *, long, long, struct io_event *, struct timespec *, sigset_t *);
EXPORT int io_submit(void *c, long n, struct iocb **b) { queues_seen = 1; submits(b, n); return (int)submitted(b, n, ALONE(REAL(io_submit)(c, n, b))); }
EXPORT int io_getevents(void *c, long least, long n, struct io_event *e, struct timespec *t) { return (int)got_events(e, ALONE(REAL(io_getevents)(c, least, n, e, t))); }
EXPORT int io_pgetevents(void *c, long least, long n, struct io_event *e, struct timespec *t, sigset_t *s) { return (int)got_events(e, ALONE(REAL(io_pgetevents)(c, least, n, e, t, s))); }

/* A ring of io_uring: what is asked stands in memory before `enter`, and what was answered stays there until it is
 * overwritten. A ring whose requests the kernel takes by itself, and one that is not known, are flagged. */
struct ring { u32 *sq_head, *sq_mask, *array, *cq_head, *cq_tail, *cq_mask; char *sqes, *cqes; u32 params[30], seen, known; int fd; }; /* `known`: the process whose it is */
static struct ring rings[16];
enum { SQ_HEAD = 10, SQ_MASK = 12, SQ_ARRAY = 16, CQ_HEAD = 20, CQ_TAIL, CQ_MASK, CQES = 25, PARAMS = 30 }; /* struct io_uring_params */
enum { FLAGS = 2, FEATURES = 5, SQPOLL = 1 << 1, SQE128 = 1 << 10, CQE32 = 1 << 11, NO_MMAP = 1 << 14, NO_SQARRAY = 1 << 16, SINGLE_MMAP = 1 };
struct sqe { unsigned char code, flags; unsigned short priority; int fd; u64 offset, address; u32 length, more; u64 data; };
struct cqe { u64 data; int result; u32 flags; };

static struct ring *ring_of(int fd) {
    for (size_t i = 0; i < sizeof rings / sizeof *rings; i++) if (rings[i].known == our_pid && rings[i].fd == fd) return &rings[i];
    return NULL;
}
static int is_known_ring(int fd) { /* of a parent too */
    for (size_t i = 0; i < sizeof rings / sizeof *rings; i++) if (rings[i].known && rings[i].fd == fd) return 1;
    return 0;
}
static struct ring *new_ring(int fd, u32 flags) {
    struct ring *r = ring_of(fd);
    for (size_t i = 0; !r && i < sizeof rings / sizeof *rings; i++) if (rings[i].known != our_pid) r = &rings[i];
    if (!r || flags & (SQPOLL | NO_MMAP)) { log_header->flags |= IO_URING; return NULL; }
    memset(r, 0, sizeof *r);
    r->fd = fd;
    r->known = our_pid;
    r->params[FLAGS] = flags;
    rings_known = queues_seen = 1;
    return r;
}
static void ring_mapped(int fd, char *at, i64 offset) {
    struct ring *r = ring_of(fd);
    const u32 *p = r ? r->params : NULL;
    if (!r || !p[CQES]) return;
    if (offset == 0) { r->sq_head = (u32 *)(at + p[SQ_HEAD]); r->sq_mask = (u32 *)(at + p[SQ_MASK]); r->array = p[FLAGS] & NO_SQARRAY ? NULL : (u32 *)(at + p[SQ_ARRAY]); }
    if (offset == 0x8000000 || (offset == 0 && p[FEATURES] & SINGLE_MMAP)) {
        r->cq_head = (u32 *)(at + p[CQ_HEAD]); r->cq_tail = (u32 *)(at + p[CQ_TAIL]); r->cq_mask = (u32 *)(at + p[CQ_MASK]); r->cqes = at + p[CQES];
    }
    if (offset == 0x10000000) r->sqes = at;
}
static const struct sqe *request(const struct ring *r, u32 at, int through_array) {
    u32 mask = *r->sq_mask, index = through_array && r->array ? r->array[at & mask] : at & mask;
    return (const struct sqe *)(r->sqes + ((size_t)index << (r->params[FLAGS] & SQE128 ? 7 : 6)));
}
static void requested(const struct ring *r, u32 first, u32 count, int through_array) {
    for (u32 i = 0; i < count; i++) {
        const struct sqe *q = request(r, first + i, through_array);
        static const unsigned char kinds[] = {[1] = READ, WRITE, SYNC, READ, WRITE, [22] = READ, WRITE};
        int kind = q->code < sizeof kinds ? kinds[q->code] : 0, vector = q->code == 1 || q->code == 2;
        if (q->code == 19 && q->flags % 2 == 0) forget(q->fd); /* close */
        if (kind) ask(RINGS + (u32)r->fd, (const void *)q->data, q->flags % 2 ? -1 : q->fd, kind, (i64)q->offset, vector ? total((const struct iovec *)q->address, (int)q->length) : q->length);
    }
}
static void harvest(struct ring *r) {
    if (!r->cqes || !r->sqes || !take(&rings_lock)) return;
    u32 mask = *r->cq_mask, tail = __atomic_load_n(r->cq_tail, __ATOMIC_ACQUIRE), head = *r->cq_head;
    if (tail - r->seen > mask + 1) { log_header->flags |= IO_URING; r->seen = tail - mask - 1; }
    for (; r->seen != tail; r->seen++) {
        const struct cqe *c = (const struct cqe *)(r->cqes + ((size_t)(r->seen & mask) << (r->params[FLAGS] & CQE32 ? 5 : 4)));
        int taken = (int)(r->seen - head) < 0; /* by the program, since we looked last */
        answered(RINGS + (u32)r->fd, (const void *)c->data, c->result, c->result < 0 ? -c->result : 0, taken ? MADE_EARLIER : MADE);
    }
    give(&rings_lock);
}
static void last_answers(void) {
    for (size_t i = 0; i < sizeof rings / sizeof *rings; i++) if (rings[i].known == our_pid && rings_known && on()) harvest(&rings[i]);
    for (size_t i = 0; i < MAX_ASKED; i++)
        if (asked[i].used && asked[i].storage && asked[i].by != POSIX) log_header->flags |= asked[i].by == LIBAIO ? IO_SUBMIT : IO_URING;
}
static void drop_ring(int fd) {
    struct ring *r = rings_known ? ring_of(fd) : NULL;
    if (r && on()) { harvest(r); r->known = 0; }
}
static void ring_unmapped(const char *at, size_t length) {
    for (size_t i = 0; i < sizeof rings / sizeof *rings; i++) {
        const char *parts[] = {(char *)rings[i].sq_head, (char *)rings[i].cq_head, rings[i].sqes};
        for (int part = 0; part < 3; part++) if (rings[i].known == our_pid && parts[part] >= at && parts[part] < at + length) drop_ring(rings[i].fd);
    }
}
static void will_unmap(void *at, size_t n) { if (rings_known && on()) ring_unmapped(at, n); }
EXPORT int munmap(void *at, size_t n) { will_unmap(at, n); return ALONE(REAL(munmap)(at, n)); }

static long ring_setup(u32 entries, u32 *params) {
    long fd = REAL(syscall)(SYS_io_uring_setup, entries, params);
    struct ring *r = fd >= 0 && on() ? new_ring((int)fd, params[FLAGS]) : NULL;
    if (r) memcpy(r->params, params, sizeof r->params);
    return fd;
}
static long ring_enter(int fd, u32 n, u32 least, u32 flags, const void *more, size_t size) {
    struct ring *r = on() ? ring_of(fd) : NULL;
    if (!r || !r->sqes || !r->cqes) {
        if (on()) log_header->flags |= IO_URING;
        return REAL(syscall)(SYS_io_uring_enter, fd, n, least, flags, more, size);
    }
    u32 head = *r->sq_head;
    harvest(r);
    requested(r, head, n, 1);
    long result = REAL(syscall)(SYS_io_uring_enter, fd, n, least, flags, more, size);
    int failure = errno;
    for (u32 i = *r->sq_head - head; i < n; i++) answered(RINGS + (u32)fd, (const void *)request(r, head + i, 1)->data, 0, 0, NOT_MADE);
    harvest(r);
    errno = failure;
    return result;
}

/* liburing makes its system calls itself; its own structure tells the same. Functions that are inline in its header take
 * what these, or the kernel, have put into the ring. */
struct liburing {
    u32 *sq_head, *sq_tail, *sq_mask, *sq_entries, *sq_flags, *sq_dropped, *array; char *sqes; u32 first, end; size_t sq_size; void *sq; u32 more[4];
    u32 *cq_head, *cq_tail, *cq_mask, *cq_entries, *cq_flags, *cq_overflow; char *cqes; size_t cq_size; void *cq; u32 more2[4];
    u32 flags; int fd;
};
static int ring_made(int result, const struct liburing *u) {
    struct ring *r = !result && on() ? new_ring(u->fd, u->flags) : NULL;
    if (r) {
        r->sq_head = u->sq_head; r->sq_mask = u->sq_mask; r->sqes = u->sqes; r->array = u->array;
        r->cq_head = u->cq_head; r->cq_tail = u->cq_tail; r->cq_mask = u->cq_mask; r->cqes = u->cqes;
    }
    return result;
}
static struct ring *ring_before(const struct liburing *u) {
    struct ring *r = on() ? ring_of(u->fd) : NULL;
    if (r) { harvest(r); requested(r, u->first, u->end - u->first, 0); }
    return r;
}
#define ON_RING(type, name, arguments, given) \
    type name arguments; \
    EXPORT type name arguments { struct ring *r = ring_before(u); type result = ALONE(REAL(name) given); int failure = errno; if (r) harvest(r); errno = failure; return result; }
typedef struct cqe **Cqes;
int io_uring_queue_init(u32, struct liburing *, u32), io_uring_queue_init_params(u32, struct liburing *, void *);
EXPORT int io_uring_queue_init(u32 n, struct liburing *u, u32 f) { return ring_made(ALONE(REAL(io_uring_queue_init)(n, u, f)), u); }
EXPORT int io_uring_queue_init_params(u32 n, struct liburing *u, void *p) { return ring_made(ALONE(REAL(io_uring_queue_init_params)(n, u, p)), u); }
ON_RING(int, io_uring_submit, (struct liburing *u), (u))
ON_RING(int, io_uring_submit_and_wait, (struct liburing *u, u32 n), (u, n))
ON_RING(int, io_uring_submit_and_get_events, (struct liburing *u), (u))
ON_RING(int, io_uring_submit_and_wait_timeout, (struct liburing *u, Cqes c, u32 n, void *t, void *s), (u, c, n, t, s))
#define ANSWERS(type, name, arguments, given) \
    type name arguments; \
    EXPORT type name arguments { struct ring *r = on() ? ring_of(u->fd) : NULL; type result = ALONE(REAL(name) given); int failure = errno; if (r) harvest(r); errno = failure; return result; }
ANSWERS(int, __io_uring_get_cqe, (struct liburing *u, Cqes c, u32 submit, u32 n, void *s), (u, c, submit, n, s))
ANSWERS(int, io_uring_wait_cqes, (struct liburing *u, Cqes c, u32 n, void *t, void *s), (u, c, n, t, s))
ANSWERS(u32, io_uring_peek_batch_cqe, (struct liburing *u, Cqes c, u32 n), (u, c, n))
ANSWERS(int, io_uring_get_events, (struct liburing *u), (u))
void io_uring_queue_exit(struct liburing *);
EXPORT void io_uring_queue_exit(struct liburing *u) { drop_ring(u->fd); REAL(io_uring_queue_exit)(u); }

/* ---- Programs that this one starts: those that cannot be seen are named in the log ---- */

extern char **environ;

static const char *given(char *const *variables, const char *name) {
    size_t length = strlen(name);
    for (; variables && *variables; variables++)
        if (!strncmp(*variables, name, length) && (*variables)[length] == '=') return *variables + length + 1;
    return NULL;
}

/* Why the program in the file would run without this library; NULL if it would not, or is no program. */
static const char *why_unseen(const char *path, char *const *variables) {
    unsigned char head[4096];
    struct stat status;
    const Elf64_Ehdr *elf = (const Elf64_Ehdr *)head;
    const char *preloaded = given(variables, "LD_PRELOAD");
    int fd = raw_open(path, O_RDONLY);
    if (fd < 0) return NULL;
    long got = read_for_us(fd, head, sizeof head, &log_header->other_read), known = SYS(SYS_fstat, fd, &status);
    SYS(SYS_close, fd);
    if (got < (long)sizeof *elf || known) return NULL;
    if ((status.st_mode & S_ISUID && status.st_uid != geteuid()) || (status.st_mode & S_ISGID && status.st_gid != getegid())) return "set-user-ID";
    if (!memcmp(head, ELFMAG, SELFMAG)) {
        int dynamic = 0, ours = elf->e_ident[EI_CLASS] == ELFCLASS64;
        for (int i = 0; ours && i < elf->e_phnum; i++) {
            u64 at = elf->e_phoff + (u64)i * sizeof(Elf64_Phdr);
            if (at + sizeof(Elf64_Phdr) > (u64)got) { dynamic = 1; break; }
            dynamic |= ((const Elf64_Phdr *)(head + at))->p_type == PT_INTERP;
        }
        if (!ours) return "for another machine";
        if (!dynamic) return "linked statically";
    } else if (head[0] != '#' || head[1] != '!') return NULL;
    if (!preloaded || !strstr(preloaded, library) || !given(variables, "TRACEKIT_NATIVE_LOGS")) return "without the environment";
    return SYS(SYS_faccessat, AT_FDCWD, folder, W_OK | X_OK) ? "without access to its log" : NULL;
}

static void will_run(const char *path, char *const *variables) {
    int failure = errno;
    const char *why = dead || !alive || me.busy || !path ? NULL : why_unseen(path, variables);
    if (why && on()) note_unseen(why, path);
    errno = failure;
}
static void will_run_found(const char *name, char *const *variables) {
    char path[4200];
    const char *part = strchr(name, '/') ? NULL : getenv("PATH");
    if (!part) { will_run(name, variables); return; }
    for (; *part; part += strspn(part, ":")) {
        size_t length = strcspn(part, ":");
        if (length + strlen(name) + 2 < sizeof path) {
            memcpy(path, part, length);
            path[length] = '/';
            strcpy(path + length + 1, name);
            if (!SYS(SYS_faccessat, AT_FDCWD, path, X_OK)) { will_run(path, variables); return; }
        }
        part += length;
    }
}
EXPORT int execve(const char *p, char *const a[], char *const v[]) { will_run(p, v); return REAL(execve)(p, a, v); }
EXPORT int execv(const char *p, char *const a[]) { will_run(p, environ); return REAL(execv)(p, a); }
EXPORT int execvp(const char *p, char *const a[]) { will_run_found(p, environ); return REAL(execvp)(p, a); }
EXPORT int execvpe(const char *p, char *const a[], char *const v[]) { will_run_found(p, v); return REAL(execvpe)(p, a, v); }
EXPORT int fexecve(int fd, char *const a[], char *const v[]) {
    char path[4200];
    if (link_of(fd, path, sizeof path)) will_run(path, v);
    return REAL(fexecve)(fd, a, v);
}
int execveat(int, const char *, char *const *, char *const *, int);
EXPORT int execveat(int at, const char *p, char *const a[], char *const v[], int f) {
    char path[4200];
    if (*p && *p != '/' ? absolute(at, p, path, sizeof path) : !*p ? link_of(at, path, sizeof path) : 0) will_run(path, v);
    else will_run(p, v);
    return REAL(execveat)(at, p, a, v, f);
}
#define LISTED(name, call) EXPORT int name(const char *p, const char *first, ...) { \
    va_list more; int n = 1; \
    va_start(more, first); while (va_arg(more, char *)) n++; va_end(more); \
    char *a[n + 1]; a[0] = (char *)first; \
    va_start(more, first); for (int i = 1; i <= n; i++) a[i] = va_arg(more, char *); \
    char **v = environ; (void)v; \
    call }
LISTED(execl, va_end(more); return execv(p, a);)
LISTED(execlp, va_end(more); return execvp(p, a);)
LISTED(execle, v = va_arg(more, char **); va_end(more); return execve(p, a, v);)
#define SPAWNING(name, look) EXPORT int name(pid_t *pid, const char *p, const posix_spawn_file_actions_t *f, const posix_spawnattr_t *t, char *const a[], char *const v[]) { \
    look(p, v); return REAL(name)(pid, p, f, t, a, v); }
SPAWNING(posix_spawn, will_run) SPAWNING(posix_spawnp, will_run_found)

/* ---- System calls by number ---- */

/* How openat2 says what to open; a name below a root of its own is left to the kernel. */
enum { IN_ROOT = 0x10 };

/* They go to the kernel, as the program says, and are recorded as those functions are. */
static long by_number(long number, long a, long b, long c, long d, long e_, long f) {
#define KERNEL REAL(syscall)(number, a, b, c, d, e_, f)
    switch (number) {
    case SYS_read: { MOVING(READ, (int)a, AT_POSITION, c, KERNEL) }
    case SYS_write: { MOVING(WRITE, (int)a, AT_POSITION, c, KERNEL) }
    case SYS_pread64: { MOVING(READ, (int)a, d, c, KERNEL) }
    case SYS_pwrite64: { MOVING(WRITE, (int)a, d, c, KERNEL) }
    case SYS_readv: { MOVING(READ, (int)a, AT_POSITION, total((void *)b, (int)c), KERNEL) }
    case SYS_writev: { MOVING(WRITE, (int)a, AT_POSITION, total((void *)b, (int)c), KERNEL) }
    case SYS_preadv: case SYS_preadv2: { MOVING(READ, (int)a, d, total((void *)b, (int)c), KERNEL) }
    case SYS_pwritev: { MOVING(WRITE, (int)a, d, total((void *)b, (int)c), KERNEL) }
    case SYS_pwritev2: { MOVING_AS(WRITE, (int)a, d, total((void *)b, (int)c), f & RWF_APPEND, KERNEL) }
    case SYS_openat: { OPENING((int)a, (char *)b, (int)c, (int)KERNEL) }
    case SYS_openat2: { const u64 *how = (u64 *)c; OPENING((int)a, how[2] & IN_ROOT ? NULL : (char *)b, (int)how[0], (int)KERNEL) }
    case SYS_close: will_close((int)a); return KERNEL;
    case SYS_dup: { DUPLICATING((int)a, (int)KERNEL) }
    case SYS_dup3: { DUPLICATING((int)a, (int)KERNEL) }
    case SYS_sendfile: { COPYING((int)b, (int)a, (off_t *)c, (off_t *)0, d, KERNEL) }
    case SYS_copy_file_range: case SYS_splice: { COPYING((int)a, (int)c, (off64_t *)b, (off64_t *)d, e_, KERNEL) }
    case SYS_fsync: case SYS_fdatasync: { ON_FILE(SYNC, synchronized((int)a), -1, -1, KERNEL) }
    case SYS_ftruncate: { ON_DESCRIPTOR(TRUNCATE, (int)a, -1, b, KERNEL) }
    case SYS_fadvise64: case SYS_readahead: { ON_DESCRIPTOR(HINT, (int)a, b, c, KERNEL) }
    case SYS_truncate: { ON_NAME(TRUNCATE, 1, AT_FDCWD, (char *)a, b, KERNEL) }
    case SYS_unlinkat: { ON_NAME(DELETE, !(c & AT_REMOVEDIR), (int)a, (char *)b, -1, KERNEL) }
    case SYS_renameat: case SYS_renameat2: { RENAMING((int)a, (char *)b, (int)c, (char *)d, KERNEL) }
#ifdef SYS_open
    case SYS_open: { OPENING(AT_FDCWD, (char *)a, (int)b, (int)KERNEL) }
    case SYS_creat: { OPENING(AT_FDCWD, (char *)a, O_TRUNC, (int)KERNEL) }
    case SYS_dup2: { DUPLICATING((int)a, (int)KERNEL) }
    case SYS_unlink: { ON_NAME(DELETE, 1, AT_FDCWD, (char *)a, -1, KERNEL) }
    case SYS_rename: { RENAMING(AT_FDCWD, (char *)a, AT_FDCWD, (char *)b, KERNEL) }
#endif
    case SYS_io_uring_setup: return ring_setup((u32)a, (u32 *)b);
    case SYS_io_uring_enter: return ring_enter((int)a, (u32)b, (u32)c, (u32)d, (void *)e_, (size_t)f);
    case SYS_io_submit: queues_seen = 1; submits((struct iocb **)c, b); return submitted((struct iocb **)c, b, KERNEL);
    case SYS_io_getevents: case SYS_io_pgetevents: return got_events((struct io_event *)d, KERNEL);
    case SYS_mmap: return (long)has_mapped((void *)KERNEL, (size_t)b, (int)d, (int)e_, f);
    case SYS_munmap: will_unmap((void *)a, (size_t)b); return KERNEL;
    case SYS_fcntl: if (b == F_DUPFD || b == F_DUPFD_CLOEXEC) { DUPLICATING((int)a, (int)KERNEL) } break;
    case SYS_close_range: if (on_descriptors()) forget_range((unsigned)a, (unsigned)b); break;
    case SYS_clone: will_clone(a); break;
    case SYS_execve: will_run((char *)a, (char **)c); break;
    case SYS_exit_group: end_recording(); break;
    }
    return KERNEL;
}

/* A call from below a function of ours that has one to make goes to the kernel: a library that has replaced the C library's own,
 * as UCX does with mmap, makes the call itself. */
EXPORT long syscall(long number, ...) {
    va_list more;
    va_start(more, number);
    long a = va_arg(more, long), b = va_arg(more, long), c = va_arg(more, long);
    long d = va_arg(more, long), e = va_arg(more, long), f = va_arg(more, long);
    va_end(more);
    return me.below || me.busy ? REAL(syscall)(number, a, b, c, d, e, f) : by_number(number, a, b, c, d, e, f);
}

/* ---- Streams of the C library (FILE) ----
 *
 * The library reads and writes for them by calls that do not pass here. Before and after each function, the
 * buffer tells how many bytes came from or went to the kernel; the rules of the library (whole buffers, and
 * whole blocks past the buffer for large requests) tell in how many calls.
 */

#undef fread_unlocked
#undef fwrite_unlocked
#undef fputc_unlocked
/* While a character that was pushed back is read, the buffer proper stands in the `save` pointers. */
static i64 unread(FILE *f) { return f->_IO_read_end - f->_IO_read_ptr + (f->_flags & 0x100 ? f->_IO_save_end - f->_IO_save_base : 0); }
static i64 buffer_of(FILE *f) { i64 size = f->_IO_buf_end - f->_IO_buf_base; return size > 0 ? size : 4096; }
static struct entry *file_of(FILE *f) {
    if (!f || !on()) return NULL;
    return watched(f->_fileno);
}

/* One row for each call that the library made. `wanted`: what was asked beyond the buffer; -1: one buffer at a time. */
static void rows(int kind, FILE *f, struct entry *e, i64 first, i64 moved, i64 wanted, int to_the_end, i64 begin) {
    i64 took = now() - begin, buffer = buffer_of(f), left = moved, done_ = 0;
    int whole = wanted >= 0;
    while (left > 0 || to_the_end) {
        i64 asked = whole && wanted >= buffer ? wanted - (buffer >= 128 ? wanted % buffer : 0) : buffer;
        i64 got = asked < left ? asked : left;
        if (kind == WRITE) asked = got = buffer < 128 ? left : got; /* a stream without a buffer */
        put(kind, e->file, 0, begin + (moved ? took * done_ / moved : 0), moved ? took * got / moved : took, first + done_, asked, got);
        if (!got) break;
        done_ += got;
        left -= got;
        if (whole && (wanted -= got) <= 0 && !left) break;
    }
}

enum { IN_MEMORY = 1 }; /* the stream was opened with `m`: it has mapped its file */
struct before { i64 unread, unwritten, room, shift, begin, place; int ended, empty; };
static struct before look(FILE *f) {
    flockfile(f);
    /* A stream that is flushed at the end of each line has no `write_end`, but its whole buffer. */
    i64 room = f->_flags & 0x800 ? (f->_flags & 0x200 ? f->_IO_buf_end : f->_IO_write_end) - f->_IO_write_ptr : 0;
    i64 pending = unwritten(f), shift = pending ? f->_IO_write_base - f->_IO_read_end : 0;
    int empty = f->_IO_read_base == f->_IO_read_end && !pending;
    return (struct before){unread(f), pending, room > 0 ? room : 0, shift, now(), is_wide(f) ? place(f->_fileno) : -1, feof_unlocked(f), empty};
}

/* After a reading function that took `taken` bytes out of the stream; -1: unknown, `b.place` was asked before. */
static void has_read(FILE *f, struct entry *e, struct before b, i64 taken, i64 wanted) {
    int failure = errno;
    if (f->_flags2 & IN_MEMORY) { funlockfile(f); return; }
    i64 call = me.entered ? now() - b.begin : 0;
    i64 moved = taken < 0 ? -1 : taken + unread(f) - b.unread, end = -1;
    if (e->state != STORAGE) {
        count_other(e, READ, moved < 0 ? f->_IO_read_end - f->_IO_read_base : moved);
        measured(b.begin, call);
        funlockfile(f);
        errno = failure;
        return;
    }
    /* The library remembers the end for its own buffer, not for reads past it. */
    int ended = feof_unlocked(f) && (!b.ended || wanted >= buffer_of(f));
    if (taken < 0 || moved || ended) {
        end = place(f->_fileno);
        if (taken < 0 && b.place >= 0) moved = end - b.place;
        if (moved < 0) moved = f->_IO_read_end - f->_IO_read_base; /* zero bytes inside a line: the last buffer */
        if (end >= 0 && (moved || ended)) rows(READ, f, e, end - moved, moved, wanted, ended, b.begin);
    }
    measured(b.begin, call);
    funlockfile(f);
    errno = failure;
}

/* After a writing function that put `given` bytes into the stream. A `block` fills the buffer, then goes past it. */
static void has_written(FILE *f, struct entry *e, struct before b, i64 given, int block) {
    int failure = errno;
    i64 call = me.entered ? now() - b.begin : 0;
    i64 moved = b.unwritten + given - unwritten(f);
    if (is_wide(f)) {
        moved = b.place < 0 ? 0 : place(f->_fileno) - b.place;
        if (moved > 0 && e->state == STORAGE) put(WRITE, e->file, 0, b.begin, now() - b.begin, b.place, moved, moved);
    } else if (moved > 0 && e->state != STORAGE) count_other(e, WRITE, moved);
    else if (moved > 0) {
        i64 end = place(f->_fileno), first = block ? b.unwritten + b.room : moved;
        if (first > 0 && first < moved) {
            i64 took = now() - b.begin;
            put(WRITE, e->file, 0, b.begin, took * first / moved, end - moved, first, first);
            put(WRITE, e->file, 0, b.begin + took * first / moved, took - took * first / moved, end - moved + first, moved - first, moved - first);
        } else rows(WRITE, f, e, end - moved, moved, block ? moved : -1, 0, b.begin);
    }
    measured(b.begin, call);
    funlockfile(f);
    errno = failure;
}

static void keep_stream(FILE *f) {
    for (u32 i = 0; f && i < sizeof streams / sizeof *streams; i++) {
        FILE *none = NULL;
        if (!__atomic_compare_exchange_n(&streams[i], &none, f, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) continue;
        for (u32 end = streams_end; end <= i && !__atomic_compare_exchange_n(&streams_end, &end, i + 1, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED);) {}
        return;
    }
}
static void drop_stream(FILE *f) {
    for (u32 i = 0; i < streams_end; i++) if (streams[i] == f) streams[i] = NULL;
}
static FILE *opened_stream(FILE *f, const char *path, const char *mode, i64 begin) {
    if (!on_descriptors()) return f;
    opened(f ? f->_fileno : -1, AT_FDCWD, path, *mode == 'w' ? O_TRUNC : 0, begin);
    if (f && strpbrk(mode, "wa+")) keep_stream(f);
    return f;
}
static void flush_stream(FILE *f) {
    struct entry *e = file_of(f);
    if (!e) return;
    struct before b = look(f);
    if (b.unwritten > 0 || is_wide(f)) REAL(fflush_unlocked)(f);
    has_written(f, e, b, 0, 1);
}

EXPORT FILE *fopen(const char *path, const char *mode) { i64 begin = now(); return opened_stream(REAL(fopen)(path, mode), path, mode, begin); }
EXPORT FILE *fopen64(const char *path, const char *mode) { i64 begin = now(); return opened_stream(REAL(fopen64)(path, mode), path, mode, begin); }
EXPORT FILE *fdopen(int fd, const char *mode) { FILE *f = REAL(fdopen)(fd, mode); if (f && strpbrk(mode, "wa+") && on_descriptors()) { keep_stream(f); measured(0, 0); } return f; }
EXPORT FILE *tmpfile(void) { FILE *f = REAL(tmpfile)(); if (f && on_descriptors()) { forget(f->_fileno); keep_stream(f); } return f; }
EXPORT FILE *tmpfile64(void) { FILE *f = REAL(tmpfile64)(); if (f && on_descriptors()) { forget(f->_fileno); keep_stream(f); } return f; }
#define REOPENING(name) EXPORT FILE *name(const char *path, const char *mode, FILE *f) { \
    flush_stream(f); \
    drop_stream(f); \
    if (f && on_descriptors()) forget(f->_fileno); \
    i64 begin = now(); \
    return opened_stream(REAL(name)(path, mode, f), path, mode, begin); }
REOPENING(freopen)
REOPENING(freopen64)
#define CLOSING(name) EXPORT int name(FILE *f) { \
    flush_stream(f); \
    if (f && on_descriptors()) { drop_stream(f); if (f->_fileno >= 0) forget(f->_fileno); } \
    return REAL(name)(f); }
CLOSING(fclose)
CLOSING(pclose)
EXPORT int fcloseall(void) {
    if (on()) for (u32 i = 0; i < streams_end; i++) if (streams[i]) flush_stream(streams[i]);
    return REAL(fcloseall)();
}
#define FLUSHING(name) EXPORT int name(FILE *f) { \
    if (!f && on()) for (u32 i = 0; i < streams_end; i++) { \
        FILE *one = streams[i]; \
        if (one && (unwritten(one) > 0 || is_wide(one))) flush_stream(one); \
    } \
    struct entry *e = file_of(f); \
    if (!e) return REAL(name)(f); \
    struct before b = look(f); \
    int result = REAL(name)(f); \
    has_written(f, e, b, 0, 1); \
    return result; }
FLUSHING(fflush)
FLUSHING(fflush_unlocked)

#define READING(stream, taken, wanted, known, call) \
    struct entry *e = file_of(stream); \
    if (!e) return call; \
    struct before b = look(stream); \
    if (!(known)) b.place = place((stream)->_fileno); \
    __typeof__(call) got = call; \
    has_read(stream, e, b, taken, wanted); \
    return got;
#define WRITING(stream, given, block, call) \
    struct entry *e = file_of(stream); \
    if (!e) return call; \
    struct before b = look(stream); \
    __typeof__(call) got = call; \
    has_written(stream, e, b, given, block); \
    return got;
#define BEYOND(stream, asked) ((i64)(asked) > b.unread ? (i64)(asked) - b.unread : 0)
#define PART(name, extra, given) EXPORT size_t name(void *d, extra size_t size, size_t n, FILE *f) { \
    READING(f, size && got < n ? -1 : (i64)(got * size), BEYOND(f, size * n), (i64)(size * n) <= b.unread, REAL(name)(d, given size, n, f)) }
size_t __fread_chk(void *, size_t, size_t, size_t, FILE *), __fread_unlocked_chk(void *, size_t, size_t, size_t, FILE *);
#define COMMA ,
PART(fread, , ) PART(fread_unlocked, , ) PART(__fread_chk, size_t room COMMA, room COMMA) PART(__fread_unlocked_chk, size_t room COMMA, room COMMA)
/* A line comes from the buffer alone if its end lies there. Its length is no help: it may hold zero bytes. */
static int line_in_buffer(FILE *f, i64 room) { i64 held = unread(f); return held >= room - 1 || (held > 0 && memchr(f->_IO_read_ptr, '\n', (size_t)held)); }
#define LINE(n, call) \
    if (!f || line_in_buffer(f, n)) return call; \
    READING(f, -1, -1, 0, call)
EXPORT char *fgets(char *d, int n, FILE *f) { LINE(n, REAL(fgets)(d, n, f)) }
EXPORT char *fgets_unlocked(char *d, int n, FILE *f) { LINE(n, REAL(fgets_unlocked)(d, n, f)) }
char *__fgets_chk(char *, size_t, int, FILE *), *__fgets_unlocked_chk(char *, size_t, int, FILE *);
EXPORT char *__fgets_chk(char *d, size_t r, int n, FILE *f) { LINE(n, REAL(__fgets_chk)(d, r, n, f)) }
EXPORT char *__fgets_unlocked_chk(char *d, size_t r, int n, FILE *f) { LINE(n, REAL(__fgets_unlocked_chk)(d, r, n, f)) }
int getw(FILE *), putw(int, FILE *);
EXPORT int getw(FILE *f) { READING(f, feof_unlocked(f) ? -1 : 4, BEYOND(f, 4), b.unread >= 4, REAL(getw)(f)) }
EXPORT ssize_t getline(char **d, size_t *n, FILE *f) { READING(f, got > 0 ? got : 0, -1, 1, REAL(getline)(d, n, f)) }
EXPORT ssize_t getdelim(char **d, size_t *n, int c, FILE *f) { READING(f, got > 0 ? got : 0, -1, 1, REAL(getdelim)(d, n, c, f)) }
EXPORT ssize_t __getdelim(char **d, size_t *n, int c, FILE *f) { READING(f, got > 0 ? got : 0, -1, 1, REAL(__getdelim)(d, n, c, f)) }
int __uflow(FILE *), __underflow(FILE *), __overflow(FILE *, int), _IO_getc(FILE *), _IO_putc(int, FILE *);
#undef getc
#undef putc
#undef getchar
#undef putchar
#undef fgetc_unlocked
#undef getc_unlocked
#undef putc_unlocked
#define CHARACTER(name) EXPORT int name(FILE *f) { \
    if (f && f->_IO_read_ptr < f->_IO_read_end) return REAL(name)(f); \
    READING(f, got != EOF, -1, 1, REAL(name)(f)) }
CHARACTER(fgetc) CHARACTER(getc) CHARACTER(_IO_getc) CHARACTER(fgetc_unlocked) CHARACTER(getc_unlocked) CHARACTER(__uflow)
EXPORT int __underflow(FILE *f) { READING(f, 0, -1, 1, REAL(__underflow)(f)) }
#undef getchar_unlocked
#undef putchar_unlocked
EXPORT int getchar_unlocked(void) { READING(stdin, got != EOF, -1, 1, REAL(getchar_unlocked)()) }
EXPORT int getchar(void) { READING(stdin, got != EOF, -1, 1, REAL(getchar)()) }
/* The headers give these other names. */
#define NAMED(type, family, prefix, name, ...) type family##name(__VA_ARGS__) __asm__(prefix #name);
#define SCANNING(family, prefix) \
    NAMED(int, family, prefix, vfscanf, FILE *, const char *, va_list) NAMED(int, family, prefix, fscanf, FILE *, const char *, ...) \
    NAMED(int, family, prefix, vscanf, const char *, va_list) NAMED(int, family, prefix, scanf, const char *, ...) \
    EXPORT int family##vfscanf(FILE *f, const char *t, va_list l) { READING(f, -1, -1, 0, REAL_AS(family##vfscanf, prefix "vfscanf")(f, t, l)) } \
    EXPORT int family##fscanf(FILE *f, const char *t, ...) { ARGUMENTS(int, t, family##vfscanf(f, t, more)) } \
    EXPORT int family##vscanf(const char *t, va_list l) { return family##vfscanf(stdin, t, l); } \
    EXPORT int family##scanf(const char *t, ...) { ARGUMENTS(int, t, family##vfscanf(stdin, t, more)) }
#define ARGUMENTS(type, last, call) va_list more; va_start(more, last); type result = call; va_end(more); return result;
SCANNING(oldest_, "") SCANNING(isoc99_, "__isoc99_") SCANNING(isoc23_, "__isoc23_")

size_t fwrite_unlocked(const void *, size_t, size_t, FILE *);
EXPORT size_t fwrite(const void *d, size_t s, size_t n, FILE *f) { WRITING(f, (i64)(got * s), 1, REAL(fwrite)(d, s, n, f)) }
EXPORT size_t fwrite_unlocked(const void *d, size_t s, size_t n, FILE *f) { WRITING(f, (i64)(got * s), 1, REAL(fwrite_unlocked)(d, s, n, f)) }
EXPORT int putw(int w, FILE *f) { WRITING(f, got == EOF ? 0 : 4, 1, REAL(putw)(w, f)) }
EXPORT int fputs(const char *d, FILE *f) { WRITING(f, got >= 0 ? (i64)strlen(d) : 0, 1, REAL(fputs)(d, f)) }
EXPORT int fputs_unlocked(const char *d, FILE *f) { WRITING(f, got >= 0 ? (i64)strlen(d) : 0, 1, REAL(fputs_unlocked)(d, f)) }
EXPORT int puts(const char *d) { WRITING(stdout, got >= 0 ? (i64)strlen(d) + 1 : 0, 1, REAL(puts)(d)) }
#define PUT_CHARACTER(name) EXPORT int name(int c, FILE *f) { WRITING(f, got != EOF, 0, REAL(name)(c, f)) }
PUT_CHARACTER(fputc) PUT_CHARACTER(putc) PUT_CHARACTER(_IO_putc) PUT_CHARACTER(putc_unlocked) PUT_CHARACTER(fputc_unlocked)
EXPORT int __overflow(FILE *f, int c) { WRITING(f, got != EOF && c != EOF, 0, REAL(__overflow)(f, c)) }
EXPORT int putchar_unlocked(int c) { WRITING(stdout, got != EOF, 0, REAL(putchar_unlocked)(c)) }
EXPORT int putchar(int c) { WRITING(stdout, got != EOF, 0, REAL(putchar)(c)) }
#define PRINTED (got > 0 ? got : 0)
int __vfprintf_chk(FILE *, int, const char *, va_list), __fprintf_chk(FILE *, int, const char *, ...), __printf_chk(int, const char *, ...), __vprintf_chk(int, const char *, va_list);
EXPORT int vfprintf(FILE *f, const char *t, va_list l) { WRITING(f, PRINTED, 0, REAL(vfprintf)(f, t, l)) }
EXPORT int __vfprintf_chk(FILE *f, int g, const char *t, va_list l) { WRITING(f, PRINTED, 0, REAL(__vfprintf_chk)(f, g, t, l)) }
EXPORT int vprintf(const char *t, va_list l) { return vfprintf(stdout, t, l); }
EXPORT int __vprintf_chk(int g, const char *t, va_list l) { return __vfprintf_chk(stdout, g, t, l); }
EXPORT int fprintf(FILE *f, const char *t, ...) { ARGUMENTS(int, t, vfprintf(f, t, more)) }
EXPORT int printf(const char *t, ...) { ARGUMENTS(int, t, vfprintf(stdout, t, more)) }
EXPORT int __fprintf_chk(FILE *f, int g, const char *t, ...) { ARGUMENTS(int, t, __vfprintf_chk(f, g, t, more)) }
EXPORT int __printf_chk(int g, const char *t, ...) { ARGUMENTS(int, t, __vfprintf_chk(stdout, g, t, more)) }

/* Wide characters. A stream may become wide by the call. */
#undef getwc
#undef putwc
#undef getwchar
#undef putwchar
struct wide { wchar_t *next, *end; };
static int wide_line_in_buffer(FILE *f, i64 room) {
    const struct wide *w = is_wide(f) ? (struct wide *)f->_wide_data : NULL;
    return w && w->end > w->next && (w->end - w->next >= room - 1 || wmemchr(w->next, L'\n', (size_t)(w->end - w->next)));
}
#define READING_WIDE(f, room, call) if (!(f) || wide_line_in_buffer(f, room)) return call; READING(f, -1, -1, 0, call)
#define WIDE_CHARACTER(name) wint_t name(FILE *); EXPORT wint_t name(FILE *f) { READING_WIDE(f, 2, REAL(name)(f)) }
WIDE_CHARACTER(fgetwc) WIDE_CHARACTER(getwc) WIDE_CHARACTER(fgetwc_unlocked) WIDE_CHARACTER(getwc_unlocked)
EXPORT wint_t getwchar(void) { READING_WIDE(stdin, 2, REAL(getwchar)()) }
wchar_t *fgetws_unlocked(wchar_t *, int, FILE *), *__fgetws_chk(wchar_t *, size_t, int, FILE *);
EXPORT wchar_t *fgetws(wchar_t *d, int n, FILE *f) { READING_WIDE(f, n, REAL(fgetws)(d, n, f)) }
EXPORT wchar_t *fgetws_unlocked(wchar_t *d, int n, FILE *f) { READING_WIDE(f, n, REAL(fgetws_unlocked)(d, n, f)) }
EXPORT wchar_t *__fgetws_chk(wchar_t *d, size_t r, int n, FILE *f) { READING_WIDE(f, n, REAL(__fgetws_chk)(d, r, n, f)) }
#define SCANNING_WIDE(family, prefix) \
    NAMED(int, family, prefix, vfwscanf, FILE *, const wchar_t *, va_list) NAMED(int, family, prefix, fwscanf, FILE *, const wchar_t *, ...) NAMED(int, family, prefix, wscanf, const wchar_t *, ...) \
    EXPORT int family##vfwscanf(FILE *f, const wchar_t *t, va_list l) { READING(f, -1, -1, 0, REAL_AS(family##vfwscanf, prefix "vfwscanf")(f, t, l)) } \
    EXPORT int family##fwscanf(FILE *f, const wchar_t *t, ...) { ARGUMENTS(int, t, family##vfwscanf(f, t, more)) } \
    EXPORT int family##wscanf(const wchar_t *t, ...) { ARGUMENTS(int, t, family##vfwscanf(stdin, t, more)) }
SCANNING_WIDE(oldest_, "") SCANNING_WIDE(isoc99_, "__isoc99_") SCANNING_WIDE(isoc23_, "__isoc23_")
#define WRITING_WIDE(f, call) \
    struct entry *e = file_of(f); \
    if (!e || e->state != STORAGE) return call; \
    struct before b = look(f); \
    b.place = place((f)->_fileno); \
    __typeof__(call) got = call; \
    has_written(f, e, b, 0, 0); \
    return got;
#define PUT_WIDE(name) wint_t name(wchar_t, FILE *); EXPORT wint_t name(wchar_t c, FILE *f) { WRITING_WIDE(f, REAL(name)(c, f)) }
PUT_WIDE(fputwc) PUT_WIDE(putwc) PUT_WIDE(fputwc_unlocked) PUT_WIDE(putwc_unlocked)
EXPORT wint_t putwchar(wchar_t c) { WRITING_WIDE(stdout, REAL(putwchar)(c)) }
int fputws_unlocked(const wchar_t *, FILE *), __vfwprintf_chk(FILE *, int, const wchar_t *, va_list), __fwprintf_chk(FILE *, int, const wchar_t *, ...), __wprintf_chk(int, const wchar_t *, ...);
EXPORT int fputws(const wchar_t *d, FILE *f) { WRITING_WIDE(f, REAL(fputws)(d, f)) }
EXPORT int fputws_unlocked(const wchar_t *d, FILE *f) { WRITING_WIDE(f, REAL(fputws_unlocked)(d, f)) }
EXPORT int vfwprintf(FILE *f, const wchar_t *t, va_list l) { WRITING_WIDE(f, REAL(vfwprintf)(f, t, l)) }
EXPORT int __vfwprintf_chk(FILE *f, int g, const wchar_t *t, va_list l) { WRITING_WIDE(f, REAL(__vfwprintf_chk)(f, g, t, l)) }
EXPORT int vwprintf(const wchar_t *t, va_list l) { return vfwprintf(stdout, t, l); }
EXPORT int fwprintf(FILE *f, const wchar_t *t, ...) { ARGUMENTS(int, t, vfwprintf(f, t, more)) }
EXPORT int wprintf(const wchar_t *t, ...) { ARGUMENTS(int, t, vfwprintf(stdout, t, more)) }
EXPORT int __fwprintf_chk(FILE *f, int g, const wchar_t *t, ...) { ARGUMENTS(int, t, __vfwprintf_chk(f, g, t, more)) }
EXPORT int __wprintf_chk(int g, const wchar_t *t, ...) { ARGUMENTS(int, t, __vfwprintf_chk(stdout, g, t, more)) }

/* These write to a descriptor, with a buffer of their own. */
int __vdprintf_chk(int, int, const char *, va_list), __dprintf_chk(int, int, const char *, ...);
EXPORT int vdprintf(int fd, const char *t, va_list l) { MOVING(WRITE, fd, AT_POSITION, moved > 0 ? moved : 0, REAL(vdprintf)(fd, t, l)) }
EXPORT int __vdprintf_chk(int fd, int g, const char *t, va_list l) { MOVING(WRITE, fd, AT_POSITION, moved > 0 ? moved : 0, REAL(__vdprintf_chk)(fd, g, t, l)) }
EXPORT int dprintf(int fd, const char *t, ...) { ARGUMENTS(int, t, vdprintf(fd, t, more)) }
EXPORT int __dprintf_chk(int fd, int g, const char *t, ...) { ARGUMENTS(int, t, __vdprintf_chk(fd, g, t, more)) }

/* A seek may write what is pending, and read the block it arrives in: all of it, or up to the new position if the stream
 * was empty. Behind the end of the file the library reads too, and then leaves the buffer empty. It reads even what the buffer
 * holds already as long as nobody has asked for a position (`unplaced`), as no first read does. */
enum { NO_READS = 4 };
static void has_sought(FILE *f, struct entry *e, struct before b, int known, int unplaced, int failed) {
    int failure = errno;
    i64 took = now() - b.begin, end = place(f->_fileno), got = f->_IO_read_end - f->_IO_read_base, block = buffer_of(f);
    int written = b.unwritten > 0 && !unwritten(f);
    if (written) put(WRITE, e->file, 0, b.begin, took, b.place + b.shift, b.unwritten, b.unwritten);
    int behind = !failed && f->_IO_read_ptr == f->_IO_read_end; /* the end of the buffer is not in it */
    if (end >= 0 && got > 0 && (written || end != b.place || b.empty || behind || (unplaced && !failed))) {
        i64 needed = f->_IO_read_ptr - f->_IO_read_base;
        put(READ, e->file, 0, b.begin, took, end - got, b.empty ? (needed > got ? needed : got) : block, got);
    } else if (end > 0 && !got && end % block && known && !failed && f->_IO_buf_base && !(f->_flags & NO_READS)) {
        i64 delta = end % block, left = size_of(f->_fileno) - (end - delta);
        put(READ, e->file, 0, b.begin, took, end - delta, b.empty ? delta : block, left < 0 ? 0 : left < delta ? left : delta);
    }
    measured(b.begin, took);
    funlockfile(f);
    errno = failure;
}
#define SEEKING(type, f, whence, failed, call) \
    struct entry *e = file_of(f); \
    if (!e || e->state != STORAGE || is_wide(f)) return call; \
    int unplaced = (f)->_offset < 0, known = (whence) != SEEK_CUR || !unplaced; \
    struct before b = look(f); \
    b.place = place((f)->_fileno); \
    type result = call; \
    has_sought(f, e, b, known, unplaced, failed); \
    return result;
EXPORT int fseek(FILE *f, long o, int w) { SEEKING(int, f, w, result, REAL(fseek)(f, o, w)) }
EXPORT int fseeko(FILE *f, off_t o, int w) { SEEKING(int, f, w, result, REAL(fseeko)(f, o, w)) }
EXPORT int fseeko64(FILE *f, off64_t o, int w) { SEEKING(int, f, w, result, REAL(fseeko64)(f, o, w)) }
EXPORT int fsetpos(FILE *f, const fpos_t *p) { SEEKING(int, f, SEEK_SET, result, REAL(fsetpos)(f, p)) }
EXPORT int fsetpos64(FILE *f, const fpos64_t *p) { SEEKING(int, f, SEEK_SET, result, REAL(fsetpos64)(f, p)) }
EXPORT void rewind(FILE *f) {
    struct entry *e = file_of(f);
    if (!e || e->state != STORAGE || is_wide(f)) { REAL(rewind)(f); return; }
    struct before b = look(f);
    b.place = place(f->_fileno);
    REAL(rewind)(f);
    has_sought(f, e, b, 1, 0, 0);
}
