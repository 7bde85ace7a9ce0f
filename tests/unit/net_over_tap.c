/* SPDX-License-Identifier: MIT */
/*
 * The network card over a real tap interface, in a network namespace of the test's own: needs root,
 * or user namespaces, and /dev/net/tun; skipped without. With /dev/vhost-net there, the kernel
 * moves the frames of the same tests as well.
 */
#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>

#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/virtio_net.h>

#include "base/event_loop.h"
#include "base/fd.h"

#include "devices/net_tap.h"
#include "devices/virtio_net.h"
#include "tests/fakes/process.h"
#include "tests/fakes/virtio_driver.h"

#define ALL UINT64_MAX
#define RX 0u
#define TX 1u
#define BUFFERS DRIVER_POOL
#define TX_BUFFERS (8 * DRIVER_POOL)
#define TYPE 0x88b5 /* for experiments: nobody else's */
#define WAIT_MS 5000
#define EXIT_SKIPPED 77
#define NO_IPV6 "/proc/sys/net/ipv6/conf/default/disable_ipv6"

static struct virtio_driver driver;
static struct event_loop loop;
static struct net_tap tap;
static struct virtio_net net;
static struct virtio_transport_ops transport;
static int vectors[VIRTIO_MAX_QUEUES]; /* as MSI-X would have them */
static int host = -1;                  /* a socket on the host's side of the interface */
static enum virtio_net_vhost vhost;
static unsigned int fds_before;

static int queue_eventfd(struct virtio *virtio, unsigned int index)
{
	(void)virtio;
	return vectors[index];
}

/* The host */

static int ioctl_on(const char *name, unsigned long request, int value)
{
	struct ifreq req = { .ifr_flags = (short)value };

	snprintf(req.ifr_name, sizeof(req.ifr_name), "%s", name);
	if (request == SIOCSIFMTU)
		req.ifr_mtu = value;
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	int r = ioctl(fd, request, &req);
	close(fd);
	return r;
}

/* As `ip tuntap add dev NAME mode tap` does. */
static int make_interface(const char *name, bool multi_queue)
{
	struct ifreq req = { .ifr_flags = (short)(IFF_TAP | IFF_NO_PI |
						  (multi_queue ? IFF_MULTI_QUEUE : 0)) };

	snprintf(req.ifr_name, sizeof(req.ifr_name), "%s", name);
	int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
	int r = fd < 0 ? -1 : ioctl(fd, TUNSETIFF, &req);
	if (r >= 0)
		r = ioctl(fd, TUNSETPERSIST, 1);
	close(fd);
	return r;
}

/* As `ip link delete` does, whoever has it open. */
static int delete_interface(const char *name)
{
	struct {
		struct nlmsghdr header;
		struct ifinfomsg info;
	} request = {
		.header = { .nlmsg_len = sizeof(request),
			    .nlmsg_type = RTM_DELLINK,
			    .nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK },
		.info = { .ifi_index = (int)if_nametoindex(name) },
	};
	struct {
		struct nlmsghdr header;
		struct nlmsgerr error;
	} answer = { 0 };

	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(send(fd, &request, sizeof(request), 0), sizeof(request));
	ck_assert_int_gt(recv(fd, &answer, sizeof(answer), 0), 0);
	close(fd);
	return answer.error.error;
}

static void listen_on(const char *name)
{
	struct sockaddr_ll address = {
		.sll_family = AF_PACKET,
		.sll_protocol = htons(TYPE),
		.sll_ifindex = (int)if_nametoindex(name),
	};

	host = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, htons(TYPE));
	ck_assert_int_ge(host, 0);
	ck_assert_int_eq(bind(host, (struct sockaddr *)&address, sizeof(address)), 0);
}

static bool write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	bool ok = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);

	if (fd >= 0)
		close(fd);
	return ok;
}

/* NULL: there is a namespace now. Otherwise why not. */
static const char *enter_namespace(void)
{
	char map[32];
	uid_t uid = getuid();

	if (access("/dev/net/tun", F_OK) < 0)
		return "there is no /dev/net/tun (modprobe tun)";
	if (unshare(CLONE_NEWNET) < 0) {
		if (unshare(CLONE_NEWUSER | CLONE_NEWNET) < 0)
			return "no network namespace for this user";
		snprintf(map, sizeof(map), "0 %u 1", uid);
		if (!write_file("/proc/self/uid_map", map))
			return "no user namespace";
	}
	/* Or an interface that comes up has something to say of its own. */
	if (access(NO_IPV6, F_OK) == 0 && !write_file(NO_IPV6, "1"))
		return NO_IPV6 " cannot be written";
	if (make_interface("tap0", false) < 0 || make_interface("tapm", true) < 0)
		return "no tap interface can be made";
	return NULL;
}

/* The card */

static void start_card(const char *interface, unsigned int nr_pairs)
{
	const struct virtio_net_setup net_setup = {
		.name = "net0",
		.mac = { 2, 0, 0, 1, 2, 3 },
		.vhost = vhost,
	};

	ck_assert_int_eq(ioctl_on(interface, SIOCSIFFLAGS, IFF_UP), 0);
	ck_assert_int_eq(net_tap_open(&tap, "net0", interface, nr_pairs), 0);
	ck_assert_int_eq(virtio_net_init(&net, &driver.map, &loop, &tap.backend, &net_setup),
			 0);
	driver_take(&driver, &net.virtio);
	transport = *net.virtio.transport;
	transport.queue_eventfd = queue_eventfd;
	net.virtio.transport = &transport;
	listen_on(interface);
}

static void setup(void)
{
	process_keep_log();
	fds_before = process_nr_fds();
	driver_init(&driver);
	ck_assert_int_eq(event_loop_init(&loop), 0);
	for (unsigned int i = 0; i < nitems(vectors); i++)
		ck_assert_int_eq(eventfd_create(&vectors[i]), 0);
}

static void teardown(void)
{
	virtio_net_finish(&net);
	net_tap_finish(&tap);
	event_loop_finish(&loop);
	driver_finish(&driver);
	fd_close(&host);
	for (unsigned int i = 0; i < nitems(vectors); i++)
		fd_close(&vectors[i]);
	ck_assert_uint_eq(process_nr_fds(), fds_before);
}

/* A turn of the event loop, if it comes within a while. */
static bool turn(int timeout)
{
	struct epoll_event e;

	if (epoll_wait(loop.epoll_fd, &e, 1, timeout) != 1)
		return false;
	struct event_source *source = e.data.ptr;
	source->ready(source, e.events);
	return true;
}

static void kick(unsigned int queue)
{
	eventfd_signal(net.virtio.queues[queue].kicked.fd);
}

static bool take_used(unsigned int queue, uint16_t *ret_head, uint32_t *ret_written)
{
	for (unsigned int i = 0; i < WAIT_MS; i++) {
		while (turn(0))
			;
		if (driver_take_used(&driver, queue, ret_head, ret_written))
			return true;
		usleep(1000);
	}
	return false;
}

static void fill(uint8_t *frame, size_t size, unsigned int seed)
{
	memset(frame, 0xff, ETH_ALEN);
	memcpy(frame + ETH_ALEN, "\x02\0\0\1\2\3", ETH_ALEN);
	frame[12] = TYPE >> 8;
	frame[13] = TYPE & 0xff;
	for (size_t i = ETH_HLEN; i < size; i++)
		frame[i] = (uint8_t)(seed * 31 + i * 7);
}

static void send_frame(unsigned int queue, gpa_t gpa, uint32_t size, unsigned int seed)
{
	const struct driver_buffer buffer = { gpa, NET_HEADER_SIZE + size, false };

	fill(driver_at(&driver, gpa + NET_HEADER_SIZE, size), size, seed);
	(void)driver_add(&driver, queue, &buffer, 1);
	kick(queue);
}

static bool host_has(size_t size, unsigned int seed)
{
	uint8_t got[9100];
	uint8_t want[9100];
	struct pollfd p = { .fd = host, .events = POLLIN };

	for (unsigned int i = 0; i < WAIT_MS && poll(&p, 1, 0) == 0; i++) {
		if (!turn(0))
			usleep(1000);
	}
	fill(want, size, seed);
	return recv(host, got, sizeof(got), MSG_DONTWAIT) == (ssize_t)size &&
	       memcmp(got, want, size) == 0;
}

static void host_sends(size_t size, unsigned int seed)
{
	uint8_t frame[9100];

	fill(frame, size, seed);
	ck_assert_int_eq(send(host, frame, size, 0), (ssize_t)size);
}

static bool guest_has(gpa_t gpa, size_t size, unsigned int seed)
{
	uint8_t want[9100];

	fill(want, size, seed);
	return memcmp(driver_at(&driver, gpa + NET_HEADER_SIZE, size), want, size) == 0;
}

START_TEST(frames_pass_both_ways)
{
	uint16_t head;
	uint32_t written;

	start_card("tap0", 1);
	ck_assert_uint_ne(tap.backend.features, 0);
	driver_start(&driver, ALL);
	for (unsigned int i = 0; i < 200; i++) {
		const struct driver_buffer buffer = { BUFFERS + i % 64 * 2048, 2048, true };
		send_frame(TX, TX_BUFFERS, 60 + i, i);
		ck_assert(host_has(60 + i, i));
		ck_assert(take_used(TX, &head, &written));
		(void)driver_add(&driver, RX, &buffer, 1);
		kick(RX);
		host_sends(1514 - i, i);
		ck_assert(take_used(RX, &head, &written));
		ck_assert_uint_eq(written, NET_HEADER_SIZE + 1514 - i);
		ck_assert(guest_has(buffer.gpa, 1514 - i, i));
	}
	ck_assert_uint_eq(net.counts.dropped, 0);
	/* Who was told: the one that MSI-X has, or the transport. */
	ck_assert(eventfd_take(vectors[RX]) == net.vhost);
	ck_assert(eventfd_take(vectors[TX]) == net.vhost);
	process_expect_no_log();
}
END_TEST

/* 9000 bytes in buffers of 2048, which the kernel, or we, join. */
START_TEST(large_frames_are_merged)
{
	uint16_t head;
	uint32_t written;

	ck_assert_int_eq(ioctl_on("tap0", SIOCSIFMTU, 9000), 0);
	start_card("tap0", 1);
	driver_start(&driver, ALL);
	for (unsigned int i = 0; i < 64; i++) {
		const struct driver_buffer buffer = { BUFFERS + i * 2048, 2048, true };
		(void)driver_add(&driver, RX, &buffer, 1);
	}
	kick(RX);
	host_sends(9014, 3);
	for (unsigned int i = 0; i < 4; i++) {
		ck_assert(take_used(RX, &head, &written));
		ck_assert_uint_eq(written, 2048);
	}
	ck_assert(take_used(RX, &head, &written));
	ck_assert_uint_eq(written, 9014 + NET_HEADER_SIZE - 4 * 2048);
	ck_assert(guest_has(BUFFERS, 9014, 3));
	const struct virtio_net_hdr_v1 *header = driver_at(&driver, BUFFERS, sizeof(*header));
	ck_assert_uint_eq(le16toh(header->num_buffers), 5);
	send_frame(TX, TX_BUFFERS, 9014, 4);
	ck_assert(host_has(9014, 4));
}
END_TEST

static void send_lie(unsigned int i)
{
	struct virtio_net_hdr_v1 *header = driver_at(&driver, TX_BUFFERS, sizeof(*header));

	*header = (struct virtio_net_hdr_v1){
		.flags = (uint8_t)(i | VIRTIO_NET_HDR_F_NEEDS_CSUM),
		.gso_type = (uint8_t)(i * 3),
		.hdr_len = (uint16_t)(i * 977),
		.gso_size = (uint16_t)(i * 31),
		.csum_start = (uint16_t)(0xffff - i),
		.csum_offset = 0xffff,
	};
	send_frame(TX, TX_BUFFERS, 100, i);
}

/*
 * The kernel looks at headers: what they say may be anything. Ours is dropped; vhost (6.1) tries it
 * again and again, to the harm of this guest alone, until the reset.
 */
START_TEST(headers_that_lie_are_dropped)
{
	uint16_t head;
	uint32_t written;

	start_card("tap0", 1);
	driver_start(&driver, ALL);
	for (unsigned int i = 0; i < 100; i++) {
		send_lie(i);
		ck_assert(net.vhost || take_used(TX, &head, &written));
	}
	ck_assert(!driver_is_broken(&driver));
	driver_start(&driver, ALL);
	memset(driver_at(&driver, TX_BUFFERS, NET_HEADER_SIZE), 0, NET_HEADER_SIZE);
	send_frame(TX, TX_BUFFERS, 100, 1);
	ck_assert(host_has(100, 1));
}
END_TEST

START_TEST(several_queues_send)
{
	const struct driver_buffer command[] = { { BUFFERS, 4, false },
						 { BUFFERS + 64, 1, true } };
	uint16_t head;
	uint32_t written;

	start_card("tapm", 4);
	driver_start(&driver, ALL);
	memcpy(driver_at(&driver, BUFFERS, 4), "\4\0\3", 4); /* MQ, VQ_PAIRS_SET, 3 */
	(void)driver_add(&driver, 8, command, 2);
	kick(8);
	ck_assert(take_used(8, &head, &written));
	ck_assert_uint_eq(*(uint8_t *)driver_at(&driver, BUFFERS + 64, 1), VIRTIO_NET_OK);
	for (unsigned int i = 0; i < 3; i++) {
		send_frame(TX + 2 * i, TX_BUFFERS, 100, i);
		ck_assert(host_has(100, i));
		ck_assert(take_used(TX + 2 * i, &head, &written));
	}
	driver_set_status(&driver, 0);
	driver_start(&driver, ALL);
	send_frame(TX, TX_BUFFERS, 100, 9);
	ck_assert(host_has(100, 9));
}
END_TEST

/* Whoever moves the frames: after a reset nothing is written. */
START_TEST(a_reset_ends_it)
{
	start_card("tap0", 1);
	driver_start(&driver, ALL);
	for (unsigned int i = 0; i < 64; i++) {
		const struct driver_buffer buffer = { BUFFERS + i * 2048, 2048, true };
		(void)driver_add(&driver, RX, &buffer, 1);
	}
	kick(RX);
	for (unsigned int i = 0; i < 10; i++)
		host_sends(1514, i);
	driver_set_status(&driver, 0);
	memset(driver_at(&driver, BUFFERS, 64 * 2048), 0x55, 64 * 2048);
	for (unsigned int i = 0; i < 10; i++)
		host_sends(1514, i);
	for (unsigned int i = 0; i < 50; i++)
		(void)turn(1);
	const uint8_t *bytes = driver_at(&driver, BUFFERS, 64 * 2048);
	for (unsigned int i = 0; i < 64 * 2048; i++)
		ck_assert_uint_eq(bytes[i], 0x55);
}
END_TEST

START_TEST(a_pulled_cable_and_back)
{
	uint16_t head;
	uint32_t written;

	start_card("tap0", 1);
	driver_start(&driver, ALL);
	for (unsigned int i = 0; i < 5; i++) {
		send_frame(TX, TX_BUFFERS, 100, i);
		ck_assert(host_has(100, i));
		ck_assert(take_used(TX, &head, &written));
		ck_assert_int_eq(virtio_net_set_link(&net, false), 0);
		send_frame(TX, TX_BUFFERS, 100, 99);
		ck_assert(take_used(TX, &head, &written));
		ck_assert_int_eq(virtio_net_set_link(&net, true), 0);
	}
	send_frame(TX, TX_BUFFERS, 100, 50);
	ck_assert(host_has(100, 50));
}
END_TEST

/* Who waits for frames hears of it. The kernel does, with vhost, and tells nobody. */
START_TEST(a_deleted_interface_takes_the_link_down)
{
	const struct driver_buffer buffer = { BUFFERS, 2048, true };
	uint16_t head;
	uint32_t written;

	start_card("tap0", 1);
	driver_start(&driver, ALL);
	(void)driver_add(&driver, RX, &buffer, 1);
	kick(RX);
	(void)turn(0);
	ck_assert_int_eq(delete_interface("tap0"), 0);
	if (net.vhost)
		ck_assert_int_eq(virtio_net_set_link(&net, false), 0);
	for (unsigned int i = 0; i < WAIT_MS && !net.gone; i++)
		(void)turn(1);
	ck_assert(net.gone);
	process_expect_log("net0: tap tap0 is gone: going on with the link down");
	ck_assert_uint_eq(virtio_config_read(&net.virtio, 6, 2), 0);
	while (turn(0))
		;
	send_frame(TX, TX_BUFFERS, 100, 9);
	ck_assert(take_used(TX, &head, &written));
	driver_set_status(&driver, 0);
	driver_start(&driver, ALL);
	send_frame(TX, TX_BUFFERS, 100, 9);
	ck_assert(take_used(TX, &head, &written));
	ck_assert_int_eq(make_interface("tap0", false), 0);
}
END_TEST

START_TEST(the_wrong_ones_are_refused)
{
	ck_assert_int_eq(net_tap_open(&tap, "net0", "tap1", 1), -ENODEV);
	process_expect_log("ip tuntap add dev tap1");
	ck_assert_uint_eq(if_nametoindex("tap1"), 0); /* and not made */
	ck_assert_int_eq(net_tap_open(&tap, "net0", "lo", 1), -EINVAL);
	ck_assert_ptr_nonnull(strstr(process_log(), "it is no tap interface"));
	ck_assert_int_eq(net_tap_open(&tap, "net0", "tap0", 2), -EINVAL);
	ck_assert_ptr_nonnull(strstr(process_log(), "without multi_queue"));
	ck_assert_int_eq(net_tap_open(&tap, "net0", "tapm", 1), -EINVAL);
	ck_assert_ptr_nonnull(strstr(process_log(), "with multi_queue"));
	struct net_tap other;
	ck_assert_int_eq(net_tap_open(&tap, "net0", "tap0", 1), 0);
	(void)process_log();
	ck_assert_int_eq(net_tap_open(&other, "net0", "tap0", 1), -EBUSY);
	ck_assert_ptr_nonnull(strstr(process_log(), "another program has it"));
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		frames_pass_both_ways,
		large_frames_are_merged,
		headers_that_lie_are_dropped,
		several_queues_send,
		a_reset_ends_it,
		a_pulled_cable_and_back,
		the_wrong_ones_are_refused,
		a_deleted_interface_takes_the_link_down,
	};

	const char *why = enter_namespace();
	if (why) {
		printf("net_over_tap: skipped: %s\n", why);
		return EXIT_SKIPPED;
	}
	vhost = VIRTIO_NET_VHOST_OFF;
	int r = run_tests("net_over_tap", setup, teardown, tests, nitems(tests));
	if (access("/dev/vhost-net", F_OK) < 0) {
		printf("net_over_tap: without vhost-net: there is no /dev/vhost-net\n");
		return r;
	}
	vhost = VIRTIO_NET_VHOST_ON;
	return run_tests("net_over_vhost", setup, teardown, tests, nitems(tests)) || r;
}
