/* SPDX-License-Identifier: MIT */
#include "memory/reclaim.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/trace.h"

#include "memory/ram.h"

#define BITS 64u

/* The books on one region of RAM. All under the gate. */
struct block {
	struct list_node link;
	const struct memory_region *region; /* borrowed; outlives its stay in the map */
	uint64_t offset;                    /* bytes: where the region begins in its RAM */
	uint64_t nr_pages;
	uint64_t granule_pages;
	uint64_t *held;      /* owned; a bit a page */
	uint64_t *reclaimed; /* owned; a bit a granule */
	uint64_t nr_held;
	uint64_t nr_reclaimed; /* granules */
};

/* Pages, or granules, [first, end) of a block. */
struct span {
	uint64_t first;
	uint64_t end;
};

static bool test_bit(const uint64_t *bits, uint64_t i)
{
	return bits[i / BITS] >> (i % BITS) & 1;
}

/* Both return by how many the number of bits set has changed: 0 or 1. */
static unsigned int set_bit(uint64_t *bits, uint64_t i)
{
	if (test_bit(bits, i))
		return 0;
	bits[i / BITS] |= 1ull << (i % BITS);
	return 1;
}

static unsigned int clear_bit(uint64_t *bits, uint64_t i)
{
	if (!test_bit(bits, i))
		return 0;
	bits[i / BITS] &= ~(1ull << (i % BITS));
	return 1;
}

static struct block *block_of(struct list_node *n)
{
	return container_of(n, struct block, link);
}

static uint64_t granule_size(const struct block *block)
{
	return block->granule_pages * GUEST_PAGE_SIZE;
}

/* The pages of [gpa, gpa + size) that are the block's; empty (end <= first) if none are. */
static struct span pages_of(const struct block *block, gpa_t gpa, uint64_t size)
{
	const struct memory_region *region = block->region;
	uint64_t last = gpa + (size - 1);
	uint64_t region_last = region->gpa + (region->size - 1);

	if (!range_overlaps(gpa, size, region->gpa, region->size))
		return (struct span){ 0, 0 };
	uint64_t from = gpa > region->gpa ? gpa : region->gpa;
	uint64_t to = last < region_last ? last : region_last;
	return (struct span){ (from - region->gpa) / GUEST_PAGE_SIZE,
			      (to - region->gpa) / GUEST_PAGE_SIZE + 1 };
}

/* The granules that these pages touch. */
static struct span granules_touched(const struct block *block, struct span pages)
{
	return (struct span){ pages.first / block->granule_pages,
			      (pages.end + block->granule_pages - 1) / block->granule_pages };
}

/* The granules that consist of these pages alone. */
static struct span granules_within(const struct block *block, struct span pages)
{
	return (struct span){ (pages.first + block->granule_pages - 1) / block->granule_pages,
			      pages.end / block->granule_pages };
}

static bool is_complete(const struct block *block, uint64_t granule)
{
	uint64_t first = granule * block->granule_pages;

	for (uint64_t page = first; page < first + block->granule_pages; page++) {
		if (!test_bit(block->held, page))
			return false;
	}
	return true;
}

/* Under the gate. */
static enum reclaim_policy policy_now(const struct reclaim *reclaim)
{
	if (list_empty(&reclaim->inhibitors))
		return RECLAIM_DIRECT;
	return reclaim->unsafe ? RECLAIM_UNSAFE : RECLAIM_INHIBIT;
}

/* One call for all of these granules, whoever holds them. */
static int discard(struct reclaim *reclaim, const struct block *block, struct span granules,
		   struct reclaim_counts *counts)
{
	uint64_t at = granules.first * granule_size(block);
	uint64_t size = (granules.end - granules.first) * granule_size(block);

	int r = ram_discard(block->region->ram, block->offset + at, size);
	if (r < 0) {
		counts->failures++;
		if (!reclaim->failure_told)
			(void)log_err(r,
				      "reclaim: discard 0x%" PRIx64 "+0x%" PRIx64
				      ": the host keeps it; further failures are only counted",
				      block->region->gpa + at, size);
		reclaim->failure_told = true;
		return r;
	}
	counts->calls++;
	counts->bytes += size;
	return 0;
}

/*
 * Of these granules, those that are held as a whole and not reclaimed yet, in runs. Under a
 * pin the host does not get what is discarded: that counts as a discard, not as reclaimed.
 */
static void discard_held(struct reclaim *reclaim, struct block *block, struct span granules,
			 enum reclaim_policy policy)
{
	for (uint64_t i = granules.first; i < granules.end; i++) {
		struct span run = { i, i };
		while (run.end < granules.end && !test_bit(block->reclaimed, run.end) &&
		       is_complete(block, run.end))
			run.end++;
		if (run.end == run.first)
			continue;
		i = run.end - 1;
		int r = discard(reclaim, block, run, &reclaim->policies[policy]);
		if (r < 0 || policy != RECLAIM_DIRECT)
			continue;
		for (uint64_t granule = run.first; granule < run.end; granule++)
			block->nr_reclaimed += set_bit(block->reclaimed, granule);
	}
}

static struct span all_granules(const struct block *block)
{
	return (struct span){ 0, block->nr_pages / block->granule_pages };
}

/* Bytes, of all blocks. */
static uint64_t reclaimed_bytes(const struct reclaim *reclaim)
{
	uint64_t bytes = 0;

	list_for_each(n, &reclaim->blocks)
		bytes += block_of(n)->nr_reclaimed * granule_size(block_of(n));
	return bytes;
}

/* The map's listener: books are opened on a region, and closed. */

static void block_free(struct block *block)
{
	free(block->reclaimed);
	free(block->held);
	free(block);
}

static struct block *block_create(const struct memory_region *region)
{
	struct block *block = calloc(1, sizeof(*block));

	if (!block)
		return NULL;
	*block = (struct block){
		.region = region,
		.offset = (uint64_t)((char *)region->host - (char *)region->ram->host),
		.nr_pages = region->size / GUEST_PAGE_SIZE,
		.granule_pages = region->ram->page_size / GUEST_PAGE_SIZE,
	};
	block->held = calloc(block->nr_pages / BITS + 1, sizeof(*block->held));
	block->reclaimed = calloc(block->nr_pages / block->granule_pages / BITS + 1,
				  sizeof(*block->reclaimed));
	if (!block->held || !block->reclaimed) {
		block_free(block);
		return NULL;
	}
	return block;
}

static int reclaim_region_add(struct memory_listener *listener, struct memory_region *region)
{
	struct reclaim *reclaim = container_of(listener, struct reclaim, listener);

	if (region->kind != MEMORY_RAM)
		return 0;
	uint64_t offset = (uint64_t)((char *)region->host - (char *)region->ram->host);
	if (!is_aligned(offset | region->gpa | region->size, region->ram->page_size))
		return log_err(-EINVAL,
			       "reclaim: %s 0x%" PRIx64 "+0x%" PRIx64
			       " is not aligned to its pages of 0x%" PRIx64 " bytes",
			       region->name, region->gpa, region->size, region->ram->page_size);
	struct block *block = block_create(region);
	if (!block)
		return log_err(-ENOMEM, "reclaim: books on %s 0x%" PRIx64 "+0x%" PRIx64,
			       region->name, region->gpa, region->size);
	pthread_mutex_lock(&reclaim->gate);
	list_append(&reclaim->blocks, &block->link);
	pthread_mutex_unlock(&reclaim->gate);
	return 0;
}

static void reclaim_region_del(struct memory_listener *listener, struct memory_region *region)
{
	struct reclaim *reclaim = container_of(listener, struct reclaim, listener);

	pthread_mutex_lock(&reclaim->gate);
	list_for_each_safe(n, &reclaim->blocks) {
		struct block *block = block_of(n);
		if (block->region != region)
			continue;
		list_remove(n);
		block_free(block);
	}
	pthread_mutex_unlock(&reclaim->gate);
}

static const struct memory_listener_ops reclaim_listener_ops = {
	.add = reclaim_region_add,
	.del = reclaim_region_del,
};

int reclaim_init(struct reclaim *reclaim, struct memory_map *map, enum reclaim_policy inhibited)
{
	*reclaim = (struct reclaim){
		.map = map,
		.unsafe = inhibited == RECLAIM_UNSAFE,
		.listener = { .ops = &reclaim_listener_ops, .name = "reclaim" },
	};
	pthread_mutex_init(&reclaim->gate, NULL);
	list_init(&reclaim->inhibitors);
	list_init(&reclaim->blocks);
	int r = memory_map_listen(map, &reclaim->listener);
	if (r < 0)
		reclaim_finish(reclaim);
	return r;
}

void reclaim_finish(struct reclaim *reclaim)
{
	if (!reclaim->map)
		return;
	assert(list_empty(&reclaim->inhibitors));
	memory_map_unlisten(reclaim->map, &reclaim->listener);
	pthread_mutex_destroy(&reclaim->gate);
	*reclaim = (struct reclaim){ 0 };
}

/* Whoever pins makes every page present: what had been given back is not any more. */
static uint64_t forget_reclaimed(struct reclaim *reclaim)
{
	uint64_t bytes = reclaimed_bytes(reclaim);

	list_for_each(n, &reclaim->blocks) {
		struct block *block = block_of(n);
		struct span all = all_granules(block);
		for (uint64_t i = all.first; i < all.end && block->nr_reclaimed; i++)
			block->nr_reclaimed -= clear_bit(block->reclaimed, i);
	}
	return bytes;
}

void inhibitor_raise(struct reclaim *reclaim, struct inhibitor *inhibitor, const char *owner)
{
	TRACE(inhibitor_raise, 0, 0);
	(void)snprintf(inhibitor->owner, sizeof(inhibitor->owner), "%s", owner);
	pthread_mutex_lock(&reclaim->gate);
	assert(!list_linked(&inhibitor->link));
	list_append(&reclaim->inhibitors, &inhibitor->link);
	inhibitor->told = false;
	uint64_t lost = forget_reclaimed(reclaim);
	pthread_mutex_unlock(&reclaim->gate);
	if (lost)
		log_info("reclaim: %s pins guest memory: %" PRIu64
			 " MiB that the balloon had given to the host come back",
			 owner, lost >> 20);
}

/* All that is held, since nobody keeps it back any more. */
static uint64_t discard_all_held(struct reclaim *reclaim)
{
	if (reclaim->driver != RECLAIM_DRIVER_TELLS_FIRST)
		return 0;
	list_for_each(n, &reclaim->blocks) {
		if (block_of(n)->nr_held)
			discard_held(reclaim, block_of(n), all_granules(block_of(n)),
				     RECLAIM_DIRECT);
	}
	return reclaimed_bytes(reclaim);
}

void inhibitor_lower(struct reclaim *reclaim, struct inhibitor *inhibitor)
{
	uint64_t gained = 0;

	TRACE(inhibitor_lower, 0, 0);
	pthread_mutex_lock(&reclaim->gate);
	if (list_linked(&inhibitor->link)) {
		list_remove(&inhibitor->link);
		if (list_empty(&reclaim->inhibitors))
			gained = discard_all_held(reclaim);
	}
	pthread_mutex_unlock(&reclaim->gate);
	if (gained)
		log_info("reclaim: %s pins no more: %" PRIu64
			 " MiB that the balloon holds go to the host",
			 inhibitor->owner, gained >> 20);
}

unsigned int reclaim_inhibitors(struct reclaim *reclaim)
{
	unsigned int n = 0;

	pthread_mutex_lock(&reclaim->gate);
	list_for_each(node, &reclaim->inhibitors)
		n++;
	pthread_mutex_unlock(&reclaim->gate);
	return n;
}

void reclaim_set_driver(struct reclaim *reclaim, enum reclaim_driver driver)
{
	pthread_mutex_lock(&reclaim->gate);
	reclaim->driver = driver;
	pthread_mutex_unlock(&reclaim->gate);
}

/* Each owner once: a guest inflates for as long as it likes. */
static void tell_inhibitors(struct reclaim *reclaim)
{
	list_for_each(n, &reclaim->inhibitors) {
		struct inhibitor *inhibitor = container_of(n, struct inhibitor, link);
		if (!inhibitor->told)
			log_warn("reclaim: %s has guest memory pinned: what the guest gives up "
				 "is remembered, the host gains nothing",
				 inhibitor->owner);
		inhibitor->told = true;
	}
}

static void take_pages(struct reclaim *reclaim, struct block *block, struct span pages)
{
	enum reclaim_policy policy = policy_now(reclaim);
	struct span granules = granules_touched(block, pages);
	uint64_t before = block->nr_held;

	for (uint64_t page = pages.first; page < pages.end; page++)
		block->nr_held += set_bit(block->held, page);
	reclaim->policies[policy].taken += (block->nr_held - before) * GUEST_PAGE_SIZE;
	if (policy == RECLAIM_INHIBIT) {
		tell_inhibitors(reclaim);
		return;
	}
	if (reclaim->driver == RECLAIM_DRIVER_MAY_NOT_TELL) {
		/* What was held before may be in use; what is named now is not, this once. */
		granules = granules_within(block, pages);
		for (uint64_t i = granules.first; i < granules.end; i++)
			block->nr_reclaimed -= clear_bit(block->reclaimed, i);
	}
	discard_held(reclaim, block, granules, policy);
}

/* A hugetlb granule, before it is touched: from an empty pool a touch would be fatal. */
static int make_present(const struct block *block, uint64_t granule)
{
	if (block->granule_pages == 1)
		return 0;
	return ram_populate(block->region->ram, block->offset + granule * granule_size(block),
			    granule_size(block));
}

/* Is one of those pages held that lie in the granule? */
static bool any_held(const struct block *block, struct span pages, uint64_t granule)
{
	uint64_t begin = granule * block->granule_pages;
	uint64_t page = begin > pages.first ? begin : pages.first;

	for (; page < pages.end && page < begin + block->granule_pages; page++) {
		if (test_bit(block->held, page))
			return true;
	}
	return false;
}

static int give_back_pages(struct block *block, struct span pages)
{
	struct span granules = granules_touched(block, pages);

	for (uint64_t i = granules.first; i < granules.end; i++) {
		if (!test_bit(block->reclaimed, i) || !any_held(block, pages, i))
			continue;
		if (make_present(block, i) < 0)
			return -ENOMEM;
		block->nr_reclaimed -= clear_bit(block->reclaimed, i);
	}
	for (uint64_t page = pages.first; page < pages.end; page++)
		block->nr_held -= clear_bit(block->held, page);
	return 0;
}

static bool pages_valid(gpa_t gpa, uint64_t size)
{
	return range_valid(gpa, size) && is_aligned(gpa | size, GUEST_PAGE_SIZE);
}

int reclaim_take(struct reclaim *reclaim, gpa_t gpa, uint64_t size)
{
	uint64_t nr_found = 0;

	TRACE(reclaim_take, gpa, size);
	if (!pages_valid(gpa, size))
		return -EINVAL;
	pthread_mutex_lock(&reclaim->gate);
	list_for_each(n, &reclaim->blocks) {
		struct span pages = pages_of(block_of(n), gpa, size);
		if (pages.end == pages.first)
			continue;
		take_pages(reclaim, block_of(n), pages);
		nr_found += pages.end - pages.first;
	}
	pthread_mutex_unlock(&reclaim->gate);
	return nr_found == size / GUEST_PAGE_SIZE ? 0 : -EFAULT;
}

int reclaim_give_back(struct reclaim *reclaim, gpa_t gpa, uint64_t size)
{
	uint64_t nr_found = 0;
	int r = 0;

	TRACE(reclaim_give_back, gpa, size);
	if (!pages_valid(gpa, size))
		return -EINVAL;
	pthread_mutex_lock(&reclaim->gate);
	list_for_each(n, &reclaim->blocks) {
		struct span pages = pages_of(block_of(n), gpa, size);
		if (pages.end == pages.first)
			continue;
		nr_found += pages.end - pages.first;
		r = give_back_pages(block_of(n), pages);
		if (r < 0)
			break;
	}
	pthread_mutex_unlock(&reclaim->gate);
	if (r < 0)
		return r;
	return nr_found == size / GUEST_PAGE_SIZE ? 0 : -EFAULT;
}

/* Whatever fails: a page that could not be made present is the guest's all the same. */
static int give_back_block(struct block *block)
{
	struct span all = all_granules(block);
	int r = 0;

	for (uint64_t i = all.first; i < all.end && block->nr_reclaimed; i++) {
		if (!test_bit(block->reclaimed, i))
			continue;
		block->nr_reclaimed -= clear_bit(block->reclaimed, i);
		if (r >= 0)
			r = make_present(block, i);
	}
	for (uint64_t page = 0; page < block->nr_pages && block->nr_held; page++)
		block->nr_held -= clear_bit(block->held, page);
	return r;
}

void reclaim_give_back_all(struct reclaim *reclaim)
{
	TRACE(reclaim_give_back_all, 0, 0);
	pthread_mutex_lock(&reclaim->gate);
	list_for_each(n, &reclaim->blocks) {
		const struct memory_region *region = block_of(n)->region;
		int r = give_back_block(block_of(n));
		if (r < 0)
			(void)log_err(r,
				      "reclaim: make all of %s present again: going on, the "
				      "guest fails where it touches what is missing (free more "
				      "hugetlb pages)",
				      region->name);
	}
	pthread_mutex_unlock(&reclaim->gate);
}

static int report(struct reclaim *reclaim, gpa_t gpa, uint64_t size)
{
	list_for_each(n, &reclaim->blocks) {
		const struct block *block = block_of(n);
		if (!range_within(gpa, size, block->region->gpa, block->region->size))
			continue;
		/* What sticks out at either end is no whole page either. */
		uint64_t from = align_up(gpa - block->region->gpa, granule_size(block));
		uint64_t to = align_down(gpa - block->region->gpa + size, granule_size(block));
		struct span granules = { from / granule_size(block), to / granule_size(block) };
		reclaim->reports.taken += size;
		if (!list_empty(&reclaim->inhibitors))
			return -EBUSY;
		if (granules.first >= granules.end)
			return 0;
		return discard(reclaim, block, granules, &reclaim->reports);
	}
	return -EFAULT;
}

int reclaim_report(struct reclaim *reclaim, gpa_t gpa, uint64_t size)
{
	TRACE(reclaim_report, gpa, size);
	if (!range_valid(gpa, size))
		return -EFAULT;
	pthread_mutex_lock(&reclaim->gate);
	int r = report(reclaim, gpa, size);
	pthread_mutex_unlock(&reclaim->gate);
	return r;
}

/* Bytes held in granules that are not held as a whole. */
static uint64_t incomplete_bytes(const struct block *block)
{
	struct span all = all_granules(block);
	uint64_t nr_complete = 0;

	if (block->granule_pages == 1 || block->nr_held == 0)
		return 0;
	for (uint64_t i = all.first; i < all.end; i++)
		nr_complete += is_complete(block, i);
	return (block->nr_held - nr_complete * block->granule_pages) * GUEST_PAGE_SIZE;
}

static void name_owners(const struct reclaim *reclaim, struct reclaim_figures *ret)
{
	list_for_each(n, &reclaim->inhibitors) {
		const struct inhibitor *inhibitor = container_of(n, struct inhibitor, link);
		ret->nr_inhibitors++;
		if (ret->nr_owners == RECLAIM_MAX_OWNERS)
			continue;
		memcpy(ret->owners[ret->nr_owners++], inhibitor->owner,
		       sizeof(inhibitor->owner));
	}
}

void reclaim_figures(struct reclaim *reclaim, struct reclaim_figures *ret)
{
	*ret = (struct reclaim_figures){ 0 };
	pthread_mutex_lock(&reclaim->gate);
	ret->policy = policy_now(reclaim);
	list_for_each(n, &reclaim->blocks) {
		const struct block *block = block_of(n);
		ret->held += block->nr_held * GUEST_PAGE_SIZE;
		ret->reclaimed += block->nr_reclaimed * granule_size(block);
		ret->incomplete += incomplete_bytes(block);
	}
	ret->held_back = ret->held - ret->reclaimed;
	name_owners(reclaim, ret);
	memcpy(ret->policies, reclaim->policies, sizeof(ret->policies));
	ret->reports = reclaim->reports;
	pthread_mutex_unlock(&reclaim->gate);
}

const char *reclaim_policy_name(enum reclaim_policy policy)
{
	static const char *const names[] = {
		[RECLAIM_DIRECT] = "direct",
		[RECLAIM_INHIBIT] = "inhibit",
		[RECLAIM_UNSAFE] = "unsafe",
	};

	return names[policy];
}
