/* SPDX-License-Identifier: MIT */
#include "vmm/acpi.h"

#include <errno.h>
#include <string.h>

#include "base/log.h"

#include "devices/power.h"
#include "memory/access.h"

/* dsdt_aml_code[], made from dsdt.asl by the build. */
#include "vmm/dsdt.hex"

#define FADT_FLAG_WBINVD (1u << 0)
#define FADT_FLAG_RESET_REG (1u << 10)
#define FADT_FLAG_HW_REDUCED (1u << 20)
#define FADT_BOOT_NO_VGA (1u << 2)
#define FADT_BOOT_NO_ASPM (1u << 4)

#define GAS_SYSTEM_IO 1
#define GAS_BYTE 1

struct acpi_header {
	char signature[4];
	uint32_t length;
	uint8_t revision;
	uint8_t checksum;
	char oem_id[6];
	char oem_table_id[8];
	uint32_t oem_revision;
	char creator_id[4];
	uint32_t creator_revision;
} __attribute__((packed));

struct acpi_gas {
	uint8_t space;
	uint8_t bit_width;
	uint8_t bit_offset;
	uint8_t access;
	uint64_t address;
} __attribute__((packed));

struct acpi_rsdp {
	char signature[8];
	uint8_t checksum; /* of the first 20 bytes */
	char oem_id[6];
	uint8_t revision;
	uint32_t rsdt;
	uint32_t length;
	uint64_t xsdt;
	uint8_t extended_checksum;
	uint8_t reserved[3];
} __attribute__((packed));

/* ACPI 6.4, table 5.9. Fields that hardware-reduced ACPI leaves zero are not named. */
struct acpi_fadt {
	struct acpi_header header;
	uint8_t to_boot_flags[109 - 36];
	uint16_t boot_flags;
	uint8_t reserved;
	uint32_t flags;
	struct acpi_gas reset_register;
	uint8_t reset_value;
	uint16_t arm_boot_flags;
	uint8_t minor_revision;
	uint64_t x_firmware_control;
	uint64_t x_dsdt;
	uint8_t to_sleep_registers[244 - 148];
	struct acpi_gas sleep_control;
	struct acpi_gas sleep_status;
	uint64_t hypervisor_id;
} __attribute__((packed));

_Static_assert(sizeof(struct acpi_fadt) == 276, "FADT of ACPI 6.4");

struct acpi_madt {
	struct acpi_header header;
	uint32_t lapic_base;
	uint32_t flags; /* PCAT_COMPAT clear: there are no 8259s to be found */
} __attribute__((packed));

struct madt_lapic {
	uint8_t type, length;
	uint8_t processor;
	uint8_t apic_id;
	uint32_t flags;
} __attribute__((packed));

struct madt_ioapic {
	uint8_t type, length;
	uint8_t id;
	uint8_t reserved;
	uint32_t base;
	uint32_t first_gsi;
} __attribute__((packed));

struct madt_lapic_nmi {
	uint8_t type, length;
	uint8_t processor;
	uint16_t flags;
	uint8_t lint;
} __attribute__((packed));

struct acpi_mcfg {
	struct acpi_header header;
	uint64_t reserved;
	uint64_t base;
	uint16_t segment;
	uint8_t first_bus;
	uint8_t last_bus;
	uint32_t reserved_2;
} __attribute__((packed));

/* The tables are built here, then written to the guest in one piece. */
struct tables {
	uint8_t bytes[LAYOUT_WINDOW_BLOCK - LAYOUT_ACPI_BASE];
	size_t used;
	uint64_t xsdt_entries[3];
	unsigned int nr_entries;
};

static uint8_t checksum(const void *p, size_t size)
{
	const uint8_t *bytes = p;
	uint8_t sum = 0;

	for (size_t i = 0; i < size; i++)
		sum = (uint8_t)(sum + bytes[i]);
	return (uint8_t)-sum;
}

static void fill_header(struct acpi_header *h, const char *signature, uint8_t revision,
			size_t length)
{
	memcpy(h->signature, signature, 4);
	h->length = (uint32_t)length;
	h->revision = revision;
	memcpy(h->oem_id, "BALLST", 6);
	memcpy(h->oem_table_id, "BALLAST ", 8);
	h->oem_revision = 1;
	memcpy(h->creator_id, "BLST", 4);
	h->creator_revision = 1;
}

/* Copies a table in, with its checksum; 0 if there is no room. */
static uint64_t place(struct tables *t, const void *table, size_t size)
{
	if (size > sizeof(t->bytes) - t->used)
		return 0;
	uint8_t *at = t->bytes + t->used;
	uint64_t gpa = LAYOUT_ACPI_BASE + t->used;
	memcpy(at, table, size);
	at[offsetof(struct acpi_header, checksum)] = 0;
	at[offsetof(struct acpi_header, checksum)] = checksum(at, size);
	t->used = align_up(t->used + size, 16);
	return gpa;
}

static void place_listed(struct tables *t, const void *table, size_t size)
{
	t->xsdt_entries[t->nr_entries++] = place(t, table, size);
}

static void place_fadt(struct tables *t, uint64_t dsdt)
{
	const struct acpi_gas port = { GAS_SYSTEM_IO, 8, 0, GAS_BYTE, LAYOUT_POWER_PORT };
	struct acpi_fadt fadt = {
		.boot_flags = FADT_BOOT_NO_VGA | FADT_BOOT_NO_ASPM,
		.flags = FADT_FLAG_WBINVD | FADT_FLAG_RESET_REG | FADT_FLAG_HW_REDUCED,
		.reset_register = port,
		.reset_value = POWER_RESET_VALUE,
		.minor_revision = 4,
		.x_dsdt = dsdt,
		.sleep_control = port,
		.sleep_status = port,
	};

	fadt.sleep_status.address = LAYOUT_POWER_PORT + 1;
	fadt.reset_register.address = LAYOUT_RESET_PORT;
	memcpy(&fadt.hypervisor_id, "Ballast", 8);
	fill_header(&fadt.header, "FACP", 6, sizeof(fadt));
	place_listed(t, &fadt, sizeof(fadt));
}

static void place_madt(struct tables *t, unsigned int nr_cpus)
{
	uint8_t bytes[sizeof(struct acpi_madt) + 255 * sizeof(struct madt_lapic) +
		      sizeof(struct madt_ioapic) + sizeof(struct madt_lapic_nmi)];
	size_t n = sizeof(struct acpi_madt);
	struct acpi_madt madt = { .lapic_base = LAYOUT_LAPIC_BASE };

	for (unsigned int i = 0; i < nr_cpus; i++) {
		struct madt_lapic lapic = {
			.length = sizeof(lapic),
			.processor = (uint8_t)i,
			.apic_id = (uint8_t)i,
			.flags = 1,
		};
		memcpy(bytes + n, &lapic, sizeof(lapic));
		n += sizeof(lapic);
	}
	struct madt_ioapic ioapic = {
		.type = 1,
		.length = sizeof(ioapic),
		.base = LAYOUT_IOAPIC_BASE,
	};
	memcpy(bytes + n, &ioapic, sizeof(ioapic));
	n += sizeof(ioapic);
	/* Every processor's LINT1 is its NMI pin. */
	struct madt_lapic_nmi nmi = {
		.type = 4,
		.length = sizeof(nmi),
		.processor = 0xff,
		.lint = 1,
	};
	memcpy(bytes + n, &nmi, sizeof(nmi));
	n += sizeof(nmi);
	fill_header(&madt.header, "APIC", 5, n);
	memcpy(bytes, &madt, sizeof(madt));
	place_listed(t, bytes, n);
}

static void place_mcfg(struct tables *t)
{
	struct acpi_mcfg mcfg = { .base = LAYOUT_ECAM_BASE };

	fill_header(&mcfg.header, "MCFG", 1, sizeof(mcfg));
	place_listed(t, &mcfg, sizeof(mcfg));
}

static uint64_t place_xsdt(struct tables *t)
{
	struct {
		struct acpi_header header;
		uint64_t entries[nitems(t->xsdt_entries)];
	} __attribute__((packed)) xsdt;

	fill_header(&xsdt.header, "XSDT", 1, sizeof(xsdt));
	memcpy(xsdt.entries, t->xsdt_entries, sizeof(xsdt.entries));
	return place(t, &xsdt, sizeof(xsdt));
}

int acpi_write_tables(struct memory_map *map, const struct layout *layout, unsigned int nr_cpus)
{
	struct tables t = { .used = align_up(sizeof(struct acpi_rsdp), 16) };
	const uint64_t window[4] = { layout->mem64_base, layout->mem64_size, 0, 0 };
	struct acpi_rsdp rsdp = { .revision = 2, .length = sizeof(rsdp) };

	uint64_t dsdt = place(&t, dsdt_aml_code, sizeof(dsdt_aml_code));
	place_fadt(&t, dsdt);
	place_madt(&t, nr_cpus);
	place_mcfg(&t);
	rsdp.xsdt = place_xsdt(&t);
	if (!dsdt || !rsdp.xsdt)
		return log_err(-ENOSPC, "acpi: tables of %u processors", nr_cpus);
	memcpy(rsdp.signature, "RSD PTR ", 8);
	memcpy(rsdp.oem_id, "BALLST", 6);
	rsdp.checksum = checksum(&rsdp, 20);
	rsdp.extended_checksum = checksum(&rsdp, sizeof(rsdp));
	memcpy(t.bytes, &rsdp, sizeof(rsdp));
	int r = memory_write(map, LAYOUT_ACPI_BASE, t.bytes, t.used);
	if (r >= 0)
		r = memory_write(map, LAYOUT_WINDOW_BLOCK, window, sizeof(window));
	return r < 0 ? log_err(r, "acpi: writing the tables") : 0;
}
