/* SPDX-License-Identifier: MIT */
/*
 * rng.c - virtio-rng under a hostile driver. It writes into what the driver named, or nowhere: RAM
 * ends where the sanitizers see it.
 */
#include <assert.h>
#include <stdlib.h>

#include "devices/virtio_rng.h"
#include "tests/fuzz/driver.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static struct virtio_rng rng;

/* What a driver that behaves would send: it takes the fuzzer deep. */
static void step_buffer(void)
{
	struct vring_desc desc = { .addr = next_gpa(), .flags = VRING_DESC_F_WRITE };

	desc.len = next16();
	put_desc(0, 0, desc);
	publish(0, 0);
	virtio_kick(&rng.virtio, 0);
}

static void step_reset(void)
{
	virtio_reset(&rng.virtio);
	assert(rng.virtio.status == 0);
}

static void check(void)
{
	const struct virtq *vq = &rng.virtio.queues[0].ring;

	/* Nothing is kept: what was taken was given back. */
	assert(vq->broken || !virtio_running(&rng.virtio) || vq->next_avail == vq->next_used);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
	static void (*const steps[])(void) = {
		step_start,    step_buffer, step_kick,  step_desc,     step_publish,
		step_avail,    step_bytes,  step_queue, step_indirect, step_status,
		step_features, step_config, step_reset,
	};

	if (fuzz_begin(fuzz_ram(), bytes, size) < 0 ||
	    virtio_rng_init(&rng, &fuzz.map, NULL) < 0)
		abort(); /* of this process's making, not the input's */
	fuzz.virtio = &rng.virtio;
	fuzz_run(steps, nitems(steps), check);
	virtio_rng_finish(&rng);
	fuzz_end();
	fuzz_empty(fuzz_ram());
	return 0;
}
