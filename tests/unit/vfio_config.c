/* SPDX-License-Identifier: MIT */
/* The config space a guest sees: what is passed, what is emulated, power, reset. */
#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <linux/pci_regs.h>

#include "tests/fakes/vfio_world.h"

#define NAME "0000:01:00.0"
#define ONES UINT32_MAX
#define DECODE (PCI_COMMAND_IO | PCI_COMMAND_MEMORY)

static struct fake_device *dev;
static struct vfio_pci *vp;

static void setup(void)
{
	world_init();
	dev = add_whole_device(NAME, fake_add_group(7));
	vp = attach(NAME);
	(void)logged();
	fake_forget_record();
}

static void teardown(void)
{
	vfio_pci_detach(vp);
	check_nothing_left();
	world_finish();
}

/* Attaches anew, after the test has changed the device. */
static void attach_again(void)
{
	vfio_pci_detach(vp);
	vp = NULL;
	vp = attach(NAME);
}

static void expect_refusal(int error, const char *text)
{
	vfio_pci_detach(vp);
	(void)logged();
	int r = vfio_pci_attach(&world.vfio, &world.bus, NAME, VFIO_BALLOON_INHIBITS, &vp);
	ck_assert_int_eq(r, error);
	ck_assert_ptr_nonnull(strstr(logged(), text));
	check_nothing_left();
	vp = NULL;
}

/* Finds a capability as a guest does; 0: not there. */
static unsigned int find_capability(uint8_t id)
{
	unsigned int at = config_read(vp, PCI_CAPABILITY_LIST, 1);

	for (unsigned int i = 0; at != 0; i++) {
		ck_assert_uint_lt(i, 48);
		if (config_read(vp, at, 1) == id)
			return at;
		at = config_read(vp, at + 1, 1);
	}
	return 0;
}

static unsigned int find_extended(uint16_t id)
{
	unsigned int at = 0x100;

	for (unsigned int i = 0; at >= 0x100; i++) {
		ck_assert_uint_lt(i, 960);
		uint32_t header = config_read(vp, at, 4);
		if (PCI_EXT_CAP_ID(header) == id)
			return at;
		at = PCI_EXT_CAP_NEXT(header);
	}
	return 0;
}

static bool bar_decoded(void)
{
	return memory_map_find(&world.map, vp->bars.bars[0].areas[0].region.gpa, 4096) !=
		       NULL &&
	       vp->pci.bars[0].address != PCI_UNMAPPED;
}

START_TEST(ids_are_the_devices)
{
	ck_assert_uint_eq(config_read(vp, PCI_VENDOR_ID, 4), 0x11e81234);
}
END_TEST

START_TEST(a_function_stands_alone_in_its_slot)
{
	ck_assert_uint_eq(dev->config[PCI_HEADER_TYPE], 0x80);
	ck_assert_uint_eq(config_read(vp, PCI_HEADER_TYPE, 1), 0);
}
END_TEST

START_TEST(bars_are_the_guests_and_not_the_hosts)
{
	fake_set_32(dev, PCI_BASE_ADDRESS_0, 0xdead000c);
	attach_again();
	ck_assert_uint_eq(config_read(vp, PCI_BASE_ADDRESS_0, 4) & 0xf, 0xc);
	config_write(vp, PCI_BASE_ADDRESS_0, 4, ONES);
	config_write(vp, PCI_BASE_ADDRESS_0 + 4, 4, ONES);
	ck_assert_uint_eq(config_read(vp, PCI_BASE_ADDRESS_0, 4),
			  (uint32_t) ~(DEV_BAR0_SIZE - 1) | 0xc);
	ck_assert_uint_eq(config_read(vp, PCI_BASE_ADDRESS_0 + 4, 4), ONES);
	ck_assert_uint_eq(fake_count("config_write " NAME " 0x10"), 0);
	ck_assert_uint_eq(fake_count("config_write " NAME " 0x14"), 0);
}
END_TEST

/* Addresses like those that sizing leaves behind for a moment lie in no window. */
START_TEST(sizing_with_decode_on_maps_nothing)
{
	ck_assert(bar_decoded());
	unsigned int nr = fake.containers[0].nr_mappings;
	config_write(vp, PCI_BASE_ADDRESS_0, 4, ONES);
	config_write(vp, PCI_BASE_ADDRESS_0 + 4, 4, ONES);
	ck_assert_uint_eq(vp->pci.bars[0].address, PCI_UNMAPPED);
	ck_assert_uint_lt(fake.containers[0].nr_mappings, nr);
	config_write(vp, PCI_BASE_ADDRESS_0, 4, 0);
	config_write(vp, PCI_BASE_ADDRESS_0 + 4, 4, 0x10);
	ck_assert(bar_decoded());
	ck_assert_uint_eq(fake.containers[0].nr_mappings, nr);
}
END_TEST

START_TEST(a_bar_over_ram_is_not_decoded)
{
	config_write(vp, PCI_BASE_ADDRESS_0, 4, 0);
	config_write(vp, PCI_BASE_ADDRESS_0 + 4, 4, 0);
	ck_assert_uint_eq(vp->pci.bars[0].address, PCI_UNMAPPED);
	ck_assert_ptr_eq(memory_map_find(&world.map, 0, 4096), &world.low);
}
END_TEST

START_TEST(status_bits_are_cleared_in_the_device)
{
	dev->writable[PCI_STATUS + 1] = 0xf9;
	config_write(vp, PCI_STATUS, 2, 0xf900);
	ck_assert_uint_eq(fake_count("config_write " NAME " 0x6 2 0xf900"), 1);
	ck_assert_uint_ne(config_read(vp, PCI_STATUS, 2) & PCI_STATUS_CAP_LIST, 0);
}
END_TEST

START_TEST(memory_off_unmaps_before_the_device_hears_of_it)
{
	config_write(vp, PCI_COMMAND, 2, PCI_COMMAND_IO);
	ck_assert(!bar_decoded());
	ck_assert_int_ge(fake_last("unmap c0 0x1"), 0);
	ck_assert_int_lt(fake_last("unmap c0 0x1"),
			 fake_first("config_write " NAME " 0x4 2 0x1"));
	ck_assert_uint_eq(config_read(vp, PCI_COMMAND, 2) & DECODE, PCI_COMMAND_IO);
}
END_TEST

START_TEST(memory_on_maps_after_the_device_has_heard_of_it)
{
	config_write(vp, PCI_COMMAND, 2, 0);
	fake_forget_record();
	config_write(vp, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
	ck_assert(bar_decoded());
	ck_assert_int_ge(fake_first("config_write " NAME " 0x4 2 0x2"), 0);
	ck_assert_int_lt(fake_first("config_write " NAME " 0x4 2 0x2"),
			 fake_first("map c0 0x1"));
}
END_TEST

START_TEST(a_byte_and_a_dword_do_the_same_to_command)
{
	config_write(vp, PCI_COMMAND, 1, 0);
	ck_assert(!bar_decoded());
	config_write(vp, PCI_COMMAND, 4, PCI_COMMAND_MEMORY);
	ck_assert(bar_decoded());
	config_write(vp, PCI_COMMAND + 1, 1, 0xff);
	ck_assert(bar_decoded());
	ck_assert_uint_ne(config_read(vp, PCI_COMMAND, 2) & PCI_COMMAND_INTX_DISABLE, 0);
}
END_TEST

START_TEST(memory_that_the_device_did_not_switch_on_is_not_mapped)
{
	config_write(vp, PCI_COMMAND, 2, 0);
	dev->config_dead = true;
	config_write(vp, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
	ck_assert(!bar_decoded());
	dev->config_dead = false;
	ck_assert_uint_eq(config_read(vp, PCI_COMMAND, 2) & PCI_COMMAND_MEMORY, 0);
}
END_TEST

START_TEST(bus_mastering_is_the_devices)
{
	config_write(vp, PCI_COMMAND, 2, PCI_COMMAND_MASTER);
	ck_assert_uint_ne(fake_get_16(dev, PCI_COMMAND) & PCI_COMMAND_MASTER, 0);
	ck_assert_uint_ne(config_read(vp, PCI_COMMAND, 2) & PCI_COMMAND_MASTER, 0);
	fake_set_16(dev, PCI_COMMAND, 0);
	ck_assert_uint_eq(config_read(vp, PCI_COMMAND, 2) & PCI_COMMAND_MASTER, 0);
}
END_TEST

/* On a virtual function memory decode is on whatever its bit says. */
START_TEST(decode_bits_read_as_the_guest_wrote_them)
{
	fake_set_16(dev, PCI_COMMAND, 0);
	ck_assert_uint_eq(config_read(vp, PCI_COMMAND, 2) & DECODE, DECODE);
}
END_TEST

START_TEST(a_vendor_capability_is_passed_through)
{
	ck_assert_uint_eq(find_capability(PCI_CAP_ID_VNDR), DEV_VENDOR);
	config_write(vp, DEV_VENDOR + 4, 4, 0x11223344);
	ck_assert_uint_eq(config_read(vp, DEV_VENDOR + 4, 4), 0x11223344);
	dev->config[DEV_VENDOR + 5] = 0x99;
	ck_assert_uint_eq(config_read(vp, DEV_VENDOR + 5, 1), 0x99);
}
END_TEST

START_TEST(capabilities_keep_their_places)
{
	ck_assert_uint_eq(find_capability(PCI_CAP_ID_PM), DEV_PM);
	ck_assert_uint_eq(find_capability(PCI_CAP_ID_MSI), DEV_MSI);
	ck_assert_uint_eq(find_capability(PCI_CAP_ID_MSIX), DEV_MSIX);
	ck_assert_uint_eq(find_capability(PCI_CAP_ID_EXP), DEV_PCIE);
	ck_assert_uint_eq(config_read(vp, PCI_CAPABILITY_LIST, 1), DEV_PM);
}
END_TEST

START_TEST(an_endpoint_is_shown_integrated_and_without_a_link)
{
	uint32_t flags = config_read(vp, DEV_PCIE + PCI_EXP_FLAGS, 2);

	ck_assert_uint_eq((flags & PCI_EXP_FLAGS_TYPE) >> 4, PCI_EXP_TYPE_RC_END);
	ck_assert_uint_eq(flags & PCI_EXP_FLAGS_VERS, 2);
	ck_assert_uint_eq(config_read(vp, DEV_PCIE + PCI_EXP_LNKCAP, 4), 0);
	ck_assert_uint_eq(config_read(vp, DEV_PCIE + PCI_EXP_LNKCTL, 4), 0);
	ck_assert_uint_eq(config_read(vp, DEV_PCIE + PCI_EXP_LNKCAP2, 4), 0);
	ck_assert_uint_ne(config_read(vp, DEV_PCIE + PCI_EXP_DEVCAP, 4) & PCI_EXP_DEVCAP_FLR,
			  0);
	config_write(vp, DEV_PCIE + PCI_EXP_LNKCTL, 2, 3);
	ck_assert_uint_eq(fake_count("config_write"), 0);
}
END_TEST

START_TEST(version_0_of_pci_express_is_shown_as_1)
{
	fake_set_16(dev, DEV_PCIE + PCI_EXP_FLAGS, PCI_EXP_TYPE_ENDPOINT << 4);
	attach_again();
	ck_assert_uint_eq(config_read(vp, DEV_PCIE + PCI_EXP_FLAGS, 2) & PCI_EXP_FLAGS_VERS, 1);
}
END_TEST

START_TEST(a_legacy_endpoint_is_shown_as_a_conventional_device)
{
	fake_set_16(dev, DEV_PCIE + PCI_EXP_FLAGS, 2 | PCI_EXP_TYPE_LEG_END << 4);
	attach_again();
	ck_assert_uint_eq(find_capability(PCI_CAP_ID_EXP), 0);
	ck_assert_uint_eq(find_capability(PCI_CAP_ID_VNDR), DEV_VENDOR);
	ck_assert_uint_eq(config_read(vp, 0x100, 4), 0);
}
END_TEST

START_TEST(a_port_is_refused)
{
	fake_set_16(dev, DEV_PCIE + PCI_EXP_FLAGS, 2 | PCI_EXP_TYPE_ROOT_PORT << 4);
	expect_refusal(-EOPNOTSUPP, "port of type 4, not an endpoint");
}
END_TEST

START_TEST(virtual_functions_are_not_the_guests_to_make)
{
	ck_assert_uint_eq(find_extended(PCI_EXT_CAP_ID_SRIOV), 0);
	ck_assert_uint_eq(find_extended(PCI_EXT_CAP_ID_ERR), 0x100);
	ck_assert_uint_eq(find_extended(PCI_EXT_CAP_ID_DSN), DEV_EXT_DSN);
}
END_TEST

START_TEST(a_hidden_first_extended_capability_leaves_an_empty_link)
{
	fake_set_32(dev, 0x100, PCI_EXT_CAP_ID_ARI | 1 << 16 | DEV_EXT_SRIOV << 20);
	attach_again();
	ck_assert_uint_eq(config_read(vp, 0x100, 4), (uint32_t)DEV_EXT_DSN << 20);
	ck_assert_uint_eq(find_extended(PCI_EXT_CAP_ID_DSN), DEV_EXT_DSN);
}
END_TEST

START_TEST(a_ring_of_capabilities_is_cut)
{
	dev->config[DEV_VENDOR + 1] = DEV_MSI;
	attach_again();
	ck_assert_ptr_nonnull(strstr(logged(), "runs in a ring at 0x50"));
	ck_assert_uint_eq(find_capability(PCI_CAP_ID_VNDR), DEV_VENDOR);
	ck_assert_uint_eq(find_capability(0x7f), 0);
}
END_TEST

START_TEST(a_capability_that_points_to_itself_is_cut)
{
	dev->config[DEV_PM + 1] = DEV_PM;
	attach_again();
	ck_assert_uint_eq(find_capability(PCI_CAP_ID_PM), DEV_PM);
	ck_assert_uint_eq(find_capability(PCI_CAP_ID_MSI), 0);
}
END_TEST

START_TEST(a_ring_of_extended_capabilities_is_cut)
{
	fake_set_32(dev, DEV_EXT_DSN, PCI_EXT_CAP_ID_DSN | 1 << 16 | 0x100u << 20);
	attach_again();
	ck_assert_ptr_nonnull(
		strstr(logged(), "extended capability list runs in a ring at 0x100"));
	ck_assert_uint_eq(find_extended(0x7ff), 0);
}
END_TEST

/* Loop over the capabilities that we take apart. */
START_TEST(a_capability_that_does_not_fit_is_hidden)
{
	static const uint8_t ids[] = { PCI_CAP_ID_MSI, PCI_CAP_ID_MSIX, PCI_CAP_ID_PM,
				       PCI_CAP_ID_EXP };

	dev->config[PCI_CAPABILITY_LIST] = 0xfc;
	dev->config[0xfc] = ids[_i];
	dev->config[0xfd] = 0;
	fake_set_16(dev, 0xfe, 0x0180);
	attach_again();
	ck_assert_uint_eq(find_capability(ids[_i]), 0);
	char line[96];
	(void)snprintf(line, sizeof(line),
		       "capability 0x%x at 0xfc is longer than its place: hiding it", ids[_i]);
	ck_assert_ptr_nonnull(strstr(logged(), line));
}
END_TEST

/* Another capability, at `offset`, next in the list after that at `previous`. */
static void put_link_after(unsigned int previous, unsigned int offset)
{
	dev->config[offset + 1] = dev->config[previous + 1];
	fake_link_capability(dev, previous, offset, PCI_CAP_ID_AF);
	attach_again();
}

/* Its registers would be another's header, for the guest to write. */
START_TEST(a_capability_over_the_next_is_hidden)
{
	static const struct {
		unsigned int at;
		uint8_t id;
	} cases[] = {
		{ DEV_PM, PCI_CAP_ID_PM },
		{ DEV_MSI, PCI_CAP_ID_MSI },
		{ DEV_MSIX, PCI_CAP_ID_MSIX },
		{ DEV_PCIE, PCI_CAP_ID_EXP },
	};

	for (unsigned int i = 0; i < nitems(cases); i++) {
		uint8_t whole[256];
		memcpy(whole, dev->config, sizeof(whole));
		ck_assert_uint_eq(find_capability(cases[i].id), cases[i].at);
		put_link_after(cases[i].at, cases[i].at + 4);
		ck_assert_uint_eq(find_capability(cases[i].id), 0);
		ck_assert_uint_eq(find_capability(PCI_CAP_ID_AF), cases[i].at + 4);
		config_write(vp, cases[i].at + 4, 4, ONES);
		ck_assert_uint_eq(find_capability(PCI_CAP_ID_AF), cases[i].at + 4);
		memcpy(dev->config, whole, sizeof(whole));
		attach_again();
	}
}
END_TEST

START_TEST(a_capability_may_end_where_the_next_begins)
{
	static const struct {
		unsigned int at;
		uint8_t id;
		unsigned int size;
		uint16_t msi_flags;
	} cases[] = {
		{ DEV_PM, PCI_CAP_ID_PM, 8, 0 },
		{ DEV_MSI, PCI_CAP_ID_MSI, 12, 0 },
		{ DEV_MSI, PCI_CAP_ID_MSI, 16, PCI_MSI_FLAGS_64BIT },
		{ DEV_MSI, PCI_CAP_ID_MSI, 20, PCI_MSI_FLAGS_MASKBIT },
		{ DEV_MSI, PCI_CAP_ID_MSI, 24, PCI_MSI_FLAGS_64BIT | PCI_MSI_FLAGS_MASKBIT },
		{ DEV_MSIX, PCI_CAP_ID_MSIX, 12, 0 },
		{ DEV_PCIE, PCI_CAP_ID_EXP, 8, 0 },
	};
	uint8_t whole[256];

	memcpy(whole, dev->config, sizeof(whole));
	for (unsigned int i = 0; i < nitems(cases); i++) {
		fake_set_16(dev, DEV_MSI + PCI_MSI_FLAGS, cases[i].msi_flags);
		put_link_after(cases[i].at, cases[i].at + cases[i].size);
		ck_assert_uint_eq(find_capability(cases[i].id), cases[i].at);
		ck_assert_uint_eq(find_capability(PCI_CAP_ID_AF), cases[i].at + cases[i].size);
		config_write(vp, cases[i].at + cases[i].size, 4, ONES);
		ck_assert_uint_eq(find_capability(PCI_CAP_ID_AF), cases[i].at + cases[i].size);
		memcpy(dev->config, whole, sizeof(whole));
	}
}
END_TEST

START_TEST(msi_that_the_kernel_does_not_serve_is_not_shown)
{
	dev->irqs[VFIO_PCI_MSI_IRQ_INDEX].count = 0;
	dev->irqs[VFIO_PCI_MSIX_IRQ_INDEX].count = 0;
	attach_again();
	ck_assert_uint_eq(find_capability(PCI_CAP_ID_MSI), 0);
	ck_assert_uint_eq(find_capability(PCI_CAP_ID_MSIX), 0);
	ck_assert_uint_eq(find_capability(PCI_CAP_ID_VNDR), DEV_VENDOR);
}
END_TEST

START_TEST(the_hosts_msi_is_never_written)
{
	for (unsigned int at = DEV_MSI; at < DEV_MSI + 24; at += 4)
		config_write(vp, at, 4, ONES);
	for (unsigned int at = DEV_MSIX; at < DEV_MSIX + 12; at += 4)
		config_write(vp, at, 4, ONES);
	ck_assert_uint_eq(fake_count("config_write"), 0);
}
END_TEST

START_TEST(a_device_that_stops_answering_reads_as_ones)
{
	dev->config_dead = true;
	ck_assert_uint_eq(config_read(vp, PCI_VENDOR_ID, 4), ONES);
	ck_assert_uint_eq(config_read(vp, PCI_COMMAND, 2), 0xffff);
	ck_assert_uint_eq(config_read(vp, DEV_VENDOR + 4, 1), 0xff);
	ck_assert_ptr_nonnull(strstr(logged(), "reads as ones"));
}
END_TEST

START_TEST(a_guest_cannot_fill_the_log_with_it)
{
	dev->config_dead = true;
	for (unsigned int i = 0; i < 10000; i++) {
		(void)config_read(vp, PCI_VENDOR_ID, 4);
		config_write(vp, DEV_VENDOR + 4, 4, i);
	}
	const char *text = logged();
	unsigned int lines = 0;
	for (const char *at = strchr(text, '\n'); at; at = strchr(at + 1, '\n'))
		lines++;
	ck_assert_uint_le(lines, LOG_GUEST_BURST + 1);
}
END_TEST

START_TEST(d3_unmaps_before_the_device_hears_of_it_and_d0_maps_after)
{
	ck_assert(bar_decoded());
	config_write(vp, DEV_PM + PCI_PM_CTRL, 2, 3);
	ck_assert(!bar_decoded());
	ck_assert_int_lt(fake_last("unmap c0 0x1"),
			 fake_first("config_write " NAME " 0x44 2 0x3"));
	ck_assert_uint_eq(config_read(vp, DEV_PM + PCI_PM_CTRL, 2) & PCI_PM_CTRL_STATE_MASK, 3);
	ck_assert_uint_eq(io_bus_read(&world.mmio, world.bus.windows.mem64.base, 4), ONES);
	fake_forget_record();
	config_write(vp, DEV_PM + PCI_PM_CTRL, 2, 0);
	ck_assert(bar_decoded());
	ck_assert_int_lt(fake_first("config_write " NAME " 0x44 2 0x0"),
			 fake_first("map c0 0x1"));
}
END_TEST

START_TEST(d3_that_the_device_refuses_leaves_it_on)
{
	dev->no_d3 = true;
	config_write(vp, DEV_PM + PCI_PM_CTRL, 4, 3);
	ck_assert(bar_decoded());
}
END_TEST

START_TEST(memory_switched_on_in_d3_is_mapped_in_d0)
{
	config_write(vp, PCI_COMMAND, 2, 0);
	config_write(vp, DEV_PM + PCI_PM_CTRL, 1, 3);
	config_write(vp, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
	ck_assert(!bar_decoded());
	config_write(vp, DEV_PM + PCI_PM_CTRL, 1, 0);
	ck_assert(bar_decoded());
}
END_TEST

/*
 * Whatever is written wherever, nobody crashes, the guest's RAM stays where it is, and the
 * device's BARs, ROM and MSI registers hear nothing of it.
 */
START_TEST(writes_of_every_size_at_every_offset_are_survived)
{
	static const uint32_t values[] = { 0, ONES, 0x55555555, 0xaaaaaaaa, 0x80000001 };
	unsigned int seed = 1;

	memset(dev->writable, 0xff, sizeof(dev->writable));
	for (unsigned int size = 1; size <= 4; size *= 2) {
		for (unsigned int at = 0; at < PCI_CONFIG_SIZE; at += size) {
			for (unsigned int v = 0; v <= nitems(values); v++) {
				uint32_t value = v < nitems(values)
							 ? values[v]
							 : seed * 1664525u + 1013904223u;
				seed = value;
				fake_forget_record();
				config_write(vp, at, size, value);
				(void)config_read(vp, at, size);
				bool ours = (at >= 0x10 && at < 0x28) ||
					    (at >= 0x30 && at < 0x34) ||
					    (at >= DEV_MSI && at < DEV_MSI + 24) ||
					    (at >= DEV_MSIX && at < DEV_MSIX + 12);
				ck_assert(!ours || fake_count("config_write") == 0);
			}
		}
	}
	ck_assert_ptr_eq(memory_map_find(&world.map, 0, RAM_SIZE), &world.low);
	ck_assert_ptr_eq(memory_map_find(&world.map, HIGH_RAM, RAM_SIZE), &world.high);
	pci_bus_reset(&world.bus);
}
END_TEST

START_TEST(the_function_is_reset_at_start_and_only_once)
{
	vfio_pci_detach(vp);
	fake_forget_record();
	vp = attach(NAME); /* resets the bus as well, as every start does */
	ck_assert_uint_eq(fake_count("reset " NAME), 1);
	ck_assert_int_lt(fake_first("config_write " NAME " 0x4"), fake_first("reset " NAME));
}
END_TEST

START_TEST(a_guest_reset_resets_the_function)
{
	config_write(vp, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	config_write(vp, DEV_PM + PCI_PM_CTRL, 2, 3);
	fake_forget_record();
	pci_bus_reset(&world.bus);
	ck_assert_uint_eq(fake_count("reset " NAME), 1);
	/* Interrupts, DMA and decode are off, and it is in D0, when it happens. */
	ck_assert_int_lt(fake_first("irq_disable " NAME " 0"), fake_first("config_write"));
	ck_assert_int_lt(fake_last("config_write"), fake_first("reset"));
	ck_assert_uint_eq(fake_get_16(dev, PCI_COMMAND), 0);
	ck_assert_uint_eq(dev->config[DEV_PM + PCI_PM_CTRL] & PCI_PM_CTRL_STATE_MASK, 0);
	ck_assert_uint_eq(config_read(vp, PCI_COMMAND, 2), 0);
	config_write(vp, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
	ck_assert(bar_decoded());
}
END_TEST

START_TEST(many_resets_leave_nothing_behind)
{
	unsigned int nr = fake.containers[0].nr_mappings;

	for (unsigned int i = 0; i < 100; i++) {
		pci_bus_reset(&world.bus);
		ck_assert_uint_eq(fake.containers[0].nr_mappings, 2);
		config_write(vp, PCI_COMMAND, 2, DECODE);
		ck_assert_uint_eq(fake.containers[0].nr_mappings, nr);
	}
}
END_TEST

START_TEST(a_device_that_cannot_be_reset_is_told_of_and_used)
{
	dev->no_reset = true;
	attach_again();
	ck_assert_ptr_nonnull(strstr(logged(), "no kind of reset works"));
}
END_TEST

static void affect(unsigned int group, uint8_t bus, uint8_t devfn)
{
	dev->affected[dev->nr_affected++] = (struct vfio_pci_dependent_device){
		.group_id = group, .bus = bus, .devfn = devfn
	};
}

START_TEST(a_bus_reset_does_where_no_function_reset_is)
{
	dev->no_reset = true;
	dev->can_hot_reset = true;
	affect(7, 1, 0);
	affect(7, 1, 1); /* of our group, and not in use */
	fake_forget_record();
	attach_again();
	ck_assert_uint_eq(fake_count("hot_reset " NAME " with 1 groups"), 1);
}
END_TEST

START_TEST(a_bus_reset_that_hits_another_of_ours_is_the_last_resort)
{
	struct vfio_pci *other;

	add_whole_device("0000:01:00.1", &fake.groups[0]);
	int r = vfio_pci_attach(&world.vfio, &world.bus, "0000:01:00.1", VFIO_BALLOON_INHIBITS,
				&other);
	ck_assert_int_eq(r, 0);
	dev->no_reset = true;
	dev->can_hot_reset = true;
	affect(7, 1, 0);
	affect(7, 1, 1);
	fake_forget_record();
	attach_again();
	ck_assert_uint_eq(fake_count("hot_reset " NAME " with 1 groups"), 1);
	dev->no_reset = false;
	fake_forget_record();
	attach_again();
	ck_assert_uint_eq(fake_count("hot_reset"), 0);
	vfio_pci_detach(other);
}
END_TEST

/* The guest is at the other one: that goes through no reset for the sake of one that comes. */
START_TEST(a_bus_reset_spares_a_device_that_the_guest_uses)
{
	struct fake_device *other_dev = add_whole_device("0000:01:00.1", &fake.groups[0]);
	struct vfio_pci *other = attach("0000:01:00.1");

	config_write(other, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	vfio_pci_detach(vp);
	vp = NULL;
	dev->no_reset = true;
	dev->can_hot_reset = true;
	affect(7, 1, 0);
	affect(7, 1, 1);
	fake_forget_record();
	int r = vfio_pci_attach(&world.vfio, &world.bus, NAME, VFIO_BALLOON_INHIBITS, &vp);
	ck_assert_int_eq(r, 0);
	ck_assert_uint_eq(fake_count("hot_reset"), 0);
	ck_assert_uint_ne(fake_get_16(other_dev, PCI_COMMAND) & PCI_COMMAND_MASTER, 0);
	ck_assert_ptr_nonnull(strstr(logged(), NAME ": no kind of reset works"));
	/* With the guest's reset everything goes through one. */
	config_write(vp, PCI_COMMAND, 2, PCI_COMMAND_MASTER);
	pci_bus_reset(&world.bus);
	ck_assert_uint_eq(fake_count("hot_reset " NAME " with 1 groups"), 1);
	ck_assert_uint_eq(fake_count("reset 0000:01:00.1"), 1);
	ck_assert_uint_eq(fake_get_16(other_dev, PCI_COMMAND), 0);
	ck_assert_str_eq(logged(), "");
	vfio_pci_detach(other);
}
END_TEST

/* Loop: the bus reset that both need works, or none does. */
START_TEST(a_guest_reset_stops_the_dma_of_both_functions_of_a_bus)
{
	static const char *const names[] = { NAME, "0000:01:00.1" };
	struct vfio_pci *both[2];

	add_whole_device(names[1], &fake.groups[0]);
	both[0] = vp;
	both[1] = attach(names[1]);
	for (unsigned int i = 0; i < 2; i++) {
		dev = &fake.devices[i];
		dev->no_reset = true;
		dev->can_hot_reset = _i == 0;
		affect(7, 1, 0);
		affect(7, 1, 1);
	}
	for (unsigned int reset = 0; reset < 100; reset++) {
		for (unsigned int i = 0; i < 2; i++)
			config_write(both[i], PCI_COMMAND, 2, DECODE | PCI_COMMAND_MASTER);
		fake_forget_record();
		pci_bus_reset(&world.bus);
		for (unsigned int i = 0; i < 2; i++) {
			ck_assert_uint_eq(fake_get_16(&fake.devices[i], PCI_COMMAND), 0);
			ck_assert_uint_ne(fake.devices[i].irqs[0].on, 0);
		}
		ck_assert_uint_eq(fake_count("hot_reset"), _i == 0 ? 2 : 0);
		ck_assert_uint_eq(fake.containers[0].nr_mappings, 2);
	}
	vfio_pci_detach(both[1]);
}
END_TEST

START_TEST(a_bus_reset_that_hits_a_strangers_function_is_not_done)
{
	dev->no_reset = true;
	dev->can_hot_reset = true;
	affect(7, 1, 0);
	affect(8, 1, 2);
	attach_again();
	ck_assert_uint_eq(fake_count("hot_reset"), 0);
}
END_TEST

START_TEST(without_flr_a_bus_reset_goes_before_d3)
{
	fake_set_32(dev, DEV_PCIE + PCI_EXP_DEVCAP, 0);
	dev->can_hot_reset = true;
	affect(7, 1, 0);
	fake_forget_record();
	attach_again();
	ck_assert_uint_eq(fake_count("hot_reset"), 1);
	ck_assert_uint_eq(fake_count("reset"), 0);
	dev->can_hot_reset = false;
	fake_forget_record();
	attach_again();
	ck_assert_uint_eq(fake_count("reset"), 1);
}
END_TEST

START_TEST(a_conventional_device_has_256_bytes)
{
	add_plain_device("0000:03:00.0", fake_add_group(9));
	vfio_pci_detach(vp);
	vp = attach("0000:03:00.0");
	ck_assert_uint_eq(config_read(vp, PCI_VENDOR_ID, 2), 0x1234);
	ck_assert_uint_eq(config_read(vp, PCI_STATUS, 2) & PCI_STATUS_CAP_LIST, 0);
	for (unsigned int at = 0x100; at < PCI_CONFIG_SIZE; at += 4)
		ck_assert_uint_eq(config_read(vp, at, 4), 0);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("vfio_config");
	TCase *tests = tcase_create("config");

	tcase_add_checked_fixture(tests, setup, teardown);
	tcase_set_timeout(tests, 60);
	tcase_add_test(tests, ids_are_the_devices);
	tcase_add_test(tests, a_function_stands_alone_in_its_slot);
	tcase_add_test(tests, bars_are_the_guests_and_not_the_hosts);
	tcase_add_test(tests, sizing_with_decode_on_maps_nothing);
	tcase_add_test(tests, a_bar_over_ram_is_not_decoded);
	tcase_add_test(tests, status_bits_are_cleared_in_the_device);
	tcase_add_test(tests, memory_off_unmaps_before_the_device_hears_of_it);
	tcase_add_test(tests, memory_on_maps_after_the_device_has_heard_of_it);
	tcase_add_test(tests, a_byte_and_a_dword_do_the_same_to_command);
	tcase_add_test(tests, memory_that_the_device_did_not_switch_on_is_not_mapped);
	tcase_add_test(tests, bus_mastering_is_the_devices);
	tcase_add_test(tests, decode_bits_read_as_the_guest_wrote_them);
	tcase_add_test(tests, a_vendor_capability_is_passed_through);
	tcase_add_test(tests, capabilities_keep_their_places);
	tcase_add_test(tests, an_endpoint_is_shown_integrated_and_without_a_link);
	tcase_add_test(tests, version_0_of_pci_express_is_shown_as_1);
	tcase_add_test(tests, a_legacy_endpoint_is_shown_as_a_conventional_device);
	tcase_add_test(tests, a_port_is_refused);
	tcase_add_test(tests, virtual_functions_are_not_the_guests_to_make);
	tcase_add_test(tests, a_hidden_first_extended_capability_leaves_an_empty_link);
	tcase_add_test(tests, a_ring_of_capabilities_is_cut);
	tcase_add_test(tests, a_capability_that_points_to_itself_is_cut);
	tcase_add_test(tests, a_ring_of_extended_capabilities_is_cut);
	tcase_add_loop_test(tests, a_capability_that_does_not_fit_is_hidden, 0, 4);
	tcase_add_test(tests, a_capability_over_the_next_is_hidden);
	tcase_add_test(tests, a_capability_may_end_where_the_next_begins);
	tcase_add_test(tests, msi_that_the_kernel_does_not_serve_is_not_shown);
	tcase_add_test(tests, the_hosts_msi_is_never_written);
	tcase_add_test(tests, a_device_that_stops_answering_reads_as_ones);
	tcase_add_test(tests, a_guest_cannot_fill_the_log_with_it);
	tcase_add_test(tests, d3_unmaps_before_the_device_hears_of_it_and_d0_maps_after);
	tcase_add_test(tests, d3_that_the_device_refuses_leaves_it_on);
	tcase_add_test(tests, memory_switched_on_in_d3_is_mapped_in_d0);
	tcase_add_test(tests, writes_of_every_size_at_every_offset_are_survived);
	tcase_add_test(tests, the_function_is_reset_at_start_and_only_once);
	tcase_add_test(tests, a_guest_reset_resets_the_function);
	tcase_add_test(tests, many_resets_leave_nothing_behind);
	tcase_add_test(tests, a_device_that_cannot_be_reset_is_told_of_and_used);
	tcase_add_test(tests, a_bus_reset_does_where_no_function_reset_is);
	tcase_add_test(tests, a_bus_reset_that_hits_another_of_ours_is_the_last_resort);
	tcase_add_test(tests, a_bus_reset_spares_a_device_that_the_guest_uses);
	tcase_add_loop_test(tests, a_guest_reset_stops_the_dma_of_both_functions_of_a_bus, 0,
			    2);
	tcase_add_test(tests, a_bus_reset_that_hits_a_strangers_function_is_not_done);
	tcase_add_test(tests, without_flr_a_bus_reset_goes_before_d3);
	tcase_add_test(tests, a_conventional_device_has_256_bytes);
	suite_add_tcase(suite, tests);
	SRunner *runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	int failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed != 0;
}
