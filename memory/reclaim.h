/* SPDX-License-Identifier: MIT */
/*
 * reclaim.h - which guest pages the balloon holds, who may throw them away, and who forbids it.
 *
 * A discarded page reads as zero and gets a new host page on the next touch. A device that
 * has pinned the old page would go on using it unseen, so whoever pins guest memory holds an
 * inhibitor from before the first pin until after the last unpin.
 *
 * Concepts
 *  - held: the balloon has the page (one bit a 4 KiB page). The guest has promised not to use
 *    it before it has asked for it back.
 *  - granule: the smallest piece that can be discarded: one page of the RAM behind it, 4 KiB
 *    or, for hugetlb, 2 MiB. It is discarded when all of its pages are held, however many
 *    elements that took.
 *  - reclaimed: a granule that was discarded while held, and not given back since. Held memory
 *    that is not reclaimed is *held back*: by an inhibitor, by a granule not held as a whole,
 *    or by a discard that failed.
 *  - inhibitor: embedded in the object that pins (a VFIO group, a KVM without synchronous
 *    MMU). It names its owner, and, being an object and not a count, cannot be lowered twice.
 *    Zeroed: not raised. While one is raised nothing is discarded; raising one takes every
 *    reclaimed granule for lost, since pinning makes its pages present again. When the last
 *    one is lowered, what is held is discarded at once.
 *  - gate: the one lock. Whoever discards looks at the inhibitors and acts under it: check and
 *    discard are one step as seen by whoever raises.
 *  - policy: with no inhibitor raised it is `direct`. With one raised it is `inhibit`, or, for
 *    experiments that want to see memory corrupted, `unsafe`: discarded all the same. What is
 *    pinned the host does not get that way, so that it never counts as reclaimed.
 *  - a driver that has not promised to tell the host first (VIRTIO_BALLOON_F_MUST_TELL_HOST)
 *    may be using a page again by the time we come back to it: then only what one take names
 *    is discarded, during that take, and nothing later.
 *
 * Threads: any. When inhibitor_raise() returns, no discard is running and none will start.
 */
#ifndef MEMORY_RECLAIM_H
#define MEMORY_RECLAIM_H

#include <pthread.h>

#include "base/list.h"
#include "base/range.h"
#include "base/util.h"

#include "memory/map.h"

#define RECLAIM_OWNER_SIZE 32u
#define RECLAIM_MAX_OWNERS 8u

struct inhibitor {
	struct list_node link;          /* reclaim->gate */
	char owner[RECLAIM_OWNER_SIZE]; /* for logs and answers: "vfio group 12" */
	bool told;                      /* reclaim->gate: the log has named it */
};

enum reclaim_policy { RECLAIM_DIRECT, RECLAIM_INHIBIT, RECLAIM_UNSAFE };
#define RECLAIM_NR_POLICIES 3u

enum reclaim_driver { RECLAIM_DRIVER_TELLS_FIRST, RECLAIM_DRIVER_MAY_NOT_TELL };

/* What was done under one policy, since the start. */
struct reclaim_counts {
	uint64_t taken;    /* bytes the balloon took */
	uint64_t calls;    /* madvise and fallocate calls that discarded */
	uint64_t bytes;    /* that those calls discarded */
	uint64_t failures; /* calls that failed; what they were for stays held back */
};

struct reclaim_figures {
	enum reclaim_policy policy; /* in force now */
	uint64_t held;              /* bytes in the balloon */
	uint64_t reclaimed;         /* of these, given back to the host */
	uint64_t held_back;         /* of these, not: held - reclaimed */
	uint64_t incomplete;        /* of those held back: in granules not held as a whole */
	unsigned int nr_inhibitors;
	unsigned int nr_owners; /* how many are named: at most RECLAIM_MAX_OWNERS */
	char owners[RECLAIM_MAX_OWNERS][RECLAIM_OWNER_SIZE];
	struct reclaim_counts policies[RECLAIM_NR_POLICIES];
	struct reclaim_counts reports; /* of free pages; taken: bytes reported */
};

struct reclaim {
	struct memory_map *map; /* borrowed, outlives this */
	bool unsafe;            /* what an inhibitor makes of the policy; fixed */
	struct memory_listener listener;
	pthread_mutex_t gate;
	struct list_node inhibitors; /* gate */
	struct list_node blocks;     /* gate; one for each region of RAM */
	enum reclaim_driver driver;  /* gate */
	struct reclaim_counts policies[RECLAIM_NR_POLICIES]; /* gate */
	struct reclaim_counts reports;                       /* gate */
	bool failure_told;                                   /* gate: of discards */
};

/*
 * Listens to the map, to keep books on each region of RAM. `inhibited` is the policy while an
 * inhibitor is raised: RECLAIM_INHIBIT, or RECLAIM_UNSAFE. -ENOMEM; -EINVAL: a region of RAM is not aligned to
 * the pages of the RAM behind it. On failure nothing is left behind.
 */
must_check int reclaim_init(struct reclaim *reclaim, struct memory_map *map,
			    enum reclaim_policy inhibited);
/* No inhibitor may be left raised. Accepts a zeroed object. */
void reclaim_finish(struct reclaim *reclaim);

/*
 * Raises; waits until no discard runs. Cannot fail. Raising one that is raised is our bug.
 * Says so in the log if memory that had been reclaimed comes back by it.
 */
void inhibitor_raise(struct reclaim *reclaim, struct inhibitor *inhibitor, const char *owner);
/*
 * Lowers; if it was the last, discards what is held. Does nothing to one that is not raised,
 * so that an unwinding path may always call.
 */
void inhibitor_lower(struct reclaim *reclaim, struct inhibitor *inhibitor);

/* How many inhibitors are raised. */
unsigned int reclaim_inhibitors(struct reclaim *reclaim);

/* What the balloon's driver has promised; RECLAIM_DRIVER_TELLS_FIRST at first. */
void reclaim_set_driver(struct reclaim *reclaim, enum reclaim_driver driver);

/*
 * The balloon takes guest pages [gpa, gpa + size): they are held from now on, and discarded
 * now or later, as the policy has it; neighbouring granules by one call. Pages that are held
 * already stay so.
 * -EINVAL: gpa or size is no multiple of 4 KiB, or the range is empty or wraps. -EFAULT: some
 * of it is no RAM; the rest was taken. Whether something was discarded only the figures tell:
 * the guest is not to know.
 */
must_check int reclaim_take(struct reclaim *reclaim, gpa_t gpa, uint64_t size);

/*
 * The guest wants [gpa, gpa + size) back: held no more, and safe to touch once this returns 0.
 * A base page comes back on the first touch. A reclaimed hugetlb granule is made present here,
 * since later the host's pool might be empty. Pages that are not held are left alone.
 * -ENOMEM: it could not be; the whole range may be tried again, and is not to be acknowledged
 * before. -EINVAL, -EFAULT as for take: the rest was given back.
 */
must_check int reclaim_give_back(struct reclaim *reclaim, gpa_t gpa, uint64_t size);

/*
 * The driver, or the guest, starts anew: nothing is held any more. What cannot be made present
 * is left to the first touch, and logged.
 */
void reclaim_give_back_all(struct reclaim *reclaim);

/*
 * The guest reports [gpa, gpa + size) as free, and will not say when it uses it again:
 * discarded at once, or not at all. Whole granules only; what sticks out is left alone.
 * -EBUSY: an inhibitor is raised, whatever the policy; nothing was done. -EFAULT: not wholly
 * within one region of RAM. -errno of madvise or fallocate.
 */
must_check int reclaim_report(struct reclaim *reclaim, gpa_t gpa, uint64_t size);

void reclaim_figures(struct reclaim *reclaim, struct reclaim_figures *ret);

/* "direct", "inhibit", "unsafe". */
const char *reclaim_policy_name(enum reclaim_policy policy);

#endif /* MEMORY_RECLAIM_H */
