/* SPDX-License-Identifier: MIT */
#include <errno.h>

#include "vmm/machine.h"
#include "vmm/options.h"

int main(int argc, char **argv)
{
	static struct machine machine; /* 64 KiB and more: not for the stack */
	struct machine_config config;

	int r = options_parse(argc, argv, &config);
	if (r == OPTIONS_DONE)
		return 0;
	if (r < 0)
		return STATUS_USAGE;
	r = machine_init(&machine, &config);
	if (r < 0)
		return r == -EINVAL || r == -ENODEV || r == -E2BIG ? STATUS_USAGE
								   : STATUS_FAILED;
	int status = machine_run(&machine);
	machine_finish(&machine);
	return status;
}
