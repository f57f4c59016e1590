/* What one would write in C: for each message, one sendto() to each address, or one sendmmsg() to all.
 *
 *     sender sendto|sendmmsg SIZE PORT ADDRESS...
 *
 * Commands, a line each, answered by a line of JSON: "burst N" sends N messages and tells the wall and CPU time,
 * "each N" sends N messages and tells the time of each; all in nanoseconds. The end of standard input ends it.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

static struct sockaddr_in *addresses;
static struct mmsghdr *copies; /* for sendmmsg; else NULL */
static int address_count, fd;
static size_t size;
static char payload[65507];
static uint64_t number, failed;

static int64_t now(clockid_t clock)
{
    struct timespec time;
    clock_gettime(clock, &time);
    return time.tv_sec * INT64_C(1000000000) + time.tv_nsec;
}

static void send_one(void)
{
    number++;
    memcpy(payload, &number, sizeof number);
    if (copies) {
        for (int sent = 0; sent < address_count;) {
            int count = sendmmsg(fd, copies + sent, address_count - sent, 0);
            failed += count < 1;
            sent += count < 1 ? 1 : count;
        }
        return;
    }
    for (int i = 0; i < address_count; i++)
        failed += sendto(fd, payload, size, 0, (struct sockaddr *)&addresses[i], sizeof addresses[i]) < 0;
}

int main(int argc, char **argv)
{
    static struct iovec whole = {.iov_base = payload};
    if (argc < 5) {
        fprintf(stderr, "usage: sender sendto|sendmmsg SIZE PORT ADDRESS...\n");
        return 2;
    }
    size = strtoul(argv[2], NULL, 10);
    if (size < sizeof number || size > sizeof payload)
        return 2;
    whole.iov_len = size;
    address_count = argc - 4;
    addresses = calloc(address_count, sizeof *addresses);
    if (!strcmp(argv[1], "sendmmsg"))
        copies = calloc(address_count, sizeof *copies);
    for (int i = 0; i < address_count; i++) {
        addresses[i] = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(atoi(argv[3]))};
        if (!inet_aton(argv[i + 4], &addresses[i].sin_addr))
            return 2;
        if (copies)
            copies[i].msg_hdr = (struct msghdr){
                .msg_name = &addresses[i], .msg_namelen = sizeof addresses[i], .msg_iov = &whole, .msg_iovlen = 1};
    }
    fd = socket(AF_INET, SOCK_DGRAM, 0);
    memset(payload, 'x', sizeof payload);
    printf("\"ready\"\n");
    fflush(stdout);
    char line[64];
    while (fgets(line, sizeof line, stdin)) {
        char command[8];
        long count;
        if (sscanf(line, "%7s %ld", command, &count) != 2)
            return 2;
        failed = 0;
        if (!strcmp(command, "burst")) {
            int64_t wall = now(CLOCK_MONOTONIC), cpu = now(CLOCK_PROCESS_CPUTIME_ID);
            for (long i = 0; i < count; i++)
                send_one();
            cpu = now(CLOCK_PROCESS_CPUTIME_ID) - cpu;
            wall = now(CLOCK_MONOTONIC) - wall;
            printf("{\"wall\": %" PRId64 ", \"cpu\": %" PRId64 ", \"failed\": %" PRIu64 "}\n", wall, cpu, failed);
        } else {
            int64_t *times = calloc(count, sizeof *times);
            for (long i = 0; i < count; i++) {
                int64_t started = now(CLOCK_MONOTONIC);
                send_one();
                times[i] = now(CLOCK_MONOTONIC) - started;
            }
            printf("[");
            for (long i = 0; i < count; i++)
                printf("%s%" PRId64, i ? ", " : "", times[i]);
            printf("]\n");
            free(times);
        }
        fflush(stdout);
    }
    return 0;
}
