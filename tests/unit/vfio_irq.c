/* SPDX-License-Identifier: MIT */
/* Interrupts of an assigned device: INTx, MSI, MSI-X, and the ways between them. */
#include <check.h>
#include <errno.h>
#include <string.h>

#include <linux/pci_regs.h>

#include "base/fd.h"

#include "tests/fakes/vfio_world.h"

#define NAME "0000:01:00.0"
#define INTX VFIO_PCI_INTX_IRQ_INDEX
#define MSI VFIO_PCI_MSI_IRQ_INDEX
#define MSIX VFIO_PCI_MSIX_IRQ_INDEX
#define ADDRESS 0xfee00000u
#define DATA 0x40u

static struct fake_device *dev;
static struct vfio_pci *vp;

static void setup(void)
{
	world_init();
	dev = add_whole_device(NAME, fake_add_group(7));
	vp = attach(NAME);
	(void)logged();
}

static void teardown(void)
{
	vfio_pci_detach(vp);
	check_nothing_left();
	world_finish();
}

static uint32_t intx_gsi(void)
{
	return pci_intx_gsi(&vp->pci, 1);
}

static void set_msi_control(uint16_t bits)
{
	config_write(vp, DEV_MSI + PCI_MSI_FLAGS, 2, bits);
}

/* Vectors as a power of two. */
static void enable_msi(unsigned int exponent)
{
	config_write(vp, DEV_MSI + PCI_MSI_ADDRESS_LO, 4, ADDRESS);
	config_write(vp, DEV_MSI + PCI_MSI_ADDRESS_HI, 4, 0);
	config_write(vp, DEV_MSI + PCI_MSI_DATA_64, 2, DATA);
	set_msi_control((uint16_t)(PCI_MSI_FLAGS_ENABLE | exponent << 4));
}

static void mask_msi(uint32_t bits)
{
	config_write(vp, DEV_MSI + PCI_MSI_MASK_64, 4, bits);
}

static uint64_t entry_address(unsigned int vector)
{
	return vp->pci.bars[0].address + DEV_TABLE + 16ull * vector;
}

static void mask_vector(unsigned int vector)
{
	io_bus_write(&world.mmio, entry_address(vector) + 12, 4, 1);
}

static void unmask_vector(unsigned int vector)
{
	io_bus_write(&world.mmio, entry_address(vector) + 12, 4, 0);
}

static void set_vector(unsigned int vector)
{
	io_bus_write(&world.mmio, entry_address(vector), 8, ADDRESS);
	io_bus_write(&world.mmio, entry_address(vector) + 8, 4, DATA + vector);
	unmask_vector(vector);
}

static void set_msix_control(uint16_t bits)
{
	config_write(vp, DEV_MSIX + PCI_MSIX_FLAGS, 2, bits);
}

static unsigned int delivered(unsigned int vector)
{
	return fake_delivered(ADDRESS, DATA + vector);
}

START_TEST(intx_is_on_from_the_start)
{
	ck_assert_uint_eq(dev->irqs[INTX].on, 1);
	fake_intx(dev, true);
	fake_run();
	ck_assert_uint_eq(fake.delivered[intx_gsi()], 1);
}
END_TEST

START_TEST(intx_fires_again_after_each_eoi_while_it_is_asserted)
{
	fake_intx(dev, true);
	fake_run();
	fake_run();
	ck_assert_uint_eq(fake.delivered[intx_gsi()], 1);
	for (unsigned int i = 2; i < 100; i++) {
		fake_eoi(intx_gsi());
		ck_assert_uint_eq(fake.delivered[intx_gsi()], i);
	}
	fake_intx(dev, false);
	fake_eoi(intx_gsi());
	ck_assert_uint_eq(fake.delivered[intx_gsi()], 99);
}
END_TEST

START_TEST(a_line_raised_at_start_is_heard)
{
	vfio_pci_detach(vp);
	fake_intx(dev, true);
	vp = attach(NAME);
	fake_run();
	ck_assert_uint_ge(fake.delivered[intx_gsi()], 1);
}
END_TEST

START_TEST(a_device_without_a_pin_has_no_intx)
{
	vfio_pci_detach(vp);
	dev->config[PCI_INTERRUPT_PIN] = 0;
	vp = attach(NAME);
	ck_assert_uint_eq(dev->irqs[INTX].on, 0);
}
END_TEST

START_TEST(a_pin_that_the_kernel_does_not_serve_is_not_shown)
{
	vfio_pci_detach(vp);
	dev->irqs[INTX].count = 0;
	vp = attach(NAME);
	ck_assert_uint_eq(config_read(vp, PCI_INTERRUPT_PIN, 1), 0);
	ck_assert_uint_eq(dev->irqs[INTX].on, 0);
}
END_TEST

START_TEST(msi_reaches_the_guest_with_the_vector_in_the_low_bits)
{
	enable_msi(2);
	ck_assert_uint_eq(dev->irqs[MSI].on, 4);
	for (unsigned int i = 0; i < 4; i++)
		ck_assert(fake_fire(dev, MSI, i));
	for (unsigned int i = 0; i < 4; i++)
		ck_assert_uint_eq(delivered(i), 1);
}
END_TEST

START_TEST(one_msi_vector_uses_the_whole_of_data)
{
	config_write(vp, DEV_MSI + PCI_MSI_ADDRESS_LO, 4, ADDRESS);
	config_write(vp, DEV_MSI + PCI_MSI_DATA_64, 2, 0x1237);
	set_msi_control(PCI_MSI_FLAGS_ENABLE);
	ck_assert_uint_eq(dev->irqs[MSI].on, 1);
	ck_assert(fake_fire(dev, MSI, 0));
	ck_assert_uint_eq(fake_delivered(ADDRESS, 0x1237), 1);
}
END_TEST

START_TEST(more_msi_vectors_than_the_device_has_are_not_enabled)
{
	enable_msi(5);
	ck_assert_uint_eq(dev->irqs[MSI].on, 4);
}
END_TEST

START_TEST(an_msi_moves_to_where_the_guest_says)
{
	enable_msi(0);
	config_write(vp, DEV_MSI + PCI_MSI_DATA_64, 2, 0x77);
	ck_assert(fake_fire(dev, MSI, 0));
	ck_assert_uint_eq(fake_delivered(ADDRESS, 0x77), 1);
	ck_assert_uint_eq(dev->irqs[MSI].switched_on, 1);
}
END_TEST

START_TEST(another_number_of_msi_vectors_is_taken_while_on)
{
	enable_msi(0);
	enable_msi(2);
	ck_assert_uint_eq(dev->irqs[MSI].on, 4);
	ck_assert(fake_fire(dev, MSI, 3));
	ck_assert_uint_eq(delivered(3), 1);
}
END_TEST

START_TEST(a_masked_msi_fires_once_when_unmasked)
{
	enable_msi(2);
	mask_msi(1u << 1);
	ck_assert(fake_fire(dev, MSI, 1));
	ck_assert(fake_fire(dev, MSI, 1));
	ck_assert_uint_eq(delivered(1), 0);
	ck_assert_uint_eq(config_read(vp, DEV_MSI + PCI_MSI_PENDING_64, 4), 1u << 1);
	mask_msi(0);
	ck_assert_uint_eq(delivered(1), 1);
	ck_assert_uint_eq(config_read(vp, DEV_MSI + PCI_MSI_PENDING_64, 4), 0);
}
END_TEST

START_TEST(fewer_msi_vectors_than_asked_for_will_do)
{
	dev->irqs[MSI].available = 3;
	enable_msi(2);
	ck_assert_uint_eq(dev->irqs[MSI].on, 2);
	ck_assert_ptr_nonnull(strstr(logged(), "3 of 4 MSI vectors to be had"));
	ck_assert(fake_fire(dev, MSI, 1));
	ck_assert_uint_eq(delivered(1), 1);
}
END_TEST

START_TEST(intx_is_off_while_msi_is_on_and_comes_back)
{
	enable_msi(0);
	ck_assert_uint_eq(dev->irqs[INTX].on, 0);
	ck_assert_int_lt(fake_last("irq_disable " NAME " 0"), fake_last("irq_bind " NAME " 1"));
	set_msi_control(0);
	ck_assert_uint_eq(dev->irqs[MSI].on, 0);
	ck_assert_uint_eq(dev->irqs[INTX].on, 1);
	fake_intx(dev, true);
	fake_run();
	ck_assert_uint_eq(fake.delivered[intx_gsi()], 1);
}
END_TEST

START_TEST(intx_is_off_while_msix_is_on_and_comes_back)
{
	set_vector(0);
	set_msix_control(PCI_MSIX_FLAGS_ENABLE);
	ck_assert_uint_eq(dev->irqs[INTX].on, 0);
	ck_assert_uint_eq(dev->irqs[MSIX].on, 1);
	set_msix_control(0);
	ck_assert_uint_eq(dev->irqs[MSIX].on, 0);
	ck_assert_uint_eq(dev->irqs[INTX].on, 1);
}
END_TEST

/* No guest should, and a guest may. */
START_TEST(msix_wins_over_msi_which_follows_it)
{
	enable_msi(1);
	set_vector(0);
	set_msix_control(PCI_MSIX_FLAGS_ENABLE);
	ck_assert_uint_eq(dev->irqs[MSI].on, 0);
	ck_assert_uint_eq(dev->irqs[MSIX].on, 1);
	enable_msi(2);
	ck_assert_uint_eq(dev->irqs[MSI].on, 0);
	set_msix_control(0);
	ck_assert_uint_eq(dev->irqs[MSI].on, 4);
	ck_assert(fake_fire(dev, MSI, 3));
	ck_assert_uint_eq(delivered(3), 1);
	set_msi_control(0);
	ck_assert_uint_eq(dev->irqs[INTX].on, 1);
}
END_TEST

START_TEST(round_and_round_leaves_nothing_behind)
{
	set_vector(3);
	for (unsigned int i = 0; i < 200; i++) {
		enable_msi(2);
		set_msix_control(PCI_MSIX_FLAGS_ENABLE);
		set_msi_control(0);
		set_msix_control(0);
	}
	ck_assert_uint_eq(dev->irqs[INTX].on, 1);
	ck_assert_uint_eq(fake.nr_routes, 0);
	ck_assert_uint_eq(fake.nr_irqfds, 1);
}
END_TEST

START_TEST(msix_reaches_the_guest)
{
	for (unsigned int i = 0; i < 4; i++)
		set_vector(i);
	set_msix_control(PCI_MSIX_FLAGS_ENABLE);
	ck_assert_uint_eq(dev->irqs[MSIX].switched_on, 1);
	for (unsigned int i = 0; i < 4; i++)
		ck_assert(fake_fire(dev, MSIX, i));
	for (unsigned int i = 0; i < 4; i++)
		ck_assert_uint_eq(delivered(i), 1);
}
END_TEST

/* Mailboxes of some devices depend on the enable bit alone. */
START_TEST(msix_with_every_vector_masked_is_enabled_in_hardware)
{
	set_msix_control(PCI_MSIX_FLAGS_ENABLE);
	ck_assert_uint_eq(dev->irqs[MSIX].on, 1);
	ck_assert_int_eq(dev->irqs[MSIX].fds[0], -1);
}
END_TEST

START_TEST(a_masked_vector_that_fires_is_delivered_once_when_unmasked)
{
	set_vector(2);
	set_msix_control(PCI_MSIX_FLAGS_ENABLE);
	mask_vector(2);
	ck_assert(fake_fire(dev, MSIX, 2));
	ck_assert(fake_fire(dev, MSIX, 2));
	ck_assert_uint_eq(delivered(2), 0);
	uint64_t pba = vp->pci.bars[0].address + DEV_PBA;
	ck_assert_uint_eq(io_bus_read(&world.mmio, pba, 8), 1u << 2);
	unmask_vector(2);
	ck_assert_uint_eq(delivered(2), 1);
	ck_assert_uint_eq(io_bus_read(&world.mmio, pba, 8), 0);
}
END_TEST

START_TEST(the_function_mask_holds_back_every_vector)
{
	set_vector(0);
	set_vector(1);
	set_msix_control(PCI_MSIX_FLAGS_ENABLE);
	set_msix_control(PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL);
	ck_assert(fake_fire(dev, MSIX, 0));
	ck_assert(fake_fire(dev, MSIX, 1));
	ck_assert_uint_eq(delivered(0) + delivered(1), 0);
	set_msix_control(PCI_MSIX_FLAGS_ENABLE);
	ck_assert_uint_eq(delivered(0), 1);
	ck_assert_uint_eq(delivered(1), 1);
}
END_TEST

START_TEST(late_vectors_are_bound_when_they_are_unmasked)
{
	set_msix_control(PCI_MSIX_FLAGS_ENABLE);
	for (unsigned int i = 0; i < DEV_NR_VECTORS; i++) {
		set_vector(i);
		ck_assert_uint_gt(dev->irqs[MSIX].on, i);
		unsigned int before = delivered(i);
		ck_assert(fake_fire(dev, MSIX, i));
		ck_assert_uint_eq(delivered(i), before + 1);
	}
	/* 1, 2, 4, 8, 16: growing costs interrupts, so it is done seldom. */
	ck_assert_uint_eq(dev->irqs[MSIX].switched_on, 5);
	ck_assert_uint_eq(dev->irqs[MSIX].on, DEV_NR_VECTORS);
}
END_TEST

/* One may have been lost while the hardware was off. */
START_TEST(growing_raises_the_vectors_that_lived_before)
{
	set_vector(0);
	set_vector(1);
	set_msix_control(PCI_MSIX_FLAGS_ENABLE);
	ck_assert_uint_eq(delivered(0) + delivered(1), 0);
	set_vector(2);
	ck_assert_uint_eq(delivered(0), 1);
	ck_assert_uint_eq(delivered(1), 1);
	ck_assert_uint_eq(delivered(2), 0);
	set_vector(3); /* fits in four */
	ck_assert_uint_eq(delivered(0), 1);
}
END_TEST

START_TEST(a_kernel_that_can_resize_grows_without_a_gap)
{
	vfio_pci_detach(vp);
	dev->irqs[MSIX].flags = 0;
	vp = attach(NAME);
	set_msix_control(PCI_MSIX_FLAGS_ENABLE);
	for (unsigned int i = DEV_NR_VECTORS; i-- > 0;)
		set_vector(i);
	ck_assert_uint_eq(dev->irqs[MSIX].switched_on, 1);
	for (unsigned int i = 0; i < DEV_NR_VECTORS; i++) {
		ck_assert_uint_eq(delivered(i), 0);
		ck_assert(fake_fire(dev, MSIX, i));
		ck_assert_uint_eq(delivered(i), 1);
	}
}
END_TEST

START_TEST(fewer_msix_vectors_than_needed_serve_the_first)
{
	dev->irqs[MSIX].available = 3;
	for (unsigned int i = 0; i < 5; i++)
		set_vector(i);
	set_msix_control(PCI_MSIX_FLAGS_ENABLE);
	ck_assert_uint_eq(dev->irqs[MSIX].on, 3);
	ck_assert_ptr_nonnull(strstr(logged(), "3 MSI-X vectors to be had"));
	for (unsigned int i = 0; i < 3; i++) {
		ck_assert(fake_fire(dev, MSIX, i));
		ck_assert_uint_eq(delivered(i), 1);
	}
	set_vector(6);
	ck_assert_uint_eq(dev->irqs[MSIX].switched_on, 1);
}
END_TEST

START_TEST(growing_that_fails_keeps_those_that_lived)
{
	set_vector(0);
	set_msix_control(PCI_MSIX_FLAGS_ENABLE);
	fake.nr_calls = 0;
	fake.fail_at = 2; /* the bind after the disable */
	set_vector(1);
	ck_assert(fake.failed);
	ck_assert_uint_eq(dev->irqs[MSIX].on, 1);
	ck_assert_ptr_nonnull(strstr(logged(), "bind MSI-X vectors"));
	unsigned int before = delivered(0);
	ck_assert(fake_fire(dev, MSIX, 0));
	ck_assert_uint_eq(delivered(0), before + 1);
}
END_TEST

START_TEST(no_free_route_leaves_a_vector_silent)
{
	fake.max_routes = 1;
	set_vector(0);
	set_vector(1);
	set_msix_control(PCI_MSIX_FLAGS_ENABLE);
	ck_assert(fake_fire(dev, MSIX, 0));
	ck_assert(fake_fire(dev, MSIX, 1));
	ck_assert_uint_eq(delivered(0), 1);
	ck_assert_uint_eq(delivered(1), 0);
}
END_TEST

/* Loop: the n-th call of switching to MSI, and of switching to MSI-X, fails. */
START_TEST(a_switch_that_fails_is_silent_and_can_be_tried_again)
{
	for (unsigned int n = 1; n < 8; n++) {
		fake.nr_calls = 0;
		fake.fail_at = n;
		if (_i == 0)
			enable_msi(1);
		else {
			set_vector(0);
			set_msix_control(PCI_MSIX_FLAGS_ENABLE);
		}
		fake.fail_at = 0;
		set_msi_control(0);
		set_msix_control(0);
		ck_assert_uint_eq(dev->irqs[INTX].on, 1);
	}
	enable_msi(1);
	ck_assert(fake_fire(dev, MSI, 1));
	ck_assert_uint_eq(delivered(1), 1);
}
END_TEST

START_TEST(a_guest_cannot_fill_the_log)
{
	dev->irqs[MSI].available = 2;
	for (unsigned int i = 0; i < 1000; i++) {
		enable_msi(2);
		set_msi_control(0);
	}
	const char *text = logged();
	unsigned int lines = 0;
	for (const char *at = strchr(text, '\n'); at; at = strchr(at + 1, '\n'))
		lines++;
	ck_assert_uint_le(lines, LOG_GUEST_BURST + 1);
}
END_TEST

START_TEST(reset_switches_back_to_intx)
{
	set_vector(0);
	set_msix_control(PCI_MSIX_FLAGS_ENABLE);
	enable_msi(2);
	mask_msi(3);
	pci_bus_reset(vp->pci.bus);
	ck_assert_uint_eq(dev->irqs[MSIX].on, 0);
	ck_assert_uint_eq(dev->irqs[MSI].on, 0);
	ck_assert_uint_eq(dev->irqs[INTX].on, 1);
	ck_assert_uint_eq(config_read(vp, DEV_MSI + PCI_MSI_FLAGS, 2),
			  PCI_MSI_FLAGS_64BIT | PCI_MSI_FLAGS_MASKBIT | 2 << 1);
	ck_assert_uint_eq(config_read(vp, DEV_MSI + PCI_MSI_ADDRESS_LO, 4), 0);
	ck_assert_uint_eq(config_read(vp, DEV_MSI + PCI_MSI_MASK_64, 4), 0);
	ck_assert_uint_eq(config_read(vp, DEV_MSIX + PCI_MSIX_FLAGS, 2), DEV_NR_VECTORS - 1);
}
END_TEST

#define NR_ROUNDS 1000u

static void *switch_modes(void *unused)
{
	(void)unused;
	for (unsigned int i = 0; i < NR_ROUNDS; i++) {
		set_msix_control(i % 3 ? PCI_MSIX_FLAGS_ENABLE : 0);
		set_msi_control(i % 5 ? PCI_MSI_FLAGS_ENABLE : 0);
		(void)config_read(vp, DEV_MSI + PCI_MSI_PENDING_64, 4);
	}
	return NULL;
}

static void *mask_and_unmask(void *table)
{
	uint64_t at = *(const uint64_t *)table;

	for (unsigned int i = 0; i < NR_ROUNDS; i++)
		io_bus_write(&world.mmio, at + 16ull * (i % DEV_NR_VECTORS) + 12, 4,
			     i / 16 % 2);
	return NULL;
}

static void *look(void *table)
{
	uint64_t at = *(const uint64_t *)table;

	for (unsigned int i = 0; i < NR_ROUNDS; i++) {
		(void)io_bus_read(&world.mmio, at + 16ull * (i % DEV_NR_VECTORS), 8);
		(void)io_bus_read(&world.mmio, at + DEV_PBA - DEV_TABLE, 8);
		(void)io_bus_read(&world.mmio, at - DEV_TABLE, 4);
	}
	return NULL;
}

/* Worth most under the thread sanitizer. */
START_TEST(vcpus_that_race_do_no_harm)
{
	static void *(*const vcpus[])(void *) = { switch_modes, mask_and_unmask,
						  mask_and_unmask, look };
	pthread_t threads[nitems(vcpus)];
	uint64_t table = entry_address(0);

	for (unsigned int i = 0; i < nitems(vcpus); i++)
		ck_assert_int_eq(pthread_create(&threads[i], NULL, vcpus[i], &table), 0);
	for (unsigned int i = 0; i < nitems(vcpus); i++)
		pthread_join(threads[i], NULL);
	set_msix_control(0);
	set_msi_control(0);
	ck_assert_uint_eq(dev->irqs[INTX].on, 1);
	ck_assert_uint_eq(fake.nr_irqfds, 1);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("vfio_irq");
	TCase *tests = tcase_create("irq");

	tcase_add_checked_fixture(tests, setup, teardown);
	tcase_add_test(tests, intx_is_on_from_the_start);
	tcase_add_test(tests, intx_fires_again_after_each_eoi_while_it_is_asserted);
	tcase_add_test(tests, a_line_raised_at_start_is_heard);
	tcase_add_test(tests, a_device_without_a_pin_has_no_intx);
	tcase_add_test(tests, a_pin_that_the_kernel_does_not_serve_is_not_shown);
	tcase_add_test(tests, msi_reaches_the_guest_with_the_vector_in_the_low_bits);
	tcase_add_test(tests, one_msi_vector_uses_the_whole_of_data);
	tcase_add_test(tests, more_msi_vectors_than_the_device_has_are_not_enabled);
	tcase_add_test(tests, an_msi_moves_to_where_the_guest_says);
	tcase_add_test(tests, another_number_of_msi_vectors_is_taken_while_on);
	tcase_add_test(tests, a_masked_msi_fires_once_when_unmasked);
	tcase_add_test(tests, fewer_msi_vectors_than_asked_for_will_do);
	tcase_add_test(tests, intx_is_off_while_msi_is_on_and_comes_back);
	tcase_add_test(tests, intx_is_off_while_msix_is_on_and_comes_back);
	tcase_add_test(tests, msix_wins_over_msi_which_follows_it);
	tcase_add_test(tests, round_and_round_leaves_nothing_behind);
	tcase_add_test(tests, msix_reaches_the_guest);
	tcase_add_test(tests, msix_with_every_vector_masked_is_enabled_in_hardware);
	tcase_add_test(tests, a_masked_vector_that_fires_is_delivered_once_when_unmasked);
	tcase_add_test(tests, the_function_mask_holds_back_every_vector);
	tcase_add_test(tests, late_vectors_are_bound_when_they_are_unmasked);
	tcase_add_test(tests, growing_raises_the_vectors_that_lived_before);
	tcase_add_test(tests, a_kernel_that_can_resize_grows_without_a_gap);
	tcase_add_test(tests, fewer_msix_vectors_than_needed_serve_the_first);
	tcase_add_test(tests, growing_that_fails_keeps_those_that_lived);
	tcase_add_test(tests, no_free_route_leaves_a_vector_silent);
	tcase_add_loop_test(tests, a_switch_that_fails_is_silent_and_can_be_tried_again, 0, 2);
	tcase_add_test(tests, a_guest_cannot_fill_the_log);
	tcase_add_test(tests, reset_switches_back_to_intx);
	tcase_add_test(tests, vcpus_that_race_do_no_harm);
	tcase_set_timeout(tests, 60);
	suite_add_tcase(suite, tests);
	SRunner *runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	int failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed != 0;
}
