#include "agent/link/validate.h"

#include <stddef.h>
#include <string.h>

enum {
    WORD_LEN_MAX = 128 * 1024 - 1,  // Linux refuses longer ones in exec (MAX_ARG_STRLEN)
    WORDS_LEN_MAX = 768 * 1024,     // all of argv and env; the supervisor's frames hold 1 MiB
    WORDS_MAX = 8192,
    DIR_LEN_MAX = 4095,
};

static const char *check_words(char *const *words, size_t n, size_t *total) {
    if (n > WORDS_MAX) {
        return "too many arguments or environment variables";
    }
    for (size_t i = 0; i < n; i++) {
        size_t len = strlen(words[i]);
        if (len > WORD_LEN_MAX) {
            return "an argument or environment variable is longer than 128 KiB";
        }
        *total += len + 1;
    }
    return *total > WORDS_LEN_MAX ? "arguments and environment are larger than 768 KiB" : NULL;
}

static const char *check_env(char *const *env, size_t n) {
    for (size_t i = 0; i < n; i++) {
        const char *eq = strchr(env[i], '=');
        if (eq == NULL || eq == env[i]) {
            return "an environment variable is not KEY=VALUE";
        }
    }
    return NULL;
}

const char *nl_link_validate_shell(const Nodelink__V1__ShellExecute *shell,
                                   const Nodelink__V1__ShellOptions *options) {
    size_t n_argv = options == NULL ? 0 : options->n_argv;
    if (n_argv == 0 && shell->cmd[0] == '\0') {
        return "no command";
    }
    if (n_argv > 0 && options->argv[0][0] == '\0') {
        return "the program's name is empty";
    }
    if (strlen(shell->cmd) > WORD_LEN_MAX) {
        return "the command is longer than 128 KiB";
    }
    if (strlen(shell->working_dir) > DIR_LEN_MAX) {
        return "the working directory's path is too long";
    }
    size_t total = 0;
    const char *wrong = check_words(shell->env, shell->n_env, &total);
    if (wrong == NULL && n_argv > 0) {
        wrong = check_words(options->argv, n_argv, &total);
    }
    return wrong != NULL ? wrong : check_env(shell->env, shell->n_env);
}
