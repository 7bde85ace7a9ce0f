/* SPDX-License-Identifier: MIT */
#include "vmm/machine.h"

#include <errno.h>
#include <inttypes.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <sys/signalfd.h>

#include "base/fd.h"
#include "base/log.h"
#include "base/trace.h"

#include "vmm/acpi.h"
#include "vmm/cpuid.h"
#include "vmm/host_pci.h"
#include "vmm/kvm.h"

/* Beyond 46 bits a guest of four-level paging, or a four-level EPT, cannot follow. */
#define MAX_ADDRESS_BITS 46u
#define HOST_BRIDGE_VENDOR 0x1b36
#define HOST_BRIDGE_DEVICE 0x0008
#define HOST_BRIDGE_CLASS 0x060000
#define STAT_AVAILABLE 6u          /* virtio 1.2, 5.5.6.4: VIRTIO_BALLOON_S_AVAIL */
#define INHIBIT_STEP (64ull << 20) /* made live before others have the event loop */
#define ETHERNET 0x020000
#define MASS_STORAGE 0x010000
#define COMMUNICATION 0x078000
#define UNCLASSIFIED 0x00ff00 /* PCI has no class for a balloon, or for entropy */

/*
 * Requests: from any thread to the event loop. The first one wins, except that an end wins over
 * a reset: who asks for it from outside, or a device that failed, asks only once.
 */

static void request(struct machine *m, enum power_event event, int status, const char *cause)
{
	pthread_mutex_lock(&m->lock);
	if (!m->requested || (m->request == POWER_RESET && event != POWER_RESET)) {
		m->requested = true;
		m->request = event;
		m->request_status = status;
		m->cause = cause;
	}
	pthread_mutex_unlock(&m->lock);
	vcpu_gate_close(&m->gate);
	eventfd_signal(m->wake.fd);
}

/* Nobody is parked for this: the event loop has something to tell. */
static void wake(struct machine *m, bool *what)
{
	if (!__atomic_exchange_n(what, true, __ATOMIC_SEQ_CST))
		eventfd_signal(m->wake.fd);
}

static void power_requested(void *opaque, enum power_event event, uint8_t code)
{
	struct machine *m = opaque;

	switch (event) {
	case POWER_OFF: request(m, event, STATUS_POWER_OFF, "guest-shutdown"); break;
	case POWER_EXIT: request(m, event, code, "guest-shutdown"); break;
	case POWER_RESET: request(m, event, 0, "guest-reset"); break;
	case POWER_PANIC: request(m, event, STATUS_PANICKED, "guest-panic"); break;
	case POWER_CRASH_LOADED: wake(m, &m->crash_loaded); break;
	}
}

static int vcpu_begin(void *opaque, const char *thread)
{
	struct machine *m = opaque;

	return sandbox_enter(&m->sandbox, SANDBOX_VCPU, thread);
}

static void vcpu_event(void *opaque, enum vcpu_event event)
{
	switch (event) {
	case VCPU_CRASHED: request(opaque, POWER_EXIT, STATUS_CRASHED, "host-error"); break;
	case VCPU_SHUTDOWN:
		request(opaque, POWER_OFF, STATUS_POWER_OFF, "guest-shutdown");
		break;
	case VCPU_RESET: request(opaque, POWER_RESET, 0, "guest-reset"); break;
	}
}

static bool vcpu_unreachable(void *opaque)
{
	struct machine *m = opaque;

	return vfio_pci_trap(&m->pci);
}

/* Asked from outside to end: the guest may, the first time, do so by itself. */
static void stop_requested(struct machine *m, const char *who, const char *cause)
{
	if (!m->button_pressed) {
		m->button_pressed = true;
		log_info("%s: pressing the power button; once more stops at once", who);
		machine_power_down(m);
		return;
	}
	log_info("%s: stopping, the guest did not switch itself off", who);
	request(m, POWER_EXIT, STATUS_FAILED, cause);
}

static void console_commanded(void *opaque, enum console_command command)
{
	struct machine *m = opaque;

	if (command == CONSOLE_POWER_BUTTON)
		machine_power_down(m);
	else
		stop_requested(m, "console", "host-ui");
}

/* All vCPUs parked. */
static void print_state(struct machine *m)
{
	for (unsigned int i = 0; i < m->nr_vcpus; i++)
		vcpu_print(&m->vcpus[i]);
}

/* The vCPUs are parked; they run again unless there is a reason why not. */
static void resume(struct machine *m)
{
	pthread_mutex_lock(&m->lock);
	bool requested = m->requested;
	pthread_mutex_unlock(&m->lock);
	if (!requested && !m->paused)
		vcpus_resume(&m->gate);
}

/* For people who want to know what a guest is at. */
static void state_asked(struct machine *m)
{
	vcpus_park(m->vcpus, m->nr_vcpus, &m->gate);
	print_state(m);
	resume(m);
}

/* The terminal has another size, or may have. */
static void look_at_window(struct machine *m)
{
	struct winsize window;

	if (m->config.has_console && console_get_window(&m->config.console, &window))
		virtio_console_resize(&m->hvc, &window);
}

static void signal_ready(struct event_source *source, uint32_t events)
{
	struct machine *m = container_of(source, struct machine, signals);
	struct signalfd_siginfo info;

	(void)events;
	if (read(source->fd, &info, sizeof(info)) != sizeof(info))
		return;
	if (info.ssi_signo == SIGUSR1)
		state_asked(m);
	else if (info.ssi_signo == SIGWINCH)
		look_at_window(m);
	else
		stop_requested(m,
			       info.ssi_signo == SIGINT   ? "SIGINT"
			       : info.ssi_signo == SIGHUP ? "SIGHUP"
							  : "SIGTERM",
			       "host-signal");
}

static void timer_ready(struct event_source *source, uint32_t events)
{
	struct machine *m = container_of(source, struct machine, timer);

	(void)events;
	(void)eventfd_take(source->fd); /* the same eight bytes */
	log_info("--timeout of %u s ran out: stopping", m->config.timeout);
	request(m, POWER_EXIT, STATUS_TIMEOUT, "host-signal");
}

/* Start and reset: all vCPUs parked. */

/* Kernel, initrd and boot data are loaded. The tables name the vCPUs and the PCI windows. */
static int prepare_boot(struct machine *m)
{
	struct kvm_regs regs;
	struct kvm_sregs sregs;

	int r = acpi_write_tables(&m->map, &m->layout, m->nr_vcpus);
	if (r >= 0)
		r = vcpu_get_registers(&m->vcpus[0], &regs, &sregs);
	if (r < 0)
		return r;
	boot_set_registers(&m->entry, &regs, &sregs);
	return vcpu_set_registers(&m->vcpus[0], &regs, &sregs);
}

/* Devices first: none may be at DMA when the kernel is written over what it reads. */
static int reset_devices(struct machine *m)
{
	attach_reset(m);
	/* Before devices are switched on again: what they raise then shall not be wiped out. */
	int r = kvm_set_irqchip(m->vm_fd, m->ioapic);
	if (r < 0)
		return log_err(r, "kvm: reset of the ioapic");
	pci_bus_reset(&m->pci);
	serial_reset(&m->serial);
	power_reset(&m->power);
	return 0;
}

/* All memory is the guest's. */
static int reset_guest(struct machine *m)
{
	int r = boot_load(&m->files, &m->map, &m->layout, &m->entry);

	for (unsigned int i = 0; i < m->nr_vcpus && r >= 0; i++)
		r = vcpu_reset(&m->vcpus[i]);
	return r < 0 ? r : prepare_boot(m);
}

static void end(struct machine *m, int status, const char *cause)
{
	m->status = status;
	qmp_event_reason(&m->qmp, "SHUTDOWN", cause);
	event_loop_stop(&m->loop);
}

static void restart(struct machine *m)
{
	if (reset_guest(m) < 0) {
		end(m, STATUS_FAILED, "host-error");
		return;
	}
	__atomic_store_n(&m->crash_loaded, false, __ATOMIC_SEQ_CST);
	m->crash_told = false;
	/* Another reset was of the guest that is gone; an end, whoever asked for it, still comes. */
	pthread_mutex_lock(&m->lock);
	m->requested = m->requested && m->request != POWER_RESET;
	pthread_mutex_unlock(&m->lock);
	qmp_event_reason(&m->qmp, "RESET", m->reset_cause);
	resume(m);
}

/*
 * No vCPU runs before all that the balloon held is the guest's, and its devices', again, and what
 * a disk was reading into the old guest's memory is there.
 */
static void restart_if_ready(struct machine *m)
{
	if (!m->restarts)
		return;
	for (unsigned int i = 0; i < m->nr_virtios; i++) {
		if (virtio_is_resetting(m->virtios[i].virtio))
			return;
	}
	m->restarts = false;
	restart(m);
}

/* A guest may do so for ever: no log shall grow with it. */
static void tell_reset(struct machine *m)
{
	if (m->nr_resets++ >= LOG_GUEST_BURST)
		return;
	bool last = m->nr_resets == LOG_GUEST_BURST;
	log_info("guest resets%s", last ? "; further resets are not reported" : "");
	figures_event(&m->figures, "reset", last ? json_pack("{s:b}", "last-told", 1) : NULL);
}

static void reset(struct machine *m, const char *cause)
{
	m->reset_cause = cause;
	tell_reset(m);
	vcpus_park(m->vcpus, m->nr_vcpus, &m->gate);
	if (reset_devices(m) < 0) {
		end(m, STATUS_FAILED, "host-error");
		return;
	}
	m->restarts = true;
	restart_if_ready(m);
}

/* A device is through with its reset. */
static void reset_done_ready(struct event_source *source, uint32_t events)
{
	struct machine *m = container_of(source, struct machine, reset_done);

	(void)events;
	(void)eventfd_take(source->fd);
	restart_if_ready(m);
}

/* The balloon's; the vCPUs may be parked. */
static void balloon_event(void *opaque, enum virtio_balloon_event event)
{
	struct machine *m = opaque;

	switch (event) {
	case VIRTIO_BALLOON_WAITS: qmp_event(&m->qmp, "X_BALLAST_MEMORY_WAITS"); break;
	case VIRTIO_BALLOON_SERVED: qmp_event(&m->qmp, "X_BALLAST_MEMORY_SERVED"); break;
	}
}

/* With QMP only; the balloon's lock is held. */
static void balloon_changed(void *opaque)
{
	struct machine *m = opaque;

	wake(m, &m->balloon_changed);
}

bool machine_take_balloon_change(struct machine *m)
{
	return __atomic_exchange_n(&m->balloon_changed, false, __ATOMIC_SEQ_CST);
}

/* What vCPUs have left to be told, while they run on. */
static void tell_news(struct machine *m)
{
	qmp_balloon_changed(&m->qmp);
	/* That of this boot is told; the next boot may have one again. */
	if (!m->crash_told && __atomic_load_n(&m->crash_loaded, __ATOMIC_SEQ_CST)) {
		m->crash_told = true;
		log_guest(&m->crash_budget, "guest panicked: its crash kernel takes over");
		if (m->nr_resets < LOG_GUEST_BURST) /* as of resets: no log shall grow */
			figures_event(&m->figures, "crash-loaded", NULL);
		qmp_event_action(&m->qmp, "GUEST_CRASHLOADED", "run");
	}
}

static void wake_ready(struct event_source *source, uint32_t events)
{
	struct machine *m = container_of(source, struct machine, wake);

	(void)events;
	(void)eventfd_take(source->fd);
	pthread_mutex_lock(&m->lock);
	bool requested = m->requested;
	enum power_event event = m->request;
	int status = m->request_status;
	const char *cause = m->cause;
	pthread_mutex_unlock(&m->lock);
	tell_news(m);
	attach_take_out(m);
	/* While a reset waits for devices its own request stands. */
	if (!requested || (m->restarts && event == POWER_RESET))
		return;
	switch (event) {
	case POWER_OFF:
		log_info("guest switched itself off");
		end(m, STATUS_POWER_OFF, cause);
		break;
	case POWER_EXIT: end(m, status, cause); break;
	case POWER_RESET:
		if (m->config.on_reset == ON_RESET_EXIT)
			end(m, STATUS_RESET, cause);
		else
			reset(m, cause);
		break;
	case POWER_PANIC:
		log_info("guest panicked");
		figures_event(&m->figures, "panic", NULL);
		qmp_event_action(&m->qmp, "GUEST_PANICKED", "poweroff");
		end(m, status, cause);
		break;
	case POWER_CRASH_LOADED: break; /* no request */
	}
}

/* The automatic */

static int set_keep(struct machine *m, uint64_t bytes)
{
	uint64_t ram = m->config.memory;

	int r = virtio_balloon_set_target(&m->balloon, bytes < ram ? ram - bytes : 0);
	if (r >= 0)
		figures_event(&m->figures, "balloon-target",
			      json_pack("{s:I}", "bytes",
					(json_int_t)(bytes < ram ? ram - bytes : 0)));
	if (r >= 0)
		log_info("balloon: the guest is asked to keep %" PRIu64 " of %" PRIu64 " MiB",
			 (bytes < ram ? bytes : ram) >> 20, ram >> 20);
	return r;
}

/* What guest and host say just now. Statistics that were asked for come until the next time. */
static void look_around(struct machine *m, struct auto_balloon_view *view)
{
	const time_t fresh = 3 * AUTO_BALLOON_SECONDS;
	struct virtio_balloon_stats stats;
	struct virtio_balloon_state state;
	struct host_memory host;

	virtio_balloon_get_state(&m->balloon, &state);
	virtio_balloon_get_stats(&m->balloon, &stats);
	host_memory_look(&m->host_memory, &host);
	*view = (struct auto_balloon_view){
		.keep = m->config.memory - state.target,
		.has = m->config.memory - state.actual,
		.has_stats = now_seconds() - stats.arrived <= fresh &&
			     stats.values[STAT_AVAILABLE] != VIRTIO_BALLOON_NO_STAT,
		.available = stats.values[STAT_AVAILABLE],
		.host_pressure = host.pressure,
		.host_total = host.total,
		.host_available = host.available,
	};
}

static void auto_timer_ready(struct event_source *source, uint32_t events)
{
	struct machine *m = container_of(source, struct machine, auto_timer);
	struct auto_balloon_view view;

	(void)events;
	(void)eventfd_take(source->fd); /* the same eight bytes */
	if (!m->auto_balloon.config.on)
		return;
	look_around(m, &view);
	uint64_t keep = auto_balloon_decide(&m->auto_balloon, &view);
	if (keep != view.keep) {
		log_info("balloon: auto: %s", auto_balloon_reason_name(m->auto_balloon.reason));
		(void)set_keep(m, keep); /* min is the least that may be asked for */
	}
	/* Whoever cannot answer is not asked twice, and looked at without. */
	if (virtio_balloon_request_stats(&m->balloon) < 0)
		return;
}

/* The policy */

static void tell_policy(enum reclaim_policy policy)
{
	log_info("balloon: the policy with a device assigned is %s",
		 reclaim_policy_name(policy));
}

/* One step; others have the event loop before the next. */
static int go_on_inhibiting(struct machine *m)
{
	pthread_mutex_lock(&m->pci.lock);
	int r = vfio_inhibit(&m->vfio, INHIBIT_STEP);
	pthread_mutex_unlock(&m->pci.lock);
	if (r > 0)
		eventfd_signal(m->inhibiting.fd);
	else if (r == 0)
		tell_policy(RECLAIM_INHIBIT);
	return r < 0 ? r : 0;
}

static void inhibiting_ready(struct event_source *source, uint32_t events)
{
	struct machine *m = container_of(source, struct machine, inhibiting);

	(void)events;
	(void)eventfd_take(source->fd);
	/* Another policy may have been asked for meanwhile. */
	if (!m->vfio.inhibiting)
		return;
	int r = go_on_inhibiting(m);
	if (r < 0)
		(void)log_err(r, "balloon: make present what the host had: the policy with a "
				 "device assigned stays coordinated");
}

/* Wiring, in the order of machine_init(). */

/*
 * Without a balloon nothing is ever let go of: RAM is mapped as a whole. With one there must be
 * entries for it, with a few left for BARs; what the IOMMU really has is looked at later.
 */
static uint64_t choose_granule(const struct machine_config *config)
{
	uint64_t smallest = config->backing == RAM_HUGETLB ? 2ull << 20 : GUEST_PAGE_SIZE;
	uint64_t entries = vfio_entry_limit();
	uint64_t granule = config->granule;

	if (!config->has_balloon)
		return 0;
	if (granule > MACHINE_GRANULE_AUTO)
		return granule;
	granule = granule == MACHINE_GRANULE_AUTO ? smallest : MACHINE_GRANULE;
	/* Two more: low RAM and high RAM may each end in a smaller one. */
	while (config->memory / granule + 2 + VFIO_SPARE_ENTRIES > entries &&
	       granule < 1ull << 30)
		granule *= 2;
	return granule;
}

static int init_simple_things(struct machine *m, const struct machine_config *config)
{
	*m = (struct machine){
		.config = *config,
		.kvm_fd = -1,
		.vm_fd = -1,
		.loop.epoll_fd = -1,
		.signals = { .fd = -1, .ready = signal_ready },
		.timer = { .fd = -1, .ready = timer_ready },
		.wake = { .fd = -1, .ready = wake_ready },
		.host_memory = { .meminfo = -1, .statm = -1, .pressure = -1 },
		.auto_timer = { .fd = -1, .ready = auto_timer_ready },
		.reset_done = { .fd = -1, .ready = reset_done_ready },
		.inhibiting = { .fd = -1, .ready = inhibiting_ready },
		.initialised = true,
	};
	const struct vfio_dma_config dma = {
		.coordinate = config->has_balloon && config->policy == RECLAIM_COORDINATED,
		.map_late = config->balloon_keep,
	};

	/* A reader of console or events who goes away is no reason to die, nor a limit on files. */
	(void)signal(SIGPIPE, SIG_IGN);
	(void)signal(SIGXFSZ, SIG_IGN);
	pthread_mutex_init(&m->lock, NULL);
	vcpu_gate_init(&m->gate);
	memory_map_init(&m->map);
	io_bus_init(&m->pio);
	io_bus_init(&m->mmio);
	vfio_init(&m->vfio, &m->map, &m->reclaim, &m->wires.wires, &dma);
	/* The first to listen: it hears of RAM before anybody can pin it, and after all have let go. */
	return reclaim_init(&m->reclaim, &m->map,
			    config->unsafe ? RECLAIM_UNSAFE : RECLAIM_INHIBIT,
			    choose_granule(config));
}

static int init_events(struct machine *m)
{
	int r = event_loop_init(&m->loop);
	if (r < 0)
		return r;
	r = event_source_open(&m->wake, &m->loop);
	if (r >= 0)
		r = event_source_open(&m->reset_done, &m->loop);
	return r < 0 ? log_err(r, "event loop") : 0;
}

/*
 * Until here, while pages are pinned for as long as that takes, a signal ends the program as it
 * always does, and the kernel cleans up. From here on there is a guest to be asked, and a
 * console to be put back. Blocked before there are threads, so that none of ours gets one.
 */
static int catch_signals(struct machine *m)
{
	sigset_t handled;

	sigemptyset(&handled);
	sigaddset(&handled, SIGTERM);
	sigaddset(&handled, SIGINT);
	sigaddset(&handled, SIGHUP);
	sigaddset(&handled, SIGUSR1);
	sigaddset(&handled, SIGWINCH);
	(void)pthread_sigmask(SIG_BLOCK, &handled, NULL);
	m->signals.fd = signalfd(-1, &handled, SFD_CLOEXEC | SFD_NONBLOCK);
	if (m->signals.fd < 0)
		return log_err(-errno, "signalfd");
	int r = event_loop_add(&m->loop, &m->signals, EPOLLIN);
	return r < 0 ? log_err(r, "event loop") : 0;
}

static int start_timer(struct machine *m)
{
	if (m->config.timeout == 0)
		return 0;
	int r = event_timer_open(&m->timer, &m->loop, m->config.timeout * EVENT_SECOND, 0);
	return r < 0 ? log_err(r, "--timeout timer") : 0;
}

static int open_kvm(struct machine *m)
{
	int r = kvm_open(&m->kvm_fd);

	if (r == -EACCES)
		return log_err(r, "/dev/kvm (join the group that owns it: sudo usermod -aG kvm "
				  "$USER, then log in again)");
	if (r == -ENOENT || r == -ENXIO || r == -ENODEV)
		return log_err(
			r, "/dev/kvm (load kvm_intel or kvm_amd, switch virtualisation on "
			   "in the firmware, or in the hypervisor this machine runs under)");
	if (r == -EPROTO)
		return log_refuse(
			r, "/dev/kvm is not KVM, or not version 12 of it; is another file "
			   "in its place?");
	return r < 0 ? log_err(r, "/dev/kvm") : 0;
}

const char *machine_missing_in_kvm(int vm_fd)
{
	static const struct {
		unsigned int capability;
		const char *name;
	} needed[] = {
		{ KVM_CAP_IRQCHIP, "KVM_CAP_IRQCHIP" },
		{ KVM_CAP_IRQ_ROUTING, "KVM_CAP_IRQ_ROUTING" },
		{ KVM_CAP_IRQFD, "KVM_CAP_IRQFD" },
		{ KVM_CAP_IRQFD_RESAMPLE, "KVM_CAP_IRQFD_RESAMPLE" },
		{ KVM_CAP_IMMEDIATE_EXIT, "KVM_CAP_IMMEDIATE_EXIT" },
	};

	for (unsigned int i = 0; i < nitems(needed); i++) {
		if (!kvm_check(vm_fd, needed[i].capability))
			return needed[i].name;
	}
	return NULL;
}

static int create_vm(struct machine *m)
{
	int r = kvm_create_vm(m->kvm_fd, &m->vm_fd);
	if (r < 0)
		return log_err(r, "kvm: creating a VM");
	const char *missing = machine_missing_in_kvm(m->vm_fd);
	if (missing)
		return log_err(-EOPNOTSUPP, "kvm: %s is missing: boot a newer kernel", missing);
	r = kvm_set_identity_map(m->vm_fd, LAYOUT_IDENTITY_MAP_BASE);
	if (r >= 0)
		r = kvm_set_tss(m->vm_fd, LAYOUT_TSS_BASE);
	if (r >= 0)
		r = kvm_create_irqchip(m->vm_fd);
	if (r < 0)
		return log_err(r, "kvm: setting up the VM");
	m->ioapic = calloc(1, sizeof(*m->ioapic));
	if (!m->ioapic)
		return log_err(-ENOMEM, "kvm: ioapic state");
	m->ioapic->chip_id = KVM_IRQCHIP_IOAPIC;
	r = kvm_get_irqchip(m->vm_fd, m->ioapic);
	if (r < 0)
		return log_err(r, "kvm: ioapic state");
	if (!kvm_check(m->vm_fd, KVM_CAP_SYNC_MMU))
		inhibitor_raise(&m->reclaim, &m->mmu_inhibitor, "kvm without synchronous mmu");
	return kvm_wires_init(&m->wires, m->vm_fd);
}

unsigned int machine_address_bits(const struct kvm_cpuid2 *cpuid)
{
	unsigned int bits = cpuid_address_bits(cpuid);

	return bits < MAX_ADDRESS_BITS ? bits : MAX_ADDRESS_BITS;
}

/* An errno that says that the user is to blame. */
static bool is_the_users(int r)
{
	return r == -EINVAL || r == -ENODEV || r == -E2BIG;
}

/* Such a one from where nobody asked the user. */
static int not_the_users(int r)
{
	return is_the_users(r) ? -EIO : r;
}

/* Zeroing memory keeps a processor busy; all of a large host's would be in each other's way. */
static unsigned int nr_populators(void)
{
	long nr = sysconf(_SC_NPROCESSORS_ONLN);

	return nr < 1 ? 1 : nr > RAM_MAX_POPULATORS ? RAM_MAX_POPULATORS : (unsigned int)nr;
}

static int add_ram(struct machine *m)
{
	static const char *const hints[] = {
		[RAM_ANONYMOUS] = "",
		[RAM_MEMFD] = "",
		[RAM_HUGETLB] =
			(" (hugetlb: a multiple of 2M, please, and as many pages free in "
			 "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages)"),
	};

	unsigned int bits = machine_address_bits(m->cpuid);
	int r = layout_init(&m->layout, m->config.memory, bits);
	if (r < 0)
		return log_refuse(
			r, "--memory %" PRIu64 "M: more than half of a %u-bit address space",
			m->config.memory >> 20, bits);
	r = ram_init(&m->ram, m->config.memory, m->config.backing);
	if (r < 0)
		return log_err(r, "--memory %" PRIu64 "M%s", m->config.memory >> 20,
			       hints[m->config.backing]);
	m->ram.nr_populators = nr_populators();
	m->low = (struct memory_region){
		.size = m->layout.low_size,
		.host = m->ram.host,
		.ram = &m->ram,
		.name = "low ram",
	};
	m->high = (struct memory_region){
		.gpa = LAYOUT_HIGH_BASE,
		.size = m->layout.high_size,
		.host = (char *)m->ram.host + m->layout.low_size,
		.ram = &m->ram,
		.name = "high ram",
	};
	r = memory_map_add(&m->map, &m->low);
	if (r >= 0 && m->layout.high_size)
		r = memory_map_add(&m->map, &m->high);
	return not_the_users(r);
}

static const struct pci_device_ops host_bridge_ops = { 0 };

static int add_platform(struct machine *m)
{
	const struct pci_windows windows = {
		.io = { LAYOUT_IO_BASE, LAYOUT_IO_SIZE },
		.mem32 = { LAYOUT_MEM32_BASE, LAYOUT_MEM32_SIZE },
		.mem64 = { m->layout.mem64_base, m->layout.mem64_size },
	};
	const struct power_handler handler = { .requested = power_requested, .opaque = m };
	const struct hotplug_handler hotplug = { .ejected = attach_ejected, .opaque = m };
	const struct port_backend backend =
		figures_listen(&m->figures, console_backend(&m->serial_console));

	int r = pci_bus_init(&m->pci, &m->pio, &m->mmio, &windows, LAYOUT_ECAM_BASE);
	if (r >= 0) {
		pci_device_init(&m->host_bridge, &host_bridge_ops, "host bridge",
				HOST_BRIDGE_VENDOR, HOST_BRIDGE_DEVICE, HOST_BRIDGE_CLASS);
		r = pci_bus_add(&m->pci, &m->host_bridge, PCI_DEVFN(0, 0));
	}
	if (r >= 0)
		r = rtc_init(&m->rtc, &m->pio);
	if (r >= 0)
		r = power_init(&m->power, &m->pio, &m->wires.wires, LAYOUT_POWER_PORT,
			       LAYOUT_POWER_GSI, LAYOUT_PANIC_PORT,
			       m->config.exit_port ? LAYOUT_EXIT_PORT : 0, &handler);
	if (r >= 0)
		r = hotplug_init(&m->hotplug, &m->pio, &m->power, LAYOUT_HOTPLUG_PORT,
				 &hotplug);
	if (r >= 0)
		r = serial_init(&m->serial, &m->pio, &m->wires.wires, LAYOUT_SERIAL_PORT,
				LAYOUT_SERIAL_GSI, &backend);
	return r < 0 ? log_err(r, "platform devices") : 0;
}

/* What the first device will pin at once, beyond what is there: hugetlb's pages are, all of them. */
static uint64_t to_be_pinned(const struct machine_config *config, uint64_t resident)
{
	bool late = config->has_balloon && config->policy == RECLAIM_COORDINATED;
	uint64_t bytes = late && config->balloon_keep ? config->balloon_keep : config->memory;
	bool pins = false;

	for (unsigned int i = 0; i < config->nr_devices; i++)
		pins = pins || config->devices[i].balloon != VFIO_BALLOON_ALLOWED;
	if (!pins || config->backing == RAM_HUGETLB)
		return 0;
	return bytes > resident ? bytes - resident : 0;
}

/* The kernel would not refuse it, but kill us, or another, half-way. */
static int check_host_memory(const struct machine *m)
{
	struct host_memory host;

	host_memory_look(&m->host_memory, &host);
	uint64_t needed = to_be_pinned(&m->config, host.resident);
	if (needed <= host.spare)
		return 0;
	return log_err(-ENOMEM,
		       "--device: %" PRIu64 " MiB more have to be pinned for it, and %s has "
		       "%" PRIu64 " MiB to spare: give the guest less (--memory), or end "
		       "something else",
		       needed >> 20, host.owner, host.spare >> 20);
}

/* The 64-bit window lies where every IOMMU can reach it, so that devices can reach each other. */
static int attach_devices(struct machine *m)
{
	int r = check_host_memory(m);

	for (unsigned int i = 0; i < m->config.nr_devices && r >= 0; i++) {
		const struct attach_request request = {
			.host = m->config.devices[i].name,
			.balloon = m->config.devices[i].balloon,
			.on_error = m->config.devices[i].on_error,
		};
		r = attach_at_start(m, &request);
	}
	if (r < 0)
		return r;
	unsigned int bits = machine_address_bits(m->cpuid);
	if (bits > vfio_address_bits(&m->vfio))
		bits = vfio_address_bits(&m->vfio);
	r = layout_init(&m->layout, m->config.memory, bits);
	if (r < 0)
		return log_refuse(r,
				  "--memory %" PRIu64 "M: more than half of the IOMMU's %u-bit "
				  "address space; give the guest less",
				  m->config.memory >> 20, bits);
	m->pci.windows.mem64 =
		(struct pci_window){ m->layout.mem64_base, m->layout.mem64_size };
	return 0;
}

/* Puts a virtio device on the bus. */
static int add_virtio(struct machine *m, struct virtio *virtio, uint32_t class_code)
{
	if (m->nr_virtios == MACHINE_MAX_VIRTIO)
		return -ENOSPC;
	virtio->reset_fd = m->reset_done.fd;
	int r = virtio_pci_init(&m->virtios[m->nr_virtios], virtio, &m->pci, &m->wires.wires,
				class_code);
	if (r >= 0)
		m->nr_virtios++;
	return r;
}

static int add_balloon(struct machine *m)
{
	const uint64_t often = AUTO_BALLOON_SECONDS * EVENT_SECOND;
	const struct machine_config *config = &m->config;
	struct virtio_balloon_config balloon = config->balloon;

	if (config->unsafe)
		log_warn("--experiment unsafe-reclaim: what an assigned device has pinned is "
			 "discarded all the same; expect corrupted memory");
	if (!config->has_balloon)
		return 0;
	balloon.event = balloon_event;
	balloon.changed = config->qmp ? balloon_changed : NULL;
	balloon.opaque = m;
	int r = virtio_balloon_init(&m->balloon, &m->map, &m->reclaim, &m->loop, &balloon);
	if (r >= 0)
		r = add_virtio(m, &m->balloon.virtio, UNCLASSIFIED);
	if (r >= 0 && config->balloon_keep)
		r = set_keep(m, config->balloon_keep);
	auto_balloon_init(&m->auto_balloon, &config->auto_balloon,
			  config->memory < VIRTIO_BALLOON_FLOOR ? config->memory
								: VIRTIO_BALLOON_FLOOR,
			  config->memory);
	if (r >= 0)
		r = event_timer_open(&m->auto_timer, &m->loop, often, often);
	if (r >= 0)
		r = event_source_open(&m->inhibiting, &m->loop);
	return r < 0 ? log_err(r, "balloon") : 0;
}

static int add_rng(struct machine *m)
{
	if (!m->config.has_rng)
		return 0;
	int r = virtio_rng_init(&m->rng, &m->map, &m->loop);
	if (r >= 0)
		r = add_virtio(m, &m->rng.virtio, UNCLASSIFIED);
	return r < 0 ? log_err(r, "rng") : 0;
}

static int add_console(struct machine *m)
{
	const struct port_backend backend =
		figures_listen(&m->figures, console_backend(&m->hvc_console));
	struct winsize window;

	if (!m->config.has_console)
		return 0;
	bool has_window = console_get_window(&m->config.console, &window);
	int r = virtio_console_init(&m->hvc, &m->map, &m->loop, &backend,
				    has_window ? &window : NULL);
	if (r >= 0)
		r = add_virtio(m, &m->hvc.virtio, COMMUNICATION);
	return r < 0 ? log_err(r, "virtio console") : 0;
}

/* A path that is no good is the user's affair: virtio_blk_init() errors stay what they are. */
static int add_disks(struct machine *m)
{
	int r = 0;

	for (unsigned int i = 0; i < m->config.nr_disks && r >= 0; i++) {
		struct virtio_blk *disk = &m->disks[m->nr_disks];
		r = virtio_blk_init(disk, &m->map, &m->loop, &m->config.disks[i],
				    m->config.nr_cpus);
		if (r < 0)
			return r;
		m->nr_disks++;
		r = not_the_users(add_virtio(m, &disk->virtio, MASS_STORAGE));
		if (r < 0)
			(void)log_err(r, "%s", disk->name);
	}
	return r;
}

static int add_nets(struct machine *m)
{
	int r = 0;

	for (unsigned int i = 0; i < m->config.nr_nets && r >= 0; i++) {
		struct net *net = &m->nets[i];
		/* What the user has named is the user's affair: errors stay what they are. */
		r = net_open(net, &m->map, &m->loop, i, &m->config.nets[i]);
		if (r < 0)
			break;
		m->nr_nets++;
		r = not_the_users(add_virtio(m, &net->card.virtio, ETHERNET));
		if (r < 0)
			(void)log_err(r, "%s", net->name);
	}
	return r;
}

/* After the assigned devices, so that these keep their places whatever else there is. */
static int add_virtio_devices(struct machine *m)
{
	int r = add_balloon(m);

	if (r >= 0)
		r = add_rng(m);
	if (r >= 0)
		r = add_console(m);
	return r;
}

static int add_vcpus(struct machine *m)
{
	bool tsc_deadline = kvm_check(m->kvm_fd, KVM_CAP_TSC_DEADLINE_TIMER) > 0;
	size_t size = sizeof(*m->cpuid) + CPUID_MAX_ENTRIES * sizeof(m->cpuid->entries[0]);
	autofree struct kvm_cpuid2 *adapted = malloc(size);

	if (!adapted)
		return log_err(-ENOMEM, "kvm: cpuid table");
	m->vcpu_host = (struct vcpu_host){
		.pio = &m->pio,
		.mmio = &m->mmio,
		.begin = vcpu_begin,
		.event = vcpu_event,
		.unreachable = vcpu_unreachable,
		.opaque = m,
	};
	for (unsigned int i = 0; i < m->config.nr_cpus; i++) {
		memcpy(adapted, m->cpuid, size);
		cpuid_adapt(adapted, i, m->config.nr_cpus, tsc_deadline);
		int r = vcpu_init(&m->vcpus[i], m->kvm_fd, m->vm_fd, i, adapted, &m->gate,
				  &m->vcpu_host);
		if (r < 0)
			return r;
		m->nr_vcpus++;
	}
	return 0;
}

/* All of it is open. */
static int init_sandbox(struct machine *m)
{
	const struct sandbox_config config = {
		.mode = m->config.sandbox,
		.user = m->config.user,
		/* Each may have a context, and another one may come. */
		.locks = (m->config.nr_devices + (m->config.qmp ? 1u : 0)) * m->config.memory,
		.metrics = m->figures.metrics_folder,
		.sockets = { m->config.qmp ? m->qmp.socket.folder : -1,
			     m->serial_console.socket.folder,
			     m->config.has_console ? m->hvc_console.socket.folder : -1 },
	};

	return sandbox_init(&m->sandbox, &config);
}

static int open_trace(const char *path)
{
	int r = path ? trace_open(path) : 0;

	if (r == -EEXIST)
		return log_refuse(-EINVAL, "--trace '%s': is there and no regular file", path);
	if (r == -EBUSY)
		return log_refuse(-EINVAL, "--trace '%s': another guest writes into it", path);
	return r < 0 ? log_err(r, "--trace '%s'", path) : 0;
}

int machine_init(struct machine *m, const struct machine_config *config)
{
	int r = not_the_users(init_simple_things(m, config));
	if (r < 0)
		goto fail;
	r = boot_open(&m->files, config->kernel, config->initrd, config->cmdline);
	if (r < 0)
		goto fail;
	r = open_trace(config->trace);
	if (r < 0)
		goto fail;
	r = not_the_users(init_events(m));
	if (r < 0)
		goto fail;
	r = figures_init(&m->figures, m);
	if (r < 0)
		goto fail;
	r = not_the_users(open_kvm(m));
	if (r < 0)
		goto fail;
	r = not_the_users(cpuid_supported(m->kvm_fd, &m->cpuid));
	if (r < 0)
		goto fail;
	r = not_the_users(create_vm(m));
	if (r < 0)
		goto fail;
	r = not_the_users(kvm_slots_init(&m->slots, &m->map, m->vm_fd));
	if (r < 0)
		goto fail;
	figures_mark(&m->figures, PHASE_KVM);
	r = add_ram(m);
	if (r < 0)
		goto fail;
	figures_mark(&m->figures, PHASE_RAM);
	/* Before anything is attached or opened: the kernel may turn out to be none. */
	r = boot_load(&m->files, &m->map, &m->layout, &m->entry);
	if (r < 0)
		goto fail;
	figures_mark(&m->figures, PHASE_KERNEL);
	r = not_the_users(add_platform(m));
	if (r < 0)
		goto fail;
	r = not_the_users(add_vcpus(m));
	if (r < 0)
		goto fail;
	figures_mark(&m->figures, PHASE_PROCESSORS);
	host_memory_open(&m->host_memory, "");
	r = not_the_users(attach_init(&m->attach, m));
	if (r < 0)
		goto fail;
	r = attach_devices(m);
	if (r < 0)
		goto fail;
	figures_mark(&m->figures, PHASE_PINNING);
	r = not_the_users(add_virtio_devices(m));
	if (r < 0)
		goto fail;
	r = add_disks(m);
	if (r < 0)
		goto fail;
	r = add_nets(m);
	if (r < 0)
		goto fail;
	/* A path that is no good is the user's affair: qmp_init() errors stay what they are. */
	if (config->qmp)
		r = qmp_init(&m->qmp, &m->loop, config->qmp, m);
	if (r < 0)
		goto fail;
	r = not_the_users(catch_signals(m));
	if (r < 0)
		goto fail;
	/* Both ports have their addresses already, and no vCPU has run to use them. */
	r = console_init(&m->serial_console, &m->loop, "--serial", &config->serial,
			 console_commanded, m);
	if (r >= 0 && config->has_console)
		r = console_init(&m->hvc_console, &m->loop, "--console", &config->console,
				 console_commanded, m);
	if (r < 0)
		goto fail;
	r = not_the_users(init_sandbox(m));
	if (r < 0)
		goto fail;
	figures_mark(&m->figures, PHASE_DEVICES);
	return 0;
fail:
	m->status = is_the_users(r) ? STATUS_USAGE : STATUS_FAILED;
	machine_finish(m);
	return r;
}

static bool cpu_has_virtualisation(void)
{
	struct host_cpu cpu;

	host_get_cpu("", &cpu);
	return cpu.has_virtualisation;
}

/* A handler only so that system calls are interrupted; the work is done where they return. */
static void kicked(int signal)
{
	(void)signal;
}

/* Before there are threads, which have the privileges of who started them. */
static int open_rest(struct machine *m)
{
	int r = start_timer(m);

	if (r >= 0)
		r = console_connect(&m->serial_console, &m->serial.port);
	if (r >= 0 && m->config.has_console)
		r = console_connect(&m->hvc_console, &m->hvc.port);
	look_at_window(m); /* before now its changes were not told */
	return r;
}

/* They are there already: who we are to be shall connect to them, and remove them at the end. */
static int give_sockets(struct machine *m)
{
	const struct {
		const struct local_socket *socket;
		const char *path;
	} sockets[SANDBOX_NR_SOCKETS] = {
		{ &m->qmp.socket, m->config.qmp },
		{ &m->serial_console.socket, m->config.serial.path },
		{ &m->hvc_console.socket, m->config.console.path },
	};
	const struct sandbox_user *user = &m->config.user;

	for (unsigned int i = 0; user->name && i < SANDBOX_NR_SOCKETS; i++) {
		if (!sockets[i].socket->name)
			continue;
		int r = local_socket_give(sockets[i].socket, user->uid, user->gid);
		if (r < 0)
			return log_err(r, "--user '%s': giving it the socket '%s'", user->name,
				       sockets[i].path);
	}
	return 0;
}

static int start(struct machine *m)
{
	const struct sigaction kick = { .sa_handler = kicked };
	sigset_t kicks;

	if (sigaction(VCPU_KICK_SIGNAL, &kick, NULL) < 0)
		return log_err(-errno, "signal handler");
	/* Whoever started us may have had it blocked. */
	sigemptyset(&kicks);
	sigaddset(&kicks, VCPU_KICK_SIGNAL);
	(void)pthread_sigmask(SIG_UNBLOCK, &kicks, NULL);
	pci_bus_reset(&m->pci);
	if (m->entry.linux_guest && !cpu_has_virtualisation())
		log_warn(
			"kvm: this host's KVM is software (its CPU has neither vmx nor svm) and "
			"does not carry Linux through its boot; trying all the same. "
			"guest-images/demo boots it in an emulated host");
	int r = prepare_boot(m);
	if (r >= 0)
		r = open_rest(m);
	if (r >= 0)
		r = give_sockets(m);
	m->ram.nr_populators = 1; /* the sandbox lets no thread begin */
	if (r >= 0)
		r = sandbox_drop(&m->sandbox);
	for (unsigned int i = 0; i < m->nr_vcpus && r >= 0; i++)
		r = vcpu_start(&m->vcpus[i]);
	if (r >= 0)
		r = sandbox_enter(&m->sandbox, SANDBOX_EVENT_LOOP, "event loop");
	/* Everybody has entered. The filters were large, and nothing as large is needed again. */
	sandbox_finish(&m->sandbox);
	(void)malloc_trim(0);
	return r;
}

/* "a, b and 3 more", or "nobody". */
static void name_owners(const struct reclaim_figures *f, char *text, size_t size)
{
	(void)snprintf(text, size, "%s", f->nr_owners > 0 ? "" : "nobody");
	for (unsigned int i = 0; i < f->nr_owners; i++)
		text_add(text, size, "%s%s", i == 0 ? "" : ", ", f->owners[i]);
	if (f->nr_inhibitors > f->nr_owners)
		text_add(text, size, " and %u more", f->nr_inhibitors - f->nr_owners);
}

/* What the balloon was good for. */
static void tell_balloon(struct machine *m)
{
	char owners[RECLAIM_MAX_OWNERS * (RECLAIM_OWNER_SIZE + 2) + 32];
	struct machine_memory memory;

	if (!m->config.has_balloon)
		return;
	machine_get_memory(m, &memory);
	const struct reclaim_figures *f = &memory.reclaim;
	name_owners(f, owners, sizeof(owners));
	log_info("balloon: target %" PRIu64 " MiB, held %" PRIu64 " MiB, reclaimed %" PRIu64
		 " MiB, held back %" PRIu64 " MiB (inhibited by %s), pinned %" PRIu64 " MiB",
		 memory.balloon.target >> 20, f->held >> 20, f->reclaimed >> 20,
		 f->held_back >> 20, owners, memory.pinned >> 20);
	for (unsigned int i = 0; i < RECLAIM_NR_POLICIES; i++) {
		const struct reclaim_counts *c = &f->policies[i];
		if (c->taken || c->calls)
			log_info("balloon: policy %s: took %" PRIu64 " MiB, discarded %" PRIu64
				 " MiB in %" PRIu64 " calls, %" PRIu64 " failed",
				 reclaim_policy_name(i), c->taken >> 20, c->bytes >> 20,
				 c->calls, c->failures);
	}
	if (f->nr_released || f->nr_not_released || f->nr_not_restored)
		log_info("balloon: granules of %" PRIu64 " KiB: %" PRIu64
			 " unmapped for devices (%" PRIu64 " failed), %" PRIu64
			 " mapped again (%" PRIu64 " failed)",
			 f->granule >> 10, f->nr_released, f->nr_not_released, f->nr_restored,
			 f->nr_not_restored);
	if (f->reports.taken)
		log_info("balloon: free pages reported: %" PRIu64 " MiB, discarded %" PRIu64
			 " MiB in %" PRIu64 " calls",
			 f->reports.taken >> 20, f->reports.bytes >> 20, f->reports.calls);
}

static void tell_disks(struct machine *m)
{
	for (unsigned int i = 0; i < m->nr_disks; i++) {
		struct virtio_blk_figures f;
		virtio_blk_get_figures(&m->disks[i], &f);
		log_debug("%s: %" PRIu64 " reads (%" PRIu64 " KiB), %" PRIu64
			  " writes (%" PRIu64 " KiB), %" PRIu64 " flushes, %" PRIu64
			  " discards, %" PRIu64 " write-zeroes, %" PRIu64 " errors",
			  m->disks[i].name, f.nr_reads, f.bytes_read >> 10, f.nr_writes,
			  f.bytes_written >> 10, f.nr_flushes, f.nr_discards, f.nr_zeroes,
			  f.nr_errors);
	}
}

int machine_run(struct machine *m)
{
	int r = start(m);

	m->status = STATUS_FAILED; /* unless it is said how it ends */
	if (r < 0)
		return m->status;
	figures_mark(&m->figures, PHASE_ENTRY);
	vcpus_resume(&m->gate);
	event_loop_run(&m->loop);
	vcpus_park(m->vcpus, m->nr_vcpus, &m->gate);
	figures_end(&m->figures);
	tell_balloon(m);
	tell_disks(m);
	if (log_enabled(LOG_DEBUG))
		print_state(m);
	return m->status;
}

void machine_finish(struct machine *m)
{
	if (!m->initialised)
		return;
	if (m->nr_vcpus > 0)
		vcpus_quit(m->vcpus, m->nr_vcpus, &m->gate);
	for (unsigned int i = m->nr_vcpus; i-- > 0;)
		vcpu_finish(&m->vcpus[i]);
	qmp_finish(&m->qmp);
	event_source_close(&m->auto_timer, &m->loop);
	host_memory_close(&m->host_memory);
	event_source_close(&m->inhibiting, &m->loop);
	/* Before the devices: what it holds need not be discarded when the last inhibitor goes. */
	for (unsigned int i = m->nr_virtios; i-- > 0;)
		virtio_pci_finish(&m->virtios[i]);
	virtio_console_finish(&m->hvc);
	for (unsigned int i = m->nr_disks; i-- > 0;)
		virtio_blk_finish(&m->disks[i]);
	for (unsigned int i = m->nr_nets; i-- > 0;)
		net_close(&m->nets[i]);
	virtio_rng_finish(&m->rng);
	virtio_balloon_finish(&m->balloon);
	attach_finish(&m->attach);
	serial_finish(&m->serial);
	hotplug_finish(&m->hotplug);
	power_finish(&m->power);
	rtc_finish(&m->rtc);
	pci_bus_remove(&m->host_bridge);
	pci_bus_finish(&m->pci);
	console_finish(&m->hvc_console);
	console_finish(&m->serial_console);
	memory_map_remove(&m->map, &m->high);
	memory_map_remove(&m->map, &m->low);
	ram_finish(&m->ram);
	kvm_slots_finish(&m->slots);
	inhibitor_lower(&m->reclaim, &m->mmu_inhibitor);
	kvm_wires_finish(&m->wires);
	free(m->ioapic);
	fd_close(&m->vm_fd);
	free(m->cpuid);
	fd_close(&m->kvm_fd);
	event_source_close(&m->timer, &m->loop);
	event_source_close(&m->reset_done, &m->loop);
	event_source_close(&m->wake, &m->loop);
	event_source_close(&m->signals, &m->loop);
	figures_finish(&m->figures, m->status);
	event_loop_finish(&m->loop);
	boot_close(&m->files);
	sandbox_finish(&m->sandbox);
	vfio_finish(&m->vfio);
	io_bus_finish(&m->mmio);
	io_bus_finish(&m->pio);
	reclaim_finish(&m->reclaim);
	memory_map_finish(&m->map);
	vcpu_gate_finish(&m->gate);
	pthread_mutex_destroy(&m->lock);
	trace_close();
	*m = (struct machine){ .kvm_fd = -1, .vm_fd = -1, .loop.epoll_fd = -1 };
}

int machine_set_memory(struct machine *m, uint64_t bytes)
{
	int r = set_keep(m, bytes);

	if (r >= 0 && m->auto_balloon.config.on) {
		log_info("balloon: auto is off from now on: a size was asked for");
		m->auto_balloon.config.on = false;
	}
	return r;
}

void machine_start_auto(struct machine *m)
{
	m->auto_balloon.config.on = true;
}

void machine_stop_auto(struct machine *m)
{
	m->auto_balloon.config.on = false;
}

int machine_set_policy(struct machine *m, enum reclaim_policy policy)
{
	if (m->config.unsafe)
		return -EPERM;
	if (policy == RECLAIM_INHIBIT)
		return go_on_inhibiting(m);
	pthread_mutex_lock(&m->pci.lock);
	int r = vfio_coordinate(&m->vfio);
	pthread_mutex_unlock(&m->pci.lock);
	if (r >= 0)
		tell_policy(policy);
	return r;
}

void machine_get_memory(struct machine *m, struct machine_memory *ret)
{
	*ret = (struct machine_memory){
		.ram = m->config.memory,
		.pinned = vfio_pinned(&m->vfio),
		.has_balloon = m->config.has_balloon,
		.auto_balloon = m->auto_balloon,
	};
	if (m->config.has_balloon)
		virtio_balloon_get_state(&m->balloon, &ret->balloon);
	reclaim_figures(&m->reclaim, &ret->reclaim);
}

int machine_set_link(struct machine *m, const char *name, bool up)
{
	for (unsigned int i = 0; i < m->nr_nets; i++) {
		if (strcmp(m->nets[i].name, name) == 0)
			return virtio_net_set_link(&m->nets[i].card, up);
	}
	return -ENODEV;
}

void machine_power_down(struct machine *m)
{
	figures_event(&m->figures, "powerdown", NULL);
	power_press_button(&m->power);
	qmp_event(&m->qmp, "POWERDOWN");
}

void machine_pause(struct machine *m)
{
	if (m->paused)
		return;
	m->paused = true;
	vcpus_park(m->vcpus, m->nr_vcpus, &m->gate);
	log_info("the guest is stopped");
	figures_event(&m->figures, "stop", NULL);
	qmp_event(&m->qmp, "STOP");
}

void machine_resume(struct machine *m)
{
	if (!m->paused)
		return;
	m->paused = false;
	vcpus_tell_pause(m->vcpus, m->nr_vcpus);
	log_info("the guest goes on");
	figures_event(&m->figures, "resume", NULL);
	qmp_event(&m->qmp, "RESUME");
	resume(m);
}

void machine_reset(struct machine *m)
{
	request(m, POWER_RESET, 0, "host-qmp-system-reset");
}

void machine_fail(struct machine *m)
{
	request(m, POWER_EXIT, STATUS_FAILED, "host-error");
}

void machine_quit(struct machine *m)
{
	request(m, POWER_EXIT, STATUS_FAILED, "host-qmp-quit");
}
