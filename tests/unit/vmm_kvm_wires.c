/* SPDX-License-Identifier: MIT */
#include <errno.h>

#include "tests/fakes/kvm.h"
#include "tests/fakes/process.h"
#include "vmm/kvm_wires.h"

#define VM_FD 3
#define FD 40
#define GROUP_FD 50

static struct kvm_wires kvm_wires;
static struct wires *wires = &kvm_wires.wires;
static unsigned int fds_before;

static const struct msi_message first = { 0xfee00000, 0x4041 };
static const struct msi_message second = { 0x1fee01000, 0x4042 };

static void init(void)
{
	ck_assert_int_eq(kvm_wires_init(&kvm_wires, VM_FD), 0);
}

static void setup(void)
{
	process_keep_log();
	fake_kvm_init();
	fds_before = process_nr_fds();
	init();
}

static uint32_t add_route(struct msi_message message)
{
	uint32_t gsi = 0;

	ck_assert_int_eq(wires->ops->msi_route_add(wires, message, &gsi), 0);
	return gsi;
}

static void fail_next_call(void)
{
	fake_kvm.fail_at = fake_kvm.nr_calls + 1;
}

static void expect_message(uint32_t gsi, struct msi_message message)
{
	const struct kvm_irq_routing_entry *e = fake_kvm_route(gsi);

	ck_assert_ptr_nonnull(e);
	ck_assert_uint_eq(e->type, KVM_IRQ_ROUTING_MSI);
	ck_assert_uint_eq(e->u.msi.address_lo, (uint32_t)message.address);
	ck_assert_uint_eq(e->u.msi.address_hi, message.address >> 32);
	ck_assert_uint_eq(e->u.msi.data, message.data);
}

START_TEST(the_first_table_is_the_ioapics_pins_one_to_one)
{
	ck_assert_uint_eq(fake_kvm.nr_routes, KVM_WIRES_PINS);
	for (uint32_t gsi = 0; gsi < KVM_WIRES_PINS; gsi++) {
		const struct kvm_irq_routing_entry *e = fake_kvm_route(gsi);
		ck_assert_ptr_nonnull(e);
		ck_assert_uint_eq(e->type, KVM_IRQ_ROUTING_IRQCHIP);
		ck_assert_uint_eq(e->u.irqchip.irqchip, KVM_IRQCHIP_IOAPIC);
		ck_assert_uint_eq(e->u.irqchip.pin, gsi);
	}
}
END_TEST

START_TEST(a_route_is_in_the_table_and_the_pins_stay)
{
	ck_assert_uint_eq(add_route(first), 24);
	ck_assert_uint_eq(add_route(second), 25);
	expect_message(24, first);
	expect_message(25, second);
	ck_assert_uint_eq(fake_kvm.nr_routes, 26);
	ck_assert_uint_eq(fake_kvm_route(9)->u.irqchip.pin, 9);
}
END_TEST

START_TEST(a_route_that_changes_keeps_its_gsi)
{
	uint32_t gsi = add_route(first);

	ck_assert_int_eq(wires->ops->msi_route_update(wires, gsi, second), 0);
	expect_message(gsi, second);
	ck_assert_uint_eq(fake_kvm.nr_routes, 25);
}
END_TEST

START_TEST(a_removed_route_leaves_with_the_next_change_and_its_gsi_is_used_again)
{
	uint32_t gsi = add_route(first);
	uint32_t other = add_route(second);

	wires->ops->msi_route_remove(wires, gsi);
	ck_assert_int_eq(wires->ops->msi_route_update(wires, other, first), 0);
	ck_assert_ptr_null(fake_kvm_route(gsi));
	ck_assert_uint_eq(add_route(second), gsi);
	expect_message(gsi, second);
	expect_message(other, first);
}
END_TEST

START_TEST(a_refused_route_is_not_kept)
{
	uint32_t gsi = 7;

	fail_next_call();
	ck_assert_int_eq(wires->ops->msi_route_add(wires, first, &gsi), -EIO);
	ck_assert_uint_eq(gsi, 7);
	ck_assert_uint_eq(add_route(second), 24);
	ck_assert_uint_eq(fake_kvm.nr_routes, 25);
}
END_TEST

START_TEST(a_refused_change_keeps_the_old_message)
{
	uint32_t gsi = add_route(first);

	fail_next_call();
	ck_assert_int_eq(wires->ops->msi_route_update(wires, gsi, second), -EIO);
	(void)add_route(second); /* the next table */
	expect_message(gsi, first);
}
END_TEST

START_TEST(when_all_routes_are_taken_there_is_no_space)
{
	uint32_t gsi = 0;

	kvm_wires_finish(&kvm_wires);
	fake_kvm.nr_gsis = 26;
	init();
	(void)add_route(first);
	(void)add_route(first);
	ck_assert_int_eq(wires->ops->msi_route_add(wires, first, &gsi), -ENOSPC);
	wires->ops->msi_route_remove(wires, 24);
	ck_assert_uint_eq(add_route(first), 24);
}
END_TEST

START_TEST(a_kvm_that_says_nonsense_about_its_table_gets_ours)
{
	static const int said[] = { 0, 1, 24, -5, 1 << 30 };

	for (unsigned int i = 0; i < nitems(said); i++) {
		kvm_wires_finish(&kvm_wires);
		fake_kvm.nr_gsis = said[i];
		init();
		ck_assert_uint_eq(kvm_wires.nr_gsis, 4096);
	}
}
END_TEST

START_TEST(an_irqfd_is_passed_on_with_its_resample_fd)
{
	ck_assert_int_eq(wires->ops->irqfd_add(wires, FD, 4, -1), 0);
	ck_assert_int_eq(wires->ops->irqfd_add(wires, FD + 1, 17, FD + 2), 0);
	ck_assert_int_eq(wires->ops->irqfd_add(wires, FD, 5, -1), -EBUSY);
	ck_assert_uint_eq(fake_kvm.nr_irqfds, 2);
	ck_assert_int_eq(fake_kvm.irqfds[0].resample_fd, -1);
	ck_assert_int_eq(fake_kvm.irqfds[1].resample_fd, FD + 2);
	wires->ops->irqfd_remove(wires, FD, 4);
	ck_assert_uint_eq(fake_kvm.nr_irqfds, 1);
	ck_assert_uint_eq(fake_kvm.irqfds[0].gsi, 17);
}
END_TEST

START_TEST(an_irqfd_that_cannot_be_removed_is_told)
{
	wires->ops->irqfd_remove(wires, FD, 4);
	process_expect_log("kvm: removing the irqfd of gsi 4, going on: Invalid argument");
}
END_TEST

START_TEST(the_vfio_device_is_made_for_the_first_group_and_closed_at_the_end)
{
	ck_assert_uint_eq(fake_kvm.nr_vfio_devices, 0);
	ck_assert_int_eq(wires->ops->group_add(wires, GROUP_FD), 0);
	ck_assert_int_eq(wires->ops->group_add(wires, GROUP_FD + 1), 0);
	ck_assert_uint_eq(fake_kvm.nr_vfio_devices, 1);
	ck_assert_uint_eq(fake_kvm.nr_groups, 2);
	wires->ops->group_remove(wires, GROUP_FD);
	wires->ops->group_remove(wires, GROUP_FD + 1);
	ck_assert_uint_eq(fake_kvm.nr_groups, 0);
	kvm_wires_finish(&kvm_wires);
	ck_assert_uint_eq(process_nr_fds(), fds_before);
}
END_TEST

START_TEST(adding_a_group_fails_at_each_step_and_may_be_tried_again)
{
	unsigned int n = 1;

	for (;; n++) {
		kvm_wires_finish(&kvm_wires);
		init();
		fake_kvm.fail_at = fake_kvm.nr_calls + n;
		int r = wires->ops->group_add(wires, GROUP_FD);
		if (r == 0)
			break;
		ck_assert_int_eq(r, -EIO);
		ck_assert_uint_eq(fake_kvm.nr_groups, 0);
		ck_assert_int_eq(wires->ops->group_add(wires, GROUP_FD), 0);
		wires->ops->group_remove(wires, GROUP_FD);
	}
	ck_assert_uint_eq(n, 3); /* the device, the group */
	kvm_wires_finish(&kvm_wires);
	ck_assert_uint_eq(process_nr_fds(), fds_before);
}
END_TEST

START_TEST(a_group_that_cannot_be_removed_is_told)
{
	ck_assert_int_eq(wires->ops->group_add(wires, GROUP_FD), 0);
	fail_next_call();
	wires->ops->group_remove(wires, GROUP_FD);
	process_expect_log("kvm: removing a vfio group, going on");
}
END_TEST

START_TEST(a_first_table_that_is_refused_is_told_and_leaves_nothing)
{
	kvm_wires_finish(&kvm_wires);
	fake_kvm.fail_at = fake_kvm.nr_calls + 2;
	ck_assert_int_eq(kvm_wires_init(&kvm_wires, VM_FD), -EIO);
	ck_assert_str_eq(fake_kvm.failed, "kvm_set_routes");
	process_expect_log("kvm: interrupt routes");
	kvm_wires_finish(&kvm_wires);
	ck_assert_uint_eq(process_nr_fds(), fds_before);
}
END_TEST

START_TEST(finishing_a_zeroed_one_closes_nothing)
{
	struct kvm_wires zeroed = { 0 };

	kvm_wires_finish(&zeroed);
	ck_assert_uint_eq(process_nr_fds(), fds_before);
}
END_TEST

static void *route_for_a_while(void *opaque)
{
	bool *ret_ok = opaque;

	for (unsigned int i = 0; i < 200; i++) {
		uint32_t gsi = 0;
		*ret_ok &= wires->ops->msi_route_add(wires, first, &gsi) == 0;
		*ret_ok &= gsi >= KVM_WIRES_PINS;
		*ret_ok &= wires->ops->msi_route_update(wires, gsi, second) == 0;
		wires->ops->msi_route_remove(wires, gsi);
	}
	return NULL;
}

START_TEST(routes_race_with_each_other)
{
	pthread_t threads[3];
	bool ok[nitems(threads)];

	for (unsigned int i = 0; i < nitems(threads); i++) {
		ok[i] = true;
		ck_assert_int_eq(pthread_create(&threads[i], NULL, route_for_a_while, &ok[i]),
				 0);
	}
	for (unsigned int i = 0; i < nitems(threads); i++) {
		pthread_join(threads[i], NULL);
		ck_assert(ok[i]);
	}
	ck_assert_uint_eq(add_route(first), 24);
	ck_assert_uint_eq(fake_kvm.nr_routes, 25);
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		the_first_table_is_the_ioapics_pins_one_to_one,
		a_route_is_in_the_table_and_the_pins_stay,
		a_route_that_changes_keeps_its_gsi,
		a_removed_route_leaves_with_the_next_change_and_its_gsi_is_used_again,
		a_refused_route_is_not_kept,
		a_refused_change_keeps_the_old_message,
		when_all_routes_are_taken_there_is_no_space,
		a_kvm_that_says_nonsense_about_its_table_gets_ours,
		an_irqfd_is_passed_on_with_its_resample_fd,
		an_irqfd_that_cannot_be_removed_is_told,
		the_vfio_device_is_made_for_the_first_group_and_closed_at_the_end,
		adding_a_group_fails_at_each_step_and_may_be_tried_again,
		a_group_that_cannot_be_removed_is_told,
		a_first_table_that_is_refused_is_told_and_leaves_nothing,
		finishing_a_zeroed_one_closes_nothing,
		routes_race_with_each_other,
	};
	return run_tests("vmm_kvm_wires", setup, NULL, tests, nitems(tests));
}
