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
}

void io_bus_finish(struct io_bus *bus)
{
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

/* Copies what the caller needs, so that the region may move once the lock is dropped. */
static bool find_region(struct io_bus *bus, uint64_t address, unsigned int size,
			struct io_region *ret)
{
	bool found = false;

	pthread_rwlock_rdlock(&bus->lock);
	list_for_each(n, &bus->regions) {
		struct io_region *region = region_of(n);
		if (region->base > address)
			break;
		if (range_within(address, size, region->base, region->size)) {
			*ret = *region;
			found = true;
			break;
		}
	}
	pthread_rwlock_unlock(&bus->lock);
	return found;
}

uint64_t io_bus_read(struct io_bus *bus, uint64_t address, unsigned int size)
{
	struct io_region region;

	TRACE(io_bus_read, address, size);
	if (!find_region(bus, address, size, &region))
		return io_ones(size);
	return region.ops->read(region.opaque, address - region.base, size) & io_ones(size);
}

void io_bus_write(struct io_bus *bus, uint64_t address, unsigned int size, uint64_t value)
{
	struct io_region region;

	TRACE(io_bus_write, address, value);
	if (find_region(bus, address, size, &region))
		region.ops->write(region.opaque, address - region.base, size,
				  value & io_ones(size));
}
