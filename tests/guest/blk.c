/* SPDX-License-Identifier: MIT */
/*
 * blk.c - a disk as a bare-metal driver sees it, one that keeps the rules and one that does not;
 * one part of it a run, as the command line says. The runner's image: contract.h.
 */
#include <linux/pci_regs.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_ring.h>

#include "tests/guest/virtio.h"

#define BLK_TYPE 2u
#define MAX_QUEUES 2u
#define SECTOR 512u
#define MIB (1ull << 20)
#define ARENA 0x1800000ull /* free RAM, for data */
#define MAX_REQUESTS 16u
#define VECTOR(queue) (0x40u + (queue))
#define VECTOR_CONFIG 0x4fu

#define USUAL_FEATURES                                                    \
	(FEATURE(VIRTIO_F_VERSION_1) | FEATURE(VIRTIO_RING_F_EVENT_IDX) | \
	 FEATURE(VIRTIO_RING_F_INDIRECT_DESC) | FEATURE(VIRTIO_BLK_F_FLUSH))
#define MORE_FEATURES \
	(USUAL_FEATURES | FEATURE(VIRTIO_BLK_F_DISCARD) | FEATURE(VIRTIO_BLK_F_WRITE_ZEROES))

static struct virtio_device blk;
static struct ring rings[MAX_QUEUES];
static volatile uint32_t hits[MAX_QUEUES];
static volatile uint32_t config_hits;

/* What a request needs besides its data, and the table that names all of it. */
static struct request {
	struct ring_desc table[4];
	struct virtio_blk_outhdr header;
	volatile uint8_t status;
} requests[MAX_REQUESTS] __attribute__((aligned(64)));

static void count_first(void)
{
	hits[0]++;
	apic_eoi();
}

static void count_second(void)
{
	hits[1]++;
	apic_eoi();
}

static void count_config(void)
{
	config_hits++;
	apic_eoi();
}

static uint64_t capacity(void)
{
	return read32(blk.config) | (uint64_t)read32(blk.config + 4) << 32;
}

/* From a reset to DRIVER_OK, all queues on, a vector each. */
static void start(uint64_t features)
{
	uint16_t nr_queues = read16(blk.common + VIRTIO_PCI_COMMON_NUMQ);

	CHECK(virtio_negotiate(&blk, features));
	interrupt_handle(VECTOR(0), count_first);
	interrupt_handle(VECTOR(1), count_second);
	interrupt_handle(VECTOR_CONFIG, count_config);
	for (unsigned int i = 0; i < nr_queues; i++)
		msix_program(&blk, i, VECTOR(i));
	msix_program(&blk, nr_queues, VECTOR_CONFIG);
	msix_enable(&blk);
	write16(blk.common + VIRTIO_PCI_COMMON_MSIX, nr_queues);
	for (unsigned int i = 0; i < nr_queues; i++) {
		ring_prepare(&rings[i], &blk, i);
		/* The event index behind the ring: an interrupt for the first one used. */
		write16((uint64_t)&rings[i].avail + 4 + 2 * RING_SIZE, 0);
		write16(virtio_queue_register(&blk, i, VIRTIO_PCI_COMMON_Q_MSIX), (uint16_t)i);
		ring_enable(&rings[i]);
	}
	interrupts_on();
	virtio_driver_ok(&blk);
}

/* An interrupt for whatever is used next. */
static void ask_for_interrupt(unsigned int queue)
{
	write16((uint64_t)&rings[queue].avail + 4 + 2 * RING_SIZE, rings[queue].used.idx);
}

static void entry(struct ring_desc *desc, uint64_t address, uint32_t length, unsigned int flags,
		  unsigned int next)
{
	desc->address = address;
	desc->length = length;
	desc->flags = (uint16_t)flags;
	desc->next = (uint16_t)next;
}

/* Request n, in an indirect table, its data in one piece; offered and not kicked. */
static void offer(unsigned int queue, unsigned int n, uint32_t type, uint64_t sector,
		  uint64_t data, uint32_t size)
{
	struct request *rq = &requests[n];
	bool reads = type == VIRTIO_BLK_T_IN || type == VIRTIO_BLK_T_GET_ID;
	unsigned int last = size ? 2 : 1;

	rq->header.type = type;
	rq->header.ioprio = 0;
	rq->header.sector = sector;
	rq->status = 0xff;
	entry(&rq->table[0], (uint64_t)&rq->header, sizeof(rq->header), DESC_NEXT, 1);
	entry(&rq->table[1], data, size, DESC_NEXT | (reads ? DESC_WRITE : 0), 2);
	entry(&rq->table[last], (uint64_t)&rq->status, 1, DESC_WRITE, 0);
	ring_describe(&rings[queue], n, (uint64_t)rq->table,
		      (last + 1) * (uint32_t)sizeof(rq->table[0]), DESC_INDIRECT, 0);
	ring_offer(&rings[queue], n);
}

/* One from start to end, by its interrupt; the status. */
static uint8_t request(unsigned int queue, uint32_t type, uint64_t sector, uint64_t data,
		       uint32_t size)
{
	uint32_t before = hits[queue];

	ask_for_interrupt(queue);
	offer(queue, 0, type, sector, data, size);
	ring_kick(&rings[queue]);
	wait_for(&hits[queue], before + 1);
	CHECK_EQ(hits[queue], before + 1);
	CHECK(ring_served(&rings[queue]));
	return requests[0].status;
}

static void fill(uint64_t at, uint32_t size, uint8_t value)
{
	for (uint32_t i = 0; i < size; i += 8)
		write64(at + i, 0x0101010101010101ull * value);
}

static void check_filled(uint64_t at, uint32_t size, uint8_t value)
{
	for (uint32_t i = 0; i < size; i += 8)
		CHECK_EQ(read64(at + i), 0x0101010101010101ull * value);
}

/* As the runner made it. */
static void check_sectors(uint64_t at, uint64_t sector, uint32_t nr)
{
	for (uint32_t i = 0; i < nr; i++)
		check_filled(at + i * SECTOR, SECTOR, (uint8_t)DISK_BYTE(sector + i));
}

static void still_serves(void)
{
	start(USUAL_FEATURES);
	fill(ARENA, 2 * SECTOR, 0);
	CHECK_EQ(request(0, VIRTIO_BLK_T_IN, 3, ARENA, 2 * SECTOR), VIRTIO_BLK_S_OK);
	check_sectors(ARENA, 3, 2);
	CHECK_EQ(virtio_status(&blk) & VIRTIO_CONFIG_S_NEEDS_RESET, 0);
}

/* Parts */

static void part_identity(void)
{
	uint64_t offered = virtio_offered(&blk);
	uint64_t wanted = MORE_FEATURES | FEATURE(VIRTIO_BLK_F_MQ) |
			  FEATURE(VIRTIO_BLK_F_SEG_MAX) | FEATURE(VIRTIO_BLK_F_BLK_SIZE);

	CHECK_EQ(config_read(blk.devfn, PCI_CLASS_REVISION) >> 8, 0x010000);
	CHECK_EQ(read16(blk.common + VIRTIO_PCI_COMMON_NUMQ), option("cpus"));
	CHECK_EQ(offered & wanted, wanted);
	CHECK_EQ(offered & FEATURE(VIRTIO_BLK_F_RO), 0);
	CHECK_EQ(capacity(), DISK_SIZE / SECTOR);
	CHECK_EQ(read16(blk.config + offsetof(struct virtio_blk_config, num_queues)),
		 option("cpus"));
	CHECK_EQ(read32(blk.config + offsetof(struct virtio_blk_config, seg_max)), 254);
	CHECK_EQ(read32(blk.config + offsetof(struct virtio_blk_config, blk_size)), SECTOR);
	start(USUAL_FEATURES);
	CHECK_EQ(request(0, VIRTIO_BLK_T_GET_ID, 0, ARENA, 20), VIRTIO_BLK_S_OK);
	CHECK_EQ(read32(ARENA), 0x7473656d); /* "mest" */
	CHECK_EQ(read16(ARENA + 4), '1');
}

static void part_transfer(void)
{
	start(MORE_FEATURES);
	CHECK_EQ(request(0, VIRTIO_BLK_T_IN, 5, ARENA, 64 * SECTOR), VIRTIO_BLK_S_OK);
	check_sectors(ARENA, 5, 64);
	fill(ARENA, 8 * SECTOR, 0x5a);
	CHECK_EQ(request(1, VIRTIO_BLK_T_OUT, 100, ARENA, 8 * SECTOR), VIRTIO_BLK_S_OK);
	CHECK_EQ(request(0, VIRTIO_BLK_T_FLUSH, 0, 0, 0), VIRTIO_BLK_S_OK);
	CHECK_EQ(request(0, VIRTIO_BLK_T_IN, 99, ARENA, 10 * SECTOR), VIRTIO_BLK_S_OK);
	check_sectors(ARENA, 99, 1);
	check_filled(ARENA + SECTOR, 8 * SECTOR, 0x5a);
	check_sectors(ARENA + 9 * SECTOR, 108, 1);
	/* All of it, and no more. */
	uint64_t last = capacity() - 1;
	CHECK_EQ(request(0, VIRTIO_BLK_T_IN, last, ARENA, SECTOR), VIRTIO_BLK_S_OK);
	check_sectors(ARENA, last, 1);
	CHECK_EQ(request(0, VIRTIO_BLK_T_IN, last, ARENA, 2 * SECTOR), VIRTIO_BLK_S_IOERR);
	CHECK_EQ(request(0, VIRTIO_BLK_T_OUT, last + 1, ARENA, SECTOR), VIRTIO_BLK_S_IOERR);
	CHECK_EQ(request(0, VIRTIO_BLK_T_IN, ~0ull, ARENA, SECTOR), VIRTIO_BLK_S_IOERR);
	CHECK_EQ(request(0, VIRTIO_BLK_T_IN, 0, ARENA, SECTOR + 1), VIRTIO_BLK_S_IOERR);
	CHECK_EQ(request(0, 99, 0, ARENA, SECTOR), VIRTIO_BLK_S_UNSUPP);
	/* Zeros, and a hole. */
	static struct virtio_blk_discard_write_zeroes range = { .sector = 201,
								.num_sectors = 30 };
	CHECK_EQ(request(0, VIRTIO_BLK_T_WRITE_ZEROES, 0, (uint64_t)&range, sizeof(range)),
		 VIRTIO_BLK_S_OK);
	range.sector = 240;
	range.flags = VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP;
	CHECK_EQ(request(0, VIRTIO_BLK_T_WRITE_ZEROES, 0, (uint64_t)&range, sizeof(range)),
		 VIRTIO_BLK_S_OK);
	CHECK_EQ(request(0, VIRTIO_BLK_T_DISCARD, 0, (uint64_t)&range, sizeof(range)),
		 VIRTIO_BLK_S_UNSUPP);
	range.flags = 0;
	CHECK_EQ(request(0, VIRTIO_BLK_T_DISCARD, 0, (uint64_t)&range, sizeof(range)),
		 VIRTIO_BLK_S_OK);
	CHECK_EQ(request(0, VIRTIO_BLK_T_IN, 200, ARENA, 100 * SECTOR), VIRTIO_BLK_S_OK);
	check_sectors(ARENA, 200, 1);
	check_filled(ARENA + SECTOR, 30 * SECTOR, 0);
	check_sectors(ARENA + 31 * SECTOR, 231, 9);
	check_filled(ARENA + 40 * SECTOR, 30 * SECTOR, 0);
	check_sectors(ARENA + 70 * SECTOR, 270, 30);
	/* What the runner looks at when we are gone. */
	fill(ARENA, SECTOR, DISK_PROOF_BYTE);
	CHECK_EQ(request(0, VIRTIO_BLK_T_OUT, DISK_PROOF_SECTOR, ARENA, SECTOR),
		 VIRTIO_BLK_S_OK);
}

/* Many at once on both queues; each comes back once, with what it asked for. */
static void part_queues(void)
{
	start(USUAL_FEATURES);
	for (unsigned int round = 0; round < 20; round++) {
		uint32_t before[] = { hits[0], hits[1] };
		for (unsigned int n = 0; n < MAX_REQUESTS; n++)
			offer(n % 2, n, VIRTIO_BLK_T_IN, round * 100 + n * 3,
			      ARENA + n * 2 * SECTOR, 2 * SECTOR);
		fill(ARENA, 2 * SECTOR * MAX_REQUESTS, 0xee);
		ask_for_interrupt(0);
		ask_for_interrupt(1);
		ring_kick(&rings[round % 2]);
		ring_kick(&rings[1 - round % 2]);
		CHECK(ring_served(&rings[0]) && ring_served(&rings[1]));
		for (unsigned int i = 0; i < 2; i++) {
			wait_for(&hits[i], before[i] + 1);
			CHECK_EQ(hits[i], before[i] + 1);
		}
		for (unsigned int n = 0; n < MAX_REQUESTS; n++) {
			CHECK_EQ(requests[n].status, VIRTIO_BLK_S_OK);
			check_sectors(ARENA + n * 2 * SECTOR, round * 100 + n * 3, 2);
		}
	}
}

static void part_readonly(void)
{
	CHECK(virtio_offered(&blk) & FEATURE(VIRTIO_BLK_F_RO));
	CHECK_EQ(virtio_offered(&blk) & FEATURE(VIRTIO_BLK_F_DISCARD), 0);
	start(USUAL_FEATURES | FEATURE(VIRTIO_BLK_F_RO));
	fill(ARENA, SECTOR, DISK_PROOF_BYTE);
	CHECK_EQ(request(0, VIRTIO_BLK_T_OUT, DISK_PROOF_SECTOR, ARENA, SECTOR),
		 VIRTIO_BLK_S_IOERR);
	CHECK_EQ(request(0, VIRTIO_BLK_T_IN, DISK_PROOF_SECTOR, ARENA, SECTOR),
		 VIRTIO_BLK_S_OK);
	check_sectors(ARENA, DISK_PROOF_SECTOR, 1);
	CHECK_EQ(request(0, VIRTIO_BLK_T_FLUSH, 0, 0, 0), VIRTIO_BLK_S_OK);
}

static void part_grow(void)
{
	start(USUAL_FEATURES);
	CHECK_EQ(request(0, VIRTIO_BLK_T_IN, DISK_SIZE / SECTOR, ARENA, SECTOR),
		 VIRTIO_BLK_S_IOERR);
	uint8_t generation = read8(blk.common + VIRTIO_PCI_COMMON_CFGGENERATION);
	out32(HOST_RESIZE, DISK_SIZE + MIB + 1);
	wait_for(&config_hits, 1);
	CHECK_EQ(config_hits, 1);
	CHECK(read8(blk.common + VIRTIO_PCI_COMMON_CFGGENERATION) != generation);
	CHECK_EQ(capacity(), (DISK_SIZE + MIB) / SECTOR);
	fill(ARENA, SECTOR, 0xee);
	CHECK_EQ(request(0, VIRTIO_BLK_T_IN, DISK_SIZE / SECTOR, ARENA, SECTOR),
		 VIRTIO_BLK_S_OK);
	check_filled(ARENA, SECTOR, 0);
	out32(HOST_RESIZE, MIB);
	wait_for(&config_hits, 2);
	CHECK_EQ(capacity(), MIB / SECTOR);
	CHECK_EQ(request(0, VIRTIO_BLK_T_IN, MIB / SECTOR, ARENA, SECTOR), VIRTIO_BLK_S_IOERR);
}

/* Once status reads 0 nothing that was on its way is written any more. */
static void part_reset(void)
{
	for (unsigned int round = 0; round < 12; round++) {
		start(USUAL_FEATURES);
		for (unsigned int n = 0; n < MAX_REQUESTS; n++)
			offer(0, n, VIRTIO_BLK_T_IN, n * 16, ARENA + n * 256 * SECTOR,
			      256 * SECTOR);
		ring_kick(&rings[0]);
		for (unsigned int i = 0; i < round * 20; i++)
			__asm__ volatile("pause");
		virtio_reset(&blk);
		uint16_t used = rings[0].used.idx;
		for (uint64_t at = ARENA; at < ARENA + 2 * MIB; at += 4096)
			write64(at, 0x6d61726b00000000 | at);
		if (round % 4 == 0)
			wait_a_while();
		for (uint64_t at = ARENA; at < ARENA + 2 * MIB; at += 4096)
			CHECK_EQ(read64(at), 0x6d61726b00000000 | at);
		CHECK_EQ(rings[0].used.idx, used);
	}
	still_serves();
}

#define BOOT_MARK 0x90000 /* in RAM, left alone by the loader */
#define BOOT_MARK_VALUE 0x6d61726b00000000

/* The guest resets the machine with reads under way: the next boot's memory is its own. */
static void part_reboot(void)
{
	uint64_t boot = read64(BOOT_MARK) - BOOT_MARK_VALUE;

	if (boot > 100)
		boot = 0;
	CHECK_EQ(virtio_status(&blk), 0);
	for (uint64_t at = ARENA; at < ARENA + 2 * MIB; at += 4096)
		write64(at, at);
	wait_a_while();
	for (uint64_t at = ARENA; at < ARENA + 2 * MIB; at += 4096)
		CHECK_EQ(read64(at), at);
	still_serves();
	if (boot == 3)
		return;
	start(USUAL_FEATURES);
	for (unsigned int n = 0; n < MAX_REQUESTS; n++)
		offer(n % 2, n, VIRTIO_BLK_T_IN, n * 16, ARENA + n * 256 * SECTOR,
		      256 * SECTOR);
	ring_kick(&rings[0]);
	ring_kick(&rings[1]);
	interrupts_off();
	write64(BOOT_MARK, BOOT_MARK_VALUE + boot + 1);
	out8(LAYOUT_RESET_PORT, 1);
	for (;;)
		__asm__ volatile("pause");
}

/* Rules broken */

static struct ring *const ring = &rings[0];

static void header(uint32_t type, uint64_t sector)
{
	requests[0].header.type = type;
	requests[0].header.sector = sector;
	requests[0].status = 0xff;
}

static void send_two(uint64_t first, uint32_t first_size, uint64_t second, uint32_t second_size,
		     unsigned int second_flags)
{
	ring_describe(ring, 0, first, first_size, DESC_NEXT, 1);
	ring_describe(ring, 1, second, second_size, second_flags, 2);
	ring_offer(ring, 0);
	ring_kick(ring);
}

static void no_status(void)
{
	header(VIRTIO_BLK_T_FLUSH, 0);
	send_two((uint64_t)&requests[0].header, 8, (uint64_t)&requests[0].header + 8, 8, 0);
}

static void status_nowhere(void)
{
	header(VIRTIO_BLK_T_FLUSH, 0);
	send_two((uint64_t)&requests[0].header, 16, LAYOUT_HOLE_BASE, 1, DESC_WRITE);
}

static void status_in_a_bar(void)
{
	header(VIRTIO_BLK_T_FLUSH, 0);
	send_two((uint64_t)&requests[0].header, 16, blk.base, 1, DESC_WRITE);
}

static void status_empty(void)
{
	header(VIRTIO_BLK_T_FLUSH, 0);
	send_two((uint64_t)&requests[0].header, 16, (uint64_t)&requests[0].status, 0,
		 DESC_WRITE);
}

static void writable_before_readable(void)
{
	header(VIRTIO_BLK_T_FLUSH, 0);
	ring_describe(ring, 0, (uint64_t)&requests[0].status, 1, DESC_WRITE | DESC_NEXT, 1);
	ring_describe(ring, 1, (uint64_t)&requests[0].header, 16, 0, 0);
	ring_offer(ring, 0);
	ring_kick(ring);
}

static void a_loop(void)
{
	ring_describe(ring, 0, (uint64_t)&requests[0].header, 16, DESC_NEXT, 1);
	ring_describe(ring, 1, ARENA, 512, DESC_NEXT, 0);
	ring_offer(ring, 0);
	ring_kick(ring);
}

static void index_runs_away(void)
{
	ring->avail.idx += RING_SIZE + 1;
	ring_kick(ring);
}

static void the_same_again_and_again(void)
{
	header(VIRTIO_BLK_T_FLUSH, 0);
	for (unsigned int i = 0; i < 50; i++)
		send_two((uint64_t)&requests[0].header, 16, (uint64_t)&requests[0].status, 1,
			 DESC_WRITE);
}

static void breaks_it(void (*attack)(void))
{
	start(USUAL_FEATURES);
	attack();
	CHECK(virtio_breaks(&blk));
	still_serves();
}

/* Buffers that are no RAM, or not all of it: an error each, and nothing else happens. */
static void bad_buffers(void)
{
	const uint64_t places[] = {
		option("memory"), option("memory") - 256, LAYOUT_HOLE_BASE,  LAYOUT_ECAM_BASE,
		blk.base,         LAYOUT_LAPIC_BASE,      ~0ull - 100,       1ull << 40,
		LAYOUT_HIGH_BASE, LAYOUT_IOAPIC_BASE,     LAYOUT_MEM32_BASE,
	};

	start(MORE_FEATURES);
	for (unsigned int i = 0; i < nitems(places); i++) {
		CHECK_EQ(request(0, VIRTIO_BLK_T_IN, 0, places[i], SECTOR), VIRTIO_BLK_S_IOERR);
		CHECK_EQ(request(0, VIRTIO_BLK_T_OUT, 0, places[i], SECTOR),
			 VIRTIO_BLK_S_IOERR);
		CHECK_EQ(request(0, VIRTIO_BLK_T_GET_ID, 0, places[i], 512),
			 i == 1 ? VIRTIO_BLK_S_OK : VIRTIO_BLK_S_IOERR);
		CHECK_EQ(request(0, VIRTIO_BLK_T_DISCARD, 0, places[i], 16),
			 VIRTIO_BLK_S_IOERR);
	}
	CHECK_EQ(request(0, VIRTIO_BLK_T_IN, 0, ARENA, 0xfffffe00), VIRTIO_BLK_S_IOERR);
	CHECK_EQ(read32(ecam(blk.devfn, PCI_VENDOR_ID)) & 0xffff, VIRTIO_VENDOR);
	CHECK_EQ(request(0, VIRTIO_BLK_T_IN, 0, ARENA, SECTOR), VIRTIO_BLK_S_OK);
	check_sectors(ARENA, 0, 1);
}

static void part_hostile(void)
{
	fill(option("memory") - 256, 256, 0xff); /* where no sector is */
	breaks_it(no_status);
	breaks_it(status_nowhere);
	breaks_it(status_in_a_bar);
	breaks_it(status_empty);
	breaks_it(writable_before_readable);
	breaks_it(a_loop);
	breaks_it(index_runs_away);
	bad_buffers(); /* of which the log soon has enough */
	start(USUAL_FEATURES);
	the_same_again_and_again();
	wait_a_while();
	still_serves();
	/* Queues where no RAM is. */
	CHECK(virtio_negotiate(&blk, USUAL_FEATURES));
	ring_prepare(ring, &blk, 0);
	virtio_write_address(blk.common + VIRTIO_PCI_COMMON_Q_DESCLO, blk.base);
	virtio_write_address(blk.common + VIRTIO_PCI_COMMON_Q_AVAILLO, LAYOUT_HOLE_BASE);
	ring_enable(ring);
	virtio_driver_ok(&blk);
	ring_kick(ring);
	CHECK(virtio_breaks(&blk));
	still_serves();
}

static const struct {
	const char *name;
	void (*run)(void);
} parts[] = {
	{ "identity", part_identity }, { "transfer", part_transfer }, { "queues", part_queues },
	{ "readonly", part_readonly }, { "grow", part_grow },         { "reset", part_reset },
	{ "reboot", part_reboot },     { "hostile", part_hostile },
};

int guest_main(void)
{
	virtio_find(&blk, BLK_TYPE);
	for (unsigned int i = 0; i < nitems(parts); i++) {
		if (option_is("part", parts[i].name)) {
			parts[i].run();
			return 0;
		}
	}
	guest_fail(HERE, "no such part");
}
