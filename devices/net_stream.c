/* SPDX-License-Identifier: MIT */
#include "devices/net_stream.h"

#include <assert.h>
#include <endian.h>
#include <errno.h>
#include <string.h>

#include <sys/socket.h>

#include "base/fd.h"
#include "base/iov.h"

#define LENGTH_SIZE 4u
#define MAX_LENGTH (NET_MAX_FRAME - NET_HEADER_SIZE)
#define OUT_SIZE (LENGTH_SIZE + MAX_LENGTH)

static struct net_stream *stream_of(struct net_backend *backend)
{
	return container_of(backend, struct net_stream, backend);
}

/* Bytes sent, at least one; -EAGAIN, -EPIPE. */
static ssize_t send_some(struct net_stream *s, struct iovec *iov, int count)
{
	const struct msghdr message = { .msg_iov = iov, .msg_iovlen = (size_t)count };
	ssize_t n;

	do
		n = sendmsg(s->backend.fds[0], &message, MSG_NOSIGNAL | MSG_DONTWAIT);
	while (n < 0 && errno == EINTR);
	if (n > 0)
		return n;
	/* ENOBUFS passes; all else says that the connection is no more. */
	return n < 0 && errno != EAGAIN && errno != ENOBUFS ? -EPIPE : -EAGAIN;
}

/* 0: nothing is left of the frame before. */
static int flush(struct net_stream *s)
{
	while (s->out_start < s->out_end) {
		struct iovec rest = { s->out + s->out_start, s->out_end - s->out_start };
		ssize_t n = send_some(s, &rest, 1);
		if (n < 0) {
			s->backend.blocked = n == -EAGAIN;
			return (int)n;
		}
		s->out_start += (size_t)n;
	}
	s->backend.blocked = false;
	return 0;
}

/* The frame's iov with the virtio header cut off, and its length in front: how many, and bytes. */
static int with_length(const struct iovec *iov, int count, uint32_t *length, struct iovec *ret,
		       size_t *ret_size)
{
	size_t skip = NET_HEADER_SIZE;
	int n = 1;

	*ret_size = LENGTH_SIZE;
	for (int i = 0; i < count; i++) {
		size_t cut = skip < iov[i].iov_len ? skip : iov[i].iov_len;
		skip -= cut;
		if (cut == iov[i].iov_len)
			continue;
		ret[n++] = (struct iovec){ (uint8_t *)iov[i].iov_base + cut,
					   iov[i].iov_len - cut };
		*ret_size += iov[i].iov_len - cut;
	}
	*length = htobe32((uint32_t)(*ret_size - LENGTH_SIZE));
	ret[0] = (struct iovec){ length, LENGTH_SIZE };
	return n;
}

/* What the socket takes in part is ours from then on, so that a stream never breaks off in a frame. */
static int stream_send(struct net_backend *backend, unsigned int pair, const struct iovec *iov,
		       int count)
{
	struct net_stream *s = stream_of(backend);
	struct iovec parts[NET_MAX_SEGMENTS + 1];
	uint32_t length;
	size_t size;

	(void)pair; /* there is one */
	int r = flush(s);
	if (r < 0 || count == 0)
		return r;
	assert(count <= (int)NET_MAX_SEGMENTS);
	int n = with_length(iov, count, &length, parts, &size);
	if (size > OUT_SIZE)
		return -EMSGSIZE;
	ssize_t sent = send_some(s, parts, n);
	if (sent < 0) {
		s->backend.blocked = sent == -EAGAIN;
		return (int)sent;
	}
	s->out_start = 0;
	s->out_end = 0;
	if ((size_t)sent < size)
		s->out_end = iov_read(parts, n, (size_t)sent, s->out, size - (size_t)sent);
	s->backend.blocked = s->out_end > 0;
	return 0;
}

/* The frame that is whole in the buffer: its length; 0: there is none yet. -EPIPE. */
static ssize_t whole_frame(const struct net_stream *s)
{
	size_t have = s->in_end - s->in_start;
	uint32_t length;

	if (have < LENGTH_SIZE)
		return 0;
	memcpy(&length, s->in + s->in_start, sizeof(length));
	length = be32toh(length);
	if (length < NET_ETHERNET_SIZE || length > MAX_LENGTH)
		return -EPIPE;
	return have - LENGTH_SIZE >= length ? (ssize_t)length : 0;
}

/* Reads as much as fits: many frames a call. */
static int fill(struct net_stream *s)
{
	ssize_t n;

	memmove(s->in, s->in + s->in_start, s->in_end - s->in_start);
	s->in_end -= s->in_start;
	s->in_start = 0;
	do
		n = recv(s->backend.fds[0], s->in + s->in_end, NET_STREAM_BUFFER - s->in_end,
			 MSG_DONTWAIT);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return errno == EAGAIN ? -EAGAIN : -EPIPE;
	s->in_end += (size_t)n;
	return n == 0 ? -EPIPE : 0;
}

static ssize_t stream_receive(struct net_backend *backend, unsigned int pair,
			      const struct iovec *iov, int count)
{
	static const uint8_t header[NET_HEADER_SIZE];
	struct net_stream *s = stream_of(backend);
	ssize_t length;

	(void)pair; /* there is one */
	while ((length = whole_frame(s)) == 0) {
		int r = fill(s);
		if (r < 0)
			return r;
	}
	if (length < 0)
		return length;
	(void)iov_write(iov, count, 0, header, sizeof(header)); /* all that may come fits */
	(void)iov_write(iov, count, NET_HEADER_SIZE, s->in + s->in_start + LENGTH_SIZE,
			(size_t)length);
	s->in_start += LENGTH_SIZE + (size_t)length;
	return (ssize_t)NET_HEADER_SIZE + length;
}

static const struct net_backend_ops stream_ops = {
	.send = stream_send,
	.receive = stream_receive,
};

int net_stream_init(struct net_stream *s, int *fd, const char *name)
{
	*s = (struct net_stream){
		.backend = { .ops = &stream_ops, .name = name, .nr_pairs = 1 },
		.in = malloc(NET_STREAM_BUFFER),
		.out = malloc(OUT_SIZE),
	};
	s->backend.fds[0] = *fd;
	*fd = -1;
	if (s->in && s->out)
		return 0;
	net_stream_finish(s);
	return -ENOMEM;
}

void net_stream_finish(struct net_stream *s)
{
	if (!s->backend.ops)
		return;
	fd_close(&s->backend.fds[0]);
	free(s->out);
	free(s->in);
	*s = (struct net_stream){ 0 };
}
