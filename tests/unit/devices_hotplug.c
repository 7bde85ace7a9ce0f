/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <sched.h>

#include "devices/hotplug.h"
#include "tests/fakes/process.h"
#include "tests/fakes/wires.h"

#define POWER_BASE 0x600u
#define EVENTS (POWER_BASE + 3)
#define BASE 0x604u
#define APPEARED (BASE + 0)
#define ASKED (BASE + 4)
#define EJECT (BASE + 8)
#define GSI 9u

static struct io_bus pio;
static struct fake_wires wires;
static struct power power;
static struct hotplug hotplug;
static unsigned int nr_ejected[HOTPLUG_NR_SLOTS]; /* atomic */

static void requested(void *opaque, enum power_event event, uint8_t code)
{
	(void)opaque;
	(void)event;
	(void)code;
}

static void ejected(void *opaque, unsigned int slot)
{
	ck_assert_ptr_eq(opaque, &hotplug);
	__atomic_add_fetch(&nr_ejected[slot], 1, __ATOMIC_SEQ_CST);
}

static int init(void)
{
	const struct hotplug_handler handler = { .ejected = ejected, .opaque = &hotplug };

	return hotplug_init(&hotplug, &pio, &power, BASE, &handler);
}

static void setup(void)
{
	const struct power_handler handler = { .requested = requested };

	io_bus_init(&pio);
	fake_wires_init(&wires);
	ck_assert_int_eq(
		power_init(&power, &pio, &wires.wires, POWER_BASE, GSI, 0x505, 0, &handler), 0);
	ck_assert_int_eq(init(), 0);
}

static uint32_t get(uint32_t port)
{
	return (uint32_t)io_bus_read(&pio, port, 4);
}

static void eject(uint32_t slots)
{
	io_bus_write(&pio, EJECT, 4, slots);
}

/* One interrupt has come, and the event register says why. */
static void expect_news(void)
{
	ck_assert_uint_eq(fake_wires_take(&wires, GSI), 1);
	ck_assert_uint_eq(io_bus_read(&pio, EVENTS, 1), 2); /* as the DSDT has it */
	ck_assert_uint_eq(io_bus_read(&pio, EVENTS, 1), 0);
}

static void expect_ejected(uint32_t slots)
{
	for (unsigned int slot = 0; slot < HOTPLUG_NR_SLOTS; slot++)
		ck_assert_uint_eq(nr_ejected[slot], slots >> slot & 1);
}

START_TEST(what_has_appeared_is_told_and_shows_until_read)
{
	ck_assert_uint_eq(get(APPEARED), 0);
	hotplug_announce(&hotplug, 31);
	expect_news();
	hotplug_announce(&hotplug, 3);
	expect_news();
	ck_assert_uint_eq(get(ASKED), 0);
	ck_assert_uint_eq(get(APPEARED), 1u << 31 | 1u << 3);
	ck_assert_uint_eq(get(APPEARED), 0);
}
END_TEST

START_TEST(what_shall_go_is_told_and_shows_until_read_and_again_when_asked_again)
{
	hotplug_set_removable(&hotplug, 5, true);
	for (unsigned int i = 0; i < 2; i++) {
		hotplug_ask_eject(&hotplug, 5);
		expect_news();
		ck_assert_uint_eq(get(APPEARED), 0);
		ck_assert_uint_eq(get(ASKED), 1u << 5);
		ck_assert_uint_eq(get(ASKED), 0);
	}
	expect_ejected(0);
}
END_TEST

START_TEST(the_guest_is_reminded_until_it_has_read_all)
{
	ck_assert(!hotplug_remind(&hotplug));
	ck_assert_uint_eq(fake_wires_take(&wires, GSI), 0);
	hotplug_announce(&hotplug, 1);
	hotplug_set_removable(&hotplug, 2, true);
	hotplug_ask_eject(&hotplug, 2);
	(void)fake_wires_take(&wires, GSI);
	(void)io_bus_read(&pio, EVENTS, 1);
	for (unsigned int i = 0; i < 2; i++) {
		ck_assert(hotplug_remind(&hotplug));
		expect_news();
	}
	(void)get(APPEARED);
	ck_assert(hotplug_remind(&hotplug));
	expect_news();
	(void)get(ASKED);
	ck_assert(!hotplug_remind(&hotplug));
	ck_assert_uint_eq(fake_wires_take(&wires, GSI), 0);
}
END_TEST

START_TEST(the_button_and_hot_plug_share_the_event_register)
{
	hotplug_announce(&hotplug, 1);
	power_press_button(&power);
	ck_assert_uint_eq(io_bus_read(&pio, EVENTS, 1), 2 | 1);
}
END_TEST

START_TEST(what_may_be_taken_out_can_be_read)
{
	hotplug_set_removable(&hotplug, 0, true);
	hotplug_set_removable(&hotplug, 31, true);
	ck_assert_uint_eq(get(EJECT), 1u << 31 | 1);
	hotplug_set_removable(&hotplug, 0, false);
	ck_assert_uint_eq(get(EJECT), 1u << 31);
	ck_assert_uint_eq(get(EJECT), 1u << 31);
	ck_assert_uint_eq(fake_wires_take(&wires, GSI), 0);
}
END_TEST

START_TEST(the_guest_lets_go_of_a_slot_once_for_each_device_in_it)
{
	hotplug_set_removable(&hotplug, 4, true);
	hotplug_set_removable(&hotplug, 6, true);
	hotplug_ask_eject(&hotplug, 4);
	hotplug_announce(&hotplug, 4);
	eject(1u << 4);
	expect_ejected(1u << 4);
	ck_assert_uint_eq(get(EJECT), 1u << 6);
	ck_assert_uint_eq(get(ASKED) | get(APPEARED), 0);
	eject(1u << 4);
	expect_ejected(1u << 4);
	hotplug_set_removable(&hotplug, 4, true);
	eject(1u << 4);
	ck_assert_uint_eq(nr_ejected[4], 2);
	ck_assert_uint_eq(nr_ejected[6], 0); /* unasked: it may */
	eject(1u << 6);
	ck_assert_uint_eq(nr_ejected[6], 1);
}
END_TEST

START_TEST(only_what_is_removable_is_ejected_whatever_is_written)
{
	static const unsigned int odd[] = { 1, 2, 8 };

	hotplug_set_removable(&hotplug, 3, true);
	hotplug_set_removable(&hotplug, 31, true);
	eject(0);
	eject(~(1u << 31 | 1u << 3));
	for (unsigned int i = 0; i < nitems(odd); i++)
		io_bus_write(&pio, EJECT, odd[i], UINT64_MAX);
	for (unsigned int port = BASE; port < BASE + 12; port++) {
		if (port != EJECT)
			io_bus_write(&pio, port, 4, UINT32_MAX);
	}
	io_bus_write(&pio, EJECT + 3, 1, UINT8_MAX);
	expect_ejected(0);
	ck_assert_uint_eq(get(EJECT), 1u << 31 | 1u << 3);
	eject(UINT32_MAX);
	expect_ejected(1u << 31 | 1u << 3);
}
END_TEST

START_TEST(reads_of_another_size_or_across_two_give_ones_and_take_nothing)
{
	static const unsigned int odd[] = { 1, 2, 8 };

	hotplug_announce(&hotplug, 1);
	hotplug_ask_eject(&hotplug, 2);
	for (unsigned int port = BASE; port < BASE + 12; port++) {
		for (unsigned int i = 0; i < nitems(odd); i++)
			ck_assert_uint_eq(io_bus_read(&pio, port, odd[i]), io_ones(odd[i]));
		if (port % 4)
			ck_assert_uint_eq(get(port), UINT32_MAX);
	}
	ck_assert_uint_eq(get(APPEARED), 1u << 1);
	ck_assert_uint_eq(get(ASKED), 1u << 2);
}
END_TEST

START_TEST(a_device_taken_by_force_leaves_nothing_pending)
{
	hotplug_set_removable(&hotplug, 7, true);
	hotplug_announce(&hotplug, 7);
	hotplug_ask_eject(&hotplug, 7);
	hotplug_set_removable(&hotplug, 7, false);
	ck_assert_uint_eq(get(APPEARED) | get(ASKED), 0);
	ck_assert_uint_eq(hotplug_reset(&hotplug), 0);
	/* The guest is told all the same, and answers to nobody. */
	hotplug_ask_eject(&hotplug, 7);
	ck_assert_uint_eq(get(ASKED), 1u << 7);
	eject(1u << 7);
	expect_ejected(0);
	ck_assert_uint_eq(hotplug_reset(&hotplug), 0);
}
END_TEST

START_TEST(a_reset_gives_back_what_was_asked_for_and_forgets_the_rest)
{
	for (unsigned int slot = 1; slot < 5; slot++)
		hotplug_set_removable(&hotplug, slot, true);
	hotplug_announce(&hotplug, 1);
	hotplug_ask_eject(&hotplug, 2);
	ck_assert_uint_eq(get(ASKED), 1u << 2); /* read or not */
	hotplug_ask_eject(&hotplug, 3);
	hotplug_ask_eject(&hotplug, 4);
	eject(1u << 4);
	expect_ejected(1u << 4);
	ck_assert_uint_eq(hotplug_reset(&hotplug), 1u << 2 | 1u << 3);
	ck_assert_uint_eq(get(APPEARED) | get(ASKED), 0);
	ck_assert_uint_eq(get(EJECT), 1u << 1);
	eject(UINT32_MAX);
	expect_ejected(1u << 4 | 1u << 1);
	ck_assert_uint_eq(hotplug_reset(&hotplug), 0);
}
END_TEST

START_TEST(a_slot_is_owed_until_the_guest_has_let_go_as_often_as_it_was_asked)
{
	const uint32_t slot = 1u << 7;

	hotplug_set_removable(&hotplug, 7, true);
	eject(slot); /* unasked, for nothing that comes */
	hotplug_set_removable(&hotplug, 7, true);
	ck_assert_uint_eq(hotplug_owed(&hotplug), 0);
	hotplug_ask_eject(&hotplug, 7);
	hotplug_ask_eject(&hotplug, 7); /* before it has read the first */
	ck_assert_uint_eq(hotplug_owed(&hotplug), slot);
	(void)get(ASKED);
	hotplug_ask_eject(&hotplug, 7);
	(void)get(ASKED);
	hotplug_ask_eject(&hotplug, 7);
	eject(UINT32_MAX);
	ck_assert_uint_eq(nr_ejected[7], 2);
	/* It has read of it once more, and of the last time it does not hear. */
	ck_assert_uint_eq(get(ASKED), 0);
	ck_assert_uint_eq(hotplug_owed(&hotplug), slot);
	eject(~slot);
	ck_assert_uint_eq(hotplug_owed(&hotplug), slot);
	eject(slot);
	ck_assert_uint_eq(hotplug_owed(&hotplug), 0);
	ck_assert_uint_eq(nr_ejected[7], 2);
	/* Likewise of one that was taken by force, until a reset. */
	hotplug_ask_eject(&hotplug, 7);
	ck_assert_uint_eq(hotplug_owed(&hotplug), slot);
	(void)get(ASKED);
	ck_assert_uint_eq(hotplug_owed(&hotplug), slot);
	ck_assert_uint_eq(hotplug_reset(&hotplug), 0);
	ck_assert_uint_eq(hotplug_owed(&hotplug), 0);
}
END_TEST

static void refill(void *opaque, unsigned int slot)
{
	hotplug_set_removable(opaque, slot, true);
	hotplug_announce(opaque, slot);
}

START_TEST(the_handler_may_fill_the_slot_anew)
{
	hotplug.handler.ejected = refill;
	hotplug_set_removable(&hotplug, 9, true);
	eject(1u << 9);
	ck_assert_uint_eq(get(APPEARED), 1u << 9);
	ck_assert_uint_eq(get(EJECT), 1u << 9);
}
END_TEST

static bool stop;

static void *eject_for_ever(void *opaque)
{
	while (!__atomic_load_n(&stop, __ATOMIC_SEQ_CST)) {
		eject(UINT32_MAX);
		(void)get(ASKED);
		sched_yield();
	}
	return opaque;
}

START_TEST(vcpus_that_eject_at_once_are_heard_once)
{
	pthread_t threads[2];

	for (unsigned int i = 0; i < nitems(threads); i++)
		ck_assert_int_eq(pthread_create(&threads[i], NULL, eject_for_ever, NULL), 0);
	for (unsigned int round = 1; round <= 50; round++) {
		hotplug_set_removable(&hotplug, 5, true);
		hotplug_ask_eject(&hotplug, 5);
		while (__atomic_load_n(&nr_ejected[5], __ATOMIC_SEQ_CST) < round)
			sched_yield();
	}
	__atomic_store_n(&stop, true, __ATOMIC_SEQ_CST);
	for (unsigned int i = 0; i < nitems(threads); i++)
		pthread_join(threads[i], NULL);
	ck_assert_uint_eq(nr_ejected[5], 50);
}
END_TEST

START_TEST(starting_where_a_port_is_taken_leaves_nothing)
{
	struct io_region taken = { .base = BASE + 11, .size = 1 };

	hotplug_finish(&hotplug);
	hotplug_finish(&hotplug);
	ck_assert_int_eq(io_bus_add(&pio, &taken), 0);
	ck_assert_int_eq(init(), -EEXIST);
	ck_assert_ptr_null(hotplug.pio);
	io_bus_remove(&pio, &taken);
	ck_assert_uint_eq(get(APPEARED), UINT32_MAX);
	ck_assert_int_eq(init(), 0);
	ck_assert_uint_eq(get(APPEARED), 0);
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		what_has_appeared_is_told_and_shows_until_read,
		what_shall_go_is_told_and_shows_until_read_and_again_when_asked_again,
		the_guest_is_reminded_until_it_has_read_all,
		the_button_and_hot_plug_share_the_event_register,
		what_may_be_taken_out_can_be_read,
		the_guest_lets_go_of_a_slot_once_for_each_device_in_it,
		only_what_is_removable_is_ejected_whatever_is_written,
		reads_of_another_size_or_across_two_give_ones_and_take_nothing,
		a_device_taken_by_force_leaves_nothing_pending,
		a_reset_gives_back_what_was_asked_for_and_forgets_the_rest,
		a_slot_is_owed_until_the_guest_has_let_go_as_often_as_it_was_asked,
		the_handler_may_fill_the_slot_anew,
		vcpus_that_eject_at_once_are_heard_once,
		starting_where_a_port_is_taken_leaves_nothing,
	};
	return run_tests("devices_hotplug", setup, NULL, tests, nitems(tests));
}
