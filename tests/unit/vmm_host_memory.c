/* SPDX-License-Identifier: MIT */
#include <stdio.h>
#include <string.h>

#include <sys/stat.h>

#include "tests/fakes/process.h"
#include "vmm/host_memory.h"

#define MIB (1ull << 20)

static char root[] = "/tmp/ballast-memory-XXXXXX";
static struct host_memory host;

/* A file of the host's; its folders are made. */
static void tell(const char *name, const char *text)
{
	char path[256];

	(void)snprintf(path, sizeof(path), "%s/%s", root, name);
	for (char *slash = path + sizeof(root); (slash = strchr(slash, '/')); *slash++ = '/') {
		*slash = '\0';
		(void)mkdir(path, 0700); /* it may be there */
	}
	FILE *f = fopen(path, "we");
	ck_assert_ptr_nonnull(f);
	ck_assert_int_ge(fputs(text, f), 0);
	ck_assert_int_eq(fclose(f), 0);
}

static void setup(void)
{
	(void)strcpy(strrchr(root, '-'), "-XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(root));
}

static void teardown(void)
{
	char command[64];

	(void)snprintf(command, sizeof(command), "rm -r %s", root);
	ck_assert_int_eq(system(command), 0);
}

/* Twice, as in the sandbox, where the files are open for good. */
static void look_at(const char *where)
{
	unsigned int fds = process_nr_fds();
	struct host_memory_files files;
	struct host_memory first;

	host_memory_open(&files, where);
	host_memory_look(&files, &first);
	host_memory_look(&files, &host);
	ck_assert_uint_eq(host.total, first.total);
	ck_assert_str_eq(host.owner, first.owner);
	host_memory_close(&files);
	host_memory_close(&files);
	ck_assert_uint_eq(process_nr_fds(), fds);
}

START_TEST(a_host_that_tells_nothing_limits_nothing)
{
	look_at(root);
	ck_assert_uint_eq(host.total, 0);
	ck_assert_uint_eq(host.available, 0);
	ck_assert_uint_eq(host.resident, 0);
	ck_assert_uint_eq(host.pressure, 0);
	ck_assert(host.spare == UINT64_MAX);
}
END_TEST

START_TEST(pressure_is_read_as_the_kernel_writes_it)
{
	static const struct {
		const char *text;
		unsigned int pressure;
	} cases[] = {
		{ "some avg10=0.00 avg60=1.00 avg300=2.00 total=3\nfull avg10=9.00\n", 0 },
		{ "some avg10=12.34 avg60=0.00 avg300=0.00 total=0\n", 1234 },
		{ "some avg10=100.00 avg60=0.00\n", 10000 },
		{ "nothing of the kind\n", 0 },
		{ "", 0 },
	};

	for (unsigned int i = 0; i < nitems(cases); i++) {
		tell("proc/pressure/memory", cases[i].text);
		look_at(root);
		ck_assert_uint_eq(host.pressure, cases[i].pressure);
	}
}
END_TEST

START_TEST(memory_is_read_as_the_kernel_writes_it)
{
	tell("proc/meminfo", "MemTotal:       16 kB\nMemFree: 1 kB\nMemAvailable:    8 kB\n"
			     "SwapFree: 2 kB\n");
	tell("proc/self/statm", "900 30 2 1 0 1 0\n");
	look_at(root);
	ck_assert_uint_eq(host.total, 16384);
	ck_assert_uint_eq(host.available, 8192);
	ck_assert_uint_eq(host.spare, 10240);
	ck_assert_str_eq(host.owner, "the host");
	ck_assert_uint_eq(host.resident, 30 * (uint64_t)sysconf(_SC_PAGESIZE));
	look_at("");
	ck_assert_uint_gt(host.total, host.available);
	ck_assert_uint_gt(host.resident, 0);
}
END_TEST

/* Its page cache is no obstacle, swap helps; a limit is one on all that is below it. */
START_TEST(the_cgroup_with_the_least_to_spare_counts)
{
	tell("proc/meminfo",
	     "MemTotal: 8388608 kB\nMemAvailable: 4194304 kB\nSwapFree: 0 kB\n");
	tell("proc/self/cgroup", "1:cpu:/elsewhere\n0::/a/b/c\n");
	tell("sys/fs/cgroup/a/memory.max", "1073741824\n");
	tell("sys/fs/cgroup/a/memory.current", "314572800\n");
	tell("sys/fs/cgroup/a/memory.stat",
	     "anon 7\ninactive_anon 1\nactive_file 104857600\ninactive_file 104857600\n");
	tell("sys/fs/cgroup/a/b/memory.current", "no limit can be set here\n");
	tell("sys/fs/cgroup/a/b/c/memory.max", "max\n");
	look_at(root);
	ck_assert_uint_eq(host.spare, 924 * MIB);
	ck_assert_str_eq(host.owner, "the memory cgroup /a");
	tell("sys/fs/cgroup/a/b/c/memory.max", "134217728\n");
	look_at(root);
	ck_assert_str_eq(host.owner, "the memory cgroup /a"); /* not known what the other has */
	tell("sys/fs/cgroup/a/b/c/memory.current", "1048576\n");
	look_at(root);
	ck_assert_uint_eq(host.spare, 128 * MIB); /* all of that may be page cache */
	tell("sys/fs/cgroup/a/b/c/memory.stat", "anon 1048576\n");
	look_at(root);
	ck_assert_uint_eq(host.spare, 127 * MIB);
	ck_assert_str_eq(host.owner, "the memory cgroup /a/b/c");
	tell("proc/meminfo",
	     "MemTotal: 8388608 kB\nMemAvailable: 4194304 kB\nSwapFree: 1024 kB\n");
	look_at(root);
	ck_assert_uint_eq(host.spare, 128 * MIB);
	tell("proc/self/cgroup", "0::/\n");
	look_at(root);
	ck_assert_str_eq(host.owner, "the host");
}
END_TEST

/* Of more than there is room for the innermost are looked at. */
START_TEST(a_path_may_be_of_any_depth)
{
	char line[32 + 2 * 64] = "0::";
	char name[64 + 2 * 64];

	tell("proc/meminfo", "MemTotal: 8388608 kB\nMemAvailable: 4194304 kB\n");
	for (unsigned int depth = 1; depth <= 64; depth++) {
		(void)strcat(line, "/d");
		(void)snprintf(name, sizeof(name), "sys/fs/cgroup%s/memory.max", line + 3);
		tell(name, depth == 64 ? "2097152\n" : depth == 1 ? "1048576\n" : "max\n");
		(void)snprintf(name, sizeof(name), "sys/fs/cgroup%s/memory.current", line + 3);
		tell(name, "0\n");
	}
	tell("proc/self/cgroup", line);
	look_at(root);
	ck_assert_uint_eq(host.spare, 2 * MIB);
	ck_assert_uint_eq(strlen(host.owner),
			  strlen("the memory cgroup ") + HOST_CGROUP_SIZE - 1);
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		a_host_that_tells_nothing_limits_nothing,
		pressure_is_read_as_the_kernel_writes_it,
		memory_is_read_as_the_kernel_writes_it,
		the_cgroup_with_the_least_to_spare_counts,
		a_path_may_be_of_any_depth,
	};
	return run_tests("vmm_host_memory", setup, teardown, tests, nitems(tests));
}
