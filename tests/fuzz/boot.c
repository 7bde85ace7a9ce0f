/* SPDX-License-Identifier: MIT */
/*
 * boot.c - kernel images from strangers: bzImage, ELF with PVH notes, Multiboot, and what looks like
 * one. What is loaded lies in RAM, where the sanitizers see its end, and the guest starts in it;
 * what is not is refused in one line.
 */
#include "vmm/boot.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <sys/mman.h>

#include "tests/fuzz/driver.h"

#define TAIL 8u /* bytes at the end of an input that are not the kernel's */

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

/* A file that is there for all inputs. */
static int make_file(int fd, const uint8_t *bytes, size_t size)
{
	if (fd < 0)
		fd = memfd_create("fuzz", MFD_CLOEXEC);
	if (ftruncate(fd, 0) < 0 || pwrite(fd, bytes, size, 0) != (ssize_t)size)
		abort(); /* of this process's making, not the input's */
	return fd;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
	static char cmdline[70000];
	static int kernel_fd = -1;
	static int initrd_fd = -1;
	struct layout layout;
	struct boot_entry entry = { 0 };

	if (size <= TAIL)
		return 0;
	if (fuzz_begin(fuzz_ram(), bytes + size - TAIL, TAIL) < 0 ||
	    layout_init(&layout, FUZZ_SIZE, 39) < 0)
		abort(); /* likewise */
	kernel_fd = make_file(kernel_fd, bytes, size - TAIL);
	struct boot_files files = {
		.kernel_path = "kernel",
		.cmdline = cmdline,
		.kernel_fd = kernel_fd,
		.initrd_fd = -1,
		.kernel_size =
			size - TAIL + next8() % 2, /* it has shrunk since it was opened */
	};
	if (next8() % 2) {
		initrd_fd = make_file(initrd_fd, bytes, size);
		files.initrd_path = "initrd";
		files.initrd_fd = initrd_fd;
		files.initrd_size = next8() % 8 ? size : next32();
	}
	memset(cmdline, 'c', sizeof(cmdline) - 1);
	cmdline[next16()] = '\0';
	int r = boot_load(&files, &fuzz.map, &layout, &entry);
	assert(r < 0 ? fuzz.nr_errors == 1 : fuzz.nr_errors == 0);
	fuzz_end();
	fuzz_empty(fuzz_ram());
	return 0;
}
