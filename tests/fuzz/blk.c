/* SPDX-License-Identifier: MIT */
/*
 * blk.c - virtio-blk under a hostile driver, on an image in memory and a real io_uring. Whatever
 * the driver does: it reads and writes what it named, of its own RAM and of the disk, the image
 * keeps its size, no request is lost, and a reset ends with nothing under way.
 *
 * An input is a byte that says which disk, then steps.
 */
#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <sys/mman.h>

#include <linux/virtio_blk.h>

#include "base/fd.h"

#include "devices/virtio_blk.h"
#include "tests/fuzz/driver.h"

#define IMAGE_SIZE (1u << 20)
#define NR_QUEUES 2u
#define HEADER (FUZZ_BUFFER + 0x20000)
#define STATUS (FUZZ_BUFFER + 0x21000)

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

/* Made once, since that takes longer than most inputs; what an input leaves a reset undoes. */
static struct disk {
	struct virtio_blk blk;
	char path[64];
	int fd;
} disks[3]; /* plain, readonly, direct */
static struct disk *disk;
static struct virtio_blk *blk; /* the disk's */

static void make_disk(struct disk *d, bool readonly, bool direct)
{
	struct virtio_blk_options options = { .path = d->path, .serial = "fuzzed" };

	d->fd = memfd_create("disk", MFD_CLOEXEC);
	if (d->fd < 0 || ftruncate(d->fd, IMAGE_SIZE) < 0)
		abort(); /* of this process's making, not the input's */
	(void)snprintf(d->path, sizeof(d->path), "/proc/self/fd/%d", d->fd);
	options.readonly = readonly;
	options.direct = direct;
	int r = virtio_blk_init(&d->blk, &fuzz.map, NULL, &options, NR_QUEUES);
	if (r < 0 && direct) { /* Linux before 6.6 has no O_DIRECT for it */
		options.direct = false;
		r = virtio_blk_init(&d->blk, &fuzz.map, NULL, &options, NR_QUEUES);
	}
	if (r < 0)
		abort(); /* likewise */
}

/* A request as a driver that behaves would send it, or nearly: it takes the fuzzer deep. */
static void step_request(void)
{
	static const uint32_t types[] = {
		VIRTIO_BLK_T_IN,     VIRTIO_BLK_T_OUT,     VIRTIO_BLK_T_FLUSH,
		VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_WRITE_ZEROES,
	};
	unsigned int queue = next_queue();
	uint8_t kind = next8();
	struct virtio_blk_outhdr header = { .type = types[kind % nitems(types)] };
	bool reads = header.type == VIRTIO_BLK_T_IN || header.type == VIRTIO_BLK_T_GET_ID;
	struct vring_desc data = { .flags = VRING_DESC_F_NEXT, .next = 2 };

	header.sector = next8() % 8 ? next16() % (IMAGE_SIZE / 512) : next64();
	data.addr = next8() % 4 ? FUZZ_BUFFER + next16() : next_gpa();
	data.len = next8() % 4 ? next8() * (reads || kind & 64 ? 512u : 16u) : next32();
	if (reads)
		data.flags |= VRING_DESC_F_WRITE;
	if (blk->options.direct && !(kind & 32)) {
		header.sector &= ~7ull;
		data.len &= ~4095u;
	}
	put(HEADER, &header, sizeof(header));
	put_desc(queue, 0,
		 (struct vring_desc){ HEADER, sizeof(header), VRING_DESC_F_NEXT,
				      (uint16_t)(kind & 128 ? 2 : 1) });
	put_desc(queue, 1, data);
	put_desc(queue, 2, (struct vring_desc){ STATUS, 1, VRING_DESC_F_WRITE, 0 });
	publish(queue, 0);
	if (next8() % 4)
		virtio_kick(&blk->virtio, queue);
}

/* Ranges that may be good, where step_request() looks for them. */
static void step_ranges(void)
{
	unsigned int n = next8() % 20;

	for (unsigned int i = 0; i < n; i++) {
		struct virtio_blk_discard_write_zeroes range;
		range.sector = next8() % 8 ? next16() % (IMAGE_SIZE / 512) : next64();
		range.num_sectors = next8() % 8 ? next8() : next32();
		range.flags = next8() % 4;
		put(FUZZ_BUFFER + i * sizeof(range), &range, sizeof(range));
	}
}

/* The event loop, if there is something for it to do. */
static void step_complete(void)
{
	if (eventfd_pending(blk->done.fd))
		blk->done.ready(&blk->done, POLLIN);
}

static void wait_for_operations(void)
{
	struct pollfd p = { .fd = blk->done.fd, .events = POLLIN };

	while (blk->nr_running > 0) {
		if (poll(&p, 1, 10000) == 1)
			blk->done.ready(&blk->done, POLLIN);
		else
			assert(errno == EINTR);
	}
}

static void step_wait(void)
{
	wait_for_operations();
}

static void step_second(void)
{
	if (!blk->options.readonly && next8() % 4 == 0 &&
	    ftruncate(disk->fd, next8() * 4096ll) < 0)
		abort(); /* of this process's making, not the input's */
	blk->timer.ready(&blk->timer, POLLIN);
}

static void step_reset(void)
{
	virtio_reset(&blk->virtio);
	wait_for_operations();
	assert(blk->virtio.status == 0);
	for (unsigned int i = 0; i < NR_QUEUES; i++)
		assert(blk->nr_taken[i] == 0);
}

static void check(void)
{
	unsigned int nr_taken = 0;

	for (unsigned int i = 0; i < NR_QUEUES; i++)
		nr_taken += blk->nr_taken[i];
	/* Each request is under way, or waits for the flush that is. */
	assert(nr_taken == 0 || blk->nr_running > 0);
	assert(nr_taken <= NR_QUEUES * VIRTQ_MAX_SIZE && blk->nr_touched <= nr_taken + 512);
	/* Nobody waits who could go on. */
	assert(list_empty(&blk->flush_waiting) || blk->flush_runs);
	assert(list_empty(&blk->bounce_waiting) || blk->bouncer);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
	static void (*const steps[])(void) = {
		step_start,  step_request, step_request,  step_ranges,  step_complete,
		step_wait,   step_kick,    step_desc,     step_publish, step_avail,
		step_bytes,  step_queue,   step_indirect, step_status,  step_features,
		step_config, step_second,  step_reset,    step_request,
	};

	if (!disks[0].blk.options.path) {
		make_disk(&disks[0], false, false);
		make_disk(&disks[1], true, false);
		make_disk(&disks[2], false, true);
	}
	if (fuzz_begin(fuzz_ram(), bytes, size) < 0)
		abort(); /* likewise */
	disk = &disks[next8() % nitems(disks)];
	blk = &disk->blk;
	fuzz.virtio = &blk->virtio;
	fuzz_run(steps, nitems(steps), check);
	step_reset();
	if (ftruncate(disk->fd, 0) < 0 || ftruncate(disk->fd, IMAGE_SIZE) < 0)
		abort(); /* likewise */
	blk->timer.ready(&blk->timer, POLLIN);
	fuzz_end();
	fuzz_empty(fuzz_ram());
	return 0;
}
