/* What one would write in C: for each message, one sendto() to each address.
 *
 *     sendto SIZE PORT ADDRESS...
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
    for (int i = 0; i < address_count; i++)
        failed += sendto(fd, payload, size, 0, (struct sockaddr *)&addresses[i], sizeof addresses[i]) < 0;
}

int main(int argc, char **argv)
{
    if (argc < 4) {
        fprintf(stderr, "usage: sendto SIZE PORT ADDRESS...\n");
        return 2;
    }
    size = strtoul(argv[1], NULL, 10);
    if (size < sizeof number || size > sizeof payload)
        return 2;
    address_count = argc - 3;
    addresses = calloc(address_count, sizeof *addresses);
    for (int i = 0; i < address_count; i++) {
        addresses[i] = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(atoi(argv[2]))};
        if (!inet_aton(argv[i + 3], &addresses[i].sin_addr))
            return 2;
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
