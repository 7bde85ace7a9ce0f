/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <string.h>

#include <sys/resource.h>

#include "vmm/bind.h"
#include "vmm/ctl.h"
#include "vmm/doctor.h"
#include "vmm/machine.h"
#include "vmm/options.h"

/* Each vector of an assigned device takes an eventfd; the usual limit is for those who select(2). */
static void raise_fd_limit(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
		return;
	limit.rlim_cur = limit.rlim_max;
	(void)setrlimit(RLIMIT_NOFILE, &limit); /* if refused: with what there is */
}

static int run(const struct machine_config *config)
{
	static struct machine machine; /* 64 KiB and more: not for the stack */
	int r = machine_init(&machine, config);

	if (r < 0)
		return r == -EINVAL || r == -ENODEV || r == -E2BIG ? STATUS_USAGE
								   : STATUS_FAILED;
	int status = machine_run(&machine);
	machine_finish(&machine);
	return status;
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		int (*main)(int argc, char **argv);
	} others[] = {
		{ "ctl", ctl_main },
		{ "doctor", doctor_main },
		{ "bind", bind_main },
		{ "unbind", unbind_main },
	};
	struct options options;

	for (unsigned int i = 0; argc > 1 && i < nitems(others); i++) {
		if (strcmp(argv[1], others[i].name) == 0)
			return others[i].main(argc - 1, argv + 1);
	}
	int r = options_parse(argc, argv, &options);
	if (r == OPTIONS_DONE)
		return 0;
	if (r < 0)
		return r == -EINVAL ? STATUS_USAGE : STATUS_FAILED;
	raise_fd_limit();
	int status = run(&options.config);
	options_finish(&options);
	return status;
}
