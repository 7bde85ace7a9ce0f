/* SPDX-License-Identifier: MIT */
/*
 * bars.h - an assigned device's BARs: what the guest reaches without us, and what traps.
 *
 * Concepts
 *  - area: a part of a BAR that the kernel lets us map. Where the guest decodes the BAR, its
 *    areas are regions of the memory map (MEMORY_DEVICE): the guest's accesses and those of
 *    other devices go to the hardware directly. The pages of the MSI-X table and of its
 *    pending bits are cut out, since those are emulated.
 *  - Everything else of a BAR traps, and is read or written by a system call. So does all of a
 *    BAR whose areas could not be mapped: slower, and no different.
 *  - A map that stops answering (the device was pulled out, or lost power) is a SIGBUS for whoever
 *    touches it, and an error of KVM's where a guest does: its areas are taken away then, and
 *    all traps, until the BAR is decoded anew. System calls get -EIO, and the guest ones.
 *  - A BAR smaller than a page of which the kernel lets us map the page is shown to the guest
 *    a page large. Nothing else can then be placed in that page, which the map covers whole.
 *
 * Threads: init and finish before the device is on a bus, and after; map, unmap and trap
 * under bus->lock.
 */
#ifndef VFIO_BARS_H
#define VFIO_BARS_H

#include <pthread.h>

#include "devices/pci.h"
#include "memory/map.h"
#include "vfio/config.h"
#include "vfio/device.h"

#define VFIO_NR_BARS 6u

struct vfio_area {
	struct memory_region region; /* host: owned map of the device's memory */
	uint64_t offset;             /* in the BAR */
};

struct vfio_bar {
	struct vfio_bars *bars;
	unsigned int index;
	struct vfio_area *areas; /* owned */
	unsigned int nr_areas;
};

struct vfio_bars {
	struct pci_device *pci;     /* borrowed, outlives this */
	struct vfio_device *device; /* borrowed, outlives this */
	struct msix *msix;          /* borrowed, outlives this */
	struct memory_map *map;     /* borrowed, outlives this */
	struct vfio_bar bars[VFIO_NR_BARS];
	pthread_mutex_t rom_lock;
	uint8_t *rom; /* owned; its contents once the guest has read some; rom_lock */
};

/*
 * Declares the BARs and the ROM of `pci` as `bytes`, the device's config space, and its regions
 * say. Failures are logged. -EPROTO: a size that no BAR can have. -ENOMEM. On failure nothing
 * is left behind.
 */
must_check int vfio_bars_init(struct vfio_bars *bars, struct pci_device *pci,
			      struct vfio_device *device, struct msix *msix,
			      struct memory_map *map, const struct vfio_config *config,
			      const uint8_t *bytes);
/* No BAR may be decoded. Accepts a zeroed object. */
void vfio_bars_finish(struct vfio_bars *bars);

/* BAR `index` is decoded at its address now, or about to leave it. */
void vfio_bars_map(struct vfio_bars *bars, unsigned int index);
void vfio_bars_unmap(struct vfio_bars *bars, unsigned int index);
/* Takes away what is mapped of all BARs, which stay decoded. Whether anything was. */
bool vfio_bars_trap(struct vfio_bars *bars);

#endif /* VFIO_BARS_H */
