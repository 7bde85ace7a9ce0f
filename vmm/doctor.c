/* SPDX-License-Identifier: MIT */
#include "vmm/doctor.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <sys/resource.h>

#include <linux/pci_regs.h>

#include "base/fd.h"
#include "base/log.h"

#include "devices/wires.h"
#include "vfio/container.h"
#include "vfio/device.h"
#include "vfio/group.h"
#include "vfio/vfio_pci.h"
#include "vmm/cpuid.h"
#include "vmm/host_memory.h"
#include "vmm/host_pci.h"
#include "vmm/kvm.h"
#include "vmm/layout.h"
#include "vmm/machine.h"
#include "vmm/options.h"

#define HOST "host"
#define FUNCTION_DIR "sys/bus/pci/devices/%s"
#define TYPE1 "sys/module/vfio_iommu_type1"
#define HUGE_PAGES "sys/kernel/mm/hugepages/hugepages-2048kB/"
#define HUGE_PAGE_SIZE (2ull << 20)
#define MAX_RESERVED 64u
#define NR_BARS 6u

/* Bits of a line of `resource`: include/linux/ioport.h. */
#define RESOURCE_IO 0x100u
#define RESOURCE_PREFETCH 0x2000u
#define RESOURCE_64 0x100000u

static const char help[] =
	"Usage: ballast doctor [--json] [--memory SIZE] [BDF...]\n"
	"Tells whether a guest with SIZE of memory (512M), and with these PCI devices,\n"
	"would start on this host; what is in the way, and the command that mends it.\n"
	"Devices that are bound to vfio-pci are opened, which resets them; nothing else\n"
	"is changed.\n"
	"\n"
	"  --json         one JSON document\n"
	"  --memory SIZE  as 4G\n"
	"  -h, --help     this text\n"
	"\n"
	"Exit status: 0 it would start; 1 it would not; 2 wrong usage.\n";

enum status { OK, WARNING, PROBLEM };

struct doctor {
	const struct doctor_config *config;
	json_t *checks; /* owned */
	unsigned int nr[PROBLEM + 1];
	bool out_of_memory;
	enum status for_devices; /* how bad it is when something for devices is missing */
	struct host_cpu cpu;
	unsigned int bits;    /* of the guest's physical addresses */
	unsigned int nr_bars; /* memory BARs of all devices */
	/* What devices are attached to: there is no memory, so nothing is mapped. */
	struct memory_map map;
	struct reclaim reclaim;
	struct wires wires;
	struct vfio vfio;
	struct vfio_device devices[MACHINE_MAX_DEVICES];
	unsigned int nr_devices;
};

static const char *const status_names[] = { "ok", "warning", "problem" };

/*
 * One check. Behind a newline the text has what to do. Takes `facts`, which may be NULL: what a
 * program does not have to read out of the text.
 */
static void printf_like(6, 7) report(struct doctor *d, const char *subject, const char *check,
				     enum status status, json_t *facts, const char *fmt, ...)
{
	char text[4096];
	va_list args;

	va_start(args, fmt);
	(void)vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	char *remedy = text;
	const char *found = strsep(&remedy, "\n");
	d->nr[status]++;
	if (d->config->output == DOCTOR_FOR_PEOPLE) {
		printf("%-8s %s %s: %s\n", status_names[status], subject, check, found);
		if (remedy)
			printf("         -> %s\n", remedy);
	}
	if (json_array_append_new(
		    d->checks, json_pack("{s:s, s:s, s:s, s:s, s:s*, s:o*}", "subject", subject,
					 "check", check, "status", status_names[status], "text",
					 found, "remedy", remedy, "facts", facts)) < 0)
		d->out_of_memory = true;
}

static int look_for_word(void *word, const char *line)
{
	return strstr(line, word) != NULL;
}

static bool has_word(const struct doctor *d, const char *file, char *word)
{
	return host_each_line(d->config->root, file, look_for_word, word) == 1;
}

/* A number in /sys, or `otherwise`. */
static uint64_t read_number(const struct doctor *d, const char *path, uint64_t otherwise)
{
	char text[64];

	if (host_read(d->config->root, text, sizeof(text), "%s", path) < 0)
		return otherwise;
	return strtoull(text, NULL, 0);
}

/* The host */

static void report_no_kvm(struct doctor *d, int r)
{
	const char *module = d->cpu.vendor == HOST_INTEL ? "kvm_intel" : "kvm_amd";

	if (r == -EACCES || r == -EPERM)
		report(d, HOST, "kvm", PROBLEM, NULL,
		       "no permission on /dev/kvm\nsudo usermod -aG kvm $USER, then log in again");
	else if (r == -EPROTO)
		report(d, HOST, "kvm", PROBLEM, NULL,
		       "/dev/kvm is not KVM, or not version 12 of it\nremove what is in its "
		       "place, and: modprobe %s",
		       module);
	else
		report(d, HOST, "kvm", PROBLEM, NULL,
		       "/dev/kvm: %s\nmodprobe %s; if that fails, switch virtualisation (VT-x, "
		       "SVM) on in the firmware, or in the hypervisor this machine runs under "
		       "(QEMU: -cpu host)",
		       strerror(-r), module);
}

static void check_vm(struct doctor *d, int kvm_fd)
{
	autoclose int vm_fd = -1;
	autofree struct kvm_cpuid2 *cpuid = NULL;
	char why[1024] = "";

	int r = kvm_create_vm(kvm_fd, &vm_fd);
	const char *missing = r < 0 ? strerror(-r) : machine_missing_in_kvm(vm_fd);
	log_capture(why, sizeof(why));
	if (!missing && cpuid_supported(kvm_fd, &cpuid) < 0)
		missing = why;
	log_capture(NULL, 0);
	if (cpuid)
		d->bits = machine_address_bits(cpuid);
	if (missing)
		report(d, HOST, "kvm", PROBLEM, NULL,
		       "it makes no VM that will do: %s\nend other hypervisors (VirtualBox, "
		       "VMware), or boot a newer kernel of the host; dmesg | grep -i kvm",
		       missing);
	else
		report(d, HOST, "kvm", OK, NULL, "/dev/kvm opens, and makes a VM");
}

static void check_kvm(struct doctor *d)
{
	autoclose int kvm_fd = -1;

	int r = kvm_open(&kvm_fd);
	if (r < 0) {
		report_no_kvm(d, r);
		return;
	}
	check_vm(d, kvm_fd);
	if (d->cpu.has_virtualisation)
		report(d, HOST, "hardware", OK, NULL, "the processor has vmx or svm");
	else
		report(d, HOST, "hardware", PROBLEM, NULL,
		       "this KVM is software (neither vmx nor svm), and does not carry Linux "
		       "through its boot\nuse a machine with hardware KVM, or guest-images/demo, "
		       "which boots it in an emulated host");
	if (d->cpu.is_virtual)
		report(d, HOST, "nested", WARNING, NULL,
		       "this host is itself a virtual machine: a guest's exits cost many times "
		       "as much\nnothing to be done here; run it on the machine below");
	else
		report(d, HOST, "nested", OK, NULL, "this host is no virtual machine");
}

/* By the boot loader, as far as it is known. `edit`: a script of sed's for GRUB's file. */
static void report_command_line(struct doctor *d, const char *what, const char *edit,
				const char *otherwise)
{
	const char *root = d->config->root;

	if (host_has(root, "etc/default/grub"))
		report(d, HOST, "iommu", d->for_devices, NULL,
		       "%s\nsed -i '%s' /etc/default/grub && %s && reboot", what, edit,
		       host_has(root, "usr/sbin/update-grub")
			       ? "update-grub"
			       : "grub2-mkconfig -o /boot/grub2/grub.cfg");
	else
		report(d, HOST, "iommu", d->for_devices, NULL,
		       "%s\n%s in the kernel command line of your boot loader, then reboot",
		       what, otherwise);
}

/* It is off by the command line, or by its default, by the firmware, or by the hypervisor. */
static void report_iommu_off(struct doctor *d)
{
	char off[] = "iommu=off"; /* also with intel_ or amd_ before it */
	char on[] = "intel_iommu=on";
	const char *where = d->cpu.vendor == HOST_AMD ? "AMD-Vi (IOMMU, with SVM)" : "VT-d";

	if (has_word(d, "proc/cmdline", off))
		report_command_line(d, "switched off on the kernel's command line",
				    "s/[a-z_]*iommu=off//", "remove iommu=off");
	else if (has_word(d, "proc/cmdline", on))
		report(d, HOST, "iommu", d->for_devices, NULL,
		       "off, although the command line has intel_iommu=on\nswitch VT-d on in the "
		       "firmware; dmesg | grep -i dmar");
	else if (host_has(d->config->root, "sys/firmware/acpi/tables/DMAR"))
		report_command_line(d, "off: Linux waits to be told to use Intel's VT-d",
				    "s/^GRUB_CMDLINE_LINUX=\"/&intel_iommu=on /",
				    "have intel_iommu=on");
	else if (d->cpu.is_virtual)
		report(d, HOST, "iommu", d->for_devices, NULL,
		       "off: the hypervisor gives this machine none\nhave it add one (QEMU: -device "
		       "intel-iommu,intremap=on), and boot with intel_iommu=on");
	else
		report(d, HOST, "iommu", d->for_devices, NULL,
		       "off: the firmware does not show it\nswitch %s on in the firmware%s",
		       where,
		       d->cpu.vendor == HOST_INTEL ? ", and boot with intel_iommu=on"
						   : "; Linux uses it by itself");
}

static void check_iommu(struct doctor *d)
{
	autofree struct host_names *units = calloc(1, sizeof(*units));

	if (units && host_list(d->config->root, units, "sys/class/iommu") >= 0 && units->nr > 0)
		report(d, HOST, "iommu", OK, NULL, "on: %u unit%s, %s first", units->nr,
		       units->nr == 1 ? "" : "s", units->names[0]);
	else
		report_iommu_off(d);
}

static void check_vfio(struct doctor *d)
{
	if (!host_has(d->config->root, "sys/bus/pci/drivers/vfio-pci"))
		report(d, HOST, "vfio", d->for_devices, NULL,
		       "vfio-pci is not loaded\nmodprobe vfio-pci; at each boot: echo vfio-pci > "
		       "/etc/modules-load.d/vfio-pci.conf");
	else if (!host_has(d->config->root, TYPE1))
		report(d, HOST, "vfio", d->for_devices, NULL,
		       "vfio_iommu_type1 is not loaded\nmodprobe vfio_iommu_type1");
	else if (!host_has(d->config->root, "dev/vfio/vfio"))
		report(d, HOST, "vfio", d->for_devices, NULL,
		       "there is no /dev/vfio/vfio\nmodprobe vfio; in a container: give it "
		       "/dev/vfio");
	else
		report(d, HOST, "vfio", OK, NULL, "vfio-pci and vfio_iommu_type1 are loaded");
}

static void check_memory(struct doctor *d)
{
	uint64_t mib = d->config->memory >> 20;
	struct host_memory_files files;
	struct host_memory host;
	struct layout layout;

	if (layout_init(&layout, d->config->memory, d->bits) < 0) {
		report(d, HOST, "memory", PROBLEM, NULL,
		       "%" PRIu64 " MiB are more than half of a %u-bit address space\ngive the "
		       "guest less: --memory",
		       mib, d->bits);
		return;
	}
	host_memory_open(&files, d->config->root);
	host_memory_look(&files, &host);
	host_memory_close(&files);
	if (host.spare == UINT64_MAX || !host.total)
		report(d, HOST, "memory", WARNING, NULL,
		       "how much the host has is not known\nmount -t proc proc /proc");
	else if (mib <= host.spare >> 20)
		report(d, HOST, "memory", OK, NULL,
		       "a guest of %" PRIu64 " MiB, and %s has %" PRIu64 " MiB to spare", mib,
		       host.owner, host.spare >> 20);
	else
		report(d, HOST, "memory", d->for_devices, NULL,
		       "a guest of %" PRIu64 " MiB, and %s has %" PRIu64
		       " MiB to spare, the host %" PRIu64
		       " in all\ngive the guest less (--memory), or end something else",
		       mib, host.owner, host.spare >> 20, host.total >> 20);
}

/* They are asked for by an option: that there are none is no fault. */
static void check_hugepages(struct doctor *d)
{
	uint64_t needed = d->config->memory / HUGE_PAGE_SIZE;
	uint64_t free_pages = read_number(d, HUGE_PAGES "free_hugepages", 0);

	json_t *facts = json_pack("{s:I, s:I}", "needed", (json_int_t)needed, "free",
				  (json_int_t)free_pages);
	if (free_pages >= needed)
		report(d, HOST, "hugepages", OK, facts,
		       "%" PRIu64 " of 2 MiB are free: backing=hugetlb can have the %" PRIu64
		       " it needs",
		       free_pages, needed);
	else
		report(d, HOST, "hugepages", OK, facts,
		       "%" PRIu64
		       " of 2 MiB are free, which matters to backing=hugetlb only\nif "
		       "you want that: echo %" PRIu64 " > /" HUGE_PAGES "nr_hugepages",
		       free_pages,
		       read_number(d, HUGE_PAGES "nr_hugepages", 0) + needed - free_pages);
}

/* Devices are attached as for a guest. */

static int trial_group_add(struct wires *wires, int group_fd)
{
	(void)wires;
	(void)group_fd; /* there is no VM to show it to */
	return 0;
}

static void trial_group_remove(struct wires *wires, int group_fd)
{
	(void)wires;
	(void)group_fd;
}

static const struct wires_ops trial_wires_ops = {
	.group_add = trial_group_add,
	.group_remove = trial_group_remove,
};

static int init_trial(struct doctor *d)
{
	const struct vfio_dma_config dma = { 0 };

	d->wires.ops = &trial_wires_ops;
	memory_map_init(&d->map);
	vfio_init(&d->vfio, &d->map, &d->reclaim, &d->wires, &dma);
	return reclaim_init(&d->reclaim, &d->map, RECLAIM_INHIBIT, 0);
}

static void finish_trial(struct doctor *d)
{
	while (d->nr_devices > 0) {
		struct vfio_device *device = &d->devices[--d->nr_devices];
		struct vfio_group *group = device->group;
		vfio_device_detach(device);
		vfio_group_detach(group);
	}
	vfio_finish(&d->vfio);
	reclaim_finish(&d->reclaim);
	memory_map_finish(&d->map);
}

/* NULL: it cannot be, for the reason that ballast run would give, which is reported. */
static const struct vfio_device *attach(struct doctor *d, const struct host_function *function)
{
	struct vfio_device *device = &d->devices[d->nr_devices];
	struct vfio_group *group = NULL;
	char why[1024];

	log_capture(why, sizeof(why));
	int r = vfio_group_attach(&d->vfio, function->group, VFIO_BALLOON_INHIBITS, &group);
	if (r >= 0)
		r = vfio_device_attach(device, group, function->name);
	if (r < 0 && group)
		vfio_group_detach(group);
	log_capture(NULL, 0);
	if (r >= 0) {
		d->nr_devices++;
		report(d, function->name, "open", OK, NULL, "opens, in group %u",
		       function->group);
		return device;
	}
	if (r == -EBUSY)
		report(d, function->name, "open", PROBLEM, NULL, "%s\nfuser -v /dev/vfio/%u",
		       why, function->group);
	else if (r == -EPERM)
		report(d, function->name, "open", PROBLEM, NULL,
		       "%s\nsudo chown $USER /dev/vfio/%u; for interrupts: echo 1 > /" TYPE1
		       "/parameters/allow_unsafe_interrupts",
		       why, function->group);
	else
		report(d, function->name, "open", PROBLEM, NULL,
		       "%s\nmodprobe -a vfio-pci vfio_iommu_type1; dmesg | grep -i -e vfio -e iommu",
		       why);
	return NULL;
}

/* One device */

static bool check_driver(struct doctor *d, const struct host_function *function)
{
	bool ours = vfio_pci_is_driver(function->driver);

	if (ours)
		report(d, function->name, "driver", OK, NULL, "bound to %s", function->driver);
	else
		report(d, function->name, "driver", PROBLEM, NULL,
		       "bound to %s, not to vfio-pci\nballast bind %s",
		       function->driver[0] ? function->driver : "no driver", function->name);
	return ours;
}

static bool check_group(struct doctor *d, const struct host_function *function)
{
	struct host_function member;
	char text[2048] = "";
	bool viable = true;

	autofree struct host_names *names = calloc(1, sizeof(*names));
	json_t *members = json_array();
	int r = names ? host_get_group(d->config->root, function->group, names) : -ENOMEM;
	for (unsigned int i = 0; r >= 0 && i < names->nr; i++) {
		if (host_get_function(d->config->root, names->names[i], &member) < 0)
			continue; /* it is just going */
		viable &= host_is_viable(&member);
		const char *driver = member.driver[0] ? member.driver : "no driver";
		text_add(text, sizeof(text), "%s%s (%s)", text[0] ? ", " : "", member.name,
			 driver);
		(void)json_array_append_new(
			members,
			json_pack("{s:s, s:s}", "name", member.name, "driver", member.driver));
	}
	json_t *facts = json_pack("{s:i, s:b, s:o}", "number", (int)function->group, "viable",
				  viable, "members", members);
	if (r < 0)
		report(d, function->name, "group", PROBLEM, facts,
		       "the members of group %u: %s\nls /sys/kernel/iommu_groups/%u/devices",
		       function->group, strerror(-r), function->group);
	else if (!viable)
		report(d, function->name, "group", PROBLEM, facts,
		       "%u is not viable, its devices can reach each other: %s\nballast bind %s",
		       function->group, text, function->name);
	else
		report(d, function->name, "group", OK, facts, "%u: %s", function->group, text);
	return r >= 0 && viable;
}

static void check_reset(struct doctor *d, const char *name, const struct vfio_device *device)
{
	autofree struct vfio_pci_dependent_device *affected = NULL;
	unsigned int nr_affected = 0;
	char methods[128] = "";

	/* Linux before 5.15 has no names for them. */
	if (host_read(d->config->root, methods, sizeof(methods), FUNCTION_DIR "/reset_method",
		      name) < 0 &&
	    host_has(d->config->root, FUNCTION_DIR "/reset", name))
		(void)strcpy(methods, "of some kind");
	if (!methods[0] && device &&
	    vfio_device_get_hot_reset(device->fd, &affected, &nr_affected) >= 0)
		(void)snprintf(methods, sizeof(methods), "by its bus, which %u devices share",
			       nr_affected);
	if (methods[0])
		report(d, name, "reset", OK, NULL, "%s", methods);
	else
		report(d, name, "reset", WARNING, NULL,
		       "no kind works: a guest gets it as the one before left it\nswitch the host "
		       "off and on between guests that do not trust each other");
}

static const char *bar_kind(uint64_t flags)
{
	if (flags & RESOURCE_IO)
		return "io";
	if (flags & RESOURCE_64)
		return flags & RESOURCE_PREFETCH ? "64-bit prefetchable" : "64-bit";
	return flags & RESOURCE_PREFETCH ? "32-bit prefetchable" : "32-bit";
}

struct bars {
	unsigned int nr_lines;
	unsigned int nr_memory;
	json_t *list;
	char text[512];
};

/* "0xfe000000 0xfe0fffff 0x40200": the first six are the BARs. */
static int look_at_bar(void *opaque, const char *line)
{
	struct bars *bars = opaque;
	unsigned int index = bars->nr_lines++;
	uint64_t start = 0;
	uint64_t last = 0;
	uint64_t flags = 0;

	/* Ends that are the same: none, or the upper half of the one before. */
	if (sscanf(line, "%" SCNx64 " %" SCNx64 " %" SCNx64, &start, &last, &flags) == 3 &&
	    last > start) {
		uint64_t size = last - start + 1;
		const char *kind = bar_kind(flags);
		bars->nr_memory += !(flags & RESOURCE_IO);
		text_add(bars->text, sizeof(bars->text), "%s%u: %" PRIu64 " bytes (%s)",
			 bars->text[0] ? ", " : "", index, size, kind);
		(void)json_array_append_new(bars->list,
					    json_pack("{s:i, s:I, s:s}", "index", (int)index,
						      "size", (json_int_t)size, "kind", kind));
	}
	return bars->nr_lines == NR_BARS;
}

static void check_bars(struct doctor *d, const char *name)
{
	struct bars bars = { .list = json_array() };
	char file[128];

	(void)snprintf(file, sizeof(file), FUNCTION_DIR "/resource", name);
	int r = host_each_line(d->config->root, file, look_at_bar, &bars);
	d->nr_bars += bars.nr_memory;
	json_t *facts = json_pack("{s:o}", "bars", bars.list);
	if (r < 0)
		report(d, name, "bars", WARNING, facts, "not known: %s\ncat /%s", strerror(-r),
		       file);
	else
		report(d, name, "bars", OK, facts, "%s", bars.text[0] ? bars.text : "none");
}

/* By the kernel, or by config space, of which only root sees more than the header. */
static int count_vectors(const struct doctor *d, const char *name,
			 const struct vfio_device *device)
{
	struct vfio_irq_info info;
	uint8_t config[PCI_CFG_SPACE_SIZE + 1];
	char path[PATH_MAX];

	if (device && vfio_device_get_irq(device->fd, VFIO_PCI_MSIX_IRQ_INDEX, &info) >= 0)
		return (int)info.count;
	(void)snprintf(path, sizeof(path), "%s/" FUNCTION_DIR "/config", d->config->root, name);
	autoclose int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || fd_read_at(fd, config, PCI_CFG_SPACE_SIZE, 0) < 0)
		return -ENODATA;
	unsigned int at = config[PCI_CAPABILITY_LIST] & ~3u;
	for (unsigned int i = 0; i < PCI_CFG_SPACE_SIZE / 4 && at >= PCI_STD_HEADER_SIZEOF;
	     i++) {
		const uint8_t *cap = config + at;
		if (cap[0] == PCI_CAP_ID_MSIX)
			return 1 + ((cap[2] | cap[3] << 8) & PCI_MSIX_FLAGS_QSIZE);
		at = cap[1] & ~3u;
	}
	return 0;
}

static void check_msix(struct doctor *d, const char *name, const struct vfio_device *device)
{
	int vectors = count_vectors(d, name, device);

	if (vectors < 0)
		report(d, name, "msi-x", OK, NULL,
		       "only root can count its vectors\nsudo ballast doctor %s", name);
	else
		report(d, name, "msi-x", OK, json_pack("{s:i}", "vectors", vectors),
		       "%d vectors", vectors);
}

struct reserved {
	struct vfio_iommu iommu; /* its ranges: what lies between those that are reserved */
	uint64_t start;          /* of what is free */
};

/* "0x00000000fee00000 0x00000000feefffff msi", in order. Relaxable: may be mapped over. */
static int look_at_reserved(void *opaque, const char *line)
{
	struct reserved *reserved = opaque;
	struct vfio_iommu *iommu = &reserved->iommu;
	uint64_t first;
	uint64_t last;

	if (sscanf(line, "%" SCNx64 " %" SCNx64, &first, &last) != 2 ||
	    strstr(line, "direct-relaxable") || first < reserved->start)
		return 0;
	if (first > reserved->start)
		iommu->ranges[iommu->nr_ranges++] =
			(struct vfio_iova_range){ reserved->start, first - 1 };
	reserved->start = last + 1;
	return iommu->nr_ranges == MAX_RESERVED;
}

/* What the group's IOMMU does not translate, by /sys: for a group that cannot be opened. */
static int read_reserved(const struct doctor *d, unsigned int group, struct vfio_iommu *ret)
{
	struct reserved reserved = { 0 };
	char file[128];

	reserved.iommu.ranges = calloc(MAX_RESERVED + 1, sizeof(*ret->ranges));
	if (!reserved.iommu.ranges)
		return -ENOMEM;
	(void)snprintf(file, sizeof(file), "sys/kernel/iommu_groups/%u/reserved_regions",
		       group);
	int r = host_each_line(d->config->root, file, look_at_reserved, &reserved);
	reserved.iommu.ranges[reserved.iommu.nr_ranges++] =
		(struct vfio_iova_range){ reserved.start, UINT64_MAX };
	*ret = reserved.iommu;
	return r;
}

static bool find_hole(const struct vfio_iommu *iommu, const struct layout *layout,
		      uint64_t *ret_start, uint64_t *ret_last)
{
	return vfio_iommu_find_hole(iommu, 0, layout->low_size - 1, ret_start, ret_last) ||
	       (layout->high_size &&
		vfio_iommu_find_hole(iommu, LAYOUT_HIGH_BASE,
				     LAYOUT_HIGH_BASE + layout->high_size - 1, ret_start,
				     ret_last));
}

static void check_iova(struct doctor *d, const struct host_function *function,
		       const struct vfio_device *device)
{
	const char *name = function->name;
	struct vfio_iommu read = { 0 };
	struct layout layout;
	uint64_t start;
	uint64_t last;

	int r = device ? 0 : read_reserved(d, function->group, &read);
	const struct vfio_iommu *iommu = device ? &device->group->container->iommu : &read;
	unsigned int bits = vfio_iommu_bits(iommu);
	if (r < 0)
		report(d, name, "iova", WARNING, NULL,
		       "what its IOMMU does not translate is not known: %s\nsudo ballast doctor %s",
		       strerror(-r), name);
	else if (layout_init(&layout, d->config->memory, bits < d->bits ? bits : d->bits) < 0)
		report(d, name, "iova", PROBLEM, NULL,
		       "%" PRIu64
		       " MiB are more than half of the IOMMU's %u-bit address space\n"
		       "give the guest less: --memory",
		       d->config->memory >> 20, bits);
	else if (find_hole(iommu, &layout, &start, &last))
		report(d, name, "iova", PROBLEM, NULL,
		       "guest memory would lie in the hole 0x%" PRIx64 "-0x%" PRIx64
		       ", which the IOMMU does not translate\ngive the guest less: --memory",
		       start, last);
	else
		report(d, name, "iova", OK, NULL,
		       "the IOMMU reaches all of the guest's memory");
	vfio_iommu_finish(&read);
}

static void check_device(struct doctor *d, const char *name)
{
	const struct vfio_device *device = NULL;
	struct host_function function;

	int r = host_get_function(d->config->root, name, &function);
	if (r < 0) {
		report(d, name, "device", PROBLEM, NULL, "%s\nlspci -D names those there are",
		       r == -ENODEV ? "not on this host" : strerror(-r));
		return;
	}
	report(d, name, "device", OK, NULL, "is there, of class 0x%06x", function.class_code);
	bool may_open = check_driver(d, &function);
	if (!function.has_group)
		report(d, name, "group", PROBLEM, NULL,
		       "no IOMMU stands before it\nswitch the IOMMU on, as said under iommu");
	else if (check_group(d, &function) && may_open)
		device = attach(d, &function);
	check_reset(d, name, device);
	check_bars(d, name);
	check_msix(d, name, device);
	if (function.has_group)
		check_iova(d, &function, device);
}

/* What all devices need together */

static void check_interrupts(struct doctor *d)
{
	char remapped[] = "IR-";
	char yes[] = "Y";

	/* With a container there is an answer of the kernel's. */
	if (!list_empty(&d->vfio.containers) || has_word(d, "proc/interrupts", remapped))
		report(d, HOST, "interrupt-remapping", OK, NULL, "on");
	else if (has_word(d, TYPE1 "/parameters/allow_unsafe_interrupts", yes))
		report(d, HOST, "interrupt-remapping", WARNING, NULL,
		       "off, and allow_unsafe_interrupts takes the risk: a device can forge "
		       "interrupts\nswitch it on in the firmware (x2APIC)");
	else
		report(d, HOST, "interrupt-remapping", d->for_devices, NULL,
		       "off\nswitch it on in the firmware (x2APIC), and boot without intremap=off; "
		       "or take the risk: echo 1 > /" TYPE1
		       "/parameters/allow_unsafe_interrupts");
}

static void check_memlock(struct doctor *d)
{
	struct rlimit limit = { .rlim_cur = RLIM_INFINITY };
	uint64_t needed = d->config->memory;

	/* Each container pins all of it, and the kernel counts it each time. */
	list_for_each(n, &d->vfio.containers)
		needed += n == d->vfio.containers.next ? 0 : d->config->memory;
	(void)getrlimit(RLIMIT_MEMLOCK, &limit); /* this resource always exists */
	bool unlimited = limit.rlim_cur == RLIM_INFINITY || vfio_may_lock_all();
	json_t *facts =
		json_pack("{s:I, s:o}", "needed", (json_int_t)needed, "allowed",
			  unlimited ? json_null() : json_integer((json_int_t)limit.rlim_cur));
	if (unlimited)
		report(d, HOST, "memlock", OK, facts,
		       "%" PRIu64 " bytes must be locked, any number may be", needed);
	else if (needed <= limit.rlim_cur)
		report(d, HOST, "memlock", OK, facts,
		       "%" PRIu64 " bytes must be locked, %" PRIu64 " may be", needed,
		       (uint64_t)limit.rlim_cur);
	else
		report(d, HOST, "memlock", d->for_devices, facts,
		       "%" PRIu64 " bytes must be locked, %" PRIu64
		       " may be\nulimit -l %" PRIu64 " (as root), LimitMEMLOCK=%" PRIu64
		       " in its unit, or for logins: echo \"$USER - "
		       "memlock %" PRIu64 "\" | sudo tee -a /etc/security/limits.conf",
		       needed, (uint64_t)limit.rlim_cur, needed >> 10, needed, needed >> 10);
}

/* A map for low RAM, high RAM and each BAR; with a balloon, for each granule of RAM. */
static void check_entries(struct doctor *d)
{
	uint64_t available = vfio_entry_limit();
	uint64_t needed = 2 + d->nr_bars;
	uint64_t granules = d->config->memory / MACHINE_GRANULE + 2 + VFIO_SPARE_ENTRIES;

	list_for_each(n, &d->vfio.containers) {
		const struct vfio_container *container =
			container_of(n, struct vfio_container, link);
		if (container->max_mappings < available)
			available = container->max_mappings;
	}
	json_t *facts =
		json_pack("{s:I, s:I, s:I}", "needed", (json_int_t)needed, "with_balloon",
			  (json_int_t)granules, "available", (json_int_t)available);
	if (needed > available)
		report(d, HOST, "dma-entries", d->for_devices, facts,
		       "%" PRIu64 " needed, %" PRIu64 " available\necho 65535 > /" TYPE1
		       "/parameters/dma_entry_limit",
		       needed, available);
	else if (granules > available)
		report(d, HOST, "dma-entries", WARNING, facts,
		       "%" PRIu64 " needed, and %" PRIu64
		       " with a balloon by granules of 2 MiB; %" PRIu64
		       " available: its granules will be larger\necho %" PRIu64 " > /" TYPE1
		       "/parameters/dma_entry_limit",
		       needed, granules, available, granules);
	else
		report(d, HOST, "dma-entries", OK, facts,
		       "%" PRIu64 " needed, and %" PRIu64 " with a balloon; %" PRIu64
		       " available",
		       needed, granules, available);
}

/* The whole */

static int print_document(const struct doctor *d)
{
	json_t *names = json_array();

	for (unsigned int i = 0; i < d->config->nr; i++)
		(void)json_array_append_new(names, json_string(d->config->names[i]));
	json_t *document = json_pack(
		"{s:b, s:I, s:o, s:i, s:i, s:O}", "starts", d->nr[PROBLEM] == 0, "memory",
		(json_int_t)d->config->memory, "devices", names, "problems",
		(int)d->nr[PROBLEM], "warnings", (int)d->nr[WARNING], "checks", d->checks);
	autofree char *text = document ? json_dumps(document, JSON_INDENT(2)) : NULL;
	json_decref(document);
	if (!text)
		return -ENOMEM;
	puts(text);
	return 0;
}

static void print_verdict(const struct doctor *d)
{
	printf("\nA guest of %" PRIu64 " MiB with %u device%s would ", d->config->memory >> 20,
	       d->config->nr, d->config->nr == 1 ? "" : "s");
	if (d->nr[PROBLEM])
		printf("not start: %u problem%s.\n", d->nr[PROBLEM],
		       d->nr[PROBLEM] == 1 ? "" : "s");
	else
		puts("start.");
}

static void check_all(struct doctor *d)
{
	host_get_cpu(d->config->root, &d->cpu);
	check_kvm(d);
	check_memory(d);
	check_hugepages(d);
	check_iommu(d);
	check_vfio(d);
	for (unsigned int i = 0; i < d->config->nr; i++)
		check_device(d, d->config->names[i]);
	check_interrupts(d);
	check_memlock(d);
	check_entries(d);
}

int doctor_run(const struct doctor_config *config)
{
	autofree struct doctor *d = calloc(1, sizeof(*d));

	if (!d)
		return log_err(-ENOMEM, "doctor");
	d->config = config;
	d->for_devices = config->nr ? PROBLEM : WARNING;
	d->bits = 36; /* every processor has as many */
	d->checks = json_array();
	int r = init_trial(d);
	if (r >= 0)
		check_all(d);
	finish_trial(d);
	if (d->out_of_memory)
		r = -ENOMEM;
	if (r >= 0 && config->output == DOCTOR_AS_JSON)
		r = print_document(d);
	else if (r >= 0)
		print_verdict(d);
	json_decref(d->checks);
	return r < 0 ? log_err(r, "doctor") : (int)d->nr[PROBLEM];
}

/* The command */

static int add_name(struct doctor_config *config, const char *given)
{
	char *name = config->names[config->nr];

	if (config->nr == MACHINE_MAX_DEVICES)
		return log_refuse(-EINVAL, "doctor: '%.128s': at most %u devices fit", given,
				  MACHINE_MAX_DEVICES);
	if (vfio_pci_name(given, name, VFIO_NAME_SIZE) < 0 || !strchr(name, ':'))
		return log_refuse(-EINVAL,
				  "doctor: '%.128s': a PCI device is called 0000:01:00.0",
				  given);
	for (unsigned int i = 0; i < config->nr; i++) {
		if (strcmp(config->names[i], name) == 0)
			return log_refuse(-EINVAL, "doctor: '%.128s': once is enough", given);
	}
	config->nr++;
	return 0;
}

/* 1: the help was asked for. */
static int parse(int argc, char **argv, struct doctor_config *config)
{
	int r = 0;

	for (int i = 1; i < argc && r >= 0; i++) {
		if (strcmp(argv[i], "-h") == 0 || strcmp(argv[i], "--help") == 0)
			return 1;
		if (strcmp(argv[i], "--json") == 0)
			config->output = DOCTOR_AS_JSON;
		else if (strncmp(argv[i], "--memory=", 9) == 0)
			r = options_parse_memory(argv[i] + 9, &config->memory);
		else if (strcmp(argv[i], "--memory") == 0)
			r = options_parse_memory(i + 1 < argc ? argv[++i] : "",
						 &config->memory);
		else if (argv[i][0] == '-')
			return log_refuse(-EINVAL,
					  "doctor: option '%s': there are --json, --memory and "
					  "--help",
					  argv[i]);
		else
			r = add_name(config, argv[i]);
	}
	return r;
}

int doctor_main(int argc, char **argv)
{
	char names[MACHINE_MAX_DEVICES + 1][VFIO_NAME_SIZE];
	struct doctor_config config = { .root = "", .memory = 512ull << 20, .names = names };

	int r = parse(argc, argv, &config);
	if (r < 0)
		return STATUS_USAGE;
	if (r > 0) {
		(void)fputs(help, stdout); /* looked at below */
		r = 0;
	} else
		r = doctor_run(&config);
	if (fflush(stdout) != 0 || ferror(stdout))
		r = log_err(-EIO, "doctor: standard output");
	return r == 0 ? 0 : STATUS_FAILED;
}
