/* SPDX-License-Identifier: MIT */
#include "vmm/passt.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "base/fd.h"
#include "base/log.h"

/*
 * In the child, which has our memory until the exec, and its own fds and signals. It is to die with
 * us; should it have given up the privileges that this hangs on it still sees its socket end.
 */
static void become(const char *program, int fd, const char *fd_text, pid_t parent)
{
	const char *const args[] = { program, "--foreground", "--quiet", "--stderr",
				     "--fd",  fd_text,        NULL };
	sigset_t none;

	sigemptyset(&none);
	(void)sigprocmask(SIG_SETMASK, &none, NULL);
	(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent || fcntl(fd, F_SETFD, 0) < 0)
		return;
	/* execvp() changes none of the words. */
	(void)execvp(program, (char *const *)(uintptr_t)args);
}

/* Has become the program, or tells by the pipe why not. Never returns. */
static void run_child(const char *program, int fd, const char *fd_text, pid_t parent,
		      int report)
{
	become(program, fd, fd_text, parent);
	int error = errno;
	ssize_t n = write(report, &error, sizeof(error));
	_exit(n == sizeof(error) ? 127 : 126); /* there is room in a pipe for that */
}

/*
 * vfork(), and not fork(): guest RAM that is pinned for a device would be copied. A pipe that
 * ends with the exec says how that went (ThreadSanitizer makes a fork() of it). pid, or -errno.
 */
static pid_t spawn(const char *program, int fd)
{
	const pid_t parent = getpid();
	char fd_text[16];
	int error = 0;
	int report[2];

	(void)snprintf(fd_text, sizeof(fd_text), "%d", fd);
	if (pipe2(report, O_CLOEXEC) < 0)
		return -errno;
	pid_t pid = vfork();
	if (pid == 0)
		run_child(program, fd, fd_text, parent, report[1]);
	int r = pid < 0 ? -errno : 0;
	fd_close(&report[1]);
	if (r >= 0 && read(report[0], &error, sizeof(error)) == sizeof(error)) {
		(void)waitpid(pid, NULL, 0); /* it has ended */
		r = -error;
	}
	fd_close(&report[0]);
	return r < 0 ? r : pid;
}

static void ended_ready(struct event_source *source, uint32_t events)
{
	struct passt *passt = container_of(source, struct passt, ended);
	int status = 0;

	(void)events;
	event_source_close(source, passt->loop);
	(void)waitpid(passt->pid, &status, 0); /* it has ended */
	log_debug("passt: ended, %s %d", WIFEXITED(status) ? "status" : "signal",
		  WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status));
	passt->pid = 0;
}

static int watch(struct passt *passt)
{
	passt->ended.fd = (int)syscall(SYS_pidfd_open, passt->pid, 0);
	if (passt->ended.fd < 0)
		return -errno;
	return event_loop_add(passt->loop, &passt->ended, EPOLLIN);
}

int passt_start(struct passt *passt, struct event_loop *loop, const char *who,
		const char *program, int *ret_fd)
{
	int fds[2];

	*passt = (struct passt){ .loop = loop, .ended = { .fd = -1, .ready = ended_ready } };
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0)
		return log_err(-errno, "%s: passt", who);
	pid_t pid = spawn(program, fds[1]);
	fd_close(&fds[1]);
	int r = pid < 0 ? pid : 0;
	if (r >= 0) {
		passt->pid = pid;
		r = watch(passt);
	}
	if (r >= 0) {
		*ret_fd = fds[0];
		return 0;
	}
	fd_close(&fds[0]);
	passt_stop(passt);
	if (r == -ENOENT)
		return log_refuse(
			-EINVAL,
			"%s: passt: there is no program %s (apt-get install passt; or "
			"passt=SOCKET for one that runs already)",
			who, program);
	return log_err(r, "%s: starting %s", who, program);
}

void passt_stop(struct passt *passt)
{
	bool told = true;

	if (!passt->loop)
		return;
	if (passt->ended.fd >= 0) /* by what is ours only, as the sandbox has it */
		told = syscall(SYS_pidfd_send_signal, passt->ended.fd, SIGKILL, NULL, 0) == 0;
	else if (passt->pid > 0)
		told = kill(passt->pid, SIGKILL) == 0; /* ours until it is reaped */
	event_source_close(&passt->ended, passt->loop);
	/* Its user may be another: it has lost its socket in any case, and ends when it sees that. */
	if (passt->pid > 0)
		(void)waitpid(passt->pid, NULL, told ? 0 : WNOHANG);
	*passt = (struct passt){ 0 };
}

int passt_connect(const char *who, const char *path, int *ret_fd)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	if (strlen(path) >= sizeof(address.sun_path))
		return log_refuse(-EINVAL, "%s: passt=%s: a path of at most %zu bytes, please",
				  who, path, sizeof(address.sun_path) - 1);
	memcpy(address.sun_path, path, strlen(path));
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return log_err(-errno, "%s: passt=%s", who, path);
	if (connect(fd, (const struct sockaddr *)&address, sizeof(address)) < 0) {
		int r = -errno;
		fd_close(&fd);
		return log_err(r, "%s: passt=%s (nobody there? passt --socket %s)", who, path,
			       path),
		       r == -ENOENT || r == -ECONNREFUSED || r == -ENOTSOCK ? -EINVAL : r;
	}
	*ret_fd = fd;
	return 0;
}
