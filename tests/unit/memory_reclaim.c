/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <sched.h>
#include <semaphore.h>
#include <string.h>
#include <time.h>

#include "base/trace.h"

#include "memory/map.h"
#include "memory/ram.h"
#include "memory/reclaim.h"
#include "tests/fakes/process.h"

#define SIZE (2ull << 20)
#define HIGH_GPA 0x100000000ull

/* One block behind two regions, as a machine has it; a mapped BAR between them. */
static struct ram ram;
static uint8_t bar_bytes[4096] __attribute__((aligned(4096)));
static struct memory_map map;
static struct memory_region low, high, bar;
static struct reclaim reclaim;
static struct inhibitor one, two;

static void setup(void)
{
	ck_assert_int_eq(ram_init(&ram, 2 * SIZE, RAM_ANONYMOUS), 0);
	memory_map_init(&map);
	reclaim_init(&reclaim, &map);
	low = (struct memory_region){ .size = SIZE, .host = ram.host, .ram = &ram };
	high = (struct memory_region){
		.gpa = HIGH_GPA,
		.size = SIZE,
		.host = (char *)ram.host + SIZE,
		.ram = &ram,
	};
	bar = (struct memory_region){
		.gpa = 0xc0000000,
		.size = sizeof(bar_bytes),
		.host = bar_bytes,
		.kind = MEMORY_DEVICE,
	};
	ck_assert_int_eq(memory_map_add(&map, &low), 0);
	ck_assert_int_eq(memory_map_add(&map, &high), 0);
	ck_assert_int_eq(memory_map_add(&map, &bar), 0);
	memset(ram.host, 0xaa, 2 * SIZE);
	memset(bar_bytes, 0xaa, sizeof(bar_bytes));
}

static uint8_t byte_at(uint64_t offset)
{
	return ((uint8_t *)ram.host)[offset];
}

START_TEST(a_discarded_page_reads_zero)
{
	ck_assert_int_eq(reclaim_discard(&reclaim, 0x1000, 0x1000), 0);
	ck_assert_int_eq(byte_at(0xfff), 0xaa);
	ck_assert_int_eq(byte_at(0x1000), 0);
	ck_assert_int_eq(byte_at(0x1fff), 0);
	ck_assert_int_eq(byte_at(0x2000), 0xaa);
}
END_TEST

START_TEST(a_page_of_high_ram_is_that_of_its_place_in_the_block)
{
	ck_assert_int_eq(reclaim_discard(&reclaim, HIGH_GPA + 0x3000, 0x1000), 0);
	ck_assert_int_eq(byte_at(0x3000), 0xaa);
	ck_assert_int_eq(byte_at(SIZE + 0x2fff), 0xaa);
	ck_assert_int_eq(byte_at(SIZE + 0x3000), 0);
	ck_assert_int_eq(byte_at(SIZE + 0x4000), 0xaa);
}
END_TEST

START_TEST(what_is_not_ram_is_not_discarded)
{
	ck_assert_int_eq(reclaim_discard(&reclaim, 0xc0000000, 0x1000), -EFAULT);
	ck_assert_int_eq(reclaim_discard(&reclaim, SIZE, 0x1000), -EFAULT);
	ck_assert_int_eq(reclaim_discard(&reclaim, SIZE - 0x1000, 0x2000), -EFAULT);
	ck_assert_int_eq(reclaim_discard(&reclaim, 0, 0), -EFAULT);
	ck_assert_int_eq(reclaim_discard(&reclaim, UINT64_MAX - 0xfff, 0x2000), -EFAULT);
	ck_assert_int_eq(bar_bytes[0], 0xaa);
	ck_assert_int_eq(byte_at(SIZE - 1), 0xaa);
}
END_TEST

START_TEST(a_piece_of_a_page_is_not_discarded)
{
	ck_assert_int_eq(reclaim_discard(&reclaim, 0x1001, 0x1000), -EINVAL);
	ck_assert_int_eq(reclaim_discard(&reclaim, 0x1000, 0x800), -EINVAL);
	ck_assert_int_eq(byte_at(0x1800), 0xaa);
}
END_TEST

START_TEST(while_one_of_two_inhibitors_is_raised_nothing_is_discarded)
{
	inhibitor_raise(&reclaim, &one, "vfio group 1");
	inhibitor_raise(&reclaim, &two, "vfio group 2");
	ck_assert_uint_eq(reclaim_inhibitors(&reclaim), 2);
	ck_assert_int_eq(reclaim_discard(&reclaim, 0x1000, 0x1000), -EBUSY);
	inhibitor_lower(&reclaim, &one);
	ck_assert_uint_eq(reclaim_inhibitors(&reclaim), 1);
	ck_assert_int_eq(reclaim_discard(&reclaim, 0x1000, 0x1000), -EBUSY);
	ck_assert_int_eq(byte_at(0x1000), 0xaa);
	inhibitor_lower(&reclaim, &two);
	ck_assert_int_eq(reclaim_discard(&reclaim, 0x1000, 0x1000), 0);
}
END_TEST

START_TEST(lowering_twice_is_lowering_once)
{
	inhibitor_raise(&reclaim, &one, "a");
	inhibitor_raise(&reclaim, &two, "b");
	inhibitor_lower(&reclaim, &one);
	inhibitor_lower(&reclaim, &one);
	ck_assert_uint_eq(reclaim_inhibitors(&reclaim), 1);
	ck_assert_int_eq(reclaim_discard(&reclaim, 0, 0x1000), -EBUSY);
}
END_TEST

START_TEST(lowering_one_that_was_never_raised_does_nothing)
{
	inhibitor_lower(&reclaim, &one);
	ck_assert_uint_eq(reclaim_inhibitors(&reclaim), 0);
	reclaim_finish(&reclaim);
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

static void *discard_one(void *opaque)
{
	int *ret = opaque;

	*ret = reclaim_discard(&reclaim, 0x1000, 0x1000);
	return NULL;
}

static void *raise_one(void *opaque)
{
	(void)opaque;
	inhibitor_raise(&reclaim, &one, "a");
	__atomic_store_n(&raised, true, __ATOMIC_SEQ_CST);
	return NULL;
}

START_TEST(raising_waits_for_a_running_discard)
{
	const struct timespec a_while = { .tv_nsec = 50000000 };
	pthread_t discarder, raiser;
	int r = -1;

	sem_init(&discarding, 0, 0);
	sem_init(&go_on, 0, 0);
	trace_listen(hold_discard);
	ck_assert_int_eq(pthread_create(&discarder, NULL, discard_one, &r), 0);
	sem_wait(&discarding);
	ck_assert_int_eq(pthread_create(&raiser, NULL, raise_one, NULL), 0);
	nanosleep(&a_while, NULL);
	ck_assert(!__atomic_load_n(&raised, __ATOMIC_SEQ_CST));
	sem_post(&go_on);
	pthread_join(raiser, NULL);
	pthread_join(discarder, NULL);
	ck_assert_int_eq(r, 0);
	ck_assert_int_eq(reclaim_discard(&reclaim, 0x1000, 0x1000), -EBUSY);
}
END_TEST

/*
 * Discards without pause in several threads, each on its own pages. While the inhibitor is
 * raised, what the "device" writes must stay; TSan would report a discard that overlaps.
 */

static bool stop;
static uint64_t nr_discarded;

static void *discard_for_ever(void *opaque)
{
	gpa_t gpa = *(const gpa_t *)opaque;

	while (!__atomic_load_n(&stop, __ATOMIC_SEQ_CST)) {
		int r = reclaim_discard(&reclaim, gpa, 0x1000);
		if (r == 0)
			__atomic_fetch_add(&nr_discarded, 1, __ATOMIC_SEQ_CST);
		else if (r != -EBUSY)
			return opaque;
	}
	return NULL;
}

START_TEST(after_raising_no_discard_starts_until_it_is_lowered)
{
	static gpa_t gpas[] = { 0x1000, 0x2000, HIGH_GPA };
	pthread_t threads[nitems(gpas)];
	volatile uint8_t *pages[nitems(gpas)];

	for (unsigned int i = 0; i < nitems(gpas); i++) {
		pages[i] = (uint8_t *)ram.host + (gpas[i] == HIGH_GPA ? SIZE : gpas[i]);
		ck_assert_int_eq(pthread_create(&threads[i], NULL, discard_for_ever, &gpas[i]),
				 0);
	}
	for (unsigned int round = 0; round < 25; round++) {
		uint64_t before = __atomic_load_n(&nr_discarded, __ATOMIC_SEQ_CST);
		while (__atomic_load_n(&nr_discarded, __ATOMIC_SEQ_CST) == before)
			sched_yield();
		inhibitor_raise(&reclaim, &one, "device");
		for (unsigned int i = 0; i < nitems(gpas); i++)
			*pages[i] = 0x55;
		for (unsigned int k = 0; k < 4; k++)
			sched_yield();
		for (unsigned int i = 0; i < nitems(gpas); i++)
			ck_assert_int_eq(*pages[i], 0x55);
		inhibitor_lower(&reclaim, &one);
	}
	__atomic_store_n(&stop, true, __ATOMIC_SEQ_CST);
	for (unsigned int i = 0; i < nitems(gpas); i++) {
		void *wrong = NULL;
		pthread_join(threads[i], &wrong);
		ck_assert_ptr_null(wrong);
	}
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		a_discarded_page_reads_zero,
		a_page_of_high_ram_is_that_of_its_place_in_the_block,
		what_is_not_ram_is_not_discarded,
		a_piece_of_a_page_is_not_discarded,
		while_one_of_two_inhibitors_is_raised_nothing_is_discarded,
		lowering_twice_is_lowering_once,
		lowering_one_that_was_never_raised_does_nothing,
		one_that_was_lowered_may_be_raised_again,
		an_inhibitor_names_its_owner_and_cuts_a_long_name,
		raising_waits_for_a_running_discard,
		after_raising_no_discard_starts_until_it_is_lowered,
	};
	return run_tests("memory_reclaim", setup, NULL, tests, nitems(tests));
}
