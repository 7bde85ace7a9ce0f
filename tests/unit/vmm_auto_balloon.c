/* SPDX-License-Identifier: MIT */
#include <stdio.h>
#include <unistd.h>

#include "tests/fakes/process.h"
#include "vmm/auto_balloon.h"

#define MIB (1ull << 20)
#define GIB (1ull << 30)

static struct auto_balloon automatic;
static struct auto_balloon_view view;

/* A guest of 4 GiB that has it all and uses half of it, on a host at ease. */
static void setup(void)
{
	const struct auto_balloon_config config = { .on = true, .min = GIB };

	auto_balloon_init(&automatic, &config, 64 * MIB, 4 * GIB);
	view = (struct auto_balloon_view){
		.keep = 4 * GIB,
		.has = 4 * GIB,
		.has_stats = true,
		.available = 2 * GIB,
		.host_total = 16 * GIB,
		.host_available = 8 * GIB,
	};
}

static uint64_t decide(void)
{
	return auto_balloon_decide(&automatic, &view);
}

/* The guest does as it is asked at once. */
static void obey(uint64_t keep)
{
	view.available = view.available + keep - view.has;
	view.has = keep;
	view.keep = keep;
}

START_TEST(limits_that_were_not_given_are_those_of_the_machine)
{
	const struct auto_balloon_config config = { .on = true };

	auto_balloon_init(&automatic, &config, 64 * MIB, 4 * GIB);
	ck_assert_uint_eq(automatic.config.min, 64 * MIB);
	ck_assert_uint_eq(automatic.config.max, 4 * GIB);
}
END_TEST

START_TEST(with_all_at_ease_nothing_changes)
{
	for (unsigned int i = 0; i < 100; i++)
		ck_assert_uint_eq(decide(), 4 * GIB);
	ck_assert_uint_eq(automatic.nr_changes, 0);
}
END_TEST

/* Loop: the host waits for memory, or has little. */
START_TEST(a_tight_host_takes_step_by_step_and_leaves_a_fifth)
{
	unsigned int nr = 0;

	if (_i == 0)
		view.host_pressure = AUTO_BALLOON_TIGHT;
	else
		view.host_available = view.host_total / 20 - 1;
	for (uint64_t keep; (keep = decide()) != view.keep; nr++) {
		ck_assert_uint_le(view.keep - keep, 192 * MIB);
		ck_assert_int_eq(automatic.reason, AUTO_BALLOON_HOST_TIGHT);
		obey(keep);
	}
	/* 2 GiB in use, and a fifth of the whole free. */
	ck_assert_uint_eq(view.keep, 2560 * MIB);
	ck_assert_uint_eq(nr, automatic.nr_changes);
}
END_TEST

START_TEST(it_does_not_go_below_min)
{
	view.host_pressure = 5000;
	view.available = 4 * GIB - 100 * MIB;
	for (uint64_t keep; (keep = decide()) != view.keep;)
		obey(keep);
	ck_assert_uint_eq(view.keep, GIB);
}
END_TEST

START_TEST(it_stays_tight_until_it_is_easy)
{
	view.host_pressure = AUTO_BALLOON_TIGHT;
	obey(decide());
	view.host_pressure = AUTO_BALLOON_EASY; /* neither */
	uint64_t keep = decide();
	ck_assert_uint_lt(keep, view.keep);
	obey(keep);
	view.host_pressure = AUTO_BALLOON_EASY - 1;
	ck_assert_uint_eq(decide(), view.keep);
	view.host_pressure = AUTO_BALLOON_TIGHT - 1; /* neither, from the other side */
	ck_assert_uint_eq(decide(), view.keep);
}
END_TEST

START_TEST(nothing_is_asked_of_a_guest_that_is_on_its_way)
{
	view.host_pressure = AUTO_BALLOON_TIGHT;
	view.keep = 3 * GIB;
	for (unsigned int i = 0; i < 10; i++, view.has -= MIB)
		ck_assert_uint_eq(decide(), 3 * GIB);
	/* It moves no more, and will not do all of it. */
	for (unsigned int i = 0; i < AUTO_BALLOON_CALM; i++)
		ck_assert_uint_eq(decide(), 3 * GIB);
	ck_assert_uint_lt(decide(), 3 * GIB);
}
END_TEST

START_TEST(a_guest_that_has_rested_gets_its_time_for_the_first_step_too)
{
	for (unsigned int i = 0; i < 2 * AUTO_BALLOON_CALM; i++)
		ck_assert_uint_eq(decide(), 4 * GIB);
	view.host_pressure = AUTO_BALLOON_TIGHT;
	view.keep = decide();
	ck_assert_uint_eq(view.keep, 4 * GIB - 192 * MIB);
	/* It has not begun yet. */
	for (unsigned int i = 1; i < AUTO_BALLOON_CALM; i++)
		ck_assert_uint_eq(decide(), view.keep);
	ck_assert_uint_lt(decide(), view.keep);
}
END_TEST

START_TEST(nothing_is_taken_from_a_guest_that_says_nothing)
{
	view.host_pressure = AUTO_BALLOON_TIGHT;
	view.has_stats = false;
	ck_assert_uint_eq(decide(), 4 * GIB);
}
END_TEST

START_TEST(an_easy_host_gives_back_after_a_while)
{
	obey(3 * GIB);
	for (unsigned int step = 0; step < 3; step++) {
		for (unsigned int i = 1; i < AUTO_BALLOON_CALM; i++)
			ck_assert_uint_eq(decide(), view.keep);
		ck_assert_uint_eq(decide(), view.keep + 192 * MIB);
		ck_assert_int_eq(automatic.reason, AUTO_BALLOON_HOST_EASY);
		obey(view.keep + 192 * MIB);
	}
	obey(4 * GIB - MIB);
	for (unsigned int i = 0; i < AUTO_BALLOON_CALM; i++)
		obey(decide());
	ck_assert_uint_eq(view.keep, 4 * GIB);
}
END_TEST

START_TEST(a_look_that_is_not_easy_begins_the_while_anew)
{
	obey(3 * GIB);
	for (unsigned int i = 1; i < AUTO_BALLOON_CALM; i++)
		ck_assert_uint_eq(decide(), view.keep);
	view.host_pressure = AUTO_BALLOON_EASY;
	ck_assert_uint_eq(decide(), view.keep);
	view.host_pressure = 0;
	for (unsigned int i = 1; i < AUTO_BALLOON_CALM; i++)
		ck_assert_uint_eq(decide(), view.keep);
	ck_assert_uint_gt(decide(), view.keep);
}
END_TEST

START_TEST(a_short_guest_does_not_wait_and_comes_first)
{
	obey(2 * GIB);
	view.host_pressure = 9999;
	view.keep = GIB; /* it was asked for more still */
	view.available = view.has / 10 - 1;
	ck_assert_uint_eq(decide(), GIB + 192 * MIB);
	ck_assert_int_eq(automatic.reason, AUTO_BALLOON_GUEST_SHORT);
	view.keep = 4 * GIB;
	ck_assert_uint_eq(decide(), 4 * GIB);
}
END_TEST

/* Taking and giving back do not follow each other: no guest is both. */
START_TEST(what_a_tight_host_took_is_not_given_back_by_itself)
{
	view.host_pressure = AUTO_BALLOON_TIGHT;
	for (uint64_t keep; (keep = decide()) != view.keep;)
		obey(keep);
	ck_assert(view.available >= view.has / 10);
	ck_assert_uint_eq(decide(), view.keep);
}
END_TEST

/* Files */

static char path[64];

static const char *file_with(const char *text)
{
	(void)snprintf(path, sizeof(path), "/tmp/ballast-auto-%d", getpid());
	FILE *f = fopen(path, "w");
	ck_assert_ptr_nonnull(f);
	ck_assert_int_ge(fputs(text, f), 0);
	ck_assert_int_eq(fclose(f), 0);
	return path;
}

/* Twice, as in the sandbox, where the files are open for good. */
static void look_at(const char *pressure, const char *meminfo, const char *statm)
{
	unsigned int fds = process_nr_fds();
	struct auto_balloon_view first = view;
	struct auto_balloon_host host;

	auto_balloon_open_host(&host, pressure, meminfo, statm);
	auto_balloon_look_at_host(&first, &host);
	auto_balloon_look_at_host(&view, &host);
	ck_assert_uint_eq(view.host_total, first.host_total);
	auto_balloon_close_host(&host);
	ck_assert_uint_eq(process_nr_fds(), fds);
}

START_TEST(pressure_is_read_as_the_kernel_writes_it)
{
	static const struct {
		const char *text;
		unsigned int pressure;
	} cases[] = {
		{ "some avg10=0.00 avg60=1.00 avg300=2.00 total=3\nfull avg10=9.00\n", 0 },
		{ "some avg10=12.34 avg60=0.00 avg300=0.00 total=0\n", 1234 },
		{ "some avg10=100.00 avg60=0.00\n", 10000 },
		{ "nothing of the kind\n", 0 },
		{ "", 0 },
	};

	for (unsigned int i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		look_at(file_with(cases[i].text), "/nowhere", "/nowhere");
		ck_assert_uint_eq(view.host_pressure, cases[i].pressure);
		ck_assert_uint_eq(view.host_total, 0);
		ck_assert_int_eq(unlink(path), 0);
	}
	look_at("/nowhere", "/nowhere", "/nowhere");
	ck_assert_uint_eq(view.host_pressure, 0);
}
END_TEST

START_TEST(memory_is_read_as_the_kernel_writes_it)
{
	look_at("/nowhere",
		file_with("MemTotal:       16 kB\nMemFree: 1 kB\n"
			  "MemAvailable:    8 kB\nSwapFree: 2 kB\n"),
		"/nowhere");
	ck_assert_uint_eq(view.host_total, 16384);
	ck_assert_uint_eq(view.host_available, 8192);
	ck_assert_uint_eq(view.host_swap, 2048);
	ck_assert_uint_eq(view.resident, 0);
	ck_assert_int_eq(unlink(path), 0);
	look_at("/nowhere", "/nowhere", file_with("900 30 2 1 0 1 0\n"));
	ck_assert_uint_eq(view.resident, 30 * (uint64_t)sysconf(_SC_PAGESIZE));
	ck_assert_int_eq(unlink(path), 0);
	look_at("/proc/pressure/memory", "/proc/meminfo", "/proc/self/statm");
	ck_assert_uint_gt(view.host_total, view.host_available);
	ck_assert_uint_gt(view.resident, 0);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("vmm_auto_balloon");
	TCase *tests = tcase_create("auto");

	tcase_add_checked_fixture(tests, setup, NULL);
	tcase_add_test(tests, limits_that_were_not_given_are_those_of_the_machine);
	tcase_add_test(tests, with_all_at_ease_nothing_changes);
	tcase_add_loop_test(tests, a_tight_host_takes_step_by_step_and_leaves_a_fifth, 0, 2);
	tcase_add_test(tests, it_does_not_go_below_min);
	tcase_add_test(tests, it_stays_tight_until_it_is_easy);
	tcase_add_test(tests, nothing_is_asked_of_a_guest_that_is_on_its_way);
	tcase_add_test(tests, a_guest_that_has_rested_gets_its_time_for_the_first_step_too);
	tcase_add_test(tests, nothing_is_taken_from_a_guest_that_says_nothing);
	tcase_add_test(tests, an_easy_host_gives_back_after_a_while);
	tcase_add_test(tests, a_look_that_is_not_easy_begins_the_while_anew);
	tcase_add_test(tests, a_short_guest_does_not_wait_and_comes_first);
	tcase_add_test(tests, what_a_tight_host_took_is_not_given_back_by_itself);
	tcase_add_test(tests, pressure_is_read_as_the_kernel_writes_it);
	tcase_add_test(tests, memory_is_read_as_the_kernel_writes_it);
	suite_add_tcase(suite, tests);
	SRunner *runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	int failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed != 0;
}
