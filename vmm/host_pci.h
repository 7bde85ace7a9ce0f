/* SPDX-License-Identifier: MIT */
/*
 * host_pci.h - what this host's /sys and /proc say of its processor and its PCI functions, and of
 * what disks and network links depend on. For doctor, bind and unbind.
 *
 * Concepts
 *  - root: a folder put before every path; "" is this host. Tests have a tree of their own.
 *  - function: a PCI function, called "0000:01:00.0". A disk, or a network interface, depends on
 *    each function that its path in /sys goes through: its controller, and the bridges before it.
 *
 * Paths are given as printf has them, without a leading slash. Nothing is logged here.
 *
 * Threads: any.
 */
#ifndef VMM_HOST_PCI_H
#define VMM_HOST_PCI_H

#include <stdbool.h>
#include <stdint.h>

#include "base/util.h"

#include "vfio/uapi.h"

#define HOST_NAME_SIZE 64u
#define HOST_MAX_NAMES 256u

struct host_names {
	unsigned int nr;
	char names[HOST_MAX_NAMES][HOST_NAME_SIZE];
};

enum host_vendor { HOST_INTEL, HOST_AMD, HOST_OTHER };

struct host_cpu {
	enum host_vendor vendor;
	bool has_virtualisation; /* vmx or svm */
	bool is_virtual;         /* it runs under a hypervisor */
};

struct host_function {
	char name[VFIO_NAME_SIZE];
	uint32_t class_code; /* as 0x020000 */
	bool has_group;
	unsigned int group;
	char driver[HOST_NAME_SIZE];   /* "": none */
	char override[HOST_NAME_SIZE]; /* driver_override; "": none */
};

/* True if it is there. */
bool host_has(const char *root, const char *fmt, ...) printf_like(2, 3);
/* As file_read_line(). -ENOENT, -ENAMETOOLONG, -errno. */
must_check int host_read(const char *root, char *buffer, size_t size, const char *fmt, ...)
	printf_like(4, 5);
/* Writes `text` by one call to a file that is there. -errno: what the kernel says to it. */
must_check int host_write(const char *root, const char *text, const char *fmt, ...)
	printf_like(3, 4);
/* The last component of what a link points to. -ENOENT, -ENAMETOOLONG, -errno. */
must_check int host_link(const char *root, char *buffer, size_t size, const char *fmt, ...)
	printf_like(4, 5);
/* What is in a folder, in order, without what begins with a dot. -ENOENT, -E2BIG, -errno. */
must_check int host_list(const char *root, struct host_names *ret, const char *fmt, ...)
	printf_like(3, 4);

/*
 * Calls `look` with each line of a file until it returns other than 0, which is returned then. 0:
 * all lines were looked at, or there is no such file. -errno: it cannot be read.
 */
typedef int host_look(void *opaque, const char *line);
must_check int host_each_line(const char *root, const char *file, host_look *look,
			      void *opaque);

/* The same with each name in a folder, by its whole path, without what begins with a dot. -ENOENT. */
must_check int host_each_name(const char *path, host_look *look, void *opaque);

/* True if the name is among them. */
bool host_names_have(const struct host_names *names, const char *name);

/* By /proc/cpuinfo; if that cannot be read, what there is of it. */
void host_get_cpu(const char *root, struct host_cpu *ret);

/* -ENODEV: there is no such function. */
must_check int host_get_function(const char *root, const char *name, struct host_function *ret);
/* The functions of a group. */
must_check int host_get_group(const char *root, unsigned int group, struct host_names *ret);
/* A bridge to another bus: no driver of VFIO takes it, and a group may have it all the same. */
bool host_is_bridge(const struct host_function *function);
/*
 * Whether a group with this function may be a guest's, as the kernel asks of each before it calls the
 * group viable: no driver has it that might have it do DMA for the host.
 */
bool host_is_viable(const struct host_function *function);

/*
 * Adds the functions that it depends on: a block device, by its folder in /sys, and what lies
 * below it (partitions, RAID, LVM, encryption, NVMe over several paths, the file of a loop device);
 * an interface, and those below it (bridges, bonds, VLANs). With a virtual function its physical
 * one. -ENOENT: it, or something below, is not there or cannot be told. -ELOOP: deeper than can be.
 */
must_check int host_add_disk(const char *root, const char *folder, struct host_names *ret);
must_check int host_add_link(const char *root, const char *interface, struct host_names *ret);

#endif /* VMM_HOST_PCI_H */
