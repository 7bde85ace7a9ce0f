/* SPDX-License-Identifier: MIT */
/*
 * serial.h - a 16550A UART. National Semiconductor PC16550D data sheet.
 *
 * Output goes to the port's back end; what that leaves waits here, and the guest sees a
 * transmitter that is busy (LSR) until there is room again. Of input there is never more than
 * fits: an overrun is for a guest that loops back its own.
 *
 * Threads: any. Takes serial->lock; transmit is called under it.
 */
#ifndef DEVICES_SERIAL_H
#define DEVICES_SERIAL_H

#include <pthread.h>

#include "devices/io_bus.h"
#include "devices/irq.h"
#include "devices/port.h"

#define SERIAL_FIFO_SIZE 16u

struct serial {
	pthread_mutex_t lock;
	struct io_bus *pio; /* borrowed; NULL: not initialised */
	struct io_region ports;
	struct irq irq;
	struct port port; /* of which this is one */
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
			   uint16_t base, uint32_t gsi, const struct port_backend *backend);
/* Waiting output is given to the backend once more, then dropped. Accepts a zeroed object. */
void serial_finish(struct serial *serial);
/* Power-on state; waiting output is given to the backend once more, then dropped. */
void serial_reset(struct serial *serial);

#endif /* DEVICES_SERIAL_H */
