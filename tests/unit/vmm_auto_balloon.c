/* SPDX-License-Identifier: MIT */
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
	suite_add_tcase(suite, tests);
	SRunner *runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	int failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed != 0;
}
