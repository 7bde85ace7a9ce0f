/* SPDX-License-Identifier: MIT */
#include "devices/virtio_net.h"

#include <assert.h>
#include <endian.h>
#include <errno.h>
#include <limits.h>
#include <string.h>

#include <linux/virtio_ids.h>
#include <linux/virtio_net.h>

#include "base/fd.h"
#include "base/iov.h"
#include "base/log.h"
#include "base/trace.h"

#define QUEUE_SIZE 256u
#define CONTROL_QUEUE_SIZE 64u
#define SLICE 64u /* frames a turn: others wait for the event loop too */
#define QUEUES_A_PAIR 2u
#define LEAST_FRAME (NET_HEADER_SIZE + NET_ETHERNET_SIZE)

#define OFFLOADS                                                                             \
	(VIRTIO_FEATURE(VIRTIO_NET_F_CSUM) | VIRTIO_FEATURE(VIRTIO_NET_F_HOST_TSO4) |        \
	 VIRTIO_FEATURE(VIRTIO_NET_F_HOST_TSO6) | VIRTIO_FEATURE(VIRTIO_NET_F_HOST_ECN) |    \
	 VIRTIO_FEATURE(VIRTIO_NET_F_GUEST_CSUM) | VIRTIO_FEATURE(VIRTIO_NET_F_GUEST_TSO4) | \
	 VIRTIO_FEATURE(VIRTIO_NET_F_GUEST_TSO6) | VIRTIO_FEATURE(VIRTIO_NET_F_GUEST_ECN))

/* 1.2, 5.1.4, as far as we have it. */
struct config_space {
	uint8_t mac[VIRTIO_NET_MAC_SIZE];
	uint16_t status;
	uint16_t max_pairs;
	uint16_t mtu; /* VIRTIO_NET_F_MTU is not offered: 0 */
};

/* Receive buffers taken from the queue, in order, and where their bytes are. */
struct hand {
	unsigned int nr;
	uint16_t heads[VIRTQ_MAX_SIZE];
	uint32_t sizes[VIRTQ_MAX_SIZE]; /* bytes of each that we may fill */
	uint16_t pieces[VIRTQ_MAX_SIZE];
	uint64_t capacity; /* the sum of sizes */
	unsigned int nr_iov;
	struct iovec iov[IOV_MAX]; /* of all; what readv(2) takes */
};

struct virtio_net_pair {
	struct virtio_net *net;
	unsigned int index;
	struct event_source source; /* fd borrowed from the backend */
	bool listening;             /* the source is on the loop */
	uint32_t events;            /* that it waits for there */
	struct hand hand;
	bool starved; /* nothing is read before the driver gives more buffers */
	uint8_t frame[NET_MAX_FRAME];
	size_t frame_size;           /* of one that waits for buffers; 0: none does */
	struct virtq_chain received; /* scratch */
	struct virtq_chain sent;
	bool waits; /* `sent` does, for room in the backend */
	struct vhost_net vhost;
	struct event_source called; /* fd owned: vhost's interrupts where MSI-X is not on */
};

static struct virtio_net *net_of(struct virtio *virtio)
{
	return container_of(virtio, struct virtio_net, virtio);
}

static struct virtio_queue *rx_queue(struct virtio_net_pair *pair)
{
	return &pair->net->virtio.queues[pair->index * QUEUES_A_PAIR];
}

static struct virtio_queue *tx_queue(struct virtio_net_pair *pair)
{
	return &pair->net->virtio.queues[pair->index * QUEUES_A_PAIR + 1];
}

static unsigned int index_of(const struct virtio_net *net, const struct virtio_queue *queue)
{
	return (unsigned int)(queue - net->virtio.queues);
}

/* The event loop's to serve, and not the kernel's. */
static bool ours(const struct virtio_net_pair *pair)
{
	const struct virtio_net *net = pair->net;

	return net->started && virtio_running(&net->virtio) && pair->index < net->nr_active &&
	       !pair->vhost.running;
}

static bool carrier(const struct virtio_net *net)
{
	return net->link_up && !net->gone;
}

/* What the loop waits for on the backend's fd. */
static void update_interest(struct virtio_net_pair *pair)
{
	uint32_t events = 0;

	if (!pair->listening)
		return;
	if (ours(pair) && !pair->starved)
		events |= EPOLLIN;
	if (pair->waits || pair->net->backend->blocked) /* the latter is of whoever sent last */
		events |= EPOLLOUT;
	if (events != pair->events)
		event_loop_modify(pair->net->virtio.loop, &pair->source, events);
	pair->events = events;
}

/* Whoever serves the pair now, the event loop or the kernel, looks at both queues. */
static void look_again(struct virtio_net_pair *pair)
{
	pair->starved = false;
	eventfd_signal(rx_queue(pair)->kicked.fd);
	eventfd_signal(tx_queue(pair)->kicked.fd);
	update_interest(pair);
}

/* What was taken from the queues and not given back is left in them. */
static void put_back(struct virtio_net_pair *pair)
{
	if (pair->frame_size > 0)
		pair->net->counts.dropped++;
	pair->frame_size = 0;
	virtq_unpop(&rx_queue(pair)->ring, (uint16_t)pair->hand.nr);
	pair->hand.nr = 0;
	pair->hand.nr_iov = 0;
	pair->hand.capacity = 0;
	if (pair->waits)
		virtq_unpop(&tx_queue(pair)->ring, 1);
	pair->waits = false;
}

/* vhost */

static int call_fd(struct virtio_net_pair *pair, const struct virtio_queue *queue)
{
	int fd = virtio_queue_eventfd(&pair->net->virtio, index_of(pair->net, queue));

	return fd >= 0 ? fd : pair->called.fd;
}

static void stop_vhost(struct virtio_net_pair *pair)
{
	struct virtio_net *net = pair->net;
	struct virtq *const rings[] = { &rx_queue(pair)->ring, &tx_queue(pair)->ring };

	if (!pair->vhost.running)
		return;
	vhost_net_stop(&pair->vhost, rings);
	virtio_claim_kicks(&net->virtio, index_of(net, rx_queue(pair)));
	virtio_claim_kicks(&net->virtio, index_of(net, tx_queue(pair)));
}

/* If there is one and all is as it must be; if it fails the event loop does the work. */
static void start_vhost(struct virtio_net_pair *pair)
{
	struct virtio_net *net = pair->net;
	struct virtio_queue *rx = rx_queue(pair);
	struct virtio_queue *tx = tx_queue(pair);

	if (!net->vhost || !ours(pair) || !carrier(net) || !rx->ring.enabled ||
	    !tx->ring.enabled || rx->ring.broken || tx->ring.broken)
		return;
	put_back(pair);
	const struct vhost_net_wiring wiring = {
		.features = net->virtio.driver_features,
		.rings = { &rx->ring, &tx->ring },
		.kicks = { rx->kicked.fd, tx->kicked.fd },
		.calls = { call_fd(pair, rx), call_fd(pair, tx) },
		.error_fd = net->error.fd,
		.tap_fd = net->backend->fds[pair->index],
	};
	int r = vhost_net_start(&pair->vhost, &wiring);
	if (r < 0) {
		log_guest(&net->virtio.budget,
			  "%s: vhost-net does not take the queues (error %d): going on without",
			  net->virtio.name, -r);
		return;
	}
	virtio_yield_kicks(&net->virtio, index_of(net, rx));
	virtio_yield_kicks(&net->virtio, index_of(net, tx));
}

/* MSI-X was switched, or a queue's vector is another: an interrupt may have been lost meanwhile. */
static void net_rewired(struct virtio *virtio)
{
	struct virtio_net *net = net_of(virtio);

	for (unsigned int i = 0; i < net->nr_pairs; i++) {
		struct virtio_net_pair *pair = &net->pairs[i];
		struct virtio_queue *queues[] = { rx_queue(pair), tx_queue(pair) };
		for (unsigned int q = 0; q < nitems(queues) && pair->vhost.running; q++) {
			int r = vhost_net_set_call(&pair->vhost, q, call_fd(pair, queues[q]));
			if (r < 0)
				log_guest(&virtio->budget,
					  "%s: no interrupt (error %d): silent", virtio->name,
					  -r);
			virtio_interrupt(virtio, index_of(net, queues[q]));
		}
	}
}

/* The kernel asks for an interrupt that is none of MSI-X. */
static void called_ready(struct event_source *source, uint32_t events)
{
	struct virtio_net_pair *pair = container_of(source, struct virtio_net_pair, called);
	struct virtio_net *net = pair->net;

	(void)events;
	if (!eventfd_take(source->fd))
		return;
	pthread_mutex_lock(&net->virtio.lock);
	if (virtio_running(&net->virtio)) {
		virtio_interrupt(&net->virtio, index_of(net, rx_queue(pair)));
		virtio_interrupt(&net->virtio, index_of(net, tx_queue(pair)));
	}
	pthread_mutex_unlock(&net->virtio.lock);
}

/* Nobody works on its queues. */
static void let_be(struct virtio_net_pair *pair)
{
	stop_vhost(pair);
	put_back(pair);
	update_interest(pair);
}

static void stop_all_vhosts(struct virtio_net *net)
{
	for (unsigned int i = 0; i < net->nr_pairs; i++)
		stop_vhost(&net->pairs[i]);
}

static void error_ready(struct event_source *source, uint32_t events)
{
	struct virtio_net *net = container_of(source, struct virtio_net, error);

	(void)events;
	/* A reset takes it, too: an error of the driver before is not this one's. */
	pthread_mutex_lock(&net->virtio.lock);
	if (eventfd_take(source->fd)) {
		stop_all_vhosts(net);
		virtio_break(&net->virtio, "a malformed queue, says vhost-net");
	}
	pthread_mutex_unlock(&net->virtio.lock);
}

/* Which pairs are in use */

/*
 * From a vCPU's thread, too, which event_loop.h does not allow for a source that goes away; this
 * one stays, and looks under the lock whether it is meant.
 */
static void silence(struct virtio_net_pair *pair)
{
	stop_vhost(pair);
	put_back(pair);
	if (pair->listening)
		event_loop_remove(pair->net->virtio.loop, &pair->source);
	pair->listening = false;
}

static int listen_to(struct virtio_net_pair *pair)
{
	if (pair->listening || pair->net->gone)
		return 0;
	int r = event_loop_add(pair->net->virtio.loop, &pair->source, 0);
	pair->listening = r >= 0;
	pair->events = 0;
	return r;
}

/* The first `nr` pairs. On failure it may be fewer. */
static int set_active(struct virtio_net *net, unsigned int nr)
{
	const struct net_backend_ops *ops = net->backend->ops;
	int r = 0;

	for (unsigned int i = nr; i < net->nr_active; i++)
		silence(&net->pairs[i]);
	if (net->nr_active > nr)
		net->nr_active = nr;
	if (ops->set_pairs && !net->gone)
		r = ops->set_pairs(net->backend, nr);
	while (r >= 0 && net->nr_active < nr) {
		struct virtio_net_pair *pair = &net->pairs[net->nr_active];
		r = listen_to(pair);
		if (r < 0)
			break;
		net->nr_active++;
		start_vhost(pair);
		look_again(pair);
	}
	return r;
}

/* Nobody is at the other end any more. */
static void lose_backend(struct virtio_net *net)
{
	if (net->gone)
		return;
	log_warn("%s: %s is gone: going on with the link down", net->virtio.name,
		 net->backend->name);
	net->gone = true;
	net->backend->blocked = false;
	stop_all_vhosts(net);
	for (unsigned int i = 0; i < net->nr_pairs; i++) {
		if (net->pairs[i].listening)
			event_loop_remove(net->virtio.loop, &net->pairs[i].source);
		net->pairs[i].listening = false;
		look_again(&net->pairs[i]);
	}
	virtio_config_changed(&net->virtio);
}

/* Receiving */

/* More buffers may be taken: a driver without mergeable ones gets one frame into one. */
static bool may_grow(const struct virtio_net_pair *pair, const struct virtq *ring)
{
	const struct hand *hand = &pair->hand;

	if (!virtio_has_feature(&pair->net->virtio, VIRTIO_NET_F_MRG_RXBUF))
		return hand->nr == 0;
	return hand->nr < ring->size && hand->nr_iov + VIRTQ_MAX_SIZE <= nitems(hand->iov);
}

/* Takes one buffer. 1; 0: there is none. -EPROTO. */
static int take_buffer(struct virtio_net_pair *pair, struct virtq *ring)
{
	struct hand *hand = &pair->hand;
	struct virtq_chain *chain = &pair->received;

	int r = virtq_pop(ring, chain);
	if (r <= 0)
		return r;
	uint64_t size = virtq_writable_size(chain);
	if (size < NET_HEADER_SIZE)
		return -EPROTO;
	if (size > NET_MAX_FRAME)
		size = NET_MAX_FRAME;
	r = virtq_map_writable(ring, chain, 0, size, hand->iov + hand->nr_iov);
	if (r < 0)
		return -EPROTO;
	hand->heads[hand->nr] = chain->head;
	hand->sizes[hand->nr] = (uint32_t)size;
	hand->pieces[hand->nr] = (uint16_t)r;
	hand->nr++;
	hand->nr_iov += (unsigned int)r;
	hand->capacity += size;
	return 1;
}

/* Until the largest frame would fit, or there are no more. */
static int fill_hand(struct virtio_net_pair *pair)
{
	struct virtq *ring = &rx_queue(pair)->ring;
	int r = 1;

	while (r > 0 && pair->hand.capacity < NET_MAX_FRAME && may_grow(pair, ring))
		r = take_buffer(pair, ring);
	return r < 0 ? r : 0;
}

/* The first `nr` buffers are the driver's again. */
static void drop_from_hand(struct hand *hand, unsigned int nr)
{
	unsigned int pieces = 0;

	for (unsigned int i = 0; i < nr; i++) {
		pieces += hand->pieces[i];
		hand->capacity -= hand->sizes[i];
	}
	hand->nr -= nr;
	hand->nr_iov -= pieces;
	memmove(hand->heads, hand->heads + nr, hand->nr * sizeof(hand->heads[0]));
	memmove(hand->sizes, hand->sizes + nr, hand->nr * sizeof(hand->sizes[0]));
	memmove(hand->pieces, hand->pieces + nr, hand->nr * sizeof(hand->pieces[0]));
	memmove(hand->iov, hand->iov + pieces, hand->nr_iov * sizeof(hand->iov[0]));
}

/*
 * A frame of `size` bytes, no more than fit, lies in the hand. Says in how many buffers (1.2,
 * 5.1.6.4.1) and gives them back, all at once: a driver that finds the first looks for the rest.
 */
static int deliver(struct virtio_net_pair *pair, size_t size)
{
	const size_t at = offsetof(struct virtio_net_hdr_v1, num_buffers);
	struct virtq *ring = &rx_queue(pair)->ring;
	struct hand *hand = &pair->hand;
	uint16_t nr = 0;
	int r = 0;

	while (size > 0 && r >= 0) {
		uint32_t part = size < hand->sizes[nr] ? (uint32_t)size : hand->sizes[nr];
		r = virtq_fill(ring, hand->heads[nr], part);
		size -= part;
		nr++;
	}
	uint16_t field = htole16(nr);
	(void)iov_write(hand->iov, (int)hand->nr_iov, at, &field, sizeof(field)); /* it fits */
	if (r >= 0)
		r = virtq_publish(ring);
	drop_from_hand(hand, nr);
	pair->net->counts.received += r >= 0;
	return r;
}

/* Into our own buffer. 0; errors as net_backend_ops.receive. */
static int receive_aside(struct virtio_net_pair *pair)
{
	struct net_backend *backend = pair->net->backend;
	const struct iovec iov = { pair->frame, sizeof(pair->frame) };

	ssize_t n = backend->ops->receive(backend, pair->index, &iov, 1);
	pair->frame_size = n < 0 ? 0 : (size_t)n;
	return n < 0 ? (int)n : 0;
}

static int deliver_aside(struct virtio_net_pair *pair)
{
	struct hand *hand = &pair->hand;
	size_t size = pair->frame_size;

	if (size > hand->capacity && may_grow(pair, &rx_queue(pair)->ring))
		return -ENOBUFS;
	pair->frame_size = 0;
	if (size > hand->capacity) {
		pair->net->counts.dropped++;
		return 0;
	}
	(void)iov_write(hand->iov, (int)hand->nr_iov, 0, pair->frame, size); /* it fits */
	return deliver(pair, size);
}

/*
 * One frame. 0: done with it. -EAGAIN: there is none. -ENOBUFS: there are no buffers for it. -EPIPE: the
 * backend is gone. -EPROTO: the queue is malformed. Others: one was lost.
 */
static int receive_one(struct virtio_net_pair *pair)
{
	struct virtio_net *net = pair->net;
	struct hand *hand = &pair->hand;
	ssize_t n;

	if (!carrier(net)) {
		int r = receive_aside(pair);
		net->counts.dropped += r >= 0;
		pair->frame_size = 0;
		return r;
	}
	int r = fill_hand(pair);
	if (r < 0)
		return r;
	if (pair->frame_size == 0) {
		if (hand->nr == 0)
			return -ENOBUFS;
		if (hand->capacity >= NET_MAX_FRAME) {
			n = net->backend->ops->receive(net->backend, pair->index, hand->iov,
						       (int)hand->nr_iov);
			return n < 0 ? (int)n : deliver(pair, (size_t)n);
		}
		r = receive_aside(pair);
		if (r < 0)
			return r;
	}
	return deliver_aside(pair);
}

static void receive(struct virtio_net_pair *pair)
{
	struct virtio_net *net = pair->net;
	uint64_t before = net->counts.received;
	bool done = false;
	unsigned int n = 0;
	int r = 0;

	TRACE(net_receive, pair->index, 0);
	for (; n < SLICE && !done; n++) {
		r = receive_one(pair);
		done = r == -EAGAIN || r == -ENOBUFS || r == -EPIPE || r == -EPROTO;
		net->counts.dropped += r < 0 && !done;
	}
	pair->starved = r == -ENOBUFS;
	if (r == -EPROTO)
		virtio_break(&net->virtio, "a malformed receive queue");
	if (r == -EPIPE)
		lose_backend(net);
	/* There may be more, in the backend's own buffer: its fd does not say so. */
	if (!done)
		eventfd_signal(rx_queue(pair)->kicked.fd);
	if (net->counts.received != before)
		virtio_notify(&net->virtio, index_of(net, rx_queue(pair)));
	update_interest(pair);
}

/* Sending */

/* The frame that pair->sent has. 0: done with it. -EAGAIN: there is no room. -EPIPE: done, too. */
static int send_one(struct virtio_net_pair *pair)
{
	struct virtio_net *net = pair->net;
	struct iovec iov[VIRTQ_MAX_SIZE];
	uint64_t size = virtq_readable_size(&pair->sent);
	int r = -EINVAL;

	static_assert(VIRTQ_MAX_SIZE <= NET_MAX_SEGMENTS, "a chain is a frame");
	if (carrier(net) && size >= LEAST_FRAME && size <= NET_MAX_FRAME) {
		int count =
			virtq_map_readable(&tx_queue(pair)->ring, &pair->sent, 0, size, iov);
		r = count < 0 ? count
			      : net->backend->ops->send(net->backend, pair->index, iov, count);
		if (count < 0)
			log_guest(&net->virtio.budget,
				  "%s: a frame outside of RAM, dropping it", net->virtio.name);
	}
	if (r == -EAGAIN)
		return r;
	net->counts.sent += r >= 0;
	net->counts.dropped += r < 0;
	return r == -EPIPE ? r : 0;
}

static void transmit(struct virtio_net_pair *pair)
{
	struct virtio_net *net = pair->net;
	struct virtio_queue *queue = tx_queue(pair);
	unsigned int served = 0;
	int r = 0;

	TRACE(net_transmit, pair->index, 0);
	while (served < SLICE) {
		if (!pair->waits) {
			r = virtq_pop(&queue->ring, &pair->sent);
			if (r <= 0)
				break;
		}
		r = send_one(pair);
		pair->waits = r == -EAGAIN;
		if (pair->waits)
			break;
		if (r == -EPIPE)
			lose_backend(net);
		r = virtq_push(&queue->ring, pair->sent.head, 0);
		if (r < 0)
			break;
		served++;
	}
	if (r == -EPROTO)
		virtio_break(&net->virtio, "a malformed transmit queue");
	if (served == SLICE)
		eventfd_signal(queue->kicked.fd);
	if (served > 0)
		virtio_notify(&net->virtio, index_of(net, queue));
	update_interest(pair);
}

/* The backend */

static void backend_ready(struct event_source *source, uint32_t events)
{
	struct virtio_net_pair *pair = container_of(source, struct virtio_net_pair, source);
	struct virtio_net *net = pair->net;

	pthread_mutex_lock(&net->virtio.lock);
	if ((events & EPOLLOUT) && !net->gone &&
	    net->backend->ops->send(net->backend, pair->index, NULL, 0) == -EPIPE)
		lose_backend(net);
	if (ours(pair) && (events & EPOLLOUT))
		transmit(pair);
	if (ours(pair) && (events & EPOLLIN))
		receive(pair);
	/* What came before the end was read; if nobody reads, the end is all there is. */
	if (pair->listening && (events & (EPOLLHUP | EPOLLERR)) && !(events & EPOLLIN))
		lose_backend(net);
	update_interest(pair);
	pthread_mutex_unlock(&net->virtio.lock);
}

/* The control queue, 1.2, 5.1.6.5 */

static uint8_t do_command(struct virtio_net *net, const struct virtq *ring)
{
	const struct virtq_chain *chain = &net->control;
	struct virtio_net_ctrl_hdr header;
	uint16_t nr;

	if (virtq_read(ring, chain, 0, &header, sizeof(header)) < 0 ||
	    header.class != VIRTIO_NET_CTRL_MQ ||
	    header.cmd != VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET ||
	    !virtio_has_feature(&net->virtio, VIRTIO_NET_F_MQ) ||
	    virtq_read(ring, chain, sizeof(header), &nr, sizeof(nr)) < 0)
		return VIRTIO_NET_ERR;
	nr = le16toh(nr);
	if (nr < VIRTIO_NET_CTRL_MQ_VQ_PAIRS_MIN || nr > net->nr_pairs)
		return VIRTIO_NET_ERR;
	return set_active(net, nr) < 0 ? VIRTIO_NET_ERR : VIRTIO_NET_OK;
}

/* One change of pairs a turn: for each pair the host's network may have to stand still. */
static void serve_control(struct virtio_net *net, struct virtio_queue *queue)
{
	const unsigned int nr_active = net->nr_active;
	unsigned int served = 0;
	int r = 0;

	while (served < SLICE && net->nr_active == nr_active &&
	       (r = virtq_pop(&queue->ring, &net->control)) > 0) {
		uint8_t ack = do_command(net, &queue->ring);
		bool told = virtq_write(&queue->ring, &net->control, 0, &ack, 1) >= 0;
		r = virtq_push(&queue->ring, net->control.head, told);
		if (r < 0)
			break;
		served++;
	}
	if (r < 0) {
		stop_all_vhosts(net);
		virtio_break(&net->virtio, "a malformed control queue");
	}
	if (served == SLICE || net->nr_active != nr_active)
		eventfd_signal(queue->kicked.fd);
	if (served > 0)
		virtio_notify(&net->virtio, index_of(net, queue));
}

/* 1.2, 5.1.2: behind all pairs there could be, or, without VIRTIO_NET_F_MQ, behind the one. */
static unsigned int control_index(const struct virtio_net *net)
{
	return virtio_has_feature(&net->virtio, VIRTIO_NET_F_MQ) ? net->nr_pairs * QUEUES_A_PAIR
								 : QUEUES_A_PAIR;
}

static void net_kick(struct virtio *virtio, unsigned int index)
{
	struct virtio_net *net = net_of(virtio);

	if (virtio_has_feature(virtio, VIRTIO_NET_F_CTRL_VQ) && index == control_index(net)) {
		serve_control(net, &virtio->queues[index]);
		return;
	}
	if (index / QUEUES_A_PAIR >= net->nr_pairs)
		return;
	struct virtio_net_pair *pair = &net->pairs[index / QUEUES_A_PAIR];
	if (!ours(pair))
		return;
	if (index % QUEUES_A_PAIR == 0)
		receive(pair);
	else
		transmit(pair);
}

static void net_start(struct virtio *virtio)
{
	struct virtio_net *net = net_of(virtio);
	const struct net_backend_ops *ops = net->backend->ops;

	net->started = true;
	if (ops->set_features && !net->gone) {
		int r = ops->set_features(net->backend, virtio->driver_features);
		if (r < 0)
			log_guest(&virtio->budget, "%s: %s: no offloads (error %d), going on",
				  virtio->name, net->backend->name, -r);
	}
	for (unsigned int i = 0; i < net->nr_active; i++) {
		start_vhost(&net->pairs[i]);
		look_again(&net->pairs[i]);
	}
}

static void net_stop(struct virtio *virtio)
{
	struct virtio_net *net = net_of(virtio);

	for (unsigned int i = 0; i < net->nr_active; i++)
		let_be(&net->pairs[i]);
}

/* One pair, without offloads, is what the next driver expects. */
static bool net_reset(struct virtio *virtio)
{
	struct virtio_net *net = net_of(virtio);
	const struct net_backend_ops *ops = net->backend->ops;

	if (!net->started)
		return true;
	net->started = false;
	int r = set_active(net, 1);
	let_be(&net->pairs[0]);
	(void)eventfd_take(net->error.fd); /* of the driver that is gone */
	if (r >= 0 && ops->set_features && !net->gone)
		r = ops->set_features(net->backend, 0);
	if (r < 0)
		log_guest(&virtio->budget,
			  "%s: %s: not as it was at first (error %d), going on", virtio->name,
			  net->backend->name, -r);
	return true;
}

static void net_config_fill(struct virtio *virtio, void *space)
{
	const struct virtio_net *net = net_of(virtio);
	struct config_space *config = space;

	*config = (struct config_space){
		.status = htole16(carrier(net) ? VIRTIO_NET_S_LINK_UP : 0),
		.max_pairs = htole16((uint16_t)net->nr_pairs),
	};
	memcpy(config->mac, net->mac, sizeof(config->mac));
}

static const struct virtio_ops net_ops = {
	.kick = net_kick,
	.start = net_start,
	.stop = net_stop,
	.rewired = net_rewired,
	.reset = net_reset,
	.config_fill = net_config_fill,
};

/* Beginning and end */

static void init_pair(struct virtio_net *net, unsigned int i)
{
	struct virtio_net_pair *pair = &net->pairs[i];

	pair->net = net;
	pair->index = i;
	pair->source =
		(struct event_source){ .fd = net->backend->fds[i], .ready = backend_ready };
	pair->vhost.fd = -1;
	pair->called = (struct event_source){ .fd = -1, .ready = called_ready };
}

static int init_vhosts(struct virtio_net *net)
{
	int r = net->backend->vhost ? 0 : -EOPNOTSUPP;

	for (unsigned int i = 0; i < net->nr_pairs && r >= 0; i++) {
		r = vhost_net_init(&net->pairs[i].vhost, net->virtio.map);
		if (r >= 0)
			r = event_source_open(&net->pairs[i].called, net->virtio.loop);
	}
	return r < 0 ? r : event_source_open(&net->error, net->virtio.loop);
}

static void finish_vhosts(struct virtio_net *net)
{
	for (unsigned int i = 0; i < net->nr_pairs; i++) {
		vhost_net_finish(&net->pairs[i].vhost);
		event_source_close(&net->pairs[i].called, net->virtio.loop);
	}
	event_source_close(&net->error, net->virtio.loop);
	net->vhost = false;
}

static int choose_vhost(struct virtio_net *net, enum virtio_net_vhost wanted)
{
	if (wanted == VIRTIO_NET_VHOST_OFF)
		return 0;
	int r = init_vhosts(net);
	net->vhost = r >= 0;
	if (r >= 0)
		return 0;
	finish_vhosts(net);
	if (wanted == VIRTIO_NET_VHOST_AUTO)
		return 0;
	return log_err(r, "%s: vhost=on: /dev/vhost-net%s", net->virtio.name,
		       r == -ENOENT || r == -ENODEV ? " (load the module: modprobe vhost_net)"
		       : r == -EACCES               ? " (join the group that owns it)"
		       : r == -EOPNOTSUPP           ? " (it goes with a tap)"
						    : "");
}

static int init_pairs(struct virtio_net *net)
{
	net->pairs = calloc(net->backend->nr_pairs, sizeof(*net->pairs));
	if (!net->pairs)
		return -ENOMEM;
	net->nr_pairs = net->backend->nr_pairs;
	for (unsigned int i = 0; i < net->nr_pairs; i++)
		init_pair(net, i);
	return set_active(net, 1);
}

int virtio_net_init(struct virtio_net *net, struct memory_map *map, struct event_loop *loop,
		    struct net_backend *backend, const struct virtio_net_setup *setup)
{
	const unsigned int nr = backend->nr_pairs;
	struct virtio_config virtio = {
		.ops = &net_ops,
		.name = setup->name,
		.device_id = VIRTIO_ID_NET,
		.features =
			VIRTIO_FEATURE(VIRTIO_NET_F_MAC) | VIRTIO_FEATURE(VIRTIO_NET_F_STATUS) |
			VIRTIO_FEATURE(VIRTIO_NET_F_MRG_RXBUF) | (backend->features & OFFLOADS),
		.config_size = sizeof(struct config_space),
		.nr_queues = nr * QUEUES_A_PAIR,
	};

	*net = (struct virtio_net){
		.backend = backend,
		.link_up = true,
		.error = { .fd = -1, .ready = error_ready },
	};
	memcpy(net->mac, setup->mac, sizeof(net->mac));
	for (unsigned int i = 0; i < virtio.nr_queues; i++)
		virtio.queue_sizes[i] = QUEUE_SIZE;
	if (nr > 1) {
		virtio.features |=
			VIRTIO_FEATURE(VIRTIO_NET_F_MQ) | VIRTIO_FEATURE(VIRTIO_NET_F_CTRL_VQ);
		virtio.queue_sizes[virtio.nr_queues++] = CONTROL_QUEUE_SIZE;
	}
	int r = virtio_init(&net->virtio, map, loop, &virtio);
	if (r >= 0)
		r = init_pairs(net);
	if (r < 0)
		(void)log_err(r, "%s", setup->name);
	else
		r = choose_vhost(net, setup->vhost);
	if (r < 0)
		virtio_net_finish(net);
	return r;
}

void virtio_net_finish(struct virtio_net *net)
{
	if (!net->backend)
		return;
	finish_vhosts(net);
	for (unsigned int i = 0; i < net->nr_pairs; i++) {
		if (net->pairs[i].listening)
			event_loop_remove(net->virtio.loop, &net->pairs[i].source);
	}
	virtio_finish(&net->virtio);
	free(net->pairs);
	*net = (struct virtio_net){ 0 };
}

int virtio_net_set_link(struct virtio_net *net, bool up)
{
	int r = 0;

	pthread_mutex_lock(&net->virtio.lock);
	if (up && net->gone)
		r = -EPIPE;
	else if (net->link_up != up) {
		net->link_up = up;
		for (unsigned int i = 0; i < net->nr_active; i++) {
			stop_vhost(&net->pairs[i]);
			start_vhost(&net->pairs[i]);
			look_again(&net->pairs[i]);
		}
		if (!net->gone)
			virtio_config_changed(&net->virtio);
	}
	pthread_mutex_unlock(&net->virtio.lock);
	return r;
}

void virtio_net_get_counts(struct virtio_net *net, struct virtio_net_counts *ret)
{
	pthread_mutex_lock(&net->virtio.lock);
	*ret = net->counts;
	pthread_mutex_unlock(&net->virtio.lock);
}
