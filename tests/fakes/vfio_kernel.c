/* SPDX-License-Identifier: MIT */
#include "tests/fakes/vfio_kernel.h"

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <sys/mman.h>

#include <linux/pci_regs.h>

#include "base/fd.h"
#include "base/range.h"
#include "base/trace.h"

struct fake_kernel fake;

#define REGION_SHIFT 40u

/* Held while a call is at work, as the real kernel holds its own locks. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void unlock(pthread_mutex_t **held)
{
	pthread_mutex_unlock(*held);
}

#define GUARD                                                                   \
	pthread_mutex_t *held __attribute__((cleanup(unlock), unused)) = &lock; \
	pthread_mutex_lock(held)

static const struct wires_ops fake_wires_ops;

void fake_record(const char *fmt, ...)
{
	va_list args;

	if (fake.nr_lines == FAKE_MAX_LINES)
		return;
	va_start(args, fmt);
	(void)vsnprintf(fake.lines[fake.nr_lines++], FAKE_LINE_SIZE, fmt, args);
	va_end(args);
}

void fake_forget_record(void)
{
	fake.nr_lines = 0;
}

static bool line_starts(unsigned int line, const char *start)
{
	return strncmp(fake.lines[line], start, strlen(start)) == 0;
}

int fake_first(const char *start)
{
	for (unsigned int i = 0; i < fake.nr_lines; i++) {
		if (line_starts(i, start))
			return (int)i;
	}
	return -1;
}

int fake_last(const char *start)
{
	for (unsigned int i = fake.nr_lines; i-- > 0;) {
		if (line_starts(i, start))
			return (int)i;
	}
	return -1;
}

unsigned int fake_count(const char *start)
{
	unsigned int count = 0;

	for (unsigned int i = 0; i < fake.nr_lines; i++)
		count += line_starts(i, start);
	return count;
}

static void record_others(const char *event, uint64_t a, uint64_t b)
{
	if (strcmp(event, "inhibitor_raise") == 0)
		fake_record("inhibitor_raise");
	if (strcmp(event, "inhibitor_lower") == 0)
		fake_record("inhibitor_lower");
	if (strcmp(event, "ram_discard") == 0)
		fake_record("discard 0x%llx 0x%llx", (unsigned long long)a,
			    (unsigned long long)b);
}

void fake_init(void)
{
	memset(&fake, 0, sizeof(fake));
	fake.fail_errno = -EIO;
	fake.max_routes = FAKE_MAX_GSIS - FAKE_FIRST_ROUTE;
	fake.wires.ops = &fake_wires_ops;
	trace_listen(record_others);
}

static void free_region(struct fake_region *region)
{
	if (!region->memory)
		return;
	free(region->memory);
	(void)munmap(region->window, region->window_size);
}

void fake_finish(void)
{
	trace_listen(NULL);
	for (unsigned int i = 0; i < fake.nr_devices; i++) {
		for (unsigned int r = 0; r < FAKE_NR_REGIONS; r++)
			free_region(&fake.devices[i].regions[r]);
	}
}

/* Counts a call that can fail; true if this one is to. */
static bool fails(void)
{
	if (++fake.nr_calls != fake.fail_at)
		return false;
	fake.failed = true;
	fake_record("fails");
	return true;
}

struct fake_group *fake_add_group(unsigned int number)
{
	struct fake_group *group = &fake.groups[fake.nr_groups++];

	*group = (struct fake_group){ .number = number };
	return group;
}

struct fake_device *fake_add_device(const char *name, struct fake_group *group)
{
	struct fake_device *dev = &fake.devices[fake.nr_devices++];

	*dev = (struct fake_device){ .group = group };
	(void)snprintf(dev->name, sizeof(dev->name), "%s", name);
	(void)strcpy(dev->driver, "vfio-pci");
	fake_set_16(dev, PCI_VENDOR_ID, 0x1234);
	fake_set_16(dev, PCI_DEVICE_ID, 0x11e8);
	memset(dev->writable + PCI_COMMAND, 0xff, 2);
	dev->regions[VFIO_PCI_CONFIG_REGION_INDEX].size = FAKE_CONFIG_SIZE;
	for (unsigned int i = 0; i < nitems(dev->irqs); i++) {
		dev->irqs[i].unmask_fd = -1;
		for (unsigned int v = 0; v < FAKE_MAX_VECTORS; v++)
			dev->irqs[i].fds[v] = -1;
	}
	return dev;
}

struct fake_device *fake_add_mdev(const char *uuid, struct fake_group *group)
{
	struct fake_device *dev = fake_add_device(uuid, group);

	dev->is_mdev = true;
	(void)strcpy(dev->driver, "slices_of_something");
	return dev;
}

void fake_set_16(struct fake_device *dev, unsigned int offset, uint16_t value)
{
	dev->config[offset] = (uint8_t)value;
	dev->config[offset + 1] = (uint8_t)(value >> 8);
}

void fake_set_32(struct fake_device *dev, unsigned int offset, uint32_t value)
{
	fake_set_16(dev, offset, (uint16_t)value);
	fake_set_16(dev, offset + 2, (uint16_t)(value >> 16));
}

uint16_t fake_get_16(const struct fake_device *dev, unsigned int offset)
{
	return (uint16_t)(dev->config[offset] | dev->config[offset + 1] << 8);
}

void fake_set_bar(struct fake_device *dev, unsigned int bar, uint32_t bar_register,
		  uint64_t size, uint32_t flags)
{
	struct fake_region *region = &dev->regions[bar];

	if (bar < 6)
		fake_set_32(dev, PCI_BASE_ADDRESS_0 + 4 * bar, bar_register);
	free_region(region);
	*region = (struct fake_region){
		.size = size,
		.flags = flags | VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE,
		.readable = size,
	};
	uint64_t allocated = align_up(size, 4096);
	region->memory = aligned_alloc(4096, allocated);
	memset(region->memory, 0, allocated);
	region->window_size = allocated + 4096; /* of no bytes there would be no map */
	void *p =
		mmap(NULL, region->window_size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED)
		abort();
	region->window = p;
}

void fake_link_capability(struct fake_device *dev, unsigned int previous, unsigned int offset,
			  uint8_t id)
{
	dev->config[previous ? previous + 1 : PCI_CAPABILITY_LIST] = (uint8_t)offset;
	dev->config[offset] = id;
	dev->config[PCI_STATUS] |= PCI_STATUS_CAP_LIST;
}

bool fake_fire(struct fake_device *dev, unsigned int index, unsigned int vector)
{
	struct fake_irq *irq = &dev->irqs[index];

	if (irq->on <= vector || irq->fds[vector] < 0)
		return false;
	eventfd_signal(irq->fds[vector]);
	return true;
}

/* The kernel masks the line as it signals it. */
static void look_at_line(struct fake_device *dev)
{
	struct fake_irq *irq = &dev->irqs[VFIO_PCI_INTX_IRQ_INDEX];

	if (!irq->on || irq->masked || !irq->asserted)
		return;
	irq->masked = true;
	eventfd_signal(irq->fds[0]);
}

void fake_intx(struct fake_device *dev, bool asserted)
{
	dev->irqs[VFIO_PCI_INTX_IRQ_INDEX].asserted = asserted;
	look_at_line(dev);
}

void fake_run(void)
{
	for (unsigned int i = 0; i < fake.nr_devices; i++) {
		struct fake_irq *irq = &fake.devices[i].irqs[VFIO_PCI_INTX_IRQ_INDEX];
		if (irq->unmask_fd >= 0 && eventfd_take(irq->unmask_fd)) {
			irq->masked = false;
			look_at_line(&fake.devices[i]);
		}
	}
	for (unsigned int i = 0; i < fake.nr_irqfds; i++) {
		if (eventfd_take(fake.irqfds[i].fd))
			fake.delivered[fake.irqfds[i].gsi]++;
	}
}

void fake_eoi(uint32_t gsi)
{
	for (unsigned int i = 0; i < fake.nr_irqfds; i++) {
		if (fake.irqfds[i].gsi == gsi && fake.irqfds[i].resample_fd >= 0)
			eventfd_signal(fake.irqfds[i].resample_fd);
	}
	fake_run();
}

unsigned int fake_delivered(uint64_t address, uint32_t data)
{
	unsigned int count = 0;

	fake_run();
	for (unsigned int gsi = FAKE_FIRST_ROUTE; gsi < FAKE_MAX_GSIS; gsi++) {
		if (fake.route_used[gsi] && fake.routes[gsi].address == address &&
		    fake.routes[gsi].data == data)
			count += fake.delivered[gsi];
	}
	return count;
}

/* The hypervisor. */

static int fake_msi_route_add(struct wires *wires, struct msi_message message,
			      uint32_t *ret_gsi)
{
	(void)wires;
	GUARD;
	if (fails())
		return fake.fail_errno;
	if (fake.nr_routes == fake.max_routes)
		return -ENOSPC;
	uint32_t gsi = FAKE_FIRST_ROUTE;
	while (fake.route_used[gsi])
		gsi++;
	fake.route_used[gsi] = true;
	fake.routes[gsi] = message;
	fake.delivered[gsi] = 0;
	fake.nr_routes++;
	*ret_gsi = gsi;
	return 0;
}

static int fake_msi_route_update(struct wires *wires, uint32_t gsi, struct msi_message message)
{
	(void)wires;
	GUARD;
	if (fails())
		return fake.fail_errno;
	fake.routes[gsi] = message;
	return 0;
}

static void fake_msi_route_remove(struct wires *wires, uint32_t gsi)
{
	(void)wires;
	GUARD;
	fake.route_used[gsi] = false;
	fake.nr_routes--;
}

static int fake_irqfd_add(struct wires *wires, int fd, uint32_t gsi, int resample_fd)
{
	(void)wires;
	GUARD;
	if (fails())
		return fake.fail_errno;
	for (unsigned int i = 0; i < fake.nr_irqfds; i++) {
		if (fake.irqfds[i].fd == fd)
			return -EBUSY;
	}
	fake_record("irqfd_add %u", gsi);
	fake.irqfds[fake.nr_irqfds++] =
		(struct fake_irqfd){ .fd = fd, .gsi = gsi, .resample_fd = resample_fd };
	return 0;
}

static void fake_irqfd_remove(struct wires *wires, int fd, uint32_t gsi)
{
	(void)wires;
	GUARD;
	fake_record("irqfd_remove %u", gsi);
	for (unsigned int i = 0; i < fake.nr_irqfds; i++) {
		if (fake.irqfds[i].fd == fd && fake.irqfds[i].gsi == gsi) {
			fake.irqfds[i] = fake.irqfds[--fake.nr_irqfds];
			return;
		}
	}
}

static struct fake_group *find_group(int fd)
{
	for (unsigned int i = 0; i < fake.nr_groups; i++) {
		if (fake.groups[i].fd == fd)
			return &fake.groups[i];
	}
	return NULL;
}

/* A wrong fd is a mistake of the code under test, as plain as any. */
static struct fake_group *group_at(int fd)
{
	struct fake_group *group = find_group(fd);

	if (!group)
		abort();
	return group;
}

static int fake_group_add(struct wires *wires, int group_fd)
{
	(void)wires;
	GUARD;
	if (fails())
		return fake.fail_errno;
	fake_record("kvm_add %u", group_at(group_fd)->number);
	fake.nr_shown++;
	return 0;
}

static void fake_group_remove(struct wires *wires, int group_fd)
{
	(void)wires;
	GUARD;
	fake_record("kvm_remove %u", group_at(group_fd)->number);
	fake.nr_shown--;
}

static const struct wires_ops fake_wires_ops = {
	.msi_route_add = fake_msi_route_add,
	.msi_route_update = fake_msi_route_update,
	.msi_route_remove = fake_msi_route_remove,
	.irqfd_add = fake_irqfd_add,
	.irqfd_remove = fake_irqfd_remove,
	.group_add = fake_group_add,
	.group_remove = fake_group_remove,
};

/* What uapi.h promises. */

static unsigned int number_of(const struct fake_container *container)
{
	return (unsigned int)(container - fake.containers);
}

static struct fake_container *find_container(int fd)
{
	for (unsigned int i = 0; i < FAKE_MAX; i++) {
		if (fake.containers[i].fd == fd)
			return &fake.containers[i];
	}
	return NULL;
}

static struct fake_device *find_device(int fd)
{
	for (unsigned int i = 0; i < fake.nr_devices; i++) {
		if (fake.devices[i].fd == fd)
			return &fake.devices[i];
	}
	return NULL;
}

static struct fake_container *container_at(int fd)
{
	struct fake_container *container = find_container(fd);

	if (!container)
		abort();
	return container;
}

static struct fake_device *device_at(int fd)
{
	struct fake_device *dev = find_device(fd);

	if (!dev)
		abort();
	return dev;
}

static struct fake_device *find_name(const char *name)
{
	for (unsigned int i = 0; i < fake.nr_devices; i++) {
		if (strcmp(fake.devices[i].name, name) == 0)
			return &fake.devices[i];
	}
	return NULL;
}

int vfio_open_container(int *ret_fd)
{
	GUARD;
	if (fails())
		return fake.fail_errno;
	struct fake_container *container = container_at(0);
	*container = (struct fake_container){ 0 };
	if (eventfd_create(&container->fd) < 0)
		return -EMFILE;
	fake_record("open_container c%u", number_of(container));
	*ret_fd = container->fd;
	return 0;
}

int vfio_open_group(unsigned int number, int *ret_fd)
{
	GUARD;
	if (fails())
		return fake.fail_errno;
	for (unsigned int i = 0; i < fake.nr_groups; i++) {
		struct fake_group *group = &fake.groups[i];
		if (group->number != number || group->is_noiommu)
			continue;
		if (group->open_error)
			return group->open_error;
		if (group->fd)
			return -EBUSY;
		if (eventfd_create(&group->fd) < 0)
			return -EMFILE;
		fake_record("open_group %u", number);
		*ret_fd = group->fd;
		return 0;
	}
	return -ENOENT;
}

static void close_device(struct fake_device *dev)
{
	fake_record("close_device %s", dev->name);
	for (unsigned int i = 0; i < nitems(dev->irqs); i++) {
		dev->irqs[i].on = 0;
		dev->irqs[i].unmask_fd = -1;
	}
	dev->fd = 0;
}

void vfio_close(int *fd)
{
	if (*fd < 0)
		return;
	struct fake_container *container = find_container(*fd);
	struct fake_group *group = find_group(*fd);
	struct fake_device *dev = find_device(*fd);
	if (container) {
		fake_record("close_container c%u", number_of(container));
		*container = (struct fake_container){ 0 };
	}
	if (group) {
		fake_record("close_group %u", group->number);
		group->fd = 0;
	}
	if (dev)
		close_device(dev);
	fd_close(fd);
}

bool vfio_group_is_noiommu(unsigned int number)
{
	for (unsigned int i = 0; i < fake.nr_groups; i++) {
		if (fake.groups[i].number == number)
			return fake.groups[i].is_noiommu;
	}
	return false;
}

uint64_t vfio_entry_limit(void)
{
	return fake.has_entries ? fake.entries : VFIO_DEFAULT_ENTRIES;
}

int vfio_sysfs_is_mdev(const char *name)
{
	GUARD;
	if (fails())
		return fake.fail_errno;
	const struct fake_device *dev = find_name(name);
	return dev ? dev->is_mdev : -ENODEV;
}

int vfio_sysfs_group(const char *name, unsigned int *ret_group)
{
	GUARD;
	if (fails())
		return fake.fail_errno;
	const struct fake_device *dev = find_name(name);
	if (!dev)
		return -ENODEV;
	if (!dev->group)
		return -ENOENT;
	*ret_group = dev->group->number;
	return 0;
}

int vfio_sysfs_driver(const char *name, char *buffer, size_t size)
{
	GUARD;
	if (fails())
		return fake.fail_errno;
	const struct fake_device *dev = find_name(name);
	if (!dev)
		return -ENODEV;
	(void)snprintf(buffer, size, "%s", dev->driver);
	return 0;
}

int vfio_sysfs_group_devices(unsigned int group, char (*names)[VFIO_NAME_SIZE],
			     unsigned int max)
{
	unsigned int n = 0;

	GUARD;
	if (fails())
		return fake.fail_errno;
	for (unsigned int i = 0; i < fake.nr_devices && n < max; i++) {
		if (fake.devices[i].group && fake.devices[i].group->number == group)
			(void)strcpy(names[n++], fake.devices[i].name);
	}
	return (int)n;
}

int vfio_get_api_version(int container)
{
	(void)container;
	GUARD;
	return fails() ? fake.fail_errno : VFIO_API_VERSION;
}

int vfio_check_extension(int container, unsigned int extension)
{
	(void)container;
	GUARD;
	if (fails())
		return fake.fail_errno;
	return extension == VFIO_TYPE1v2_IOMMU && !fake.no_type1v2;
}

int vfio_set_iommu(int fd, unsigned int type)
{
	struct fake_container *container = container_at(fd);

	GUARD;
	if (fails())
		return fake.fail_errno;
	if (container->nr_groups == 0 || type != VFIO_TYPE1v2_IOMMU)
		return -EINVAL;
	if (fake.set_iommu_error)
		return fake.set_iommu_error;
	fake_record("set_iommu c%u", number_of(container));
	container->has_iommu = true;
	return 0;
}

int vfio_get_iommu(int fd, struct vfio_iommu *ret)
{
	const struct fake_container *container = container_at(fd);
	const struct vfio_iova_range *ranges = fake.ranges;
	unsigned int nr = fake.nr_ranges;

	GUARD;
	if (fails())
		return fake.fail_errno;
	if (!container->has_iommu)
		return -EINVAL;
	if (container->nr_groups > 1 && fake.nr_later_ranges > 0) {
		ranges = fake.later_ranges;
		nr = fake.nr_later_ranges;
	}
	*ret = (struct vfio_iommu){
		.nr_ranges = nr,
		.has_entries = fake.has_entries,
		/* iommufd's container counts none. */
		.entries = fake.entries == UINT32_MAX ? UINT32_MAX
						      : fake.entries - container->nr_mappings,
	};
	if (nr > 0) {
		ret->ranges = calloc(nr, sizeof(*ret->ranges));
		memcpy(ret->ranges, ranges, nr * sizeof(*ranges));
	}
	return 0;
}

void vfio_iommu_finish(struct vfio_iommu *iommu)
{
	free(iommu->ranges);
	*iommu = (struct vfio_iommu){ 0 };
}

static bool is_device_memory(const void *host)
{
	for (unsigned int i = 0; i < fake.nr_devices; i++) {
		for (unsigned int r = 0; r < FAKE_NR_REGIONS; r++) {
			const struct fake_region *region = &fake.devices[i].regions[r];
			if (region->window && (const uint8_t *)host >= region->window &&
			    (const uint8_t *)host <
				    region->window + align_up(region->size, 4096))
				return true;
		}
	}
	return false;
}

int vfio_map_dma(int fd, void *host, uint64_t iova, uint64_t size)
{
	struct fake_container *container = container_at(fd);

	GUARD;
	if (fails())
		return fake.fail_errno;
	if (!container->has_iommu)
		return -EINVAL;
	if (fake.map_error && (!fake.map_error_host || fake.map_error_host == host))
		return fake.map_error;
	if (fake.map_device_error && is_device_memory(host))
		return fake.map_device_error;
	for (unsigned int i = 0; i < container->nr_mappings; i++) {
		const struct fake_mapping *m = &container->mappings[i];
		if (range_overlaps(iova, size, m->iova, m->size))
			return -EEXIST;
	}
	fake_record("map c%u 0x%llx 0x%llx", number_of(container), (unsigned long long)iova,
		    (unsigned long long)size);
	container->mappings[container->nr_mappings++] =
		(struct fake_mapping){ .iova = iova, .size = size, .host = host };
	return 0;
}

int vfio_unmap_dma(int fd, uint64_t iova, uint64_t size, uint64_t *ret_size)
{
	struct fake_container *container = container_at(fd);

	GUARD;
	if (fails())
		return fake.fail_errno;
	if (!container->has_iommu || container->nr_groups == 0)
		return -EINVAL;
	if (fake.unmap_error)
		return fake.unmap_error;
	fake_record("unmap c%u 0x%llx 0x%llx", number_of(container), (unsigned long long)iova,
		    (unsigned long long)size);
	*ret_size = 0;
	/* As type1v2: whole mappings, all that lie there, and none in part. */
	for (unsigned int i = 0; i < container->nr_mappings; i++) {
		const struct fake_mapping *m = &container->mappings[i];
		if (range_overlaps(iova, size, m->iova, m->size) &&
		    !range_within(m->iova, m->size, iova, size))
			return -EINVAL;
	}
	for (unsigned int i = container->nr_mappings; i-- > 0;) {
		struct fake_mapping *m = &container->mappings[i];
		if (!range_within(m->iova, m->size, iova, size))
			continue;
		*ret_size += m->size;
		*m = container->mappings[--container->nr_mappings];
	}
	*ret_size -= *ret_size ? fake.unmaps_less : 0;
	return 0;
}

int vfio_group_get_flags(int fd, uint32_t *ret_flags)
{
	GUARD;
	if (fails())
		return fake.fail_errno;
	*ret_flags = group_at(fd)->not_viable ? 0 : VFIO_GROUP_FLAGS_VIABLE;
	return 0;
}

int vfio_group_set_container(int fd, int container_fd)
{
	struct fake_group *group = group_at(fd);
	struct fake_container *container = container_at(container_fd);

	GUARD;
	if (fails())
		return fake.fail_errno;
	if (group->container || (fake.refuses_sharing && container->nr_groups > 0))
		return -EINVAL;
	fake_record("set_container %u c%u", group->number, number_of(container));
	group->container = container;
	container->nr_groups++;
	return 0;
}

int vfio_group_unset_container(int fd)
{
	struct fake_group *group = group_at(fd);

	GUARD;
	if (fails())
		return fake.fail_errno;
	for (unsigned int i = 0; i < fake.nr_devices; i++) {
		if (fake.devices[i].group == group && fake.devices[i].fd)
			return -EBUSY;
	}
	fake_record("unset_container %u c%u", group->number, number_of(group->container));
	group->container->nr_groups--;
	group->container = NULL;
	return 0;
}

int vfio_group_open_device(int fd, const char *name, int *ret_fd)
{
	const struct fake_group *group = group_at(fd);
	struct fake_device *dev = find_name(name);

	GUARD;
	if (fails())
		return fake.fail_errno;
	if (!group->container || !group->container->has_iommu)
		return -EINVAL;
	if (!dev || dev->group != group)
		return -ENODEV;
	if (eventfd_create(&dev->fd) < 0)
		return -EMFILE;
	fake_record("open_device %s", name);
	*ret_fd = dev->fd;
	return 0;
}

int vfio_device_get_info(int fd, struct vfio_device_info *ret)
{
	const struct fake_device *dev = device_at(fd);

	GUARD;
	if (fails())
		return fake.fail_errno;
	*ret = (struct vfio_device_info){
		.flags = (dev->not_pci ? 0 : VFIO_DEVICE_FLAGS_PCI) |
			 (dev->no_reset ? 0 : VFIO_DEVICE_FLAGS_RESET),
		.num_regions = FAKE_NR_REGIONS,
		.num_irqs = 5,
	};
	return 0;
}

int vfio_device_get_region(int fd, unsigned int index, struct vfio_region *ret)
{
	const struct fake_region *region = &device_at(fd)->regions[index];

	GUARD;
	if (fails())
		return fake.fail_errno;
	*ret = (struct vfio_region){
		.size = region->size,
		.offset = (uint64_t)index << REGION_SHIFT,
		.flags = region->flags,
		.sparse = region->sparse,
		.nr_areas = region->nr_areas,
	};
	if (region->nr_areas > 0) {
		ret->areas = calloc(region->nr_areas, sizeof(*ret->areas));
		memcpy(ret->areas, region->areas, region->nr_areas * sizeof(*ret->areas));
	}
	return 0;
}

void vfio_region_finish(struct vfio_region *region)
{
	free(region->areas);
	*region = (struct vfio_region){ 0 };
}

int vfio_device_get_irq(int fd, unsigned int index, struct vfio_irq_info *ret)
{
	const struct fake_device *dev = device_at(fd);
	const struct fake_irq *irq = &dev->irqs[index];

	GUARD;
	if (fails())
		return fake.fail_errno;
	if ((index >= VFIO_PCI_ERR_IRQ_INDEX || dev->knows_few_irqs) && irq->count == 0)
		return -EINVAL;
	*ret = (struct vfio_irq_info){ .index = index,
				       .count = irq->count,
				       .flags = irq->flags };
	return 0;
}

int vfio_device_reset_function(int fd)
{
	struct fake_device *dev = device_at(fd);

	GUARD;
	if (fails())
		return fake.fail_errno;
	if (dev->no_reset)
		return -EINVAL;
	fake_record("reset %s", dev->name);
	return 0;
}

int vfio_device_get_hot_reset(int fd, struct vfio_pci_dependent_device **ret,
			      unsigned int *ret_nr)
{
	const struct fake_device *dev = device_at(fd);

	GUARD;
	if (fails())
		return fake.fail_errno;
	if (!dev->can_hot_reset)
		return -ENODEV;
	*ret = calloc(dev->nr_affected, sizeof(**ret));
	memcpy(*ret, dev->affected, dev->nr_affected * sizeof(**ret));
	*ret_nr = dev->nr_affected;
	return 0;
}

int vfio_device_hot_reset(int fd, const int32_t *group_fds, unsigned int count)
{
	const struct fake_device *dev = device_at(fd);

	GUARD;
	if (fails())
		return fake.fail_errno;
	for (unsigned int i = 0; i < count; i++) {
		if (!find_group(group_fds[i]))
			return -EBADF;
	}
	fake_record("hot_reset %s with %u groups", dev->name, count);
	return 0;
}

static int switch_on(struct fake_device *dev, unsigned int index, unsigned int count)
{
	struct fake_irq *irq = &dev->irqs[index];

	for (unsigned int i = 0; i <= VFIO_PCI_MSIX_IRQ_INDEX; i++) {
		if (index <= VFIO_PCI_MSIX_IRQ_INDEX && i != index && dev->irqs[i].on)
			return -EINVAL;
	}
	if (irq->available && count > irq->available)
		return (int)irq->available;
	irq->on = count;
	irq->switched_on++;
	return 0;
}

int vfio_irqs_bind(int fd, unsigned int index, unsigned int start, unsigned int count,
		   const int32_t *fds)
{
	struct fake_device *dev = device_at(fd);
	struct fake_irq *irq = &dev->irqs[index];

	GUARD;
	if (fails())
		return fake.fail_errno;
	if (start + count > irq->count)
		return -EINVAL;
	if (!irq->on) {
		int r = switch_on(dev, index, start + count);
		if (r != 0)
			return r;
	} else if (start + count > irq->on) {
		if (irq->flags & VFIO_IRQ_INFO_NORESIZE)
			return -EINVAL;
		irq->on = start + count;
	}
	fake_record("irq_bind %s %u %u+%u", dev->name, index, start, count);
	for (unsigned int i = 0; i < count; i++)
		irq->fds[start + i] = fds[i];
	if (index == VFIO_PCI_INTX_IRQ_INDEX)
		look_at_line(dev);
	return 0;
}

int vfio_irqs_disable(int fd, unsigned int index)
{
	struct fake_device *dev = device_at(fd);
	struct fake_irq *irq = &dev->irqs[index];

	GUARD;
	if (fails())
		return fake.fail_errno;
	fake_record("irq_disable %s %u", dev->name, index);
	irq->on = 0;
	irq->unmask_fd = -1;
	irq->masked = false;
	for (unsigned int i = 0; i < FAKE_MAX_VECTORS; i++)
		irq->fds[i] = -1;
	return 0;
}

int vfio_intx_unmask_by(int fd, int eventfd)
{
	struct fake_irq *irq = &device_at(fd)->irqs[VFIO_PCI_INTX_IRQ_INDEX];

	GUARD;
	if (fails())
		return fake.fail_errno;
	if (!irq->on)
		return -EINVAL;
	irq->unmask_fd = eventfd;
	return 0;
}

static bool decodes_memory(const struct fake_device *dev)
{
	if (dev->pm && (dev->config[dev->pm + PCI_PM_CTRL] & PCI_PM_CTRL_STATE_MASK))
		return false;
	return fake_get_16(dev, PCI_COMMAND) & PCI_COMMAND_MEMORY;
}

/* How many bytes of the access there are; -EIO as the kernel has it. */
static int check_access(const struct fake_device *dev, unsigned int index, uint64_t at,
			size_t size)
{
	const struct fake_region *region = &dev->regions[index];

	if (dev->dead || (index == VFIO_PCI_CONFIG_REGION_INDEX && dev->config_dead))
		return -EIO;
	if (index < VFIO_PCI_CONFIG_REGION_INDEX &&
	    !(dev->config[PCI_BASE_ADDRESS_0 + 4 * index] & 1) && !decodes_memory(dev))
		return -EIO;
	if (at >= region->size)
		return -EINVAL;
	return (int)(size < region->size - at ? size : region->size - at);
}

int vfio_pread(int fd, uint64_t offset, void *buffer, size_t size)
{
	const struct fake_device *dev = device_at(fd);
	unsigned int index = (unsigned int)(offset >> REGION_SHIFT);
	uint64_t at = offset & ((1ull << REGION_SHIFT) - 1);

	GUARD;
	if (fails())
		return fake.fail_errno;
	int r = check_access(dev, index, at, size);
	if (r < 0)
		return r;
	if (index == VFIO_PCI_CONFIG_REGION_INDEX) {
		memcpy(buffer, dev->config + at, (size_t)r);
		return r;
	}
	if (at >= dev->regions[index].readable)
		return 0;
	uint64_t left = dev->regions[index].readable - at;
	if ((uint64_t)r > left)
		r = (int)left;
	memcpy(buffer, dev->regions[index].memory + at, (size_t)r);
	return r;
}

static void write_config(struct fake_device *dev, uint64_t at, const uint8_t *bytes,
			 size_t size)
{
	bool mastered = fake_get_16(dev, PCI_COMMAND) & PCI_COMMAND_MASTER;

	for (size_t i = 0; i < size; i++) {
		uint8_t mask = dev->writable[at + i];
		uint8_t byte = (uint8_t)((dev->config[at + i] & ~mask) | (bytes[i] & mask));
		if (dev->pm && at + i == dev->pm + PCI_PM_CTRL && dev->no_d3 &&
		    (byte & PCI_PM_CTRL_STATE_MASK))
			continue;
		dev->config[at + i] = byte;
	}
	if (dev->dma && mastered && !(fake_get_16(dev, PCI_COMMAND) & PCI_COMMAND_MASTER)) {
		fake_record("dma %s", dev->name);
		*dev->dma = 0xdd;
	}
}

int vfio_pwrite(int fd, uint64_t offset, const void *buffer, size_t size)
{
	struct fake_device *dev = device_at(fd);
	unsigned int index = (unsigned int)(offset >> REGION_SHIFT);
	uint64_t at = offset & ((1ull << REGION_SHIFT) - 1);
	uint64_t value = 0;

	GUARD;
	if (fails())
		return fake.fail_errno;
	int r = check_access(dev, index, at, size);
	if (r < 0)
		return r;
	memcpy(&value, buffer, size < sizeof(value) ? size : sizeof(value));
	if (index == VFIO_PCI_CONFIG_REGION_INDEX) {
		fake_record("config_write %s 0x%llx %zu 0x%llx", dev->name,
			    (unsigned long long)at, size, (unsigned long long)value);
		write_config(dev, at, buffer, (size_t)r);
		return r;
	}
	fake_record("region_write %s %u 0x%llx %zu 0x%llx", dev->name, index,
		    (unsigned long long)at, size, (unsigned long long)value);
	memcpy(dev->regions[index].memory + at, buffer, (size_t)r);
	return r;
}

int vfio_mmap(int fd, uint64_t offset, uint64_t size, void **ret_host)
{
	const struct fake_device *dev = device_at(fd);
	unsigned int index = (unsigned int)(offset >> REGION_SHIFT);
	uint64_t at = offset & ((1ull << REGION_SHIFT) - 1);
	const struct fake_region *region = &dev->regions[index];

	GUARD;
	if (fails())
		return fake.fail_errno;
	if (!(region->flags & VFIO_REGION_INFO_FLAG_MMAP) || size == 0 ||
	    !is_aligned(at | size, 4096) ||
	    !range_within(at, size, 0, align_up(region->size, 4096)))
		return -EINVAL;
	fake_record("mmap %s %u 0x%llx 0x%llx", dev->name, index, (unsigned long long)at,
		    (unsigned long long)size);
	fake.nr_maps++;
	*ret_host = region->window + at;
	return 0;
}

void vfio_munmap(void *host, uint64_t size)
{
	(void)host;
	fake_record("munmap 0x%llx", (unsigned long long)size);
	fake.nr_maps--;
}
