/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <string.h>

#include "devices/power.h"
#include "memory/map.h"
#include "tests/fakes/process.h"
#include "vmm/acpi.h"

#define RAM_SIZE LAYOUT_KERNEL_BASE

static uint8_t ram[RAM_SIZE];
static struct memory_map map;
static struct memory_region low = { .size = RAM_SIZE, .host = ram };
static const struct layout layout = { .mem64_base = 1ull << 38, .mem64_size = 1ull << 37 };

static void setup(void)
{
	process_keep_log();
	memory_map_init(&map);
	ck_assert_int_eq(memory_map_add(&map, &low), 0);
}

static uint64_t read_le(const uint8_t *at, unsigned int size)
{
	uint64_t value = 0;

	for (unsigned int i = size; i-- > 0;)
		value = value << 8 | at[i];
	return value;
}

static uint8_t sum(const uint8_t *bytes, size_t size)
{
	uint8_t total = 0;

	for (size_t i = 0; i < size; i++)
		total = (uint8_t)(total + bytes[i]);
	return total;
}

static void write_tables(unsigned int nr_cpus)
{
	ck_assert_int_eq(acpi_write_tables(&map, &layout, nr_cpus), 0);
}

/* The table at a guest address, after the checks that every table has to pass. */
static const uint8_t *table_at(uint64_t gpa)
{
	ck_assert_uint_ge(gpa, LAYOUT_ACPI_BASE);
	ck_assert_uint_lt(gpa, LAYOUT_WINDOW_BLOCK);
	ck_assert(is_aligned(gpa, 16));
	const uint8_t *table = ram + gpa;
	uint64_t length = read_le(table + 4, 4);
	ck_assert_uint_ge(length, 36);
	ck_assert_uint_le(gpa + length, LAYOUT_WINDOW_BLOCK);
	ck_assert_uint_eq(sum(table, length), 0);
	ck_assert_mem_eq(table + 10, "BALLST", 6);
	return table;
}

static const uint8_t *rsdp(void)
{
	return ram + LAYOUT_ACPI_BASE;
}

static const uint8_t *xsdt(void)
{
	return table_at(read_le(rsdp() + 24, 8));
}

/* The table the XSDT lists under that name; there is exactly one. */
static const uint8_t *find(const char *signature)
{
	const uint8_t *found = NULL;
	uint64_t nr = (read_le(xsdt() + 4, 4) - 36) / 8;

	for (uint64_t i = 0; i < nr; i++) {
		const uint8_t *table = table_at(read_le(xsdt() + 36 + 8 * i, 8));
		if (memcmp(table, signature, 4) != 0)
			continue;
		ck_assert_ptr_null(found);
		found = table;
	}
	ck_assert_msg(found != NULL, "no %s", signature);
	return found;
}

START_TEST(the_rsdp_is_first_and_its_checksums_are_right)
{
	write_tables(1);
	ck_assert_mem_eq(rsdp(), "RSD PTR ", 8);
	ck_assert_uint_eq(sum(rsdp(), 20), 0);
	ck_assert_uint_eq(sum(rsdp(), 36), 0);
	ck_assert_uint_eq(rsdp()[15], 2);
	ck_assert_uint_eq(read_le(rsdp() + 20, 4), 36);
	ck_assert_uint_eq(read_le(rsdp() + 16, 4), 0); /* no RSDT */
}
END_TEST

START_TEST(the_xsdt_lists_fadt_madt_and_mcfg)
{
	write_tables(1);
	ck_assert_mem_eq(xsdt(), "XSDT", 4);
	ck_assert_uint_eq(read_le(xsdt() + 4, 4), 36 + 3 * 8);
	(void)find("FACP");
	(void)find("APIC");
	(void)find("MCFG");
}
END_TEST

START_TEST(the_fadt_is_hardware_reduced_and_points_to_the_dsdt)
{
	write_tables(1);
	const uint8_t *fadt = find("FACP");
	ck_assert_uint_eq(read_le(fadt + 4, 4), 276);
	ck_assert_uint_eq(fadt[8], 6);
	ck_assert(read_le(fadt + 112, 4) & 1u << 20); /* hardware-reduced */
	ck_assert(read_le(fadt + 112, 4) & 1u << 10); /* has a reset register */
	const uint8_t *dsdt = table_at(read_le(fadt + 140, 8));
	ck_assert_mem_eq(dsdt, "DSDT", 4);
	ck_assert_uint_gt(read_le(dsdt + 4, 4), 256);
}
END_TEST

START_TEST(reset_and_sleep_registers_are_those_of_the_power_device)
{
	write_tables(1);
	const uint8_t *fadt = find("FACP");
	static const struct {
		unsigned int offset;
		uint64_t port;
	} registers[] = {
		{ 116, LAYOUT_POWER_PORT + 2 },
		{ 244, LAYOUT_POWER_PORT },
		{ 256, LAYOUT_POWER_PORT + 1 },
	};

	for (unsigned int i = 0; i < nitems(registers); i++) {
		const uint8_t *gas = fadt + registers[i].offset;
		ck_assert_uint_eq(gas[0], 1); /* system I/O */
		ck_assert_uint_eq(gas[1], 8); /* bits */
		ck_assert_uint_eq(gas[3], 1); /* byte access */
		ck_assert_uint_eq(read_le(gas + 4, 8), registers[i].port);
	}
	ck_assert_uint_eq(fadt[128], POWER_RESET_VALUE);
}
END_TEST

/* Walks the MADT; returns how many local APICs it has. */
static unsigned int check_madt(void)
{
	const uint8_t *madt = find("APIC");
	uint64_t length = read_le(madt + 4, 4);
	unsigned int nr_lapics = 0;
	unsigned int nr_ioapics = 0;
	unsigned int nr_nmis = 0;
	uint64_t at = 44;

	ck_assert_uint_eq(read_le(madt + 36, 4), LAYOUT_LAPIC_BASE);
	ck_assert_uint_eq(read_le(madt + 40, 4), 0); /* no 8259s */
	for (; at + 2 <= length; at += madt[at + 1]) {
		const uint8_t *e = madt + at;
		switch (e[0]) {
		case 0:
			ck_assert_uint_eq(e[1], 8);
			ck_assert_uint_eq(e[2], nr_lapics);
			ck_assert_uint_eq(e[3], nr_lapics);
			ck_assert_uint_eq(read_le(e + 4, 4), 1);
			nr_lapics++;
			break;
		case 1:
			ck_assert_uint_eq(e[1], 12);
			ck_assert_uint_eq(read_le(e + 4, 4), LAYOUT_IOAPIC_BASE);
			ck_assert_uint_eq(read_le(e + 8, 4), 0);
			nr_ioapics++;
			break;
		case 4:
			ck_assert_uint_eq(e[1], 6);
			ck_assert_uint_eq(e[2], 0xff);
			ck_assert_uint_eq(e[5], 1);
			nr_nmis++;
			break;
		default: ck_abort_msg("MADT entry of type %u", e[0]);
		}
	}
	ck_assert_uint_eq(at, length);
	ck_assert_uint_eq(nr_ioapics, 1);
	ck_assert_uint_eq(nr_nmis, 1);
	return nr_lapics;
}

START_TEST(the_madt_has_an_entry_a_processor)
{
	static const unsigned int counts[] = { 1, 2, 16, 255 };

	for (unsigned int i = 0; i < nitems(counts); i++) {
		write_tables(counts[i]);
		ck_assert_uint_eq(check_madt(), counts[i]);
	}
}
END_TEST

START_TEST(the_mcfg_tells_of_bus_0)
{
	write_tables(1);
	const uint8_t *mcfg = find("MCFG");
	ck_assert_uint_eq(read_le(mcfg + 4, 4), 60);
	ck_assert_uint_eq(read_le(mcfg + 44, 8), LAYOUT_ECAM_BASE);
	ck_assert_uint_eq(read_le(mcfg + 52, 4), 0); /* segment 0, buses 0 to 0 */
}
END_TEST

START_TEST(the_dsdt_is_told_where_the_64_bit_window_is)
{
	write_tables(1);
	ck_assert_uint_eq(read_le(ram + LAYOUT_WINDOW_BLOCK, 8), layout.mem64_base);
	ck_assert_uint_eq(read_le(ram + LAYOUT_WINDOW_BLOCK + 8, 8), layout.mem64_size);
}
END_TEST

START_TEST(nothing_outside_of_their_place_is_written)
{
	static const uint8_t zeros[LAYOUT_ACPI_BASE];

	write_tables(16);
	ck_assert_int_eq(memcmp(ram, zeros, sizeof(zeros)), 0);
}
END_TEST

START_TEST(writing_them_twice_gives_the_same_bytes)
{
	static uint8_t before[LAYOUT_ACPI_SIZE];

	write_tables(2);
	memcpy(before, ram + LAYOUT_ACPI_BASE, sizeof(before));
	write_tables(2);
	ck_assert_mem_eq(before, ram + LAYOUT_ACPI_BASE, sizeof(before));
}
END_TEST

START_TEST(without_ram_there_they_are_refused)
{
	memory_map_remove(&map, &low);
	ck_assert_int_eq(acpi_write_tables(&map, &layout, 1), -EFAULT);
	process_expect_log("acpi: writing the tables: Bad address");
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		the_rsdp_is_first_and_its_checksums_are_right,
		the_xsdt_lists_fadt_madt_and_mcfg,
		the_fadt_is_hardware_reduced_and_points_to_the_dsdt,
		reset_and_sleep_registers_are_those_of_the_power_device,
		the_madt_has_an_entry_a_processor,
		the_mcfg_tells_of_bus_0,
		the_dsdt_is_told_where_the_64_bit_window_is,
		nothing_outside_of_their_place_is_written,
		writing_them_twice_gives_the_same_bytes,
		without_ram_there_they_are_refused,
	};
	return run_tests("vmm_acpi", setup, NULL, tests, nitems(tests));
}
