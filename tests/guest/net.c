/* SPDX-License-Identifier: MIT */
/*
 * net.c - a network card as its driver sees it: whatever is sent comes back, by the runner's doing.
 * One part of it a run, as the command line says.
 */
#include <linux/pci_regs.h>

#include "tests/guest/virtio.h"

#define NET_DEVICE 1u
#define RX 0u
#define TX 1u
#define F_CSUM 0
#define F_MAC 5
#define F_MRG_RXBUF 15
#define F_STATUS 16
#define F_INDIRECT_DESC 28
#define F_EVENT_IDX 29
#define FEATURES                                                               \
	(FEATURE(VIRTIO_F_VERSION_1) | FEATURE(F_MAC) | FEATURE(F_MRG_RXBUF) | \
	 FEATURE(F_STATUS) | FEATURE(F_INDIRECT_DESC) | FEATURE(F_EVENT_IDX))
#define CONFIG_STATUS 6u

#define HEADER 12u
#define NUM_BUFFERS 10u
#define ETHERNET 14u
#define ARENA 0x1800000ull /* free RAM */
#define BUFFER(i) (ARENA + (i)*0x2000ull)
#define BUFFER_SIZE 0x2000u
#define FRAME (ARENA + 0x40000)
#define TABLE (ARENA + 0x60000)

#define VECTOR_RX 0x40
#define VECTOR_TX 0x41
#define VECTOR_CONFIG 0x42
#define INTX_PIN(devfn) (16 + ((devfn) >> 3)) /* of the IOAPIC; the function's INTA */
#define BOOT_MARK 0x90000                     /* in RAM, left alone by the loader */
#define BOOT_MARK_VALUE 0x6d61726b00000000

static struct virtio_device net;
static struct ring rings[2];
static uint32_t buffer_size;
static volatile uint32_t hits[3];
static volatile uint32_t lines;
static volatile uint8_t isr_seen;

static void count_rx(void)
{
	hits[RX]++;
	apic_eoi();
}

static void count_tx(void)
{
	hits[TX]++;
	apic_eoi();
}

static void count_config(void)
{
	hits[2]++;
	apic_eoi();
}

static void take_line(void)
{
	isr_seen |= read8(net.isr);
	lines++;
	apic_eoi();
}

static void kick_if_wanted(struct ring *ring, uint64_t features)
{
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (!(features & FEATURE(F_EVENT_IDX)) ||
	    ring->used.avail_event == (uint16_t)(ring->avail.idx - 1))
		ring_kick(ring);
}

static void offer_buffer(unsigned int i, uint64_t features)
{
	struct ring *ring = &rings[RX];

	ring_describe(ring, i, BUFFER(i), buffer_size, DESC_WRITE, 0);
	ring_offer(ring, i);
	kick_if_wanted(ring, features);
}

/* Both queues on, with all buffers in the first. */
static void start(uint64_t features)
{
	CHECK(virtio_negotiate(&net, features & virtio_offered(&net)));
	for (unsigned int i = RX; i <= TX; i++) {
		ring_prepare(&rings[i], &net, i);
		write16(virtio_queue_register(&net, i, VIRTIO_PCI_COMMON_Q_MSIX), (uint16_t)i);
		CHECK_EQ(read16(net.common + VIRTIO_PCI_COMMON_Q_MSIX), i);
		ring_enable(&rings[i]);
	}
	write16(net.common + VIRTIO_PCI_COMMON_MSIX, 2);
	virtio_driver_ok(&net);
	for (unsigned int i = 0; i < RING_SIZE; i++)
		offer_buffer(i, features);
}

static void use_vectors(void)
{
	interrupt_handle(VECTOR_RX, count_rx);
	interrupt_handle(VECTOR_TX, count_tx);
	interrupt_handle(VECTOR_CONFIG, count_config);
	for (unsigned int i = 0; i < 3; i++)
		msix_program(&net, i, VECTOR_RX + i);
	msix_enable(&net);
	interrupts_on();
}

static uint8_t byte_of(uint32_t i, uint32_t seed)
{
	/* To everybody, from nobody in particular, of the type that the peer listens to. */
	if (i < 6)
		return 0xff;
	if (i < 12)
		return 2;
	if (i < 14)
		return (uint8_t)(i == 12 ? NET_TYPE >> 8 : NET_TYPE & 0xff);
	return (uint8_t)(i * 7 + seed * 31 + i / 253);
}

static void fill_frame(uint32_t size, uint32_t seed)
{
	for (uint32_t i = 0; i < HEADER; i++)
		write8(FRAME + i, 0);
	for (uint32_t i = 0; i < size; i++)
		write8(FRAME + HEADER + i, byte_of(i, seed));
}

/* As one chain of the table's: header, half of the frame, the other half. */
static void send_frame(uint32_t size, uint32_t seed, uint64_t features)
{
	struct ring *ring = &rings[TX];
	unsigned int head = ring->avail.idx * 3u % 15u;
	uint32_t half = size / 2;

	fill_frame(size, seed);
	if (features & FEATURE(F_INDIRECT_DESC)) {
		struct ring_desc *table = (struct ring_desc *)TABLE;
		table[0].address = FRAME;
		table[0].length = HEADER;
		table[0].flags = DESC_NEXT;
		table[0].next = 1;
		table[1].address = FRAME + HEADER;
		table[1].length = half;
		table[1].flags = DESC_NEXT;
		table[1].next = 2;
		table[2].address = FRAME + HEADER + half;
		table[2].length = size - half;
		table[2].flags = 0;
		ring_describe(ring, head, TABLE, 3 * sizeof(*table), DESC_INDIRECT, 0);
	} else {
		ring_describe(ring, head, FRAME, HEADER, DESC_NEXT, head + 1);
		ring_describe(ring, head + 1, FRAME + HEADER, half, DESC_NEXT, head + 2);
		ring_describe(ring, head + 2, FRAME + HEADER + half, size - half, 0, 0);
	}
	ring_offer(ring, head);
	kick_if_wanted(ring, features);
}

/* Until the driver's ring has `nr` more than before; fails if they do not come. */
static void wait_for_used(struct ring *ring, uint16_t until)
{
	uint32_t from = milliseconds();

	while ((uint16_t)(ring->used.idx - until) >= 0x8000u)
		CHECK(milliseconds() - from < WAIT_MS);
}

/* The frame that begins in the next used buffer; its buffers are offered again. */
static void check_frame(uint32_t size, uint32_t seed, uint16_t *next, uint64_t features)
{
	struct ring *ring = &rings[RX];
	uint32_t nr = (HEADER + size + buffer_size - 1) / buffer_size;
	uint32_t at = 0;

	wait_for_used(ring, (uint16_t)(*next + 1));
	/* All of a frame's buffers come at once. */
	CHECK((uint16_t)(ring->used.idx - *next) >= nr);
	for (uint32_t n = 0; n < nr; n++) {
		unsigned int slot = (*next)++ % RING_SIZE;
		uint32_t id = ring->used.ring[slot].id;
		uint32_t length = ring->used.ring[slot].length;
		CHECK(id < RING_SIZE);
		CHECK_EQ(length, n + 1 < nr ? buffer_size : HEADER + size - n * buffer_size);
		for (uint32_t i = n == 0 ? HEADER : 0; i < length; i++)
			CHECK_EQ(read8(BUFFER(id) + i), byte_of(at++, seed));
		if (n == 0)
			CHECK_EQ(read16(BUFFER(id) + NUM_BUFFERS), nr);
	}
	CHECK_EQ(at, size);
	for (uint32_t n = nr; n > 0; n--)
		offer_buffer(ring->used.ring[(uint16_t)(*next - n) % RING_SIZE].id, features);
}

/* There and back, with an interrupt for each. */
static void part_echo(void)
{
	static const uint32_t sizes[] = { 14, 15, 60, 61, 100, 999, 1514, 4000, 9000, 60000 };
	uint32_t largest = (uint32_t)option("largest");
	uint16_t next = 0;
	uint16_t sent = 0;

	start(FEATURES);
	CHECK(read16(net.config + CONFIG_STATUS) & 1);
	CHECK_EQ(read8(net.config), 0x02); /* the address */
	CHECK_EQ(read8(net.config + 5), 0x56);
	use_vectors();
	for (uint32_t round = 0; round < 20; round++) {
		for (unsigned int i = 0; i < nitems(sizes); i++) {
			if (sizes[i] > largest || (largest < 9000 && sizes[i] < 60))
				continue;
			uint32_t before[] = { hits[RX], hits[TX] };
			rings[RX].avail.used_event = next;
			rings[TX].avail.used_event = sent++;
			send_frame(sizes[i], round + i, FEATURES);
			wait_for_used(&rings[TX], sent);
			check_frame(sizes[i], round + i, &next, FEATURES);
			wait_for(&hits[RX], before[RX] + 1);
			wait_for(&hits[TX], before[TX] + 1);
			CHECK_EQ(hits[RX], before[RX] + 1);
			CHECK_EQ(hits[TX], before[TX] + 1);
		}
	}
	/* Where nobody wants an interrupt there is none. */
	uint32_t before = hits[RX] + hits[TX];
	rings[RX].avail.used_event = (uint16_t)(next - 1);
	rings[TX].avail.used_event = (uint16_t)(sent - 1);
	send_frame(100, 1, FEATURES);
	check_frame(100, 1, &next, FEATURES);
	wait_a_while();
	CHECK_EQ(hits[RX] + hits[TX], before);
	CHECK_EQ(hits[2], 0);
}

/* Without MSI-X: the line, and the ISR status. Without event indices and tables, too. */
static void part_intx(void)
{
	const uint64_t features = FEATURE(VIRTIO_F_VERSION_1) | FEATURE(F_MRG_RXBUF);
	uint16_t next = 0;

	start(features);
	interrupt_handle(VECTOR_RX, take_line);
	ioapic_route(INTX_PIN(net.devfn), VECTOR_RX, 0, IOAPIC_LEVEL | IOAPIC_ACTIVE_LOW);
	interrupts_on();
	for (uint32_t i = 0; i < 20; i++) {
		uint32_t from = milliseconds();
		isr_seen = 0;
		send_frame(100 + i, i, features);
		check_frame(100 + i, i, &next, features);
		while (!(isr_seen & 1))
			CHECK(milliseconds() - from < WAIT_MS);
	}
	CHECK(lines >= 20);
}

static bool link_is_up(void)
{
	return read16(net.config + CONFIG_STATUS) & 1;
}

/* The cable is pulled and plugged in: a config interrupt each, and nothing passes between. */
static void part_link(void)
{
	uint16_t next = 0;

	start(FEATURES);
	use_vectors();
	for (uint32_t i = 0; i < 5; i++) {
		ask("{\"execute\": \"set_link\", \"arguments\": {\"name\": \"net0\", \"up\": false}}");
		CHECK_EQ(answer("return"), 0);
		wait_for(&hits[2], 2 * i + 1);
		CHECK_EQ(hits[2], 2 * i + 1);
		CHECK(!link_is_up());
		send_frame(200, i, FEATURES);
		CHECK(ring_served(&rings[TX]));
		wait_a_while();
		CHECK_EQ(rings[RX].used.idx, next);
		ask("{\"execute\": \"set_link\", \"arguments\": {\"name\": \"net0\", \"up\": true}}");
		wait_for(&hits[2], 2 * i + 2);
		CHECK(link_is_up());
		send_frame(300, i, FEATURES);
		check_frame(300, i, &next, FEATURES);
	}
	ask("{\"execute\": \"set_link\", \"arguments\": {\"name\": \"net1\", \"up\": true}}");
	CHECK_EQ(answer("return"), HOST_NO_VALUE);
}

/* With frames on their way: once it has reset nothing is written any more. */
static void part_reset(void)
{
	for (uint32_t round = 0; round < 20; round++) {
		uint16_t next = 0;
		start(FEATURES);
		for (uint32_t i = 0; i < 12; i++) {
			send_frame(1000, 7, FEATURES);
			if (round % 4 == 3)
				CHECK(ring_served(&rings[TX]));
		}
		virtio_reset(&net);
		for (unsigned int i = 0; i < RING_SIZE; i++) {
			for (uint64_t at = BUFFER(i); at < BUFFER(i) + 2048; at += 8)
				write64(at, ~0ull);
		}
		uint16_t used = rings[RX].used.idx;
		wait_a_while();
		CHECK_EQ(rings[RX].used.idx, used);
		for (unsigned int i = 0; i < RING_SIZE; i++) {
			for (uint64_t at = BUFFER(i); at < BUFFER(i) + 2048; at += 8)
				CHECK_EQ(read64(at), ~0ull);
		}
		/* What was still on its way comes first, to the next driver. */
		start(FEATURES);
		send_frame(500, 9, FEATURES);
		uint32_t from = milliseconds();
		do {
			wait_for_used(&rings[RX], (uint16_t)(next + 1));
			uint32_t length = rings[RX].used.ring[next % RING_SIZE].length;
			if (length == HEADER + 500)
				break;
			CHECK_EQ(length, HEADER + 1000);
			offer_buffer(rings[RX].used.ring[next++ % RING_SIZE].id, FEATURES);
		} while (milliseconds() - from < WAIT_MS);
		check_frame(500, 9, &next, FEATURES);
		virtio_reset(&net);
	}
}

/* The guest resets with frames on their way; the next one finds memory and card its own. */
static void part_reboot(void)
{
	uint64_t boot = read64(BOOT_MARK) - BOOT_MARK_VALUE;

	if (boot > 100) {
		CHECK_EQ(read64(BOOT_MARK), 0);
		boot = 0;
	}
	CHECK_EQ(virtio_status(&net), 0);
	for (uint64_t at = BUFFER(0); at < BUFFER(RING_SIZE); at += 8)
		write64(at, ~0ull);
	wait_a_while();
	for (uint64_t at = BUFFER(0); at < BUFFER(RING_SIZE); at += 8)
		CHECK_EQ(read64(at), ~0ull);
	if (boot == 3)
		return;
	start(FEATURES);
	use_vectors();
	interrupts_off();
	for (uint32_t i = 0; i < 12; i++)
		send_frame(1000, i, FEATURES);
	write64(BOOT_MARK, BOOT_MARK_VALUE + boot + 1);
	out8(LAYOUT_RESET_PORT, 1);
	for (;;)
		__asm__ volatile("pause");
}

/* Frames and headers that are none, queues that break the rules: at worst it wants a reset. */
static void part_hostile(void)
{
	static const struct {
		uint64_t address;
		uint32_t size;
		bool breaks; /* as a buffer to receive into */
	} bad[] = {
		{ 0, 0, true },
		{ FRAME, 1, true },
		{ FRAME, HEADER + 13, false },
		{ FRAME, 0xffffffff, false },
		{ 0xfffffffffffffff0ull, 100, true },
		{ LAYOUT_MEM32_BASE, 100, true },
		{ FRAME, HEADER + 65551, false },
	};
	uint16_t next = 0;

	start(FEATURES & ~FEATURE(F_EVENT_IDX));
	for (uint32_t round = 0; round < 4; round++) {
		for (unsigned int i = 0; i < nitems(bad); i++) {
			ring_describe(&rings[TX], 0, bad[i].address, bad[i].size, 0, 0);
			ring_offer(&rings[TX], 0);
			ring_kick(&rings[TX]);
			CHECK(ring_served(&rings[TX]));
		}
	}
	CHECK(!(virtio_status(&net) & VIRTIO_CONFIG_S_NEEDS_RESET));
	send_frame(100, 1, FEATURES & ~FEATURE(F_EVENT_IDX));
	check_frame(100, 1, &next, FEATURES & ~FEATURE(F_EVENT_IDX));
	for (unsigned int i = 0; i < nitems(bad); i++) {
		start(FEATURES & ~FEATURE(F_EVENT_IDX));
		send_frame(100, 1, 0);
		wait_for_used(&rings[RX], 1);
		unsigned int id = rings[RX].used.ring[0].id;
		ring_describe(&rings[RX], id, bad[i].address, bad[i].size, DESC_WRITE, 0);
		ring_offer(&rings[RX], id);
		ring_kick(&rings[RX]);
		CHECK_EQ(bad[i].breaks, bad[i].breaks && virtio_breaks(&net));
		virtio_reset(&net);
	}
	start(FEATURES);
	/* The other queue is not looked at while there are buffers enough of it. */
	rings[TX].avail.idx += 0x100;
	ring_kick(&rings[TX]);
	CHECK(virtio_breaks(&net));
	next = 0;
	start(FEATURES);
	send_frame(100, 1, FEATURES);
	check_frame(100, 1, &next, FEATURES);
}

static const struct {
	const char *name;
	void (*run)(void);
} parts[] = {
	{ "echo", part_echo },   { "intx", part_intx },     { "link", part_link },
	{ "reset", part_reset }, { "reboot", part_reboot }, { "hostile", part_hostile },
};

int guest_main(void)
{
	virtio_find(&net, NET_DEVICE);
	buffer_size = (uint32_t)option("buffer");
	CHECK(buffer_size <= BUFFER_SIZE);
	for (unsigned int i = 0; i < nitems(parts); i++) {
		if (option_is("part", parts[i].name)) {
			parts[i].run();
			return 0;
		}
	}
	guest_fail(HERE, "no such part");
}
