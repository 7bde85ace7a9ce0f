/* SPDX-License-Identifier: MIT */
#include "devices/virtq.h"

#include <endian.h>
#include <errno.h>

#include <sys/uio.h>

#include <linux/virtio_ring.h>

#include "memory/access.h"

/* The rings' fixed parts, in bytes; 1.2, 2.7.6 and 2.7.8. */
#define RING_FLAGS 0u
#define RING_INDEX 2u
#define RING_ENTRIES 4u
#define AVAIL_ENTRY 2u
#define USED_ENTRY 8u

void virtq_init(struct virtq *vq, struct memory_map *map, uint16_t max_size)
{
	*vq = (struct virtq){ .map = map, .max_size = max_size, .size = max_size };
}

static int broken(struct virtq *vq)
{
	vq->broken = true;
	return -EPROTO;
}

/*
 * A 16-bit word that driver and device share: one load, one store, in one order with all the
 * others. We store the used index and then look at the driver's flag, the driver stores its
 * flag and then looks at the index: one of us sees the other. (A fence would do, too, but
 * ThreadSanitizer knows none.)
 */

static int load_16(const struct virtq *vq, gpa_t gpa, uint16_t *ret)
{
	const uint16_t *p = memory_ptr(vq->map, gpa, sizeof(*p));

	if (!p)
		return -EFAULT;
	*ret = le16toh(__atomic_load_n(p, __ATOMIC_SEQ_CST));
	return 0;
}

static int store_16(const struct virtq *vq, gpa_t gpa, uint16_t value)
{
	uint16_t *p = memory_ptr(vq->map, gpa, sizeof(*p));

	if (!p)
		return -EFAULT;
	__atomic_store_n(p, htole16(value), __ATOMIC_SEQ_CST);
	return 0;
}

/* Entry `i` of a table: the queue's own, or an indirect one. */
static int read_descriptor(const struct virtq *vq, gpa_t table, uint32_t i,
			   struct vring_desc *ret)
{
	struct vring_desc raw;

	if (!range_valid(table, ((uint64_t)i + 1) * sizeof(raw)))
		return -EFAULT;
	int r = memory_read(vq->map, table + (uint64_t)i * sizeof(raw), &raw, sizeof(raw));
	if (r < 0)
		return r;
	*ret = (struct vring_desc){
		.addr = le64toh(raw.addr),
		.len = le32toh(raw.len),
		.flags = le16toh(raw.flags),
		.next = le16toh(raw.next),
	};
	return 0;
}

/* The table that a chain goes on in, and how many entries it has. */
struct table {
	gpa_t gpa;
	uint32_t size;
	bool indirect;
};

/* 1.2, 2.7.5.3: the last of a chain may name a table instead of a buffer; never one in a table. */
static bool enter_indirect(const struct virtq *vq, const struct vring_desc *desc,
			   struct table *table)
{
	if (!vq->indirect || table->indirect || (desc->flags & VRING_DESC_F_NEXT) ||
	    desc->len % sizeof(*desc) != 0)
		return false;
	*table = (struct table){ desc->addr, desc->len / sizeof(*desc), true };
	return true;
}

/* False: a writable one comes before a readable one, or there are more than the chain may have. */
static bool add_segment(const struct virtq *vq, struct virtq_chain *chain,
			const struct vring_desc *desc)
{
	unsigned int n = chain->nr_readable + chain->nr_writable;

	if (n == vq->size)
		return false;
	if (desc->flags & VRING_DESC_F_WRITE)
		chain->nr_writable++;
	else if (chain->nr_writable == 0)
		chain->nr_readable++;
	else
		return false;
	chain->segments[n] = (struct virtq_segment){ desc->addr, desc->len };
	return true;
}

/*
 * False: the chain breaks a rule. A loop is a chain longer than the queue, which none may be, through
 * an indirect table or not (1.2, 2.7.5.2 and 2.7.5.3.1).
 */
static bool copy_chain(const struct virtq *vq, uint16_t head, struct virtq_chain *chain)
{
	struct table table = { vq->desc, vq->size, false };
	struct vring_desc desc;
	uint32_t i = head;

	chain->head = head;
	chain->nr_readable = 0;
	chain->nr_writable = 0;
	for (;;) {
		if (i >= table.size || read_descriptor(vq, table.gpa, i, &desc) < 0)
			return false;
		if (desc.flags & VRING_DESC_F_INDIRECT) {
			if (!enter_indirect(vq, &desc, &table))
				return false;
			i = 0;
			continue;
		}
		if (!add_segment(vq, chain, &desc))
			return false;
		if (!(desc.flags & VRING_DESC_F_NEXT))
			return true;
		i = desc.next;
	}
}

/*
 * The event indices, 1.2, 2.7.7 and 2.7.10: each behind the other side's ring.
 */

static gpa_t used_event_at(const struct virtq *vq)
{
	return vq->driver + RING_ENTRIES + (uint64_t)vq->size * AVAIL_ENTRY;
}

static gpa_t avail_event_at(const struct virtq *vq)
{
	return vq->device + RING_ENTRIES + (uint64_t)vq->size * USED_ENTRY;
}

/* -EFAULT. */
static int count_waiting(const struct virtq *vq)
{
	uint16_t index;

	if (load_16(vq, vq->driver + RING_INDEX, &index) < 0)
		return -EFAULT;
	return (uint16_t)(index - vq->next_avail);
}

int virtq_take(struct virtq *vq, struct virtq_chain *chain)
{
	uint16_t head;

	if (vq->broken)
		return -EPROTO;
	if (!vq->enabled)
		return 0;
	int waiting = count_waiting(vq);
	if (waiting == 0)
		return 0;
	if (waiting < 0 || waiting > vq->size)
		return broken(vq);
	uint64_t at = RING_ENTRIES + (vq->next_avail & (vq->size - 1u)) * AVAIL_ENTRY;
	if (load_16(vq, vq->driver + at, &head) < 0 || !copy_chain(vq, head, chain))
		return broken(vq);
	vq->next_avail++;
	return 1;
}

int virtq_await_kick(struct virtq *vq)
{
	int waiting;

	if (vq->broken)
		return -EPROTO;
	if (!vq->enabled)
		return 0;
	/*
	 * Asked first, looked at then: one that came in between was not told of. Without EVENT_IDX
	 * the flags ask, and vhost may have left them otherwise.
	 */
	if ((vq->event_idx ? store_16(vq, avail_event_at(vq), vq->next_avail)
			   : store_16(vq, vq->device, 0)) < 0)
		return broken(vq);
	waiting = count_waiting(vq);
	return waiting < 0 ? broken(vq) : waiting > 0;
}

int virtq_pop(struct virtq *vq, struct virtq_chain *chain)
{
	int r = virtq_take(vq, chain);

	if (r != 0)
		return r;
	r = virtq_await_kick(vq);
	return r > 0 ? virtq_take(vq, chain) : r;
}

int virtq_fill(struct virtq *vq, uint16_t head, uint32_t written)
{
	const struct vring_used_elem entry = { .id = htole32(head), .len = htole32(written) };

	if (vq->broken || !vq->enabled)
		return -EPROTO;
	uint64_t at = RING_ENTRIES + (vq->next_used & (vq->size - 1u)) * USED_ENTRY;
	if (memory_write(vq->map, vq->device + at, &entry, sizeof(entry)) < 0)
		return broken(vq);
	vq->next_used++;
	return 0;
}

int virtq_publish(struct virtq *vq)
{
	if (vq->broken || !vq->enabled)
		return -EPROTO;
	/* The entries, and what the device did, before the index that shows them. */
	if (store_16(vq, vq->device + RING_INDEX, vq->next_used) < 0)
		return broken(vq);
	return 0;
}

int virtq_push(struct virtq *vq, uint16_t head, uint32_t written)
{
	int r = virtq_fill(vq, head, written);

	return r < 0 ? r : virtq_publish(vq);
}

void virtq_unpop(struct virtq *vq, uint16_t nr)
{
	vq->next_avail = (uint16_t)(vq->next_avail - nr);
}

bool virtq_wants_interrupt(struct virtq *vq)
{
	uint16_t since = vq->told_used;
	uint16_t word;

	vq->told_used = vq->next_used;
	if (!vq->enabled)
		return false;
	if (!vq->event_idx)
		return load_16(vq, vq->driver + RING_FLAGS, &word) >= 0 &&
		       !(word & VRING_AVAIL_F_NO_INTERRUPT);
	/* Is the entry that the driver named among those that are new? */
	return load_16(vq, used_event_at(vq), &word) >= 0 &&
	       (uint16_t)(vq->next_used - word - 1) < (uint16_t)(vq->next_used - since);
}

/* The two parts of a chain */

struct part {
	const struct virtq_segment *segments;
	unsigned int nr;
};

static struct part readable(const struct virtq_chain *chain)
{
	return (struct part){ chain->segments, chain->nr_readable };
}

static struct part writable(const struct virtq_chain *chain)
{
	return (struct part){ chain->segments + chain->nr_readable, chain->nr_writable };
}

static uint64_t part_size(struct part part)
{
	uint64_t size = 0;

	for (unsigned int i = 0; i < part.nr; i++)
		size += part.segments[i].size;
	return size;
}

/* A place in a part. */
struct cursor {
	struct part part;
	unsigned int i;
	uint64_t offset; /* from segment i on */
};

/*
 * The next piece of a segment, at most `max` bytes (not 0) of it. 1: *ret is it. -ERANGE: the part is
 * at its end. -EFAULT: the segment wraps.
 */
static int next_piece(struct cursor *at, uint64_t max, struct virtq_segment *ret)
{
	const struct virtq_segment *segment;

	for (;; at->i++) {
		if (at->i == at->part.nr)
			return -ERANGE;
		segment = &at->part.segments[at->i];
		if (at->offset < segment->size)
			break;
		at->offset -= segment->size;
	}
	if (!range_valid(segment->gpa, segment->size))
		return -EFAULT;
	uint64_t n = segment->size - at->offset < max ? segment->size - at->offset : max;
	*ret = (struct virtq_segment){ segment->gpa + at->offset, (uint32_t)n };
	at->offset += n;
	return 1;
}

static int map_part(const struct virtq *vq, struct part part, uint64_t offset, uint64_t size,
		    struct iovec *iov)
{
	struct cursor at = { part, 0, offset };
	struct virtq_segment piece;
	int count = 0;

	for (; size > 0; size -= piece.size) {
		int r = next_piece(&at, size, &piece);
		if (r < 0)
			return r;
		void *p = memory_ptr(vq->map, piece.gpa, piece.size);
		if (!p)
			return -EFAULT;
		iov[count++] = (struct iovec){ p, piece.size };
	}
	return count;
}

uint64_t virtq_readable_size(const struct virtq_chain *chain)
{
	return part_size(readable(chain));
}

uint64_t virtq_writable_size(const struct virtq_chain *chain)
{
	return part_size(writable(chain));
}

int virtq_map_readable(const struct virtq *vq, const struct virtq_chain *chain, uint64_t offset,
		       uint64_t size, struct iovec *iov)
{
	return map_part(vq, readable(chain), offset, size, iov);
}

int virtq_map_writable(const struct virtq *vq, const struct virtq_chain *chain, uint64_t offset,
		       uint64_t size, struct iovec *iov)
{
	return map_part(vq, writable(chain), offset, size, iov);
}

int virtq_read(const struct virtq *vq, const struct virtq_chain *chain, uint64_t offset,
	       void *buffer, size_t size)
{
	struct cursor at = { readable(chain), 0, offset };
	struct virtq_segment piece;
	char *to = buffer;

	for (; size > 0; size -= piece.size, to += piece.size) {
		int r = next_piece(&at, size, &piece);
		if (r < 0)
			return r;
		if (memory_read(vq->map, piece.gpa, to, piece.size) < 0)
			return -EFAULT;
	}
	return 0;
}

int virtq_write(const struct virtq *vq, const struct virtq_chain *chain, uint64_t offset,
		const void *buffer, size_t size)
{
	struct cursor at = { writable(chain), 0, offset };
	struct virtq_segment piece;
	const char *from = buffer;

	for (; size > 0; size -= piece.size, from += piece.size) {
		int r = next_piece(&at, size, &piece);
		if (r < 0)
			return r;
		if (memory_write(vq->map, piece.gpa, from, piece.size) < 0)
			return -EFAULT;
	}
	return 0;
}
