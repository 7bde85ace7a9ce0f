/* SPDX-License-Identifier: MIT */
#include "devices/virtio_pci.h"

#include <assert.h>
#include <errno.h>

#include <linux/pci_regs.h>
#include <linux/virtio_pci.h>

#include "base/fd.h"

#include "devices/io_bus.h"

#define VENDOR 0x1af4
#define FIRST_DEVICE 0x1040 /* plus the virtio device id; 1.2, 4.1.2 */
#define REVISION 1

#define BAR 0u
#define BAR_SIZE 0x8000u
#define REGION_SIZE 0x1000u
#define COMMON_BASE 0x0000u
#define ISR_BASE 0x1000u
#define DEVICE_BASE 0x2000u
#define NOTIFY_BASE 0x3000u
#define NOTIFY_MULTIPLIER 4u
#define MSIX_TABLE_BASE 0x4000u
#define MSIX_PBA_BASE 0x5000u

/* Where the capabilities lie in config space. */
#define MSIX_CAP 0x40u
#define COMMON_CAP 0x50u
#define NOTIFY_CAP 0x60u /* 20 bytes */
#define ISR_CAP 0x74u
#define DEVICE_CAP 0x84u
#define WINDOW_CAP 0x94u /* 20 bytes: VIRTIO_PCI_CAP_PCI_CFG */
#define WINDOW_BAR (WINDOW_CAP + 4u)
#define WINDOW_OFFSET (WINDOW_CAP + 8u)
#define WINDOW_LENGTH (WINDOW_CAP + 12u)
#define WINDOW_DATA (WINDOW_CAP + 16u)

#define ISR_QUEUE 1u
#define ISR_CONFIG 2u

static struct virtio_pci *of_pci(struct pci_device *dev)
{
	return container_of(dev, struct virtio_pci, pci);
}

/* Common configuration, 1.2, 4.1.4.3. Under virtio->lock. */

static struct virtio_queue *selected(struct virtio_pci *vp)
{
	struct virtio *virtio = vp->virtio;

	return vp->queue_select < virtio->nr_queues ? &virtio->queues[vp->queue_select] : NULL;
}

/* An eventfd that somebody else signals may not be the right one any more. Under virtio->lock. */
static void rewired(struct virtio_pci *vp)
{
	if (vp->virtio->ops->rewired)
		vp->virtio->ops->rewired(vp->virtio);
}

static uint16_t checked_vector(const struct virtio_pci *vp, uint64_t vector)
{
	return vector < vp->msix.config.nr_vectors ? (uint16_t)vector : VIRTIO_NO_VECTOR;
}

static uint64_t read_queue(struct virtio_pci *vp, uint64_t offset)
{
	const struct virtio_queue *queue = selected(vp);

	if (!queue)
		return 0;
	switch (offset) {
	case VIRTIO_PCI_COMMON_Q_SIZE: return queue->ring.size;
	case VIRTIO_PCI_COMMON_Q_MSIX: return queue->vector;
	case VIRTIO_PCI_COMMON_Q_ENABLE: return queue->ring.enabled;
	case VIRTIO_PCI_COMMON_Q_NOFF: return vp->queue_select;
	case VIRTIO_PCI_COMMON_Q_DESCLO: return (uint32_t)queue->ring.desc;
	case VIRTIO_PCI_COMMON_Q_DESCHI: return queue->ring.desc >> 32;
	case VIRTIO_PCI_COMMON_Q_AVAILLO: return (uint32_t)queue->ring.driver;
	case VIRTIO_PCI_COMMON_Q_AVAILHI: return queue->ring.driver >> 32;
	case VIRTIO_PCI_COMMON_Q_USEDLO: return (uint32_t)queue->ring.device;
	case VIRTIO_PCI_COMMON_Q_USEDHI: return queue->ring.device >> 32;
	default: return 0;
	}
}

static void enable_queue(struct virtio_pci *vp, struct virtq *ring)
{
	if (!is_power_of_2(ring->size) || ring->size > ring->max_size ||
	    !is_aligned(ring->desc, 16) || !is_aligned(ring->driver, 2) ||
	    !is_aligned(ring->device, 4)) {
		virtio_break(vp->virtio, "a queue of a size or at an address that cannot be");
		return;
	}
	ring->enabled = true;
}

static gpa_t with_low(gpa_t gpa, uint64_t value)
{
	return (gpa & ~(gpa_t)UINT32_MAX) | (uint32_t)value;
}

static gpa_t with_high(gpa_t gpa, uint64_t value)
{
	return (uint32_t)gpa | (gpa_t)value << 32;
}

/* A queue at work keeps what it was set up with, until the reset; its vector may change. */
static void write_queue(struct virtio_pci *vp, uint64_t offset, uint64_t value)
{
	struct virtio_queue *queue = selected(vp);

	if (!queue)
		return;
	struct virtq *ring = &queue->ring;
	if (offset == VIRTIO_PCI_COMMON_Q_MSIX) {
		queue->vector = checked_vector(vp, value);
		rewired(vp);
		return;
	}
	if (ring->enabled)
		return;
	switch (offset) {
	case VIRTIO_PCI_COMMON_Q_SIZE: ring->size = (uint16_t)value; break;
	case VIRTIO_PCI_COMMON_Q_ENABLE:
		if (value == 1)
			enable_queue(vp, ring);
		break;
	case VIRTIO_PCI_COMMON_Q_DESCLO: ring->desc = with_low(ring->desc, value); break;
	case VIRTIO_PCI_COMMON_Q_DESCHI: ring->desc = with_high(ring->desc, value); break;
	case VIRTIO_PCI_COMMON_Q_AVAILLO: ring->driver = with_low(ring->driver, value); break;
	case VIRTIO_PCI_COMMON_Q_AVAILHI: ring->driver = with_high(ring->driver, value); break;
	case VIRTIO_PCI_COMMON_Q_USEDLO: ring->device = with_low(ring->device, value); break;
	case VIRTIO_PCI_COMMON_Q_USEDHI: ring->device = with_high(ring->device, value); break;
	default: break;
	}
}

/* The width of the register at `offset`, in bytes; 0: none begins there. */
static unsigned int register_size(uint64_t offset)
{
	switch (offset) {
	case VIRTIO_PCI_COMMON_MSIX:
	case VIRTIO_PCI_COMMON_NUMQ:
	case VIRTIO_PCI_COMMON_Q_SELECT:
	case VIRTIO_PCI_COMMON_Q_SIZE:
	case VIRTIO_PCI_COMMON_Q_MSIX:
	case VIRTIO_PCI_COMMON_Q_ENABLE:
	case VIRTIO_PCI_COMMON_Q_NOFF: return 2;
	case VIRTIO_PCI_COMMON_STATUS:
	case VIRTIO_PCI_COMMON_CFGGENERATION: return 1;
	default: return offset <= VIRTIO_PCI_COMMON_Q_USEDHI && offset % 4 == 0 ? 4 : 0;
	}
}

static uint64_t read_register(struct virtio_pci *vp, uint64_t offset)
{
	const struct virtio *virtio = vp->virtio;

	switch (offset) {
	case VIRTIO_PCI_COMMON_DFSELECT: return vp->feature_select;
	case VIRTIO_PCI_COMMON_DF: return virtio_get_features(virtio, vp->feature_select);
	case VIRTIO_PCI_COMMON_GFSELECT: return vp->driver_feature_select;
	case VIRTIO_PCI_COMMON_GF:
		return virtio_get_driver_features(virtio, vp->driver_feature_select);
	case VIRTIO_PCI_COMMON_MSIX: return virtio->config_vector;
	case VIRTIO_PCI_COMMON_NUMQ: return virtio->nr_queues;
	case VIRTIO_PCI_COMMON_STATUS: return virtio->status;
	case VIRTIO_PCI_COMMON_CFGGENERATION: return virtio->config_generation;
	case VIRTIO_PCI_COMMON_Q_SELECT: return vp->queue_select;
	default: return read_queue(vp, offset);
	}
}

static void write_register(struct virtio_pci *vp, uint64_t offset, uint64_t value)
{
	switch (offset) {
	case VIRTIO_PCI_COMMON_DFSELECT: vp->feature_select = (uint32_t)value; break;
	case VIRTIO_PCI_COMMON_GFSELECT: vp->driver_feature_select = (uint32_t)value; break;
	case VIRTIO_PCI_COMMON_GF:
		virtio_set_driver_features(vp->virtio, vp->driver_feature_select,
					   (uint32_t)value);
		break;
	case VIRTIO_PCI_COMMON_MSIX:
		vp->virtio->config_vector = checked_vector(vp, value);
		break;
	case VIRTIO_PCI_COMMON_STATUS:
		virtio_set_status(vp->virtio, (uint8_t)value);
		if ((uint8_t)value == 0)
			vp->isr = 0;
		break;
	case VIRTIO_PCI_COMMON_Q_SELECT: vp->queue_select = (uint16_t)value; break;
	default: write_queue(vp, offset, value); break;
	}
}

/* Accesses that are not of the register's own width (1.2, 4.1.3.1) read as 0, write nothing. */
static uint64_t common_read(struct virtio_pci *vp, uint64_t offset, unsigned int size)
{
	if (size != register_size(offset))
		return 0;
	pthread_mutex_lock(&vp->virtio->lock);
	uint64_t value = read_register(vp, offset);
	pthread_mutex_unlock(&vp->virtio->lock);
	return value;
}

static void common_write(struct virtio_pci *vp, uint64_t offset, unsigned int size,
			 uint64_t value)
{
	if (size != register_size(offset))
		return;
	pthread_mutex_lock(&vp->virtio->lock);
	write_register(vp, offset, value);
	pthread_mutex_unlock(&vp->virtio->lock);
}

/* Reading acknowledges; the line falls with the guest's EOI and is not raised again. */
static uint64_t isr_read(struct virtio_pci *vp)
{
	pthread_mutex_lock(&vp->virtio->lock);
	uint8_t isr = vp->isr;
	vp->isr = 0;
	pthread_mutex_unlock(&vp->virtio->lock);
	return isr;
}

/* Where an ioeventfd does not catch it: one that could not be had, or BAR decode by PCI_CFG. */
static void notify_write(struct virtio_pci *vp, uint64_t offset)
{
	uint64_t index = offset / NOTIFY_MULTIPLIER;

	if (index < vp->virtio->nr_queues)
		eventfd_signal(vp->virtio->queues[index].kicked.fd);
}

static uint64_t bar_read(void *opaque, uint64_t offset, unsigned int size)
{
	struct virtio_pci *vp = opaque;
	uint64_t value = 0;

	if (msix_read(&vp->msix, BAR, offset, size, &value))
		return value;
	switch (align_down(offset, REGION_SIZE)) {
	case COMMON_BASE: return common_read(vp, offset - COMMON_BASE, size);
	case ISR_BASE: return offset == ISR_BASE ? isr_read(vp) : 0;
	case DEVICE_BASE: return virtio_config_read(vp->virtio, offset - DEVICE_BASE, size);
	default: return 0;
	}
}

static void bar_write(void *opaque, uint64_t offset, unsigned int size, uint64_t value)
{
	struct virtio_pci *vp = opaque;

	if (msix_write(&vp->msix, BAR, offset, size, value))
		return;
	switch (align_down(offset, REGION_SIZE)) {
	case COMMON_BASE: common_write(vp, offset - COMMON_BASE, size, value); break;
	case DEVICE_BASE:
		virtio_config_write(vp->virtio, offset - DEVICE_BASE, size, value);
		break;
	case NOTIFY_BASE: notify_write(vp, offset - NOTIFY_BASE); break;
	default: break;
	}
}

static const struct io_ops bar_ops = { .read = bar_read, .write = bar_write };

/*
 * The window into the BAR through config space, 1.2, 4.1.4.9. Under bus->lock, which comes
 * before the locks that a BAR access takes. True: an access of 1, 2 or 4 bytes is set up.
 */
static bool window_access(struct pci_device *dev, uint64_t *ret_offset, unsigned int *ret_size)
{
	uint32_t offset = pci_get_32(dev, WINDOW_OFFSET);
	uint32_t size = pci_get_32(dev, WINDOW_LENGTH);

	if (dev->config[WINDOW_BAR] != BAR || (size != 1 && size != 2 && size != 4) ||
	    !is_aligned(offset, size) || !range_within(offset, size, 0, BAR_SIZE))
		return false;
	*ret_offset = offset;
	*ret_size = size;
	return true;
}

/* 4.1.4.5.1: without MSI-X the PCI status tells of what the ISR status has. */
static void update_status(struct virtio_pci *vp)
{
	uint16_t status = pci_get_16(&vp->pci, PCI_STATUS) & (uint16_t)~PCI_STATUS_INTERRUPT;

	pthread_mutex_lock(&vp->virtio->lock);
	if (vp->isr && !msix_is_enabled(&vp->msix))
		status |= PCI_STATUS_INTERRUPT;
	pthread_mutex_unlock(&vp->virtio->lock);
	pci_set_16(&vp->pci, PCI_STATUS, status);
}

static uint32_t pci_read(struct pci_device *dev, unsigned int offset, unsigned int size)
{
	uint64_t at;
	unsigned int length;

	if (range_overlaps(offset, size, PCI_STATUS, 2))
		update_status(of_pci(dev));
	if (range_overlaps(offset, size, WINDOW_DATA, 4) && window_access(dev, &at, &length))
		pci_set_32(dev, WINDOW_DATA, (uint32_t)bar_read(of_pci(dev), at, length));
	return pci_config_read(dev, offset, size);
}

/* What the guest has not looked at yet raises the line, again or for the first time. */
static void raise_intx(struct virtio_pci *vp)
{
	pthread_mutex_lock(&vp->virtio->lock);
	if (vp->isr && !msix_is_enabled(&vp->msix))
		irq_raise(&vp->intx);
	pthread_mutex_unlock(&vp->virtio->lock);
}

/* INTx Disable takes it off its line. */
static int update_intx(struct virtio_pci *vp)
{
	int r;

	if (pci_get_16(&vp->pci, PCI_COMMAND) & PCI_COMMAND_INTX_DISABLE) {
		irq_disconnect(&vp->intx);
		return 0;
	}
	if (vp->intx.connected)
		return 0;
	pthread_mutex_lock(&vp->virtio->lock); /* it may be raised just now */
	r = irq_connect_level(&vp->intx, pci_intx_gsi(&vp->pci, 1));
	pthread_mutex_unlock(&vp->virtio->lock);
	if (r >= 0)
		raise_intx(vp);
	return r;
}

static void update_dma(struct virtio_pci *vp)
{
	virtio_set_dma(vp->virtio, pci_get_16(&vp->pci, PCI_COMMAND) & PCI_COMMAND_MASTER);
}

static void pci_write(struct pci_device *dev, unsigned int offset, unsigned int size,
		      uint32_t value)
{
	struct virtio_pci *vp = of_pci(dev);
	uint64_t at;
	unsigned int length;

	pci_config_write(dev, offset, size, value);
	if (range_overlaps(offset, size, WINDOW_DATA, 4) && window_access(dev, &at, &length))
		bar_write(vp, at, length,
			  pci_get_32(dev, WINDOW_DATA) & (uint32_t)io_ones(length));
	if (range_overlaps(offset, size, MSIX_CAP, MSIX_CAP_SIZE)) {
		msix_control_changed(&vp->msix);
		pthread_mutex_lock(&vp->virtio->lock);
		rewired(vp);
		pthread_mutex_unlock(&vp->virtio->lock);
	}
	if (!range_overlaps(offset, size, PCI_COMMAND, 2))
		return;
	update_dma(vp);
	if (update_intx(vp) < 0)
		log_guest(&dev->budget, "%s: INTx cannot be connected: it stays silent",
			  dev->name);
}

/* The queues' notify addresses move with the BAR. Under bus->lock. */

static uint64_t notify_address(const struct virtio_pci *vp, unsigned int index)
{
	return vp->notify_base + NOTIFY_BASE + (uint64_t)index * NOTIFY_MULTIPLIER;
}

static void pci_bar_mapped(struct pci_device *dev, unsigned int bar)
{
	struct virtio_pci *vp = of_pci(dev);
	struct wires *wires = vp->wires;

	vp->notify_base = dev->bars[bar].address;
	for (unsigned int i = 0; i < vp->virtio->nr_queues; i++) {
		int r = wires->ops->ioeventfd_add(wires, notify_address(vp, i),
						  vp->virtio->queues[i].kicked.fd);
		vp->has_ioeventfd[i] = r >= 0;
		if (r < 0 && !vp->trapping_told) {
			vp->trapping_told = true;
			log_warn("%s: no ioeventfd for a queue (error %d), falling back to "
				 "trapping",
				 dev->name, -r);
		}
	}
}

static void pci_bar_unmapped(struct pci_device *dev, unsigned int bar)
{
	struct virtio_pci *vp = of_pci(dev);
	struct wires *wires = vp->wires;

	(void)bar; /* there is one */
	for (unsigned int i = 0; i < vp->virtio->nr_queues; i++) {
		if (vp->has_ioeventfd[i])
			wires->ops->ioeventfd_remove(wires, notify_address(vp, i),
						     vp->virtio->queues[i].kicked.fd);
		vp->has_ioeventfd[i] = false;
	}
	vp->notify_base = PCI_UNMAPPED;
}

static void pci_reset(struct pci_device *dev)
{
	struct virtio_pci *vp = of_pci(dev);

	virtio_reset(vp->virtio);
	msix_reset(&vp->msix);
	pthread_mutex_lock(&vp->virtio->lock);
	vp->isr = 0;
	vp->feature_select = 0;
	vp->driver_feature_select = 0;
	vp->queue_select = 0;
	pthread_mutex_unlock(&vp->virtio->lock);
	(void)eventfd_take(vp->intx.fd); /* raised for the driver that is gone */
	update_dma(vp);
	if (update_intx(vp) < 0)
		log_warn("%s: INTx cannot be connected, it stays silent", dev->name);
	for (unsigned int i = WINDOW_BAR; i < WINDOW_DATA + 4; i++)
		dev->config[i] &= (uint8_t)~dev->writable[i];
}

static const struct pci_device_ops virtio_pci_ops = {
	.config_read = pci_read,
	.config_write = pci_write,
	.bar_mapped = pci_bar_mapped,
	.bar_unmapped = pci_bar_unmapped,
	.reset = pci_reset,
};

/* Interrupts; under virtio->lock. */

static void interrupt(struct virtio_pci *vp, uint16_t vector, uint8_t isr)
{
	bool enabled = msix_is_enabled(&vp->msix);

	/* 1.2, 4.1.4.5.1: the one for config changes whatever the interrupt, the other without MSI-X. */
	if (isr == ISR_CONFIG || !enabled)
		vp->isr |= isr;
	if (!enabled)
		irq_raise(&vp->intx);
	else if (vector != VIRTIO_NO_VECTOR &&
		 vp->virtio->may_dma) /* it is a write to memory */
		msix_raise(&vp->msix, vector);
}

static struct virtio_pci *of_virtio(struct virtio *virtio)
{
	return virtio->transport_opaque;
}

static void pci_queue_interrupt(struct virtio *virtio, unsigned int index)
{
	interrupt(of_virtio(virtio), virtio->queues[index].vector, ISR_QUEUE);
}

static void pci_config_interrupt(struct virtio *virtio)
{
	interrupt(of_virtio(virtio), virtio->config_vector, ISR_CONFIG);
}

/* Without MSI-X the interrupt is a bit of the ISR status as well, which nobody else can set. */
static int pci_queue_eventfd(struct virtio *virtio, unsigned int index)
{
	return msix_eventfd(&of_virtio(virtio)->msix, virtio->queues[index].vector);
}

static const struct virtio_transport_ops transport_ops = {
	.queue_interrupt = pci_queue_interrupt,
	.config_interrupt = pci_config_interrupt,
	.queue_eventfd = pci_queue_eventfd,
};

/* The guest's EOI has lowered the line; what has come meanwhile, or was not looked at, raises it. */
static void resample_ready(struct event_source *source, uint32_t events)
{
	struct virtio_pci *vp = container_of(source, struct virtio_pci, resample);

	(void)events;
	if (eventfd_take(source->fd))
		raise_intx(vp);
}

/* Beginning and end */

static void add_capability(struct pci_device *dev, unsigned int at, uint8_t type,
			   uint8_t length, uint32_t offset, uint32_t size)
{
	pci_add_capability(dev, PCI_CAP_ID_VNDR, at);
	dev->config[at + 2] = length;
	dev->config[at + 3] = type;
	dev->config[at + 4] = BAR;
	pci_set_32(dev, at + 8, offset);
	pci_set_32(dev, at + 12, size);
}

static void build_config(struct virtio_pci *vp, uint32_t class_code)
{
	struct virtio *virtio = vp->virtio;
	struct pci_device *dev = &vp->pci;

	pci_device_init(dev, &virtio_pci_ops, virtio->name, VENDOR,
			(uint16_t)(FIRST_DEVICE + virtio->device_id), class_code);
	dev->config[PCI_REVISION_ID] = REVISION;
	pci_set_16(dev, PCI_SUBSYSTEM_VENDOR_ID, VENDOR);
	pci_set_16(dev, PCI_SUBSYSTEM_ID, (uint16_t)(FIRST_DEVICE + virtio->device_id));
	dev->config[PCI_INTERRUPT_PIN] = 1;
	pci_set_bar(dev, BAR, PCI_BAR_MEM64, PCI_PREFETCHABLE, BAR_SIZE, &bar_ops, vp);

	add_capability(dev, WINDOW_CAP, VIRTIO_PCI_CAP_PCI_CFG, 20, 0, 0);
	for (unsigned int i = 0; i < 16; i++)
		dev->writable[WINDOW_BAR + i] = i >= 1 && i <= 3 ? 0 : 0xff;
	if (virtio->config_size > 0)
		add_capability(dev, DEVICE_CAP, VIRTIO_PCI_CAP_DEVICE_CFG, 16, DEVICE_BASE,
			       virtio->config_size);
	add_capability(dev, ISR_CAP, VIRTIO_PCI_CAP_ISR_CFG, 16, ISR_BASE, 1);
	add_capability(dev, NOTIFY_CAP, VIRTIO_PCI_CAP_NOTIFY_CFG, 20, NOTIFY_BASE,
		       virtio->nr_queues * NOTIFY_MULTIPLIER);
	pci_set_32(dev, NOTIFY_CAP + 16, NOTIFY_MULTIPLIER);
	add_capability(dev, COMMON_CAP, VIRTIO_PCI_CAP_COMMON_CFG, 16, COMMON_BASE,
		       VIRTIO_PCI_COMMON_Q_USEDHI + 4);
	pci_add_capability(dev, PCI_CAP_ID_MSIX, MSIX_CAP);
}

static int init_interrupts(struct virtio_pci *vp)
{
	const struct msix_config config = {
		.cap_offset = MSIX_CAP,
		.nr_vectors = vp->virtio->nr_queues + 1,
		.table_bar = BAR,
		.table_offset = MSIX_TABLE_BASE,
		.pba_bar = BAR,
		.pba_offset = MSIX_PBA_BASE,
	};

	int r = msix_init(&vp->msix, &vp->pci, vp->wires, &config, NULL);
	return r < 0 ? r : irq_init(&vp->intx, vp->wires);
}

static int connect_intx(struct virtio_pci *vp)
{
	int r = update_intx(vp);

	vp->resample.fd = vp->intx.resample_fd;
	return r < 0 ? r : event_loop_add(vp->virtio->loop, &vp->resample, EPOLLIN);
}

int virtio_pci_init(struct virtio_pci *vp, struct virtio *virtio, struct pci_bus *bus,
		    struct wires *wires, uint32_t class_code)
{
	*vp = (struct virtio_pci){
		.virtio = virtio,
		.wires = wires,
		.intx.fd = -1,
		.intx.resample_fd = -1,
		.resample = { .fd = -1, .ready = resample_ready },
		.notify_base = PCI_UNMAPPED,
	};
	build_config(vp, class_code);
	int r = init_interrupts(vp);
	if (r < 0)
		goto fail;
	virtio->transport = &transport_ops;
	virtio->transport_opaque = vp;
	update_dma(vp);
	r = pci_bus_add(bus, &vp->pci, PCI_ANY_SLOT);
	if (r < 0)
		goto fail;
	r = connect_intx(vp);
	if (r < 0)
		goto fail;
	return 0;
fail:
	virtio_pci_finish(vp);
	return r;
}

void virtio_pci_finish(struct virtio_pci *vp)
{
	if (!vp->virtio)
		return;
	pci_bus_remove(&vp->pci);
	vp->virtio->transport = NULL;
	vp->virtio->transport_opaque = NULL;
	event_loop_remove(vp->virtio->loop, &vp->resample);
	irq_finish(&vp->intx);
	msix_finish(&vp->msix);
	*vp = (struct virtio_pci){ 0 };
}
