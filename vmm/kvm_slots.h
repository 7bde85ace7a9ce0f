/* SPDX-License-Identifier: MIT */
/*
 * kvm_slots.h - KVM as a memory listener: one memory slot a region.
 *
 * Threads: called under the map's change_lock only, which guards everything here.
 */
#ifndef VMM_KVM_SLOTS_H
#define VMM_KVM_SLOTS_H

#include "memory/map.h"

struct kvm_slots {
	struct memory_listener listener;
	struct memory_map *map; /* borrowed, outlives this; NULL: not initialised */
	int vm_fd;              /* borrowed */
	uint32_t nr_slots;
	struct memory_region **regions; /* owned array: the region in each slot, or NULL */
};

/* Joins the map. -ENOMEM, or the errno of a slot that KVM refused. */
must_check int kvm_slots_init(struct kvm_slots *slots, struct memory_map *map, int vm_fd);
/* Leaves it. Accepts a zeroed object. */
void kvm_slots_finish(struct kvm_slots *slots);

#endif /* VMM_KVM_SLOTS_H */
