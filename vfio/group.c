/* SPDX-License-Identifier: MIT */
#include "vfio/group.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/trace.h"

#include "devices/wires.h"
#include "vfio/device.h"

/* A group with more devices than this is named in part. */
#define MAX_NAMED 16u

struct vfio_group *vfio_group_find(struct vfio *vfio, unsigned int number)
{
	list_for_each(n, &vfio->groups) {
		struct vfio_group *group = container_of(n, struct vfio_group, link);
		if (group->number == number)
			return group;
	}
	return NULL;
}

static int take_group(struct vfio_opened *opened, int *ret_fd)
{
	if (opened->group_fd < 0)
		return log_refuse(
			-EBUSY,
			"vfio: attach %s: no descriptor of /dev/vfio/%u came with it: "
			"another process has it?",
			opened->name, opened->group);
	*ret_fd = opened->group_fd;
	opened->group_fd = -1;
	return 0;
}

int vfio_group_explain(unsigned int number, int r)
{
	if (r == -EBUSY)
		return log_err(r,
			       "vfio: open group %u: another process has it; end that process",
			       number);
	if (r == -EACCES || r == -EPERM) {
		(void)log_err(r,
			      "vfio: open group %u: be root, or have /dev/vfio/%u given to you "
			      "(chown)",
			      number, number);
		return -EPERM;
	}
	if (r == -ENOENT && vfio_group_is_noiommu(number)) {
		(void)log_err(
			0,
			"vfio: open group %u: no IOMMU stands before it, so nothing would "
			"keep the device off the host's memory; refusing",
			number);
		return -EOPNOTSUPP;
	}
	if (r == -ENOENT) {
		(void)log_err(
			r,
			"vfio: open group %u: no /dev/vfio/%u; bind a device of the group "
			"to vfio-pci",
			number, number);
		return -ENODEV;
	}
	return log_err(r, "vfio: open group %u", number);
}

static int open_group(struct vfio_group *group)
{
	if (group->vfio->opened)
		return take_group(group->vfio->opened, &group->fd);
	int r = vfio_open_group(group->number, &group->fd);
	return r < 0 ? vfio_group_explain(group->number, r) : 0;
}

/* "0000:01:00.0 (vfio-pci), 0000:01:00.1 (snd_hda_intel)", as far as it fits. */
static void name_devices(unsigned int number, char *text, size_t size)
{
	char names[MAX_NAMED][VFIO_NAME_SIZE];
	char driver[64];

	text[0] = '\0';
	int n = vfio_sysfs_group_devices(number, names, MAX_NAMED);
	for (int i = 0; i < n; i++) {
		if (vfio_sysfs_driver(names[i], driver, sizeof(driver)) < 0 || !driver[0])
			(void)strcpy(driver, "no driver");
		text_add(text, size, "%s%s (%s)", i == 0 ? "" : ", ", names[i], driver);
	}
}

static int check_viable(const struct vfio_group *group)
{
	char devices[768];
	uint32_t flags;

	int r = vfio_group_get_flags(group->fd, &flags);
	if (r < 0)
		return log_err(r, "vfio: ask for the state of group %u", group->number);
	if (flags & VFIO_GROUP_FLAGS_VIABLE)
		return 0;
	if (group->vfio->opened)
		(void)snprintf(devices, sizeof(devices), "see /sys/kernel/iommu_groups/%u",
			       group->number);
	else
		name_devices(group->number, devices, sizeof(devices));
	(void)log_err(
		0,
		"vfio: group %u is not viable, its devices can reach each other: bind each "
		"to vfio-pci or to no driver: %s",
		group->number, devices);
	return -EBUSY;
}

static int show(struct vfio_group *group)
{
	struct wires *wires = group->vfio->wires;

	int r = wires->ops->group_add(wires, group->fd);
	if (r < 0)
		return log_err(r, "vfio: show group %u to the hypervisor", group->number);
	group->shown = true;
	return 0;
}

/* They share a container, which pins what it maps or does not: there is one answer for all. */
static int check_agreement(const struct vfio_group *group, enum vfio_balloon balloon)
{
	const char *name = "it"; /* for the moment that it has no device */

	if (group->balloon == balloon)
		return 0;
	if (!list_empty(&group->devices))
		name = container_of(group->devices.next, struct vfio_device, link)->name;
	return log_refuse(
		-EINVAL,
		"vfio: attach group %u: %s is assigned %s balloon=allowed: say the same "
		"of all devices of the group",
		group->number, name,
		group->balloon == VFIO_BALLOON_ALLOWED ? "with" : "without");
}

void vfio_group_inhibit(struct vfio_group *group)
{
	char owner[RECLAIM_OWNER_SIZE];

	if (group->balloon == VFIO_BALLOON_ALLOWED)
		return;
	(void)snprintf(owner, sizeof(owner), "vfio group %u", group->number);
	inhibitor_raise(group->vfio->reclaim, &group->inhibitor, owner);
}

/* NULL: no memory. */
static struct vfio_group *group_create(struct vfio *vfio, unsigned int number,
				       enum vfio_balloon balloon)
{
	struct vfio_group *group = calloc(1, sizeof(*group));

	if (!group)
		return NULL;
	*group = (struct vfio_group){
		.vfio = vfio,
		.number = number,
		.balloon = balloon,
		.fd = -1,
	};
	list_init(&group->devices);
	list_append(&vfio->groups, &group->link);
	return group;
}

int vfio_group_attach(struct vfio *vfio, unsigned int number, enum vfio_balloon balloon,
		      struct vfio_group **ret)
{
	TRACE(vfio_group_attach, number, 0);
	struct vfio_group *group = vfio_group_find(vfio, number);
	if (group) {
		int agrees = check_agreement(group, balloon);
		if (agrees >= 0)
			*ret = group;
		return agrees;
	}
	group = group_create(vfio, number, balloon);
	if (!group)
		return log_err(-ENOMEM, "vfio: attach group %u", number);
	int r = open_group(group);
	if (r < 0)
		goto fail;
	r = check_viable(group);
	if (r < 0)
		goto fail;
	/* Before the first call that can pin: joining a container with mappings does. */
	if (!vfio->config.coordinate || vfio->inhibiting)
		vfio_group_inhibit(group);
	r = vfio_container_join(vfio, group);
	if (r < 0)
		goto fail;
	r = show(group);
	if (r < 0)
		goto fail;
	log_debug("vfio: group %u attached", number);
	*ret = group;
	return 0;
fail:
	vfio_group_detach(group);
	return r;
}

void vfio_group_detach(struct vfio_group *group)
{
	struct vfio *vfio = group->vfio;

	if (!list_empty(&group->devices))
		return;
	TRACE(vfio_group_detach, group->number, 0);
	if (group->shown)
		vfio->wires->ops->group_remove(vfio->wires, group->fd);
	vfio_container_leave(group);
	/* After the last page has been unpinned. */
	inhibitor_lower(vfio->reclaim, &group->inhibitor);
	vfio_close(&group->fd);
	list_remove(&group->link);
	free(group);
}
