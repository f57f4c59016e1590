/* A relay as one would write it in C: for each datagram one recvfrom(), then one sendto() to each pod.
 *
 *     relay LISTEN-PORT PORT ADDRESS...
 *
 * It asks for the receive buffer that fanout's asks for. "read" on standard input, a line, is answered by a line of
 * JSON: how many datagrams came, and how many copies were not taken. The end of standard input ends the program.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define RECEIVE_BUFFER (4 << 20)

static volatile uint64_t received, failed;

static void *answer(void *unused)
{
    char line[64];
    (void)unused;
    while (fgets(line, sizeof line, stdin)) {
        printf("{\"datagrams\": %" PRIu64 ", \"failed\": %" PRIu64 "}\n", received, failed);
        fflush(stdout);
    }
    exit(0);
}

int main(int argc, char **argv)
{
    static char payload[65536];
    if (argc < 4) {
        fprintf(stderr, "usage: relay LISTEN-PORT PORT ADDRESS...\n");
        return 2;
    }
    int pods = argc - 3, in = socket(AF_INET, SOCK_DGRAM, 0), out = socket(AF_INET, SOCK_DGRAM, 0);
    int size = RECEIVE_BUFFER;
    struct sockaddr_in *addresses = calloc(pods, sizeof *addresses);
    for (int i = 0; i < pods; i++) {
        addresses[i] = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(atoi(argv[2]))};
        if (!inet_aton(argv[i + 3], &addresses[i].sin_addr))
            return 2;
    }
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[1]))};
    setsockopt(in, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
    if (bind(in, (struct sockaddr *)&here, sizeof here)) {
        perror("relay: bind");
        return 1;
    }
    pthread_t thread;
    printf("\"ready\"\n");
    fflush(stdout);
    if (pthread_create(&thread, NULL, answer, NULL))
        return 1;
    for (;;) {
        ssize_t length = recvfrom(in, payload, sizeof payload, 0, NULL, NULL);
        if (length < 0)
            continue;
        received++;
        for (int i = 0; i < pods; i++)
            failed += sendto(out, payload, length, 0, (struct sockaddr *)&addresses[i], sizeof addresses[i]) < 0;
    }
}
