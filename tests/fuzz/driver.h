/* SPDX-License-Identifier: MIT */
/*
 * driver.h - a hostile virtio driver, as libFuzzer plays it: what it does, step by step, is the
 * input. Common to the harnesses of all devices, each of which has a table of steps, its own and
 * those below.
 *
 * RAM is FUZZ_SIZE bytes at 0 and as many at FUZZ_HIGH_GPA. What is missing at the end of an input
 * reads as zeros. Where RAM ends a step writes nothing: the driver's CPU would fault.
 */
#ifndef TESTS_FUZZ_DRIVER_H
#define TESTS_FUZZ_DRIVER_H

#include <linux/virtio_ring.h>

#include "devices/virtio.h"
#include "memory/map.h"
#include "memory/ram.h"

#define FUZZ_PAGE 4096u
#define FUZZ_SIZE (4ull << 20)
#define FUZZ_HIGH_GPA 0x100000000ull

/* Where a driver that behaves has its queues, and its buffers from FUZZ_BUFFER on. */
#define FUZZ_RING(queue) (0x4000ull * (queue))
#define FUZZ_BUFFER 0x100000ull

/* Exists only while an input runs. */
struct fuzz {
	const uint8_t *at; /* the input */
	const uint8_t *end;
	struct memory_map map;
	struct memory_region low, high;
	struct virtio *virtio; /* borrowed */
	uint16_t next_avail[VIRTIO_MAX_QUEUES];
	unsigned int nr_errors; /* that were logged */
};

extern struct fuzz fuzz;

/* Begins an input: a map of `ram`, which is 2 * FUZZ_SIZE bytes. No device yet. */
int fuzz_begin(struct ram *ram, const uint8_t *bytes, size_t size);
/* The device is gone. */
void fuzz_end(void);
/* RAM for all inputs, made once: anonymous and emptied by fuzz_empty(). */
struct ram *fuzz_ram(void);
void fuzz_empty(struct ram *ram);

/* Runs steps of the table, chosen by the input, until it ends; `check` after each. */
void fuzz_run(void (*const *steps)(void), unsigned int nr_steps, void (*check)(void));

uint8_t next8(void);
uint16_t next16(void);
uint32_t next32(void);
uint64_t next64(void);
/* Mostly where something is, sometimes on an edge, or anywhere. */
gpa_t next_gpa(void);
unsigned int next_queue(void);

void put(gpa_t gpa, const void *bytes, size_t size);
void put_desc(unsigned int queue, unsigned int i, struct vring_desc desc);
void publish(unsigned int queue, uint16_t head);

/* Up to DRIVER_OK, with what it takes of the features, and queues in their places. */
void step_start(void);
void step_desc(void);
void step_publish(void);
void step_avail(void);
void step_bytes(void);
/* A table of descriptors, and one that names it. */
void step_indirect(void);
/* As the transport does: sizes that are none are not taken, a queue that is on is left alone. */
void step_queue(void);
void step_status(void);
void step_features(void);
void step_kick(void);
void step_config(void);

#endif /* TESTS_FUZZ_DRIVER_H */
