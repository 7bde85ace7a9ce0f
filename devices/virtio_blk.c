/* SPDX-License-Identifier: MIT */
#include "devices/virtio_blk.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/vfs.h>

#include <linux/falloc.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_ids.h>

#include "base/fd.h"
#include "base/trace.h"

#define QUEUE_SIZE VIRTQ_MAX_SIZE
#define SECTOR 512u
#define HEADER_SIZE sizeof(struct virtio_blk_outhdr)
/* Up to where the fields of SECURE_ERASE begin, which is not offered. */
#define CONFIG_SIZE (offsetof(struct virtio_blk_config, write_zeroes_may_unmap) + 4)

#define MAX_RANGE_SECTORS (1u << 21) /* of one discard or write-zeroes: 1 GiB */

/* Submissions that fit at once. Those that wait for the kernel are as many as there are requests. */
#define RING_SIZE 256u

/*
 * A request of any size is served a piece at a time, so that a reset need not wait for gigabytes;
 * and large ones by the kernel's workers, not copied here while the event loop waits.
 */
#define PIECE_SIZE (4u << 20)
#define INLINE_MAX (1u << 20)
#define KICK_MAX_BYTES (32u << 20)

/* The driver is told of so much at once. With more it would wait for bytes that it could have had. */
#define BATCH_BYTES (128u << 10)

/* Zeros to be written, and the buffer for what O_DIRECT does not take: as large. */
#define BOUNCE_SIZE (1u << 20)

#define MAX_BLOCK_SIZE 65536u
#define USUAL_DIRECT_ALIGN 4096u /* where the kernel does not say */

static struct virtio_blk *blk_of(struct virtio *virtio)
{
	return container_of(virtio, struct virtio_blk, virtio);
}

/* Requests */

static struct virtio_blk_request *take_request(struct virtio_blk *blk)
{
	if (list_empty(&blk->free))
		return &blk->requests[blk->nr_touched++];
	struct virtio_blk_request *rq =
		container_of(blk->free.next, struct virtio_blk_request, link);
	list_remove(&rq->link);
	return rq;
}

static void count(struct virtio_blk *blk, const struct virtio_blk_request *rq, uint8_t status)
{
	struct virtio_blk_figures *f = &blk->figures;

	if (status != VIRTIO_BLK_S_OK) {
		f->nr_errors++;
		return;
	}
	switch (rq->type) {
	case VIRTIO_BLK_T_IN:
		f->nr_reads++;
		f->bytes_read += rq->bytes;
		break;
	case VIRTIO_BLK_T_OUT:
		f->nr_writes++;
		f->bytes_written += rq->bytes;
		break;
	case VIRTIO_BLK_T_FLUSH: f->nr_flushes++; break;
	case VIRTIO_BLK_T_DISCARD: f->nr_discards++; break;
	case VIRTIO_BLK_T_WRITE_ZEROES: f->nr_zeroes++; break;
	default: break;
	}
}

/* It is over, and told if there is somebody to be told: not in a reset, nor to who broke the rules. */
static void end_request(struct virtio_blk *blk, struct virtio_blk_request *rq, uint8_t status)
{
	struct virtq *ring = &blk->virtio.queues[rq->queue].ring;

	if (blk->bouncer == rq)
		blk->bouncer = NULL;
	if (virtio_resting(&blk->virtio)) {
		rq->ended = true;
		rq->outcome = status;
		list_append(&blk->resting, &rq->link);
		return;
	}
	blk->nr_taken[rq->queue]--;
	list_insert_before(blk->free.next, &rq->link);
	if (!virtio_running(&blk->virtio))
		return;
	count(blk, rq, status);
	*rq->status = status;
	if (virtq_push(ring, rq->head, status == VIRTIO_BLK_S_OK ? rq->written : rq->least) < 0)
		virtio_break(&blk->virtio, "a used ring that cannot be written");
	blk->to_interrupt |= 1ull << rq->queue;
}

static void end_all(struct virtio_blk *blk, struct list_node *list, uint8_t status)
{
	list_for_each_safe(n, list) {
		list_remove(n);
		end_request(blk, container_of(n, struct virtio_blk_request, link), status);
	}
}

static void interrupt(struct virtio_blk *blk)
{
	for (; blk->to_interrupt; blk->to_interrupt &= blk->to_interrupt - 1)
		virtio_notify(&blk->virtio, (unsigned int)__builtin_ctzll(blk->to_interrupt));
}

/* The host's fault: it fails for the guest, and somebody may want to know why. */
static void fail_request(struct virtio_blk *blk, struct virtio_blk_request *rq,
			 const char *what, int r)
{
	log_guest(&blk->errors, "%s: %s at %" PRIu64 ": %s", blk->name, what, rq->offset,
		  r == 0 ? "the end of the file" : strerrordesc_np(-r));
	end_request(blk, rq, VIRTIO_BLK_S_IOERR);
}

/* The ring */

/* A refusal (no memory) is tried again with the next kick or completion, or by the timer. */
static void submit(struct virtio_blk *blk)
{
	/* It stops behind one that fails at once, too. */
	while (io_uring_sq_ready(&blk->ring) > 0 && io_uring_submit(&blk->ring) > 0)
		;
}

/* NULL: the kernel takes nothing any more. */
static struct io_uring_sqe *next_operation(struct virtio_blk *blk)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&blk->ring);

	if (!sqe) {
		submit(blk);
		sqe = io_uring_get_sqe(&blk->ring);
	}
	if (sqe)
		blk->nr_running++;
	return sqe;
}

/* Reads and writes */

/* The part of a request that O_DIRECT does not take, to or from the buffer. */
static void copy_bounced(struct virtio_blk *blk, const struct virtio_blk_request *rq,
			 uint64_t size)
{
	char *at = blk->bounce;

	for (unsigned int i = rq->next; size > 0; i++) {
		uint64_t n = min(rq->iov[i].iov_len, size);
		if (rq->type == VIRTIO_BLK_T_IN)
			memcpy(rq->iov[i].iov_base, at, n);
		else
			memcpy(at, rq->iov[i].iov_base, n);
		at += n;
		size -= n;
	}
}

static void prepare(struct io_uring_sqe *sqe, const struct virtio_blk *blk,
		    const struct virtio_blk_request *rq, void *buffer, uint64_t size)
{
	if (rq->type == VIRTIO_BLK_T_IN)
		io_uring_prep_read(sqe, blk->fd, buffer, (unsigned int)size, rq->offset);
	else
		io_uring_prep_write(sqe, blk->fd, buffer, (unsigned int)size, rq->offset);
}

/* As many of its iovecs as a piece holds; or as much of the first. How many bytes. */
static uint64_t prepare_vector(struct io_uring_sqe *sqe, const struct virtio_blk *blk,
			       const struct virtio_blk_request *rq)
{
	const struct iovec *iov = &rq->iov[rq->next];
	unsigned int n = 0;
	uint64_t size = 0;

	while (rq->next + n < rq->nr && size + iov[n].iov_len <= PIECE_SIZE)
		size += iov[n++].iov_len;
	if (n <= 1) {
		size = min(iov[0].iov_len, PIECE_SIZE);
		prepare(sqe, blk, rq, iov[0].iov_base, size);
	} else if (rq->type == VIRTIO_BLK_T_IN) {
		io_uring_prep_readv(sqe, blk->fd, iov, n, rq->offset);
	} else {
		io_uring_prep_writev(sqe, blk->fd, iov, n, rq->offset);
	}
	return size;
}

static void transfer(struct virtio_blk *blk, struct virtio_blk_request *rq,
		     struct io_uring_sqe *sqe)
{
	uint64_t size;

	if (rq->by_hand) {
		size = min(rq->left, BOUNCE_SIZE);
		prepare(sqe, blk, rq, blk->zeros, size);
	} else if (rq->bounces) {
		size = min(rq->left, BOUNCE_SIZE);
		if (rq->type == VIRTIO_BLK_T_OUT)
			copy_bounced(blk, rq, size);
		prepare(sqe, blk, rq, blk->bounce, size);
	} else {
		size = prepare_vector(sqe, blk, rq);
	}
	io_uring_sqe_set_data(sqe, rq);
	if (size > INLINE_MAX)
		sqe->flags |= IOSQE_ASYNC;
}

/* `size` bytes of it are done. */
static void advance(struct virtio_blk_request *rq, uint64_t size)
{
	bool has_iovecs = rq->type == VIRTIO_BLK_T_IN || rq->type == VIRTIO_BLK_T_OUT;

	rq->offset += size;
	rq->left -= size;
	while (has_iovecs && size > 0) {
		struct iovec *iov = &rq->iov[rq->next];
		uint64_t n = min(iov->iov_len, size);
		iov->iov_base = (char *)iov->iov_base + n;
		iov->iov_len -= n;
		size -= n;
		if (iov->iov_len == 0)
			rq->next++;
	}
}

/* Ranges */

static void allocate(struct virtio_blk *blk, struct virtio_blk_request *rq,
		     struct io_uring_sqe *sqe)
{
	bool unmaps = rq->type == VIRTIO_BLK_T_DISCARD || rq->ranges[rq->next].may_unmap;
	int mode = unmaps ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE;

	io_uring_prep_fallocate(sqe, blk->fd, mode | FALLOC_FL_KEEP_SIZE, (off_t)rq->offset,
				(off_t)rq->left);
	io_uring_sqe_set_data(sqe, rq);
}

static void start_range(struct virtio_blk_request *rq)
{
	rq->offset = rq->ranges[rq->next].offset;
	rq->left = rq->ranges[rq->next].size;
}

/* Requests go on */

static bool is_range_request(const struct virtio_blk_request *rq)
{
	return rq->type == VIRTIO_BLK_T_DISCARD || rq->type == VIRTIO_BLK_T_WRITE_ZEROES;
}

/* All of it is done, but for the flush that a driver without flushes relies on. */
static void complete(struct virtio_blk *blk, struct virtio_blk_request *rq)
{
	bool writes = rq->type == VIRTIO_BLK_T_OUT || rq->type == VIRTIO_BLK_T_WRITE_ZEROES;

	if (!writes || virtio_has_feature(&blk->virtio, VIRTIO_BLK_F_FLUSH)) {
		end_request(blk, rq, VIRTIO_BLK_S_OK);
		return;
	}
	if (blk->bouncer == rq)
		blk->bouncer = NULL;
	list_append(&blk->flush_waiting, &rq->link);
}

/* Its next operation, if there is one left. */
static void go_on(struct virtio_blk *blk, struct virtio_blk_request *rq)
{
	if (virtio_resting(&blk->virtio)) {
		list_append(&blk->resting, &rq->link);
		return;
	}
	if (!virtio_running(&blk->virtio)) {
		end_request(blk, rq, VIRTIO_BLK_S_IOERR);
		return;
	}
	while (rq->left == 0 && is_range_request(rq) && ++rq->next < rq->nr)
		start_range(rq);
	if (rq->left == 0) {
		complete(blk, rq);
		return;
	}
	if (rq->bounces && blk->bouncer != rq) {
		list_append(&blk->bounce_waiting, &rq->link);
		return;
	}
	struct io_uring_sqe *sqe = next_operation(blk);
	if (!sqe)
		fail_request(blk, rq, "io_uring", -ENOMEM);
	else if (is_range_request(rq) && !rq->by_hand)
		allocate(blk, rq, sqe);
	else
		transfer(blk, rq, sqe);
}

static void transfer_done(struct virtio_blk *blk, struct virtio_blk_request *rq, int r)
{
	const char *what = rq->type == VIRTIO_BLK_T_IN ? "a read" : "a write";
	bool is_bounced_read = rq->bounces && rq->type == VIRTIO_BLK_T_IN;

	/* What may not be copied to the guest now is read again when it may. */
	if (r == -EINTR || r == -EAGAIN || (is_bounced_read && !virtio_running(&blk->virtio))) {
		go_on(blk, rq);
		return;
	}
	if (r <= 0) {
		fail_request(blk, rq, what, r);
		return;
	}
	if (is_bounced_read)
		copy_bounced(blk, rq, (uint64_t)r);
	advance(rq, (uint64_t)r);
	go_on(blk, rq);
}

/* What the host's file system or device has no way to do. */
static bool is_incapable(int r)
{
	return r == -EOPNOTSUPP || r == -EINVAL || r == -ENODEV || r == -ENOSYS;
}

static void allocate_done(struct virtio_blk *blk, struct virtio_blk_request *rq, int r)
{
	if (r == 0 || (rq->type == VIRTIO_BLK_T_DISCARD && is_incapable(r)))
		rq->left = 0;
	else if (is_incapable(r))
		rq->by_hand = true;
	else if (r != -EINTR && r != -EAGAIN) {
		fail_request(blk, rq,
			     rq->type == VIRTIO_BLK_T_DISCARD ? "a discard" : "writing zeros",
			     r);
		return;
	}
	go_on(blk, rq);
}

/* The one buffer goes to who has waited longest. */
static void lend_bounce(struct virtio_blk *blk)
{
	while (!blk->bouncer && !list_empty(&blk->bounce_waiting)) {
		struct list_node *n = blk->bounce_waiting.next;
		list_remove(n);
		blk->bouncer = container_of(n, struct virtio_blk_request, link);
		go_on(blk, blk->bouncer);
	}
}

/* Flushes */

/*
 * One for all that wait: whatever was acknowledged before they came is in the page cache, or on
 * the disk, by now, so that nothing under way need be waited for.
 */
static void start_flush(struct virtio_blk *blk)
{
	if (blk->flush_runs || list_empty(&blk->flush_waiting))
		return;
	struct io_uring_sqe *sqe = blk->flush_failed ? NULL : next_operation(blk);
	if (!sqe) {
		end_all(blk, &blk->flush_waiting, VIRTIO_BLK_S_IOERR);
		return;
	}
	list_for_each_safe(n, &blk->flush_waiting) {
		list_remove(n);
		list_append(&blk->flush_covered, n);
	}
	io_uring_prep_fsync(sqe, blk->fd, IORING_FSYNC_DATASYNC);
	io_uring_sqe_set_data(sqe, NULL);
	blk->flush_runs = true;
}

static void flush_done(struct virtio_blk *blk, int r)
{
	blk->flush_runs = false;
	if (r < 0 && !blk->flush_failed) {
		blk->flush_failed = true;
		(void)log_err(r,
			      "%s: data may be lost, every further flush fails until it is "
			      "opened again: flush",
			      blk->name);
	}
	if (r < 0)
		end_all(blk, &blk->flush_covered, VIRTIO_BLK_S_IOERR);
	else
		end_all(blk, &blk->flush_covered, VIRTIO_BLK_S_OK);
}

/* Completions */

static void take_completions(struct virtio_blk *blk)
{
	struct io_uring_cqe *cqe;

	while (io_uring_peek_cqe(&blk->ring, &cqe) == 0) {
		struct virtio_blk_request *rq = io_uring_cqe_get_data(cqe);
		int r = cqe->res;
		io_uring_cqe_seen(&blk->ring, cqe);
		blk->nr_running--;
		if (!rq)
			flush_done(blk, r);
		else if (is_range_request(rq) && !rq->by_hand)
			allocate_done(blk, rq, r);
		else
			transfer_done(blk, rq, r);
	}
}

/* What requests and completions have left to be done. */
static void start_operations(struct virtio_blk *blk)
{
	lend_bounce(blk);
	start_flush(blk);
	submit(blk);
}

/* Requests arrive */

/* The guest's nonsense, which it is told of. */
static void refuse(struct virtio_blk *blk, struct virtio_blk_request *rq, const char *why)
{
	log_guest(&blk->virtio.budget, "%s: a request %s", blk->name, why);
	end_request(blk, rq, VIRTIO_BLK_S_IOERR);
}

/* Sectors that are there; and whole blocks, where the host can do no less. */
static bool is_on_disk(const struct virtio_blk *blk, uint64_t sector, uint64_t bytes)
{
	uint64_t unit = blk->options.direct ? blk->block_size / SECTOR : 1;

	return bytes % (unit * SECTOR) == 0 && sector % unit == 0 && sector <= blk->capacity &&
	       bytes / SECTOR <= blk->capacity - sector;
}

/* Pieces that are cut between two iovecs must be whole blocks; and Linux 6.0 to 6.17 wants whole ones in each. */
static bool must_bounce(const struct virtio_blk *blk, const struct virtio_blk_request *rq)
{
	uint64_t align = blk->memory_align;

	for (unsigned int i = 0; i < rq->nr; i++) {
		if (!is_aligned((uintptr_t)rq->iov[i].iov_base, align) ||
		    !is_aligned(rq->iov[i].iov_len, align) ||
		    !is_aligned(rq->iov[i].iov_len, blk->block_size))
			return true;
	}
	return false;
}

/*
 * Where no device is to be waited for, and none of the kernel's workers, to whom io_uring hands each
 * write through the page cache of most file systems; nor one of these that punches a hole, and has
 * the file to itself until it is through. What is left, or went wrong, goes the usual way.
 */
static void write_at_once(const struct virtio_blk *blk, struct virtio_blk_request *rq)
{
	if (!blk->in_memory || blk->nr_running > 0 || rq->bytes > BATCH_BYTES)
		return;
	ssize_t n = pwritev(blk->fd, rq->iov, (int)rq->nr, (off_t)rq->offset);
	if (n > 0)
		advance(rq, (uint64_t)n);
}

static void start_transfer(struct virtio_blk *blk, struct virtio_blk_request *rq,
			   uint64_t sector, int nr_iov)
{
	if (!is_on_disk(blk, sector, rq->bytes)) {
		refuse(blk, rq, "for sectors that are not there, or a part of one");
		return;
	}
	if (nr_iov < 0) {
		refuse(blk, rq, "with a buffer outside of RAM");
		return;
	}
	rq->offset = sector * SECTOR;
	rq->left = rq->bytes;
	rq->nr = (unsigned int)nr_iov;
	rq->bounces = blk->options.direct && must_bounce(blk, rq);
	if (rq->type == VIRTIO_BLK_T_OUT)
		write_at_once(blk, rq);
	go_on(blk, rq);
}

static void start_read(struct virtio_blk *blk, struct virtio_blk_request *rq, uint64_t sector)
{
	const struct virtq *ring = &blk->virtio.queues[rq->queue].ring;

	rq->bytes = virtq_writable_size(&blk->chain) - 1;
	rq->written = (uint32_t)min(rq->bytes + 1, UINT32_MAX);
	start_transfer(blk, rq, sector,
		       virtq_map_writable(ring, &blk->chain, 0, rq->bytes, rq->iov));
}

static void start_write(struct virtio_blk *blk, struct virtio_blk_request *rq, uint64_t sector)
{
	const struct virtq *ring = &blk->virtio.queues[rq->queue].ring;

	if (blk->options.readonly) {
		refuse(blk, rq, "to write to what is read-only");
		return;
	}
	rq->bytes = virtq_readable_size(&blk->chain) - HEADER_SIZE;
	start_transfer(blk, rq, sector,
		       virtq_map_readable(ring, &blk->chain, HEADER_SIZE, rq->bytes, rq->iov));
}

/* Virtio 1.2, 5.2.6.2, has the status for each way to be wrong. */
static uint8_t check_range(const struct virtio_blk *blk, uint32_t type,
			   const struct virtio_blk_discard_write_zeroes *raw,
			   struct virtio_blk_range *ret)
{
	uint32_t flags = le32toh(raw->flags);
	uint32_t nr_sectors = le32toh(raw->num_sectors);
	uint32_t known = type == VIRTIO_BLK_T_DISCARD ? 0 : VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP;

	if (flags & ~known)
		return VIRTIO_BLK_S_UNSUPP;
	if (nr_sectors > MAX_RANGE_SECTORS ||
	    !is_on_disk(blk, le64toh(raw->sector), (uint64_t)nr_sectors * SECTOR))
		return VIRTIO_BLK_S_IOERR;
	*ret = (struct virtio_blk_range){
		.offset = le64toh(raw->sector) * SECTOR,
		.size = (uint64_t)nr_sectors * SECTOR,
		.may_unmap = flags != 0,
	};
	return VIRTIO_BLK_S_OK;
}

/* None is begun before all are good. */
static void start_ranges(struct virtio_blk *blk, struct virtio_blk_request *rq)
{
	struct virtio_blk_discard_write_zeroes raw[VIRTIO_BLK_MAX_RANGES];
	const struct virtq *ring = &blk->virtio.queues[rq->queue].ring;
	uint64_t size = virtq_readable_size(&blk->chain) - HEADER_SIZE;
	uint8_t status = VIRTIO_BLK_S_OK;

	if (size == 0 || size % sizeof(raw[0]) != 0 || size > sizeof(raw)) {
		refuse(blk, rq, "with too many ranges, or a part of one");
		return;
	}
	if (virtq_read(ring, &blk->chain, HEADER_SIZE, raw, size) < 0) {
		refuse(blk, rq, "with ranges outside of RAM");
		return;
	}
	rq->nr = (unsigned int)(size / sizeof(raw[0]));
	for (unsigned int i = 0; i < rq->nr && status == VIRTIO_BLK_S_OK; i++)
		status = check_range(blk, rq->type, &raw[i], &rq->ranges[i]);
	if (status != VIRTIO_BLK_S_OK) {
		log_guest(&blk->virtio.budget,
			  "%s: a request with a range that cannot be, or a flag", blk->name);
		end_request(blk, rq, status);
		return;
	}
	start_range(rq);
	go_on(blk, rq);
}

/* A driver need not wait for what has nothing to be written back. */
static void start_flush_request(struct virtio_blk *blk, struct virtio_blk_request *rq)
{
	if (blk->options.readonly)
		end_request(blk, rq, VIRTIO_BLK_S_OK);
	else
		list_append(&blk->flush_waiting, &rq->link);
}

static void give_serial(struct virtio_blk *blk, struct virtio_blk_request *rq)
{
	const struct virtq *ring = &blk->virtio.queues[rq->queue].ring;
	char serial[VIRTIO_BLK_SERIAL_SIZE] = { 0 };
	uint64_t room = virtq_writable_size(&blk->chain) - 1;
	uint64_t size = min(room, sizeof(serial));

	if (blk->options.serial)
		memcpy(serial, blk->options.serial,
		       strnlen(blk->options.serial, sizeof(serial)));
	if (virtq_write(ring, &blk->chain, 0, serial, size) < 0) {
		refuse(blk, rq, "with a buffer outside of RAM");
		return;
	}
	rq->written = (uint32_t)(size == room ? size + 1 : size);
	end_request(blk, rq, VIRTIO_BLK_S_OK);
}

static void start_request(struct virtio_blk *blk, struct virtio_blk_request *rq)
{
	const struct virtq *ring = &blk->virtio.queues[rq->queue].ring;
	struct virtio_blk_outhdr header;

	if (virtq_read(ring, &blk->chain, 0, &header, sizeof(header)) < 0) {
		refuse(blk, rq, "without a header, or with one outside of RAM");
		return;
	}
	uint64_t sector = le64toh(header.sector);
	rq->type = le32toh(header.type);
	if (rq->type == VIRTIO_BLK_T_IN)
		start_read(blk, rq, sector);
	else if (rq->type == VIRTIO_BLK_T_OUT)
		start_write(blk, rq, sector);
	else if (rq->type == VIRTIO_BLK_T_FLUSH)
		start_flush_request(blk, rq);
	else if (rq->type == VIRTIO_BLK_T_GET_ID)
		give_serial(blk, rq);
	else if ((rq->type == VIRTIO_BLK_T_DISCARD &&
		  virtio_has_feature(&blk->virtio, VIRTIO_BLK_F_DISCARD)) ||
		 (rq->type == VIRTIO_BLK_T_WRITE_ZEROES &&
		  virtio_has_feature(&blk->virtio, VIRTIO_BLK_F_WRITE_ZEROES)))
		start_ranges(blk, rq);
	else
		end_request(blk, rq, VIRTIO_BLK_S_UNSUPP);
}

/*
 * The chain that was popped becomes a request: how the driver cuts it into descriptors is its own
 * affair (1.2, 2.7.4), but the last byte it lends us is for the status. How many bytes of data.
 */
static uint64_t accept_chain(struct virtio_blk *blk, unsigned int index)
{
	const struct virtq *ring = &blk->virtio.queues[index].ring;
	uint64_t room = virtq_writable_size(&blk->chain);
	struct iovec status;

	if (blk->nr_taken[index] == ring->size) {
		virtio_break(&blk->virtio, "more requests at once than its queue has entries");
		return 0;
	}
	if (room == 0 || virtq_map_writable(ring, &blk->chain, room - 1, 1, &status) < 0) {
		virtio_break(&blk->virtio, "a request with no place for its status");
		return 0;
	}
	struct virtio_blk_request *rq = take_request(blk);
	blk->nr_taken[index]++;
	rq->type = UINT32_MAX; /* not known yet */
	rq->queue = index;
	rq->head = blk->chain.head;
	rq->bounces = false;
	rq->by_hand = false;
	rq->ended = false;
	rq->status = status.iov_base;
	rq->bytes = 0;
	rq->least = room == 1; /* the used ring counts from the first byte on */
	rq->written = rq->least;
	rq->left = 0;
	rq->next = 0;
	rq->nr = 0;
	start_request(blk, rq);
	return rq->bytes;
}

/* What was at hand is done. The eventfd is taken first, so that what comes then is told. */
static void take_those_at_hand(struct virtio_blk *blk)
{
	if (io_uring_cq_ready(&blk->ring) == 0)
		return;
	(void)eventfd_take(blk->done.fd);
	take_completions(blk);
	start_operations(blk);
}

/* What one kick may cost: others wait for the event loop too. */
struct slice {
	unsigned int nr_requests;
	uint64_t bytes;
};

/*
 * All that waits, up to a batch, is submitted at once, and ended as far as it is at hand. How many those
 * were; -EPROTO: the queue is broken. -EAGAIN: the slice is used up.
 */
static int serve(struct virtio_blk *blk, unsigned int index, struct slice *left,
		 uint64_t *batch)
{
	struct virtq *ring = &blk->virtio.queues[index].ring;
	int r = 0, n = 0;

	while (virtio_running(&blk->virtio) && *batch < BATCH_BYTES) {
		r = left->nr_requests > 0 && left->bytes > 0 ? virtq_take(ring, &blk->chain)
							     : -EAGAIN;
		if (r <= 0)
			break;
		uint64_t bytes = accept_chain(blk, index);
		*batch += bytes;
		left->bytes -= min(bytes, left->bytes);
		left->nr_requests--;
		n++;
	}
	start_operations(blk);
	take_those_at_hand(blk);
	return r < 0 ? r : n;
}

/* A driver with much to do is interrupted, and kicks, once for all that it adds in the meantime. */
static void blk_kick(struct virtio *virtio, unsigned int index)
{
	struct virtio_blk *blk = blk_of(virtio);
	struct virtio_queue *queue = &virtio->queues[index];
	struct slice left = { QUEUE_SIZE, KICK_MAX_BYTES };
	int r;

	TRACE(blk_kick, index, 0);
	do {
		uint64_t batch = 0;
		do
			r = serve(blk, index, &left, &batch);
		while (r > 0 && batch < BATCH_BYTES);
		interrupt(blk);
		if (r != 0 || !virtio_running(virtio))
			continue;
		r = virtq_await_kick(&queue->ring);
		if (r > 0) /* there may be none after all: that is no way to keep us here */
			left.nr_requests--;
	} while (r > 0);
	if (r == -EAGAIN)
		eventfd_signal(queue->kicked.fd);
	else if (r < 0)
		virtio_break(virtio, "a malformed queue");
}

/* The kicks that follow submit what goes on, and interrupt. */
static void blk_start(struct virtio *virtio)
{
	struct virtio_blk *blk = blk_of(virtio);

	list_for_each_safe(n, &blk->resting) {
		struct virtio_blk_request *rq =
			container_of(n, struct virtio_blk_request, link);
		list_remove(n);
		if (rq->ended)
			end_request(blk, rq, rq->outcome);
		else
			go_on(blk, rq);
	}
}

/* What the kernel still has is waited for: it reads and writes the guest's memory. */
static bool blk_reset(struct virtio *virtio)
{
	struct virtio_blk *blk = blk_of(virtio);

	end_all(blk, &blk->resting, VIRTIO_BLK_S_IOERR);
	end_all(blk, &blk->bounce_waiting, VIRTIO_BLK_S_IOERR);
	end_all(blk, &blk->flush_waiting, VIRTIO_BLK_S_IOERR);
	blk->to_interrupt = 0;
	return blk->nr_running == 0;
}

static void blk_config_fill(struct virtio *virtio, void *space)
{
	struct virtio_blk *blk = blk_of(virtio);
	const struct virtio_blk_config config = {
		.capacity = htole64(blk->capacity),
		.seg_max = htole32(QUEUE_SIZE - 2), /* header and status */
		.blk_size = htole32(blk->block_size),
		.physical_block_exp = blk->topology.physical_exponent,
		.alignment_offset = blk->topology.alignment_offset,
		.min_io_size = htole16(blk->topology.min_io),
		.opt_io_size = htole32(blk->topology.opt_io),
		.num_queues = htole16((uint16_t)virtio->nr_queues),
		.max_discard_sectors = htole32(MAX_RANGE_SECTORS),
		.max_discard_seg = htole32(VIRTIO_BLK_MAX_RANGES),
		.discard_sector_alignment = htole32(blk->block_size / SECTOR),
		.max_write_zeroes_sectors = htole32(MAX_RANGE_SECTORS),
		.max_write_zeroes_seg = htole32(VIRTIO_BLK_MAX_RANGES),
		.write_zeroes_may_unmap = 1,
	};

	memcpy(space, &config, CONFIG_SIZE);
}

static const struct virtio_ops blk_ops = {
	.kick = blk_kick,
	.start = blk_start,
	.reset = blk_reset,
	.config_fill = blk_config_fill,
};

/* On the event loop */

static void done_ready(struct event_source *source, uint32_t events)
{
	struct virtio_blk *blk = container_of(source, struct virtio_blk, done);

	(void)events;
	pthread_mutex_lock(&blk->virtio.lock);
	(void)eventfd_take(source->fd);
	take_completions(blk);
	start_operations(blk);
	interrupt(blk);
	if (blk->virtio.resetting && blk->nr_running == 0)
		virtio_reset_done(&blk->virtio);
	pthread_mutex_unlock(&blk->virtio.lock);
}

/* The size of files and of block devices alike, in whole blocks. -errno. */
static int64_t look_at_size(const struct virtio_blk *blk)
{
	off_t size = lseek(blk->fd, 0, SEEK_END);

	return size < 0 ? -errno : (int64_t)align_down((uint64_t)size, blk->block_size);
}

static void follow_size(struct virtio_blk *blk)
{
	int64_t size = look_at_size(blk);

	if (size < 0 || (uint64_t)size / SECTOR == blk->capacity)
		return;
	if ((uint64_t)size / SECTOR < blk->capacity)
		log_warn("%s has shrunk to %" PRIi64 " bytes, and what was behind is lost: the "
			 "guest is told",
			 blk->name, size);
	else
		log_info("%s has grown to %" PRIi64 " bytes", blk->name, size);
	blk->capacity = (uint64_t)size / SECTOR;
	virtio_config_changed(&blk->virtio);
}

static void timer_ready(struct event_source *source, uint32_t events)
{
	struct virtio_blk *blk = container_of(source, struct virtio_blk, timer);

	(void)events;
	pthread_mutex_lock(&blk->virtio.lock);
	(void)eventfd_take(source->fd); /* which is read as an eventfd is */
	follow_size(blk);
	submit(blk); /* what the kernel had no memory for */
	pthread_mutex_unlock(&blk->virtio.lock);
}

/* Beginning and end */

/* Not the user's fault. */
static bool is_shortage(int r)
{
	return r == -EMFILE || r == -ENFILE || r == -ENOMEM;
}

static int open_failed(const struct virtio_blk *blk, int r)
{
	if (is_shortage(r))
		return log_err(r, "%s", blk->name);
	if (blk->options.direct && r == -EINVAL)
		return log_refuse(-EINVAL, "%s: its file system knows no direct=on (O_DIRECT)",
				  blk->name);
	if (!blk->options.readonly && (r == -EACCES || r == -EPERM || r == -EROFS))
		return log_err(r,
			       "%s: to be written (add readonly=on, if the guest only reads it)",
			       blk->name),
		       -EINVAL;
	if (r == -EBUSY)
		return log_err(r, "%s (is it mounted on the host?)", blk->name), -EINVAL;
	return log_err(r, "%s", blk->name), -EINVAL;
}

/* A writer is alone, readers are among themselves. Somebody without locks is not stopped by them. */
static int lock_image(const struct virtio_blk *blk)
{
	struct flock lock = {
		.l_type = blk->options.readonly ? F_RDLCK : F_WRLCK,
		.l_whence = SEEK_SET,
	};

	if (fcntl(blk->fd, F_OFD_SETLK, &lock) >= 0)
		return 0;
	if (errno == EAGAIN || errno == EACCES)
		return log_refuse(
			-EINVAL,
			"%s is in use by another guest or program; several can share it "
			"only if all have readonly=on",
			blk->name);
	log_warn("%s cannot be locked: going on, but nothing stops others from writing to it",
		 blk->name);
	return 0;
}

static int open_image(struct virtio_blk *blk)
{
	const struct virtio_blk_options *options = &blk->options;
	int flags = O_CLOEXEC | (options->readonly ? O_RDONLY : O_RDWR) |
		    (options->direct ? O_DIRECT : 0);
	struct stat st;

	/* Looked at first: opening a pipe or a terminal may wait. */
	if (stat(options->path, &st) < 0)
		return open_failed(blk, -errno);
	if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
		return log_refuse(-EINVAL, "%s is neither a file nor a block device",
				  blk->name);
	/* Of a block device that is to be written: nobody has mounted it. */
	if (S_ISBLK(st.st_mode) && !options->readonly)
		flags |= O_EXCL;
	blk->fd = open(options->path, flags);
	if (blk->fd < 0)
		return open_failed(blk, -errno);
	return lock_image(blk);
}

static uint32_t device_block_size(int fd)
{
	int size = 0;

	return ioctl(fd, BLKSSZGET, &size) >= 0 && size > 0 ? (uint32_t)size : 0;
}

/* What O_DIRECT needs; 0: it does not work at all. */
static void look_at_alignment(struct virtio_blk *blk)
{
	struct statx st;
	uint32_t device = device_block_size(blk->fd);
	uint32_t usual = device ? device : USUAL_DIRECT_ALIGN;
	bool known = statx(blk->fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &st) >= 0 &&
		     (st.stx_mask & STATX_DIOALIGN);

	blk->memory_align = known ? st.stx_dio_mem_align : usual;
	blk->block_size = known ? st.stx_dio_offset_align : usual;
	if (blk->block_size && blk->block_size < SECTOR)
		blk->block_size = SECTOR;
}

static uint32_t in_blocks(const struct virtio_blk *blk, uint32_t bytes, uint32_t max)
{
	uint32_t n = bytes / blk->block_size;

	return bytes % blk->block_size == 0 && n <= max ? n : 0;
}

/* 1.2, 5.2.4. A file answers none of it. */
static void look_at_topology(struct virtio_blk *blk)
{
	uint32_t physical = 0, min_io = 0, opt_io = 0;
	int offset = -1; /* as it is told of what is aligned to nothing */

	if (ioctl(blk->fd, BLKPBSZGET, &physical) < 0 ||
	    ioctl(blk->fd, BLKALIGNOFF, &offset) < 0 || ioctl(blk->fd, BLKIOMIN, &min_io) < 0 ||
	    ioctl(blk->fd, BLKIOOPT, &opt_io) < 0)
		return;
	uint32_t nr = offset < 0 ? 0 : in_blocks(blk, physical, UINT16_MAX);
	/* The kernel's offset is that in what is best to be done at once, which may be more. */
	uint32_t in_physical = is_power_of_2(nr) ? (uint32_t)offset % physical : 0;
	blk->topology = (struct virtio_blk_topology){
		.known = true,
		.physical_exponent = is_power_of_2(nr) ? (uint8_t)__builtin_ctz(nr) : 0,
		.alignment_offset = (uint8_t)in_blocks(blk, in_physical, UINT8_MAX),
		.min_io = (uint16_t)in_blocks(blk, min_io, UINT16_MAX),
		.opt_io = in_blocks(blk, opt_io, UINT32_MAX),
	};
}

static int look_at_image(struct virtio_blk *blk)
{
	uint32_t device = device_block_size(blk->fd);
	struct statfs fs;

	/* Of a block device it tells where its node is, which is devtmpfs, another tmpfs. */
	blk->in_memory = !device && !blk->options.direct && fstatfs(blk->fd, &fs) >= 0 &&
			 fs.f_type == TMPFS_MAGIC;
	blk->block_size = device ? device : SECTOR;
	blk->memory_align = 1;
	if (blk->options.direct)
		look_at_alignment(blk);
	if (blk->options.direct && (blk->memory_align == 0 || blk->block_size == 0))
		return open_failed(blk, -EINVAL);
	if (!is_power_of_2(blk->block_size) || blk->block_size > MAX_BLOCK_SIZE ||
	    blk->block_size < SECTOR || !is_power_of_2(blk->memory_align) ||
	    blk->memory_align > BOUNCE_SIZE)
		return log_refuse(-EINVAL,
				  "%s: blocks of %u bytes, aligned to %u: no guest can use it",
				  blk->name, blk->block_size, blk->memory_align);
	look_at_topology(blk);
	int64_t size = look_at_size(blk);
	if (size < 0)
		return log_err((int)size, "%s: its size", blk->name), -EINVAL;
	blk->capacity = (uint64_t)size / SECTOR;
	if (lseek(blk->fd, 0, SEEK_END) != size)
		log_warn("%s: its size is no multiple of %u bytes: the guest does not see the "
			 "rest",
			 blk->name, blk->block_size);
	return 0;
}

static int register_with_ring(struct virtio_blk *blk, unsigned int what, void *arg,
			      unsigned int nr)
{
	return syscall(SYS_io_uring_register, blk->ring.ring_fd, what, arg, nr) < 0 ? -errno
										    : 0;
}

/*
 * What is submitted passes by seccomp: the ring itself must refuse to open, connect and the like.
 * Nothing more can be registered, either.
 */
static int restrict_ring(struct virtio_blk *blk)
{
	static const uint8_t operations[] = {
		IORING_OP_READ,  IORING_OP_WRITE,     IORING_OP_READV,        IORING_OP_WRITEV,
		IORING_OP_FSYNC, IORING_OP_FALLOCATE, IORING_OP_ASYNC_CANCEL,
	};
	struct io_uring_restriction restrictions[nitems(operations) + 1] = {
		{ .opcode = IORING_RESTRICTION_SQE_FLAGS_ALLOWED, .sqe_flags = IOSQE_ASYNC },
	};

	for (unsigned int i = 0; i < nitems(operations); i++) {
		restrictions[i + 1].opcode = IORING_RESTRICTION_SQE_OP;
		restrictions[i + 1].sqe_op = operations[i];
	}
	/* liburing 2.3 declares functions for both, and its shared library has neither. */
	int r = register_with_ring(blk, IORING_REGISTER_RESTRICTIONS, restrictions,
				   nitems(restrictions));
	return r < 0 ? r : register_with_ring(blk, IORING_REGISTER_ENABLE_RINGS, NULL, 0);
}

static int init_ring(struct virtio_blk *blk)
{
	/* Room for all that can be under way, so that none is ever put aside. */
	struct io_uring_params params = {
		.flags = IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP | IORING_SETUP_R_DISABLED,
		.cq_entries = blk->virtio.nr_queues * QUEUE_SIZE + RING_SIZE,
	};

	int r = io_uring_queue_init_params(RING_SIZE, &blk->ring, &params);
	if (r == -EPERM || r == -EACCES || r == -ENOSYS)
		return log_err(r,
			       "%s: io_uring (kernel.io_uring_disabled, or the seccomp filter "
			       "of a container?)",
			       blk->name);
	if (r < 0)
		return log_err(r, "%s: io_uring", blk->name);
	blk->has_ring = true;
	r = event_source_open(&blk->done, blk->loop);
	if (r >= 0)
		r = io_uring_register_eventfd(&blk->ring, blk->done.fd);
	if (r < 0)
		return log_err(r, "%s: eventfd", blk->name);
	r = restrict_ring(blk);
	return r < 0 ? log_err(r, "%s: restricting io_uring", blk->name) : 0;
}

static int init_timer(struct virtio_blk *blk)
{
	int r = event_timer_open(&blk->timer, blk->loop, EVENT_SECOND, EVENT_SECOND);

	return r < 0 ? log_err(r, "%s: timer", blk->name) : 0;
}

static size_t requests_size(const struct virtio_blk *blk)
{
	return (size_t)blk->virtio.nr_queues * QUEUE_SIZE * sizeof(blk->requests[0]);
}

/* A mapping costs nothing before it is touched. */
static int allocate_memory(struct virtio_blk *blk)
{
	void *p = mmap(NULL, 2 * BOUNCE_SIZE + requests_size(blk), PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		return log_err(-errno, "%s", blk->name);
	blk->zeros = p;
	blk->bounce = blk->zeros + BOUNCE_SIZE;
	blk->requests = (void *)(blk->bounce + BOUNCE_SIZE);
	return 0;
}

static int init_virtio(struct virtio_blk *blk, struct memory_map *map, unsigned int nr_queues)
{
	struct virtio_config config = {
		.ops = &blk_ops,
		.name = blk->name,
		.device_id = VIRTIO_ID_BLOCK,
		.features = VIRTIO_FEATURE(VIRTIO_BLK_F_SEG_MAX) |
			    VIRTIO_FEATURE(VIRTIO_BLK_F_BLK_SIZE) |
			    VIRTIO_FEATURE(VIRTIO_BLK_F_FLUSH) |
			    VIRTIO_FEATURE(VIRTIO_BLK_F_MQ),
		.config_size = CONFIG_SIZE,
		.nr_queues = nr_queues,
	};

	if (blk->options.readonly)
		config.features |= VIRTIO_FEATURE(VIRTIO_BLK_F_RO);
	else
		config.features |= VIRTIO_FEATURE(VIRTIO_BLK_F_DISCARD) |
				   VIRTIO_FEATURE(VIRTIO_BLK_F_WRITE_ZEROES);
	if (blk->topology.known)
		config.features |= VIRTIO_FEATURE(VIRTIO_BLK_F_TOPOLOGY);
	for (unsigned int i = 0; i < nr_queues; i++)
		config.queue_sizes[i] = QUEUE_SIZE;
	int r = virtio_init(&blk->virtio, map, blk->loop, &config);
	return r < 0 ? log_err(r, "%s", blk->name) : 0;
}

int virtio_blk_init(struct virtio_blk *blk, struct memory_map *map, struct event_loop *loop,
		    const struct virtio_blk_options *options, unsigned int nr_queues)
{
	*blk = (struct virtio_blk){
		.options = *options,
		.loop = loop,
		.fd = -1,
		.timer = { .fd = -1, .ready = timer_ready },
		.done = { .fd = -1, .ready = done_ready },
	};
	list_init(&blk->free);
	list_init(&blk->bounce_waiting);
	list_init(&blk->resting);
	list_init(&blk->flush_waiting);
	list_init(&blk->flush_covered);
	(void)snprintf(blk->name, sizeof(blk->name), "disk '%s'", options->path);
	int r = open_image(blk);
	if (r >= 0)
		r = look_at_image(blk);
	if (r < 0)
		goto fail;
	r = init_virtio(blk, map, nr_queues);
	if (r >= 0)
		r = allocate_memory(blk);
	if (r >= 0)
		r = init_ring(blk);
	if (r >= 0)
		r = init_timer(blk);
	/* What is left to go wrong is no fault of the user's. */
	if (r == -EINVAL)
		r = -EIO;
	if (r < 0)
		goto fail;
	return 0;
fail:
	virtio_blk_finish(blk);
	return r;
}

/* Nothing of it comes to an end for the guest, which is gone. */
static void drain(struct virtio_blk *blk)
{
	struct io_uring_sqe *sqe = blk->nr_running > 0 ? next_operation(blk) : NULL;
	struct io_uring_cqe *cqe;

	/* What workers have not begun. Linux before 5.19 does not know how: it is done, then. */
	if (sqe)
		io_uring_prep_cancel64(sqe, 0,
				       IORING_ASYNC_CANCEL_ALL | IORING_ASYNC_CANCEL_ANY);
	submit(blk);
	/* However long it takes: who comes next frees the memory. Only a signal makes it fail. */
	while (blk->nr_running > io_uring_sq_ready(&blk->ring)) {
		if (io_uring_wait_cqe(&blk->ring, &cqe) < 0)
			continue;
		io_uring_cqe_seen(&blk->ring, cqe);
		blk->nr_running--;
	}
}

void virtio_blk_finish(struct virtio_blk *blk)
{
	if (!blk->options.path)
		return;
	event_source_close(&blk->timer, blk->loop);
	if (blk->has_ring) {
		drain(blk);
		io_uring_queue_exit(&blk->ring);
	}
	event_source_close(&blk->done, blk->loop);
	if (blk->zeros)
		(void)munmap(blk->zeros, 2 * BOUNCE_SIZE + requests_size(blk)); /* ours */
	virtio_finish(&blk->virtio);
	fd_close(&blk->fd);
	*blk = (struct virtio_blk){ 0 };
}

void virtio_blk_get_figures(struct virtio_blk *blk, struct virtio_blk_figures *ret)
{
	pthread_mutex_lock(&blk->virtio.lock);
	*ret = blk->figures;
	pthread_mutex_unlock(&blk->virtio.lock);
}
