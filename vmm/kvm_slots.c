/* SPDX-License-Identifier: MIT */
#include "vmm/kvm_slots.h"

#include <errno.h>
#include <inttypes.h>

#include "base/log.h"
#include "base/trace.h"

#include "vmm/kvm.h"

static struct kvm_slots *slots_of(struct memory_listener *listener)
{
	return container_of(listener, struct kvm_slots, listener);
}

/* The slot that holds `region`; with NULL: a free one. nr_slots: there is none. */
static uint32_t find_slot(const struct kvm_slots *slots, const struct memory_region *region)
{
	uint32_t slot = 0;

	while (slot < slots->nr_slots && slots->regions[slot] != region)
		slot++;
	return slot;
}

static int slots_region_add(struct memory_listener *listener, struct memory_region *region)
{
	struct kvm_slots *slots = slots_of(listener);
	uint32_t slot = find_slot(slots, NULL);

	TRACE(slots_region_add, region->gpa, region->size);
	if (slot == slots->nr_slots)
		return log_err(-ENOSPC, "kvm: slot for %s: all %u are taken", region->name,
			       slots->nr_slots);
	int r = kvm_set_slot(slots->vm_fd, slot, region->gpa, region->size, region->host);
	if (r < 0)
		return log_err(r, "kvm: slot %u for %s at 0x%" PRIx64 "+0x%" PRIx64, slot,
			       region->name, region->gpa, region->size);
	slots->regions[slot] = region;
	return 0;
}

static void slots_region_del(struct memory_listener *listener, struct memory_region *region)
{
	struct kvm_slots *slots = slots_of(listener);
	uint32_t slot = find_slot(slots, region);

	TRACE(slots_region_del, region->gpa, region->size);
	int r = kvm_set_slot(slots->vm_fd, slot, region->gpa, 0, NULL);
	if (r < 0)
		(void)log_err(r, "kvm: removing slot %u of %s, going on", slot, region->name);
	slots->regions[slot] = NULL;
}

static const struct memory_listener_ops slots_ops = {
	.add = slots_region_add,
	.del = slots_region_del,
};

int kvm_slots_init(struct kvm_slots *slots, struct memory_map *map, int vm_fd)
{
	int nr_slots = kvm_check(vm_fd, KVM_CAP_NR_MEMSLOTS);

	*slots = (struct kvm_slots){
		.listener = { .ops = &slots_ops, .name = "kvm" },
		.vm_fd = vm_fd,
		.nr_slots = nr_slots > 0 ? (uint32_t)nr_slots : 32,
	};
	slots->regions = calloc(slots->nr_slots, sizeof(*slots->regions));
	if (!slots->regions)
		return log_err(-ENOMEM, "kvm: table of %u slots", slots->nr_slots);
	int r = memory_map_listen(map, &slots->listener);
	if (r < 0) {
		free(slots->regions);
		*slots = (struct kvm_slots){ 0 };
		return r;
	}
	slots->map = map;
	return 0;
}

void kvm_slots_finish(struct kvm_slots *slots)
{
	if (!slots->map)
		return;
	memory_map_unlisten(slots->map, &slots->listener);
	free(slots->regions);
	*slots = (struct kvm_slots){ 0 };
}
