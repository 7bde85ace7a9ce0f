/* SPDX-License-Identifier: MIT */
/*
 * options.h - the command line: ballast COMMAND --option value.
 */
#ifndef VMM_OPTIONS_H
#define VMM_OPTIONS_H

#include "vmm/machine.h"

enum options_command { OPTIONS_RUN, OPTIONS_DONE };

/*
 * Parses. OPTIONS_RUN: *config is filled in; its strings are argv's own, which is cut up at
 * commas. OPTIONS_DONE: --help or --version was printed. -EINVAL: one line says which value is
 * wrong and what would be right.
 */
must_check int options_parse(int argc, char **argv, struct machine_config *config);

/* "512M" -> bytes; K, M, G, T are powers of 1024, none is bytes. -EINVAL, -ERANGE. */
must_check int options_parse_size(const char *text, uint64_t *ret);

/* The size that --memory takes. -EINVAL, logged. */
must_check int options_parse_memory(const char *text, uint64_t *ret);

/* "inhibit" or "coordinated". -EINVAL. */
must_check int options_parse_policy(const char *text, enum reclaim_policy *ret);

#endif /* VMM_OPTIONS_H */
