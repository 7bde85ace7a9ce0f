/* SPDX-License-Identifier: MIT */
#include "base/range.h"

#include "tests/fakes/process.h"

#define TOP UINT64_MAX

START_TEST(an_empty_range_is_not_valid)
{
	ck_assert(!range_valid(0, 0));
	ck_assert(!range_valid(0x1000, 0));
	ck_assert(!range_valid(TOP, 0));
}
END_TEST

START_TEST(a_range_may_end_exactly_at_2_to_the_64)
{
	ck_assert(range_valid(TOP, 1));
	ck_assert(range_valid(TOP - 4095, 4096));
	ck_assert(range_valid(0, TOP));
	ck_assert(range_valid(1, TOP));
}
END_TEST

START_TEST(a_range_that_wraps_is_not_valid)
{
	ck_assert(!range_valid(TOP, 2));
	ck_assert(!range_valid(TOP - 4095, 4097));
	ck_assert(!range_valid(2, TOP));
	ck_assert(!range_valid(TOP, TOP));
}
END_TEST

START_TEST(a_range_lies_within_itself)
{
	ck_assert(range_within(0x1000, 0x1000, 0x1000, 0x1000));
	ck_assert(range_within(TOP, 1, TOP, 1));
	ck_assert(range_within(0, TOP, 0, TOP));
}
END_TEST

START_TEST(one_byte_too_many_at_either_end_is_not_within)
{
	ck_assert(!range_within(0xfff, 0x1000, 0x1000, 0x1000));
	ck_assert(!range_within(0x1000, 0x1001, 0x1000, 0x1000));
	ck_assert(!range_within(0x2000, 1, 0x1000, 0x1000));
	ck_assert(range_within(0x1fff, 1, 0x1000, 0x1000));
}
END_TEST

START_TEST(within_holds_at_the_end_of_the_address_space)
{
	ck_assert(range_within(TOP - 1, 2, TOP - 4095, 4096));
	ck_assert(!range_within(TOP - 4096, 4096, TOP - 4095, 4096));
	ck_assert(!range_within(0, 1, TOP - 4095, 4096));
	ck_assert(!range_within(TOP - 1, 3, TOP - 4095, 4096));
}
END_TEST

START_TEST(neighbours_do_not_overlap)
{
	ck_assert(!range_overlaps(0, 0x1000, 0x1000, 0x1000));
	ck_assert(!range_overlaps(0x1000, 0x1000, 0, 0x1000));
	ck_assert(!range_overlaps(TOP, 1, TOP - 1, 1));
}
END_TEST

START_TEST(one_shared_byte_is_an_overlap_from_either_side)
{
	ck_assert(range_overlaps(0, 0x1001, 0x1000, 0x1000));
	ck_assert(range_overlaps(0x1000, 0x1000, 0, 0x1001));
	ck_assert(range_overlaps(0x1000, 0x1000, 0x1fff, 1));
	ck_assert(range_overlaps(0x1fff, 1, 0x1000, 0x1000));
}
END_TEST

START_TEST(overlap_holds_at_the_end_of_the_address_space)
{
	ck_assert(range_overlaps(TOP - 4095, 4096, TOP, 1));
	ck_assert(range_overlaps(0, TOP, TOP - 1, 1));
	ck_assert(!range_overlaps(0, TOP, TOP, 1));
	ck_assert(!range_overlaps(TOP - 4095, 4096, 0, 0x1000));
}
END_TEST

START_TEST(zero_is_no_power_of_two)
{
	ck_assert(!is_power_of_2(0));
	ck_assert(is_power_of_2(1));
	ck_assert(is_power_of_2(1ull << 63));
	ck_assert(!is_power_of_2(3));
	ck_assert(!is_power_of_2(TOP));
}
END_TEST

START_TEST(aligning_goes_to_the_boundary_and_stays_there)
{
	ck_assert_uint_eq(align_down(0x1fff, 0x1000), 0x1000);
	ck_assert_uint_eq(align_down(0x1000, 0x1000), 0x1000);
	ck_assert_uint_eq(align_up(0x1001, 0x1000), 0x2000);
	ck_assert_uint_eq(align_up(0x1000, 0x1000), 0x1000);
	ck_assert_uint_eq(align_up(0, 0x1000), 0);
	ck_assert(is_aligned(0x3000, 0x1000));
	ck_assert(!is_aligned(0x3001, 0x1000));
	ck_assert(is_aligned(0x3001, 1));
}
END_TEST

START_TEST(aligning_up_the_last_bytes_wraps_to_zero)
{
	ck_assert_uint_eq(align_up(TOP, 0x1000), 0);
	ck_assert_uint_eq(align_up(TOP - 0xffe, 0x1000), 0);
	ck_assert_uint_eq(align_up(TOP - 0xfff, 0x1000), TOP - 0xfff);
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		an_empty_range_is_not_valid,
		a_range_may_end_exactly_at_2_to_the_64,
		a_range_that_wraps_is_not_valid,
		a_range_lies_within_itself,
		one_byte_too_many_at_either_end_is_not_within,
		within_holds_at_the_end_of_the_address_space,
		neighbours_do_not_overlap,
		one_shared_byte_is_an_overlap_from_either_side,
		overlap_holds_at_the_end_of_the_address_space,
		zero_is_no_power_of_two,
		aligning_goes_to_the_boundary_and_stays_there,
		aligning_up_the_last_bytes_wraps_to_zero,
	};
	return run_tests("base_range", NULL, NULL, tests, nitems(tests));
}
