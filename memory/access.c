/* SPDX-License-Identifier: MIT */
#include "memory/access.h"

#include <errno.h>
#include <string.h>

#include "memory/map.h"

void *memory_ptr(struct memory_map *map, gpa_t gpa, uint64_t size)
{
	uint64_t left;

	return memory_map_find_ram(map, gpa, size, &left);
}

/* The host address of gpa, and how many of `size` bytes its region holds from there. */
static char *piece_at(struct memory_map *map, gpa_t gpa, size_t size, size_t *ret_size)
{
	uint64_t left = 0;
	char *at = memory_map_find_ram(map, gpa, 1, &left);

	*ret_size = size < left ? size : (size_t)left;
	return at;
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
