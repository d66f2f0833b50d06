/* Reads and writes by io_submit (a), io_uring (r), io_uring with a thread of the kernel (p), a ring that is made without the C
 * library (x), and where the kernel decides the place, which is the position of the descriptor or the end of the file (e). Exits with
 * 77 where they are not allowed. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <linux/aio_abi.h>
#include <linux/io_uring.h>
static char block[8][65536];
static unsigned polled;
static void aio(void) {
    int fd = open("x.bin", O_RDONLY), out = open("aio.out", O_CREAT | O_RDWR, 0600);
    aio_context_t c = 0; struct iovec v[2] = {{block[2], 100}, {block[3], 200}};
    struct iocb b[5] = {0}, *all[5]; struct io_event e[5];
    for (int i = 0; i < 5; i++) all[i] = &b[i];
    b[0] = (struct iocb){.aio_fildes = fd, .aio_lio_opcode = IOCB_CMD_PREAD, .aio_buf = (long)block[0], .aio_nbytes = 5000, .aio_offset = 100};
    b[1] = (struct iocb){.aio_fildes = fd, .aio_lio_opcode = IOCB_CMD_PREADV, .aio_buf = (long)v, .aio_nbytes = 2, .aio_offset = 7000};
    b[2] = (struct iocb){.aio_fildes = out, .aio_lio_opcode = IOCB_CMD_PWRITE, .aio_buf = (long)block[4], .aio_nbytes = 3000, .aio_offset = 50};
    b[3] = (struct iocb){.aio_fildes = fd, .aio_lio_opcode = IOCB_CMD_PREAD, .aio_buf = (long)block[5], .aio_nbytes = 5000, .aio_offset = 99000};
    b[4] = (struct iocb){.aio_fildes = 1000, .aio_lio_opcode = IOCB_CMD_PREAD, .aio_buf = (long)block[6], .aio_nbytes = 5000};
    if (syscall(SYS_io_setup, 16, &c)) exit(77);
    long n = syscall(SYS_io_submit, c, 5L, all);
    long got = 0; while (got < n) { long more = syscall(SYS_io_getevents, c, 1L, 5L, e + got, NULL); if (more <= 0) exit(3); got += more; }
    syscall(SYS_io_destroy, c); close(fd); close(out);
}
struct ring { int fd; unsigned *sh, *st, *sm, *sa, *ch, *ct, *cm; struct io_uring_sqe *s; struct io_uring_cqe *c; };
static struct ring made(void) {
    struct io_uring_params p = {0}; struct ring r;
    p.flags = polled; r.fd = syscall(SYS_io_uring_setup, 8, &p);
    if (r.fd < 0) exit(77);
    size_t size = p.cq_off.cqes + p.cq_entries * 16 + 4096;
    char *q = mmap(0, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, r.fd, IORING_OFF_SQ_RING);
    char *cq = p.features & IORING_FEAT_SINGLE_MMAP ? q : mmap(0, size, PROT_READ | PROT_WRITE, MAP_SHARED, r.fd, IORING_OFF_CQ_RING);
    r.s = mmap(0, 8 * 64, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, r.fd, IORING_OFF_SQES);
    r.sh = (void *)(q + p.sq_off.head); r.st = (void *)(q + p.sq_off.tail); r.sm = (void *)(q + p.sq_off.ring_mask); r.sa = (void *)(q + p.sq_off.array);
    r.ch = (void *)(cq + p.cq_off.head); r.ct = (void *)(cq + p.cq_off.tail); r.cm = (void *)(cq + p.cq_off.ring_mask); r.c = (void *)(cq + p.cq_off.cqes);
    return r;
}
static void put(struct ring *r, int code, int fd, void *at, unsigned n, long long o, unsigned long data) {
    unsigned tail = *r->st, i = tail & *r->sm;
    r->s[i] = (struct io_uring_sqe){.opcode = code, .fd = fd, .addr = (long)at, .len = n, .off = o, .user_data = data};
    r->sa[i] = i; __atomic_store_n(r->st, tail + 1, __ATOMIC_RELEASE);
}
static int go(struct ring *r, unsigned n) {
    int sent = syscall(SYS_io_uring_enter, r->fd, n, n, IORING_ENTER_GETEVENTS | (polled ? IORING_ENTER_SQ_WAKEUP : 0), NULL, 0), moved = 0;
    while (*r->ch != __atomic_load_n(r->ct, __ATOMIC_ACQUIRE)) { int res = r->c[*r->ch & *r->cm].res; if (res > 0) moved += res; __atomic_store_n(r->ch, *r->ch + 1, __ATOMIC_RELEASE); }
    (void)sent; return moved;
}
static void ring(void) {
    struct ring r = made(); int fd = open("x.bin", O_RDONLY), out = open("ring.out", O_CREAT | O_RDWR, 0600); long moved = 0;
    struct iovec v[2] = {{block[2], 100}, {block[3], 200}};
    for (int i = 0; i < 20; i++) { put(&r, IORING_OP_READ, fd, block[0], 1000, i * 4096, 1); put(&r, IORING_OP_READ, fd, block[1], 2000, i * 4096 + 1000, 2); moved += go(&r, 2); }
    put(&r, IORING_OP_READV, fd, v, 2, 70000, 3); put(&r, IORING_OP_WRITE, out, block[0], 1234, 10, 4); put(&r, IORING_OP_FSYNC, out, 0, 0, 0, 5); moved += go(&r, 3);
    put(&r, IORING_OP_READ, fd, block[0], 5000, 99000, 9); put(&r, IORING_OP_READ, 999, block[0], 5000, 0, 10); moved += go(&r, 2);
    close(r.fd); if (moved != 60000 + 300 + 1234 + 1000) exit(4);
}
static long bare(long number, long a, long b) {
#ifdef __x86_64__
    long result;
    __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b) : "rcx", "r11", "memory");
    return result;
#else
    exit(77);
#endif
}
static void hidden(void) {
    struct io_uring_params p = {0}; int ring = bare(SYS_io_uring_setup, 8, (long)&p);
    if (ring < 0) exit(77);
    int fd = open("x.bin", O_RDONLY); bare(SYS_close, ring, 0); close(fd);
}
static void ends(void) {
    struct ring r = made(); int fd = open("x.bin", O_RDONLY), out = open("end.out", O_CREAT | O_RDWR | O_APPEND, 0600);
    for (int i = 0; i < 2; i++) { put(&r, IORING_OP_READ, fd, block[0], 100, -1, i + 1); if (go(&r, 1) != 100) exit(5); }
    if (read(fd, block[0], 8) != 8) exit(6);
    put(&r, IORING_OP_WRITE, out, block[0], 300, 0, 3); if (go(&r, 1) != 300) exit(7);
    aio_context_t c = 0; struct io_event e;
    struct iocb b = {.aio_fildes = out, .aio_lio_opcode = IOCB_CMD_PWRITE, .aio_buf = (long)block[0], .aio_nbytes = 400, .aio_offset = 50}, *all = &b;
    if (syscall(SYS_io_setup, 1, &c)) exit(77);
    if (syscall(SYS_io_submit, c, 1L, &all) != 1 || syscall(SYS_io_getevents, c, 1L, 1L, &e, NULL) != 1 || lseek(out, 0, SEEK_END) != 700) exit(8);
}
int main(int n, char **a) { for (char *p = a[1]; *p; p++) if (*p == 'a') aio(); else if (*p == 'e') ends(); else if (*p == 'x') hidden(); else { polled = *p == 'p' ? IORING_SETUP_SQPOLL : 0; ring(); }
    return 0; }
