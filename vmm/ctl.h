/* SPDX-License-Identifier: MIT */
/*
 * ctl.h - `ballast ctl SOCKET COMMAND`: a client of the control socket, for people. Commands:
 * ballast(1).
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
