/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <semaphore.h>
#include <string.h>

#include "memory/map.h"
#include "tests/fakes/process.h"

#define NR_LISTENERS 4u

/* A listener that writes down what it is told: "A+x" for an add of region x, "A-x" a del. */
struct recorder {
	struct memory_listener listener;
	const char *refuses; /* the name of the region it refuses, or NULL */
};

static struct memory_map map;
static struct recorder recorders[NR_LISTENERS];
static struct memory_region x, y, z;
static char record[256];

static int recorder_add(struct memory_listener *listener, struct memory_region *region)
{
	struct recorder *rec = container_of(listener, struct recorder, listener);
	bool refuses = rec->refuses && strcmp(rec->refuses, region->name) == 0;

	strcat(strcat(strcat(record, listener->name), refuses ? "!" : "+"), region->name);
	return refuses ? -ENOMEM : 0;
}

static void recorder_del(struct memory_listener *listener, struct memory_region *region)
{
	strcat(strcat(strcat(record, listener->name), "-"), region->name);
}

static const struct memory_listener_ops recorder_ops = {
	.add = recorder_add,
	.del = recorder_del,
};

static void expect_record(const char *text)
{
	ck_assert_str_eq(record, text);
	record[0] = '\0';
}

static struct memory_region region(const char *name, gpa_t gpa, uint64_t size)
{
	return (struct memory_region){ .gpa = gpa, .size = size, .name = name };
}

static void setup(void)
{
	static const char *const names[] = { "A", "B", "C", "D" };

	memory_map_init(&map);
	for (unsigned int i = 0; i < NR_LISTENERS; i++)
		recorders[i].listener =
			(struct memory_listener){ .ops = &recorder_ops, .name = names[i] };
	x = region("x", 0x1000, 0x2000);
	y = region("y", 0x3000, 0x1000);
	z = region("z", 0x10000, 0x1000);
}

static void join(unsigned int count)
{
	for (unsigned int i = 0; i < count; i++)
		ck_assert_int_eq(memory_map_listen(&map, &recorders[i].listener), 0);
}

static void add(struct memory_region *r)
{
	ck_assert_int_eq(memory_map_add(&map, r), 0);
}

START_TEST(an_added_region_is_found_by_any_piece_of_it)
{
	add(&x);
	ck_assert_ptr_eq(memory_map_find(&map, 0x1000, 0x2000), &x);
	ck_assert_ptr_eq(memory_map_find(&map, 0x1000, 1), &x);
	ck_assert_ptr_eq(memory_map_find(&map, 0x2fff, 1), &x);
	ck_assert_ptr_eq(memory_map_find(&map, 0x1ffc, 8), &x);
}
END_TEST

START_TEST(what_is_not_wholly_in_one_region_is_not_found)
{
	add(&x);
	add(&y);
	ck_assert_ptr_null(memory_map_find(&map, 0xfff, 1));
	ck_assert_ptr_null(memory_map_find(&map, 0xfff, 2));
	ck_assert_ptr_null(memory_map_find(&map, 0x2fff, 2));
	ck_assert_ptr_null(memory_map_find(&map, 0x4000, 1));
	ck_assert_ptr_null(memory_map_find(&map, 0x1000, 0));
	ck_assert_ptr_null(memory_map_find(&map, 0x1000, UINT64_MAX));
	ck_assert_ptr_null(memory_map_find(&map, UINT64_MAX, 2));
}
END_TEST

START_TEST(of_ram_the_place_is_found_and_what_is_left_from_there)
{
	static char host[0x2000];
	uint64_t left = 1;

	x.host = host;
	y.kind = MEMORY_DEVICE;
	y.host = host;
	add(&x);
	add(&y);
	ck_assert_ptr_eq(memory_map_find_ram(&map, 0x1800, 8, &left), host + 0x800);
	ck_assert_uint_eq(left, 0x1800);
	ck_assert_ptr_eq(memory_map_find_ram(&map, 0x2fff, 1, &left), host + 0x1fff);
	ck_assert_uint_eq(left, 1);
	ck_assert_ptr_null(memory_map_find_ram(&map, 0x2fff, 2, &left));
	ck_assert_ptr_null(memory_map_find_ram(&map, 0x3000, 1, &left));
	ck_assert_ptr_null(memory_map_find_ram(&map, 0x1000, 0, &left));
	ck_assert_ptr_null(memory_map_find_ram(&map, UINT64_MAX, 2, &left));
}
END_TEST

START_TEST(regions_may_touch)
{
	add(&y);
	add(&x);
	ck_assert_ptr_eq(memory_map_find(&map, 0x2fff, 1), &x);
	ck_assert_ptr_eq(memory_map_find(&map, 0x3000, 1), &y);
}
END_TEST

START_TEST(adding_an_overlapping_region_is_refused)
{
	struct memory_region same = region("same", 0x1000, 0x2000);
	struct memory_region head = region("head", 0, 0x2000);
	struct memory_region tail = region("tail", 0x2000, 0x2000);
	struct memory_region inner = region("inner", 0x2000, 0x1000);
	struct memory_region outer = region("outer", 0, 0x100000);
	struct memory_region *const all[] = { &same, &head, &tail, &inner, &outer };

	add(&x);
	add(&z);
	join(1);
	record[0] = '\0';
	for (unsigned int i = 0; i < nitems(all); i++)
		ck_assert_int_eq(memory_map_add(&map, all[i]), -EEXIST);
	expect_record("");
	ck_assert_ptr_eq(memory_map_find(&map, 0x1000, 1), &x);
	ck_assert_ptr_null(memory_map_find(&map, 0, 1));
}
END_TEST

START_TEST(a_region_that_is_empty_unaligned_or_wraps_is_refused)
{
	struct memory_region empty = region("empty", 0x1000, 0);
	struct memory_region start = region("start", 0x1001, 0x1000);
	struct memory_region size = region("size", 0x1000, 0x1001);
	struct memory_region wraps = region("wraps", UINT64_MAX - 0xfff, 0x2000);
	struct memory_region *const all[] = { &empty, &start, &size, &wraps };

	join(1);
	for (unsigned int i = 0; i < nitems(all); i++)
		ck_assert_int_eq(memory_map_add(&map, all[i]), -EINVAL);
	expect_record("");
}
END_TEST

START_TEST(a_region_may_end_exactly_at_2_to_the_64)
{
	struct memory_region last = region("last", UINT64_MAX - 0xfff, 0x1000);

	add(&last);
	ck_assert_ptr_eq(memory_map_find(&map, UINT64_MAX, 1), &last);
	ck_assert_ptr_null(memory_map_find(&map, UINT64_MAX, 2));
}
END_TEST

START_TEST(a_removed_region_is_not_found_and_may_be_added_again)
{
	add(&x);
	memory_map_remove(&map, &x);
	ck_assert_ptr_null(memory_map_find(&map, 0x1000, 1));
	x.gpa = 0x8000;
	add(&x);
	ck_assert_ptr_eq(memory_map_find(&map, 0x8000, 1), &x);
}
END_TEST

START_TEST(removing_what_is_in_no_map_does_nothing)
{
	join(1);
	memory_map_remove(&map, &x);
	add(&x);
	memory_map_remove(&map, &x);
	memory_map_remove(&map, &x);
	expect_record("A+xA-x");
	memory_map_unlisten(&map, &recorders[0].listener);
	memory_map_finish(&map);
}
END_TEST

START_TEST(ram_is_summed_up_and_mapped_bars_are_not)
{
	z.kind = MEMORY_DEVICE;
	ck_assert_uint_eq(memory_map_ram_size(&map), 0);
	add(&x);
	add(&y);
	add(&z);
	ck_assert_uint_eq(memory_map_ram_size(&map), 0x3000);
}
END_TEST

START_TEST(listeners_are_told_in_the_order_of_joining_and_untold_in_reverse)
{
	join(3);
	add(&x);
	expect_record("A+xB+xC+x");
	memory_map_remove(&map, &x);
	expect_record("C-xB-xA-x");
}
END_TEST

START_TEST(a_refusal_at_any_position_untells_those_before_newest_first)
{
	static const char *const expected[NR_LISTENERS] = {
		"A!x",
		"A+xB!xA-x",
		"A+xB+xC!xB-xA-x",
		"A+xB+xC+xD!xC-xB-xA-x",
	};

	join(NR_LISTENERS);
	for (unsigned int i = 0; i < NR_LISTENERS; i++) {
		recorders[i].refuses = "x";
		ck_assert_int_eq(memory_map_add(&map, &x), -ENOMEM);
		expect_record(expected[i]);
		ck_assert_ptr_null(memory_map_find(&map, 0x1000, 1));
		ck_assert(!list_linked(&x.link));
		recorders[i].refuses = NULL;
	}
	add(&x);
	expect_record("A+xB+xC+xD+x");
}
END_TEST

START_TEST(a_late_listener_is_told_of_every_region_lowest_first)
{
	add(&z);
	add(&x);
	add(&y);
	join(1);
	expect_record("A+xA+yA+z");
}
END_TEST

START_TEST(a_late_listener_that_refuses_is_unwound_at_each_region)
{
	static const struct {
		const char *refuses;
		const char *expected;
	} cases[] = {
		{ "x", "A!x" },
		{ "y", "A+xA!yA-x" },
		{ "z", "A+xA+yA!zA-yA-x" },
	};

	add(&x);
	add(&y);
	add(&z);
	for (unsigned int i = 0; i < nitems(cases); i++) {
		recorders[0].refuses = cases[i].refuses;
		ck_assert_int_eq(memory_map_listen(&map, &recorders[0].listener), -ENOMEM);
		expect_record(cases[i].expected);
	}
	memory_map_remove(&map, &z);
	expect_record("");
	recorders[0].refuses = NULL;
	join(1);
	expect_record("A+xA+y");
}
END_TEST

START_TEST(a_leaving_listener_is_untold_highest_first_and_hears_no_more)
{
	join(2);
	add(&x);
	add(&z);
	add(&y);
	record[0] = '\0';
	memory_map_unlisten(&map, &recorders[0].listener);
	expect_record("A-zA-yA-x");
	memory_map_unlisten(&map, &recorders[0].listener);
	memory_map_remove(&map, &y);
	expect_record("B-y");
	ck_assert_ptr_eq(memory_map_find(&map, 0x1000, 1), &x);
}
END_TEST

START_TEST(one_that_never_joined_leaves_in_silence)
{
	add(&x);
	memory_map_unlisten(&map, &recorders[0].listener);
	expect_record("");
}
END_TEST

static sem_t told;
static sem_t go_on;

static int slow_add(struct memory_listener *listener, struct memory_region *r)
{
	(void)listener;
	(void)r;
	sem_post(&told);
	while (sem_wait(&go_on) < 0)
		continue;
	return 0;
}

static const struct memory_listener_ops slow_ops = { .add = slow_add, .del = recorder_del };

static void *add_y(void *opaque)
{
	(void)opaque;
	add(&y);
	return NULL;
}

START_TEST(finding_does_not_wait_for_a_listener)
{
	struct memory_listener slow = { .ops = &slow_ops, .name = "slow" };
	pthread_t thread;

	sem_init(&told, 0, 0);
	sem_init(&go_on, 0, 0);
	add(&x);
	sem_post(&go_on);
	ck_assert_int_eq(memory_map_listen(&map, &slow), 0);
	sem_wait(&told);
	ck_assert_int_eq(pthread_create(&thread, NULL, add_y, NULL), 0);
	sem_wait(&told);
	ck_assert_ptr_eq(memory_map_find(&map, 0x1000, 1), &x);
	ck_assert_ptr_null(memory_map_find(&map, 0x3000, 1));
	sem_post(&go_on);
	pthread_join(thread, NULL);
	ck_assert_ptr_eq(memory_map_find(&map, 0x3000, 1), &y);
}
END_TEST

static bool stop;

/* The region that stays is always found; of those that come and go it is all or nothing. */
static void *find_for_ever(void *opaque)
{
	bool *ret_ok = opaque;

	while (!__atomic_load_n(&stop, __ATOMIC_SEQ_CST)) {
		struct memory_region *found = memory_map_find(&map, 0x3000, 0x1000);
		*ret_ok &= memory_map_find(&map, 0x1000, 8) == &x;
		*ret_ok &= !found || (found == &y && found->gpa == 0x3000);
		*ret_ok &= memory_map_ram_size(&map) >= x.size;
	}
	return NULL;
}

START_TEST(finding_races_with_adding_and_removing)
{
	pthread_t threads[3];
	bool ok[nitems(threads)];

	add(&x);
	for (unsigned int i = 0; i < nitems(threads); i++) {
		ok[i] = true;
		ck_assert_int_eq(pthread_create(&threads[i], NULL, find_for_ever, &ok[i]), 0);
	}
	for (unsigned int i = 0; i < 300; i++) {
		add(&y);
		add(&z);
		memory_map_remove(&map, &y);
		memory_map_remove(&map, &z);
	}
	__atomic_store_n(&stop, true, __ATOMIC_SEQ_CST);
	for (unsigned int i = 0; i < nitems(threads); i++) {
		pthread_join(threads[i], NULL);
		ck_assert(ok[i]);
	}
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		an_added_region_is_found_by_any_piece_of_it,
		what_is_not_wholly_in_one_region_is_not_found,
		of_ram_the_place_is_found_and_what_is_left_from_there,
		regions_may_touch,
		adding_an_overlapping_region_is_refused,
		a_region_that_is_empty_unaligned_or_wraps_is_refused,
		a_region_may_end_exactly_at_2_to_the_64,
		a_removed_region_is_not_found_and_may_be_added_again,
		removing_what_is_in_no_map_does_nothing,
		ram_is_summed_up_and_mapped_bars_are_not,
		listeners_are_told_in_the_order_of_joining_and_untold_in_reverse,
		a_refusal_at_any_position_untells_those_before_newest_first,
		a_late_listener_is_told_of_every_region_lowest_first,
		a_late_listener_that_refuses_is_unwound_at_each_region,
		a_leaving_listener_is_untold_highest_first_and_hears_no_more,
		one_that_never_joined_leaves_in_silence,
		finding_does_not_wait_for_a_listener,
		finding_races_with_adding_and_removing,
	};
	return run_tests("memory_map", setup, NULL, tests, nitems(tests));
}
