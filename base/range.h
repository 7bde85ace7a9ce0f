/* SPDX-License-Identifier: MIT */
/*
 * range.h - half-open address ranges [start, start + size), safe against wrapping.
 *
 * A range may end exactly at 2^64; that is why sizes and not ends are passed around, and why
 * nobody writes `addr + len` by hand.
 */
#ifndef BASE_RANGE_H
#define BASE_RANGE_H

#include <stdbool.h>
#include <stdint.h>

typedef uint64_t gpa_t; /* a guest-physical address */

/* True if [start, start + size) is not empty and does not wrap past 2^64. */
static inline bool range_valid(uint64_t start, uint64_t size)
{
	return size > 0 && size - 1 <= UINT64_MAX - start;
}

/* True if [start, start + size) lies within [outer, outer + outer_size); both valid. */
static inline bool range_within(uint64_t start, uint64_t size, uint64_t outer,
				uint64_t outer_size)
{
	return start >= outer && start - outer < outer_size &&
	       size <= outer_size - (start - outer);
}

/* True if the two valid ranges share a byte. */
static inline bool range_overlaps(uint64_t a, uint64_t a_size, uint64_t b, uint64_t b_size)
{
	return a <= b ? b - a < a_size : a - b < b_size;
}

static inline uint64_t min(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static inline bool is_power_of_2(uint64_t n)
{
	return n != 0 && (n & (n - 1)) == 0;
}

static inline uint64_t align_down(uint64_t n, uint64_t power_of_2)
{
	return n & ~(power_of_2 - 1);
}

/* Wraps to 0 for n within the last `power_of_2` bytes of the address space. */
static inline uint64_t align_up(uint64_t n, uint64_t power_of_2)
{
	return align_down(n + power_of_2 - 1, power_of_2);
}

static inline bool is_aligned(uint64_t n, uint64_t power_of_2)
{
	return (n & (power_of_2 - 1)) == 0;
}

#endif /* BASE_RANGE_H */
