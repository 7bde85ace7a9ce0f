/* SPDX-License-Identifier: MIT */
#include "tests/fakes/vfio_world.h"

#include <check.h>
#include <dirent.h>
#include <fcntl.h>
#include <string.h>

#include <sys/mman.h>

#include <linux/pci_regs.h>

#include "base/log.h"
#include "base/sanitizer.h"

#define ECAM 0xe0000000ull

struct world world;

static int log_fd = -1;
static int stderr_fd = -1;

static void start_log(void)
{
	stderr_fd = dup(STDERR_FILENO);
	log_fd = memfd_create("log", MFD_CLOEXEC);
	ck_assert_int_ge(log_fd, 0);
	if (__sanitizer_set_report_fd)
		__sanitizer_set_report_fd((void *)(intptr_t)stderr_fd);
	ck_assert_int_ge(dup2(log_fd, STDERR_FILENO), 0);
}

static void stop_log(void)
{
	(void)dup2(stderr_fd, STDERR_FILENO);
	close(stderr_fd);
	close(log_fd);
}

const char *logged(void)
{
	static char text[65536];

	off_t size = lseek(log_fd, 0, SEEK_END);
	ssize_t n = pread(log_fd, text, sizeof(text) - 1, 0);
	ck_assert_int_ge(n, 0);
	ck_assert_int_le(n, size);
	text[n] = '\0';
	ck_assert_int_eq(ftruncate(log_fd, 0), 0);
	(void)lseek(log_fd, 0, SEEK_SET);
	return text;
}

static unsigned int count_fds(void)
{
	unsigned int count = 0;

	DIR *dir = opendir("/proc/self/fd");
	ck_assert_ptr_nonnull(dir);
	while (readdir(dir))
		count++;
	closedir(dir);
	return count;
}

static unsigned int list_length(const struct list_node *list)
{
	unsigned int length = 0;

	for (const struct list_node *n = list->next; n != list; n = n->next)
		length++;
	return length;
}

static void add_ram(void)
{
	ck_assert_int_eq(ram_init(&world.ram, 2 * RAM_SIZE, RAM_ANONYMOUS), 0);
	world.low = (struct memory_region){
		.gpa = 0,
		.size = RAM_SIZE,
		.host = world.ram.host,
		.kind = MEMORY_RAM,
		.ram = &world.ram,
		.name = "low RAM",
	};
	world.high = world.low;
	world.high.gpa = HIGH_RAM;
	world.high.host = (char *)world.ram.host + RAM_SIZE;
	world.high.name = "high RAM";
	ck_assert_int_eq(memory_map_add(&world.map, &world.low), 0);
	ck_assert_int_eq(memory_map_add(&world.map, &world.high), 0);
}

void world_init(void)
{
	const struct pci_windows windows = {
		.io = { .base = 0x6000, .size = 0x1000 },
		.mem32 = { .base = 0xc0000000, .size = 0x10000000 },
		.mem64 = { .base = 1ull << 36, .size = 1ull << 36 },
	};

	static const struct vfio_dma_config inhibits;

	start_log();
	fake_init();
	memory_map_init(&world.map);
	ck_assert_int_eq(reclaim_init(&world.reclaim, &world.map, RECLAIM_INHIBIT, 0), 0);
	io_bus_init(&world.pio);
	io_bus_init(&world.mmio);
	ck_assert_int_eq(pci_bus_init(&world.bus, &world.pio, &world.mmio, &windows, ECAM), 0);
	add_ram();
	vfio_init(&world.vfio, &world.map, &world.reclaim, &fake.wires, &inhibits);
	world.nr_fds = count_fds();
	world.nr_pio = list_length(&world.pio.regions);
	world.nr_mmio = list_length(&world.mmio.regions);
}

void world_coordinate(uint64_t granule, bool map_late)
{
	const struct vfio_dma_config config = { .coordinate = true, .map_late = map_late };

	vfio_finish(&world.vfio);
	memory_map_remove(&world.map, &world.high);
	memory_map_remove(&world.map, &world.low);
	reclaim_finish(&world.reclaim);
	ck_assert_int_eq(reclaim_init(&world.reclaim, &world.map, RECLAIM_INHIBIT, granule), 0);
	ck_assert_int_eq(memory_map_add(&world.map, &world.low), 0);
	ck_assert_int_eq(memory_map_add(&world.map, &world.high), 0);
	vfio_init(&world.vfio, &world.map, &world.reclaim, &fake.wires, &config);
}

void world_finish(void)
{
	vfio_finish(&world.vfio);
	memory_map_remove(&world.map, &world.high);
	memory_map_remove(&world.map, &world.low);
	ram_finish(&world.ram);
	pci_bus_finish(&world.bus);
	io_bus_finish(&world.mmio);
	io_bus_finish(&world.pio);
	reclaim_finish(&world.reclaim);
	memory_map_finish(&world.map);
	fake_finish();
	stop_log();
}

void check_nothing_left(void)
{
	ck_assert_uint_eq(count_fds(), world.nr_fds);
	for (unsigned int i = 0; i < FAKE_MAX; i++) {
		ck_assert_int_eq(fake.containers[i].fd, 0);
		ck_assert_int_eq(fake.groups[i].fd, 0);
		ck_assert_ptr_null(fake.groups[i].container);
		ck_assert_int_eq(fake.devices[i].fd, 0);
	}
	ck_assert_uint_eq(fake.nr_maps, 0);
	ck_assert_uint_eq(fake.nr_shown, 0);
	ck_assert_uint_eq(fake.nr_routes, 0);
	ck_assert_uint_eq(fake.nr_irqfds, 0);
	ck_assert_uint_eq(reclaim_inhibitors(&world.reclaim), 0);
	/* The reclaim's, which was there before. */
	ck_assert_uint_eq(list_length(&world.map.listeners), 1);
	ck_assert_uint_eq(list_length(&world.map.regions), 2);
	ck_assert(list_empty(&world.vfio.groups));
	ck_assert(list_empty(&world.vfio.containers));
	for (unsigned int i = 0; i < PCI_NR_DEVFNS; i++)
		ck_assert_ptr_null(world.bus.devices[i]);
	ck_assert_uint_eq(list_length(&world.pio.regions), world.nr_pio);
	ck_assert_uint_eq(list_length(&world.mmio.regions), world.nr_mmio);
}

static void add_capabilities(struct fake_device *dev)
{
	fake_link_capability(dev, 0, DEV_PM, PCI_CAP_ID_PM);
	dev->pm = DEV_PM;
	dev->writable[DEV_PM + PCI_PM_CTRL] = PCI_PM_CTRL_STATE_MASK;
	fake_link_capability(dev, DEV_PM, DEV_MSI, PCI_CAP_ID_MSI);
	fake_set_16(dev, DEV_MSI + PCI_MSI_FLAGS,
		    PCI_MSI_FLAGS_64BIT | PCI_MSI_FLAGS_MASKBIT | 2 << 1);
	fake_link_capability(dev, DEV_MSI, DEV_MSIX, PCI_CAP_ID_MSIX);
	fake_set_16(dev, DEV_MSIX + PCI_MSIX_FLAGS, DEV_NR_VECTORS - 1);
	fake_set_32(dev, DEV_MSIX + PCI_MSIX_TABLE, DEV_TABLE);
	fake_set_32(dev, DEV_MSIX + PCI_MSIX_PBA, DEV_PBA);
	fake_link_capability(dev, DEV_MSIX, DEV_PCIE, PCI_CAP_ID_EXP);
	fake_set_16(dev, DEV_PCIE + PCI_EXP_FLAGS, 2 | PCI_EXP_TYPE_ENDPOINT << 4);
	fake_set_32(dev, DEV_PCIE + PCI_EXP_DEVCAP, PCI_EXP_DEVCAP_FLR);
	fake_set_32(dev, DEV_PCIE + PCI_EXP_LNKCAP, 0x00011c43);
	fake_set_16(dev, DEV_PCIE + PCI_EXP_LNKSTA, 0x1043);
	fake_set_32(dev, DEV_PCIE + PCI_EXP_LNKCAP2, 0x0000000e);
	fake_link_capability(dev, DEV_PCIE, DEV_VENDOR, PCI_CAP_ID_VNDR);
	memset(dev->writable + DEV_VENDOR + 4, 0xff, 12);
	fake_set_32(dev, 0x100, PCI_EXT_CAP_ID_ERR | 1 << 16 | DEV_EXT_SRIOV << 20);
	fake_set_32(dev, DEV_EXT_SRIOV, PCI_EXT_CAP_ID_SRIOV | 1 << 16 | DEV_EXT_DSN << 20);
	fake_set_32(dev, DEV_EXT_DSN, PCI_EXT_CAP_ID_DSN | 1 << 16);
}

static void add_bars(struct fake_device *dev)
{
	fake_set_bar(dev, 0, PCI_BASE_ADDRESS_MEM_TYPE_64 | PCI_BASE_ADDRESS_MEM_PREFETCH,
		     DEV_BAR0_SIZE, VFIO_REGION_INFO_FLAG_MMAP);
	fake_set_bar(dev, 2, PCI_BASE_ADDRESS_SPACE_IO, DEV_IO_SIZE, 0);
	fake_set_bar(dev, 3, 0, DEV_SMALL_SIZE, VFIO_REGION_INFO_FLAG_MMAP);
	fake_set_bar(dev, 4, PCI_BASE_ADDRESS_MEM_TYPE_64, DEV_SPARSE_SIZE,
		     VFIO_REGION_INFO_FLAG_MMAP);
	dev->regions[4].sparse = true;
	dev->regions[4].nr_areas = 3;
	dev->regions[4].areas[0] =
		(struct vfio_region_sparse_mmap_area){ .offset = 0x1000, .size = 0x2000 };
	dev->regions[4].areas[1] =
		(struct vfio_region_sparse_mmap_area){ .offset = 0x4000, .size = 0 };
	dev->regions[4].areas[2] =
		(struct vfio_region_sparse_mmap_area){ .offset = 0x8000, .size = 0x1000 };
	fake_set_bar(dev, VFIO_PCI_ROM_REGION_INDEX, 0, DEV_ROM_SIZE, 0);
}

struct fake_device *add_whole_device(const char *name, struct fake_group *group)
{
	struct fake_device *dev = fake_add_device(name, group);

	add_capabilities(dev);
	add_bars(dev);
	dev->config[PCI_HEADER_TYPE] = 0x80;
	dev->config[PCI_INTERRUPT_PIN] = 1;
	dev->irqs[VFIO_PCI_INTX_IRQ_INDEX].count = 1;
	dev->irqs[VFIO_PCI_MSI_IRQ_INDEX].count = 4;
	dev->irqs[VFIO_PCI_MSI_IRQ_INDEX].flags = VFIO_IRQ_INFO_NORESIZE;
	dev->irqs[VFIO_PCI_MSIX_IRQ_INDEX].count = DEV_NR_VECTORS;
	dev->irqs[VFIO_PCI_MSIX_IRQ_INDEX].flags = VFIO_IRQ_INFO_NORESIZE;
	dev->irqs[VFIO_PCI_ERR_IRQ_INDEX].count = 1;
	dev->irqs[VFIO_PCI_REQ_IRQ_INDEX].count = 1;
	return dev;
}

static struct fake_device *make_plain(struct fake_device *dev)
{
	dev->regions[VFIO_PCI_CONFIG_REGION_INDEX].size = 256;
	fake_set_bar(dev, 0, 0, 4096, VFIO_REGION_INFO_FLAG_MMAP);
	return dev;
}

struct fake_device *add_plain_device(const char *name, struct fake_group *group)
{
	return make_plain(fake_add_device(name, group));
}

struct fake_device *add_plain_mdev(const char *uuid, struct fake_group *group)
{
	return make_plain(fake_add_mdev(uuid, group));
}

static struct vfio_pci *attach_with(const char *name, enum vfio_balloon balloon)
{
	struct vfio_pci *vp = NULL;

	ck_assert_int_eq(vfio_pci_attach(&world.vfio, &world.bus, name, balloon, &vp), 0);
	ck_assert_ptr_nonnull(vp);
	pci_bus_reset(&world.bus);
	config_write(vp, PCI_COMMAND, 2, PCI_COMMAND_IO | PCI_COMMAND_MEMORY);
	return vp;
}

struct vfio_pci *attach(const char *name)
{
	return attach_with(name, VFIO_BALLOON_INHIBITS);
}

struct vfio_pci *attach_allowing(const char *uuid)
{
	return attach_with(uuid, VFIO_BALLOON_ALLOWED);
}

static uint64_t ecam_address(const struct vfio_pci *vp, unsigned int offset)
{
	return ECAM + ((uint64_t)vp->pci.devfn << 12) + offset;
}

uint32_t config_read(const struct vfio_pci *vp, unsigned int offset, unsigned int size)
{
	return (uint32_t)io_bus_read(&world.mmio, ecam_address(vp, offset), size);
}

void config_write(const struct vfio_pci *vp, unsigned int offset, unsigned int size,
		  uint32_t value)
{
	io_bus_write(&world.mmio, ecam_address(vp, offset), size, value);
}
