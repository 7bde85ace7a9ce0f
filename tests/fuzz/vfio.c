/* SPDX-License-Identifier: MIT */
/*
 * vfio.c - an assigned device that lies: its config space, its regions and what the kernel says of
 * both are the input, and so is what the guest does with it. What the shown capabilities are is a
 * list that ends, what is refused is said in one line, and in the end nothing is left.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include <linux/pci_regs.h>

#include "tests/fakes/vfio_kernel.h"
#include "tests/fuzz/driver.h"
#include "vfio/vfio_pci.h"

#define ECAM 0xb0000000ull
#define NAME "0000:01:00.0"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static struct io_bus pio, mmio;
static struct pci_bus bus;
static struct reclaim reclaim;
static struct vfio vfio;
static struct fake_device *dev;
static struct vfio_pci *vp;

static uint64_t next_size(void)
{
	unsigned int dice = next8();

	return dice < 200 ? 1ull << dice % 18 : dice < 240 ? next16() : 0;
}

static void add_region(unsigned int index)
{
	static const uint32_t kinds[] = { 0, PCI_BASE_ADDRESS_MEM_TYPE_64,
					  PCI_BASE_ADDRESS_SPACE_IO, 0xf };
	uint32_t kind = kinds[next8() % 4];
	uint64_t size = next_size();
	struct fake_region *region = &dev->regions[index];

	if (size == 0)
		return;
	fake_set_bar(dev, index, kind, size, next8() % 2 ? VFIO_REGION_INFO_FLAG_MMAP : 0);
	region->sparse = next8() % 4 == 0;
	region->nr_areas = region->sparse ? next8() % 5 : 0;
	for (unsigned int i = 0; i < region->nr_areas; i++) {
		region->areas[i].offset = next8() % 4 ? next8() * 0x800u : next64();
		region->areas[i].size = next8() % 4 ? next8() * 0x800u : next64();
	}
	region->readable = next8() % 4 ? size : next8();
}

/* Mostly a chain that makes sense at first sight; or anything. */
static void add_capability(unsigned int *last)
{
	static const uint8_t ids[] = { PCI_CAP_ID_PM,  PCI_CAP_ID_MSI,  PCI_CAP_ID_MSIX,
				       PCI_CAP_ID_EXP, PCI_CAP_ID_VNDR, PCI_CAP_ID_AF };
	unsigned int at = next8() & 0xffu;

	fake_link_capability(dev, *last, at, ids[next8() % nitems(ids)]);
	for (unsigned int i = next8() % 12; i > 0 && at + 1 + i < 256; i--)
		dev->config[at + 1 + i] = next8();
	*last = at;
}

static void add_device(void)
{
	unsigned int last = 0;

	dev = fake_add_device(NAME, fake_add_group(7));
	for (unsigned int i = next8() % 8; i > 0; i--)
		add_region(next8() % 7);
	for (unsigned int i = next8() % 8; i > 0 && last < 255; i--)
		add_capability(&last);
	for (unsigned int i = next8() % 8; i > 0; i--)
		fake_set_32(dev, 0x100u + next8() % 64 * 4, next32());
	for (unsigned int i = next8() % 8; i > 0; i--)
		dev->config[next16() % FAKE_CONFIG_SIZE] = next8();
	memset(dev->writable + 0x40, next8(), FAKE_CONFIG_SIZE - 0x40);
	for (unsigned int i = 0; i < nitems(dev->irqs); i++) {
		dev->irqs[i].count = next8() % 4 ? next8() : next16() % FAKE_MAX_VECTORS;
		dev->irqs[i].flags = next8() % 2 ? VFIO_IRQ_INFO_NORESIZE : 0;
		dev->irqs[i].available = next8() % 4 ? 0 : next8();
	}
	if (next8() % 8 == 0)
		dev->regions[VFIO_PCI_CONFIG_REGION_INDEX].size = 1u + next16() % 4096;
	dev->no_d3 = next8() % 2;
	dev->can_hot_reset = next8() % 2;
}

/* The guest's side */

static uint64_t config_at(unsigned int offset)
{
	return ECAM + ((uint64_t)vp->pci.devfn << 12) + offset;
}

static void step_shadow(void)
{
	unsigned int offset = next8() % 8 ? next8() : next16() % 4096;
	unsigned int size = 1u << next8() % 3;

	(void)io_bus_read(&mmio, config_at(offset), size);
	io_bus_write(&mmio, config_at(offset), size, next32());
}

/* On goes what the device has: its own capabilities are where the guest finds them. */
static void step_interrupts(void)
{
	const struct vfio_config *config = &vp->config;
	unsigned int at = next8() % 2 && config->msi ? config->msi : config->msix.cap_offset;

	if (at)
		io_bus_write(&mmio, config_at(at + 2), 2, next16());
	if (config->has_msix)
		(void)msix_write(&vp->irq.msix, config->msix.table_bar,
				 config->msix.table_offset + next8() % 32 * 4, 4, next16());
	(void)fake_fire(dev, VFIO_PCI_MSI_IRQ_INDEX + next8() % 2, next8());
	fake_intx(dev, next8() % 2);
	fake_eoi(next8() % 24);
}

static void step_bar(void)
{
	const struct pci_bar *bar = &vp->pci.bars[next8() % PCI_NR_BARS];
	struct io_bus *io = bar->kind == PCI_BAR_IO ? &pio : &mmio;
	uint64_t at = bar->address + (next8() % 2 ? next16() : bar->region.size - next8());
	unsigned int size = 1u << next8() % 4;

	(void)io_bus_read(io, at, size);
	io_bus_write(io, at, size, next32());
}

static void step_move(void)
{
	unsigned int at = PCI_BASE_ADDRESS_0 + next8() % 6 * 4;

	io_bus_write(&mmio, config_at(at), 4, 0xc0000000 + next8() * 0x800u);
	io_bus_write(&mmio, config_at(PCI_COMMAND), 2, next8());
}

static void step_reset(void)
{
	pci_bus_reset(&bus);
}

static void step_trouble(void)
{
	dev->config_dead = next8() % 4 == 0;
	dev->dead = next8() % 4 == 0;
	fake.fail_at = fake.nr_calls + next8();
}

static void check(void)
{
	unsigned int at = vp->pci.config[PCI_CAPABILITY_LIST];

	for (unsigned int i = 0; at; i++) {
		assert(i < 48 && at >= 0x40 && at % 4 == 0);
		at = vp->pci.config[at + 1];
	}
	at = 0x100;
	for (unsigned int i = 0; at; i++) {
		assert(i < 480 && at >= 0x100);
		at = PCI_EXT_CAP_NEXT(pci_get_32(&vp->pci, at));
	}
	fake_forget_record();
}

static void play(void)
{
	static void (*const steps[])(void) = { step_shadow, step_interrupts, step_bar,
					       step_move,   step_reset,      step_trouble };

	int r = vfio_pci_attach(&vfio, &bus, NAME, VFIO_BALLOON_INHIBITS, &vp);
	if (r < 0) {
		assert(fuzz.nr_errors == 1);
		return;
	}
	pci_bus_reset(&bus);
	check();
	fuzz_run(steps, nitems(steps), check);
	fake.fail_at = 0;
	vfio_pci_detach(vp);
}

static void begin(const uint8_t *bytes, size_t size)
{
	static const struct vfio_dma_config inhibits;
	const struct pci_windows windows = {
		.io = { .base = 0x1000, .size = 0xf000 },
		.mem32 = { .base = 0xc0000000, .size = 0x10000000 },
		.mem64 = { .base = 1ull << 36, .size = 1ull << 36 },
	};

	fake_init();
	io_bus_init(&pio);
	io_bus_init(&mmio);
	if (fuzz_begin(fuzz_ram(), bytes, size) < 0 ||
	    reclaim_init(&reclaim, &fuzz.map, RECLAIM_INHIBIT, 0) < 0 ||
	    pci_bus_init(&bus, &pio, &mmio, &windows, ECAM) < 0)
		abort(); /* of this process's making, not the input's */
	vfio_init(&vfio, &fuzz.map, &reclaim, &fake.wires, &inhibits);
}

static void end(void)
{
	assert(fake.nr_maps == 0 && fake.nr_routes == 0 && fake.nr_irqfds == 0);
	assert(dev->fd == 0 && fake.groups[0].fd == 0 && fake.containers[0].fd == 0);
	assert(reclaim_inhibitors(&reclaim) == 0);
	vfio_finish(&vfio);
	pci_bus_finish(&bus);
	reclaim_finish(&reclaim);
	fuzz_end();
	io_bus_finish(&mmio);
	io_bus_finish(&pio);
	fake_finish();
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
	begin(bytes, size);
	add_device();
	play();
	end();
	return 0;
}
