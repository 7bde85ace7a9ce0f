/* SPDX-License-Identifier: MIT */
/*
 * reclaim.h - who may throw guest pages away, and who forbids it.
 *
 * A discarded page reads as zero and gets a new host page on the next touch. A device that
 * has pinned the old page would go on using it unseen, so whoever pins guest memory holds an
 * inhibitor from before the first pin until after the last unpin.
 *
 * Concepts
 *  - inhibitor: embedded in the object that pins (a VFIO group, a KVM without synchronous
 *    MMU). It names its owner, and, being an object and not a count, cannot be lowered twice.
 *    Zeroed: not raised.
 *  - gate: discards pass under its read side, raising takes its write side. Check and discard
 *    are therefore one step as seen by whoever raises.
 *
 * Threads: any. When inhibitor_raise() returns, no discard is running and none will start.
 */
#ifndef MEMORY_RECLAIM_H
#define MEMORY_RECLAIM_H

#include <pthread.h>

#include "base/list.h"
#include "base/range.h"
#include "base/util.h"

struct memory_map;

struct inhibitor {
	struct list_node link; /* reclaim->gate */
	char owner[32];        /* for logs and answers: "vfio group 12" */
};

struct reclaim {
	struct memory_map *map; /* borrowed, outlives this */
	pthread_rwlock_t gate;
	struct list_node inhibitors; /* gate */
};

void reclaim_init(struct reclaim *reclaim, struct memory_map *map);
/* No inhibitor may be left raised. */
void reclaim_finish(struct reclaim *reclaim);

/* Raises; waits until no discard runs. Cannot fail. Raising one that is raised is our bug. */
void inhibitor_raise(struct reclaim *reclaim, struct inhibitor *inhibitor, const char *owner);
/* Lowers. Does nothing to one that is not raised, so that an unwinding path may always call. */
void inhibitor_lower(struct reclaim *reclaim, struct inhibitor *inhibitor);

/* How many inhibitors are raised. */
unsigned int reclaim_inhibitors(struct reclaim *reclaim);

/*
 * Gives guest pages [gpa, gpa + size) back to the host.
 * -EBUSY: inhibited, nothing was done. -EFAULT: not wholly within one region of RAM.
 * -EINVAL: not aligned to the RAM's page size. -errno of madvise or fallocate.
 */
must_check int reclaim_discard(struct reclaim *reclaim, gpa_t gpa, uint64_t size);

#endif /* MEMORY_RECLAIM_H */
