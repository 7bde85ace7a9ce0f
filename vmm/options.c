/* SPDX-License-Identifier: MIT */
#include "vmm/options.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/trace.h"

#define MIN_MEMORY (4ull << 20)
#define MAX_MEMORY (8ull << 40) /* KVM takes 2^31 - 1 pages a slot */
#define MAX_TIMEOUT 31536000ull /* a year */

static const char help[] =
	"Usage: ballast run --kernel FILE [OPTION]...\n"
	"       ballast ctl SOCKET COMMAND...     (ballast ctl --help)\n"
	"Boots a Linux guest under KVM, with real PCI devices assigned to it.\n"
	"\n"
	"  --kernel FILE       bzImage (64-bit), or ELF with a PVH entry or multiboot\n"
	"  --initrd FILE       initial RAM disk\n"
	"  --cmdline STRING    kernel command line (console=ttyS0, or hvc0)\n"
	"  --cpus N            1 to 16 (1)\n"
	"  --memory SIZE[,backing=anon|memfd|hugetlb]  guest RAM, as 4G (512M)\n"
	"  --device BDF[,BDF]  assign these PCI devices, bound to vfio-pci: 0000:01:00.0,\n"
	"                      01:00.0 or a path below /sys, or an mdev by its UUID;\n"
	"                      ,balloon=allowed: that mdev does not inhibit a balloon\n"
	"  --balloon on|KEY=VALUE[,..]  a balloon: initial=SIZE, auto=on, min=, max=,\n"
	"                      policy=inhibit|coordinated, granule=SIZE|auto, stats=S,\n"
	"                      reporting=on, deflate-on-oom=on: ballast(1)\n"
	"  --disk path=FILE[,readonly=on][,direct=on][,serial=TEXT]\n"
	"                      a raw file or block device, as a virtio disk; repeatable\n"
	"  --net tap=NAME|fd=N|passt[=SOCKET][,mac=..,queues=N,vhost=on|off|auto]\n"
	"                      a network card (virtio-net); repeatable: ballast(1)\n"
	"  --rng on            entropy from the host (virtio-rng)\n"
	"  --qmp unix:PATH     control socket, for ballast ctl and QMP clients\n"
	"  --serial WHERE      its ttyS0: stdio, none, file=PATH, unix=PATH (stdio)\n"
	"  --console WHERE     its hvc0 (virtio-console), likewise; without this: none\n"
	"  --on-reset ACTION   when the guest resets: reset, exit (reset)\n"
	"  --timeout SECONDS   stop the guest after that long\n"
	"  --exit-port         a byte written to port 0xf4 ends it with that status\n"
	"  --experiment unsafe-reclaim  discard what a device has pinned: corrupts\n"
	"  -v, --verbose       debug messages; -v trace: every step of the main ways\n"
	"  -h, --help          this text; --version: the version\n"
	"\n"
	"On a terminal Ctrl-A x stops the guest, Ctrl-A h lists the other keys. SIGTERM,\n"
	"SIGINT, SIGHUP press its power button, a second one stops it; SIGUSR1 prints\n"
	"registers and exit counts.\n"
	"With a device assigned, a balloon helps the host only by policy=coordinated.\n"
	"\n"
	"Exit status: 0 the guest switched itself off; 1 ballast failed or was stopped;\n"
	"2 wrong usage; 32 reset, with --on-reset exit; 33 triple fault or vCPU failure;\n"
	"34 guest panic; 124 --timeout ran out; with --exit-port the guest's own.\n";

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

static int parse_number(const char *option, const char *text, uint64_t min, uint64_t max,
			uint64_t *ret)
{
	uint64_t n = 0;

	if (options_parse_size(text, &n) < 0 || strpbrk(text, "KMGT") || n < min || n > max)
		return log_err(0, "%s '%s': a number from %llu to %llu, please", option, text,
			       (unsigned long long)min, (unsigned long long)max),
		       -EINVAL;
	*ret = n;
	return 0;
}

/* The next piece before a comma, or NULL; cuts *rest. */
static char *next_piece(char **rest)
{
	return *rest ? strsep(rest, ",") : NULL;
}

static int parse_backing(const char *text, enum ram_backing *ret)
{
	static const char *const names[] = {
		[RAM_ANONYMOUS] = "anon",
		[RAM_MEMFD] = "memfd",
		[RAM_HUGETLB] = "hugetlb",
	};

	for (unsigned int i = 0; i < nitems(names); i++) {
		if (strcmp(text, names[i]) == 0) {
			*ret = (enum ram_backing)i;
			return 0;
		}
	}
	return log_err(0, "--memory backing '%s': it is one of anon, memfd, hugetlb", text),
	       -EINVAL;
}

static int parse_memory(char *text, struct machine_config *config)
{
	char *rest = text;
	char *piece = next_piece(&rest);
	uint64_t size = 0;

	int r = options_parse_size(piece, &size);
	if (r < 0)
		return log_err(0, "--memory '%s': a size such as 512M or 4G, please", piece),
		       -EINVAL;
	if (size < MIN_MEMORY || size > MAX_MEMORY || size % 4096 != 0)
		return log_err(0, "--memory '%s': from 4M to 8T in steps of 4K, please", piece),
		       -EINVAL;
	config->memory = size;
	while ((piece = next_piece(&rest))) {
		if (strncmp(piece, "backing=", 8) != 0)
			return log_err(0, "--memory key '%s': the only one is backing=", piece),
			       -EINVAL;
		r = parse_backing(piece + 8, &config->backing);
		if (r < 0)
			return r;
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
			return log_err(0, "--device: an empty name"), -EINVAL;
		if (strcmp(piece, "balloon=allowed") == 0 && config->nr_devices > first) {
			for (unsigned int i = first; i < config->nr_devices; i++)
				config->devices[i].balloon = VFIO_BALLOON_ALLOWED;
			continue;
		}
		if (strchr(piece, '='))
			return log_err(0,
				       "--device key '%s': the only one is balloon=allowed, "
				       "after the devices it is for",
				       piece),
			       -EINVAL;
		if (config->nr_devices == MACHINE_MAX_DEVICES)
			return log_err(0, "--device '%s': at most %u devices fit", piece,
				       MACHINE_MAX_DEVICES),
			       -EINVAL;
		config->devices[config->nr_devices++].name = piece;
	}
	return 0;
}

static int parse_switch(const char *option, const char *text, bool *ret)
{
	*ret = strcmp(text, "on") == 0;
	if (*ret || strcmp(text, "off") == 0)
		return 0;
	return log_err(0, "%s '%s': it is on or off", option, text), -EINVAL;
}

static int parse_balloon_size(const char *key, const char *text, uint64_t *ret)
{
	if (options_parse_size(text, ret) >= 0 && *ret > 0)
		return 0;
	return log_err(0, "--balloon %s='%s': a size such as 512M or 4G, please", key, text),
	       -EINVAL;
}

int options_parse_policy(const char *text, enum reclaim_policy *ret)
{
	if (strcmp(text, "inhibit") == 0)
		*ret = RECLAIM_INHIBIT;
	else if (strcmp(text, "coordinated") == 0)
		*ret = RECLAIM_COORDINATED;
	else
		return -EINVAL;
	return 0;
}

static int parse_policy(const char *text, enum reclaim_policy *ret)
{
	if (options_parse_policy(text, ret) >= 0)
		return 0;
	return log_err(0, "--balloon policy='%s': it is inhibit or coordinated", text), -EINVAL;
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
	return log_err(0, "--balloon granule='%s': a power of two from 4K to 1G, or auto",
		       text),
	       -EINVAL;
}

/* One KEY=VALUE; cuts it at the '='. */
static int parse_balloon_key(char *piece, struct machine_config *config)
{
	struct virtio_balloon_config *balloon = &config->balloon;
	uint64_t n = 0;
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
	if (value && strcmp(key, "policy") == 0)
		return parse_policy(value, &config->policy);
	if (value && strcmp(key, "granule") == 0)
		return parse_granule(value, &config->granule);
	if (value && strcmp(key, "stats") == 0) {
		int r = parse_number("--balloon stats", value, 0, MAX_TIMEOUT, &n);
		balloon->stats_period = (unsigned int)n;
		return r;
	}
	if (value && strcmp(key, "reporting") == 0)
		return parse_switch("--balloon reporting", value, &balloon->reporting);
	if (value && strcmp(key, "deflate-on-oom") == 0)
		return parse_switch("--balloon deflate-on-oom", value,
				    &balloon->deflate_on_oom);
	return log_err(0,
		       "--balloon '%s': it is on, or some of initial=SIZE, policy=POLICY, "
		       "granule=SIZE, auto=on, min=SIZE, max=SIZE, stats=SECONDS, reporting=on, "
		       "deflate-on-oom=on",
		       key),
	       -EINVAL;
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
		return log_err(0,
			       "--disk serial='%s': 1 to %u letters, digits or signs of ASCII, "
			       "please",
			       text, VIRTIO_BLK_SERIAL_SIZE),
		       -EINVAL;
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
	return log_err(0,
		       "--disk '%s': it is path=FILE (without a comma), and perhaps "
		       "readonly=on, direct=on, serial=TEXT",
		       key),
	       -EINVAL;
}

static int parse_disk(char *text, struct machine_config *config)
{
	struct virtio_blk_options disk = { 0 };
	char *rest = text;
	char *piece;

	if (config->nr_disks == MACHINE_MAX_DISKS)
		return log_err(0, "--disk '%s': at most %u disks fit", text, MACHINE_MAX_DISKS),
		       -EINVAL;
	while ((piece = next_piece(&rest))) {
		int r = parse_disk_key(piece, &disk);
		if (r < 0)
			return r;
	}
	if (!disk.path)
		return log_err(0, "--disk: path=FILE is missing"), -EINVAL;
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
	return log_err(0,
		       "--balloon %s=: the guest is to keep at least %" PRIu64
		       "M, and has %" PRIu64 "M in all",
		       key, floor >> 20, config->memory >> 20),
	       -EINVAL;
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
		return log_err(0, "--balloon min=, max=: they go with auto=on"), -EINVAL;
	if (automatic->min && automatic->max && automatic->min > automatic->max)
		return log_err(0, "--balloon min= is more than max="), -EINVAL;
	if (config->balloon.reporting && config->backing == RAM_HUGETLB)
		return log_err(0, "--balloon reporting=on: not with backing=hugetlb, where a "
				  "page given back may be gone when the guest wants it again"),
		       -EINVAL;
	if (config->backing == RAM_HUGETLB && config->granule > MACHINE_GRANULE_AUTO &&
	    config->granule < 2ull << 20)
		return log_err(0, "--balloon granule=: at least 2M with backing=hugetlb"),
		       -EINVAL;
	if (config->unsafe && config->policy == RECLAIM_COORDINATED)
		return log_err(0, "--experiment unsafe-reclaim: not with policy=coordinated, "
				  "under which nothing is unsafe"),
		       -EINVAL;
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
		return log_err(0,
			       "--net mac='%s': that is a group's: the first byte must be even",
			       text),
		       -EINVAL;
	if (!valid || !(bytes[0] | bytes[1] | bytes[2] | bytes[3] | bytes[4] | bytes[5]))
		return log_err(0,
			       "--net mac='%s': an address such as 02:00:00:12:34:56, please",
			       text),
		       -EINVAL;
	for (unsigned int i = 0; i < nitems(bytes); i++)
		net->mac[i] = (uint8_t)bytes[i];
	net->has_mac = true;
	return 0;
}

static int parse_vhost(const char *text, enum virtio_net_vhost *ret)
{
	if (strcmp(text, "auto") == 0)
		*ret = VIRTIO_NET_VHOST_AUTO;
	else if (strcmp(text, "on") == 0)
		*ret = VIRTIO_NET_VHOST_ON;
	else if (strcmp(text, "off") == 0)
		*ret = VIRTIO_NET_VHOST_OFF;
	else
		return log_err(0, "--net vhost='%s': it is on, off or auto", text), -EINVAL;
	return 0;
}

/* Where to, which comes first; cuts it at the '='. */
static int parse_way_out(char *piece, struct net_config *net)
{
	uint64_t n = 0;
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
		return log_err(0, "--net tap='%s': the name of an interface, of 1 to %d bytes",
			       value, IFNAMSIZ - 1),
		       -EINVAL;
	}
	if (value && strcmp(key, "fd") == 0) {
		net->kind = NET_FD;
		int r = parse_number("--net fd", value, 3, INT_MAX, &n);
		net->fd = (int)n;
		return r;
	}
	return log_err(0, "--net '%s': it begins with tap=NAME, fd=N, passt or passt=SOCKET",
		       key),
	       -EINVAL;
}

/* One KEY=VALUE after that; cuts it at the '='. */
static int parse_net_key(char *piece, struct net_config *net)
{
	uint64_t n = 0;
	char *value = piece;
	const char *key = strsep(&value, "=");

	if (value && strcmp(key, "mac") == 0)
		return parse_mac(value, net);
	if (value && strcmp(key, "vhost") == 0)
		return parse_vhost(value, &net->vhost);
	if (value && strcmp(key, "queues") == 0) {
		int r = parse_number("--net queues", value, 1, NET_MAX_PAIRS, &n);
		net->queues = (unsigned int)n;
		return r;
	}
	return log_err(0,
		       "--net key '%s': there are mac=ADDRESS, queues=N and vhost=on|off|auto",
		       key),
	       -EINVAL;
}

static int parse_net(char *text, struct machine_config *config)
{
	char *rest = text;
	char *piece = next_piece(&rest);

	if (config->nr_nets == MACHINE_MAX_NETS)
		return log_err(0, "--net '%s': there are at most %u", piece, MACHINE_MAX_NETS),
		       -EINVAL;
	struct net_config *net = &config->nets[config->nr_nets++];
	int r = parse_way_out(piece, net);
	while (r >= 0 && (piece = next_piece(&rest)))
		r = parse_net_key(piece, net);
	if (r < 0)
		return r;
	if (net->queues > 1 && net->kind != NET_TAP)
		return log_err(0, "--net queues=: more than one goes with tap=NAME only"),
		       -EINVAL;
	if (net->vhost == VIRTIO_NET_VHOST_ON && net->kind != NET_TAP && net->kind != NET_FD)
		return log_err(0, "--net vhost=on: that goes with a tap only"), -EINVAL;
	return 0;
}

static int parse_qmp(const char *text, struct machine_config *config)
{
	if (strncmp(text, "unix:", 5) != 0 || text[5] == '\0')
		return log_err(0, "--qmp '%s': it is unix:PATH", text), -EINVAL;
	config->qmp = text + 5;
	return 0;
}

static int parse_experiment(const char *text, struct machine_config *config)
{
	if (strcmp(text, "unsafe-reclaim") != 0)
		return log_err(0, "--experiment '%s': the only one is unsafe-reclaim", text),
		       -EINVAL;
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
	return log_err(0, "%s '%s': it is one of stdio, none, file=PATH, unix=PATH", option,
		       text),
	       -EINVAL;
}

/* What was not given follows from what was. */
static int choose_consoles(struct machine_config *config, bool serial_given)
{
	bool takes_stdio = config->has_console && config->console.kind == CONSOLE_STDIO;

	if (!config->cmdline)
		config->cmdline = config->has_console ? "console=hvc0" : "console=ttyS0";
	if (!serial_given && takes_stdio)
		config->serial.kind = CONSOLE_NONE;
	if (config->serial.kind == CONSOLE_STDIO && takes_stdio)
		return log_err(0, "--serial stdio, --console stdio: only one of them, please"),
		       -EINVAL;
	return 0;
}

static int parse_on_reset(const char *text, enum on_reset *ret)
{
	if (strcmp(text, "reset") == 0)
		*ret = ON_RESET_RESET;
	else if (strcmp(text, "exit") == 0)
		*ret = ON_RESET_EXIT;
	else
		return log_err(0, "--on-reset '%s': it is reset or exit", text), -EINVAL;
	return 0;
}

enum {
	OPTION_KERNEL = 256,
	OPTION_INITRD,
	OPTION_CMDLINE,
	OPTION_CPUS,
	OPTION_MEMORY,
	OPTION_DEVICE,
	OPTION_BALLOON,
	OPTION_NET,
	OPTION_RNG,
	OPTION_DISK,
	OPTION_QMP,
	OPTION_EXPERIMENT,
	OPTION_SERIAL,
	OPTION_CONSOLE,
	OPTION_ON_RESET,
	OPTION_TIMEOUT,
	OPTION_EXIT_PORT,
};

static const struct option options[] = {
	{ "kernel", required_argument, NULL, OPTION_KERNEL },
	{ "initrd", required_argument, NULL, OPTION_INITRD },
	{ "cmdline", required_argument, NULL, OPTION_CMDLINE },
	{ "cpus", required_argument, NULL, OPTION_CPUS },
	{ "memory", required_argument, NULL, OPTION_MEMORY },
	{ "device", required_argument, NULL, OPTION_DEVICE },
	{ "balloon", required_argument, NULL, OPTION_BALLOON },
	{ "net", required_argument, NULL, OPTION_NET },
	{ "rng", required_argument, NULL, OPTION_RNG },
	{ "disk", required_argument, NULL, OPTION_DISK },
	{ "qmp", required_argument, NULL, OPTION_QMP },
	{ "experiment", required_argument, NULL, OPTION_EXPERIMENT },
	{ "serial", required_argument, NULL, OPTION_SERIAL },
	{ "console", required_argument, NULL, OPTION_CONSOLE },
	{ "on-reset", required_argument, NULL, OPTION_ON_RESET },
	{ "timeout", required_argument, NULL, OPTION_TIMEOUT },
	{ "exit-port", no_argument, NULL, OPTION_EXIT_PORT },
	{ "verbose", no_argument, NULL, 'v' },
	{ "help", no_argument, NULL, 'h' },
	{ "version", no_argument, NULL, 'V' },
	{ 0 },
};

static int parse_one(int option, char *value, struct machine_config *config)
{
	uint64_t n = 0;
	int r = 0;

	switch (option) {
	case OPTION_KERNEL: config->kernel = value; break;
	case OPTION_INITRD: config->initrd = value; break;
	case OPTION_CMDLINE: config->cmdline = value; break;
	case OPTION_CPUS:
		r = parse_number("--cpus", value, 1, MACHINE_MAX_CPUS, &n);
		config->nr_cpus = (unsigned int)n;
		break;
	case OPTION_MEMORY: r = parse_memory(value, config); break;
	case OPTION_DEVICE: r = parse_devices(value, config); break;
	case OPTION_BALLOON: r = parse_balloon(value, config); break;
	case OPTION_NET: r = parse_net(value, config); break;
	case OPTION_RNG: r = parse_switch("--rng", value, &config->has_rng); break;
	case OPTION_DISK: r = parse_disk(value, config); break;
	case OPTION_QMP: r = parse_qmp(value, config); break;
	case OPTION_EXPERIMENT: r = parse_experiment(value, config); break;
	case OPTION_SERIAL: r = parse_where("--serial", value, &config->serial); break;
	case OPTION_CONSOLE:
		r = parse_where("--console", value, &config->console);
		config->has_console = true;
		break;
	case OPTION_ON_RESET: r = parse_on_reset(value, &config->on_reset); break;
	case OPTION_TIMEOUT:
		r = parse_number("--timeout", value, 1, MAX_TIMEOUT, &n);
		config->timeout = (unsigned int)n;
		break;
	case OPTION_EXIT_PORT: config->exit_port = true; break;
	case 'v': log_set_level(LOG_DEBUG); break;
	default: r = -EINVAL;
	}
	return r;
}

static int parse_run(int argc, char **argv, struct machine_config *config)
{
	bool serial_given = false;
	int option;

	*config = (struct machine_config){
		.nr_cpus = 1,
		.memory = 512ull << 20,
		.serial = { CONSOLE_STDIO, NULL },
		.policy = RECLAIM_INHIBIT,
	};
	opterr = 0; /* the words are ours */
	optind = 1;
	while ((option = getopt_long(argc, argv, "+:vh", options, NULL)) != -1) {
		if (option == 'h') {
			fputs(help, stdout);
			return OPTIONS_DONE;
		}
		if (option == 'V') {
			puts("ballast " BALLAST_VERSION);
			return OPTIONS_DONE;
		}
		if (option == ':')
			return log_err(0, "option '%s' needs a value; see ballast --help",
				       argv[optind - 1]),
			       -EINVAL;
		if (option == '?') {
			/* optind stays where it is within a word of several letters. */
			const char letter[] = { '-', (char)optopt, '\0' };
			bool is_letter = optopt > 0 && optopt < OPTION_KERNEL;
			return log_err(0, "option '%s' is not known; see ballast --help",
				       is_letter ? letter : argv[optind - 1]),
			       -EINVAL;
		}
		int r = parse_one(option, optarg, config);
		if (r < 0)
			return r;
		serial_given |= option == OPTION_SERIAL;
		if (option == 'v' && optind < argc && strcmp(argv[optind], "trace") == 0) {
			trace_listen(trace_print);
			optind++;
		}
	}
	if (optind < argc)
		return log_err(0, "'%s' is no option; see ballast --help", argv[optind]),
		       -EINVAL;
	if (!config->kernel)
		return log_err(0, "--kernel is missing; see ballast --help"), -EINVAL;
	if (check_balloon(config) < 0 || choose_consoles(config, serial_given) < 0)
		return -EINVAL;
	return OPTIONS_RUN;
}

int options_parse(int argc, char **argv, struct machine_config *config)
{
	const char *command = argc > 1 ? argv[1] : "";

	if (strcmp(command, "--help") == 0 || strcmp(command, "-h") == 0 ||
	    strcmp(command, "help") == 0) {
		fputs(help, stdout);
		return OPTIONS_DONE;
	}
	if (strcmp(command, "--version") == 0) {
		puts("ballast " BALLAST_VERSION);
		return OPTIONS_DONE;
	}
	if (strcmp(command, "run") != 0)
		return log_err(0,
			       "command '%s' is not known; it is: ballast run --kernel FILE, or "
			       "ballast ctl SOCKET COMMAND; see ballast --help",
			       command),
		       -EINVAL;
	return parse_run(argc - 1, argv + 1, config);
}
