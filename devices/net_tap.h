/* SPDX-License-Identifier: MIT */
/*
 * net_tap.h - frames over a tap interface of the host's, which does checksums and segmentation
 * for the guest, and for which vhost-net can move them.
 *
 * The interface has been made before, by somebody who may: it is the administrator's affair
 * what it is a port of, and it has to be up. Several pairs: it was made with multi_queue.
 *
 * Threads: as net_backend.h.
 */
#ifndef DEVICES_NET_TAP_H
#define DEVICES_NET_TAP_H

#include <net/if.h>

#include "devices/net_backend.h"

struct net_tap {
	struct net_backend backend; /* fds owned */
	char interface[IFNAMSIZ];
	char name[IFNAMSIZ + 4]; /* "tap NAME" */
	unsigned int nr_attached;
};

/*
 * Opens interface `interface` with `nr_pairs` queues. who: for messages, "net0". -ENODEV: there is
 * none, -EINVAL: it is no tap interface, or has not as many queues: the user's affair. Others from
 * the kernel. Logged. On failure nothing is left behind.
 */
must_check int net_tap_open(struct net_tap *tap, const char *who, const char *interface,
			    unsigned int nr_pairs);
/*
 * Takes over *fd, which somebody has opened and attached to an interface (IFF_TAP, IFF_NO_PI,
 * IFF_VNET_HDR), and sets it to -1. -EINVAL: it is no such thing, and stays the caller's.
 */
must_check int net_tap_adopt(struct net_tap *tap, const char *who, int *fd);
/* Accepts a zeroed object. */
void net_tap_finish(struct net_tap *tap);

#endif /* DEVICES_NET_TAP_H */
