/* SPDX-License-Identifier: MIT */
#include "tests/fuzz/driver.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <sys/mman.h>

#include "base/log.h"

#include "memory/access.h"

#define AVAIL 0x1000ull
#define USED 0x2000ull

struct fuzz fuzz;

int __wrap_log_err(int r, const char *fmt, ...) printf_like(2, 3);

/* Of what the host refuses a hostile driver hears a million times: it is made up, and not shown. */
int __wrap_log_err(int r, const char *fmt, ...)
{
	char line[1024];
	va_list args;

	va_start(args, fmt);
	(void)vsnprintf(line, sizeof(line), fmt, args);
	va_end(args);
	fuzz.nr_errors++;
	return r;
}

int fuzz_begin(struct ram *ram, const uint8_t *bytes, size_t size)
{
	memset(&fuzz, 0, sizeof(fuzz));
	fuzz.at = bytes;
	fuzz.end = bytes + size;
	memory_map_init(&fuzz.map);
	fuzz.low = (struct memory_region){
		.size = FUZZ_SIZE,
		.host = ram->host,
		.ram = ram,
		.name = "low",
	};
	fuzz.high = (struct memory_region){
		.gpa = FUZZ_HIGH_GPA,
		.size = FUZZ_SIZE,
		.host = (char *)ram->host + FUZZ_SIZE,
		.ram = ram,
		.name = "high",
	};
	int r = memory_map_add(&fuzz.map, &fuzz.low);
	return r < 0 ? r : memory_map_add(&fuzz.map, &fuzz.high);
}

void fuzz_end(void)
{
	memory_map_remove(&fuzz.map, &fuzz.high);
	memory_map_remove(&fuzz.map, &fuzz.low);
	memory_map_finish(&fuzz.map);
}

struct ram *fuzz_ram(void)
{
	static struct ram ram;

	if (ram.host)
		return &ram;
	log_set_level(LOG_ERROR);
	if (ram_init(&ram, 2 * FUZZ_SIZE, RAM_ANONYMOUS) < 0)
		abort(); /* of this process's making, not the input's */
	/* Or each input's first touch clears 2 MiB. */
	(void)madvise(ram.host, ram.size, MADV_NOHUGEPAGE);
	return &ram;
}

void fuzz_empty(struct ram *ram)
{
	if (ram_discard(ram, 0, 2 * FUZZ_SIZE) < 0)
		abort(); /* likewise */
}

void fuzz_run(void (*const *steps)(void), unsigned int nr_steps, void (*check)(void))
{
	while (fuzz.at < fuzz.end) {
		steps[next8() % nr_steps]();
		check();
	}
}

/* The input */

uint8_t next8(void)
{
	return fuzz.at < fuzz.end ? *fuzz.at++ : 0;
}

uint16_t next16(void)
{
	uint16_t low = next8();
	return (uint16_t)(low | next8() << 8);
}

uint32_t next32(void)
{
	uint32_t low = next16();
	return low | (uint32_t)next16() << 16;
}

uint64_t next64(void)
{
	uint64_t low = next32();
	return low | (uint64_t)next32() << 32;
}

gpa_t next_gpa(void)
{
	static const gpa_t edges[] = {
		0,
		FUZZ_SIZE - 1,
		FUZZ_SIZE - 16,
		FUZZ_SIZE,
		FUZZ_HIGH_GPA,
		FUZZ_HIGH_GPA - 16,
		FUZZ_HIGH_GPA + FUZZ_SIZE - 2,
		UINT64_MAX,
	};

	switch (next8() % 8) {
	case 0:
	case 1: return next16();
	case 2:
	case 3: return FUZZ_BUFFER + next16();
	case 4: return edges[next8() % nitems(edges)];
	case 5: return (gpa_t)next16() * FUZZ_PAGE;
	case 6: return FUZZ_HIGH_GPA + next16();
	default: return next64();
	}
}

unsigned int next_queue(void)
{
	return next8() % fuzz.virtio->nr_queues;
}

/* Steps */

void put(gpa_t gpa, const void *bytes, size_t size)
{
	if (memory_write(&fuzz.map, gpa, bytes, size) < 0)
		return;
}

void put_desc(unsigned int queue, unsigned int i, struct vring_desc desc)
{
	put(fuzz.virtio->queues[queue].ring.desc + i * sizeof(desc), &desc, sizeof(desc));
}

void publish(unsigned int queue, uint16_t head)
{
	const struct virtq *vq = &fuzz.virtio->queues[queue].ring;
	uint16_t i = fuzz.next_avail[queue]++;

	put(vq->driver + 4 + i % vq->size * sizeof(head), &head, sizeof(head));
	put(vq->driver + 2, &fuzz.next_avail[queue], sizeof(uint16_t));
}

/* Operands one by one: in an initialiser each compiler has an order of its own. */
static struct vring_desc next_desc(unsigned int nr_flags)
{
	struct vring_desc desc;

	desc.addr = next_gpa();
	desc.len = next8() % 4 ? next16() : next32();
	desc.flags = (uint16_t)(next8() % nr_flags);
	desc.next = next8();
	return desc;
}

void step_desc(void)
{
	unsigned int queue = next_queue();
	unsigned int i = next8();

	put_desc(queue, i, next_desc(8));
}

void step_publish(void)
{
	unsigned int queue = next_queue();

	publish(queue, next8() % 4 ? next8() : next16());
}

void step_avail(void)
{
	unsigned int queue = next_queue();

	fuzz.next_avail[queue] = next16();
	publish(queue, next8());
}

void step_bytes(void)
{
	uint8_t bytes[256];
	gpa_t gpa = next_gpa();
	size_t n = next8();

	for (size_t i = 0; i < n; i++)
		bytes[i] = next8();
	put(gpa, bytes, n);
}

void step_indirect(void)
{
	unsigned int queue = next_queue();
	unsigned int head = next8() % 8;
	unsigned int n = next8() % 8;
	gpa_t table = next8() % 8 ? FUZZ_BUFFER + 0x10000 : next_gpa();
	struct vring_desc desc = {
		.addr = table,
		.len = (uint32_t)(n * sizeof(desc)),
		.flags = VRING_DESC_F_INDIRECT,
	};

	for (unsigned int i = 0; i < n; i++) {
		struct vring_desc entry = next_desc(4);
		entry.next = (uint16_t)(next8() % 8 ? i + 1 : entry.next);
		put(table + i * sizeof(entry), &entry, sizeof(entry));
	}
	put_desc(queue, head, desc);
	publish(queue, (uint16_t)head);
}

void step_queue(void)
{
	struct virtq *vq = &fuzz.virtio->queues[next_queue()].ring;

	uint16_t size = (uint16_t)(1u << next8() % 8);
	gpa_t desc = align_down(next_gpa(), 16);
	gpa_t driver = align_down(next_gpa(), 2);
	gpa_t device = align_down(next_gpa(), 4);
	if (vq->enabled || size > vq->max_size)
		return;
	vq->size = size;
	vq->desc = desc;
	vq->driver = driver;
	vq->device = device;
	vq->enabled = true;
}

static void set_features(uint32_t half, uint32_t value)
{
	pthread_mutex_lock(&fuzz.virtio->lock);
	virtio_set_driver_features(fuzz.virtio, half, value);
	(void)virtio_get_driver_features(fuzz.virtio, half);
	(void)virtio_get_features(fuzz.virtio, half);
	pthread_mutex_unlock(&fuzz.virtio->lock);
}

static void set_status(uint8_t status)
{
	pthread_mutex_lock(&fuzz.virtio->lock);
	virtio_set_status(fuzz.virtio, status);
	pthread_mutex_unlock(&fuzz.virtio->lock);
}

void step_features(void)
{
	uint32_t half = next8() % 3;

	set_features(half, next32());
}

void step_status(void)
{
	set_status(next8());
}

void step_start(void)
{
	struct virtio *virtio = fuzz.virtio;
	uint32_t features = next8() * 0x01010101u;

	set_status(0);
	set_status(VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER);
	set_features(0, features & (uint32_t)virtio->features);
	set_features(1, (uint32_t)(virtio->features >> 32));
	set_status(virtio->status | VIRTIO_CONFIG_S_FEATURES_OK);
	for (unsigned int i = 0; i < virtio->nr_queues; i++) {
		static const uint8_t zeros[4] = { 0 };
		struct virtq *vq = &virtio->queues[i].ring;
		vq->desc = FUZZ_RING(i);
		vq->driver = FUZZ_RING(i) + AVAIL;
		vq->device = FUZZ_RING(i) + USED;
		vq->enabled = true;
		fuzz.next_avail[i] = 0;
		put(vq->driver, zeros, sizeof(zeros));
	}
	set_status(virtio->status | VIRTIO_CONFIG_S_DRIVER_OK);
}

void step_kick(void)
{
	virtio_kick(fuzz.virtio, next_queue());
}

void step_config(void)
{
	unsigned int size = 1u << next8() % 4;
	uint64_t offset = next8() % 4 ? next8() % (fuzz.virtio->config_size + 4) : next64();

	(void)virtio_config_read(fuzz.virtio, offset, size);
	virtio_config_write(fuzz.virtio, offset, size, next64());
}
