/* SPDX-License-Identifier: MIT */
/*
 * storm.c - a guest that does anything to every device at once, from one processor or several: all
 * registers and ports, queues whose chains and rings lie where they must not, config space, MSI-X, BARs
 * over RAM, ECAM, the APIC and each other, and resets in the middle of it. Half of the time all
 * processors are at one device, which the seed names. Afterwards all devices still serve.
 *
 * What it does is as random as its seed. It spares itself: no device is told to write over this
 * guest, the balloon is offered no page of it, and the ports that end it are left alone.
 */
#include <linux/pci_regs.h>

#include "tests/guest/balloon_driver.h"

#define VECTOR 0x41
#define SINK ARENA /* a MiB that devices may write to */
#define SINK_SIZE 0x100000u
#define PAGES (ARENA + 0x200000) /* that the balloon may have */
#define BOOT_MARK 0x90000        /* in RAM, left alone by the loader */
#define NR_BOOTS 3
#define NR_DEVICES 5u
#define NR_RINGS 4u
#define RNG_TYPE 4
#define RTC_PORT 0x70
#define PIC_MASK 0x21
#define PIC2_MASK 0xa1
#define EVERYTHING UINT32_MAX /* the actions of who plays no role */
#define AT_ALL 16u            /* so many rounds at any device, and then as many at the one */

enum { NET, BLK, CONSOLE, RNG, BALLOON };

static const uint8_t blk_types[] = { 0, 1, 4, 8, 11, 13, 99 };
static const uint8_t types[NR_DEVICES] = { 1, 2, 3, RNG_TYPE, BALLOON_TYPE };
static struct virtio_device devices[NR_DEVICES];
static struct ring all_rings[NR_DEVICES][NR_RINGS];
static uint32_t saved[NR_DEVICES][64];
static uint32_t numbers[256];
static struct {
	uint32_t type, reserved;
	uint64_t sector;
} headers[16];
static volatile uint32_t nr_done;

struct dice {
	uint32_t state;   /* never 0, which would stay 0 */
	uint32_t actions; /* a bit for each it may take */
};

static uint32_t roll(struct dice *dice)
{
	dice->state ^= dice->state << 13;
	dice->state ^= dice->state >> 17;
	dice->state ^= dice->state << 5;
	return dice->state;
}

static uint32_t below(struct dice *dice, uint32_t n)
{
	return (roll(dice) >> 3) % n;
}

/* Where there is no RAM, or it ends. */
static uint64_t no_place(struct dice *dice)
{
	const uint64_t places[] = {
		option("memory"),   option("memory") - 8, LAYOUT_HOLE_BASE, LAYOUT_ECAM_BASE,
		LAYOUT_LAPIC_BASE,  LAYOUT_HIGH_BASE,     1ull << 46,       1ull << 63,
		UINT64_MAX,         UINT64_MAX - 15,      devices[0].base,  LAYOUT_MEM32_BASE,
		LAYOUT_IOAPIC_BASE,
	};

	return places[below(dice, nitems(places))];
}

static void kick_queue(unsigned int i, uint32_t queue)
{
	write16(devices[i].notify + queue * devices[i].notify_multiplier, (uint16_t)queue);
}

static void kick(struct dice *dice, unsigned int i)
{
	kick_queue(i, below(dice, 8) ? below(dice, NR_RINGS + 1) : roll(dice) & 0x3ff);
}

/* Of the balloon's rings, if it is the balloon: what others have been given is no list of pages. */
static struct ring *a_ring(struct dice *dice, unsigned int i)
{
	unsigned int whose = i == BALLOON ? i : below(dice, BALLOON);

	return &all_rings[whose][below(dice, NR_RINGS)];
}

static void poke_queue(struct dice *dice, unsigned int i)
{
	const struct ring *ring = a_ring(dice, i);
	const uint64_t common = devices[i].common;
	const struct {
		uint32_t at;
		uint64_t address;
	} areas[] = { { VIRTIO_PCI_COMMON_Q_DESCLO, (uint64_t)&ring->desc },
		      { VIRTIO_PCI_COMMON_Q_AVAILLO, (uint64_t)&ring->avail },
		      { VIRTIO_PCI_COMMON_Q_USEDLO, (uint64_t)&ring->used } };
	unsigned int area = below(dice, nitems(areas));

	write16(common + VIRTIO_PCI_COMMON_Q_SELECT, (uint16_t)below(dice, NR_RINGS + 1));
	switch (below(dice, 4)) {
	case 0:
		virtio_write_address(common + areas[area].at,
				     below(dice, 3) ? areas[area].address : no_place(dice));
		break;
	case 1:
		write16(common + VIRTIO_PCI_COMMON_Q_SIZE, (uint16_t)(1u << below(dice, 10)));
		break;
	case 2: write16(common + VIRTIO_PCI_COMMON_Q_ENABLE, (uint16_t)below(dice, 3)); break;
	default: write16(common + VIRTIO_PCI_COMMON_Q_MSIX, (uint16_t)below(dice, 9)); break;
	}
}

static void describe(struct dice *dice, unsigned int i, struct ring *ring, unsigned int n)
{
	uint64_t address = SINK + below(dice, SINK_SIZE - 0x10000);
	uint32_t length = below(dice, 8) ? below(dice, 0x2000) : roll(dice) & 0xffff;

	if (n == 0 && i == BLK) {
		address = (uint64_t)&headers[below(dice, nitems(headers))];
		length = below(dice, 4) ? 16 : below(dice, 40);
	}
	if (i == BALLOON) {
		address = (uint64_t)numbers;
		length = 4 * below(dice, nitems(numbers) + 1);
	}
	unsigned int flags = n == 0 ? DESC_NEXT : below(dice, 4);
	if (n > 0 && below(dice, 4) == 0)
		flags |= DESC_INDIRECT;
	if (flags & DESC_INDIRECT)
		address = (uint64_t)all_rings[i][below(dice, NR_RINGS)].desc;
	if (below(dice, 8) == 0)
		address = no_place(dice);
	ring_describe(ring, n, address, length, flags,
		      below(dice, 4) ? n + 1 : below(dice, RING_SIZE + 2));
}

/* As a driver would, but that nobody waits for anything, and another may be at it as well. */
static void start(struct dice *dice, unsigned int i)
{
	const struct virtio_device *d = &devices[i];

	virtio_set_status(d, 0);
	virtio_set_status(d, VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER);
	write32(d->common + VIRTIO_PCI_COMMON_GFSELECT, 0);
	write32(d->common + VIRTIO_PCI_COMMON_GF,
		read32(d->common + VIRTIO_PCI_COMMON_DF) & roll(dice));
	write32(d->common + VIRTIO_PCI_COMMON_GFSELECT, 1);
	write32(d->common + VIRTIO_PCI_COMMON_GF, 1);
	virtio_set_status(d, 0xb);
	for (unsigned int n = 0; n < NR_RINGS; n++) {
		ring_prepare(&all_rings[i][n], d, n);
		ring_enable(&all_rings[i][n]);
	}
	virtio_set_status(d, 0xf);
}

static void move_home(unsigned int i)
{
	for (unsigned int bar = 0; bar < 6; bar++)
		config_write(devices[i].devfn, PCI_BASE_ADDRESS_0 + 4 * bar,
			     saved[i][PCI_BASE_ADDRESS_0 / 4 + bar]);
	config_command(devices[i].devfn, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
}

static void offer(struct dice *dice, unsigned int i)
{
	unsigned int queue =
		below(dice, 2) ? 0 : below(dice, NR_RINGS); /* all have the first */
	struct ring *ring = &all_rings[i][queue];

	/* The rest of the storm leaves few at work, and nobody looks at what those are offered. */
	if (dice->actions == EVERYTHING && below(dice, 8) &&
	    virtio_status(&devices[i]) != 0xf) {
		move_home(i);
		start(dice, i);
	}
	for (unsigned int n = 0; n < 4; n++)
		describe(dice, i, ring, n);
	ring_offer(ring, below(dice, 8) ? 0 : below(dice, RING_SIZE * 2));
	if (below(dice, 16) == 0)
		ring->avail.idx = (uint16_t)roll(dice);
	kick_queue(i, queue);
}

static void poke_status(struct dice *dice, unsigned int i)
{
	virtio_set_status(&devices[i], below(dice, 2) ? 0 : (uint8_t)roll(dice));
}

static void access(struct dice *dice, uint64_t at)
{
	switch (below(dice, 4)) {
	case 0: write8(at, (uint8_t)roll(dice)); break;
	case 1: write16(at, (uint16_t)roll(dice)); break;
	case 2: write32(at, roll(dice)); break;
	default: write64(at, roll(dice)); break;
	}
	(void)read32(at);
}

/* Of its BAR, but for the MSI-X table and where the rings lie, which are written with more care. */
static uint64_t register_of(struct dice *dice, unsigned int i)
{
	const struct virtio_device *d = &devices[i];
	const uint64_t places[] = { d->common, d->isr, d->config, d->notify };
	uint64_t at = places[below(dice, nitems(places))] - d->base + below(dice, 24);

	return below(dice, 8) ? at : 64 + below(dice, (uint32_t)(d->msix_table - d->base) - 72);
}

static void poke_register(struct dice *dice, unsigned int i)
{
	access(dice, devices[i].base + register_of(dice, i));
}

/* To this guest's vector, or to nobody: what an interrupt does to a processor is not asked here. */
static void poke_msix(struct dice *dice, unsigned int i)
{
	uint64_t at = devices[i].msix_table + below(dice, 12) * 16;

	write32(at, LAYOUT_LAPIC_BASE | (below(dice, 2) ? 0 : (roll(dice) & 0xff000)));
	write32(at + 4, below(dice, 4) ? 0 : roll(dice));
	write32(at + 8, VECTOR);
	write32(at + 12, below(dice, 3));
	write16(ecam(devices[i].devfn, devices[i].msix + PCI_MSIX_FLAGS), (uint16_t)roll(dice));
}

static void poke_config(struct dice *dice, unsigned int i)
{
	/* Or another function's, which there may not be. */
	unsigned int devfn = below(dice, 8) ? devices[i].devfn : roll(dice) & 0xff;

	access(dice, ecam(devfn, below(dice, 4) ? below(dice, 256) : below(dice, 4088)));
	out32(0xcf8, 0x80000000u | devices[i].devfn << 8 | below(dice, 64) * 4);
	out8((uint16_t)(0xcfc + below(dice, 4)), (uint8_t)roll(dice));
	(void)in32(0xcfc);
}

/* Over RAM, which is the sink then, ECAM, the APICs, another's BAR, or somewhere free; and uses it there. */
static void poke_bar(struct dice *dice, unsigned int i)
{
	const uint64_t places[] = { SINK,
				    LAYOUT_ECAM_BASE,
				    LAYOUT_LAPIC_BASE,
				    LAYOUT_IOAPIC_BASE,
				    devices[below(dice, NR_DEVICES)].base,
				    LAYOUT_MEM32_BASE + below(dice, 16) * 0x1000ull,
				    LAYOUT_MEM32_LAST + 1 - 0x4000 };
	uint64_t to = places[below(dice, nitems(places))];
	uint32_t at = PCI_BASE_ADDRESS_0 + 4 * devices[i].bar;

	config_write(devices[i].devfn, at, (uint32_t)to);
	config_write(devices[i].devfn, at + 4, (uint32_t)(to >> 32));
	if (to == SINK || to >= LAYOUT_HIGH_BASE ||
	    (to >= LAYOUT_MEM32_BASE && to < LAYOUT_IOAPIC_BASE))
		access(dice, to + register_of(dice, i));
	if (below(dice, 2))
		move_home(i);
}

static void go_home(struct dice *dice, unsigned int i)
{
	(void)dice;
	move_home(i);
}

static void poke_command(struct dice *dice, unsigned int i)
{
	config_command(devices[i].devfn, (uint16_t)roll(dice));
	kick(dice, i);
	config_command(devices[i].devfn, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
}

/* The window upon any of its BARs, and beyond. */
static void poke_window(struct dice *dice, unsigned int i)
{
	unsigned int at = devices[i].window;

	write8(ecam(devices[i].devfn, at + VIRTIO_PCI_CAP_BAR), (uint8_t)below(dice, 8));
	config_write(devices[i].devfn, at + VIRTIO_PCI_CAP_OFFSET,
		     below(dice, 8) ? (uint32_t)register_of(dice, i) : 0x80000000 | roll(dice));
	config_write(devices[i].devfn, at + VIRTIO_PCI_CAP_LENGTH, below(dice, 6));
	access(dice, ecam(devices[i].devfn, at + 16));
}

static void access_port(struct dice *dice, uint16_t at)
{
	switch (below(dice, 3)) {
	case 0: out8(at, (uint8_t)roll(dice)); break;
	case 1: out16(at, (uint16_t)roll(dice)); break;
	default: out32(at, roll(dice)); break;
	}
	(void)in8(at);
	(void)in16(at);
	(void)in32(at);
}

/* Serial port, clock, config space, the power button's event, and where nobody is. */
static void poke_port(struct dice *dice, unsigned int i)
{
	const uint16_t ports[] = { (uint16_t)(LAYOUT_SERIAL_PORT + below(dice, 8)),
				   (uint16_t)(RTC_PORT + below(dice, 2)),
				   (uint16_t)(0xcf8 + below(dice, 8)), LAYOUT_POWER_EVENT_PORT,
				   (uint16_t)(LAYOUT_IO_BASE + below(dice, LAYOUT_IO_SIZE)) };

	(void)i;
	access_port(dice, ports[below(dice, nitems(ports))]);
}

static void (*const actions[])(struct dice *dice, unsigned int i) = {
	kick,      poke_queue,  offer,    offer,   start,        poke_status, poke_register,
	poke_msix, poke_config, poke_bar, go_home, poke_command, poke_window, poke_port,
};

/* So many rounds, or for so long, if the command line says how long. */
static void rage(struct dice *dice, uint64_t rounds)
{
	const uint32_t duration = (uint32_t)option("seconds") * 1000;
	const unsigned int one = (unsigned int)(option("seed") % NR_DEVICES);
	const uint32_t from = milliseconds();

	for (uint64_t n = 0; duration ? milliseconds() - from < duration : n < rounds;) {
		unsigned int action = below(dice, nitems(actions));
		if (!(dice->actions & 1u << action))
			continue;
		actions[action](dice,
				n % (2 * AT_ALL) < AT_ALL ? below(dice, NR_DEVICES) : one);
		n++;
	}
}

static void count_nothing(void)
{
	apic_eoi();
}

static void run_ap(unsigned int id)
{
	/* In roles: one starts and resets, one moves BARs, one kicks and offers. */
	static const uint32_t roles[] = { 0x32, 0xe00, 0xd };
	struct dice dice = { ((uint32_t)option("seed") * 2654435761u + 2 * id) | 1,
			     EVERYTHING };

	if (option_is("part", "roles"))
		dice.actions = roles[(id - 1) % nitems(roles)];
	rage(&dice, option("rounds"));
	__atomic_add_fetch(&nr_done, 1, __ATOMIC_SEQ_CST);
}

/* What this guest needs to be left alone with. */
static void find_all(void)
{
	for (unsigned int i = 0; i < NR_DEVICES; i++) {
		virtio_find(&devices[i], types[i]);
		for (unsigned int n = 0; n < 64; n++)
			saved[i][n] = config_read(devices[i].devfn, 4 * n);
	}
	for (unsigned int i = 0; i < nitems(numbers); i++)
		numbers[i] = (uint32_t)(i % 8 ? PAGES / PAGE_SIZE + i : 0xfffffff0 + i % 16);
	/* Behind the sector that the runner looks at. */
	for (unsigned int i = 0; i < nitems(headers); i++) {
		headers[i].type = blk_types[i % nitems(blk_types)];
		headers[i].sector = i < 12 ? DISK_PROOF_SECTOR + 1 + 37 * i : UINT64_MAX - i;
	}
}

static void check_rng(void)
{
	struct ring *ring = &all_rings[RNG][0];

	CHECK(virtio_negotiate(&devices[RNG], FEATURE(VIRTIO_F_VERSION_1)));
	ring_prepare(ring, &devices[RNG], 0);
	ring_enable(ring);
	virtio_driver_ok(&devices[RNG]);
	ring_describe(ring, 0, SINK, 64, DESC_WRITE, 0);
	ring_offer(ring, 0);
	ring_kick(ring);
	CHECK(ring_served(ring));
	CHECK_EQ(ring->used.ring[0].length, 64);
}

static void check_all(void)
{
	for (unsigned int i = 0; i < NR_DEVICES; i++) {
		move_home(i);
		msix_disable(&devices[i]);
	}
	for (unsigned int i = 0; i < NR_DEVICES; i++) {
		move_home(i); /* where another may have been before */
		CHECK_EQ(config_read(devices[i].devfn, PCI_VENDOR_ID), saved[i][0]);
		CHECK(virtio_negotiate(&devices[i], FEATURE(VIRTIO_F_VERSION_1)));
		virtio_driver_ok(&devices[i]);
		CHECK_EQ(virtio_status(&devices[i]), 0xf);
		virtio_reset(&devices[i]);
	}
	check_rng();
	balloon = devices[BALLOON];
	balloon_still_serves();
	virtio_reset(&balloon);
	CHECK_EQ(host_memory("return held"), 0);
}

int guest_main(void)
{
	unsigned int nr_cpus = (unsigned int)option("cpus");
	uint64_t boot = read64(BOOT_MARK);
	struct dice dice = { ((uint32_t)option("seed") + (uint32_t)boot * 0x9e3779b9u) | 1,
			     EVERYTHING };

	print("seed ");
	print_hex(option("seed"));
	print("\n");
	find_all();
	out8(PIC_MASK, 0xff); /* what the serial port asks for would come as a fault */
	out8(PIC2_MASK, 0xff);
	interrupt_handle(VECTOR, count_nothing);
	interrupts_on();
	if (nr_cpus > 1)
		smp_start(nr_cpus, run_ap);
	if (option_is("part", "reboot") && boot < NR_BOOTS) {
		rage(&dice, option("rounds") / 2); /* the others are at it still */
		write64(BOOT_MARK, boot + 1);
		out8(LAYOUT_RESET_PORT, 1);
	}
	rage(&dice, option("rounds"));
	while (nr_done < nr_cpus - 1)
		(void)milliseconds();
	interrupts_off();
	check_all();
	return 0;
}
