/* SPDX-License-Identifier: MIT */
/*
 * device.h - one assigned device as the kernel shows it: its regions, its reset, and the two
 * eventfds by which the kernel speaks first.
 *
 * Regions are read and written by system calls only, never through a map: a device that is
 * switched off answers a system call with -EIO, and a map with SIGBUS.
 *
 * Threads: attach, detach and reset are the caller's to serialise; reads and writes from any.
 */
#ifndef VFIO_DEVICE_H
#define VFIO_DEVICE_H

#include <stdbool.h>

#include "base/list.h"

#include "vfio/uapi.h"

struct vfio_group;

/* BARs 0 to 5, the expansion ROM and the config space. */
#define VFIO_NR_REGIONS (VFIO_PCI_CONFIG_REGION_INDEX + 1)

struct vfio_device {
	struct list_node link;    /* group->devices; keeps the group attached */
	struct vfio_group *group; /* borrowed, outlives this */
	char name[VFIO_NAME_SIZE];
	int fd; /* owned */
	uint32_t flags;
	struct vfio_region regions[VFIO_NR_REGIONS];
	bool has_flr;      /* set by whoever reads the capabilities */
	bool has_pm_reset; /* likewise: leaving D3 resets it */
	bool touched;      /* by the guest since its last reset; atomic, of any thread */
	/*
	 * Owned, -1 where the kernel offers none; for the event loop. Signalled: the device
	 * reported an error it does not recover from; the host wants the device back (and says
	 * so again every few seconds).
	 */
	int err_fd;
	int req_fd;
};

/*
 * Opens the device `name` ("0000:01:00.0", or a UUID) of an attached group. Failures are
 * logged. -EBUSY: open already. -EPERM: it is a virtual function whose owner wants a token.
 * -EOPNOTSUPP: not a PCI device. On failure nothing is left behind.
 */
must_check int vfio_device_attach(struct vfio_device *dev, struct vfio_group *group,
				  const char *name);
/* The exact reverse. Accepts what a failed attach left, and a zeroed object. */
void vfio_device_detach(struct vfio_device *dev);

/*
 * Reads or writes [offset, offset + size) of a region: how many bytes were. Fewer than `size`:
 * the rest lies beyond its end, 0 if all does. -errno, not logged: the device does not answer.
 */
must_check int vfio_device_read(const struct vfio_device *dev, unsigned int region,
				uint64_t offset, void *buffer, size_t size);
must_check int vfio_device_write(const struct vfio_device *dev, unsigned int region,
				 uint64_t offset, const void *buffer, size_t size);

/* Which other devices of ours may go through a device's reset. */
enum vfio_reach {
	VFIO_REACH_UNUSED,    /* none */
	VFIO_REACH_UNTOUCHED, /* those that the guest has not touched since their own */
	VFIO_REACH_ALL, /* any: all vCPUs are parked, and what is in use is reset as well */
};

/*
 * Resets the function by what reaches least: a function reset, a reset of a bus or slot all of
 * whose other functions are unused, a round trip through D3, a bus or slot reset that other
 * devices of ours within `reach` go through too. Interrupts are off and command is clear.
 * -EOPNOTSUPP: none of them works. Not logged.
 */
must_check int vfio_device_reset(struct vfio_device *dev, enum vfio_reach reach);

#endif /* VFIO_DEVICE_H */
