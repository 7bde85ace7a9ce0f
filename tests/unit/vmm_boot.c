/* SPDX-License-Identifier: MIT */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include <sys/stat.h>

#include <asm/bootparam.h>
#include <linux/kvm.h>

#include "base/fd.h"

#include "memory/access.h"
#include "memory/map.h"
#include "memory/ram.h"
#include "tests/fakes/process.h"
#include "vmm/boot.h"

#define MIB (1ull << 20)
#define RAM_SIZE (64 * MIB)
#define KERNEL_AT (16 * MIB) /* where our bzImages like to be */

static struct ram ram;
static struct memory_map map;
static struct memory_region low;
static struct layout layout;
static struct boot_files files;
static struct boot_entry entry;
static char directory[64];
static char kernel_path[96];
static char initrd_path[96];
static unsigned int fds_before;

/* The image under construction, with what a test changes. */
static uint8_t image[256 * 1024];
static size_t image_size;

/* What is made present in one go, and the time that it fails; 0: it does not. */
static uint64_t nr_present; /* bytes */
static unsigned int populate_fails_at;

int __real_ram_populate(struct ram *of, uint64_t offset, uint64_t size);
int __wrap_ram_populate(struct ram *of, uint64_t offset, uint64_t size);
int __wrap_ram_populate(struct ram *of, uint64_t offset, uint64_t size)
{
	if (populate_fails_at > 0 && --populate_fails_at == 0)
		return -ENOMEM;
	nr_present += size;
	return __real_ram_populate(of, offset, size);
}

static void setup(void)
{
	process_keep_log();
	nr_present = 0;
	populate_fails_at = 0;
	(void)strcpy(directory, "/tmp/ballast-boot-XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(directory));
	(void)snprintf(kernel_path, sizeof(kernel_path), "%s/kernel", directory);
	(void)snprintf(initrd_path, sizeof(initrd_path), "%s/initrd", directory);
	ck_assert_int_eq(ram_init(&ram, RAM_SIZE, RAM_ANONYMOUS), 0);
	memory_map_init(&map);
	low = (struct memory_region){ .size = RAM_SIZE, .host = ram.host, .ram = &ram };
	ck_assert_int_eq(memory_map_add(&map, &low), 0);
	ck_assert_int_eq(layout_init(&layout, RAM_SIZE, 39), 0);
	fds_before = process_nr_fds();
}

static void teardown(void)
{
	boot_close(&files);
	ck_assert_uint_eq(process_nr_fds(), fds_before);
	memory_map_remove(&map, &low);
	ram_finish(&ram);
	(void)unlink(kernel_path);
	(void)unlink(initrd_path);
	(void)rmdir(directory);
}

static void write_file(const char *path, const void *bytes, size_t size)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(fd_write_at(fd, bytes, size, 0), 0);
	close(fd);
}

static void write_image(void)
{
	write_file(kernel_path, image, image_size);
}

static void write_initrd(size_t size)
{
	autofree uint8_t *bytes = malloc(size);

	ck_assert_ptr_nonnull(bytes);
	for (size_t i = 0; i < size; i++)
		bytes[i] = (uint8_t)(i * 13 + 5);
	write_file(initrd_path, bytes, size);
}

static int load_with(const char *initrd, const char *cmdline)
{
	boot_close(&files);
	ck_assert_int_eq(boot_open(&files, kernel_path, initrd, cmdline), 0);
	return boot_load(&files, &map, &layout, &entry);
}

static int load(void)
{
	write_image();
	return load_with(NULL, "console=ttyS0");
}

static void expect_refusal(int error, const char *part)
{
	ck_assert_int_eq(load(), error);
	process_expect_log(part);
}

static const void *guest(uint64_t gpa, uint64_t size)
{
	const void *p = memory_ptr(&map, gpa, size);

	ck_assert_ptr_nonnull(p);
	return p;
}

/* Opening. */

START_TEST(a_kernel_that_cannot_be_opened_is_named)
{
	char missing[128];
	char fifo[128];

	(void)snprintf(missing, sizeof(missing), "%s/none", directory);
	ck_assert_int_eq(boot_open(&files, missing, NULL, ""), -EINVAL);
	process_expect_log("none': No such file or directory");
	ck_assert_int_eq(boot_open(&files, directory, NULL, ""), -EINVAL);
	process_expect_log("is not a regular file");
	write_file(kernel_path, "", 0);
	ck_assert_int_eq(boot_open(&files, kernel_path, NULL, ""), -EINVAL);
	process_expect_log("is empty");
	(void)snprintf(fifo, sizeof(fifo), "%s/fifo", directory);
	ck_assert_int_eq(mkfifo(fifo, 0600), 0);
	ck_assert_int_eq(boot_open(&files, fifo, NULL, ""), -EINVAL);
	(void)unlink(fifo);
	process_expect_log("is not a regular file");
	ck_assert_uint_eq(process_nr_fds(), fds_before);
}
END_TEST

START_TEST(an_initrd_that_cannot_be_opened_is_named_and_the_kernel_closed)
{
	write_file(kernel_path, "x", 1);
	ck_assert_int_eq(boot_open(&files, kernel_path, initrd_path, ""), -EINVAL);
	process_expect_log("initrd '");
	ck_assert_uint_eq(process_nr_fds(), fds_before);
	boot_close(&files);
	files = (struct boot_files){ 0 };
	boot_close(&files); /* closes no fd 0 */
	ck_assert_uint_eq(process_nr_fds(), fds_before);
}
END_TEST

START_TEST(what_is_no_kernel_is_refused)
{
	static const size_t sizes[] = { 1, 4, 63, 64, 511, 512, 623, 4095, 4096, 100000 };

	memset(image, 0x5a, sizeof(image));
	for (unsigned int i = 0; i < nitems(sizes); i++) {
		image_size = sizes[i];
		expect_refusal(-EINVAL, "is neither a bzImage nor an ELF kernel");
	}
}
END_TEST

/* bzImage. */

static struct setup_header *header(void)
{
	return (void *)(image + offsetof(struct boot_params, hdr));
}

/* One setup sector after the boot sector, then 16 KiB of kernel. */
#define SETUP_SIZE 1024u
#define PAYLOAD_SIZE 16384u

static void build_bzimage(void)
{
	const struct setup_header good = {
		.setup_sects = 1,
		.syssize = PAYLOAD_SIZE / 16,
		.boot_flag = 0xaa55,
		.header = 0x53726448,
		.version = 0x020f,
		.loadflags = LOADED_HIGH,
		.initrd_addr_max = 0x7fffffff,
		.kernel_alignment = 2 * MIB,
		.relocatable_kernel = 1,
		.xloadflags = XLF_KERNEL_64,
		.cmdline_size = 2047,
		.pref_address = KERNEL_AT,
		.init_size = MIB,
	};

	memset(image, 0, sizeof(image));
	memcpy(header(), &good, sizeof(good));
	for (size_t i = 0; i < PAYLOAD_SIZE; i++)
		image[SETUP_SIZE + i] = (uint8_t)(i * 7 + 1);
	image_size = SETUP_SIZE + PAYLOAD_SIZE;
}

static struct boot_params zero_page(void)
{
	struct boot_params params;

	ck_assert_int_eq(memory_read(&map, entry.info, &params, sizeof(params)), 0);
	return params;
}

START_TEST(a_bzimage_goes_where_it_prefers)
{
	build_bzimage();
	ck_assert_int_eq(load(), 0);
	process_expect_no_log();
	ck_assert_int_eq(entry.protocol, BOOT_LINUX_64);
	ck_assert_uint_eq(entry.address, KERNEL_AT + 0x200);
	ck_assert(entry.linux_guest);
	ck_assert_mem_eq(guest(KERNEL_AT, PAYLOAD_SIZE), image + SETUP_SIZE, PAYLOAD_SIZE);
}
END_TEST

START_TEST(the_zero_page_has_the_header_and_what_we_fill_in)
{
	build_bzimage();
	ck_assert_int_eq(load(), 0);
	struct boot_params params = zero_page();
	ck_assert_uint_eq(params.hdr.header, 0x53726448);
	ck_assert_uint_eq(params.hdr.version, 0x020f);
	ck_assert_uint_eq(params.hdr.init_size, MIB);
	ck_assert_uint_eq(params.hdr.type_of_loader, 0xff);
	ck_assert_uint_eq(params.acpi_rsdp_addr, LAYOUT_ACPI_BASE);
	ck_assert_uint_eq(params.hdr.ramdisk_image, 0);
	ck_assert_uint_eq(params.hdr.ramdisk_size, 0);
	ck_assert_str_eq(guest(params.hdr.cmd_line_ptr, 14), "console=ttyS0");
}
END_TEST

/* Ascending, not overlapping; RAM is exactly what the layout has, less the holes. */
static void check_memory_map(const struct boot_params *params)
{
	uint64_t end = 0;
	bool has_high = false;

	for (unsigned int i = 0; i < params->e820_entries; i++) {
		const struct boot_e820_entry *e = &params->e820_table[i];
		ck_assert_uint_ge(e->addr, end);
		ck_assert_uint_gt(e->size, 0);
		end = e->addr + e->size;
		if (e->addr == LAYOUT_HIGH_BASE) {
			has_high = true;
			ck_assert_uint_eq(e->size, layout.high_size);
		}
		if (e->addr == LAYOUT_KERNEL_BASE)
			ck_assert_uint_eq(end, layout.low_size);
		bool is_ram = e->addr == 0 || e->addr == LAYOUT_KERNEL_BASE ||
			      e->addr == LAYOUT_HIGH_BASE;
		ck_assert_uint_eq(e->type, is_ram ? 1 : 2);
	}
	ck_assert(has_high == (layout.high_size > 0));
}

START_TEST(the_memory_map_is_that_of_the_layout)
{
	build_bzimage();
	ck_assert_int_eq(load(), 0);
	struct boot_params params = zero_page();
	ck_assert_uint_eq(params.e820_entries, 4);
	check_memory_map(&params);
	layout.high_size = 3ull << 30;
	ck_assert_int_eq(load(), 0);
	params = zero_page();
	ck_assert_uint_eq(params.e820_entries, 5);
	check_memory_map(&params);
}
END_TEST

START_TEST(a_relocatable_kernel_goes_low_when_ram_is_short)
{
	build_bzimage();
	header()->pref_address = RAM_SIZE - MIB / 2;
	ck_assert_int_eq(load(), 0);
	ck_assert_uint_eq(entry.address, 2 * MIB + 0x200); /* aligned as it asks */
	header()->pref_address = 1ull << 40;
	ck_assert_int_eq(load(), 0);
	header()->pref_address = UINT64_MAX;
	ck_assert_int_eq(load(), 0);
	ck_assert_uint_eq(entry.address, 2 * MIB + 0x200);
}
END_TEST

START_TEST(one_that_is_not_relocatable_needs_its_place)
{
	build_bzimage();
	header()->relocatable_kernel = 0;
	header()->pref_address = RAM_SIZE;
	expect_refusal(-E2BIG, "there are 64 MiB; give more --memory");
	header()->pref_address = RAM_SIZE - MIB;
	ck_assert_int_eq(load(), 0);
}
END_TEST

START_TEST(a_kernel_needs_its_init_size)
{
	build_bzimage();
	header()->init_size = (uint32_t)(RAM_SIZE - 2 * MIB);
	ck_assert_int_eq(load(), 0);
	header()->init_size++;
	expect_refusal(-E2BIG, "there are 64 MiB; give more --memory");
	header()->init_size = 0xffffffff;
	expect_refusal(-E2BIG, "there are 64 MiB; give more --memory");
}
END_TEST

START_TEST(a_damaged_place_is_refused)
{
	build_bzimage();
	header()->pref_address = 0x1000; /* where the boot data is */
	expect_refusal(-EINVAL, "has a damaged header");
	build_bzimage();
	header()->init_size = 0;
	expect_refusal(-EINVAL, "has a damaged header");
	build_bzimage();
	header()->relocatable_kernel = 0;
	header()->pref_address = UINT64_MAX - 5;
	expect_refusal(-EINVAL, "has a damaged header");
	build_bzimage();
	header()->pref_address = RAM_SIZE;
	header()->kernel_alignment = 3; /* no power of two */
	expect_refusal(-E2BIG, "give more --memory");
	header()->kernel_alignment = 0;
	expect_refusal(-E2BIG, "give more --memory");
	header()->kernel_alignment = 1u << 31;
	expect_refusal(-E2BIG, "give more --memory");
}
END_TEST

START_TEST(a_kernel_without_64_bit_entry_is_refused)
{
	build_bzimage();
	header()->xloadflags = 0;
	expect_refusal(-EINVAL, "has no 64-bit entry (boot protocol 2.15)");
	build_bzimage();
	header()->version = 0x020b;
	expect_refusal(-EINVAL, "has no 64-bit entry (boot protocol 2.11)");
}
END_TEST

START_TEST(a_wrong_magic_is_no_bzimage)
{
	build_bzimage();
	header()->boot_flag = 0;
	expect_refusal(-EINVAL, "is neither a bzImage nor an ELF kernel");
	build_bzimage();
	header()->header++;
	expect_refusal(-EINVAL, "is neither a bzImage nor an ELF kernel");
}
END_TEST

START_TEST(a_truncated_kernel_is_refused)
{
	build_bzimage();
	image_size -= 16;
	expect_refusal(-EINVAL, "is truncated: 17392 of 17408 bytes");
	image_size = SETUP_SIZE;
	expect_refusal(-EINVAL, "is truncated");
	header()->syssize = 0xffffffff;
	image_size = SETUP_SIZE + PAYLOAD_SIZE;
	expect_refusal(-EINVAL, "is truncated");
}
END_TEST

START_TEST(a_kernel_that_ends_within_its_setup_is_truncated)
{
	build_bzimage();
	header()->syssize = 0;
	for (image_size = SETUP_SIZE - 20; image_size < SETUP_SIZE; image_size++)
		expect_refusal(-EINVAL, "is truncated");
	header()->setup_sects = 255;
	expect_refusal(-EINVAL, "is truncated");
}
END_TEST

START_TEST(no_setup_sectors_mean_four)
{
	build_bzimage();
	header()->setup_sects = 0;
	memset(image + 5 * 512, 0x77, 512);
	ck_assert_int_eq(load(), -EINVAL); /* 4 KiB less of a kernel */
	process_expect_log("is truncated");
	image_size += 3 * 512;
	ck_assert_int_eq(load(), 0);
	ck_assert_mem_eq(guest(KERNEL_AT, 512), image + 5 * 512, 512);
}
END_TEST

START_TEST(what_follows_the_kernel_is_loaded_with_it_if_it_fits)
{
	build_bzimage();
	header()->pref_address = RAM_SIZE - 2 * MIB;
	image_size += 8192; /* a signature */
	memset(image + image_size - 8192, 0x99, 8192);
	ck_assert_int_eq(load(), 0);
	ck_assert_mem_eq(guest(RAM_SIZE - 2 * MIB + PAYLOAD_SIZE, 8192),
			 image + image_size - 8192, 8192);
	header()->init_size = 8192;
	header()->relocatable_kernel = 0;
	header()->pref_address = RAM_SIZE - 8192;
	expect_refusal(-E2BIG, "does not fit into RAM; give more --memory");
}
END_TEST

START_TEST(long_mode_tables_map_the_first_4_gib_one_to_one)
{
	struct kvm_regs regs;
	struct kvm_sregs sregs = { 0 };

	build_bzimage();
	ck_assert_int_eq(load(), 0);
	boot_set_registers(&entry, &regs, &sregs);
	const uint64_t *pml4 = guest(sregs.cr3, 4096);
	const uint64_t *pdpt = guest(pml4[0] & ~0xfffull, 4096);
	ck_assert_uint_eq(pml4[0] & 0xfff, 3);
	ck_assert_uint_eq(pml4[1], 0);
	for (uint64_t i = 0; i < 4; i++) {
		const uint64_t *pd = guest(pdpt[i] & ~0xfffull, 4096);
		for (uint64_t k = 0; k < 512; k += 37)
			ck_assert_uint_eq(pd[k], (i << 30 | k << 21) | 0x83);
	}
	ck_assert_uint_eq(pdpt[4], 0);
	const uint64_t *gdt = guest(sregs.gdt.base, 32);
	ck_assert_uint_eq(gdt[sregs.cs.selector / 8] >> 53 & 1, 1); /* long mode code */
	ck_assert_uint_eq(gdt[sregs.ds.selector / 8] >> 43 & 1, 0); /* data */
}
END_TEST

/* initrd. */

START_TEST(the_initrd_lies_at_the_top_of_low_ram)
{
	build_bzimage();
	write_image();
	write_initrd(10000);
	ck_assert_int_eq(load_with(initrd_path, ""), 0);
	struct boot_params params = zero_page();
	ck_assert_uint_eq(params.hdr.ramdisk_size, 10000);
	ck_assert_uint_eq(params.hdr.ramdisk_image, RAM_SIZE - 12288);
	const uint8_t *bytes = guest(params.hdr.ramdisk_image, 10000);
	ck_assert_uint_eq(bytes[0], 5);
	ck_assert_uint_eq(bytes[9999], (uint8_t)(9999 * 13 + 5));
}
END_TEST

START_TEST(the_initrd_stays_below_what_the_kernel_can_reach)
{
	build_bzimage();
	header()->initrd_addr_max = 32 * MIB - 1;
	write_image();
	write_initrd(4096);
	ck_assert_int_eq(load_with(initrd_path, ""), 0);
	ck_assert_uint_eq(zero_page().hdr.ramdisk_image, 32 * MIB - 4096);
}
END_TEST

START_TEST(an_initrd_may_fill_all_that_the_kernel_leaves_and_no_more)
{
	uint64_t room = RAM_SIZE - (KERNEL_AT + MIB);

	build_bzimage();
	write_image();
	write_initrd(room);
	ck_assert_int_eq(load_with(initrd_path, ""), 0);
	ck_assert_uint_eq(zero_page().hdr.ramdisk_image, KERNEL_AT + MIB);
	write_initrd(room + 1);
	ck_assert_int_eq(load_with(initrd_path, ""), -E2BIG);
	process_expect_log("does not fit: 65536 KiB of RAM below 0x4000000");
}
END_TEST

START_TEST(an_initrd_larger_than_ram_is_refused)
{
	build_bzimage();
	write_image();
	write_initrd(1);
	ck_assert_int_eq(truncate(initrd_path, (off_t)(1ull << 40)), 0);
	ck_assert_int_eq(load_with(initrd_path, ""), -E2BIG);
	process_expect_log("give more --memory or a smaller initrd");
	header()->initrd_addr_max = 0x1000;
	write_image();
	write_initrd(8192);
	ck_assert_int_eq(load_with(initrd_path, ""), -E2BIG);
}
END_TEST

/* Command line. */

static int load_with_cmdline(size_t size)
{
	static char cmdline[70000];

	memset(cmdline, 'c', size);
	cmdline[size] = '\0';
	return load_with(NULL, cmdline);
}

START_TEST(a_command_line_may_be_as_long_as_the_kernel_says)
{
	build_bzimage();
	write_image();
	ck_assert_int_eq(load_with_cmdline(2047), 0);
	ck_assert_uint_eq(strlen(guest(zero_page().hdr.cmd_line_ptr, 2048)), 2047);
	ck_assert_int_eq(load_with_cmdline(2048), -E2BIG);
	process_expect_log("--cmdline of 2048 bytes; this kernel takes 2047");
	ck_assert_int_eq(load_with_cmdline(0), 0);
	ck_assert_str_eq(guest(zero_page().hdr.cmd_line_ptr, 1), "");
}
END_TEST

START_TEST(no_command_line_reaches_beyond_its_64_kib)
{
	build_bzimage();
	header()->cmdline_size = 0xffffffff;
	write_image();
	ck_assert_int_eq(load_with_cmdline(65535), 0);
	ck_assert_int_eq(load_with_cmdline(65536), -E2BIG);
	process_expect_log("this kernel takes 65535");
}
END_TEST

/* ELF with PVH notes. */

#define ENTRY 0x1000200u
#define TEXT_OFFSET 0x2000u
#define TEXT_SIZE 0x1000u
#define NOTES_OFFSET 0x1000u

static Elf64_Ehdr *elf(void)
{
	return (void *)image;
}

static Elf64_Phdr *segment(unsigned int i)
{
	return (Elf64_Phdr *)(void *)(image + sizeof(Elf64_Ehdr)) + i;
}

static size_t notes_size;

/* Padded to a multiple of 4. */
static void append_note_bytes(const void *bytes, size_t size)
{
	size_t at = NOTES_OFFSET + notes_size;

	ck_assert_uint_lt(at + size, TEXT_OFFSET);
	if (size > 0)
		memcpy(image + at, bytes, size);
	notes_size += (size + 3) & ~(size_t)3;
}

/* Appends a note; sizes as given, whatever the strings are. */
static void add_note(uint32_t type, const char *name, uint32_t name_size, const void *desc,
		     uint32_t desc_size)
{
	const Elf64_Nhdr n = { name_size, desc_size, type };

	append_note_bytes(&n, sizeof(n));
	append_note_bytes(name, name_size);
	append_note_bytes(desc, desc_size);
	segment(1)->p_filesz = notes_size;
}

static void add_entry_note(uint32_t entry_address)
{
	add_note(18, "Xen", 4, &entry_address, 4);
}

/* A text segment of 4 KiB in the file, 8 KiB in memory; an empty notes segment. */
static void build_elf(void)
{
	memset(image, 0, sizeof(image));
	notes_size = 0;
	memcpy(elf()->e_ident, ELFMAG, SELFMAG);
	elf()->e_ident[EI_CLASS] = ELFCLASS64;
	elf()->e_machine = EM_X86_64;
	elf()->e_phoff = sizeof(Elf64_Ehdr);
	elf()->e_phentsize = sizeof(Elf64_Phdr);
	elf()->e_phnum = 2;
	*segment(0) = (Elf64_Phdr){
		.p_type = PT_LOAD,
		.p_offset = TEXT_OFFSET,
		.p_paddr = KERNEL_AT,
		.p_filesz = TEXT_SIZE,
		.p_memsz = 2 * TEXT_SIZE,
	};
	*segment(1) = (Elf64_Phdr){ .p_type = PT_NOTE, .p_offset = NOTES_OFFSET };
	memset(image + TEXT_OFFSET, 0xcc, TEXT_SIZE);
	image_size = TEXT_OFFSET + TEXT_SIZE;
}

static void build_good_elf(void)
{
	build_elf();
	add_entry_note(ENTRY);
}

START_TEST(an_elf_kernel_starts_at_its_pvh_entry)
{
	build_good_elf();
	ck_assert_int_eq(load(), 0);
	process_expect_no_log();
	ck_assert_int_eq(entry.protocol, BOOT_PVH);
	ck_assert_uint_eq(entry.address, ENTRY);
	ck_assert(!entry.linux_guest);
}
END_TEST

START_TEST(segments_are_loaded_and_the_rest_of_them_is_zeroed)
{
	build_good_elf();
	ck_assert_ptr_nonnull(
		memset(memory_ptr(&map, KERNEL_AT, 3 * TEXT_SIZE), 0x11, 3 * TEXT_SIZE));
	ck_assert_int_eq(load(), 0);
	const uint8_t *bytes = guest(KERNEL_AT, 3 * TEXT_SIZE);
	ck_assert_uint_eq(bytes[0], 0xcc);
	ck_assert_uint_eq(bytes[TEXT_SIZE - 1], 0xcc);
	ck_assert_uint_eq(bytes[TEXT_SIZE], 0);
	ck_assert_uint_eq(bytes[2 * TEXT_SIZE - 1], 0);
	ck_assert_uint_eq(bytes[2 * TEXT_SIZE], 0x11);
}
END_TEST

/* The kernel's segment begins and ends within a page, and there is an initrd. */
START_TEST(what_is_read_into_is_made_present_first)
{
	build_good_elf();
	segment(0)->p_paddr += 0x800;
	write_image();
	write_initrd(10000);
	ck_assert_int_eq(load_with(initrd_path, ""), 0);
	ck_assert_uint_eq(nr_present, 2 * 4096 + 3 * 4096);
	for (unsigned int n = 1; n <= 2; n++) {
		populate_fails_at = n;
		ck_assert_int_eq(load_with(initrd_path, ""), -ENOMEM);
		process_expect_log(n == 1 ? "E boot: memory for '" : initrd_path);
	}
}
END_TEST

START_TEST(a_segment_without_bytes_in_the_file_is_all_zeros)
{
	build_good_elf();
	segment(0)->p_filesz = 0;
	memset(memory_ptr(&map, KERNEL_AT, TEXT_SIZE), 0x11, TEXT_SIZE);
	ck_assert_int_eq(load(), 0);
	ck_assert_uint_eq(*(const uint8_t *)guest(KERNEL_AT, 1), 0);
	segment(0)->p_memsz = 0;
	segment(0)->p_paddr = 0; /* nothing to place */
	ck_assert_int_eq(load(), 0);
}
END_TEST

START_TEST(a_linux_says_so_in_its_notes)
{
	build_elf();
	add_note(6, "Xen", 4, "linux", 6);
	add_note(1, "GNU", 4, "xxxx", 4);
	add_note(18, "Xen", 4, &(uint64_t){ ENTRY }, 8);
	ck_assert_int_eq(load(), 0);
	ck_assert(entry.linux_guest);
	ck_assert_uint_eq(entry.address, ENTRY);
	build_good_elf();
	add_note(6, "Xen", 4, "netbsd", 7);
	ck_assert_int_eq(load(), 0);
	ck_assert(!entry.linux_guest);
	build_good_elf();
	add_note(6, "Xen", 4, "linu", 4);
	ck_assert_int_eq(load(), 0);
	ck_assert(!entry.linux_guest);
}
END_TEST

START_TEST(without_an_entry_note_it_is_refused_with_the_remedy)
{
	build_elf();
	expect_refusal(-EINVAL,
		       "with neither a PVH entry note nor a multiboot header; build it "
		       "with CONFIG_PVH=y");
	add_note(18, "GNU", 4, &(uint32_t){ ENTRY }, 4); /* of somebody else */
	add_note(18, "XenX", 4, &(uint32_t){ ENTRY }, 4);
	add_note(18, "Xen", 3, &(uint32_t){ ENTRY }, 4);
	add_note(18, "Xen", 4, &(uint32_t){ ENTRY }, 3);
	add_note(18, "Xen", 4, "", 0);
	expect_refusal(-EINVAL, "neither a PVH entry note nor a multiboot header");
	elf()->e_phnum = 0;
	expect_refusal(-EINVAL, "neither a PVH entry note nor a multiboot header");
}
END_TEST

START_TEST(damaged_notes_end_the_search_and_harm_nobody)
{
	static const Elf64_Nhdr damaged[] = {
		{ 0xffffffff, 4, 18 }, { 4, 0xffffffff, 18 }, { 0xffffffff, 0xffffffff, 18 },
		{ 0xfffffffd, 8, 18 }, { 4, 1000, 18 },       { 1000, 4, 18 },
	};

	for (unsigned int i = 0; i < nitems(damaged); i++) {
		build_elf();
		memcpy(image + NOTES_OFFSET, &damaged[i], sizeof(damaged[i]));
		memcpy(image + NOTES_OFFSET + sizeof(damaged[i]), "Xen", 4);
		segment(1)->p_filesz = 40;
		expect_refusal(-EINVAL, "neither a PVH entry note nor a multiboot header");
	}
	build_good_elf(); /* what came before the damage counts */
	memset(image + NOTES_OFFSET + notes_size, 0xff, 12);
	segment(1)->p_filesz = notes_size + 12;
	ck_assert_int_eq(load(), 0);
}
END_TEST

START_TEST(notes_cut_off_anywhere_harm_nobody)
{
	build_good_elf();
	for (uint64_t size = 0; size < notes_size; size++) {
		segment(1)->p_filesz = size;
		expect_refusal(-EINVAL, "neither a PVH entry note nor a multiboot header");
	}
}
END_TEST

START_TEST(notes_of_absurd_size_are_not_ours)
{
	build_good_elf();
	segment(1)->p_filesz = 65537;
	expect_refusal(-EINVAL, "neither a PVH entry note nor a multiboot header");
	segment(1)->p_filesz = UINT64_MAX;
	expect_refusal(-EINVAL, "neither a PVH entry note nor a multiboot header");
	segment(1)->p_filesz = 65536; /* of which the file has 8 KiB */
	expect_refusal(-EINVAL, "is truncated");
	segment(1)->p_filesz = 20;
	segment(1)->p_offset = UINT64_MAX - 4;
	expect_refusal(-EINVAL, "is truncated");
}
END_TEST

START_TEST(an_elf_for_another_machine_is_refused)
{
	build_good_elf();
	elf()->e_machine = EM_AARCH64;
	expect_refusal(-EINVAL, "is ELF, but not for x86");
	build_good_elf();
	elf()->e_ident[EI_CLASS] = ELFCLASS32;
	expect_refusal(-EINVAL, "is ELF, but not for x86");
	build_good_elf();
	elf()->e_phentsize = 32;
	expect_refusal(-EINVAL, "is ELF, but not for x86");
}
END_TEST

START_TEST(a_segment_outside_of_low_ram_is_refused)
{
	build_good_elf();
	segment(0)->p_paddr = 0x1000;
	expect_refusal(-EINVAL, "has a segment at 0x1000; they must lie at 1 MiB or above");
	segment(0)->p_paddr = UINT64_MAX - 0x1000;
	expect_refusal(-EINVAL, "has a segment at 0xffffffffffffefff");
	segment(0)->p_paddr = RAM_SIZE - TEXT_SIZE;
	expect_refusal(-E2BIG, "low RAM ends at 0x4000000; give more --memory");
	segment(0)->p_paddr = RAM_SIZE;
	expect_refusal(-E2BIG, "give more --memory");
	segment(0)->p_paddr = KERNEL_AT;
	segment(0)->p_memsz = TEXT_SIZE - 1; /* less than the file has */
	expect_refusal(-EINVAL, "has a segment at");
	segment(0)->p_memsz = UINT64_MAX;
	expect_refusal(-EINVAL, "has a segment at");
}
END_TEST

/* Each of them is within RAM; one more than there can be side by side is one too many. */
START_TEST(segments_larger_than_ram_together_are_refused)
{
	build_good_elf();
	elf()->e_phnum = 4;
	for (unsigned int i = 2; i < 4; i++)
		*segment(i) = (Elf64_Phdr){
			.p_type = PT_LOAD,
			.p_paddr = RAM_SIZE / 2,
			.p_memsz = RAM_SIZE / 2 - i * TEXT_SIZE,
		};
	ck_assert_int_eq(load(), 0);
	segment(3)->p_memsz = RAM_SIZE / 2;
	ck_assert_int_eq(load(), 0);
	segment(2)->p_memsz += TEXT_SIZE;
	expect_refusal(-EINVAL, "has segments that overlap");
}
END_TEST

START_TEST(a_truncated_elf_is_refused)
{
	build_good_elf();
	image_size = TEXT_OFFSET + TEXT_SIZE - 1;
	expect_refusal(-EINVAL, "is truncated");
	image_size = sizeof(Elf64_Ehdr) + 8;
	expect_refusal(-EINVAL, "is truncated");
	build_good_elf();
	elf()->e_phoff = UINT64_MAX - 8;
	expect_refusal(-EINVAL, "is truncated");
	elf()->e_phoff = 1ull << 40;
	expect_refusal(-EINVAL, "is truncated");
	build_good_elf();
	segment(0)->p_offset = 1ull << 40;
	expect_refusal(-EINVAL, "is truncated");
}
END_TEST

/* The PVH start info, by the ABI's offsets. */
static uint64_t info_at(unsigned int offset, unsigned int size)
{
	uint64_t value = 0;

	ck_assert_int_eq(memory_read(&map, entry.info + offset, &value, size), 0);
	return value;
}

START_TEST(the_start_info_names_everything)
{
	build_good_elf();
	write_image();
	write_initrd(5000);
	ck_assert_int_eq(load_with(initrd_path, "root=/dev/ram"), 0);
	ck_assert_uint_eq(info_at(0, 4), 0x336ec578);
	ck_assert_uint_eq(info_at(4, 4), 1);
	ck_assert_uint_eq(info_at(12, 4), 1); /* modules */
	ck_assert_str_eq(guest(info_at(24, 8), 14), "root=/dev/ram");
	ck_assert_uint_eq(info_at(32, 8), LAYOUT_ACPI_BASE);
	ck_assert_uint_eq(info_at(48, 4), 4);
	const uint64_t *module = guest(info_at(16, 8), 32);
	ck_assert_uint_eq(module[0], RAM_SIZE - 8192);
	ck_assert_uint_eq(module[1], 5000);
	ck_assert_uint_eq(*(const uint8_t *)guest(module[0], 1), 5);
	const uint64_t *first = guest(info_at(40, 8), 24);
	ck_assert_uint_eq(first[0], 0);
	ck_assert_uint_eq(first[1], 0xa0000);
	ck_assert_uint_eq(first[2], 1);
}
END_TEST

START_TEST(without_an_initrd_there_is_no_module)
{
	build_good_elf();
	ck_assert_int_eq(load(), 0);
	ck_assert_uint_eq(info_at(12, 4), 0);
	ck_assert_uint_eq(info_at(16, 8), 0);
}
END_TEST

START_TEST(loading_again_gives_the_guest_a_fresh_kernel)
{
	build_bzimage();
	write_image();
	ck_assert_int_eq(load_with(NULL, "a"), 0);
	memset(memory_ptr(&map, KERNEL_AT, PAYLOAD_SIZE), 0, PAYLOAD_SIZE);
	ck_assert_int_eq(boot_load(&files, &map, &layout, &entry), 0);
	ck_assert_mem_eq(guest(KERNEL_AT, PAYLOAD_SIZE), image + SETUP_SIZE, PAYLOAD_SIZE);
}
END_TEST

/* Multiboot. */

#define MULTIBOOT_AT 0x120u

static uint32_t *multiboot_header(void)
{
	return (uint32_t *)(void *)(image + MULTIBOOT_AT);
}

static void set_multiboot(uint32_t flags)
{
	multiboot_header()[0] = 0x1badb002;
	multiboot_header()[1] = flags;
	multiboot_header()[2] = 0u - 0x1badb002 - flags;
}

/* As build_elf(), of 32 bits, linked 3 GiB above where it is loaded. */
static void build_narrow_elf(void)
{
	const Elf32_Ehdr eh = {
		.e_ident = { 0x7f, 'E', 'L', 'F', ELFCLASS32 },
		.e_machine = EM_386,
		.e_entry = 0xc1000040,
		.e_phoff = sizeof(eh),
		.e_phentsize = sizeof(Elf32_Phdr),
		.e_phnum = 1,
	};
	const Elf32_Phdr ph = {
		.p_type = PT_LOAD,
		.p_offset = TEXT_OFFSET,
		.p_vaddr = 0xc1000000,
		.p_paddr = KERNEL_AT,
		.p_filesz = TEXT_SIZE,
		.p_memsz = 2 * TEXT_SIZE,
	};

	memset(image, 0, sizeof(image));
	memcpy(image, &eh, sizeof(eh));
	memcpy(image + sizeof(eh), &ph, sizeof(ph));
	memset(image + TEXT_OFFSET, 0xcc, TEXT_SIZE);
	image_size = TEXT_OFFSET + TEXT_SIZE;
	set_multiboot(0);
}

START_TEST(a_multiboot_kernel_of_32_bits_starts_at_its_entry)
{
	build_narrow_elf();
	ck_assert_int_eq(load(), 0);
	process_expect_no_log();
	ck_assert_int_eq(entry.protocol, BOOT_MULTIBOOT);
	ck_assert_uint_eq(entry.address, KERNEL_AT + 0x40);
	ck_assert_uint_eq(*(const uint8_t *)guest(KERNEL_AT + TEXT_SIZE - 1, 1), 0xcc);
	ck_assert_uint_eq(*(const uint8_t *)guest(KERNEL_AT + TEXT_SIZE, 1), 0);
	ck_assert(!entry.linux_guest);
}
END_TEST

START_TEST(a_multiboot_kernel_of_64_bits_does_as_well_unless_it_has_pvh)
{
	build_elf();
	segment(0)->p_vaddr = KERNEL_AT;
	elf()->e_entry = KERNEL_AT + 0x80;
	set_multiboot(3);
	ck_assert_int_eq(load(), 0);
	ck_assert_int_eq(entry.protocol, BOOT_MULTIBOOT);
	ck_assert_uint_eq(entry.address, KERNEL_AT + 0x80);
	add_entry_note(ENTRY);
	ck_assert_int_eq(load(), 0);
	ck_assert_int_eq(entry.protocol, BOOT_PVH);
	ck_assert_uint_eq(entry.address, ENTRY);
}
END_TEST

START_TEST(multiboot_information_names_everything)
{
	char expected[128];

	layout.high_size = 3ull << 30;
	build_narrow_elf();
	write_image();
	write_initrd(5000);
	ck_assert_int_eq(load_with(initrd_path, "smp=2"), 0);
	ck_assert_uint_eq(info_at(0, 4), 0x24d);
	ck_assert_uint_eq(info_at(4, 4), 640);
	ck_assert_uint_eq(info_at(8, 4), 63 * 1024);
	(void)snprintf(expected, sizeof(expected), "%s smp=2", kernel_path);
	ck_assert_str_eq(guest(info_at(16, 4), strlen(expected) + 1), expected);
	ck_assert_uint_eq(info_at(20, 4), 1);
	const uint32_t *module = guest(info_at(24, 4), 16);
	ck_assert_uint_eq(module[0], RAM_SIZE - 8192);
	ck_assert_uint_eq(module[1], RAM_SIZE - 8192 + 5000);
	ck_assert_str_eq(guest(info_at(64, 4), 8), "ballast");
	ck_assert_uint_eq(info_at(44, 4), 5 * 24);
	const uint32_t *memory = guest(info_at(48, 4), 5 * 24);
	ck_assert_uint_eq(memory[0], 20);
	ck_assert_uint_eq(memory[3], 0xa0000);
	ck_assert_uint_eq(memory[5], 1);
	ck_assert_uint_eq(memory[4 * 6 + 2], 1); /* at 4 GiB */
	ck_assert_uint_eq(memory[4 * 6 + 3], 3u << 30);
	ck_assert_int_eq(load_with(NULL, ""), 0);
	ck_assert_uint_eq(info_at(20, 4), 0);
	ck_assert_str_eq(guest(info_at(16, 4), strlen(kernel_path) + 1), kernel_path);
}
END_TEST

START_TEST(what_multiboot_asks_for_and_is_not_there_is_refused)
{
	build_narrow_elf();
	set_multiboot(0x10003); /* optional: that of a.out, which ELF does not need */
	ck_assert_int_eq(load(), 0);
	set_multiboot(4);
	expect_refusal(-EINVAL, "wants more of multiboot than there is (flags 0x4)");
	set_multiboot(0x8003);
	expect_refusal(-EINVAL, "(flags 0x8003)");
	set_multiboot(0);
	multiboot_header()[2]++;
	expect_refusal(-EINVAL, "neither a PVH entry note nor a multiboot header");
	build_narrow_elf();
	((Elf32_Ehdr *)(void *)image)->e_entry = 0xc1002000; /* where its segment ends */
	expect_refusal(-EINVAL, "has an entry that is in none of its segments");
	build_narrow_elf();
	((Elf32_Ehdr *)(void *)image)->e_phnum = 0;
	expect_refusal(-EINVAL, "has an entry that is in none of its segments");
	build_narrow_elf();
	((Elf32_Ehdr *)(void *)image)->e_phoff = 0xfffffff0;
	expect_refusal(-EINVAL, "is truncated");
}
END_TEST

START_TEST(a_multiboot_header_is_found_in_the_first_8_kib_only)
{
	static const struct {
		unsigned int offset;
		bool found;
	} cases[] = {
		{ 0x124, true }, { 8192 - 12, true }, { 8192 - 8, false }, { 0x122, false }
	};

	for (unsigned int i = 0; i < nitems(cases); i++) {
		uint32_t header_words[3];
		build_narrow_elf();
		memcpy(header_words, multiboot_header(), sizeof(header_words));
		memset(multiboot_header(), 0, sizeof(header_words));
		memcpy(image + cases[i].offset, header_words, sizeof(header_words));
		if (cases[i].found)
			ck_assert_int_eq(load(), 0);
		else
			expect_refusal(-EINVAL, "nor a multiboot header");
	}
}
END_TEST

/* Registers. */

START_TEST(a_multiboot_kernel_is_told_by_its_magic)
{
	const struct boot_entry at = { BOOT_MULTIBOOT, 0x100040, 0x6000, false };
	struct kvm_regs regs = { 0 };
	struct kvm_sregs sregs = { 0 };

	boot_set_registers(&at, &regs, &sregs);
	ck_assert_uint_eq(regs.rip, 0x100040);
	ck_assert_uint_eq(regs.rax, 0x2badb002);
	ck_assert_uint_eq(regs.rbx, 0x6000);
	ck_assert_uint_eq(regs.rflags, 2);
	ck_assert_uint_eq(sregs.cr0, 1);
	ck_assert_uint_eq(sregs.efer, 0);
	ck_assert_uint_eq(sregs.cs.db, 1);
	ck_assert_uint_eq(sregs.ds.limit, 0xffffffff);
}
END_TEST

START_TEST(a_bzimage_starts_in_long_mode)
{
	const struct boot_entry at = { BOOT_LINUX_64, 0x1000200, 0x7000, true };
	struct kvm_regs regs = { .rax = 1 };
	struct kvm_sregs sregs = { .cr0 = 0x60000010 };

	boot_set_registers(&at, &regs, &sregs);
	ck_assert_uint_eq(regs.rip, 0x1000200);
	ck_assert_uint_eq(regs.rsi, 0x7000);
	ck_assert_uint_eq(regs.rflags, 2);
	ck_assert_uint_eq(regs.rax, 0);
	ck_assert_uint_eq(sregs.cr0, 0xe0000011);
	ck_assert_uint_eq(sregs.cr4, 0x20);
	ck_assert_uint_eq(sregs.efer, 0x500);
	ck_assert_uint_eq(sregs.cs.l, 1);
	ck_assert_uint_eq(sregs.cs.db, 0);
	ck_assert_uint_eq(sregs.ss.type, 3);
}
END_TEST

START_TEST(a_pvh_kernel_starts_in_32_bit_mode_without_paging)
{
	const struct boot_entry at = { BOOT_PVH, 0x1000200, 0x6000, false };
	struct kvm_regs regs = { 0 };
	struct kvm_sregs sregs = { 0 };

	boot_set_registers(&at, &regs, &sregs);
	ck_assert_uint_eq(regs.rip, 0x1000200);
	ck_assert_uint_eq(regs.rbx, 0x6000);
	ck_assert_uint_eq(sregs.cr0, 1);
	ck_assert_uint_eq(sregs.cr4, 0);
	ck_assert_uint_eq(sregs.efer, 0);
	ck_assert_uint_eq(sregs.cs.l, 0);
	ck_assert_uint_eq(sregs.cs.db, 1);
	ck_assert_uint_eq(sregs.cs.limit, 0xffffffff);
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		a_kernel_that_cannot_be_opened_is_named,
		an_initrd_that_cannot_be_opened_is_named_and_the_kernel_closed,
		what_is_no_kernel_is_refused,
		a_bzimage_goes_where_it_prefers,
		the_zero_page_has_the_header_and_what_we_fill_in,
		the_memory_map_is_that_of_the_layout,
		a_relocatable_kernel_goes_low_when_ram_is_short,
		one_that_is_not_relocatable_needs_its_place,
		a_kernel_needs_its_init_size,
		a_damaged_place_is_refused,
		a_kernel_without_64_bit_entry_is_refused,
		a_wrong_magic_is_no_bzimage,
		a_truncated_kernel_is_refused,
		a_kernel_that_ends_within_its_setup_is_truncated,
		no_setup_sectors_mean_four,
		what_follows_the_kernel_is_loaded_with_it_if_it_fits,
		long_mode_tables_map_the_first_4_gib_one_to_one,
		the_initrd_lies_at_the_top_of_low_ram,
		the_initrd_stays_below_what_the_kernel_can_reach,
		an_initrd_may_fill_all_that_the_kernel_leaves_and_no_more,
		an_initrd_larger_than_ram_is_refused,
		a_command_line_may_be_as_long_as_the_kernel_says,
		no_command_line_reaches_beyond_its_64_kib,
		an_elf_kernel_starts_at_its_pvh_entry,
		segments_are_loaded_and_the_rest_of_them_is_zeroed,
		what_is_read_into_is_made_present_first,
		a_segment_without_bytes_in_the_file_is_all_zeros,
		a_linux_says_so_in_its_notes,
		without_an_entry_note_it_is_refused_with_the_remedy,
		damaged_notes_end_the_search_and_harm_nobody,
		notes_cut_off_anywhere_harm_nobody,
		notes_of_absurd_size_are_not_ours,
		an_elf_for_another_machine_is_refused,
		a_segment_outside_of_low_ram_is_refused,
		segments_larger_than_ram_together_are_refused,
		a_truncated_elf_is_refused,
		the_start_info_names_everything,
		without_an_initrd_there_is_no_module,
		loading_again_gives_the_guest_a_fresh_kernel,
		a_multiboot_kernel_of_32_bits_starts_at_its_entry,
		a_multiboot_kernel_of_64_bits_does_as_well_unless_it_has_pvh,
		multiboot_information_names_everything,
		what_multiboot_asks_for_and_is_not_there_is_refused,
		a_multiboot_header_is_found_in_the_first_8_kib_only,
		a_multiboot_kernel_is_told_by_its_magic,
		a_bzimage_starts_in_long_mode,
		a_pvh_kernel_starts_in_32_bit_mode_without_paging,
	};
	return run_tests("vmm_boot", setup, teardown, tests, nitems(tests));
}
