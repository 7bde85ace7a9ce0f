/* SPDX-License-Identifier: MIT */
/*
 * host_memory.h - how much more memory may be had: of the host, and of the memory cgroups that we
 * are in. Who pins more than that is not refused by the kernel, but killed in the middle of it.
 *
 * Threads: as the caller has it; nothing here is shared.
 */
#ifndef VMM_HOST_MEMORY_H
#define VMM_HOST_MEMORY_H

#include <stdint.h>

#define HOST_MAX_CGROUPS 32u
#define HOST_CGROUP_SIZE 128u

/*
 * /proc/meminfo, /proc/self/statm, /proc/pressure/memory, and memory.max, .current and .stat of
 * each cgroup (version 2) that we are in, up to the root; of very many the innermost.
 */
struct host_memory_files {
	int meminfo; /* owned; -1: it is not there; so are all of them */
	int statm;
	int pressure;
	struct host_cgroup {
		int max;
		int current;
		int stat;
		char path[HOST_CGROUP_SIZE]; /* may be cut short */
	} cgroups[HOST_MAX_CGROUPS];
	unsigned int nr_cgroups;
};

/* The least of all. Estimates, and none too small: what others can be made to give up counts. */
struct host_memory {
	uint64_t total;     /* bytes the host has in all; 0: it does not tell */
	uint64_t available; /* of these, without what could be swapped out */
	/* Bytes that may be had, of the host or of a cgroup with less. UINT64_MAX: nobody tells. */
	uint64_t spare;
	uint64_t resident; /* bytes that this process has already */
	/*
	 * Of the host: hundredths of a per cent of the last 10 s in which some task waited for
	 * memory; 0 where it does not tell.
	 */
	unsigned int pressure;
	/* Of `spare`: "the host", "the memory cgroup /a/b". */
	char owner[HOST_CGROUP_SIZE + 32];
};

/*
 * Opens all, for good: in the sandbox nothing can be. What cannot be opened tells nothing.
 * root: see host_pci.h.
 */
void host_memory_open(struct host_memory_files *files, const char *root);
void host_memory_close(struct host_memory_files *files);

/* As it is just now. What cannot be read is left out. */
void host_memory_look(const struct host_memory_files *files, struct host_memory *ret);

#endif /* VMM_HOST_MEMORY_H */
