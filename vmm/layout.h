/* SPDX-License-Identifier: MIT */
/*
 * layout.h - the guest-physical map, the ports and the interrupts: every number once, for the
 * monitor and (under __ASL__) for the DSDT.
 *
 *	0x0000000000 +----------------------------------+
 *	             | RAM; boot data below 0xa0000     |
 *	0x00000e0000 | ACPI tables (RAM, reserved)      |
 *	0x0000100000 | RAM; the kernel from here        |
 *	0x0080000000 +----------------------------------+ at most 2 GiB of RAM below the hole
 *	0x00b0000000 | PCI Express ECAM, 1 MiB (bus 0)  |
 *	0x00c0000000 | PCI memory window, 32 bits       |
 *	0x00fec00000 +----------------------------------+
 *	             | IOAPIC; 0xfee00000 local APICs   | nothing of ours: an IOMMU takes
 *	             | and message interrupts           | 0xfee00000-0xfeefffff for MSIs
 *	0x00fffbc000 | KVM's identity map page and TSS  |
 *	0x0100000000 +----------------------------------+
 *	             | the rest of RAM                  |
 *	             +----------------------------------+
 *	             | PCI memory window, 64 bits: the  | within what CPU and IOMMU can address
 *	             | upper half of the address space  |
 *	             +----------------------------------+
 */
#ifndef VMM_LAYOUT_H
#define VMM_LAYOUT_H

#define LAYOUT_ACPI_BASE 0xe0000
#define LAYOUT_ACPI_SIZE 0x20000
/* 32 bytes the DSDT reads: base and size of the 64-bit window. */
#define LAYOUT_WINDOW_BLOCK 0xfffc0
#define LAYOUT_RESET_VECTOR 0xffff0

#define LAYOUT_KERNEL_BASE 0x100000
#define LAYOUT_HOLE_BASE 0x80000000
#define LAYOUT_ECAM_BASE 0xb0000000
#define LAYOUT_ECAM_SIZE 0x100000
#define LAYOUT_MEM32_BASE 0xc0000000
#define LAYOUT_MEM32_SIZE 0x3ec00000
#define LAYOUT_MEM32_LAST 0xfebfffff
#define LAYOUT_HIGH_BASE 0x100000000

#define LAYOUT_IOAPIC_BASE 0xfec00000
#define LAYOUT_LAPIC_BASE 0xfee00000
#define LAYOUT_IDENTITY_MAP_BASE 0xfffbc000
#define LAYOUT_TSS_BASE 0xfffbd000

#define LAYOUT_IO_BASE 0x1000
#define LAYOUT_IO_SIZE 0xf000
#define LAYOUT_IO_LAST 0xffff

#define LAYOUT_SERIAL_PORT 0x3f8
#define LAYOUT_SERIAL_GSI 4
#define LAYOUT_POWER_PORT 0x600
#define LAYOUT_RESET_PORT 0x602
#define LAYOUT_POWER_EVENT_PORT 0x603
#define LAYOUT_POWER_GSI 9
#define LAYOUT_HOTPLUG_PORT 0x604
#define LAYOUT_EXIT_PORT 0xf4
#define LAYOUT_PANIC_PORT 0x505

#ifndef __ASL__
#include <stdint.h>

/* Where RAM and the 64-bit PCI window lie for one machine. */
struct layout {
	uint64_t low_size;   /* RAM from 0 */
	uint64_t high_size;  /* RAM from LAYOUT_HIGH_BASE, perhaps 0 */
	uint64_t mem64_base; /* 64-bit PCI window */
	uint64_t mem64_size;
};

/*
 * Splits RAM round the hole and puts the 64-bit window into the upper half of an address
 * space of `address_bits`. -E2BIG: RAM would reach into that half.
 */
int layout_init(struct layout *layout, uint64_t ram_size, unsigned int address_bits);
#endif

#endif /* VMM_LAYOUT_H */
