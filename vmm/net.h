/* SPDX-License-Identifier: MIT */
/*
 * net.h - one network card of a guest's, with the way out that the user has named for it.
 *
 * Threads: the event loop's, but for what virtio_net.h says.
 */
#ifndef VMM_NET_H
#define VMM_NET_H

#include "devices/net_stream.h"
#include "devices/net_tap.h"
#include "devices/virtio_net.h"
#include "vmm/passt.h"

enum net_kind {
	NET_TAP,           /* a tap interface, by name */
	NET_FD,            /* one that was opened, and its fd handed in */
	NET_PASST,         /* a passt that we start */
	NET_PASST_RUNNING, /* the socket of one that runs */
};

/* Plain data, parsed once; every pointer is borrowed and outlives the card. */
struct net_config {
	enum net_kind kind;
	const char *name; /* of the interface, or path of the socket */
	int fd;
	bool has_mac; /* false: one is made up, the same each time */
	uint8_t mac[VIRTIO_NET_MAC_SIZE];
	unsigned int queues; /* pairs; 0: 1 */
	enum virtio_net_vhost vhost;
};

struct net {
	char name[8]; /* "net0" */
	struct passt passt;
	struct net_tap tap;
	struct net_stream stream;
	struct virtio_net card;
};

/*
 * Makes network card number `index`. -EINVAL, -ENODEV: what the user has named is no good.
 * Others: something failed. Logged. On failure nothing is left behind.
 */
must_check int net_open(struct net *net, struct memory_map *map, struct event_loop *loop,
			unsigned int index, const struct net_config *config);
/* Accepts a zeroed object. The card is on no bus any more. */
void net_close(struct net *net);

#endif /* VMM_NET_H */
