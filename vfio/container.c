/* SPDX-License-Identifier: MIT */
#include "vfio/container.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <sys/resource.h>

#include "base/log.h"
#include "base/trace.h"

#include "memory/ram.h"
#include "vfio/group.h"

/* What a kernel that does not say how many entries it has left was built with. */
#define DEFAULT_ENTRIES 65535u

/* Populating goes in steps of this size, and says how far it is when it takes long. */
#define POPULATE_STEP (256ull << 20)
#define PROGRESS_SECONDS 2

/* One call of vfio_map_dma() that has not been undone. */
struct mapping {
	struct list_node link;
	const struct memory_region *region; /* borrowed, outlives this */
};

static struct vfio_container *container_of_listener(struct memory_listener *listener)
{
	return container_of(listener, struct vfio_container, listener);
}

static struct mapping *mapping_of(struct list_node *n)
{
	return container_of(n, struct mapping, link);
}

void vfio_init(struct vfio *vfio, struct memory_map *map, struct reclaim *reclaim,
	       struct wires *wires)
{
	*vfio = (struct vfio){ .map = map, .reclaim = reclaim, .wires = wires };
	list_init(&vfio->containers);
	list_init(&vfio->groups);
}

void vfio_finish(struct vfio *vfio)
{
	if (!vfio->map)
		return;
	assert(list_empty(&vfio->groups));
	assert(list_empty(&vfio->containers));
}

static unsigned int address_bits(const struct vfio_iommu *iommu)
{
	uint64_t last = 0;

	if (iommu->nr_ranges == 0)
		return 64;
	for (unsigned int i = 0; i < iommu->nr_ranges; i++) {
		if (iommu->ranges[i].end > last)
			last = iommu->ranges[i].end;
	}
	return last == 0 ? 0 : 64 - (unsigned int)__builtin_clzll(last);
}

unsigned int vfio_address_bits(struct vfio *vfio)
{
	unsigned int bits = 64;

	list_for_each(n, &vfio->containers) {
		struct vfio_container *container = container_of(n, struct vfio_container, link);
		pthread_mutex_lock(&container->lock);
		unsigned int its = address_bits(&container->iommu);
		pthread_mutex_unlock(&container->lock);
		if (its < bits)
			bits = its;
	}
	return bits;
}

/* Bytes of RAM. */
static uint64_t mapped(struct vfio_container *container)
{
	uint64_t bytes = 0;

	pthread_mutex_lock(&container->lock);
	list_for_each(n, &container->mappings) {
		const struct memory_region *region = mapping_of(n)->region;
		if (region->kind == MEMORY_RAM)
			bytes += region->size;
	}
	pthread_mutex_unlock(&container->lock);
	return bytes;
}

uint64_t vfio_pinned(struct vfio *vfio)
{
	uint64_t most = 0;

	list_for_each(n, &vfio->containers) {
		struct vfio_container *container = container_of(n, struct vfio_container, link);
		uint64_t bytes = container->pins ? mapped(container) : 0;
		if (bytes > most)
			most = bytes;
	}
	return most;
}

static const struct vfio_iova_range *range_at(const struct vfio_iommu *iommu, uint64_t address)
{
	for (unsigned int i = 0; i < iommu->nr_ranges; i++) {
		const struct vfio_iova_range *range = &iommu->ranges[i];
		if (range->start <= address && address <= range->end)
			return range;
	}
	return NULL;
}

/* The first hole in [start, last], up to where it ends; false if there is none. */
static bool find_hole(const struct vfio_iommu *iommu, uint64_t start, uint64_t last,
		      uint64_t *ret_start, uint64_t *ret_last)
{
	const struct vfio_iova_range *range = range_at(iommu, start);

	if (iommu->nr_ranges == 0)
		return false;
	for (; range; range = range_at(iommu, start)) {
		if (range->end >= last)
			return false;
		start = range->end + 1;
	}
	*ret_start = start;
	*ret_last = UINT64_MAX;
	for (unsigned int i = 0; i < iommu->nr_ranges; i++) {
		uint64_t next = iommu->ranges[i].start;
		if (next > start && next - 1 < *ret_last)
			*ret_last = next - 1;
	}
	return true;
}

/* -ERANGE, logged: some of this RAM cannot be reached by a device. Under container->lock. */
static int check_reach(const struct vfio_container *container,
		       const struct memory_region *region)
{
	uint64_t start;
	uint64_t last;

	if (!find_hole(&container->iommu, region->gpa, region->gpa + (region->size - 1), &start,
		       &last))
		return 0;
	(void)log_err(0,
		      "vfio: map %s 0x%" PRIx64 "+0x%" PRIx64
		      ": the IOMMU does not translate the hole 0x%" PRIx64 "-0x%" PRIx64
		      "; keep guest RAM out of it, or give the guest less",
		      region->name, region->gpa, region->size, start, last);
	return -ERANGE;
}

/*
 * Asks anew what may be mapped and how much of it: the answer can shrink with each group that
 * joins, and what is mapped already must still be within it. Under container->lock.
 */
static int refresh_iommu(struct vfio_container *container)
{
	struct vfio_iommu iommu;

	int r = vfio_get_iommu(container->fd, &iommu);
	if (r < 0)
		return log_err(r, "vfio: ask what the IOMMU translates");
	vfio_iommu_finish(&container->iommu);
	container->iommu = iommu;
	container->max_mappings = DEFAULT_ENTRIES;
	if (iommu.has_entries && iommu.entries <= UINT32_MAX - container->nr_mappings)
		container->max_mappings = iommu.entries + container->nr_mappings;
	list_for_each(n, &container->mappings) {
		const struct memory_region *region = mapping_of(n)->region;
		if (region->kind != MEMORY_RAM)
			continue;
		r = check_reach(container, region);
		if (r < 0)
			return r;
	}
	return 0;
}

static time_t now_seconds(void)
{
	struct timespec now = { 0 };

	(void)clock_gettime(CLOCK_MONOTONIC, &now); /* this clock always exists */
	return now.tv_sec;
}

/*
 * Makes the pages present first. The pin would do so as well, but page by page, and without
 * a word for as long as it takes.
 */
static int populate(const struct memory_region *region)
{
	uint64_t offset = (uint64_t)((char *)region->host - (char *)region->ram->host);
	time_t told = now_seconds();

	for (uint64_t done = 0; done < region->size;) {
		uint64_t left = region->size - done;
		uint64_t step = left < POPULATE_STEP ? left : POPULATE_STEP;
		int r = ram_populate(region->ram, offset + done, step);
		if (r < 0)
			return log_err(r,
				       "vfio: make %s present, 0x%" PRIx64 " of 0x%" PRIx64
				       " bytes done",
				       region->name, done, region->size);
		done += step;
		if (done < region->size && now_seconds() - told >= PROGRESS_SECONDS) {
			log_info("vfio: making %s present: %" PRIu64 " of %" PRIu64 " MiB",
				 region->name, done >> 20, region->size >> 20);
			told = now_seconds();
		}
	}
	return 0;
}

/* What must be locked at once: all RAM, for each container that pins once more. */
static uint64_t locked_bytes(const struct vfio *vfio, const struct memory_region *region)
{
	uint64_t size = memory_map_ram_size(vfio->map);
	uint64_t nr_pinning = 0;

	/* While it is being added a region is not on the map yet. */
	if (!list_linked(&region->link))
		size += region->size;
	list_for_each(n, &vfio->containers)
		nr_pinning += container_of(n, struct vfio_container, link)->pins;
	return size * nr_pinning;
}

static int explain_refusal(const struct vfio *vfio, const struct memory_region *region, int r)
{
	struct rlimit limit = { .rlim_cur = RLIM_INFINITY };
	uint64_t needed = locked_bytes(vfio, region);

	(void)getrlimit(RLIMIT_MEMLOCK, &limit); /* this resource always exists */
	if (r == -ENOMEM && limit.rlim_cur != RLIM_INFINITY && limit.rlim_cur < needed)
		return log_err(r,
			       "vfio: map %s 0x%" PRIx64 "+0x%" PRIx64 ": %" PRIu64
			       " bytes must be locked in all, RLIMIT_MEMLOCK allows %" PRIu64
			       ": raise it (ulimit -l, LimitMEMLOCK=), or give the guest less",
			       region->name, region->gpa, region->size, needed,
			       (uint64_t)limit.rlim_cur);
	return log_err(r, "vfio: map %s 0x%" PRIx64 "+0x%" PRIx64 " for devices", region->name,
		       region->gpa, region->size);
}

/* One mapping and its entry in our own books, or neither. Not logged. Under container->lock. */
static int map_region(struct vfio_container *container, const struct memory_region *region)
{
	if (container->nr_mappings >= container->max_mappings)
		return -ENOSPC;
	struct mapping *mapping = calloc(1, sizeof(*mapping));
	if (!mapping)
		return -ENOMEM;
	int r = vfio_map_dma(container->fd, region->host, region->gpa, region->size);
	if (r < 0) {
		free(mapping);
		return r;
	}
	mapping->region = region;
	list_append(&container->mappings, &mapping->link);
	container->nr_mappings++;
	return 0;
}

static int add_ram(struct vfio_container *container, const struct memory_region *region)
{
	pthread_mutex_lock(&container->lock);
	int r = check_reach(container, region);
	if (r < 0)
		goto out;
	if (container->pins)
		r = populate(region);
	if (r < 0)
		goto out;
	r = map_region(container, region);
	if (r == -ENOSPC)
		(void)log_err(r, "vfio: map %s: all %u entries of the IOMMU are taken",
			      region->name, container->nr_mappings);
	else if (r < 0)
		(void)explain_refusal(container->vfio, region, r);
out:
	pthread_mutex_unlock(&container->lock);
	return r;
}

/* Not every IOMMU maps what is no memory, and no guest depends on it. */
static void add_peer(struct vfio_container *container, const struct memory_region *region)
{
	pthread_mutex_lock(&container->lock);
	int r = map_region(container, region);
	if (r < 0 && !container->peers_warned) {
		container->peers_warned = true;
		log_warn("vfio: map %s 0x%" PRIx64 "+0x%" PRIx64
			 " for other devices: %s; going on, devices cannot reach each other",
			 region->name, region->gpa, region->size, strerror(-r));
	}
	pthread_mutex_unlock(&container->lock);
}

static int dma_region_add(struct memory_listener *listener, struct memory_region *region)
{
	struct vfio_container *container = container_of_listener(listener);

	TRACE(dma_region_add, region->gpa, region->size);
	if (region->kind == MEMORY_RAM)
		return add_ram(container, region);
	add_peer(container, region);
	return 0;
}

static struct mapping *find_mapping(struct vfio_container *container,
				    const struct memory_region *region)
{
	list_for_each(n, &container->mappings) {
		if (mapping_of(n)->region == region)
			return mapping_of(n);
	}
	return NULL;
}

static void dma_region_del(struct memory_listener *listener, struct memory_region *region)
{
	struct vfio_container *container = container_of_listener(listener);
	uint64_t unmapped = 0;

	TRACE(dma_region_del, region->gpa, region->size);
	pthread_mutex_lock(&container->lock);
	struct mapping *mapping = find_mapping(container, region);
	if (!mapping)
		goto out; /* a BAR that could not be mapped */
	int r = vfio_unmap_dma(container->fd, region->gpa, region->size, &unmapped);
	if (r < 0)
		(void)log_err(r, "vfio: unmap %s 0x%" PRIx64 "+0x%" PRIx64, region->name,
			      region->gpa, region->size);
	else if (unmapped != region->size)
		(void)log_err(0,
			      "vfio: unmap %s 0x%" PRIx64 "+0x%" PRIx64
			      ": the kernel unmapped 0x%" PRIx64 " bytes, going on",
			      region->name, region->gpa, region->size, unmapped);
	list_remove(&mapping->link);
	container->nr_mappings--;
	free(mapping);
out:
	pthread_mutex_unlock(&container->lock);
}

static const struct memory_listener_ops dma_listener_ops = {
	.add = dma_region_add,
	.del = dma_region_del,
};

/* Does what is mapped for this group stay where it is? */
static bool group_pins(const struct vfio_group *group)
{
	return group->balloon == VFIO_BALLOON_INHIBITS;
}

/* For such groups as this one; not open yet. NULL: no memory. */
static struct vfio_container *container_create(struct vfio *vfio,
					       const struct vfio_group *group)
{
	struct vfio_container *container = calloc(1, sizeof(*container));

	if (!container)
		return NULL;
	*container = (struct vfio_container){
		.vfio = vfio,
		.fd = -1,
		.pins = group_pins(group),
		.listener = { .ops = &dma_listener_ops, .name = "vfio container" },
		.max_mappings = DEFAULT_ENTRIES,
	};
	pthread_mutex_init(&container->lock, NULL);
	list_init(&container->groups);
	list_init(&container->mappings);
	list_append(&vfio->containers, &container->link);
	return container;
}

/* Open or not. No group may be in it. */
static void container_destroy(struct vfio_container *container)
{
	memory_map_unlisten(container->vfio->map, &container->listener);
	assert(list_empty(&container->mappings));
	list_remove(&container->link);
	vfio_close(&container->fd);
	vfio_iommu_finish(&container->iommu);
	pthread_mutex_destroy(&container->lock);
	free(container);
}

/* It has no IOMMU yet: that takes a group. */
static int container_open(struct vfio_container *container)
{
	int r = vfio_open_container(&container->fd);
	if (r < 0) {
		(void)log_err(r, "vfio: open /dev/vfio/vfio: load the module vfio_iommu_type1, "
				 "or ask for permission");
		return r == -EACCES ? -EPERM : r;
	}
	r = vfio_get_api_version(container->fd);
	if (r != VFIO_API_VERSION) {
		(void)log_err(r < 0 ? r : 0, "vfio: the kernel's VFIO has version %d, not %d",
			      r, VFIO_API_VERSION);
		return r < 0 ? r : -EOPNOTSUPP;
	}
	r = vfio_check_extension(container->fd, VFIO_TYPE1v2_IOMMU);
	if (r <= 0) {
		(void)log_err(r, "vfio: the kernel offers no type1v2 IOMMU: load the module "
				 "vfio_iommu_type1");
		return r < 0 ? r : -EOPNOTSUPP;
	}
	return 0;
}

static int enter(struct vfio_container *container, struct vfio_group *group)
{
	int r = vfio_group_set_container(group->fd, container->fd);
	if (r < 0)
		return r;
	group->container = container;
	list_append(&container->groups, &group->container_link);
	return 0;
}

/* Joins one that is at work already, where there is one that takes us. 1: joined. */
static int join_existing(struct vfio *vfio, struct vfio_group *group)
{
	list_for_each(n, &vfio->containers) {
		struct vfio_container *container = container_of(n, struct vfio_container, link);
		if (container->pins != group_pins(group))
			continue;
		if (enter(container, group) < 0)
			continue; /* why is the kernel's affair: the next one may */
		pthread_mutex_lock(&container->lock);
		int r = refresh_iommu(container);
		pthread_mutex_unlock(&container->lock);
		return r < 0 ? r : 1;
	}
	return 0;
}

/* The group is the first in its container, which gets its IOMMU and all of RAM by it. */
static int join_new(struct vfio *vfio, struct vfio_group *group)
{
	struct vfio_container *container = container_create(vfio, group);

	if (!container)
		return log_err(-ENOMEM, "vfio: make a container for group %u", group->number);
	int r = container_open(container);
	if (r < 0)
		goto fail;
	r = enter(container, group);
	if (r < 0) {
		(void)log_err(r, "vfio: put group %u into a container", group->number);
		goto fail;
	}
	r = vfio_set_iommu(container->fd, VFIO_TYPE1v2_IOMMU);
	if (r == -EPERM)
		return log_err(
			r,
			"vfio: set the IOMMU of group %u: the platform does not isolate "
			"interrupts; vfio_iommu_type1.allow_unsafe_interrupts=1 takes the "
			"risk",
			group->number);
	if (r < 0)
		return log_err(r, "vfio: set the IOMMU of group %u", group->number);
	pthread_mutex_lock(&container->lock);
	r = refresh_iommu(container);
	pthread_mutex_unlock(&container->lock);
	if (r < 0)
		return r;
	return memory_map_listen(vfio->map, &container->listener);
fail:
	/* Nobody is in it. Further on it goes with the group that leaves. */
	container_destroy(container);
	return r;
}

int vfio_container_join(struct vfio *vfio, struct vfio_group *group)
{
	TRACE(vfio_container_join, group->number, 0);
	assert(!group->container);
	int r = join_existing(vfio, group);
	if (r == 0)
		r = join_new(vfio, group);
	if (r < 0)
		vfio_container_leave(group);
	return r < 0 ? r : 0;
}

void vfio_container_leave(struct vfio_group *group)
{
	struct vfio_container *container = group->container;

	if (!container)
		return;
	list_remove(&group->container_link);
	group->container = NULL;
	/* Once the group is out the container has no IOMMU to unmap from. */
	if (list_empty(&container->groups))
		memory_map_unlisten(container->vfio->map, &container->listener);
	int r = vfio_group_unset_container(group->fd);
	if (r < 0)
		(void)log_err(r, "vfio: take group %u out of its container, going on",
			      group->number);
	if (list_empty(&container->groups))
		container_destroy(container);
}
