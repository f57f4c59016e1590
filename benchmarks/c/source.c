/* Sends datagrams to one address, as regularly as this machine lets it.
 *
 *     source SIZE ADDRESS
 *
 * "pace COUNT RATE TICK PORT" on standard input, a line, sends COUNT datagrams: TICK of them at once, each TICK/RATE
 * seconds; RATE 0 is as fast as it goes. It is answered by a line of JSON: the wall time, how many the kernel did not
 * take, and how late they were (the 99th of 100, and the latest), in nanoseconds. The end of standard input ends it.
 * A datagram begins with its number and with the time at which it was sent (CLOCK_REALTIME, ns), eight bytes each.
 *
 * Between ticks it sleeps, and asks for a priority (SCHED_FIFO) at which those that count on the same core do not hold
 * it up: what is meant to be even is not to come in bursts.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <inttypes.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>

#define SECOND INT64_C(1000000000)

static int64_t now(clockid_t clock)
{
    struct timespec time;
    clock_gettime(clock, &time);
    return time.tv_sec * SECOND + time.tv_nsec;
}

static int compare(const void *one, const void *other)
{
    int64_t a = *(const int64_t *)one, b = *(const int64_t *)other;
    return (a > b) - (a < b);
}

int main(int argc, char **argv)
{
    static char payload[65507];
    if (argc != 3)
        return 2;
    size_t size = strtoul(argv[1], NULL, 10);
    struct sockaddr_in to = {.sin_family = AF_INET};
    if (size < 16 || size > sizeof payload || !inet_aton(argv[2], &to.sin_addr))
        return 2;
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    struct sched_param priority = {.sched_priority = 1};
    prctl(PR_SET_TIMERSLACK, 1);
    memset(payload, 'x', sizeof payload);
    printf("\"ready\"\n");
    fflush(stdout);
    char line[128];
    uint64_t number = 0;
    while (fgets(line, sizeof line, stdin)) {
        long count, rate, tick;
        int port;
        if (sscanf(line, "pace %ld %ld %ld %d", &count, &rate, &tick, &port) != 4 || count < 1 || tick < 1)
            return 2;
        to.sin_port = htons(port);
        long ticks = (count + tick - 1) / tick, failed = 0;
        int64_t *late = calloc(ticks, sizeof *late);
        /* Not where it never sleeps: nobody else would have the core. */
        sched_setscheduler(0, rate ? SCHED_FIFO : SCHED_OTHER, rate ? &priority : &(struct sched_param){0});
        int64_t started = now(CLOCK_MONOTONIC);
        for (long i = 0; i < ticks; i++) {
            if (rate) {
                int64_t due = started + (int64_t)((double)i * tick * SECOND / rate);
                struct timespec until = {.tv_sec = due / SECOND, .tv_nsec = due % SECOND};
                while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL))
                    ;
                late[i] = now(CLOCK_MONOTONIC) - due;
            }
            for (long j = i * tick; j < count && j < (i + 1) * tick; j++) {
                int64_t sent = now(CLOCK_REALTIME);
                number++;
                memcpy(payload, &number, sizeof number);
                memcpy(payload + 8, &sent, sizeof sent);
                failed += sendto(fd, payload, size, 0, (struct sockaddr *)&to, sizeof to) < 0;
            }
        }
        int64_t wall = now(CLOCK_MONOTONIC) - started;
        qsort(late, ticks, sizeof *late, compare);
        printf("{\"wall\": %" PRId64 ", \"failed\": %ld, \"late\": %" PRId64 ", \"latest\": %" PRId64 "}\n", wall, failed,
               late[ticks - 1 - ticks / 100], late[ticks - 1]);
        fflush(stdout);
        free(late);
    }
    return 0;
}
