/* SPDX-License-Identifier: MIT */
#include "devices/hotplug.h"

#include <assert.h>
#include <string.h>

#include "base/trace.h"

#define NR_PORTS 12u
#define APPEARED 0u
#define ASKED 4u
#define EJECT 8u

static uint32_t take(uint32_t *bits)
{
	uint32_t taken = *bits;

	*bits = 0;
	return taken;
}

/* Under the lock. The guest lets go once for each time that it reads this. */
static uint32_t take_asked(struct hotplug *hotplug)
{
	for (unsigned int slot = 0; slot < HOTPLUG_NR_SLOTS; slot++)
		hotplug->owed[slot] += hotplug->asked >> slot & 1;
	return take(&hotplug->asked);
}

/* Under the lock. */
static void answer(struct hotplug *hotplug, uint32_t slots)
{
	for (unsigned int slot = 0; slot < HOTPLUG_NR_SLOTS; slot++) {
		if (slots >> slot & 1 && hotplug->owed[slot] > 0)
			hotplug->owed[slot]--;
	}
}

static uint64_t hotplug_read(void *opaque, uint64_t offset, unsigned int size)
{
	struct hotplug *hotplug = opaque;
	uint64_t value = io_ones(size);

	if (size != 4)
		return value;
	pthread_mutex_lock(&hotplug->lock);
	if (offset == APPEARED)
		value = take(&hotplug->appeared);
	if (offset == ASKED)
		value = take_asked(hotplug);
	if (offset == EJECT)
		value = hotplug->removable;
	pthread_mutex_unlock(&hotplug->lock);
	return value;
}

/* Under the lock: what holds nothing removable any more has nothing pending either. */
static void forget(struct hotplug *hotplug, uint32_t slots)
{
	hotplug->appeared &= ~slots;
	hotplug->asked &= ~slots;
	hotplug->ejecting &= ~slots;
	hotplug->removable &= ~slots;
}

static void hotplug_write(void *opaque, uint64_t offset, unsigned int size, uint64_t value)
{
	struct hotplug *hotplug = opaque;

	if (size != 4 || offset != EJECT)
		return;
	pthread_mutex_lock(&hotplug->lock);
	answer(hotplug, (uint32_t)value);
	uint32_t slots = (uint32_t)value & hotplug->removable;
	forget(hotplug, slots);
	pthread_mutex_unlock(&hotplug->lock);
	for (unsigned int slot = 0; slot < HOTPLUG_NR_SLOTS; slot++) {
		if (slots >> slot & 1)
			hotplug->handler.ejected(hotplug->handler.opaque, slot);
	}
}

static const struct io_ops hotplug_ops = { .read = hotplug_read, .write = hotplug_write };

int hotplug_init(struct hotplug *hotplug, struct io_bus *pio, struct power *power,
		 uint16_t base, const struct hotplug_handler *handler)
{
	*hotplug = (struct hotplug){
		.pio = pio,
		.power = power,
		.ports = { .base = base, .size = NR_PORTS, .ops = &hotplug_ops },
		.handler = *handler,
	};
	hotplug->ports.opaque = hotplug;
	pthread_mutex_init(&hotplug->lock, NULL);
	int r = io_bus_add(pio, &hotplug->ports);
	if (r < 0)
		hotplug_finish(hotplug);
	return r;
}

void hotplug_finish(struct hotplug *hotplug)
{
	if (!hotplug->pio)
		return;
	io_bus_remove(hotplug->pio, &hotplug->ports);
	pthread_mutex_destroy(&hotplug->lock);
	*hotplug = (struct hotplug){ 0 };
}

uint32_t hotplug_reset(struct hotplug *hotplug)
{
	pthread_mutex_lock(&hotplug->lock);
	uint32_t ejecting = hotplug->ejecting;
	forget(hotplug, ejecting);
	hotplug->appeared = 0;
	hotplug->asked = 0;
	memset(hotplug->owed, 0, sizeof(hotplug->owed));
	pthread_mutex_unlock(&hotplug->lock);
	return ejecting;
}

void hotplug_set_removable(struct hotplug *hotplug, unsigned int slot, bool removable)
{
	assert(slot < HOTPLUG_NR_SLOTS);
	pthread_mutex_lock(&hotplug->lock);
	forget(hotplug, 1u << slot);
	if (removable)
		hotplug->removable |= 1u << slot;
	pthread_mutex_unlock(&hotplug->lock);
}

void hotplug_announce(struct hotplug *hotplug, unsigned int slot)
{
	TRACE(hotplug_announce, slot, 0);
	assert(slot < HOTPLUG_NR_SLOTS);
	pthread_mutex_lock(&hotplug->lock);
	hotplug->appeared |= 1u << slot;
	pthread_mutex_unlock(&hotplug->lock);
	/* After the bit: whoever sees the event finds it. */
	power_raise_event(hotplug->power, POWER_EVENT_HOTPLUG);
}

void hotplug_ask_eject(struct hotplug *hotplug, unsigned int slot)
{
	TRACE(hotplug_ask_eject, slot, 0);
	assert(slot < HOTPLUG_NR_SLOTS);
	pthread_mutex_lock(&hotplug->lock);
	hotplug->asked |= 1u << slot;
	hotplug->ejecting |= 1u << slot & hotplug->removable;
	pthread_mutex_unlock(&hotplug->lock);
	power_raise_event(hotplug->power, POWER_EVENT_HOTPLUG);
}

uint32_t hotplug_owed(struct hotplug *hotplug)
{
	pthread_mutex_lock(&hotplug->lock);
	uint32_t slots = hotplug->asked;
	for (unsigned int slot = 0; slot < HOTPLUG_NR_SLOTS; slot++)
		slots |= hotplug->owed[slot] > 0 ? 1u << slot : 0;
	pthread_mutex_unlock(&hotplug->lock);
	return slots;
}

bool hotplug_remind(struct hotplug *hotplug)
{
	pthread_mutex_lock(&hotplug->lock);
	bool unread = hotplug->appeared || hotplug->asked;
	pthread_mutex_unlock(&hotplug->lock);
	if (unread)
		power_raise_event(hotplug->power, POWER_EVENT_HOTPLUG);
	return unread;
}
