/* SPDX-License-Identifier: MIT */
/*
 * runner.c - runs one test case: a bare-metal guest on /dev/kvm, in a machine built as
 * `ballast run` would, with the host port, and with two test devices on its PCI bus or devices of
 * its own.
 *
 *	runner FOLDER-OF-GUESTS CASE
 *	runner --complete CASE...     all cases of the table are named
 *
 * A case passes if the guest ends with its status, the serial port and the log say what they
 * are to say, and the process has no more fds than before. Exit status: 0 passed, 1 failed,
 * 77 skipped.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "tests/guest/cases.h"
#include "tests/guest/contract.h"
#include "tests/guest/host.h"
#include "tests/guest/net_peer.h"
#include "tests/guest/test_device.h"
#include "vmm/machine.h"

#define EXIT_SKIPPED 77
#define MIB (1ull << 20)
#define DEFAULT_MEMORY (64 * MIB)
#define MAX_TRIES 3u
#define DEFAULT_TIMEOUT 20u
#define MAX_LOG_LINES 400u

struct run {
	const struct test_case *test;
	char folder[64];
	char serial_path[96];
	char console_path[96];
	char qmp_path[96];
	char disk_path[96];
	char net_path[96];
	char log_path[96];
	struct net_peer net_peer;
	const struct machine_config *config;
	int status; /* of the machine, or < 0 */
	char cmdline[160];
	struct machine machine;
	struct test_device devices[2];
	struct host host;
	pthread_t peer;
	bool has_peer;
	int peer_fd;
	bool peer_ok;
	int real_stdio[2]; /* while a terminal is in their place */
	FILE *log;
	int real_stderr;
};

static int failed(const char *test, const char *what)
{
	fprintf(stderr, "%s: %s\n", test, what);
	return -1;
}

static int skipped(const char *test, const char *why)
{
	printf("%s: skipped: %s\n", test, why);
	return EXIT_SKIPPED;
}

/* The other end of a socket, or terminal */

static void *run_peer(void *opaque)
{
	struct run *run = opaque;

	run->peer_ok = run->test->peer(run->peer_fd);
	return NULL;
}

static int connect_peer(struct run *run)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	snprintf(address.sun_path, sizeof(address.sun_path), "%s",
		 run->test->console == CONSOLE_UNIX ? run->console_path : run->serial_path);
	run->peer_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (run->peer_fd < 0 ||
	    connect(run->peer_fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		return failed(run->test->name, "cannot connect to the socket");
	return 0;
}

/* A terminal takes the place of standard input and output. */
static int take_terminal(struct run *run)
{
	const struct winsize window = { .ws_col = 100, .ws_row = 30 };

	run->peer_fd = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (run->peer_fd < 0 || grantpt(run->peer_fd) < 0 || unlockpt(run->peer_fd) < 0 ||
	    ioctl(run->peer_fd, TIOCSWINSZ, &window) < 0)
		return failed(run->test->name, "cannot have a terminal");
	int fd = open(ptsname(run->peer_fd), O_RDWR | O_NOCTTY | O_CLOEXEC);
	for (int i = 0; i < 2; i++) {
		run->real_stdio[i] = fcntl(i, F_DUPFD_CLOEXEC, 3);
		if (fd < 0 || run->real_stdio[i] < 0 || dup2(fd, i) < 0)
			return failed(run->test->name, "cannot use a terminal");
	}
	(void)close(fd);
	return 0;
}

/* So that its other end comes to an end. */
static void leave_terminal(struct run *run)
{
	for (int i = 0; i < 2 && run->test->console == CONSOLE_STDIO; i++) {
		(void)dup2(run->real_stdio[i], i);
		(void)close(run->real_stdio[i]);
	}
}

/* Running a case */

static int capture_log(struct run *run)
{
	/* Has a name, so that it is there if the sandbox ends us. */
	snprintf(run->log_path, sizeof(run->log_path), "%s/log", run->folder);
	run->log = fopen(run->log_path, "w+e");
	run->real_stderr = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3);
	if (!run->log || run->real_stderr < 0 || dup2(fileno(run->log), STDERR_FILENO) < 0)
		return failed(run->test->name, "cannot capture the log");
	return 0;
}

/* What a guest causes is logged within budgets, one for each of its sources. */
static int check_length(const struct run *run, const char *log)
{
	unsigned int lines = 0;

	for (const char *p = log; (p = strchr(p, '\n')); p++)
		lines++;
	if (lines <= MAX_LOG_LINES)
		return 0;
	fprintf(stderr, "%s: %u lines in the log\n", run->test->name, lines);
	return -1;
}

static char *read_whole(FILE *f)
{
	static const size_t max = 1 << 20;
	char *text = calloc(1, max);

	rewind(f);
	if (text)
		text[fread(text, 1, max - 1, f)] = '\0';
	return text;
}

static int add_devices(struct run *run)
{
	static const unsigned int slots[] = { TEST_SLOT_A, TEST_SLOT_B };
	struct machine *m = &run->machine;
	int r = host_init(&run->host, m, run->qmp_path, run->disk_path, &run->devices[1]);

	/* One of its own is where the first would be. */
	bool own = run->test->balloon || run->test->disk || run->test->net || run->test->rng ||
		   run->test->console;
	for (unsigned int i = 0; i < nitems(slots) && r >= 0 && !own; i++)
		r = test_device_init(&run->devices[i], &m->pci, &m->map, &m->wires.wires,
				     &m->loop, slots[i]);
	return r;
}

/* The disk's image */

static int make_disk(const struct run *run)
{
	uint8_t bytes[512];
	FILE *f = fopen(run->disk_path, "we");
	bool ok = f;

	for (unsigned int sector = 0; ok && sector < DISK_SIZE / sizeof(bytes); sector++) {
		memset(bytes, (uint8_t)DISK_BYTE(sector), sizeof(bytes));
		ok = fwrite(bytes, sizeof(bytes), 1, f) == 1;
	}
	if (f && fclose(f) != 0)
		ok = false;
	return ok ? 0 : failed(run->test->name, "cannot make an image for its disk");
}

/* What the guest wrote, if it was to write something; the part says so. */
static bool disk_is_right(const struct run *run)
{
	bool wrote = strstr(run->test->options, "part=transfer");
	FILE *f = fopen(run->disk_path, "re");
	int byte = -1;

	if (f && fseek(f, DISK_PROOF_SECTOR * 512 + 511, SEEK_SET) == 0)
		byte = fgetc(f);
	if (f)
		(void)fclose(f);
	return byte == (wrote ? DISK_PROOF_BYTE : (uint8_t)DISK_BYTE(DISK_PROOF_SECTOR));
}

/* A thread that is then in the sandbox, as the program's first is, to its end. */
static void *live(void *opaque)
{
	struct run *run = opaque;

	int r = machine_init(&run->machine, run->config);
	if (r >= 0)
		r = add_devices(run);
	if (r >= 0 && run->test->peer) {
		if (run->peer_fd < 0)
			r = connect_peer(run);
		run->has_peer = r >= 0 && pthread_create(&run->peer, NULL, run_peer, run) == 0;
	}
	if (r >= 0)
		run->status = machine_run(&run->machine);
	host_finish(&run->host);
	for (unsigned int i = 0; i < nitems(run->devices); i++)
		test_device_finish(&run->devices[i]);
	machine_finish(&run->machine);
	return NULL;
}

/* The machine from start to end; the status, or < 0. */
static int run_machine(struct run *run, const struct machine_config *config)
{
	sigset_t machines;
	pthread_t thread;

	/* Signals that the machine waits for must not find a thread that ignores them. */
	sigemptyset(&machines);
	sigaddset(&machines, SIGTERM);
	sigaddset(&machines, SIGINT);
	sigaddset(&machines, SIGHUP);
	sigaddset(&machines, SIGUSR1);
	sigaddset(&machines, SIGWINCH);
	(void)pthread_sigmask(SIG_BLOCK, &machines, NULL);
	run->status = -1;
	run->config = config;
	int r = run->test->console == CONSOLE_STDIO ? take_terminal(run) : 0;
	if (r >= 0 && pthread_create(&thread, NULL, live, run) == 0)
		(void)pthread_join(thread, NULL);
	leave_terminal(run);
	if (run->has_peer)
		(void)pthread_join(run->peer, NULL);
	if (run->peer_fd >= 0)
		(void)close(run->peer_fd);
	return run->status;
}

static int check_output(const struct run *run, const char *output)
{
	if (!run->test->output || strcmp(output, run->test->output) == 0)
		return 0;
	fprintf(stderr, "%s: serial port: got '%s', want '%s'\n", run->test->name, output,
		run->test->output);
	return -1;
}

/* What came out of the virtio console, if that is a file. */
static int check_console(const struct run *run)
{
	const struct test_case *test = run->test;
	FILE *f = fopen(run->console_path, "re");
	uint32_t n = 0;
	int byte = EOF;

	while (f && test->console_output && test->console_output[n] &&
	       (byte = getc(f)) == (uint8_t)test->console_output[n])
		n++;
	while (f && n < test->console_bytes && (byte = getc(f)) == CONSOLE_BYTE(n))
		n++;
	bool expected = test->console_output || test->console_bytes > 0;
	uint32_t want = test->console_output ? (uint32_t)strlen(test->console_output)
					     : test->console_bytes;
	bool ok = !expected || (f && n == want && getc(f) == EOF);
	if (f)
		(void)fclose(f);
	if (ok)
		return 0;
	fprintf(stderr, "%s: console: %u of %u bytes are as they should be, then %d\n",
		test->name, n, want, byte);
	return -1;
}

/* Is `flag` one of the processor's? */
static bool cpu_has(const char *flag)
{
	FILE *f = fopen("/proc/cpuinfo", "re");
	char line[4096];
	bool found = false;

	while (f && !found && fgets(line, sizeof(line), f)) {
		if (strncmp(line, "flags", 5) != 0)
			continue;
		for (char *rest = line, *word; !found && (word = strsep(&rest, " \t\n"));)
			found = strcmp(word, flag) == 0;
	}
	if (f)
		(void)fclose(f);
	return found;
}

static int check_lines(const struct run *run, const char *log, const char *const *lines)
{
	int r = 0;

	for (unsigned int i = 0; i < MAX_LOGS && lines[i]; i++) {
		if (strstr(log, lines[i]))
			continue;
		fprintf(stderr, "%s: the log lacks '%s'\n", run->test->name, lines[i]);
		r = -1;
	}
	return r;
}

static int check_log(const struct run *run, const char *log)
{
	static const char *const lost[MAX_LOGS] = { "registers held is lost" };
	const char *const *registers = run->test->registers;
	int r = check_lines(run, log, run->test->logs);

	if (registers[0] && cpu_has("svm"))
		registers = lost;
	return check_lines(run, log, registers) < 0 ? -1 : r;
}

static unsigned int count_fds(void)
{
	unsigned int count = 0;
	DIR *folder = opendir("/proc/self/fd");

	while (folder && readdir(folder))
		count++;
	if (folder)
		(void)closedir(folder);
	return count;
}

static int judge(struct run *run, int status, bool fds_left)
{
	const struct test_case *test = run->test;
	FILE *serial = fopen(run->serial_path, "re");
	autofree char *output = serial ? read_whole(serial) : calloc(1, 1);
	autofree char *log = read_whole(run->log);
	int r = 0;

	if (serial)
		(void)fclose(serial);
	if (!output || !log)
		return failed(test->name, "no memory");
	if (status != test->status) {
		fprintf(stderr, "%s: ended with %d, not %d\n", test->name, status,
			test->status);
		r = -1;
	}
	if (check_output(run, output) < 0 || check_log(run, log) < 0 ||
	    check_length(run, log) < 0 || check_console(run) < 0)
		r = -1;
	if (test->peer && !run->peer_ok)
		r = failed(test->name, "the other end got something else");
	if (fds_left)
		r = failed(test->name, "file descriptors are left open");
	if (test->serial == CONSOLE_UNIX && access(run->serial_path, F_OK) == 0)
		r = failed(test->name, "the socket is left behind");
	if (test->console == CONSOLE_UNIX && access(run->console_path, F_OK) == 0)
		r = failed(test->name, "the console's socket is left behind");
	if (test->disk && !disk_is_right(run))
		r = failed(test->name, "the disk's image is not what the guest left");
	if (access(run->qmp_path, F_OK) == 0)
		r = failed(test->name, "the control socket is left behind");
	if (r < 0)
		fprintf(stderr, "--- serial port\n%s\n--- log\n%s", output, log);
	return r;
}

/*
 * The lab's emulated processors crash a guest now and then, or lose it, a different one each time,
 * where no other host does. Then it is run again, and that is told: a fault of ours comes again.
 */
static bool failed_by_emulator(const struct test_case *test, int status, unsigned int seed,
			       unsigned int try)
{
	bool ended = status == STATUS_CRASHED || status == STATUS_TIMEOUT;

	if (!ended || status == test->status || try == MAX_TRIES || !getenv("LAB_EMULATED"))
		return false;
	printf("NOTE %s: on the lab's emulated processor the guest %s with GUEST_SEED=%u: run again\n",
	       test->name, status == STATUS_CRASHED ? "crashed" : "came to no end", seed);
	return true;
}

/* A network card for the machine, and who is at its other end. NULL, or why there can be none. */
static const char *add_net(struct run *run, struct machine_config *config)
{
	struct net_config *net = &config->nets[config->nr_nets++];

	*net = *run->test->net;
	net->name = net->kind == NET_TAP ? NET_PEER_TAP : run->net_path;
	if (net->vhost == VIRTIO_NET_VHOST_ON && access("/dev/vhost-net", R_OK | W_OK) < 0)
		return "there is no /dev/vhost-net (modprobe vhost_net)";
	return net_peer_start(&run->net_peer, net->kind, run->net_path);
}

/* For what a guest does at random; GUEST_SEED=N has it do the same again. */
static unsigned int choose_seed(void)
{
	const char *given = getenv("GUEST_SEED");
	unsigned int seed = given ? (unsigned int)strtoul(given, NULL, 10)
				  : (unsigned int)time(NULL) * 1000 + (unsigned int)getpid();

	printf("GUEST_SEED=%u\n", seed);
	(void)fflush(stdout); /* what is killed writes nothing any more */
	return seed;
}

/* For guests that go on at random: GUEST_SECONDS=N has them do so for so long, several times in one run. */
static unsigned int choose_seconds(void)
{
	const char *given = getenv("GUEST_SECONDS");

	return given ? (unsigned int)strtoul(given, NULL, 10) : 0;
}

static int run_once(const struct test_case *test, const char *guests, unsigned int seed,
		    unsigned int try, bool *ret_again)
{
	static struct run run;
	char kernel[512];
	const unsigned int seconds = choose_seconds();
	struct machine_config config = {
		.kernel = kernel,
		.cmdline = run.cmdline,
		.nr_cpus = test->cpus ? test->cpus : 1,
		.memory = test->memory ? test->memory : DEFAULT_MEMORY,
		.backing = test->backing,
		.serial = { test->serial == CONSOLE_NONE ? CONSOLE_FILE : test->serial,
			    run.serial_path },
		.on_reset = test->on_reset,
		.timeout = (test->timeout ? test->timeout : DEFAULT_TIMEOUT) + 5 * seconds,
		.exit_port = true,
		.has_rng = test->rng,
		.has_console = test->console != CONSOLE_NONE,
		.console = { test->console, run.console_path },
		.has_balloon = test->balloon,
		.balloon_keep = test->balloon_keep,
		.qmp = test->balloon || test->net ? run.qmp_path : NULL,
		.policy = RECLAIM_INHIBIT,
		.sandbox = SANDBOX_ON,
	};

	run = (struct run){ .test = test,
			    .peer_fd = -1,
			    .folder = "/tmp/ballast-guest-XXXXXX" };
	if (test->balloon)
		config.balloon = *test->balloon;
	if (test->disk) {
		config.disks[0] = *test->disk;
		config.disks[0].path = run.disk_path;
		config.nr_disks = 1;
	}
	snprintf(kernel, sizeof(kernel), "%s/%s.elf", guests, test->guest);
	snprintf(run.cmdline, sizeof(run.cmdline),
		 "cpus=%u memory=%" PRIu64 " now=%lld seed=%u seconds=%u %s", config.nr_cpus,
		 config.memory, (long long)time(NULL), seed, seconds,
		 test->options ? test->options : "");
	if (!mkdtemp(run.folder))
		return failed(test->name, "cannot make a folder for its files");
	snprintf(run.disk_path, sizeof(run.disk_path), "%s/disk", run.folder);
	if ((test->disk && make_disk(&run) < 0) || capture_log(&run) < 0)
		return -1;
	snprintf(run.serial_path, sizeof(run.serial_path), "%s/serial", run.folder);
	snprintf(run.console_path, sizeof(run.console_path), "%s/console", run.folder);
	snprintf(run.qmp_path, sizeof(run.qmp_path), "%s/qmp", run.folder);
	snprintf(run.net_path, sizeof(run.net_path), "%s/net", run.folder);
	const char *lacks = test->net ? add_net(&run, &config) : NULL;
	unsigned int fds = count_fds();
	int status = lacks ? test->status : run_machine(&run, &config);
	bool fds_left = count_fds() != fds;
	net_peer_stop(&run.net_peer);
	(void)fflush(stderr);
	(void)dup2(run.real_stderr, STDERR_FILENO);
	(void)close(run.real_stderr);
	*ret_again = failed_by_emulator(test, status, seed, try);
	int r = lacks        ? skipped(test->name, lacks)
		: *ret_again ? 0
			     : judge(&run, status, fds_left);
	(void)fclose(run.log);
	(void)unlink(run.serial_path); /* a socket is gone already */
	(void)unlink(run.console_path);
	(void)unlink(run.disk_path); /* if there is one */
	(void)unlink(run.net_path);
	(void)unlink(run.log_path);
	(void)rmdir(run.folder);
	return r;
}

static int run_case(const struct test_case *test, const char *guests)
{
	unsigned int seed = choose_seed();
	bool again = true;
	int r = 0;

	for (unsigned int try = 1; again; try++)
		r = run_once(test, guests, seed, try, &again);
	return r;
}

/* What a case needs of this host */

static int kvm_missing(const char *test)
{
	int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	char why[96];

	if (fd >= 0) {
		(void)close(fd);
		return 0;
	}
	snprintf(why, sizeof(why), "/dev/kvm: %s", strerror(errno));
	return skipped(test, why);
}

#define HUGE_PAGES "/sys/kernel/mm/hugepages/hugepages-2048kB/"

static long read_number(const char *path)
{
	long n = -1;
	FILE *f = fopen(path, "re");

	if (f && fscanf(f, "%ld", &n) != 1)
		n = -1;
	if (f)
		(void)fclose(f);
	return n;
}

static bool write_number(const char *path, long n)
{
	FILE *f = fopen(path, "we");
	bool ok = f && fprintf(f, "%ld\n", n) > 0;

	return f && fclose(f) == 0 && ok;
}

/* Runs with enough hugetlb pages, made if need be and given back. */
static int run_with_huge_pages(const struct test_case *test, const char *guests)
{
	long wanted = (long)((test->memory ? test->memory : DEFAULT_MEMORY) >> 21);
	long before = read_number(HUGE_PAGES "nr_hugepages");
	long free_before = read_number(HUGE_PAGES "free_hugepages");

	if (before < 0)
		return skipped(test->name, "this kernel has no 2 MiB hugetlb pages");
	if (free_before < wanted)
		(void)write_number(HUGE_PAGES "nr_hugepages", before + wanted - free_before);
	int r = EXIT_SKIPPED;
	if (read_number(HUGE_PAGES "free_hugepages") >= wanted)
		r = run_case(test, guests) < 0;
	else
		(void)skipped(test->name, "too few hugetlb pages, and none can be made");
	if (free_before < wanted)
		(void)write_number(HUGE_PAGES "nr_hugepages", before);
	return r;
}

static const struct test_case *find_case(const char *name)
{
	for (unsigned int i = 0; i < nr_cases; i++) {
		if (strcmp(cases[i].name, name) == 0)
			return &cases[i];
	}
	return NULL;
}

static int check_complete(char **names, unsigned int count)
{
	int r = 0;

	for (unsigned int i = 0; i < nr_cases; i++) {
		bool found = false;
		for (unsigned int j = 0; j < count; j++)
			found |= strcmp(cases[i].name, names[j]) == 0;
		if (!found)
			r = failed(cases[i].name, "is no test of meson.build");
	}
	return r < 0;
}

int main(int argc, char **argv)
{
	/* As the sandbox has it, but here threads are older than that, and would have arenas. */
	(void)mallopt(M_ARENA_MAX, 1);
	if (argc > 1 && strcmp(argv[1], "--complete") == 0)
		return check_complete(argv + 2, (unsigned int)argc - 2);
	const struct test_case *test = argc == 3 ? find_case(argv[2]) : NULL;
	if (!test) {
		fprintf(stderr, "usage: runner FOLDER-OF-GUESTS CASE\n");
		return 1;
	}
	int r = kvm_missing(test->name);
	if (r != 0)
		return r;
	if (test->hardware && !cpu_has("vmx") && !cpu_has("svm"))
		return skipped(test->name,
			       "this host's KVM is software (no vmx, no svm) and "
			       "delivers a level-triggered interrupt more than once");
	if (test->backing == RAM_HUGETLB)
		return run_with_huge_pages(test, argv[1]);
	r = run_case(test, argv[1]);
	return r < 0 ? 1 : r;
}
