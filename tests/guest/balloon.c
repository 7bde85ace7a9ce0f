/* SPDX-License-Identifier: MIT */
/*
 * balloon.c - the balloon as a driver that keeps the rules sees it; one part of it a run, as the
 * command line says.
 */
#include <linux/pci_regs.h>

#include "tests/guest/balloon_driver.h"

#define OTHER_DEVICE_FEATURES \
	(FEATURE(F_DEFLATE_ON_OOM) | FEATURE(F_HINT) | FEATURE(F_REPORTING))
#define VECTOR_QUEUE 0x40
#define VECTOR_CONFIG 0x41
#define QUEUE_ENTRY 0u /* of the MSI-X table */
#define CONFIG_ENTRY 1u
#define MIB (1ull << 20)
#define PAGES_A_MIB 256u

static volatile uint32_t queue_hits;
static volatile uint32_t config_hits;
static uint32_t numbers[4 * PAGES_A_MIB]; /* page numbers on their way */

static void count_queue(void)
{
	queue_hits++;
	apic_eoi();
}

static void count_config(void)
{
	config_hits++;
	apic_eoi();
}

static uint32_t config_word(unsigned int offset)
{
	return read32(balloon.config + offset);
}

/* Until *count is so, and no more comes. */
static void expect(const volatile uint32_t *count, uint32_t want)
{
	wait_for(count, want);
	wait_a_while();
	CHECK_EQ(*count, want);
}

/* Who it is, and what it offers */

static void has_its_identity(void)
{
	unsigned int at = balloon.devfn;
	uint16_t command = read16(ecam(at, PCI_COMMAND));

	CHECK(read8(ecam(at, PCI_REVISION_ID)) >= 1);
	CHECK(read16(ecam(at, PCI_SUBSYSTEM_ID)) >= 0x40); /* not a transitional device */
	CHECK_EQ(read8(ecam(at, PCI_HEADER_TYPE)), 0);
	CHECK_EQ(read8(ecam(at, PCI_INTERRUPT_PIN)), 1);
	CHECK(read16(ecam(at, PCI_STATUS)) & PCI_STATUS_CAP_LIST);
	CHECK_EQ(balloon.seen_caps,
		 1u << VIRTIO_PCI_CAP_COMMON_CFG | 1u << VIRTIO_PCI_CAP_NOTIFY_CFG |
			 1u << VIRTIO_PCI_CAP_ISR_CFG | 1u << VIRTIO_PCI_CAP_DEVICE_CFG |
			 1u << VIRTIO_PCI_CAP_PCI_CFG);
	CHECK_EQ(balloon.common % 4, 0);
	CHECK_EQ(balloon.config % 4, 0);
	CHECK_EQ(balloon.notify % 4, 0);
	CHECK(balloon.base >= LAYOUT_HIGH_BASE);
	config_command(at, 0);
	CHECK_EQ(read32(balloon.common), 0xffffffff);
	config_command(at, command);
}

static void starts_from_nothing(void)
{
	uint16_t nr_queues = read16(balloon.common + VIRTIO_PCI_COMMON_NUMQ);

	CHECK_EQ(nr_queues, 3);
	CHECK_EQ(virtio_status(&balloon), 0);
	CHECK_EQ(read16(balloon.common + VIRTIO_PCI_COMMON_MSIX), VIRTIO_NO_VECTOR);
	CHECK_EQ(read16(ecam(balloon.devfn, balloon.msix + PCI_MSIX_FLAGS)), nr_queues);
	for (unsigned int i = 0; i < nr_queues; i++) {
		uint16_t size =
			read16(virtio_queue_register(&balloon, i, VIRTIO_PCI_COMMON_Q_SIZE));
		CHECK(size >= RING_SIZE && size <= 256 && (size & (size - 1)) == 0);
		CHECK_EQ(read16(balloon.common + VIRTIO_PCI_COMMON_Q_ENABLE), 0);
		CHECK_EQ(read16(balloon.common + VIRTIO_PCI_COMMON_Q_MSIX), VIRTIO_NO_VECTOR);
		CHECK_EQ(read16(balloon.common + VIRTIO_PCI_COMMON_Q_SELECT), i);
	}
	CHECK_EQ(read16(virtio_queue_register(&balloon, nr_queues, VIRTIO_PCI_COMMON_Q_SIZE)),
		 0);
	CHECK_EQ(config_word(CONFIG_NUM_PAGES), 0);
	CHECK_EQ(config_word(CONFIG_ACTUAL), 0);
}

static void offers_what_it_should(void)
{
	uint64_t offered = virtio_offered(&balloon);

	CHECK(offered & FEATURE(VIRTIO_F_VERSION_1));
	CHECK(offered & FEATURE(F_MUST_TELL_HOST));
	CHECK(offered & FEATURE(F_STATS_VQ));
	CHECK(offered & FEATURE(F_PAGE_POISON));
	CHECK_EQ(offered & OTHER_DEVICE_FEATURES, 0);
	write32(balloon.common + VIRTIO_PCI_COMMON_DFSELECT, 2);
	CHECK_EQ(read32(balloon.common + VIRTIO_PCI_COMMON_DF), 0);
}

static void features_are_settled_once(void)
{
	CHECK(!virtio_negotiate(&balloon, 0));
	CHECK(!virtio_negotiate(&balloon, FEATURE(F_MUST_TELL_HOST)));
	CHECK(!virtio_negotiate(&balloon, USUAL_FEATURES | FEATURE(F_REPORTING)));
	CHECK(!virtio_negotiate(&balloon, USUAL_FEATURES | FEATURE(63)));
	CHECK(virtio_negotiate(&balloon, FEATURE(VIRTIO_F_VERSION_1)));
	CHECK(virtio_negotiate(&balloon, USUAL_FEATURES));
	write32(balloon.common + VIRTIO_PCI_COMMON_GFSELECT, 0);
	write32(balloon.common + VIRTIO_PCI_COMMON_GF, 0);
	CHECK_EQ(read32(balloon.common + VIRTIO_PCI_COMMON_GF), (uint32_t)USUAL_FEATURES);
	CHECK_EQ(virtio_status(&balloon), VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER |
						  VIRTIO_CONFIG_S_FEATURES_OK);
	virtio_reset(&balloon);
	CHECK_EQ(virtio_status(&balloon), 0);
	write32(balloon.common + VIRTIO_PCI_COMMON_GFSELECT, 0);
	CHECK_EQ(read32(balloon.common + VIRTIO_PCI_COMMON_GF), 0);
}

static void vectors_beyond_the_table_are_refused(void)
{
	uint64_t of_queue = virtio_queue_register(&balloon, 0, VIRTIO_PCI_COMMON_Q_MSIX);

	write16(balloon.common + VIRTIO_PCI_COMMON_MSIX, 2);
	CHECK_EQ(read16(balloon.common + VIRTIO_PCI_COMMON_MSIX), 2);
	write16(balloon.common + VIRTIO_PCI_COMMON_MSIX, 4);
	CHECK_EQ(read16(balloon.common + VIRTIO_PCI_COMMON_MSIX), VIRTIO_NO_VECTOR);
	write16(of_queue, 3);
	CHECK_EQ(read16(of_queue), 3);
	write16(of_queue, 0x7fff);
	CHECK_EQ(read16(of_queue), VIRTIO_NO_VECTOR);
	virtio_reset(&balloon);
}

/* 4.1.4.9: a way to the BAR for those who cannot map it. */
static void window_reaches_registers(void)
{
	unsigned int at = balloon.window;
	uint64_t data = ecam(balloon.devfn, at + 16);

	write8(ecam(balloon.devfn, at + VIRTIO_PCI_CAP_BAR), (uint8_t)balloon.bar);
	config_write(balloon.devfn, at + VIRTIO_PCI_CAP_OFFSET,
		     (uint32_t)(balloon.common - balloon.base + VIRTIO_PCI_COMMON_NUMQ));
	config_write(balloon.devfn, at + VIRTIO_PCI_CAP_LENGTH, 2);
	CHECK_EQ(read16(data), 3);
	config_write(balloon.devfn, at + VIRTIO_PCI_CAP_OFFSET,
		     (uint32_t)(balloon.common - balloon.base + VIRTIO_PCI_COMMON_STATUS));
	config_write(balloon.devfn, at + VIRTIO_PCI_CAP_LENGTH, 1);
	write8(data, VIRTIO_CONFIG_S_ACKNOWLEDGE);
	CHECK_EQ(read8(data), VIRTIO_CONFIG_S_ACKNOWLEDGE);
	CHECK_EQ(virtio_status(&balloon), VIRTIO_CONFIG_S_ACKNOWLEDGE);
	virtio_reset(&balloon);
	/* What is not in a BAR, or not of a register's width, is nothing. */
	config_write(balloon.devfn, at + VIRTIO_PCI_CAP_OFFSET, 0xfffffffc);
	config_write(balloon.devfn, at + VIRTIO_PCI_CAP_LENGTH, 4);
	(void)read32(data);
	write32(data, 0xffffffff);
	config_write(balloon.devfn, at + VIRTIO_PCI_CAP_OFFSET, 0);
	config_write(balloon.devfn, at + VIRTIO_PCI_CAP_LENGTH, 3);
	(void)read32(data);
	write8(ecam(balloon.devfn, at + VIRTIO_PCI_CAP_BAR), 5);
	config_write(balloon.devfn, at + VIRTIO_PCI_CAP_LENGTH, 4);
	(void)read32(data);
	write32(data, 0xffffffff);
	CHECK_EQ(virtio_status(&balloon), 0);
}

static void part_identity(void)
{
	has_its_identity();
	starts_from_nothing();
	offers_what_it_should();
	features_are_settled_once();
	vectors_beyond_the_table_are_refused();
	window_reaches_registers();
	starts_from_nothing();
	balloon_still_serves();
}

/* Pages */

static void inflated_reads_zero_and_neighbours_stay(void)
{
	for (unsigned int n = 10; n <= 14; n++)
		page_mark(n);
	balloon_inflate(11, 1);
	balloon_inflate(13, 1);
	page_check_marked(10);
	page_check_zero(11);
	page_check_marked(12);
	page_check_zero(13);
	page_check_marked(14);
	CHECK_EQ(host_memory("return held"), 2ull * PAGE_SIZE);
	CHECK_EQ(answer("return reclaimed"), 2ull * PAGE_SIZE);
	CHECK_EQ(answer("return held-back bytes"), 0);
	CHECK_EQ(answer("return discards direct bytes"), 2ull * PAGE_SIZE);
	CHECK_EQ(answer("return discards direct failures"), 0);
	CHECK_EQ(answer("return driver running"), 1);
	CHECK_EQ(answer("return driver tells-host-first"), 1);
}

static void deflated_is_usable_again(void)
{
	balloon_deflate(11, 1);
	page_mark(11);
	balloon_deflate(13, 1);
	page_mark(13);
	wait_a_while();
	for (unsigned int n = 10; n <= 14; n++)
		page_check_marked(n);
	CHECK_EQ(host_memory("return held"), 0);
	CHECK_EQ(answer("return reclaimed"), 0);
	balloon_inflate(11, 1);
	page_check_zero(11);
	balloon_deflate(11, 1);
}

/* Whatever their order, pages that lie together are discarded together: by one call. */
static void shuffled_pages_take_one_call(void)
{
	uint64_t calls = host_memory("return discards direct calls");
	uint64_t bytes = answer("return discards direct bytes");

	for (unsigned int i = 0; i < PAGES_A_MIB; i++) {
		unsigned int n = 20 + i * 77 % PAGES_A_MIB;
		page_mark(n);
		numbers[i] = pfn(n);
	}
	page_mark(19);
	page_mark(20 + PAGES_A_MIB);
	balloon_send(QUEUE_INFLATE, numbers, PAGES_A_MIB);
	for (unsigned int i = 0; i < PAGES_A_MIB; i++)
		page_check_zero(20 + i);
	page_check_marked(19);
	page_check_marked(20 + PAGES_A_MIB);
	CHECK_EQ(host_memory("return discards direct calls"), calls + 1);
	CHECK_EQ(answer("return discards direct bytes"), bytes + MIB);
	CHECK_EQ(answer("return held"), MIB);
	balloon_send(QUEUE_DEFLATE, numbers, PAGES_A_MIB);
	CHECK_EQ(host_memory("return held"), 0);
}

/* One element in many descriptors, cut in the middle of page numbers. */
static void element_in_pieces(void)
{
	static const uint32_t cuts[] = { 0, 3, 4, 9, 9, 32 };
	struct ring *ring = &rings[QUEUE_INFLATE];

	for (unsigned int i = 0; i < 8; i++) {
		page_mark(40 + 2 * i);
		numbers[i] = pfn(40 + 2 * i);
	}
	for (unsigned int i = 0; i + 1 < nitems(cuts); i++) {
		bool last = i + 2 == nitems(cuts);
		ring_describe(ring, i, (uint64_t)numbers + cuts[i], cuts[i + 1] - cuts[i],
			      last ? 0 : DESC_NEXT, i + 1);
	}
	ring_offer(ring, 0);
	ring_kick(ring);
	CHECK(ring_served(ring));
	CHECK_EQ(host_memory("return held"), 8ull * PAGE_SIZE);
	for (unsigned int i = 0; i < 8; i++)
		page_check_zero(40 + 2 * i);
	balloon_send(QUEUE_DEFLATE, numbers, 8);
	CHECK_EQ(host_memory("return held"), 0);
}

/* Past user space or through it, the queue hears of it. */
static void kicks_of_every_width(void)
{
	struct ring *ring = &rings[QUEUE_INFLATE];
	uint64_t at = ring_notify_address(ring);

	numbers[0] = pfn(60);
	ring_describe(ring, 0, (uint64_t)numbers, 4, 0, 0);
	for (unsigned int width = 1; width <= 4; width *= 2) {
		page_mark(60);
		ring_offer(ring, 0);
		if (width == 1)
			write8(at, (uint8_t)QUEUE_INFLATE);
		else if (width == 2)
			write16(at, QUEUE_INFLATE);
		else
			write32(at, QUEUE_INFLATE);
		CHECK(ring_served(ring));
		CHECK_EQ(host_memory("return held"), PAGE_SIZE);
		balloon_deflate(60, 1);
	}
	CHECK_EQ(ring->used.ring[0].id, 0);
	CHECK_EQ(ring->used.ring[0].length, 0);
}

/* What waits when the driver comes up is served without a kick. */
static void waiting_elements_are_served_at_start(void)
{
	balloon_prepare(USUAL_FEATURES);
	page_mark(61);
	numbers[0] = pfn(61);
	ring_describe(&rings[QUEUE_INFLATE], 0, (uint64_t)numbers, 4, 0, 0);
	ring_offer(&rings[QUEUE_INFLATE], 0);
	ring_enable(&rings[QUEUE_INFLATE]);
	ring_kick(&rings[QUEUE_INFLATE]);
	wait_a_while();
	page_check_marked(61); /* not before DRIVER_OK */
	CHECK_EQ(rings[QUEUE_INFLATE].used.idx, 0);
	virtio_driver_ok(&balloon);
	CHECK(ring_served(&rings[QUEUE_INFLATE]));
	page_check_zero(61);
}

static void part_pages(void)
{
	balloon_start(USUAL_FEATURES);
	inflated_reads_zero_and_neighbours_stay();
	deflated_is_usable_again();
	shuffled_pages_take_one_call();
	element_in_pieces();
	kicks_of_every_width();
	waiting_elements_are_served_at_start();
	balloon_start(FEATURE(VIRTIO_F_VERSION_1));
	CHECK_EQ(host_memory("return driver tells-host-first"), 0);
	page_mark(62);
	balloon_inflate(62, 1);
	page_check_zero(62);
}

/* 2 MiB pages behind the RAM: nothing is discarded before all of one is held. */
static void part_huge(void)
{
	static const unsigned int nr = 512;

	CHECK_EQ(page(0) % (nr * PAGE_SIZE), 0);
	balloon_start(USUAL_FEATURES);
	page_mark(0);
	page_mark(nr - 1);
	page_mark(nr);
	for (unsigned int i = 0; i < nr; i++)
		numbers[i] = pfn(i);
	balloon_send(QUEUE_INFLATE, numbers, nr - 1);
	page_check_marked(0);
	CHECK_EQ(host_memory("return held"), (nr - 1ull) * PAGE_SIZE);
	CHECK_EQ(answer("return reclaimed"), 0);
	CHECK_EQ(answer("return held-back incomplete"), (nr - 1ull) * PAGE_SIZE);
	balloon_send(QUEUE_INFLATE, numbers + nr - 1, 1);
	CHECK_EQ(host_memory("return reclaimed"), 2 * MIB);
	CHECK_EQ(answer("return held-back incomplete"), 0);
	balloon_send(QUEUE_DEFLATE, numbers, 1);
	page_check_zero(0);
	page_check_zero(nr - 1);
	page_check_marked(nr);
	CHECK_EQ(host_memory("return held"), (nr - 1ull) * PAGE_SIZE);
	CHECK_EQ(answer("return reclaimed"), 0);
	page_mark(0);
	page_check_marked(0);
}

/* Interrupts */

static void use_vectors(void)
{
	interrupt_handle(VECTOR_QUEUE, count_queue);
	interrupt_handle(VECTOR_CONFIG, count_config);
	msix_program(&balloon, QUEUE_ENTRY, VECTOR_QUEUE);
	msix_program(&balloon, CONFIG_ENTRY, VECTOR_CONFIG);
	msix_enable(&balloon);
	write16(balloon.common + VIRTIO_PCI_COMMON_MSIX, CONFIG_ENTRY);
	for (unsigned int i = 0; i < 2; i++)
		write16(virtio_queue_register(&balloon, i, VIRTIO_PCI_COMMON_Q_MSIX),
			QUEUE_ENTRY);
	interrupts_on();
}

static void elements_interrupt_once_each(void)
{
	for (uint32_t i = 0; i < 50; i++) {
		balloon_inflate(i, 1);
		wait_for(&queue_hits, i + 1);
		CHECK_EQ(queue_hits, i + 1);
	}
	expect(&queue_hits, 50);
	balloon_deflate(0, 50);
	expect(&queue_hits, 51);
	CHECK_EQ(read8(balloon.isr), 0); /* not used with MSI-X */
}

static void batch_interrupts_at_least_once(void)
{
	struct ring *ring = &rings[QUEUE_INFLATE];
	uint32_t before = queue_hits;

	for (unsigned int i = 0; i < RING_SIZE; i++) {
		numbers[i] = pfn(i);
		ring_describe(ring, i, (uint64_t)&numbers[i], 4, 0, 0);
		ring_offer(ring, i);
	}
	ring_kick(ring);
	CHECK(ring_served(ring));
	uint32_t from = milliseconds();
	while (queue_hits == before && milliseconds() - from < WAIT_MS) {
	}
	wait_a_while();
	CHECK(queue_hits > before);
	CHECK(queue_hits <= before + RING_SIZE);
	balloon_deflate(0, RING_SIZE);
	wait_a_while();
}

static void unwanted_interrupts_stay_away(void)
{
	uint32_t before = queue_hits;

	rings[QUEUE_INFLATE].avail.flags = AVAIL_NO_INTERRUPT;
	balloon_inflate(1, 1);
	wait_a_while();
	CHECK_EQ(queue_hits, before);
	rings[QUEUE_INFLATE].avail.flags = 0;
	balloon_inflate(2, 1);
	expect(&queue_hits, before + 1);
}

/* A masked vector pends, as with any device. */
static void masked_vector_waits(void)
{
	uint32_t before = queue_hits;
	uint64_t control = balloon.msix_table + QUEUE_ENTRY * 16 + 12;

	write32(control, 1);
	balloon_inflate(3, 1);
	wait_a_while();
	CHECK_EQ(queue_hits, before);
	write32(control, 0);
	expect(&queue_hits, before + 1);
}

static void part_msix(void)
{
	balloon_start(USUAL_FEATURES);
	use_vectors();
	elements_interrupt_once_each();
	batch_interrupts_at_least_once();
	unwanted_interrupts_stay_away();
	masked_vector_waits();
	CHECK_EQ(config_hits, 0);
}

#define INTX_PIN(devfn) (16 + ((devfn) >> 3)) /* of the IOAPIC; the function's INTA */

static volatile uint32_t line_hits;
static volatile uint32_t line_causes;

/* Reading the ISR status acknowledges: the line falls. */
static void take_line(void)
{
	line_hits++;
	line_causes |= read8(balloon.isr);
	apic_eoi();
}

static void expect_line(uint32_t cause)
{
	uint32_t from = milliseconds();

	while (line_causes != cause && milliseconds() - from < WAIT_MS) {
	}
	CHECK_EQ(line_causes, cause);
	wait_a_while();
	CHECK_EQ(read8(balloon.isr), 0);
	/* A software KVM delivers a level more than once, but then it is quiet. */
	uint32_t hits = line_hits;
	wait_a_while();
	CHECK_EQ(line_hits, hits);
	line_causes = 0;
}

static void part_intx(void)
{
	unsigned int pin = INTX_PIN(balloon.devfn);

	balloon_start(USUAL_FEATURES);
	/* Unheard: the ISR status tells a driver that polls. */
	balloon_inflate(0, 1);
	CHECK_EQ(read8(balloon.isr), 1);
	CHECK_EQ(read8(balloon.isr), 0);
	wait_a_while();
	interrupt_handle(VECTOR_QUEUE, take_line);
	ioapic_route(pin, VECTOR_QUEUE, 0, IOAPIC_LEVEL | IOAPIC_ACTIVE_LOW);
	interrupts_on();
	for (uint32_t i = 0; i < 10; i++) {
		balloon_inflate(i, 1);
		expect_line(1);
	}
	ask("{\"execute\": \"balloon\", \"arguments\": {\"value\": 100663296}}");
	CHECK_EQ(answer("return"), 0);
	expect_line(2);
	balloon_inflate(10, 1);
	expect_line(1);
}

/* The target */

static void part_target(void)
{
	uint32_t kept = (uint32_t)(option("memory") - option("keep"));

	CHECK_EQ(config_word(CONFIG_NUM_PAGES), kept / PAGE_SIZE);
	CHECK_EQ(read8(balloon.config + 1), kept / PAGE_SIZE >> 8 & 0xff);
	balloon_start(USUAL_FEATURES);
	use_vectors();
	CHECK_EQ(config_word(CONFIG_NUM_PAGES), kept / PAGE_SIZE);
	/* The driver cannot move its own target. */
	write32(balloon.config + CONFIG_NUM_PAGES, 1);
	CHECK_EQ(config_word(CONFIG_NUM_PAGES), kept / PAGE_SIZE);

	uint8_t generation = read8(balloon.common + VIRTIO_PCI_COMMON_CFGGENERATION);
	ask("{\"execute\": \"balloon\", \"arguments\": {\"value\": 117440512}}");
	CHECK_EQ(answer("return"), 0);
	CHECK_EQ(answer("return x-ballast"), HOST_NO_VALUE); /* nobody inhibits */
	expect(&config_hits, 1);
	CHECK_EQ(config_word(CONFIG_NUM_PAGES), (option("memory") - 112 * MIB) / PAGE_SIZE);
	CHECK(read8(balloon.common + VIRTIO_PCI_COMMON_CFGGENERATION) != generation);
	CHECK_EQ(host_memory("return target"), option("memory") - 112 * MIB);

	/* Too little for the guest to live on: refused, and nothing changes. */
	ask("{\"execute\": \"balloon\", \"arguments\": {\"value\": 4096}}");
	CHECK_EQ(answer("error"), 0);
	/* More than there is: all. */
	ask("{\"execute\": \"balloon\", \"arguments\": {\"value\": 1099511627776}}");
	expect(&config_hits, 2);
	CHECK_EQ(config_word(CONFIG_NUM_PAGES), 0);
	ask("{\"execute\": \"balloon\", \"arguments\": {\"value\": 117440512}}");
	expect(&config_hits, 3);
	virtio_reset(&balloon); /* what the host wants outlives the driver */
	CHECK_EQ(config_word(CONFIG_NUM_PAGES), (option("memory") - 112 * MIB) / PAGE_SIZE);
}

static uint64_t told_actual(void)
{
	ask("{\"execute\": \"query-balloon\"}");
	return answer("return actual");
}

/* A driver may say anything of itself. */
static void part_actual(void)
{
	uint64_t all = option("memory");

	balloon_start(USUAL_FEATURES);
	CHECK_EQ(told_actual(), all);
	write32(balloon.config + CONFIG_ACTUAL, 100);
	CHECK_EQ(config_word(CONFIG_ACTUAL), 100);
	CHECK_EQ(told_actual(), all - 100ull * PAGE_SIZE);
	write16(balloon.config + CONFIG_ACTUAL, 0x0201);
	write8(balloon.config + CONFIG_ACTUAL + 1, 0x03);
	CHECK_EQ(told_actual(), all - 0x301ull * PAGE_SIZE);
	write32(balloon.config + CONFIG_ACTUAL, 0xffffffff);
	CHECK_EQ(told_actual(), 0);
	CHECK_EQ(host_memory("return actual"), all);
	CHECK_EQ(answer("return held"), 0);
	virtio_reset(&balloon);
	CHECK_EQ(told_actual(), all);
}

/* Statistics */

struct stat {
	uint16_t tag;
	uint64_t value;
} __attribute__((packed));

static void offer_stats(const struct stat *stats, uint32_t size)
{
	ring_describe(&rings[QUEUE_STATS], 0, (uint64_t)stats, size, 0, 0);
	ring_offer(&rings[QUEUE_STATS], 0);
	ring_kick(&rings[QUEUE_STATS]);
}

static void wait_for_updates(uint64_t want)
{
	uint32_t from = milliseconds();

	do
		ask("{\"execute\": \"x-ballast-query-guest-stats\"}");
	while (answer("return updates") != want && milliseconds() - from < WAIT_MS);
	CHECK_EQ(answer("return updates"), want);
}

static void request_stats(void)
{
	ask("{\"execute\": \"x-ballast-request-guest-stats\"}");
}

static void part_stats(void)
{
	static struct stat stats[] = {
		{ 4, 123456789 }, { 5, 0x100000000 }, { 4, 987654321 }, { 9999, 1 }, { 15, 7 },
	};
	struct ring *ring = &rings[QUEUE_STATS];

	ask("{\"execute\": \"x-ballast-query-guest-stats\"}");
	CHECK_EQ(answer("return updates"), 0);
	CHECK_EQ(answer("return last-update"), 0);
	CHECK_EQ(answer("return stats stat-free-memory"), HOST_NO_VALUE);
	request_stats();
	CHECK_EQ(answer("error"), 0); /* of whom? */

	balloon_start(USUAL_FEATURES);
	request_stats();
	CHECK_EQ(answer("error"), 0); /* there is no buffer yet */
	offer_stats(stats, sizeof(stats));
	wait_for_updates(1);
	CHECK_EQ(answer("return stats stat-free-memory"), 987654321); /* the last one counts */
	CHECK_EQ(answer("return stats stat-total-memory"), 0x100000000);
	CHECK_EQ(answer("return stats stat-direct-reclaims"), 7);
	CHECK_EQ(answer("return stats stat-swap-in"), HOST_NO_VALUE);
	CHECK(answer("return last-update") >= option("now"));
	CHECK_EQ(ring->used.idx, 0); /* kept, until the host wants to know */

	for (uint32_t i = 1; i <= 5; i++) {
		request_stats();
		CHECK_EQ(answer("return"), 0);
		CHECK(ring_served(ring));
		request_stats();
		CHECK_EQ(answer("error"), 0); /* asked already */
		stats[0] = (struct stat){ 0, i };
		offer_stats(stats, sizeof(stats[0]));
		wait_for_updates(1 + i);
		CHECK_EQ(answer("return stats stat-swap-in"), i);
		CHECK_EQ(answer("return stats stat-free-memory"), HOST_NO_VALUE);
	}
	/* A period asks by itself, the first time at once. */
	ask("{\"execute\": \"x-ballast-set-stats-period\", \"arguments\": {\"seconds\": 100}}");
	CHECK(ring_served(ring));
	ask("{\"execute\": \"x-ballast-set-stats-period\", \"arguments\": {\"seconds\": 0}}");
	virtio_reset(&balloon);
	ask("{\"execute\": \"x-ballast-query-guest-stats\"}");
	CHECK_EQ(answer("return stats stat-swap-in"), HOST_NO_VALUE);
}

/* Free page reporting */

#define REPORTING_FEATURES (USUAL_FEATURES | FEATURE(F_REPORTING))

/* As one element of two ranges: [first, +4) pages and [first + 8, +2). */
static void report(unsigned int first)
{
	struct ring *ring = &rings[QUEUE_REPORTING];

	for (unsigned int n = first; n < first + 12; n++)
		page_mark(n);
	ring_describe(ring, 0, page(first), 4 * PAGE_SIZE, DESC_NEXT | DESC_WRITE, 1);
	ring_describe(ring, 1, page(first + 8), 2 * PAGE_SIZE, DESC_WRITE, 0);
	ring_offer(ring, 0);
	ring_kick(ring);
	CHECK(ring_served(ring));
}

static bool is_reported(unsigned int first, unsigned int n)
{
	return (n >= first && n < first + 4) || (n >= first + 8 && n < first + 10);
}

static void reported_pages_are_discarded(void)
{
	balloon_start(REPORTING_FEATURES);
	report(100);
	for (unsigned int n = 100; n < 112; n++) {
		if (is_reported(100, n))
			page_check_zero(n);
		else
			page_check_marked(n);
	}
	CHECK_EQ(host_memory("return reports bytes"), 6ull * PAGE_SIZE);
	CHECK_EQ(answer("return held"), 0); /* reported pages are the guest's */
	page_mark(100);
	wait_a_while();
	page_check_marked(100);
}

static void partial_pages_are_left_alone(void)
{
	struct ring *ring = &rings[QUEUE_REPORTING];

	for (unsigned int n = 120; n < 124; n++)
		page_mark(n);
	ring_describe(ring, 0, page(120) + 8, 3 * PAGE_SIZE, DESC_WRITE, 0);
	ring_offer(ring, 0);
	ring_kick(ring);
	CHECK(ring_served(ring));
	page_check_marked(120);
	page_check_zero(121);
	page_check_zero(122);
	page_check_marked(123);
}

static void poisoned_pages_keep_their_poison(void)
{
	uint64_t before = host_memory("return reports bytes");

	balloon_start(REPORTING_FEATURES | FEATURE(F_PAGE_POISON));
	write32(balloon.config + CONFIG_POISON, 0xaaaaaaaa);
	CHECK_EQ(config_word(CONFIG_POISON), 0xaaaaaaaa);
	report(140);
	for (unsigned int n = 140; n < 152; n++)
		page_check_marked(n);
	CHECK_EQ(host_memory("return reports bytes"), before);
	write32(balloon.config + CONFIG_POISON, 0);
	report(140);
	page_check_zero(140);
	/* Not negotiated: what is written is nothing. */
	balloon_start(REPORTING_FEATURES);
	write32(balloon.config + CONFIG_POISON, 0xaaaaaaaa);
	CHECK_EQ(config_word(CONFIG_POISON), 0);
	report(140);
	page_check_zero(140);
}

static void part_reporting(void)
{
	CHECK_EQ(read16(balloon.common + VIRTIO_PCI_COMMON_NUMQ), 4);
	CHECK(virtio_offered(&balloon) & FEATURE(F_REPORTING));
	CHECK(virtio_offered(&balloon) & FEATURE(F_DEFLATE_ON_OOM));
	reported_pages_are_discarded();
	partial_pages_are_left_alone();
	poisoned_pages_keep_their_poison();
	/* The queue keeps its number, whatever the driver takes of the rest. */
	balloon_start(FEATURE(VIRTIO_F_VERSION_1) | FEATURE(F_REPORTING));
	report(160);
	page_check_zero(160);
	/* Without its feature the queue is dead. */
	balloon_start(USUAL_FEATURES);
	ring_prepare(&rings[QUEUE_REPORTING], &balloon, QUEUE_REPORTING);
	ring_enable(&rings[QUEUE_REPORTING]);
	page_mark(160);
	ring_describe(&rings[QUEUE_REPORTING], 0, page(160), PAGE_SIZE, DESC_WRITE, 0);
	ring_offer(&rings[QUEUE_REPORTING], 0);
	ring_kick(&rings[QUEUE_REPORTING]);
	wait_a_while();
	page_check_marked(160);
}

/* Resets */

/* Once status reads 0, whatever was on its way, every page is the guest's. */
static void reset_in_the_middle_gives_all_back(void)
{
	struct ring *ring = &rings[QUEUE_INFLATE];

	for (unsigned int n = 0; n < 64; n++)
		numbers[n] = pfn(n);
	for (unsigned int round = 0; round < 30; round++) {
		balloon_start(USUAL_FEATURES);
		for (unsigned int i = 0; i < 8; i++) {
			ring_describe(ring, i, (uint64_t)(numbers + 8 * i), 32, 0, 0);
			ring_offer(ring, i);
		}
		ring_kick(ring);
		for (unsigned int i = 0; i < round; i++)
			__asm__ volatile("pause");
		virtio_reset(&balloon);
		uint16_t used = ring->used.idx;
		for (unsigned int n = 0; n < 64; n++)
			page_mark(n);
		if (round % 8 == 0)
			wait_a_while();
		for (unsigned int n = 0; n < 64; n++)
			page_check_marked(n);
		CHECK_EQ(ring->used.idx, used);
	}
	CHECK_EQ(host_memory("return held"), 0);
	CHECK_EQ(answer("return driver running"), 0);
}

static void part_reset(void)
{
	balloon_start(USUAL_FEATURES);
	write32(balloon.config + CONFIG_ACTUAL, 16);
	balloon_inflate(200, 16);
	CHECK_EQ(host_memory("return held"), 16ull * PAGE_SIZE);
	virtio_reset(&balloon);
	for (unsigned int n = 200; n < 216; n++)
		page_mark(n);
	wait_a_while();
	for (unsigned int n = 200; n < 216; n++)
		page_check_marked(n);
	CHECK_EQ(host_memory("return held"), 0);
	CHECK_EQ(answer("return actual"), 0);
	CHECK_EQ(config_word(CONFIG_ACTUAL), 0);
	for (unsigned int i = 0; i < 3; i++)
		CHECK_EQ(read16(virtio_queue_register(&balloon, i, VIRTIO_PCI_COMMON_Q_ENABLE)),
			 0);
	reset_in_the_middle_gives_all_back();
	balloon_still_serves();
}

#define BOOT_MARK 0x90000 /* in RAM, left alone by the loader */
#define BOOT_MARK_VALUE 0x6d61726b00000000

/* The guest resets the machine with its balloon full; the next boot has all of its memory. */
static void part_reboot(void)
{
	uint64_t boot = read64(BOOT_MARK) - BOOT_MARK_VALUE;

	if (boot > 100) {
		CHECK_EQ(read64(BOOT_MARK), 0);
		boot = 0;
	}
	CHECK_EQ(virtio_status(&balloon), 0);
	CHECK_EQ(config_word(CONFIG_ACTUAL), 0);
	CHECK_EQ(host_memory("return held"), 0);
	CHECK_EQ(answer("return actual"), 0);
	CHECK_EQ(answer("return driver running"), 0);
	for (unsigned int n = 0; n < 64; n++) {
		if (boot > 0)
			page_check_zero(n);
		page_mark(n);
	}
	wait_a_while();
	for (unsigned int n = 0; n < 64; n++)
		page_check_marked(n);
	if (boot == 3)
		return;
	balloon_start(USUAL_FEATURES);
	use_vectors();
	interrupts_off();
	write32(balloon.config + CONFIG_ACTUAL, 64);
	balloon_inflate(0, 512); /* a huge page, which goes at once */
	CHECK_EQ(host_memory("return reclaimed"), 512ull * PAGE_SIZE);
	write64(BOOT_MARK, BOOT_MARK_VALUE + boot + 1);
	out8(LAYOUT_RESET_PORT, 1);
	for (;;)
		__asm__ volatile("pause");
}

/* Four MiB given up, one of them taken back: the log adds it up at the end. */
static void part_figures(void)
{
	balloon_start(REPORTING_FEATURES);
	for (unsigned int i = 0; i < nitems(numbers); i++)
		numbers[i] = pfn(i);
	balloon_send(QUEUE_INFLATE, numbers, nitems(numbers));
	balloon_send(QUEUE_DEFLATE, numbers, PAGES_A_MIB);
	ring_describe(&rings[QUEUE_REPORTING], 0, page(2048), 2 * MIB, DESC_WRITE, 0);
	ring_offer(&rings[QUEUE_REPORTING], 0);
	ring_kick(&rings[QUEUE_REPORTING]);
	CHECK(ring_served(&rings[QUEUE_REPORTING]));
	CHECK_EQ(host_memory("return held"), 3 * MIB);
	CHECK_EQ(answer("return reclaimed"), 3 * MIB);
	CHECK_EQ(answer("return pinned"), 0);
	CHECK_EQ(answer("return elements inflate"), 1);
	CHECK_EQ(answer("return elements deflate"), 1);
	CHECK_EQ(answer("return elements reporting"), 1);
}

static const struct {
	const char *name;
	void (*run)(void);
} parts[] = {
	{ "identity", part_identity },   { "pages", part_pages },
	{ "huge", part_huge },           { "msix", part_msix },
	{ "intx", part_intx },           { "target", part_target },
	{ "actual", part_actual },       { "stats", part_stats },
	{ "reporting", part_reporting }, { "reset", part_reset },
	{ "reboot", part_reboot },       { "figures", part_figures },
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
