/* SPDX-License-Identifier: MIT */
/* Tap interfaces: how they are opened, what the user is told, what the kernel does for the guest. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include <linux/if_tun.h>
#include <linux/virtio_net.h>

#include "base/fd.h"

#include "devices/net_tap.h"
#include "tests/fakes/net_kernel.h"
#include "tests/fakes/process.h"

#define BIT(bit) (1ull << (bit))
#define GUEST_ALL                                                      \
	(BIT(VIRTIO_NET_F_GUEST_CSUM) | BIT(VIRTIO_NET_F_GUEST_TSO4) | \
	 BIT(VIRTIO_NET_F_GUEST_TSO6) | BIT(VIRTIO_NET_F_GUEST_ECN))
#define HOST_ALL                                                                              \
	(BIT(VIRTIO_NET_F_CSUM) | BIT(VIRTIO_NET_F_HOST_TSO4) | BIT(VIRTIO_NET_F_HOST_TSO6) | \
	 BIT(VIRTIO_NET_F_HOST_ECN))

static struct net_tap tap;
static unsigned int fds_before;

static void setup(void)
{
	process_keep_log();
	fds_before = process_nr_fds();
	fake_net_init();
}

static void teardown(void)
{
	net_tap_finish(&tap);
	net_tap_finish(&tap);
	fake_net_finish();
	ck_assert_uint_eq(process_nr_fds(), fds_before);
}

static int open_tap(unsigned int nr_pairs)
{
	return net_tap_open(&tap, "net0", FAKE_INTERFACE, nr_pairs);
}

START_TEST(one_queue_with_headers_and_all_offloads)
{
	ck_assert_int_eq(open_tap(1), 0);
	ck_assert_uint_eq(fake_net.attach_flags, IFF_TAP | IFF_NO_PI | IFF_VNET_HDR);
	ck_assert_int_eq(fake_net.header_size, NET_HEADER_SIZE);
	ck_assert_uint_eq(tap.backend.features, GUEST_ALL | HOST_ALL);
	ck_assert_uint_eq(tap.backend.nr_pairs, 1);
	ck_assert(tap.backend.vhost);
	ck_assert_str_eq(tap.backend.name, "tap " FAKE_INTERFACE);
	/* Before the guest has said what it can. */
	ck_assert_uint_eq(fake_net.offload, 0);
	process_expect_no_log();
}
END_TEST

START_TEST(many_queues_of_which_some_are_in_use)
{
	ck_assert_int_eq(open_tap(4), 0);
	ck_assert_uint_eq(fake_net.attach_flags,
			  IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | IFF_MULTI_QUEUE);
	ck_assert_uint_eq(tap.backend.nr_pairs, 4);
	ck_assert(fake_net.attached[3]);
	ck_assert_int_eq(tap.backend.ops->set_pairs(&tap.backend, 1), 0);
	ck_assert(fake_net.attached[0] && !fake_net.attached[1] && !fake_net.attached[3]);
	ck_assert_int_eq(tap.backend.ops->set_pairs(&tap.backend, 3), 0);
	ck_assert(fake_net.attached[2] && !fake_net.attached[3]);
	/* A step that fails is taken the next time. */
	fake_net.fail_at = fake_net.nr_calls + 2;
	ck_assert_int_eq(tap.backend.ops->set_pairs(&tap.backend, 1), -EIO);
	ck_assert_int_eq(tap.backend.ops->set_pairs(&tap.backend, 1), 0);
	ck_assert(!fake_net.attached[1]);
}
END_TEST

START_TEST(the_kernel_offers_what_the_driver_takes)
{
	static const struct {
		uint64_t driver;
		unsigned int offload;
	} cases[] = {
		{ 0, 0 },
		{ HOST_ALL, 0 },
		{ GUEST_ALL, TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN },
		{ BIT(VIRTIO_NET_F_GUEST_CSUM), TUN_F_CSUM },
		{ BIT(VIRTIO_NET_F_GUEST_CSUM) | BIT(VIRTIO_NET_F_GUEST_TSO6),
		  TUN_F_CSUM | TUN_F_TSO6 },
		/* What a driver must not ask for, and a tap does not take. */
		{ BIT(VIRTIO_NET_F_GUEST_TSO4), 0 },
		{ BIT(VIRTIO_NET_F_GUEST_CSUM) | BIT(VIRTIO_NET_F_GUEST_ECN), TUN_F_CSUM },
	};

	ck_assert_int_eq(open_tap(1), 0);
	for (unsigned int i = 0; i < nitems(cases); i++) {
		ck_assert_int_eq(tap.backend.ops->set_features(&tap.backend, cases[i].driver),
				 0);
		ck_assert_uint_eq(fake_net.offload, cases[i].offload);
	}
}
END_TEST

START_TEST(a_kernel_without_offloads_offers_none)
{
	fake_net.no_offload = true;
	ck_assert_int_eq(open_tap(1), 0);
	ck_assert_uint_eq(tap.backend.features, 0);
}
END_TEST

/* Each line says what to do. */
START_TEST(what_is_no_good_is_explained)
{
	static const struct {
		unsigned int fail_at; /* 1 flags, 2 open, 3 attach */
		int error;
		unsigned int queues;
		const char *part;
	} cases[] = {
		{ 2, -ENOENT, 1, "modprobe tun" },
		{ 3, -EINVAL, 1, "with multi_queue, which wants queues=2" },
		{ 3, -EINVAL, 2, "ip tuntap add dev NAME mode tap user $USER multi_queue" },
		{ 3, -EPERM, 1, "another user's" },
		{ 3, -EBUSY, 1, "another program has it" },
		{ 3, -EIO, 1, "net0: tap=" FAKE_INTERFACE },
		{ 1, -ENOMEM, 1, "net0: tap=" FAKE_INTERFACE },
	};

	for (unsigned int i = 0; i < nitems(cases); i++) {
		fake_net.nr_calls = 0;
		fake_net.fail_at = cases[i].fail_at;
		fake_net.error = cases[i].error;
		ck_assert_int_eq(open_tap(cases[i].queues), cases[i].error);
		process_expect_log(cases[i].part);
	}
	ck_assert_int_eq(net_tap_open(&tap, "net0", "tap8", 1), -ENODEV);
	process_expect_log(
		"ip tuntap add dev tap8 mode tap user $USER [multi_queue] && ip link "
		"set tap8 up");
}
END_TEST

START_TEST(one_that_is_down_is_told_of)
{
	fake_net.interface_flags = 0;
	ck_assert_int_eq(open_tap(1), 0);
	process_expect_log("ip link set " FAKE_INTERFACE " up");
}
END_TEST

START_TEST(whatever_fails_nothing_is_left)
{
	unsigned int n = 1;

	for (;; n++) {
		fake_net.nr_calls = 0;
		fake_net.fail_at = n;
		int r = open_tap(2);
		if (r >= 0 && fake_net.nr_calls < n)
			break;
		/* Asking for offloads may fail: then there are none. */
		if (n == 8) {
			ck_assert_int_eq(r, 0);
			ck_assert_uint_eq(tap.backend.features, 0);
		} else {
			ck_assert_int_eq(r, -EIO);
			process_expect_log("net0: ");
		}
		net_tap_finish(&tap);
		fake_net_finish();
		fake_net.nr_taps = 0;
		ck_assert_uint_eq(process_nr_fds(), fds_before);
	}
	ck_assert_uint_eq(n, 10);
}
END_TEST

START_TEST(an_fd_is_adopted)
{
	int fd = fake_net_open_tap();
	int before = fd;

	ck_assert_int_eq(fcntl(fd, F_SETFD, 0), 0);
	ck_assert_int_eq(fcntl(fd, F_SETFL, O_RDWR), 0);
	ck_assert_int_eq(net_tap_adopt(&tap, "net0", &fd), 0);
	ck_assert_int_eq(fd, -1);
	ck_assert_int_eq(tap.backend.fds[0], before);
	ck_assert(fcntl(before, F_GETFL) & O_NONBLOCK);
	ck_assert_int_eq(fcntl(before, F_GETFD), FD_CLOEXEC);
	ck_assert_str_eq(tap.backend.name, "tap " FAKE_INTERFACE);
	ck_assert_uint_eq(tap.backend.features, GUEST_ALL | HOST_ALL);
}
END_TEST

/* It may be anything else of ours. */
START_TEST(an_fd_that_is_no_tap_is_left_alone)
{
	int fd = -1;

	ck_assert_int_eq(eventfd_create(&fd), 0);
	int before = fd;
	ck_assert_int_eq(net_tap_adopt(&tap, "net0", &fd), -EINVAL);
	process_expect_log("is not that of a tap interface");
	ck_assert_int_eq(fd, before);
	ck_assert_int_ge(fcntl(fd, F_GETFD), 0);
	fd_close(&fd);

	fd = fake_net_open_tap();
	fake_net.tun_flags &= ~(unsigned int)IFF_VNET_HDR;
	ck_assert_int_eq(net_tap_adopt(&tap, "net0", &fd), -EINVAL);
	ck_assert_int_ge(fcntl(fd, F_GETFD), 0);
	fd_close(&fd);
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		one_queue_with_headers_and_all_offloads,
		many_queues_of_which_some_are_in_use,
		the_kernel_offers_what_the_driver_takes,
		a_kernel_without_offloads_offers_none,
		what_is_no_good_is_explained,
		one_that_is_down_is_told_of,
		whatever_fails_nothing_is_left,
		an_fd_is_adopted,
		an_fd_that_is_no_tap_is_left_alone,
	};

	return run_tests("devices_net_tap", setup, teardown, tests, nitems(tests));
}
