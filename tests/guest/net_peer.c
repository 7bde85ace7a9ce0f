/* SPDX-License-Identifier: MIT */
#include "tests/guest/net_peer.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>

#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>

#include "base/fd.h"

#include "tests/guest/contract.h"

#define PAUSE_MS 50
#define NO_IPV6 "/proc/sys/net/ipv6/conf/default/disable_ipv6"

static bool ended(struct net_peer *peer)
{
	return __atomic_load_n(&peer->end, __ATOMIC_SEQ_CST);
}

/* False: there is nothing more to come. */
static bool wait_for_input(struct net_peer *peer, int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };

	while (!ended(peer)) {
		if (poll(&p, 1, PAUSE_MS) > 0)
			return true;
	}
	return false;
}

static bool send_all(struct net_peer *peer, int fd, const char *bytes, size_t size)
{
	while (size > 0) {
		struct pollfd p = { .fd = fd, .events = POLLOUT };
		ssize_t n = send(fd, bytes, size, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n < 0 &&
		    (ended(peer) || poll(&p, 1, PAUSE_MS) < 0 || (p.revents & POLLHUP)))
			return false;
		bytes += n < 0 ? 0 : n;
		size -= n < 0 ? 0 : (size_t)n;
	}
	return true;
}

/* Bytes and lengths go back as they come; a machine that boots again keeps the connection. */
static void *run_stream(void *opaque)
{
	static char bytes[65536];
	struct net_peer *peer = opaque;
	int fd = wait_for_input(peer, peer->fd) ? accept(peer->fd, NULL, NULL) : -1;
	ssize_t n = 1;

	while (fd >= 0 && n > 0 && wait_for_input(peer, fd)) {
		n = recv(fd, bytes, sizeof(bytes), 0);
		if (n > 0 && !send_all(peer, fd, bytes, (size_t)n))
			break;
	}
	fd_close(&fd);
	return NULL;
}

static void *run_packets(void *opaque)
{
	static char frame[65536];
	struct net_peer *peer = opaque;
	struct sockaddr_ll from;

	while (wait_for_input(peer, peer->fd)) {
		socklen_t size = sizeof(from);
		ssize_t n = recvfrom(peer->fd, frame, sizeof(frame), MSG_DONTWAIT,
				     (struct sockaddr *)&from, &size);
		if (n > 0 && from.sll_pkttype != PACKET_OUTGOING)
			(void)send(peer->fd, frame, (size_t)n, 0); /* or it is lost */
	}
	return NULL;
}

static const char *listen_at(struct net_peer *peer, const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
	peer->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (peer->fd < 0 || bind(peer->fd, (struct sockaddr *)&address, sizeof(address)) < 0 ||
	    listen(peer->fd, 1) < 0)
		return "no UNIX socket to be had";
	return NULL;
}

/* As `ip tuntap add dev tap0 mode tap && ip link set tap0 up` do. */
static bool make_tap(void)
{
	struct ifreq req = { .ifr_name = NET_PEER_TAP, .ifr_flags = IFF_TAP | IFF_NO_PI };
	int tun = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
	int control = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	bool ok = tun >= 0 && control >= 0 && ioctl(tun, TUNSETIFF, &req) >= 0 &&
		  ioctl(tun, TUNSETPERSIST, 1) >= 0;

	req.ifr_flags = IFF_UP;
	ok = ok && ioctl(control, SIOCSIFFLAGS, &req) >= 0;
	fd_close(&control);
	fd_close(&tun);
	return ok;
}

static bool silence_ipv6(void)
{
	int fd = open(NO_IPV6, O_WRONLY | O_CLOEXEC);
	bool ok = fd < 0 || write(fd, "1", 1) == 1;

	fd_close(&fd);
	return ok;
}

static const char *listen_on_tap(struct net_peer *peer)
{
	struct sockaddr_ll address = {
		.sll_family = AF_PACKET,
		.sll_protocol = htons(NET_TYPE),
	};

	if (unshare(CLONE_NEWNET) < 0)
		return "no network namespace: that takes root";
	if (!silence_ipv6() || !make_tap())
		return "no tap interface: is there /dev/net/tun (modprobe tun)?";
	address.sll_ifindex = (int)if_nametoindex(NET_PEER_TAP);
	peer->fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, htons(NET_TYPE));
	if (peer->fd < 0 || bind(peer->fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		return "no packet socket to be had";
	return NULL;
}

const char *net_peer_start(struct net_peer *peer, enum net_kind kind, const char *path)
{
	bool tap = kind == NET_TAP;

	*peer = (struct net_peer){ .fd = -1 };
	const char *why = tap ? listen_on_tap(peer) : listen_at(peer, path);
	if (!why && pthread_create(&peer->thread, NULL, tap ? run_packets : run_stream, peer))
		why = "no thread to be had";
	peer->running = !why;
	if (why)
		fd_close(&peer->fd);
	return why;
}

void net_peer_stop(struct net_peer *peer)
{
	if (!peer->running)
		return;
	__atomic_store_n(&peer->end, true, __ATOMIC_SEQ_CST);
	(void)pthread_join(peer->thread, NULL);
	fd_close(&peer->fd);
	peer->running = false;
}
