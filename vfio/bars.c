/* SPDX-License-Identifier: MIT */
#include "vfio/bars.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include <linux/pci_regs.h>

#include "base/log.h"

#define PAGE_SIZE ((uint64_t)GUEST_PAGE_SIZE)
#define MAX_ROM_SIZE (16ull << 20) /* PCI Local Bus Specification 3.0, 6.2.5.2 */
#define MIN_ROM_SIZE 2048u

/* A part of a BAR, ends exclusive. Empty where the end is not above the start. */
struct span {
	uint64_t start;
	uint64_t end;
};

/* What traps. The guest calls these, from any vCPU. */

static uint64_t bar_read(void *opaque, uint64_t offset, unsigned int size)
{
	const struct vfio_bar *bar = opaque;
	struct vfio_bars *bars = bar->bars;
	uint64_t value = 0;

	if (msix_read(bars->msix, bar->index, offset, size, &value))
		return value;
	int r = vfio_device_read(bars->device, bar->index, offset, &value, size);
	if (r < 0)
		log_guest(&bars->pci->budget,
			  "vfio: %s: read bar %u at 0x%" PRIx64 ": %s: reads as ones",
			  bars->pci->name, bar->index, offset, strerror(-r));
	return r == (int)size ? value : io_ones(size);
}

static void bar_write(void *opaque, uint64_t offset, unsigned int size, uint64_t value)
{
	const struct vfio_bar *bar = opaque;
	struct vfio_bars *bars = bar->bars;

	if (msix_write(bars->msix, bar->index, offset, size, value))
		return;
	int r = vfio_device_write(bars->device, bar->index, offset, &value, size);
	if (r < 0)
		log_guest(&bars->pci->budget,
			  "vfio: %s: write bar %u at 0x%" PRIx64 ": %s: nothing written",
			  bars->pci->name, bar->index, offset, strerror(-r));
}

static const struct io_ops bar_ops = { .read = bar_read, .write = bar_write };

/*
 * The ROM is read once, when the guest first looks: most never do, and reading one takes
 * long. Some end before their BAR does. Under rom_lock.
 */
static void load_rom(struct vfio_bars *bars)
{
	uint64_t size = bars->device->regions[VFIO_PCI_ROM_REGION_INDEX].size;
	uint64_t done = 0;
	int r = 0;

	bars->rom = malloc(size);
	if (!bars->rom)
		return;
	memset(bars->rom, 0xff, size);
	while (done < size) {
		r = vfio_device_read(bars->device, VFIO_PCI_ROM_REGION_INDEX, done,
				     bars->rom + done, size - done);
		if (r <= 0)
			break;
		done += (uint64_t)r;
	}
	if (r < 0)
		log_guest(&bars->pci->budget,
			  "vfio: %s: read the ROM at 0x%" PRIx64 ": %s: the rest reads as ones",
			  bars->pci->name, done, strerror(-r));
	if (r < 0 && done == 0) {
		/* It may answer the next time. */
		free(bars->rom);
		bars->rom = NULL;
	}
}

static uint64_t rom_read(void *opaque, uint64_t offset, unsigned int size)
{
	struct vfio_bars *bars = opaque;
	uint64_t value = io_ones(size);

	pthread_mutex_lock(&bars->rom_lock);
	if (!bars->rom)
		load_rom(bars);
	if (bars->rom)
		memcpy(&value, bars->rom + offset, size);
	pthread_mutex_unlock(&bars->rom_lock);
	return value;
}

static void rom_write(void *opaque, uint64_t offset, unsigned int size, uint64_t value)
{
	/* It is read-only. */
	(void)opaque;
	(void)offset;
	(void)size;
	(void)value;
}

static const struct io_ops rom_ops = { .read = rom_read, .write = rom_write };

/*
 * The spans that may be mapped, in whole pages: what the kernel lists, or the whole BAR.
 * Returns how many; there is room for `nr_areas`, or for one.
 */
static unsigned int list_spans(const struct vfio_region *region, struct span *spans)
{
	unsigned int nr = 0;

	if (!region->sparse) {
		spans[0] = (struct span){ .end = align_up(region->size, PAGE_SIZE) };
		return 1;
	}
	for (unsigned int i = 0; i < region->nr_areas; i++) {
		uint64_t offset = region->areas[i].offset;
		uint64_t size = region->areas[i].size;
		if (!range_valid(offset, size) || !range_within(offset, size, 0, region->size))
			continue; /* some kernels list empty ones */
		spans[nr++] = (struct span){
			.start = align_up(offset, PAGE_SIZE),
			.end = align_down(offset + size, PAGE_SIZE),
		};
	}
	return nr;
}

/* Cuts the pages of [offset, offset + size) out of each span; returns how many there are now. */
static unsigned int cut(struct span *spans, unsigned int nr, uint64_t offset, uint64_t size)
{
	uint64_t start = align_down(offset, PAGE_SIZE);
	uint64_t end = align_up(offset + size, PAGE_SIZE);
	unsigned int before = nr;

	for (unsigned int i = 0; i < before; i++) {
		struct span *span = &spans[i];
		if (end <= span->start || span->end <= start)
			continue;
		struct span tail = { .start = end, .end = span->end };
		span->end = start > span->start ? start : span->start;
		if (tail.start < tail.end)
			spans[nr++] = tail;
	}
	return nr;
}

static int map_span(struct vfio_bar *bar, const struct vfio_region *region, struct span span)
{
	struct vfio_area *area = &bar->areas[bar->nr_areas];

	*area = (struct vfio_area){
		.offset = span.start,
		.region = {
			.size = span.end - span.start,
			.kind = MEMORY_DEVICE,
			.name = bar->bars->pci->name,
		},
	};
	int r = vfio_mmap(bar->bars->device->fd, region->offset + span.start, area->region.size,
			  &area->region.host);
	if (r >= 0)
		bar->nr_areas++;
	return r;
}

/*
 * Maps what may be mapped of a memory BAR. Only being out of memory is an error: without its
 * maps a BAR traps.
 */
static int map_areas(struct vfio_bar *bar, const struct vfio_config *config)
{
	const struct vfio_region *region = &bar->bars->device->regions[bar->index];
	const struct msix_config *msix = &config->msix;
	unsigned int most = region->sparse ? region->nr_areas : 1;
	const uint32_t needed = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE |
				VFIO_REGION_INFO_FLAG_MMAP;

	if ((region->flags & needed) != needed || most == 0)
		return 0;
	/* Each of the two cuts makes at most two spans of one. */
	autofree struct span *spans = calloc(most * 4, sizeof(*spans));
	bar->areas = calloc(most * 4, sizeof(*bar->areas));
	if (!spans || !bar->areas)
		return log_err(-ENOMEM, "vfio: %s: map bar %u", bar->bars->pci->name,
			       bar->index);
	unsigned int nr = list_spans(region, spans);
	if (config->has_msix && msix->table_bar == bar->index)
		nr = cut(spans, nr, msix->table_offset, msix->nr_vectors * MSIX_ENTRY_SIZE);
	if (config->has_msix && msix->pba_bar == bar->index)
		nr = cut(spans, nr, msix->pba_offset, (msix->nr_vectors + 63) / 64 * 8);
	for (unsigned int i = 0; i < nr; i++) {
		if (spans[i].start >= spans[i].end)
			continue;
		int r = map_span(bar, region, spans[i]);
		if (r < 0)
			log_warn("vfio: %s: map 0x%" PRIx64 "-0x%" PRIx64
				 " of bar %u: %s: falling back to trapping",
				 bar->bars->pci->name, spans[i].start, spans[i].end, bar->index,
				 strerror(-r));
	}
	return 0;
}

static enum pci_bar_kind kind_of(uint32_t bar_register)
{
	if (bar_register & PCI_BASE_ADDRESS_SPACE_IO)
		return PCI_BAR_IO;
	if ((bar_register & PCI_BASE_ADDRESS_MEM_TYPE_MASK) == PCI_BASE_ADDRESS_MEM_TYPE_64)
		return PCI_BAR_MEM64;
	return PCI_BAR_MEM32;
}

static bool size_possible(unsigned int index, enum pci_bar_kind kind, uint64_t size)
{
	if (!is_power_of_2(size))
		return false;
	if (kind == PCI_BAR_IO)
		return size >= 4 && size <= 65536;
	if (kind == PCI_BAR_MEM64)
		return size >= 16 && index + 1 < VFIO_NR_BARS;
	return size >= 16 && size <= 1ull << 31;
}

static int init_bar(struct vfio_bars *bars, unsigned int index, uint32_t bar_register,
		    const struct vfio_config *config)
{
	struct vfio_bar *bar = &bars->bars[index];
	uint64_t size = bars->device->regions[index].size;
	enum pci_bar_kind kind = kind_of(bar_register);
	enum pci_prefetch prefetch = PCI_NON_PREFETCHABLE;

	if (!size_possible(index, kind, size))
		return log_refuse(-EPROTO, "vfio: %s: bar %u cannot have 0x%" PRIx64 " bytes",
				  bars->pci->name, index, size);
	if (kind != PCI_BAR_IO) {
		if (bar_register & PCI_BASE_ADDRESS_MEM_PREFETCH)
			prefetch = PCI_PREFETCHABLE;
		int r = map_areas(bar, config);
		if (r < 0)
			return r;
		if (bar->nr_areas > 0 && size < PAGE_SIZE)
			size = PAGE_SIZE;
	}
	pci_set_bar(bars->pci, index, kind, prefetch, size, &bar_ops, bar);
	return 0;
}

static void init_rom(struct vfio_bars *bars)
{
	uint64_t size = bars->device->regions[VFIO_PCI_ROM_REGION_INDEX].size;

	if (size == 0)
		return;
	if (!is_power_of_2(size) || size < MIN_ROM_SIZE || size > MAX_ROM_SIZE) {
		log_warn("vfio: %s: a ROM cannot have 0x%" PRIx64 " bytes: hiding it",
			 bars->pci->name, size);
		return;
	}
	pci_set_bar(bars->pci, PCI_ROM, PCI_BAR_MEM32, PCI_NON_PREFETCHABLE, size, &rom_ops,
		    bars);
}

int vfio_bars_init(struct vfio_bars *bars, struct pci_device *pci, struct vfio_device *device,
		   struct msix *msix, struct memory_map *map, const struct vfio_config *config,
		   const uint8_t *bytes)
{
	*bars = (struct vfio_bars){ .pci = pci, .device = device, .msix = msix, .map = map };
	pthread_mutex_init(&bars->rom_lock, NULL);
	for (unsigned int i = 0; i < VFIO_NR_BARS; i++) {
		struct vfio_bar *bar = &bars->bars[i];
		uint32_t bar_register;
		*bar = (struct vfio_bar){ .bars = bars, .index = i };
		if (device->regions[i].size == 0)
			continue; /* not there, or the upper half of the one before */
		memcpy(&bar_register, bytes + PCI_BASE_ADDRESS_0 + 4 * i, sizeof(bar_register));
		int r = init_bar(bars, i, bar_register, config);
		if (r < 0) {
			vfio_bars_finish(bars);
			return r;
		}
	}
	init_rom(bars);
	return 0;
}

void vfio_bars_finish(struct vfio_bars *bars)
{
	if (!bars->pci)
		return;
	for (unsigned int i = 0; i < VFIO_NR_BARS; i++) {
		struct vfio_bar *bar = &bars->bars[i];
		for (unsigned int a = 0; a < bar->nr_areas; a++)
			vfio_munmap(bar->areas[a].region.host, bar->areas[a].region.size);
		free(bar->areas);
	}
	free(bars->rom);
	pthread_mutex_destroy(&bars->rom_lock);
	*bars = (struct vfio_bars){ 0 };
}

void vfio_bars_map(struct vfio_bars *bars, unsigned int index)
{
	if (index >= VFIO_NR_BARS)
		return; /* the ROM always traps */
	struct vfio_bar *bar = &bars->bars[index];
	for (unsigned int i = 0; i < bar->nr_areas; i++) {
		struct vfio_area *area = &bar->areas[i];
		area->region.gpa = bars->pci->bars[index].address + area->offset;
		int r = memory_map_add(bars->map, &area->region);
		if (r < 0)
			log_guest(&bars->pci->budget,
				  "vfio: %s: bar %u at 0x%" PRIx64
				  ": %s: falling back to trapping",
				  bars->pci->name, index, area->region.gpa, strerror(-r));
	}
}

void vfio_bars_unmap(struct vfio_bars *bars, unsigned int index)
{
	if (index >= VFIO_NR_BARS)
		return;
	struct vfio_bar *bar = &bars->bars[index];
	for (unsigned int i = 0; i < bar->nr_areas; i++)
		memory_map_remove(bars->map, &bar->areas[i].region);
}

bool vfio_bars_trap(struct vfio_bars *bars)
{
	bool mapped = false;

	for (unsigned int index = 0; index < VFIO_NR_BARS; index++) {
		const struct vfio_bar *bar = &bars->bars[index];
		for (unsigned int i = 0; i < bar->nr_areas; i++)
			mapped = mapped || list_linked(&bar->areas[i].region.link);
		vfio_bars_unmap(bars, index);
	}
	return mapped;
}
