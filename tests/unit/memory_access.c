/* SPDX-License-Identifier: MIT */
#include <errno.h>

#include "memory/access.h"
#include "memory/map.h"
#include "tests/fakes/process.h"

#define SIZE 0x2000u

/* low and next adjoin; bar follows them; last ends at 2^64. */
static struct memory_map map;
static uint8_t low_bytes[SIZE];
static uint8_t next_bytes[SIZE];
static uint8_t bar_bytes[SIZE];
static uint8_t last_bytes[SIZE];
static struct memory_region low = { .gpa = 0x1000, .host = low_bytes };
static struct memory_region next = { .gpa = 0x3000, .host = next_bytes };
static struct memory_region bar = { .gpa = 0x5000, .host = bar_bytes, .kind = MEMORY_DEVICE };
static struct memory_region last = { .gpa = UINT64_MAX - SIZE + 1, .host = last_bytes };

static void setup(void)
{
	struct memory_region *const all[] = { &low, &next, &bar, &last };

	memory_map_init(&map);
	for (unsigned int i = 0; i < nitems(all); i++) {
		all[i]->size = SIZE;
		ck_assert_int_eq(memory_map_add(&map, all[i]), 0);
	}
	for (unsigned int i = 0; i < SIZE; i++) {
		low_bytes[i] = (uint8_t)(i * 7);
		next_bytes[i] = (uint8_t)(i * 11 + 1);
	}
}

START_TEST(what_is_written_is_read_back)
{
	char text[6] = "";

	ck_assert_int_eq(memory_write(&map, 0x1ffe, "hello", 6), 0);
	ck_assert_mem_eq(low_bytes + 0xffe, "hello", 6);
	ck_assert_int_eq(memory_read(&map, 0x1ffe, text, 6), 0);
	ck_assert_str_eq(text, "hello");
}
END_TEST

START_TEST(nothing_can_be_copied_anywhere)
{
	ck_assert_int_eq(memory_read(&map, 0x1000, NULL, 0), 0);
	ck_assert_int_eq(memory_write(&map, 0x999999, NULL, 0), 0);
}
END_TEST

START_TEST(a_copy_may_span_adjoining_regions)
{
	uint8_t buffer[2 * SIZE];

	ck_assert_int_eq(memory_read(&map, 0x1000, buffer, sizeof(buffer)), 0);
	ck_assert_mem_eq(buffer, low_bytes, SIZE);
	ck_assert_mem_eq(buffer + SIZE, next_bytes, SIZE);
	ck_assert_int_eq(memory_write(&map, 0x2ffe, "abcd", 4), 0);
	ck_assert_mem_eq(low_bytes + SIZE - 2, "ab", 2);
	ck_assert_mem_eq(next_bytes, "cd", 2);
}
END_TEST

START_TEST(the_first_and_the_last_byte_are_within)
{
	uint8_t byte = 0xff;

	ck_assert_int_eq(memory_read(&map, 0x1000, &byte, 1), 0);
	ck_assert_int_eq(byte, low_bytes[0]);
	ck_assert_int_eq(memory_read(&map, 0x4fff, &byte, 1), 0);
	ck_assert_int_eq(byte, next_bytes[SIZE - 1]);
	ck_assert_int_eq(memory_read(&map, 0xfff, &byte, 1), -EFAULT);
	ck_assert_int_eq(memory_write(&map, 0xfff, &byte, 2), -EFAULT);
}
END_TEST

START_TEST(a_mapped_bar_is_not_touched)
{
	uint8_t buffer[4] = { 1, 2, 3, 4 };

	ck_assert_int_eq(memory_read(&map, 0x5000, buffer, 4), -EFAULT);
	ck_assert_int_eq(memory_write(&map, 0x5000, buffer, 4), -EFAULT);
	ck_assert_int_eq(memory_write(&map, 0x4ffe, buffer, 4), -EFAULT);
	ck_assert_int_eq(bar_bytes[0], 0);
	ck_assert_int_eq(bar_bytes[1], 0);
	ck_assert_ptr_null(memory_ptr(&map, 0x5000, 4));
}
END_TEST

START_TEST(a_copy_up_to_2_to_the_64_is_fine_and_beyond_is_not)
{
	static uint8_t buffer[2 * SIZE];

	ck_assert_int_eq(memory_write(&map, UINT64_MAX, "z", 1), 0);
	ck_assert_int_eq(last_bytes[SIZE - 1], 'z');
	ck_assert_int_eq(memory_read(&map, UINT64_MAX - SIZE + 1, buffer, SIZE), 0);
	ck_assert_int_eq(memory_read(&map, UINT64_MAX, buffer, 2), -EFAULT);
	ck_assert_int_eq(memory_write(&map, UINT64_MAX, buffer, 2), -EFAULT);
	ck_assert_int_eq(memory_read(&map, UINT64_MAX - SIZE + 1, buffer, SIZE + 1), -EFAULT);
	ck_assert_int_eq(last_bytes[SIZE - 1], 'z');
}
END_TEST

START_TEST(a_size_that_wraps_is_refused_before_a_byte_is_copied)
{
	ck_assert_int_eq(memory_write(&map, 0x2000, low_bytes, SIZE_MAX), -EFAULT);
	ck_assert_int_eq(memory_read(&map, 0x1000, bar_bytes, SIZE_MAX), -EFAULT);
	ck_assert_int_eq(bar_bytes[1], 0);
}
END_TEST

START_TEST(a_pointer_is_good_within_one_region_only)
{
	ck_assert_ptr_eq(memory_ptr(&map, 0x1000, SIZE), low_bytes);
	ck_assert_ptr_eq(memory_ptr(&map, 0x1234, 8), low_bytes + 0x234);
	ck_assert_ptr_eq(memory_ptr(&map, 0x2fff, 1), low_bytes + SIZE - 1);
	ck_assert_ptr_null(memory_ptr(&map, 0x2fff, 2));
	ck_assert_ptr_null(memory_ptr(&map, 0, 1));
	ck_assert_ptr_null(memory_ptr(&map, 0x1000, 0));
	ck_assert_ptr_null(memory_ptr(&map, 0x1000, UINT64_MAX));
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		what_is_written_is_read_back,
		nothing_can_be_copied_anywhere,
		a_copy_may_span_adjoining_regions,
		the_first_and_the_last_byte_are_within,
		a_mapped_bar_is_not_touched,
		a_copy_up_to_2_to_the_64_is_fine_and_beyond_is_not,
		a_size_that_wraps_is_refused_before_a_byte_is_copied,
		a_pointer_is_good_within_one_region_only,
	};
	return run_tests("memory_access", setup, NULL, tests, nitems(tests));
}
