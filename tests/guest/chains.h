/* SPDX-License-Identifier: MIT */
/*
 * chains.h - what can be wrong with the chains of a queue, whatever device it is of.
 *
 * Threads: the first processor.
 */
#ifndef TESTS_GUEST_CHAINS_H
#define TESTS_GUEST_CHAINS_H

#include "tests/guest/virtio.h"

struct chain_victim {
	const struct virtio_device *device;
	struct ring *ring;
	unsigned int direction; /* of its buffers: 0, or DESC_WRITE */
	/* From a reset to DRIVER_OK with these features; the ring is on, and empty. */
	void (*start)(uint64_t features);
	/* It does what it is for. */
	void (*check)(void);
};

/*
 * Each wrong chain in turn: it breaks the device, or comes back with nothing written, as it should;
 * and after a reset the device is as good as new.
 */
void attack_chains(const struct chain_victim *victim);

#endif /* TESTS_GUEST_CHAINS_H */
