/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <time.h>

#include "devices/rtc.h"
#include "tests/fakes/process.h"

static struct io_bus pio;
static struct rtc rtc;

static void setup(void)
{
	io_bus_init(&pio);
	ck_assert_int_eq(rtc_init(&rtc, &pio), 0);
}

static unsigned int get(uint8_t index)
{
	io_bus_write(&pio, 0x70, 1, index);
	return (unsigned int)io_bus_read(&pio, 0x71, 1);
}

static void set(uint8_t index, uint8_t value)
{
	io_bus_write(&pio, 0x70, 1, index);
	io_bus_write(&pio, 0x71, 1, value);
}

static int get_bcd(uint8_t index)
{
	unsigned int value = get(index);

	ck_assert_uint_lt(value & 0xf, 10);
	ck_assert_uint_lt(value >> 4, 10);
	return (int)(value >> 4) * 10 + (int)(value & 0xf);
}

START_TEST(the_clock_is_the_hosts_in_utc)
{
	struct tm tm = { 0 };
	time_t before, now, after;

	do { /* until no second passes in between */
		before = time(NULL);
		tm = (struct tm){
			.tm_sec = get_bcd(0),
			.tm_min = get_bcd(2),
			.tm_hour = get_bcd(4),
			.tm_mday = get_bcd(7),
			.tm_mon = get_bcd(8) - 1,
			.tm_year = get_bcd(0x32) * 100 + get_bcd(9) - 1900,
		};
		after = time(NULL);
	} while (before != after);
	int weekday = get_bcd(6);
	now = timegm(&tm);
	ck_assert_int_eq(now, before);
	ck_assert_int_eq(weekday, tm.tm_wday + 1);
}
END_TEST

START_TEST(it_never_says_that_it_is_being_updated)
{
	ck_assert_uint_eq(get(0x0a), 0x26);
	ck_assert_uint_eq(get(0x0b), 0x02); /* 24 hours, BCD */
	ck_assert_uint_eq(get(0x0c), 0);
	ck_assert_uint_eq(get(0x0d), 0x80); /* the battery is good */
}
END_TEST

START_TEST(the_guest_cannot_set_the_time)
{
	set(9, 0x42);
	ck_assert_int_ne(get(9), 0x42);
	set(0x0d, 0);
	ck_assert_uint_eq(get(0x0d), 0x80);
}
END_TEST

START_TEST(cmos_memory_keeps_what_is_written)
{
	for (uint8_t i = 0x0e; i < 0x80; i++) {
		if (i != 0x32)
			set(i, (uint8_t)(i ^ 0x5a));
	}
	for (uint8_t i = 0x0e; i < 0x80; i++) {
		if (i != 0x32)
			ck_assert_uint_eq(get(i), i ^ 0x5au);
	}
}
END_TEST

START_TEST(the_nmi_bit_of_the_index_is_ignored)
{
	set(0x40, 0x11);
	ck_assert_uint_eq(get(0xc0), 0x11);
}
END_TEST

START_TEST(the_index_cannot_be_read_and_wide_accesses_go_nowhere)
{
	set(0x40, 0x11);
	ck_assert_uint_eq(io_bus_read(&pio, 0x70, 1), 0xff);
	ck_assert_uint_eq(io_bus_read(&pio, 0x70, 2), 0xffff);
	io_bus_write(&pio, 0x70, 2, 0x2241);
	ck_assert_uint_eq(io_bus_read(&pio, 0x71, 1), 0x11);
}
END_TEST

START_TEST(taken_ports_are_refused_and_finishing_frees_them)
{
	struct rtc other;

	ck_assert_int_eq(rtc_init(&other, &pio), -EEXIST);
	rtc_finish(&rtc);
	ck_assert_uint_eq(io_bus_read(&pio, 0x71, 1), 0xff);
	ck_assert_int_eq(rtc_init(&other, &pio), 0);
	rtc_finish(&rtc); /* of what is finished */
	rtc_finish(&other);
	ck_assert(list_empty(&pio.regions));
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		the_clock_is_the_hosts_in_utc,
		it_never_says_that_it_is_being_updated,
		the_guest_cannot_set_the_time,
		cmos_memory_keeps_what_is_written,
		the_nmi_bit_of_the_index_is_ignored,
		the_index_cannot_be_read_and_wide_accesses_go_nowhere,
		taken_ports_are_refused_and_finishing_frees_them,
	};
	return run_tests("devices_rtc", setup, NULL, tests, nitems(tests));
}
