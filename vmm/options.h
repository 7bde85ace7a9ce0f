/* SPDX-License-Identifier: MIT */
/*
 * options.h - the command line: ballast COMMAND --option value.
 */
#ifndef VMM_OPTIONS_H
#define VMM_OPTIONS_H

#include "vmm/machine.h"
#include "vmm/option_table.h"

enum options_command { OPTIONS_RUN, OPTIONS_DONE };

struct options {
	struct machine_config config;
	struct list_node texts; /* struct option_text, owned: where config's strings lie */
};

/*
 * Parses. OPTIONS_RUN: the configuration is filled in. OPTIONS_DONE: what was asked for (--help,
 * --version, --print-config) was printed. -EINVAL: one line says which value is wrong and what
 * would be right; -ENOMEM and the like are logged as well. Only with OPTIONS_RUN is there
 * something for options_finish() to free.
 */
must_check int options_parse(int argc, char **argv, struct options *options);
/* After the machine's end. Accepts a zeroed object. */
void options_finish(struct options *options);

/* "512M" -> bytes; K, M, G, T are powers of 1024, none is bytes. -EINVAL, -ERANGE. */
must_check int options_parse_size(const char *text, uint64_t *ret);

/* The size that --memory takes. -EINVAL, logged. */
must_check int options_parse_memory(const char *text, uint64_t *ret);

#endif /* VMM_OPTIONS_H */
