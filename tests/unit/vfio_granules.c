/* SPDX-License-Identifier: MIT */
/* Groups that go along with the balloon: what is unmapped, what is mapped again, and in which order. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>

#include <linux/capability.h>
#include <linux/pci_regs.h>

#include "tests/fakes/process.h"
#include "tests/fakes/vfio_world.h"

#define DEVICE "0000:01:00.0"
#define GRANULE (256ull << 10)
#define NR_GRANULES (2 * RAM_SIZE / GRANULE)
#define PAGE 4096ull

/* Bytes; 0: as it is. */
static unsigned long host_memory;

int __real_sysinfo(struct sysinfo *ret);
int __wrap_sysinfo(struct sysinfo *ret);
int __wrap_sysinfo(struct sysinfo *ret)
{
	int r = __real_sysinfo(ret);

	if (host_memory) {
		ret->totalram = host_memory;
		ret->mem_unit = 1;
	}
	return r;
}

static uint8_t bar_memory[4096] __attribute__((aligned(4096)));

static struct vfio_group *attach_group(unsigned int number)
{
	struct vfio_group *group;

	ck_assert_int_eq(vfio_group_attach(&world.vfio, number, VFIO_BALLOON_INHIBITS, &group),
			 0);
	return group;
}

static void refuse_group(int error)
{
	struct vfio_group *group;

	ck_assert_int_eq(vfio_group_attach(&world.vfio, 7, VFIO_BALLOON_INHIBITS, &group),
			 error);
	ck_assert_uint_eq(fake_count("map "), 0);
	check_nothing_left();
}

/* One group, or two in containers of their own, attached. */
static struct vfio_group *groups[2];

static void start(unsigned int nr_groups)
{
	world_coordinate(GRANULE, false);
	fake.refuses_sharing = true;
	for (unsigned int i = 0; i < nr_groups; i++) {
		fake_add_group(7 + i);
		groups[i] = attach_group(7 + i);
	}
	(void)logged();
	fake_forget_record();
}

static void stop(unsigned int nr_groups)
{
	for (unsigned int i = 0; i < nr_groups; i++)
		vfio_group_detach(groups[i]);
	check_nothing_left();
}

static struct reclaim_figures figures(void)
{
	struct reclaim_figures f;

	reclaim_figures(&world.reclaim, &f);
	return f;
}

static void take(gpa_t gpa, uint64_t size)
{
	ck_assert_int_eq(reclaim_take(&world.reclaim, gpa, size), 0);
}

static void give_back(gpa_t gpa, uint64_t size)
{
	ck_assert_int_eq(reclaim_give_back(&world.reclaim, gpa, size), 0);
}

/* What has just been given back is let go of again only after a rest. */
static void let_rest(void)
{
	(void)reclaim_tick(&world.reclaim);
	ck_assert(!reclaim_tick(&world.reclaim));
}

static void expect_figures(uint64_t held, uint64_t reclaimed)
{
	ck_assert_uint_eq(figures().held, held);
	ck_assert_uint_eq(figures().reclaimed, reclaimed);
	ck_assert_uint_eq(vfio_pinned(&world.vfio), 2 * RAM_SIZE - reclaimed);
}

static void expect_log(const char *part)
{
	const char *text = logged();

	ck_assert_msg(strstr(text, part), "no \"%s\" in: %s", part, text);
}

START_TEST(ram_is_mapped_in_granules)
{
	struct memory_region odd = world.low;

	world_coordinate(GRANULE, false);
	fake_add_group(7);
	struct vfio_group *group = attach_group(7);
	ck_assert_uint_eq(fake_count("map c0 "), NR_GRANULES);
	ck_assert_uint_eq(fake_count("map c0 0x1c0000 0x40000"), 1);
	ck_assert_uint_eq(fake_count("map c0 0x1001c0000 0x40000"), 1);
	ck_assert_uint_eq(fake_count("inhibitor_raise"), 0);
	ck_assert_int_eq(figures().policy, RECLAIM_COORDINATED);
	ck_assert_uint_eq(vfio_pinned(&world.vfio), 2 * RAM_SIZE);
	/* One that ends in the middle of a granule. */
	odd.link = (struct list_node){ 0 };
	odd.gpa = 0x40000000;
	odd.size = 0x50000;
	ck_assert_int_eq(memory_map_add(&world.map, &odd), 0);
	ck_assert_uint_eq(fake_count("map c0 0x40000000 0x40000"), 1);
	ck_assert_uint_eq(fake_count("map c0 0x40040000 0x10000"), 1);
	ck_assert_uint_eq(vfio_pinned(&world.vfio), 2 * RAM_SIZE + odd.size);
	take(0x40040000, 0x10000);
	ck_assert_uint_eq(fake_count("unmap c0 0x40040000 0x10000"), 1);
	ck_assert_uint_eq(figures().reclaimed, 0x10000);
	ck_assert_uint_eq(vfio_pinned(&world.vfio), 2 * RAM_SIZE + 0x40000);
	memory_map_remove(&world.map, &odd);
	vfio_group_detach(group);
	/* Whatever it consists of, a region goes by one call. */
	ck_assert_uint_eq(fake_count("unmap c0 0x0 0x200000"), 1);
	check_nothing_left();
}
END_TEST

START_TEST(more_granules_than_entries_are_refused_before_anything_is_mapped)
{
	world_coordinate(GRANULE, false);
	fake_add_group(7);
	fake.has_entries = true;
	fake.entries = 70;
	refuse_group(-E2BIG);
	expect_log("granule=256K: 4 MiB of RAM are 16 granules, and 64 entries are kept for "
		   "BARs, but the IOMMU has 70: granule=1M does, or less memory");
	fake.entries = 80;
	vfio_group_detach(attach_group(7));
}
END_TEST

START_TEST(a_granule_is_unmapped_discarded_and_mapped_before_it_is_given_back)
{
	start(1);
	take(0, GRANULE - PAGE);
	ck_assert_uint_eq(fake.nr_lines, 0);
	expect_figures(GRANULE - PAGE, 0);
	ck_assert_uint_eq(figures().incomplete, GRANULE - PAGE);
	take(GRANULE - PAGE, PAGE);
	ck_assert_int_eq(fake_first("unmap c0 0x0 0x40000"), 0);
	ck_assert_int_eq(fake_first("discard 0x0 0x40000"), 1);
	ck_assert_uint_eq(fake.nr_lines, 2);
	expect_figures(GRANULE, GRANULE);
	give_back(3 * PAGE, PAGE);
	ck_assert_int_eq(fake_first("map c0 0x0 0x40000"), 2);
	ck_assert_uint_eq(fake.nr_lines, 3);
	expect_figures(GRANULE - PAGE, 0);
	give_back(0, GRANULE); /* the rest of it is there already */
	ck_assert_uint_eq(fake.nr_lines, 3);
	expect_figures(0, 0);
	stop(1);
}
END_TEST

START_TEST(neighbouring_granules_go_by_one_call_and_come_back_one_by_one)
{
	start(1);
	take(HIGH_RAM, RAM_SIZE);
	ck_assert_uint_eq(fake_count("unmap "), 1);
	ck_assert_uint_eq(fake_count("unmap c0 0x100000000 0x200000"), 1);
	ck_assert_uint_eq(fake_count("discard 0x200000 0x200000"), 1);
	expect_figures(RAM_SIZE, RAM_SIZE);
	give_back(HIGH_RAM + GRANULE, 2 * GRANULE);
	ck_assert_uint_eq(fake_count("map "), 2);
	expect_figures(RAM_SIZE - 2 * GRANULE, RAM_SIZE - 2 * GRANULE);
	give_back(HIGH_RAM, RAM_SIZE);
	ck_assert_uint_eq(fake_count("map "), 8);
	stop(1);
}
END_TEST

START_TEST(a_granule_that_came_back_rests_before_it_goes_again)
{
	start(1);
	take(0, GRANULE);
	for (unsigned int i = 0; i < 100; i++) {
		give_back(0, PAGE);
		take(0, PAGE);
	}
	ck_assert_uint_eq(fake_count("unmap "), 1);
	ck_assert_uint_eq(fake_count("map "), 1);
	ck_assert_uint_eq(figures().resting, GRANULE);
	expect_figures(GRANULE, 0);
	ck_assert(reclaim_tick(&world.reclaim)); /* it may have come a moment ago */
	expect_figures(GRANULE, 0);
	ck_assert(!reclaim_tick(&world.reclaim));
	expect_figures(GRANULE, GRANULE);
	stop(1);
}
END_TEST

START_TEST(what_two_containers_have_mapped_both_let_go_of_before_the_discard)
{
	start(2);
	take(0, GRANULE);
	ck_assert_int_eq(fake_first("unmap c0 0x0"), 0);
	ck_assert_int_eq(fake_first("unmap c1 0x0"), 1);
	ck_assert_int_eq(fake_first("discard 0x0"), 2);
	give_back(0, PAGE);
	ck_assert_int_eq(fake_first("map c0 0x0"), 3);
	ck_assert_int_eq(fake_first("map c1 0x0"), 4);
	stop(2);
}
END_TEST

START_TEST(an_unmap_that_fails_leaves_the_granule_live_in_all_of_them)
{
	start(2);
	fake.fail_at = fake.nr_calls + 2; /* in the second container */
	take(0, GRANULE);
	ck_assert_uint_eq(fake_count("map c0 0x0 0x40000"), 1); /* again */
	ck_assert_uint_eq(fake_count("discard"), 0);
	expect_figures(GRANULE, 0);
	ck_assert_uint_eq(fake.containers[0].nr_mappings, NR_GRANULES);
	ck_assert_uint_eq(fake.containers[1].nr_mappings, NR_GRANULES);
	ck_assert_uint_eq(figures().nr_not_released, 1);
	expect_log("reclaim: unmap 0x0+0x40000 for devices: it stays as it is");
	/* Said once; tried again when something else happens. */
	let_rest();
	expect_figures(GRANULE, GRANULE);
	ck_assert_str_eq(logged(), "");
	stop(2);
}
END_TEST

START_TEST(an_unmap_of_less_than_was_mapped_discards_nothing)
{
	start(1);
	fake.unmaps_less = PAGE;
	take(0, GRANULE);
	ck_assert_uint_eq(fake_count("discard"), 0);
	expect_figures(GRANULE, 0);
	fake.unmaps_less = 0;
	stop(1);
}
END_TEST

START_TEST(a_map_that_fails_is_undone_and_not_acknowledged)
{
	start(2);
	take(0, 2 * GRANULE);
	for (unsigned int n = 1; n <= 2; n++) { /* in the first container, in the second */
		fake.fail_at = fake.nr_calls + n;
		ck_assert_int_eq(reclaim_give_back(&world.reclaim, 0, PAGE), -ENOMEM);
		ck_assert_uint_eq(fake.containers[0].nr_mappings, NR_GRANULES - 2);
		ck_assert_uint_eq(fake.containers[1].nr_mappings, NR_GRANULES - 2);
		expect_figures(2 * GRANULE, 2 * GRANULE);
		ck_assert_uint_eq(figures().nr_not_restored, n);
	}
	ck_assert_str_eq(logged(), ""); /* the balloon tells */
	give_back(0, PAGE);
	expect_figures(2 * GRANULE - PAGE, GRANULE);
	stop(2);
}
END_TEST

/* Loop: the n-th call fails, and all those after it. CPU and devices never differ. */
START_TEST(whatever_fails_from_some_call_on_comes_right_when_it_works_again)
{
	start(2);
	for (unsigned int n = 1; n <= 12; n++) {
		fake.fail_at = fake.nr_calls + n;
		take(0, 2 * GRANULE);
		while (reclaim_give_back(&world.reclaim, GRANULE, PAGE) < 0)
			fake.fail_at = 0;
		fake.fail_at = fake.nr_calls + n;
		while (reclaim_give_back_all(&world.reclaim, GRANULE) != 0)
			fake.fail_at = 0;
		expect_figures(0, 0);
		ck_assert_uint_eq(fake.containers[0].nr_mappings, NR_GRANULES);
		ck_assert_uint_eq(fake.containers[1].nr_mappings, NR_GRANULES);
		let_rest();
	}
	stop(2);
}
END_TEST

START_TEST(a_driver_that_may_not_tell_is_served_by_inhibit)
{
	start(1);
	reclaim_set_driver(&world.reclaim, RECLAIM_DRIVER_MAY_NOT_TELL);
	take(0, GRANULE);
	take(GRANULE, GRANULE);
	ck_assert_uint_eq(fake.nr_lines, 0);
	ck_assert_int_eq(figures().policy, RECLAIM_INHIBIT);
	expect_figures(2 * GRANULE, 0);
	expect_log("does not promise to tell before it uses a page again");
	ck_assert_str_eq(logged(), "");
	stop(1);
}
END_TEST

START_TEST(reports_of_free_pages_are_not_honoured)
{
	start(1);
	ck_assert_int_eq(reclaim_report(&world.reclaim, 0, GRANULE), -EBUSY);
	ck_assert_uint_eq(fake.nr_lines, 0);
	stop(1);
}
END_TEST

START_TEST(what_waits_when_somebody_comes_is_let_go_of_as_a_granule)
{
	world_coordinate(GRANULE, false);
	fake_add_group(7);
	take(0, 3 * GRANULE + PAGE);
	ck_assert_uint_eq(figures().reclaimed, 0); /* it waits for the rest of its huge page */
	groups[0] = attach_group(7);
	ck_assert_uint_eq(fake_count("map "), NR_GRANULES);
	expect_figures(3 * GRANULE + PAGE, 0);
	(void)reclaim_tick(&world.reclaim);
	expect_figures(3 * GRANULE + PAGE, 3 * GRANULE);
	stop(1);
}
END_TEST

START_TEST(who_comes_when_the_balloon_is_full_maps_what_is_live)
{
	world_coordinate(GRANULE, false);
	fake_add_group(7);
	take(0, 3 * GRANULE + PAGE);
	(void)reclaim_tick(&world.reclaim); /* nobody pins: page by page */
	ck_assert_uint_eq(figures().reclaimed, 3 * GRANULE + PAGE);
	groups[0] = attach_group(7);
	ck_assert_uint_eq(fake_count("map "), NR_GRANULES - 3);
	expect_figures(3 * GRANULE + PAGE, 3 * GRANULE); /* a page alone comes back */
	expect_log("a device pins guest memory: 0 MiB that the balloon had given to the host");
	fake_add_group(8);
	fake.refuses_sharing = true;
	groups[1] = attach_group(8);
	ck_assert_uint_eq(fake_count("map c1"), NR_GRANULES - 3);
	give_back(0, PAGE);
	ck_assert_uint_eq(fake_count("map c0 0x0 "), 1);
	ck_assert_uint_eq(fake_count("map c1 0x0 "), 1);
	stop(2);
	/* Nobody pins any more: what is left of it goes page by page again. */
	(void)reclaim_tick(&world.reclaim);
	ck_assert_uint_eq(figures().reclaimed, 3 * GRANULE);
	ck_assert_int_eq(figures().policy, RECLAIM_DIRECT);
}
END_TEST

START_TEST(who_cannot_map_it_leaves_the_others_as_they_were)
{
	struct vfio_group *second;

	start(1);
	take(0, GRANULE);
	fake_add_group(9);
	fake.map_error = -EFAULT;
	fake.map_error_host = (char *)world.ram.host + RAM_SIZE + GRANULE;
	ck_assert_int_eq(vfio_group_attach(&world.vfio, 9, VFIO_BALLOON_INHIBITS, &second),
			 -EFAULT);
	fake.map_error = 0;
	expect_log("vfio: map high RAM 0x100000000+0x200000 for devices: Bad address");
	ck_assert_uint_eq(figures().nr_pinners, 1);
	expect_figures(GRANULE, GRANULE);
	stop(1);
}
END_TEST

START_TEST(the_policy_changes_at_run_time)
{
	start(2);
	take(0, 2 * GRANULE);
	ck_assert_int_eq(vfio_coordinate(&world.vfio), 0); /* as it is already */
	expect_figures(2 * GRANULE, 2 * GRANULE);
	ck_assert_int_eq(vfio_inhibit(&world.vfio, UINT64_MAX), 0);
	ck_assert_uint_eq(reclaim_inhibitors(&world.reclaim), 2);
	expect_figures(2 * GRANULE, 0);
	take(2 * GRANULE, GRANULE);
	expect_figures(3 * GRANULE, 0);
	ck_assert_int_eq(vfio_inhibit(&world.vfio, UINT64_MAX), 0);
	ck_assert_int_eq(vfio_coordinate(&world.vfio), 0);
	ck_assert_uint_eq(reclaim_inhibitors(&world.reclaim), 0);
	expect_figures(3 * GRANULE, 3 * GRANULE);
	stop(2);
}
END_TEST

START_TEST(a_change_of_policy_goes_on_bit_by_bit)
{
	start(1);
	take(0, 4 * GRANULE);
	ck_assert_int_eq(vfio_inhibit(&world.vfio, GRANULE), 1);
	ck_assert_uint_eq(reclaim_inhibitors(&world.reclaim), 1);
	expect_figures(4 * GRANULE, 3 * GRANULE);
	/* From the beginning nothing is discarded any more; and the guest may want some itself. */
	take(4 * GRANULE, GRANULE);
	expect_figures(5 * GRANULE, 3 * GRANULE);
	give_back(GRANULE, GRANULE);
	expect_figures(4 * GRANULE, 2 * GRANULE);
	ck_assert_int_eq(vfio_inhibit(&world.vfio, GRANULE), 1);
	ck_assert_int_eq(vfio_inhibit(&world.vfio, GRANULE), 0);
	expect_figures(4 * GRANULE, 0);
	ck_assert(!world.vfio.config.coordinate);
	stop(1);
}
END_TEST

START_TEST(a_change_of_policy_is_taken_back_half_way)
{
	start(1);
	take(0, 4 * GRANULE);
	ck_assert_int_eq(vfio_inhibit(&world.vfio, GRANULE), 1);
	ck_assert_int_eq(vfio_coordinate(&world.vfio), 0);
	ck_assert_uint_eq(reclaim_inhibitors(&world.reclaim), 0);
	let_rest();
	expect_figures(4 * GRANULE, 4 * GRANULE);
	/* And by the lack of memory. */
	ck_assert_int_eq(vfio_inhibit(&world.vfio, GRANULE), 1);
	fake.map_error = -ENOMEM;
	ck_assert_int_eq(vfio_inhibit(&world.vfio, GRANULE), -ENOMEM);
	fake.map_error = 0;
	ck_assert_uint_eq(reclaim_inhibitors(&world.reclaim), 0);
	ck_assert(world.vfio.config.coordinate && !world.vfio.inhibiting);
	let_rest();
	expect_figures(4 * GRANULE, 4 * GRANULE);
	stop(1);
}
END_TEST

START_TEST(who_joins_in_the_middle_of_a_change_inhibits_too)
{
	struct vfio_group *second;

	start(1);
	fake_add_group(9);
	take(0, 4 * GRANULE);
	ck_assert_int_eq(vfio_inhibit(&world.vfio, GRANULE), 1);
	ck_assert_int_eq(vfio_group_attach(&world.vfio, 9, VFIO_BALLOON_INHIBITS, &second), 0);
	ck_assert_uint_eq(reclaim_inhibitors(&world.reclaim), 2);
	ck_assert_int_eq(vfio_inhibit(&world.vfio, UINT64_MAX), 0);
	ck_assert_uint_eq(reclaim_inhibitors(&world.reclaim), 2);
	vfio_group_detach(second);
	stop(1);
}
END_TEST

START_TEST(a_change_of_policy_without_memory_changes_nothing)
{
	start(1);
	take(0, 2 * GRANULE);
	fake.map_error = -ENOMEM;
	ck_assert_int_eq(vfio_inhibit(&world.vfio, UINT64_MAX), -ENOMEM);
	ck_assert_uint_eq(reclaim_inhibitors(&world.reclaim), 0);
	fake.map_error = 0;
	let_rest();
	expect_figures(2 * GRANULE, 2 * GRANULE);
	ck_assert(world.vfio.config.coordinate);
	stop(1);
}
END_TEST

START_TEST(bars_are_mapped_as_ever)
{
	struct memory_region bar = {
		.gpa = 0xc0000000,
		.size = sizeof(bar_memory),
		.host = bar_memory,
		.kind = MEMORY_DEVICE,
		.name = "bar",
	};

	start(1);
	ck_assert_int_eq(memory_map_add(&world.map, &bar), 0);
	ck_assert_uint_eq(fake_count("map c0 0xc0000000 0x1000"), 1);
	ck_assert_uint_eq(vfio_pinned(&world.vfio), 2 * RAM_SIZE);
	memory_map_remove(&world.map, &bar);
	ck_assert_uint_eq(fake_count("unmap c0 0xc0000000 0x1000"), 1);
	stop(1);
}
END_TEST

/* Of the entries that are kept for them one is left: what was let go of needs the others. */
START_TEST(bars_take_no_more_entries_than_are_kept)
{
	struct memory_region bars[2];

	start(1);
	struct vfio_container *container =
		container_of(world.vfio.containers.next, struct vfio_container, link);
	container->nr_peers = VFIO_SPARE_ENTRIES - 1;
	for (unsigned int i = 0; i < nitems(bars); i++) {
		bars[i] = (struct memory_region){ .gpa = 0xc0000000 + 0x1000 * i,
						  .size = sizeof(bar_memory),
						  .host = bar_memory,
						  .kind = MEMORY_DEVICE,
						  .name = "bar" };
		ck_assert_int_eq(memory_map_add(&world.map, &bars[i]), 0);
	}
	ck_assert_uint_eq(fake_count("map c0 0xc0000000 0x1000"), 1);
	ck_assert_uint_eq(fake_count("map c0 0xc0001000 0x1000"), 0);
	expect_log("devices cannot reach each other");
	for (unsigned int i = 0; i < nitems(bars); i++)
		memory_map_remove(&world.map, &bars[i]);
	ck_assert_uint_eq(container->nr_peers, VFIO_SPARE_ENTRIES - 1);
	stop(1);
}
END_TEST

static void give_up_capability(void)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2];

	ck_assert_int_eq(syscall(SYS_capget, &header, data), 0);
	data[CAP_TO_INDEX(CAP_IPC_LOCK)].effective &= ~CAP_TO_MASK(CAP_IPC_LOCK);
	ck_assert_int_eq(syscall(SYS_capset, &header, data), 0);
}

START_TEST(all_of_ram_must_be_allowed_to_be_locked_before_any_is)
{
	struct rlimit limit = { .rlim_cur = 3 << 20, .rlim_max = 3 << 20 };

	world_coordinate(GRANULE, true);
	fake_add_group(7);
	ck_assert_int_eq(setrlimit(RLIMIT_MEMLOCK, &limit), 0);
	vfio_group_detach(attach_group(7)); /* who has the capability may */
	give_up_capability();
	refuse_group(-ENOMEM);
	expect_log("4194304 bytes must be locked when the balloon is empty, RLIMIT_MEMLOCK "
		   "allows 3145728: raise it");
}
END_TEST

START_TEST(a_guest_of_more_than_all_of_the_host_is_refused_before_any_is_pinned)
{
	world_coordinate(GRANULE, true);
	fake_add_group(7);
	host_memory = 3 << 20;
	refuse_group(-ENOMEM);
	expect_log(
		"vfio: policy=coordinated: the guest has 4 MiB when the balloon is empty, the "
		"host no more than 3: give the guest less");
	host_memory = 0;
}
END_TEST

/* The device */

static uint16_t hardware_command(void)
{
	return fake_get_16(&fake.devices[0], PCI_COMMAND);
}

static struct vfio_pci *attach_late(void)
{
	struct vfio_pci *vp;

	world_coordinate(GRANULE, true);
	add_plain_device(DEVICE, fake_add_group(7));
	ck_assert_int_eq(
		vfio_pci_attach(&world.vfio, &world.bus, DEVICE, VFIO_BALLOON_INHIBITS, &vp),
		0);
	return vp;
}

START_TEST(before_a_device_may_use_dma_nothing_is_mapped)
{
	struct vfio_pci *vp = attach_late();

	ck_assert_uint_eq(fake_count("map "), 0);
	ck_assert_uint_eq(vfio_pinned(&world.vfio), 0);
	ck_assert_int_eq(figures().policy, RECLAIM_DIRECT);
	config_write(vp, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
	config_write(vp, PCI_COMMAND + 1, 1, PCI_COMMAND_INTX_DISABLE >> 8);
	ck_assert_uint_eq(fake_count("map "), 0);
	take(0, 5 * GRANULE + PAGE);
	(void)reclaim_tick(&world.reclaim);
	config_write(vp, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	ck_assert_uint_eq(fake_count("map c0 0x"), NR_GRANULES - 5);
	ck_assert_uint_eq(hardware_command() & PCI_COMMAND_MASTER, PCI_COMMAND_MASTER);
	ck_assert_int_eq(figures().policy, RECLAIM_COORDINATED);
	expect_figures(5 * GRANULE + PAGE, 5 * GRANULE);
	/* Once is enough. */
	config_write(vp, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
	config_write(vp, PCI_COMMAND, 1, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	ck_assert_uint_eq(fake_count("map c0 0x"), NR_GRANULES - 5);
	vfio_pci_detach(vp);
	check_nothing_left();
}
END_TEST

START_TEST(a_device_that_never_uses_dma_is_detached_as_it_came)
{
	struct vfio_pci *vp = attach_late();

	take(0, PAGE);
	vfio_pci_detach(vp);
	check_nothing_left();
	(void)reclaim_tick(&world.reclaim);
	ck_assert_uint_eq(figures().reclaimed, PAGE);
}
END_TEST

START_TEST(without_memory_a_device_gets_no_dma)
{
	struct vfio_pci *vp = attach_late();

	fake.map_error = -ENOMEM;
	fake.map_error_host = world.high.host;
	for (unsigned int i = 0; i < 20; i++)
		config_write(vp, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	ck_assert_uint_eq(config_read(vp, PCI_COMMAND, 2) & PCI_COMMAND_MASTER, 0);
	ck_assert_uint_eq(hardware_command() & PCI_COMMAND_MASTER, 0);
	ck_assert_uint_eq(hardware_command() & PCI_COMMAND_MEMORY, PCI_COMMAND_MEMORY);
	ck_assert_uint_eq(vfio_pinned(&world.vfio), 0);
	ck_assert_int_eq(figures().policy, RECLAIM_DIRECT);
	expect_log("its guest's memory cannot be mapped: it gets no DMA");
	fake.map_error = 0;
	config_write(vp, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	ck_assert_uint_eq(hardware_command() & PCI_COMMAND_MASTER, PCI_COMMAND_MASTER);
	ck_assert_uint_eq(vfio_pinned(&world.vfio), 2 * RAM_SIZE);
	vfio_pci_detach(vp);
	check_nothing_left();
}
END_TEST

START_TEST(a_guest_that_tries_on_and_on_costs_and_logs_little)
{
	struct vfio_pci *vp = attach_late();
	unsigned int nr_lines = 0;

	fake.map_error = -ENOMEM;
	for (unsigned int i = 0; i < 1000; i++)
		config_write(vp, PCI_COMMAND, 2, PCI_COMMAND_MASTER);
	for (const char *at = logged(); (at = strchr(at, '\n')); at++)
		nr_lines++;
	ck_assert_uint_le(nr_lines, 100);
	ck_assert_uint_eq(hardware_command() & PCI_COMMAND_MASTER, 0);
	fake.map_error = 0;
	vfio_pci_detach(vp);
	check_nothing_left();
}
END_TEST

/* A new kernel may be in what is being made live. */
START_TEST(what_was_made_present_in_a_reset_is_not_discarded_again)
{
	start(1);
	take(0, 2 * GRANULE);
	fake_forget_record();
	fake.map_error = -ENOMEM;
	ck_assert_int_eq(reclaim_give_back_all(&world.reclaim, UINT64_MAX), -ENOMEM);
	*(char *)world.ram.host = 1; /* as the loader does */
	ck_assert_int_eq(reclaim_give_back_all(&world.reclaim, UINT64_MAX), -ENOMEM);
	fake.map_error = 0;
	ck_assert_int_eq(reclaim_give_back_all(&world.reclaim, UINT64_MAX), 0);
	ck_assert_int_eq(*(char *)world.ram.host, 1);
	ck_assert_uint_eq(fake_count("discard"), 0);
	stop(1);
}
END_TEST

START_TEST(the_policy_of_mdevs_alone_changes_too)
{
	struct vfio_group *group;

	world_coordinate(GRANULE, false);
	fake_add_group(7);
	ck_assert_int_eq(vfio_group_attach(&world.vfio, 7, VFIO_BALLOON_ALLOWED, &group), 0);
	ck_assert_int_eq(vfio_inhibit(&world.vfio, UINT64_MAX), 0);
	ck_assert_int_eq(vfio_coordinate(&world.vfio), 0);
	vfio_group_detach(group);
	check_nothing_left();
}
END_TEST

START_TEST(what_a_driver_that_may_not_tell_gave_is_pinned_by_who_comes)
{
	world_coordinate(GRANULE, false);
	reclaim_set_driver(&world.reclaim, RECLAIM_DRIVER_MAY_NOT_TELL);
	take(0, 2 * GRANULE);
	fake_add_group(7);
	struct vfio_group *group = attach_group(7);
	ck_assert_uint_eq(fake_count("map "), NR_GRANULES);
	expect_figures(2 * GRANULE, 0);
	vfio_group_detach(group);
}
END_TEST

START_TEST(who_is_asleep_when_the_policy_becomes_inhibit_pins_all)
{
	struct vfio_pci *vp = attach_late();

	take(0, 2 * GRANULE);
	ck_assert_int_eq(vfio_inhibit(&world.vfio, UINT64_MAX), 0);
	expect_figures(2 * GRANULE, 0);
	vfio_pci_detach(vp);
	check_nothing_left();
}
END_TEST

START_TEST(a_hole_is_seen_at_once_though_nothing_is_mapped)
{
	world_coordinate(GRANULE, true);
	fake_add_group(7);
	fake.ranges[0] = (struct vfio_iova_range){ 0, 0xffffffff };
	fake.nr_ranges = 1;
	refuse_group(-ERANGE);
}
END_TEST

/* Each step of an attach that is late, and of the waking, fails once. */
START_TEST(every_step_of_waking_that_fails_leaves_it_asleep)
{
	struct vfio_pci *vp = attach_late();
	unsigned int n = 1;

	for (;; n++) {
		fake.fail_at = fake.nr_calls + n;
		fake.failed = false;
		config_write(vp, PCI_COMMAND, 2, PCI_COMMAND_MASTER);
		if (!fake.failed)
			break;
		ck_assert_uint_eq(config_read(vp, PCI_COMMAND, 2) & PCI_COMMAND_MASTER, 0);
		if (n <= NR_GRANULES)
			ck_assert_uint_eq(vfio_pinned(&world.vfio), 0);
		(void)logged();
	}
	ck_assert_uint_ge(n, NR_GRANULES + 1);
	fake.fail_at = 0;
	vfio_pci_detach(vp);
	check_nothing_left();
}
END_TEST

/* The second region cannot be mapped, and then the first one not unmapped. */
static struct vfio_pci *attach_with_pins_left(void)
{
	struct vfio_pci *vp = attach_late();

	fake.map_error = -ENOMEM;
	fake.map_error_host = world.high.host;
	fake.unmap_error = -EIO;
	config_write(vp, PCI_COMMAND, 2, PCI_COMMAND_MASTER);
	ck_assert_uint_eq(hardware_command() & PCI_COMMAND_MASTER, 0);
	expect_log("vfio: unmap low");
	take(0, GRANULE);
	ck_assert_uint_eq(fake_count("discard"), 0);
	ck_assert_uint_eq(figures().reclaimed, 0);
	ck_assert_str_eq(figures().owners[0], "vfio container");
	fake.map_error = 0;
	return vp;
}

START_TEST(what_an_unmap_left_pinned_is_not_discarded_until_it_is_in_the_books_again)
{
	struct vfio_pci *vp = attach_with_pins_left();

	fake.unmap_error = 0;
	config_write(vp, PCI_COMMAND, 2, PCI_COMMAND_MASTER);
	ck_assert_uint_eq(hardware_command() & PCI_COMMAND_MASTER, PCI_COMMAND_MASTER);
	ck_assert_uint_eq(reclaim_inhibitors(&world.reclaim), 0);
	expect_figures(GRANULE, GRANULE);
	ck_assert_int_ge(fake_first("unmap c0 0x0 0x40000"), 0);
	ck_assert_int_lt(fake_first("unmap c0 0x0 0x40000"), fake_first("discard"));
	vfio_pci_detach(vp);
	check_nothing_left();
}
END_TEST

START_TEST(what_an_unmap_left_pinned_is_discarded_when_the_container_is_gone)
{
	struct vfio_pci *vp = attach_with_pins_left();

	/* It fails a second time, and a third. */
	fake.map_error = -ENOMEM;
	config_write(vp, PCI_COMMAND, 2, PCI_COMMAND_MASTER);
	ck_assert_uint_eq(reclaim_inhibitors(&world.reclaim), 1);
	vfio_pci_detach(vp);
	check_nothing_left();
	ck_assert_uint_eq(reclaim_inhibitors(&world.reclaim), 0);
	(void)reclaim_tick(&world.reclaim);
	ck_assert_uint_eq(figures().reclaimed, GRANULE);
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		ram_is_mapped_in_granules,
		more_granules_than_entries_are_refused_before_anything_is_mapped,
		a_granule_is_unmapped_discarded_and_mapped_before_it_is_given_back,
		neighbouring_granules_go_by_one_call_and_come_back_one_by_one,
		a_granule_that_came_back_rests_before_it_goes_again,
		what_two_containers_have_mapped_both_let_go_of_before_the_discard,
		an_unmap_that_fails_leaves_the_granule_live_in_all_of_them,
		an_unmap_of_less_than_was_mapped_discards_nothing,
		a_map_that_fails_is_undone_and_not_acknowledged,
		whatever_fails_from_some_call_on_comes_right_when_it_works_again,
		a_driver_that_may_not_tell_is_served_by_inhibit,
		reports_of_free_pages_are_not_honoured,
		what_waits_when_somebody_comes_is_let_go_of_as_a_granule,
		who_comes_when_the_balloon_is_full_maps_what_is_live,
		who_cannot_map_it_leaves_the_others_as_they_were,
		the_policy_changes_at_run_time,
		a_change_of_policy_goes_on_bit_by_bit,
		a_change_of_policy_is_taken_back_half_way,
		who_joins_in_the_middle_of_a_change_inhibits_too,
		a_change_of_policy_without_memory_changes_nothing,
		bars_are_mapped_as_ever,
		bars_take_no_more_entries_than_are_kept,
		all_of_ram_must_be_allowed_to_be_locked_before_any_is,
		a_guest_of_more_than_all_of_the_host_is_refused_before_any_is_pinned,
		before_a_device_may_use_dma_nothing_is_mapped,
		a_device_that_never_uses_dma_is_detached_as_it_came,
		without_memory_a_device_gets_no_dma,
		a_guest_that_tries_on_and_on_costs_and_logs_little,
		what_was_made_present_in_a_reset_is_not_discarded_again,
		the_policy_of_mdevs_alone_changes_too,
		what_a_driver_that_may_not_tell_gave_is_pinned_by_who_comes,
		who_is_asleep_when_the_policy_becomes_inhibit_pins_all,
		a_hole_is_seen_at_once_though_nothing_is_mapped,
		every_step_of_waking_that_fails_leaves_it_asleep,
		what_an_unmap_left_pinned_is_not_discarded_until_it_is_in_the_books_again,
		what_an_unmap_left_pinned_is_discarded_when_the_container_is_gone,
	};

	return run_tests("vfio_granules", world_init, world_finish, tests, nitems(tests));
}
