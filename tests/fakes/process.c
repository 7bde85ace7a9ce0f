/* SPDX-License-Identifier: MIT */
#include "tests/fakes/process.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include "base/sanitizer.h"

static int log_fd = -1;
static struct rlimit saved_limit;

/* By the environment, " MODULE:TEST MODULE: ", one or all: those that cannot pass the way they are run. */
static bool left_out(const char *module, const char *test)
{
	const char *list = getenv("UNIT_LEAVE_OUT");
	char one[160];
	char all[80];

	(void)snprintf(one, sizeof(one), " %s:%s ", module, test);
	(void)snprintf(all, sizeof(all), " %s: ", module);
	return list && (strstr(list, one) || strstr(list, all));
}

int run_tests(const char *module, void (*setup)(void), void (*teardown)(void),
	      const TTest *const *tests, size_t nr_tests)
{
	Suite *suite = suite_create(module);
	TCase *all = tcase_create(module);

	tcase_set_timeout(all, 60); /* sanitizers on a busy machine are slow */
	tcase_add_checked_fixture(all, setup, teardown);
	for (size_t i = 0; i < nr_tests; i++) {
		if (!left_out(module, tests[i]->name))
			tcase_add_test(all, tests[i]);
	}
	suite_add_tcase(suite, all);
	SRunner *runner = srunner_create(suite);
	srunner_run_all(runner, CK_ENV);
	int failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}

void process_keep_log(void)
{
	int stderr_fd = dup(STDERR_FILENO);

	log_fd = memfd_create("log", MFD_CLOEXEC);
	ck_assert_int_ge(log_fd, 0);
	/* A memfd's position is not guarded against two writers at once; appending is. */
	ck_assert_int_eq(fcntl(log_fd, F_SETFL, O_APPEND), 0);
	if (__sanitizer_set_report_fd)
		__sanitizer_set_report_fd((void *)(intptr_t)stderr_fd);
	ck_assert_int_ge(dup2(log_fd, STDERR_FILENO), 0);
}

const char *process_log(void)
{
	static char text[65536];

	ssize_t n = pread(log_fd, text, sizeof(text) - 1, 0);
	ck_assert_int_ge(n, 0);
	text[n] = '\0';
	ck_assert_int_eq(ftruncate(log_fd, 0), 0);
	(void)lseek(log_fd, 0, SEEK_SET);
	return text;
}

void process_expect_log(const char *part)
{
	const char *text = process_log();
	const char *end = strchr(text, '\n');

	ck_assert_msg(strstr(text, part) != NULL, "no \"%s\" in \"%s\"", part, text);
	ck_assert_msg(end && end[1] == '\0', "not one line: \"%s\"", text);
}

void process_expect_no_log(void)
{
	ck_assert_str_eq(process_log(), "");
}

unsigned int process_nr_fds(void)
{
	unsigned int count = 0;

	DIR *dir = opendir("/proc/self/fd");
	ck_assert_ptr_nonnull(dir);
	while (readdir(dir))
		count++;
	closedir(dir);
	return count - 3; /* ".", ".." and the directory itself */
}

uint64_t process_nr_pages(void)
{
	uint64_t pages = 0;

	FILE *f = fopen("/proc/self/statm", "re");
	ck_assert_ptr_nonnull(f);
	ck_assert_int_eq(fscanf(f, "%" SCNu64, &pages), 1);
	fclose(f);
	return pages;
}

unsigned int process_nr_mappings(const char *name)
{
	char line[512];
	unsigned int count = 0;

	FILE *f = fopen("/proc/self/maps", "re");
	ck_assert_ptr_nonnull(f);
	while (fgets(line, sizeof(line), f))
		count += strstr(line, name) != NULL;
	fclose(f);
	return count;
}

void process_forbid_fds(void)
{
	int lowest_free = dup(STDERR_FILENO);

	ck_assert_int_ge(lowest_free, 0);
	close(lowest_free);
	ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &saved_limit), 0);
	const struct rlimit limit = { (rlim_t)lowest_free, saved_limit.rlim_max };
	ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
}

void process_allow_fds(void)
{
	ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &saved_limit), 0);
}

/* The kernel says EFAULT where the program would die. */
bool process_faults(const void *address)
{
	int fds[2];

	ck_assert_int_eq(pipe(fds), 0);
	bool faults = syscall(SYS_write, fds[1], address, 1) < 0 && errno == EFAULT;
	close(fds[0]);
	close(fds[1]);
	return faults;
}
