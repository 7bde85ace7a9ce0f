/* SPDX-License-Identifier: MIT */
#include <errno.h>

#include "base/range.h"

#include "tests/fakes/process.h"
#include "vmm/layout.h"

#define MIB (1ull << 20)
#define GIB (1ull << 30)

static struct layout layout;

static void init(uint64_t ram_size, unsigned int address_bits)
{
	ck_assert_int_eq(layout_init(&layout, ram_size, address_bits), 0);
	ck_assert_uint_eq(layout.low_size + layout.high_size, ram_size);
}

START_TEST(up_to_2_gib_ram_is_low_in_one_piece)
{
	static const uint64_t sizes[] = { 64 * MIB, 512 * MIB, 2 * GIB - 4096, 2 * GIB };

	for (unsigned int i = 0; i < nitems(sizes); i++) {
		init(sizes[i], 39);
		ck_assert_uint_eq(layout.low_size, sizes[i]);
		ck_assert_uint_eq(layout.high_size, 0);
	}
}
END_TEST

START_TEST(above_2_gib_the_rest_is_from_4_gib_on)
{
	init(2 * GIB + 4096, 39);
	ck_assert_uint_eq(layout.low_size, 2 * GIB);
	ck_assert_uint_eq(layout.high_size, 4096);
	init(64 * GIB, 39);
	ck_assert_uint_eq(layout.low_size, 2 * GIB);
	ck_assert_uint_eq(layout.high_size, 62 * GIB);
}
END_TEST

START_TEST(the_64_bit_window_is_the_upper_half_of_the_address_space)
{
	init(512 * MIB, 39);
	ck_assert_uint_eq(layout.mem64_base, 1ull << 38);
	ck_assert_uint_eq(layout.mem64_size, 1ull << 38);
	init(512 * MIB, 46);
	ck_assert_uint_eq(layout.mem64_base, 1ull << 45);
	ck_assert_uint_eq(layout.mem64_size, 1ull << 45);
}
END_TEST

START_TEST(ram_may_fill_the_lower_half_and_no_more)
{
	uint64_t most = (1ull << 38) - 4 * GIB + 2 * GIB;

	init(most, 39);
	ck_assert_uint_eq(LAYOUT_HIGH_BASE + layout.high_size, layout.mem64_base);
	ck_assert_int_eq(layout_init(&layout, most + 4096, 39), -E2BIG);
	ck_assert_int_eq(layout_init(&layout, UINT64_MAX, 46), -E2BIG);
	ck_assert_int_eq(layout_init(&layout, 1ull << 63, 39), -E2BIG);
}
END_TEST

START_TEST(an_address_space_of_32_bits_has_no_place_for_the_window)
{
	ck_assert_int_eq(layout_init(&layout, 512 * MIB, 32), -E2BIG);
	init(512 * MIB, 33);
	ck_assert_uint_eq(layout.mem64_base, 4 * GIB);
}
END_TEST

START_TEST(nothing_below_4_gib_overlaps)
{
	static const uint64_t ranges[][2] = {
		{ 0, LAYOUT_HOLE_BASE },
		{ LAYOUT_ECAM_BASE, LAYOUT_ECAM_SIZE },
		{ LAYOUT_MEM32_BASE, LAYOUT_MEM32_SIZE },
		{ LAYOUT_IOAPIC_BASE, 0x1000 },
		{ LAYOUT_LAPIC_BASE, 0x100000 }, /* an IOMMU takes it for MSIs */
		{ LAYOUT_IDENTITY_MAP_BASE, 0x1000 },
		{ LAYOUT_TSS_BASE, 0x3000 },
		{ LAYOUT_HIGH_BASE, 1ull << 40 },
	};

	for (unsigned int i = 0; i < nitems(ranges); i++) {
		for (unsigned int k = 0; k < i; k++)
			ck_assert(!range_overlaps(ranges[i][0], ranges[i][1], ranges[k][0],
						  ranges[k][1]));
	}
	ck_assert_uint_eq(LAYOUT_MEM32_BASE + LAYOUT_MEM32_SIZE - 1, LAYOUT_MEM32_LAST);
	ck_assert_uint_eq(LAYOUT_IO_BASE + LAYOUT_IO_SIZE - 1, LAYOUT_IO_LAST);
	ck_assert_uint_eq(LAYOUT_ACPI_BASE + LAYOUT_ACPI_SIZE, LAYOUT_KERNEL_BASE);
	ck_assert(range_within(LAYOUT_WINDOW_BLOCK, 32, LAYOUT_ACPI_BASE, LAYOUT_ACPI_SIZE));
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		up_to_2_gib_ram_is_low_in_one_piece,
		above_2_gib_the_rest_is_from_4_gib_on,
		the_64_bit_window_is_the_upper_half_of_the_address_space,
		ram_may_fill_the_lower_half_and_no_more,
		an_address_space_of_32_bits_has_no_place_for_the_window,
		nothing_below_4_gib_overlaps,
	};
	return run_tests("vmm_layout", NULL, NULL, tests, nitems(tests));
}
