/* SPDX-License-Identifier: MIT */
/* The network card over a tap: several queues, offloads, and the kernel that works on them. */
#include <endian.h>
#include <errno.h>
#include <string.h>

#include <sys/mman.h>
#include <sys/socket.h>

#include <linux/if_tun.h>
#include <linux/virtio_net.h>

#include "base/event_loop.h"
#include "base/fd.h"

#include "devices/net_tap.h"
#include "devices/virtio_net.h"
#include "tests/fakes/net_kernel.h"
#include "tests/fakes/process.h"
#include "tests/fakes/virtio_driver.h"

#define ALL UINT64_MAX
#define RX 0u
#define TX 1u
#define PAIRS 3u
#define CONTROL (2 * PAIRS)
#define BUFFERS DRIVER_POOL
#define COMMANDS (12 * DRIVER_POOL)
#define MANY_TURNS 1000u

static struct virtio_driver driver;
static struct event_loop loop;
static struct net_tap tap;
static struct virtio_net net;
static struct virtio_transport_ops transport;
static int vectors[VIRTIO_MAX_QUEUES]; /* as MSI-X would have them; -1 */
static unsigned int fds_before;

static int queue_eventfd(struct virtio *virtio, unsigned int index)
{
	(void)virtio;
	return vectors[index];
}

static void setup(void)
{
	process_keep_log();
	fds_before = process_nr_fds();
	fake_net_init();
	driver_init(&driver);
	ck_assert_int_eq(event_loop_init(&loop), 0);
	for (unsigned int i = 0; i < nitems(vectors); i++)
		vectors[i] = -1;
}

/* A card of so many pairs. */
static int init(unsigned int nr_pairs, enum virtio_net_vhost vhost)
{
	const struct virtio_net_setup net_setup = {
		.name = "net0",
		.mac = { 2, 0, 0, 1, 2, 3 },
		.vhost = vhost,
	};

	ck_assert_int_eq(net_tap_open(&tap, "net0", FAKE_INTERFACE, nr_pairs), 0);
	int r = virtio_net_init(&net, &driver.map, &loop, &tap.backend, &net_setup);
	if (r < 0)
		return r;
	driver_take(&driver, &net.virtio);
	transport = *net.virtio.transport;
	transport.queue_eventfd = queue_eventfd;
	net.virtio.transport = &transport;
	return 0;
}

static void finish(void)
{
	virtio_net_finish(&net);
	net_tap_finish(&tap);
	fake_net_finish();
}

static void teardown(void)
{
	finish();
	event_loop_finish(&loop);
	driver_finish(&driver);
	ck_assert_uint_eq(process_nr_fds(), fds_before);
}

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

static uint16_t give_buffer(unsigned int queue, gpa_t gpa, uint32_t size)
{
	const struct driver_buffer buffer = { gpa, size, queue % 2 == 0 };

	return driver_add(&driver, queue, &buffer, 1);
}

static bool take_used(unsigned int queue)
{
	uint16_t head;
	uint32_t written;

	return driver_take_used(&driver, queue, &head, &written);
}

/* Runs a command; its answer. */
static uint8_t command_of(unsigned int queue, uint8_t class, uint8_t cmd, uint16_t value,
			  uint32_t size)
{
	const uint8_t bytes[] = { class, cmd, (uint8_t)value, (uint8_t)(value >> 8) };
	const struct driver_buffer buffers[] = { { COMMANDS, size, false },
						 { COMMANDS + 64, 1, true } };
	uint8_t *ack = driver_at(&driver, COMMANDS + 64, 1);

	memcpy(driver_at(&driver, COMMANDS, sizeof(bytes)), bytes, sizeof(bytes));
	*ack = 0xff;
	(void)driver_add(&driver, queue, buffers, 2);
	driver_kick(&driver, queue);
	ck_assert(take_used(queue));
	return *ack;
}

static uint8_t set_pairs(uint16_t nr)
{
	return command_of(CONTROL, VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, nr, 4);
}

/* Several queues */

START_TEST(a_tap_s_card_offers_all_there_is)
{
	ck_assert_int_eq(init(PAIRS, VIRTIO_NET_VHOST_OFF), 0);
	ck_assert_uint_eq(net.virtio.nr_queues, 2 * PAIRS + 1);
	ck_assert_uint_eq(virtio_config_read(&net.virtio, 8, 2), PAIRS);
	ck_assert_uint_eq(net.virtio.features & tap.backend.features, tap.backend.features);
	ck_assert(net.virtio.features & VIRTIO_FEATURE(VIRTIO_NET_F_MQ));
	ck_assert(net.virtio.features & VIRTIO_FEATURE(VIRTIO_NET_F_CTRL_VQ));
	/* Until the driver asks there is one. */
	ck_assert(fake_net.attached[0] && !fake_net.attached[1] && !fake_net.attached[2]);
	ck_assert(!net.vhost);
}
END_TEST

START_TEST(offloads_are_the_drivers_until_it_goes)
{
	ck_assert_int_eq(init(1, VIRTIO_NET_VHOST_OFF), 0);
	driver_start(&driver, ALL);
	ck_assert_uint_eq(fake_net.offload,
			  TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN);
	driver_set_status(&driver, 0);
	ck_assert_uint_eq(fake_net.offload, 0);
	driver_start(&driver, VIRTIO_FEATURE(VIRTIO_NET_F_GUEST_CSUM));
	ck_assert_uint_eq(fake_net.offload, TUN_F_CSUM);
	/* If that fails it goes without. */
	fake_net.fail_at = fake_net.nr_calls + 2;
	driver_start(&driver, ALL);
	process_expect_log("no offloads (error 5), going on");
	ck_assert(!driver_is_broken(&driver));
}
END_TEST

START_TEST(frames_pass_with_their_headers)
{
	uint8_t frame[12 + 100] = { VIRTIO_NET_HDR_F_NEEDS_CSUM, 0, 0, 0, 0, 0, 34, 0, 16 };
	uint8_t got[4096];

	ck_assert_int_eq(init(1, VIRTIO_NET_VHOST_OFF), 0);
	driver_start(&driver, ALL);
	memset(frame + 12, 0x77, 100);
	memcpy(driver_at(&driver, BUFFERS, sizeof(frame)), frame, sizeof(frame));
	(void)give_buffer(TX, BUFFERS, sizeof(frame));
	driver_kick(&driver, TX);
	ck_assert_int_eq(recv(fake_net.peers[0], got, sizeof(got), 0), sizeof(frame));
	ck_assert_int_eq(memcmp(got, frame, sizeof(frame)), 0);

	(void)give_buffer(RX, BUFFERS + 4096, 2000);
	(void)give_buffer(RX, BUFFERS + 8192, 2000);
	driver_kick(&driver, RX);
	ck_assert_int_eq(send(fake_net.peers[0], frame, sizeof(frame), 0), sizeof(frame));
	/* Shorter than any frame: lost. */
	ck_assert_int_eq(send(fake_net.peers[0], frame, 25, 0), 25);
	(void)settle();
	ck_assert(take_used(RX));
	ck_assert(!take_used(RX));
	frame[10] = 1; /* num_buffers */
	ck_assert_int_eq(memcmp(driver_at(&driver, BUFFERS + 4096, 112), frame, sizeof(frame)),
			 0);
	ck_assert_uint_eq(net.counts.dropped, 1);
}
END_TEST

START_TEST(the_driver_asks_for_more_queues)
{
	uint8_t frame[12 + 60] = { 0 };

	ck_assert_int_eq(init(PAIRS, VIRTIO_NET_VHOST_OFF), 0);
	driver_start(&driver, ALL);
	/* What is given to a queue that is not in use waits. */
	(void)give_buffer(TX + 4, BUFFERS, sizeof(frame));
	driver_kick(&driver, TX + 4);
	ck_assert(!take_used(TX + 4));
	ck_assert_uint_eq(set_pairs(3), VIRTIO_NET_OK);
	ck_assert(fake_net.attached[1] && fake_net.attached[2]);
	(void)settle();
	ck_assert(take_used(TX + 4));
	ck_assert_int_eq(recv(fake_net.peers[2], frame, sizeof(frame), 0), sizeof(frame));
	(void)give_buffer(RX + 2, BUFFERS, 2000);
	driver_kick(&driver, RX + 2);
	ck_assert_int_eq(send(fake_net.peers[1], frame, sizeof(frame), 0), sizeof(frame));
	(void)settle();
	ck_assert(take_used(RX + 2));

	(void)give_buffer(RX + 2, BUFFERS, 2000);
	driver_kick(&driver, RX + 2);
	ck_assert_uint_eq(set_pairs(1), VIRTIO_NET_OK);
	ck_assert(!fake_net.attached[1] && !fake_net.attached[2]);
	ck_assert_int_eq(send(fake_net.peers[1], frame, sizeof(frame), 0), sizeof(frame));
	(void)settle();
	ck_assert(!take_used(RX + 2));
	/* The buffer was given back, not forgotten. */
	ck_assert_uint_eq(set_pairs(2), VIRTIO_NET_OK);
	(void)settle();
	ck_assert(take_used(RX + 2));
}
END_TEST

START_TEST(a_reset_leaves_one_queue)
{
	ck_assert_int_eq(init(PAIRS, VIRTIO_NET_VHOST_OFF), 0);
	driver_start(&driver, ALL);
	ck_assert_uint_eq(set_pairs(3), VIRTIO_NET_OK);
	virtio_reset(&net.virtio);
	ck_assert(fake_net.attached[0] && !fake_net.attached[1] && !fake_net.attached[2]);
	driver_start(&driver, ALL);
	ck_assert_uint_eq(set_pairs(2), VIRTIO_NET_OK);
}
END_TEST

START_TEST(commands_that_are_none_are_refused)
{
	ck_assert_int_eq(init(PAIRS, VIRTIO_NET_VHOST_OFF), 0);
	driver_start(&driver, ALL);
	ck_assert_uint_eq(set_pairs(0), VIRTIO_NET_ERR);
	ck_assert_uint_eq(set_pairs(PAIRS + 1), VIRTIO_NET_ERR);
	ck_assert_uint_eq(set_pairs(0x8000), VIRTIO_NET_ERR);
	ck_assert_uint_eq(command_of(CONTROL, VIRTIO_NET_CTRL_MQ, 1, 1, 4), VIRTIO_NET_ERR);
	ck_assert_uint_eq(command_of(CONTROL, VIRTIO_NET_CTRL_RX, 0, 1, 3), VIRTIO_NET_ERR);
	ck_assert_uint_eq(command_of(CONTROL, VIRTIO_NET_CTRL_MQ, 0, 2, 3), VIRTIO_NET_ERR);
	ck_assert_uint_eq(command_of(CONTROL, VIRTIO_NET_CTRL_MQ, 0, 2, 1), VIRTIO_NET_ERR);
	ck_assert_uint_eq(net.nr_active, 1);
	/* What the kernel refuses is refused. */
	fake_net.fail_at = fake_net.nr_calls + 1;
	ck_assert_uint_eq(set_pairs(2), VIRTIO_NET_ERR);
	ck_assert_uint_eq(net.nr_active, 1);
	/* Nowhere for the answer. */
	const struct driver_buffer buffer = { COMMANDS, 4, false };
	(void)driver_add(&driver, CONTROL, &buffer, 1);
	driver_kick(&driver, CONTROL);
	ck_assert(take_used(CONTROL));
	ck_assert(!driver_is_broken(&driver));
	driver_publish(&driver, CONTROL, 0x4000);
	driver_kick(&driver, CONTROL);
	ck_assert(driver_is_broken(&driver));
}
END_TEST

/* 1.2, 5.1.2: without VIRTIO_NET_F_MQ the control queue is the third. */
START_TEST(the_control_queue_of_a_driver_of_one_pair)
{
	ck_assert_int_eq(init(PAIRS, VIRTIO_NET_VHOST_OFF), 0);
	driver_start(&driver, ALL & ~VIRTIO_FEATURE(VIRTIO_NET_F_MQ));
	ck_assert_uint_eq(command_of(2, VIRTIO_NET_CTRL_MQ, 0, 2, 4), VIRTIO_NET_ERR);
	ck_assert_uint_eq(net.nr_active, 1);
}
END_TEST

START_TEST(an_interface_that_is_deleted_takes_the_link_down)
{
	ck_assert_int_eq(init(PAIRS, VIRTIO_NET_VHOST_OFF), 0);
	driver_start(&driver, ALL);
	ck_assert_uint_eq(set_pairs(PAIRS), VIRTIO_NET_OK);
	(void)settle();
	fd_close(&fake_net.peers[1]);
	(void)settle();
	ck_assert_uint_eq(settle(), 0);
	ck_assert(net.gone);
	process_expect_log("net0: tap " FAKE_INTERFACE " is gone: going on with the link down");
	ck_assert_uint_eq(virtio_config_read(&net.virtio, 6, 2), 0);
	driver_start(&driver, ALL);
	ck_assert_uint_eq(set_pairs(2), VIRTIO_NET_OK);
	(void)settle();
	ck_assert_uint_eq(settle(), 0);
}
END_TEST

/* vhost */

static void init_with_vectors(unsigned int nr_pairs)
{
	ck_assert_int_eq(init(nr_pairs, VIRTIO_NET_VHOST_ON), 0);
	for (unsigned int i = 0; i < 2 * nr_pairs; i++)
		ck_assert_int_eq(eventfd_create(&vectors[i]), 0);
}

static void close_vectors(void)
{
	for (unsigned int i = 0; i < nitems(vectors); i++)
		fd_close(&vectors[i]);
}

static bool works(unsigned int pair)
{
	const struct fake_vhost *v = &fake_net.vhosts[pair];

	ck_assert_int_eq(v->queues[RX].backend, v->queues[TX].backend);
	return v->queues[RX].backend >= 0;
}

START_TEST(the_kernel_gets_the_queues)
{
	init_with_vectors(1);
	const struct fake_vhost *v = &fake_net.vhosts[0];
	ck_assert(net.vhost);
	ck_assert(!works(0));
	ck_assert_uint_eq(v->nr_regions, 1);
	ck_assert_uint_eq(v->regions[0].memory_size, DRIVER_RAM);
	ck_assert_uint_eq(v->regions[0].userspace_addr, (uintptr_t)driver.ram.host);

	driver_start(&driver, ALL);
	ck_assert(works(0));
	ck_assert_int_eq(v->queues[RX].backend, tap.backend.fds[0]);
	for (unsigned int i = RX; i <= TX; i++) {
		const struct vhost_vring_addr *address = &v->queues[i].address;
		ck_assert_uint_eq(v->queues[i].size, 256);
		ck_assert_uint_eq(v->queues[i].base, 0);
		ck_assert_int_eq(v->queues[i].kick, net.virtio.queues[i].kicked.fd);
		/* Interrupts pass nobody on their way. */
		ck_assert_int_eq(v->queues[i].call, vectors[i]);
		ck_assert_uint_eq(address->desc_user_addr,
				  (uintptr_t)driver_at(&driver, driver.queues[i].desc, 1));
		ck_assert_uint_eq(address->avail_user_addr,
				  (uintptr_t)driver_at(&driver, driver.queues[i].avail, 1));
		ck_assert_uint_eq(address->used_user_addr,
				  (uintptr_t)driver_at(&driver, driver.queues[i].used, 1));
		ck_assert(eventfd_pending(net.virtio.queues[i].kicked.fd));
	}
	ck_assert(!(v->features & VIRTIO_FEATURE(VIRTIO_NET_F_CSUM)));
	ck_assert(v->features & VIRTIO_FEATURE(VIRTIO_NET_F_MRG_RXBUF));
	/* Neither kicks nor frames are for us. */
	(void)give_buffer(RX, BUFFERS, 2000);
	ck_assert_int_eq(send(fake_net.peers[0], "x", 1, 0), 1);
	ck_assert_uint_eq(settle(), 0);
	driver_kick(&driver, RX);
	ck_assert_uint_eq(net.virtio.queues[RX].ring.next_avail, 0);
	close_vectors();
}
END_TEST

START_TEST(a_reset_takes_them_back)
{
	init_with_vectors(1);
	driver_start(&driver, ALL);
	fake_net.vhosts[0].queues[RX].base = 17;
	driver_set_status(&driver, 0);
	ck_assert_uint_eq(driver_status(&driver), 0);
	ck_assert(!works(0));
	ck_assert_int_eq(fake_net.vhosts[0].queues[RX].kick, -1);
	ck_assert_int_eq(fake_net.vhosts[0].queues[TX].call, -1);
	ck_assert_uint_eq(net.virtio.queues[RX].ring.next_avail, 0);
	driver_start(&driver, ALL);
	ck_assert(works(0));
	ck_assert_uint_eq(fake_net.vhosts[0].queues[RX].base, 0);
	close_vectors();
}
END_TEST

/* The event loop goes on where the kernel was, and the kernel where the event loop was. */
START_TEST(a_pulled_cable_takes_them_back_for_a_time)
{
	init_with_vectors(1);
	driver_start(&driver, ALL);
	for (unsigned int i = 0; i < 5; i++)
		(void)give_buffer(TX, BUFFERS, 72);
	fake_net.vhosts[0].queues[TX].base = 3;
	ck_assert_int_eq(virtio_net_set_link(&net, false), 0);
	ck_assert(!works(0));
	(void)settle();
	/* The two that the kernel had not sent are dropped. */
	ck_assert_uint_eq(net.counts.dropped, 2);
	ck_assert_uint_eq(net.virtio.queues[TX].ring.next_used, 5);
	(void)give_buffer(RX, BUFFERS, 2000);
	driver_kick(&driver, RX);
	ck_assert_int_eq(virtio_net_set_link(&net, true), 0);
	ck_assert(works(0));
	ck_assert_uint_eq(fake_net.vhosts[0].queues[TX].base, 5);
	/* What was in our hand is the kernel's to take. */
	ck_assert_uint_eq(fake_net.vhosts[0].queues[RX].base, 0);
	close_vectors();
}
END_TEST

START_TEST(a_driver_that_takes_itself_back_takes_them_from_the_kernel)
{
	init_with_vectors(1);
	driver_start(&driver, ALL);
	fake_net.vhosts[0].queues[RX].base = 7;
	driver_set_status(&driver, VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER |
					   VIRTIO_CONFIG_S_FEATURES_OK);
	ck_assert(!works(0));
	driver_ok(&driver);
	ck_assert(works(0));
	ck_assert_uint_eq(fake_net.vhosts[0].queues[RX].base, 7);
	close_vectors();
}
END_TEST

START_TEST(without_bus_mastering_they_are_nobodys)
{
	init_with_vectors(PAIRS);
	driver_start(&driver, ALL);
	ck_assert_uint_eq(set_pairs(2), VIRTIO_NET_OK);
	fake_net.vhosts[1].queues[RX].base = 7;
	virtio_set_dma(&net.virtio, false);
	ck_assert(!works(0) && !works(1));
	(void)give_buffer(TX, BUFFERS, 72);
	driver_kick(&driver, TX);
	(void)settle();
	ck_assert(!take_used(TX));
	virtio_set_dma(&net.virtio, true);
	ck_assert(!works(0) && !works(1));
	driver_ok(&driver);
	ck_assert(works(0) && works(1) && !works(2));
	ck_assert(fake_net.attached[1]);
	ck_assert_uint_eq(fake_net.vhosts[1].queues[RX].base, 7);
	close_vectors();
}
END_TEST

/* What vhost leaves in the flags, or a kick after it would be waited for for ever. */
START_TEST(kicks_are_asked_for_again_without_event_indices)
{
	init_with_vectors(1);
	driver_start(&driver, ALL & ~VIRTIO_FEATURE(VIRTIO_RING_F_EVENT_IDX));
	uint16_t *flags = driver_at(&driver, driver.queues[TX].used, 2);
	*flags = htole16(VRING_USED_F_NO_NOTIFY);
	ck_assert_int_eq(virtio_net_set_link(&net, false), 0);
	(void)settle();
	ck_assert_uint_eq(*flags, 0);
	close_vectors();
}
END_TEST

/* Each may have the host's network stand still: others have their turn in between. */
START_TEST(one_change_of_pairs_is_made_a_turn)
{
	const uint8_t commands[][4] = { { VIRTIO_NET_CTRL_MQ, 0, 3 },
					{ VIRTIO_NET_CTRL_MQ, 0, 1 } };

	ck_assert_int_eq(init(PAIRS, VIRTIO_NET_VHOST_OFF), 0);
	driver_start(&driver, ALL);
	(void)settle();
	memcpy(driver_at(&driver, COMMANDS, sizeof(commands)), commands, sizeof(commands));
	for (unsigned int i = 0; i < nitems(commands); i++) {
		const struct driver_buffer buffers[] = { { COMMANDS + 4 * i, 4, false },
							 { COMMANDS + 64 + i, 1, true } };
		(void)driver_add(&driver, CONTROL, buffers, 2);
	}
	driver_kick(&driver, CONTROL);
	ck_assert(take_used(CONTROL));
	ck_assert(!take_used(CONTROL));
	ck_assert(fake_net.attached[2]);
	(void)settle();
	ck_assert(take_used(CONTROL));
	ck_assert(!fake_net.attached[2]);
}
END_TEST

START_TEST(only_pairs_in_use_are_the_kernels)
{
	init_with_vectors(PAIRS);
	driver_start(&driver, ALL);
	ck_assert(works(0) && !works(1) && !works(2));
	ck_assert_uint_eq(set_pairs(2), VIRTIO_NET_OK);
	ck_assert(works(0) && works(1) && !works(2));
	ck_assert_int_eq(fake_net.vhosts[1].queues[RX].backend, tap.backend.fds[1]);
	ck_assert_uint_eq(set_pairs(1), VIRTIO_NET_OK);
	ck_assert(works(0) && !works(1));
	close_vectors();
}
END_TEST

/* Without MSI-X the interrupt is ours to raise; when it is switched on nothing is lost. */
START_TEST(interrupts_follow_msix)
{
	ck_assert_int_eq(init(1, VIRTIO_NET_VHOST_AUTO), 0);
	driver_start(&driver, ALL);
	ck_assert(works(0));
	int call = fake_net.vhosts[0].queues[RX].call;
	ck_assert_int_ge(call, 0);
	eventfd_signal(call);
	(void)settle();
	ck_assert_uint_eq(driver.nr_queue_interrupts[RX], 1);
	ck_assert_int_eq(eventfd_create(&vectors[RX]), 0);
	net.virtio.ops->rewired(&net.virtio);
	ck_assert_int_eq(fake_net.vhosts[0].queues[RX].call, vectors[RX]);
	ck_assert_int_eq(fake_net.vhosts[0].queues[TX].call, call);
	ck_assert_uint_eq(driver.nr_queue_interrupts[RX], 2);
	fake_net.fail_at = fake_net.nr_calls + 1;
	net.virtio.ops->rewired(&net.virtio);
	process_expect_log("no interrupt (error 5): silent");
	/* And one that comes after the driver has gone. */
	driver_set_status(&driver, 0);
	eventfd_signal(call);
	(void)settle();
	ck_assert_uint_eq(driver.nr_queue_interrupts[TX], 3);
	close_vectors();
}
END_TEST

START_TEST(what_the_kernel_finds_malformed_breaks_it)
{
	init_with_vectors(1);
	driver_start(&driver, ALL);
	eventfd_signal(fake_net.vhosts[0].queues[TX].error);
	(void)settle();
	ck_assert(!works(0));
	ck_assert(driver_is_broken(&driver));
	process_expect_log("a malformed queue, says vhost-net");
	/* Once more, for a driver that is not to blame: it comes before that is heard. */
	driver_start(&driver, ALL);
	ck_assert(works(0));
	eventfd_signal(fake_net.vhosts[0].queues[TX].error);
	driver_start(&driver, ALL);
	(void)settle();
	ck_assert(works(0));
	ck_assert(!driver_is_broken(&driver));
	close_vectors();
}
END_TEST

START_TEST(a_queue_outside_of_ram_is_not_the_kernels)
{
	init_with_vectors(1);
	driver_negotiate(&driver, ALL);
	driver_place_queues(&driver);
	net.virtio.queues[TX].ring.device = DRIVER_RAM - 1024;
	driver_ok(&driver);
	ck_assert(!works(0));
	ck_assert_ptr_nonnull(
		strstr(process_log(), "net0: vhost-net does not take the queues (error 14)"));
	/* One that is off is not, either. */
	driver_negotiate(&driver, ALL);
	driver_place_queues(&driver);
	net.virtio.queues[TX].ring.enabled = false;
	driver_ok(&driver);
	ck_assert(!works(0));
	close_vectors();
}
END_TEST

START_TEST(a_start_that_fails_leaves_the_work_to_the_event_loop)
{
	unsigned int n = 1;

	init_with_vectors(1);
	for (;; n++) {
		driver_negotiate(&driver, ALL);
		driver_place_queues(&driver);
		/* After the tap's offloads. */
		fake_net.fail_at = fake_net.nr_calls + 1 + n;
		driver_ok(&driver);
		if (works(0))
			break;
		ck_assert_ptr_nonnull(strstr(process_log(), "vhost-net does not take"));
		ck_assert_int_eq(fake_net.vhosts[0].queues[RX].kick, -1);
		(void)settle();
		(void)give_buffer(TX, BUFFERS, 72);
		driver_kick(&driver, TX);
		ck_assert(take_used(TX));
		fake_net.fail_at = 0;
		(void)process_log();
	}
	ck_assert_uint_eq(n, 1 + 2 * 6 + 2 + 1);
	close_vectors();
}
END_TEST

START_TEST(memory_that_comes_and_goes_is_shown)
{
	struct ram more;
	struct memory_region region = { .gpa = 1ull << 32, .size = 1 << 20, .name = "more" };
	struct memory_region bar = {
		.gpa = 1ull << 33, .size = 4096, .kind = MEMORY_DEVICE, .name = "bar"
	};

	ck_assert_int_eq(ram_init(&more, region.size, RAM_ANONYMOUS), 0);
	region.host = more.host;
	region.ram = &more;
	bar.host = more.host;
	init_with_vectors(1);
	driver_start(&driver, ALL);
	ck_assert_int_eq(memory_map_add(&driver.map, &region), 0);
	ck_assert_uint_eq(fake_net.vhosts[0].nr_regions, 2);
	ck_assert_uint_eq(fake_net.vhosts[0].regions[1].guest_phys_addr, region.gpa);
	/* A device's registers are no memory. */
	ck_assert_int_eq(memory_map_add(&driver.map, &bar), 0);
	ck_assert_uint_eq(fake_net.vhosts[0].nr_regions, 2);
	memory_map_remove(&driver.map, &bar);
	memory_map_remove(&driver.map, &region);
	ck_assert_uint_eq(fake_net.vhosts[0].nr_regions, 1);
	fake_net.fail_at = fake_net.nr_calls + 1;
	ck_assert_int_eq(memory_map_add(&driver.map, &region), -EIO);
	ck_assert_uint_eq(fake_net.vhosts[0].nr_regions, 1);
	ram_finish(&more);
	close_vectors();
}
END_TEST

START_TEST(without_vhost_it_works_without)
{
	fake_net.vhost_error = -ENOENT;
	ck_assert_int_eq(init(PAIRS, VIRTIO_NET_VHOST_AUTO), 0);
	ck_assert(!net.vhost);
	driver_start(&driver, ALL);
	(void)give_buffer(TX, BUFFERS, 72);
	driver_kick(&driver, TX);
	ck_assert(take_used(TX));
	process_expect_no_log();
}
END_TEST

START_TEST(who_insists_is_told_why_not)
{
	static const struct {
		int error;
		const char *part;
	} cases[] = {
		{ -ENOENT, "modprobe vhost_net" },
		{ -EACCES, "join the group" },
		{ -EIO, "net0: vhost=on: /dev/vhost-net" },
	};

	for (unsigned int i = 0; i < nitems(cases); i++) {
		fake_net.vhost_error = cases[i].error;
		ck_assert_int_eq(init(1, VIRTIO_NET_VHOST_ON), cases[i].error);
		process_expect_log(cases[i].part);
		finish();
		fake_net.nr_taps = 0;
	}
	fake_net.vhost_error = 0;
	fake_net.vhost_features = 0;
	ck_assert_int_eq(init(1, VIRTIO_NET_VHOST_ON), -EOPNOTSUPP);
}
END_TEST

START_TEST(whatever_fails_at_the_beginning_nothing_is_left)
{
	const unsigned int fds = process_nr_fds();
	unsigned int n = 10; /* the tap's own are tested there */

	for (;; n++) {
		fake_net_init();
		fake_net.fail_at = n;
		int r = init(2, VIRTIO_NET_VHOST_ON);
		if (r >= 0)
			break;
		ck_assert_int_eq(r, -EIO);
		ck_assert_ptr_nonnull(strstr(process_log(), "net0"));
		finish();
		ck_assert_uint_eq(process_nr_fds(), fds);
	}
	/* Queues, and of each vhost: open, owner, features, memory. */
	ck_assert_uint_eq(n, 10 + 1 + 2 * 4);
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		a_tap_s_card_offers_all_there_is,
		offloads_are_the_drivers_until_it_goes,
		frames_pass_with_their_headers,
		the_driver_asks_for_more_queues,
		a_reset_leaves_one_queue,
		commands_that_are_none_are_refused,
		the_control_queue_of_a_driver_of_one_pair,
		an_interface_that_is_deleted_takes_the_link_down,
		the_kernel_gets_the_queues,
		a_reset_takes_them_back,
		a_pulled_cable_takes_them_back_for_a_time,
		a_driver_that_takes_itself_back_takes_them_from_the_kernel,
		without_bus_mastering_they_are_nobodys,
		kicks_are_asked_for_again_without_event_indices,
		one_change_of_pairs_is_made_a_turn,
		only_pairs_in_use_are_the_kernels,
		interrupts_follow_msix,
		what_the_kernel_finds_malformed_breaks_it,
		a_queue_outside_of_ram_is_not_the_kernels,
		a_start_that_fails_leaves_the_work_to_the_event_loop,
		memory_that_comes_and_goes_is_shown,
		without_vhost_it_works_without,
		who_insists_is_told_why_not,
		whatever_fails_at_the_beginning_nothing_is_left,
	};

	return run_tests("devices_vhost_net", setup, teardown, tests, nitems(tests));
}
