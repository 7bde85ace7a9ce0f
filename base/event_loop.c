/* SPDX-License-Identifier: MIT */
#include "base/event_loop.h"

#include <errno.h>

#include "base/fd.h"
#include "base/log.h"

int event_loop_init(struct event_loop *loop)
{
	*loop = (struct event_loop){ .epoll_fd = epoll_create1(EPOLL_CLOEXEC) };
	return loop->epoll_fd < 0 ? log_err(-errno, "event loop") : 0;
}

void event_loop_finish(struct event_loop *loop)
{
	fd_close(&loop->epoll_fd);
}

int event_loop_add(struct event_loop *loop, struct event_source *source, uint32_t events)
{
	struct epoll_event e = { .events = events, .data.ptr = source };
	return epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, source->fd, &e) < 0 ? -errno : 0;
}

void event_loop_modify(struct event_loop *loop, struct event_source *source, uint32_t events)
{
	struct epoll_event e = { .events = events, .data.ptr = source };
	(void)epoll_ctl(loop->epoll_fd, EPOLL_CTL_MOD, source->fd, &e); /* it was added */
}

void event_loop_remove(struct event_loop *loop, struct event_source *source)
{
	(void)epoll_ctl(loop->epoll_fd, EPOLL_CTL_DEL, source->fd, NULL); /* likewise */
}

/* One at a time: a `ready` may remove and close another source. */
void event_loop_run(struct event_loop *loop)
{
	while (!loop->stopped) {
		struct epoll_event e;
		int n = epoll_wait(loop->epoll_fd, &e, 1, -1);
		if (n == 1) {
			struct event_source *source = e.data.ptr;
			source->ready(source, e.events);
		}
	}
}

void event_loop_stop(struct event_loop *loop)
{
	loop->stopped = true;
}
