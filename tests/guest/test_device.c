/* SPDX-License-Identifier: MIT */
#include "tests/guest/test_device.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include <sys/mman.h>

#include <linux/pci_regs.h>

#include "base/fd.h"

#define INTA 1u

static void raise_intx(struct test_device *d)
{
	pthread_mutex_lock(&d->lock);
	d->intx_asserted = true;
	pthread_mutex_unlock(&d->lock);
	irq_raise(&d->intx);
}

/* The line falls by itself at the EOI, if by then nobody asserts it any more. */
static void clear_intx(struct test_device *d)
{
	pthread_mutex_lock(&d->lock);
	d->intx_asserted = false;
	pthread_mutex_unlock(&d->lock);
}

static void resample_ready(struct event_source *source, uint32_t events)
{
	struct test_device *d = container_of(source, struct test_device, resample);

	(void)events;
	if (!eventfd_take(source->fd))
		return;
	pthread_mutex_lock(&d->lock);
	d->resamples++;
	bool again = d->intx_asserted;
	pthread_mutex_unlock(&d->lock);
	if (again)
		irq_raise(&d->intx);
}

static void remember_write(struct test_bar *bar, uint64_t offset, unsigned int size,
			   uint64_t value)
{
	struct test_device *d = bar->device;

	pthread_mutex_lock(&d->lock);
	memcpy(bar->bytes + offset, &value, size);
	if (bar->index != TEST_BAR_REGISTERS) {
		d->last_bar = bar->index;
		d->last_offset = (uint32_t)offset;
		d->last_size = size;
		d->last_value = value;
		d->nr_writes++;
	}
	pthread_mutex_unlock(&d->lock);
}

/* Under lock. */
static void show_registers(struct test_device *d)
{
	const struct {
		unsigned int offset;
		uint32_t value;
	} registers[] = {
		{ TEST_RESAMPLES, d->resamples },     { TEST_LAST_BAR, d->last_bar },
		{ TEST_LAST_OFFSET, d->last_offset }, { TEST_LAST_SIZE, d->last_size },
		{ TEST_NR_WRITES, d->nr_writes },     { TEST_RESETS, d->resets },
	};

	for (unsigned int i = 0; i < nitems(registers); i++)
		memcpy(d->registers + registers[i].offset, &registers[i].value, 4);
	memcpy(d->registers + TEST_LAST_VALUE, &d->last_value, 8);
}

static uint64_t test_bar_read(void *opaque, uint64_t offset, unsigned int size)
{
	struct test_bar *bar = opaque;
	struct test_device *d = bar->device;
	uint32_t identity = TEST_IDENTITY(d->slot, bar->index);
	uint64_t value = 0;

	if (msix_read(&d->msix, bar->index, offset, size, &value))
		return value;
	pthread_mutex_lock(&d->lock);
	if (bar->index == TEST_BAR_REGISTERS)
		show_registers(d);
	memcpy(bar->bytes, &identity, sizeof(identity));
	memcpy(&value, bar->bytes + offset, size);
	pthread_mutex_unlock(&d->lock);
	return value;
}

static void test_bar_write(void *opaque, uint64_t offset, unsigned int size, uint64_t value)
{
	struct test_bar *bar = opaque;
	struct test_device *d = bar->device;

	if (msix_write(&d->msix, bar->index, offset, size, value))
		return;
	remember_write(bar, offset, size, value);
	if (bar->index != TEST_BAR_REGISTERS || size != 4)
		return;
	switch (offset) {
	case TEST_RAISE_MSIX: msix_raise(&d->msix, (unsigned int)value); break;
	case TEST_SET_INTX: raise_intx(d); break;
	case TEST_CLEAR_INTX: clear_intx(d); break;
	default: break;
	}
}

static const struct io_ops test_bar_ops = { .read = test_bar_read, .write = test_bar_write };

static void test_config_write(struct pci_device *pci, unsigned int offset, unsigned int size,
			      uint32_t value)
{
	struct test_device *d = container_of(pci, struct test_device, pci);

	pci_config_write(pci, offset, size, value);
	msix_control_changed(&d->msix);
}

/* Whatever was behind the map is gone. -errno. */
static int put_behind_map(struct test_device *d, int protection)
{
	void *p = mmap(d->mapped.host, d->mapped.size, protection,
		       MAP_PRIVATE | MAP_ANONYMOUS | (d->mapped.host ? MAP_FIXED : 0), -1, 0);

	if (p == MAP_FAILED)
		return -errno;
	d->mapped.host = p;
	return 0;
}

static void test_bar_mapped(struct pci_device *pci, unsigned int bar)
{
	struct test_device *d = container_of(pci, struct test_device, pci);
	uint32_t *words = d->mapped.host;

	if (bar != TEST_BAR_MAPPED || put_behind_map(d, PROT_READ | PROT_WRITE) < 0)
		return;
	words[0] = TEST_IDENTITY(d->slot, bar);
	words[TEST_MAPPED_WORD / 4] = TEST_MAPPED;
	d->mapped.gpa = pci->bars[bar].address;
	if (memory_map_add(d->map, &d->mapped) < 0)
		(void)log_err(0, "test device: map at 0x%" PRIx64, d->mapped.gpa);
}

static void test_bar_unmapped(struct pci_device *pci, unsigned int bar)
{
	struct test_device *d = container_of(pci, struct test_device, pci);

	if (bar != TEST_BAR_MAPPED)
		return;
	memory_map_remove(d->map, &d->mapped);
	if (put_behind_map(d, PROT_NONE) < 0)
		(void)log_err(-errno, "test device: what is behind its map stays");
}

static void test_reset(struct pci_device *pci)
{
	struct test_device *d = container_of(pci, struct test_device, pci);

	msix_reset(&d->msix);
	clear_intx(d);
	pthread_mutex_lock(&d->lock);
	d->resets++;
	pthread_mutex_unlock(&d->lock);
	memset(pci->config + TEST_CONFIG_SCRATCH, 0, TEST_CONFIG_SCRATCH_SIZE);
	memset(pci->config + TEST_CONFIG_EXTENDED, 0, TEST_CONFIG_EXTENDED_SIZE);
}

static const struct pci_device_ops test_device_ops = {
	.config_write = test_config_write,
	.bar_mapped = test_bar_mapped,
	.bar_unmapped = test_bar_unmapped,
	.reset = test_reset,
};

static void declare_bars(struct test_device *d)
{
	const struct {
		unsigned int index;
		enum pci_bar_kind kind;
		enum pci_prefetch prefetch;
		uint64_t size;
		uint8_t *bytes;
	} bars[] = {
		{ TEST_BAR_REGISTERS, PCI_BAR_MEM32, PCI_NON_PREFETCHABLE,
		  TEST_BAR_REGISTERS_SIZE, d->registers },
		{ TEST_BAR_IO, PCI_BAR_IO, PCI_NON_PREFETCHABLE, TEST_BAR_IO_SIZE, d->io },
		{ TEST_BAR_WIDE, PCI_BAR_MEM64, PCI_PREFETCHABLE, TEST_BAR_WIDE_SIZE, d->wide },
		{ TEST_BAR_OTHER, PCI_BAR_MEM32, PCI_NON_PREFETCHABLE, TEST_BAR_OTHER_SIZE,
		  d->other },
		{ TEST_BAR_MAPPED, PCI_BAR_MEM32, PCI_NON_PREFETCHABLE, TEST_BAR_MAPPED_SIZE,
		  d->trapped },
	};

	for (unsigned int i = 0; i < nitems(bars); i++) {
		struct test_bar *bar = &d->bars[bars[i].index];
		*bar = (struct test_bar){ d, bars[i].index, bars[i].bytes };
		pci_set_bar(&d->pci, bars[i].index, bars[i].kind, bars[i].prefetch,
			    bars[i].size, &test_bar_ops, bar);
	}
}

int test_device_init(struct test_device *d, struct pci_bus *bus, struct memory_map *map,
		     struct wires *wires, struct event_loop *loop, unsigned int slot)
{
	const struct msix_config msix = {
		.cap_offset = TEST_MSIX_CAP,
		.nr_vectors = TEST_MSIX_VECTORS,
		.table_bar = TEST_BAR_WIDE,
		.table_offset = TEST_MSIX_TABLE,
		.pba_bar = TEST_BAR_WIDE,
		.pba_offset = TEST_MSIX_PBA,
	};

	*d = (struct test_device){
		.loop = loop,
		.map = map,
		.mapped = { .size = TEST_BAR_MAPPED_SIZE,
			    .kind = MEMORY_DEVICE,
			    .name = "test device" },
		.slot = slot,
		.resample.fd = -1,
	};
	pthread_mutex_init(&d->lock, NULL);
	pci_device_init(&d->pci, &test_device_ops, "test device", TEST_VENDOR, TEST_DEVICE,
			TEST_CLASS);
	d->pci.config[PCI_INTERRUPT_PIN] = INTA;
	memset(d->pci.writable + TEST_CONFIG_SCRATCH, 0xff, TEST_CONFIG_SCRATCH_SIZE);
	memset(d->pci.writable + TEST_CONFIG_EXTENDED, 0xff, TEST_CONFIG_EXTENDED_SIZE);
	declare_bars(d);
	pci_add_capability(&d->pci, PCI_CAP_ID_MSIX, TEST_MSIX_CAP);
	int r = put_behind_map(d, PROT_NONE);
	if (r >= 0)
		r = msix_init(&d->msix, &d->pci, wires, &msix, NULL);
	if (r >= 0)
		r = pci_bus_add(bus, &d->pci, PCI_DEVFN(slot, 0));
	if (r >= 0)
		r = irq_init(&d->intx, wires);
	if (r >= 0)
		r = irq_connect_level(&d->intx, pci_intx_gsi(&d->pci, INTA));
	if (r >= 0) {
		d->resample = (struct event_source){ d->intx.resample_fd, resample_ready };
		r = event_loop_add(loop, &d->resample, EPOLLIN);
	}
	if (r < 0)
		test_device_finish(d);
	return r;
}

void test_device_finish(struct test_device *d)
{
	if (!d->loop)
		return;
	if (d->resample.fd >= 0)
		event_loop_remove(d->loop, &d->resample);
	pci_bus_remove(&d->pci);
	msix_finish(&d->msix);
	irq_finish(&d->intx);
	if (d->mapped.host)
		(void)munmap(d->mapped.host, d->mapped.size);
	pthread_mutex_destroy(&d->lock);
	*d = (struct test_device){ 0 };
}
