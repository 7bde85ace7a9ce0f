/* SPDX-License-Identifier: MIT */
/*
 * vfio_world.h - what surrounds vfio/ in a guest: RAM, buses, a reclaim, and the fake kernel;
 * and a device with everything a device can have.
 */
#ifndef TESTS_FAKES_VFIO_WORLD_H
#define TESTS_FAKES_VFIO_WORLD_H

#include "devices/pci.h"
#include "memory/map.h"
#include "memory/ram.h"
#include "memory/reclaim.h"
#include "tests/fakes/vfio_kernel.h"
#include "vfio/vfio_pci.h"

#define RAM_SIZE (2ull << 20) /* twice: from 0, and from 4 GiB */
#define HIGH_RAM (1ull << 32)

struct world {
	struct memory_map map;
	struct reclaim reclaim;
	struct ram ram;
	struct memory_region low;
	struct memory_region high;
	struct io_bus pio;
	struct io_bus mmio;
	struct pci_bus bus;
	struct vfio vfio;
	unsigned int nr_fds; /* when all was set up */
	unsigned int nr_pio;
	unsigned int nr_mmio;
};

extern struct world world;

/* Fixtures: what is logged goes into a file from one to the other. */
void world_init(void);
void world_finish(void);
/* Before anything is attached: groups go along with the balloon from now on, in granules. */
void world_coordinate(uint64_t granule, bool map_late);

/* Nothing of what an attach does is there: fds, maps, listeners, inhibitors, devices. */
void check_nothing_left(void);

/* What was logged since world_init() or the last call of this; good until the next. */
const char *logged(void);

/* The whole device's offsets. */
#define DEV_PM 0x40u
#define DEV_MSI 0x50u /* 64 bits, 4 vectors, masks */
#define DEV_MSIX 0x70u
#define DEV_PCIE 0x80u
#define DEV_VENDOR 0xc0u /* 16 writable bytes */
#define DEV_EXT_SRIOV 0x160u
#define DEV_EXT_DSN 0x200u
#define DEV_BAR0_SIZE (1ull << 20) /* 64 bits */
#define DEV_NR_VECTORS 16u
#define DEV_TABLE 0x8000u /* in BAR 0 */
#define DEV_PBA 0x9000u
#define DEV_IO_SIZE 32u        /* BAR 2 */
#define DEV_SMALL_SIZE 256u    /* BAR 3: 32 bits, may be mapped */
#define DEV_SPARSE_SIZE 65536u /* BAR 4: 64 bits */
#define DEV_ROM_SIZE 65536u

/* A device with INTx, MSI, MSI-X, PM, PCI Express, BARs of all kinds and a ROM. */
struct fake_device *add_whole_device(const char *name, struct fake_group *group);
/* A conventional device with one BAR of 4 KiB and no capabilities. */
struct fake_device *add_plain_device(const char *name, struct fake_group *group);

/* An mdev with one BAR of 4 KiB and no capabilities. */
struct fake_device *add_plain_mdev(const char *uuid, struct fake_group *group);

/* Attaches, with BARs assigned, memory and I/O decode on. Asserts success. */
struct vfio_pci *attach(const char *name);
/* Likewise, and the balloon is allowed. */
struct vfio_pci *attach_allowing(const char *uuid);

/* Config accesses, as a guest makes them. */
uint32_t config_read(const struct vfio_pci *vp, unsigned int offset, unsigned int size);
void config_write(const struct vfio_pci *vp, unsigned int offset, unsigned int size,
		  uint32_t value);

#endif /* TESTS_FAKES_VFIO_WORLD_H */
