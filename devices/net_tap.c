/* SPDX-License-Identifier: MIT */
#include "devices/net_tap.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>

#include <linux/if_tun.h>
#include <linux/virtio_net.h>

#include "base/fd.h"
#include "base/log.h"

#include "devices/net_uapi.h"

#define BIT(bit) (1ull << (bit))
#define ALL_OFFLOADS (TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN)

static const struct {
	unsigned int tun;    /* what the reader of the fd takes */
	unsigned int driver; /* the feature that says so */
	unsigned int device; /* the one that goes with it in the other direction */
} offloads[] = {
	{ TUN_F_CSUM, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_CSUM },
	{ TUN_F_TSO4, VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_HOST_TSO4 },
	{ TUN_F_TSO6, VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_HOST_TSO6 },
	{ TUN_F_TSO_ECN, VIRTIO_NET_F_GUEST_ECN, VIRTIO_NET_F_HOST_ECN },
};

static struct net_tap *tap_of(struct net_backend *backend)
{
	return container_of(backend, struct net_tap, backend);
}

/* EBADFD: the interface was deleted. EIO: it is only down. */
static int tap_send(struct net_backend *backend, unsigned int pair, const struct iovec *iov,
		    int count)
{
	ssize_t n;

	if (count == 0) {
		backend->blocked = false;
		return 0;
	}
	do
		n = writev(backend->fds[pair], iov, count);
	while (n < 0 && errno == EINTR);
	backend->blocked = n < 0 && errno == EAGAIN;
	if (n >= 0)
		return 0;
	return errno == EBADFD ? -EPIPE : -errno;
}

static ssize_t tap_receive(struct net_backend *backend, unsigned int pair,
			   const struct iovec *iov, int count)
{
	ssize_t n;

	do
		n = readv(backend->fds[pair], iov, count);
	while (n < 0 && errno == EINTR);
	if (n <= 0)
		return n == 0 || errno == EBADFD ? -EPIPE : -errno;
	return n < (ssize_t)(NET_HEADER_SIZE + NET_ETHERNET_SIZE) ? -EMSGSIZE : n;
}

static int tap_set_features(struct net_backend *backend, uint64_t features)
{
	unsigned int wanted = 0;

	for (unsigned int i = 0; i < nitems(offloads); i++) {
		if (features & BIT(offloads[i].driver))
			wanted |= offloads[i].tun;
	}
	/* A segment has no checksum yet, and ECN is said of segments: 1.2, 5.1.3.1. */
	if (!(wanted & TUN_F_CSUM))
		wanted = 0;
	if (!(wanted & (TUN_F_TSO4 | TUN_F_TSO6)))
		wanted &= ~TUN_F_TSO_ECN;
	return tun_set_offload(backend->fds[0],
			       wanted); /* it is the interface's, not the queue's */
}

static int tap_set_pairs(struct net_backend *backend, unsigned int nr)
{
	struct net_tap *tap = tap_of(backend);
	int r = 0;

	assert(nr >= 1 && nr <= backend->nr_pairs);
	while (r >= 0 && tap->nr_attached < nr) {
		r = tun_attach_queue(backend->fds[tap->nr_attached]);
		tap->nr_attached += r >= 0;
	}
	while (r >= 0 && tap->nr_attached > nr) {
		r = tun_detach_queue(backend->fds[tap->nr_attached - 1]);
		tap->nr_attached -= r >= 0;
	}
	return r;
}

static const struct net_backend_ops tap_ops = {
	.send = tap_send,
	.receive = tap_receive,
	.set_features = tap_set_features,
	.set_pairs = tap_set_pairs,
};

static void start(struct net_tap *tap)
{
	*tap = (struct net_tap){
		.backend = { .ops = &tap_ops, .name = tap->name, .vhost = true },
	};
	for (unsigned int i = 0; i < NET_MAX_PAIRS; i++)
		tap->backend.fds[i] = -1;
}

/* What the kernel can do for the guest. Nothing is asked of the guest until it says what it can. */
static int set_up(struct net_tap *tap, const char *who)
{
	struct net_backend *backend = &tap->backend;
	int r = 0;

	(void)snprintf(tap->name, sizeof(tap->name), "tap %s", tap->interface);
	for (unsigned int i = 0; i < backend->nr_pairs && r >= 0; i++)
		r = tun_set_header_size(backend->fds[i], NET_HEADER_SIZE);
	if (r < 0)
		return log_err(r, "%s: %s: setting the header's size", who, tap->name);
	if (tun_set_offload(backend->fds[0], ALL_OFFLOADS) >= 0) {
		for (unsigned int i = 0; i < nitems(offloads); i++)
			backend->features |= BIT(offloads[i].driver) | BIT(offloads[i].device);
	}
	r = tun_set_offload(backend->fds[0], 0);
	return r < 0 ? log_err(r, "%s: %s: setting offloads", who, tap->name) : 0;
}

static int find_interface(const char *who, const char *interface)
{
	unsigned int flags;

	int r = net_interface_flags(interface, &flags);
	if (r == -ENODEV)
		return log_refuse(
			r,
			"%s: tap=%s: there is no such interface. As root: ip tuntap add dev "
			"%s mode tap user $USER [multi_queue] && ip link set %s up",
			who, interface, interface, interface);
	if (r < 0)
		return log_err(r, "%s: tap=%s", who, interface);
	if (!(flags & IFF_UP))
		log_warn(
			"%s: tap=%s is down: going on, no frame passes before: ip link set %s up",
			who, interface, interface);
	return 0;
}

static int explain(int r, const char *who, const char *interface, unsigned int nr_pairs)
{
	if (r == -EINVAL)
		return log_refuse(
			r,
			"%s: tap=%s: it is no tap interface, or was made %s: ip tuntap add "
			"dev NAME mode tap user $USER%s",
			who, interface,
			nr_pairs > 1 ? "without multi_queue"
				     : "with multi_queue, which "
				       "wants queues=2 or more",
			nr_pairs > 1 ? " multi_queue" : "");
	if (r == -EPERM)
		return log_err(
			r,
			"%s: tap=%s (it is another user's: ip tuntap add dev NAME mode tap "
			"user $USER)",
			who, interface);
	if (r == -EBUSY)
		return log_err(r, "%s: tap=%s (another program has it)", who, interface);
	return log_err(r, "%s: tap=%s", who, interface);
}

static int open_queue(struct net_tap *tap, const char *who, unsigned int flags)
{
	int *fd = &tap->backend.fds[tap->backend.nr_pairs];

	int r = tun_open(fd);
	if (r < 0)
		return log_err(r, "%s: /dev/net/tun%s", who,
			       r == -ENOENT || r == -ENODEV ? " (load the module: modprobe tun)"
							    : "");
	tap->backend.nr_pairs++;
	tap->nr_attached++;
	return tun_attach(*fd, tap->interface, flags);
}

int net_tap_open(struct net_tap *tap, const char *who, const char *interface,
		 unsigned int nr_pairs)
{
	const unsigned int flags =
		IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | (nr_pairs > 1 ? IFF_MULTI_QUEUE : 0);

	assert(nr_pairs >= 1 && nr_pairs <= NET_MAX_PAIRS);
	start(tap);
	(void)snprintf(tap->interface, sizeof(tap->interface), "%s", interface);
	/* Attaching would make one, for root, that is down and gone again with us. */
	int r = find_interface(who, interface);
	for (unsigned int i = 0; i < nr_pairs && r >= 0; i++) {
		r = open_queue(tap, who, flags);
		if (r < 0 && tap->backend.nr_pairs == i + 1)
			(void)explain(r, who, interface, nr_pairs);
	}
	if (r >= 0)
		r = set_up(tap, who);
	if (r < 0)
		net_tap_finish(tap);
	return r;
}

int net_tap_adopt(struct net_tap *tap, const char *who, int *fd)
{
	const unsigned int needed = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
	unsigned int flags = 0;

	start(tap);
	int r = tun_get(*fd, tap->interface, &flags);
	/* Whatever else has that number is not ours to close. */
	if (r < 0 || (flags & needed) != needed)
		return log_refuse(
			-EINVAL,
			"%s: fd=%d: it is not that of a tap interface with IFF_NO_PI and "
			"IFF_VNET_HDR",
			who, *fd);
	tap->backend.fds[0] = *fd;
	tap->backend.nr_pairs = 1;
	tap->nr_attached = 1;
	*fd = -1;
	/* Whoever opened it need not have known how we wait. */
	if (fcntl(tap->backend.fds[0], F_SETFL, O_RDWR | O_NONBLOCK) < 0 ||
	    fcntl(tap->backend.fds[0], F_SETFD, FD_CLOEXEC) < 0)
		r = log_err(-errno, "%s: fd=%d", who, tap->backend.fds[0]);
	if (r >= 0)
		r = set_up(tap, who);
	if (r < 0)
		net_tap_finish(tap);
	return r;
}

void net_tap_finish(struct net_tap *tap)
{
	if (!tap->backend.ops)
		return;
	for (unsigned int i = 0; i < NET_MAX_PAIRS; i++)
		fd_close(&tap->backend.fds[i]);
	*tap = (struct net_tap){ 0 };
}
