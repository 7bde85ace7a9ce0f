/* SPDX-License-Identifier: MIT */
#include "vmm/options.h"

#include <assert.h>
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <limits.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/trace.h"

#include "vmm/completion.h"
#include "vmm/config_file.h"

#define MIN_MEMORY (4ull << 20)
#define MAX_MEMORY (8ull << 40) /* KVM takes 2^31 - 1 pages a slot */
#define MAX_TIMEOUT 31536000u   /* a year */

int options_parse_size(const char *text, uint64_t *ret)
{
	static const char units[] = "KMGT";
	uint64_t n = 0;
	const char *p = text;

	for (; *p >= '0' && *p <= '9'; p++) {
		if (__builtin_mul_overflow(n, 10u, &n) ||
		    __builtin_add_overflow(n, (uint64_t)(*p - '0'), &n))
			return -ERANGE;
	}
	if (p == text)
		return -EINVAL;
	const char *unit = *p ? strchr(units, *p) : NULL;
	unsigned int shift = unit ? 10 * (unsigned int)(unit - units + 1) : 0;
	if (p[unit != NULL] != '\0')
		return -EINVAL;
	if (n > UINT64_MAX >> shift)
		return -ERANGE;
	*ret = n << shift;
	return 0;
}

static int parse_number(const char *option, const char *text, unsigned int min,
			unsigned int max, unsigned int *ret)
{
	uint64_t n = 0;

	if (options_parse_size(text, &n) < 0 || strpbrk(text, "KMGT") || n < min || n > max)
		return log_refuse(-EINVAL, "%s '%s': a number from %u to %u, please", option,
				  text, min, max);
	*ret = (unsigned int)n;
	return 0;
}

/* Its place among the words; -EINVAL, logged. */
static int parse_choice(const char *option, const char *words, const char *text)
{
	int place = option_place(words, text);

	if (place < 0)
		return log_refuse(-EINVAL, "%s '%s': it is one of: %s", option, text, words);
	return place;
}

static int parse_switch(const char *option, const char *text, bool *ret)
{
	int r = parse_choice(option, "off on", text);

	*ret = r > 0;
	return r;
}

/* The next piece before a comma, or NULL; cuts *rest. */
static char *next_piece(char **rest)
{
	return *rest ? strsep(rest, ",") : NULL;
}

int options_parse_memory(const char *text, uint64_t *ret)
{
	uint64_t size = 0;

	int r = options_parse_size(text, &size);
	if (r < 0)
		return log_refuse(-EINVAL, "--memory '%s': a size such as 512M or 4G, please",
				  text);
	if (size < MIN_MEMORY || size > MAX_MEMORY || size % 4096 != 0)
		return log_refuse(-EINVAL,
				  "--memory '%s': from 4M to 8T in steps of 4K, please", text);
	*ret = size;
	return 0;
}

static int parse_memory(char *text, struct machine_config *config)
{
	static_assert(RAM_ANONYMOUS == 0 && RAM_MEMFD == 1 && RAM_HUGETLB == 2, "as the words");
	char *rest = text;
	char *piece = next_piece(&rest);

	int r = options_parse_memory(piece, &config->memory);
	if (r < 0)
		return r;
	config->backing = RAM_ANONYMOUS;
	while ((piece = next_piece(&rest))) {
		if (strncmp(piece, "backing=", 8) != 0)
			return log_refuse(-EINVAL,
					  "--memory key '%s': the only one is backing=", piece);
		r = parse_choice("--memory backing", "anon memfd hugetlb", piece + 8);
		if (r < 0)
			return r;
		config->backing = (enum ram_backing)r;
	}
	return 0;
}

static int parse_devices(char *text, struct machine_config *config)
{
	unsigned int first = config->nr_devices;
	char *rest = text;
	char *piece;

	while ((piece = next_piece(&rest))) {
		if (*piece == '\0')
			return log_refuse(-EINVAL, "--device: an empty name");
		if (strcmp(piece, "balloon=allowed") == 0 && config->nr_devices > first) {
			for (unsigned int i = first; i < config->nr_devices; i++)
				config->devices[i].balloon = VFIO_BALLOON_ALLOWED;
			continue;
		}
		if (strcmp(piece, "on-error=detach") == 0 && config->nr_devices > first) {
			for (unsigned int i = first; i < config->nr_devices; i++)
				config->devices[i].on_error = DEVICE_ERROR_DETACHES;
			continue;
		}
		if (strchr(piece, '='))
			return log_refuse(-EINVAL,
					  "--device key '%s': there are balloon=allowed and "
					  "on-error=detach, after the devices it is for",
					  piece);
		if (config->nr_devices == MACHINE_MAX_DEVICES)
			return log_refuse(-EINVAL, "--device '%s': at most %u devices fit",
					  piece, MACHINE_MAX_DEVICES);
		config->devices[config->nr_devices++].name = piece;
	}
	return 0;
}

static int parse_balloon_size(const char *key, const char *text, uint64_t *ret)
{
	if (options_parse_size(text, ret) >= 0 && *ret > 0)
		return 0;
	return log_refuse(-EINVAL, "--balloon %s='%s': a size such as 512M or 4G, please", key,
			  text);
}

static int parse_granule(const char *text, uint64_t *ret)
{
	if (strcmp(text, "auto") == 0) {
		*ret = MACHINE_GRANULE_AUTO;
		return 0;
	}
	if (options_parse_size(text, ret) >= 0 && is_power_of_2(*ret) && *ret >= 4096 &&
	    *ret <= 1ull << 30)
		return 0;
	return log_refuse(
		-EINVAL, "--balloon granule='%s': a power of two from 4K to 1G, or auto", text);
}

/* One KEY=VALUE; cuts it at the '='. */
static int parse_balloon_key(char *piece, struct machine_config *config)
{
	struct virtio_balloon_config *balloon = &config->balloon;
	char *value = piece;
	const char *key = strsep(&value, "=");

	if (value && strcmp(key, "initial") == 0)
		return parse_balloon_size(key, value, &config->balloon_keep);
	if (value && strcmp(key, "min") == 0)
		return parse_balloon_size(key, value, &config->auto_balloon.min);
	if (value && strcmp(key, "max") == 0)
		return parse_balloon_size(key, value, &config->auto_balloon.max);
	if (value && strcmp(key, "auto") == 0)
		return parse_switch("--balloon auto", value, &config->auto_balloon.on);
	if (value && strcmp(key, "policy") == 0) {
		int r = parse_choice("--balloon policy", "inhibit coordinated", value);
		config->policy = r > 0 ? RECLAIM_COORDINATED : RECLAIM_INHIBIT;
		return r;
	}
	if (value && strcmp(key, "granule") == 0)
		return parse_granule(value, &config->granule);
	if (value && strcmp(key, "stats") == 0)
		return parse_number("--balloon stats", value, 0, MAX_TIMEOUT,
				    &balloon->stats_period);
	if (value && strcmp(key, "reporting") == 0)
		return parse_switch("--balloon reporting", value, &balloon->reporting);
	if (value && strcmp(key, "deflate-on-oom") == 0)
		return parse_switch("--balloon deflate-on-oom", value,
				    &balloon->deflate_on_oom);
	return log_refuse(
		-EINVAL,
		"--balloon '%s': it is on, or some of initial=SIZE, policy=POLICY, "
		"granule=SIZE, auto=on, min=SIZE, max=SIZE, stats=SECONDS, reporting=on, "
		"deflate-on-oom=on",
		key);
}

static int parse_balloon(char *text, struct machine_config *config)
{
	char *rest = text;
	char *piece;

	config->has_balloon = true;
	while ((piece = next_piece(&rest))) {
		int r = strcmp(piece, "on") == 0 ? 0 : parse_balloon_key(piece, config);
		if (r < 0)
			return r;
	}
	return 0;
}

static int parse_serial_number(const char *text, const char **ret)
{
	size_t n = strlen(text);

	for (size_t i = 0; i < n; i++) {
		if (text[i] <= ' ' || text[i] > '~')
			n = 0; /* what udev makes a name of */
	}
	if (n == 0 || n > VIRTIO_BLK_SERIAL_SIZE)
		return log_refuse(
			-EINVAL,
			"--disk serial='%s': 1 to %u letters, digits or signs of ASCII, "
			"please",
			text, VIRTIO_BLK_SERIAL_SIZE);
	*ret = text;
	return 0;
}

/* One KEY=VALUE; cuts it at the '='. */
static int parse_disk_key(char *piece, struct virtio_blk_options *disk)
{
	char *value = piece;
	const char *key = strsep(&value, "=");

	if (value && *value && strcmp(key, "path") == 0) {
		disk->path = value;
		return 0;
	}
	if (value && strcmp(key, "readonly") == 0)
		return parse_switch("--disk readonly", value, &disk->readonly);
	if (value && strcmp(key, "direct") == 0)
		return parse_switch("--disk direct", value, &disk->direct);
	if (value && strcmp(key, "serial") == 0)
		return parse_serial_number(value, &disk->serial);
	return log_refuse(-EINVAL,
			  "--disk '%s': it is path=FILE (without a comma), and perhaps "
			  "readonly=on, direct=on, serial=TEXT",
			  key);
}

static int parse_disk(char *text, struct machine_config *config)
{
	struct virtio_blk_options disk = { 0 };
	char *rest = text;
	char *piece;

	if (config->nr_disks == MACHINE_MAX_DISKS)
		return log_refuse(-EINVAL, "--disk '%s': at most %u disks fit", text,
				  MACHINE_MAX_DISKS);
	while ((piece = next_piece(&rest))) {
		int r = parse_disk_key(piece, &disk);
		if (r < 0)
			return r;
	}
	if (!disk.path)
		return log_refuse(-EINVAL, "--disk: path=FILE is missing");
	config->disks[config->nr_disks++] = disk;
	return 0;
}

/* What the guest is to keep, by one of the keys; 0: that was not given. */
static int check_keep(const struct machine_config *config, const char *key, uint64_t keep)
{
	uint64_t floor =
		config->memory < VIRTIO_BALLOON_FLOOR ? config->memory : VIRTIO_BALLOON_FLOOR;

	if (keep == 0 || (keep >= floor && keep <= config->memory))
		return 0;
	return log_refuse(-EINVAL,
			  "--balloon %s=: the guest is to keep at least %" PRIu64
			  "M, and has %" PRIu64 "M in all",
			  key, floor >> 20, config->memory >> 20);
}

/* What only all options together show. */
static int check_balloon(const struct machine_config *config)
{
	const struct auto_balloon_config *automatic = &config->auto_balloon;

	if (check_keep(config, "initial", config->balloon_keep) < 0 ||
	    check_keep(config, "min", automatic->min) < 0 ||
	    check_keep(config, "max", automatic->max) < 0)
		return -EINVAL;
	if ((automatic->min || automatic->max) && !automatic->on)
		return log_refuse(-EINVAL, "--balloon min=, max=: they go with auto=on");
	if (automatic->min && automatic->max && automatic->min > automatic->max)
		return log_refuse(-EINVAL,
				  "--balloon min=%" PRIu64 "M is more than max=%" PRIu64
				  "M: at most as much, please",
				  automatic->min >> 20, automatic->max >> 20);
	if (config->balloon.reporting && config->backing == RAM_HUGETLB)
		return log_refuse(-EINVAL,
				  "--balloon reporting=on: not with backing=hugetlb, where a "
				  "page given back may be gone when the guest wants it again");
	if (config->backing == RAM_HUGETLB && config->granule > MACHINE_GRANULE_AUTO &&
	    config->granule < 2ull << 20)
		return log_refuse(-EINVAL,
				  "--balloon granule=%" PRIu64
				  "K: at least 2M with backing=hugetlb",
				  config->granule >> 10);
	if (config->unsafe && config->policy == RECLAIM_COORDINATED)
		return log_refuse(-EINVAL,
				  "--experiment unsafe-reclaim: not with policy=coordinated, "
				  "under which nothing is unsafe");
	return 0;
}

static int parse_mac(const char *text, struct net_config *net)
{
	unsigned int bytes[VIRTIO_NET_MAC_SIZE];
	int end = 0;

	int n = sscanf(text, "%2x:%2x:%2x:%2x:%2x:%2x%n", &bytes[0], &bytes[1], &bytes[2],
		       &bytes[3], &bytes[4], &bytes[5], &end);
	/* sscanf() would take signs, blanks and single digits as well. */
	bool valid = n == (int)nitems(bytes) && end == 17 && text[end] == '\0' &&
		     strspn(text, "0123456789abcdefABCDEF:") == 17;
	if (valid && (bytes[0] & 1))
		return log_refuse(
			-EINVAL,
			"--net mac='%s': that is a group's: the first byte must be even", text);
	if (!valid || !(bytes[0] | bytes[1] | bytes[2] | bytes[3] | bytes[4] | bytes[5]))
		return log_refuse(
			-EINVAL, "--net mac='%s': an address such as 02:00:00:12:34:56, please",
			text);
	for (unsigned int i = 0; i < nitems(bytes); i++)
		net->mac[i] = (uint8_t)bytes[i];
	net->has_mac = true;
	return 0;
}

static int parse_vhost(const char *text, enum virtio_net_vhost *ret)
{
	static_assert(VIRTIO_NET_VHOST_ON == 1 && VIRTIO_NET_VHOST_OFF == 2, "as the words");
	int r = parse_choice("--net vhost", "auto on off", text);

	if (r >= 0)
		*ret = (enum virtio_net_vhost)r;
	return r;
}

/* Where to, which comes first; cuts it at the '='. */
static int parse_way_out(char *piece, struct net_config *net)
{
	unsigned int n = 0;
	char *value = piece;
	const char *key = strsep(&value, "=");

	if (strcmp(key, "passt") == 0 && !value) {
		net->kind = NET_PASST;
		return 0;
	}
	net->name = value;
	if (strcmp(key, "passt") == 0 && *value) {
		net->kind = NET_PASST_RUNNING;
		return 0;
	}
	if (value && strcmp(key, "tap") == 0) {
		net->kind = NET_TAP;
		if (*value && strlen(value) < IFNAMSIZ && !strpbrk(value, "/ "))
			return 0;
		return log_refuse(-EINVAL,
				  "--net tap='%s': the name of an interface, of 1 to %d bytes",
				  value, IFNAMSIZ - 1);
	}
	if (value && strcmp(key, "fd") == 0) {
		net->kind = NET_FD;
		int r = parse_number("--net fd", value, 3, INT_MAX, &n);
		net->fd = (int)n;
		return r;
	}
	return log_refuse(-EINVAL,
			  "--net '%s': it begins with tap=NAME, fd=N, passt or passt=SOCKET",
			  key);
}

/* One KEY=VALUE after that; cuts it at the '='. */
static int parse_net_key(char *piece, struct net_config *net)
{
	char *value = piece;
	const char *key = strsep(&value, "=");

	if (value && strcmp(key, "mac") == 0)
		return parse_mac(value, net);
	if (value && strcmp(key, "vhost") == 0)
		return parse_vhost(value, &net->vhost);
	if (value && strcmp(key, "queues") == 0)
		return parse_number("--net queues", value, 1, NET_MAX_PAIRS, &net->queues);
	return log_refuse(
		-EINVAL,
		"--net key '%s': there are mac=ADDRESS, queues=N and vhost=on|off|auto", key);
}

static int parse_net(char *text, struct machine_config *config)
{
	char *rest = text;
	char *piece = strsep(&rest, ",");

	if (config->nr_nets == MACHINE_MAX_NETS)
		return log_refuse(-EINVAL, "--net '%s': there are at most %u", piece,
				  MACHINE_MAX_NETS);
	struct net_config *net = &config->nets[config->nr_nets++];
	int r = parse_way_out(piece, net);
	while (r >= 0 && (piece = next_piece(&rest)))
		r = parse_net_key(piece, net);
	if (r < 0)
		return r;
	if (net->queues > 1 && net->kind != NET_TAP)
		return log_refuse(-EINVAL,
				  "--net queues=%u: more than one goes with tap=NAME only",
				  net->queues);
	if (net->vhost == VIRTIO_NET_VHOST_ON && net->kind != NET_TAP && net->kind != NET_FD)
		return log_refuse(-EINVAL, "--net vhost=on: that goes with a tap only");
	return 0;
}

static int parse_qmp(char *text, struct machine_config *config)
{
	if (strncmp(text, "unix:", 5) != 0 || text[5] == '\0')
		return log_refuse(-EINVAL, "--qmp '%s': it is unix:PATH", text);
	config->qmp = text + 5;
	return 0;
}

static int parse_experiment(char *text, struct machine_config *config)
{
	if (strcmp(text, "unsafe-reclaim") != 0)
		return log_refuse(-EINVAL, "--experiment '%s': the only one is unsafe-reclaim",
				  text);
	config->unsafe = true;
	return 0;
}

/* For --serial and --console. */
static int parse_where(const char *option, const char *text, struct console_config *ret)
{
	static const struct {
		const char *word;
		enum console_kind kind;
	} words[] = {
		{ "stdio", CONSOLE_STDIO },
		{ "none", CONSOLE_NONE },
		{ "file=", CONSOLE_FILE },
		{ "unix=", CONSOLE_UNIX },
	};

	for (unsigned int i = 0; i < nitems(words); i++) {
		size_t n = strlen(words[i].word);
		bool takes_path = words[i].word[n - 1] == '=';
		if (strncmp(text, words[i].word, n) != 0 || takes_path == (text[n] == '\0'))
			continue;
		*ret = (struct console_config){ words[i].kind, takes_path ? text + n : NULL };
		return 0;
	}
	return log_refuse(-EINVAL, "%s '%s': it is one of stdio, none, file=PATH, unix=PATH",
			  option, text);
}

static int parse_on_reset(char *text, struct machine_config *config)
{
	static_assert(ON_RESET_RESET == 0 && ON_RESET_EXIT == 1, "as the words");
	int r = parse_choice("--on-reset", "reset exit", text);

	if (r >= 0)
		config->on_reset = (enum on_reset)r;
	return r;
}

/* Of these any text will do. */
#define DEFINE_PARSE(name)                                                 \
	static int parse_##name(char *text, struct machine_config *config) \
	{                                                                  \
		config->name = text;                                       \
		return 0;                                                  \
	}

DEFINE_PARSE(kernel)
DEFINE_PARSE(initrd)
DEFINE_PARSE(cmdline)
DEFINE_PARSE(metrics)
DEFINE_PARSE(events)
DEFINE_PARSE(trace)

static int parse_cpus(char *text, struct machine_config *config)
{
	return parse_number("--cpus", text, 1, MACHINE_MAX_CPUS, &config->nr_cpus);
}

static int parse_timeout(char *text, struct machine_config *config)
{
	return parse_number("--timeout", text, 1, MAX_TIMEOUT, &config->timeout);
}

static int parse_rng(char *text, struct machine_config *config)
{
	return parse_switch("--rng", text, &config->has_rng);
}

static int parse_serial(char *text, struct machine_config *config)
{
	return parse_where("--serial", text, &config->serial);
}

static int parse_console(char *text, struct machine_config *config)
{
	config->has_console = true;
	return parse_where("--console", text, &config->console);
}

static int parse_sandbox(char *text, struct machine_config *config)
{
	static_assert(SANDBOX_OFF == 0 && SANDBOX_ON == 1 && SANDBOX_LOG == 2, "as the words");
	int r = parse_choice("--sandbox", "off on log", text);

	if (r >= 0)
		config->sandbox = (enum sandbox_mode)r;
	return r;
}

static int parse_user(char *text, struct machine_config *config)
{
	errno = 0;
	const struct passwd *user = getpwnam(text);
	if (!user)
		return log_err(errno == 0 ? 0 : -errno, "--user '%s': there is no such user",
			       text),
		       -EINVAL;
	if (geteuid() != 0 && geteuid() != user->pw_uid)
		return log_refuse(-EINVAL, "--user '%s': only root can become another user",
				  text);
	config->user = (struct sandbox_user){ text, user->pw_uid, user->pw_gid };
	return 0;
}

static int parse_exit_port(char *text, struct machine_config *config)
{
	(void)text;
	config->exit_port = true;
	return 0;
}

static int parse_verbose(char *text, struct machine_config *config)
{
	(void)config;
	if (text && strcmp(text, "trace") != 0)
		return log_refuse(-EINVAL, "--verbose '%s': it stands alone, or is trace",
				  text);
	log_set_level(LOG_DEBUG);
	if (text)
		trace_listen(trace_print);
	return 0;
}

#define WHERE_WORDS "stdio none file=@ unix=@"

const struct option_row option_rows[] = {
	{ "kernel", "FILE", "bzImage (64-bit), or ELF with a PVH entry or multiboot",
	  parse_kernel, OPTION_TEXT, .words = "@" },
	{ "initrd", "FILE", "initial RAM disk", parse_initrd, OPTION_TEXT, .words = "@" },
	{ "cmdline", "STRING", "kernel command line (console=ttyS0, or hvc0)", parse_cmdline,
	  OPTION_TEXT },
	{ "cpus", "N", "1 to 16 (1)", parse_cpus, OPTION_NUMBER, .fallback = "1" },
	{ "memory", "SIZE[,backing=anon|memfd|hugetlb]", "guest RAM, as 4G (512M)",
	  parse_memory, OPTION_KEYS, .fallback = "512M", .bare = "size",
	  .words = "backing=anon backing=memfd backing=hugetlb" },
	{ "device", "BDF[,BDF]",
	  "PCI devices bound to vfio-pci: 0000:01:00.0, a path, an\n"
	  "mdev's UUID; ,balloon=allowed ,on-error=detach: ballast(1)",
	  parse_devices, OPTION_KEYS, OPTION_ADDS, .bare = "bdf",
	  .words = "% balloon=allowed on-error=detach" },
	{ "balloon", "on|KEY=VALUE[,..]",
	  "initial=SIZE, auto=on, min=, max=, stats=S,\n"
	  "policy=inhibit|coordinated, granule=SIZE|auto: ballast(1)",
	  parse_balloon, OPTION_KEYS, OPTION_MERGES, .first = "on",
	  .words =
		  "on initial= policy=inhibit policy=coordinated granule= granule=auto auto=on "
		  "min= max= stats= reporting=on deflate-on-oom=on" },
	{ "disk", "path=FILE[,readonly=on][,direct=on][,serial=TEXT]", "raw; repeatable",
	  parse_disk, OPTION_KEYS, OPTION_ADDS,
	  .words = "path=@ readonly=on direct=on serial=" },
	{ "net", "tap=NAME|fd=N|passt[=SOCKET][,mac=..,queues=N,vhost=on|off|auto]",
	  "\nnetwork card; repeatable", parse_net, OPTION_KEYS, OPTION_ADDS,
	  .first = "tap fd passt",
	  .words = "tap= fd= passt passt=@ mac= queues= vhost=on vhost=off vhost=auto" },
	{ "rng", "on", "entropy from the host (virtio-rng)", parse_rng, OPTION_SWITCH,
	  .words = "on off" },
	{ "qmp", "unix:PATH", "control socket, for ballast ctl and QMP clients", parse_qmp,
	  OPTION_TEXT, .words = "unix:@" },
	{ "serial", "WHERE", "its ttyS0: stdio, none, file=PATH, unix=PATH (stdio)",
	  parse_serial, OPTION_TEXT, .fallback = "stdio", .words = WHERE_WORDS },
	{ "console", "WHERE", "its hvc0 (virtio-console), likewise; without this: none",
	  parse_console, OPTION_TEXT, .words = WHERE_WORDS },
	{ "on-reset", "ACTION", "when the guest resets: reset, exit (reset)", parse_on_reset,
	  OPTION_TEXT, .fallback = "reset", .words = "reset exit" },
	{ "timeout", "SECONDS", "stop the guest after that long", parse_timeout,
	  OPTION_NUMBER },
	{ "exit-port", NULL, "a byte written to port 0xf4 ends it with that status",
	  parse_exit_port },
	{ "experiment", "unsafe-reclaim", "discard what a device has pinned: corrupts",
	  parse_experiment, OPTION_TEXT, .words = "unsafe-reclaim" },
	{ "metrics", "FILE", "figures, as text for Prometheus, every 5 seconds", parse_metrics,
	  OPTION_TEXT, .words = "@" },
	{ "events", "FILE", "what happens is appended to it, a line of JSON each", parse_events,
	  OPTION_TEXT, .words = "@" },
	{ "trace", "FILE", "its steps on the main ways, for ballast-timeline", parse_trace,
	  OPTION_TEXT, .words = "@" },
	{ "user", "NAME", "be that user, not root, once everything is open", parse_user,
	  OPTION_TEXT },
	{ "sandbox", "MODE", "what it may ask of the host: on, off, log (on)", parse_sandbox,
	  OPTION_SWITCH, .fallback = "on", .words = "on off log" },
	{ "config", "FILE", "more options, as JSON; the command line overrides them",
	  .form = OPTION_TEXT, .again = OPTION_ADDS, .words = "@", .not_in_file = true },
	{ "print-config", NULL, "print all options as such JSON, and exit",
	  .not_in_file = true },
	{ "verbose", NULL, "debug messages; -v trace: every step of the main ways",
	  parse_verbose, .letter = 'v', .words = "trace" },
	{ "help", NULL, "this text; --version: the version", .letter = 'h',
	  .not_in_file = true },
	{ "version", NULL, NULL, .not_in_file = true },
};
const unsigned int nr_option_rows = nitems(option_rows);

const struct option_row *option_find(const char *name)
{
	for (unsigned int i = 0; i < nr_option_rows; i++) {
		if (strcmp(option_rows[i].name, name) == 0)
			return &option_rows[i];
	}
	return NULL;
}

int option_place(const char *words, const char *text)
{
	size_t size = strlen(text);
	int place = 0;

	for (const char *p = words; p && *p; p += strspn(p, " ")) {
		size_t length = strcspn(p, " ");
		if (length == size && strncmp(p, text, size) == 0)
			return place;
		p += length;
		place++;
	}
	return -1;
}

/* Help */

#define HELP_COLUMN 22

static const char help_head[] =
	"Usage: ballast run --kernel FILE [OPTION]...\n"
	"       ballast ctl SOCKET COMMAND...     (ballast ctl --help)\n"
	"       ballast doctor|bind|unbind BDF... (ballast doctor --help, and so on)\n"
	"Boots a Linux guest under KVM, with real PCI devices assigned to it: ballast(1).\n"
	"\n";
static const char help_foot[] =
	"\n"
	"On a terminal Ctrl-A x stops, Ctrl-A h lists other keys. SIGTERM, SIGINT, SIGHUP\n"
	"press the power button, a second one stops; SIGUSR1 prints registers and exits.\n"
	"Exit status: 0 the guest switched itself off; 1 ballast failed or was stopped;\n"
	"2 wrong usage; 32 reset, with --on-reset exit; 33 triple fault or vCPU failure;\n"
	"34 guest panic; 124 --timeout ran out; with --exit-port the guest's own.\n";

static int print_help(void)
{
	fputs(help_head, stdout);
	for (unsigned int i = 0; i < nr_option_rows; i++) {
		const struct option_row *row = &option_rows[i];
		if (!row->help)
			continue;
		int column = row->letter ? printf("  -%c, --%s", row->letter, row->name)
					 : printf("  --%s", row->name);
		if (row->argument)
			column += printf(" %s", row->argument);
		int gap = column + 2 > HELP_COLUMN ? 2 : HELP_COLUMN - column;
		for (const char *line = row->help; *line;) {
			size_t length = strcspn(line, "\n");
			if (length > 0)
				printf("%*s%.*s", gap, "", (int)length, line);
			putchar('\n');
			gap = HELP_COLUMN;
			line += length + (line[length] != '\0');
		}
	}
	fputs(help_foot, stdout);
	return OPTIONS_DONE;
}

/* From words to what they mean */

/* Takes one value of that option; NULL: a flag that stands alone. */
static int take(void *opaque, const struct option_row *row, const char *value)
{
	struct options *options = opaque;
	size_t size = value ? strlen(value) + 1 : 1;

	struct option_text *text = malloc(sizeof(*text) + 2 * size);
	if (!text)
		return log_err(-ENOMEM, "--%s", row->name);
	text->row = row;
	text->cut = text->whole + size;
	memcpy(text->whole, value ? value : "", size);
	memcpy(text->cut, text->whole, size);
	list_append(&options->texts, &text->link);
	return row->parse ? row->parse(value ? text->cut : NULL, &options->config) : 0;
}

static int take_named(struct options *options, const char *name, const char *value)
{
	return take(options, option_find(name), value);
}

static int take_fallbacks(struct options *options)
{
	int r = 0;

	for (unsigned int i = 0; i < nr_option_rows && r >= 0; i++) {
		if (option_rows[i].fallback)
			r = take(options, &option_rows[i], option_rows[i].fallback);
	}
	return r;
}

/* How often that option was given, what it falls back to included. */
static unsigned int count(const struct options *options, const char *name)
{
	const struct option_row *row = option_find(name);
	unsigned int n = 0;

	list_for_each(i, &options->texts)
		n += container_of(i, struct option_text, link)->row == row;
	return n;
}

/* What was not given follows from what was. */
static int choose_consoles(struct options *options)
{
	const struct machine_config *config = &options->config;
	bool takes_stdio = config->has_console && config->console.kind == CONSOLE_STDIO;
	int r = 0;

	if (!config->cmdline)
		r = take_named(options, "cmdline",
			       config->has_console ? "console=hvc0" : "console=ttyS0");
	if (r >= 0 && count(options, "serial") == 1 && takes_stdio)
		r = take_named(options, "serial", "none");
	if (r >= 0 && config->serial.kind == CONSOLE_STDIO && takes_stdio)
		return log_refuse(-EINVAL,
				  "--serial stdio, --console stdio: only one of them, please");
	return r;
}

/* An option of the command line, and its value there. */
struct pick {
	const struct option_row *row;
	const char *value;
};

#define FIRST_LONG 256 /* what getopt says of the table's first row, if not by its letter */

static int refuse_option(int found, char **argv)
{
	/* optind stays where it is within a word of several letters. */
	const char letter[] = { '-', (char)optopt, '\0' };
	bool is_letter = optopt > 0 && optopt < FIRST_LONG;

	if (found == ':')
		return log_refuse(-EINVAL, "option '%s' needs a value; see ballast --help",
				  argv[optind - 1]);
	return log_refuse(-EINVAL, "option '%s' is not known; see ballast --help",
			  is_letter ? letter : argv[optind - 1]);
}

static const struct option_row *find_row(int found)
{
	for (unsigned int i = 0; i < nr_option_rows; i++) {
		if (found == FIRST_LONG + (int)i || found == option_rows[i].letter)
			return &option_rows[i];
	}
	return NULL;
}

/* Finds all options; there is room for as many as there are characters. How many there are. */
static int pick_options(int argc, char **argv, struct pick *picks)
{
	struct option words[nitems(option_rows) + 1] = { 0 };
	int found;
	int n = 0;

	for (unsigned int i = 0; i < nr_option_rows; i++)
		words[i] = (struct option){ option_rows[i].name,
					    option_rows[i].argument ? required_argument
								    : no_argument,
					    NULL, FIRST_LONG + (int)i };
	opterr = 0; /* the words are ours */
	optind = 0; /* which has it forget a word that was given up half way, too */
	while ((found = getopt_long(argc, argv, "+:vh", words, NULL)) != -1) {
		const struct option_row *row = find_row(found);
		if (!row)
			return refuse_option(found, argv);
		picks[n] = (struct pick){ row, row->argument ? optarg : NULL };
		if (row->parse == parse_verbose && optind < argc &&
		    strcmp(argv[optind], "trace") == 0)
			picks[n].value = argv[optind++];
		n++;
	}
	if (optind < argc)
		return log_refuse(-EINVAL, "'%s' is no option; see ballast --help",
				  argv[optind]);
	return n;
}

static bool is_picked(const struct pick *picks, int nr, const char *name)
{
	for (int i = 0; i < nr; i++) {
		if (strcmp(picks[i].row->name, name) == 0)
			return true;
	}
	return false;
}

/* The files first, wherever they are named: the command line has the last word. */
static int take_picks(struct options *options, const struct pick *picks, int nr)
{
	int r = take_fallbacks(options);

	for (int i = 0; i < nr && r >= 0; i++) {
		if (strcmp(picks[i].row->name, "config") == 0)
			r = config_file_read(picks[i].value, take, options);
	}
	for (int i = 0; i < nr && r >= 0; i++) {
		if (!picks[i].row->not_in_file)
			r = take(options, picks[i].row, picks[i].value);
	}
	return r;
}

static int print_version(void)
{
	puts("ballast " BALLAST_VERSION);
	return OPTIONS_DONE;
}

/* One word may have as many options as letters. */
static size_t most_picks(int argc, char **argv)
{
	size_t n = 1;

	for (int i = 1; i < argc; i++)
		n += strlen(argv[i]);
	return n;
}

static int parse_run(int argc, char **argv, struct options *options)
{
	struct machine_config *config = &options->config;
	autofree struct pick *picks = calloc(most_picks(argc, argv), sizeof(*picks));

	if (!picks)
		return log_err(-ENOMEM, "options");
	int nr = pick_options(argc, argv, picks);
	if (nr < 0)
		return nr;
	if (is_picked(picks, nr, "help"))
		return print_help();
	if (is_picked(picks, nr, "version"))
		return print_version();
	int r = take_picks(options, picks, nr);
	if (r < 0)
		return r;
	if (!config->kernel)
		return log_refuse(-EINVAL, "--kernel is missing; see ballast --help");
	r = check_balloon(config);
	if (r >= 0)
		r = choose_consoles(options);
	if (r < 0 || !is_picked(picks, nr, "print-config"))
		return r < 0 ? r : OPTIONS_RUN;
	r = config_file_print(&options->texts);
	return r < 0 ? r : OPTIONS_DONE;
}

static int parse_command(int argc, char **argv, struct options *options)
{
	const char *command = argc > 1 ? argv[1] : "";

	if (strcmp(command, "--help") == 0 || strcmp(command, "-h") == 0 ||
	    strcmp(command, "help") == 0)
		return print_help();
	if (strcmp(command, "--version") == 0)
		return print_version();
	/* Hidden: for the build, which makes the files of it that are installed. */
	if (strcmp(command, "--completion") == 0 && argc == 3)
		return completion_print(argv[2]) < 0 ? -EINVAL : OPTIONS_DONE;
	if (strcmp(command, "run") != 0)
		return log_refuse(
			-EINVAL,
			"command '%s' is not known; it is: ballast run --kernel FILE, "
			"ballast ctl SOCKET COMMAND, or ballast doctor, bind or unbind "
			"with BDF...; see ballast --help",
			command);
	return parse_run(argc - 1, argv + 1, options);
}

int options_parse(int argc, char **argv, struct options *options)
{
	*options = (struct options){ .config.policy = RECLAIM_INHIBIT };
	list_init(&options->texts);
	int r = parse_command(argc, argv, options);
	/* Whoever asked for a text has it, or is told. */
	if (r == OPTIONS_DONE && (fflush(stdout) != 0 || ferror(stdout)))
		r = log_err(-EIO, "standard output");
	if (r != OPTIONS_RUN)
		options_finish(options);
	return r;
}

void options_finish(struct options *options)
{
	if (!options->texts.next)
		return;
	list_for_each_safe(n, &options->texts)
		free(container_of(n, struct option_text, link));
	*options = (struct options){ 0 };
}
