/* SPDX-License-Identifier: MIT */
/*
 * hostile.c - a guest that breaks every rule of the balloon. The monitor survives, the device
 * goes on or says NEEDS_RESET, and after a reset all is well; one part of it a run.
 */
#include <linux/pci_regs.h>

#include "tests/guest/balloon_driver.h"

#define VECTOR_CONFIG 0x41
#define MAX_PFNS 65536u            /* in one element: VIRTIO_BALLOON_MAX_PFNS */
#define BUFFER (ARENA + 0x1000000) /* a MiB of RAM for elements */

enum outcome {
	SERVED, /* as if nothing was wrong with it */
	BROKEN, /* NEEDS_RESET */
	EITHER,
};

struct attack {
	const char *name;
	void (*run)(void);
	enum outcome outcome;
};

static struct ring *const inflate = &rings[QUEUE_INFLATE];
static uint32_t numbers[64];
static volatile uint32_t config_hits;

static void count_config(void)
{
	config_hits++;
	apic_eoi();
}

/* Each from a device that is up, and then a reset and a proof that it serves. */
static void run_attacks(const struct attack *attacks, unsigned int count)
{
	interrupt_handle(VECTOR_CONFIG, count_config);
	msix_program(&balloon, 0, VECTOR_CONFIG);
	msix_enable(&balloon);
	interrupts_on();
	for (unsigned int i = 0; i < count; i++) {
		const struct attack *attack = &attacks[i];
		print(attack->name);
		print("\n");
		balloon_start(USUAL_FEATURES);
		write16(balloon.common + VIRTIO_PCI_COMMON_MSIX, 0);
		config_hits = 0;
		attack->run();
		if (attack->outcome == BROKEN) {
			CHECK(virtio_breaks(&balloon));
			wait_for(&config_hits, 1); /* told by an interrupt, too: 1.2, 2.1.2 */
			CHECK_EQ(config_hits, 1);
		}
		if (attack->outcome == SERVED) {
			CHECK_EQ(virtio_status(&balloon) & VIRTIO_CONFIG_S_NEEDS_RESET, 0);
			CHECK(ring_served(inflate));
		}
		if (attack->outcome == EITHER)
			wait_a_while();
		balloon_still_serves();
	}
}

static void offer_and_kick(unsigned int head)
{
	ring_offer(inflate, head);
	ring_kick(inflate);
}

/* One element that is a single descriptor of these. */
static void send(uint64_t address, uint32_t length, unsigned int flags)
{
	ring_describe(inflate, 0, address, length, flags, 1);
	offer_and_kick(0);
}

/* Page numbers */

static void send_number(unsigned int queue, uint32_t number)
{
	numbers[0] = number;
	balloon_send(queue, numbers, 1);
}

static void numbers_of_no_ram(void)
{
	const uint64_t places[] = {
		option("memory"),         LAYOUT_HOLE_BASE,   LAYOUT_ECAM_BASE,
		LAYOUT_MEM32_BASE,        LAYOUT_IOAPIC_BASE, LAYOUT_LAPIC_BASE,
		LAYOUT_HIGH_BASE,         balloon.base,       0xfffffffful * PAGE_SIZE,
		0xfffffffeul * PAGE_SIZE, 1ull << 40,
	};

	for (unsigned int i = 0; i < nitems(places); i++) {
		for (unsigned int queue = QUEUE_INFLATE; queue <= QUEUE_DEFLATE; queue++)
			send_number(queue, (uint32_t)(places[i] / PAGE_SIZE));
	}
	CHECK_EQ(read32(ecam(balloon.devfn, PCI_VENDOR_ID)) & 0xffff, VIRTIO_VENDOR);
	CHECK_EQ(host_memory("return held"), 0);
}

/* The good ones among them are served. */
static void numbers_good_and_bad(void)
{
	uint32_t last = (uint32_t)(option("memory") / PAGE_SIZE);

	page_mark(1);
	page_mark(2);
	numbers[0] = 0xffffffff;
	numbers[1] = pfn(1);
	numbers[2] = last;
	numbers[3] = last - 1; /* of RAM, and joined with the one before it */
	balloon_send(QUEUE_INFLATE, numbers, 4);
	page_check_zero(1);
	page_check_marked(2);
	CHECK_EQ(host_memory("return held"), 2ull * PAGE_SIZE);
}

static void numbers_twice(void)
{
	for (unsigned int i = 0; i < nitems(numbers); i++)
		numbers[i] = pfn(i / 32);
	balloon_send(QUEUE_INFLATE, numbers, nitems(numbers));
	CHECK_EQ(host_memory("return held"), 2ull * PAGE_SIZE);
	balloon_send(QUEUE_INFLATE, numbers, nitems(numbers));
	CHECK_EQ(host_memory("return held"), 2ull * PAGE_SIZE);
	balloon_send(QUEUE_DEFLATE, numbers, nitems(numbers));
	CHECK_EQ(host_memory("return held"), 0);
	balloon_send(QUEUE_DEFLATE, numbers, nitems(numbers));
	CHECK_EQ(host_memory("return held"), 0);
}

static void numbers_never_inflated(void)
{
	for (unsigned int i = 0; i < nitems(numbers); i++) {
		page_mark(i);
		numbers[i] = pfn(i);
	}
	balloon_send(QUEUE_DEFLATE, numbers, nitems(numbers));
	for (unsigned int i = 0; i < nitems(numbers); i++)
		page_check_marked(i);
	CHECK_EQ(host_memory("return held"), 0);
}

static void number_of_the_ring(void)
{
	ring_describe(inflate, 0, (uint64_t)numbers, 4, 0, 0);
	numbers[0] = (uint32_t)((uint64_t)inflate / PAGE_SIZE);
	offer_and_kick(0);
	uint32_t from = milliseconds();
	while (read16((uint64_t)&inflate->avail.idx) != 0 && milliseconds() - from < WAIT_MS) {
	}
	CHECK_EQ(read16((uint64_t)&inflate->avail.idx), 0);
	ring_kick(inflate);
}

static void number_of_the_element(void)
{
	static uint32_t element[1024] __attribute__((aligned(PAGE_SIZE)));

	element[0] = (uint32_t)((uint64_t)element / PAGE_SIZE);
	balloon_send(QUEUE_INFLATE, element, nitems(element));
	uint32_t from = milliseconds();
	while (read32((uint64_t)element) != 0 && milliseconds() - from < WAIT_MS) {
	}
	CHECK_EQ(read32((uint64_t)element), 0);
}

/* Fills the buffer with one number, of a page that nobody misses. */
static void fill_buffer(uint32_t count)
{
	void *to = (void *)BUFFER;

	__asm__ volatile("rep stosl" : "+D"(to), "+c"(count) : "a"(pfn(0)) : "memory");
}

static void numbers_as_many_as_may_be(void)
{
	fill_buffer(MAX_PFNS);
	send(BUFFER, 4 * MAX_PFNS, 0);
	CHECK(ring_served(inflate));
	CHECK_EQ(host_memory("return held"), PAGE_SIZE);
}

static void numbers_one_too_many(void)
{
	send(BUFFER, 4 * MAX_PFNS + 4, 0);
}

static void part_numbers(void)
{
	static const struct attack attacks[] = {
		{ "numbers of no RAM", numbers_of_no_ram, SERVED },
		{ "good and bad ones", numbers_good_and_bad, SERVED },
		{ "the same twice", numbers_twice, SERVED },
		{ "never inflated", numbers_never_inflated, SERVED },
		{ "the ring's own page", number_of_the_ring, EITHER },
		{ "the element's own page", number_of_the_element, SERVED },
		{ "as many as may be", numbers_as_many_as_may_be, SERVED },
		{ "one too many", numbers_one_too_many, BROKEN },
	};

	run_attacks(attacks, nitems(attacks));
}

/* Chains */

static void chain_loops(void)
{
	for (unsigned int i = 0; i < 3; i++)
		ring_describe(inflate, i, (uint64_t)numbers, 4, DESC_NEXT, (i + 1) % 3);
	offer_and_kick(0);
}

static void chain_loops_to_itself(void)
{
	send((uint64_t)numbers, 4, DESC_NEXT);
	ring_describe(inflate, 1, (uint64_t)numbers, 4, DESC_NEXT, 1);
}

static void chain_loops_while_served(void)
{
	ring_describe(inflate, 1, (uint64_t)numbers, 4, DESC_NEXT, 1);
	send((uint64_t)numbers, 4, DESC_NEXT);
}

static void chain_next_beyond_table(void)
{
	ring_describe(inflate, 0, (uint64_t)numbers, 4, DESC_NEXT, RING_SIZE);
	offer_and_kick(0);
}

static void chain_head_beyond_table(void)
{
	offer_and_kick(RING_SIZE);
}

static void chain_head_far_beyond_table(void)
{
	offer_and_kick(0xffff);
}

static void chain_of_no_bytes(void)
{
	send((uint64_t)numbers, 0, 0);
}

static void chain_of_three_bytes(void)
{
	send((uint64_t)numbers, 3, 0);
}

static void chain_of_four_gib(void)
{
	send((uint64_t)numbers, 0xffffffff, 0);
}

/* Each may be right by itself; their sum wraps in 32 bits. */
static void chain_whose_sum_wraps(void)
{
	ring_describe(inflate, 0, (uint64_t)numbers, 0x80000000, DESC_NEXT, 1);
	ring_describe(inflate, 1, (uint64_t)numbers, 0x80000004, 0, 0);
	offer_and_kick(0);
}

static void chain_out_of_ram(void)
{
	send(option("memory") - 4, 8, 0);
	CHECK(ring_served(inflate));
	send(balloon.base, 64, 0);
	CHECK(ring_served(inflate));
	send(LAYOUT_ECAM_BASE, 64, 0);
	CHECK(ring_served(inflate));
	CHECK_EQ(host_memory("return held"), 0);
}

static void chain_near_the_end_of_all(void)
{
	send(UINT64_MAX - 3, 4, 0);
	CHECK(ring_served(inflate));
	send(UINT64_MAX - 3, 64, 0);
	CHECK(ring_served(inflate));
	send(UINT64_MAX, 0, 0);
	CHECK(ring_served(inflate));
	send(1ull << 63, 4096, 0);
}

static void chain_writable_only(void)
{
	send((uint64_t)numbers, 4, DESC_WRITE);
	CHECK(ring_served(inflate));
	CHECK_EQ(host_memory("return held"), 0);
}

static void chain_writable_first(void)
{
	ring_describe(inflate, 0, (uint64_t)numbers, 4, DESC_WRITE | DESC_NEXT, 1);
	ring_describe(inflate, 1, (uint64_t)numbers, 4, 0, 0);
	offer_and_kick(0);
}

static void chain_indirect(void)
{
	send((uint64_t)numbers, 16, DESC_INDIRECT);
}

static void chain_of_unknown_flags(void)
{
	send((uint64_t)numbers, 0, 0xfff8);
}

static void available_far_ahead(void)
{
	inflate->avail.idx += 1000;
	ring_kick(inflate);
}

static void available_one_too_far(void)
{
	inflate->avail.idx += RING_SIZE + 1;
	ring_kick(inflate);
}

static void available_goes_back(void)
{
	send((uint64_t)numbers, 0, 0);
	CHECK(ring_served(inflate));
	inflate->avail.idx--;
	ring_kick(inflate);
}

/* One chain, over and over: that is as many elements. */
static void available_all_the_same(void)
{
	numbers[0] = pfn(5);
	ring_describe(inflate, 0, (uint64_t)numbers, 4, 0, 0);
	for (unsigned int i = 0; i < RING_SIZE; i++)
		ring_offer(inflate, 0);
	ring_kick(inflate);
	CHECK(ring_served(inflate));
	CHECK_EQ(host_memory("return held"), PAGE_SIZE);
}

static void chains_stay_quiet_when_broken(void)
{
	offer_and_kick(RING_SIZE);
	CHECK(virtio_breaks(&balloon));
	uint16_t used = inflate->used.idx;
	page_mark(6);
	numbers[0] = pfn(6);
	for (unsigned int queue = QUEUE_INFLATE; queue <= QUEUE_DEFLATE; queue++) {
		ring_describe(&rings[queue], 0, (uint64_t)numbers, 4, 0, 0);
		ring_offer(&rings[queue], 0);
		ring_kick(&rings[queue]);
	}
	wait_a_while();
	CHECK_EQ(inflate->used.idx, used);
	CHECK_EQ(rings[QUEUE_DEFLATE].used.idx, 0);
	page_check_marked(6);
	/* The driver cannot talk the bit away, but by a reset. */
	virtio_set_status(&balloon, VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER |
					    VIRTIO_CONFIG_S_FEATURES_OK |
					    VIRTIO_CONFIG_S_DRIVER_OK);
	CHECK(virtio_status(&balloon) & VIRTIO_CONFIG_S_NEEDS_RESET);
}

static void part_chains(void)
{
	static const struct attack attacks[] = {
		{ "chain loops", chain_loops, BROKEN },
		{ "chain changes into a loop", chain_loops_to_itself, EITHER },
		{ "chain loops to itself", chain_loops_while_served, BROKEN },
		{ "next beyond the table", chain_next_beyond_table, BROKEN },
		{ "head beyond the table", chain_head_beyond_table, BROKEN },
		{ "head far beyond the table", chain_head_far_beyond_table, BROKEN },
		{ "no bytes", chain_of_no_bytes, SERVED },
		{ "three bytes", chain_of_three_bytes, SERVED },
		{ "four GiB", chain_of_four_gib, BROKEN },
		{ "sum of lengths wraps", chain_whose_sum_wraps, BROKEN },
		{ "outside of RAM", chain_out_of_ram, SERVED },
		{ "near 2^64", chain_near_the_end_of_all, SERVED },
		{ "writable only", chain_writable_only, SERVED },
		{ "writable first", chain_writable_first, BROKEN },
		{ "indirect", chain_indirect, BROKEN },
		{ "unknown flags", chain_of_unknown_flags, SERVED },
		{ "available far ahead", available_far_ahead, BROKEN },
		{ "available one too far", available_one_too_far, BROKEN },
		{ "available goes back", available_goes_back, BROKEN },
		{ "available all the same", available_all_the_same, SERVED },
		{ "broken stays quiet", chains_stay_quiet_when_broken, BROKEN },
	};

	run_attacks(attacks, nitems(attacks));
}

/* Rings and queues */

enum area { DESCRIPTORS, AVAILABLE, USED, NR_AREAS };

static const uint8_t area_registers[] = {
	VIRTIO_PCI_COMMON_Q_DESCLO,
	VIRTIO_PCI_COMMON_Q_AVAILLO,
	VIRTIO_PCI_COMMON_Q_USEDLO,
};

/* Brings the device up with one area of the inflate queue somewhere else, and an element in it. */
static void ring_lies_at(enum area area, uint64_t address)
{
	balloon_prepare(USUAL_FEATURES);
	ring_prepare(inflate, &balloon, QUEUE_INFLATE);
	virtio_write_address(
		virtio_queue_register(&balloon, QUEUE_INFLATE, area_registers[area]), address);
	ring_enable(inflate);
	virtio_driver_ok(&balloon);
	page_mark(7);
	numbers[0] = pfn(7);
	send((uint64_t)numbers, 4, 0);
	CHECK(virtio_breaks(&balloon));
	CHECK_EQ(inflate->used.idx, 0);
	if (area != USED)
		page_check_marked(7);
}

static void rings_out_of_ram(void)
{
	const uint64_t places[] = {
		option("memory"), option("memory") - 2, /* the rest hangs out */
		LAYOUT_HOLE_BASE, LAYOUT_ECAM_BASE,     balloon.base,    LAYOUT_LAPIC_BASE,
		1ull << 63,       UINT64_MAX,           UINT64_MAX - 15,
	};

	for (unsigned int area = 0; area < NR_AREAS; area++) {
		for (unsigned int i = 0; i < nitems(places); i++)
			ring_lies_at(area, places[i]);
	}
}

static void rings_misaligned(void)
{
	ring_lies_at(DESCRIPTORS, (uint64_t)&inflate->desc + 1);
	ring_lies_at(DESCRIPTORS, (uint64_t)&inflate->desc + 8);
	ring_lies_at(AVAILABLE, (uint64_t)&inflate->avail + 1);
	ring_lies_at(USED, (uint64_t)&inflate->used + 1);
	ring_lies_at(USED, (uint64_t)&inflate->used + 2);
}

static void ring_is_all_one(void)
{
	balloon_prepare(USUAL_FEATURES);
	for (unsigned int area = 0; area < NR_AREAS; area++)
		virtio_write_address(
			virtio_queue_register(&balloon, QUEUE_INFLATE, area_registers[area]),
			(uint64_t)inflate);
	ring_enable(inflate);
	virtio_driver_ok(&balloon);
	inflate->desc[0].address = 0x10000; /* the available ring's idx, too: 1 */
	ring_kick(inflate);
}

static void queue_enabled_twice(void)
{
	numbers[0] = pfn(8);
	send((uint64_t)numbers, 4, 0);
	CHECK(ring_served(inflate));
	ring_enable(inflate);
	send((uint64_t)numbers, 4, 0);
}

/* 1.2, 4.1.4.3.2: a driver must not; only a reset does. */
static void queue_switched_off(void)
{
	write16(virtio_queue_register(&balloon, QUEUE_INFLATE, VIRTIO_PCI_COMMON_Q_ENABLE), 0);
	numbers[0] = pfn(8);
	send((uint64_t)numbers, 4, 0);
}

static void queue_sizes_that_are_none(void)
{
	static const uint16_t sizes[] = { 0, 3, 5, 0x8000, 0xffff, 0x4000 };

	for (unsigned int i = 0; i < nitems(sizes); i++) {
		balloon_prepare(USUAL_FEATURES);
		write16(virtio_queue_register(&balloon, QUEUE_INFLATE,
					      VIRTIO_PCI_COMMON_Q_SIZE),
			sizes[i]);
		ring_enable(inflate);
		virtio_driver_ok(&balloon);
		numbers[0] = pfn(8);
		send((uint64_t)numbers, 4, 0);
		CHECK(virtio_breaks(&balloon));
		CHECK_EQ(inflate->used.idx, 0);
	}
}

/* What was said before it was enabled holds. */
static void queue_reconfigured_while_running(void)
{
	page_mark(9);
	numbers[0] = pfn(9);
	for (unsigned int area = 0; area < NR_AREAS; area++)
		virtio_write_address(
			virtio_queue_register(&balloon, QUEUE_INFLATE, area_registers[area]),
			UINT64_MAX);
	write16(virtio_queue_register(&balloon, QUEUE_INFLATE, VIRTIO_PCI_COMMON_Q_SIZE), 1);
	send((uint64_t)numbers, 4, 0);
	CHECK(ring_served(inflate));
	page_check_zero(9);
}

static void queues_that_are_not_there(void)
{
	for (unsigned int i = 3; i < 12; i++) {
		unsigned int index = i < 8 ? i : 1u << i;
		for (unsigned int at = VIRTIO_PCI_COMMON_Q_SIZE;
		     at <= VIRTIO_PCI_COMMON_Q_USEDHI; at += 2)
			write16(virtio_queue_register(&balloon, index, at), 1);
		CHECK_EQ(read16(balloon.common + VIRTIO_PCI_COMMON_Q_SIZE), 0);
		CHECK_EQ(read16(balloon.common + VIRTIO_PCI_COMMON_Q_ENABLE), 0);
	}
	for (unsigned int offset = 0; offset < 0x1000; offset += offset < 64 ? 1 : 241) {
		write8(balloon.notify + offset, 3);
		write16(balloon.notify + offset, 0xffff);
		write32(balloon.notify + offset, 0xffffffff);
		if (offset % 8 == 0)
			write64(balloon.notify + offset, UINT64_MAX);
		(void)read16(balloon.notify + offset);
	}
	ring_kick(inflate);
}

/* Before anything of it is up. */
static void kicks_too_early(void)
{
	virtio_reset(&balloon);
	for (unsigned int i = 0; i < 4; i++)
		write16(balloon.notify + i * balloon.notify_multiplier, (uint16_t)i);
	virtio_set_status(&balloon, VIRTIO_CONFIG_S_DRIVER_OK); /* with no features agreed */
	for (unsigned int i = 0; i < 4; i++)
		write16(balloon.notify + i * balloon.notify_multiplier, (uint16_t)i);
	virtio_set_status(&balloon, 0xff); /* likewise, and with bits that are the device's */
	CHECK_EQ(virtio_status(&balloon),
		 VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_FAILED);
	for (unsigned int i = 0; i < 4; i++)
		write16(balloon.notify + i * balloon.notify_multiplier, (uint16_t)i);
	ask("{\"execute\": \"x-ballast-request-guest-stats\"}");
	CHECK_EQ(answer("error"), 0);
}

static void part_queues(void)
{
	static const struct attack attacks[] = {
		{ "rings outside of RAM", rings_out_of_ram, EITHER },
		{ "rings misaligned", rings_misaligned, EITHER },
		{ "ring in one place", ring_is_all_one, EITHER },
		{ "enabled twice", queue_enabled_twice, SERVED },
		{ "switched off", queue_switched_off, SERVED },
		{ "sizes that are none", queue_sizes_that_are_none, EITHER },
		{ "reconfigured", queue_reconfigured_while_running, SERVED },
		{ "queues that are not there", queues_that_are_not_there, SERVED },
		{ "kicks too early", kicks_too_early, EITHER },
	};

	run_attacks(attacks, nitems(attacks));
}

/* Statistics */

/* The device keeps the last buffer it has got, and gives back the one before. */
static void send_stats(uint64_t address, uint32_t length, unsigned int flags)
{
	struct ring *ring = &rings[QUEUE_STATS];
	uint32_t from = milliseconds();

	ring_describe(ring, ring->avail.idx % RING_SIZE, address, length, flags, 0);
	ring_offer(ring, ring->avail.idx % RING_SIZE);
	ring_kick(ring);
	while ((uint16_t)(ring->avail.idx - ring->used.idx) > 1)
		CHECK(milliseconds() - from < WAIT_MS);
}

static void stats_of_all_sizes(void)
{
	static const uint32_t sizes[] = { 0, 1, 9, 10, 11, 4096, 1 << 20, 0xffffffff };

	for (unsigned int i = 0; i < nitems(sizes); i++) {
		send_stats(BUFFER, sizes[i], 0);
		ask("{\"execute\": \"x-ballast-query-guest-stats\"}");
		CHECK(answer("return updates") != HOST_NO_VALUE);
		CHECK(answer("error") == HOST_NO_VALUE);
	}
	send_stats(BUFFER, 10, DESC_WRITE);
	send_stats(UINT64_MAX - 4, 10, 0);
	send_stats(option("memory") - 5, 10, 0);
	send_stats(balloon.base, 4096, 0);
}

/* Values are a guest's to make up. */
static void stats_of_all_values(void)
{
	volatile uint8_t *bytes = (volatile uint8_t *)BUFFER;

	for (unsigned int tag = 0; tag < 20; tag++) {
		for (unsigned int i = 0; i < 10; i++)
			bytes[10 * tag + i] = i == 0 ? (uint8_t)tag : i == 1 ? 0 : 0xff;
	}
	send_stats(BUFFER, 200, 0);
	ask("{\"execute\": \"x-ballast-query-guest-stats\"}");
	CHECK(answer("return updates") != HOST_NO_VALUE);
	bytes[9] = 0x7f; /* the largest that JSON can say */
	send_stats(BUFFER, 10, 0);
	send_stats(BUFFER, 10, 0);
	ask("{\"execute\": \"x-ballast-query-guest-stats\"}");
	CHECK_EQ(answer("return stats stat-swap-in"), INT64_MAX);
}

static void part_stats(void)
{
	static const struct attack attacks[] = {
		{ "statistics of all sizes", stats_of_all_sizes, SERVED },
		{ "statistics of all values", stats_of_all_values, SERVED },
	};

	run_attacks(attacks, nitems(attacks));
}

/* Free page reports */

static void send_report(uint64_t address, uint32_t length, unsigned int flags)
{
	struct ring *ring = &rings[QUEUE_REPORTING];

	ring_describe(ring, 0, address, length, flags, 0);
	ring_offer(ring, 0);
	ring_kick(ring);
	CHECK(ring_served(ring));
}

static void part_reports(void)
{
	const uint64_t places[] = {
		option("memory"),  option("memory") - PAGE_SIZE,
		LAYOUT_HOLE_BASE,  LAYOUT_ECAM_BASE,
		LAYOUT_LAPIC_BASE, balloon.base,
		1ull << 63,        UINT64_MAX - PAGE_SIZE + 1,
		UINT64_MAX,
	};
	static const uint32_t lengths[] = { 0, 1, 4095, 8192, 0xfffff000, 0xffffffff };

	balloon_start(USUAL_FEATURES | FEATURE(F_REPORTING));
	for (unsigned int i = 0; i < nitems(places); i++) {
		for (unsigned int j = 0; j < nitems(lengths); j++)
			send_report(places[i], lengths[j], DESC_WRITE);
	}
	page_mark(0);
	send_report(page(0), PAGE_SIZE, 0); /* readable: no page of anybody's */
	page_check_marked(0);
	send_report(page(0), 0, DESC_WRITE);
	page_check_marked(0);
	/* A page in the balloon, and reported on top of that. */
	balloon_inflate(1, 1);
	send_report(page(1), PAGE_SIZE, DESC_WRITE);
	balloon_deflate(1, 1);
	page_mark(1);
	page_check_marked(1);
	CHECK_EQ(host_memory("return held"), 0);
	CHECK_EQ(virtio_status(&balloon) & VIRTIO_CONFIG_S_NEEDS_RESET, 0);
	balloon_still_serves();
}

/* Registers */

static void write_sized(uint64_t at, unsigned int size, uint64_t value)
{
	switch (size) {
	case 1:
		(void)read8(at);
		write8(at, (uint8_t)value);
		break;
	case 2:
		(void)read16(at);
		write16(at, (uint16_t)value);
		break;
	case 4:
		(void)read32(at);
		write32(at, (uint32_t)value);
		break;
	default:
		(void)read64(at);
		write64(at, value);
		break;
	}
}

static void write_region(uint64_t base, unsigned int size, uint64_t value)
{
	for (unsigned int width = 1; width <= 8; width *= 2) {
		for (unsigned int offset = 0; offset < size; offset++)
			write_sized(base + offset, width, value);
	}
}

/* Every register of the BAR, at every width, aligned or not, before and after a start. */
static void registers_all_over(void)
{
	static const uint64_t values[] = { 0, UINT64_MAX, 0x0101010101010101 };

	for (unsigned int i = 0; i < nitems(values); i++) {
		write_region(balloon.common, 64, values[i]);
		write_region(balloon.isr, 8, values[i]);
		write_region(balloon.config, CONFIG_SIZE + 8, values[i]);
		balloon_start(USUAL_FEATURES);
	}
}

static void registers_at_the_edges(void)
{
	for (uint64_t at = balloon.base + 0x1000; at <= balloon.base + 0x8000; at += 0x1000) {
		for (unsigned int width = 1; width <= 8; width *= 2) {
			write_sized(at - width, width, UINT64_MAX);
			write_sized(at - width / 2, width, UINT64_MAX);
		}
	}
}

static void config_space_all_over(void)
{
	static const uint32_t values[] = { 0, 0xffffffff, 0x55aa55aa };
	uint32_t saved[64];

	for (unsigned int i = 0; i < nitems(saved); i++)
		saved[i] = config_read(balloon.devfn, 4 * i);
	for (unsigned int i = 0; i < nitems(values); i++) {
		write_region(ecam(balloon.devfn, 0), 256, values[i]);
		for (unsigned int offset = 256; offset < 4096; offset += 251)
			write_sized(ecam(balloon.devfn, offset), 4, values[i]);
	}
	/* Identity, class and capabilities are nobody's to change. */
	CHECK_EQ(config_read(balloon.devfn, PCI_VENDOR_ID), saved[0]);
	CHECK_EQ(config_read(balloon.devfn, PCI_CLASS_REVISION), saved[PCI_CLASS_REVISION / 4]);
	CHECK_EQ(config_read(balloon.devfn, PCI_CAPABILITY_LIST),
		 saved[PCI_CAPABILITY_LIST / 4]);
	for (unsigned int i = 0; i < nitems(saved); i++)
		config_write(balloon.devfn, 4 * i, saved[i]);
	msix_program(&balloon, 0, VECTOR_CONFIG);
	msix_enable(&balloon);
}

/* The window reaches every register that the BAR has, and no other. */
static void window_all_over(void)
{
	uint64_t data = ecam(balloon.devfn, balloon.window + 16);
	static const uint32_t lengths[] = { 0, 1, 2, 3, 4, 8, 0xffffffff };

	for (unsigned int bar = 0; bar < 7; bar++) {
		write8(ecam(balloon.devfn, balloon.window + VIRTIO_PCI_CAP_BAR), (uint8_t)bar);
		for (uint32_t offset = 0; offset < 0x9000; offset += 0xffc) {
			config_write(balloon.devfn, balloon.window + VIRTIO_PCI_CAP_OFFSET,
				     offset);
			for (unsigned int i = 0; i < nitems(lengths); i++) {
				config_write(balloon.devfn,
					     balloon.window + VIRTIO_PCI_CAP_LENGTH,
					     lengths[i]);
				write_sized(data, 4, UINT64_MAX);
				write_sized(data + 1, 2, UINT64_MAX);
			}
		}
	}
	/* The window upon itself, upon the MSI-X table and upon the notifications. */
	config_write(balloon.devfn, balloon.window + VIRTIO_PCI_CAP_OFFSET, 0xffffffff);
	write_sized(data, 4, 0);
	msix_program(&balloon, 0, VECTOR_CONFIG);
	msix_enable(&balloon);
}

static void part_registers(void)
{
	static const struct attack attacks[] = {
		{ "registers all over", registers_all_over, EITHER },
		{ "registers at the edges", registers_at_the_edges, EITHER },
		{ "config space all over", config_space_all_over, EITHER },
		{ "window all over", window_all_over, EITHER },
	};

	run_attacks(attacks, nitems(attacks));
}

/* The BAR */

static void move_to(uint64_t address)
{
	bar_move(balloon.devfn, balloon.bar, address);
	virtio_locate(&balloon);
}

/* The huge page there, which is discarded at once. */
static void inflates(unsigned int n)
{
	page_mark(n);
	balloon_inflate(n, 512);
	page_check_zero(n);
	balloon_deflate(n, 512);
}

/* Registers and notifications answer where the BAR is; queues do not mind. */
static void part_bar(void)
{
	uint64_t home = balloon.base;
	uint64_t elsewhere = LAYOUT_MEM32_BASE + 0x2000000;

	balloon_start(USUAL_FEATURES);
	for (unsigned int i = 0; i < 5; i++) {
		uint64_t kick = ring_notify_address(inflate);
		inflates(512);
		/* An element on its way while the BAR moves. */
		numbers[0] = pfn(2);
		page_mark(2);
		send((uint64_t)numbers, 4, 0);
		move_to(i % 2 ? home : elsewhere + 0x100000 * i);
		CHECK(ring_served(inflate));
		CHECK_EQ(host_memory("return held"), PAGE_SIZE);
		/* The old place is nobody's. */
		CHECK_EQ(read32(kick & ~0xfffull), 0xffffffff);
		ring_offer(inflate, 0);
		write16(kick, 0);
		wait_a_while();
		CHECK(inflate->used.idx != inflate->avail.idx);
		ring_kick(inflate);
		CHECK(ring_served(inflate));
		balloon_deflate(2, 1);
		inflates(512);
	}
	/* Decoding off and on, with an element that waits. */
	config_command(balloon.devfn, PCI_COMMAND_MASTER);
	ring_offer(inflate, 0);
	config_command(balloon.devfn, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	ring_kick(inflate);
	CHECK(ring_served(inflate));
	/* Without bus mastering it stops, for good: DRIVER_OK is gone as well. */
	config_command(balloon.devfn, PCI_COMMAND_MEMORY);
	ring_offer(inflate, 0);
	ring_kick(inflate);
	wait_a_while();
	CHECK(inflate->used.idx != inflate->avail.idx);
	config_command(balloon.devfn, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	wait_a_while();
	CHECK(inflate->used.idx != inflate->avail.idx);
	CHECK_EQ(read8(balloon.common + VIRTIO_PCI_COMMON_STATUS) & VIRTIO_CONFIG_S_DRIVER_OK,
		 0);
	balloon_start(USUAL_FEATURES);
	/* Over RAM, which stays RAM. */
	page_mark(4);
	move_to(ARENA & ~0xffffull);
	page_check_marked(4);
	ring_offer(inflate, 0);
	move_to(home);
	ring_kick(inflate);
	CHECK(ring_served(inflate));
	inflates(1024);
	/* There and back, with kicks in between. */
	for (unsigned int i = 0; i < 40; i++) {
		move_to(i % 2 ? home : elsewhere);
		ring_offer(inflate, 0);
		ring_kick(inflate);
		if (i % 8 == 7)
			CHECK(ring_served(inflate));
	}
	move_to(home);
	ring_kick(inflate);
	CHECK(ring_served(inflate));
	balloon_still_serves();
}

/* Two processors at once */

static volatile uint32_t arrived;
static volatile uint32_t done;

static uint32_t random(uint32_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 17;
	*state ^= *state << 5;
	return *state;
}

/* Nothing that a device, sent there, would write over this guest with. */
static uint32_t random_address_half(uint32_t *state, unsigned int at)
{
	static const uint32_t no_ram[] = { 0xb0000000, 0xfffff000, 0xc0000000, 0xffffffff };
	struct ring *ring = &rings[random(state) % 3];
	uint32_t dice = random(state) % 8;

	if (dice == 0)
		return no_ram[random(state) % nitems(no_ram)];
	switch (at) {
	case VIRTIO_PCI_COMMON_Q_DESCLO: return (uint32_t)(uint64_t)&ring->desc;
	case VIRTIO_PCI_COMMON_Q_AVAILLO: return (uint32_t)(uint64_t)&ring->avail;
	case VIRTIO_PCI_COMMON_Q_USEDLO: return (uint32_t)(uint64_t)&ring->used;
	default: return 0;
	}
}

static void poke_queue(uint32_t *state)
{
	unsigned int at = VIRTIO_PCI_COMMON_Q_DESCLO + random(state) % 6 * 4;

	switch (random(state) % 4) {
	case 0: write32(balloon.common + at, random_address_half(state, at)); break;
	case 1:
		write16(balloon.common + VIRTIO_PCI_COMMON_Q_SELECT,
			(uint16_t)(random(state) % 5));
		break;
	case 2:
		write16(balloon.common + VIRTIO_PCI_COMMON_Q_SIZE,
			(uint16_t)(1u << random(state) % 9));
		break;
	default: write16(balloon.common + VIRTIO_PCI_COMMON_Q_ENABLE, 1); break;
	}
}

static void poke(uint32_t *state)
{
	struct ring *ring = &rings[random(state) % 3];
	uint32_t what = random(state) % 16;

	if (what < 4) {
		write16(balloon.notify + random(state) % 5 * balloon.notify_multiplier, 0);
	} else if (what < 8) {
		poke_queue(state);
	} else if (what < 10) {
		ring_describe(ring, random(state) % RING_SIZE, (uint64_t)numbers,
			      4 * (random(state) % nitems(numbers)), random(state) % 4,
			      random(state) % (RING_SIZE + 1));
		ring_offer(ring, random(state) % RING_SIZE);
	} else if (what < 12) {
		write8(balloon.common + VIRTIO_PCI_COMMON_STATUS,
		       random(state) % 4 ? 0x0f : (uint8_t)random(state));
	} else if (what == 12) {
		write8(balloon.common + VIRTIO_PCI_COMMON_STATUS, 0);
	} else if (what == 13) {
		write32(balloon.common + VIRTIO_PCI_COMMON_GFSELECT, random(state) % 2);
		write32(balloon.common + VIRTIO_PCI_COMMON_GF, random(state) % 4);
	} else if (what == 14) {
		write32(balloon.config + random(state) % 4 * 4, random(state));
		(void)read8(balloon.isr);
	} else {
		write32(balloon.msix_table + random(state) % 4 * 16 + 12, random(state) % 2);
		config_command(balloon.devfn,
			       random(state) % 4 ? PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER : 0);
	}
}

static void poke_for_long(uint32_t seed)
{
	uint32_t state = seed;

	for (uint64_t i = option("rounds"); i > 0; i--) {
		if (i % 16 == 0) {
			config_command(balloon.devfn, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
			write8(balloon.common + VIRTIO_PCI_COMMON_STATUS, 0);
			write32(balloon.common + VIRTIO_PCI_COMMON_GFSELECT, 1);
			write32(balloon.common + VIRTIO_PCI_COMMON_GF, 1);
		}
		poke(&state);
	}
}

static void run_ap(unsigned int id)
{
	arrived = id;
	poke_for_long(0x12345678);
	done = 1;
	__asm__ volatile("cli; hlt");
}

static void part_smp(void)
{
	for (unsigned int i = 0; i < nitems(numbers); i++)
		numbers[i] = pfn(i);
	smp_start(2, run_ap);
	wait_for(&arrived, 1);
	CHECK_EQ(arrived, 1);
	poke_for_long(0x9e3779b9);
	while (!done)
		(void)milliseconds();
	config_command(balloon.devfn, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	balloon_still_serves();
	virtio_reset(&balloon);
	CHECK_EQ(host_memory("return held"), 0);
	balloon_still_serves();
}

static const struct {
	const char *name;
	void (*run)(void);
} parts[] = {
	{ "numbers", part_numbers }, { "chains", part_chains },
	{ "queues", part_queues },   { "stats", part_stats },
	{ "reports", part_reports }, { "registers", part_registers },
	{ "bar", part_bar },         { "smp", part_smp },
};

int guest_main(void)
{
	virtio_find(&balloon, BALLOON_TYPE);
	for (unsigned int i = 0; i < nitems(parts); i++) {
		if (option_is("part", parts[i].name)) {
			parts[i].run();
			return 0;
		}
	}
	guest_fail(HERE, "no such part");
}
