/* SPDX-License-Identifier: MIT */
/*
 * sandbox.h - how little this process may still do once its guest runs.
 *
 * A guest that gets hold of a thread of ours has what that thread may ask of the kernel. Everything
 * is opened before the guest runs; then the process gives up its privileges, and each thread what
 * it has no use for. SECURITY.md says what each part stops.
 *
 * Concepts
 *  - role: what a thread is for. There is one list of system calls in sandbox.c, each with the
 *    roles that may, and the reason; of ioctl each request is one of its own.
 *  - violation: a call that is not on the list. The process dies of SIGSYS, and the last line of
 *    its log names call and thread. With SANDBOX_LOG it is let through, and the kernel's audit log
 *    has it.
 *  - privileges: user, groups, capabilities and what an exec could gain. Paths are shut off as
 *    well where the kernel has Landlock, but for what is in and below the configuration's folders.
 *    Where it has none, and there are such folders, a warning says so.
 *
 * Threads: init, drop and finish on the event loop's, which has started no other yet when it drops.
 */
#ifndef VMM_SANDBOX_H
#define VMM_SANDBOX_H

#include <seccomp.h>
#include <stdbool.h>
#include <stdint.h>

#include <sys/types.h>

#include "base/util.h"

enum sandbox_mode {
	SANDBOX_OFF, /* nothing of all this, but for the user */
	SANDBOX_ON,
	SANDBOX_LOG, /* violations are let through, and there is no Landlock */
};

enum sandbox_role {
	SANDBOX_VCPU,
	SANDBOX_EVENT_LOOP,
};
#define SANDBOX_NR_ROLES 2u
#define SANDBOX_NR_SOCKETS 3u

struct sandbox_user {
	const char *name; /* borrowed; NULL: whoever it is stays */
	uid_t uid;
	gid_t gid;
};

struct sandbox_config {
	enum sandbox_mode mode;
	struct sandbox_user user;
	/* Bytes that may be mapped for devices, and so be locked, when privileges are gone. */
	uint64_t locks;
	int metrics; /* folder in which a file is written and renamed; -1: none */
	int sockets[SANDBOX_NR_SOCKETS]; /* folders in which a socket is removed; -1: none */
};

struct sandbox {
	struct sandbox_config config;
	scmp_filter_ctx filters[SANDBOX_NR_ROLES]; /* owned; NULL */
};

/*
 * In a build with a sanitizer it is as with SANDBOX_OFF, and `-v` says so.
 * Prepares the filters, and what stays: the handler of SIGSYS, and that malloc has one arena. Before
 * there are threads. -ENOMEM, -EINVAL: libseccomp's.
 * Logged. On failure nothing is left behind.
 */
must_check int sandbox_init(struct sandbox *sandbox, const struct sandbox_config *config);
/* Once every thread has entered. What a thread has given up stays so, and what the mode is. Accepts a zeroed object. */
void sandbox_finish(struct sandbox *sandbox);

/* Gives up privileges, and paths. The errno of the call that failed; logged. */
must_check int sandbox_drop(const struct sandbox *sandbox);
/* The calling thread keeps its role's calls only. `thread` names it in logs. As above. */
must_check int sandbox_enter(const struct sandbox *sandbox, enum sandbox_role role,
			     const char *thread);

/* How many system calls the role may make, and of ioctl how many requests. */
void sandbox_count(enum sandbox_role role, unsigned int *ret_calls, unsigned int *ret_ioctls);

#endif /* VMM_SANDBOX_H */
