/* SPDX-License-Identifier: MIT */
/*
 * pci.c - config space, BARs, MSI-X tables and hot-plug of two devices under a hostile guest. What is
 * decoded lies in the bridge's windows and over nothing else, always.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include <linux/pci_regs.h>

#include "devices/hotplug.h"
#include "devices/msix.h"
#include "tests/fakes/wires.h"
#include "tests/fuzz/driver.h"

#define ECAM 0xb0000000ull
#define NR_DEVICES 2u
#define MSIX_CAP 0x40u
#define POWER_PORT 0x600u
#define HOTPLUG_PORT 0x604u

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static const struct pci_windows windows = {
	.io = { .base = 0x1000, .size = 0xf000 },
	.mem32 = { .base = 0xc0000000, .size = 0x3ec00000 },
	.mem64 = { .base = 1ull << 38, .size = 1ull << 38 },
};

static struct io_bus pio, mmio;
static struct pci_bus bus;
static struct fake_wires wires, power_wires;
static struct power power;
static struct hotplug hotplug;
static struct device {
	struct pci_device pci;
	struct msix msix;
	bool removable;
	struct slot {
		struct device *dev;
		unsigned int bar;
	} slots[PCI_NR_BARS];
} devices[NR_DEVICES];

static void check_access(const struct slot *slot, uint64_t offset, unsigned int size)
{
	assert(range_within(offset, size, 0, slot->dev->pci.bars[slot->bar].region.size));
}

static uint64_t bar_read(void *opaque, uint64_t offset, unsigned int size)
{
	struct slot *slot = opaque;
	uint64_t value = 0;

	check_access(slot, offset, size);
	(void)msix_read(&slot->dev->msix, slot->bar, offset, size, &value);
	return value;
}

static void bar_write(void *opaque, uint64_t offset, unsigned int size, uint64_t value)
{
	struct slot *slot = opaque;

	check_access(slot, offset, size);
	(void)msix_write(&slot->dev->msix, slot->bar, offset, size, value);
}

static void config_write(struct pci_device *pci, unsigned int offset, unsigned int size,
			 uint32_t value)
{
	pci_config_write(pci, offset, size, value);
	msix_control_changed(&container_of(pci, struct device, pci)->msix);
}

static void reset(struct pci_device *pci)
{
	msix_reset(&container_of(pci, struct device, pci)->msix);
}

static const struct io_ops bar_ops = { .read = bar_read, .write = bar_write };
static const struct pci_device_ops ops = { .config_write = config_write, .reset = reset };

static void add_bar(struct device *dev, unsigned int bar, enum pci_bar_kind kind, uint64_t size)
{
	dev->slots[bar] = (struct slot){ dev, bar };
	pci_set_bar(&dev->pci, bar, kind, PCI_NON_PREFETCHABLE, size, &bar_ops,
		    &dev->slots[bar]);
}

static void add_device(struct device *dev)
{
	unsigned int nr_vectors = 1u + (next8() % 8 ? next8() % 16 : next8());
	const struct msix_config config = { MSIX_CAP, nr_vectors, 0, 8, 4, 0 };

	pci_device_init(&dev->pci, &ops, "fuzz", 0x1234, 0x11e8, 0xff0000);
	add_bar(dev, 0, PCI_BAR_MEM64, 4096);
	add_bar(dev, 2, PCI_BAR_IO, 32);
	add_bar(dev, 3, PCI_BAR_MEM32, 16);
	add_bar(dev, 4, PCI_BAR_MEM32, 4096);
	add_bar(dev, PCI_ROM, PCI_BAR_MEM32, 2048);
	pci_add_capability(&dev->pci, PCI_CAP_ID_MSIX, MSIX_CAP);
	if (msix_init(&dev->msix, &dev->pci, &wires.wires, &config, NULL) < 0)
		assert(8 + 16 * nr_vectors > 4096);
	dev->removable = false;
	if (pci_bus_add(&bus, &dev->pci, PCI_ANY_SLOT) < 0)
		abort(); /* there are 32 */
}

static void requested(void *opaque, enum power_event event, uint8_t code)
{
	(void)opaque;
	(void)event;
	(void)code;
}

/* One that the guest has let go of comes back at once, as it was. */
static void ejected(void *opaque, unsigned int slot)
{
	struct device *dev = &devices[slot];

	(void)opaque;
	assert(slot < NR_DEVICES && dev->removable);
	dev->removable = false;
	pci_bus_remove(&dev->pci);
	for (unsigned int b = 0; b < PCI_NR_BARS; b++)
		assert(dev->pci.bars[b].address == PCI_UNMAPPED);
	if (pci_bus_add(&bus, &dev->pci, PCI_DEVFN(slot, 0)) < 0)
		abort(); /* it was there */
}

static void add_hotplug(void)
{
	const struct power_handler power_handler = { .requested = requested };
	const struct hotplug_handler handler = { .ejected = ejected };

	if (power_init(&power, &pio, &power_wires.wires, POWER_PORT, 9, 0x505, 0,
		       &power_handler) < 0 ||
	    hotplug_init(&hotplug, &pio, &power, HOTPLUG_PORT, &handler) < 0)
		abort(); /* of this process's making, not the input's */
}

static struct device *next_device(void)
{
	return &devices[next8() % NR_DEVICES];
}

static unsigned int next_register(void)
{
	static const uint8_t registers[] = {
		PCI_COMMAND, PCI_BASE_ADDRESS_0, 0x14,    0x18, 0x1c,
		0x20,        PCI_ROM_ADDRESS,    MSIX_CAP
	};
	unsigned int dice = next8();

	return dice < 192 ? registers[dice % 8] + dice / 64 : dice * 16;
}

static void step_ecam(void)
{
	uint64_t at = ECAM + (uint64_t)(next8() % 24) * 0x1000 + next_register();
	unsigned int size = 1u << next8() % 4;

	(void)io_bus_read(&mmio, at, size);
	io_bus_write(&mmio, at, size, next32());
}

static void step_ports(void)
{
	unsigned int size = 1u << next8() % 4;

	io_bus_write(&pio, 0xcf8, size, 0x80000000u | (next8() % 24) << 8 | next_register());
	io_bus_write(&pio, 0xcfc + next8() % 4, size, next32());
	(void)io_bus_read(&pio, 0xcfc + next8() % 4, size);
	(void)io_bus_read(&pio, 0xcf8, 4);
}

/* Somewhere that makes sense, or over another's. */
static void step_move(void)
{
	struct device *dev = next_device();
	unsigned int bar = next8() % 6;
	uint64_t at = ECAM + ((uint64_t)(dev->pci.devfn) << 12) + PCI_BASE_ADDRESS_0 + 4 * bar;

	io_bus_write(&mmio, at, 4, next8() % 4 ? 0xc0000000 + next8() * 0x800u : next32());
	if (bar == 0)
		io_bus_write(&mmio, at + 4, 4, next8() % 2 ? 0x40 + next8() : next8() % 3);
	io_bus_write(&mmio, ECAM + ((uint64_t)dev->pci.devfn << 12) + PCI_COMMAND, 2, 7);
}

static void step_bar(void)
{
	const struct pci_bar *bar = &next_device()->pci.bars[next8() % PCI_NR_BARS];
	uint64_t at = bar->address == PCI_UNMAPPED ? next64() : bar->address + next16();
	unsigned int size = 1u << next8() % 4;

	(void)io_bus_read(bar->kind == PCI_BAR_IO ? &pio : &mmio, at, size);
	io_bus_write(bar->kind == PCI_BAR_IO ? &pio : &mmio, at, size, next32());
}

/* What a driver does: the table open, MSI-X on, a vector raised. */
static void step_vector(void)
{
	struct device *dev = next_device();
	unsigned int vector = next8();

	(void)msix_write(&dev->msix, 0, vector * 16u + 8, 8, next8());
	pci_set_16(&dev->pci, MSIX_CAP + PCI_MSIX_FLAGS, (uint16_t)(next8() << 8));
	msix_control_changed(&dev->msix);
	msix_raise(&dev->msix, vector);
	(void)msix_eventfd(&dev->msix, next16());
	(void)fake_wires_take_any(&wires);
}

static void step_hotplug(unsigned int dice)
{
	unsigned int slot = dice % NR_DEVICES;
	uint32_t at = POWER_PORT + next8() % 16;
	unsigned int size = 1u << next8() % 4;

	if (dice & 4) {
		devices[slot].removable = dice & 8;
		hotplug_set_removable(&hotplug, slot, dice & 8);
	}
	if (dice & 16)
		hotplug_announce(&hotplug, slot);
	if (dice & 32)
		hotplug_ask_eject(&hotplug, slot);
	(void)io_bus_read(&pio, at, size);
	io_bus_write(&pio, at, size, next32());
	io_bus_write(&pio, HOTPLUG_PORT + 8, 4, next8());
	uint32_t pending = dice & 64 ? hotplug_reset(&hotplug) : 0;
	for (unsigned int i = 0; i < HOTPLUG_NR_SLOTS; i++) {
		if (pending >> i & 1)
			ejected(NULL, i);
	}
}

static void step_reset(void)
{
	unsigned int dice = next8();

	if (dice >= 128)
		step_hotplug(dice);
	else
		pci_bus_reset(&bus);
}

static void check_bar(const struct pci_bar *bar)
{
	const struct pci_window *w = bar->kind == PCI_BAR_IO        ? &windows.io
				     : bar->address < FUZZ_HIGH_GPA ? &windows.mem32
								    : &windows.mem64;

	if (bar->address != PCI_UNMAPPED)
		assert(range_within(bar->address, bar->region.size, w->base, w->size));
}

static void check_bus(struct io_bus *io)
{
	uint64_t end = 0;

	list_for_each(n, &io->regions) {
		const struct io_region *region = container_of(n, struct io_region, link);
		assert(region->base >= end);
		end = region->base + region->size;
	}
}

static void check(void)
{
	for (unsigned int i = 0; i < NR_DEVICES; i++) {
		for (unsigned int b = 0; b < PCI_NR_BARS; b++)
			check_bar(&devices[i].pci.bars[b]);
		assert(pci_get_32(&devices[i].pci, PCI_VENDOR_ID) == 0x11e81234);
	}
	check_bus(&pio);
	check_bus(&mmio);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
	static void (*const steps[])(void) = { step_ecam, step_ports,  step_move,
					       step_bar,  step_vector, step_reset };

	if (fuzz_begin(fuzz_ram(), bytes, size) < 0)
		abort(); /* of this process's making, not the input's */
	io_bus_init(&pio);
	io_bus_init(&mmio);
	fake_wires_init(&wires);
	fake_wires_init(&power_wires);
	if (pci_bus_init(&bus, &pio, &mmio, &windows, ECAM) < 0)
		abort(); /* likewise */
	for (unsigned int i = 0; i < NR_DEVICES; i++)
		add_device(&devices[i]);
	add_hotplug();
	pci_bus_reset(&bus);
	fuzz_run(steps, nitems(steps), check);
	for (unsigned int i = 0; i < NR_DEVICES; i++) {
		pci_bus_remove(&devices[i].pci);
		msix_finish(&devices[i].msix);
	}
	hotplug_finish(&hotplug);
	power_finish(&power);
	assert(wires.nr_routes == 0 && wires.nr_irqfds == 0);
	pci_bus_finish(&bus);
	io_bus_finish(&mmio);
	io_bus_finish(&pio);
	fuzz_end();
	return 0;
}
