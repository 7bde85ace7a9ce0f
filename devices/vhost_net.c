/* SPDX-License-Identifier: MIT */
#include "devices/vhost_net.h"

#include <errno.h>

#include <linux/vhost_types.h>
#include <linux/virtio_config.h>
#include <linux/virtio_net.h>
#include <linux/virtio_ring.h>

#include "base/fd.h"
#include "base/log.h"

#include "devices/net_uapi.h"
#include "memory/access.h"

#define BIT(bit) (1ull << (bit))
/* What is the kernel's part of the features; offloads are between driver and tap. */
#define FEATURES                                                           \
	(BIT(VIRTIO_RING_F_INDIRECT_DESC) | BIT(VIRTIO_RING_F_EVENT_IDX) | \
	 BIT(VIRTIO_F_VERSION_1) | BIT(VIRTIO_NET_F_MRG_RXBUF))

/* The map's listener: its lock keeps the table. */

static struct vhost_net *vhost_of(struct memory_listener *listener)
{
	return container_of(listener, struct vhost_net, listener);
}

static int region_add(struct memory_listener *listener, struct memory_region *region)
{
	struct vhost_net *v = vhost_of(listener);
	struct vhost_memory *memory = v->memory;

	if (region->kind != MEMORY_RAM)
		return 0;
	if (memory->nregions == VHOST_NET_REGIONS)
		return log_err(-ENOSPC, "vhost: %s", region->name);
	memory->regions[memory->nregions++] = (struct vhost_memory_region){
		.guest_phys_addr = region->gpa,
		.memory_size = region->size,
		.userspace_addr = (uintptr_t)region->host,
	};
	int r = vhost_set_memory(v->fd, memory);
	if (r >= 0)
		return 0;
	memory->nregions--;
	return log_err(r, "vhost: %s", region->name);
}

static void region_del(struct memory_listener *listener, struct memory_region *region)
{
	struct vhost_net *v = vhost_of(listener);
	struct vhost_memory *memory = v->memory;

	for (unsigned int i = 0; i < memory->nregions; i++) {
		if (memory->regions[i].guest_phys_addr != region->gpa)
			continue;
		memory->regions[i] = memory->regions[--memory->nregions];
		int r = vhost_set_memory(v->fd, memory);
		if (r < 0)
			(void)log_err(r, "vhost: removing %s, going on", region->name);
		return;
	}
}

static const struct memory_listener_ops listener_ops = {
	.add = region_add,
	.del = region_del,
};

/* Start and stop */

/* The rings are not translated: the kernel is told where they are in our memory. */
static int set_address(struct vhost_net *v, unsigned int index, const struct virtq *ring)
{
	const uint64_t n = ring->size;
	const void *desc = memory_ptr(v->map, ring->desc, n * sizeof(struct vring_desc));
	/* Flags, index, entries, and the other side's event index. */
	const void *avail = memory_ptr(v->map, ring->driver, 6 + n * sizeof(uint16_t));
	const void *used =
		memory_ptr(v->map, ring->device, 6 + n * sizeof(struct vring_used_elem));

	if (!desc || !avail || !used)
		return -EFAULT;
	const struct vhost_vring_addr address = {
		.index = index,
		.desc_user_addr = (uintptr_t)desc,
		.avail_user_addr = (uintptr_t)avail,
		.used_user_addr = (uintptr_t)used,
	};
	return vhost_set_address(v->fd, &address);
}

static int set_queue(struct vhost_net *v, unsigned int index, const struct vhost_net_wiring *w)
{
	const struct virtq *ring = w->rings[index];

	int r = vhost_set_size(v->fd, index, ring->size);
	if (r >= 0)
		r = vhost_set_base(v->fd, index, ring->next_avail);
	if (r >= 0)
		r = set_address(v, index, ring);
	if (r >= 0)
		r = vhost_set_kick(v->fd, index, w->kicks[index]);
	if (r >= 0)
		r = vhost_set_call(v->fd, index, w->calls[index]);
	if (r >= 0)
		r = vhost_set_error(v->fd, index, w->error_fd);
	return r;
}

/* Cannot fail for an fd that is ours: what was never set is cleared as well. */
static void clear_queue(struct vhost_net *v, unsigned int index)
{
	int r = vhost_set_backend(v->fd, index, -1);

	if (r >= 0)
		r = vhost_set_kick(v->fd, index, -1);
	if (r >= 0)
		r = vhost_set_call(v->fd, index, -1);
	if (r < 0)
		(void)log_err(r, "vhost: stopping a queue, going on");
}

static void clear(struct vhost_net *v)
{
	for (unsigned int i = 0; i < VHOST_NET_QUEUES; i++)
		clear_queue(v, i);
}

void vhost_net_stop(struct vhost_net *v, struct virtq *const rings[VHOST_NET_QUEUES])
{
	if (!v->running)
		return;
	clear(v);
	v->running = false;
	for (unsigned int i = 0; i < VHOST_NET_QUEUES; i++) {
		unsigned int base = rings[i]->next_avail;
		if (vhost_get_base(v->fd, i, &base) < 0)
			rings[i]->broken = true;
		/* Between two frames all that was taken was given back. */
		rings[i]->next_avail = (uint16_t)base;
		rings[i]->next_used = (uint16_t)base;
		rings[i]->told_used = (uint16_t)base;
	}
}

int vhost_net_start(struct vhost_net *v, const struct vhost_net_wiring *wiring)
{
	int r = vhost_set_features(v->fd, wiring->features & FEATURES);

	for (unsigned int i = 0; i < VHOST_NET_QUEUES && r >= 0; i++)
		r = set_queue(v, i, wiring);
	if (r < 0) {
		clear(v);
		return r;
	}
	/* From here on it works, perhaps on one queue only. */
	v->running = true;
	for (unsigned int i = 0; i < VHOST_NET_QUEUES && r >= 0; i++)
		r = vhost_set_backend(v->fd, i, wiring->tap_fd);
	if (r < 0)
		vhost_net_stop(v, wiring->rings);
	return r;
}

int vhost_net_set_call(struct vhost_net *v, unsigned int queue, int eventfd)
{
	return vhost_set_call(v->fd, queue, eventfd);
}

/* Beginning and end */

static int set_up(struct vhost_net *v)
{
	uint64_t features = 0;

	int r = vhost_open(&v->fd);
	if (r >= 0)
		r = vhost_set_owner(v->fd);
	if (r >= 0)
		r = vhost_get_features(v->fd, &features);
	if (r >= 0 && (features & FEATURES) != FEATURES)
		r = -EOPNOTSUPP;
	if (r >= 0)
		r = memory_map_listen(v->map, &v->listener);
	return r;
}

int vhost_net_init(struct vhost_net *v, struct memory_map *map)
{
	*v = (struct vhost_net){
		.fd = -1,
		.map = map,
		.listener = { .ops = &listener_ops, .name = "vhost" },
		.memory = calloc(1, sizeof(*v->memory) +
					    VHOST_NET_REGIONS * sizeof(v->memory->regions[0])),
	};
	int r = v->memory ? set_up(v) : -ENOMEM;
	if (r < 0)
		vhost_net_finish(v);
	return r;
}

void vhost_net_finish(struct vhost_net *v)
{
	if (!v->map)
		return;
	if (v->running)
		clear(v);
	memory_map_unlisten(v->map, &v->listener);
	fd_close(&v->fd);
	free(v->memory);
	*v = (struct vhost_net){ .fd = -1 };
}
