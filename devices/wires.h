/* SPDX-License-Identifier: MIT */
/*
 * wires.h - the one seam only a hypervisor can fill.
 *
 * Device models know eventfds. What connects an eventfd to the guest's interrupt controller is
 * asked for here, and what turns a guest's write into a signal on an eventfd; vmm/kvm_wires
 * fills it with KVM's GSI routes, irqfds and ioeventfds, the unit tests with a recording.
 *
 * Concepts
 *  - gsi: a global system interrupt. Below 24: an IOAPIC pin. From 24: an MSI route, allocated
 *    and freed here.
 *  - A signalled eventfd that gets an irqfd is delivered at once, so that nothing is lost by
 *    disconnecting and connecting again.
 *
 * Threads: any; the implementation locks. Errors are -errno, logged by the caller.
 */
#ifndef DEVICES_WIRES_H
#define DEVICES_WIRES_H

#include <stdbool.h>
#include <stdint.h>

struct wires;

/* What a device would write on the bus to raise a message-signalled interrupt. */
struct msi_message {
	uint64_t address;
	uint32_t data;
};

struct wires_ops {
	/* Allocates a gsi routed to `message`. -ENOSPC: no free route. */
	int (*msi_route_add)(struct wires *wires, struct msi_message message,
			     uint32_t *ret_gsi);
	int (*msi_route_update)(struct wires *wires, uint32_t gsi, struct msi_message message);
	void (*msi_route_remove)(struct wires *wires, uint32_t gsi);

	/*
	 * From now on a signal on `fd` raises `gsi`. With resample_fd >= 0 the line is level
	 * triggered: raised until the guest's EOI, which lowers it and signals resample_fd.
	 * -EBUSY: fd has an irqfd already.
	 */
	int (*irqfd_add)(struct wires *wires, int fd, uint32_t gsi, int resample_fd);
	/* Signals stay in the eventfd from now on. Cannot fail. */
	void (*irqfd_remove)(struct wires *wires, int fd, uint32_t gsi);

	/*
	 * From now on a guest's write of any size to MMIO address `address` signals `fd` and goes no
	 * further. One fd may serve several addresses. -EEXIST: that address has an fd.
	 */
	int (*ioeventfd_add)(struct wires *wires, uint64_t address, int fd);
	/* Writes there are the io_bus's again. Cannot fail. */
	void (*ioeventfd_remove)(struct wires *wires, uint64_t address, int fd);

	/*
	 * An assigned group's fd is shown to the hypervisor (KVM_DEV_TYPE_VFIO): it takes care
	 * of cache coherency and posted interrupts. remove: cannot fail.
	 */
	int (*group_add)(struct wires *wires, int group_fd);
	void (*group_remove)(struct wires *wires, int group_fd);
};

struct wires {
	const struct wires_ops *ops;
};

#endif /* DEVICES_WIRES_H */
