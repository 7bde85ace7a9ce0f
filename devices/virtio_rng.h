/* SPDX-License-Identifier: MIT */
/*
 * virtio_rng.h - entropy from the host. Virtual I/O Device 1.2, 5.4.
 *
 * The driver gives buffers, and gets them back full of what getrandom(2) gives: up to
 * VIRTIO_RNG_MAX_BYTES a buffer, which a driver has to be ready for (it looks at how many it got).
 * There is no config space and no feature.
 *
 * Of all virtio devices this is the least: the one to read first, and to copy for a new one.
 *
 * Threads: as virtio_init(). Takes virtio->lock.
 */
#ifndef DEVICES_VIRTIO_RNG_H
#define DEVICES_VIRTIO_RNG_H

#include "devices/virtio.h"

#define VIRTIO_RNG_MAX_BYTES 4096u

struct virtio_rng {
	struct virtio virtio;
	struct virtq_chain chain; /* virtio->lock */
};

/* Errors as virtio_init(). On failure nothing is left behind. */
must_check int virtio_rng_init(struct virtio_rng *rng, struct memory_map *map,
			       struct event_loop *loop);
/* Accepts a zeroed object. */
void virtio_rng_finish(struct virtio_rng *rng);

#endif /* DEVICES_VIRTIO_RNG_H */
