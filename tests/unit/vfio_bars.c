/* SPDX-License-Identifier: MIT */
/* BARs and the ROM: what is mapped into the guest, what traps, what is refused. */
#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <linux/pci_regs.h>

#include "memory/access.h"
#include "tests/fakes/vfio_world.h"

#define NAME "0000:01:00.0"
#define MMAP VFIO_REGION_INFO_FLAG_MMAP

static struct fake_device *dev;
static struct vfio_pci *vp;

static void setup(void)
{
	world_init();
	dev = add_whole_device(NAME, fake_add_group(7));
	vp = NULL;
}

static void teardown(void)
{
	vfio_pci_detach(vp);
	check_nothing_left();
	world_finish();
}

static void start(void)
{
	vp = attach(NAME);
	(void)logged();
}

static uint64_t address(unsigned int bar)
{
	ck_assert_uint_ne(vp->pci.bars[bar].address, PCI_UNMAPPED);
	return vp->pci.bars[bar].address;
}

/* What stands behind [offset, offset + 4096) of a BAR; NULL: it traps. */
static const uint8_t *mapped(unsigned int bar, uint64_t offset)
{
	const struct memory_region *region =
		memory_map_find(&world.map, address(bar) + offset, 4096);

	if (!region)
		return NULL;
	ck_assert_int_eq(region->kind, MEMORY_DEVICE);
	return (const uint8_t *)region->host + (address(bar) + offset - region->gpa);
}

static void expect_refusal(int error, const char *text)
{
	int r = vfio_pci_attach(&world.vfio, &world.bus, NAME, VFIO_BALLOON_INHIBITS, &vp);
	ck_assert_int_eq(r, error);
	vp = NULL;
	const char *all = logged();
	ck_assert_msg(strstr(all, text), "no \"%s\" in: %s", text, all);
	check_nothing_left();
}

START_TEST(a_bar_is_mapped_where_the_guest_decodes_it)
{
	start();
	ck_assert_ptr_eq(mapped(0, 0), dev->regions[0].window);
	ck_assert_ptr_eq(mapped(0, DEV_BAR0_SIZE - 4096),
			 dev->regions[0].window + DEV_BAR0_SIZE - 4096);
}
END_TEST

START_TEST(a_bar_that_moves_is_mapped_at_its_new_place_only)
{
	start();
	uint64_t old = address(0);
	config_write(vp, PCI_BASE_ADDRESS_0 + 4, 4, 0x1f);
	ck_assert_uint_eq(address(0) >> 32, 0x1f);
	ck_assert_ptr_eq(mapped(0, 0), dev->regions[0].window);
	ck_assert_ptr_null(memory_map_find(&world.map, old, 4096));
}
END_TEST

START_TEST(the_pages_of_the_msix_table_and_pba_trap)
{
	start();
	ck_assert_ptr_null(mapped(0, DEV_TABLE));
	ck_assert_ptr_null(mapped(0, DEV_PBA));
	ck_assert_ptr_nonnull(mapped(0, DEV_TABLE - 4096));
	ck_assert_ptr_eq(mapped(0, DEV_PBA + 4096), dev->regions[0].window + DEV_PBA + 4096);
}
END_TEST

START_TEST(the_rest_of_the_tables_page_is_the_devices)
{
	start();
	uint64_t behind = DEV_TABLE + 16 * DEV_NR_VECTORS;
	dev->regions[0].memory[behind] = 0x5a;
	ck_assert_uint_eq(io_bus_read(&world.mmio, address(0) + behind, 1), 0x5a);
	io_bus_write(&world.mmio, address(0) + behind + 8, 8, 0x1122334455667788);
	ck_assert_uint_eq(dev->regions[0].memory[behind + 8], 0x88);
	ck_assert_uint_eq(dev->regions[0].memory[behind + 15], 0x11);
}
END_TEST

START_TEST(the_hosts_msix_table_is_never_touched)
{
	start();
	memset(dev->regions[0].memory + DEV_TABLE, 0x77, 4096);
	fake_forget_record();
	for (uint64_t at = 0; at < 16 * DEV_NR_VECTORS; at += 4) {
		io_bus_write(&world.mmio, address(0) + DEV_TABLE + at, 4, at);
		if (at % 16 != 12)
			ck_assert_uint_eq(
				io_bus_read(&world.mmio, address(0) + DEV_TABLE + at, 4), at);
	}
	ck_assert_uint_eq(fake_count("region_write"), 0);
	/* Odd sizes and places too; the last would reach beyond the end of the table. */
	io_bus_write(&world.mmio, address(0) + DEV_TABLE + 1, 1, 1);
	io_bus_write(&world.mmio, address(0) + DEV_TABLE + 16 * DEV_NR_VECTORS - 4, 8, 1);
	ck_assert_uint_eq(fake_count("region_write"), 0);
}
END_TEST

/* Loop: table beyond its BAR, PBA beyond, in no BAR, in an I/O BAR, over each other. */
START_TEST(a_table_that_is_not_in_its_bar_is_refused)
{
	static const struct {
		uint32_t table;
		uint32_t pba;
	} cases[] = {
		{ DEV_BAR0_SIZE - 8, DEV_PBA }, { DEV_TABLE, DEV_BAR0_SIZE },
		{ 0xfffffff8, DEV_PBA },        { DEV_TABLE | 5, DEV_PBA },
		{ DEV_TABLE, DEV_PBA | 7 },     { 0 | 2, DEV_PBA },
		{ DEV_TABLE, DEV_TABLE + 8 },
	};

	fake_set_32(dev, DEV_MSIX + PCI_MSIX_TABLE, cases[_i].table);
	fake_set_32(dev, DEV_MSIX + PCI_MSIX_PBA, cases[_i].pba);
	expect_refusal(-EINVAL, "MSI-X of 16 vectors, table in bar");
}
END_TEST

START_TEST(only_the_listed_areas_of_a_sparse_bar_are_mapped)
{
	start();
	ck_assert_ptr_null(mapped(4, 0));
	ck_assert_ptr_eq(mapped(4, 0x1000), dev->regions[4].window + 0x1000);
	ck_assert_ptr_eq(mapped(4, 0x2000), dev->regions[4].window + 0x2000);
	ck_assert_ptr_null(mapped(4, 0x3000));
	ck_assert_ptr_eq(mapped(4, 0x8000), dev->regions[4].window + 0x8000);
	dev->regions[4].memory[4] = 0x42;
	ck_assert_uint_eq(io_bus_read(&world.mmio, address(4) + 4, 4), 0x42);
}
END_TEST

/* Loop: one of no bytes, one beyond the end, one that wraps, one smaller than a page. */
START_TEST(a_sparse_area_that_cannot_be_is_left_out)
{
	static const struct vfio_region_sparse_mmap_area cases[] = {
		{ .offset = 0x4000, .size = 0 },
		{ .offset = DEV_SPARSE_SIZE, .size = 0x1000 },
		{ .offset = UINT64_MAX - 0xfff, .size = 0x2000 },
		{ .offset = 0x4800, .size = 0x800 },
	};

	dev->regions[4].areas[1] = cases[_i];
	vp = attach(NAME);
	ck_assert_ptr_null(strstr(logged(), "falling back"));
	ck_assert_uint_eq(vp->bars.bars[4].nr_areas, 2);
	ck_assert_ptr_null(mapped(4, 0x4000));
	ck_assert_ptr_nonnull(mapped(4, 0x8000));
}
END_TEST

START_TEST(a_sparse_bar_without_areas_traps)
{
	dev->regions[4].nr_areas = 0;
	start();
	ck_assert_uint_eq(vp->bars.bars[4].nr_areas, 0);
	ck_assert_uint_eq(io_bus_read(&world.mmio, address(4) + 0x1000, 4), 0);
}
END_TEST

START_TEST(a_bar_that_may_not_be_mapped_traps)
{
	dev->regions[0].flags &= ~(uint32_t)MMAP;
	start();
	ck_assert_ptr_null(mapped(0, 0));
	dev->regions[0].memory[8] = 9;
	ck_assert_uint_eq(io_bus_read(&world.mmio, address(0) + 8, 4), 9);
}
END_TEST

START_TEST(a_small_bar_that_may_be_mapped_has_a_page_of_its_own)
{
	start();
	ck_assert_uint_eq(vp->pci.bars[3].region.size, 4096);
	ck_assert_uint_eq(address(3) % 4096, 0);
	ck_assert_ptr_eq(mapped(3, 0), dev->regions[3].window);
	/* Trapped accesses, were there any, end where the hardware does, and that is no news. */
	ck_assert_uint_eq(io_bus_read(&world.mmio, address(3) + DEV_SMALL_SIZE, 4), 0xffffffff);
	io_bus_write(&world.mmio, address(3) + DEV_SMALL_SIZE, 4, 0x11223344);
	io_bus_write(&world.mmio, address(3) + DEV_SMALL_SIZE - 2, 4, 0x11223344);
	ck_assert_uint_eq(dev->regions[3].memory[DEV_SMALL_SIZE], 0);
	ck_assert_str_eq(logged(), "");
}
END_TEST

/* Two of them may lie in one page then, and neither may hide the other. */
START_TEST(a_small_bar_that_may_not_be_mapped_stays_small_and_traps)
{
	dev->regions[3].flags &= ~(uint32_t)MMAP;
	fake_set_bar(dev, 1, 0, 0, 0);
	start();
	ck_assert_uint_eq(vp->pci.bars[3].region.size, DEV_SMALL_SIZE);
	ck_assert_ptr_null(memory_map_find(&world.map, align_down(address(3), 4096), 4096));
	dev->regions[3].memory[255] = 0x99;
	ck_assert_uint_eq(io_bus_read(&world.mmio, address(3) + 255, 1), 0x99);
}
END_TEST

START_TEST(an_io_bar_traps)
{
	dev->regions[2].flags |= MMAP;
	start();
	dev->regions[2].memory[4] = 0x21;
	ck_assert_uint_eq(io_bus_read(&world.pio, address(2) + 4, 1), 0x21);
	io_bus_write(&world.pio, address(2) + 8, 4, 0x01020304);
	ck_assert_uint_eq(dev->regions[2].memory[11], 1);
	ck_assert_uint_eq(vp->bars.bars[2].nr_areas, 0);
}
END_TEST

/* Loop: sizes that a BAR of that kind cannot have. */
START_TEST(an_impossible_size_is_refused)
{
	static const struct {
		unsigned int bar;
		uint32_t bar_register;
		uint64_t size;
	} cases[] = {
		{ 3, 0, 0x3000 },
		{ 3, 0, 8 },
		{ 2, PCI_BASE_ADDRESS_SPACE_IO, 2 },
		{ 2, PCI_BASE_ADDRESS_SPACE_IO, 131072 },
		{ 5, PCI_BASE_ADDRESS_MEM_TYPE_64, 4096 },
	};

	dev->regions[4].size = 0;
	fake_set_bar(dev, cases[_i].bar, cases[_i].bar_register, cases[_i].size, 0);
	expect_refusal(-EPROTO, "cannot have");
}
END_TEST

START_TEST(a_map_that_fails_makes_its_bar_trap)
{
	dev->regions[0].flags |= MMAP;
	/* The mmaps follow 32 other calls that can fail. */
	fake.fail_at = fake.nr_calls + 33;
	vp = attach(NAME);
	fake.fail_at = 0;
	ck_assert(fake.failed);
	ck_assert_ptr_nonnull(strstr(logged(), "of bar 0: Input/output error: falling back to "
					       "trapping"));
	ck_assert_ptr_null(mapped(0, 0));
	dev->regions[0].memory[8] = 9;
	ck_assert_uint_eq(io_bus_read(&world.mmio, address(0) + 8, 4), 9);
}
END_TEST

static int refuse_devices(struct memory_listener *listener, struct memory_region *region)
{
	(void)listener;
	return region->kind == MEMORY_DEVICE ? -ENOSPC : 0;
}

static void forget(struct memory_listener *listener, struct memory_region *region)
{
	(void)listener;
	(void)region;
}

START_TEST(a_region_that_a_listener_refuses_makes_it_trap)
{
	static const struct memory_listener_ops ops = { .add = refuse_devices, .del = forget };
	struct memory_listener full = { .ops = &ops, .name = "full" };

	ck_assert_int_eq(memory_map_listen(&world.map, &full), 0);
	vp = attach(NAME);
	ck_assert_ptr_nonnull(strstr(logged(), "falling back to trapping"));
	dev->regions[0].memory[8] = 9;
	ck_assert_uint_eq(io_bus_read(&world.mmio, address(0) + 8, 4), 9);
	vfio_pci_detach(vp);
	vp = NULL;
	memory_map_unlisten(&world.map, &full);
}
END_TEST

/* Peer to peer: what each of two containers has of the first device's BAR 0. */

#define OTHER "0000:02:00.0"
#define NR_CONTAINERS 2u

static const struct fake_mapping *peer_map(unsigned int container, uint64_t iova)
{
	const struct fake_container *c = &fake.containers[container];

	for (unsigned int i = 0; i < c->nr_mappings; i++) {
		if (c->mappings[i].iova == iova)
			return &c->mappings[i];
	}
	return NULL;
}

static struct vfio_pci *start_with_peer(void)
{
	fake.refuses_sharing = true;
	add_plain_device(OTHER, fake_add_group(9));
	start();
	struct vfio_pci *peer = attach(OTHER);
	config_write(vp, PCI_COMMAND, 2, PCI_COMMAND_MEMORY); /* attach has reset the bus */
	(void)logged();
	fake_forget_record();
	return peer;
}

START_TEST(a_bar_that_moves_does_so_for_other_devices_as_well)
{
	struct vfio_pci *peer = start_with_peer();
	unsigned int nr = fake.containers[1].nr_mappings;
	uint64_t old = address(0);

	for (unsigned int c = 0; c < NR_CONTAINERS; c++)
		ck_assert_ptr_eq(peer_map(c, old)->host, dev->regions[0].window);
	config_write(vp, PCI_BASE_ADDRESS_0 + 4, 4, 0x1f);
	for (unsigned int c = 0; c < NR_CONTAINERS; c++) {
		ck_assert_ptr_null(peer_map(c, old));
		ck_assert_ptr_eq(peer_map(c, address(0))->host, dev->regions[0].window);
		ck_assert_uint_eq(fake.containers[c].nr_mappings, nr);
	}
	/* Nowhere twice, not for a moment. */
	ck_assert_int_lt(fake_last("unmap c"), fake_first("map c"));
	vfio_pci_detach(peer);
}
END_TEST

/* Others would be at a device that does not answer: that can stop a host. Loop: decoding, D3. */
START_TEST(what_is_switched_off_is_out_of_other_devices_reach_before)
{
	struct vfio_pci *peer = start_with_peer();
	uint64_t old = address(0);

	if (_i == 0)
		config_write(vp, PCI_COMMAND, 2, PCI_COMMAND_MASTER);
	else
		config_write(vp, DEV_PM + PCI_PM_CTRL, 2, 3);
	ck_assert_int_ge(fake_last("unmap c0"), 0);
	ck_assert_int_ge(fake_last("unmap c1"), 0);
	ck_assert_int_lt(fake_last("unmap c0"), fake_first("config_write " NAME));
	ck_assert_int_lt(fake_last("unmap c1"), fake_first("config_write " NAME));
	for (unsigned int c = 0; c < NR_CONTAINERS; c++) {
		ck_assert_ptr_null(peer_map(c, old));
		/* RAM, and what the peer has itself. */
		ck_assert_ptr_nonnull(peer_map(c, 0));
		ck_assert_ptr_nonnull(peer_map(c, peer->pci.bars[0].address));
	}
	vfio_pci_detach(peer);
}
END_TEST

START_TEST(a_bar_that_others_cannot_reach_at_one_place_they_reach_at_the_next)
{
	struct vfio_pci *peer = start_with_peer();
	uint64_t old = address(0);

	fake.map_device_error = -EINVAL;
	config_write(vp, PCI_BASE_ADDRESS_0 + 4, 4, 0x1f);
	fake.map_device_error = 0;
	ck_assert_ptr_eq(mapped(0, 0), dev->regions[0].window);
	ck_assert_ptr_null(peer_map(1, address(0)));
	ck_assert_ptr_nonnull(strstr(logged(), "devices cannot reach each other"));
	fake_forget_record();
	config_write(vp, PCI_BASE_ADDRESS_0 + 4, 4, (uint32_t)(old >> 32));
	ck_assert_uint_eq(fake_count("unmap"), 0);
	ck_assert_ptr_eq(peer_map(1, old)->host, dev->regions[0].window);
	ck_assert_str_eq(logged(), "");
	vfio_pci_detach(peer);
}
END_TEST

/* The fake kernel's maps fault: what we did there would have ended us. */
START_TEST(we_never_reach_into_a_bars_map)
{
	uint8_t bytes[8] = { 0 };

	start();
	ck_assert_ptr_nonnull(mapped(0, 0));
	ck_assert_int_eq(memory_read(&world.map, address(0), bytes, sizeof(bytes)), -EFAULT);
	ck_assert_int_eq(memory_write(&world.map, address(0), bytes, sizeof(bytes)), -EFAULT);
	ck_assert_ptr_null(memory_ptr(&world.map, address(0), sizeof(bytes)));
	ck_assert_int_lt(reclaim_take(&world.reclaim, address(0), 4096), 0);
	/* An access that trapped, since the guest was faster than its BAR: by a system call. */
	dev->regions[0].memory[8] = 9;
	ck_assert_uint_eq(io_bus_read(&world.mmio, address(0) + 8, 4), 9);
	/* So too of a device that is gone. */
	dev->dead = true;
	ck_assert_uint_eq(io_bus_read(&world.mmio, address(0) + 8, 4), 0xffffffff);
}
END_TEST

/* A vCPU was at a map that gave SIGBUS: it comes again, by a system call. */
START_TEST(a_map_that_does_not_answer_is_taken_away_and_traps)
{
	start();
	unsigned int nr_maps = fake.nr_maps;
	dev->dead = true;
	ck_assert(vfio_pci_trap(&world.bus));
	const char *text = logged();
	ck_assert_ptr_nonnull(strstr(text, NAME ": its memory does not answer the processor"));
	ck_assert_ptr_eq(strchr(text, '\n'), strrchr(text, '\n'));
	for (unsigned int bar = 0; bar < VFIO_NR_BARS; bar++) {
		for (unsigned int i = 0; i < vp->bars.bars[bar].nr_areas; i++)
			ck_assert_ptr_null(mapped(bar, vp->bars.bars[bar].areas[i].offset));
	}
	ck_assert_uint_eq(io_bus_read(&world.mmio, address(0) + 8, 4), 0xffffffff);
	/* What else a vCPU cannot reach is no BAR. */
	(void)logged();
	ck_assert(!vfio_pci_trap(&world.bus));
	ck_assert_str_eq(logged(), "");
	/* It answers again: so it traps, and is mapped where it is decoded anew. */
	dev->dead = false;
	dev->regions[0].memory[8] = 9;
	ck_assert_uint_eq(io_bus_read(&world.mmio, address(0) + 8, 4), 9);
	config_write(vp, PCI_COMMAND, 2, 0);
	config_write(vp, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
	ck_assert_ptr_eq(mapped(0, 0), dev->regions[0].window);
	ck_assert_uint_eq(fake.nr_maps, nr_maps);
}
END_TEST

/* Loop: it says nothing; it is pulled out; somebody else switched it off; nobody knows. */
START_TEST(a_device_that_answers_keeps_its_maps_unless_none_does_not)
{
	struct vfio_pci *peer = start_with_peer();
	uint64_t at = address(0);

	dev->dead = _i == 0;
	if (_i == 1 || _i == 2)
		fake_set_16(dev, PCI_COMMAND, _i == 1 ? UINT16_MAX : PCI_COMMAND_MASTER);
	ck_assert(vfio_pci_trap(&world.bus));
	ck_assert_ptr_null(mapped(0, 0));
	for (unsigned int c = 0; c < NR_CONTAINERS; c++) {
		ck_assert_ptr_null(peer_map(c, at));
		ck_assert_ptr_nonnull(peer_map(c, 0));
		ck_assert_int_eq(!peer_map(c, peer->pci.bars[0].address), _i == 3);
	}
	ck_assert_int_eq(vfio_pci_trap(&world.bus), _i != 3);
	ck_assert_ptr_null(peer_map(0, peer->pci.bars[0].address));
	ck_assert(!vfio_pci_trap(&world.bus));
	vfio_pci_detach(peer);
}
END_TEST

START_TEST(a_device_that_does_not_answer_reads_as_ones)
{
	dev->regions[0].flags &= ~(uint32_t)MMAP;
	start();
	dev->dead = true;
	ck_assert_uint_eq(io_bus_read(&world.mmio, address(0), 8), UINT64_MAX);
	io_bus_write(&world.mmio, address(0), 4, 1);
	for (unsigned int i = 0; i < 10000; i++)
		(void)io_bus_read(&world.mmio, address(0), 4);
	const char *text = logged();
	unsigned int lines = 0;
	for (const char *at = strchr(text, '\n'); at; at = strchr(at + 1, '\n'))
		lines++;
	ck_assert_uint_le(lines, LOG_GUEST_BURST + 1);
}
END_TEST

START_TEST(every_byte_of_every_bar_can_be_read_and_written)
{
	start();
	for (unsigned int bar = 0; bar < PCI_NR_BARS; bar++) {
		const struct pci_bar *b = &vp->pci.bars[bar];
		struct io_bus *bus = b->kind == PCI_BAR_IO ? &world.pio : &world.mmio;
		if (b->kind == PCI_BAR_NONE || b->address == PCI_UNMAPPED)
			continue;
		for (uint64_t at = 0; at < b->region.size && at < 0xa000; at++) {
			unsigned int size = 1u << (at % 4);
			(void)io_bus_read(bus, b->address + at, size);
			io_bus_write(bus, b->address + at, size, at * 0x01010101);
		}
	}
}
END_TEST

static void enable_rom(void)
{
	config_write(vp, PCI_ROM_ADDRESS, 4, 0xc8000000 | PCI_ROM_ADDRESS_ENABLE);
	ck_assert_uint_eq(address(PCI_ROM), 0xc8000000);
}

START_TEST(the_rom_is_read_when_the_guest_looks)
{
	dev->regions[VFIO_PCI_ROM_REGION_INDEX].memory[0] = 0x55;
	dev->regions[VFIO_PCI_ROM_REGION_INDEX].memory[1] = 0xaa;
	start();
	enable_rom();
	ck_assert_ptr_null(vp->bars.rom);
	ck_assert_uint_eq(io_bus_read(&world.mmio, 0xc8000000, 2), 0xaa55);
	ck_assert_uint_eq(io_bus_read(&world.mmio, 0xc8000000 + DEV_ROM_SIZE - 4, 4), 0);
	io_bus_write(&world.mmio, 0xc8000000, 4, 0);
	ck_assert_uint_eq(io_bus_read(&world.mmio, 0xc8000000, 2), 0xaa55);
	ck_assert_uint_eq(fake_count("region_write"), 0);
}
END_TEST

START_TEST(a_rom_that_ends_early_reads_as_ones_from_there)
{
	dev->regions[VFIO_PCI_ROM_REGION_INDEX].readable = 0x400;
	start();
	enable_rom();
	ck_assert_uint_eq(io_bus_read(&world.mmio, 0xc80003fc, 4), 0);
	ck_assert_uint_eq(io_bus_read(&world.mmio, 0xc8000400, 4), 0xffffffff);
}
END_TEST

START_TEST(a_rom_of_0_bytes_reads_as_ones)
{
	dev->regions[VFIO_PCI_ROM_REGION_INDEX].readable = 0;
	start();
	enable_rom();
	ck_assert_uint_eq(io_bus_read(&world.mmio, 0xc8000000, 8), UINT64_MAX);
}
END_TEST

/* Loop: sizes that no ROM can have, or that nobody should load. */
START_TEST(a_rom_of_an_impossible_size_is_hidden)
{
	static const uint64_t sizes[] = { 0, 1024, 3 * 4096, 32ull << 20 };

	dev->regions[VFIO_PCI_ROM_REGION_INDEX].size = sizes[_i];
	start();
	config_write(vp, PCI_ROM_ADDRESS, 4, 0xffffffff);
	ck_assert_uint_eq(config_read(vp, PCI_ROM_ADDRESS, 4), 0);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("vfio_bars");
	TCase *tests = tcase_create("bars");

	tcase_add_checked_fixture(tests, setup, teardown);
	tcase_add_test(tests, a_bar_is_mapped_where_the_guest_decodes_it);
	tcase_add_test(tests, a_bar_that_moves_is_mapped_at_its_new_place_only);
	tcase_add_test(tests, the_pages_of_the_msix_table_and_pba_trap);
	tcase_add_test(tests, the_rest_of_the_tables_page_is_the_devices);
	tcase_add_test(tests, the_hosts_msix_table_is_never_touched);
	tcase_add_loop_test(tests, a_table_that_is_not_in_its_bar_is_refused, 0, 7);
	tcase_add_test(tests, only_the_listed_areas_of_a_sparse_bar_are_mapped);
	tcase_add_loop_test(tests, a_sparse_area_that_cannot_be_is_left_out, 0, 4);
	tcase_add_test(tests, a_sparse_bar_without_areas_traps);
	tcase_add_test(tests, a_bar_that_may_not_be_mapped_traps);
	tcase_add_test(tests, a_small_bar_that_may_be_mapped_has_a_page_of_its_own);
	tcase_add_test(tests, a_small_bar_that_may_not_be_mapped_stays_small_and_traps);
	tcase_add_test(tests, an_io_bar_traps);
	tcase_add_loop_test(tests, an_impossible_size_is_refused, 0, 5);
	tcase_add_test(tests, a_map_that_fails_makes_its_bar_trap);
	tcase_add_test(tests, a_region_that_a_listener_refuses_makes_it_trap);
	tcase_add_test(tests, a_bar_that_moves_does_so_for_other_devices_as_well);
	tcase_add_loop_test(tests, what_is_switched_off_is_out_of_other_devices_reach_before, 0,
			    2);
	tcase_add_test(tests,
		       a_bar_that_others_cannot_reach_at_one_place_they_reach_at_the_next);
	tcase_add_test(tests, we_never_reach_into_a_bars_map);
	tcase_add_test(tests, a_map_that_does_not_answer_is_taken_away_and_traps);
	tcase_add_loop_test(tests, a_device_that_answers_keeps_its_maps_unless_none_does_not, 0,
			    4);
	tcase_add_test(tests, a_device_that_does_not_answer_reads_as_ones);
	tcase_add_test(tests, every_byte_of_every_bar_can_be_read_and_written);
	tcase_add_test(tests, the_rom_is_read_when_the_guest_looks);
	tcase_add_test(tests, a_rom_that_ends_early_reads_as_ones_from_there);
	tcase_add_test(tests, a_rom_of_0_bytes_reads_as_ones);
	tcase_add_loop_test(tests, a_rom_of_an_impossible_size_is_hidden, 0, 4);
	suite_add_tcase(suite, tests);
	SRunner *runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	int failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed != 0;
}
