/* SPDX-License-Identifier: MIT */
/*
 * pci.h - one PCI Express root bus: config space by ECAM and by 0xcf8/0xcfc, BAR decode,
 * capabilities, INTx routing. PCI Express Base Specification 5.0, chapter 7; PCI Local Bus
 * Specification 3.0, chapter 6.
 *
 * Concepts
 *  - A device is embedded in its model; here it has 4 KiB of config bytes, a mask of the bits
 *    the guest may write, and up to six BARs and a ROM.
 *  - A BAR is decoded where the guest puts it, provided that its whole range lies within the
 *    bridge's windows: like a real bridge ours forwards nothing else, so that no BAR can hide
 *    RAM, ECAM, the APICs or a port of the platform. A BAR over another BAR is not decoded
 *    until it, or the other, has moved away.
 *  - BARs are given addresses at start and at reset (pci_bus_reset), as firmware would.
 *  - INTx pins go to IOAPIC pins 16 to 23: 16 + (slot + pin - 1) % 8, as in _PRT.
 *
 * Threads: any. bus->lock is held for each config access and while a device's ops run; BAR
 * handlers run without it. Order: bus->lock, then the device model's own locks, then
 * memory_map.change_lock and io_bus.lock.
 */
#ifndef DEVICES_PCI_H
#define DEVICES_PCI_H

#include <pthread.h>

#include "base/log.h"

#include "devices/io_bus.h"

struct pci_bus;
struct pci_device;

#define PCI_CONFIG_SIZE 4096u
#define PCI_ROM 6u /* index of the expansion ROM among the bars */
#define PCI_NR_BARS 7u
#define PCI_UNMAPPED UINT64_MAX
#define PCI_NR_DEVFNS 256u
#define PCI_DEVFN(slot, function) ((uint8_t)((slot) << 3 | (function)))

enum pci_bar_kind { PCI_BAR_NONE, PCI_BAR_IO, PCI_BAR_MEM32, PCI_BAR_MEM64 };

struct pci_bar {
	enum pci_bar_kind kind;
	struct io_region region; /* size: of the BAR; ops and opaque: what traps */
	uint64_t address;        /* where it is decoded now, or PCI_UNMAPPED; bus->lock */
};

/* Every op may be NULL: the default is taken, or nothing done. Called under bus->lock. */
struct pci_device_ops {
	/* Default pci_config_read(). offset is aligned to size (1, 2 or 4), below 4096. */
	uint32_t (*config_read)(struct pci_device *dev, unsigned int offset, unsigned int size);
	/* Default pci_config_write(). */
	void (*config_write)(struct pci_device *dev, unsigned int offset, unsigned int size,
			     uint32_t value);
	/* The BAR is on its bus at bar->address now: time to map what needs no trap. */
	void (*bar_mapped)(struct pci_device *dev, unsigned int bar);
	/* The BAR is about to leave bar->address. */
	void (*bar_unmapped)(struct pci_device *dev, unsigned int bar);
	/* Function reset. Command, BARs and decode have been cleared before. */
	void (*reset)(struct pci_device *dev);
};

struct pci_device {
	const struct pci_device_ops *ops;
	const char *name; /* borrowed, outlives this; for logs */
	struct pci_bus *bus;
	uint8_t devfn;
	bool powered_down; /* not in D0: no BAR is decoded; then call pci_update_bars() */
	uint8_t config[PCI_CONFIG_SIZE];
	uint8_t writable
		[PCI_CONFIG_SIZE]; /* the bits pci_config_write() takes from the guest */
	struct pci_bar bars[PCI_NR_BARS];
	struct log_budget budget;
};

/* What the bridge forwards: base and size in bytes; size 0: nothing. */
struct pci_window {
	uint64_t base;
	uint64_t size;
};

struct pci_windows {
	struct pci_window io;
	struct pci_window mem32;
	struct pci_window mem64;
};

struct pci_bus {
	pthread_mutex_t lock;
	struct io_bus *pio;  /* borrowed */
	struct io_bus *mmio; /* borrowed */
	struct pci_windows windows;
	struct pci_device *devices[PCI_NR_DEVFNS]; /* lock */
	uint32_t config_address;                   /* 0xcf8; lock */
	uint32_t last_slots;                       /* bit n: slot n; lock */
	struct io_region ecam;
	struct io_region address_port;
	struct io_region data_port;
};

/*
 * Puts the config ports and the ECAM window (one bus: 1 MiB at ecam_base) on the buses.
 * -EEXIST: something is there. On failure nothing is left behind.
 */
must_check int pci_bus_init(struct pci_bus *bus, struct io_bus *pio, struct io_bus *mmio,
			    const struct pci_windows *windows, uint64_t ecam_base);
/* No device may be left. Accepts a zeroed object. */
void pci_bus_finish(struct pci_bus *bus);

/* Resets every device, then gives every BAR an address. vCPUs parked. */
void pci_bus_reset(struct pci_bus *bus);

/*
 * A device with an empty config space: vendor, device and class (0xccssii: class, subclass,
 * programming interface) set, command writable, no BARs.
 */
void pci_device_init(struct pci_device *dev, const struct pci_device_ops *ops, const char *name,
		     uint16_t vendor, uint16_t device, uint32_t class_code);

/*
 * Declares BAR `bar` (PCI_ROM: the expansion ROM, kind PCI_BAR_MEM32). `size` is in bytes, a
 * power of two of at least 4 (I/O) or 16 (memory), ROM 2048. A 64-bit BAR takes bar + 1 too.
 * Before pci_bus_add(). `prefetchable` sets the bit of that name.
 */
enum pci_prefetch { PCI_NON_PREFETCHABLE, PCI_PREFETCHABLE };
void pci_set_bar(struct pci_device *dev, unsigned int bar, enum pci_bar_kind kind,
		 enum pci_prefetch prefetch, uint64_t size, const struct io_ops *ops,
		 void *opaque);

/*
 * Links a capability at `offset` (0x40 to 0xff, multiple of 4; the caller has
 * found it free) to the head of the standard chain.
 */
void pci_add_capability(struct pci_device *dev, uint8_t id, unsigned int offset);

/*
 * Puts the device on the bus at `devfn`; PCI_ANY_SLOT: function 0 of the lowest free slot, of
 * those of pci_bus_take_last() only if there is no other.
 * -EEXIST: taken. -ENOSPC: no slot is free. Its BARs have no addresses before pci_bus_reset():
 * in a guest that runs it is the guest who places them, as where no firmware sees a card come.
 */
#define PCI_ANY_SLOT (-1)
must_check int pci_bus_add(struct pci_bus *bus, struct pci_device *dev, int devfn);
/* From now on these slots, bit n slot n, and no others, are the last that PCI_ANY_SLOT takes. */
void pci_bus_take_last(struct pci_bus *bus, uint32_t slots);
/*
 * Unmaps its BARs and takes it off; the slot is free. vCPUs may run: on return none is in its
 * ops or in the handlers of its BARs, and none will be. Not from within one of these, nor with a
 * lock held that they take. Does nothing for one on no bus.
 */
void pci_bus_remove(struct pci_device *dev);

/* The IOAPIC pin of INTA (pin 1) to INTD (pin 4) of this device. */
uint32_t pci_intx_gsi(const struct pci_device *dev, unsigned int pin);

/* For ops, under bus->lock: the config bytes as they stand. */
uint32_t pci_config_read(struct pci_device *dev, unsigned int offset, unsigned int size);
/* For ops: takes the writable bits, then moves BARs whose registers or enables changed. */
void pci_config_write(struct pci_device *dev, unsigned int offset, unsigned int size,
		      uint32_t value);
/* For ops: takes the writable bits only; the caller calls pci_update_bars() at its time. */
void pci_config_store(struct pci_device *dev, unsigned int offset, unsigned int size,
		      uint32_t value);
/* Brings what is decoded, of every device on the bus, into line with the registers. */
void pci_update_bars(struct pci_device *dev);

/* Little-endian config bytes, unmasked: for device models setting up their space. */
uint16_t pci_get_16(const struct pci_device *dev, unsigned int offset);
uint32_t pci_get_32(const struct pci_device *dev, unsigned int offset);
void pci_set_16(struct pci_device *dev, unsigned int offset, uint16_t value);
void pci_set_32(struct pci_device *dev, unsigned int offset, uint32_t value);

#endif /* DEVICES_PCI_H */
