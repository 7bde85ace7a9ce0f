/* SPDX-License-Identifier: MIT */
#include "vfio/device.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/fd.h"
#include "base/log.h"

#include "vfio/group.h"

/* A function is reset, and its bus with it, together with no more groups than this. */
#define MAX_RESET_GROUPS 64u

static struct vfio_device *find_device(const struct vfio_group *group, const char *name)
{
	list_for_each(n, &group->devices) {
		struct vfio_device *dev = container_of(n, struct vfio_device, link);
		if (strcmp(dev->name, name) == 0)
			return dev;
	}
	return NULL;
}

static int open_device(struct vfio_device *dev)
{
	struct vfio_device_info info;

	int r = vfio_group_open_device(dev->group->fd, dev->name, &dev->fd);
	if (r == -EACCES) {
		(void)log_err(r,
			      "vfio: open %s: its physical function belongs to vfio-pci and "
			      "wants a token: bind that to its own driver",
			      dev->name);
		return -EPERM;
	}
	if (r < 0)
		return log_err(r, "vfio: open %s", dev->name);
	r = vfio_device_get_info(dev->fd, &info);
	if (r < 0)
		return log_err(r, "vfio: ask what %s is", dev->name);
	if (!(info.flags & VFIO_DEVICE_FLAGS_PCI) || info.num_regions < VFIO_NR_REGIONS ||
	    info.num_irqs <= VFIO_PCI_MSIX_IRQ_INDEX)
		return log_refuse(-EOPNOTSUPP, "vfio: %s is no PCI device", dev->name);
	dev->flags = info.flags;
	return 0;
}

static int get_regions(struct vfio_device *dev)
{
	for (unsigned int i = 0; i < VFIO_NR_REGIONS; i++) {
		int r = vfio_device_get_region(dev->fd, i, &dev->regions[i]);
		if (r < 0)
			return log_err(r, "vfio: ask for region %u of %s", i, dev->name);
	}
	return 0;
}

/* Has an eventfd signalled by an index that not every device has. */
static int listen_to(struct vfio_device *dev, unsigned int index, int *fd)
{
	struct vfio_irq_info info;

	int r = vfio_device_get_irq(dev->fd, index, &info);
	if (r == -EINVAL || (r >= 0 && info.count == 0))
		return 0; /* conventional PCI devices report no errors, old kernels ask for none back */
	if (r < 0)
		return log_err(r, "vfio: ask for interrupt index %u of %s", index, dev->name);
	r = eventfd_create(fd);
	if (r < 0)
		return log_err(r, "vfio: make an eventfd for %s", dev->name);
	r = vfio_irqs_bind(dev->fd, index, 0, 1, fd);
	if (r < 0)
		return log_err(r, "vfio: listen to interrupt index %u of %s", index, dev->name);
	return 0;
}

int vfio_device_attach(struct vfio_device *dev, struct vfio_group *group, const char *name)
{
	*dev = (struct vfio_device){ .group = group, .fd = -1, .err_fd = -1, .req_fd = -1 };
	(void)snprintf(dev->name, sizeof(dev->name), "%s", name);
	if (find_device(group, name))
		return log_err(-EBUSY, "vfio: open %s: it is assigned already", name);
	list_append(&group->devices, &dev->link);
	int r = open_device(dev);
	if (r < 0)
		goto fail;
	r = get_regions(dev);
	if (r < 0)
		goto fail;
	r = listen_to(dev, VFIO_PCI_ERR_IRQ_INDEX, &dev->err_fd);
	if (r < 0)
		goto fail;
	r = listen_to(dev, VFIO_PCI_REQ_IRQ_INDEX, &dev->req_fd);
	if (r < 0)
		goto fail;
	return 0;
fail:
	vfio_device_detach(dev);
	return r;
}

static void stop_listening(struct vfio_device *dev, unsigned int index, int *fd)
{
	if (*fd < 0)
		return;
	if (vfio_irqs_disable(dev->fd, index) < 0)
		log_debug("vfio: %s: interrupt index %u stays on until it is closed", dev->name,
			  index);
	fd_close(fd);
}

void vfio_device_detach(struct vfio_device *dev)
{
	if (!dev->group)
		return;
	stop_listening(dev, VFIO_PCI_REQ_IRQ_INDEX, &dev->req_fd);
	stop_listening(dev, VFIO_PCI_ERR_IRQ_INDEX, &dev->err_fd);
	for (unsigned int i = 0; i < VFIO_NR_REGIONS; i++)
		vfio_region_finish(&dev->regions[i]);
	vfio_close(&dev->fd);
	list_remove(&dev->link);
	dev->group = NULL;
}

/* How many of `size` bytes at `offset` the region has. */
static size_t clip(const struct vfio_region *region, uint64_t offset, size_t size)
{
	if (offset >= region->size)
		return 0;
	return size < region->size - offset ? size : (size_t)(region->size - offset);
}

int vfio_device_read(const struct vfio_device *dev, unsigned int region, uint64_t offset,
		     void *buffer, size_t size)
{
	const struct vfio_region *from = &dev->regions[region];

	size = clip(from, offset, size);
	return size == 0 ? 0 : vfio_pread(dev->fd, from->offset + offset, buffer, size);
}

int vfio_device_write(const struct vfio_device *dev, unsigned int region, uint64_t offset,
		      const void *buffer, size_t size)
{
	const struct vfio_region *to = &dev->regions[region];

	size = clip(to, offset, size);
	return size == 0 ? 0 : vfio_pwrite(dev->fd, to->offset + offset, buffer, size);
}

/* True for a function that is ours and in use, other than dev itself, and not to be hit. */
static bool out_of_reach(const struct vfio_device *dev, const struct vfio_group *group,
			 const struct vfio_pci_dependent_device *function,
			 enum vfio_reach reach)
{
	char name[VFIO_NAME_SIZE];

	(void)snprintf(name, sizeof(name), "%04x:%02x:%02x.%x", function->segment,
		       function->bus, function->devfn >> 3, function->devfn & 7u);
	const struct vfio_device *other = find_device(group, name);
	if (!other || other == dev || reach == VFIO_REACH_ALL)
		return false;
	return reach == VFIO_REACH_UNUSED || __atomic_load_n(&other->touched, __ATOMIC_SEQ_CST);
}

/*
 * Names the groups whose functions the reset would hit, each once. -EPERM: one of them is not
 * ours. -EBUSY: another device in use is among them, which it may not hit.
 */
static int collect_groups(const struct vfio_device *dev, enum vfio_reach reach,
			  const struct vfio_pci_dependent_device *functions, unsigned int nr,
			  int32_t *fds, unsigned int max)
{
	unsigned int n = 0;

	for (unsigned int i = 0; i < nr; i++) {
		const struct vfio_group *group =
			vfio_group_find(dev->group->vfio, functions[i].group_id);
		if (!group)
			return -EPERM;
		if (out_of_reach(dev, group, &functions[i], reach))
			return -EBUSY;
		unsigned int at = 0;
		while (at < n && fds[at] != group->fd)
			at++;
		if (at < n)
			continue;
		if (n == max)
			return -E2BIG;
		fds[n++] = group->fd;
	}
	return (int)n;
}

/* A reset of the bus or slot, provided that it hits no further than it may. */
static int reset_bus(const struct vfio_device *dev, enum vfio_reach reach)
{
	autofree struct vfio_pci_dependent_device *functions = NULL;
	int32_t fds[MAX_RESET_GROUPS];
	unsigned int nr;

	int r = vfio_device_get_hot_reset(dev->fd, &functions, &nr);
	if (r < 0)
		return r;
	r = collect_groups(dev, reach, functions, nr, fds, MAX_RESET_GROUPS);
	if (r < 0)
		return r;
	return vfio_device_hot_reset(dev->fd, fds, (unsigned int)r);
}

int vfio_device_reset(struct vfio_device *dev, enum vfio_reach reach)
{
	bool resets = dev->flags & VFIO_DEVICE_FLAGS_RESET;

	/* Where D3 is the only way for one function, a reset of its whole bus is more thorough. */
	bool prefer_bus = dev->has_pm_reset && !dev->has_flr;
	if (resets && !prefer_bus && vfio_device_reset_function(dev->fd) >= 0)
		return 0;
	if (reset_bus(dev, VFIO_REACH_UNUSED) >= 0)
		return 0;
	if (resets && prefer_bus && vfio_device_reset_function(dev->fd) >= 0)
		return 0;
	/* The others' config space is saved and restored by the kernel, interrupts included. */
	return reset_bus(dev, reach) >= 0 ? 0 : -EOPNOTSUPP;
}
