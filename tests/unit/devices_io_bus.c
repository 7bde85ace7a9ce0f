/* SPDX-License-Identifier: MIT */
#include <errno.h>

#include "devices/io_bus.h"
#include "tests/fakes/process.h"

struct device {
	struct io_region region;
	uint64_t answer;
	uint64_t offset; /* of the last access */
	unsigned int size;
	uint64_t value; /* of the last write */
	unsigned int nr_reads;
	unsigned int nr_writes;
};

static struct io_bus bus;
static struct device a, b;

static uint64_t device_read(void *opaque, uint64_t offset, unsigned int size)
{
	struct device *dev = opaque;

	dev->offset = offset;
	dev->size = size;
	dev->nr_reads++;
	return dev->answer;
}

static void device_write(void *opaque, uint64_t offset, unsigned int size, uint64_t value)
{
	struct device *dev = opaque;

	dev->offset = offset;
	dev->size = size;
	dev->value = value;
	dev->nr_writes++;
}

static const struct io_ops device_ops = { .read = device_read, .write = device_write };

static int add(struct device *dev, uint64_t base, uint64_t size)
{
	dev->region.base = base;
	dev->region.size = size;
	dev->region.ops = &device_ops;
	dev->region.opaque = dev;
	return io_bus_add(&bus, &dev->region);
}

static void setup(void)
{
	io_bus_init(&bus);
	a.answer = 0x1122334455667788;
	b.answer = 0xbbbbbbbbbbbbbbbb;
}

START_TEST(an_access_reaches_its_device_with_offset_and_size)
{
	ck_assert_int_eq(add(&a, 0x3f8, 8), 0);
	ck_assert_uint_eq(io_bus_read(&bus, 0x3fd, 1), 0x88);
	ck_assert_uint_eq(a.offset, 5);
	ck_assert_uint_eq(a.size, 1);
	io_bus_write(&bus, 0x3f8, 4, 0xcafe);
	ck_assert_uint_eq(a.offset, 0);
	ck_assert_uint_eq(a.size, 4);
	ck_assert_uint_eq(a.value, 0xcafe);
}
END_TEST

START_TEST(values_are_cut_to_the_size_of_the_access)
{
	static const struct {
		unsigned int size;
		uint64_t value;
	} cases[] = {
		{ 1, 0x88 },
		{ 2, 0x7788 },
		{ 4, 0x55667788 },
		{ 8, 0x1122334455667788 },
	};

	ck_assert_int_eq(add(&a, 0, 8), 0);
	for (unsigned int i = 0; i < nitems(cases); i++) {
		ck_assert_uint_eq(io_bus_read(&bus, 0, cases[i].size), cases[i].value);
		io_bus_write(&bus, 0, cases[i].size, a.answer);
		ck_assert_uint_eq(a.value, cases[i].value);
	}
}
END_TEST

START_TEST(reads_of_nothing_give_ones_and_writes_vanish)
{
	ck_assert_uint_eq(io_bus_read(&bus, 0x80, 1), 0xff);
	ck_assert_uint_eq(io_bus_read(&bus, 0x80, 2), 0xffff);
	ck_assert_uint_eq(io_bus_read(&bus, 0x80, 4), 0xffffffff);
	ck_assert_uint_eq(io_bus_read(&bus, UINT64_MAX, 8), UINT64_MAX);
	io_bus_write(&bus, 0x80, 4, 1);
}
END_TEST

START_TEST(an_access_that_straddles_an_end_is_unclaimed)
{
	ck_assert_int_eq(add(&a, 0x1000, 0x10), 0);
	ck_assert_int_eq(add(&b, 0x1010, 0x10), 0);
	ck_assert_uint_eq(io_bus_read(&bus, 0xffe, 4), 0xffffffff);
	ck_assert_uint_eq(io_bus_read(&bus, 0x100e, 4), 0xffffffff);
	ck_assert_uint_eq(io_bus_read(&bus, 0x101e, 4), 0xffffffff);
	io_bus_write(&bus, 0x100e, 4, 0);
	ck_assert_uint_eq(a.nr_reads + a.nr_writes + b.nr_reads + b.nr_writes, 0);
	ck_assert_uint_eq(io_bus_read(&bus, 0x100c, 4), 0x55667788);
}
END_TEST

START_TEST(a_region_may_end_exactly_at_2_to_the_64)
{
	ck_assert_int_eq(add(&a, UINT64_MAX - 0xf, 0x10), 0);
	ck_assert_uint_eq(io_bus_read(&bus, UINT64_MAX, 1), 0x88);
	ck_assert_uint_eq(a.offset, 0xf);
	ck_assert_uint_eq(io_bus_read(&bus, UINT64_MAX, 2), 0xffff);
}
END_TEST

START_TEST(an_empty_or_wrapping_region_is_refused)
{
	ck_assert_int_eq(add(&a, 0x1000, 0), -EINVAL);
	ck_assert_int_eq(add(&a, UINT64_MAX, 2), -EINVAL);
	ck_assert(!list_linked(&a.region.link));
}
END_TEST

START_TEST(adding_an_overlapping_region_is_refused)
{
	ck_assert_int_eq(add(&a, 0x1000, 0x100), 0);
	ck_assert_int_eq(add(&b, 0x1000, 0x100), -EEXIST);
	ck_assert_int_eq(add(&b, 0xff0, 0x11), -EEXIST);
	ck_assert_int_eq(add(&b, 0x10ff, 1), -EEXIST);
	ck_assert_int_eq(add(&b, 0, 0x10000), -EEXIST);
	ck_assert(!list_linked(&b.region.link));
	ck_assert_int_eq(add(&b, 0x1100, 0x100), 0);
}
END_TEST

START_TEST(regions_are_found_whatever_the_order_of_adding)
{
	struct device devices[5] = { 0 };
	static const unsigned int order[] = { 3, 0, 4, 1, 2 };

	for (unsigned int i = 0; i < nitems(order); i++) {
		devices[order[i]].answer = order[i];
		ck_assert_int_eq(add(&devices[order[i]], order[i] * 0x100, 0x80), 0);
	}
	for (unsigned int i = 0; i < nitems(order); i++) {
		ck_assert_uint_eq(io_bus_read(&bus, i * 0x100 + 0x7f, 1), i);
		ck_assert_uint_eq(io_bus_read(&bus, i * 0x100 + 0x80, 1), 0xff);
	}
}
END_TEST

START_TEST(a_removed_region_is_unclaimed_and_may_be_added_elsewhere)
{
	ck_assert_int_eq(add(&a, 0x1000, 0x100), 0);
	io_bus_remove(&bus, &a.region);
	ck_assert_uint_eq(io_bus_read(&bus, 0x1000, 1), 0xff);
	io_bus_remove(&bus, &a.region);
	ck_assert_int_eq(add(&a, 0x2000, 0x100), 0);
	ck_assert_uint_eq(io_bus_read(&bus, 0x2000, 1), 0x88);
}
END_TEST

static uint64_t remover_read(void *opaque, uint64_t offset, unsigned int size)
{
	struct io_region *region = opaque;

	(void)offset;
	(void)size;
	io_bus_remove(&bus, region);
	return 1;
}

START_TEST(a_handler_may_change_the_bus)
{
	static const struct io_ops ops = { .read = remover_read, .write = device_write };
	struct io_region region = { .base = 0x10, .size = 1, .ops = &ops, .opaque = &region };

	ck_assert_int_eq(io_bus_add(&bus, &region), 0);
	ck_assert_uint_eq(io_bus_read(&bus, 0x10, 1), 1);
	ck_assert_uint_eq(io_bus_read(&bus, 0x10, 1), 0xff);
}
END_TEST

static bool stop;

static uint64_t steady_read(void *opaque, uint64_t offset, unsigned int size)
{
	(void)opaque;
	(void)size;
	return 0x40 + offset;
}

static void steady_write(void *opaque, uint64_t offset, unsigned int size, uint64_t value)
{
	(void)opaque;
	(void)offset;
	(void)size;
	(void)value;
}

static const struct io_ops steady_ops = { .read = steady_read, .write = steady_write };

static void *access_for_ever(void *opaque)
{
	bool *ret_ok = opaque;

	while (!__atomic_load_n(&stop, __ATOMIC_SEQ_CST)) {
		uint64_t moving = io_bus_read(&bus, 0x2001, 1);
		*ret_ok &= io_bus_read(&bus, 0x1002, 1) == 0x42;
		*ret_ok &= moving == 0x41 || moving == 0xff;
	}
	return NULL;
}

START_TEST(accesses_race_with_adding_and_removing)
{
	struct io_region stays = { .base = 0x1000, .size = 0x10, .ops = &steady_ops };
	struct io_region moves = { .base = 0x2000, .size = 0x10, .ops = &steady_ops };
	pthread_t threads[2];
	bool ok[nitems(threads)];

	ck_assert_int_eq(io_bus_add(&bus, &stays), 0);
	for (unsigned int i = 0; i < nitems(threads); i++) {
		ok[i] = true;
		ck_assert_int_eq(pthread_create(&threads[i], NULL, access_for_ever, &ok[i]), 0);
	}
	for (unsigned int i = 0; i < 300; i++) {
		moves.base = i % 2 ? 0x2000 : 0x3000;
		ck_assert_int_eq(io_bus_add(&bus, &moves), 0);
		io_bus_remove(&bus, &moves);
	}
	__atomic_store_n(&stop, true, __ATOMIC_SEQ_CST);
	for (unsigned int i = 0; i < nitems(threads); i++) {
		pthread_join(threads[i], NULL);
		ck_assert(ok[i]);
	}
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		an_access_reaches_its_device_with_offset_and_size,
		values_are_cut_to_the_size_of_the_access,
		reads_of_nothing_give_ones_and_writes_vanish,
		an_access_that_straddles_an_end_is_unclaimed,
		a_region_may_end_exactly_at_2_to_the_64,
		an_empty_or_wrapping_region_is_refused,
		adding_an_overlapping_region_is_refused,
		regions_are_found_whatever_the_order_of_adding,
		a_removed_region_is_unclaimed_and_may_be_added_elsewhere,
		a_handler_may_change_the_bus,
		accesses_race_with_adding_and_removing,
	};
	return run_tests("devices_io_bus", setup, NULL, tests, nitems(tests));
}
