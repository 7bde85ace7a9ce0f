/* SPDX-License-Identifier: MIT */
#include "devices/pci.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include <linux/pci_regs.h>

#define ECAM_SIZE (1ull << 20)
#define ADDRESS_PORT 0xcf8
#define DATA_PORT 0xcfc
#define ADDRESS_ENABLE 0x80000000u
#define FIRST_INTX_GSI 16u
#define NR_INTX_GSIS 8u

uint16_t pci_get_16(const struct pci_device *dev, unsigned int offset)
{
	return (uint16_t)(dev->config[offset] | dev->config[offset + 1] << 8);
}

uint32_t pci_get_32(const struct pci_device *dev, unsigned int offset)
{
	return pci_get_16(dev, offset) | (uint32_t)pci_get_16(dev, offset + 2) << 16;
}

void pci_set_16(struct pci_device *dev, unsigned int offset, uint16_t value)
{
	dev->config[offset] = (uint8_t)value;
	dev->config[offset + 1] = (uint8_t)(value >> 8);
}

void pci_set_32(struct pci_device *dev, unsigned int offset, uint32_t value)
{
	pci_set_16(dev, offset, (uint16_t)value);
	pci_set_16(dev, offset + 2, (uint16_t)(value >> 16));
}

static void set_writable_16(struct pci_device *dev, unsigned int offset, uint16_t mask)
{
	dev->writable[offset] = (uint8_t)mask;
	dev->writable[offset + 1] = (uint8_t)(mask >> 8);
}

static void set_writable_32(struct pci_device *dev, unsigned int offset, uint32_t mask)
{
	set_writable_16(dev, offset, (uint16_t)mask);
	set_writable_16(dev, offset + 2, (uint16_t)(mask >> 16));
}

void pci_device_init(struct pci_device *dev, const struct pci_device_ops *ops, const char *name,
		     uint16_t vendor, uint16_t device, uint32_t class_code)
{
	*dev = (struct pci_device){ .ops = ops, .name = name };
	pci_set_16(dev, PCI_VENDOR_ID, vendor);
	pci_set_16(dev, PCI_DEVICE_ID, device);
	pci_set_32(dev, PCI_CLASS_REVISION, class_code << 8);
	set_writable_16(dev, PCI_COMMAND,
			PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER |
				PCI_COMMAND_PARITY | PCI_COMMAND_SERR |
				PCI_COMMAND_INTX_DISABLE);
	dev->writable[PCI_CACHE_LINE_SIZE] = 0xff;
	dev->writable[PCI_INTERRUPT_LINE] = 0xff;
	for (unsigned int i = 0; i < PCI_NR_BARS; i++)
		dev->bars[i].address = PCI_UNMAPPED;
}

static unsigned int bar_register(unsigned int bar)
{
	return bar == PCI_ROM ? PCI_ROM_ADDRESS : PCI_BASE_ADDRESS_0 + 4 * bar;
}

void pci_set_bar(struct pci_device *dev, unsigned int bar, enum pci_bar_kind kind,
		 enum pci_prefetch prefetch, uint64_t size, const struct io_ops *ops,
		 void *opaque)
{
	unsigned int offset = bar_register(bar);
	uint32_t flags = 0;

	assert(is_power_of_2(size) && bar < PCI_NR_BARS);
	dev->bars[bar] = (struct pci_bar){
		.kind = kind,
		.address = PCI_UNMAPPED,
		.region = { .size = size, .ops = ops, .opaque = opaque },
	};
	if (bar == PCI_ROM) {
		set_writable_32(dev, offset, (uint32_t) ~(size - 1) | PCI_ROM_ADDRESS_ENABLE);
		return;
	}
	if (kind == PCI_BAR_IO)
		flags = PCI_BASE_ADDRESS_SPACE_IO;
	if (kind == PCI_BAR_MEM64)
		flags |= PCI_BASE_ADDRESS_MEM_TYPE_64;
	if (prefetch == PCI_PREFETCHABLE)
		flags |= PCI_BASE_ADDRESS_MEM_PREFETCH;
	pci_set_32(dev, offset, flags);
	set_writable_32(dev, offset, (uint32_t) ~(size - 1));
	if (kind == PCI_BAR_MEM64) {
		pci_set_32(dev, offset + 4, 0);
		set_writable_32(dev, offset + 4, (uint32_t)(~(size - 1) >> 32));
	}
}

void pci_add_capability(struct pci_device *dev, uint8_t id, unsigned int offset)
{
	dev->config[offset] = id;
	dev->config[offset + 1] = dev->config[PCI_CAPABILITY_LIST];
	dev->config[PCI_CAPABILITY_LIST] = (uint8_t)offset;
	pci_set_16(dev, PCI_STATUS, pci_get_16(dev, PCI_STATUS) | PCI_STATUS_CAP_LIST);
}

uint32_t pci_intx_gsi(const struct pci_device *dev, unsigned int pin)
{
	return FIRST_INTX_GSI + (((unsigned int)dev->devfn >> 3) + pin - 1) % NR_INTX_GSIS;
}

/* Where the registers say a BAR is to be decoded; PCI_UNMAPPED: nowhere. */
static uint64_t wanted_address(const struct pci_device *dev, unsigned int index)
{
	const struct pci_bar *bar = &dev->bars[index];
	const struct pci_windows *windows = &dev->bus->windows;
	uint16_t enable = bar->kind == PCI_BAR_IO ? PCI_COMMAND_IO : PCI_COMMAND_MEMORY;
	uint32_t low = pci_get_32(dev, bar_register(index));
	uint64_t address = low & PCI_BASE_ADDRESS_MEM_MASK;

	if (bar->kind == PCI_BAR_NONE || dev->powered_down ||
	    !(pci_get_16(dev, PCI_COMMAND) & enable))
		return PCI_UNMAPPED;
	if (index == PCI_ROM) {
		if (!(low & PCI_ROM_ADDRESS_ENABLE))
			return PCI_UNMAPPED;
		address = low & PCI_ROM_ADDRESS_MASK;
	}
	if (bar->kind == PCI_BAR_IO)
		address = low & PCI_BASE_ADDRESS_IO_MASK;
	if (bar->kind == PCI_BAR_MEM64)
		address |= (uint64_t)pci_get_32(dev, bar_register(index) + 4) << 32;
	const struct pci_window *list[] = { &windows->io, &windows->mem32, &windows->mem64 };
	for (unsigned int i = 0; i < nitems(list); i++) {
		if ((list[i] == &windows->io) != (bar->kind == PCI_BAR_IO))
			continue;
		if (list[i]->size &&
		    range_within(address, bar->region.size, list[i]->base, list[i]->size))
			return address;
	}
	return PCI_UNMAPPED;
}

static struct io_bus *io_bus_of(const struct pci_bus *bus, const struct pci_bar *bar)
{
	return bar->kind == PCI_BAR_IO ? bus->pio : bus->mmio;
}

static void unmap_bar(struct pci_device *dev, unsigned int index)
{
	struct pci_bar *bar = &dev->bars[index];

	if (bar->address == PCI_UNMAPPED)
		return;
	if (dev->ops->bar_unmapped)
		dev->ops->bar_unmapped(dev, index);
	io_bus_remove(io_bus_of(dev->bus, bar), &bar->region);
	bar->address = PCI_UNMAPPED;
}

static void map_bar(struct pci_device *dev, unsigned int index, uint64_t address)
{
	struct pci_bar *bar = &dev->bars[index];

	bar->region.base = address;
	int r = io_bus_add(io_bus_of(dev->bus, bar), &bar->region);
	if (r < 0) {
		log_guest(&dev->budget,
			  "pci: %s: bar %u at 0x%" PRIx64 " overlaps another: not decoded",
			  dev->name, index, address);
		return;
	}
	bar->address = address;
	if (dev->ops->bar_mapped)
		dev->ops->bar_mapped(dev, index);
}

static void unmap_moved(struct pci_device *dev)
{
	for (unsigned int i = 0; i < PCI_NR_BARS; i++) {
		if (dev->bars[i].address != wanted_address(dev, i))
			unmap_bar(dev, i);
	}
}

static void map_wanted(struct pci_device *dev)
{
	for (unsigned int i = 0; i < PCI_NR_BARS; i++) {
		uint64_t wanted = wanted_address(dev, i);
		if (wanted != PCI_UNMAPPED && dev->bars[i].address == PCI_UNMAPPED)
			map_bar(dev, i, wanted);
	}
}

/* A BAR that left may have uncovered another's, hence every device's turn. */
static void map_all_wanted(struct pci_bus *bus)
{
	for (unsigned int i = 0; i < PCI_NR_DEVFNS; i++) {
		if (bus->devices[i])
			map_wanted(bus->devices[i]);
	}
}

void pci_update_bars(struct pci_device *dev)
{
	unmap_moved(dev);
	map_all_wanted(dev->bus);
}

uint32_t pci_config_read(struct pci_device *dev, unsigned int offset, unsigned int size)
{
	uint32_t value = 0;

	for (unsigned int i = 0; i < size; i++)
		value |= (uint32_t)dev->config[offset + i] << (8 * i);
	return value;
}

void pci_config_store(struct pci_device *dev, unsigned int offset, unsigned int size,
		      uint32_t value)
{
	for (unsigned int i = 0; i < size; i++) {
		uint8_t mask = dev->writable[offset + i];
		uint8_t byte = (uint8_t)(value >> (8 * i));
		dev->config[offset + i] =
			(uint8_t)((dev->config[offset + i] & ~mask) | (byte & mask));
	}
}

static bool touches_decoding(unsigned int offset, unsigned int size)
{
	return range_overlaps(offset, size, PCI_COMMAND, 2) ||
	       range_overlaps(offset, size, PCI_BASE_ADDRESS_0, 24) ||
	       range_overlaps(offset, size, PCI_ROM_ADDRESS, 4);
}

void pci_config_write(struct pci_device *dev, unsigned int offset, unsigned int size,
		      uint32_t value)
{
	pci_config_store(dev, offset, size, value);
	if (touches_decoding(offset, size))
		pci_update_bars(dev);
}

/* Config accesses, by either road; devfn and offset are in range, size is 1, 2 or 4. */

static uint32_t read_config(struct pci_bus *bus, unsigned int devfn, unsigned int offset,
			    unsigned int size)
{
	uint32_t value = (uint32_t)io_ones(size);

	pthread_mutex_lock(&bus->lock);
	struct pci_device *dev = bus->devices[devfn];
	if (dev)
		value = dev->ops->config_read ? dev->ops->config_read(dev, offset, size)
					      : pci_config_read(dev, offset, size);
	pthread_mutex_unlock(&bus->lock);
	return value;
}

static void write_config(struct pci_bus *bus, unsigned int devfn, unsigned int offset,
			 unsigned int size, uint32_t value)
{
	pthread_mutex_lock(&bus->lock);
	struct pci_device *dev = bus->devices[devfn];
	if (dev && dev->ops->config_write)
		dev->ops->config_write(dev, offset, size, value);
	else if (dev)
		pci_config_write(dev, offset, size, value);
	pthread_mutex_unlock(&bus->lock);
}

/* Configuration requests do not cross a dword; nor do ours. */
static bool fits_dword(uint64_t offset, unsigned int size)
{
	return size <= 4 && (offset & (size - 1)) == 0;
}

static uint64_t ecam_read(void *opaque, uint64_t offset, unsigned int size)
{
	if (!fits_dword(offset, size))
		return io_ones(size);
	return read_config(opaque, (unsigned int)(offset >> 12), offset & 0xfff, size);
}

static void ecam_write(void *opaque, uint64_t offset, unsigned int size, uint64_t value)
{
	if (fits_dword(offset, size))
		write_config(opaque, (unsigned int)(offset >> 12), offset & 0xfff, size,
			     (uint32_t)value);
}

static const struct io_ops ecam_ops = { .read = ecam_read, .write = ecam_write };

static uint64_t address_port_read(void *opaque, uint64_t offset, unsigned int size)
{
	struct pci_bus *bus = opaque;

	if (offset != 0 || size != 4)
		return io_ones(size);
	pthread_mutex_lock(&bus->lock);
	uint32_t value = bus->config_address;
	pthread_mutex_unlock(&bus->lock);
	return value;
}

static void address_port_write(void *opaque, uint64_t offset, unsigned int size, uint64_t value)
{
	struct pci_bus *bus = opaque;

	if (offset != 0 || size != 4)
		return;
	pthread_mutex_lock(&bus->lock);
	bus->config_address = (uint32_t)value & 0x80fffffc;
	pthread_mutex_unlock(&bus->lock);
}

static const struct io_ops address_port_ops = { .read = address_port_read,
						.write = address_port_write };

/* False: the address port selects nothing, or another bus than ours. */
static bool selected_register(struct pci_bus *bus, uint64_t port_offset,
			      unsigned int *ret_devfn, unsigned int *ret_offset)
{
	pthread_mutex_lock(&bus->lock);
	uint32_t address = bus->config_address;
	pthread_mutex_unlock(&bus->lock);
	if (!(address & ADDRESS_ENABLE) || (address >> 16 & 0xff) != 0)
		return false;
	*ret_devfn = address >> 8 & 0xff;
	*ret_offset = (address & 0xfc) + (unsigned int)port_offset;
	return true;
}

static uint64_t data_port_read(void *opaque, uint64_t offset, unsigned int size)
{
	unsigned int devfn;
	unsigned int config_offset;

	if (!fits_dword(offset, size) ||
	    !selected_register(opaque, offset, &devfn, &config_offset))
		return io_ones(size);
	return read_config(opaque, devfn, config_offset, size);
}

static void data_port_write(void *opaque, uint64_t offset, unsigned int size, uint64_t value)
{
	unsigned int devfn;
	unsigned int config_offset;

	if (fits_dword(offset, size) &&
	    selected_register(opaque, offset, &devfn, &config_offset))
		write_config(opaque, devfn, config_offset, size, (uint32_t)value);
}

static const struct io_ops data_port_ops = { .read = data_port_read, .write = data_port_write };

int pci_bus_init(struct pci_bus *bus, struct io_bus *pio, struct io_bus *mmio,
		 const struct pci_windows *windows, uint64_t ecam_base)
{
	*bus = (struct pci_bus){
		.pio = pio,
		.mmio = mmio,
		.windows = *windows,
		.ecam = { .base = ecam_base, .size = ECAM_SIZE, .ops = &ecam_ops },
		.address_port = { .base = ADDRESS_PORT, .size = 4, .ops = &address_port_ops },
		.data_port = { .base = DATA_PORT, .size = 4, .ops = &data_port_ops },
	};
	bus->ecam.opaque = bus;
	bus->address_port.opaque = bus;
	bus->data_port.opaque = bus;
	pthread_mutex_init(&bus->lock, NULL);
	int r = io_bus_add(mmio, &bus->ecam);
	if (r < 0)
		goto fail;
	r = io_bus_add(pio, &bus->address_port);
	if (r < 0)
		goto fail;
	r = io_bus_add(pio, &bus->data_port);
	if (r < 0)
		goto fail;
	return 0;
fail:
	pci_bus_finish(bus);
	return r;
}

void pci_bus_finish(struct pci_bus *bus)
{
	if (!bus->pio)
		return;
	for (unsigned int i = 0; i < PCI_NR_DEVFNS; i++)
		assert(!bus->devices[i]);
	io_bus_remove(bus->pio, &bus->data_port);
	io_bus_remove(bus->pio, &bus->address_port);
	io_bus_remove(bus->mmio, &bus->ecam);
	pthread_mutex_destroy(&bus->lock);
	*bus = (struct pci_bus){ 0 };
}

static int find_slot_among(struct pci_bus *bus, uint32_t slots)
{
	for (unsigned int slot = 0; slot < 32; slot++) {
		if (slots >> slot & 1 && !bus->devices[PCI_DEVFN(slot, 0)])
			return PCI_DEVFN(slot, 0);
	}
	return -ENOSPC;
}

static int find_slot(struct pci_bus *bus, int devfn)
{
	if (devfn != PCI_ANY_SLOT)
		return bus->devices[devfn] ? -EEXIST : devfn;
	int r = find_slot_among(bus, ~bus->last_slots);
	return r >= 0 ? r : find_slot_among(bus, bus->last_slots);
}

void pci_bus_take_last(struct pci_bus *bus, uint32_t slots)
{
	pthread_mutex_lock(&bus->lock);
	bus->last_slots = slots;
	pthread_mutex_unlock(&bus->lock);
}

int pci_bus_add(struct pci_bus *bus, struct pci_device *dev, int devfn)
{
	pthread_mutex_lock(&bus->lock);
	int r = find_slot(bus, devfn);
	if (r >= 0) {
		dev->bus = bus;
		dev->devfn = (uint8_t)r;
		bus->devices[r] = dev;
	}
	pthread_mutex_unlock(&bus->lock);
	return r < 0 ? r : 0;
}

void pci_bus_remove(struct pci_device *dev)
{
	struct pci_bus *bus = dev->bus;

	if (!bus)
		return;
	pthread_mutex_lock(&bus->lock);
	for (unsigned int i = 0; i < PCI_NR_BARS; i++)
		unmap_bar(dev, i);
	bus->devices[dev->devfn] = NULL;
	dev->bus = NULL;
	map_all_wanted(bus);
	pthread_mutex_unlock(&bus->lock);
	/* Without the lock, which handlers may take. */
	for (unsigned int i = 0; i < PCI_NR_BARS; i++)
		io_bus_wait(io_bus_of(bus, &dev->bars[i]), &dev->bars[i].region);
}

/* Under bus->lock. */
static void reset_device(struct pci_device *dev)
{
	pci_set_16(dev, PCI_COMMAND, 0);
	dev->powered_down = false;
	for (unsigned int i = 0; i < PCI_NR_BARS; i++)
		unmap_bar(dev, i);
	for (unsigned int i = 0; i < PCI_NR_BARS; i++) {
		if (dev->bars[i].kind != PCI_BAR_NONE)
			pci_config_store(dev, bar_register(i), 4, 0);
		if (dev->bars[i].kind == PCI_BAR_MEM64)
			pci_config_store(dev, bar_register(i) + 4, 4, 0);
	}
	dev->config[PCI_CACHE_LINE_SIZE] = 0;
	dev->config[PCI_INTERRUPT_LINE] = 0;
	if (dev->ops->reset)
		dev->ops->reset(dev);
}

/* A place for `size` bytes in the window, or false; *used grows by it. */
static bool take_address(const struct pci_window *window, uint64_t *used, uint64_t size,
			 uint64_t *ret)
{
	uint64_t at = align_up(window->base + *used, size);

	if (window->size == 0 || !range_within(at, size, window->base, window->size))
		return false;
	*used = at + size - window->base;
	*ret = at;
	return true;
}

/*
 * A 64-bit BAR goes to the upper window unless there is none, so that the window below 4 GiB
 * is left to those who can live nowhere else.
 */
static void assign_bar(struct pci_device *dev, unsigned int index, struct pci_windows *used)
{
	struct pci_bus *bus = dev->bus;
	const struct pci_bar *bar = &dev->bars[index];
	uint64_t size = bar->region.size;
	uint64_t at;
	bool found = false;

	if (bar->kind == PCI_BAR_IO)
		found = take_address(&bus->windows.io, &used->io.size, size, &at);
	if (bar->kind == PCI_BAR_MEM64)
		found = take_address(&bus->windows.mem64, &used->mem64.size, size, &at);
	if (!found && bar->kind != PCI_BAR_IO)
		found = take_address(&bus->windows.mem32, &used->mem32.size, size, &at);
	if (!found) {
		log_guest(&dev->budget,
			  "pci: %s: no room for bar %u of 0x%" PRIx64
			  " bytes, leaving it to the guest",
			  dev->name, index, size);
		return;
	}
	pci_config_store(dev, bar_register(index), 4, (uint32_t)at);
	if (bar->kind == PCI_BAR_MEM64)
		pci_config_store(dev, bar_register(index) + 4, 4, (uint32_t)(at >> 32));
}

/* Largest first, so that alignment wastes nothing. */
static void assign_bars(struct pci_bus *bus)
{
	struct pci_windows used = { 0 };

	for (uint64_t size = 1ull << 63; size > 0; size >>= 1) {
		for (unsigned int i = 0; i < PCI_NR_DEVFNS; i++) {
			struct pci_device *dev = bus->devices[i];
			for (unsigned int b = 0; dev && b < PCI_NR_BARS; b++) {
				if (dev->bars[b].kind != PCI_BAR_NONE &&
				    dev->bars[b].region.size == size)
					assign_bar(dev, b, &used);
			}
		}
	}
}

void pci_bus_reset(struct pci_bus *bus)
{
	pthread_mutex_lock(&bus->lock);
	bus->config_address = 0;
	for (unsigned int i = 0; i < PCI_NR_DEVFNS; i++) {
		if (bus->devices[i])
			reset_device(bus->devices[i]);
	}
	assign_bars(bus);
	for (unsigned int i = 0; i < PCI_NR_DEVFNS; i++) {
		struct pci_device *dev = bus->devices[i];
		if (dev && dev->config[PCI_INTERRUPT_PIN])
			dev->config[PCI_INTERRUPT_LINE] =
				(uint8_t)pci_intx_gsi(dev, dev->config[PCI_INTERRUPT_PIN]);
	}
	pthread_mutex_unlock(&bus->lock);
}
