/* SPDX-License-Identifier: MIT */
#include "tests/fakes/host_tree.h"

#include <check.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <sys/stat.h>

#include "vmm/host_pci.h"

struct host_tree tree;

/* Steps */

static bool fails(void)
{
	if (++tree.nr_steps != tree.fail_at)
		return false;
	if (tree.dies)
		_exit(0);
	return true;
}

#define STEP(type, name, failure, parameters, arguments) \
	type __real_##name parameters;                   \
	type __wrap_##name parameters;                   \
	type __wrap_##name parameters                    \
	{                                                \
		if (fails()) {                           \
			errno = EIO;                     \
			return failure;                  \
		}                                        \
		return __real_##name arguments;          \
	}

STEP(FILE *, fopen64, NULL, (const char *path, const char *mode), (path, mode))
STEP(DIR *, opendir, NULL, (const char *path), (path))
STEP(ssize_t, readlink, -1, (const char *path, char *buffer, size_t size), (path, buffer, size))
STEP(int, fsync, -1, (int fd), (fd))
STEP(int, renameat, -1, (int from, const char *old, int to, const char *new),
     (from, old, to, new))
STEP(int, mkdir, -1, (const char *path, mode_t mode), (path, mode))
STEP(ssize_t, pwrite64, -1, (int fd, const void *buffer, size_t size, off_t offset),
     (fd, buffer, size, offset))

int __real_flock(int fd, int how);
int __wrap_flock(int fd, int how);

int __wrap_flock(int fd, int how)
{
	if (tree.before_lock)
		tree.before_lock();
	if (!fails())
		return __real_flock(fd, how);
	errno = EIO;
	return -1;
}

int __real_open64(const char *path, int flags, ...);
int __wrap_open64(const char *path, int flags, ...);
int __real_openat64(int dir, const char *path, int flags, ...);
int __wrap_openat64(int dir, const char *path, int flags, ...);

int __wrap_open64(const char *path, int flags, ...)
{
	if (!fails())
		return __real_open64(path, flags, 0644);
	errno = EIO;
	return -1;
}

int __wrap_openat64(int dir, const char *path, int flags, ...)
{
	if (!fails())
		return __real_openat64(dir, path, flags, 0644);
	errno = EIO;
	return -1;
}

/* The tree. What it does itself is no step. */

struct pause {
	unsigned int fail_at;
	unsigned int nr_steps;
};

static struct pause pause_steps(void)
{
	struct pause pause = { tree.fail_at, tree.nr_steps };

	tree.fail_at = 0;
	return pause;
}

static void resume_steps(const struct pause *pause)
{
	tree.fail_at = pause->fail_at;
	tree.nr_steps = pause->nr_steps;
}

#define NO_STEPS \
	struct pause paused __attribute__((cleanup(resume_steps), unused)) = pause_steps()

static void make_path(char *full, const char *path)
{
	int n = snprintf(full, PATH_MAX, "%s/%s", tree.root, path);
	ck_assert(n > 0 && n < PATH_MAX);
	for (char *p = full + strlen(tree.root) + 1; (p = strchr(p, '/')); p++) {
		*p = '\0';
		(void)mkdir(full, 0755);
		*p = '/';
	}
}

void tree_init(void)
{
	memset(&tree, 0, sizeof(tree));
	strcpy(tree.root, "/tmp/ballast-tree-XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(tree.root));
	tree.open_error = -ENOENT;
}

static int remove_one(const char *path, const struct stat *status, int kind, struct FTW *at)
{
	(void)status;
	(void)kind;
	(void)at;
	return remove(path);
}

void tree_remove(const char *path)
{
	char full[PATH_MAX];
	NO_STEPS;

	make_path(full, path);
	(void)nftw(full, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

void tree_finish(void)
{
	NO_STEPS;
	(void)nftw(tree.root, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

void tree_write(const char *path, const char *text)
{
	char full[PATH_MAX];
	NO_STEPS;

	make_path(full, path);
	FILE *f = fopen(full, "we");
	ck_assert_ptr_nonnull(f);
	ck_assert_int_ge(fputs(text, f), 0);
	ck_assert_int_eq(fclose(f), 0);
}

void tree_link(const char *path, const char *target)
{
	char full[PATH_MAX];
	char to[PATH_MAX];
	NO_STEPS;

	make_path(to, target);
	make_path(full, path);
	(void)unlink(full);
	ck_assert_int_eq(symlink(to, full), 0);
}

void tree_folder(const char *path)
{
	char full[PATH_MAX];
	NO_STEPS;

	make_path(full, path);
	(void)mkdir(full, 0755);
}

const char *tree_read(const char *path)
{
	static char text[1024];
	NO_STEPS;

	return host_read(tree.root, text, sizeof(text), "%s", path) < 0 ? "" : text;
}

void tree_add_driver(const char *name)
{
	char path[PATH_MAX];

	(void)snprintf(path, sizeof(path), "sys/bus/pci/drivers/%s", name);
	tree_folder(path);
}

static void link_driver(const char *name, const char *driver)
{
	char path[PATH_MAX];
	char target[PATH_MAX];

	(void)snprintf(path, sizeof(path), "sys/bus/pci/devices/%s/driver", name);
	(void)snprintf(target, sizeof(target), "sys/bus/pci/drivers/%s", driver);
	tree_link(path, target);
}

void tree_add_function(const char *path, unsigned int class_code, int group, const char *driver)
{
	const char *name = strrchr(path, '/') + 1;
	char to[1024];
	char file[sizeof(to) + 32];
	char text[32];

	(void)snprintf(to, sizeof(to), "sys/devices/%s", path);
	(void)snprintf(file, sizeof(file), "%s/class", to);
	(void)snprintf(text, sizeof(text), "0x%06x\n", class_code);
	tree_write(file, text);
	(void)snprintf(file, sizeof(file), "%s/driver_override", to);
	tree_write(file, "(null)\n");
	(void)snprintf(file, sizeof(file), "sys/bus/pci/devices/%s", name);
	tree_link(file, to);
	if (driver) {
		tree_add_driver(driver);
		link_driver(name, driver);
		(void)snprintf(file, sizeof(file), "%s/its_driver", to);
		tree_write(file, driver);
	}
	if (group < 0)
		return;
	(void)snprintf(file, sizeof(file), "sys/kernel/iommu_groups/%d/devices/%s", group,
		       name);
	tree_link(file, to);
	(void)snprintf(file, sizeof(file), "%s/iommu_group", to);
	(void)snprintf(to, sizeof(to), "sys/kernel/iommu_groups/%d", group);
	tree_link(file, to);
}

const char *tree_driver(const char *name)
{
	static char driver[HOST_NAME_SIZE];
	NO_STEPS;

	return host_link(tree.root, driver, sizeof(driver), "sys/bus/pci/devices/%s/driver",
			 name) < 0
		       ? ""
		       : driver;
}

const char *tree_override(const char *name)
{
	char path[PATH_MAX];

	(void)snprintf(path, sizeof(path), "sys/bus/pci/devices/%s/driver_override", name);
	const char *text = tree_read(path);
	return strcmp(text, "(null)") == 0 ? "" : text;
}

/* The kernel's part */

static int write_override(const char *path, const char *text)
{
	tree_write(path, *text == '\n' ? "(null)\n" : text);
	return 0;
}

static int bind_to(const char *name, const char *driver)
{
	char path[PATH_MAX];
	const char *override = tree_override(name);

	(void)snprintf(path, sizeof(path), "sys/bus/pci/drivers/%s", driver);
	if (!host_has(tree.root, "%s", path))
		return -ENOENT;
	if (tree_driver(name)[0] || (override[0] && strcmp(override, driver) != 0) ||
	    (strcmp(driver, "vfio-pci") == 0 && tree.vfio_refuses))
		return -ENODEV;
	link_driver(name, driver);
	return 0;
}

static int probe(const char *name)
{
	char path[PATH_MAX];
	char driver[HOST_NAME_SIZE];

	(void)snprintf(path, sizeof(path), "sys/bus/pci/devices/%s/its_driver", name);
	(void)snprintf(driver, sizeof(driver), "%.63s",
		       *tree_override(name) ? tree_override(name) : tree_read(path));
	(void)bind_to(name, driver); /* nobody is told what came of it */
	return 0;
}

static int unbind_from(const char *name, const char *driver, size_t size)
{
	char path[PATH_MAX];

	if (strlen(tree_driver(name)) != size || strncmp(tree_driver(name), driver, size) != 0)
		return -ENODEV;
	(void)snprintf(path, sizeof(path), "sys/bus/pci/devices/%s/driver", name);
	tree_remove(path);
	return 0;
}

int __wrap_host_write(const char *root, const char *text, const char *fmt, ...)
	printf_like(3, 4);

int __wrap_host_write(const char *root, const char *text, const char *fmt, ...)
{
	static const char drivers[] = "sys/bus/pci/drivers/";
	char path[PATH_MAX];
	char driver[HOST_NAME_SIZE] = "";
	va_list args;

	ck_assert_str_eq(root, tree.root);
	if (fails())
		return -EIO;
	if (tree.write_error)
		return tree.write_error;
	NO_STEPS;
	va_start(args, fmt);
	(void)vsnprintf(path, sizeof(path), fmt, args);
	va_end(args);
	const char *last = strrchr(path, '/') + 1;
	if (strcmp(last, "driver_override") == 0)
		return write_override(path, text);
	if (strcmp(last, "drivers_probe") == 0)
		return probe(text);
	ck_assert_int_eq(strncmp(path, drivers, strlen(drivers)), 0);
	const char *name = path + strlen(drivers);
	size_t size = (size_t)(last - 1 - name);
	if (strcmp(last, "unbind") == 0)
		return unbind_from(text, name, size);
	ck_assert_str_eq(last, "bind");
	(void)snprintf(driver, sizeof(driver), "%.*s", (int)size, name);
	return bind_to(text, driver);
}
