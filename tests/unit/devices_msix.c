/* SPDX-License-Identifier: MIT */
#include <errno.h>

#include <linux/pci_regs.h>

#include "base/fd.h"

#include "devices/msix.h"
#include "tests/fakes/process.h"
#include "tests/fakes/wires.h"

#define ECAM 0xb0000000u
#define CAP 0x50u
#define BAR 1u
#define BAR_SIZE 0x10000u
#define NR 70u /* more than one qword of pending bits */
#define TABLE 0x1000u
#define PBA 0x2000u
#define ADDRESS 0xfee00000u

static struct io_bus pio;
static struct io_bus mmio;
static struct pci_bus bus;
static struct pci_device dev;
static struct fake_wires wires;
static struct msix msix;
static unsigned int fds_before;

static const struct msix_config config = {
	.cap_offset = CAP,
	.nr_vectors = NR,
	.table_bar = BAR,
	.table_offset = TABLE,
	.pba_bar = BAR,
	.pba_offset = PBA,
};

static void dev_config_write(struct pci_device *d, unsigned int offset, unsigned int size,
			     uint32_t value)
{
	pci_config_write(d, offset, size, value);
	msix_control_changed(&msix);
}

static const struct pci_device_ops dev_ops = { .config_write = dev_config_write };

/* What an assigned device is told. */
static unsigned int nr_binds;
static unsigned int nr_unbinds;
static unsigned int nr_bound; /* vectors in use at the last bind */
static int bind_result;
static bool connected_before_bind;

static int hardware_bind(struct msix *m)
{
	nr_binds++;
	nr_bound = 0;
	for (unsigned int i = 0; i < m->config.nr_vectors; i++)
		nr_bound += m->vectors[i].irq.wires && m->vectors[i].irq.fd >= 0;
	connected_before_bind = wires.nr_irqfds > 0;
	return bind_result;
}

static void hardware_unbind(struct msix *m)
{
	(void)m;
	nr_unbinds++;
	ck_assert_uint_eq(wires.nr_irqfds, 0);
}

static const struct msix_ops hardware_ops = { .bind = hardware_bind,
					      .unbind = hardware_unbind };

static void setup(void)
{
	const struct pci_windows windows = { .mem32 = { 0xc0000000, 0x1000000 } };

	process_keep_log();
	fake_wires_init(&wires);
	io_bus_init(&pio);
	io_bus_init(&mmio);
	ck_assert_int_eq(pci_bus_init(&bus, &pio, &mmio, &windows, ECAM), 0);
	pci_device_init(&dev, &dev_ops, "card", 0x1234, 0x11e8, 0x00ff00);
	pci_set_bar(&dev, BAR, PCI_BAR_MEM32, PCI_NON_PREFETCHABLE, BAR_SIZE, NULL, NULL);
	pci_add_capability(&dev, PCI_CAP_ID_MSIX, CAP);
	ck_assert_int_eq(pci_bus_add(&bus, &dev, 0), 0);
	fds_before = process_nr_fds();
	ck_assert_int_eq(msix_init(&msix, &dev, &wires.wires, &config, NULL), 0);
}

static void use_hardware(void)
{
	msix_finish(&msix);
	ck_assert_int_eq(msix_init(&msix, &dev, &wires.wires, &config, &hardware_ops), 0);
}

static void expect_nothing_left(void)
{
	ck_assert_uint_eq(wires.nr_irqfds, 0);
	ck_assert_uint_eq(wires.nr_routes, 0);
	ck_assert_uint_eq(process_nr_fds(), fds_before);
}

static void set_control(uint16_t value)
{
	io_bus_write(&mmio, ECAM + CAP + PCI_MSIX_FLAGS, 2, value);
}

static uint16_t get_control(void)
{
	return (uint16_t)io_bus_read(&mmio, ECAM + CAP + PCI_MSIX_FLAGS, 2);
}

static void enable(void)
{
	set_control(PCI_MSIX_FLAGS_ENABLE);
}

static void write_at(uint64_t offset, unsigned int size, uint64_t value)
{
	ck_assert(msix_write(&msix, BAR, offset, size, value));
}

static uint64_t read_at(uint64_t offset, unsigned int size)
{
	uint64_t value = 0;

	ck_assert(msix_read(&msix, BAR, offset, size, &value));
	return value;
}

static uint64_t entry(unsigned int vector)
{
	return TABLE + vector * MSIX_ENTRY_SIZE;
}

/* The message of a vector: its number as data. */
static void program(unsigned int vector)
{
	write_at(entry(vector), 4, ADDRESS);
	write_at(entry(vector) + 4, 4, 0);
	write_at(entry(vector) + 8, 4, 0x40 + vector);
}

static void mask(unsigned int vector)
{
	write_at(entry(vector) + PCI_MSIX_ENTRY_VECTOR_CTRL, 4, 1);
}

static void unmask(unsigned int vector)
{
	write_at(entry(vector) + PCI_MSIX_ENTRY_VECTOR_CTRL, 4, 0);
}

static unsigned int take(unsigned int vector)
{
	return fake_wires_take_message(&wires, ADDRESS, 0x40 + vector);
}

static bool pending(unsigned int vector)
{
	return read_at(PBA + vector / 64 * 8, 8) >> vector % 64 & 1;
}

START_TEST(the_capability_tells_where_things_are)
{
	ck_assert_uint_eq(get_control(), NR - 1);
	ck_assert_uint_eq(io_bus_read(&mmio, ECAM + CAP + PCI_MSIX_TABLE, 4), TABLE | BAR);
	ck_assert_uint_eq(io_bus_read(&mmio, ECAM + CAP + PCI_MSIX_PBA, 4), PBA | BAR);
	set_control(0xffff);
	ck_assert_uint_eq(get_control(),
			  PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL | (NR - 1));
}
END_TEST

START_TEST(an_impossible_geometry_is_refused_and_leaves_nothing)
{
	static const struct msix_config wrong[] = {
		{ CAP, 0, BAR, TABLE, BAR, PBA },
		{ CAP, 2049, BAR, 0, BAR, 0x9000 },
		{ CAP, NR, 0, TABLE, BAR, PBA },                    /* no such BAR */
		{ CAP, NR, BAR, TABLE, 7, PBA },                    /* nor can it be */
		{ CAP, NR, 2, TABLE, BAR, PBA },                    /* a BAR of ports */
		{ CAP, NR, BAR, TABLE + 4, BAR, PBA },              /* misaligned */
		{ CAP, NR, BAR, TABLE, BAR, PBA + 4 },              /* misaligned */
		{ CAP, NR, BAR, BAR_SIZE - 16 * NR + 8, BAR, PBA }, /* sticks out */
		{ CAP, NR, BAR, BAR_SIZE, BAR, PBA },
		{ CAP, NR, BAR, TABLE, BAR, BAR_SIZE - 8 }, /* two qwords of bits */
		{ CAP, NR, BAR, 0xfffffff8, BAR, PBA },
		{ CAP, NR, BAR, TABLE, BAR, TABLE + 16 * NR - 8 }, /* overlap */
		{ CAP, NR, BAR, TABLE, BAR, TABLE - 8 },           /* overlap */
	};
	struct msix other;

	pci_set_bar(&dev, 2, PCI_BAR_IO, PCI_NON_PREFETCHABLE, 0x10000, NULL, NULL);
	for (unsigned int i = 0; i < nitems(wrong); i++) {
		int r = msix_init(&other, &dev, &wires.wires, &wrong[i], NULL);
		ck_assert_msg(r == -EINVAL, "case %u: %d", i, r);
		msix_finish(&other);
	}
	ck_assert_uint_eq(get_control(), NR - 1);
}
END_TEST

START_TEST(table_and_pending_bits_may_touch_and_fill_the_bar)
{
	static const struct msix_config right[] = {
		{ CAP, NR, BAR, 0, BAR, 16 * NR },
		{ CAP, NR, BAR, 16, BAR, 0 },
		{ CAP, 2048, BAR, 0x8000, BAR, 0 },
		{ CAP, 1, BAR, BAR_SIZE - 16, BAR, BAR_SIZE - 24 },
	};

	msix_finish(&msix);
	for (unsigned int i = 0; i < nitems(right); i++) {
		ck_assert_int_eq(msix_init(&msix, &dev, &wires.wires, &right[i], NULL), 0);
		msix_finish(&msix);
	}
}
END_TEST

START_TEST(every_vector_starts_masked)
{
	enable();
	for (unsigned int i = 0; i < NR; i++) {
		ck_assert_uint_eq(read_at(entry(i) + PCI_MSIX_ENTRY_VECTOR_CTRL, 4), 1);
		ck_assert_uint_eq(read_at(entry(i), 8), 0);
	}
	expect_nothing_left(); /* none of them costs a descriptor */
}
END_TEST

START_TEST(an_unmasked_vector_is_delivered)
{
	program(3);
	unmask(3);
	enable();
	msix_raise(&msix, 3);
	ck_assert_uint_eq(take(3), 1);
	msix_raise(&msix, 3);
	ck_assert_uint_eq(take(3), 1);
	ck_assert(!pending(3));
}
END_TEST

START_TEST(a_vector_unmasked_after_enabling_is_delivered)
{
	enable();
	program(69);
	unmask(69);
	msix_raise(&msix, 69);
	ck_assert_uint_eq(take(69), 1);
}
END_TEST

/* Somebody else may raise it: the kernel, with nobody in between. */
START_TEST(a_vector_has_an_eventfd_while_it_is_enabled)
{
	ck_assert_int_eq(msix_eventfd(&msix, 3), -1);
	enable();
	int fd = msix_eventfd(&msix, 3);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(msix_eventfd(&msix, 3), fd);
	ck_assert_int_eq(msix_eventfd(&msix, NR), -1);
	/* Masked: it is pending, and comes when it is not. */
	eventfd_signal(fd);
	ck_assert(pending(3));
	program(3);
	unmask(3);
	ck_assert_int_eq(msix_eventfd(&msix, 3), fd);
	ck_assert_uint_eq(take(3), 1);
	set_control(0);
	ck_assert_int_eq(msix_eventfd(&msix, 3), -1);
	msix_finish(&msix);
	expect_nothing_left();
}
END_TEST

START_TEST(while_off_what_is_raised_is_dropped)
{
	program(0);
	unmask(0);
	msix_raise(&msix, 0);
	ck_assert(!pending(0));
	enable();
	ck_assert_uint_eq(take(0), 0);
}
END_TEST

START_TEST(while_masked_what_is_raised_is_pending_and_comes_exactly_once)
{
	program(5);
	unmask(5);
	enable();
	mask(5);
	msix_raise(&msix, 5);
	msix_raise(&msix, 5);
	ck_assert(pending(5));
	ck_assert_uint_eq(take(5), 0);
	unmask(5);
	ck_assert(!pending(5));
	ck_assert_uint_eq(take(5), 1);
	mask(5);
	unmask(5);
	ck_assert_uint_eq(take(5), 0);
}
END_TEST

START_TEST(a_vector_that_was_never_unmasked_is_pending_too)
{
	enable();
	program(65);
	msix_raise(&msix, 65);
	ck_assert_uint_eq(read_at(PBA, 8), 0);
	ck_assert_uint_eq(read_at(PBA + 8, 8), 1u << 1);
	ck_assert_uint_eq(read_at(PBA + 8, 4), 1u << 1);
	ck_assert_uint_eq(read_at(PBA + 12, 4), 0);
	unmask(65);
	ck_assert_uint_eq(take(65), 1);
	ck_assert_uint_eq(read_at(PBA + 8, 8), 0);
}
END_TEST

START_TEST(the_function_mask_masks_all_and_keeps_each_own)
{
	for (unsigned int i = 0; i < 3; i++)
		program(i);
	unmask(0);
	unmask(1);
	enable();
	set_control(PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL);
	for (unsigned int i = 0; i < 3; i++)
		msix_raise(&msix, i);
	ck_assert_uint_eq(fake_wires_take_any(&wires), 0);
	ck_assert_uint_eq(read_at(PBA, 8), 7);
	enable();
	ck_assert_uint_eq(take(0), 1);
	ck_assert_uint_eq(take(1), 1);
	ck_assert_uint_eq(take(2), 0);
	ck_assert_uint_eq(read_at(PBA, 8), 4);
}
END_TEST

START_TEST(linux_enables_masked_and_then_lifts_the_mask)
{
	set_control(PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL);
	program(0);
	unmask(0);
	ck_assert_uint_eq(wires.nr_irqfds, 0);
	enable();
	msix_raise(&msix, 0);
	ck_assert_uint_eq(take(0), 1);
}
END_TEST

START_TEST(disabling_forgets_what_is_pending_and_leaves_nothing)
{
	program(0);
	unmask(0);
	enable();
	msix_raise(&msix, 0);
	(void)take(0);
	mask(0);
	msix_raise(&msix, 0);
	set_control(0);
	expect_nothing_left();
	ck_assert(!pending(0));
	enable();
	unmask(0);
	ck_assert_uint_eq(take(0), 0);
	ck_assert_uint_eq(read_at(entry(0) + 8, 4), 0x40); /* the table stays */
}
END_TEST

START_TEST(a_message_may_change_while_unmasked)
{
	program(0);
	unmask(0);
	enable();
	write_at(entry(0) + 8, 4, 0x99);
	msix_raise(&msix, 0);
	ck_assert_uint_eq(fake_wires_take_message(&wires, ADDRESS, 0x99), 1);
	ck_assert_uint_eq(wires.nr_routes, 1);
}
END_TEST

START_TEST(a_message_changed_while_masked_takes_the_pending_one_along)
{
	program(0);
	unmask(0);
	enable();
	mask(0);
	msix_raise(&msix, 0);
	write_at(entry(0) + 8, 4, 0x99);
	write_at(entry(0) + 4, 4, 0x1);
	unmask(0);
	ck_assert_uint_eq(fake_wires_take_message(&wires, 1ull << 32 | ADDRESS, 0x99), 1);
}
END_TEST

START_TEST(an_access_of_8_bytes_is_two_of_4)
{
	enable();
	write_at(entry(2), 8, 7ull << 32 | ADDRESS);
	write_at(entry(2) + 8, 8, 0x42);
	ck_assert_uint_eq(read_at(entry(2), 4), ADDRESS);
	ck_assert_uint_eq(read_at(entry(2) + 4, 4), 7);
	ck_assert_uint_eq(read_at(entry(2) + 8, 8), 0x42);
	msix_raise(&msix, 2);
	ck_assert_uint_eq(fake_wires_take_message(&wires, 7ull << 32 | ADDRESS, 0x42), 1);
	write_at(entry(2) + 8, 8, 1ull << 32 | 0x42);
	ck_assert_uint_eq(read_at(entry(2) + 12, 4), 1);
	msix_raise(&msix, 2);
	ck_assert(pending(2));
}
END_TEST

START_TEST(only_the_mask_bit_of_the_vector_control_is_kept)
{
	write_at(entry(0) + 12, 4, 0xfffffffe);
	ck_assert_uint_eq(read_at(entry(0) + 12, 4), 0);
	write_at(entry(0) + 12, 4, 0xffffffff);
	ck_assert_uint_eq(read_at(entry(0) + 12, 4), 1);
}
END_TEST

START_TEST(accesses_of_other_sizes_read_ones_and_write_nothing)
{
	static const unsigned int sizes[] = { 1, 2 };

	program(0);
	for (unsigned int i = 0; i < nitems(sizes); i++) {
		write_at(entry(0), sizes[i], 0);
		ck_assert_uint_eq(read_at(entry(0), sizes[i]), io_ones(sizes[i]));
		ck_assert_uint_eq(read_at(PBA, sizes[i]), io_ones(sizes[i]));
	}
	write_at(entry(0) + 2, 4, 0);
	write_at(entry(0) + 4, 8, 0);
	ck_assert_uint_eq(read_at(entry(0) + 4, 8), UINT64_MAX);
	ck_assert_uint_eq(read_at(entry(0), 4), ADDRESS);
	ck_assert_uint_eq(read_at(entry(0) + 8, 4), 0x40);
	/* Straddling the table's first byte is still the table's business. */
	ck_assert_uint_eq(read_at(TABLE - 2, 4), 0xffffffff);
	ck_assert_uint_eq(read_at(TABLE - 4, 8), UINT64_MAX);
}
END_TEST

START_TEST(pending_bits_are_read_only)
{
	enable();
	program(0);
	msix_raise(&msix, 0);
	write_at(PBA, 8, 0);
	write_at(PBA, 4, 0xfffffffe);
	ck_assert_uint_eq(read_at(PBA, 8), 1);
}
END_TEST

START_TEST(what_is_neither_table_nor_pending_bits_is_not_our_business)
{
	uint64_t value = 42;

	ck_assert(!msix_read(&msix, BAR, TABLE - 4, 4, &value));
	ck_assert(!msix_read(&msix, BAR, entry(NR), 4, &value));
	ck_assert(!msix_read(&msix, BAR, PBA + 16, 4, &value));
	ck_assert(!msix_read(&msix, BAR + 1, TABLE, 4, &value));
	ck_assert(!msix_write(&msix, BAR, entry(NR), 4, 0));
	ck_assert(!msix_write(&msix, BAR + 1, TABLE, 4, 0));
	ck_assert_uint_eq(value, 42);
}
END_TEST

START_TEST(a_vector_beyond_the_table_is_ignored)
{
	enable();
	msix_raise(&msix, NR);
	msix_raise(&msix, 0xffff);
	msix_raise(&msix, UINT32_MAX);
	expect_nothing_left();
}
END_TEST

START_TEST(a_reset_masks_all_and_forgets_all)
{
	program(0);
	unmask(0);
	program(1);
	enable();
	msix_raise(&msix, 1);
	set_control(PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL);
	msix_reset(&msix);
	expect_nothing_left();
	ck_assert_uint_eq(get_control(), NR - 1);
	ck_assert_uint_eq(read_at(entry(0), 8), 0);
	ck_assert_uint_eq(read_at(entry(0) + 8, 8), 1ull << 32);
	ck_assert_uint_eq(read_at(PBA, 8), 0);
	/* The function mask is gone as well. */
	program(0);
	unmask(0);
	enable();
	msix_raise(&msix, 0);
	ck_assert_uint_eq(take(0), 1);
}
END_TEST

START_TEST(finishing_while_in_use_leaves_nothing)
{
	struct msix zeroed = { 0 };

	program(0);
	unmask(0);
	enable();
	msix_raise(&msix, 1);
	msix_finish(&msix);
	expect_nothing_left();
	msix_finish(&msix);
	msix_finish(&zeroed);
	msix_reset(&msix);
	msix_raise(&msix, 0);
	msix_control_changed(&msix);
	ck_assert(!msix_write(&msix, BAR, TABLE, 4, 0));
}
END_TEST

START_TEST(hardware_is_bound_before_anything_is_connected)
{
	use_hardware();
	program(0);
	program(1);
	unmask(0);
	unmask(1);
	enable();
	ck_assert_uint_eq(nr_binds, 1);
	ck_assert_uint_eq(nr_bound, 2);
	ck_assert(!connected_before_bind);
	ck_assert_uint_eq(wires.nr_irqfds, 2);
	set_control(0);
	ck_assert_uint_eq(nr_unbinds, 1);
	expect_nothing_left();
}
END_TEST

START_TEST(hardware_is_bound_even_with_no_vector_in_use_yet)
{
	use_hardware();
	enable();
	ck_assert_uint_eq(nr_binds, 1);
	ck_assert_uint_eq(nr_bound, 0);
}
END_TEST

START_TEST(hardware_is_bound_anew_only_when_the_set_grows)
{
	use_hardware();
	enable();
	program(7);
	unmask(7);
	ck_assert_uint_eq(nr_binds, 2);
	ck_assert_uint_eq(nr_bound, 1);
	mask(7);
	unmask(7);
	write_at(entry(7) + 8, 4, 0x99);
	set_control(PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL);
	enable();
	ck_assert_uint_eq(nr_binds, 2);
	program(8);
	unmask(8);
	ck_assert_uint_eq(nr_binds, 3);
	ck_assert_uint_eq(nr_bound, 2);
}
END_TEST

START_TEST(a_failing_bind_leaves_nothing_once_disabled)
{
	use_hardware();
	bind_result = -EINVAL;
	program(0);
	unmask(0);
	enable();
	ck_assert_uint_eq(nr_binds, 1);
	set_control(0);
	ck_assert_uint_eq(nr_unbinds, 1);
	expect_nothing_left();
	bind_result = 0;
	enable();
	msix_raise(&msix, 0);
	ck_assert_uint_eq(take(0), 1);
}
END_TEST

START_TEST(a_reset_unbinds_the_hardware_once)
{
	use_hardware();
	enable();
	msix_reset(&msix);
	msix_reset(&msix);
	ck_assert_uint_eq(nr_unbinds, 1);
	msix_finish(&msix);
	ck_assert_uint_eq(nr_unbinds, 1);
}
END_TEST

/* Each of the calls that wiring three vectors takes fails once. */
START_TEST(a_vector_that_cannot_be_wired_is_silent_and_named)
{
	unsigned int n = 1;

	for (unsigned int i = 0; i < 3; i++) {
		program(i);
		unmask(i);
	}
	for (;; n++) {
		wires.nr_calls = 0;
		wires.fail_at = n;
		enable();
		bool failed = wires.nr_calls >= n;
		wires.fail_at = 0;
		if (!failed)
			break;
		process_expect_log("msix: card: no route for vector");
		for (unsigned int i = 0; i < 3; i++)
			msix_raise(&msix, i);
		ck_assert_uint_eq(fake_wires_take_any(&wires), 2);
		mask((n - 1) / 2);
		unmask((n - 1) / 2); /* the guest tries again: nothing was lost */
		ck_assert_uint_eq(fake_wires_take_any(&wires), 1);
		set_control(0);
		expect_nothing_left();
	}
	ck_assert_uint_eq(n, 7); /* three vectors, a route and an irqfd each */
}
END_TEST

START_TEST(a_vector_without_an_eventfd_is_silent_and_named)
{
	enable();
	program(0);
	process_forbid_fds();
	unmask(0);
	msix_raise(&msix, 0);
	msix_raise(&msix, 1);
	process_allow_fds();
	process_expect_log("msix: card: no eventfd for vector 0");
	expect_nothing_left();
	ck_assert_uint_eq(read_at(PBA, 8), 0);
	mask(0);
	unmask(0);
	msix_raise(&msix, 0);
	ck_assert_uint_eq(take(0), 1);
}
END_TEST

START_TEST(a_guest_that_runs_out_of_eventfds_is_cut_off_in_the_log)
{
	unsigned int lines = 0;

	enable();
	process_forbid_fds();
	for (unsigned int i = 0; i < NR; i++)
		unmask(i);
	process_allow_fds();
	for (const char *p = process_log(); *p; p++)
		lines += *p == '\n';
	ck_assert_uint_eq(lines, LOG_GUEST_BURST + 1);
	set_control(0);
	expect_nothing_left();
}
END_TEST

static bool stop;
static unsigned int nr_raised;

static void *raise_for_ever(void *opaque)
{
	(void)opaque;
	while (!__atomic_load_n(&stop, __ATOMIC_SEQ_CST)) {
		msix_raise(&msix, 0);
		__atomic_fetch_add(&nr_raised, 1, __ATOMIC_SEQ_CST);
	}
	return NULL;
}

START_TEST(raising_races_with_masking_and_disabling)
{
	pthread_t thread;

	program(0);
	ck_assert_int_eq(pthread_create(&thread, NULL, raise_for_ever, NULL), 0);
	for (unsigned int i = 0; i < 200; i++) {
		enable();
		unmask(0);
		(void)read_at(PBA, 8);
		mask(0);
		set_control(i % 2 ? 0 : PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL);
	}
	__atomic_store_n(&stop, true, __ATOMIC_SEQ_CST);
	pthread_join(thread, NULL);
	msix_finish(&msix);
	expect_nothing_left();
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		the_capability_tells_where_things_are,
		an_impossible_geometry_is_refused_and_leaves_nothing,
		table_and_pending_bits_may_touch_and_fill_the_bar,
		every_vector_starts_masked,
		an_unmasked_vector_is_delivered,
		a_vector_unmasked_after_enabling_is_delivered,
		a_vector_has_an_eventfd_while_it_is_enabled,
		while_off_what_is_raised_is_dropped,
		while_masked_what_is_raised_is_pending_and_comes_exactly_once,
		a_vector_that_was_never_unmasked_is_pending_too,
		the_function_mask_masks_all_and_keeps_each_own,
		linux_enables_masked_and_then_lifts_the_mask,
		disabling_forgets_what_is_pending_and_leaves_nothing,
		a_message_may_change_while_unmasked,
		a_message_changed_while_masked_takes_the_pending_one_along,
		an_access_of_8_bytes_is_two_of_4,
		only_the_mask_bit_of_the_vector_control_is_kept,
		accesses_of_other_sizes_read_ones_and_write_nothing,
		pending_bits_are_read_only,
		what_is_neither_table_nor_pending_bits_is_not_our_business,
		a_vector_beyond_the_table_is_ignored,
		a_reset_masks_all_and_forgets_all,
		finishing_while_in_use_leaves_nothing,
		hardware_is_bound_before_anything_is_connected,
		hardware_is_bound_even_with_no_vector_in_use_yet,
		hardware_is_bound_anew_only_when_the_set_grows,
		a_failing_bind_leaves_nothing_once_disabled,
		a_reset_unbinds_the_hardware_once,
		a_vector_that_cannot_be_wired_is_silent_and_named,
		a_vector_without_an_eventfd_is_silent_and_named,
		a_guest_that_runs_out_of_eventfds_is_cut_off_in_the_log,
		raising_races_with_masking_and_disabling,
	};
	return run_tests("devices_msix", setup, NULL, tests, nitems(tests));
}
