/* SPDX-License-Identifier: MIT */
/*
 * faults.c - runs ballast again and again, each time with one system call that fails.
 *
 *	faults BALLAST FOLDER-OF-GUESTS start     with all there is, and a KVM that is made up
 *	faults BALLAST FOLDER-OF-GUESTS run       guests with drivers, on /dev/kvm
 *	faults BALLAST FOLDER-OF-GUESTS BDF       a device that is bound to vfio-pci, on /dev/kvm
 *
 * The kernel asks us about its calls (seccomp's user notification), and one gets an errno that it
 * could have had. A fault point is a call, its request, and the places in ballast that it comes
 * from; those of a run that goes well are found first, then each fails where it is met first. Left
 * out are libc's own (before main(), and where threads begin and end), calls that cannot fail, and
 * close(), which closes whatever it says.
 *
 * What is wanted of every run: it ends in time, with the guest's status, or with 1 or 2 and one line
 * that says why; no process, no file and no terminal mode is left behind. Of a device: that its
 * group can be opened again.
 *
 * FAULTS=all in the environment: each errno of a point, and the first occasions of each. FAULTS=NAME:
 * likewise, of what only the set-up of that name meets.
 * FAULTS_VERBOSE=1: a line for each.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <poll.h>
#include <pty.h>
#include <seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include <linux/filter.h>
#include <linux/kvm.h>
#include <linux/landlock.h>
#include <linux/seccomp.h>

#include "base/fd.h"
#include "base/util.h"

#include "tests/guest/contract.h"
#include "vmm/layout.h"

#define EXIT_SKIPPED 77
#define STATUS_CRASHED 33 /* a processor that could not go on */
#define SECONDS 60        /* more than a run takes, so that a hang ends */
#define LONG_SECONDS 900  /* if it takes long, by emulated processors */
#define LINGER_MS 5000    /* for what dies with ballast */
#define REPORT_FD 999     /* by it alone the child may write before we listen */
#define NR_SITES 3u
#define STACK_SIZE 4096u /* of it are looked at */
#define MAX_POINTS 4096u
#define MAX_TEXT (4u << 20)
#define MAX_CPUS 2u
#define VCPU_SIZE 8192
#define TRIES 3u /* where processors are emulated, which now and then lose a guest */
#define ALL_OCCASIONS 4u
#define LEAST 10u               /* with fewer points we are blind */
#define WAIT_KILLABLE (1u << 5) /* SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, Linux 5.19 */

/* A run in which nothing fails, with files in a folder of ours. */
struct setup {
	const char *name;
	const char *guest;
	const char *args;    /* with | between them */
	const char *program; /* it is skipped without; it may write to stderr as it likes */
	bool fakes;          /* KVM is made up: see answer_as_kvm() */
	bool known;          /* its points are another's to try */
	bool takes_long;     /* only with FAULTS=all */
	bool tests;          /* its guest ends with 1 if a device is not as it should be */
};

struct point {
	int number;
	uint32_t request; /* of ioctl, fcntl, epoll_ctl; of landlock_create_ruleset its flags */
	uintptr_t sites[NR_SITES]; /* in ballast's text, the innermost first */
	enum fd_kind { OTHER, EVENT, STDERR } kind;
};

struct run {
	const struct setup *setup;
	const struct point *fails; /* NULL: nothing does */
	unsigned int occasion;     /* so often it is let pass before */
	int error;
	bool done; /* it has failed */
	pid_t pid;
	uintptr_t text; /* where it is */
	int listener;
	struct kvm_run *vcpus[MAX_CPUS]; /* of the KVM that is made up */
	uint64_t waits;                  /* the second one's, in KVM_RUN; 0: it does not */
	int status;
	bool timed_out;
};

static const char *ballast;
static const char *guests;
static const char *device;
static char group_path[64];
static char folder[] = "/tmp/ballast-faults-XXXXXX";
static int master = -1;
static int terminal = -1;
static bool all;
static const char *only; /* a set-up's name, or NULL */
static struct point points[MAX_POINTS];
static unsigned int nr_points;
static uint8_t text[MAX_TEXT];
static size_t text_size;
static unsigned int nr_tried, nr_survived, nr_refused, nr_failed, nr_missed;

static _Noreturn void die(const char *what)
{
	perror(what);
	exit(1);
}

/* Points */

static ssize_t read_memory(pid_t pid, uintptr_t at, void *buffer, size_t size)
{
	size_t first = 4096 - at % 4096;
	struct iovec here = { buffer, size };
	struct iovec there[2] = { { (void *)at, first < size ? first : size },
				  { (void *)(at + first), first < size ? size - first : 0 } };

	return process_vm_readv(pid, &here, 1, there, 2, 0);
}

/* Where its code is, which is read once: it is at one place in all runs. */
static void find_text(struct run *run)
{
	char path[64];
	char line[PATH_MAX + 128];
	uintptr_t start = 0;
	uintptr_t end = 0;

	(void)snprintf(path, sizeof(path), "/proc/%d/maps", run->pid);
	FILE *f = fopen(path, "re");
	while (f && start == 0 && fgets(line, sizeof(line), f)) {
		if (strstr(line, "r-xp") && strstr(line, ballast))
			(void)sscanf(line, "%" SCNxPTR "-%" SCNxPTR, &start, &end);
	}
	if (f)
		(void)fclose(f);
	run->text = start;
	if (text_size > 0 || start == 0)
		return;
	ssize_t n = 0;
	while (text_size < end - start && text_size < sizeof(text) &&
	       (n = read_memory(run->pid, start + text_size, text + text_size, 4096)) > 0)
		text_size += (size_t)n;
}

/* Is this word of the stack where a call returns to? */
static bool returns_to(const struct run *run, uintptr_t word)
{
	size_t at = word - run->text;

	if (word < run->text + 7 || at >= text_size)
		return false;
	if (text[at - 5] == 0xe8)
		return true;
	for (unsigned int length = 2; length <= 7; length++) {
		if (text[at - length] == 0xff && (text[at - length + 1] & 0x38) == 0x10)
			return true;
	}
	return false;
}

static void find_sites(struct run *run, pid_t thread, struct point *ret)
{
	char path[64];
	char line[256];
	uintptr_t stack[STACK_SIZE / sizeof(uintptr_t)];
	unsigned int n = 0;
	uintptr_t at;

	(void)snprintf(path, sizeof(path), "/proc/%d/syscall", thread);
	do { /* it may be on its way to where it waits for us */
		if (file_read_line(path, line, sizeof(line)) < 0)
			return;
	} while (strcmp(line, "running") == 0);
	const char *word = line; /* the number, six arguments, and then the stack pointer */
	for (unsigned int i = 0; i < 7 && word; i++) {
		word = strchr(word, ' ');
		word = word ? word + 1 : NULL;
	}
	if (!word || sscanf(word, "%" SCNxPTR, &at) != 1)
		return;
	ssize_t size = read_memory(thread, at, stack, sizeof(stack));
	for (size_t i = 0; size > 0 && i < (size_t)size / sizeof(*stack) && n < NR_SITES; i++) {
		if (returns_to(run, stack[i]))
			ret->sites[n++] = stack[i] - run->text;
	}
}

static enum fd_kind kind_of(pid_t thread, const struct seccomp_data *call)
{
	char path[64];
	char name[64] = "";

	if (call->nr != SYS_read && call->nr != SYS_write)
		return OTHER;
	if (call->nr == SYS_write && call->args[0] == STDERR_FILENO)
		return STDERR;
	(void)snprintf(path, sizeof(path), "/proc/%d/fd/%u", thread,
		       (unsigned int)call->args[0]);
	if (readlink(path, name, sizeof(name) - 1) < 0)
		return OTHER;
	return strncmp(name, "anon_inode:", 11) == 0 ? EVENT : OTHER;
}

static struct point point_of(struct run *run, const struct seccomp_notif *call)
{
	struct point p = { .number = call->data.nr };

	if (p.number == SYS_ioctl || p.number == SYS_fcntl || p.number == SYS_epoll_ctl)
		p.request = (uint32_t)call->data.args[1];
	else if (p.number == SYS_landlock_create_ruleset)
		p.request = (uint32_t)call->data.args[2];
	p.kind = kind_of((pid_t)call->pid, &call->data);
	find_sites(run, (pid_t)call->pid, &p);
	return p;
}

static bool same_point(const struct point *a, const struct point *b)
{
	return a->number == b->number && a->request == b->request && a->kind == b->kind &&
	       memcmp(a->sites, b->sites, sizeof(a->sites)) == 0;
}

static void note(const struct point *p)
{
	for (unsigned int i = 0; i < nr_points; i++) {
		if (same_point(&points[i], p))
			return;
	}
	if (nr_points == MAX_POINTS) {
		fprintf(stderr, "more than %u points\n", MAX_POINTS);
		exit(1);
	}
	points[nr_points++] = *p;
}

/* What a call may fail with; the first is tried in any case. None: it cannot. */
static const int *errors_of(const struct point *p)
{
	static const struct {
		int errors[4];
		int numbers[13]; /* up to a 0 */
	} table[] = {
		{ { ENOMEM },
		  { SYS_getdents64, SYS_statx, SYS_mmap, SYS_munmap, SYS_mprotect, SYS_mremap,
		    SYS_madvise, SYS_brk, SYS_io_uring_register, SYS_recvfrom, SYS_seccomp,
		    SYS_landlock_add_rule } },
		{ { EMFILE, ENOMEM },
		  { SYS_memfd_create, SYS_eventfd2, SYS_epoll_create1, SYS_timerfd_create,
		    SYS_signalfd4, SYS_pidfd_open, SYS_pipe2, SYS_socket, SYS_socketpair } },
		{ { EMFILE, EACCES, ENOMEM }, { SYS_openat } },
		{ { EACCES, ENOMEM }, { SYS_readlink, SYS_newfstatat } },
		{ { EIO, EINTR }, { SYS_pread64 } },
		{ { EIO }, { SYS_lseek } },
		{ { ENOSPC, EIO, EINTR }, { SYS_pwrite64 } },
		{ { ENOSPC }, { SYS_fallocate, SYS_ftruncate } },
		{ { EAGAIN, ENOMEM }, { SYS_clone3, SYS_clone, SYS_vfork } },
		{ { ENOENT, EACCES, ENOMEM }, { SYS_execve } },
		{ { EINTR }, { SYS_epoll_wait, SYS_wait4, SYS_getrandom } },
		{ { ENOMEM, EPERM, EMFILE }, { SYS_io_uring_setup } },
		{ { EAGAIN, EINTR, EBUSY }, { SYS_io_uring_enter } },
		{ { ENOBUFS }, { SYS_sendto, SYS_sendmsg } },
		{ { EADDRINUSE, ENOMEM }, { SYS_bind, SYS_listen } },
		{ { ECONNREFUSED }, { SYS_connect } },
		{ { EMFILE, ECONNABORTED }, { SYS_accept4 } },
		{ { EINTR, ENOMEM }, { SYS_poll } },
		{ { EACCES }, { SYS_unlink, SYS_unlinkat } },
		{ { ENOSPC, EACCES }, { SYS_renameat } },
		{ { EPERM },
		  { SYS_fchmod, SYS_prlimit64, SYS_prctl, SYS_capget, SYS_capset,
		    SYS_pidfd_send_signal } },
		{ { E2BIG }, { SYS_landlock_restrict_self } },
		{ { EAGAIN }, { SYS_tgkill } }, /* a real-time signal: too many are pending */
	};
	static const int none[4] = { 0 };
	static const int transfer[4] = { EIO, EINTR };
	static const int not_ready[4] = { EAGAIN };
	static const int new_fd[4] = { EMFILE };
	static const int no_lock[4] = { ENOLCK, EINTR };
	static const int no_room[4] = { ENOSPC, ENOMEM };
	static const int run[4] = { EFAULT, EINTR };
	static const int ioctls[4] = { ENOMEM, EIO, EPERM };

	switch (p->number) {
	case SYS_read: return p->kind == EVENT ? not_ready : transfer;
	/* An eventfd's counter takes what is added, or its reader is told already. */
	case SYS_write: return p->kind == EVENT ? none : transfer;
	case SYS_ioctl:
		if (p->request == KVM_CHECK_EXTENSION)
			return none;
		return p->request == KVM_RUN ? run : p->request >> 8 == 'T' ? transfer : ioctls;
	case SYS_landlock_create_ruleset: /* to ask for its version costs nothing */
		return p->request == LANDLOCK_CREATE_RULESET_VERSION ? none : new_fd;
	case SYS_fcntl:
		return p->request == F_DUPFD_CLOEXEC ? new_fd
		       : p->request == F_OFD_SETLK   ? no_lock
						     : none;
	case SYS_epoll_ctl: return p->request == EPOLL_CTL_ADD ? no_room : none;
	default: break;
	}
	for (unsigned int i = 0; i < nitems(table); i++) {
		for (const int *number = table[i].numbers; *number; number++) {
			if (*number == p->number)
				return table[i].errors;
		}
	}
	return none;
}

/* Runs */

static bool make_file(const char *name, size_t size, bool sectors)
{
	FILE *f = fopen(name, "we");

	for (size_t i = 0; f && i < size; i++)
		(void)fputc(sectors ? (uint8_t)DISK_BYTE(i / 512) : 'x', f);
	return f && fclose(f) == 0;
}

/*
 * Which calls we are told of: while we look for points all but those that are many and never fail;
 * later the one that fails, and what makes up KVM. Never its report to us, nor each
 * KVM_RUN of a guest that runs.
 */
static int listen_to_calls(const struct run *run)
{
	const struct point *p = run->fails;
	struct sock_filter looks[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_futex, 8, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_rt_sigreturn, 7, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_rt_sigprocmask, 6, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_ioctl, 0, 2),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[1])),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, run->setup->fakes ? 0 : KVM_RUN, 3, 4),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_write, 0, 3),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[0])),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, REPORT_FD, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
	};
	struct sock_filter fails[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, run->setup->fakes ? SYS_openat : -1, 5, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, run->setup->fakes ? SYS_ioctl : -1, 4, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, p ? p->number : -1, 0, 2),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
			 p && p->request ? offsetof(struct seccomp_data, args[1])
					 : offsetof(struct seccomp_data, args[0])),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, p && p->request ? p->request : REPORT_FD,
			 p && p->request, !(p && p->request)),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
	};
	const struct sock_fprog program = p ? (struct sock_fprog){ nitems(fails), fails }
					    : (struct sock_fprog){ nitems(looks), looks };
	unsigned int flags = SECCOMP_FILTER_FLAG_NEW_LISTENER | WAIT_KILLABLE;

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return -1;
	return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program);
}

static _Noreturn void become_ballast(const struct run *run, int report)
{
	char kernel[PATH_MAX];
	char words[512];
	char *rest = words;
	const char *args[48] = { ballast, "run", "--kernel", kernel, "--exit-port" };
	unsigned int n = 5;

	(void)snprintf(kernel, sizeof(kernel), "%s/%s.elf", guests, run->setup->guest);
	(void)snprintf(words, sizeof(words), "%s", run->setup->args);
	while (rest)
		args[n++] = strsep(&rest, "|");
	if (device && !run->setup->known) {
		args[n++] = "--device";
		args[n++] = device;
	}
	int log = open("log", O_WRONLY | O_CREAT | O_TRUNC, 0600);
	if (setsid() < 0 || dup2(terminal, 0) < 0 || dup2(terminal, 1) < 0 ||
	    dup2(log, 2) < 0 || dup2(report, REPORT_FD) < 0 ||
	    fcntl(REPORT_FD, F_SETFD, FD_CLOEXEC) < 0)
		_exit(126);
	(void)close(log);
	(void)personality(ADDR_NO_RANDOMIZE);
	(void)prctl(PR_SET_PDEATHSIG, SIGKILL); /* nobody would answer it any more */
	int fd = listen_to_calls(run);
	/* Until the other side has it: the exec closes it. */
	if (write(REPORT_FD, &fd, sizeof(fd)) == sizeof(fd) && fd >= 0 &&
	    read(REPORT_FD, &fd, sizeof(fd)) == sizeof(fd))
		(void)execv(ballast, (char *const *)(uintptr_t)args);
	_exit(126);
}

/* Starts it, and listens to its calls. -1: this kernel has no way to. */
static int start(struct run *run)
{
	int report[2];
	int number = -1;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, report) < 0)
		die("socketpair");
	run->pid = fork();
	if (run->pid < 0)
		die("fork");
	if (run->pid == 0)
		become_ballast(run, report[1]);
	(void)close(report[1]);
	bool told = read(report[0], &number, sizeof(number)) == sizeof(number) && number >= 0;
	int pidfd = (int)syscall(SYS_pidfd_open, run->pid, 0);
	run->listener = told ? (int)syscall(SYS_pidfd_getfd, pidfd, number, 0) : -1;
	(void)close(pidfd);
	bool goes_on = write(report[0], &number, sizeof(number)) == sizeof(number);
	(void)close(report[0]);
	if (!told)
		return -1;
	if (run->listener < 0 || !goes_on)
		die("the child's listener");
	return 0;
}

/* Of another program, which ballast has started, and which has no faults of ours. */
static bool is_stranger(pid_t thread)
{
	char path[64];
	char name[PATH_MAX];

	(void)snprintf(path, sizeof(path), "/proc/%d/exe", thread);
	ssize_t n = readlink(path, name, sizeof(name));
	return n < 0 || (size_t)n != strlen(ballast) || strncmp(name, ballast, (size_t)n) != 0;
}

static int answer_to(struct run *run, const struct seccomp_notif *call)
{
	if (run->done || is_stranger((pid_t)call->pid))
		return 0;
	if (run->text == 0)
		find_text(run);
	if (run->text == 0)
		return 0;
	struct point p = point_of(run, call);
	if (!p.sites[0])
		return 0; /* libc's, before main() or where a thread begins and ends */
	if (run->fails && same_point(run->fails, &p) && run->occasion-- == 0) {
		run->done = true;
		return run->error;
	}
	if (!run->fails)
		note(&p);
	return 0;
}

/* A KVM in which nothing runs */

/* The call is made, and gives it a new fd: a memfd, told by its name. */
static void give_file(struct run *run, struct seccomp_notif_resp *answer, const char *name,
		      struct kvm_run **ret)
{
	int fd = memfd_create(name, MFD_CLOEXEC);
	const struct seccomp_notif_addfd add = { .id = answer->id,
						 .flags = SECCOMP_ADDFD_FLAG_SEND,
						 .srcfd = (uint32_t)fd,
						 .newfd_flags = O_CLOEXEC };

	if (fd < 0 || ftruncate(fd, VCPU_SIZE) < 0)
		die("memfd");
	if (ret)
		*ret = mmap(NULL, VCPU_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	(void)ioctl(run->listener, SECCOMP_IOCTL_NOTIF_ADDFD, &add);
	(void)close(fd);
	answer->id = 0;
}

/* The first processor ends the guest by the exit port; any other waits until it is called out. */
static void enter(struct run *run, unsigned int cpu, struct seccomp_notif_resp *answer)
{
	struct kvm_run *state = run->vcpus[cpu];

	if (state->immediate_exit) {
		answer->error = -EINTR;
	} else if (cpu > 0) {
		run->waits = answer->id;
		answer->id = 0;
	} else {
		state->exit_reason = KVM_EXIT_IO;
		state->io.direction = KVM_EXIT_IO_OUT;
		state->io.size = 1;
		state->io.count = 1;
		state->io.port = LAYOUT_EXIT_PORT;
		state->io.data_offset = VCPU_SIZE / 2; /* where a 0 is */
	}
}

/* Which file of KVM's that is: 'k', 'v', or a processor's number; -1: none. */
static int file_of_kvm(const struct seccomp_notif *call)
{
	char path[64];
	char name[64] = "";

	(void)snprintf(path, sizeof(path), "/proc/%u/fd/%u", call->pid,
		       (unsigned int)call->data.args[0]);
	if (readlink(path, name, sizeof(name) - 1) < 0 || strncmp(name, "/memfd:kvm-", 11) != 0)
		return -1;
	return name[11] >= '0' && name[11] <= '9' ? name[11] - '0' : name[11];
}

/* False: the call is not one to KVM. answer->id 0: it is answered, or will be. */
static bool answer_as_kvm(struct run *run, const struct seccomp_notif *call,
			  struct seccomp_notif_resp *answer)
{
	const uint32_t none = 0; /* supported entries, or MSRs */
	const struct iovec here = { (void *)(uintptr_t)&none, sizeof(none) };
	const struct iovec there = { (void *)(uintptr_t)call->data.args[2], sizeof(none) };
	char name[16] = "";

	if (!run->setup->fakes)
		return false;
	if (call->data.nr == SYS_openat) {
		(void)read_memory((pid_t)call->pid, call->data.args[1], name, 9);
		if (strcmp(name, "/dev/kvm") != 0)
			return false;
		give_file(run, answer, "kvm-k", NULL);
		return true;
	}
	int file = call->data.nr == SYS_ioctl ? file_of_kvm(call) : -1;
	if (file < 0)
		return false;
	answer->flags = 0;
	switch (call->data.args[1]) {
	case KVM_GET_API_VERSION: answer->val = KVM_API_VERSION; break;
	case KVM_GET_VCPU_MMAP_SIZE: answer->val = VCPU_SIZE; break;
	case KVM_CHECK_EXTENSION:
	case KVM_SET_MSRS: answer->val = 1; break;
	case KVM_GET_SUPPORTED_CPUID:
	case KVM_GET_MSR_INDEX_LIST:
		(void)process_vm_writev((pid_t)call->pid, &here, 1, &there, 1, 0);
		break;
	case KVM_CREATE_VM: give_file(run, answer, "kvm-v", NULL); break;
	case KVM_CREATE_VCPU:
		(void)snprintf(name, sizeof(name), "kvm-%u",
			       (unsigned int)call->data.args[2] % MAX_CPUS);
		give_file(run, answer, name, &run->vcpus[call->data.args[2] % MAX_CPUS]);
		break;
	case KVM_RUN: enter(run, (unsigned int)file, answer); break;
	default: break;
	}
	return true;
}

/* Somebody wants the processor that waits. */
static void call_out(struct run *run)
{
	const struct seccomp_notif_resp answer = { .id = run->waits, .error = -EINTR };

	if (!run->waits || !run->vcpus[1]->immediate_exit)
		return;
	run->waits = 0;
	(void)ioctl(run->listener, SECCOMP_IOCTL_NOTIF_SEND, &answer);
}

static void serve(struct run *run)
{
	struct seccomp_notif call = { 0 };

	if (ioctl(run->listener, SECCOMP_IOCTL_NOTIF_RECV, &call) < 0)
		return; /* a signal has taken it back */
	int error = answer_to(run, &call);
	struct seccomp_notif_resp answer = { .id = call.id };
	/* brk() has no errno: it says where the break is, below what was wanted. */
	if (error)
		answer.error = call.data.nr == SYS_brk ? 0 : -error;
	else if (!answer_as_kvm(run, &call, &answer))
		answer.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
	if (answer.id)
		(void)ioctl(run->listener, SECCOMP_IOCTL_NOTIF_SEND, &answer);
}

static int64_t now_ms(void)
{
	struct timespec now;

	(void)clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Until ballast has ended, and whatever it started; or until the time is over. */
static void serve_all(struct run *run)
{
	int64_t end = now_ms() + (run->setup->takes_long ? LONG_SECONDS : SECONDS) * 1000;
	bool ended = false;

	for (;;) {
		struct pollfd p = { .fd = run->listener, .events = POLLIN };
		int n = poll(&p, 1, 20);
		if (n == 1 && (p.revents & POLLIN))
			serve(run);
		call_out(run);
		if (!ended && waitpid(run->pid, &run->status, WNOHANG) == run->pid) {
			ended = true;
			end = now_ms() + LINGER_MS;
		}
		if (ended && waitpid(-1, NULL, WNOHANG) < 0)
			return; /* nobody is left */
		if (now_ms() < end)
			continue;
		run->timed_out = true;
		(void)kill(-run->pid, SIGKILL);
		(void)close(run->listener); /* whoever still asks fails */
		run->listener = -1;
		while (waitpid(-1, NULL, 0) > 0)
			;
		return;
	}
}

/* Judging */

static char log_text[1 << 16];

static void read_log(void)
{
	FILE *f = fopen("log", "re");

	log_text[0] = '\0';
	if (!f)
		return;
	log_text[fread(log_text, 1, sizeof(log_text) - 1, f)] = '\0';
	(void)fclose(f);
}

/* Lines that begin so; NULL: those that begin with no level. */
static unsigned int count_lines(const char *begin)
{
	unsigned int n = 0;

	for (const char *line = log_text; *line; line = strchrnul(line, '\n')) {
		line += *line == '\n';
		if (*line)
			n += begin ? strncmp(line, begin, strlen(begin)) == 0
				   : !strchr("EWID", line[0]) || line[1] != ' ';
	}
	return n;
}

static const char *const wanted[] = { "log",     "disk",   "initrd", "events",
				      "metrics", "serial", "trace" };

/* What is in the folder and was not before, or is not wanted; it is removed. */
static const char *left_in_folder(void)
{
	static char found[256];
	DIR *d = opendir(folder);

	found[0] = '\0';
	for (struct dirent *e; d && (e = readdir(d));) {
		bool ok = e->d_name[0] == '.';
		for (unsigned int i = 0; i < nitems(wanted); i++)
			ok = ok || strcmp(e->d_name, wanted[i]) == 0;
		if (ok)
			continue;
		(void)snprintf(found, sizeof(found), "%s", e->d_name);
		(void)unlink(e->d_name);
	}
	if (d)
		(void)closedir(d);
	return found[0] ? found : NULL;
}

static bool group_is_busy(void)
{
	int fd = device ? open(group_path, O_RDWR | O_CLOEXEC) : -1;

	if (fd >= 0)
		(void)close(fd);
	return device && fd < 0;
}

static void drain_terminal(void)
{
	char bytes[4096];
	struct pollfd p = { .fd = master, .events = POLLIN };

	while (poll(&p, 1, 0) == 1 && (p.revents & POLLIN) &&
	       read(master, bytes, sizeof(bytes)) > 0)
		;
}

/* At its end nobody can put right what the call that fails was to. */
static bool may_leave(const struct run *run, bool survived, int number)
{
	return survived && run->fails && run->done && run->fails->number == number;
}

/* What is wrong with the run, or NULL. */
static const char *judge(struct run *run, const struct termios *mode, bool *ret_survived)
{
	static char why[512];
	struct termios after = { 0 };
	int status = WIFEXITED(run->status) ? WEXITSTATUS(run->status) : -1;
	unsigned int errors = count_lines("E ");
	bool silenced = run->fails && run->fails->kind == STDERR;
	bool tells = errors == 1 || (errors == 0 && run->setup->tests && count_lines("W ") > 0);
	bool crash = status == STATUS_CRASHED && run->fails && run->fails->request == KVM_RUN;
	const char *left = left_in_folder();

	*ret_survived = status == 0;
	(void)tcgetattr(terminal, &after);
	bool restored = memcmp(&after, mode, sizeof(after)) == 0;
	(void)tcsetattr(terminal, TCSANOW, mode);
	drain_terminal();
	if (run->timed_out)
		(void)snprintf(why, sizeof(why), "it, or what it started, did not end");
	else if (status < 0)
		(void)snprintf(why, sizeof(why), "signal %d", WTERMSIG(run->status));
	else if (status != 0 && status != 1 && status != 2 && !crash)
		(void)snprintf(why, sizeof(why), "status %d", status);
	else if (status != 0 && !tells && !silenced)
		(void)snprintf(why, sizeof(why), "status %d with %u lines of errors", status,
			       errors);
	else if (errors > 1)
		(void)snprintf(why, sizeof(why), "%u lines of errors", errors);
	else if (!run->setup->program && count_lines(NULL) > 0)
		(void)snprintf(why, sizeof(why), "a line that is not the log's");
	else if (left && !may_leave(run, status == 0, SYS_unlinkat) &&
		 !may_leave(run, status == 0, SYS_newfstatat))
		(void)snprintf(why, sizeof(why), "it leaves '%s' behind", left);
	else if (!restored && !may_leave(run, true, SYS_ioctl))
		(void)snprintf(why, sizeof(why), "the terminal is not as it was");
	else if (group_is_busy())
		(void)snprintf(why, sizeof(why), "the group is still in use");
	else
		return NULL;
	return why;
}

/* One run from start to end. NULL, or what is wrong with it. */
static const char *run_once(struct run *run, bool *ret_survived)
{
	struct termios mode = { 0 };

	run->listener = -1;
	(void)tcgetattr(terminal, &mode);
	if (start(run) < 0) {
		printf("faults: skipped: no notification of system calls here (Linux 5.19)\n");
		exit(EXIT_SKIPPED);
	}
	serve_all(run);
	if (run->listener >= 0)
		(void)close(run->listener);
	for (unsigned int i = 0; i < MAX_CPUS; i++) {
		if (run->vcpus[i])
			(void)munmap(run->vcpus[i], VCPU_SIZE);
	}
	read_log();
	return judge(run, &mode, ret_survived);
}

static void describe(const struct point *p, char *line, size_t size)
{
	char *name = seccomp_syscall_resolve_num_arch(SCMP_ARCH_NATIVE, p->number);

	(void)snprintf(line, size, "%s 0x%x from", name ? name : "?", p->request);
	free(name);
	for (unsigned int i = 0; i < NR_SITES && p->sites[i]; i++)
		(void)snprintf(line + strlen(line), size - strlen(line), " text+0x%" PRIxPTR,
			       p->sites[i]);
}

static void tell(const char *what, const struct setup *setup, const struct point *p)
{
	char line[256];

	if (!getenv("FAULTS_VERBOSE"))
		return;
	describe(p, line, sizeof(line));
	printf("%s: %s: %s\n", setup->name, what, line);
}

static void try(const struct setup *setup, const struct point *p, int error,
		unsigned int occasion)
{
	unsigned int tries = getenv("LAB_EMULATED") ? TRIES : 1;
	const char *why = NULL;
	bool survived = false;
	struct run run;
	char line[256];

	do {
		run = (struct run){
			.setup = setup, .fails = p, .error = error, .occasion = occasion
		};
		why = run_once(&run, &survived);
	} while (why && --tries > 0);
	if (!run.done && !why) {
		nr_missed += occasion == 0;
		tell("not met again", setup, p);
		return;
	}
	nr_tried++;
	nr_survived += survived && !why;
	nr_refused += !survived && !why;
	describe(p, line, sizeof(line));
	if (why || getenv("FAULTS_VERBOSE"))
		printf("%s %s: %s, %s: %s\n%s", why ? "FAIL" : "ok", setup->name, line,
		       strerrorname_np(error),
		       why        ? why
		       : survived ? "survived"
				  : "refused",
		       log_text);
	nr_failed += why != NULL;
	(void)fflush(stdout);
}

static void try_all(const struct setup *setup, const struct point *p)
{
	const int *errors = errors_of(p);

	for (unsigned int i = 0; errors[i] && (i == 0 || all); i++) {
		for (unsigned int occasion = 0; occasion < (all ? ALL_OCCASIONS : 1);
		     occasion++)
			try(setup, p, errors[i], occasion);
	}
}

static void do_setup(const struct setup *setup)
{
	unsigned int tries = getenv("LAB_EMULATED") ? TRIES : 1;
	unsigned int first = nr_points;
	int64_t began = now_ms();
	bool known = setup->known || (only && strcmp(setup->name, only) != 0);
	const char *why = NULL;
	bool survived = false;

	do {
		struct run run = { .setup = setup };
		why = run_once(&run, &survived);
	} while ((why || !survived) && --tries > 0);
	if (why || !survived) {
		printf("FAIL %s: with no fault at all: %s\n%s", setup->name,
		       why ? why : "its guest fails", log_text);
		nr_failed++;
		return;
	}
	unsigned int found = nr_points;
	for (unsigned int i = first; i < found && !known; i++) {
		if (errors_of(&points[i])[0])
			try_all(setup, &points[i]);
		else
			tell("cannot fail", setup, &points[i]);
	}
	printf("%s: %u new points, %.1f s\n", setup->name, found - first,
	       (double)(now_ms() - began) / 1000);
	(void)fflush(stdout);
}

/* What is started, and what only runs */

#define NO_DRIVERS "--memory|64M|--cmdline|end=0 status=0"
#define DRIVERS "--memory|64M|--cmdline|cpus=1 memory=67108864 "

static const struct setup start_setups[] = {
	{ "everything", "power",
	  NO_DRIVERS "|--cpus|2|--initrd|initrd|--balloon|stats=1,reporting=on|--rng|on|--disk|"
		     "path=disk|--qmp|unix:qmp|--serial|stdio|--console|unix=console|--events|"
		     "events|--metrics|metrics|--timeout|300",
	  .fakes = true },
	{ "files", "power",
	  "--memory|64M,backing=memfd|--serial|file=serial|--disk|path=disk,readonly=on,direct=on|"
	  "--trace|trace",
	  .fakes = true },
	{ "passt", "power", NO_DRIVERS "|--net|passt", "/usr/bin/passt", .fakes = true },
};

static const struct setup run_setups[] = {
	{ "start", "power", NO_DRIVERS "|--rng|on|--disk|path=disk", .known = true },
	{ "reboot", "rng", DRIVERS "part=reboot|--rng|on", .tests = true },
	{ "interrupts", "rng", DRIVERS "part=rings|--rng|on", .tests = true,
	  .takes_long = true },
	{ "disk", "blk", DRIVERS "part=transfer|--disk|path=disk,serial=mest1", .tests = true,
	  .takes_long = true },
};

static const struct setup device_setups[] = {
	{ "without it", "power", NO_DRIVERS "|--balloon|policy=coordinated", .known = true },
	{ "with it", "power", NO_DRIVERS "|--balloon|policy=coordinated" },
};

static void find_group(void)
{
	char path[96];
	char name[32];

	(void)snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/iommu_group", device);
	if (file_link_name(path, name, sizeof(name)) < 0)
		die(path);
	(void)snprintf(group_path, sizeof(group_path), "/dev/vfio/%s", name);
}

static void prepare(void)
{
	if (!mkdtemp(folder) || chdir(folder) < 0 || !make_file("disk", DISK_SIZE, true) ||
	    !make_file("initrd", 4096, false))
		die(folder);
	if (openpty(&master, &terminal, NULL, NULL, NULL) < 0 ||
	    fcntl(master, F_SETFD, FD_CLOEXEC) < 0 ||
	    prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) < 0)
		die("terminal");
}

static void clean_up(void)
{
	(void)left_in_folder();
	for (unsigned int i = 0; i < nitems(wanted); i++)
		(void)unlink(wanted[i]);
	if (chdir("/") == 0)
		(void)rmdir(folder);
}

int main(int argc, char **argv)
{
	static char paths[2][PATH_MAX];

	if (argc != 4 || !realpath(argv[1], paths[0]) || !realpath(argv[2], paths[1])) {
		fprintf(stderr, "usage: faults BALLAST FOLDER-OF-GUESTS start|run|BDF\n");
		return 2;
	}
	ballast = paths[0];
	guests = paths[1];
	only = getenv("FAULTS");
	all = only;
	if (all && strcmp(only, "all") == 0)
		only = NULL;
	const struct setup *setups = start_setups;
	unsigned int nr_setups = nitems(start_setups);
	if (strcmp(argv[3], "run") == 0) {
		setups = run_setups;
		nr_setups = nitems(run_setups);
	} else if (strcmp(argv[3], "start") != 0) {
		device = argv[3];
		find_group();
		setups = device_setups;
		nr_setups = nitems(device_setups);
	}
	if (!setups->fakes && access("/dev/kvm", R_OK | W_OK) < 0) {
		printf("faults: skipped: /dev/kvm: %s\n", strerror(errno));
		return EXIT_SKIPPED;
	}
	prepare();
	(void)atexit(clean_up);
	for (unsigned int i = 0; i < nr_setups; i++) {
		const char *program = setups[i].program;
		if ((!program || access(program, X_OK) == 0) && (all || !setups[i].takes_long))
			do_setup(&setups[i]);
	}
	printf("fault points tried %u, survived %u, refused %u\n", nr_tried, nr_survived,
	       nr_refused);
	/* Some depend on how threads meet; most do not. */
	if (nr_tried < LEAST || nr_missed > nr_tried / 10) {
		printf("FAIL: %u points were tried, %u not met again\n", nr_tried, nr_missed);
		nr_failed++;
	}
	return nr_failed > 0;
}
