/* SPDX-License-Identifier: MIT */
/*
 * acpi.c - from the start info to every ACPI table, as an operating system would walk them.
 */
#include "tests/guest/guest.h"

#define START_MAGIC 0x336ec578
#define HW_REDUCED (1u << 20)
#define RESET_REGISTER (1u << 10)
#define LAPIC 0
#define IOAPIC 1
#define LAPIC_NMI 4

static void check_signature(uint64_t at, const char *signature)
{
	for (unsigned int i = 0; signature[i]; i++)
		CHECK_EQ(read8(at + i), signature[i]);
}

static void check_sum(uint64_t at, uint32_t size)
{
	uint8_t sum = 0;

	for (uint32_t i = 0; i < size; i++)
		sum = (uint8_t)(sum + read8(at + i));
	CHECK_EQ(sum, 0);
}

/* A table with the common header, wholly in the memory that is reserved for tables. */
static uint32_t check_table(uint64_t at, const char *signature)
{
	uint32_t length = read32(at + 4);

	check_signature(at, signature);
	CHECK(length >= 36);
	CHECK(at >= LAYOUT_ACPI_BASE && at + length <= LAYOUT_WINDOW_BLOCK);
	check_sum(at, length);
	return length;
}

static uint64_t check_rsdp(void)
{
	uint64_t at = start_info()->rsdp;

	check_signature(at, "RSD PTR ");
	CHECK_EQ(at % 16, 0);
	CHECK_EQ(read8(at + 15), 2);
	CHECK_EQ(read32(at + 20), 36);
	check_sum(at, 20);
	check_sum(at, 36);
	return read64(at + 24);
}

/* The place in the XSDT of the only table of this name. */
static uint64_t find_table(uint64_t xsdt, const char *signature)
{
	uint32_t length = check_table(xsdt, "XSDT");
	uint64_t found = 0;

	for (uint32_t i = 36; i + 8 <= length; i += 8) {
		uint64_t at = read64(xsdt + i);
		bool same = true;
		for (unsigned int j = 0; j < 4; j++)
			same = same && read8(at + j) == (uint8_t)signature[j];
		if (same) {
			CHECK_EQ(found, 0);
			found = at;
		}
	}
	CHECK(found != 0);
	return found;
}

/* A register of one byte at this port, as a generic address structure. */
static void check_port(uint64_t at, uint16_t port)
{
	CHECK_EQ(read8(at), 1);
	CHECK_EQ(read8(at + 1), 8);
	CHECK_EQ(read8(at + 2), 0);
	CHECK_EQ(read64(at + 4), port);
}

static void check_fadt(uint64_t xsdt)
{
	uint64_t fadt = find_table(xsdt, "FACP");

	CHECK_EQ(check_table(fadt, "FACP"), 276);
	CHECK_EQ(read8(fadt + 8), 6);
	CHECK(read32(fadt + 112) & HW_REDUCED);
	CHECK(read32(fadt + 112) & RESET_REGISTER);
	check_port(fadt + 116, LAYOUT_POWER_PORT + 2);
	CHECK_EQ(read8(fadt + 128), 1);
	check_port(fadt + 244, LAYOUT_POWER_PORT);
	check_port(fadt + 256, LAYOUT_POWER_PORT + 1);
	CHECK(check_table(read64(fadt + 140), "DSDT") > 36);
	CHECK(read8(read64(fadt + 140) + 8) >= 2); /* 64-bit integers in its code */
}

static void check_madt(uint64_t xsdt, unsigned int nr_cpus)
{
	uint64_t madt = find_table(xsdt, "APIC");
	uint32_t length = check_table(madt, "APIC");
	unsigned int lapics = 0;
	unsigned int ioapics = 0;
	unsigned int nmis = 0;
	uint32_t at = 44;

	CHECK_EQ(read32(madt + 36), LAYOUT_LAPIC_BASE);
	CHECK_EQ(read32(madt + 40), 0); /* no 8259s */
	while (at < length) {
		uint64_t entry = madt + at;
		CHECK(read8(entry + 1) >= 2);
		switch (read8(entry)) {
		case LAPIC:
			CHECK_EQ(read8(entry + 1), 8);
			CHECK_EQ(read8(entry + 3), lapics);
			CHECK_EQ(read32(entry + 4), 1);
			lapics++;
			break;
		case IOAPIC:
			CHECK_EQ(read8(entry + 1), 12);
			CHECK_EQ(read32(entry + 4), LAYOUT_IOAPIC_BASE);
			CHECK_EQ(read32(entry + 8), 0);
			ioapics++;
			break;
		case LAPIC_NMI: nmis++; break;
		default: guest_fail_values(HERE, "madt entry", read8(entry), 0);
		}
		at += read8(entry + 1);
	}
	CHECK_EQ(at, length);
	CHECK_EQ(lapics, nr_cpus);
	CHECK_EQ(ioapics, 1);
	CHECK_EQ(nmis, 1);
}

static void check_mcfg(uint64_t xsdt)
{
	uint64_t mcfg = find_table(xsdt, "MCFG");

	CHECK_EQ(check_table(mcfg, "MCFG"), 60);
	CHECK_EQ(read64(mcfg + 44), LAYOUT_ECAM_BASE);
	CHECK_EQ(read16(mcfg + 52), 0);
	CHECK_EQ(read8(mcfg + 54), 0);
	CHECK_EQ(read8(mcfg + 55), 0);
}

/* What the DSDT reads: the 64-bit window, above all RAM, and the BARs are in it. */
static void check_window(uint64_t memory)
{
	uint64_t base = read64(LAYOUT_WINDOW_BLOCK);
	uint64_t size = read64(LAYOUT_WINDOW_BLOCK + 8);
	uint64_t bar = bar_address(SLOT(TEST_SLOT_A), TEST_BAR_WIDE);

	CHECK(base >= LAYOUT_HIGH_BASE + memory);
	CHECK(bar >= base && bar - base < size);
}

static void check_start_info(void)
{
	const struct start_info *info = start_info();
	const char *cmdline = (const char *)info->cmdline;

	CHECK_EQ(info->magic, START_MAGIC);
	CHECK_EQ(info->version, 1);
	CHECK_EQ(info->nr_modules, 0);
	CHECK_EQ(info->reserved, 0);
	CHECK(cmdline[0] == 'c' && cmdline[4] == '='); /* cpus=N comes first */
	/* The ABI's registers: protected mode, paging off, interrupts off. */
	CHECK_EQ(entry_state.cr0 & 0x80000001, 1);
	CHECK_EQ(entry_state.cr4, 0);
	CHECK_EQ(entry_state.efer, 0);
	CHECK_EQ(entry_state.flags & 0x20300, 0); /* VM, IF, TF */
}

int guest_main(void)
{
	check_start_info();
	uint64_t xsdt = check_rsdp();
	check_fadt(xsdt);
	check_madt(xsdt, (unsigned int)option("cpus"));
	check_mcfg(xsdt);
	check_window(option("memory"));
	return 0;
}
