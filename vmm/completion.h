/* SPDX-License-Identifier: MIT */
/*
 * completion.h - what a shell needs to complete the command line, made of the option table.
 *
 * Threads: any.
 */
#ifndef VMM_COMPLETION_H
#define VMM_COMPLETION_H

#include "base/util.h"

/* Prints the completion of "bash" or "zsh". -EINVAL: it is neither; logged. */
must_check int completion_print(const char *shell);

#endif /* VMM_COMPLETION_H */
