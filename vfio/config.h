/* SPDX-License-Identifier: MIT */
/*
 * config.h - which bits of an assigned device's config space are ours, and what they say.
 *
 * Concepts
 *  - emulated bits live in the shadow, which is pci_device.config; all others are the
 *    device's own and are read from it at each access. The kernel stands behind that and
 *    filters what reaches the hardware, so that our emulation is a view and no fence.
 *  - The capability chains are linked anew from what the guest may see. A function on our root
 *    bus has no link above it: a PCI Express endpoint is shown as one that is integrated into
 *    the root complex.
 *
 * Threads: under bus->lock, or before the device is on a bus.
 */
#ifndef VFIO_CONFIG_H
#define VFIO_CONFIG_H

#include "devices/msix.h"
#include "devices/pci.h"
#include "vfio/irq.h"

struct vfio_config {
	uint8_t emulated[PCI_CONFIG_SIZE]; /* bits that are ours */
	unsigned int pm;                   /* offset of the capability; 0: there is none */
	unsigned int msi;
	uint16_t msi_flags; /* its control word after a reset */
	bool has_msix;
	struct msix_config msix; /* if has_msix */
	bool has_flr;
	bool has_pm_reset;
};

/*
 * Fills in the shadow from `bytes`, the first `size` bytes (256 or 4096) of the device's
 * config space, after pci_device_init() and before any BAR is set: those are left empty. What
 * `irq` says the kernel does not offer is not shown. -EOPNOTSUPP, logged: a bridge or port.
 */
must_check int vfio_config_init(struct vfio_config *config, struct pci_device *pci,
				const uint8_t *bytes, unsigned int size,
				const struct vfio_irq *irq);
/* Function reset: the emulated capabilities are as after init. */
void vfio_config_reset(const struct vfio_config *config, struct pci_device *pci);

/* The emulated bits of an access to [offset, offset + size). */
uint32_t vfio_config_emulated(const struct vfio_config *config, unsigned int offset,
			      unsigned int size);

/* True if [offset, offset + size) touches the MSI capability, the MSI-X control word. */
bool vfio_config_touches_msi(const struct vfio_config *config, unsigned int offset,
			     unsigned int size);
bool vfio_config_touches_msix(const struct vfio_config *config, unsigned int offset,
			      unsigned int size);
/* What the shadow of the MSI capability says; and its pending bits, where it shows them. */
void vfio_config_get_msi(const struct vfio_config *config, const struct pci_device *pci,
			 struct vfio_msi *ret);
void vfio_config_set_msi_pending(const struct vfio_config *config, struct pci_device *pci,
				 uint32_t pending);

#endif /* VFIO_CONFIG_H */
