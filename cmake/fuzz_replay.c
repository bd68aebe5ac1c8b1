// Stands in for libFuzzer where there is none: feeds each file named, or in a folder named, to
// the fuzz target once, so that a corpus is a regression test under any compiler.

#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int replay_file(const char *path, size_t size) {
    FILE *file = fopen(path, "rb");
    if (file == NULL) {
        perror(path);
        return -1;
    }
    // Of exactly the input's size, so that a sanitizer sees a read beyond its end.
    uint8_t *data = malloc(size > 0 ? size : 1);
    int rv = -1;
    if (data == NULL || fread(data, 1, size, file) != size) {
        perror(path);
    } else {
        LLVMFuzzerTestOneInput(data, size);
        rv = 0;
    }
    free(data);
    fclose(file);
    return rv;
}

static int replay(const char *path, unsigned *count);

static int replay_folder(const char *path, unsigned *count) {
    DIR *dir = opendir(path);
    if (dir == NULL) {
        perror(path);
        return -1;
    }
    int rv = 0;
    for (struct dirent *entry = readdir(dir); rv == 0 && entry != NULL; entry = readdir(dir)) {
        if (entry->d_name[0] == '.') {
            continue;
        }
        char child[4096];
        snprintf(child, sizeof child, "%s/%s", path, entry->d_name);
        rv = replay(child, count);
    }
    closedir(dir);
    return rv;
}

static int replay(const char *path, unsigned *count) {
    struct stat st;
    if (stat(path, &st) != 0) {
        perror(path);
        return -1;
    }
    if (S_ISDIR(st.st_mode)) {
        return replay_folder(path, count);
    }
    *count += 1;
    return replay_file(path, (size_t)st.st_size);
}

int main(int argc, char **argv) {
    unsigned count = 0;
    for (int i = 1; i < argc; i++) {
        if (replay(argv[i], &count) != 0) {
            return EXIT_FAILURE;
        }
    }
    printf("%u inputs replayed\n", count);
    return count > 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
