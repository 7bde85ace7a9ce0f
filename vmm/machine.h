/* SPDX-License-Identifier: MIT */
/*
 * machine.h - one guest: everything it is made of, wired by hand, in order.
 *
 * Lock order: pci_bus.lock > virtio.lock > msix.lock > vfio_irq.lock > memory_map.change_lock >
 * reclaim.gate > vfio_container.lock > memory_map.layout_lock > kvm_wires.lock > io_bus.lock;
 * serial.lock > console.lock; virtio.lock > console.lock. Alone, with none held: machine.lock, vcpu_gate.lock, rtc.lock,
 * hotplug.lock, vfio_bars.rom_lock. vfio.lock comes after all others.
 *
 * Threads: machine_init(), machine_run() and machine_finish() on one thread, which becomes the
 * event loop; one more a vCPU.
 */
#ifndef VMM_MACHINE_H
#define VMM_MACHINE_H

#include "base/event_loop.h"

#include "devices/hotplug.h"
#include "devices/io_bus.h"
#include "devices/pci.h"
#include "devices/power.h"
#include "devices/rtc.h"
#include "devices/serial.h"
#include "devices/virtio_balloon.h"
#include "devices/virtio_blk.h"
#include "devices/virtio_console.h"
#include "devices/virtio_pci.h"
#include "devices/virtio_rng.h"
#include "memory/map.h"
#include "memory/ram.h"
#include "memory/reclaim.h"
#include "vfio/vfio_pci.h"
#include "vmm/attach.h"
#include "vmm/auto_balloon.h"
#include "vmm/boot.h"
#include "vmm/console.h"
#include "vmm/figures.h"
#include "vmm/host_memory.h"
#include "vmm/kvm_slots.h"
#include "vmm/kvm_wires.h"
#include "vmm/layout.h"
#include "vmm/net.h"
#include "vmm/qmp.h"
#include "vmm/sandbox.h"
#include "vmm/vcpu.h"

#define MACHINE_MAX_CPUS 16u
#define MACHINE_MAX_DEVICES ATTACH_MAX_DEVICES
#define MACHINE_MAX_VIRTIO 31u
#define MACHINE_MAX_DISKS 16u
#define MACHINE_MAX_NETS 8u

/* How ballast ends; documented in --help. */
enum exit_status {
	STATUS_POWER_OFF = 0,
	STATUS_FAILED = 1,
	STATUS_USAGE = 2,
	STATUS_RESET = 32, /* the guest asked for a reset, and --on-reset exit */
	STATUS_CRASHED = 33,
	STATUS_PANICKED = 34,
	STATUS_TIMEOUT = 124,
};

#define MACHINE_GRANULE (2ull << 20)
#define MACHINE_GRANULE_AUTO 1ull /* as small as the IOMMU's entries allow */

enum on_reset { ON_RESET_RESET, ON_RESET_EXIT };

struct machine_device_config {
	const char *name;
	enum vfio_balloon balloon;
	enum device_error on_error;
};

/* Plain data, parsed once; every pointer is borrowed and outlives the machine. */
struct machine_config {
	const char *kernel;
	const char *initrd; /* NULL: none */
	const char *cmdline;
	unsigned int nr_cpus;
	uint64_t memory; /* bytes */
	enum ram_backing backing;
	struct machine_device_config devices[MACHINE_MAX_DEVICES];
	unsigned int nr_devices;
	bool has_balloon;
	struct virtio_balloon_config balloon;
	uint64_t balloon_keep; /* bytes of RAM the guest is to keep at first; 0: all */
	struct auto_balloon_config auto_balloon;
	enum reclaim_policy policy; /* with a device assigned: RECLAIM_INHIBIT, _COORDINATED */
	bool unsafe;                /* an experiment: RECLAIM_UNSAFE instead of _INHIBIT */
	/* In bytes, a power of two; 0: MACHINE_GRANULE, or more if the entries do not suffice. */
	uint64_t granule;
	bool has_rng;
	struct virtio_blk_options disks[MACHINE_MAX_DISKS];
	unsigned int nr_disks;
	struct net_config nets[MACHINE_MAX_NETS];
	unsigned int nr_nets;
	const char *qmp; /* path of the control socket; NULL: none */
	struct console_config serial;
	bool has_console; /* a virtio-console, with this behind it */
	struct console_config console;
	enum on_reset on_reset;
	unsigned int timeout; /* seconds; 0: none */
	bool exit_port;       /* 0xf4: a guest's own exit status */
	const char *metrics;  /* file for Prometheus; NULL: none */
	const char *events;   /* file for events; NULL: none */
	const char *trace;    /* file for trace_open(); NULL: none */
	enum sandbox_mode sandbox;
	struct sandbox_user user; /* who to be once everything is open */
};

/* What there is to tell about the guest's memory; all in bytes. */
struct machine_memory {
	uint64_t ram;
	uint64_t pinned; /* of RAM, for assigned devices */
	bool has_balloon;
	struct virtio_balloon_state balloon;
	struct reclaim_figures reclaim;
	struct auto_balloon auto_balloon;
};

struct machine {
	struct machine_config config;
	struct boot_files files;
	struct boot_entry entry;
	struct layout layout;
	struct event_loop loop;
	struct figures figures;
	struct sandbox sandbox;
	struct event_source signals; /* fd owned */
	struct event_source timer;   /* fd owned */
	struct event_source wake;    /* fd owned: a vCPU has a request */
	int kvm_fd;
	int vm_fd;
	struct kvm_cpuid2 *cpuid;   /* owned; what KVM supports */
	struct kvm_irqchip *ioapic; /* owned; at power-on */
	struct ram ram;
	struct memory_map map;
	struct memory_region low;
	struct memory_region high;
	struct reclaim reclaim;
	struct kvm_slots slots;
	struct kvm_wires wires;
	struct inhibitor mmu_inhibitor; /* raised if KVM has no KVM_CAP_SYNC_MMU */
	struct io_bus pio;
	struct io_bus mmio;
	struct pci_bus pci;
	struct pci_device host_bridge;
	struct console serial_console; /* what is behind the serial port */
	struct serial serial;
	struct rtc rtc;
	struct power power;
	struct hotplug hotplug;
	struct virtio_balloon balloon;
	struct auto_balloon auto_balloon;
	struct host_memory_files host_memory;
	struct event_source auto_timer; /* fd owned */
	/* fd owned; signalled while vfio_inhibit() has more to do. */
	struct event_source inhibiting;
	struct virtio_rng rng;
	struct virtio_blk disks[MACHINE_MAX_DISKS];
	unsigned int nr_disks;
	struct net nets[MACHINE_MAX_NETS];
	unsigned int nr_nets;
	struct console hvc_console; /* what is behind hvc */
	struct virtio_console hvc;
	/* Of the devices above, as they were added. */
	struct virtio_pci virtios[MACHINE_MAX_VIRTIO];
	unsigned int nr_virtios;
	/* fd owned: a virtio device is through with its reset. */
	struct event_source reset_done;
	bool restarts; /* the guest's reset waits for those of its virtio devices; event loop */
	struct qmp qmp;
	struct vfio vfio;
	struct attach attach;
	struct vcpu_gate gate;
	struct vcpu_host vcpu_host;
	struct vcpu vcpus[MACHINE_MAX_CPUS];
	unsigned int nr_vcpus;
	pthread_mutex_t lock;
	bool requested;           /* lock: a request waits for the event loop */
	enum power_event request; /* lock */
	int request_status;       /* lock: the exit status that goes with it */
	const char *cause;        /* lock: of the request, in QMP's words */
	bool button_pressed;      /* by a signal, so that the next one stops */
	bool paused;              /* by machine_pause(); event loop */
	bool balloon_changed;     /* atomic: a vCPU, or the event loop, tells the event loop */
	bool crash_loaded;        /* atomic: likewise, and once a boot */
	bool crash_told;          /* it has been; event loop */
	struct log_budget crash_budget;
	const char *reset_cause; /* of the last one; event loop */
	unsigned int nr_resets;
	int status;       /* what machine_run() returns */
	bool initialised; /* there is something for machine_finish() to undo */
};

/*
 * Builds the machine and attaches its devices; no vCPU runs yet.
 * -EINVAL, -ENODEV, -E2BIG: something the user gave is wrong. Others: something failed. One
 * line has said what. On failure nothing is left behind, and machine_finish() is harmless.
 */
must_check int machine_init(struct machine *machine, const struct machine_config *config);
/* Boots the guest and serves it until it ends. Returns an enum exit_status, or a guest's own. */
int machine_run(struct machine *machine);
/* Everything in reverse. Accepts a zeroed object. */
void machine_finish(struct machine *machine);

/*
 * For the user's side, on the event loop's thread. The first four are for a machine with a balloon.
 */

/*
 * Asks the guest to keep `bytes` of its RAM (more than it has: all) and to put the rest into
 * the balloon. Success says that it was asked, not that it complies, and not that the host
 * gains anything by it: machine_get_memory() tells who holds that back.
 * -ERANGE: less than VIRTIO_BALLOON_FLOOR. Not logged. Whoever asks takes over from the automatic.
 */
must_check int machine_set_memory(struct machine *machine, uint64_t bytes);
/* Whether the target follows guest and host. */
void machine_start_auto(struct machine *machine);
void machine_stop_auto(struct machine *machine);
/*
 * What becomes of the balloon's memory while devices are assigned: RECLAIM_INHIBIT or
 * RECLAIM_COORDINATED. With the former, what was reclaimed is made live bit by bit, which the
 * figures tell; if the host has no memory for the rest all is as before, and the log says so.
 * -EPERM: the machine runs the unsafe experiment. -ENOMEM: as vfio_coordinate() and
 * vfio_inhibit(). On failure all is as before.
 */
must_check int machine_set_policy(struct machine *machine, enum reclaim_policy policy);
void machine_get_memory(struct machine *machine, struct machine_memory *ret);
/* Whether the guest has changed its balloon since this was last asked. Event loop. */
bool machine_take_balloon_change(struct machine *machine);
/*
 * Plugs the cable of network card `name` ("net0") in, or pulls it. -ENODEV: there is no such card.
 * -EPIPE: nobody is at the other end any more.
 */
must_check int machine_set_link(struct machine *machine, const char *name, bool up);
/* Presses the power button. */
void machine_power_down(struct machine *machine);
/*
 * No vCPU runs any more when this returns, until machine_resume(). Devices go on: what the guest
 * has asked of them is done, and an assigned one is left alone. Both do nothing if it is so already.
 */
void machine_pause(struct machine *machine);
void machine_resume(struct machine *machine);
/* As if the guest had asked for it: with --on-reset exit it is the end. A paused one stays so. */
void machine_reset(struct machine *machine);
/* Something that the guest cannot do without has failed: it ends, as with machine_quit(). */
void machine_fail(struct machine *machine);
/* Ends the guest at once; machine_run() returns STATUS_FAILED. */
void machine_quit(struct machine *machine);

/*
 * What a machine asks of a host, for doctor: a capability that KVM lacks, or NULL; and how wide
 * the guest's physical addresses are.
 */
const char *machine_missing_in_kvm(int vm_fd);
unsigned int machine_address_bits(const struct kvm_cpuid2 *cpuid);

#endif /* VMM_MACHINE_H */
