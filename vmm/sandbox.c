/* SPDX-License-Identifier: MIT */
#include "vmm/sandbox.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <jansson.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <termios.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include <linux/capability.h>
#include <linux/if_tun.h>
#include <linux/kvm.h>
#include <linux/landlock.h>
#include <linux/vfio.h>
#include <linux/vhost.h>

#include "base/bits.h"
#include "base/log.h"
#include "base/sanitizer.h"

#include "vmm/figures.h"
#include "vmm/vcpu.h"

/* The list */

#define VCPU (1u << SANDBOX_VCPU)
#define LOOP (1u << SANDBOX_EVENT_LOOP)
#define BOTH (VCPU | LOOP)

/* In the place of an argument that is not known before the start. No fd or pid looks like them. */
#define OURSELVES UINT64_MAX
#define A_FOLDER (UINT64_MAX - 1) /* of metrics, or of a socket */
#define METRICS_FOLDER (UINT64_MAX - 2)
#define THE_KICK (UINT64_MAX - 3)

struct rule {
	unsigned int roles;
	int number;
	const char *why;
	struct scmp_arg_cmp args[2];
	unsigned int nr_args;
};

#define CALL(name) .number = SCMP_SYS(name)
#define ARG(index, value)                                         \
	{                                                         \
		.arg = index, .op = SCMP_CMP_EQ, .datum_a = value \
	}
#define IF(index, value) .args = { ARG(index, value) }, .nr_args = 1
#define IF_BOTH(index, value, index2, value2) \
	.args = { ARG(index, value), ARG(index2, value2) }, .nr_args = 2
#define IF_NOT(index, bits)                                                                    \
	.args = { { .arg = index, .op = SCMP_CMP_MASKED_EQ, .datum_a = bits, .datum_b = 0 } }, \
	.nr_args = 1
#define IOCTL(request) CALL(ioctl), IF(1, request)

static const struct rule rules[] = {
	/* The guest */
	{ VCPU, IOCTL(KVM_RUN), .why = "to run it" },
	{ BOTH, IOCTL(KVM_GET_REGS), .why = "a crash is told with its registers" },
	{ BOTH, IOCTL(KVM_GET_SREGS), .why = "likewise" },
	{ BOTH, IOCTL(KVM_SET_USER_MEMORY_REGION), .why = "BARs that are mapped move" },
	{ BOTH, IOCTL(KVM_SET_GSI_ROUTING), .why = "MSI messages change" },
	{ BOTH, IOCTL(KVM_IRQFD), .why = "interrupts are connected as drivers want them" },
	{ BOTH, IOCTL(KVM_IOEVENTFD), .why = "so are the doorbells of queues" },
	{ LOOP, IOCTL(KVM_SET_REGS), .why = "a reset puts all of a vCPU back" },
	{ LOOP, IOCTL(KVM_SET_SREGS), .why = "likewise" },
	{ LOOP, IOCTL(KVM_SET_XCRS), .why = "likewise" },
	{ LOOP, IOCTL(KVM_SET_XSAVE), .why = "likewise" },
	{ LOOP, IOCTL(KVM_SET_MSRS), .why = "likewise" },
	{ LOOP, IOCTL(KVM_SET_DEBUGREGS), .why = "likewise" },
	{ LOOP, IOCTL(KVM_SET_LAPIC), .why = "likewise" },
	{ LOOP, IOCTL(KVM_SET_VCPU_EVENTS), .why = "likewise" },
	{ LOOP, IOCTL(KVM_SET_MP_STATE), .why = "likewise" },
	{ LOOP, IOCTL(KVM_SET_IRQCHIP), .why = "and the IOAPIC" },
	{ LOOP, IOCTL(KVM_KVMCLOCK_CTRL), .why = "a guest that was stopped is told" },
	{ LOOP, IOCTL(KVM_CREATE_DEVICE), .why = "with the first group: what knows of groups" },
	{ LOOP, IOCTL(KVM_SET_DEVICE_ATTR), .why = "a group comes, or leaves KVM" },

	/* Assigned devices */
	{ BOTH, CALL(pread64), .why = "their config space and BARs; a kernel, loaded again" },
	{ BOTH, CALL(pwrite64), .why = "likewise; a file of metrics" },
	{ BOTH, IOCTL(VFIO_IOMMU_MAP_DMA),
	  .why = "BARs that move; memory a balloon gives back" },
	{ BOTH, IOCTL(VFIO_IOMMU_UNMAP_DMA), .why = "likewise; memory it takes" },
	{ BOTH, IOCTL(VFIO_DEVICE_SET_IRQS),
	  .why = "interrupts are set up as the driver does" },
	{ LOOP, IOCTL(VFIO_DEVICE_RESET), .why = "with the guest's reset" },
	{ LOOP, IOCTL(VFIO_DEVICE_GET_PCI_HOT_RESET_INFO), .why = "likewise, of a whole bus" },
	{ LOOP, IOCTL(VFIO_DEVICE_PCI_HOT_RESET), .why = "likewise" },
	{ LOOP, IOCTL(VFIO_GROUP_UNSET_CONTAINER), .why = "a group leaves; at the end" },
	/* One that joins a guest which runs. Its nodes come over the control socket. */
	{ LOOP, IOCTL(VFIO_GET_API_VERSION), .why = "a container of a group that joins" },
	{ LOOP, IOCTL(VFIO_CHECK_EXTENSION), .why = "likewise" },
	{ LOOP, IOCTL(VFIO_SET_IOMMU), .why = "likewise" },
	{ LOOP, IOCTL(VFIO_IOMMU_GET_INFO), .why = "likewise: what it translates" },
	{ LOOP, IOCTL(VFIO_GROUP_GET_STATUS), .why = "a group that joins: is it viable?" },
	{ LOOP, IOCTL(VFIO_GROUP_SET_CONTAINER), .why = "it gets its container" },
	{ LOOP, IOCTL(VFIO_GROUP_GET_DEVICE_FD), .why = "and its device is opened" },
	{ LOOP, IOCTL(VFIO_DEVICE_GET_INFO), .why = "which is asked what it is" },
	{ LOOP, IOCTL(VFIO_DEVICE_GET_REGION_INFO), .why = "likewise: its BARs" },
	{ LOOP, IOCTL(VFIO_DEVICE_GET_IRQ_INFO), .why = "likewise: its interrupts" },

	/* Memory: the balloon's, and malloc's. None of it is ever to be executed. */
	{ BOTH, CALL(madvise), .why = "the balloon discards and populates; malloc trims" },
	{ BOTH, CALL(fallocate), .why = "the balloon discards from a memfd" },
	{ BOTH, CALL(mmap), IF_NOT(2, PROT_EXEC), .why = "malloc" },
	{ BOTH, CALL(munmap), .why = "malloc; BARs, rings and stacks at the end" },
	{ BOTH, CALL(mremap), .why = "malloc: realloc of what is large" },
	{ BOTH, CALL(brk), .why = "malloc" },
	{ BOTH, CALL(sysinfo),
	  .why = "qsort: how large a buffer may be; the policy: the host's memory" },
	{ LOOP, CALL(capget), .why = "the policy is changed: whether enough can be locked" },
	{ BOTH, CALL(prlimit64), IF_BOTH(0, 0, 2, 0),
	  .why = "likewise; which limit a refused mapping met" },

	/* Events, disks, network, consoles, control socket */
	{ BOTH, CALL(read), .why = "eventfds, timers, signals, consoles" },
	{ BOTH, CALL(write), .why = "eventfds, consoles, the log, events" },
	{ BOTH, CALL(readv), .why = "a tap" },
	{ BOTH, CALL(writev), .why = "a tap" },
	{ BOTH, CALL(pwritev), .why = "small writes to a disk on tmpfs" },
	{ BOTH, CALL(sendto), .why = "console and control sockets" },
	{ BOTH, CALL(recvfrom), .why = "passt" },
	{ LOOP, CALL(recvmsg), .why = "the control socket, and fds that come by it" },
	{ BOTH, CALL(sendmsg), .why = "passt" },
	{ BOTH, CALL(poll),
	  .why = "whether a console has room; whether an interrupt is pending" },
	{ BOTH, CALL(eventfd2), .why = "an interrupt that a driver uses for the first time" },
	{ BOTH, CALL(close), .why = "what was open" },
	{ BOTH, CALL(epoll_ctl), .why = "what is waited for" },
	{ LOOP, CALL(epoll_wait), .why = "to wait for it" },
	{ BOTH, CALL(timerfd_settime),
	  .why = "balloon, console and control socket wait a while" },
	{ BOTH, CALL(io_uring_enter),
	  .why = "disks; the ring itself refuses all but their work" },
	{ LOOP, CALL(lseek), .why = "a disk's size, which may change" },
	{ BOTH, CALL(getrandom), .why = "entropy for the guest; jansson's and malloc's seeds" },
	{ LOOP, CALL(accept4), .why = "clients of console and control sockets" },
	{ LOOP, CALL(fcntl), IF(1, F_DUPFD_CLOEXEC),
	  .why = "a console's client, to be written to" },
	{ LOOP, IOCTL(TIOCGWINSZ), .why = "the terminal's window has another size" },
	{ LOOP, IOCTL(TCSETS), .why = "at the end: the terminal is put back" },
	{ LOOP, IOCTL(TCGETS), .why = "likewise: libc looks whether it was" },
	{ BOTH, IOCTL(TUNSETOFFLOAD), .why = "a driver of a tap's card starts or stops" },
	{ BOTH, IOCTL(TUNSETQUEUE), .why = "likewise, with several queues" },
	{ BOTH, IOCTL(VHOST_SET_FEATURES), .why = "likewise, with vhost" },
	{ BOTH, IOCTL(VHOST_SET_VRING_NUM), .why = "likewise: a queue" },
	{ BOTH, IOCTL(VHOST_SET_VRING_BASE), .why = "likewise" },
	{ BOTH, IOCTL(VHOST_GET_VRING_BASE), .why = "likewise" },
	{ BOTH, IOCTL(VHOST_SET_VRING_ADDR), .why = "likewise" },
	{ BOTH, IOCTL(VHOST_SET_VRING_KICK), .why = "likewise" },
	{ BOTH, IOCTL(VHOST_SET_VRING_CALL), .why = "likewise" },
	{ BOTH, IOCTL(VHOST_SET_VRING_ERR), .why = "likewise" },
	{ BOTH, IOCTL(VHOST_NET_SET_BACKEND), .why = "likewise" },
	{ LOOP, IOCTL(VHOST_SET_MEM_TABLE), .why = "at the end: RAM is taken from it" },

	/* Files: only in folders of the configuration, by descriptors; see lock_paths() */
	{ LOOP, CALL(openat), IF_BOTH(0, METRICS_FOLDER, 2, FIGURES_OPEN_FLAGS),
	  .why = "metrics are written anew" },
	{ LOOP, CALL(renameat), IF_BOTH(0, METRICS_FOLDER, 2, METRICS_FOLDER),
	  .why = "and replace the old" },
	{ LOOP, CALL(newfstatat), IF(0, A_FOLDER),
	  .why = "whether it is the file that we made" },
	{ LOOP, CALL(unlinkat), IF_BOTH(0, A_FOLDER, 2, 0),
	  .why = "at the end: sockets; old metrics" },

	/* Threads, signals, time */
	{ BOTH, CALL(futex), .why = "locks" },
	{ BOTH, CALL(clock_gettime), .why = "where the vDSO does not know the time" },
	{ BOTH, CALL(time), .why = "where there is no vDSO at all" },
	{ BOTH, CALL(rt_sigprocmask),
	  .why = "libc, round the signals it sends; the terminal is put back" },
	{ BOTH, CALL(rt_sigreturn), .why = "the kick of a vCPU; our own handler of SIGSYS" },
	{ BOTH, CALL(restart_syscall), .why = "the kernel's own, after a stop" },
	{ BOTH, CALL(getpid), .why = "libc, to send a signal" },
	{ BOTH, CALL(gettid), .why = "likewise" },
	{ LOOP, CALL(tgkill), IF_BOTH(0, OURSELVES, 2, THE_KICK), .why = "vCPUs are kicked" },
	{ BOTH, CALL(tgkill), IF_BOTH(0, OURSELVES, 2, SIGABRT), .why = "a failed assert" },
	{ BOTH, CALL(exit), .why = "its thread ends" },
	{ LOOP, CALL(exit_group), .why = "the program ends" },
	{ LOOP, CALL(pidfd_send_signal), .why = "at the end: passt, if we started it" },
	{ LOOP, CALL(wait4), .why = "likewise" },
};

void sandbox_count(enum sandbox_role role, unsigned int *ret_calls, unsigned int *ret_ioctls)
{
	*ret_calls = 0;
	*ret_ioctls = 0;
	for (unsigned int i = 0; i < nitems(rules); i++) {
		bool first = true;
		assert(rules[i].why);
		if (!(rules[i].roles & 1u << role))
			continue;
		for (unsigned int before = 0; before < i; before++)
			first = first && !((rules[before].roles & 1u << role) &&
					   rules[before].number == rules[i].number);
		*ret_calls += first;
		*ret_ioctls += rules[i].number == SCMP_SYS(ioctl);
	}
}

/* Violations */

#define NR_NAMES 512u
#define BY_SECCOMP 1 /* SYS_SECCOMP of the kernel's siginfo.h, which libc has not */

/*
 * What the signal handler has to go by: it may ask nobody. Made once, by the thread that has no
 * other beside it yet, and kept; the strings are libseccomp's.
 */
static char *names[NR_NAMES];
static _Thread_local char own_name[16]; /* the thread's */

static void name_calls(void)
{
	for (unsigned int i = 0; i < NR_NAMES; i++) {
		if (!names[i])
			names[i] = seccomp_syscall_resolve_num_arch(SCMP_ARCH_NATIVE, (int)i);
	}
}

/* snprintf() is not for signal handlers. */
static void append(char *line, size_t size, const char *text)
{
	size_t n = strlen(line);

	for (; *text && n + 1 < size; text++)
		line[n++] = *text;
	line[n] = '\0';
}

static void append_number(char *line, size_t size, uint64_t value, unsigned int base)
{
	char digits[24] = { 0 };
	char *p = digits + sizeof(digits) - 1;

	do {
		*--p = "0123456789abcdef"[value % base];
		value /= base;
	} while (value > 0);
	append(line, size, p);
}

static void tell(const char *line)
{
	if (write(STDERR_FILENO, line, strlen(line)) < 0) {
		/* stderr is gone: there is nobody left to tell */
	}
}

/*
 * The kernel has put SIGSYS back to its default (SA_RESETHAND), which nobody can change any more.
 * So the same call, made once more as we return, is the death of the process, and what a core
 * dump shows. Who has sent the signal (kill -SYS) has broken no rule, but it is as deadly: it is
 * sent once more, which is not on the list and so the end of it as well.
 */
static void violated(int signal, siginfo_t *info, void *context)
{
	ucontext_t *at = context;
	unsigned int number = (unsigned int)info->si_syscall;
	char line[160] = "E sandbox: ";

	if (info->si_code != BY_SECCOMP) {
		tell("E sandbox: somebody has sent SIGSYS: stopping\n");
		(void)raise(signal);
		return;
	}
	append(line, sizeof(line), own_name);
	append(line, sizeof(line), ": system call ");
	append(line, sizeof(line), number < NR_NAMES && names[number] ? names[number] : "?");
	append(line, sizeof(line), " (");
	append_number(line, sizeof(line), number, 10);
	if (number == SYS_ioctl) {
		append(line, sizeof(line), ", request 0x");
		append_number(line, sizeof(line), (uint64_t)at->uc_mcontext.gregs[REG_RSI], 16);
	}
	append(line, sizeof(line), ") is not on its list: stopping\n");
	tell(line);
	at->uc_mcontext.gregs[REG_RIP] -= 2; /* the length of SYSCALL */
}

/* Filters */

/* Puts what is known by now in its place. False: there is no such folder, and so no such call. */
static bool fill_in(const struct sandbox_config *config, int folder, struct scmp_arg_cmp *arg)
{
	switch (arg->datum_a) {
	case OURSELVES: arg->datum_a = (uint64_t)getpid(); return true;
	case THE_KICK: arg->datum_a = (uint64_t)VCPU_KICK_SIGNAL; return true;
	case METRICS_FOLDER: folder = config->metrics; break;
	case A_FOLDER: break;
	default: return true;
	}
	arg->datum_a = (uint64_t)folder;
	return folder >= 0;
}

static int add_rule(scmp_filter_ctx filter, const struct sandbox_config *config,
		    const struct rule *rule)
{
	bool per_folder = rule->args[0].datum_a == A_FOLDER;
	int r = 0;

	for (unsigned int i = 0; i <= (per_folder ? SANDBOX_NR_SOCKETS : 0) && r >= 0; i++) {
		int folder = i == 0 ? config->metrics : config->sockets[i - 1];
		struct scmp_arg_cmp args[nitems(rule->args)] = { rule->args[0], rule->args[1] };
		bool applies = true;
		for (unsigned int a = 0; a < rule->nr_args; a++)
			applies = fill_in(config, folder, &args[a]) && applies;
		if (applies)
			r = seccomp_rule_add_array(filter, SCMP_ACT_ALLOW, rule->number,
						   rule->nr_args, args);
	}
	return r;
}

static int make_filter(struct sandbox *s, enum sandbox_role role)
{
	scmp_filter_ctx filter =
		seccomp_init(s->config.mode == SANDBOX_LOG ? SCMP_ACT_LOG : SCMP_ACT_TRAP);

	if (!filter)
		return -ENOMEM;
	s->filters[role] = filter;
	int r = seccomp_attr_set(filter, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS);
	if (r >= 0) /* the kernel's own errors, please */
		r = seccomp_attr_set(filter, SCMP_FLTATR_API_SYSRAWRC, 1);
	if (r >= 0) /* KVM_RUN is what it is asked most */
		r = seccomp_syscall_priority(filter, SCMP_SYS(ioctl), UINT8_MAX);
	for (unsigned int i = 0; i < nitems(rules) && r >= 0; i++) {
		if (rules[i].roles & 1u << role)
			r = add_rule(filter, &s->config, &rules[i]);
	}
	return r;
}

int sandbox_init(struct sandbox *s, const struct sandbox_config *config)
{
	const struct sigaction action = { .sa_sigaction = violated,
					  .sa_flags = SA_SIGINFO | SA_RESETHAND };
	int r = 0;

	*s = (struct sandbox){ .config = *config };
	if (config->mode != SANDBOX_OFF && __sanitizer_set_report_fd) {
		/* To look for leaks, and for each report, it opens files, starts and traces tasks. */
		log_debug("sandbox: off: this build has a sanitizer in it");
		s->config.mode = SANDBOX_OFF;
	}
	if (s->config.mode == SANDBOX_OFF)
		return 0;
	/* What libraries open when they first need it: the time zone, a seed. */
	tzset();
	json_object_seed(0);
	/* With an arena of a thread's own malloc opens a file of /proc when that first shrinks. */
	(void)mallopt(M_ARENA_MAX, 1); /* no failure is known of this one */
	name_calls();
	if (sigaction(SIGSYS, &action, NULL) < 0)
		r = -errno;
	for (unsigned int role = 0; role < SANDBOX_NR_ROLES && r >= 0; role++)
		r = make_filter(s, role);
	if (r >= 0)
		return 0;
	sandbox_finish(s);
	return log_err(r, "sandbox: making the filters");
}

void sandbox_finish(struct sandbox *s)
{
	for (unsigned int role = 0; role < SANDBOX_NR_ROLES; role++) {
		if (s->filters[role])
			seccomp_release(s->filters[role]);
	}
	*s = (struct sandbox){ .config.mode = s->config.mode };
}

int sandbox_enter(const struct sandbox *s, enum sandbox_role role, const char *thread)
{
	if (s->config.mode == SANDBOX_OFF)
		return 0;
	(void)snprintf(own_name, sizeof(own_name), "%s", thread);
	int r = seccomp_load(s->filters[role]);
	return r < 0 ? log_err(r,
			       "sandbox: the filter of %s (a kernel without seccomp? "
			       "--sandbox off goes without)",
			       thread)
		     : 0;
}

/* Privileges */

/*
 * Whether so much memory can be locked for devices without privileges. The limit is raised as long
 * as there are some: it counts by process, with what is locked already.
 */
static bool may_lock(uint64_t size)
{
	struct rlimit limit = { RLIM_INFINITY, RLIM_INFINITY };

	if (setrlimit(RLIMIT_MEMLOCK, &limit) == 0)
		return true;
	if (getrlimit(RLIMIT_MEMLOCK, &limit) < 0)
		return false;
	limit.rlim_cur = limit.rlim_max;
	return setrlimit(RLIMIT_MEMLOCK, &limit) == 0 && limit.rlim_max >= size;
}

static int become(const struct sandbox_user *user)
{
	if (!user->name)
		return 0;
	/* The user may be who it is already, without the right to change anything. */
	if (setgroups(0, NULL) < 0 && !(errno == EPERM && geteuid() == user->uid))
		return -errno;
	if (setresgid(user->gid, user->gid, user->gid) < 0 ||
	    setresuid(user->uid, user->uid, user->uid) < 0)
		return -errno;
	return 0;
}

/* Not even an exec, of which there is none, gives any back. */
static int empty_bounding_set(void)
{
	for (unsigned int i = 0; prctl(PR_CAPBSET_READ, i, 0, 0, 0) >= 0; i++) {
		if (prctl(PR_CAPBSET_DROP, i, 0, 0, 0) == 0)
			continue;
		/* Without CAP_SETPCAP there is hardly anything to lose. */
		return errno == EPERM ? 0 : -errno;
	}
	return 0;
}

/* All but `kept`, a mask, of which those that are there stay. */
static int drop_capabilities(uint32_t kept)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = { 0 };

	if (syscall(SYS_capget, &header, data) < 0)
		return -errno;
	kept &= data[0].permitted;
	data[0] = (struct __user_cap_data_struct){ .permitted = kept, .effective = kept };
	data[1] = (struct __user_cap_data_struct){ 0 };
	return syscall(SYS_capset, &header, data) < 0 ? -errno : 0;
}

static int drop_privileges(const struct sandbox_config *config)
{
	/* To map memory for a device beyond the limit is the one thing that takes one later. */
	bool keeps = config->locks > 0 && !may_lock(config->locks);

	int r = empty_bounding_set();
	if (r >= 0 && keeps && prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) < 0)
		r = -errno;
	if (r >= 0)
		r = become(&config->user);
	if (r >= 0)
		r = drop_capabilities(keeps ? 1u << CAP_IPC_LOCK : 0);
	if (r >= 0 && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		r = -errno;
	return r;
}

/* Paths */

static int open_way(int ruleset, int folder, uint64_t access)
{
	const struct landlock_path_beneath_attr way = { .allowed_access = access,
							.parent_fd = folder };

	if (folder < 0)
		return 0;
	return syscall(SYS_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, &way, 0) < 0
		       ? -errno
		       : 0;
}

/* What the filters alone then leave open; with no folder they leave nothing. */
static void tell_no_landlock(const struct sandbox_config *config)
{
	bool has_folder = config->metrics >= 0;

	for (unsigned int i = 0; i < SANDBOX_NR_SOCKETS; i++)
		has_folder = has_folder || config->sockets[i] >= 0;
	if (has_folder)
		log_warn("sandbox: this kernel has no Landlock, which would keep --metrics and "
			 "sockets to their folders: going on without");
	else
		log_debug("sandbox: this kernel has no Landlock: going on without");
}

/*
 * What seccomp does not see: an absolute path leads out of the folder whose descriptor is given. So
 * nothing below / can be reached but what is in or below those folders. What is open stays so.
 */
static int lock_paths(const struct sandbox_config *config)
{
	struct landlock_ruleset_attr attr = { .handled_access_fs =
						      LANDLOCK_ACCESS_FS_MAKE_SYM * 2 - 1 };
	long abi =
		syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);

	if (abi < 0) {
		tell_no_landlock(config);
		return 0;
	}
	if (abi >= 2)
		attr.handled_access_fs |= LANDLOCK_ACCESS_FS_REFER;
	autoclose int ruleset =
		(int)syscall(SYS_landlock_create_ruleset, &attr, sizeof(attr), 0);
	int r = ruleset < 0 ? -errno : 0;
	if (r >= 0)
		r = open_way(ruleset, config->metrics,
			     LANDLOCK_ACCESS_FS_MAKE_REG | LANDLOCK_ACCESS_FS_WRITE_FILE |
				     LANDLOCK_ACCESS_FS_REMOVE_FILE);
	for (unsigned int i = 0; i < SANDBOX_NR_SOCKETS && r >= 0; i++)
		r = open_way(ruleset, config->sockets[i], LANDLOCK_ACCESS_FS_REMOVE_FILE);
	if (r >= 0 && syscall(SYS_landlock_restrict_self, ruleset, 0) < 0)
		r = -errno;
	return r;
}

int sandbox_drop(const struct sandbox *s)
{
	const struct sandbox_config *config = &s->config;
	const char *name = config->user.name;

	if (config->mode == SANDBOX_OFF && !name)
		return 0;
	int r = drop_privileges(config);
	if (r < 0)
		return log_err(r, "sandbox: giving up privileges%s%s", name ? ", --user " : "",
			       name ? name : "");
	if (config->mode == SANDBOX_ON)
		r = lock_paths(config);
	return r < 0 ? log_err(r, "sandbox: shutting off paths") : 0;
}
