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

/* One that only hands a struct over. */
#define DEFINE_CALL(name, request, type)       \
	int name(int fd, type *arg)            \
	{                                      \
		return call(fd, request, arg); \
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

DEFINE_CALL(kvm_get_irqchip, KVM_GET_IRQCHIP, struct kvm_irqchip)
DEFINE_CALL(kvm_set_irqchip, KVM_SET_IRQCHIP, struct kvm_irqchip)

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

DEFINE_CALL(kvm_set_routes, KVM_SET_GSI_ROUTING, struct kvm_irq_routing)

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

DEFINE_CALL(kvm_set_cpuid, KVM_SET_CPUID2, struct kvm_cpuid2)
DEFINE_CALL(kvm_get_msrs, KVM_GET_MSRS, struct kvm_msrs)
DEFINE_CALL(kvm_set_msrs, KVM_SET_MSRS, struct kvm_msrs)
DEFINE_CALL(kvm_get_regs, KVM_GET_REGS, struct kvm_regs)
DEFINE_CALL(kvm_set_regs, KVM_SET_REGS, struct kvm_regs)
DEFINE_CALL(kvm_get_sregs, KVM_GET_SREGS, struct kvm_sregs)
DEFINE_CALL(kvm_set_sregs, KVM_SET_SREGS, struct kvm_sregs)
DEFINE_CALL(kvm_get_xsave, KVM_GET_XSAVE, struct kvm_xsave)
DEFINE_CALL(kvm_set_xsave, KVM_SET_XSAVE, struct kvm_xsave)
DEFINE_CALL(kvm_get_xcrs, KVM_GET_XCRS, struct kvm_xcrs)
DEFINE_CALL(kvm_set_xcrs, KVM_SET_XCRS, struct kvm_xcrs)
DEFINE_CALL(kvm_get_debugregs, KVM_GET_DEBUGREGS, struct kvm_debugregs)
DEFINE_CALL(kvm_set_debugregs, KVM_SET_DEBUGREGS, struct kvm_debugregs)
DEFINE_CALL(kvm_get_events, KVM_GET_VCPU_EVENTS, struct kvm_vcpu_events)
DEFINE_CALL(kvm_set_events, KVM_SET_VCPU_EVENTS, struct kvm_vcpu_events)
DEFINE_CALL(kvm_get_lapic, KVM_GET_LAPIC, struct kvm_lapic_state)
DEFINE_CALL(kvm_set_lapic, KVM_SET_LAPIC, struct kvm_lapic_state)
DEFINE_CALL(kvm_get_mp_state, KVM_GET_MP_STATE, struct kvm_mp_state)
DEFINE_CALL(kvm_set_mp_state, KVM_SET_MP_STATE, struct kvm_mp_state)

int kvm_clock_paused(int vcpu_fd)
{
	return call_value(vcpu_fd, KVM_KVMCLOCK_CTRL, 0);
}

int kvm_enter(int vcpu_fd)
{
	return call_value(vcpu_fd, KVM_RUN, 0);
}
