/* SPDX-License-Identifier: MIT */
#include <errno.h>

#include "base/fd.h"

#include "devices/irq.h"
#include "tests/fakes/process.h"
#include "tests/fakes/wires.h"

static struct fake_wires wires;
static struct irq irq;
static unsigned int fds_before;

static const struct msi_message first = { 0xfee00000, 0x41 };
static const struct msi_message second = { 0xfee01000, 0x42 };

static void setup(void)
{
	fake_wires_init(&wires);
	fds_before = process_nr_fds();
	ck_assert_int_eq(irq_init(&irq, &wires.wires), 0);
}

static void expect_nothing_left(void)
{
	ck_assert_uint_eq(wires.nr_routes, 0);
	ck_assert_uint_eq(wires.nr_irqfds, 0);
	ck_assert_uint_eq(process_nr_fds(), fds_before);
	ck_assert_int_eq(irq.fd, -1);
	ck_assert_ptr_null(irq.wires);
}

START_TEST(a_fresh_irq_is_neither_connected_nor_pending)
{
	ck_assert(!irq.connected);
	ck_assert(!irq_pending(&irq));
	ck_assert_uint_eq(wires.nr_calls, 0);
	irq_finish(&irq);
	expect_nothing_left();
}
END_TEST

START_TEST(a_connected_message_is_delivered)
{
	ck_assert_int_eq(irq_connect_message(&irq, first), 0);
	irq_raise(&irq);
	ck_assert_uint_eq(fake_wires_take_message(&wires, first.address, first.data), 1);
	irq_raise(&irq);
	ck_assert_uint_eq(fake_wires_take_message(&wires, first.address, first.data), 1);
	ck_assert(!irq_pending(&irq));
	irq_finish(&irq);
	expect_nothing_left();
}
END_TEST

START_TEST(raised_while_disconnected_it_is_pending_and_delivered_once_on_connecting)
{
	irq_raise(&irq);
	irq_raise(&irq);
	ck_assert(irq_pending(&irq));
	ck_assert_int_eq(irq_connect_message(&irq, first), 0);
	ck_assert_uint_eq(fake_wires_take_message(&wires, first.address, first.data), 1);
	ck_assert(!irq_pending(&irq));
}
END_TEST

START_TEST(disconnecting_keeps_the_route_and_connecting_again_delivers)
{
	ck_assert_int_eq(irq_connect_message(&irq, first), 0);
	irq_disconnect(&irq);
	irq_disconnect(&irq);
	ck_assert_uint_eq(wires.nr_routes, 1);
	ck_assert_uint_eq(wires.nr_irqfds, 0);
	irq_raise(&irq);
	ck_assert_uint_eq(fake_wires_take_any(&wires), 0);
	ck_assert_int_eq(irq_connect_message(&irq, first), 0);
	ck_assert_uint_eq(fake_wires_take_any(&wires), 1);
	ck_assert_uint_eq(wires.nr_updates, 0);
	irq_finish(&irq);
	expect_nothing_left();
}
END_TEST

START_TEST(the_message_may_change_while_connected)
{
	ck_assert_int_eq(irq_connect_message(&irq, first), 0);
	ck_assert_int_eq(irq_connect_message(&irq, second), 0);
	ck_assert_uint_eq(wires.nr_routes, 1);
	ck_assert_uint_eq(wires.nr_irqfds, 1);
	irq_raise(&irq);
	ck_assert_uint_eq(fake_wires_take_message(&wires, first.address, first.data), 0);
	ck_assert_uint_eq(fake_wires_take_message(&wires, second.address, second.data), 1);
}
END_TEST

START_TEST(the_same_message_again_changes_nothing)
{
	ck_assert_int_eq(irq_connect_message(&irq, first), 0);
	unsigned int calls = wires.nr_calls;
	ck_assert_int_eq(irq_connect_message(&irq, first), 0);
	ck_assert_uint_eq(wires.nr_calls, calls);
}
END_TEST

START_TEST(connecting_fails_at_each_step_and_nothing_is_left)
{
	unsigned int n = 1;

	for (;; n++) {
		wires.nr_calls = 0;
		wires.fail_at = n;
		int r = irq_connect_message(&irq, first);
		if (r == 0)
			break;
		ck_assert_int_eq(r, -EIO);
		ck_assert(!irq.connected);
		irq_raise(&irq);
		ck_assert(irq_pending(&irq));
		irq_finish(&irq);
		expect_nothing_left();
		ck_assert_int_eq(irq_init(&irq, &wires.wires), 0);
	}
	ck_assert_uint_eq(n, 3); /* the route and the irqfd fail once each */
	irq_finish(&irq);
	expect_nothing_left();
}
END_TEST

START_TEST(after_a_failure_connecting_may_be_tried_again)
{
	wires.fail_at = 2;
	ck_assert_int_eq(irq_connect_message(&irq, first), -EIO);
	irq_raise(&irq);
	ck_assert_int_eq(irq_connect_message(&irq, second), 0);
	ck_assert_uint_eq(wires.nr_routes, 1);
	ck_assert_uint_eq(fake_wires_take_message(&wires, second.address, second.data), 1);
}
END_TEST

START_TEST(a_message_that_cannot_be_changed_is_silent_until_it_can)
{
	ck_assert_int_eq(irq_connect_message(&irq, first), 0);
	wires.nr_calls = 0;
	wires.fail_at = 1;
	ck_assert_int_eq(irq_connect_message(&irq, second), -EIO);
	irq_raise(&irq);
	ck_assert_uint_eq(fake_wires_take_message(&wires, first.address, first.data), 0);
	ck_assert_int_eq(irq_connect_message(&irq, second), 0);
	ck_assert_uint_eq(fake_wires_take_message(&wires, second.address, second.data), 1);
	irq_finish(&irq);
	expect_nothing_left();
}
END_TEST

START_TEST(an_edge_goes_to_its_line)
{
	ck_assert_int_eq(irq_connect_edge(&irq, 4), 0);
	ck_assert_int_eq(wires.irqfds[0].resample_fd, -1);
	irq_raise(&irq);
	ck_assert_uint_eq(fake_wires_take(&wires, 4), 1);
	irq_finish(&irq);
	expect_nothing_left();
}
END_TEST

START_TEST(a_level_hears_of_the_eoi)
{
	ck_assert_int_eq(irq_connect_level(&irq, 17), 0);
	ck_assert_int_ge(irq.resample_fd, 0);
	irq_raise(&irq);
	ck_assert_uint_eq(fake_wires_take(&wires, 17), 1);
	ck_assert(!eventfd_pending(irq.resample_fd));
	fake_wires_eoi(&wires, 17);
	ck_assert(eventfd_take(irq.resample_fd));
	irq_finish(&irq);
	expect_nothing_left();
}
END_TEST

START_TEST(a_line_that_cannot_be_connected_leaves_nothing)
{
	wires.fail_at = 1;
	ck_assert_int_eq(irq_connect_edge(&irq, 4), -EIO);
	irq_finish(&irq);
	expect_nothing_left();
	ck_assert_int_eq(irq_init(&irq, &wires.wires), 0);
	wires.fail_at = 2;
	ck_assert_int_eq(irq_connect_level(&irq, 17), -EIO);
	irq_finish(&irq);
	expect_nothing_left();
}
END_TEST

START_TEST(finishing_takes_a_zeroed_and_a_finished_one)
{
	struct irq zeroed = { 0 };

	irq_finish(&zeroed);
	irq_finish(&irq);
	irq_finish(&irq);
	expect_nothing_left();
	irq_raise(&irq); /* into nothing */
}
END_TEST

START_TEST(without_an_eventfd_it_is_as_finished)
{
	irq_finish(&irq);
	process_forbid_fds();
	ck_assert_int_eq(irq_init(&irq, &wires.wires), -EMFILE);
	process_allow_fds();
	expect_nothing_left();
}
END_TEST

START_TEST(a_level_without_a_second_eventfd_is_not_connected)
{
	process_forbid_fds();
	ck_assert_int_eq(irq_connect_level(&irq, 17), -EMFILE);
	process_allow_fds();
	ck_assert_uint_eq(wires.nr_irqfds, 0);
	irq_finish(&irq);
	expect_nothing_left();
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		a_fresh_irq_is_neither_connected_nor_pending,
		a_connected_message_is_delivered,
		raised_while_disconnected_it_is_pending_and_delivered_once_on_connecting,
		disconnecting_keeps_the_route_and_connecting_again_delivers,
		the_message_may_change_while_connected,
		the_same_message_again_changes_nothing,
		connecting_fails_at_each_step_and_nothing_is_left,
		after_a_failure_connecting_may_be_tried_again,
		a_message_that_cannot_be_changed_is_silent_until_it_can,
		an_edge_goes_to_its_line,
		a_level_hears_of_the_eoi,
		a_line_that_cannot_be_connected_leaves_nothing,
		finishing_takes_a_zeroed_and_a_finished_one,
		without_an_eventfd_it_is_as_finished,
		a_level_without_a_second_eventfd_is_not_connected,
	};
	return run_tests("devices_irq", setup, NULL, tests, nitems(tests));
}
