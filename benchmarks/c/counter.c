/* Counts the datagrams that arrive at many pods, each a network namespace of its own: exactly, and at next to no cost
 * to their sender.
 *
 *     counter PORT GROUP NAMESPACE@ADDRESS...
 *
 * NAMESPACE is a file of /run/netns, or "-" for the present one; GROUP a multicast group to join in each, or "-".
 * Nobody sleeps on the sockets: they are swept once a millisecond. A reader that sleeps has to be woken by whoever
 * delivers, which on one machine is the sender; between machines it is not, and would be charged to the wrong side.
 * Only a byte of each datagram is copied.
 *
 * Commands, a line each, answered by a line of JSON: "read" tells what came since the start, "gro 0" and "gro 1" say
 * whether the sockets take runs of segments as one (UDP_GRO). The end of standard input ends the program.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <netinet/udp.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#ifndef UDP_GRO
#define UDP_GRO 104
#endif
#ifndef SO_MEMINFO
#define SO_MEMINFO 55
#endif
#define MEMINFO_DROPS 8
#define BATCH 64
#define BATCHES_PER_TURN 256
#define RECEIVE_BUFFER (32 << 20)

struct pod {
    int fd;
    uint64_t datagrams, bytes;
    int64_t first, last; /* nanoseconds, when the first and the last datagram were seen */
};

static struct pod *pods;
static int pod_count;
static struct mmsghdr messages[BATCH];
static struct iovec parts[BATCH];
static char bytes[BATCH];
static char controls[BATCH][CMSG_SPACE(sizeof(int))];

static void fail(const char *what)
{
    fprintf(stderr, "counter: %s: %s\n", what, strerror(errno));
    exit(1);
}

static int64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * INT64_C(1000000000) + time.tv_nsec;
}

static int listen_at(const char *namespace, const char *address, int port, const char *group)
{
    int is_here = !strcmp(namespace, "-");
    if (!is_here) {
        int file = open(namespace, O_RDONLY | O_CLOEXEC);
        if (file < 0 || setns(file, CLONE_NEWNET))
            fail(namespace);
        close(file);
    }
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), size = RECEIVE_BUFFER, on = 1;
    if (fd < 0)
        fail("socket");
    /* Beyond net.core.rmem_max where that is allowed: what is measured is the sender. */
    if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size))
        setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
    setsockopt(fd, SOL_UDP, UDP_GRO, &on, sizeof on);
    struct sockaddr_in where = {.sin_family = AF_INET, .sin_port = htons(port)};
    if (is_here && !inet_aton(address, &where.sin_addr))
        fail(address);
    if (bind(fd, (struct sockaddr *)&where, sizeof where))
        fail("bind");
    if (strcmp(group, "-")) {
        struct ip_mreq membership;
        inet_aton(group, &membership.imr_multiaddr);
        inet_aton(address, &membership.imr_interface);
        if (setsockopt(fd, IPPROTO_IP, IP_ADD_MEMBERSHIP, &membership, sizeof membership))
            fail("join");
    }
    return fd;
}

/* Take what waits at one pod, a bounded number of batches; return whether there was something. */
static int take(struct pod *pod)
{
    for (int batch = 0; batch < BATCHES_PER_TURN; batch++) {
        for (int i = 0; i < BATCH; i++)
            messages[i].msg_hdr.msg_controllen = sizeof controls[i];
        int count = recvmmsg(pod->fd, messages, BATCH, MSG_DONTWAIT | MSG_TRUNC, NULL);
        if (count <= 0)
            return batch > 0;
        for (int i = 0; i < count; i++) {
            unsigned length = messages[i].msg_len, segments = 1;
            struct cmsghdr *control = CMSG_FIRSTHDR(&messages[i].msg_hdr);
            if (control && control->cmsg_level == SOL_UDP && control->cmsg_type == UDP_GRO) {
                int segment;
                memcpy(&segment, CMSG_DATA(control), sizeof segment);
                if (segment > 0)
                    segments = (length + segment - 1) / segment;
            }
            pod->datagrams += segments;
            pod->bytes += length;
        }
        pod->last = now();
        if (!pod->first)
            pod->first = pod->last;
        if (count < BATCH)
            return 1;
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

static void report(void)
{
    printf("[");
    for (int i = 0; i < pod_count; i++) {
        uint32_t memory[9] = {0};
        socklen_t length = sizeof memory;
        getsockopt(pods[i].fd, SOL_SOCKET, SO_MEMINFO, memory, &length);
        printf("%s{\"datagrams\": %" PRIu64 ", \"bytes\": %" PRIu64 ", \"dropped\": %u, \"first\": %" PRId64
               ", \"last\": %" PRId64 "}",
               i ? ", " : "", pods[i].datagrams, pods[i].bytes, memory[MEMINFO_DROPS], pods[i].first, pods[i].last);
    }
    printf("]\n");
}

int main(int argc, char **argv)
{
    if (argc < 4) {
        fprintf(stderr, "usage: counter PORT GROUP NAMESPACE@ADDRESS...\n");
        return 2;
    }
    pod_count = argc - 3;
    pods = calloc(pod_count, sizeof *pods);
    for (int i = 0; i < pod_count; i++) {
        char *at = strchr(argv[i + 3], '@');
        if (!at)
            fail(argv[i + 3]);
        *at = 0;
        pods[i].fd = listen_at(argv[i + 3], at + 1, atoi(argv[1]), argv[2]);
    }
    for (int i = 0; i < BATCH; i++) {
        parts[i] = (struct iovec){&bytes[i], 1};
        messages[i].msg_hdr = (struct msghdr){.msg_iov = &parts[i], .msg_iovlen = 1, .msg_control = controls[i]};
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
        if (!strncmp(line, "gro ", 4)) {
            int on = atoi(line + 4);
            for (int i = 0; i < pod_count; i++)
                setsockopt(pods[i].fd, SOL_UDP, UDP_GRO, &on, sizeof on);
            printf("\"done\"\n");
        } else {
            /* Bounded: somebody may still be sending. */
            for (int i = 0; i < 100 && sweep(); i++)
                ;
            report();
        }
        fflush(stdout);
    }
}
