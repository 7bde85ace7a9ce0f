/* SPDX-License-Identifier: MIT */
#include "vmm/figures.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <sys/stat.h>

#include "base/fd.h"
#include "base/log.h"

#include "vmm/machine.h"

static const char *const phase_names[FIGURES_NR_PHASES] = {
	[PHASE_PROCESS] = "process",
	[PHASE_KVM] = "kvm",
	[PHASE_RAM] = "ram",
	[PHASE_KERNEL] = "kernel-load",
	[PHASE_PROCESSORS] = "processors",
	[PHASE_PINNING] = "pinning",
	[PHASE_DEVICES] = "devices",
	[PHASE_ENTRY] = "first-entry",
	[PHASE_OUTPUT] = "first-output",
	[PHASE_INIT] = "init",
};

static uint64_t now_us(clockid_t clock)
{
	struct timespec t;

	(void)clock_gettime(clock, &t); /* these clocks are always there */
	return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

/* The program's start by CLOCK_MONOTONIC; now, if that cannot be known. */
static uint64_t find_start(void)
{
	uint64_t now = now_us(CLOCK_MONOTONIC);
	uint64_t since_boot = now_us(CLOCK_BOOTTIME);
	unsigned long long ticks;
	char line[1024];

	if (file_read_line("/proc/self/stat", line, sizeof(line)) < 0)
		return now;
	/* proc(5): the name, in brackets, may have any character; starttime is 20 fields on. */
	const char *p = strrchr(line, ')');
	for (unsigned int i = 0; p && i < 20; i++)
		p = strchr(p + 1, ' ');
	if (!p || sscanf(p, "%llu", &ticks) != 1)
		return now;
	uint64_t start = ticks * 1000000 / (uint64_t)sysconf(_SC_CLK_TCK);
	uint64_t age = since_boot > start ? since_boot - start : 0;
	return now > age ? now - age : now;
}

/* Events */

/* One write, so that the lines of several threads do not mix. Whether all of it was. */
static bool write_line(struct figures *f, const char *text)
{
	char line[2048];

	bool half = __atomic_exchange_n(&f->half_line, false, __ATOMIC_RELAXED);
	int size = snprintf(line, sizeof(line), "%s%s\n", half ? "\n" : "", text);
	ssize_t n = size < (int)sizeof(line) ? write(f->events_fd, line, (size_t)size) : -1;
	if (n == size)
		return true;
	if (half || n > 0)
		__atomic_store_n(&f->half_line, true, __ATOMIC_RELAXED);
	return false;
}

void figures_event(struct figures *f, const char *name, json_t *more)
{
	if (!f->machine || f->events_fd < 0) {
		json_decref(more);
		return;
	}
	unsigned int nr_lost = __atomic_exchange_n(&f->nr_lost, 0, __ATOMIC_RELAXED);
	json_t *event = json_pack("{s:s,s:I,s:I}", "event", name, "monotonic-us",
				  (json_int_t)now_us(CLOCK_MONOTONIC), "time-us",
				  (json_int_t)now_us(CLOCK_REALTIME));
	if (more)
		(void)json_object_update(event, more); /* or it says less */
	if (nr_lost > 0)
		(void)json_object_set_new(event, "lost", json_integer(nr_lost));
	autofree char *text = json_dumps(event, JSON_COMPACT);
	if (!text || !write_line(f, text))
		(void)__atomic_fetch_add(&f->nr_lost, nr_lost + 1, __ATOMIC_RELAXED);
	json_decref(event);
	json_decref(more);
}

static void owner_event(void *opaque, const char *name, const char *owner)
{
	figures_event(opaque, name, json_pack("{s:s}", "owner", owner));
}

static void inhibitor_raised(void *opaque, const char *owner)
{
	owner_event(opaque, "inhibitor-raised", owner);
}

static void inhibitor_lowered(void *opaque, const char *owner)
{
	owner_event(opaque, "inhibitor-lowered", owner);
}

/* At most one a second: called by the timer. */
static void look_at_balloon(struct figures *f)
{
	struct virtio_balloon_state state;

	if (!f->machine->config.has_balloon)
		return;
	virtio_balloon_get_state(&f->machine->balloon, &state);
	if (state.actual == f->actual)
		return;
	f->actual = state.actual;
	figures_event(f, "balloon-actual",
		      json_pack("{s:I,s:I}", "bytes", (json_int_t)state.actual, "target",
				(json_int_t)state.target));
}

/* Phases */

/* How long it took; 0: it is not through. */
static uint64_t phase_us(const struct figures *f, unsigned int phase)
{
	uint64_t end = __atomic_load_n(&f->ends[phase], __ATOMIC_RELAXED);
	uint64_t before =
		phase == 0 ? f->began : __atomic_load_n(&f->ends[phase - 1], __ATOMIC_RELAXED);

	return end > before ? end - before : 0;
}

static void tell_phases(struct figures *f)
{
	char text[512] = "";

	if (__atomic_exchange_n(&f->phases_told, true, __ATOMIC_RELAXED))
		return;
	for (unsigned int i = 0; i < FIGURES_NR_PHASES; i++) {
		uint64_t us = phase_us(f, i);
		if (f->ends[i] != 0)
			text_add(text, sizeof(text), "%s%s %" PRIu64 ".%03" PRIu64,
				 text[0] ? ", " : "", phase_names[i], us / 1000, us % 1000);
	}
	log_debug("boot, in ms: %s", text);
}

/* Metrics */

static void metric(FILE *out, const char *name, const char *type, const char *help)
{
	(void)fprintf(out, "# HELP ballast_%s %s\n# TYPE ballast_%s %s\n", name, help, name,
		      type);
}

/* One without labels. */
static void single(FILE *out, const char *name, const char *type, uint64_t value,
		   const char *help)
{
	metric(out, name, type, help);
	(void)fprintf(out, "ballast_%s %" PRIu64 "\n", name, value);
}

/* A label's value: a name that somebody else chose. */
static void put_label(FILE *out, const char *text)
{
	for (; *text; text++) {
		if (*text == '\n')
			(void)fputs("\\n", out);
		else if (*text == '"' || *text == '\\')
			(void)fprintf(out, "\\%c", *text);
		else
			(void)fputc(*text, out);
	}
}

/* One of a family, with a label. */
static void labelled(FILE *out, const char *name, const char *label, const char *text,
		     uint64_t value)
{
	(void)fprintf(out, "ballast_%s{%s=\"", name, label);
	put_label(out, text);
	(void)fprintf(out, "\"} %" PRIu64 "\n", value);
}

static void write_memory(FILE *out, const struct machine_memory *m)
{
	const struct reclaim_figures *r = &m->reclaim;

	single(out, "ram_bytes", "gauge", m->ram, "Memory of the guest.");
	single(out, "pinned_bytes", "gauge", m->pinned, "Of it, pinned for devices.");
	if (m->has_balloon) {
		single(out, "balloon_target_bytes", "gauge", m->balloon.target,
		       "Wanted in the balloon.");
		single(out, "balloon_actual_bytes", "gauge", m->balloon.actual,
		       "In the balloon, as the guest says.");
		single(out, "balloon_held_bytes", "gauge", r->held, "In the balloon.");
		single(out, "balloon_reclaimed_bytes", "gauge", r->reclaimed,
		       "Of what is held, given to the host.");
		single(out, "balloon_held_back_bytes", "gauge", r->held_back,
		       "Of what is held, not given to the host.");
		single(out, "balloon_retries_total", "counter", m->balloon.nr_retries,
		       "Waits for host memory.");
	}
	single(out, "granules_released_total", "counter", r->nr_released,
	       "Granules unmapped for devices.");
	single(out, "granules_restored_total", "counter", r->nr_restored,
	       "Granules mapped again.");
	single(out, "granule_failures_total", "counter",
	       r->nr_not_released + r->nr_not_restored, "Either of them failed.");
	single(out, "inhibitors", "gauge", r->nr_inhibitors, "Inhibitors that are raised.");
	metric(out, "inhibitor", "gauge", "An inhibitor, by owner; of many not all.");
	for (unsigned int i = 0; i < r->nr_owners; i++)
		labelled(out, "inhibitor", "owner", r->owners[i], 1);
	metric(out, "reclaim_policy", "gauge", "1: the policy in force.");
	for (unsigned int i = 0; i < RECLAIM_NR_POLICIES; i++)
		labelled(out, "reclaim_policy", "policy", reclaim_policy_name(i),
			 i == (unsigned int)r->policy);
}

/* What was done under each policy; and for free pages that were reported. */
static void write_reclaim(FILE *out, const struct reclaim_figures *r)
{
	static const struct {
		const char *name, *help;
		size_t offset;
	} families[] = {
		{ "reclaim_taken_bytes_total", "Taken from the guest.",
		  offsetof(struct reclaim_counts, taken) },
		{ "reclaim_discarded_bytes_total", "Discarded.",
		  offsetof(struct reclaim_counts, bytes) },
		{ "reclaim_discards_total", "Calls that discarded.",
		  offsetof(struct reclaim_counts, calls) },
		{ "reclaim_failures_total", "Such calls that failed.",
		  offsetof(struct reclaim_counts, failures) },
	};

	for (unsigned int i = 0; i < nitems(families); i++) {
		metric(out, families[i].name, "counter", families[i].help);
		for (unsigned int p = 0; p <= RECLAIM_NR_POLICIES; p++) {
			const bool reports = p == RECLAIM_NR_POLICIES;
			const void *counts = reports ? &r->reports : &r->policies[p];
			uint64_t n;
			memcpy(&n, (const char *)counts + families[i].offset, sizeof(n));
			labelled(out, families[i].name, "policy",
				 reports ? "reporting" : reclaim_policy_name(p), n);
		}
	}
}

static void write_exits(FILE *out, const struct machine *m)
{
	metric(out, "vcpu_exits_total", "counter", "How often a processor left the guest.");
	for (unsigned int i = 0; i < m->nr_vcpus; i++) {
		for (unsigned int reason = 0; reason < VCPU_NR_EXIT_REASONS; reason++) {
			uint64_t n = vcpu_nr_exits(&m->vcpus[i], reason);
			if (n > 0)
				(void)fprintf(out,
					      "ballast_vcpu_exits_total{cpu=\"%u\",reason=\"%s"
					      "\"} %" PRIu64 "\n",
					      i, vcpu_exit_name(reason), n);
		}
	}
}

static void write_disks(FILE *out, struct machine *m)
{
	static const struct {
		const char *name, *help;
		size_t offset;
	} families[] = {
		{ "disk_reads_total", "Reads.", offsetof(struct virtio_blk_figures, nr_reads) },
		{ "disk_read_bytes_total", "Read.",
		  offsetof(struct virtio_blk_figures, bytes_read) },
		{ "disk_writes_total", "Writes.",
		  offsetof(struct virtio_blk_figures, nr_writes) },
		{ "disk_written_bytes_total", "Written.",
		  offsetof(struct virtio_blk_figures, bytes_written) },
		{ "disk_flushes_total", "Flushes.",
		  offsetof(struct virtio_blk_figures, nr_flushes) },
		{ "disk_discards_total", "Discards.",
		  offsetof(struct virtio_blk_figures, nr_discards) },
		{ "disk_errors_total", "Requests that failed.",
		  offsetof(struct virtio_blk_figures, nr_errors) },
	};
	struct virtio_blk_figures figures[MACHINE_MAX_DISKS];

	for (unsigned int d = 0; d < m->nr_disks; d++)
		virtio_blk_get_figures(&m->disks[d], &figures[d]);
	for (unsigned int i = 0; i < nitems(families) && m->nr_disks > 0; i++) {
		metric(out, families[i].name, "counter", families[i].help);
		for (unsigned int d = 0; d < m->nr_disks; d++) {
			uint64_t n;
			memcpy(&n, (const char *)&figures[d] + families[i].offset, sizeof(n));
			labelled(out, families[i].name, "path", m->disks[d].options.path, n);
		}
	}
}

static void write_nets(FILE *out, struct machine *m)
{
	static const char *const names[] = { "net_sent_frames_total",
					     "net_received_frames_total",
					     "net_dropped_frames_total" };
	static const char *const help[] = { "Frames sent; not those the kernel moved.",
					    "Frames received; likewise.", "Frames dropped." };

	for (unsigned int i = 0; i < nitems(names) && m->nr_nets > 0; i++) {
		metric(out, names[i], "counter", help[i]);
		for (unsigned int card = 0; card < m->nr_nets; card++) {
			struct virtio_net_counts c;
			virtio_net_get_counts(&m->nets[card].card, &c);
			const uint64_t values[] = { c.sent, c.received, c.dropped };
			labelled(out, names[i], "card", m->nets[card].name, values[i]);
		}
	}
}

static void write_phases(FILE *out, const struct figures *f)
{
	metric(out, "boot_phase_microseconds", "gauge", "How long a phase of the boot took.");
	for (unsigned int i = 0; i < FIGURES_NR_PHASES; i++) {
		if (__atomic_load_n(&f->ends[i], __ATOMIC_RELAXED) != 0)
			labelled(out, "boot_phase_microseconds", "phase", phase_names[i],
				 phase_us(f, i));
	}
}

static void write_all(FILE *out, const struct figures *f)
{
	struct machine *m = f->machine;
	struct machine_memory memory;

	machine_get_memory(m, &memory);
	metric(out, "info", "gauge", "Which version it is.");
	labelled(out, "info", "version", BALLAST_VERSION, 1);
	single(out, "uptime_seconds", "gauge", (now_us(CLOCK_MONOTONIC) - f->began) / 1000000,
	       "Since its start.");
	single(out, "resets_total", "counter", m->nr_resets, "Resets of the guest.");
	write_memory(out, &memory);
	write_reclaim(out, &memory.reclaim);
	write_exits(out, m);
	write_disks(out, m);
	write_nets(out, m);
	write_phases(out, f);
}

static bool is_irregular(int folder, const char *name)
{
	struct stat st;

	return fstatat(folder, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && !S_ISREG(st.st_mode);
}

/*
 * A new file; one that was left there is gone. Nothing else is touched, or waited for. owner: whose
 * it is to be; without a name it stays ours.
 */
static int write_anew(int folder, const char *name, const char *text, size_t size,
		      const struct sandbox_user *owner)
{
	if (!is_irregular(folder, name))
		(void)unlinkat(folder, name, 0);
	int fd = openat(folder, name, FIGURES_OPEN_FLAGS, 0644);
	if (fd < 0)
		return -errno;
	int r = fd_write_at(fd, text, size, 0);
	if (r >= 0 && owner->name && fchown(fd, owner->uid, owner->gid) < 0)
		r = -errno;
	if (close(fd) < 0 && r >= 0)
		r = -errno;
	if (r < 0)
		(void)unlinkat(folder, name, 0); /* nobody wants half of it */
	return r;
}

/* In the folder that is open: the sandbox lets nothing be opened by a path. */
static int write_metrics(const struct figures *f, void (*write)(FILE *, const struct figures *),
			 const struct sandbox_user *owner)
{
	char beside[NAME_MAX + 1];
	autofree char *text = NULL;
	size_t size = 0;

	if (snprintf(beside, sizeof(beside), "%s.new", f->metrics_name) >= (int)sizeof(beside))
		return -ENAMETOOLONG;
	FILE *out = open_memstream(&text, &size);
	if (!out)
		return -errno;
	write(out, f);
	if (fclose(out) != 0)
		return -errno;
	int r = write_anew(f->metrics_folder, beside, text, size, owner);
	if (r < 0)
		return r;
	if (renameat(f->metrics_folder, beside, f->metrics_folder, f->metrics_name) == 0)
		return 0;
	r = -errno;
	(void)unlinkat(f->metrics_folder, beside, 0); /* likewise */
	return r;
}

/* A file that cannot be written may be so again; that it cannot is told once. */
static void renew_metrics(struct figures *f)
{
	const struct sandbox_user ourselves = { 0 };
	int r = f->metrics ? write_metrics(f, write_all, &ourselves) : 0;

	if (r < 0 && !f->write_failed)
		log_warn("--metrics '%s': %s: going on without", f->metrics, strerror(-r));
	f->write_failed = r < 0;
}

/* What is heard on the way */

void figures_mark(struct figures *f, enum figures_phase phase)
{
	uint64_t now = now_us(CLOCK_MONOTONIC);
	uint64_t none = 0;

	if (!f->machine || !__atomic_compare_exchange_n(&f->ends[phase], &none, now, false,
							__ATOMIC_RELAXED, __ATOMIC_RELAXED))
		return;
	figures_event(f, "phase",
		      json_pack("{s:s,s:I,s:I}", "name", phase_names[phase], "us",
				(json_int_t)phase_us(f, phase), "since-start-us",
				(json_int_t)(now - f->began)));
	if (phase == PHASE_ENTRY)
		renew_metrics(f);
	if (phase == PHASE_INIT)
		tell_phases(f);
}

/* "[    1.234567] Run /sbin/init as init process", as Linux has it since 4.18. */
static bool starts_init(const struct figures_port *port)
{
	const char *p = strstr(port->line, "Run /");

	return p && strstr(p, " as init process");
}

static void hear(struct figures_port *port, const uint8_t *bytes, size_t size)
{
	for (size_t i = 0; i < size; i++) {
		if (bytes[i] != '\n') {
			/* Of a line too long the end is of no interest. */
			if (bytes[i] && port->used < sizeof(port->line) - 1)
				port->line[port->used++] = (char)bytes[i];
			continue;
		}
		port->line[port->used] = '\0';
		port->used = 0;
		if (starts_init(port))
			figures_mark(port->figures, PHASE_INIT);
	}
}

static size_t port_transmit(void *opaque, const uint8_t *bytes, size_t size)
{
	struct figures_port *port = opaque;
	struct figures *f = port->figures;

	size_t n = port->backend.transmit(port->backend.opaque, bytes, size);
	if (n == 0 || __atomic_load_n(&f->ends[PHASE_INIT], __ATOMIC_RELAXED) != 0)
		return n;
	figures_mark(f, PHASE_OUTPUT);
	hear(port, bytes, n);
	return n;
}

static void port_receive_ready(void *opaque)
{
	struct figures_port *port = opaque;

	port->backend.receive_ready(port->backend.opaque);
}

struct port_backend figures_listen(struct figures *f, struct port_backend backend)
{
	if (!f->machine || f->nr_ports == FIGURES_MAX_PORTS)
		return backend;
	struct figures_port *port = &f->ports[f->nr_ports++];
	*port = (struct figures_port){ .figures = f, .backend = backend };
	return (struct port_backend){
		.transmit = port_transmit,
		.receive_ready = port_receive_ready,
		.opaque = port,
	};
}

static void timer_ready(struct event_source *source, uint32_t events)
{
	struct figures *f = container_of(source, struct figures, timer);

	(void)events;
	(void)eventfd_take(source->fd); /* the same eight bytes */
	look_at_balloon(f);
	if (++f->ticks % FIGURES_SECONDS == 0)
		renew_metrics(f);
}

/* From start to end */

static int open_events(struct figures *f, const char *path)
{
	if (!path)
		return 0;
	/* Of a pipe whose reader is slow the event loop does not wait. */
	f->events_fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_NONBLOCK | O_CLOEXEC, 0644);
	if (f->events_fd < 0 && errno == ENXIO)
		return log_refuse(-ENXIO, "--events '%s': nobody reads that pipe", path);
	return f->events_fd < 0 ? log_err(-errno, "--events '%s'", path) : 0;
}

/*
 * There is not much to write yet, but one learns whether it can be. Where files can be replaced by
 * their owners only that is from the start the user who is to do so.
 */
static int try_metrics(struct figures *f)
{
	if (!f->metrics)
		return 0;
	if (is_irregular(AT_FDCWD, f->metrics))
		return log_refuse(
			-EINVAL,
			"--metrics '%s': is there and no regular file; a file of figures "
			"would replace it",
			f->metrics);
	int r = file_open_folder(f->metrics, &f->metrics_folder, &f->metrics_name);
	if (r >= 0)
		r = write_metrics(f, write_phases, &f->machine->config.user);
	return r < 0 ? log_err(r, "--metrics '%s'", f->metrics) : 0;
}

int figures_init(struct figures *f, struct machine *m)
{
	const struct machine_config *config = &m->config;

	*f = (struct figures){
		.events_fd = -1,
		.metrics_folder = -1,
		.timer = { .fd = -1, .ready = timer_ready },
		.watcher = { inhibitor_raised, inhibitor_lowered, f },
	};
	if (!config->metrics && !config->events && !log_enabled(LOG_DEBUG))
		return 0;
	f->machine = m;
	f->metrics = config->metrics;
	f->began = find_start();
	int r = open_events(f, config->events);
	if (r < 0)
		goto fail;
	figures_event(f, "start",
		      json_pack("{s:s,s:i}", "version", BALLAST_VERSION, "pid", (int)getpid()));
	figures_mark(f, PHASE_PROCESS);
	m->reclaim.watcher = &f->watcher;
	r = try_metrics(f);
	if (r < 0)
		goto fail;
	if (f->metrics || f->events_fd >= 0) {
		r = event_timer_open(&f->timer, &m->loop, EVENT_SECOND, EVENT_SECOND);
		if (r < 0)
			(void)log_err(r, "timer for figures");
	}
	if (r >= 0)
		return 0;
fail:
	figures_finish(f, STATUS_FAILED);
	return r;
}

void figures_end(struct figures *f)
{
	if (!f->machine)
		return;
	look_at_balloon(f);
	tell_phases(f);
	renew_metrics(f);
}

void figures_finish(struct figures *f, int status)
{
	if (!f->machine)
		return;
	figures_event(f, "exit", json_pack("{s:i}", "status", status));
	f->machine->reclaim.watcher = NULL;
	event_source_close(&f->timer, &f->machine->loop);
	fd_close(&f->events_fd);
	fd_close(&f->metrics_folder);
	*f = (struct figures){ .events_fd = -1, .metrics_folder = -1, .timer.fd = -1 };
}
