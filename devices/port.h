/* SPDX-License-Identifier: MIT */
/*
 * port.h - where bytes go in and out of the guest one after the other: a serial port, a virtio
 * console; and what is at the other end of it, its back end.
 *
 * Both directions are alike: who has bytes hands them over, the other takes what it has room
 * for, without blocking, and says when there is room for more.
 *
 * Threads: any; each port says which lock of its own it holds when it calls its back end, which
 * therefore must not call back from there.
 */
#ifndef DEVICES_PORT_H
#define DEVICES_PORT_H

#include <stddef.h>
#include <stdint.h>

struct port;

/* The other end's, called by the port. */
struct port_backend {
	/* Output: sends up to `size` bytes, returns how many it took. */
	size_t (*transmit)(void *opaque, const uint8_t *bytes, size_t size);
	/* The guest has made room for input. */
	void (*receive_ready)(void *opaque);
	void *opaque;
};

/* The port's, called by its back end. */
struct port_ops {
	/* Input for the guest: returns how many of the bytes it had room for. */
	size_t (*receive)(struct port *port, const uint8_t *bytes, size_t size);
	/* The back end can take output again. */
	void (*transmit_ready)(struct port *port);
};

/* Embedded in what it is a port of. */
struct port {
	const struct port_ops *ops;
	struct port_backend backend;
};

#endif /* DEVICES_PORT_H */
