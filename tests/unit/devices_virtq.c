/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <string.h>

#include <sys/uio.h>

#include <linux/virtio_ring.h>

#include "tests/fakes/process.h"
#include "tests/fakes/virtio_driver.h"

#define INDIRECT VIRTIO_FEATURE(VIRTIO_RING_F_INDIRECT_DESC)
#define EVENT_IDX VIRTIO_FEATURE(VIRTIO_RING_F_EVENT_IDX)
#define QUEUE_SIZE 16u
#define BUFFER DRIVER_POOL
#define TABLE (2 * DRIVER_POOL)

static struct virtio_driver driver;
static struct virtio virtio;
static struct virtq_chain chain;
static unsigned int nr_kicks;

/* A device that does nothing by itself. */

static void kick(struct virtio *v, unsigned int index)
{
	(void)v;
	(void)index;
	nr_kicks++;
}

static bool reset(struct virtio *v)
{
	(void)v;
	return true;
}

static const struct virtio_ops ops = { .kick = kick, .reset = reset };

static void setup(void)
{
	const struct virtio_config config = {
		.ops = &ops,
		.name = "test",
		.device_id = 42,
		.nr_queues = 1,
		.queue_sizes = { QUEUE_SIZE },
	};

	process_keep_log();
	driver_init(&driver);
	ck_assert_int_eq(virtio_init(&virtio, &driver.map, NULL, &config), 0);
	driver_take(&driver, &virtio);
}

static void teardown(void)
{
	virtio_finish(&virtio);
	driver_finish(&driver);
}

static struct virtq *vq(void)
{
	return &virtio.queues[0].ring;
}

static struct vring_desc *entry(unsigned int i)
{
	return (struct vring_desc *)driver_at(&driver, TABLE, 0x1000) + i;
}

/* A head whose buffers are those of a table of `size` bytes. */
static void put_indirect(uint32_t size, uint16_t flags)
{
	*driver_desc(&driver, 0, 0) = (struct vring_desc){
		.addr = TABLE,
		.len = size,
		.flags = (uint16_t)(VRING_DESC_F_INDIRECT | flags),
		.next = 1,
	};
}

static void expect_broken(void)
{
	ck_assert_int_eq(virtq_pop(vq(), &chain), -EPROTO);
	ck_assert_int_eq(virtq_pop(vq(), &chain), -EPROTO);
	ck_assert_int_eq(virtq_push(vq(), 0, 0), -EPROTO);
}

/* Indirect descriptors */

START_TEST(both_are_offered_by_every_device)
{
	ck_assert_uint_eq(virtio.features,
			  VIRTIO_FEATURE(VIRTIO_F_VERSION_1) | INDIRECT | EVENT_IDX);
}
END_TEST

START_TEST(a_chain_goes_on_in_a_table)
{
	const struct driver_buffer buffers[] = { { BUFFER, 10, false },
						 { BUFFER + 10, 20, true },
						 { BUFFER + 30, 30, true } };

	driver_start(&driver, INDIRECT);
	uint16_t head = driver_add_indirect(&driver, 0, TABLE, buffers, 3);
	ck_assert_int_eq(virtq_pop(vq(), &chain), 1);
	ck_assert_uint_eq(chain.head, head);
	ck_assert_uint_eq(chain.nr_readable, 1);
	ck_assert_uint_eq(chain.nr_writable, 2);
	for (unsigned int i = 0; i < 3; i++) {
		ck_assert_uint_eq(chain.segments[i].gpa, buffers[i].gpa);
		ck_assert_uint_eq(chain.segments[i].size, buffers[i].size);
	}
	ck_assert_int_eq(virtq_pop(vq(), &chain), 0);
}
END_TEST

/* 1.2, 2.7.5.3.2: descriptors of the queue itself may come first. */
START_TEST(a_table_may_be_the_end_of_a_chain)
{
	driver_start(&driver, INDIRECT);
	*entry(0) = (struct vring_desc){ .addr = 7, .len = 8, .flags = VRING_DESC_F_WRITE };
	*driver_desc(&driver, 0, 1) =
		(struct vring_desc){ .addr = 5, .len = 6, .flags = VRING_DESC_F_NEXT };
	put_indirect(16, VRING_DESC_F_WRITE); /* which says nothing of the table's buffers */
	driver_publish(&driver, 0, 1);
	ck_assert_int_eq(virtq_pop(vq(), &chain), 1);
	ck_assert_uint_eq(chain.head, 1);
	ck_assert_uint_eq(chain.nr_readable, 1);
	ck_assert_uint_eq(chain.nr_writable, 1);
	ck_assert_uint_eq(chain.segments[1].gpa, 7);
}
END_TEST

START_TEST(a_table_is_followed_by_its_next)
{
	driver_start(&driver, INDIRECT);
	*entry(0) = (struct vring_desc){ 5, 1, VRING_DESC_F_NEXT, 3 };
	*entry(3) = (struct vring_desc){ 6, 1, 0, 9 };
	put_indirect(4 * 16, 0);
	driver_publish(&driver, 0, 0);
	ck_assert_int_eq(virtq_pop(vq(), &chain), 1);
	ck_assert_uint_eq(chain.nr_readable, 2);
	ck_assert_uint_eq(chain.segments[1].gpa, 6);
}
END_TEST

START_TEST(a_table_as_long_as_the_queue_is_the_most)
{
	struct driver_buffer buffers[QUEUE_SIZE + 1];

	for (unsigned int i = 0; i < nitems(buffers); i++)
		buffers[i] = (struct driver_buffer){ BUFFER + i, 1, true };
	driver_start(&driver, INDIRECT);
	(void)driver_add_indirect(&driver, 0, TABLE, buffers, QUEUE_SIZE);
	ck_assert_int_eq(virtq_pop(vq(), &chain), 1);
	ck_assert_uint_eq(chain.nr_writable, QUEUE_SIZE);
	(void)driver_add_indirect(&driver, 0, TABLE, buffers, QUEUE_SIZE + 1);
	expect_broken();
}
END_TEST

/* What is wrong with an indirect descriptor, or its table. */

static void not_negotiated(void)
{
	driver_start(&driver, 0);
	put_indirect(16, 0);
}

static void with_next(void)
{
	put_indirect(16, VRING_DESC_F_NEXT);
}

static void empty_table(void)
{
	put_indirect(0, 0);
}

static void odd_table(void)
{
	put_indirect(17, 0);
}

static void table_in_a_table(void)
{
	entry(0)->flags = VRING_DESC_F_INDIRECT;
	entry(0)->len = 16;
	entry(0)->addr = TABLE;
	put_indirect(16, 0);
}

static void loop_in_a_table(void)
{
	*entry(0) = (struct vring_desc){ BUFFER, 1, VRING_DESC_F_NEXT, 0 };
	put_indirect(16, 0);
}

static void next_beyond_the_table(void)
{
	*entry(0) = (struct vring_desc){ BUFFER, 1, VRING_DESC_F_NEXT, 1 };
	put_indirect(16, 0);
}

static void readable_after_writable_in_a_table(void)
{
	*entry(0) = (struct vring_desc){ BUFFER, 1, VRING_DESC_F_NEXT | VRING_DESC_F_WRITE, 1 };
	*entry(1) = (struct vring_desc){ BUFFER, 1, 0, 0 };
	put_indirect(32, 0);
}

static void table_outside_of_ram(void)
{
	put_indirect(16, 0);
	driver_desc(&driver, 0, 0)->addr = DRIVER_RAM - 8;
}

static void table_that_wraps(void)
{
	put_indirect(32, 0);
	driver_desc(&driver, 0, 0)->addr = UINT64_MAX - 15;
	driver_desc(&driver, 0, 0)->len = 0xfffffff0;
}

static void (*const wrongs[])(void) = {
	not_negotiated,        with_next,
	empty_table,           odd_table,
	table_in_a_table,      loop_in_a_table,
	next_beyond_the_table, readable_after_writable_in_a_table,
	table_outside_of_ram,  table_that_wraps,
};

START_TEST(what_is_wrong_with_a_table_breaks_the_queue)
{
	for (unsigned int i = 0; i < nitems(wrongs); i++) {
		driver_start(&driver, INDIRECT);
		memset(driver_at(&driver, TABLE, 0x1000), 0, 0x1000);
		wrongs[i]();
		driver_publish(&driver, 0, 0);
		expect_broken();
	}
}
END_TEST

/* Event indices */

static void offer(unsigned int nr)
{
	const struct driver_buffer buffer = { BUFFER, 64, true };

	for (unsigned int i = 0; i < nr; i++)
		(void)driver_add(&driver, 0, &buffer, 1);
}

START_TEST(a_kick_is_asked_for_only_where_nothing_is_left)
{
	driver_start(&driver, EVENT_IDX);
	ck_assert_int_eq(virtq_pop(vq(), &chain), 0);
	ck_assert_uint_eq(driver_avail_event(&driver, 0), 0);
	offer(3);
	for (unsigned int i = 0; i < 3; i++) {
		ck_assert_int_eq(virtq_pop(vq(), &chain), 1);
		ck_assert_uint_eq(driver_avail_event(&driver, 0), 0);
	}
	ck_assert_int_eq(virtq_pop(vq(), &chain), 0);
	ck_assert_uint_eq(driver_avail_event(&driver, 0), 3);
}
END_TEST

START_TEST(who_takes_asks_for_kicks_by_itself)
{
	driver_start(&driver, EVENT_IDX);
	offer(2);
	ck_assert_int_eq(virtq_take(vq(), &chain), 1);
	ck_assert_int_eq(virtq_await_kick(vq()), 1);
	ck_assert_int_eq(virtq_take(vq(), &chain), 1);
	ck_assert_uint_eq(driver_avail_event(&driver, 0), 1);
	ck_assert_int_eq(virtq_take(vq(), &chain), 0);
	ck_assert_uint_eq(driver_avail_event(&driver, 0), 1);
	ck_assert_int_eq(virtq_await_kick(vq()), 0);
	ck_assert_uint_eq(driver_avail_event(&driver, 0), 2);
	vq()->enabled = false;
	ck_assert_int_eq(virtq_await_kick(vq()), 0);
	vq()->enabled = true;
	vq()->driver = DRIVER_RAM;
	ck_assert_int_eq(virtq_await_kick(vq()), -EPROTO);
	ck_assert_int_eq(virtq_await_kick(vq()), -EPROTO);
}
END_TEST

START_TEST(without_the_feature_none_is_written)
{
	driver_start(&driver, 0);
	offer(3);
	while (virtq_pop(vq(), &chain) > 0) {
	}
	ck_assert_uint_eq(driver_avail_event(&driver, 0), 0);
}
END_TEST

static void serve(unsigned int nr)
{
	for (unsigned int i = 0; i < nr; i++) {
		offer(1);
		ck_assert_int_eq(virtq_pop(vq(), &chain), 1);
		ck_assert_int_eq(virtq_push(vq(), chain.head, 0), 0);
	}
}

START_TEST(an_interrupt_comes_where_the_driver_wants_it)
{
	driver_start(&driver, EVENT_IDX);
	/* At the first entry, which is what a driver that has not said anything has. */
	serve(1);
	ck_assert(virtq_wants_interrupt(vq()));
	serve(1);
	ck_assert(!virtq_wants_interrupt(vq()));
	/* Anywhere among those that are new, once. */
	driver_set_used_event(&driver, 0, 4);
	serve(2);
	ck_assert(!virtq_wants_interrupt(vq()));
	serve(3);
	ck_assert(virtq_wants_interrupt(vq()));
	ck_assert(!virtq_wants_interrupt(vq()));
	/* The flag is not looked at. */
	driver_set_avail_flags(&driver, 0, VRING_AVAIL_F_NO_INTERRUPT);
	driver_set_used_event(&driver, 0, 7);
	serve(1);
	ck_assert(virtq_wants_interrupt(vq()));
}
END_TEST

/* Round the index's 16 bits: each time where it is asked for, and nowhere else. */
START_TEST(indices_wrap)
{
	driver_start(&driver, EVENT_IDX);
	for (unsigned int i = 0; i < 65536 / 8 + 8; i++) {
		driver_set_used_event(&driver, 0, (uint16_t)(8 * i + 3));
		serve(3);
		ck_assert(!virtq_wants_interrupt(vq()));
		serve(1);
		ck_assert(virtq_wants_interrupt(vq()));
		serve(4);
		ck_assert(!virtq_wants_interrupt(vq()));
		ck_assert_int_eq(virtq_pop(vq(), &chain), 0);
		ck_assert_uint_eq(driver_avail_event(&driver, 0), (uint16_t)(8 * i + 8));
	}
}
END_TEST

/* The last two bytes of RAM are the used ring's, or are missing for the event index. */
START_TEST(an_event_index_outside_of_ram_breaks_the_queue)
{
	driver_start(&driver, EVENT_IDX);
	vq()->device = DRIVER_RAM - 4 - 8 * QUEUE_SIZE;
	ck_assert_int_eq(virtq_pop(vq(), &chain), -EPROTO);
	driver_start(&driver, EVENT_IDX);
	vq()->driver = DRIVER_RAM - 4 - 2 * QUEUE_SIZE;
	ck_assert(!virtq_wants_interrupt(vq()));
}
END_TEST

/* The writable part, and mapping */

START_TEST(bytes_are_written_across_segments)
{
	const struct driver_buffer buffers[] = { { BUFFER + 100, 5, false },
						 { BUFFER, 3, true },
						 { BUFFER + 50, 0, true },
						 { BUFFER + 10, 4, true } };

	driver_start(&driver, 0);
	(void)driver_add(&driver, 0, buffers, 4);
	ck_assert_int_eq(virtq_pop(vq(), &chain), 1);
	ck_assert_uint_eq(virtq_readable_size(&chain), 5);
	ck_assert_uint_eq(virtq_writable_size(&chain), 7);
	ck_assert_int_eq(virtq_write(vq(), &chain, 2, "abc", 3), 0);
	ck_assert_int_eq(memcmp(driver_at(&driver, BUFFER, 4), "\0\0a", 4), 0);
	ck_assert_int_eq(memcmp(driver_at(&driver, BUFFER + 10, 4), "bc\0", 4), 0);
	ck_assert_int_eq(virtq_write(vq(), &chain, 4, "abcd", 4), -ERANGE);
	ck_assert_int_eq(virtq_write(vq(), &chain, 7, "", 0), 0);
	ck_assert_int_eq(virtq_write(vq(), &chain, 8, "a", 1), -ERANGE);
}
END_TEST

START_TEST(a_part_is_mapped_from_anywhere)
{
	const struct driver_buffer buffers[] = { { BUFFER, 16, false },
						 { BUFFER + 0x1000, 32, false },
						 { BUFFER + 0x2000, 8, true },
						 { BUFFER + 0x3000, 8, true } };
	struct iovec iov[VIRTQ_MAX_SIZE];

	driver_start(&driver, 0);
	(void)driver_add(&driver, 0, buffers, 4);
	ck_assert_int_eq(virtq_pop(vq(), &chain), 1);
	ck_assert_int_eq(virtq_map_readable(vq(), &chain, 4, 20, iov), 2);
	ck_assert_ptr_eq(iov[0].iov_base, driver_at(&driver, BUFFER + 4, 12));
	ck_assert_uint_eq(iov[0].iov_len, 12);
	ck_assert_ptr_eq(iov[1].iov_base, driver_at(&driver, BUFFER + 0x1000, 8));
	ck_assert_uint_eq(iov[1].iov_len, 8);
	ck_assert_int_eq(virtq_map_readable(vq(), &chain, 16, 32, iov), 1);
	ck_assert_int_eq(virtq_map_readable(vq(), &chain, 16, 33, iov), -ERANGE);
	ck_assert_int_eq(virtq_map_readable(vq(), &chain, 100, 0, iov), 0);
	ck_assert_int_eq(virtq_map_writable(vq(), &chain, 0, 16, iov), 2);
	ck_assert_ptr_eq(iov[1].iov_base, driver_at(&driver, BUFFER + 0x3000, 8));
}
END_TEST

START_TEST(what_is_no_ram_is_not_mapped)
{
	const struct driver_buffer buffers[] = { { DRIVER_RAM - 4, 8, true },
						 { UINT64_MAX - 3, 8, true },
						 { UINT64_MAX - 3, 4, true } };
	struct iovec iov[VIRTQ_MAX_SIZE];

	for (unsigned int i = 0; i < nitems(buffers); i++) {
		driver_start(&driver, 0);
		(void)driver_add(&driver, 0, &buffers[i], 1);
		ck_assert_int_eq(virtq_pop(vq(), &chain), 1);
		ck_assert_int_eq(virtq_map_writable(vq(), &chain, 0, 4, iov),
				 i == 0 ? 1 : -EFAULT);
		if (i == 0)
			ck_assert_int_eq(virtq_map_writable(vq(), &chain, 0, 8, iov), -EFAULT);
		ck_assert_int_eq(virtq_write(vq(), &chain, 3, "ab", 2), -EFAULT);
		/* Not at address 0, which this would be if it wrapped. */
		if (buffers[i].size > 4)
			ck_assert_int_eq(virtq_write(vq(), &chain, 4, "ab", 2), -EFAULT);
	}
}
END_TEST

/* What was filled shows with the others, or not at all. */
START_TEST(several_chains_are_given_back_at_once)
{
	const struct driver_buffer buffer = { BUFFER, 10, true };
	uint16_t head;
	uint32_t written;

	driver_start(&driver, 0);
	for (unsigned int i = 0; i < 3; i++)
		(void)driver_add(&driver, 0, &buffer, 1);
	for (unsigned int i = 0; i < 3; i++) {
		ck_assert_int_eq(virtq_pop(vq(), &chain), 1);
		ck_assert_int_eq(virtq_fill(vq(), chain.head, i), 0);
		ck_assert(!driver_take_used(&driver, 0, &head, &written));
	}
	ck_assert_int_eq(virtq_publish(vq()), 0);
	for (unsigned int i = 0; i < 3; i++) {
		ck_assert(driver_take_used(&driver, 0, &head, &written));
		ck_assert_uint_eq(head, i);
		ck_assert_uint_eq(written, i);
	}
	ck_assert(virtq_wants_interrupt(vq()));
	vq()->device = DRIVER_RAM;
	ck_assert_int_eq(virtq_fill(vq(), 0, 0), -EPROTO);
	ck_assert_int_eq(virtq_publish(vq()), -EPROTO);
}
END_TEST

START_TEST(what_was_popped_can_be_left_in_the_queue)
{
	const struct driver_buffer buffer = { BUFFER, 10, true };

	driver_start(&driver, EVENT_IDX);
	for (unsigned int i = 0; i < 3; i++)
		(void)driver_add(&driver, 0, &buffer, 1);
	for (unsigned int i = 0; i < 3; i++)
		ck_assert_int_eq(virtq_pop(vq(), &chain), 1);
	virtq_unpop(vq(), 2);
	for (unsigned int i = 1; i < 3; i++) {
		ck_assert_int_eq(virtq_pop(vq(), &chain), 1);
		ck_assert_uint_eq(chain.head, i);
	}
	ck_assert_int_eq(virtq_pop(vq(), &chain), 0);
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		both_are_offered_by_every_device,
		a_chain_goes_on_in_a_table,
		a_table_may_be_the_end_of_a_chain,
		a_table_is_followed_by_its_next,
		a_table_as_long_as_the_queue_is_the_most,
		what_is_wrong_with_a_table_breaks_the_queue,
		a_kick_is_asked_for_only_where_nothing_is_left,
		who_takes_asks_for_kicks_by_itself,
		without_the_feature_none_is_written,
		an_interrupt_comes_where_the_driver_wants_it,
		indices_wrap,
		an_event_index_outside_of_ram_breaks_the_queue,
		bytes_are_written_across_segments,
		a_part_is_mapped_from_anywhere,
		what_is_no_ram_is_not_mapped,
		several_chains_are_given_back_at_once,
		what_was_popped_can_be_left_in_the_queue,
	};

	return run_tests("devices_virtq", setup, teardown, tests, nitems(tests));
}
