/* SPDX-License-Identifier: MIT */
/* The PCI transport: queues' notify addresses, the interrupt line, what the status bits tell. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <linux/pci_regs.h>

#include "base/fd.h"

#include "devices/io_bus.h"
#include "devices/virtio_pci.h"
#include "memory/map.h"
#include "tests/fakes/process.h"
#include "tests/fakes/wires.h"

#define ECAM 0xe0000000ull
#define WINDOW (1ull << 36)
#define NOTIFY 0x3000u /* in the BAR, 4 bytes a queue */
#define ISR 0x1000u
#define NR_QUEUES 2u
#define MSIX_CONTROL (0x40u + PCI_MSIX_FLAGS)

static struct fake_wires wires;
static struct io_bus pio, mmio;
static struct pci_bus bus;
static struct memory_map map;
static struct virtio virtio;
static struct virtio_pci vp;
static unsigned int fds_before;

static unsigned int nr_kicks, nr_starts, nr_stops;

static void dev_kick(struct virtio *v, unsigned int index)
{
	(void)v;
	(void)index;
	nr_kicks++;
}

static void dev_start(struct virtio *v)
{
	(void)v;
	nr_starts++;
}

static void dev_stop(struct virtio *v)
{
	(void)v;
	nr_stops++;
}

static bool dev_reset(struct virtio *v)
{
	(void)v;
	return true;
}

static void dev_config_fill(struct virtio *v, void *space)
{
	memset(space, 0, v->config_size);
}

static const struct virtio_ops dev_ops = {
	.kick = dev_kick,
	.start = dev_start,
	.stop = dev_stop,
	.reset = dev_reset,
	.config_fill = dev_config_fill,
};

static int init(void)
{
	return virtio_pci_init(&vp, &virtio, &bus, &wires.wires, 0x00ff00);
}

static void setup(void)
{
	const struct pci_windows windows = { .mem64 = { WINDOW, 1ull << 30 } };
	const struct virtio_config config = {
		.ops = &dev_ops,
		.name = "card",
		.device_id = 5,
		.config_size = 16,
		.nr_queues = NR_QUEUES,
		.queue_sizes = { 128, 128 },
	};

	process_keep_log();
	fake_wires_init(&wires);
	memory_map_init(&map);
	io_bus_init(&pio);
	io_bus_init(&mmio);
	ck_assert_int_eq(pci_bus_init(&bus, &pio, &mmio, &windows, ECAM), 0);
	ck_assert_int_eq(virtio_init(&virtio, &map, NULL, &config), 0);
	fds_before = process_nr_fds();
	nr_kicks = nr_starts = nr_stops = 0;
}

static void teardown(void)
{
	virtio_pci_finish(&vp);
	ck_assert_uint_eq(wires.nr_irqfds, 0);
	ck_assert_uint_eq(wires.nr_routes, 0);
	ck_assert_uint_eq(wires.nr_ioeventfds, 0);
	ck_assert_uint_eq(process_nr_fds(), fds_before);
	virtio_finish(&virtio);
}

static void config_write(unsigned int offset, uint16_t value)
{
	io_bus_write(&mmio, ECAM + (vp.pci.devfn << 12) + offset, 2, value);
}

static uint16_t config_read(unsigned int offset)
{
	return (uint16_t)io_bus_read(&mmio, ECAM + (vp.pci.devfn << 12) + offset, 2);
}

/* On the bus, decoding. */
static void start(void)
{
	ck_assert_int_eq(init(), 0);
	pci_bus_reset(&bus);
	config_write(PCI_COMMAND, PCI_COMMAND_MEMORY);
}

static uint64_t notify_address(unsigned int queue)
{
	return vp.pci.bars[0].address + NOTIFY + 4ull * queue;
}

static bool was_kicked(unsigned int queue)
{
	return eventfd_take(virtio.queues[queue].kicked.fd);
}

static void raise_queue_interrupt(void)
{
	pthread_mutex_lock(&virtio.lock);
	virtio.transport->queue_interrupt(&virtio, 0);
	pthread_mutex_unlock(&virtio.lock);
}

static void raise_config_interrupt(void)
{
	pthread_mutex_lock(&virtio.lock);
	virtio.transport->config_interrupt(&virtio);
	pthread_mutex_unlock(&virtio.lock);
}

static uint64_t read_isr(void)
{
	return io_bus_read(&mmio, vp.pci.bars[0].address + ISR, 1);
}

static uint32_t gsi(void)
{
	return pci_intx_gsi(&vp.pci, 1);
}

START_TEST(notify_addresses_are_caught_while_the_bar_is_decoded)
{
	start();
	ck_assert_uint_eq(wires.nr_ioeventfds, NR_QUEUES);
	ck_assert(fake_wires_write(&wires, notify_address(1)));
	ck_assert(!was_kicked(0));
	ck_assert(was_kicked(1));
	config_write(PCI_COMMAND, 0);
	ck_assert_uint_eq(wires.nr_ioeventfds, 0);
	config_write(PCI_COMMAND, PCI_COMMAND_MEMORY);
	ck_assert_uint_eq(wires.nr_ioeventfds, NR_QUEUES);
}
END_TEST

START_TEST(they_move_with_the_bar)
{
	start();
	uint64_t before = notify_address(0);
	config_write(PCI_BASE_ADDRESS_0 + 2, 0x0100); /* by 16 MiB */
	ck_assert_uint_ne(notify_address(0), before);
	ck_assert_uint_eq(wires.nr_ioeventfds, NR_QUEUES);
	ck_assert(!fake_wires_write(&wires, before));
	ck_assert(fake_wires_write(&wires, notify_address(0)));
}
END_TEST

/* Loop: the n-th ioeventfd is not to be had. */
START_TEST(where_they_are_not_caught_they_trap)
{
	ck_assert_int_eq(init(), 0);
	pci_bus_reset(&bus);
	wires.fail_at = wires.nr_calls + (unsigned int)_i;
	config_write(PCI_COMMAND, PCI_COMMAND_MEMORY);
	ck_assert_uint_eq(wires.nr_ioeventfds, NR_QUEUES - 1);
	process_expect_log("falling back to trapping");
	for (unsigned int i = 0; i < NR_QUEUES; i++) {
		if (!fake_wires_write(&wires, notify_address(i)))
			io_bus_write(&mmio, notify_address(i), 2, i);
		ck_assert(was_kicked(i));
	}
	config_write(PCI_COMMAND, 0);
	ck_assert_uint_eq(wires.nr_ioeventfds, 0);
}
END_TEST

/* 1.2, 4.1.4.5.1. */
START_TEST(without_msix_the_line_is_raised_and_both_status_registers_say_why)
{
	start();
	ck_assert_uint_eq(config_read(PCI_STATUS) & PCI_STATUS_INTERRUPT, 0);
	raise_queue_interrupt();
	ck_assert_uint_eq(fake_wires_take(&wires, gsi()), 1);
	ck_assert_uint_eq(config_read(PCI_STATUS) & PCI_STATUS_INTERRUPT, PCI_STATUS_INTERRUPT);
	ck_assert_uint_eq(read_isr(), 1);
	ck_assert_uint_eq(config_read(PCI_STATUS) & PCI_STATUS_INTERRUPT, 0);
	ck_assert_uint_eq(read_isr(), 0);
	raise_config_interrupt();
	ck_assert_uint_eq(read_isr(), 2);
}
END_TEST

START_TEST(with_msix_the_isr_tells_of_config_changes_alone)
{
	start();
	config_write(MSIX_CONTROL, PCI_MSIX_FLAGS_ENABLE);
	raise_queue_interrupt();
	ck_assert_uint_eq(read_isr(), 0);
	raise_config_interrupt();
	ck_assert_uint_eq(config_read(PCI_STATUS) & PCI_STATUS_INTERRUPT, 0);
	ck_assert_uint_eq(read_isr(), 2);
	ck_assert_uint_eq(fake_wires_take(&wires, gsi()), 0);
}
END_TEST

START_TEST(what_was_raised_is_raised_again_once_the_line_may)
{
	start();
	raise_queue_interrupt();
	ck_assert_uint_eq(fake_wires_take(&wires, gsi()), 1);
	config_write(PCI_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_INTX_DISABLE);
	raise_queue_interrupt();
	ck_assert_uint_eq(fake_wires_take(&wires, gsi()), 0);
	config_write(PCI_COMMAND, PCI_COMMAND_MEMORY);
	ck_assert_uint_ge(fake_wires_take(&wires, gsi()), 1);
	ck_assert_uint_eq(read_isr(), 1);
	config_write(PCI_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_INTX_DISABLE);
	config_write(PCI_COMMAND, PCI_COMMAND_MEMORY);
	ck_assert_uint_eq(fake_wires_take(&wires, gsi()), 0);
}
END_TEST

START_TEST(at_the_end_of_the_interrupt_what_was_not_looked_at_raises_it_again)
{
	start();
	raise_queue_interrupt();
	ck_assert_uint_eq(fake_wires_take(&wires, gsi()), 1);
	fake_wires_eoi(&wires, gsi());
	vp.resample.ready(&vp.resample, EPOLLIN);
	ck_assert_uint_eq(fake_wires_take(&wires, gsi()), 1);
}
END_TEST

/* As a driver does that is through. */
static void set_driver_ok(void)
{
	pthread_mutex_lock(&virtio.lock);
	virtio.driver_features = VIRTIO_FEATURE(VIRTIO_F_VERSION_1);
	virtio_set_status(&virtio, VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER);
	virtio_set_status(&virtio, VIRTIO_CONFIG_S_FEATURES_OK);
	virtio_set_status(&virtio, VIRTIO_CONFIG_S_DRIVER_OK);
	ck_assert(virtio.status & VIRTIO_CONFIG_S_DRIVER_OK);
	pthread_mutex_unlock(&virtio.lock);
}

START_TEST(without_bus_mastering_it_rests)
{
	start();
	set_driver_ok();
	virtio_kick(&virtio, 0);
	ck_assert_uint_eq(nr_starts + nr_kicks, 0);
	config_write(PCI_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	ck_assert_uint_eq(nr_starts, 1);
	ck_assert_uint_eq(nr_kicks, NR_QUEUES); /* whatever there is by now */
	virtio_kick(&virtio, 0);
	config_write(PCI_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	ck_assert_uint_eq(nr_starts, 1);
	ck_assert_uint_eq(nr_kicks, NR_QUEUES + 1);
	ck_assert_uint_eq(nr_stops, 0);
	config_write(PCI_COMMAND, PCI_COMMAND_MEMORY);
	ck_assert_uint_eq(nr_stops, 1);
	virtio_kick(&virtio, 0);
	/* Whoever gives it back need not be whose queues these are. */
	config_write(PCI_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	virtio_kick(&virtio, 0);
	ck_assert_uint_eq(nr_starts, 1);
	ck_assert_uint_eq(nr_kicks, NR_QUEUES + 1);
	ck_assert(!(virtio.status & VIRTIO_CONFIG_S_DRIVER_OK));
	set_driver_ok();
	ck_assert_uint_eq(nr_starts, 2);
	ck_assert_uint_eq(nr_kicks, 2 * NR_QUEUES + 1);
	/* A reset takes it away, and a driver that comes then has to ask for it. */
	pci_bus_reset(&bus);
	set_driver_ok();
	ck_assert_uint_eq(nr_starts, 2);
}
END_TEST

/* The first vectors' bits. */
static uint64_t pending(void)
{
	return io_bus_read(&mmio, vp.pci.bars[0].address + vp.msix.config.pba_offset, 8);
}

/* A message is a write to memory, the line is not. */
START_TEST(without_bus_mastering_no_message_is_sent)
{
	start();
	config_write(MSIX_CONTROL, PCI_MSIX_FLAGS_ENABLE);
	pthread_mutex_lock(&virtio.lock);
	virtio.queues[0].vector = 0;
	pthread_mutex_unlock(&virtio.lock);
	raise_queue_interrupt();
	ck_assert_uint_eq(pending(), 0);
	config_write(PCI_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	raise_queue_interrupt();
	ck_assert_uint_eq(pending(), 1); /* it is masked */
}
END_TEST

START_TEST(a_reset_forgets_what_was_raised)
{
	start();
	raise_config_interrupt();
	pci_bus_reset(&bus);
	config_write(PCI_COMMAND, PCI_COMMAND_MEMORY);
	ck_assert_uint_eq(read_isr(), 0);
	ck_assert_uint_eq(config_read(PCI_STATUS) & PCI_STATUS_INTERRUPT, 0);
}
END_TEST

START_TEST(every_step_of_beginning_that_fails_leaves_nothing)
{
	unsigned int n = 1;

	for (;; n++) {
		wires.fail_at = wires.nr_calls + n;
		int r = init();
		if (r == 0)
			break;
		ck_assert_int_eq(r, -EIO);
		ck_assert_uint_eq(process_nr_fds(), fds_before);
		ck_assert_uint_eq(wires.nr_irqfds, 0);
		ck_assert_ptr_null(virtio.transport);
		ck_assert_ptr_null(bus.devices[0]);
	}
	ck_assert_uint_eq(n, 2); /* the line is connected */
	wires.fail_at = 0;
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("devices_virtio_pci");
	TCase *tests = tcase_create("virtio_pci");

	tcase_add_checked_fixture(tests, setup, teardown);
	tcase_add_test(tests, notify_addresses_are_caught_while_the_bar_is_decoded);
	tcase_add_test(tests, they_move_with_the_bar);
	tcase_add_loop_test(tests, where_they_are_not_caught_they_trap, 1, 3);
	tcase_add_test(tests,
		       without_msix_the_line_is_raised_and_both_status_registers_say_why);
	tcase_add_test(tests, with_msix_the_isr_tells_of_config_changes_alone);
	tcase_add_test(tests, what_was_raised_is_raised_again_once_the_line_may);
	tcase_add_test(tests,
		       at_the_end_of_the_interrupt_what_was_not_looked_at_raises_it_again);
	tcase_add_test(tests, without_bus_mastering_it_rests);
	tcase_add_test(tests, without_bus_mastering_no_message_is_sent);
	tcase_add_test(tests, a_reset_forgets_what_was_raised);
	tcase_add_test(tests, every_step_of_beginning_that_fails_leaves_nothing);
	suite_add_tcase(suite, tests);
	SRunner *runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	int failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed != 0;
}
