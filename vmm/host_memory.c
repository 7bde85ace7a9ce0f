/* SPDX-License-Identifier: MIT */
#include "vmm/host_memory.h"

#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"

/* Each of these files, or what is wanted of it, is shorter. */
#define TEXT_SIZE 4096u

static int open_file(const char *root, const char *folder, const char *name)
{
	char path[3 * PATH_MAX];

	(void)snprintf(path, sizeof(path), "%s/%s/%s", root, folder, name);
	return open(path, O_RDONLY | O_CLOEXEC);
}

/* From its beginning: the kernel makes these files anew for who reads there. */
static void read_text(int fd, char *text)
{
	ssize_t n = fd >= 0 ? pread(fd, text, TEXT_SIZE - 1, 0) : 0;

	text[n > 0 ? n : 0] = '\0';
}

/* What follows these words at the beginning of a line; NULL: none begins so. */
static const char *find_line(const char *text, const char *words)
{
	for (const char *line = text; line; line = strchr(line, '\n')) {
		line += *line == '\n';
		if (strncmp(line, words, strlen(words)) == 0)
			return line + strlen(words);
	}
	return NULL;
}

/* 0: it is not there. */
static uint64_t find_number(const char *text, const char *words)
{
	const char *at = find_line(text, words);

	return at ? strtoull(at, NULL, 10) : 0;
}

/* The root has no limit. */
static void open_cgroups(struct host_memory_files *files, const char *root, char *path)
{
	for (char *slash; path[0] && path[1] && files->nr_cgroups < HOST_MAX_CGROUPS;
	     *slash = '\0') {
		struct host_cgroup *cgroup = &files->cgroups[files->nr_cgroups];
		char folder[TEXT_SIZE + 32];
		(void)snprintf(folder, sizeof(folder), "sys/fs/cgroup%s", path);
		cgroup->max = open_file(root, folder, "memory.max");
		slash = strrchr(path, '/');
		if (cgroup->max < 0)
			continue;
		cgroup->current = open_file(root, folder, "memory.current");
		cgroup->stat = open_file(root, folder, "memory.stat");
		(void)snprintf(cgroup->path, sizeof(cgroup->path), "%.*s",
			       (int)sizeof(cgroup->path) - 1, path);
		files->nr_cgroups++;
	}
}

void host_memory_open(struct host_memory_files *files, const char *root)
{
	char text[TEXT_SIZE];

	*files = (struct host_memory_files){
		.meminfo = open_file(root, "proc", "meminfo"),
		.statm = open_file(root, "proc/self", "statm"),
		.pressure = open_file(root, "proc/pressure", "memory"),
	};
	autoclose int fd = open_file(root, "proc/self", "cgroup");
	read_text(fd, text);
	/* Of version 2 there is one line: "0::/a/b". */
	const char *at = find_line(text, "0::/");
	if (!at)
		return;
	char path[TEXT_SIZE];
	(void)snprintf(path, sizeof(path), "/%.*s", (int)strcspn(at, "\n"), at);
	open_cgroups(files, root, path);
}

void host_memory_close(struct host_memory_files *files)
{
	fd_close(&files->meminfo);
	fd_close(&files->statm);
	fd_close(&files->pressure);
	for (; files->nr_cgroups > 0; files->nr_cgroups--) {
		struct host_cgroup *cgroup = &files->cgroups[files->nr_cgroups - 1];
		fd_close(&cgroup->max);
		fd_close(&cgroup->current);
		fd_close(&cgroup->stat);
	}
}

static void look_at_cgroup(const struct host_cgroup *cgroup, uint64_t swap,
			   struct host_memory *host)
{
	char text[TEXT_SIZE];
	unsigned long long most;
	unsigned long long used;

	read_text(cgroup->max, text);
	if (sscanf(text, "%llu", &most) != 1) /* "max" is none */
		return;
	read_text(cgroup->current, text);
	if (sscanf(text, "%llu", &used) != 1)
		return;
	/* A limit makes the kernel give up the page cache. The less is known the more may be had. */
	read_text(cgroup->stat, text);
	uint64_t cache = text[0] ? find_number(text, "inactive_file ") +
					   find_number(text, "active_file ")
				 : used;
	used -= cache < used ? cache : used;
	uint64_t spare = (most > used ? most - used : 0) + swap;
	if (spare >= host->spare)
		return;
	host->spare = spare;
	(void)snprintf(host->owner, sizeof(host->owner), "the memory cgroup %s", cgroup->path);
}

void host_memory_look(const struct host_memory_files *files, struct host_memory *ret)
{
	char text[TEXT_SIZE];
	unsigned int whole = 0;
	unsigned int hundredths = 0;
	unsigned long long pages = 0;

	*ret = (struct host_memory){ .spare = UINT64_MAX, .owner = "the host" };
	read_text(files->pressure, text);
	if (sscanf(text, "some avg10=%u.%2u", &whole, &hundredths) == 2)
		ret->pressure = whole * 100 + hundredths;
	read_text(files->statm, text); /* in pages, the second number */
	if (sscanf(text, "%*u %llu", &pages) == 1)
		ret->resident = pages * (uint64_t)sysconf(_SC_PAGESIZE);
	read_text(files->meminfo, text);
	uint64_t swap = find_number(text, "SwapFree:") << 10;
	ret->total = find_number(text, "MemTotal:") << 10;
	ret->available = find_number(text, "MemAvailable:") << 10;
	if (ret->total > 0)
		ret->spare = ret->available + swap;
	for (unsigned int i = 0; i < files->nr_cgroups; i++)
		look_at_cgroup(&files->cgroups[i], swap, ret);
}
