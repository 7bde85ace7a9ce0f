/* SPDX-License-Identifier: MIT */
#include "devices/io_bus.h"

#include <errno.h>

#include "base/trace.h"

static struct io_region *region_of(struct list_node *n)
{
	return container_of(n, struct io_region, link);
}

void io_bus_init(struct io_bus *bus)
{
	pthread_rwlock_init(&bus->lock, NULL);
	list_init(&bus->regions);
	pthread_mutex_init(&bus->wait_lock, NULL);
	pthread_cond_init(&bus->left, NULL);
	bus->nr_waiting = 0;
}

void io_bus_finish(struct io_bus *bus)
{
	pthread_cond_destroy(&bus->left);
	pthread_mutex_destroy(&bus->wait_lock);
	pthread_rwlock_destroy(&bus->lock);
}

int io_bus_add(struct io_bus *bus, struct io_region *region)
{
	int r = 0;

	if (!range_valid(region->base, region->size))
		return -EINVAL;
	pthread_rwlock_wrlock(&bus->lock);
	struct list_node *at = &bus->regions;
	list_for_each(n, &bus->regions) {
		struct io_region *other = region_of(n);
		if (range_overlaps(region->base, region->size, other->base, other->size)) {
			r = -EEXIST;
			break;
		}
		if (other->base > region->base) {
			at = n;
			break;
		}
	}
	if (r == 0)
		list_insert_before(at, &region->link);
	pthread_rwlock_unlock(&bus->lock);
	return r;
}

void io_bus_remove(struct io_bus *bus, struct io_region *region)
{
	pthread_rwlock_wrlock(&bus->lock);
	list_remove(&region->link);
	pthread_rwlock_unlock(&bus->lock);
}

void io_bus_wait(struct io_bus *bus, struct io_region *region)
{
	/* Before it looks: whoever leaves after that look sees that somebody waits. */
	__atomic_add_fetch(&bus->nr_waiting, 1, __ATOMIC_SEQ_CST);
	pthread_mutex_lock(&bus->wait_lock);
	while (__atomic_load_n(&region->nr_inside, __ATOMIC_SEQ_CST) > 0)
		pthread_cond_wait(&bus->left, &bus->wait_lock);
	pthread_mutex_unlock(&bus->wait_lock);
	__atomic_sub_fetch(&bus->nr_waiting, 1, __ATOMIC_SEQ_CST);
}

/* The region an access belongs to, kept from going until leave_region(); NULL: none. */
static struct io_region *enter_region(struct io_bus *bus, uint64_t address, unsigned int size,
				      uint64_t *ret_offset)
{
	struct io_region *found = NULL;

	pthread_rwlock_rdlock(&bus->lock);
	list_for_each(n, &bus->regions) {
		struct io_region *region = region_of(n);
		if (region->base > address)
			break;
		if (range_within(address, size, region->base, region->size)) {
			found = region;
			*ret_offset = address - region->base; /* it may move from now on */
			__atomic_add_fetch(&region->nr_inside, 1, __ATOMIC_SEQ_CST);
			break;
		}
	}
	pthread_rwlock_unlock(&bus->lock);
	return found;
}

/* The region may be gone when the number is down, the bus is not. */
static void leave_region(struct io_bus *bus, struct io_region *region)
{
	if (__atomic_sub_fetch(&region->nr_inside, 1, __ATOMIC_SEQ_CST) > 0 ||
	    __atomic_load_n(&bus->nr_waiting, __ATOMIC_SEQ_CST) == 0)
		return;
	pthread_mutex_lock(&bus->wait_lock);
	pthread_cond_broadcast(&bus->left);
	pthread_mutex_unlock(&bus->wait_lock);
}

uint64_t io_bus_read(struct io_bus *bus, uint64_t address, unsigned int size)
{
	uint64_t offset;

	TRACE(io_bus_read, address, size);
	struct io_region *region = enter_region(bus, address, size, &offset);
	if (!region)
		return io_ones(size);
	uint64_t value = region->ops->read(region->opaque, offset, size) & io_ones(size);
	leave_region(bus, region);
	return value;
}

void io_bus_write(struct io_bus *bus, uint64_t address, unsigned int size, uint64_t value)
{
	uint64_t offset;

	TRACE(io_bus_write, address, value);
	struct io_region *region = enter_region(bus, address, size, &offset);
	if (!region)
		return;
	region->ops->write(region->opaque, offset, size, value & io_ones(size));
	leave_region(bus, region);
}
