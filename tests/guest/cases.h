/* SPDX-License-Identifier: MIT */
/*
 * cases.h - what a case of the bare-metal tests is: a guest, the machine it runs in, and what
 * is to be seen from outside when it has ended.
 */
#ifndef TESTS_GUEST_CASES_H
#define TESTS_GUEST_CASES_H

#include <stdbool.h>

#include "vmm/machine.h"

#define MAX_LOGS 4u

struct test_case {
	const char *name;
	const char *guest;   /* its file, without .elf */
	const char *options; /* more of the command line; NULL: none */
	unsigned int cpus;   /* 0: one */
	uint64_t memory;     /* 0: 64 MiB */
	enum ram_backing backing;
	/* With none of these three there are the two test devices. */
	const struct virtio_blk_options *disk; /* an image of the runner's: contract.h */
	/* With it there is a control socket, too. */
	const struct virtio_balloon_config *balloon;
	/* A network card, likewise; the runner is at its other end. */
	const struct net_config *net;
	uint64_t balloon_keep;    /* of the memory; 0: all */
	bool hardware;            /* needs a KVM that is not software */
	enum console_kind serial; /* CONSOLE_NONE: a file, which is where failures are told */
	enum on_reset on_reset;
	unsigned int timeout; /* in seconds; 0: 20, and not expected to run out */
	int status;           /* what machine_run() returns */
	/* CONSOLE_NONE: there is no virtio console; CONSOLE_STDIO: on a terminal of 100x30. */
	enum console_kind console;
	bool rng;
	/*
	 * On a thread of its own, at the other end of the console's socket, or terminal, or else of the
	 * serial socket; true: as it should be.
	 */
	bool (*peer)(int fd);
	const char
		*console_output; /* all that comes out of a console to a file; NULL: anything */
	uint32_t console_bytes;  /* or so many CONSOLE_BYTE()s */
	const char *output;      /* all that the guest prints; NULL: anything */
	const char *logs[MAX_LOGS]; /* are found in the log */
	/* So are these, unless KVM on AMD has lost them; then the log says that. */
	const char *registers[MAX_LOGS];
};

extern const struct test_case cases[];
extern const unsigned int nr_cases;

#endif /* TESTS_GUEST_CASES_H */
