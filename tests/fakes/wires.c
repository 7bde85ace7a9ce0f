/* SPDX-License-Identifier: MIT */
#include "tests/fakes/wires.h"

#include <assert.h>
#include <errno.h>

#include "base/fd.h"

static struct fake_wires *fake_of(struct wires *wires)
{
	return container_of(wires, struct fake_wires, wires);
}

static bool fails(struct fake_wires *w)
{
	return ++w->nr_calls == w->fail_at;
}

static int fake_msi_route_add(struct wires *wires, struct msi_message message,
			      uint32_t *ret_gsi)
{
	struct fake_wires *w = fake_of(wires);
	uint32_t gsi = FAKE_WIRES_FIRST_ROUTE;

	if (fails(w))
		return -EIO;
	while (gsi < FAKE_WIRES_NR_GSIS && w->routed[gsi])
		gsi++;
	if (gsi == FAKE_WIRES_NR_GSIS)
		return -ENOSPC;
	w->routed[gsi] = true;
	w->messages[gsi] = message;
	w->delivered[gsi] = 0;
	w->nr_routes++;
	*ret_gsi = gsi;
	return 0;
}

static int fake_msi_route_update(struct wires *wires, uint32_t gsi, struct msi_message message)
{
	struct fake_wires *w = fake_of(wires);

	assert(w->routed[gsi]);
	if (fails(w))
		return -EIO;
	w->messages[gsi] = message;
	w->nr_updates++;
	return 0;
}

static void fake_msi_route_remove(struct wires *wires, uint32_t gsi)
{
	struct fake_wires *w = fake_of(wires);

	assert(w->routed[gsi]);
	for (unsigned int i = 0; i < w->nr_irqfds; i++)
		assert(w->irqfds[i].gsi != gsi);
	w->routed[gsi] = false;
	w->nr_routes--;
}

/* As KVM does, looks at each eventfd that is connected. */
static void deliver(struct fake_wires *w)
{
	for (unsigned int i = 0; i < w->nr_irqfds; i++) {
		if (eventfd_take(w->irqfds[i].fd))
			w->delivered[w->irqfds[i].gsi]++;
	}
}

static int fake_irqfd_add(struct wires *wires, int fd, uint32_t gsi, int resample_fd)
{
	struct fake_wires *w = fake_of(wires);

	assert(fd >= 0 && (gsi < FAKE_WIRES_FIRST_ROUTE || w->routed[gsi]));
	if (fails(w))
		return -EIO;
	for (unsigned int i = 0; i < w->nr_irqfds; i++) {
		if (w->irqfds[i].fd == fd)
			return -EBUSY;
	}
	w->irqfds[w->nr_irqfds++] = (struct fake_irqfd){ fd, gsi, resample_fd };
	deliver(w);
	return 0;
}

static void fake_irqfd_remove(struct wires *wires, int fd, uint32_t gsi)
{
	struct fake_wires *w = fake_of(wires);
	unsigned int i = 0;

	deliver(w);
	while (i < w->nr_irqfds && (w->irqfds[i].fd != fd || w->irqfds[i].gsi != gsi))
		i++;
	assert(i < w->nr_irqfds);
	w->irqfds[i] = w->irqfds[--w->nr_irqfds];
}

static int fake_ioeventfd_add(struct wires *wires, uint64_t address, int fd)
{
	struct fake_wires *w = fake_of(wires);

	assert(fd >= 0 && w->nr_ioeventfds < FAKE_WIRES_MAX_IOEVENTFDS);
	if (fails(w))
		return -EIO;
	for (unsigned int i = 0; i < w->nr_ioeventfds; i++) {
		if (w->ioeventfds[i].address == address)
			return -EEXIST;
	}
	w->ioeventfds[w->nr_ioeventfds++] = (struct fake_ioeventfd){ address, fd };
	return 0;
}

static void fake_ioeventfd_remove(struct wires *wires, uint64_t address, int fd)
{
	struct fake_wires *w = fake_of(wires);
	unsigned int i = 0;

	while (i < w->nr_ioeventfds &&
	       (w->ioeventfds[i].fd != fd || w->ioeventfds[i].address != address))
		i++;
	assert(i < w->nr_ioeventfds);
	w->ioeventfds[i] = w->ioeventfds[--w->nr_ioeventfds];
}

static int fake_group_add(struct wires *wires, int group_fd)
{
	(void)group_fd;
	return fails(fake_of(wires)) ? -EIO : 0;
}

static void fake_group_remove(struct wires *wires, int group_fd)
{
	(void)wires;
	(void)group_fd;
}

static const struct wires_ops fake_ops = {
	.msi_route_add = fake_msi_route_add,
	.msi_route_update = fake_msi_route_update,
	.msi_route_remove = fake_msi_route_remove,
	.irqfd_add = fake_irqfd_add,
	.irqfd_remove = fake_irqfd_remove,
	.ioeventfd_add = fake_ioeventfd_add,
	.ioeventfd_remove = fake_ioeventfd_remove,
	.group_add = fake_group_add,
	.group_remove = fake_group_remove,
};

void fake_wires_init(struct fake_wires *w)
{
	*w = (struct fake_wires){ .wires = { .ops = &fake_ops } };
}

unsigned int fake_wires_take(struct fake_wires *w, uint32_t gsi)
{
	deliver(w);
	unsigned int count = w->delivered[gsi];
	w->delivered[gsi] = 0;
	return count;
}

unsigned int fake_wires_take_message(struct fake_wires *w, uint64_t address, uint32_t data)
{
	unsigned int count = 0;

	for (uint32_t gsi = FAKE_WIRES_FIRST_ROUTE; gsi < FAKE_WIRES_NR_GSIS; gsi++) {
		if (w->routed[gsi] && w->messages[gsi].address == address &&
		    w->messages[gsi].data == data)
			count += fake_wires_take(w, gsi);
	}
	return count;
}

unsigned int fake_wires_take_any(struct fake_wires *w)
{
	unsigned int count = 0;

	for (uint32_t gsi = 0; gsi < FAKE_WIRES_NR_GSIS; gsi++)
		count += fake_wires_take(w, gsi);
	return count;
}

void fake_wires_eoi(struct fake_wires *w, uint32_t gsi)
{
	for (unsigned int i = 0; i < w->nr_irqfds; i++) {
		if (w->irqfds[i].gsi == gsi && w->irqfds[i].resample_fd >= 0)
			eventfd_signal(w->irqfds[i].resample_fd);
	}
}

bool fake_wires_write(struct fake_wires *w, uint64_t address)
{
	for (unsigned int i = 0; i < w->nr_ioeventfds; i++) {
		if (w->ioeventfds[i].address != address)
			continue;
		eventfd_signal(w->ioeventfds[i].fd);
		return true;
	}
	return false;
}
