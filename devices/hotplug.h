/* SPDX-License-Identifier: MIT */
/*
 * hotplug.h - how the guest hears of PCI devices that come and go while it runs: by ACPI, as
 * vmm/dsdt.asl has it, on the root bus itself (ACPI 6.4, 5.6.6 and 6.3). No bridge is needed
 * and no PCI Express hot-plug controller, of which every slot would have one to be scanned.
 *
 *	base + 0  slots in which something has appeared: bit n slot n; reading clears
 *	base + 4  slots that the guest is asked to let go of; reading clears
 *	base + 8  read: slots whose device may be taken out (_RMV). Written (_EJ0): the guest has
 *	          let go of the slots whose bits are set; 0 bits and slots that are not removable
 *	          are ignored
 *
 * Each is 4 bytes; accesses of other sizes, or across two, read as ones and write nothing. The
 * first two come with POWER_EVENT_HOTPLUG in the event register of power.h, and its interrupt.
 *
 * Nothing here touches the bus: who attaches does pci_bus_add(), hotplug_set_removable(),
 * hotplug_announce(); who detaches does hotplug_ask_eject(), waits for handler.ejected(), and
 * takes the device out.
 *
 * Threads: any. The handler is called on the vCPU's thread that wrote, with no lock held.
 */
#ifndef DEVICES_HOTPLUG_H
#define DEVICES_HOTPLUG_H

#include <pthread.h>
#include <stdbool.h>

#include "devices/io_bus.h"
#include "devices/power.h"

#define HOTPLUG_NR_SLOTS 32u

struct hotplug_handler {
	/*
	 * The guest has let go of the slot, asked or not. It was removable and is so no more:
	 * called once for each hotplug_set_removable(true), whatever the guest writes.
	 */
	void (*ejected)(void *opaque, unsigned int slot);
	void *opaque;
};

struct hotplug {
	struct io_bus *pio;  /* borrowed, outlives this; NULL: not initialised */
	struct power *power; /* borrowed, outlives this */
	struct io_region ports;
	struct hotplug_handler handler;
	pthread_mutex_t lock;
	/* Bit n is slot n. lock */
	uint32_t appeared; /* and the guest has not read it */
	uint32_t asked;    /* to eject, and the guest has not read it */
	uint32_t ejecting; /* asked, and the guest has not let go */
	uint32_t removable;
	/* For each slot: so many times the guest has read that it is asked, and not let go since. */
	uint32_t owed[HOTPLUG_NR_SLOTS];
};

/* -EEXIST: a port is taken. On failure nothing is left behind. */
must_check int hotplug_init(struct hotplug *hotplug, struct io_bus *pio, struct power *power,
			    uint16_t base, const struct hotplug_handler *handler);
/* Accepts a zeroed object. vCPUs parked. */
void hotplug_finish(struct hotplug *hotplug);

/*
 * Guest reset: what the guest has not read, or not answered, is forgotten. Returns the slots it
 * had been asked to let go of and has not, bit n slot n: the caller takes them as ejected, since
 * the guest that was asked is gone; they are no longer removable. vCPUs parked.
 */
must_check uint32_t hotplug_reset(struct hotplug *hotplug);

/*
 * Whether the slot holds a device that may be taken out. False: it does not, or no longer; what
 * is pending for the slot is forgotten.
 */
void hotplug_set_removable(struct hotplug *hotplug, unsigned int slot, bool removable);

/* Tells the guest that a device has appeared in the slot. */
void hotplug_announce(struct hotplug *hotplug, unsigned int slot);

/*
 * Asks the guest to let go of the slot. May be repeated: it is told again. For a slot that is
 * not removable (its device was taken out by force) the guest is told so that it drops what it
 * has of it; nothing is pending then.
 */
void hotplug_ask_eject(struct hotplug *hotplug, unsigned int slot);

/*
 * The slots of which the guest lets go yet, whatever is in them by then, bit n slot n: it was asked
 * more often than it has answered, though the device that was meant may be gone.
 */
uint32_t hotplug_owed(struct hotplug *hotplug);

/*
 * Raises the interrupt once more, if there is something that the guest has not read: it may have
 * come before the guest's driver listened. Whether there is.
 */
bool hotplug_remind(struct hotplug *hotplug);

#endif /* DEVICES_HOTPLUG_H */
