/* Reads x.bin, whose words of 8 bytes are their offsets, at positions that other descriptors, processes and calls have moved; says on
 * its standard output what each read found: offset, bytes asked for, bytes read. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>
static long bare(long number, long a, long b, long c, long d) {
    long result;
#if defined(__x86_64__)
    register long r10 __asm__("r10") = d;
    __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10) : "rcx", "r11", "memory");
#elif defined(__aarch64__)
    register long x8 __asm__("x8") = number, x0 __asm__("x0") = a, x1 __asm__("x1") = b, x2 __asm__("x2") = c, x3 __asm__("x3") = d;
    __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3) : "memory");
    result = x0;
#else
    exit(77);
#endif
    return result;
}
static long word[512];
static void said(long asked, long got) {
    if (got < 0) exit(3);
    printf("%ld %ld %ld\n", got ? word[0] : 65536L, asked, got);
    fflush(stdout);
}
static void take(int fd, long n) { said(n, read(fd, word, n)); }
static int in_child(int fd, long n) {
    int status;
    if (!fork()) { take(fd, n); _exit(0); }
    wait(&status);
    return status;
}
int main(void) {
    int fd = open("x.bin", O_RDONLY), copy = dup(fd), pair[2];
    take(fd, 80), take(copy, 160), take(fd, 80);
    if (dup2(fd, 50) != 50 || fcntl(fd, F_DUPFD, 60) != 60) return 4;
    take(50, 8), take(60, 16), take(fd, 24);
    if (in_child(fd, 400)) return 5;
    take(fd, 80);
    if (in_child(copy, 40)) return 6;
    take(50, 8);
    lseek(fd, -80, SEEK_END), take(fd, 80), take(fd, 80);
    lseek(fd, -16, SEEK_END), take(fd, 80);
    lseek(fd, 800, SEEK_DATA), take(fd, 8);
    bare(SYS_lseek, fd, 4000, SEEK_SET, 0), take(fd, 8);
    if (bare(SYS_read, fd, (long)word, 72, 0) != 72) return 7; /* not seen */
    take(fd, 8);
    struct iovec part = {word, 32};
    said(32, preadv2(fd, &part, 1, -1, 0)), take(fd, 8);
    said(24, pread(fd, word, 24, 8008)), take(fd, 8);

    FILE *stream = fdopen(dup(fd), "r");
    setvbuf(stream, NULL, _IONBF, 0);
    if (fread(word, 1, 40, stream) != 40) return 8;
    said(40, 40), take(fd, 8);
    fclose(stream), take(fd, 8);

    struct iovec one = {"x", 1};
    char room[CMSG_SPACE(sizeof(int))] = {0};
    struct msghdr message = {.msg_iov = &one, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof room};
    struct cmsghdr *head = CMSG_FIRSTHDR(&message);
    *head = (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(int))};
    memcpy(CMSG_DATA(head), &fd, sizeof fd);
    char byte[1];
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) || sendmsg(pair[0], &message, 0) != 1) return 9;
    one.iov_base = byte, message.msg_controllen = sizeof room;
    if (recvmsg(pair[1], &message, 0) != 1) return 10;
    int received;
    memcpy(&received, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof received);
    take(received, 48), take(fd, 8);

    bare(SYS_close, copy, 0, 0, 0); /* the number is used again */
    if (bare(SYS_openat, AT_FDCWD, (long)"x.bin", O_RDONLY, 0) != copy) return 11;
    take(copy, 16), take(fd, 8), take(copy, 8);
    if (syscall(SYS_openat, AT_FDCWD, "x.bin", O_RDONLY) != received + 1 || dup2(received + 1, 70) != 70) return 12;
    take(70, 24), take(received + 1, 8);
    bare(SYS_dup3, 70, fd, 0, 0), take(fd, 8), take(70, 8);

    int out = open("out.bin", O_CREAT | O_RDWR | O_APPEND, 0600), out2 = open("out.bin", O_WRONLY | O_APPEND);
    if (write(out, word, 100) != 100 || write(out2, word, 50) != 50 || write(out, word, 30) != 30) return 13;
    return 0;
}
