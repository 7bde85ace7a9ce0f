/* SPDX-License-Identifier: MIT */
/* Way D: what attaching and detaching devices and groups does, in which order, and undoes. */
#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <sys/resource.h>

#include <linux/pci_regs.h>

#include "tests/fakes/vfio_world.h"

#define A "0000:01:00.0"
#define B "0000:01:00.1"
#define C "0000:02:00.0"
#define M "83b8f4f2-509f-482f-bc1e-e6bfe0fa1001"
#define N "83b8f4f2-509f-482f-bc1e-e6bfe0fa1002"

static int try_attach_with(const char *name, enum vfio_balloon balloon, struct vfio_pci **ret)
{
	*ret = NULL;
	return vfio_pci_attach(&world.vfio, &world.bus, name, balloon, ret);
}

static int try_attach(const char *name, struct vfio_pci **ret)
{
	return try_attach_with(name, VFIO_BALLOON_INHIBITS, ret);
}

/* An mdev with all that a device can have. */
static struct fake_device *add_whole_mdev(const char *uuid, struct fake_group *group)
{
	struct fake_device *dev = add_whole_device(uuid, group);

	dev->is_mdev = true;
	return dev;
}

static struct reclaim_figures figures(void)
{
	struct reclaim_figures ret;

	reclaim_figures(&world.reclaim, &ret);
	return ret;
}

static void expect_refusal(const char *name, int error)
{
	struct vfio_pci *vp;

	ck_assert_int_eq(try_attach(name, &vp), error);
	ck_assert_ptr_null(vp);
	check_nothing_left();
}

static void expect_log(const char *part)
{
	const char *text = logged();

	ck_assert_msg(strstr(text, part), "no \"%s\" in: %s", part, text);
	ck_assert_msg(strchr(text, '\n') == strrchr(text, '\n'), "not one line: %s", text);
}

START_TEST(attach_maps_all_ram_and_stops_discards)
{
	add_whole_device(A, fake_add_group(7));
	struct vfio_pci *vp = attach(A);

	ck_assert_uint_eq(fake_count("map c0 0x0 0x200000"), 1);
	ck_assert_uint_eq(fake_count("map c0 0x100000000 0x200000"), 1);
	ck_assert_ptr_eq(fake.containers[0].mappings[0].host, world.low.host);
	ck_assert_ptr_eq(fake.containers[0].mappings[1].host, world.high.host);
	ck_assert_int_eq(reclaim_take(&world.reclaim, 0, 4096), 0);
	ck_assert_uint_eq(figures().held_back, 4096);
	ck_assert_str_eq(figures().owners[0], "vfio group 7");
	vfio_pci_detach(vp);
	(void)reclaim_tick(&world.reclaim);
	ck_assert_uint_eq(figures().reclaimed, 4096);
	check_nothing_left();
}
END_TEST

START_TEST(an_mdev_stops_discards_unless_it_allows_them)
{
	add_whole_mdev(M, fake_add_group(7));
	struct vfio_pci *vp = attach(M);

	ck_assert_int_eq(reclaim_take(&world.reclaim, 0, 4096), 0);
	ck_assert_uint_eq(figures().held_back, 4096);
	vfio_pci_detach(vp);
	check_nothing_left();
}
END_TEST

START_TEST(an_mdev_that_allows_discards_does_not_stop_them)
{
	add_whole_mdev(M, fake_add_group(7));
	struct vfio_pci *vp = attach_allowing(M);
	uint8_t *byte = world.low.host;

	ck_assert_ptr_nonnull(strstr(logged(), ", the balloon is allowed"));
	ck_assert_uint_eq(fake_count("inhibitor_raise"), 0);
	ck_assert_uint_eq(reclaim_inhibitors(&world.reclaim), 0);
	/* All of RAM is there for it to pin what it needs. */
	ck_assert_uint_eq(fake_count("map c0 0x0 0x200000"), 1);
	ck_assert_uint_eq(fake_count("map c0 0x100000000 0x200000"), 1);
	*byte = 1;
	ck_assert_int_eq(reclaim_take(&world.reclaim, 0, 4096), 0);
	(void)reclaim_tick(&world.reclaim);
	ck_assert_uint_eq(figures().reclaimed, 4096);
	ck_assert_uint_eq(*byte, 0);
	vfio_pci_detach(vp);
	check_nothing_left();
}
END_TEST

START_TEST(beside_a_function_what_an_mdev_allows_is_forbidden)
{
	add_whole_mdev(M, fake_add_group(7));
	add_whole_device(A, fake_add_group(9));
	struct vfio_pci *mdev = attach_allowing(M);
	struct vfio_pci *function;

	ck_assert_int_eq(reclaim_take(&world.reclaim, 0, 4096), 0);
	(void)reclaim_tick(&world.reclaim);
	ck_assert_uint_eq(figures().reclaimed, 4096);
	ck_assert_int_eq(try_attach(A, &function), 0);
	ck_assert_uint_eq(figures().held_back, 4096);
	ck_assert_uint_eq(reclaim_inhibitors(&world.reclaim), 1);
	vfio_pci_detach(function);
	(void)reclaim_tick(&world.reclaim);
	ck_assert_uint_eq(figures().reclaimed, 4096);
	vfio_pci_detach(mdev);
	check_nothing_left();
}
END_TEST

START_TEST(a_function_never_allows_the_balloon)
{
	struct vfio_pci *vp;

	add_whole_device(A, fake_add_group(7));
	ck_assert_int_eq(try_attach_with(A, VFIO_BALLOON_ALLOWED, &vp), -EINVAL);
	ck_assert_ptr_null(vp);
	expect_log("attach 0000:01:00.0: balloon=allowed is for mdevs alone");
	/* Not a thing was opened. */
	ck_assert_uint_eq(fake.nr_lines, 0);
	check_nothing_left();
}
END_TEST

/* Loop: which of the two allows it. */
START_TEST(the_mdevs_of_a_group_give_one_answer)
{
	const enum vfio_balloon answers[] = { VFIO_BALLOON_INHIBITS, VFIO_BALLOON_ALLOWED };
	static const char *const texts[] = {
		"attach group 7: " M " is assigned without balloon=allowed",
		"attach group 7: " M " is assigned with balloon=allowed",
	};
	struct fake_group *group = fake_add_group(7);
	struct vfio_pci *first;
	struct vfio_pci *second;

	add_whole_mdev(M, group);
	add_whole_mdev(N, group);
	ck_assert_int_eq(try_attach_with(M, answers[_i], &first), 0);
	(void)logged();
	fake_forget_record();
	ck_assert_int_eq(try_attach_with(N, answers[!_i], &second), -EINVAL);
	ck_assert_ptr_null(second);
	expect_log(texts[_i]);
	ck_assert_uint_eq(fake.nr_lines, 0);
	ck_assert_uint_eq(reclaim_inhibitors(&world.reclaim), !_i);
	/* With the same answer it is welcome, and counts no further. */
	ck_assert_int_eq(try_attach_with(N, answers[_i], &second), 0);
	ck_assert_uint_eq(reclaim_inhibitors(&world.reclaim), !_i);
	vfio_pci_detach(first);
	ck_assert_uint_eq(reclaim_inhibitors(&world.reclaim), !_i);
	vfio_pci_detach(second);
	check_nothing_left();
}
END_TEST

START_TEST(the_inhibitor_is_raised_before_the_first_call_that_can_pin)
{
	add_whole_device(A, fake_add_group(7));
	struct vfio_pci *vp = attach(A);

	ck_assert_int_ge(fake_first("inhibitor_raise"), 0);
	ck_assert_int_lt(fake_first("inhibitor_raise"), fake_first("set_container"));
	ck_assert_int_lt(fake_first("set_container"), fake_first("set_iommu"));
	ck_assert_int_lt(fake_first("set_iommu"), fake_first("map "));
	ck_assert_int_lt(fake_last("map c0 0x100000000 0x200000"), fake_first("kvm_add 7"));
	ck_assert_int_lt(fake_first("kvm_add 7"), fake_first("open_device"));
	vfio_pci_detach(vp);
}
END_TEST

START_TEST(the_inhibitor_is_lowered_after_the_last_unpin)
{
	add_whole_device(A, fake_add_group(7));
	struct vfio_pci *vp = attach(A);

	fake_forget_record();
	vfio_pci_detach(vp);
	ck_assert_int_ge(fake_first("close_device"), 0);
	ck_assert_int_lt(fake_first("close_device"), fake_first("kvm_remove 7"));
	ck_assert_int_lt(fake_first("kvm_remove 7"),
			 fake_first("unmap c0 0x100000000 0x200000"));
	ck_assert_int_lt(fake_last("unmap c0 0x0 0x200000"), fake_first("unset_container"));
	ck_assert_int_lt(fake_first("unset_container"), fake_first("close_container"));
	ck_assert_int_lt(fake_first("close_container"), fake_first("inhibitor_lower"));
	ck_assert_int_lt(fake_first("inhibitor_lower"), fake_first("close_group"));
}
END_TEST

START_TEST(the_device_stops_mastering_the_bus_before_ram_is_unmapped)
{
	struct fake_device *dev = add_whole_device(A, fake_add_group(7));
	struct vfio_pci *vp = attach(A);

	config_write(vp, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	ck_assert(fake_get_16(dev, PCI_COMMAND) & PCI_COMMAND_MASTER);
	fake_forget_record();
	vfio_pci_detach(vp);
	ck_assert_uint_eq(fake_get_16(dev, PCI_COMMAND) & PCI_COMMAND_MASTER, 0);
	ck_assert_int_lt(fake_first("irq_disable " A " 0"),
			 fake_first("config_write " A " 0x4"));
	ck_assert_int_lt(fake_first("config_write " A " 0x4"),
			 fake_first("unmap c0 0x100000000 0x200000"));
}
END_TEST

/*
 * Every call that can fail does once. Some failures are borne: attach goes on without a reset,
 * and without the maps of BARs. All others must leave nothing.
 * Loop: a function; an mdev; an mdev that allows the balloon.
 */
START_TEST(every_step_of_attach_fails_once)
{
	static const char *const names[] = { A, M, M };
	struct vfio_pci *vp;
	unsigned int nr_borne = 0;
	unsigned int n = 0;

	if (_i == 0)
		add_whole_device(A, fake_add_group(7));
	else
		add_whole_mdev(M, fake_add_group(7));
	do {
		fake.fail_at = ++n;
		fake.nr_calls = 0;
		fake.failed = false;
		int r = try_attach_with(
			names[_i], _i == 2 ? VFIO_BALLOON_ALLOWED : VFIO_BALLOON_INHIBITS, &vp);
		fake.fail_at = 0;
		if (r >= 0) {
			nr_borne += fake.failed;
			vfio_pci_detach(vp);
		} else {
			ck_assert_int_eq(r, -EIO);
			ck_assert_str_ne(logged(), "");
		}
		check_nothing_left();
	} while (fake.failed);
	/* The reset (a bus reset is tried instead), and five areas of three BARs. */
	ck_assert_uint_eq(nr_borne, 6);
	/* A new step breaks this until somebody has thought about what undoes it. */
	ck_assert_uint_eq(n - 1, 44);
}
END_TEST

/* Loop: what fails is a function; an mdev that allows the balloon. */
START_TEST(a_failing_attach_leaves_the_inhibitors_of_others_alone)
{
	static const char *const names[] = { C, M };
	struct vfio_pci *vp;
	unsigned int n = 0;

	add_whole_device(A, fake_add_group(7));
	if (_i == 0)
		add_whole_device(C, fake_add_group(9));
	else
		add_whole_mdev(M, fake_add_group(9));
	struct vfio_pci *other = attach(A);
	unsigned int nr_mappings = fake.containers[0].nr_mappings;
	do {
		fake.fail_at = ++n;
		fake.nr_calls = 0;
		fake.failed = false;
		int r = try_attach_with(
			names[_i], _i == 1 ? VFIO_BALLOON_ALLOWED : VFIO_BALLOON_INHIBITS, &vp);
		fake.fail_at = 0;
		if (r >= 0)
			vfio_pci_detach(vp);
		ck_assert_uint_eq(reclaim_inhibitors(&world.reclaim), 1);
		ck_assert_uint_eq(fake.containers[0].nr_mappings, nr_mappings);
		ck_assert_int_eq(fake.containers[1].fd, 0);
	} while (fake.failed);
	ck_assert_uint_ge(n, 30);
	vfio_pci_detach(other);
	check_nothing_left();
}
END_TEST

/* Undoing goes on whatever the kernel says to it. Loop: a function; an mdev as above. */
START_TEST(every_step_of_detach_fails_once)
{
	unsigned int n = 0;

	if (_i == 0)
		add_whole_device(A, fake_add_group(7));
	else
		add_whole_mdev(M, fake_add_group(7));
	do {
		struct vfio_pci *vp = _i == 0 ? attach(A) : attach_allowing(M);
		fake.fail_at = ++n;
		fake.nr_calls = 0;
		fake.failed = false;
		vfio_pci_detach(vp);
		fake.fail_at = 0;
		/* What the kernel was not told stays in the fake kernel only. */
		fake.groups[0].container = NULL;
		check_nothing_left();
	} while (fake.failed);
	ck_assert_uint_ge(n, 10);
}
END_TEST

START_TEST(two_devices_of_one_group_share_it)
{
	struct fake_group *group = fake_add_group(7);
	struct vfio_pci *second;

	add_whole_device(A, group);
	add_whole_device(B, group);
	struct vfio_pci *first = attach(A);
	ck_assert_int_eq(try_attach(B, &second), 0);
	ck_assert_ptr_eq(first->group, second->group);
	ck_assert_uint_eq(fake_count("open_group"), 1);
	ck_assert_uint_eq(reclaim_inhibitors(&world.reclaim), 1);
	vfio_pci_detach(first);
	/* The other one still pins. */
	ck_assert_uint_eq(reclaim_inhibitors(&world.reclaim), 1);
	ck_assert_uint_eq(fake.containers[0].nr_mappings, 2);
	vfio_pci_detach(second);
	check_nothing_left();
}
END_TEST

START_TEST(two_groups_share_a_container)
{
	struct vfio_pci *second;

	add_whole_device(A, fake_add_group(7));
	add_whole_device(C, fake_add_group(9));
	struct vfio_pci *first = attach(A);
	ck_assert_int_eq(try_attach(C, &second), 0);
	ck_assert_ptr_eq(first->group->container, second->group->container);
	ck_assert_uint_eq(fake_count("open_container"), 1);
	ck_assert_uint_eq(fake_count("map c0 0x0 0x200000"), 1);
	ck_assert_uint_eq(reclaim_inhibitors(&world.reclaim), 2);
	vfio_pci_detach(first);
	ck_assert_uint_eq(reclaim_inhibitors(&world.reclaim), 1);
	ck_assert_uint_eq(fake_count("unmap c0 0x0 0x200000"), 0);
	vfio_pci_detach(second);
	check_nothing_left();
}
END_TEST

START_TEST(a_group_that_no_container_takes_gets_its_own)
{
	struct vfio_pci *second;

	fake.refuses_sharing = true;
	add_whole_device(A, fake_add_group(7));
	add_whole_device(C, fake_add_group(9));
	struct vfio_pci *first = attach(A);
	ck_assert_int_eq(try_attach(C, &second), 0);
	ck_assert_ptr_ne(first->group->container, second->group->container);
	/* RAM, and the first device's BARs so that the second can reach them. */
	ck_assert_uint_eq(fake_count("map c1 0x0 0x200000"), 1);
	ck_assert_uint_eq(fake.containers[0].nr_mappings, fake.containers[1].nr_mappings);
	ck_assert_uint_gt(fake.containers[1].nr_mappings, 2);
	vfio_pci_detach(second);
	vfio_pci_detach(first);
	check_nothing_left();
}
END_TEST

/* Loop: each permutation of three devices, two of one group. */
START_TEST(detach_in_any_order)
{
	static const unsigned int orders[][3] = { { 0, 1, 2 }, { 0, 2, 1 }, { 1, 0, 2 },
						  { 1, 2, 0 }, { 2, 0, 1 }, { 2, 1, 0 } };
	struct fake_group *group = fake_add_group(7);
	struct vfio_pci *devices[3];

	add_whole_device(A, group);
	add_whole_device(B, group);
	add_whole_device(C, fake_add_group(9));
	fake.refuses_sharing = _i >= 6;
	devices[0] = attach(A);
	ck_assert_int_eq(try_attach(B, &devices[1]), 0);
	ck_assert_int_eq(try_attach(C, &devices[2]), 0);
	for (unsigned int i = 0; i < 3; i++) {
		ck_assert_uint_ne(reclaim_inhibitors(&world.reclaim), 0);
		vfio_pci_detach(devices[orders[_i % 6][i]]);
	}
	check_nothing_left();
}
END_TEST

START_TEST(a_failing_second_device_leaves_the_first_alone)
{
	struct fake_group *group = fake_add_group(7);
	struct vfio_pci *second;
	unsigned int n = 0;

	add_whole_device(A, group);
	add_whole_device(B, group);
	struct vfio_pci *first = attach(A);
	unsigned int nr_mappings = fake.containers[0].nr_mappings;
	do {
		fake.fail_at = ++n;
		fake.nr_calls = 0;
		fake.failed = false;
		int r = try_attach(B, &second);
		fake.fail_at = 0;
		if (r >= 0)
			vfio_pci_detach(second);
		ck_assert_uint_eq(reclaim_inhibitors(&world.reclaim), 1);
		ck_assert_uint_eq(fake.containers[0].nr_mappings, nr_mappings);
		ck_assert_int_ne(fake.devices[0].fd, 0);
		ck_assert_int_eq(fake.devices[1].fd, 0);
	} while (fake.failed);
	vfio_pci_detach(first);
	check_nothing_left();
}
END_TEST

START_TEST(a_device_is_assigned_once)
{
	struct vfio_pci *again;

	add_whole_device(A, fake_add_group(7));
	struct vfio_pci *vp = attach(A);
	(void)logged();
	ck_assert_int_eq(try_attach(A, &again), -EBUSY);
	expect_log("assigned already");
	vfio_pci_detach(vp);
	check_nothing_left();
}
END_TEST

START_TEST(a_device_goes_by_three_names)
{
	static const char *const names[] = { "0000:01:00.0", "01:00.0", "1:0.0",
					     "/sys/bus/pci/devices/0000:01:00.0",
					     "/sys/bus/pci/devices/0000:01:00.0/" };

	add_whole_device(A, fake_add_group(7));
	for (unsigned int i = 0; i < nitems(names); i++) {
		struct vfio_pci *vp = attach(names[i]);
		ck_assert_str_eq(vp->device.name, A);
		vfio_pci_detach(vp);
	}
	check_nothing_left();
}
END_TEST

START_TEST(an_mdev_goes_by_its_uuid)
{
	static const char *const names[] = {
		M,
		"83B8F4F2-509F-482F-BC1E-E6BFE0FA1001",
		"/sys/bus/mdev/devices/" M,
		"/sys/bus/mdev/devices/" M "/",
		"/sys/bus/pci/devices/0000:00:02.0/" M,
		"/sys/devices/virtual/mtty/mtty/" M,
	};

	add_whole_mdev(M, fake_add_group(7));
	for (unsigned int i = 0; i < nitems(names); i++) {
		struct vfio_pci *vp = attach(names[i]);
		ck_assert_str_eq(vp->device.name, M);
		ck_assert_str_eq(vp->pci.name, M);
		vfio_pci_detach(vp);
	}
	ck_assert_uint_eq(fake_count("open_device " M), nitems(names));
	check_nothing_left();
}
END_TEST

START_TEST(what_is_no_name_is_said_to_be_none)
{
	static const char *const names[] = { "",
					     "eth0",
					     "0000:01:00",
					     "0000:01:00.8",
					     "0000:01:20.0",
					     "01:00.0x",
					     " 01:00.0",
					     "-1:00.0",
					     "123456789:01:00.0",
					     "0000:01:00.0/../../../../etc",
					     "/etc/passwd",
					     "/sys",
					     "/sys/",
					     "/sys/bus/pci/devices//",
					     "/sys/bus/mdev/devices/" M "/..",
					     "bus/mdev/devices/" M,
					     "83b8f4f2-509f-482f-bc1e-e6bfe0fa100",
					     "83b8f4f2-509f-482f-bc1e-e6bfe0fa10011",
					     "83b8f4f2-509f-482f-bc1e-e6bfe0fa100g",
					     "83b8f4f2+509f-482f-bc1e-e6bfe0fa1001",
					     "83b8f4f2509f482fbc1ee6bfe0fa1001",
					     M "/driver",
					     "0000:01:00.00000000000000000000000000000000000" };

	for (unsigned int i = 0; i < nitems(names); i++) {
		expect_refusal(names[i], -EINVAL);
		expect_log("a PCI device is called 0000:01:00.0, an mdev after its UUID");
	}
}
END_TEST

START_TEST(an_unknown_device_is_named)
{
	expect_refusal("0000:ff:1f.7", -ENODEV);
	expect_log("0000:ff:1f.7: not on this host (see lspci -D)");
	expect_refusal(M, -ENODEV);
	expect_log(M ": not on this host (see ls /sys/bus/mdev/devices/)");
}
END_TEST

START_TEST(an_mdev_may_have_any_driver_but_not_none)
{
	struct fake_device *dev = add_plain_mdev(M, fake_add_group(7));

	vfio_pci_detach(attach(M));
	(void)logged();
	dev->driver[0] = '\0';
	expect_refusal(M, -EBUSY);
	expect_log("attach " M ": this mdev is bound to no driver: modprobe vfio_mdev");
}
END_TEST

START_TEST(an_mdev_in_no_group_is_refused)
{
	add_plain_mdev(M, NULL);
	expect_refusal(M, -EOPNOTSUPP);
	expect_log("attach " M ": this mdev is in no IOMMU group");
}
END_TEST

START_TEST(an_mdev_that_is_no_pci_device_is_refused)
{
	add_plain_mdev(M, fake_add_group(7))->not_pci = true;
	expect_refusal(M, -EOPNOTSUPP);
	expect_log(M " is no PCI device");
}
END_TEST

START_TEST(an_mdev_may_be_careless)
{
	struct fake_device *dev = add_plain_mdev(M, fake_add_group(7));

	/* As Linux's own examples are. */
	dev->regions[VFIO_PCI_CONFIG_REGION_INDEX].size = 255;
	dev->knows_few_irqs = true;
	dev->no_reset = true;
	struct vfio_pci *vp = attach_allowing(M);
	ck_assert_uint_eq(config_read(vp, PCI_VENDOR_ID, 2), 0x1234);
	vfio_pci_detach(vp);
	check_nothing_left();
}
END_TEST

START_TEST(a_config_space_without_a_header_is_refused)
{
	add_plain_mdev(M, fake_add_group(7))->regions[VFIO_PCI_CONFIG_REGION_INDEX].size = 63;
	expect_refusal(M, -EIO);
	expect_log("read the config space of " M);
}
END_TEST

START_TEST(another_driver_is_named_with_the_command_that_helps)
{
	struct fake_device *dev = add_whole_device(A, fake_add_group(7));

	(void)strcpy(dev->driver, "nvme");
	expect_refusal(A, -EBUSY);
	expect_log("bound to nvme, not to vfio-pci: modprobe vfio-pci; ballast bind "
		   "0000:01:00.0");
}
END_TEST

START_TEST(no_driver_is_told_with_the_command_that_helps)
{
	struct fake_device *dev = add_whole_device(A, fake_add_group(7));

	dev->driver[0] = '\0';
	expect_refusal(A, -EBUSY);
	expect_log("bound to no driver, not to vfio-pci: modprobe vfio-pci; ballast bind "
		   "0000:01:00.0");
}
END_TEST

START_TEST(a_driver_that_is_a_variant_will_do)
{
	struct fake_device *dev = add_whole_device(A, fake_add_group(7));

	(void)strcpy(dev->driver, "mlx5_vfio_pci");
	vfio_pci_detach(attach(A));
	check_nothing_left();
}
END_TEST

START_TEST(no_iommu_is_refused)
{
	add_whole_device(A, NULL);
	expect_refusal(A, -EOPNOTSUPP);
	expect_log("no IOMMU stands before it");
}
END_TEST

START_TEST(a_noiommu_group_is_refused)
{
	struct fake_group *group = fake_add_group(7);

	group->is_noiommu = true;
	add_whole_device(A, group);
	expect_refusal(A, -EOPNOTSUPP);
	expect_log("no IOMMU stands before it");
}
END_TEST

START_TEST(a_group_that_is_not_viable_names_each_device_and_driver)
{
	struct fake_group *group = fake_add_group(7);

	add_whole_device(A, group);
	(void)strcpy(add_whole_device(B, group)->driver, "snd_hda_intel");
	add_whole_device("0000:01:00.2", group)->driver[0] = '\0';
	group->not_viable = true;
	expect_refusal(A, -EBUSY);
	expect_log("group 7 is not viable, its devices can reach each other: bind each to "
		   "vfio-pci or to no driver: 0000:01:00.0 (vfio-pci), 0000:01:00.1 "
		   "(snd_hda_intel), 0000:01:00.2 (no driver)");
}
END_TEST

/* Loop: what opening the group can say. */
START_TEST(a_group_that_cannot_be_opened_says_why)
{
	static const struct {
		int error;
		int result;
		const char *text;
	} cases[] = {
		{ -EBUSY, -EBUSY, "another process has it" },
		{ -EACCES, -EPERM, "be root, or have /dev/vfio/7 given to you" },
		{ -EPERM, -EPERM, "be root, or have /dev/vfio/7 given to you" },
		{ -ENOENT, -ENODEV, "no /dev/vfio/7; bind a device of the group to vfio-pci" },
		{ -EMFILE, -EMFILE, "open group 7" },
	};
	struct fake_group *group = fake_add_group(7);

	add_whole_device(A, group);
	group->open_error = cases[_i].error;
	expect_refusal(A, cases[_i].result);
	expect_log(cases[_i].text);
}
END_TEST

/* The step that the kernel refuses is found by what is said of it. */
START_TEST(a_virtual_function_of_a_passed_one_wants_a_token)
{
	static const char part[] =
		"vfio: open " A ": its physical function belongs to vfio-pci "
		"and wants a token: bind that to its own driver";
	struct vfio_pci *vp;
	bool told = false;

	add_whole_device(A, fake_add_group(7));
	fake.fail_errno = -EACCES;
	for (unsigned int n = 1; !told; n++) {
		fake.nr_calls = 0;
		fake.fail_at = n;
		int r = try_attach(A, &vp);
		ck_assert_int_lt(r, 0);
		told = strstr(logged(), part) != NULL;
		ck_assert(!told || r == -EPERM);
		check_nothing_left();
	}
}
END_TEST

START_TEST(no_interrupt_remapping_is_explained)
{
	add_whole_device(A, fake_add_group(7));
	fake.set_iommu_error = -EPERM;
	expect_refusal(A, -EPERM);
	expect_log("allow_unsafe_interrupts");
}
END_TEST

START_TEST(no_type1v2_is_refused)
{
	add_whole_device(A, fake_add_group(7));
	fake.no_type1v2 = true;
	expect_refusal(A, -EOPNOTSUPP);
	expect_log("no type1v2 IOMMU: load the module vfio_iommu_type1");
}
END_TEST

START_TEST(a_full_bus_is_a_failure_like_any_other)
{
	static struct pci_device others[32];
	static const struct pci_device_ops no_ops;

	for (unsigned int i = 0; i < 32; i++) {
		pci_device_init(&others[i], &no_ops, "other", 1, 1, 0);
		ck_assert_int_eq(pci_bus_add(&world.bus, &others[i], PCI_ANY_SLOT), 0);
	}
	add_whole_device(A, fake_add_group(7));
	struct vfio_pci *vp;
	ck_assert_int_eq(try_attach(A, &vp), -ENOSPC);
	for (unsigned int i = 0; i < 32; i++)
		pci_bus_remove(&others[i]);
	check_nothing_left();
}
END_TEST

START_TEST(a_dead_device_fails_cleanly)
{
	add_whole_device(A, fake_add_group(7))->dead = true;
	expect_refusal(A, -EIO);
	expect_log("read the config space of 0000:01:00.0");
}
END_TEST

START_TEST(a_bridge_is_refused)
{
	add_whole_device(A, fake_add_group(7))->config[PCI_HEADER_TYPE] = 1;
	expect_refusal(A, -EOPNOTSUPP);
	expect_log("is a bridge");
}
END_TEST

START_TEST(err_and_req_are_there_to_listen_to)
{
	struct fake_device *dev = add_whole_device(A, fake_add_group(7));
	struct vfio_pci *vp = attach(A);

	ck_assert_int_eq(dev->irqs[VFIO_PCI_ERR_IRQ_INDEX].fds[0], vp->device.err_fd);
	ck_assert_int_eq(dev->irqs[VFIO_PCI_REQ_IRQ_INDEX].fds[0], vp->device.req_fd);
	vfio_pci_detach(vp);
	check_nothing_left();
}
END_TEST

START_TEST(a_device_without_err_and_req_is_assigned_all_the_same)
{
	add_plain_device(A, fake_add_group(7));
	struct vfio_pci *vp = attach(A);

	ck_assert_int_eq(vp->device.err_fd, -1);
	ck_assert_int_eq(vp->device.req_fd, -1);
	vfio_pci_detach(vp);
	check_nothing_left();
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("vfio_attach");
	TCase *tests = tcase_create("attach");

	tcase_add_checked_fixture(tests, world_init, world_finish);
	tcase_set_timeout(tests, 60);
	tcase_add_test(tests, attach_maps_all_ram_and_stops_discards);
	tcase_add_test(tests, an_mdev_stops_discards_unless_it_allows_them);
	tcase_add_test(tests, an_mdev_that_allows_discards_does_not_stop_them);
	tcase_add_test(tests, beside_a_function_what_an_mdev_allows_is_forbidden);
	tcase_add_test(tests, a_function_never_allows_the_balloon);
	tcase_add_loop_test(tests, the_mdevs_of_a_group_give_one_answer, 0, 2);
	tcase_add_test(tests, the_inhibitor_is_raised_before_the_first_call_that_can_pin);
	tcase_add_test(tests, the_inhibitor_is_lowered_after_the_last_unpin);
	tcase_add_test(tests, the_device_stops_mastering_the_bus_before_ram_is_unmapped);
	tcase_add_loop_test(tests, every_step_of_attach_fails_once, 0, 3);
	tcase_add_loop_test(tests, a_failing_attach_leaves_the_inhibitors_of_others_alone, 0,
			    2);
	tcase_add_loop_test(tests, every_step_of_detach_fails_once, 0, 2);
	tcase_add_test(tests, two_devices_of_one_group_share_it);
	tcase_add_test(tests, two_groups_share_a_container);
	tcase_add_test(tests, a_group_that_no_container_takes_gets_its_own);
	tcase_add_loop_test(tests, detach_in_any_order, 0, 12);
	tcase_add_test(tests, a_failing_second_device_leaves_the_first_alone);
	tcase_add_test(tests, a_device_is_assigned_once);
	tcase_add_test(tests, a_device_goes_by_three_names);
	tcase_add_test(tests, an_mdev_goes_by_its_uuid);
	tcase_add_test(tests, what_is_no_name_is_said_to_be_none);
	tcase_add_test(tests, an_unknown_device_is_named);
	tcase_add_test(tests, an_mdev_may_have_any_driver_but_not_none);
	tcase_add_test(tests, an_mdev_in_no_group_is_refused);
	tcase_add_test(tests, an_mdev_that_is_no_pci_device_is_refused);
	tcase_add_test(tests, an_mdev_may_be_careless);
	tcase_add_test(tests, a_config_space_without_a_header_is_refused);
	tcase_add_test(tests, another_driver_is_named_with_the_command_that_helps);
	tcase_add_test(tests, no_driver_is_told_with_the_command_that_helps);
	tcase_add_test(tests, a_driver_that_is_a_variant_will_do);
	tcase_add_test(tests, no_iommu_is_refused);
	tcase_add_test(tests, a_noiommu_group_is_refused);
	tcase_add_test(tests, a_group_that_is_not_viable_names_each_device_and_driver);
	tcase_add_loop_test(tests, a_group_that_cannot_be_opened_says_why, 0, 5);
	tcase_add_test(tests, a_virtual_function_of_a_passed_one_wants_a_token);
	tcase_add_test(tests, no_interrupt_remapping_is_explained);
	tcase_add_test(tests, no_type1v2_is_refused);
	tcase_add_test(tests, a_full_bus_is_a_failure_like_any_other);
	tcase_add_test(tests, a_dead_device_fails_cleanly);
	tcase_add_test(tests, a_bridge_is_refused);
	tcase_add_test(tests, err_and_req_are_there_to_listen_to);
	tcase_add_test(tests, a_device_without_err_and_req_is_assigned_all_the_same);
	suite_add_tcase(suite, tests);
	SRunner *runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	int failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed != 0;
}
