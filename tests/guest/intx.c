/* SPDX-License-Identifier: MIT */
/*
 * intx.c - a level-triggered PCI interrupt line: up until the device is quiet, raised again at
 * the EOI if it is not, shared by nobody here.
 *
 * A software KVM (see the runner) delivers a level more than once, so that there only the
 * lower bounds are checked, and that the line falls silent; with exact=1, the exact counts.
 */
#include <linux/pci_regs.h>

#include "tests/guest/guest.h"

#define DEV SLOT(TEST_SLOT_A)
#define PIN (16 + TEST_SLOT_A)
#define VECTOR 0x45
#define LEVEL (IOAPIC_LEVEL | IOAPIC_ACTIVE_LOW)

static volatile uint32_t hits;
static volatile uint32_t quiet_after; /* the handler clears the device at this hit */
static uint64_t registers;

static void handle(void)
{
	hits++;
	if (hits >= quiet_after)
		write32(registers + TEST_CLEAR_INTX, 0);
	apic_eoi();
}

static void raise(void)
{
	write32(registers + TEST_SET_INTX, 0);
}

static bool exact;

static void check_count(uint32_t got, uint32_t want)
{
	if (exact)
		CHECK_EQ(got, want);
	CHECK(got >= want);
}

/* The device hears of an EOI on a thread of the host. */
static void check_resamples(uint32_t want)
{
	uint32_t from = milliseconds();

	while (read32(registers + TEST_RESAMPLES) < want && milliseconds() - from < WAIT_MS) {
	}
	check_count(read32(registers + TEST_RESAMPLES), want);
}

/* That many, and then silence. */
static void expect_hits(uint32_t want)
{
	uint32_t from = milliseconds();

	while (hits < want && milliseconds() - from < WAIT_MS) {
	}
	wait_a_while();
	check_count(hits, want);
	uint32_t before = hits;
	wait_a_while();
	CHECK_EQ(hits, before);
}

static void one_raise_one_interrupt(void)
{
	hits = 0;
	quiet_after = 1;
	uint32_t resamples = read32(registers + TEST_RESAMPLES);
	raise();
	expect_hits(1);
	check_resamples(resamples + 1);
	CHECK(!(ioapic_entry(PIN) & IOAPIC_REMOTE_IRR));
}

static void many_raises_many_interrupts(void)
{
	for (unsigned int i = 0; i < 10; i++) {
		hits = 0;
		raise();
		expect_hits(1);
	}
}

/* Not quiet at the EOI: the line is sampled again, and is still up. */
static void level_comes_again(void)
{
	hits = 0;
	quiet_after = 5;
	uint32_t resamples = read32(registers + TEST_RESAMPLES);
	raise();
	expect_hits(5);
	check_resamples(resamples + 5);
	quiet_after = 1;
}

static void masked_waits(void)
{
	hits = 0;
	ioapic_route(PIN, VECTOR, 0, LEVEL | IOAPIC_MASKED);
	raise();
	wait_a_while();
	CHECK_EQ(hits, 0);
	ioapic_route(PIN, VECTOR, 0, LEVEL);
	expect_hits(1);
}

int guest_main(void)
{
	exact = option("exact");
	config_command(DEV, PCI_COMMAND_MEMORY);
	registers = bar_address(DEV, TEST_BAR_REGISTERS);
	interrupt_handle(VECTOR, handle);
	ioapic_route(PIN, VECTOR, 0, LEVEL);
	interrupts_on();
	one_raise_one_interrupt();
	many_raises_many_interrupts();
	level_comes_again();
	masked_waits();
	return 0;
}
