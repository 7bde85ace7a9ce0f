/* SPDX-License-Identifier: MIT */
/*
 * qmp.c - the control socket under a client that sends anything, in pieces. Every answer is JSON of
 * one line, and only a line that is too long ends the connection.
 *
 * In an input 0xfe ends a piece, and 0xff, a byte and a number stand for that byte 128 times so
 * often: what is nested deep or long is short here.
 */
#include <assert.h>
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <sys/socket.h>
#include <sys/un.h>

#include "base/fd.h"

#include "tests/fuzz/driver.h"
#include "vfio/container.h"
#include "vmm/machine.h"

#define HELLO "{\"execute\": \"qmp_capabilities\"}\n"
#define MAX_PIECE 32768u

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static struct machine machine;
static struct event_loop loop;
static struct qmp qmp;
static struct sockaddr_un address = { .sun_family = AF_UNIX };

/* The machine and its balloon, in the place of vmm/machine.c and devices/virtio_balloon.c. */

int machine_set_memory(struct machine *m, uint64_t bytes)
{
	(void)m;
	return bytes < FUZZ_SIZE ? -ERANGE : 0;
}

int machine_set_policy(struct machine *m, enum reclaim_policy policy)
{
	(void)m;
	return policy == RECLAIM_COORDINATED ? -EBUSY : 0;
}

void machine_start_auto(struct machine *m)
{
	(void)m;
}

void machine_stop_auto(struct machine *m)
{
	(void)m;
}

int machine_set_link(struct machine *m, const char *name, bool up)
{
	(void)m;
	(void)up;
	return strcmp(name, "net0") == 0 ? 0 : -ENODEV;
}

bool machine_take_balloon_change(struct machine *m)
{
	(void)m;
	return true;
}

void machine_get_memory(struct machine *m, struct machine_memory *ret)
{
	(void)m;
	*ret = (struct machine_memory){ .ram = FUZZ_SIZE, .has_balloon = true };
}

void machine_power_down(struct machine *m)
{
	(void)m;
	qmp_event(&qmp, "POWERDOWN");
}

void machine_quit(struct machine *m)
{
	(void)m;
}

void machine_pause(struct machine *m)
{
	m->paused = true;
	qmp_event(&qmp, "STOP");
}

void machine_resume(struct machine *m)
{
	m->paused = false;
	qmp_event(&qmp, "RESUME");
}

void machine_reset(struct machine *m)
{
	(void)m;
}

/* As attach.c does, but never later. */
void attach_add(struct machine *m, const struct attach_request *request, attach_ended *ended,
		void *opaque)
{
	const struct attach_result result = { .r = request->id ? -EPERM : 0,
					      .back = strlen(request->host) };

	(void)m;
	if (request->opened) {
		fd_close(&request->opened->group_fd);
		fd_close(&request->opened->container_fd);
	}
	ended(opaque, &result);
}

void attach_forget(struct attach *attach, const void *opaque)
{
	(void)attach;
	(void)opaque;
}

int attach_remove(struct machine *m, const char *id, enum detach_manner manner)
{
	(void)m;
	if (manner == DETACH_BY_FORCE)
		qmp_event_device(&qmp, "DEVICE_DELETED", id, "0000:01:00.0");
	return strcmp(id, "a") == 0 ? 0 : -ENODEV;
}

const char *attach_id(const struct attach *attach, const struct pci_device *device)
{
	(void)attach;
	return device->name;
}

int vcpu_thread_id(struct vcpu *vcpu)
{
	(void)vcpu;
	return 1;
}

/* The socket's other end */

static void settle(void)
{
	struct epoll_event e;

	for (unsigned int rounds = 0; epoll_wait(loop.epoll_fd, &e, 1, 0) == 1; rounds++) {
		struct event_source *source = e.data.ptr;
		assert(rounds < 100000); /* or it spins */
		source->ready(source, e.events);
	}
}

static void check_line(const char *line, size_t size)
{
	json_t *answer = json_loadb(line, size, 0, NULL);

	assert(json_object_get(answer, "QMP") || json_object_get(answer, "return") ||
	       json_object_get(answer, "error") || json_object_get(answer, "event"));
	json_decref(answer);
}

/* All that can be read now; false: the connection is at its end. */
static bool read_answers(int fd, bool *ret_too_long)
{
	static char text[2 * QMP_MAX_OUTPUT];
	size_t n = 0;
	ssize_t got;

	while ((got = recv(fd, text + n, sizeof(text) - n, MSG_DONTWAIT)) > 0) {
		n += (size_t)got;
		assert(n < sizeof(text));
		settle();
	}
	for (char *line = text; line < text + n;) {
		char *end = memchr(line, '\n', (size_t)(text + n - line));
		assert(end);
		check_line(line, (size_t)(end - line));
		*ret_too_long |= memmem(line, (size_t)(end - line), "too long", 8) != NULL;
		line = end + 1;
	}
	return got < 0 && errno != ECONNRESET;
}

static bool send_piece(int fd, const char *bytes, size_t size)
{
	bool too_long = false;

	if (size > 0 && send(fd, bytes, size, MSG_NOSIGNAL) != (ssize_t)size)
		abort(); /* of this process's making, not the input's */
	settle();
	bool alive = read_answers(fd, &too_long);
	assert(alive || too_long);
	assert(fuzz.nr_errors == 0); /* no answer was lost */
	return alive;
}

/* The next piece of the input, what is short in it made long. */
static size_t next_piece(char *piece)
{
	size_t n = 0;

	while (fuzz.at < fuzz.end && n < MAX_PIECE) {
		uint8_t byte = next8();
		if (byte == 0xfe)
			break;
		size_t count = 1;
		if (byte == 0xff) {
			byte = next8();
			count = 128u * next8();
		}
		for (; count > 0 && n < MAX_PIECE; count--)
			piece[n++] = (char)byte;
	}
	return n;
}

static void end_all(void)
{
	qmp_finish(&qmp);
	event_loop_finish(&loop);
	*strrchr(address.sun_path, '/') = '\0';
	(void)rmdir(address.sun_path);
}

static void begin_all(void)
{
	char folder[] = "/tmp/ballast-fuzz-XXXXXX";

	machine.config.has_balloon = true;
	list_init(&machine.vfio.containers);
	(void)pthread_mutex_init(&machine.pci.lock, NULL);
	if (!mkdtemp(folder))
		abort(); /* likewise */
	(void)snprintf(address.sun_path, sizeof(address.sun_path), "%s/qmp", folder);
	if (event_loop_init(&loop) < 0 || qmp_init(&qmp, &loop, address.sun_path, &machine) < 0)
		abort(); /* likewise */
	(void)atexit(end_all);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
	static char piece[MAX_PIECE];

	if (!qmp.loop)
		begin_all();
	if (fuzz_begin(fuzz_ram(), bytes, size) < 0)
		abort(); /* likewise */
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		abort(); /* likewise */
	settle();
	bool alive = send_piece(fd, HELLO, sizeof(HELLO) - 1);
	while (alive && fuzz.at < fuzz.end) {
		size_t n = next_piece(piece);
		alive = send_piece(fd, piece, n);
	}
	(void)close(fd);
	settle();
	assert(qmp.nr_clients == 0);
	fuzz_end();
	return 0;
}
