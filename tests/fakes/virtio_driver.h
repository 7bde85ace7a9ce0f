/* SPDX-License-Identifier: MIT */
/*
 * virtio_driver.h - a driver's side of a virtio device in the process of a unit test: guest RAM,
 * queues in it, chains and what comes back. Virtual I/O Device 1.2, 2.7.
 *
 * RAM is DRIVER_RAM bytes from address 0; its first MiB has the queues, the rest is the test's.
 * It is the transport, too: interrupts are counted. Descriptors are taken in a circle, and nobody
 * looks after which are free. What must not fail ends the test.
 *
 * Threads: one at a time.
 */
#ifndef TESTS_FAKES_VIRTIO_DRIVER_H
#define TESTS_FAKES_VIRTIO_DRIVER_H

#include "devices/virtio.h"
#include "memory/map.h"
#include "memory/ram.h"

#define DRIVER_RAM (16ull << 20)
#define DRIVER_POOL (1ull << 20) /* from here on RAM is the test's */

struct driver_buffer {
	gpa_t gpa;
	uint32_t size;
	bool writable; /* by the device */
};

struct driver_queue {
	gpa_t desc, avail, used;
	uint16_t size;
	uint16_t next_desc, next_avail, next_used;
};

struct virtio_driver {
	struct ram ram;
	struct memory_region region;
	struct memory_map map;
	struct virtio *virtio; /* borrowed; NULL before driver_take() */
	uint64_t features;     /* that were negotiated */
	struct driver_queue queues[VIRTIO_MAX_QUEUES];
	unsigned int nr_queue_interrupts[VIRTIO_MAX_QUEUES];
	unsigned int nr_config_interrupts;
};

/* RAM, and a map of it for the device to be made with. */
void driver_init(struct virtio_driver *driver);
/* The device is gone already. */
void driver_finish(struct virtio_driver *driver);

/* Is the device's transport from now on. */
void driver_take(struct virtio_driver *driver, struct virtio *virtio);
/* The device status, written and read. */
void driver_set_status(struct virtio_driver *driver, uint8_t status);
uint8_t driver_status(struct virtio_driver *driver);
/* From a reset to FEATURES_OK, with those of `features` that are offered, and VERSION_1. */
void driver_negotiate(struct virtio_driver *driver, uint64_t features);
/* Empty queues, all on. Then DRIVER_OK. */
void driver_place_queues(struct virtio_driver *driver);
void driver_ok(struct virtio_driver *driver);
/* All three. */
void driver_start(struct virtio_driver *driver, uint64_t features);
bool driver_is_broken(struct virtio_driver *driver);

/* Host memory behind an address. */
void *driver_at(struct virtio_driver *driver, gpa_t gpa, uint64_t size);
struct vring_desc *driver_desc(struct virtio_driver *driver, unsigned int queue,
			       unsigned int i);
/* The chain that begins with descriptor `head` is the device's from now on. */
void driver_publish(struct virtio_driver *driver, unsigned int queue, uint16_t head);
/* A chain of these buffers, offered; the number of its head. */
uint16_t driver_add(struct virtio_driver *driver, unsigned int queue,
		    const struct driver_buffer *buffers, unsigned int nr);
/* The same by one descriptor and a table at `table`. */
uint16_t driver_add_indirect(struct virtio_driver *driver, unsigned int queue, gpa_t table,
			     const struct driver_buffer *buffers, unsigned int nr);
/* As if its notification had come through the event loop. */
void driver_kick(struct virtio_driver *driver, unsigned int queue);
/* The next chain that came back, if there is one. */
bool driver_take_used(struct virtio_driver *driver, unsigned int queue, uint16_t *ret_head,
		      uint32_t *ret_written);

/* The event indices of VIRTIO_F_EVENT_IDX: the driver's to set, the device's to read. */
void driver_set_used_event(struct virtio_driver *driver, unsigned int queue, uint16_t index);
uint16_t driver_avail_event(struct virtio_driver *driver, unsigned int queue);
/* VIRTQ_AVAIL_F_NO_INTERRUPT. */
void driver_set_avail_flags(struct virtio_driver *driver, unsigned int queue, uint16_t flags);

#endif /* TESTS_FAKES_VIRTIO_DRIVER_H */
