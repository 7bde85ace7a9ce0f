/* SPDX-License-Identifier: MIT */
/*
 * kvm.h - a KVM that stands in the place of vmm/kvm.c: its fds are real ones, so that a leaked
 * one can be counted; it remembers slots, routes and irqfds; its processors do what a script
 * says; and it can fail the n-th call.
 *
 * There is one, `fake_kvm`. kvm_enter() is called from vCPU threads; what it uses is set
 * before they start.
 */
#ifndef TESTS_FAKES_KVM_H
#define TESTS_FAKES_KVM_H

#include <stdbool.h>

#include "vmm/kvm.h"

#define FAKE_KVM_MAX_SLOTS 64u
#define FAKE_KVM_MAX_ROUTES 4200u
#define FAKE_KVM_MAX_IRQFDS 64u
#define FAKE_KVM_MAX_IOEVENTFDS 16u
#define FAKE_KVM_MAX_CPUS 16u
#define FAKE_KVM_MAX_STEPS 8u
#define FAKE_KVM_MAX_MSRS 400u
#define FAKE_KVM_FIRST_MSR 0x1000u    /* of those that are listed when so wanted */
#define FAKE_KVM_MAP_NAME "fake-vcpu" /* of a vCPU's shared area in /proc/self/maps */

struct fake_slot {
	uint64_t gpa;
	uint64_t size; /* 0: not in use */
	void *host;
};

struct fake_kvm_irqfd {
	int fd;
	uint32_t gsi;
	int resample_fd;
};

struct fake_kvm_ioeventfd {
	int fd;
	uint64_t address;
};

/* One entry into the guest: fills in why it ended. Returns what kvm_enter() does. */
typedef int fake_step(struct kvm_run *run);

struct fake_vcpu {
	int fd; /* 0: not created */
	uint32_t id;
	struct kvm_regs regs;
	struct kvm_sregs sregs;
	unsigned int nr_mp_states;                    /* times that it was set: once a reset */
	struct kvm_msr_entry msrs[FAKE_KVM_MAX_MSRS]; /* those that were set */
	unsigned int nr_msrs;
	unsigned int nr_pauses_told;
	uint32_t nr_cpuid; /* entries */
	unsigned int next_step;
};

struct fake_kvm {
	/* The n-th call fails, with fail_errno. 0: none. kvm_check() then says 0. */
	unsigned int fail_at;
	int fail_errno;
	unsigned int nr_calls;
	const char *failed; /* the name of the call that failed, or NULL */

	int absent;  /* a capability that is not there; -1: all are */
	int nr_gsis; /* what KVM_CAP_IRQ_ROUTING says */
	int nr_slots;
	int open_error;
	uint32_t refused_msr;  /* 0: none */
	uint32_t nr_more_msrs; /* in the list, beyond the four that the fake has */

	struct fake_slot slots[FAKE_KVM_MAX_SLOTS];
	struct kvm_irq_routing_entry routes[FAKE_KVM_MAX_ROUTES];
	unsigned int nr_routes;
	unsigned int nr_times_routed;
	struct fake_kvm_irqfd irqfds[FAKE_KVM_MAX_IRQFDS];
	unsigned int nr_irqfds;
	struct fake_kvm_ioeventfd ioeventfds[FAKE_KVM_MAX_IOEVENTFDS];
	unsigned int nr_ioeventfds;
	unsigned int nr_groups;
	unsigned int nr_vfio_devices; /* made so far */
	unsigned int nr_ioapics_set;

	struct fake_vcpu vcpus[FAKE_KVM_MAX_CPUS];
	unsigned int nr_vcpus;
	/* What the first processor does, step by step; then, like all others, it sleeps. */
	fake_step *steps[FAKE_KVM_MAX_STEPS];
	/* And the second one, which has a thread of its own. */
	fake_step *second_steps[FAKE_KVM_MAX_STEPS];
};

extern struct fake_kvm fake_kvm;

void fake_kvm_init(void);

/* How many slots are in use. */
unsigned int fake_kvm_nr_slots(void);
/* The entry of a gsi, or NULL. */
const struct kvm_irq_routing_entry *fake_kvm_route(uint32_t gsi);

#endif /* TESTS_FAKES_KVM_H */
