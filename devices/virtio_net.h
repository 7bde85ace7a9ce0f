/* SPDX-License-Identifier: MIT */
/*
 * virtio_net.h - a network card. Virtual I/O Device 1.2, 5.1.
 *
 * Frames go between the driver's queues and a backend (net_backend.h): moved by the event loop,
 * or, with a tap, by the host's kernel (vhost_net.h), which then works on the queues alone.
 *
 * Concepts
 *  - pair: a receive and a transmit queue. The driver uses one until it has asked, through the
 *    control queue, for more; the backend's fds of those not in use are silent.
 *  - hand: receive buffers that were taken from the queue and wait for a frame, enough for the
 *    largest, so that the backend writes straight into them. Are there too few the frame comes
 *    into a buffer of ours, and waits there until it fits: nothing more is read meanwhile.
 *  - what does not fit a driver that gives one buffer a frame, what nobody takes, and whatever is
 *    sent while the link is down is dropped, and counted. So is a frame that is too short or
 *    too long; buffers outside of RAM, or queues that break the rules, break the device.
 *
 * A tap interface that is deleted takes the link down, once a frame is waited for or sent: by us. The
 * kernel's vhost does not tell.
 *
 * Threads: as virtio_init(); frames on the event loop, or in the kernel. Takes virtio->lock, and
 * under it memory_map.change_lock (at init and finish only).
 */
#ifndef DEVICES_VIRTIO_NET_H
#define DEVICES_VIRTIO_NET_H

#include "devices/net_backend.h"
#include "devices/vhost_net.h"
#include "devices/virtio.h"

#define VIRTIO_NET_MAC_SIZE 6u

enum virtio_net_vhost {
	VIRTIO_NET_VHOST_AUTO, /* if the backend and the host can */
	VIRTIO_NET_VHOST_ON,
	VIRTIO_NET_VHOST_OFF,
};

struct virtio_net_setup {
	const char *name; /* borrowed; for logs: "net0" */
	uint8_t mac[VIRTIO_NET_MAC_SIZE];
	enum virtio_net_vhost vhost;
};

struct virtio_net_counts {
	uint64_t sent; /* frames; of those that the kernel moved nothing is known */
	uint64_t received;
	uint64_t dropped; /* in both directions */
};

struct virtio_net_pair;

struct virtio_net {
	struct virtio virtio;
	struct net_backend *backend; /* borrowed, outlives this; used under virtio->lock */
	uint8_t mac[VIRTIO_NET_MAC_SIZE];
	unsigned int nr_pairs;
	struct virtio_net_pair *pairs; /* owned; virtio->lock */
	unsigned int nr_active;        /* virtio->lock; pairs the driver uses */
	bool started;               /* virtio->lock; between the driver's start and its end */
	bool link_up;               /* virtio->lock */
	bool gone;                  /* virtio->lock; the backend is, for good: down */
	bool vhost;                 /* the pairs have one */
	struct event_source error;  /* fd owned: vhost found a malformed queue */
	struct virtq_chain control; /* virtio->lock */
	struct virtio_net_counts counts; /* virtio->lock */
};

/*
 * The link is up. Errors as virtio_init(); with VIRTIO_NET_VHOST_ON also those of
 * vhost_net_init(), and -EOPNOTSUPP if the backend is none for it. Logged. On failure nothing is
 * left behind.
 */
must_check int virtio_net_init(struct virtio_net *net, struct memory_map *map,
			       struct event_loop *loop, struct net_backend *backend,
			       const struct virtio_net_setup *setup);
/* As virtio_finish(). Accepts a zeroed object. */
void virtio_net_finish(struct virtio_net *net);

/* Plugs the cable in, or pulls it. -EPIPE: plugged in, but the backend is gone. Any thread. */
must_check int virtio_net_set_link(struct virtio_net *net, bool up);
void virtio_net_get_counts(struct virtio_net *net, struct virtio_net_counts *ret);

#endif /* DEVICES_VIRTIO_NET_H */
