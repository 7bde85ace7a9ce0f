/* SPDX-License-Identifier: MIT */
/*
 * mmio.c - memory-mapped I/O as a guest sees it: nothing answers with ones, a device gets each
 * access as wide as it was made, below 4 GiB and far above.
 */
#include <linux/pci_regs.h>

#include "tests/guest/guest.h"

#define STORAGE 0x100

static uint64_t registers;

static void nothing_reads_as_ones(uint64_t at)
{
	write8(at, 0);
	write16(at, 0);
	write32(at, 0);
	write64(at, 0);
	CHECK_EQ(read8(at), 0xff);
	CHECK_EQ(read16(at), 0xffff);
	CHECK_EQ(read32(at), 0xffffffff);
	CHECK_EQ(read64(at), UINT64_MAX);
}

static void check_last_write(unsigned int bar, unsigned int offset, unsigned int size,
			     uint64_t value)
{
	CHECK_EQ(read32(registers + TEST_LAST_BAR), bar);
	CHECK_EQ(read32(registers + TEST_LAST_OFFSET), offset);
	CHECK_EQ(read32(registers + TEST_LAST_SIZE), size);
	CHECK_EQ(read64(registers + TEST_LAST_VALUE), value);
}

static void each_width_arrives_as_such(unsigned int bar, uint64_t base)
{
	uint64_t at = base + STORAGE;

	write64(at, 0x8877665544332211);
	check_last_write(bar, STORAGE, 8, 0x8877665544332211);
	CHECK_EQ(read64(at), 0x8877665544332211);
	CHECK_EQ(read32(at + 4), 0x88776655);
	CHECK_EQ(read16(at + 2), 0x4433);
	CHECK_EQ(read8(at + 1), 0x22);
	write32(at + 4, 0xaabbccdd);
	check_last_write(bar, STORAGE + 4, 4, 0xaabbccdd);
	write16(at + 2, 0xeeff);
	check_last_write(bar, STORAGE + 2, 2, 0xeeff);
	write8(at, 0x99);
	check_last_write(bar, STORAGE, 1, 0x99);
	CHECK_EQ(read64(at), 0xaabbccddeeff2299);
	CHECK_EQ(read32(base), TEST_IDENTITY(TEST_SLOT_A, bar));
}

/* KVM makes two accesses of one that crosses a page; the half beyond the BAR is nobody's. */
static void straddling_access_is_split(uint64_t end)
{
	write32(end - 2, 0x12345aa5);
	check_last_write(TEST_BAR_OTHER, TEST_BAR_OTHER_SIZE - 2, 2, 0x5aa5);
	CHECK_EQ(read32(end - 2), 0xffff5aa5);
}

/* An access and its arithmetic in one instruction. */
static void read_modify_write(uint64_t at)
{
	write32(at, 40);
	__asm__ volatile("addl $2, (%0)" : : "r"(at) : "memory");
	CHECK_EQ(read32(at), 42);
	uint32_t value = 7;
	__asm__ volatile("xchgl %0, (%1)" : "+r"(value) : "r"(at) : "memory");
	CHECK_EQ(value, 42);
	CHECK_EQ(read32(at), 7);
}

int guest_main(void)
{
	unsigned int dev = SLOT(TEST_SLOT_A);

	config_command(dev, PCI_COMMAND_IO | PCI_COMMAND_MEMORY);
	registers = bar_address(dev, TEST_BAR_REGISTERS);
	uint64_t other = bar_address(dev, TEST_BAR_OTHER);
	uint64_t wide = bar_address(dev, TEST_BAR_WIDE);
	uint64_t nowhere_high = 0x4000000000;
	map_high(wide);
	map_high(nowhere_high);

	nothing_reads_as_ones(LAYOUT_HOLE_BASE);
	nothing_reads_as_ones(LAYOUT_ECAM_BASE + LAYOUT_ECAM_SIZE);
	nothing_reads_as_ones(LAYOUT_MEM32_LAST - 7);
	nothing_reads_as_ones(nowhere_high);
	each_width_arrives_as_such(TEST_BAR_OTHER, other);
	CHECK(wide >= LAYOUT_HIGH_BASE);
	each_width_arrives_as_such(TEST_BAR_WIDE, wide);
	read_modify_write(other + STORAGE);
	bar_move(dev, TEST_BAR_OTHER, LAYOUT_MEM32_BASE + 0x1000000);
	straddling_access_is_split(LAYOUT_MEM32_BASE + 0x1000000 + TEST_BAR_OTHER_SIZE);
	return 0;
}
