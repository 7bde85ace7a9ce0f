/* SPDX-License-Identifier: MIT */
#include "devices/virtio.h"

#include <assert.h>
#include <endian.h>
#include <string.h>

#include <linux/virtio_ring.h>

#include "base/fd.h"
#include "base/trace.h"

#include "devices/io_bus.h"

#define DRIVER_BITS                                                                         \
	(VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_DRIVER_OK | \
	 VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_FAILED)

static void queue_ready(struct event_source *source, uint32_t events)
{
	struct virtio_queue *queue = container_of(source, struct virtio_queue, kicked);

	(void)events;
	if (eventfd_take(source->fd))
		virtio_kick(queue->virtio, (unsigned int)(queue - queue->virtio->queues));
}

static int init_queue(struct virtio *virtio, struct virtio_queue *queue, uint16_t size)
{
	*queue = (struct virtio_queue){
		.vector = VIRTIO_NO_VECTOR,
		.kicked = { .fd = -1, .ready = queue_ready },
		.virtio = virtio,
	};
	virtq_init(&queue->ring, virtio->map, size);
	return event_source_open(&queue->kicked, virtio->loop);
}

int virtio_init(struct virtio *virtio, struct memory_map *map, struct event_loop *loop,
		const struct virtio_config *config)
{
	int r = 0;

	assert(config->nr_queues <= VIRTIO_MAX_QUEUES);
	assert(config->config_size <= VIRTIO_MAX_CONFIG);
	*virtio = (struct virtio){
		.ops = config->ops,
		.name = config->name,
		.loop = loop,
		.map = map,
		.device_id = config->device_id,
		.config_size = config->config_size,
		.features = config->features | VIRTIO_FEATURE(VIRTIO_F_VERSION_1) |
			    VIRTIO_FEATURE(VIRTIO_RING_F_INDIRECT_DESC) |
			    VIRTIO_FEATURE(VIRTIO_RING_F_EVENT_IDX),
		.config_vector = VIRTIO_NO_VECTOR,
		.may_dma = true,
		.reset_fd = -1,
	};
	pthread_mutex_init(&virtio->lock, NULL);
	for (unsigned int i = 0; i < config->nr_queues && r >= 0; i++) {
		r = init_queue(virtio, &virtio->queues[i], config->queue_sizes[i]);
		virtio->nr_queues++;
	}
	if (r < 0)
		virtio_finish(virtio);
	return r;
}

void virtio_finish(struct virtio *virtio)
{
	if (!virtio->ops)
		return;
	for (unsigned int i = 0; i < virtio->nr_queues; i++)
		event_source_close(&virtio->queues[i].kicked, virtio->loop);
	pthread_mutex_destroy(&virtio->lock);
	*virtio = (struct virtio){ 0 };
}

bool virtio_has_feature(const struct virtio *virtio, unsigned int bit)
{
	return virtio->driver_features & VIRTIO_FEATURE(bit);
}

static bool is_usable(const struct virtio *virtio)
{
	return !(virtio->status & VIRTIO_CONFIG_S_NEEDS_RESET) && !virtio->resetting;
}

bool virtio_running(const struct virtio *virtio)
{
	return (virtio->status & VIRTIO_CONFIG_S_DRIVER_OK) && virtio->may_dma &&
	       is_usable(virtio);
}

bool virtio_resting(const struct virtio *virtio)
{
	return !virtio_running(virtio) && is_usable(virtio);
}

void virtio_notify(struct virtio *virtio, unsigned int index)
{
	if (virtio->transport && virtq_wants_interrupt(&virtio->queues[index].ring))
		virtio->transport->queue_interrupt(virtio, index);
}

void virtio_interrupt(struct virtio *virtio, unsigned int index)
{
	if (virtio->transport)
		virtio->transport->queue_interrupt(virtio, index);
}

int virtio_queue_eventfd(struct virtio *virtio, unsigned int index)
{
	const struct virtio_transport_ops *transport = virtio->transport;

	return transport && transport->queue_eventfd ? transport->queue_eventfd(virtio, index)
						     : -1;
}

void virtio_yield_kicks(struct virtio *virtio, unsigned int index)
{
	event_loop_modify(virtio->loop, &virtio->queues[index].kicked, 0);
}

void virtio_claim_kicks(struct virtio *virtio, unsigned int index)
{
	event_loop_modify(virtio->loop, &virtio->queues[index].kicked, EPOLLIN);
}

static void config_interrupt(struct virtio *virtio)
{
	if (virtio->transport && (virtio->status & VIRTIO_CONFIG_S_DRIVER_OK) &&
	    !virtio->resetting)
		virtio->transport->config_interrupt(virtio);
}

void virtio_config_changed(struct virtio *virtio)
{
	virtio->config_generation++;
	config_interrupt(virtio);
}

void virtio_break(struct virtio *virtio, const char *why)
{
	if (virtio->status & VIRTIO_CONFIG_S_NEEDS_RESET)
		return;
	log_guest(&virtio->budget, "%s: %s: it needs a reset by its driver", virtio->name, why);
	virtio->status |= VIRTIO_CONFIG_S_NEEDS_RESET;
	config_interrupt(virtio);
}

/* Nothing of what the driver has set is left. Under the lock. */
static void forget_driver(struct virtio *virtio)
{
	for (unsigned int i = 0; i < virtio->nr_queues; i++) {
		struct virtio_queue *queue = &virtio->queues[i];
		virtq_init(&queue->ring, virtio->map, queue->ring.max_size);
		queue->vector = VIRTIO_NO_VECTOR;
		(void)eventfd_take(queue->kicked.fd); /* kicks of the time before */
	}
	virtio->driver_features = 0;
	virtio->config_vector = VIRTIO_NO_VECTOR;
}

static void end_reset(struct virtio *virtio)
{
	forget_driver(virtio); /* of one that did not wait, perhaps */
	virtio->status = 0;
	virtio->resetting = false;
}

void virtio_reset_done(struct virtio *virtio)
{
	end_reset(virtio);
	if (virtio->reset_fd >= 0)
		eventfd_signal(virtio->reset_fd);
}

/* Under the lock. */
static void reset(struct virtio *virtio)
{
	if (virtio->resetting)
		return;
	forget_driver(virtio);
	virtio->resetting = true;
	if (virtio->ops->reset(virtio))
		end_reset(virtio);
}

bool virtio_is_resetting(struct virtio *virtio)
{
	pthread_mutex_lock(&virtio->lock);
	bool resetting = virtio->resetting;
	pthread_mutex_unlock(&virtio->lock);
	return resetting;
}

void virtio_reset(struct virtio *virtio)
{
	TRACE(virtio_reset, virtio->device_id, 0);
	pthread_mutex_lock(&virtio->lock);
	reset(virtio);
	pthread_mutex_unlock(&virtio->lock);
}

static bool features_acceptable(const struct virtio *virtio)
{
	return virtio_has_feature(virtio, VIRTIO_F_VERSION_1) &&
	       !(virtio->driver_features & ~virtio->features);
}

/* What the driver has put into the queues before it was through is looked at here. */
static void start(struct virtio *virtio)
{
	if (!virtio_running(virtio))
		return; /* it will be started once it may reach memory */
	for (unsigned int i = 0; i < virtio->nr_queues; i++) {
		struct virtq *ring = &virtio->queues[i].ring;
		ring->indirect = virtio_has_feature(virtio, VIRTIO_RING_F_INDIRECT_DESC);
		ring->event_idx = virtio_has_feature(virtio, VIRTIO_RING_F_EVENT_IDX);
	}
	if (virtio->ops->start)
		virtio->ops->start(virtio);
	for (unsigned int i = 0; i < virtio->nr_queues; i++)
		virtio->ops->kick(virtio, i);
}

static void take_driver_ok_back(struct virtio *virtio)
{
	if (!(virtio->status & VIRTIO_CONFIG_S_DRIVER_OK))
		return;
	virtio->status &= (uint8_t)~VIRTIO_CONFIG_S_DRIVER_OK;
	if (virtio->ops->stop)
		virtio->ops->stop(virtio);
}

static void set_status(struct virtio *virtio, uint8_t status)
{
	uint8_t added = status & DRIVER_BITS & (uint8_t)~virtio->status;

	if ((added & VIRTIO_CONFIG_S_FEATURES_OK) && !features_acceptable(virtio)) {
		log_guest(&virtio->budget,
			  "%s: the driver wants features that are not offered, or not "
			  "VIRTIO_F_VERSION_1: refused",
			  virtio->name);
		added &= (uint8_t)~VIRTIO_CONFIG_S_FEATURES_OK;
	}
	/* A driver must not go on without FEATURES_OK; ours then would not know what it wants. */
	if (!((virtio->status | added) & VIRTIO_CONFIG_S_FEATURES_OK))
		added &= (uint8_t)~VIRTIO_CONFIG_S_DRIVER_OK;
	virtio->status |= added;
	/* It must not take this back. One that does may be about to free its queues. */
	if (!(status & VIRTIO_CONFIG_S_DRIVER_OK))
		take_driver_ok_back(virtio);
	if (added & VIRTIO_CONFIG_S_DRIVER_OK)
		start(virtio);
}

void virtio_set_dma(struct virtio *virtio, bool may)
{
	pthread_mutex_lock(&virtio->lock);
	bool changed = virtio->may_dma != may;
	virtio->may_dma = may;
	/* Whose queues these are may be gone by the time that it may again. */
	if (changed && !may)
		take_driver_ok_back(virtio);
	else if (changed)
		start(virtio);
	pthread_mutex_unlock(&virtio->lock);
}

void virtio_set_status(struct virtio *virtio, uint8_t status)
{
	if (status == 0)
		reset(virtio);
	else if (!virtio->resetting)
		set_status(virtio, status);
}

static uint32_t half_of(uint64_t features, uint32_t half)
{
	return half > 1 ? 0 : (uint32_t)(features >> (32 * half));
}

uint32_t virtio_get_features(const struct virtio *virtio, uint32_t half)
{
	return half_of(virtio->features, half);
}

uint32_t virtio_get_driver_features(const struct virtio *virtio, uint32_t half)
{
	return half_of(virtio->driver_features, half);
}

void virtio_set_driver_features(struct virtio *virtio, uint32_t half, uint32_t value)
{
	if (half > 1 || (virtio->status & VIRTIO_CONFIG_S_FEATURES_OK))
		return;
	virtio->driver_features &= ~((uint64_t)UINT32_MAX << (32 * half));
	virtio->driver_features |= (uint64_t)value << (32 * half);
}

/* Eight bytes are two accesses of four, as a driver must take them. */
static bool in_config(const struct virtio *virtio, uint64_t offset, unsigned int size)
{
	return range_within(offset, size, 0, virtio->config_size);
}

uint64_t virtio_config_read(struct virtio *virtio, uint64_t offset, unsigned int size)
{
	unsigned int step = size < 4 ? size : 4;
	_Alignas(uint64_t) char space[VIRTIO_MAX_CONFIG];
	uint64_t value = 0;

	if (!virtio->ops->config_fill)
		return 0;
	pthread_mutex_lock(&virtio->lock);
	virtio->ops->config_fill(virtio, space);
	pthread_mutex_unlock(&virtio->lock);
	for (unsigned int i = 0; i < size; i += step) {
		if (in_config(virtio, offset + i, step))
			memcpy((char *)&value + i, &space[offset + i], step);
	}
	return le64toh(value);
}

void virtio_config_write(struct virtio *virtio, uint64_t offset, unsigned int size,
			 uint64_t value)
{
	unsigned int step = size < 4 ? size : 4;

	if (!virtio->ops->config_write)
		return;
	pthread_mutex_lock(&virtio->lock);
	for (unsigned int i = 0; i < size; i += step) {
		if (in_config(virtio, offset + i, step))
			virtio->ops->config_write(virtio, (unsigned int)offset + i, step,
						  (uint32_t)(value >> (8 * i) & io_ones(step)));
	}
	pthread_mutex_unlock(&virtio->lock);
}

void virtio_kick(struct virtio *virtio, unsigned int index)
{
	TRACE(virtio_kick, virtio->device_id, index);
	pthread_mutex_lock(&virtio->lock);
	if (virtio_running(virtio))
		virtio->ops->kick(virtio, index);
	pthread_mutex_unlock(&virtio->lock);
}
