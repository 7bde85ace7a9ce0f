/* SPDX-License-Identifier: MIT */
/*
 * reclaim.h - which guest pages the balloon holds, who may throw them away, and who forbids it.
 *
 * A discarded page reads as zero and gets a new host page on the next touch. A device that
 * has pinned the old page would go on using it unseen. So whoever pins guest memory either
 * forbids it, by an inhibitor, or goes along, as a pinner that lets go of a piece before it is
 * discarded and pins it anew before the guest may use it again.
 *
 * Concepts
 *  - held: the balloon has the page (one bit a 4 KiB page). The guest has promised not to use
 *    it before it has asked for it back.
 *  - unit: the smallest piece that the host takes back: one page of the RAM behind it, 4 KiB
 *    or, for hugetlb, 2 MiB.
 *  - granule: the smallest piece that pinners let go of and pin again: what they map at once.
 *    A multiple of the unit. A region's granules are counted from its start; its last one may
 *    be smaller.
 *  - piece: a granule while there are pinners, else a unit. It is discarded when all of its
 *    pages are held, however many elements that took.
 *  - waiting: pages that nobody pins wait until all of a huge page of the host's (2 MiB of a
 *    region) is held, which the host would otherwise have to take to pieces; but no longer than
 *    until the next tick has its turn at them.
 *  - live, released: a granule is live as long as all pinners have it pinned, and released
 *    from before it is discarded until after all of them have it pinned again.
 *  - reclaimed: a unit that was discarded while held, and not given back since. Held memory
 *    that is not reclaimed is *held back*: by an inhibitor, by a piece not held as a whole, by
 *    waiting for the rest of a huge page, or by a discard that failed.
 *  - inhibitor: embedded in the object that pins (a VFIO group, a KVM without synchronous
 *    MMU). It names its owner, and, being an object and not a count, cannot be lowered twice.
 *    Zeroed: not raised. While one is raised nothing is discarded; raising one while there are
 *    no pinners takes every reclaimed unit for lost, since its owner's pinning makes them
 *    present again. When the last one is lowered, what is held is discarded: huge pages held as
 *    a whole at once, others wait.
 *  - pinner: embedded in the object that pins (a VFIO container). One that joins pins what is
 *    live, and no more.
 *  - resting: a granule that has just been made live is not released again for a second or
 *    two, so that a guest that toggles its last page does not keep the host busy. The figure of
 *    that name has what waits, too.
 *  - gate: the one lock. Whoever discards looks at the inhibitors and acts under it: check and
 *    discard are one step as seen by whoever raises.
 *  - policy: with no inhibitor raised and no pinner it is `direct`. With an inhibitor it is
 *    `inhibit`, or, for experiments that want to see memory corrupted, `unsafe`: discarded all
 *    the same. What is pinned the host does not get that way, so that it never counts as
 *    reclaimed. With pinners alone it is `coordinated`.
 *  - a driver that has not promised to tell the host first (VIRTIO_BALLOON_F_MUST_TELL_HOST)
 *    may be using a page again by the time we come back to it: then only what one take names
 *    is discarded, during that take, and nothing later; of hugetlb, whose pages might be gone
 *    when it uses them, nothing; and nothing at all while there are pinners, who would hear of
 *    the use too late: the policy is `inhibit` then.
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

struct pinner;

struct inhibitor {
	struct list_node link;          /* reclaim->gate */
	char owner[RECLAIM_OWNER_SIZE]; /* for logs and answers: "vfio group 12" */
	bool told;                      /* reclaim->gate: the log has named it */
};

/*
 * Called under the gate, with whole granules of one region; silent. What has been done already
 * is not done again: `discard` passes over a granule let go of, `populate` over a pinned one. A
 * pinner that does not know the region, since it is about to leave, does nothing and succeeds.
 */
struct pinner_ops {
	/* Pins them no more. -errno: some of them are pinned; populate() pins the others again. */
	int (*discard)(struct pinner *pinner, const struct memory_region *region, gpa_t gpa,
		       uint64_t size);
	/* Pins them. -errno: none of those is pinned that were not before. */
	int (*populate)(struct pinner *pinner, const struct memory_region *region, gpa_t gpa,
			uint64_t size);
};

struct pinner {
	struct list_node link; /* reclaim->gate */
	const struct pinner_ops *ops;
};

enum reclaim_policy {
	RECLAIM_DIRECT,
	RECLAIM_INHIBIT,
	RECLAIM_COORDINATED,
	RECLAIM_UNSAFE,
};
#define RECLAIM_NR_POLICIES 4u

/* Who wants to know of inhibitors. Called with nothing held, by who raised or lowered one. */
struct reclaim_watcher {
	void (*raised)(void *opaque, const char *owner);
	void (*lowered)(void *opaque, const char *owner);
	void *opaque;
};

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
	uint64_t granule;           /* bytes; 0: all of a region */
	uint64_t held;              /* bytes in the balloon */
	uint64_t reclaimed;         /* of these, given back to the host */
	uint64_t held_back;         /* of these, not: held - reclaimed */
	uint64_t incomplete;        /* of those held back: in pieces not held as a whole */
	uint64_t resting;           /* of those held back: at rest, or waiting */
	unsigned int nr_inhibitors;
	unsigned int nr_pinners;
	unsigned int nr_owners; /* how many inhibitors are named: at most RECLAIM_MAX_OWNERS */
	char owners[RECLAIM_MAX_OWNERS][RECLAIM_OWNER_SIZE];
	struct reclaim_counts policies[RECLAIM_NR_POLICIES];
	struct reclaim_counts reports; /* of free pages; taken: bytes reported */
	/* Of granules, since the start. */
	uint64_t nr_released;
	uint64_t nr_restored;
	uint64_t nr_not_released; /* a pinner could not let go: they stayed live */
	uint64_t nr_not_restored; /* attempts that failed, for lack of memory mostly */
};

struct reclaim {
	struct memory_map *map; /* borrowed, outlives this */
	const struct reclaim_watcher
		*watcher; /* borrowed, outlives this; or NULL. Set at first */
	/*
	 * The balloon's, or NULL; set before others may call. Something waits, and no balloon has
	 * done it: a tick is due in a second. By any thread, which may hold locks of its own.
	 */
	void (*tick_due)(void *opaque);
	void *tick_opaque;
	bool unsafe;      /* what an inhibitor makes of the policy; fixed */
	uint64_t granule; /* bytes, a power of two; 0: all of a region; fixed */
	struct memory_listener listener;
	pthread_mutex_t gate;
	struct list_node inhibitors; /* gate */
	struct list_node pinners;    /* gate; in the order of joining */
	struct list_node blocks;     /* gate; one for each region of RAM */
	enum reclaim_driver driver;  /* gate */
	bool draining;               /* gate: reclaim_give_back_all() is not through */
	struct reclaim_counts policies[RECLAIM_NR_POLICIES]; /* gate */
	struct reclaim_counts reports;                       /* gate */
	uint64_t nr_released;                                /* gate, like those below */
	uint64_t nr_restored;
	uint64_t nr_not_released;
	uint64_t nr_not_restored;
	bool failure_told; /* of discards */
	bool release_failure_told;
	bool driver_told; /* that it does not tell first */
};

/*
 * Listens to the map, to keep books on each region of RAM. `inhibited` is the policy while an
 * inhibitor is raised: RECLAIM_INHIBIT, or RECLAIM_UNSAFE. `granule` is a power of two, or 0
 * where nothing will be held; regions whose RAM has larger pages have granules of that size.
 * -ENOMEM; -EINVAL: a region of RAM is not aligned to the pages of the RAM behind it. On
 * failure nothing is left behind.
 */
must_check int reclaim_init(struct reclaim *reclaim, struct memory_map *map,
			    enum reclaim_policy inhibited, uint64_t granule);
/* No inhibitor may be left raised, and no pinner. Accepts a zeroed object. */
void reclaim_finish(struct reclaim *reclaim);

/*
 * Raises; waits until no discard runs. Cannot fail. Raising one that is raised is our bug.
 * Says so in the log if memory that had been reclaimed comes back by it.
 */
void inhibitor_raise(struct reclaim *reclaim, struct inhibitor *inhibitor, const char *owner);
/*
 * Lowers; if it was the last, what is held is discarded, or waits: a tick is due. Does nothing
 * to one that is not raised, so that an unwinding path may always call.
 */
void inhibitor_lower(struct reclaim *reclaim, struct inhibitor *inhibitor);

/* How many inhibitors are raised. */
unsigned int reclaim_inhibitors(struct reclaim *reclaim);

/*
 * Joins, before the first pin: from here on nothing is discarded that the pinner has not let
 * go of. Granules that are reclaimed as a whole stay so; of others what was reclaimed is taken
 * for lost, since they are about to be pinned.
 */
void pinner_join(struct reclaim *reclaim, struct pinner *pinner);
/*
 * Has it pin all of the region that is live: makes it present and calls `populate` for it,
 * piece by piece, so that the balloon is not held up. -ENOMEM: no memory to make it present; or
 * the errno of `populate`. Not logged. What was pinned up to then stays so.
 */
must_check int pinner_pin(struct reclaim *reclaim, struct pinner *pinner,
			  const struct memory_region *region);
/*
 * Leaves, after the last unpin. With the last pinner and no inhibitor, what is held is
 * discarded, or waits: a tick is due. Does nothing to one that has not joined.
 */
void pinner_leave(struct reclaim *reclaim, struct pinner *pinner);

/*
 * The size of the region's granules in bytes; all of the region if reclaim has none. Its last
 * granule may be smaller.
 */
uint64_t reclaim_granule(const struct reclaim *reclaim, const struct memory_region *region);

/* What the balloon's driver has promised; RECLAIM_DRIVER_TELLS_FIRST at first. */
void reclaim_set_driver(struct reclaim *reclaim, enum reclaim_driver driver);

/*
 * The balloon takes guest pages [gpa, gpa + size): they are held from now on, and discarded
 * now or later, as the policy has it; neighbouring pieces by one call. Pages that are held
 * already stay so.
 * -EINVAL: gpa or size is no multiple of 4 KiB, or the range is empty or wraps. -EFAULT: some
 * of it is no RAM; the rest was taken. Whether something was discarded only the figures tell:
 * the guest is not to know.
 */
must_check int reclaim_take(struct reclaim *reclaim, gpa_t gpa, uint64_t size);

/*
 * The guest wants [gpa, gpa + size) back: held no more, and safe to touch, for it and its
 * devices, once this returns 0. A base page that nobody pins comes back on the first touch. A
 * released granule is made present and pinned by every pinner here, a hugetlb page made
 * present, since later the host's pool might be empty. Pages that are not held are left alone.
 * -ENOMEM: it could not be; the whole range may be tried again, and is not to be acknowledged
 * before. -EINVAL, -EFAULT as for take: the rest was given back.
 */
must_check int reclaim_give_back(struct reclaim *reclaim, gpa_t gpa, uint64_t size);

/*
 * The driver, or the guest, starts anew: everything is made live, as far as `most` bytes (or a
 * granule more), and once all is, nothing is held any more; hugetlb pages that may be missing
 * are made present, and held no more, one by one. 0: so it is. 1: there is more to do; call
 * again. -ENOMEM: not now; try again. Until it has returned 0 nothing is discarded.
 */
must_check int reclaim_give_back_all(struct reclaim *reclaim, uint64_t most);
/* The guest is gone: nothing is held any more, and nothing is made present or pinned. */
void reclaim_forget(struct reclaim *reclaim);

/*
 * Makes live what is released, while it stays held, as far as `most` bytes (or a granule more):
 * for who forbids discards, and does not want to wait for memory later. Inhibitors are raised.
 * 0: all is live. 1: there is more to do; call again. -ENOMEM: some of it stays released.
 */
must_check int reclaim_restore(struct reclaim *reclaim, uint64_t most);

/*
 * For who is about to have a pinner join, and lets others have their turn in between: makes present
 * what it will pin of bytes [offset, offset + size) of RAM, whole units of it. That is what is not
 * reclaimed, and what would not stay so, being in a granule that is not reclaimed as a whole: it is
 * not from here on, and *lost grows by its size. -errno of ram_populate(): not all is present.
 * If nobody joins after that: reclaim_discard_held().
 */
must_check int reclaim_populate_live(struct reclaim *reclaim, uint64_t offset, uint64_t size,
				     uint64_t *lost);
/* Bytes that would stay reclaimed if a pinner joined now. */
uint64_t reclaim_staying(struct reclaim *reclaim);
/* All that is held and may be discarded is, or waits, as if the last inhibitor had gone. */
void reclaim_discard_held(struct reclaim *reclaim);

/*
 * Time passes: to be called about a second after something was taken or given back, or pinned no
 * more. What waited for the rest of a huge page is discarded; granules that have rested for that
 * long are released if they are held as a whole. 0: that was all. 1: granules rest yet: again in a
 * second. -EAGAIN: there is more to discard than others should wait for: again when they had their
 * turn.
 */
int reclaim_tick(struct reclaim *reclaim);

/*
 * The guest reports [gpa, gpa + size) as free, and will not say when it uses it again:
 * discarded at once, or not at all. Whole units only; what sticks out is left alone.
 * -EBUSY: something is pinned, whatever the policy; nothing was done. -EFAULT: not wholly
 * within one region of RAM. -errno of madvise or fallocate.
 */
must_check int reclaim_report(struct reclaim *reclaim, gpa_t gpa, uint64_t size);

void reclaim_figures(struct reclaim *reclaim, struct reclaim_figures *ret);

/* "direct", "inhibit", "coordinated", "unsafe". */
const char *reclaim_policy_name(enum reclaim_policy policy);

#endif /* MEMORY_RECLAIM_H */
