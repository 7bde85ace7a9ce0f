/* SPDX-License-Identifier: MIT */
/*
 * host_memory.h - how much more memory may be had: of the host, and of the memory cgroups that we
 * are in. Who pins more than that is not refused by the kernel, but killed in the middle of it.
 *
 * Threads: any.
 */
#ifndef VMM_HOST_MEMORY_H
#define VMM_HOST_MEMORY_H

#include <stdint.h>

#define HOST_OWNER_SIZE 160u

/* The least of all. Estimates, and none too small: what others can be made to give up counts. */
struct host_memory {
	uint64_t total;              /* bytes the host has in all; 0: it does not tell */
	uint64_t spare;              /* bytes; UINT64_MAX: nobody tells */
	uint64_t resident;           /* bytes that this process has already */
	char owner[HOST_OWNER_SIZE]; /* of `spare`: "the host", or "the memory cgroup /a/b" */
};

/* By /proc and /sys/fs/cgroup (version 2). root: see host_pci.h. */
void host_get_memory(const char *root, struct host_memory *ret);

#endif /* VMM_HOST_MEMORY_H */
