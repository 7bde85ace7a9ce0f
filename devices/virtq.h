/* SPDX-License-Identifier: MIT */
/*
 * virtq.h - one split virtqueue, the device's side. Virtual I/O Device 1.2, 2.7.
 *
 *	descriptor table       available ring         used ring
 *	(driver writes)        (driver writes)        (device writes)
 *	+------------------+   flags                  flags
 *	| address, length, |   idx --> next free      idx --> next free
 *	| flags, next      |   ring[]: heads of       ring[]: heads of chains
 *	| ...              |   chains for us          done, bytes written
 *	+------------------+
 *
 * The driver fills a chain of descriptors, puts the number of the first into the available
 * ring and moves idx; virtq_pop() copies the chain out, checked; the device does the work and
 * virtq_push() hands the head back through the used ring.
 *
 * All three lie in guest RAM, where the driver's other CPUs may write at any moment: each word
 * is read once, checked, and used. What can be wrong with a queue (rings outside of RAM, more
 * chains than entries, a head or next beyond the table, a loop, a writable descriptor before
 * a readable one, an indirect one that was not negotiated, or is not the last, or points to one more)
 * makes it broken: -EPROTO from then on, until the device is reset.
 *
 * With VIRTIO_F_EVENT_IDX each side says at which index it wants to be told: the driver is asked
 * to kick only when virtq_pop() has found nothing, and interrupts only where it wants one. So who
 * stops popping before that has to come back by itself.
 *
 * Threads: as its owner says; the queue takes no lock.
 */
#ifndef DEVICES_VIRTQ_H
#define DEVICES_VIRTQ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/range.h"
#include "base/util.h"

struct iovec;
struct memory_map;

#define VIRTQ_MAX_SIZE 256u /* entries; a power of two */

struct virtq {
	struct memory_map *map; /* borrowed, outlives this */
	uint16_t max_size;      /* entries offered to the driver; a power of two */
	/* What the driver chose; the transport writes these while the queue is not enabled. */
	uint16_t size; /* entries; a power of two, at most max_size */
	gpa_t desc;    /* descriptor table: 16 bytes an entry, aligned to 16 */
	gpa_t driver;  /* available ring, aligned to 2 */
	gpa_t device;  /* used ring, aligned to 4 */
	bool enabled;
	/* What the driver accepted; set before the queue is used. */
	bool indirect;  /* VIRTIO_F_INDIRECT_DESC */
	bool event_idx; /* VIRTIO_F_EVENT_IDX */
	/* Ours. */
	bool broken;
	uint16_t next_avail; /* entries of the available ring taken so far */
	uint16_t next_used;  /* entries of the used ring filled so far */
	uint16_t told_used;  /* next_used when it was last asked whether to interrupt */
};

struct virtq_segment {
	gpa_t gpa;     /* as the driver wrote it: not checked to be RAM */
	uint32_t size; /* bytes; may be 0 */
};

/* A chain as it stood when it was popped. Readable segments first, then the writable ones. */
struct virtq_chain {
	uint16_t head;
	uint16_t nr_readable;
	uint16_t nr_writable;
	struct virtq_segment segments[VIRTQ_MAX_SIZE];
};

/* A queue off, with size == max_size and addresses 0; a reset is the same. */
void virtq_init(struct virtq *vq, struct memory_map *map, uint16_t max_size);

/*
 * Takes the next chain. 1: *chain is filled in. 0: none is waiting, or the queue is not
 * enabled. -EPROTO: the queue is broken; nothing was taken.
 */
must_check int virtq_pop(struct virtq *vq, struct virtq_chain *chain);
/*
 * The same in two steps, for who looks more than once: virtq_take() leaves the driver as it is, which
 * need not kick for what it adds until virtq_await_kick() has asked for it. 1: some are waiting by
 * then, of which no kick may tell. 0: a kick will tell. -EPROTO.
 */
must_check int virtq_take(struct virtq *vq, struct virtq_chain *chain);
must_check int virtq_await_kick(struct virtq *vq);

/*
 * Hands the chain that starts at `head` back, `written` bytes of its writable part filled.
 * -EPROTO: the queue is broken. Chains may be pushed in any order, each once.
 */
must_check int virtq_push(struct virtq *vq, uint16_t head, uint32_t written);
/*
 * The same in two steps, for several chains that the driver has to see at once: a frame in more
 * than one buffer. Nothing of what was filled shows before it is published.
 */
must_check int virtq_fill(struct virtq *vq, uint16_t head, uint32_t written);
must_check int virtq_publish(struct virtq *vq);

/* The `nr` chains popped last, none of them pushed yet, were not: virtq_pop() gives them again. */
void virtq_unpop(struct virtq *vq, uint16_t nr);

/*
 * After pushes, once for all of them: does the driver want to be interrupted?
 * (VIRTQ_AVAIL_F_NO_INTERRUPT, or used_event.)
 */
bool virtq_wants_interrupt(struct virtq *vq);

/* Sum of the readable, or writable, segments' sizes, in bytes. */
uint64_t virtq_readable_size(const struct virtq_chain *chain);
uint64_t virtq_writable_size(const struct virtq_chain *chain);

/*
 * Copies `size` bytes out of the readable part, or into the writable part, from byte `offset` of it.
 * -EFAULT: a segment lies outside of RAM. -ERANGE: the part is shorter. Some may have been copied.
 */
must_check int virtq_read(const struct virtq *vq, const struct virtq_chain *chain,
			  uint64_t offset, void *buffer, size_t size);
must_check int virtq_write(const struct virtq *vq, const struct virtq_chain *chain,
			   uint64_t offset, const void *buffer, size_t size);

/*
 * Where bytes [offset, offset + size) of the readable, or writable, part are in host memory: fills
 * in up to VIRTQ_MAX_SIZE iovecs, none of them empty, and returns how many. Errors as above. They
 * are good until the device's reset is through; the guest may write there at any moment.
 */
must_check int virtq_map_readable(const struct virtq *vq, const struct virtq_chain *chain,
				  uint64_t offset, uint64_t size, struct iovec *iov);
must_check int virtq_map_writable(const struct virtq *vq, const struct virtq_chain *chain,
				  uint64_t offset, uint64_t size, struct iovec *iov);

#endif /* DEVICES_VIRTQ_H */
