/* SPDX-License-Identifier: MIT */
/*
 * boot.h - direct boot without firmware: a bzImage by the Linux 64-bit boot protocol
 * (Documentation/arch/x86/boot.rst), an ELF kernel by PVH (the Xen x86/HVM direct boot ABI) or,
 * if it has no PVH note, by Multiboot (Multiboot Specification 0.6.96). ELF may be of 32 or of 64
 * bits; either is entered in 32-bit protected mode.
 *
 * A Multiboot kernel is handed memory, memory map, command line (the kernel's path is its first
 * word, as QEMU and GRUB have it), an initrd as its one module, and our name. One that requires a
 * video mode or a.out fields, or anything newer, is refused.
 *
 * Threads: one; vCPUs parked.
 */
#ifndef VMM_BOOT_H
#define VMM_BOOT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/util.h"

#include "vmm/layout.h"

struct kvm_regs;
struct kvm_sregs;
struct memory_map;

enum boot_protocol { BOOT_LINUX_64, BOOT_PVH, BOOT_MULTIBOOT };

/* The files of a guest, open as long as it may be reset. */
struct boot_files {
	const char *kernel_path; /* borrowed */
	const char *initrd_path; /* borrowed; NULL: none */
	const char *cmdline;     /* borrowed */
	int kernel_fd;           /* owned; -1 */
	int initrd_fd;           /* owned; -1 */
	uint64_t kernel_size;
	uint64_t initrd_size;
};

/* Where the first vCPU starts, and how. */
struct boot_entry {
	enum boot_protocol protocol;
	uint64_t address;
	uint64_t info; /* the boot_params, the PVH start info, or the Multiboot information */
	bool linux_guest;
};

/*
 * Opens kernel and initrd. -EINVAL: a file is missing, unreadable, not regular or empty:
 * one line names it.
 */
must_check int boot_open(struct boot_files *files, const char *kernel, const char *initrd,
			 const char *cmdline);
/* Accepts a zeroed object. */
void boot_close(struct boot_files *files);

/*
 * Copies kernel, initrd, command line and boot data into guest RAM; at every reset anew.
 * -EINVAL: not a kernel we can start, or truncated. -E2BIG: RAM, or the kernel's own limit, is
 * too small for it; the message has the figures. -EIO and the like: reading failed. Logged.
 */
must_check int boot_load(const struct boot_files *files, struct memory_map *map,
			 const struct layout *layout, struct boot_entry *ret_entry);

/* The registers the first vCPU starts with, on top of those of a reset. */
void boot_set_registers(const struct boot_entry *entry, struct kvm_regs *regs,
			struct kvm_sregs *sregs);

#endif /* VMM_BOOT_H */
