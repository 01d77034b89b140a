/* A lower bound for an archive of many small files in which every blob is a file: THREADS threads read each file, and
   write PARTS percent of its bytes to a new file in one of 4,096 directories, which are chosen as evenly as names do.
   Nothing is named, compressed, encrypted or renamed; the file system is synced once at the end.

       floor THREADS TARGET PARTS < LIST      LIST: one path in each line */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MOST 1000000
static char *paths[MOST];
static int count, next;
static int target, parts;

static int fail(const char *what) {
    perror(what);
    exit(1);
}

static void *work(void *unused) {
    static __thread char data[4 << 20];
    (void)unused;
    for (;;) {
        int number = __sync_fetch_and_add(&next, 1);
        if (number >= count) return NULL;
        int fd = open(paths[number], O_RDONLY | O_CLOEXEC);
        struct stat facts;
        if (fd < 0 || fstat(fd, &facts)) fail(paths[number]);
        ssize_t n = read(fd, data, sizeof data);
        close(fd);
        ssize_t stored = n * parts / 100;
        uint64_t spread = (uint64_t)(number + 1) * 0x9E3779B97F4A7C15u;
        char name[64];
        snprintf(name, sizeof name, "%02x", (unsigned)(spread >> 52) % 4096 / 16);
        mkdirat(target, name, 0700);
        snprintf(name, sizeof name, "%02x/%01x", (unsigned)(spread >> 52) % 4096 / 16, (unsigned)(spread >> 52) % 16);
        mkdirat(target, name, 0700);
        size_t at = strlen(name);
        snprintf(name + at, sizeof name - at, "/%016llx", (unsigned long long)spread);
        fd = openat(target, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        if (fd < 0 || n < 0 || write(fd, data, stored) != stored || close(fd)) fail(name);
    }
}

int main(int argc, char **argv) {
    pthread_t threads[64];
    char line[4096];
    int number = argc > 3 ? atoi(argv[1]) : 0;
    parts = argc > 3 ? atoi(argv[3]) : 0;
    if (number < 1 || number > 64 || parts < 0 || parts > 100) return 2;
    target = open(argv[2], O_RDONLY | O_DIRECTORY);
    if (target < 0) fail(argv[2]);
    while (count < MOST && fgets(line, sizeof line, stdin)) {
        line[strcspn(line, "\n")] = 0;
        paths[count++] = strdup(line);
    }
    for (int i = 0; i < number; i++) pthread_create(&threads[i], NULL, work, NULL);
    for (int i = 0; i < number; i++) pthread_join(threads[i], NULL);
#ifdef __linux__
    if (syncfs(target)) fail("sync");
#else
    sync();
#endif
    return 0;
}
