#include "server/topics.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <uthash.h>
#include <utlist.h>

#include "common/base/err.h"

struct nl_topic {
    char *key;
    struct nl_topic_listener *listeners;
    UT_hash_handle hh;
};

struct nl_topics {
    struct nl_topic *table;
};

struct nl_topics *nl_topics_new(void) {
    return calloc(1, sizeof(struct nl_topics));
}

void nl_topics_free(struct nl_topics *topics) {
    assert(topics == NULL || topics->table == NULL);
    free(topics);
}

static struct nl_topic *topic_get(struct nl_topics *topics, const char *key) {
    struct nl_topic *topic = NULL;
    HASH_FIND_STR(topics->table, key, topic);
    if (topic != NULL) {
        return topic;
    }
    topic = calloc(1, sizeof *topic);
    char *copy = strdup(key);
    if (topic == NULL || copy == NULL) {
        free(topic);
        free(copy);
        return NULL;
    }
    topic->key = copy;
    HASH_ADD_KEYPTR(hh, topics->table, topic->key, strlen(topic->key), topic);
    return topic;
}

int nl_topics_listen(struct nl_topics *topics, const char *key,
                     struct nl_topic_listener *listener) {
    struct nl_topic *topic = topic_get(topics, key);
    if (topic == NULL) {
        return NL_ENOMEM;
    }
    listener->topic = topic;
    DL_APPEND(topic->listeners, listener);
    return NL_OK;
}

void nl_topics_leave(struct nl_topics *topics, struct nl_topic_listener *listener) {
    struct nl_topic *topic = listener->topic;
    if (topic == NULL) {
        return;
    }
    DL_DELETE(topic->listeners, listener);
    listener->topic = NULL;
    if (topic->listeners == NULL) {
        HASH_DEL(topics->table, topic);
        free(topic->key);
        free(topic);
    }
}

void nl_topics_fire(struct nl_topics *topics, const char *key) {
    struct nl_topic *topic = NULL;
    struct nl_topic_listener *listener;
    HASH_FIND_STR(topics->table, key, topic);
    if (topic != NULL) {
        DL_FOREACH (topic->listeners, listener) {
            listener->changed(listener);
        }
    }
}

void nl_topics_fire_all(struct nl_topics *topics) {
    struct nl_topic *topic, *tmp;
    struct nl_topic_listener *listener;
    HASH_ITER (hh, topics->table, topic, tmp) {
        DL_FOREACH (topic->listeners, listener) {
            listener->changed(listener);
        }
    }
}
