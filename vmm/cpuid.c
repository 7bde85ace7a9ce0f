/* SPDX-License-Identifier: MIT */
#include "vmm/cpuid.h"

#include <errno.h>
#include <string.h>

#include "base/log.h"

#include "vmm/kvm.h"

#define LEAF_1_ECX_VMX (1u << 5)
#define LEAF_1_ECX_TSC_DEADLINE (1u << 24)
#define LEAF_1_ECX_HYPERVISOR (1u << 31)
#define LEAF_1_EDX_HTT (1u << 28)
#define LEAF_80000001_ECX_SVM (1u << 2)
#define LEAF_B_LEVEL_SMT (1u << 8)
#define LEAF_B_LEVEL_CORE (2u << 8 | 1u)

static size_t cpuid_size(uint32_t entries)
{
	return sizeof(struct kvm_cpuid2) + entries * sizeof(struct kvm_cpuid_entry2);
}

int cpuid_supported(int kvm_fd, struct kvm_cpuid2 **ret)
{
	struct kvm_cpuid2 *cpuid = calloc(1, cpuid_size(CPUID_MAX_ENTRIES));
	if (!cpuid)
		return log_err(-ENOMEM, "kvm: cpuid table");
	int r = kvm_supported_cpuid(kvm_fd, cpuid, CPUID_MAX_ENTRIES - 2);
	if (r < 0) {
		free(cpuid);
		return log_err(r, "kvm: supported cpuid");
	}
	*ret = cpuid;
	return 0;
}

/* Bits needed to number n things. */
static unsigned int bits_for(unsigned int n)
{
	unsigned int bits = 0;

	while ((1u << bits) < n)
		bits++;
	return bits;
}

static void remove_leaf(struct kvm_cpuid2 *cpuid, uint32_t function)
{
	uint32_t kept = 0;

	for (uint32_t i = 0; i < cpuid->nent; i++) {
		if (cpuid->entries[i].function != function)
			cpuid->entries[kept++] = cpuid->entries[i];
	}
	cpuid->nent = kept;
}

/* There is room: cpuid_supported() leaves two entries free. */
static void add_topology_level(struct kvm_cpuid2 *cpuid, uint32_t level, uint32_t shift,
			       uint32_t count, uint32_t kind, uint32_t apic_id)
{
	if (cpuid->nent >= CPUID_MAX_ENTRIES)
		return;
	cpuid->entries[cpuid->nent++] = (struct kvm_cpuid_entry2){
		.function = 0xb,
		.index = level,
		.flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
		.eax = shift,
		.ebx = count,
		.ecx = kind,
		.edx = apic_id,
	};
}

void cpuid_adapt(struct kvm_cpuid2 *cpuid, unsigned int index, unsigned int nr_cpus,
		 bool tsc_deadline)
{
	unsigned int core_bits = bits_for(nr_cpus);
	uint32_t max_leaf = 0;

	for (uint32_t i = 0; i < cpuid->nent; i++) {
		struct kvm_cpuid_entry2 *e = &cpuid->entries[i];
		switch (e->function) {
		case 0: max_leaf = e->eax; break;
		case 1:
			e->ebx = (e->ebx & 0xffff) | nr_cpus << 16 | index << 24;
			/* Neither is offered: a guest in VMX operation cannot be reset. */
			e->ecx &= ~LEAF_1_ECX_VMX;
			e->ecx |= LEAF_1_ECX_HYPERVISOR;
			if (tsc_deadline)
				e->ecx |= LEAF_1_ECX_TSC_DEADLINE;
			e->edx &= ~LEAF_1_EDX_HTT;
			if (nr_cpus > 1)
				e->edx |= LEAF_1_EDX_HTT;
			break;
		case 4: /* caches: the last level is shared by all cores, the others by none */
			e->eax &= 0x3fff;
			if (e->eax & 0x1f) {
				e->eax |= ((1u << core_bits) - 1) << 26;
				if ((e->eax >> 5 & 7) >= 3)
					e->eax |= ((1u << core_bits) - 1) << 14;
			}
			break;
		case 0x80000001: e->ecx &= ~LEAF_80000001_ECX_SVM; break;
		case 0x80000008: e->ecx = core_bits << 12 | (nr_cpus - 1); break;
		case 0x8000001d:
			e->eax &= 0x3fff;
			if ((e->eax & 0x1f) && (e->eax >> 5 & 7) >= 3)
				e->eax |= (nr_cpus - 1) << 14;
			break;
		case 0x8000001e:
			e->eax = index;
			e->ebx = index;
			e->ecx = 0;
			break;
		default: break;
		}
	}
	remove_leaf(cpuid, 0x8000000a); /* SVM's */
	remove_leaf(cpuid, 0xb);
	remove_leaf(cpuid, 0x1f);
	if (max_leaf >= 0xb) {
		add_topology_level(cpuid, 0, 0, 1, LEAF_B_LEVEL_SMT, index);
		add_topology_level(cpuid, 1, core_bits, nr_cpus, LEAF_B_LEVEL_CORE, index);
	}
}

unsigned int cpuid_address_bits(const struct kvm_cpuid2 *cpuid)
{
	for (uint32_t i = 0; i < cpuid->nent; i++) {
		if (cpuid->entries[i].function == 0x80000008)
			return cpuid->entries[i].eax & 0xff;
	}
	return 36;
}
