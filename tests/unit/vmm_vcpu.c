/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <string.h>

#include "devices/io_bus.h"
#include "tests/fakes/kvm.h"
#include "tests/fakes/process.h"
#include "vmm/vcpu.h"

#define NR_CPUS 4u
#define KVM_FD 3
#define VM_FD 4

static struct io_bus pio;
static struct io_bus mmio;
static struct vcpu_gate gate;
static struct vcpu vcpus[NR_CPUS];
static struct kvm_cpuid2 cpuid;
static unsigned int nr_events;
static unsigned int fds_before;

/* As by a kernel where too many signals are pending. */
static unsigned int kicks_to_refuse;
static unsigned int nr_kicks; /* that were not refused */

int __real_pthread_kill(pthread_t thread, int signal);
int __wrap_pthread_kill(pthread_t thread, int signal);
int __wrap_pthread_kill(pthread_t thread, int signal)
{
	if (kicks_to_refuse > 0) {
		kicks_to_refuse--;
		return EAGAIN;
	}
	nr_kicks++;
	return __real_pthread_kill(thread, signal);
}

static void event(void *opaque, enum vcpu_event what)
{
	(void)opaque;
	(void)what;
	__atomic_add_fetch(&nr_events, 1, __ATOMIC_SEQ_CST);
	vcpu_gate_close(&gate);
}

static unsigned int nr_maps; /* that can be taken away */

static bool unreachable(void *opaque)
{
	(void)opaque;
	return nr_maps > 0 && nr_maps--;
}

static const struct vcpu_host host = { .pio = &pio,
				       .mmio = &mmio,
				       .event = event,
				       .unreachable = unreachable };

static void kicked(int signal)
{
	(void)signal;
}

static void setup(void)
{
	const struct sigaction kick = { .sa_handler = kicked };

	process_keep_log();
	fake_kvm_init();
	io_bus_init(&pio);
	io_bus_init(&mmio);
	vcpu_gate_init(&gate);
	ck_assert_int_eq(sigaction(VCPU_KICK_SIGNAL, &kick, NULL), 0);
	fds_before = process_nr_fds();
}

static int init(unsigned int i)
{
	return vcpu_init(&vcpus[i], KVM_FD, VM_FD, i, &cpuid, &gate, &host);
}

static void start_all(void)
{
	for (unsigned int i = 0; i < NR_CPUS; i++) {
		ck_assert_int_eq(init(i), 0);
		ck_assert_int_eq(vcpu_start(&vcpus[i]), 0);
	}
}

static void finish_all(void)
{
	vcpus_quit(vcpus, NR_CPUS, &gate);
	for (unsigned int i = 0; i < NR_CPUS; i++)
		vcpu_finish(&vcpus[i]);
	ck_assert_uint_eq(process_nr_fds(), fds_before);
	ck_assert_uint_eq(process_nr_mappings(FAKE_KVM_MAP_NAME), 0);
}

static void park_all(void)
{
	vcpus_park(vcpus, NR_CPUS, &gate);
	ck_assert_uint_eq(gate.parked, NR_CPUS);
}

START_TEST(they_wait_at_the_gate_until_it_opens)
{
	start_all();
	park_all();
	ck_assert_uint_eq(fake_kvm.vcpus[0].next_step, 0);
	finish_all();
}
END_TEST

START_TEST(parking_stops_all_and_resuming_lets_them_go_on)
{
	start_all();
	for (unsigned int i = 0; i < 3; i++) {
		vcpus_resume(&gate);
		park_all();
	}
	finish_all();
}
END_TEST

/* A vCPU that has not left the gate for good is parked again, with its kick not lost. */
START_TEST(parking_right_after_resuming_finds_everybody)
{
	start_all();
	for (unsigned int i = 0; i < 2000; i++) {
		vcpus_resume(&gate);
		park_all();
	}
	finish_all();
}
END_TEST

START_TEST(a_kick_that_is_refused_is_made_again)
{
	start_all();
	vcpus_resume(&gate);
	nr_kicks = 0;
	kicks_to_refuse = 3;
	park_all();
	ck_assert_uint_eq(kicks_to_refuse, 0);
	ck_assert_uint_eq(nr_kicks, NR_CPUS);
	finish_all();
}
END_TEST

START_TEST(only_those_that_were_started_are_waited_for)
{
	ck_assert_int_eq(init(0), 0);
	ck_assert_int_eq(init(1), 0);
	ck_assert_int_eq(vcpu_start(&vcpus[1]), 0);
	vcpus_park(vcpus, 2, &gate);
	ck_assert_uint_eq(gate.parked, 1);
	finish_all();
}
END_TEST

static int crashes(struct kvm_run *run)
{
	run->exit_reason = KVM_EXIT_SHUTDOWN;
	return 0;
}

START_TEST(one_that_closes_the_gate_parks_itself)
{
	fake_kvm.steps[0] = crashes;
	start_all();
	vcpus_resume(&gate);
	while (!__atomic_load_n(&nr_events, __ATOMIC_SEQ_CST))
		usleep(1000);
	park_all();
	ck_assert_uint_eq(nr_events, 1);
	finish_all();
}
END_TEST

/* The access that a vCPU was at when it was stopped is completed before it parks. */

static unsigned int nr_answered;

static uint64_t ones_read(void *opaque, uint64_t offset, unsigned int size)
{
	(void)opaque;
	(void)offset;
	(void)size;
	nr_answered++;
	vcpu_gate_close(&gate);
	return 0x5a;
}

static const struct io_ops ones_ops = { .read = ones_read };

static int reads_mmio(struct kvm_run *run)
{
	run->exit_reason = KVM_EXIT_MMIO;
	run->mmio.phys_addr = 0x1000;
	run->mmio.len = 1;
	run->mmio.is_write = 0;
	return 0;
}

static void run_until_the_gate_closes(void)
{
	start_all();
	vcpus_resume(&gate);
	while (!__atomic_load_n(&gate.closed, __ATOMIC_SEQ_CST))
		usleep(1000);
	park_all();
}

START_TEST(a_read_is_answered_before_parking)
{
	struct io_region region = { .base = 0x1000, .size = 1, .ops = &ones_ops };

	ck_assert_int_eq(io_bus_add(&mmio, &region), 0);
	fake_kvm.steps[0] = reads_mmio;
	run_until_the_gate_closes();
	ck_assert_uint_eq(nr_answered, 1);
	ck_assert_uint_eq(vcpus[0].run->mmio.data[0], 0x5a);
	ck_assert_uint_eq(vcpus[0].run->exit_reason, KVM_EXIT_INTR);
	finish_all();
}
END_TEST

static int cannot_be_reached(struct kvm_run *run)
{
	(void)run;
	return -EFAULT;
}

/* It has one map taken away; at the next it finds that another vCPU has done so. */
START_TEST(one_at_a_map_that_does_not_answer_comes_again)
{
	struct io_region region = { .base = 0x1000, .size = 1, .ops = &ones_ops };

	ck_assert_int_eq(io_bus_add(&mmio, &region), 0);
	nr_maps = 1;
	fake_kvm.steps[0] = fake_kvm.steps[1] = cannot_be_reached;
	fake_kvm.steps[2] = reads_mmio;
	run_until_the_gate_closes();
	ck_assert_uint_eq(nr_events, 0);
	ck_assert_uint_eq(nr_answered, 1);
	ck_assert_uint_eq(nr_maps, 0);
	process_expect_no_log();
	finish_all();
}
END_TEST

/* Not without end: the second time there was nothing to take away it is told of. */
START_TEST(memory_that_nothing_explains_crashes_it)
{
	nr_maps = 1;
	for (unsigned int i = 0; i < FAKE_KVM_MAX_STEPS; i++)
		fake_kvm.steps[i] = cannot_be_reached;
	start_all();
	vcpus_resume(&gate);
	while (!__atomic_load_n(&nr_events, __ATOMIC_SEQ_CST))
		usleep(1000);
	park_all();
	ck_assert_uint_eq(nr_events, 1);
	ck_assert_uint_eq(fake_kvm.vcpus[0].next_step, 3);
	ck_assert_ptr_nonnull(strstr(process_log(), "E kvm: running cpu 0: Bad address\n"));
	finish_all();
}
END_TEST

START_TEST(a_reset_puts_back_what_kvm_gave_it)
{
	struct kvm_regs regs;
	struct kvm_sregs sregs;

	ck_assert_int_eq(init(0), 0);
	ck_assert_int_eq(vcpu_get_registers(&vcpus[0], &regs, &sregs), 0);
	regs.rip = 0x1234;
	sregs.cr3 = 0x5678;
	ck_assert_int_eq(vcpu_set_registers(&vcpus[0], &regs, &sregs), 0);
	ck_assert_uint_eq(fake_kvm.vcpus[0].regs.rip, 0x1234);
	ck_assert_int_eq(vcpu_reset(&vcpus[0]), 0);
	ck_assert_uint_eq(fake_kvm.vcpus[0].regs.rip, 0);
	ck_assert_uint_eq(fake_kvm.vcpus[0].sregs.cr3, 0);
	vcpu_finish(&vcpus[0]);
}
END_TEST

static uint64_t msr(uint32_t index)
{
	struct fake_vcpu *vcpu = &fake_kvm.vcpus[0];

	for (unsigned int i = 0; i < vcpu->nr_msrs; i++) {
		if (vcpu->msrs[i].index == index)
			return vcpu->msrs[i].data;
	}
	ck_abort_msg("msr 0x%x was never set", index);
}

/* More than KVM takes in a call, and one of them refused. */
START_TEST(a_reset_puts_back_every_msr_that_kvm_does_not_refuse)
{
	const uint32_t last = FAKE_KVM_FIRST_MSR + 299;
	const uint32_t refused = FAKE_KVM_FIRST_MSR + 100;

	fake_kvm.nr_more_msrs = 300;
	fake_kvm.refused_msr = refused;
	ck_assert_int_eq(init(0), 0);
	struct fake_vcpu *vcpu = &fake_kvm.vcpus[0];
	ck_assert_uint_eq(vcpu->nr_msrs, 18); /* as firmware does */
	unsigned int nr_calls = fake_kvm.nr_calls;
	ck_assert_int_eq(vcpu_reset(&vcpus[0]), 0);
	/* 0x174, the others but one, and the 18, of which 0x2ff is listed as well. */
	ck_assert_uint_eq(vcpu->nr_msrs, 1 + 299 + 18);
	ck_assert_uint_eq(fake_kvm.nr_calls - nr_calls, 8 + 3);
	for (unsigned int i = 0; i < vcpu->nr_msrs; i++) {
		ck_assert_uint_ne(vcpu->msrs[i].index, refused);
		vcpu->msrs[i].data = 0x1234 + i;
	}
	ck_assert_int_eq(vcpu_reset(&vcpus[0]), 0);
	for (uint32_t index = FAKE_KVM_FIRST_MSR; index <= last; index++) {
		if (index != refused)
			ck_assert_uint_eq(msr(index), 0);
	}
	ck_assert_uint_eq(msr(0x174), 0);
	ck_assert_uint_eq(msr(0x2ff), 0x806);
	ck_assert_uint_eq(msr(0x1a0), 1);
	vcpu_finish(&vcpus[0]);
}
END_TEST

START_TEST(creating_fails_at_each_step_and_nothing_is_left)
{
	unsigned int n = 1;
	unsigned int nr_refused = 0;

	for (;; n++) {
		fake_kvm_init();
		fake_kvm.fail_at = n;
		int r = init(0);
		if (r < 0) {
			ck_assert_int_eq(r, -EIO);
			process_expect_log("E kvm: ");
			nr_refused++;
		} else {
			process_expect_no_log();
		}
		bool failed = fake_kvm.failed != NULL;
		vcpu_finish(&vcpus[0]);
		vcpu_finish(&vcpus[0]);
		ck_assert_uint_eq(process_nr_fds(), fds_before);
		ck_assert_uint_eq(process_nr_mappings(FAKE_KVM_MAP_NAME), 0);
		if (!failed)
			break;
	}
	ck_assert_uint_eq(n - 1, 14);
	ck_assert_uint_eq(nr_refused, 12); /* XSAVE and XCRs may be */
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		they_wait_at_the_gate_until_it_opens,
		parking_stops_all_and_resuming_lets_them_go_on,
		parking_right_after_resuming_finds_everybody,
		a_kick_that_is_refused_is_made_again,
		only_those_that_were_started_are_waited_for,
		one_that_closes_the_gate_parks_itself,
		a_read_is_answered_before_parking,
		one_at_a_map_that_does_not_answer_comes_again,
		memory_that_nothing_explains_crashes_it,
		a_reset_puts_back_what_kvm_gave_it,
		a_reset_puts_back_every_msr_that_kvm_does_not_refuse,
		creating_fails_at_each_step_and_nothing_is_left,
	};
	return run_tests("vmm_vcpu", setup, NULL, tests, nitems(tests));
}
