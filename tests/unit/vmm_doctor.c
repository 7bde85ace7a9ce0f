/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include <sys/resource.h>

#include <linux/pci_regs.h>

#include "tests/fakes/host_tree.h"
#include "tests/fakes/kvm.h"
#include "tests/fakes/process.h"
#include "tests/fakes/vfio_kernel.h"
#include "vmm/doctor.h"
#include "vmm/machine.h"

#define CARD "0000:01:00.0"
#define SOUND "0000:01:00.1"
#define OTHER "0000:02:00.0"
#define GRUB "sed -i 's/"
#define MIB (1ull << 20)

static char *printed;
static size_t printed_size;
static json_t *document;
static bool may_lock_all;
static rlim_t lockable;
static unsigned int nr_steps; /* of the last run */
static struct fake_group *group;
static struct fake_device *card;

/* In the place of vfio/container.c's. */
bool __wrap_vfio_may_lock_all(void);
bool __wrap_vfio_may_lock_all(void)
{
	return may_lock_all;
}

/* In the place of the C library's. */
int __wrap_getrlimit64(int resource, struct rlimit *ret);
int __wrap_getrlimit64(int resource, struct rlimit *ret)
{
	ck_assert_int_eq(resource, RLIMIT_MEMLOCK);
	*ret = (struct rlimit){ lockable, lockable };
	return 0;
}

static void set_cpu(const char *vendor, const char *flags)
{
	char text[256];

	(void)snprintf(text, sizeof(text), "vendor_id\t: %s\nflags\t\t: fpu %s\n", vendor,
		       flags);
	tree_write("proc/cpuinfo", text);
}

/* A host on which all is well. */
static void build(void)
{
	tree_init();
	fake_init();
	fake_kvm_init();
	set_cpu("GenuineIntel", "vmx de");
	tree_write("proc/meminfo",
		   "MemTotal: 8388608 kB\nMemFree: 1 kB\nMemAvailable: 4194304 kB\n");
	tree_write("proc/cmdline", "root=/dev/vda quiet\n");
	tree_write("proc/interrupts", " 24: 0 IR-PCI-MSI 0-edge eth0\n");
	tree_write("sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "300\n");
	tree_write("sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "310\n");
	tree_folder("sys/class/iommu/dmar0");
	tree_folder("sys/module/vfio_iommu_type1");
	tree_write("dev/vfio/vfio", "");
	tree_add_driver("vfio-pci");
	tree_add_function("pci0000:00/0000:00:1c.0", 0x060400, 7, "pcieport");
	tree_add_function("pci0000:00/0000:00:1c.0/" CARD, 0x020000, 7, "vfio-pci");
	tree_add_function("pci0000:00/" OTHER, 0x010802, 8, "vfio-pci");
	tree_write("sys/bus/pci/devices/" CARD "/reset_method", "flr bus\n");
	tree_write("sys/bus/pci/devices/" CARD "/resource",
		   "0x00000000fe000000 0x00000000fe0fffff 0x0000000000040200\n"
		   "0x000000000000c000 0x000000000000c01f 0x0000000000040101\n"
		   "0x0000000000000000 0x0000000000000000 0x0000000000000000\n"
		   "0x0000004000000000 0x00000040ffffffff 0x000000000014220c\n"
		   "0x0000000000000000 0x0000000000000000 0x0000000000000000\n"
		   "0x0000000000000000 0x0000000000000000 0x0000000000000000\n"
		   "0x00000000fe800000 0x00000000fe80ffff 0x0000000000046200\n");
	tree_write("sys/bus/pci/devices/" OTHER "/reset_method", "flr\n");
	fake.has_entries = true;
	fake.entries = 65535;
	group = fake_add_group(7);
	card = fake_add_device(CARD, group);
	card->irqs[VFIO_PCI_MSIX_IRQ_INDEX].count = 5;
	(void)fake_add_device(OTHER, fake_add_group(8));
}

static void setup(void)
{
	process_keep_log();
	stdout = open_memstream(&printed, &printed_size);
	may_lock_all = true;
	build();
}

static void teardown(void)
{
	json_decref(document);
	fake_finish();
	tree_finish();
}

static int run_as(enum doctor_output output, uint64_t memory, unsigned int nr, const char *a,
		  const char *b)
{
	char names[2][VFIO_NAME_SIZE];
	const struct doctor_config config = { tree.root, memory, names, nr, output };

	(void)snprintf(names[0], sizeof(names[0]), "%s", a);
	(void)snprintf(names[1], sizeof(names[1]), "%s", b);
	rewind(stdout);
	return doctor_run(&config);
}

/* What is wrong, or only bad, is told with what to do; and nothing is left open or mapped. */
static int run_with(uint64_t memory, unsigned int nr, const char *a, const char *b)
{
	const json_t *check;
	size_t i;
	unsigned int fail_at = tree.fail_at;

	tree.fail_at = 0;
	unsigned int fds = process_nr_fds();
	tree.nr_steps = 0;
	tree.fail_at = fail_at;
	int problems = run_as(DOCTOR_AS_JSON, memory, nr, a, b);
	nr_steps = tree.nr_steps;
	tree.fail_at = 0;
	ck_assert_int_ge(problems, 0);
	ck_assert_uint_eq(process_nr_fds(), fds);
	ck_assert_int_eq(fake_first("map"), -1);
	ck_assert_int_eq(fflush(stdout), 0);
	json_decref(document);
	document = json_loads(printed, JSON_DISABLE_EOF_CHECK, NULL);
	ck_assert_ptr_nonnull(document);
	ck_assert_int_eq(json_integer_value(json_object_get(document, "problems")), problems);
	ck_assert_int_eq(json_is_true(json_object_get(document, "starts")), problems == 0);
	json_array_foreach(json_object_get(document, "checks"), i, check)
	{
		bool ok =
			strcmp(json_string_value(json_object_get(check, "status")), "ok") == 0;
		ck_assert_msg(ok || json_object_get(check, "remedy"), "%s",
			      json_string_value(json_object_get(check, "text")));
	}
	return problems;
}

static int run(unsigned int nr)
{
	return run_with(512 * MIB, nr, CARD, OTHER);
}

static const json_t *find(const char *subject, const char *name)
{
	const json_t *check;
	size_t i;

	json_array_foreach(json_object_get(document, "checks"), i, check)
	{
		if (strcmp(json_string_value(json_object_get(check, "subject")), subject) ==
			    0 &&
		    strcmp(json_string_value(json_object_get(check, "check")), name) == 0)
			return check;
	}
	ck_abort_msg("no check %s of %s in %s", name, subject, printed);
	return NULL;
}

/* `part` of the text, and `remedy` of what is to be done. */
static void expect(const char *subject, const char *name, const char *status, const char *part,
		   const char *remedy)
{
	const json_t *check = find(subject, name);
	const char *text = json_string_value(json_object_get(check, "text"));
	const char *what = json_string_value(json_object_get(check, "remedy"));

	ck_assert_str_eq(json_string_value(json_object_get(check, "status")), status);
	ck_assert_msg(strstr(text, part) != NULL, "no \"%s\" in \"%s\"", part, text);
	ck_assert_msg(!remedy || (what && strstr(what, remedy)), "no \"%s\" in \"%s\"", remedy,
		      what ? what : "");
}

static json_int_t fact(const char *subject, const char *name, const char *key)
{
	const json_t *facts = json_object_get(find(subject, name), "facts");

	ck_assert(json_is_integer(json_object_get(facts, key)));
	return json_integer_value(json_object_get(facts, key));
}

START_TEST(where_all_is_well_a_guest_would_start)
{
	ck_assert_int_eq(run(2), 0);
	ck_assert_int_eq(json_integer_value(json_object_get(document, "warnings")), 0);
	ck_assert_int_eq(json_integer_value(json_object_get(document, "memory")), 512ll << 20);
	expect("host", "kvm", "ok", "opens, and makes a VM", NULL);
	expect("host", "hardware", "ok", "vmx or svm", NULL);
	expect("host", "nested", "ok", "no virtual machine", NULL);
	expect("host", "iommu", "ok", "on: 1 unit, dmar0 first", NULL);
	expect("host", "vfio", "ok", "are loaded", NULL);
	expect("host", "memory", "ok", "512 MiB, and the host has 4096 MiB", NULL);
	expect("host", "interrupt-remapping", "ok", "on", NULL);
	expect(CARD, "driver", "ok", "bound to vfio-pci", NULL);
	expect(CARD, "group", "ok", "7: 0000:00:1c.0 (pcieport), " CARD " (vfio-pci)", NULL);
	expect(CARD, "open", "ok", "opens, in group 7", NULL);
	expect(CARD, "reset", "ok", "flr bus", NULL);
	expect(CARD, "bars", "ok",
	       "0: 1048576 bytes (32-bit), 1: 32 bytes (io), 3: 4294967296 bytes (64-bit "
	       "prefetchable)",
	       NULL);
	expect(CARD, "msi-x", "ok", "5 vectors", NULL);
	expect(CARD, "iova", "ok", "reaches all", NULL);
	expect(OTHER, "open", "ok", "group 8", NULL);
	process_expect_no_log();
}
END_TEST

START_TEST(people_get_lines_and_a_verdict)
{
	tree_remove("dev/vfio/vfio");
	ck_assert_int_eq(run_as(DOCTOR_FOR_PEOPLE, 512 * MIB, 1, CARD, ""), 1);
	ck_assert_int_eq(fflush(stdout), 0);
	ck_assert_ptr_nonnull(strstr(printed, "ok       host kvm: /dev/kvm opens"));
	ck_assert_ptr_nonnull(strstr(printed, "problem  host vfio: there is no /dev/vfio/vfio\n"
					      "         -> modprobe vfio"));
	ck_assert_ptr_nonnull(strstr(
		printed, "\nA guest of 512 MiB with 1 device would not start: 1 problem.\n"));
	ck_assert_int_eq(run_as(DOCTOR_FOR_PEOPLE, 512 * MIB, 0, "", ""), 0);
	ck_assert_int_eq(fflush(stdout), 0);
	ck_assert_ptr_nonnull(
		strstr(printed, "\nA guest of 512 MiB with 0 devices would start.\n"));
}
END_TEST

START_TEST(a_kvm_that_does_not_work_is_told)
{
	fake_kvm.open_error = -EACCES;
	ck_assert_int_eq(run(0), 1);
	expect("host", "kvm", "problem", "no permission", "usermod -aG kvm $USER");
	fake_kvm.open_error = -EPROTO;
	ck_assert_int_eq(run(0), 1);
	expect("host", "kvm", "problem", "is not KVM", "modprobe kvm_intel");
	fake_kvm.open_error = -ENOENT;
	set_cpu("AuthenticAMD", "svm de");
	ck_assert_int_eq(run(0), 1);
	expect("host", "kvm", "problem", "No such file", "modprobe kvm_amd");
	fake_kvm_init();
	fake_kvm.absent = KVM_CAP_IRQFD;
	ck_assert_int_eq(run(0), 1);
	expect("host", "kvm", "problem", "KVM_CAP_IRQFD", "newer kernel");
	for (unsigned int n = 2; n < 9; n++) {
		fake_kvm_init();
		fake_kvm.fail_at = n;
		fake_kvm.fail_errno = -EBUSY;
		ck_assert_int_eq(run(0), 1);
		expect("host", "kvm", "problem", "makes no VM that will do", "VirtualBox");
	}
}
END_TEST

START_TEST(software_is_a_problem_and_nesting_a_warning)
{
	set_cpu("GenuineIntel", "hypervisor de");
	ck_assert_int_eq(run(0), 1);
	expect("host", "hardware", "problem", "this KVM is software", "guest-images/demo");
	expect("host", "nested", "warning", "itself a virtual machine", "machine below");
	ck_assert_int_eq(json_integer_value(json_object_get(document, "warnings")), 1);
}
END_TEST

START_TEST(an_iommu_that_is_off_is_switched_on_by_what_has_it_off)
{
	tree_remove("sys/class/iommu/dmar0");
	ck_assert_int_eq(run(0), 0);
	expect("host", "iommu", "warning", "firmware does not show it",
	       "VT-d on in the firmware");
	ck_assert_int_eq(run(1), 1);
	expect("host", "iommu", "problem", "firmware does not show it", "intel_iommu=on");
	set_cpu("AuthenticAMD", "svm de");
	ck_assert_int_eq(run(1), 1);
	expect("host", "iommu", "problem", "firmware does not show it", "AMD-Vi");
	set_cpu("AuthenticAMD", "svm hypervisor de");
	ck_assert_int_eq(run(1), 1);
	expect("host", "iommu", "problem", "the hypervisor gives", "-device intel-iommu");
	tree_write("sys/firmware/acpi/tables/DMAR", "");
	ck_assert_int_eq(run(1), 1);
	expect("host", "iommu", "problem", "waits to be told",
	       "have intel_iommu=on in the kernel command line of your boot loader");
	tree_write("proc/cmdline", "quiet intel_iommu=on\n");
	ck_assert_int_eq(run(1), 1);
	expect("host", "iommu", "problem", "although the command line has",
	       "dmesg | grep -i dmar");
	tree_write("proc/cmdline", "quiet\n");
	tree_write("etc/default/grub", "GRUB_CMDLINE_LINUX=\"\"\n");
	ck_assert_int_eq(run(1), 1);
	expect("host", "iommu", "problem", "waits to be told",
	       GRUB "^GRUB_CMDLINE_LINUX=\"/&intel_iommu=on /' /etc/default/grub && "
		    "grub2-mkconfig -o /boot/grub2/grub.cfg && reboot");
	tree_write("usr/sbin/update-grub", "");
	tree_write("proc/cmdline", "quiet amd_iommu=off\n");
	ck_assert_int_eq(run(1), 1);
	expect("host", "iommu", "problem", "switched off on the kernel's command line",
	       GRUB "[a-z_]*iommu=off//' /etc/default/grub && update-grub && reboot");
}
END_TEST

START_TEST(modules_that_are_missing_are_named)
{
	tree_remove("dev/vfio/vfio");
	ck_assert_int_eq(run(1), 1);
	expect("host", "vfio", "problem", "no /dev/vfio/vfio", "modprobe vfio");
	tree_remove("sys/module/vfio_iommu_type1");
	ck_assert_int_eq(run(1), 1);
	expect("host", "vfio", "problem", "not loaded", "modprobe vfio_iommu_type1");
	tree_remove("sys/bus/pci/drivers/vfio-pci");
	ck_assert_int_eq(run(1), 1);
	expect("host", "vfio", "problem", "not loaded", "modprobe vfio-pci; at each boot");
	ck_assert_int_eq(run(0), 0);
	expect("host", "vfio", "warning", "not loaded", "modprobe vfio-pci");
}
END_TEST

START_TEST(memory_must_fit_the_address_space_and_the_host)
{
	ck_assert_int_eq(run_with(6ull << 30, 0, "", ""), 0);
	expect("host", "memory", "warning", "6144 MiB, and the host has 4096 MiB", "--memory");
	ck_assert_int_eq(run_with(6ull << 30, 1, CARD, ""), 1);
	expect("host", "memory", "problem", "6144 MiB, and the host has 4096 MiB", "--memory");
	ck_assert_int_eq(run_with(10ull << 30, 0, "", ""), 0);
	expect("host", "memory", "warning", "8192 in all", "--memory");
	ck_assert_int_eq(run_with(10ull << 30, 1, CARD, ""), 1);
	expect("host", "memory", "problem", "8192 in all", "--memory");
	ck_assert_int_eq(run_with(400ull << 30, 0, "", ""), 1);
	expect("host", "memory", "problem", "more than half of a 39-bit address space",
	       "--memory");
	tree_remove("proc/meminfo");
	ck_assert_int_eq(run(0), 0);
	expect("host", "memory", "warning", "not known", "mount -t proc");
}
END_TEST

/* Its page cache is no obstacle; a limit is one on all that is below it. */
START_TEST(memory_must_fit_the_memory_cgroups)
{
	tree_write("proc/self/cgroup", "1:cpu:/elsewhere\n0::/a/b\n");
	tree_write("sys/fs/cgroup/a/memory.max", "1073741824\n");
	tree_write("sys/fs/cgroup/a/memory.current", "314572800\n");
	tree_write("sys/fs/cgroup/a/memory.stat",
		   "anon 1\ninactive_file 104857600\nactive_file 104857600\n");
	tree_write("sys/fs/cgroup/a/b/memory.max", "max\n");
	tree_write("sys/fs/cgroup/a/b/memory.current", "1048576\n");
	ck_assert_int_eq(run_with(924ull << 20, 1, CARD, ""), 0);
	expect("host", "memory", "ok", "the memory cgroup /a has 924 MiB", NULL);
	ck_assert_int_eq(run_with(925ull << 20, 1, CARD, ""), 1);
	expect("host", "memory", "problem", "the memory cgroup /a has 924 MiB", "--memory");
	tree_write("sys/fs/cgroup/a/b/memory.max", "134217728\n");
	tree_write("sys/fs/cgroup/a/b/memory.stat", "anon 1048576\n");
	ck_assert_int_eq(run_with(512ull << 20, 1, CARD, ""), 1);
	expect("host", "memory", "problem", "the memory cgroup /a/b has 127 MiB", "--memory");
	/* Swap takes what others leave. */
	tree_write("proc/meminfo", "MemTotal: 8388608 kB\nMemAvailable: 4194304 kB\n"
				   "SwapFree: 1048576 kB\n");
	ck_assert_int_eq(run_with(1024ull << 20, 1, CARD, ""), 0);
	expect("host", "memory", "ok", "the memory cgroup /a/b has 1151 MiB", NULL);
}
END_TEST

START_TEST(huge_pages_are_counted)
{
	ck_assert_int_eq(run(0), 0);
	expect("host", "hugepages", "ok",
	       "300 of 2 MiB are free: backing=hugetlb can have the 256", NULL);
	ck_assert_int_eq(run_with(1024 * MIB, 0, "", ""), 0);
	expect("host", "hugepages", "ok", "matters to backing=hugetlb only",
	       "echo 522 > /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages");
	ck_assert_int_eq(fact("host", "hugepages", "needed"), 512);
}
END_TEST

START_TEST(a_device_that_is_not_there_is_told)
{
	ck_assert_int_eq(run_with(512 * MIB, 1, "0000:09:00.0", ""), 1);
	expect("0000:09:00.0", "device", "problem", "not on this host", "lspci -D");
}
END_TEST

START_TEST(a_driver_of_the_hosts_is_told_with_the_command)
{
	tree_link("sys/bus/pci/devices/" CARD "/driver", "sys/bus/pci/drivers/e1000e");
	ck_assert_int_eq(run(1), 2); /* so that its group is not viable, either */
	expect(CARD, "driver", "problem", "bound to e1000e, not to vfio-pci",
	       "ballast bind " CARD);
	tree_remove("sys/bus/pci/devices/" CARD "/driver");
	ck_assert_int_eq(run(1), 1);
	expect(CARD, "driver", "problem", "bound to no driver", "ballast bind " CARD);
	/* Not opened: what can be known without that is told. */
	ck_assert_int_eq(fake_first("open"), -1);
	expect(CARD, "msi-x", "ok", "only root", "sudo ballast doctor " CARD);
	expect(CARD, "iova", "ok", "reaches all", NULL);
}
END_TEST

START_TEST(a_group_that_is_not_viable_is_told_with_its_members)
{
	tree_add_function("pci0000:00/0000:00:1c.0/" SOUND, 0x040300, 7, "snd_hda_intel");
	ck_assert_int_eq(run(1), 1);
	expect(CARD, "group", "problem",
	       "7 is not viable, its devices can reach each other: 0000:00:1c.0 (pcieport), " CARD
	       " (vfio-pci), " SOUND " (snd_hda_intel)",
	       "ballast bind " CARD);
	const json_t *facts = json_object_get(find(CARD, "group"), "facts");
	ck_assert(json_is_false(json_object_get(facts, "viable")));
	ck_assert_uint_eq(json_array_size(json_object_get(facts, "members")), 3);
	tree_remove("sys/bus/pci/devices/" SOUND "/driver");
	ck_assert_int_eq(run(1), 0);
}
END_TEST

START_TEST(without_a_group_there_is_no_iommu)
{
	tree_remove("sys/bus/pci/devices/" CARD "/iommu_group");
	ck_assert_int_eq(run(1), 1);
	expect(CARD, "group", "problem", "no IOMMU stands before it", "under iommu");
}
END_TEST

/* What stands in the way is told in the words of ballast run. */
START_TEST(a_group_that_does_not_open_is_told)
{
	group->open_error = -EBUSY;
	ck_assert_int_eq(run(1), 1);
	expect(CARD, "open", "problem", "another process has it", "fuser -v /dev/vfio/7");
	group->open_error = -EACCES;
	ck_assert_int_eq(run(1), 1);
	expect(CARD, "open", "problem", "be root, or have /dev/vfio/7",
	       "chown $USER /dev/vfio/7");
	group->open_error = -ENOENT;
	ck_assert_int_eq(run(1), 1);
	expect(CARD, "open", "problem", "no /dev/vfio/7", "modprobe");
	group->is_noiommu = true;
	ck_assert_int_eq(run(1), 1);
	expect(CARD, "open", "problem", "no IOMMU stands before it", "iommu");
	group->is_noiommu = false;
	group->open_error = 0;
	group->not_viable = true;
	ck_assert_int_eq(run(1), 1);
	expect(CARD, "open", "problem", "group 7 is not viable", "/dev/vfio/7");
	group->not_viable = false;
	fake.set_iommu_error = -EPERM;
	ck_assert_int_eq(run(1), 1);
	expect(CARD, "open", "problem", "does not isolate interrupts",
	       "allow_unsafe_interrupts");
	fake.set_iommu_error = 0;
	fake.no_type1v2 = true;
	ck_assert_int_eq(run(1), 1);
	expect(CARD, "open", "problem", "no type1v2 IOMMU", "vfio_iommu_type1");
	fake.no_type1v2 = false;
	card->not_pci = true;
	ck_assert_int_eq(run(1), 1);
	expect(CARD, "open", "problem", "is no PCI device", "dmesg");
	process_expect_no_log();
}
END_TEST

START_TEST(resets_are_found_where_there_are_any)
{
	tree_remove("sys/bus/pci/devices/" CARD "/reset_method");
	ck_assert_int_eq(run(1), 0);
	expect(CARD, "reset", "warning", "no kind works", "off and on");
	card->can_hot_reset = true;
	card->nr_affected = 2;
	ck_assert_int_eq(run(1), 0);
	expect(CARD, "reset", "ok", "by its bus, which 2 devices share", NULL);
	tree_write("sys/bus/pci/devices/" CARD "/reset", "");
	ck_assert_int_eq(run(1), 0);
	expect(CARD, "reset", "ok", "of some kind", NULL);
}
END_TEST

/* A config space with a capability at 0x40 and MSI-X, of 16 vectors, at 0x50; or a ring. */
static void write_config(unsigned int next, size_t size)
{
	uint8_t config[256] = { 0 };
	char path[256];

	config[PCI_CAPABILITY_LIST] = 0x40;
	config[0x40] = PCI_CAP_ID_PM;
	config[0x41] = (uint8_t)next;
	config[0x50] = PCI_CAP_ID_MSIX;
	config[0x52] = 15;
	config[0x53] = 0x80;
	tree_write("sys/bus/pci/devices/" CARD "/config", "");
	(void)snprintf(path, sizeof(path), "%s/sys/bus/pci/devices/" CARD "/config", tree.root);
	FILE *f = fopen(path, "we");
	ck_assert_uint_eq(fwrite(config, 1, size, f), size);
	fclose(f);
}

START_TEST(vectors_are_counted_in_config_space_where_vfio_does_not_say)
{
	tree_remove("sys/bus/pci/devices/" CARD "/driver");
	write_config(0x50, 256);
	ck_assert_int_eq(run(1), 1);
	expect(CARD, "msi-x", "ok", "16 vectors", NULL);
	ck_assert_int_eq(fact(CARD, "msi-x", "vectors"), 16);
	write_config(0x40, 256); /* a ring ends */
	ck_assert_int_eq(run(1), 1);
	expect(CARD, "msi-x", "ok", "0 vectors", NULL);
	write_config(0xfc, 256); /* the last there can be */
	ck_assert_int_eq(run(1), 1);
	expect(CARD, "msi-x", "ok", "0 vectors", NULL);
	write_config(0x50, 64);
	ck_assert_int_eq(run(1), 1);
	expect(CARD, "msi-x", "ok", "only root", "sudo");
}
END_TEST

START_TEST(memory_in_a_hole_of_the_iommu_is_told)
{
	fake.ranges[0] = (struct vfio_iova_range){ 0, 0xfedfffff };
	fake.ranges[1] = (struct vfio_iova_range){ 0xfef00000, 0x7fffffffff };
	fake.nr_ranges = 2;
	ck_assert_int_eq(run_with(4096 * MIB, 1, CARD, ""), 0);
	fake.ranges[0].end = 0x1fffefff;
	ck_assert_int_eq(run(1), 1);
	expect(CARD, "iova", "problem", "in the hole 0x1ffff000-0xfeefffff", "--memory");
	fake.ranges[0].end = 0x3fffffff;
	ck_assert_int_eq(run(1), 0);
	fake.ranges[0].end = 0xfedfffff;
	fake.ranges[1].end = 0x13fffffff;
	ck_assert_int_eq(run_with(4096 * MIB, 1, CARD, ""), 1);
	expect(CARD, "iova", "problem", "more than half of the IOMMU's 33-bit", "--memory");
}
END_TEST

START_TEST(for_a_group_that_cannot_be_opened_the_reserved_regions_are_read)
{
	tree_remove("sys/bus/pci/devices/" CARD "/driver");
	tree_write("sys/kernel/iommu_groups/7/reserved_regions",
		   "0x0000000000001000 0x0000000000ffffff direct-relaxable\n"
		   "0x00000000fee00000 0x00000000feefffff msi\n");
	ck_assert_int_eq(run(1), 1);
	expect(CARD, "iova", "ok", "reaches all", NULL);
	tree_write("sys/kernel/iommu_groups/7/reserved_regions",
		   "0x0000000000001000 0x0000000000ffffff direct\n"
		   "0x00000000fee00000 0x00000000feefffff msi\n");
	ck_assert_int_eq(run(1), 2);
	expect(CARD, "iova", "problem", "in the hole 0x1000-0xffffff", "--memory");
	/* What cannot be read. */
	tree_remove("sys/kernel/iommu_groups/7/reserved_regions");
	tree_folder("sys/kernel/iommu_groups/7/reserved_regions");
	ck_assert_int_eq(run(1), 1);
	expect(CARD, "iova", "warning", "is not known: Input/output error",
	       "sudo ballast doctor " CARD);
}
END_TEST

START_TEST(interrupts_that_are_not_remapped_are_told)
{
	tree_write("proc/interrupts", " 24: 0 PCI-MSI 0-edge eth0\n");
	ck_assert_int_eq(run(0), 0);
	expect("host", "interrupt-remapping", "warning", "off", "x2APIC");
	tree_remove("sys/bus/pci/devices/" CARD "/driver");
	ck_assert_int_eq(run(1), 2);
	expect("host", "interrupt-remapping", "problem", "off", "allow_unsafe_interrupts");
	tree_write("sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts", "Y\n");
	ck_assert_int_eq(run(1), 1);
	expect("host", "interrupt-remapping", "warning", "takes the risk", "x2APIC");
}
END_TEST

START_TEST(what_must_be_locked_is_told_in_bytes)
{
	lockable = 64 * MIB;
	ck_assert_int_eq(run(1), 0);
	expect("host", "memlock", "ok", "536870912 bytes must be locked, any number may be",
	       NULL);
	may_lock_all = false;
	ck_assert_int_eq(run(0), 0);
	expect("host", "memlock", "warning", "536870912 bytes must be locked, 67108864 may be",
	       "ulimit -l 524288");
	ck_assert_int_eq(run(2), 1);
	expect("host", "memlock", "problem", "536870912 bytes must be locked, 67108864 may be",
	       "LimitMEMLOCK=536870912");
	ck_assert_int_eq(fact("host", "memlock", "needed"), 536870912);
	ck_assert_int_eq(fact("host", "memlock", "allowed"), 67108864);
	ck_assert_int_eq(run_with(64 * MIB, 1, CARD, ""), 0);
	/* Once more for each container. */
	fake.refuses_sharing = true;
	ck_assert_int_eq(run_with(64 * MIB, 2, CARD, OTHER), 1);
	expect("host", "memlock", "problem", "134217728 bytes must be locked", "131072");
}
END_TEST

START_TEST(entries_of_the_iommu_are_counted)
{
	ck_assert_int_eq(run(1), 0);
	ck_assert_int_eq(fact("host", "dma-entries", "needed"), 4); /* RAM twice, two BARs */
	ck_assert_int_eq(fact("host", "dma-entries", "with_balloon"), 256 + 2 + 64);
	ck_assert_int_eq(fact("host", "dma-entries", "available"), 65535);
	fake.entries = 300;
	ck_assert_int_eq(run(1), 0);
	expect("host", "dma-entries", "warning", "300 available", "echo 322 > /sys/module/");
	fake.entries = 3;
	ck_assert_int_eq(run(1), 1);
	expect("host", "dma-entries", "problem", "4 needed, 3 available", "dma_entry_limit");
}
END_TEST

static void rebuild(void)
{
	fake_finish();
	tree_finish();
	build();
}

START_TEST(whatever_call_fails_nothing_is_left_and_it_is_told)
{
	unsigned int nr_problems = 0;

	for (unsigned int n = 1;; n++) {
		rebuild();
		fake.fail_at = n;
		int problems = run(2);
		if (!fake.failed)
			break;
		nr_problems += problems > 0;
	}
	ck_assert_uint_gt(nr_problems, 20);
}
END_TEST

START_TEST(whatever_cannot_be_read_nothing_is_left)
{
	unsigned int nr_told = 0;

	for (unsigned int n = 1;; n++) {
		rebuild();
		tree.fail_at = n;
		int problems = run(2);
		if (nr_steps < n)
			break;
		nr_told += problems > 0 ||
			   json_integer_value(json_object_get(document, "warnings"));
	}
	ck_assert_uint_gt(nr_told, 10);
}
END_TEST

START_TEST(the_command_line_is_looked_at)
{
	static const struct {
		const char *word;
		const char *part;
	} cases[] = {
		{ "eth0", "doctor: 'eth0': a PCI device is called 0000:01:00.0" },
		{ "01234567-89ab-cdef-0123-456789abcdef", "a PCI device is called" },
		{ "--yaml", "doctor: option '--yaml': there are --json, --memory" },
		{ "--memory=lots", "--memory 'lots': a size such as 512M" },
		{ "--memory=1K", "--memory '1K': from 4M to 8T" },
		{ "--memory", "--memory '': a size" },
		{ "1:0.0", "doctor: '1:0.0': once is enough" },
	};

	for (unsigned int i = 0; i < nitems(cases); i++) {
		char name[] = "doctor";
		char first[] = CARD;
		char second[64];
		char *argv[] = { name, first, second, NULL };
		(void)snprintf(second, sizeof(second), "%s", cases[i].word);
		ck_assert_int_eq(doctor_main(3, argv), STATUS_USAGE);
		process_expect_log(cases[i].part);
	}
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		where_all_is_well_a_guest_would_start,
		people_get_lines_and_a_verdict,
		a_kvm_that_does_not_work_is_told,
		software_is_a_problem_and_nesting_a_warning,
		an_iommu_that_is_off_is_switched_on_by_what_has_it_off,
		modules_that_are_missing_are_named,
		memory_must_fit_the_address_space_and_the_host,
		memory_must_fit_the_memory_cgroups,
		huge_pages_are_counted,
		a_device_that_is_not_there_is_told,
		a_driver_of_the_hosts_is_told_with_the_command,
		a_group_that_is_not_viable_is_told_with_its_members,
		without_a_group_there_is_no_iommu,
		a_group_that_does_not_open_is_told,
		resets_are_found_where_there_are_any,
		vectors_are_counted_in_config_space_where_vfio_does_not_say,
		memory_in_a_hole_of_the_iommu_is_told,
		for_a_group_that_cannot_be_opened_the_reserved_regions_are_read,
		interrupts_that_are_not_remapped_are_told,
		what_must_be_locked_is_told_in_bytes,
		entries_of_the_iommu_are_counted,
		whatever_call_fails_nothing_is_left_and_it_is_told,
		whatever_cannot_be_read_nothing_is_left,
		the_command_line_is_looked_at,
	};

	return run_tests("vmm_doctor", setup, teardown, tests, nitems(tests));
}
