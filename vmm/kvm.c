/* SPDX-License-Identifier: MIT */
#include "vmm/kvm.h"

#include <errno.h>
#include <fcntl.h>

#include <sys/ioctl.h>

#include "base/fd.h"
#include "base/trace.h"

/* The result of an ioctl as the house has it: -errno instead of -1. */
static int call(int fd, unsigned long request, void *arg)
{
	int r = ioctl(fd, request, arg);
	return r < 0 ? -errno : r;
}

static int call_value(int fd, unsigned long request, unsigned long value)
{
	int r = ioctl(fd, request, value);
	return r < 0 ? -errno : r;
}

static int call_fd(int fd, unsigned long request, unsigned long value, int *ret_fd)
{
	int r = call_value(fd, request, value);
	if (r < 0)
		return r;
	*ret_fd = r;
	return 0;
}

int kvm_open(int *ret_fd)
{
	int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (ioctl(fd, KVM_GET_API_VERSION, 0) != KVM_API_VERSION) {
		fd_close(&fd);
		return -EPROTO;
	}
	*ret_fd = fd;
	return 0;
}

int kvm_check(int fd, unsigned int capability)
{
	int r = ioctl(fd, KVM_CHECK_EXTENSION, (unsigned long)capability);
	return r < 0 ? 0 : r;
}

int kvm_create_vm(int kvm_fd, int *ret_fd)
{
	int r;

	/* Interrupted by a signal it only wants to be asked again. */
	do {
		r = call_fd(kvm_fd, KVM_CREATE_VM, 0, ret_fd);
	} while (r == -EINTR);
	return r;
}

int kvm_vcpu_map_size(int kvm_fd)
{
	return call_value(kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
}

int kvm_supported_cpuid(int kvm_fd, struct kvm_cpuid2 *cpuid, uint32_t max)
{
	cpuid->nent = max;
	return call(kvm_fd, KVM_GET_SUPPORTED_CPUID, cpuid);
}

int kvm_msr_list(int kvm_fd, struct kvm_msr_list *list, uint32_t max)
{
	list->nmsrs = max;
	return call(kvm_fd, KVM_GET_MSR_INDEX_LIST, list);
}

int kvm_set_tss(int vm_fd, uint64_t gpa)
{
	return call_value(vm_fd, KVM_SET_TSS_ADDR, gpa);
}

int kvm_set_identity_map(int vm_fd, uint64_t gpa)
{
	return call(vm_fd, KVM_SET_IDENTITY_MAP_ADDR, &gpa);
}

int kvm_create_irqchip(int vm_fd)
{
	return call_value(vm_fd, KVM_CREATE_IRQCHIP, 0);
}

int kvm_get_irqchip(int vm_fd, struct kvm_irqchip *chip)
{
	return call(vm_fd, KVM_GET_IRQCHIP, chip);
}

int kvm_set_irqchip(int vm_fd, struct kvm_irqchip *chip)
{
	return call(vm_fd, KVM_SET_IRQCHIP, chip);
}

int kvm_set_slot(int vm_fd, uint32_t slot, uint64_t gpa, uint64_t size, void *host)
{
	TRACE(kvm_set_slot, gpa, size);
	struct kvm_userspace_memory_region arg = {
		.slot = slot,
		.guest_phys_addr = gpa,
		.memory_size = size,
		.userspace_addr = (uintptr_t)host,
	};
	return call(vm_fd, KVM_SET_USER_MEMORY_REGION, &arg);
}

int kvm_set_routes(int vm_fd, struct kvm_irq_routing *routing)
{
	return call(vm_fd, KVM_SET_GSI_ROUTING, routing);
}

int kvm_irqfd_add(int vm_fd, int fd, uint32_t gsi, int resample_fd)
{
	struct kvm_irqfd arg = { .fd = (uint32_t)fd, .gsi = gsi };
	if (resample_fd >= 0) {
		arg.flags = KVM_IRQFD_FLAG_RESAMPLE;
		arg.resamplefd = (uint32_t)resample_fd;
	}
	return call(vm_fd, KVM_IRQFD, &arg);
}

int kvm_irqfd_remove(int vm_fd, int fd, uint32_t gsi)
{
	struct kvm_irqfd arg = {
		.fd = (uint32_t)fd,
		.gsi = gsi,
		.flags = KVM_IRQFD_FLAG_DEASSIGN,
	};
	return call(vm_fd, KVM_IRQFD, &arg);
}

/* Length 0: writes of any size match (KVM_CAP_IOEVENTFD_ANY_LENGTH, Linux 4.4). */
static int ioeventfd(int vm_fd, int fd, uint64_t address, uint32_t flags)
{
	struct kvm_ioeventfd arg = { .fd = fd, .addr = address, .flags = flags };
	return call(vm_fd, KVM_IOEVENTFD, &arg);
}

int kvm_ioeventfd_add(int vm_fd, int fd, uint64_t address)
{
	return ioeventfd(vm_fd, fd, address, 0);
}

int kvm_ioeventfd_remove(int vm_fd, int fd, uint64_t address)
{
	return ioeventfd(vm_fd, fd, address, KVM_IOEVENTFD_FLAG_DEASSIGN);
}

int kvm_create_vfio_device(int vm_fd, int *ret_fd)
{
	struct kvm_create_device arg = { .type = KVM_DEV_TYPE_VFIO };
	int r = call(vm_fd, KVM_CREATE_DEVICE, &arg);
	if (r < 0)
		return r;
	*ret_fd = (int)arg.fd;
	return 0;
}

static int vfio_group_call(int device_fd, int group_fd, uint64_t attribute)
{
	int32_t fd = group_fd;
	struct kvm_device_attr arg = {
		.group = KVM_DEV_VFIO_GROUP,
		.attr = attribute,
		.addr = (uintptr_t)&fd,
	};
	return call(device_fd, KVM_SET_DEVICE_ATTR, &arg);
}

int kvm_vfio_group_add(int device_fd, int group_fd)
{
	return vfio_group_call(device_fd, group_fd, KVM_DEV_VFIO_GROUP_ADD);
}

int kvm_vfio_group_remove(int device_fd, int group_fd)
{
	return vfio_group_call(device_fd, group_fd, KVM_DEV_VFIO_GROUP_DEL);
}

int kvm_create_vcpu(int vm_fd, uint32_t id, int *ret_fd)
{
	return call_fd(vm_fd, KVM_CREATE_VCPU, id, ret_fd);
}

int kvm_set_cpuid(int vcpu_fd, struct kvm_cpuid2 *cpuid)
{
	return call(vcpu_fd, KVM_SET_CPUID2, cpuid);
}

int kvm_get_msrs(int vcpu_fd, struct kvm_msrs *msrs)
{
	return call(vcpu_fd, KVM_GET_MSRS, msrs);
}

int kvm_set_msrs(int vcpu_fd, struct kvm_msrs *msrs)
{
	return call(vcpu_fd, KVM_SET_MSRS, msrs);
}

int kvm_get_regs(int vcpu_fd, struct kvm_regs *regs)
{
	return call(vcpu_fd, KVM_GET_REGS, regs);
}

int kvm_set_regs(int vcpu_fd, struct kvm_regs *regs)
{
	return call(vcpu_fd, KVM_SET_REGS, regs);
}

int kvm_get_sregs(int vcpu_fd, struct kvm_sregs *sregs)
{
	return call(vcpu_fd, KVM_GET_SREGS, sregs);
}

int kvm_set_sregs(int vcpu_fd, struct kvm_sregs *sregs)
{
	return call(vcpu_fd, KVM_SET_SREGS, sregs);
}

int kvm_get_xsave(int vcpu_fd, struct kvm_xsave *xsave)
{
	return call(vcpu_fd, KVM_GET_XSAVE, xsave);
}

int kvm_set_xsave(int vcpu_fd, struct kvm_xsave *xsave)
{
	return call(vcpu_fd, KVM_SET_XSAVE, xsave);
}

int kvm_get_xcrs(int vcpu_fd, struct kvm_xcrs *xcrs)
{
	return call(vcpu_fd, KVM_GET_XCRS, xcrs);
}

int kvm_set_xcrs(int vcpu_fd, struct kvm_xcrs *xcrs)
{
	return call(vcpu_fd, KVM_SET_XCRS, xcrs);
}

int kvm_get_debugregs(int vcpu_fd, struct kvm_debugregs *regs)
{
	return call(vcpu_fd, KVM_GET_DEBUGREGS, regs);
}

int kvm_set_debugregs(int vcpu_fd, struct kvm_debugregs *regs)
{
	return call(vcpu_fd, KVM_SET_DEBUGREGS, regs);
}

int kvm_get_events(int vcpu_fd, struct kvm_vcpu_events *events)
{
	return call(vcpu_fd, KVM_GET_VCPU_EVENTS, events);
}

int kvm_set_events(int vcpu_fd, struct kvm_vcpu_events *events)
{
	return call(vcpu_fd, KVM_SET_VCPU_EVENTS, events);
}

int kvm_get_lapic(int vcpu_fd, struct kvm_lapic_state *lapic)
{
	return call(vcpu_fd, KVM_GET_LAPIC, lapic);
}

int kvm_set_lapic(int vcpu_fd, struct kvm_lapic_state *lapic)
{
	return call(vcpu_fd, KVM_SET_LAPIC, lapic);
}

int kvm_get_mp_state(int vcpu_fd, struct kvm_mp_state *state)
{
	return call(vcpu_fd, KVM_GET_MP_STATE, state);
}

int kvm_set_mp_state(int vcpu_fd, struct kvm_mp_state *state)
{
	return call(vcpu_fd, KVM_SET_MP_STATE, state);
}

int kvm_clock_paused(int vcpu_fd)
{
	return call_value(vcpu_fd, KVM_KVMCLOCK_CTRL, 0);
}

int kvm_enter(int vcpu_fd)
{
	return call_value(vcpu_fd, KVM_RUN, 0);
}
