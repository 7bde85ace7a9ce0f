/* SPDX-License-Identifier: MIT */
#include "devices/virtio_console.h"

#include <endian.h>
#include <string.h>

#include <sys/ioctl.h>

#include <linux/virtio_console.h>
#include <linux/virtio_ids.h>

#include "base/fd.h"
#include "base/trace.h"

#define QUEUE_SIZE 64u
#define PIECE_SIZE 4096u /* bytes copied at a time */
/* Then others have the event loop: bytes sent, or chains. */
#define TURN_SIZE (64u << 10)

enum { RECEIVEQ, TRANSMITQ, NR_QUEUES };

static struct virtio_console *console_of(struct virtio *virtio)
{
	return container_of(virtio, struct virtio_console, virtio);
}

/* Patience. All under the lock. */

static void set_timer(struct virtio_console *c, unsigned int seconds)
{
	event_timer_set(&c->timer, seconds * EVENT_SECOND, 0);
	c->waits = seconds > 0;
}

/* The back end took `taken` of `size` bytes. How many of them are done with? */
static size_t judge_reader(struct virtio_console *c, size_t taken, size_t size)
{
	if (c->waits && taken > 0)
		set_timer(c, 0);
	if (c->drops)
		return size;
	if (!c->waits && taken < size)
		set_timer(c, VIRTIO_CONSOLE_PATIENCE);
	return taken;
}

/* Output */

/* True: the back end has all of the chain at hand. *budget: bytes that may be sent yet. */
static bool send_chain(struct virtio_console *c, size_t *budget)
{
	const struct virtq *ring = &c->virtio.queues[TRANSMITQ].ring;
	uint64_t size = virtq_readable_size(&c->output);
	uint8_t bytes[PIECE_SIZE];

	while (c->sent<size && * budget> 0) {
		size_t n = *budget < sizeof(bytes) ? *budget : sizeof(bytes);
		if (n > size - c->sent)
			n = size - c->sent;
		if (virtq_read(ring, &c->output, c->sent, bytes, n) < 0) {
			log_guest(&c->virtio.budget,
				  "console: output outside of RAM, dropping it");
			return true;
		}
		size_t taken = c->port.backend.transmit(c->port.backend.opaque, bytes, n);
		taken = judge_reader(c, taken, n);
		c->sent += taken;
		*budget -= taken;
		if (taken < n)
			break;
	}
	return c->sent == size;
}

static void transmit(struct virtio_console *c)
{
	struct virtio_queue *queue = &c->virtio.queues[TRANSMITQ];
	unsigned int served = 0;
	size_t budget = TURN_SIZE;
	int r = 0;

	while (served < QUEUE_SIZE) {
		if (!c->sending) {
			r = virtq_pop(&queue->ring, &c->output);
			if (r <= 0)
				break;
			c->sending = true;
			c->sent = 0;
		}
		if (!send_chain(c, &budget))
			break;
		c->sending = false;
		r = virtq_push(&queue->ring, c->output.head, 0);
		if (r < 0)
			break;
		served++;
	}
	if (r < 0)
		virtio_break(&c->virtio, "a malformed queue");
	if (served == QUEUE_SIZE || budget == 0)
		eventfd_signal(queue->kicked.fd);
	if (served > 0)
		virtio_notify(&c->virtio, TRANSMITQ);
}

/* Nobody has read for too long. */
static void timer_ready(struct event_source *source, uint32_t events)
{
	struct virtio_console *c = container_of(source, struct virtio_console, timer);

	(void)events;
	(void)eventfd_take(source->fd); /* the same eight bytes */
	pthread_mutex_lock(&c->virtio.lock);
	bool ran_out = c->waits;
	c->waits = false; /* at rest, too: the next output has it begin anew */
	if (ran_out && virtio_running(&c->virtio)) {
		log_guest(&c->virtio.budget, "console: nobody reads, dropping output");
		c->drops = true;
		transmit(c);
	}
	pthread_mutex_unlock(&c->virtio.lock);
}

static struct virtio_console *console_of_port(struct port *port)
{
	return container_of(port, struct virtio_console, port);
}

static void console_transmit_ready(struct port *port)
{
	struct virtio_console *c = console_of_port(port);

	pthread_mutex_lock(&c->virtio.lock);
	c->drops = false;
	if (virtio_running(&c->virtio))
		transmit(c);
	pthread_mutex_unlock(&c->virtio.lock);
}

/* Input */

/* How many bytes the buffer at hand has taken. */
static size_t fill(struct virtio_console *c, const uint8_t *bytes, size_t size)
{
	uint64_t room = virtq_writable_size(&c->input);
	size_t n = room < size ? room : size;

	if (virtq_write(&c->virtio.queues[RECEIVEQ].ring, &c->input, 0, bytes, n) >= 0)
		return n;
	log_guest(&c->virtio.budget, "console: a buffer outside of RAM, leaving it empty");
	return 0;
}

static size_t console_receive(struct port *port, const uint8_t *bytes, size_t size)
{
	struct virtio_console *c = console_of_port(port);
	struct virtio_queue *queue = &c->virtio.queues[RECEIVEQ];
	unsigned int served = 0;
	size_t taken = 0;
	int r = 0;

	pthread_mutex_lock(&c->virtio.lock);
	while (virtio_running(&c->virtio) && taken < size && served < QUEUE_SIZE) {
		r = virtq_pop(&queue->ring, &c->input);
		if (r <= 0)
			break;
		size_t n = fill(c, bytes + taken, size - taken);
		r = virtq_push(&queue->ring, c->input.head, (uint32_t)n);
		if (r < 0)
			break;
		taken += n;
		served++;
	}
	if (r < 0)
		virtio_break(&c->virtio, "a malformed queue");
	/* There may be more buffers, to which the back end is led by the kick. */
	if (served == QUEUE_SIZE)
		eventfd_signal(queue->kicked.fd);
	if (served > 0)
		virtio_notify(&c->virtio, RECEIVEQ);
	pthread_mutex_unlock(&c->virtio.lock);
	return taken;
}

static const struct port_ops port_ops = {
	.receive = console_receive,
	.transmit_ready = console_transmit_ready,
};

/* The driver's side */

static void console_kick(struct virtio *virtio, unsigned int index)
{
	struct virtio_console *c = console_of(virtio);

	TRACE(console_kick, index, 0);
	if (index == TRANSMITQ)
		transmit(c);
	else
		c->port.backend.receive_ready(c->port.backend.opaque);
}

static bool console_reset(struct virtio *virtio)
{
	struct virtio_console *c = console_of(virtio);

	c->sending = c->drops = false;
	set_timer(c, 0);
	return true;
}

static void console_config_fill(struct virtio *virtio, void *space)
{
	const struct virtio_console *c = console_of(virtio);
	const struct virtio_console_config config = {
		.cols = htole16(c->columns),
		.rows = htole16(c->rows),
	};

	memcpy(space, &config, sizeof(config));
}

/* Only the emergency write is; the least byte of it is what is to be seen. */
static void console_config_write(struct virtio *virtio, unsigned int offset, unsigned int size,
				 uint32_t value)
{
	struct virtio_console *c = console_of(virtio);
	uint8_t byte = (uint8_t)value;

	(void)size;
	if (offset == offsetof(struct virtio_console_config, emerg_wr))
		(void)c->port.backend.transmit(c->port.backend.opaque, &byte, 1); /* or lost */
}

static const struct virtio_ops console_ops = {
	.kick = console_kick,
	.reset = console_reset,
	.config_fill = console_config_fill,
	.config_write = console_config_write,
};

int virtio_console_init(struct virtio_console *c, struct memory_map *map,
			struct event_loop *loop, const struct port_backend *backend,
			const struct winsize *window)
{
	struct virtio_config config = {
		.ops = &console_ops,
		.name = "console",
		.device_id = VIRTIO_ID_CONSOLE,
		.features = VIRTIO_FEATURE(VIRTIO_CONSOLE_F_EMERG_WRITE),
		.config_size = sizeof(struct virtio_console_config),
		.nr_queues = NR_QUEUES,
		.queue_sizes = { QUEUE_SIZE, QUEUE_SIZE },
	};

	*c = (struct virtio_console){
		.port = { &port_ops, *backend },
		.timer = { .fd = -1, .ready = timer_ready },
	};
	if (window) {
		config.features |= VIRTIO_FEATURE(VIRTIO_CONSOLE_F_SIZE);
		c->columns = window->ws_col;
		c->rows = window->ws_row;
	}
	int r = virtio_init(&c->virtio, map, loop, &config);
	if (r >= 0)
		r = event_timer_open(&c->timer, loop, 0, 0);
	if (r < 0)
		virtio_console_finish(c);
	return r;
}

void virtio_console_finish(struct virtio_console *c)
{
	if (!c->virtio.ops)
		return;
	event_source_close(&c->timer, c->virtio.loop);
	virtio_finish(&c->virtio);
	*c = (struct virtio_console){ 0 };
}

void virtio_console_resize(struct virtio_console *c, const struct winsize *window)
{
	pthread_mutex_lock(&c->virtio.lock);
	if (c->columns != window->ws_col || c->rows != window->ws_row) {
		c->columns = window->ws_col;
		c->rows = window->ws_row;
		if (c->virtio.features & VIRTIO_FEATURE(VIRTIO_CONSOLE_F_SIZE))
			virtio_config_changed(&c->virtio);
	}
	pthread_mutex_unlock(&c->virtio.lock);
}
