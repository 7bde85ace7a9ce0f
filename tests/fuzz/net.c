/* SPDX-License-Identifier: MIT */
/*
 * net.c - virtio-net under a hostile driver, with a backend that may take a frame, have no room, or
 * go away, as the input has it. Frames are touched from end to end, in both directions: RAM ends
 * where the sanitizers see it.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <linux/virtio_net.h>

#include "devices/virtio_net.h"
#include "tests/fuzz/driver.h"

#define PAIRS 3u
#define CONTROL (2 * PAIRS)

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static struct virtio_net net;
static unsigned int sum; /* so that reading is not for nothing */

/* The backend */

static int fake_send(struct net_backend *backend, unsigned int pair, const struct iovec *iov,
		     int count)
{
	size_t size = 0;

	assert(pair < net.nr_active && count <= (int)NET_MAX_SEGMENTS);
	for (int i = 0; i < count; i++) {
		const uint8_t *bytes = iov[i].iov_base;
		assert(iov[i].iov_len > 0);
		sum += bytes[0] + bytes[iov[i].iov_len - 1];
		size += iov[i].iov_len;
	}
	assert(count == 0 ||
	       (size >= NET_HEADER_SIZE + NET_ETHERNET_SIZE && size <= NET_MAX_FRAME));
	backend->blocked = false;
	switch (next8() % 8) {
	case 0: backend->blocked = true; return -EAGAIN;
	case 1: return -EIO;
	case 2: return next8() == 0x7f ? -EPIPE : 0;
	default: return 0;
	}
}

static ssize_t fake_receive(struct net_backend *backend, unsigned int pair,
			    const struct iovec *iov, int count)
{
	size_t room = 0;
	size_t size = next16() + NET_HEADER_SIZE + NET_ETHERNET_SIZE;
	uint8_t what = next8();

	(void)backend;
	assert(pair < net.nr_active);
	for (int i = 0; i < count; i++) {
		assert(iov[i].iov_len > 0);
		room += iov[i].iov_len;
	}
	assert(room >= NET_MAX_FRAME);
	if (what == 0x7f)
		return -EPIPE;
	if (what % 4 == 0)
		return what % 8 ? -EAGAIN : -EMSGSIZE;
	if (what & 1)
		size = size % 2000 + NET_HEADER_SIZE + NET_ETHERNET_SIZE;
	if (size > NET_MAX_FRAME)
		size = NET_MAX_FRAME;
	for (size_t left = size; left > 0; iov++) {
		size_t n = left < iov->iov_len ? left : iov->iov_len;
		memset(iov->iov_base, what, n);
		left -= n;
	}
	return (ssize_t)size;
}

static int fake_set(struct net_backend *backend, uint64_t features)
{
	(void)backend;
	(void)features;
	return next8() % 16 ? 0 : -EIO;
}

static int fake_set_pairs(struct net_backend *backend, unsigned int nr)
{
	(void)backend;
	assert(nr >= 1 && nr <= PAIRS);
	return next8() % 16 ? 0 : -EIO;
}

static const struct net_backend_ops fake_ops = {
	.send = fake_send,
	.receive = fake_receive,
	.set_features = fake_set,
	.set_pairs = fake_set_pairs,
};

/* What a driver that behaves would do: it takes the fuzzer deep. */

static void step_buffers(void)
{
	unsigned int queue = 2 * (next8() % PAIRS);
	unsigned int nr = next8() % 64;
	struct vring_desc desc = { .flags = VRING_DESC_F_WRITE };

	desc.len = next8() % 4 ? 2048 : next16();
	for (unsigned int i = 0; i < nr; i++) {
		desc.addr = FUZZ_BUFFER + i * 2048;
		put_desc(queue, i, desc);
		publish(queue, (uint16_t)i);
	}
	virtio_kick(&net.virtio, queue);
}

static void step_send(void)
{
	unsigned int queue = 2 * (next8() % PAIRS) + 1;
	struct vring_desc desc = { .addr = next_gpa() };

	desc.len = next16();
	put_desc(queue, 0, desc);
	publish(queue, 0);
	virtio_kick(&net.virtio, queue);
}

static void step_command(void)
{
	const uint8_t bytes[] = { next8() % 8 ? VIRTIO_NET_CTRL_MQ : next8(),
				  next8() % 8 ? 0 : next8(), next8() % 5, 0 };
	struct vring_desc out = { FUZZ_BUFFER, sizeof(bytes), VRING_DESC_F_NEXT, 1 };
	struct vring_desc in = { FUZZ_BUFFER + 64, 1, VRING_DESC_F_WRITE, 0 };

	put(FUZZ_BUFFER, bytes, sizeof(bytes));
	put_desc(CONTROL, 0, out);
	put_desc(CONTROL, 1, in);
	publish(CONTROL, 0);
	virtio_kick(&net.virtio, CONTROL);
}

static void step_link(void)
{
	int r = virtio_net_set_link(&net, next8() & 1);

	assert(r == 0 || (r == -EPIPE && net.gone));
}

static void step_reset(void)
{
	virtio_reset(&net.virtio);
	assert(net.virtio.status == 0);
	assert(net.nr_active == 1);
}

static void check(void)
{
	assert(net.nr_active >= 1 && net.nr_active <= PAIRS);
	for (unsigned int i = 0; i < net.virtio.nr_queues; i++) {
		const struct virtq *vq = &net.virtio.queues[i].ring;
		uint16_t kept = (uint16_t)(vq->next_avail - vq->next_used);
		/* No more is in hand than the driver has given; of what is sent, one frame. */
		assert(vq->broken || kept <= (i == CONTROL ? 0 : i % 2 ? 1 : vq->size));
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
	static void (*const steps[])(void) = {
		step_start,    step_buffers,  step_send,   step_command, step_kick,   step_desc,
		step_publish,  step_avail,    step_bytes,  step_queue,   step_status, step_link,
		step_indirect, step_features, step_config, step_reset,
	};
	const struct virtio_net_setup setup = { .name = "net0", .vhost = VIRTIO_NET_VHOST_OFF };
	static const uint8_t ready[] = { 1, 1, 1, 1 };
	struct net_backend backend = {
		.ops = &fake_ops,
		.name = "fake",
		.features = UINT64_MAX,
		.nr_pairs = PAIRS,
		.fds = { -1, -1, -1 },
	};

	/* Of an input that has not begun nothing is refused. */
	if (fuzz_begin(fuzz_ram(), ready, sizeof(ready)) < 0 ||
	    virtio_net_init(&net, &fuzz.map, NULL, &backend, &setup) < 0)
		abort(); /* of this process's making, not the input's */
	fuzz.at = bytes;
	fuzz.end = bytes + size;
	fuzz.virtio = &net.virtio;
	fuzz_run(steps, nitems(steps), check);
	virtio_net_finish(&net);
	fuzz_end();
	fuzz_empty(fuzz_ram());
	return 0;
}
