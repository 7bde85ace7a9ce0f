/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "base/range.h"
#include "base/sanitizer.h"

#include "memory/ram.h"
#include "tests/fakes/process.h"

#define PAGE 4096ull
#define HUGE_PAGE (2ull << 20)
#define SIZE (4 * HUGE_PAGE)
#define LARGE_SIZE (40ull << 20)
#define NR_HUGEPAGES "/proc/sys/vm/nr_hugepages"

static struct ram ram;
static bool has_hugetlb; /* set before the tests are forked off */

static const enum ram_backing backings[] = { RAM_ANONYMOUS, RAM_MEMFD, RAM_HUGETLB };

/* The next backing that this host has; false: no more. */
static bool next_backing(unsigned int *i, enum ram_backing *ret)
{
	if (*i == nitems(backings))
		return false;
	*ret = backings[(*i)++];
	return *ret != RAM_HUGETLB || has_hugetlb;
}

static void init(enum ram_backing backing)
{
	ck_assert_int_eq(ram_init(&ram, SIZE, backing), 0);
}

static uint8_t *bytes(void)
{
	return ram.host;
}

/* How many of the 4 KiB pages of [offset, offset + size) are present. */
static unsigned int present(uint64_t offset, uint64_t size)
{
	static unsigned char vector[SIZE / PAGE];
	unsigned int count = 0;

	ck_assert_int_eq(mincore(bytes() + offset, size, vector), 0);
	for (unsigned int i = 0; i < size / PAGE; i++)
		count += vector[i] & 1;
	return count;
}

static bool all_are(uint64_t offset, uint64_t size, uint8_t value)
{
	for (uint64_t i = offset; i < offset + size; i++) {
		if (bytes()[i] != value)
			return false;
	}
	return true;
}

START_TEST(a_fresh_block_reads_as_zeros_and_has_no_page)
{
	enum ram_backing backing;

	for (unsigned int i = 0; next_backing(&i, &backing);) {
		init(backing);
		ck_assert_uint_eq(present(0, SIZE), 0);
		ck_assert_int_eq(bytes()[0], 0);
		ck_assert_int_eq(bytes()[SIZE - 1], 0);
		ram_finish(&ram);
	}
}
END_TEST

START_TEST(a_block_knows_what_it_is)
{
	enum ram_backing backing;

	for (unsigned int i = 0; next_backing(&i, &backing);) {
		init(backing);
		ck_assert_uint_eq(ram.size, SIZE);
		ck_assert_uint_eq(ram.page_size, backing == RAM_HUGETLB ? HUGE_PAGE : PAGE);
		ck_assert_int_eq(ram.backing, backing);
		ck_assert((ram.fd >= 0) == (backing != RAM_ANONYMOUS));
		ram_finish(&ram);
	}
}
END_TEST

START_TEST(a_block_is_aligned_to_2_mib_whatever_its_size)
{
	ck_assert_int_eq(ram_init(&ram, PAGE, RAM_ANONYMOUS), 0);
	ck_assert(is_aligned((uintptr_t)ram.host, HUGE_PAGE));
	ram_finish(&ram);
	ck_assert_int_eq(ram_init(&ram, 3 * HUGE_PAGE + PAGE, RAM_MEMFD), 0);
	ck_assert(is_aligned((uintptr_t)ram.host, HUGE_PAGE));
	ram_finish(&ram);
}
END_TEST

START_TEST(every_byte_of_the_block_and_none_around_it_can_be_touched)
{
	enum ram_backing backing;

	for (unsigned int i = 0; next_backing(&i, &backing);) {
		init(backing);
		ck_assert(!process_faults(bytes()));
		ck_assert(!process_faults(bytes() + SIZE - 1));
		ck_assert(process_faults(bytes() - 1));
		ck_assert(process_faults(bytes() - PAGE));
		ck_assert(process_faults(bytes() + SIZE));
		ck_assert(process_faults(bytes() + SIZE + PAGE - 1));
		ram_finish(&ram);
	}
}
END_TEST

/* Wherever the kernel puts them, aligned or not. */
START_TEST(the_guard_pages_are_the_blocks_own)
{
	struct ram rams[32];

	for (unsigned int i = 0; i < nitems(rams); i++) {
		uint64_t size = i % 2 ? (i + 1) * HUGE_PAGE : (i + 1) * PAGE;
		ck_assert_int_eq(ram_init(&rams[i], size, backings[i / 2 % 2]), 0);
		const char *start = rams[i].reservation;
		const char *host = rams[i].host;
		ck_assert(host >= start + PAGE);
		ck_assert(host + size + PAGE <= start + rams[i].reserved);
	}
	for (unsigned int i = 0; i < nitems(rams); i++)
		ram_finish(&rams[i]);
}
END_TEST

static void touch_guard_page(void)
{
	volatile uint8_t *guard = bytes() - 1;

	(void)signal(SIGSEGV, SIG_DFL); /* a sanitizer would say too much */
	*guard = 1;
}

START_TEST(touching_a_guard_page_kills)
{
	int status = 0;

	init(RAM_ANONYMOUS);
	pid_t child = fork();
	ck_assert_int_ge(child, 0);
	if (child == 0) {
		touch_guard_page();
		_exit(0);
	}
	ck_assert_int_eq(waitpid(child, &status, 0), child);
	ck_assert(WIFSIGNALED(status));
	ck_assert_int_eq(WTERMSIG(status), SIGSEGV);
}
END_TEST

START_TEST(a_child_does_not_inherit_the_block)
{
	enum ram_backing backing;

	for (unsigned int i = 0; next_backing(&i, &backing);) {
		int status = 0;
		init(backing);
		bytes()[0] = 1;
		pid_t child = fork();
		ck_assert_int_ge(child, 0);
		if (child == 0)
			_exit(process_faults(bytes()) ? 42 : 0);
		ck_assert_int_eq(waitpid(child, &status, 0), child);
		ck_assert_int_eq(WEXITSTATUS(status), 42);
		ram_finish(&ram);
	}
}
END_TEST

/* True if /proc/self/smaps says so of the block. */
static bool has_flag(const char *flag)
{
	char line[512];
	char start[32];
	bool ours = false;
	bool found = false;

	(void)snprintf(start, sizeof(start), "%08lx-", (unsigned long)ram.host);
	FILE *f = fopen("/proc/self/smaps", "re");
	ck_assert_ptr_nonnull(f);
	while (fgets(line, sizeof(line), f)) {
		if (strncmp(line, start, strlen(start)) == 0)
			ours = true;
		if (ours && strncmp(line, "VmFlags:", 8) == 0) {
			found = strstr(line, flag) != NULL;
			break;
		}
	}
	fclose(f);
	ck_assert(ours);
	return found;
}

START_TEST(the_block_stays_out_of_core_dumps)
{
	init(RAM_ANONYMOUS);
	ck_assert(has_flag(" dd"));
	ck_assert(has_flag(" dc")); /* and out of children */
	ram_finish(&ram);
	init(RAM_MEMFD);
	ck_assert(has_flag(" dd"));
	ram_finish(&ram);
}
END_TEST

START_TEST(an_impossible_size_is_refused)
{
	unsigned int fds = process_nr_fds();

	ck_assert_int_eq(ram_init(&ram, 0, RAM_ANONYMOUS), -EINVAL);
	ck_assert_int_eq(ram_init(&ram, PAGE + 1, RAM_ANONYMOUS), -EINVAL);
	ck_assert_int_eq(ram_init(&ram, HUGE_PAGE + PAGE, RAM_HUGETLB), -EINVAL);
	ck_assert_int_eq(ram_init(&ram, UINT64_MAX & ~(HUGE_PAGE - 1), RAM_MEMFD), -EINVAL);
	ck_assert_int_eq(ram_init(&ram, 1ull << 60, RAM_ANONYMOUS), -ENOMEM);
	ck_assert_uint_eq(process_nr_fds(), fds);
}
END_TEST

START_TEST(finishing_returns_all_and_may_be_done_twice)
{
	enum ram_backing backing;
	unsigned int fds = process_nr_fds();
	uint64_t pages = process_nr_pages();

	for (unsigned int i = 0; next_backing(&i, &backing);) {
		init(backing);
		ram_finish(&ram);
		ck_assert_ptr_null(ram.host);
		ram_finish(&ram);
		ck_assert_uint_eq(process_nr_fds(), fds);
		ck_assert_uint_eq(process_nr_pages(), pages);
	}
	ram = (struct ram){ 0 };
	ram_finish(&ram); /* of a zeroed object; it does not close fd 0 */
	ck_assert_uint_eq(process_nr_fds(), fds);
}
END_TEST

START_TEST(a_discarded_piece_reads_as_zeros_and_its_neighbours_stay)
{
	enum ram_backing backing;

	for (unsigned int i = 0; next_backing(&i, &backing);) {
		init(backing);
		uint64_t piece = ram.page_size;
		memset(bytes(), 0xaa, SIZE);
		ck_assert_int_eq(ram_discard(&ram, piece, piece), 0);
		ck_assert(all_are(0, piece, 0xaa));
		ck_assert(all_are(piece, piece, 0));
		ck_assert(all_are(2 * piece, SIZE - 2 * piece, 0xaa));
		ram_finish(&ram);
	}
}
END_TEST

START_TEST(a_discarded_piece_is_gone_from_the_host)
{
	enum ram_backing backing;
	struct stat st;

	for (unsigned int i = 0; next_backing(&i, &backing);) {
		init(backing);
		memset(bytes(), 0xaa, SIZE);
		ck_assert_uint_eq(present(0, SIZE), SIZE / PAGE);
		ck_assert_int_eq(ram_discard(&ram, HUGE_PAGE, HUGE_PAGE), 0);
		ck_assert_uint_eq(present(HUGE_PAGE, HUGE_PAGE), 0);
		ck_assert_uint_eq(present(0, SIZE), (SIZE - HUGE_PAGE) / PAGE);
		if (ram.fd >= 0) {
			ck_assert_int_eq(fstat(ram.fd, &st), 0);
			ck_assert_int_eq(st.st_blocks * 512, SIZE - HUGE_PAGE);
			ck_assert_int_eq(st.st_size, SIZE);
		}
		ram_finish(&ram);
	}
}
END_TEST

START_TEST(discarding_all_and_discarding_again_is_fine)
{
	enum ram_backing backing;

	for (unsigned int i = 0; next_backing(&i, &backing);) {
		init(backing);
		memset(bytes(), 0xaa, SIZE);
		ck_assert_int_eq(ram_discard(&ram, 0, SIZE), 0);
		ck_assert_int_eq(ram_discard(&ram, 0, SIZE), 0);
		ck_assert_uint_eq(present(0, SIZE), 0);
		ram_finish(&ram);
	}
}
END_TEST

START_TEST(populating_makes_pages_present_and_keeps_what_is_there)
{
	enum ram_backing backing;

	for (unsigned int i = 0; next_backing(&i, &backing);) {
		init(backing);
		bytes()[HUGE_PAGE] = 0xaa;
		ck_assert_int_eq(ram_populate(&ram, HUGE_PAGE, HUGE_PAGE), 0);
		ck_assert_uint_eq(present(HUGE_PAGE, HUGE_PAGE), HUGE_PAGE / PAGE);
		ck_assert_int_eq(bytes()[HUGE_PAGE], 0xaa);
		ck_assert(all_are(HUGE_PAGE + 1, HUGE_PAGE - 1, 0));
		ck_assert_int_eq(ram_discard(&ram, HUGE_PAGE, HUGE_PAGE), 0);
		ck_assert_int_eq(ram_populate(&ram, HUGE_PAGE, HUGE_PAGE), 0);
		ck_assert_int_eq(bytes()[HUGE_PAGE], 0);
		ram_finish(&ram);
	}
}
END_TEST

static unsigned int nr_threads; /* begun */
static unsigned int thread_fails_at;
static unsigned int nr_populates;
static unsigned int populate_fails_at;

int __real_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*run)(void *),
			  void *opaque);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*run)(void *),
			  void *opaque);
int __real_madvise(void *at, size_t size, int advice);
int __wrap_madvise(void *at, size_t size, int advice);

int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*run)(void *),
			  void *opaque)
{
	if (++nr_threads == thread_fails_at)
		return EAGAIN;
	return __real_pthread_create(thread, attr, run, opaque);
}

int __wrap_madvise(void *at, size_t size, int advice)
{
	if (advice == MADV_POPULATE_WRITE &&
	    __atomic_add_fetch(&nr_populates, 1, __ATOMIC_SEQ_CST) == populate_fails_at) {
		errno = ENOMEM;
		return -1;
	}
	return __real_madvise(at, size, advice);
}

static unsigned int nr_present(void)
{
	static unsigned char vector[LARGE_SIZE / PAGE];
	unsigned int count = 0;

	ck_assert_int_eq(mincore(ram.host, ram.size, vector), 0);
	for (unsigned int i = 0; i < ram.size / PAGE; i++)
		count += vector[i] & 1;
	return count;
}

/* By how many threads, beside ours, and whether all of it. */
static int populate_large(unsigned int nr_populators)
{
	ck_assert_int_eq(ram_init(&ram, LARGE_SIZE, RAM_MEMFD), 0);
	nr_threads = nr_populates = 0;
	ram.nr_populators = nr_populators;
	return ram_populate(&ram, PAGE, LARGE_SIZE - PAGE);
}

START_TEST(many_threads_populate_a_large_range)
{
	static const unsigned int threads[][2] = {
		{ 0, 0 }, { 1, 0 }, { 2, 1 }, { 4, 3 }, { 8, 4 }
	};

	for (unsigned int i = 0; i < nitems(threads); i++) {
		ck_assert_int_eq(populate_large(threads[i][0]), 0);
		ck_assert_uint_eq(nr_threads, threads[i][1]);
		ck_assert_uint_eq(nr_populates, threads[i][1] + 1);
		ck_assert_uint_eq(nr_present(), LARGE_SIZE / PAGE - 1);
		ram_finish(&ram);
	}
}
END_TEST

START_TEST(without_a_thread_one_populates_all_the_same)
{
	for (thread_fails_at = 1; thread_fails_at <= 3; thread_fails_at++) {
		ck_assert_int_eq(populate_large(4), 0);
		ck_assert_uint_eq(nr_populates, thread_fails_at);
		ck_assert_uint_eq(nr_present(), LARGE_SIZE / PAGE - 1);
		ram_finish(&ram);
	}
}
END_TEST

START_TEST(a_thread_that_finds_no_memory_is_heard)
{
	for (populate_fails_at = 1; populate_fails_at <= 4; populate_fails_at++) {
		ck_assert_int_eq(populate_large(4), -ENOMEM);
		ck_assert_uint_eq(nr_populates, 4); /* all have ended */
		ram_finish(&ram);
	}
}
END_TEST

START_TEST(a_range_outside_or_misaligned_is_refused_and_does_nothing)
{
	enum ram_backing backing;

	for (unsigned int i = 0; next_backing(&i, &backing);) {
		init(backing);
		uint64_t page = ram.page_size;
		const uint64_t ranges[][2] = {
			{ 0, 0 },
			{ 0, SIZE + page },
			{ SIZE, page },
			{ SIZE - page, 2 * page },
			{ 1, page },
			{ 0, page - 1 },
			{ page / 2, page },
			{ UINT64_MAX - page + 1, page },
			{ UINT64_MAX - page + 1, 2 * page },
			{ page, UINT64_MAX - page + 1 },
		};
		memset(bytes(), 0xaa, SIZE);
		for (unsigned int k = 0; k < nitems(ranges); k++) {
			ck_assert_int_eq(ram_discard(&ram, ranges[k][0], ranges[k][1]),
					 -EINVAL);
			ck_assert_int_eq(ram_populate(&ram, ranges[k][0], ranges[k][1]),
					 -EINVAL);
		}
		ck_assert(all_are(0, SIZE, 0xaa));
		ram_finish(&ram);
	}
}
END_TEST

static void expect_failure(enum ram_backing backing, int resource, rlim_t limit, int error)
{
	struct rlimit saved;
	unsigned int fds = process_nr_fds();
	uint64_t pages = process_nr_pages();

	ck_assert_int_eq(getrlimit(resource, &saved), 0);
	const struct rlimit low = { limit, saved.rlim_max };
	ck_assert_int_eq(setrlimit(resource, &low), 0);
	int r = ram_init(&ram, SIZE, backing);
	ck_assert_int_eq(setrlimit(resource, &saved), 0);
	ck_assert_int_eq(r, error);
	ck_assert_ptr_null(ram.host);
	ck_assert_uint_eq(process_nr_fds(), fds);
	ck_assert_uint_eq(process_nr_pages(), pages);
	ram_finish(&ram);
}

START_TEST(no_address_space_leaves_nothing_behind)
{
	expect_failure(RAM_ANONYMOUS, RLIMIT_AS, PAGE, -ENOMEM);
	expect_failure(RAM_MEMFD, RLIMIT_AS, PAGE, -ENOMEM);
}
END_TEST

/* The reservation is there already when the block itself is refused. */
START_TEST(no_memory_for_the_block_gives_the_reservation_back)
{
	if (__tsan_init) /* a mapping needs memory of its own besides */
		return;
	expect_failure(RAM_ANONYMOUS, RLIMIT_DATA, PAGE, -ENOMEM);
}
END_TEST

START_TEST(a_file_that_may_not_grow_is_closed_again)
{
	ck_assert(signal(SIGXFSZ, SIG_IGN) != SIG_ERR);
	expect_failure(RAM_MEMFD, RLIMIT_FSIZE, PAGE, -EFBIG);
}
END_TEST

START_TEST(no_descriptor_leaves_nothing_behind)
{
	uint64_t pages = process_nr_pages();

	process_forbid_fds();
	int r = ram_init(&ram, SIZE, RAM_MEMFD);
	process_allow_fds();
	ck_assert_int_eq(r, -EMFILE);
	ck_assert_uint_eq(process_nr_pages(), pages);
}
END_TEST

START_TEST(too_few_huge_pages_leave_nothing_behind)
{
	unsigned int fds = process_nr_fds();
	uint64_t pages = process_nr_pages();

	ck_assert_int_eq(ram_init(&ram, 1ull << 40, RAM_HUGETLB), -ENOMEM);
	ck_assert_uint_eq(process_nr_fds(), fds);
	ck_assert_uint_eq(process_nr_pages(), pages);
}
END_TEST

static unsigned int nr_hugepages(void)
{
	unsigned int n = 0;

	FILE *f = fopen(NR_HUGEPAGES, "re");
	if (f) {
		if (fscanf(f, "%u", &n) != 1)
			n = 0;
		fclose(f);
	}
	return n;
}

static void set_nr_hugepages(unsigned int n)
{
	FILE *f = fopen(NR_HUGEPAGES, "we");

	if (f) {
		(void)fprintf(f, "%u", n);
		(void)fclose(f); /* only root may; what there is is looked at afterwards */
	}
}

int main(void)
{
	const TTest *const tests[] = {
		a_fresh_block_reads_as_zeros_and_has_no_page,
		a_block_knows_what_it_is,
		a_block_is_aligned_to_2_mib_whatever_its_size,
		every_byte_of_the_block_and_none_around_it_can_be_touched,
		the_guard_pages_are_the_blocks_own,
		touching_a_guard_page_kills,
		a_child_does_not_inherit_the_block,
		the_block_stays_out_of_core_dumps,
		an_impossible_size_is_refused,
		finishing_returns_all_and_may_be_done_twice,
		a_discarded_piece_reads_as_zeros_and_its_neighbours_stay,
		a_discarded_piece_is_gone_from_the_host,
		discarding_all_and_discarding_again_is_fine,
		populating_makes_pages_present_and_keeps_what_is_there,
		many_threads_populate_a_large_range,
		without_a_thread_one_populates_all_the_same,
		a_thread_that_finds_no_memory_is_heard,
		a_range_outside_or_misaligned_is_refused_and_does_nothing,
		no_address_space_leaves_nothing_behind,
		no_memory_for_the_block_gives_the_reservation_back,
		a_file_that_may_not_grow_is_closed_again,
		no_descriptor_leaves_nothing_behind,
		too_few_huge_pages_leave_nothing_behind,
	};
	unsigned int before = nr_hugepages();

	set_nr_hugepages(before + SIZE / HUGE_PAGE);
	has_hugetlb = nr_hugepages() >= before + SIZE / HUGE_PAGE;
	if (!has_hugetlb)
		printf("hugetlb is skipped: 4 huge pages cannot be reserved in " NR_HUGEPAGES
		       "\n");
	int status = run_tests("memory_ram", NULL, NULL, tests, nitems(tests));
	if (nr_hugepages() != before)
		set_nr_hugepages(before);
	return status;
}
