/* SPDX-License-Identifier: MIT */
/*
 * qmp.h - the control socket: JSON in QEMU's Machine Protocol, so that its tools serve.
 *
 * A UNIX stream socket. A client is greeted, says qmp_capabilities, and then sends one JSON
 * object a command: {"execute": NAME, "arguments": {...}, "id": ANY}; the id comes back with
 * the answer. Errors have a class (CommandNotFound, GenericError; DeviceNotActive: there is no
 * balloon, or no driver for it;
 * DeviceNotFound) and a description. A command is complete with its last brace,
 * since QEMU's own clients send no newline after it; a newline within one is an error, and
 * where both sides agree again after anything wrong.
 *
 *	query-version, query-commands, query-status
 *	balloon {"value": BYTES}     the guest is to keep that much of its RAM
 *	query-balloon                what it says it has
 *	set_link {"name": "net0", "up": true or false}   a network card's cable
 *	system_powerdown, quit
 *	x-ballast-query-memory       target, held, reclaimed, held back and by whom, pinned,
 *	                             discards by policy: what the host really gained
 *	x-ballast-query-guest-stats  what the guest reported last
 *	x-ballast-request-guest-stats  asks it to report again
 *	x-ballast-set-stats-period {"seconds": N}
 *	x-ballast-set-policy {"policy": "inhibit" or "coordinated"}
 *	x-ballast-set-auto {"enabled": true or false}
 *
 * Events, for clients that have said qmp_capabilities: X_BALLAST_MEMORY_WAITS, the host has no
 * memory for what the balloon has to give back (it is retried), and X_BALLAST_MEMORY_SERVED.
 *
 * `balloon` answers with {} as QEMU does, and with a member "x-ballast" in which the host is
 * told who keeps it from gaining anything, if somebody does.
 *
 * Up to QMP_MAX_CLIENTS clients at a time. One that sends a line of more than QMP_MAX_LINE
 * bytes, or does not read its answers until more than QMP_MAX_OUTPUT wait, is dropped. Nobody
 * waits for a client.
 *
 * Threads: everything on the event loop.
 */
#ifndef VMM_QMP_H
#define VMM_QMP_H

#include <sys/types.h>

#include "base/event_loop.h"
#include "base/list.h"

struct machine;

#define QMP_MAX_CLIENTS 8u
#define QMP_MAX_LINE 65536u
#define QMP_MAX_OUTPUT (1u << 20)

struct qmp {
	struct event_loop *loop;      /* borrowed; NULL: not initialised */
	struct machine *machine;      /* borrowed, outlives this */
	const char *path;             /* borrowed; what finish removes; NULL: nothing */
	dev_t device;                 /* of the socket, with */
	ino_t inode;                  /* which finish knows it again */
	struct event_source listener; /* fd owned */
	struct list_node clients;
	unsigned int nr_clients;
};

/*
 * Listens at `path`, which only its owner may connect to (mode 0600). A socket that nobody
 * listens at any more is replaced. -EADDRINUSE: somebody does. -EEXIST: it is no socket.
 * -ENAMETOOLONG. Others from the kernel. Logged. On failure nothing is left behind.
 */
must_check int qmp_init(struct qmp *qmp, struct event_loop *loop, const char *path,
			struct machine *machine);
/* Drops the clients and removes the socket. Accepts a zeroed object. */
void qmp_finish(struct qmp *qmp);

/* Tells every client of an event. Does nothing on a zeroed object. */
void qmp_event(struct qmp *qmp, const char *name);

#endif /* VMM_QMP_H */
