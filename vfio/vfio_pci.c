/* SPDX-License-Identifier: MIT */
#include "vfio/vfio_pci.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include <linux/pci_regs.h>

#include "base/log.h"
#include "base/range.h"
#include "base/trace.h"

#define SYSFS "/sys/"
#define MDEV_DIR "/sys/bus/mdev/devices/"
#define DRIVER_SIZE 64u
#define CONFIG VFIO_PCI_CONFIG_REGION_INDEX
#define HEADER_CONFIG_SIZE 256u

static struct vfio_pci *vfio_pci_of(struct pci_device *pci)
{
	return container_of(pci, struct vfio_pci, pci);
}

/* Config space of the hardware, behind the kernel's filter. */

/* -EIO and others: the device does not answer. */
static int read_hardware(const struct vfio_pci *vp, unsigned int offset, unsigned int size,
			 uint32_t *ret)
{
	uint32_t value = 0;

	int r = vfio_device_read(&vp->device, CONFIG, offset, &value, size);
	if (r != (int)size)
		return r < 0 ? r : -EIO;
	*ret = value;
	return 0;
}

static int write_hardware(const struct vfio_pci *vp, unsigned int offset, unsigned int size,
			  uint32_t value)
{
	int r = vfio_device_write(&vp->device, CONFIG, offset, &value, size);
	if (r != (int)size)
		return r < 0 ? r : -EIO;
	return 0;
}

static bool all_emulated(const struct vfio_pci *vp, unsigned int offset, unsigned int size)
{
	return vfio_config_emulated(&vp->config, offset, size) == (uint32_t)io_ones(size);
}

/* A guest's write goes to the hardware too, unless all it writes is ours. */
static int pass_write(struct vfio_pci *vp, unsigned int offset, unsigned int size,
		      uint32_t value)
{
	if (all_emulated(vp, offset, size))
		return 0;
	__atomic_store_n(&vp->device.touched, true, __ATOMIC_SEQ_CST);
	int r = write_hardware(vp, offset, size, value);
	if (r < 0)
		log_guest(&vp->pci.budget, "vfio: %s: write config 0x%x: %s: nothing written",
			  vp->pci.name, offset, strerror(-r));
	return r;
}

/* Way of a guest's config access. Under bus->lock. */

static uint32_t vfio_pci_config_read(struct pci_device *pci, unsigned int offset,
				     unsigned int size)
{
	struct vfio_pci *vp = vfio_pci_of(pci);
	uint32_t emulated = vfio_config_emulated(&vp->config, offset, size);
	uint32_t hardware = 0;

	if (vfio_config_touches_msi(&vp->config, offset, size))
		vfio_config_set_msi_pending(&vp->config, pci, vfio_irq_msi_pending(&vp->irq));
	uint32_t shadow = pci_config_read(pci, offset, size);
	if (emulated == (uint32_t)io_ones(size))
		return shadow;
	int r = read_hardware(vp, offset, size, &hardware);
	if (r < 0) {
		log_guest(&pci->budget, "vfio: %s: read config 0x%x: %s: reads as ones",
			  pci->name, offset, strerror(-r));
		return (uint32_t)io_ones(size);
	}
	return (shadow & emulated) | (hardware & ~emulated);
}

/*
 * False: the guest switches DMA on, and its memory cannot be mapped for it. The bit stays clear,
 * then, and the guest may try again.
 */
static bool may_master(struct vfio_pci *vp, unsigned int offset, uint32_t value)
{
	/* The bit lies in the first byte of its dword: an access that has it begins with it. */
	if (offset != PCI_COMMAND || !(value & PCI_COMMAND_MASTER))
		return true;
	int r = vfio_container_wake(vp->group->container);
	if (r < 0)
		log_guest(&vp->pci.budget,
			  "vfio: %s: its guest's memory cannot be mapped: it gets no DMA",
			  vp->pci.name);
	return r >= 0;
}

/*
 * Decoding goes off before the hardware hears of it and on after. What it did not hear of is
 * not switched on.
 */
static void write_command(struct vfio_pci *vp, unsigned int offset, unsigned int size,
			  uint32_t value)
{
	struct pci_device *pci = &vp->pci;
	uint16_t old = pci_get_16(pci, PCI_COMMAND);

	if (!may_master(vp, offset, value))
		value &= ~(uint32_t)PCI_COMMAND_MASTER;
	pci_config_store(pci, offset, size, value);
	uint16_t wanted = pci_get_16(pci, PCI_COMMAND);
	pci_set_16(pci, PCI_COMMAND, old & wanted);
	pci_update_bars(pci);
	if (pass_write(vp, offset, size, value) < 0)
		wanted &= old;
	pci_set_16(pci, PCI_COMMAND, wanted);
	pci_update_bars(pci);
}

static bool powered(const struct vfio_pci *vp)
{
	uint32_t control;

	if (read_hardware(vp, vp->config.pm + PCI_PM_CTRL, 2, &control) < 0)
		return false;
	return (control & PCI_PM_CTRL_STATE_MASK) == 0;
}

/*
 * The same for power. Which states there are is the hardware's to know: what it made of the
 * write is read back, so that a refused transition leaves the BARs where they were.
 */
static void write_power(struct vfio_pci *vp, unsigned int offset, unsigned int size,
			uint32_t value)
{
	struct pci_device *pci = &vp->pci;

	/* The state lies in a dword's first byte: an access that has it begins with it. */
	if (value & PCI_PM_CTRL_STATE_MASK) {
		pci->powered_down = true;
		pci_update_bars(pci);
	}
	(void)pass_write(vp, offset, size, value); /* what came of it is read back */
	pci->powered_down = !powered(vp);
	pci_update_bars(pci);
}

static void write_other(struct vfio_pci *vp, unsigned int offset, unsigned int size,
			uint32_t value)
{
	struct vfio_msi msi;

	(void)pass_write(vp, offset, size, value); /* logged; the shadow is ours in any case */
	pci_config_write(&vp->pci, offset, size, value);
	if (vfio_config_touches_msi(&vp->config, offset, size)) {
		vfio_config_get_msi(&vp->config, &vp->pci, &msi);
		vfio_irq_set_msi(&vp->irq, &msi);
	}
	if (vfio_config_touches_msix(&vp->config, offset, size))
		msix_control_changed(&vp->irq.msix);
}

static void vfio_pci_config_write(struct pci_device *pci, unsigned int offset,
				  unsigned int size, uint32_t value)
{
	struct vfio_pci *vp = vfio_pci_of(pci);

	if (range_overlaps(offset, size, PCI_COMMAND, 2))
		write_command(vp, offset, size, value);
	else if (vp->config.pm && range_overlaps(offset, size, vp->config.pm + PCI_PM_CTRL, 1))
		write_power(vp, offset, size, value);
	else
		write_other(vp, offset, size, value);
}

static void vfio_pci_bar_mapped(struct pci_device *pci, unsigned int bar)
{
	vfio_bars_map(&vfio_pci_of(pci)->bars, bar);
}

static void vfio_pci_bar_unmapped(struct pci_device *pci, unsigned int bar)
{
	vfio_bars_unmap(&vfio_pci_of(pci)->bars, bar);
}

/* No decoding, no DMA, no INTx: what a function is given to the guest with, and taken away. */
static int quiesce(const struct vfio_pci *vp)
{
	const uint16_t off = PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER |
			     PCI_COMMAND_INTX_DISABLE;
	uint32_t command;

	int r = read_hardware(vp, PCI_COMMAND, 2, &command);
	if (r < 0)
		return r;
	return write_hardware(vp, PCI_COMMAND, 2, command & (uint16_t)~off);
}

static int power_up(const struct vfio_pci *vp)
{
	unsigned int at = vp->config.pm + PCI_PM_CTRL;
	uint32_t control;

	if (!vp->config.pm)
		return 0;
	int r = read_hardware(vp, at, 2, &control);
	if (r < 0 || (control & PCI_PM_CTRL_STATE_MASK) == 0)
		return r;
	return write_hardware(vp, at, 2, control & (uint16_t)~PCI_PM_CTRL_STATE_MASK);
}

/* Interrupts are off. < 0, not logged: the device does not answer. */
static int reset_hardware(struct vfio_pci *vp, enum vfio_reach reach)
{
	int r = quiesce(vp);
	if (r >= 0)
		r = power_up(vp);
	/* Even so: where config space does not answer a reset is what may help. */
	int reset = vfio_device_reset(&vp->device, reach);
	if (r < 0)
		return r;
	__atomic_store_n(&vp->device.touched, false, __ATOMIC_SEQ_CST);
	if (reset < 0)
		log_guest(&vp->pci.budget,
			  "vfio: %s: no kind of reset works: going on with it as it is",
			  vp->pci.name);
	return 0;
}

static int intx_gsi(const struct vfio_pci *vp)
{
	unsigned int pin = vp->pci.config[PCI_INTERRUPT_PIN];

	return pin == 0 ? VFIO_NO_INTX : (int)pci_intx_gsi(&vp->pci, pin);
}

/*
 * The first reset of the bus comes right after attach, which has reset the function: that
 * need not be done again, at a tenth of a second each.
 */
static void vfio_pci_reset(struct pci_device *pci)
{
	struct vfio_pci *vp = vfio_pci_of(pci);
	int r = 0;

	vfio_irq_stop(&vp->irq);
	if (__atomic_load_n(&vp->device.touched, __ATOMIC_SEQ_CST))
		r = reset_hardware(vp, VFIO_REACH_ALL);
	if (r < 0)
		log_guest(&pci->budget, "vfio: %s: reset: %s: going on without", pci->name,
			  strerror(-r));
	vfio_config_reset(&vp->config, pci);
	r = vfio_irq_start(&vp->irq, intx_gsi(vp));
	if (r < 0)
		log_guest(&pci->budget, "vfio: %s: switch on INTx: %s: silent", pci->name,
			  strerror(-r));
}

static const struct pci_device_ops vfio_pci_ops = {
	.config_read = vfio_pci_config_read,
	.config_write = vfio_pci_config_write,
	.bar_mapped = vfio_pci_bar_mapped,
	.bar_unmapped = vfio_pci_bar_unmapped,
	.reset = vfio_pci_reset,
};

/* Takes `min` to `max` hex digits and what follows them; false if they are not there. */
static bool take_hex(const char **text, unsigned int min, unsigned int max, char end,
		     unsigned long *ret)
{
	size_t nr = strspn(*text, "0123456789abcdefABCDEF");

	if (nr < min || nr > max || (*text)[nr] != end)
		return false;
	*ret = strtoul(*text, NULL, 16);
	*text += nr + (end != '\0');
	return true;
}

/* "0000:01:00.0", from that or "1:0.0". */
static int normalise_function(const char *text, char *name, size_t size)
{
	unsigned long domain = 0;
	unsigned long bus;
	unsigned long slot;
	unsigned long function;

	(void)take_hex(&text, 4, 8, ':', &domain); /* 0 where it is left out */
	if (!take_hex(&text, 1, 2, ':', &bus) || !take_hex(&text, 1, 2, '.', &slot) ||
	    !take_hex(&text, 1, 1, '\0', &function) || slot > 31 || function > 7)
		return -EINVAL;
	(void)snprintf(name, size, "%04lx:%02lx:%02lx.%lx", domain, bus, slot, function);
	return 0;
}

/* An mdev is called after its UUID, in lower case. -EINVAL: it is none. */
static int normalise_uuid(const char *text, char *name)
{
	static const char model[VFIO_NAME_SIZE] = "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx";

	for (unsigned int i = 0; i < sizeof(model); i++) {
		unsigned char c = (unsigned char)text[i];
		if (model[i] == 'x' ? !isxdigit(c) : c != (unsigned char)model[i])
			return -EINVAL;
		name[i] = (char)tolower(c);
	}
	return 0;
}

int vfio_pci_name(const char *given, char *name, size_t size)
{
	char base[VFIO_NAME_SIZE] = { 0 };
	const char *start = given;
	size_t length = strlen(given);

	if (length > 0 && given[length - 1] == '/')
		length--;
	if (strncmp(given, SYSFS, strlen(SYSFS)) == 0)
		start = (const char *)memrchr(given, '/', length) + 1;
	length -= (size_t)(start - given);
	if (length >= sizeof(base))
		return -EINVAL;
	memcpy(base, start, length);
	base[length] = '\0';
	if (normalise_uuid(base, name) == 0)
		return 0;
	return normalise_function(base, name, size);
}

/* The kernel's variants for single devices are called mlx5_vfio_pci and the like. */
bool vfio_pci_is_driver(const char *driver)
{
	return strcmp(driver, "vfio-pci") == 0 || strstr(driver, "vfio_pci") ||
	       strstr(driver, "vfio-pci");
}

/* What a name stands for. */
enum kind { FUNCTION, MDEV };

static int refuse_balloon(const char *name)
{
	return log_refuse(
		-EINVAL,
		"vfio: attach %s: balloon=allowed is for mdevs alone: hardware reaches "
		"all of the guest's memory by itself, so that none of it can be given "
		"back",
		name);
}

static int check_kind(const char *name, enum vfio_balloon balloon, enum kind *ret)
{
	int r = vfio_sysfs_is_mdev(name);
	if (r == -ENODEV)
		return log_err(r, "vfio: attach %s: not on this host (see %s)", name,
			       strchr(name, ':') ? "lspci -D" : "ls " MDEV_DIR);
	if (r < 0)
		return log_err(r, "vfio: attach %s: ask on which bus it is", name);
	if (r == 0 && balloon == VFIO_BALLOON_ALLOWED)
		return refuse_balloon(name);
	*ret = r ? MDEV : FUNCTION;
	return 0;
}

static int refuse_driver(const char *name, const char *driver)
{
	return log_refuse(-EBUSY,
			  "vfio: attach %s: bound to %s, not to vfio-pci: modprobe vfio-pci; "
			  "ballast bind %s",
			  name, driver[0] ? driver : "no driver", name);
}

/* The driver of an mdev is its maker's, or the one that all had before Linux 5.16. */
static int check_driver(const char *name, enum kind kind)
{
	char driver[DRIVER_SIZE];

	int r = vfio_sysfs_driver(name, driver, sizeof(driver));
	if (r < 0)
		return log_err(r, "vfio: attach %s: ask for its driver", name);
	if (kind == FUNCTION && !vfio_pci_is_driver(driver))
		return refuse_driver(name, driver);
	if (driver[0])
		return 0;
	(void)log_err(
		0,
		"vfio: attach %s: this mdev is bound to no driver: modprobe vfio_mdev, or "
		"what its maker offers for it; then echo %s > /sys/bus/mdev/drivers_probe",
		name, name);
	return -EBUSY;
}

static int find_group(const char *name, enum kind kind, unsigned int *ret_number)
{
	int r = vfio_sysfs_group(name, ret_number);
	if (r == -ENOENT && kind == MDEV) {
		(void)log_err(
			0,
			"vfio: attach %s: this mdev is in no IOMMU group: its driver must "
			"be one for VFIO",
			name);
		return -EOPNOTSUPP;
	}
	if (r == -ENOENT) {
		(void)log_err(
			0,
			"vfio: attach %s: no IOMMU stands before it: switch on VT-d or AMD-Vi "
			"in the firmware, and intel_iommu=on on Intel's",
			name);
		return -EOPNOTSUPP;
	}
	if (r < 0)
		return log_err(r, "vfio: attach %s: ask for its IOMMU group", name);
	return 0;
}

int vfio_pci_look(const char *given, enum vfio_balloon balloon, char *name,
		  unsigned int *ret_group)
{
	enum kind kind = FUNCTION;

	int r = vfio_pci_name(given, name, VFIO_NAME_SIZE);
	if (r < 0)
		return log_err(r,
			       "vfio: attach %.128s: a PCI device is called 0000:01:00.0, an "
			       "mdev after its UUID",
			       given);
	r = check_kind(name, balloon, &kind);
	if (r >= 0)
		r = check_driver(name, kind);
	return r < 0 ? r : find_group(name, kind, ret_group);
}

static int open_device(struct vfio_pci *vp, struct vfio *vfio, const char *name,
		       unsigned int number, enum vfio_balloon balloon)
{
	int r = vfio_group_attach(vfio, number, balloon, &vp->group);
	if (r < 0)
		return r;
	return vfio_device_attach(&vp->device, vp->group, name);
}

/*
 * The whole config space, as the device has it now; *ret_size: 256 or 4096 bytes. Some mdevs
 * have a byte less than 256: what is not there is zero.
 */
static int read_config(const struct vfio_pci *vp, uint8_t *bytes, unsigned int *ret_size)
{
	uint64_t there = vp->device.regions[CONFIG].size;
	uint64_t size = there < PCI_CONFIG_SIZE ? HEADER_CONFIG_SIZE : PCI_CONFIG_SIZE;

	memset(bytes, 0, size);
	int r = vfio_device_read(&vp->device, CONFIG, 0, bytes, size);
	if (r < PCI_STD_HEADER_SIZEOF || (uint64_t)r < (there < size ? there : size))
		return log_err(r < 0 ? r : -EIO, "vfio: read the config space of %s",
			       vp->device.name);
	*ret_size = (unsigned int)size;
	return 0;
}

static int add_msix(struct vfio_pci *vp)
{
	const struct msix_config *msix = &vp->config.msix;

	if (!vp->config.has_msix)
		return 0;
	int r = vfio_irq_add_msix(&vp->irq, &vp->pci, msix);
	if (r < 0)
		return log_err(
			r,
			"vfio: %s: MSI-X of %u vectors, table in bar %u at 0x%x, pending "
			"bits in bar %u at 0x%x",
			vp->pci.name, msix->nr_vectors, msix->table_bar, msix->table_offset,
			msix->pba_bar, msix->pba_offset);
	return 0;
}

/* What the guest is going to see, off any bus so far. */
static int build_view(struct vfio_pci *vp, struct vfio *vfio)
{
	uint8_t bytes[PCI_CONFIG_SIZE];
	unsigned int size = 0;

	int r = read_config(vp, bytes, &size);
	if (r < 0)
		return r;
	/* The ids come with the bytes. */
	pci_device_init(&vp->pci, &vfio_pci_ops, vp->device.name, 0, 0, 0);
	r = vfio_irq_init(&vp->irq, &vp->device, vfio->wires);
	if (r < 0)
		return r;
	r = vfio_config_init(&vp->config, &vp->pci, bytes, size, &vp->irq);
	if (r < 0)
		return r;
	vp->device.has_flr = vp->config.has_flr;
	vp->device.has_pm_reset = vp->config.has_pm_reset;
	r = vfio_bars_init(&vp->bars, &vp->pci, &vp->device, &vp->irq.msix, vfio->map,
			   &vp->config, bytes);
	if (r < 0)
		return r;
	return add_msix(vp);
}

static int attach(struct vfio *vfio, struct pci_bus *bus, const char *name, unsigned int group,
		  enum vfio_balloon balloon, struct vfio_pci **ret)
{
	TRACE(vfio_pci_attach, 0, 0);
	struct vfio_pci *vp = calloc(1, sizeof(*vp));
	if (!vp)
		return log_err(-ENOMEM, "vfio: attach %s", name);
	int r = open_device(vp, vfio, name, group, balloon);
	if (r < 0)
		goto fail;
	r = build_view(vp, vfio);
	if (r < 0)
		goto fail;
	/* The guest may be running, and at those that share a bus with it. */
	r = reset_hardware(vp, VFIO_REACH_UNTOUCHED);
	if (r < 0) {
		(void)log_err(r, "vfio: reset %s", name);
		goto fail;
	}
	/* A guest that looks for itself may switch MSI on before INTx has a line. */
	r = vfio_irq_start(&vp->irq, VFIO_NO_INTX);
	if (r >= 0)
		r = pci_bus_add(bus, &vp->pci, PCI_ANY_SLOT);
	if (r < 0) {
		(void)log_err(r, "vfio: put %s on the guest's bus", name);
		goto fail;
	}
	r = vfio_irq_start(&vp->irq, intx_gsi(vp));
	if (r < 0) {
		(void)log_err(r, "vfio: switch on INTx of %s", name);
		goto fail;
	}
	log_info("vfio: %s [%04x:%04x] of group %u attached as %02x.%x%s", name,
		 pci_get_16(&vp->pci, PCI_VENDOR_ID), pci_get_16(&vp->pci, PCI_DEVICE_ID),
		 vp->group->number, vp->pci.devfn >> 3, vp->pci.devfn & 7u,
		 balloon == VFIO_BALLOON_ALLOWED ? ", the balloon is allowed" : "");
	*ret = vp;
	return 0;
fail:
	vfio_pci_detach(vp);
	return r;
}

int vfio_pci_attach(struct vfio *vfio, struct pci_bus *bus, const char *given,
		    enum vfio_balloon balloon, struct vfio_pci **ret)
{
	char name[VFIO_NAME_SIZE];
	unsigned int group;

	int r = vfio_pci_look(given, balloon, name, &group);
	return r < 0 ? r : attach(vfio, bus, name, group, balloon, ret);
}

int vfio_pci_attach_opened(struct vfio *vfio, struct pci_bus *bus, struct vfio_opened *opened,
			   enum vfio_balloon balloon, struct vfio_pci **ret)
{
	/* Only mdevs have names without a colon, and by its name the kernel opens the device. */
	if (balloon == VFIO_BALLOON_ALLOWED && strchr(opened->name, ':'))
		return refuse_balloon(opened->name);
	vfio->opened = opened;
	int r = attach(vfio, bus, opened->name, opened->group, balloon, ret);
	vfio->opened = NULL;
	return r;
}

/* One that was pulled out reads as ones. */
static bool decodes_memory(const struct vfio_pci *vp)
{
	uint32_t command = 0;

	return read_hardware(vp, PCI_COMMAND, 2, &command) >= 0 && command != UINT16_MAX &&
	       command & PCI_COMMAND_MEMORY;
}

static bool trap(struct pci_device *pci)
{
	if (!vfio_bars_trap(&vfio_pci_of(pci)->bars))
		return false;
	log_guest(
		&pci->budget,
		"vfio: %s: its memory does not answer the processor: it traps until the guest "
		"switches it on anew",
		pci->name);
	return true;
}

bool vfio_pci_trap(struct pci_bus *bus)
{
	bool any = false;

	pthread_mutex_lock(&bus->lock);
	for (unsigned int round = 0; round < 2 && !any; round++) {
		for (unsigned int i = 0; i < PCI_NR_DEVFNS; i++) {
			struct pci_device *pci = bus->devices[i];
			if (!pci || pci->ops != &vfio_pci_ops)
				continue;
			if (round > 0 || !decodes_memory(vfio_pci_of(pci)))
				any = trap(pci) || any;
		}
	}
	pthread_mutex_unlock(&bus->lock);
	return any;
}

void vfio_pci_detach(struct vfio_pci *vp)
{
	if (!vp)
		return;
	TRACE(vfio_pci_detach, 0, 0);
	pci_bus_remove(&vp->pci);
	vfio_irq_finish(&vp->irq);
	/* Before its memory is unmapped the device must stop using it. */
	if (vp->device.group && vp->device.fd >= 0 && quiesce(vp) < 0)
		log_debug("vfio: %s: bus mastering stays on until it is closed",
			  vp->device.name);
	vfio_bars_finish(&vp->bars);
	vfio_device_detach(&vp->device);
	if (vp->group)
		vfio_group_detach(vp->group);
	free(vp);
}
