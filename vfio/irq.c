/* SPDX-License-Identifier: MIT */
#include "vfio/irq.h"

#include <errno.h>
#include <string.h>

#include "vfio/device.h"

static struct vfio_irq *irq_of(struct msix *msix)
{
	return container_of(msix, struct vfio_irq, msix);
}

static int ask(struct vfio_irq *irq, unsigned int index, struct vfio_irq_info *ret)
{
	*ret = (struct vfio_irq_info){ .index = index };
	int r = vfio_device_get_irq(irq->device->fd, index, ret);
	/* An mdev's driver may refuse to speak of an index that it has nothing for. */
	if (r == -EINVAL) {
		log_debug("vfio: %s has nothing to say about interrupt index %u",
			  irq->device->name, index);
		return 0;
	}
	if (r < 0)
		return log_err(r, "vfio: ask for interrupt index %u of %s", index,
			       irq->device->name);
	return 0;
}

int vfio_irq_init(struct vfio_irq *irq, struct vfio_device *device, struct wires *wires)
{
	struct vfio_irq_info info;

	*irq = (struct vfio_irq){ .device = device, .wires = wires, .intx_gsi = VFIO_NO_INTX };
	pthread_mutex_init(&irq->lock, NULL);
	int r = ask(irq, VFIO_PCI_INTX_IRQ_INDEX, &info);
	if (r < 0)
		goto fail;
	irq->nr_intx = info.count;
	r = ask(irq, VFIO_PCI_MSI_IRQ_INDEX, &info);
	if (r < 0)
		goto fail;
	irq->nr_msi = info.count;
	r = ask(irq, VFIO_PCI_MSIX_IRQ_INDEX, &info);
	if (r < 0)
		goto fail;
	irq->nr_msix = info.count;
	irq->msix_resizes = !(info.flags & VFIO_IRQ_INFO_NORESIZE);
	return 0;
fail:
	vfio_irq_finish(irq);
	return r;
}

void vfio_irq_finish(struct vfio_irq *irq)
{
	if (!irq->device)
		return;
	vfio_irq_stop(irq);
	msix_finish(&irq->msix);
	free(irq->msix_bound);
	pthread_mutex_destroy(&irq->lock);
	*irq = (struct vfio_irq){ 0 };
}

/* Switching off. All under irq->lock from here. */

static void disable_index(struct vfio_irq *irq, unsigned int index)
{
	int r = vfio_irqs_disable(irq->device->fd, index);
	if (r < 0)
		log_guest(&irq->budget, "vfio: %s: switch off interrupt index %u: %s, going on",
			  irq->device->name, index, strerror(-r));
}

static void finish_msi_vectors(struct vfio_irq *irq)
{
	for (unsigned int i = 0; i < VFIO_MAX_MSI; i++)
		irq_finish(&irq->msi_vectors[i]);
	irq->msi_on = 0;
}

static void forget_msix(struct vfio_irq *irq)
{
	irq->msix_on = 0;
	memset(irq->msix_bound, 0, irq->nr_msix * sizeof(*irq->msix_bound));
}

/* The kernel lets go of an eventfd before we close it, so that none signals a stranger. */
static void leave_mode(struct vfio_irq *irq)
{
	switch (irq->mode) {
	case VFIO_IRQ_NONE: break;
	case VFIO_IRQ_INTX:
		disable_index(irq, VFIO_PCI_INTX_IRQ_INDEX);
		irq_finish(&irq->intx);
		break;
	case VFIO_IRQ_MSI:
		disable_index(irq, VFIO_PCI_MSI_IRQ_INDEX);
		finish_msi_vectors(irq);
		break;
	case VFIO_IRQ_MSIX:
		if (irq->msix_on > 0)
			disable_index(irq, VFIO_PCI_MSIX_IRQ_INDEX);
		forget_msix(irq);
		break;
	}
	irq->mode = VFIO_IRQ_NONE;
}

/*
 * INTx. The line is connected before the kernel may signal it, and the unmasking eventfd is
 * handed over last: a guest so fast that it has signalled that one before is heard all the
 * same, since the kernel looks at it once when it takes it over.
 */
static int enable_intx(struct vfio_irq *irq)
{
	int device = irq->device->fd;
	bool bound = false;

	int r = irq_init(&irq->intx, irq->wires);
	if (r < 0)
		goto fail;
	r = irq_connect_level(&irq->intx, (uint32_t)irq->intx_gsi);
	if (r < 0)
		goto fail;
	r = vfio_irqs_bind(device, VFIO_PCI_INTX_IRQ_INDEX, 0, 1, &irq->intx.fd);
	if (r < 0)
		goto fail;
	bound = true;
	r = vfio_intx_unmask_by(device, irq->intx.resample_fd);
	if (r < 0)
		goto fail;
	return 0;
fail:
	if (bound)
		disable_index(irq, VFIO_PCI_INTX_IRQ_INDEX);
	irq_finish(&irq->intx);
	return r;
}

/* Binds the first `count` vectors. A positive result: the kernel has only so many. */
static int bind_msi(struct vfio_irq *irq, unsigned int count)
{
	int32_t fds[VFIO_MAX_MSI];

	for (unsigned int i = 0; i < count; i++)
		fds[i] = irq->msi_vectors[i].fd;
	return vfio_irqs_bind(irq->device->fd, VFIO_PCI_MSI_IRQ_INDEX, 0, count, fds);
}

static unsigned int round_down_to_power_of_2(unsigned int n)
{
	return 1u << (31 - __builtin_clz(n));
}

/*
 * The guest has been promised as many vectors as it asked for. With fewer the device puts
 * several causes on one vector, as the specification lets it, and never uses the rest.
 */
static int enable_msi(struct vfio_irq *irq)
{
	unsigned int count = irq->msi.nr_vectors;
	int r = 0;

	for (unsigned int i = 0; i < count && r >= 0; i++)
		r = irq_init(&irq->msi_vectors[i], irq->wires);
	if (r < 0)
		goto fail;
	r = bind_msi(irq, count);
	if (r > 0 && (unsigned int)r < count) {
		log_guest(&irq->budget,
			  "vfio: %s: %d of %u MSI vectors to be had: fewer are used",
			  irq->device->name, r, count);
		count = round_down_to_power_of_2((unsigned int)r);
		r = bind_msi(irq, count);
	}
	if (r > 0)
		r = -ENOSPC;
	if (r < 0)
		goto fail;
	irq->msi_on = count;
	return 0;
fail:
	finish_msi_vectors(irq);
	return r;
}

/* Connects what is heard and disconnects what is masked. */
static void wire_msi(struct vfio_irq *irq)
{
	for (unsigned int i = 0; i < irq->msi_on; i++) {
		struct msi_message message = irq->msi.message;
		if (irq->msi.masked & 1u << i) {
			irq_disconnect(&irq->msi_vectors[i]);
			continue;
		}
		/* The device puts the number of the vector into the low bits. */
		message.data = (message.data & ~(irq->msi.nr_vectors - 1)) | i;
		int r = irq_connect_message(&irq->msi_vectors[i], message);
		if (r < 0)
			log_guest(&irq->budget, "vfio: %s: connect MSI vector %u: %s: silent",
				  irq->device->name, i, strerror(-r));
	}
}

static enum vfio_irq_mode wanted_mode(const struct vfio_irq *irq)
{
	if (!irq->started)
		return VFIO_IRQ_NONE;
	if (irq->msix_wanted)
		return VFIO_IRQ_MSIX;
	if (irq->msi.enabled)
		return VFIO_IRQ_MSI;
	return irq->intx_gsi != VFIO_NO_INTX ? VFIO_IRQ_INTX : VFIO_IRQ_NONE;
}

/* Brings the kernel into the mode that is wanted. MSI-X is only made way for: bind does it. */
static int settle(struct vfio_irq *irq)
{
	enum vfio_irq_mode wanted = wanted_mode(irq);
	int r = 0;

	if (wanted == irq->mode)
		return 0;
	leave_mode(irq);
	if (wanted == VFIO_IRQ_INTX)
		r = enable_intx(irq);
	if (wanted == VFIO_IRQ_MSI)
		r = enable_msi(irq);
	if (r >= 0)
		irq->mode = wanted;
	return r;
}

static void settle_for_guest(struct vfio_irq *irq)
{
	int r = settle(irq);
	if (r < 0)
		log_guest(&irq->budget, "vfio: %s: switch on %s: %s: silent", irq->device->name,
			  wanted_mode(irq) == VFIO_IRQ_MSI ? "MSI" : "INTx", strerror(-r));
}

int vfio_irq_start(struct vfio_irq *irq, int intx_gsi)
{
	pthread_mutex_lock(&irq->lock);
	irq->intx_gsi = irq->nr_intx > 0 ? intx_gsi : VFIO_NO_INTX;
	irq->started = true;
	int r = settle(irq); /* failed or not: MSI and MSI-X may work where INTx does not */
	pthread_mutex_unlock(&irq->lock);
	return r;
}

void vfio_irq_stop(struct vfio_irq *irq)
{
	pthread_mutex_lock(&irq->lock);
	irq->started = false;
	irq->msi = (struct vfio_msi){ 0 };
	(void)settle(irq); /* switching off is not refused */
	pthread_mutex_unlock(&irq->lock);
	msix_reset(&irq->msix);
}

void vfio_irq_set_msi(struct vfio_irq *irq, const struct vfio_msi *msi)
{
	pthread_mutex_lock(&irq->lock);
	bool resized = msi->nr_vectors != irq->msi.nr_vectors;
	irq->msi = *msi;
	if (irq->mode == VFIO_IRQ_MSI && resized)
		leave_mode(irq);
	settle_for_guest(irq);
	wire_msi(irq);
	pthread_mutex_unlock(&irq->lock);
}

uint32_t vfio_irq_msi_pending(struct vfio_irq *irq)
{
	uint32_t bits = 0;

	pthread_mutex_lock(&irq->lock);
	for (unsigned int i = 0; i < irq->msi_on; i++) {
		if (irq_pending(&irq->msi_vectors[i]))
			bits |= 1u << i;
	}
	pthread_mutex_unlock(&irq->lock);
	return bits;
}

/* MSI-X. Under msix->lock and irq->lock. */

static bool vector_in_use(const struct vfio_irq *irq, unsigned int vector)
{
	return irq->msix.vectors[vector].irq.wires != NULL;
}

/* One more than the highest vector in use, as far as that many are to be had. */
static unsigned int vectors_needed(const struct vfio_irq *irq)
{
	unsigned int needed = irq->msix_max;

	while (needed > 0 && !vector_in_use(irq, needed - 1))
		needed--;
	return needed;
}

static int bind_msix(struct vfio_irq *irq, unsigned int count)
{
	autofree int32_t *fds = calloc(count, sizeof(*fds));

	if (!fds)
		return -ENOMEM;
	for (unsigned int i = 0; i < count; i++)
		fds[i] = vector_in_use(irq, i) ? irq->msix.vectors[i].irq.fd : -1;
	return vfio_irqs_bind(irq->device->fd, VFIO_PCI_MSIX_IRQ_INDEX, 0, count, fds);
}

/*
 * Enables the hardware with `count` vectors, or with as many as there are. One that lived
 * before was off for a moment, in which its interrupt may have been lost: it is raised once
 * for that. Should none have been lost, the handler finds nothing to do, which a driver of an
 * edge-triggered interrupt must bear in any case; a lost one it could wait for in vain.
 */
static int switch_on(struct vfio_irq *irq, unsigned int count)
{
	int r = bind_msix(irq, count);
	if (r > 0 && (unsigned int)r < count) {
		count = irq->msix_max = (unsigned int)r;
		log_guest(&irq->budget,
			  "vfio: %s: %u MSI-X vectors to be had: those beyond are silent",
			  irq->device->name, count);
		r = bind_msix(irq, count);
	}
	if (r != 0)
		return r < 0 ? r : -ENOSPC;
	irq->msix_on = count;
	for (unsigned int i = 0; i < count; i++) {
		if (!vector_in_use(irq, i))
			continue;
		if (irq->msix_bound[i])
			irq_raise(&irq->msix.vectors[i].irq);
		irq->msix_bound[i] = true;
	}
	return 0;
}

/*
 * A kernel that cannot resize has to switch MSI-X off to grow it. It grows to the next power
 * of two, so that a driver that unmasks its vectors one by one causes few such moments. A
 * kernel that can starts with one vector, and adds others singly.
 */
static int enable_or_grow(struct vfio_irq *irq, unsigned int needed)
{
	unsigned int before = irq->msix_on;
	unsigned int count = 1;

	while (!irq->msix_resizes && count < needed)
		count *= 2;
	if (count > irq->msix_max)
		count = irq->msix_max;
	if (before > 0)
		disable_index(irq, VFIO_PCI_MSIX_IRQ_INDEX);
	int r = switch_on(irq, count);
	if (r < 0 && before > 0 && switch_on(irq, before) >= 0)
		return r; /* those of before go on */
	if (r < 0)
		forget_msix(irq);
	return r;
}

/* Hands the kernel each eventfd that it can take as things are and does not have. */
static int bind_singly(struct vfio_irq *irq, unsigned int needed)
{
	for (unsigned int i = 0; i < needed; i++) {
		if (!vector_in_use(irq, i) || irq->msix_bound[i])
			continue;
		int r = vfio_irqs_bind(irq->device->fd, VFIO_PCI_MSIX_IRQ_INDEX, i, 1,
				       &irq->msix.vectors[i].irq.fd);
		if (r != 0)
			return r < 0 ? r : -ENOSPC;
		irq->msix_bound[i] = true;
	}
	return 0;
}

static int bind_vectors(struct vfio_irq *irq)
{
	unsigned int needed = vectors_needed(irq);
	int r = 0;

	if (irq->msix_on == 0 || (needed > irq->msix_on && !irq->msix_resizes))
		r = enable_or_grow(irq, needed);
	return r < 0 ? r : bind_singly(irq, vectors_needed(irq));
}

static int msix_bind(struct msix *msix)
{
	struct vfio_irq *irq = irq_of(msix);
	int r = 0;

	pthread_mutex_lock(&irq->lock);
	irq->msix_wanted = true;
	settle_for_guest(irq);
	if (irq->mode == VFIO_IRQ_MSIX)
		r = bind_vectors(irq);
	if (r < 0)
		log_guest(&irq->budget, "vfio: %s: bind MSI-X vectors: %s: silent",
			  irq->device->name, strerror(-r));
	pthread_mutex_unlock(&irq->lock);
	return r;
}

static void msix_unbind(struct msix *msix)
{
	struct vfio_irq *irq = irq_of(msix);

	pthread_mutex_lock(&irq->lock);
	irq->msix_wanted = false;
	settle_for_guest(irq);
	wire_msi(irq); /* in case the guest has MSI enabled as well */
	pthread_mutex_unlock(&irq->lock);
}

static const struct msix_ops assigned_msix_ops = {
	.bind = msix_bind,
	.unbind = msix_unbind,
};

int vfio_irq_add_msix(struct vfio_irq *irq, struct pci_device *dev,
		      const struct msix_config *config)
{
	unsigned int nr = config->nr_vectors;

	if (nr == 0 || nr > MSIX_MAX_VECTORS)
		return -EINVAL;
	irq->msix_bound = calloc(nr, sizeof(*irq->msix_bound));
	if (!irq->msix_bound)
		return -ENOMEM;
	irq->msix_max = nr < irq->nr_msix ? nr : irq->nr_msix;
	irq->nr_msix = nr;
	return msix_init(&irq->msix, dev, irq->wires, config, &assigned_msix_ops);
}
