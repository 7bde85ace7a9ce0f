/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <pthread.h>
#include <string.h>

#include "base/log.h"

#include "tests/fakes/process.h"

static unsigned int count_lines(const char *text)
{
	unsigned int count = 0;

	for (; *text; text++)
		count += *text == '\n';
	return count;
}

START_TEST(an_error_is_one_line_with_its_reason_and_is_returned)
{
	ck_assert_int_eq(log_err(-ENOMEM, "kvm: slot %u", 3u), -ENOMEM);
	ck_assert_str_eq(process_log(), "E kvm: slot 3: Cannot allocate memory\n");
}
END_TEST

START_TEST(an_error_of_0_has_no_reason)
{
	ck_assert_int_eq(log_err(0, "kernel '%s' is empty", "x"), 0);
	ck_assert_str_eq(process_log(), "E kernel 'x' is empty\n");
}
END_TEST

START_TEST(errors_go_to_who_captures_them_and_nothing_else_does)
{
	char why[16] = "before";

	log_capture(why, sizeof(why));
	ck_assert_str_eq(why, "");
	ck_assert_int_eq(log_err(-EIO, "a line that is longer"), -EIO);
	ck_assert_str_eq(why, "a line that is ");
	(void)log_err(-EIO, "b");
	ck_assert_str_eq(why, "b: Input/output");
	process_expect_no_log();
	log_warn("w");
	process_expect_log("W w");
	log_capture(NULL, 0);
	(void)log_err(0, "c");
	process_expect_log("E c");
	ck_assert_str_eq(why, "b: Input/output");
}
END_TEST

START_TEST(a_text_is_made_of_as_many_pieces_as_fit)
{
	char text[8] = "";

	text_add(text, sizeof(text), "%s%u", "a", 1u);
	text_add(text, sizeof(text), ", %s", "b");
	ck_assert_str_eq(text, "a1, b");
	text_add(text, sizeof(text), ", %s", "c");
	ck_assert_str_eq(text, "a1, b, ");
	text_add(text, sizeof(text), "d");
	ck_assert_str_eq(text, "a1, b, ");
}
END_TEST

START_TEST(each_level_has_its_letter)
{
	log_set_level(LOG_TRACE);
	log_warn("w");
	log_info("i");
	log_debug("d");
	ck_assert_str_eq(process_log(), "W w\nI i\nD d\n");
}
END_TEST

START_TEST(debug_is_not_printed_unless_asked_for)
{
	log_debug("d");
	ck_assert(!log_enabled(LOG_DEBUG));
	ck_assert(log_enabled(LOG_INFO));
	process_expect_no_log();
}
END_TEST

START_TEST(errors_are_printed_at_every_level)
{
	static struct log_budget budget;

	log_set_level(LOG_ERROR);
	log_warn("w");
	log_info("i");
	log_guest(&budget, "g");
	(void)log_err(0, "e");
	ck_assert_str_eq(process_log(), "E e\n");
}
END_TEST

START_TEST(errno_is_kept)
{
	errno = ERANGE;
	(void)log_err(-ENOMEM, "x");
	log_info("y");
	ck_assert_int_eq(errno, ERANGE);
}
END_TEST

START_TEST(a_line_too_long_is_cut_and_stays_one_line)
{
	char wide[3000];

	memset(wide, 'x', sizeof(wide) - 1);
	wide[sizeof(wide) - 1] = '\0';
	(void)log_err(-ENOMEM, "%s", wide);
	const char *text = process_log();
	ck_assert_uint_eq(count_lines(text), 1);
	ck_assert_uint_ge(strlen(text), 1000);
	ck_assert_uint_le(strlen(text), 1024);
	ck_assert_int_eq(text[strlen(text) - 1], '\n');
}
END_TEST

/* Every length at which text, reason and newline meet the end of the buffer. */
START_TEST(any_length_near_the_limit_ends_in_a_newline)
{
	char wide[1100];

	for (size_t size = 980; size < sizeof(wide) - 1; size++) {
		memset(wide, 'x', size);
		wide[size] = '\0';
		(void)log_err(-EPERM, "%s", wide);
		const char *text = process_log();
		ck_assert_uint_eq(count_lines(text), 1);
		ck_assert_uint_le(strlen(text), 1024);
	}
}
END_TEST

START_TEST(a_guest_is_cut_off_after_its_budget_and_that_is_said)
{
	static struct log_budget budget;
	static struct log_budget other;

	for (unsigned int i = 0; i < 100; i++)
		log_guest(&budget, "bad access %u", i);
	const char *text = process_log();
	ck_assert_uint_eq(count_lines(text), LOG_GUEST_BURST + 1);
	ck_assert_ptr_nonnull(strstr(text, "W bad access 15\n"));
	ck_assert_ptr_null(strstr(text, "bad access 16"));
	ck_assert_ptr_nonnull(strstr(text, "no longer reported\n"));
	log_guest(&other, "another source");
	process_expect_log("W another source");
}
END_TEST

static void *print_many(void *opaque)
{
	struct log_budget *budget = opaque;

	for (unsigned int i = 0; i < 200; i++) {
		log_guest(budget, "guest");
		log_info("%s", "a line that is whole");
	}
	return NULL;
}

START_TEST(lines_of_several_threads_do_not_mix)
{
	static struct log_budget budget;
	pthread_t threads[4];
	char *rest = NULL;
	unsigned int whole = 0;
	unsigned int guest = 0;

	for (unsigned int i = 0; i < nitems(threads); i++)
		ck_assert_int_eq(pthread_create(&threads[i], NULL, print_many, &budget), 0);
	for (unsigned int i = 0; i < nitems(threads); i++)
		pthread_join(threads[i], NULL);
	autofree char *text = strdup(process_log());
	for (char *line = strtok_r(text, "\n", &rest); line;
	     line = strtok_r(NULL, "\n", &rest)) {
		if (strcmp(line, "I a line that is whole") == 0)
			whole++;
		else if (strcmp(line, "W guest") == 0)
			guest++;
		else
			ck_assert_ptr_nonnull(strstr(line, "no longer reported"));
	}
	ck_assert_uint_eq(whole, 200 * nitems(threads));
	ck_assert_uint_eq(guest, LOG_GUEST_BURST);
}
END_TEST

START_TEST(a_context_stands_in_front_of_each_line)
{
	char text[2048];

	log_set_context("--config 'a.json'");
	(void)log_err(-ENOENT, "key %d", 5);
	ck_assert_str_eq(process_log(),
			 "E --config 'a.json': key 5: No such file or directory\n");
	memset(text, 'x', sizeof(text) - 1);
	text[sizeof(text) - 1] = '\0';
	log_set_context(text);
	(void)log_err(0, "it is %s", "seen all the same");
	process_expect_log("xx: it is seen all the same");
	log_set_context(NULL);
	(void)log_err(0, "no more");
	ck_assert_str_eq(process_log(), "E no more\n");
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		an_error_is_one_line_with_its_reason_and_is_returned,
		an_error_of_0_has_no_reason,
		errors_go_to_who_captures_them_and_nothing_else_does,
		a_text_is_made_of_as_many_pieces_as_fit,
		each_level_has_its_letter,
		debug_is_not_printed_unless_asked_for,
		errors_are_printed_at_every_level,
		errno_is_kept,
		a_line_too_long_is_cut_and_stays_one_line,
		any_length_near_the_limit_ends_in_a_newline,
		a_guest_is_cut_off_after_its_budget_and_that_is_said,
		lines_of_several_threads_do_not_mix,
		a_context_stands_in_front_of_each_line,
	};
	return run_tests("base_log", process_keep_log, NULL, tests, nitems(tests));
}
