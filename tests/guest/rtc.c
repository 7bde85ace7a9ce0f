/* SPDX-License-Identifier: MIT */
/*
 * rtc.c - the clock shows the host's time, in the registers where Linux looks.
 */
#include "tests/guest/guest.h"

#define INDEX 0x70
#define DATA 0x71

static unsigned int cmos(uint8_t index)
{
	out8(INDEX, index);
	return in8(DATA);
}

static unsigned int bcd(unsigned int n)
{
	CHECK((n & 15) < 10 && n >> 4 < 10);
	return (n >> 4) * 10 + (n & 15);
}

/* Days since 1970 of a date in the Gregorian calendar, March counted as the first month. */
static uint64_t days(unsigned int year, unsigned int month, unsigned int day)
{
	if (month <= 2) {
		year--;
		month += 12;
	}
	uint64_t of_years = year * 365ull + year / 4 - year / 100 + year / 400;
	return of_years + (153 * (month - 3) + 2) / 5 + day - 1 - 719468;
}

static uint64_t seconds_since_1970(void)
{
	unsigned int year = bcd(cmos(0x32)) * 100 + bcd(cmos(0x09));
	uint64_t day = days(year, bcd(cmos(0x08)), bcd(cmos(0x07)));

	CHECK_EQ(bcd(cmos(0x06)) - 1,
		 (day + 4) % 7); /* 1 is Sunday; 1970 began on a Thursday */
	return ((day * 24 + bcd(cmos(0x04))) * 60 + bcd(cmos(0x02))) * 60 + bcd(cmos(0x00));
}

int guest_main(void)
{
	uint64_t now = option("now");
	uint64_t shown = seconds_since_1970();

	/* At the turn of a minute the registers may belong to two of them: ask again. */
	if (shown < now || shown > now + 30)
		shown = seconds_since_1970();
	CHECK(shown >= now);
	CHECK(shown <= now + 30);
	CHECK_EQ(cmos(0x0a) & 0x80, 0);
	CHECK_EQ(cmos(0x0b) & 0x07, 0x02); /* 24 hours, BCD */
	CHECK_EQ(cmos(0x0d), 0x80);
	/* CMOS memory keeps what it is given, the clock does not. */
	out8(INDEX, 0x40);
	out8(DATA, 0xa5);
	out8(INDEX, 0x09);
	out8(DATA, 0x00);
	CHECK_EQ(cmos(0x40), 0xa5);
	CHECK(bcd(cmos(0x09)) != 0);
	CHECK_EQ(in8(INDEX), 0xff);
	return 0;
}
