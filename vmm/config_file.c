/* SPDX-License-Identifier: MIT */
#include "vmm/config_file.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"

static const char *describe_form(const struct option_row *row)
{
	switch (row->form) {
	case OPTION_FLAG: return "true or false";
	case OPTION_TEXT: return "a string";
	case OPTION_NUMBER: return "a number or a string";
	case OPTION_SWITCH: return "true, false or a string";
	case OPTION_KEYS:
		return "a string or an object; several, if it may be repeated, in an array";
	}
	return "nothing";
}

/* The key is of option `of`, if not NULL. Always -EINVAL. */
static int refuse(const char *of, const char *key, const json_t *value, const char *takes)
{
	autofree char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT);

	return log_refuse(-EINVAL, "%s%skey '%s', value %.60s: it takes %s", of ? of : "",
			  of ? ": " : "", key, text ? text : "(too large)", takes);
}

/* The text of a value that is neither object nor array, in `number` if need be; NULL: it has none. */
static const char *scalar_text(const json_t *value, char *number, size_t size)
{
	if (json_is_string(value))
		return json_string_value(value);
	if (json_is_boolean(value))
		return json_is_true(value) ? "on" : "off";
	if (!json_is_integer(value))
		return NULL;
	(void)snprintf(number, size, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
	return number;
}

/* In which order keys stand in the option's own text. */
static unsigned int rank(const struct option_row *row, const char *key)
{
	if (row->bare && strcmp(row->bare, key) == 0)
		return 0;
	return option_place(row->first, key) >= 0 ? 1 : 2;
}

static int write_pair(FILE *f, const struct option_row *row, const char *key,
		      const json_t *value)
{
	char number[32];
	const char *text = scalar_text(value, number, sizeof(number));

	if (!text)
		return refuse(row->name, key, value, "a string, a number, or true or false");
	if (strchr(text, ',') || strpbrk(key, ",="))
		return log_refuse(
			-EINVAL,
			"%s: key '%s', value '%s': a comma would end it, please do without",
			row->name, key, text);
	if (ftell(f) > 0)
		(void)fputc(',', f); /* as below: fclose() tells */
	unsigned int place = rank(row, key);
	if (place == 0)
		(void)fputs(text, f);
	else if (place == 1 && json_is_true(value))
		(void)fputs(key, f);
	else
		(void)fprintf(f, "%s=%s", key, text);
	return 0;
}

/* The option's own text for an object; to be freed. */
static int join_pairs(const struct option_row *row, json_t *object, char **ret)
{
	const char *key;
	json_t *value;
	size_t size;
	int r = 0;

	FILE *f = open_memstream(ret, &size);
	if (!f)
		return log_err(-ENOMEM, "key '%s'", row->name);
	for (unsigned int place = 0; place <= 2 && r >= 0; place++) {
		json_object_foreach(object, key, value)
		{
			if (r >= 0 && rank(row, key) == place)
				r = write_pair(f, row, key, value);
		}
	}
	if (fclose(f) != 0 && r >= 0)
		r = log_err(-ENOMEM, "key '%s'", row->name);
	return r;
}

static bool takes(const struct option_row *row, const json_t *value)
{
	switch (row->form) {
	case OPTION_FLAG:
		/* A flag that has words may also be one of them. */
		return json_is_boolean(value) || (row->words && json_is_string(value));
	case OPTION_TEXT: return json_is_string(value);
	case OPTION_NUMBER: return json_is_string(value) || json_is_integer(value);
	case OPTION_SWITCH: return json_is_string(value) || json_is_boolean(value);
	case OPTION_KEYS:
		return json_is_object(value) || json_is_string(value) ||
		       json_is_integer(value) || json_is_boolean(value);
	}
	return false;
}

static int take_one(const struct option_row *row, json_t *value, config_file_taker *take,
		    void *opaque)
{
	autofree char *pairs = NULL;
	char number[32];

	if (!takes(row, value))
		return refuse(NULL, row->name, value, describe_form(row));
	if (json_is_false(value) && row->form == OPTION_FLAG)
		return 0;
	if (json_is_true(value) && row->form == OPTION_FLAG)
		return take(opaque, row, NULL);
	if (!json_is_object(value))
		return take(opaque, row, scalar_text(value, number, sizeof(number)));
	int r = join_pairs(row, value, &pairs);
	return r < 0 ? r : take(opaque, row, pairs);
}

static int take_option(const char *key, json_t *value, config_file_taker *take, void *opaque)
{
	const struct option_row *row = option_find(key);
	int r = 0;

	if (!row)
		return log_refuse(-EINVAL,
				  "key '%s' is not known: the keys are the options of ballast "
				  "run, without their dashes",
				  key);
	if (row->not_in_file)
		return log_refuse(-EINVAL, "key '%s': that goes with the command line only",
				  key);
	if (row->again != OPTION_ADDS || !json_is_array(value))
		return take_one(row, value, take, opaque);
	for (size_t i = 0; i < json_array_size(value) && r >= 0; i++)
		r = take_one(row, json_array_get(value, i), take, opaque);
	return r;
}

/* The object in the file at `path`; new. */
static int load(const char *path, json_t **ret)
{
	json_error_t error;

	FILE *f = fopen(path, "re");
	if (!f)
		return log_err(-errno, "--config '%s'", path), -EINVAL;
	errno = 0;
	*ret = json_loadf(f, JSON_REJECT_DUPLICATES, &error);
	int failure = ferror(f) ? errno : 0;
	(void)fclose(f); /* it was only read */
	if (*ret && json_is_object(*ret))
		return 0;
	json_decref(*ret);
	*ret = NULL;
	if (failure)
		return log_err(-failure, "--config '%s'", path), -EINVAL;
	if (error.line < 0 || error.text[0] == '\0')
		return log_refuse(
			-EINVAL, "--config '%s': it must be one JSON object: {\"kernel\": ...}",
			path);
	return log_refuse(-EINVAL, "--config '%s': line %d, column %d: %s", path, error.line,
			  error.column, error.text);
}

int config_file_read(const char *path, config_file_taker *take, void *opaque)
{
	char context[256];
	json_t *options = NULL;
	const char *key;
	json_t *value;

	int r = load(path, &options);
	if (r < 0)
		return r;
	(void)snprintf(context, sizeof(context), "--config '%s'", path);
	log_set_context(context);
	json_object_foreach(options, key, value)
	{
		if (r >= 0)
			r = take_option(key, value, take, opaque);
	}
	log_set_context(NULL);
	json_decref(options);
	return r;
}

/* Printing */

static json_t *value_of(const char *text)
{
	if (strcmp(text, "on") == 0 || strcmp(text, "off") == 0)
		return json_boolean(text[1] == 'n');
	return json_string(text);
}

/* One piece of a text with keys. -EINVAL: it has no place in an object. */
static int add_pair(const struct option_row *row, json_t *object, char *piece)
{
	char *value = piece;
	const char *key = strsep(&value, "=");
	bool comes_first = option_place(row->first, key) >= 0;

	/* Of a key that may stand alone, true says that it does. */
	if (value)
		return json_object_set_new(object, key,
					   comes_first ? json_string(value) : value_of(value));
	if (comes_first)
		return json_object_set_new(object, key, json_true());
	if (!row->bare || json_object_get(object, row->bare))
		return -EINVAL;
	return json_object_set_new(object, row->bare, json_string(key));
}

/* The text as an object, its pairs added to those of `before` (borrowed; or NULL); or as a string. */
static json_t *describe_keys(const struct option_row *row, const char *text, json_t *before)
{
	autofree char *copy = strdup(text);
	json_t *object = json_is_object(before) ? json_copy(before) : json_object();
	char *rest = copy;
	int r = copy ? 0 : -ENOMEM;

	while (r >= 0 && rest)
		r = add_pair(row, object, strsep(&rest, ","));
	if (r >= 0)
		return object;
	json_decref(object);
	return json_string(text);
}

static json_t *describe(const struct option_text *text, json_t *before)
{
	const struct option_row *row = text->row;

	if (row->form == OPTION_FLAG && !text->whole[0])
		return json_true();
	if (row->form == OPTION_SWITCH)
		return value_of(text->whole);
	if (row->form == OPTION_NUMBER)
		return json_integer(strtoll(text->whole, NULL, 10));
	if (row->form != OPTION_KEYS || (!strchr(text->whole, ',') && row->bare))
		return json_string(text->whole);
	return describe_keys(row, text->whole, row->again == OPTION_MERGES ? before : NULL);
}

static int add_text(json_t *options, const struct option_text *text)
{
	const char *name = text->row->name;
	json_t *before = json_object_get(options, name);
	json_t *value = describe(text, before);

	if (text->row->again != OPTION_ADDS)
		return json_object_set_new(options, name, value);
	if (!before) {
		before = json_array();
		if (json_object_set_new(options, name, before) < 0) {
			json_decref(value);
			return -1;
		}
	}
	return json_array_append_new(before, value);
}

int config_file_print(const struct list_node *texts)
{
	json_t *options = json_object();
	int r = options ? 0 : log_err(-ENOMEM, "--print-config");

	/* In the table's order, whatever that of the command line was. */
	for (unsigned int i = 0; i < nr_option_rows && r >= 0; i++) {
		list_for_each(n, texts) {
			const struct option_text *text =
				container_of(n, struct option_text, link);
			if (r < 0 || text->row != &option_rows[i] || text->row->not_in_file)
				continue;
			/* There is memory, so it can only be what JSON cannot say. */
			if (add_text(options, text) < 0)
				r = log_err(-EILSEQ, "--print-config: --%s '%s'",
					    text->row->name, text->whole);
		}
	}
	if (r >= 0 && (json_dumpf(options, stdout, JSON_INDENT(2)) < 0 || puts("") < 0 ||
		       fflush(stdout) != 0))
		r = log_err(-EIO, "--print-config");
	json_decref(options);
	return r;
}
