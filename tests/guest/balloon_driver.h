/* SPDX-License-Identifier: MIT */
/*
 * balloon_driver.h - a balloon driver for tests: pages with marks in them, given up and taken
 * back one element at a time. Virtual I/O Device 1.2, 5.5.
 *
 * Threads: the first processor.
 */
#ifndef TESTS_GUEST_BALLOON_DRIVER_H
#define TESTS_GUEST_BALLOON_DRIVER_H

#include "tests/guest/virtio.h"

#define BALLOON_TYPE 5u
#define QUEUE_INFLATE 0u
#define QUEUE_DEFLATE 1u
#define QUEUE_STATS 2u
#define QUEUE_REPORTING 3u
#define MAX_QUEUES 4u

#define F_MUST_TELL_HOST 0
#define F_STATS_VQ 1
#define F_DEFLATE_ON_OOM 2
#define F_HINT 3
#define F_PAGE_POISON 4
#define F_REPORTING 5

#define CONFIG_NUM_PAGES 0u
#define CONFIG_ACTUAL 4u
#define CONFIG_POISON 12u
#define CONFIG_SIZE 16u

/* Bit of a driver that promises to tell the host, and has statistics. */
#define USUAL_FEATURES \
	(FEATURE(VIRTIO_F_VERSION_1) | FEATURE(F_MUST_TELL_HOST) | FEATURE(F_STATS_VQ))

#define PAGE_SIZE 4096u
#define ARENA 0x1800000ull /* free RAM, for pages that come and go; 2 MiB aligned */

extern struct virtio_device balloon;
extern struct ring rings[MAX_QUEUES];

/* From a reset to DRIVER_OK, all queues on that these features give. */
void balloon_start(uint64_t features);
/* The same, short of DRIVER_OK. */
void balloon_prepare(uint64_t features);

/* Page `n` of the arena: its address and its number. */
uint64_t page(unsigned int n);
uint32_t pfn(unsigned int n);
/* In three places of it, first and last byte among them. */
void page_mark(unsigned int n);
void page_check_marked(unsigned int n);
/* It is, or becomes so within a second or two: parts of huge pages are discarded by and by. */
void page_check_zero(unsigned int n);

/* One element of these page numbers to queue 0 or 1, and waits until it is used. */
void balloon_send(unsigned int queue, const uint32_t *pfns, unsigned int count);
/* Of pages [first, first + count) of the arena; count <= 512. */
void balloon_inflate(unsigned int first, unsigned int count);
void balloon_deflate(unsigned int first, unsigned int count);
/* It inflates and deflates, whatever was done to it before: a reset first. */
void balloon_still_serves(void);

/* What the host says, with "x-ballast-query-memory". */
uint64_t host_memory(const char *keys);

#endif /* TESTS_GUEST_BALLOON_DRIVER_H */
