/* SPDX-License-Identifier: MIT */
/*
 * event_loop.h - one thread that waits for file descriptors (epoll) and calls who owns them.
 *
 * Threads: run on one thread, which is where every `ready` is called; the other functions
 * from any.
 */
#ifndef BASE_EVENT_LOOP_H
#define BASE_EVENT_LOOP_H

#include <stdbool.h>
#include <stdint.h>

#include <sys/epoll.h>

#include "base/util.h"

struct event_source {
	int fd; /* borrowed; -1: not in use */
	/* `events` is a set of EPOLLIN, EPOLLOUT, EPOLLHUP, EPOLLERR. */
	void (*ready)(struct event_source *source, uint32_t events);
};

struct event_loop {
	int epoll_fd; /* owned; -1 */
	bool stopped;
};

must_check int event_loop_init(struct event_loop *loop);
void event_loop_finish(struct event_loop *loop);
/* -EPERM: a regular file, which is always ready and cannot be waited for. */
must_check int event_loop_add(struct event_loop *loop, struct event_source *source,
			      uint32_t events);
/* Changes what is waited for; 0: nothing but errors. */
void event_loop_modify(struct event_loop *loop, struct event_source *source, uint32_t events);
/* Only on the loop's thread, or while it does not run. */
void event_loop_remove(struct event_loop *loop, struct event_source *source);

/* Until event_loop_stop(), which only a `ready` calls. */
void event_loop_run(struct event_loop *loop);
void event_loop_stop(struct event_loop *loop);

#endif /* BASE_EVENT_LOOP_H */
