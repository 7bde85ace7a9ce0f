/* SPDX-License-Identifier: MIT */
#include "memory/reclaim.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>

#include "base/trace.h"

#include "memory/map.h"
#include "memory/ram.h"

void reclaim_init(struct reclaim *reclaim, struct memory_map *map)
{
	pthread_rwlockattr_t attr;

	*reclaim = (struct reclaim){ .map = map };
	/* By default discards that overlap without end would keep whoever raises out for ever. */
	pthread_rwlockattr_init(&attr);
	pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	pthread_rwlock_init(&reclaim->gate, &attr);
	pthread_rwlockattr_destroy(&attr);
	list_init(&reclaim->inhibitors);
}

void reclaim_finish(struct reclaim *reclaim)
{
	assert(list_empty(&reclaim->inhibitors));
	pthread_rwlock_destroy(&reclaim->gate);
}

void inhibitor_raise(struct reclaim *reclaim, struct inhibitor *inhibitor, const char *owner)
{
	TRACE(inhibitor_raise, 0, 0);
	(void)snprintf(inhibitor->owner, sizeof(inhibitor->owner), "%s", owner);
	pthread_rwlock_wrlock(&reclaim->gate);
	assert(!list_linked(&inhibitor->link));
	list_append(&reclaim->inhibitors, &inhibitor->link);
	pthread_rwlock_unlock(&reclaim->gate);
}

void inhibitor_lower(struct reclaim *reclaim, struct inhibitor *inhibitor)
{
	TRACE(inhibitor_lower, 0, 0);
	pthread_rwlock_wrlock(&reclaim->gate);
	list_remove(&inhibitor->link);
	pthread_rwlock_unlock(&reclaim->gate);
}

unsigned int reclaim_inhibitors(struct reclaim *reclaim)
{
	unsigned int n = 0;

	pthread_rwlock_rdlock(&reclaim->gate);
	list_for_each(node, &reclaim->inhibitors)
		n++;
	pthread_rwlock_unlock(&reclaim->gate);
	return n;
}

/* Under the gate's read side, nobody pinning. */
static int discard(struct reclaim *reclaim, gpa_t gpa, uint64_t size)
{
	struct memory_region *region = memory_map_find(reclaim->map, gpa, size);

	if (!region || region->kind != MEMORY_RAM)
		return -EFAULT;
	uint64_t offset = (uint64_t)((char *)region->host - (char *)region->ram->host);
	return ram_discard(region->ram, offset + (gpa - region->gpa), size);
}

int reclaim_discard(struct reclaim *reclaim, gpa_t gpa, uint64_t size)
{
	TRACE(reclaim_discard, gpa, size);
	pthread_rwlock_rdlock(&reclaim->gate);
	int r = list_empty(&reclaim->inhibitors) ? discard(reclaim, gpa, size) : -EBUSY;
	pthread_rwlock_unlock(&reclaim->gate);
	return r;
}
