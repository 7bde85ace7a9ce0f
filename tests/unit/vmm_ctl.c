/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/un.h>

#include "base/fd.h"

#include "tests/fakes/process.h"
#include "tests/fakes/vfio_kernel.h"
#include "vmm/ctl.h"

#define GREETING "{\"QMP\": {\"version\": {}, \"capabilities\": []}}"
#define DONE "{\"return\": {}}"

/*
 * A server that expects these requests, in this order, and answers them so. The last one may come
 * again and again.
 */
struct step {
	const char *request;
	const char *answer; /* NULL: hangs up instead; "": says nothing */
};
#define MAX_STEPS 8u

static struct {
	const char *greeting; /* NULL: hangs up; "": says nothing */
	struct step steps[MAX_STEPS];
	int listen_fd;
	pthread_t thread;
	bool silent;      /* atomic: it says nothing more by itself */
	char wrong[4096]; /* the first request that was not expected */
	unsigned int nr_requests;
	unsigned int nr_fds; /* that came with requests */
} server;

static char directory[64];
static char path[96];
static int output;
static unsigned int fds_before;

/* The kernel's, and libc's: so that no test waits for long. */

static bool impatient;
static unsigned int nr_timeouts_set;
static unsigned int nr_naps;
static unsigned int nr_torn; /* atomic */

int setsockopt(int fd, int level, int name, const void *value, socklen_t size)
{
	const struct timeval *timeout = value;

	ck_assert_int_eq(level, SOL_SOCKET);
	ck_assert(name == SO_RCVTIMEO || name == SO_SNDTIMEO);
	ck_assert_int_eq(timeout->tv_sec, 10);
	nr_timeouts_set++;
	return (int)syscall(SYS_setsockopt, fd, level, name, timeout, size);
}

/* Ours, not the server's. Who is impatient has waited in vain as soon as the server is silent. */
ssize_t recv(int fd, void *bytes, size_t size, int flags)
{
	for (;;) {
		bool silent = __atomic_load_n(&server.silent, __ATOMIC_SEQ_CST);
		ssize_t n = syscall(SYS_recvfrom, fd, bytes, size,
				    flags | (impatient ? MSG_DONTWAIT : 0), NULL, NULL);
		if (!impatient || silent || n >= 0 || errno != EAGAIN)
			return n;
		usleep(1000);
	}
}

/* Both sides'. What has no newline at its end is as good as two halves, with the end of the guest between. */
ssize_t send(int fd, const void *bytes, size_t size, int flags)
{
	if (size == 0 || ((const char *)bytes)[size - 1] != '\n')
		__atomic_add_fetch(&nr_torn, 1, __ATOMIC_SEQ_CST);
	return syscall(SYS_sendto, fd, bytes, size, flags, NULL, 0);
}

int nanosleep(const struct timespec *time, struct timespec *rest)
{
	(void)rest;
	ck_assert_int_eq(time->tv_sec, 0);
	ck_assert_int_eq(time->tv_nsec, 100000000);
	nr_naps++;
	return 0;
}

static bool send_line(int fd, const char *text)
{
	char line[8192];

	if (!text)
		return false;
	if (*text == '\0')
		return true;
	int n = snprintf(line, sizeof(line), "%s\r\n", text);
	return send(fd, line, (size_t)n, MSG_NOSIGNAL) == n;
}

/* Counts fds that come with it, and closes them. */
static bool receive_byte(int fd, char *byte)
{
	union {
		struct cmsghdr header;
		char bytes[CMSG_SPACE(4 * sizeof(int))];
	} control;
	struct iovec bytes = { byte, 1 };
	struct msghdr message = { .msg_iov = &bytes,
				  .msg_iovlen = 1,
				  .msg_control = &control,
				  .msg_controllen = sizeof(control) };
	int fds[4];

	if (recvmsg(fd, &message, MSG_CMSG_CLOEXEC) != 1)
		return false;
	if (message.msg_controllen == 0)
		return true;
	unsigned int nr = (unsigned int)((control.header.cmsg_len - CMSG_LEN(0)) / sizeof(int));
	memcpy(fds, CMSG_DATA(&control.header), nr * sizeof(int));
	for (unsigned int i = 0; i < nr; i++)
		close(fds[i]);
	server.nr_fds += nr;
	return true;
}

/* Without its newline. */
static bool receive_line(int fd, char *line, size_t size)
{
	size_t n = 0;

	while (n < size && receive_byte(fd, line + n)) {
		if (line[n] == '\n') {
			line[n] = '\0';
			return true;
		}
		n++;
	}
	return false;
}

static void *serve(void *opaque)
{
	const struct step *step = server.steps;
	char line[4096];

	(void)opaque;
	int fd = accept(server.listen_fd, NULL, NULL);
	bool alive = send_line(fd, server.greeting);
	if (server.greeting && !*server.greeting)
		__atomic_store_n(&server.silent, true, __ATOMIC_SEQ_CST);
	while (alive && receive_line(fd, line, sizeof(line))) {
		server.nr_requests++;
		if ((!step->request || strcmp(line, step->request) != 0) && !*server.wrong)
			(void)snprintf(server.wrong, sizeof(server.wrong), "%s", line);
		alive = send_line(fd, step->answer);
		if (step[1].request)
			step++;
		else
			__atomic_store_n(&server.silent, true, __ATOMIC_SEQ_CST);
	}
	close(fd);
	return NULL;
}

static void listen_at_path(void)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	(void)snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
	server.listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	ck_assert_int_eq(bind(server.listen_fd, (struct sockaddr *)&address, sizeof(address)),
			 0);
	ck_assert_int_eq(listen(server.listen_fd, 1), 0);
}

static void setup(void)
{
	process_keep_log();
	(void)strcpy(directory, "/tmp/ballast-ctl-XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(directory));
	(void)snprintf(path, sizeof(path), "%s/qmp", directory);
	output = memfd_create("output", MFD_CLOEXEC);
	ck_assert_int_ge(dup2(output, STDOUT_FILENO), 0);
	server.greeting = GREETING;
	server.listen_fd = -1;
	fds_before = process_nr_fds();
}

static void teardown(void)
{
	ck_assert_uint_eq(process_nr_fds(), fds_before);
	(void)unlink(path);
	ck_assert_int_eq(rmdir(directory), 0);
}

/* What was printed since the last call of this. */
static const char *printed(void)
{
	static char text[8192];

	(void)fflush(stdout);
	ssize_t n = pread(output, text, sizeof(text) - 1, 0);
	ck_assert_int_ge(n, 0);
	text[n] = '\0';
	ck_assert_int_eq(ftruncate(output, 0), 0);
	(void)lseek(output, 0, SEEK_SET);
	return text;
}

/* `ballast ctl` and these words; "SOCKET" is the path. */
static int run(const char *words)
{
	char *argv[10];
	int argc = 0;
	char text[256];

	(void)snprintf(text, sizeof(text), "ctl %s", words);
	char *rest = text;
	for (char *word; (word = strsep(&rest, " "));)
		argv[argc++] = strcmp(word, "SOCKET") == 0 ? path : word;
	argv[argc] = NULL;
	return ctl_main(argc, argv);
}

/* With the server at the path, which has to get what it expects. */
static int run_with_server(const char *words)
{
	listen_at_path();
	server.silent = false;
	ck_assert_int_eq(pthread_create(&server.thread, NULL, serve, NULL), 0);
	int status = run(words);
	ck_assert_int_eq(pthread_join(server.thread, NULL), 0);
	fd_close(&server.listen_fd);
	(void)unlink(path);
	ck_assert_msg(*server.wrong == '\0', "not expected: %s", server.wrong);
	return status;
}

static void expect_steps(const struct step *steps, unsigned int nr_steps)
{
	static const struct step hello = { "{\"execute\": \"qmp_capabilities\"}", DONE };

	ck_assert_uint_lt(nr_steps + 1, MAX_STEPS);
	memset(server.steps, 0, sizeof(server.steps));
	server.steps[0] = hello;
	memcpy(&server.steps[1], steps, nr_steps * sizeof(*steps));
	server.nr_requests = 0;
}

#define EXPECT(...)                                           \
	do {                                                  \
		const struct step steps_[] = { __VA_ARGS__ }; \
		expect_steps(steps_, nitems(steps_));         \
	} while (0)

#define QUERY_MEMORY "{\"execute\": \"x-ballast-query-memory\"}"
#define QUERY_STATS "{\"execute\": \"x-ballast-query-guest-stats\"}"
#define REQUEST_STATS "{\"execute\": \"x-ballast-request-guest-stats\"}"
#define BALLOON_512M "{\"execute\": \"balloon\", \"arguments\": {\"value\": 536870912}}"

/* Balloon. */

START_TEST(balloon_says_what_is_asked_of_the_guest)
{
	EXPECT({ BALLOON_512M, DONE }, { QUERY_MEMORY, "{\"return\": {\"ram\": 1073741824}}" });
	ck_assert_int_eq(run_with_server("SOCKET balloon 512M"), 0);
	ck_assert_str_eq(printed(), "the guest is asked to keep 512 MiB of 1024 MiB\n");
	process_expect_no_log();
	ck_assert_uint_eq(nr_timeouts_set, 2);
}
END_TEST

START_TEST(balloon_says_who_keeps_the_host_from_gaining)
{
	EXPECT({ BALLOON_512M,
		 "{\"return\": {\"x-ballast\": {\"host-gains\": false, \"policy\": \"inhibit\", "
		 "\"inhibitors\": 1, \"inhibited-by\": [\"vfio group 3\"], \"pinned\": 1}}}" },
	       { QUERY_MEMORY, "{\"return\": {\"ram\": 1073741824}}" });
	ck_assert_int_eq(run_with_server("SOCKET balloon 512M"), 0);
	ck_assert_str_eq(
		printed(),
		"the guest is asked to keep 512 MiB of 1024 MiB\n"
		"the host gains nothing by it: vfio group 3 has guest memory pinned\n");
	EXPECT({ BALLOON_512M,
		 "{\"return\": {\"x-ballast\": {\"host-gains\": false, \"policy\": \"unsafe\", "
		 "\"inhibitors\": 3, \"inhibited-by\": [\"vfio group 3\", \"a\"]}}}" },
	       { QUERY_MEMORY, "{\"return\": {\"ram\": 1073741824}}" });
	ck_assert_int_eq(run_with_server("SOCKET balloon 512M"), 0);
	ck_assert_str_eq(
		printed(),
		"the guest is asked to keep 512 MiB of 1024 MiB\n"
		"the host gains nothing by it: vfio group 3, a and 1 more have guest memory "
		"pinned\n"
		"what the guest gives up is discarded all the same (unsafe): this corrupts "
		"memory\n");
}
END_TEST

START_TEST(amounts_are_told_in_mib_or_to_the_byte)
{
	static const struct {
		const char *words;
		const char *request;
		const char *text;
	} cases[] = {
		{ "SOCKET balloon 4G",
		  "{\"execute\": \"balloon\", \"arguments\": {\"value\": 4294967296}}",
		  "the guest is asked to keep 1024.5 MiB of 1024.5 MiB\n" },
		{ "SOCKET balloon 1",
		  "{\"execute\": \"balloon\", \"arguments\": {\"value\": 1}}",
		  "the guest is asked to keep 1 bytes of 1024.5 MiB\n" },
		{ "SOCKET balloon 1023K",
		  "{\"execute\": \"balloon\", \"arguments\": {\"value\": 1047552}}",
		  "the guest is asked to keep 1047552 bytes of 1024.5 MiB\n" },
		{ "SOCKET balloon 102500K",
		  "{\"execute\": \"balloon\", \"arguments\": {\"value\": 104960000}}",
		  "the guest is asked to keep 100.0 MiB of 1024.5 MiB\n" },
	};

	for (unsigned int i = 0; i < nitems(cases); i++) {
		EXPECT({ cases[i].request, DONE },
		       { QUERY_MEMORY, "{\"return\": {\"ram\": 1074266112}}" });
		ck_assert_int_eq(run_with_server(cases[i].words), 0);
		ck_assert_str_eq(printed(), cases[i].text);
	}
}
END_TEST

START_TEST(a_refusal_is_told)
{
	static const char refusal[] = "{\"error\": {\"class\": \"DeviceNotActive\", \"desc\": "
				      "\"this guest has no balloon\"}}";

	EXPECT({ BALLOON_512M, refusal });
	ck_assert_int_eq(run_with_server("SOCKET balloon 512M"), 1);
	ck_assert_str_eq(printed(), "");
	process_expect_log("E ctl: this guest has no balloon\n");
	EXPECT({ BALLOON_512M, refusal });
	ck_assert_int_eq(run_with_server("SOCKET balloon 512M --json"), 1);
	ck_assert(strncmp(printed(), refusal, strlen(refusal)) == 0);
	process_expect_no_log();
}
END_TEST

/* Memory. */

#define HELD_BACK(bytes, incomplete, inhibitors, owners)                         \
	"\"held-back\": {\"bytes\": " bytes ", \"incomplete\": " incomplete ", " \
	"\"resting\": 0, \"inhibitors\": " inhibitors ", \"inhibited-by\": [" owners "]}"
#define COUNTS(name, taken, calls, bytes, failures)                                    \
	"\"" name "\": {\"taken\": " taken ", \"calls\": " calls ", \"bytes\": " bytes \
	", \"failures\": " failures "}"
#define GRANULES(pinners) "\"granules\": {\"size\": 65536, \"pinners\": " pinners "}"
#define AUTO_OFF \
	"\"auto\": {\"enabled\": false, \"min\": 0, \"max\": 0, \"last-change\": \"stays\"}"
#define NO_COUNTS(name) COUNTS(name, "0", "0", "0", "0")

START_TEST(memory_shows_what_the_host_has_got)
{
	EXPECT({ QUERY_MEMORY,
		 "{\"return\": {\"ram\": 1073741824, \"pinned\": 0, \"balloon\": true, "
		 "\"target\": 536870912, \"actual\": 536346624, \"held\": 536346624, "
		 "\"reclaimed\": 536342528, " HELD_BACK(
			 "4096", "4096", "0",
			 "") ", "
			     "\"policy\": \"direct\", \"driver\": {\"running\": true, "
			     "\"tells-host-first\": true, \"resetting\": false}, " GRANULES(
				     "0") ", " AUTO_OFF
					  ", \"discards\": {" COUNTS("direct", "536346624", "345", "536342528", "0") ", " NO_COUNTS(
						  "inhibit") ", " NO_COUNTS("unsafe") "}, " COUNTS("reports",
												   "8388608",
												   "4",
												   "8388608",
												   "1") ", "
													"\"elements\": {}, \"deflates\": {\"waiting\": 0, \"retries\": 0}}}" });
	ck_assert_int_eq(run_with_server("SOCKET memory"), 0);
	ck_assert_str_eq(
		printed(),
		"ram                1024 MiB\n"
		"pinned                0 MiB  of it, for assigned devices\n"
		"target              512 MiB  wanted in the balloon\n"
		"actual            511.5 MiB  in the balloon, the guest's driver says\n"
		"held              511.5 MiB  taken from the guest\n"
		"reclaimed         511.4 MiB  of what is held: given back to the host\n"
		"held back        4096 bytes  of what is held: not given back\n"
		"incomplete       4096 bytes  of what is held back: parts of larger pieces\n"
		"policy               direct  nobody has guest memory pinned\n"
		"driver              running  it asks before it uses a page again\n"
		"\n"
		"discards           given up        discarded     calls    failed\n"
		"direct            511.5 MiB        511.4 MiB       345         0\n"
		"reported              8 MiB            8 MiB         4         1\n");
	process_expect_no_log();
}
END_TEST

START_TEST(memory_shows_who_holds_it_back)
{
	EXPECT({ QUERY_MEMORY,
		 "{\"return\": {\"ram\": 1073741824, \"pinned\": 1073741824, "
		 "\"balloon\": true, \"target\": 536870912, \"actual\": 536870912, "
		 "\"held\": 536870912, \"reclaimed\": 0, " HELD_BACK(
			 "536870912", "0", "2",
			 "\"vfio group 3\", \"vfio group 7\"") ", \"policy\": \"inhibit\", "
							       "\"driver\": {\"running\": true, \"tells-host-first\": false, \"resetting\": false}, " GRANULES(
								       "1") ", " AUTO_OFF ", "
									    "\"discards\": {" COUNTS("direct", "1", "1", "1", "0") ", " COUNTS(
										    "inhibit",
										    "536870912",
										    "0", "0",
										    "0") ", " NO_COUNTS("unsafe") "}, " NO_COUNTS("reports") ", "
																	     "\"deflates\": {\"waiting\": 1, \"retries\": 12}}}" });
	ck_assert_int_eq(run_with_server("SOCKET memory"), 0);
	ck_assert_str_eq(
		printed(),
		"ram                1024 MiB\n"
		"pinned             1024 MiB  of it, for assigned devices\n"
		"target              512 MiB  wanted in the balloon\n"
		"actual              512 MiB  in the balloon, the guest's driver says\n"
		"held                512 MiB  taken from the guest\n"
		"reclaimed             0 MiB  of what is held: given back to the host\n"
		"held back           512 MiB  of what is held: not given back\n"
		"policy              inhibit  vfio group 3, vfio group 7 have guest memory "
		"pinned\n"
		"driver              running  it may use a page again without asking\n"
		"a deflate waits for host memory, after 12 retries\n"
		"\n"
		"discards           given up        discarded     calls    failed\n"
		"direct              1 bytes          1 bytes         1         0\n"
		"inhibit             512 MiB            0 MiB         0         0\n");
}
END_TEST

START_TEST(memory_without_a_balloon_is_short)
{
	EXPECT({ QUERY_MEMORY,
		 "{\"return\": {\"ram\": 1073741824, \"pinned\": 1073741824, "
		 "\"balloon\": false, \"target\": 0, \"actual\": 0, \"held\": 0, "
		 "\"reclaimed\": 0, " HELD_BACK(
			 "0", "0", "1",
			 "\"vfio group 3\"") ", "
					     "\"policy\": \"inhibit\", \"driver\": {\"running\": false, "
					     "\"tells-host-first\": false, \"resetting\": false}, " GRANULES(
						     "1") ", " AUTO_OFF
							  ", \"discards\": {}, \"reports\": {}, "
							  "\"deflates\": {\"waiting\": 0, \"retries\": 0}}}" });
	ck_assert_int_eq(run_with_server("SOCKET memory"), 0);
	ck_assert_str_eq(printed(),
			 "ram                1024 MiB\n"
			 "pinned             1024 MiB  of it, for assigned devices\n"
			 "balloon                none  start the guest with --balloon\n");
}
END_TEST

START_TEST(json_is_printed_as_it_came)
{
	EXPECT({ QUERY_MEMORY, "{\"return\":  {\"any\": [1.50, \"\\u00e4\"]}}" });
	ck_assert_int_eq(run_with_server("--json SOCKET memory"), 0);
	ck_assert_str_eq(printed(), "{\"return\":  {\"any\": [1.50, \"\\u00e4\"]}}\n");
}
END_TEST

/* Statistics. */

#define STATS(updates, stats)                                              \
	"{\"return\": {\"last-update\": 1700000000, \"updates\": " updates \
	", \"stats\": {" stats "}}}"
#define NO_STATS "{\"return\": {\"last-update\": 0, \"updates\": 0, \"stats\": {}}}"

START_TEST(stats_are_asked_anew_and_waited_for)
{
	char fresh[512];

	(void)snprintf(fresh, sizeof(fresh),
		       "{\"return\": {\"last-update\": %lld, \"updates\": 5, \"stats\": {"
		       "\"stat-swap-in\": 0, \"stat-major-faults\": 1234, "
		       "\"stat-free-memory\": 536346624, \"stat-disk-caches\": 4096}}}",
		       (long long)time(NULL));
	EXPECT({ QUERY_STATS, STATS("4", "\"stat-swap-in\": 7") }, { REQUEST_STATS, DONE },
	       { QUERY_STATS, STATS("4", "\"stat-swap-in\": 7") },
	       { QUERY_STATS, STATS("4", "\"stat-swap-in\": 7") }, { QUERY_STATS, fresh });
	ck_assert_int_eq(run_with_server("SOCKET stats"), 0);
	ck_assert_str_eq(printed(), "swap-in                     0 MiB\n"
				    "major-faults                 1234\n"
				    "free-memory             511.5 MiB\n"
				    "disk-caches            4096 bytes\n");
	ck_assert_uint_eq(nr_naps, 2);
	ck_assert_uint_eq(server.nr_requests, 6);
	process_expect_no_log();
}
END_TEST

START_TEST(stats_that_do_not_come_are_told_and_old_ones_are_shown_as_such)
{
	long long age = 0;
	int end = 0;

	EXPECT({ QUERY_STATS, STATS("4", "\"stat-swap-in\": 1048576") },
	       { REQUEST_STATS, "{\"error\": {\"class\": \"GenericError\", \"desc\": "
				"\"asked already\"}}" },
	       { QUERY_STATS, STATS("4", "\"stat-swap-in\": 1048576") });
	ck_assert_int_eq(run_with_server("SOCKET stats"), 1);
	const char *text = printed();
	ck_assert_int_eq(sscanf(text, "as of %lld s ago:\n%n", &age, &end), 1);
	ck_assert_int_ge(age, 1000000);
	ck_assert_str_eq(text + end, "swap-in                     1 MiB\n");
	ck_assert_uint_eq(nr_naps, 50);
	process_expect_log("E ctl: the guest's balloon driver has not answered within 5 s\n");

	EXPECT({ QUERY_STATS, NO_STATS }, { REQUEST_STATS, DONE }, { QUERY_STATS, NO_STATS });
	ck_assert_int_eq(run_with_server("SOCKET stats"), 1);
	ck_assert_str_eq(printed(), "");
	process_expect_log("has not answered within 5 s");

	EXPECT({ QUERY_STATS, NO_STATS }, { REQUEST_STATS, DONE }, { QUERY_STATS, NO_STATS });
	ck_assert_int_eq(run_with_server("SOCKET stats --json"), 1);
	ck_assert_str_eq(printed(), NO_STATS "\n");
	process_expect_log("has not answered within 5 s");
}
END_TEST

START_TEST(stats_without_a_driver_are_not_waited_for)
{
	static const char refusal[] = "{\"error\": {\"class\": \"DeviceNotActive\", \"desc\": "
				      "\"the guest runs no balloon driver\"}}";

	EXPECT({ QUERY_STATS, NO_STATS }, { REQUEST_STATS, refusal });
	ck_assert_int_eq(run_with_server("SOCKET stats"), 1);
	process_expect_log("E ctl: the guest runs no balloon driver\n");
	EXPECT({ QUERY_STATS, refusal });
	ck_assert_int_eq(run_with_server("SOCKET stats"), 1);
	process_expect_log("E ctl: the guest runs no balloon driver\n");
	ck_assert_str_eq(printed(), "");
	EXPECT({ QUERY_STATS, NO_STATS }, { REQUEST_STATS, refusal });
	ck_assert_int_eq(run_with_server("--json SOCKET stats"), 1);
	ck_assert(strncmp(printed(), refusal, strlen(refusal)) == 0);
	process_expect_no_log();
	ck_assert_uint_eq(nr_naps, 0);
}
END_TEST

/* Ending the guest. */

START_TEST(powerdown_and_quit_say_what_was_done)
{
	EXPECT({ "{\"execute\": \"system_powerdown\"}", DONE });
	ck_assert_int_eq(run_with_server("SOCKET powerdown"), 0);
	ck_assert_str_eq(printed(), "the power button is pressed\n");
	EXPECT({ "{\"execute\": \"quit\"}", DONE });
	ck_assert_int_eq(run_with_server("SOCKET quit"), 0);
	ck_assert_str_eq(printed(), "the guest is ended\n");
	EXPECT({ "{\"execute\": \"quit\"}", DONE });
	ck_assert_int_eq(run_with_server("SOCKET --json quit"), 0);
	ck_assert_str_eq(printed(), DONE "\n");
}
END_TEST

/* Else it fails now and then: the guest ends at the last brace, and its socket with it. */
START_TEST(a_command_is_sent_in_one_piece)
{
	EXPECT({ "{\"execute\": \"quit\"}", DONE });
	ck_assert_int_eq(run_with_server("SOCKET quit"), 0);
	ck_assert_uint_eq(server.nr_requests, 2);
	ck_assert_uint_eq(nr_torn, 0);
}
END_TEST

START_TEST(stop_cont_and_reset_say_what_was_done)
{
	EXPECT({ "{\"execute\": \"stop\"}", DONE });
	ck_assert_int_eq(run_with_server("SOCKET stop"), 0);
	ck_assert_str_eq(printed(), "the guest is stopped\n");
	EXPECT({ "{\"execute\": \"cont\"}", DONE });
	ck_assert_int_eq(run_with_server("SOCKET cont"), 0);
	ck_assert_str_eq(printed(), "the guest goes on\n");
	EXPECT({ "{\"execute\": \"system_reset\"}", DONE });
	ck_assert_int_eq(run_with_server("SOCKET reset"), 0);
	ck_assert_str_eq(printed(), "the guest is reset\n");
}
END_TEST

#define A "0000:01:00.0"
#define ADD(more)                                                                                 \
	"{\"execute\": \"device_add\", \"arguments\": {\"driver\": \"vfio-pci\", \"host\": " more \
	", \"x-ballast-group\": 7, \"x-ballast-on-error\": \"stop\"}}"
#define ADD_A ADD("\"" A "\", \"id\": \"" A "\", \"balloon\": \"inhibits\"")
#define DEL_A "{\"execute\": \"device_del\", \"arguments\": {\"id\": \"" A "\"}}"
#define MDEV "83b8f4f2-509f-482f-bc1e-e6bfe0fa1001"
#define EVENT(name, id) "{\"event\": \"" name "\", \"data\": {\"device\": \"" id "\"}}"
#define EVENT_OF(name, id, host)                                 \
	"{\"event\": \"" name "\", \"data\": {\"device\": \"" id \
	"\", \"x-ballast\": {\"host\": \"" host "\"}}}"
#define REFUSAL "{\"error\": {\"class\": \"GenericError\", \"desc\": \"not now\"}}"

START_TEST(a_device_is_opened_and_handed_over)
{
	fake_init();
	struct fake_group *group = fake_add_group(7);
	(void)fake_add_device(A, group);
	(void)fake_add_mdev(MDEV, group);
	EXPECT({ ADD_A, DONE });
	ck_assert_int_eq(run_with_server("SOCKET attach 01:00.0"), 0);
	ck_assert_str_eq(printed(), "the device is attached\n");
	ck_assert_uint_eq(server.nr_fds, 2);
	ck_assert_uint_eq(process_nr_fds(), fds_before);
	EXPECT({ ADD("\"" MDEV "\", \"id\": \"" MDEV "\", \"balloon\": \"allowed\""),
		 "{\"return\": {\"x-ballast\": {\"came-back\": 5242880}}}" });
	ck_assert_int_eq(run_with_server("SOCKET attach " MDEV ",balloon=allowed"), 0);
	ck_assert_str_eq(printed(), "the device is attached\nthe host has 5 MiB less: what the "
				    "balloon had given to it came back\n");
	EXPECT({ ADD_A, REFUSAL });
	ck_assert_int_eq(run_with_server("SOCKET attach " A), 1);
	process_expect_log("E ctl: not now\n");
	/* Perhaps by another device of its group: who has it will know. */
	group->open_error = -EBUSY;
	server.nr_fds = 0;
	EXPECT({ "{\"execute\": \"device_add\", \"arguments\": {\"driver\": \"vfio-pci\", "
		 "\"host\": \"" A "\", \"id\": \"" A "\", \"balloon\": \"inhibits\", "
		 "\"x-ballast-group\": 7, \"x-ballast-on-error\": \"detach\"}}",
		 DONE });
	ck_assert_int_eq(run_with_server("SOCKET attach " A ",on-error=detach"), 0);
	ck_assert_uint_eq(server.nr_fds, 0);
	group->open_error = 0;
	impatient = true;
	EXPECT({ ADD_A, "" });
	ck_assert_int_eq(run_with_server("SOCKET attach " A), 1);
	process_expect_log("within 610 s: try again");
	(void)printed();
	fake_finish();
}
END_TEST

START_TEST(a_device_that_cannot_be_opened_is_told)
{
	fake_init();
	struct fake_group *group = fake_add_group(7);
	struct fake_device *dev = fake_add_device(A, group);
	static const struct step none = { NULL, NULL };

	expect_steps(&none, 1);
	ck_assert_int_eq(run_with_server("SOCKET attach 09:00.0"), 1);
	process_expect_log("attach 0000:09:00.0: not on this host");
	group->open_error = -EACCES;
	ck_assert_int_eq(run_with_server("SOCKET attach " A), 1);
	process_expect_log("open group 7: be root, or have /dev/vfio/7 given to you");
	group->open_error = 0;
	(void)strcpy(dev->driver, "nvme");
	ck_assert_int_eq(run_with_server("SOCKET attach " A), 1);
	process_expect_log("bound to nvme, not to vfio-pci");
	(void)strcpy(dev->driver, "vfio-pci");
	/* After three looks into /sys two opens. */
	for (unsigned int n = 1; n <= 5; n++) {
		fake.nr_calls = 0;
		fake.fail_at = n;
		ck_assert_int_eq(run_with_server("SOCKET attach " A), 1);
		process_expect_log(n < 4    ? "E vfio: attach " A ": ask "
				   : n == 4 ? "E vfio: open group 7: Input/output error"
					    : "E ctl: open /dev/vfio/vfio: load the module");
	}
	ck_assert_uint_eq(server.nr_fds, 0);
	ck_assert_uint_eq(process_nr_fds(), fds_before);
	fake_finish();
}
END_TEST

START_TEST(a_device_is_detached_when_the_guest_has_let_go_of_it)
{
	EXPECT({ DEL_A,
		 DONE "\r\n" EVENT("STOP", A) "\r\n" EVENT(
			 "DEVICE_DELETED", "another") "\r\n" EVENT("DEVICE_DELETED", A) });
	ck_assert_int_eq(run_with_server("SOCKET detach 01:00.0"), 0);
	ck_assert_str_eq(printed(), "the device is detached\n");
	/* It may be quicker than the answer. */
	EXPECT({ "{\"execute\": \"device_del\", \"arguments\": {\"id\": \"it\", \"force\": "
		 "true}}",
		 EVENT("DEVICE_DELETED", "it") "\r\n" DONE });
	ck_assert_int_eq(run_with_server("SOCKET detach it --force"), 0);
	ck_assert_str_eq(printed(), "the device is detached\n");
	EXPECT({ DEL_A, REFUSAL });
	ck_assert_int_eq(run_with_server("SOCKET detach " A), 1);
	process_expect_log("E ctl: not now\n");
	EXPECT({ DEL_A, DONE "\r\n" EVENT("DEVICE_UNPLUG_GUEST_ERROR", A) });
	ck_assert_int_eq(run_with_server("SOCKET detach " A), 1);
	process_expect_log("E ctl: the guest has not let go of " A
			   " within 30 s: try again, or "
			   "take it with --force\n");
	/* It may have an id of its own. */
	EXPECT({ DEL_A, DONE "\r\n" EVENT_OF("DEVICE_DELETED", "gpu0", A) "\r\n" EVENT_OF(
				"DEVICE_UNPLUG_GUEST_ERROR", A, "0000:02:00.0") });
	ck_assert_int_eq(run_with_server("SOCKET detach " A), 0);
	ck_assert_str_eq(printed(), "the device is detached\n");
	EXPECT({ DEL_A,
		 DONE "\r\n" EVENT_OF("DEVICE_DELETED", "gpu1", "0000:02:00.0") "\r\n" EVENT_OF(
			 "DEVICE_UNPLUG_GUEST_ERROR", "gpu0", A) });
	ck_assert_int_eq(run_with_server("SOCKET detach " A), 1);
	process_expect_log("E ctl: the guest has not let go of " A);
	EXPECT({ DEL_A, NULL });
	ck_assert_int_eq(run_with_server("SOCKET detach " A), 1);
	process_expect_log("hung up without an answer");
	/* Who is silent for good is not waited for for ever. */
	impatient = true;
	EXPECT({ DEL_A, DONE });
	ck_assert_int_eq(run_with_server("SOCKET detach " A), 1);
	process_expect_log("within 70 s: try again");
	ck_assert_str_eq(printed(), "");
}
END_TEST

#define STATUS "{\"status\": \"paused\", \"running\": false}"
#define SUMMARY "{\"base-memory\": 536870912, \"plugged-memory\": 0}"
#define CPUS "[{\"cpu-index\": 0, \"thread-id\": 41}, {\"cpu-index\": 1, \"thread-id\": 42}]"
#define PCI                                                                                   \
	"[{\"bus\": 0, \"devices\": [{\"slot\": 1, \"function\": 2, \"qdev_id\": \"disk0\", " \
	"\"id\": {\"vendor\": 6900, \"device\": 4162}}]}]"
#define ASK_STATUS(pci)                                                             \
	{ "{\"execute\": \"query-status\"}", "{\"return\": " STATUS "}" },          \
		{ "{\"execute\": \"query-memory-size-summary\"}",                   \
		  "{\"return\": " SUMMARY "}" },                                    \
		{ "{\"execute\": \"query-cpus-fast\"}", "{\"return\": " CPUS "}" }, \
	{                                                                           \
		"{\"execute\": \"query-pci\"}", pci                                 \
	}

START_TEST(status_shows_what_the_guest_is_made_of)
{
	EXPECT(ASK_STATUS("{\"return\": " PCI "}"));
	ck_assert_int_eq(run_with_server("SOCKET status"), 0);
	ck_assert_str_eq(printed(), "status   paused\n"
				    "memory   512 MiB\n"
				    "cpus     2, threads 41 42\n"
				    "pci      01.2  1af4:1042  disk0\n");
	EXPECT(ASK_STATUS("{\"return\": " PCI "}"));
	ck_assert_int_eq(run_with_server("SOCKET --json status"), 0);
	ck_assert_str_eq(printed(),
			 "{\"query-status\": " STATUS
			 ", \"query-memory-size-summary\": " SUMMARY
			 ", \"query-cpus-fast\": " CPUS ", \"query-pci\": " PCI "}\n");
	process_expect_no_log();
	EXPECT(ASK_STATUS("{\"error\": {\"desc\": \"no\"}}"));
	ck_assert_int_eq(run_with_server("SOCKET status"), 1);
	process_expect_log("E ctl: no\n");
	EXPECT(ASK_STATUS("{\"return\": [{\"devices\": [{}]}]}"));
	ck_assert_int_eq(run_with_server("SOCKET status"), 1);
	process_expect_log("another version");
}
END_TEST

START_TEST(a_cable_is_plugged_in_and_pulled)
{
	EXPECT({ "{\"execute\": \"set_link\", \"arguments\": {\"name\": \"net0\", \"up\": "
		 "false}}",
		 DONE });
	ck_assert_int_eq(run_with_server("SOCKET link net0 off"), 0);
	ck_assert_str_eq(printed(), "the cable is pulled\n");
	EXPECT({ "{\"execute\": \"set_link\", \"arguments\": {\"name\": \"net1\", \"up\": "
		 "true}}",
		 DONE });
	ck_assert_int_eq(run_with_server("SOCKET link net1 on"), 0);
	ck_assert_str_eq(printed(), "the cable is plugged in\n");
	ck_assert_int_eq(run("SOCKET link net1"), 2);
	process_expect_log("link NAME on|off");
	ck_assert_int_eq(run("SOCKET link net1 up"), 2);
	process_expect_log("ctl: link 'up': it is one of: on off");
	ck_assert_int_eq(run("SOCKET link net1 on more"), 2);
	process_expect_log("'more' is too much after link");
}
END_TEST

/* Servers that are none, or not well. */

START_TEST(events_in_between_are_passed_over)
{
	EXPECT({ "{\"execute\": \"quit\"}",
		 "{\"event\": \"SHUTDOWN\", \"timestamp\": {}}\r\n{\"event\": \"A\"}\r\n" DONE });
	ck_assert_int_eq(run_with_server("SOCKET quit"), 0);
	ck_assert_str_eq(printed(), "the guest is ended\n");
}
END_TEST

START_TEST(where_nobody_listens_that_is_told_with_the_path)
{
	char expected[512];

	(void)snprintf(expected, sizeof(expected),
		       "E ctl: nobody listens at '%s' (does the guest run, with --qmp "
		       "unix:%s?): No such file or directory\n",
		       path, path);
	ck_assert_int_eq(run("SOCKET memory"), 1);
	process_expect_log(expected);
	listen_at_path();
	fd_close(&server.listen_fd);
	ck_assert_int_eq(run("SOCKET memory"), 1);
	process_expect_log("--qmp unix:");
	ck_assert_int_eq(run("/ memory"), 1);
	process_expect_log("'/'");
	ck_assert_str_eq(printed(), "");
}
END_TEST

START_TEST(a_path_that_is_too_long_is_told)
{
	char words[200] = "";

	memset(words, 'x', 108);
	strcpy(words + 108, " memory");
	ck_assert_int_eq(run(words), 1);
	process_expect_log("xxx': File name too long");
}
END_TEST

START_TEST(who_does_not_speak_qmp_is_not_believed)
{
	static const char *const greetings[] = { "hello", "HTTP/1.1 400 Bad Request", "[]", "1",
						 "{\"QMP\": {}" };

	for (unsigned int i = 0; i < nitems(greetings); i++) {
		server.greeting = greetings[i];
		ck_assert_int_eq(run_with_server("SOCKET memory"), 1);
		process_expect_log("does not speak QMP: is it another program's?");
	}
	server.greeting = "{\"error\": {\"class\": \"GenericError\", \"desc\": \"too many\"}}";
	ck_assert_int_eq(run_with_server("SOCKET memory"), 1);
	process_expect_log("qmp': too many\n");
	server.greeting = "{}";
	ck_assert_int_eq(run_with_server("SOCKET memory"), 1);
	process_expect_log("qmp': refused, without a reason\n");
}
END_TEST

START_TEST(answers_that_make_no_sense_are_told)
{
	static const struct {
		const char *words;
		const char *request;
		const char *answer;
		const char *part;
	} cases[] = {
		{ "SOCKET quit", "{\"execute\": \"quit\"}", "ok", "does not speak QMP" },
		{ "SOCKET quit", "{\"execute\": \"quit\"}", "{}", "without a reason" },
		{ "SOCKET quit", "{\"execute\": \"quit\"}", "{\"error\": \"no\"}",
		  "without a reason" },
		{ "SOCKET memory", QUERY_MEMORY, DONE, "another version of ballast" },
		{ "SOCKET memory", QUERY_MEMORY, "{\"return\": 1}", "another version" },
		{ "SOCKET memory", QUERY_MEMORY, "{\"return\": {\"ram\": \"much\"}}",
		  "another version" },
		{ "SOCKET stats", QUERY_STATS, DONE, "another version" },
		{ "SOCKET stats", QUERY_STATS, "{\"return\": {\"updates\": \"x\"}}",
		  "another version" },
	};

	for (unsigned int i = 0; i < nitems(cases); i++) {
		EXPECT({ cases[i].request, cases[i].answer });
		ck_assert_int_eq(run_with_server(cases[i].words), 1);
		process_expect_log(cases[i].part);
		ck_assert_str_eq(printed(), "");
	}
}
END_TEST

START_TEST(a_server_that_hangs_up_is_told)
{
	server.greeting = NULL;
	ck_assert_int_eq(run_with_server("SOCKET memory"), 1);
	process_expect_log("hung up without an answer: has the guest ended?");
	server.greeting = GREETING;
	EXPECT({ QUERY_MEMORY, NULL });
	ck_assert_int_eq(run_with_server("SOCKET memory"), 1);
	process_expect_log("hung up without an answer");
}
END_TEST

START_TEST(a_server_that_does_not_answer_is_not_waited_for_for_ever)
{
	impatient = true;
	server.greeting = "";
	ck_assert_int_eq(run_with_server("SOCKET memory"), 1);
	process_expect_log("no answer from '");
	server.greeting = GREETING;
	EXPECT({ QUERY_MEMORY, "" });
	ck_assert_int_eq(run_with_server("SOCKET memory"), 1);
	process_expect_log("within 10 s");
	/* Stopped, it does not even let clients in. */
	listen_at_path();
	ck_assert_int_eq(run("SOCKET memory"), 1);
	process_expect_log("no answer from '");
	fd_close(&server.listen_fd);
}
END_TEST

static void *send_megabytes(void *opaque)
{
	static char much[65536];

	(void)opaque;
	memset(much, ' ', sizeof(much));
	int fd = accept(server.listen_fd, NULL, NULL);
	while (send(fd, much, sizeof(much), MSG_NOSIGNAL) > 0)
		;
	close(fd);
	return NULL;
}

START_TEST(a_line_without_end_is_not_read_to_its_end)
{
	listen_at_path();
	ck_assert_int_eq(pthread_create(&server.thread, NULL, send_megabytes, NULL), 0);
	ck_assert_int_eq(run("SOCKET memory"), 1);
	ck_assert_int_eq(pthread_join(server.thread, NULL), 0);
	fd_close(&server.listen_fd);
	process_expect_log("E ctl: an answer from '");
}
END_TEST

START_TEST(a_socket_that_is_no_stream_is_told)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	autoclose int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	strcpy(address.sun_path, path);
	ck_assert_int_eq(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	ck_assert_int_eq(run("SOCKET status"), 1);
	process_expect_log("E ctl: connecting to '");
	ck_assert_int_eq(unlink(path), 0);
}
END_TEST

START_TEST(output_that_cannot_be_written_is_a_failure)
{
	autoclose int full = open("/dev/full", O_WRONLY | O_CLOEXEC);

	ck_assert_int_ge(dup2(full, STDOUT_FILENO), 0);
	EXPECT({ "{\"execute\": \"quit\"}", DONE });
	ck_assert_int_eq(run_with_server("SOCKET quit"), 1);
	process_expect_log("ctl: standard output: Input/output error");
	/* More than stdio keeps, and so lost before the end. */
	char much[7000] = "{\"return\": \"";
	memset(much + strlen(much), 'x', 6000);
	strcat(much, "\"}");
	EXPECT({ "{\"execute\": \"quit\"}", much });
	ck_assert_int_eq(run_with_server("--json SOCKET quit"), 1);
	process_expect_log("ctl: standard output: Input/output error");
	fd_close(&full);
}
END_TEST

/* Usage. */

START_TEST(wrong_usage_is_told_with_what_would_be_right)
{
	static const struct {
		const char *words;
		const char *part;
	} cases[] = {
		{ "--json", "ctl: the socket's path is missing" },
		{ "SOCKET", "ctl: the command is missing" },
		{ "SOCKET inflate",
		  "'inflate': it is one of status, balloon, memory, stats, " },
		{ "SOCKET attach", "attach: which device? As attach 0000:01:00.0" },
		{ "SOCKET detach ", "detach: which device? As detach 0000:01:00.0" },
		{ "SOCKET attach nonsense",
		  "ctl: attach 'nonsense': a PCI device is called 0000:01:00.0, an mdev after" },
		{ "SOCKET attach ,balloon=allowed", "ctl: attach '': a PCI device is called" },
		{ "SOCKET attach " A ",foo=bar",
		  "ctl: attach key 'foo=bar': there are balloon=allowed and on-error=detach" },
		{ "SOCKET attach " A ",balloon=allowed,on-error=stop", "key 'on-error=stop'" },
		{ "SOCKET attach 01:00.0,", "ctl: attach key '': there are" },
		{ "SOCKET attach 01:00.0 2", "'2' is too much after attach" },
		{ "SOCKET status all", "'all' is too much after status" },
		{ "SOCKET balloon", "balloon '': a size such as 512M or 4G, please" },
		{ "SOCKET balloon x", "balloon 'x': a size" },
		{ "SOCKET balloon 0", "balloon '0': a size" },
		{ "SOCKET balloon 9223372036854775808", "a size" },
		{ "SOCKET balloon 512M 1", "'1' is too much after balloon" },
		{ "SOCKET memory now", "'now' is too much after memory" },
		{ "SOCKET memory a b c d", "'a' is too much after memory" },
		{ "--jsn SOCKET memory",
		  "option '--jsn': there are --json, --force and --help" },
		{ "SOCKET balloon -1", "option '-1'" },
		{ "SOCKET attach 01:00.0 --force", "--force is for detach" },
	};

	for (unsigned int i = 0; i < nitems(cases); i++) {
		ck_assert_int_eq(run(cases[i].words), 2);
		process_expect_log(cases[i].part);
	}
	char *argv[] = { path, NULL };
	ck_assert_int_eq(ctl_main(1, argv), 2);
	process_expect_log("the socket's path is missing");
	ck_assert_str_eq(printed(), "");
}
END_TEST

START_TEST(the_help_fits_a_screen)
{
	static const char *const ways[] = { "--help", "-h", "SOCKET --help" };

	for (unsigned int i = 0; i < nitems(ways); i++) {
		unsigned int nr_lines = 0;
		ck_assert_int_eq(run(ways[i]), 0);
		const char *text = printed();
		ck_assert_ptr_eq(strstr(text, "Usage: ballast ctl "), text);
		for (const char *end; (end = strchr(text, '\n')); text = end + 1) {
			ck_assert_int_le(end - text, 79);
			nr_lines++;
		}
		ck_assert_uint_le(nr_lines, 24);
	}
	process_expect_no_log();
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		balloon_says_what_is_asked_of_the_guest,
		balloon_says_who_keeps_the_host_from_gaining,
		amounts_are_told_in_mib_or_to_the_byte,
		a_refusal_is_told,
		memory_shows_what_the_host_has_got,
		memory_shows_who_holds_it_back,
		memory_without_a_balloon_is_short,
		json_is_printed_as_it_came,
		stats_are_asked_anew_and_waited_for,
		stats_that_do_not_come_are_told_and_old_ones_are_shown_as_such,
		stats_without_a_driver_are_not_waited_for,
		powerdown_and_quit_say_what_was_done,
		a_command_is_sent_in_one_piece,
		stop_cont_and_reset_say_what_was_done,
		a_device_is_opened_and_handed_over,
		a_device_that_cannot_be_opened_is_told,
		a_device_is_detached_when_the_guest_has_let_go_of_it,
		status_shows_what_the_guest_is_made_of,
		a_cable_is_plugged_in_and_pulled,
		events_in_between_are_passed_over,
		where_nobody_listens_that_is_told_with_the_path,
		a_path_that_is_too_long_is_told,
		who_does_not_speak_qmp_is_not_believed,
		answers_that_make_no_sense_are_told,
		a_server_that_hangs_up_is_told,
		a_server_that_does_not_answer_is_not_waited_for_for_ever,
		a_line_without_end_is_not_read_to_its_end,
		a_socket_that_is_no_stream_is_told,
		output_that_cannot_be_written_is_a_failure,
		wrong_usage_is_told_with_what_would_be_right,
		the_help_fits_a_screen,
	};
	return run_tests("vmm_ctl", setup, teardown, tests, nitems(tests));
}
