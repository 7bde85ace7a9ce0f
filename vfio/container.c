/* SPDX-License-Identifier: MIT */
#include "vfio/container.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>

#include <linux/capability.h>

#include "base/bits.h"
#include "base/log.h"
#include "base/trace.h"

#include "vfio/group.h"

/* So often a container is tried to be woken, and after that only now and then. */
#define MAX_WAKES 32u
#define WAKE_PAUSE_SECONDS 5

/*
 * What is known of a region. It is mapped in granules, each by one call of vfio_map_dma(); a BAR
 * is one granule.
 */
struct mapping {
	struct list_node link;
	const struct memory_region *region; /* borrowed, outlives this */
	uint64_t granule;                   /* bytes */
	uint64_t nr_granules;
	uint64_t nr_mapped;
	uint64_t *mapped; /* owned; a bit a granule */
	uint64_t *fresh;  /* owned; likewise: by the call that is under way */
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
	       struct wires *wires, const struct vfio_dma_config *config)
{
	*vfio = (struct vfio){
		.map = map,
		.reclaim = reclaim,
		.wires = wires,
		.config = *config,
	};
	pthread_mutex_init(&vfio->lock, NULL);
	list_init(&vfio->containers);
	list_init(&vfio->groups);
}

void vfio_finish(struct vfio *vfio)
{
	if (!vfio->map)
		return;
	assert(list_empty(&vfio->groups));
	assert(list_empty(&vfio->containers));
	pthread_mutex_destroy(&vfio->lock);
	*vfio = (struct vfio){ 0 };
}

unsigned int vfio_iommu_bits(const struct vfio_iommu *iommu)
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
		unsigned int its = vfio_iommu_bits(&container->iommu);
		pthread_mutex_unlock(&container->lock);
		if (its < bits)
			bits = its;
	}
	return bits;
}

/* Where granules begin in their region, and how many bytes they are: the last may be smaller. */
static uint64_t span_offset(const struct mapping *mapping, struct span span)
{
	return span.first * mapping->granule;
}

static uint64_t span_size(const struct mapping *mapping, struct span span)
{
	uint64_t end = span.end == mapping->nr_granules ? mapping->region->size
							: span.end * mapping->granule;
	return end - span_offset(mapping, span);
}

/* Bytes of the region that are mapped. */
static uint64_t mapped_size(const struct mapping *mapping)
{
	uint64_t last = mapping->nr_granules - 1;
	uint64_t missing = mapping->nr_granules * mapping->granule - mapping->region->size;

	if (mapping->nr_mapped == 0)
		return 0;
	return mapping->nr_mapped * mapping->granule -
	       (bit_test(mapping->mapped, last) ? missing : 0);
}

/* Bytes of RAM. */
static uint64_t mapped(struct vfio_container *container)
{
	uint64_t bytes = 0;

	pthread_mutex_lock(&container->lock);
	list_for_each(n, &container->mappings) {
		if (mapping_of(n)->region->kind == MEMORY_RAM)
			bytes += mapped_size(mapping_of(n));
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

void vfio_container_figures(struct vfio_container *container,
			    struct vfio_container_figures *ret,
			    struct vfio_mapping_figures *ret_mappings, unsigned int max)
{
	pthread_mutex_lock(&container->lock);
	*ret = (struct vfio_container_figures){
		.nr_entries = container->nr_mappings,
		.max_entries = container->max_mappings,
	};
	list_for_each(n, &container->mappings) {
		const struct mapping *mapping = mapping_of(n);
		if (ret->nr_mappings < max)
			ret_mappings[ret->nr_mappings] = (struct vfio_mapping_figures){
				.name = mapping->region->name,
				.gpa = mapping->region->gpa,
				.size = mapping->region->size,
				.granule = mapping->granule,
				.mapped = mapped_size(mapping),
			};
		ret->nr_mappings++;
	}
	pthread_mutex_unlock(&container->lock);
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

bool vfio_iommu_find_hole(const struct vfio_iommu *iommu, uint64_t start, uint64_t last,
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

	if (!vfio_iommu_find_hole(&container->iommu, region->gpa,
				  region->gpa + (region->size - 1), &start, &last))
		return 0;
	return log_refuse(-ERANGE,
			  "vfio: map %s 0x%" PRIx64 "+0x%" PRIx64
			  ": the IOMMU does not translate the hole 0x%" PRIx64 "-0x%" PRIx64
			  "; keep guest RAM out of it, or give the guest less",
			  region->name, region->gpa, region->size, start, last);
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
	container->max_mappings = VFIO_DEFAULT_ENTRIES;
	if (iommu.has_entries) /* iommufd says UINT32_MAX, whatever is mapped */
		container->max_mappings = iommu.entries > UINT32_MAX - container->nr_mappings
						  ? UINT32_MAX
						  : iommu.entries + container->nr_mappings;
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

/* What must be locked at once: all RAM, for each container that pins once more. */
static uint64_t locked_bytes(struct vfio *vfio, const struct memory_region *region)
{
	uint64_t size = memory_map_ram_size(vfio->map);
	uint64_t nr_pinning = 0;

	/* While it is being added a region is not on the map yet. */
	if (region && !list_linked(&region->link))
		size += region->size;
	/* A vCPU may be here, while one comes or goes. */
	pthread_mutex_lock(&vfio->lock);
	list_for_each(n, &vfio->containers)
		nr_pinning += container_of(n, struct vfio_container, link)->pins;
	pthread_mutex_unlock(&vfio->lock);
	return size * nr_pinning;
}

static int explain_refusal(struct vfio *vfio, const struct memory_region *region, int r)
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

/* Mappings. All under container->lock, and not logged. */

static struct mapping *find_mapping(struct vfio_container *container,
				    const struct memory_region *region)
{
	list_for_each(n, &container->mappings) {
		if (mapping_of(n)->region == region)
			return mapping_of(n);
	}
	return NULL;
}

static void mapping_destroy(struct mapping *mapping)
{
	list_remove(&mapping->link);
	free(mapping->mapped);
	free(mapping->fresh);
	free(mapping);
}

/* Books on a region of which nothing is mapped yet. */
static int mapping_create(struct vfio_container *container, const struct memory_region *region,
			  uint64_t granule, struct mapping **ret)
{
	struct mapping *mapping = calloc(1, sizeof(*mapping));

	if (!mapping)
		return -ENOMEM;
	*mapping = (struct mapping){
		.region = region,
		.granule = granule,
		.nr_granules = (region->size + granule - 1) / granule,
	};
	list_append(&container->mappings, &mapping->link);
	mapping->mapped = bits_create(mapping->nr_granules);
	mapping->fresh = bits_create(mapping->nr_granules);
	if (!mapping->mapped || !mapping->fresh) {
		mapping_destroy(mapping);
		return -ENOMEM;
	}
	*ret = mapping;
	return 0;
}

static int map_granule(struct vfio_container *container, struct mapping *mapping, uint64_t i)
{
	const struct memory_region *region = mapping->region;
	struct span one = { i, i + 1 };
	uint64_t offset = span_offset(mapping, one);

	if (container->nr_mappings >= container->max_mappings)
		return -ENOSPC;
	int r = vfio_map_dma(container->fd, (char *)region->host + offset, region->gpa + offset,
			     span_size(mapping, one));
	/* -EEXIST: an unmap that went wrong has left it there. */
	if (r < 0 && r != -EEXIST)
		return r;
	bit_set(mapping->mapped, i);
	mapping->nr_mapped++;
	container->nr_mappings++;
	return 0;
}

/* They are all mapped. -EIO: some of them may be. */
static int unmap_run(struct vfio_container *container, struct mapping *mapping, struct span run)
{
	uint64_t size = span_size(mapping, run);
	uint64_t unmapped = 0;

	int r = vfio_unmap_dma(container->fd, mapping->region->gpa + span_offset(mapping, run),
			       size, &unmapped);
	if (r < 0)
		return r;
	for (uint64_t i = run.first; i < run.end; i++)
		bit_clear(mapping->mapped, i);
	mapping->nr_mapped -= run.end - run.first;
	container->nr_mappings -= (unsigned int)(run.end - run.first);
	return unmapped == size ? 0 : -EIO;
}

/* Of these granules, those whose bit is set. */
static int unmap_span(struct vfio_container *container, struct mapping *mapping,
		      const uint64_t *which, struct span span)
{
	int r = 0;

	for (;;) {
		struct span run = bits_run(which, span);
		if (run.end == run.first || r < 0)
			return r;
		r = unmap_run(container, mapping, run);
		span.first = run.end;
	}
}

/* Of these granules, those that are not mapped; on failure no more are than before. */
static int map_span(struct vfio_container *container, struct mapping *mapping, struct span span)
{
	int r = 0;

	for (uint64_t i = span.first; i < span.end && r >= 0; i++) {
		if (bit_test(mapping->mapped, i))
			continue;
		r = map_granule(container, mapping, i);
		if (r >= 0)
			bit_set(mapping->fresh, i);
	}
	if (r < 0 && unmap_span(container, mapping, mapping->fresh, span) < 0)
		log_warn(
			"vfio: %s stays mapped in part, after it could not be mapped as a whole",
			mapping->region->name);
	for (uint64_t i = span.first; i < span.end; i++)
		bit_clear(mapping->fresh, i);
	return r;
}

/* Reclaim asks: a pinner lets go of granules, and pins them again. */

static struct vfio_container *container_of_pinner(struct pinner *pinner)
{
	return container_of(pinner, struct vfio_container, pinner);
}

static struct span granules_at(const struct mapping *mapping, gpa_t gpa, uint64_t size)
{
	uint64_t first = (gpa - mapping->region->gpa) / mapping->granule;

	return (struct span){ first, first + (size + mapping->granule - 1) / mapping->granule };
}

static int dma_discard(struct pinner *pinner, const struct memory_region *region, gpa_t gpa,
		       uint64_t size)
{
	struct vfio_container *container = container_of_pinner(pinner);
	int r = 0;

	TRACE(dma_discard, gpa, size);
	pthread_mutex_lock(&container->lock);
	struct mapping *mapping = find_mapping(container, region);
	if (mapping)
		r = unmap_span(container, mapping, mapping->mapped,
			       granules_at(mapping, gpa, size));
	pthread_mutex_unlock(&container->lock);
	return r;
}

static int dma_populate(struct pinner *pinner, const struct memory_region *region, gpa_t gpa,
			uint64_t size)
{
	struct vfio_container *container = container_of_pinner(pinner);
	int r = 0;

	TRACE(dma_populate, gpa, size);
	pthread_mutex_lock(&container->lock);
	struct mapping *mapping = find_mapping(container, region);
	if (mapping)
		r = map_span(container, mapping, granules_at(mapping, gpa, size));
	pthread_mutex_unlock(&container->lock);
	return r;
}

static const struct pinner_ops dma_pinner_ops = {
	.discard = dma_discard,
	.populate = dma_populate,
};

/* The map's listener */

/*
 * What the kernel has not unmapped is pinned still, and no books tell where: nothing may be
 * discarded before the container is gone, or has mapped all that is live anew.
 */
static void remember_pins(struct vfio_container *container)
{
	if (!container->pins || container->left_pinned)
		return;
	container->left_pinned = true;
	inhibitor_raise(container->vfio->reclaim, &container->inhibitor, "vfio container");
}

static void forget_pins(struct vfio_container *container)
{
	if (!container->left_pinned)
		return;
	container->left_pinned = false;
	inhibitor_lower(container->vfio->reclaim, &container->inhibitor);
}

/* All that is mapped of a region. False, logged: some of it still is. Under container->lock. */
static bool unmap_region(struct vfio_container *container, const struct mapping *mapping)
{
	const struct memory_region *region = mapping->region;
	uint64_t size = mapped_size(mapping);
	uint64_t unmapped = 0;

	if (size == 0)
		return true;
	int r = vfio_unmap_dma(container->fd, region->gpa, region->size, &unmapped);
	if (r < 0)
		(void)log_err(r, "vfio: unmap %s 0x%" PRIx64 "+0x%" PRIx64, region->name,
			      region->gpa, region->size);
	else if (unmapped != size)
		(void)log_err(0,
			      "vfio: unmap %s 0x%" PRIx64 "+0x%" PRIx64
			      ": the kernel unmapped 0x%" PRIx64 " bytes of 0x%" PRIx64
			      ", going on",
			      region->name, region->gpa, region->size, unmapped, size);
	return r >= 0 && unmapped >= size;
}

/* Everything of a region; after a failure, too, when only some of it was mapped. */
static void forget_region(struct vfio_container *container, const struct memory_region *region)
{
	pthread_mutex_lock(&container->lock);
	struct mapping *mapping = find_mapping(container, region);
	if (!mapping)
		goto out; /* a BAR that could not be mapped */
	if (!unmap_region(container, mapping) && region->kind == MEMORY_RAM) {
		/* Without the lock, which comes after the gate; as long as the books know it. */
		pthread_mutex_unlock(&container->lock);
		remember_pins(container);
		pthread_mutex_lock(&container->lock);
	}
	container->nr_mappings -= (unsigned int)mapping->nr_mapped;
	container->nr_peers -= region->kind != MEMORY_RAM;
	mapping_destroy(mapping);
out:
	pthread_mutex_unlock(&container->lock);
}

/* All of it at once. -errno: nothing is left of it. */
static int map_whole(struct vfio_container *container, const struct memory_region *region)
{
	struct mapping *mapping;

	int r = mapping_create(container, region, region->size, &mapping);
	if (r < 0)
		return r;
	r = map_granule(container, mapping, 0);
	if (r < 0)
		mapping_destroy(mapping);
	return r;
}

static int add_ram(struct vfio_container *container, const struct memory_region *region)
{
	struct reclaim *reclaim = container->vfio->reclaim;
	struct mapping *mapping;

	pthread_mutex_lock(&container->lock);
	unsigned int entries = container->max_mappings;
	int r = check_reach(container, region);
	if (r < 0) {
		pthread_mutex_unlock(&container->lock);
		return r;
	}
	r = container->pins ? mapping_create(container, region,
					     reclaim_granule(reclaim, region), &mapping)
			    : map_whole(container, region);
	pthread_mutex_unlock(&container->lock);
	if (r >= 0 && container->pins) {
		r = pinner_pin(reclaim, &container->pinner, region);
		if (r < 0)
			forget_region(container, region);
	}
	if (r == -ENOSPC)
		return log_err(r, "vfio: map %s: all %u entries of the IOMMU are taken",
			       region->name, entries);
	return r < 0 ? explain_refusal(container->vfio, region, r) : 0;
}

/*
 * Not every IOMMU maps what is no memory, and no guest depends on it; but one depends on the entries of
 * the granules that it has let go of.
 */
static void add_peer(struct vfio_container *container, const struct memory_region *region)
{
	pthread_mutex_lock(&container->lock);
	bool full = container->pins && container->vfio->reclaim->granule > 0 &&
		    container->nr_peers >= VFIO_SPARE_ENTRIES;
	int r = full ? -ENOSPC : map_whole(container, region);
	container->nr_peers += r >= 0;
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

static void dma_region_del(struct memory_listener *listener, struct memory_region *region)
{
	TRACE(dma_region_del, region->gpa, region->size);
	forget_region(container_of_listener(listener), region);
}

static const struct memory_listener_ops dma_listener_ops = {
	.add = dma_region_add,
	.del = dma_region_del,
};

/* What must be so before anything is mapped */

/* Granules that all RAM is cut into, if they have this size. */
static uint64_t count_granules(struct vfio *vfio, uint64_t granule)
{
	uint64_t nr = 0;

	pthread_rwlock_rdlock(&vfio->map->layout_lock);
	list_for_each(n, &vfio->map->regions) {
		const struct memory_region *region =
			container_of(n, struct memory_region, link);
		if (region->kind == MEMORY_RAM)
			nr += (region->size + granule - 1) / granule;
	}
	pthread_rwlock_unlock(&vfio->map->layout_lock);
	return nr;
}

/* "4K", "2M", "1G": as the option has it. */
static const char *format_size(uint64_t size, char *text, size_t text_size)
{
	unsigned int unit = size >= 1ull << 30 ? 30 : size >= 1ull << 20 ? 20 : 10;

	(void)snprintf(text, text_size, "%" PRIu64 "%c", size >> unit, "KMG"[unit / 10 - 1]);
	return text;
}

static int check_budget(struct vfio_container *container)
{
	struct vfio *vfio = container->vfio;
	uint64_t granule = vfio->reclaim->granule;
	char now[24], better[24];

	if (!container->pins || granule == 0)
		return 0;
	uint64_t needed = count_granules(vfio, granule);
	pthread_mutex_lock(&container->lock);
	uint64_t entries = container->max_mappings;
	pthread_mutex_unlock(&container->lock);
	if (needed + VFIO_SPARE_ENTRIES <= entries)
		return 0;
	uint64_t fits = granule;
	while (count_granules(vfio, fits) + VFIO_SPARE_ENTRIES > entries && fits < 1ull << 40)
		fits *= 2;
	return log_refuse(
		-E2BIG,
		"vfio: granule=%s: %" PRIu64 " MiB of RAM are %" PRIu64
		" granules, and %u entries are kept for BARs, but the IOMMU has %" PRIu64
		": granule=%s does, or less memory",
		format_size(granule, now, sizeof(now)), memory_map_ram_size(vfio->map) >> 20,
		needed, VFIO_SPARE_ENTRIES, entries, format_size(fits, better, sizeof(better)));
}

/* Whoever has the capability may lock what he likes. */
bool vfio_may_lock_all(void)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2] = { 0 };

	return syscall(SYS_capget, &header, data) == 0 &&
	       data[CAP_TO_INDEX(CAP_IPC_LOCK)].effective & CAP_TO_MASK(CAP_IPC_LOCK);
}

/*
 * A deflate cannot be refused. What is not pinned now, or not for long, must be able to be
 * pinned at any time.
 */
static int check_promise(struct vfio *vfio)
{
	struct rlimit limit = { .rlim_cur = RLIM_INFINITY };
	uint64_t size = memory_map_ram_size(vfio->map);
	uint64_t needed = locked_bytes(vfio, NULL);
	struct sysinfo host = { 0 };

	(void)getrlimit(RLIMIT_MEMLOCK, &limit); /* this resource always exists */
	if (limit.rlim_cur != RLIM_INFINITY && limit.rlim_cur < needed && !vfio_may_lock_all())
		return log_err(
			-ENOMEM,
			"vfio: policy=coordinated: %" PRIu64
			" bytes must be locked when the balloon is empty, RLIMIT_MEMLOCK allows "
			"%" PRIu64
			": raise it (ulimit -l, LimitMEMLOCK=), or give the guest less",
			needed, (uint64_t)limit.rlim_cur);
	if (sysinfo(&host) == 0 && (uint64_t)host.totalram * host.mem_unit < size)
		return log_err(-ENOMEM,
			       "vfio: policy=coordinated: the guest has %" PRIu64
			       " MiB when the balloon is empty, the host no more than %" PRIu64
			       ": give the guest less",
			       size >> 20, (uint64_t)host.totalram * host.mem_unit >> 20);
	return 0;
}

/* Containers */

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
		.asleep = true,
		.listener = { .ops = &dma_listener_ops, .name = "vfio container" },
		.pinner.ops = &dma_pinner_ops,
		.max_mappings = VFIO_DEFAULT_ENTRIES,
	};
	pthread_mutex_init(&container->lock, NULL);
	list_init(&container->groups);
	list_init(&container->mappings);
	pthread_mutex_lock(&vfio->lock);
	list_append(&vfio->containers, &container->link);
	pthread_mutex_unlock(&vfio->lock);
	return container;
}

/* Open or not. No group may be in it. */
static void container_destroy(struct vfio_container *container)
{
	memory_map_unlisten(container->vfio->map, &container->listener);
	assert(list_empty(&container->mappings));
	/* After the last page has been unpinned. */
	pinner_leave(container->vfio->reclaim, &container->pinner);
	pthread_mutex_lock(&container->vfio->lock);
	list_remove(&container->link);
	pthread_mutex_unlock(&container->vfio->lock);
	vfio_close(&container->fd);
	forget_pins(container);
	vfio_iommu_finish(&container->iommu);
	pthread_mutex_destroy(&container->lock);
	free(container);
}

static int take_container(struct vfio_opened *opened, int *ret_fd)
{
	if (opened->container_fd < 0)
		return log_refuse(-EBADF,
				  "vfio: attach %s: it takes a container of its own, and no "
				  "descriptor of /dev/vfio/vfio came with it",
				  opened->name);
	*ret_fd = opened->container_fd;
	opened->container_fd = -1;
	return 0;
}

/* It has no IOMMU yet: that takes a group. */
static int container_open(struct vfio_container *container)
{
	struct vfio_opened *opened = container->vfio->opened;

	int r = opened ? take_container(opened, &container->fd)
		       : vfio_open_container(&container->fd);
	if (opened && r < 0)
		return r;
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

/* What will be mapped later: can it be? */
static int check_ram(struct vfio_container *container)
{
	struct memory_map *map = container->vfio->map;
	int r = 0;

	pthread_mutex_lock(&container->lock);
	pthread_rwlock_rdlock(&map->layout_lock);
	list_for_each(n, &map->regions) {
		const struct memory_region *region =
			container_of(n, struct memory_region, link);
		if (region->kind == MEMORY_RAM && r >= 0)
			r = check_reach(container, region);
	}
	pthread_rwlock_unlock(&map->layout_lock);
	pthread_mutex_unlock(&container->lock);
	return r;
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
	if (r >= 0)
		r = check_budget(container);
	if (r >= 0 && vfio->config.coordinate && container->pins)
		r = check_promise(vfio);
	if (r < 0)
		return r;
	if (vfio->config.coordinate && vfio->config.map_late && container->pins)
		return check_ram(container);
	return vfio_container_wake(container);
fail:
	/* Nobody is in it. Further on it goes with the group that leaves. */
	container_destroy(container);
	return r;
}

int vfio_container_wake(struct vfio_container *container)
{
	struct vfio *vfio = container->vfio;

	if (!container->asleep)
		return 0;
	/* A guest may try as often as it likes, and each time costs all that was done in vain. */
	if (container->nr_failed_wakes >= MAX_WAKES &&
	    now_seconds() - container->failed_wake < WAKE_PAUSE_SECONDS)
		return -EAGAIN;
	TRACE(vfio_container_wake, 0, 0);
	/* Before the first call that pins. */
	if (container->pins)
		pinner_join(vfio->reclaim, &container->pinner);
	int r = memory_map_listen(vfio->map, &container->listener);
	if (r < 0)
		pinner_leave(vfio->reclaim, &container->pinner);
	else
		forget_pins(container);
	container->asleep = r < 0;
	container->nr_failed_wakes += r < 0;
	container->failed_wake = now_seconds();
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

/* Groups of mdevs that allow the balloon have none. */
static void raise_inhibitors(struct vfio *vfio)
{
	list_for_each(n, &vfio->groups)
		vfio_group_inhibit(container_of(n, struct vfio_group, link));
}

static void lower_inhibitors(struct vfio *vfio)
{
	list_for_each(n, &vfio->groups)
		inhibitor_lower(vfio->reclaim,
				&container_of(n, struct vfio_group, link)->inhibitor);
}

int vfio_coordinate(struct vfio *vfio)
{
	if (vfio->config.coordinate && !vfio->inhibiting)
		return 0;
	int r = vfio->inhibiting ? 0 : check_promise(vfio);
	if (r < 0)
		return r;
	vfio->config.coordinate = true;
	vfio->inhibiting = false;
	lower_inhibitors(vfio);
	return 0;
}

static int begin_inhibiting(struct vfio *vfio)
{
	/* Those asleep pin from now on, too. */
	list_for_each(n, &vfio->containers) {
		int r = vfio_container_wake(container_of(n, struct vfio_container, link));
		if (r < 0)
			return r;
	}
	raise_inhibitors(vfio);
	vfio->inhibiting = true;
	return 0;
}

int vfio_inhibit(struct vfio *vfio, uint64_t most)
{
	int r = 0;

	if (!vfio->config.coordinate)
		return 0;
	if (!vfio->inhibiting)
		r = begin_inhibiting(vfio);
	if (r < 0)
		return r;
	if (reclaim_inhibitors(vfio->reclaim) > 0)
		r = reclaim_restore(vfio->reclaim, most);
	if (r > 0)
		return r;
	vfio->inhibiting = false;
	vfio->config.coordinate = r < 0;
	if (r < 0)
		lower_inhibitors(vfio);
	return r;
}
