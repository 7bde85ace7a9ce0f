/* SPDX-License-Identifier: MIT */
/*
 * irq.h - one interrupt: an eventfd, and what it is connected to just now.
 *
 * Whoever raises it (our device model, or the kernel for an assigned device) signals the
 * eventfd and need not know what happens next. Connected, the signal goes to the guest
 * without passing user space. Not connected (masked), it stays in the eventfd: that *is* the
 * pending bit, and connecting again delivers it, exactly once.
 *
 * Threads: raise and pending from any; connect and disconnect under the owner's lock.
 */
#ifndef DEVICES_IRQ_H
#define DEVICES_IRQ_H

#include <stdbool.h>

#include "base/util.h"

#include "devices/wires.h"

struct irq {
	struct wires *wires; /* borrowed, outlives this */
	int fd;              /* owned eventfd; -1: not in use */
	int resample_fd;     /* owned eventfd of a level-triggered line; else -1 */
	uint32_t gsi;        /* while has_route or connected */
	bool has_route;      /* gsi is an MSI route of ours */
	bool connected;
	struct msi_message message;
};

/* Makes the eventfd; not connected. -EMFILE, -ENFILE, -ENOMEM; then as irq_finish() leaves it. */
must_check int irq_init(struct irq *irq, struct wires *wires);
/* Disconnects, frees route and eventfds. Accepts a zeroed object and a finished one. */
void irq_finish(struct irq *irq);

/* Connects to a message, or changes it while connected. -ENOSPC and the like: not connected. */
must_check int irq_connect_message(struct irq *irq, struct msi_message message);
/* Connects to an edge-triggered interrupt line. */
must_check int irq_connect_edge(struct irq *irq, uint32_t gsi);
/* Connects to a level-triggered line; resample_fd is then signalled at the guest's EOI. */
must_check int irq_connect_level(struct irq *irq, uint32_t gsi);
/* Signals stay in the eventfd from now on. Does nothing if it is not connected. */
void irq_disconnect(struct irq *irq);

void irq_raise(const struct irq *irq);
/* Raised while not connected. */
bool irq_pending(const struct irq *irq);

#endif /* DEVICES_IRQ_H */
