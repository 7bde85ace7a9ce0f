/* SPDX-License-Identifier: MIT */
/*
 * net_peer.h - the other end of a guest's network card: whatever comes is sent back.
 *
 * As passt would have it at a UNIX stream socket, or on the host's side of a tap interface, in a
 * network namespace that the process is put into for that.
 *
 * Threads: one of its own.
 */
#ifndef TESTS_GUEST_NET_PEER_H
#define TESTS_GUEST_NET_PEER_H

#include <pthread.h>
#include <stdbool.h>

#include "vmm/net.h"

#define NET_PEER_TAP "tap0"

struct net_peer {
	pthread_t thread;
	bool running;
	int fd;   /* owned: it listens, or is the packet socket */
	bool end; /* atomic */
};

/*
 * NULL: it runs. Otherwise why this host cannot have it. path: of the socket, for
 * NET_PASST_RUNNING; else there is tap interface NET_PEER_TAP afterwards.
 */
const char *net_peer_start(struct net_peer *peer, enum net_kind kind, const char *path);
/* Accepts a zeroed object. */
void net_peer_stop(struct net_peer *peer);

#endif /* TESTS_GUEST_NET_PEER_H */
