/* SPDX-License-Identifier: MIT */
/*
 * event_loop.h - one thread that waits for file descriptors (epoll) and calls who owns them.
 *
 * In the place of a loop, NULL is one that never runs: sources are opened, added and so on all
 * the same. Unit tests then call `ready` by hand.
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

#define EVENT_SECOND 1000000000ull /* in nanoseconds */

struct event_source {
	int fd; /* borrowed, or owned: see event_source_close(); -1: not in use */
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
/* Only on the loop's thread, or while it does not run. One that was not added, or has no fd, too. */
void event_loop_remove(struct event_loop *loop, struct event_source *source);

/*
 * Makes what the source owns, and adds it: an eventfd, or a timer by CLOCK_MONOTONIC, which is set
 * as event_timer_set() says. `ready` is the caller's to fill in, and takes either with
 * eventfd_take(). -EMFILE, -ENFILE, -ENOMEM, -ENOSPC: not logged; then fd is -1 and nothing is left
 * behind.
 */
must_check int event_source_open(struct event_source *source, struct event_loop *loop);
must_check int event_timer_open(struct event_source *source, struct event_loop *loop,
				uint64_t first_ns, uint64_t interval_ns);
/*
 * The timer runs out after first_ns (0: it is switched off), and then every interval_ns (0: no
 * more). What had run out and was not taken is forgotten. Cannot fail. From any thread.
 */
void event_timer_set(const struct event_source *timer, uint64_t first_ns, uint64_t interval_ns);
/* As event_loop_remove(), and closes the fd, which is owned, of whatever kind. */
void event_source_close(struct event_source *source, struct event_loop *loop);

/* Until event_loop_stop(), which only a `ready` calls. */
void event_loop_run(struct event_loop *loop);
void event_loop_stop(struct event_loop *loop);

#endif /* BASE_EVENT_LOOP_H */
