/* SPDX-License-Identifier: MIT */
/*
 * rng.c - virtio-rng as its driver sees it: buffers come back full, each with other bytes; by
 * indirect descriptors, with event indices and interrupts; through resets and a reboot.
 */
#include <linux/pci_regs.h>
#include <linux/virtio_ring.h>

#include "tests/guest/chains.h"

#define RNG_TYPE 4u
#define RNG_CLASS 0x00ff0000u
#define VECTOR 0x40
#define QUEUE_SIZE 64u
#define MAX_BYTES 4096u /* that are given at once */
#define PLAIN FEATURE(VIRTIO_F_VERSION_1)
#define ALL (PLAIN | FEATURE(VIRTIO_RING_F_INDIRECT_DESC) | FEATURE(VIRTIO_RING_F_EVENT_IDX))
#define BUFFER ((uint8_t *)0x1800000) /* free RAM */
#define BOOT_MARK 0x90000             /* in RAM, left alone by the loader */
#define BOOT_MARK_VALUE 0x676e7220746f6f62ull

static struct virtio_device rng;
static struct ring ring;
static struct ring_desc table[RING_SIZE] __attribute__((aligned(16)));
static volatile uint32_t hits;

static void count(void)
{
	hits++;
	apic_eoi();
}

static void start(uint64_t features)
{
	CHECK(virtio_negotiate(&rng, features));
	ring_prepare(&ring, &rng, 0);
	write16(virtio_queue_register(&rng, 0, VIRTIO_PCI_COMMON_Q_MSIX), 0);
	ring_enable(&ring);
	virtio_driver_ok(&rng);
}

static void use_vector(void)
{
	interrupt_handle(VECTOR, count);
	msix_program(&rng, 0, VECTOR);
	msix_enable(&rng);
	interrupts_on();
}

/* Offers one buffer, and waits for it. How many bytes of it were filled. */
static uint32_t get(uint8_t *buffer, uint32_t size)
{
	uint16_t i = ring.used.idx % RING_SIZE;

	ring_describe(&ring, 3, (uint64_t)buffer, size, DESC_WRITE, 0);
	ring_offer(&ring, 3);
	ring_kick(&ring);
	CHECK(ring_served(&ring));
	CHECK_EQ(ring.used.ring[i].id, 3);
	return ring.used.ring[i].length;
}

static void clear(uint8_t *bytes, uint32_t size)
{
	for (uint32_t i = 0; i < size; i++)
		bytes[i] = 0;
}

static bool all_zero(const uint8_t *bytes, uint32_t size)
{
	while (size > 0 && bytes[size - 1] == 0)
		size--;
	return size == 0;
}

static bool same(const uint8_t *a, const uint8_t *b, uint32_t size)
{
	while (size > 0 && a[size - 1] == b[size - 1])
		size--;
	return size == 0;
}

static void check(void)
{
	clear(BUFFER, 64);
	CHECK_EQ(get(BUFFER, 64), 64);
	CHECK(!all_zero(BUFFER, 64));
}

static void it_says_what_it_is(void)
{
	CHECK_EQ(config_read(rng.devfn, PCI_CLASS_REVISION) & 0xffff0000u, RNG_CLASS);
	CHECK_EQ(read16(rng.common + VIRTIO_PCI_COMMON_NUMQ), 1);
	CHECK_EQ(read16(virtio_queue_register(&rng, 0, VIRTIO_PCI_COMMON_Q_SIZE)), QUEUE_SIZE);
	CHECK_EQ(virtio_offered(&rng), ALL);
	CHECK(!virtio_negotiate(&rng, ALL | FEATURE(0)));
	CHECK(!virtio_negotiate(&rng, 0)); /* without VERSION_1 */
}

/* Of 64 bytes a chance of 2^-512 to be what they were. */
static void part_fill(void)
{
	static const uint32_t sizes[] = { 1, 7, 64, 4095, 4096 };

	it_says_what_it_is();
	start(PLAIN);
	for (unsigned int i = 0; i < nitems(sizes); i++) {
		clear(BUFFER, 3 * MAX_BYTES);
		CHECK_EQ(get(BUFFER, sizes[i]), sizes[i]);
		CHECK(all_zero(BUFFER + sizes[i], MAX_BYTES));
		if (sizes[i] >= 64)
			CHECK(!all_zero(BUFFER, 64) && !all_zero(BUFFER + sizes[i] - 64, 64));
	}
	clear(BUFFER, 3 * MAX_BYTES);
	CHECK_EQ(get(BUFFER, 2 * MAX_BYTES), MAX_BYTES); /* no more at once */
	CHECK(!all_zero(BUFFER + MAX_BYTES - 64, 64));
	CHECK(all_zero(BUFFER + MAX_BYTES, MAX_BYTES));
	for (unsigned int i = 0; i < 200; i++) {
		CHECK_EQ(get(BUFFER + 64 * (i + 1), 64), 64);
		for (unsigned int j = 0; j <= i; j++)
			CHECK(!same(BUFFER + 64 * j, BUFFER + 64 * (i + 1), 64));
	}
}

/* Three pieces by a table, which take one descriptor. */
static void offer_table(unsigned int head)
{
	for (unsigned int i = 0; i < 3; i++)
		table[i] = (struct ring_desc){ (uint64_t)BUFFER + 128 * i, 64,
					       (uint16_t)(DESC_WRITE | (i < 2 ? DESC_NEXT : 0)),
					       (uint16_t)(i + 1) };
	ring_describe(&ring, head, (uint64_t)table, 3 * 16, DESC_INDIRECT, 0);
	ring_offer(&ring, head);
}

static void tables_are_filled(void)
{
	for (unsigned int i = 0; i < 100; i++) {
		uint16_t from = ring.avail.idx;
		clear(BUFFER, 512);
		offer_table(i % RING_SIZE);
		(void)ring_kick_if_wanted(&ring, from); /* or it is still looking */
		CHECK(ring_served(&ring));
		CHECK_EQ(ring.used.ring[from % RING_SIZE].length, 192);
		for (unsigned int j = 0; j < 3; j++) {
			CHECK(!all_zero(BUFFER + 128 * j, 64));
			CHECK(all_zero(BUFFER + 128 * j + 64, 64));
		}
	}
}

/* It interrupts where the driver says, and nowhere else. */
static void event_indices_count(void)
{
	uint16_t idx = ring.used.idx;

	ring.avail.used_event = (uint16_t)(idx + 2); /* for the third from here */
	hits = 0;
	CHECK_EQ(get(BUFFER, 64), 64);
	CHECK_EQ(get(BUFFER, 64), 64);
	wait_a_while();
	CHECK_EQ(hits, 0);
	CHECK_EQ(get(BUFFER, 64), 64);
	wait_for(&hits, 1);
	CHECK_EQ(get(BUFFER, 64), 64);
	wait_a_while();
	CHECK_EQ(hits, 1);
	/* Through the wrap of the ring's index, one each. */
	for (unsigned int i = 0; i < 50; i++) {
		ring.avail.used_event = ring.used.idx;
		CHECK_EQ(get(BUFFER, 64), 64);
		wait_for(&hits, 2 + i);
		CHECK_EQ(hits, 2 + i);
	}
}

static void flags_count_without_them(void)
{
	hits = 0;
	CHECK_EQ(get(BUFFER, 64), 64);
	wait_for(&hits, 1);
	ring.avail.flags = AVAIL_NO_INTERRUPT;
	CHECK_EQ(get(BUFFER, 64), 64);
	wait_a_while();
	CHECK_EQ(hits, 1);
	ring.avail.flags = 0;
}

static void a_full_queue_comes_back(void)
{
	for (unsigned int round = 0; round < 20; round++) {
		uint16_t from = ring.avail.idx;
		for (unsigned int i = 0; i < RING_SIZE; i++) {
			ring_describe(&ring, i, (uint64_t)BUFFER + 64 * i, 64, DESC_WRITE, 0);
			ring_offer(&ring, i);
		}
		ring_kick(&ring);
		CHECK(ring_served(&ring));
		for (unsigned int i = 0; i < RING_SIZE; i++) {
			unsigned int at = (uint16_t)(from + i) % RING_SIZE;
			CHECK_EQ(ring.used.ring[at].id, i);
			CHECK_EQ(ring.used.ring[at].length, 64);
		}
	}
}

static void part_rings(void)
{
	use_vector();
	start(ALL);
	tables_are_filled();
	event_indices_count();
	start(PLAIN);
	flags_count_without_them();
	a_full_queue_comes_back();
}

static void part_hostile(void)
{
	static const struct chain_victim victim = { &rng, &ring, DESC_WRITE, start, check };

	attack_chains(&victim);
}

/* A kick may be on its way when the reset comes; nothing is written afterwards. */
static void part_reset(void)
{
	for (unsigned int i = 0; i < 100; i++) {
		start(i % 2 ? ALL : PLAIN);
		for (unsigned int j = 0; j < RING_SIZE; j++) {
			ring_describe(&ring, j, (uint64_t)BUFFER + 64 * j, 64, DESC_WRITE, 0);
			ring_offer(&ring, j);
		}
		ring_kick(&ring);
		for (volatile unsigned int wait = 0; wait < i * 50; wait++) {
		}
		virtio_reset(&rng);
		clear(BUFFER, 64 * RING_SIZE);
		for (volatile unsigned int wait = 0; wait < 10000; wait++) {
		}
		CHECK(all_zero(BUFFER, 64 * RING_SIZE));
	}
	start(ALL);
	check();
}

/* With buffers in the queue that nobody waits for. */
static void part_reboot(void)
{
	uint64_t boot = read64(BOOT_MARK) - BOOT_MARK_VALUE;

	if (boot > 100) {
		CHECK_EQ(read64(BOOT_MARK), 0);
		boot = 0;
	}
	CHECK_EQ(virtio_status(&rng), 0);
	start(ALL);
	check();
	if (boot == 3)
		return;
	ring_describe(&ring, 0, (uint64_t)BUFFER, 64, DESC_WRITE, 0);
	for (unsigned int i = 0; i < RING_SIZE; i++)
		ring_offer(&ring, 0);
	ring_kick(&ring);
	write64(BOOT_MARK, BOOT_MARK_VALUE + boot + 1);
	out8(LAYOUT_RESET_PORT, 1);
	for (;;)
		__asm__ volatile("pause");
}

static const struct {
	const char *name;
	void (*run)(void);
} parts[] = {
	{ "fill", part_fill },   { "rings", part_rings },   { "hostile", part_hostile },
	{ "reset", part_reset }, { "reboot", part_reboot },
};

int guest_main(void)
{
	virtio_find(&rng, RNG_TYPE);
	for (unsigned int i = 0; i < nitems(parts); i++) {
		if (option_is("part", parts[i].name)) {
			parts[i].run();
			return 0;
		}
	}
	guest_fail(HERE, "no such part");
}
