/* SPDX-License-Identifier: MIT */
/*
 * container.h - a DMA context: what the devices of one or several groups can reach.
 *
 * A container mirrors the memory map in an IOMMU: it is a listener like KVM's memory slots,
 * and what stands at a guest-physical address is what a device finds at the same address.
 * Mapping pins; whoever joins a container has raised an inhibitor before.
 *
 * Concepts
 *  - sharing: a group joins the first container that the kernel lets it join; only when all
 *    refuse does it get one of its own. Each container pins all of the guest's RAM, in the
 *    kernel's books once more.
 *  - pinning: a container of groups that allow the balloon is for them alone. For their
 *    devices the kernel pins when they ask for it, not when RAM is mapped: what is not present
 *    stays so. Any other container is one of reclaim's pinners: it maps RAM in granules, one
 *    call each, since what was mapped by one call can only be unmapped as a whole.
 *  - asleep: a container of groups that came with map_late maps nothing before a device of
 *    theirs may use DMA at all, which is when the guest first sets its Bus Master Enable (PCI
 *    3.0, 6.2.2). What the balloon holds by then is never pinned.
 *  - RAM must be mapped or the region is refused. A BAR (MEMORY_DEVICE) is mapped so that
 *    devices may reach each other; where that fails they cannot, which is said once.
 *  - hole: an address range that the IOMMU will not translate, such as that of the MSIs.
 *  - entry: one mapping. The kernel gives a container so many (65535 unless told otherwise).
 *
 * Only type1 version 2 is used: version 1 may unmap more than was asked for, and a group
 * without an IOMMU isolates nothing. Both are refused.
 *
 * Threads: joining and leaving as vfio/group.h says. The listener's side runs under
 * map->change_lock; container->lock comes after that, and map->layout_lock last.
 */
#ifndef VFIO_CONTAINER_H
#define VFIO_CONTAINER_H

#include <pthread.h>
#include <time.h>

#include "base/list.h"

#include "memory/map.h"
#include "memory/reclaim.h"
#include "vfio/uapi.h"

struct vfio_group;
struct wires;

/* Of a container's entries these are kept for BARs, with which devices reach each other. */
#define VFIO_SPARE_ENTRIES 64u

struct vfio_dma_config {
	/* The groups go along with the balloon, as pinners, and raise no inhibitors. */
	bool coordinate;
	bool map_late; /* only with `coordinate` */
};

/*
 * Of a device that is to be attached, what takes permission to open: for who may look at no path
 * any more, and is handed what others have opened.
 */
struct vfio_opened {
	char name[VFIO_NAME_SIZE]; /* as vfio_pci_look() has it; the group likewise */
	unsigned int group;
	int group_fd;     /* owned; -1: it is attached already. Taken: -1 */
	int container_fd; /* owned; a fresh one, or -1: none is needed. Likewise */
};

/*
 * All that is assigned to one guest. The lists are for the thread that attaches and detaches; it
 * changes that of the containers under the lock, for others to look at.
 */
struct vfio {
	struct memory_map *map;        /* borrowed, outlives this */
	struct reclaim *reclaim;       /* borrowed, outlives this */
	struct wires *wires;           /* borrowed, outlives this */
	struct vfio_dma_config config; /* `coordinate` may change: vfio_coordinate() */
	bool inhibiting;               /* vfio_inhibit() is not through */
	struct vfio_opened *opened;  /* borrowed, for one attach; NULL: nodes are opened here */
	pthread_mutex_t lock;        /* the last of all */
	struct list_node containers; /* in the order of opening; changed under `lock` */
	struct list_node groups;
};

struct vfio_container {
	struct list_node link; /* vfio->containers */
	struct vfio *vfio;     /* borrowed, outlives this */
	int fd;                /* owned */
	bool pins;             /* what it maps; fixed */
	bool asleep; /* pci_bus.lock, once a device is on the bus; so are the next two */
	unsigned int nr_failed_wakes;
	time_t failed_wake; /* when the last one was, by CLOCK_MONOTONIC */
	struct list_node groups;
	struct memory_listener listener;
	struct pinner pinner;
	struct inhibitor inhibitor; /* raised while left_pinned */
	bool left_pinned;           /* an unmap went wrong, and what it left is in no books */
	pthread_mutex_t lock;
	struct vfio_iommu iommu;   /* lock */
	struct list_node mappings; /* lock; a region each, oldest first */
	unsigned int nr_mappings;  /* lock; of the kernel's entries, how many are taken */
	unsigned int nr_peers;     /* lock; of these, by mapped BARs */
	unsigned int max_mappings; /* lock */
	bool peers_warned;         /* lock */
};

void vfio_init(struct vfio *vfio, struct memory_map *map, struct reclaim *reclaim,
	       struct wires *wires, const struct vfio_dma_config *config);
/* No group may be left. Accepts a zeroed object. */
void vfio_finish(struct vfio *vfio);

/*
 * The width of the addresses that every container translates, in bits; 64 with no container,
 * or where the kernel does not say. A BAR that is to be reached by other devices lies below.
 */
unsigned int vfio_address_bits(struct vfio *vfio);

/*
 * From now on all groups go along with the balloon, or none does. Does nothing if it is so
 * already. On failure all is as before, but for containers that have been woken. For the thread
 * that attaches and detaches, under pci_bus.lock.
 *
 * vfio_coordinate: inhibitors are lowered; also if vfio_inhibit() is not through. -ENOMEM: not
 * all of RAM may be locked, or the host does not have as much; logged.
 *
 * vfio_inhibit: inhibitors are raised, and from then on nothing is discarded; what had been
 * reclaimed is made live, as far as `most` bytes (or a granule more). 0: all is. 1: there is
 * more to do; call again. -ENOMEM: the host has no memory for it; not logged.
 */
must_check int vfio_coordinate(struct vfio *vfio);
must_check int vfio_inhibit(struct vfio *vfio, uint64_t most);

/*
 * How many bytes of guest RAM are pinned for devices: what is mapped in a container that pins.
 * What two of them have pinned is the same RAM, and counts once. What the driver of an mdev
 * that allows the balloon pins only it knows. For the thread that attaches and detaches.
 */
uint64_t vfio_pinned(struct vfio *vfio);

/* One region as a container has it. */
struct vfio_mapping_figures {
	const char *name; /* the region's, which outlives this */
	gpa_t gpa;
	uint64_t size;    /* bytes; */
	uint64_t granule; /* of those that are mapped by one call */
	uint64_t mapped;
};

struct vfio_container_figures {
	unsigned int nr_entries; /* taken */
	unsigned int max_entries;
	unsigned int nr_mappings; /* there are; as many of them as fit are in the array */
};

/* What devices of a container can reach now. For the thread that attaches and detaches. */
void vfio_container_figures(struct vfio_container *container,
			    struct vfio_container_figures *ret,
			    struct vfio_mapping_figures *ret_mappings, unsigned int max);

/*
 * Puts the group into a container, sets group->container and has all of the guest's RAM that
 * is live mapped for it, now or when it is woken. What stood in the way is logged. -ENOMEM: not
 * enough memory, or not enough of it may be locked. -E2BIG: more granules than the IOMMU has
 * entries for. -ERANGE: RAM lies in a hole. -ENOSPC: no entries left. -EPERM: the
 * platform does not isolate interrupts. -EOPNOTSUPP: no type1v2 IOMMU. -EEXIST and others
 * from the kernel.
 * On failure the group is in no container, and what was pinned for it no longer is.
 */
must_check int vfio_container_join(struct vfio *vfio, struct vfio_group *group);
/*
 * The reverse: the last group to leave has everything unmapped and unpinned when this
 * returns. No device of the group may be open. Does nothing for a group in no container.
 */
void vfio_container_leave(struct vfio_group *group);

/*
 * A device in it is about to use DMA: RAM is mapped now, if it is not yet. Fails as the mapping
 * in vfio_container_join() does; logged; it may be tried again. -EAGAIN: it has failed often,
 * and not long ago; not logged. Under pci_bus.lock.
 */
must_check int vfio_container_wake(struct vfio_container *container);

/*
 * What an IOMMU's answer means: how wide the addresses are that it translates (64 where it does
 * not say), and the first hole in [start, last], up to where that ends; false if there is none.
 */
unsigned int vfio_iommu_bits(const struct vfio_iommu *iommu);
bool vfio_iommu_find_hole(const struct vfio_iommu *iommu, uint64_t start, uint64_t last,
			  uint64_t *ret_start, uint64_t *ret_last);
/* True for a process to which RLIMIT_MEMLOCK is no limit: it has CAP_IPC_LOCK. */
bool vfio_may_lock_all(void);

#endif /* VFIO_CONTAINER_H */
