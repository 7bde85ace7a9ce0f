/* SPDX-License-Identifier: MIT */
#include "memory/reclaim.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/bits.h"
#include "base/log.h"
#include "base/trace.h"

#include "memory/ram.h"

/* What is made present, or pinned, before somebody else may have the gate; a granule at least. */
#define STEP (64ull << 20)
#define PROGRESS_SECONDS 2

/*
 * The host has nothing of its huge pages until they are gone as a whole, and to take one to
 * pieces costs more than to give it up. What nobody pins waits for its neighbours.
 */
#define HUGE_PAGES ((2ull << 20) / GUEST_PAGE_SIZE)
/* Calls that one tick makes for them, or as many more as a huge page has pieces. */
#define TICK_CALLS 2048u

/* The books on one region of RAM. All under the gate. */
struct block {
	struct list_node link;
	const struct memory_region *region; /* borrowed; outlives its stay in the map */
	uint64_t offset;                    /* bytes: where the region begins in its RAM */
	uint64_t nr_pages;
	uint64_t unit_pages;
	uint64_t granule_pages;
	uint64_t *held;      /* owned; a bit a page */
	uint64_t *reclaimed; /* owned; a bit a unit */
	uint64_t *released;  /* owned; a bit a granule */
	uint64_t *rests;     /* owned; a bit a granule: made live since the last tick */
	uint64_t *rested;    /* owned; likewise: since the one before */
	uint64_t *waits;     /* owned; a bit a huge page: held in part */
	uint64_t nr_held;
	uint64_t nr_reclaimed; /* units */
	uint64_t nr_released;  /* granules */
	uint64_t nr_resting;   /* bits in both */
	uint64_t nr_waiting;   /* huge pages */
	bool unsure; /* of hugetlb: what is held, and not marked as reclaimed, may be missing */
};

/* A struct span here is of pages, units or granules of a block. */

static struct block *block_of(struct list_node *n)
{
	return container_of(n, struct block, link);
}

static uint64_t divide_up(uint64_t n, uint64_t by)
{
	return (n + by - 1) / by;
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

/* Pieces are of so many pages each, the last one perhaps of fewer. Those that pages touch. */
static struct span touched(struct span pages, uint64_t piece_pages)
{
	return (struct span){ pages.first / piece_pages, divide_up(pages.end, piece_pages) };
}

/* The pages of pieces. */
static struct span pages_in(const struct block *block, struct span pieces, uint64_t piece_pages)
{
	return (struct span){ pieces.first * piece_pages,
			      min(pieces.end * piece_pages, block->nr_pages) };
}

/* Those of one. */
static struct span pages_at(const struct block *block, uint64_t i, uint64_t piece_pages)
{
	return pages_in(block, (struct span){ i, i + 1 }, piece_pages);
}

static struct span all_pages(const struct block *block)
{
	return (struct span){ 0, block->nr_pages };
}

static struct span all_granules(const struct block *block)
{
	return touched(all_pages(block), block->granule_pages);
}

/* Pages are whole units. */
static struct span units_of(const struct block *block, struct span pages)
{
	return (struct span){ pages.first / block->unit_pages, pages.end / block->unit_pages };
}

static uint64_t span_size(struct span pages)
{
	return (pages.end - pages.first) * GUEST_PAGE_SIZE;
}

static uint64_t span_offset(const struct block *block, struct span pages)
{
	return block->offset + pages.first * GUEST_PAGE_SIZE;
}

static gpa_t span_gpa(const struct block *block, struct span pages)
{
	return block->region->gpa + pages.first * GUEST_PAGE_SIZE;
}

static bool is_resting(const struct block *block, uint64_t granule)
{
	return bit_test(block->rests, granule) || bit_test(block->rested, granule);
}

/* Under the gate, as all that follows. */
static enum reclaim_policy policy_now(const struct reclaim *reclaim)
{
	if (reclaim->draining)
		return RECLAIM_INHIBIT;
	if (!list_empty(&reclaim->inhibitors))
		return reclaim->unsafe ? RECLAIM_UNSAFE : RECLAIM_INHIBIT;
	if (list_empty(&reclaim->pinners))
		return RECLAIM_DIRECT;
	return reclaim->driver == RECLAIM_DRIVER_TELLS_FIRST ? RECLAIM_COORDINATED
							     : RECLAIM_INHIBIT;
}

/* Nobody pins, and what is held may be discarded later as well as now. */
static bool may_wait(const struct reclaim *reclaim)
{
	return policy_now(reclaim) == RECLAIM_DIRECT &&
	       reclaim->driver == RECLAIM_DRIVER_TELLS_FIRST;
}

/* How many pages can be discarded by themselves. */
static uint64_t piece_pages(const struct reclaim *reclaim, const struct block *block)
{
	return list_empty(&reclaim->pinners) ? block->unit_pages : block->granule_pages;
}

static void mark_reclaimed(struct block *block, struct span pages)
{
	struct span units = units_of(block, pages);

	for (uint64_t i = units.first; i < units.end; i++)
		block->nr_reclaimed += bit_set(block->reclaimed, i);
}

static void unmark_reclaimed(struct block *block, struct span pages)
{
	struct span units = units_of(block, pages);

	for (uint64_t i = units.first; i < units.end && block->nr_reclaimed; i++)
		block->nr_reclaimed -= bit_clear(block->reclaimed, i);
}

static void unmark_released(struct block *block, struct span granules)
{
	for (uint64_t i = granules.first; i < granules.end && block->nr_released; i++)
		block->nr_released -= bit_clear(block->released, i);
}

/* Pinners let go, and pin again */

/* One call for all of these pages, whoever holds them. */
static int discard(struct reclaim *reclaim, const struct block *block, struct span pages,
		   struct reclaim_counts *counts)
{
	int r = ram_discard(block->region->ram, span_offset(block, pages), span_size(pages));
	if (r < 0) {
		counts->failures++;
		if (!reclaim->failure_told)
			(void)log_err(r,
				      "reclaim: discard 0x%" PRIx64 "+0x%" PRIx64
				      ": the host keeps it; further failures are only counted",
				      span_gpa(block, pages), span_size(pages));
		reclaim->failure_told = true;
		return r;
	}
	counts->calls++;
	counts->bytes += span_size(pages);
	return 0;
}

static struct pinner *pinner_of(struct list_node *n)
{
	return container_of(n, struct pinner, link);
}

static int populate_one(struct list_node *n, const struct block *block, struct span pages)
{
	return pinner_of(n)->ops->populate(pinner_of(n), block->region, span_gpa(block, pages),
					   span_size(pages));
}

static int discard_one(struct list_node *n, const struct block *block, struct span pages)
{
	return pinner_of(n)->ops->discard(pinner_of(n), block->region, span_gpa(block, pages),
					  span_size(pages));
}

typedef int tell_one(struct list_node *n, const struct block *block, struct span pages);

/* All pinners do it, or, if one of them cannot, none does; but for those that cannot undo it. */
static int tell_pinners(struct reclaim *reclaim, const struct block *block, struct span pages,
			tell_one *act, tell_one *undo, bool *ret_undone)
{
	*ret_undone = true;
	list_for_each(n, &reclaim->pinners) {
		int r = act(n, block, pages);
		if (r >= 0)
			continue;
		/* This one too, which may have done a part of it, or tells that it has not. */
		*ret_undone = undo(n, block, pages) >= 0;
		list_for_each_reverse_from(told, n, &reclaim->pinners)
			*ret_undone &= undo(told, block, pages) >= 0;
		return r;
	}
	return 0;
}

/* Granules are pinned by nobody any more. On failure those that were live are live as before. */
static int release(struct reclaim *reclaim, struct block *block, struct span granules)
{
	struct span pages = pages_in(block, granules, block->granule_pages);
	bool undone;

	int r = tell_pinners(reclaim, block, pages, discard_one, populate_one, &undone);
	if (r < 0) {
		reclaim->nr_not_released += granules.end - granules.first;
		if (!reclaim->release_failure_told)
			(void)log_err(r,
				      "reclaim: unmap 0x%" PRIx64 "+0x%" PRIx64
				      " for devices: it stays as it is; further failures are "
				      "only counted",
				      span_gpa(block, pages), span_size(pages));
		reclaim->release_failure_told = true;
		if (undone)
			return r;
		/* Some have it pinned, some do not: that is mended before it is given back. */
	}
	for (uint64_t i = granules.first; i < granules.end; i++) {
		unsigned int change = bit_set(block->released, i);
		block->nr_released += change;
		reclaim->nr_released += r < 0 ? 0 : change;
	}
	return r;
}

/*
 * What was made present for granules that then could not be pinned goes back. One that was not
 * reclaimed before some pinner may hold on to: it stays. So does all under an inhibitor.
 */
static void discard_again(struct reclaim *reclaim, struct block *block, struct span granules)
{
	/* In a reset the guest's new kernel may be in it already. */
	bool may = list_empty(&reclaim->inhibitors) && !reclaim->draining;

	for (uint64_t i = granules.first; i < granules.end; i++) {
		struct span pages = pages_at(block, i, block->granule_pages);
		if (may && bits_all(block->reclaimed, units_of(block, pages)) &&
		    ram_discard(block->region->ram, span_offset(block, pages),
				span_size(pages)) >= 0)
			continue;
		unmark_reclaimed(block, pages);
	}
}

/*
 * Makes released granules live: present first, then pinned by all. -ENOMEM: they are as they
 * were, but for what some pinner that was asked to let go again could not: that is not reclaimed.
 */
static int restore(struct reclaim *reclaim, struct block *block, struct span granules)
{
	struct span pages = pages_in(block, granules, block->granule_pages);
	bool undone = true;

	int r = ram_populate(block->region->ram, span_offset(block, pages), span_size(pages));
	if (r >= 0)
		r = tell_pinners(reclaim, block, pages, populate_one, discard_one, &undone);
	if (r < 0) {
		reclaim->nr_not_restored += granules.end - granules.first;
		if (undone)
			discard_again(reclaim, block, granules);
		else
			unmark_reclaimed(block, pages);
		return -ENOMEM;
	}
	reclaim->nr_restored += granules.end - granules.first;
	unmark_released(block, granules);
	unmark_reclaimed(block, pages);
	return 0;
}

/* Discarding what is held */

/* Pieces that were let go of, one call for all. What was pinned does not count as reclaimed. */
static void discard_run(struct reclaim *reclaim, struct block *block, struct span pages,
			enum reclaim_policy policy)
{
	if (policy == RECLAIM_COORDINATED &&
	    release(reclaim, block, touched(pages, block->granule_pages)) < 0)
		return;
	if (discard(reclaim, block, pages, &reclaim->policies[policy]) >= 0 &&
	    policy != RECLAIM_UNSAFE)
		mark_reclaimed(block, pages);
}

/* Held as a whole, and neither gone already nor at rest. */
static bool is_due(const struct block *block, uint64_t piece, uint64_t pages,
		   enum reclaim_policy policy)
{
	struct span one = pages_at(block, piece, pages);

	if (!bits_all(block->held, one))
		return false;
	/* One that is released and not reclaimed could not be discarded the last time. */
	return !bits_all(block->reclaimed, units_of(block, one)) &&
	       (policy != RECLAIM_COORDINATED || !is_resting(block, piece));
}

/* Of these pieces, of so many pages each, those that are due, in runs. */
static void discard_held(struct reclaim *reclaim, struct block *block, struct span pieces,
			 uint64_t pages, enum reclaim_policy policy)
{
	for (uint64_t i = pieces.first; i < pieces.end; i++) {
		struct span run = { i, i };
		while (run.end < pieces.end && is_due(block, run.end, pages, policy))
			run.end++;
		if (run.end == run.first)
			continue;
		i = run.end - 1;
		discard_run(reclaim, block, pages_in(block, run, pages), policy);
	}
}

/* Of the units that these pages are of. */
static void discard_units(struct reclaim *reclaim, struct block *block, struct span pages,
			  enum reclaim_policy policy)
{
	discard_held(reclaim, block, touched(pages, block->unit_pages), block->unit_pages,
		     policy);
}

/* Bytes, of all blocks. */
static uint64_t reclaimed_bytes(const struct reclaim *reclaim)
{
	uint64_t bytes = 0;

	list_for_each(n, &reclaim->blocks)
		bytes += block_of(n)->nr_reclaimed * block_of(n)->unit_pages * GUEST_PAGE_SIZE;
	return bytes;
}

/* Held, and waiting for the rest of their huge page. Parts of larger units are incomplete. */
static uint64_t waiting_bytes(const struct reclaim *reclaim, const struct block *block)
{
	const uint64_t words = HUGE_PAGES / BITS_A_WORD;
	struct span all = touched(all_pages(block), HUGE_PAGES);
	uint64_t pages = 0;

	if (block->nr_waiting == 0 || block->unit_pages > 1 || !may_wait(reclaim))
		return 0;
	for (uint64_t i = bits_find(block->waits, all, true); i < all.end;
	     i = bits_find(block->waits, (struct span){ i + 1, all.end }, true)) {
		for (uint64_t k = i * words;
		     k < (i + 1) * words && k <= block->nr_pages / BITS_A_WORD; k++)
			pages += (uint64_t)__builtin_popcountll(block->held[k] &
								~block->reclaimed[k]);
	}
	return pages * GUEST_PAGE_SIZE;
}

/* Bytes, of all blocks: gone, or about to go. */
static uint64_t due_bytes(const struct reclaim *reclaim)
{
	uint64_t bytes = reclaimed_bytes(reclaim);

	list_for_each(n, &reclaim->blocks)
		bytes += waiting_bytes(reclaim, block_of(n));
	return bytes;
}

/* Nobody pins. Of the huge pages that these pages are of, those held as a whole; others wait. */
static void discard_huge(struct reclaim *reclaim, struct block *block, struct span pages)
{
	struct span huge = touched(pages, HUGE_PAGES);

	for (uint64_t i = huge.first; i < huge.end; i++) {
		struct span run = { i, i };
		while (run.end < huge.end &&
		       bits_all(block->held, pages_at(block, run.end, HUGE_PAGES)))
			run.end++;
		if (run.end == i) {
			if (bits_any(block->held, pages_at(block, i, HUGE_PAGES)))
				block->nr_waiting += bit_set(block->waits, i);
			continue;
		}
		i = run.end - 1;
		discard_units(reclaim, block, pages_in(block, run, HUGE_PAGES), RECLAIM_DIRECT);
	}
}

/*
 * All that is held, if nobody forbids it and the driver would say when it uses it. Of what nobody
 * pins only whole huge pages: a guest may hold every second page, and others wait meanwhile.
 */
static void discard_all_held(struct reclaim *reclaim)
{
	enum reclaim_policy policy = policy_now(reclaim);

	if (policy == RECLAIM_INHIBIT || policy == RECLAIM_UNSAFE ||
	    reclaim->driver != RECLAIM_DRIVER_TELLS_FIRST)
		return;
	list_for_each(n, &reclaim->blocks) {
		struct block *block = block_of(n);
		if (block->nr_held == 0)
			continue;
		if (policy == RECLAIM_DIRECT)
			discard_huge(reclaim, block, all_pages(block));
		else
			discard_held(reclaim, block, all_granules(block), block->granule_pages,
				     policy);
	}
}

static bool has_waiting(const struct reclaim *reclaim)
{
	bool waits = false;

	list_for_each(n, &reclaim->blocks)
		waits = waits || block_of(n)->nr_waiting > 0;
	return waits;
}

/* Not under the gate. */
static void tell_waiting(const struct reclaim *reclaim, bool waits)
{
	if (waits && reclaim->tick_due)
		reclaim->tick_due(reclaim->tick_opaque);
}

/*
 * What has not become whole since the last tick is discarded as it is, if it still may be. A guest
 * may name every second page: false: there is more of it.
 */
static bool discard_waiting(struct reclaim *reclaim, struct block *block)
{
	const struct reclaim_counts *counts = &reclaim->policies[RECLAIM_DIRECT];
	uint64_t end = counts->calls + counts->failures + TICK_CALLS;
	struct span all = touched(all_pages(block), HUGE_PAGES);

	for (uint64_t i = all.first; block->nr_waiting; i++) {
		if (counts->calls + counts->failures >= end)
			return false;
		i = bits_find(block->waits, (struct span){ i, all.end }, true);
		block->nr_waiting -= bit_clear(block->waits, i);
		if (may_wait(reclaim))
			discard_units(reclaim, block, pages_at(block, i, HUGE_PAGES),
				      RECLAIM_DIRECT);
	}
	return true;
}

/* The map's listener: books are opened on a region, and closed. */

static void block_free(struct block *block)
{
	free(block->waits);
	free(block->rested);
	free(block->rests);
	free(block->released);
	free(block->reclaimed);
	free(block->held);
	free(block);
}

static struct block *block_create(const struct reclaim *reclaim,
				  const struct memory_region *region)
{
	struct block *block = calloc(1, sizeof(*block));

	if (!block)
		return NULL;
	*block = (struct block){
		.region = region,
		.offset = (uint64_t)((char *)region->host - (char *)region->ram->host),
		.nr_pages = region->size / GUEST_PAGE_SIZE,
		.unit_pages = region->ram->page_size / GUEST_PAGE_SIZE,
		.granule_pages = reclaim_granule(reclaim, region) / GUEST_PAGE_SIZE,
	};
	uint64_t nr_granules = all_granules(block).end;
	block->held = bits_create(block->nr_pages);
	block->reclaimed = bits_create(block->nr_pages / block->unit_pages);
	block->released = bits_create(nr_granules);
	block->rests = bits_create(nr_granules);
	block->rested = bits_create(nr_granules);
	block->waits = bits_create(touched(all_pages(block), HUGE_PAGES).end);
	if (!block->held || !block->reclaimed || !block->released || !block->rests ||
	    !block->rested || !block->waits) {
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
	struct block *block = block_create(reclaim, region);
	if (!block)
		return log_err(-ENOMEM, "reclaim: books on %s 0x%" PRIx64 "+0x%" PRIx64,
			       region->name, region->gpa, region->size);
	pthread_mutex_lock(&reclaim->gate);
	list_append(&reclaim->blocks, &block->link);
	pthread_mutex_unlock(&reclaim->gate);
	return 0;
}

static struct block *find_block(struct reclaim *reclaim, const struct memory_region *region)
{
	list_for_each(n, &reclaim->blocks) {
		if (block_of(n)->region == region)
			return block_of(n);
	}
	return NULL;
}

static void reclaim_region_del(struct memory_listener *listener, struct memory_region *region)
{
	struct reclaim *reclaim = container_of(listener, struct reclaim, listener);

	pthread_mutex_lock(&reclaim->gate);
	struct block *block = find_block(reclaim, region);
	if (block) {
		list_remove(&block->link);
		block_free(block);
	}
	pthread_mutex_unlock(&reclaim->gate);
}

static const struct memory_listener_ops reclaim_listener_ops = {
	.add = reclaim_region_add,
	.del = reclaim_region_del,
};

int reclaim_init(struct reclaim *reclaim, struct memory_map *map, enum reclaim_policy inhibited,
		 uint64_t granule)
{
	assert(granule == 0 || (is_power_of_2(granule) && granule >= GUEST_PAGE_SIZE));
	*reclaim = (struct reclaim){
		.map = map,
		.unsafe = inhibited == RECLAIM_UNSAFE,
		.granule = granule,
		.listener = { .ops = &reclaim_listener_ops, .name = "reclaim" },
	};
	pthread_mutex_init(&reclaim->gate, NULL);
	list_init(&reclaim->inhibitors);
	list_init(&reclaim->pinners);
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
	assert(list_empty(&reclaim->pinners));
	memory_map_unlisten(reclaim->map, &reclaim->listener);
	pthread_mutex_destroy(&reclaim->gate);
	*reclaim = (struct reclaim){ 0 };
}

uint64_t reclaim_granule(const struct reclaim *reclaim, const struct memory_region *region)
{
	if (reclaim->granule == 0)
		return region->size;
	return reclaim->granule > region->ram->page_size ? reclaim->granule
							 : region->ram->page_size;
}

/* Inhibitors */

/* It is about to be made present, which takes its time, and may fail. */
static void lose_reclaimed(struct block *block, struct span pages)
{
	block->unsure = block->unsure || (block->unit_pages > 1 && block->nr_reclaimed > 0);
	unmark_reclaimed(block, pages);
}

/* Whoever pins makes every page present: what had been given back is not any more. */
static uint64_t forget_reclaimed(struct reclaim *reclaim)
{
	uint64_t bytes = reclaimed_bytes(reclaim);

	list_for_each(n, &reclaim->blocks)
		lose_reclaimed(block_of(n), all_pages(block_of(n)));
	return bytes;
}

static void tell_lost(const char *who, uint64_t bytes)
{
	if (bytes)
		log_info("reclaim: %s pins guest memory: %" PRIu64
			 " MiB that the balloon had given to the host come back",
			 who, bytes >> 20);
}

void inhibitor_raise(struct reclaim *reclaim, struct inhibitor *inhibitor, const char *owner)
{
	uint64_t lost = 0;

	TRACE(inhibitor_raise, 0, 0);
	(void)snprintf(inhibitor->owner, sizeof(inhibitor->owner), "%s", owner);
	pthread_mutex_lock(&reclaim->gate);
	assert(!list_linked(&inhibitor->link));
	list_append(&reclaim->inhibitors, &inhibitor->link);
	inhibitor->told = false;
	/* What a pinner has let go of nobody else has pinned, and it stays away. */
	if (list_empty(&reclaim->pinners))
		lost = forget_reclaimed(reclaim);
	pthread_mutex_unlock(&reclaim->gate);
	tell_lost(owner, lost);
	if (reclaim->watcher)
		reclaim->watcher->raised(reclaim->watcher->opaque, inhibitor->owner);
}

void inhibitor_lower(struct reclaim *reclaim, struct inhibitor *inhibitor)
{
	uint64_t before = 0;
	uint64_t after = 0;
	bool waits = false;

	TRACE(inhibitor_lower, 0, 0);
	pthread_mutex_lock(&reclaim->gate);
	bool raised = list_linked(&inhibitor->link);
	if (raised) {
		list_remove(&inhibitor->link);
		before = reclaimed_bytes(reclaim);
		discard_all_held(reclaim);
		after = due_bytes(reclaim);
		waits = has_waiting(reclaim);
	}
	pthread_mutex_unlock(&reclaim->gate);
	tell_waiting(reclaim, waits);
	if (after > before)
		log_info("reclaim: %s inhibits no more: %" PRIu64
			 " MiB that the balloon holds go to the host",
			 inhibitor->owner, (after - before) >> 20);
	if (raised && reclaim->watcher)
		reclaim->watcher->lowered(reclaim->watcher->opaque, inhibitor->owner);
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

/* Pinners */

/* From units to granules: one that is wholly gone is released, of others nothing stays gone. */
static void adopt_granules(struct block *block)
{
	struct span all = all_granules(block);

	for (uint64_t i = all.first; i < all.end; i++) {
		struct span pages = pages_at(block, i, block->granule_pages);
		if (bits_all(block->reclaimed, units_of(block, pages)))
			block->nr_released += bit_set(block->released, i);
		else
			lose_reclaimed(block, pages);
	}
}

void pinner_join(struct reclaim *reclaim, struct pinner *pinner)
{
	TRACE(pinner_join, 0, 0);
	pthread_mutex_lock(&reclaim->gate);
	assert(!list_linked(&pinner->link));
	uint64_t before = reclaimed_bytes(reclaim);
	/* One that may not tell may be using it: all is about to be pinned. */
	if (reclaim->driver != RECLAIM_DRIVER_TELLS_FIRST && list_empty(&reclaim->pinners))
		(void)forget_reclaimed(reclaim);
	if (list_empty(&reclaim->pinners)) {
		list_for_each(n, &reclaim->blocks)
			adopt_granules(block_of(n));
	}
	list_append(&reclaim->pinners, &pinner->link);
	uint64_t lost = before - reclaimed_bytes(reclaim);
	pthread_mutex_unlock(&reclaim->gate);
	tell_lost("a device", lost);
}

/* A long way, of which something is said now and then. */
struct progress {
	uint64_t done; /* bytes, of the region */
	time_t told;
};

static void tell_progress(struct progress *progress, const struct memory_region *region)
{
	if (progress->done == region->size || now_seconds() - progress->told < PROGRESS_SECONDS)
		return;
	log_info("reclaim: making %s present: %" PRIu64 " of %" PRIu64 " MiB", region->name,
		 progress->done >> 20, region->size >> 20);
	progress->told = now_seconds();
}

/*
 * Makes pages present. Pinning would do so as well, but page by page, and without a word for
 * as long as it takes.
 */
static int make_present(const struct block *block, struct span pages, struct progress *progress)
{
	uint64_t size = span_size(pages);

	for (uint64_t done = 0; done < size;) {
		uint64_t step = min(size - done, STEP);
		int r = ram_populate(block->region->ram, span_offset(block, pages) + done,
				     step);
		if (r < 0)
			return r;
		done += step;
		progress->done = pages.first * GUEST_PAGE_SIZE + done;
		tell_progress(progress, block->region);
	}
	return 0;
}

/* From `first` on the next granules that are released, or live: as many as `size` has, or one. */
static struct span next_granules(const struct block *block, uint64_t first, bool released,
				 uint64_t size)
{
	uint64_t most = size / GUEST_PAGE_SIZE / block->granule_pages;
	struct span run = { first, all_granules(block).end };

	run.first = bits_find(block->released, run, released);
	run.end = min(run.end, run.first + (most ? most : 1));
	run.end = bits_find(block->released, run, !released);
	return run;
}

/* From *granule on: what is live next, but not much of it. Moves *granule on. */
static int pin_some(struct pinner *pinner, struct block *block, uint64_t *granule,
		    struct progress *progress)
{
	struct span run = next_granules(block, *granule, false, STEP);

	*granule = run.end;
	if (run.end == run.first)
		return 0;
	struct span pages = pages_in(block, run, block->granule_pages);
	int r = make_present(block, pages, progress);
	return r < 0 ? r
		     : pinner->ops->populate(pinner, block->region, span_gpa(block, pages),
					     span_size(pages));
}

int pinner_pin(struct reclaim *reclaim, struct pinner *pinner,
	       const struct memory_region *region)
{
	struct progress progress = { .told = now_seconds() };
	uint64_t granule = 0;
	bool more = true;
	int r = 0;

	while (more && r >= 0) {
		pthread_mutex_lock(&reclaim->gate);
		struct block *block = find_block(reclaim, region);
		assert(block); /* we are the first to hear of a region, and the last */
		r = pin_some(pinner, block, &granule, &progress);
		more = granule < all_granules(block).end;
		pthread_mutex_unlock(&reclaim->gate);
	}
	return r;
}

void pinner_leave(struct reclaim *reclaim, struct pinner *pinner)
{
	TRACE(pinner_leave, 0, 0);
	pthread_mutex_lock(&reclaim->gate);
	bool joined = list_linked(&pinner->link);
	list_remove(&pinner->link);
	if (joined && list_empty(&reclaim->pinners)) {
		list_for_each(n, &reclaim->blocks)
			unmark_released(block_of(n), all_granules(block_of(n)));
		discard_all_held(reclaim);
	}
	bool waits = joined && has_waiting(reclaim);
	pthread_mutex_unlock(&reclaim->gate);
	tell_waiting(reclaim, waits);
}

/* The balloon */

void reclaim_set_driver(struct reclaim *reclaim, enum reclaim_driver driver)
{
	pthread_mutex_lock(&reclaim->gate);
	reclaim->driver = driver;
	reclaim->driver_told = false;
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
	if (list_empty(&reclaim->inhibitors) && !reclaim->driver_told) {
		log_warn("reclaim: guest memory is pinned, and the guest's balloon driver does "
			 "not promise to tell before it uses a page again: what it gives up is "
			 "remembered, the host gains nothing");
		reclaim->driver_told = true;
	}
}

static void take_pages(struct reclaim *reclaim, struct block *block, struct span pages)
{
	enum reclaim_policy policy = policy_now(reclaim);
	uint64_t before = block->nr_held;

	for (uint64_t page = pages.first; page < pages.end; page++)
		block->nr_held += bit_set(block->held, page);
	reclaim->policies[policy].taken += (block->nr_held - before) * GUEST_PAGE_SIZE;
	if (policy == RECLAIM_INHIBIT) {
		tell_inhibitors(reclaim);
		return;
	}
	if (policy == RECLAIM_COORDINATED) {
		discard_held(reclaim, block, touched(pages, block->granule_pages),
			     block->granule_pages, policy);
		return;
	}
	if (may_wait(reclaim)) {
		discard_huge(reclaim, block, pages);
		return;
	}
	if (reclaim->driver == RECLAIM_DRIVER_MAY_NOT_TELL) {
		/* A huge page might be missing when it is used again, which would be fatal. */
		if (block->unit_pages > 1)
			return;
		/* What was held before may be in use; what is named now is not, this once. */
		unmark_reclaimed(block, pages);
	}
	discard_units(reclaim, block, pages, policy);
}

/* A guest that toggles the last page of a granule waits for its next round. */
static void rest(struct block *block, struct span granules)
{
	for (uint64_t i = granules.first; i < granules.end; i++)
		block->nr_resting += bit_set(block->rests, i);
}

static struct span common(struct span a, struct span b)
{
	return (struct span){ a.first > b.first ? a.first : b.first, min(a.end, b.end) };
}

/* Released granules that any of these pages are needed of are made live. */
static int restore_granules(struct reclaim *reclaim, struct block *block, struct span pages)
{
	struct span granules = touched(pages, block->granule_pages);

	for (uint64_t i = granules.first; i < granules.end && block->nr_released; i++) {
		struct span one = { i, i + 1 };
		struct span its = pages_at(block, i, block->granule_pages);
		if (!bit_test(block->released, i) || !bits_any(block->held, common(its, pages)))
			continue;
		if (restore(reclaim, block, one) < 0)
			return -ENOMEM;
		rest(block, one);
	}
	return 0;
}

/* A hugetlb page, before it is touched: from an empty pool a touch would be fatal. */
static int restore_unit(struct block *block, uint64_t unit)
{
	struct span pages = pages_at(block, unit, block->unit_pages);

	if (block->unit_pages > 1 &&
	    ram_populate(block->region->ram, span_offset(block, pages), span_size(pages)) < 0)
		return -ENOMEM;
	unmark_reclaimed(block, pages);
	return 0;
}

/* Those that nobody had pinned; and any that may be missing. */
static int restore_units(struct block *block, struct span pages)
{
	struct span units = touched(pages, block->unit_pages);
	bool any = block->unsure;

	for (uint64_t i = units.first; i < units.end && (any || block->nr_reclaimed); i++) {
		struct span its = pages_at(block, i, block->unit_pages);
		if (!(any || bit_test(block->reclaimed, i)) ||
		    !bits_any(block->held, common(its, pages)))
			continue;
		if (restore_unit(block, i) < 0)
			return -ENOMEM;
	}
	return 0;
}

static void clear_held(struct block *block, struct span pages)
{
	for (uint64_t page = pages.first; page < pages.end && block->nr_held; page++)
		block->nr_held -= bit_clear(block->held, page);
	block->unsure = block->unsure && block->nr_held > 0;
}

static int give_back_pages(struct reclaim *reclaim, struct block *block, struct span pages)
{
	int r = restore_granules(reclaim, block, pages);

	if (r >= 0)
		r = restore_units(block, pages);
	if (r >= 0)
		clear_held(block, pages);
	return r;
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
		r = give_back_pages(reclaim, block_of(n), pages);
		if (r < 0)
			break;
	}
	pthread_mutex_unlock(&reclaim->gate);
	if (r < 0)
		return r;
	return nr_found == size / GUEST_PAGE_SIZE ? 0 : -EFAULT;
}

/* All at once */

/* The next released granules, as many as may be made live in one go; one at least. */
static int restore_some(struct reclaim *reclaim, struct block *block, uint64_t size)
{
	struct span run = next_granules(block, 0, true, min(size, STEP));

	int r = restore(reclaim, block, run);
	if (r >= 0 && reclaim->draining)
		rest(block, run);
	return r;
}

/* 0: all is live, and present where a touch would not make it so. 1: *most is used up. */
static int restore_block(struct reclaim *reclaim, struct block *block, uint64_t *most)
{
	uint64_t unit_size = block->unit_pages * GUEST_PAGE_SIZE;

	while (block->nr_released) {
		uint64_t before = block->nr_released;
		if (*most == 0)
			return 1;
		if (restore_some(reclaim, block, *most) < 0)
			return -ENOMEM;
		uint64_t done =
			(before - block->nr_released) * block->granule_pages * GUEST_PAGE_SIZE;
		*most -= min(*most, done);
	}
	for (uint64_t i = 0; block->nr_reclaimed; i++) {
		if (!bit_test(block->reclaimed, i))
			continue;
		if (*most == 0 && block->unit_pages > 1)
			return 1;
		if (restore_unit(block, i) < 0)
			return -ENOMEM;
		*most -= min(*most, unit_size);
	}
	return 0;
}

static int restore_all(struct reclaim *reclaim, uint64_t *most)
{
	list_for_each(n, &reclaim->blocks) {
		int r = restore_block(reclaim, block_of(n), most);
		if (r != 0)
			return r;
	}
	return 0;
}

/* Before none is held any more: those that may be missing. 1: *most is used up. */
static int restore_held_units(struct block *block, uint64_t *most)
{
	for (uint64_t i = 0; block->unsure && i < block->nr_pages / block->unit_pages; i++) {
		struct span its = pages_at(block, i, block->unit_pages);
		if (!bits_any(block->held, its))
			continue;
		if (*most == 0)
			return 1;
		if (restore_unit(block, i) < 0)
			return -ENOMEM;
		clear_held(block, its);
		*most -= min(*most, span_size(its));
	}
	return 0;
}

static void clear_all_held(struct reclaim *reclaim)
{
	list_for_each(n, &reclaim->blocks)
		clear_held(block_of(n), all_pages(block_of(n)));
}

int reclaim_give_back_all(struct reclaim *reclaim, uint64_t most)
{
	TRACE(reclaim_give_back_all, 0, 0);
	pthread_mutex_lock(&reclaim->gate);
	reclaim->draining = true;
	int r = restore_all(reclaim, &most);
	list_for_each(n, &reclaim->blocks)
		r = r == 0 ? restore_held_units(block_of(n), &most) : r;
	if (r == 0) {
		clear_all_held(reclaim);
		reclaim->draining = false;
	}
	pthread_mutex_unlock(&reclaim->gate);
	return r;
}

void reclaim_forget(struct reclaim *reclaim)
{
	pthread_mutex_lock(&reclaim->gate);
	(void)forget_reclaimed(reclaim);
	clear_all_held(reclaim);
	reclaim->draining = false;
	pthread_mutex_unlock(&reclaim->gate);
}

int reclaim_restore(struct reclaim *reclaim, uint64_t most)
{
	pthread_mutex_lock(&reclaim->gate);
	assert(!list_empty(&reclaim->inhibitors));
	int r = restore_all(reclaim, &most);
	pthread_mutex_unlock(&reclaim->gate);
	return r;
}

/* What has rested once may be released by the next tick: a whole one at least has passed then. */
static void tick_block(struct block *block)
{
	uint64_t nr_words = all_granules(block).end / BITS_A_WORD + 1;
	uint64_t nr_resting = 0;

	for (uint64_t i = 0; i < nr_words; i++) {
		block->rested[i] = block->rests[i];
		block->rests[i] = 0;
		nr_resting += (uint64_t)__builtin_popcountll(block->rested[i]);
	}
	block->nr_resting = nr_resting;
}

int reclaim_tick(struct reclaim *reclaim)
{
	bool waits = false;
	bool rests = false;

	TRACE(reclaim_tick, 0, 0);
	pthread_mutex_lock(&reclaim->gate);
	list_for_each(n, &reclaim->blocks)
		waits |= !discard_waiting(reclaim, block_of(n));
	list_for_each(n, &reclaim->blocks) {
		if (waits || block_of(n)->nr_resting == 0)
			continue;
		tick_block(block_of(n));
		rests |= block_of(n)->nr_resting > 0;
	}
	if (policy_now(reclaim) == RECLAIM_COORDINATED)
		discard_all_held(reclaim);
	pthread_mutex_unlock(&reclaim->gate);
	return waits ? -EAGAIN : rests;
}

static bool is_pinned(const struct reclaim *reclaim)
{
	return !list_empty(&reclaim->inhibitors) || !list_empty(&reclaim->pinners);
}

static int report(struct reclaim *reclaim, gpa_t gpa, uint64_t size)
{
	list_for_each(n, &reclaim->blocks) {
		const struct block *block = block_of(n);
		uint64_t unit_size = block->unit_pages * GUEST_PAGE_SIZE;
		if (!range_within(gpa, size, block->region->gpa, block->region->size))
			continue;
		/* What sticks out at either end is no whole page either. */
		uint64_t from = align_up(gpa - block->region->gpa, unit_size);
		uint64_t to = align_down(gpa - block->region->gpa + size, unit_size);
		reclaim->reports.taken += size;
		if (is_pinned(reclaim))
			return -EBUSY;
		if (from >= to)
			return 0;
		return discard(reclaim, block,
			       (struct span){ from / GUEST_PAGE_SIZE, to / GUEST_PAGE_SIZE },
			       &reclaim->reports);
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

/* Who is about to pin */

/* As pinner_join() has it: of a granule that is not gone as a whole nothing stays gone. */
static bool stays_gone(const struct reclaim *reclaim, const struct block *block,
		       uint64_t granule)
{
	struct span pages = pages_at(block, granule, block->granule_pages);

	return (reclaim->driver == RECLAIM_DRIVER_TELLS_FIRST ||
		!list_empty(&reclaim->pinners)) &&
	       bits_all(block->reclaimed, units_of(block, pages));
}

uint64_t reclaim_staying(struct reclaim *reclaim)
{
	uint64_t bytes = 0;

	pthread_mutex_lock(&reclaim->gate);
	list_for_each(n, &reclaim->blocks) {
		const struct block *block = block_of(n);
		struct span all = all_granules(block);
		for (uint64_t i = all.first; i < all.end && block->nr_reclaimed; i++) {
			if (stays_gone(reclaim, block, i))
				bytes += span_size(pages_at(block, i, block->granule_pages));
		}
	}
	pthread_mutex_unlock(&reclaim->gate);
	return bytes;
}

/* Whole units of these pages. Adds to *lost how many bytes are not reclaimed any more. */
static int make_some_present(struct reclaim *reclaim, struct block *block, struct span pages,
			     uint64_t *lost)
{
	pages = pages_in(block, units_of(block, pages), block->unit_pages);
	struct span granules = touched(pages, block->granule_pages);
	int r = 0;

	for (uint64_t i = granules.first; i < granules.end && r >= 0; i++) {
		struct span run = { i, i };
		while (run.end < granules.end && !stays_gone(reclaim, block, run.end))
			run.end++;
		if (run.end == run.first)
			continue;
		i = run.end - 1;
		struct span live = common(pages, pages_in(block, run, block->granule_pages));
		uint64_t before = block->nr_reclaimed;
		lose_reclaimed(block, live);
		*lost += (before - block->nr_reclaimed) * block->unit_pages * GUEST_PAGE_SIZE;
		r = ram_populate(block->region->ram, span_offset(block, live), span_size(live));
	}
	return r;
}

int reclaim_populate_live(struct reclaim *reclaim, uint64_t offset, uint64_t size,
			  uint64_t *lost)
{
	struct span wanted = { offset / GUEST_PAGE_SIZE, (offset + size) / GUEST_PAGE_SIZE };
	int r = 0;

	pthread_mutex_lock(&reclaim->gate);
	list_for_each(n, &reclaim->blocks) {
		uint64_t first = block_of(n)->offset / GUEST_PAGE_SIZE;
		struct span pages =
			common(wanted, (struct span){ first, first + block_of(n)->nr_pages });
		if (r >= 0 && pages.end > pages.first)
			r = make_some_present(
				reclaim, block_of(n),
				(struct span){ pages.first - first, pages.end - first }, lost);
	}
	pthread_mutex_unlock(&reclaim->gate);
	return r;
}

void reclaim_discard_held(struct reclaim *reclaim)
{
	pthread_mutex_lock(&reclaim->gate);
	discard_all_held(reclaim);
	bool waits = has_waiting(reclaim);
	pthread_mutex_unlock(&reclaim->gate);
	tell_waiting(reclaim, waits);
}

/* Figures */

/* Held bytes of pieces that are not held as a whole, and of granules that are, but rest. */
static void add_held_back(const struct reclaim *reclaim, const struct block *block,
			  struct reclaim_figures *figures)
{
	uint64_t pages = piece_pages(reclaim, block);
	struct span all = touched(all_pages(block), pages);
	uint64_t complete = 0;

	if (block->nr_held == 0 || pages == 1)
		return;
	for (uint64_t i = all.first; i < all.end; i++) {
		struct span its = pages_at(block, i, pages);
		if (!bits_all(block->held, its))
			continue;
		complete += span_size(its);
		if (pages == block->granule_pages && is_resting(block, i) &&
		    !bit_test(block->released, i))
			figures->resting += span_size(its);
	}
	figures->incomplete += block->nr_held * GUEST_PAGE_SIZE - complete;
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
	list_for_each(n, &reclaim->pinners)
		ret->nr_pinners++;
}

void reclaim_figures(struct reclaim *reclaim, struct reclaim_figures *ret)
{
	*ret = (struct reclaim_figures){ .granule = reclaim->granule };
	pthread_mutex_lock(&reclaim->gate);
	ret->policy = policy_now(reclaim);
	list_for_each(n, &reclaim->blocks) {
		ret->held += block_of(n)->nr_held * GUEST_PAGE_SIZE;
		add_held_back(reclaim, block_of(n), ret);
		ret->resting += waiting_bytes(reclaim, block_of(n));
	}
	ret->reclaimed = reclaimed_bytes(reclaim);
	ret->held_back = ret->held - ret->reclaimed;
	name_owners(reclaim, ret);
	memcpy(ret->policies, reclaim->policies, sizeof(ret->policies));
	ret->reports = reclaim->reports;
	ret->nr_released = reclaim->nr_released;
	ret->nr_restored = reclaim->nr_restored;
	ret->nr_not_released = reclaim->nr_not_released;
	ret->nr_not_restored = reclaim->nr_not_restored;
	pthread_mutex_unlock(&reclaim->gate);
}

const char *reclaim_policy_name(enum reclaim_policy policy)
{
	static const char *const names[] = {
		[RECLAIM_DIRECT] = "direct",
		[RECLAIM_INHIBIT] = "inhibit",
		[RECLAIM_COORDINATED] = "coordinated",
		[RECLAIM_UNSAFE] = "unsafe",
	};

	return names[policy];
}
