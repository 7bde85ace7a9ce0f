/* SPDX-License-Identifier: MIT */
#include "vmm/kvm_wires.h"

#include <errno.h>
#include <inttypes.h>

#include "base/fd.h"
#include "base/log.h"

#include "vmm/kvm.h"

/* KVM's table may be larger; no guest of ours has more vectors in use. */
#define MAX_GSIS 4096u

static struct kvm_wires *wires_of(struct wires *wires)
{
	return container_of(wires, struct kvm_wires, wires);
}

/* KVM takes the whole table each time. Under the lock. */
static int set_routes(struct kvm_wires *w)
{
	struct kvm_irq_routing *routing = w->routing;

	routing->nr = 0;
	routing->flags = 0;
	for (uint32_t gsi = 0; gsi < w->nr_gsis; gsi++) {
		struct kvm_irq_routing_entry *e = &routing->entries[routing->nr];
		if (gsi >= KVM_WIRES_PINS && !w->used[gsi])
			continue;
		*e = (struct kvm_irq_routing_entry){ .gsi = gsi };
		if (gsi < KVM_WIRES_PINS) {
			e->type = KVM_IRQ_ROUTING_IRQCHIP;
			e->u.irqchip.irqchip = KVM_IRQCHIP_IOAPIC;
			e->u.irqchip.pin = gsi;
		} else {
			e->type = KVM_IRQ_ROUTING_MSI;
			e->u.msi.address_lo = (uint32_t)w->messages[gsi].address;
			e->u.msi.address_hi = (uint32_t)(w->messages[gsi].address >> 32);
			e->u.msi.data = w->messages[gsi].data;
		}
		routing->nr++;
	}
	return kvm_set_routes(w->vm_fd, routing);
}

static int wires_msi_route_add(struct wires *wires, struct msi_message message,
			       uint32_t *ret_gsi)
{
	struct kvm_wires *w = wires_of(wires);
	int r = -ENOSPC;

	pthread_mutex_lock(&w->lock);
	for (uint32_t gsi = KVM_WIRES_PINS; gsi < w->nr_gsis; gsi++) {
		if (w->used[gsi])
			continue;
		w->used[gsi] = true;
		w->messages[gsi] = message;
		r = set_routes(w);
		w->used[gsi] = r >= 0;
		if (r >= 0)
			*ret_gsi = gsi;
		break;
	}
	pthread_mutex_unlock(&w->lock);
	return r;
}

static int wires_msi_route_update(struct wires *wires, uint32_t gsi, struct msi_message message)
{
	struct kvm_wires *w = wires_of(wires);

	pthread_mutex_lock(&w->lock);
	struct msi_message before = w->messages[gsi];
	w->messages[gsi] = message;
	int r = set_routes(w);
	if (r < 0)
		w->messages[gsi] = before;
	pthread_mutex_unlock(&w->lock);
	return r;
}

static void wires_msi_route_remove(struct wires *wires, uint32_t gsi)
{
	struct kvm_wires *w = wires_of(wires);

	/* The entry leaves KVM's table with the next change; nothing refers to it till then. */
	pthread_mutex_lock(&w->lock);
	w->used[gsi] = false;
	pthread_mutex_unlock(&w->lock);
}

static int wires_irqfd_add(struct wires *wires, int fd, uint32_t gsi, int resample_fd)
{
	return kvm_irqfd_add(wires_of(wires)->vm_fd, fd, gsi, resample_fd);
}

static void wires_irqfd_remove(struct wires *wires, int fd, uint32_t gsi)
{
	int r = kvm_irqfd_remove(wires_of(wires)->vm_fd, fd, gsi);
	if (r < 0)
		(void)log_err(r, "kvm: removing the irqfd of gsi %u, going on", gsi);
}

static int wires_ioeventfd_add(struct wires *wires, uint64_t address, int fd)
{
	return kvm_ioeventfd_add(wires_of(wires)->vm_fd, fd, address);
}

static void wires_ioeventfd_remove(struct wires *wires, uint64_t address, int fd)
{
	int r = kvm_ioeventfd_remove(wires_of(wires)->vm_fd, fd, address);
	if (r < 0)
		(void)log_err(r, "kvm: removing the ioeventfd at 0x%" PRIx64 ", going on",
			      address);
}

static int wires_group_add(struct wires *wires, int group_fd)
{
	struct kvm_wires *w = wires_of(wires);
	int r = 0;

	pthread_mutex_lock(&w->lock);
	if (w->vfio_fd < 0)
		r = kvm_create_vfio_device(w->vm_fd, &w->vfio_fd);
	if (r >= 0)
		r = kvm_vfio_group_add(w->vfio_fd, group_fd);
	pthread_mutex_unlock(&w->lock);
	return r;
}

static void wires_group_remove(struct wires *wires, int group_fd)
{
	struct kvm_wires *w = wires_of(wires);

	pthread_mutex_lock(&w->lock);
	int r = kvm_vfio_group_remove(w->vfio_fd, group_fd);
	pthread_mutex_unlock(&w->lock);
	if (r < 0)
		(void)log_err(r, "kvm: removing a vfio group, going on");
}

static const struct wires_ops kvm_wires_ops = {
	.msi_route_add = wires_msi_route_add,
	.msi_route_update = wires_msi_route_update,
	.msi_route_remove = wires_msi_route_remove,
	.irqfd_add = wires_irqfd_add,
	.irqfd_remove = wires_irqfd_remove,
	.ioeventfd_add = wires_ioeventfd_add,
	.ioeventfd_remove = wires_ioeventfd_remove,
	.group_add = wires_group_add,
	.group_remove = wires_group_remove,
};

int kvm_wires_init(struct kvm_wires *w, int vm_fd)
{
	int nr = kvm_check(vm_fd, KVM_CAP_IRQ_ROUTING);
	uint32_t nr_gsis =
		nr > (int)MAX_GSIS || nr <= (int)KVM_WIRES_PINS ? MAX_GSIS : (uint32_t)nr;

	*w = (struct kvm_wires){
		.wires = { .ops = &kvm_wires_ops },
		.vm_fd = vm_fd,
		.vfio_fd = -1,
		.nr_gsis = nr_gsis,
	};
	pthread_mutex_init(&w->lock, NULL);
	w->used = calloc(nr_gsis, sizeof(*w->used));
	w->messages = calloc(nr_gsis, sizeof(*w->messages));
	w->routing = calloc(1, sizeof(*w->routing) + nr_gsis * sizeof(w->routing->entries[0]));
	int r = -ENOMEM;
	if (!w->used || !w->messages || !w->routing)
		goto fail;
	r = set_routes(w);
	if (r < 0)
		goto fail;
	return 0;
fail:
	(void)log_err(r, "kvm: interrupt routes");
	kvm_wires_finish(w);
	return r;
}

void kvm_wires_finish(struct kvm_wires *w)
{
	if (!w->nr_gsis)
		return;
	fd_close(&w->vfio_fd);
	free(w->routing);
	free(w->messages);
	free(w->used);
	pthread_mutex_destroy(&w->lock);
	*w = (struct kvm_wires){ .vfio_fd = -1 };
}
