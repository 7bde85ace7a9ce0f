/* SPDX-License-Identifier: MIT */
#include "devices/virtio_rng.h"

#include <string.h>

#include <sys/random.h>

#include <linux/virtio_ids.h>

#include "base/fd.h"
#include "base/trace.h"

#define QUEUE_SIZE 64u

static struct virtio_rng *rng_of(struct virtio *virtio)
{
	return container_of(virtio, struct virtio_rng, virtio);
}

/* How many bytes of the chain are full now. */
static uint32_t fill(struct virtio_rng *rng)
{
	const struct virtq *ring = &rng->virtio.queues[0].ring;
	uint64_t size = virtq_writable_size(&rng->chain);
	uint8_t bytes[VIRTIO_RNG_MAX_BYTES];

	if (size > sizeof(bytes))
		size = sizeof(bytes);
	ssize_t got = getrandom(bytes, size, 0);
	if (got < 0 || virtq_write(ring, &rng->chain, 0, bytes, (size_t)got) < 0) {
		log_guest(&rng->virtio.budget,
			  "rng: a buffer outside of RAM, leaving it empty");
		got = 0;
	}
	explicit_bzero(bytes, sizeof(bytes)); /* the guest's secret */
	return (uint32_t)got;
}

static void rng_kick(struct virtio *virtio, unsigned int index)
{
	struct virtio_rng *rng = rng_of(virtio);
	struct virtio_queue *queue = &virtio->queues[index];
	unsigned int served = 0;
	int r = 0;

	TRACE(rng_kick, index, 0);
	while (served < QUEUE_SIZE && (r = virtq_pop(&queue->ring, &rng->chain)) > 0) {
		r = virtq_push(&queue->ring, rng->chain.head, fill(rng));
		if (r < 0)
			break;
		served++;
	}
	if (r < 0)
		virtio_break(virtio, "a malformed queue");
	/* There may be more, but others wait for the event loop too. */
	if (served == QUEUE_SIZE)
		eventfd_signal(queue->kicked.fd);
	if (served > 0)
		virtio_notify(virtio, index);
}

static bool rng_reset(struct virtio *virtio)
{
	(void)virtio; /* nothing is ever under way */
	return true;
}

static const struct virtio_ops rng_ops = {
	.kick = rng_kick,
	.reset = rng_reset,
};

int virtio_rng_init(struct virtio_rng *rng, struct memory_map *map, struct event_loop *loop)
{
	const struct virtio_config config = {
		.ops = &rng_ops,
		.name = "rng",
		.device_id = VIRTIO_ID_RNG,
		.nr_queues = 1,
		.queue_sizes = { QUEUE_SIZE },
	};

	return virtio_init(&rng->virtio, map, loop, &config);
}

void virtio_rng_finish(struct virtio_rng *rng)
{
	virtio_finish(&rng->virtio);
}
