/* SPDX-License-Identifier: MIT */
/*
 * net_backend.h - where a network card's frames go to and come from: a tap interface
 * (net_tap.h), or a stream socket (net_stream.h).
 *
 * Concepts
 *  - frame: NET_HEADER_SIZE bytes of struct virtio_net_hdr_v1, little-endian, then an Ethernet
 *    frame without its checksum; in all at most NET_MAX_FRAME bytes.
 *  - pair: one queue in each direction. Each has an fd, which polls as readable when there are
 *    frames, as writable when there is room, and as in error or hung up when it is gone for good.
 *
 * Threads: one at a time, as the card's lock sees to.
 */
#ifndef DEVICES_NET_BACKEND_H
#define DEVICES_NET_BACKEND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <sys/types.h>
#include <sys/uio.h>

#include "base/util.h"

#define NET_HEADER_SIZE 12u
#define NET_ETHERNET_SIZE 14u /* the least there can be of a frame: two addresses and a type */
/* 64 KiB of TCP over IP in one go, 1.2, 5.1.6.3.1. */
#define NET_MAX_FRAME (NET_HEADER_SIZE + 65550u)
#define NET_MAX_PAIRS 16u
#define NET_MAX_SEGMENTS 256u /* of a frame that is sent */

struct net_backend;

struct net_backend_ops {
	/*
	 * Sends one frame of the sizes above. 0: it was taken. -EAGAIN: there is no room, nothing of it
	 * was taken. -EPIPE: nobody is there any more. Others: it was dropped. A count of 0 goes on
	 * with what may be left of the frame before. Sets or clears backend->blocked.
	 */
	int (*send)(struct net_backend *backend, unsigned int pair, const struct iovec *iov,
		    int count);
	/*
	 * The next frame, into at least NET_MAX_FRAME bytes: how many it has. The header's num_buffers
	 * is whatever it was. -EAGAIN: there is none. -EPIPE: nobody is there any more. Others:
	 * one was lost.
	 */
	ssize_t (*receive)(struct net_backend *backend, unsigned int pair,
			   const struct iovec *iov, int count);
	/*
	 * The driver's features: what it takes of the offloads in backend->features. NULL: there are
	 * none. Errors: those before are still in force.
	 */
	int (*set_features)(struct net_backend *backend, uint64_t features);
	/* The first `nr` pairs are in use, the others are silent; at first all. NULL: there is one. */
	int (*set_pairs)(struct net_backend *backend, unsigned int nr);
};

struct net_backend {
	const struct net_backend_ops *ops;
	const char *name;       /* borrowed; for logs: "tap tap0" */
	uint64_t features;      /* VIRTIO_NET_F_ bits of the offloads that it does */
	bool vhost;             /* fds may be handed to vhost-net */
	bool blocked;           /* it waits for room: to be called when an fd is writable */
	unsigned int nr_pairs;  /* 1 to NET_MAX_PAIRS */
	int fds[NET_MAX_PAIRS]; /* owned by what this is part of; -1 */
};

#endif /* DEVICES_NET_BACKEND_H */
