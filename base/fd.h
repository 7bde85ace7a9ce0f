/* SPDX-License-Identifier: MIT */
/*
 * fd.h - file descriptors: eventfds, whole reads, closing.
 *
 * Every fd made here is close-on-exec. Threads: any.
 */
#ifndef BASE_FD_H
#define BASE_FD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/util.h"

/* A non-blocking eventfd at 0. -EMFILE, -ENFILE, -ENOMEM. */
must_check int eventfd_create(int *ret_fd);
/* Adds one. Cannot fail for an eventfd of ours: a full counter is already a signal. */
void eventfd_signal(int fd);
/* Takes all there is; true if there was any. */
bool eventfd_take(int fd);
/* True if it is signalled; takes nothing. */
bool eventfd_pending(int fd);

/* Closes *fd unless it is -1, and sets it to -1. errno is kept. */
void fd_close(int *fd);

/*
 * pread/pwrite until `size` bytes are done, EINTR and short counts included.
 * -EIO if the file ends before. -errno of the call otherwise.
 */
must_check int fd_read_at(int fd, void *buffer, size_t size, uint64_t offset);
must_check int fd_write_at(int fd, const void *buffer, size_t size, uint64_t offset);

/*
 * Reads a small text file (sysfs) as one string without its last newline.
 * -ENAMETOOLONG if it does not fit, -errno of open or read.
 */
must_check int file_read_line(const char *path, char *buffer, size_t size);

/*
 * The last component of what a symbolic link points to; sysfs names drivers and groups so.
 * -EINVAL: it is no link. -ENAMETOOLONG if it does not fit. -errno of readlink.
 */
must_check int file_link_name(const char *path, char *buffer, size_t size);

/*
 * Opens the folder that `path` is in or would be in, for the calls that take one (openat and so on);
 * *ret_name is the rest of path. -ENOENT and so on; -ENOMEM.
 */
must_check int file_open_folder(const char *path, int *ret_fd, const char **ret_name);

#endif /* BASE_FD_H */
