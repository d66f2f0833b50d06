/* One range GET on a connection: send the request, receive the answer into the caller's buffer.

   Python calls it once for each request and gives the interpreter lock away once, where its own path does so
   four times. It knows one answer only: status 206 with exactly the range and the length that were asked for.
   Whatever else arrives or fails it hands back, with what it has done so far; the path in Python goes on from
   there and is the judge of it. No call is repeated here after it has waited, so that Ctrl-C and time-outs are
   noticed as soon as they are there. */

#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <time.h>

#define EXPORTED __attribute__((visibility("default")))

enum { WHOLE, STALE, HANDED_BACK };

struct progress {
    int64_t sent;     /* bytes of the request */
    int64_t first;    /* when the first byte came, ns of the monotonic clock */
    int64_t heard;    /* when the wait for the next byte began */
    int64_t in_room;  /* bytes received in the room: the head, and what came with it */
    int64_t in_body;  /* bytes received in the body beside those that came with the head */
    int64_t error;    /* errno of a receive that failed */
};

static int64_t now(void)
{
    struct timespec at;

    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec * INT64_C(1000000000) + at.tv_nsec;
}

/* The end of the head in `room`, or NULL. */
static const char *head_end(const char *room, int64_t filled)
{
    for (int64_t at = 0; at + 4 <= filled; at++)
        if (room[at] == '\r' && memcmp(room + at, "\r\n\r\n", 4) == 0)
            return room + at + 4;
    return NULL;
}

static int is(const char *from, const char *to, const char *text)
{
    size_t length = strlen(text);

    return (size_t)(to - from) == length && strncasecmp(from, text, length) == 0;
}

/* The number of at most 18 digits at `*at`, which moves behind it; -1 if there is none. */
static int64_t number(const char **at, const char *end)
{
    const char *from = *at;
    int64_t value = 0;

    while (*at < end && **at >= '0' && **at <= '9' && *at - from < 18)
        value = value * 10 + (*(*at)++ - '0');
    return *at == from ? -1 : value;
}

static int is_range(const char *at, const char *end, int64_t offset, int64_t wanted)
{
    if (end - at < 6 || !is(at, at + 6, "bytes "))
        return 0;
    at += 6;
    if (number(&at, end) != offset || at == end || *at++ != '-')
        return 0;
    if (number(&at, end) != offset + wanted - 1 || at == end || *at++ != '/')
        return 0;
    return number(&at, end) >= offset + wanted && at == end;
}

/* Whether the head is that of exactly the wanted range, with a body of its length. */
static int is_expected(const char *at, const char *end, int64_t offset, int64_t wanted)
{
    static const char STATUS[] = "HTTP/1.1 206 ";
    int lengths = 0, ranges = 0;

    if (end - at < (int64_t)sizeof STATUS || memcmp(at, STATUS, sizeof STATUS - 1) != 0)
        return 0;
    at = (const char *)memchr(at, '\r', end - at);
    if (at[1] != '\n')
        return 0;
    at += 2;
    while (at < end - 2) {
        const char *colon = at, *value, *stop;

        while (*colon != ':') {
            if (*colon <= ' ' || *colon > '~') /* no name of a header */
                return 0;
            colon++;
        }
        for (stop = colon; !(stop[0] == '\r' && stop[1] == '\n'); stop++)
            ;
        value = colon + 1;
        const char *next = stop + 2;
        while (value < stop && *value == ' ')
            value++;
        while (stop > value && stop[-1] == ' ')
            stop--;
        if (is(at, colon, "content-length")) {
            if (number(&value, stop) != wanted || value != stop)
                return 0;
            lengths++;
        } else if (is(at, colon, "content-range")) {
            if (!is_range(value, stop, offset, wanted))
                return 0;
            ranges++;
        } else if (is(at, colon, "transfer-encoding")) {
            return 0;
        } else if (is(at, colon, "connection") && !is(value, stop, "keep-alive")) {
            return 0;
        }
        at = next;
    }
    return lengths == 1 && ranges == 1;
}

/* With `look`, the connection must be silent before the request: else nothing is sent, and it is STALE. */
EXPORTED int64_t tracekit_exchange(int fd, int look, const char *head, int64_t head_bytes, char *room,
                                   int64_t room_bytes, char *body, int64_t wanted, int64_t offset,
                                   struct progress *done)
{
    struct pollfd silent = {.fd = fd, .events = POLLIN};
    const char *end;
    int64_t came;
    ssize_t moved;

    memset(done, 0, sizeof *done);
    if (look && poll(&silent, 1, 0) != 0)
        return STALE;
    moved = send(fd, head, head_bytes, MSG_NOSIGNAL);
    done->sent = moved > 0 ? moved : 0;
    if (done->sent < head_bytes)
        return HANDED_BACK;
    done->heard = now();
    moved = recv(fd, room, room_bytes, 0);
    if (moved <= 0) {
        done->error = moved < 0 ? errno : 0;
        return HANDED_BACK;
    }
    done->first = done->heard = now();
    done->in_room = moved;
    end = head_end(room, moved);
    if (end == NULL)
        return HANDED_BACK;
    came = room + moved - end;
    if (came > wanted || !is_expected(room, end, offset, wanted))
        return HANDED_BACK;
    memcpy(body, end, came);
    if (came < wanted) {
        moved = recv(fd, body + came, wanted - came, MSG_WAITALL);
        if (moved < 0)
            done->error = errno;
        else
            done->in_body = moved;
        if (moved < wanted - came) {
            done->heard = moved > 0 ? now() : done->heard;
            return HANDED_BACK;
        }
    }
    return WHOLE;
}
