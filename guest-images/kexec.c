// SPDX-License-Identifier: MIT
/*
 * kexec.c - runs in the guest: goes on with another kernel, without a reset of the machine.
 *
 *	kexec KERNEL INITRD COMMAND-LINE
 *
 * Devices are shut down as their drivers do it; see keep/ for those that are not. Returns only if it fails, with 1.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <sys/syscall.h>

#include <linux/reboot.h>

int main(int argc, char **argv)
{
	if (argc != 4) {
		fprintf(stderr, "usage: kexec KERNEL INITRD COMMAND-LINE\n");
		return 1;
	}
	int kernel = open(argv[1], O_RDONLY | O_CLOEXEC);
	int initrd = open(argv[2], O_RDONLY | O_CLOEXEC);

	if (kernel < 0 || initrd < 0)
		perror("kexec: open");
	else if (syscall(SYS_kexec_file_load, kernel, initrd, strlen(argv[3]) + 1, argv[3],
			 0ul) < 0)
		perror("kexec: load");
	else {
		sync();
		syscall(SYS_reboot, LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2,
			LINUX_REBOOT_CMD_KEXEC, NULL);
		perror("kexec: start");
	}
	return 1;
}
