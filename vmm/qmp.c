/* SPDX-License-Identifier: MIT */
#include "vmm/qmp.h"

#include <errno.h>
#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <sys/socket.h>

#include <linux/pci_regs.h>

#include "base/fd.h"
#include "base/log.h"

#include "vfio/group.h"
#include "vfio/vfio_pci.h"
#include "vmm/machine.h"

#define GENERIC_ERROR "GenericError"
#define COMMAND_NOT_FOUND "CommandNotFound"
#define DEVICE_NOT_ACTIVE "DeviceNotActive"
#define DEVICE_NOT_FOUND "DeviceNotFound"

#define READ_SIZE 4096u
#define MAX_STATS_PERIOD 31536000 /* a year */
#define MAX_PARAMETERS 6u
#define MAX_FDS 2u      /* that come with a command */
#define MAX_REGIONS 64u /* of a DMA context, told about */
#define BALLOON_PATH "/machine/peripheral/balloon0"
#define BALLOON_ID "balloon0"
#define BALLOON_TYPE "virtio-balloon-pci"
#define BALLOON_EVENT_SECONDS 1

/*
 * Where in its input a client is. A command is complete with its last brace: not every client
 * ends it with a newline. A newline is where both sides agree again after anything wrong.
 */
enum place {
	BETWEEN_COMMANDS,
	AFTER_ERROR, /* likewise, but what is left of the line was complained about already */
	IN_GARBAGE,  /* likewise, and nothing of the line is looked at */
	IN_COMMAND,
	IN_STRING,
	AFTER_BACKSLASH,
};

struct client {
	struct list_node link;
	struct event_source source; /* fd owned */
	struct qmp *qmp;
	bool negotiated;
	bool at_end;        /* it sends no more; it goes when it has been answered */
	bool lost;          /* it does not read, or there was no memory: it goes now */
	uint32_t waits_for; /* EPOLLIN, EPOLLOUT */
	enum place place;
	unsigned int depth; /* of open braces and brackets */
	size_t nr_line;
	size_t nr_output;
	bool attaching; /* its device_add is not through: it has to wait */
	json_t *id;     /* owned; that of the command which runs, or NULL */
	size_t nr_rest; /* what came behind that device_add */
	char rest[READ_SIZE];
	int fds[MAX_FDS]; /* owned; they came with the command that is under way, or with the next */
	unsigned int nr_fds;
	char line[QMP_MAX_LINE];
	char output[QMP_MAX_OUTPUT]; /* not sent yet */
};

struct command;

/* One command on its way. */
struct call {
	struct client *client;
	struct machine *machine;
	const struct command *commands; /* all there are */
	unsigned int nr_commands;
	/* Checked, in the order of the parameters; NULL: not given. */
	const json_t *arguments[MAX_PARAMETERS];
	bool answers_itself;     /* now, or later */
	const char *error_class; /* with `error` */
	json_t *error;           /* owned; what went wrong, or NULL */
};

struct parameter {
	const char *name;
	json_type type; /* JSON_TRUE: a boolean */
	json_int_t min; /* of an integer */
	json_int_t max;
	bool may_lack;
};

struct command {
	const char *name;
	/* What is returned, or NULL: fail() has said why not, or there is no memory. */
	json_t *(*run)(struct call *call);
	struct parameter parameters[MAX_PARAMETERS]; /* up to one without a name */
	void (*act)(struct machine *machine);        /* instead: all that it does */
	bool needs_balloon;
};

/* Always NULL, for the caller to return. */
static json_t *printf_like(3, 4)
	fail(struct call *call, const char *error_class, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	call->error = json_vsprintf(fmt, args);
	va_end(args);
	call->error_class = error_class;
	return NULL;
}

/* A GenericError, where -EINVAL is returned. A macro: the compiler sees that it is. */
#define refuse(call, ...) (fail(call, GENERIC_ERROR, __VA_ARGS__), -EINVAL)

/* JSON numbers are signed here; a guest's own numbers may be anything. */
static json_int_t number(uint64_t n)
{
	return n > INT64_MAX ? INT64_MAX : (json_int_t)n;
}

/* NULL: no memory. Takes `error`. */
static json_t *make_error(const char *error_class, json_t *error)
{
	return json_pack("{s:{s:s,s:o}}", "error", "class", error_class, "desc", error);
}

/* Output. An error, here and where it is sent, means that the client is to be dropped. */

static int put_output(struct client *c, const char *bytes, size_t size)
{
	if (c->lost)
		return -ENOBUFS;
	if (size > QMP_MAX_OUTPUT - c->nr_output) {
		log_warn("qmp: a client does not read its answers: dropping it");
		c->lost = true;
		return -ENOBUFS;
	}
	memcpy(c->output + c->nr_output, bytes, size);
	c->nr_output += size;
	return 0;
}

/* Takes `answer`; NULL: there was no memory for it. */
static int put_answer(struct client *c, json_t *answer)
{
	autofree char *text = answer ? json_dumps(answer, 0) : NULL;

	json_decref(answer);
	if (!text)
		return log_err(-ENOMEM, "qmp: an answer");
	int r = put_output(c, text, strlen(text));
	return r < 0 ? r : put_output(c, "\r\n", 2);
}

static int put_error(struct client *c, const char *text)
{
	return put_answer(c, make_error(GENERIC_ERROR, json_string(text)));
}

/* The answer to the command that runs, and the end of it. Takes `answer`. */
static int put_result(struct client *c, json_t *answer)
{
	if (c->id && json_object_set_new(answer, "id", c->id) < 0) {
		json_decref(answer);
		answer = NULL;
	}
	c->id = NULL;
	return put_answer(c, answer);
}

/* Answers about the program */

/* Also for the greeting, for which there is no call. */
static json_t *query_version_run(struct call *call)
{
	int major = 0, minor = 0, micro = 0;

	(void)call;
	(void)sscanf(BALLAST_VERSION, "%d.%d.%d", &major, &minor, &micro); /* or 0 */
	return json_pack("{s:{s:i,s:i,s:i},s:s}", "qemu", "major", major, "minor", minor,
			 "micro", micro, "package", "ballast-" BALLAST_VERSION);
}

static json_t *qmp_capabilities_run(struct call *call)
{
	if (call->client->negotiated)
		return fail(call, COMMAND_NOT_FOUND,
			    "qmp_capabilities comes once, and has come already");
	if (json_array_size(call->arguments[0]) > 0) {
		const char *name = json_string_value(json_array_get(call->arguments[0], 0));
		return fail(call, GENERIC_ERROR, "enable: there is no capability '%s'",
			    name ? name : "(not a string)");
	}
	call->client->negotiated = true;
	return json_object();
}

/* Takes both. A list that could not be added to is none. */
static json_t *add_to_list(json_t *list, json_t *item)
{
	if (json_array_append_new(list, item) == 0)
		return list;
	json_decref(list);
	return NULL;
}

static json_t *query_commands_run(struct call *call)
{
	json_t *list = json_array();

	for (unsigned int i = 0; i < call->nr_commands && list; i++)
		list = add_to_list(list, json_pack("{s:s}", "name", call->commands[i].name));
	return list;
}

static json_t *query_status_run(struct call *call)
{
	bool paused = call->machine->paused;

	return json_pack("{s:s,s:b,s:b}", "status", paused ? "paused" : "running", "running",
			 (int)!paused, "singlestep", 0);
}

static json_t *query_cpus_fast_run(struct call *call)
{
	json_t *list = json_array();
	char path[32];

	for (unsigned int i = 0; i < call->machine->nr_vcpus && list; i++) {
		(void)snprintf(path, sizeof(path), "/machine/cpu[%u]", i);
		list = add_to_list(list,
				   json_pack("{s:i,s:i,s:s,s:s,s:{s:i,s:i,s:i}}", "cpu-index",
					     (int)i, "thread-id",
					     vcpu_thread_id(&call->machine->vcpus[i]), "target",
					     "x86_64", "qom-path", path, "props", "socket-id",
					     0, "core-id", (int)i, "thread-id", 0));
	}
	return list;
}

static json_t *describe_bar(const struct pci_device *dev, unsigned int i)
{
	const struct pci_bar *bar = &dev->bars[i];
	uint32_t bits = pci_get_32(dev, PCI_BASE_ADDRESS_0 + 4 * i);
	bool prefetch = i != PCI_ROM && (bits & PCI_BASE_ADDRESS_MEM_PREFETCH);
	/* As QEMU has them: the ROM is number 6, and what is not mapped is at -1. */
	json_int_t address = bar->address == PCI_UNMAPPED ? -1 : number(bar->address);

	if (bar->kind == PCI_BAR_IO)
		return json_pack("{s:i,s:s,s:I,s:I}", "bar", (int)i, "type", "io", "address",
				 address, "size", number(bar->region.size));
	return json_pack("{s:i,s:s,s:I,s:I,s:b,s:b}", "bar", (int)i, "type", "memory",
			 "address", address, "size", number(bar->region.size), "prefetch",
			 (int)prefetch, "mem_type_64", (int)(bar->kind == PCI_BAR_MEM64));
}

static json_t *describe_pci_device(const struct attach *attach, const struct pci_device *dev)
{
	const char *id = attach_id(attach, dev);
	int pin = dev->config[PCI_INTERRUPT_PIN];
	json_t *regions = json_array();

	for (unsigned int i = 0; i < PCI_NR_BARS && regions; i++) {
		if (dev->bars[i].kind != PCI_BAR_NONE)
			regions = add_to_list(regions, describe_bar(dev, i));
	}
	json_t *irq = pin ? json_integer(pci_intx_gsi(dev, (unsigned int)pin)) : NULL;
	return json_pack("{s:i,s:i,s:i,s:s,s:i,s:o*,s:{s:i},s:{s:i,s:i,s:i,s:i},s:o}", "bus", 0,
			 "slot", dev->devfn >> 3, "function", dev->devfn & 7, "qdev_id",
			 id ? id : dev->name, "irq_pin", pin, "irq", irq, "class_info", "class",
			 (int)pci_get_16(dev, PCI_CLASS_DEVICE), "id", "vendor",
			 (int)pci_get_16(dev, PCI_VENDOR_ID), "device",
			 (int)pci_get_16(dev, PCI_DEVICE_ID), "subsystem-vendor",
			 (int)pci_get_16(dev, PCI_SUBSYSTEM_VENDOR_ID), "subsystem",
			 (int)pci_get_16(dev, PCI_SUBSYSTEM_ID), "regions", regions);
}

static json_t *query_pci_run(struct call *call)
{
	struct pci_bus *bus = &call->machine->pci;
	json_t *devices = json_array();

	pthread_mutex_lock(&bus->lock);
	for (unsigned int i = 0; i < PCI_NR_DEVFNS && devices; i++) {
		if (bus->devices[i])
			devices =
				add_to_list(devices, describe_pci_device(&call->machine->attach,
									 bus->devices[i]));
	}
	pthread_mutex_unlock(&bus->lock);
	return json_pack("[{s:i,s:o}]", "bus", 0, "devices", devices);
}

/* Answers about memory */

static json_t *list_owners(const struct reclaim_figures *figures)
{
	json_t *list = json_array();

	for (unsigned int i = 0; i < figures->nr_owners && list; i++)
		list = add_to_list(list, json_string(figures->owners[i]));
	return list;
}

/* With something asked for, and nothing discarded, the host gains nothing: it is told so. */
static json_t *describe_asking(const struct machine_memory *memory)
{
	const struct reclaim_figures *figures = &memory->reclaim;

	bool gains =
		figures->policy == RECLAIM_DIRECT || figures->policy == RECLAIM_COORDINATED;

	if (gains || memory->balloon.target == 0)
		return json_object();
	return json_pack("{s:{s:b,s:s,s:i,s:o,s:I}}", "x-ballast", "host-gains", 0, "policy",
			 reclaim_policy_name(figures->policy), "inhibitors",
			 (int)figures->nr_inhibitors, "inhibited-by", list_owners(figures),
			 "pinned", number(memory->pinned));
}

static json_t *balloon_run(struct call *call)
{
	json_int_t value = json_integer_value(call->arguments[0]);
	struct machine_memory memory;

	int r = machine_set_memory(call->machine, (uint64_t)value);
	machine_get_memory(call->machine, &memory);
	if (r == -ERANGE)
		return fail(call, GENERIC_ERROR,
			    "value %" JSON_INTEGER_FORMAT ": the guest is to keep %llu or more",
			    value,
			    memory.ram < VIRTIO_BALLOON_FLOOR ? (unsigned long long)memory.ram
							      : VIRTIO_BALLOON_FLOOR);
	if (r < 0)
		return fail(call, GENERIC_ERROR, "value %" JSON_INTEGER_FORMAT ": %s", value,
			    strerror(-r));
	return describe_asking(&memory);
}

static json_t *query_balloon_run(struct call *call)
{
	struct machine_memory memory;

	machine_get_memory(call->machine, &memory);
	return json_pack("{s:I}", "actual", number(memory.ram - memory.balloon.actual));
}

static json_t *query_memory_size_summary_run(struct call *call)
{
	struct machine_memory memory;

	machine_get_memory(call->machine, &memory);
	return json_pack("{s:I,s:i}", "base-memory", number(memory.ram), "plugged-memory", 0);
}

static json_t *describe_counts(const struct reclaim_counts *counts)
{
	return json_pack("{s:I,s:I,s:I,s:I}", "taken", number(counts->taken), "calls",
			 number(counts->calls), "bytes", number(counts->bytes), "failures",
			 number(counts->failures));
}

static json_t *describe_held_back(const struct reclaim_figures *figures)
{
	return json_pack("{s:I,s:I,s:I,s:i,s:o}", "bytes", number(figures->held_back),
			 "incomplete", number(figures->incomplete), "resting",
			 number(figures->resting), "inhibitors", (int)figures->nr_inhibitors,
			 "inhibited-by", list_owners(figures));
}

static json_t *describe_discards(const struct reclaim_figures *figures)
{
	const struct reclaim_counts *counts = figures->policies;

	return json_pack(
		"{s:o,s:o,s:o,s:o}", reclaim_policy_name(RECLAIM_DIRECT),
		describe_counts(&counts[RECLAIM_DIRECT]), reclaim_policy_name(RECLAIM_INHIBIT),
		describe_counts(&counts[RECLAIM_INHIBIT]),
		reclaim_policy_name(RECLAIM_COORDINATED),
		describe_counts(&counts[RECLAIM_COORDINATED]),
		reclaim_policy_name(RECLAIM_UNSAFE), describe_counts(&counts[RECLAIM_UNSAFE]));
}

/* What pinners let go of and pinned again, in granules. */
static json_t *describe_granules(const struct reclaim_figures *figures)
{
	return json_pack("{s:I,s:I,s:I,s:I,s:I,s:i}", "size", number(figures->granule),
			 "released", number(figures->nr_released), "restored",
			 number(figures->nr_restored), "not-released",
			 number(figures->nr_not_released), "not-restored",
			 number(figures->nr_not_restored), "pinners", (int)figures->nr_pinners);
}

static json_t *describe_auto(const struct auto_balloon *automatic)
{
	return json_pack("{s:b,s:I,s:I,s:s,s:I}", "enabled", (int)automatic->config.on, "min",
			 number(automatic->config.min), "max", number(automatic->config.max),
			 "last-change", auto_balloon_reason_name(automatic->reason), "changes",
			 number(automatic->nr_changes));
}

/* The names of the queues, in nr_elements' order. */
static json_t *describe_elements(const struct virtio_balloon_state *balloon)
{
	const uint64_t *n = balloon->nr_elements;

	return json_pack("{s:I,s:I,s:I,s:I}", "inflate", number(n[0]), "deflate", number(n[1]),
			 "stats", number(n[2]), "reporting", number(n[3]));
}

static json_t *x_ballast_query_memory_run(struct call *call)
{
	struct machine_memory memory;

	machine_get_memory(call->machine, &memory);
	const struct virtio_balloon_state *b = &memory.balloon;
	const struct reclaim_figures *figures = &memory.reclaim;
	return json_pack(
		"{s:I,s:I,s:b,s:I,s:I,s:I,s:I,s:o,s:s,s:{s:b,s:b,s:b},s:o,s:o,s:o,s:o,s:o,"
		"s:{s:I,s:I}}",
		"ram", number(memory.ram), "pinned", number(memory.pinned), "balloon",
		(int)memory.has_balloon, "target", number(b->target), "actual",
		number(b->actual), "held", number(figures->held), "reclaimed",
		number(figures->reclaimed), "held-back", describe_held_back(figures), "policy",
		reclaim_policy_name(figures->policy), "driver", "running", (int)b->running,
		"tells-host-first", (int)b->tells_host, "resetting", (int)b->resetting,
		"granules", describe_granules(figures), "auto",
		describe_auto(&memory.auto_balloon), "discards", describe_discards(figures),
		"reports", describe_counts(&figures->reports), "elements", describe_elements(b),
		"deflates", "waiting", number(b->nr_waiting), "retries", number(b->nr_retries));
}

/* Those that the guest has reported; or all there are: -1 is for others. */
static json_t *describe_stats(const struct virtio_balloon_stats *stats, bool all)
{
	json_t *list = json_object();
	char name[64];

	for (unsigned int tag = 0; tag < VIRTIO_BALLOON_NR_STATS; tag++) {
		bool reported = stats->values[tag] != VIRTIO_BALLOON_NO_STAT;
		if (!reported && !all)
			continue;
		json_t *value = json_integer(reported ? number(stats->values[tag]) : -1);
		(void)snprintf(name, sizeof(name), "stat-%s", virtio_balloon_stat_name(tag));
		if (json_object_set_new(list, name, value) < 0) {
			json_decref(list);
			return NULL;
		}
	}
	return list;
}

static json_t *x_ballast_query_guest_stats_run(struct call *call)
{
	struct virtio_balloon_stats stats;

	virtio_balloon_get_stats(&call->machine->balloon, &stats);
	return json_pack("{s:I,s:I,s:o}", "last-update", (json_int_t)stats.updated, "updates",
			 number(stats.nr_updates), "stats", describe_stats(&stats, false));
}

/* QEMU's way to the same: an object with properties. */

static bool is_balloon(const struct call *call, const char *path)
{
	return call->machine->config.has_balloon &&
	       (strcmp(path, BALLOON_PATH) == 0 || strcmp(path, BALLOON_ID) == 0);
}

static json_t *fail_without_object(struct call *call, const char *path)
{
	return fail(call, DEVICE_NOT_FOUND,
		    "path '%s': there is no such object; with --balloon there is " BALLOON_PATH,
		    path);
}

static json_t *fail_without_property(struct call *call, const char *name)
{
	return fail(call, GENERIC_ERROR,
		    "property '%s': it is none of type, guest-stats, "
		    "guest-stats-polling-interval",
		    name);
}

static json_t *list_one(const char *name, const char *type)
{
	return json_pack("[{s:s,s:s}]", "name", name, "type", type);
}

static json_t *list_peripherals(const struct machine *m)
{
	json_t *list = m->config.has_balloon ? list_one(BALLOON_ID, "child<" BALLOON_TYPE ">")
					     : json_array();

	for (unsigned int i = 0; i < ATTACH_MAX_DEVICES && list; i++) {
		const struct attached *d = &m->attach.devices[i];
		if (d->pci)
			list = add_to_list(list, json_pack("{s:s,s:s}", "name", d->id, "type",
							   "child<vfio-pci>"));
	}
	return list;
}

static json_t *qom_list_run(struct call *call)
{
	const char *path = json_string_value(call->arguments[0]);

	if (is_balloon(call, path))
		return json_pack("[{s:s,s:s},{s:s,s:s},{s:s,s:s}]", "name", "type", "type",
				 "string", "name", "guest-stats", "type", "guest statistics",
				 "name", "guest-stats-polling-interval", "type", "int");
	if (strcmp(path, "/") == 0)
		return list_one("machine", "child<machine>");
	if (strcmp(path, "/machine") == 0)
		return list_one("peripheral", "child<container>");
	if (strcmp(path, "/machine/peripheral") == 0)
		return list_peripherals(call->machine);
	return fail_without_object(call, path);
}

static json_t *qom_get_run(struct call *call)
{
	struct virtio_balloon *balloon = &call->machine->balloon;
	const char *path = json_string_value(call->arguments[0]);
	const char *name = json_string_value(call->arguments[1]);
	struct virtio_balloon_stats stats;

	if (!is_balloon(call, path))
		return fail_without_object(call, path);
	if (strcmp(name, "type") == 0)
		return json_string(BALLOON_TYPE);
	if (strcmp(name, "guest-stats-polling-interval") == 0)
		return json_integer(virtio_balloon_get_stats_period(balloon));
	if (strcmp(name, "guest-stats") != 0)
		return fail_without_property(call, name);
	virtio_balloon_get_stats(balloon, &stats);
	return json_pack("{s:o,s:I}", "stats", describe_stats(&stats, true), "last-update",
			 (json_int_t)stats.updated);
}

static json_t *qom_set_run(struct call *call)
{
	const char *path = json_string_value(call->arguments[0]);
	const char *name = json_string_value(call->arguments[1]);

	if (!is_balloon(call, path))
		return fail_without_object(call, path);
	if (strcmp(name, "type") == 0 || strcmp(name, "guest-stats") == 0)
		return fail(call, GENERIC_ERROR, "property '%s' is not writable", name);
	if (strcmp(name, "guest-stats-polling-interval") != 0)
		return fail_without_property(call, name);
	virtio_balloon_set_stats_period(&call->machine->balloon,
					(unsigned int)json_integer_value(call->arguments[2]));
	return json_object();
}

/* Devices that come and go */

/* The group is the client's word for it; that it is the device's the kernel sees to. */
static int take_opened(struct call *call, const char *host, struct vfio_opened *ret)
{
	struct client *c = call->client;

	*ret = (struct vfio_opened){ .group_fd = -1, .container_fd = -1 };
	if (vfio_pci_name(host, ret->name, sizeof(ret->name)) < 0)
		return refuse(
			call,
			"host '%s': a PCI device is called 0000:01:00.0, an mdev after its UUID",
			host);
	ret->group = (unsigned int)json_integer_value(call->arguments[4]);
	if (c->nr_fds > 0)
		ret->group_fd = c->fds[0];
	if (c->nr_fds > 1)
		ret->container_fd = c->fds[1];
	c->nr_fds = 0;
	return 0;
}

/* One of two words, of which the first stands for what is left out. */
static int parse_choice(struct call *call, unsigned int i, const char *name, const char *first,
			const char *second, bool *ret)
{
	const char *text = json_string_value(call->arguments[i]);

	*ret = text && strcmp(text, second) == 0;
	if (!text || *ret || strcmp(text, first) == 0)
		return 0;
	return refuse(call, "%s '%s': it is %s or %s", name, text, first, second);
}

/* The client waits for this, in its command or since then. */
static void device_added(void *opaque, const struct attach_result *result)
{
	struct client *c = opaque;
	json_t *answer = result->r < 0  ? make_error(GENERIC_ERROR, json_string(result->reason))
			 : result->back ? json_pack("{s:{s:{s:I}}}", "return", "x-ballast",
						    "came-back", number(result->back))
					: json_pack("{s:{}}", "return");

	c->attaching = false;
	c->lost = put_result(c, answer) < 0 || c->lost;
	if (c == c->qmp->busy)
		return;
	/* There is something to send, and then to go on with. */
	c->waits_for = EPOLLIN | EPOLLOUT;
	event_loop_modify(c->qmp->loop, &c->source, c->waits_for);
}

static json_t *device_add_run(struct call *call)
{
	const char *driver = json_string_value(call->arguments[0]);
	struct attach_request request = {
		.host = json_string_value(call->arguments[1]),
		.id = json_string_value(call->arguments[2]),
	};
	struct vfio_opened opened;
	bool allowed = false, detaches = false;

	if (strcmp(driver, "vfio-pci") != 0)
		return fail(call, GENERIC_ERROR,
			    "driver '%s': of a running guest it can only be vfio-pci", driver);
	if (parse_choice(call, 3, "balloon", "inhibits", "allowed", &allowed) < 0 ||
	    parse_choice(call, 5, "x-ballast-on-error", "stop", "detach", &detaches) < 0)
		return NULL;
	request.balloon = allowed ? VFIO_BALLOON_ALLOWED : VFIO_BALLOON_INHIBITS;
	request.on_error = detaches ? DEVICE_ERROR_DETACHES : DEVICE_ERROR_STOPS;
	if (call->arguments[4]) {
		if (take_opened(call, request.host, &opened) < 0)
			return NULL;
		request.host = opened.name;
		request.opened = &opened;
	}
	call->answers_itself = true;
	call->client->attaching = true;
	attach_add(call->machine, &request, device_added, call->client);
	return NULL;
}

static json_t *device_del_run(struct call *call)
{
	const char *id = json_string_value(call->arguments[0]);
	bool force = json_is_true(call->arguments[1]);

	if (attach_remove(call->machine, id, force ? DETACH_BY_FORCE : DETACH_ASKS) < 0)
		return fail(call, DEVICE_NOT_FOUND,
			    "there is no device '%s': query-pci lists them by their ids", id);
	return json_object();
}

static json_t *describe_dma_regions(const struct vfio_mapping_figures *mappings,
				    unsigned int count)
{
	json_t *list = json_array();

	for (unsigned int i = 0; i < count && list; i++) {
		const struct vfio_mapping_figures *m = &mappings[i];
		list = add_to_list(
			list, json_pack("{s:s,s:I,s:I,s:I,s:I}", "name", m->name, "address",
					number(m->gpa), "size", number(m->size), "granule",
					number(m->granule), "mapped", number(m->mapped)));
	}
	return list;
}

static json_t *describe_container(struct vfio_container *container)
{
	struct vfio_mapping_figures mappings[MAX_REGIONS];
	struct vfio_container_figures figures;
	json_t *groups = json_array();

	list_for_each(n, &container->groups) {
		struct vfio_group *group = container_of(n, struct vfio_group, container_link);
		groups = groups ? add_to_list(groups, json_integer(group->number)) : NULL;
	}
	vfio_container_figures(container, &figures, mappings, MAX_REGIONS);
	unsigned int count =
		figures.nr_mappings < MAX_REGIONS ? figures.nr_mappings : MAX_REGIONS;
	return json_pack("{s:o,s:b,s:b,s:I,s:I,s:o}", "groups", groups, "pins",
			 (int)container->pins, "asleep", (int)container->asleep, "entries",
			 (json_int_t)figures.nr_entries, "max-entries",
			 (json_int_t)figures.max_entries, "regions",
			 describe_dma_regions(mappings, count));
}

static json_t *x_ballast_query_dma_map_run(struct call *call)
{
	struct machine *m = call->machine;
	json_t *list = json_array();

	pthread_mutex_lock(&m->pci.lock);
	list_for_each(n, &m->vfio.containers) {
		struct vfio_container *container = container_of(n, struct vfio_container, link);
		list = list ? add_to_list(list, describe_container(container)) : NULL;
	}
	pthread_mutex_unlock(&m->pci.lock);
	return list;
}

/* What may pass soon is a GenericError; what will not without a new driver, DeviceNotActive. */
static json_t *x_ballast_request_guest_stats_run(struct call *call)
{
	int r = virtio_balloon_request_stats(&call->machine->balloon);
	if (r == -ENOTCONN)
		return fail(call, DEVICE_NOT_ACTIVE,
			    "the guest runs no balloon driver, or one without statistics");
	if (r == -EAGAIN)
		return fail(call, GENERIC_ERROR,
			    "the guest was asked already, or is not ready to be asked yet");
	return r < 0 ? fail(call, GENERIC_ERROR, "statistics: %s", strerror(-r))
		     : json_object();
}

static json_t *x_ballast_set_stats_period_run(struct call *call)
{
	virtio_balloon_set_stats_period(&call->machine->balloon,
					(unsigned int)json_integer_value(call->arguments[0]));
	return json_object();
}

static json_t *x_ballast_set_policy_run(struct call *call)
{
	const char *name = json_string_value(call->arguments[0]);
	bool coordinated = false;

	if (parse_choice(call, 0, "policy", "inhibit", "coordinated", &coordinated) < 0)
		return NULL;
	int r = machine_set_policy(call->machine,
				   coordinated ? RECLAIM_COORDINATED : RECLAIM_INHIBIT);
	if (r == -EPERM)
		return fail(call, GENERIC_ERROR,
			    "policy '%s': not in an experiment with unsafe-reclaim", name);
	if (r < 0)
		return fail(
			call, GENERIC_ERROR,
			coordinated
				? "policy '%s': not all of the guest's memory can be locked, "
				  "or be present at once: %s"
				: "policy '%s': the host has no memory to give all back: %s",
			name, strerror(-r));
	return json_object();
}

static json_t *x_ballast_set_auto_run(struct call *call)
{
	if (json_is_true(call->arguments[0]))
		machine_start_auto(call->machine);
	else
		machine_stop_auto(call->machine);
	return json_object();
}

static json_t *set_link_run(struct call *call)
{
	const char *name = json_string_value(call->arguments[0]);
	int r = machine_set_link(call->machine, name, json_is_true(call->arguments[1]));

	if (r == -ENODEV)
		return fail(call, DEVICE_NOT_FOUND,
			    "there is no network card '%s': they are net0, net1 and so on, as "
			    "many as there are --net",
			    name);
	if (r < 0)
		return fail(call, GENERIC_ERROR, "name '%s': what it was connected to is gone",
			    name);
	return json_object();
}

static const struct command commands[] = {
	{ "qmp_capabilities",
	  qmp_capabilities_run,
	  { { "enable", JSON_ARRAY, .may_lack = true } } },
	{ "query-version", query_version_run },
	{ "query-commands", query_commands_run },
	{ "query-status", query_status_run },
	{ "query-memory-size-summary", query_memory_size_summary_run },
	{ "query-cpus-fast", query_cpus_fast_run },
	{ "query-pci", query_pci_run },
	{ "balloon",
	  balloon_run,
	  { { "value", JSON_INTEGER, 1, INT64_MAX } },
	  .needs_balloon = true },
	{ "query-balloon", query_balloon_run, .needs_balloon = true },
	{ "stop", .act = machine_pause },
	{ "cont", .act = machine_resume },
	{ "system_reset", .act = machine_reset },
	{ "system_powerdown", .act = machine_power_down },
	{ "quit", .act = machine_quit }, /* answered before the event loop comes to its end */
	{ "qom-list", qom_list_run, { { "path", JSON_STRING } } },
	{ "qom-get", qom_get_run, { { "path", JSON_STRING }, { "property", JSON_STRING } } },
	{ "qom-set",
	  qom_set_run,
	  { { "path", JSON_STRING },
	    { "property", JSON_STRING },
	    { "value", JSON_INTEGER, 0, MAX_STATS_PERIOD } } },
	{ "device_add",
	  device_add_run,
	  { { "driver", JSON_STRING },
	    { "host", JSON_STRING },
	    { "id", JSON_STRING, .may_lack = true },
	    { "balloon", JSON_STRING, .may_lack = true },
	    { "x-ballast-group", JSON_INTEGER, 0, UINT32_MAX, .may_lack = true },
	    { "x-ballast-on-error", JSON_STRING, .may_lack = true } } },
	{ "device_del",
	  device_del_run,
	  { { "id", JSON_STRING }, { "force", JSON_TRUE, .may_lack = true } } },
	{ "set_link", set_link_run, { { "name", JSON_STRING }, { "up", JSON_TRUE } } },
	{ "x-ballast-query-memory", x_ballast_query_memory_run },
	{ "x-ballast-query-dma-map", x_ballast_query_dma_map_run },
	{ "x-ballast-query-guest-stats", x_ballast_query_guest_stats_run,
	  .needs_balloon = true },
	{ "x-ballast-request-guest-stats", x_ballast_request_guest_stats_run,
	  .needs_balloon = true },
	{ "x-ballast-set-stats-period",
	  x_ballast_set_stats_period_run,
	  { { "seconds", JSON_INTEGER, 0, MAX_STATS_PERIOD } },
	  .needs_balloon = true },
	{ "x-ballast-set-policy",
	  x_ballast_set_policy_run,
	  { { "policy", JSON_STRING } },
	  .needs_balloon = true },
	{ "x-ballast-set-auto",
	  x_ballast_set_auto_run,
	  { { "enabled", JSON_TRUE } },
	  .needs_balloon = true },
};

/* From a request to its answer */

static const struct command *find_command(const char *name)
{
	for (unsigned int i = 0; i < nitems(commands); i++) {
		if (strcmp(commands[i].name, name) == 0)
			return &commands[i];
	}
	return NULL;
}

static int check_integer(struct call *call, const struct parameter *p, json_int_t value)
{
	if (value >= p->min && value <= p->max)
		return 0;
	return refuse(call,
		      "argument '%s' is %" JSON_INTEGER_FORMAT
		      ": it goes from %" JSON_INTEGER_FORMAT " to %" JSON_INTEGER_FORMAT,
		      p->name, value, p->min, p->max);
}

/* json_type knows no boolean, but two of them. */
static bool is_of_type(const json_t *value, json_type type)
{
	return type == JSON_TRUE ? json_is_boolean(value) : json_typeof(value) == type;
}

static const char *describe_type(json_type type)
{
	switch ((int)type) { /* those that commands have */
	case JSON_INTEGER: return "an integer below 2^63";
	case JSON_STRING: return "a string";
	case JSON_TRUE: return "true or false";
	default: return "a list";
	}
}

static int check_argument(struct call *call, const struct command *command,
			  const struct parameter *p, const json_t *value)
{
	if (!value && p->may_lack)
		return 0;
	if (!value)
		return refuse(call, "argument '%s' is missing: %s needs it", p->name,
			      command->name);
	if (!is_of_type(value, p->type))
		return refuse(call, "argument '%s' must be %s", p->name,
			      describe_type(p->type));
	return p->type == JSON_INTEGER ? check_integer(call, p, json_integer_value(value)) : 0;
}

static bool takes(const struct command *command, const char *name)
{
	for (unsigned int i = 0; i < MAX_PARAMETERS && command->parameters[i].name; i++) {
		if (strcmp(name, command->parameters[i].name) == 0)
			return true;
	}
	return false;
}

static int take_arguments(struct call *call, const struct command *command, json_t *arguments)
{
	const char *name;
	json_t *value;

	if (arguments && !json_is_object(arguments))
		return refuse(call, "member 'arguments' must be an object");
	json_object_foreach(arguments, name, value)
	{
		if (!takes(command, name))
			return refuse(call, "argument '%s' is none of %s", name, command->name);
	}
	for (unsigned int i = 0; i < MAX_PARAMETERS && command->parameters[i].name; i++) {
		const struct parameter *p = &command->parameters[i];
		call->arguments[i] = json_object_get(arguments, p->name);
		int r = check_argument(call, command, p, call->arguments[i]);
		if (r < 0)
			return r;
	}
	return 0;
}

static int check_members(struct call *call, json_t *request)
{
	const char *name;
	json_t *value;

	if (!json_is_object(request))
		return refuse(call, "a command is an object: {\"execute\": NAME}");
	json_object_foreach(request, name, value)
	{
		if (strcmp(name, "execute") != 0 && strcmp(name, "arguments") != 0 &&
		    strcmp(name, "id") != 0)
			return refuse(
				call,
				"member '%s' is unknown: there are execute, arguments and id",
				name);
	}
	return 0;
}

/* NULL: fail() has been called, or there is no memory. */
static json_t *execute(struct call *call, json_t *request)
{
	if (check_members(call, request) < 0)
		return NULL;
	const json_t *member = json_object_get(request, "execute");
	const char *name = json_string_value(member);
	if (!name)
		return fail(call, GENERIC_ERROR,
			    member ? "member 'execute' must be a string"
				   : "member 'execute' is missing: it names the command");
	const struct command *command = find_command(name);
	if (!call->client->negotiated && (!command || command->run != qmp_capabilities_run))
		return fail(call, COMMAND_NOT_FOUND,
			    "'%s': first say {\"execute\": \"qmp_capabilities\"}", name);
	if (!command)
		return fail(call, COMMAND_NOT_FOUND,
			    "there is no command '%s': query-commands lists them", name);
	if (take_arguments(call, command, json_object_get(request, "arguments")) < 0)
		return NULL;
	if (command->needs_balloon && !call->machine->config.has_balloon)
		return fail(call, DEVICE_NOT_ACTIVE,
			    "this guest has no balloon: start it with --balloon");
	if (command->run)
		return command->run(call);
	command->act(call->machine);
	return json_object();
}

static int flush_output(struct client *c)
{
	ssize_t n = 0;

	while (c->nr_output > 0) {
		n = send(c->source.fd, c->output, c->nr_output, MSG_NOSIGNAL);
		if (n < 0)
			break;
		c->nr_output -= (size_t)n;
		memmove(c->output, c->output + n, c->nr_output);
	}
	return n < 0 && errno != EAGAIN && errno != EINTR ? -errno : 0;
}

/* Input */

/* The line holds one whole command, or what looks like one. */
static int run_line(struct client *c)
{
	struct call call = {
		.client = c,
		.machine = c->qmp->machine,
		.commands = commands,
		.nr_commands = nitems(commands),
	};
	json_error_t error;
	json_t *result = NULL;

	json_t *request = json_loadb(c->line, c->nr_line, JSON_REJECT_DUPLICATES, &error);
	c->id = json_incref(json_object_get(request, "id"));
	if (request)
		result = execute(&call, request);
	else
		fail(&call, GENERIC_ERROR, "this is no JSON: %s", error.text);
	c->place = request ? BETWEEN_COMMANDS : AFTER_ERROR;
	c->nr_line = 0;
	json_decref(request);
	if (call.answers_itself)
		return c->lost ? -ENOBUFS : 0;
	return put_result(c, call.error ? make_error(call.error_class, call.error)
					: json_pack("{s:o}", "return", result));
}

static int end_line(struct client *c)
{
	enum place place = c->place;

	c->place = BETWEEN_COMMANDS;
	c->depth = 0;
	c->nr_line = 0;
	return place >= IN_COMMAND ? put_error(c, "a command ends before its line does, "
						  "this one did not")
				   : 0;
}

/* The first byte of a command, or not. */
static int begin_command(struct client *c, char byte)
{
	enum place place = c->place;

	if (byte == ' ' || byte == '\t' || byte == '\r')
		return 0;
	c->place = byte == '{' || byte == '[' ? IN_COMMAND : IN_GARBAGE;
	return c->place == IN_GARBAGE && place == BETWEEN_COMMANDS
		       ? put_error(c, "this is no JSON object: ignoring the line")
		       : 0;
}

/* Follows a command just far enough to see its end. */
static void follow_command(struct client *c, char byte)
{
	if (c->place == AFTER_BACKSLASH)
		c->place = IN_STRING;
	else if (c->place == IN_STRING && byte == '\\')
		c->place = AFTER_BACKSLASH;
	else if (byte == '"')
		c->place = c->place == IN_STRING ? IN_COMMAND : IN_STRING;
	else if (c->place == IN_COMMAND && (byte == '{' || byte == '['))
		c->depth++;
	else if (c->place == IN_COMMAND && (byte == '}' || byte == ']'))
		c->depth--;
}

static int refuse_long_line(struct client *c)
{
	log_warn("qmp: a line of more than %u bytes: dropping the client", QMP_MAX_LINE);
	if (put_error(c, "this line is too long: the connection ends here") == 0)
		(void)flush_output(c); /* it has been told, or does not read */
	return -EMSGSIZE;
}

static int take_byte(struct client *c, char byte)
{
	int r = 0;

	if (byte == '\n')
		return end_line(c);
	if (c->place == BETWEEN_COMMANDS || c->place == AFTER_ERROR)
		r = begin_command(c, byte);
	if (r < 0 || c->place == BETWEEN_COMMANDS || c->place == AFTER_ERROR)
		return r;
	if (c->nr_line == QMP_MAX_LINE)
		return refuse_long_line(c);
	c->line[c->nr_line++] = byte;
	if (c->place == IN_GARBAGE)
		return 0;
	follow_command(c, byte);
	return c->place == IN_COMMAND && c->depth == 0 ? run_line(c) : 0;
}

/* What comes behind a device_add waits for its end. */
static int take_bytes(struct client *c, const char *bytes, size_t size)
{
	size_t i = 0;
	int r = 0;

	while (i < size && r >= 0 && !c->attaching)
		r = take_byte(c, bytes[i++]);
	memcpy(c->rest, bytes + i, size - i);
	c->nr_rest = size - i;
	return r;
}

static void close_fds(struct client *c)
{
	while (c->nr_fds > 0)
		fd_close(&c->fds[--c->nr_fds]);
}

/* Those that came with the bytes; what is more than there is room for the kernel has closed. */
static void take_fds(struct client *c, struct msghdr *message)
{
	for (struct cmsghdr *header = CMSG_FIRSTHDR(message); header;
	     header = CMSG_NXTHDR(message, header)) {
		if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS)
			continue;
		close_fds(c); /* of a command that never came */
		c->nr_fds = (unsigned int)((header->cmsg_len - CMSG_LEN(0)) / sizeof(int));
		memcpy(c->fds, CMSG_DATA(header), c->nr_fds * sizeof(int));
	}
}

static ssize_t receive_message(struct client *c, char *bytes, size_t size)
{
	union {
		struct cmsghdr header;
		char bytes[CMSG_SPACE(MAX_FDS * sizeof(int))];
	} control;
	struct iovec text = { bytes, size };
	struct msghdr message = { .msg_iov = &text,
				  .msg_iovlen = 1,
				  .msg_control = &control,
				  .msg_controllen = sizeof(control) };

	ssize_t n = recvmsg(c->source.fd, &message, MSG_CMSG_CLOEXEC);
	if (n >= 0)
		take_fds(c, &message);
	return n;
}

/* What a device_add was in the way of. */
static int take_rest(struct client *c)
{
	char bytes[READ_SIZE];
	size_t size = c->nr_rest;

	memcpy(bytes, c->rest, size);
	return take_bytes(c, bytes, size);
}

static int receive(struct client *c)
{
	char bytes[READ_SIZE];

	ssize_t n = receive_message(c, bytes, sizeof(bytes));
	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	if (n == 0) {
		c->at_end = true;
		return end_line(c);
	}
	int r = take_bytes(c, bytes, (size_t)n);
	/* No command that is under way could be theirs. */
	if (c->place < IN_COMMAND && !c->attaching)
		close_fds(c);
	return r;
}

/* Clients */

/* Now, or as soon as the event loop is about to wait, whoever waits to be let in is let in. */
static void watch_listener(struct qmp *qmp)
{
	event_loop_modify(qmp->loop, &qmp->listener, EPOLLIN | EPOLLET);
}

/* It may not be linked yet. A place has become free, and an fd, for which somebody may wait. */
static void drop_client(struct client *c)
{
	if (list_linked(&c->link)) {
		list_remove(&c->link);
		c->qmp->nr_clients--;
	}
	if (c->attaching)
		attach_forget(&c->qmp->machine->attach, c);
	event_source_close(&c->source, c->qmp->loop);
	close_fds(c);
	json_decref(c->id);
	watch_listener(c->qmp);
	free(c);
}

/* Sends what there is to send, and waits for what there is to wait for. */
static int serve(struct client *c)
{
	int r = c->lost ? -ENOBUFS : flush_output(c);

	if (r < 0)
		return r;
	if (c->at_end && c->nr_output == 0)
		return -ECONNRESET;
	/* What has been read is for client_ready() to go on with, as soon as it may. */
	bool goes_on = c->nr_output > 0 || (c->nr_rest > 0 && !c->attaching);
	uint32_t waits_for =
		(c->at_end || c->attaching ? 0 : EPOLLIN) | (goes_on ? EPOLLOUT : 0);
	if (waits_for != c->waits_for)
		event_loop_modify(c->qmp->loop, &c->source, waits_for);
	c->waits_for = waits_for;
	return 0;
}

static void client_ready(struct event_source *source, uint32_t events)
{
	struct client *c = container_of(source, struct client, source);
	int r = 0;

	c->qmp->busy = c;
	if (c->attaching && (events & (EPOLLHUP | EPOLLERR)))
		r = -ECONNRESET; /* nobody is left to be answered */
	else if (c->nr_rest > 0)
		r = take_rest(c);
	if (r >= 0 && !c->at_end && !c->attaching && (events & ~(uint32_t)EPOLLOUT))
		r = receive(c);
	c->qmp->busy = NULL;
	if (r >= 0)
		r = serve(c);
	if (r < 0)
		drop_client(c);
}

static int greet(struct client *c)
{
	int r = put_answer(c, json_pack("{s:{s:o,s:[]}}", "QMP", "version",
					query_version_run(NULL), "capabilities"));

	return r < 0 ? r : serve(c);
}

/* Takes *fd. */
static void add_client(struct qmp *qmp, int *fd)
{
	struct client *c = calloc(1, sizeof(*c));

	if (!c) {
		log_warn("qmp: no memory for a client: sending it away");
		fd_close(fd);
		return;
	}
	c->qmp = qmp;
	c->source = (struct event_source){ .fd = *fd, .ready = client_ready };
	c->waits_for = EPOLLIN;
	*fd = -1;
	int r = event_loop_add(qmp->loop, &c->source, EPOLLIN);
	if (r < 0) {
		(void)log_err(r, "qmp: event loop");
		drop_client(c);
		return;
	}
	list_append(&qmp->clients, &c->link);
	qmp->nr_clients++;
	if (greet(c) < 0)
		drop_client(c);
}

static void turn_away(int fd)
{
	json_t *error =
		make_error(GENERIC_ERROR, json_string("there are too many clients already"));
	autofree char *text = error ? json_dumps(error, 0) : NULL;

	json_decref(error);
	if (text) {
		(void)send(fd, text, strlen(text), MSG_NOSIGNAL); /* out of courtesy */
		(void)send(fd, "\r\n", 2, MSG_NOSIGNAL);
	}
}

/*
 * Takes `data`, which may be NULL. A client whose command makes the event is on its way through
 * serve() already, and must outlive that.
 */
static void tell_clients(struct qmp *qmp, const char *name, json_t *data)
{
	struct timespec now = { 0 };

	(void)clock_gettime(CLOCK_REALTIME, &now); /* this clock always exists */
	list_for_each_safe(n, &qmp->clients) {
		struct client *c = container_of(n, struct client, link);
		if (!c->negotiated || c->lost)
			continue;
		json_t *event = json_pack("{s:s,s:O*,s:{s:I,s:I}}", "event", name, "data", data,
					  "timestamp", "seconds", (json_int_t)now.tv_sec,
					  "microseconds", (json_int_t)now.tv_nsec / 1000);
		if (put_answer(c, event) < 0)
			c->lost = true;
		if (c != qmp->busy && serve(c) < 0)
			drop_client(c);
	}
	json_decref(data);
}

void qmp_event(struct qmp *qmp, const char *name)
{
	if (qmp->loop)
		tell_clients(qmp, name, NULL);
}

void qmp_event_reason(struct qmp *qmp, const char *name, const char *reason)
{
	bool guest = strncmp(reason, "guest-", 6) == 0;

	if (qmp->loop)
		tell_clients(qmp, name,
			     json_pack("{s:b,s:s}", "guest", (int)guest, "reason", reason));
}

void qmp_event_action(struct qmp *qmp, const char *name, const char *action)
{
	if (qmp->loop)
		tell_clients(qmp, name, json_pack("{s:s}", "action", action));
}

void qmp_event_device(struct qmp *qmp, const char *name, const char *id, const char *host)
{
	char path[128];

	(void)snprintf(path, sizeof(path), "/machine/peripheral/%s", id);
	if (qmp->loop)
		tell_clients(qmp, name,
			     json_pack("{s:s,s:s,s:{s:s}}", "device", id, "path", path,
				       "x-ballast", "host", host));
}

/* And no other for a second. */
static void tell_balloon(struct qmp *qmp)
{
	struct machine_memory memory;

	machine_get_memory(qmp->machine, &memory);
	event_timer_set(&qmp->balloon_timer, BALLOON_EVENT_SECONDS * EVENT_SECOND, 0);
	qmp->balloon_rests = true;
	tell_clients(qmp, "BALLOON_CHANGE",
		     json_pack("{s:I}", "actual", number(memory.ram - memory.balloon.actual)));
}

void qmp_balloon_changed(struct qmp *qmp)
{
	if (qmp->loop && !qmp->balloon_rests && machine_take_balloon_change(qmp->machine))
		tell_balloon(qmp);
}

static void balloon_timer_ready(struct event_source *source, uint32_t events)
{
	struct qmp *qmp = container_of(source, struct qmp, balloon_timer);

	(void)events;
	if (!eventfd_take(source->fd)) /* the same eight bytes */
		return;
	qmp->balloon_rests = false;
	qmp_balloon_changed(qmp);
}

/*
 * One at a time, as everybody's turn comes. With no fd to be had the client stays in the queue:
 * it is looked at again when another client comes or goes, not all the time.
 */
static void listener_ready(struct event_source *source, uint32_t events)
{
	struct qmp *qmp = container_of(source, struct qmp, listener);

	(void)events;
	autoclose int fd = accept4(source->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (fd < 0 && (errno == EMFILE || errno == ENFILE || errno == ENOMEM)) {
		log_warn("qmp: a client has to wait: %s", strerror(errno));
		return;
	}
	if (fd >= 0 && qmp->nr_clients == QMP_MAX_CLIENTS)
		turn_away(fd);
	else if (fd >= 0)
		add_client(qmp, &fd);
	watch_listener(qmp);
}

/* The socket */

static int listen_at(struct qmp *qmp, const char *path)
{
	int r = local_socket_listen(&qmp->socket, path, QMP_MAX_CLIENTS);

	qmp->listener.fd = qmp->socket.fd;
	return r < 0 ? r : event_loop_add(qmp->loop, &qmp->listener, EPOLLIN | EPOLLET);
}

int qmp_init(struct qmp *qmp, struct event_loop *loop, const char *path,
	     struct machine *machine)
{
	*qmp = (struct qmp){
		.loop = loop,
		.machine = machine,
		.socket = { .fd = -1, .folder = -1 },
		.listener = { .fd = -1, .ready = listener_ready },
		.balloon_timer = { .fd = -1, .ready = balloon_timer_ready },
	};
	list_init(&qmp->clients);
	int r = event_timer_open(&qmp->balloon_timer, loop, 0, 0);
	if (r >= 0)
		r = listen_at(qmp, path);
	if (r < 0) {
		qmp_finish(qmp);
		(void)log_err(r, "qmp: control socket '%s'%s", path, local_socket_remedy(r));
		return r == -ENAMETOOLONG ? -EINVAL : r; /* the user's affair */
	}
	return 0;
}

void qmp_finish(struct qmp *qmp)
{
	if (!qmp->loop)
		return;
	list_for_each_safe(n, &qmp->clients)
		drop_client(container_of(n, struct client, link));
	event_loop_remove(qmp->loop, &qmp->listener);
	local_socket_close(&qmp->socket);
	event_source_close(&qmp->balloon_timer, qmp->loop);
	*qmp = (struct qmp){ 0 };
}
