/* SPDX-License-Identifier: MIT */
/*
 * Balloon threads against threads that attach and detach. Each discard is caught on its way
 * to memory/ram (the linker's --wrap), so that one that runs while something is pinned is
 * seen; and a device's marks, made while it is attached, must stay.
 */
#include <errno.h>
#include <sched.h>
#include <string.h>

#include "memory/ram.h"
#include "memory/reclaim.h"
#include "tests/fakes/process.h"

#define PAGE 4096ull
#define GRANULE_PAGES 4u
#define NR_BALLOONS 2u
#define NR_DEVICES 3u
#define NR_CYCLES 1000u /* of each device */
#define ZONE_PAGES 64u  /* of each balloon thread, and of the one that reports */
#define NR_PAGES ((NR_BALLOONS + 1) * ZONE_PAGES)
#define SLOT_SIZE 64u /* each thread's own place in every page */

static struct ram ram;
static struct memory_map map;
static struct memory_region region;
static struct reclaim reclaim;

/* Atomic. */
static unsigned int nr_running;  /* discards that have begun and not ended */
static unsigned int nr_begun;    /* discards, ever */
static unsigned int nr_attached; /* inhibitors whose raising has returned */
static unsigned int nr_wrong;
static bool stop;

/* Under reclaim's gate, and no lock of ours: ThreadSanitizer tells if that is not enough. */
static unsigned int unlocked;
static unsigned int unlocked_populates; /* which an inhibitor does not forbid */

int __real_ram_discard(struct ram *block, uint64_t offset, uint64_t size);
int __wrap_ram_discard(struct ram *block, uint64_t offset, uint64_t size);
int __real_ram_populate(struct ram *block, uint64_t offset, uint64_t size);
int __wrap_ram_populate(struct ram *block, uint64_t offset, uint64_t size);

static void check(bool ok)
{
	if (!ok)
		__atomic_fetch_add(&nr_wrong, 1, __ATOMIC_SEQ_CST);
}

int __wrap_ram_discard(struct ram *block, uint64_t offset, uint64_t size)
{
	check(__atomic_fetch_add(&nr_running, 1, __ATOMIC_SEQ_CST) == 0);
	__atomic_fetch_add(&nr_begun, 1, __ATOMIC_SEQ_CST);
	unlocked++;
	check(__atomic_load_n(&nr_attached, __ATOMIC_SEQ_CST) == 0);
	int r = __real_ram_discard(block, offset, size);
	check(__atomic_load_n(&nr_attached, __ATOMIC_SEQ_CST) == 0);
	__atomic_fetch_sub(&nr_running, 1, __ATOMIC_SEQ_CST);
	return r;
}

int __wrap_ram_populate(struct ram *block, uint64_t offset, uint64_t size)
{
	check(__atomic_load_n(&nr_running, __ATOMIC_SEQ_CST) == 0);
	unlocked_populates++;
	return __real_ram_populate(block, offset, size);
}

static volatile uint32_t *slot_of(unsigned int page, unsigned int slot)
{
	return (volatile uint32_t *)(void *)((char *)ram.host + page * PAGE + slot * SLOT_SIZE);
}

static bool stopped(void)
{
	return __atomic_load_n(&stop, __ATOMIC_SEQ_CST);
}

/* Takes and gives back pieces of its zone; what it has got back it uses. */
static void *inflate_and_deflate(void *opaque)
{
	unsigned int zone = *(const unsigned int *)opaque;

	for (unsigned int i = 0; !stopped(); i++) {
		unsigned int first = zone * ZONE_PAGES + i * 7 % ZONE_PAGES;
		unsigned int left = (zone + 1) * ZONE_PAGES - first;
		unsigned int nr = left < 9 ? left : 9;
		check(reclaim_take(&reclaim, first * PAGE, nr * PAGE) == 0);
		if (i % 4 == 3)
			sched_yield();
		check(reclaim_give_back(&reclaim, first * PAGE, nr * PAGE) == 0);
		*slot_of(first, NR_DEVICES + zone) = i;
		check(*slot_of(first, NR_DEVICES + zone) == i);
		check(reclaim_take(&reclaim, first * PAGE, PAGE) == 0);
	}
	return NULL;
}

/* Reports pieces of its zone, which are free throughout. */
static void *report_free_pages(void *opaque)
{
	unsigned int zone = *(const unsigned int *)opaque;

	for (unsigned int i = 0; !stopped(); i++) {
		unsigned int first = zone * ZONE_PAGES + i % (ZONE_PAGES / 2);
		int r = reclaim_report(&reclaim, first * PAGE, 2 * GRANULE_PAGES * PAGE);
		check(r == 0 || r == -EBUSY);
		sched_yield();
	}
	return NULL;
}

/* The figures are those of one moment. */
static void *look_at_figures(void *opaque)
{
	struct reclaim_figures figures;

	while (!stopped()) {
		reclaim_figures(&reclaim, &figures);
		check(figures.held == figures.reclaimed + figures.held_back);
		check(figures.incomplete <= figures.held_back);
		check(figures.nr_inhibitors <= NR_DEVICES);
		check(figures.nr_owners == figures.nr_inhibitors);
		check((figures.policy == RECLAIM_DIRECT) == (figures.nr_inhibitors == 0));
		check(figures.nr_inhibitors == 0 || figures.reclaimed == 0);
		sched_yield();
	}
	return opaque;
}

static void mark(unsigned int device, uint32_t value)
{
	for (unsigned int i = 0; i < NR_PAGES; i++)
		*slot_of(i, device) = value;
}

static void check_marks(unsigned int device, uint32_t value)
{
	for (unsigned int i = 0; i < NR_PAGES; i++)
		check(*slot_of(i, device) == value);
}

/* The balloon is to have had its chance between any two attachments. */
static void wait_for_a_discard(void)
{
	unsigned int before = __atomic_load_n(&nr_begun, __ATOMIC_SEQ_CST);

	while (__atomic_load_n(&nr_begun, __ATOMIC_SEQ_CST) == before)
		sched_yield();
}

static void *attach_and_detach(void *opaque)
{
	unsigned int device = *(const unsigned int *)opaque;
	struct inhibitor inhibitor = { 0 };

	for (unsigned int cycle = 1; cycle <= NR_CYCLES; cycle++) {
		inhibitor_raise(&reclaim, &inhibitor, "device");
		__atomic_fetch_add(&nr_attached, 1, __ATOMIC_SEQ_CST);
		check(__atomic_load_n(&nr_running, __ATOMIC_SEQ_CST) == 0);
		unsigned int begun = __atomic_load_n(&nr_begun, __ATOMIC_SEQ_CST);
		unsigned int seen = unlocked;
		mark(device, cycle);
		for (unsigned int i = 0; i < cycle % 4; i++)
			sched_yield();
		check_marks(device, cycle);
		check(unlocked == seen);
		check(__atomic_load_n(&nr_begun, __ATOMIC_SEQ_CST) == begun);
		__atomic_fetch_sub(&nr_attached, 1, __ATOMIC_SEQ_CST);
		inhibitor_lower(&reclaim, &inhibitor);
		wait_for_a_discard();
	}
	return NULL;
}

static void run(enum ram_backing backing, unsigned int granule_pages)
{
	static unsigned int numbers[] = { 0, 1, 2 };
	pthread_t balloons[NR_BALLOONS], devices[NR_DEVICES], reporter, looker;

	process_keep_log();
	ck_assert_int_eq(ram_init(&ram, NR_PAGES * PAGE, backing), 0);
	ram.page_size = granule_pages * PAGE;
	memory_map_init(&map);
	ck_assert_int_eq(reclaim_init(&reclaim, &map, RECLAIM_INHIBIT, 0), 0);
	region = (struct memory_region){
		.size = NR_PAGES * PAGE,
		.host = ram.host,
		.ram = &ram,
		.name = "ram",
	};
	ck_assert_int_eq(memory_map_add(&map, &region), 0);
	for (unsigned int i = 0; i < NR_BALLOONS; i++)
		ck_assert_int_eq(
			pthread_create(&balloons[i], NULL, inflate_and_deflate, &numbers[i]),
			0);
	ck_assert_int_eq(
		pthread_create(&reporter, NULL, report_free_pages, &numbers[NR_BALLOONS]), 0);
	ck_assert_int_eq(pthread_create(&looker, NULL, look_at_figures, NULL), 0);
	for (unsigned int i = 0; i < NR_DEVICES; i++)
		ck_assert_int_eq(
			pthread_create(&devices[i], NULL, attach_and_detach, &numbers[i]), 0);
	for (unsigned int i = 0; i < NR_DEVICES; i++)
		pthread_join(devices[i], NULL);
	__atomic_store_n(&stop, true, __ATOMIC_SEQ_CST);
	for (unsigned int i = 0; i < NR_BALLOONS; i++)
		pthread_join(balloons[i], NULL);
	pthread_join(reporter, NULL);
	pthread_join(looker, NULL);
	ck_assert_uint_eq(nr_wrong, 0);
	ck_assert_uint_eq(reclaim_inhibitors(&reclaim), 0);
}

START_TEST(what_is_attached_never_loses_a_base_page)
{
	run(RAM_ANONYMOUS, 1);
}
END_TEST

START_TEST(what_is_attached_never_loses_a_page_of_a_granule)
{
	run(RAM_MEMFD, GRANULE_PAGES);
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		what_is_attached_never_loses_a_base_page,
		what_is_attached_never_loses_a_page_of_a_granule,
	};
	return run_tests("reclaim_race", NULL, NULL, tests, nitems(tests));
}
