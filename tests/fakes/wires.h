/* SPDX-License-Identifier: MIT */
/*
 * wires.h - a hypervisor's side of devices/wires.h that remembers: routes, irqfds, and what
 * was delivered through them; and can fail the n-th call.
 */
#ifndef TESTS_FAKES_WIRES_H
#define TESTS_FAKES_WIRES_H

#include <stdbool.h>

#include "devices/wires.h"

#define FAKE_WIRES_FIRST_ROUTE 24u
#define FAKE_WIRES_NR_GSIS 4096u

struct fake_irqfd {
	int fd;
	uint32_t gsi;
	int resample_fd; /* -1: an edge */
};

#define FAKE_WIRES_MAX_IOEVENTFDS 16u

struct fake_ioeventfd {
	uint64_t address;
	int fd;
};

struct fake_wires {
	struct wires wires;

	/* The n-th call that can fail does, with -EIO. 0: none. */
	unsigned int fail_at;
	unsigned int nr_calls;

	bool routed[FAKE_WIRES_NR_GSIS];
	struct msi_message messages[FAKE_WIRES_NR_GSIS];
	unsigned int nr_routes;
	struct fake_irqfd irqfds[FAKE_WIRES_NR_GSIS];
	unsigned int nr_irqfds;
	struct fake_ioeventfd ioeventfds[FAKE_WIRES_MAX_IOEVENTFDS];
	unsigned int nr_ioeventfds;
	unsigned int delivered[FAKE_WIRES_NR_GSIS]; /* by gsi */
	unsigned int nr_updates;                    /* of routes */
};

void fake_wires_init(struct fake_wires *w);

/* How often `gsi` was raised in the guest since the last call. */
unsigned int fake_wires_take(struct fake_wires *w, uint32_t gsi);
/* How often a message arrived in the guest since the last call. */
unsigned int fake_wires_take_message(struct fake_wires *w, uint64_t address, uint32_t data);
/* How often anything did. */
unsigned int fake_wires_take_any(struct fake_wires *w);
/* The guest writes to `address`: false if no ioeventfd is there to catch it. */
bool fake_wires_write(struct fake_wires *w, uint64_t address);
/* The guest's EOI of a level-triggered gsi. */
void fake_wires_eoi(struct fake_wires *w, uint32_t gsi);

#endif /* TESTS_FAKES_WIRES_H */
