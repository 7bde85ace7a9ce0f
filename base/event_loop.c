/* SPDX-License-Identifier: MIT */
#include "base/event_loop.h"

#include <errno.h>

#include <sys/timerfd.h>

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
	if (loop && epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, source->fd, &e) < 0)
		return -errno;
	return 0;
}

void event_loop_modify(struct event_loop *loop, struct event_source *source, uint32_t events)
{
	struct epoll_event e = { .events = events, .data.ptr = source };
	if (loop) /* it was added */
		(void)epoll_ctl(loop->epoll_fd, EPOLL_CTL_MOD, source->fd, &e);
}

void event_loop_remove(struct event_loop *loop, struct event_source *source)
{
	if (loop && source->fd >= 0) /* it was added, or there is nothing to remove */
		(void)epoll_ctl(loop->epoll_fd, EPOLL_CTL_DEL, source->fd, NULL);
}

static int add_or_close(struct event_loop *loop, struct event_source *source)
{
	int r = event_loop_add(loop, source, EPOLLIN);

	if (r < 0)
		fd_close(&source->fd);
	return r;
}

int event_source_open(struct event_source *source, struct event_loop *loop)
{
	source->fd = -1;
	int r = eventfd_create(&source->fd);
	return r < 0 ? r : add_or_close(loop, source);
}

int event_timer_open(struct event_source *source, struct event_loop *loop, uint64_t first_ns,
		     uint64_t interval_ns)
{
	source->fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (source->fd < 0)
		return -errno;
	event_timer_set(source, first_ns, interval_ns);
	return add_or_close(loop, source);
}

static struct timespec timespec_of(uint64_t ns)
{
	return (struct timespec){ (time_t)(ns / EVENT_SECOND), (long)(ns % EVENT_SECOND) };
}

void event_timer_set(const struct event_source *timer, uint64_t first_ns, uint64_t interval_ns)
{
	const struct itimerspec spec = { timespec_of(interval_ns), timespec_of(first_ns) };
	(void)timerfd_settime(timer->fd, 0, &spec, NULL); /* the fd and the times are ours */
}

void event_source_close(struct event_source *source, struct event_loop *loop)
{
	event_loop_remove(loop, source);
	fd_close(&source->fd);
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
