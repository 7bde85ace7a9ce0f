/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <sys/prctl.h>

#include "base/log.h"
#include "base/trace.h"

#include "tests/fakes/process.h"
#include "vmm/options.h"

#define MAX_ARGS 80u

static struct options options;
static struct machine_config config; /* what came of it */
static char words[4096];
static char *printed;
static size_t printed_size;

static void setup(void)
{
	process_keep_log();
	stdout = open_memstream(&printed, &printed_size);
}

static const char *printed_text(void)
{
	ck_assert_int_eq(fflush(stdout), 0);
	return printed;
}

/* Parses a command line whose words are separated by single spaces. */
static int parse(const char *line)
{
	char *argv[MAX_ARGS] = { NULL };
	int argc = 0;
	char *rest = words;

	(void)snprintf(words, sizeof(words), "%s", line);
	while (rest && argc < (int)MAX_ARGS - 1)
		argv[argc++] = strsep(&rest, " ");
	options_finish(&options);
	int r = options_parse(argc, argv, &options);
	config = options.config;
	return r;
}

static void parse_well(const char *line)
{
	int r = parse(line);

	ck_assert_msg(r == OPTIONS_RUN, "%s: %d %s", line, r, process_log());
	process_expect_no_log();
}

static void expect_refusal(const char *line, const char *part)
{
	ck_assert_msg(parse(line) == -EINVAL, "%s", line);
	process_expect_log(part);
}

START_TEST(a_kernel_is_enough)
{
	parse_well("ballast run --kernel vmlinuz");
	ck_assert_str_eq(config.kernel, "vmlinuz");
	ck_assert_ptr_null(config.initrd);
	ck_assert_str_eq(config.cmdline, "console=ttyS0");
	ck_assert_uint_eq(config.nr_cpus, 1);
	ck_assert_uint_eq(config.memory, 512ull << 20);
	ck_assert_int_eq(config.backing, RAM_ANONYMOUS);
	ck_assert_uint_eq(config.nr_devices, 0);
	ck_assert_uint_eq(config.nr_disks, 0);
	ck_assert_int_eq(config.serial.kind, CONSOLE_STDIO);
	ck_assert(!config.has_console);
	ck_assert_int_eq(config.on_reset, ON_RESET_RESET);
	ck_assert_uint_eq(config.timeout, 0);
	ck_assert(!config.exit_port);
	ck_assert(!config.has_balloon);
	ck_assert_int_eq(config.policy, RECLAIM_INHIBIT);
	ck_assert(!config.unsafe);
	ck_assert_ptr_null(config.qmp);
}
END_TEST

START_TEST(every_option_is_taken)
{
	parse_well("ballast run --kernel k --initrd i --cmdline quiet --cpus 4 --memory "
		   "1G,backing=memfd --device 01:00.0 --serial none --on-reset exit --timeout "
		   "30 --exit-port -v");
	ck_assert_str_eq(config.kernel, "k");
	ck_assert_str_eq(config.initrd, "i");
	ck_assert_str_eq(config.cmdline, "quiet");
	ck_assert_uint_eq(config.nr_cpus, 4);
	ck_assert_uint_eq(config.memory, 1ull << 30);
	ck_assert_int_eq(config.backing, RAM_MEMFD);
	ck_assert_uint_eq(config.nr_devices, 1);
	ck_assert_str_eq(config.devices[0].name, "01:00.0");
	ck_assert_int_eq(config.serial.kind, CONSOLE_NONE);
	ck_assert_int_eq(config.on_reset, ON_RESET_EXIT);
	ck_assert_uint_eq(config.timeout, 30);
	ck_assert(config.exit_port);
	ck_assert(log_enabled(LOG_DEBUG));
}
END_TEST

/* getopt remembers where in a word of letters it was. */
START_TEST(a_refusal_leaves_nothing_to_the_next_command_line)
{
	expect_refusal("ballast run -vvx", "option '-x' is not known");
	expect_refusal("ballast run ", "'' is no option");
	parse_well("ballast run --kernel k");
}
END_TEST

START_TEST(a_value_may_follow_an_equals_sign)
{
	parse_well("ballast run --kernel=k --cpus=2 --cmdline=root=/dev/vda");
	ck_assert_str_eq(config.kernel, "k");
	ck_assert_uint_eq(config.nr_cpus, 2);
	ck_assert_str_eq(config.cmdline, "root=/dev/vda");
}
END_TEST

START_TEST(the_last_of_two_values_counts)
{
	parse_well("ballast run --kernel a --kernel b --cpus 2 --cpus 3");
	ck_assert_str_eq(config.kernel, "b");
	ck_assert_uint_eq(config.nr_cpus, 3);
}
END_TEST

START_TEST(sizes_are_powers_of_1024)
{
	static const struct {
		const char *text;
		uint64_t size;
	} cases[] = {
		{ "0", 0 },
		{ "1", 1 },
		{ "4096", 4096 },
		{ "1K", 1024 },
		{ "512M", 512ull << 20 },
		{ "3G", 3ull << 30 },
		{ "2T", 2ull << 40 },
		{ "18446744073709551615", UINT64_MAX },
		{ "16777215T", 16777215ull << 40 },
		{ "007", 7 },
	};

	for (unsigned int i = 0; i < nitems(cases); i++) {
		uint64_t size = 42;
		ck_assert_int_eq(options_parse_size(cases[i].text, &size), 0);
		ck_assert_uint_eq(size, cases[i].size);
	}
}
END_TEST

START_TEST(what_is_no_size_is_refused)
{
	static const struct {
		const char *text;
		int error;
	} cases[] = {
		{ "", -EINVAL },
		{ "M", -EINVAL },
		{ "-1", -EINVAL },
		{ "+1", -EINVAL },
		{ " 1", -EINVAL },
		{ "1 ", -EINVAL },
		{ "1m", -EINVAL },
		{ "1MB", -EINVAL },
		{ "1KK", -EINVAL },
		{ "1.5G", -EINVAL },
		{ "0x10", -EINVAL },
		{ "1P", -EINVAL },
		{ "18446744073709551616", -ERANGE },
		{ "99999999999999999999999", -ERANGE },
		{ "16777216T", -ERANGE },
		{ "18446744073709551615K", -ERANGE },
	};

	for (unsigned int i = 0; i < nitems(cases); i++) {
		uint64_t size = 42;
		int r = options_parse_size(cases[i].text, &size);
		ck_assert_msg(r == cases[i].error, "'%s': %d", cases[i].text, r);
		ck_assert_uint_eq(size, 42);
	}
}
END_TEST

START_TEST(memory_has_a_least_and_a_most)
{
	parse_well("ballast run --kernel k --memory 4M");
	parse_well("ballast run --kernel k --memory 4100K");
	parse_well("ballast run --kernel k --memory 5G,backing=hugetlb");
	ck_assert_int_eq(config.backing, RAM_HUGETLB);
	parse_well("ballast run --kernel k --memory 5G,backing=anon");
	ck_assert_int_eq(config.backing, RAM_ANONYMOUS);
	expect_refusal("ballast run --kernel k --memory 4092K", "'4092K': from 4M");
	expect_refusal("ballast run --kernel k --memory 1024T", "'1024T': from 4M");
	expect_refusal("ballast run --kernel k --memory 4194305", "in steps of 4K");
	expect_refusal("ballast run --kernel k --memory 0", "'0': from 4M");
}
END_TEST

START_TEST(memory_that_is_no_size_is_refused)
{
	expect_refusal("ballast run --kernel k --memory lots",
		       "--memory 'lots': a size such as");
	expect_refusal("ballast run --kernel k --memory 99999999999999999999G",
		       "--memory '99999999999999999999G': a size such as");
	expect_refusal("ballast run --kernel k --memory ,backing=anon", "--memory ''");
	expect_refusal("ballast run --kernel k --memory=", "--memory ''");
}
END_TEST

START_TEST(an_unknown_key_or_backing_is_refused)
{
	expect_refusal("ballast run --kernel k --memory 1G,share=on",
		       "--memory key 'share=on'");
	expect_refusal("ballast run --kernel k --memory 1G,", "--memory key ''");
	expect_refusal("ballast run --kernel k --memory 1G,backing=disk",
		       "--memory backing 'disk': it is one of: anon memfd hugetlb");
	expect_refusal("ballast run --kernel k --memory 1G,backing=", "backing ''");
}
END_TEST

START_TEST(cpus_are_1_to_16)
{
	parse_well("ballast run --kernel k --cpus 16");
	expect_refusal("ballast run --kernel k --cpus 0", "--cpus '0': a number from 1 to 16");
	expect_refusal("ballast run --kernel k --cpus 17", "--cpus '17'");
	expect_refusal("ballast run --kernel k --cpus 2K", "--cpus '2K'");
	expect_refusal("ballast run --kernel k --cpus two", "--cpus 'two'");
	expect_refusal("ballast run --kernel k --cpus -1", "--cpus '-1'");
	expect_refusal("ballast run --kernel k --cpus 4294967297", "--cpus '4294967297'");
}
END_TEST

START_TEST(a_timeout_is_a_second_to_a_year)
{
	parse_well("ballast run --kernel k --timeout 31536000");
	ck_assert_uint_eq(config.timeout, 31536000);
	expect_refusal("ballast run --kernel k --timeout 0", "--timeout '0'");
	expect_refusal("ballast run --kernel k --timeout 31536001", "--timeout '31536001'");
	expect_refusal("ballast run --kernel k --timeout 1M", "--timeout '1M'");
}
END_TEST

START_TEST(devices_may_be_listed_and_repeated)
{
	parse_well("ballast run --kernel k --device 01:00.0,0000:02:00.0 --device /sys/x");
	ck_assert_uint_eq(config.nr_devices, 3);
	ck_assert_str_eq(config.devices[0].name, "01:00.0");
	ck_assert_str_eq(config.devices[1].name, "0000:02:00.0");
	ck_assert_str_eq(config.devices[2].name, "/sys/x");
}
END_TEST

START_TEST(an_empty_device_name_is_refused)
{
	expect_refusal("ballast run --kernel k --device a,,b", "--device: an empty name");
	expect_refusal("ballast run --kernel k --device a,", "--device: an empty name");
	expect_refusal("ballast run --kernel k --device=", "--device: an empty name");
}
END_TEST

START_TEST(one_device_more_than_there_are_slots_is_refused)
{
	char line[1024] = "ballast run --kernel k --device d0";

	for (unsigned int i = 1; i < MACHINE_MAX_DEVICES; i++)
		(void)snprintf(line + strlen(line), sizeof(line) - strlen(line), ",d%u", i);
	parse_well(line);
	ck_assert_uint_eq(config.nr_devices, MACHINE_MAX_DEVICES);
	strcat(line, ",dn");
	expect_refusal(line, "--device 'dn': at most 31 devices fit");
}
END_TEST

START_TEST(devices_may_allow_the_balloon)
{
	parse_well("ballast run --kernel k --device a,b,balloon=allowed,c --device d");
	ck_assert_uint_eq(config.nr_devices, 4);
	ck_assert_int_eq(config.devices[0].balloon, VFIO_BALLOON_ALLOWED);
	ck_assert_int_eq(config.devices[1].balloon, VFIO_BALLOON_ALLOWED);
	ck_assert_int_eq(config.devices[2].balloon, VFIO_BALLOON_INHIBITS);
	ck_assert_int_eq(config.devices[3].balloon, VFIO_BALLOON_INHIBITS);
	parse_well("ballast run --kernel k --device a,on-error=detach --device b");
	ck_assert_int_eq(config.devices[0].on_error, DEVICE_ERROR_DETACHES);
	ck_assert_int_eq(config.devices[1].on_error, DEVICE_ERROR_STOPS);
	parse_well("ballast run --kernel k --device a --device b,balloon=allowed");
	ck_assert_int_eq(config.devices[0].balloon, VFIO_BALLOON_INHIBITS);
	ck_assert_int_eq(config.devices[1].balloon, VFIO_BALLOON_ALLOWED);
	expect_refusal("ballast run --kernel k --device a,balloon=maybe",
		       "--device key 'balloon=maybe': there are balloon=allowed and "
		       "on-error=detach");
	expect_refusal("ballast run --kernel k --device a,rom=off", "'rom=off'");
}
END_TEST

START_TEST(a_balloon_has_its_keys)
{
	parse_well("ballast run --kernel k --balloon on");
	ck_assert(config.has_balloon);
	ck_assert_uint_eq(config.balloon_keep, 0);
	ck_assert_uint_eq(config.balloon.stats_period, 0);
	ck_assert(!config.balloon.reporting);
	ck_assert(!config.balloon.deflate_on_oom);
	parse_well("ballast run --kernel k --balloon initial=128M,stats=5,reporting=on,"
		   "deflate-on-oom=on");
	ck_assert_uint_eq(config.balloon_keep, 128ull << 20);
	ck_assert_uint_eq(config.balloon.stats_period, 5);
	ck_assert(config.balloon.reporting);
	ck_assert(config.balloon.deflate_on_oom);
	parse_well("ballast run --kernel k --balloon reporting=off,deflate-on-oom=off");
	ck_assert(!config.balloon.reporting);
	ck_assert(!config.balloon.deflate_on_oom);
}
END_TEST

START_TEST(what_is_no_key_or_value_of_a_balloon_is_refused)
{
	expect_refusal("ballast run --kernel k --balloon yes", "--balloon 'yes': it is on, or");
	expect_refusal("ballast run --kernel k --balloon=", "--balloon ''");
	expect_refusal("ballast run --kernel k --balloon size=1G", "--balloon 'size'");
	expect_refusal("ballast run --kernel k --balloon initial", "--balloon 'initial'");
	expect_refusal("ballast run --kernel k --balloon initial=half", "initial='half'");
	expect_refusal("ballast run --kernel k --balloon stats=often", "stats 'often'");
	expect_refusal("ballast run --kernel k --balloon reporting=maybe",
		       "--balloon reporting 'maybe': it is one of: off on");
	expect_refusal("ballast run --kernel k --balloon deflate-on-oom=1",
		       "deflate-on-oom '1'");
}
END_TEST

START_TEST(a_guest_keeps_something_and_not_more_than_it_has)
{
	parse_well("ballast run --kernel k --balloon initial=64M --memory 256M");
	parse_well("ballast run --kernel k --balloon initial=256M --memory 256M");
	parse_well("ballast run --kernel k --balloon initial=32M --memory 32M");
	expect_refusal("ballast run --kernel k --balloon initial=63M",
		       "at least 64M, and has 512M in all");
	expect_refusal("ballast run --kernel k --balloon initial=513M", "has 512M in all");
	expect_refusal("ballast run --kernel k --balloon initial=31M --memory 32M",
		       "at least 32M, and has 32M");
}
END_TEST

START_TEST(a_balloon_has_a_policy_and_a_granule)
{
	parse_well("ballast run --kernel k --balloon on");
	ck_assert_int_eq(config.policy, RECLAIM_INHIBIT);
	ck_assert_uint_eq(config.granule, 0);
	parse_well("ballast run --kernel k --balloon policy=coordinated,granule=64K");
	ck_assert_int_eq(config.policy, RECLAIM_COORDINATED);
	ck_assert_uint_eq(config.granule, 64 << 10);
	parse_well("ballast run --kernel k --balloon policy=inhibit,granule=auto");
	ck_assert_int_eq(config.policy, RECLAIM_INHIBIT);
	ck_assert_uint_eq(config.granule, MACHINE_GRANULE_AUTO);
	parse_well("ballast run --kernel k --balloon granule=4K");
	parse_well("ballast run --kernel k --balloon granule=1G");
	expect_refusal("ballast run --kernel k --balloon policy=direct",
		       "--balloon policy 'direct': it is one of: inhibit coordinated");
	expect_refusal("ballast run --kernel k --balloon granule=2K", "granule='2K'");
	expect_refusal("ballast run --kernel k --balloon granule=3M", "granule='3M'");
	expect_refusal("ballast run --kernel k --balloon granule=2G", "granule='2G'");
	expect_refusal("ballast run --kernel k --balloon granule=0",
		       "a power of two from 4K to 1G, or auto");
	expect_refusal("ballast run --kernel k --balloon granule=4K --memory "
		       "1G,backing=hugetlb",
		       "granule=4K: at least 2M with backing=hugetlb");
	parse_well("ballast run --kernel k --balloon granule=2M --memory 1G,backing=hugetlb");
	expect_refusal("ballast run --kernel k --balloon policy=coordinated --experiment "
		       "unsafe-reclaim",
		       "unsafe-reclaim: not with policy=coordinated");
}
END_TEST

START_TEST(the_automatic_has_a_range)
{
	parse_well("ballast run --kernel k --balloon auto=on");
	ck_assert(config.auto_balloon.on);
	parse_well("ballast run --kernel k --balloon auto=on,min=128M,max=256M");
	ck_assert_uint_eq(config.auto_balloon.min, 128 << 20);
	ck_assert_uint_eq(config.auto_balloon.max, 256 << 20);
	parse_well("ballast run --kernel k --balloon auto=off");
	ck_assert(!config.auto_balloon.on);
	expect_refusal("ballast run --kernel k --balloon auto=yes",
		       "--balloon auto 'yes': it is one of: off on");
	expect_refusal("ballast run --kernel k --balloon min=128M", "go with auto=on");
	expect_refusal("ballast run --kernel k --balloon auto=on,min=256M,max=128M",
		       "min=256M is more than max=128M: at most as much");
	expect_refusal("ballast run --kernel k --balloon auto=on,min=32M", "min=: the guest");
	expect_refusal("ballast run --kernel k --balloon auto=on,max=1G", "max=: the guest");
	expect_refusal("ballast run --kernel k --balloon initial=0", "initial='0'");
}
END_TEST

START_TEST(allowing_the_balloon_is_for_devices_named_before)
{
	expect_refusal("ballast run --kernel k --device balloon=allowed",
		       "after the devices it is for");
	expect_refusal("ballast run --kernel k --device balloon=allowed,01:00.0",
		       "after the devices it is for");
	expect_refusal("ballast run --kernel k --device 01:00.0 --device balloon=allowed",
		       "after the devices it is for");
}
END_TEST

START_TEST(reporting_does_not_go_with_hugetlb)
{
	parse_well("ballast run --kernel k --balloon on --memory 1G,backing=hugetlb");
	expect_refusal("ballast run --kernel k --balloon reporting=on --memory "
		       "1G,backing=hugetlb",
		       "reporting=on: not with backing=hugetlb");
}
END_TEST

START_TEST(disks_have_a_path_and_more)
{
	parse_well("ballast run --kernel k --disk path=/a.img --disk "
		   "serial=root-1,direct=on,readonly=on,path=b --disk path=c,readonly=off");
	ck_assert_uint_eq(config.nr_disks, 3);
	ck_assert_str_eq(config.disks[0].path, "/a.img");
	ck_assert_ptr_null(config.disks[0].serial);
	ck_assert(!config.disks[0].readonly);
	ck_assert(!config.disks[0].direct);
	ck_assert_str_eq(config.disks[1].path, "b");
	ck_assert_str_eq(config.disks[1].serial, "root-1");
	ck_assert(config.disks[1].readonly);
	ck_assert(config.disks[1].direct);
	ck_assert(!config.disks[2].readonly);
	parse_well("ballast run --kernel k --disk path=a=b,serial=12345678901234567890");
	ck_assert_str_eq(config.disks[0].path, "a=b");
	ck_assert_str_eq(config.disks[0].serial, "12345678901234567890");
}
END_TEST

START_TEST(what_is_no_key_or_value_of_a_disk_is_refused)
{
	static const char *const no_keys[] = {
		"",        "/a.img",  "path",           "path=", "on",
		"a.img,b", "path=a,", "path=a,size=1G", "=",     "path=a,serial"
	};

	for (unsigned int i = 0; i < nitems(no_keys); i++) {
		char line[128];
		(void)snprintf(line, sizeof(line), "ballast run --kernel k --disk=%s",
			       no_keys[i]);
		expect_refusal(line, "it is path=FILE (without a comma)");
	}
	expect_refusal("ballast run --kernel k --disk readonly=on", "path=FILE is missing");
	expect_refusal("ballast run --kernel k --disk path=a,readonly=yes",
		       "--disk readonly 'yes': it is one of: off on");
	expect_refusal("ballast run --kernel k --disk path=a,direct=",
		       "--disk direct '': it is one of: off on");
	expect_refusal("ballast run --kernel k --disk path=a,serial=123456789012345678901",
		       "serial='123456789012345678901': 1 to 20 letters");
	expect_refusal("ballast run --kernel k --disk path=a,serial=", "serial='': 1 to 20");
	expect_refusal("ballast run --kernel k --disk path=a,serial=a\tb", "1 to 20");
	expect_refusal("ballast run --kernel k --disk path=a,serial=\xc3\xa4", "1 to 20");
}
END_TEST

START_TEST(one_disk_more_than_fits_is_refused)
{
	char line[1024] = "ballast run --kernel k";

	for (unsigned int i = 0; i < MACHINE_MAX_DISKS; i++)
		(void)strcat(line, " --disk path=a");
	parse_well(line);
	ck_assert_uint_eq(config.nr_disks, MACHINE_MAX_DISKS);
	(void)strcat(line, " --disk path=b");
	expect_refusal(line, "--disk 'path=b': at most 16 disks fit");
}
END_TEST

START_TEST(the_control_socket_is_a_unix_path)
{
	parse_well("ballast run --kernel k --qmp unix:/run/x.sock");
	ck_assert_str_eq(config.qmp, "/run/x.sock");
	expect_refusal("ballast run --kernel k --qmp tcp:1234",
		       "--qmp 'tcp:1234': it is unix:PATH");
	expect_refusal("ballast run --kernel k --qmp unix:", "--qmp 'unix:'");
	expect_refusal("ballast run --kernel k --qmp /run/x.sock", "--qmp '/run/x.sock'");
}
END_TEST

START_TEST(unsafe_reclaim_is_the_only_experiment)
{
	parse_well("ballast run --kernel k --experiment unsafe-reclaim");
	ck_assert(config.unsafe);
	expect_refusal("ballast run --kernel k --experiment cold-fusion",
		       "--experiment 'cold-fusion': the only one is unsafe-reclaim");
}
END_TEST

START_TEST(the_serial_port_goes_to_one_of_four_places)
{
	parse_well("ballast run --kernel k --serial stdio");
	ck_assert_int_eq(config.serial.kind, CONSOLE_STDIO);
	parse_well("ballast run --kernel k --serial none");
	ck_assert_int_eq(config.serial.kind, CONSOLE_NONE);
	parse_well("ballast run --kernel k --serial file=/tmp/a=b,c");
	ck_assert_int_eq(config.serial.kind, CONSOLE_FILE);
	ck_assert_str_eq(config.serial.path, "/tmp/a=b,c");
	parse_well("ballast run --kernel k --serial unix=s");
	ck_assert_int_eq(config.serial.kind, CONSOLE_UNIX);
	ck_assert_str_eq(config.serial.path, "s");
}
END_TEST

START_TEST(any_other_place_is_refused)
{
	expect_refusal("ballast run --kernel k --serial pty", "--serial 'pty': it is one of");
	expect_refusal("ballast run --kernel k --serial stdiox", "--serial 'stdiox'");
	expect_refusal("ballast run --kernel k --serial file=", "--serial 'file='");
	expect_refusal("ballast run --kernel k --serial file", "--serial 'file'");
	expect_refusal("ballast run --kernel k --serial=", "--serial ''");
	expect_refusal("ballast run --kernel k --console pty", "--console 'pty': it is one of");
	expect_refusal("ballast run --kernel k --console file=", "--console 'file='");
}
END_TEST

START_TEST(a_console_goes_to_one_of_the_same_places)
{
	parse_well("ballast run --kernel k --console none");
	ck_assert(config.has_console);
	ck_assert_int_eq(config.console.kind, CONSOLE_NONE);
	ck_assert_int_eq(config.serial.kind, CONSOLE_STDIO);
	parse_well("ballast run --kernel k --console file=/tmp/a=b,c --serial unix=s");
	ck_assert_int_eq(config.console.kind, CONSOLE_FILE);
	ck_assert_str_eq(config.console.path, "/tmp/a=b,c");
	ck_assert_int_eq(config.serial.kind, CONSOLE_UNIX);
	ck_assert_str_eq(config.serial.path, "s");
}
END_TEST

START_TEST(the_kernel_is_told_of_a_console_unless_it_is_told_otherwise)
{
	parse_well("ballast run --kernel k --console unix=s");
	ck_assert_str_eq(config.cmdline, "console=hvc0");
	parse_well("ballast run --kernel k --console unix=s --cmdline console=ttyS0");
	ck_assert_str_eq(config.cmdline, "console=ttyS0");
	parse_well("ballast run --kernel k --cmdline= --console unix=s");
	ck_assert_str_eq(config.cmdline, "");
}
END_TEST

START_TEST(standard_input_and_output_are_for_one_of_them)
{
	parse_well("ballast run --kernel k --console stdio");
	ck_assert_int_eq(config.console.kind, CONSOLE_STDIO);
	ck_assert_int_eq(config.serial.kind, CONSOLE_NONE);
	parse_well("ballast run --kernel k --serial file=f --console stdio");
	ck_assert_int_eq(config.serial.kind, CONSOLE_FILE);
	parse_well("ballast run --kernel k --console stdio --serial stdio --console none");
	ck_assert_int_eq(config.serial.kind, CONSOLE_STDIO);
	expect_refusal("ballast run --kernel k --console stdio --serial stdio",
		       "--serial stdio, --console stdio: only one of them, please");
}
END_TEST

START_TEST(a_reset_resets_or_ends)
{
	parse_well("ballast run --kernel k --on-reset reset");
	ck_assert_int_eq(config.on_reset, ON_RESET_RESET);
	expect_refusal("ballast run --kernel k --on-reset halt",
		       "--on-reset 'halt': it is one of: reset exit");
}
END_TEST

START_TEST(the_sandbox_is_on_unless_it_is_said)
{
	parse_well("ballast run --kernel k");
	ck_assert_int_eq(config.sandbox, SANDBOX_ON);
	parse_well("ballast run --kernel k --sandbox off");
	ck_assert_int_eq(config.sandbox, SANDBOX_OFF);
	parse_well("ballast run --kernel k --sandbox log");
	ck_assert_int_eq(config.sandbox, SANDBOX_LOG);
	expect_refusal("ballast run --kernel k --sandbox maybe",
		       "--sandbox 'maybe': it is one of: off on log");
}
END_TEST

START_TEST(a_user_is_one_that_there_is)
{
	parse_well("ballast run --kernel k");
	ck_assert_ptr_null(config.user.name);
	parse_well("ballast run --kernel k --user nobody");
	ck_assert_str_eq(config.user.name, "nobody");
	ck_assert_uint_eq(config.user.uid, getpwnam("nobody")->pw_uid);
	expect_refusal("ballast run --kernel k --user no-such-user",
		       "--user 'no-such-user': there is no such user");
	if (geteuid() != 0 || seteuid(getpwnam("nobody")->pw_uid) < 0)
		return;
	expect_refusal("ballast run --kernel k --user root",
		       "--user 'root': only root can become another user");
	/* Who looks for leaks at the end may look at none but its own. */
	ck_assert_int_eq(seteuid(0), 0);
	ck_assert_int_eq(prctl(PR_SET_DUMPABLE, 1, 0, 0, 0), 0);
}
END_TEST

START_TEST(verbose_and_trace)
{
	parse_well("ballast run --verbose --kernel k");
	ck_assert(log_enabled(LOG_DEBUG));
	ck_assert(!trace_on);
	parse_well("ballast run -v trace --kernel k");
	ck_assert(trace_on);
}
END_TEST

START_TEST(one_word_may_have_many_letters)
{
	char line[512] = "ballast run -";

	expect_refusal("ballast run -vvvvvvvv", "--kernel is missing");
	memset(line + strlen(line), 'v', 400);
	expect_refusal(line, "--kernel is missing");
}
END_TEST

START_TEST(what_is_missing_is_named)
{
	expect_refusal("ballast run", "--kernel is missing");
	expect_refusal("ballast run --kernel", "option '--kernel' needs a value");
	expect_refusal("ballast run --kernel k --cpus", "option '--cpus' needs a value");
}
END_TEST

START_TEST(what_is_unknown_is_named)
{
	expect_refusal("ballast run --kernel k --colour", "option '--colour' is not known");
	expect_refusal("ballast run --kernel k --colour=red", "option '--colour=red'");
	expect_refusal("ballast run --kernel k --exit-port=5", "'--exit-port=5'");
	expect_refusal("ballast run --kernel k vmlinuz", "'vmlinuz' is no option");
	expect_refusal("ballast run vmlinuz --kernel k", "'vmlinuz' is no option");
	expect_refusal("ballast start", "command 'start' is not known");
	expect_refusal("ballast", "command '' is not known");
	expect_refusal("ballast --kernel k", "command '--kernel' is not known");
}
END_TEST

/* Once a process: getopt remembers where it stood within the word. */
START_TEST(an_unknown_letter_is_named)
{
	expect_refusal("ballast run --kernel k -vz", "option '-z' is not known");
}
END_TEST

START_TEST(an_unknown_letter_before_others_is_named)
{
	expect_refusal("ballast run -zv --kernel k", "option '-z' is not known");
}
END_TEST

START_TEST(half_an_option_is_refused_if_it_may_be_two)
{
	expect_refusal("ballast run --kernel k --c 2", "option '--c'");
}
END_TEST

START_TEST(help_is_printed_wherever_it_is_asked_for)
{
	static const char *const lines[] = { "ballast --help", "ballast -h", "ballast help",
					     "ballast run --help",
					     "ballast run --kernel k -h" };

	for (unsigned int i = 0; i < nitems(lines); i++) {
		ck_assert_int_eq(parse(lines[i]), OPTIONS_DONE);
		ck_assert_int_eq(strncmp(printed_text(), "Usage: ballast run", 18), 0);
		rewind(stdout);
	}
	process_expect_no_log();
}
END_TEST

/* Issue 2: on one screen. */
START_TEST(network_cards_have_a_way_out_and_keys)
{
	static const uint8_t mac[] = { 0x02, 0xaB, 0, 1, 0xff, 9 };

	parse_well("ballast run --kernel k --net tap=tap0 --net "
		   "tap=t1,mac=02:ab:00:01:ff:09,queues=4,vhost=on --net fd=7,vhost=off --net "
		   "passt --net passt=/run/p,mac=02:AB:00:01:FF:09,vhost=auto,queues=1");
	ck_assert_uint_eq(config.nr_nets, 5);
	const struct net_config *net = config.nets;
	ck_assert_int_eq(net[0].kind, NET_TAP);
	ck_assert_str_eq(net[0].name, "tap0");
	ck_assert(!net[0].has_mac);
	ck_assert_int_eq(net[0].vhost, VIRTIO_NET_VHOST_AUTO);
	ck_assert_str_eq(net[1].name, "t1");
	ck_assert(net[1].has_mac);
	ck_assert_mem_eq(net[1].mac, mac, sizeof(mac));
	ck_assert_uint_eq(net[1].queues, 4);
	ck_assert_int_eq(net[1].vhost, VIRTIO_NET_VHOST_ON);
	ck_assert_int_eq(net[2].kind, NET_FD);
	ck_assert_int_eq(net[2].fd, 7);
	ck_assert_int_eq(net[2].vhost, VIRTIO_NET_VHOST_OFF);
	ck_assert_int_eq(net[3].kind, NET_PASST);
	ck_assert_int_eq(net[4].kind, NET_PASST_RUNNING);
	ck_assert_str_eq(net[4].name, "/run/p");
	ck_assert_mem_eq(net[4].mac, mac, sizeof(mac));
}
END_TEST

START_TEST(network_cards_that_are_none_are_refused)
{
	static const char *const macs[] = {
		"",
		"02:00:00:00:00",
		"02:00:00:00:00:00:00",
		"2:0:0:0:0:1",
		"02-00-00-00-00-01",
		"02:00:00:00:00:0g",
		"02:00:00:00:00:+1",
		"00:00:00:00:00:00",
	};
	char line[256];

	for (unsigned int i = 0; i < nitems(macs); i++) {
		char text[64];
		snprintf(text, sizeof(text), "mac='%s': an address such as", macs[i]);
		snprintf(line, sizeof(line), "ballast run --kernel k --net=passt,mac=%s",
			 macs[i]);
		expect_refusal(line, text);
	}
	expect_refusal("ballast run --kernel k --net passt,mac=01:00:00:00:00:01",
		       "a group's: the first byte must be even");
	expect_refusal("ballast run --kernel k --net=", "--net '': it begins with tap=NAME");
	expect_refusal("ballast run --kernel k --net tap", "--net 'tap': it begins");
	expect_refusal("ballast run --kernel k --net user", "--net 'user': it begins");
	expect_refusal("ballast run --kernel k --net mac=02:00:00:00:00:01", "it begins");
	expect_refusal("ballast run --kernel k --net passt=", "it begins");
	expect_refusal("ballast run --kernel k --net tap=", "tap='': the name of an interface");
	expect_refusal("ballast run --kernel k --net tap=sixteen-letters-", "1 to 15 bytes");
	expect_refusal("ballast run --kernel k --net tap=a/b", "tap='a/b'");
	expect_refusal("ballast run --kernel k --net fd=2", "--net fd '2'");
	expect_refusal("ballast run --kernel k --net fd=", "--net fd ''");
	expect_refusal("ballast run --kernel k --net fd=2147483648", "--net fd");
	expect_refusal("ballast run --kernel k --net tap=t,queues=0", "--net queues '0'");
	expect_refusal("ballast run --kernel k --net tap=t,queues=17", "1 to 16");
	expect_refusal("ballast run --kernel k --net tap=t,vhost=maybe",
		       "--net vhost 'maybe': it is one of: auto on off");
	expect_refusal("ballast run --kernel k --net tap=t,model=e1000", "key 'model'");
	expect_refusal("ballast run --kernel k --net tap=t,", "key ''");
	expect_refusal("ballast run --kernel k --net tap=t,mac", "key 'mac'");
	expect_refusal("ballast run --kernel k --net passt,queues=2",
		       "queues=2: more than one goes with tap=NAME only");
	expect_refusal("ballast run --kernel k --net fd=5,queues=2", "tap=NAME only");
	expect_refusal("ballast run --kernel k --net passt,vhost=on", "with a tap only");
	expect_refusal("ballast run --kernel k --net passt --net passt --net passt --net passt "
		       "--net passt --net passt --net passt --net passt --net tap=t9",
		       "at most 8");
}
END_TEST

START_TEST(help_names_every_option_on_one_screen)
{
	static const char *const names[] = {
		"--kernel",       "--initrd",  "--cmdline",  "--cpus",    "--memory",
		"--device",       "--serial",  "--on-reset", "--timeout", "--exit-port",
		"--verbose",      "--version", "--balloon",  "--qmp",     "--experiment",
		"--rng",          "--console", "--net",      "--config",  "--disk",
		"--print-config", "--sandbox", "--user"
	};
	unsigned int lines = 0;

	ck_assert_int_eq(parse("ballast --help"), OPTIONS_DONE);
	const char *text = printed_text();
	for (unsigned int i = 0; i < nitems(names); i++)
		ck_assert_ptr_nonnull(strstr(text, names[i]));
	for (const char *p = text; *p; lines++) {
		const char *end = strchr(p, '\n');
		ck_assert_ptr_nonnull(end);
		ck_assert_int_le(end - p, 80);
		p = end + 1;
	}
	ck_assert_uint_le(lines, 40);
}
END_TEST

START_TEST(the_version_is_printed)
{
	ck_assert_int_eq(parse("ballast --version"), OPTIONS_DONE);
	ck_assert_int_eq(strncmp(printed_text(), "ballast ", 8), 0);
	ck_assert_int_eq(parse("ballast run --version"), OPTIONS_DONE);
	ck_assert_int_eq(strncmp(printed_text(), "ballast ", 8), 0);
}
END_TEST

START_TEST(what_cannot_be_printed_is_told)
{
	static const char *const lines[] = { "ballast --help", "ballast run --version",
					     "ballast --completion bash" };
	FILE *memory = stdout;

	for (unsigned int i = 0; i < nitems(lines); i++) {
		stdout = fopen("/dev/full", "we");
		ck_assert_ptr_nonnull(stdout);
		int r = parse(lines[i]);
		(void)fclose(stdout);
		stdout = memory;
		ck_assert_int_eq(r, -EIO);
		process_expect_log("standard output");
	}
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		a_kernel_is_enough,
		every_option_is_taken,
		a_value_may_follow_an_equals_sign,
		a_refusal_leaves_nothing_to_the_next_command_line,
		the_last_of_two_values_counts,
		sizes_are_powers_of_1024,
		what_is_no_size_is_refused,
		memory_has_a_least_and_a_most,
		memory_that_is_no_size_is_refused,
		an_unknown_key_or_backing_is_refused,
		cpus_are_1_to_16,
		a_timeout_is_a_second_to_a_year,
		devices_may_be_listed_and_repeated,
		an_empty_device_name_is_refused,
		one_device_more_than_there_are_slots_is_refused,
		devices_may_allow_the_balloon,
		a_balloon_has_its_keys,
		what_is_no_key_or_value_of_a_balloon_is_refused,
		a_guest_keeps_something_and_not_more_than_it_has,
		a_balloon_has_a_policy_and_a_granule,
		the_automatic_has_a_range,
		allowing_the_balloon_is_for_devices_named_before,
		reporting_does_not_go_with_hugetlb,
		disks_have_a_path_and_more,
		what_is_no_key_or_value_of_a_disk_is_refused,
		one_disk_more_than_fits_is_refused,
		the_control_socket_is_a_unix_path,
		unsafe_reclaim_is_the_only_experiment,
		the_serial_port_goes_to_one_of_four_places,
		any_other_place_is_refused,
		a_console_goes_to_one_of_the_same_places,
		the_kernel_is_told_of_a_console_unless_it_is_told_otherwise,
		standard_input_and_output_are_for_one_of_them,
		a_reset_resets_or_ends,
		the_sandbox_is_on_unless_it_is_said,
		a_user_is_one_that_there_is,
		verbose_and_trace,
		one_word_may_have_many_letters,
		what_is_missing_is_named,
		what_is_unknown_is_named,
		an_unknown_letter_is_named,
		an_unknown_letter_before_others_is_named,
		half_an_option_is_refused_if_it_may_be_two,
		help_is_printed_wherever_it_is_asked_for,
		network_cards_have_a_way_out_and_keys,
		network_cards_that_are_none_are_refused,
		help_names_every_option_on_one_screen,
		the_version_is_printed,
		what_cannot_be_printed_is_told,
	};
	return run_tests("vmm_options", setup, NULL, tests, nitems(tests));
}
