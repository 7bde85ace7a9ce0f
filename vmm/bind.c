/* SPDX-License-Identifier: MIT */
#include "vmm/bind.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include <sys/file.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "base/fd.h"
#include "base/log.h"

#include "vfio/vfio_pci.h"
#include "vmm/host_pci.h"
#include "vmm/machine.h"

#define RECORDS "run/ballast/bind"
#define FUNCTION_DIR "sys/bus/pci/devices/%s"
#define MAX_FUNCTIONS 128u
#define PCI_STORAGE_CLASS 0x01u

static const char bind_help[] =
	"Usage: ballast bind [--force] BDF...\n"
	"Takes PCI devices (0000:01:00.0) from their drivers and gives them to vfio-pci,\n"
	"so that ballast run --device can have them; with each all of its IOMMU group,\n"
	"bridges excepted. What they had before is remembered in /run/ballast/bind, and\n"
	"ballast unbind gives it back. Needs root, and: modprobe vfio-pci.\n"
	"\n"
	"  --force     even if the host's root disk or only network link depends on it\n"
	"  -h, --help  this text\n"
	"\n"
	"Exit status: 0 done; 1 refused or failed; 2 wrong usage.\n";

static const char unbind_help[] =
	"Usage: ballast unbind BDF...\n"
	"Gives back what ballast bind took, with all of its IOMMU group: each device\n"
	"gets the driver and driver_override that it had; also if bind was cut short.\n"
	"\n"
	"  -h, --help  this text\n"
	"\n"
	"Exit status: 0 done; 1 refused or failed; 2 wrong usage.\n";

/* What is to be taken, or given back, by one command. */
struct plan {
	const char *root;
	int folder; /* owned; of the records, locked */
	unsigned int nr;
	struct host_function functions[MAX_FUNCTIONS];
	bool has_record[MAX_FUNCTIONS]; /* from before */
	struct host_names group;        /* of the function that is being added */
};

struct record {
	char driver[HOST_NAME_SIZE];   /* "": none */
	char override[HOST_NAME_SIZE]; /* "": none */
};

/* NULL: no memory. */
static struct plan *plan_create(const char *root)
{
	struct plan *plan = calloc(1, sizeof(*plan));

	if (!plan)
		return NULL;
	plan->root = root;
	plan->folder = -1;
	return plan;
}

static void plan_destroy(struct plan *plan)
{
	fd_close(&plan->folder);
	free(plan);
}

static int plan_add(struct plan *plan, const struct host_function *function)
{
	for (unsigned int i = 0; i < plan->nr; i++) {
		if (strcmp(plan->functions[i].name, function->name) == 0)
			return 0;
	}
	if (plan->nr == MAX_FUNCTIONS)
		return log_err(-E2BIG, "%s: more than %u devices at once", function->name,
			       MAX_FUNCTIONS);
	plan->functions[plan->nr++] = *function;
	return 0;
}

/* An errno that says that the user is to blame. */
static bool is_the_users(int r)
{
	return r == -EINVAL || r == -ENODEV;
}

/* Such a one from the kernel, after the user's names were found good. */
static int not_the_users(int r)
{
	return is_the_users(r) ? -EIO : r;
}

static int parse_name(const char *given, char name[VFIO_NAME_SIZE])
{
	if (vfio_pci_name(given, name, VFIO_NAME_SIZE) >= 0 && strchr(name, ':'))
		return 0;
	return log_refuse(-EINVAL, "'%.128s': a PCI device is called 0000:01:00.0", given);
}

static int look_up(const char *root, const char *name, struct host_function *ret)
{
	int r = host_get_function(root, name, ret);

	if (r == -ENODEV)
		return log_err(r, "%s: not on this host (see lspci -D)", name);
	return r < 0 ? log_err(r, "%s: look it up in /sys", name) : 0;
}

static int list_group(struct plan *plan, const struct host_function *function)
{
	int r = host_get_group(plan->root, function->group, &plan->group);

	return r < 0 ? log_err(r, "%s: list its IOMMU group %u", function->name,
			       function->group)
		     : 0;
}

/* Adds what of the group of a function the kernel would not call viable. */
static int add_group(struct plan *plan, const struct host_function *function)
{
	struct host_function member;

	int r = list_group(plan, function);
	for (unsigned int i = 0; i < plan->group.nr && r >= 0; i++) {
		r = look_up(plan->root, plan->group.names[i], &member);
		if (r >= 0 && !host_is_viable(&member))
			r = plan_add(plan, &member);
	}
	return r;
}

static int plan_bind(struct plan *plan, const char *given)
{
	struct host_function function;
	char name[VFIO_NAME_SIZE];

	int r = parse_name(given, name);
	if (r >= 0)
		r = look_up(plan->root, name, &function);
	if (r < 0)
		return r;
	if (host_is_bridge(&function))
		return log_refuse(-EINVAL, "bind %s: it is a bridge: name a device behind it",
				  name);
	if (!function.has_group)
		return log_refuse(-EOPNOTSUPP,
				  "bind %s: no IOMMU stands before it: ballast doctor %s tells "
				  "how to switch it on",
				  name, name);
	r = plan_add(plan, &function);
	return r < 0 ? r : not_the_users(add_group(plan, &function));
}

/* What the host lives on */

struct guard {
	const struct plan *plan;
	enum bind_force force;
	bool link_stays;           /* there is a link that does without what is planned */
	char lost[HOST_NAME_SIZE]; /* an interface that does not; "": none */
	char by[VFIO_NAME_SIZE];   /* the function that this depends on */
};

/* What was planned and this depends on, or NULL. */
static const char *find_planned(const struct plan *plan, const struct host_names *needed)
{
	for (unsigned int i = 0; i < plan->nr; i++) {
		if (host_names_have(needed, plan->functions[i].name))
			return plan->functions[i].name;
	}
	return NULL;
}

static int refuse(const struct guard *guard, const char *name, const char *user)
{
	if (guard->force == BIND_FORCED) {
		log_warn("bind %s: this host's %s depends on it: going on, by --force", name,
			 user);
		return 0;
	}
	return log_refuse(
		-EBUSY, "bind %s: this host's %s depends on it; --force takes it all the same",
		name, user);
}

/* Any planned function may be what a disk that cannot be found depends on, if it is for disks. */
static int guard_unknown(const struct guard *guard, const char *user)
{
	const struct host_function *found = NULL;

	for (unsigned int i = 0; i < guard->plan->nr && !found; i++) {
		if (guard->plan->functions[i].class_code >> 16 == PCI_STORAGE_CLASS)
			found = &guard->plan->functions[i];
	}
	if (!found)
		return 0;
	if (guard->force == BIND_FORCED) {
		log_warn("bind %s: perhaps this host's %s depends on it: going on, by --force",
			 found->name, user);
		return 0;
	}
	return log_refuse(
		-EBUSY,
		"bind %s: it is for disks, and which of them this host's %s is on cannot "
		"be told; --force takes it all the same",
		found->name, user);
}

static int guard_disk(const struct guard *guard, const char *user, const char *folder)
{
	autofree struct host_names *needed = calloc(1, sizeof(*needed));
	if (!needed)
		return -ENOMEM;
	int r = host_add_disk(guard->plan->root, folder, needed);
	if (r < 0 && r != -ENOENT)
		return r;
	const char *name = find_planned(guard->plan, needed);
	if (name)
		return refuse(guard, name, user);
	return r == -ENOENT ? guard_unknown(guard, user) : 0;
}

static int guard_block(const struct guard *guard, const char *user, const char *name)
{
	char folder[PATH_MAX];

	(void)snprintf(folder, sizeof(folder), "sys/class/block/%s", name);
	return guard_disk(guard, user, folder);
}

/* The name in /sys of a device node, whatever that links to. -ENOENT: it is none. */
static int find_block(const char *root, const char *node, char name[HOST_NAME_SIZE])
{
	char path[PATH_MAX];
	char real[PATH_MAX];

	(void)snprintf(path, sizeof(path), "%s%s", root, node);
	if (strncmp(node, "/dev/", 5) != 0 || !realpath(path, real))
		return -ENOENT;
	const char *base = strrchr(real, '/') + 1;
	if (strlen(base) >= HOST_NAME_SIZE)
		return -ENOENT;
	(void)strcpy(name, base);
	return 0;
}

static int guard_node(const struct guard *guard, const char *user, const char *node)
{
	char name[HOST_NAME_SIZE];

	int r = find_block(guard->plan->root, node, name);
	return r < 0 ? guard_unknown(guard, user) : guard_block(guard, user, name);
}

/* All disks of the btrfs that has this one. */
static int guard_btrfs(const struct guard *guard, const char *user, const char *node)
{
	const char *root = guard->plan->root;
	char name[HOST_NAME_SIZE];
	bool found = false;

	autofree struct host_names *systems = calloc(1, sizeof(*systems));
	autofree struct host_names *disks = calloc(1, sizeof(*disks));
	if (!systems || !disks)
		return -ENOMEM;
	if (find_block(root, node, name) < 0)
		return guard_unknown(guard, user);
	int r = host_list(root, systems, "sys/fs/btrfs");
	for (unsigned int i = 0; i < systems->nr && r >= 0 && !found; i++) {
		r = host_list(root, disks, "sys/fs/btrfs/%s/devices", systems->names[i]);
		found = r >= 0 && host_names_have(disks, name);
		r = r == -ENOENT ? 0 : r; /* "features" is no file system */
	}
	if (r < 0 && r != -ENOENT)
		return r;
	if (!found) {
		r = guard_block(guard, user, name);
		return r < 0 ? r : guard_unknown(guard, user);
	}
	for (unsigned int i = 0; i < disks->nr && r >= 0; i++)
		r = guard_block(guard, user, disks->names[i]);
	return r;
}

static int guard_number(const struct guard *guard, const char *user, unsigned int number_major,
			unsigned int number_minor)
{
	char folder[64];

	(void)snprintf(folder, sizeof(folder), "sys/dev/block/%u:%u", number_major,
		       number_minor);
	return guard_disk(guard, user, folder);
}

/* One without a device number of its own: it has several disks, or others' disks, or none. */
static int guard_anonymous(const struct guard *guard, const char *user, const char *type,
			   const char *source)
{
	static const char *const without_disk[] = { "tmpfs", "ramfs", "rootfs",   "autofs",
						    "nfs",   "nfs4",  "virtiofs", "9p" };

	for (unsigned int i = 0; i < nitems(without_disk); i++) {
		if (strcmp(type, without_disk[i]) == 0)
			return 0;
	}
	return strcmp(type, "btrfs") == 0 ? guard_btrfs(guard, user, source)
					  : guard_node(guard, user, source);
}

/* "36 35 8:2 / /boot rw,noatime master:1 - ext4 /dev/sda2 rw": proc(5), mountinfo. */
static int guard_mount(void *guard, const char *line)
{
	static const char *const needed[] = { "/", "/boot", "/boot/efi", "/usr" };
	unsigned int number_major;
	unsigned int number_minor;
	char point[1024];
	char type[32];
	char source[1024];
	char user[32];
	const char *rest = strstr(line, " - ");

	if (!rest ||
	    sscanf(line, "%*d %*d %u:%u %*s %1023s", &number_major, &number_minor, point) !=
		    3 ||
	    sscanf(rest, " - %31s %1023s", type, source) != 2)
		return 0;
	for (unsigned int i = 0; i < nitems(needed); i++) {
		if (strcmp(point, needed[i]) != 0)
			continue;
		(void)snprintf(user, sizeof(user), "mount %s", needed[i]);
		return number_major ? guard_number(guard, user, number_major, number_minor)
				    : guard_anonymous(guard, user, type, source);
	}
	return 0;
}

/* "/dev/sda3 partition 8388604 0 -2", or "/swapfile file ..."; first a heading. */
static int guard_swap(void *opaque, const char *line)
{
	const struct guard *guard = opaque;
	char name[1024];
	char kind[16];
	char path[PATH_MAX];
	struct stat status;

	if (sscanf(line, "%1023s %15s", name, kind) != 2)
		return 0;
	if (strcmp(kind, "partition") == 0)
		return guard_node(guard, "swap", name);
	(void)snprintf(path, sizeof(path), "%s%s", guard->plan->root, name);
	if (strcmp(kind, "file") != 0 || stat(path, &status) < 0)
		return 0;
	return guard_number(guard, "swap", major(status.st_dev), minor(status.st_dev));
}

/* The interface of a default route: proc/net/route has it first, proc/net/ipv6_route last. */
static bool read_default_route(const char *line, char interface[HOST_NAME_SIZE])
{
	char destination[64];
	char mask[64];

	if (sscanf(line, "%63s 00000000 %*s %*s %*s %*s %*s %63s", interface, mask) == 2 &&
	    strcmp(mask, "00000000") == 0)
		return true;
	return sscanf(line, "%63s 00 %*s %*s %*s %*s %*s %*s %*s %63s", destination,
		      interface) == 2 &&
	       strspn(destination, "0") == 32;
}

/* What has no hardware below it (a tunnel) says nothing: it goes where the others go. */
static int guard_link(void *opaque, const char *interface)
{
	struct guard *guard = opaque;
	const char *root = guard->plan->root;
	char state[32];

	autofree struct host_names *needed = calloc(1, sizeof(*needed));
	if (!needed)
		return -ENOMEM;
	int r = host_add_link(root, interface, needed);
	if (r < 0 || needed->nr == 0)
		return r == -ENOENT ? 0 : r;
	r = host_read(root, state, sizeof(state), "sys/class/net/%s/operstate", interface);
	if (r >= 0 && strcmp(state, "up") != 0 && strcmp(state, "unknown") != 0)
		return 0;
	const char *name = find_planned(guard->plan, needed);
	if (name) {
		(void)snprintf(guard->lost, sizeof(guard->lost), "%.63s", interface);
		(void)snprintf(guard->by, sizeof(guard->by), "%s", name);
	}
	guard->link_stays |= !name;
	return 0;
}

static int guard_route(void *guard, const char *line)
{
	char interface[HOST_NAME_SIZE];

	return read_default_route(line, interface) ? guard_link(guard, interface) : 0;
}

/* Where no default route leads to hardware any link that is up may be how this host is reached. */
static int guard_links(struct guard *guard)
{
	char path[PATH_MAX];

	if (guard->lost[0] || guard->link_stays)
		return 0;
	(void)snprintf(path, sizeof(path), "%s/sys/class/net", guard->plan->root);
	int r = host_each_name(path, guard_link, guard);
	return r == -ENOENT ? 0 : r;
}

static int cannot_look(const struct guard *guard, int r, const char *path)
{
	if (guard->force != BIND_FORCED)
		return log_err(r, "bind: learn from /%s what the host needs", path);
	log_warn("bind: learn from /%s what the host needs: %s: going on, by --force", path,
		 strerror(-r));
	return 0;
}

/* Whatever cannot be looked at may be in the way. */
static int check_host(const struct plan *plan, enum bind_force force)
{
	static const struct {
		const char *file;
		host_look *look;
	} files[] = {
		{ "proc/self/mountinfo", guard_mount },
		{ "proc/swaps", guard_swap },
		{ "proc/net/route", guard_route },
		{ "proc/net/ipv6_route", guard_route },
	};
	struct guard guard = { .plan = plan, .force = force };
	char user[HOST_NAME_SIZE + 32];

	for (unsigned int i = 0; i < nitems(files); i++) {
		int r = host_each_line(plan->root, files[i].file, files[i].look, &guard);
		if (r == -EBUSY)
			return r;
		if (r < 0)
			r = cannot_look(&guard, r, files[i].file);
		if (r < 0)
			return r;
	}
	int r = guard_links(&guard);
	if (r < 0)
		r = cannot_look(&guard, r, "sys/class/net");
	if (r < 0)
		return r;
	if (!guard.lost[0] || guard.link_stays)
		return 0;
	(void)snprintf(user, sizeof(user), "only network link, %s,", guard.lost);
	return refuse(&guard, guard.by, user);
}

/* Records */

/* Opens and locks their folder. */
static int open_records(struct plan *plan, const char *command)
{
	static const char *const folders[] = { "run", "run/ballast", RECORDS };
	char path[PATH_MAX];
	int r = 0;

	for (unsigned int i = 0; i < nitems(folders); i++) {
		(void)snprintf(path, sizeof(path), "%s/%s", plan->root, folders[i]);
		if (mkdir(path, 0755) < 0 && errno != EEXIST) {
			r = -errno;
			break;
		}
	}
	if (r >= 0) {
		plan->folder = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (plan->folder < 0 || faccessat(plan->folder, ".", W_OK, AT_EACCESS) < 0 ||
		    flock(plan->folder, LOCK_EX) < 0)
			r = -errno;
	}
	if (r == -EACCES || r == -EPERM)
		return log_err(r, "%s: /" RECORDS ": be root (sudo ballast %s)", command,
			       command);
	return r < 0 ? log_err(r, "%s: /" RECORDS, command) : 0;
}

/* The value of a line "key value", or NULL; ends it. */
static const char *take_line(char **text, const char *key)
{
	const char *line = strsep(text, "\n");
	size_t size = strlen(key);

	if (!line || strncmp(line, key, size) != 0 || strlen(line + size) >= HOST_NAME_SIZE)
		return NULL;
	return line + size;
}

/* -ENOENT, not logged: there is none. */
static int record_read(const char *root, const char *name, struct record *ret)
{
	char buffer[512];
	char *text = buffer;

	int r = host_read(root, buffer, sizeof(buffer), RECORDS "/%s", name);
	if (r == -ENOENT)
		return r;
	if (r < 0)
		return log_err(r, "%s: read /" RECORDS "/%s", name, name);
	const char *driver = take_line(&text, "driver ");
	const char *override = take_line(&text, "override ");
	if (!driver || !override)
		return log_refuse(-EPROTO,
				  "%s: /" RECORDS
				  "/%s is damaged: delete it, and give the device "
				  "to its driver by hand",
				  name, name);
	(void)strcpy(ret->driver, driver);
	(void)strcpy(ret->override, override);
	return 0;
}

static int write_all(int folder, const char *name, const char *text)
{
	autoclose int fd = openat(folder, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	if (fd < 0)
		return -errno;
	int r = fd_write_at(fd, text, strlen(text), 0);
	if (r >= 0 && fsync(fd) < 0)
		r = -errno;
	return r;
}

/* All of it is there, for good, or nothing. */
static int record_write(const struct plan *plan, const struct host_function *function)
{
	char text[2 * HOST_NAME_SIZE + 32];
	char temporary[VFIO_NAME_SIZE + 1];

	(void)snprintf(text, sizeof(text), "driver %s\noverride %s\n", function->driver,
		       function->override);
	(void)snprintf(temporary, sizeof(temporary), ".%s", function->name);
	int r = write_all(plan->folder, temporary, text);
	if (r >= 0 && renameat(plan->folder, temporary, plan->folder, function->name) < 0)
		r = -errno;
	if (r >= 0 && fsync(plan->folder) < 0)
		r = -errno;
	if (r >= 0)
		return 0;
	(void)unlinkat(plan->folder, temporary, 0); /* perhaps it is not there */
	(void)unlinkat(plan->folder, function->name, 0);
	return log_err(r, "bind %s: remember its driver in /" RECORDS, function->name);
}

static void record_remove(const struct plan *plan, const char *name)
{
	if (unlinkat(plan->folder, name, 0) < 0 || fsync(plan->folder) < 0)
		log_warn("%s: remove /" RECORDS "/%s: %s, going on", name, name,
			 strerror(errno));
}

/* Changes. Each is one write. */

static int set_override(const char *root, const char *name, const char *driver)
{
	char text[HOST_NAME_SIZE + 1];

	(void)snprintf(text, sizeof(text), "%s\n", driver);
	int r = host_write(root, text, FUNCTION_DIR "/driver_override", name);
	return r < 0 ? log_err(r, "%s: set its driver_override to '%s'", name, driver) : 0;
}

/* From whichever driver it has now. */
static int leave_driver(const char *root, const struct host_function *now)
{
	if (!now->driver[0])
		return 0;
	int r = host_write(root, now->name, "sys/bus/pci/drivers/%s/unbind", now->driver);
	return r < 0 ? log_err(r, "%s: take it from %s", now->name, now->driver) : 0;
}

static int take(const char *root, const struct host_function *function)
{
	struct host_function now;

	int r = set_override(root, function->name, "vfio-pci");
	if (r >= 0)
		r = leave_driver(root, function);
	if (r < 0)
		return r;
	r = host_write(root, function->name, "sys/bus/pci/drivers_probe");
	if (r < 0)
		return log_err(r, "bind %s: have vfio-pci look at it", function->name);
	r = look_up(root, function->name, &now);
	if (r < 0)
		return r;
	if (!vfio_pci_is_driver(now.driver))
		return log_err(-EIO, "bind %s: vfio-pci did not take it (see dmesg)",
			       function->name);
	printf("%s: bound to %s, was %s\n", function->name, now.driver,
	       function->driver[0] ? function->driver : "without a driver");
	return 0;
}

/* Whatever state it is in. */
static int give_back(const char *root, const char *name, const struct record *record)
{
	struct host_function now;

	int r = look_up(root, name, &now);
	if (r >= 0)
		r = set_override(root, name, record->override);
	if (r < 0 || strcmp(now.driver, record->driver) == 0)
		return r;
	r = leave_driver(root, &now);
	if (r < 0 || !record->driver[0])
		return r;
	/* That very one: others may know the device, too. */
	r = host_write(root, name, "sys/bus/pci/drivers/%s/bind", record->driver);
	if (r == -ENOENT)
		return log_err(r,
			       "unbind %s: its driver %s is not loaded: modprobe it, and "
			       "again ballast unbind %s",
			       name, record->driver, name);
	return r < 0 ? log_err(r, "unbind %s: give it to %s", name, record->driver) : 0;
}

static void tell_driverctl(const char *root, const char *name)
{
	char driver[HOST_NAME_SIZE];

	if (!host_has(root, "etc/driverctl.d/%s", name))
		return;
	if (host_read(root, driver, sizeof(driver), "etc/driverctl.d/%s", name) < 0)
		(void)strcpy(driver, "what it says");
	printf("%s: driverctl has an override for it, which stays: %s, again after a reboot "
	       "(driverctl unset-override %s)\n",
	       name, driver, name);
}

/* Of what this command has begun with, newest first; `nr` functions. */
static void undo(const struct plan *plan, unsigned int nr)
{
	while (nr-- > 0) {
		const struct host_function *function = &plan->functions[nr];
		struct record record;
		if (plan->has_record[nr] || vfio_pci_is_driver(function->driver))
			continue;
		(void)strcpy(record.driver, function->driver);
		(void)strcpy(record.override, function->override);
		if (give_back(plan->root, function->name, &record) >= 0)
			record_remove(plan, function->name);
	}
}

/*
 * A record is good as long as vfio-pci or nobody has the function. If a driver of the host's has it
 * again without unbind, what counts is how it is now; but for the driver_override that a bind has
 * set which was cut short before it took the function.
 */
static int remember(struct plan *plan, unsigned int i)
{
	struct host_function *function = &plan->functions[i];
	bool is_taken = vfio_pci_is_driver(function->driver);
	struct record record;

	int r = record_read(plan->root, function->name, &record);
	if (r < 0 && r != -ENOENT)
		return r;
	plan->has_record[i] = r >= 0 && (is_taken || !function->driver[0]);
	if (plan->has_record[i] || is_taken)
		return 0; /* without a record: somebody else's affair, and so it stays */
	if (r < 0 || strcmp(record.driver, function->driver) != 0 ||
	    strcmp(function->override, "vfio-pci") != 0)
		return record_write(plan, function);
	(void)strcpy(function->override, record.override);
	return 0;
}

/* All records before the first change. */
static int write_records(struct plan *plan)
{
	int r = 0;

	for (unsigned int i = 0; i < plan->nr && r >= 0; i++) {
		r = remember(plan, i);
		if (r < 0)
			undo(plan, i);
	}
	return r;
}

static int take_all(struct plan *plan)
{
	for (unsigned int i = 0; i < plan->nr; i++) {
		const struct host_function *function = &plan->functions[i];
		tell_driverctl(plan->root, function->name);
		if (vfio_pci_is_driver(function->driver)) {
			printf("%s: bound to %s already\n", function->name, function->driver);
			continue;
		}
		int r = take(plan->root, function);
		if (r < 0) {
			undo(plan, plan->nr);
			return r;
		}
	}
	return 0;
}

static int bind_planned(struct plan *plan, const char *const *names, unsigned int nr,
			enum bind_force force)
{
	if (!host_has(plan->root, "sys/bus/pci/drivers/vfio-pci"))
		return log_err(-ENOENT, "bind: the driver vfio-pci is not loaded: modprobe "
					"vfio-pci");
	/* First the lock: what is looked at from here on no other command changes. */
	int r = not_the_users(open_records(plan, "bind"));
	for (unsigned int i = 0; i < nr && r >= 0; i++)
		r = plan_bind(plan, names[i]);
	if (r < 0)
		return r;
	r = check_host(plan, force);
	if (r >= 0)
		r = write_records(plan);
	if (r >= 0)
		r = take_all(plan);
	return not_the_users(r);
}

int bind_devices(const char *root, const char *const *names, unsigned int nr,
		 enum bind_force force)
{
	struct plan *plan = plan_create(root);

	if (!plan)
		return log_err(-ENOMEM, "bind");
	int r = bind_planned(plan, names, nr, force);
	plan_destroy(plan);
	return r;
}

/* The reverse */

static int refuse_in_use(const struct host_function *function)
{
	int fd = -1;

	/* Whoever has this one's driver: what is given back along with it may be the guest's. */
	if (!function->has_group)
		return 0;
	int r = vfio_open_group(function->group, &fd);
	vfio_close(&fd);
	if (r == -EBUSY)
		return log_err(r,
			       "unbind %s: a guest, or another process, has its group %u: end "
			       "that first",
			       function->name, function->group);
	return 0; /* whatever else is the matter with it, it is not in use */
}

/* What was bound along with it. */
static int plan_group(struct plan *plan, const struct host_function *function)
{
	struct host_function member;
	struct record record;

	if (!function->has_group)
		return 0;
	int r = list_group(plan, function);
	if (r < 0)
		return r;
	for (unsigned int i = 0; i < plan->group.nr; i++) {
		r = record_read(plan->root, plan->group.names[i], &record);
		if (r == -ENOENT)
			continue;
		if (r >= 0)
			r = look_up(plan->root, plan->group.names[i], &member);
		if (r >= 0)
			r = plan_add(plan, &member);
		if (r < 0)
			return r;
	}
	return 0;
}

static int refuse_unbound(const struct plan *plan, const char *name)
{
	struct host_function now;

	int r = look_up(plan->root, name, &now);
	if (r < 0)
		return r;
	if (vfio_pci_is_driver(now.driver))
		return log_refuse(
			-ENOENT,
			"unbind %s: it is bound to %s, but not by ballast bind: whoever "
			"did that (driverctl list-overrides) can undo it",
			name, now.driver);
	return log_refuse(-ENOENT,
			  "unbind %s: it is not bound by ballast bind: its driver is %s", name,
			  now.driver[0] ? now.driver : "none");
}

static int plan_unbind(struct plan *plan, const char *given)
{
	struct host_function function;
	struct record record;
	char name[VFIO_NAME_SIZE];

	int r = parse_name(given, name);
	if (r < 0)
		return r;
	r = record_read(plan->root, name, &record);
	if (r == -ENOENT)
		return refuse_unbound(plan, name);
	if (r < 0)
		return r;
	if (!host_has(plan->root, FUNCTION_DIR, name)) {
		log_warn("unbind %s: it is gone from this host: forgetting it", name);
		record_remove(plan, name);
		return 0;
	}
	r = look_up(plan->root, name, &function);
	if (r >= 0)
		r = refuse_in_use(&function);
	if (r >= 0)
		r = plan_add(plan, &function);
	return r < 0 ? r : not_the_users(plan_group(plan, &function));
}

static int give_back_all(const struct plan *plan)
{
	struct record record;

	for (unsigned int i = plan->nr; i-- > 0;) {
		const char *name = plan->functions[i].name;
		int r = record_read(plan->root, name, &record);
		if (r >= 0)
			r = give_back(plan->root, name, &record);
		if (r < 0)
			return r;
		record_remove(plan, name);
		printf("%s: given back to %s\n", name,
		       record.driver[0] ? record.driver : "no driver");
		tell_driverctl(plan->root, name);
	}
	return 0;
}

int unbind_devices(const char *root, const char *const *names, unsigned int nr)
{
	struct plan *plan = plan_create(root);
	int r = 0;

	if (!plan)
		return log_err(-ENOMEM, "unbind");
	/* Where there are no records nothing was bound, and that is told. */
	if (host_has(root, RECORDS))
		r = open_records(plan, "unbind");
	for (unsigned int i = 0; i < nr && r >= 0; i++)
		r = plan_unbind(plan, names[i]);
	if (r >= 0)
		r = not_the_users(give_back_all(plan));
	plan_destroy(plan);
	return r;
}

/* The commands */

struct operands {
	const char *names[MAX_FUNCTIONS];
	unsigned int nr;
	enum bind_force force;
};

/* 1: the help was asked for. */
static int parse(int argc, char **argv, struct operands *ret)
{
	bool can_force = strcmp(argv[0], "bind") == 0;

	*ret = (struct operands){ .force = BIND_CAREFULLY };
	for (int i = 1; i < argc; i++) {
		if (strcmp(argv[i], "-h") == 0 || strcmp(argv[i], "--help") == 0)
			return 1;
		if (can_force && strcmp(argv[i], "--force") == 0)
			ret->force = BIND_FORCED;
		else if (argv[i][0] == '-')
			return log_refuse(-EINVAL, "%s: option '%s': there %s --help", argv[0],
					  argv[i], can_force ? "are --force and" : "is");
		else if (ret->nr == MAX_FUNCTIONS)
			return log_refuse(-EINVAL, "%s: '%s': at most %u devices at once",
					  argv[0], argv[i], MAX_FUNCTIONS);
		else
			ret->names[ret->nr++] = argv[i];
	}
	if (ret->nr == 0)
		return log_refuse(-EINVAL,
				  "%s: it is ballast %s 0000:01:00.0; see ballast %s --help",
				  argv[0], argv[0], argv[0]);
	return 0;
}

static int status_of(int r, const char *command)
{
	if (fflush(stdout) != 0 || ferror(stdout))
		r = log_err(-EIO, "%s: standard output", command);
	if (is_the_users(r))
		return STATUS_USAGE;
	return r < 0 ? STATUS_FAILED : 0;
}

int bind_main(int argc, char **argv)
{
	struct operands operands;

	int r = parse(argc, argv, &operands);
	if (r == 0)
		r = bind_devices("", operands.names, operands.nr, operands.force);
	else if (r > 0)
		(void)fputs(bind_help, stdout); /* looked at below */
	return status_of(r, "bind");
}

int unbind_main(int argc, char **argv)
{
	struct operands operands;

	int r = parse(argc, argv, &operands);
	if (r == 0)
		r = unbind_devices("", operands.names, operands.nr);
	else if (r > 0)
		(void)fputs(unbind_help, stdout); /* looked at below */
	return status_of(r, "unbind");
}
