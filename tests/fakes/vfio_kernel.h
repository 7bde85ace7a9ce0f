/* SPDX-License-Identifier: MIT */
/*
 * vfio_kernel.h - a kernel with VFIO, for the tests of vfio/: it stands in the place of
 * vfio/uapi.c, behaves as Linux does where that matters, records each call as a line, and can
 * fail the n-th.
 *
 * There is one, `fake`. Its fds are real ones, so that a leaked one can be counted.
 */
#ifndef TESTS_FAKES_VFIO_KERNEL_H
#define TESTS_FAKES_VFIO_KERNEL_H

#include <stdbool.h>
#include <stdint.h>

#include "devices/wires.h"
#include "vfio/uapi.h"

#define FAKE_MAX 8u
#define FAKE_MAX_MAPPINGS 64u
#define FAKE_MAX_VECTORS 2048u
#define FAKE_MAX_LINES 4096u
#define FAKE_LINE_SIZE 96u
#define FAKE_NR_REGIONS 9u
#define FAKE_CONFIG_SIZE 4096u

struct fake_mapping {
	uint64_t iova;
	uint64_t size;
	const void *host;
};

struct fake_container {
	int fd; /* 0: not in use */
	unsigned int nr_groups;
	bool has_iommu;
	struct fake_mapping mappings[FAKE_MAX_MAPPINGS];
	unsigned int nr_mappings;
};

struct fake_group {
	unsigned int number;
	int fd; /* 0: not open */
	bool not_viable;
	bool is_noiommu;
	int open_error; /* -errno, or 0 */
	struct fake_container *container;
};

struct fake_region {
	uint64_t size;
	uint32_t flags;
	uint8_t *memory; /* owned; whole pages */
	/*
	 * Owned: what a map of it gives. A device that is switched off answers there with SIGBUS,
	 * and so nobody but the guest may be at it: here every access is a fault.
	 */
	uint8_t *window;
	uint64_t window_size;
	bool sparse;
	struct vfio_region_sparse_mmap_area areas[4];
	unsigned int nr_areas;
	uint64_t readable; /* a pread beyond this reads 0 bytes */
};

struct fake_irq {
	unsigned int count; /* what IRQ_INFO says */
	uint32_t flags;     /* likewise */
	unsigned int
		available; /* binding more at once gives this number instead; 0: no limit */
	unsigned int on;   /* 0: the index is off */
	unsigned int switched_on; /* so many times */
	int fds[FAKE_MAX_VECTORS];
	int unmask_fd; /* INTx */
	bool masked;   /* INTx */
	bool asserted; /* INTx: the line */
};

struct fake_device {
	char name[VFIO_NAME_SIZE];
	char driver[32];
	bool is_mdev;
	bool not_pci;
	bool knows_few_irqs;      /* and refuses to speak of the others */
	struct fake_group *group; /* NULL: no IOMMU */
	int fd;                   /* 0: not open */
	uint8_t config[FAKE_CONFIG_SIZE];
	uint8_t writable[FAKE_CONFIG_SIZE];
	unsigned int pm; /* offset of the capability */
	bool no_d3;      /* a write of D3 stays without effect */
	uint8_t *dma; /* written to up to the moment it may no longer master the bus; or NULL */
	struct fake_region regions[FAKE_NR_REGIONS];
	struct fake_irq irqs[5];
	bool dead; /* every read and write is -EIO */
	bool config_dead;
	bool no_reset;
	bool can_hot_reset;
	struct vfio_pci_dependent_device affected[4]; /* by a hot reset */
	unsigned int nr_affected;
};

struct fake_irqfd {
	int fd;
	uint32_t gsi;
	int resample_fd;
};

#define FAKE_FIRST_ROUTE 24u
#define FAKE_MAX_GSIS 128u

struct fake_kernel {
	struct fake_container containers[FAKE_MAX];
	struct fake_group groups[FAKE_MAX];
	unsigned int nr_groups;
	struct fake_device devices[FAKE_MAX];
	unsigned int nr_devices;
	unsigned int nr_maps; /* of device memory, that are not unmapped */

	/* The n-th call that can fail does, with this errno. 0: none. */
	unsigned int fail_at;
	int fail_errno;
	unsigned int nr_calls;
	bool failed;

	bool refuses_sharing; /* a second group in one container */
	bool no_type1v2;
	int set_iommu_error;
	int map_error; /* for everything */
	int map_device_error;
	const void *map_error_host; /* map_error is for this only, if not NULL */
	int unmap_error;            /* for everything */
	uint64_t unmaps_less;       /* by so many bytes */
	struct vfio_iova_range ranges[4];
	unsigned int nr_ranges;
	struct vfio_iova_range later_ranges[4]; /* once a second group is in */
	unsigned int nr_later_ranges;
	bool has_entries;
	uint32_t entries;

	/* The hypervisor's side. */
	struct wires wires;
	bool route_used[FAKE_MAX_GSIS];
	struct msi_message routes[FAKE_MAX_GSIS];
	unsigned int nr_routes;
	unsigned int max_routes;
	struct fake_irqfd irqfds[FAKE_MAX_GSIS];
	unsigned int nr_irqfds;
	unsigned int delivered[FAKE_MAX_GSIS];
	unsigned int nr_shown; /* groups */

	char lines[FAKE_MAX_LINES][FAKE_LINE_SIZE];
	unsigned int nr_lines;
};

extern struct fake_kernel fake;

/* A kernel with no devices, that translates everything. Records inhibitors and discards too. */
void fake_init(void);
void fake_finish(void);

struct fake_group *fake_add_group(unsigned int number);
/* A device with an empty config space of 4096 bytes, bound to vfio-pci; no BARs, no INTx. */
struct fake_device *fake_add_device(const char *name, struct fake_group *group);
/* Likewise, but an mdev, bound to a driver of its own. */
struct fake_device *fake_add_mdev(const char *uuid, struct fake_group *group);
/* flags: VFIO_REGION_INFO_FLAG_MMAP or 0. bar_register: its type bits. */
void fake_set_bar(struct fake_device *dev, unsigned int bar, uint32_t bar_register,
		  uint64_t size, uint32_t flags);
void fake_set_16(struct fake_device *dev, unsigned int offset, uint16_t value);
void fake_set_32(struct fake_device *dev, unsigned int offset, uint32_t value);
uint16_t fake_get_16(const struct fake_device *dev, unsigned int offset);
/* Links a capability; `previous`: its predecessor's offset, or 0 for the first. */
void fake_link_capability(struct fake_device *dev, unsigned int previous, unsigned int offset,
			  uint8_t id);

/* The device signals a vector of MSI or MSI-X; false if nobody listens. */
bool fake_fire(struct fake_device *dev, unsigned int index, unsigned int vector);
/* It raises, or lowers, its INTx line. */
void fake_intx(struct fake_device *dev, bool asserted);
/* Eventfds that were signalled reach whom they are connected to: irqfds, the INTx unmask. */
void fake_run(void);
/* The guest's EOI of a level-triggered gsi. */
void fake_eoi(uint32_t gsi);
/* How often a message has arrived in the guest. */
unsigned int fake_delivered(uint64_t address, uint32_t data);

/* The record. */
void fake_record(const char *fmt, ...) printf_like(1, 2);
void fake_forget_record(void);
/* The first or last line that starts with `start`; -1: none. And how many there are. */
int fake_first(const char *start);
int fake_last(const char *start);
unsigned int fake_count(const char *start);

#endif /* TESTS_FAKES_VFIO_KERNEL_H */
