/* SPDX-License-Identifier: MIT */
#include "devices/msix.h"

#include <errno.h>

#include <linux/pci_regs.h>

#define CONTROL (PCI_MSIX_FLAGS)
#define ENTRY_CONTROL 3u /* index of the vector control dword */
#define ENTRY_MASKED 1u

static uint64_t table_size(const struct msix_config *config)
{
	return (uint64_t)config->nr_vectors * MSIX_ENTRY_SIZE;
}

/* One bit a vector, in whole qwords. */
static uint64_t pba_size(const struct msix_config *config)
{
	return (config->nr_vectors + 63) / 64 * 8;
}

static bool in_bar(const struct pci_device *dev, unsigned int bar, uint64_t offset,
		   uint64_t size)
{
	return bar < 6 && dev->bars[bar].kind != PCI_BAR_NONE &&
	       dev->bars[bar].kind != PCI_BAR_IO && is_aligned(offset, 8) &&
	       range_within(offset, size, 0, dev->bars[bar].region.size);
}

static bool geometry_valid(const struct pci_device *dev, const struct msix_config *config)
{
	if (config->nr_vectors < 1 || config->nr_vectors > MSIX_MAX_VECTORS)
		return false;
	if (!in_bar(dev, config->table_bar, config->table_offset, table_size(config)) ||
	    !in_bar(dev, config->pba_bar, config->pba_offset, pba_size(config)))
		return false;
	return config->table_bar != config->pba_bar ||
	       !range_overlaps(config->table_offset, table_size(config), config->pba_offset,
			       pba_size(config));
}

static void mask_all(struct msix *msix)
{
	for (unsigned int i = 0; i < msix->config.nr_vectors; i++) {
		struct msix_vector *v = &msix->vectors[i];
		v->entry[0] = v->entry[1] = v->entry[2] = 0;
		v->entry[ENTRY_CONTROL] = ENTRY_MASKED;
	}
}

int msix_init(struct msix *msix, struct pci_device *dev, struct wires *wires,
	      const struct msix_config *config, const struct msix_ops *ops)
{
	unsigned int cap = config->cap_offset;

	*msix = (struct msix){ 0 };
	if (!geometry_valid(dev, config))
		return -EINVAL;
	struct msix_vector *vectors = calloc(config->nr_vectors, sizeof(*vectors));
	if (!vectors)
		return -ENOMEM;
	*msix = (struct msix){
		.dev = dev,
		.wires = wires,
		.ops = ops,
		.config = *config,
		.vectors = vectors,
	};
	pthread_mutex_init(&msix->lock, NULL);
	mask_all(msix);
	pci_set_16(dev, cap + CONTROL, (uint16_t)(config->nr_vectors - 1));
	pci_set_32(dev, cap + PCI_MSIX_TABLE, config->table_offset | config->table_bar);
	pci_set_32(dev, cap + PCI_MSIX_PBA, config->pba_offset | config->pba_bar);
	dev->writable[cap + CONTROL + 1] =
		(PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL) >> 8;
	return 0;
}

static bool in_use(const struct msix_vector *v)
{
	return v->irq.wires != NULL;
}

static bool unmasked(const struct msix *msix, const struct msix_vector *v)
{
	return msix->enabled && !msix->function_masked &&
	       !(v->entry[ENTRY_CONTROL] & ENTRY_MASKED);
}

static struct msi_message message_of(const struct msix_vector *v)
{
	return (struct msi_message){
		.address = v->entry[0] | (uint64_t)v->entry[1] << 32,
		.data = v->entry[2],
	};
}

/* Gives each vector that is heard for the first time its eventfd; true if one got it. */
static bool start_vectors(struct msix *msix, unsigned int first, unsigned int count)
{
	bool grew = false;

	for (unsigned int i = first; i < first + count; i++) {
		struct msix_vector *v = &msix->vectors[i];
		if (!unmasked(msix, v) || in_use(v))
			continue;
		int r = irq_init(&v->irq, msix->wires);
		if (r < 0) {
			irq_finish(&v->irq);
			log_guest(&msix->dev->budget,
				  "msix: %s: no eventfd for vector %u: silent", msix->dev->name,
				  i);
			continue;
		}
		grew = true;
	}
	return grew;
}

/* Connects what is heard and disconnects what is not. */
static void wire_vectors(struct msix *msix, unsigned int first, unsigned int count)
{
	for (unsigned int i = first; i < first + count; i++) {
		struct msix_vector *v = &msix->vectors[i];
		if (!in_use(v))
			continue;
		if (!unmasked(msix, v)) {
			irq_disconnect(&v->irq);
			continue;
		}
		int r = irq_connect_message(&v->irq, message_of(v));
		if (r < 0)
			log_guest(&msix->dev->budget,
				  "msix: %s: no route for vector %u: silent", msix->dev->name,
				  i);
	}
}

static void update_vectors(struct msix *msix, unsigned int first, unsigned int count)
{
	if (start_vectors(msix, first, count) && msix->ops)
		(void)msix->ops->bind(msix); /* logged there; the vectors stay silent */
	wire_vectors(msix, first, count);
}

static void enable(struct msix *msix)
{
	msix->enabled = true;
	(void)start_vectors(msix, 0, msix->config.nr_vectors);
	if (msix->ops)
		(void)msix->ops->bind(msix); /* logged there; the vectors stay silent */
	wire_vectors(msix, 0, msix->config.nr_vectors);
}

static void disable(struct msix *msix)
{
	if (!msix->enabled)
		return;
	msix->enabled = false;
	for (unsigned int i = 0; i < msix->config.nr_vectors; i++)
		irq_disconnect(&msix->vectors[i].irq);
	if (msix->ops)
		msix->ops->unbind(msix);
	for (unsigned int i = 0; i < msix->config.nr_vectors; i++)
		irq_finish(&msix->vectors[i].irq);
}

void msix_finish(struct msix *msix)
{
	if (!msix->vectors)
		return;
	disable(msix);
	free(msix->vectors);
	pthread_mutex_destroy(&msix->lock);
	*msix = (struct msix){ 0 };
}

void msix_reset(struct msix *msix)
{
	if (!msix->vectors)
		return;
	pthread_mutex_lock(&msix->lock);
	disable(msix);
	mask_all(msix);
	msix->function_masked = false;
	pci_set_16(msix->dev, msix->config.cap_offset + CONTROL,
		   (uint16_t)(msix->config.nr_vectors - 1));
	pthread_mutex_unlock(&msix->lock);
}

bool msix_is_enabled(struct msix *msix)
{
	pthread_mutex_lock(&msix->lock);
	bool enabled = msix->enabled;
	pthread_mutex_unlock(&msix->lock);
	return enabled;
}

void msix_control_changed(struct msix *msix)
{
	if (!msix->vectors)
		return;
	uint16_t control = pci_get_16(msix->dev, msix->config.cap_offset + CONTROL);
	bool now_enabled = control & PCI_MSIX_FLAGS_ENABLE;
	bool now_masked = control & PCI_MSIX_FLAGS_MASKALL;

	pthread_mutex_lock(&msix->lock);
	bool was_masked = msix->function_masked;
	msix->function_masked = now_masked;
	if (now_enabled && !msix->enabled)
		enable(msix);
	else if (!now_enabled && msix->enabled)
		disable(msix);
	else if (now_masked != was_masked)
		update_vectors(msix, 0, msix->config.nr_vectors);
	pthread_mutex_unlock(&msix->lock);
}

static uint32_t read_table(const struct msix *msix, uint64_t offset)
{
	return msix->vectors[offset / MSIX_ENTRY_SIZE].entry[offset % MSIX_ENTRY_SIZE / 4];
}

static void write_table(struct msix *msix, uint64_t offset, uint32_t value)
{
	struct msix_vector *v = &msix->vectors[offset / MSIX_ENTRY_SIZE];
	unsigned int dword = offset % MSIX_ENTRY_SIZE / 4;

	v->entry[dword] = dword == ENTRY_CONTROL ? value & ENTRY_MASKED : value;
}

static uint32_t read_pba(const struct msix *msix, uint64_t offset)
{
	uint32_t bits = 0;

	for (unsigned int i = 0; i < 32; i++) {
		uint64_t vector = offset * 8 + i;
		if (vector < msix->config.nr_vectors && in_use(&msix->vectors[vector]) &&
		    irq_pending(&msix->vectors[vector].irq))
			bits |= 1u << i;
	}
	return bits;
}

static bool in_table(const struct msix *msix, unsigned int bar, uint64_t offset,
		     unsigned int size)
{
	return bar == msix->config.table_bar &&
	       range_overlaps(offset, size, msix->config.table_offset,
			      table_size(&msix->config));
}

static bool in_pba(const struct msix *msix, unsigned int bar, uint64_t offset,
		   unsigned int size)
{
	return bar == msix->config.pba_bar &&
	       range_overlaps(offset, size, msix->config.pba_offset, pba_size(&msix->config));
}

/* The specification allows aligned dwords and qwords only. */
static bool access_valid(uint64_t offset, unsigned int size)
{
	return (size == 4 || size == 8) && is_aligned(offset, size);
}

bool msix_read(struct msix *msix, unsigned int bar, uint64_t offset, unsigned int size,
	       uint64_t *ret)
{
	uint64_t value = 0;

	if (!msix->vectors)
		return false;
	bool table = in_table(msix, bar, offset, size);
	if (!table && !in_pba(msix, bar, offset, size))
		return false;
	if (!access_valid(offset, size)) {
		*ret = io_ones(size);
		return true;
	}
	pthread_mutex_lock(&msix->lock);
	for (unsigned int i = 0; i < size; i += 4) {
		uint32_t dword =
			table ? read_table(msix, offset + i - msix->config.table_offset)
			      : read_pba(msix, offset + i - msix->config.pba_offset);
		value |= (uint64_t)dword << (8 * i);
	}
	pthread_mutex_unlock(&msix->lock);
	*ret = value;
	return true;
}

bool msix_write(struct msix *msix, unsigned int bar, uint64_t offset, unsigned int size,
		uint64_t value)
{
	if (!msix->vectors)
		return false;
	if (!in_table(msix, bar, offset, size))
		return in_pba(msix, bar, offset, size); /* read-only */
	if (!access_valid(offset, size))
		return true;
	uint64_t at = offset - msix->config.table_offset;
	pthread_mutex_lock(&msix->lock);
	for (unsigned int i = 0; i < size; i += 4)
		write_table(msix, at + i, (uint32_t)(value >> (8 * i)));
	update_vectors(msix, (unsigned int)(at / MSIX_ENTRY_SIZE), 1);
	pthread_mutex_unlock(&msix->lock);
	return true;
}

/* Under the lock. Enabled but never heard so far: it is pending, and needs its eventfd to be so. */
static struct irq *irq_of(struct msix *msix, unsigned int vector)
{
	struct msix_vector *v = &msix->vectors[vector];

	if (msix->enabled && !in_use(v) && irq_init(&v->irq, msix->wires) < 0)
		irq_finish(&v->irq);
	return msix->enabled && in_use(v) ? &v->irq : NULL;
}

void msix_raise(struct msix *msix, unsigned int vector)
{
	if (!msix->vectors || vector >= msix->config.nr_vectors)
		return;
	pthread_mutex_lock(&msix->lock);
	const struct irq *irq = irq_of(msix, vector);
	if (irq)
		irq_raise(irq);
	pthread_mutex_unlock(&msix->lock);
}

int msix_eventfd(struct msix *msix, unsigned int vector)
{
	if (!msix->vectors || vector >= msix->config.nr_vectors)
		return -1;
	pthread_mutex_lock(&msix->lock);
	const struct irq *irq = irq_of(msix, vector);
	int fd = irq ? irq->fd : -1;
	pthread_mutex_unlock(&msix->lock);
	return fd;
}
