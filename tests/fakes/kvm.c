/* SPDX-License-Identifier: MIT */
#include "tests/fakes/kvm.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <string.h>

#include <sys/mman.h>

#include "base/fd.h"

#define MAP_SIZE 12288u

struct fake_kvm fake_kvm;

void fake_kvm_init(void)
{
	fake_kvm = (struct fake_kvm){
		.fail_errno = -EIO,
		.absent = -1,
		.nr_gsis = 4096,
		.nr_slots = FAKE_KVM_MAX_SLOTS,
	};
}

unsigned int fake_kvm_nr_slots(void)
{
	unsigned int count = 0;

	for (unsigned int i = 0; i < FAKE_KVM_MAX_SLOTS; i++)
		count += fake_kvm.slots[i].size > 0;
	return count;
}

const struct kvm_irq_routing_entry *fake_kvm_route(uint32_t gsi)
{
	for (unsigned int i = 0; i < fake_kvm.nr_routes; i++) {
		if (fake_kvm.routes[i].gsi == gsi)
			return &fake_kvm.routes[i];
	}
	return NULL;
}

/* Counts a call; true if it is to fail. A vCPU's thread may call, too. */
static bool fails(const char *call)
{
	if (__atomic_add_fetch(&fake_kvm.nr_calls, 1, __ATOMIC_SEQ_CST) != fake_kvm.fail_at)
		return false;
	fake_kvm.failed = call;
	return true;
}

#define MAY_FAIL()                                  \
	do {                                        \
		if (fails(__func__))                \
			return fake_kvm.fail_errno; \
	} while (0)

/* A wrong fd is a mistake of the code under test, as plain as any. */
static struct fake_vcpu *vcpu_at(int fd)
{
	for (unsigned int i = 0; i < fake_kvm.nr_vcpus; i++) {
		if (fake_kvm.vcpus[i].fd == fd)
			return &fake_kvm.vcpus[i];
	}
	abort();
}

int kvm_open(int *ret_fd)
{
	MAY_FAIL();
	if (fake_kvm.open_error)
		return fake_kvm.open_error;
	return eventfd_create(ret_fd);
}

int kvm_check(int fd, unsigned int capability)
{
	assert(fd >= 0);
	if (fails(__func__) || (int)capability == fake_kvm.absent)
		return 0;
	switch (capability) {
	case KVM_CAP_NR_MEMSLOTS: return fake_kvm.nr_slots;
	case KVM_CAP_IRQ_ROUTING: return fake_kvm.nr_gsis;
	default: return 1;
	}
}

int kvm_create_vm(int kvm_fd, int *ret_fd)
{
	assert(kvm_fd >= 0);
	MAY_FAIL();
	return eventfd_create(ret_fd);
}

int kvm_vcpu_map_size(int kvm_fd)
{
	assert(kvm_fd >= 0);
	MAY_FAIL();
	return MAP_SIZE;
}

int kvm_supported_cpuid(int kvm_fd, struct kvm_cpuid2 *cpuid, uint32_t max)
{
	static const struct kvm_cpuid_entry2 entries[] = {
		{ .function = 0, .eax = 0xd },
		{ .function = 1, .ebx = 0x05000800, .edx = 1u << 28 },
		{ .function = 0xb, .index = 0, .flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX },
		{ .function = 0x80000000, .eax = 0x80000008 },
		{ .function = 0x80000008, .eax = 39 },
	};

	assert(kvm_fd >= 0 && max >= nitems(entries));
	MAY_FAIL();
	memcpy(cpuid->entries, entries, sizeof(entries));
	cpuid->nent = nitems(entries);
	return 0;
}

int kvm_msr_list(int kvm_fd, struct kvm_msr_list *list, uint32_t max)
{
	static const uint32_t indices[] = { 0x10, 0x3b, 0x174, 0x2ff };

	assert(kvm_fd >= 0 && max >= nitems(indices) + fake_kvm.nr_more_msrs);
	MAY_FAIL();
	memcpy(list->indices, indices, sizeof(indices));
	list->nmsrs = nitems(indices);
	for (uint32_t i = 0; i < fake_kvm.nr_more_msrs; i++)
		list->indices[list->nmsrs++] = FAKE_KVM_FIRST_MSR + i;
	return 0;
}

int kvm_set_tss(int vm_fd, uint64_t gpa)
{
	assert(vm_fd >= 0 && gpa > 0);
	MAY_FAIL();
	return 0;
}

int kvm_set_identity_map(int vm_fd, uint64_t gpa)
{
	assert(vm_fd >= 0 && gpa > 0);
	MAY_FAIL();
	return 0;
}

int kvm_create_irqchip(int vm_fd)
{
	assert(vm_fd >= 0);
	MAY_FAIL();
	return 0;
}

int kvm_get_irqchip(int vm_fd, struct kvm_irqchip *chip)
{
	assert(vm_fd >= 0 && chip->chip_id == KVM_IRQCHIP_IOAPIC);
	MAY_FAIL();
	return 0;
}

int kvm_set_irqchip(int vm_fd, struct kvm_irqchip *chip)
{
	assert(vm_fd >= 0 && chip->chip_id == KVM_IRQCHIP_IOAPIC);
	MAY_FAIL();
	fake_kvm.nr_ioapics_set++;
	return 0;
}

int kvm_set_slot(int vm_fd, uint32_t slot, uint64_t gpa, uint64_t size, void *host)
{
	assert(vm_fd >= 0 && slot < (uint32_t)fake_kvm.nr_slots);
	MAY_FAIL();
	fake_kvm.slots[slot] = (struct fake_slot){ gpa, size, host };
	return 0;
}

int kvm_set_routes(int vm_fd, struct kvm_irq_routing *routing)
{
	assert(vm_fd >= 0 && routing->nr <= FAKE_KVM_MAX_ROUTES);
	MAY_FAIL();
	memcpy(fake_kvm.routes, routing->entries, routing->nr * sizeof(routing->entries[0]));
	fake_kvm.nr_routes = routing->nr;
	fake_kvm.nr_times_routed++;
	return 0;
}

int kvm_irqfd_add(int vm_fd, int fd, uint32_t gsi, int resample_fd)
{
	assert(vm_fd >= 0 && fd >= 0 && fake_kvm.nr_irqfds < FAKE_KVM_MAX_IRQFDS);
	MAY_FAIL();
	for (unsigned int i = 0; i < fake_kvm.nr_irqfds; i++) {
		if (fake_kvm.irqfds[i].fd == fd)
			return -EBUSY;
	}
	fake_kvm.irqfds[fake_kvm.nr_irqfds++] = (struct fake_kvm_irqfd){ fd, gsi, resample_fd };
	return 0;
}

int kvm_irqfd_remove(int vm_fd, int fd, uint32_t gsi)
{
	assert(vm_fd >= 0);
	MAY_FAIL();
	for (unsigned int i = 0; i < fake_kvm.nr_irqfds; i++) {
		struct fake_kvm_irqfd *irqfd = &fake_kvm.irqfds[i];
		if (irqfd->fd != fd || irqfd->gsi != gsi)
			continue;
		*irqfd = fake_kvm.irqfds[--fake_kvm.nr_irqfds];
		return 0;
	}
	return -EINVAL;
}

int kvm_ioeventfd_add(int vm_fd, int fd, uint64_t address)
{
	assert(vm_fd >= 0 && fd >= 0 && fake_kvm.nr_ioeventfds < FAKE_KVM_MAX_IOEVENTFDS);
	MAY_FAIL();
	for (unsigned int i = 0; i < fake_kvm.nr_ioeventfds; i++) {
		if (fake_kvm.ioeventfds[i].address == address)
			return -EEXIST;
	}
	fake_kvm.ioeventfds[fake_kvm.nr_ioeventfds++] =
		(struct fake_kvm_ioeventfd){ fd, address };
	return 0;
}

int kvm_ioeventfd_remove(int vm_fd, int fd, uint64_t address)
{
	assert(vm_fd >= 0);
	MAY_FAIL();
	for (unsigned int i = 0; i < fake_kvm.nr_ioeventfds; i++) {
		struct fake_kvm_ioeventfd *e = &fake_kvm.ioeventfds[i];
		if (e->fd != fd || e->address != address)
			continue;
		*e = fake_kvm.ioeventfds[--fake_kvm.nr_ioeventfds];
		return 0;
	}
	return -ENOENT;
}

int kvm_create_vfio_device(int vm_fd, int *ret_fd)
{
	assert(vm_fd >= 0);
	MAY_FAIL();
	fake_kvm.nr_vfio_devices++;
	return eventfd_create(ret_fd);
}

int kvm_vfio_group_add(int device_fd, int group_fd)
{
	assert(device_fd >= 0 && group_fd >= 0);
	MAY_FAIL();
	fake_kvm.nr_groups++;
	return 0;
}

int kvm_vfio_group_remove(int device_fd, int group_fd)
{
	assert(device_fd >= 0 && group_fd >= 0);
	MAY_FAIL();
	fake_kvm.nr_groups--;
	return 0;
}

int kvm_create_vcpu(int vm_fd, uint32_t id, int *ret_fd)
{
	assert(vm_fd >= 0 && id < FAKE_KVM_MAX_CPUS);
	MAY_FAIL();
	int fd = memfd_create(FAKE_KVM_MAP_NAME, MFD_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (ftruncate(fd, MAP_SIZE) < 0) {
		fd_close(&fd);
		return -EIO;
	}
	assert(fake_kvm.nr_vcpus < nitems(fake_kvm.vcpus));
	fake_kvm.vcpus[fake_kvm.nr_vcpus++] = (struct fake_vcpu){ .fd = fd, .id = id };
	*ret_fd = fd;
	return 0;
}

int kvm_set_cpuid(int vcpu_fd, struct kvm_cpuid2 *cpuid)
{
	MAY_FAIL();
	vcpu_at(vcpu_fd)->nr_cpuid = cpuid->nent;
	return 0;
}

/* Where a value is kept; NULL: it was never set. */
static struct kvm_msr_entry *msr_of(struct fake_vcpu *vcpu, uint32_t index)
{
	for (unsigned int i = 0; i < vcpu->nr_msrs; i++) {
		if (vcpu->msrs[i].index == index)
			return &vcpu->msrs[i];
	}
	return NULL;
}

static int do_msrs(int vcpu_fd, bool get, struct kvm_msrs *msrs)
{
	struct fake_vcpu *vcpu = vcpu_at(vcpu_fd);
	uint32_t done = 0;

	if (msrs->nmsrs > 255)
		return -E2BIG;
	for (; done < msrs->nmsrs && msrs->entries[done].index != fake_kvm.refused_msr;
	     done++) {
		struct kvm_msr_entry *at = msr_of(vcpu, msrs->entries[done].index);
		if (get) {
			msrs->entries[done].data = at ? at->data : 0;
			continue;
		}
		assert(at || vcpu->nr_msrs < FAKE_KVM_MAX_MSRS);
		if (!at)
			at = &vcpu->msrs[vcpu->nr_msrs++];
		*at = msrs->entries[done];
	}
	return (int)done;
}

int kvm_get_msrs(int vcpu_fd, struct kvm_msrs *msrs)
{
	MAY_FAIL();
	return do_msrs(vcpu_fd, true, msrs);
}

int kvm_set_msrs(int vcpu_fd, struct kvm_msrs *msrs)
{
	MAY_FAIL();
	return do_msrs(vcpu_fd, false, msrs);
}

int kvm_get_regs(int vcpu_fd, struct kvm_regs *regs)
{
	MAY_FAIL();
	*regs = vcpu_at(vcpu_fd)->regs;
	return 0;
}

int kvm_set_regs(int vcpu_fd, struct kvm_regs *regs)
{
	MAY_FAIL();
	vcpu_at(vcpu_fd)->regs = *regs;
	return 0;
}

int kvm_get_sregs(int vcpu_fd, struct kvm_sregs *sregs)
{
	MAY_FAIL();
	*sregs = vcpu_at(vcpu_fd)->sregs;
	return 0;
}

int kvm_set_sregs(int vcpu_fd, struct kvm_sregs *sregs)
{
	MAY_FAIL();
	vcpu_at(vcpu_fd)->sregs = *sregs;
	return 0;
}

/* A host with XSAVE. */
int kvm_get_xcrs(int vcpu_fd, struct kvm_xcrs *state)
{
	assert(vcpu_at(vcpu_fd));
	MAY_FAIL();
	state->nr_xcrs = 1;
	return 0;
}

/* State that nobody here looks at. */
#define DEFINE_STATE_CALL(name, type)      \
	int name(int vcpu_fd, type *state) \
	{                                  \
		assert(vcpu_at(vcpu_fd));  \
		(void)state;               \
		MAY_FAIL();                \
		return 0;                  \
	}

DEFINE_STATE_CALL(kvm_get_xsave, struct kvm_xsave)
DEFINE_STATE_CALL(kvm_set_xsave, struct kvm_xsave)
DEFINE_STATE_CALL(kvm_set_xcrs, struct kvm_xcrs)
DEFINE_STATE_CALL(kvm_get_debugregs, struct kvm_debugregs)
DEFINE_STATE_CALL(kvm_set_debugregs, struct kvm_debugregs)
DEFINE_STATE_CALL(kvm_get_events, struct kvm_vcpu_events)
DEFINE_STATE_CALL(kvm_set_events, struct kvm_vcpu_events)
DEFINE_STATE_CALL(kvm_get_lapic, struct kvm_lapic_state)
DEFINE_STATE_CALL(kvm_set_lapic, struct kvm_lapic_state)
DEFINE_STATE_CALL(kvm_get_mp_state, struct kvm_mp_state)

int kvm_set_mp_state(int vcpu_fd, struct kvm_mp_state *state)
{
	(void)state;
	MAY_FAIL();
	vcpu_at(vcpu_fd)->nr_mp_states++;
	return 0;
}

int kvm_clock_paused(int vcpu_fd)
{
	MAY_FAIL();
	vcpu_at(vcpu_fd)->nr_pauses_told++;
	return 0;
}

/* A processor that waits for an interrupt which never comes; as a vCPU may in the sandbox. */
static int sleep_until_kicked(const struct kvm_run *run)
{
	while (!__atomic_load_n(&run->immediate_exit, __ATOMIC_SEQ_CST))
		(void)poll(NULL, 0, 1);
	return -EINTR;
}

/* What it does now; NULL: it sleeps. */
static fake_step *next_step(struct fake_vcpu *vcpu)
{
	if (vcpu->id > 1 || vcpu->next_step == FAKE_KVM_MAX_STEPS)
		return NULL;
	fake_step *const *steps = vcpu->id == 0 ? fake_kvm.steps : fake_kvm.second_steps;
	return steps[vcpu->next_step] ? steps[vcpu->next_step++] : NULL;
}

int kvm_enter(int vcpu_fd)
{
	struct fake_vcpu *vcpu = vcpu_at(vcpu_fd);
	fake_step *step = NULL;
	int r;

	struct kvm_run *run =
		mmap(NULL, MAP_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu_fd, 0);
	assert(run != MAP_FAILED);
	if (__atomic_load_n(&run->immediate_exit, __ATOMIC_SEQ_CST))
		r = -EINTR;
	else if ((step = next_step(vcpu)))
		r = step(run);
	else
		r = sleep_until_kicked(run);
	(void)munmap(run, MAP_SIZE);
	return r;
}
