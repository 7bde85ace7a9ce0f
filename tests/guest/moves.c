/* SPDX-License-Identifier: MIT */
/*
 * moves.c - a BAR that is mapped into the guest moves, is sized, is switched off and on, while two
 * other processors are at it all the time. None of them ever gets to where it no longer is.
 */
#include <linux/pci_regs.h>

#include "tests/guest/guest.h"

#define DEV SLOT(TEST_SLOT_A)
#define BAR PCI_BASE_ADDRESS_5
#define NOTHING 0xffffffffu
#define IDENTITY TEST_IDENTITY(TEST_SLOT_A, TEST_BAR_MAPPED)
#define STORAGE 0x40
#define NR_OTHERS 2u
#define ROUNDS 8u

static const uint32_t places[] = { LAYOUT_MEM32_BASE + 0x8000000,
				   LAYOUT_MEM32_BASE + 0x9000000 };
static volatile uint32_t looks[1 + NR_OTHERS];
static volatile uint32_t found[1 + NR_OTHERS];

/* Never asks where it is: it is there and is itself, or there is nothing. */
static void use_for_ever(unsigned int id)
{
	for (;; looks[id]++) {
		for (unsigned int i = 0; i < nitems(places); i++) {
			uint32_t seen = read32(places[i]);
			CHECK(seen == NOTHING || seen == IDENTITY);
			write32(places[i] + STORAGE, id);
			found[id] += seen == IDENTITY;
		}
	}
}

/* Each of the others has been at both places since. */
static void wait_for_others(void)
{
	for (unsigned int id = 1; id <= NR_OTHERS; id++) {
		uint32_t before = looks[id];
		/* Two: the first may have been on its way. */
		while (looks[id] - before < 2)
			__asm__ volatile("pause");
	}
}

static void is_nowhere(void)
{
	for (unsigned int i = 0; i < nitems(places); i++)
		CHECK_EQ(read32(places[i]), NOTHING);
	wait_for_others();
}

static void is_at(unsigned int place)
{
	CHECK_EQ(read32(places[place]), IDENTITY);
	CHECK_EQ(read32(places[place] + TEST_MAPPED_WORD), TEST_MAPPED);
	CHECK_EQ(read32(places[!place]), NOTHING);
	wait_for_others();
}

static void move(unsigned int place)
{
	config_write(DEV, BAR, places[place]);
	is_at(place);
	config_write(DEV, BAR, NOTHING); /* sized, and decoded all the while */
	is_nowhere();
	config_write(DEV, BAR, places[place]);
	is_at(place);
	config_command(DEV, 0);
	is_nowhere();
	config_write(DEV, BAR, places[!place]);
	is_nowhere();
	config_command(DEV, PCI_COMMAND_MEMORY);
	is_at(!place);
}

int guest_main(void)
{
	config_write(DEV, BAR, places[0]);
	config_command(DEV, PCI_COMMAND_MEMORY);
	smp_start(1 + NR_OTHERS, use_for_ever);
	for (unsigned int round = 0; round < ROUNDS; round++)
		move(round % 2);
	for (unsigned int id = 1; id <= NR_OTHERS; id++)
		CHECK(found[id] > 0);
	return 0;
}
