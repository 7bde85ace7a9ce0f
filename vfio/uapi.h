/* SPDX-License-Identifier: MIT */
/*
 * uapi.h - everything this program asks of the kernel about VFIO: the ioctls, the reads,
 * writes and maps of device regions, the files under /dev/vfio and /sys.
 *
 * One thin function each: typed parameters in, -errno out, no log, no policy. An answer of
 * variable size is asked for again until it fits, and what it says about itself is checked
 * here: nobody above walks a capability chain. The unit tests put a fake kernel in the place
 * of uapi.c, so nothing of the above may happen anywhere else in vfio/.
 *
 * Threads: any.
 */
#ifndef VFIO_UAPI_H
#define VFIO_UAPI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <linux/vfio.h>

#include "base/util.h"

/* An mdev's UUID and its end. A PCI function's name is shorter: "ffffffff:ff:1f.7". */
#define VFIO_NAME_SIZE 37u

/* What a kernel that does not say how many entries it has left was built with. */
#define VFIO_DEFAULT_ENTRIES 65535u

/* What VFIO_IOMMU_GET_INFO says. */
struct vfio_iommu {
	struct vfio_iova_range *ranges; /* owned; what may be mapped, ends inclusive */
	unsigned int nr_ranges;         /* 0: the kernel does not say */
	bool has_entries;
	uint32_t entries; /* mappings still to be had, if has_entries */
};

/* What VFIO_DEVICE_GET_REGION_INFO says. */
struct vfio_region {
	uint64_t size;   /* bytes; 0: not implemented */
	uint64_t offset; /* in the device's fd */
	uint32_t flags;  /* VFIO_REGION_INFO_FLAG_... */
	bool sparse;     /* only `areas` may be mapped, perhaps none */
	struct vfio_region_sparse_mmap_area *areas; /* owned */
	unsigned int nr_areas;
};

/*
 * Files. Opens are close-on-exec. -ENOENT: the node is not there. -EACCES, -EPERM.
 * A group: -EBUSY: somebody else has it open.
 */
must_check int vfio_open_container(int *ret_fd);
must_check int vfio_open_group(unsigned int group, int *ret_fd);
/* Closes an fd that came from here, unless it is -1, and sets it to -1. */
void vfio_close(int *fd);
/* True if the group exists only without an IOMMU, under another name. */
bool vfio_group_is_noiommu(unsigned int group);

/*
 * What is in /sys about a device called "0000:01:00.0", a PCI function, or after a UUID, which
 * is what only mdevs are. -ENODEV: no such device.
 */
/* 1: it is an mdev, which software makes up. 0: it is not. */
must_check int vfio_sysfs_is_mdev(const char *name);
/* -ENOENT: it is in no group: no IOMMU stands before it. */
must_check int vfio_sysfs_group(const char *name, unsigned int *ret_group);
/* The driver it is bound to; "" for none. */
must_check int vfio_sysfs_driver(const char *name, char *buffer, size_t size);
/* Names up to `max` devices of a group and returns how many they are. */
must_check int vfio_sysfs_group_devices(unsigned int group, char (*names)[VFIO_NAME_SIZE],
					unsigned int max);

/*
 * How many entries a container has by the module's parameter dma_entry_limit; what it was built
 * with, if that cannot be read.
 */
uint64_t vfio_entry_limit(void);

/* Container. */
must_check int vfio_get_api_version(int container);
/* 1 or 0. */
must_check int vfio_check_extension(int container, unsigned int extension);
must_check int vfio_set_iommu(int container, unsigned int type);
/* -EPROTO: the answer contradicts itself. On success finish it with vfio_iommu_finish(). */
must_check int vfio_get_iommu(int container, struct vfio_iommu *ret);
/* Accepts a zeroed object. */
void vfio_iommu_finish(struct vfio_iommu *iommu);
/* Pins [host, host + size) and lets devices read and write it at iova. May take seconds. */
must_check int vfio_map_dma(int container, void *host, uint64_t iova, uint64_t size);
/* *ret_size: how many bytes were mapped there, which may be fewer than asked for. */
must_check int vfio_unmap_dma(int container, uint64_t iova, uint64_t size, uint64_t *ret_size);

/* Group. */
must_check int vfio_group_get_flags(int group, uint32_t *ret_flags);
must_check int vfio_group_set_container(int group, int container);
must_check int vfio_group_unset_container(int group);
must_check int vfio_group_open_device(int group, const char *name, int *ret_fd);

/* Device. */
must_check int vfio_device_get_info(int device, struct vfio_device_info *ret);
/* -EPROTO as above. On success finish it with vfio_region_finish(). */
must_check int vfio_device_get_region(int device, unsigned int index, struct vfio_region *ret);
/* Accepts a zeroed object. */
void vfio_region_finish(struct vfio_region *region);
must_check int vfio_device_get_irq(int device, unsigned int index, struct vfio_irq_info *ret);
must_check int vfio_device_reset_function(int device);
/* The functions a bus or slot reset would hit; the list is the caller's to free. */
must_check int vfio_device_get_hot_reset(int device, struct vfio_pci_dependent_device **ret,
					 unsigned int *ret_nr);
must_check int vfio_device_hot_reset(int device, const int32_t *group_fds, unsigned int count);

/*
 * Interrupts of one index. Binding eventfds (-1: none) to vectors that were all off switches
 * the index on; then a positive result says that only so many vectors can be had, and that
 * nothing was switched on.
 */
must_check int vfio_irqs_bind(int device, unsigned int index, unsigned int start,
			      unsigned int count, const int32_t *fds);
/* Switches the index off. */
must_check int vfio_irqs_disable(int device, unsigned int index);
/* A signal on the eventfd unmasks INTx; one that is signalled already does so at once. */
must_check int vfio_intx_unmask_by(int device, int fd);

/*
 * Regions, at an offset in the device's fd. How many bytes were read or written: fewer than
 * `size` at the end of a region. -EIO and others: the device does not answer.
 */
must_check int vfio_pread(int device, uint64_t offset, void *buffer, size_t size);
must_check int vfio_pwrite(int device, uint64_t offset, const void *buffer, size_t size);
/* Maps a part of a region. Large ones are aligned so that the kernel can use huge pages. */
must_check int vfio_mmap(int device, uint64_t offset, uint64_t size, void **ret_host);
void vfio_munmap(void *host, uint64_t size);

#endif /* VFIO_UAPI_H */
