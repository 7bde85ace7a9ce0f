/* SPDX-License-Identifier: MIT */
/*
 * local_socket.h - a UNIX stream socket with a path that is listened at: who may connect, whose it is,
 * and that it goes when we do.
 *
 * Its folder is kept open, so that it can be removed where paths are shut off (sandbox.h).
 *
 * Threads: one at a time.
 */
#ifndef VMM_LOCAL_SOCKET_H
#define VMM_LOCAL_SOCKET_H

#include <sys/types.h>

#include "base/util.h"

struct local_socket {
	int fd;     /* owned; does not block; -1 */
	int folder; /* owned; -1 */
	const char
		*name; /* borrowed, a part of the path; what is removed there; NULL: nothing */
	dev_t device;  /* by which it is */
	ino_t inode;   /* known again */
};

/*
 * Listens at `path`, which outlives the socket and to which only its owner may connect (mode 0600).
 * One that nobody listens at any more is replaced. -EADDRINUSE: somebody does. -EEXIST: it is no
 * socket. -ENAMETOOLONG. Others from the kernel. On failure nothing is left behind.
 */
must_check int local_socket_listen(struct local_socket *s, const char *path, int backlog);
/* What to do about one of these, for the log; "" of others. */
const char *local_socket_remedy(int r);
/* From now on it is that user's, to connect to and to remove. -ENOENT: it is gone. -errno. */
must_check int local_socket_give(const struct local_socket *s, uid_t uid, gid_t gid);
/*
 * Closes it and removes it, unless somebody has put another file in its place. Accepts one that
 * was closed or did not listen, but not a zeroed one.
 */
void local_socket_close(struct local_socket *s);

#endif /* VMM_LOCAL_SOCKET_H */
