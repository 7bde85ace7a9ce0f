/* SPDX-License-Identifier: MIT */
#include "vmm/host_memory.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "vmm/host_pci.h"

struct meminfo {
	unsigned long long total; /* KiB, all of them */
	unsigned long long available;
	unsigned long long swap;
};

static int read_meminfo(void *opaque, const char *line)
{
	struct meminfo *info = opaque;

	(void)sscanf(line, "MemTotal: %llu", &info->total);
	(void)sscanf(line, "MemAvailable: %llu", &info->available);
	(void)sscanf(line, "SwapFree: %llu", &info->swap);
	return 0;
}

/* Of version 2 there is one line. 1: this is it. */
static int read_cgroup(void *opaque, const char *line)
{
	char *path = opaque;

	if (strncmp(line, "0::/", 4) != 0)
		return 0;
	(void)snprintf(path, PATH_MAX, "%s", line + 3);
	path[strcspn(path, "\n")] = '\0';
	return 1;
}

/* Adds the page cache, which a limit makes the kernel give up. */
static int read_stat(void *opaque, const char *line)
{
	unsigned long long *bytes = opaque;
	unsigned long long more = 0;

	if (sscanf(line, "inactive_file %llu", &more) == 1 ||
	    sscanf(line, "active_file %llu", &more) == 1)
		*bytes += more;
	return 0;
}

static bool read_bytes(const char *root, const char *cgroup, const char *name,
		       unsigned long long *ret)
{
	char text[32];

	return host_read(root, text, sizeof(text), "sys/fs/cgroup%s/%s", cgroup, name) >= 0 &&
	       sscanf(text, "%llu", ret) == 1; /* "max" is none */
}

static void look_at_cgroup(const char *root, const char *cgroup, uint64_t swap,
			   struct host_memory *m)
{
	char stat[PATH_MAX + 32];
	unsigned long long most;
	unsigned long long used = 0;
	unsigned long long cache = 0;

	if (!read_bytes(root, cgroup, "memory.max", &most) ||
	    !read_bytes(root, cgroup, "memory.current", &used))
		return;
	(void)snprintf(stat, sizeof(stat), "sys/fs/cgroup%s/memory.stat", cgroup);
	if (host_each_line(root, stat, read_stat, &cache) < 0 || cache > used)
		cache = used; /* the less is known the more may be had */
	used -= cache;
	uint64_t spare = (most > used ? most - used : 0) + swap;
	if (spare >= m->spare)
		return;
	m->spare = spare;
	(void)snprintf(m->owner, sizeof(m->owner), "the memory cgroup %.128s", cgroup);
}

void host_get_memory(const char *root, struct host_memory *ret)
{
	char path[PATH_MAX] = "";
	char text[64];
	struct meminfo info = { 0 };
	unsigned long long pages = 0;

	*ret = (struct host_memory){ .spare = UINT64_MAX, .owner = "the host" };
	if (host_each_line(root, "proc/meminfo", read_meminfo, &info) >= 0 && info.total > 0) {
		ret->total = info.total << 10;
		ret->spare = (info.available + info.swap) << 10;
	}
	if (host_read(root, text, sizeof(text), "proc/self/statm") >= 0 &&
	    sscanf(text, "%*u %llu", &pages) == 1)
		ret->resident = pages * (uint64_t)sysconf(_SC_PAGESIZE);
	if (host_each_line(root, "proc/self/cgroup", read_cgroup, path) <= 0)
		return;
	/* A limit is one on all that is below; the root has none. */
	for (char *slash; path[0] && path[1]; *slash = '\0') {
		look_at_cgroup(root, path, info.swap << 10, ret);
		slash = strrchr(path, '/');
	}
}
