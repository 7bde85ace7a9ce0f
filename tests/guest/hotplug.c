/* SPDX-License-Identifier: MIT */
/*
 * hotplug.c - a device goes and comes back, again and again, while another processor is at it all
 * the time.
 */
#include <linux/pci_regs.h>

#include "tests/guest/guest.h"

#define DEV SLOT(TEST_SLOT_B)
#define ID (TEST_DEVICE << 16 | TEST_VENDOR)
#define NOTHING 0xffffffffu
#define BIT (1u << TEST_SLOT_B)
#define APPEARED (HOST_HOTPLUG + 0)
#define ASKED (HOST_HOTPLUG + 4)
#define EJECT (HOST_HOTPLUG + 8)
#define EVENT_HOTPLUG 2
#define VECTOR 0x40
#define PLACE (LAYOUT_MEM32_BASE + 0x8000000)
#define ROUNDS 10u

static volatile uint32_t events;
static volatile uint32_t seen_there;
static volatile uint32_t seen_gone;

static void handle_event(void)
{
	events++;
	apic_eoi();
}

/* Never asks whether it is there: it is, and is itself, or there is nothing. */
static void use_for_ever(unsigned int id)
{
	(void)id;
	for (;;) {
		uint32_t config = config_read(DEV, PCI_VENDOR_ID);
		uint32_t memory = read32(PLACE);
		CHECK(config == ID || config == NOTHING);
		CHECK(memory == NOTHING ||
		      memory == TEST_IDENTITY(TEST_SLOT_B, TEST_BAR_REGISTERS));
		if (memory == NOTHING)
			seen_gone++;
		else
			seen_there++;
	}
}

/* The other processor has looked since. */
static void wait_for_more(const volatile uint32_t *count)
{
	uint32_t before = *count;

	/* Two: the first may have been on its way. */
	while (*count - before < 2)
		__asm__ volatile("pause");
}

static void place(void)
{
	bar_move(DEV, TEST_BAR_REGISTERS, PLACE);
	config_command(DEV, PCI_COMMAND_MEMORY);
	CHECK_EQ(read32(PLACE), TEST_IDENTITY(TEST_SLOT_B, TEST_BAR_REGISTERS));
	wait_for_more(&seen_there);
}

/* What the interrupt is for; `port` of the two says which slot. */
static void expect_event(uint32_t nr, uint16_t port)
{
	wait_for(&events, nr);
	CHECK_EQ(events, nr);
	CHECK_EQ(in8(LAYOUT_POWER_EVENT_PORT), EVENT_HOTPLUG);
	CHECK_EQ(in8(LAYOUT_POWER_EVENT_PORT), 0);
	CHECK_EQ(in32(APPEARED), port == APPEARED ? BIT : 0);
	CHECK_EQ(in32(ASKED), port == ASKED ? BIT : 0);
	CHECK_EQ(in32(port), 0);
}

static void let_go(void)
{
	CHECK_EQ(in32(EJECT), BIT);
	out32(EJECT, ~BIT);
	out8(EJECT, BIT);
	CHECK_EQ(config_read(DEV, PCI_VENDOR_ID), ID);
	out32(EJECT, BIT);
	CHECK_EQ(config_read(DEV, PCI_VENDOR_ID), NOTHING);
	CHECK_EQ(read32(PLACE), NOTHING);
	CHECK_EQ(in32(EJECT), 0);
	out32(EJECT, BIT); /* once more: there is nothing any more */
	wait_for_more(&seen_gone);
}

int guest_main(void)
{
	interrupt_handle(VECTOR, handle_event);
	ioapic_route(LAYOUT_POWER_GSI, VECTOR, 0, 0);
	interrupts_on();
	CHECK_EQ(in32(APPEARED) | in32(ASKED) | in32(EJECT), 0);
	out32(EJECT, NOTHING);
	CHECK_EQ(config_read(DEV, PCI_VENDOR_ID), ID);
	smp_start(2, use_for_ever);
	for (uint32_t i = 0; i < ROUNDS; i++) {
		place();
		out32(HOST_UNPLUG, 1);
		expect_event(2 * i + 1, ASKED);
		let_go();
		out32(HOST_PLUG, 1);
		expect_event(2 * i + 2, APPEARED);
		CHECK_EQ(config_read(DEV, PCI_VENDOR_ID), ID);
		CHECK_EQ(bar_address(DEV, TEST_BAR_REGISTERS), 0);
		CHECK_EQ(read32(PLACE), NOTHING);
	}
	return 0;
}
