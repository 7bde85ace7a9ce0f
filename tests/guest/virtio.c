/* SPDX-License-Identifier: MIT */
#include "tests/guest/virtio.h"

#include <linux/pci_regs.h>

#define TYPE_BASE 0x1040u /* PCI device id of type 0 */

static void take_capability(struct virtio_device *d, unsigned int at)
{
	unsigned int type = read8(ecam(d->devfn, at + VIRTIO_PCI_CAP_CFG_TYPE));
	unsigned int bar = read8(ecam(d->devfn, at + VIRTIO_PCI_CAP_BAR));
	uint32_t offset = config_read(d->devfn, at + VIRTIO_PCI_CAP_OFFSET);

	d->seen_caps |= 1u << (type & 31);
	if (type == VIRTIO_PCI_CAP_PCI_CFG) {
		d->window = at;
		return;
	}
	if (type == VIRTIO_PCI_CAP_COMMON_CFG)
		d->bar = bar;
	CHECK_EQ(bar, d->bar); /* one holds everything */
	switch (type) {
	case VIRTIO_PCI_CAP_COMMON_CFG: d->common = offset; break;
	case VIRTIO_PCI_CAP_NOTIFY_CFG:
		d->notify = offset;
		d->notify_multiplier = config_read(d->devfn, at + VIRTIO_PCI_NOTIFY_CAP_MULT);
		break;
	case VIRTIO_PCI_CAP_ISR_CFG: d->isr = offset; break;
	case VIRTIO_PCI_CAP_DEVICE_CFG: d->config = offset; break;
	default: break;
	}
}

static void walk_capabilities(struct virtio_device *d)
{
	unsigned int at = read8(ecam(d->devfn, PCI_CAPABILITY_LIST));

	for (unsigned int i = 0; at && i < 48; i++) {
		unsigned int id = read8(ecam(d->devfn, at));
		if (id == PCI_CAP_ID_VNDR)
			take_capability(d, at);
		if (id == PCI_CAP_ID_MSIX)
			d->msix = at;
		at = read8(ecam(d->devfn, at + PCI_CAP_LIST_NEXT));
	}
	CHECK_EQ(at, 0);
}

void virtio_locate(struct virtio_device *d)
{
	uint64_t base = bar_address(d->devfn, d->bar);
	uint64_t by = base - d->base;

	if (base >= LAYOUT_HIGH_BASE)
		map_high(base);
	d->base = base;
	d->common += by;
	d->notify += by;
	d->isr += by;
	d->config += by;
	d->msix_table += by;
}

void virtio_find(struct virtio_device *d, unsigned int type)
{
	unsigned int slot = 0;

	while (slot < 32 && config_read(SLOT(slot), PCI_VENDOR_ID) !=
				    ((TYPE_BASE + type) << 16 | VIRTIO_VENDOR))
		slot++;
	CHECK(slot < 32);
	*d = (struct virtio_device){ .devfn = SLOT(slot) };
	walk_capabilities(d);
	CHECK(d->msix != 0);
	d->msix_table = config_read(d->devfn, d->msix + PCI_MSIX_TABLE);
	CHECK_EQ(d->msix_table & PCI_MSIX_TABLE_BIR, d->bar);
	d->msix_table &= ~(uint64_t)PCI_MSIX_TABLE_BIR;
	virtio_locate(d);
	config_command(d->devfn, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
}

uint8_t virtio_status(const struct virtio_device *d)
{
	return read8(d->common + VIRTIO_PCI_COMMON_STATUS);
}

void virtio_set_status(const struct virtio_device *d, uint8_t status)
{
	write8(d->common + VIRTIO_PCI_COMMON_STATUS, status);
}

void virtio_reset(const struct virtio_device *d)
{
	uint32_t from = milliseconds();

	virtio_set_status(d, 0);
	while (virtio_status(d) != 0)
		CHECK(milliseconds() - from < WAIT_MS);
}

uint64_t virtio_offered(const struct virtio_device *d)
{
	write32(d->common + VIRTIO_PCI_COMMON_DFSELECT, 0);
	uint64_t features = read32(d->common + VIRTIO_PCI_COMMON_DF);
	write32(d->common + VIRTIO_PCI_COMMON_DFSELECT, 1);
	return features | (uint64_t)read32(d->common + VIRTIO_PCI_COMMON_DF) << 32;
}

bool virtio_negotiate(const struct virtio_device *d, uint64_t features)
{
	uint8_t status = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER;

	virtio_reset(d);
	virtio_set_status(d, VIRTIO_CONFIG_S_ACKNOWLEDGE);
	virtio_set_status(d, status);
	for (uint32_t half = 0; half < 2; half++) {
		write32(d->common + VIRTIO_PCI_COMMON_GFSELECT, half);
		write32(d->common + VIRTIO_PCI_COMMON_GF, (uint32_t)(features >> 32 * half));
	}
	virtio_set_status(d, status | VIRTIO_CONFIG_S_FEATURES_OK);
	return virtio_status(d) & VIRTIO_CONFIG_S_FEATURES_OK;
}

void virtio_driver_ok(const struct virtio_device *d)
{
	virtio_set_status(d, virtio_status(d) | VIRTIO_CONFIG_S_DRIVER_OK);
}

bool virtio_breaks(const struct virtio_device *d)
{
	uint32_t from = milliseconds();

	while (!(virtio_status(d) & VIRTIO_CONFIG_S_NEEDS_RESET)) {
		if (milliseconds() - from >= WAIT_MS)
			return false;
	}
	return true;
}

uint64_t virtio_queue_register(const struct virtio_device *d, unsigned int index,
			       unsigned int offset)
{
	write16(d->common + VIRTIO_PCI_COMMON_Q_SELECT, (uint16_t)index);
	return d->common + offset;
}

void virtio_write_address(uint64_t at, uint64_t address)
{
	write32(at, (uint32_t)address);
	write32(at + 4, (uint32_t)(address >> 32));
}

void ring_prepare(struct ring *ring, const struct virtio_device *d, unsigned int index)
{
	ring->device = d;
	ring->index = index;
	ring->avail.flags = 0;
	ring->avail.idx = 0;
	ring->avail.used_event = 0;
	ring->used.flags = 0;
	ring->used.idx = 0;
	ring->used.avail_event = 0;
	write16(virtio_queue_register(d, index, VIRTIO_PCI_COMMON_Q_SIZE), RING_SIZE);
	write16(d->common + VIRTIO_PCI_COMMON_Q_MSIX, VIRTIO_NO_VECTOR);
	virtio_write_address(d->common + VIRTIO_PCI_COMMON_Q_DESCLO, (uint64_t)&ring->desc);
	virtio_write_address(d->common + VIRTIO_PCI_COMMON_Q_AVAILLO, (uint64_t)&ring->avail);
	virtio_write_address(d->common + VIRTIO_PCI_COMMON_Q_USEDLO, (uint64_t)&ring->used);
}

void ring_enable(struct ring *ring)
{
	write16(virtio_queue_register(ring->device, ring->index, VIRTIO_PCI_COMMON_Q_ENABLE),
		1);
}

void ring_describe(struct ring *ring, unsigned int i, uint64_t address, uint32_t length,
		   unsigned int flags, unsigned int next)
{
	ring->desc[i].address = address;
	ring->desc[i].length = length;
	ring->desc[i].flags = (uint16_t)flags;
	ring->desc[i].next = (uint16_t)next;
}

void ring_offer(struct ring *ring, unsigned int head)
{
	ring->avail.ring[ring->avail.idx % RING_SIZE] = (uint16_t)head;
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	ring->avail.idx++;
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
}

uint64_t ring_notify_address(const struct ring *ring)
{
	const struct virtio_device *d = ring->device;
	uint16_t off = read16(virtio_queue_register(d, ring->index, VIRTIO_PCI_COMMON_Q_NOFF));

	return d->notify + (uint64_t)off * d->notify_multiplier;
}

void ring_kick(const struct ring *ring)
{
	write16(ring_notify_address(ring), (uint16_t)ring->index);
}

bool ring_kick_if_wanted(const struct ring *ring, uint16_t from)
{
	uint16_t idx = ring->avail.idx;
	bool wanted = (uint16_t)(idx - ring->used.avail_event - 1) < (uint16_t)(idx - from);

	if (wanted)
		ring_kick(ring);
	return wanted;
}

bool ring_served(const struct ring *ring)
{
	uint32_t from = milliseconds();

	while (ring->used.idx != ring->avail.idx) {
		if (milliseconds() - from >= WAIT_MS)
			return false;
	}
	return true;
}

void msix_program(const struct virtio_device *d, unsigned int entry, unsigned int vector)
{
	uint64_t at = d->msix_table + entry * 16;

	write32(at, LAYOUT_LAPIC_BASE | apic_id() << 12);
	write32(at + 4, 0);
	write32(at + 8, vector);
	write32(at + 12, 0);
}

void msix_enable(const struct virtio_device *d)
{
	write16(ecam(d->devfn, d->msix + PCI_MSIX_FLAGS), PCI_MSIX_FLAGS_ENABLE);
}

void msix_disable(const struct virtio_device *d)
{
	write16(ecam(d->devfn, d->msix + PCI_MSIX_FLAGS), 0);
}
