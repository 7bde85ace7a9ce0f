/* SPDX-License-Identifier: MIT */
/*
 * vhost_net.h - one pair of a network card's queues, worked on by the kernel: no frame passes
 * through here, no kick, and no interrupt.
 *
 * The kernel reads and writes the rings and the guest's RAM by itself, from a thread of its own,
 * between start and stop and at no other time. It sees the RAM that the memory map has, as that
 * changes.
 *
 * Threads: start, stop and wire under the card's lock. The map is listened to; takes
 * memory_map.change_lock at init and finish only.
 */
#ifndef DEVICES_VHOST_NET_H
#define DEVICES_VHOST_NET_H

#include <stdbool.h>
#include <stdint.h>

#include "base/util.h"

#include "devices/virtq.h"
#include "memory/map.h"

#define VHOST_NET_QUEUES 2u   /* receive, transmit */
#define VHOST_NET_REGIONS 64u /* what every kernel takes */

struct vhost_memory;

struct vhost_net {
	int fd;                          /* owned; -1: not in use */
	struct memory_map *map;          /* borrowed, outlives this */
	struct memory_listener listener; /* of map */
	struct vhost_memory *memory;     /* owned; map->change_lock */
	bool running;
};

/* What it is started with; all borrowed until the stop. */
struct vhost_net_wiring {
	uint64_t features;                     /* the driver's */
	struct virtq *rings[VHOST_NET_QUEUES]; /* not touched by others meanwhile */
	int kicks[VHOST_NET_QUEUES];           /* eventfds: the driver's notifications */
	int calls[VHOST_NET_QUEUES];           /* eventfds: interrupts for it */
	int error_fd;                          /* eventfd: a queue is malformed */
	int tap_fd;
};

/*
 * Opens /dev/vhost-net. -ENOENT, -ENODEV, -EACCES: the host has none for us. -EOPNOTSUPP: it
 * knows less than the card promises. Not logged, but for memory that it refuses. On failure nothing is left behind.
 */
must_check int vhost_net_init(struct vhost_net *vhost, struct memory_map *map);
/* Stops. Accepts a zeroed object and one with an fd of -1. */
void vhost_net_finish(struct vhost_net *vhost);

/*
 * -EFAULT: a ring is not within RAM. -EINVAL, and others of the kernel's. On failure it is
 * stopped as by vhost_net_stop().
 */
must_check int vhost_net_start(struct vhost_net *vhost, const struct vhost_net_wiring *wiring);
/* Nothing is read or written once this returns; `rings` go on where the kernel was. */
void vhost_net_stop(struct vhost_net *vhost, struct virtq *const rings[VHOST_NET_QUEUES]);
/* Another eventfd for a queue's interrupts. */
must_check int vhost_net_set_call(struct vhost_net *vhost, unsigned int queue, int eventfd);

#endif /* DEVICES_VHOST_NET_H */
