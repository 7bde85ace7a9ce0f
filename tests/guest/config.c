/* SPDX-License-Identifier: MIT */
/*
 * config.c - PCI config space by its two roads, which must lead to the same bytes.
 */
#include <linux/pci_regs.h>

#include "tests/guest/guest.h"

#define ADDRESS_PORT 0xcf8
#define DATA_PORT 0xcfc
#define ENABLE 0x80000000u
#define STANDARD_SIZE 256u

static void select(unsigned int devfn, unsigned int offset)
{
	out32(ADDRESS_PORT, ENABLE | devfn << 8 | (offset & 0xfc));
}

static uint16_t data_port(unsigned int offset)
{
	return (uint16_t)(DATA_PORT + (offset & 3));
}

/* Each byte, word and dword of the standard part, by both roads. */
static void both_roads_read_the_same(unsigned int devfn)
{
	for (unsigned int offset = 0; offset < STANDARD_SIZE; offset += 4) {
		select(devfn, offset);
		uint32_t dword = in32(DATA_PORT);
		CHECK_EQ(dword, read32(ecam(devfn, offset)));
		for (unsigned int i = 0; i < 4; i += 2) {
			uint16_t word = (uint16_t)(dword >> 8 * i);
			CHECK_EQ(in16(data_port(i)), word);
			CHECK_EQ(read16(ecam(devfn, offset + i)), word);
		}
		for (unsigned int i = 0; i < 4; i++) {
			uint8_t byte = (uint8_t)(dword >> 8 * i);
			CHECK_EQ(in8(data_port(i)), byte);
			CHECK_EQ(read8(ecam(devfn, offset + i)), byte);
		}
	}
}

static void both_roads_write_the_same(unsigned int devfn)
{
	unsigned int at = TEST_CONFIG_SCRATCH;

	select(devfn, at);
	out32(DATA_PORT, 0x44332211);
	CHECK_EQ(read32(ecam(devfn, at)), 0x44332211);
	out16(DATA_PORT + 2, 0x6655);
	CHECK_EQ(read32(ecam(devfn, at)), 0x66552211);
	out8(DATA_PORT + 1, 0x77);
	CHECK_EQ(read32(ecam(devfn, at)), 0x66557711);
	write32(ecam(devfn, at), 0xddccbbaa);
	CHECK_EQ(in32(DATA_PORT), 0xddccbbaa);
	write16(ecam(devfn, at + 2), 0xffee);
	CHECK_EQ(in32(DATA_PORT), 0xffeebbaa);
	write8(ecam(devfn, at + 1), 0x99);
	CHECK_EQ(in32(DATA_PORT), 0xffee99aa);
}

/* Ones, then zeros, into every read-only dword: nothing may change. */
static void read_only_bytes_stay(unsigned int devfn)
{
	static const uint16_t offsets[] = { PCI_VENDOR_ID, PCI_CLASS_REVISION,
					    PCI_CAPABILITY_LIST, 0x44, 0xfc };

	for (unsigned int i = 0; i < nitems(offsets); i++) {
		uint32_t before = config_read(devfn, offsets[i]);
		config_write(devfn, offsets[i], 0xffffffff);
		CHECK_EQ(config_read(devfn, offsets[i]), before);
		config_write(devfn, offsets[i], 0);
		CHECK_EQ(config_read(devfn, offsets[i]), before);
	}
}

/* Only ECAM reaches beyond 256 bytes. */
static void extended_space_works(unsigned int devfn)
{
	config_write(devfn, TEST_CONFIG_EXTENDED, 0x12345678);
	CHECK_EQ(config_read(devfn, TEST_CONFIG_EXTENDED), 0x12345678);
	CHECK_EQ(read8(ecam(devfn, TEST_CONFIG_EXTENDED + 3)), 0x12);
	CHECK_EQ(config_read(devfn, TEST_CONFIG_EXTENDED & 0xff), 0);
	CHECK_EQ(config_read(devfn, 0xffc), 0);
}

static void odd_accesses_are_nobodys(unsigned int devfn)
{
	CHECK_EQ(read64(ecam(devfn, TEST_CONFIG_SCRATCH)), UINT64_MAX);
	CHECK_EQ(read32(ecam(devfn, TEST_CONFIG_SCRATCH + 2)), 0xffffffff);
	CHECK_EQ(read16(ecam(devfn, TEST_CONFIG_SCRATCH + 1)), 0xffff);
	uint32_t before = config_read(devfn, TEST_CONFIG_SCRATCH);
	write64(ecam(devfn, TEST_CONFIG_SCRATCH), 0);
	write32(ecam(devfn, TEST_CONFIG_SCRATCH + 1), 0);
	CHECK_EQ(config_read(devfn, TEST_CONFIG_SCRATCH), before);
}

static void absent_functions_read_as_ones(void)
{
	static const unsigned int absent[] = { SLOT(TEST_SLOT_A) + 1, SLOT(2), SLOT(31) + 7 };

	for (unsigned int i = 0; i < nitems(absent); i++) {
		CHECK_EQ(config_read(absent[i], PCI_VENDOR_ID), 0xffffffff);
		select(absent[i], PCI_VENDOR_ID);
		CHECK_EQ(in32(DATA_PORT), 0xffffffff);
		CHECK_EQ(in8(DATA_PORT), 0xff);
		config_write(absent[i], PCI_COMMAND, 0xffff);
	}
}

static void address_port_selects(unsigned int devfn)
{
	select(devfn, TEST_CONFIG_SCRATCH);
	CHECK_EQ(in32(ADDRESS_PORT), ENABLE | devfn << 8 | TEST_CONFIG_SCRATCH);
	/* Byte-wide accesses are other devices' on a PC, and nobody's here. */
	out8(ADDRESS_PORT, 0);
	CHECK_EQ(in8(ADDRESS_PORT), 0xff);
	CHECK_EQ(in32(ADDRESS_PORT), ENABLE | devfn << 8 | TEST_CONFIG_SCRATCH);
	/* The lowest two bits do not exist; another bus is empty; so is a port that is off. */
	out32(ADDRESS_PORT, ENABLE | devfn << 8 | 3);
	CHECK_EQ(in32(DATA_PORT), TEST_DEVICE << 16 | TEST_VENDOR);
	out32(ADDRESS_PORT, ENABLE | 1u << 16 | devfn << 8);
	CHECK_EQ(in32(DATA_PORT), 0xffffffff);
	out32(ADDRESS_PORT, devfn << 8);
	CHECK_EQ(in32(DATA_PORT), 0xffffffff);
	out32(DATA_PORT, 0);
}

static void capability_chain_leads_to_msix(unsigned int devfn)
{
	CHECK(read16(ecam(devfn, PCI_STATUS)) & PCI_STATUS_CAP_LIST);
	CHECK_EQ(read8(ecam(devfn, PCI_CAPABILITY_LIST)), TEST_MSIX_CAP);
	CHECK_EQ(read8(ecam(devfn, TEST_MSIX_CAP)), PCI_CAP_ID_MSIX);
	CHECK_EQ(read8(ecam(devfn, TEST_MSIX_CAP + 1)), 0);
}

int guest_main(void)
{
	unsigned int a = SLOT(TEST_SLOT_A);
	unsigned int b = SLOT(TEST_SLOT_B);

	CHECK_EQ(config_read(0, PCI_CLASS_REVISION) >> 16, 0x0600);
	CHECK_EQ(config_read(a, PCI_VENDOR_ID), TEST_DEVICE << 16 | TEST_VENDOR);
	CHECK_EQ(config_read(a, PCI_CLASS_REVISION) >> 8, TEST_CLASS);
	/* INTA of slot n is pin 16 + n % 8. */
	CHECK_EQ(read8(ecam(a, PCI_INTERRUPT_LINE)), 16 + TEST_SLOT_A);
	CHECK_EQ(read8(ecam(b, PCI_INTERRUPT_LINE)), 16 + TEST_SLOT_B);
	both_roads_read_the_same(0);
	both_roads_read_the_same(a);
	both_roads_write_the_same(a);
	CHECK_EQ(config_read(b, TEST_CONFIG_SCRATCH), 0);
	read_only_bytes_stay(0);
	read_only_bytes_stay(a);
	extended_space_works(a);
	odd_accesses_are_nobodys(a);
	absent_functions_read_as_ones();
	address_port_selects(a);
	capability_chain_leads_to_msix(a);
	return 0;
}
