/* SPDX-License-Identifier: MIT */
#include <errno.h>

#include "tests/fakes/kvm.h"
#include "tests/fakes/process.h"
#include "vmm/kvm_slots.h"

#define VM_FD 3

static struct memory_map map;
static struct kvm_slots slots;
static char memory[3];
static struct memory_region a, b, c;

static struct memory_region region(const char *name, gpa_t gpa, uint64_t size, void *host)
{
	return (struct memory_region){ .gpa = gpa, .size = size, .host = host, .name = name };
}

static void setup(void)
{
	process_keep_log();
	fake_kvm_init();
	memory_map_init(&map);
	a = region("a", 0, 0x1000, &memory[0]);
	b = region("b", 0x10000, 0x2000, &memory[1]);
	c = region("c", 0x100000000, 0x3000, &memory[2]);
}

static void init(void)
{
	ck_assert_int_eq(kvm_slots_init(&slots, &map, VM_FD), 0);
}

static void add(struct memory_region *r)
{
	ck_assert_int_eq(memory_map_add(&map, r), 0);
}

static void expect_slot(unsigned int slot, const struct memory_region *r)
{
	ck_assert_uint_eq(fake_kvm.slots[slot].gpa, r->gpa);
	ck_assert_uint_eq(fake_kvm.slots[slot].size, r->size);
	ck_assert_ptr_eq(fake_kvm.slots[slot].host, r->host);
}

START_TEST(a_region_added_is_a_slot_with_the_same_addresses)
{
	init();
	add(&b);
	expect_slot(0, &b);
	add(&a);
	expect_slot(1, &a);
	ck_assert_uint_eq(fake_kvm_nr_slots(), 2);
}
END_TEST

START_TEST(a_mapped_bar_is_a_slot_like_ram)
{
	a.kind = MEMORY_DEVICE;
	init();
	add(&a);
	expect_slot(0, &a);
}
END_TEST

START_TEST(regions_that_were_there_before_become_slots)
{
	add(&c);
	add(&a);
	init();
	expect_slot(0, &a);
	expect_slot(1, &c);
}
END_TEST

START_TEST(a_removed_region_frees_its_slot_for_the_next)
{
	init();
	add(&a);
	add(&b);
	memory_map_remove(&map, &a);
	ck_assert_uint_eq(fake_kvm.slots[0].size, 0);
	expect_slot(1, &b);
	add(&c);
	expect_slot(0, &c);
}
END_TEST

START_TEST(leaving_frees_every_slot)
{
	init();
	add(&a);
	add(&b);
	kvm_slots_finish(&slots);
	ck_assert_uint_eq(fake_kvm_nr_slots(), 0);
	kvm_slots_finish(&slots);
	add(&c);
	ck_assert_uint_eq(fake_kvm_nr_slots(), 0);
}
END_TEST

START_TEST(when_all_slots_are_taken_a_region_is_refused_by_name)
{
	fake_kvm.nr_slots = 2;
	init();
	add(&a);
	add(&b);
	ck_assert_int_eq(memory_map_add(&map, &c), -ENOSPC);
	process_expect_log("kvm: slot for c: all 2 are taken");
	ck_assert_ptr_null(memory_map_find(&map, c.gpa, 1));
	memory_map_remove(&map, &a);
	add(&c);
}
END_TEST

START_TEST(a_kvm_that_does_not_say_has_32_slots)
{
	fake_kvm.absent = KVM_CAP_NR_MEMSLOTS;
	init();
	ck_assert_uint_eq(slots.nr_slots, 32);
}
END_TEST

START_TEST(a_refused_slot_is_named_and_stays_free)
{
	init();
	fake_kvm.fail_at = fake_kvm.nr_calls + 1;
	fake_kvm.fail_errno = -ENOMEM;
	ck_assert_int_eq(memory_map_add(&map, &b), -ENOMEM);
	process_expect_log("E kvm: slot 0 for b at 0x10000+0x2000: Cannot allocate memory");
	add(&a);
	expect_slot(0, &a);
}
END_TEST

START_TEST(a_slot_that_cannot_be_removed_is_told_and_given_to_the_next)
{
	init();
	add(&a);
	fake_kvm.fail_at = fake_kvm.nr_calls + 1;
	memory_map_remove(&map, &a);
	process_expect_log("kvm: removing slot 0 of a, going on");
	add(&b);
	expect_slot(0, &b);
}
END_TEST

START_TEST(joining_fails_at_each_region_and_nothing_is_left)
{
	unsigned int n = 2; /* the first call asks how many slots there are */

	add(&a);
	add(&b);
	add(&c);
	for (;; n++) {
		fake_kvm.nr_calls = 0;
		fake_kvm.fail_at = n;
		int r = kvm_slots_init(&slots, &map, VM_FD);
		if (r == 0)
			break;
		ck_assert_int_eq(r, -EIO);
		ck_assert_uint_eq(fake_kvm_nr_slots(), 0);
		ck_assert(list_empty(&map.listeners));
		kvm_slots_finish(&slots);
	}
	ck_assert_uint_eq(n, 5); /* three regions */
	ck_assert_uint_eq(fake_kvm_nr_slots(), 3);
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		a_region_added_is_a_slot_with_the_same_addresses,
		a_mapped_bar_is_a_slot_like_ram,
		regions_that_were_there_before_become_slots,
		a_removed_region_frees_its_slot_for_the_next,
		leaving_frees_every_slot,
		when_all_slots_are_taken_a_region_is_refused_by_name,
		a_kvm_that_does_not_say_has_32_slots,
		a_refused_slot_is_named_and_stays_free,
		a_slot_that_cannot_be_removed_is_told_and_given_to_the_next,
		joining_fails_at_each_region_and_nothing_is_left,
	};
	return run_tests("vmm_kvm_slots", setup, NULL, tests, nitems(tests));
}
