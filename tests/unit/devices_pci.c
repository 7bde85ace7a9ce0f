/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <sched.h>
#include <semaphore.h>
#include <stdlib.h>

#include <linux/pci_regs.h>

#include "devices/pci.h"
#include "tests/fakes/process.h"

#define ECAM 0xb0000000u
#define IO_BASE 0x1000u
#define MEM32 0xc0000000u
#define MEM32_SIZE 0x100000u
#define MEM64 (1ull << 36)
#define MEM64_SIZE (1ull << 30)

struct card;

/* What a BAR's handler gets: it answers reads with its card's number and its own. */
struct bar_tag {
	struct card *card;
	unsigned int index;
};

struct card {
	struct pci_device pci;
	struct bar_tag tags[PCI_NR_BARS];
	uint8_t number;
	unsigned int nr_resets;
	unsigned int nr_mapped[PCI_NR_BARS];
	unsigned int nr_unmapped[PCI_NR_BARS];
	uint64_t last_mapped; /* address */
};

static struct io_bus pio;
static struct io_bus mmio;
static struct pci_bus bus;
static struct card a = { .number = 0xa };
static struct card b = { .number = 0xb };

static uint64_t bar_read(void *opaque, uint64_t offset, unsigned int size)
{
	const struct bar_tag *tag = opaque;

	(void)size;
	return (uint64_t)tag->card->number << 28 | tag->index << 24 | (offset & 0xffffff);
}

static void bar_write(void *opaque, uint64_t offset, unsigned int size, uint64_t value)
{
	(void)opaque;
	(void)offset;
	(void)size;
	(void)value;
}

static const struct io_ops bar_ops = { .read = bar_read, .write = bar_write };

static struct card *card_of(struct pci_device *dev)
{
	return container_of(dev, struct card, pci);
}

static void card_bar_mapped(struct pci_device *dev, unsigned int bar)
{
	card_of(dev)->nr_mapped[bar]++;
	card_of(dev)->last_mapped = dev->bars[bar].address;
}

static void card_bar_unmapped(struct pci_device *dev, unsigned int bar)
{
	ck_assert_uint_ne(dev->bars[bar].address, PCI_UNMAPPED);
	card_of(dev)->nr_unmapped[bar]++;
}

static void card_reset(struct pci_device *dev)
{
	card_of(dev)->nr_resets++;
	ck_assert_uint_eq(pci_get_16(dev, PCI_COMMAND), 0);
	for (unsigned int i = 0; i < PCI_NR_BARS; i++)
		ck_assert_uint_eq(dev->bars[i].address, PCI_UNMAPPED);
	for (unsigned int at = PCI_BASE_ADDRESS_0; at <= PCI_BASE_ADDRESS_5; at += 4)
		ck_assert_uint_eq(pci_get_32(dev, at) & ~0xfu, 0);
	ck_assert_uint_eq(pci_get_32(dev, PCI_ROM_ADDRESS), 0);
}

static const struct pci_device_ops card_ops = {
	.bar_mapped = card_bar_mapped,
	.bar_unmapped = card_bar_unmapped,
	.reset = card_reset,
};

static void init_card(struct card *card)
{
	pci_device_init(&card->pci, &card_ops, "card", 0x1234, 0x11e8, 0x00ff00);
}

static void set_bar(struct card *card, unsigned int bar, enum pci_bar_kind kind, uint64_t size)
{
	card->tags[bar] = (struct bar_tag){ card, bar };
	pci_set_bar(&card->pci, bar, kind, PCI_NON_PREFETCHABLE, size, &bar_ops,
		    &card->tags[bar]);
}

static void add_card(struct card *card)
{
	ck_assert_int_eq(pci_bus_add(&bus, &card->pci, PCI_ANY_SLOT), 0);
}

/* A card with one 32-bit BAR of 4 KiB. */
static void add_simple(struct card *card)
{
	init_card(card);
	set_bar(card, 0, PCI_BAR_MEM32, 0x1000);
	add_card(card);
}

static void init_bus(uint64_t mem32_size, uint64_t mem64_size)
{
	const struct pci_windows windows = {
		.io = { IO_BASE, 0xf000 },
		.mem32 = { MEM32, mem32_size },
		.mem64 = { MEM64, mem64_size },
	};

	ck_assert_int_eq(pci_bus_init(&bus, &pio, &mmio, &windows, ECAM), 0);
}

static void setup(void)
{
	process_keep_log();
	io_bus_init(&pio);
	io_bus_init(&mmio);
	init_bus(MEM32_SIZE, MEM64_SIZE);
	init_card(&a);
	init_card(&b);
}

/* The two roads to config space. */

static uint32_t ecam_get(unsigned int devfn, unsigned int offset, unsigned int size)
{
	return (uint32_t)io_bus_read(&mmio, ECAM + (devfn << 12) + offset, size);
}

static void ecam_set(unsigned int devfn, unsigned int offset, unsigned int size, uint32_t value)
{
	io_bus_write(&mmio, ECAM + (devfn << 12) + offset, size, value);
}

static void select_register(unsigned int devfn, unsigned int offset)
{
	io_bus_write(&pio, 0xcf8, 4, 0x80000000u | devfn << 8 | (offset & 0xfc));
}

static uint32_t ports_get(unsigned int devfn, unsigned int offset, unsigned int size)
{
	select_register(devfn, offset);
	return (uint32_t)io_bus_read(&pio, 0xcfc + (offset & 3), size);
}

static void ports_set(unsigned int devfn, unsigned int offset, unsigned int size,
		      uint32_t value)
{
	select_register(devfn, offset);
	io_bus_write(&pio, 0xcfc + (offset & 3), size, value);
}

static uint32_t get(const struct card *card, unsigned int offset, unsigned int size)
{
	return ecam_get(card->pci.devfn, offset, size);
}

static void set(const struct card *card, unsigned int offset, unsigned int size, uint32_t value)
{
	ecam_set(card->pci.devfn, offset, size, value);
}

static unsigned int bar_register(unsigned int bar)
{
	return bar == PCI_ROM ? PCI_ROM_ADDRESS : PCI_BASE_ADDRESS_0 + 4 * bar;
}

static void set_address(const struct card *card, unsigned int bar, uint32_t value)
{
	set(card, bar_register(bar), 4, value);
}

static void decode(const struct card *card, uint16_t command)
{
	set(card, PCI_COMMAND, 2, command);
}

/* BAR `bar` of the card, and nothing else, answers at `address`. */
static void expect_at(const struct card *card, unsigned int bar, uint64_t address)
{
	uint64_t expected = (uint64_t)card->number << 28 | bar << 24 | 4;

	ck_assert_uint_eq(card->pci.bars[bar].address, address);
	ck_assert_uint_eq(io_bus_read(&mmio, address + 4, 4), expected);
}

static void expect_nowhere(const struct card *card, unsigned int bar)
{
	ck_assert_uint_eq(card->pci.bars[bar].address, PCI_UNMAPPED);
	ck_assert(!list_linked(&card->pci.bars[bar].region.link));
}

static void expect_nothing_at(uint64_t address)
{
	ck_assert_uint_eq(io_bus_read(&mmio, address, 4), 0xffffffff);
}

/* Config space. */

START_TEST(where_no_device_is_all_reads_give_ones)
{
	for (unsigned int devfn = 0; devfn < PCI_NR_DEVFNS; devfn++) {
		ck_assert_uint_eq(ecam_get(devfn, 0, 4), 0xffffffff);
		ck_assert_uint_eq(ports_get(devfn, 0, 2), 0xffff);
		ecam_set(devfn, PCI_COMMAND, 2, 7);
	}
}
END_TEST

START_TEST(both_roads_lead_to_the_same_bytes)
{
	add_simple(&a);
	for (unsigned int size = 1; size <= 4; size *= 2) {
		for (unsigned int offset = 0; offset < 256; offset += size)
			ck_assert_uint_eq(ecam_get(0, offset, size),
					  ports_get(0, offset, size));
	}
	ck_assert_uint_eq(ecam_get(0, PCI_VENDOR_ID, 4), 0x11e81234);
	ck_assert_uint_eq(ecam_get(0, PCI_CLASS_REVISION, 4), 0x00ff0000);
}
END_TEST

START_TEST(what_is_written_by_one_road_is_read_by_the_other)
{
	add_simple(&a);
	ports_set(0, PCI_INTERRUPT_LINE, 1, 0x2a);
	ck_assert_uint_eq(ecam_get(0, PCI_INTERRUPT_LINE, 1), 0x2a);
	ecam_set(0, PCI_COMMAND, 2, PCI_COMMAND_MASTER);
	ck_assert_uint_eq(ports_get(0, PCI_COMMAND, 2), PCI_COMMAND_MASTER);
}
END_TEST

START_TEST(only_ecam_reaches_extended_config_space)
{
	add_simple(&a);
	pci_set_32(&a.pci, 0x100, 0x12345678);
	pci_set_32(&a.pci, 0xffc, 0x9abcdef0);
	ck_assert_uint_eq(ecam_get(0, 0x100, 4), 0x12345678);
	ck_assert_uint_eq(ecam_get(0, 0xffc, 4), 0x9abcdef0);
	ck_assert_uint_eq(ecam_get(0, 0xfff, 1), 0x9a);
	/* The ports cannot say 0x100: bits 24 to 30 are not ours to decode. */
	io_bus_write(&pio, 0xcf8, 4, 0x80000000u | 1u << 24);
	ck_assert_uint_eq(io_bus_read(&pio, 0xcfc, 4), 0x11e81234);
}
END_TEST

START_TEST(accesses_that_cross_a_dword_or_are_too_wide_go_nowhere)
{
	add_simple(&a);
	ck_assert_uint_eq(ecam_get(0, 1, 2), 0xffff);
	ck_assert_uint_eq(ecam_get(0, 2, 4), 0xffffffff);
	ck_assert_uint_eq(io_bus_read(&mmio, ECAM, 8), UINT64_MAX);
	select_register(0, PCI_INTERRUPT_LINE);
	ck_assert_uint_eq(io_bus_read(&pio, 0xcfd, 2), 0xffff);
	ecam_set(0, PCI_COMMAND - 1, 2, 0xffff);
	io_bus_write(&mmio, ECAM, 8, UINT64_MAX);
	ck_assert_uint_eq(ecam_get(0, PCI_COMMAND, 2), 0);
}
END_TEST

START_TEST(the_address_port_takes_dwords_only)
{
	io_bus_write(&pio, 0xcf8, 4, 0xffffffff);
	ck_assert_uint_eq(io_bus_read(&pio, 0xcf8, 4), 0x80fffffc);
	io_bus_write(&pio, 0xcf8, 1, 0);
	io_bus_write(&pio, 0xcfa, 2, 0);
	ck_assert_uint_eq(io_bus_read(&pio, 0xcf8, 4), 0x80fffffc);
	ck_assert_uint_eq(io_bus_read(&pio, 0xcf8, 2), 0xffff);
	ck_assert_uint_eq(io_bus_read(&pio, 0xcf9, 1), 0xff);
}
END_TEST

START_TEST(the_data_port_needs_the_enable_bit_and_bus_0)
{
	add_simple(&a);
	io_bus_write(&pio, 0xcf8, 4, 0);
	ck_assert_uint_eq(io_bus_read(&pio, 0xcfc, 4), 0xffffffff);
	io_bus_write(&pio, 0xcf8, 4, 0x80010000);
	ck_assert_uint_eq(io_bus_read(&pio, 0xcfc, 4), 0xffffffff);
	io_bus_write(&pio, 0xcf8, 4, 0x80000000);
	ck_assert_uint_eq(io_bus_read(&pio, 0xcfc, 4), 0x11e81234);
	ck_assert_uint_eq(io_bus_read(&pio, 0xcfe, 2), 0x11e8);
	ck_assert_uint_eq(io_bus_read(&pio, 0xcff, 1), 0x11);
}
END_TEST

START_TEST(a_guest_changes_only_what_is_writable)
{
	add_simple(&a);
	pci_add_capability(&a.pci, PCI_CAP_ID_PM, 0x40);
	for (unsigned int offset = 0; offset < PCI_CONFIG_SIZE; offset += 4)
		set(&a, offset, 4, 0xffffffff);
	ck_assert_uint_eq(get(&a, PCI_VENDOR_ID, 4), 0x11e81234);
	ck_assert_uint_eq(get(&a, PCI_COMMAND, 2),
			  PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER |
				  PCI_COMMAND_PARITY | PCI_COMMAND_SERR |
				  PCI_COMMAND_INTX_DISABLE);
	ck_assert_uint_eq(get(&a, PCI_STATUS, 2), PCI_STATUS_CAP_LIST);
	ck_assert_uint_eq(get(&a, PCI_CLASS_REVISION, 4), 0x00ff0000);
	ck_assert_uint_eq(get(&a, PCI_CACHE_LINE_SIZE, 1), 0xff);
	ck_assert_uint_eq(get(&a, PCI_HEADER_TYPE, 1), 0);
	ck_assert_uint_eq(get(&a, PCI_BASE_ADDRESS_1, 4), 0);
	ck_assert_uint_eq(get(&a, PCI_CAPABILITY_LIST, 1), 0x40);
	ck_assert_uint_eq(get(&a, PCI_INTERRUPT_PIN, 1), 0);
	ck_assert_uint_eq(get(&a, 0x40, 4), PCI_CAP_ID_PM);
	ck_assert_uint_eq(get(&a, 0xffc, 4), 0);
}
END_TEST

START_TEST(capabilities_are_a_chain_newest_first)
{
	ck_assert_uint_eq(pci_get_16(&a.pci, PCI_STATUS), 0);
	pci_add_capability(&a.pci, PCI_CAP_ID_PM, 0x40);
	pci_add_capability(&a.pci, PCI_CAP_ID_MSI, 0x50);
	pci_add_capability(&a.pci, PCI_CAP_ID_MSIX, 0x48);
	add_card(&a);
	ck_assert_uint_eq(get(&a, PCI_STATUS, 2), PCI_STATUS_CAP_LIST);
	ck_assert_uint_eq(get(&a, PCI_CAPABILITY_LIST, 1), 0x48);
	ck_assert_uint_eq(get(&a, 0x48, 2), PCI_CAP_ID_MSIX | 0x50 << 8);
	ck_assert_uint_eq(get(&a, 0x50, 2), PCI_CAP_ID_MSI | 0x40 << 8);
	ck_assert_uint_eq(get(&a, 0x40, 2), PCI_CAP_ID_PM);
}
END_TEST

static uint32_t odd_config_read(struct pci_device *dev, unsigned int offset, unsigned int size)
{
	return pci_config_read(dev, offset, size) + 1;
}

static unsigned int odd_offset;

static void odd_config_write(struct pci_device *dev, unsigned int offset, unsigned int size,
			     uint32_t value)
{
	odd_offset = offset;
	pci_config_store(dev, offset, size, value);
}

START_TEST(a_device_may_answer_for_itself)
{
	static const struct pci_device_ops ops = {
		.config_read = odd_config_read,
		.config_write = odd_config_write,
	};

	a.pci.ops = &ops;
	set_bar(&a, 0, PCI_BAR_MEM32, 0x1000);
	add_card(&a);
	ck_assert_uint_eq(ports_get(0, 0, 4), 0x11e81235);
	decode(&a, PCI_COMMAND_MEMORY);
	ck_assert_uint_eq(odd_offset, PCI_COMMAND);
	set_address(&a, 0, MEM32);
	expect_nowhere(&a, 0); /* stored, and moved at its own time */
	pci_update_bars(&a.pci);
	expect_at(&a, 0, MEM32);
}
END_TEST

START_TEST(an_op_that_is_missing_does_nothing)
{
	static const struct pci_device_ops none = { 0 };

	a.pci.ops = &none;
	set_bar(&a, 0, PCI_BAR_MEM32, 0x1000);
	add_card(&a);
	pci_bus_reset(&bus);
	decode(&a, PCI_COMMAND_MEMORY);
	expect_at(&a, 0, MEM32);
	pci_bus_remove(&a.pci);
}
END_TEST

/* Slots. */

START_TEST(a_device_takes_the_lowest_free_slot)
{
	add_card(&a);
	add_card(&b);
	ck_assert_uint_eq(a.pci.devfn, PCI_DEVFN(0, 0));
	ck_assert_uint_eq(b.pci.devfn, PCI_DEVFN(1, 0));
	pci_bus_remove(&a.pci);
	add_card(&a);
	ck_assert_uint_eq(a.pci.devfn, PCI_DEVFN(0, 0));
}
END_TEST

START_TEST(a_taken_place_is_refused)
{
	ck_assert_int_eq(pci_bus_add(&bus, &a.pci, PCI_DEVFN(3, 1)), 0);
	ck_assert_int_eq(pci_bus_add(&bus, &b.pci, PCI_DEVFN(3, 1)), -EEXIST);
	ck_assert_ptr_null(b.pci.bus);
	ck_assert_uint_eq(ecam_get(PCI_DEVFN(3, 1), 0, 4), 0x11e81234);
}
END_TEST

START_TEST(the_33rd_device_finds_no_slot)
{
	static struct card cards[32];

	for (unsigned int i = 0; i < nitems(cards); i++) {
		init_card(&cards[i]);
		add_card(&cards[i]);
	}
	ck_assert_int_eq(pci_bus_add(&bus, &a.pci, PCI_ANY_SLOT), -ENOSPC);
	pci_bus_remove(&cards[17].pci);
	add_card(&a);
	ck_assert_uint_eq(a.pci.devfn, PCI_DEVFN(17, 0));
}
END_TEST

START_TEST(slots_that_are_to_be_last_are_taken_if_no_other_is_free)
{
	static struct card cards[32];
	static const unsigned int last[] = { 0, 7, 31 };

	pci_bus_take_last(&bus, UINT32_MAX);
	pci_bus_take_last(&bus, 1u << 31 | 1u << 7 | 1u);
	for (unsigned int i = 0; i < nitems(cards); i++) {
		init_card(&cards[i]);
		add_card(&cards[i]);
		ck_assert_uint_eq(cards[i].pci.devfn,
				  i < 29 ? PCI_DEVFN(i < 6 ? i + 1 : i + 2, 0)
					 : PCI_DEVFN(last[i - 29], 0));
	}
	ck_assert_int_eq(pci_bus_add(&bus, &a.pci, PCI_ANY_SLOT), -ENOSPC);
}
END_TEST

START_TEST(a_removed_device_is_gone_and_so_are_its_bars)
{
	add_simple(&a);
	pci_bus_reset(&bus);
	decode(&a, PCI_COMMAND_MEMORY);
	expect_at(&a, 0, MEM32);
	pci_bus_remove(&a.pci);
	expect_nothing_at(MEM32);
	ck_assert_uint_eq(a.nr_unmapped[0], 1);
	ck_assert_uint_eq(ecam_get(0, 0, 4), 0xffffffff);
	pci_bus_remove(&a.pci);
	pci_bus_finish(&bus);
	ck_assert(list_empty(&pio.regions));
	ck_assert(list_empty(&mmio.regions));
}
END_TEST

START_TEST(a_bus_whose_places_are_taken_leaves_nothing)
{
	struct io_region taken[] = {
		{ .base = ECAM + 0xff000, .size = 0x2000 },
		{ .base = 0xcfb, .size = 1 },
		{ .base = 0xcff, .size = 1 },
	};
	const struct pci_windows windows = { 0 };

	pci_bus_finish(&bus);
	pci_bus_finish(&bus);
	for (unsigned int i = 0; i < nitems(taken); i++) {
		struct io_bus *where = i == 0 ? &mmio : &pio;
		ck_assert_int_eq(io_bus_add(where, &taken[i]), 0);
		ck_assert_int_eq(pci_bus_init(&bus, &pio, &mmio, &windows, ECAM), -EEXIST);
		io_bus_remove(where, &taken[i]);
		ck_assert(list_empty(&pio.regions));
		ck_assert(list_empty(&mmio.regions));
	}
	pci_bus_finish(&bus);
}
END_TEST

/* BARs. */

START_TEST(a_bar_tells_its_size)
{
	static const struct {
		unsigned int bar;
		enum pci_bar_kind kind;
		enum pci_prefetch prefetch;
		uint64_t size;
		uint32_t low;
		uint32_t high;
	} cases[] = {
		{ 0, PCI_BAR_IO, PCI_NON_PREFETCHABLE, 4, 0xfffffffd, 0 },
		{ 1, PCI_BAR_IO, PCI_NON_PREFETCHABLE, 256, 0xffffff01, 0 },
		{ 2, PCI_BAR_MEM32, PCI_NON_PREFETCHABLE, 16, 0xfffffff0, 0 },
		{ 5, PCI_BAR_MEM32, PCI_PREFETCHABLE, 1u << 31, 0x80000008, 0 },
		{ 0, PCI_BAR_MEM64, PCI_NON_PREFETCHABLE, 0x4000, 0xffffc004, 0xffffffff },
		{ 4, PCI_BAR_MEM64, PCI_PREFETCHABLE, 1ull << 32, 0x0000000c, 0xffffffff },
		{ 2, PCI_BAR_MEM64, PCI_PREFETCHABLE, 1ull << 38, 0x0000000c, 0xffffffc0 },
	};

	for (unsigned int i = 0; i < nitems(cases); i++) {
		unsigned int reg = bar_register(cases[i].bar);
		init_card(&a);
		pci_set_bar(&a.pci, cases[i].bar, cases[i].kind, cases[i].prefetch,
			    cases[i].size, &bar_ops, NULL);
		add_card(&a);
		set(&a, reg, 4, 0xffffffff);
		ck_assert_uint_eq(get(&a, reg, 4), cases[i].low);
		if (cases[i].bar < 5) {
			set(&a, reg + 4, 4, 0xffffffff);
			ck_assert_uint_eq(get(&a, reg + 4, 4), cases[i].high);
		}
		set(&a, reg, 4, 0);
		ck_assert_uint_eq(get(&a, reg, 4),
				  cases[i].low & 0xf &
					  (cases[i].kind == PCI_BAR_IO ? 3u : 0xfu));
		pci_bus_remove(&a.pci);
	}
}
END_TEST

START_TEST(the_rom_tells_its_size_and_has_an_enable_bit)
{
	set_bar(&a, PCI_ROM, PCI_BAR_MEM32, 0x10000);
	add_card(&a);
	set(&a, PCI_ROM_ADDRESS, 4, 0xffffffff);
	ck_assert_uint_eq(get(&a, PCI_ROM_ADDRESS, 4), 0xffff0001);
	set(&a, PCI_ROM_ADDRESS, 4, 0xfffffffe);
	ck_assert_uint_eq(get(&a, PCI_ROM_ADDRESS, 4), 0xffff0000);
}
END_TEST

START_TEST(a_bar_is_decoded_only_while_its_kind_is_enabled)
{
	set_bar(&a, 0, PCI_BAR_MEM32, 0x1000);
	set_bar(&a, 1, PCI_BAR_IO, 0x100);
	add_card(&a);
	pci_bus_reset(&bus);
	expect_nowhere(&a, 0);
	expect_nowhere(&a, 1);
	decode(&a, PCI_COMMAND_MEMORY);
	expect_at(&a, 0, MEM32);
	expect_nowhere(&a, 1);
	decode(&a, PCI_COMMAND_IO);
	expect_nowhere(&a, 0);
	expect_nothing_at(MEM32);
	ck_assert_uint_eq(io_bus_read(&pio, IO_BASE + 8, 4), 0xa1000008);
	decode(&a, 0);
	ck_assert_uint_eq(io_bus_read(&pio, IO_BASE + 8, 4), 0xffffffff);
}
END_TEST

START_TEST(a_moved_bar_answers_at_its_new_place_only)
{
	add_simple(&a);
	pci_bus_reset(&bus);
	decode(&a, PCI_COMMAND_MEMORY);
	expect_at(&a, 0, MEM32);
	set_address(&a, 0, MEM32 + 0x8000);
	expect_at(&a, 0, MEM32 + 0x8000);
	expect_nothing_at(MEM32);
	ck_assert_uint_eq(a.nr_mapped[0], 2);
	ck_assert_uint_eq(a.nr_unmapped[0], 1);
	ck_assert_uint_eq(a.last_mapped, MEM32 + 0x8000);
}
END_TEST

START_TEST(writing_the_same_address_again_moves_nothing)
{
	add_simple(&a);
	pci_bus_reset(&bus);
	decode(&a, PCI_COMMAND_MEMORY);
	set_address(&a, 0, MEM32);
	decode(&a, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	ck_assert_uint_eq(a.nr_mapped[0], 1);
	ck_assert_uint_eq(a.nr_unmapped[0], 0);
}
END_TEST

START_TEST(sizing_with_decode_on_takes_the_bar_away_and_back)
{
	add_simple(&a);
	pci_bus_reset(&bus);
	decode(&a, PCI_COMMAND_MEMORY);
	set_address(&a, 0, 0xffffffff);
	expect_nowhere(&a, 0);
	set_address(&a, 0, MEM32);
	expect_at(&a, 0, MEM32);
	process_expect_no_log();
}
END_TEST

START_TEST(a_bar_outside_of_the_windows_is_not_decoded)
{
	static const uint32_t wrong[] = {
		0,                                                          /* RAM */
		0x00100000,                                                 /* RAM */
		ECAM,       MEM32 - 0x1000, MEM32 + MEM32_SIZE, 0xfec00000, /* IOAPIC */
		0xfee00000,                                                 /* local APICs */
		0xfffff000,
	};

	add_simple(&a);
	decode(&a, PCI_COMMAND_MEMORY);
	for (unsigned int i = 0; i < nitems(wrong); i++) {
		set_address(&a, 0, wrong[i]);
		expect_nowhere(&a, 0);
	}
	set_address(&a, 0, MEM32 + MEM32_SIZE - 0x1000);
	expect_at(&a, 0, MEM32 + MEM32_SIZE - 0x1000);
	ck_assert_uint_eq(ecam_get(0, 0, 4), 0x11e81234);
}
END_TEST

START_TEST(a_bar_larger_than_the_window_is_never_decoded)
{
	set_bar(&a, 0, PCI_BAR_MEM32, 2 * MEM32_SIZE);
	add_card(&a);
	decode(&a, PCI_COMMAND_MEMORY);
	set_address(&a, 0, MEM32);
	expect_nowhere(&a, 0);
}
END_TEST

START_TEST(an_io_bar_stays_out_of_the_platforms_ports)
{
	set_bar(&a, 0, PCI_BAR_IO, 0x10);
	add_card(&a);
	decode(&a, PCI_COMMAND_IO);
	set_address(&a, 0, 0xcf0);
	expect_nowhere(&a, 0);
	set_address(&a, 0, 0x3f0);
	expect_nowhere(&a, 0);
	set_address(&a, 0, 0x10000);
	expect_nowhere(&a, 0);
	set_address(&a, 0, 0xfff0);
	ck_assert_uint_eq(io_bus_read(&pio, 0xfff4, 4), 0xa0000004);
}
END_TEST

START_TEST(a_64_bit_bar_moves_with_either_half)
{
	set_bar(&a, 2, PCI_BAR_MEM64, 0x4000);
	add_card(&a);
	pci_bus_reset(&bus);
	decode(&a, PCI_COMMAND_MEMORY);
	expect_at(&a, 2, MEM64);
	set(&a, PCI_BASE_ADDRESS_2, 4, 0x8000);
	expect_at(&a, 2, MEM64 + 0x8000);
	set(&a, PCI_BASE_ADDRESS_3, 4, 0); /* 0x8000 is no window */
	expect_nowhere(&a, 2);
	set(&a, PCI_BASE_ADDRESS_2, 4, MEM32);
	expect_at(&a, 2, MEM32);
	set(&a, PCI_BASE_ADDRESS_3, 4, 0x10); /* MEM64, but 0xc0000000 into it */
	expect_nowhere(&a, 2);
}
END_TEST

START_TEST(the_rom_needs_both_enables)
{
	set_bar(&a, PCI_ROM, PCI_BAR_MEM32, 0x10000);
	add_card(&a);
	pci_bus_reset(&bus);
	decode(&a, PCI_COMMAND_MEMORY);
	expect_nowhere(&a, PCI_ROM);
	ck_assert_uint_eq(get(&a, PCI_ROM_ADDRESS, 4), MEM32);
	set(&a, PCI_ROM_ADDRESS, 4, MEM32 | PCI_ROM_ADDRESS_ENABLE);
	expect_at(&a, PCI_ROM, MEM32);
	decode(&a, 0);
	expect_nowhere(&a, PCI_ROM);
}
END_TEST

START_TEST(a_device_that_is_powered_down_decodes_nothing)
{
	add_simple(&a);
	pci_bus_reset(&bus);
	decode(&a, PCI_COMMAND_MEMORY);
	a.pci.powered_down = true;
	pci_update_bars(&a.pci);
	expect_nowhere(&a, 0);
	a.pci.powered_down = false;
	pci_update_bars(&a.pci);
	expect_at(&a, 0, MEM32);
}
END_TEST

/* Overlap. */

/* Both decode; b is put over a. */
static void add_overlapping(void)
{
	add_simple(&a);
	add_simple(&b);
	pci_bus_reset(&bus);
	decode(&a, PCI_COMMAND_MEMORY);
	decode(&b, PCI_COMMAND_MEMORY);
	set_address(&a, 0, MEM32 + 0x8000);
	set_address(&b, 0, MEM32 + 0x8000);
	expect_at(&a, 0, MEM32 + 0x8000);
	expect_nowhere(&b, 0);
	process_expect_log("overlaps another: not decoded");
}

START_TEST(a_bar_over_another_is_not_decoded_until_it_moves_away)
{
	add_overlapping();
	set_address(&b, 0, MEM32 + 0x9000);
	expect_at(&a, 0, MEM32 + 0x8000);
	expect_at(&b, 0, MEM32 + 0x9000);
}
END_TEST

START_TEST(moving_away_uncovers_the_other)
{
	add_overlapping();
	set_address(&a, 0, MEM32);
	expect_at(&a, 0, MEM32);
	expect_at(&b, 0, MEM32 + 0x8000);
}
END_TEST

START_TEST(switching_memory_off_uncovers_the_other)
{
	add_overlapping();
	decode(&a, 0);
	expect_at(&b, 0, MEM32 + 0x8000);
	decode(&a, PCI_COMMAND_MEMORY);
	expect_nowhere(&a, 0);
	expect_at(&b, 0, MEM32 + 0x8000);
}
END_TEST

START_TEST(removing_a_device_uncovers_the_other)
{
	add_overlapping();
	pci_bus_remove(&a.pci);
	expect_at(&b, 0, MEM32 + 0x8000);
}
END_TEST

START_TEST(two_bars_of_one_device_may_overlap_and_part)
{
	set_bar(&a, 0, PCI_BAR_MEM32, 0x1000);
	set_bar(&a, 1, PCI_BAR_MEM32, 0x4000);
	add_card(&a);
	decode(&a, PCI_COMMAND_MEMORY);
	set_address(&a, 0, MEM32 + 0x1000);
	set_address(&a, 1, MEM32);
	expect_at(&a, 0, MEM32 + 0x1000);
	expect_nowhere(&a, 1);
	set_address(&a, 0, MEM32 + 0x4000);
	expect_at(&a, 0, MEM32 + 0x4000);
	expect_at(&a, 1, MEM32);
}
END_TEST

START_TEST(a_guest_that_overlaps_for_ever_is_cut_off_in_the_log)
{
	unsigned int lines = 0;

	add_overlapping();
	for (unsigned int i = 0; i < 100; i++)
		decode(&b,
		       i % 2 ? PCI_COMMAND_MEMORY : PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	for (const char *p = process_log(); *p; p++)
		lines += *p == '\n';
	ck_assert_uint_le(lines, LOG_GUEST_BURST + 1);
}
END_TEST

/* Assignment. */

/* Each assigned BAR is aligned to its size, within its window, and overlaps no other. */
static void check_assignment(struct card *const *cards, unsigned int nr_cards)
{
	uint64_t starts[64], sizes[64];
	unsigned int n = 0;

	for (unsigned int i = 0; i < nr_cards; i++) {
		decode(cards[i], PCI_COMMAND_MEMORY | PCI_COMMAND_IO);
		for (unsigned int bar = 0; bar < PCI_NR_BARS; bar++) {
			const struct pci_bar *it = &cards[i]->pci.bars[bar];
			if (it->kind == PCI_BAR_NONE || bar == PCI_ROM)
				continue;
			ck_assert_msg(it->address != PCI_UNMAPPED, "card %u bar %u", i, bar);
			ck_assert(is_aligned(it->address, it->region.size));
			for (unsigned int k = 0; k < n && it->kind != PCI_BAR_IO; k++)
				ck_assert(!range_overlaps(it->address, it->region.size,
							  starts[k], sizes[k]));
			if (it->kind == PCI_BAR_IO)
				continue;
			starts[n] = it->address;
			sizes[n++] = it->region.size;
		}
	}
	process_expect_no_log();
}

START_TEST(every_bar_gets_an_aligned_place_of_its_own)
{
	struct card *const cards[] = { &a, &b };

	set_bar(&a, 0, PCI_BAR_MEM32, 0x1000);
	set_bar(&a, 1, PCI_BAR_IO, 0x20);
	set_bar(&a, 2, PCI_BAR_MEM32, 0x40000);
	set_bar(&a, 3, PCI_BAR_MEM32, 0x10);
	set_bar(&a, 4, PCI_BAR_MEM64, 0x10000000);
	set_bar(&b, 0, PCI_BAR_IO, 0x100);
	set_bar(&b, 1, PCI_BAR_IO, 0x4);
	set_bar(&b, 2, PCI_BAR_MEM32, 0x80000);
	set_bar(&b, 3, PCI_BAR_MEM64, 0x1000);
	set_bar(&b, 5, PCI_BAR_MEM32, 0x10000);
	add_card(&a);
	add_card(&b);
	pci_bus_reset(&bus);
	check_assignment(cards, nitems(cards));
	ck_assert_uint_ge(a.pci.bars[4].address, MEM64);
	ck_assert_uint_ge(b.pci.bars[3].address, MEM64);
}
END_TEST

START_TEST(largest_first_wastes_no_room)
{
	struct card *const cards[] = { &a };

	/* Exactly the window, if the small ones do not come between. */
	set_bar(&a, 0, PCI_BAR_MEM32, 0x10000);
	set_bar(&a, 1, PCI_BAR_MEM32, 0x80000);
	set_bar(&a, 2, PCI_BAR_MEM32, 0x20000);
	set_bar(&a, 3, PCI_BAR_MEM32, 0x40000);
	set_bar(&a, 4, PCI_BAR_MEM32, 0x10000);
	add_card(&a);
	pci_bus_reset(&bus);
	check_assignment(cards, nitems(cards));
}
END_TEST

START_TEST(a_64_bit_bar_goes_below_when_there_is_no_room_above)
{
	pci_bus_finish(&bus);
	init_bus(MEM32_SIZE, 0x1000);
	set_bar(&a, 0, PCI_BAR_MEM64, 0x4000);
	set_bar(&a, 2, PCI_BAR_MEM64, 0x1000);
	add_card(&a);
	pci_bus_reset(&bus);
	decode(&a, PCI_COMMAND_MEMORY);
	expect_at(&a, 0, MEM32);
	expect_at(&a, 2, MEM64);
}
END_TEST

START_TEST(without_an_upper_window_all_goes_below)
{
	pci_bus_finish(&bus);
	init_bus(MEM32_SIZE, 0);
	set_bar(&a, 0, PCI_BAR_MEM64, 0x4000);
	add_card(&a);
	pci_bus_reset(&bus);
	decode(&a, PCI_COMMAND_MEMORY);
	expect_at(&a, 0, MEM32);
}
END_TEST

START_TEST(a_bar_without_room_is_left_to_the_guest_and_named)
{
	set_bar(&a, 0, PCI_BAR_MEM32, 2 * MEM32_SIZE);
	set_bar(&a, 1, PCI_BAR_MEM32, 0x1000);
	add_card(&a);
	pci_bus_reset(&bus);
	process_expect_log("card: no room for bar 0 of 0x200000 bytes");
	decode(&a, PCI_COMMAND_MEMORY);
	expect_nowhere(&a, 0);
	expect_at(&a, 1, MEM32);
}
END_TEST

/* Interrupt pins. */

START_TEST(pins_are_swizzled_over_eight_lines)
{
	ck_assert_int_eq(pci_bus_add(&bus, &a.pci, PCI_DEVFN(0, 0)), 0);
	ck_assert_uint_eq(pci_intx_gsi(&a.pci, 1), 16);
	ck_assert_uint_eq(pci_intx_gsi(&a.pci, 4), 19);
	ck_assert_int_eq(pci_bus_add(&bus, &b.pci, PCI_DEVFN(7, 3)), 0);
	ck_assert_uint_eq(pci_intx_gsi(&b.pci, 1), 23);
	ck_assert_uint_eq(pci_intx_gsi(&b.pci, 2), 16);
	b.pci.devfn = PCI_DEVFN(31, 0);
	ck_assert_uint_eq(pci_intx_gsi(&b.pci, 1), 23);
}
END_TEST

START_TEST(reset_fills_in_the_interrupt_line)
{
	a.pci.config[PCI_INTERRUPT_PIN] = 2;
	add_card(&a);
	add_card(&b);
	set(&a, PCI_INTERRUPT_LINE, 1, 0x55);
	set(&b, PCI_INTERRUPT_LINE, 1, 0x55);
	pci_bus_reset(&bus);
	ck_assert_uint_eq(get(&a, PCI_INTERRUPT_LINE, 1), 17);
	ck_assert_uint_eq(get(&b, PCI_INTERRUPT_LINE, 1), 0); /* has no pin */
}
END_TEST

/* Reset. */

START_TEST(a_bus_reset_puts_everything_back)
{
	add_simple(&a);
	pci_bus_reset(&bus);
	decode(&a, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	set_address(&a, 0, MEM32 + 0x8000);
	set(&a, PCI_CACHE_LINE_SIZE, 1, 0x10);
	a.pci.powered_down = true;
	select_register(0, 0x10);
	pci_bus_reset(&bus);
	ck_assert_uint_eq(a.nr_resets, 2);
	ck_assert_uint_eq(get(&a, PCI_COMMAND, 2), 0);
	ck_assert_uint_eq(get(&a, PCI_CACHE_LINE_SIZE, 1), 0);
	ck_assert_uint_eq(get(&a, PCI_BASE_ADDRESS_0, 4), MEM32);
	ck_assert_uint_eq(io_bus_read(&pio, 0xcf8, 4), 0);
	expect_nothing_at(MEM32 + 0x8000);
	decode(&a, PCI_COMMAND_MEMORY);
	expect_at(&a, 0, MEM32);
}
END_TEST

START_TEST(a_card_that_is_reset_has_no_addresses)
{
	set_bar(&a, 0, PCI_BAR_MEM64, 0x4000);
	set_bar(&a, PCI_ROM, PCI_BAR_MEM32, 0x10000);
	add_card(&a);
	pci_bus_reset(&bus);
	ck_assert_uint_ne(get(&a, PCI_BASE_ADDRESS_1, 4), 0);
	ck_assert_uint_ne(get(&a, PCI_ROM_ADDRESS, 4), 0);
	pci_bus_reset(&bus); /* card_reset() looks */
	ck_assert_uint_eq(a.nr_resets, 2);
}
END_TEST

/* A guest that writes anything anywhere. */

static uint32_t random_state = 1;

static uint32_t random_number(void)
{
	random_state = random_state * 1664525 + 1013904223;
	return random_state >> 8;
}

/* What is decoded is as the registers say, within the windows, and nowhere twice. */
static void check_decoding(struct card *const *cards, unsigned int nr_cards)
{
	for (unsigned int i = 0; i < nr_cards; i++) {
		for (unsigned int bar = 0; bar < PCI_NR_BARS; bar++) {
			const struct pci_bar *it = &cards[i]->pci.bars[bar];
			unsigned int up = cards[i]->nr_mapped[bar];
			unsigned int down = cards[i]->nr_unmapped[bar];
			bool mapped = it->address != PCI_UNMAPPED;
			ck_assert_uint_eq(up - down, mapped);
			ck_assert(list_linked(&it->region.link) == mapped);
			if (!mapped)
				continue;
			ck_assert_uint_eq(it->region.base, it->address);
			ck_assert(is_aligned(it->address, it->region.size));
			if (it->kind == PCI_BAR_IO)
				ck_assert(range_within(it->address, it->region.size, IO_BASE,
						       0xf000));
			else
				ck_assert(range_within(it->address, it->region.size, MEM32,
						       MEM32_SIZE) ||
					  range_within(it->address, it->region.size, MEM64,
						       MEM64_SIZE));
		}
	}
}

START_TEST(a_guest_may_write_anything_anywhere)
{
	struct card *const cards[] = { &a, &b };
	static const uint32_t addresses[] = { MEM32, MEM32 + 0x10000, MEM32 + 0xf0000,
					      0x10,  0x1001,          0x2001 };
	static const unsigned int offsets[] = { 0x04, 0x10, 0x14, 0x18, 0x1c, 0x20, 0x30 };

	for (unsigned int i = 0; i < nitems(cards); i++) {
		set_bar(cards[i], 0, PCI_BAR_MEM32, 0x10000);
		set_bar(cards[i], 1, PCI_BAR_IO, 0x20);
		set_bar(cards[i], 2, PCI_BAR_MEM64, 0x4000);
		set_bar(cards[i], 4, PCI_BAR_MEM32, 0x10);
		set_bar(cards[i], PCI_ROM, PCI_BAR_MEM32, 0x800);
		pci_add_capability(&cards[i]->pci, PCI_CAP_ID_PM, 0x40);
		add_card(cards[i]);
	}
	pci_bus_reset(&bus);
	for (unsigned int i = 0; i < 20000; i++) {
		unsigned int devfn = random_number() % 3 * 8;
		unsigned int size = 1u << random_number() % 4;
		unsigned int offset = random_number() % 0x1000;
		uint32_t value = random_number();
		if (random_number() % 2) { /* something likely */
			offset = offsets[random_number() % nitems(offsets)];
			size = 4;
			value = addresses[random_number() % nitems(addresses)];
		}
		if (random_number() % 4 == 0)
			ecam_set(devfn, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_IO);
		if (random_number() % 2)
			io_bus_write(&mmio, ECAM + devfn * 0x1000 + offset, size, value);
		else if (random_number() % 8)
			ports_set(devfn, offset & 0xff, size, value);
		else
			io_bus_write(&pio, 0xcf8 + random_number() % 8, size, value);
		check_decoding(cards, nitems(cards));
	}
	for (unsigned int i = 0; i < nitems(cards); i++) {
		ck_assert_uint_gt(cards[i]->nr_mapped[0], 10);
		ck_assert_uint_eq(get(cards[i], PCI_VENDOR_ID, 4), 0x11e81234);
		ck_assert_uint_eq(get(cards[i], PCI_CAPABILITY_LIST, 1), 0x40);
		ck_assert_uint_eq(get(cards[i], 0x40, 2), PCI_CAP_ID_PM);
		pci_bus_remove(&cards[i]->pci);
	}
	check_decoding(cards, nitems(cards));
	pci_bus_finish(&bus);
	ck_assert(list_empty(&mmio.regions));
	ck_assert(list_empty(&pio.regions));
}
END_TEST

static bool stop;

static void *access_for_ever(void *opaque)
{
	bool *ret_ok = opaque;

	while (!__atomic_load_n(&stop, __ATOMIC_SEQ_CST)) {
		for (unsigned int i = 0; i < 4; i++) {
			uint64_t value = io_bus_read(&mmio, MEM32 + i * 0x1000 + 8, 4);
			*ret_ok &= value == 0xa0000008 || value == 0xffffffff;
		}
		*ret_ok &= ecam_get(0, 0, 4) == 0x11e81234;
	}
	return NULL;
}

START_TEST(accesses_race_with_moving_bars)
{
	pthread_t threads[2];
	bool ok[nitems(threads)];

	add_simple(&a);
	pci_bus_reset(&bus);
	for (unsigned int i = 0; i < nitems(threads); i++) {
		ok[i] = true;
		ck_assert_int_eq(pthread_create(&threads[i], NULL, access_for_ever, &ok[i]), 0);
	}
	for (unsigned int i = 0; i < 300; i++) {
		decode(&a, i % 8 ? PCI_COMMAND_MEMORY : 0);
		set_address(&a, 0, MEM32 + i % 4 * 0x1000);
	}
	__atomic_store_n(&stop, true, __ATOMIC_SEQ_CST);
	for (unsigned int i = 0; i < nitems(threads); i++) {
		pthread_join(threads[i], NULL);
		ck_assert(ok[i]);
	}
}
END_TEST

/* A device leaves while vCPUs run. */

#define HOT_SLOT 3u
#define HOT_DEVFN PCI_DEVFN(HOT_SLOT, 0)

static struct {
	bool entered, may_leave, removed, stop, wanted;
} race;            /* atomic */
static sem_t seen; /* the device was read that was wanted to be */

static bool is_set(const bool *flag)
{
	return __atomic_load_n(flag, __ATOMIC_SEQ_CST);
}

static void raise_flag(bool *flag)
{
	__atomic_store_n(flag, true, __ATOMIC_SEQ_CST);
}

static void wait_for_flag(const bool *flag)
{
	while (!is_set(flag))
		sched_yield();
}

/* Stays until it may leave, and somewhat longer; reads as whether the device was removed then. */
static uint64_t lingering_read(void *opaque, uint64_t offset, unsigned int size)
{
	(void)opaque;
	(void)offset;
	(void)size;
	raise_flag(&race.entered);
	wait_for_flag(&race.may_leave);
	for (unsigned int i = 0; i < 1000; i++)
		sched_yield();
	return is_set(&race.removed);
}

static void *read_bar(void *opaque)
{
	*(uint64_t *)opaque = io_bus_read(&mmio, MEM32, 4);
	return NULL;
}

static void *remove_device(void *opaque)
{
	pci_bus_remove(opaque);
	raise_flag(&race.removed);
	return NULL;
}

static void start_thread(pthread_t *thread, void *(*run)(void *), void *opaque)
{
	ck_assert_int_eq(pthread_create(thread, NULL, run, opaque), 0);
}

START_TEST(a_removal_waits_for_who_is_inside_a_bar)
{
	static const struct io_ops lingering_ops = { .read = lingering_read };
	uint64_t value = 2;
	pthread_t reader, remover;

	pci_set_bar(&a.pci, 0, PCI_BAR_MEM32, PCI_NON_PREFETCHABLE, 0x1000, &lingering_ops,
		    NULL);
	ck_assert_int_eq(pci_bus_add(&bus, &a.pci, HOT_DEVFN), 0);
	pci_bus_reset(&bus);
	decode(&a, PCI_COMMAND_MEMORY);
	start_thread(&reader, read_bar, &value);
	wait_for_flag(&race.entered);
	/* It moves while somebody is inside. */
	set_address(&a, 0, MEM32 + 0x8000);
	start_thread(&remover, remove_device, &a.pci);
	while (ecam_get(HOT_DEVFN, 0, 4) != UINT32_MAX)
		sched_yield();
	expect_nothing_at(MEM32 + 0x8000);
	/* The slot is free for the next one already. */
	ck_assert_int_eq(pci_bus_add(&bus, &b.pci, HOT_DEVFN), 0);
	ck_assert_uint_eq(get(&b, 0, 4), 0x11e81234);
	raise_flag(&race.may_leave);
	pthread_join(reader, NULL);
	pthread_join(remover, NULL);
	ck_assert_uint_eq(value, 0);
	ck_assert(is_set(&race.removed));
}
END_TEST

static uint64_t wanted_read(void *opaque, uint64_t offset, unsigned int size)
{
	if (__atomic_exchange_n(&race.wanted, false, __ATOMIC_SEQ_CST))
		sem_post(&seen);
	return bar_read(opaque, offset, size);
}

/* A driver that never looks whether anything is there, and moves its BAR about. */
static void *drive_for_ever(void *opaque)
{
	bool *ret_ok = opaque;

	for (uint32_t i = 0; !is_set(&race.stop); i++) {
		uint32_t at = MEM32 + i % 4 * 0x1000;
		ecam_set(HOT_DEVFN, PCI_BASE_ADDRESS_0, 4, at);
		ecam_set(HOT_DEVFN, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
		uint64_t value = io_bus_read(&mmio, at + 4, 4);
		uint32_t id = ecam_get(HOT_DEVFN, 0, 4);
		*ret_ok &= value == 0xc0000004 || value == UINT32_MAX;
		*ret_ok &= id == 0x11e81234 || id == UINT32_MAX;
	}
	return NULL;
}

/* What is freed is not touched any more: the sanitizers watch. */
START_TEST(devices_come_and_go_under_accesses)
{
	static const struct io_ops ops = { .read = wanted_read, .write = bar_write };
	pthread_t threads[2];
	bool ok[nitems(threads)] = { true, true };

	ck_assert_int_eq(sem_init(&seen, 0, 0), 0);
	for (unsigned int i = 0; i < nitems(threads); i++)
		start_thread(&threads[i], drive_for_ever, &ok[i]);
	for (unsigned int i = 0; i < 200; i++) {
		struct card *card = calloc(1, sizeof(*card));
		ck_assert_ptr_nonnull(card);
		card->number = 0xc;
		init_card(card);
		set_bar(card, 0, PCI_BAR_MEM32, 0x1000);
		card->pci.bars[0].region.ops = &ops;
		raise_flag(&race.wanted);
		ck_assert_int_eq(pci_bus_add(&bus, &card->pci, HOT_DEVFN), 0);
		sem_wait(&seen);
		pci_bus_remove(&card->pci);
		ck_assert_uint_eq(card->nr_mapped[0], card->nr_unmapped[0]);
		free(card);
	}
	raise_flag(&race.stop);
	for (unsigned int i = 0; i < nitems(threads); i++) {
		pthread_join(threads[i], NULL);
		ck_assert(ok[i]);
	}
	pci_bus_finish(&bus);
	ck_assert(list_empty(&mmio.regions));
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		where_no_device_is_all_reads_give_ones,
		both_roads_lead_to_the_same_bytes,
		what_is_written_by_one_road_is_read_by_the_other,
		only_ecam_reaches_extended_config_space,
		accesses_that_cross_a_dword_or_are_too_wide_go_nowhere,
		the_address_port_takes_dwords_only,
		the_data_port_needs_the_enable_bit_and_bus_0,
		a_guest_changes_only_what_is_writable,
		capabilities_are_a_chain_newest_first,
		a_device_may_answer_for_itself,
		an_op_that_is_missing_does_nothing,
		a_device_takes_the_lowest_free_slot,
		a_taken_place_is_refused,
		the_33rd_device_finds_no_slot,
		slots_that_are_to_be_last_are_taken_if_no_other_is_free,
		a_removed_device_is_gone_and_so_are_its_bars,
		a_bus_whose_places_are_taken_leaves_nothing,
		a_bar_tells_its_size,
		the_rom_tells_its_size_and_has_an_enable_bit,
		a_bar_is_decoded_only_while_its_kind_is_enabled,
		a_moved_bar_answers_at_its_new_place_only,
		writing_the_same_address_again_moves_nothing,
		sizing_with_decode_on_takes_the_bar_away_and_back,
		a_bar_outside_of_the_windows_is_not_decoded,
		a_bar_larger_than_the_window_is_never_decoded,
		an_io_bar_stays_out_of_the_platforms_ports,
		a_64_bit_bar_moves_with_either_half,
		the_rom_needs_both_enables,
		a_device_that_is_powered_down_decodes_nothing,
		a_bar_over_another_is_not_decoded_until_it_moves_away,
		moving_away_uncovers_the_other,
		switching_memory_off_uncovers_the_other,
		removing_a_device_uncovers_the_other,
		two_bars_of_one_device_may_overlap_and_part,
		a_guest_that_overlaps_for_ever_is_cut_off_in_the_log,
		every_bar_gets_an_aligned_place_of_its_own,
		largest_first_wastes_no_room,
		a_64_bit_bar_goes_below_when_there_is_no_room_above,
		without_an_upper_window_all_goes_below,
		a_bar_without_room_is_left_to_the_guest_and_named,
		pins_are_swizzled_over_eight_lines,
		reset_fills_in_the_interrupt_line,
		a_bus_reset_puts_everything_back,
		a_card_that_is_reset_has_no_addresses,
		a_guest_may_write_anything_anywhere,
		accesses_race_with_moving_bars,
		a_removal_waits_for_who_is_inside_a_bar,
		devices_come_and_go_under_accesses,
	};
	return run_tests("devices_pci", setup, NULL, tests, nitems(tests));
}
