/* SPDX-License-Identifier: MIT */
/*
 * group.h - an IOMMU group: the devices that can only be assigned together.
 *
 * Attaching is way D: open the group, see that it is viable, raise the inhibitor, join a
 * container (RAM is pinned), show the group to KVM. Detaching is the exact reverse: the
 * inhibitor is raised before the first call that can pin, and lowered after the last unpin.
 * A group has one inhibitor, however many devices it has; none if its devices allow the balloon.
 * Where groups go along with the balloon it is not raised: their container is a pinner then.
 *
 * A group is attached once and shared by all of its devices; it stays as long as one of them
 * is open.
 *
 * Threads: attach and detach are for the thread that runs machine_init().
 */
#ifndef VFIO_GROUP_H
#define VFIO_GROUP_H

#include "base/list.h"

#include "memory/reclaim.h"
#include "vfio/container.h"

/*
 * May the balloon's pages be discarded while the devices of a group are assigned? Where
 * hardware reaches RAM by itself, never. The driver of a mediated device (an mdev) pins what it
 * is about to use, and no more; whether it lets go of it in time only the user can know.
 */
enum vfio_balloon { VFIO_BALLOON_INHIBITS, VFIO_BALLOON_ALLOWED };

struct vfio_group {
	struct list_node link; /* vfio->groups */
	struct vfio *vfio;     /* borrowed, outlives this */
	unsigned int number;
	enum vfio_balloon balloon;        /* of each of its devices; fixed */
	int fd;                           /* owned */
	struct inhibitor inhibitor;       /* raised, unless the balloon is allowed */
	struct vfio_container *container; /* borrowed, stays while we are in it; or NULL */
	struct list_node container_link;  /* container->groups */
	bool shown;                       /* to the hypervisor */
	struct list_node devices;         /* of struct vfio_device: those open */
};

/* The group if it is attached, or NULL. */
struct vfio_group *vfio_group_find(struct vfio *vfio, unsigned int number);

/*
 * Attaches group `number`, or finds it attached already. *ret stays until vfio_group_detach().
 * VFIO_BALLOON_ALLOWED is for groups of mdevs, which the caller has seen to.
 * What stood in the way is logged with its remedy. -EINVAL: it is attached with the other
 * answer about the balloon. -ENODEV: no such group. -EOPNOTSUPP: no IOMMU stands before it.
 * -EBUSY: open elsewhere, or not viable. -EPERM: no permission. Otherwise as
 * vfio_container_join(), or the errno of the hypervisor's.
 * On failure nothing is left behind.
 */
must_check int vfio_group_attach(struct vfio *vfio, unsigned int number,
				 enum vfio_balloon balloon, struct vfio_group **ret);
/*
 * Why group `number` could not be opened, which is logged with its remedy. `r` is from
 * vfio_open_group(); what is returned, as above.
 */
int vfio_group_explain(unsigned int number, int r);
/* Raises the group's inhibitor, if its devices do not allow the balloon. */
void vfio_group_inhibit(struct vfio_group *group);
/* Detaches and frees, unless a device of the group is still open. */
void vfio_group_detach(struct vfio_group *group);

#endif /* VFIO_GROUP_H */
