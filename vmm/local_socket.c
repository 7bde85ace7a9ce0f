/* SPDX-License-Identifier: MIT */
#include "vmm/local_socket.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "base/fd.h"

/* Whether somebody listens there. */
static int try_to_connect(const struct sockaddr_un *address)
{
	autoclose int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		return -errno;
	return connect(fd, (const struct sockaddr *)address, sizeof(*address)) < 0 ? -errno : 0;
}

/* Makes room for our socket, if only a dead one is in the way. */
static int clear_path(const struct sockaddr_un *address)
{
	struct stat st;

	if (lstat(address->sun_path, &st) < 0)
		return errno == ENOENT ? 0 : -errno;
	if (!S_ISSOCK(st.st_mode))
		return -EEXIST;
	int r = try_to_connect(address);
	/* EAGAIN: its queue is full. EPROTOTYPE: it is not of our kind. It is alive, though. */
	if (r >= 0 || r == -EAGAIN || r == -EPROTOTYPE)
		return -EADDRINUSE;
	if (r != -ECONNREFUSED)
		return r;
	return unlink(address->sun_path) < 0 && errno != ENOENT ? -errno : 0;
}

static int listen_at(struct local_socket *s, const struct sockaddr_un *address, int backlog,
		     const char *path)
{
	const char *name = NULL;
	struct stat st;

	int r = clear_path(address);
	if (r < 0)
		return r;
	s->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (s->fd < 0)
		return -errno;
	r = file_open_folder(path, &s->folder, &name);
	if (r < 0)
		return r;
	/* Before bind(), which takes the mode over: there is no moment when others may connect. */
	if (fchmod(s->fd, 0600) < 0 ||
	    bind(s->fd, (const struct sockaddr *)address, sizeof(*address)) < 0)
		return -errno;
	if (lstat(path, &st) < 0) {
		r = -errno;
		(void)unlink(path); /* it has our name since a moment ago */
		return r;
	}
	s->name = name;
	s->device = st.st_dev;
	s->inode = st.st_ino;
	return listen(s->fd, backlog) < 0 ? -errno : 0;
}

int local_socket_listen(struct local_socket *s, const char *path, int backlog)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	*s = (struct local_socket){ .fd = -1, .folder = -1 };
	if (strlen(path) >= sizeof(address.sun_path))
		return -ENAMETOOLONG;
	if (*path == '\0') /* the kernel would choose a name */
		return -ENOENT;
	strcpy(address.sun_path, path);
	int r = listen_at(s, &address, backlog, path);
	if (r < 0)
		local_socket_close(s);
	return r;
}

const char *local_socket_remedy(int r)
{
	switch (r) {
	case -EADDRINUSE: return " (another program serves it: choose another path)";
	case -EEXIST: return " (it is no socket: remove it, or choose another path)";
	case -ENAMETOOLONG: return " (at most 107 bytes, please)";
	default: return "";
	}
}

static bool is_ours(const struct local_socket *s, const struct stat *st)
{
	return st->st_dev == s->device && st->st_ino == s->inode;
}

/* By an fd: who may write to the folder could put a link to somebody's file there meanwhile. */
int local_socket_give(const struct local_socket *s, uid_t uid, gid_t gid)
{
	autoclose int fd = openat(s->folder, s->name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0)
		return -errno;
	if (!is_ours(s, &st))
		return -ENOENT;
	return fchownat(fd, "", uid, gid, AT_EMPTY_PATH) < 0 ? -errno : 0;
}

void local_socket_close(struct local_socket *s)
{
	struct stat st;

	/* None can have its number while it is open. */
	if (s->name && fstatat(s->folder, s->name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
	    is_ours(s, &st))
		(void)unlinkat(s->folder, s->name, 0); /* or the next one replaces it */
	s->name = NULL;
	fd_close(&s->fd);
	fd_close(&s->folder);
}
