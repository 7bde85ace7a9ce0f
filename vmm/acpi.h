/* SPDX-License-Identifier: MIT */
/*
 * acpi.h - the ACPI tables: RSDP, XSDT, FADT (hardware-reduced), MADT, MCFG and the DSDT that
 * iasl compiled. ACPI 6.4, chapters 4 and 5; PCI Firmware 3.2, 4.1.2 for MCFG.
 */
#ifndef VMM_ACPI_H
#define VMM_ACPI_H

#include "base/range.h"
#include "base/util.h"

#include "vmm/layout.h"

struct memory_map;

/*
 * Writes the tables into guest RAM at LAYOUT_ACPI_BASE, the RSDP first, and what the DSDT
 * reads at LAYOUT_WINDOW_BLOCK. nr_cpus: local APIC ids are 0 to nr_cpus - 1.
 * -EFAULT: no RAM there. -ENOSPC: they do not fit. Logged.
 */
must_check int acpi_write_tables(struct memory_map *map, const struct layout *layout,
				 unsigned int nr_cpus);

#endif /* VMM_ACPI_H */
