/* SPDX-License-Identifier: MIT */
/*
 * console.c - virtio-console under a hostile driver, with a far end that takes output or does not,
 * and has input. What the driver named is read and written, or nothing: RAM ends where the
 * sanitizers see it.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include <sys/ioctl.h>

#include "devices/virtio_console.h"
#include "tests/fuzz/driver.h"

#define TURN_SIZE (64u << 10) /* bytes that may be sent before others have their turn */

enum { RECEIVEQ, TRANSMITQ };

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static struct virtio_console console;
static size_t takes;   /* bytes that the far end still takes */
static size_t in_turn; /* bytes that it was given since it was the fuzzer's turn */

static size_t far_transmit(void *opaque, const uint8_t *bytes, size_t size)
{
	uint8_t seen[4096];

	(void)opaque;
	assert(size > 0 && size <= sizeof(seen));
	memcpy(seen, bytes, size);
	in_turn += size;
	size_t n = size < takes ? size : takes;
	takes -= n;
	return n;
}

static void far_receive_ready(void *opaque)
{
	(void)opaque;
}

/* What a driver that behaves would send: it takes the fuzzer deep. */
static void step_output(void)
{
	struct vring_desc desc = { .addr = next_gpa(), .flags = 0 };

	desc.len = next8() % 4 ? next16() : next32();
	put_desc(TRANSMITQ, 0, desc);
	publish(TRANSMITQ, 0);
	virtio_kick(&console.virtio, TRANSMITQ);
}

static void step_buffer(void)
{
	struct vring_desc desc = { .addr = next_gpa(), .flags = VRING_DESC_F_WRITE };

	desc.len = next8();
	put_desc(RECEIVEQ, 0, desc);
	publish(RECEIVEQ, 0);
	virtio_kick(&console.virtio, RECEIVEQ);
}

/* The far end */

static void step_input(void)
{
	uint8_t bytes[512] = { 0 };
	size_t n = 2u * next8();

	size_t taken = console.port.ops->receive(&console.port, bytes, n);
	assert(taken <= n);
}

static void step_far_end(void)
{
	takes = next8() % 4 ? next16() : SIZE_MAX;
	console.port.ops->transmit_ready(&console.port);
}

static void step_patience(void)
{
	console.timer.ready(&console.timer, EPOLLIN);
}

static void step_resize(void)
{
	struct winsize window = { .ws_col = next16() };

	window.ws_row = next8();
	virtio_console_resize(&console, &window);
}

static void step_reset(void)
{
	virtio_reset(&console.virtio);
	assert(console.virtio.status == 0);
	assert(!console.sending && !console.waits && !console.drops);
}

/* How many chains of a queue are not given back. */
static unsigned int nr_held(unsigned int queue)
{
	const struct virtq *vq = &console.virtio.queues[queue].ring;

	return (uint16_t)(vq->next_avail - vq->next_used);
}

static void check(void)
{
	/* A step that starts the device looks at the queue, and kicks it once more at most. */
	assert(in_turn <= 2 * TURN_SIZE);
	in_turn = 0;
	if (!virtio_running(&console.virtio))
		return;
	assert(console.virtio.queues[RECEIVEQ].ring.broken || nr_held(RECEIVEQ) == 0);
	assert(console.virtio.queues[TRANSMITQ].ring.broken ||
	       nr_held(TRANSMITQ) == console.sending);
	assert(!console.waits || (console.sending && !console.drops));
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
	static void (*const steps[])(void) = {
		step_start,    step_output, step_buffer,   step_input,   step_far_end,
		step_patience, step_kick,   step_desc,     step_publish, step_avail,
		step_bytes,    step_queue,  step_indirect, step_status,  step_features,
		step_config,   step_resize, step_reset,
	};
	const struct port_backend backend = {
		.transmit = far_transmit,
		.receive_ready = far_receive_ready,
	};
	const struct winsize window = { .ws_col = 80, .ws_row = 25 };

	takes = SIZE_MAX;
	in_turn = 0;
	if (fuzz_begin(fuzz_ram(), bytes, size) < 0 ||
	    virtio_console_init(&console, &fuzz.map, NULL, &backend, &window) < 0)
		abort(); /* of this process's making, not the input's */
	fuzz.virtio = &console.virtio;
	fuzz_run(steps, nitems(steps), check);
	virtio_console_finish(&console);
	fuzz_end();
	fuzz_empty(fuzz_ram());
	return 0;
}
