/* SPDX-License-Identifier: MIT */
/*
 * ram.h - one block of guest RAM in this process: where it comes from, how a piece of it goes
 * back to the host, how a piece is made present.
 *
 * The block is aligned to 2 MiB (and to its own page size), so that a 2 MiB-aligned guest
 * address has a 2 MiB-aligned host address and huge pages fit. It lies between two guard
 * pages, is left out of core dumps, and is not inherited by children.
 *
 * Threads: any; discarding and populating one range at once is the caller's to prevent
 * (memory/reclaim does).
 */
#ifndef MEMORY_RAM_H
#define MEMORY_RAM_H

#include <stdint.h>

#include "base/util.h"

#define RAM_MAX_POPULATORS 8u

enum ram_backing {
	RAM_ANONYMOUS, /* private anonymous memory, transparent huge pages asked for */
	RAM_MEMFD,     /* shared memfd of base pages */
	RAM_HUGETLB,   /* shared memfd of 2 MiB hugetlb pages, reserved at ram_init() */
};

struct ram {
	void *host;         /* owned mapping; NULL before init and after finish */
	uint64_t size;      /* bytes */
	uint64_t page_size; /* the smallest piece that can be discarded */
	enum ram_backing backing;
	int fd; /* owned; -1 for RAM_ANONYMOUS */
	/*
	 * How many threads ram_populate() may have at work on a large range, the caller's among
	 * them: at most RAM_MAX_POPULATORS. 0, 1: the caller alone, as where no thread may begin.
	 * The owner's to set while nobody populates.
	 */
	unsigned int nr_populators;
	void *reservation; /* the mapping with its guards */
	uint64_t reserved;
};

/*
 * Makes a block of `size` bytes that reads as zeros. No page is present yet.
 * -EINVAL: size is 0 or no multiple of the backing's page size. -ENOMEM: no address space, or
 * fewer free hugetlb pages than needed. Otherwise the errno of memfd_create or ftruncate.
 */
must_check int ram_init(struct ram *ram, uint64_t size, enum ram_backing backing);
/* Unmaps and forgets. Accepts what a failed ram_init() left, and a zeroed object. */
void ram_finish(struct ram *ram);

/*
 * Gives [offset, offset + size) back to the host; it reads as zeros afterwards. Nobody may
 * have it pinned (go through memory/reclaim, which knows).
 * -EINVAL: outside of the block or not aligned to page_size. -errno of madvise or fallocate.
 */
must_check int ram_discard(struct ram *ram, uint64_t offset, uint64_t size);

/*
 * Makes [offset, offset + size) present, zeroed where it was not. A hint made cheap: on a
 * kernel without MADV_POPULATE_WRITE (before 5.14) it succeeds and does nothing.
 * -ENOMEM: the host, or the memory cgroup, has no more. -EINVAL as above.
 */
must_check int ram_populate(struct ram *ram, uint64_t offset, uint64_t size);

#endif /* MEMORY_RAM_H */
