/* SPDX-License-Identifier: MIT */
#include "vmm/attach.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/fd.h"
#include "base/log.h"
#include "base/trace.h"

#include "vmm/machine.h"

#define ASK_AGAIN_SECONDS 10u
#define STEP (64ull << 20) /* made present before others have the event loop */

static unsigned int slot_of(const struct attached *d)
{
	return d->pci->pci.devfn >> 3;
}

static void tell_of_device(const struct attached *d, const char *event)
{
	figures_event(&d->machine->figures, event,
		      json_pack("{s:s}", "device", d->pci->device.name));
}

/* Asking the guest */

/* Each second, or not at all. */
static void set_timer(struct attach *attach)
{
	bool waiting = attach->reminders > 0;

	for (unsigned int i = 0; i < ATTACH_MAX_DEVICES; i++)
		waiting = waiting || attach->devices[i].seconds_left > 0;
	uint64_t interval = waiting ? EVENT_SECOND : 0;
	event_timer_set(&attach->timer, interval, interval);
}

/* The guest has been told of something. */
static void begin_reminders(struct attach *attach)
{
	attach->reminders = ATTACH_EJECT_SECONDS;
	set_timer(attach);
}

static void ask_guest(struct attached *d)
{
	TRACE(attach_ask, slot_of(d), 0);
	d->seconds_left = ATTACH_EJECT_SECONDS;
	hotplug_ask_eject(&d->machine->hotplug, slot_of(d));
	begin_reminders(&d->machine->attach);
}

/* Of one that the host wants back the kernel reminds us all the time: people are told once. */
static void tell_timeout(struct attached *d)
{
	if (!d->wanted_back)
		log_warn(
			"vfio: the guest has not let go of %s within %u s: it stays; ask again, "
			"or take it by force",
			d->pci->device.name, ATTACH_EJECT_SECONDS);
	tell_of_device(d, "detach-timeout");
	qmp_event_device(&d->machine->qmp, "DEVICE_UNPLUG_GUEST_ERROR", d->id,
			 d->pci->device.name);
}

/* A second has passed. */
static void await_guest(struct attached *d)
{
	if (--d->seconds_left == 0)
		tell_timeout(d);
	else if (d->seconds_left % ASK_AGAIN_SECONDS == 0)
		hotplug_ask_eject(&d->machine->hotplug, slot_of(d));
}

static void timer_ready(struct event_source *source, uint32_t events)
{
	struct attach *attach = container_of(source, struct attach, timer);

	(void)events;
	if (!eventfd_take(source->fd)) /* the same eight bytes */
		return;
	for (unsigned int i = 0; i < ATTACH_MAX_DEVICES; i++) {
		if (attach->devices[i].seconds_left > 0)
			await_guest(&attach->devices[i]);
	}
	if (attach->reminders > 0)
		attach->reminders =
			hotplug_remind(&attach->machine->hotplug) ? attach->reminders - 1 : 0;
	set_timer(attach);
}

/* Detaching */

/* Both, or one, or none was listened to. */
static void ignore(struct attached *d)
{
	event_loop_remove(&d->machine->loop, &d->err);
	event_loop_remove(&d->machine->loop, &d->req);
	d->err.fd = d->req.fd = -1;
}

static void take_out(struct attached *d)
{
	struct machine *m = d->machine;
	uint32_t slot = 1u << slot_of(d);
	char name[VFIO_NAME_SIZE]; /* which goes with the device */

	TRACE(attach_take_out, slot_of(d), 0);
	ignore(d);
	hotplug_set_removable(&m->hotplug, slot_of(d), false);
	/* It may have been told already, and whoever comes into the slot has not been let go. */
	__atomic_and_fetch(&m->attach.ejected, ~slot, __ATOMIC_SEQ_CST);
	log_info("vfio: %s is taken from the guest", d->pci->device.name);
	tell_of_device(d, "detached");
	memcpy(name, d->pci->device.name, sizeof(name));
	vfio_pci_detach(d->pci);
	d->pci = NULL;
	d->seconds_left = 0;
	set_timer(&m->attach);
	qmp_event_device(&m->qmp, "DEVICE_DELETED", d->id, name);
}

/* So that the guest drops what it has of it, it is told. */
static void take_by_force(struct attached *d)
{
	unsigned int slot = slot_of(d);

	take_out(d);
	hotplug_ask_eject(&d->machine->hotplug, slot);
	begin_reminders(&d->machine->attach);
}

/* What the kernel says of a device */

static void err_ready(struct event_source *source, uint32_t events)
{
	struct attached *d = container_of(source, struct attached, err);
	bool stops = d->on_error == DEVICE_ERROR_STOPS;

	(void)events;
	if (!eventfd_take(source->fd))
		return;
	(void)log_err(0, "vfio: %s reports an error it does not recover from: %s",
		      d->pci->device.name,
		      stops ? "stopping the guest" : "taking it from the guest");
	tell_of_device(d, "device-error");
	if (stops)
		machine_fail(d->machine);
	else
		take_by_force(d);
}

/* The kernel repeats itself until the device is given back; once is enough for people. */
static void req_ready(struct event_source *source, uint32_t events)
{
	struct attached *d = container_of(source, struct attached, req);

	(void)events;
	if (!eventfd_take(source->fd) || d->seconds_left > 0)
		return;
	if (!d->wanted_back) {
		log_warn(
			"vfio: the host asks for %s back; it gets it when the guest lets go of "
			"it, which it is asked to",
			d->pci->device.name);
		tell_of_device(d, "device-wanted-back");
	}
	d->wanted_back = true;
	ask_guest(d);
}

static int listen_to(struct attached *d)
{
	struct event_loop *loop = &d->machine->loop;
	int r = 0;

	d->err.fd = d->pci->device.err_fd;
	d->req.fd = d->pci->device.req_fd;
	if (d->err.fd >= 0)
		r = event_loop_add(loop, &d->err, EPOLLIN);
	if (r >= 0 && d->req.fd >= 0)
		r = event_loop_add(loop, &d->req, EPOLLIN);
	return r < 0 ? log_err(r, "event loop") : 0;
}

/* Attaching */

static struct attached *find_device(struct attach *attach, const char *id)
{
	char name[VFIO_NAME_SIZE] = "";

	if (vfio_pci_name(id, name, sizeof(name)) < 0)
		name[0] = '\0'; /* an id that is no name */
	for (unsigned int i = 0; i < ATTACH_MAX_DEVICES; i++) {
		struct attached *d = &attach->devices[i];
		if (d->pci &&
		    (strcmp(d->id, id) == 0 || strcmp(d->pci->device.name, name) == 0))
			return d;
	}
	return NULL;
}

static struct attached *free_place(struct attach *attach)
{
	for (unsigned int i = 0; i < ATTACH_MAX_DEVICES; i++) {
		if (!attach->devices[i].pci)
			return &attach->devices[i];
	}
	return NULL;
}

static int attach_device(struct machine *m, struct attached *d,
			 const struct attach_request *request)
{
	TRACE(attach_device, 0, 0);
	*d = (struct attached){
		.err = { .fd = -1, .ready = err_ready },
		.req = { .fd = -1, .ready = req_ready },
		.machine = m,
		.on_error = request->on_error,
	};
	pci_bus_take_last(&m->pci, hotplug_owed(&m->hotplug));
	int r = request->opened ? vfio_pci_attach_opened(&m->vfio, &m->pci, request->opened,
							 request->balloon, &d->pci)
				: vfio_pci_attach(&m->vfio, &m->pci, request->host,
						  request->balloon, &d->pci);
	if (r < 0)
		return r;
	(void)snprintf(d->id, sizeof(d->id), "%s",
		       request->id ? request->id : d->pci->device.name);
	r = listen_to(d);
	if (r >= 0) {
		hotplug_set_removable(&m->hotplug, slot_of(d), true);
		return 0;
	}
	ignore(d);
	vfio_pci_detach(d->pci);
	d->pci = NULL;
	return r;
}

static void tell_attach(struct machine *m, const char *name, int r)
{
	figures_event(
		&m->figures, r < 0 ? "attach-failure" : "attached",
		json_pack("{s:s,s:s}", "device", name, "result", r < 0 ? strerror(-r) : "ok"));
}

int attach_at_start(struct machine *m, const struct attach_request *request)
{
	struct attached *d = free_place(&m->attach);
	int r = -ENOSPC; /* the options do not let it come to that */

	if (d)
		r = attach_device(m, d, request);
	tell_attach(m, request->host, r);
	return r;
}

/* What is known beforehand to stand in the way. */
static int check_request(struct machine *m, const struct attach_request *request)
{
	const char *id = request->id ? request->id : request->host;

	if (!free_place(&m->attach))
		return log_err(-ENOSPC, "vfio: attach %s: %u devices are assigned",
			       request->host, ATTACH_MAX_DEVICES);
	if (find_device(&m->attach, request->host))
		return log_refuse(-EEXIST, "vfio: attach %s: it is assigned already",
				  request->host);
	if (find_device(&m->attach, id) || strlen(id) >= ATTACH_ID_SIZE)
		return log_refuse(-EEXIST,
				  "vfio: attach %s: the id '%.64s' is taken, or too long",
				  request->host, id);
	if (!request->opened && m->sandbox.config.mode == SANDBOX_ON)
		return log_refuse(-EPERM,
				  "vfio: attach %s: the sandbox opens nothing: use ballast ctl "
				  "attach, which does, or run with --sandbox off",
				  request->host);
	return 0;
}

/* Will it have all of RAM pinned for good? */
static bool inhibits(const struct machine *m, const struct attach_request *request)
{
	return request->balloon == VFIO_BALLOON_INHIBITS &&
	       (!m->vfio.config.coordinate || m->vfio.inhibiting);
}

/*
 * As at the start: the kernel would not refuse it, but kill us, or another, half-way. What the balloon
 * gave to the host comes back, unless there is to be no inhibitor. Hugetlb's pool is not told of here.
 */
static int check_memory(struct machine *m, const struct attach_job *job)
{
	struct host_memory host;
	uint64_t needed = m->config.memory;

	host_memory_look(&m->host_memory, &host);
	if (!inhibits(m, &job->request))
		needed -= reclaim_staying(&m->reclaim);
	needed -= host.resident < needed ? host.resident : needed;
	if (needed <= host.spare || m->config.backing == RAM_HUGETLB ||
	    job->request.balloon == VFIO_BALLOON_ALLOWED)
		return 0;
	return log_refuse(
		-ENOMEM,
		"vfio: attach %s: %" PRIu64
		" MiB more have to be pinned for it, and %s has %" PRIu64
		" MiB to spare: end something else there, or start the guest with the "
		"policy coordinated and have its balloon take more",
		job->request.host, needed >> 20, host.owner, host.spare >> 20);
}

static uint64_t reclaimed(struct machine *m)
{
	struct reclaim_figures figures;

	reclaim_figures(&m->reclaim, &figures);
	return figures.reclaimed;
}

/*
 * What is to be pinned is made present before, with turns for others in between; not for a device
 * whose container sleeps until it is used.
 */
static bool has_to_be_present(struct machine *m, const struct attach_job *job)
{
	uint64_t pinned = vfio_pinned(&m->vfio);

	if (job->request.balloon != VFIO_BALLOON_INHIBITS)
		return false;
	if (inhibits(m, &job->request))
		return pinned < m->config.memory;
	return !m->vfio.config.map_late &&
	       pinned < m->config.memory - reclaim_staying(&m->reclaim);
}

static int attach_now(struct machine *m, struct attach_job *job)
{
	struct attached *d = free_place(&m->attach);

	int r = attach_device(m, d, &job->request);
	if (r >= 0) {
		hotplug_announce(&m->hotplug, slot_of(d));
		begin_reminders(&m->attach);
	}
	return r;
}

/* Its RAM is present, as far as it has to be; or something stands in the way: r < 0. */
static void end_job(struct machine *m, int r)
{
	struct attach_job job = m->attach.job;

	m->attach.job = (struct attach_job){ 0 };
	if (r < 0) {
		(void)log_err(0, "%s", job.result.reason);
		/* Some of it may have been made present for nothing. */
		reclaim_discard_held(&m->reclaim);
	}
	tell_attach(m, job.request.host, r);
	uint64_t now = reclaimed(m);
	job.result.r = r;
	job.result.back = r >= 0 && now < job.reclaimed ? job.reclaimed - now : 0;
	if (job.result.back)
		log_info("vfio: %s: %" PRIu64
			 " MiB that the balloon had given to the host came "
			 "back",
			 job.request.host, job.result.back >> 20);
	job.ended(job.opaque, &job.result);
	fd_close(&job.opened.group_fd);
	fd_close(&job.opened.container_fd);
	free(job.host);
	free(job.id);
}

/* Its own inhibitor is raised by now, if it has one. */
static void attach_and_end(struct machine *m)
{
	struct attach_job *job = &m->attach.job;

	/* What the balloon did meanwhile is not the device's doing. */
	if (!list_linked(&job->inhibitor.link))
		job->reclaimed = reclaimed(m) + job->lost;
	log_capture(job->result.reason, sizeof(job->result.reason));
	int r = attach_now(m, job);
	log_capture(NULL, 0);
	inhibitor_lower(&m->reclaim, &job->inhibitor);
	end_job(m, r);
}

/* From the beginning, by the policy that there is now. */
static void begin_steps(struct machine *m)
{
	struct attach_job *job = &m->attach.job;

	log_capture(job->result.reason, sizeof(job->result.reason));
	int r = check_memory(m, job);
	log_capture(NULL, 0);
	if (r < 0) {
		end_job(m, r);
	} else if (has_to_be_present(m, job)) {
		if (inhibits(m, &job->request))
			inhibitor_raise(&m->reclaim, &job->inhibitor, "a device on its way");
		job->present = 0;
		eventfd_signal(m->attach.step.fd);
	} else {
		attach_and_end(m);
	}
}

/*
 * What the balloon gave to the host stays there, unless the inhibitor had that forgotten; what other
 * devices have let go of comes back when they pin it again.
 */
static int make_present(struct machine *m, struct attach_job *job)
{
	uint64_t left = m->config.memory - job->present;
	uint64_t size = left < STEP ? left : STEP;
	uint64_t at = job->present;

	job->present += size;
	return reclaim_populate_live(&m->reclaim, at, size, &job->lost);
}

static void step_ready(struct event_source *source, uint32_t events)
{
	struct attach *attach = container_of(source, struct attach, step);
	struct machine *m = attach->machine;
	struct attach_job *job = &attach->job;

	(void)events;
	if (!eventfd_take(source->fd) || !job->ended)
		return;
	/* The policy may have been switched since: it needs more now, or less. */
	if (inhibits(m, &job->request) != list_linked(&job->inhibitor.link)) {
		inhibitor_lower(&m->reclaim, &job->inhibitor);
		begin_steps(m);
		return;
	}
	int r = make_present(m, job);
	if (r < 0) {
		inhibitor_lower(&m->reclaim, &job->inhibitor);
		(void)snprintf(
			job->result.reason, sizeof(job->result.reason),
			"vfio: attach %s: the host has no memory for what is to be pinned: %s",
			job->request.host, strerror(-r));
		end_job(m, r);
	} else if (job->present < m->config.memory) {
		eventfd_signal(source->fd);
	} else {
		attach_and_end(m);
	}
}

/* A copy that outlives the request. */
static int take_request(struct attach_job *job, const struct attach_request *request)
{
	job->request = *request;
	if (request->opened) {
		job->opened = *request->opened;
		request->opened->group_fd = request->opened->container_fd = -1;
		job->request.opened = &job->opened;
	}
	job->host = strdup(request->host);
	job->id = request->id ? strdup(request->id) : NULL;
	if (!job->host || (request->id && !job->id))
		return log_err(-ENOMEM, "vfio: attach %s", request->host);
	job->request.host = job->host;
	job->request.id = job->id;
	return 0;
}

/* One that ends at once, since there is another. */
static void refuse(const struct attach_request *request, attach_ended *ended, void *opaque)
{
	struct attach_result result = { .r = -EBUSY };

	(void)snprintf(result.reason, sizeof(result.reason),
		       "vfio: attach %s: another device is on its way: try again",
		       request->host);
	(void)log_err(0, "%s", result.reason);
	if (request->opened) {
		fd_close(&request->opened->group_fd);
		fd_close(&request->opened->container_fd);
	}
	ended(opaque, &result);
}

void attach_add(struct machine *m, const struct attach_request *request, attach_ended *ended,
		void *opaque)
{
	struct attach_job *job = &m->attach.job;

	if (job->ended) {
		refuse(request, ended, opaque);
		return;
	}
	*job = (struct attach_job){
		.ended = ended,
		.opaque = opaque,
		.opened = { .group_fd = -1, .container_fd = -1 },
		.reclaimed = reclaimed(m),
	};
	log_capture(job->result.reason, sizeof(job->result.reason));
	int r = take_request(job, request);
	if (r >= 0)
		r = check_request(m, &job->request);
	log_capture(NULL, 0);
	if (r < 0)
		end_job(m, r);
	else
		begin_steps(m);
}

static void tell_nobody(void *opaque, const struct attach_result *result)
{
	(void)opaque;
	(void)result;
}

void attach_forget(struct attach *attach, const void *opaque)
{
	if (attach->job.ended && attach->job.opaque == opaque)
		attach->job.ended = tell_nobody;
}

/* Who asks for a device, or lets go of it */

static void take_out_slots(struct machine *m, uint32_t slots)
{
	for (unsigned int i = 0; i < ATTACH_MAX_DEVICES; i++) {
		struct attached *d = &m->attach.devices[i];
		if (d->pci && slots & 1u << slot_of(d))
			take_out(d);
	}
}

int attach_remove(struct machine *m, const char *id, enum detach_manner manner)
{
	struct attached *d = find_device(&m->attach, id);

	if (!d)
		return -ENODEV;
	if (manner == DETACH_BY_FORCE) {
		take_by_force(d);
		return 0;
	}
	log_info("vfio: the guest is asked to let go of %s", d->pci->device.name);
	tell_of_device(d, "detach-asked");
	ask_guest(d);
	return 0;
}

void attach_ejected(void *opaque, unsigned int slot)
{
	struct machine *m = opaque;

	__atomic_or_fetch(&m->attach.ejected, 1u << slot, __ATOMIC_SEQ_CST);
	eventfd_signal(m->wake.fd);
}

void attach_take_out(struct machine *m)
{
	take_out_slots(m, __atomic_exchange_n(&m->attach.ejected, 0, __ATOMIC_SEQ_CST));
}

void attach_reset(struct machine *m)
{
	uint32_t asked = hotplug_reset(&m->hotplug);

	take_out_slots(m, asked | __atomic_exchange_n(&m->attach.ejected, 0, __ATOMIC_SEQ_CST));
}

const char *attach_id(const struct attach *attach, const struct pci_device *device)
{
	for (unsigned int i = 0; i < ATTACH_MAX_DEVICES; i++) {
		const struct attached *d = &attach->devices[i];
		if (d->pci && &d->pci->pci == device)
			return d->id;
	}
	return NULL;
}

int attach_init(struct attach *attach, struct machine *m)
{
	*attach = (struct attach){
		.machine = m,
		.timer = { .fd = -1, .ready = timer_ready },
		.step = { .fd = -1, .ready = step_ready },
	};
	int r = event_timer_open(&attach->timer, &m->loop, 0, 0);
	if (r >= 0)
		r = event_source_open(&attach->step, &m->loop);
	return r < 0 ? log_err(r, "event loop") : 0;
}

static void drop_job(struct attach *attach)
{
	struct attach_job *job = &attach->job;

	if (!job->ended)
		return;
	inhibitor_lower(&attach->machine->reclaim, &job->inhibitor);
	fd_close(&job->opened.group_fd);
	fd_close(&job->opened.container_fd);
	free(job->host);
	free(job->id);
}

void attach_finish(struct attach *attach)
{
	if (!attach->machine)
		return;
	drop_job(attach);
	for (unsigned int i = ATTACH_MAX_DEVICES; i-- > 0;) {
		struct attached *d = &attach->devices[i];
		if (!d->pci)
			continue;
		ignore(d);
		vfio_pci_detach(d->pci);
	}
	event_source_close(&attach->step, &attach->machine->loop);
	event_source_close(&attach->timer, &attach->machine->loop);
	*attach = (struct attach){ 0 };
}
