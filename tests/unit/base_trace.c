/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "base/trace.h"

#include "tests/fakes/process.h"

static const char *last_event;
static uint64_t last_a;
static uint64_t last_b;
static unsigned int nr_events;

static void remember(const char *event, uint64_t a, uint64_t b)
{
	last_event = event;
	last_a = a;
	last_b = b;
	nr_events++;
}

START_TEST(a_listener_hears_name_and_operands)
{
	trace_listen(remember);
	TRACE(memory_map_add, 0x1000, -1);
	ck_assert_uint_eq(nr_events, 1);
	ck_assert_str_eq(last_event, "memory_map_add");
	ck_assert_uint_eq(last_a, 0x1000);
	ck_assert_uint_eq(last_b, UINT64_MAX);
}
END_TEST

START_TEST(nobody_hears_what_nobody_listens_to)
{
	TRACE(silent, 1, 2);
	ck_assert_uint_eq(nr_events, 0);
	trace_listen(remember);
	TRACE(heard, 1, 2);
	ck_assert_uint_eq(nr_events, 1);
	trace_listen(NULL);
	TRACE(silent_again, 1, 2);
	ck_assert_uint_eq(nr_events, 1);
	ck_assert(!trace_on);
}
END_TEST

START_TEST(printing_is_one_line)
{
	trace_listen(trace_print);
	TRACE(io_bus_read, 0x3f8, 1);
	ck_assert_str_eq(process_log(), "T io_bus_read 0x3f8 0x1\n");
}
END_TEST

/* The file */

static char path[] = "/tmp/ballast-trace-XXXXXX";
static struct trace_file found;

static void outer(uint64_t n);

static void inner(uint64_t n)
{
	TRACE(inner, n, 2 * n);
}

static void outer(uint64_t n)
{
	TRACE(outer, n, UINT64_MAX);
	inner(n);
}

static void open_trace(void)
{
	(void)strcpy(strrchr(path, '-'), "-XXXXXX");
	autoclose int fd = mkstemp(path);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(write(fd, "old", 3), 3);
	ck_assert_int_eq(trace_open(path), 0);
	ck_assert(trace_on);
}

static void read_trace(void)
{
	struct stat st;

	trace_close();
	trace_close();
	ck_assert(!trace_on);
	ck_assert_int_eq(stat(path, &st), 0);
	ck_assert_int_eq(st.st_size, sizeof(found));
	autoclose int fd = open(path, O_RDONLY | O_CLOEXEC);
	ck_assert_int_eq(read(fd, &found, sizeof(found)), sizeof(found));
	ck_assert_int_eq(unlink(path), 0);
	ck_assert_str_eq(found.magic, "BALLTRC");
	ck_assert_uint_eq(found.version, 1);
	ck_assert_uint_eq(found.records_at, (char *)found.records - (char *)&found);
	ck_assert_uint_eq(found.record_size, 48);
	ck_assert_uint_eq(found.nr_records, TRACE_NR_RECORDS);
}

static const struct trace_record *record(uint64_t number)
{
	const struct trace_record *r = &found.records[(number - 1) % found.nr_records];

	ck_assert_uint_eq(r->number, number);
	ck_assert_uint_lt(r->event, found.nr_events);
	ck_assert_uint_lt(r->thread, found.nr_threads);
	return r;
}

static const char *name_of(const struct trace_record *r)
{
	return found.events[r->event];
}

START_TEST(the_file_says_what_took_how_long)
{
	unsigned int fds = process_nr_fds();

	open_trace();
	outer(7);
	read_trace();
	ck_assert_uint_eq(found.next, 2);
	/* In the order in which they ended. */
	const struct trace_record *first = record(1);
	const struct trace_record *second = record(2);
	ck_assert_str_eq(name_of(first), "inner");
	ck_assert_str_eq(name_of(second), "outer");
	ck_assert_uint_eq(first->a, 7);
	ck_assert_uint_eq(first->b, 14);
	ck_assert_uint_eq(second->b, UINT64_MAX);
	ck_assert_uint_ge(second->begin, found.began);
	ck_assert_uint_le(second->begin, first->begin);
	ck_assert_uint_ge(second->begin + second->duration, first->begin + first->duration);
	ck_assert_str_eq(found.threads[first->thread], "main");
	ck_assert_uint_eq(process_nr_fds(), fds);
	/* Another one knows the names, too. */
	open_trace();
	outer(8);
	read_trace();
	ck_assert_str_eq(name_of(record(1)), "inner");
	ck_assert_uint_eq(record(1)->a, 8);
}
END_TEST

static void *thread(void *opaque)
{
	trace_name_thread(opaque);
	inner(1);
	return NULL;
}

START_TEST(the_file_says_who_it_was)
{
	char before[] = "vcpu 00", later[] = "a name that is too long";
	pthread_t threads[2];

	open_trace();
	ck_assert_int_eq(pthread_create(&threads[0], NULL, thread, before), 0);
	ck_assert_int_eq(pthread_join(threads[0], NULL), 0);
	ck_assert_int_eq(pthread_create(&threads[1], NULL, thread, later), 0);
	ck_assert_int_eq(pthread_join(threads[1], NULL), 0);
	inner(2);
	read_trace();
	ck_assert_str_eq(found.threads[record(1)->thread], "vcpu 00");
	ck_assert_str_eq(found.threads[record(2)->thread], "a name that is ");
	ck_assert_str_eq(found.threads[record(3)->thread], "main");
	/* More than there is room for. */
	for (unsigned int i = 0; i < TRACE_MAX_THREADS; i++) {
		ck_assert_int_eq(pthread_create(&threads[0], NULL, thread, before), 0);
		ck_assert_int_eq(pthread_join(threads[0], NULL), 0);
	}
	open_trace();
	inner(3);
	read_trace();
	ck_assert_uint_eq(found.nr_threads, TRACE_MAX_THREADS);
}
END_TEST

START_TEST(the_last_ones_are_kept)
{
	open_trace();
	for (uint64_t i = 1; i <= TRACE_NR_RECORDS + 10ull; i++)
		inner(i);
	read_trace();
	ck_assert_uint_eq(found.next, TRACE_NR_RECORDS + 10);
	for (uint64_t i = 11; i <= TRACE_NR_RECORDS + 10ull; i++)
		ck_assert_uint_eq(record(i)->a, i);
}
END_TEST

static void expect_refused(const char *where, int error)
{
	unsigned int fds = process_nr_fds();

	ck_assert_int_eq(trace_open(where), error);
	ck_assert(!trace_on);
	outer(1);
	ck_assert_uint_eq(process_nr_fds(), fds);
	ck_assert_uint_eq(process_nr_mappings("ballast-trace"), 0);
}

START_TEST(a_file_that_cannot_be_had_is_refused)
{
	const struct rlimit little = { 1 << 20, RLIM_INFINITY };
	const struct rlimit all = { RLIM_INFINITY, RLIM_INFINITY };
	struct stat st;

	expect_refused("/nowhere/trace", -ENOENT);
	expect_refused("/tmp", -EISDIR);
	expect_refused("/dev/null", -EEXIST);
	open_trace();
	trace_close();
	int other = open(path, O_RDWR | O_CLOEXEC);
	ck_assert_int_eq(flock(other, LOCK_EX), 0);
	expect_refused(path, -EBUSY);
	ck_assert_int_eq(fstat(other, &st), 0);
	ck_assert_int_eq(st.st_size, sizeof(found)); /* who writes into it has it whole */
	ck_assert_int_eq(close(other), 0);
	ck_assert_ptr_ne(signal(SIGXFSZ, SIG_IGN), SIG_ERR);
	ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &little), 0);
	expect_refused(path, -EFBIG);
	ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &all), 0);
	ck_assert_int_eq(stat(path, &st), 0);
	ck_assert_int_eq(st.st_size, 0);
	ck_assert_int_eq(unlink(path), 0);
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		a_listener_hears_name_and_operands,
		nobody_hears_what_nobody_listens_to,
		printing_is_one_line,
		the_file_says_what_took_how_long,
		the_file_says_who_it_was,
		the_last_ones_are_kept,
		a_file_that_cannot_be_had_is_refused,
	};
	return run_tests("base_trace", process_keep_log, NULL, tests, nitems(tests));
}
