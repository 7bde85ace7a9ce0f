/* SPDX-License-Identifier: MIT */
/*
 * power.c - the ways a guest ends, one a run: which one the command line says.
 */
#include "tests/guest/guest.h"

#define SLEEP_CONTROL (LAYOUT_POWER_PORT + 0)
#define SLEEP_STATUS (LAYOUT_POWER_PORT + 1)
#define RESET (LAYOUT_POWER_PORT + 2)
#define SLEEP_ENABLE 0x20
#define S5 (5 << 2)
#define PANICKED 1
#define CRASH_LOADED 2
#define VECTOR 0x40

/* What `end=` says. */
enum { EXIT, OFF, RESTART, BUTTON, HANG, PANIC, CRASH_KERNEL };

static volatile uint32_t presses;

static void stop(void)
{
	for (;;)
		__asm__ volatile("cli; hlt");
}

/* Everything next to the right value does nothing: "now" is printed all the same. */
static void switch_off(void)
{
	CHECK_EQ(in8(SLEEP_STATUS), 0);
	out8(SLEEP_CONTROL, S5);
	out8(SLEEP_CONTROL, SLEEP_ENABLE | 3 << 2);
	out16(SLEEP_CONTROL, SLEEP_ENABLE | S5);
	wait_a_while();
	print("now\n");
	out8(SLEEP_CONTROL, SLEEP_ENABLE | S5);
	stop();
}

static void restart(void)
{
	out8(RESET, 0);
	out8(RESET, 2);
	wait_a_while();
	print("now\n");
	out8(RESET, 1);
	stop();
}

static void handle_press(void)
{
	presses++;
	apic_eoi();
}

static int press_button(void)
{
	interrupt_handle(VECTOR, handle_press);
	ioapic_route(LAYOUT_POWER_GSI, VECTOR, 0, 0);
	interrupts_on();
	CHECK_EQ(in8(LAYOUT_POWER_EVENT_PORT), 0);
	for (uint32_t i = 1; i <= 3; i++) {
		out32(HOST_PRESS, 1);
		wait_for(&presses, i);
		wait_a_while();
		CHECK_EQ(presses, i);
		CHECK_EQ(in8(LAYOUT_POWER_EVENT_PORT), 1);
		CHECK_EQ(in8(LAYOUT_POWER_EVENT_PORT), 0);
	}
	return 0;
}

static void panic(void)
{
	CHECK_EQ(in8(LAYOUT_PANIC_PORT), PANICKED | CRASH_LOADED);
	out8(LAYOUT_PANIC_PORT, 0xfc); /* nothing that anybody knows */
	wait_a_while();
	print("now\n");
	out8(LAYOUT_PANIC_PORT, PANICKED);
	stop();
}

/* Ends as it likes: the crash kernel has taken over. */
static int let_crash_kernel_take_over(void)
{
	out8(LAYOUT_PANIC_PORT, CRASH_LOADED);
	wait_a_while();
	return (int)option("status");
}

int guest_main(void)
{
	switch (option("end")) {
	case EXIT: CHECK_EQ(in8(LAYOUT_EXIT_PORT), 0); return (int)option("status");
	case OFF: switch_off(); break;
	case RESTART: restart(); break;
	case BUTTON: return press_button();
	case PANIC: panic(); break;
	case CRASH_KERNEL: return let_crash_kernel_take_over();
	default: stop();
	}
	return 1;
}
