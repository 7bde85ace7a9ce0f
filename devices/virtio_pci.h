/* SPDX-License-Identifier: MIT */
/*
 * virtio_pci.h - the modern PCI transport of a virtio device. Virtual I/O Device 1.2, 4.1.
 *
 * One 64-bit BAR holds everything, a page each, found through vendor capabilities:
 *
 *	0x0000 common configuration      0x3000 notifications: 4 bytes a queue, each an ioeventfd
 *	0x1000 ISR status                0x4000 MSI-X table
 *	0x2000 device configuration      0x5000 MSI-X pending bits
 *
 * Interrupts are MSI-X: one vector a queue and one for config changes, as the driver assigns
 * them. A driver that leaves MSI-X off gets INTx, level-triggered, acknowledged by reading the
 * ISR status. There is no transitional device, and no VIRTIO_PCI_CAP_PCI_CFG window's worth
 * of state beyond what 4.1.4.9 demands.
 *
 * Threads: register accesses from any vCPU; init and finish with the vCPUs parked, on the
 * event loop's thread. Takes virtio->lock and msix->lock.
 */
#ifndef DEVICES_VIRTIO_PCI_H
#define DEVICES_VIRTIO_PCI_H

#include "devices/msix.h"
#include "devices/virtio.h"

struct virtio_pci {
	struct pci_device pci;
	struct virtio *virtio; /* borrowed, outlives this */
	struct wires *wires;   /* borrowed, outlives this */
	struct msix msix;
	struct irq intx;
	struct event_source resample; /* intx.resample_fd: the guest's EOI of the line */
	uint8_t isr;                  /* virtio->lock */
	uint32_t feature_select;      /* virtio->lock, like all that the driver selects */
	uint32_t driver_feature_select;
	uint16_t queue_select;
	uint64_t notify_base; /* bus->lock; the BAR's address, or PCI_UNMAPPED */
	bool has_ioeventfd[VIRTIO_MAX_QUEUES]; /* bus->lock */
	bool trapping_told;                    /* bus->lock */
};

/*
 * Puts `virtio` on the bus as function 0 of the lowest free slot, with a class code of
 * `class_code` (0xccssii). -ENOSPC: the bus is full. Others: as msix_init() and irq_init(). On
 * failure nothing is left behind. Logged by the caller.
 */
must_check int virtio_pci_init(struct virtio_pci *vp, struct virtio *virtio,
			       struct pci_bus *bus, struct wires *wires, uint32_t class_code);
/* Takes it off. Accepts a zeroed object. */
void virtio_pci_finish(struct virtio_pci *vp);

#endif /* DEVICES_VIRTIO_PCI_H */
