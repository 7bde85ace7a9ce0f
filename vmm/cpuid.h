/* SPDX-License-Identifier: MIT */
/*
 * cpuid.h - what the guest's CPUs say of themselves: all that KVM supports, with this
 * machine's topology (one socket, one thread a core) put in. Intel SDM 2A "CPUID"; AMD APM 3,
 * appendix E.
 */
#ifndef VMM_CPUID_H
#define VMM_CPUID_H

#include <stdbool.h>
#include <stdint.h>

#include <linux/kvm.h>

#include "base/util.h"

#define CPUID_MAX_ENTRIES 256u

/* What KVM supports, asked once. *ret is the caller's to free. -ENOMEM, -errno of KVM; logged. */
must_check int cpuid_supported(int kvm_fd, struct kvm_cpuid2 **ret);
/* Turns a copy of it into that of vCPU `index` of `nr_cpus`; tsc_deadline: KVM has the timer. */
void cpuid_adapt(struct kvm_cpuid2 *cpuid, unsigned int index, unsigned int nr_cpus,
		 bool tsc_deadline);
/* Physical address bits: leaf 0x80000008, or 36 where that is absent. */
unsigned int cpuid_address_bits(const struct kvm_cpuid2 *cpuid);

#endif /* VMM_CPUID_H */
