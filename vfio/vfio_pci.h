/* SPDX-License-Identifier: MIT */
/*
 * vfio_pci.h - an assigned PCI device as the guest sees it: config space, BARs, interrupts,
 * power and reset on our root bus.
 *
 * Attaching ends way D: the group is attached (or shared, if it is already), the device
 * opened, its view built, the function reset, the device put on the bus. Detaching is the
 * reverse: off the bus, interrupts off, bus mastering off, closed; the group goes with its
 * last device.
 *
 * Order that matters: what is switched off (memory decode, power) is unmapped from the guest
 * before the hardware hears of it, and what is switched on is mapped after, since a vCPU cannot
 * go on at a mapped BAR that does not answer. One that stops answering by itself is
 * vfio_pci_trap()'s.
 *
 * Threads: attach and detach are for the thread that runs machine_init(); vCPUs may run. All else
 * runs from the bus's and the I/O buses' callbacks.
 */
#ifndef VFIO_VFIO_PCI_H
#define VFIO_VFIO_PCI_H

#include "devices/pci.h"
#include "vfio/bars.h"
#include "vfio/config.h"
#include "vfio/device.h"
#include "vfio/group.h"
#include "vfio/irq.h"

struct vfio_pci {
	struct pci_device pci;
	struct vfio_group *group;  /* borrowed, stays while our device is open; or NULL */
	struct vfio_device device; /* err_fd and req_fd are for the event loop */
	struct vfio_irq irq;
	struct vfio_config config;
	struct vfio_bars bars;
};

/*
 * Assigns a PCI device to the guest: a function, "0000:01:00.0" or "01:00.0"; an mdev, by its
 * UUID; either by its directory in /sys. It takes the lowest free slot; its BARs have no
 * addresses before pci_bus_reset(). Only an mdev may have VFIO_BALLOON_ALLOWED, and all of one
 * group have it or none has. What stood in the way is logged, in one line and with its remedy.
 * The user's to put right: -EINVAL: no such name can be, or it may not have `balloon`.
 * -ENODEV: no such device. -EBUSY: it, or one of its group, is bound to another driver, in use
 * or assigned already. -EPERM: no permission, or interrupts that are not isolated.
 * -EOPNOTSUPP: no IOMMU, or not a device that can be assigned. -ENOMEM, -ERANGE: as
 * vfio_container_join().
 * On failure nothing is left behind.
 */
must_check int vfio_pci_attach(struct vfio *vfio, struct pci_bus *bus, const char *given,
			       enum vfio_balloon balloon, struct vfio_pci **ret);
/*
 * The same with what somebody else has looked up and opened: nothing is looked at in /sys, and no
 * node is opened. What is left of `opened` stays the caller's.
 */
must_check int vfio_pci_attach_opened(struct vfio *vfio, struct pci_bus *bus,
				      struct vfio_opened *opened, enum vfio_balloon balloon,
				      struct vfio_pci **ret);
/*
 * What attach asks /sys first: the device's one name, into at least VFIO_NAME_SIZE bytes, and its
 * group. Fails, and logs, as vfio_pci_attach().
 */
must_check int vfio_pci_look(const char *given, enum vfio_balloon balloon, char *name,
			     unsigned int *ret_group);
/* The exact reverse; frees. Accepts NULL. */
void vfio_pci_detach(struct vfio_pci *vp);

/*
 * Of a vCPU, which KVM cannot let reach what it touched: takes away the maps of those devices that
 * do not answer, or, where all do, of all; what the guest does there traps from now on. False: there
 * was none, so it was no BAR. Takes bus->lock. What is done is logged.
 */
bool vfio_pci_trap(struct pci_bus *bus);

/*
 * The one way a device is called in /sys, from one of the ways users call it, into at least
 * VFIO_NAME_SIZE bytes. -EINVAL: it is none of them.
 */
must_check int vfio_pci_name(const char *given, char *name, size_t size);
/* True for a driver that gives PCI functions to VFIO: vfio-pci, and those made from it. */
bool vfio_pci_is_driver(const char *driver);

#endif /* VFIO_VFIO_PCI_H */
