/* SPDX-License-Identifier: MIT */
/*
 * kvm.h - every KVM ioctl, one thin function each: typed parameters in, -errno out, no log,
 * no policy. Documentation/virt/kvm/api.rst of the kernel is the manual; what is said here is
 * only what differs. Threads: as KVM allows; the vCPU calls on the vCPU's own thread.
 */
#ifndef VMM_KVM_H
#define VMM_KVM_H

#include <stddef.h>
#include <stdint.h>

#include <linux/kvm.h>

#include "base/util.h"

/* /dev/kvm. ret_fd is close-on-exec. -ENOENT, -EACCES; -EPROTO: API version is not 12. */
must_check int kvm_open(int *ret_fd);
/* KVM_CHECK_EXTENSION of the system (kvm fd) or the VM (vm fd): 0 if absent. */
int kvm_check(int fd, unsigned int capability);
must_check int kvm_create_vm(int kvm_fd, int *ret_fd);
/* The size of the shared area of a vCPU. */
must_check int kvm_vcpu_map_size(int kvm_fd);
/* Fills up to `max` entries. -E2BIG: there are more. */
must_check int kvm_supported_cpuid(int kvm_fd, struct kvm_cpuid2 *cpuid, uint32_t max);
must_check int kvm_msr_list(int kvm_fd, struct kvm_msr_list *list, uint32_t max);

must_check int kvm_set_tss(int vm_fd, uint64_t gpa);
must_check int kvm_set_identity_map(int vm_fd, uint64_t gpa);
must_check int kvm_create_irqchip(int vm_fd);
must_check int kvm_get_irqchip(int vm_fd, struct kvm_irqchip *chip);
must_check int kvm_set_irqchip(int vm_fd, struct kvm_irqchip *chip);
/* size 0 deletes the slot. */
must_check int kvm_set_slot(int vm_fd, uint32_t slot, uint64_t gpa, uint64_t size, void *host);
must_check int kvm_set_routes(int vm_fd, struct kvm_irq_routing *routing);
/* resample_fd -1: an edge. */
must_check int kvm_irqfd_add(int vm_fd, int fd, uint32_t gsi, int resample_fd);
must_check int kvm_irqfd_remove(int vm_fd, int fd, uint32_t gsi);
/* Writes of any size at the guest-physical address signal fd, and go no further. */
must_check int kvm_ioeventfd_add(int vm_fd, int fd, uint64_t address);
must_check int kvm_ioeventfd_remove(int vm_fd, int fd, uint64_t address);
must_check int kvm_create_vfio_device(int vm_fd, int *ret_fd);
must_check int kvm_vfio_group_add(int device_fd, int group_fd);
must_check int kvm_vfio_group_remove(int device_fd, int group_fd);

must_check int kvm_create_vcpu(int vm_fd, uint32_t id, int *ret_fd);
must_check int kvm_set_cpuid(int vcpu_fd, struct kvm_cpuid2 *cpuid);
/* Both return how many MSRs were done: fewer than asked means that one was refused. */
must_check int kvm_get_msrs(int vcpu_fd, struct kvm_msrs *msrs);
must_check int kvm_set_msrs(int vcpu_fd, struct kvm_msrs *msrs);
must_check int kvm_get_regs(int vcpu_fd, struct kvm_regs *regs);
must_check int kvm_set_regs(int vcpu_fd, struct kvm_regs *regs);
must_check int kvm_get_sregs(int vcpu_fd, struct kvm_sregs *sregs);
must_check int kvm_set_sregs(int vcpu_fd, struct kvm_sregs *sregs);
must_check int kvm_get_xsave(int vcpu_fd, struct kvm_xsave *xsave);
must_check int kvm_set_xsave(int vcpu_fd, struct kvm_xsave *xsave);
must_check int kvm_get_xcrs(int vcpu_fd, struct kvm_xcrs *xcrs);
must_check int kvm_set_xcrs(int vcpu_fd, struct kvm_xcrs *xcrs);
must_check int kvm_get_debugregs(int vcpu_fd, struct kvm_debugregs *regs);
must_check int kvm_set_debugregs(int vcpu_fd, struct kvm_debugregs *regs);
must_check int kvm_get_events(int vcpu_fd, struct kvm_vcpu_events *events);
must_check int kvm_set_events(int vcpu_fd, struct kvm_vcpu_events *events);
must_check int kvm_get_lapic(int vcpu_fd, struct kvm_lapic_state *lapic);
must_check int kvm_set_lapic(int vcpu_fd, struct kvm_lapic_state *lapic);
must_check int kvm_get_mp_state(int vcpu_fd, struct kvm_mp_state *state);
must_check int kvm_set_mp_state(int vcpu_fd, struct kvm_mp_state *state);
/* Tells a guest with a KVM clock that it stood still. -EINVAL: it has none. */
must_check int kvm_clock_paused(int vcpu_fd);
/* -EINTR: a signal, or immediate_exit. -EAGAIN: an AP that was never started. */
must_check int kvm_enter(int vcpu_fd);

#endif /* VMM_KVM_H */
