/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <string.h>

#include "tests/fakes/kvm.h"
#include "tests/fakes/process.h"
#include "vmm/cpuid.h"

/* What a host might support; adapted from a copy. */
static const struct kvm_cpuid_entry2 host[] = {
	{ .function = 0, .eax = 0x1f, .ebx = 0x756e6547 },
	{ .function = 1, .eax = 0x806e9, .ebx = 0x07100800, .ecx = 0x1, .edx = 0x10000001 },
	{ .function = 4, .index = 0, .eax = 0xffffc121 }, /* L1 data */
	{ .function = 4, .index = 1, .eax = 0xffffc143 }, /* L2 */
	{ .function = 4, .index = 2, .eax = 0xffffc163 }, /* L3 */
	{ .function = 4, .index = 3, .eax = 0 },
	{ .function = 7, .ebx = 0x1234 },
	{ .function = 0xb, .index = 0, .eax = 1, .ebx = 2, .ecx = 0x100, .edx = 5 },
	{ .function = 0xb, .index = 1, .eax = 4, .ebx = 8, .ecx = 0x201, .edx = 5 },
	{ .function = 0x1f, .index = 0, .eax = 1, .ebx = 2, .ecx = 0x100, .edx = 5 },
	{ .function = 0x80000008, .eax = 0x3027, .ecx = 0x7777 },
	{ .function = 0x8000001d, .index = 0, .eax = 0xffffc121 },
	{ .function = 0x8000001d, .index = 3, .eax = 0xffffc163 },
	{ .function = 0x8000001e, .eax = 9, .ebx = 9, .ecx = 9 },
};

static struct kvm_cpuid2 *cpuid;

static void setup(void)
{
	process_keep_log();
	fake_kvm_init();
	cpuid = calloc(1, sizeof(*cpuid) + CPUID_MAX_ENTRIES * sizeof(cpuid->entries[0]));
	ck_assert_ptr_nonnull(cpuid);
	memcpy(cpuid->entries, host, sizeof(host));
	cpuid->nent = nitems(host);
}

static void teardown(void)
{
	free(cpuid);
}

static void adapt(unsigned int index, unsigned int nr_cpus)
{
	memcpy(cpuid->entries, host, sizeof(host));
	cpuid->nent = nitems(host);
	cpuid_adapt(cpuid, index, nr_cpus, true);
}

static const struct kvm_cpuid_entry2 *find(uint32_t function, uint32_t index)
{
	for (uint32_t i = 0; i < cpuid->nent; i++) {
		if (cpuid->entries[i].function == function && cpuid->entries[i].index == index)
			return &cpuid->entries[i];
	}
	return NULL;
}

static const struct kvm_cpuid_entry2 *leaf(uint32_t function, uint32_t index)
{
	const struct kvm_cpuid_entry2 *e = find(function, index);

	ck_assert_msg(e != NULL, "leaf 0x%x.%u", function, index);
	return e;
}

START_TEST(each_cpu_has_its_own_apic_id)
{
	static const unsigned int counts[] = { 1, 2, 16 };

	for (unsigned int i = 0; i < nitems(counts); i++) {
		for (unsigned int cpu = 0; cpu < counts[i]; cpu++) {
			adapt(cpu, counts[i]);
			ck_assert_uint_eq(leaf(1, 0)->ebx >> 24, cpu);
			ck_assert_uint_eq(leaf(1, 0)->ebx >> 16 & 0xff, counts[i]);
			ck_assert_uint_eq(leaf(0xb, 0)->edx, cpu);
			ck_assert_uint_eq(leaf(0xb, 1)->edx, cpu);
			ck_assert_uint_eq(leaf(0x8000001e, 0)->eax, cpu);
		}
	}
}
END_TEST

START_TEST(the_topology_is_one_socket_with_one_thread_a_core)
{
	static const struct {
		unsigned int cpus;
		unsigned int bits;
	} cases[] = { { 1, 0 }, { 2, 1 }, { 3, 2 }, { 4, 2 }, { 5, 3 }, { 16, 4 } };

	for (unsigned int i = 0; i < nitems(cases); i++) {
		adapt(0, cases[i].cpus);
		ck_assert_uint_eq(leaf(0xb, 0)->eax, 0); /* no bits below the core's */
		ck_assert_uint_eq(leaf(0xb, 0)->ebx, 1);
		ck_assert_uint_eq(leaf(0xb, 0)->ecx, 0x100);
		ck_assert_uint_eq(leaf(0xb, 1)->eax, cases[i].bits);
		ck_assert_uint_eq(leaf(0xb, 1)->ebx, cases[i].cpus);
		ck_assert_uint_eq(leaf(0xb, 1)->ecx, 0x201);
		ck_assert_uint_eq(leaf(0xb, 0)->flags, KVM_CPUID_FLAG_SIGNIFCANT_INDEX);
		ck_assert_uint_eq(leaf(0x80000008, 0)->ecx,
				  cases[i].bits << 12 | (cases[i].cpus - 1));
	}
}
END_TEST

START_TEST(the_hosts_topology_leaves_are_gone)
{
	adapt(0, 2);
	ck_assert_ptr_null(find(0x1f, 0));
	ck_assert_ptr_null(find(0xb, 2));
	ck_assert_uint_eq(cpuid->nent, nitems(host) - 1);
}
END_TEST

START_TEST(a_host_without_the_topology_leaf_does_not_get_one)
{
	cpuid->entries[0].eax = 0xa;
	cpuid_adapt(cpuid, 0, 2, true);
	ck_assert_ptr_null(find(0xb, 0));
}
END_TEST

START_TEST(hyper_threading_is_said_of_several_cpus_only)
{
	adapt(0, 1);
	ck_assert_uint_eq(leaf(1, 0)->edx, 1);
	adapt(0, 2);
	ck_assert_uint_eq(leaf(1, 0)->edx, 1u << 28 | 1);
}
END_TEST

START_TEST(the_guest_knows_that_it_is_one_and_has_the_deadline_timer_if_kvm_has)
{
	adapt(0, 1);
	ck_assert_uint_eq(leaf(1, 0)->ecx, 1u << 31 | 1u << 24 | 1);
	memcpy(cpuid->entries, host, sizeof(host));
	cpuid->nent = nitems(host);
	cpuid_adapt(cpuid, 0, 1, false);
	ck_assert_uint_eq(leaf(1, 0)->ecx, 1u << 31 | 1);
}
END_TEST

START_TEST(the_last_cache_is_shared_by_all_cores_the_others_by_none)
{
	adapt(0, 16);
	ck_assert_uint_eq(leaf(4, 0)->eax, 15u << 26 | 0x121);
	ck_assert_uint_eq(leaf(4, 1)->eax, 15u << 26 | 0x143);
	ck_assert_uint_eq(leaf(4, 2)->eax, 15u << 26 | 15u << 14 | 0x163);
	ck_assert_uint_eq(leaf(4, 3)->eax, 0);
	ck_assert_uint_eq(leaf(0x8000001d, 0)->eax, 0x121);
	ck_assert_uint_eq(leaf(0x8000001d, 3)->eax, 15u << 14 | 0x163);
	adapt(0, 1);
	ck_assert_uint_eq(leaf(4, 2)->eax, 0x163);
}
END_TEST

START_TEST(nested_virtualisation_is_not_offered)
{
	static const struct kvm_cpuid_entry2 nested[] = {
		{ .function = 1, .ecx = 0xffffffff },
		{ .function = 0x80000001, .ecx = 0xffffffff },
		{ .function = 0x8000000a, .eax = 1 },
	};

	memcpy(cpuid->entries, nested, sizeof(nested));
	cpuid->nent = nitems(nested);
	cpuid_adapt(cpuid, 0, 1, true);
	ck_assert_uint_eq(leaf(1, 0)->ecx, ~(1u << 5));          /* VMX */
	ck_assert_uint_eq(leaf(0x80000001, 0)->ecx, ~(1u << 2)); /* SVM */
	ck_assert_ptr_null(find(0x8000000a, 0));
}
END_TEST

START_TEST(everything_else_is_as_kvm_supports_it)
{
	adapt(1, 2);
	ck_assert_uint_eq(leaf(7, 0)->ebx, 0x1234);
	ck_assert_uint_eq(leaf(0, 0)->ebx, 0x756e6547);
	ck_assert_uint_eq(leaf(1, 0)->eax, 0x806e9);
	ck_assert_uint_eq(leaf(1, 0)->ebx & 0xffff, 0x0800);
	ck_assert_uint_eq(leaf(0x80000008, 0)->eax, 0x3027);
}
END_TEST

START_TEST(a_full_table_is_not_overrun)
{
	for (uint32_t i = nitems(host); i < CPUID_MAX_ENTRIES; i++)
		cpuid->entries[i] = (struct kvm_cpuid_entry2){ .function = 0x40000000 + i };
	for (uint32_t i = 0; i < nitems(host); i++) {
		if (cpuid->entries[i].function == 0xb || cpuid->entries[i].function == 0x1f)
			cpuid->entries[i].function = 7; /* nothing makes room */
	}
	cpuid->nent = CPUID_MAX_ENTRIES;
	cpuid_adapt(cpuid, 0, 2, true);
	ck_assert_uint_eq(cpuid->nent, CPUID_MAX_ENTRIES);
}
END_TEST

START_TEST(the_address_width_is_the_hosts_or_36_bits)
{
	ck_assert_uint_eq(cpuid_address_bits(cpuid), 0x27);
	for (uint32_t i = 0; i < cpuid->nent; i++) {
		if (cpuid->entries[i].function == 0x80000008)
			cpuid->entries[i].function = 0x80000009;
	}
	ck_assert_uint_eq(cpuid_address_bits(cpuid), 36);
}
END_TEST

START_TEST(what_kvm_supports_is_asked_with_two_entries_to_spare)
{
	struct kvm_cpuid2 *supported = NULL;

	ck_assert_int_eq(cpuid_supported(3, &supported), 0);
	ck_assert_uint_gt(supported->nent, 0);
	ck_assert_uint_le(supported->nent, CPUID_MAX_ENTRIES - 2);
	free(supported);
}
END_TEST

START_TEST(a_kvm_that_does_not_answer_is_told)
{
	struct kvm_cpuid2 *supported = NULL;

	fake_kvm.fail_at = 1;
	fake_kvm.fail_errno = -E2BIG;
	ck_assert_int_eq(cpuid_supported(3, &supported), -E2BIG);
	ck_assert_ptr_null(supported);
	process_expect_log("kvm: supported cpuid");
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		each_cpu_has_its_own_apic_id,
		the_topology_is_one_socket_with_one_thread_a_core,
		the_hosts_topology_leaves_are_gone,
		a_host_without_the_topology_leaf_does_not_get_one,
		hyper_threading_is_said_of_several_cpus_only,
		the_guest_knows_that_it_is_one_and_has_the_deadline_timer_if_kvm_has,
		the_last_cache_is_shared_by_all_cores_the_others_by_none,
		nested_virtualisation_is_not_offered,
		everything_else_is_as_kvm_supports_it,
		a_full_table_is_not_overrun,
		the_address_width_is_the_hosts_or_36_bits,
		what_kvm_supports_is_asked_with_two_entries_to_spare,
		a_kvm_that_does_not_answer_is_told,
	};
	return run_tests("vmm_cpuid", setup, teardown, tests, nitems(tests));
}
