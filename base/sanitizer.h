/* SPDX-License-Identifier: MIT */
/*
 * sanitizer.h - whether a sanitizer is built in: what it watches is slow, and it does things of its own.
 */
#ifndef BASE_SANITIZER_H
#define BASE_SANITIZER_H

/* NOLINTBEGIN(bugprone-reserved-identifier,cert-dcl37-c,cert-dcl51-cpp): their names are the sanitizers' */

/*
 * NULL where none is. Its reports go to `fd`, an int in a pointer's clothes, from now on, instead of
 * to stderr. Threads: any, but a report that is under way goes where it went.
 */
extern void __sanitizer_set_report_fd(void *fd) __attribute__((weak));

/* NULL where it is not ThreadSanitizer. */
extern void __tsan_init(void) __attribute__((weak));

/* NOLINTEND(bugprone-reserved-identifier,cert-dcl37-c,cert-dcl51-cpp) */

#endif /* BASE_SANITIZER_H */
