/* SPDX-License-Identifier: MIT */
/*
 * power.h - what switches the machine off and on again: the sleep control register and the
 * reset register of hardware-reduced ACPI (ACPI 6.4, 4.8.3.7 and 4.8.3.6), the power button
 * behind a Generic Event Device (5.6.9), QEMU's pvpanic port, and, when asked for, the test exit
 * port.
 *
 *	base + 0  sleep control: SLP_TYPx in bits 2-4, SLP_EN bit 5; S5 is type 5
 *	base + 1  sleep status: always 0
 *	base + 2  reset: POWER_RESET_VALUE resets
 *	base + 3  events: bit 0 power button, bit 1 hot-plug (hotplug.h); reading clears
 *	0x64      a keyboard controller's command port, of which only the reset line is there:
 *	          writing 0xfe resets (Linux with reboot=k)
 *	panic     pvpanic (QEMU's docs/specs/pvpanic): reading tells which events there are, bit 0 the
 *	          guest panicked, bit 1 it panicked and a crash kernel of its own takes over; writing
 *	          tells of one. One byte; Linux' driver finds it by ACPI as QEMU0001
 *	exit      a byte, or the low one of what is written, is the guest's own exit status: unlike
 *	          QEMU's isa-debug-exit, of whose value v comes the status v * 2 + 1
 *
 * Threads: any. The handler is called on the vCPU's thread that wrote.
 */
#ifndef DEVICES_POWER_H
#define DEVICES_POWER_H

#include <stdbool.h>

#include "devices/io_bus.h"
#include "devices/irq.h"

#define POWER_RESET_VALUE 1u
#define POWER_SLEEP_TYPE_S5 5u
#define POWER_EVENT_BUTTON 1u
#define POWER_EVENT_HOTPLUG 2u

enum power_event { POWER_OFF, POWER_RESET, POWER_EXIT, POWER_PANIC, POWER_CRASH_LOADED };

struct power_handler {
	/* `code` is what was written to the exit port, with POWER_EXIT. */
	void (*requested)(void *opaque, enum power_event event, uint8_t code);
	void *opaque;
};

struct power {
	struct io_bus *pio; /* borrowed; NULL: not initialised */
	struct io_region ports;
	struct io_region keyboard_port;
	struct io_region panic_port;
	struct io_region exit_port;
	struct irq irq;
	struct power_handler handler;
	uint8_t events; /* atomic */
};

/* exit_port 0: none. -EEXIST: a port is taken. On failure nothing is left behind. */
must_check int power_init(struct power *power, struct io_bus *pio, struct wires *wires,
			  uint16_t base, uint32_t gsi, uint16_t panic_port, uint16_t exit_port,
			  const struct power_handler *handler);
/* Accepts a zeroed object. */
void power_finish(struct power *power);
/* Events not yet seen are forgotten. */
void power_reset(struct power *power);

/* Asks the guest to shut down. */
void power_press_button(struct power *power);
/* Sets a bit of the event register, for another device behind it, and raises the interrupt. */
void power_raise_event(struct power *power, uint8_t event);

#endif /* DEVICES_POWER_H */
