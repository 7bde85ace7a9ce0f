/* SPDX-License-Identifier: MIT */
/*
 * net_kernel.h - takes the place of devices/net_uapi.c: a host with one tap interface and with
 * vhost-net, which remembers what it was told, and can fail the n-th call.
 *
 * A tap's fd is one end of a pair of sockets that keeps frames apart; the test has the other.
 */
#ifndef TESTS_FAKES_NET_KERNEL_H
#define TESTS_FAKES_NET_KERNEL_H

#include <stdbool.h>
#include <stdint.h>

#include <linux/vhost_types.h>

#define FAKE_NET_MAX 16u
#define FAKE_INTERFACE "tap7"

struct fake_vhost {
	int fd;
	bool owned;
	uint64_t features;
	unsigned int nr_regions;
	struct vhost_memory_region regions[64];
	struct {
		unsigned int size, base;
		struct vhost_vring_addr address;
		int kick, call, error, backend; /* -1: none */
	} queues[2];
};

struct fake_net {
	/* The n-th call that can fail does, with `error`. 0: none. */
	unsigned int fail_at;
	unsigned int nr_calls;
	int error;

	unsigned int interface_flags; /* IFF_UP */
	unsigned int tun_flags;       /* of an fd that is handed in */
	unsigned int attach_flags;    /* the last tun_attach() */
	bool no_offload;
	unsigned int offload;
	unsigned int nr_taps;
	int taps[FAKE_NET_MAX];  /* ours of each pair */
	int peers[FAKE_NET_MAX]; /* the test's */
	bool attached[FAKE_NET_MAX];
	int header_size;

	int vhost_error; /* of opening it; 0: it can be */
	uint64_t vhost_features;
	unsigned int nr_vhosts;
	struct fake_vhost vhosts[FAKE_NET_MAX];
};

extern struct fake_net fake_net;

void fake_net_init(void);
/* Closes the test's ends. */
void fake_net_finish(void);
/* As if the n-th tap's fd had been opened by somebody else. */
int fake_net_open_tap(void);

#endif /* TESTS_FAKES_NET_KERNEL_H */
