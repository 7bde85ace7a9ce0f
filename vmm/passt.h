/* SPDX-License-Identifier: MIT */
/*
 * passt.h - a way to the network for a guest whose user is nobody special: passt(1), a program
 * that has the guest's frames on a UNIX stream socket, and makes ordinary sockets of the
 * user's of them.
 *
 * Threads: the event loop's, which has to live as long as passt is to.
 */
#ifndef VMM_PASST_H
#define VMM_PASST_H

#include <sys/types.h>

#include "base/event_loop.h"

struct passt {
	struct event_loop *loop;   /* borrowed; NULL: not started */
	pid_t pid;                 /* 0: it has ended, and was reaped */
	struct event_source ended; /* fd owned: a pidfd */
};

/*
 * Starts one for this guest alone; *ret_fd is the socket, the caller's. It ends with us, however
 * we end. program: "passt", found by PATH. who: for messages, "net0". -EINVAL: there is no such
 * program. Others: it could not be started. Logged. On failure nothing is left behind.
 */
must_check int passt_start(struct passt *passt, struct event_loop *loop, const char *who,
			   const char *program, int *ret_fd);
/*
 * Ends it, if it has not yet, and reaps it. One that we may not end, since it has become another
 * user, is not waited for: it ends with its socket. Accepts a zeroed object.
 */
void passt_stop(struct passt *passt);

/*
 * Connects to the socket of one that somebody has started. -EINVAL: nobody listens there, or the
 * path is too long. Others from the kernel. Logged.
 */
must_check int passt_connect(const char *who, const char *path, int *ret_fd);

#endif /* VMM_PASST_H */
