/* SPDX-License-Identifier: MIT */
/*
 * vcpu.h - one virtual CPU: its thread, its exits, its power-on state; and the gate at which
 * all of them stop.
 *
 * Concepts
 *  - gate: shared by a machine's vCPUs. Closed, each vCPU leaves the guest, completes the I/O
 *    it was at, and parks. Created closed.
 *  - power-on state: what KVM gives a fresh vCPU, remembered at creation and put back at a
 *    reset, so that a reset needs no new VM and no device has to be attached again.
 *
 * Threads: as said at each function; the fields belong to the vCPU's thread while it runs and
 * to whoever closed the gate while it is parked.
 */
#ifndef VMM_VCPU_H
#define VMM_VCPU_H

#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>

#include <linux/kvm.h>

#include "base/util.h"

struct io_bus;
struct vcpu;

/* Any signal does, as long as the program uses it for nothing else. */
#define VCPU_KICK_SIGNAL SIGRTMIN
#define VCPU_NR_EXIT_REASONS 64u

struct vcpu_gate {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool closed;         /* atomic; written under lock */
	bool quit;           /* lock */
	unsigned int parked; /* lock */
};

enum vcpu_event {
	VCPU_CRASHED,  /* triple fault, internal error, failed entry: logged with registers */
	VCPU_SHUTDOWN, /* KVM_EXIT_SYSTEM_EVENT of that kind */
	VCPU_RESET,
};

/* What a vCPU needs of its machine. */
struct vcpu_host {
	struct io_bus *pio;
	struct io_bus *mmio;
	/* The first thing on the vCPU's thread. < 0, logged: it ends. NULL: nothing is to be done. */
	int (*begin)(void *opaque, const char *thread);
	/* On the vCPU's thread. It must close the gate, or the guest runs on. */
	void (*event)(void *opaque, enum vcpu_event event);
	/*
	 * On the vCPU's thread, no lock held: KVM cannot reach the memory that the guest touched.
	 * True: it has been taken away, and what the guest does there will exit. NULL: never that.
	 */
	bool (*unreachable)(void *opaque);
	void *opaque;
};

struct vcpu_state; /* power-on state */

struct vcpu {
	unsigned int index;  /* also its local APIC id */
	int fd;              /* owned; -1 */
	struct kvm_run *run; /* owned mapping; NULL */
	size_t run_size;
	struct vcpu_gate *gate;       /* borrowed */
	const struct vcpu_host *host; /* borrowed */
	struct vcpu_state *power_on;  /* owned */
	pthread_t thread;
	int thread_id;   /* gate->lock; as ps and top have it; 0: it has not begun yet */
	int begin_error; /* gate->lock; with which the thread ended at once */
	bool started;
	bool tried_again;                     /* what KVM could not let it reach */
	uint64_t exits[VCPU_NR_EXIT_REASONS]; /* by reason; atomic, written on its thread */
};

void vcpu_gate_init(struct vcpu_gate *gate);
void vcpu_gate_finish(struct vcpu_gate *gate);

/*
 * Creates vCPU `index` and remembers its power-on state.
 * The errno of the ioctl that failed, or of an allocation; logged.
 */
must_check int vcpu_init(struct vcpu *vcpu, int kvm_fd, int vm_fd, unsigned int index,
			 const struct kvm_cpuid2 *cpuid, struct vcpu_gate *gate,
			 const struct vcpu_host *host);
/* Joins the thread, which vcpus_quit() has told to end. Accepts a zeroed object. */
void vcpu_finish(struct vcpu *vcpu);

/*
 * Starts the thread, which has begun when this returns; it parks at the gate. -EAGAIN, or what
 * host->begin() said; logged.
 */
must_check int vcpu_start(struct vcpu *vcpu);

/* The thread, for tools that look at threads or pin them; 0: it was not started. */
int vcpu_thread_id(struct vcpu *vcpu);

/* Only closes; the caller's own vCPU parks when its handler returns. Any thread. */
void vcpu_gate_close(struct vcpu_gate *gate);
/* Closes, and waits until all started vCPUs are parked. Not on a vCPU's thread. */
void vcpus_park(struct vcpu *vcpus, unsigned int count, struct vcpu_gate *gate);
void vcpus_resume(struct vcpu_gate *gate);
/* To parked ones, that they stood still: a guest's watchdogs then hold their peace. */
void vcpus_tell_pause(struct vcpu *vcpus, unsigned int count);
/* Parks them, then lets the threads end. */
void vcpus_quit(struct vcpu *vcpus, unsigned int count, struct vcpu_gate *gate);

/* Puts a parked vCPU back into its power-on state. -errno of the ioctl; logged. */
must_check int vcpu_reset(struct vcpu *vcpu);
/* The state a start sets on top: general and special registers of a parked vCPU. Logged. */
must_check int vcpu_get_registers(struct vcpu *vcpu, struct kvm_regs *regs,
				  struct kvm_sregs *sregs);
must_check int vcpu_set_registers(struct vcpu *vcpu, struct kvm_regs *regs,
				  struct kvm_sregs *sregs);

/* Of an exit reason; NULL: there is none of that number, or nobody here knows it. */
const char *vcpu_exit_name(unsigned int reason);
/* How often the vCPU left the guest for that reason. Any thread. */
uint64_t vcpu_nr_exits(const struct vcpu *vcpu, unsigned int reason);

/* Prints the registers of a parked vCPU, and how often it left the guest, and why. */
void vcpu_print(struct vcpu *vcpu);

#endif /* VMM_VCPU_H */
