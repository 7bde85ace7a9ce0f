/* SPDX-License-Identifier: MIT */
/*
 * rtc.h - the clock part of an MC146818: time of day in UTC, 114 bytes of CMOS memory, no
 * alarm and no periodic interrupt. Ports 0x70 (index) and 0x71 (data).
 *
 * Threads: any. Takes rtc->lock.
 */
#ifndef DEVICES_RTC_H
#define DEVICES_RTC_H

#include <pthread.h>

#include "devices/io_bus.h"

struct rtc {
	pthread_mutex_t lock;
	struct io_bus *pio; /* borrowed; NULL: not initialised */
	struct io_region ports;
	uint8_t index;
	uint8_t cmos[128];
};

/* -EEXIST: the ports are taken. */
must_check int rtc_init(struct rtc *rtc, struct io_bus *pio);
/* Accepts a zeroed object. */
void rtc_finish(struct rtc *rtc);

#endif /* DEVICES_RTC_H */
