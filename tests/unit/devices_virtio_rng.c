/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <string.h>

#include <sys/random.h>

#include <linux/virtio_ids.h>
#include <linux/virtio_ring.h>

#include "base/event_loop.h"
#include "base/fd.h"

#include "devices/virtio_rng.h"
#include "tests/fakes/process.h"
#include "tests/fakes/virtio_driver.h"

#define ALL UINT64_MAX
#define BUFFER DRIVER_POOL
#define TABLE (2 * DRIVER_POOL)

static struct virtio_driver driver;
static struct event_loop loop;
static struct virtio_rng rng;
static unsigned int fds_before;

/* The kernel: what getrandom() gives, and how much of it. */

static bool entropy_fails;

ssize_t __wrap_getrandom(void *buffer, size_t size, unsigned int flags);
ssize_t __real_getrandom(void *buffer, size_t size, unsigned int flags);

ssize_t __wrap_getrandom(void *buffer, size_t size, unsigned int flags)
{
	if (entropy_fails) {
		errno = ENOSYS;
		return -1;
	}
	return __real_getrandom(buffer, size, flags);
}

static void setup(void)
{
	process_keep_log();
	fds_before = process_nr_fds();
	driver_init(&driver);
	ck_assert_int_eq(event_loop_init(&loop), 0);
	ck_assert_int_eq(virtio_rng_init(&rng, &driver.map, &loop), 0);
	driver_take(&driver, &rng.virtio);
}

static void teardown(void)
{
	virtio_rng_finish(&rng);
	virtio_rng_finish(&rng);
	event_loop_finish(&loop);
	driver_finish(&driver);
	ck_assert_uint_eq(process_nr_fds(), fds_before);
}

static void expect_used(uint16_t head, uint32_t written)
{
	uint16_t got_head;
	uint32_t got_written;

	ck_assert(driver_take_used(&driver, 0, &got_head, &got_written));
	ck_assert_uint_eq(got_head, head);
	ck_assert_uint_eq(got_written, written);
}

static void expect_none_used(void)
{
	uint16_t head;
	uint32_t written;

	ck_assert(!driver_take_used(&driver, 0, &head, &written));
}

/* Bytes that are not what they were; of 64 a chance of 2^-512 that this is wrong. */
static bool is_random(gpa_t gpa, uint32_t size)
{
	uint8_t zeros[64] = { 0 };

	ck_assert_uint_ge(size, sizeof(zeros));
	return memcmp(driver_at(&driver, gpa, size), zeros, sizeof(zeros)) != 0 &&
	       memcmp(driver_at(&driver, gpa + size - 64, 64), zeros, sizeof(zeros)) != 0;
}

START_TEST(it_is_the_least_of_devices)
{
	ck_assert_uint_eq(rng.virtio.device_id, VIRTIO_ID_RNG);
	ck_assert_uint_eq(rng.virtio.nr_queues, 1);
	ck_assert_uint_eq(rng.virtio.config_size, 0);
	ck_assert_uint_eq(virtio_config_read(&rng.virtio, 0, 4), 0);
	virtio_config_write(&rng.virtio, 0, 4, 1);
}
END_TEST

START_TEST(a_buffer_is_filled)
{
	const struct driver_buffer buffer = { BUFFER, 256, true };

	driver_start(&driver, 0);
	uint16_t head = driver_add(&driver, 0, &buffer, 1);
	expect_none_used();
	driver_kick(&driver, 0);
	expect_used(head, 256);
	ck_assert(is_random(BUFFER, 256));
	ck_assert_uint_eq(*(uint8_t *)driver_at(&driver, BUFFER + 256, 1), 0);
	ck_assert_uint_eq(driver.nr_queue_interrupts[0], 1);
	process_expect_no_log();
}
END_TEST

START_TEST(each_gets_other_bytes)
{
	const struct driver_buffer buffers[] = { { BUFFER, 64, true },
						 { BUFFER + 64, 64, true } };

	driver_start(&driver, ALL);
	(void)driver_add(&driver, 0, &buffers[0], 1);
	(void)driver_add(&driver, 0, &buffers[1], 1);
	driver_kick(&driver, 0);
	const uint8_t *bytes = driver_at(&driver, BUFFER, 128);
	ck_assert_int_ne(memcmp(bytes, bytes + 64, 64), 0);
	ck_assert_uint_eq(driver.nr_queue_interrupts[0], 1); /* for both */
}
END_TEST

START_TEST(a_large_buffer_is_filled_in_part)
{
	const struct driver_buffer buffers[] = { { BUFFER, 3000, true },
						 { BUFFER + 3000, 1 << 20, true } };

	driver_start(&driver, ALL);
	uint16_t head = driver_add_indirect(&driver, 0, TABLE, buffers, 2);
	driver_kick(&driver, 0);
	expect_used(head, VIRTIO_RNG_MAX_BYTES);
	ck_assert(is_random(BUFFER, VIRTIO_RNG_MAX_BYTES));
	ck_assert_uint_eq(*(uint8_t *)driver_at(&driver, BUFFER + VIRTIO_RNG_MAX_BYTES, 1), 0);
}
END_TEST

/* Whatever it is, the driver gets it back, and no more is said than the budget allows. */
START_TEST(what_cannot_be_filled_comes_back_empty)
{
	const struct driver_buffer buffers[] = { { BUFFER, 64, false },
						 { BUFFER, 0, true },
						 { DRIVER_RAM, 64, true },
						 { UINT64_MAX - 10, 64, true },
						 { UINT64_MAX, 1, true } };

	driver_start(&driver, ALL);
	for (unsigned int round = 0; round < 100; round++) {
		for (unsigned int i = 0; i < nitems(buffers); i++) {
			uint16_t head = driver_add(&driver, 0, &buffers[i], 1);
			driver_kick(&driver, 0);
			expect_used(head, 0);
		}
	}
	ck_assert(!driver_is_broken(&driver));
	const char *log = process_log();
	ck_assert_ptr_nonnull(strstr(log, "rng: a buffer outside of RAM"));
	ck_assert_uint_lt(strlen(log), 4000);
}
END_TEST

START_TEST(a_host_without_entropy_gives_none)
{
	const struct driver_buffer buffer = { BUFFER, 64, true };

	driver_start(&driver, ALL);
	entropy_fails = true;
	uint16_t head = driver_add(&driver, 0, &buffer, 1);
	driver_kick(&driver, 0);
	entropy_fails = false;
	expect_used(head, 0);
}
END_TEST

START_TEST(a_malformed_queue_breaks_it)
{
	driver_start(&driver, ALL);
	driver_publish(&driver, 0, 0x4000);
	driver_kick(&driver, 0);
	ck_assert(driver_is_broken(&driver));
	ck_assert_uint_eq(driver.nr_config_interrupts, 1);
	process_expect_log("rng: a malformed queue");
	/* Until a reset. */
	const struct driver_buffer buffer = { BUFFER, 64, true };
	driver_start(&driver, ALL);
	(void)driver_add(&driver, 0, &buffer, 1);
	driver_kick(&driver, 0);
	expect_used(0, 64);
}
END_TEST

START_TEST(an_unwritable_used_ring_breaks_it)
{
	const struct driver_buffer buffer = { BUFFER, 64, true };

	driver_start(&driver, ALL);
	rng.virtio.queues[0].ring.device = DRIVER_RAM;
	(void)driver_add(&driver, 0, &buffer, 1);
	driver_kick(&driver, 0);
	ck_assert(driver_is_broken(&driver));
}
END_TEST

/* A queue's worth a turn; then the others have theirs. */
START_TEST(who_asks_for_much_waits_in_between)
{
	const struct driver_buffer buffer = { BUFFER, 64, true };
	uint16_t size;

	driver_start(&driver, 0);
	size = driver.queues[0].size;
	for (unsigned int i = 0; i < size; i++)
		(void)driver_add(&driver, 0, &buffer, 1);
	driver_kick(&driver, 0);
	for (uint16_t i = 0; i < size; i++)
		expect_used(i, 64);
	ck_assert(eventfd_take(rng.virtio.queues[0].kicked.fd));
	driver_kick(&driver, 0);
	ck_assert(!eventfd_take(rng.virtio.queues[0].kicked.fd));
}
END_TEST

START_TEST(without_fds_there_is_none)
{
	struct virtio_rng other;

	process_forbid_fds();
	int r = virtio_rng_init(&other, &driver.map, &loop);
	process_allow_fds();
	ck_assert_int_eq(r, -EMFILE);
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		it_is_the_least_of_devices,
		a_buffer_is_filled,
		each_gets_other_bytes,
		a_large_buffer_is_filled_in_part,
		what_cannot_be_filled_comes_back_empty,
		a_host_without_entropy_gives_none,
		a_malformed_queue_breaks_it,
		an_unwritable_used_ring_breaks_it,
		who_asks_for_much_waits_in_between,
		without_fds_there_is_none,
	};

	return run_tests("devices_virtio_rng", setup, teardown, tests, nitems(tests));
}
