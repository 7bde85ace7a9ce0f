/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <pthread.h>
#include <pwd.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <linux/capability.h>
#include <linux/kvm.h>
#include <linux/landlock.h>
#include <linux/vfio.h>
#include <linux/vhost.h>

#include "base/fd.h"
#include "base/log.h"
#include "base/sanitizer.h"

#include "tests/fakes/process.h"
#include "vmm/figures.h"
#include "vmm/sandbox.h"
#include "vmm/vcpu.h"

#define NO_FOLDERS .metrics = -1, .sockets = { -1, -1, -1 }

/* The step that fails, counted over all that are caught; 0: none does. */
static unsigned int fail_at, nr_steps;
static struct sandbox sandbox;

static char folder[] = "/tmp/ballast-sandbox-XXXXXX";
static int status_fd;

scmp_filter_ctx __real_seccomp_init(uint32_t action);
scmp_filter_ctx __wrap_seccomp_init(uint32_t action);
int __real_seccomp_rule_add_array(scmp_filter_ctx filter, uint32_t action, int number,
				  unsigned int nr, const struct scmp_arg_cmp *args);
int __wrap_seccomp_rule_add_array(scmp_filter_ctx filter, uint32_t action, int number,
				  unsigned int nr, const struct scmp_arg_cmp *args);
int __real_seccomp_load(scmp_filter_ctx filter);
int __wrap_seccomp_load(scmp_filter_ctx filter);
int __real_setgroups(size_t nr, const gid_t *groups);
int __wrap_setgroups(size_t nr, const gid_t *groups);
int __real_setresgid(gid_t a, gid_t b, gid_t c);
int __wrap_setresgid(gid_t a, gid_t b, gid_t c);
int __real_setresuid(uid_t a, uid_t b, uid_t c);
int __wrap_setresuid(uid_t a, uid_t b, uid_t c);
int __real_setrlimit64(int resource, const struct rlimit64 *limit);
int __wrap_setrlimit64(int resource, const struct rlimit64 *limit);
int __real_prctl(int option, unsigned long a, unsigned long b, unsigned long c,
		 unsigned long d);
int __wrap_prctl(int option, unsigned long a, unsigned long b, unsigned long c,
		 unsigned long d);
long __real_syscall(long number, long a, long b, long c, long d, long e, long f);
long __wrap_syscall(long number, long a, long b, long c, long d, long e, long f);

static bool fails(void)
{
	errno = ENOMEM;
	return ++nr_steps == fail_at;
}

scmp_filter_ctx __wrap_seccomp_init(uint32_t action)
{
	return fails() ? NULL : __real_seccomp_init(action);
}

int __wrap_seccomp_rule_add_array(scmp_filter_ctx filter, uint32_t action, int number,
				  unsigned int nr, const struct scmp_arg_cmp *args)
{
	return fails() ? -ENOMEM
		       : __real_seccomp_rule_add_array(filter, action, number, nr, args);
}

int __wrap_seccomp_load(scmp_filter_ctx filter)
{
	return fails() ? -ENOMEM : __real_seccomp_load(filter);
}

int __wrap_setgroups(size_t nr, const gid_t *groups)
{
	return fails() ? -1 : __real_setgroups(nr, groups);
}

int __wrap_setresgid(gid_t a, gid_t b, gid_t c)
{
	return fails() ? -1 : __real_setresgid(a, b, c);
}

int __wrap_setresuid(uid_t a, uid_t b, uid_t c)
{
	return fails() ? -1 : __real_setresuid(a, b, c);
}

static bool limit_stays;

/* That one stays is no failure. */
int __wrap_setrlimit64(int resource, const struct rlimit64 *limit)
{
	if (resource == RLIMIT_MEMLOCK && limit_stays) {
		errno = EPERM;
		return -1;
	}
	return __real_setrlimit64(resource, limit);
}

/* To look at the bounding set, which ends it, is no step. */
int __wrap_prctl(int option, unsigned long a, unsigned long b, unsigned long c, unsigned long d)
{
	return option != PR_CAPBSET_READ && fails() ? -1 : __real_prctl(option, a, b, c, d);
}

static bool no_landlock;

/* Nor is it to ask whether there is a Landlock, without which it goes on. */
long __wrap_syscall(long number, long a, long b, long c, long d, long e, long f)
{
	bool asks = number == SYS_landlock_create_ruleset && a == 0;

	if (asks && no_landlock) {
		errno = EOPNOTSUPP;
		return -1;
	}
	return !asks && fails() ? -1 : __real_syscall(number, a, b, c, d, e, f);
}

static void setup(void)
{
	const struct rlimit no_core = { 0, 0 };

	(void)setrlimit(RLIMIT_CORE, &no_core);
	process_keep_log();
	ck_assert_ptr_nonnull(mkdtemp(folder));
	status_fd = open("/proc/self/status", O_RDONLY | O_CLOEXEC);
}

static void teardown(void)
{
	sandbox_finish(&sandbox);
	sandbox_finish(&sandbox);
	(void)rmdir(folder);
}

static int init(struct sandbox_config config)
{
	return sandbox_init(&sandbox, &config);
}

/* What becomes of a process whose only thread has that role and does `act`, which may end it. */
static int play(enum sandbox_role role, struct sandbox_config config, void (*act)(void))
{
	int status = -1;

	pid_t pid = fork();
	if (pid == 0) {
		if (init(config) < 0 || sandbox_enter(&sandbox, role, "somebody") < 0)
			_exit(99);
		act();
		_exit(0);
	}
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	return status;
}

static void expect_killed(int status, int signal)
{
	ck_assert_msg(WIFSIGNALED(status) && WTERMSIG(status) == signal, "%d: %s", status,
		      process_log());
}

static void expect_exit(int status, int code)
{
	ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == code, "%d: %s", status,
		      process_log());
}

static const struct sandbox_config on = { .mode = SANDBOX_ON, NO_FOLDERS };

/* Unlisted */

static void makes_socket(void)
{
	(void)socket(AF_INET, SOCK_STREAM, 0);
}

static void opens(void)
{
	(void)open("/etc/passwd", O_RDONLY);
}

static void executes(void)
{
	(void)execl("/bin/true", "true", NULL);
}

static void forks(void)
{
	(void)fork();
}

static void handles_signals(void)
{
	(void)signal(SIGSYS, SIG_IGN);
}

static void types_on_the_terminal(void)
{
	(void)ioctl(STDIN_FILENO, TIOCSTI, "x");
}

static void makes_another_vm(void)
{
	(void)ioctl(STDIN_FILENO, KVM_CREATE_VM, 0);
}

static void runs_a_vcpu(void)
{
	(void)ioctl(STDIN_FILENO, KVM_RUN, 0);
}

static void sets_registers(void)
{
	(void)ioctl(STDIN_FILENO, KVM_SET_REGS, NULL);
}

static void asks_an_iommu(void)
{
	(void)ioctl(STDIN_FILENO, VFIO_IOMMU_GET_INFO, NULL);
}

static void tells_vhost_of_memory(void)
{
	(void)ioctl(STDIN_FILENO, VHOST_SET_MEM_TABLE, NULL);
}

static void waits_for_events(void)
{
	(void)syscall(SYS_epoll_wait, -1, NULL, 0, 0);
}

static void maps_code(void)
{
	(void)mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

static void makes_code(void)
{
	(void)mprotect(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC);
}

static pid_t parent; /* not to be asked for any more */

static void kills_others(void)
{
	(void)syscall(SYS_tgkill, parent, parent, VCPU_KICK_SIGNAL);
}

static void kills_itself(void)
{
	(void)syscall(SYS_tgkill, getpid(), gettid(), SIGKILL);
}

static void raises_a_limit(void)
{
	const struct rlimit limit = { RLIM_INFINITY, RLIM_INFINITY };

	(void)setrlimit(RLIMIT_CORE, &limit);
}

static void removes(void)
{
	(void)unlinkat(AT_FDCWD, "/nothing", 0);
}

static void makes_a_ring(void)
{
	(void)syscall(SYS_io_uring_setup, 1, NULL);
}

static void gets_a_number_nobody_has(void)
{
	(void)syscall(500);
}

#define BOTH_ROLES ((1u << SANDBOX_VCPU) | (1u << SANDBOX_EVENT_LOOP))

static const struct {
	unsigned int roles;
	void (*act)(void);
	const char *call;
} violations[] = {
	{ BOTH_ROLES, makes_socket, "system call socket (41) is not on its list" },
	{ BOTH_ROLES, opens, "system call openat (257) is" },
	{ BOTH_ROLES, executes, "system call execve (59) is" },
	{ BOTH_ROLES, forks, "system call clone (56) is" },
	{ BOTH_ROLES, handles_signals, "system call rt_sigaction (13) is" },
	{ BOTH_ROLES, types_on_the_terminal, "system call ioctl (16, request 0x5412) is" },
	{ BOTH_ROLES, makes_another_vm, "system call ioctl (16, request 0xae01) is" },
	{ 1u << SANDBOX_EVENT_LOOP, runs_a_vcpu, "system call ioctl (16, request 0xae80) is" },
	{ 1u << SANDBOX_VCPU, sets_registers, "system call ioctl (16, request 0x4090ae82) is" },
	{ 1u << SANDBOX_VCPU, asks_an_iommu, "system call ioctl (16, request 0x3b70) is" },
	{ 1u << SANDBOX_VCPU, tells_vhost_of_memory,
	  "system call ioctl (16, request 0x4008af03) is" },
	{ 1u << SANDBOX_VCPU, waits_for_events, "system call epoll_wait (232) is" },
	{ BOTH_ROLES, maps_code, "system call mmap (9) is" },
	{ BOTH_ROLES, makes_code, "system call mprotect (10) is" },
	{ BOTH_ROLES, kills_others, "system call tgkill (234) is" },
	{ BOTH_ROLES, kills_itself, "system call tgkill (234) is" },
	{ BOTH_ROLES, raises_a_limit, "system call prlimit64 (302) is" },
	{ BOTH_ROLES, removes, "system call unlinkat (263) is" },
	{ BOTH_ROLES, makes_a_ring, "system call io_uring_setup (425) is" },
	{ BOTH_ROLES, gets_a_number_nobody_has, "system call ? (500) is" },
};

START_TEST(what_is_not_on_the_list_is_the_end_and_is_told)
{
	parent = getpid();
	for (unsigned int i = 0; i < nitems(violations); i++) {
		for (unsigned int role = 0; role < SANDBOX_NR_ROLES; role++) {
			if (!(violations[i].roles & 1u << role))
				continue;
			int status = play(role, on, violations[i].act);
			expect_killed(status, SIGSYS);
			char line[128];
			(void)snprintf(line, sizeof(line), "E sandbox: somebody: %s",
				       violations[i].call);
			process_expect_log(line);
		}
	}
}
END_TEST

static int sent_to(struct sandbox_config config, bool enters)
{
	int fds[2];
	int status = -1;
	char byte = 0;

	ck_assert_int_eq(pipe(fds), 0);
	pid_t pid = fork();
	if (pid == 0) {
		if (init(config) < 0 ||
		    (enters && sandbox_enter(&sandbox, SANDBOX_EVENT_LOOP, "somebody") < 0) ||
		    write(fds[1], "r", 1) != 1)
			_exit(99);
		for (;;)
			(void)poll(NULL, 0, -1);
	}
	ck_assert_int_eq(read(fds[0], &byte, 1), 1);
	ck_assert_int_eq(kill(pid, SIGSYS), 0);
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	close(fds[0]);
	close(fds[1]);
	return status;
}

START_TEST(one_that_somebody_sends_is_told_apart)
{
	struct sandbox_config logs = on;

	logs.mode = SANDBOX_LOG;
	const struct {
		struct sandbox_config config;
		bool enters;
	} cases[] = { { on, false }, { on, true }, { logs, true } };
	for (unsigned int i = 0; i < nitems(cases); i++) {
		expect_killed(sent_to(cases[i].config, cases[i].enters), SIGSYS);
		process_expect_log("E sandbox: somebody has sent SIGSYS: stopping");
	}
}
END_TEST

static void does_some_of_them(void)
{
	if (socket(AF_INET, SOCK_STREAM, 0) < 0 || open("/etc/passwd", O_RDONLY) < 0 ||
	    mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) ==
		    MAP_FAILED)
		_exit(1);
}

START_TEST(logged_they_are_let_through)
{
	struct sandbox_config config = on;

	config.mode = SANDBOX_LOG;
	int status = play(SANDBOX_EVENT_LOOP, config, does_some_of_them);
	expect_exit(status, 0);
	process_expect_no_log();
}
END_TEST

START_TEST(off_nothing_is_held_back)
{
	struct sandbox_config config = on;

	config.mode = SANDBOX_OFF;
	int status = play(SANDBOX_EVENT_LOOP, config, does_some_of_them);
	expect_exit(status, 0);
}
END_TEST

/* Listed */

static int compare_bytes(const void *a, const void *b)
{
	return *(const char *)a - *(const char *)b;
}

static void lives(void)
{
	struct rlimit limit;
	char *volatile large = malloc(1 << 20);
	void *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	time_t now = time(NULL);
	struct tm tm;

	if (!large || p == MAP_FAILED)
		abort();
	large = realloc(large, 4 << 20);
	if (!large || getrlimit(RLIMIT_MEMLOCK, &limit) < 0)
		abort();
	memset(large, 7, 65536);
	qsort(large, 65536, 1, compare_bytes);
	free(large);
	(void)gmtime_r(&now, &tm);
	json_decref(json_pack("{s:i}", "a", 1));
	log_info("alive");
	(void)syscall(SYS_exit, 7);
}

static void asserts(void)
{
	abort();
}

START_TEST(what_is_on_it_goes_on)
{
	for (unsigned int role = 0; role < SANDBOX_NR_ROLES; role++) {
		int status = play(role, on, lives);
		expect_exit(status, 7);
		process_expect_log("I alive");
		status = play(role, on, asserts);
		expect_killed(status, SIGABRT);
	}
}
END_TEST

/* Of all sizes, several times, so that it grows, and shrinks again. */
static void allocates(void)
{
	for (size_t size = 1000; size < 2 << 20; size *= 10) {
		char *blocks[20];
		for (unsigned int i = 0; i < nitems(blocks); i++) {
			blocks[i] = malloc(size);
			if (!blocks[i])
				abort();
			memset(blocks[i], 7, size);
		}
		for (unsigned int i = nitems(blocks); i-- > 0;)
			free(blocks[i]);
	}
}

static void *live_as(void *role)
{
	if (sandbox_enter(&sandbox, *(const enum sandbox_role *)role, "another") < 0)
		_exit(99);
	allocates();
	return role;
}

/* As vCPUs are: malloc has other ways in a thread that is not the first. */
START_TEST(memory_is_to_be_had_on_any_thread)
{
	for (enum sandbox_role role = 0; role < SANDBOX_NR_ROLES; role++) {
		int status = -1;
		pid_t pid = fork();
		if (pid == 0) {
			pthread_t thread;
			void *through = NULL;
			if (init(on) < 0 || pthread_create(&thread, NULL, live_as, &role) != 0)
				_exit(99);
			(void)pthread_join(thread, &through);
			_exit(through == &role ? 7 : 98);
		}
		ck_assert_int_eq(waitpid(pid, &status, 0), pid);
		expect_exit(status, 7);
	}
}
END_TEST

static int folder_fd;

static void writes_metrics(void)
{
	int fd = openat(folder_fd, "x.new", FIGURES_OPEN_FLAGS, 0644);

	if (fd < 0 || write(fd, "1\n", 2) != 2 || close(fd) < 0 ||
	    renameat(folder_fd, "x.new", folder_fd, "x") < 0 || unlinkat(folder_fd, "x", 0) < 0)
		abort();
}

static void reads_what_is_there(void)
{
	(void)openat(folder_fd, "x", O_RDONLY | O_CLOEXEC);
}

static void opens_where_it_is(void)
{
	(void)openat(AT_FDCWD, "x.new", FIGURES_OPEN_FLAGS, 0644);
}

static void renames_to_where_it_is(void)
{
	(void)renameat(folder_fd, "x.new", AT_FDCWD, "x");
}

static void removes_a_folder(void)
{
	(void)unlinkat(folder_fd, "x", AT_REMOVEDIR);
}

START_TEST(a_file_of_metrics_is_written_anew_and_none_is_opened)
{
	static const struct {
		enum sandbox_role role;
		void (*act)(void);
		const char *line;
	} refused[] = {
		{ SANDBOX_EVENT_LOOP, reads_what_is_there,
		  "somebody: system call openat (257)" },
		{ SANDBOX_EVENT_LOOP, opens_where_it_is, "somebody: system call openat (257)" },
		{ SANDBOX_EVENT_LOOP, renames_to_where_it_is,
		  "somebody: system call renameat (264)" },
		{ SANDBOX_EVENT_LOOP, removes, "somebody: system call unlinkat (263)" },
		{ SANDBOX_EVENT_LOOP, removes_a_folder,
		  "somebody: system call unlinkat (263)" },
		{ SANDBOX_VCPU, writes_metrics, "somebody: system call openat (257)" },
	};
	struct sandbox_config config = on;

	folder_fd = open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
	config.metrics = folder_fd;
	int status = play(SANDBOX_EVENT_LOOP, config, writes_metrics);
	expect_exit(status, 0);
	for (unsigned int i = 0; i < nitems(refused); i++) {
		status = play(refused[i].role, config, refused[i].act);
		expect_killed(status, SIGSYS);
		process_expect_log(refused[i].line);
	}
	/* Where sockets are nothing is opened at all. */
	config.metrics = -1;
	config.sockets[2] = folder_fd;
	status = play(SANDBOX_EVENT_LOOP, config, writes_metrics);
	expect_killed(status, SIGSYS);
	close(folder_fd);
}
END_TEST

/* Privileges */

/* A line of /proc/self/status, which was opened while it could be. */
static const char *status_of(const char *name)
{
	static char text[8192];

	ssize_t n = pread(status_fd, text, sizeof(text) - 1, 0);
	ck_assert_int_gt(n, 0);
	text[n] = '\0';
	char *line = strstr(text, name);
	ck_assert_ptr_nonnull(line);
	line += strlen(name);
	line[strcspn(line, "\n")] = '\0';
	return line + strspn(line, ": \t");
}

/* But for these capabilities. */
static void expect_no_privileges(const char *kept)
{
	ck_assert_str_eq(status_of("\nCapInh"), "0000000000000000");
	ck_assert_str_eq(status_of("\nCapAmb"), "0000000000000000");
	ck_assert_str_eq(status_of("\nCapPrm"), kept);
	ck_assert_str_eq(status_of("\nCapEff"), kept);
	ck_assert_str_eq(status_of("\nNoNewPrivs"), "1");
	if (geteuid() == 0)
		ck_assert_str_eq(status_of("\nCapBnd"), "0000000000000000");
}

START_TEST(privileges_are_gone)
{
	ck_assert_int_eq(init(on), 0);
	ck_assert_int_eq(rmdir(folder), 0); /* while it can be */
	ck_assert_int_eq(sandbox_drop(&sandbox), 0);
	process_expect_no_log();
	expect_no_privileges("0000000000000000");
}
END_TEST

static int socket_folder_fd;
static char elsewhere[64];

static void make_file(int at, const char *name)
{
	int fd = openat(at, name, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);

	ck_assert_int_ge(fd, 0);
	close(fd);
}

static void expect_no_way(int r)
{
	ck_assert_int_eq(r, -1);
	ck_assert_int_eq(errno, EACCES);
}

/* In a process of its own, as this one has to tidy up. */
static void reaches_its_folders_only(void)
{
	writes_metrics();
	expect_no_way(open("/etc/passwd", O_RDONLY));
	expect_no_way(openat(folder_fd, "/tmp/ballast-elsewhere", FIGURES_OPEN_FLAGS, 0644));
	expect_no_way(mkdirat(folder_fd, "sub", 0700));
	expect_no_way(unlinkat(folder_fd, elsewhere, 0));
	expect_no_way(renameat(folder_fd, elsewhere, folder_fd, "x"));
	expect_no_way(renameat(folder_fd, "kept", folder_fd, elsewhere));
	/* Where sockets are they are removed, and nothing else is done. */
	expect_no_way(openat(socket_folder_fd, "new", FIGURES_OPEN_FLAGS, 0644));
	expect_no_way(openat(socket_folder_fd, "there", O_WRONLY));
	expect_no_way(renameat(socket_folder_fd, "there", socket_folder_fd, "new"));
	expect_no_way(unlinkat(socket_folder_fd, elsewhere, 0));
	ck_assert_int_eq(unlinkat(socket_folder_fd, "there", 0), 0);
}

START_TEST(paths_are_shut_off_but_for_the_folders)
{
	struct sandbox_config config = on;
	char sockets[] = "/tmp/ballast-sandbox-XXXXXX";
	int status = -1;

	if (syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION) <
	    1) {
		printf("vmm_sandbox: no Landlock here: what it shuts off is not tested\n");
		(void)fflush(stdout);
		return;
	}
	(void)strcpy(elsewhere, "/tmp/ballast-sandbox-XXXXXX");
	close(mkstemp(elsewhere));
	ck_assert_ptr_nonnull(mkdtemp(sockets));
	folder_fd = open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
	socket_folder_fd = open(sockets, O_PATH | O_DIRECTORY | O_CLOEXEC);
	make_file(folder_fd, "kept");
	make_file(socket_folder_fd, "there");
	config.metrics = folder_fd;
	config.sockets[1] = socket_folder_fd;
	pid_t pid = fork();
	if (pid == 0) {
		if (init(config) < 0 || sandbox_drop(&sandbox) < 0)
			_exit(99);
		reaches_its_folders_only();
		_exit(0);
	}
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	expect_exit(status, 0);
	ck_assert_int_eq(unlink(elsewhere), 0);
	ck_assert_int_eq(unlinkat(folder_fd, "kept", 0), 0);
	ck_assert_int_eq(rmdir(sockets), 0);
	close(folder_fd);
	close(socket_folder_fd);
}
END_TEST

START_TEST(without_landlock_who_has_folders_is_warned)
{
	struct sandbox_config config = on;

	no_landlock = true;
	ck_assert_int_eq(init(config), 0);
	ck_assert_int_eq(sandbox_drop(&sandbox), 0);
	process_expect_no_log();
	sandbox_finish(&sandbox);
	for (unsigned int i = 0; i <= SANDBOX_NR_SOCKETS; i++) {
		config = on;
		*(i == 0 ? &config.metrics : &config.sockets[i - 1]) = STDIN_FILENO;
		ck_assert_int_eq(init(config), 0);
		ck_assert_int_eq(sandbox_drop(&sandbox), 0);
		process_expect_log("W sandbox: this kernel has no Landlock, which would keep");
		sandbox_finish(&sandbox);
	}
}
END_TEST

static const struct passwd *nobody(void)
{
	const struct passwd *user = getpwnam("nobody");

	ck_assert_ptr_nonnull(user);
	return user;
}

START_TEST(a_user_is_all_that_is_left)
{
	struct sandbox_config config = on;
	struct rlimit limit = { 64 << 10, 64 << 10 };
	const gid_t groups[] = { 4, 5 };
	char ids[64];

	if (geteuid() != 0)
		return;
	ck_assert_int_eq(rmdir(folder), 0); /* while it can be */
	ck_assert_int_eq(setgroups(2, groups), 0);
	config.user = (struct sandbox_user){ "nobody", nobody()->pw_uid, nobody()->pw_gid };
	config.locks = 1ull << 40;
	ck_assert_int_eq(setrlimit(RLIMIT_MEMLOCK, &limit), 0);
	bool may_raise = strtoull(status_of("\nCapEff"), NULL, 16) & 1ull << CAP_SYS_RESOURCE;
	ck_assert_int_eq(init(config), 0);
	ck_assert_int_eq(sandbox_drop(&sandbox), 0);
	/* Where the limit stays what it is, the right to pass it does. */
	expect_no_privileges(may_raise ? "0000000000000000" : "0000000000004000");
	(void)snprintf(ids, sizeof(ids), "%u\t%u\t%u\t%u", config.user.uid, config.user.uid,
		       config.user.uid, config.user.uid);
	ck_assert_str_eq(status_of("\nUid"), ids);
	(void)snprintf(ids, sizeof(ids), "%u\t%u\t%u\t%u", config.user.gid, config.user.gid,
		       config.user.gid, config.user.gid);
	ck_assert_str_eq(status_of("\nGid"), ids);
	ck_assert_str_eq(status_of("\nGroups"), "");
	ck_assert_int_eq(getrlimit(RLIMIT_MEMLOCK, &limit), 0);
	ck_assert_uint_eq(limit.rlim_cur, may_raise ? RLIM_INFINITY : 64 << 10);
	ck_assert_int_eq(setresuid(0, 0, 0), -1);
}
END_TEST

/* Each step fails */

START_TEST(a_filter_that_cannot_be_made_leaves_nothing)
{
	ck_assert_int_eq(init(on), 0);
	sandbox_finish(&sandbox);
	unsigned int nr = nr_steps;
	ck_assert_uint_gt(nr, 100); /* each rule is a step */
	for (unsigned int n = 1; n <= nr; n++) {
		fail_at = n;
		nr_steps = 0;
		ck_assert_int_eq(init(on), -ENOMEM);
		ck_assert_uint_eq(nr_steps, n);
		process_expect_log("E sandbox: making the filters: Cannot allocate memory");
		ck_assert_ptr_null(sandbox.filters[0]);
		ck_assert_ptr_null(sandbox.filters[1]);
	}
	fail_at = 0;
}
END_TEST

START_TEST(a_filter_that_cannot_be_loaded_is_told)
{
	ck_assert_int_eq(init(on), 0);
	fail_at = nr_steps + 1;
	ck_assert_int_eq(sandbox_enter(&sandbox, SANDBOX_VCPU, "vcpu 00"), -ENOMEM);
	process_expect_log("E sandbox: the filter of vcpu 00 (a kernel without seccomp? "
			   "--sandbox off goes without): Cannot");
}
END_TEST

/* The status of a process whose n-th step of giving up privileges fails. */
static int drop_with(struct sandbox_config config, unsigned int n, unsigned int *ret_steps)
{
	int status = -1;

	pid_t pid = fork();
	if (pid == 0) {
		if (init(config) < 0)
			_exit(99);
		nr_steps = 0;
		fail_at = n;
		int r = sandbox_drop(&sandbox);
		*ret_steps = nr_steps;
		_exit(r < 0 ? 1 : 0);
	}
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* As many as what there is on this machine, and this user, let expect. */
static unsigned int expected_steps(unsigned int nr_folders)
{
	bool has_landlock = syscall(SYS_landlock_create_ruleset, NULL, 0,
				    LANDLOCK_CREATE_RULESET_VERSION) >= 1;
	bool may_drop = strtoull(status_of("\nCapEff"), NULL, 16) & 1ull << CAP_SETPCAP;
	unsigned int nr_caps = 0;

	while (prctl(PR_CAPBSET_READ, nr_caps, 0, 0, 0) >= 0)
		nr_caps++;
	/* setgroups, setresgid, setresuid; capget, capset; to keep them, and to get no new ones */
	unsigned int nr = (may_drop ? nr_caps : 1) + 3 + 2 + 2;
	return has_landlock ? nr + 1 + nr_folders + 1 : nr;
}

START_TEST(each_privilege_that_stays_is_a_refusal)
{
	struct sandbox_config config = on;
	unsigned int *steps = mmap(NULL, sizeof(*steps), PROT_READ | PROT_WRITE,
				   MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	ck_assert_ptr_ne(steps, MAP_FAILED);
	folder_fd = open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
	config.user = (struct sandbox_user){ "nobody", geteuid(), getegid() };
	config.locks = 1;
	config.metrics = folder_fd;
	config.sockets[1] = folder_fd;
	limit_stays = true;
	ck_assert_int_eq(drop_with(config, 0, steps), 0);
	unsigned int nr = *steps;
	ck_assert_uint_eq(nr, expected_steps(2));
	(void)process_log(); /* whether there is a Landlock */
	for (unsigned int n = 1; n <= nr; n++) {
		ck_assert_int_eq(drop_with(config, n, steps), 1);
		ck_assert_uint_eq(*steps, n);
		ck_assert_ptr_nonnull(strstr(process_log(), "E sandbox: "));
	}
	close(folder_fd);
}
END_TEST

START_TEST(figures)
{
	static const char *const names[] = { "vCPU", "event loop" };
	static const struct {
		unsigned int calls, ioctls;
	} stated[SANDBOX_NR_ROLES] = { { 36, 21 }, { 49, 51 } }; /* by SECURITY.md */

	for (unsigned int role = 0; role < SANDBOX_NR_ROLES; role++) {
		unsigned int calls, ioctls;
		sandbox_count(role, &calls, &ioctls);
		printf("FIGURE sandbox/%s: %u system calls, of ioctl %u requests\n",
		       names[role], calls, ioctls);
		ck_assert_uint_eq(calls, stated[role].calls);
		ck_assert_uint_eq(ioctls, stated[role].ioctls);
	}
	(void)fflush(stdout);
}
END_TEST

START_TEST(a_sanitizer_is_told_of)
{
	log_set_level(LOG_DEBUG);
	ck_assert_int_eq(init(on), 0);
	process_expect_log("sandbox: off: this build has a sanitizer in it");
	expect_exit(play(SANDBOX_EVENT_LOOP, on, does_some_of_them), 0);
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		what_is_not_on_the_list_is_the_end_and_is_told,
		one_that_somebody_sends_is_told_apart,
		logged_they_are_let_through,
		off_nothing_is_held_back,
		what_is_on_it_goes_on,
		memory_is_to_be_had_on_any_thread,
		a_file_of_metrics_is_written_anew_and_none_is_opened,
		privileges_are_gone,
		paths_are_shut_off_but_for_the_folders,
		without_landlock_who_has_folders_is_warned,
		a_user_is_all_that_is_left,
		a_filter_that_cannot_be_made_leaves_nothing,
		a_filter_that_cannot_be_loaded_is_told,
		each_privilege_that_stays_is_a_refusal,
		figures,
	};

	const TTest *const without[] = { off_nothing_is_held_back, a_sanitizer_is_told_of,
					 figures };

	if (__sanitizer_set_report_fd)
		return run_tests("vmm/sandbox", setup, teardown, without, nitems(without));
	return run_tests("vmm/sandbox", setup, teardown, tests, nitems(tests));
}
