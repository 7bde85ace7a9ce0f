/* SPDX-License-Identifier: MIT */
/*
 * msix.h - the MSI-X capability, table and pending bits of one function, emulated or assigned.
 * PCI Express Base Specification 5.0, 7.7.2.
 *
 * A vector that is enabled and unmasked for the first time gets an irq (an eventfd); from then
 * on, masked or not, whoever raises it signals that eventfd. Unmasked it is connected to the
 * guest; masked it is not, and a signal stays in the eventfd, which is the pending bit.
 *
 * Threads: any. Takes msix->lock, under bus->lock where a config write is the cause.
 */
#ifndef DEVICES_MSIX_H
#define DEVICES_MSIX_H

#include "devices/irq.h"
#include "devices/pci.h"

#define MSIX_MAX_VECTORS 2048u
#define MSIX_ENTRY_SIZE 16u
#define MSIX_CAP_SIZE 12u

struct msix;

struct msix_ops {
	/*
	 * The set of vectors in use grew, or MSI-X was just enabled (perhaps with none in use):
	 * vectors[i].irq.wires is not NULL if i is in use. An assigned device binds the new eventfds
	 * to the hardware here, before they are connected. < 0: logged by the callee; the
	 * vectors stay silent. Under msix->lock.
	 */
	int (*bind)(struct msix *msix);
	/* MSI-X was disabled, no vector is in use any more. Under msix->lock. */
	void (*unbind)(struct msix *msix);
};

struct msix_config {
	unsigned int cap_offset; /* where the capability lies, linked by the caller */
	unsigned int nr_vectors; /* 1 to 2048 */
	unsigned int table_bar;
	uint32_t table_offset; /* multiple of 8 */
	unsigned int pba_bar;
	uint32_t pba_offset; /* multiple of 8 */
};

struct msix_vector {
	uint32_t entry[4]; /* address low, address high, data, vector control */
	struct irq irq;    /* irq.wires NULL: not in use yet */
};

struct msix {
	pthread_mutex_t lock;
	struct pci_device *dev; /* borrowed, outlives this */
	struct wires *wires;    /* borrowed, outlives this */
	const struct msix_ops *ops;
	struct msix_config config;
	struct msix_vector *vectors; /* owned; lock */
	bool enabled;                /* lock */
	bool function_masked;        /* lock */
};

/*
 * Fills in the capability at config.cap_offset and masks every vector. ops: NULL for our own
 * devices. -EINVAL: nr_vectors, or a table or PBA that is misaligned, outside of its BAR or
 * overlapping the other. -ENOMEM. On failure nothing is left behind.
 */
must_check int msix_init(struct msix *msix, struct pci_device *dev, struct wires *wires,
			 const struct msix_config *config, const struct msix_ops *ops);
/* Disables and frees. Accepts a zeroed object. */
void msix_finish(struct msix *msix);
/* Function reset: disabled, every vector masked, nothing pending. */
void msix_reset(struct msix *msix);

/* The driver has switched MSI-X on. */
bool msix_is_enabled(struct msix *msix);

/* After a config write: looks at the control word and acts. Under bus->lock. */
void msix_control_changed(struct msix *msix);

/*
 * A guest access to [offset, offset + size) of BAR `bar`. False: not the table's or PBA's
 * business. True: done (reads fill *ret). Accesses other than aligned 4 or 8 bytes read as
 * ones and write nothing.
 */
bool msix_read(struct msix *msix, unsigned int bar, uint64_t offset, unsigned int size,
	       uint64_t *ret);
bool msix_write(struct msix *msix, unsigned int bar, uint64_t offset, unsigned int size,
		uint64_t value);

/*
 * Our own device raises a vector: delivered, pending while masked, or dropped while MSI-X is
 * off. A vector beyond the table is ignored: queues take their vectors from the guest.
 */
void msix_raise(struct msix *msix, unsigned int vector);
/*
 * The eventfd that raises a vector, for somebody else to signal; made if need be. Borrowed, and
 * the vector's until MSI-X is switched off. -1: it is off, the vector is beyond the table, or
 * there is no eventfd to be had.
 */
int msix_eventfd(struct msix *msix, unsigned int vector);

#endif /* DEVICES_MSIX_H */
