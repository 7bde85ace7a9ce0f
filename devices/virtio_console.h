/* SPDX-License-Identifier: MIT */
/*
 * virtio_console.h - a console of one port: hvc0 of a Linux guest. Virtual I/O Device 1.2, 5.3.
 *
 * Output is handed to the port's back end as that has room; what it leaves waits in the driver's
 * queue, unanswered. Linux's driver, though, waits for the answer with interrupts off: who does
 * not read would hold a processor up. So after VIRTIO_CONSOLE_PATIENCE seconds in which the
 * back end took nothing, output is dropped, until it takes some again.
 *
 * Input goes into the driver's buffers, one answer for what there is; without buffers it waits
 * at the back end. What of a chain points the wrong way is not touched.
 *
 * Offered are VIRTIO_CONSOLE_F_EMERG_WRITE, and VIRTIO_CONSOLE_F_SIZE if there is a window.
 *
 * Threads: as virtio_init(). Takes virtio->lock; the back end is called under it.
 */
#ifndef DEVICES_VIRTIO_CONSOLE_H
#define DEVICES_VIRTIO_CONSOLE_H

#include "devices/port.h"
#include "devices/virtio.h"

struct winsize;

#define VIRTIO_CONSOLE_PATIENCE 1

struct virtio_console {
	struct virtio virtio;
	struct port port;         /* of which this is one */
	uint16_t columns, rows;   /* virtio->lock, and the rest too */
	struct virtq_chain input; /* the buffer being filled */
	struct virtq_chain output;
	uint64_t sent;             /* bytes of it that the back end has, or that were dropped */
	bool sending;              /* `output` has more of them */
	bool waits;                /* for the back end; the timer runs */
	bool drops;                /* what the back end does not take at once */
	struct event_source timer; /* fd owned: patience */
};

/*
 * `backend` is copied; `window` NULL: there is none. Errors as virtio_init(), and timerfd's. On
 * failure nothing is left behind.
 */
must_check int virtio_console_init(struct virtio_console *console, struct memory_map *map,
				   struct event_loop *loop, const struct port_backend *backend,
				   const struct winsize *window);
/* Output that waits is dropped. Accepts a zeroed object. */
void virtio_console_finish(struct virtio_console *console);

/* The window has this size now; without F_SIZE nobody is told. */
void virtio_console_resize(struct virtio_console *console, const struct winsize *window);

#endif /* DEVICES_VIRTIO_CONSOLE_H */
