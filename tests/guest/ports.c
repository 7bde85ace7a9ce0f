/* SPDX-License-Identifier: MIT */
/*
 * ports.c - port I/O as a guest sees it: nothing answers with ones, a device gets each access
 * as wide as it was made.
 */
#include <linux/pci_regs.h>

#include "tests/guest/guest.h"

#define NOBODY 0x300
#define STORAGE 8 /* in the I/O BAR */

static uint64_t registers;

static void check_last_write(unsigned int offset, unsigned int size, uint64_t value)
{
	CHECK_EQ(read32(registers + TEST_LAST_BAR), TEST_BAR_IO);
	CHECK_EQ(read32(registers + TEST_LAST_OFFSET), offset);
	CHECK_EQ(read32(registers + TEST_LAST_SIZE), size);
	CHECK_EQ(read64(registers + TEST_LAST_VALUE), value);
}

static void nothing_reads_as_ones(void)
{
	out8(NOBODY, 0);
	out16(NOBODY, 0);
	out32(NOBODY, 0);
	CHECK_EQ(in8(NOBODY), 0xff);
	CHECK_EQ(in16(NOBODY), 0xffff);
	CHECK_EQ(in32(NOBODY), 0xffffffff);
}

static void each_width_arrives_as_such(uint16_t port)
{
	out8(port + STORAGE, 0x11);
	check_last_write(STORAGE, 1, 0x11);
	out16(port + STORAGE + 2, 0x2222);
	check_last_write(STORAGE + 2, 2, 0x2222);
	out32(port + STORAGE + 4, 0x44444444);
	check_last_write(STORAGE + 4, 4, 0x44444444);
	CHECK_EQ(in8(port + STORAGE), 0x11);
	CHECK_EQ(in16(port + STORAGE + 2), 0x2222);
	CHECK_EQ(in32(port + STORAGE + 4), 0x44444444);
	CHECK_EQ(in32(port), TEST_IDENTITY(TEST_SLOT_A, TEST_BAR_IO));
}

/* Half in the BAR, half out of it: nobody's. */
static void straddling_access_is_nobodys(uint16_t port)
{
	uint16_t last = (uint16_t)(port + TEST_BAR_IO_SIZE - 1);

	out8(last, 0x5a);
	out16(last, 0);
	CHECK_EQ(in8(last), 0x5a);
	CHECK_EQ(in16(last), 0xffff);
}

/* `rep ins` and `rep outs`: KVM hands over many at once. */
static void strings_go_byte_by_byte(uint16_t port)
{
	static const uint8_t out[8] = { 1, 2, 3, 4, 5, 6, 7, 8 };
	uint8_t in[8] = { 0 };
	const void *from = out;
	void *to = in;
	uint64_t count = sizeof(out);
	uint32_t before = read32(registers + TEST_NR_WRITES);

	port = (uint16_t)(port + STORAGE);
	__asm__ volatile("rep outsb" : "+S"(from), "+c"(count) : "d"(port) : "memory");
	CHECK_EQ(read32(registers + TEST_NR_WRITES), before + sizeof(out));
	CHECK_EQ(in8(port), 8);
	count = sizeof(in);
	__asm__ volatile("rep insb" : "+D"(to), "+c"(count) : "d"(port) : "memory");
	for (unsigned int i = 0; i < sizeof(in); i++)
		CHECK_EQ(in[i], 8);
}

int guest_main(void)
{
	config_command(SLOT(TEST_SLOT_A), PCI_COMMAND_IO | PCI_COMMAND_MEMORY);
	registers = bar_address(SLOT(TEST_SLOT_A), TEST_BAR_REGISTERS);
	uint16_t port = (uint16_t)bar_address(SLOT(TEST_SLOT_A), TEST_BAR_IO);

	nothing_reads_as_ones();
	each_width_arrives_as_such(port);
	straddling_access_is_nobodys(port);
	strings_go_byte_by_byte(port);
	return 0;
}
