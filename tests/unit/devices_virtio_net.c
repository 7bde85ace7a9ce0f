/* SPDX-License-Identifier: MIT */
/* The network card, over a stream socket that the test has the other end of. */
#include <endian.h>
#include <errno.h>
#include <string.h>

#include <sys/socket.h>

#include <linux/virtio_ids.h>
#include <linux/virtio_net.h>
#include <linux/virtio_ring.h>

#include "base/event_loop.h"
#include "base/fd.h"

#include "devices/net_stream.h"
#include "devices/virtio_net.h"
#include "tests/fakes/process.h"
#include "tests/fakes/virtio_driver.h"

#define ALL UINT64_MAX
#define MERGEABLE VIRTIO_FEATURE(VIRTIO_NET_F_MRG_RXBUF)
#define RX 0u
#define TX 1u
#define BUFFERS DRIVER_POOL
#define TX_BUFFERS (8 * DRIVER_POOL)
#define MANY_TURNS 1000u

static struct virtio_driver driver;
static struct event_loop loop;
static struct net_stream stream;
static struct virtio_net net;
static int peer; /* the other end */
static unsigned int fds_before;

static const struct virtio_net_setup net_setup = {
	.name = "net0",
	.mac = { 2, 0, 0, 1, 2, 3 },
};

static void setup(void)
{
	int fds[2];

	process_keep_log();
	fds_before = process_nr_fds();
	driver_init(&driver);
	ck_assert_int_eq(event_loop_init(&loop), 0);
	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	peer = fds[1];
	ck_assert_int_eq(net_stream_init(&stream, &fds[0], "passt"), 0);
	ck_assert_int_eq(fds[0], -1);
	ck_assert_int_eq(virtio_net_init(&net, &driver.map, &loop, &stream.backend, &net_setup),
			 0);
	driver_take(&driver, &net.virtio);
}

static void teardown(void)
{
	virtio_net_finish(&net);
	virtio_net_finish(&net);
	net_stream_finish(&stream);
	net_stream_finish(&stream);
	fd_close(&peer);
	event_loop_finish(&loop);
	driver_finish(&driver);
	ck_assert_uint_eq(process_nr_fds(), fds_before);
}

/* Lets the event loop do all there is to do; it comes to an end. How many turns it took. */
static unsigned int settle(void)
{
	struct epoll_event e;
	unsigned int turns = 0;

	while (epoll_wait(loop.epoll_fd, &e, 1, 0) == 1) {
		struct event_source *source = e.data.ptr;
		source->ready(source, e.events);
		ck_assert_uint_lt(turns++, MANY_TURNS);
	}
	return turns;
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

/* The peer's side */

static uint8_t byte_of(unsigned int seed, size_t i)
{
	return (uint8_t)(seed * 31 + i * 7 + i / 251);
}

static void fill(uint8_t *bytes, size_t size, unsigned int seed)
{
	for (size_t i = 0; i < size; i++)
		bytes[i] = byte_of(seed, i);
}

static bool is_filled(const uint8_t *bytes, size_t size, unsigned int seed)
{
	for (size_t i = 0; i < size; i++) {
		if (bytes[i] != byte_of(seed, i))
			return false;
	}
	return true;
}

static void peer_send(size_t size, unsigned int seed)
{
	static uint8_t bytes[4 + 65550];
	uint32_t length = htobe32((uint32_t)size);

	memcpy(bytes, &length, sizeof(length));
	fill(bytes + 4, size, seed);
	ck_assert_int_eq(send(peer, bytes, 4 + size, MSG_DONTWAIT), (ssize_t)(4 + size));
}

/* False: nothing is there. */
static bool peer_receive(size_t size, unsigned int seed)
{
	static uint8_t bytes[65550];
	uint32_t length;

	if (recv(peer, &length, sizeof(length), MSG_DONTWAIT) != sizeof(length))
		return false;
	ck_assert_uint_eq(be32toh(length), size);
	size_t got = 0;
	while (got < size) {
		ssize_t n = recv(peer, bytes + got, size - got, MSG_DONTWAIT);
		if (n < 0)
			ck_assert_uint_gt(settle(), 0); /* the rest is on its way */
		got += n < 0 ? 0 : (size_t)n;
	}
	ck_assert(is_filled(bytes, size, seed));
	return true;
}

/* The driver's side */

static uint16_t give_buffer(gpa_t gpa, uint32_t size)
{
	const struct driver_buffer buffer = { gpa, size, true };

	return driver_add(&driver, RX, &buffer, 1);
}

static uint16_t send_frame(gpa_t gpa, uint32_t size, unsigned int seed)
{
	const struct driver_buffer buffers[] = { { gpa, NET_HEADER_SIZE, false },
						 { gpa + NET_HEADER_SIZE, size, false } };

	fill(driver_at(&driver, gpa + NET_HEADER_SIZE, size), size, seed);
	return driver_add(&driver, TX, buffers, 2);
}

static unsigned int nr_buffers_of(gpa_t gpa)
{
	const struct virtio_net_hdr_v1 *header = driver_at(&driver, gpa, sizeof(*header));

	return le16toh(header->num_buffers);
}

static bool has_frame(gpa_t gpa, size_t size, unsigned int seed)
{
	return is_filled(driver_at(&driver, gpa + NET_HEADER_SIZE, size), size, seed);
}

static uint16_t link_status(void)
{
	return (uint16_t)virtio_config_read(&net.virtio, 6, 2);
}

START_TEST(it_says_what_it_is)
{
	const uint64_t offered = net.virtio.features;

	ck_assert_uint_eq(net.virtio.device_id, VIRTIO_ID_NET);
	ck_assert_uint_eq(net.virtio.nr_queues, 2);
	ck_assert_uint_eq(virtio_config_read(&net.virtio, 0, 4), 0x01000002);
	ck_assert_uint_eq(virtio_config_read(&net.virtio, 4, 2), 0x0302);
	ck_assert_uint_eq(link_status(), VIRTIO_NET_S_LINK_UP);
	ck_assert_uint_eq(virtio_config_read(&net.virtio, 8, 2), 1);
	ck_assert(offered & VIRTIO_FEATURE(VIRTIO_NET_F_MAC));
	ck_assert(offered & VIRTIO_FEATURE(VIRTIO_NET_F_STATUS));
	ck_assert(offered & MERGEABLE);
	/* A stream does none of the host's work, and has one queue. */
	ck_assert(!(offered & VIRTIO_FEATURE(VIRTIO_NET_F_CSUM)));
	ck_assert(!(offered & VIRTIO_FEATURE(VIRTIO_NET_F_GUEST_TSO4)));
	ck_assert(!(offered & VIRTIO_FEATURE(VIRTIO_NET_F_MQ)));
	virtio_config_write(&net.virtio, 0, 4, 0);
	ck_assert_uint_eq(virtio_config_read(&net.virtio, 0, 4), 0x01000002);
}
END_TEST

START_TEST(a_frame_is_sent)
{
	driver_start(&driver, 0);
	uint16_t head = send_frame(TX_BUFFERS, 60, 1);
	ck_assert(!peer_receive(60, 1));
	driver_kick(&driver, TX);
	expect_used(TX, head, 0);
	ck_assert(peer_receive(60, 1));
	ck_assert_uint_eq(driver.nr_queue_interrupts[TX], 1);
	ck_assert_uint_eq(net.counts.sent, 1);
}
END_TEST

/* However the header and the frame are cut into buffers. */
START_TEST(a_frame_in_pieces_is_sent)
{
	const struct driver_buffer buffers[] = { { TX_BUFFERS, 5, false },
						 { TX_BUFFERS + 5, 10, false },
						 { TX_BUFFERS + 15, 0, false },
						 { TX_BUFFERS + 15, 1, false },
						 { TX_BUFFERS + 16, 9000, false } };

	driver_start(&driver, ALL);
	fill(driver_at(&driver, TX_BUFFERS + 12, 9004), 9004, 5);
	uint16_t head = driver_add_indirect(&driver, TX, TX_BUFFERS + 0x10000, buffers,
					    nitems(buffers));
	driver_kick(&driver, TX);
	expect_used(TX, head, 0);
	ck_assert(peer_receive(9004, 5));
}
END_TEST

START_TEST(a_batch_is_one_interrupt)
{
	driver_start(&driver, ALL);
	for (unsigned int i = 0; i < 10; i++)
		(void)send_frame(TX_BUFFERS + i * 2048, 100 + i, i);
	driver_kick(&driver, TX);
	for (unsigned int i = 0; i < 10; i++)
		ck_assert(peer_receive(100 + i, i));
	ck_assert_uint_eq(driver.nr_queue_interrupts[TX], 1);
}
END_TEST

/* Sizes that can be no frame, and memory that is none: given back, and no more is said than that. */
START_TEST(what_is_no_frame_is_dropped)
{
	const struct driver_buffer bad[][2] = {
		{ { TX_BUFFERS, 0, false }, { TX_BUFFERS, 0, false } },
		{ { TX_BUFFERS, 12, false }, { TX_BUFFERS, 13, false } },
		{ { TX_BUFFERS, 12, false }, { TX_BUFFERS, 65551, false } },
		{ { TX_BUFFERS, 12, false }, { TX_BUFFERS, UINT32_MAX, false } },
		{ { TX_BUFFERS, 12, false }, { DRIVER_RAM - 10, 60, false } },
		{ { UINT64_MAX - 3, 12, false }, { TX_BUFFERS, 60, false } },
		{ { TX_BUFFERS, 12, true }, { TX_BUFFERS, 60, true } },
	};

	driver_start(&driver, ALL);
	for (unsigned int round = 0; round < 20; round++) {
		for (unsigned int i = 0; i < nitems(bad); i++) {
			uint16_t head = driver_add(&driver, TX, bad[i], 2);
			driver_kick(&driver, TX);
			expect_used(TX, head, 0);
		}
	}
	ck_assert(!driver_is_broken(&driver));
	ck_assert_uint_eq(net.counts.sent, 0);
	ck_assert_uint_eq(net.counts.dropped, 20 * nitems(bad));
	ck_assert_uint_lt(strlen(process_log()), 4000);
	uint8_t byte;
	ck_assert_int_eq(recv(peer, &byte, 1, MSG_DONTWAIT), -1);
	/* The largest one there can be is one. */
	(void)send_frame(TX_BUFFERS, 65550, 3);
	(void)send_frame(TX_BUFFERS + 0x20000, 14, 4);
	driver_kick(&driver, TX);
	ck_assert(peer_receive(65550, 3));
	ck_assert(peer_receive(14, 4));
}
END_TEST

/* Nothing is lost where the socket is full: it waits, and so do those behind it. */
START_TEST(a_full_socket_makes_it_wait)
{
	const unsigned int nr = 40;
	const uint32_t size = 30000;
	uint16_t head;
	uint32_t written;
	unsigned int used = 0;

	driver_start(&driver, ALL);
	(void)settle();
	for (unsigned int i = 0; i < nr; i++)
		(void)send_frame(TX_BUFFERS + i * 0x8000, size, i);
	driver_kick(&driver, TX);
	ck_assert_uint_eq(settle(), 0); /* the socket is not writable */
	while (driver_take_used(&driver, TX, &head, &written))
		used++;
	ck_assert_uint_lt(used, nr);
	ck_assert(stream.backend.blocked);
	for (unsigned int i = 0; i < nr; i++) {
		ck_assert(peer_receive(size, i));
		(void)settle();
	}
	while (driver_take_used(&driver, TX, &head, &written))
		used++;
	ck_assert_uint_eq(used, nr);
	ck_assert_uint_eq(net.counts.sent, nr);
	ck_assert_uint_eq(net.counts.dropped, 0);
	ck_assert(!stream.backend.blocked);
	ck_assert_uint_eq(settle(), 0);
}
END_TEST

/* A reset while a frame is in the socket in part: what was begun is ended, what waits is not sent. */
START_TEST(a_reset_does_not_tear_a_frame)
{
	unsigned int received = 0;

	driver_start(&driver, ALL);
	for (unsigned int i = 0; i < 40; i++)
		(void)send_frame(TX_BUFFERS + i * 0x8000, 30000, i);
	driver_kick(&driver, TX);
	ck_assert(stream.backend.blocked);
	driver_start(&driver, ALL);
	while (peer_receive(30000, received)) {
		received++;
		(void)settle();
	}
	ck_assert_uint_gt(received, 0);
	ck_assert_uint_lt(received, 40);
	(void)send_frame(TX_BUFFERS, 500, 99);
	driver_kick(&driver, TX);
	ck_assert(peer_receive(500, 99));
}
END_TEST

START_TEST(a_frame_is_received)
{
	driver_start(&driver, 0);
	uint16_t head = give_buffer(BUFFERS, 2000);
	driver_kick(&driver, RX);
	(void)settle();
	peer_send(1514, 1);
	(void)settle();
	expect_used(RX, head, NET_HEADER_SIZE + 1514);
	ck_assert(has_frame(BUFFERS, 1514, 1));
	ck_assert_uint_eq(nr_buffers_of(BUFFERS), 1);
	ck_assert_uint_eq(driver.nr_queue_interrupts[RX], 1);
	ck_assert_uint_eq(net.counts.received, 1);
}
END_TEST

START_TEST(without_buffers_nothing_is_read)
{
	driver_start(&driver, ALL);
	(void)settle();
	peer_send(100, 1);
	peer_send(200, 2);
	/* It looks once, and then no more. */
	ck_assert_uint_le(settle(), 2);
	ck_assert_uint_eq(settle(), 0);
	uint16_t first = give_buffer(BUFFERS, 2000);
	uint16_t second = give_buffer(BUFFERS + 2000, 2000);
	driver_kick(&driver, RX);
	expect_used(RX, first, NET_HEADER_SIZE + 100);
	expect_used(RX, second, NET_HEADER_SIZE + 200);
	ck_assert(has_frame(BUFFERS, 100, 1));
	ck_assert(has_frame(BUFFERS + 2000, 200, 2));
	ck_assert_uint_eq(net.counts.dropped, 0);
}
END_TEST

/* With enough of them the backend writes into the guest's buffers, as many as it takes. */
START_TEST(a_large_frame_goes_into_many_buffers)
{
	uint16_t heads[64];

	driver_start(&driver, ALL);
	for (unsigned int i = 0; i < nitems(heads); i++)
		heads[i] = give_buffer(BUFFERS + i * 1500, 1500);
	driver_kick(&driver, RX);
	peer_send(65550, 9);
	peer_send(60, 10);
	(void)settle();
	/* 65562 bytes in buffers of 1500. */
	for (unsigned int i = 0; i < 43; i++)
		expect_used(RX, heads[i], 1500);
	expect_used(RX, heads[43], 65562 - 43 * 1500);
	ck_assert_uint_eq(nr_buffers_of(BUFFERS), 44);
	ck_assert(has_frame(BUFFERS, 65550, 9));
	expect_used(RX, heads[44], NET_HEADER_SIZE + 60);
	ck_assert_uint_eq(nr_buffers_of(BUFFERS + 44 * 1500), 1);
	ck_assert(has_frame(BUFFERS + 44 * 1500, 60, 10));
	ck_assert_uint_eq(driver.nr_queue_interrupts[RX], 1);
}
END_TEST

/* The driver sees all buffers of a frame at once, or none. */
START_TEST(a_frame_waits_until_all_of_it_fits)
{
	driver_start(&driver, ALL);
	uint16_t first = give_buffer(BUFFERS, 1000);
	uint16_t second = give_buffer(BUFFERS + 1000, 1000);
	driver_kick(&driver, RX);
	(void)settle();
	peer_send(2900, 7);
	(void)settle();
	expect_none_used(RX);
	ck_assert_uint_eq(settle(), 0);
	uint16_t third = give_buffer(BUFFERS + 2000, 1000);
	driver_kick(&driver, RX);
	expect_used(RX, first, 1000);
	expect_used(RX, second, 1000);
	expect_used(RX, third, 912);
	ck_assert(has_frame(BUFFERS, 2900, 7));
	ck_assert_uint_eq(nr_buffers_of(BUFFERS), 3);
}
END_TEST

/* The header itself may be cut. */
START_TEST(buffers_may_be_chains_of_the_smallest_pieces)
{
	struct driver_buffer pieces[20];

	for (unsigned int i = 0; i < nitems(pieces); i++)
		pieces[i] = (struct driver_buffer){ BUFFERS + i * 3, 3, true };
	driver_start(&driver, ALL);
	uint16_t head = driver_add(&driver, RX, pieces, nitems(pieces));
	driver_kick(&driver, RX);
	peer_send(40, 3);
	(void)settle();
	expect_used(RX, head, NET_HEADER_SIZE + 40);
	ck_assert(has_frame(BUFFERS, 40, 3));
	ck_assert_uint_eq(nr_buffers_of(BUFFERS), 1);
}
END_TEST

/* Without mergeable buffers one is all a frame gets. */
START_TEST(what_does_not_fit_one_buffer_is_dropped)
{
	driver_start(&driver, ALL & ~MERGEABLE);
	uint16_t first = give_buffer(BUFFERS, 1526);
	uint16_t second = give_buffer(BUFFERS + 1526, 1526);
	driver_kick(&driver, RX);
	peer_send(1515, 1);
	peer_send(1514, 2);
	peer_send(9000, 3);
	peer_send(60, 4);
	(void)settle();
	expect_used(RX, first, 1526);
	expect_used(RX, second, NET_HEADER_SIZE + 60);
	ck_assert(has_frame(BUFFERS, 1514, 2));
	ck_assert_uint_eq(nr_buffers_of(BUFFERS), 1);
	ck_assert_uint_eq(net.counts.dropped, 2);
	expect_none_used(RX);
}
END_TEST

/* The whole ring is in hand and it does not fit: it never will. */
START_TEST(what_does_not_fit_the_ring_is_dropped)
{
	driver_negotiate(&driver, ALL);
	driver_place_queues(&driver);
	net.virtio.queues[RX].ring.size = driver.queues[RX].size = 4;
	driver_ok(&driver);
	for (unsigned int i = 0; i < 4; i++)
		(void)give_buffer(BUFFERS + i * 100, 100);
	driver_kick(&driver, RX);
	peer_send(500, 1);
	peer_send(60, 2);
	(void)settle();
	expect_used(RX, 0, NET_HEADER_SIZE + 60);
	ck_assert(has_frame(BUFFERS, 60, 2));
	ck_assert_uint_eq(net.counts.dropped, 1);
}
END_TEST

START_TEST(bad_receive_buffers_break_it)
{
	const struct driver_buffer bad[] = {
		{ BUFFERS, 11, true },
		{ BUFFERS, 2000, false },
		{ DRIVER_RAM - 100, 2000, true },
		{ UINT64_MAX - 100, 2000, true },
	};

	for (unsigned int i = 0; i < nitems(bad); i++) {
		driver_start(&driver, ALL);
		(void)driver_add(&driver, RX, &bad[i], 1);
		driver_kick(&driver, RX);
		ck_assert(driver_is_broken(&driver));
		process_expect_log("net0: a malformed receive queue");
		/* A peer that goes on does not keep anybody busy. */
		peer_send(60, i);
		(void)settle();
		ck_assert_uint_eq(settle(), 0);
	}
	driver_start(&driver, ALL);
	(void)give_buffer(BUFFERS, 2000);
	driver_kick(&driver, RX);
	ck_assert(has_frame(BUFFERS, 60, 0));
}
END_TEST

START_TEST(malformed_queues_break_it)
{
	for (unsigned int queue = RX; queue <= TX; queue++) {
		driver_start(&driver, ALL);
		driver_publish(&driver, queue, 0x4000);
		driver_kick(&driver, queue);
		ck_assert(driver_is_broken(&driver));
		process_expect_log("net0: a malformed");

		driver_start(&driver, ALL);
		net.virtio.queues[queue].ring.device = DRIVER_RAM;
		if (queue == TX)
			(void)send_frame(TX_BUFFERS, 60, 1);
		else
			(void)give_buffer(BUFFERS, 2000);
		driver_kick(&driver, queue);
		if (queue == RX)
			peer_send(60, 1);
		(void)settle();
		ck_assert(driver_is_broken(&driver));
		process_expect_log("net0: a malformed");
	}
}
END_TEST

/* A few frames a turn, then others have theirs; and the rest is not forgotten. */
START_TEST(who_sends_much_waits_in_between)
{
	driver_start(&driver, 0);
	for (unsigned int i = 0; i < 100; i++)
		(void)send_frame(TX_BUFFERS + i * 128, 60, i);
	driver_kick(&driver, TX);
	ck_assert_uint_eq(net.counts.sent, 64);
	(void)settle();
	ck_assert_uint_eq(net.counts.sent, 100);

	for (unsigned int i = 0; i < 200; i++)
		(void)give_buffer(BUFFERS + i * 128, 128);
	driver_kick(&driver, RX);
	for (unsigned int i = 0; i < 150; i++)
		peer_send(60, i);
	struct epoll_event e;
	ck_assert_int_eq(epoll_wait(loop.epoll_fd, &e, 1, 0), 1);
	struct event_source *source = e.data.ptr;
	source->ready(source, e.events);
	ck_assert_uint_le(net.counts.received, 64);
	/* The socket is empty now: what is left is in our buffer. */
	(void)settle();
	ck_assert_uint_eq(net.counts.received, 150);
	for (unsigned int i = 0; i < 150; i++)
		ck_assert(has_frame(BUFFERS + i * 128, 60, i));
}
END_TEST

START_TEST(frames_come_in_any_pieces)
{
	uint8_t bytes[4 + 300];
	uint32_t length = htobe32(300);

	driver_start(&driver, ALL);
	uint16_t head = give_buffer(BUFFERS, 2000);
	driver_kick(&driver, RX);
	memcpy(bytes, &length, 4);
	fill(bytes + 4, 300, 8);
	for (size_t i = 0; i < sizeof(bytes); i++) {
		expect_none_used(RX);
		ck_assert_int_eq(send(peer, bytes + i, 1, 0), 1);
		(void)settle();
	}
	expect_used(RX, head, NET_HEADER_SIZE + 300);
	ck_assert(has_frame(BUFFERS, 300, 8));
}
END_TEST

static void expect_gone(void)
{
	(void)settle();
	ck_assert_uint_eq(settle(), 0);
	ck_assert(net.gone);
	ck_assert_uint_eq(link_status(), 0);
	process_expect_log("net0: passt is gone: going on with the link down");
	ck_assert_uint_ge(driver.nr_config_interrupts, 1);
}

START_TEST(a_peer_that_hangs_up_takes_the_link_down)
{
	driver_start(&driver, ALL);
	(void)give_buffer(BUFFERS, 2000);
	driver_kick(&driver, RX);
	(void)settle();
	peer_send(60, 1);
	fd_close(&peer);
	expect_gone();
	/* What it sent before is there, what is sent to it is not kept. */
	ck_assert(has_frame(BUFFERS, 60, 1));
	uint16_t head = send_frame(TX_BUFFERS, 60, 1);
	driver_kick(&driver, TX);
	expect_used(TX, head, 0);
	ck_assert_int_eq(virtio_net_set_link(&net, true), -EPIPE);
	ck_assert_int_eq(virtio_net_set_link(&net, false), 0);
	driver_start(&driver, ALL);
	ck_assert_uint_eq(link_status(), 0);
}
END_TEST

START_TEST(a_peer_that_hangs_up_before_there_is_a_driver)
{
	fd_close(&peer);
	(void)settle();
	ck_assert_uint_eq(settle(), 0);
	ck_assert(net.gone);
	driver_start(&driver, ALL);
	ck_assert_uint_eq(link_status(), 0);
}
END_TEST

START_TEST(a_peer_that_hangs_up_while_frames_wait_for_it)
{
	uint16_t head;
	uint32_t written;
	unsigned int used = 0;

	driver_start(&driver, ALL);
	for (unsigned int i = 0; i < 40; i++)
		(void)send_frame(TX_BUFFERS + i * 0x8000, 30000, i);
	driver_kick(&driver, TX);
	ck_assert(stream.backend.blocked);
	fd_close(&peer);
	expect_gone();
	while (driver_take_used(&driver, TX, &head, &written))
		used++;
	ck_assert_uint_eq(used, 40);
}
END_TEST

START_TEST(a_peer_that_lost_its_place_is_hung_up_on)
{
	const uint32_t lengths[] = { 0, 13, 65551, UINT32_MAX };

	for (unsigned int i = 0; i < nitems(lengths); i++) {
		if (i > 0) {
			teardown();
			setup();
		}
		const uint32_t bad = htobe32(lengths[i]);
		driver_start(&driver, ALL);
		(void)give_buffer(BUFFERS, 2000);
		driver_kick(&driver, RX);
		ck_assert_int_eq(send(peer, &bad, sizeof(bad), 0), sizeof(bad));
		expect_gone();
	}
}
END_TEST

START_TEST(a_pulled_cable_passes_nothing)
{
	driver_start(&driver, ALL);
	uint16_t buffer = give_buffer(BUFFERS, 2000);
	driver_kick(&driver, RX);
	ck_assert_int_eq(virtio_net_set_link(&net, false), 0);
	ck_assert_int_eq(virtio_net_set_link(&net, false), 0);
	ck_assert_uint_eq(driver.nr_config_interrupts, 1);
	ck_assert_uint_eq(link_status(), 0);
	uint16_t head = send_frame(TX_BUFFERS, 60, 1);
	driver_kick(&driver, TX);
	expect_used(TX, head, 0);
	ck_assert(!peer_receive(60, 1));
	/* What comes meanwhile does not come later. */
	peer_send(60, 2);
	(void)settle();
	ck_assert_uint_eq(settle(), 0);
	expect_none_used(RX);
	ck_assert_int_eq(virtio_net_set_link(&net, true), 0);
	ck_assert_uint_eq(driver.nr_config_interrupts, 2);
	ck_assert_uint_eq(link_status(), VIRTIO_NET_S_LINK_UP);
	peer_send(60, 3);
	(void)settle();
	expect_used(RX, buffer, NET_HEADER_SIZE + 60);
	ck_assert(has_frame(BUFFERS, 60, 3));
	ck_assert_uint_eq(net.counts.dropped, 2);
}
END_TEST

/* Buffers that were taken belong to the driver again; nothing is written into them any more. */
START_TEST(a_reset_gives_everything_back)
{
	driver_start(&driver, ALL);
	(void)give_buffer(BUFFERS, 2000);
	(void)give_buffer(BUFFERS + 2000, 100);
	driver_kick(&driver, RX);
	(void)settle();
	peer_send(5000, 1); /* waits */
	(void)settle();
	driver_set_status(&driver, 0);
	ck_assert_uint_eq(driver_status(&driver), 0);
	memset(driver_at(&driver, BUFFERS, 4000), 0x55, 4000);
	peer_send(60, 2);
	(void)settle();
	ck_assert_uint_eq(settle(), 0);
	const uint8_t *bytes = driver_at(&driver, BUFFERS, 4000);
	for (unsigned int i = 0; i < 4000; i++)
		ck_assert_uint_eq(bytes[i], 0x55);
	driver_start(&driver, ALL);
	uint16_t head = give_buffer(BUFFERS, 2000);
	driver_kick(&driver, RX);
	expect_used(RX, head, NET_HEADER_SIZE + 60);
	ck_assert(has_frame(BUFFERS, 60, 2));
}
END_TEST

/* It must not, but it may: nothing is read or written until it has DRIVER_OK again. */
START_TEST(a_driver_that_takes_itself_back_is_left_alone)
{
	driver_start(&driver, ALL);
	uint16_t head = give_buffer(BUFFERS, 2000);
	driver_kick(&driver, RX);
	(void)settle();
	driver_set_status(&driver, VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER |
					   VIRTIO_CONFIG_S_FEATURES_OK);
	peer_send(60, 2);
	(void)settle();
	expect_none_used(RX);
	ck_assert_uint_eq(settle(), 0);
	driver_ok(&driver);
	(void)settle();
	expect_used(RX, head, NET_HEADER_SIZE + 60);
}
END_TEST

START_TEST(without_bus_mastering_nothing_is_written)
{
	driver_start(&driver, ALL);
	uint16_t head = give_buffer(BUFFERS, 2000);
	driver_kick(&driver, RX);
	(void)settle();
	virtio_set_dma(&net.virtio, false);
	memset(driver_at(&driver, BUFFERS, 2000), 0x55, 2000);
	peer_send(60, 2);
	driver_kick(&driver, RX);
	ck_assert_uint_le(settle(), 1);
	expect_none_used(RX);
	const uint8_t *bytes = driver_at(&driver, BUFFERS, 2000);
	ck_assert(bytes[0] == 0x55 && memcmp(bytes, bytes + 1, 1999) == 0);
	virtio_set_dma(&net.virtio, true);
	(void)settle();
	expect_none_used(RX);
	ck_assert(bytes[0] == 0x55 && memcmp(bytes, bytes + 1, 1999) == 0);
	driver_ok(&driver);
	(void)settle();
	expect_used(RX, head, NET_HEADER_SIZE + 60);
	ck_assert(has_frame(BUFFERS, 60, 2));
}
END_TEST

/* The driver is asked to kick exactly where we have looked and found nothing. */
START_TEST(kicks_are_asked_for_by_index)
{
	driver_start(&driver, ALL);
	(void)settle();
	ck_assert_uint_eq(driver_avail_event(&driver, RX), 0);
	(void)give_buffer(BUFFERS, 2000);
	(void)give_buffer(BUFFERS, 2000);
	driver_kick(&driver, RX);
	ck_assert_uint_eq(driver_avail_event(&driver, RX), 2);
	(void)send_frame(TX_BUFFERS, 60, 1);
	driver_kick(&driver, TX);
	ck_assert_uint_eq(driver_avail_event(&driver, TX), 1);
}
END_TEST

START_TEST(a_reset_of_the_guest_is_through_at_once)
{
	driver_start(&driver, ALL);
	(void)give_buffer(BUFFERS, 2000);
	driver_kick(&driver, RX);
	virtio_reset(&net.virtio);
	ck_assert(!virtio_is_resetting(&net.virtio));
	ck_assert_uint_eq(net.virtio.queues[RX].ring.next_avail, 0);
}
END_TEST

START_TEST(vhost_cannot_be_had_for_a_stream)
{
	struct virtio_net_setup wanted = net_setup;
	struct virtio_net other;

	wanted.vhost = VIRTIO_NET_VHOST_ON;
	/* The one that has the stream first. */
	virtio_net_finish(&net);
	ck_assert_int_eq(virtio_net_init(&other, &driver.map, &loop, &stream.backend, &wanted),
			 -EOPNOTSUPP);
	process_expect_log("vhost=on");
}
END_TEST

START_TEST(without_fds_there_is_none)
{
	struct virtio_net other;

	virtio_net_finish(&net);
	process_forbid_fds();
	int r = virtio_net_init(&other, &driver.map, &loop, &stream.backend, &net_setup);
	process_allow_fds();
	ck_assert_int_eq(r, -EMFILE);
	process_expect_log("net0");
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		it_says_what_it_is,
		a_frame_is_sent,
		a_frame_in_pieces_is_sent,
		a_batch_is_one_interrupt,
		what_is_no_frame_is_dropped,
		a_full_socket_makes_it_wait,
		a_reset_does_not_tear_a_frame,
		a_frame_is_received,
		without_buffers_nothing_is_read,
		a_large_frame_goes_into_many_buffers,
		a_frame_waits_until_all_of_it_fits,
		buffers_may_be_chains_of_the_smallest_pieces,
		what_does_not_fit_one_buffer_is_dropped,
		what_does_not_fit_the_ring_is_dropped,
		bad_receive_buffers_break_it,
		malformed_queues_break_it,
		who_sends_much_waits_in_between,
		frames_come_in_any_pieces,
		a_peer_that_hangs_up_takes_the_link_down,
		a_peer_that_hangs_up_before_there_is_a_driver,
		a_peer_that_hangs_up_while_frames_wait_for_it,
		a_peer_that_lost_its_place_is_hung_up_on,
		a_pulled_cable_passes_nothing,
		a_reset_gives_everything_back,
		a_driver_that_takes_itself_back_is_left_alone,
		without_bus_mastering_nothing_is_written,
		kicks_are_asked_for_by_index,
		a_reset_of_the_guest_is_through_at_once,
		vhost_cannot_be_had_for_a_stream,
		without_fds_there_is_none,
	};

	return run_tests("devices_virtio_net", setup, teardown, tests, nitems(tests));
}
