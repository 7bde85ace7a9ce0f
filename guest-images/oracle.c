// SPDX-License-Identifier: MIT
/*
 * oracle.c - runs in the guest: do its CPU and its assigned devices see the same memory, after a balloon came and went?
 *
 *	oracle check [--disk DEVICE] [--edu FOLDER] [--seed N] [--floor MIB]
 *		fills nearly all free memory with pattern A, so that the host has to have pages for it, and frees it; says
 *		"filled" and waits for a line on its input, while the host inflates and deflates the balloon; writes pattern B
 *		over nearly all free memory; then compares, in five ways:
 *		  cpu        the CPU reads what the CPU wrote
 *		  nvme-out   the disk reads all of it from memory; what it got is read back into a good buffer
 *		  edu-out    edu reads chosen pages, and shows them by way of a good page of its driver's
 *		  nvme-in    the disk writes pattern C, which came to it from the good buffer, over all of it; the CPU reads
 *		  edu-in     edu writes pattern D, from the good page, over chosen pages; the CPU reads
 *	oracle load --disk DEVICE [--seed N] [--seconds N]
 *		for so long: fresh memory is filled, the disk reads it, and writes it to other fresh memory, which the CPU compares;
 *		what is told is way "nvme-load". Meanwhile the balloon may move.
 *	oracle age MIB PERCENT
 *		lets memory age: so many MiB of files of 4 to 64 KiB are made in the current folder, a tmpfs, while processes come and
 *		go that touch memory; then so many per cent of the files, chosen at random, are removed.
 *	oracle hold MIB
 *		fills that much memory, says "holding", waits for a line, looks whether it is still the same, frees it.
 *
 * The good buffer is locked in memory before the balloon's first inflate, and used for transfers of every shape that come
 * later: its pages, and those of the disk's queues and page lists, were never in the balloon. Each page's pattern is a
 * function of seed, page and offset, so that a page which is stale, swapped or empty is seen.
 *
 * It speaks in lines that start with "ballast: oracle"; the one that tells a result is
 *	ballast: oracle compared WAY pages=N bytes=N mismatched=N
 * and the first mismatch of each way has a line of its own. Exits with 0 if it came to its end, whatever it found.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include <linux/fs.h>

#define PAGE 4096u
#define WORDS (PAGE / sizeof(uint64_t))
#define MIB (1ul << 20)
#define PIECE MIB        /* one read or write of the disk */
#define CHUNK (64 * MIB) /* written to the disk before it is read back */
#define EDU_BYTES 4095u  /* all that the device moves of a page */
#define EDU_PAGES 16u
#define LOAD (24 * MIB)
#define FIRST_CHUNK_AT (64 * MIB) /* on the disk; what is before belongs to others */

enum pattern { PATTERN_A = 1, PATTERN_B, PATTERN_C, PATTERN_D, PATTERN_TRIAL, PATTERN_LOAD };

struct area {
	uint8_t *bytes;
	size_t size;
};

struct tally {
	const char *way;
	uint64_t pages, bytes, mismatched;
};

static uint64_t seed = 1;
static size_t floor_bytes = 64 * MIB; /* left free, for the kernel to live on */
static long seconds = 60;
static const char *disk_path, *edu_path;
static int disk = -1;
static uint64_t disk_size;
static uint8_t *good; /* PIECE bytes */

static void tell(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	printf("ballast: oracle ");
	vprintf(format, args);
	putchar('\n');
	fflush(stdout);
	va_end(args);
}

static void die(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	printf("ballast: FAIL oracle ");
	vprintf(format, args);
	printf(" (%s)\n", strerror(errno));
	va_end(args);
	exit(1);
}

/* -- patterns ------------------------------------------------------------------------------------------------------ */

static uint64_t scramble(uint64_t word)
{
	word = (word ^ (word >> 30)) * 0xbf58476d1ce4e5b9u;
	word = (word ^ (word >> 27)) * 0x94d049bb133111ebu;
	return word ^ (word >> 31);
}

/* The first word of a page's pattern; each further word is larger by STEP. */
#define STEP 0x9e3779b97f4a7c15u
static uint64_t first_word(enum pattern pattern, uint64_t page)
{
	return scramble(seed + scramble(page * 8 + pattern));
}

static void fill(uint8_t *bytes, size_t size, enum pattern pattern, uint64_t first_page)
{
	for (size_t at = 0; at < size; at += PAGE) {
		uint64_t word = first_word(pattern, first_page + at / PAGE);
		volatile uint64_t *words = (uint64_t *)(bytes + at);

		for (size_t i = 0; i < WORDS; i++, word += STEP)
			words[i] = word;
	}
}

/* What the `size` bytes of a page are instead of what they should be, in a word. */
static const char *kind_of(const uint64_t *words, size_t size)
{
	if (words[0] == 0 && memcmp(words, words + 1, size - sizeof(*words)) == 0)
		return "zeros";
	return words[1] - words[0] == STEP ? "another pattern" : "something else";
}

/* Compares `size` bytes of a page, by address `gpa` if that is known, with its pattern. */
static void compare_page(struct tally *tally, const uint8_t *bytes, size_t size,
			 enum pattern pattern, uint64_t page, uint64_t gpa)
{
	uint64_t expected[WORDS];

	tally->pages++;
	tally->bytes += size;
	fill((uint8_t *)expected, PAGE, pattern, page);
	if (memcmp(bytes, expected, size) == 0)
		return;
	if (tally->mismatched++ == 0) {
		const uint64_t *seen = (const uint64_t *)bytes;

		tell("first mismatch %s: page %" PRIu64 " gpa 0x%" PRIx64 ": %s, 0x%016" PRIx64
		     " instead of 0x%016" PRIx64,
		     tally->way, page, gpa, kind_of(seen, size), seen[0], expected[0]);
	}
}

static void compare(struct tally *tally, const uint8_t *bytes, size_t size,
		    enum pattern pattern, uint64_t first_page)
{
	for (size_t at = 0; at < size; at += PAGE)
		compare_page(tally, bytes + at, PAGE, pattern, first_page + at / PAGE, 0);
}

static void tell_tally(const struct tally *tally)
{
	tell("compared %s pages=%" PRIu64 " bytes=%" PRIu64 " mismatched=%" PRIu64, tally->way,
	     tally->pages, tally->bytes, tally->mismatched);
}

/* -- memory -------------------------------------------------------------------------------------------------------- */

/* The first number of a file after `name`, in bytes; the file has it in KiB. */
static size_t read_kib(const char *path, const char *name)
{
	FILE *file = fopen(path, "r");
	char line[128];
	size_t kib = 0;

	if (!file)
		die("%s", path);
	while (fgets(line, sizeof(line), file)) {
		if (strncmp(line, name, strlen(name)) == 0) {
			kib = strtoul(line + strlen(name), NULL, 10);
			break;
		}
	}
	fclose(file);
	return kib * 1024;
}

static size_t free_memory(void)
{
	return read_kib("/proc/meminfo", "MemFree:");
}

static struct area map_memory(size_t size)
{
	struct area area = { .size = size };

	area.bytes = mmap(NULL, size, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (area.bytes == MAP_FAILED)
		die("no address space for %zu MiB", size / MIB);
	return area;
}

/* All that is free but for a floor, as whole pieces. */
static struct area map_free_memory(size_t left_free)
{
	size_t size = free_memory();

	if (size < left_free + PIECE)
		die("only %zu MiB are free", size / MIB);
	return map_memory((size - left_free) / PIECE * PIECE);
}

/* For a moment the kernel has to live on what it keeps back itself, and a little for page tables. */
static struct area map_all_memory(void)
{
	return map_free_memory(read_kib("/proc/sys/vm/min_free_kbytes", "") + 12 * MIB +
			       free_memory() / 128);
}

static void unmap(struct area area)
{
	munmap(area.bytes, area.size);
}

/* The guest-physical address of the page that is at an address of ours now. */
static uint64_t gpa_of(const uint8_t *address)
{
	static int pagemap = -1;
	uint64_t entry;

	if (pagemap < 0)
		pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	if (pread(pagemap, &entry, sizeof(entry), (uintptr_t)address / PAGE * sizeof(entry)) !=
	    sizeof(entry))
		die("pagemap");
	if (!(entry >> 63))
		die("page at %p is not present", (const void *)address);
	return (entry & ((1ull << 55) - 1)) * PAGE;
}

static void wait_for_line(void)
{
	int letter;

	do {
		letter = getchar();
	} while (letter != '\n' && letter != EOF);
}

/* -- the disk ------------------------------------------------------------------------------------------------------ */

static void disk_write(const uint8_t *bytes, size_t size, uint64_t offset)
{
	if (pwrite(disk, bytes, size, (off_t)offset) != (ssize_t)size)
		die("writing %zu bytes to the disk at 0x%" PRIx64, size, offset);
}

static void disk_read(uint8_t *bytes, size_t size, uint64_t offset)
{
	if (pread(disk, bytes, size, (off_t)offset) != (ssize_t)size)
		die("reading %zu bytes of the disk at 0x%" PRIx64, size, offset);
}

/* Where on the disk the chunk at `offset` of memory goes: places are used again, by other patterns. */
static uint64_t place_of(size_t offset)
{
	return FIRST_CHUNK_AT + offset % ((disk_size - FIRST_CHUNK_AT) / 2 / CHUNK * CHUNK);
}

/*
 * Opens the disk and moves the good buffer in transfers of every size, so that the driver has its page lists, and
 * sees that this much works.
 */
static void open_disk(void)
{
	struct tally tally = { .way = "trial" };

	disk = open(disk_path, O_RDWR | O_DIRECT | O_CLOEXEC);
	if (disk < 0 || ioctl(disk, BLKGETSIZE64, &disk_size) < 0 ||
	    disk_size < FIRST_CHUNK_AT + 4 * CHUNK)
		die("%s", disk_path);
	for (size_t size = PAGE; size <= PIECE; size *= 2) {
		fill(good, size, PATTERN_TRIAL, size);
		disk_write(good, size, FIRST_CHUNK_AT);
		memset(good, 0, size);
		disk_read(good, size, FIRST_CHUNK_AT);
		compare(&tally, good, size, PATTERN_TRIAL, size);
	}
	if (tally.mismatched > 0)
		die("the disk does not work");
}

/* The disk reads memory, which holds pattern B. */
static void check_disk_out(struct area area)
{
	struct tally tally = { .way = "nvme-out" };

	for (size_t chunk = 0; chunk < area.size; chunk += CHUNK) {
		size_t end = chunk + CHUNK < area.size ? chunk + CHUNK : area.size;

		for (size_t at = chunk; at < end; at += PIECE)
			disk_write(area.bytes + at, PIECE, place_of(at));
		for (size_t at = chunk; at < end; at += PIECE) {
			memset(good, 0x5a, PIECE);
			disk_read(good, PIECE, place_of(at));
			compare(&tally, good, PIECE, PATTERN_B, at / PAGE);
		}
	}
	tell_tally(&tally);
}

/* The disk writes memory, with pattern C. */
static void check_disk_in(struct area area)
{
	struct tally tally = { .way = "nvme-in" };

	for (size_t chunk = 0; chunk < area.size; chunk += CHUNK) {
		size_t end = chunk + CHUNK < area.size ? chunk + CHUNK : area.size;

		for (size_t at = chunk; at < end; at += PIECE) {
			fill(good, PIECE, PATTERN_C, at / PAGE);
			disk_write(good, PIECE, place_of(at));
		}
		for (size_t at = chunk; at < end; at += PIECE)
			disk_read(area.bytes + at, PIECE, place_of(at));
	}
	compare(&tally, area.bytes, area.size, PATTERN_C, 0);
	tell_tally(&tally);
}

/* -- edu ----------------------------------------------------------------------------------------------------------- */

static int open_edu(const char *name, int flags)
{
	char path[256];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", edu_path, name);
	fd = open(path, flags | O_CLOEXEC);
	if (fd < 0)
		die("%s", path);
	return fd;
}

/* "take": the device reads the page at gpa and writes the driver's good page; "put": the other way round. */
static void edu_move(const char *way, uint64_t gpa)
{
	int fd = open_edu(way, O_WRONLY);

	if (dprintf(fd, "0x%" PRIx64 "\n", gpa) < 0)
		die("edu's %s of gpa 0x%" PRIx64, way, gpa);
	close(fd);
}

static void edu_good_page(uint8_t *bytes, bool write)
{
	int fd = open_edu("good_page", write ? O_WRONLY : O_RDONLY);
	ssize_t moved = write ? pwrite(fd, bytes, PAGE, 0) : pread(fd, bytes, PAGE, 0);

	if (moved != (ssize_t)PAGE)
		die("edu's good page");
	close(fd);
}

/* One page by edu; the kernel may move pages, and then it is tried again. */
static void check_edu_page(struct tally *tally, struct area area, uint64_t page, bool out)
{
	uint8_t *address = area.bytes + page * PAGE;
	uint8_t seen[PAGE] __attribute__((aligned(PAGE)));
	uint64_t gpa;
	unsigned int tries = 0;

	do {
		if (tries++ == 5)
			die("page %" PRIu64 " does not stay where it is", page);
		gpa = gpa_of(address);
		memset(seen, 0x5a, PAGE);
		if (!out)
			fill(seen, PAGE, PATTERN_D, page);
		edu_good_page(seen, true);
		edu_move(out ? "take" : "put", gpa);
	} while (gpa_of(address) != gpa);
	if (out)
		edu_good_page(seen, false);
	compare_page(tally, out ? seen : address, EDU_BYTES, out ? PATTERN_B : PATTERN_D, page,
		     gpa);
}

static void check_edu(struct area area, bool out)
{
	struct tally tally = { .way = out ? "edu-out" : "edu-in" };
	uint64_t pages = area.size / PAGE;

	for (uint64_t i = 0; i < EDU_PAGES; i++)
		check_edu_page(&tally, area, i * pages / EDU_PAGES + scramble(seed + i) % 256,
			       out);
	tell_tally(&tally);
}

/* -- the commands ---------------------------------------------------------------------------------------------- */

static void run_check(void)
{
	struct tally tally = { .way = "cpu" };
	struct area area;

	good = map_memory(PIECE).bytes;
	memset(good, 0x5a, PIECE);
	if (mlockall(MCL_CURRENT) < 0)
		die("mlockall");
	if (disk_path)
		open_disk();
	area = map_all_memory();
	fill(area.bytes, area.size, PATTERN_A, 0);
	unmap(area);
	tell("filled %zu", area.size);
	wait_for_line();

	area = map_free_memory(floor_bytes);
	fill(area.bytes, area.size, PATTERN_B, 0);
	tell("written %zu", area.size);
	compare(&tally, area.bytes, area.size, PATTERN_B, 0);
	tell_tally(&tally);
	if (disk_path)
		check_disk_out(area);
	if (edu_path)
		check_edu(area, true);
	if (disk_path)
		check_disk_in(area);
	if (edu_path)
		check_edu(area, false);
}

static void run_load(void)
{
	struct tally tally = { .way = "nvme-load" };
	time_t end = time(NULL) + seconds;

	good = map_memory(PIECE).bytes;
	memset(good, 0x5a, PIECE);
	if (!disk_path || mlock(good, PIECE) < 0)
		die("load needs a disk, and a buffer");
	open_disk();
	tell("loading");
	for (uint64_t page = 0; time(NULL) < end; page += LOAD / PAGE) {
		struct area from = map_memory(LOAD), to = map_memory(LOAD);

		fill(from.bytes, LOAD, PATTERN_LOAD, page);
		for (size_t at = 0; at < LOAD; at += PIECE)
			disk_write(from.bytes + at, PIECE, FIRST_CHUNK_AT + at);
		for (size_t at = 0; at < LOAD; at += PIECE)
			disk_read(to.bytes + at, PIECE, FIRST_CHUNK_AT + at);
		compare(&tally, to.bytes, LOAD, PATTERN_LOAD, page);
		unmap(from);
		unmap(to);
	}
	tell_tally(&tally);
}

/* A process that touches some memory, leaves, and thereby scatters what is free. */
static void churn(void)
{
	pid_t pid = fork();

	if (pid < 0)
		die("fork");
	if (pid == 0) {
		struct area area = map_memory(2 * MIB);
		fill(area.bytes, area.size, PATTERN_TRIAL, 0);
		_exit(0);
	}
	waitpid(pid, NULL, 0);
}

static void run_age(size_t size, unsigned int percent)
{
	static const uint8_t bytes[64 * 1024];
	unsigned int nr = 0, removed = 0;
	char name[32];

	for (size_t made = 0; made < size; nr++) {
		size_t length = (1 + scramble(seed + nr) % 16) * PAGE;
		int fd;

		snprintf(name, sizeof(name), "%u", nr);
		fd = open(name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
		if (fd < 0 || write(fd, bytes, length) != (ssize_t)length)
			die("file %s", name);
		close(fd);
		made += length;
		if (nr % 256 == 0)
			churn();
	}
	for (unsigned int i = 0; i < nr; i++) {
		if (scramble(seed * 3 + i) % 100 >= percent)
			continue;
		snprintf(name, sizeof(name), "%u", i);
		if (unlink(name) < 0)
			die("removing file %s", name);
		removed++;
	}
	tell("aged files=%u removed=%u", nr, removed);
}

static void run_hold(size_t size)
{
	struct tally tally = { .way = "held" };
	struct area area = map_memory(size);

	fill(area.bytes, area.size, PATTERN_A, 0);
	tell("holding %zu", area.size);
	wait_for_line();
	compare(&tally, area.bytes, area.size, PATTERN_A, 0);
	tell_tally(&tally);
}

int main(int argc, char **argv)
{
	if (argc == 3 && strcmp(argv[1], "hold") == 0) {
		run_hold(strtoul(argv[2], NULL, 0) * MIB);
		return 0;
	}
	if (argc == 4 && strcmp(argv[1], "age") == 0) {
		run_age(strtoul(argv[2], NULL, 0) * MIB,
			(unsigned int)strtoul(argv[3], NULL, 0));
		return 0;
	}
	bool load = argc >= 2 && strcmp(argv[1], "load") == 0;

	if (argc < 2 || argc % 2 != 0 || (!load && strcmp(argv[1], "check") != 0))
		die("usage: see oracle.c");
	for (int i = 2; i < argc; i += 2) {
		if (strcmp(argv[i], "--disk") == 0)
			disk_path = argv[i + 1];
		else if (strcmp(argv[i], "--edu") == 0)
			edu_path = argv[i + 1];
		else if (strcmp(argv[i], "--seed") == 0)
			seed = strtoull(argv[i + 1], NULL, 0);
		else if (strcmp(argv[i], "--seconds") == 0)
			seconds = strtol(argv[i + 1], NULL, 0);
		else if (strcmp(argv[i], "--floor") == 0)
			floor_bytes = strtoul(argv[i + 1], NULL, 0) * MIB;
		else
			die("unknown option %s", argv[i]);
	}
	if (load)
		run_load();
	else
		run_check();
	return 0;
}
