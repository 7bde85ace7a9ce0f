/* SPDX-License-Identifier: MIT */
/*
 * figures.h - what a run is like, for programs: an event log, metrics, and how long a boot takes.
 *
 * Concepts
 *  - event log: --events FILE, appended to: one JSON object a line, with "event" (its name),
 *    "monotonic-us" (CLOCK_MONOTONIC) and "time-us" (since 1970). The file may be a pipe: what a
 *    slow reader leaves no room for is lost, and the next line that fits says how many were
 *    ("lost"). Of a full disk half a line may be left; the next event begins a line all the same.
 *    Of resets the first LOG_GUEST_BURST are told; the last of these says so ("last-told").
 *  - metrics: --metrics FILE, Prometheus text, written anew every FIGURES_SECONDS and at the end.
 *    It is written beside, FILE.new, and renamed, so that who reads it has all of one moment. What
 *    is there already, of either name, is replaced if it is a regular file.
 *  - phases: where the time from the program's start to the guest's init goes. The program's start
 *    is known to 1/100 s (/proc/self/stat). Of the guest only what it prints is seen: its first
 *    output, and the kernel's "Run /init as init process" on either console. With `quiet`, or no
 *    console, the latter does not come, and the phase stays open.
 *
 * Threads: init, tick and finish on the event loop's; the others any.
 */
#ifndef VMM_FIGURES_H
#define VMM_FIGURES_H

#include <fcntl.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/event_loop.h"

#include "devices/port.h"
#include "memory/reclaim.h"

#define FIGURES_SECONDS 5u
#define FIGURES_MAX_PORTS 2u
/* How a file of metrics is opened, each time: a new one, or not at all. */
#define FIGURES_OPEN_FLAGS (O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC)
#define FIGURES_LINE_SIZE 128u

struct machine;

/* Each ends where the next begins. */
enum figures_phase {
	PHASE_PROCESS,    /* exec, loader, options */
	PHASE_KVM,        /* a VM of KVM's */
	PHASE_RAM,        /* guest RAM */
	PHASE_KERNEL,     /* kernel and initrd copied there */
	PHASE_PROCESSORS, /* and the platform's devices */
	PHASE_PINNING,    /* devices attached: all of RAM pinned, unless coordinated */
	PHASE_DEVICES,    /* virtio, control socket, consoles */
	PHASE_ENTRY,      /* until the first vCPU enters the guest */
	PHASE_OUTPUT,     /* the guest's: until it first prints something */
	PHASE_INIT,       /* until its kernel starts init */
};
#define FIGURES_NR_PHASES 10u

/* A console's port that is listened to. */
struct figures_port {
	struct figures *figures;
	struct port_backend backend; /* what it is a port of */
	char line[FIGURES_LINE_SIZE];
	size_t used;
};

struct figures {
	struct machine *machine;  /* borrowed; NULL: nobody wants to know, or not initialised */
	int events_fd;            /* owned; -1 */
	unsigned int nr_lost;     /* atomic: events there was no room for */
	bool half_line;           /* atomic: the last line has no end */
	const char *metrics;      /* borrowed; NULL: none */
	int metrics_folder;       /* owned; where it is, opened before the sandbox; -1 */
	const char *metrics_name; /* borrowed; its name there */
	struct event_source timer; /* fd owned; -1 */
	unsigned int ticks;
	bool write_failed;                /* and that was told */
	uint64_t actual;                  /* the balloon, as the last event had it */
	uint64_t began;                   /* the program's start; CLOCK_MONOTONIC, in us */
	uint64_t ends[FIGURES_NR_PHASES]; /* atomic; 0: not yet */
	bool phases_told;
	struct reclaim_watcher watcher;
	struct figures_port ports[FIGURES_MAX_PORTS];
	unsigned int nr_ports;
};

/*
 * Opens what the machine's configuration names; its event loop and reclaim are there. The errno
 * of open, timerfd and so on; -ENXIO: a pipe that nobody reads; -EINVAL: metrics would replace
 * what is no regular file. Logged. On failure nothing is left behind.
 */
must_check int figures_init(struct figures *figures, struct machine *machine);
/* The last event, "exit", with the status. Accepts a zeroed object, like all below. */
void figures_finish(struct figures *figures, int status);

/* A phase is through. Each time but the first is ignored. */
void figures_mark(struct figures *figures, enum figures_phase phase);
/* Something happened. `more` is an object with what there is to say of it, taken; or NULL. */
void figures_event(struct figures *figures, const char *name, json_t *more);
/* The guest runs no more, the devices are still there: phases are told, metrics are written. */
void figures_end(struct figures *figures);

/* Puts itself between a console's port and its back end. */
struct port_backend figures_listen(struct figures *figures, struct port_backend backend);

#endif /* VMM_FIGURES_H */
