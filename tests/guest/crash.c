/* SPDX-License-Identifier: MIT */
/*
 * crash.c - a processor that cannot go on: which way, the command line says.
 */
#include "tests/guest/guest.h"

#define NOWHERE (LAYOUT_MEM32_BASE + 0x3000000)

/* What `crash=` says. */
enum { TRIPLE_FAULT, TRIPLE_FAULT_OF_AP, RUN_NOWHERE };

static void triple_fault(void)
{
	const struct {
		uint16_t limit;
		uint64_t base;
	} __attribute__((packed)) none = { 0 };

	__asm__ volatile("lidt %0\n\t"
			 "mov $0xdeadbeef, %%eax\n\t"
			 "ud2"
			 :
			 : "m"(none)
			 : "rax");
}

static void crash_ap(unsigned int id)
{
	(void)id;
	triple_fault();
}

int guest_main(void)
{
	switch (option("crash")) {
	case TRIPLE_FAULT: triple_fault(); break;
	case TRIPLE_FAULT_OF_AP: smp_start(2, crash_ap); break;
	default:
		/* Instructions from where no memory is: KVM can neither run nor emulate them. */
		((void (*)(void))NOWHERE)();
	}
	/* The other processor crashes when it gets to run. */
	for (;;)
		__asm__ volatile("pause");
}
