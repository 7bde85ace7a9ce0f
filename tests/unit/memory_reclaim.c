/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <semaphore.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <sys/mman.h>

#include "base/trace.h"

#include "memory/map.h"
#include "memory/ram.h"
#include "memory/reclaim.h"
#include "tests/fakes/process.h"

#define PAGE 4096ull
#define GRANULE (256ull << 10)
#define GRANULE_PAGES (GRANULE / PAGE)
#define SIZE (4 * GRANULE) /* of either region */
#define HUGE_PAGE (2ull << 20)
#define NR_HUGE 4u
#define HIGH_GPA 0x100000000ull
#define BAR_GPA 0xc0000000ull
#define NR_HUGEPAGES "/proc/sys/vm/nr_hugepages"

/* One block behind two regions, as a machine has it; a mapped BAR between them. */
static struct ram ram;
static uint8_t bar_bytes[4096] __attribute__((aligned(4096)));
static struct memory_map map;
static struct memory_region low, high, bar;
static struct reclaim reclaim;
static struct inhibitor one, two;
static bool has_hugetlb; /* set before the tests are forked off */

/*
 * What reclaim asks of memory/ram and of the heap is caught here (the linker's --wrap), noted,
 * and made to fail: the n-th call from now on, or all.
 */
struct calls {
	unsigned int nr;
	uint64_t offset[32];
	uint64_t size[32];
	unsigned int fail_at; /* 1: the next one; 0: none */
	bool fail_all;
	int error;
};
static struct calls discards, populates, callocs;

void *__real_calloc(size_t nr, size_t size);
void *__wrap_calloc(size_t nr, size_t size);
int __real_ram_discard(struct ram *block, uint64_t offset, uint64_t size);
int __wrap_ram_discard(struct ram *block, uint64_t offset, uint64_t size);
int __real_ram_populate(struct ram *block, uint64_t offset, uint64_t size);
int __wrap_ram_populate(struct ram *block, uint64_t offset, uint64_t size);

static bool fails(struct calls *calls, uint64_t offset, uint64_t size)
{
	if (calls->nr < nitems(calls->offset)) {
		calls->offset[calls->nr] = offset;
		calls->size[calls->nr] = size;
	}
	calls->nr++;
	return calls->fail_all || (calls->fail_at && --calls->fail_at == 0);
}

void *__wrap_calloc(size_t nr, size_t size)
{
	return fails(&callocs, 0, nr * size) ? NULL : __real_calloc(nr, size);
}

int __wrap_ram_discard(struct ram *block, uint64_t offset, uint64_t size)
{
	if (fails(&discards, offset, size))
		return discards.error;
	return __real_ram_discard(block, offset, size);
}

int __wrap_ram_populate(struct ram *block, uint64_t offset, uint64_t size)
{
	if (fails(&populates, offset, size))
		return populates.error;
	return __real_ram_populate(block, offset, size);
}

static void expect_nr_calls(struct calls *calls, unsigned int nr)
{
	ck_assert_uint_eq(calls->nr, nr);
	calls->nr = 0;
}

/* Exactly one since the last look. */
static void expect_call(struct calls *calls, uint64_t offset, uint64_t size)
{
	ck_assert_uint_eq(calls->nr, 1);
	ck_assert_uint_eq(calls->offset[0], offset);
	ck_assert_uint_eq(calls->size[0], size);
	calls->nr = 0;
}

static void make_regions(uint64_t size)
{
	low = (struct memory_region){
		.size = size,
		.host = ram.host,
		.ram = &ram,
		.name = "low",
	};
	high = (struct memory_region){
		.gpa = HIGH_GPA,
		.size = size,
		.host = (char *)ram.host + size,
		.ram = &ram,
		.name = "high",
	};
	bar = (struct memory_region){
		.gpa = BAR_GPA,
		.size = sizeof(bar_bytes),
		.host = bar_bytes,
		.kind = MEMORY_DEVICE,
		.name = "bar",
	};
}

static void make(enum ram_backing backing, uint64_t size, uint64_t page_size,
		 enum reclaim_policy inhibited)
{
	ck_assert_int_eq(ram_init(&ram, 2 * size, backing), 0);
	ram.page_size = page_size;
	/* A huge page would bring back more than was touched. */
	(void)madvise(ram.host, ram.size, MADV_NOHUGEPAGE);
	memory_map_init(&map);
	ck_assert_int_eq(reclaim_init(&reclaim, &map, inhibited, 0), 0);
	make_regions(size);
	ck_assert_int_eq(memory_map_add(&map, &low), 0);
	ck_assert_int_eq(memory_map_add(&map, &high), 0);
	ck_assert_int_eq(memory_map_add(&map, &bar), 0);
	memset(ram.host, 0xaa, 2 * size);
	memset(bar_bytes, 0xaa, sizeof(bar_bytes));
}

static void unmake(void)
{
	reclaim_finish(&reclaim);
	memory_map_remove(&map, &bar);
	memory_map_remove(&map, &high);
	memory_map_remove(&map, &low);
	memory_map_finish(&map);
	ram_finish(&ram);
}

/* Base pages, private, inhibited by an inhibitor. Tests that want another world remake it. */
static void setup(void)
{
	process_keep_log();
	discards.error = -EINVAL;
	populates.error = -EFAULT;
	make(RAM_ANONYMOUS, SIZE, PAGE, RECLAIM_INHIBIT);
}

static void remake(enum ram_backing backing, uint64_t page_size, enum reclaim_policy inhibited)
{
	unmake();
	make(backing, SIZE, page_size, inhibited);
}

/* As hugetlb would be, on hosts without. */
/* Base pages, and pinners to come with larger pieces. */
static void remake_pieces(uint64_t granule)
{
	remake(RAM_ANONYMOUS, PAGE, RECLAIM_INHIBIT);
	reclaim_finish(&reclaim);
	ck_assert_int_eq(reclaim_init(&reclaim, &map, RECLAIM_INHIBIT, granule), 0);
}

static void remake_granules(void)
{
	remake(RAM_MEMFD, GRANULE, RECLAIM_INHIBIT);
}

static void remake_hugetlb(void)
{
	unmake();
	make(RAM_HUGETLB, 2 * HUGE_PAGE, HUGE_PAGE, RECLAIM_INHIBIT);
}

static volatile uint8_t *byte_at(uint64_t offset)
{
	return (volatile uint8_t *)ram.host + offset;
}

static void expect_bytes(uint64_t offset, uint64_t size, uint8_t value)
{
	uint64_t i = offset;

	while (i < offset + size && *byte_at(i) == value)
		i++;
	ck_assert_msg(i == offset + size, "0x%x at 0x%llx", *byte_at(i), (unsigned long long)i);
}

static bool present(uint64_t offset)
{
	unsigned char vector = 0;

	ck_assert_int_eq(mincore((char *)ram.host + offset, PAGE, &vector), 0);
	return vector & 1;
}

/* The balloon takes, and a second passes. */
static void take_some(gpa_t gpa, uint64_t size, int wanted)
{
	ck_assert_int_eq(reclaim_take(&reclaim, gpa, size), wanted);
	ck_assert(!reclaim_tick(&reclaim));
}

/* The last inhibitor, and a second passes. */
static void lower(struct inhibitor *inhibitor)
{
	inhibitor_lower(&reclaim, inhibitor);
	ck_assert(!reclaim_tick(&reclaim));
}

static void take(gpa_t gpa, uint64_t size)
{
	take_some(gpa, size, 0);
}

static void give_back(gpa_t gpa, uint64_t size)
{
	ck_assert_int_eq(reclaim_give_back(&reclaim, gpa, size), 0);
}

static struct reclaim_figures figures(void)
{
	struct reclaim_figures f;

	memset(&f, 0x55, sizeof(f));
	reclaim_figures(&reclaim, &f);
	return f;
}

/* In bytes; what is not reclaimed is held back. */
static void expect_held(uint64_t held, uint64_t reclaimed)
{
	struct reclaim_figures f = figures();

	ck_assert_uint_eq(f.held, held);
	ck_assert_uint_eq(f.reclaimed, reclaimed);
	ck_assert_uint_eq(f.held_back, held - reclaimed);
}

static void expect_counts(struct reclaim_counts c, uint64_t taken, uint64_t calls,
			  uint64_t bytes, uint64_t failures)
{
	ck_assert_uint_eq(c.taken, taken);
	ck_assert_uint_eq(c.calls, calls);
	ck_assert_uint_eq(c.bytes, bytes);
	ck_assert_uint_eq(c.failures, failures);
}

/* Nobody pins. */

START_TEST(a_page_taken_is_discarded_and_reads_zero)
{
	take(0x1000, PAGE);
	expect_call(&discards, 0x1000, PAGE);
	ck_assert_int_eq(*byte_at(0xfff), 0xaa);
	expect_bytes(0x1000, PAGE, 0);
	ck_assert_int_eq(*byte_at(0x2000), 0xaa);
	expect_held(PAGE, PAGE);
}
END_TEST

START_TEST(a_page_of_high_ram_is_that_of_its_place_in_the_block)
{
	take(HIGH_GPA + 0x3000, PAGE);
	ck_assert_int_eq(*byte_at(0x3000), 0xaa);
	ck_assert_int_eq(*byte_at(SIZE + 0x2fff), 0xaa);
	ck_assert_int_eq(*byte_at(SIZE + 0x3000), 0);
	ck_assert_int_eq(*byte_at(SIZE + 0x4000), 0xaa);
}
END_TEST

START_TEST(neighbouring_pages_are_discarded_by_one_call)
{
	take(0x3000, 200 * PAGE);
	expect_call(&discards, 0x3000, 200 * PAGE);
	expect_held(200 * PAGE, 200 * PAGE);
	take(0, SIZE);
	expect_nr_calls(&discards, 2); /* what was on either side */
	ck_assert_uint_eq(discards.offset[0], 0);
	ck_assert_uint_eq(discards.size[0], 0x3000);
	ck_assert_uint_eq(discards.offset[1], 203 * PAGE);
	ck_assert_uint_eq(discards.size[1], SIZE - 203 * PAGE);
	expect_held(SIZE, SIZE);
}
END_TEST

START_TEST(a_page_that_is_held_already_is_neither_counted_nor_discarded_again)
{
	take(0x1000, 2 * PAGE);
	take(0x1000, 2 * PAGE);
	expect_nr_calls(&discards, 1);
	expect_held(2 * PAGE, 2 * PAGE);
	expect_counts(figures().policies[RECLAIM_DIRECT], 2 * PAGE, 1, 2 * PAGE, 0);
}
END_TEST

START_TEST(a_page_given_back_is_the_guests_again)
{
	take(0x1000, 3 * PAGE);
	give_back(0x2000, PAGE);
	expect_held(2 * PAGE, 2 * PAGE);
	*byte_at(0x2000) = 1;
	inhibitor_raise(&reclaim, &one, "a");
	inhibitor_lower(&reclaim, &one);
	take(0, PAGE);
	ck_assert_int_eq(*byte_at(0x2000), 1);
	take(0x2000, PAGE);
	ck_assert_int_eq(*byte_at(0x2000), 0);
}
END_TEST

START_TEST(a_base_page_comes_back_on_the_first_touch_only)
{
	take(0x1000, PAGE);
	give_back(0x1000, PAGE);
	expect_nr_calls(&populates, 0);
	ck_assert(!present(0x1000));
	*byte_at(0x1000) = 1;
	ck_assert(present(0x1000));
}
END_TEST

START_TEST(pages_that_are_not_held_are_left_alone_when_given_back)
{
	take(0x2000, PAGE);
	give_back(0, 5 * PAGE);
	give_back(0, 5 * PAGE);
	expect_held(0, 0);
	expect_bytes(0, 2 * PAGE, 0xaa);
	expect_bytes(0x3000, 2 * PAGE, 0xaa);
	remake_granules();
	discards.nr = 0;
	give_back(0, SIZE);
	expect_nr_calls(&populates, 0);
	expect_nr_calls(&discards, 0);
}
END_TEST

/* A huge page of the host's goes as a whole, or after a second. */

static void make_huge(void)
{
	unmake();
	make(RAM_ANONYMOUS, 4 * HUGE_PAGE, PAGE, RECLAIM_INHIBIT);
}

START_TEST(a_part_of_a_huge_page_waits_for_the_rest)
{
	make_huge();
	ck_assert_int_eq(reclaim_take(&reclaim, HUGE_PAGE + PAGE, HUGE_PAGE - PAGE), 0);
	expect_nr_calls(&discards, 0);
	expect_held(HUGE_PAGE - PAGE, 0);
	ck_assert_uint_eq(figures().resting, HUGE_PAGE - PAGE);
	expect_bytes(HUGE_PAGE, HUGE_PAGE, 0xaa);
	ck_assert_int_eq(reclaim_take(&reclaim, HUGE_PAGE, PAGE), 0);
	expect_call(&discards, HUGE_PAGE, HUGE_PAGE);
	expect_held(HUGE_PAGE, HUGE_PAGE);
	ck_assert_uint_eq(figures().resting, 0);
	ck_assert(!reclaim_tick(&reclaim));
	expect_nr_calls(&discards, 0);
}
END_TEST

START_TEST(what_waits_is_discarded_by_the_next_tick)
{
	make_huge();
	ck_assert_int_eq(reclaim_take(&reclaim, PAGE, 2 * PAGE), 0);
	ck_assert_int_eq(reclaim_take(&reclaim, 2 * HUGE_PAGE - PAGE, PAGE), 0);
	ck_assert(!reclaim_tick(&reclaim));
	expect_nr_calls(&discards, 2);
	expect_held(3 * PAGE, 3 * PAGE);
	expect_bytes(PAGE, 2 * PAGE, 0);
	expect_bytes(2 * HUGE_PAGE - PAGE, PAGE, 0);
	/* The rest of it goes, and not again what is gone. */
	ck_assert_int_eq(reclaim_take(&reclaim, 0, HUGE_PAGE), 0);
	expect_nr_calls(&discards, 2);
	ck_assert_uint_eq(discards.size[0], PAGE);
	ck_assert_uint_eq(discards.size[1], HUGE_PAGE - 3 * PAGE);
}
END_TEST

START_TEST(neighbouring_huge_pages_are_discarded_by_one_call)
{
	make_huge();
	ck_assert_int_eq(reclaim_take(&reclaim, HIGH_GPA + PAGE, 3 * HUGE_PAGE), 0);
	expect_call(&discards, 5 * HUGE_PAGE, 2 * HUGE_PAGE);
	ck_assert(!reclaim_tick(&reclaim));
	expect_nr_calls(&discards, 2);
	expect_held(3 * HUGE_PAGE, 3 * HUGE_PAGE);
}
END_TEST

/* Of a guest that names every second page. */
static void take_every_second(void)
{
	for (uint64_t at = 0; at < 16 * HUGE_PAGE; at += 2 * PAGE)
		ck_assert_int_eq(reclaim_take(&reclaim, at, PAGE), 0);
	expect_nr_calls(&discards, 0);
}

static void count_call(void *opaque)
{
	(*(unsigned int *)opaque)++;
}

/* Who ticks is told so, since the balloon has done nothing. */
static void listen_for_ticks(unsigned int *nr_due)
{
	reclaim.tick_due = count_call;
	reclaim.tick_opaque = nr_due;
}

static void expect_to_go_by_and_by(void)
{
	unsigned int nr_ticks = 1;
	int r;

	expect_nr_calls(&discards, 0);
	while ((r = reclaim_tick(&reclaim)) == -EAGAIN) {
		ck_assert_uint_ge(discards.nr, 2048);
		ck_assert_uint_lt(discards.nr, 2048 + 256);
		discards.nr = 0;
		nr_ticks++;
	}
	ck_assert_int_eq(r, 0);
	ck_assert_uint_gt(nr_ticks, 1);
	expect_held(8 * HUGE_PAGE, 8 * HUGE_PAGE);
}

START_TEST(one_tick_discards_only_so_many_pieces)
{
	unmake();
	make(RAM_ANONYMOUS, 16 * HUGE_PAGE, PAGE, RECLAIM_INHIBIT);
	take_every_second();
	expect_to_go_by_and_by();
}
END_TEST

START_TEST(so_it_is_when_the_last_inhibitor_is_lowered)
{
	unsigned int nr_due = 0;

	unmake();
	make(RAM_ANONYMOUS, 16 * HUGE_PAGE, PAGE, RECLAIM_INHIBIT);
	inhibitor_raise(&reclaim, &one, "a");
	take_every_second();
	(void)process_log(); /* that it inhibits */
	listen_for_ticks(&nr_due);
	inhibitor_lower(&reclaim, &one);
	ck_assert_uint_eq(nr_due, 1);
	process_expect_log("a inhibits no more: 16 MiB that the balloon holds go to the host");
	expect_to_go_by_and_by();
}
END_TEST

START_TEST(so_it_is_when_the_last_pinner_leaves)
{
	static const struct pinner_ops ops = { 0 }; /* it has nothing pinned */
	struct pinner pinner = { .ops = &ops };
	unsigned int nr_due = 0;

	unmake();
	make(RAM_ANONYMOUS, 16 * HUGE_PAGE, PAGE, RECLAIM_INHIBIT);
	pinner_join(&reclaim, &pinner);
	take_every_second(); /* no granule is whole */
	listen_for_ticks(&nr_due);
	pinner_leave(&reclaim, &pinner);
	ck_assert_uint_eq(nr_due, 1);
	expect_to_go_by_and_by();
}
END_TEST

START_TEST(what_is_given_back_while_it_waits_was_never_gone)
{
	make_huge();
	ck_assert_int_eq(reclaim_take(&reclaim, 0, HUGE_PAGE / 2), 0);
	give_back(PAGE, PAGE);
	ck_assert(!reclaim_tick(&reclaim));
	expect_bytes(PAGE, PAGE, 0xaa);
	expect_bytes(0, PAGE, 0);
	expect_held(HUGE_PAGE / 2 - PAGE, HUGE_PAGE / 2 - PAGE);
}
END_TEST

START_TEST(what_waits_when_an_inhibitor_is_raised_stays)
{
	make_huge();
	ck_assert_int_eq(reclaim_take(&reclaim, 0, PAGE), 0);
	inhibitor_raise(&reclaim, &one, "a");
	ck_assert(!reclaim_tick(&reclaim));
	expect_nr_calls(&discards, 0);
	ck_assert_uint_eq(figures().resting, 0);
	expect_bytes(0, PAGE, 0xaa);
	inhibitor_lower(&reclaim, &one);
	expect_nr_calls(&discards, 0);
	ck_assert_uint_eq(figures().resting, PAGE);
	ck_assert(!reclaim_tick(&reclaim));
	expect_call(&discards, 0, PAGE);
}
END_TEST

START_TEST(for_a_driver_that_may_not_tell_nothing_waits)
{
	make_huge();
	reclaim_set_driver(&reclaim, RECLAIM_DRIVER_MAY_NOT_TELL);
	ck_assert_int_eq(reclaim_take(&reclaim, 0, PAGE), 0);
	expect_call(&discards, 0, PAGE);
	/* A driver that tells was here before, and is not any more. */
	reclaim_set_driver(&reclaim, RECLAIM_DRIVER_TELLS_FIRST);
	ck_assert_int_eq(reclaim_take(&reclaim, 2 * PAGE, PAGE), 0);
	reclaim_set_driver(&reclaim, RECLAIM_DRIVER_MAY_NOT_TELL);
	ck_assert(!reclaim_tick(&reclaim));
	expect_nr_calls(&discards, 0);
	expect_bytes(2 * PAGE, PAGE, 0xaa);
}
END_TEST

/* Ranges. */

static const uint64_t impossible[][2] = {
	{ 0x1001, PAGE },
	{ 0x1000, 0x800 },
	{ 0x1000, PAGE + 1 },
	{ 0x1000, 0 },
	{ 0, 0 },
	{ 0x1000, UINT64_MAX - 0xfff + 1 - 0x1000 + PAGE },
	{ UINT64_MAX - 0xfff, 2 * PAGE },
	{ 0x2000, UINT64_MAX - 0xfff },
};

START_TEST(what_is_no_range_of_pages_is_refused)
{
	take(0x1000, PAGE);
	for (unsigned int i = 0; i < nitems(impossible); i++) {
		gpa_t gpa = impossible[i][0];
		uint64_t size = impossible[i][1];
		ck_assert_int_eq(reclaim_take(&reclaim, gpa, size), -EINVAL);
		ck_assert_int_eq(reclaim_give_back(&reclaim, gpa, size), -EINVAL);
	}
	expect_held(PAGE, PAGE);
	expect_nr_calls(&discards, 1);
}
END_TEST

START_TEST(what_of_a_range_is_no_ram_is_told_and_the_rest_is_taken)
{
	take_some(SIZE - PAGE, 2 * PAGE, -EFAULT);
	take_some(HIGH_GPA - PAGE, 2 * PAGE, -EFAULT);
	expect_held(2 * PAGE, 2 * PAGE);
	ck_assert_int_eq(*byte_at(SIZE - PAGE), 0);
	ck_assert_int_eq(*byte_at(SIZE), 0);
	ck_assert_int_eq(*byte_at(SIZE - PAGE - 1), 0xaa);
	ck_assert_int_eq(*byte_at(SIZE + PAGE), 0xaa);
	take_some(PAGE, HIGH_GPA + SIZE, -EFAULT);
	expect_held(2 * SIZE - PAGE, 2 * SIZE - PAGE);
	ck_assert_int_eq(bar_bytes[0], 0xaa);
}
END_TEST

START_TEST(what_of_a_range_is_no_ram_is_told_and_the_rest_is_given_back)
{
	take(0, SIZE);
	take(HIGH_GPA, SIZE);
	ck_assert_int_eq(reclaim_give_back(&reclaim, SIZE - PAGE, 2 * PAGE), -EFAULT);
	ck_assert_int_eq(reclaim_give_back(&reclaim, HIGH_GPA - PAGE, 2 * PAGE), -EFAULT);
	expect_held(2 * SIZE - 2 * PAGE, 2 * SIZE - 2 * PAGE);
	ck_assert_int_eq(reclaim_give_back(&reclaim, 0, HIGH_GPA + SIZE), -EFAULT);
	expect_held(0, 0);
}
END_TEST

START_TEST(where_no_ram_is_nothing_is_taken)
{
	const gpa_t nowhere[] = { SIZE, BAR_GPA, HIGH_GPA - PAGE, HIGH_GPA + SIZE,
				  UINT64_MAX - 0xfff };

	for (unsigned int i = 0; i < nitems(nowhere); i++) {
		ck_assert_int_eq(reclaim_take(&reclaim, nowhere[i], PAGE), -EFAULT);
		ck_assert_int_eq(reclaim_give_back(&reclaim, nowhere[i], PAGE), -EFAULT);
	}
	expect_held(0, 0);
	expect_counts(figures().policies[RECLAIM_DIRECT], 0, 0, 0, 0);
	ck_assert_int_eq(bar_bytes[0], 0xaa);
}
END_TEST

START_TEST(ram_may_end_where_addresses_end)
{
	const gpa_t top = UINT64_MAX - SIZE + 1;

	memory_map_remove(&map, &high);
	high.gpa = top;
	ck_assert_int_eq(memory_map_add(&map, &high), 0);
	take(UINT64_MAX - 0xfff, PAGE);
	expect_call(&discards, 2 * SIZE - PAGE, PAGE);
	take_some(top - PAGE, SIZE + PAGE, -EFAULT);
	expect_held(SIZE, SIZE);
	take_some(PAGE, UINT64_MAX - 0xfff, -EFAULT);
	expect_held(2 * SIZE - PAGE, 2 * SIZE - PAGE);
	give_back(top, SIZE);
	expect_held(SIZE - PAGE, SIZE - PAGE);
	ck_assert_int_eq(reclaim_report(&reclaim, UINT64_MAX - 0xfff, PAGE), 0);
	ck_assert_int_eq(reclaim_report(&reclaim, UINT64_MAX - 0xfff, 2 * PAGE), -EFAULT);
}
END_TEST

START_TEST(a_range_over_regions_that_touch_is_all_ram)
{
	memory_map_remove(&map, &high);
	high.gpa = SIZE;
	ck_assert_int_eq(memory_map_add(&map, &high), 0);
	take(SIZE - PAGE, 2 * PAGE);
	expect_held(2 * PAGE, 2 * PAGE);
	give_back(SIZE - PAGE, 2 * PAGE);
	expect_held(0, 0);
}
END_TEST

/* An inhibitor is raised. */

START_TEST(while_an_inhibitor_is_raised_what_is_taken_is_remembered_and_kept)
{
	inhibitor_raise(&reclaim, &one, "a");
	take(0x1000, 2 * PAGE);
	expect_nr_calls(&discards, 0);
	expect_bytes(0x1000, 2 * PAGE, 0xaa);
	expect_held(2 * PAGE, 0);
	ck_assert_int_eq(reclaim_take(&reclaim, SIZE, PAGE), -EFAULT);
	expect_counts(figures().policies[RECLAIM_INHIBIT], 2 * PAGE, 0, 0, 0);
	expect_counts(figures().policies[RECLAIM_DIRECT], 0, 0, 0, 0);
}
END_TEST

START_TEST(when_the_last_of_the_inhibitors_is_lowered_what_is_held_is_discarded_in_runs)
{
	inhibitor_raise(&reclaim, &one, "a");
	inhibitor_raise(&reclaim, &two, "b");
	for (unsigned int i = 0; i < 100; i++)
		take(0x1000 + i * PAGE, PAGE);
	take(HIGH_GPA + SIZE - PAGE, PAGE);
	inhibitor_lower(&reclaim, &one);
	expect_nr_calls(&discards, 0);
	expect_held(101 * PAGE, 0);
	inhibitor_lower(&reclaim, &two);
	expect_nr_calls(&discards, 0);
	ck_assert_uint_eq(figures().resting, 101 * PAGE);
	ck_assert(!reclaim_tick(&reclaim));
	expect_nr_calls(&discards, 2);
	ck_assert_uint_eq(discards.offset[0], 0x1000);
	ck_assert_uint_eq(discards.size[0], 100 * PAGE);
	ck_assert_uint_eq(discards.offset[1], 2 * SIZE - PAGE);
	ck_assert_uint_eq(discards.size[1], PAGE);
	expect_held(101 * PAGE, 101 * PAGE);
	expect_bytes(0x1000, 100 * PAGE, 0);
	ck_assert_int_eq(*byte_at(0xfff), 0xaa);
	ck_assert_int_eq(*byte_at(0x1000 + 100 * PAGE), 0xaa);
	expect_counts(figures().policies[RECLAIM_DIRECT], 0, 2, 101 * PAGE, 0);
}
END_TEST

START_TEST(raising_takes_what_was_reclaimed_for_lost_and_lowering_reclaims_it_again)
{
	take(0, SIZE);
	expect_held(SIZE, SIZE);
	inhibitor_raise(&reclaim, &one, "a");
	expect_held(SIZE, 0);
	memset(ram.host, 0x55, SIZE); /* the pin makes it present, the device writes */
	discards.nr = 0;
	inhibitor_lower(&reclaim, &one);
	expect_call(&discards, 0, SIZE);
	expect_held(SIZE, SIZE);
	ck_assert(!present(0));
	ck_assert(!present(SIZE - PAGE));
}
END_TEST

START_TEST(what_is_given_back_under_an_inhibitor_is_not_discarded_when_it_is_lowered)
{
	inhibitor_raise(&reclaim, &one, "a");
	take(0, 5 * PAGE);
	give_back(0x2000, PAGE);
	lower(&one);
	expect_nr_calls(&discards, 2);
	expect_bytes(0x2000, PAGE, 0xaa);
	expect_held(4 * PAGE, 4 * PAGE);
}
END_TEST

START_TEST(lowering_twice_is_lowering_once)
{
	inhibitor_raise(&reclaim, &one, "a");
	inhibitor_raise(&reclaim, &two, "b");
	take(0, PAGE);
	inhibitor_lower(&reclaim, &one);
	inhibitor_lower(&reclaim, &one);
	ck_assert_uint_eq(reclaim_inhibitors(&reclaim), 1);
	expect_nr_calls(&discards, 0);
}
END_TEST

START_TEST(lowering_one_that_is_not_raised_does_nothing)
{
	inhibitor_lower(&reclaim, &one);
	ck_assert_uint_eq(reclaim_inhibitors(&reclaim), 0);
	discards.fail_at = 1;
	take(0, PAGE);
	discards.nr = 0;
	inhibitor_lower(&reclaim, &one);
	expect_nr_calls(&discards, 0);
	expect_held(PAGE, 0);
}
END_TEST

START_TEST(one_that_was_lowered_may_be_raised_again)
{
	for (unsigned int i = 0; i < 3; i++) {
		inhibitor_raise(&reclaim, &one, "a");
		ck_assert_uint_eq(reclaim_inhibitors(&reclaim), 1);
		inhibitor_lower(&reclaim, &one);
		ck_assert_uint_eq(reclaim_inhibitors(&reclaim), 0);
	}
}
END_TEST

START_TEST(an_inhibitor_names_its_owner_and_cuts_a_long_name)
{
	inhibitor_raise(&reclaim, &one, "vfio group 12");
	ck_assert_str_eq(one.owner, "vfio group 12");
	inhibitor_raise(&reclaim, &two, "a name that is longer than what there is room for");
	ck_assert_uint_eq(strlen(two.owner), sizeof(two.owner) - 1);
}
END_TEST

/* A discard is held up where it reaches ram_discard(), which is under the gate. */

static sem_t discarding;
static sem_t go_on;
static bool raised;

static void hold_discard(const char *event, uint64_t a, uint64_t b)
{
	(void)a;
	(void)b;
	if (strcmp(event, "ram_discard") != 0)
		return;
	sem_post(&discarding);
	while (sem_wait(&go_on) < 0)
		continue;
}

static void *take_one(void *opaque)
{
	int *ret = opaque;

	*ret = reclaim_take(&reclaim, 0, SIZE);
	return NULL;
}

static void *report_one(void *opaque)
{
	int *ret = opaque;

	*ret = reclaim_report(&reclaim, 0x1000, PAGE);
	return NULL;
}

static void *lower_two(void *opaque)
{
	inhibitor_lower(&reclaim, &two);
	*(int *)opaque = 0;
	return NULL;
}

static void *raise_one(void *opaque)
{
	inhibitor_raise(&reclaim, &one, "a");
	__atomic_store_n(&raised, true, __ATOMIC_SEQ_CST);
	return opaque;
}

static void expect_raising_waits_for(void *(*discarder)(void *))
{
	const struct timespec a_while = { .tv_nsec = 50000000 };
	pthread_t discarding_thread, raising_thread;
	int r = -1;

	sem_init(&discarding, 0, 0);
	sem_init(&go_on, 0, 0);
	trace_listen(hold_discard);
	ck_assert_int_eq(pthread_create(&discarding_thread, NULL, discarder, &r), 0);
	while (sem_wait(&discarding) < 0)
		continue;
	ck_assert_int_eq(pthread_create(&raising_thread, NULL, raise_one, NULL), 0);
	nanosleep(&a_while, NULL);
	ck_assert(!__atomic_load_n(&raised, __ATOMIC_SEQ_CST));
	sem_post(&go_on);
	pthread_join(raising_thread, NULL);
	pthread_join(discarding_thread, NULL);
	ck_assert_int_eq(r, 0);
	ck_assert_uint_eq(reclaim_inhibitors(&reclaim), 1);
	ck_assert_uint_eq(figures().reclaimed, 0);
}

START_TEST(raising_waits_for_a_running_take)
{
	expect_raising_waits_for(take_one);
}
END_TEST

START_TEST(raising_waits_for_a_running_report)
{
	expect_raising_waits_for(report_one);
}
END_TEST

START_TEST(raising_waits_for_the_discards_of_a_lowering)
{
	inhibitor_raise(&reclaim, &two, "b");
	take(0, SIZE);
	expect_raising_waits_for(lower_two);
	expect_held(SIZE, 0);
}
END_TEST

/* Unsafe. */

START_TEST(unsafe_discards_under_an_inhibitor_and_never_calls_it_reclaimed)
{
	remake(RAM_ANONYMOUS, PAGE, RECLAIM_UNSAFE);
	inhibitor_raise(&reclaim, &one, "a");
	take(0x1000, 2 * PAGE);
	expect_call(&discards, 0x1000, 2 * PAGE);
	expect_bytes(0x1000, 2 * PAGE, 0);
	expect_held(2 * PAGE, 0);
	expect_counts(figures().policies[RECLAIM_UNSAFE], 2 * PAGE, 1, 2 * PAGE, 0);
	expect_counts(figures().policies[RECLAIM_DIRECT], 0, 0, 0, 0);
	process_expect_no_log();
}
END_TEST

START_TEST(unsafe_is_direct_while_nobody_pins)
{
	remake(RAM_ANONYMOUS, PAGE, RECLAIM_UNSAFE);
	take(0x1000, PAGE);
	expect_held(PAGE, PAGE);
	inhibitor_raise(&reclaim, &one, "a");
	expect_held(PAGE, 0);
	take(0x2000, PAGE);
	lower(&one);
	expect_held(2 * PAGE, 2 * PAGE);
	expect_counts(figures().policies[RECLAIM_DIRECT], PAGE, 2, 3 * PAGE, 0);
	expect_counts(figures().policies[RECLAIM_UNSAFE], PAGE, 1, PAGE, 0);
}
END_TEST

/* Granules of many pages. */

START_TEST(a_granule_is_discarded_when_its_last_page_is_taken_however_many_takes_that_is)
{
	remake_granules();
	for (unsigned int i = 0; i < GRANULE_PAGES; i++) {
		expect_nr_calls(&discards, 0);
		expect_held(i * PAGE, 0);
		ck_assert_uint_eq(figures().incomplete, i * PAGE);
		take(GRANULE + (i * 7 % GRANULE_PAGES) * PAGE, PAGE); /* in no order */
	}
	expect_call(&discards, GRANULE, GRANULE);
	expect_held(GRANULE, GRANULE);
	ck_assert_uint_eq(figures().incomplete, 0);
	ck_assert_int_eq(*byte_at(GRANULE - 1), 0xaa);
	ck_assert_int_eq(*byte_at(GRANULE), 0);
	ck_assert_int_eq(*byte_at(2 * GRANULE - 1), 0);
	ck_assert_int_eq(*byte_at(2 * GRANULE), 0xaa);
}
END_TEST

START_TEST(all_pages_of_a_granule_but_the_first_or_the_last_are_held_back)
{
	remake_granules();
	take(PAGE, GRANULE - PAGE);
	take(2 * GRANULE, GRANULE - PAGE);
	expect_nr_calls(&discards, 0);
	expect_held(2 * GRANULE - 2 * PAGE, 0);
	ck_assert_uint_eq(figures().incomplete, 2 * GRANULE - 2 * PAGE);
}
END_TEST

START_TEST(neighbouring_granules_are_discarded_by_one_call)
{
	remake_granules();
	take(PAGE, SIZE - PAGE);
	expect_call(&discards, GRANULE, 3 * GRANULE);
	expect_held(SIZE - PAGE, 3 * GRANULE);
	ck_assert_uint_eq(figures().incomplete, GRANULE - PAGE);
	take(0, PAGE);
	expect_call(&discards, 0, GRANULE);
	expect_held(SIZE, SIZE);
}
END_TEST

START_TEST(a_page_given_back_makes_its_whole_granule_present_and_live)
{
	remake_granules();
	take(0, 3 * GRANULE);
	ck_assert(!present(GRANULE));
	give_back(GRANULE + PAGE, PAGE);
	expect_call(&populates, GRANULE, GRANULE);
	expect_held(3 * GRANULE - PAGE, 2 * GRANULE);
	ck_assert_uint_eq(figures().incomplete, GRANULE - PAGE);
	ck_assert(!present(GRANULE - PAGE));
	ck_assert(present(GRANULE));
	ck_assert(present(2 * GRANULE - PAGE));
	ck_assert(!present(2 * GRANULE));
	give_back(GRANULE + 2 * PAGE, PAGE);
	expect_nr_calls(&populates, 0); /* it is present already */
	expect_held(3 * GRANULE - 2 * PAGE, 2 * GRANULE);
}
END_TEST

START_TEST(a_granule_that_is_whole_again_is_discarded_again)
{
	remake_granules();
	take(0, GRANULE);
	give_back(0, PAGE);
	discards.nr = 0;
	take(0, PAGE);
	expect_call(&discards, 0, GRANULE);
	expect_held(GRANULE, GRANULE);
}
END_TEST

START_TEST(each_granule_that_a_range_touches_is_made_present)
{
	remake_granules();
	take(0, SIZE);
	give_back(GRANULE - PAGE, GRANULE + 2 * PAGE);
	expect_nr_calls(&populates, 3);
	for (unsigned int i = 0; i < 3; i++) {
		ck_assert_uint_eq(populates.offset[i], i * GRANULE);
		ck_assert_uint_eq(populates.size[i], GRANULE);
	}
	expect_held(SIZE - GRANULE - 2 * PAGE, GRANULE);
}
END_TEST

START_TEST(what_is_not_reclaimed_needs_not_be_made_present)
{
	remake_granules();
	take(0, GRANULE - PAGE);
	give_back(0, GRANULE);
	take(0, GRANULE);
	give_back(0, GRANULE);
	expect_call(&populates, 0, GRANULE);
	take(0, GRANULE - PAGE);
	inhibitor_raise(&reclaim, &one, "a");
	give_back(0, GRANULE);
	expect_nr_calls(&populates, 0);
	expect_held(0, 0);
}
END_TEST

/* Who has raised an inhibitor is on its way to make all present, and may never get there. */
START_TEST(what_an_inhibitor_found_reclaimed_is_made_present_before_it_is_given_back)
{
	remake_granules();
	take(0, 2 * GRANULE);
	inhibitor_raise(&reclaim, &one, "a");
	expect_held(2 * GRANULE, 0);
	populates.fail_at = 1;
	ck_assert_int_eq(reclaim_give_back(&reclaim, PAGE, PAGE), -ENOMEM);
	expect_held(2 * GRANULE, 0);
	populates.nr = 0;
	populates.fail_at = 0;
	give_back(PAGE, PAGE);
	expect_call(&populates, 0, GRANULE);
	ck_assert(present(PAGE));
	/* It did not get there: of the first granule nothing is known. */
	lower(&one);
	expect_held(2 * GRANULE - PAGE, GRANULE);
	give_back(2 * PAGE, PAGE);
	expect_call(&populates, 0, GRANULE);
	give_back(0, 2 * GRANULE);
	expect_held(0, 0);
	populates.nr = 0;
	take(0, PAGE);
	give_back(0, PAGE);
	expect_nr_calls(&populates, 0); /* all is known again */
}
END_TEST

START_TEST(what_an_inhibitor_found_reclaimed_is_made_present_before_a_reset)
{
	remake_granules();
	take(0, 2 * GRANULE);
	take(HIGH_GPA, PAGE);
	inhibitor_raise(&reclaim, &one, "a");
	ck_assert_int_eq(reclaim_give_back_all(&reclaim, GRANULE), 1);
	expect_call(&populates, 0, GRANULE);
	populates.fail_at = 1;
	ck_assert_int_eq(reclaim_give_back_all(&reclaim, GRANULE), -ENOMEM);
	expect_held(GRANULE + PAGE, 0);
	populates.nr = 0;
	populates.fail_at = 0;
	ck_assert_int_eq(reclaim_give_back_all(&reclaim, GRANULE), 0);
	expect_call(&populates, GRANULE, GRANULE);
	expect_held(0, 0);
	inhibitor_lower(&reclaim, &one);
}
END_TEST

START_TEST(lowering_discards_whole_granules_only)
{
	remake_granules();
	inhibitor_raise(&reclaim, &one, "a");
	take(PAGE, 3 * GRANULE);
	take(HIGH_GPA, GRANULE);
	ck_assert_uint_eq(figures().incomplete, GRANULE);
	lower(&one);
	expect_nr_calls(&discards, 2);
	ck_assert_uint_eq(discards.offset[0], GRANULE);
	ck_assert_uint_eq(discards.size[0], 2 * GRANULE);
	ck_assert_uint_eq(discards.offset[1], SIZE);
	ck_assert_uint_eq(discards.size[1], GRANULE);
	expect_held(4 * GRANULE, 3 * GRANULE);
}
END_TEST

START_TEST(a_granule_that_cannot_be_made_present_is_not_given_back)
{
	remake_granules();
	take(0, SIZE);
	for (unsigned int n = 1; n <= SIZE / GRANULE; n++) {
		populates.fail_at = n;
		ck_assert_int_eq(reclaim_give_back(&reclaim, 0, SIZE), -ENOMEM);
		expect_nr_calls(&populates, n);
		expect_held(SIZE, SIZE - (n - 1) * GRANULE);
		inhibitor_raise(&reclaim, &one, "a"); /* reclaims what came back meanwhile */
		inhibitor_lower(&reclaim, &one);
		expect_held(SIZE, SIZE);
	}
	populates.nr = 0;
	give_back(0, SIZE);
	expect_nr_calls(&populates, SIZE / GRANULE);
	expect_held(0, 0);
}
END_TEST

START_TEST(after_a_failure_the_whole_range_may_be_given_back_again)
{
	remake_granules();
	take(0, SIZE);
	take(HIGH_GPA, SIZE);
	populates.fail_all = true;
	ck_assert_int_eq(reclaim_give_back(&reclaim, PAGE, PAGE), -ENOMEM);
	expect_held(2 * SIZE, 2 * SIZE);
	populates.fail_all = false;
	populates.fail_at = 1;
	ck_assert_int_eq(reclaim_give_back(&reclaim, 0, HIGH_GPA + SIZE), -ENOMEM);
	populates.fail_at = 6; /* in the second region */
	ck_assert_int_eq(reclaim_give_back(&reclaim, 0, HIGH_GPA + SIZE), -ENOMEM);
	ck_assert_int_eq(reclaim_give_back(&reclaim, 0, HIGH_GPA + SIZE), -EFAULT);
	expect_held(0, 0);
	*byte_at(2 * SIZE - 1) = 1;
}
END_TEST

/* Granules for real. */

START_TEST(a_hugetlb_granule_leaves_and_comes_back)
{
	if (!has_hugetlb)
		return;
	remake_hugetlb();
	take(0, HUGE_PAGE - PAGE);
	expect_nr_calls(&discards, 0);
	take(HUGE_PAGE - PAGE, PAGE);
	expect_call(&discards, 0, HUGE_PAGE);
	ck_assert(!present(0));
	give_back(PAGE, PAGE);
	expect_call(&populates, 0, HUGE_PAGE);
	ck_assert(present(0));
	ck_assert_int_eq(*byte_at(0), 0);
	ck_assert_int_eq(*byte_at(HUGE_PAGE), 0xaa);
	expect_held(HUGE_PAGE - PAGE, 0);
}
END_TEST

START_TEST(from_an_empty_pool_no_hugetlb_granule_is_given_back)
{
	void *hoard[256];
	unsigned int nr = 0;

	if (!has_hugetlb)
		return;
	remake_hugetlb();
	take(HIGH_GPA, HUGE_PAGE);
	for (; nr < nitems(hoard); nr++) {
		hoard[nr] = mmap(NULL, HUGE_PAGE, PROT_READ | PROT_WRITE,
				 MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
		if (hoard[nr] == MAP_FAILED)
			break;
	}
	int r = reclaim_give_back(&reclaim, HIGH_GPA, PAGE);
	while (nr > 0)
		ck_assert_int_eq(munmap(hoard[--nr], HUGE_PAGE), 0);
	ck_assert_int_eq(r, -ENOMEM);
	expect_held(HUGE_PAGE, HUGE_PAGE);
	give_back(HIGH_GPA, PAGE);
	ck_assert(present(2 * HUGE_PAGE));
	expect_held(HUGE_PAGE - PAGE, 0);
}
END_TEST

/* Discards that fail. */

START_TEST(what_the_host_does_not_take_is_held_back_and_the_guest_is_not_told)
{
	discards.fail_at = 1;
	take(0x1000, 2 * PAGE);
	expect_held(2 * PAGE, 0);
	expect_counts(figures().policies[RECLAIM_DIRECT], 2 * PAGE, 0, 0, 1);
	ck_assert_uint_eq(figures().incomplete, 0);
	expect_bytes(0x1000, 2 * PAGE, 0xaa);
	give_back(0x1000, 2 * PAGE);
	expect_held(0, 0);
}
END_TEST

START_TEST(a_failed_discard_is_logged_once)
{
	discards.fail_all = true;
	take(0x1000, 2 * PAGE);
	process_expect_log("E reclaim: discard 0x1000+0x2000");
	take(HIGH_GPA, PAGE);
	ck_assert_int_eq(reclaim_report(&reclaim, 0x10000, PAGE), -EINVAL);
	process_expect_no_log();
	expect_counts(figures().policies[RECLAIM_DIRECT], 3 * PAGE, 0, 0, 2);
}
END_TEST

START_TEST(what_was_not_discarded_is_tried_again_when_it_is_taken_again)
{
	discards.fail_at = 1;
	take(0x1000, 2 * PAGE);
	discards.nr = 0;
	take(0x2000, PAGE);
	expect_call(&discards, 0x1000, 2 * PAGE);
	expect_held(2 * PAGE, 2 * PAGE);
}
END_TEST

START_TEST(what_was_not_discarded_is_tried_again_when_the_last_inhibitor_is_lowered)
{
	inhibitor_raise(&reclaim, &one, "a");
	take(0x1000, 2 * PAGE);
	take(HIGH_GPA, PAGE);
	discards.fail_at = 1;
	lower(&one);
	expect_held(3 * PAGE, PAGE); /* the other run was not given up */
	inhibitor_raise(&reclaim, &one, "a");
	lower(&one);
	expect_held(3 * PAGE, 3 * PAGE);
	expect_counts(figures().policies[RECLAIM_DIRECT], 0, 3, 4 * PAGE, 1);
}
END_TEST

START_TEST(one_run_that_fails_is_one_failure_and_stops_no_other)
{
	take(0x3000, PAGE);
	discards.fail_at = 1;
	take(0x1000, 5 * PAGE);
	expect_held(5 * PAGE, 3 * PAGE);
	expect_bytes(0x1000, 2 * PAGE, 0xaa);
	expect_bytes(0x3000, 3 * PAGE, 0);
	expect_counts(figures().policies[RECLAIM_DIRECT], 5 * PAGE, 2, 3 * PAGE, 1);
}
END_TEST

START_TEST(under_unsafe_a_failure_counts_as_unsafes)
{
	remake(RAM_ANONYMOUS, PAGE, RECLAIM_UNSAFE);
	inhibitor_raise(&reclaim, &one, "a");
	discards.fail_at = 1;
	take(0x1000, PAGE);
	expect_counts(figures().policies[RECLAIM_UNSAFE], PAGE, 0, 0, 1);
	expect_counts(figures().policies[RECLAIM_DIRECT], 0, 0, 0, 0);
}
END_TEST

/* Who is about to pin. */

START_TEST(what_is_live_is_made_present_and_what_stays_reclaimed_is_not)
{
	uint64_t lost = 0;

	remake_pieces(2 * PAGE);
	take(2 * PAGE, 3 * PAGE); /* a granule, and half of the next */
	take(SIZE - 2 * PAGE, 2 * PAGE);
	take(HIGH_GPA, 4 * PAGE); /* the block's second half, SIZE on */
	ck_assert_uint_eq(reclaim_staying(&reclaim), 8 * PAGE);
	ck_assert_int_eq(reclaim_populate_live(&reclaim, PAGE, 2 * SIZE, &lost), 0);
	expect_nr_calls(&populates, 3);
	ck_assert_uint_eq(populates.offset[0], PAGE);
	ck_assert_uint_eq(populates.size[0], PAGE);
	ck_assert_uint_eq(populates.offset[1], 4 * PAGE);
	ck_assert_uint_eq(populates.size[1], SIZE - 6 * PAGE);
	ck_assert_uint_eq(populates.offset[2], SIZE + 4 * PAGE);
	ck_assert_uint_eq(populates.size[2], SIZE - 4 * PAGE);
	ck_assert_uint_eq(lost, PAGE);
	expect_held(9 * PAGE, 8 * PAGE);
	ck_assert(!present(2 * PAGE));
	ck_assert(present(4 * PAGE));
	ck_assert(!present(SIZE - PAGE));
	/* Nobody joins. */
	reclaim_discard_held(&reclaim);
	ck_assert(!reclaim_tick(&reclaim));
	expect_held(9 * PAGE, 9 * PAGE);
	ck_assert(!present(4 * PAGE));
}
END_TEST

START_TEST(what_a_driver_that_may_not_tell_gave_does_not_stay_reclaimed)
{
	uint64_t lost = 0;

	remake_pieces(2 * PAGE);
	reclaim_set_driver(&reclaim, RECLAIM_DRIVER_MAY_NOT_TELL);
	take(0, 2 * PAGE);
	expect_held(2 * PAGE, 2 * PAGE);
	ck_assert_uint_eq(reclaim_staying(&reclaim), 0);
	ck_assert_int_eq(reclaim_populate_live(&reclaim, 0, SIZE, &lost), 0);
	expect_call(&populates, 0, SIZE);
	ck_assert_uint_eq(lost, 2 * PAGE);
	expect_held(2 * PAGE, 0);
}
END_TEST

START_TEST(what_is_held_and_not_reclaimed_is_live)
{
	uint64_t lost = 0;

	inhibitor_raise(&reclaim, &one, "a");
	take(PAGE, 2 * PAGE);
	ck_assert_int_eq(reclaim_populate_live(&reclaim, PAGE, PAGE, &lost), 0);
	expect_call(&populates, PAGE, PAGE);
	ck_assert_uint_eq(lost, 0);
}
END_TEST

START_TEST(what_is_live_and_cannot_be_made_present_is_told)
{
	uint64_t lost = 0;

	remake_pieces(2 * PAGE);
	take(2 * PAGE, 2 * PAGE);
	populates.fail_at = 2;
	ck_assert_int_eq(reclaim_populate_live(&reclaim, 0, 2 * SIZE, &lost), -EFAULT);
	expect_nr_calls(&populates, 2);
	expect_held(2 * PAGE, 2 * PAGE);
}
END_TEST

/* Free page reports. */

START_TEST(what_is_reported_free_is_discarded_at_once_and_not_held)
{
	ck_assert_int_eq(reclaim_report(&reclaim, HIGH_GPA + 0x1000, 2 * PAGE), 0);
	expect_call(&discards, SIZE + 0x1000, 2 * PAGE);
	expect_bytes(SIZE + 0x1000, 2 * PAGE, 0);
	ck_assert_int_eq(*byte_at(SIZE + 0xfff), 0xaa);
	ck_assert_int_eq(*byte_at(SIZE + 0x3000), 0xaa);
	expect_held(0, 0);
	expect_counts(figures().reports, 2 * PAGE, 1, 2 * PAGE, 0);
	expect_counts(figures().policies[RECLAIM_DIRECT], 0, 0, 0, 0);
}
END_TEST

START_TEST(of_a_report_whole_granules_only_are_discarded)
{
	ck_assert_int_eq(reclaim_report(&reclaim, 0x1001, 3 * PAGE), 0);
	expect_call(&discards, 0x2000, 2 * PAGE);
	remake_granules();
	ck_assert_int_eq(reclaim_report(&reclaim, HIGH_GPA + PAGE, SIZE - 2 * PAGE), 0);
	expect_call(&discards, SIZE + GRANULE, 2 * GRANULE);
	ck_assert_int_eq(*byte_at(SIZE + GRANULE - 1), 0xaa);
	ck_assert_int_eq(*byte_at(SIZE + 3 * GRANULE), 0xaa);
	ck_assert_int_eq(reclaim_report(&reclaim, 0, GRANULE), 0);
	expect_call(&discards, 0, GRANULE);
}
END_TEST

START_TEST(of_a_report_that_holds_no_whole_granule_nothing_is_discarded)
{
	ck_assert_int_eq(reclaim_report(&reclaim, 0x1001, PAGE), 0);
	ck_assert_int_eq(reclaim_report(&reclaim, 0x1100, 0x800), 0);
	remake_granules();
	ck_assert_int_eq(reclaim_report(&reclaim, PAGE, GRANULE - PAGE), 0);
	ck_assert_int_eq(reclaim_report(&reclaim, PAGE, GRANULE), 0);
	expect_nr_calls(&discards, 0);
}
END_TEST

START_TEST(no_report_is_honoured_while_an_inhibitor_is_raised_not_even_when_unsafe)
{
	static const enum reclaim_policy policies[] = { RECLAIM_INHIBIT, RECLAIM_UNSAFE };

	for (unsigned int i = 0; i < nitems(policies); i++) {
		remake(RAM_ANONYMOUS, PAGE, policies[i]);
		inhibitor_raise(&reclaim, &one, "a");
		ck_assert_int_eq(reclaim_report(&reclaim, 0, SIZE), -EBUSY);
		expect_nr_calls(&discards, 0);
		inhibitor_lower(&reclaim, &one);
		expect_nr_calls(&discards, 0); /* nor was it remembered */
		ck_assert_int_eq(*byte_at(0), 0xaa);
		expect_counts(figures().reports, SIZE, 0, 0, 0);
	}
}
END_TEST

START_TEST(a_report_not_wholly_within_one_region_of_ram_is_refused)
{
	static const uint64_t wrong[][2] = {
		{ SIZE, PAGE },
		{ SIZE - PAGE, 2 * PAGE },
		{ SIZE - 1, 2 },
		{ HIGH_GPA - PAGE, 2 * PAGE },
		{ 0, HIGH_GPA + SIZE },
		{ BAR_GPA, PAGE },
		{ 0, 0 },
		{ 0x1000, UINT64_MAX - 0xfff },
		{ UINT64_MAX - 0xfff, PAGE },
	};

	for (unsigned int i = 0; i < nitems(wrong); i++)
		ck_assert_int_eq(reclaim_report(&reclaim, wrong[i][0], wrong[i][1]), -EFAULT);
	expect_nr_calls(&discards, 0);
	ck_assert_int_eq(bar_bytes[0], 0xaa);
}
END_TEST

START_TEST(a_report_that_fails_says_why)
{
	discards.fail_at = 1;
	discards.error = -EPERM;
	ck_assert_int_eq(reclaim_report(&reclaim, 0, PAGE), -EPERM);
	expect_counts(figures().reports, PAGE, 0, 0, 1);
	process_expect_log("reclaim: discard 0x0+0x1000");
}
END_TEST

/* The guest starts anew. */

START_TEST(after_giving_back_all_nothing_is_held_and_granules_are_present)
{
	remake_granules();
	take(0, GRANULE);
	take(2 * GRANULE, PAGE);
	take(HIGH_GPA + GRANULE, 2 * GRANULE);
	ck_assert_int_eq(reclaim_give_back_all(&reclaim, UINT64_MAX), 0);
	expect_held(0, 0);
	ck_assert_uint_eq(figures().incomplete, 0);
	expect_nr_calls(&populates, 3);
	ck_assert(present(0));
	ck_assert(present(SIZE + GRANULE));
	ck_assert(present(SIZE + 3 * GRANULE - PAGE));
	process_expect_no_log();
}
END_TEST

START_TEST(giving_back_all_base_pages_touches_none)
{
	take(0, SIZE);
	take(HIGH_GPA, SIZE);
	ck_assert_int_eq(reclaim_give_back_all(&reclaim, UINT64_MAX), 0);
	expect_held(0, 0);
	expect_nr_calls(&populates, 0);
	take(0, PAGE);
	expect_held(PAGE, PAGE);
}
END_TEST

START_TEST(a_reset_that_finds_no_memory_is_not_through_and_goes_on_later)
{
	remake_granules();
	take(0, SIZE);
	populates.fail_at = 2;
	ck_assert_int_eq(reclaim_give_back_all(&reclaim, UINT64_MAX), -ENOMEM);
	expect_held(SIZE, SIZE - GRANULE); /* all is held until all can be given back */
	ck_assert_int_eq(figures().policy, RECLAIM_INHIBIT);
	process_expect_no_log(); /* the balloon tells, which knows how often */
	ck_assert_int_eq(reclaim_give_back_all(&reclaim, UINT64_MAX), 0);
	expect_held(0, 0);
	ck_assert_int_eq(figures().policy, RECLAIM_DIRECT);
	take(GRANULE - PAGE, PAGE); /* and no part of it is thought to be reclaimed */
	expect_held(PAGE, 0);
}
END_TEST

START_TEST(a_reset_is_done_in_as_many_steps_as_asked_for)
{
	unsigned int nr_steps = 1;

	remake_granules();
	take(0, SIZE);
	take(HIGH_GPA, SIZE);
	while (reclaim_give_back_all(&reclaim, 1) == 1)
		nr_steps++;
	ck_assert_uint_eq(nr_steps, 2 * SIZE / GRANULE);
	expect_held(0, 0);
	expect_nr_calls(&populates, 2 * SIZE / GRANULE);
}
END_TEST

START_TEST(what_is_forgotten_is_neither_held_nor_made_present)
{
	remake_granules();
	take(0, SIZE);
	reclaim_forget(&reclaim);
	expect_held(0, 0);
	expect_nr_calls(&populates, 0);
}
END_TEST

START_TEST(what_was_given_back_by_a_reset_is_not_discarded_when_the_inhibitor_is_lowered)
{
	inhibitor_raise(&reclaim, &one, "a");
	take(0, SIZE);
	ck_assert_int_eq(reclaim_give_back_all(&reclaim, UINT64_MAX), 0);
	inhibitor_lower(&reclaim, &one);
	expect_nr_calls(&discards, 0);
	ck_assert_int_eq(*byte_at(0), 0xaa);
	expect_held(0, 0);
}
END_TEST

START_TEST(a_granule_half_taken_before_a_reset_is_not_completed_after_it)
{
	remake_granules();
	take(0, GRANULE - PAGE);
	ck_assert_int_eq(reclaim_give_back_all(&reclaim, UINT64_MAX), 0);
	take(GRANULE - PAGE, PAGE);
	expect_nr_calls(&discards, 0);
	ck_assert_int_eq(*byte_at(0), 0xaa);
}
END_TEST

/* A driver that may use a page again before it has told. */

START_TEST(for_a_driver_that_may_not_tell_only_what_one_take_names_is_discarded)
{
	discards.error = -EPERM;
	discards.fail_at = 1;
	take(0, PAGE);
	expect_nr_calls(&discards, 1);
	reclaim_set_driver(&reclaim, RECLAIM_DRIVER_MAY_NOT_TELL);
	take(PAGE, 2 * PAGE); /* the page before is held, but may be in use */
	expect_call(&discards, PAGE, 2 * PAGE);
	expect_held(3 * PAGE, 2 * PAGE);
}
END_TEST

START_TEST(from_a_driver_that_may_not_tell_no_huge_page_is_taken)
{
	remake_granules();
	reclaim_set_driver(&reclaim, RECLAIM_DRIVER_MAY_NOT_TELL);
	take(0, 2 * GRANULE); /* it could be gone when it is used, and nobody would be asked */
	expect_nr_calls(&discards, 0);
	expect_held(2 * GRANULE, 0);
}
END_TEST

START_TEST(for_a_driver_that_may_not_tell_what_is_taken_again_is_discarded_again)
{
	reclaim_set_driver(&reclaim, RECLAIM_DRIVER_MAY_NOT_TELL);
	take(0x1000, 2 * PAGE);
	*byte_at(0x1000) = 1; /* it was in use in between */
	discards.nr = 0;
	take(0x1000, PAGE);
	expect_call(&discards, 0x1000, PAGE);
	expect_held(2 * PAGE, 2 * PAGE);
	discards.fail_at = 1;
	take(0x1000, PAGE);
	expect_held(2 * PAGE, PAGE);
	expect_counts(figures().policies[RECLAIM_DIRECT], 2 * PAGE, 2, 3 * PAGE, 1);
}
END_TEST

START_TEST(for_a_driver_that_may_not_tell_nothing_is_discarded_when_the_inhibitor_is_lowered)
{
	reclaim_set_driver(&reclaim, RECLAIM_DRIVER_MAY_NOT_TELL);
	inhibitor_raise(&reclaim, &one, "a");
	take(0x1000, 2 * PAGE);
	inhibitor_lower(&reclaim, &one);
	expect_nr_calls(&discards, 0);
	expect_bytes(0x1000, 2 * PAGE, 0xaa);
	expect_held(2 * PAGE, 0);
	take(0x2000, PAGE);
	expect_call(&discards, 0x2000, PAGE);
}
END_TEST

START_TEST(a_driver_that_tells_again_is_trusted_again)
{
	reclaim_set_driver(&reclaim, RECLAIM_DRIVER_MAY_NOT_TELL);
	reclaim_set_driver(&reclaim, RECLAIM_DRIVER_TELLS_FIRST);
	inhibitor_raise(&reclaim, &one, "a");
	take(0x1000, PAGE);
	lower(&one);
	expect_held(PAGE, PAGE);
}
END_TEST

/* Figures, names, logs. */

START_TEST(the_policy_follows_who_pins)
{
	ck_assert_int_eq(figures().policy, RECLAIM_DIRECT);
	inhibitor_raise(&reclaim, &one, "a");
	ck_assert_int_eq(figures().policy, RECLAIM_INHIBIT);
	inhibitor_lower(&reclaim, &one);
	ck_assert_int_eq(figures().policy, RECLAIM_DIRECT);
	remake(RAM_ANONYMOUS, PAGE, RECLAIM_UNSAFE);
	ck_assert_int_eq(figures().policy, RECLAIM_DIRECT);
	inhibitor_raise(&reclaim, &one, "a");
	ck_assert_int_eq(figures().policy, RECLAIM_UNSAFE);
	ck_assert_str_eq(reclaim_policy_name(RECLAIM_DIRECT), "direct");
	ck_assert_str_eq(reclaim_policy_name(RECLAIM_INHIBIT), "inhibit");
	ck_assert_str_eq(reclaim_policy_name(RECLAIM_UNSAFE), "unsafe");
}
END_TEST

START_TEST(what_is_taken_counts_for_the_policy_then_in_force)
{
	take(0, 2 * PAGE);
	inhibitor_raise(&reclaim, &one, "a");
	take(0x1000, 3 * PAGE);
	lower(&one);
	take(0x2000, 5 * PAGE);
	/* two; at the lowering all four; then the three that are new */
	expect_counts(figures().policies[RECLAIM_DIRECT], 5 * PAGE, 3, 9 * PAGE, 0);
	expect_counts(figures().policies[RECLAIM_INHIBIT], 2 * PAGE, 0, 0, 0);
	expect_counts(figures().policies[RECLAIM_UNSAFE], 0, 0, 0, 0);
	expect_counts(figures().reports, 0, 0, 0, 0);
	give_back(0, SIZE);
	expect_counts(figures().policies[RECLAIM_DIRECT], 5 * PAGE, 3, 9 * PAGE, 0);
}
END_TEST

START_TEST(figures_name_eight_owners_and_count_all)
{
	struct inhibitor many[RECLAIM_MAX_OWNERS + 2] = { 0 };
	char name[RECLAIM_OWNER_SIZE];

	ck_assert_uint_eq(figures().nr_inhibitors, 0);
	ck_assert_uint_eq(figures().nr_owners, 0);
	for (unsigned int i = 0; i < nitems(many); i++) {
		(void)snprintf(name, sizeof(name), "group %u", i);
		inhibitor_raise(&reclaim, &many[i], name);
	}
	struct reclaim_figures f = figures();
	ck_assert_uint_eq(f.nr_inhibitors, nitems(many));
	ck_assert_uint_eq(reclaim_inhibitors(&reclaim), nitems(many));
	ck_assert_uint_eq(f.nr_owners, RECLAIM_MAX_OWNERS);
	for (unsigned int i = 0; i < RECLAIM_MAX_OWNERS; i++) {
		(void)snprintf(name, sizeof(name), "group %u", i);
		ck_assert_str_eq(f.owners[i], name);
	}
	for (unsigned int i = 0; i < nitems(many) - 1; i++)
		inhibitor_lower(&reclaim, &many[i]);
	f = figures();
	ck_assert_uint_eq(f.nr_inhibitors, 1);
	ck_assert_uint_eq(f.nr_owners, 1);
	ck_assert_str_eq(f.owners[0], "group 9");
	inhibitor_lower(&reclaim, &many[nitems(many) - 1]);
}
END_TEST

START_TEST(the_log_names_once_each_owner_that_keeps_the_balloon_back)
{
	inhibitor_raise(&reclaim, &one, "vfio group 1");
	process_expect_no_log();
	take(0, PAGE);
	process_expect_log("W reclaim: vfio group 1");
	take(0x1000, PAGE);
	process_expect_no_log();
	inhibitor_raise(&reclaim, &two, "vfio group 2");
	take(0x2000, PAGE);
	process_expect_log("W reclaim: vfio group 2");
	take(0x3000, PAGE);
	give_back(0, 4 * PAGE);
	process_expect_no_log();
}
END_TEST

START_TEST(an_owner_that_comes_again_is_named_again)
{
	for (unsigned int i = 0; i < 2; i++) {
		inhibitor_raise(&reclaim, &one, "vfio group 1");
		take(i * PAGE, PAGE);
		process_expect_log("W reclaim: vfio group 1");
		give_back(0, 2 * PAGE);
		inhibitor_lower(&reclaim, &one);
		process_expect_no_log();
	}
}
END_TEST

START_TEST(the_log_says_so_when_raising_brings_memory_back)
{
	take(0, SIZE);
	process_expect_no_log();
	inhibitor_raise(&reclaim, &one, "vfio group 1");
	process_expect_log("vfio group 1 pins guest memory: 1 MiB");
	inhibitor_raise(&reclaim, &two, "vfio group 2");
	process_expect_no_log();
}
END_TEST

/* Regions come and go. */

START_TEST(books_are_kept_on_regions_that_are_there_before)
{
	unmake();
	ck_assert_int_eq(ram_init(&ram, 2 * SIZE, RAM_ANONYMOUS), 0);
	memory_map_init(&map);
	make_regions(SIZE);
	ck_assert_int_eq(memory_map_add(&map, &low), 0);
	ck_assert_int_eq(memory_map_add(&map, &bar), 0);
	ck_assert_int_eq(memory_map_add(&map, &high), 0);
	ck_assert_int_eq(reclaim_init(&reclaim, &map, RECLAIM_INHIBIT, 0), 0);
	ck_assert_int_eq(figures().policy, RECLAIM_DIRECT);
	take(0, SIZE);
	take(HIGH_GPA, SIZE);
	expect_held(2 * SIZE, 2 * SIZE);
}
END_TEST

START_TEST(what_leaves_takes_its_books_along)
{
	take(0, 2 * PAGE);
	take(HIGH_GPA, 5 * PAGE);
	memory_map_remove(&map, &high);
	expect_held(2 * PAGE, 2 * PAGE);
	ck_assert_int_eq(reclaim_take(&reclaim, HIGH_GPA, PAGE), -EFAULT);
	ck_assert_int_eq(reclaim_report(&reclaim, HIGH_GPA, PAGE), -EFAULT);
	ck_assert_int_eq(memory_map_add(&map, &high), 0);
	expect_held(2 * PAGE, 2 * PAGE);
	inhibitor_raise(&reclaim, &one, "a");
	memory_map_remove(&map, &bar); /* of which there are none */
	ck_assert_int_eq(memory_map_add(&map, &bar), 0);
	take(HIGH_GPA, PAGE);
	memory_map_remove(&map, &high);
	discards.nr = 0;
	lower(&one);
	expect_call(&discards, 0, 2 * PAGE);
	ck_assert_uint_eq(figures().policies[RECLAIM_INHIBIT].taken, PAGE);
}
END_TEST

START_TEST(ram_that_is_not_aligned_to_its_pages_is_refused)
{
	unmake();
	ck_assert_int_eq(ram_init(&ram, 2 * SIZE, RAM_MEMFD), 0);
	ram.page_size = GRANULE;
	memory_map_init(&map);
	make_regions(SIZE);
	struct memory_region good = low;
	struct memory_region wrong[] = { high, high, high };
	wrong[0].gpa += PAGE;
	wrong[1].size -= PAGE;
	wrong[2].host = (char *)high.host + PAGE;
	wrong[2].size -= GRANULE;
	ck_assert_int_eq(memory_map_add(&map, &good), 0);
	for (unsigned int i = 0; i < nitems(wrong); i++) {
		ck_assert_int_eq(memory_map_add(&map, &wrong[i]), 0);
		ck_assert_int_eq(reclaim_init(&reclaim, &map, RECLAIM_INHIBIT, 0), -EINVAL);
		process_expect_log("E reclaim: high");
		ck_assert_ptr_null(reclaim.map);
		memory_map_remove(&map, &wrong[i]);
		ck_assert_int_eq(reclaim_init(&reclaim, &map, RECLAIM_INHIBIT, 0), 0);
		ck_assert_int_eq(memory_map_add(&map, &wrong[i]), -EINVAL);
		process_expect_log("E reclaim: high");
		ck_assert_ptr_null(memory_map_find(&map, wrong[i].gpa, PAGE));
		reclaim_finish(&reclaim);
	}
	memory_map_remove(&map, &good);
	memory_map_finish(&map); /* nobody listens any more */
}
END_TEST

START_TEST(without_memory_for_the_books_nothing_is_left_behind)
{
	unsigned int n = 1;

	unmake();
	ck_assert_int_eq(ram_init(&ram, 2 * SIZE, RAM_ANONYMOUS), 0);
	memory_map_init(&map);
	make_regions(SIZE);
	ck_assert_int_eq(memory_map_add(&map, &low), 0);
	ck_assert_int_eq(memory_map_add(&map, &high), 0);
	for (;; n++) {
		callocs.fail_at = n;
		int r = reclaim_init(&reclaim, &map, RECLAIM_INHIBIT, 0);
		if (r == 0)
			break;
		ck_assert_int_eq(r, -ENOMEM);
		process_expect_log("E reclaim: books on ");
		ck_assert_ptr_null(reclaim.map);
		ck_assert(list_empty(&map.listeners));
	}
	ck_assert_uint_eq(n, 15); /* seven pieces for each of two regions */
	callocs.fail_at = 0;
	memory_map_remove(&map, &high);
	callocs.fail_at = 2;
	ck_assert_int_eq(memory_map_add(&map, &high), -ENOMEM);
	ck_assert_int_eq(memory_map_add(&map, &high), 0);
	take(HIGH_GPA, PAGE);
}
END_TEST

START_TEST(finishing_leaves_the_map_and_may_be_done_twice)
{
	struct reclaim zeroed = { 0 };

	take(0, SIZE);
	reclaim_finish(&reclaim);
	ck_assert(list_empty(&map.listeners));
	reclaim_finish(&reclaim);
	reclaim_finish(&zeroed);
	memory_map_remove(&map, &high);
	ck_assert_int_eq(memory_map_add(&map, &high), 0);
}
END_TEST

static unsigned int nr_hugepages(void)
{
	unsigned int n = 0;

	FILE *f = fopen(NR_HUGEPAGES, "re");
	if (f) {
		if (fscanf(f, "%u", &n) != 1)
			n = 0;
		fclose(f);
	}
	return n;
}

static void set_nr_hugepages(unsigned int n)
{
	FILE *f = fopen(NR_HUGEPAGES, "we");

	if (f) {
		(void)fprintf(f, "%u", n);
		(void)fclose(f); /* only root may; what there is is looked at afterwards */
	}
}

int main(void)
{
	const TTest *const tests[] = {
		a_page_taken_is_discarded_and_reads_zero,
		a_page_of_high_ram_is_that_of_its_place_in_the_block,
		neighbouring_pages_are_discarded_by_one_call,
		a_page_that_is_held_already_is_neither_counted_nor_discarded_again,
		a_page_given_back_is_the_guests_again,
		a_base_page_comes_back_on_the_first_touch_only,
		pages_that_are_not_held_are_left_alone_when_given_back,
		a_part_of_a_huge_page_waits_for_the_rest,
		what_waits_is_discarded_by_the_next_tick,
		neighbouring_huge_pages_are_discarded_by_one_call,
		one_tick_discards_only_so_many_pieces,
		so_it_is_when_the_last_inhibitor_is_lowered,
		so_it_is_when_the_last_pinner_leaves,
		what_is_given_back_while_it_waits_was_never_gone,
		what_waits_when_an_inhibitor_is_raised_stays,
		for_a_driver_that_may_not_tell_nothing_waits,
		what_is_no_range_of_pages_is_refused,
		what_of_a_range_is_no_ram_is_told_and_the_rest_is_taken,
		what_of_a_range_is_no_ram_is_told_and_the_rest_is_given_back,
		where_no_ram_is_nothing_is_taken,
		ram_may_end_where_addresses_end,
		a_range_over_regions_that_touch_is_all_ram,
		while_an_inhibitor_is_raised_what_is_taken_is_remembered_and_kept,
		when_the_last_of_the_inhibitors_is_lowered_what_is_held_is_discarded_in_runs,
		raising_takes_what_was_reclaimed_for_lost_and_lowering_reclaims_it_again,
		what_is_given_back_under_an_inhibitor_is_not_discarded_when_it_is_lowered,
		lowering_twice_is_lowering_once,
		lowering_one_that_is_not_raised_does_nothing,
		one_that_was_lowered_may_be_raised_again,
		an_inhibitor_names_its_owner_and_cuts_a_long_name,
		raising_waits_for_a_running_take,
		raising_waits_for_a_running_report,
		raising_waits_for_the_discards_of_a_lowering,
		unsafe_discards_under_an_inhibitor_and_never_calls_it_reclaimed,
		unsafe_is_direct_while_nobody_pins,
		a_granule_is_discarded_when_its_last_page_is_taken_however_many_takes_that_is,
		all_pages_of_a_granule_but_the_first_or_the_last_are_held_back,
		neighbouring_granules_are_discarded_by_one_call,
		a_page_given_back_makes_its_whole_granule_present_and_live,
		a_granule_that_is_whole_again_is_discarded_again,
		each_granule_that_a_range_touches_is_made_present,
		what_is_not_reclaimed_needs_not_be_made_present,
		what_an_inhibitor_found_reclaimed_is_made_present_before_it_is_given_back,
		what_an_inhibitor_found_reclaimed_is_made_present_before_a_reset,
		lowering_discards_whole_granules_only,
		a_granule_that_cannot_be_made_present_is_not_given_back,
		after_a_failure_the_whole_range_may_be_given_back_again,
		a_hugetlb_granule_leaves_and_comes_back,
		from_an_empty_pool_no_hugetlb_granule_is_given_back,
		what_the_host_does_not_take_is_held_back_and_the_guest_is_not_told,
		a_failed_discard_is_logged_once,
		what_was_not_discarded_is_tried_again_when_it_is_taken_again,
		what_was_not_discarded_is_tried_again_when_the_last_inhibitor_is_lowered,
		one_run_that_fails_is_one_failure_and_stops_no_other,
		under_unsafe_a_failure_counts_as_unsafes,
		what_is_live_is_made_present_and_what_stays_reclaimed_is_not,
		what_a_driver_that_may_not_tell_gave_does_not_stay_reclaimed,
		what_is_held_and_not_reclaimed_is_live,
		what_is_live_and_cannot_be_made_present_is_told,
		what_is_reported_free_is_discarded_at_once_and_not_held,
		of_a_report_whole_granules_only_are_discarded,
		of_a_report_that_holds_no_whole_granule_nothing_is_discarded,
		no_report_is_honoured_while_an_inhibitor_is_raised_not_even_when_unsafe,
		a_report_not_wholly_within_one_region_of_ram_is_refused,
		a_report_that_fails_says_why,
		after_giving_back_all_nothing_is_held_and_granules_are_present,
		giving_back_all_base_pages_touches_none,
		a_reset_that_finds_no_memory_is_not_through_and_goes_on_later,
		a_reset_is_done_in_as_many_steps_as_asked_for,
		what_is_forgotten_is_neither_held_nor_made_present,
		what_was_given_back_by_a_reset_is_not_discarded_when_the_inhibitor_is_lowered,
		a_granule_half_taken_before_a_reset_is_not_completed_after_it,
		for_a_driver_that_may_not_tell_only_what_one_take_names_is_discarded,
		from_a_driver_that_may_not_tell_no_huge_page_is_taken,
		for_a_driver_that_may_not_tell_what_is_taken_again_is_discarded_again,
		for_a_driver_that_may_not_tell_nothing_is_discarded_when_the_inhibitor_is_lowered,
		a_driver_that_tells_again_is_trusted_again,
		the_policy_follows_who_pins,
		what_is_taken_counts_for_the_policy_then_in_force,
		figures_name_eight_owners_and_count_all,
		the_log_names_once_each_owner_that_keeps_the_balloon_back,
		an_owner_that_comes_again_is_named_again,
		the_log_says_so_when_raising_brings_memory_back,
		books_are_kept_on_regions_that_are_there_before,
		what_leaves_takes_its_books_along,
		ram_that_is_not_aligned_to_its_pages_is_refused,
		without_memory_for_the_books_nothing_is_left_behind,
		finishing_leaves_the_map_and_may_be_done_twice,
	};
	unsigned int before = nr_hugepages();

	set_nr_hugepages(before + NR_HUGE);
	has_hugetlb = nr_hugepages() == before + NR_HUGE;
	if (!has_hugetlb)
		printf("hugetlb is skipped: 4 huge pages cannot be reserved in " NR_HUGEPAGES
		       "\n");
	int status = run_tests("memory_reclaim", setup, NULL, tests, nitems(tests));
	if (has_hugetlb)
		set_nr_hugepages(before);
	return status;
}
