/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "base/fd.h"

#include "tests/fakes/process.h"

static int make_file(const void *bytes, size_t size)
{
	int fd = memfd_create("file", MFD_CLOEXEC);

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(write(fd, bytes, size), size);
	return fd;
}

START_TEST(an_eventfd_starts_silent_and_closes_on_exec)
{
	int fd = -1;

	ck_assert_int_eq(eventfd_create(&fd), 0);
	ck_assert(!eventfd_pending(fd));
	ck_assert(!eventfd_take(fd));
	ck_assert_int_eq(fcntl(fd, F_GETFD), FD_CLOEXEC);
	ck_assert_int_ne(fcntl(fd, F_GETFL) & O_NONBLOCK, 0);
}
END_TEST

START_TEST(two_signals_are_taken_as_one)
{
	int fd = -1;

	ck_assert_int_eq(eventfd_create(&fd), 0);
	eventfd_signal(fd);
	eventfd_signal(fd);
	ck_assert(eventfd_take(fd));
	ck_assert(!eventfd_take(fd));
}
END_TEST

START_TEST(looking_at_an_eventfd_takes_nothing)
{
	int fd = -1;

	ck_assert_int_eq(eventfd_create(&fd), 0);
	eventfd_signal(fd);
	ck_assert(eventfd_pending(fd));
	ck_assert(eventfd_pending(fd));
	ck_assert(eventfd_take(fd));
	ck_assert(!eventfd_pending(fd));
}
END_TEST

START_TEST(a_full_eventfd_is_signalled_all_the_same)
{
	const uint64_t full = UINT64_MAX - 1;
	int fd = -1;

	ck_assert_int_eq(eventfd_create(&fd), 0);
	ck_assert_int_eq(write(fd, &full, sizeof(full)), sizeof(full));
	eventfd_signal(fd);
	ck_assert(eventfd_take(fd));
}
END_TEST

START_TEST(no_free_descriptor_is_an_error_and_leaves_the_output_alone)
{
	int fd = -7;

	process_forbid_fds();
	ck_assert_int_eq(eventfd_create(&fd), -EMFILE);
	process_allow_fds();
	ck_assert_int_eq(fd, -7);
}
END_TEST

START_TEST(closing_forgets_the_descriptor_and_keeps_errno)
{
	unsigned int before = process_nr_fds();
	int fd = -1;

	ck_assert_int_eq(eventfd_create(&fd), 0);
	ck_assert_uint_eq(process_nr_fds(), before + 1);
	errno = ERANGE;
	fd_close(&fd);
	ck_assert_int_eq(fd, -1);
	fd_close(&fd);
	ck_assert_int_eq(errno, ERANGE);
	ck_assert_uint_eq(process_nr_fds(), before);
}
END_TEST

START_TEST(reading_takes_exactly_what_was_asked_for)
{
	char text[4] = "";
	int fd = make_file("0123456789", 10);

	ck_assert_int_eq(fd_read_at(fd, text, 3, 4), 0);
	ck_assert_str_eq(text, "456");
	ck_assert_int_eq(fd_read_at(fd, text, 0, 100), 0);
}
END_TEST

START_TEST(reading_beyond_the_end_is_eio)
{
	char text[11];
	int fd = make_file("0123456789", 10);

	ck_assert_int_eq(fd_read_at(fd, text, 11, 0), -EIO);
	ck_assert_int_eq(fd_read_at(fd, text, 1, 10), -EIO);
	ck_assert_int_eq(fd_read_at(fd, text, 10, 0), 0);
}
END_TEST

/* A file of /proc gives a page at a time. */
START_TEST(short_reads_are_put_together)
{
	static char whole[65536];
	static char first[4096];

	autoclose int fd = open("/proc/kallsyms", O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return; /* a kernel without it */
	ck_assert_int_eq(fd_read_at(fd, whole, sizeof(whole), 0), 0);
	ck_assert_int_eq(fd_read_at(fd, first, sizeof(first), sizeof(whole) - sizeof(first)),
			 0);
	ck_assert_mem_eq(first, whole + sizeof(whole) - sizeof(first), sizeof(first));
}
END_TEST

START_TEST(reading_reports_the_errno_of_the_call)
{
	char byte;
	int fds[2];

	ck_assert_int_eq(fd_read_at(-1, &byte, 1, 0), -EBADF);
	ck_assert_int_eq(pipe(fds), 0);
	ck_assert_int_eq(fd_read_at(fds[0], &byte, 1, 0), -ESPIPE);
}
END_TEST

START_TEST(writing_puts_bytes_where_they_belong)
{
	char text[11] = "";
	int fd = make_file("0123456789", 10);

	ck_assert_int_eq(fd_write_at(fd, "abc", 3, 4), 0);
	ck_assert_int_eq(fd_read_at(fd, text, 10, 0), 0);
	ck_assert_str_eq(text, "0123abc789");
}
END_TEST

/* The limit makes the first write short and the second fail. */
START_TEST(a_short_write_is_gone_on_with)
{
	const struct rlimit limit = { 8, 8 };
	char text[9] = "";
	int fd = make_file("", 0);

	ck_assert(signal(SIGXFSZ, SIG_IGN) != SIG_ERR);
	ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
	ck_assert_int_eq(fd_write_at(fd, "0123456789", 10, 0), -EFBIG);
	ck_assert_int_eq(fd_read_at(fd, text, 8, 0), 0);
	ck_assert_str_eq(text, "01234567");
}
END_TEST

static void read_line_of(const char *content, size_t size, char *line, size_t line_size,
			 int expected)
{
	char path[] = "/tmp/ballast-line-XXXXXX";
	int fd = mkstemp(path);

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(write(fd, content, size), size);
	int r = file_read_line(path, line, line_size);
	(void)unlink(path);
	close(fd);
	ck_assert_int_eq(r, expected);
}

START_TEST(a_line_loses_its_newline_only)
{
	char line[16];

	read_line_of("0x8086\n", 7, line, sizeof(line), 0);
	ck_assert_str_eq(line, "0x8086");
	read_line_of("0x8086", 6, line, sizeof(line), 0);
	ck_assert_str_eq(line, "0x8086");
	read_line_of("a\nb\n", 4, line, sizeof(line), 0);
	ck_assert_str_eq(line, "a\nb");
}
END_TEST

START_TEST(an_empty_file_is_an_empty_line)
{
	char line[16] = "x";

	read_line_of("", 0, line, sizeof(line), 0);
	ck_assert_str_eq(line, "");
	read_line_of("\n", 1, line, sizeof(line), 0);
	ck_assert_str_eq(line, "");
}
END_TEST

START_TEST(a_line_that_does_not_fit_is_refused)
{
	char line[8];

	read_line_of("0123456", 7, line, sizeof(line), 0);
	ck_assert_str_eq(line, "0123456");
	read_line_of("01234567", 8, line, sizeof(line), -ENAMETOOLONG);
	read_line_of("0123456789", 10, line, sizeof(line), -ENAMETOOLONG);
}
END_TEST

START_TEST(a_file_that_cannot_be_read_says_why)
{
	char line[8];
	unsigned int before = process_nr_fds();

	ck_assert_int_eq(file_read_line("/nonexistent", line, sizeof(line)), -ENOENT);
	ck_assert_int_eq(file_read_line("/", line, sizeof(line)), -EISDIR);
	ck_assert_uint_eq(process_nr_fds(), before);
}
END_TEST

START_TEST(a_link_is_named_by_where_it_ends)
{
	char folder[] = "/tmp/ballast-fd-XXXXXX";
	char path[64];
	char name[8];

	ck_assert_ptr_nonnull(mkdtemp(folder));
	(void)snprintf(path, sizeof(path), "%s/link", folder);
	ck_assert_int_eq(file_link_name(path, name, sizeof(name)), -ENOENT);
	ck_assert_int_eq(file_link_name(folder, name, sizeof(name)), -EINVAL);
	ck_assert_int_eq(symlink("../drivers/7letter", path), 0);
	ck_assert_int_eq(file_link_name(path, name, sizeof(name)), 0);
	ck_assert_str_eq(name, "7letter");
	ck_assert_int_eq(file_link_name(path, name, sizeof(name) - 1), -ENAMETOOLONG);
	ck_assert_int_eq(unlink(path), 0);
	ck_assert_int_eq(symlink("plain", path), 0);
	ck_assert_int_eq(file_link_name(path, name, sizeof(name)), 0);
	ck_assert_str_eq(name, "plain");
	ck_assert_int_eq(unlink(path), 0);
	ck_assert_int_eq(rmdir(folder), 0);
}
END_TEST

START_TEST(a_path_is_a_folder_and_a_name)
{
	static const struct {
		const char *path;
		const char *folder;
		const char *name;
	} cases[] = {
		{ "/usr/bin/true", "/usr/bin", "true" },
		{ "/file", "/", "file" },
		{ "file", ".", "file" },
		{ "/usr/", "/usr", "" },
	};
	unsigned int fds = process_nr_fds();
	struct stat seen, wanted;
	const char *name;
	int fd;

	for (unsigned int i = 0; i < nitems(cases); i++) {
		ck_assert_int_eq(file_open_folder(cases[i].path, &fd, &name), 0);
		ck_assert_str_eq(name, cases[i].name);
		ck_assert_int_eq(fstat(fd, &seen), 0);
		ck_assert_int_eq(stat(cases[i].folder, &wanted), 0);
		ck_assert_uint_eq(seen.st_dev, wanted.st_dev);
		ck_assert_uint_eq(seen.st_ino, wanted.st_ino);
		fd_close(&fd);
	}
	ck_assert_int_eq(file_open_folder("/no/such/file", &fd, &name), -ENOENT);
	ck_assert_int_eq(file_open_folder("/etc/passwd/file", &fd, &name), -ENOTDIR);
	ck_assert_uint_eq(process_nr_fds(), fds);
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		an_eventfd_starts_silent_and_closes_on_exec,
		two_signals_are_taken_as_one,
		looking_at_an_eventfd_takes_nothing,
		a_full_eventfd_is_signalled_all_the_same,
		no_free_descriptor_is_an_error_and_leaves_the_output_alone,
		closing_forgets_the_descriptor_and_keeps_errno,
		reading_takes_exactly_what_was_asked_for,
		reading_beyond_the_end_is_eio,
		short_reads_are_put_together,
		reading_reports_the_errno_of_the_call,
		writing_puts_bytes_where_they_belong,
		a_short_write_is_gone_on_with,
		a_line_loses_its_newline_only,
		an_empty_file_is_an_empty_line,
		a_line_that_does_not_fit_is_refused,
		a_file_that_cannot_be_read_says_why,
		a_link_is_named_by_where_it_ends,
		a_path_is_a_folder_and_a_name,
	};
	return run_tests("base_fd", NULL, NULL, tests, nitems(tests));
}
