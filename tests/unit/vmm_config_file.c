/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <sys/stat.h>

#include "base/log.h"

#include "tests/fakes/process.h"
#include "vmm/completion.h"
#include "vmm/options.h"

static struct options options;
static char folder[] = "/tmp/ballast-config-XXXXXX";
static char path[64];
static char *printed;
static size_t printed_size;
static unsigned int allocations_left; /* 0: no limit */

void *__real_malloc(size_t size);
void *__wrap_malloc(size_t size);
void *__real_calloc(size_t n, size_t size);
void *__wrap_calloc(size_t n, size_t size);

static bool refuses(void)
{
	return allocations_left > 0 && --allocations_left == 0;
}

void *__wrap_malloc(size_t size)
{
	return refuses() ? NULL : __real_malloc(size);
}

void *__wrap_calloc(size_t n, size_t size)
{
	return refuses() ? NULL : __real_calloc(n, size);
}

static void setup(void)
{
	process_keep_log();
	ck_assert_ptr_nonnull(mkdtemp(folder));
	(void)snprintf(path, sizeof(path), "%s/vm.json", folder);
	stdout = open_memstream(&printed, &printed_size);
}

static void teardown(void)
{
	options_finish(&options);
	(void)unlink(path);
	(void)rmdir(folder);
}

/* What was printed since the last call. */
static const char *take_printed(void)
{
	ck_assert_int_eq(fflush(stdout), 0);
	rewind(stdout);
	return printed;
}

static void write_file(const char *text)
{
	FILE *f = fopen(path, "we");
	ck_assert_ptr_nonnull(f);
	ck_assert_int_ge(fputs(text, f), 0);
	ck_assert_int_eq(fclose(f), 0);
}

/* ballast run with these words, NULL-terminated after the first. */
static int run(const char *const *words)
{
	char *argv[64] = { strdup("ballast"), strdup("run") };
	int argc = 2;

	for (; words[argc - 2]; argc++)
		argv[argc] = strdup(words[argc - 2]);
	options_finish(&options);
	int r = options_parse(argc, argv, &options);
	for (int i = 0; i < argc; i++)
		free(argv[i]); /* nothing points there */
	return r;
}

#define RUN(...) run((const char *const[]){ __VA_ARGS__, NULL })

static const struct machine_config *read_file(const char *text)
{
	write_file(text);
	int r = RUN("--config", path);
	ck_assert_msg(r == OPTIONS_RUN, "%s: %s", text, process_log());
	process_expect_no_log();
	return &options.config;
}

static void expect_refusal(const char *text, const char *part)
{
	write_file(text);
	ck_assert_msg(RUN("--config", path) == -EINVAL, "%s", text);
	const char *log = process_log();
	ck_assert_msg(strstr(log, part) && strstr(log, path), "%s: %s", text, log);
	ck_assert_ptr_eq(strchr(log, '\n'), log + strlen(log) - 1);
	/* Those that come after it are not said to be of the file. */
	(void)log_err(0, "another");
	ck_assert_str_eq(process_log(), "E another\n");
}

START_TEST(a_file_has_the_options_as_keys)
{
	const struct machine_config *c =
		read_file("{\"kernel\": \"k\", \"cpus\": 3, \"memory\": \"1G,backing=memfd\","
			  "\"device\": [\"01:00.0,02:00.0\", \"03:00.0\"], \"rng\": true,"
			  "\"cmdline\": \"a,b=c d\", \"exit-port\": true, \"timeout\": \"7\"}");

	ck_assert_str_eq(c->kernel, "k");
	ck_assert_uint_eq(c->nr_cpus, 3);
	ck_assert_uint_eq(c->memory, 1ull << 30);
	ck_assert_int_eq(c->backing, RAM_MEMFD);
	ck_assert_uint_eq(c->nr_devices, 3);
	ck_assert_str_eq(c->devices[2].name, "03:00.0");
	ck_assert(c->has_rng);
	ck_assert_str_eq(c->cmdline, "a,b=c d");
	ck_assert(c->exit_port);
	ck_assert_uint_eq(c->timeout, 7);
}
END_TEST

START_TEST(an_object_is_an_options_keys)
{
	const struct machine_config *c = read_file(
		"{\"kernel\": \"k\", \"memory\": {\"backing\": \"memfd\", \"size\": \"1G\"},"
		"\"device\": {\"balloon\": \"allowed\", \"bdf\": \"01:00.0\"},"
		"\"balloon\": {\"stats\": 5, \"reporting\": true, \"auto\": false},"
		"\"disk\": [{\"path\": \"a\", \"readonly\": true}, \"path=b\"],"
		"\"net\": [{\"mac\": \"02:00:00:00:00:01\", \"passt\": true},"
		"{\"queues\": 2, \"tap\": \"t\"}, {\"passt\": \"/run/p\"}]}");

	ck_assert_uint_eq(c->memory, 1ull << 30);
	ck_assert_int_eq(c->backing, RAM_MEMFD);
	ck_assert_str_eq(c->devices[0].name, "01:00.0");
	ck_assert_int_eq(c->devices[0].balloon, VFIO_BALLOON_ALLOWED);
	ck_assert(c->has_balloon);
	ck_assert_uint_eq(c->balloon.stats_period, 5);
	ck_assert(c->balloon.reporting);
	ck_assert(!c->auto_balloon.on);
	ck_assert_uint_eq(c->nr_disks, 2);
	ck_assert_str_eq(c->disks[0].path, "a");
	ck_assert(c->disks[0].readonly);
	ck_assert_int_eq(c->nets[0].kind, NET_PASST);
	ck_assert_uint_eq(c->nets[0].mac[5], 1);
	ck_assert_str_eq(c->nets[1].name, "t");
	ck_assert_uint_eq(c->nets[1].queues, 2);
	ck_assert_int_eq(c->nets[2].kind, NET_PASST_RUNNING);
}
END_TEST

START_TEST(a_flag_that_is_false_is_not_given)
{
	ck_assert(!read_file("{\"kernel\": \"k\", \"exit-port\": false}")->exit_port);
	(void)read_file("{\"kernel\": \"k\", \"verbose\": false}");
	ck_assert(!log_enabled(LOG_DEBUG));
	(void)read_file("{\"kernel\": \"k\", \"verbose\": true}");
	ck_assert(log_enabled(LOG_DEBUG));
}
END_TEST

START_TEST(the_command_line_overrides_and_extends)
{
	write_file("{\"kernel\": \"k\", \"cpus\": 3, \"memory\": \"1G,backing=memfd\","
		   "\"disk\": \"path=a\", \"balloon\": {\"stats\": 5}}");
	/* Wherever the file is named. */
	ck_assert_int_eq(RUN("--cpus", "2", "--memory", "2G", "--disk", "path=b", "--config",
			     path, "--balloon", "policy=coordinated"),
			 OPTIONS_RUN);
	const struct machine_config *c = &options.config;
	ck_assert_uint_eq(c->nr_cpus, 2);
	ck_assert_uint_eq(c->memory, 2ull << 30);
	ck_assert_int_eq(c->backing, RAM_ANONYMOUS);
	ck_assert_uint_eq(c->nr_disks, 2);
	ck_assert_str_eq(c->disks[0].path, "a");
	ck_assert_str_eq(c->disks[1].path, "b");
	ck_assert_uint_eq(c->balloon.stats_period, 5);
	ck_assert_int_eq(c->policy, RECLAIM_COORDINATED);
}
END_TEST

START_TEST(the_later_of_two_files_overrides)
{
	char second[80];

	(void)snprintf(second, sizeof(second), "%s/second.json", folder);
	write_file("{\"cpus\": 4}");
	ck_assert_int_eq(rename(path, second), 0);
	write_file("{\"kernel\": \"k\", \"cpus\": 3}");
	ck_assert_int_eq(RUN("--config", path, "--config", second), OPTIONS_RUN);
	ck_assert_uint_eq(options.config.nr_cpus, 4);
	ck_assert_int_eq(unlink(second), 0);
}
END_TEST

START_TEST(what_is_wrong_in_a_file_is_named)
{
	static const struct {
		const char *text, *part;
	} cases[] = {
		{ "", "expected" },
		{ "{\"kernel\":", "line 1" },
		{ "[1]", "one JSON object" },
		{ "{\"kernel\": \"a\", \"kernel\": \"b\"}", "duplicate" },
		{ "{\"kernel\": \"a\\u0000\"}", "line 1" },
		{ "{\"memroy\": \"1G\"}", "key 'memroy' is not known" },
		{ "{\"v\": true}", "key 'v' is not known" },
		{ "{\"config\": \"x\"}", "key 'config'" },
		{ "{\"help\": true}", "key 'help'" },
		{ "{\"kernel\": 5}", "key 'kernel', value 5: it takes a string" },
		{ "{\"kernel\": null}", "key 'kernel', value null" },
		{ "{\"cpus\": [2]}", "key 'cpus', value [2]: it takes a number" },
		{ "{\"cpus\": 1.5}", "key 'cpus', value 1.5" },
		{ "{\"cpus\": true}", "key 'cpus', value true" },
		{ "{\"rng\": 1}", "key 'rng', value 1: it takes true, false" },
		{ "{\"exit-port\": \"on\"}", "key 'exit-port', value \"on\"" },
		{ "{\"verbose\": \"loud\"}", "--verbose 'loud'" },
		{ "{\"memory\": [\"1G\"]}", "key 'memory', value [\"1G\"]" },
		{ "{\"disk\": [\"path=a\", null]}", "key 'disk', value null" },
		{ "{\"disk\": {\"path\": [\"a\"]}}", "disk: key 'path', value [\"a\"]" },
		{ "{\"disk\": {\"path\": \"a,b\"}}", "disk: key 'path', value 'a,b': a comma" },
		{ "{\"disk\": {\"path,x\": \"a\"}}", "disk: key 'path,x', value 'a'" },
		{ "{\"disk\": {}}", "--disk ''" },
		{ "{\"memory\": \"lots\"}", "--memory 'lots': a size" },
		{ "{\"memory\": {\"backing\": \"anon\"}}", "--memory 'backing=anon'" },
		{ "{\"balloon\": false}", "--balloon 'off': it is on" },
		{ "{\"cpus\": 99}", "--cpus '99': a number from 1 to 16" },
	};

	for (unsigned int i = 0; i < nitems(cases); i++)
		expect_refusal(cases[i].text, cases[i].part);
}
END_TEST

START_TEST(a_file_that_cannot_be_read_is_named)
{
	ck_assert_int_eq(RUN("--config", path), -EINVAL);
	process_expect_log("vm.json': No such file");
	ck_assert_int_eq(RUN("--config", folder), -EINVAL);
	process_expect_log("': Is a directory");
	write_file("{\"kernel\": \"k\"}");
	process_forbid_fds();
	ck_assert_int_eq(RUN("--config", path), -EINVAL);
	process_allow_fds();
	process_expect_log("vm.json': Too many open files");
	unsigned int nr_fds = process_nr_fds();
	ck_assert_int_eq(RUN("--config", path), OPTIONS_RUN);
	ck_assert_uint_eq(process_nr_fds(), nr_fds);
}
END_TEST

START_TEST(a_file_alone_may_lack_a_kernel)
{
	write_file("{\"cpus\": 2}");
	ck_assert_int_eq(RUN("--config", path), -EINVAL);
	process_expect_log("E --kernel is missing");
	ck_assert_int_eq(RUN("--config", path, "--kernel", "k"), OPTIONS_RUN);
}
END_TEST

START_TEST(what_is_printed_gives_the_same_when_read)
{
	char first[4096];

	ck_assert_int_eq(RUN("--kernel", "k", "--disk", "path=a,readonly=on", "--disk",
			     "path=on,serial=x", "--device", "01:00.0,balloon=allowed",
			     "--device", "a,b", "--balloon", "auto=on", "--balloon",
			     "policy=coordinated,stats=5", "--net", "passt", "--net",
			     "tap=t,vhost=on", "--net", "passt=on", "--rng", "on", "--console",
			     "stdio", "--cmdline", "a,b=c", "--exit-port", "-v", "trace",
			     "--memory", "1G,backing=memfd", "--timeout", "9", "--sandbox",
			     "log", "--print-config"),
			 OPTIONS_DONE);
	(void)snprintf(first, sizeof(first), "%s", take_printed());
	write_file(first);
	ck_assert_int_eq(RUN("--config", path, "--print-config"), OPTIONS_DONE);
	ck_assert_str_eq(take_printed(), first);
	process_expect_no_log();
	const struct machine_config *c = read_file(first);
	ck_assert_uint_eq(c->nr_disks, 2);
	ck_assert_str_eq(c->disks[1].path, "on");
	ck_assert_uint_eq(c->nr_devices, 3);
	ck_assert_uint_eq(c->balloon.stats_period, 5);
	ck_assert(c->auto_balloon.on);
	ck_assert_int_eq(c->nets[0].kind, NET_PASST);
	ck_assert_int_eq(c->nets[1].vhost, VIRTIO_NET_VHOST_ON);
	ck_assert_int_eq(c->nets[2].kind, NET_PASST_RUNNING);
	ck_assert_str_eq(c->nets[2].name, "on");
	ck_assert_int_eq(c->serial.kind, CONSOLE_NONE);
	ck_assert_uint_eq(c->timeout, 9);
	ck_assert_int_eq(c->sandbox, SANDBOX_LOG);
	ck_assert_str_eq(c->cmdline, "a,b=c");
}
END_TEST

START_TEST(what_was_not_given_is_printed_as_well)
{
	static const char *const lines[] = { "\"cpus\": 1,",
					     "\"memory\": \"512M\"",
					     "\"serial\": \"stdio\"",
					     "\"cmdline\": \"console=ttyS0\"",
					     "\"on-reset\": \"reset\"",
					     "\"sandbox\": true" };

	ck_assert_int_eq(RUN("--print-config", "--kernel", "k"), OPTIONS_DONE);
	const char *text = take_printed();
	for (unsigned int i = 0; i < nitems(lines); i++)
		ck_assert_msg(strstr(text, lines[i]), "%s: %s", lines[i], text);
	ck_assert_ptr_null(strstr(text, "print-config"));
	ck_assert_ptr_null(strstr(text, "balloon"));
}
END_TEST

START_TEST(what_json_cannot_say_is_not_printed)
{
	ck_assert_int_eq(RUN("--print-config", "--kernel", "\xff"), -EILSEQ);
	process_expect_log("--print-config: --kernel");
	ck_assert_str_eq(take_printed(), "");
}
END_TEST

START_TEST(only_what_could_be_started_is_printed)
{
	ck_assert_int_eq(RUN("--print-config"), -EINVAL);
	process_expect_log("--kernel is missing");
	ck_assert_int_eq(RUN("--print-config", "--kernel", "k", "--cpus", "0"), -EINVAL);
	process_expect_log("--cpus '0'");
	ck_assert_str_eq(take_printed(), "");
}
END_TEST

START_TEST(no_memory_is_told_and_nothing_left)
{
	unsigned int n = 0;
	int r;

	write_file("{\"kernel\": \"k\", \"disk\": {\"path\": \"a\"}}");
	do {
		char config[80];
		char *argv[] = { config, config, config, path, NULL };
		(void)snprintf(config, sizeof(config), "run");
		char option[] = "--config";
		argv[2] = option;
		options_finish(&options);
		allocations_left = ++n;
		r = options_parse(4, argv, &options);
		allocations_left = 0;
		if (r == OPTIONS_RUN)
			break;
		ck_assert_int_eq(r, -ENOMEM);
		process_expect_log("Cannot allocate memory");
		ck_assert_ptr_null(options.texts.next);
	} while (n < 100);
	/* The list of what was picked; five fallbacks, two of the file, the command line's own. */
	ck_assert_uint_eq(n, 1 + 5 + 2 + 1 + 1);
}
END_TEST

START_TEST(shells_are_told_of_every_option)
{
	static const char *const shells[] = { "bash", "zsh" };

	for (unsigned int s = 0; s < nitems(shells); s++) {
		ck_assert_int_eq(completion_print(shells[s]), 0);
		const char *text = take_printed();
		for (unsigned int i = 0; i < nr_option_rows; i++) {
			char word[64];
			(void)snprintf(word, sizeof(word), "--%s", option_rows[i].name);
			ck_assert_msg(strstr(text, word), "%s: %s", shells[s], word);
		}
		ck_assert_ptr_nonnull(strstr(text, "status balloon memory"));
		ck_assert_ptr_nonnull(strstr(text, "inhibit coordinated"));
	}
	ck_assert_int_eq(completion_print("fish"), -EINVAL);
	process_expect_log("--completion 'fish': it is bash or zsh");
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		a_file_has_the_options_as_keys,
		an_object_is_an_options_keys,
		a_flag_that_is_false_is_not_given,
		the_command_line_overrides_and_extends,
		the_later_of_two_files_overrides,
		what_is_wrong_in_a_file_is_named,
		a_file_that_cannot_be_read_is_named,
		a_file_alone_may_lack_a_kernel,
		what_is_printed_gives_the_same_when_read,
		what_was_not_given_is_printed_as_well,
		what_json_cannot_say_is_not_printed,
		only_what_could_be_started_is_printed,
		no_memory_is_told_and_nothing_left,
		shells_are_told_of_every_option,
	};

	return run_tests("vmm_config_file", setup, teardown, tests, nitems(tests));
}
