/* SPDX-License-Identifier: MIT */
#include "vfio/uapi.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include <sys/ioctl.h>
#include <sys/mman.h>

#include "base/fd.h"
#include "base/trace.h"

#define PCI_DIR "/sys/bus/pci/devices"
#define MDEV_DIR "/sys/bus/mdev/devices"
#define GROUPS_DIR "/sys/kernel/iommu_groups"
#define PATH_SIZE 128u

/* No honest answer comes near these. */
#define MAX_ANSWER (1u << 20)
#define MAX_ASKED 8u

/* Devices are mapped to a boundary of their own size, between these two. */
#define HUGE_PAGE_SIZE (2ull << 20)
#define GIGANTIC_PAGE_SIZE (1ull << 30)

/* 0 and the fd, or -errno. */
static int open_node(const char *path, int *ret_fd)
{
	int fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	*ret_fd = fd;
	return 0;
}

/* For ioctls that take a number or a pointer and answer with a number. */
static int call(int fd, unsigned long request, uintptr_t arg)
{
	int r = ioctl(fd, request, arg);
	return r < 0 ? -errno : r;
}

int vfio_open_container(int *ret_fd)
{
	return open_node("/dev/vfio/vfio", ret_fd);
}

int vfio_open_group(unsigned int group, int *ret_fd)
{
	char path[PATH_SIZE];

	(void)snprintf(path, sizeof(path), "/dev/vfio/%u", group);
	return open_node(path, ret_fd);
}

void vfio_close(int *fd)
{
	fd_close(fd);
}

bool vfio_group_is_noiommu(unsigned int group)
{
	char path[PATH_SIZE];

	(void)snprintf(path, sizeof(path), "/dev/vfio/noiommu-%u", group);
	return access(path, F_OK) == 0;
}

/* The last component of what `link` of a device points to. -ENOENT: no such link. */
static int read_device_link(const char *name, const char *link, char *buffer, size_t size)
{
	/* The name of a PCI function has a colon in it, and a UUID has none. */
	const char *dir = strchr(name, ':') ? PCI_DIR : MDEV_DIR;
	char path[PATH_SIZE];

	(void)snprintf(path, sizeof(path), "%s/%s", dir, name);
	if (access(path, F_OK) < 0)
		return errno == ENOENT ? -ENODEV : -errno;
	(void)snprintf(path, sizeof(path), "%s/%s/%s", dir, name, link);
	return file_link_name(path, buffer, size);
}

uint64_t vfio_entry_limit(void)
{
	unsigned long long limit = 0;

	FILE *f = fopen("/sys/module/vfio_iommu_type1/parameters/dma_entry_limit", "re");
	if (f && fscanf(f, "%llu", &limit) != 1)
		limit = 0;
	if (f)
		(void)fclose(f); /* it was only read */
	return limit ? limit : VFIO_DEFAULT_ENTRIES;
}

int vfio_sysfs_is_mdev(const char *name)
{
	char bus[32];

	int r = read_device_link(name, "subsystem", bus, sizeof(bus));
	if (r < 0)
		return r;
	return strcmp(bus, "mdev") == 0;
}

int vfio_sysfs_group(const char *name, unsigned int *ret_group)
{
	char number[32];
	char *end;

	int r = read_device_link(name, "iommu_group", number, sizeof(number));
	if (r < 0)
		return r;
	unsigned long group = strtoul(number, &end, 10);
	if (end == number || *end != '\0' || group > UINT_MAX)
		return -EPROTO;
	*ret_group = (unsigned int)group;
	return 0;
}

int vfio_sysfs_driver(const char *name, char *buffer, size_t size)
{
	int r = read_device_link(name, "driver", buffer, size);
	if (r == -ENOENT) {
		buffer[0] = '\0';
		return 0;
	}
	return r;
}

int vfio_sysfs_group_devices(unsigned int group, char (*names)[VFIO_NAME_SIZE],
			     unsigned int max)
{
	char path[PATH_SIZE];
	unsigned int n = 0;

	(void)snprintf(path, sizeof(path), GROUPS_DIR "/%u/devices", group);
	DIR *dir = opendir(path);
	if (!dir)
		return -errno;
	for (struct dirent *entry = readdir(dir); entry && n < max; entry = readdir(dir)) {
		if (entry->d_name[0] == '.' || strlen(entry->d_name) >= VFIO_NAME_SIZE)
			continue;
		(void)strcpy(names[n++], entry->d_name);
	}
	(void)closedir(dir); /* it was only read */
	return (int)n;
}

int vfio_get_api_version(int container)
{
	return call(container, VFIO_GET_API_VERSION, 0);
}

int vfio_check_extension(int container, unsigned int extension)
{
	return call(container, VFIO_CHECK_EXTENSION, extension);
}

int vfio_set_iommu(int container, unsigned int type)
{
	return call(container, VFIO_SET_IOMMU, type);
}

/* The two members with which every answer of variable size begins. */
struct answer {
	uint32_t argsz;
	uint32_t flags;
};

/*
 * Asks until the answer fits. `question` is the answer's fixed part, with what the kernel is
 * to know filled in; *ret is the caller's to free, and *ret_size says how large it is.
 */
static int ask(int fd, unsigned long request, const void *question, size_t question_size,
	       void **ret, size_t *ret_size)
{
	size_t size = question_size;

	for (unsigned int i = 0; i < MAX_ASKED; i++) {
		autofree struct answer *answer = calloc(1, size);
		if (!answer)
			return -ENOMEM;
		memcpy(answer, question, question_size);
		answer->argsz = (uint32_t)size;
		int r = call(fd, request, (uintptr_t)answer);
		if (r < 0)
			return r;
		if (answer->argsz > MAX_ANSWER)
			return -EPROTO;
		if (answer->argsz <= size) {
			*ret = answer;
			*ret_size = size;
			answer = NULL;
			return 0;
		}
		size = answer->argsz;
	}
	return -EAGAIN;
}

/*
 * Finds a capability in the chain that starts at offset `first` of an answer; *ret_size bytes
 * are there from *ret to the answer's end. 0: not found. -EPROTO: the chain leaves the answer,
 * or has more links than fit into it and so must be a ring.
 */
static int find_capability(const void *answer, size_t size, uint32_t first, uint16_t id,
			   const void **ret, size_t *ret_size)
{
	struct vfio_info_cap_header header;
	size_t left = size / sizeof(header);

	for (uint32_t offset = first; offset != 0; offset = header.next) {
		if (offset > size - sizeof(header) || left-- == 0)
			return -EPROTO;
		const char *at = (const char *)answer + offset;
		memcpy(&header, at, sizeof(header));
		if (header.id == id) {
			*ret = at;
			*ret_size = size - offset;
			return 1;
		}
	}
	return 0;
}

/*
 * Copies the array of `count` items that follows a capability's fixed part. *ret is the
 * caller's to free. -EPROTO: it is longer than the answer.
 */
static int copy_items(const void *cap, size_t cap_size, size_t fixed, size_t item,
		      uint32_t count, void **ret)
{
	if (count > (cap_size - fixed) / item)
		return -EPROTO;
	if (count == 0)
		return 0;
	void *items = malloc(count * item);
	if (!items)
		return -ENOMEM;
	memcpy(items, (const char *)cap + fixed, count * item);
	*ret = items;
	return 0;
}

static int read_iova_ranges(const void *answer, size_t size, uint32_t first,
			    struct vfio_iommu *iommu)
{
	struct vfio_iommu_type1_info_cap_iova_range fixed;
	const void *cap;
	size_t cap_size;
	void *items = NULL;

	int r = find_capability(answer, size, first, VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE, &cap,
				&cap_size);
	if (r <= 0)
		return r;
	if (cap_size < sizeof(fixed))
		return -EPROTO;
	memcpy(&fixed, cap, sizeof(fixed));
	r = copy_items(cap, cap_size, sizeof(fixed), sizeof(*iommu->ranges), fixed.nr_iovas,
		       &items);
	if (r < 0)
		return r;
	iommu->ranges = items;
	iommu->nr_ranges = fixed.nr_iovas;
	for (unsigned int i = 0; i < iommu->nr_ranges; i++) {
		if (iommu->ranges[i].start > iommu->ranges[i].end)
			return -EPROTO;
	}
	return 0;
}

static int read_entries(const void *answer, size_t size, uint32_t first,
			struct vfio_iommu *iommu)
{
	struct vfio_iommu_type1_info_dma_avail avail;
	const void *cap;
	size_t cap_size;

	int r = find_capability(answer, size, first, VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL, &cap,
				&cap_size);
	if (r <= 0)
		return r;
	if (cap_size < sizeof(avail))
		return -EPROTO;
	memcpy(&avail, cap, sizeof(avail));
	iommu->has_entries = true;
	iommu->entries = avail.avail;
	return 0;
}

int vfio_get_iommu(int container, struct vfio_iommu *ret)
{
	const struct vfio_iommu_type1_info question = { 0 };
	struct vfio_iommu iommu = { 0 };
	autofree void *answer = NULL;
	size_t size;

	int r = ask(container, VFIO_IOMMU_GET_INFO, &question, sizeof(question), &answer,
		    &size);
	if (r < 0)
		return r;
	const struct vfio_iommu_type1_info *info = answer;
	uint32_t first = info->flags & VFIO_IOMMU_INFO_CAPS ? info->cap_offset : 0;
	r = read_iova_ranges(answer, size, first, &iommu);
	if (r < 0)
		goto fail;
	r = read_entries(answer, size, first, &iommu);
	if (r < 0)
		goto fail;
	*ret = iommu;
	return 0;
fail:
	vfio_iommu_finish(&iommu);
	return r;
}

void vfio_iommu_finish(struct vfio_iommu *iommu)
{
	free(iommu->ranges);
	*iommu = (struct vfio_iommu){ 0 };
}

int vfio_map_dma(int container, void *host, uint64_t iova, uint64_t size)
{
	struct vfio_iommu_type1_dma_map map = {
		.argsz = sizeof(map),
		.flags = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
		.vaddr = (uintptr_t)host,
		.iova = iova,
		.size = size,
	};

	TRACE(vfio_map_dma, iova, size);
	return call(container, VFIO_IOMMU_MAP_DMA, (uintptr_t)&map);
}

int vfio_unmap_dma(int container, uint64_t iova, uint64_t size, uint64_t *ret_size)
{
	struct vfio_iommu_type1_dma_unmap unmap = {
		.argsz = sizeof(unmap),
		.iova = iova,
		.size = size,
	};

	TRACE(vfio_unmap_dma, iova, size);
	int r = call(container, VFIO_IOMMU_UNMAP_DMA, (uintptr_t)&unmap);
	if (r < 0)
		return r;
	*ret_size = unmap.size;
	return 0;
}

int vfio_group_get_flags(int group, uint32_t *ret_flags)
{
	struct vfio_group_status status = { .argsz = sizeof(status) };

	int r = call(group, VFIO_GROUP_GET_STATUS, (uintptr_t)&status);
	if (r < 0)
		return r;
	*ret_flags = status.flags;
	return 0;
}

int vfio_group_set_container(int group, int container)
{
	return call(group, VFIO_GROUP_SET_CONTAINER, (uintptr_t)&container);
}

int vfio_group_unset_container(int group)
{
	return call(group, VFIO_GROUP_UNSET_CONTAINER, 0);
}

int vfio_group_open_device(int group, const char *name, int *ret_fd)
{
	TRACE(vfio_group_open_device, group, 0);
	int fd = call(group, VFIO_GROUP_GET_DEVICE_FD, (uintptr_t)name);
	if (fd < 0)
		return fd;
	*ret_fd = fd;
	return 0;
}

int vfio_device_get_info(int device, struct vfio_device_info *ret)
{
	struct vfio_device_info info = { .argsz = sizeof(info) };

	int r = call(device, VFIO_DEVICE_GET_INFO, (uintptr_t)&info);
	if (r < 0)
		return r;
	*ret = info;
	return 0;
}

static int read_areas(const void *answer, size_t size, uint32_t first,
		      struct vfio_region *region)
{
	struct vfio_region_info_cap_sparse_mmap fixed;
	const void *cap;
	size_t cap_size;
	void *items = NULL;

	int r = find_capability(answer, size, first, VFIO_REGION_INFO_CAP_SPARSE_MMAP, &cap,
				&cap_size);
	if (r <= 0)
		return r;
	if (cap_size < sizeof(fixed))
		return -EPROTO;
	memcpy(&fixed, cap, sizeof(fixed));
	r = copy_items(cap, cap_size, sizeof(fixed), sizeof(*region->areas), fixed.nr_areas,
		       &items);
	if (r < 0)
		return r;
	region->sparse = true;
	region->areas = items;
	region->nr_areas = fixed.nr_areas;
	return 0;
}

int vfio_device_get_region(int device, unsigned int index, struct vfio_region *ret)
{
	const struct vfio_region_info question = { .index = index };
	autofree void *answer = NULL;
	size_t size;

	int r = ask(device, VFIO_DEVICE_GET_REGION_INFO, &question, sizeof(question), &answer,
		    &size);
	if (r < 0)
		return r;
	const struct vfio_region_info *info = answer;
	struct vfio_region region = {
		.size = info->size,
		.offset = info->offset,
		.flags = info->flags,
	};
	uint32_t first = info->flags & VFIO_REGION_INFO_FLAG_CAPS ? info->cap_offset : 0;
	r = read_areas(answer, size, first, &region);
	if (r < 0) {
		vfio_region_finish(&region);
		return r;
	}
	*ret = region;
	return 0;
}

void vfio_region_finish(struct vfio_region *region)
{
	free(region->areas);
	*region = (struct vfio_region){ 0 };
}

int vfio_device_get_irq(int device, unsigned int index, struct vfio_irq_info *ret)
{
	struct vfio_irq_info info = { .argsz = sizeof(info), .index = index };

	int r = call(device, VFIO_DEVICE_GET_IRQ_INFO, (uintptr_t)&info);
	if (r < 0)
		return r;
	*ret = info;
	return 0;
}

int vfio_device_reset_function(int device)
{
	return call(device, VFIO_DEVICE_RESET, 0);
}

/* A bus has 256 functions, and a reset of it reaches the buses behind it. */
#define MAX_DEPENDENT 1024u

int vfio_device_get_hot_reset(int device, struct vfio_pci_dependent_device **ret,
			      unsigned int *ret_nr)
{
	struct vfio_pci_hot_reset_info fixed = { .argsz = sizeof(fixed) };

	/* Asked without room for a single one it answers -ENOSPC, and how many there are. */
	int r = call(device, VFIO_DEVICE_GET_PCI_HOT_RESET_INFO, (uintptr_t)&fixed);
	if (r < 0 && r != -ENOSPC)
		return r;
	uint32_t count = fixed.count;
	if (count == 0 || count > MAX_DEPENDENT)
		return -EPROTO;
	size_t list_size = count * sizeof(struct vfio_pci_dependent_device);
	autofree struct vfio_pci_hot_reset_info *info = calloc(1, sizeof(*info) + list_size);
	autofree struct vfio_pci_dependent_device *list = malloc(list_size);
	if (!info || !list)
		return -ENOMEM;
	info->argsz = (uint32_t)(sizeof(*info) + list_size);
	r = call(device, VFIO_DEVICE_GET_PCI_HOT_RESET_INFO, (uintptr_t)info);
	if (r < 0)
		return r;
	if (info->count > count)
		return -EPROTO;
	memcpy(list, info->devices, info->count * sizeof(*list));
	*ret_nr = info->count;
	*ret = list;
	list = NULL;
	return 0;
}

int vfio_device_hot_reset(int device, const int32_t *group_fds, unsigned int count)
{
	size_t list_size = count * sizeof(*group_fds);
	autofree struct vfio_pci_hot_reset *reset = calloc(1, sizeof(*reset) + list_size);

	if (!reset)
		return -ENOMEM;
	reset->argsz = (uint32_t)(sizeof(*reset) + list_size);
	reset->count = count;
	memcpy(reset->group_fds, group_fds, list_size);
	return call(device, VFIO_DEVICE_PCI_HOT_RESET, (uintptr_t)reset);
}

static int set_irqs(int device, unsigned int index, uint32_t flags, unsigned int start,
		    unsigned int count, const int32_t *fds)
{
	size_t data_size = fds ? count * sizeof(*fds) : 0;
	autofree struct vfio_irq_set *set = calloc(1, sizeof(*set) + data_size);

	if (!set)
		return -ENOMEM;
	set->argsz = (uint32_t)(sizeof(*set) + data_size);
	set->flags = flags;
	set->index = index;
	set->start = start;
	set->count = count;
	if (fds)
		memcpy(set->data, fds, data_size);
	return call(device, VFIO_DEVICE_SET_IRQS, (uintptr_t)set);
}

int vfio_irqs_bind(int device, unsigned int index, unsigned int start, unsigned int count,
		   const int32_t *fds)
{
	return set_irqs(device, index, VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER,
			start, count, fds);
}

int vfio_irqs_disable(int device, unsigned int index)
{
	return set_irqs(device, index, VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_TRIGGER, 0,
			0, NULL);
}

int vfio_intx_unmask_by(int device, int fd)
{
	return set_irqs(device, VFIO_PCI_INTX_IRQ_INDEX,
			VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_UNMASK, 0, 1, &fd);
}

int vfio_pread(int device, uint64_t offset, void *buffer, size_t size)
{
	ssize_t n;

	do {
		n = pread(device, buffer, size, (off_t)offset);
	} while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : (int)n;
}

int vfio_pwrite(int device, uint64_t offset, const void *buffer, size_t size)
{
	ssize_t n;

	do {
		n = pwrite(device, buffer, size, (off_t)offset);
	} while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : (int)n;
}

/* The largest power of two that is not above size, within what huge pages have use for. */
static uint64_t alignment_for(uint64_t size)
{
	if (size >= GIGANTIC_PAGE_SIZE)
		return GIGANTIC_PAGE_SIZE;
	return 1ull << (63 - __builtin_clzll(size));
}

/*
 * Offset and address must agree modulo the alignment for a huge page to fit. The address is
 * found inside a larger reservation, whose ends are given back.
 */
static int map_aligned(int device, uint64_t offset, uint64_t size, void **ret_host)
{
	uint64_t alignment = alignment_for(size);
	uint64_t reserved = size + alignment;

	char *p = mmap(NULL, reserved, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
		       -1, 0);
	if (p == MAP_FAILED)
		return -errno;
	uint64_t before = (offset - (uintptr_t)p) & (alignment - 1);
	char *host = p + before;
	if (mmap(host, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, device,
		 (off_t)offset) == MAP_FAILED) {
		int r = -errno;
		vfio_munmap(p, reserved);
		return r;
	}
	if (before > 0)
		vfio_munmap(p, before);
	vfio_munmap(host + size, alignment - before);
	*ret_host = host;
	return 0;
}

int vfio_mmap(int device, uint64_t offset, uint64_t size, void **ret_host)
{
	if (size >= HUGE_PAGE_SIZE)
		return map_aligned(device, offset, size, ret_host);
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, device, (off_t)offset);
	if (p == MAP_FAILED)
		return -errno;
	*ret_host = p;
	return 0;
}

void vfio_munmap(void *host, uint64_t size)
{
	(void)munmap(host, size); /* fails only for a range that was never mapped */
}
