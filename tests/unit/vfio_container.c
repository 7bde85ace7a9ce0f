/* SPDX-License-Identifier: MIT */
/* The DMA context: what is mapped, what is refused, and how that is told. */
#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <sys/mman.h>
#include <sys/resource.h>

#include "tests/fakes/vfio_world.h"

#define A "0000:01:00.0"
#define B "0000:02:00.0"

static uint8_t bar_memory[4096] __attribute__((aligned(4096)));

static int try_attach(unsigned int number, enum vfio_balloon balloon, struct vfio_group **ret)
{
	*ret = NULL;
	return vfio_group_attach(&world.vfio, number, balloon, ret);
}

static struct vfio_group *attach_group_with(unsigned int number, enum vfio_balloon balloon)
{
	struct vfio_group *group;

	ck_assert_int_eq(try_attach(number, balloon, &group), 0);
	ck_assert_ptr_nonnull(group);
	return group;
}

static struct vfio_group *attach_group(unsigned int number)
{
	return attach_group_with(number, VFIO_BALLOON_INHIBITS);
}

/* As for a group of mdevs, which the caller has seen to. */
static struct vfio_group *attach_group_allowing(unsigned int number)
{
	return attach_group_with(number, VFIO_BALLOON_ALLOWED);
}

static void expect_refusal(int error)
{
	struct vfio_group *group;

	ck_assert_int_eq(try_attach(7, VFIO_BALLOON_INHIBITS, &group), error);
	ck_assert_ptr_null(group);
	check_nothing_left();
}

/* Pages of RAM that are present. */
static unsigned int nr_present(void)
{
	unsigned char vector[2 * RAM_SIZE / 4096];
	unsigned int nr = 0;

	ck_assert_int_eq(mincore(world.ram.host, 2 * RAM_SIZE, vector), 0);
	for (unsigned int i = 0; i < sizeof(vector); i++)
		nr += vector[i] & 1u;
	return nr;
}

static void expect_log(const char *part)
{
	const char *text = logged();

	ck_assert_msg(strstr(text, part), "no \"%s\" in: %s", part, text);
}

static struct memory_region device_region(void)
{
	return (struct memory_region){
		.gpa = 0xc0000000,
		.size = sizeof(bar_memory),
		.host = bar_memory,
		.kind = MEMORY_DEVICE,
		.name = "bar",
	};
}

START_TEST(ram_that_comes_later_is_mapped_and_unmapped)
{
	struct memory_region late = world.low;

	fake_add_group(7);
	struct vfio_group *group = attach_group(7);
	late.link = (struct list_node){ 0 };
	late.gpa = 0x40000000;
	ck_assert_int_eq(memory_map_add(&world.map, &late), 0);
	ck_assert_uint_eq(fake_count("map c0 0x40000000 0x200000"), 1);
	memory_map_remove(&world.map, &late);
	ck_assert_uint_eq(fake_count("unmap c0 0x40000000 0x200000"), 1);
	vfio_group_detach(group);
	check_nothing_left();
}
END_TEST

START_TEST(ram_that_cannot_be_mapped_is_refused)
{
	struct memory_region late = world.low;

	fake_add_group(7);
	struct vfio_group *group = attach_group(7);
	late.link = (struct list_node){ 0 };
	late.gpa = 0x40000000;
	late.name = "late RAM";
	fake.map_error = -EFAULT;
	ck_assert_int_eq(memory_map_add(&world.map, &late), -EFAULT);
	expect_log("map late RAM 0x40000000+0x200000 for devices: Bad address");
	fake.map_error = 0;
	vfio_group_detach(group);
	check_nothing_left();
}
END_TEST

START_TEST(ram_is_made_present_before_it_is_pinned)
{
	fake_add_group(7);
	struct vfio_group *group = attach_group(7);

	ck_assert_uint_eq(nr_present(), 2 * RAM_SIZE / 4096);
	vfio_group_detach(group);
}
END_TEST

START_TEST(ram_that_is_not_pinned_is_mapped_as_it_is)
{
	struct memory_region late = world.low;

	fake_add_group(7);
	struct vfio_group *group = attach_group_allowing(7);
	late.link = (struct list_node){ 0 };
	late.gpa = 0x40000000;
	ck_assert_int_eq(memory_map_add(&world.map, &late), 0);
	ck_assert_uint_eq(fake.containers[0].nr_mappings, 3);
	ck_assert_uint_eq(nr_present(), 0);
	memory_map_remove(&world.map, &late);
	vfio_group_detach(group);
	check_nothing_left();
}
END_TEST

/* Loop: whoever comes first. */
START_TEST(who_allows_the_balloon_shares_no_container_with_who_does_not)
{
	struct vfio_group *groups[4];

	for (unsigned int i = 0; i < 4; i++) {
		fake_add_group(7 + i);
		groups[i] =
			(int)i % 2 == _i ? attach_group_allowing(7 + i) : attach_group(7 + i);
	}
	ck_assert_ptr_ne(groups[0]->container, groups[1]->container);
	ck_assert_ptr_eq(groups[0]->container, groups[2]->container);
	ck_assert_ptr_eq(groups[1]->container, groups[3]->container);
	ck_assert_uint_eq(fake_count("open_container"), 2);
	ck_assert_uint_eq(fake_count("map "), 4);
	ck_assert_uint_eq(reclaim_inhibitors(&world.reclaim), 2);
	for (unsigned int i = 0; i < 4; i++)
		vfio_group_detach(groups[i]);
	check_nothing_left();
}
END_TEST

START_TEST(what_is_pinned_is_all_ram_as_long_as_a_group_inhibits)
{
	struct memory_region bar = device_region();
	struct memory_region late = world.low;

	fake_add_group(7);
	fake_add_group(9);
	ck_assert_uint_eq(vfio_pinned(&world.vfio), 0);
	struct vfio_group *first = attach_group(7);
	ck_assert_uint_eq(vfio_pinned(&world.vfio), 2 * RAM_SIZE);
	struct vfio_group *second = attach_group(9);
	ck_assert_uint_eq(vfio_pinned(&world.vfio), 2 * RAM_SIZE);
	/* A BAR is no RAM. */
	ck_assert_int_eq(memory_map_add(&world.map, &bar), 0);
	ck_assert_uint_eq(vfio_pinned(&world.vfio), 2 * RAM_SIZE);
	late.link = (struct list_node){ 0 };
	late.gpa = 0x40000000;
	ck_assert_int_eq(memory_map_add(&world.map, &late), 0);
	ck_assert_uint_eq(vfio_pinned(&world.vfio), 3 * RAM_SIZE);
	memory_map_remove(&world.map, &late);
	memory_map_remove(&world.map, &bar);
	vfio_group_detach(first);
	ck_assert_uint_eq(vfio_pinned(&world.vfio), 2 * RAM_SIZE);
	vfio_group_detach(second);
	ck_assert_uint_eq(vfio_pinned(&world.vfio), 0);
}
END_TEST

START_TEST(a_container_tells_what_it_has_mapped)
{
	struct memory_region bar = device_region();
	struct vfio_container_figures figures;
	struct vfio_mapping_figures m[4] = { 0 };

	fake_add_group(7);
	struct vfio_group *group = attach_group(7);
	ck_assert_int_eq(memory_map_add(&world.map, &bar), 0);
	vfio_container_figures(group->container, &figures, m, nitems(m));
	ck_assert_uint_eq(figures.nr_mappings, 3);
	ck_assert_uint_eq(figures.nr_entries, fake.containers[0].nr_mappings);
	ck_assert_uint_eq(figures.max_entries, group->container->max_mappings);
	ck_assert_ptr_eq(m[0].name, world.low.name);
	ck_assert_uint_eq(m[0].gpa, world.low.gpa);
	ck_assert_uint_eq(m[0].size, RAM_SIZE);
	ck_assert_uint_eq(m[0].mapped, RAM_SIZE);
	ck_assert_str_eq(m[2].name, "bar");
	ck_assert_uint_eq(m[2].gpa, 0xc0000000);
	ck_assert_uint_eq(m[2].mapped, sizeof(bar_memory));
	/* As many as there is room for. */
	memset(m, 0, sizeof(m));
	vfio_container_figures(group->container, &figures, m, 1);
	ck_assert_uint_eq(figures.nr_mappings, 3);
	ck_assert_ptr_null(m[1].name);
	memory_map_remove(&world.map, &bar);
	vfio_group_detach(group);
	check_nothing_left();
}
END_TEST

START_TEST(what_two_containers_pin_counts_once)
{
	fake_add_group(7);
	fake_add_group(9);
	fake.refuses_sharing = true;
	struct vfio_group *first = attach_group(7);
	struct vfio_group *second = attach_group(9);

	ck_assert_ptr_ne(first->container, second->container);
	ck_assert_uint_eq(vfio_pinned(&world.vfio), 2 * RAM_SIZE);
	vfio_group_detach(first);
	ck_assert_uint_eq(vfio_pinned(&world.vfio), 2 * RAM_SIZE);
	vfio_group_detach(second);
	ck_assert_uint_eq(vfio_pinned(&world.vfio), 0);
}
END_TEST

START_TEST(who_allows_the_balloon_pins_nothing)
{
	fake_add_group(7);
	fake_add_group(9);
	struct vfio_group *allowing = attach_group_allowing(7);

	ck_assert_uint_eq(vfio_pinned(&world.vfio), 0);
	struct vfio_group *inhibiting = attach_group(9);
	ck_assert_uint_eq(vfio_pinned(&world.vfio), 2 * RAM_SIZE);
	vfio_group_detach(inhibiting);
	ck_assert_uint_eq(vfio_pinned(&world.vfio), 0);
	vfio_group_detach(allowing);
	check_nothing_left();
}
END_TEST

START_TEST(a_refused_group_has_pinned_nothing)
{
	fake_add_group(7);
	fake.map_error = -EFAULT;
	fake.map_error_host = world.high.host;
	expect_refusal(-EFAULT);
	ck_assert_uint_eq(vfio_pinned(&world.vfio), 0);
}
END_TEST

START_TEST(a_container_that_pins_nothing_needs_nothing_locked)
{
	const struct rlimit limit = { .rlim_cur = 65536, .rlim_max = 65536 };
	struct vfio_group *second;

	fake_add_group(7);
	fake_add_group(9);
	struct vfio_group *first = attach_group_allowing(7);
	ck_assert_int_eq(setrlimit(RLIMIT_MEMLOCK, &limit), 0);
	fake.map_error = -ENOMEM;
	ck_assert_int_eq(try_attach(9, VFIO_BALLOON_INHIBITS, &second), -ENOMEM);
	expect_log("4194304 bytes must be locked in all, RLIMIT_MEMLOCK allows 65536");
	vfio_group_detach(first);
	check_nothing_left();
}
END_TEST

/* Loop: which answer came first. */
START_TEST(a_group_is_of_one_answer_about_the_balloon)
{
	const enum vfio_balloon answers[] = { VFIO_BALLOON_INHIBITS, VFIO_BALLOON_ALLOWED };
	struct vfio_group *again;

	fake_add_group(7);
	struct vfio_group *group = attach_group_with(7, answers[_i]);
	ck_assert_int_eq(try_attach(7, answers[!_i], &again), -EINVAL);
	ck_assert_ptr_null(again);
	expect_log("attach group 7: it is assigned with");
	ck_assert_uint_eq(reclaim_inhibitors(&world.reclaim), !_i);
	ck_assert_uint_eq(fake.containers[0].nr_mappings, 2);
	ck_assert_int_eq(try_attach(7, answers[_i], &again), 0);
	ck_assert_ptr_eq(again, group);
	vfio_group_detach(group);
	check_nothing_left();
}
END_TEST

/* Loop: a hole in the middle, at the start, at the end. */
START_TEST(ram_in_a_hole_is_refused_by_name)
{
	static const struct {
		struct vfio_iova_range ranges[3];
		const char *hole;
	} cases[] = {
		{ { { 0, 0xfffff }, { 0x110000, 0xffffffff }, { 1ull << 32, UINT64_MAX } },
		  "low RAM 0x0+0x200000: the IOMMU does not translate the hole 0x100000-0x10ffff" },
		{ { { 0x1000, UINT64_MAX }, { 0x1000, 0x1000 }, { 0x1000, 0x1000 } },
		  "low RAM 0x0+0x200000: the IOMMU does not translate the hole 0x0-0xfff" },
		{ { { 0, 0x1000fffff }, { 0, 0 }, { 0, 0 } },
		  "high RAM 0x100000000+0x200000: the IOMMU does not translate the hole "
		  "0x100100000-0xffffffffffffffff" },
	};

	fake_add_group(7);
	memcpy(fake.ranges, cases[_i].ranges, sizeof(cases[_i].ranges));
	fake.nr_ranges = 3;
	expect_refusal(-ERANGE);
	expect_log(cases[_i].hole);
}
END_TEST

START_TEST(ranges_that_meet_have_no_hole)
{
	fake_add_group(7);
	fake.ranges[0] = (struct vfio_iova_range){ 1ull << 32, (1ull << 39) - 1 };
	fake.ranges[1] = (struct vfio_iova_range){ 0x100000, 0xfedfffff };
	fake.ranges[2] = (struct vfio_iova_range){ 0, 0xfffff };
	fake.nr_ranges = 3;
	vfio_group_detach(attach_group(7));
	check_nothing_left();
}
END_TEST

START_TEST(a_hole_that_a_second_group_brings_refuses_that_group)
{
	struct vfio_group *second;

	fake_add_group(7);
	fake_add_group(9);
	fake.ranges[0] = (struct vfio_iova_range){ 0, UINT64_MAX };
	fake.nr_ranges = 1;
	fake.later_ranges[0] = (struct vfio_iova_range){ 0, 0x100000000 };
	fake.nr_later_ranges = 1;
	struct vfio_group *first = attach_group(7);
	ck_assert_int_eq(try_attach(9, VFIO_BALLOON_INHIBITS, &second), -ERANGE);
	expect_log("high RAM 0x100000000+0x200000: the IOMMU does not translate the hole "
		   "0x100000001-");
	ck_assert_uint_eq(fake.containers[0].nr_groups, 1);
	ck_assert_uint_eq(fake.containers[0].nr_mappings, 2);
	ck_assert_uint_eq(reclaim_inhibitors(&world.reclaim), 1);
	vfio_group_detach(first);
	check_nothing_left();
}
END_TEST

START_TEST(a_memlock_limit_is_told_with_what_is_needed_and_allowed)
{
	const struct rlimit limit = { .rlim_cur = 65536, .rlim_max = 65536 };

	ck_assert_int_eq(setrlimit(RLIMIT_MEMLOCK, &limit), 0);
	fake_add_group(7);
	fake.map_error = -ENOMEM;
	fake.map_error_host = world.high.host;
	expect_refusal(-ENOMEM);
	expect_log(
		"map high RAM 0x100000000+0x200000: 4194304 bytes must be locked in all, "
		"RLIMIT_MEMLOCK allows 65536: raise it (ulimit -l, LimitMEMLOCK=), or give the "
		"guest less: Cannot allocate memory");
}
END_TEST

START_TEST(ram_on_its_way_is_counted_in_what_must_be_locked)
{
	const struct rlimit limit = { .rlim_cur = 65536, .rlim_max = 65536 };
	struct memory_region late = world.low;

	fake_add_group(7);
	struct vfio_group *group = attach_group(7);
	ck_assert_int_eq(setrlimit(RLIMIT_MEMLOCK, &limit), 0);
	late.link = (struct list_node){ 0 };
	late.gpa = 0x40000000;
	fake.map_error = -ENOMEM;
	ck_assert_int_eq(memory_map_add(&world.map, &late), -ENOMEM);
	expect_log("6291456 bytes must be locked in all");
	vfio_group_detach(group);
	check_nothing_left();
}
END_TEST

START_TEST(a_second_container_needs_all_of_ram_locked_again)
{
	const struct rlimit limit = { .rlim_cur = 65536, .rlim_max = 65536 };
	struct vfio_group *second;

	fake_add_group(7);
	fake_add_group(9);
	fake.refuses_sharing = true;
	struct vfio_group *first = attach_group(7);
	ck_assert_int_eq(setrlimit(RLIMIT_MEMLOCK, &limit), 0);
	fake.map_error = -ENOMEM;
	ck_assert_int_eq(try_attach(9, VFIO_BALLOON_INHIBITS, &second), -ENOMEM);
	expect_log("8388608 bytes must be locked in all, RLIMIT_MEMLOCK allows 65536");
	vfio_group_detach(first);
	check_nothing_left();
}
END_TEST

START_TEST(out_of_memory_without_a_limit_is_not_blamed_on_one)
{
	struct rlimit limit;

	ck_assert_int_eq(getrlimit(RLIMIT_MEMLOCK, &limit), 0);
	limit.rlim_cur = limit.rlim_max;
	ck_assert_int_eq(setrlimit(RLIMIT_MEMLOCK, &limit), 0);
	if (limit.rlim_max < 2 * RAM_SIZE)
		return; /* here there is always a limit to blame */
	fake_add_group(7);
	fake.map_error = -ENOMEM;
	expect_refusal(-ENOMEM);
	const char *text = logged();
	ck_assert_ptr_null(strstr(text, "RLIMIT_MEMLOCK"));
	ck_assert_ptr_nonnull(strstr(text, "map low RAM 0x0+0x200000 for devices"));
}
END_TEST

START_TEST(ram_beyond_the_last_entry_is_refused)
{
	fake_add_group(7);
	fake.has_entries = true;
	fake.entries = 1;
	expect_refusal(-ENOSPC);
	expect_log("map high RAM: all 1 entries of the IOMMU are taken");
}
END_TEST

START_TEST(entries_are_counted_anew_with_those_in_use)
{
	fake_add_group(7);
	fake_add_group(9);
	fake.has_entries = true;
	fake.entries = 3;
	struct vfio_group *first = attach_group(7);
	struct vfio_group *second = attach_group(9);
	struct memory_region late = world.low;
	late.link = (struct list_node){ 0 };
	late.gpa = 0x40000000;
	ck_assert_int_eq(memory_map_add(&world.map, &late), 0);
	struct memory_region later = late;
	later.link = (struct list_node){ 0 };
	later.gpa = 0x50000000;
	ck_assert_int_eq(memory_map_add(&world.map, &later), -ENOSPC);
	memory_map_remove(&world.map, &late);
	vfio_group_detach(first);
	vfio_group_detach(second);
	check_nothing_left();
}
END_TEST

/* As iommufd's container says, whatever is mapped. */
START_TEST(there_may_be_no_end_of_entries)
{
	fake_add_group(7);
	fake_add_group(9);
	fake.has_entries = true;
	fake.entries = UINT32_MAX;
	struct vfio_group *first = attach_group(7);
	ck_assert_uint_eq(first->container->max_mappings, UINT32_MAX);
	ck_assert_uint_gt(first->container->nr_mappings, 0);
	struct vfio_group *second = attach_group(9);
	ck_assert_uint_eq(first->container->max_mappings, UINT32_MAX);
	vfio_group_detach(first);
	vfio_group_detach(second);
	check_nothing_left();
}
END_TEST

START_TEST(an_unmap_of_another_size_is_told)
{
	fake_add_group(7);
	struct vfio_group *group = attach_group(7);

	(void)logged();
	fake.unmaps_less = 4096;
	vfio_group_detach(group);
	expect_log("unmap high RAM 0x100000000+0x200000: the kernel unmapped 0x1ff000 bytes of "
		   "0x200000, going on");
	check_nothing_left();
}
END_TEST

START_TEST(an_unmap_of_the_right_size_is_not_told)
{
	fake_add_group(7);
	struct vfio_group *group = attach_group(7);

	(void)logged();
	vfio_group_detach(group);
	ck_assert_str_eq(logged(), "");
}
END_TEST

START_TEST(a_bar_is_mapped_for_other_devices)
{
	struct memory_region bar = device_region();

	fake_add_group(7);
	struct vfio_group *group = attach_group(7);
	ck_assert_int_eq(memory_map_add(&world.map, &bar), 0);
	ck_assert_uint_eq(fake_count("map c0 0xc0000000 0x1000"), 1);
	memory_map_remove(&world.map, &bar);
	ck_assert_uint_eq(fake_count("unmap c0 0xc0000000 0x1000"), 1);
	vfio_group_detach(group);
}
END_TEST

START_TEST(a_bar_that_cannot_be_mapped_is_told_once_and_borne)
{
	struct memory_region bar = device_region();

	fake_add_group(7);
	struct vfio_group *group = attach_group(7);
	(void)logged();
	fake.map_error = -EFAULT;
	for (unsigned int i = 0; i < 3; i++) {
		ck_assert_int_eq(memory_map_add(&world.map, &bar), 0);
		memory_map_remove(&world.map, &bar);
	}
	ck_assert_uint_eq(fake_count("unmap c0 0xc0000000"), 0);
	const char *text = logged();
	ck_assert_ptr_nonnull(strstr(text, "devices cannot reach each other"));
	ck_assert_ptr_eq(strchr(text, '\n'), strrchr(text, '\n'));
	vfio_group_detach(group);
}
END_TEST

START_TEST(the_address_width_is_that_of_the_narrowest_container)
{
	fake_add_group(7);
	fake_add_group(9);
	fake.refuses_sharing = true;
	ck_assert_uint_eq(vfio_address_bits(&world.vfio), 64);
	fake.ranges[0] = (struct vfio_iova_range){ 0, 0xfedfffff };
	fake.ranges[1] = (struct vfio_iova_range){ 0xfef00000, (1ull << 48) - 1 };
	fake.nr_ranges = 2;
	struct vfio_group *first = attach_group(7);
	ck_assert_uint_eq(vfio_address_bits(&world.vfio), 48);
	fake.ranges[1].end = (1ull << 39) - 1;
	struct vfio_group *second = attach_group(9);
	ck_assert_uint_eq(vfio_address_bits(&world.vfio), 39);
	vfio_group_detach(second);
	ck_assert_uint_eq(vfio_address_bits(&world.vfio), 48);
	vfio_group_detach(first);
	ck_assert_uint_eq(vfio_address_bits(&world.vfio), 64);
}
END_TEST

START_TEST(a_group_is_attached_once_and_found_again)
{
	fake_add_group(7);
	struct vfio_group *group = attach_group(7);

	ck_assert_ptr_eq(attach_group(7), group);
	ck_assert_ptr_eq(vfio_group_find(&world.vfio, 7), group);
	ck_assert_ptr_null(vfio_group_find(&world.vfio, 9));
	ck_assert_uint_eq(fake_count("open_group 7"), 1);
	vfio_group_detach(group);
	check_nothing_left();
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("vfio_container");
	TCase *tests = tcase_create("container");

	tcase_add_checked_fixture(tests, world_init, world_finish);
	tcase_add_test(tests, ram_that_comes_later_is_mapped_and_unmapped);
	tcase_add_test(tests, ram_that_cannot_be_mapped_is_refused);
	tcase_add_test(tests, ram_is_made_present_before_it_is_pinned);
	tcase_add_test(tests, ram_that_is_not_pinned_is_mapped_as_it_is);
	tcase_add_loop_test(tests, who_allows_the_balloon_shares_no_container_with_who_does_not,
			    0, 2);
	tcase_add_test(tests, what_is_pinned_is_all_ram_as_long_as_a_group_inhibits);
	tcase_add_test(tests, a_container_tells_what_it_has_mapped);
	tcase_add_test(tests, what_two_containers_pin_counts_once);
	tcase_add_test(tests, who_allows_the_balloon_pins_nothing);
	tcase_add_test(tests, a_refused_group_has_pinned_nothing);
	tcase_add_test(tests, a_container_that_pins_nothing_needs_nothing_locked);
	tcase_add_loop_test(tests, a_group_is_of_one_answer_about_the_balloon, 0, 2);
	tcase_add_loop_test(tests, ram_in_a_hole_is_refused_by_name, 0, 3);
	tcase_add_test(tests, ranges_that_meet_have_no_hole);
	tcase_add_test(tests, a_hole_that_a_second_group_brings_refuses_that_group);
	tcase_add_test(tests, a_memlock_limit_is_told_with_what_is_needed_and_allowed);
	tcase_add_test(tests, ram_on_its_way_is_counted_in_what_must_be_locked);
	tcase_add_test(tests, a_second_container_needs_all_of_ram_locked_again);
	tcase_add_test(tests, out_of_memory_without_a_limit_is_not_blamed_on_one);
	tcase_add_test(tests, ram_beyond_the_last_entry_is_refused);
	tcase_add_test(tests, entries_are_counted_anew_with_those_in_use);
	tcase_add_test(tests, there_may_be_no_end_of_entries);
	tcase_add_test(tests, an_unmap_of_another_size_is_told);
	tcase_add_test(tests, an_unmap_of_the_right_size_is_not_told);
	tcase_add_test(tests, a_bar_is_mapped_for_other_devices);
	tcase_add_test(tests, a_bar_that_cannot_be_mapped_is_told_once_and_borne);
	tcase_add_test(tests, the_address_width_is_that_of_the_narrowest_container);
	tcase_add_test(tests, a_group_is_attached_once_and_found_again);
	suite_add_tcase(suite, tests);
	SRunner *runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	int failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed != 0;
}
