// Who wants to hear that a task or an agent changed, by its id. Listeners are embedded; their
// callback runs inside of an effect: it may only note the change and put the rest off.
//
// Loop thread.
#ifndef NODELINK_SERVER_TOPICS_H
#define NODELINK_SERVER_TOPICS_H

struct nl_topics;

struct nl_topic_listener {
    void (*changed)(struct nl_topic_listener *listener);
    struct nl_topic *topic;  // NULL: not listening
    struct nl_topic_listener *prev, *next;
};

struct nl_topics *nl_topics_new(void);          // NULL: no memory
void nl_topics_free(struct nl_topics *topics);  // nobody may listen any more; NULL is allowed
// NL_ENOMEM. The key is copied.
int nl_topics_listen(struct nl_topics *topics, const char *key, struct nl_topic_listener *listener);
void nl_topics_leave(struct nl_topics *topics, struct nl_topic_listener *listener);
void nl_topics_fire(struct nl_topics *topics, const char *key);
void nl_topics_fire_all(struct nl_topics *topics);

#endif
