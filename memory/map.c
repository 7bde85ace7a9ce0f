/* SPDX-License-Identifier: MIT */
#include "memory/map.h"

#include <assert.h>
#include <errno.h>

#include "base/trace.h"

static struct memory_region *region_of(struct list_node *n)
{
	return container_of(n, struct memory_region, link);
}

static struct memory_listener *listener_of(struct list_node *n)
{
	return container_of(n, struct memory_listener, link);
}

void memory_map_init(struct memory_map *map)
{
	*map = (struct memory_map){ 0 };
	pthread_mutex_init(&map->change_lock, NULL);
	pthread_rwlock_init(&map->layout_lock, NULL);
	list_init(&map->regions);
	list_init(&map->listeners);
}

void memory_map_finish(struct memory_map *map)
{
	assert(list_empty(&map->regions));
	assert(list_empty(&map->listeners));
	pthread_rwlock_destroy(&map->layout_lock);
	pthread_mutex_destroy(&map->change_lock);
}

/* The node before which a region at [gpa, gpa + size) belongs. Under change_lock. */
static int find_place(struct memory_map *map, gpa_t gpa, uint64_t size,
		      struct list_node **ret_at)
{
	list_for_each(n, &map->regions) {
		struct memory_region *other = region_of(n);
		if (range_overlaps(gpa, size, other->gpa, other->size))
			return -EEXIST;
		if (other->gpa > gpa) {
			*ret_at = n;
			return 0;
		}
	}
	*ret_at = &map->regions;
	return 0;
}

/* Undoes for the listeners before `from`, newest first. */
static void untell_before(struct memory_map *map, struct list_node *from,
			  struct memory_region *region)
{
	list_for_each_reverse_from(n, from, &map->listeners)
		listener_of(n)->ops->del(listener_of(n), region);
}

static int tell_add(struct memory_map *map, struct memory_region *region)
{
	list_for_each(n, &map->listeners) {
		int r = listener_of(n)->ops->add(listener_of(n), region);
		if (r < 0) {
			untell_before(map, n, region);
			return r;
		}
	}
	return 0;
}

int memory_map_add(struct memory_map *map, struct memory_region *region)
{
	struct list_node *at;

	TRACE(memory_map_add, region->gpa, region->size);
	assert(!list_linked(&region->link));
	if (!range_valid(region->gpa, region->size) ||
	    !is_aligned(region->gpa | region->size, GUEST_PAGE_SIZE))
		return -EINVAL;
	pthread_mutex_lock(&map->change_lock);
	int r = find_place(map, region->gpa, region->size, &at);
	if (r < 0)
		goto out;
	r = tell_add(map, region);
	if (r < 0)
		goto out;
	pthread_rwlock_wrlock(&map->layout_lock);
	list_insert_before(at, &region->link);
	pthread_rwlock_unlock(&map->layout_lock);
out:
	pthread_mutex_unlock(&map->change_lock);
	return r;
}

void memory_map_remove(struct memory_map *map, struct memory_region *region)
{
	TRACE(memory_map_remove, region->gpa, region->size);
	pthread_mutex_lock(&map->change_lock);
	if (list_linked(&region->link)) {
		pthread_rwlock_wrlock(&map->layout_lock);
		list_remove(&region->link);
		pthread_rwlock_unlock(&map->layout_lock);
		untell_before(map, &map->listeners, region);
	}
	pthread_mutex_unlock(&map->change_lock);
}

int memory_map_listen(struct memory_map *map, struct memory_listener *listener)
{
	int r = 0;

	TRACE(memory_map_listen, 0, 0);
	assert(!list_linked(&listener->link));
	pthread_mutex_lock(&map->change_lock);
	list_for_each(n, &map->regions) {
		r = listener->ops->add(listener, region_of(n));
		if (r < 0) {
			list_for_each_reverse_from(told, n, &map->regions)
				listener->ops->del(listener, region_of(told));
			goto out;
		}
	}
	list_append(&map->listeners, &listener->link);
out:
	pthread_mutex_unlock(&map->change_lock);
	return r;
}

void memory_map_unlisten(struct memory_map *map, struct memory_listener *listener)
{
	TRACE(memory_map_unlisten, 0, 0);
	pthread_mutex_lock(&map->change_lock);
	if (list_linked(&listener->link)) {
		list_remove(&listener->link);
		list_for_each_reverse_from(n, &map->regions, &map->regions)
			listener->ops->del(listener, region_of(n));
	}
	pthread_mutex_unlock(&map->change_lock);
}

/* Under the lock of the layout. */
static struct memory_region *find(struct memory_map *map, gpa_t gpa, uint64_t size)
{
	if (!range_valid(gpa, size))
		return NULL;
	list_for_each(n, &map->regions) {
		struct memory_region *region = region_of(n);
		if (range_within(gpa, size, region->gpa, region->size))
			return region;
	}
	return NULL;
}

struct memory_region *memory_map_find(struct memory_map *map, gpa_t gpa, uint64_t size)
{
	pthread_rwlock_rdlock(&map->layout_lock);
	struct memory_region *found = find(map, gpa, size);
	pthread_rwlock_unlock(&map->layout_lock);
	return found;
}

void *memory_map_find_ram(struct memory_map *map, gpa_t gpa, uint64_t size, uint64_t *ret_left)
{
	void *at = NULL;

	pthread_rwlock_rdlock(&map->layout_lock);
	const struct memory_region *region = find(map, gpa, size);
	if (region && region->kind == MEMORY_RAM) {
		at = (char *)region->host + (gpa - region->gpa);
		*ret_left = region->size - (gpa - region->gpa);
	}
	pthread_rwlock_unlock(&map->layout_lock);
	return at;
}

uint64_t memory_map_ram_size(struct memory_map *map)
{
	uint64_t size = 0;

	pthread_rwlock_rdlock(&map->layout_lock);
	list_for_each(n, &map->regions) {
		if (region_of(n)->kind == MEMORY_RAM)
			size += region_of(n)->size;
	}
	pthread_rwlock_unlock(&map->layout_lock);
	return size;
}
