// Tells a service manager about our state (sd_notify's datagrams). Nothing happens without one.
#ifndef NODELINK_SERVER_NOTIFY_H
#define NODELINK_SERVER_NOTIFY_H

// "READY=1", "STOPPING=1", "RELOADING=1", "STATUS=..."; any thread.
void nl_notify(const char *state);

#endif
