/* SPDX-License-Identifier: MIT */
/*
 * serial.h - a 16550A UART. National Semiconductor PC16550D data sheet.
 *
 * Output goes to whoever filled `transmit`, which takes what it can without blocking; what it
 * leaves waits here, and the guest sees a transmitter that is busy (LSR) until
 * serial_transmit_ready(). Input is handed in by serial_receive().
 *
 * Threads: any. Takes serial->lock; transmit is called under it and must not call back.
 */
#ifndef DEVICES_SERIAL_H
#define DEVICES_SERIAL_H

#include <pthread.h>

#include "devices/io_bus.h"
#include "devices/irq.h"

#define SERIAL_FIFO_SIZE 16u

struct serial_backend {
	/* Sends up to `size` bytes, returns how many it took. */
	size_t (*transmit)(void *opaque, const uint8_t *bytes, size_t size);
	/* The guest has made room for input. */
	void (*receive_ready)(void *opaque);
	void *opaque;
};

struct serial {
	pthread_mutex_t lock;
	struct io_bus *pio; /* borrowed; NULL: not initialised */
	struct io_region ports;
	struct irq irq;
	struct serial_backend backend;
	bool irq_asserted;
	bool thre_pending; /* the transmitter became empty and was not asked about since */
	bool rx_overrun;
	uint8_t ier, lcr, mcr, fcr, scr, dll, dlm;
	uint8_t rx[SERIAL_FIFO_SIZE];
	unsigned int rx_count;
	uint8_t tx[SERIAL_FIFO_SIZE];
	unsigned int tx_count;
};

/*
 * Eight ports at `base` on `pio`, interrupt `gsi` (edge-triggered, as on ISA).
 * -EEXIST: the ports are taken. On failure nothing is left behind.
 */
must_check int serial_init(struct serial *serial, struct io_bus *pio, struct wires *wires,
			   uint16_t base, uint32_t gsi, const struct serial_backend *backend);
/* Waiting output is given to the backend once more, then dropped. Accepts a zeroed object. */
void serial_finish(struct serial *serial);
/* Power-on state; waiting output is given to the backend once more, then dropped. */
void serial_reset(struct serial *serial);

/* How many bytes serial_receive() would take now. */
size_t serial_room(struct serial *serial);
/* Input for the guest; more than serial_room() is an overrun, lost. */
void serial_receive(struct serial *serial, const uint8_t *bytes, size_t size);
/* The backend can take output again. */
void serial_transmit_ready(struct serial *serial);

#endif /* DEVICES_SERIAL_H */
