/* SPDX-License-Identifier: MIT */
/*
 * irq.h - the interrupts of one assigned device: INTx, MSI or MSI-X, from the kernel's
 * eventfds straight into the guest.
 *
 * Concepts
 *  - The kernel signals an eventfd for each interrupt; connected (devices/irq.h) it reaches
 *    the guest with nothing of this program in between. A masked vector is one that is not
 *    connected: what arrives meanwhile stays in its eventfd, which is its pending bit. The
 *    hardware itself is never masked.
 *  - mode: the kernel serves one of the three at a time. The guest's config writes say which:
 *    MSI-X if it is enabled, else MSI if that is, else INTx if the device has a pin.
 *  - INTx: the kernel masks the line when it fires; the guest's EOI, by way of the resample
 *    eventfd, unmasks it.
 *  - MSI-X grows: vectors are bound as the guest unmasks them for the first time.
 *
 * Threads: any; takes irq->lock, under bus->lock or msix->lock where the guest is the cause.
 * The guest causes everything after vfio_irq_start(): trouble is logged within a budget, and
 * what could not be switched on stays silent.
 */
#ifndef VFIO_IRQ_H
#define VFIO_IRQ_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/log.h"

#include "devices/irq.h"
#include "devices/msix.h"

struct vfio_device;

#define VFIO_MAX_MSI 32u
#define VFIO_NO_INTX (-1)

enum vfio_irq_mode { VFIO_IRQ_NONE, VFIO_IRQ_INTX, VFIO_IRQ_MSI, VFIO_IRQ_MSIX };

/* What the guest wrote into the MSI capability. */
struct vfio_msi {
	bool enabled;
	unsigned int nr_vectors;    /* a power of two up to VFIO_MAX_MSI */
	struct msi_message message; /* of vector 0 */
	uint32_t masked;            /* a bit for each vector */
};

struct vfio_irq {
	struct vfio_device *device; /* borrowed, outlives this */
	struct wires *wires;        /* borrowed, outlives this */
	unsigned int nr_intx;       /* what the kernel offers */
	unsigned int nr_msi;
	unsigned int nr_msix;
	bool msix_resizes; /* it can add a vector without switching the others off */

	pthread_mutex_t lock; /* for all below but msix, which has its own */
	bool started;
	enum vfio_irq_mode mode; /* what the kernel is set to */
	int intx_gsi;            /* or VFIO_NO_INTX */
	struct irq intx;         /* in use in mode INTx */
	struct vfio_msi msi;     /* as the guest wants it */
	struct irq msi_vectors[VFIO_MAX_MSI];
	unsigned int msi_on; /* how many of them are in use */
	bool msix_wanted;
	unsigned int msix_on;  /* the hardware is enabled with so many vectors; 0: it is not */
	unsigned int msix_max; /* no more than these were to be had */
	bool *msix_bound;      /* owned; those whose eventfd the kernel has */
	struct msix msix;
	struct log_budget budget;
};

/* Asks the kernel what the device has; failures are logged. All is off. */
must_check int vfio_irq_init(struct vfio_irq *irq, struct vfio_device *device,
			     struct wires *wires);
/* Switches everything off. Accepts what a failed init left, and a zeroed object. */
void vfio_irq_finish(struct vfio_irq *irq);

/*
 * Gives the device an MSI-X capability, table and pending bits, as msix_init(); not logged.
 * Before start.
 */
must_check int vfio_irq_add_msix(struct vfio_irq *irq, struct pci_device *dev,
				 const struct msix_config *config);

/*
 * From now on interrupts are served; INTx at once. intx_gsi: the line of the device's pin, or
 * VFIO_NO_INTX. < 0, not logged: INTx could not be switched on; nothing is.
 */
must_check int vfio_irq_start(struct vfio_irq *irq, int intx_gsi);
/* Function reset: everything off, MSI and MSI-X as after power-up, until the next start. */
void vfio_irq_stop(struct vfio_irq *irq);

/* The guest wrote into its MSI capability. */
void vfio_irq_set_msi(struct vfio_irq *irq, const struct vfio_msi *msi);
/* The pending bits of MSI: masked vectors that were signalled. */
uint32_t vfio_irq_msi_pending(struct vfio_irq *irq);

#endif /* VFIO_IRQ_H */
