/* SPDX-License-Identifier: MIT */
/*
 * ctl.h - `ballast ctl SOCKET COMMAND`: a client of the control socket, for people.
 *
 *	status         whether the guest runs, its vCPUs, memory and PCI devices
 *	balloon SIZE   the guest is to keep SIZE of its memory
 *	memory         what the balloon holds and what the host has of it, and why not more
 *	stats          what the guest says of its memory, asked anew
 *	policy POLICY  with a device assigned: inhibit, or coordinated
 *	auto on|off    whether the target follows guest and host
 *	attach BDF     assigns one more device, which this opens and hands over; an mdev may have
 *	               ",balloon=allowed" behind its UUID
 *	detach ID      asks the guest to let go of one, and waits until it has; with --force takes it
 *	stop, cont     no vCPU runs in between
 *	reset          resets the guest
 *	powerdown      presses the power button
 *	quit           ends the guest at once
 *
 * With --json the answer is printed as it came; of `status` an object with the answers to its
 * four commands, by their names.
 */
#ifndef VMM_CTL_H
#define VMM_CTL_H

/*
 * argv[0] is "ctl". Returns the exit status: 0, 1 (the guest's side refused, or nobody
 * listens at the socket; one line has said so) or 2 (wrong usage).
 */
int ctl_main(int argc, char **argv);

/*
 * For who completes command lines: the name of the i-th command, or NULL; how many operands it
 * takes, and what the last may be: words as in struct option_row, "" if there is nothing to say.
 */
const char *ctl_command(unsigned int i, unsigned int *ret_nr_operands, const char **ret_words);

#endif /* VMM_CTL_H */
