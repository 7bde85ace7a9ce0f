/* SPDX-License-Identifier: MIT */
/*
 * console.c - virtio-console as its driver sees it: output to a file, talk over a socket, the
 * window of a terminal; slow and absent readers, resets in mid-output, wrong chains.
 */
#include <linux/pci_regs.h>
#include <linux/virtio_ring.h>

#include "tests/guest/chains.h"

#define CONSOLE_TYPE 3u
#define CONSOLE_CLASS 0x07800000u
#define F_SIZE 0
#define F_EMERG_WRITE 2
#define EMERG_WRITE 8u /* in config space */
#define VECTOR_CONFIG 0x40
#define VECTOR_RECEIVE 0x41
#define VECTOR_TRANSMIT 0x42
#define QUEUE_SIZE 64u
#define PLAIN FEATURE(VIRTIO_F_VERSION_1)
#define ALL (PLAIN | FEATURE(VIRTIO_RING_F_INDIRECT_DESC) | FEATURE(VIRTIO_RING_F_EVENT_IDX))
#define OUTPUT ((uint8_t *)0x1800000) /* free RAM */
#define OUTPUT_SIZE 0x100000u
#define INPUT ((uint8_t *)0x2800000)
#define BOOT_MARK 0x90000 /* in RAM, left alone by the loader */
#define BOOT_MARK_VALUE 0x6e6f6320746f6f62ull

enum { RECEIVEQ, TRANSMITQ, NR_QUEUES };

static struct virtio_device console;
static struct ring rings[NR_QUEUES];
static struct ring *const receiveq = &rings[RECEIVEQ];
static struct ring *const transmitq = &rings[TRANSMITQ];
static struct ring_desc table[RING_SIZE] __attribute__((aligned(16)));
static volatile uint32_t config_hits, receive_hits, transmit_hits;

static void count_config(void)
{
	config_hits++;
	apic_eoi();
}

static void count_receive(void)
{
	receive_hits++;
	apic_eoi();
}

static void count_transmit(void)
{
	transmit_hits++;
	apic_eoi();
}

static void start(uint64_t features)
{
	CHECK(virtio_negotiate(&console, features));
	write16(console.common + VIRTIO_PCI_COMMON_MSIX, 0);
	for (unsigned int i = 0; i < NR_QUEUES; i++) {
		ring_prepare(&rings[i], &console, i);
		write16(virtio_queue_register(&console, i, VIRTIO_PCI_COMMON_Q_MSIX),
			(uint16_t)(1 + i));
		ring_enable(&rings[i]);
	}
	virtio_driver_ok(&console);
}

static void use_vectors(void)
{
	interrupt_handle(VECTOR_CONFIG, count_config);
	interrupt_handle(VECTOR_RECEIVE, count_receive);
	interrupt_handle(VECTOR_TRANSMIT, count_transmit);
	for (unsigned int i = 0; i <= NR_QUEUES; i++)
		msix_program(&console, i, VECTOR_CONFIG + i);
	msix_enable(&console);
	interrupts_on();
}

static void offer_output(uint64_t address, uint32_t size)
{
	ring_describe(transmitq, 2, address, size, 0, 0);
	ring_offer(transmitq, 2);
	ring_kick(transmitq);
}

static void send(uint64_t address, uint32_t size)
{
	offer_output(address, size);
	CHECK(ring_served(transmitq));
}

static void say(const char *text)
{
	uint32_t size = 0;

	while (text[size])
		size++;
	send((uint64_t)text, size);
}

/* One buffer, until something is in it: how much. */
static uint32_t receive(uint8_t *buffer, uint32_t size)
{
	uint16_t i = receiveq->used.idx % RING_SIZE;

	ring_describe(receiveq, 5, (uint64_t)buffer, size, DESC_WRITE, 0);
	ring_offer(receiveq, 5);
	ring_kick(receiveq);
	CHECK(ring_served(receiveq));
	CHECK(receiveq->used.ring[i].length > 0 && receiveq->used.ring[i].length <= size);
	return receiveq->used.ring[i].length;
}

/* To a file */

static void emergency_write(const char *text)
{
	for (; *text; text++)
		write32(console.config + EMERG_WRITE, 0xabcdef00u | (uint8_t)*text);
}

static void part_identity(void)
{
	CHECK_EQ(config_read(console.devfn, PCI_CLASS_REVISION) & 0xffff0000u, CONSOLE_CLASS);
	CHECK_EQ(read16(console.common + VIRTIO_PCI_COMMON_NUMQ), NR_QUEUES);
	for (unsigned int i = 0; i < NR_QUEUES; i++)
		CHECK_EQ(read16(virtio_queue_register(&console, i, VIRTIO_PCI_COMMON_Q_SIZE)),
			 QUEUE_SIZE);
	CHECK_EQ(virtio_offered(&console), ALL | FEATURE(F_EMERG_WRITE)); /* no window */
	virtio_reset(&console);
	emergency_write("no driver\n");
	start(PLAIN | FEATURE(F_EMERG_WRITE));
	CHECK_EQ(read32(console.config), 0);
	CHECK_EQ(read32(console.config + EMERG_WRITE), 0);
	say("a driver\n");
	emergency_write("both\n");
	say("");
	say("the end\n");
}

/* Chains of all kinds and sizes, by tables and without; each answered, in order. */
static void part_file(void)
{
	uint32_t sent = 0;

	use_vectors();
	start(ALL);
	for (uint32_t round = 0; sent < CONSOLE_SIZE; round++) {
		uint32_t size = round * 7919 % OUTPUT_SIZE;
		unsigned int pieces = 1 + round % 5;
		uint16_t from = transmitq->avail.idx;
		if (size > CONSOLE_SIZE - sent)
			size = CONSOLE_SIZE - sent;
		for (uint32_t i = 0; i < size; i++)
			OUTPUT[i] = CONSOLE_BYTE(sent + i);
		for (unsigned int i = 0; i < pieces; i++) {
			uint32_t at = size / pieces * i;
			uint32_t part = i + 1 < pieces ? size / pieces : size - at;
			uint16_t flags = i + 1 < pieces ? DESC_NEXT : 0;
			table[i] = (struct ring_desc){ (uint64_t)OUTPUT + at, part, flags,
						       (uint16_t)(i + 1) };
			ring_describe(transmitq, i, (uint64_t)OUTPUT + at, part, flags, i + 1);
		}
		if (round % 2)
			ring_describe(transmitq, 0, (uint64_t)table, pieces * 16, DESC_INDIRECT,
				      0);
		transmitq->avail.used_event = transmitq->used.idx;
		ring_offer(transmitq, 0);
		(void)ring_kick_if_wanted(transmitq, from); /* or it is still looking */
		CHECK(ring_served(transmitq));
		wait_for(&transmit_hits, round + 1);
		CHECK_EQ(transmit_hits, round + 1);
		sent += size;
	}
	CHECK_EQ(receive_hits, 0);
}

/* Over a socket */

/* What arrives goes back inverted. Buffers of all sizes, interrupts for each. */
static void part_echo(void)
{
	unsigned int done = 0;
	uint8_t byte = 0;

	use_vectors();
	start(ALL);
	CHECK_EQ(receive(&byte, 1), 1); /* before the client is there, output is dropped */
	CHECK_EQ(byte, 'h');
	wait_for(&receive_hits, 1);
	CHECK_EQ(receive_hits, 1);
	say("ready\n");
	for (unsigned int round = 0; done < SERIAL_INPUT_SIZE; round++) {
		receiveq->avail.used_event = receiveq->used.idx;
		uint32_t n = receive(INPUT, 1 + round * 37 % 100);
		wait_for(&receive_hits, 2 + round);
		CHECK_EQ(receive_hits, 2 + round);
		for (uint32_t i = 0; i < n; i++)
			INPUT[i] = (uint8_t)~INPUT[i];
		send((uint64_t)INPUT, n);
		done += n;
	}
	CHECK_EQ(done, SERIAL_INPUT_SIZE);
}

/* The other end reads nothing: that must not hold a processor up for long. */
static void part_stuck(void)
{
	uint8_t byte;

	start(ALL);
	(void)receive(&byte, 1); /* the client is there */
	for (unsigned int i = 0; i < 4; i++)
		send((uint64_t)OUTPUT, OUTPUT_SIZE);
	uint32_t from = milliseconds();
	for (unsigned int i = 0; i < 4; i++)
		say("nobody hears this\n");
	CHECK(milliseconds() - from < WAIT_MS / 2);
}

static void fill(uint8_t byte)
{
	for (uint32_t i = 0; i < OUTPUT_SIZE; i++)
		OUTPUT[i] = byte;
}

/* What a reset has given back to the driver is not looked at any more: no y is seen outside. */
static void part_reset(void)
{
	uint8_t byte;

	start(ALL);
	(void)receive(&byte, 1); /* the client is there */
	for (unsigned int i = 0; i < 60; i++) {
		fill('x');
		start(i % 2 ? ALL : PLAIN);
		offer_output((uint64_t)OUTPUT, OUTPUT_SIZE);
		for (volatile unsigned int wait = 0; wait < i * 500; wait++) {
		}
		virtio_reset(&console);
		fill('y');
	}
	start(ALL);
	say("the end\n");
}

static void part_reboot(void)
{
	uint64_t boot = read64(BOOT_MARK) - BOOT_MARK_VALUE;
	uint8_t byte;

	if (boot > 100) {
		CHECK_EQ(read64(BOOT_MARK), 0);
		boot = 0;
	}
	CHECK_EQ(virtio_status(&console), 0);
	start(ALL);
	if (boot == 0)
		(void)receive(&byte, 1); /* the client is there */
	if (boot == 3) {
		say("the end\n");
		return;
	}
	fill('x');
	offer_output((uint64_t)OUTPUT, OUTPUT_SIZE);
	write64(BOOT_MARK, BOOT_MARK_VALUE + boot + 1);
	out8(LAYOUT_RESET_PORT, 1);
	for (;;)
		__asm__ volatile("pause");
}

/* On a terminal */

static void say_number(unsigned int n)
{
	char digits[4] = { (char)('0' + n / 100 % 10), (char)('0' + n / 10 % 10),
			   (char)('0' + n % 10), '\0' };

	say(digits);
}

static void part_window(void)
{
	uint8_t byte;

	use_vectors();
	CHECK(virtio_offered(&console) & FEATURE(F_SIZE));
	start(ALL | FEATURE(F_SIZE));
	CHECK_EQ(read16(console.config), 100);
	CHECK_EQ(read16(console.config + 2), 30);
	uint8_t generation = read8(console.common + VIRTIO_PCI_COMMON_CFGGENERATION);
	CHECK_EQ(config_hits, 0);
	say("ready\n"); /* upon which it changes */
	wait_for(&config_hits, 1);
	CHECK_EQ(config_hits, 1);
	CHECK(read8(console.common + VIRTIO_PCI_COMMON_CFGGENERATION) != generation);
	say_number(read16(console.config));
	say("x");
	say_number(read16(console.config + 2));
	say("\n");
	CHECK_EQ(receive(&byte, 1), 1);
	CHECK_EQ(byte, 'q');
}

/* Wrong chains */

static void check_output(void)
{
	say("fine\n");
}

static void check_input(void)
{
	CHECK_EQ(receive(INPUT, 3), 3);
	CHECK_EQ(INPUT[0], 'i');
}

static void part_hostile(void)
{
	static const struct chain_victim output = { &console, &rings[TRANSMITQ], 0, start,
						    check_output };
	static const struct chain_victim input = { &console, &rings[RECEIVEQ], DESC_WRITE,
						   start, check_input };

	attack_chains(&output);
	start(PLAIN);
	check_input(); /* there is some now, and more than all of this takes */
	attack_chains(&input);
}

static const struct {
	const char *name;
	void (*run)(void);
} parts[] = {
	{ "identity", part_identity }, { "file", part_file },       { "echo", part_echo },
	{ "stuck", part_stuck },       { "reset", part_reset },     { "reboot", part_reboot },
	{ "window", part_window },     { "hostile", part_hostile },
};

int guest_main(void)
{
	virtio_find(&console, CONSOLE_TYPE);
	for (unsigned int i = 0; i < nitems(parts); i++) {
		if (option_is("part", parts[i].name)) {
			parts[i].run();
			return 0;
		}
	}
	guest_fail(HERE, "no such part");
}
