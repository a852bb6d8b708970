/* A way to a Unix socket that takes time: delay_proxy LISTEN CONNECT MICROSECONDS. Each direction takes half of it. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

static long nanoseconds;

struct way { int from, to; };

static void *carry(void *given) {
    struct way way = *(struct way *)given;
    char buffer[65536];
    ssize_t got;
    free(given);
    while ((got = read(way.from, buffer, sizeof buffer)) > 0) {
        struct timespec pause = {0, nanoseconds};
        clock_nanosleep(CLOCK_MONOTONIC, 0, &pause, NULL);
        for (ssize_t done = 0, more; done < got; done += more)
            if ((more = write(way.to, buffer + done, got - done)) <= 0) goto end;
    }
end:
    shutdown(way.to, SHUT_RDWR);
    shutdown(way.from, SHUT_RDWR);
    return NULL;
}

static int opened(const char *path, int listens) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int found = socket(AF_UNIX, SOCK_STREAM, 0);
    strncpy(address.sun_path, path, sizeof address.sun_path - 1);
    int failed = listens ? bind(found, (struct sockaddr *)&address, sizeof address) || listen(found, 64)
                         : connect(found, (struct sockaddr *)&address, sizeof address);
    if (failed) { perror(path); close(found); return -1; }
    return found;
}

static void start(int from, int to) {
    struct way *way = malloc(sizeof *way);
    pthread_t thread;
    way->from = from;
    way->to = to;
    pthread_create(&thread, NULL, carry, way);
    pthread_detach(thread);
}

int main(int count, char **given) {
    if (count != 4) return 2;
    nanoseconds = atol(given[3]) * 1000 / 2;
    int listening = opened(given[1], 1);
    if (listening < 0) return 1;
    puts("ready");
    fflush(stdout);
    for (;;) {
        int from = accept(listening, NULL, NULL), to = from < 0 ? -1 : opened(given[2], 0);
        if (from < 0) return 1;
        if (to < 0) { close(from); continue; }
        start(from, to);
        start(to, from);
    }
}
