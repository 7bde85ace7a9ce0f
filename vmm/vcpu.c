/* SPDX-License-Identifier: MIT */
#include "vmm/vcpu.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <sys/mman.h>

#include "base/fd.h"
#include "base/log.h"
#include "base/trace.h"

#include "devices/io_bus.h"
#include "vmm/kvm.h"

#define MSR_IA32_TSC 0x10u
#define MSR_IA32_TSC_ADJUST 0x3bu
#define MSR_IA32_MISC_ENABLE 0x1a0u
#define MISC_ENABLE_FAST_STRINGS 1u
#define MSR_MTRR_DEF_TYPE 0x2ffu
#define MSR_MTRR_FIRST_VARIABLE 0x200u
#define NR_MTRR_VARIABLES 16u          /* eight ranges, base and mask each */
#define MTRR_ENABLED_WRITE_BACK 0x806u /* on, fixed ranges off, all memory write-back */
#define MAX_MSRS 512u
#define MSRS_A_CALL 255u /* the most that KVM takes */

struct vcpu_state {
	struct kvm_regs regs;
	struct kvm_sregs sregs;
	struct kvm_lapic_state lapic;
	struct kvm_mp_state mp_state;
	struct kvm_vcpu_events events;
	struct kvm_debugregs debugregs;
	struct kvm_xcrs xcrs;
	bool has_xsave;
	bool has_xcrs;
	uint32_t nr_msrs;
	struct kvm_msr_entry msrs[MAX_MSRS];
	struct kvm_xsave xsave; /* last: in newer headers it ends in an array of any size */
};

/*
 * KVM does them in order and stops at one that it refuses, as it does those that are read-only: no
 * error here, it is passed over. `get` moves those that were not to the front. Returns how many.
 */
static int do_msrs(int fd, bool get, struct kvm_msr_entry *entries, uint32_t nr)
{
	union {
		struct kvm_msrs head;
		uint8_t room[sizeof(struct kvm_msrs) + MSRS_A_CALL * sizeof(*entries)];
	} arg = { 0 };
	uint32_t nr_done = 0;

	for (uint32_t at = 0; at < nr;) {
		uint32_t asked = nr - at < MSRS_A_CALL ? nr - at : MSRS_A_CALL;
		arg.head.nmsrs = asked;
		memcpy(arg.head.entries, entries + at, asked * sizeof(*entries));
		int done = get ? kvm_get_msrs(fd, &arg.head) : kvm_set_msrs(fd, &arg.head);
		if (done < 0)
			return done;
		if (get)
			memcpy(entries + nr_done, arg.head.entries,
			       (size_t)done * sizeof(*entries));
		nr_done += (uint32_t)done;
		at += (uint32_t)done + ((uint32_t)done < asked);
	}
	return (int)nr_done;
}

/*
 * The boot firmware's part on a real machine: memory is write-back unless said otherwise,
 * string moves are fast. Linux complains of CPUs whose MTRRs are off or differ.
 */
static int set_firmware_msrs(int fd)
{
	struct kvm_msr_entry entries[NR_MTRR_VARIABLES + 2] = {
		{ .index = MSR_MTRR_DEF_TYPE, .data = MTRR_ENABLED_WRITE_BACK },
		{ .index = MSR_IA32_MISC_ENABLE, .data = MISC_ENABLE_FAST_STRINGS },
	};

	/* Not in KVM's list of MSRs, so that a reset has to come by here too. */
	for (uint32_t i = 0; i < NR_MTRR_VARIABLES; i++)
		entries[2 + i].index = MSR_MTRR_FIRST_VARIABLE + i;
	return do_msrs(fd, false, entries, nitems(entries));
}

/* The time stamp counters go on through a reset, together. */
static bool msr_survives(uint32_t index)
{
	return index == MSR_IA32_TSC || index == MSR_IA32_TSC_ADJUST;
}

static int remember_msrs(struct vcpu *vcpu, int kvm_fd)
{
	struct vcpu_state *s = vcpu->power_on;
	union {
		struct kvm_msr_list head;
		uint8_t room[sizeof(struct kvm_msr_list) + MAX_MSRS * sizeof(uint32_t)];
	} list = { 0 };
	uint32_t nr = 0;

	int r = kvm_msr_list(kvm_fd, &list.head, MAX_MSRS);
	if (r < 0)
		return log_err(r, "kvm: list of msrs");
	for (uint32_t i = 0; i < list.head.nmsrs; i++) {
		if (!msr_survives(list.head.indices[i]))
			s->msrs[nr++].index = list.head.indices[i];
	}
	r = do_msrs(vcpu->fd, true, s->msrs, nr);
	if (r < 0)
		return log_err(r, "kvm: msrs of cpu %u", vcpu->index);
	s->nr_msrs = (uint32_t)r;
	return 0;
}

static int remember_power_on(struct vcpu *vcpu, int kvm_fd)
{
	struct vcpu_state *s = vcpu->power_on;
	int r = kvm_get_regs(vcpu->fd, &s->regs);

	if (r >= 0)
		r = kvm_get_sregs(vcpu->fd, &s->sregs);
	if (r >= 0)
		r = kvm_get_lapic(vcpu->fd, &s->lapic);
	if (r >= 0)
		r = kvm_get_mp_state(vcpu->fd, &s->mp_state);
	if (r >= 0)
		r = kvm_get_events(vcpu->fd, &s->events);
	if (r >= 0)
		r = kvm_get_debugregs(vcpu->fd, &s->debugregs);
	if (r < 0)
		return log_err(r, "kvm: power-on state of cpu %u", vcpu->index);
	/* A host without XSAVE has no XCRs, which it says in a successful answer. */
	s->has_xsave = kvm_get_xsave(vcpu->fd, &s->xsave) >= 0;
	s->has_xcrs = kvm_get_xcrs(vcpu->fd, &s->xcrs) >= 0 && s->xcrs.nr_xcrs > 0;
	return remember_msrs(vcpu, kvm_fd);
}

int vcpu_reset(struct vcpu *vcpu)
{
	struct vcpu_state *s = vcpu->power_on;

	/* The APIC's mode is in sregs, and its registers are read in that mode. */
	int r = kvm_set_sregs(vcpu->fd, &s->sregs);
	if (r >= 0)
		r = kvm_set_regs(vcpu->fd, &s->regs);
	if (r >= 0 && s->has_xcrs)
		r = kvm_set_xcrs(vcpu->fd, &s->xcrs);
	if (r >= 0 && s->has_xsave)
		r = kvm_set_xsave(vcpu->fd, &s->xsave);
	if (r >= 0)
		r = do_msrs(vcpu->fd, false, s->msrs, s->nr_msrs);
	if (r >= 0)
		r = set_firmware_msrs(vcpu->fd);
	if (r >= 0)
		r = kvm_set_debugregs(vcpu->fd, &s->debugregs);
	if (r >= 0)
		r = kvm_set_lapic(vcpu->fd, &s->lapic);
	if (r >= 0)
		r = kvm_set_events(vcpu->fd, &s->events);
	if (r >= 0)
		r = kvm_set_mp_state(vcpu->fd, &s->mp_state);
	return r < 0 ? log_err(r, "kvm: reset of cpu %u", vcpu->index) : 0;
}

int vcpu_get_registers(struct vcpu *vcpu, struct kvm_regs *regs, struct kvm_sregs *sregs)
{
	int r = kvm_get_regs(vcpu->fd, regs);
	if (r >= 0)
		r = kvm_get_sregs(vcpu->fd, sregs);
	return r < 0 ? log_err(r, "kvm: registers of cpu %u", vcpu->index) : 0;
}

int vcpu_set_registers(struct vcpu *vcpu, struct kvm_regs *regs, struct kvm_sregs *sregs)
{
	int r = kvm_set_sregs(vcpu->fd, sregs);
	if (r >= 0)
		r = kvm_set_regs(vcpu->fd, regs);
	return r < 0 ? log_err(r, "kvm: registers of cpu %u", vcpu->index) : 0;
}

/* Exits. A handler runs on the vCPU's thread with no lock held. */

static void print_registers(struct vcpu *vcpu)
{
	struct kvm_regs g = { 0 };
	struct kvm_sregs s = { 0 };

	if (vcpu_get_registers(vcpu, &g, &s) < 0)
		return;
	log_info("cpu %u: rip 0x%llx rsp 0x%llx rflags 0x%llx rax 0x%llx rbx 0x%llx rcx 0x%llx "
		 "rdx 0x%llx",
		 vcpu->index, g.rip, g.rsp, g.rflags, g.rax, g.rbx, g.rcx, g.rdx);
	log_info(
		"cpu %u: rsi 0x%llx rdi 0x%llx rbp 0x%llx r8 0x%llx r9 0x%llx r10 0x%llx r11 0x%llx",
		vcpu->index, g.rsi, g.rdi, g.rbp, g.r8, g.r9, g.r10, g.r11);
	log_info(
		"cpu %u: r12 0x%llx r13 0x%llx r14 0x%llx r15 0x%llx cs 0x%x base 0x%llx idt 0x%llx",
		vcpu->index, g.r12, g.r13, g.r14, g.r15, s.cs.selector, s.cs.base, s.idt.base);
	log_info("cpu %u: cr0 0x%llx cr2 0x%llx cr3 0x%llx cr4 0x%llx efer 0x%llx", vcpu->index,
		 s.cr0, s.cr2, s.cr3, s.cr4, s.efer);
}

/* On AMD KVM has reset the processor by the time it tells of a triple fault. */
static bool is_reset(struct vcpu *vcpu)
{
	struct kvm_regs g = { 0 };
	struct kvm_sregs s = { 0 };

	return vcpu_get_registers(vcpu, &g, &s) >= 0 && g.rip == 0xfff0 &&
	       s.cs.base == 0xffff0000;
}

static void crash(struct vcpu *vcpu)
{
	print_registers(vcpu);
	vcpu->host->event(vcpu->host->opaque, VCPU_CRASHED);
}

static void exit_io(struct vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;
	uint8_t *data = (uint8_t *)run + run->io.data_offset;

	for (uint32_t i = 0; i < run->io.count; i++, data += run->io.size) {
		uint64_t value = 0;
		if (run->io.direction == KVM_EXIT_IO_OUT) {
			memcpy(&value, data, run->io.size);
			io_bus_write(vcpu->host->pio, run->io.port, run->io.size, value);
		} else {
			value = io_bus_read(vcpu->host->pio, run->io.port, run->io.size);
			memcpy(data, &value, run->io.size);
		}
	}
}

/* KVM hands over up to 8 bytes; a length that is no power of two is split here. */
static void exit_mmio(struct vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;
	uint32_t done = 0;

	while (done < run->mmio.len) {
		uint32_t size = 8;
		while (size > run->mmio.len - done || !is_aligned(run->mmio.len - done, size))
			size /= 2;
		uint64_t value = 0;
		if (run->mmio.is_write) {
			memcpy(&value, run->mmio.data + done, size);
			io_bus_write(vcpu->host->mmio, run->mmio.phys_addr + done, size, value);
		} else {
			value = io_bus_read(vcpu->host->mmio, run->mmio.phys_addr + done, size);
			memcpy(run->mmio.data + done, &value, size);
		}
		done += size;
	}
}

static void exit_nothing(struct vcpu *vcpu)
{
	(void)vcpu;
}

static void exit_shutdown(struct vcpu *vcpu)
{
	(void)log_err(0, "cpu %u: triple fault", vcpu->index);
	if (is_reset(vcpu))
		log_info("cpu %u: KVM has reset it already (as it does on AMD): what its "
			 "registers held is lost",
			 vcpu->index);
	crash(vcpu);
}

static void exit_fail_entry(struct vcpu *vcpu)
{
	(void)log_err(0, "cpu %u: the processor refuses to enter the guest, reason 0x%llx",
		      vcpu->index, vcpu->run->fail_entry.hardware_entry_failure_reason);
	crash(vcpu);
}

static void exit_internal_error(struct vcpu *vcpu)
{
	const struct kvm_run *run = vcpu->run;

	(void)log_err(0, "cpu %u: kvm internal error %u%s, data 0x%llx 0x%llx", vcpu->index,
		      run->internal.suberror,
		      run->internal.suberror == KVM_INTERNAL_ERROR_EMULATION
			      ? " (an instruction it cannot emulate)"
			      : "",
		      run->internal.ndata > 0 ? run->internal.data[0] : 0,
		      run->internal.ndata > 1 ? run->internal.data[1] : 0);
	crash(vcpu);
}

static void exit_unknown(struct vcpu *vcpu)
{
	(void)log_err(0, "cpu %u: unknown exit, hardware reason 0x%llx", vcpu->index,
		      vcpu->run->hw.hardware_exit_reason);
	crash(vcpu);
}

static void exit_system_event(struct vcpu *vcpu)
{
	const struct vcpu_host *host = vcpu->host;

	switch (vcpu->run->system_event.type) {
	case KVM_SYSTEM_EVENT_SHUTDOWN: host->event(host->opaque, VCPU_SHUTDOWN); break;
	case KVM_SYSTEM_EVENT_RESET: host->event(host->opaque, VCPU_RESET); break;
	default:
		(void)log_err(0, "cpu %u: the guest reports a crash", vcpu->index);
		crash(vcpu);
	}
}

static const struct {
	const char *name;
	void (*handle)(struct vcpu *vcpu);
} exits[VCPU_NR_EXIT_REASONS] = {
	[KVM_EXIT_UNKNOWN] = { "unknown", exit_unknown },
	[KVM_EXIT_IO] = { "io", exit_io },
	[KVM_EXIT_MMIO] = { "mmio", exit_mmio },
	[KVM_EXIT_IRQ_WINDOW_OPEN] = { "irq_window_open", exit_nothing },
	[KVM_EXIT_SHUTDOWN] = { "shutdown", exit_shutdown },
	[KVM_EXIT_FAIL_ENTRY] = { "fail_entry", exit_fail_entry },
	[KVM_EXIT_INTR] = { "intr", exit_nothing },
	[KVM_EXIT_INTERNAL_ERROR] = { "internal_error", exit_internal_error },
	[KVM_EXIT_SYSTEM_EVENT] = { "system_event", exit_system_event },
};

const char *vcpu_exit_name(unsigned int reason)
{
	return reason < VCPU_NR_EXIT_REASONS ? exits[reason].name : NULL;
}

uint64_t vcpu_nr_exits(const struct vcpu *vcpu, unsigned int reason)
{
	return __atomic_load_n(&vcpu->exits[reason], __ATOMIC_RELAXED);
}

void vcpu_print(struct vcpu *vcpu)
{
	print_registers(vcpu);
	for (unsigned int reason = 0; reason < VCPU_NR_EXIT_REASONS; reason++) {
		if (vcpu->exits[reason])
			log_info("cpu %u: %" PRIu64 " exits: %s", vcpu->index,
				 vcpu->exits[reason], exits[reason].name);
	}
}

static void handle_exit(struct vcpu *vcpu)
{
	uint32_t reason = vcpu->run->exit_reason;

	TRACE(handle_exit, vcpu->index, reason);
	if (reason >= VCPU_NR_EXIT_REASONS || !exits[reason].handle) {
		(void)log_err(0, "cpu %u: exit reason %u, which nobody here knows", vcpu->index,
			      reason);
		crash(vcpu);
		return;
	}
	/* Nobody else writes it. */
	__atomic_store_n(&vcpu->exits[reason], vcpu->exits[reason] + 1, __ATOMIC_RELAXED);
	exits[reason].handle(vcpu);
}

static bool at_io(const struct vcpu *vcpu)
{
	return vcpu->run->exit_reason == KVM_EXIT_IO || vcpu->run->exit_reason == KVM_EXIT_MMIO;
}

/*
 * The result of a port or MMIO read reaches the registers only on the next entry, and an access
 * of several pieces (a string instruction) comes back for each: answer them all, so that a reset
 * finds nothing half done. KVM ends it, with -EINTR, at the instruction's end.
 */
static void complete_io(struct vcpu *vcpu)
{
	if (!at_io(vcpu))
		return;
	__atomic_store_n(&vcpu->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
	while (at_io(vcpu) && kvm_enter(vcpu->fd) == 0)
		handle_exit(vcpu);
	vcpu->run->exit_reason = KVM_EXIT_INTR;
}

/* False: the thread is to end. */
static bool park(struct vcpu *vcpu)
{
	struct vcpu_gate *gate = vcpu->gate;

	complete_io(vcpu);
	pthread_mutex_lock(&gate->lock);
	gate->parked++;
	pthread_cond_broadcast(&gate->changed);
	while (gate->closed && !gate->quit)
		pthread_cond_wait(&gate->changed, &gate->lock);
	gate->parked--;
	bool go_on = !gate->quit;
	/* Before the gate can be closed again: the kick that follows must not be wiped out. */
	__atomic_store_n(&vcpu->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
	pthread_mutex_unlock(&gate->lock);
	return go_on;
}

static int begin(struct vcpu *vcpu)
{
	const struct vcpu_host *host = vcpu->host;
	char name[16];

	(void)snprintf(name, sizeof(name), "vcpu %02u", vcpu->index);
	(void)pthread_setname_np(pthread_self(), name); /* for people who look at top */
	trace_name_thread(name);
	int r = host->begin ? host->begin(host->opaque, name) : 0;
	pthread_mutex_lock(&vcpu->gate->lock);
	vcpu->begin_error = r;
	vcpu->thread_id = gettid();
	pthread_cond_broadcast(&vcpu->gate->changed);
	pthread_mutex_unlock(&vcpu->gate->lock);
	return r;
}

/*
 * What the guest touched does not answer, and has been taken away. Another vCPU may have done that
 * after this one touched it: hence one more try.
 */
static bool may_try_again(struct vcpu *vcpu)
{
	const struct vcpu_host *host = vcpu->host;
	bool taken = host->unreachable && host->unreachable(host->opaque);
	bool second = vcpu->tried_again;

	vcpu->tried_again = !taken;
	return taken || !second;
}

static void *vcpu_loop(void *opaque)
{
	struct vcpu *vcpu = opaque;

	if (begin(vcpu) < 0)
		return NULL;
	for (;;) {
		if (__atomic_load_n(&vcpu->gate->closed, __ATOMIC_SEQ_CST) && !park(vcpu))
			return NULL;
		int r = kvm_enter(vcpu->fd);
		if (r == -EINTR || r == -EAGAIN) {
			vcpu->tried_again = false;
			continue; /* kicked, or a processor that waits for its start-up IPI */
		}
		if (r == -EFAULT && may_try_again(vcpu))
			continue;
		if (r < 0) {
			(void)log_err(r, "kvm: running cpu %u", vcpu->index);
			crash(vcpu);
			continue;
		}
		vcpu->tried_again = false;
		handle_exit(vcpu);
	}
}

void vcpu_gate_init(struct vcpu_gate *gate)
{
	*gate = (struct vcpu_gate){ .closed = true };
	pthread_mutex_init(&gate->lock, NULL);
	pthread_cond_init(&gate->changed, NULL);
}

void vcpu_gate_finish(struct vcpu_gate *gate)
{
	pthread_cond_destroy(&gate->changed);
	pthread_mutex_destroy(&gate->lock);
}

int vcpu_init(struct vcpu *vcpu, int kvm_fd, int vm_fd, unsigned int index,
	      const struct kvm_cpuid2 *cpuid, struct vcpu_gate *gate,
	      const struct vcpu_host *host)
{
	*vcpu = (struct vcpu){ .index = index, .fd = -1, .gate = gate, .host = host };
	size_t cpuid_size = sizeof(*cpuid) + cpuid->nent * sizeof(cpuid->entries[0]);
	autofree struct kvm_cpuid2 *own_cpuid = malloc(cpuid_size);
	int r = -ENOMEM;

	vcpu->power_on = calloc(1, sizeof(*vcpu->power_on));
	if (!own_cpuid || !vcpu->power_on)
		goto fail;
	memcpy(own_cpuid, cpuid, cpuid_size);
	r = kvm_create_vcpu(vm_fd, index, &vcpu->fd);
	if (r < 0)
		goto fail;
	r = kvm_vcpu_map_size(kvm_fd);
	if (r < 0)
		goto fail;
	vcpu->run_size = (size_t)r;
	void *p = mmap(NULL, vcpu->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu->fd, 0);
	r = -errno;
	if (p == MAP_FAILED)
		goto fail;
	vcpu->run = p;
	r = kvm_set_cpuid(vcpu->fd, own_cpuid);
	if (r < 0)
		goto fail;
	r = set_firmware_msrs(vcpu->fd);
	if (r < 0)
		goto fail;
	r = remember_power_on(vcpu, kvm_fd);
	if (r < 0)
		goto fail_logged;
	return 0;
fail:
	(void)log_err(r, "kvm: creating cpu %u", index);
fail_logged:
	vcpu_finish(vcpu);
	return r;
}

void vcpu_finish(struct vcpu *vcpu)
{
	if (!vcpu->gate)
		return;
	if (vcpu->started)
		pthread_join(vcpu->thread, NULL);
	if (vcpu->run)
		(void)munmap(vcpu->run, vcpu->run_size);
	fd_close(&vcpu->fd);
	free(vcpu->power_on);
	*vcpu = (struct vcpu){ .fd = -1 };
}

int vcpu_start(struct vcpu *vcpu)
{
	int r = pthread_create(&vcpu->thread, NULL, vcpu_loop, vcpu);
	if (r != 0)
		return log_err(-r, "thread of cpu %u", vcpu->index);
	pthread_mutex_lock(&vcpu->gate->lock);
	while (vcpu->thread_id == 0)
		pthread_cond_wait(&vcpu->gate->changed, &vcpu->gate->lock);
	r = vcpu->begin_error;
	pthread_mutex_unlock(&vcpu->gate->lock);
	vcpu->started = r >= 0;
	if (r < 0)
		pthread_join(vcpu->thread, NULL);
	return r;
}

int vcpu_thread_id(struct vcpu *vcpu)
{
	return vcpu->thread_id; /* written before vcpu_start() returned */
}

void vcpu_gate_close(struct vcpu_gate *gate)
{
	pthread_mutex_lock(&gate->lock);
	__atomic_store_n(&gate->closed, true, __ATOMIC_SEQ_CST);
	pthread_mutex_unlock(&gate->lock);
}

void vcpus_park(struct vcpu *vcpus, unsigned int count, struct vcpu_gate *gate)
{
	unsigned int started = 0;

	vcpu_gate_close(gate);
	for (unsigned int i = 0; i < count; i++) {
		if (!vcpus[i].started)
			continue;
		started++;
		/* Whether it is about to enter the guest or within, it comes out. */
		__atomic_store_n(&vcpus[i].run->immediate_exit, 1, __ATOMIC_SEQ_CST);
		/* Its user may have as many signals pending as he is allowed: others take theirs. */
		while (pthread_kill(vcpus[i].thread, VCPU_KICK_SIGNAL) == EAGAIN)
			(void)poll(NULL, 0, 1);
	}
	pthread_mutex_lock(&gate->lock);
	while (gate->parked < started)
		pthread_cond_wait(&gate->changed, &gate->lock);
	pthread_mutex_unlock(&gate->lock);
}

void vcpus_resume(struct vcpu_gate *gate)
{
	pthread_mutex_lock(&gate->lock);
	__atomic_store_n(&gate->closed, false, __ATOMIC_SEQ_CST);
	pthread_cond_broadcast(&gate->changed);
	pthread_mutex_unlock(&gate->lock);
}

void vcpus_tell_pause(struct vcpu *vcpus, unsigned int count)
{
	for (unsigned int i = 0; i < count; i++) {
		if (kvm_clock_paused(vcpus[i].fd) < 0)
			continue; /* this guest has no KVM clock */
	}
}

void vcpus_quit(struct vcpu *vcpus, unsigned int count, struct vcpu_gate *gate)
{
	vcpus_park(vcpus, count, gate);
	pthread_mutex_lock(&gate->lock);
	gate->quit = true;
	pthread_cond_broadcast(&gate->changed);
	pthread_mutex_unlock(&gate->lock);
}
