/* SPDX-License-Identifier: MIT */
#include "memory/access.h"

#include <errno.h>
#include <string.h>

#include "memory/map.h"

void *memory_ptr(struct memory_map *map, gpa_t gpa, uint64_t size)
{
	struct memory_region *region = memory_map_find(map, gpa, size);

	if (!region || region->kind != MEMORY_RAM)
		return NULL;
	return (char *)region->host + (gpa - region->gpa);
}

/* The host address of gpa, and how many of `size` bytes its region holds from there. */
static char *piece_at(struct memory_map *map, gpa_t gpa, size_t size, size_t *ret_size)
{
	struct memory_region *region = memory_map_find(map, gpa, 1);

	if (!region || region->kind != MEMORY_RAM)
		return NULL;
	uint64_t offset = gpa - region->gpa;
	*ret_size = size < region->size - offset ? size : (size_t)(region->size - offset);
	return (char *)region->host + offset;
}

int memory_read(struct memory_map *map, gpa_t gpa, void *buffer, size_t size)
{
	char *to = buffer;

	if (size > 0 && !range_valid(gpa, size))
		return -EFAULT;
	while (size > 0) {
		size_t n;
		char *from = piece_at(map, gpa, size, &n);
		if (!from)
			return -EFAULT;
		memcpy(to, from, n);
		to += n;
		gpa += n;
		size -= n;
	}
	return 0;
}

int memory_write(struct memory_map *map, gpa_t gpa, const void *buffer, size_t size)
{
	const char *from = buffer;

	if (size > 0 && !range_valid(gpa, size))
		return -EFAULT;
	while (size > 0) {
		size_t n;
		char *to = piece_at(map, gpa, size, &n);
		if (!to)
			return -EFAULT;
		memcpy(to, from, n);
		from += n;
		gpa += n;
		size -= n;
	}
	return 0;
}
