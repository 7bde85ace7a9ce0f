/* SPDX-License-Identifier: MIT */
#include "vmm/host_pci.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "base/fd.h"
#include "base/log.h"

#include "vfio/vfio_pci.h"

#define FUNCTION_DIR "sys/bus/pci/devices/%s"
#define MAX_DEPTH 8u /* of disks made of disks; a bond of VLANs over a bridge is three */
#define PCI_BRIDGE_CLASS 0x0604u

/* Into PATH_MAX bytes. */
static int printf_like(3, 0)
	make_path(char *path, const char *root, const char *fmt, va_list args)
{
	int used = snprintf(path, PATH_MAX, "%s/", root);

	if (used < 0 || used >= PATH_MAX)
		return -ENAMETOOLONG;
	int n = vsnprintf(path + used, (size_t)(PATH_MAX - used), fmt, args);
	return n < 0 || n >= PATH_MAX - used ? -ENAMETOOLONG : 0;
}

/* The path that the arguments after `fmt` make, in the array `path`; *r is how that went. */
#define MAKE_PATH(path, r, root, fmt)                  \
	do {                                           \
		va_list args_;                         \
		va_start(args_, fmt);                  \
		r = make_path(path, root, fmt, args_); \
		va_end(args_);                         \
	} while (0)

bool host_has(const char *root, const char *fmt, ...)
{
	char path[PATH_MAX];
	int r;

	MAKE_PATH(path, r, root, fmt);
	return r >= 0 && access(path, F_OK) == 0;
}

int host_read(const char *root, char *buffer, size_t size, const char *fmt, ...)
{
	char path[PATH_MAX];
	int r;

	MAKE_PATH(path, r, root, fmt);
	return r < 0 ? r : file_read_line(path, buffer, size);
}

int host_write(const char *root, const char *text, const char *fmt, ...)
{
	char path[PATH_MAX];
	int r;

	MAKE_PATH(path, r, root, fmt);
	if (r < 0)
		return r;
	autoclose int fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	ssize_t n = write(fd, text, strlen(text));
	if (n < 0)
		return -errno;
	return (size_t)n == strlen(text) ? 0 : -EIO;
}

int host_link(const char *root, char *buffer, size_t size, const char *fmt, ...)
{
	char path[PATH_MAX];
	int r;

	MAKE_PATH(path, r, root, fmt);
	if (r < 0)
		return r;
	return file_link_name(path, buffer, size);
}

static int add_name(struct host_names *names, const char *name)
{
	if (host_names_have(names, name))
		return 0;
	if (names->nr == HOST_MAX_NAMES || strlen(name) >= HOST_NAME_SIZE)
		return -E2BIG;
	(void)strcpy(names->names[names->nr++], name);
	return 0;
}

static int compare(const void *a, const void *b)
{
	return strcmp(a, b);
}

int host_each_name(const char *path, host_look *look, void *opaque)
{
	int r = 0;

	DIR *dir = opendir(path);
	if (!dir)
		return -errno;
	for (struct dirent *entry = readdir(dir); entry && r == 0; entry = readdir(dir))
		r = entry->d_name[0] == '.' ? 0 : look(opaque, entry->d_name);
	(void)closedir(dir); /* it was only read */
	return r;
}

static int list_name(void *names, const char *name)
{
	return add_name(names, name);
}

int host_list(const char *root, struct host_names *ret, const char *fmt, ...)
{
	char path[PATH_MAX];
	int r;

	ret->nr = 0;
	MAKE_PATH(path, r, root, fmt);
	if (r >= 0)
		r = host_each_name(path, list_name, ret);
	qsort(ret->names, ret->nr, sizeof(ret->names[0]), compare);
	return r;
}

bool host_names_have(const struct host_names *names, const char *name)
{
	for (unsigned int i = 0; i < names->nr; i++) {
		if (strcmp(names->names[i], name) == 0)
			return true;
	}
	return false;
}

int host_each_line(const char *root, const char *file, host_look *look, void *opaque)
{
	char path[PATH_MAX];
	char line[8192];
	int r = 0;

	(void)snprintf(path, sizeof(path), "%s/%s", root, file);
	FILE *f = fopen(path, "re");
	if (!f)
		return errno == ENOENT ? 0 : -errno;
	while (r == 0 && fgets(line, sizeof(line), f))
		r = look(opaque, line);
	if (r == 0 && ferror(f))
		r = -EIO;
	(void)fclose(f); /* it was only read */
	return r;
}

static int look_at_cpu(void *opaque, const char *line)
{
	struct host_cpu *cpu = opaque;

	if (strncmp(line, "vendor_id", 9) == 0) {
		if (strstr(line, "GenuineIntel"))
			cpu->vendor = HOST_INTEL;
		else if (strstr(line, "AuthenticAMD") || strstr(line, "HygonGenuine"))
			cpu->vendor = HOST_AMD;
	}
	if (strncmp(line, "flags", 5) == 0) {
		cpu->has_virtualisation |= strstr(line, " vmx") || strstr(line, " svm");
		cpu->is_virtual |= strstr(line, " hypervisor") != NULL;
	}
	return 0;
}

void host_get_cpu(const char *root, struct host_cpu *ret)
{
	*ret = (struct host_cpu){ .vendor = HOST_OTHER };
	if (host_each_line(root, "proc/cpuinfo", look_at_cpu, ret) < 0)
		log_debug("/proc/cpuinfo cannot be read, going on without");
}

/* A link, or "" where there is none. */
static int read_optional_link(const char *root, char *buffer, const char *name,
			      const char *link)
{
	int r = host_link(root, buffer, HOST_NAME_SIZE, FUNCTION_DIR "/%s", name, link);

	if (r != -ENOENT)
		return r;
	buffer[0] = '\0';
	return 0;
}

int host_get_function(const char *root, const char *name, struct host_function *ret)
{
	struct host_function function = { 0 };
	char text[HOST_NAME_SIZE];

	if (!host_has(root, FUNCTION_DIR, name))
		return -ENODEV;
	(void)snprintf(function.name, sizeof(function.name), "%s", name);
	int r = host_read(root, text, sizeof(text), FUNCTION_DIR "/class", name);
	if (r < 0)
		return r;
	function.class_code = (uint32_t)strtoul(text, NULL, 16);
	r = read_optional_link(root, function.driver, name, "driver");
	if (r < 0)
		return r;
	r = host_read(root, function.override, sizeof(function.override),
		      FUNCTION_DIR "/driver_override", name);
	if (r < 0)
		return r;
	if (strcmp(function.override, "(null)") == 0)
		function.override[0] = '\0';
	r = read_optional_link(root, text, name, "iommu_group");
	if (r < 0)
		return r;
	function.has_group = text[0] != '\0';
	function.group = (unsigned int)strtoul(text, NULL, 10);
	*ret = function;
	return 0;
}

int host_get_group(const char *root, unsigned int group, struct host_names *ret)
{
	return host_list(root, ret, "sys/kernel/iommu_groups/%u/devices", group);
}

bool host_is_bridge(const struct host_function *function)
{
	return function->class_code >> 8 == PCI_BRIDGE_CLASS;
}

bool host_is_viable(const struct host_function *function)
{
	return !function->driver[0] || vfio_pci_is_driver(function->driver) ||
	       strcmp(function->driver, "pci-stub") == 0 || host_is_bridge(function);
}

/* With the physical function of a virtual one, which goes when that does. */
static int add_function(const char *root, struct host_names *ret, const char *name)
{
	char physical[HOST_NAME_SIZE] = "";

	int r = add_name(ret, name);
	if (r >= 0)
		r = read_optional_link(root, physical, name, "physfn");
	return r < 0 || !physical[0] ? r : add_name(ret, physical);
}

/* Each component of a path that is a function's name. */
static int add_functions(const char *root, struct host_names *ret, char *path)
{
	char name[VFIO_NAME_SIZE];
	int r = 0;

	for (char *piece = strsep(&path, "/"); piece && r >= 0; piece = strsep(&path, "/")) {
		if (strchr(piece, ':') && vfio_pci_name(piece, name, sizeof(name)) >= 0 &&
		    strcmp(piece, name) == 0)
			r = add_function(root, ret, name);
	}
	return r;
}

/*
 * Where the namespace of an NVMe subsystem with several paths lies there is no controller: those
 * are linked to beside it. `path` is the namespace's.
 */
static int add_nvme_paths(const char *root, const char *path, struct host_names *ret)
{
	static const char class[] = "/nvme-subsystem/";
	char folder[PATH_MAX];
	char link[PATH_MAX + HOST_NAME_SIZE];
	char real[PATH_MAX];
	const char *found = strstr(path, class);

	if (!found)
		return 0;
	found += strlen(class);
	(void)snprintf(folder, sizeof(folder), "%.*s",
		       (int)(found - path) + (int)strcspn(found, "/"), path);
	autofree struct host_names *entries = calloc(1, sizeof(*entries));
	if (!entries)
		return -ENOMEM;
	int r = host_list(folder, entries, ".");
	for (unsigned int i = 0; i < entries->nr && r >= 0; i++) {
		(void)snprintf(link, sizeof(link), "%s/%s", folder, entries->names[i]);
		if (strncmp(entries->names[i], "nvme", 4) == 0 && realpath(link, real))
			r = add_functions(root, ret, real);
	}
	return r;
}

static int add_disk(const char *root, const char *folder, struct host_names *ret,
		    unsigned int depth);

/* What a loop device is made of: the disk that its file is on, or that its file is. */
static int add_backing(const char *root, const char *disk, struct host_names *ret,
		       unsigned int depth)
{
	char file[PATH_MAX];
	char path[2 * PATH_MAX];
	struct stat status;

	int r = host_read(disk, file, sizeof(file), "loop/backing_file");
	if (r < 0)
		return r;
	(void)snprintf(path, sizeof(path), "%s/%s", root, file);
	/* It is deleted, another mount namespace's, or somebody's own: it cannot be told. */
	if (stat(path, &status) < 0)
		return -ENOENT;
	dev_t on = S_ISBLK(status.st_mode) ? status.st_rdev : status.st_dev;
	(void)snprintf(path, sizeof(path), "sys/dev/block/%u:%u", major(on), minor(on));
	return add_disk(root, path, ret, depth + 1);
}

/* One that is not made of others by its own account: of a file, of nothing, or who knows (ZFS). */
static int add_virtual(const char *root, const char *disk, struct host_names *ret,
		       unsigned int depth)
{
	static const char *const without_disk[] = { "ram", "zram" };
	const char *name = strrchr(disk, '/') + 1;
	char backing[PATH_MAX];

	if (host_has(disk, "loop"))
		return add_backing(root, disk, ret, depth);
	/* A zram that writes back does so to a disk. */
	if (host_read(disk, backing, sizeof(backing), "backing_dev") >= 0 &&
	    strcmp(backing, "none") != 0)
		return -ENOENT;
	for (unsigned int i = 0; i < nitems(without_disk); i++) {
		size_t n = strlen(without_disk[i]);
		if (strncmp(name, without_disk[i], n) == 0 && name[n] >= '0' && name[n] <= '9')
			return 0;
	}
	return -ENOENT;
}

static int add_disk(const char *root, const char *folder, struct host_names *ret,
		    unsigned int depth)
{
	char path[PATH_MAX];
	char disk[PATH_MAX];

	if (depth == MAX_DEPTH)
		return -ELOOP;
	(void)snprintf(path, sizeof(path), "%s/%s", root, folder);
	if (!realpath(path, disk))
		return -errno;
	autofree struct host_names *slaves = calloc(1, sizeof(*slaves));
	if (!slaves)
		return -ENOMEM;
	/* A partition is made of what its disk is. */
	if (host_has(disk, "partition"))
		*strrchr(disk, '/') = '\0';
	int r = host_list(disk, slaves, "slaves");
	if (r < 0 && r != -ENOENT)
		return r;
	for (unsigned int i = 0; i < slaves->nr; i++) {
		(void)snprintf(path, sizeof(path), "sys/class/block/%s", slaves->names[i]);
		r = add_disk(root, path, ret, depth + 1);
		if (r < 0)
			return r;
	}
	r = 0;
	if (slaves->nr == 0 && strstr(disk, "/devices/virtual/block/"))
		r = add_virtual(root, disk, ret, depth);
	if (r >= 0)
		r = add_nvme_paths(root, disk, ret);
	return r < 0 ? r : add_functions(root, ret, disk);
}

int host_add_disk(const char *root, const char *folder, struct host_names *ret)
{
	return add_disk(root, folder, ret, 0);
}

struct link_walk {
	const char *root;
	struct host_names *ret;
	unsigned int depth;
};

static int add_link(const struct link_walk *walk, const char *interface);

/* Whatever else there is in an interface's folder, and it can be hundreds of names. */
static int look_for_lower(void *opaque, const char *name)
{
	static const char lower[] = "lower_";
	const struct link_walk *walk = opaque;
	const struct link_walk below = { walk->root, walk->ret, walk->depth + 1 };

	return strncmp(name, lower, strlen(lower)) == 0 ? add_link(&below, name + strlen(lower))
							: 0;
}

static int add_link(const struct link_walk *walk, const char *interface)
{
	struct link_walk here = *walk;
	char path[PATH_MAX];
	char real[PATH_MAX];

	if (walk->depth == MAX_DEPTH)
		return -ELOOP;
	(void)snprintf(path, sizeof(path), "%s/sys/class/net/%s", walk->root, interface);
	if (!realpath(path, real))
		return -errno;
	int r = host_each_name(real, look_for_lower, &here);
	return r < 0 ? r : add_functions(walk->root, walk->ret, real);
}

int host_add_link(const char *root, const char *interface, struct host_names *ret)
{
	const struct link_walk walk = { root, ret, 0 };

	return add_link(&walk, interface);
}
