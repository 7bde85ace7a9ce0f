/* SPDX-License-Identifier: MIT */
/*
 * access.h - the only way to touch guest RAM.
 *
 * Every address and size a guest names is checked here, once, without overflow, against the
 * memory map. Mapped BARs (MEMORY_DEVICE) are never touched this way: a BAR that is switched
 * off would answer with SIGBUS.
 *
 * The guest's other vCPUs may change the bytes at any moment: copy, check the copy, use the
 * copy. Threads: any.
 */
#ifndef MEMORY_ACCESS_H
#define MEMORY_ACCESS_H

#include <stddef.h>

#include "base/range.h"
#include "base/util.h"

struct memory_map;

/*
 * Copies out of, or into, guest RAM; the range may span several adjoining regions.
 * -EFAULT: some byte of it is not RAM; the copy may then have been made in part.
 */
must_check int memory_read(struct memory_map *map, gpa_t gpa, void *buffer, size_t size);
must_check int memory_write(struct memory_map *map, gpa_t gpa, const void *buffer, size_t size);

/*
 * The host address of [gpa, gpa + size), or NULL if that is not wholly within one RAM region.
 * Good for one request, never across a reset.
 */
void *memory_ptr(struct memory_map *map, gpa_t gpa, uint64_t size);

#endif /* MEMORY_ACCESS_H */
