/* SPDX-License-Identifier: MIT */
/*
 * host.h - the host port: what a guest asks of its runner. Registers: contract.h.
 *
 * Questions to the control socket go through that socket, as any client's do, so that the
 * event loop answers them while the vCPU that asks waits in its port access.
 *
 * Threads: any vCPU, but questions only one at a time.
 */
#ifndef TESTS_GUEST_HOST_H
#define TESTS_GUEST_HOST_H

#include <jansson.h>

#include "devices/hotplug.h"
#include "tests/guest/test_device.h"
#include "vmm/machine.h"

#define HOST_MAX_ANSWER 65536u

struct host {
	struct machine *machine; /* borrowed, outlives this; NULL: not initialised */
	const char *qmp_path;    /* borrowed */
	const char *disk_path;   /* borrowed */
	struct io_region port;
	struct test_device *device; /* borrowed: in slot B; for hot-plug */
	struct hotplug hotplug;
	int fd;         /* owned: the control socket, once something was asked */
	json_t *answer; /* owned: the last one; NULL: none */
	uint64_t value;
	pthread_t thread; /* does jobs, outside of the sandbox */
	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool quit;            /* lock */
	unsigned int job;     /* lock: the register that was written; 0: none */
	uint64_t job_value;   /* lock */
	const char *job_text; /* lock; borrowed until it is done */
	size_t nr_input;      /* bytes that came and are not taken yet */
	char input[HOST_MAX_ANSWER];
};

/* -errno of io_bus_add(), -EAGAIN: no thread to be had. */
must_check int host_init(struct host *host, struct machine *machine, const char *qmp_path,
			 const char *disk_path, struct test_device *device);
/* vCPUs parked, or gone with their machine. Accepts a zeroed object. */
void host_finish(struct host *host);

#endif /* TESTS_GUEST_HOST_H */
