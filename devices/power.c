/* SPDX-License-Identifier: MIT */
#include "devices/power.h"

#define NR_PORTS 4u
#define SLEEP_CONTROL 0u
#define RESET 2u
#define EVENTS 3u
#define SLEEP_ENABLE 0x20u
#define PANICKED 1u
#define CRASH_LOADED 2u
#define KEYBOARD_PORT 0x64u
#define KEYBOARD_PULSE_RESET 0xfeu

static uint64_t power_read(void *opaque, uint64_t offset, unsigned int size)
{
	struct power *power = opaque;

	if (size != 1)
		return io_ones(size);
	if (offset == EVENTS)
		return __atomic_exchange_n(&power->events, 0, __ATOMIC_SEQ_CST);
	return 0;
}

static void power_write(void *opaque, uint64_t offset, unsigned int size, uint64_t value)
{
	struct power *power = opaque;

	if (size != 1)
		return;
	if (offset == SLEEP_CONTROL && (value & SLEEP_ENABLE) &&
	    (value >> 2 & 7) == POWER_SLEEP_TYPE_S5)
		power->handler.requested(power->handler.opaque, POWER_OFF, 0);
	if (offset == RESET && value == POWER_RESET_VALUE)
		power->handler.requested(power->handler.opaque, POWER_RESET, 0);
}

static const struct io_ops power_ops = { .read = power_read, .write = power_write };

/* Status 0: ready for a command, at once. */
static uint64_t nothing_read(void *opaque, uint64_t offset, unsigned int size)
{
	(void)opaque;
	(void)offset;
	(void)size;
	return 0;
}

static uint64_t panic_read(void *opaque, uint64_t offset, unsigned int size)
{
	(void)opaque;
	(void)offset;
	(void)size;
	return PANICKED | CRASH_LOADED;
}

static void panic_write(void *opaque, uint64_t offset, unsigned int size, uint64_t value)
{
	struct power *power = opaque;

	(void)offset;
	(void)size;
	if (value & PANICKED)
		power->handler.requested(power->handler.opaque, POWER_PANIC, 0);
	else if (value & CRASH_LOADED)
		power->handler.requested(power->handler.opaque, POWER_CRASH_LOADED, 0);
}

static const struct io_ops panic_ops = { .read = panic_read, .write = panic_write };

static void exit_write(void *opaque, uint64_t offset, unsigned int size, uint64_t value)
{
	struct power *power = opaque;

	(void)offset;
	(void)size;
	power->handler.requested(power->handler.opaque, POWER_EXIT, (uint8_t)value);
}

static const struct io_ops exit_ops = { .read = nothing_read, .write = exit_write };

static void keyboard_write(void *opaque, uint64_t offset, unsigned int size, uint64_t value)
{
	struct power *power = opaque;

	(void)offset;
	if (size == 1 && value == KEYBOARD_PULSE_RESET)
		power->handler.requested(power->handler.opaque, POWER_RESET, 0);
}

static const struct io_ops keyboard_ops = { .read = nothing_read, .write = keyboard_write };

int power_init(struct power *power, struct io_bus *pio, struct wires *wires, uint16_t base,
	       uint32_t gsi, uint16_t panic_port, uint16_t exit_port,
	       const struct power_handler *handler)
{
	*power = (struct power){
		.pio = pio,
		.handler = *handler,
		.ports = { .base = base, .size = NR_PORTS, .ops = &power_ops },
		.keyboard_port = { .base = KEYBOARD_PORT, .size = 1, .ops = &keyboard_ops },
		.panic_port = { .base = panic_port, .size = 1, .ops = &panic_ops },
		.exit_port = { .base = exit_port, .size = 4, .ops = &exit_ops },
	};
	power->ports.opaque = power;
	power->keyboard_port.opaque = power;
	power->panic_port.opaque = power;
	power->exit_port.opaque = power;
	int r = irq_init(&power->irq, wires);
	if (r < 0)
		goto fail;
	r = irq_connect_edge(&power->irq, gsi);
	if (r < 0)
		goto fail;
	r = io_bus_add(pio, &power->ports);
	if (r < 0)
		goto fail;
	r = io_bus_add(pio, &power->keyboard_port);
	if (r < 0)
		goto fail;
	r = io_bus_add(pio, &power->panic_port);
	if (r < 0)
		goto fail;
	if (exit_port)
		r = io_bus_add(pio, &power->exit_port);
	if (r < 0)
		goto fail;
	return 0;
fail:
	power_finish(power);
	return r;
}

void power_finish(struct power *power)
{
	if (!power->pio)
		return;
	io_bus_remove(power->pio, &power->exit_port);
	io_bus_remove(power->pio, &power->panic_port);
	io_bus_remove(power->pio, &power->keyboard_port);
	io_bus_remove(power->pio, &power->ports);
	irq_finish(&power->irq);
	*power = (struct power){ 0 };
}

void power_reset(struct power *power)
{
	__atomic_store_n(&power->events, 0, __ATOMIC_SEQ_CST);
}

void power_press_button(struct power *power)
{
	power_raise_event(power, POWER_EVENT_BUTTON);
}

void power_raise_event(struct power *power, uint8_t event)
{
	__atomic_fetch_or(&power->events, event, __ATOMIC_SEQ_CST);
	irq_raise(&power->irq);
}
