// The leader's housekeeping: silent nodes, agents that stay away, tasks that waited too long,
// ended tasks that are old. Does nothing while another node leads.
//
// Loop thread.
#ifndef NODELINK_SERVER_HOUSEKEEPING_H
#define NODELINK_SERVER_HOUSEKEEPING_H

#include "server/server.h"

struct nl_housekeeping *nl_housekeeping_new(struct nl_server *server);  // NULL: no memory
// Does nothing any more; before the cluster closes. NULL is allowed.
void nl_housekeeping_stop(struct nl_housekeeping *h);
// Nothing may be in flight. The handle is gone when the loop has turned. NULL is allowed.
void nl_housekeeping_close(struct nl_housekeeping *h);
void nl_housekeeping_start(struct nl_housekeeping *h);  // the cluster is open
void nl_housekeeping_on_effect(struct nl_housekeeping *h, const struct nl_effect *effect);
void nl_housekeeping_on_restored(struct nl_housekeeping *h);
void nl_housekeeping_on_role(struct nl_housekeeping *h, enum nl_cluster_role role);

#endif
