/* SPDX-License-Identifier: MIT */
#include <errno.h>

#include "devices/power.h"
#include "tests/fakes/process.h"
#include "tests/fakes/wires.h"

#define BASE 0x600u
#define GSI 9u
#define PANIC_PORT 0x505u
#define EXIT_PORT 0xf4u

static struct io_bus pio;
static struct fake_wires wires;
static struct power power;
static unsigned int nr_requests;
static enum power_event last_event;
static uint8_t last_code;

static void requested(void *opaque, enum power_event event, uint8_t code)
{
	ck_assert_ptr_eq(opaque, &power);
	nr_requests++;
	last_event = event;
	last_code = code;
}

static const struct power_handler handler = { .requested = requested, .opaque = &power };

static int init(uint16_t exit_port)
{
	return power_init(&power, &pio, &wires.wires, BASE, GSI, PANIC_PORT, exit_port,
			  &handler);
}

static void setup(void)
{
	io_bus_init(&pio);
	fake_wires_init(&wires);
	ck_assert_int_eq(init(0), 0);
}

static void write_port(uint32_t port, uint64_t value)
{
	io_bus_write(&pio, port, 1, value);
}

START_TEST(s5_with_the_enable_bit_switches_off)
{
	write_port(BASE, 5 << 2 | 0x20);
	ck_assert_uint_eq(nr_requests, 1);
	ck_assert_int_eq(last_event, POWER_OFF);
}
END_TEST

START_TEST(any_other_sleep_does_nothing)
{
	for (unsigned int value = 0; value < 0x100; value++) {
		if ((value & 0x3c) != (5 << 2 | 0x20))
			write_port(BASE, value);
	}
	write_port(BASE + 1, 5 << 2 | 0x20);
	io_bus_write(&pio, BASE, 2, 5 << 2 | 0x20);
	ck_assert_uint_eq(nr_requests, 0);
}
END_TEST

START_TEST(the_reset_value_resets_and_no_other_does)
{
	for (unsigned int value = 0; value < 0x100; value++) {
		if (value != POWER_RESET_VALUE)
			write_port(BASE + 2, value);
	}
	ck_assert_uint_eq(nr_requests, 0);
	write_port(BASE + 2, POWER_RESET_VALUE);
	ck_assert_uint_eq(nr_requests, 1);
	ck_assert_int_eq(last_event, POWER_RESET);
}
END_TEST

START_TEST(the_button_raises_an_interrupt_and_shows_until_read)
{
	ck_assert_uint_eq(io_bus_read(&pio, BASE + 3, 1), 0);
	power_press_button(&power);
	ck_assert_uint_eq(fake_wires_take(&wires, GSI), 1);
	ck_assert_uint_eq(io_bus_read(&pio, BASE + 3, 1), 1);
	ck_assert_uint_eq(io_bus_read(&pio, BASE + 3, 1), 0);
	power_press_button(&power);
	ck_assert_uint_eq(fake_wires_take(&wires, GSI), 1);
	ck_assert_uint_eq(io_bus_read(&pio, BASE + 3, 1), 1);
}
END_TEST

START_TEST(a_reset_forgets_the_button)
{
	power_press_button(&power);
	power_reset(&power);
	ck_assert_uint_eq(io_bus_read(&pio, BASE + 3, 1), 0);
}
END_TEST

START_TEST(control_registers_read_as_zero_and_wide_reads_as_ones)
{
	ck_assert_uint_eq(io_bus_read(&pio, BASE, 1), 0);
	ck_assert_uint_eq(io_bus_read(&pio, BASE + 1, 1), 0);
	ck_assert_uint_eq(io_bus_read(&pio, BASE + 2, 1), 0);
	power_press_button(&power);
	ck_assert_uint_eq(io_bus_read(&pio, BASE, 4), 0xffffffff);
	ck_assert_uint_eq(io_bus_read(&pio, BASE + 3, 1), 1); /* nothing was taken */
}
END_TEST

START_TEST(pvpanic_says_what_it_knows_and_passes_on_what_happens)
{
	ck_assert_uint_eq(io_bus_read(&pio, PANIC_PORT, 1), 3);
	ck_assert_uint_eq(nr_requests, 0);
	write_port(PANIC_PORT, 1);
	ck_assert_uint_eq(nr_requests, 1);
	ck_assert_int_eq(last_event, POWER_PANIC);
	write_port(PANIC_PORT, 2);
	ck_assert_uint_eq(nr_requests, 2);
	ck_assert_int_eq(last_event, POWER_CRASH_LOADED);
	write_port(PANIC_PORT, 3); /* one of them, and the graver one */
	ck_assert_uint_eq(nr_requests, 3);
	ck_assert_int_eq(last_event, POWER_PANIC);
	write_port(PANIC_PORT, 0xfc);
	io_bus_write(&pio, PANIC_PORT, 2, 1);
	ck_assert_uint_eq(nr_requests, 3);
}
END_TEST

START_TEST(there_is_no_exit_port_unless_asked_for)
{
	write_port(EXIT_PORT, 7);
	ck_assert_uint_eq(nr_requests, 0);
	power_finish(&power);
	ck_assert_int_eq(init(EXIT_PORT), 0);
	write_port(EXIT_PORT, 7);
	ck_assert_uint_eq(nr_requests, 1);
	ck_assert_int_eq(last_event, POWER_EXIT);
	ck_assert_uint_eq(last_code, 7);
	ck_assert_uint_eq(io_bus_read(&pio, EXIT_PORT, 1), 0);
	power_finish(&power);
	ck_assert(list_empty(&pio.regions));
}
END_TEST

START_TEST(starting_fails_at_each_step_and_nothing_is_left)
{
	struct io_region taken = { .base = BASE + 3, .size = 1 };
	struct io_region panic_taken = { .base = PANIC_PORT, .size = 1 };
	struct io_region exit_taken = { .base = EXIT_PORT, .size = 1 };

	power_finish(&power);
	unsigned int fds = process_nr_fds();
	process_forbid_fds();
	ck_assert_int_eq(init(EXIT_PORT), -EMFILE);
	process_allow_fds();
	wires.nr_calls = 0;
	wires.fail_at = 1;
	ck_assert_int_eq(init(EXIT_PORT), -EIO);
	ck_assert_int_eq(io_bus_add(&pio, &taken), 0);
	ck_assert_int_eq(init(EXIT_PORT), -EEXIST);
	io_bus_remove(&pio, &taken);
	ck_assert_int_eq(io_bus_add(&pio, &panic_taken), 0);
	ck_assert_int_eq(init(EXIT_PORT), -EEXIST);
	io_bus_remove(&pio, &panic_taken);
	ck_assert_int_eq(io_bus_add(&pio, &exit_taken), 0);
	ck_assert_int_eq(init(EXIT_PORT), -EEXIST);
	io_bus_remove(&pio, &exit_taken);
	ck_assert(list_empty(&pio.regions));
	ck_assert_uint_eq(wires.nr_irqfds, 0);
	ck_assert_uint_eq(process_nr_fds(), fds);
	power_finish(&power);
	ck_assert_int_eq(init(EXIT_PORT), 0);
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		s5_with_the_enable_bit_switches_off,
		any_other_sleep_does_nothing,
		the_reset_value_resets_and_no_other_does,
		the_button_raises_an_interrupt_and_shows_until_read,
		a_reset_forgets_the_button,
		control_registers_read_as_zero_and_wide_reads_as_ones,
		pvpanic_says_what_it_knows_and_passes_on_what_happens,
		there_is_no_exit_port_unless_asked_for,
		starting_fails_at_each_step_and_nothing_is_left,
	};
	return run_tests("devices_power", setup, NULL, tests, nitems(tests));
}
