/* SPDX-License-Identifier: MIT */
#include "vmm/qmp.h"

#include <errno.h>
#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "base/fd.h"
#include "base/log.h"

#include "vmm/machine.h"
#include "vmm/options.h"

#define GENERIC_ERROR "GenericError"
#define COMMAND_NOT_FOUND "CommandNotFound"
#define DEVICE_NOT_ACTIVE "DeviceNotActive"
#define DEVICE_NOT_FOUND "DeviceNotFound"

#define READ_SIZE 4096u
#define MAX_STATS_PERIOD 31536000 /* a year */

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
	uint32_t waits_for; /* EPOLLIN, EPOLLOUT */
	enum place place;
	unsigned int depth; /* of open braces and brackets */
	size_t nr_line;
	size_t nr_output;
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
	const json_t *argument;  /* checked; NULL: not given */
	const json_t *second;    /* likewise */
	const char *error_class; /* with `error` */
	json_t *error;           /* owned; what went wrong, or NULL */
};

struct command {
	const char *name;
	/* What is returned, or NULL: fail() has said why not, or there is no memory. */
	json_t *(*run)(struct call *call);
	const char *argument; /* the only one there may be, but for `second`; NULL: none */
	json_type type;       /* of it; JSON_TRUE: a boolean. A list may be left out */
	json_int_t min;
	json_int_t max;
	const char *second; /* a boolean; NULL: none */
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

/* JSON numbers are signed here; a guest's own numbers may be anything. */
static json_int_t number(uint64_t n)
{
	return n > INT64_MAX ? INT64_MAX : (json_int_t)n;
}

/* Answers about the program */

static json_t *describe_version(void)
{
	int major = 0, minor = 0, micro = 0;

	(void)sscanf(BALLAST_VERSION, "%d.%d.%d", &major, &minor, &micro); /* or 0 */
	return json_pack("{s:{s:i,s:i,s:i},s:s}", "qemu", "major", major, "minor", minor,
			 "micro", micro, "package", "ballast-" BALLAST_VERSION);
}

static json_t *qmp_capabilities_run(struct call *call)
{
	if (call->client->negotiated)
		return fail(call, COMMAND_NOT_FOUND,
			    "qmp_capabilities comes once, and has come already");
	if (json_array_size(call->argument) > 0) {
		const char *name = json_string_value(json_array_get(call->argument, 0));
		return fail(call, GENERIC_ERROR, "enable: there is no capability '%s'",
			    name ? name : "(not a string)");
	}
	call->client->negotiated = true;
	return json_object();
}

static json_t *query_version_run(struct call *call)
{
	(void)call;
	return describe_version();
}

static json_t *query_commands_run(struct call *call)
{
	json_t *list = json_array();

	for (unsigned int i = 0; i < call->nr_commands; i++) {
		json_t *item = json_pack("{s:s}", "name", call->commands[i].name);
		if (json_array_append_new(list, item) < 0) {
			json_decref(list);
			return NULL;
		}
	}
	return list;
}

static json_t *query_status_run(struct call *call)
{
	(void)call;
	/* A guest that does not run has no control socket. */
	return json_pack("{s:s,s:b,s:b}", "status", "running", "running", 1, "singlestep", 0);
}

static json_t *system_powerdown_run(struct call *call)
{
	machine_power_down(call->machine);
	return json_object();
}

/* The answer is on its way before the event loop comes to the end of the guest. */
static json_t *quit_run(struct call *call)
{
	machine_quit(call->machine);
	return json_object();
}

/* Answers about memory */

static json_t *fail_without_balloon(struct call *call)
{
	return fail(call, DEVICE_NOT_ACTIVE,
		    "this guest has no balloon: start it with --balloon");
}

static json_t *list_owners(const struct reclaim_figures *figures)
{
	json_t *list = json_array();

	for (unsigned int i = 0; i < figures->nr_owners; i++) {
		if (json_array_append_new(list, json_string(figures->owners[i])) < 0) {
			json_decref(list);
			return NULL;
		}
	}
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
	json_int_t value = json_integer_value(call->argument);
	struct machine_memory memory;

	int r = machine_set_memory(call->machine, (uint64_t)value);
	machine_get_memory(call->machine, &memory);
	if (r == -ENODEV)
		return fail_without_balloon(call);
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
	if (!memory.has_balloon)
		return fail_without_balloon(call);
	return json_pack("{s:I}", "actual", number(memory.ram - memory.balloon.actual));
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

/* Only those the guest has reported. */
static json_t *describe_stats(const struct virtio_balloon_stats *stats)
{
	json_t *list = json_object();
	char name[64];

	for (unsigned int tag = 0; tag < VIRTIO_BALLOON_NR_STATS; tag++) {
		if (stats->values[tag] == VIRTIO_BALLOON_NO_STAT)
			continue;
		(void)snprintf(name, sizeof(name), "stat-%s", virtio_balloon_stat_name(tag));
		json_t *value = json_integer(number(stats->values[tag]));
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

	if (!call->machine->config.has_balloon)
		return fail_without_balloon(call);
	virtio_balloon_get_stats(&call->machine->balloon, &stats);
	return json_pack("{s:I,s:I,s:o}", "last-update", (json_int_t)stats.updated, "updates",
			 number(stats.nr_updates), "stats", describe_stats(&stats));
}

/* What may pass soon is a GenericError; what will not without a new driver, DeviceNotActive. */
static json_t *x_ballast_request_guest_stats_run(struct call *call)
{
	if (!call->machine->config.has_balloon)
		return fail_without_balloon(call);
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
	if (!call->machine->config.has_balloon)
		return fail_without_balloon(call);
	virtio_balloon_set_stats_period(&call->machine->balloon,
					(unsigned int)json_integer_value(call->argument));
	return json_object();
}

static json_t *x_ballast_set_policy_run(struct call *call)
{
	const char *name = json_string_value(call->argument);
	enum reclaim_policy policy;

	if (options_parse_policy(name, &policy) < 0)
		return fail(call, GENERIC_ERROR, "policy '%s': it is inhibit or coordinated",
			    name);
	int r = machine_set_policy(call->machine, policy);
	if (r == -ENODEV)
		return fail_without_balloon(call);
	if (r == -EPERM)
		return fail(call, GENERIC_ERROR,
			    "policy '%s': not in an experiment with unsafe-reclaim", name);
	if (r < 0)
		return fail(
			call, GENERIC_ERROR,
			policy == RECLAIM_INHIBIT
				? "policy '%s': the host has no memory to give all back: %s"
				: "policy '%s': not all of the guest's memory can be locked, "
				  "or be present at once: %s",
			name, strerror(-r));
	return json_object();
}

static json_t *x_ballast_set_auto_run(struct call *call)
{
	if (!call->machine->config.has_balloon)
		return fail_without_balloon(call);
	if (!json_is_true(call->argument))
		machine_stop_auto(call->machine);
	else if (machine_start_auto(call->machine) < 0)
		return fail_without_balloon(call);
	return json_object();
}

static json_t *set_link_run(struct call *call)
{
	const char *name = json_string_value(call->argument);
	int r = machine_set_link(call->machine, name, json_is_true(call->second));

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
	{ "qmp_capabilities", qmp_capabilities_run, "enable", JSON_ARRAY },
	{ "query-version", query_version_run },
	{ "query-commands", query_commands_run },
	{ "query-status", query_status_run },
	{ "balloon", balloon_run, "value", JSON_INTEGER, 1, INT64_MAX },
	{ "query-balloon", query_balloon_run },
	{ "system_powerdown", system_powerdown_run },
	{ "quit", quit_run },
	{ "set_link", set_link_run, "name", JSON_STRING, .second = "up" },
	{ "x-ballast-query-memory", x_ballast_query_memory_run },
	{ "x-ballast-query-guest-stats", x_ballast_query_guest_stats_run },
	{ "x-ballast-request-guest-stats", x_ballast_request_guest_stats_run },
	{ "x-ballast-set-stats-period", x_ballast_set_stats_period_run, "seconds", JSON_INTEGER,
	  0, MAX_STATS_PERIOD },
	{ "x-ballast-set-policy", x_ballast_set_policy_run, "policy", JSON_STRING },
	{ "x-ballast-set-auto", x_ballast_set_auto_run, "enabled", JSON_TRUE },
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

static int check_integer(struct call *call, const struct command *command)
{
	json_int_t value = json_integer_value(call->argument);

	if (value >= command->min && value <= command->max)
		return 0;
	fail(call, GENERIC_ERROR,
	     "argument '%s' is %" JSON_INTEGER_FORMAT ": it goes from %" JSON_INTEGER_FORMAT
	     " to %" JSON_INTEGER_FORMAT,
	     command->argument, value, command->min, command->max);
	return -ERANGE;
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

static int check_type(struct call *call, const struct command *command, const char *name,
		      const json_t *value, json_type type)
{
	if (!value) {
		fail(call, GENERIC_ERROR, "argument '%s' is missing: %s needs it", name,
		     command->name);
		return -EINVAL;
	}
	if (!is_of_type(value, type)) {
		fail(call, GENERIC_ERROR, "argument '%s' must be %s", name,
		     describe_type(type));
		return -EINVAL;
	}
	return 0;
}

static int check_arguments(struct call *call, const struct command *command)
{
	if (!call->argument && command->type == JSON_ARRAY)
		return 0;
	int r = check_type(call, command, command->argument, call->argument, command->type);
	if (r >= 0 && command->second)
		r = check_type(call, command, command->second, call->second, JSON_TRUE);
	return r >= 0 && command->type == JSON_INTEGER ? check_integer(call, command) : r;
}

static bool takes(const struct command *command, const char *name)
{
	return (command->argument && strcmp(name, command->argument) == 0) ||
	       (command->second && strcmp(name, command->second) == 0);
}

static int take_arguments(struct call *call, const struct command *command, json_t *arguments)
{
	const char *name;
	json_t *value;

	if (arguments && !json_is_object(arguments)) {
		fail(call, GENERIC_ERROR, "member 'arguments' must be an object");
		return -EINVAL;
	}
	json_object_foreach(arguments, name, value)
	{
		if (!takes(command, name)) {
			fail(call, GENERIC_ERROR, "argument '%s' is none of %s", name,
			     command->name);
			return -EINVAL;
		}
	}
	if (!command->argument)
		return 0;
	call->argument = json_object_get(arguments, command->argument);
	if (command->second)
		call->second = json_object_get(arguments, command->second);
	return check_arguments(call, command);
}

static int check_members(struct call *call, json_t *request)
{
	const char *name;
	json_t *value;

	if (!json_is_object(request)) {
		fail(call, GENERIC_ERROR, "a command is an object: {\"execute\": NAME}");
		return -EINVAL;
	}
	json_object_foreach(request, name, value)
	{
		if (strcmp(name, "execute") != 0 && strcmp(name, "arguments") != 0 &&
		    strcmp(name, "id") != 0) {
			fail(call, GENERIC_ERROR,
			     "member '%s' is unknown: there are execute, arguments and id",
			     name);
			return -EINVAL;
		}
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
	return command->run(call);
}

/* NULL: no memory. Takes `error`. */
static json_t *make_error(const char *error_class, json_t *error)
{
	return json_pack("{s:{s:s,s:o}}", "error", "class", error_class, "desc", error);
}

/* Output. An error, here and below, means that the client is to be dropped. */

static int put_output(struct client *c, const char *bytes, size_t size)
{
	if (size > QMP_MAX_OUTPUT - c->nr_output) {
		log_warn("qmp: a client does not read its answers: dropping it");
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
	if (request)
		result = execute(&call, request);
	else
		fail(&call, GENERIC_ERROR, "this is no JSON: %s", error.text);
	json_t *answer = call.error ? make_error(call.error_class, call.error)
				    : json_pack("{s:o}", "return", result);
	json_t *id = json_object_get(request, "id");
	if (id && json_object_set(answer, "id", id) < 0) {
		json_decref(answer);
		answer = NULL;
	}
	c->place = request ? BETWEEN_COMMANDS : AFTER_ERROR;
	c->nr_line = 0;
	json_decref(request);
	return put_answer(c, answer);
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

static int receive(struct client *c)
{
	char bytes[READ_SIZE];
	int r = 0;

	ssize_t n = recv(c->source.fd, bytes, sizeof(bytes), 0);
	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	if (n == 0) {
		c->at_end = true;
		return end_line(c);
	}
	for (ssize_t i = 0; i < n && r >= 0; i++)
		r = take_byte(c, bytes[i]);
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
		event_loop_remove(c->qmp->loop, &c->source);
		list_remove(&c->link);
		c->qmp->nr_clients--;
	}
	fd_close(&c->source.fd);
	watch_listener(c->qmp);
	free(c);
}

/* Sends what there is to send, and waits for what there is to wait for. */
static int serve(struct client *c)
{
	int r = flush_output(c);

	if (r < 0)
		return r;
	if (c->at_end && c->nr_output == 0)
		return -ECONNRESET;
	uint32_t waits_for = (c->at_end ? 0 : EPOLLIN) | (c->nr_output > 0 ? EPOLLOUT : 0);
	if (waits_for != c->waits_for)
		event_loop_modify(c->qmp->loop, &c->source, waits_for);
	c->waits_for = waits_for;
	return 0;
}

static void client_ready(struct event_source *source, uint32_t events)
{
	struct client *c = container_of(source, struct client, source);
	int r = 0;

	if (!c->at_end && (events & ~(uint32_t)EPOLLOUT))
		r = receive(c);
	if (r >= 0)
		r = serve(c);
	if (r < 0)
		drop_client(c);
}

static int greet(struct client *c)
{
	int r = put_answer(c, json_pack("{s:{s:o,s:[]}}", "QMP", "version", describe_version(),
					"capabilities"));

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

void qmp_event(struct qmp *qmp, const char *name)
{
	struct timespec now = { 0 };

	if (!qmp->loop)
		return;
	(void)clock_gettime(CLOCK_REALTIME, &now); /* this clock always exists */
	list_for_each_safe(n, &qmp->clients) {
		struct client *c = container_of(n, struct client, link);
		if (!c->negotiated)
			continue;
		int r = put_answer(c,
				   json_pack("{s:s,s:{s:I,s:I}}", "event", name, "timestamp",
					     "seconds", (json_int_t)now.tv_sec, "microseconds",
					     (json_int_t)now.tv_nsec / 1000));
		if (r < 0 || serve(c) < 0)
			drop_client(c);
	}
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

/* Whether somebody listens there. */
static int try_to_connect(const struct sockaddr_un *address)
{
	autoclose int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		return -errno;
	return connect(fd, (const struct sockaddr *)address, sizeof(*address)) < 0 ? -errno : 0;
}

/* Makes room for our socket, if only a dead one is in the way. */
static int clear_path(const struct sockaddr_un *address)
{
	struct stat st;

	if (lstat(address->sun_path, &st) < 0)
		return errno == ENOENT ? 0 : -errno;
	if (!S_ISSOCK(st.st_mode))
		return -EEXIST;
	int r = try_to_connect(address);
	/* EAGAIN: its queue is full. EPROTOTYPE: it is not of our kind. It is alive, though. */
	if (r >= 0 || r == -EAGAIN || r == -EPROTOTYPE)
		return -EADDRINUSE;
	if (r != -ECONNREFUSED)
		return r;
	return unlink(address->sun_path) < 0 && errno != ENOENT ? -errno : 0;
}

static int listen_at(struct qmp *qmp, const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	struct stat st;

	if (strlen(path) >= sizeof(address.sun_path))
		return -ENAMETOOLONG;
	if (*path == '\0') /* the kernel would choose a name */
		return -ENOENT;
	strcpy(address.sun_path, path);
	int r = clear_path(&address);
	if (r < 0)
		return r;
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	qmp->listener.fd = fd;
	/* Before bind(), which takes the mode over: there is no moment when others may connect. */
	if (fchmod(fd, 0600) < 0 ||
	    bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 || lstat(path, &st) < 0)
		return -errno;
	qmp->path = path;
	qmp->device = st.st_dev;
	qmp->inode = st.st_ino;
	if (listen(fd, QMP_MAX_CLIENTS) < 0)
		return -errno;
	return event_loop_add(qmp->loop, &qmp->listener, EPOLLIN | EPOLLET);
}

static const char *remedy(int r)
{
	switch (r) {
	case -EADDRINUSE: return " (another program serves it: choose another path)";
	case -EEXIST: return " (it is no socket: remove it, or choose another path)";
	case -ENAMETOOLONG: return " (at most 107 bytes, please)";
	default: return "";
	}
}

int qmp_init(struct qmp *qmp, struct event_loop *loop, const char *path,
	     struct machine *machine)
{
	*qmp = (struct qmp){
		.loop = loop,
		.machine = machine,
		.listener = { .fd = -1, .ready = listener_ready },
	};
	list_init(&qmp->clients);
	int r = listen_at(qmp, path);
	if (r < 0) {
		qmp_finish(qmp);
		return log_err(r, "qmp: control socket '%s'%s", path, remedy(r));
	}
	return 0;
}

/*
 * Unless somebody has put another file in its place: none can have its number while the
 * listener is open.
 */
static void remove_socket(struct qmp *qmp)
{
	struct stat st;

	if (qmp->path && lstat(qmp->path, &st) == 0 && st.st_dev == qmp->device &&
	    st.st_ino == qmp->inode)
		(void)unlink(qmp->path); /* it stays, then, and the next one replaces it */
}

void qmp_finish(struct qmp *qmp)
{
	if (!qmp->loop)
		return;
	list_for_each_safe(n, &qmp->clients)
		drop_client(container_of(n, struct client, link));
	remove_socket(qmp);
	if (qmp->listener.fd >= 0)
		event_loop_remove(qmp->loop, &qmp->listener);
	fd_close(&qmp->listener.fd);
	*qmp = (struct qmp){ 0 };
}
