/* SPDX-License-Identifier: MIT */
/*
 * net_stream.h - frames over a stream socket, each behind its length: 32 bits, big-endian. passt
 * speaks that, and with it a guest reaches the network without anybody being root.
 *
 * No offloads: of the virtio header nothing is sent, and zeroes are received. A peer that sends
 * what can be no frame has lost its place in the stream: as if it had hung up.
 *
 * Threads: as net_backend.h.
 */
#ifndef DEVICES_NET_STREAM_H
#define DEVICES_NET_STREAM_H

#include "devices/net_backend.h"

#define NET_STREAM_BUFFER (1u << 17) /* bytes; at least one frame, better many */

struct net_stream {
	struct net_backend backend; /* fds[0] owned */
	/* What was read: bytes [in_start, in_end). */
	uint8_t *in; /* owned; NET_STREAM_BUFFER bytes */
	size_t in_start;
	size_t in_end;
	/* What is left to be sent of a frame that the socket took in part. */
	uint8_t *out; /* owned; one frame and its length */
	size_t out_start;
	size_t out_end;
};

/*
 * Takes over *fd, a connected stream socket, and sets it to -1; also on failure. name: borrowed.
 * -ENOMEM, not logged.
 */
must_check int net_stream_init(struct net_stream *stream, int *fd, const char *name);
/* Accepts a zeroed object. */
void net_stream_finish(struct net_stream *stream);

#endif /* DEVICES_NET_STREAM_H */
