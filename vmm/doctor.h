/* SPDX-License-Identifier: MIT */
/*
 * doctor.h - `ballast doctor`: would a guest with these devices start on this host, and if not,
 * what is to be done?
 *
 * It tries what `ballast run` does, as far as that needs no guest: KVM makes a VM, groups are
 * opened and put into containers, devices are opened, which resets them; nothing is mapped or
 * pinned, and at the end all is closed. What cannot be tried is read from /sys and /proc.
 *
 * Each check is one line on standard output: ok, warning (a guest starts, but worse) or problem
 * (it does not), and below it what to do. Without devices what only they need is a warning.
 *
 * Threads: one.
 */
#ifndef VMM_DOCTOR_H
#define VMM_DOCTOR_H

#include <stdint.h>

#include "base/util.h"

#include "vfio/uapi.h"

enum doctor_output { DOCTOR_FOR_PEOPLE, DOCTOR_AS_JSON };

struct doctor_config {
	const char *
		root; /* see host_pci.h; /dev is this host's in any case, but where only looked at */
	uint64_t memory;               /* bytes of guest RAM */
	char (*names)[VFIO_NAME_SIZE]; /* borrowed; of PCI functions, as /sys has them */
	unsigned int nr;               /* MACHINE_MAX_DEVICES at most */
	enum doctor_output output;
};

/* How many problems there are. -ENOMEM: logged. */
must_check int doctor_run(const struct doctor_config *config);

/* The command. Returns an enum exit_status. */
int doctor_main(int argc, char **argv);

#endif /* VMM_DOCTOR_H */
