/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <pthread.h>
#include <signal.h>

#include <sys/mman.h>

#include "base/event_loop.h"
#include "base/fd.h"

#include "tests/fakes/process.h"

struct counter {
	struct event_source source;
	unsigned int nr_ready;
	uint32_t events;
	struct counter *removes; /* when it is ready; or NULL */
};

static struct event_loop loop;
static struct counter a, b, stopper;
static unsigned int fds_before;

static void stopper_ready(struct event_source *source, uint32_t events)
{
	(void)events;
	(void)eventfd_take(source->fd);
	event_loop_stop(&loop);
}

static void counter_ready(struct event_source *source, uint32_t events)
{
	struct counter *c = container_of(source, struct counter, source);

	c->nr_ready++;
	c->events = events;
	(void)eventfd_take(source->fd);
	if (!c->removes)
		return;
	event_loop_remove(&loop, &c->removes->source);
	fd_close(&c->removes->source.fd);
}

static void make(struct counter *c, void (*ready)(struct event_source *, uint32_t))
{
	c->source.ready = ready;
	ck_assert_int_eq(eventfd_create(&c->source.fd), 0);
}

static void setup(void)
{
	process_keep_log();
	fds_before = process_nr_fds();
	ck_assert_int_eq(event_loop_init(&loop), 0);
	make(&a, counter_ready);
	make(&b, counter_ready);
	make(&stopper, stopper_ready);
	ck_assert_int_eq(event_loop_add(&loop, &stopper.source, EPOLLIN), 0);
}

static void add(struct counter *c)
{
	ck_assert_int_eq(event_loop_add(&loop, &c->source, EPOLLIN), 0);
}

/* Until all that is ready now had its turn. */
static void run(void)
{
	eventfd_signal(stopper.source.fd);
	loop.stopped = false;
	event_loop_run(&loop);
	eventfd_signal(stopper.source.fd);
	loop.stopped = false;
	event_loop_run(&loop);
}

START_TEST(who_is_ready_is_called)
{
	add(&a);
	add(&b);
	eventfd_signal(a.source.fd);
	run();
	ck_assert_uint_eq(a.nr_ready, 1);
	ck_assert_uint_eq(a.events, EPOLLIN);
	ck_assert_uint_eq(b.nr_ready, 0);
	run();
	ck_assert_uint_eq(a.nr_ready, 1);
}
END_TEST

START_TEST(who_waits_for_nothing_is_not_called)
{
	add(&a);
	event_loop_modify(&loop, &a.source, 0);
	eventfd_signal(a.source.fd);
	run();
	ck_assert_uint_eq(a.nr_ready, 0);
	event_loop_modify(&loop, &a.source, EPOLLIN);
	run();
	ck_assert_uint_eq(a.nr_ready, 1);
}
END_TEST

START_TEST(who_was_removed_is_not_called)
{
	add(&a);
	event_loop_remove(&loop, &a.source);
	eventfd_signal(a.source.fd);
	run();
	ck_assert_uint_eq(a.nr_ready, 0);
}
END_TEST

START_TEST(one_may_remove_and_close_another_that_is_ready)
{
	add(&a);
	add(&b);
	a.removes = &b;
	b.removes = &a;
	eventfd_signal(a.source.fd);
	eventfd_signal(b.source.fd);
	run();
	ck_assert_uint_eq(a.nr_ready + b.nr_ready, 1);
}
END_TEST

START_TEST(a_regular_file_cannot_be_waited_for)
{
	struct event_source file = { .fd = memfd_create("file", MFD_CLOEXEC) };

	ck_assert_int_eq(event_loop_add(&loop, &file, EPOLLIN), -EPERM);
	ck_assert_int_eq(event_loop_add(&loop, &stopper.source, EPOLLIN), -EEXIST);
}
END_TEST

static void do_nothing(int signal)
{
	(void)signal;
}

static void *signal_and_stop(void *opaque)
{
	const pthread_t *loop_thread = opaque;

	for (unsigned int i = 0; i < 10; i++) {
		pthread_kill(*loop_thread, SIGUSR1);
		usleep(1000);
	}
	eventfd_signal(stopper.source.fd);
	return NULL;
}

START_TEST(a_signal_does_not_end_the_loop)
{
	const struct sigaction action = { .sa_handler = do_nothing };
	pthread_t self = pthread_self();
	pthread_t thread;

	ck_assert_int_eq(sigaction(SIGUSR1, &action, NULL), 0);
	ck_assert_int_eq(pthread_create(&thread, NULL, signal_and_stop, &self), 0);
	event_loop_run(&loop);
	pthread_join(thread, NULL);
	ck_assert(loop.stopped);
}
END_TEST

START_TEST(finishing_closes_and_may_be_done_twice)
{
	event_loop_finish(&loop);
	event_loop_finish(&loop);
	ck_assert_int_eq(loop.epoll_fd, -1);
	ck_assert_uint_eq(process_nr_fds(), fds_before + 3); /* the three eventfds */
}
END_TEST

START_TEST(without_a_descriptor_it_is_told)
{
	struct event_loop other;

	process_forbid_fds();
	int r = event_loop_init(&other);
	process_allow_fds();
	ck_assert_int_eq(r, -EMFILE);
	process_expect_log("event loop: Too many open files");
	event_loop_finish(&other);
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		who_is_ready_is_called,
		who_waits_for_nothing_is_not_called,
		who_was_removed_is_not_called,
		one_may_remove_and_close_another_that_is_ready,
		a_regular_file_cannot_be_waited_for,
		a_signal_does_not_end_the_loop,
		finishing_closes_and_may_be_done_twice,
		without_a_descriptor_it_is_told,
	};
	return run_tests("base_event_loop", setup, NULL, tests, nitems(tests));
}
