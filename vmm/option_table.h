/* SPDX-License-Identifier: MIT */
/*
 * option_table.h - the options of `ballast run`, one row each, of which everything about them is
 * made: parsing, --help, the configuration file, --print-config and the shells' completion.
 *
 * Threads: the table is constant.
 */
#ifndef VMM_OPTION_TABLE_H
#define VMM_OPTION_TABLE_H

#include <stdbool.h>

#include "base/list.h"

struct machine_config;

/* What a value is; in a configuration file text may always be a string as well. */
enum option_form {
	OPTION_FLAG,   /* none; in a file true or false */
	OPTION_TEXT,   /* any text */
	OPTION_NUMBER, /* a whole number */
	OPTION_SWITCH, /* on or off; in a file true or false */
	OPTION_KEYS,   /* KEY=VALUE,...; in a file an object, or what the text alone would be */
};

/* What the second value of one option does. */
enum option_again {
	OPTION_REPLACES, /* it counts instead */
	OPTION_ADDS,     /* one more of them; in a file an array */
	OPTION_MERGES,   /* its keys are added to those before, or replace them */
};

struct option_row {
	const char *name;     /* without its dashes; also the key in a file */
	const char *argument; /* as --help has it; NULL: OPTION_FLAG */
	const char *help;     /* lines; NULL: --help does not list it */
	/*
	 * `text` is cut up, and outlives *config, which may point into it; NULL with a flag that
	 * stands alone. NULL: options_parse() sees to it. -EINVAL: one line has said why.
	 */
	int (*parse)(char *text, struct machine_config *config);
	enum option_form form;
	enum option_again again;
	char letter;          /* or 0 */
	const char *fallback; /* the value if none is given; NULL: there is none */
	/* What the shell offers, blanks between: words, "key=", "@" for a file, "%" for a device. */
	const char *words;
	const char *bare; /* OPTION_KEYS: the key, in a file, of what comes first with no key */
	const char *first; /* OPTION_KEYS: keys that come first; without a value, words alone */
	bool not_in_file;
};

extern const struct option_row option_rows[];
extern const unsigned int nr_option_rows;

/* A value that was given: whole, for who wants to print it, and cut up by its row's parse. */
struct option_text {
	struct list_node link;
	const struct option_row *row;
	char *cut; /* behind whole, in the same allocation */
	char whole[];
};

/* The row of that name, or NULL. */
const struct option_row *option_find(const char *name);

/* Which of `words`, blanks between them, `text` is, counted from 0; -1: none. NULL: no words. */
int option_place(const char *words, const char *text);

#endif /* VMM_OPTION_TABLE_H */
