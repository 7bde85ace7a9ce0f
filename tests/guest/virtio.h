/* SPDX-License-Identifier: MIT */
/*
 * virtio.h - a driver's side of modern virtio over PCI (Virtual I/O Device 1.2, 2 and 4.1), as
 * little as tests need, and without a word against what they do wrong.
 *
 * Concepts
 *  - ring: one split queue of RING_SIZE entries. Descriptors are filled in by number, chains
 *    offered by the number of their first; nobody looks after which are free.
 *
 * Threads: one at a time.
 */
#ifndef TESTS_GUEST_VIRTIO_H
#define TESTS_GUEST_VIRTIO_H

#include <linux/virtio_config.h>
#include <linux/virtio_pci.h>

#include "tests/guest/guest.h"

#define VIRTIO_VENDOR 0x1af4u
#define VIRTIO_NO_VECTOR 0xffffu
#define FEATURE(bit) (1ull << (bit))
#define RING_SIZE 16u

#define DESC_NEXT 1u
#define DESC_WRITE 2u
#define DESC_INDIRECT 4u
#define AVAIL_NO_INTERRUPT 1u

struct virtio_device {
	unsigned int devfn;
	unsigned int bar;
	unsigned int window; /* the PCI_CFG capability's offset */
	unsigned int msix;   /* likewise */
	uint64_t base;       /* of the BAR; the others lie in it */
	uint64_t common;
	uint64_t notify;
	uint64_t isr;
	uint64_t config;
	uint64_t msix_table;
	uint32_t notify_multiplier;
	uint32_t seen_caps; /* one bit a VIRTIO_PCI_CAP_... */
};

struct ring_desc {
	volatile uint64_t address;
	volatile uint32_t length;
	volatile uint16_t flags, next;
};

struct ring_avail {
	volatile uint16_t flags, idx, ring[RING_SIZE];
	volatile uint16_t used_event; /* with VIRTIO_F_EVENT_IDX */
};

struct ring_used {
	volatile uint16_t flags, idx;
	struct {
		volatile uint32_t id, length;
	} ring[RING_SIZE];
	volatile uint16_t avail_event; /* likewise */
};

struct ring {
	struct ring_desc desc[RING_SIZE] __attribute__((aligned(4096)));
	struct ring_avail avail __attribute__((aligned(64)));
	struct ring_used used __attribute__((aligned(64)));
	const struct virtio_device *device __attribute__((aligned(64)));
	unsigned int index; /* of the queue */
} __attribute__((aligned(4096)));

/* Looks for the device of this type and switches it on, MSI-X off; fails if there is none. */
void virtio_find(struct virtio_device *d, unsigned int type);
/* Finds its BAR again, after a move. */
void virtio_locate(struct virtio_device *d);

uint8_t virtio_status(const struct virtio_device *d);
void virtio_set_status(const struct virtio_device *d, uint8_t status);
/* Writes 0 and waits until it is. */
void virtio_reset(const struct virtio_device *d);
uint64_t virtio_offered(const struct virtio_device *d);
/* From a reset to FEATURES_OK, which the device may refuse: false. */
bool virtio_negotiate(const struct virtio_device *d, uint64_t features);
void virtio_driver_ok(const struct virtio_device *d);
/* NEEDS_RESET, now or in a good while. */
bool virtio_breaks(const struct virtio_device *d);

/* A register of the common configuration that belongs to this queue. */
uint64_t virtio_queue_register(const struct virtio_device *d, unsigned int index,
			       unsigned int offset);
/* An address register: 64 bits in two halves. */
void virtio_write_address(uint64_t at, uint64_t address);

/* An empty ring, its addresses in the device, with no vector; and then on. */
void ring_prepare(struct ring *ring, const struct virtio_device *d, unsigned int index);
void ring_enable(struct ring *ring);
void ring_describe(struct ring *ring, unsigned int i, uint64_t address, uint32_t length,
		   unsigned int flags, unsigned int next);
void ring_offer(struct ring *ring, unsigned int head);
uint64_t ring_notify_address(const struct ring *ring);
void ring_kick(const struct ring *ring);
/* With VIRTIO_F_EVENT_IDX: kicks if the device wants to hear of what is new since idx was `from`. */
bool ring_kick_if_wanted(const struct ring *ring, uint16_t from);
/* Until all that was offered is used, or a good while has passed. */
bool ring_served(const struct ring *ring);

/* Where vector `entry` goes: to this processor, unmasked. And MSI-X on. */
void msix_program(const struct virtio_device *d, unsigned int entry, unsigned int vector);
void msix_enable(const struct virtio_device *d);
void msix_disable(const struct virtio_device *d);

#endif /* TESTS_GUEST_VIRTIO_H */
