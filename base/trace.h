/* SPDX-License-Identifier: MIT */
/*
 * trace.h - one event at the head of each function on DESIGN.md's four ways.
 *
 * The event's name is the function's, its operands are up to two integers. `-v trace` prints
 * "T memory_map_add 0x100000 0x200000"; a test may listen instead, so that a way's sequence
 * is asserted and not only promised. Costs one load and branch when nobody listens.
 */
#ifndef BASE_TRACE_H
#define BASE_TRACE_H

#include <stdbool.h>
#include <stdint.h>

typedef void trace_listener(const char *event, uint64_t a, uint64_t b);

/* Set before threads start. NULL: nobody listens. */
void trace_listen(trace_listener *listener);
/* The listener that prints to stderr. */
void trace_print(const char *event, uint64_t a, uint64_t b);

extern trace_listener *trace_current;

#define TRACE(event, a, b)                                                   \
	do {                                                                 \
		if (__builtin_expect(trace_current != 0, 0))                 \
			trace_current(#event, (uint64_t)(a), (uint64_t)(b)); \
	} while (0)

#endif /* BASE_TRACE_H */
