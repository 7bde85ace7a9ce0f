/* SPDX-License-Identifier: MIT */
/*
 * options.c - the command line, its words separated by newlines, or a configuration file: all of the
 * input, if it begins with a brace. What is refused is refused in one line; what is taken, is taken
 * again, and is the same, from the file that --print-config makes of it.
 */
#include "vmm/options.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <sys/mman.h>

#include "base/log.h"
#include "base/trace.h"

#include "tests/fuzz/driver.h"
#include "vmm/config_file.h"

#define MAX_WORDS 64

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static char file_path[32];
static int file_fd = -1;
static FILE *nowhere; /* where --help goes */

static void fill_file(const void *bytes, size_t size)
{
	if (file_fd < 0) {
		file_fd = memfd_create("fuzz", MFD_CLOEXEC);
		(void)snprintf(file_path, sizeof(file_path), "/proc/self/fd/%d", file_fd);
	}
	if (ftruncate(file_fd, 0) < 0 || pwrite(file_fd, bytes, size, 0) != (ssize_t)size)
		abort(); /* of this process's making, not the input's */
}

/* To be freed; NULL: there is none, as what was given is not UTF-8. */
static char *print_config(const struct options *options)
{
	char *text = NULL;
	size_t size;
	FILE *f = open_memstream(&text, &size);

	if (!f)
		abort(); /* likewise */
	stdout = f;
	int r = config_file_print(&options->texts);
	stdout = nowhere;
	(void)fclose(f);
	if (r >= 0)
		return text;
	assert(r == -EILSEQ);
	free(text);
	return NULL;
}

/* OPTIONS_RUN: to be finished. */
static int parse(int argc, char **argv, struct options *options)
{
	fuzz.nr_errors = 0;
	int r = options_parse(argc, argv, options);
	assert(fuzz.nr_errors == (r < 0));
	assert(r >= 0 || r == -EINVAL || r == -EILSEQ); /* the latter of --print-config */
	return r;
}

static int parse_file(struct options *options)
{
	static char program[] = "ballast";
	static char command[] = "run";
	static char option[] = "--config";
	char *words[] = { program, command, option, file_path, NULL };

	return parse(4, words, options);
}

/* Finishes them. */
static void check_same_again(struct options *options)
{
	struct options again;
	char *text = print_config(options);

	if (text) {
		fill_file(text, strlen(text));
		assert(parse_file(&again) == OPTIONS_RUN);
		char *text_again = print_config(&again);
		assert(text_again && strcmp(text, text_again) == 0);
		assert(again.config.memory == options->config.memory);
		assert(again.config.nr_devices == options->config.nr_devices);
		assert(again.config.nr_disks == options->config.nr_disks);
		for (unsigned int i = 0; i < again.config.nr_nets; i++)
			assert(again.config.nets[i].kind == options->config.nets[i].kind);
		free(text_again);
		options_finish(&again);
	}
	free(text);
	options_finish(options);
}

static int parse_words(char *text, struct options *options)
{
	static char program[] = "ballast";
	char *words[MAX_WORDS + 1] = { program };
	int n = 1;

	while (text && n < MAX_WORDS)
		words[n++] = strsep(&text, "\n");
	return parse(n, words, options);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
	struct options options;
	char *text = strndup((const char *)bytes, size);

	if (!nowhere)
		stdout = nowhere = fopen("/dev/null", "we");
	if (!text || !nowhere)
		abort(); /* likewise */
	log_set_level(LOG_ERROR);
	if (size > 0 && *bytes == '{')
		fill_file(bytes, size);
	int r = *text == '{' ? parse_file(&options) : parse_words(text, &options);
	if (r == OPTIONS_RUN)
		check_same_again(&options);
	trace_listen(NULL); /* with -v trace */
	free(text);
	return 0;
}
