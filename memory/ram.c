/* SPDX-License-Identifier: MIT */
#include "memory/ram.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>

#include <sys/mman.h>

#include <linux/memfd.h>

#include "base/fd.h"
#include "base/range.h"
#include "base/trace.h"

#define HUGE_PAGE_SIZE (2ull << 20)
#define BASE_PAGE_SIZE 4096ull

/* One thread makes so much present at least: to begin one costs less. */
#define POPULATE_LEAST (8ull << 20)

static int open_backing(struct ram *ram)
{
	unsigned int flags = MFD_CLOEXEC;

	if (ram->backing == RAM_ANONYMOUS)
		return 0;
	if (ram->backing == RAM_HUGETLB)
		flags |= MFD_HUGETLB | MFD_HUGE_2MB;
	ram->fd = memfd_create("ballast-ram", flags);
	if (ram->fd < 0)
		return -errno;
	if (ftruncate(ram->fd, (off_t)ram->size) < 0)
		return -errno;
	return 0;
}

/*
 * A reservation two huge pages larger than the block holds an aligned block with at least one
 * unmapped page on either side: a stray pointer just outside of guest RAM faults.
 */
static int map_backing(struct ram *ram)
{
	int flags = MAP_FIXED | (ram->fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED);

	ram->reserved = ram->size + 2 * HUGE_PAGE_SIZE;
	void *p = mmap(NULL, ram->reserved, PROT_NONE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (p == MAP_FAILED)
		return -errno;
	ram->reservation = p;
	uintptr_t at = (uintptr_t)align_up((uintptr_t)p + BASE_PAGE_SIZE, HUGE_PAGE_SIZE);
	if (ram->backing != RAM_HUGETLB)
		flags |= MAP_NORESERVE;
	p = mmap((void *)at, ram->size, PROT_READ | PROT_WRITE, flags, ram->fd, 0);
	if (p == MAP_FAILED)
		return -errno;
	ram->host = p;
	return 0;
}

int ram_init(struct ram *ram, uint64_t size, enum ram_backing backing)
{
	*ram = (struct ram){ .fd = -1, .size = size, .backing = backing };
	ram->page_size = backing == RAM_HUGETLB ? HUGE_PAGE_SIZE : BASE_PAGE_SIZE;
	TRACE(ram_init, size, backing);
	int r = -EINVAL;
	if (size == 0 || !is_aligned(size, ram->page_size) || size > INT64_MAX / 2)
		goto fail;
	r = open_backing(ram);
	if (r < 0)
		goto fail;
	r = map_backing(ram);
	if (r < 0)
		goto fail;
	/* Hints: a kernel built without one of them serves guests all the same. */
	(void)madvise(ram->host, size, MADV_DONTDUMP);
	(void)madvise(ram->host, size, MADV_DONTFORK);
	if (backing == RAM_ANONYMOUS)
		(void)madvise(ram->host, size, MADV_HUGEPAGE);
	return 0;
fail:
	ram_finish(ram);
	return r;
}

void ram_finish(struct ram *ram)
{
	if (ram->reservation)
		(void)munmap(ram->reservation, ram->reserved);
	if (ram->size)
		fd_close(&ram->fd);
	*ram = (struct ram){ .fd = -1 };
}

static int check_range(const struct ram *ram, uint64_t offset, uint64_t size)
{
	if (!range_valid(offset, size) || !range_within(offset, size, 0, ram->size) ||
	    !is_aligned(offset | size, ram->page_size))
		return -EINVAL;
	return 0;
}

int ram_discard(struct ram *ram, uint64_t offset, uint64_t size)
{
	TRACE(ram_discard, offset, size);
	int r = check_range(ram, offset, size);
	if (r < 0)
		return r;
	/* A shared file keeps its pages through MADV_DONTNEED; only a hole frees them. */
	if (ram->fd >= 0)
		r = fallocate(ram->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			      (off_t)offset, (off_t)size);
	else
		r = madvise((char *)ram->host + offset, size, MADV_DONTNEED);
	return r < 0 ? -errno : 0;
}

/* Part of what is made present, by a thread of its own. */
struct part {
	void *at;
	uint64_t size;
	pthread_t thread;
	int result;
};

static int populate(void *at, uint64_t size)
{
	int r;

	do {
		r = madvise(at, size, MADV_POPULATE_WRITE);
	} while (r < 0 && (errno == EINTR || errno == EAGAIN));
	if (r < 0 && errno == EINVAL)
		return 0; /* Linux before 5.14: whoever pins faults the pages in */
	return r < 0 ? -errno : 0;
}

static void *populate_part(void *opaque)
{
	struct part *part = opaque;

	part->result = populate(part->at, part->size);
	return NULL;
}

/* By so many threads at the most. What none is to be had for is left to this one. */
static int populate_in_parts(char *at, uint64_t size, unsigned int nr_threads)
{
	struct part parts[RAM_MAX_POPULATORS];
	uint64_t each = align_up(size / nr_threads, HUGE_PAGE_SIZE);
	unsigned int nr = 0;

	if (each < POPULATE_LEAST)
		each = POPULATE_LEAST;
	for (; size > each; size -= each, nr++) {
		parts[nr] = (struct part){ .at = at + (size - each), .size = each };
		if (pthread_create(&parts[nr].thread, NULL, populate_part, &parts[nr]) != 0)
			break;
	}
	int r = populate(at, size);
	while (nr-- > 0) {
		(void)pthread_join(parts[nr].thread, NULL); /* it is ours, and joined once */
		if (r >= 0)
			r = parts[nr].result;
	}
	return r;
}

int ram_populate(struct ram *ram, uint64_t offset, uint64_t size)
{
	TRACE(ram_populate, offset, size);
	int r = check_range(ram, offset, size);
	if (r < 0)
		return r;
	r = populate_in_parts((char *)ram->host + offset, size,
			      ram->nr_populators ? ram->nr_populators : 1);
	/* That is what Linux says of a hugetlb pool that is empty. */
	return r == -EFAULT && ram->backing == RAM_HUGETLB ? -ENOMEM : r;
}
