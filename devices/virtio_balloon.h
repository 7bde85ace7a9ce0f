/* SPDX-License-Identifier: MIT */
/*
 * virtio_balloon.h - the traditional memory balloon. Virtual I/O Device 1.2, 5.5.
 *
 * The host asks for memory by a target; the guest's driver gives pages up (inflates) or takes
 * them back (deflates) until the balloon is as large as that. What becomes of a page it gives
 * up is memory/reclaim's to say: its inhibitors are looked at before anything else.
 *
 * Offered: MUST_TELL_HOST, STATS_VQ, PAGE_POISON always; DEFLATE_ON_OOM and REPORTING when
 * asked for. Not FREE_PAGE_HINT, which only a migration wants. VIRTIO_F_ACCESS_PLATFORM says
 * nothing about page numbers: they are guest-physical, always.
 *
 * Concepts
 *  - queues are numbered as the driver counts them, in this order: inflate, deflate, stats,
 *    reporting. A queue whose feature is not offered, or not taken, takes no number (a driver
 *    that leaves a gap for one not taken is understood as well).
 *  - a page that is no RAM is skipped, and logged within the budget. An element with more
 *    than VIRTIO_BALLOON_MAX_PFNS page numbers breaks the device.
 *  - an element's pages are sorted and joined: one call into reclaim for each contiguous run of
 *    them. What reclaim lets wait is discarded by a timer.
 *  - an element that takes long (its pages have to be made present and pinned again) is served
 *    a slice at a time, so that the event loop's other work goes on.
 *  - a deflate that reclaim cannot serve yet (no host memory) is not acknowledged. The
 *    element waits, and is tried again after 10 ms, then ever more rarely, up to a second.
 *  - statistics: the driver leaves a buffer with us; handing it back asks for new ones.
 *  - after a reset the target stays, every held page is the guest's again, `actual` is 0. The
 *    reset is through only then: it may take its time, or wait for host memory.
 *
 * Threads: any, but init and finish as virtio_init(). Takes virtio->lock, then what reclaim
 * takes.
 */
#ifndef DEVICES_VIRTIO_BALLOON_H
#define DEVICES_VIRTIO_BALLOON_H

#include "devices/virtio.h"
#include "memory/reclaim.h"

#define VIRTIO_BALLOON_MAX_PFNS 65536u /* in one element: 256 MiB */
#define VIRTIO_BALLOON_NR_STATS 16u    /* tags 0 to 15 */
#define VIRTIO_BALLOON_NO_STAT UINT64_MAX

enum virtio_balloon_event {
	VIRTIO_BALLOON_WAITS, /* the host has no memory for a deflate or a reset: it is retried */
	VIRTIO_BALLOON_SERVED, /* it had it, in the end */
};

struct virtio_balloon_config {
	bool deflate_on_oom;
	bool reporting;            /* not for hugetlb RAM: see -EINVAL below */
	unsigned int stats_period; /* seconds between requests; 0: only on demand */
	/* On the event loop, with virtio->lock not held. NULL: nobody wants to know. */
	void (*event)(void *opaque, enum virtio_balloon_event event);
	/* `actual` is another now. On any thread, virtio->lock held. NULL: nobody wants to know. */
	void (*changed)(void *opaque);
	void *opaque;
};

struct virtio_balloon_stats {
	uint64_t values
		[VIRTIO_BALLOON_NR_STATS]; /* by tag; VIRTIO_BALLOON_NO_STAT: not reported */
	int64_t updated;                   /* CLOCK_REALTIME seconds; 0: never */
	time_t arrived;                    /* then too, by now_seconds(): how old they are */
	uint64_t nr_updates;               /* how often the driver has answered */
};

/* The balloon as the driver tells it; what the host gained by it only reclaim_figures() says. */
struct virtio_balloon_state {
	uint64_t target;         /* bytes wanted in the balloon */
	uint64_t actual;         /* bytes the driver says are in it, at most all RAM */
	bool running;            /* a driver has taken the device up */
	bool tells_host;         /* MUST_TELL_HOST was negotiated */
	uint64_t nr_waiting;     /* deflates that wait for host memory: 0 or 1 */
	uint64_t nr_retries;     /* of deflates and resets, so far */
	bool resetting;          /* a reset is not through */
	uint64_t nr_elements[4]; /* served so far: inflate, deflate, stats, reporting */
};

/* An element of page numbers on its way. */
struct virtio_balloon_element {
	bool at_work; /* it is popped and not pushed */
	unsigned int nr_done;
	struct virtq_chain chain;
};

struct virtio_balloon {
	struct virtio virtio;
	struct reclaim *reclaim; /* borrowed, outlives this */
	struct virtio_balloon_config config;
	uint64_t ram_size;               /* bytes; fixed */
	unsigned int nr_reporting;       /* virtio->lock; the number of that queue */
	struct event_source timer;       /* fd owned: time to ask for statistics */
	struct event_source retry_timer; /* fd owned: time to try a deflate or a reset again */
	struct event_source
		rest_timer; /* fd owned: granules have rested, parts of huge pages waited */
	/* All below: virtio->lock. */
	uint32_t num_pages;  /* the target as config space says it, in 4 KiB pages */
	uint32_t actual;     /* as the driver wrote it */
	uint32_t poison_val; /* 0 unless PAGE_POISON was negotiated */
	struct virtio_balloon_stats stats;
	bool has_stats_buffer; /* the driver's, at stats_head */
	uint16_t stats_head;
	bool deflate_waits;    /* for host memory, until the timer says so */
	unsigned int retry_ms; /* until the next try; 0: it will be the first */
	bool waits; /* it was said that there is no memory, and not that there is again */
	int64_t slice_end;   /* of the kick under way; CLOCK_MONOTONIC milliseconds */
	bool rests;          /* the rest timer runs */
	unsigned int events; /* to be passed on; a bit each */
	struct virtio_balloon_element elements[2]; /* inflate, deflate */
	struct virtq_chain chain;                  /* of another queue */
	uint32_t *pfns;                            /* owned: VIRTIO_BALLOON_MAX_PFNS */
	uint64_t nr_retries;
	uint64_t nr_elements[4];
};

/*
 * ram_size: all guest RAM in bytes, at most 16 TiB. -EINVAL: reporting is asked for but the
 * RAM is hugetlb, whose pages, once given back, might be gone when the guest uses them again
 * without a word. -ENOMEM, -EMFILE and the like. Not logged. On failure nothing is left behind.
 */
must_check int virtio_balloon_init(struct virtio_balloon *balloon, struct memory_map *map,
				   struct reclaim *reclaim, struct event_loop *loop,
				   const struct virtio_balloon_config *config);
/* The guest is gone: what is held is forgotten. Accepts a zeroed object. */
void virtio_balloon_finish(struct virtio_balloon *balloon);

/*
 * Asks the guest to have `bytes` in the balloon (rounded down to pages). It may take its time,
 * and may never comply. -ERANGE: that would leave it less than VIRTIO_BALLOON_FLOOR, or less
 * than all it has if that is not more.
 */
#define VIRTIO_BALLOON_FLOOR (64ull << 20)
must_check int virtio_balloon_set_target(struct virtio_balloon *balloon, uint64_t bytes);

void virtio_balloon_get_state(struct virtio_balloon *balloon, struct virtio_balloon_state *ret);

/*
 * Asks the driver for new statistics; they arrive later (stats.nr_updates grows).
 * -EAGAIN: asked already, or the driver has left no buffer yet. -ENOTCONN: no driver, or one
 * without statistics.
 */
must_check int virtio_balloon_request_stats(struct virtio_balloon *balloon);
void virtio_balloon_get_stats(struct virtio_balloon *balloon, struct virtio_balloon_stats *ret);
unsigned int virtio_balloon_get_stats_period(struct virtio_balloon *balloon);
/* Seconds between requests from now on; 0: only on demand. */
void virtio_balloon_set_stats_period(struct virtio_balloon *balloon, unsigned int seconds);

/* "swap-in", "free-memory" and so on, as QMP's guest-stats calls them (without "stat-"). */
const char *virtio_balloon_stat_name(unsigned int tag);

#endif /* DEVICES_VIRTIO_BALLOON_H */
