/* SPDX-License-Identifier: MIT */
/*
 * msix.c - message interrupts from a device of ours: masked they pend, unmasked they arrive
 * exactly once, and where the table says at that moment.
 */
#include <linux/pci_regs.h>

#include "tests/guest/guest.h"

#define DEV SLOT(TEST_SLOT_A)
#define CONTROL (TEST_MSIX_CAP + PCI_MSIX_FLAGS)
#define VECTOR_0 0x40
#define VECTOR_1 0x41
#define VECTOR_2 0x42
#define MANY 200u

static volatile uint32_t hits[3];
static volatile uint32_t hits_by_ap[3];
static volatile uint32_t ap_ready;
static uint64_t registers;
static uint64_t wide;

static void count(unsigned int which)
{
	if (apic_id() == 0)
		hits[which]++;
	else
		hits_by_ap[which]++;
	apic_eoi();
}

static void handle_0(void)
{
	count(0);
}

static void handle_1(void)
{
	count(1);
}

static void handle_2(void)
{
	count(2);
}

static void wait_for_interrupts(unsigned int id)
{
	(void)id;
	ap_ready = 1;
	for (;;)
		halt();
}

static uint64_t entry(unsigned int index)
{
	return wide + TEST_MSIX_TABLE + index * 16;
}

static void program(unsigned int index, unsigned int vector, unsigned int id)
{
	write32(entry(index), LAYOUT_LAPIC_BASE | id << 12);
	write32(entry(index) + 4, 0);
	write32(entry(index) + 8, vector);
}

static void mask(unsigned int index)
{
	write32(entry(index) + 12, 1);
}

static void unmask(unsigned int index)
{
	write32(entry(index) + 12, 0);
}

static void raise(unsigned int index)
{
	write32(registers + TEST_RAISE_MSIX, index);
}

static uint64_t pending(void)
{
	return read64(wide + TEST_MSIX_PBA);
}

static void control(uint16_t value)
{
	write16(ecam(DEV, CONTROL), value);
}

static void expect(const volatile uint32_t *hit, uint32_t want)
{
	wait_for(hit, want);
	wait_a_while();
	CHECK_EQ(*hit, want);
}

static void table_starts_masked(void)
{
	CHECK_EQ(read16(ecam(DEV, CONTROL)), TEST_MSIX_VECTORS - 1);
	CHECK_EQ(config_read(DEV, TEST_MSIX_CAP + PCI_MSIX_TABLE),
		 TEST_MSIX_TABLE | TEST_BAR_WIDE);
	CHECK_EQ(config_read(DEV, TEST_MSIX_CAP + PCI_MSIX_PBA), TEST_MSIX_PBA | TEST_BAR_WIDE);
	for (unsigned int i = 0; i < TEST_MSIX_VECTORS; i++)
		CHECK_EQ(read32(entry(i) + 12), 1);
	CHECK_EQ(pending(), 0);
}

static void table_takes_aligned_dwords_and_qwords(void)
{
	write64(entry(3), 0x1122334455667788);
	CHECK_EQ(read32(entry(3)), 0x55667788);
	CHECK_EQ(read32(entry(3) + 4), 0x11223344);
	write32(entry(3) + 12, 0xfffffffe); /* reserved bits stay 0; the mask bit clears */
	CHECK_EQ(read32(entry(3) + 12), 0);
	write32(entry(3) + 12, 0xffffffff);
	CHECK_EQ(read32(entry(3) + 12), 1);
	write16(entry(3), 0);
	write8(entry(3), 0);
	CHECK_EQ(read64(entry(3)), 0x1122334455667788);
	CHECK_EQ(read16(entry(3)), 0xffff);
	write64(wide + TEST_MSIX_PBA, UINT64_MAX);
	CHECK_EQ(pending(), 0);
}

static void nothing_arrives_while_off(void)
{
	unmask(0);
	raise(0);
	wait_a_while();
	CHECK_EQ(hits[0], 0);
	CHECK_EQ(pending(), 0);
	mask(0);
}

static void unmasked_arrives_once(void)
{
	control(PCI_MSIX_FLAGS_ENABLE);
	unmask(0);
	raise(0);
	expect(&hits[0], 1);
	CHECK_EQ(pending(), 0);
	/* One after the other, so that no two may merge. */
	for (uint32_t i = 0; i < MANY; i++) {
		raise(0);
		wait_for(&hits[0], 2 + i);
		CHECK_EQ(hits[0], 2 + i);
	}
}

static void masked_pends_and_arrives_once(void)
{
	uint32_t before = hits[0];

	mask(0);
	raise(0);
	raise(0); /* a pending bit holds one */
	wait_a_while();
	CHECK_EQ(hits[0], before);
	CHECK_EQ(pending(), 1);
	unmask(0);
	expect(&hits[0], before + 1);
	CHECK_EQ(pending(), 0);
	mask(0);
	unmask(0);
	expect(&hits[0], before + 1);
}

/* Raised before it was ever unmasked: pends just as well. */
static void never_unmasked_pends(void)
{
	raise(1);
	wait_a_while();
	CHECK_EQ(pending(), 2);
	unmask(1);
	expect(&hits[1], 1);
	CHECK_EQ(pending(), 0);
}

static void function_mask_holds_all(void)
{
	uint32_t before_0 = hits[0];
	uint32_t before_1 = hits[1];

	control(PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL);
	raise(0);
	raise(1);
	wait_a_while();
	CHECK_EQ(hits[0], before_0);
	CHECK_EQ(hits[1], before_1);
	CHECK_EQ(pending(), 3);
	control(PCI_MSIX_FLAGS_ENABLE);
	expect(&hits[0], before_0 + 1);
	expect(&hits[1], before_1 + 1);
	CHECK_EQ(pending(), 0);
}

static void retargeting_takes_effect(void)
{
	uint32_t before = hits[0];

	/* Another vector, unmasked all along, then another processor while masked and pending. */
	program(0, VECTOR_2, 0);
	raise(0);
	expect(&hits[2], 1);
	mask(0);
	raise(0);
	program(0, VECTOR_1, 1);
	unmask(0);
	expect(&hits_by_ap[1], 1);
	CHECK_EQ(hits[2], 1);
	for (uint32_t i = 0; i < 20; i++) {
		raise(0);
		wait_for(&hits_by_ap[1], 2 + i);
		CHECK_EQ(hits_by_ap[1], 2 + i);
	}
	program(0, VECTOR_0, 0);
	CHECK_EQ(hits[0], before);
	raise(0);
	expect(&hits[0], before + 1);
}

/* The two devices' vectors are not each other's. */
static void devices_do_not_mix(void)
{
	uint64_t other_registers = bar_address(SLOT(TEST_SLOT_B), TEST_BAR_REGISTERS);
	uint32_t before = hits[0];

	config_command(SLOT(TEST_SLOT_B), PCI_COMMAND_MEMORY);
	write32(other_registers + TEST_RAISE_MSIX, 0);
	wait_a_while();
	CHECK_EQ(hits[0], before);
	raise(TEST_MSIX_VECTORS); /* beyond the table */
	wait_a_while();
	CHECK_EQ(hits[0], before);
}

/* Off: what pends is forgotten, and what comes is dropped. On again: nothing old arrives. */
static void disabling_forgets(void)
{
	uint32_t before = hits[0];

	mask(0);
	raise(0);
	CHECK_EQ(pending(), 1);
	control(0);
	CHECK_EQ(pending(), 0);
	unmask(0);
	raise(0);
	control(PCI_MSIX_FLAGS_ENABLE);
	wait_a_while();
	CHECK_EQ(hits[0], before);
	raise(0);
	expect(&hits[0], before + 1);
}

int guest_main(void)
{
	config_command(DEV, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	registers = bar_address(DEV, TEST_BAR_REGISTERS);
	wide = bar_address(DEV, TEST_BAR_WIDE);
	map_high(wide);
	interrupt_handle(VECTOR_0, handle_0);
	interrupt_handle(VECTOR_1, handle_1);
	interrupt_handle(VECTOR_2, handle_2);
	smp_start(2, wait_for_interrupts);
	wait_for(&ap_ready, 1);
	CHECK_EQ(ap_ready, 1);
	interrupts_on();

	table_starts_masked();
	table_takes_aligned_dwords_and_qwords();
	program(0, VECTOR_0, 0);
	program(1, VECTOR_1, 0);
	nothing_arrives_while_off();
	unmasked_arrives_once();
	masked_pends_and_arrives_once();
	never_unmasked_pends();
	function_mask_holds_all();
	retargeting_takes_effect();
	devices_do_not_mix();
	disabling_forgets();
	return 0;
}
