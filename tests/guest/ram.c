/* SPDX-License-Identifier: MIT */
/*
 * ram.c - RAM is where the memory map says, as much as was asked for, each byte only once, and
 * nothing beyond it.
 */
#include "tests/guest/guest.h"

#define RAM 1
#define RESERVED 2
#define FREE_LOW 0x80000 /* of the first 640 KiB */

static uint64_t mix(uint64_t address)
{
	return (address ^ 0x5a5a5a5a5a5a5a5a) * 0x9e3779b97f4a7c15;
}

static const struct start_info_memory *entry(unsigned int i)
{
	return (const struct start_info_memory *)start_info()->memory_map + i;
}

static uint64_t memory_of_type(uint32_t type, uint64_t from, uint64_t to)
{
	uint64_t sum = 0;

	for (unsigned int i = 0; i < start_info()->memory_map_entries; i++) {
		if (entry(i)->type == type && entry(i)->address >= from &&
		    entry(i)->address < to)
			sum += entry(i)->size;
	}
	return sum;
}

static bool is_of_type(uint32_t type, uint64_t address)
{
	for (unsigned int i = 0; i < start_info()->memory_map_entries; i++) {
		if (entry(i)->type == type && address >= entry(i)->address &&
		    address - entry(i)->address < entry(i)->size)
			return true;
	}
	return false;
}

static void memory_map_is_sound(uint64_t low, uint64_t high)
{
	uint64_t end = 0;

	for (unsigned int i = 0; i < start_info()->memory_map_entries; i++) {
		CHECK(entry(i)->size > 0);
		CHECK(entry(i)->address >= end); /* ascending, none overlaps */
		CHECK(entry(i)->type == RAM || entry(i)->type == RESERVED);
		end = entry(i)->address + entry(i)->size;
	}
	/* Of low RAM only what lies between 640 KiB and 1 MiB is not usable. */
	CHECK_EQ(memory_of_type(RAM, 0, LAYOUT_HOLE_BASE), low - 0x60000);
	CHECK_EQ(memory_of_type(RAM, LAYOUT_HIGH_BASE, UINT64_MAX), high);
	CHECK(is_of_type(RAM, LAYOUT_KERNEL_BASE));
	CHECK(is_of_type(RAM, low - 1));
	CHECK(is_of_type(RESERVED, LAYOUT_ACPI_BASE));
	CHECK(is_of_type(RESERVED, LAYOUT_WINDOW_BLOCK));
	CHECK(is_of_type(RESERVED, LAYOUT_ECAM_BASE));
	CHECK(!is_of_type(RAM, LAYOUT_LAPIC_BASE));
	CHECK(!is_of_type(RAM, LAYOUT_MEM32_BASE));
}

int guest_main(void)
{
	uint64_t size = option("memory");
	uint64_t low = size < LAYOUT_HOLE_BASE ? size : LAYOUT_HOLE_BASE;
	uint64_t high = size - low;
	uint64_t high_end = LAYOUT_HIGH_BASE + high;
	uint64_t probes[16];
	unsigned int n = 0;

	memory_map_is_sound(low, high);
	probes[n++] = FREE_LOW;
	probes[n++] = (uint64_t)image_end + 4096;
	probes[n++] = low / 2;
	probes[n++] = low - 4096;
	probes[n++] = low - 8;
	if (high) {
		/* Also the addresses that a cut to 32 or 31 bits would turn into one another. */
		probes[n++] = LAYOUT_HIGH_BASE;
		probes[n++] = LAYOUT_HIGH_BASE + FREE_LOW;
		probes[n++] = LAYOUT_HIGH_BASE + (uint64_t)image_end + 4096;
		probes[n++] = LAYOUT_HIGH_BASE + low / 2;
		probes[n++] = LAYOUT_HIGH_BASE + low - 8;
		probes[n++] = LAYOUT_HIGH_BASE + low;
		probes[n++] = LAYOUT_HIGH_BASE + high / 2;
		probes[n++] = high_end - 4096;
		probes[n++] = high_end - 8;
	}
	for (unsigned int i = 0; i < n; i++) {
		if (probes[i] >= LAYOUT_HIGH_BASE)
			map_high(probes[i]);
		CHECK_EQ(read64(probes[i]), 0);
	}
	for (unsigned int i = 0; i < n; i++)
		write64(probes[i], mix(probes[i]));
	for (unsigned int i = 0; i < n; i++)
		CHECK_EQ(read64(probes[i]), mix(probes[i]));

	/* Past both ends there is nothing. */
	map_high(high_end);
	write64(low, 0);
	CHECK_EQ(read64(low), UINT64_MAX);
	write64(high_end, 0);
	CHECK_EQ(read64(high_end), UINT64_MAX);
	CHECK_EQ(read64(high ? high_end - 8 : low - 8), mix(high ? high_end - 8 : low - 8));
	return 0;
}
