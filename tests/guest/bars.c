/* SPDX-License-Identifier: MIT */
/*
 * bars.c - sizing and moving BARs. Wherever a guest puts one, RAM stays RAM, and ECAM, the
 * APICs and the platform's ports go on answering.
 */
#include <linux/pci_regs.h>
#include <linux/serial_reg.h>

#include "tests/guest/guest.h"

#define A SLOT(TEST_SLOT_A)
#define B SLOT(TEST_SLOT_B)
#define ALL_ON (PCI_COMMAND_IO | PCI_COMMAND_MEMORY)
#define RAM_PROBE 0x1800000 /* free RAM */
#define FREE_32 (LAYOUT_MEM32_BASE + 0x2000000)
#define FREE_IO 0x8000

static uint32_t identity(unsigned int slot, unsigned int bar)
{
	return TEST_IDENTITY(slot, bar);
}

static uint32_t raw(unsigned int devfn, unsigned int bar)
{
	return config_read(devfn, PCI_BASE_ADDRESS_0 + 4 * bar);
}

static uint32_t sized(unsigned int devfn, unsigned int bar)
{
	uint32_t before = raw(devfn, bar);

	config_write(devfn, PCI_BASE_ADDRESS_0 + 4 * bar, 0xffffffff);
	uint32_t mask = raw(devfn, bar);
	config_write(devfn, PCI_BASE_ADDRESS_0 + 4 * bar, before);
	CHECK_EQ(raw(devfn, bar), before);
	return mask;
}

static void sizing_tells_size_and_kind(void)
{
	CHECK_EQ(sized(A, TEST_BAR_REGISTERS), ~(TEST_BAR_REGISTERS_SIZE - 1u));
	CHECK_EQ(sized(A, TEST_BAR_IO), ~(TEST_BAR_IO_SIZE - 1u) | PCI_BASE_ADDRESS_SPACE_IO);
	CHECK_EQ(sized(A, TEST_BAR_WIDE), ~(TEST_BAR_WIDE_SIZE - 1u) |
						  PCI_BASE_ADDRESS_MEM_TYPE_64 |
						  PCI_BASE_ADDRESS_MEM_PREFETCH);
	CHECK_EQ(sized(A, TEST_BAR_WIDE + 1), 0xffffffff);
	CHECK_EQ(sized(A, TEST_BAR_OTHER), ~(TEST_BAR_OTHER_SIZE - 1u));
	CHECK_EQ(sized(A, TEST_BAR_MAPPED), ~(TEST_BAR_MAPPED_SIZE - 1u));
	CHECK_EQ(config_read(A, PCI_ROM_ADDRESS), 0);
	CHECK_EQ(sized(0, 0), 0);
}

/* What a firmware would have done: everything has a place of its own, in a window. */
static void bars_have_places(void)
{
	CHECK(bar_address(A, TEST_BAR_REGISTERS) >= LAYOUT_MEM32_BASE);
	CHECK(bar_address(A, TEST_BAR_REGISTERS) < LAYOUT_MEM32_LAST);
	CHECK(bar_address(A, TEST_BAR_WIDE) >= LAYOUT_HIGH_BASE);
	CHECK(bar_address(A, TEST_BAR_IO) >= LAYOUT_IO_BASE);
	CHECK(bar_address(A, TEST_BAR_REGISTERS) != bar_address(A, TEST_BAR_OTHER));
	CHECK(bar_address(A, TEST_BAR_REGISTERS) != bar_address(B, TEST_BAR_REGISTERS));
	CHECK(bar_address(A, TEST_BAR_WIDE) != bar_address(B, TEST_BAR_WIDE));
	CHECK(bar_address(A, TEST_BAR_IO) != bar_address(B, TEST_BAR_IO));
}

static void nothing_is_decoded_while_off(void)
{
	uint64_t memory = bar_address(A, TEST_BAR_REGISTERS);
	uint16_t port = (uint16_t)bar_address(A, TEST_BAR_IO);

	CHECK_EQ(read16(ecam(A, PCI_COMMAND)), 0);
	CHECK_EQ(read32(memory), 0xffffffff);
	CHECK_EQ(in32(port), 0xffffffff);
	config_command(A, PCI_COMMAND_MEMORY);
	CHECK_EQ(read32(memory), identity(TEST_SLOT_A, TEST_BAR_REGISTERS));
	CHECK_EQ(in32(port), 0xffffffff);
	config_command(A, PCI_COMMAND_IO);
	CHECK_EQ(read32(memory), 0xffffffff);
	CHECK_EQ(in32(port), identity(TEST_SLOT_A, TEST_BAR_IO));
	config_command(A, 0);
	CHECK_EQ(in32(port), 0xffffffff);
	config_command(A, ALL_ON);
}

static void moves_take_it_along(unsigned int bar, uint64_t to)
{
	uint64_t from = bar_address(A, bar);

	CHECK_EQ(read32(from), identity(TEST_SLOT_A, bar));
	bar_move(A, bar, to);
	CHECK_EQ(bar_address(A, bar), to);
	CHECK_EQ(read32(from), 0xffffffff);
	CHECK_EQ(read32(to), identity(TEST_SLOT_A, bar));
	bar_move(A, bar, from);
	CHECK_EQ(read32(to), 0xffffffff);
	CHECK_EQ(read32(from), identity(TEST_SLOT_A, bar));
}

static void io_moves_take_it_along(uint16_t to)
{
	uint16_t from = (uint16_t)bar_address(A, TEST_BAR_IO);

	bar_move(A, TEST_BAR_IO, to);
	CHECK_EQ(in32(from), 0xffffffff);
	CHECK_EQ(in32(to), identity(TEST_SLOT_A, TEST_BAR_IO));
	bar_move(A, TEST_BAR_IO, from);
	CHECK_EQ(in32(to), 0xffffffff);
	CHECK_EQ(in32(from), identity(TEST_SLOT_A, TEST_BAR_IO));
}

/* Half way through, with one half written, a 64-bit BAR may be anywhere: nothing breaks. */
static void wide_bar_moves_by_halves(void)
{
	uint64_t from = bar_address(A, TEST_BAR_WIDE);

	config_write(A, PCI_BASE_ADDRESS_2 + 4, 0);
	CHECK_EQ(read32(from), 0xffffffff);
	config_write(A, PCI_BASE_ADDRESS_2, FREE_32);
	CHECK_EQ(read32(FREE_32), identity(TEST_SLOT_A, TEST_BAR_WIDE));
	bar_move(A, TEST_BAR_WIDE, from);
	CHECK_EQ(read32(from), identity(TEST_SLOT_A, TEST_BAR_WIDE));
	CHECK_EQ(read32(FREE_32), 0xffffffff);
}

/* The one that was there first stays; the other comes back once it has a place. */
static void bar_onto_another_waits(unsigned int bar_of_b)
{
	uint64_t taken = FREE_32 + 0x100000;
	uint64_t home_a = bar_address(A, TEST_BAR_OTHER);
	uint64_t home_b = bar_address(B, bar_of_b);

	bar_move(A, TEST_BAR_OTHER, taken);
	bar_move(B, bar_of_b, taken);
	CHECK_EQ(read32(taken), identity(TEST_SLOT_A, TEST_BAR_OTHER));
	CHECK_EQ(read32(home_b), 0xffffffff);
	/* The first moves away: the second is uncovered. */
	bar_move(A, TEST_BAR_OTHER, home_a);
	CHECK_EQ(read32(taken), identity(TEST_SLOT_B, bar_of_b));
	CHECK_EQ(read32(home_a), identity(TEST_SLOT_A, TEST_BAR_OTHER));
	bar_move(B, bar_of_b, home_b);
	CHECK_EQ(read32(taken), 0xffffffff);
	CHECK_EQ(read32(home_b), identity(TEST_SLOT_B, bar_of_b));
}

/* Switched off is as good as moved away. */
static void bar_under_another_shows_when_it_is_switched_off(void)
{
	uint64_t taken = bar_address(A, TEST_BAR_OTHER);
	uint64_t home = bar_address(B, TEST_BAR_OTHER);

	bar_move(B, TEST_BAR_OTHER, taken);
	config_command(A, 0);
	CHECK_EQ(read32(taken), identity(TEST_SLOT_B, TEST_BAR_OTHER));
	config_command(A, ALL_ON);
	CHECK_EQ(read32(taken), identity(TEST_SLOT_B, TEST_BAR_OTHER));
	bar_move(B, TEST_BAR_OTHER, home);
	CHECK_EQ(read32(taken), identity(TEST_SLOT_A, TEST_BAR_OTHER));
}

/* A BAR is put at `at`, where it must not answer: `probe`, in there, reads as before. */
static void stays_hidden(unsigned int bar, uint64_t at, uint64_t probe)
{
	uint64_t home = bar_address(A, bar);
	uint32_t before = read32(probe);

	bar_move(A, bar, at);
	CHECK_EQ(read32(probe), before);
	CHECK(read32(at) != identity(TEST_SLOT_A, bar));
	CHECK_EQ(read32(home), 0xffffffff);
	bar_move(A, bar, home);
	CHECK_EQ(read32(home), identity(TEST_SLOT_A, bar));
}

static void ram_stays_ram(void)
{
	write32(RAM_PROBE, 0xcafe0001);
	stays_hidden(TEST_BAR_OTHER, RAM_PROBE, RAM_PROBE);
	stays_hidden(TEST_BAR_WIDE, RAM_PROBE, RAM_PROBE);
	CHECK_EQ(read32(RAM_PROBE), 0xcafe0001);
	/* While it lies there, RAM takes writes, and the device none. */
	uint64_t home = bar_address(A, TEST_BAR_OTHER);
	uint64_t registers = bar_address(A, TEST_BAR_REGISTERS);
	uint32_t writes = read32(registers + TEST_NR_WRITES);
	bar_move(A, TEST_BAR_OTHER, RAM_PROBE);
	write32(RAM_PROBE, 0xcafe0002);
	CHECK_EQ(read32(RAM_PROBE), 0xcafe0002);
	CHECK_EQ(read32(registers + TEST_NR_WRITES), writes);
	bar_move(A, TEST_BAR_OTHER, home);
	CHECK_EQ(read32(RAM_PROBE), 0xcafe0002);
	/* Where RAM would be on a larger machine. */
	uint64_t above = LAYOUT_HOLE_BASE - TEST_BAR_OTHER_SIZE;
	stays_hidden(TEST_BAR_OTHER, above, above);
	stays_hidden(TEST_BAR_WIDE, LAYOUT_HIGH_BASE, LAYOUT_HIGH_BASE);
}

static void platform_stays(void)
{
	static const struct {
		uint64_t base;
		uint64_t probe;
	} places[] = {
		{ LAYOUT_ECAM_BASE, LAYOUT_ECAM_BASE }, /* the host bridge's identity */
		{ LAYOUT_IOAPIC_BASE, LAYOUT_IOAPIC_BASE + 0x10 },
		{ LAYOUT_LAPIC_BASE, LAYOUT_LAPIC_BASE + APIC_VERSION },
		{ 0xffff0000, 0xffff0000 },
		{ LAYOUT_HOLE_BASE, LAYOUT_HOLE_BASE },
	};

	write32(LAYOUT_IOAPIC_BASE, 1); /* the version register */
	for (unsigned int i = 0; i < nitems(places); i++) {
		stays_hidden(TEST_BAR_OTHER, places[i].base, places[i].probe);
		stays_hidden(TEST_BAR_WIDE, places[i].base, places[i].probe);
	}
	/* The last place in the window, and the one that reaches out of it. */
	moves_take_it_along(TEST_BAR_WIDE, LAYOUT_MEM32_LAST + 1ull - TEST_BAR_WIDE_SIZE);
	stays_hidden(TEST_BAR_OTHER, LAYOUT_MEM32_BASE - TEST_BAR_OTHER_SIZE,
		     LAYOUT_MEM32_BASE - TEST_BAR_OTHER_SIZE);
}

static void platform_ports_stay(void)
{
	uint64_t home = bar_address(A, TEST_BAR_IO);
	uint8_t mark = 0x5a;

	out8(LAYOUT_SERIAL_PORT + UART_SCR, mark);
	bar_move(A, TEST_BAR_IO, LAYOUT_SERIAL_PORT & ~(TEST_BAR_IO_SIZE - 1));
	CHECK_EQ(in8(LAYOUT_SERIAL_PORT + UART_SCR), mark);
	bar_move(A, TEST_BAR_IO, 0xce0);
	CHECK_EQ(in32(0xce0), 0xffffffff);
	CHECK_EQ(config_read(A, PCI_VENDOR_ID), TEST_DEVICE << 16 | TEST_VENDOR);
	bar_move(A, TEST_BAR_IO, 0x10000 - TEST_BAR_IO_SIZE);
	CHECK_EQ(in32(0x10000 - TEST_BAR_IO_SIZE), identity(TEST_SLOT_A, TEST_BAR_IO));
	bar_move(A, TEST_BAR_IO, home);
	CHECK_EQ(in32((uint16_t)home), identity(TEST_SLOT_A, TEST_BAR_IO));
}

int guest_main(void)
{
	uint64_t wide = bar_address(A, TEST_BAR_WIDE);
	uint64_t wide_elsewhere = wide + 0x10000000;

	map_high(wide);
	map_high(bar_address(B, TEST_BAR_WIDE));
	map_high(wide_elsewhere);
	map_high(LAYOUT_HIGH_BASE);
	sizing_tells_size_and_kind();
	bars_have_places();
	nothing_is_decoded_while_off();
	sizing_tells_size_and_kind(); /* this time decoded in between */
	config_command(B, ALL_ON);
	moves_take_it_along(TEST_BAR_OTHER, FREE_32);
	moves_take_it_along(TEST_BAR_WIDE, FREE_32);
	moves_take_it_along(TEST_BAR_WIDE, wide_elsewhere);
	io_moves_take_it_along(FREE_IO);
	wide_bar_moves_by_halves();
	bar_onto_another_waits(TEST_BAR_OTHER);
	bar_onto_another_waits(TEST_BAR_WIDE);
	bar_under_another_shows_when_it_is_switched_off();
	ram_stays_ram();
	platform_stays();
	platform_ports_stay();
	return 0;
}
