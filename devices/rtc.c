/* SPDX-License-Identifier: MIT */
#include "devices/rtc.h"

#include <time.h>

#define PORT_BASE 0x70
#define REG_A 0x0a
#define REG_B 0x0b
#define REG_C 0x0c
#define REG_D 0x0d
#define REG_CENTURY 0x32
#define B_24_HOURS 0x02
#define D_VALID 0x80 /* the battery is good */

static uint8_t to_bcd(int n)
{
	return (uint8_t)(n / 10 << 4 | n % 10);
}

static uint8_t read_cmos(const struct rtc *rtc)
{
	struct tm now;
	time_t t = time(NULL);

	if (!gmtime_r(&t, &now))
		now = (struct tm){ .tm_mday = 1 };
	switch (rtc->index) {
	case 0x00: return to_bcd(now.tm_sec);
	case 0x02: return to_bcd(now.tm_min);
	case 0x04: return to_bcd(now.tm_hour);
	case 0x06: return to_bcd(now.tm_wday + 1);
	case 0x07: return to_bcd(now.tm_mday);
	case 0x08: return to_bcd(now.tm_mon + 1);
	case 0x09: return to_bcd(now.tm_year % 100);
	case REG_CENTURY: return to_bcd((now.tm_year + 1900) / 100);
	/* Never "update in progress": each register is read from one clock at one moment. */
	case REG_A: return 0x26;
	case REG_B: return B_24_HOURS;
	case REG_C: return 0;
	case REG_D: return D_VALID;
	default: return rtc->cmos[rtc->index];
	}
}

static uint64_t rtc_read(void *opaque, uint64_t offset, unsigned int size)
{
	struct rtc *rtc = opaque;

	if (size != 1 || offset == 0)
		return io_ones(size);
	pthread_mutex_lock(&rtc->lock);
	uint8_t value = read_cmos(rtc);
	pthread_mutex_unlock(&rtc->lock);
	return value;
}

/* The clock is the host's: the guest may set CMOS memory but not the time. */
static void rtc_write(void *opaque, uint64_t offset, unsigned int size, uint64_t value)
{
	struct rtc *rtc = opaque;

	if (size != 1)
		return;
	pthread_mutex_lock(&rtc->lock);
	if (offset == 0)
		rtc->index = value & 0x7f;
	else
		rtc->cmos[rtc->index] = (uint8_t)value;
	pthread_mutex_unlock(&rtc->lock);
}

static const struct io_ops rtc_ops = { .read = rtc_read, .write = rtc_write };

int rtc_init(struct rtc *rtc, struct io_bus *pio)
{
	*rtc = (struct rtc){
		.ports = { .base = PORT_BASE, .size = 2, .ops = &rtc_ops },
	};
	rtc->ports.opaque = rtc;
	int r = io_bus_add(pio, &rtc->ports);
	if (r < 0)
		return r;
	pthread_mutex_init(&rtc->lock, NULL);
	rtc->pio = pio;
	return 0;
}

void rtc_finish(struct rtc *rtc)
{
	if (!rtc->pio)
		return;
	io_bus_remove(rtc->pio, &rtc->ports);
	pthread_mutex_destroy(&rtc->lock);
	*rtc = (struct rtc){ 0 };
}
