/* SPDX-License-Identifier: MIT */
/* Starting passt: scripts stand in for it. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "base/fd.h"

#include "tests/fakes/process.h"
#include "vmm/passt.h"

#define WAIT_MS 10000

static struct event_loop loop;
static struct passt passt;
static char folder[] = "/tmp/ballast-passt-XXXXXX";
static char program[64];
static char where[64]; /* of its socket, if it has one, or of what it has to say */
static int fd = -1;
static unsigned int fds_before;
static bool is_anothers; /* it has become another user */

long __real_syscall(long number, long a, long b, long c, long d, long e, long f);
long __wrap_syscall(long number, long a, long b, long c, long d, long e, long f);

long __wrap_syscall(long number, long a, long b, long c, long d, long e, long f)
{
	if (number == SYS_pidfd_send_signal && is_anothers) {
		errno = EPERM;
		return -1;
	}
	return __real_syscall(number, a, b, c, d, e, f);
}

static void setup(void)
{
	process_keep_log();
	fds_before = process_nr_fds();
	ck_assert_int_eq(event_loop_init(&loop), 0);
	ck_assert_ptr_nonnull(mkdtemp(folder));
	snprintf(program, sizeof(program), "%s/passt", folder);
	snprintf(where, sizeof(where), "%s/there", folder);
}

static void teardown(void)
{
	passt_stop(&passt);
	passt_stop(&passt);
	fd_close(&fd);
	event_loop_finish(&loop);
	(void)unlink(program);
	(void)unlink(where);
	ck_assert_int_eq(rmdir(folder), 0);
	ck_assert_uint_eq(process_nr_fds(), fds_before);
	/* No zombie is left, and nobody who runs. */
	ck_assert_int_eq(waitpid(-1, NULL, WNOHANG), -1);
	ck_assert_int_eq(errno, ECHILD);
}

static void write_program(const char *body)
{
	FILE *f = fopen(program, "we");
	ck_assert_ptr_nonnull(f);
	fprintf(f, "#!/bin/sh\n%s\n", body);
	ck_assert_int_eq(fclose(f), 0);
	ck_assert_int_eq(chmod(program, 0755), 0);
}

static int start(void)
{
	return passt_start(&passt, &loop, "net0", program, &fd);
}

START_TEST(it_has_the_other_end_of_the_socket)
{
	char got[64] = "";

	write_program("eval \"cat <&$5 >&$5\"");
	ck_assert_int_eq(start(), 0);
	ck_assert_int_eq(write(fd, "hello", 5), 5);
	ck_assert_int_eq(read(fd, got, sizeof(got)), 5);
	ck_assert_str_eq(got, "hello");
	/* It ends with the socket. */
	(void)shutdown(fd, SHUT_WR);
	ck_assert_int_eq(read(fd, got, sizeof(got)), 0);
}
END_TEST

START_TEST(it_is_asked_for_one_guest_in_the_foreground)
{
	char got[64] = "";

	write_program("eval \"echo $1 $2 $3 $4 $# >&$5\"");
	ck_assert_int_eq(start(), 0);
	ck_assert_int_gt(read(fd, got, sizeof(got) - 1), 0);
	ck_assert_str_eq(got, "--foreground --quiet --stderr --fd 5\n");
}
END_TEST

/* Neither our fds nor our signals are its. */
START_TEST(it_inherits_nothing_else)
{
	char got[64] = "";
	sigset_t blocked;

	sigemptyset(&blocked);
	sigaddset(&blocked, SIGTERM);
	ck_assert_int_eq(sigprocmask(SIG_BLOCK, &blocked, NULL), 0);
	write_program(
		"eval \"exec 9>&$5\"\n"
		"(ls -l /proc/$$/fd | grep -c eventpoll; grep SigBlk /proc/$$/status) >&9");
	ck_assert_int_eq(start(), 0);
	for (size_t n = 0; n < 2 + 8 + 16;) {
		ssize_t r = read(fd, got + n, sizeof(got) - 1 - n);
		ck_assert_int_gt(r, 0);
		n += (size_t)r;
	}
	ck_assert_str_eq(got, "0\nSigBlk:\t0000000000000000\n");
}
END_TEST

START_TEST(it_is_ended_and_reaped)
{
	write_program("trap '' TERM INT HUP\nwhile :; do sleep 0.1; done");
	ck_assert_int_eq(start(), 0);
	pid_t pid = passt.pid;
	ck_assert_int_eq(kill(pid, 0), 0);
	passt_stop(&passt);
	ck_assert_int_eq(kill(pid, 0), -1);
	process_expect_no_log();
}
END_TEST

/* Nor waited for: it may have other things to do than to see that its socket has ended. */
START_TEST(one_that_is_not_ours_to_end_is_left_alone)
{
	write_program("exec sleep 1000");
	ck_assert_int_eq(start(), 0);
	pid_t pid = passt.pid;
	is_anothers = true;
	passt_stop(&passt);
	ck_assert_int_eq(kill(pid, SIGKILL), 0);
	ck_assert_int_eq(waitpid(pid, NULL, 0), pid);
	/* But if it has ended already it is reaped. */
	write_program("exit 0");
	fd_close(&fd);
	ck_assert_int_eq(start(), 0);
	siginfo_t info;
	ck_assert_int_eq(waitid(P_PID, (id_t)passt.pid, &info, WEXITED | WNOWAIT), 0);
	passt_stop(&passt);
	process_expect_no_log();
}
END_TEST

START_TEST(one_that_ends_by_itself_is_reaped)
{
	struct epoll_event e;

	write_program("exit 3");
	ck_assert_int_eq(start(), 0);
	pid_t pid = passt.pid;
	ck_assert_int_eq(epoll_wait(loop.epoll_fd, &e, 1, WAIT_MS), 1);
	struct event_source *source = e.data.ptr;
	source->ready(source, e.events);
	ck_assert_int_eq(passt.pid, 0);
	ck_assert_int_eq(kill(pid, 0), -1);
	ck_assert_int_eq(epoll_wait(loop.epoll_fd, &e, 1, 0), 0);
}
END_TEST

/* However we end. */
START_TEST(it_dies_with_us)
{
	pid_t pid = 0;
	int fds[2];
	char byte;

	/* Those who lose their parent become ours, to be reaped. */
	ck_assert_int_eq(prctl(PR_SET_CHILD_SUBREAPER, 1), 0);
	ck_assert_int_eq(pipe(fds), 0);
	write_program("exec sleep 1000");
	pid_t child = fork();
	if (child == 0) {
		if (start() >= 0 && write(fds[1], &passt.pid, sizeof(pid)) == sizeof(pid))
			(void)kill(getpid(), SIGKILL);
		_exit(1);
	}
	close(fds[1]);
	ck_assert_int_eq(read(fds[0], &pid, sizeof(pid)), sizeof(pid));
	ck_assert_int_eq(waitpid(child, NULL, 0), child);
	int status = 0;
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	ck_assert_int_eq(read(fds[0], &byte, 1), 0);
	close(fds[0]);
}
END_TEST

START_TEST(without_it_the_user_is_told_where_it_is_from)
{
	ck_assert_int_eq(start(), -EINVAL);
	process_expect_log("apt-get install passt");
	write_program("exit 0");
	ck_assert_int_eq(chmod(program, 0644), 0);
	ck_assert_int_eq(start(), -EACCES);
	process_expect_log("net0: starting /tmp/ballast-passt-");
}
END_TEST

START_TEST(without_fds_it_is_not_started)
{
	write_program("exec sleep 1000");
	process_forbid_fds();
	ck_assert_int_eq(start(), -EMFILE);
	process_allow_fds();
	process_expect_log("net0: passt");
}
END_TEST

START_TEST(one_that_runs_is_connected_to)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	snprintf(address.sun_path, sizeof(address.sun_path), "%s", where);
	int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	ck_assert_int_eq(bind(listener, (struct sockaddr *)&address, sizeof(address)), 0);
	ck_assert_int_eq(passt_connect("net0", where, &fd), -EINVAL);
	process_expect_log("passt --socket /tmp/ballast-passt-");
	ck_assert_int_eq(listen(listener, 1), 0);
	ck_assert_int_eq(passt_connect("net0", where, &fd), 0);
	int other = accept(listener, NULL, NULL);
	ck_assert_int_ge(other, 0);
	close(other);
	close(listener);
}
END_TEST

START_TEST(a_socket_that_is_none_is_explained)
{
	char longest[200];

	ck_assert_int_eq(passt_connect("net0", where, &fd), -EINVAL);
	process_expect_log("nobody there?");
	memset(longest, 'x', sizeof(longest) - 1);
	longest[sizeof(longest) - 1] = '\0';
	ck_assert_int_eq(passt_connect("net0", longest, &fd), -EINVAL);
	process_expect_log("at most 107 bytes");
	process_forbid_fds();
	int r = passt_connect("net0", where, &fd);
	process_allow_fds();
	ck_assert_int_eq(r, -EMFILE);
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		it_has_the_other_end_of_the_socket,
		it_is_asked_for_one_guest_in_the_foreground,
		it_inherits_nothing_else,
		it_is_ended_and_reaped,
		one_that_is_not_ours_to_end_is_left_alone,
		one_that_ends_by_itself_is_reaped,
		it_dies_with_us,
		without_it_the_user_is_told_where_it_is_from,
		without_fds_it_is_not_started,
		one_that_runs_is_connected_to,
		a_socket_that_is_none_is_explained,
	};

	return run_tests("vmm_passt", setup, teardown, tests, nitems(tests));
}
