/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <poll.h>
#include <string.h>

#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/timerfd.h>

#include <linux/virtio_console.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_ring.h>

#include "base/event_loop.h"
#include "base/fd.h"

#include "devices/virtio_console.h"
#include "tests/fakes/process.h"
#include "tests/fakes/virtio_driver.h"

#define ALL UINT64_MAX
#define BUFFER DRIVER_POOL
#define TABLE (2 * DRIVER_POOL)
#define BIG (3 * DRIVER_POOL)

enum { RECEIVEQ, TRANSMITQ };

static struct virtio_driver driver;
static struct event_loop loop;
static struct virtio_console console;
static unsigned int fds_before;

/* The far end: takes `takes` bytes, then no more until told otherwise. */
static uint8_t sent[2 * DRIVER_POOL];
static size_t nr_sent;
static size_t takes = SIZE_MAX;
static unsigned int nr_ready; /* calls of receive_ready */

static size_t far_transmit(void *opaque, const uint8_t *bytes, size_t size)
{
	ck_assert_ptr_eq(opaque, sent);
	size_t n = size < takes ? size : takes;
	ck_assert_uint_le(nr_sent + n, sizeof(sent));
	memcpy(sent + nr_sent, bytes, n);
	nr_sent += n;
	takes -= takes == SIZE_MAX ? 0 : n;
	return n;
}

static void far_receive_ready(void *opaque)
{
	ck_assert_ptr_eq(opaque, sent);
	nr_ready++;
}

static const struct port_backend backend = {
	.transmit = far_transmit,
	.receive_ready = far_receive_ready,
	.opaque = sent,
};
static const struct winsize window = { .ws_col = 132, .ws_row = 43 };

/* The event loop's: the call that fails; 0: none. */
static unsigned int fail_add_at;

int __wrap_epoll_ctl(int on, int what, int fd, struct epoll_event *event);
int __real_epoll_ctl(int on, int what, int fd, struct epoll_event *event);

int __wrap_epoll_ctl(int on, int what, int fd, struct epoll_event *event)
{
	if (what == EPOLL_CTL_ADD && fail_add_at && --fail_add_at == 0) {
		errno = ENOSPC;
		return -1;
	}
	return __real_epoll_ctl(on, what, fd, event);
}

static void setup(void)
{
	process_keep_log();
	fds_before = process_nr_fds();
	driver_init(&driver);
	ck_assert_int_eq(event_loop_init(&loop), 0);
	ck_assert_int_eq(virtio_console_init(&console, &driver.map, &loop, &backend, &window),
			 0);
	driver_take(&driver, &console.virtio);
}

static void teardown(void)
{
	virtio_console_finish(&console);
	virtio_console_finish(&console);
	event_loop_finish(&loop);
	driver_finish(&driver);
	ck_assert_uint_eq(process_nr_fds(), fds_before);
}

static void expect_used(unsigned int queue, uint16_t head, uint32_t written)
{
	uint16_t got_head;
	uint32_t got_written;

	ck_assert(driver_take_used(&driver, queue, &got_head, &got_written));
	ck_assert_uint_eq(got_head, head);
	ck_assert_uint_eq(got_written, written);
}

static void expect_none_used(unsigned int queue)
{
	uint16_t head;
	uint32_t written;

	ck_assert(!driver_take_used(&driver, queue, &head, &written));
}

/* The driver sends; the number of the chain. */
static uint16_t send_text(const char *text)
{
	uint32_t size = (uint32_t)strlen(text);
	const struct driver_buffer buffer = { BUFFER, size, false };

	memcpy(driver_at(&driver, BUFFER, size), text, size);
	uint16_t head = driver_add(&driver, TRANSMITQ, &buffer, 1);
	driver_kick(&driver, TRANSMITQ);
	return head;
}

static void expect_sent(const char *text)
{
	ck_assert_uint_eq(nr_sent, strlen(text));
	ck_assert_mem_eq(sent, text, nr_sent);
}

static uint16_t add_room(gpa_t gpa, uint32_t size)
{
	const struct driver_buffer buffer = { gpa, size, true };

	return driver_add(&driver, RECEIVEQ, &buffer, 1);
}

/* The far end has this; how much of it was taken? */
static size_t receive(const char *text)
{
	return console.port.ops->receive(&console.port, (const uint8_t *)text, strlen(text));
}

static void transmit_ready(void)
{
	console.port.ops->transmit_ready(&console.port);
}

/* Seconds until patience ends; 0: nobody is waited for. */
static unsigned int patience(void)
{
	struct itimerspec left;

	ck_assert_int_eq(timerfd_gettime(console.timer.fd, &left), 0);
	return (unsigned int)left.it_value.tv_sec + (left.it_value.tv_nsec > 0);
}

/* It ends now. */
static void lose_patience(void)
{
	const struct itimerspec now = { .it_value.tv_nsec = 1 };
	struct pollfd p = { .fd = console.timer.fd, .events = POLLIN };

	ck_assert_uint_gt(patience(), 0);
	ck_assert_int_eq(timerfd_settime(console.timer.fd, 0, &now, NULL), 0);
	ck_assert_int_eq(poll(&p, 1, 1000), 1);
	console.timer.ready(&console.timer, EPOLLIN);
}

static bool comes_back(unsigned int queue)
{
	return eventfd_take(console.virtio.queues[queue].kicked.fd);
}

static uint32_t config(unsigned int offset, unsigned int size)
{
	return (uint32_t)virtio_config_read(&console.virtio, offset, size);
}

/* What it is */

START_TEST(it_has_one_port_and_a_window)
{
	ck_assert_uint_eq(console.virtio.device_id, VIRTIO_ID_CONSOLE);
	ck_assert_uint_eq(console.virtio.nr_queues, 2);
	ck_assert_uint_eq(console.virtio.features & 0xffffff,
			  VIRTIO_FEATURE(VIRTIO_CONSOLE_F_SIZE) |
				  VIRTIO_FEATURE(VIRTIO_CONSOLE_F_EMERG_WRITE));
	ck_assert_uint_eq(config(0, 2), 132);
	ck_assert_uint_eq(config(2, 2), 43);
	ck_assert_uint_eq(config(0, 4), 43u << 16 | 132);
	ck_assert_uint_eq(config(1, 1), 0);
	ck_assert_uint_eq(config(2, 1), 43);
	ck_assert_uint_eq(config(4, 4), 0);
	ck_assert_uint_eq(config(8, 4), 0);
	ck_assert_uint_eq(config(12, 1), 0);
	ck_assert_uint_eq(virtio_config_read(&console.virtio, 0, 8), 43u << 16 | 132);
}
END_TEST

START_TEST(without_a_window_it_offers_no_size)
{
	struct virtio_console other;

	ck_assert_int_eq(virtio_console_init(&other, &driver.map, NULL, &backend, NULL), 0);
	ck_assert_uint_eq(other.virtio.features & VIRTIO_FEATURE(VIRTIO_CONSOLE_F_SIZE), 0);
	driver_take(&driver, &other.virtio);
	driver_start(&driver, ALL);
	virtio_console_resize(&other, &window);
	ck_assert_uint_eq(driver.nr_config_interrupts, 0);
	virtio_console_finish(&other);
}
END_TEST

START_TEST(a_window_that_changes_is_told)
{
	const struct winsize larger = { .ws_col = 200, .ws_row = 50 };

	virtio_console_resize(&console, &larger); /* no driver yet */
	ck_assert_uint_eq(driver.nr_config_interrupts, 0);
	ck_assert_uint_eq(config(0, 2), 200);
	driver_start(&driver, ALL);
	uint8_t generation = console.virtio.config_generation;
	virtio_console_resize(&console, &larger); /* as it is */
	ck_assert_uint_eq(driver.nr_config_interrupts, 0);
	virtio_console_resize(&console, &window);
	ck_assert_uint_eq(driver.nr_config_interrupts, 1);
	ck_assert_uint_ne(console.virtio.config_generation, generation);
	ck_assert_uint_eq(config(0, 4), 43u << 16 | 132);
	/* What is to be read is not to be written. */
	virtio_config_write(&console.virtio, 0, 4, 0);
	virtio_config_write(&console.virtio, 4, 4, 7);
	ck_assert_uint_eq(config(0, 4), 43u << 16 | 132);
	ck_assert_uint_eq(nr_sent, 0);
}
END_TEST

START_TEST(an_emergency_write_needs_no_driver)
{
	virtio_config_write(&console.virtio, 8, 4, 'p');
	virtio_config_write(&console.virtio, 8, 1, 'a');
	virtio_config_write(&console.virtio, 8, 2, 0x7700 | 'n');
	virtio_config_write(&console.virtio, 4, 8, (uint64_t)'i' << 32);
	virtio_config_write(&console.virtio, 9, 1, 'x'); /* not the least byte */
	virtio_config_write(&console.virtio, 10, 2, 'x');
	virtio_config_write(&console.virtio, 12, 4, 'x');
	takes = 0;
	virtio_config_write(&console.virtio, 8, 4, 'x'); /* lost */
	takes = SIZE_MAX;
	transmit_ready();
	expect_sent("pani");
	ck_assert_uint_eq(patience(), 0);
}
END_TEST

/* Output */

START_TEST(what_is_sent_goes_out_and_is_answered)
{
	driver_start(&driver, 0);
	uint16_t head = send_text("hello");
	expect_sent("hello");
	expect_used(TRANSMITQ, head, 0);
	ck_assert_uint_eq(driver.nr_queue_interrupts[TRANSMITQ], 1);
	ck_assert_uint_eq(driver.nr_queue_interrupts[RECEIVEQ], 0);
	ck_assert(!comes_back(TRANSMITQ));
	process_expect_no_log();
}
END_TEST

START_TEST(pieces_of_a_chain_are_one_text)
{
	const struct driver_buffer buffers[] = { { BUFFER, 3, false },
						 { BUFFER + 100, 0, false },
						 { BUFFER + 200, 4, false },
						 { BUFFER + 300, 5, true } };

	driver_start(&driver, ALL);
	memcpy(driver_at(&driver, BUFFER, 3), "one", 3);
	memcpy(driver_at(&driver, BUFFER + 200, 4), "two\n", 4);
	uint16_t head = driver_add_indirect(&driver, TRANSMITQ, TABLE, buffers, 4);
	driver_kick(&driver, TRANSMITQ);
	expect_sent("onetwo\n");
	expect_used(TRANSMITQ, head, 0);
	/* What points the wrong way is not touched. */
	ck_assert_uint_eq(*(uint8_t *)driver_at(&driver, BUFFER + 300, 1), 0);
}
END_TEST

/* Then others have the event loop. */
START_TEST(much_output_is_sent_in_turns)
{
	const uint32_t size = 300001;
	const struct driver_buffer buffers[] = { { BIG, size, false }, { BIG, 1, false } };
	uint8_t *bytes = driver_at(&driver, BIG, size);
	unsigned int turns = 1;

	for (uint32_t i = 0; i < size; i++)
		bytes[i] = (uint8_t)(i * 7 + (i >> 8));
	driver_start(&driver, ALL);
	uint16_t head = driver_add(&driver, TRANSMITQ, &buffers[0], 1);
	uint16_t next = driver_add(&driver, TRANSMITQ, &buffers[1], 1);
	driver_kick(&driver, TRANSMITQ);
	ck_assert_uint_eq(nr_sent, 64 << 10);
	expect_none_used(TRANSMITQ);
	for (; comes_back(TRANSMITQ); turns++)
		driver_kick(&driver, TRANSMITQ);
	ck_assert_uint_eq(turns, 5);
	ck_assert_uint_eq(nr_sent, size + 1);
	ck_assert_mem_eq(sent, bytes, size);
	expect_used(TRANSMITQ, head, 0);
	expect_used(TRANSMITQ, next, 0);
}
END_TEST

/* Odd sizes do not run away with what a turn may send. */
START_TEST(a_turn_ends_in_the_middle_of_a_chain)
{
	const struct driver_buffer buffer = { BIG, 40001, false };

	driver_start(&driver, ALL);
	(void)driver_add(&driver, TRANSMITQ, &buffer, 1);
	(void)driver_add(&driver, TRANSMITQ, &buffer, 1);
	driver_kick(&driver, TRANSMITQ);
	ck_assert_uint_eq(nr_sent, 64 << 10);
	ck_assert(comes_back(TRANSMITQ));
	driver_kick(&driver, TRANSMITQ);
	ck_assert_uint_eq(nr_sent, 80002);
	ck_assert(!comes_back(TRANSMITQ));
}
END_TEST

START_TEST(many_chains_are_sent_in_turns)
{
	const struct driver_buffer buffer = { BUFFER, 1, false };

	driver_start(&driver, 0);
	uint16_t size = driver.queues[TRANSMITQ].size;
	for (unsigned int i = 0; i < size; i++)
		(void)driver_add(&driver, TRANSMITQ, &buffer, 1);
	driver_kick(&driver, TRANSMITQ);
	for (uint16_t i = 0; i < size; i++)
		expect_used(TRANSMITQ, i, 0);
	ck_assert(comes_back(TRANSMITQ));
	driver_kick(&driver, TRANSMITQ);
	ck_assert(!comes_back(TRANSMITQ));
}
END_TEST

START_TEST(what_the_far_end_does_not_take_waits)
{
	driver_start(&driver, ALL);
	takes = 2;
	uint16_t head = send_text("hello");
	expect_sent("he");
	expect_none_used(TRANSMITQ);
	ck_assert_uint_eq(driver.nr_queue_interrupts[TRANSMITQ], 0);
	ck_assert(!comes_back(TRANSMITQ)); /* nobody turns in circles */
	ck_assert_uint_eq(patience(), VIRTIO_CONSOLE_PATIENCE);
	driver_kick(&driver, TRANSMITQ);
	expect_sent("he");
	takes = 1;
	transmit_ready();
	expect_sent("hel");
	ck_assert_uint_eq(patience(), VIRTIO_CONSOLE_PATIENCE);
	takes = SIZE_MAX;
	transmit_ready();
	expect_sent("hello");
	expect_used(TRANSMITQ, head, 0);
	ck_assert_uint_eq(driver.nr_queue_interrupts[TRANSMITQ], 1);
	ck_assert_uint_eq(patience(), 0);
}
END_TEST

/* It ran out at rest: the next output is waited for anew, and not for ever. */
START_TEST(patience_that_ran_out_at_rest_begins_anew)
{
	driver_start(&driver, ALL);
	takes = 2;
	(void)send_text("hello");
	virtio_set_dma(&console.virtio, false);
	lose_patience();
	process_expect_no_log();
	virtio_set_dma(&console.virtio, true);
	driver_ok(&driver);
	driver_kick(&driver, TRANSMITQ);
	ck_assert_uint_eq(patience(), VIRTIO_CONSOLE_PATIENCE);
}
END_TEST

/* Linux would wait for it with interrupts off. */
START_TEST(who_does_not_read_for_too_long_loses_output)
{
	driver_start(&driver, ALL);
	takes = 2;
	uint16_t head = send_text("hello");
	lose_patience();
	expect_used(TRANSMITQ, head, 0);
	process_expect_log("console: nobody reads, dropping output");
	head = send_text("at once");
	expect_used(TRANSMITQ, head, 0);
	expect_sent("he");
	ck_assert_uint_eq(patience(), 0);
	/* Until there is room again: then it may take its time again, too. */
	takes = 3;
	transmit_ready();
	head = send_text("again");
	expect_sent("heaga");
	expect_none_used(TRANSMITQ);
	ck_assert_uint_eq(patience(), VIRTIO_CONSOLE_PATIENCE);
	takes = SIZE_MAX;
	transmit_ready();
	expect_sent("heagain");
	expect_used(TRANSMITQ, head, 0);
}
END_TEST

START_TEST(a_timer_that_was_stopped_too_late_drops_nothing)
{
	driver_start(&driver, ALL);
	takes = 0;
	uint16_t head = send_text("hello");
	takes = SIZE_MAX;
	transmit_ready();
	console.timer.ready(&console.timer, EPOLLIN);
	ck_assert(!console.drops);
	expect_used(TRANSMITQ, head, 0);
	process_expect_no_log();
}
END_TEST

START_TEST(who_never_reads_is_told_of_only_so_often)
{
	driver_start(&driver, ALL);
	for (unsigned int i = 0; i < 200; i++) {
		takes = 0;
		(void)send_text("x");
		lose_patience();
		transmit_ready();
	}
	ck_assert_uint_lt(strlen(process_log()), 4000);
}
END_TEST

/* Input */

START_TEST(what_comes_in_fills_a_buffer)
{
	driver_start(&driver, ALL);
	uint16_t head = add_room(BUFFER, 100);
	ck_assert_uint_eq(receive("ls\r"), 3);
	expect_used(RECEIVEQ, head, 3);
	ck_assert_mem_eq(driver_at(&driver, BUFFER, 4), "ls\r", 4);
	ck_assert_uint_eq(driver.nr_queue_interrupts[RECEIVEQ], 1);
	ck_assert_uint_eq(driver.nr_queue_interrupts[TRANSMITQ], 0);
	ck_assert(!comes_back(RECEIVEQ));
	ck_assert_uint_eq(receive(""), 0);
	expect_none_used(RECEIVEQ);
}
END_TEST

START_TEST(without_buffers_input_waits_and_a_kick_calls_for_it)
{
	ck_assert_uint_eq(receive("early"), 0); /* no driver yet */
	driver_start(&driver, ALL);
	ck_assert_uint_eq(nr_ready, 1); /* the first look */
	ck_assert_uint_eq(receive("still"), 0);
	ck_assert_uint_eq(driver_avail_event(&driver, RECEIVEQ), 0);
	(void)add_room(BUFFER, 3);
	driver_kick(&driver, RECEIVEQ);
	ck_assert_uint_eq(nr_ready, 2);
	ck_assert_uint_eq(receive("hello"), 3);
	/* Whoever has bytes left wants to hear of the next one. */
	ck_assert_uint_eq(driver_avail_event(&driver, RECEIVEQ), 1);
}
END_TEST

START_TEST(more_than_a_buffer_takes_several)
{
	driver_start(&driver, ALL);
	(void)add_room(BUFFER, 2);
	(void)add_room(BUFFER + 10, 0);
	(void)add_room(BUFFER + 20, 2);
	(void)add_room(BUFFER + 30, 2);
	ck_assert_uint_eq(receive("abc"), 3);
	expect_used(RECEIVEQ, 0, 2);
	expect_used(RECEIVEQ, 1, 0);
	expect_used(RECEIVEQ, 2, 1);
	expect_none_used(RECEIVEQ);
	ck_assert_uint_eq(driver.nr_queue_interrupts[RECEIVEQ], 1);
	ck_assert_uint_eq(receive("defg"), 2);
	expect_used(RECEIVEQ, 3, 2);
}
END_TEST

START_TEST(many_small_buffers_are_filled_in_turns)
{
	driver_start(&driver, 0);
	uint16_t size = driver.queues[RECEIVEQ].size;
	char text[512];

	memset(text, 'x', sizeof(text) - 1);
	text[sizeof(text) - 1] = '\0';
	for (unsigned int i = 0; i < size; i++)
		(void)add_room(BUFFER + i, 1);
	ck_assert_uint_eq(receive(text), size);
	ck_assert(comes_back(RECEIVEQ));
	ck_assert_uint_eq(receive(text), 0);
	ck_assert(!comes_back(RECEIVEQ));
}
END_TEST

/* A readable part comes before; it is not ours. */
START_TEST(what_points_the_wrong_way_is_not_touched)
{
	const struct driver_buffer buffers[] = { { BUFFER, 8, false },
						 { BUFFER + 8, 8, true } };

	driver_start(&driver, ALL);
	uint16_t head = driver_add(&driver, RECEIVEQ, buffers, 2);
	uint16_t none = driver_add(&driver, RECEIVEQ, buffers, 1);
	ck_assert_uint_eq(receive("0123456789"), 8);
	expect_used(RECEIVEQ, head, 8);
	expect_used(RECEIVEQ, none, 0);
	ck_assert_mem_eq(driver_at(&driver, BUFFER, 16), "\0\0\0\0\0\0\0\00001234567", 16);
}
END_TEST

/* Hostile */

START_TEST(buffers_outside_of_ram_come_back_and_break_nothing)
{
	static const gpa_t gpas[] = { DRIVER_RAM, DRIVER_RAM - 1, UINT64_MAX, UINT64_MAX - 10 };

	driver_start(&driver, ALL);
	for (unsigned int round = 0; round < 50; round++) {
		for (unsigned int i = 0; i < nitems(gpas); i++) {
			const struct driver_buffer buffer = { gpas[i], 64, false };
			uint16_t head = add_room(gpas[i], 64);
			ck_assert_uint_eq(receive("text"), 0);
			expect_used(RECEIVEQ, head, 0);
			head = driver_add(&driver, TRANSMITQ, &buffer, 1);
			driver_kick(&driver, TRANSMITQ);
			expect_used(TRANSMITQ, head, 0);
		}
	}
	ck_assert(!driver_is_broken(&driver));
	ck_assert_uint_eq(nr_sent, 0);
	const char *log = process_log();
	ck_assert_ptr_nonnull(strstr(log, "console: output outside of RAM"));
	ck_assert_ptr_nonnull(strstr(log, "console: a buffer outside of RAM"));
	ck_assert_uint_lt(strlen(log), 4000);
	/* Input was not lost. */
	uint16_t head = add_room(BUFFER, 64);
	ck_assert_uint_eq(receive("text"), 4);
	expect_used(RECEIVEQ, head, 4);
}
END_TEST

/* 64 times 4 GiB are not sent in one go, nor summed up wrongly. */
START_TEST(the_largest_of_chains_is_cut_where_ram_ends)
{
	struct driver_buffer buffers[64];

	for (unsigned int i = 0; i < nitems(buffers); i++)
		buffers[i] = (struct driver_buffer){ DRIVER_RAM - 4096, UINT32_MAX, false };
	driver_start(&driver, ALL);
	uint16_t head = driver_add_indirect(&driver, TRANSMITQ, TABLE, buffers, 64);
	driver_kick(&driver, TRANSMITQ);
	expect_used(TRANSMITQ, head, 0);
	ck_assert_uint_eq(nr_sent, 4096);
	ck_assert(!driver_is_broken(&driver));
}
END_TEST

static void break_queue(unsigned int queue)
{
	driver_start(&driver, ALL);
	driver_publish(&driver, queue, 0x4000);
	driver_kick(&driver, queue);
	ck_assert_uint_eq(receive("x"), 0);
	ck_assert(driver_is_broken(&driver));
	ck_assert_uint_eq(driver.nr_config_interrupts, queue + 1);
	process_expect_log("console: a malformed queue");
	/* Until a reset all stands still. */
	(void)send_text("lost");
	transmit_ready();
	ck_assert_uint_eq(nr_sent, 0);
}

START_TEST(a_malformed_queue_breaks_it)
{
	break_queue(RECEIVEQ);
	break_queue(TRANSMITQ);
	driver_start(&driver, ALL);
	(void)send_text("fine");
	expect_sent("fine");
}
END_TEST

START_TEST(an_unwritable_used_ring_breaks_it)
{
	driver_start(&driver, ALL);
	console.virtio.queues[TRANSMITQ].ring.device = DRIVER_RAM;
	(void)send_text("hello");
	ck_assert(driver_is_broken(&driver));
	driver_start(&driver, ALL);
	console.virtio.queues[RECEIVEQ].ring.device = DRIVER_RAM;
	(void)add_room(BUFFER, 64);
	(void)receive("hello");
	ck_assert(driver_is_broken(&driver));
}
END_TEST

START_TEST(a_broken_one_that_was_waiting_loses_no_patience)
{
	driver_start(&driver, ALL);
	takes = 0;
	(void)send_text("hello");
	driver_publish(&driver, RECEIVEQ, 0x4000);
	ck_assert_uint_eq(receive("x"), 0);
	ck_assert(driver_is_broken(&driver));
	lose_patience();
	ck_assert(!console.drops);
	expect_none_used(TRANSMITQ);
	virtio_reset(&console.virtio);
	ck_assert_uint_eq(patience(), 0);
}
END_TEST

/* Reset */

START_TEST(a_reset_in_mid_output_forgets_the_rest)
{
	driver_start(&driver, ALL);
	takes = 2;
	(void)send_text("hello");
	virtio_reset(&console.virtio);
	ck_assert_uint_eq(patience(), 0);
	takes = SIZE_MAX;
	transmit_ready();
	expect_sent("he");
	driver_start(&driver, ALL);
	uint16_t head = send_text("llama");
	expect_sent("hellama");
	expect_used(TRANSMITQ, head, 0);
	expect_none_used(TRANSMITQ);
}
END_TEST

START_TEST(a_reset_gives_patience_back)
{
	driver_start(&driver, ALL);
	takes = 0;
	(void)send_text("hello");
	lose_patience();
	driver_start(&driver, ALL);
	(void)send_text("hello");
	expect_none_used(TRANSMITQ);
	ck_assert_uint_eq(patience(), VIRTIO_CONSOLE_PATIENCE);
}
END_TEST

/* Starting */

/* How many file descriptors there may be from now on, more than there are. */
static void allow_more_fds(unsigned int n)
{
	struct rlimit limit;

	int lowest = dup(loop.epoll_fd);
	close(lowest);
	ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &limit), 0);
	limit.rlim_cur = (rlim_t)lowest + n;
	ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
}

START_TEST(starting_fails_at_each_step_and_nothing_is_left)
{
	struct virtio_console other;
	unsigned int fds = process_nr_fds();
	unsigned int n = 0;
	int r;

	for (;; n++) {
		allow_more_fds(n);
		r = virtio_console_init(&other, &driver.map, &loop, &backend, NULL);
		allow_more_fds(100);
		if (r == 0)
			break;
		ck_assert_int_eq(r, -EMFILE);
		ck_assert_uint_eq(process_nr_fds(), fds);
	}
	virtio_console_finish(&other);
	ck_assert_uint_eq(n, 3); /* two queues, a timer */
	for (n = 1;; n++) {
		fail_add_at = n;
		r = virtio_console_init(&other, &driver.map, &loop, &backend, NULL);
		if (r == 0)
			break;
		ck_assert_int_eq(r, -ENOSPC);
		ck_assert_uint_eq(process_nr_fds(), fds);
		virtio_console_finish(&other);
	}
	virtio_console_finish(&other);
	ck_assert_uint_eq(n - 1, 3); /* likewise */
	ck_assert_uint_eq(process_nr_fds(), fds);
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		it_has_one_port_and_a_window,
		without_a_window_it_offers_no_size,
		a_window_that_changes_is_told,
		an_emergency_write_needs_no_driver,
		what_is_sent_goes_out_and_is_answered,
		pieces_of_a_chain_are_one_text,
		much_output_is_sent_in_turns,
		a_turn_ends_in_the_middle_of_a_chain,
		many_chains_are_sent_in_turns,
		what_the_far_end_does_not_take_waits,
		patience_that_ran_out_at_rest_begins_anew,
		who_does_not_read_for_too_long_loses_output,
		a_timer_that_was_stopped_too_late_drops_nothing,
		who_never_reads_is_told_of_only_so_often,
		what_comes_in_fills_a_buffer,
		without_buffers_input_waits_and_a_kick_calls_for_it,
		more_than_a_buffer_takes_several,
		many_small_buffers_are_filled_in_turns,
		what_points_the_wrong_way_is_not_touched,
		buffers_outside_of_ram_come_back_and_break_nothing,
		the_largest_of_chains_is_cut_where_ram_ends,
		a_malformed_queue_breaks_it,
		an_unwritable_used_ring_breaks_it,
		a_broken_one_that_was_waiting_loses_no_patience,
		a_reset_in_mid_output_forgets_the_rest,
		a_reset_gives_patience_back,
		starting_fails_at_each_step_and_nothing_is_left,
	};

	return run_tests("devices_virtio_console", setup, teardown, tests, nitems(tests));
}
