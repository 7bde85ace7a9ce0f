/* SPDX-License-Identifier: MIT */
#include "tests/fakes/virtio_driver.h"

#include <string.h>

#include <linux/virtio_ring.h>

#include "memory/access.h"
#include "tests/fakes/process.h"

/* Where queue i's rings lie; each has room for VIRTQ_MAX_SIZE entries. */
#define QUEUE(i) (0x10000ull + (i)*0x4000ull)
#define AVAIL 0x2000u
#define USED 0x3000u

static struct virtio_driver *driver_of(struct virtio *virtio)
{
	return virtio->transport_opaque;
}

static void count_queue_interrupt(struct virtio *virtio, unsigned int index)
{
	driver_of(virtio)->nr_queue_interrupts[index]++;
}

static void count_config_interrupt(struct virtio *virtio)
{
	driver_of(virtio)->nr_config_interrupts++;
}

static const struct virtio_transport_ops transport = {
	.queue_interrupt = count_queue_interrupt,
	.config_interrupt = count_config_interrupt,
};

void driver_init(struct virtio_driver *driver)
{
	*driver = (struct virtio_driver){ 0 };
	ck_assert_int_eq(ram_init(&driver->ram, DRIVER_RAM, RAM_ANONYMOUS), 0);
	memory_map_init(&driver->map);
	driver->region = (struct memory_region){
		.size = DRIVER_RAM,
		.host = driver->ram.host,
		.ram = &driver->ram,
		.name = "ram",
	};
	ck_assert_int_eq(memory_map_add(&driver->map, &driver->region), 0);
}

void driver_finish(struct virtio_driver *driver)
{
	memory_map_remove(&driver->map, &driver->region);
	memory_map_finish(&driver->map);
	ram_finish(&driver->ram);
}

void driver_take(struct virtio_driver *driver, struct virtio *virtio)
{
	driver->virtio = virtio;
	virtio->transport = &transport;
	virtio->transport_opaque = driver;
}

void driver_set_status(struct virtio_driver *driver, uint8_t status)
{
	pthread_mutex_lock(&driver->virtio->lock);
	virtio_set_status(driver->virtio, status);
	pthread_mutex_unlock(&driver->virtio->lock);
}

uint8_t driver_status(struct virtio_driver *driver)
{
	pthread_mutex_lock(&driver->virtio->lock);
	uint8_t status = driver->virtio->status;
	pthread_mutex_unlock(&driver->virtio->lock);
	return status;
}

static void set_features(struct virtio *virtio, uint64_t features)
{
	pthread_mutex_lock(&virtio->lock);
	virtio_set_driver_features(virtio, 0, (uint32_t)features);
	virtio_set_driver_features(virtio, 1, (uint32_t)(features >> 32));
	pthread_mutex_unlock(&virtio->lock);
}

void driver_negotiate(struct virtio_driver *driver, uint64_t features)
{
	struct virtio *virtio = driver->virtio;

	features = (features | VIRTIO_FEATURE(VIRTIO_F_VERSION_1)) & virtio->features;
	driver->features = features;
	driver_set_status(driver, 0);
	driver_set_status(driver, VIRTIO_CONFIG_S_ACKNOWLEDGE);
	driver_set_status(driver, VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER);
	set_features(virtio, features);
	driver_set_status(driver, driver_status(driver) | VIRTIO_CONFIG_S_FEATURES_OK);
	ck_assert_uint_ne(driver_status(driver) & VIRTIO_CONFIG_S_FEATURES_OK, 0);
}

void driver_place_queues(struct virtio_driver *driver)
{
	for (unsigned int i = 0; i < driver->virtio->nr_queues; i++) {
		struct virtq *vq = &driver->virtio->queues[i].ring;
		struct driver_queue *queue = &driver->queues[i];
		memset(driver_at(driver, QUEUE(i), 0x4000), 0, 0x4000);
		*queue = (struct driver_queue){
			.desc = QUEUE(i),
			.avail = QUEUE(i) + AVAIL,
			.used = QUEUE(i) + USED,
			.size = vq->max_size,
		};
		vq->size = queue->size;
		vq->desc = queue->desc;
		vq->driver = queue->avail;
		vq->device = queue->used;
		vq->enabled = true;
	}
}

void driver_ok(struct virtio_driver *driver)
{
	driver_set_status(driver, driver_status(driver) | VIRTIO_CONFIG_S_DRIVER_OK);
}

void driver_start(struct virtio_driver *driver, uint64_t features)
{
	driver_negotiate(driver, features);
	driver_place_queues(driver);
	driver_ok(driver);
}

bool driver_is_broken(struct virtio_driver *driver)
{
	return driver_status(driver) & VIRTIO_CONFIG_S_NEEDS_RESET;
}

void *driver_at(struct virtio_driver *driver, gpa_t gpa, uint64_t size)
{
	void *p = memory_ptr(&driver->map, gpa, size);

	ck_assert_ptr_nonnull(p);
	return p;
}

static struct vring_avail *avail_of(struct virtio_driver *driver, unsigned int queue)
{
	return driver_at(driver, driver->queues[queue].avail, 0x1000);
}

static struct vring_used *used_of(struct virtio_driver *driver, unsigned int queue)
{
	return driver_at(driver, driver->queues[queue].used, 0x1000);
}

struct vring_desc *driver_desc(struct virtio_driver *driver, unsigned int queue, unsigned int i)
{
	return (struct vring_desc *)driver_at(driver, driver->queues[queue].desc, 0x1000) + i;
}

void driver_publish(struct virtio_driver *driver, unsigned int queue, uint16_t head)
{
	struct driver_queue *q = &driver->queues[queue];
	struct vring_avail *avail = avail_of(driver, queue);
	uint16_t i = q->next_avail++;

	avail->ring[i % q->size] = head;
	__atomic_store_n(&avail->idx, q->next_avail, __ATOMIC_SEQ_CST);
}

static struct vring_desc describe(const struct driver_buffer *buffer, bool last,
				  unsigned int next)
{
	return (struct vring_desc){
		.addr = buffer->gpa,
		.len = buffer->size,
		.flags = (uint16_t)((buffer->writable ? VRING_DESC_F_WRITE : 0) |
				    (last ? 0 : VRING_DESC_F_NEXT)),
		.next = (uint16_t)next,
	};
}

uint16_t driver_add(struct virtio_driver *driver, unsigned int queue,
		    const struct driver_buffer *buffers, unsigned int nr)
{
	struct driver_queue *q = &driver->queues[queue];
	uint16_t head = q->next_desc;

	for (unsigned int i = 0; i < nr; i++) {
		uint16_t next = (uint16_t)((q->next_desc + 1) % q->size);
		*driver_desc(driver, queue, q->next_desc) =
			describe(&buffers[i], i + 1 == nr, next);
		q->next_desc = next;
	}
	driver_publish(driver, queue, head);
	return head;
}

uint16_t driver_add_indirect(struct virtio_driver *driver, unsigned int queue, gpa_t table,
			     const struct driver_buffer *buffers, unsigned int nr)
{
	struct driver_queue *q = &driver->queues[queue];
	struct vring_desc *entries = driver_at(driver, table, nr * sizeof(*entries));
	uint16_t head = q->next_desc;

	for (unsigned int i = 0; i < nr; i++)
		entries[i] = describe(&buffers[i], i + 1 == nr, i + 1);
	*driver_desc(driver, queue, head) = (struct vring_desc){
		.addr = table,
		.len = nr * (uint32_t)sizeof(*entries),
		.flags = VRING_DESC_F_INDIRECT,
	};
	q->next_desc = (uint16_t)((head + 1) % q->size);
	driver_publish(driver, queue, head);
	return head;
}

void driver_kick(struct virtio_driver *driver, unsigned int queue)
{
	virtio_kick(driver->virtio, queue);
}

bool driver_take_used(struct virtio_driver *driver, unsigned int queue, uint16_t *ret_head,
		      uint32_t *ret_written)
{
	struct driver_queue *q = &driver->queues[queue];
	const struct vring_used *used = used_of(driver, queue);

	if (__atomic_load_n(&used->idx, __ATOMIC_SEQ_CST) == q->next_used)
		return false;
	uint16_t i = q->next_used++ % q->size;
	*ret_head = (uint16_t)used->ring[i].id;
	*ret_written = used->ring[i].len;
	return true;
}

void driver_set_used_event(struct virtio_driver *driver, unsigned int queue, uint16_t index)
{
	struct driver_queue *q = &driver->queues[queue];

	__atomic_store_n(&avail_of(driver, queue)->ring[q->size], index, __ATOMIC_SEQ_CST);
}

uint16_t driver_avail_event(struct virtio_driver *driver, unsigned int queue)
{
	struct driver_queue *q = &driver->queues[queue];
	const uint16_t *p = driver_at(driver, q->used + 4 + q->size * 8ull, 2);

	return __atomic_load_n(p, __ATOMIC_SEQ_CST);
}

void driver_set_avail_flags(struct virtio_driver *driver, unsigned int queue, uint16_t flags)
{
	__atomic_store_n(&avail_of(driver, queue)->flags, flags, __ATOMIC_SEQ_CST);
}
