#define _GNU_SOURCE
#include <aio.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>
#include <wchar.h>
#include <linux/openat2.h>
#include <locale.h>
extern char **environ;
static char block[100000];
static int made(const char *name, int size) {
    int fd = open(name, O_RDWR | O_CREAT | O_TRUNC, 0600);
    for (int i = 0; i < size; i++) block[i] = i % 50 == 49 ? '\n' : 'a' + i % 26;
    write(fd, block, size); lseek(fd, 0, SEEK_SET); return fd;
}
static void dups(void) {
    int a = made("dups", 5000), b = dup(a), c = dup2(a, 90), d = dup3(a, 91, O_CLOEXEC), e = fcntl(a, F_DUPFD, 100);
    read(a, block, 10); read(b, block, 20); read(c, block, 30); read(d, block, 40); read(e, block, 50);
    int other = made("dups2", 500); dup2(other, b); read(b, block, 5); close(a); read(c, block, 60);
    close_range(90, 91, 0); read(e, block, 70); closefrom(80); int f = open("dups", O_RDONLY); read(f, block, 11);
}
static void append(void) {
    int a = open("append", O_WRONLY | O_CREAT | O_APPEND, 0600), b = open("append", O_WRONLY | O_APPEND);
    for (int i = 0; i < 3; i++) { write(a, block, 10); write(b, block, 7); }
    FILE *f = fopen("append", "a"); fputs("xyz", f); fflush(f); write(a, block, 4); fputs("more", f); fclose(f);
}
static void forks(void) {
    int fd = made("forks", 5000);
    read(fd, block, 10);
    for (int i = 0; i < 3; i++) { if (!fork()) { read(fd, block, 20 + i); lseek(fd, 5, SEEK_CUR); _exit(0); } wait(0); read(fd, block, 7); }
}
static void spawns(void) {
    close(made("spawned", 3000));
    posix_spawn_file_actions_t f; posix_spawn_file_actions_init(&f);
    posix_spawn_file_actions_addopen(&f, 0, "spawned", O_RDONLY, 0); posix_spawn_file_actions_addopen(&f, 1, "spawned-out", O_WRONLY | O_CREAT, 0600);
    pid_t pid; char *a[] = {"cat", 0}; posix_spawnp(&pid, "cat", &f, 0, a, environ); waitpid(pid, 0, 0);
    if (!(pid = vfork())) { execlp("cp", "cp", "spawned", "vforked", (char *)0); _exit(1); } waitpid(pid, 0, 0);
    FILE *p = popen("head -c 100 spawned", "r"); while (fgets(block, 50, p)); pclose(p);
    system("cat spawned > by-system");
}
static void streams(void) {
    close(made("streams", 20000));
    FILE *f = fopen("streams", "r+"); char *line = 0; size_t room = 0;
    getdelim(&line, &room, 'z', f); int c = fgetc(f); ungetc(c, f); ungetc('Q', f); fgetc(f); fread(block, 1, 100, f);
    fseek(f, 6000, SEEK_SET); fgetc(f); ungetc('!', f); fseek(f, 10, SEEK_CUR); fgets(block, 100, f); ungetc('?', f); ungetc('!', f);
    fread(block, 1, 9000, f); rewind(f); fscanf(f, "%20s", block); fseek(f, 0, SEEK_CUR); fputs("WRITTEN", f); fflush(f);
    fseek(f, -10, SEEK_END); while (fgetc(f) != EOF); clearerr(f); fgetc(f); fclose(f);
    f = freopen("streams", "r", stdin); scanf("%10s", block); getchar(); fgets(block, 90, stdin); getline(&line, &room, stdin);
    int fd = open("streams", O_RDONLY); lseek(fd, 777, SEEK_SET); f = fdopen(fd, "r"); fread(block, 10, 30, f); fclose(f);
    f = tmpfile(); fprintf(f, "%05000d", 7); rewind(f); fread(block, 1, 5000, f); fputs("left", f); 
    char memory[200] = "abc def"; f = fmemopen(memory, 200, "r+"); fscanf(f, "%s", block); fputs("zz", f); fclose(f);
}
static void buffers(void) {
    memset(block, 120, sizeof block); /* no ends of lines */
    FILE *f = fopen("unbuffered", "w+"); setvbuf(f, 0, _IONBF, 0); fprintf(f, "%s %d\n", "hello world", 42); fputs("puts\n", f); putc('x', f); fwrite(block, 1, 10000, f);
    rewind(f); fgetc(f); fread(block, 1, 100, f); fgets(block, 50, f); fclose(f);
    f = fopen("lines", "w"); setlinebuf(f); fputs("one\n", f); fputs("two", f); fputs(" three\nfour", f); fprintf(f, " five %d\nsix", 5); fputc('\n', f); fwrite(block, 1, 9000, f); fputs("end", f); fclose(f);
    f = fopen("large", "w"); setvbuf(f, malloc(100000), _IOFBF, 100000); fwrite(block, 1, 60000, f); fwrite(block, 1, 60000, f); fwrite(block, 1, 5, f); fclose(f);
    f = fopen("large", "r"); setvbuf(f, 0, _IOFBF, 1000); fread(block, 1, 700, f); fread(block, 1, 5000, f); fclose(f);
    int fd = open("dprintf", O_WRONLY | O_CREAT, 0600); dprintf(fd, "%d and %s\n", 5, "words"); dprintf(fd, "%0500d", 5);
}
static void seeks(void) {
    FILE *f = fopen("seeks", "w+"); fseek(f, 336, SEEK_SET); fwrite(block, 1, 15, f); fseek(f, 64, SEEK_SET); fwrite(block, 1, 68, f); fseek(f, 136, SEEK_SET); fread(block, 1, 10, f);
    fseek(f, 0, SEEK_CUR); fwrite(block, 1, 56, f); fseek(f, 0, SEEK_END); fseek(f, 0, SEEK_CUR); fwrite(block, 1, 72, f); fflush(f); fseek(f, 100, SEEK_SET); fread(block, 1, 4, f); fseek(f, 0, SEEK_END); fseek(f, 9000, SEEK_SET); fwrite(block, 1, 5, f);
    rewind(f); fread(block, 1, 64, f); fseek(f, 8192, SEEK_SET); fgetc(f); fseek(f, 9001, SEEK_SET); fgetc(f); fseek(f, -3, SEEK_CUR); fgetc(f); fseek(f, -9, SEEK_SET); fseek(f, 9005, SEEK_SET); fgetc(f); fclose(f);
    f = fopen("seeks", "r"); fseek(f, 10, SEEK_CUR); fgetc(f); fseek(f, 20000, SEEK_SET); fgetc(f); fclose(f); f = fopen("seeks", "w"); fseek(f, 10, SEEK_SET); fputc('x', f); fseek(f, 5, SEEK_SET); fclose(f);
    f = fopen("append", "a+"); fputs("0123456789", f); fseek(f, 3, SEEK_SET); fgetc(f); fseek(f, 0, SEEK_END); fputc('y', f); fseek(f, 4, SEEK_SET); fgetc(f); fclose(f);
    f = fopen("seeks", "r"); fread(block, 1, 2, f); fseek(f, 4, SEEK_SET); fgetc(f); fseek(f, 1, SEEK_SET); fgetc(f); fclose(f);
    f = fopen("append", "r"); fgetc(f); fseek(f, -2, SEEK_END); fgetc(f); fseek(f, 1, SEEK_CUR); fclose(f); f = fopen("append", "r"); fgetc(f); fseek(f, 2, SEEK_CUR); fgetc(f); fseek(f, 3, SEEK_SET); fgetc(f); rewind(f); fgetc(f); fclose(f);
    f = fopen("append", "r"); fread(block, 1, 9, f); fseek(f, 5, SEEK_SET); fgetc(f); fclose(f); f = fopen("append", "r+"); fgetc(f); fseek(f, 2, SEEK_SET); fputc(33, f); fseek(f, 1, SEEK_SET); fgetc(f); fclose(f);
}
static void vectors(void) {
    int fd = made("vectors", 9000); struct iovec v[2] = {{block, 100}, {block + 200, 300}};
    preadv2(fd, v, 2, 1000, 0); preadv2(fd, v, 2, -1, RWF_HIPRI); preadv(fd, v, 2, 50); readv(fd, v, 2); pwritev2(fd, v, 2, 100, RWF_DSYNC); pwritev2(fd, v, 1, -1, 0); writev(fd, v, 2);
    preadv2(fd, v, 2, 0, RWF_NOWAIT); pwrite(fd, block, 10, 20000); ftruncate(fd, 100); read(fd, block, 10); posix_fadvise(fd, 0, 10, POSIX_FADV_WILLNEED);
    syscall(SYS_read, fd, block, 7); syscall(SYS_pread64, fd, block, 9, 3L); int raw = syscall(SYS_openat, AT_FDCWD, "vectors", O_RDONLY, 0); syscall(SYS_read, raw, block, 33); syscall(SYS_close, raw);
}
static void kernel(void) {
    int in = made("kernel", 30000), out = open("kernel-out", O_RDWR | O_CREAT, 0600), p[2]; off_t at = 100; loff_t b = 10;
    pipe(p); sendfile(out, in, 0, 500); sendfile(out, in, &at, 600); copy_file_range(in, 0, out, 0, 700, 0); copy_file_range(in, &b, out, 0, 800, 0);
    splice(in, 0, p[1], 0, 900, 0); int q[2]; pipe(q); tee(p[0], q[1], 900, 0); splice(p[0], 0, out, 0, 900, 0); read(q[0], block, 900);
    struct iovec v = {block, 300}; vmsplice(p[1], &v, 1, 0); splice(p[0], 0, out, &b, 300, 0);
    syscall(SYS_copy_file_range, in, (void *)0, out, (void *)0, 50L, 0L);
    char *m = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, out, 0); memcpy(m, "mapped", 6); msync(m, 4096, MS_SYNC); munmap(m, 4096);
}
static void aio(void) {
    int fd = made("aio", 9000); struct aiocb a = {.aio_fildes = fd, .aio_buf = block, .aio_nbytes = 500, .aio_offset = 200}, b = {.aio_fildes = fd, .aio_buf = block + 1000, .aio_nbytes = 600, .aio_offset = 8800, .aio_lio_opcode = LIO_READ}; struct aiocb *all[] = {&b};
    const struct aiocb *wait1[] = {&a}; aio_read(&a); while (aio_error(&a) == EINPROGRESS) aio_suspend(wait1, 1, 0); aio_return(&a);
    a.aio_offset = 9000; aio_write(&a); while (aio_error(&a) == EINPROGRESS) aio_suspend(wait1, 1, 0); aio_return(&a);
    lio_listio(LIO_WAIT, all, 1, 0); aio_return(&b);
    aio_fsync(O_SYNC, &a); while (aio_error(&a) == EINPROGRESS) usleep(100); aio_return(&a);
}
static void unnamed(void) {
    int fd = open(".", O_TMPFILE | O_RDWR, 0600); write(fd, block, 123); pread(fd, block, 50, 10); close(fd);
    fd = made("gone", 500); unlink("gone"); read(fd, block, 100); write(fd, block, 10);
    char name[] = "tempXXXXXX"; fd = mkstemp(name); write(fd, block, 44); rename(name, "temp"); write(fd, block, 45);
    fd = memfd_create("memory", 0); write(fd, block, 1000);
}
static void numbers(void) {
    struct open_how how = {.flags = O_RDWR | O_CREAT, .mode = 0600}, empty = {.flags = O_RDWR | O_TRUNC}, below = {.flags = O_RDONLY, .resolve = RESOLVE_IN_ROOT};
    int fd = syscall(SYS_openat2, AT_FDCWD, "numbers", &how, sizeof how), other; write(fd, block, 500);
    other = syscall(SYS_openat2, AT_FDCWD, "numbers", &empty, sizeof empty); pwrite(other, block, 70, 30);
    other = syscall(SYS_openat2, open(".", O_PATH | O_DIRECTORY), "/numbers", &below, sizeof below); read(other, block, 33); syscall(SYS_close, other);
    fd = open("numbers", O_RDONLY); syscall(SYS_fcntl, fd, F_DUPFD, 150L); read(150, block, 44); syscall(SYS_close_range, 150L, 160L, 0L);
    fd = made("numbers2", 300); syscall(SYS_fcntl, fd, F_DUPFD, 150L); read(150, block, 5); lseek(fd, 100, SEEK_SET); read(150, block, 6);
}
static void wide(void) {
    setlocale(LC_ALL, "C.UTF-8");
    wchar_t line[100]; FILE *f = fopen("wide", "w"); for (int i = 0; i < 3000; i++) fwprintf(f, L"l\u00e9 %d\n", i); fputws(L"end\n", f); fputwc(L'x', f); fclose(f);
    f = fopen("wide", "r"); while (fgetws(line, 100, f)); fclose(f); f = fopen("wide", "r"); while (fgetwc(f) != WEOF); rewind(f); fwscanf(f, L"%50ls", line); fclose(f);
    f = fopen("wide", "a"); fputws(L"left at the exit", f);
}
ssize_t __read(int, void *, size_t), __write(int, const void *, size_t), __pread64(int, void *, size_t, off_t), __pwrite64(int, const void *, size_t, off_t);
int __open(const char *, int, ...), __open64(const char *, int, ...), __close(int), __dup2(int, int);
static void aliases(void) {
    close(made("aliases", 5000));
    int fd = __open("aliases", O_RDWR); __read(fd, block, 10); __write(fd, block, 20); __pread64(fd, block, 30, 100); __pwrite64(fd, block, 40, 200); __close(fd);
    fd = __open64("aliases", O_RDONLY); read(fd, block, 33); __dup2(fd, 40); read(40, block, 5); __close(40); __close(fd); fd = made("aliases2", 60); read(fd, block, 7);
    char path[40]; sprintf(path, "/dev/fd/%d", fd); fd = open(path, O_RDWR); write(fd, block, 6); fsync(fd); fsync(open(".", O_RDONLY | O_DIRECTORY));
}
static void inside(void) { /* the library opens and closes some descriptors by itself */
    DIR *all = fdopendir(open(".", O_RDONLY | O_DIRECTORY)); while (readdir(all)); closedir(all); char name[] = "tempXXXXXX"; int fd = mkstemp(name); write(fd, block, 44); close(fd);
    FILE *f = popen("echo hello", "r"); fgets(block, 50, f); pclose(f); char other[] = "tempXXXXXX"; f = fdopen(mkostemp(other, O_CLOEXEC), "r+"); fputs("text", f); rewind(f); fgetc(f); fclose(f);
    fd = made("daemon", 100); dup2(fd, 1); write(1, "x", 1); if (!fork()) { daemon(1, 0); write(1, "nowhere", 7); read(0, block, 10); _exit(0); } wait(0);
    f = fopen("words", "w"); for (int i = 0; i < 3000; i++) putw(i, f); fclose(f); f = fopen("words", "r"); for (int i = 0; i < 3001; i++) getw(f); fclose(f); f = fopen("words", "rm"); fgetc(f); fread(block, 1, 9000, f); fclose(f);
    fd = open("append", O_RDWR | O_CREAT, 0600); struct iovec v = {block, 70}; pwrite(fd, block, 10, 90); pwritev2(fd, &v, 1, 0, RWF_APPEND); syscall(SYS_pwritev2, fd, &v, 1L, 5L, 0L, (long)RWF_APPEND);
    f = fopen("left", "w"); fputs("unwritten", f); fcloseall();
}
static sigjmp_buf out; static void leave(int n) { siglongjmp(out, 1); }
static void jumps(void) {
    int fd = made("jumps", 2000), p[2]; pipe(p); signal(SIGALRM, leave);
    if (!sigsetjmp(out, 1)) { ualarm(20000, 0); syscall(SYS_read, p[0], block, 10); } syscall(SYS_read, fd, block, 7); read(fd, block, 8);
    if (!sigsetjmp(out, 1)) { ualarm(20000, 0); read(p[0], block, 10); } syscall(SYS_read, fd, block, 9); read(fd, block, 11); syscall(SYS_pread64, fd, block, 12, 3L);
}
int main(int n, char **a) {
    char *all = n > 1 ? a[1] : "dafpsbvkiun";
    for (; *all; all++) switch (*all) {
    case 'd': dups(); break; case 'a': append(); break; case 'f': forks(); break; case 'p': spawns(); break; case 's': streams(); break;
    case 'b': buffers(); break; case 'v': vectors(); break; case 'k': kernel(); break; case 'i': aio(); break; case 'u': unnamed(); break;
    case 'n': numbers(); break; case 'w': wide(); break; case 'e': seeks(); break;
    case 'l': aliases(); break; case 'o': inside(); break; case 'j': jumps(); break; }
    return 0;
}
