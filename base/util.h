/* SPDX-License-Identifier: MIT */
/*
 * util.h - the few macros everybody uses.
 */
#ifndef BASE_UTIL_H
#define BASE_UTIL_H

#include <stddef.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define must_check __attribute__((warn_unused_result))
#define printf_like(fmt, first) __attribute__((format(printf, fmt, first)))

#define nitems(array) (sizeof(array) / sizeof((array)[0]))

/* Through void *, since the member may be less aligned than its container. */
#define container_of(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))

/*
 * For leaf locals only: released when the variable goes out of scope. A value that is kept
 * is stolen first (set the variable to -1 or NULL).
 */
#define autoclose __attribute__((cleanup(autoclose_release)))
#define autofree __attribute__((cleanup(autofree_release)))

static inline void autoclose_release(const int *fd)
{
	if (*fd >= 0)
		(void)close(*fd); /* nothing can be done about a failing close of a leaf */
}

static inline void autofree_release(void *p)
{
	free(*(void **)p);
}

/* By a clock that nobody sets. */
static inline time_t now_seconds(void)
{
	struct timespec now = { 0 };

	(void)clock_gettime(CLOCK_MONOTONIC, &now); /* this clock always exists */
	return now.tv_sec;
}

#endif /* BASE_UTIL_H */
