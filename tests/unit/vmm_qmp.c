/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "base/fd.h"

#include "tests/fakes/process.h"
#include "vmm/machine.h"

#define MIB (1ull << 20)
#define HELLO "{\"execute\": \"qmp_capabilities\"}\n"
#define DONE "{\"return\": {}}"

static struct event_loop loop;
static struct machine machine;
static struct qmp qmp;
static char directory[64];
static char path[96];
static unsigned int fds_before;

/*
 * The machine and its balloon, in the place of vmm/machine.c and devices/virtio_balloon.c, which
 * are then not linked: what they were asked, and what they shall answer.
 */

static struct {
	struct machine_memory memory;
	struct virtio_balloon_stats stats;
	int set_error;
	int request_error;
	uint64_t kept;
	unsigned int period;
	unsigned int nr_sets;
	unsigned int nr_requests;
	unsigned int nr_power_downs;
	unsigned int nr_quits;
	int policy_error;
	enum reclaim_policy policy;
	bool automatic;
	int link_error;
	bool link_up;
	unsigned int nr_pauses;
	unsigned int nr_resumes;
	unsigned int nr_resets;
	int attach_error;
	uint64_t came_back;
	bool takes_its_time;
	attach_ended *ended;
	void *opaque;
	struct attach_request attached; /* with copies of what it points to */
	char host[64];
	char id[64];
	struct vfio_opened opened;
	const char *id_of_bridge;
	int nr_detached[2]; /* by manner */
	bool changed;       /* the balloon */
} world;

int machine_set_memory(struct machine *m, uint64_t bytes)
{
	ck_assert_ptr_eq(m, &machine);
	ck_assert(world.memory.has_balloon);
	world.kept = bytes;
	world.nr_sets++;
	if (world.set_error < 0)
		return world.set_error;
	world.memory.balloon.target = world.memory.ram > bytes ? world.memory.ram - bytes : 0;
	return 0;
}

int machine_set_policy(struct machine *m, enum reclaim_policy policy)
{
	ck_assert_ptr_eq(m, &machine);
	ck_assert(world.memory.has_balloon);
	if (world.policy_error == 0)
		world.policy = policy;
	return world.policy_error;
}

void machine_start_auto(struct machine *m)
{
	ck_assert_ptr_eq(m, &machine);
	world.automatic = true;
}

void machine_stop_auto(struct machine *m)
{
	ck_assert_ptr_eq(m, &machine);
	world.automatic = false;
}

int machine_set_link(struct machine *m, const char *name, bool up)
{
	ck_assert_ptr_eq(m, &machine);
	if (strcmp(name, "net1") != 0)
		return -ENODEV;
	if (world.link_error == 0)
		world.link_up = up;
	return world.link_error;
}

void machine_get_memory(struct machine *m, struct machine_memory *ret)
{
	ck_assert_ptr_eq(m, &machine);
	*ret = world.memory;
}

bool machine_take_balloon_change(struct machine *m)
{
	ck_assert_ptr_eq(m, &machine);
	bool changed = world.changed;
	world.changed = false;
	return changed;
}

void machine_power_down(struct machine *m)
{
	ck_assert_ptr_eq(m, &machine);
	world.nr_power_downs++;
}

void machine_quit(struct machine *m)
{
	ck_assert_ptr_eq(m, &machine);
	world.nr_quits++;
}

/* As the machine does: the event comes while the command runs. */
void machine_pause(struct machine *m)
{
	ck_assert_ptr_eq(m, &machine);
	world.nr_pauses++;
	m->paused = true;
	qmp_event(&qmp, "STOP");
}

void machine_resume(struct machine *m)
{
	ck_assert_ptr_eq(m, &machine);
	world.nr_resumes++;
	m->paused = false;
}

void machine_reset(struct machine *m)
{
	ck_assert_ptr_eq(m, &machine);
	world.nr_resets++;
}

void attach_add(struct machine *m, const struct attach_request *request, attach_ended *ended,
		void *opaque)
{
	struct attach_result result = { .r = world.attach_error, .back = world.came_back };

	ck_assert_ptr_eq(m, &machine);
	world.attached = *request;
	(void)snprintf(world.host, sizeof(world.host), "%s", request->host);
	(void)snprintf(world.id, sizeof(world.id), "%s", request->id ? request->id : "");
	if (request->opened) {
		world.opened = *request->opened;
		fd_close(&request->opened->group_fd);
		fd_close(&request->opened->container_fd);
	}
	(void)snprintf(result.reason, sizeof(result.reason), "vfio: no device: %s", world.host);
	world.ended = ended;
	world.opaque = opaque;
	if (!world.takes_its_time)
		ended(opaque, &result);
}

void attach_forget(struct attach *attach, const void *opaque)
{
	ck_assert_ptr_eq(attach, &machine.attach);
	ck_assert_ptr_eq(opaque, world.opaque);
	world.opaque = NULL;
}

int attach_remove(struct machine *m, const char *id, enum detach_manner manner)
{
	ck_assert_ptr_eq(m, &machine);
	if (strcmp(id, "a") != 0)
		return -ENODEV;
	world.nr_detached[manner]++;
	if (manner == DETACH_BY_FORCE)
		qmp_event_device(&qmp, "DEVICE_DELETED", id, "0000:01:00.0");
	return 0;
}

const char *attach_id(const struct attach *attach, const struct pci_device *device)
{
	ck_assert_ptr_eq(attach, &machine.attach);
	return strcmp(device->name, "host bridge") == 0 ? world.id_of_bridge : NULL;
}

unsigned int virtio_balloon_get_stats_period(struct virtio_balloon *balloon)
{
	ck_assert_ptr_eq(balloon, &machine.balloon);
	return world.period;
}

int virtio_balloon_request_stats(struct virtio_balloon *balloon)
{
	ck_assert_ptr_eq(balloon, &machine.balloon);
	world.nr_requests++;
	return world.request_error;
}

void virtio_balloon_get_stats(struct virtio_balloon *balloon, struct virtio_balloon_stats *ret)
{
	ck_assert_ptr_eq(balloon, &machine.balloon);
	*ret = world.stats;
}

void virtio_balloon_set_stats_period(struct virtio_balloon *balloon, unsigned int seconds)
{
	ck_assert_ptr_eq(balloon, &machine.balloon);
	world.period = seconds;
}

const char *virtio_balloon_stat_name(unsigned int tag)
{
	return tag == 0 ? "swap-in" : tag == 4 ? "free-memory" : "another";
}

static void have_balloon(void)
{
	machine.config.has_balloon = true;
	world.memory.has_balloon = true;
}

static void raise_inhibitors(unsigned int nr_inhibitors, enum reclaim_policy policy)
{
	struct reclaim_figures *f = &world.memory.reclaim;

	f->policy = policy;
	f->nr_inhibitors = nr_inhibitors;
	f->nr_owners = nr_inhibitors < RECLAIM_MAX_OWNERS ? nr_inhibitors : RECLAIM_MAX_OWNERS;
	for (unsigned int i = 0; i < f->nr_owners; i++)
		(void)snprintf(f->owners[i], RECLAIM_OWNER_SIZE, "vfio group %u", i + 3);
	world.memory.pinned = world.memory.ram;
}

static void setup(void)
{
	process_keep_log();
	(void)strcpy(directory, "/tmp/ballast-qmp-XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(directory));
	(void)snprintf(path, sizeof(path), "%s/qmp", directory);
	ck_assert_int_eq(event_loop_init(&loop), 0);
	world.memory.ram = 1024 * MIB;
	for (unsigned int i = 0; i < VIRTIO_BALLOON_NR_STATS; i++)
		world.stats.values[i] = VIRTIO_BALLOON_NO_STAT;
	json_decref(json_object()); /* which seeds its tables now and not within a test */
	fds_before = process_nr_fds();
}

/* After which nothing of the socket is left, whatever the test did. */
static void teardown(void)
{
	qmp_finish(&qmp);
	qmp_finish(&qmp);
	ck_assert_uint_eq(process_nr_fds(), fds_before);
	ck_assert_int_eq(rmdir(directory), 0);
}

/* Runs the loop until nobody is ready any more. One that never comes to rest spins. */
static void settle(void)
{
	struct epoll_event e;

	for (unsigned int rounds = 0; epoll_wait(loop.epoll_fd, &e, 1, 0) == 1; rounds++) {
		struct event_source *source = e.data.ptr;
		ck_assert_msg(rounds < 10000, "the loop spins");
		source->ready(source, e.events);
	}
}

static int init(void)
{
	return qmp_init(&qmp, &loop, path, &machine);
}

static int try_socket(int type)
{
	int fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);

	ck_assert_int_ge(fd, 0);
	return fd;
}

static struct sockaddr_un address_of(const char *name)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	(void)snprintf(address.sun_path, sizeof(address.sun_path), "%s", name);
	return address;
}

static int connect_to_path(int fd)
{
	struct sockaddr_un address = address_of(path);

	return connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0 ? -errno : 0;
}

/* A socket of somebody else's at the path. */
static int bind_path(int type)
{
	struct sockaddr_un address = address_of(path);

	int fd = try_socket(type);
	ck_assert_int_eq(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	return fd;
}

static void send_bytes(int fd, const char *bytes, size_t size)
{
	ck_assert_int_eq(send(fd, bytes, size, MSG_NOSIGNAL), size);
	settle();
}

static void send_text(int fd, const char *text)
{
	send_bytes(fd, text, strlen(text));
}

/* What can be read now. */
static const char *read_all(int fd)
{
	static char text[4 * QMP_MAX_OUTPUT];
	size_t n = 0;

	for (;;) {
		ssize_t got = recv(fd, text + n, sizeof(text) - 1 - n, MSG_DONTWAIT);
		if (got <= 0)
			break;
		n += (size_t)got;
		settle();
	}
	text[n] = '\0';
	return text;
}

/* One whole line, which it returns without its end. */
static const char *read_one(int fd)
{
	static char line[QMP_MAX_OUTPUT];

	const char *text = read_all(fd);
	size_t n = strlen(text);
	ck_assert_msg(n >= 2 && strcmp(text + n - 2, "\r\n") == 0, "no line: \"%s\"", text);
	ck_assert_msg(memchr(text, '\n', n - 1) == NULL, "lines: \"%s\"", text);
	memcpy(line, text, n - 2);
	line[n - 2] = '\0';
	return line;
}

static bool has_ended(int fd)
{
	char byte;

	return recv(fd, &byte, 1, MSG_DONTWAIT) == 0;
}

static int connect_client(void)
{
	int fd = try_socket(SOCK_STREAM);

	ck_assert_int_eq(connect_to_path(fd), 0);
	settle();
	return fd;
}

/* One that has read the greeting and negotiated. */
static int start(void)
{
	if (!qmp.loop)
		ck_assert_int_eq(init(), 0);
	int fd = connect_client();
	(void)read_one(fd);
	send_text(fd, HELLO);
	ck_assert_str_eq(read_one(fd), DONE);
	return fd;
}

static const char *ask(int fd, const char *request)
{
	send_text(fd, request);
	send_text(fd, "\n");
	return read_one(fd);
}

static void expect_error(const char *answer, const char *class, const char *part)
{
	char start_of_it[64];

	(void)snprintf(start_of_it, sizeof(start_of_it),
		       "{\"error\": {\"class\": \"%s\", \"desc\": \"", class);
	ck_assert_msg(strncmp(answer, start_of_it, strlen(start_of_it)) == 0, "%s", answer);
	ck_assert_msg(strstr(answer, part) != NULL, "no \"%s\" in %s", part, answer);
	json_t *json = json_loads(answer, JSON_REJECT_DUPLICATES, NULL);
	ck_assert_msg(json != NULL, "%s", answer);
	json_decref(json);
}

/* The dialogue. */

START_TEST(a_client_is_greeted_with_a_version)
{
	int major = -1, minor = -1, micro = -1;
	char expected[256], package[32];

	ck_assert_int_eq(init(), 0);
	int fd = connect_client();
	const char *greeting = read_one(fd);
	ck_assert_int_eq(sscanf(greeting,
				"{\"QMP\": {\"version\": {\"qemu\": {\"major\": %d, "
				"\"minor\": %d, \"micro\": %d}, \"package\": \"%31[^\"]\"",
				&major, &minor, &micro, package),
			 4);
	(void)snprintf(expected, sizeof(expected),
		       "{\"QMP\": {\"version\": {\"qemu\": {\"major\": %d, \"minor\": %d, "
		       "\"micro\": %d}, \"package\": \"ballast-%d.%d.%d\"}, "
		       "\"capabilities\": []}}",
		       major, minor, micro, major, minor, micro);
	ck_assert_str_eq(greeting, expected);
	close(fd);
}
END_TEST

START_TEST(before_the_negotiation_nothing_else_is_known)
{
	ck_assert_int_eq(init(), 0);
	int fd = connect_client();
	(void)read_all(fd);
	expect_error(ask(fd, "{\"execute\": \"quit\"}"), "CommandNotFound",
		     "'quit': first say {\\\"execute\\\": \\\"qmp_capabilities\\\"}");
	expect_error(ask(fd, "{\"execute\": \"nonsense\"}"), "CommandNotFound", "'nonsense'");
	expect_error(ask(fd, "{\"execute\": \"balloon\", \"arguments\": 1}"), "CommandNotFound",
		     "'balloon'");
	ck_assert_uint_eq(world.nr_quits, 0);
	ck_assert_str_eq(ask(fd, "{\"execute\": \"qmp_capabilities\", \"arguments\": "
				 "{\"enable\": []}, \"id\": \"a\"}"),
			 "{\"return\": {}, \"id\": \"a\"}");
	expect_error(ask(fd, "{\"execute\": \"qmp_capabilities\"}"), "CommandNotFound", "once");
	(void)ask(fd, "{\"execute\": \"quit\"}");
	ck_assert_uint_eq(world.nr_quits, 1);
	close(fd);
}
END_TEST

START_TEST(a_capability_that_is_not_offered_is_refused)
{
	ck_assert_int_eq(init(), 0);
	int fd = connect_client();
	(void)read_all(fd);
	expect_error(ask(fd, "{\"execute\": \"qmp_capabilities\", \"arguments\": "
			     "{\"enable\": [\"oob\"]}}"),
		     "GenericError", "'oob'");
	expect_error(ask(fd, "{\"execute\": \"qmp_capabilities\", \"arguments\": "
			     "{\"enable\": [1]}}"),
		     "GenericError", "not a string");
	expect_error(ask(fd, "{\"execute\": \"qmp_capabilities\", \"arguments\": "
			     "{\"enable\": \"oob\"}}"),
		     "GenericError", "'enable' must be a list");
	expect_error(ask(fd, "{\"execute\": \"query-status\"}"), "CommandNotFound", "first");
	close(fd);
}
END_TEST

START_TEST(ids_of_any_type_come_back)
{
	static const char *const ids[] = {
		"1",
		"-9223372036854775808",
		"1.5",
		"\"a\"",
		"\"\"",
		"null",
		"false",
		"[1, [], {}]",
		"{\"b\": 1, \"a\": {}}",
		"\"}\\\"{[\\\\\"",
	};
	int fd = start();
	char request[128], expected[128];

	for (unsigned int i = 0; i < nitems(ids); i++) {
		(void)snprintf(request, sizeof(request),
			       "{\"id\": %s, \"execute\": \"system_powerdown\"}", ids[i]);
		(void)snprintf(expected, sizeof(expected), "{\"return\": {}, \"id\": %s}",
			       ids[i]);
		ck_assert_str_eq(ask(fd, request), expected);
	}
	const char *answer = ask(fd, "{\"execute\": \"none\", \"id\": [7]}");
	expect_error(answer, "CommandNotFound", "'none'");
	ck_assert_ptr_nonnull(strstr(answer, "}, \"id\": [7]}"));
	/* Even a request that is wrong in itself has its id. */
	ck_assert_ptr_nonnull(strstr(ask(fd, "{\"id\": 8}"), "}, \"id\": 8}"));
	close(fd);
}
END_TEST

START_TEST(wrong_requests_are_told_what_is_wrong)
{
	static const struct {
		const char *request;
		const char *class;
		const char *part;
	} cases[] = {
		{ "{}", "GenericError", "'execute' is missing" },
		{ "{\"execute\": 1}", "GenericError", "'execute' must be a string" },
		{ "{\"execute\": null}", "GenericError", "'execute' must be a string" },
		{ "[]", "GenericError", "a command is an object" },
		{ "[{\"execute\": \"quit\"}]", "GenericError", "a command is an object" },
		{ "{\"execute\": \"quit\", \"speed\": 1}", "GenericError", "'speed'" },
		{ "{\"exec-oob\": \"quit\"}", "GenericError", "'exec-oob'" },
		{ "{\"execute\": \"quit\", \"arguments\": []}", "GenericError",
		  "'arguments' must be an object" },
		{ "{\"execute\": \"quit\", \"arguments\": null}", "GenericError",
		  "'arguments' must be an object" },
		{ "{\"execute\": \"quit\", \"arguments\": {\"force\": true}}", "GenericError",
		  "'force' is none of quit" },
		{ "{\"execute\": \"Quit\"}", "CommandNotFound", "no command 'Quit'" },
		{ "{\"execute\": \"\"}", "CommandNotFound", "no command ''" },
		{ "{\"execute\": \"%s%n\"}", "CommandNotFound", "no command '%s%n'" },
		{ "{\"execute\": \"\\u00e4\\\"\\u0001\"}", "CommandNotFound",
		  "'\xc3\xa4\\\"\\u0001'" },
	};
	int fd = start();

	for (unsigned int i = 0; i < nitems(cases); i++)
		expect_error(ask(fd, cases[i].request), cases[i].class, cases[i].part);
	ck_assert_uint_eq(world.nr_quits, 0);
	close(fd);
}
END_TEST

/* Commands. */

START_TEST(the_version_the_status_and_the_commands_can_be_asked_for)
{
	int fd = start();

	const char *version = ask(fd, "{\"execute\": \"query-version\"}");
	ck_assert_ptr_eq(strstr(version, "{\"return\": {\"qemu\": {\"major\": "), version);
	ck_assert_str_eq(ask(fd, "{\"execute\": \"query-status\"}"),
			 "{\"return\": {\"status\": \"running\", \"running\": true, "
			 "\"singlestep\": false}}");
	ck_assert_str_eq(ask(fd, "{\"execute\": \"query-commands\"}"),
			 "{\"return\": [{\"name\": \"qmp_capabilities\"}, "
			 "{\"name\": \"query-version\"}, {\"name\": \"query-commands\"}, "
			 "{\"name\": \"query-status\"}, "
			 "{\"name\": \"query-memory-size-summary\"}, "
			 "{\"name\": \"query-cpus-fast\"}, {\"name\": \"query-pci\"}, "
			 "{\"name\": \"balloon\"}, {\"name\": \"query-balloon\"}, "
			 "{\"name\": \"stop\"}, {\"name\": \"cont\"}, "
			 "{\"name\": \"system_reset\"}, {\"name\": \"system_powerdown\"}, "
			 "{\"name\": \"quit\"}, {\"name\": \"qom-list\"}, "
			 "{\"name\": \"qom-get\"}, {\"name\": \"qom-set\"}, "
			 "{\"name\": \"device_add\"}, {\"name\": \"device_del\"}, "
			 "{\"name\": \"set_link\"}, {\"name\": \"x-ballast-query-memory\"}, "
			 "{\"name\": \"x-ballast-query-dma-map\"}, "
			 "{\"name\": \"x-ballast-query-guest-stats\"}, "
			 "{\"name\": \"x-ballast-request-guest-stats\"}, "
			 "{\"name\": \"x-ballast-set-stats-period\"}, "
			 "{\"name\": \"x-ballast-set-policy\"}, "
			 "{\"name\": \"x-ballast-set-auto\"}]}");
	close(fd);
}
END_TEST

START_TEST(the_guest_can_be_ended)
{
	int fd = start();

	ck_assert_str_eq(ask(fd, "{\"execute\": \"system_powerdown\", \"arguments\": {}}"),
			 DONE);
	ck_assert_uint_eq(world.nr_power_downs, 1);
	ck_assert_uint_eq(world.nr_quits, 0);
	ck_assert_str_eq(ask(fd, "{\"execute\": \"quit\"}"), DONE);
	ck_assert_uint_eq(world.nr_quits, 1);
	close(fd);
}
END_TEST

START_TEST(balloon_says_what_the_guest_is_to_keep)
{
	int fd = start();

	have_balloon();
	ck_assert_str_eq(ask(fd, "{\"execute\": \"balloon\", \"arguments\": "
				 "{\"value\": 536870912}}"),
			 DONE);
	ck_assert_uint_eq(world.kept, 512 * MIB);
	ck_assert_str_eq(ask(fd, "{\"execute\": \"balloon\", \"arguments\": "
				 "{\"value\": 9223372036854775807}}"),
			 DONE);
	ck_assert_uint_eq(world.kept, INT64_MAX);
	world.memory.balloon.actual = 500 * MIB;
	ck_assert_str_eq(ask(fd, "{\"execute\": \"query-balloon\"}"),
			 "{\"return\": {\"actual\": 549453824}}");
	close(fd);
}
END_TEST

START_TEST(balloon_tells_that_and_why_the_host_gains_nothing)
{
	int fd = start();

	have_balloon();
	raise_inhibitors(1, RECLAIM_INHIBIT);
	ck_assert_str_eq(
		ask(fd, "{\"execute\": \"balloon\", \"arguments\": {\"value\": 536870912}}"),
		"{\"return\": {\"x-ballast\": {\"host-gains\": false, \"policy\": \"inhibit\", "
		"\"inhibitors\": 1, \"inhibited-by\": [\"vfio group 3\"], "
		"\"pinned\": 1073741824}}}");
	/* Nothing is asked for, and nothing is missed. */
	ck_assert_str_eq(ask(fd, "{\"execute\": \"balloon\", \"arguments\": "
				 "{\"value\": 1073741824}}"),
			 DONE);
	raise_inhibitors(RECLAIM_MAX_OWNERS + 2, RECLAIM_UNSAFE);
	ck_assert_str_eq(
		ask(fd, "{\"execute\": \"balloon\", \"arguments\": {\"value\": 536870912}}"),
		"{\"return\": {\"x-ballast\": {\"host-gains\": false, \"policy\": \"unsafe\", "
		"\"inhibitors\": 10, \"inhibited-by\": [\"vfio group 3\", \"vfio group 4\", "
		"\"vfio group 5\", \"vfio group 6\", \"vfio group 7\", \"vfio group 8\", "
		"\"vfio group 9\", \"vfio group 10\"], \"pinned\": 1073741824}}}");
	close(fd);
}
END_TEST

START_TEST(balloon_refuses_what_is_no_amount)
{
	static const struct {
		const char *arguments;
		const char *part;
	} cases[] = {
		{ "{\"value\": 0}", "'value' is 0: it goes from 1 to 9223372036854775807" },
		{ "{\"value\": -1}", "'value' is -1" },
		{ "{\"value\": 1.0}", "'value' must be an integer" },
		{ "{\"value\": \"512M\"}", "'value' must be an integer" },
		{ "{\"value\": null}", "'value' must be an integer" },
		{ "{\"value\": true}", "'value' must be an integer" },
		{ "{\"value\": [1]}", "'value' must be an integer" },
		{ "{\"value\": 9223372036854775808}", "this is no JSON" }, /* to the parser */
		{ "{}", "'value' is missing: balloon needs it" },
		{ "{\"Value\": 1}", "'Value' is none of balloon" },
		{ "{\"value\": 1, \"id\": \"balloon0\"}", "'id' is none of balloon" },
	};
	int fd = start();
	char request[128];

	have_balloon();
	for (unsigned int i = 0; i < nitems(cases); i++) {
		(void)snprintf(request, sizeof(request),
			       "{\"execute\": \"balloon\", \"arguments\": %s}",
			       cases[i].arguments);
		expect_error(ask(fd, request), "GenericError", cases[i].part);
	}
	expect_error(ask(fd, "{\"execute\": \"balloon\"}"), "GenericError",
		     "'value' is missing");
	ck_assert_uint_eq(world.nr_sets, 0);
	world.set_error = -ERANGE;
	expect_error(ask(fd, "{\"execute\": \"balloon\", \"arguments\": {\"value\": 4096}}"),
		     "GenericError", "value 4096: the guest is to keep 67108864 or more");
	world.memory.ram = 32 * MIB;
	expect_error(ask(fd, "{\"execute\": \"balloon\", \"arguments\": {\"value\": 4096}}"),
		     "GenericError", "value 4096: the guest is to keep 33554432 or more");
	world.set_error = -EIO;
	expect_error(ask(fd, "{\"execute\": \"balloon\", \"arguments\": {\"value\": 4096}}"),
		     "GenericError", "value 4096: Input/output error");
	close(fd);
}
END_TEST

START_TEST(without_a_balloon_its_commands_say_so)
{
	static const char *const requests[] = {
		"{\"execute\": \"balloon\", \"arguments\": {\"value\": 1048576}}",
		"{\"execute\": \"query-balloon\"}",
		"{\"execute\": \"x-ballast-query-guest-stats\"}",
		"{\"execute\": \"x-ballast-request-guest-stats\"}",
		("{\"execute\": \"x-ballast-set-stats-period\", \"arguments\": "
		 "{\"seconds\": 1}}"),
	};
	int fd = start();

	for (unsigned int i = 0; i < nitems(requests); i++)
		expect_error(ask(fd, requests[i]), "DeviceNotActive", "has no balloon");
	ck_assert_uint_eq(world.nr_requests, 0);
	close(fd);
}
END_TEST

START_TEST(the_memory_report_names_every_figure)
{
	int fd = start();

	have_balloon();
	raise_inhibitors(1, RECLAIM_INHIBIT);
	world.memory.balloon = (struct virtio_balloon_state){
		.target = 1,
		.actual = 2,
		.running = true,
		.tells_host = false,
		.resetting = true,
		.nr_waiting = 1,
		.nr_retries = 3,
		.nr_elements = { 4, 5, 6, 7 },
	};
	struct reclaim_figures *f = &world.memory.reclaim;
	f->held = 8;
	f->reclaimed = 9;
	f->held_back = 10;
	f->incomplete = 11;
	f->resting = 27;
	f->granule = 28;
	f->nr_released = 29;
	f->nr_restored = 30;
	f->nr_not_released = 31;
	f->nr_not_restored = 32;
	f->nr_pinners = 33;
	f->policies[RECLAIM_COORDINATED] = (struct reclaim_counts){ 34, 35, 36, 37 };
	world.memory.auto_balloon = (struct auto_balloon){
		.config = { .on = true, .min = 38, .max = 39 },
		.reason = AUTO_BALLOON_HOST_TIGHT,
		.nr_changes = 40,
	};
	f->policies[RECLAIM_DIRECT] = (struct reclaim_counts){ 12, 13, 14, 15 };
	f->policies[RECLAIM_INHIBIT] = (struct reclaim_counts){ 16, 17, 18, 19 };
	f->policies[RECLAIM_UNSAFE] = (struct reclaim_counts){ 20, 21, 22, 23 };
	f->reports = (struct reclaim_counts){ 24, 25, 26, UINT64_MAX };
	ck_assert_str_eq(
		ask(fd, "{\"execute\": \"x-ballast-query-memory\"}"),
		"{\"return\": {\"ram\": 1073741824, \"pinned\": 1073741824, "
		"\"balloon\": true, \"target\": 1, \"actual\": 2, \"held\": 8, "
		"\"reclaimed\": 9, \"held-back\": {\"bytes\": 10, \"incomplete\": 11, "
		"\"resting\": 27, \"inhibitors\": 1, \"inhibited-by\": [\"vfio group 3\"]}, "
		"\"policy\": \"inhibit\", \"driver\": {\"running\": true, "
		"\"tells-host-first\": false, \"resetting\": true}, "
		"\"granules\": {\"size\": 28, \"released\": 29, \"restored\": 30, "
		"\"not-released\": 31, \"not-restored\": 32, \"pinners\": 33}, "
		"\"auto\": {\"enabled\": true, \"min\": 38, \"max\": 39, "
		"\"last-change\": \"host-tight\", \"changes\": 40}, \"discards\": {"
		"\"direct\": {\"taken\": 12, \"calls\": 13, \"bytes\": 14, \"failures\": 15}, "
		"\"inhibit\": {\"taken\": 16, \"calls\": 17, \"bytes\": 18, \"failures\": 19}, "
		"\"coordinated\": {\"taken\": 34, \"calls\": 35, \"bytes\": 36, "
		"\"failures\": 37}, "
		"\"unsafe\": {\"taken\": 20, \"calls\": 21, \"bytes\": 22, \"failures\": 23}}, "
		"\"reports\": {\"taken\": 24, \"calls\": 25, \"bytes\": 26, "
		"\"failures\": 9223372036854775807}, "
		"\"elements\": {\"inflate\": 4, \"deflate\": 5, \"stats\": 6, "
		"\"reporting\": 7}, \"deflates\": {\"waiting\": 1, \"retries\": 3}}}");
	close(fd);
}
END_TEST

START_TEST(the_memory_report_is_there_without_a_balloon)
{
	int fd = start();

	const char *answer = ask(fd, "{\"execute\": \"x-ballast-query-memory\"}");
	ck_assert_ptr_nonnull(strstr(answer, "{\"ram\": 1073741824, \"pinned\": 0, "
					     "\"balloon\": false, \"target\": 0,"));
	ck_assert_ptr_nonnull(strstr(answer, "\"inhibited-by\": []}, \"policy\": \"direct\""));
	close(fd);
}
END_TEST

START_TEST(only_statistics_that_the_guest_reported_are_told)
{
	int fd = start();

	have_balloon();
	ck_assert_str_eq(ask(fd, "{\"execute\": \"x-ballast-query-guest-stats\"}"),
			 "{\"return\": {\"last-update\": 0, \"updates\": 0, \"stats\": {}}}");
	world.stats.updated = 1700000000;
	world.stats.nr_updates = 7;
	world.stats.values[4] = 123 * MIB;
	world.stats.values[0] = 0;
	world.stats.values[15] = UINT64_MAX - 1; /* a guest may say anything */
	ck_assert_str_eq(
		ask(fd, "{\"execute\": \"x-ballast-query-guest-stats\"}"),
		"{\"return\": {\"last-update\": 1700000000, \"updates\": 7, \"stats\": {"
		"\"stat-swap-in\": 0, \"stat-free-memory\": 128974848, "
		"\"stat-another\": 9223372036854775807}}}");
	close(fd);
}
END_TEST

START_TEST(statistics_can_be_asked_for)
{
	static const char request[] = "{\"execute\": \"x-ballast-request-guest-stats\"}";
	int fd = start();

	have_balloon();
	ck_assert_str_eq(ask(fd, request), DONE);
	ck_assert_uint_eq(world.nr_requests, 1);
	world.request_error = -EAGAIN;
	expect_error(ask(fd, request), "GenericError", "asked already");
	world.request_error = -ENOTCONN;
	expect_error(ask(fd, request), "DeviceNotActive", "no balloon driver");
	world.request_error = -EIO;
	expect_error(ask(fd, request), "GenericError", "statistics: Input/output error");
	close(fd);
}
END_TEST

START_TEST(the_period_of_statistics_can_be_set)
{
	int fd = start();

	have_balloon();
	ck_assert_str_eq(ask(fd, "{\"execute\": \"x-ballast-set-stats-period\", "
				 "\"arguments\": {\"seconds\": 31536000}}"),
			 DONE);
	ck_assert_uint_eq(world.period, 31536000);
	expect_error(ask(fd, "{\"execute\": \"x-ballast-set-stats-period\", \"arguments\": "
			     "{\"seconds\": 31536001}}"),
		     "GenericError", "'seconds' is 31536001: it goes from 0 to 31536000");
	expect_error(ask(fd, "{\"execute\": \"x-ballast-set-stats-period\", \"arguments\": "
			     "{\"seconds\": -1}}"),
		     "GenericError", "'seconds' is -1");
	ck_assert_uint_eq(world.period, 31536000);
	ck_assert_str_eq(ask(fd, "{\"execute\": \"x-ballast-set-stats-period\", "
				 "\"arguments\": {\"seconds\": 0}}"),
			 DONE);
	ck_assert_uint_eq(world.period, 0);
	close(fd);
}
END_TEST

START_TEST(the_policy_can_be_changed)
{
	int fd = start();

	expect_error(ask(fd, "{\"execute\": \"x-ballast-set-policy\", \"arguments\": "
			     "{\"policy\": \"inhibit\"}}"),
		     "DeviceNotActive", "no balloon");
	have_balloon();
	ck_assert_str_eq(ask(fd, "{\"execute\": \"x-ballast-set-policy\", \"arguments\": "
				 "{\"policy\": \"coordinated\"}}"),
			 DONE);
	ck_assert_int_eq(world.policy, RECLAIM_COORDINATED);
	expect_error(ask(fd, "{\"execute\": \"x-ballast-set-policy\", \"arguments\": "
			     "{\"policy\": \"unsafe\"}}"),
		     "GenericError", "'unsafe': it is inhibit or coordinated");
	expect_error(ask(fd, "{\"execute\": \"x-ballast-set-policy\", \"arguments\": "
			     "{\"policy\": 7}}"),
		     "GenericError", "'policy' must be a string");
	expect_error(ask(fd, "{\"execute\": \"x-ballast-set-policy\"}"), "GenericError",
		     "'policy' is missing");
	world.policy_error = -ENOMEM;
	expect_error(ask(fd, "{\"execute\": \"x-ballast-set-policy\", \"arguments\": "
			     "{\"policy\": \"inhibit\"}}"),
		     "GenericError", "the host has no memory to give all back");
	expect_error(ask(fd, "{\"execute\": \"x-ballast-set-policy\", \"arguments\": "
			     "{\"policy\": \"coordinated\"}}"),
		     "GenericError", "can be locked");
	world.policy_error = -EPERM;
	expect_error(ask(fd, "{\"execute\": \"x-ballast-set-policy\", \"arguments\": "
			     "{\"policy\": \"inhibit\"}}"),
		     "GenericError", "unsafe-reclaim");
	ck_assert_int_eq(world.policy, RECLAIM_COORDINATED);
	close(fd);
}
END_TEST

START_TEST(the_automatic_can_be_switched)
{
	int fd = start();

	expect_error(ask(fd, "{\"execute\": \"x-ballast-set-auto\", \"arguments\": "
			     "{\"enabled\": true}}"),
		     "DeviceNotActive", "no balloon");
	have_balloon();
	ck_assert_str_eq(ask(fd, "{\"execute\": \"x-ballast-set-auto\", \"arguments\": "
				 "{\"enabled\": true}}"),
			 DONE);
	ck_assert(world.automatic);
	ck_assert_str_eq(ask(fd, "{\"execute\": \"x-ballast-set-auto\", \"arguments\": "
				 "{\"enabled\": false}}"),
			 DONE);
	ck_assert(!world.automatic);
	expect_error(ask(fd, "{\"execute\": \"x-ballast-set-auto\", \"arguments\": "
			     "{\"enabled\": \"on\"}}"),
		     "GenericError", "'enabled' must be true or false");
	close(fd);
}
END_TEST

START_TEST(a_cable_can_be_pulled)
{
	int fd = start();

	ck_assert_str_eq(ask(fd, "{\"execute\": \"set_link\", \"arguments\": "
				 "{\"name\": \"net1\", \"up\": true}}"),
			 DONE);
	ck_assert(world.link_up);
	ck_assert_str_eq(ask(fd, "{\"execute\": \"set_link\", \"arguments\": "
				 "{\"up\": false, \"name\": \"net1\"}}"),
			 DONE);
	ck_assert(!world.link_up);
	expect_error(ask(fd, "{\"execute\": \"set_link\", \"arguments\": "
			     "{\"name\": \"net7\", \"up\": true}}"),
		     "DeviceNotFound", "no network card 'net7'");
	world.link_error = -EPIPE;
	expect_error(ask(fd, "{\"execute\": \"set_link\", \"arguments\": "
			     "{\"name\": \"net1\", \"up\": true}}"),
		     "GenericError", "gone");
	expect_error(ask(fd, "{\"execute\": \"set_link\", \"arguments\": "
			     "{\"name\": \"net1\"}}"),
		     "GenericError", "'up' is missing");
	expect_error(ask(fd, "{\"execute\": \"set_link\", \"arguments\": {\"up\": true}}"),
		     "GenericError", "'name' is missing");
	expect_error(ask(fd, "{\"execute\": \"set_link\", \"arguments\": "
			     "{\"name\": \"net1\", \"up\": 1}}"),
		     "GenericError", "'up' must be true or false");
	expect_error(ask(fd, "{\"execute\": \"set_link\", \"arguments\": "
			     "{\"name\": \"net1\", \"up\": true, \"down\": 1}}"),
		     "GenericError", "'down' is none of set_link");
	ck_assert(!world.link_up);
	close(fd);
}
END_TEST

START_TEST(events_reach_who_has_negotiated)
{
	qmp_event(&qmp, "NOBODY_HEARS"); /* not initialised */
	int one = start();
	int two = start();
	int silent = connect_client();
	(void)read_one(silent); /* the greeting */

	qmp_event(&qmp, "X_BALLAST_MEMORY_WAITS");
	const char *event = read_one(one);
	ck_assert_ptr_eq(strstr(event, "{\"event\": \"X_BALLAST_MEMORY_WAITS\", "
				       "\"timestamp\": {\"seconds\": "),
			 event);
	ck_assert_ptr_nonnull(strstr(read_one(two), "X_BALLAST_MEMORY_WAITS"));
	ck_assert_str_eq(read_all(silent), "");
	/* One that does not read is dropped, and nobody waits for it. */
	for (unsigned int i = 0; i < 50000 && qmp.nr_clients == 3; i++) {
		qmp_event(&qmp, "X_BALLAST_MEMORY_SERVED");
		(void)read_all(two);
	}
	ck_assert_uint_eq(qmp.nr_clients, 2);
	close(one);
	close(two);
	close(silent);
}
END_TEST

/* What a QEMU has as well. */

#define ASK(command) ask(fd, "{\"execute\": \"" command "\"}")
#define ASK_WITH(command, arguments) \
	ask(fd, "{\"execute\": \"" command "\", \"arguments\": {" arguments "}}")

START_TEST(a_guest_can_be_stopped_and_go_on)
{
	int fd = start();
	int other = start();

	send_text(fd, "{\"execute\": \"stop\"}{\"execute\": \"query-status\"}\n");
	const char *text = read_all(fd);
	const char *answer = strstr(text, "\r\n" DONE "\r\n");
	ck_assert_msg(strstr(text, "{\"event\": \"STOP\", ") == text && answer, "%s", text);
	ck_assert_ptr_nonnull(strstr(answer,
				     "{\"return\": {\"status\": \"paused\", \"running\": "
				     "false, \"singlestep\": false}}"));
	ck_assert_ptr_nonnull(strstr(read_one(other), "{\"event\": \"STOP\", "));
	ck_assert_str_eq(ASK("cont"), DONE);
	ck_assert_str_eq(ASK("system_reset"), DONE);
	ck_assert(world.nr_pauses == 1 && world.nr_resumes == 1 && world.nr_resets == 1);
	ck_assert_ptr_nonnull(strstr(ASK("query-status"), "\"running\": true"));
	close(fd);
	close(other);
}
END_TEST

/* The event of its own command is what is too much for it: it goes when the command is done. */
START_TEST(who_does_not_read_may_be_dropped_in_its_own_command)
{
	static const char request[] = "{\"execute\": \"stop\"}";
	int fd = start();

	for (unsigned int i = 0; i < 50000 && qmp.nr_clients == 1; i++) {
		if (send(fd, request, strlen(request), MSG_NOSIGNAL) < 0)
			break;
		settle();
	}
	ck_assert_uint_eq(qmp.nr_clients, 0);
	process_expect_log("does not read");
	close(fd);
}
END_TEST

START_TEST(events_have_their_data)
{
	qmp_event_reason(&qmp, "SHUTDOWN", "guest-reset"); /* not initialised */
	qmp_event_action(&qmp, "GUEST_PANICKED", "run");
	int fd = start();

	qmp_event_reason(&qmp, "SHUTDOWN", "host-signal");
	ck_assert_ptr_nonnull(strstr(read_one(fd), "{\"event\": \"SHUTDOWN\", \"data\": "
						   "{\"guest\": false, \"reason\": "
						   "\"host-signal\"}, \"timestamp\""));
	qmp_event_reason(&qmp, "RESET", "guest-reset");
	ck_assert_ptr_nonnull(strstr(read_one(fd), "{\"event\": \"RESET\", \"data\": "
						   "{\"guest\": true, \"reason\": "
						   "\"guest-reset\"}, \"timestamp\""));
	qmp_event_action(&qmp, "GUEST_PANICKED", "poweroff");
	ck_assert_ptr_nonnull(strstr(read_one(fd), "{\"event\": \"GUEST_PANICKED\", \"data\": "
						   "{\"action\": \"poweroff\"}, "));
	close(fd);
}
END_TEST

static const char *balloon_event(char *text, size_t size, uint64_t actual)
{
	(void)snprintf(text, size,
		       "{\"event\": \"BALLOON_CHANGE\", \"data\": {\"actual\": %llu}, ",
		       (unsigned long long)actual);
	return text;
}

/* As a vCPU and the event loop do. */
static void change_balloon(void)
{
	world.changed = true;
	qmp_balloon_changed(&qmp);
}

START_TEST(a_balloon_is_told_of_once_a_second_and_its_last_size_always)
{
	struct pollfd p;
	char text[128];

	change_balloon(); /* not initialised */
	have_balloon();
	int fd = start();
	world.memory.balloon.actual = 24 * MIB;
	change_balloon();
	ck_assert_ptr_nonnull(
		strstr(read_one(fd), balloon_event(text, sizeof(text), 1000 * MIB)));
	for (unsigned int i = 0; i < 100; i++) {
		world.memory.balloon.actual += MIB;
		change_balloon();
		settle();
	}
	ck_assert(world.changed); /* so nobody is woken for it again */
	ck_assert_str_eq(read_all(fd), "");
	p = (struct pollfd){ .fd = qmp.balloon_timer.fd, .events = POLLIN };
	ck_assert_int_eq(poll(&p, 1, 5000), 1);
	settle();
	ck_assert_ptr_nonnull(
		strstr(read_one(fd), balloon_event(text, sizeof(text), 900 * MIB)));
	/* Nothing new in its second, and then it is told at once again. */
	ck_assert_int_eq(poll(&p, 1, 5000), 1);
	settle();
	ck_assert_str_eq(read_all(fd), "");
	change_balloon();
	ck_assert_ptr_nonnull(strstr(read_one(fd), "BALLOON_CHANGE"));
	close(fd);
}
END_TEST

START_TEST(memory_and_processors_are_told_as_qemu_does)
{
	int fd = start();

	ck_assert_str_eq(ASK("query-memory-size-summary"),
			 "{\"return\": {\"base-memory\": 1073741824, \"plugged-memory\": 0}}");
	ck_assert_str_eq(ASK("query-cpus-fast"), "{\"return\": []}");
	vcpu_gate_init(&machine.gate);
	machine.nr_vcpus = 2;
	for (int i = 0; i < 2; i++) {
		machine.vcpus[i].gate = &machine.gate;
		machine.vcpus[i].thread_id = 41 + i;
	}
	ck_assert_str_eq(
		ASK("query-cpus-fast"),
		"{\"return\": [{\"cpu-index\": 0, \"thread-id\": 41, \"target\": \"x86_64\", "
		"\"qom-path\": \"/machine/cpu[0]\", \"props\": {\"socket-id\": 0, "
		"\"core-id\": 0, \"thread-id\": 0}}, {\"cpu-index\": 1, \"thread-id\": 42, "
		"\"target\": \"x86_64\", \"qom-path\": \"/machine/cpu[1]\", \"props\": "
		"{\"socket-id\": 0, \"core-id\": 1, \"thread-id\": 0}}]}");
	vcpu_gate_finish(&machine.gate);
	close(fd);
}
END_TEST

START_TEST(the_bus_is_told_as_qemu_does)
{
	static const struct pci_device_ops no_ops;
	static const struct io_ops no_io;
	const struct pci_windows windows = { { 0x1000, 0xf000 },
					     { 0xc0000000, 0x100000 },
					     { 0 } };
	struct pci_device bridge, card;
	struct io_bus pio, mmio;

	io_bus_init(&pio);
	io_bus_init(&mmio);
	ck_assert_int_eq(pci_bus_init(&machine.pci, &pio, &mmio, &windows, 0xb0000000), 0);
	pci_device_init(&bridge, &no_ops, "host bridge", 0x1b36, 8, 0x060000);
	pci_device_init(&card, &no_ops, "net0", 0x1af4, 0x1041, 0x020000);
	pci_set_bar(&card, 0, PCI_BAR_IO, PCI_NON_PREFETCHABLE, 64, &no_io, NULL);
	pci_set_bar(&card, 2, PCI_BAR_MEM64, PCI_PREFETCHABLE, 16384, &no_io, NULL);
	pci_set_bar(&card, PCI_ROM, PCI_BAR_MEM32, PCI_NON_PREFETCHABLE, 2048, &no_io, NULL);
	card.config[0x3d] = 1;
	ck_assert_int_eq(pci_bus_add(&machine.pci, &bridge, PCI_DEVFN(0, 0)), 0);
	ck_assert_int_eq(pci_bus_add(&machine.pci, &card, PCI_DEVFN(3, 1)), 0);
	int fd = start();
	world.id_of_bridge = "its id";
	ck_assert_str_eq(
		ASK("query-pci"),
		"{\"return\": [{\"bus\": 0, \"devices\": [{\"bus\": 0, \"slot\": 0, "
		"\"function\": 0, \"qdev_id\": \"its id\", \"irq_pin\": 0, "
		"\"class_info\": {\"class\": 1536}, \"id\": {\"vendor\": 6966, \"device\": 8, "
		"\"subsystem-vendor\": 0, \"subsystem\": 0}, \"regions\": []}, {\"bus\": 0, "
		"\"slot\": 3, \"function\": 1, \"qdev_id\": \"net0\", \"irq_pin\": 1, \"irq\": "
		"19, \"class_info\": {\"class\": 512}, \"id\": {\"vendor\": 6900, \"device\": "
		"4161, \"subsystem-vendor\": 0, \"subsystem\": 0}, \"regions\": [{\"bar\": 0, "
		"\"type\": \"io\", \"address\": -1, \"size\": 64}, {\"bar\": 2, \"type\": "
		"\"memory\", \"address\": -1, \"size\": 16384, \"prefetch\": true, "
		"\"mem_type_64\": true}, {\"bar\": 6, \"type\": \"memory\", \"address\": -1, "
		"\"size\": 2048, \"prefetch\": false, \"mem_type_64\": false}]}]}]}");
	pci_bus_remove(&card);
	pci_bus_remove(&bridge);
	pci_bus_finish(&machine.pci);
	io_bus_finish(&mmio);
	io_bus_finish(&pio);
	close(fd);
}
END_TEST

#define BALLOON "\"path\": \"/machine/peripheral/balloon0\""

START_TEST(the_balloon_has_qemus_properties)
{
	have_balloon();
	int fd = start();
	world.stats.values[4] = 5;
	world.stats.updated = 7;
	const char *answer = ASK_WITH("qom-get", BALLOON ", \"property\": \"guest-stats\"");
	ck_assert_ptr_eq(strstr(answer, "{\"return\": {\"stats\": {\"stat-swap-in\": -1, "),
			 answer);
	ck_assert_ptr_nonnull(strstr(answer, "\"stat-free-memory\": 5"));
	ck_assert_ptr_nonnull(strstr(answer, "}, \"last-update\": 7}}"));
	ck_assert_str_eq(ASK_WITH("qom-set", BALLOON ", \"property\": "
						     "\"guest-stats-polling-interval\", "
						     "\"value\": 9"),
			 DONE);
	ck_assert_uint_eq(world.period, 9);
	ck_assert_str_eq(ASK_WITH("qom-get", "\"path\": \"balloon0\", \"property\": "
					     "\"guest-stats-polling-interval\""),
			 "{\"return\": 9}");
	ck_assert_str_eq(ASK_WITH("qom-get", BALLOON ", \"property\": \"type\""),
			 "{\"return\": \"virtio-balloon-pci\"}");
	expect_error(ASK_WITH("qom-set", BALLOON ", \"property\": "
						 "\"guest-stats-polling-interval\", "
						 "\"value\": -1"),
		     "GenericError", "'value' is -1: it goes from 0 to 31536000");
	expect_error(
		ASK_WITH("qom-set", BALLOON ", \"property\": \"guest-stats\", \"value\": 1"),
		"GenericError", "'guest-stats' is not writable");
	expect_error(ASK_WITH("qom-get", BALLOON ", \"property\": \"colour\""), "GenericError",
		     "property 'colour': it is none of type, guest-stats");
	expect_error(ASK_WITH("qom-set", BALLOON ", \"property\": \"colour\", \"value\": 1"),
		     "GenericError", "property 'colour'");
	ck_assert_uint_eq(world.period, 9);
	close(fd);
}
END_TEST

START_TEST(the_balloon_can_be_looked_for)
{
	int fd = start();

	ck_assert_str_eq(ASK_WITH("qom-list", "\"path\": \"/machine/peripheral\""),
			 "{\"return\": []}");
	expect_error(ASK_WITH("qom-list", BALLOON), "DeviceNotFound",
		     "with --balloon there is");
	expect_error(ASK_WITH("qom-get", BALLOON ", \"property\": \"guest-stats\""),
		     "DeviceNotFound", "with --balloon there is");
	expect_error(ASK_WITH("qom-set", "\"path\": \"/x\", \"property\": \"a\", \"value\": 1"),
		     "DeviceNotFound", "path '/x'");
	have_balloon();
	ck_assert_str_eq(
		ASK_WITH("qom-list", "\"path\": \"/\""),
		"{\"return\": [{\"name\": \"machine\", \"type\": \"child<machine>\"}]}");
	ck_assert_str_eq(ASK_WITH("qom-list", "\"path\": \"/machine\""),
			 "{\"return\": [{\"name\": \"peripheral\", \"type\": "
			 "\"child<container>\"}]}");
	ck_assert_str_eq(ASK_WITH("qom-list", "\"path\": \"/machine/peripheral\""),
			 "{\"return\": [{\"name\": \"balloon0\", \"type\": "
			 "\"child<virtio-balloon-pci>\"}]}");
	ck_assert_ptr_nonnull(strstr(ASK_WITH("qom-list", BALLOON),
				     "{\"name\": \"guest-stats-polling-interval\", \"type\": "
				     "\"int\"}"));
	close(fd);
}
END_TEST

#define ADD(more) ASK_WITH("device_add", "\"driver\": \"vfio-pci\", " more)

START_TEST(a_device_can_be_added)
{
	int fd = start();

	ck_assert_str_eq(ADD("\"host\": \"01:00.0\""), DONE);
	ck_assert_str_eq(world.host, "01:00.0");
	ck_assert_ptr_null(world.attached.id);
	ck_assert_ptr_null(world.attached.opened);
	ck_assert_int_eq(world.attached.balloon, VFIO_BALLOON_INHIBITS);
	world.came_back = 5 * MIB;
	ck_assert_str_eq(ADD("\"host\": \"01:00.0\", \"id\": \"a\", \"balloon\": \"allowed\""),
			 "{\"return\": {\"x-ballast\": {\"came-back\": 5242880}}}");
	ck_assert_str_eq(world.id, "a");
	ck_assert_int_eq(world.attached.balloon, VFIO_BALLOON_ALLOWED);
	ck_assert_int_eq(world.attached.on_error, DEVICE_ERROR_STOPS);
	(void)ADD("\"host\": \"1\", \"x-ballast-on-error\": \"detach\"");
	ck_assert_int_eq(world.attached.on_error, DEVICE_ERROR_DETACHES);
	process_expect_no_log();
	world.attach_error = -ENOMEM;
	expect_error(ADD("\"host\": \"01:00.0\""), "GenericError", "vfio: no device: 01:00.0");
	expect_error(ADD("\"host\": \"1\", \"balloon\": \"no\""), "GenericError",
		     "balloon 'no': it is inhibits or allowed");
	expect_error(ADD("\"host\": \"1\", \"x-ballast-on-error\": \"\""), "GenericError",
		     "x-ballast-on-error '': it is stop or detach");
	expect_error(ADD("\"host\": \"1\", \"x-more\": [1]"), "GenericError",
		     "argument 'x-more' is none of device_add");
	expect_error(ASK_WITH("device_add", "\"driver\": \"e1000e\", \"host\": \"1\""),
		     "GenericError", "driver 'e1000e': of a running guest");
	expect_error(ASK_WITH("device_add", "\"host\": \"01:00.0\""), "GenericError",
		     "argument 'driver' is missing");
	close(fd);
}
END_TEST

START_TEST(a_device_can_be_taken_back)
{
	int fd = start();

	expect_error(ASK_WITH("device_del", "\"id\": \"b\""), "DeviceNotFound",
		     "there is no device 'b'");
	ck_assert_str_eq(ASK_WITH("device_del", "\"id\": \"a\""), DONE);
	ck_assert_str_eq(ASK_WITH("device_del", "\"id\": \"a\", \"force\": false"), DONE);
	ck_assert_int_eq(world.nr_detached[DETACH_ASKS], 2);
	send_text(fd, "{\"execute\": \"device_del\", \"arguments\": "
		      "{\"id\": \"a\", \"force\": true}}");
	const char *text = read_all(fd);
	ck_assert_ptr_nonnull(strstr(text, "{\"event\": \"DEVICE_DELETED\", \"data\": "
					   "{\"device\": \"a\", \"path\": "
					   "\"/machine/peripheral/a\", \"x-ballast\": "
					   "{\"host\": \"0000:01:00.0\"}}"));
	ck_assert_ptr_nonnull(strstr(text, "}\r\n" DONE "\r\n"));
	ck_assert_int_eq(world.nr_detached[DETACH_BY_FORCE], 1);
	close(fd);
}
END_TEST

START_TEST(who_adds_a_device_waits_and_others_do_not)
{
	struct attach_result result = { .back = MIB };
	int fd = start();
	int other = start();

	world.takes_its_time = true;
	send_text(fd,
		  "{\"execute\": \"device_add\", \"id\": 1, \"arguments\": {\"driver\": "
		  "\"vfio-pci\", \"host\": \"a\"}}{\"execute\": \"query-status\", \"id\": 2}"
		  "{\"execute\": \"device_add\", \"id\": 3, \"arguments\": {\"driver\": "
		  "\"vfio-pci\", \"host\": \"b\"}} {\"execute\": \"quit\", ");
	send_text(fd, "\"id\": 4}\n");
	ck_assert_str_eq(read_all(fd), "");
	send_text(other, "{\"execute\": \"query-status\"}");
	(void)read_one(other);
	ck_assert_str_eq(world.host, "a");
	world.ended(world.opaque, &result);
	settle();
	const char *text = read_all(fd);
	ck_assert_ptr_nonnull(strstr(text,
				     "{\"return\": {\"x-ballast\": {\"came-back\": 1048576}}, "
				     "\"id\": 1}\r\n"));
	ck_assert_ptr_nonnull(strstr(text, "\"id\": 2}\r\n"));
	ck_assert_ptr_null(strstr(text, "\"id\": 3"));
	ck_assert_str_eq(world.host, "b");
	result.r = -EIO;
	(void)strcpy(result.reason, "why");
	world.ended(world.opaque, &result);
	settle();
	ck_assert_str_eq(read_all(fd),
			 "{\"error\": {\"class\": \"GenericError\", \"desc\": \"why\"}, "
			 "\"id\": 3}\r\n{\"return\": {}, \"id\": 4}\r\n");
	/* Who goes meanwhile is not told. */
	send_text(fd, "{\"execute\": \"device_add\", \"id\": 5, \"arguments\": {\"driver\": "
		      "\"vfio-pci\", \"host\": \"c\"}}");
	ck_assert_ptr_nonnull(world.opaque);
	close(fd);
	settle();
	ck_assert_ptr_null(world.opaque);
	close(other);
}
END_TEST

/* The device's answer leaves with the event, before the loop comes round to what else was asked. */
START_TEST(what_is_asked_behind_a_device_is_answered_whatever_is_told_meanwhile)
{
	struct attach_result result = { 0 };
	int fd = start();

	world.takes_its_time = true;
	send_text(fd,
		  "{\"execute\": \"device_add\", \"id\": 1, \"arguments\": {\"driver\": "
		  "\"vfio-pci\", \"host\": \"a\"}}{\"execute\": \"query-status\", \"id\": 2}");
	ck_assert_str_eq(read_all(fd), "");
	world.ended(world.opaque, &result);
	qmp_event(&qmp, "X_BALLAST_MEMORY_SERVED");
	settle();
	const char *text = read_all(fd);
	ck_assert_ptr_nonnull(strstr(text, "\"id\": 1}\r\n"));
	ck_assert_ptr_nonnull(strstr(text, "\"id\": 2}\r\n"));
	close(fd);
	settle();
}
END_TEST

/* With as many fds of /dev/null. */
static void send_with_fds(int fd, const char *text, unsigned int nr)
{
	union {
		struct cmsghdr header;
		char bytes[CMSG_SPACE(4 * sizeof(int))];
	} control = { .header = { .cmsg_len = CMSG_LEN(nr * sizeof(int)),
				  .cmsg_level = SOL_SOCKET,
				  .cmsg_type = SCM_RIGHTS } };
	struct iovec bytes = { (char *)(uintptr_t)text, strlen(text) };
	const struct msghdr message = { .msg_iov = &bytes,
					.msg_iovlen = 1,
					.msg_control = &control,
					.msg_controllen = CMSG_SPACE(nr * sizeof(int)) };
	int fds[4];

	for (unsigned int i = 0; i < nr; i++)
		fds[i] = open("/dev/null", O_RDONLY | O_CLOEXEC);
	memcpy(CMSG_DATA(&control.header), fds, nr * sizeof(int));
	ck_assert_int_eq(sendmsg(fd, &message, MSG_NOSIGNAL), strlen(text));
	for (unsigned int i = 0; i < nr; i++)
		close(fds[i]);
}

static const char add_opened[] =
	"{\"execute\": \"device_add\", \"arguments\": {\"driver\": \"vfio-pci\", "
	"\"host\": \"01:00.0\", \"x-ballast-group\": 7}}";

/* More than two are closed, and so is what nobody has taken. */
START_TEST(what_a_device_takes_may_come_with_the_command)
{
	int fd = start();
	unsigned int fds = process_nr_fds();

	for (unsigned int nr = 0; nr <= 4; nr++) {
		if (nr > 0)
			send_with_fds(fd, add_opened, nr);
		else
			send_text(fd, add_opened);
		settle();
		ck_assert_str_eq(read_one(fd), DONE);
		ck_assert_ptr_nonnull(world.attached.opened);
		ck_assert_str_eq(world.host, "0000:01:00.0");
		ck_assert_str_eq(world.opened.name, "0000:01:00.0");
		ck_assert_uint_eq(world.opened.group, 7);
		ck_assert_int_eq(world.opened.group_fd >= 0, nr > 0);
		ck_assert_int_eq(world.opened.container_fd >= 0, nr > 1);
		ck_assert_uint_eq(process_nr_fds(), fds);
	}
	/* They were that command's. */
	send_text(fd, add_opened);
	ck_assert_str_eq(read_one(fd), DONE);
	ck_assert_int_eq(world.opened.group_fd, -1);
	close(fd);
}
END_TEST

START_TEST(fds_may_come_in_the_middle_of_a_command_and_behind_another)
{
	static const char status[] = "{\"execute\": \"query-status\"}";
	char text[512];
	int fd = start();
	unsigned int fds = process_nr_fds();

	(void)snprintf(text, sizeof(text), "%s%.10s", status, add_opened);
	send_with_fds(fd, text, 2);
	settle();
	(void)read_one(fd);
	send_text(fd, add_opened + 10);
	ck_assert_str_eq(read_one(fd), DONE);
	ck_assert_int_ge(world.opened.container_fd, 0);
	ck_assert_uint_eq(process_nr_fds(), fds);
	/* Others in their place; then the client is gone in the middle of it all. */
	send_with_fds(fd, "{\"execute\": ", 2);
	settle();
	send_with_fds(fd, "\"device_add\", ", 2);
	settle();
	ck_assert_uint_eq(process_nr_fds(), fds + 2);
	close(fd);
	settle();
	ck_assert_uint_eq(process_nr_fds(), fds - 2);
}
END_TEST

START_TEST(fds_that_come_with_garbage_are_not_kept)
{
	static const char *const texts[] = { "garbage", "{\"execute\": \"device_del\"}",
					     "{}}",     "\n",
					     "[\n",     " " };
	int fd = start();
	unsigned int fds = process_nr_fds();

	for (unsigned int i = 0; i < nitems(texts); i++) {
		send_with_fds(fd, texts[i], 2);
		settle();
		(void)read_all(fd);
		ck_assert_msg(process_nr_fds() == fds, "%s", texts[i]);
		send_text(fd, "\n");
		(void)read_all(fd);
	}
	close(fd);
}
END_TEST

START_TEST(no_device_means_no_dma_map)
{
	list_init(&machine.vfio.containers);
	int fd = start();
	ck_assert_str_eq(ASK("x-ballast-query-dma-map"), "{\"return\": []}");
	close(fd);
}
END_TEST

/* Bytes. */

START_TEST(a_command_needs_no_newline_and_may_have_company)
{
	int fd = start();

	send_text(fd, "{\"execute\":\"system_powerdown\"}");
	ck_assert_str_eq(read_one(fd), DONE);
	send_text(fd, "{\"execute\":\"system_powerdown\"}{\"execute\":\"system_powerdown\"}\r\n"
		      "\r\n \t{ \"execute\" : \"system_powerdown\" } \r\n");
	ck_assert_str_eq(read_all(fd), DONE "\r\n" DONE "\r\n" DONE "\r\n");
	ck_assert_uint_eq(world.nr_power_downs, 4);
	close(fd);
}
END_TEST

START_TEST(a_command_may_come_in_two_pieces_cut_anywhere)
{
	static const char request[] =
		"{\"execute\": \"system_powerdown\", \"id\": \"a\\\\\\\"}b\\u00e4\"}\n";
	int fd = start();

	for (size_t i = 1; i < sizeof(request) - 1; i++) {
		send_bytes(fd, request, i);
		if (i < sizeof(request) - 2) /* the newline is none of it */
			ck_assert_str_eq(read_all(fd), "");
		send_text(fd, request + i);
		ck_assert_str_eq(read_one(fd),
				 "{\"return\": {}, \"id\": \"a\\\\\\\"}b\xc3\xa4\"}");
	}
	close(fd);
}
END_TEST

START_TEST(garbage_is_told_once_and_ends_with_its_line)
{
	static const struct {
		const char *line;
		const char *part;
	} cases[] = {
		{ "hello", "no JSON object" },
		{ "}", "no JSON object" },
		{ "42", "no JSON object" },
		{ "\"{\"", "no JSON object" },
		{ "\xff\xfe", "no JSON object" },
		{ "GET / HTTP/1.1 {\"execute\": \"quit\"}", "no JSON object" },
		{ "{", "before its line does" },
		{ "{\"execute\": \"quit\"", "before its line does" },
		{ "{\"execute\": \"quit", "before its line does" },
		{ "{\"execute\": \"quit\\", "before its line does" },
		{ "[{\"execute\": \"quit\"}", "before its line does" },
		{ "{]", "this is no JSON: " },
		{ "{]}", "this is no JSON: " },
		{ "{]} and more of it", "this is no JSON: " },
		{ "{\"execute\" \"quit\"}", "this is no JSON: " },
		{ "{'execute': 'quit'}", "this is no JSON: " },
		{ "{\"execute\": \"quit\", \"execute\": \"quit\"}", "this is no JSON: dup" },
		{ "{\"execute\": \"quit\\u0000\"}", "this is no JSON: " },
		{ "{\"execute\": \"\xff\"}", "this is no JSON: " },
		{ "{\"execute\": \"\\ud800\"}", "this is no JSON: " },
		{ "{\"execute\": \"quit\", }", "this is no JSON: " },
		{ "{\"id\": NaN}", "this is no JSON: " },
	};
	int fd = start();

	for (unsigned int i = 0; i < nitems(cases); i++) {
		expect_error(ask(fd, cases[i].line), "GenericError", cases[i].part);
		ck_assert_str_eq(ask(fd, "{\"execute\": \"system_powerdown\"}"), DONE);
	}
	ck_assert_uint_eq(world.nr_quits, 0);
	send_bytes(fd, "{\"execute\": \"a\0b\"}\n", 19);
	expect_error(read_one(fd), "GenericError", "this is no JSON: ");
	/* A whole command that the parser refuses does not hide the next one. */
	send_text(fd, "{\"id\": 1e999}{\"execute\": \"system_powerdown\"}\n");
	ck_assert_ptr_nonnull(strstr(read_all(fd), "\r\n" DONE "\r\n"));
	process_expect_no_log();
	close(fd);
}
END_TEST

/* The parser quotes what it does not understand; the quotation is one of whole characters. */
START_TEST(garbage_of_any_length_is_told)
{
	char line[512];
	int fd = start();

	for (unsigned int shift = 0; shift < 2; shift++) {
		for (unsigned int size = 1; size < 200; size++) {
			strcpy(line, shift ? "{\"a\" \"x" : "{\"a\" \"");
			for (unsigned int i = 0; i < size; i++)
				strcat(line, "\xc3\xa4");
			strcat(line, "\"}");
			expect_error(ask(fd, line), "GenericError", "this is no JSON: ");
		}
	}
	close(fd);
}
END_TEST

START_TEST(deep_nesting_is_refused_and_harms_nobody)
{
	static char line[60001];
	int fd = start();

	memset(line, '[', 30000);
	memset(line + 30000, ']', 30000);
	expect_error(ask(fd, line), "GenericError", "this is no JSON: ");
	ck_assert_str_eq(ask(fd, "{\"execute\": \"quit\"}"), DONE);
	close(fd);
}
END_TEST

/* {"execute": "quit", "id": "xx...x"} of `size` bytes. */
static char *make_long_command(size_t size)
{
	static const char start_of_it[] = "{\"execute\": \"quit\", \"id\": \"";
	char *text = malloc(size + 1);

	ck_assert_ptr_nonnull(text);
	memset(text, 'x', size);
	memcpy(text, start_of_it, strlen(start_of_it));
	strcpy(text + size - 2, "\"}");
	return text;
}

START_TEST(a_command_may_be_as_long_as_a_line)
{
	autofree char *text = make_long_command(QMP_MAX_LINE);
	int fd = start();

	for (unsigned int i = 0; i < 3; i++) {
		send_text(fd, text); /* no newline: they are three, not one */
		const char *answer = read_one(fd);
		ck_assert_ptr_eq(strstr(answer, "{\"return\": {}, \"id\": \"xxx"), answer);
	}
	ck_assert_uint_eq(world.nr_quits, 3);
	close(fd);
}
END_TEST

static void expect_dropped(int fd)
{
	expect_error(read_one(fd), "GenericError", "too long");
	ck_assert(has_ended(fd));
	ck_assert_uint_eq(qmp.nr_clients, 0);
	process_expect_log("W qmp: a line of more than 65536 bytes: dropping the client");
	close(fd);
}

START_TEST(a_client_with_a_longer_line_is_dropped)
{
	autofree char *text = make_long_command(QMP_MAX_LINE + 1);
	int fd = start();

	send_text(fd, text);
	expect_dropped(fd);
	ck_assert_uint_eq(world.nr_quits, 0);
}
END_TEST

START_TEST(a_megabyte_of_garbage_is_not_read_to_its_end)
{
	autofree char *text = malloc(MIB);
	size_t sent = 0;

	int fd = start();
	memset(text, 'x', MIB);
	for (;;) {
		ssize_t n = send(fd, text, MIB, MSG_NOSIGNAL | MSG_DONTWAIT);
		settle();
		if (n <= 0)
			break;
		sent += (size_t)n;
	}
	ck_assert_uint_lt(sent, MIB);
	const char *answer = read_all(fd);
	ck_assert_ptr_nonnull(strstr(answer, "no JSON object"));
	ck_assert_ptr_nonnull(strstr(answer, "too long"));
	ck_assert_uint_eq(qmp.nr_clients, 0);
	process_expect_log("dropping the client");
	close(fd);
}
END_TEST

START_TEST(many_lines_and_empty_ones_are_not_too_long)
{
	autofree char *text = malloc(MIB);
	int fd = start();

	memset(text, ' ', MIB);
	for (size_t sent = 0; sent < MIB;) {
		ssize_t n = send(fd, text, MIB - sent, MSG_NOSIGNAL | MSG_DONTWAIT);
		ck_assert_int_gt(n, 0);
		sent += (size_t)n;
		settle();
	}
	for (unsigned int i = 0; i < 3000; i++) {
		send_text(fd, "some thirty bytes of garbage..\n");
		expect_error(read_one(fd), "GenericError", "no JSON object");
	}
	ck_assert_str_eq(ask(fd, "{\"execute\": \"quit\"}"), DONE);
	close(fd);
}
END_TEST

/* Clients that do not read. */

/* Until as much waits for it. Returns how many answers are due. */
static unsigned int stuff(int fd, size_t limit)
{
	static const char request[] = "{\"execute\": \"query-commands\"}\n";
	unsigned int count = 0;
	size_t answer = strlen(ask(fd, request)) + 2;

	/* What the kernel takes does not count, and is far less than this. */
	while (count * answer < limit && qmp.nr_clients > 0) {
		if (send(fd, request, strlen(request), MSG_NOSIGNAL) < 0)
			break;
		settle();
		count++;
	}
	return count;
}

START_TEST(who_reads_late_gets_all_of_it_in_order)
{
	int fd = start();

	unsigned int nr_due = stuff(fd, QMP_MAX_OUTPUT - 4096);
	send_text(fd, "{\"execute\": \"system_powerdown\", \"id\": \"last\"}\n");
	ck_assert_uint_gt(nr_due, 1000);
	const char *text = read_all(fd);
	unsigned int nr_answers = 0;
	for (const char *p = text; (p = strstr(p, "{\"return\": [{\"name\": ")); p++)
		nr_answers++;
	ck_assert_uint_eq(nr_answers, nr_due);
	const char *last = "}]}\r\n{\"return\": {}, \"id\": \"last\"}\r\n";
	ck_assert_str_eq(text + strlen(text) - strlen(last), last);
	/* It is as good as any other. */
	ck_assert_str_eq(ask(fd, "{\"execute\": \"quit\"}"), DONE);
	close(fd);
}
END_TEST

START_TEST(who_does_not_read_is_dropped_and_nobody_waits_for_it)
{
	int other = start();
	int fd = start();

	(void)stuff(fd, 4 * QMP_MAX_OUTPUT);
	ck_assert_uint_eq(qmp.nr_clients, 1);
	process_expect_log("W qmp: a client does not read its answers: dropping it");
	ck_assert_str_eq(ask(other, "{\"execute\": \"quit\"}"), DONE);
	close(fd);
	close(other);
}
END_TEST

START_TEST(who_vanishes_with_answers_unread_is_forgotten)
{
	int fd = start();

	(void)stuff(fd, QMP_MAX_OUTPUT - 4096);
	ck_assert_uint_eq(qmp.nr_clients, 1);
	close(fd);
	settle();
	ck_assert_uint_eq(qmp.nr_clients, 0);
	process_expect_no_log();
}
END_TEST

START_TEST(who_says_no_more_still_gets_its_answers)
{
	int fd = start();

	send_text(fd, "{\"execute\": \"system_powerdown\"}");
	ck_assert_int_eq(shutdown(fd, SHUT_WR), 0);
	settle();
	ck_assert_str_eq(read_one(fd), DONE);
	ck_assert(has_ended(fd));
	ck_assert_uint_eq(qmp.nr_clients, 0);
	close(fd);

	fd = start();
	unsigned int nr_due = stuff(fd, QMP_MAX_OUTPUT - 4096);
	send_text(fd, "{\"execute\": \"qu");
	ck_assert_int_eq(shutdown(fd, SHUT_WR), 0);
	settle();
	ck_assert_uint_eq(qmp.nr_clients, 1);
	const char *text = read_all(fd);
	unsigned int nr_answers = 0;
	for (const char *p = text; (p = strstr(p, "{\"return\": [{\"name\": ")); p++)
		nr_answers++;
	ck_assert_uint_eq(nr_answers, nr_due);
	ck_assert_ptr_nonnull(strstr(text, "a command ends before its line does"));
	ck_assert_uint_eq(qmp.nr_clients, 0);
	ck_assert_uint_eq(world.nr_quits, 0);
	close(fd);
}
END_TEST

/* Clients that come and go. */

START_TEST(clients_may_vanish_at_any_moment)
{
	static const char dialogue[] = HELLO "{\"execute\": \"query-commands\", \"id\": 1}\n"
					     "garbage\n{\"execute\": \"quit";
	ck_assert_int_eq(init(), 0);
	unsigned int fds = process_nr_fds();
	for (size_t i = 0; i < sizeof(dialogue); i++) {
		/* Before it is let in, after that with and without having read. */
		for (unsigned int how = 0; how < 3; how++) {
			int fd = try_socket(SOCK_STREAM);
			ck_assert_int_eq(connect_to_path(fd), 0);
			if (how > 0)
				settle();
			ck_assert_int_eq(send(fd, dialogue, i, MSG_NOSIGNAL), i);
			if (how > 0)
				settle();
			if (how > 1)
				(void)read_all(fd);
			close(fd);
			settle();
			ck_assert_uint_eq(qmp.nr_clients, 0);
			ck_assert_uint_eq(process_nr_fds(), fds);
		}
	}
	ck_assert_uint_eq(world.nr_quits, 0);
	process_expect_no_log();
}
END_TEST

START_TEST(clients_do_not_mix)
{
	int a = start();
	int b = connect_client();

	send_text(a, "{\"execute\": \"sys");
	(void)read_one(b);
	expect_error(ask(b, "{\"execute\": \"quit\"}"), "CommandNotFound", "first");
	send_text(a, "tem_powerdown\"}");
	ck_assert_str_eq(read_one(a), DONE);
	ck_assert_str_eq(read_all(b), "");
	close(a);
	close(b);
}
END_TEST

START_TEST(one_client_too_many_is_told_and_sent_away)
{
	int fds[QMP_MAX_CLIENTS];

	for (unsigned int i = 0; i < QMP_MAX_CLIENTS; i++)
		fds[i] = start();
	ck_assert_uint_eq(qmp.nr_clients, QMP_MAX_CLIENTS);
	int fd = connect_client();
	expect_error(read_one(fd), "GenericError", "too many clients");
	ck_assert(has_ended(fd));
	close(fd);
	for (unsigned int i = 0; i < QMP_MAX_CLIENTS; i++)
		ck_assert_str_eq(ask(fds[i], "{\"execute\": \"quit\"}"), DONE);
	close(fds[3]);
	settle();
	fds[3] = start();
	for (unsigned int i = 0; i < QMP_MAX_CLIENTS; i++)
		close(fds[i]);
	settle();
	ck_assert_uint_eq(qmp.nr_clients, 0);
	process_expect_no_log();
}
END_TEST

START_TEST(with_no_fd_to_be_had_a_client_waits_until_another_comes_or_goes)
{
	int first = start();
	int second = try_socket(SOCK_STREAM);
	int third = try_socket(SOCK_STREAM);
	int fourth = try_socket(SOCK_STREAM);

	process_forbid_fds();
	ck_assert_int_eq(connect_to_path(second), 0);
	settle(); /* does not spin */
	process_expect_log("W qmp: a client has to wait: Too many open files");
	ck_assert_str_eq(read_all(second), "");
	process_allow_fds();
	close(first);
	settle();
	(void)read_one(second);

	process_forbid_fds();
	ck_assert_int_eq(connect_to_path(third), 0);
	settle();
	process_expect_log("a client has to wait");
	process_allow_fds();
	ck_assert_int_eq(connect_to_path(fourth), 0);
	settle();
	(void)read_one(third);
	(void)read_one(fourth);
	close(second);
	close(third);
	close(fourth);
}
END_TEST

START_TEST(fds_that_a_client_sends_are_not_kept)
{
	union {
		struct cmsghdr header;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control = { .header = { .cmsg_len = CMSG_LEN(sizeof(int)),
				  .cmsg_level = SOL_SOCKET,
				  .cmsg_type = SCM_RIGHTS } };
	struct iovec text = { (char *)(uintptr_t) "{\"execute\": \"quit\"}", 19 };
	const struct msghdr message = { .msg_iov = &text,
					.msg_iovlen = 1,
					.msg_control = &control,
					.msg_controllen = sizeof(control) };
	int fd = start();

	memcpy(CMSG_DATA(&control.header), &fd, sizeof(fd));
	unsigned int fds = process_nr_fds();
	ck_assert_int_eq(sendmsg(fd, &message, MSG_NOSIGNAL), 19);
	settle();
	ck_assert_str_eq(read_one(fd), DONE);
	ck_assert_uint_eq(process_nr_fds(), fds);
	close(fd);
}
END_TEST

START_TEST(who_is_connected_at_the_end_is_dropped)
{
	int a = start();
	int b = connect_client();

	(void)read_all(b);
	qmp_finish(&qmp);
	ck_assert(has_ended(a));
	ck_assert(has_ended(b));
	close(a);
	close(b);
}
END_TEST

/* The socket. */

static bool is_socket(void)
{
	struct stat st;

	return lstat(path, &st) == 0 && S_ISSOCK(st.st_mode);
}

static void expect_refusal(int error, const char *part)
{
	ck_assert_int_eq(init(), error);
	process_expect_log(part);
	ck_assert_ptr_null(qmp.loop);
	ck_assert_uint_eq(process_nr_fds(), fds_before);
}

START_TEST(the_socket_is_for_its_owner_and_goes_at_the_end)
{
	static const mode_t masks[] = { 0, 022, 077 };
	struct stat st;

	for (unsigned int i = 0; i < nitems(masks); i++) {
		(void)umask(masks[i]);
		ck_assert_int_eq(init(), 0);
		ck_assert_uint_eq(umask(0),
				  masks[i]); /* left alone: other threads open files */
		ck_assert_int_eq(lstat(path, &st), 0);
		ck_assert(S_ISSOCK(st.st_mode));
		ck_assert_uint_eq(st.st_mode & 07777, 0600);
		ck_assert_int_eq(fcntl(qmp.listener.fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
		qmp_finish(&qmp);
		ck_assert(!is_socket());
	}
}
END_TEST

START_TEST(a_socket_that_somebody_serves_is_left_alone)
{
	struct qmp second;

	ck_assert_int_eq(init(), 0);
	ck_assert_int_eq(qmp_init(&second, &loop, path, &machine), -EADDRINUSE);
	process_expect_log("qmp' (another program serves it: choose another path): Address");
	qmp_finish(&second);
	settle();
	int fd = start();
	ck_assert_str_eq(ask(fd, "{\"execute\": \"quit\"}"), DONE);
	close(fd);
}
END_TEST

START_TEST(a_socket_whose_queue_is_full_or_of_another_kind_is_left_alone)
{
	int clients[2] = { try_socket(SOCK_STREAM), try_socket(SOCK_STREAM) };
	int fd = bind_path(SOCK_STREAM);

	ck_assert_int_eq(listen(fd, 0), 0);
	for (unsigned int i = 0; i < 2; i++) {
		(void)fcntl(clients[i], F_SETFL, O_NONBLOCK);
		(void)connect_to_path(clients[i]); /* or full already */
	}
	ck_assert_int_eq(init(), -EADDRINUSE);
	process_expect_log("another program serves it");
	ck_assert(is_socket());
	close(fd);
	close(clients[0]);
	close(clients[1]);
	(void)unlink(path);
	fd = bind_path(SOCK_DGRAM);
	ck_assert_int_eq(init(), -EADDRINUSE);
	process_expect_log("another program serves it");
	ck_assert(is_socket());
	close(fd);
	(void)unlink(path);
}
END_TEST

START_TEST(a_socket_that_nobody_serves_is_replaced)
{
	close(bind_path(SOCK_STREAM));
	ck_assert(is_socket());
	int fd = start();
	ck_assert_str_eq(ask(fd, "{\"execute\": \"quit\"}"), DONE);
	close(fd);
	process_expect_no_log();
}
END_TEST

START_TEST(what_is_no_socket_is_left_alone)
{
	struct stat st;

	int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	close(fd);
	expect_refusal(-EEXIST, "(it is no socket: remove it, or choose another path)");
	ck_assert_int_eq(unlink(path), 0);
	ck_assert_int_eq(mkdir(path, 0700), 0);
	expect_refusal(-EEXIST, "it is no socket");
	ck_assert_int_eq(rmdir(path), 0);
	ck_assert_int_eq(symlink("nowhere", path), 0);
	expect_refusal(-EEXIST, "it is no socket");
	ck_assert_int_eq(lstat(path, &st), 0);
	ck_assert_int_eq(unlink(path), 0);
}
END_TEST

START_TEST(a_path_that_cannot_be_is_refused)
{
	char longer[200];

	memset(longer, 'x', sizeof(longer));
	longer[108] = '\0';
	ck_assert_int_eq(qmp_init(&qmp, &loop, longer, &machine), -EINVAL);
	process_expect_log("(at most 107 bytes, please)");
	ck_assert_int_eq(qmp_init(&qmp, &loop, "", &machine), -ENOENT);
	process_expect_log("control socket ''");
	(void)strcat(path, "/below");
	expect_refusal(-ENOENT, "No such file or directory");
	path[strlen(path) - strlen("/below")] = '\0';
	int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	close(fd);
	(void)strcat(path, "/below");
	expect_refusal(-ENOTDIR, "Not a directory");
	path[strlen(path) - strlen("/below")] = '\0';
	ck_assert_int_eq(unlink(path), 0);
}
END_TEST

START_TEST(a_path_of_full_length_is_taken)
{
	(void)memset(path + strlen(path), 'x', sizeof(path) - strlen(path));
	char full[108];
	(void)snprintf(full, sizeof(full), "%s/", directory);
	memset(full + strlen(full), 'x', sizeof(full) - 1 - strlen(full));
	full[107] = '\0';
	ck_assert_int_eq(qmp_init(&qmp, &loop, full, &machine), 0);
	qmp_finish(&qmp);
	ck_assert_int_lt(access(full, F_OK), 0);
}
END_TEST

/* Each step that needs an fd, and the last one, for which the loop must be there. */
START_TEST(every_step_of_listening_that_fails_leaves_nothing)
{
	struct event_loop dead = { .epoll_fd = -1 };

	process_forbid_fds();
	int r = init();
	process_allow_fds();
	ck_assert_int_eq(r, -EMFILE);
	process_expect_log("control socket");
	ck_assert(!is_socket());

	close(bind_path(SOCK_STREAM));
	process_forbid_fds();
	r = init();
	process_allow_fds();
	ck_assert_int_eq(r, -EMFILE);
	process_expect_log("Too many open files");
	ck_assert(is_socket()); /* whether it is dead could not be seen */
	ck_assert_int_eq(unlink(path), 0);

	ck_assert_int_eq(qmp_init(&qmp, &dead, path, &machine), -EBADF);
	process_expect_log("control socket");
	ck_assert(!is_socket());
	ck_assert_uint_eq(process_nr_fds(), fds_before);
}
END_TEST

START_TEST(a_socket_of_somebody_elses_is_not_removed_at_the_end)
{
	ck_assert_int_eq(init(), 0);
	ck_assert_int_eq(unlink(path), 0);
	qmp_finish(&qmp); /* there is nothing to remove */
	ck_assert_int_eq(init(), 0);
	ck_assert_int_eq(unlink(path), 0);
	int fd = bind_path(SOCK_STREAM);
	qmp_finish(&qmp);
	ck_assert(is_socket());
	close(fd);
	ck_assert_int_eq(unlink(path), 0);
	process_expect_no_log();
}
END_TEST

START_TEST(finishing_a_zeroed_one_does_nothing)
{
	struct qmp zeroed = { 0 };

	qmp_finish(&zeroed);
	ck_assert_uint_eq(process_nr_fds(), fds_before);
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		a_client_is_greeted_with_a_version,
		before_the_negotiation_nothing_else_is_known,
		a_capability_that_is_not_offered_is_refused,
		ids_of_any_type_come_back,
		wrong_requests_are_told_what_is_wrong,
		the_version_the_status_and_the_commands_can_be_asked_for,
		the_guest_can_be_ended,
		balloon_says_what_the_guest_is_to_keep,
		balloon_tells_that_and_why_the_host_gains_nothing,
		balloon_refuses_what_is_no_amount,
		without_a_balloon_its_commands_say_so,
		the_memory_report_names_every_figure,
		the_memory_report_is_there_without_a_balloon,
		only_statistics_that_the_guest_reported_are_told,
		statistics_can_be_asked_for,
		the_period_of_statistics_can_be_set,
		the_policy_can_be_changed,
		the_automatic_can_be_switched,
		a_cable_can_be_pulled,
		events_reach_who_has_negotiated,
		a_guest_can_be_stopped_and_go_on,
		who_does_not_read_may_be_dropped_in_its_own_command,
		events_have_their_data,
		a_balloon_is_told_of_once_a_second_and_its_last_size_always,
		memory_and_processors_are_told_as_qemu_does,
		the_bus_is_told_as_qemu_does,
		the_balloon_has_qemus_properties,
		the_balloon_can_be_looked_for,
		a_device_can_be_added,
		a_device_can_be_taken_back,
		who_adds_a_device_waits_and_others_do_not,
		what_is_asked_behind_a_device_is_answered_whatever_is_told_meanwhile,
		what_a_device_takes_may_come_with_the_command,
		fds_may_come_in_the_middle_of_a_command_and_behind_another,
		fds_that_come_with_garbage_are_not_kept,
		no_device_means_no_dma_map,
		a_command_needs_no_newline_and_may_have_company,
		a_command_may_come_in_two_pieces_cut_anywhere,
		garbage_is_told_once_and_ends_with_its_line,
		garbage_of_any_length_is_told,
		deep_nesting_is_refused_and_harms_nobody,
		a_command_may_be_as_long_as_a_line,
		a_client_with_a_longer_line_is_dropped,
		a_megabyte_of_garbage_is_not_read_to_its_end,
		many_lines_and_empty_ones_are_not_too_long,
		who_reads_late_gets_all_of_it_in_order,
		who_does_not_read_is_dropped_and_nobody_waits_for_it,
		who_vanishes_with_answers_unread_is_forgotten,
		who_says_no_more_still_gets_its_answers,
		clients_may_vanish_at_any_moment,
		clients_do_not_mix,
		one_client_too_many_is_told_and_sent_away,
		with_no_fd_to_be_had_a_client_waits_until_another_comes_or_goes,
		fds_that_a_client_sends_are_not_kept,
		who_is_connected_at_the_end_is_dropped,
		the_socket_is_for_its_owner_and_goes_at_the_end,
		a_socket_that_somebody_serves_is_left_alone,
		a_socket_whose_queue_is_full_or_of_another_kind_is_left_alone,
		a_socket_that_nobody_serves_is_replaced,
		what_is_no_socket_is_left_alone,
		a_path_that_cannot_be_is_refused,
		a_path_of_full_length_is_taken,
		every_step_of_listening_that_fails_leaves_nothing,
		a_socket_of_somebody_elses_is_not_removed_at_the_end,
		finishing_a_zeroed_one_does_nothing,
	};
	return run_tests("vmm_qmp", setup, teardown, tests, nitems(tests));
}
