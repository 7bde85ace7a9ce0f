/* SPDX-License-Identifier: MIT */
#include "devices/virtq.h"

#include <endian.h>
#include <errno.h>

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

static int read_descriptor(const struct virtq *vq, uint16_t i, struct vring_desc *ret)
{
	struct vring_desc raw;

	int r = memory_read(vq->map, vq->desc + (uint64_t)i * sizeof(raw), &raw, sizeof(raw));
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

/* False: the chain breaks a rule. A loop is a chain longer than the table. */
static bool copy_chain(const struct virtq *vq, uint16_t head, struct virtq_chain *chain)
{
	struct vring_desc desc;
	uint16_t i = head;

	chain->head = head;
	chain->nr_readable = 0;
	chain->nr_writable = 0;
	for (unsigned int n = 0; n < vq->size; n++) {
		if (i >= vq->size || read_descriptor(vq, i, &desc) < 0)
			return false;
		if (desc.flags & VRING_DESC_F_INDIRECT)
			return false;
		if (desc.flags & VRING_DESC_F_WRITE)
			chain->nr_writable++;
		else if (chain->nr_writable == 0)
			chain->nr_readable++;
		else
			return false;
		chain->segments[n] = (struct virtq_segment){ desc.addr, desc.len };
		if (!(desc.flags & VRING_DESC_F_NEXT))
			return true;
		i = desc.next;
	}
	return false;
}

int virtq_pop(struct virtq *vq, struct virtq_chain *chain)
{
	uint16_t index;
	uint16_t head;

	if (vq->broken)
		return -EPROTO;
	if (!vq->enabled)
		return 0;
	if (load_16(vq, vq->driver + RING_INDEX, &index) < 0)
		return broken(vq);
	uint16_t waiting = (uint16_t)(index - vq->next_avail);
	if (waiting == 0)
		return 0;
	if (waiting > vq->size)
		return broken(vq);
	uint64_t at = RING_ENTRIES + (vq->next_avail & (vq->size - 1u)) * AVAIL_ENTRY;
	if (load_16(vq, vq->driver + at, &head) < 0 || !copy_chain(vq, head, chain))
		return broken(vq);
	vq->next_avail++;
	return 1;
}

int virtq_push(struct virtq *vq, uint16_t head, uint32_t written)
{
	const struct vring_used_elem entry = { .id = htole32(head), .len = htole32(written) };

	if (vq->broken || !vq->enabled)
		return -EPROTO;
	uint64_t at = RING_ENTRIES + (vq->next_used & (vq->size - 1u)) * USED_ENTRY;
	if (memory_write(vq->map, vq->device + at, &entry, sizeof(entry)) < 0)
		return broken(vq);
	vq->next_used++;
	/* The entry, and what the device did, before the index that shows them. */
	if (store_16(vq, vq->device + RING_INDEX, vq->next_used) < 0)
		return broken(vq);
	return 0;
}

bool virtq_wants_interrupt(struct virtq *vq)
{
	uint16_t flags;

	if (!vq->enabled || load_16(vq, vq->driver + RING_FLAGS, &flags) < 0)
		return false;
	return !(flags & VRING_AVAIL_F_NO_INTERRUPT);
}

uint64_t virtq_readable_size(const struct virtq_chain *chain)
{
	uint64_t size = 0;

	for (unsigned int i = 0; i < chain->nr_readable; i++)
		size += chain->segments[i].size;
	return size;
}

int virtq_read(const struct virtq *vq, const struct virtq_chain *chain, uint64_t offset,
	       void *buffer, size_t size)
{
	char *to = buffer;

	for (unsigned int i = 0; i < chain->nr_readable && size > 0; i++) {
		const struct virtq_segment *segment = &chain->segments[i];
		if (offset >= segment->size) {
			offset -= segment->size;
			continue;
		}
		size_t n =
			segment->size - offset < size ? (size_t)(segment->size - offset) : size;
		/* segment->gpa + offset may wrap: the range is then no RAM either. */
		if (!range_valid(segment->gpa, segment->size) ||
		    memory_read(vq->map, segment->gpa + offset, to, n) < 0)
			return -EFAULT;
		to += n;
		size -= n;
		offset = 0;
	}
	return size > 0 ? -ERANGE : 0;
}
