/* SPDX-License-Identifier: MIT */
#include <string.h>

#include "base/list.h"

#include "tests/fakes/process.h"

struct item {
	char name;
	struct list_node link;
};

static struct list_node list;
static struct item a = { .name = 'a' };
static struct item b = { .name = 'b' };
static struct item c = { .name = 'c' };

static void setup(void)
{
	list_init(&list);
}

static char name_of(struct list_node *n)
{
	return container_of(n, struct item, link)->name;
}

static void expect(const char *names)
{
	char found[8] = "";
	size_t i = 0;

	list_for_each(n, &list)
		found[i++] = name_of(n);
	ck_assert_str_eq(found, names);
	i = 0;
	list_for_each_reverse_from(n, &list, &list)
		found[i++] = name_of(n);
	ck_assert_uint_eq(i, strlen(names));
	for (size_t k = 0; k < i; k++)
		ck_assert_int_eq(found[k], names[i - 1 - k]);
}

START_TEST(a_fresh_list_is_empty)
{
	ck_assert(list_empty(&list));
	expect("");
}
END_TEST

START_TEST(a_zeroed_node_is_on_no_list)
{
	ck_assert(!list_linked(&a.link));
	list_append(&list, &a.link);
	ck_assert(list_linked(&a.link));
	ck_assert(!list_empty(&list));
}
END_TEST

START_TEST(appending_keeps_the_order)
{
	list_append(&list, &a.link);
	list_append(&list, &b.link);
	list_append(&list, &c.link);
	expect("abc");
}
END_TEST

START_TEST(inserting_goes_before)
{
	list_append(&list, &c.link);
	list_insert_before(&c.link, &a.link);
	list_insert_before(&c.link, &b.link);
	expect("abc");
}
END_TEST

START_TEST(a_removed_node_is_on_no_list_and_may_join_again)
{
	list_append(&list, &a.link);
	list_append(&list, &b.link);
	list_remove(&a.link);
	ck_assert(!list_linked(&a.link));
	expect("b");
	list_append(&list, &a.link);
	expect("ba");
}
END_TEST

START_TEST(removing_what_is_on_no_list_does_nothing)
{
	list_append(&list, &a.link);
	list_remove(&b.link);
	list_remove(&a.link);
	list_remove(&a.link);
	ck_assert(list_empty(&list));
}
END_TEST

START_TEST(the_safe_walk_allows_removal)
{
	list_append(&list, &a.link);
	list_append(&list, &b.link);
	list_append(&list, &c.link);
	list_for_each_safe(n, &list) {
		if (name_of(n) != 'b')
			list_remove(n);
	}
	expect("b");
}
END_TEST

START_TEST(the_reverse_walk_starts_before_its_node)
{
	char found[4] = "";
	size_t i = 0;

	list_append(&list, &a.link);
	list_append(&list, &b.link);
	list_append(&list, &c.link);
	list_for_each_reverse_from(n, &c.link, &list)
		found[i++] = name_of(n);
	ck_assert_str_eq(found, "ba");
	list_for_each_reverse_from(n, &a.link, &list)
		ck_abort_msg("nothing is before the first");
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		a_fresh_list_is_empty,
		a_zeroed_node_is_on_no_list,
		appending_keeps_the_order,
		inserting_goes_before,
		a_removed_node_is_on_no_list_and_may_join_again,
		removing_what_is_on_no_list_does_nothing,
		the_safe_walk_allows_removal,
		the_reverse_walk_starts_before_its_node,
	};
	return run_tests("base_list", setup, NULL, tests, nitems(tests));
}
