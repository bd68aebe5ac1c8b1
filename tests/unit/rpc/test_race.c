// A race on purpose: two threads and no lock. ctest expects the report.
#include <pthread.h>
#include <stdio.h>

static int shared;

static void *count(void *arg) {
    (void)arg;
    for (int i = 0; i < 1000; i++) {
        shared++;
    }
    return NULL;
}

int main(void) {
    pthread_t threads[2];
    for (int i = 0; i < 2; i++) {
        if (pthread_create(&threads[i], NULL, count, NULL) != 0) {
            return 1;
        }
    }
    for (int i = 0; i < 2; i++) {
        pthread_join(threads[i], NULL);
    }
    printf("no race was reported: %d\n", shared);
    return 0;
}
