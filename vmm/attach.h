/* SPDX-License-Identifier: MIT */
/*
 * attach.h - assigned devices come and go: at the start, and while the guest runs.
 *
 * Attaching is way D (vfio/group.h), then the guest is told by ACPI (devices/hotplug.h). Detaching
 * is the guest's: it is asked, lets go of the slot, and only then the device is taken out: off
 * the bus, interrupts and DMA off, closed, unmapped; after the last unpin the inhibitor is lowered,
 * and what the balloon holds is discarded. On failure, and after a detach, all is as before.
 *
 * Concepts
 *  - id: what a device is called here: the name of its kind in /sys, unless somebody gave another.
 *  - leaving: the guest has been asked, is asked again, and has ATTACH_EJECT_SECONDS. If they pass
 *    the device stays, which is told; asking may be repeated, and who does not want to wait takes it
 *    by force. The guest's own reset lets go of it, too. A guest may let go without having been
 *    asked.
 *  - a slot that the guest still owes: it was asked for it and has not let go, though the device is
 *    gone, by force or since it was asked twice. It would let go of what has come there since: such
 *    a slot is taken again only once it has, or has reset, or if no other is free. (What it lets go
 *    of by itself meanwhile counts as its answer.)
 *  - wanted back: somebody unbinds the device on the host: the guest is asked, again and again.
 *  - on its way: a device that will have RAM pinned that nobody has now. First what it will have
 *    pinned is made present, a piece at a time, so that the event loop serves others in between;
 *    pinning is quick then. All of RAM, under an inhibitor (the balloon inflates, and deflates, as
 *    the guest likes, and the host gains nothing); or, with the policy coordinated, what is live,
 *    and the balloon goes on: what it makes live meanwhile is made present as it is pinned. If the
 *    policy is switched meanwhile, to inhibit, all begins anew, with a look at the host's memory.
 *    Of a container that sleeps until a device is used (initial=) nothing is made present.
 *
 * Threads: the event loop's. vCPUs run on; one that wants a BAR mapped while RAM is pinned or unpinned
 * waits for that (memory_map.change_lock).
 */
#ifndef VMM_ATTACH_H
#define VMM_ATTACH_H

#include <stdbool.h>
#include <stdint.h>

#include "base/event_loop.h"

#include "vfio/vfio_pci.h"

struct machine;

#define ATTACH_MAX_DEVICES 31u
#define ATTACH_ID_SIZE 64u
#define ATTACH_EJECT_SECONDS 30u

/* What becomes of a guest whose device reports an error that it does not recover from. */
enum device_error { DEVICE_ERROR_STOPS, DEVICE_ERROR_DETACHES };

/* An assigned device and the two fds the event loop watches for it. */
struct attached {
	struct vfio_pci *pci; /* owned; NULL: this place is free */
	char id[ATTACH_ID_SIZE];
	enum device_error on_error;
	struct event_source err;
	struct event_source req;
	struct machine *machine;
	unsigned int seconds_left; /* for the guest to let go of it; 0: it is not leaving */
	bool wanted_back;
};

struct attach_request {
	const char *host;           /* as vfio_pci_attach() takes it */
	const char *id;             /* NULL: its name */
	enum vfio_balloon balloon;  /* as vfio_pci_attach() takes it */
	struct vfio_opened *opened; /* what somebody has opened for us; NULL: we do */
	enum device_error on_error;
};

struct attach_result {
	/*
	 * -EBUSY: another device is on its way. -EEXIST: the id is taken, or the device is. -ENOSPC: no
	 * slot is free. -EPERM: the sandbox keeps us from opening it. Or as vfio_pci_attach().
	 */
	int r;
	uint64_t back;    /* bytes of the balloon's that the host has no more by it */
	char reason[512]; /* with r < 0: what the log says */
};

typedef void attach_ended(void *opaque, const struct attach_result *result);

/* A device on its way. */
struct attach_job {
	attach_ended *ended; /* NULL: there is none */
	void *opaque;
	struct attach_request request; /* `opened` is the one below, or NULL */
	char *host;                    /* owned; of the request */
	char *id;                      /* owned; likewise, or NULL */
	struct vfio_opened opened;     /* fds owned */
	struct inhibitor inhibitor;    /* while RAM is made present */
	uint64_t present;              /* so many bytes of RAM are */
	struct attach_result result;
	uint64_t reclaimed; /* when it set out, or as if it had only now */
	uint64_t lost;      /* bytes of it that are present by now */
};

struct attach {
	struct machine *machine; /* borrowed; NULL: not initialised */
	struct attached devices[ATTACH_MAX_DEVICES];
	struct event_source timer; /* fd owned; each second while the guest is waited for */
	struct event_source step;  /* fd owned; while there is more to do for the job */
	struct attach_job job;
	unsigned int
		reminders; /* so many seconds more the guest is reminded of what it has not read */
	uint32_t ejected; /* atomic; slots: a vCPU tells the event loop */
};

/* -errno of timerfd_create, eventfd and epoll; logged. */
must_check int attach_init(struct attach *attach, struct machine *machine);
/* Detaches all; of one on its way nobody is told any more. Accepts a zeroed object. vCPUs parked. */
void attach_finish(struct attach *attach);

/* Before the guest runs. The errors of vfio_pci_attach(); logged. */
must_check int attach_at_start(struct machine *machine, const struct attach_request *request);
/*
 * Attaches one more, and calls `ended` once: before this returns, or later. Takes the fds of
 * request->opened, all else is borrowed while this runs. A failure is logged.
 */
void attach_add(struct machine *machine, const struct attach_request *request,
		attach_ended *ended, void *opaque);

/* Who asked for it is gone: of the one on its way nobody is told, if this is its `opaque`. */
void attach_forget(struct attach *attach, const void *opaque);

enum detach_manner { DETACH_ASKS, DETACH_BY_FORCE };
/*
 * Asks the guest to let go of a device, by its id or any name of vfio_pci_name(); or takes it, which
 * is done when this returns. -ENODEV: there is none; not logged.
 */
must_check int attach_remove(struct machine *machine, const char *id,
			     enum detach_manner manner);

/* What the id of this device is; NULL: it is none of ours. */
const char *attach_id(const struct attach *attach, const struct pci_device *device);

/* Of a vCPU: hotplug_handler.ejected. */
void attach_ejected(void *machine, unsigned int slot);
/* Takes out what the guest has let go of. */
void attach_take_out(struct machine *machine);
/* The guest resets: what it was asked for is taken out. vCPUs parked. */
void attach_reset(struct machine *machine);

#endif /* VMM_ATTACH_H */
