/* SPDX-License-Identifier: MIT */
/*
 * trace.h - one event for each function on DESIGN.md's four ways, and how long it took.
 *
 * The event's name is the function's, its operands are up to two integers. Who may listen:
 *  - `-v trace` prints "T memory_map_add 0x100000 0x200000" as it begins; a test may listen instead,
 *    so that a way's sequence is asserted and not only promised.
 *  - `--trace FILE`: the last TRACE_NR_RECORDS of them in a file, which packaging/ballast-timeline
 *    draws.
 *  - systemtap, bpftrace, perf: where <sys/sdt.h> is there at build each is a static probe as well,
 *    ballast:EVENT with its two operands, as it begins.
 * A load and a branch at either end when nobody listens. Operands are plain values: they may be
 * looked at more than once, or not at all.
 *
 * Threads: any; but for trace_listen(), trace_open() and trace_close(), when there are no others.
 */
#ifndef BASE_TRACE_H
#define BASE_TRACE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/util.h"

#if __has_include(<sys/sdt.h>)
#include <sys/sdt.h>
#define TRACE_PROBE(event, a, b) DTRACE_PROBE2(ballast, event, (uint64_t)(a), (uint64_t)(b))
#else
#define TRACE_PROBE(event, a, b) (void)0
#endif

#define TRACE_VERSION 1u
#define TRACE_NR_RECORDS 131072u
#define TRACE_MAX_EVENTS 128u
#define TRACE_MAX_THREADS 64u
#define TRACE_EVENT_SIZE 32u
#define TRACE_THREAD_SIZE 16u

/* The file: all numbers little-endian, all times in nanoseconds of CLOCK_MONOTONIC. */

struct trace_record {
	uint64_t number; /* 1 for the first; written last. Not of its place: half written */
	uint64_t begin;
	uint64_t duration;
	uint64_t a;
	uint64_t b;
	uint16_t event; /* places in the tables of the file */
	uint16_t thread;
	uint32_t reserved;
};

struct trace_file {
	char magic[8]; /* "BALLTRC", and a 0 */
	uint32_t version;
	uint32_t records_at; /* bytes from the beginning */
	uint32_t record_size;
	uint32_t nr_records; /* there is room for; the n-th is at (n - 1) modulo that */
	uint64_t next;       /* how many there have been */
	uint64_t began;      /* when it was opened */
	uint32_t nr_events;
	uint32_t nr_threads;
	char events[TRACE_MAX_EVENTS][TRACE_EVENT_SIZE]; /* may be cut short; ends in a 0 */
	char threads[TRACE_MAX_THREADS][TRACE_THREAD_SIZE];
	struct trace_record records[TRACE_NR_RECORDS];
};

typedef void trace_listener(const char *event, uint64_t a, uint64_t b);

/* NULL: nobody listens. */
void trace_listen(trace_listener *listener);
/* The listener that prints to stderr. */
void trace_print(const char *event, uint64_t a, uint64_t b);

/*
 * Makes the file, or empties it, with room for all there will be. -EEXIST: it is there, and no regular
 * file. -EBUSY: another one writes into it, by a lock that is kept. -ENOSPC and the like. Not logged. On
 * failure nothing is kept, but an empty file may be.
 */
must_check int trace_open(const char *path);
/* The file stays. Does nothing if there is none. */
void trace_close(void);
/* What this thread is called in the file; one that never says is "main", all of them. */
void trace_name_thread(const char *name);

/* What TRACE() is made of. */

struct trace_event {
	const char *name;
	uint16_t number; /* 1 for the first in the file's table; 0: not there yet */
};

struct trace_span {
	struct trace_event *event; /* NULL: nobody listened as it began */
	uint64_t begin;
	uint64_t a;
	uint64_t b;
};

extern bool trace_on;

void trace_begin(struct trace_span *span, struct trace_event *event, uint64_t a, uint64_t b);
void trace_record(const struct trace_span *span);

static inline void trace_end(const struct trace_span *span)
{
	if (__builtin_expect(span->event != 0, 0))
		trace_record(span);
}

#define TRACE(event, a, b)                                                          \
	static struct trace_event event##_event = { .name = #event };               \
	__attribute__((cleanup(trace_end))) struct trace_span event##_span = { 0 }; \
	TRACE_PROBE(event, a, b);                                                   \
	if (__builtin_expect(trace_on, 0))                                          \
	trace_begin(&event##_span, &event##_event, (uint64_t)(a), (uint64_t)(b))

#endif /* BASE_TRACE_H */
