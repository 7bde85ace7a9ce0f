/* SPDX-License-Identifier: MIT */
#include "tests/guest/chains.h"

#include <linux/virtio_ring.h>

#define SIZE 64u
#define RAM_END 0x4000000ull /* of the usual 64 MiB */
#define PLAIN FEATURE(VIRTIO_F_VERSION_1)
#define ALL (PLAIN | FEATURE(VIRTIO_RING_F_INDIRECT_DESC) | FEATURE(VIRTIO_RING_F_EVENT_IDX))

static const struct chain_victim *victim;
static uint8_t buffer[SIZE];
static struct ring_desc table[2 * RING_SIZE] __attribute__((aligned(16)));

/* One descriptor of the queue's own. */
static void describe(unsigned int i, uint64_t address, uint32_t length, unsigned int flags,
		     unsigned int next)
{
	ring_describe(victim->ring, i, address, length, flags, next);
}

static void send(unsigned int head)
{
	ring_offer(victim->ring, head);
	ring_kick(victim->ring);
}

static void send_one(uint64_t address, uint32_t length)
{
	describe(0, address, length, victim->direction, 0);
	send(0);
}

static void send_table(uint64_t address, uint32_t length, unsigned int flags)
{
	describe(0, address, length, DESC_INDIRECT | flags, 1);
	describe(1, (uint64_t)buffer, SIZE, victim->direction, 0);
	send(0);
}

static void entry(unsigned int i, uint64_t address, uint32_t length, unsigned int flags,
		  unsigned int next)
{
	table[i] = (struct ring_desc){ address, length, (uint16_t)flags, (uint16_t)next };
}

/* What comes back */

static void no_bytes(void)
{
	send_one((uint64_t)buffer, 0);
}

static void wrong_direction(void)
{
	describe(0, (uint64_t)buffer, SIZE, victim->direction ^ DESC_WRITE, 0);
	send(0);
}

static void behind_ram(void)
{
	send_one(RAM_END, SIZE);
}

static void half_behind_ram(void)
{
	send_one(RAM_END - SIZE / 2, SIZE);
}

static void in_the_hole(void)
{
	send_one(LAYOUT_ECAM_BASE, SIZE);
}

static void in_its_own_bar(void)
{
	send_one(victim->device->common, SIZE);
}

static void near_2_to_the_64(void)
{
	send_one(UINT64_MAX - SIZE / 2, SIZE);
}

static void last_of_2_to_the_64(void)
{
	send_one(UINT64_MAX, 1);
}

/* What there is of it is in RAM only at first. */
static void as_large_as_can_be(void)
{
	for (unsigned int i = 0; i < RING_SIZE; i++)
		describe(i, RAM_END - 4096 + SIZE / 2, UINT32_MAX,
			 victim->direction | (i + 1 < RING_SIZE ? DESC_NEXT : 0), i + 1);
	send(0);
}

static void table_of_nothing_usable(void)
{
	for (unsigned int i = 0; i < RING_SIZE; i++)
		entry(i, RAM_END + i, UINT32_MAX,
		      victim->direction | (i + 1 < RING_SIZE ? DESC_NEXT : 0), i + 1);
	send_table((uint64_t)table, RING_SIZE * 16, 0);
}

/* What breaks it */

static void wrong_order(void)
{
	describe(0, (uint64_t)buffer, SIZE, DESC_WRITE | DESC_NEXT, 1);
	describe(1, (uint64_t)buffer, SIZE, 0, 0);
	send(0);
}

static void loop_of_one(void)
{
	describe(0, (uint64_t)buffer, SIZE, victim->direction | DESC_NEXT, 0);
	send(0);
}

static void loop_of_all(void)
{
	for (unsigned int i = 0; i < RING_SIZE; i++)
		describe(i, (uint64_t)buffer, 1, victim->direction | DESC_NEXT,
			 (i + 1) % RING_SIZE);
	send(0);
}

static void next_beyond(void)
{
	describe(0, (uint64_t)buffer, SIZE, victim->direction | DESC_NEXT, RING_SIZE);
	send(0);
}

static void head_beyond(void)
{
	send(RING_SIZE);
}

static void head_far_beyond(void)
{
	send(0xffff);
}

static void available_far_ahead(void)
{
	victim->ring->avail.idx += RING_SIZE + 1;
	ring_kick(victim->ring);
}

static void table_not_negotiated(void)
{
	entry(0, (uint64_t)buffer, SIZE, victim->direction, 0);
	send_table((uint64_t)table, 16, 0);
}

static void table_in_a_table(void)
{
	entry(0, (uint64_t)&table[1], 16, DESC_INDIRECT, 0);
	entry(1, (uint64_t)buffer, SIZE, victim->direction, 0);
	send_table((uint64_t)table, 16, 0);
}

static void table_and_more(void)
{
	entry(0, (uint64_t)buffer, SIZE, victim->direction, 0);
	send_table((uint64_t)table, 16, DESC_NEXT);
}

static void table_of_no_bytes(void)
{
	send_table((uint64_t)table, 0, 0);
}

static void table_and_a_half(void)
{
	entry(0, (uint64_t)buffer, SIZE, victim->direction, 0);
	send_table((uint64_t)table, 24, 0);
}

static void table_behind_ram(void)
{
	send_table(RAM_END, 16, 0);
}

static void table_near_2_to_the_64(void)
{
	send_table(UINT64_MAX - 15, 32, 0);
}

static void table_next_beyond(void)
{
	entry(0, (uint64_t)buffer, SIZE, victim->direction | DESC_NEXT, 2);
	send_table((uint64_t)table, 32, 0);
}

static void table_loops(void)
{
	entry(0, (uint64_t)buffer, 1, victim->direction | DESC_NEXT, 0);
	send_table((uint64_t)table, 0xfffffff0, 0);
}

static void table_longer_than_the_queue(void)
{
	for (unsigned int i = 0; i <= RING_SIZE; i++)
		entry(i, (uint64_t)buffer, 1,
		      victim->direction | (i < RING_SIZE ? DESC_NEXT : 0), i + 1);
	send_table((uint64_t)table, (RING_SIZE + 1) * 16, 0);
}

static const struct attack {
	const char *name;
	void (*run)(void);
	uint64_t features;
	bool breaks;
} attacks[] = {
	{ "no bytes", no_bytes, PLAIN, false },
	{ "wrong direction", wrong_direction, PLAIN, false },
	{ "behind RAM", behind_ram, ALL, false },
	{ "half behind RAM", half_behind_ram, ALL, false },
	{ "in the hole", in_the_hole, PLAIN, false },
	{ "in its own BAR", in_its_own_bar, PLAIN, false },
	{ "near 2^64", near_2_to_the_64, ALL, false },
	{ "the last byte of all", last_of_2_to_the_64, PLAIN, false },
	{ "a table of nothing usable", table_of_nothing_usable, ALL, false },
	{ "wrong order", wrong_order, PLAIN, true },
	{ "a loop of one", loop_of_one, PLAIN, true },
	{ "a loop of all", loop_of_all, ALL, true },
	{ "next beyond", next_beyond, PLAIN, true },
	{ "head beyond", head_beyond, PLAIN, true },
	{ "head far beyond", head_far_beyond, ALL, true },
	{ "available far ahead", available_far_ahead, PLAIN, true },
	{ "a table that was not negotiated", table_not_negotiated, PLAIN, true },
	{ "a table in a table", table_in_a_table, ALL, true },
	{ "a table and more", table_and_more, ALL, true },
	{ "a table of no bytes", table_of_no_bytes, ALL, true },
	{ "a table and a half", table_and_a_half, ALL, true },
	{ "a table behind RAM", table_behind_ram, ALL, true },
	{ "a table near 2^64", table_near_2_to_the_64, ALL, true },
	{ "a table with next beyond", table_next_beyond, ALL, true },
	{ "a table that loops", table_loops, ALL, true },
	{ "a table longer than the queue", table_longer_than_the_queue, ALL, true },
};

/* Something may have been written there, but nothing else has happened. */
static void send_the_largest(void)
{
	victim->start(ALL);
	as_large_as_can_be();
	CHECK(ring_served(victim->ring));
	CHECK(!(virtio_status(victim->device) & VIRTIO_CONFIG_S_NEEDS_RESET));
}

void attack_chains(const struct chain_victim *v)
{
	victim = v;
	for (unsigned int i = 0; i < nitems(attacks); i++) {
		const struct attack *attack = &attacks[i];
		print(attack->name);
		print("\n");
		victim->start(attack->features);
		attack->run();
		if (attack->breaks) {
			CHECK(virtio_breaks(victim->device));
			CHECK_EQ(victim->ring->used.idx, 0);
		} else {
			CHECK(ring_served(victim->ring));
			CHECK_EQ(victim->ring->used.ring[0].length, 0);
			CHECK(!(virtio_status(victim->device) & VIRTIO_CONFIG_S_NEEDS_RESET));
		}
		victim->start(ALL);
		victim->check();
	}
	send_the_largest();
	victim->start(PLAIN);
	victim->check();
}
