/* Tells how long datagrams of `source` were on their way to many pods, each a network namespace of its own.
 *
 *     stamps PORT NAMESPACE@ADDRESS...
 *
 * NAMESPACE is a file of /run/netns, or "-" for the present one. The time of arrival is the kernel's, taken when the
 * datagram reaches the pod's interface (SO_TIMESTAMPNS): nobody has to be woken for it.
 *
 * Commands, a line each, answered by a line of JSON: "read" tells for each pod what came since the last "read": how many,
 * how many of them out of order, and their times in nanoseconds at the quantiles 0.5, 0.99 and 1; and the same for all
 * pods together, last; "count" tells how many that are by now. The end of standard input ends the program.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define RECEIVE_BUFFER (32 << 20)
#define PER_TURN 4096
#define SAMPLES_MAX (1 << 20) /* of one pod */

struct pod {
    int fd;
    uint64_t count, misordered, last;
    int64_t *took;
};

static struct pod *pods;
static int pod_count;

static void fail(const char *what)
{
    fprintf(stderr, "stamps: %s: %s\n", what, strerror(errno));
    exit(1);
}

static int listen_at(const char *namespace, const char *address, int port)
{
    struct sockaddr_in where = {.sin_family = AF_INET, .sin_port = htons(port)};
    if (strcmp(namespace, "-")) {
        int file = open(namespace, O_RDONLY | O_CLOEXEC);
        if (file < 0 || setns(file, CLONE_NEWNET))
            fail(namespace);
        close(file);
    } else if (!inet_aton(address, &where.sin_addr))
        fail(address);
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), size = RECEIVE_BUFFER, on = 1;
    if (fd < 0)
        fail("socket");
    if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size))
        setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
    if (setsockopt(fd, SOL_SOCKET, SO_TIMESTAMPNS, &on, sizeof on))
        fail("SO_TIMESTAMPNS");
    if (bind(fd, (struct sockaddr *)&where, sizeof where))
        fail("bind");
    return fd;
}

static int take(struct pod *pod)
{
    for (int turn = 0; turn < PER_TURN; turn++) {
        uint64_t words[2];
        char control[CMSG_SPACE(sizeof(struct timespec))];
        struct iovec part = {words, sizeof words};
        struct msghdr message = {
            .msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
        if (recvmsg(pod->fd, &message, MSG_DONTWAIT) < (ssize_t)sizeof words)
            return turn > 0;
        struct cmsghdr *found = CMSG_FIRSTHDR(&message);
        if (!found || found->cmsg_type != SCM_TIMESTAMPNS || pod->count == SAMPLES_MAX)
            fail("no time, or too many datagrams");
        struct timespec time;
        memcpy(&time, CMSG_DATA(found), sizeof time);
        pod->took[pod->count++] = time.tv_sec * INT64_C(1000000000) + time.tv_nsec - (int64_t)words[1];
        pod->misordered += words[0] <= pod->last;
        pod->last = words[0];
    }
    return 1;
}

static int sweep(void)
{
    int some = 0;
    for (int i = 0; i < pod_count; i++)
        some |= take(&pods[i]);
    return some;
}

static int compare(const void *one, const void *other)
{
    int64_t a = *(const int64_t *)one, b = *(const int64_t *)other;
    return (a > b) - (a < b);
}

static void print(int64_t *took, uint64_t count, uint64_t misordered)
{
    int64_t none = 0;
    qsort(took, count, sizeof *took, compare);
    if (!count)
        took = &none;
    uint64_t last = count ? count - 1 : 0;
    printf("{\"datagrams\": %" PRIu64 ", \"misordered\": %" PRIu64 ", \"p50\": %" PRId64 ", \"p99\": %" PRId64
           ", \"most\": %" PRId64 "}",
           count, misordered, took[last / 2], took[last - last / 100], took[last]);
}

static void report(void)
{
    uint64_t count = 0, misordered = 0, position = 0;
    for (int i = 0; i < pod_count; i++) {
        count += pods[i].count;
        misordered += pods[i].misordered;
    }
    int64_t *all = malloc((count + 1) * sizeof *all);
    printf("[");
    for (int i = 0; i < pod_count; i++) {
        memcpy(all + position, pods[i].took, pods[i].count * sizeof *all);
        position += pods[i].count;
        print(pods[i].took, pods[i].count, pods[i].misordered);
        printf(", ");
        pods[i].count = pods[i].misordered = 0;
    }
    print(all, count, misordered);
    printf("]\n");
    free(all);
}

int main(int argc, char **argv)
{
    if (argc < 3) {
        fprintf(stderr, "usage: stamps PORT NAMESPACE@ADDRESS...\n");
        return 2;
    }
    pod_count = argc - 2;
    pods = calloc(pod_count, sizeof *pods);
    for (int i = 0; i < pod_count; i++) {
        char *at = strchr(argv[i + 2], '@');
        if (!at)
            fail(argv[i + 2]);
        *at = 0;
        pods[i].fd = listen_at(argv[i + 2], at + 1, atoi(argv[1]));
        pods[i].took = malloc(SAMPLES_MAX * sizeof *pods[i].took);
    }
    setvbuf(stdout, NULL, _IOFBF, 1 << 16);
    setvbuf(stdin, NULL, _IONBF, 0);
    printf("\"ready\"\n");
    fflush(stdout);
    for (;;) {
        struct pollfd commands = {.fd = 0, .events = POLLIN};
        int waiting = poll(&commands, 1, 1);
        sweep();
        if (waiting <= 0)
            continue;
        char line[64];
        if (!fgets(line, sizeof line, stdin))
            return 0;
        for (int i = 0; i < 100 && sweep(); i++)
            ;
        if (line[0] == 'c') {
            uint64_t count = 0;
            for (int i = 0; i < pod_count; i++)
                count += pods[i].count;
            printf("%" PRIu64 "\n", count);
        } else
            report();
        fflush(stdout);
    }
}
