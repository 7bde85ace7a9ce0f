/* SPDX-License-Identifier: MIT */
#include "tests/guest/host.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>

#include <linux/pci_regs.h>

#include "base/fd.h"

#include "memory/access.h"
#include "tests/guest/contract.h"

#define ANSWER_TIMEOUT 10 /* seconds */

/* The control socket. What fails is told in the log; the guest then finds no answer. */

static int open_socket(struct host *h)
{
	const struct timeval timeout = { .tv_sec = ANSWER_TIMEOUT };
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	snprintf(address.sun_path, sizeof(address.sun_path), "%s", h->qmp_path);
	h->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (h->fd < 0 ||
	    setsockopt(h->fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout)) < 0 ||
	    connect(h->fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		return log_err(-errno, "host port: control socket '%s'", h->qmp_path);
	return 0;
}

/* The next object, or NULL. */
static json_t *read_object(struct host *h)
{
	char *end;

	while (!(end = memchr(h->input, '\n', h->nr_input))) {
		ssize_t n =
			recv(h->fd, h->input + h->nr_input, sizeof(h->input) - h->nr_input, 0);
		if (n <= 0)
			return NULL;
		h->nr_input += (size_t)n;
	}
	size_t size = (size_t)(end - h->input) + 1;
	json_t *object = json_loadb(h->input, size, 0, NULL);
	h->nr_input -= size;
	memmove(h->input, h->input + size, h->nr_input);
	return object;
}

/* Sends a request; its answer is what has a "return" or an "error". */
static json_t *transact(struct host *h, const char *request)
{
	json_t *object = NULL;

	if (send(h->fd, request, strlen(request), MSG_NOSIGNAL) < 0)
		return NULL;
	do {
		json_decref(object);
		object = read_object(h);
	} while (object && !json_object_get(object, "return") &&
		 !json_object_get(object, "error"));
	return object;
}

static void ask(struct host *h, const char *request)
{
	json_decref(h->answer);
	h->answer = NULL;
	if (h->fd < 0) {
		if (open_socket(h) < 0)
			return;
		json_decref(transact(h, "{\"execute\": \"qmp_capabilities\"}"));
	}
	h->answer = transact(h, request);
	if (!h->answer)
		(void)log_err(0, "host port: no answer to '%s'", request);
}

/* `keys` is cut into pieces. */
static uint64_t find(const struct host *h, char *keys)
{
	const json_t *at = h->answer;
	const char *key;

	while (at && (key = strsep(&keys, " ")))
		at = json_object_get(at, key);
	if (!at)
		return HOST_NO_VALUE;
	return json_is_true(at) ? 1 : (uint64_t)json_integer_value(at);
}

/* Jobs: the guest's vCPU is in the sandbox, and so has somebody outside do what opens things. */

static void *serve(void *opaque)
{
	struct host *h = opaque;

	pthread_mutex_lock(&h->lock);
	while (!h->quit) {
		if (h->job == HOST_RESIZE && truncate(h->disk_path, (off_t)h->job_value) < 0)
			(void)log_err(-errno, "host port: size of '%s'", h->disk_path);
		if (h->job == HOST_ASK)
			ask(h, h->job_text);
		h->job = 0;
		pthread_cond_broadcast(&h->changed);
		pthread_cond_wait(&h->changed, &h->lock);
	}
	pthread_mutex_unlock(&h->lock);
	return NULL;
}

static void have_done(struct host *h, unsigned int job, uint64_t value, const char *text)
{
	pthread_mutex_lock(&h->lock);
	h->job_value = value;
	h->job_text = text;
	h->job = job;
	pthread_cond_broadcast(&h->changed);
	while (h->job)
		pthread_cond_wait(&h->changed, &h->lock);
	pthread_mutex_unlock(&h->lock);
}

/* Hot-plug: the test device in slot B goes and comes back, reset. */

/* Whoever is still inside of it would answer with a slot that is none. */
static void host_ejected(void *opaque, unsigned int slot)
{
	struct host *h = opaque;

	(void)slot;
	pci_bus_remove(&h->device->pci);
	h->device->slot = 0;
}

/* Off the bus nobody else is at it. */
static void reset(struct pci_device *dev)
{
	pci_set_16(dev, PCI_COMMAND, 0);
	for (unsigned int at = PCI_BASE_ADDRESS_0; at <= PCI_BASE_ADDRESS_5; at += 4)
		pci_config_store(dev, at, 4, 0);
	dev->ops->reset(dev);
}

static void plug(struct host *h)
{
	reset(&h->device->pci);
	h->device->slot = TEST_SLOT_B;
	if (pci_bus_add(&h->machine->pci, &h->device->pci, PCI_DEVFN(TEST_SLOT_B, 0)) < 0)
		return;
	hotplug_announce(&h->hotplug, TEST_SLOT_B);
}

/* The port */

static uint64_t host_port_read(void *opaque, uint64_t offset, unsigned int size)
{
	struct host *h = opaque;
	struct timespec now;

	if (size != 4)
		return io_ones(size);
	switch (HOST_PORT + offset) {
	case HOST_CLOCK:
		(void)clock_gettime(CLOCK_MONOTONIC, &now); /* cannot fail for this clock */
		return (uint32_t)((uint64_t)now.tv_sec * 1000 +
				  (uint64_t)now.tv_nsec / 1000000);
	case HOST_VALUE_LOW: return (uint32_t)h->value;
	case HOST_VALUE_HIGH: return h->value >> 32;
	default: return io_ones(size);
	}
}

static void host_port_write(void *opaque, uint64_t offset, unsigned int size, uint64_t value)
{
	struct host *h = opaque;
	char text[HOST_TEXT_SIZE];

	if (size != 4)
		return;
	if (HOST_PORT + offset == HOST_PRESS)
		power_press_button(&h->machine->power);
	if (HOST_PORT + offset == HOST_UNPLUG) {
		hotplug_set_removable(&h->hotplug, TEST_SLOT_B, true);
		hotplug_ask_eject(&h->hotplug, TEST_SLOT_B);
	}
	if (HOST_PORT + offset == HOST_PLUG)
		plug(h);
	if (HOST_PORT + offset == HOST_RESIZE)
		have_done(h, HOST_RESIZE, value, NULL);
	if (memory_read(&h->machine->map, value, text, sizeof(text)) < 0)
		return;
	text[sizeof(text) - 1] = '\0';
	if (HOST_PORT + offset == HOST_ASK)
		have_done(h, HOST_ASK, 0, text);
	if (HOST_PORT + offset == HOST_FIND)
		h->value = find(h, text);
}

static const struct io_ops host_port_ops = { .read = host_port_read, .write = host_port_write };

int host_init(struct host *host, struct machine *machine, const char *qmp_path,
	      const char *disk_path, struct test_device *device)
{
	const struct hotplug_handler handler = { .ejected = host_ejected, .opaque = host };

	*host = (struct host){
		.machine = machine,
		.qmp_path = qmp_path,
		.disk_path = disk_path,
		.device = device,
		.port = {
			.base = HOST_PORT,
			.size = HOST_PORT_SIZE,
			.ops = &host_port_ops,
			.opaque = host,
		},
		.fd = -1,
	};
	pthread_mutex_init(&host->lock, NULL);
	pthread_cond_init(&host->changed, NULL);
	if (pthread_create(&host->thread, NULL, serve, host) != 0) {
		host->machine = NULL;
		return -EAGAIN;
	}
	int r = io_bus_add(&machine->pio, &host->port);
	if (r >= 0)
		r = hotplug_init(&host->hotplug, &machine->pio, &machine->power, HOST_HOTPLUG,
				 &handler);
	return r;
}

void host_finish(struct host *host)
{
	if (!host->machine)
		return;
	pthread_mutex_lock(&host->lock);
	host->quit = true;
	pthread_cond_broadcast(&host->changed);
	pthread_mutex_unlock(&host->lock);
	(void)pthread_join(host->thread, NULL);
	hotplug_finish(&host->hotplug);
	io_bus_remove(&host->machine->pio, &host->port);
	fd_close(&host->fd);
	json_decref(host->answer);
	host->machine = NULL;
}
