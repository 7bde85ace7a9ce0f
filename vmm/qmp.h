/* SPDX-License-Identifier: MIT */
/*
 * qmp.h - the control socket: JSON in QEMU's Machine Protocol, so that its tools serve. Commands
 * and events: ballast(1).
 *
 * A UNIX stream socket. A client is greeted, says qmp_capabilities, and then sends one JSON
 * object a command: {"execute": NAME, "arguments": {...}, "id": ANY}; the id comes back with
 * the answer. Errors have a class (CommandNotFound, GenericError, DeviceNotActive,
 * DeviceNotFound) and a description. A command is complete with its last brace, since QEMU's own
 * clients send no newline after it; a newline within one is an error, and where both sides agree
 * again after anything wrong. Who has said qmp_capabilities is told of events, too.
 *
 * In the sandbox nothing can be opened here, so that device_add comes with what it takes
 * (SCM_RIGHTS): /dev/vfio/N of the device's group, then /dev/vfio/vfio; and N is in its arguments.
 * If the group is attached already, nothing need come. Fds belong to the device_add whose bytes,
 * one of them at least, they come with; more than two, and all that come with anything else, are
 * closed.
 *
 * Up to QMP_MAX_CLIENTS clients at a time. One that sends a line of more than QMP_MAX_LINE
 * bytes, or does not read its answers until more than QMP_MAX_OUTPUT wait, is dropped. Nobody
 * waits for a client.
 *
 * Threads: everything on the event loop.
 */
#ifndef VMM_QMP_H
#define VMM_QMP_H

#include "base/event_loop.h"
#include "base/list.h"

#include "vmm/local_socket.h"

struct client;
struct machine;

#define QMP_MAX_CLIENTS 8u
#define QMP_MAX_LINE 65536u
#define QMP_MAX_OUTPUT (1u << 20)

struct qmp {
	struct event_loop *loop; /* borrowed; NULL: not initialised */
	struct machine *machine; /* borrowed, outlives this */
	struct local_socket socket;
	struct event_source listener; /* its fd; -1 */
	struct list_node clients;
	unsigned int nr_clients;
	struct client *busy; /* whose command runs; NULL */
	struct event_source
		balloon_timer; /* fd owned; runs for a second after a BALLOON_CHANGE */
	bool balloon_rests;    /* it runs; what changes meanwhile the machine remembers */
};

/*
 * Listens at `path`, which only its owner may connect to (mode 0600). A socket that nobody
 * listens at any more is replaced. -EADDRINUSE: somebody does. -EEXIST: it is no socket.
 * -EINVAL: the path is too long. Others from the kernel. Logged. On failure nothing is left behind.
 */
must_check int qmp_init(struct qmp *qmp, struct event_loop *loop, const char *path,
			struct machine *machine);
/* Drops the clients and removes the socket. Accepts a zeroed object. */
void qmp_finish(struct qmp *qmp);

/*
 * These tell every client of an event; on a zeroed object they do nothing. `reason` is a
 * ShutdownCause of QEMU's, such as "guest-reset" or "host-signal"; `action` a GuestPanicAction.
 */
void qmp_event(struct qmp *qmp, const char *name);
void qmp_event_reason(struct qmp *qmp, const char *name, const char *reason);
void qmp_event_action(struct qmp *qmp, const char *name, const char *action);
/* `id` is a device's; `host` is what the host calls it, as device_add has it. */
void qmp_event_device(struct qmp *qmp, const char *name, const char *id, const char *host);
/* The guest's balloon may have another size: BALLOON_CHANGE, now or when its second is over. */
void qmp_balloon_changed(struct qmp *qmp);

#endif /* VMM_QMP_H */
