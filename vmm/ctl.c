/* SPDX-License-Identifier: MIT */
#include "vmm/ctl.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>

#include "base/fd.h"
#include "base/log.h"

#include "vfio/vfio_pci.h"
#include "vmm/attach.h"
#include "vmm/options.h"

#define ANSWER_TIMEOUT 10 /* seconds */
#define STATS_TRIES 50    /* of STATS_PAUSE_MS each: 5 s */
#define STATS_PAUSE_MS 100
#define ATTACH_PATIENCE 60 /* of ANSWER_TIMEOUT each: a large guest takes long to pin */
#define DETACH_PATIENCE 6  /* likewise: more than ATTACH_EJECT_SECONDS */
#define MIB (1ll << 20)

static const char help[] =
	"Usage: ballast ctl [--json] SOCKET COMMAND\n"
	"Talks to a running guest by its control socket: SOCKET is the path that was\n"
	"given to ballast run --qmp unix:PATH.\n"
	"\n"
	"  status        whether the guest runs, its vCPUs, memory and PCI devices\n"
	"  balloon SIZE  ask the guest to keep SIZE of its memory (as 512M or 4G), and\n"
	"                to give up the rest; it may never comply\n"
	"  memory        what the balloon holds, what the host has, and why not more\n"
	"  stats         ask the guest's balloon driver for memory statistics\n"
	"  policy POLICY what becomes of the balloon's memory while a device is\n"
	"                assigned: inhibit (nothing), or coordinated (the host gets it)\n"
	"  auto on|off   whether the balloon follows what guest and host need\n"
	"  link NAME on|off  plug in, or pull, the cable of network card NAME (net0)\n"
	"  attach BDF, detach [--force] ID  assign a device; get it back from the guest\n"
	"  stop, cont    halt the guest's vCPUs, let them go on\n"
	"  reset, powerdown, quit  reset it; press its power button; end it at once\n"
	"\n"
	"  --json        print the answer as it came\n"
	"  -h, --help    this text\n"
	"\n"
	"With a device assigned the host may gain nothing by a balloon; balloon and\n"
	"memory say so. The socket speaks QMP: its commands are in ballast(1).\n"
	"\n"
	"Exit status: 0 done; 1 nobody listens, no answer, or refused; 2 wrong usage.\n";

struct command;

struct ctl {
	enum { FOR_PEOPLE, AS_JSON } output;
	const char *path;
	const struct command *command;
	uint64_t size;    /* of `balloon` */
	bool force;       /* of `detach` */
	const char *word; /* of `policy`, `auto` and `link`; the BDF of `attach` and `detach` */
	enum vfio_balloon balloon; /* of `attach` */
	enum device_error on_error;
	const char *name; /* of `link` */
	int fd;           /* owned */
	int fds[2];       /* borrowed; to go with the next command */
	unsigned int nr_fds;
	unsigned int patience;    /* so many times ANSWER_TIMEOUT more for an answer */
	unsigned int nr_timeouts; /* that have passed, of ANSWER_TIMEOUT each */
	const char *awaited;      /* a device that leaves; NULL */
	enum { NO_OUTCOME, IS_DELETED, IS_KEPT } outcome;
	char *line; /* in `input`: the last line that came; good until the next */
	size_t nr_taken;
	size_t nr_input;
	char input[QMP_MAX_OUTPUT];
};

struct command {
	const char *name;
	enum { NO_OPERAND, SIZE_OPERAND, WORD_OPERAND, BDF_OPERAND, NAME_AND_WORD } operand;
	int (*run)(struct ctl *c);
	const char *words; /* as in struct option_row: what the last operand may be, or NULL */
	const char *execute; /* instead of run: the one command that it sends, */
	const char *done;    /* and what people are told then */
};

/* The connection */

/* Says what came to an end instead of an answer. */
static int explain_receive(const struct ctl *c, ssize_t n)
{
	if (n == 0)
		return log_refuse(-ECONNRESET,
				  "ctl: '%s' hung up without an answer: has the guest ended?",
				  c->path);
	if (errno == EAGAIN)
		return log_refuse(-ETIMEDOUT,
				  "ctl: no answer from '%s' within %u s: try again, or look "
				  "whether ballast is stopped",
				  c->path, c->nr_timeouts * ANSWER_TIMEOUT);
	return log_err(-errno, "ctl: reading from '%s'", c->path);
}

/* c->line is the next line, without its end. */
static int read_line(struct ctl *c)
{
	char *end = NULL;

	c->nr_input -= c->nr_taken;
	memmove(c->input, c->input + c->nr_taken, c->nr_input);
	c->nr_taken = 0;
	while (!(end = memchr(c->input, '\n', c->nr_input))) {
		if (c->nr_input == sizeof(c->input))
			return log_err(-EMSGSIZE, "ctl: an answer from '%s'", c->path);
		ssize_t n =
			recv(c->fd, c->input + c->nr_input, sizeof(c->input) - c->nr_input, 0);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN && c->nr_timeouts++ < c->patience)
			continue;
		if (n <= 0)
			return explain_receive(c, n);
		c->nr_input += (size_t)n;
	}
	c->nr_taken = (size_t)(end - c->input) + 1;
	if (end > c->input && end[-1] == '\r')
		end--;
	*end = '\0';
	c->line = c->input;
	return 0;
}

/* An answer, or an event. */
static int read_object(struct ctl *c, json_t **ret)
{
	int r = read_line(c);

	if (r < 0)
		return r;
	json_t *object = json_loads(c->line, 0, NULL);
	if (json_is_object(object)) {
		*ret = object;
		return 0;
	}
	json_decref(object);
	return log_refuse(-EPROTO, "ctl: '%s' does not speak QMP: is it another program's?",
			  c->path);
}

/* A device goes by its id and by the host's name for it. */
static bool is_awaited(const struct ctl *c, const json_t *called)
{
	const char *text = json_string_value(called);

	return text && c->awaited && strcmp(text, c->awaited) == 0;
}

/* What becomes of the device that is awaited may be told before the answer, or after. */
static void note_event(struct ctl *c, const json_t *event)
{
	const char *name = json_string_value(json_object_get(event, "event"));
	const json_t *data = json_object_get(event, "data");
	const json_t *id = json_object_get(data, "device");
	const json_t *host = json_object_get(json_object_get(data, "x-ballast"), "host");

	if (!name || (!is_awaited(c, id) && !is_awaited(c, host)))
		return;
	if (strcmp(name, "DEVICE_DELETED") == 0)
		c->outcome = IS_DELETED;
	else if (strcmp(name, "DEVICE_UNPLUG_GUEST_ERROR") == 0)
		c->outcome = IS_KEPT;
}

/* The next answer that is none of the events in between. */
static int read_answer(struct ctl *c, json_t **ret)
{
	for (;;) {
		int r = read_object(c, ret);
		if (r < 0 || !json_object_get(*ret, "event"))
			return r;
		note_event(c, *ret);
		json_decref(*ret);
	}
}

static int await_outcome(struct ctl *c)
{
	json_t *event = NULL;
	int r = 0;

	while (r >= 0 && c->outcome == NO_OUTCOME) {
		r = read_object(c, &event);
		if (r < 0)
			break;
		note_event(c, event);
		json_decref(event);
	}
	return r;
}

/* A command is short, and goes in one piece, with the fds that there may be. */
static int send_text(struct ctl *c, const char *text)
{
	union {
		struct cmsghdr header;
		char bytes[CMSG_SPACE(sizeof(c->fds))];
	} control = { .header = { .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS } };
	struct iovec bytes = { (char *)(uintptr_t)text, strlen(text) };
	size_t size = c->nr_fds * sizeof(int);
	const struct msghdr message = { .msg_iov = &bytes,
					.msg_iovlen = 1,
					.msg_control = &control,
					.msg_controllen = size > 0 ? CMSG_SPACE(size) : 0 };
	ssize_t n;

	control.header.cmsg_len = CMSG_LEN(size);
	memcpy(CMSG_DATA(&control.header), c->fds, size);
	c->nr_fds = 0;
	do
		n = sendmsg(c->fd, &message, MSG_NOSIGNAL);
	while (n < 0 && errno == EINTR);
	if (n == (ssize_t)bytes.iov_len)
		return 0;
	return log_err(n < 0 ? -errno : -EMSGSIZE, "ctl: writing to '%s'", c->path);
}

/*
 * With its newline at once: the guest may have ended, and the socket with it, as soon as the last
 * brace is there. Takes `arguments`, which may be NULL.
 */
static int send_command(struct ctl *c, const char *name, json_t *arguments)
{
	json_t *request = json_pack("{s:s,s:o*}", "execute", name, "arguments", arguments);
	autofree char *text = request ? json_dumps(request, 0) : NULL;
	autofree char *line = NULL;

	json_decref(request);
	if (!text || asprintf(&line, "%s\n", text) < 0) {
		line = NULL; /* it is not defined otherwise */
		return log_err(-ENOMEM, "ctl: a command");
	}
	return send_text(c, line);
}

/* The whole answer: its member is "return" or "error". Takes `arguments`. */
static int ask(struct ctl *c, const char *name, json_t *arguments, json_t **ret_answer)
{
	int r = send_command(c, name, arguments);

	return r < 0 ? r : read_answer(c, ret_answer);
}

static const char *error_text(const json_t *answer)
{
	const char *text =
		json_string_value(json_object_get(json_object_get(answer, "error"), "desc"));

	return text ? text : "refused, without a reason";
}

/* What was returned. A refusal is told: to a program as it came. Takes `answer`. */
static int take_result(struct ctl *c, json_t *answer, json_t **ret_result)
{
	*ret_result = json_incref(json_object_get(answer, "return"));
	if (!*ret_result && c->output == AS_JSON)
		puts(c->line);
	else if (!*ret_result)
		(void)log_err(0, "ctl: %s", error_text(answer));
	json_decref(answer);
	return *ret_result ? 0 : -EREMOTEIO;
}

/* Takes `arguments`. */
static int get_result(struct ctl *c, const char *name, json_t *arguments, json_t **ret_result)
{
	json_t *answer = NULL;

	int r = ask(c, name, arguments, &answer);
	return r < 0 ? r : take_result(c, answer, ret_result);
}

static int misunderstood(const json_error_t *error)
{
	return log_refuse(-EPROTO, "ctl: an answer of another version of ballast: %s",
			  error->text);
}

/* A socket that neither takes nor gives anything for long holds nobody up. */
static int set_timeouts(int fd)
{
	const struct timeval timeout = { .tv_sec = ANSWER_TIMEOUT };

	if (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout)) < 0 ||
	    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout)) < 0)
		return -errno;
	return 0;
}

static int connect_socket(struct ctl *c)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	if (strlen(c->path) >= sizeof(address.sun_path))
		return log_err(-ENAMETOOLONG, "ctl: '%s'", c->path);
	strcpy(address.sun_path, c->path);
	c->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (c->fd < 0)
		return log_err(-errno, "ctl: socket");
	int r = set_timeouts(c->fd);
	if (r < 0)
		return log_err(r, "ctl: socket");
	if (connect(c->fd, (struct sockaddr *)&address, sizeof(address)) == 0)
		return 0;
	if (errno == ENOENT || errno == ECONNREFUSED)
		return log_err(-errno,
			       "ctl: nobody listens at '%s' (does the guest run, with "
			       "--qmp unix:%s?)",
			       c->path, c->path);
	if (errno == EACCES)
		return log_err(-errno, "ctl: '%s' is another user's: be who runs it, or root",
			       c->path);
	return log_err(-errno, "ctl: connecting to '%s'", c->path);
}

/* Up to where commands are taken. */
static int open_connection(struct ctl *c)
{
	json_t *answer = NULL;

	int r = connect_socket(c);
	if (r >= 0)
		r = read_answer(c, &answer);
	if (r < 0)
		return r;
	if (!json_object_get(answer, "QMP")) {
		(void)log_err(0, "ctl: '%s': %s", c->path, error_text(answer));
		r = -EREMOTEIO;
	}
	json_decref(answer);
	answer = NULL;
	if (r >= 0)
		r = get_result(c, "qmp_capabilities", NULL, &answer);
	json_decref(answer);
	return r;
}

/* For people */

#define TEXT_SIZE 32u

/* MiB where it is that much. */
static const char *format_bytes(json_int_t n, char text[TEXT_SIZE])
{
	long long mib = n / MIB;

	if (n == 0)
		(void)snprintf(text, TEXT_SIZE, "0 MiB");
	else if (n < MIB)
		(void)snprintf(text, TEXT_SIZE, "%lld bytes", (long long)n);
	else if (n % MIB == 0)
		(void)snprintf(text, TEXT_SIZE, "%lld MiB", mib);
	else
		(void)snprintf(text, TEXT_SIZE, "%lld.%lld MiB", mib, n % MIB * 10 / MIB);
	return text;
}

static void print_pinners(const json_t *owners, json_int_t nr_inhibitors)
{
	size_t nr_owners = json_array_size(owners);
	json_int_t nr_more = nr_inhibitors - (json_int_t)nr_owners;

	for (size_t i = 0; i < nr_owners; i++) {
		const char *name = json_string_value(json_array_get(owners, i));
		printf("%s%s", i > 0 ? ", " : "", name ? name : "somebody");
	}
	if (nr_more > 0)
		printf(" and %lld more", (long long)nr_more);
	printf(" %s guest memory pinned\n", nr_inhibitors == 1 ? "has" : "have");
}

/* The main command's: for a program it is printed as it came. Takes `arguments`. */
static int get_answer(struct ctl *c, const char *name, json_t *arguments, json_t **ret_result)
{
	int r = get_result(c, name, arguments, ret_result);

	if (r >= 0 && c->output == AS_JSON)
		puts(c->line);
	return r;
}

/* Takes `arguments`, which may be NULL. */
static int just_do(struct ctl *c, const char *name, json_t *arguments, const char *done)
{
	json_t *result = NULL;

	int r = get_answer(c, name, arguments, &result);
	if (r >= 0 && c->output == FOR_PEOPLE)
		puts(done);
	json_decref(result);
	return r;
}

/* What it takes to attach a device, opened by who may: what listens may open nothing any more. */
struct opening {
	char name[VFIO_NAME_SIZE];
	unsigned int group;
	int group_fd;     /* owned; -1 */
	int container_fd; /* owned; -1 */
};

static int open_device(const struct ctl *c, struct opening *o)
{
	int r = vfio_pci_look(c->word, c->balloon, o->name, &o->group);
	if (r < 0)
		return r;
	r = vfio_open_group(o->group, &o->group_fd);
	/* Perhaps the guest has it, by another device. */
	if (r == -EBUSY)
		return 0;
	if (r < 0)
		return vfio_group_explain(o->group, r);
	r = vfio_open_container(&o->container_fd);
	return r < 0 ? log_err(r, "ctl: open /dev/vfio/vfio: load the module vfio_iommu_type1, "
				  "or ask for permission")
		     : 0;
}

static int ask_for_device(struct ctl *c, const struct opening *o)
{
	json_t *result = NULL;
	char text[TEXT_SIZE];

	if (o->group_fd >= 0) {
		c->fds[0] = o->group_fd;
		c->fds[1] = o->container_fd;
		c->nr_fds = 2;
	}
	c->patience = ATTACH_PATIENCE;
	int r = get_answer(
		c, "device_add",
		json_pack("{s:s,s:s,s:s,s:s,s:I,s:s}", "driver", "vfio-pci", "host", o->name,
			  "id", o->name, "balloon",
			  c->balloon == VFIO_BALLOON_ALLOWED ? "allowed" : "inhibits",
			  "x-ballast-group", (json_int_t)o->group, "x-ballast-on-error",
			  c->on_error == DEVICE_ERROR_DETACHES ? "detach" : "stop"),
		&result);
	json_int_t back = json_integer_value(
		json_object_get(json_object_get(result, "x-ballast"), "came-back"));
	if (r >= 0 && c->output == FOR_PEOPLE)
		puts("the device is attached");
	if (r >= 0 && c->output == FOR_PEOPLE && back > 0)
		printf("the host has %s less: what the balloon had given to it came back\n",
		       format_bytes(back, text));
	json_decref(result);
	return r;
}

static int attach_run(struct ctl *c)
{
	struct opening opening = { .group_fd = -1, .container_fd = -1 };

	int r = open_device(c, &opening);
	if (r >= 0)
		r = ask_for_device(c, &opening);
	vfio_close(&opening.container_fd);
	vfio_close(&opening.group_fd);
	return r;
}

/* Success is that the guest has let go of it. */
static int detach_run(struct ctl *c)
{
	char name[VFIO_NAME_SIZE];
	json_t *result = NULL;

	c->awaited = vfio_pci_name(c->word, name, sizeof(name)) < 0 ? c->word : name;
	int r = get_answer(c, "device_del",
			   c->force ? json_pack("{s:s,s:b}", "id", c->awaited, "force", 1)
				    : json_pack("{s:s}", "id", c->awaited),
			   &result);
	json_decref(result);
	if (r < 0)
		return r;
	c->patience = DETACH_PATIENCE;
	r = await_outcome(c);
	if (r < 0)
		return r;
	if (c->outcome == IS_KEPT)
		return log_refuse(
			-ETIMEDOUT,
			"ctl: the guest has not let go of %s within %u s: try again, or "
			"take it with --force",
			c->word, ATTACH_EJECT_SECONDS);
	if (c->output == FOR_PEOPLE)
		puts("the device is detached");
	return 0;
}

static int policy_run(struct ctl *c)
{
	return just_do(c, "x-ballast-set-policy", json_pack("{s:s}", "policy", c->word),
		       strcmp(c->word, "inhibit") == 0
			       ? "with a device assigned nothing is given back to the host"
			       : "with a device assigned the host gets what the balloon holds");
}

static int auto_run(struct ctl *c)
{
	bool on = strcmp(c->word, "on") == 0;

	return just_do(c, "x-ballast-set-auto", json_pack("{s:b}", "enabled", (int)on),
		       on ? "the balloon follows what guest and host need"
			  : "the balloon stays as it was last asked to be");
}

static int link_run(struct ctl *c)
{
	bool on = strcmp(c->word, "on") == 0;

	return just_do(c, "set_link", json_pack("{s:s,s:b}", "name", c->name, "up", (int)on),
		       on ? "the cable is plugged in" : "the cable is pulled");
}

static int print_asked(struct ctl *c)
{
	char keep[TEXT_SIZE], all[TEXT_SIZE];
	json_t *memory = NULL;
	json_error_t error;
	json_int_t ram = 0;

	int r = get_result(c, "x-ballast-query-memory", NULL, &memory);
	if (r >= 0 && json_unpack_ex(memory, &error, 0, "{s:I}", "ram", &ram) < 0)
		r = misunderstood(&error);
	json_decref(memory);
	if (r < 0)
		return r;
	json_int_t size = c->size < (uint64_t)ram ? (json_int_t)c->size : ram;
	printf("the guest is asked to keep %s of %s\n", format_bytes(size, keep),
	       format_bytes(ram, all));
	return 0;
}

/* What came with the answer because the host gains nothing. */
static int print_loss(json_t *loss)
{
	json_error_t error;
	json_int_t nr_inhibitors = 0;
	const char *policy = NULL;
	json_t *owners = NULL; /* borrowed */

	if (json_unpack_ex(loss, &error, 0, "{s:s,s:I,s:o}", "policy", &policy, "inhibitors",
			   &nr_inhibitors, "inhibited-by", &owners) < 0)
		return misunderstood(&error);
	printf("the host gains nothing by it: ");
	if (nr_inhibitors > 0)
		print_pinners(owners, nr_inhibitors);
	else
		puts("the guest's driver does not promise to tell before it uses a page again");
	if (strcmp(policy, "unsafe") == 0)
		puts("what the guest gives up is discarded all the same (unsafe): this corrupts "
		     "memory");
	return 0;
}

static int balloon_run(struct ctl *c)
{
	json_t *result = NULL;

	int r = get_answer(c, "balloon", json_pack("{s:I}", "value", (json_int_t)c->size),
			   &result);
	if (r >= 0 && c->output == FOR_PEOPLE)
		r = print_asked(c);
	json_t *loss = json_object_get(result, "x-ballast");
	if (r >= 0 && c->output == FOR_PEOPLE && loss)
		r = print_loss(loss);
	json_decref(result);
	return r;
}

/* Status */

static const char *const status_parts[] = { "query-status", "query-memory-size-summary",
					    "query-cpus-fast", "query-pci" };

/* *ret: the answers by the names of the commands. */
static int get_status(struct ctl *c, json_t **ret)
{
	json_t *status = json_object();
	int r = 0;

	for (unsigned int i = 0; i < nitems(status_parts) && r >= 0; i++) {
		json_t *part = NULL;
		r = get_result(c, status_parts[i], NULL, &part);
		if (r >= 0 && json_object_set_new(status, status_parts[i], part) < 0)
			r = log_err(-ENOMEM, "ctl: status");
	}
	*ret = status;
	return r;
}

static int print_cpus(const json_t *cpus)
{
	json_error_t error;
	size_t i;
	json_t *cpu;

	printf("cpus     %zu, threads", json_array_size(cpus));
	json_array_foreach(cpus, i, cpu)
	{
		json_int_t id = 0;
		if (json_unpack_ex(cpu, &error, 0, "{s:I}", "thread-id", &id) < 0)
			return misunderstood(&error);
		printf(" %lld", (long long)id);
	}
	putchar('\n');
	return 0;
}

static int print_pci_device(json_t *device)
{
	int slot = 0, function = 0, vendor = 0, id = 0;
	json_error_t error;
	const char *name = NULL;

	if (json_unpack_ex(device, &error, 0, "{s:i,s:i,s:s,s:{s:i,s:i}}", "slot", &slot,
			   "function", &function, "qdev_id", &name, "id", "vendor", &vendor,
			   "device", &id) < 0)
		return misunderstood(&error);
	printf("pci      %02x.%x  %04x:%04x  %s\n", (unsigned int)slot, (unsigned int)function,
	       (unsigned int)vendor, (unsigned int)id, name);
	return 0;
}

static int print_pci(const json_t *buses)
{
	json_t *devices = json_object_get(json_array_get(buses, 0), "devices");
	size_t i;
	json_t *device;

	json_array_foreach(devices, i, device)
	{
		int r = print_pci_device(device);
		if (r < 0)
			return r;
	}
	return 0;
}

static int print_status(json_t *status)
{
	json_t *cpus = NULL, *pci = NULL; /* borrowed */
	char text[TEXT_SIZE];
	json_error_t error;
	const char *state = NULL;
	json_int_t ram = 0;

	if (json_unpack_ex(status, &error, 0, "{s:{s:s},s:{s:I},s:o,s:o}", "query-status",
			   "status", &state, "query-memory-size-summary", "base-memory", &ram,
			   "query-cpus-fast", &cpus, "query-pci", &pci) < 0)
		return misunderstood(&error);
	printf("status   %s\nmemory   %s\n", state, format_bytes(ram, text));
	int r = print_cpus(cpus);
	return r < 0 ? r : print_pci(pci);
}

static int status_run(struct ctl *c)
{
	json_t *status = NULL;

	int r = get_status(c, &status);
	autofree char *text = r >= 0 && c->output == AS_JSON ? json_dumps(status, 0) : NULL;
	if (text)
		puts(text);
	else if (r >= 0 && c->output == AS_JSON)
		r = log_err(-ENOMEM, "ctl: status");
	else if (r >= 0)
		r = print_status(status);
	json_decref(status);
	return r;
}

/* The answer to x-ballast-query-memory; pointers into it. */
struct memory_report {
	json_int_t ram, pinned, target, actual, held, reclaimed;
	json_int_t held_back, incomplete, resting, nr_inhibitors;
	json_int_t granule, nr_pinners;
	json_int_t min, max;
	json_int_t waiting, retries;
	int has_balloon, running, tells_host, resetting, automatic;
	const char *last_change;
	const char *policy;
	json_t *owners;
	json_t *discards;
	json_t *reports;
};

static int read_report(json_t *memory, struct memory_report *ret)
{
	json_error_t error;

	if (json_unpack_ex(
		    memory, &error, 0,
		    "{s:I,s:I,s:b,s:I,s:I,s:I,s:I,s:{s:I,s:I,s:I,s:I,s:o},s:s,"
		    "s:{s:b,s:b,s:b},s:{s:I,s:I},s:{s:b,s:I,s:I,s:s},s:o,s:o,s:{s:I,s:I}}",
		    "ram", &ret->ram, "pinned", &ret->pinned, "balloon", &ret->has_balloon,
		    "target", &ret->target, "actual", &ret->actual, "held", &ret->held,
		    "reclaimed", &ret->reclaimed, "held-back", "bytes", &ret->held_back,
		    "incomplete", &ret->incomplete, "resting", &ret->resting, "inhibitors",
		    &ret->nr_inhibitors, "inhibited-by", &ret->owners, "policy", &ret->policy,
		    "driver", "running", &ret->running, "tells-host-first", &ret->tells_host,
		    "resetting", &ret->resetting, "granules", "size", &ret->granule, "pinners",
		    &ret->nr_pinners, "auto", "enabled", &ret->automatic, "min", &ret->min,
		    "max", &ret->max, "last-change", &ret->last_change, "discards",
		    &ret->discards, "reports", &ret->reports, "deflates", "waiting",
		    &ret->waiting, "retries", &ret->retries) < 0)
		return misunderstood(&error);
	return 0;
}

static void print_amount(const char *name, json_int_t bytes, const char *meaning)
{
	char text[TEXT_SIZE];

	printf("%-10s %16s%s%s\n", name, format_bytes(bytes, text), *meaning ? "  " : "",
	       meaning);
}

static const char *format_granule(json_int_t n, char text[TEXT_SIZE])
{
	if (n % MIB == 0)
		return format_bytes(n, text);
	(void)snprintf(text, TEXT_SIZE, "%lld KiB", (long long)n >> 10);
	return text;
}

static void print_policy(const struct memory_report *m)
{
	printf("%-10s %16s  ", "policy", m->policy);
	char text[TEXT_SIZE];

	if (m->nr_inhibitors > 0)
		print_pinners(m->owners, m->nr_inhibitors);
	else if (m->nr_pinners == 0)
		puts("nobody has guest memory pinned");
	else if (strcmp(m->policy, "inhibit") == 0)
		puts("guest memory is pinned, and the driver does not ask first");
	else
		printf("devices let go of it in granules of %s\n",
		       format_granule(m->granule, text));
}

static void print_driver(const struct memory_report *m)
{
	printf("%-10s %16s%s\n", "driver", m->running ? "running" : "not running",
	       !m->running     ? ""
	       : m->tells_host ? "  it asks before it uses a page again"
			       : "  it may use a page again without asking");
	if (m->resetting)
		puts("a reset of the driver waits until all memory is the guest's again");
	if (m->waiting > 0)
		printf("a deflate waits for host memory, after %lld retries\n",
		       (long long)m->retries);
}

static void print_auto(const struct memory_report *m)
{
	char min[TEXT_SIZE], max[TEXT_SIZE];

	if (m->automatic)
		printf("%-10s %16s  the guest keeps %s to %s; last change: %s\n", "auto", "on",
		       format_bytes(m->min, min), format_bytes(m->max, max), m->last_change);
}

/* Rows of nothing but zeroes are left out, unless they are what is going on. */
static int print_counts(const char *name, json_t *counts, const char *policy)
{
	json_int_t taken = 0, calls = 0, bytes = 0, failures = 0;
	char taken_text[TEXT_SIZE], bytes_text[TEXT_SIZE];
	json_error_t error;

	if (json_unpack_ex(counts, &error, 0, "{s:I,s:I,s:I,s:I}", "taken", &taken, "calls",
			   &calls, "bytes", &bytes, "failures", &failures) < 0)
		return misunderstood(&error);
	if (taken || calls || failures || strcmp(name, policy) == 0)
		printf("%-10s %16s %16s %9lld %9lld\n", name, format_bytes(taken, taken_text),
		       format_bytes(bytes, bytes_text), (long long)calls, (long long)failures);
	return 0;
}

static int print_discards(const struct memory_report *m)
{
	const char *name;
	json_t *counts;
	int r = 0;

	printf("\n%-10s %16s %16s %9s %9s\n", "discards", "given up", "discarded", "calls",
	       "failed");
	json_object_foreach(m->discards, name, counts)
	{
		if (r >= 0)
			r = print_counts(name, counts, m->policy);
	}
	return r < 0 ? r : print_counts("reported", m->reports, m->policy);
}

static int print_memory(json_t *memory)
{
	struct memory_report m = { 0 };

	int r = read_report(memory, &m);
	if (r < 0)
		return r;
	print_amount("ram", m.ram, "");
	print_amount("pinned", m.pinned, "of it, for assigned devices");
	if (!m.has_balloon) {
		puts("balloon                none  start the guest with --balloon");
		return 0;
	}
	print_amount("target", m.target, "wanted in the balloon");
	print_amount("actual", m.actual, "in the balloon, the guest's driver says");
	print_amount("held", m.held, "taken from the guest");
	print_amount("reclaimed", m.reclaimed, "of what is held: given back to the host");
	print_amount("held back", m.held_back, "of what is held: not given back");
	if (m.incomplete > 0)
		print_amount("incomplete", m.incomplete,
			     "of what is held back: parts of larger pieces");
	if (m.resting > 0)
		print_amount("resting", m.resting,
			     "of what is held back: given back in a second or two");
	print_policy(&m);
	print_driver(&m);
	print_auto(&m);
	return print_discards(&m);
}

static int memory_run(struct ctl *c)
{
	json_t *result = NULL;

	int r = get_answer(c, "x-ballast-query-memory", NULL, &result);
	if (r >= 0 && c->output == FOR_PEOPLE)
		r = print_memory(result);
	json_decref(result);
	return r;
}

/* Statistics */

static const char query_stats[] = "x-ballast-query-guest-stats";

/* The others count events. */
static const char *const stats_in_bytes[] = {
	"swap-in", "swap-out", "free-memory", "total-memory", "available-memory", "disk-caches",
};

static void print_stat(const char *name, json_int_t value)
{
	char text[TEXT_SIZE];

	if (strncmp(name, "stat-", 5) == 0)
		name += 5;
	for (unsigned int i = 0; i < nitems(stats_in_bytes); i++) {
		if (strcmp(name, stats_in_bytes[i]) == 0) {
			printf("%-16s %16s\n", name, format_bytes(value, text));
			return;
		}
	}
	printf("%-16s %16lld\n", name, (long long)value);
}

static int print_stats(json_t *answer)
{
	json_error_t error;
	json_int_t updated = 0;
	json_t *stats = NULL; /* borrowed */
	const char *name;
	json_t *value;

	if (json_unpack_ex(answer, &error, 0, "{s:I,s:o}", "last-update", &updated, "stats",
			   &stats) < 0)
		return misunderstood(&error);
	long long age = (long long)time(NULL) - updated;
	if (updated == 0)
		return 0; /* never: there are none */
	if (age > 1)
		printf("as of %lld s ago:\n", age);
	json_object_foreach(stats, name, value)
	{
		print_stat(name, json_integer_value(value));
	}
	return 0;
}

/* The answer is at c->line, too. */
static int get_stats(struct ctl *c, json_int_t *ret_nr_updates, json_t **ret_stats)
{
	json_error_t error;

	int r = get_result(c, query_stats, NULL, ret_stats);
	if (r >= 0 &&
	    json_unpack_ex(*ret_stats, &error, 0, "{s:I}", "updates", ret_nr_updates) < 0)
		r = misunderstood(&error);
	return r;
}

/* *ret_stats: new ones, or, with -ENODATA, those there are. */
static int await_stats(struct ctl *c, json_int_t nr_before, json_t **ret_stats)
{
	const struct timespec pause = { .tv_nsec = STATS_PAUSE_MS * 1000000l };
	json_int_t nr_updates = nr_before;

	for (unsigned int i = 0; i < STATS_TRIES; i++) {
		json_decref(*ret_stats);
		*ret_stats = NULL;
		int r = get_stats(c, &nr_updates, ret_stats);
		if (r < 0 || nr_updates != nr_before)
			return r;
		(void)nanosleep(&pause, NULL); /* a little less does not matter */
	}
	return -ENODATA;
}

/*
 * 0: asked, or about to be able to: worth waiting for. A guest without a driver is told at once.
 */
static int request_stats(struct ctl *c)
{
	static const char name[] = "x-ballast-request-guest-stats";
	json_t *answer = NULL;
	json_t *result = NULL;

	int r = ask(c, name, NULL, &answer);
	if (r < 0)
		return r;
	const char *class =
		json_string_value(json_object_get(json_object_get(answer, "error"), "class"));
	if (!class || strcmp(class, "DeviceNotActive") != 0) {
		json_decref(answer);
		return 0;
	}
	return take_result(c, answer, &result);
}

static int stats_run(struct ctl *c)
{
	json_int_t nr_before = 0;
	json_t *stats = NULL;

	int r = get_stats(c, &nr_before, &stats);
	if (r >= 0)
		r = request_stats(c);
	if (r >= 0)
		r = await_stats(c, nr_before, &stats);
	if (r == -ENODATA)
		(void)log_err(0, "ctl: the guest's balloon driver has not answered within %d s",
			      STATS_TRIES * STATS_PAUSE_MS / 1000);
	if ((r >= 0 || r == -ENODATA) && c->output == AS_JSON)
		puts(c->line);
	else if ((r >= 0 || r == -ENODATA) && print_stats(stats) < 0)
		r = -EPROTO;
	json_decref(stats);
	return r;
}

/* The command line */

#define ON_OFF "on off"

static const struct command commands[] = {
	{ "status", NO_OPERAND, status_run },
	{ "balloon", SIZE_OPERAND, balloon_run },
	{ "memory", NO_OPERAND, memory_run },
	{ "stats", NO_OPERAND, stats_run },
	{ "policy", WORD_OPERAND, policy_run, "inhibit coordinated" },
	{ "auto", WORD_OPERAND, auto_run, ON_OFF },
	{ "link", NAME_AND_WORD, link_run, ON_OFF },
	{ "attach", BDF_OPERAND, attach_run, "%%" },
	{ "detach", BDF_OPERAND, detach_run, "%%" },
	{ "stop", .execute = "stop", .done = "the guest is stopped" },
	{ "cont", .execute = "cont", .done = "the guest goes on" },
	{ "reset", .execute = "system_reset", .done = "the guest is reset" },
	{ "powerdown", .execute = "system_powerdown", .done = "the power button is pressed" },
	{ "quit", .execute = "quit", .done = "the guest is ended" },
};

static unsigned int nr_operands_of(const struct command *command)
{
	return command->operand == NO_OPERAND ? 0 : command->operand == NAME_AND_WORD ? 2 : 1;
}

const char *ctl_command(unsigned int i, unsigned int *ret_nr_operands, const char **ret_words)
{
	if (i >= nitems(commands))
		return NULL;
	*ret_nr_operands = nr_operands_of(&commands[i]);
	*ret_words = commands[i].words ? commands[i].words : "";
	return commands[i].name;
}

static const struct command *find_command(const char *name)
{
	for (unsigned int i = 0; i < nitems(commands); i++) {
		if (strcmp(commands[i].name, name) == 0)
			return &commands[i];
	}
	return NULL;
}

static int refuse_command(const char *name)
{
	char names[256] = "";

	for (unsigned int i = 0; i < nitems(commands); i++)
		text_add(names, sizeof(names), "%s%s", i == 0 ? "" : ", ", commands[i].name);
	return log_refuse(-EINVAL, "ctl: command '%s': it is one of %s", name, names);
}

static int parse_word(struct ctl *c, const char *word)
{
	c->word = word;
	if (option_place(c->command->words, word) >= 0)
		return 0;
	return log_refuse(-EINVAL, "ctl: %s '%s': it is one of: %s", c->command->name, word,
			  c->command->words);
}

/* "0000:01:00.0", or that and what --device takes behind it. */
static int parse_device(struct ctl *c, char *text)
{
	char name[VFIO_NAME_SIZE];

	c->word = strsep(&text, ",");
	if (vfio_pci_name(c->word, name, sizeof(name)) < 0)
		return log_refuse(
			-EINVAL,
			"ctl: attach '%.128s': a PCI device is called 0000:01:00.0, an "
			"mdev after its UUID",
			c->word);
	for (char *key = strsep(&text, ","); key; key = strsep(&text, ",")) {
		if (strcmp(key, "balloon=allowed") == 0)
			c->balloon = VFIO_BALLOON_ALLOWED;
		else if (strcmp(key, "on-error=detach") == 0)
			c->on_error = DEVICE_ERROR_DETACHES;
		else
			return log_refuse(-EINVAL,
					  "ctl: attach key '%s': there are balloon=allowed and "
					  "on-error=detach",
					  key);
	}
	return 0;
}

static int parse_operands(struct ctl *c, char *const *operands, unsigned int nr_operands)
{
	if (nr_operands < 2)
		return log_refuse(-EINVAL,
				  "ctl: %s is missing: ballast ctl SOCKET COMMAND (see --help)",
				  nr_operands == 0 ? "the socket's path" : "the command");
	c->path = operands[0];
	c->command = find_command(operands[1]);
	if (!c->command)
		return refuse_command(operands[1]);
	unsigned int nr_wanted = 2 + nr_operands_of(c->command);
	if (nr_operands > nr_wanted)
		return log_refuse(-EINVAL, "ctl: '%s' is too much after %s",
				  operands[nr_wanted], c->command->name);
	if (c->force && c->command->run != detach_run)
		return log_refuse(-EINVAL, "ctl: --force is for detach");
	if (c->command->operand == NO_OPERAND)
		return 0;
	if (c->command->operand == NAME_AND_WORD) {
		if (nr_operands < nr_wanted)
			return log_refuse(
				-EINVAL, "ctl: link: it is link NAME on|off, as link net0 off");
		c->name = operands[2];
		return parse_word(c, operands[3]);
	}
	if (c->command->operand == BDF_OPERAND) {
		c->word = operands[2];
		if (!c->word || !*c->word)
			return log_refuse(-EINVAL, "ctl: %s: which device? As %s 0000:01:00.0",
					  c->command->name, c->command->name);
		return c->command->run == attach_run ? parse_device(c, operands[2]) : 0;
	}
	if (c->command->operand == WORD_OPERAND)
		return parse_word(c, nr_operands < nr_wanted ? "" : operands[2]);
	if (nr_operands < nr_wanted || options_parse_size(operands[2], &c->size) < 0 ||
	    c->size == 0 || c->size > INT64_MAX)
		return log_refuse(-EINVAL,
				  "ctl: balloon '%s': a size such as 512M or 4G, please",
				  nr_operands < nr_wanted ? "" : operands[2]);
	return 0;
}

/* 1: the help was asked for. */
static int parse(struct ctl *c, int argc, char **argv)
{
	char *operands[5] = { 0 };
	unsigned int nr_operands = 0;

	for (int i = 1; i < argc; i++) {
		if (strcmp(argv[i], "-h") == 0 || strcmp(argv[i], "--help") == 0)
			return 1;
		if (strcmp(argv[i], "--json") == 0)
			c->output = AS_JSON;
		else if (strcmp(argv[i], "--force") == 0)
			c->force = true;
		else if (argv[i][0] == '-')
			return log_refuse(
				-EINVAL,
				"ctl: option '%s': there are --json, --force and --help",
				argv[i]);
		else if (nr_operands < nitems(operands))
			operands[nr_operands++] = argv[i];
	}
	return parse_operands(c, operands, nr_operands);
}

static int run(struct ctl *c)
{
	int r = open_connection(c);

	if (r < 0)
		return r;
	return c->command->run ? c->command->run(c)
			       : just_do(c, c->command->execute, NULL, c->command->done);
}

int ctl_main(int argc, char **argv)
{
	autofree struct ctl *c = calloc(1, sizeof(*c));

	if (!c)
		return log_err(-ENOMEM, "ctl"), STATUS_FAILED;
	c->fd = -1;
	int r = parse(c, argc, argv);
	if (r < 0)
		return STATUS_USAGE;
	if (r == 0)
		r = run(c);
	else
		(void)fputs(help, stdout); /* looked at below */
	fd_close(&c->fd);
	if (fflush(stdout) != 0 || ferror(stdout))
		r = log_err(-EIO, "ctl: standard output");
	return r < 0 ? STATUS_FAILED : 0;
}
