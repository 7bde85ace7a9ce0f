/* SPDX-License-Identifier: MIT */
/*
 * io_bus.h - address -> (device, offset), for port I/O and for MMIO: one bus object each.
 *
 * Unclaimed addresses read as all ones and swallow writes. An access belongs to the region
 * that holds all of its bytes; one that straddles an end is unclaimed.
 *
 * Threads: any. The lock is held for the look-up only and dropped before the device is
 * called; a handler may therefore still run when io_bus_remove() has returned. Free a device
 * only after io_bus_wait(), or with the vCPUs parked.
 */
#ifndef DEVICES_IO_BUS_H
#define DEVICES_IO_BUS_H

#include <pthread.h>

#include "base/list.h"
#include "base/range.h"
#include "base/util.h"

struct io_ops {
	/* size: 1, 2, 4 or 8 bytes; offset + size lies within the region. */
	uint64_t (*read)(void *opaque, uint64_t offset, unsigned int size);
	void (*write)(void *opaque, uint64_t offset, unsigned int size, uint64_t value);
};

struct io_region {
	struct list_node link; /* bus->lock */
	uint64_t base;         /* fixed while on a bus */
	uint64_t size;         /* bytes, not 0 */
	const struct io_ops *ops;
	void *opaque;           /* handed to ops */
	unsigned int nr_inside; /* threads in its handlers, the bus's business; atomic */
};

struct io_bus {
	pthread_rwlock_t lock;
	struct list_node regions; /* ascending by base */
	pthread_mutex_t wait_lock;
	pthread_cond_t left;     /* a region's last handler has returned; wait_lock */
	unsigned int nr_waiting; /* atomic */
};

void io_bus_init(struct io_bus *bus);
void io_bus_finish(struct io_bus *bus);

/* -EINVAL: empty or wrapping. -EEXIST: overlaps a region already there. */
must_check int io_bus_add(struct io_bus *bus, struct io_region *region);
/* Does nothing for a region that is on no bus. */
void io_bus_remove(struct io_bus *bus, struct io_region *region);
/*
 * After io_bus_remove(): returns when no handler of the region runs, and none will. Not from
 * within one of them, nor with a lock held that they take.
 */
void io_bus_wait(struct io_bus *bus, struct io_region *region);

uint64_t io_bus_read(struct io_bus *bus, uint64_t address, unsigned int size);
void io_bus_write(struct io_bus *bus, uint64_t address, unsigned int size, uint64_t value);

/* All ones of `size` bytes: what a read of nothing gives. */
static inline uint64_t io_ones(unsigned int size)
{
	return size >= 8 ? UINT64_MAX : (1ull << (size * 8)) - 1;
}

#endif /* DEVICES_IO_BUS_H */
