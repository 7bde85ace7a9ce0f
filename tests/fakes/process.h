/* SPDX-License-Identifier: MIT */
/*
 * process.h - what every unit test needs: its main(), and a look at its own process: what it
 * logged, which file descriptors are open, how much is mapped.
 *
 * Check runs each test in a process of its own; none of this outlives a test.
 */
#ifndef TESTS_FAKES_PROCESS_H
#define TESTS_FAKES_PROCESS_H

#include <check.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/util.h"

/* Runs the tests with their fixtures (or NULL), as CK_* and UNIT_LEAVE_OUT of the environment have it. */
int run_tests(const char *module, void (*setup)(void), void (*teardown)(void),
	      const TTest *const *tests, size_t nr_tests);

/* From now on what is logged is kept instead of printed. */
void process_keep_log(void);
/* What was logged since process_keep_log() or the last call of this; good until the next. */
const char *process_log(void);
/* Exactly one line was logged since then, and `part` is in it. */
void process_expect_log(const char *part);
/* Nothing was. */
void process_expect_no_log(void);

/* How many file descriptors are open. */
unsigned int process_nr_fds(void);
/* How much address space is in use, in pages. */
uint64_t process_nr_pages(void);
/* How many mappings have `name` in their line of /proc/self/maps. */
unsigned int process_nr_mappings(const char *name);

/* No further file descriptor can be had; and again they can. */
void process_forbid_fds(void);
void process_allow_fds(void);

/* True if reading the byte at `address` would fault. */
bool process_faults(const void *address);

#endif /* TESTS_FAKES_PROCESS_H */
