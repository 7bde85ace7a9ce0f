/* SPDX-License-Identifier: MIT */
/*
 * host_tree.h - a host's /sys, /proc, /etc, /run and /dev in a temporary folder, for who reads them
 * below a root of his own; and the little that a kernel does when somebody writes there.
 *
 * Steps: the calls by which files are read and written are caught (see the link's --wrap), and
 * the n-th can fail, or be where the process dies.
 */
#ifndef TESTS_FAKES_HOST_TREE_H
#define TESTS_FAKES_HOST_TREE_H

#include <stdbool.h>

#include "base/util.h"

struct host_tree {
	char root[64];
	/* The n-th step fails, or the process ends there. 0: none. */
	unsigned int fail_at;
	bool dies;
	unsigned int nr_steps;
	bool vfio_refuses; /* vfio-pci takes no device */
	int open_error;    /* of a group */
	int write_error;   /* of what the kernel is told; 0: none */
	/* What somebody else does before a lock is had, or NULL. */
	void (*before_lock)(void);
};

extern struct host_tree tree;

void tree_init(void);
void tree_finish(void);

/* Make folders on the way, and replace what was there. Links are to paths of the tree. */
void tree_write(const char *path, const char *text);
void tree_link(const char *path, const char *target);
void tree_folder(const char *path);
void tree_remove(const char *path);
/* Without its last newline; "" if it is not there. Good until the next. */
const char *tree_read(const char *path);

/* A function at sys/devices/`path`, in a group (-1: none), bound to a driver (NULL: none). */
void tree_add_function(const char *path, unsigned int class_code, int group,
		       const char *driver);
void tree_add_driver(const char *name);
/* "" for none. Good until the next. */
const char *tree_driver(const char *name);
const char *tree_override(const char *name);

#endif /* TESTS_FAKES_HOST_TREE_H */
