/* SPDX-License-Identifier: MIT */
/*
 * config_file.h - the options of `ballast run` as JSON: one object, its keys those of the option
 * table.
 *
 *	{ "kernel": "vmlinuz", "cpus": 2, "memory": { "size": "4G", "backing": "memfd" },
 *	  "disk": [ { "path": "a.img", "readonly": true }, "path=b.img" ], "balloon": true }
 *
 * A string is the option's own text, an object its key=value pairs, true and false are on and
 * off, an array repeats an option.
 *
 * Threads: any.
 */
#ifndef VMM_CONFIG_FILE_H
#define VMM_CONFIG_FILE_H

#include "base/util.h"

#include "vmm/option_table.h"

/* Called for each option of the file, in order; `text` is NULL for a flag. Logs what is wrong. */
typedef int config_file_taker(void *opaque, const struct option_row *row, const char *text);

/*
 * Reads. -EINVAL: the file cannot be read, or is wrong; -ENOMEM; or what `take` said. One line has
 * said what: the file, the key and the value.
 */
must_check int config_file_read(const char *path, config_file_taker *take, void *opaque);

/*
 * Prints a list of struct option_text to stdout; read again, it gives the same. -EILSEQ: a value is
 * not UTF-8. -ENOMEM, -EIO. Logged.
 */
must_check int config_file_print(const struct list_node *texts);

#endif /* VMM_CONFIG_FILE_H */
