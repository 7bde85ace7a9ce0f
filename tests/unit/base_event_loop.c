/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>

#include <sys/mman.h>
#include <sys/timerfd.h>

#include "base/event_loop.h"
#include "base/fd.h"

#include "tests/fakes/process.h"

struct counter {
	struct event_source source;
	unsigned int nr_ready;
	uint32_t events;
	struct counter *removes; /* when it is ready; or NULL */
	bool stops;              /* likewise: the loop */
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
	if (c->stops)
		event_loop_stop(&loop);
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

/* Another fd of the same file: were it closed only, the loop would go on waiting for it. */
START_TEST(a_source_is_opened_and_closed)
{
	struct counter own = { .source.ready = counter_ready };
	unsigned int fds = process_nr_fds();

	ck_assert_int_eq(event_source_open(&own.source, &loop), 0);
	ck_assert_uint_eq(process_nr_fds(), fds + 1);
	eventfd_signal(own.source.fd);
	run();
	ck_assert_uint_eq(own.nr_ready, 1);
	int same = dup(own.source.fd);
	eventfd_signal(same);
	event_source_close(&own.source, &loop);
	ck_assert_int_eq(own.source.fd, -1);
	run();
	ck_assert_uint_eq(own.nr_ready, 1);
	close(same);
	errno = 0;
	event_source_close(&own.source, &loop);
	ck_assert_int_eq(errno, 0); /* nothing was tried */
	ck_assert_uint_eq(process_nr_fds(), fds);
}
END_TEST

static bool runs(const struct event_source *timer)
{
	struct itimerspec left;

	ck_assert_int_eq(timerfd_gettime(timer->fd, &left), 0);
	return left.it_value.tv_sec > 0 || left.it_value.tv_nsec > 0;
}

/* Waits for it. */
static void run_until_stopped(void)
{
	loop.stopped = false;
	event_loop_run(&loop);
}

START_TEST(a_timer_runs_out_once_or_for_ever)
{
	struct counter own = { .source.ready = counter_ready, .stops = true };
	unsigned int fds = process_nr_fds();

	ck_assert_int_eq(event_timer_open(&own.source, &loop, 0, 0), 0);
	ck_assert(!runs(&own.source));
	event_timer_set(&own.source, 1, 0);
	run_until_stopped();
	ck_assert(!runs(&own.source));
	event_timer_set(&own.source, 1, 1000000);
	run_until_stopped();
	run_until_stopped();
	ck_assert(runs(&own.source));
	ck_assert_uint_eq(own.nr_ready, 3);
	event_source_close(&own.source, &loop);
	ck_assert_uint_eq(process_nr_fds(), fds);
}
END_TEST

START_TEST(a_timer_takes_seconds_and_nanoseconds)
{
	struct counter own = { .source.ready = counter_ready };
	struct itimerspec spec;

	ck_assert_int_eq(event_timer_open(&own.source, &loop, 5000000 * EVENT_SECOND,
					  7 * EVENT_SECOND + 3),
			 0);
	ck_assert_int_eq(timerfd_gettime(own.source.fd, &spec), 0);
	ck_assert_int_gt(spec.it_value.tv_sec, 4000000);
	ck_assert_int_le(spec.it_value.tv_sec, 5000000);
	ck_assert_int_eq(spec.it_interval.tv_sec, 7);
	ck_assert_int_eq(spec.it_interval.tv_nsec, 3);
	event_source_close(&own.source, &loop);
}
END_TEST

START_TEST(a_timer_that_is_switched_off_has_not_run_out)
{
	struct counter own = { .source.ready = counter_ready };

	ck_assert_int_eq(event_timer_open(&own.source, &loop, 1, 0), 0);
	struct pollfd p = { .fd = own.source.fd, .events = POLLIN };
	ck_assert_int_eq(poll(&p, 1, -1), 1);
	event_timer_set(&own.source, 0, EVENT_SECOND);
	ck_assert(!runs(&own.source));
	run();
	ck_assert_uint_eq(own.nr_ready, 0);
	event_source_close(&own.source, &loop);
}
END_TEST

START_TEST(opening_fails_at_each_step_and_nothing_is_left)
{
	struct event_loop dead = { .epoll_fd = -1 };
	struct event_source source = { .fd = 0, .ready = counter_ready };
	struct event_source timer = { .fd = 0, .ready = counter_ready };
	unsigned int fds = process_nr_fds();

	process_forbid_fds();
	int r_source = event_source_open(&source, &loop);
	int r_timer = event_timer_open(&timer, &loop, 1, 1);
	process_allow_fds();
	ck_assert_int_eq(r_source, -EMFILE);
	ck_assert_int_eq(r_timer, -EMFILE);
	ck_assert_int_eq(source.fd, -1);
	ck_assert_int_eq(timer.fd, -1);

	ck_assert_int_eq(event_source_open(&source, &dead), -EBADF);
	ck_assert_int_eq(event_timer_open(&timer, &dead, 1, 1), -EBADF);
	ck_assert_int_eq(source.fd, -1);
	ck_assert_int_eq(timer.fd, -1);
	ck_assert_uint_eq(process_nr_fds(), fds);
	process_expect_no_log();
}
END_TEST

START_TEST(no_loop_at_all_waits_for_nothing)
{
	struct counter own = { .source.ready = counter_ready };
	unsigned int fds = process_nr_fds();

	ck_assert_int_eq(event_loop_add(NULL, &a.source, EPOLLIN), 0);
	event_loop_modify(NULL, &a.source, EPOLLIN);
	event_loop_remove(NULL, &a.source);
	ck_assert_int_eq(event_source_open(&own.source, NULL), 0);
	eventfd_signal(own.source.fd);
	run();
	ck_assert_uint_eq(own.nr_ready, 0);
	event_source_close(&own.source, NULL);
	ck_assert_int_eq(event_timer_open(&own.source, NULL, EVENT_SECOND, 0), 0);
	ck_assert(runs(&own.source));
	event_source_close(&own.source, NULL);
	ck_assert_uint_eq(process_nr_fds(), fds);
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
		a_source_is_opened_and_closed,
		a_timer_runs_out_once_or_for_ever,
		a_timer_takes_seconds_and_nanoseconds,
		a_timer_that_is_switched_off_has_not_run_out,
		opening_fails_at_each_step_and_nothing_is_left,
		no_loop_at_all_waits_for_nothing,
		a_signal_does_not_end_the_loop,
		finishing_closes_and_may_be_done_twice,
		without_a_descriptor_it_is_told,
	};
	return run_tests("base_event_loop", setup, NULL, tests, nitems(tests));
}
