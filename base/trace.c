/* SPDX-License-Identifier: MIT */
#include "base/trace.h"

#include <inttypes.h>
#include <stdio.h>

trace_listener *trace_current;

void trace_listen(trace_listener *listener)
{
	trace_current = listener;
}

void trace_print(const char *event, uint64_t a, uint64_t b)
{
	dprintf(2, "T %s 0x%" PRIx64 " 0x%" PRIx64 "\n", event, a, b);
}
