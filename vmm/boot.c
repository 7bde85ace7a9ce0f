/* SPDX-License-Identifier: MIT */
#include "vmm/boot.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include <sys/stat.h>

#include <asm/bootparam.h>
#include <linux/kvm.h>

#include "base/fd.h"
#include "base/log.h"
#include "base/range.h"

#include "devices/power.h"
#include "memory/access.h"
#include "memory/map.h"
#include "memory/ram.h"

/* Boot data, all below the kernel; nothing here outlives the guest's first steps. */
#define GDT_BASE 0x500
#define PVH_INFO_BASE 0x6000 /* or that of Multiboot */
#define ZERO_PAGE_BASE 0x7000
#define PAGE_TABLE_BASE 0x9000 /* six pages: one PML4, one PDPT, four page directories */
#define CMDLINE_BASE 0x20000
#define CMDLINE_MAX 0x10000
#define LOW_RAM_END 0xa0000

#define BOOT_CS 0x10
#define BOOT_DS 0x18

#define CR0_PE 0x1ull
#define CR0_PG 0x80000000ull
#define CR4_PAE 0x20ull
#define EFER_LME 0x100ull
#define EFER_LMA 0x400ull
#define PTE_PRESENT_WRITE 0x3ull
#define PDE_LARGE 0x80ull

#define BZIMAGE_MAGIC 0x53726448u   /* "HdrS" */
#define BZIMAGE_MIN_VERSION 0x020cu /* the first with xloadflags */
#define BZIMAGE_ENTRY_64 0x200
#define NOTE_GUEST_OS 6u      /* XEN_ELFNOTE_GUEST_OS */
#define NOTE_PHYS32_ENTRY 18u /* XEN_ELFNOTE_PHYS32_ENTRY */
#define NOTES_MAX 65536u

#define PVH_MAGIC 0x336ec578u
#define PVH_MEMORY_RAM 1u
#define PVH_MEMORY_RESERVED 2u

/* The start info of the Xen HVM direct boot ABI, version 1. */
struct pvh_start_info {
	uint32_t magic;
	uint32_t version;
	uint32_t flags;
	uint32_t nr_modules;
	uint64_t modules;
	uint64_t cmdline;
	uint64_t rsdp;
	uint64_t memory_map;
	uint32_t memory_map_entries;
	uint32_t reserved;
};

struct pvh_module {
	uint64_t address;
	uint64_t size;
	uint64_t cmdline;
	uint64_t reserved;
};

struct pvh_memory {
	uint64_t address;
	uint64_t size;
	uint32_t type;
	uint32_t reserved;
};

#define MEMORY_MAP_ENTRIES 6u

#define MULTIBOOT_SEARCH 8192u /* the header lies within the first so many bytes */
#define MULTIBOOT_HEADER_MAGIC 0x1badb002u
#define MULTIBOOT_MAGIC 0x2badb002u
#define MULTIBOOT_REQUIRED 0xffffu /* of a header's flags; the others may be ignored */
#define MULTIBOOT_PAGE_ALIGN 1u
#define MULTIBOOT_MEMORY_INFO 2u
/* What is in the information. */
#define MULTIBOOT_HAS_MEMORY 0x1u
#define MULTIBOOT_HAS_CMDLINE 0x4u
#define MULTIBOOT_HAS_MODULES 0x8u
#define MULTIBOOT_HAS_MAP 0x40u
#define MULTIBOOT_HAS_NAME 0x200u

/* Multiboot 0.6.96, 3.3: up to what we know of. */
struct multiboot_info {
	uint32_t flags;
	uint32_t mem_lower; /* KiB */
	uint32_t mem_upper; /* KiB from 1 MiB on */
	uint32_t boot_device;
	uint32_t cmdline;
	uint32_t nr_modules;
	uint32_t modules;
	uint32_t symbols[4];
	uint32_t map_size;
	uint32_t map;
	uint32_t drives[2];
	uint32_t config_table;
	uint32_t name;
};

struct multiboot_module {
	uint32_t start;
	uint32_t end;
	uint32_t string;
	uint32_t reserved;
};

struct multiboot_memory {
	uint32_t size; /* of what follows */
	uint64_t address;
	uint64_t length;
	uint32_t type; /* PVH's numbers, which are all E820's */
} __attribute__((packed));

static int open_file(const char *what, const char *path, int *ret_fd, uint64_t *ret_size)
{
	struct stat st;

	/* Not to wait for a FIFO's other end; regular files do not care. */
	autoclose int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		return log_err(-errno, "%s '%s'", what, path), -EINVAL;
	if (fstat(fd, &st) < 0)
		return log_err(-errno, "%s '%s'", what, path), -EINVAL;
	if (!S_ISREG(st.st_mode))
		return log_refuse(-EINVAL, "%s '%s' is not a regular file", what, path);
	if (st.st_size == 0)
		return log_refuse(-EINVAL, "%s '%s' is empty", what, path);
	*ret_size = (uint64_t)st.st_size;
	*ret_fd = fd;
	fd = -1;
	return 0;
}

int boot_open(struct boot_files *files, const char *kernel, const char *initrd,
	      const char *cmdline)
{
	*files = (struct boot_files){
		.kernel_path = kernel,
		.initrd_path = initrd,
		.cmdline = cmdline,
		.kernel_fd = -1,
		.initrd_fd = -1,
	};
	int r = open_file("kernel", kernel, &files->kernel_fd, &files->kernel_size);
	if (r >= 0 && initrd)
		r = open_file("initrd", initrd, &files->initrd_fd, &files->initrd_size);
	if (r < 0)
		boot_close(files);
	return r;
}

void boot_close(struct boot_files *files)
{
	if (!files->kernel_path)
		return;
	fd_close(&files->kernel_fd);
	fd_close(&files->initrd_fd);
	*files = (struct boot_files){ .kernel_fd = -1, .initrd_fd = -1 };
}

/* In one go: a page that is missing when it is read into costs several times as much. */
static int make_present(struct memory_map *map, gpa_t gpa, uint64_t size)
{
	const struct memory_region *region = memory_map_find(map, gpa, size);
	struct ram *ram = region->ram;
	uint64_t at =
		(uint64_t)((char *)region->host - (char *)ram->host) + (gpa - region->gpa);
	uint64_t begin = align_down(at, ram->page_size);

	return ram_populate(ram, begin, align_up(at + size, ram->page_size) - begin);
}

/* Reads [offset, offset + size) of a file straight into guest RAM at gpa. */
static int load_bytes(struct memory_map *map, const char *path, int fd, uint64_t offset,
		      gpa_t gpa, uint64_t size)
{
	if (size == 0)
		return 0;
	void *to = memory_ptr(map, gpa, size);
	if (!to)
		return log_refuse(-E2BIG,
				  "boot: '%s': 0x%" PRIx64 " bytes at 0x%" PRIx64
				  " do not fit into low RAM; give more --memory",
				  path, size, gpa);
	int r = make_present(map, gpa, size);
	if (r < 0)
		return log_err(r, "boot: memory for '%s'", path);
	r = fd_read_at(fd, to, size, offset);
	if (r == -EIO)
		return log_refuse(-EINVAL, "boot: '%s' is truncated", path);
	return r < 0 ? log_err(r, "boot: reading '%s'", path) : 0;
}

/* At the top of low RAM: out of the way of everything that grows upwards. */
static int load_initrd(const struct boot_files *files, struct memory_map *map,
		       const struct layout *layout, uint64_t kernel_end, uint64_t last_address,
		       uint64_t *ret_gpa)
{
	uint64_t limit = layout->low_size;

	*ret_gpa = 0;
	if (files->initrd_fd < 0)
		return 0;
	if (last_address < limit)
		limit = last_address + 1;
	if (files->initrd_size > limit ||
	    align_down(limit - files->initrd_size, 4096) < kernel_end)
		return log_refuse(-E2BIG,
				  "boot: initrd '%s' of %" PRIu64 " KiB does not fit: %" PRIu64
				  " KiB of RAM below 0x%" PRIx64
				  ", of which the kernel needs %" PRIu64
				  "; give more --memory or a smaller initrd",
				  files->initrd_path, files->initrd_size >> 10, limit >> 10,
				  limit, kernel_end >> 10);
	*ret_gpa = align_down(limit - files->initrd_size, 4096);
	return load_bytes(map, files->initrd_path, files->initrd_fd, 0, *ret_gpa,
			  files->initrd_size);
}

static int write_cmdline(struct memory_map *map, const char *cmdline, size_t max)
{
	size_t size = strlen(cmdline) + 1;

	if (max > CMDLINE_MAX)
		max = CMDLINE_MAX;
	if (size > max)
		return log_refuse(-E2BIG, "boot: --cmdline of %zu bytes; this kernel takes %zu",
				  size - 1, max - 1);
	return memory_write(map, CMDLINE_BASE, cmdline, size);
}

/*
 * What firmware has at the reset vector, and the least of it: whoever jumps there in real mode
 * wants a reset. Linux does, on hardware-reduced ACPI without EFI, instead of using the FADT's
 * reset register (reboot_init() in arch/x86/kernel/reboot.c, seen in 6.1).
 */
static int write_reset_vector(struct memory_map *map)
{
	static const uint8_t code[] = {
		0xba,
		LAYOUT_RESET_PORT & 0xff,
		LAYOUT_RESET_PORT >> 8, /* mov dx, port */
		0xb0,
		POWER_RESET_VALUE, /* mov al, value */
		0xee,              /* out dx, al */
		0xf4,
		0xeb,
		0xfd, /* hlt; jmp back to it */
	};

	return memory_write(map, LAYOUT_RESET_VECTOR, code, sizeof(code));
}

/* The map both protocols hand over. Returns the number of entries used. */
static unsigned int build_memory_map(const struct layout *layout, struct pvh_memory *map)
{
	unsigned int n = 0;

	map[n++] = (struct pvh_memory){ 0, LOW_RAM_END, PVH_MEMORY_RAM, 0 };
	map[n++] = (struct pvh_memory){ LAYOUT_ACPI_BASE, LAYOUT_ACPI_SIZE, PVH_MEMORY_RESERVED,
					0 };
	map[n++] =
		(struct pvh_memory){ LAYOUT_KERNEL_BASE, layout->low_size - LAYOUT_KERNEL_BASE,
				     PVH_MEMORY_RAM, 0 };
	map[n++] = (struct pvh_memory){ LAYOUT_ECAM_BASE, LAYOUT_ECAM_SIZE, PVH_MEMORY_RESERVED,
					0 };
	if (layout->high_size)
		map[n++] = (struct pvh_memory){ LAYOUT_HIGH_BASE, layout->high_size,
						PVH_MEMORY_RAM, 0 };
	return n;
}

/* bzImage */

/* Where the kernel goes: where it prefers, or at 1 MiB if RAM ends before that. */
static int place_bzimage(const struct boot_files *files, const struct setup_header *header,
			 const struct layout *layout, uint64_t *ret_gpa)
{
	uint64_t at = header->pref_address;
	uint64_t need = header->init_size;

	if (header->relocatable_kernel &&
	    !(at < layout->low_size && need <= layout->low_size - at) &&
	    is_power_of_2(header->kernel_alignment))
		at = align_up(LAYOUT_KERNEL_BASE, header->kernel_alignment);
	if (at < LAYOUT_KERNEL_BASE || !range_valid(at, need))
		return log_refuse(-EINVAL, "boot: kernel '%s' has a damaged header",
				  files->kernel_path);
	if (!range_within(at, need, 0, layout->low_size))
		return log_refuse(-E2BIG,
				  "boot: kernel '%s' needs %" PRIu64 " MiB of RAM from %" PRIu64
				  " MiB on, there are %" PRIu64 " MiB; give more --memory",
				  files->kernel_path, (need >> 20) + 1, at >> 20,
				  layout->low_size >> 20);
	*ret_gpa = at;
	return 0;
}

static int write_zero_page(struct memory_map *map, const struct layout *layout,
			   const struct setup_header *header, uint64_t initrd,
			   uint64_t initrd_size)
{
	struct boot_params params = { .hdr = *header };
	struct pvh_memory entries[MEMORY_MAP_ENTRIES];

	params.hdr.type_of_loader = 0xff; /* no number is assigned to us */
	params.hdr.cmd_line_ptr = CMDLINE_BASE;
	params.hdr.ramdisk_image = (uint32_t)initrd;
	params.hdr.ramdisk_size = (uint32_t)initrd_size;
	params.acpi_rsdp_addr = LAYOUT_ACPI_BASE;
	unsigned int n = build_memory_map(layout, entries);
	for (unsigned int i = 0; i < n; i++) {
		params.e820_table[i].addr = entries[i].address;
		params.e820_table[i].size = entries[i].size;
		params.e820_table[i].type = entries[i].type;
	}
	params.e820_entries = (uint8_t)n;
	return memory_write(map, ZERO_PAGE_BASE, &params, sizeof(params));
}

/* Identity-maps the first 4 GiB with 2 MiB pages; GDT with the segments the protocol names. */
static int write_long_mode(struct memory_map *map)
{
	uint64_t page[512] = { PAGE_TABLE_BASE + 0x1000 + PTE_PRESENT_WRITE };
	const uint64_t gdt[] = { 0, 0, 0x00af9b000000ffff, 0x00cf93000000ffff };

	int r = memory_write(map, GDT_BASE, gdt, sizeof(gdt));
	if (r >= 0)
		r = memory_write(map, PAGE_TABLE_BASE, page, sizeof(page));
	memset(page, 0, sizeof(page));
	for (unsigned int i = 0; i < 4; i++)
		page[i] = (PAGE_TABLE_BASE + 0x2000 + i * 0x1000) | PTE_PRESENT_WRITE;
	if (r >= 0)
		r = memory_write(map, PAGE_TABLE_BASE + 0x1000, page, sizeof(page));
	for (unsigned int i = 0; i < 4 && r >= 0; i++) {
		for (unsigned int j = 0; j < 512; j++)
			page[j] = ((uint64_t)i << 30 | (uint64_t)j << 21) | PTE_PRESENT_WRITE |
				  PDE_LARGE;
		r = memory_write(map, PAGE_TABLE_BASE + 0x2000 + i * 0x1000, page,
				 sizeof(page));
	}
	return r;
}

static int load_bzimage(const struct boot_files *files, struct memory_map *map,
			const struct layout *layout, const struct setup_header *header,
			struct boot_entry *ret)
{
	uint64_t setup_size = ((header->setup_sects ? header->setup_sects : 4u) + 1) * 512u;
	uint64_t whole_size = setup_size + (uint64_t)header->syssize * 16;
	uint64_t at = 0;
	uint64_t initrd = 0;

	if (header->version < BZIMAGE_MIN_VERSION || !(header->xloadflags & XLF_KERNEL_64))
		return log_refuse(
			-EINVAL,
			"boot: kernel '%s' has no 64-bit entry (boot protocol %u.%02u); "
			"give a 64-bit kernel of Linux 3.8 or later",
			files->kernel_path, (unsigned int)header->version >> 8,
			(unsigned int)header->version & 0xff);
	/* syssize counts the kernel proper in 16-byte units. */
	if (setup_size > files->kernel_size || whole_size > files->kernel_size + 15)
		return log_refuse(-EINVAL,
				  "boot: kernel '%s' is truncated: %" PRIu64 " of %" PRIu64
				  " bytes",
				  files->kernel_path, files->kernel_size, whole_size);
	int r = place_bzimage(files, header, layout, &at);
	if (r < 0)
		return r;
	if (files->kernel_size - setup_size > layout->low_size - at)
		return log_refuse(-E2BIG,
				  "boot: kernel '%s' of %" PRIu64
				  " MiB does not fit into RAM; give more --memory",
				  files->kernel_path, files->kernel_size >> 20);
	r = load_bytes(map, files->kernel_path, files->kernel_fd, setup_size, at,
		       files->kernel_size - setup_size);
	if (r >= 0)
		r = load_initrd(files, map, layout, at + header->init_size,
				header->initrd_addr_max, &initrd);
	if (r >= 0)
		r = write_cmdline(map, files->cmdline, (size_t)header->cmdline_size + 1);
	if (r >= 0)
		r = write_zero_page(map, layout, header, initrd, files->initrd_size);
	if (r >= 0)
		r = write_long_mode(map);
	if (r < 0)
		return r;
	*ret = (struct boot_entry){
		.protocol = BOOT_LINUX_64,
		.address = at + BZIMAGE_ENTRY_64,
		.info = ZERO_PAGE_BASE,
		.linux_guest = true,
	};
	return 0;
}

/* ELF: PVH */

/* Looks through one segment of notes for the entry point and the guest's name. */
static void scan_notes(const uint8_t *notes, size_t size, struct boot_entry *ret)
{
	size_t at = 0;

	while (size - at >= sizeof(Elf64_Nhdr)) {
		Elf64_Nhdr n;
		memcpy(&n, notes + at, sizeof(n));
		at += sizeof(n);
		uint64_t name_size = align_up(n.n_namesz, 4);
		uint64_t desc_size = align_up(n.n_descsz, 4);
		if (name_size > size - at || desc_size > size - at - name_size)
			return;
		const uint8_t *name = notes + at;
		const uint8_t *desc = name + name_size;
		at += name_size + desc_size;
		if (n.n_namesz != 4 || memcmp(name, "Xen", 4) != 0)
			continue;
		if (n.n_type == NOTE_PHYS32_ENTRY && (n.n_descsz == 4 || n.n_descsz == 8)) {
			uint32_t entry;
			memcpy(&entry, desc, sizeof(entry));
			ret->address = entry;
		}
		if (n.n_type == NOTE_GUEST_OS && n.n_descsz >= 5)
			ret->linux_guest = memcmp(desc, "linux", 5) == 0;
	}
}

static int read_notes(const struct boot_files *files, const Elf64_Phdr *ph,
		      struct boot_entry *ret)
{
	if (ph->p_filesz > NOTES_MAX)
		return 0; /* none of ours: they take a few hundred bytes */
	autofree uint8_t *notes = malloc(ph->p_filesz + 1);
	if (!notes)
		return log_err(-ENOMEM, "boot: notes of '%s'", files->kernel_path);
	int r = fd_read_at(files->kernel_fd, notes, ph->p_filesz, ph->p_offset);
	if (r < 0)
		return log_refuse(-EINVAL, "boot: kernel '%s' is truncated",
				  files->kernel_path);
	scan_notes(notes, ph->p_filesz, ret);
	return 0;
}

static int load_segment(const struct boot_files *files, struct memory_map *map,
			const struct layout *layout, const Elf64_Phdr *ph, uint64_t *end)
{
	if (ph->p_memsz == 0)
		return 0;
	if (ph->p_filesz > ph->p_memsz || !range_valid(ph->p_paddr, ph->p_memsz) ||
	    ph->p_paddr < LAYOUT_KERNEL_BASE)
		return log_refuse(-EINVAL,
				  "boot: kernel '%s' has a segment at 0x%" PRIx64
				  "; they must lie at 1 MiB or above",
				  files->kernel_path, (uint64_t)ph->p_paddr);
	if (!range_within(ph->p_paddr, ph->p_memsz, 0, layout->low_size))
		return log_refuse(-E2BIG,
				  "boot: kernel '%s' needs RAM up to 0x%" PRIx64
				  ", low RAM ends at 0x%" PRIx64 "; give more --memory",
				  files->kernel_path, (uint64_t)ph->p_paddr + ph->p_memsz,
				  layout->low_size);
	int r = load_bytes(map, files->kernel_path, files->kernel_fd, ph->p_offset, ph->p_paddr,
			   ph->p_filesz);
	if (r < 0)
		return r;
	uint8_t *host = memory_ptr(map, ph->p_paddr, ph->p_memsz);
	memset(host + ph->p_filesz, 0, ph->p_memsz - ph->p_filesz);
	if (ph->p_paddr + ph->p_memsz > *end)
		*end = ph->p_paddr + ph->p_memsz;
	return 0;
}

static int write_start_info(const struct boot_files *files, struct memory_map *map,
			    const struct layout *layout, uint64_t initrd)
{
	struct {
		struct pvh_start_info info;
		struct pvh_module module;
		struct pvh_memory memory[MEMORY_MAP_ENTRIES];
	} s = { 0 };

	s.info = (struct pvh_start_info){
		.magic = PVH_MAGIC,
		.version = 1,
		.cmdline = CMDLINE_BASE,
		.rsdp = LAYOUT_ACPI_BASE,
		.memory_map = PVH_INFO_BASE + offsetof(__typeof__(s), memory),
		.memory_map_entries = build_memory_map(layout, s.memory),
	};
	if (initrd) {
		s.info.nr_modules = 1;
		s.info.modules = PVH_INFO_BASE + offsetof(__typeof__(s), module);
		s.module.address = initrd;
		s.module.size = files->initrd_size;
	}
	return memory_write(map, PVH_INFO_BASE, &s, sizeof(s));
}

/* ELF: Multiboot */

/*
 * Whether the file has a header, and what that wants: the flags. It need not be in a segment,
 * and a number that merely looks like it has no right sum.
 */
static int find_multiboot(const struct boot_files *files, bool *ret_found, uint32_t *ret_flags)
{
	uint32_t words[MULTIBOOT_SEARCH / sizeof(uint32_t)] = { 0 };
	size_t size = files->kernel_size < sizeof(words) ? files->kernel_size : sizeof(words);

	*ret_found = false;
	int r = fd_read_at(files->kernel_fd, words, size, 0);
	if (r < 0)
		return log_err(r, "boot: reading '%s'", files->kernel_path);
	for (size_t i = 0; i + 2 < size / sizeof(words[0]) && !*ret_found; i++) {
		*ret_found = words[i] == MULTIBOOT_HEADER_MAGIC &&
			     words[i] + words[i + 1] + words[i + 2] == 0;
		*ret_flags = words[i + 1];
	}
	return 0;
}

static unsigned int build_multiboot_map(const struct layout *layout,
					struct multiboot_memory *ret)
{
	struct pvh_memory entries[MEMORY_MAP_ENTRIES];
	unsigned int n = build_memory_map(layout, entries);

	for (unsigned int i = 0; i < n; i++)
		ret[i] = (struct multiboot_memory){
			.size = sizeof(*ret) - sizeof(ret->size),
			.address = entries[i].address,
			.length = entries[i].size,
			.type = entries[i].type,
		};
	return n;
}

static int write_multiboot_info(const struct boot_files *files, struct memory_map *map,
				const struct layout *layout, uint64_t initrd)
{
	struct {
		struct multiboot_info info;
		struct multiboot_module module;
		struct multiboot_memory memory[MEMORY_MAP_ENTRIES];
		char name[8];
	} s = { .name = "ballast" };
	unsigned int n = build_multiboot_map(layout, s.memory);

	s.info = (struct multiboot_info){
		.flags = MULTIBOOT_HAS_MEMORY | MULTIBOOT_HAS_CMDLINE | MULTIBOOT_HAS_MODULES |
			 MULTIBOOT_HAS_MAP | MULTIBOOT_HAS_NAME,
		.mem_lower = LOW_RAM_END >> 10,
		.mem_upper = (uint32_t)((layout->low_size - LAYOUT_KERNEL_BASE) >> 10),
		.cmdline = CMDLINE_BASE,
		.map_size = (uint32_t)(n * sizeof(s.memory[0])),
		.map = PVH_INFO_BASE + offsetof(__typeof__(s), memory),
		.name = PVH_INFO_BASE + offsetof(__typeof__(s), name),
	};
	if (initrd) {
		s.info.nr_modules = 1;
		s.info.modules = PVH_INFO_BASE + offsetof(__typeof__(s), module);
		s.module.start = (uint32_t)initrd;
		s.module.end = (uint32_t)(initrd + files->initrd_size);
		s.module.string = s.info.cmdline;
	}
	return memory_write(map, PVH_INFO_BASE, &s, sizeof(s));
}

static int write_multiboot_cmdline(const struct boot_files *files, struct memory_map *map)
{
	autofree char *cmdline = NULL;

	if (asprintf(&cmdline, "%s%s%s", files->kernel_path, *files->cmdline ? " " : "",
		     files->cmdline) < 0) {
		cmdline = NULL; /* it is not defined otherwise */
		return log_err(-ENOMEM, "boot: command line");
	}
	return write_cmdline(map, cmdline, CMDLINE_MAX);
}

/* Segments are loaded already, up to `end`; entry->address is the physical one. */
static int finish_multiboot(const struct boot_files *files, struct memory_map *map,
			    const struct layout *layout, uint64_t end, struct boot_entry *entry)
{
	uint64_t initrd;

	entry->protocol = BOOT_MULTIBOOT;
	if (entry->address >= layout->low_size)
		return log_refuse(
			-EINVAL,
			"boot: kernel '%s' has an entry that is in none of its segments; "
			"is it linked for a bootloader?",
			files->kernel_path);
	int r = load_initrd(files, map, layout, end, UINT32_MAX, &initrd);
	if (r >= 0)
		r = write_multiboot_cmdline(files, map);
	return r < 0 ? r : write_multiboot_info(files, map, layout, initrd);
}

/* Of the two kinds of ELF only what is the same in both is looked at further on. */

struct elf_head {
	bool wide; /* 64 bits */
	uint64_t entry;
	uint64_t phoff;
	unsigned int phnum;
};

static int read_elf_head(const struct boot_files *files, const uint8_t *bytes,
			 struct elf_head *ret)
{
	Elf32_Ehdr narrow;
	Elf64_Ehdr wide;

	memcpy(&narrow, bytes, sizeof(narrow));
	memcpy(&wide, bytes, sizeof(wide));
	if (wide.e_ident[EI_CLASS] == ELFCLASS64 && wide.e_machine == EM_X86_64 &&
	    wide.e_phentsize == sizeof(Elf64_Phdr)) {
		*ret = (struct elf_head){ true, wide.e_entry, wide.e_phoff, wide.e_phnum };
		return 0;
	}
	if (narrow.e_ident[EI_CLASS] == ELFCLASS32 &&
	    (narrow.e_machine == EM_386 || narrow.e_machine == EM_X86_64) &&
	    narrow.e_phentsize == sizeof(Elf32_Phdr)) {
		*ret = (struct elf_head){ false, narrow.e_entry, narrow.e_phoff,
					  narrow.e_phnum };
		return 0;
	}
	return log_refuse(-EINVAL, "boot: kernel '%s' is ELF, but not for x86",
			  files->kernel_path);
}

static int read_program_header(const struct boot_files *files, const struct elf_head *head,
			       unsigned int i, Elf64_Phdr *ret)
{
	Elf32_Phdr narrow;
	uint64_t at = (uint64_t)i * (head->wide ? sizeof(*ret) : sizeof(narrow));
	int r = -EINVAL;

	if (head->phoff <= UINT64_MAX - at)
		r = head->wide
			    ? fd_read_at(files->kernel_fd, ret, sizeof(*ret), head->phoff + at)
			    : fd_read_at(files->kernel_fd, &narrow, sizeof(narrow),
					 head->phoff + at);
	if (r < 0)
		return log_refuse(-EINVAL, "boot: kernel '%s' is truncated",
				  files->kernel_path);
	if (!head->wide)
		*ret = (Elf64_Phdr){
			.p_type = narrow.p_type,
			.p_offset = narrow.p_offset,
			.p_vaddr = narrow.p_vaddr,
			.p_paddr = narrow.p_paddr,
			.p_filesz = narrow.p_filesz,
			.p_memsz = narrow.p_memsz,
		};
	return 0;
}

/* Finds the PVH entry, and where e_entry is in physical memory. */
static int load_segments(const struct boot_files *files, struct memory_map *map,
			 const struct layout *layout, const struct elf_head *head,
			 struct boot_entry *pvh, uint64_t *ret_entry, uint64_t *ret_end)
{
	uint64_t room = layout->low_size;
	int r = 0;

	for (unsigned int i = 0; i < head->phnum && r >= 0; i++) {
		Elf64_Phdr ph;
		r = read_program_header(files, head, i, &ph);
		if (r >= 0 && ph.p_type == PT_LOAD)
			r = load_segment(files, map, layout, &ph, ret_end);
		/* Thousands of them, each as large as RAM, would take hours. */
		if (r >= 0 && ph.p_type == PT_LOAD && ph.p_memsz > room)
			return log_refuse(-EINVAL,
					  "boot: kernel '%s' has segments that overlap",
					  files->kernel_path);
		if (r >= 0 && ph.p_type == PT_LOAD)
			room -= ph.p_memsz;
		if (r >= 0 && ph.p_type == PT_LOAD && head->entry - ph.p_vaddr < ph.p_memsz)
			*ret_entry = head->entry - ph.p_vaddr + ph.p_paddr;
		if (r >= 0 && ph.p_type == PT_NOTE)
			r = read_notes(files, &ph, pvh);
	}
	return r;
}

static int finish_pvh(const struct boot_files *files, struct memory_map *map,
		      const struct layout *layout, uint64_t end)
{
	uint64_t initrd;

	int r = load_initrd(files, map, layout, end, UINT32_MAX, &initrd);
	if (r >= 0)
		r = write_cmdline(map, files->cmdline, CMDLINE_MAX);
	return r < 0 ? r : write_start_info(files, map, layout, initrd);
}

static int load_elf(const struct boot_files *files, struct memory_map *map,
		    const struct layout *layout, const uint8_t *bytes, struct boot_entry *ret)
{
	struct boot_entry entry = { .protocol = BOOT_PVH, .info = PVH_INFO_BASE };
	uint64_t end = LAYOUT_KERNEL_BASE;
	uint64_t elf_entry = UINT64_MAX;
	struct elf_head head;
	bool multiboot = false;
	uint32_t flags = 0;

	int r = read_elf_head(files, bytes, &head);
	if (r >= 0)
		r = load_segments(files, map, layout, &head, &entry, &elf_entry, &end);
	if (r >= 0 && entry.address == 0)
		r = find_multiboot(files, &multiboot, &flags);
	if (r < 0)
		return r;
	if (entry.address == 0 && !multiboot)
		return log_refuse(
			-EINVAL,
			"boot: kernel '%s' is ELF with neither a PVH entry note nor a "
			"multiboot header; build it with CONFIG_PVH=y or give its bzImage",
			files->kernel_path);
	flags &= MULTIBOOT_REQUIRED;
	if (flags & ~(MULTIBOOT_PAGE_ALIGN | MULTIBOOT_MEMORY_INFO))
		return log_refuse(
			-EINVAL,
			"boot: kernel '%s' wants more of multiboot than there is (flags "
			"0x%x): only page alignment (1) and memory (2) are",
			files->kernel_path, flags);
	if (multiboot)
		entry.address = elf_entry;
	r = multiboot ? finish_multiboot(files, map, layout, end, &entry)
		      : finish_pvh(files, map, layout, end);
	if (r >= 0)
		*ret = entry;
	return r;
}

int boot_load(const struct boot_files *files, struct memory_map *map,
	      const struct layout *layout, struct boot_entry *ret_entry)
{
	union {
		uint8_t bytes[4096];
		Elf64_Ehdr elf;
	} head = { 0 };
	size_t size = files->kernel_size < sizeof(head) ? files->kernel_size : sizeof(head);
	struct setup_header header;

	int r = fd_read_at(files->kernel_fd, head.bytes, size, 0);
	if (r >= 0)
		r = write_reset_vector(map);
	if (r < 0)
		return log_err(r, "boot: reading '%s'", files->kernel_path);
	if (size >= sizeof(head.elf) && memcmp(head.bytes, ELFMAG, SELFMAG) == 0)
		return load_elf(files, map, layout, head.bytes, ret_entry);
	size_t at = offsetof(struct boot_params, hdr);
	if (size >= at + sizeof(header)) {
		memcpy(&header, head.bytes + at, sizeof(header));
		if (header.boot_flag == 0xaa55 && header.header == BZIMAGE_MAGIC)
			return load_bzimage(files, map, layout, &header, ret_entry);
	}
	return log_refuse(-EINVAL, "boot: '%s' is neither a bzImage nor an ELF kernel",
			  files->kernel_path);
}

void boot_set_registers(const struct boot_entry *entry, struct kvm_regs *regs,
			struct kvm_sregs *sregs)
{
	bool long_mode = entry->protocol == BOOT_LINUX_64;
	struct kvm_segment code = {
		.limit = 0xffffffff,
		.selector = BOOT_CS,
		.type = 11,
		.present = 1,
		.s = 1,
		.g = 1,
		.db = !long_mode,
		.l = long_mode,
	};
	struct kvm_segment data = code;

	data.selector = BOOT_DS;
	data.type = 3;
	data.db = 1;
	data.l = 0;
	sregs->cs = code;
	sregs->ds = sregs->es = sregs->fs = sregs->gs = sregs->ss = data;
	sregs->cr0 |= CR0_PE;
	*regs = (struct kvm_regs){ .rip = entry->address, .rflags = 2 };
	if (!long_mode) {
		regs->rbx = entry->info;
		regs->rax = entry->protocol == BOOT_MULTIBOOT ? MULTIBOOT_MAGIC : 0;
		return;
	}
	regs->rsi = entry->info;
	sregs->gdt.base = GDT_BASE;
	sregs->gdt.limit = 4 * 8 - 1;
	sregs->cr3 = PAGE_TABLE_BASE;
	sregs->cr4 |= CR4_PAE;
	sregs->cr0 |= CR0_PG;
	sregs->efer |= EFER_LME | EFER_LMA;
}
