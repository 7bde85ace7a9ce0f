/* SPDX-License-Identifier: MIT */
/*
 * virtio_blk.h - a disk: a raw file or a block device of the host. Virtual I/O Device 1.2, 5.2.
 *
 * Offered: SEG_MAX, BLK_SIZE, MQ, FLUSH always; RO for what is readonly, DISCARD and
 * WRITE_ZEROES for what is not; TOPOLOGY for a block device.
 *
 * Concepts
 *  - request: an element of a queue, read once, checked, copied. It becomes one operation after
 *    the other of the disk's io_uring, each at most 4 MiB of it, until it is done. All that a kick
 *    brings is submitted at once. What the kernel has at hand is done by then; the rest comes
 *    back through an eventfd, on the event loop. A small write to a file on tmpfs is made there and
 *    then, if nothing is under way: it waits for memory at most, and for who else writes to it.
 *  - flush: a request is acknowledged when its data is in the host's page cache, or on the disk
 *    with direct=on; a flush, when all that was acknowledged before it came is on stable storage
 *    (fdatasync). One runs at a time: Linux tells of a write-back that failed once, to whoever
 *    asks first, so that of two that run together one could miss it. For the same reason there
 *    is no flush that succeeds after one that failed, until the disk is opened again.
 *  - write-through: for a driver without FLUSH each write is followed by a flush of its own
 *    before it is acknowledged.
 *  - ranges: discard is a hint, and well done where the host cannot. Write-zeroes may leave a hole
 *    only where the driver says so; where the host can do neither, zeros are written.
 *  - direct: the page cache is bypassed. The disk's logical block is what O_DIRECT needs, a driver
 *    that asks for less gets I/O errors. Its buffers may lie anywhere: what O_DIRECT does not
 *    take goes through one buffer of ours, a request at a time.
 *  - rest: what ends while there is no DRIVER_OK is told if the driver sets it again.
 *  - size: looked at once a second. The capacity follows, rounded down to blocks, both ways.
 *  - the host's errors are the guest's I/O errors, and are logged within a budget.
 *
 * Threads: as virtio_init(). Takes virtio->lock. Operations are submitted by who kicks: the event
 * loop, or a vCPU as its driver starts; a thread that ends has its operations cancelled.
 */
#ifndef DEVICES_VIRTIO_BLK_H
#define DEVICES_VIRTIO_BLK_H

#include <liburing.h>

#include "base/list.h"

#include "devices/virtio.h"

#define VIRTIO_BLK_SERIAL_SIZE 20u /* bytes; need not end in a 0 */
#define VIRTIO_BLK_MAX_RANGES 16u  /* in one discard or write-zeroes */

struct virtio_blk_options {
	const char *path;   /* borrowed, outlives the disk */
	const char *serial; /* likewise; at most VIRTIO_BLK_SERIAL_SIZE bytes. NULL: none */
	bool readonly;
	bool direct; /* O_DIRECT */
};

/* Since the beginning; what was acknowledged. */
struct virtio_blk_figures {
	uint64_t nr_reads;
	uint64_t nr_writes;
	uint64_t nr_flushes;
	uint64_t nr_discards;
	uint64_t nr_zeroes;
	uint64_t bytes_read;
	uint64_t bytes_written;
	uint64_t nr_errors; /* requests of any kind that were answered with an error */
};

/* Bytes of the disk. */
struct virtio_blk_range {
	uint64_t offset;
	uint64_t size;
	bool may_unmap;
};

/* What a block device says of itself, in the disk's blocks; 0: nothing, or what cannot be told. */
struct virtio_blk_topology {
	bool known;
	uint8_t physical_exponent; /* blocks in a physical one: a power of two */
	uint8_t alignment_offset;  /* the first block that begins a physical one */
	uint16_t min_io;
	uint32_t opt_io;
};

/* A request under way. All under virtio->lock. */
struct virtio_blk_request {
	struct list_node link; /* free, or waiting, or covered by the flush that runs */
	uint32_t type;
	unsigned int queue;
	uint16_t head;
	bool bounces; /* its buffers are no good for O_DIRECT */
	bool by_hand; /* the host cannot zero: zeros are written */
	bool ended;   /* while the device rested, with `outcome` */
	uint8_t outcome;
	uint8_t *status;  /* in guest memory */
	uint64_t bytes;   /* of data */
	uint32_t written; /* what the used ring is to say if all goes well */
	uint32_t least;   /* and if it does not */
	uint64_t
		offset; /* on the disk, of what is left: of the range at work, if it has ranges */
	uint64_t left;     /* likewise, bytes */
	unsigned int next; /* iovec, or range, that comes next */
	unsigned int nr;
	union {
		struct iovec iov[VIRTQ_MAX_SIZE]; /* guest memory, shortened from the front */
		struct virtio_blk_range ranges[VIRTIO_BLK_MAX_RANGES];
	};
};

struct virtio_blk {
	struct virtio virtio;
	struct virtio_blk_options options;
	char name[96];             /* for logs */
	struct event_loop *loop;   /* borrowed, outlives this; NULL: none */
	int fd;                    /* owned */
	bool in_memory;            /* a file on tmpfs, by the page cache */
	uint32_t block_size;       /* logical: bytes, a power of two */
	uint32_t memory_align;     /* of buffers; 1: none is needed */
	struct event_source timer; /* fd owned: time to look at the size */
	struct event_source done;  /* fd owned: operations are through */
	bool has_ring;
	struct virtio_blk_topology topology;
	/* All below: virtio->lock. */
	struct io_uring ring;    /* owned */
	unsigned int nr_running; /* operations in the ring that have not come back */
	uint64_t capacity;       /* in sectors of 512 bytes */
	struct virtq_chain chain;
	struct virtio_blk_request *requests; /* never touched beyond nr_touched */
	unsigned int nr_touched;
	struct list_node free; /* those used last first */
	uint16_t nr_taken[VIRTIO_MAX_QUEUES];
	uint64_t to_interrupt; /* a bit a queue */
	char *zeros;           /* owned: one mapping, of these, the buffer and the requests */
	char *bounce;
	struct virtio_blk_request *bouncer; /* has the buffer; NULL: nobody */
	struct list_node bounce_waiting;
	struct list_node resting; /* ended, or to go on, once the device runs again */
	struct list_node flush_waiting;
	struct list_node flush_covered; /* by the one that runs */
	bool flush_runs;
	bool flush_failed; /* once and for all */
	struct virtio_blk_figures figures;
	struct log_budget errors; /* the host's */
};

/*
 * nr_queues: 1 to VIRTIO_MAX_QUEUES. One line has said what failed. -EINVAL: the user's fault (no
 * such file, not one, not to be written, in use by somebody else, no O_DIRECT). -EPERM, -ENOSYS:
 * no io_uring. Others: as virtio_init(). On failure nothing is left behind.
 */
must_check int virtio_blk_init(struct virtio_blk *blk, struct memory_map *map,
			       struct event_loop *loop,
			       const struct virtio_blk_options *options,
			       unsigned int nr_queues);
/*
 * Waits until the kernel has let go of guest memory; what has not begun is not done. Accepts a
 * zeroed object.
 */
void virtio_blk_finish(struct virtio_blk *blk);

void virtio_blk_get_figures(struct virtio_blk *blk, struct virtio_blk_figures *ret);

#endif /* DEVICES_VIRTIO_BLK_H */
