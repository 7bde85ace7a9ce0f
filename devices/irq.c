/* SPDX-License-Identifier: MIT */
#include "devices/irq.h"

#include <assert.h>

#include "base/fd.h"
#include "base/trace.h"

int irq_init(struct irq *irq, struct wires *wires)
{
	*irq = (struct irq){ .wires = wires, .fd = -1, .resample_fd = -1 };
	int r = eventfd_create(&irq->fd);
	if (r < 0)
		irq_finish(irq);
	return r;
}

void irq_finish(struct irq *irq)
{
	if (!irq->wires)
		return;
	irq_disconnect(irq);
	if (irq->has_route)
		irq->wires->ops->msi_route_remove(irq->wires, irq->gsi);
	fd_close(&irq->fd);
	fd_close(&irq->resample_fd);
	*irq = (struct irq){ .fd = -1, .resample_fd = -1 };
}

int irq_connect_message(struct irq *irq, struct msi_message message)
{
	struct wires *wires = irq->wires;
	int r = 0;

	if (!irq->has_route) {
		r = wires->ops->msi_route_add(wires, message, &irq->gsi);
		if (r < 0)
			return r;
		irq->has_route = true;
	} else if (irq->message.address != message.address ||
		   irq->message.data != message.data) {
		r = wires->ops->msi_route_update(wires, irq->gsi, message);
		if (r < 0) {
			irq_disconnect(irq); /* rather silent than where it no longer belongs */
			return r;
		}
	}
	irq->message = message;
	if (irq->connected)
		return 0;
	r = wires->ops->irqfd_add(wires, irq->fd, irq->gsi, -1);
	irq->connected = r >= 0;
	return r;
}

int irq_connect_edge(struct irq *irq, uint32_t gsi)
{
	assert(!irq->connected && !irq->has_route);
	irq->gsi = gsi;
	int r = irq->wires->ops->irqfd_add(irq->wires, irq->fd, gsi, -1);
	irq->connected = r >= 0;
	return r;
}

int irq_connect_level(struct irq *irq, uint32_t gsi)
{
	assert(!irq->connected && !irq->has_route);
	int r = 0;
	if (irq->resample_fd < 0)
		r = eventfd_create(&irq->resample_fd);
	if (r < 0)
		return r;
	irq->gsi = gsi;
	r = irq->wires->ops->irqfd_add(irq->wires, irq->fd, gsi, irq->resample_fd);
	irq->connected = r >= 0;
	return r;
}

void irq_disconnect(struct irq *irq)
{
	if (!irq->connected)
		return;
	irq->wires->ops->irqfd_remove(irq->wires, irq->fd, irq->gsi);
	irq->connected = false;
}

void irq_raise(const struct irq *irq)
{
	TRACE(irq_raise, irq->gsi, 0);
	eventfd_signal(irq->fd);
}

bool irq_pending(const struct irq *irq)
{
	return irq->fd >= 0 && !irq->connected && eventfd_pending(irq->fd);
}
