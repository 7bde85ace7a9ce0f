/* SPDX-License-Identifier: MIT */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <sys/wait.h>

#include <linux/pci_regs.h>

#include "base/fd.h"
#include "base/log.h"
#include "base/sanitizer.h"

#include "memory/access.h"
#include "tests/fakes/kvm.h"
#include "tests/fakes/process.h"
#include "tests/fakes/vfio_kernel.h"
#include "vmm/machine.h"

#define MIB (1ull << 20)
#define ENTRY 0x1000000u
#define DATA_OFFSET 4096u /* of port data in a vCPU's shared area */

static struct machine machine;
static struct machine_config config;
static char kernel_path[64];
static char serial_path[64];
static unsigned int fds_before;

/* The smallest kernel with a PVH entry. */
static void write_kernel(void)
{
	struct {
		Elf64_Ehdr eh;
		Elf64_Phdr load;
		Elf64_Phdr notes;
		Elf64_Nhdr note;
		char name[4];
		uint32_t entry;
		uint8_t text[16];
	} image = {
		.eh = { .e_ident = { 0x7f, 'E', 'L', 'F', ELFCLASS64 },
			.e_machine = EM_X86_64,
			.e_phoff = sizeof(Elf64_Ehdr),
			.e_phentsize = sizeof(Elf64_Phdr),
			.e_phnum = 2 },
		.load = { .p_type = PT_LOAD, .p_paddr = ENTRY, .p_filesz = 16, .p_memsz = 16 },
		.notes = { .p_type = PT_NOTE, .p_filesz = 20 },
		.note = { 4, 4, 18 },
		.name = "Xen",
		.entry = ENTRY,
		.text = "kernel",
	};

	image.load.p_offset = (uint64_t)((char *)image.text - (char *)&image);
	image.notes.p_offset = (uint64_t)((char *)&image.note - (char *)&image);
	(void)strcpy(kernel_path, "/tmp/ballast-machine-XXXXXX");
	int fd = mkstemp(kernel_path);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(fd_write_at(fd, &image, sizeof(image), 0), 0);
	close(fd);
	(void)snprintf(serial_path, sizeof(serial_path), "%s.serial", kernel_path);
}

static void setup(void)
{
	process_keep_log();
	fake_kvm_init();
	write_kernel();
	config = (struct machine_config){
		.kernel = kernel_path,
		.cmdline = "",
		.nr_cpus = 2,
		.memory = 64 * MIB,
		.backing = RAM_MEMFD, /* which can be told from other mappings */
	};
	fds_before = process_nr_fds();
}

static void expect_nothing_left(void)
{
	ck_assert_uint_eq(process_nr_fds(), fds_before);
	ck_assert_uint_eq(process_nr_mappings("ballast-ram"), 0);
	ck_assert_uint_eq(process_nr_mappings(FAKE_KVM_MAP_NAME), 0);
}

static void teardown(void)
{
	machine_finish(&machine);
	machine_finish(&machine);
	expect_nothing_left();
	(void)unlink(kernel_path);
	(void)unlink(serial_path);
}

static void init(void)
{
	int r = machine_init(&machine, &config);

	ck_assert_msg(r == 0, "%d %s", r, process_log());
}

static int run(void)
{
	init();
	return machine_run(&machine);
}

static int run_or_refuse(void)
{
	int r = machine_init(&machine, &config);

	return r < 0 ? STATUS_FAILED : machine_run(&machine);
}

static void expect_refusal(int error, const char *part)
{
	ck_assert_int_eq(machine_init(&machine, &config), error);
	process_expect_log(part);
	expect_nothing_left();
}

/* What the guest does. */

static int access_port(struct kvm_run *run, uint8_t direction, uint16_t port, uint8_t size,
		       uint32_t count)
{
	run->exit_reason = KVM_EXIT_IO;
	run->io.direction = direction;
	run->io.port = port;
	run->io.size = size;
	run->io.count = count;
	run->io.data_offset = DATA_OFFSET;
	return 0;
}

static uint8_t *port_data(struct kvm_run *run)
{
	return (uint8_t *)run + DATA_OFFSET;
}

static int write_port(struct kvm_run *run, uint16_t port, uint8_t value)
{
	*port_data(run) = value;
	return access_port(run, KVM_EXIT_IO_OUT, port, 1, 1);
}

static int powers_off(struct kvm_run *run)
{
	return write_port(run, LAYOUT_POWER_PORT, POWER_SLEEP_TYPE_S5 << 2 | 0x20);
}

static int resets(struct kvm_run *run)
{
	return write_port(run, LAYOUT_POWER_PORT + 2, POWER_RESET_VALUE);
}

static int panics(struct kvm_run *run)
{
	return write_port(run, LAYOUT_PANIC_PORT, 1);
}

static int has_a_crash_kernel(struct kvm_run *run)
{
	return write_port(run, LAYOUT_PANIC_PORT, 2);
}

static int exits_with_42(struct kvm_run *run)
{
	return write_port(run, LAYOUT_EXIT_PORT, 42);
}

static int faults_three_times(struct kvm_run *run)
{
	run->exit_reason = KVM_EXIT_SHUTDOWN;
	return 0;
}

static int fails_to_enter(struct kvm_run *run)
{
	run->exit_reason = KVM_EXIT_FAIL_ENTRY;
	run->fail_entry.hardware_entry_failure_reason = 0x80000021;
	return 0;
}

static int cannot_be_emulated(struct kvm_run *run)
{
	run->exit_reason = KVM_EXIT_INTERNAL_ERROR;
	run->internal.suberror = KVM_INTERNAL_ERROR_EMULATION;
	run->internal.ndata = 0;
	return 0;
}

static int leaves_for_no_known_reason(struct kvm_run *run)
{
	run->exit_reason = KVM_EXIT_UNKNOWN;
	run->hw.hardware_exit_reason = 0x77;
	return 0;
}

static int exits_in_a_new_way(struct kvm_run *run)
{
	run->exit_reason = 63;
	return 0;
}

static int exits_beyond_all_reasons(struct kvm_run *run)
{
	run->exit_reason = 0xffffffff;
	return 0;
}

static int is_an_error(struct kvm_run *run)
{
	(void)run;
	return -EFAULT;
}

static int is_interrupted(struct kvm_run *run)
{
	(void)run;
	return -EINTR;
}

static int asks_kvm_to_shut_down(struct kvm_run *run)
{
	run->exit_reason = KVM_EXIT_SYSTEM_EVENT;
	run->system_event.type = KVM_SYSTEM_EVENT_SHUTDOWN;
	return 0;
}

static int asks_kvm_to_reset(struct kvm_run *run)
{
	run->exit_reason = KVM_EXIT_SYSTEM_EVENT;
	run->system_event.type = KVM_SYSTEM_EVENT_RESET;
	return 0;
}

static int reports_a_crash(struct kvm_run *run)
{
	run->exit_reason = KVM_EXIT_SYSTEM_EVENT;
	run->system_event.type = KVM_SYSTEM_EVENT_CRASH;
	return 0;
}

/* Building. */

START_TEST(building_and_finishing_leaves_nothing)
{
	init();
	ck_assert_uint_eq(fake_kvm_nr_slots(), 1);
	ck_assert_uint_eq(fake_kvm.nr_vcpus, 2);
	ck_assert_uint_eq(process_nr_mappings("ballast-ram"), 1);
	ck_assert_uint_eq(process_nr_mappings(FAKE_KVM_MAP_NAME), 2);
	machine_finish(&machine);
	ck_assert_uint_eq(fake_kvm_nr_slots(), 0);
	ck_assert_uint_eq(fake_kvm.nr_irqfds, 0);
	expect_nothing_left();
	process_expect_no_log();
}
END_TEST

/* What a KVM, or a CPU, may do without. */
static bool may_be_refused(const char *call)
{
	static const char *const names[] = { "kvm_check", "kvm_get_xsave", "kvm_get_xcrs" };

	for (unsigned int i = 0; i < nitems(names); i++) {
		if (strcmp(call, names[i]) == 0)
			return true;
	}
	return false;
}

START_TEST(every_step_of_building_fails_once)
{
	unsigned int n = 1;
	unsigned int nr_borne = 0;

	for (;; n++) {
		fake_kvm_init();
		fake_kvm.fail_at = n;
		int r = machine_init(&machine, &config);
		const char *failed = fake_kvm.failed;
		if (r == 0 && failed) {
			ck_assert_msg(may_be_refused(failed), "call %u: %s", n, failed);
			nr_borne++;
			process_expect_no_log();
		} else if (r < 0) {
			ck_assert_msg(r == -EIO || r == -EOPNOTSUPP, "%s: %d", failed, r);
			process_expect_log("E ");
		}
		fake_kvm.fail_at = 0;
		machine_finish(&machine);
		ck_assert_uint_eq(fake_kvm_nr_slots(), 0);
		ck_assert_uint_eq(fake_kvm.nr_irqfds, 0);
		expect_nothing_left();
		if (!failed)
			break;
	}
	/*
	 * 2 for KVM and its CPUID, 11 for the VM, 2 for the wires, 1 for how many slots, 1 slot,
	 * 2 irqfds, 1 timer, and 14 for each of 2 processors.
	 */
	ck_assert_uint_eq(n - 1, 48);
	/* 4 capabilities, and XSAVE and XCRs of each processor. */
	ck_assert_uint_eq(nr_borne, 8);
}
END_TEST

/* All of these in the log so far, among other lines. */
static void expect_in_log(const char *one, const char *two)
{
	const char *log = process_log();

	ck_assert_msg(strstr(log, one) && strstr(log, two), "\"%s\", \"%s\" in \"%s\"", one,
		      two, log);
}

/* The balloon: one more line for INTx. The fake's guest decodes no BAR: devices_virtio_pci does. */
START_TEST(a_balloon_is_the_last_of_the_devices_and_leaves_nothing)
{
	config.has_balloon = true;
	config.balloon_keep = 64 * MIB;
	config.memory = 128 * MIB;
	fake_kvm.steps[0] = powers_off;
	init();
	unsigned int nr_irqfds = fake_kvm.nr_irqfds;
	ck_assert_uint_eq(pci_get_16(machine.pci.devices[PCI_DEVFN(1, 0)], 2), 0x1045);
	ck_assert_int_eq(machine_run(&machine), STATUS_POWER_OFF);
	ck_assert_uint_eq(nr_irqfds, 3);
	ck_assert_uint_eq(fake_kvm.nr_irqfds, 3);
	expect_in_log("balloon: the guest is asked to keep 64 of 128 MiB",
		      "balloon: target 64 MiB, held 0 MiB, reclaimed 0 MiB, held back 0 MiB "
		      "(inhibited by nobody), pinned 0 MiB");
	machine_finish(&machine);
	ck_assert_uint_eq(fake_kvm.nr_irqfds, 0);
	ck_assert_uint_eq(fake_kvm.nr_ioeventfds, 0);
	expect_nothing_left();
}
END_TEST

START_TEST(what_was_taken_is_told_with_who_inhibits_at_the_end)
{
	config.has_balloon = true;
	fake_kvm.absent = KVM_CAP_SYNC_MMU;
	fake_kvm.steps[0] = powers_off;
	init();
	ck_assert_int_eq(reclaim_take(&machine.reclaim, 0x2000000, 3 * MIB), 0);
	ck_assert_int_eq(machine_run(&machine), STATUS_POWER_OFF);
	expect_in_log("(inhibited by kvm without synchronous mmu), pinned 0 MiB",
		      "balloon: policy inhibit: took 3 MiB, discarded 0 MiB in 0 calls");
}
END_TEST

START_TEST(the_unsafe_experiment_is_warned_about_at_each_start)
{
	config.unsafe = true;
	init();
	process_expect_log("W --experiment unsafe-reclaim");
}
END_TEST

START_TEST(the_user_may_ask_for_memory_at_run_time)
{
	struct machine_memory memory;

	config.has_balloon = true;
	config.memory = 128 * MIB;
	init();
	ck_assert_int_eq(machine_set_memory(&machine, 63 * MIB), -ERANGE);
	ck_assert_int_eq(machine_set_memory(&machine, 96 * MIB), 0);
	machine_get_memory(&machine, &memory);
	ck_assert_uint_eq(memory.ram, 128 * MIB);
	ck_assert_uint_eq(memory.pinned, 0);
	ck_assert(memory.has_balloon);
	ck_assert_uint_eq(memory.balloon.target, 32 * MIB);
	ck_assert_int_eq(machine_set_memory(&machine, UINT64_MAX),
			 0); /* more than it has: all */
	machine_get_memory(&machine, &memory);
	ck_assert_uint_eq(memory.balloon.target, 0);
}
END_TEST

START_TEST(every_step_of_building_a_balloon_fails_once)
{
	unsigned int n = 1;

	config.has_balloon = true;
	config.balloon.reporting = true;
	config.qmp = serial_path; /* any path that is free */
	for (;; n++) {
		fake_kvm_init();
		fake_kvm.fail_at = n;
		int r = machine_init(&machine, &config);
		bool failed = fake_kvm.failed;
		fake_kvm.fail_at = 0;
		machine_finish(&machine);
		ck_assert_uint_eq(fake_kvm.nr_irqfds, 0);
		ck_assert_uint_eq(fake_kvm.nr_ioeventfds, 0);
		ck_assert_int_lt(access(serial_path, F_OK), 0);
		expect_nothing_left();
		if (!failed)
			break;
		(void)r; /* which may be refused says the test above */
	}
	ck_assert_uint_eq(n - 1, 49); /* the 48 above, and the line for INTx */
}
END_TEST

START_TEST(fds_that_run_out_at_any_moment_leave_nothing)
{
	struct rlimit limit;
	struct rlimit unlimited;
	int r = -EMFILE;
	unsigned int n = 0;

	config.has_balloon = true;
	config.balloon.reporting = true;
	config.has_console = true;
	config.console = (struct console_config){ CONSOLE_FILE, "/dev/null" };
	config.disks[config.nr_disks++] =
		(struct virtio_blk_options){ .path = kernel_path, .readonly = true };
	config.qmp = serial_path;
	ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &unlimited), 0);
	limit = unlimited;
	for (; r < 0; n++) {
		fake_kvm_init();
		limit.rlim_cur = fds_before + n;
		ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
		r = machine_init(&machine, &config);
		machine_finish(&machine);
		ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &unlimited), 0);
		ck_assert_int_lt(access(serial_path, F_OK), 0);
		expect_nothing_left();
		ck_assert_uint_lt(n, 100);
	}
	ck_assert_uint_gt(n, 20);
}
END_TEST

static int terminal; /* the user's end */

static void start_terminal(void)
{
	terminal = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
	ck_assert_int_ge(terminal, 0);
	ck_assert_int_eq(grantpt(terminal), 0);
	ck_assert_int_eq(unlockpt(terminal), 0);
	int fd = open(ptsname(terminal), O_RDWR | O_NOCTTY | O_CLOEXEC);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(dup2(fd, STDIN_FILENO), STDIN_FILENO);
	ck_assert_int_eq(dup2(fd, STDOUT_FILENO), STDOUT_FILENO);
	close(fd);
	fds_before = process_nr_fds();
}

static void set_window(unsigned short columns)
{
	const struct winsize window = { .ws_col = columns, .ws_row = 30 };

	ck_assert_int_eq(ioctl(terminal, TIOCSWINSZ, &window), 0);
}

static unsigned int seen_columns(void)
{
	return (unsigned int)virtio_config_read(&machine.hvc.virtio, 0, 2);
}

/* As the kernel does it where the terminal is the one that controls us. */
static int sees_its_window_change(struct kvm_run *run)
{
	ck_assert_uint_eq(seen_columns(), 150); /* that of the start */
	set_window(200);
	ck_assert_int_eq(kill(getpid(), SIGWINCH), 0);
	for (unsigned int i = 0; i < 5000 && seen_columns() != 200; i++)
		usleep(1000);
	ck_assert_uint_eq(seen_columns(), 200);
	return powers_off(run);
}

START_TEST(a_virtio_console_follows_the_terminals_window)
{
	config.has_console = true;
	config.console.kind = CONSOLE_STDIO;
	fake_kvm.steps[0] = sees_its_window_change;
	start_terminal();
	set_window(100);
	init();
	ck_assert_uint_eq(pci_get_16(machine.pci.devices[PCI_DEVFN(1, 0)], 2), 0x1043);
	ck_assert_uint_eq(seen_columns(), 100);
	set_window(150);
	ck_assert_int_eq(machine_run(&machine), STATUS_POWER_OFF);
	machine_finish(&machine);
	ck_assert_uint_eq(fake_kvm.nr_irqfds, 0);
	ck_assert_uint_eq(fake_kvm.nr_ioeventfds, 0);
}
END_TEST

START_TEST(a_console_that_cannot_be_opened_is_named)
{
	config.has_console = true;
	config.console = (struct console_config){ CONSOLE_FILE, "/none/at/all" };
	expect_refusal(-ENOENT, "--console file '/none/at/all'");
}
END_TEST

/* Any file will do for a disk that is read only. */
static void add_disk(void)
{
	config.disks[config.nr_disks++] =
		(struct virtio_blk_options){ .path = kernel_path, .readonly = true };
}

START_TEST(disks_come_in_their_order_and_leave_nothing)
{
	add_disk();
	add_disk();
	config.disks[1].serial = "second";
	fake_kvm.steps[0] = powers_off;
	log_set_level(LOG_DEBUG);
	init();
	for (unsigned int i = 0; i < 2; i++) {
		const struct pci_device *dev = machine.pci.devices[PCI_DEVFN(1 + i, 0)];
		ck_assert_uint_eq(pci_get_16(dev, 2), 0x1042);
		ck_assert_uint_eq(pci_get_16(dev, 10), 0x0100);          /* mass storage */
		ck_assert_uint_eq(machine.disks[i].virtio.nr_queues, 2); /* one a vCPU */
	}
	ck_assert_ptr_null(machine.disks[0].options.serial);
	ck_assert_str_eq(machine.disks[1].options.serial, "second");
	ck_assert_int_eq(machine_run(&machine), STATUS_POWER_OFF);
	expect_in_log(kernel_path,
		      "': 0 reads (0 KiB), 0 writes (0 KiB), 0 flushes, 0 discards, "
		      "0 write-zeroes, 0 errors");
}
END_TEST

START_TEST(a_disk_that_is_none_is_told)
{
	add_disk();
	config.disks[0].path = "/nonexistent";
	expect_refusal(-EINVAL, "disk '/nonexistent': No such file or directory");
	expect_nothing_left();
}
END_TEST

START_TEST(every_step_of_building_a_disk_fails_once)
{
	unsigned int n = 1;

	add_disk();
	for (;; n++) {
		fake_kvm_init();
		fake_kvm.fail_at = n;
		int r = machine_init(&machine, &config);
		bool failed = fake_kvm.failed;
		fake_kvm.fail_at = 0;
		machine_finish(&machine);
		ck_assert_uint_eq(fake_kvm.nr_irqfds, 0);
		expect_nothing_left();
		if (!failed)
			break;
		(void)r;
	}
	ck_assert_uint_ge(n - 1, 49);
}
END_TEST

START_TEST(every_capability_that_is_needed_is_named)
{
	static const struct {
		int capability;
		const char *name;
	} needed[] = {
		{ KVM_CAP_IRQCHIP, "kvm: KVM_CAP_IRQCHIP" },
		{ KVM_CAP_IRQ_ROUTING, "kvm: KVM_CAP_IRQ_ROUTING" },
		{ KVM_CAP_IRQFD, "kvm: KVM_CAP_IRQFD" },
		{ KVM_CAP_IRQFD_RESAMPLE, "kvm: KVM_CAP_IRQFD_RESAMPLE" },
		{ KVM_CAP_IMMEDIATE_EXIT,
		  "kvm: KVM_CAP_IMMEDIATE_EXIT is missing: boot a newer kernel" },
	};

	for (unsigned int i = 0; i < nitems(needed); i++) {
		fake_kvm.absent = needed[i].capability;
		expect_refusal(-EOPNOTSUPP, needed[i].name);
	}
}
END_TEST

START_TEST(a_kvm_that_cannot_be_opened_is_told_with_the_remedy)
{
	static const struct {
		int error;
		const char *part;
	} cases[] = {
		{ -EACCES, "usermod -aG kvm" },
		{ -ENOENT, "load kvm_intel or kvm_amd" },
		{ -ENXIO, "load kvm_intel or kvm_amd" },
		{ -EPROTO, "/dev/kvm" },
		{ -EMFILE, "/dev/kvm: Too many open files" },
	};

	for (unsigned int i = 0; i < nitems(cases); i++) {
		fake_kvm.open_error = cases[i].error;
		expect_refusal(cases[i].error, cases[i].part);
	}
}
END_TEST

START_TEST(a_kvm_without_synchronous_mmu_raises_an_inhibitor)
{
	fake_kvm.absent = KVM_CAP_SYNC_MMU;
	init();
	ck_assert_uint_eq(reclaim_inhibitors(&machine.reclaim), 1);
	ck_assert_str_eq(machine.mmu_inhibitor.owner, "kvm without synchronous mmu");
	machine_finish(&machine);
	fake_kvm.absent = -1;
	init();
	ck_assert_uint_eq(reclaim_inhibitors(&machine.reclaim), 0);
}
END_TEST

START_TEST(ram_beyond_2_gib_is_a_second_slot_of_the_same_block)
{
	config.memory = 5ull << 30;
	init();
	ck_assert_uint_eq(fake_kvm_nr_slots(), 2);
	ck_assert_uint_eq(fake_kvm.slots[0].gpa, 0);
	ck_assert_uint_eq(fake_kvm.slots[0].size, 2ull << 30);
	ck_assert_uint_eq(fake_kvm.slots[1].gpa, 4ull << 30);
	ck_assert_uint_eq(fake_kvm.slots[1].size, 3ull << 30);
	ck_assert_ptr_eq(fake_kvm.slots[1].host, (char *)fake_kvm.slots[0].host + (2ull << 30));
}
END_TEST

/* With the user's passt, which is a socket of ours. */
START_TEST(network_cards_are_on_the_bus_and_leave_nothing)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	(void)snprintf(address.sun_path, sizeof(address.sun_path), "%s.net", kernel_path);
	int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	ck_assert_int_eq(bind(listener, (struct sockaddr *)&address, sizeof(address)), 0);
	ck_assert_int_eq(listen(listener, 8), 0);
	config.nr_nets = 2;
	for (unsigned int i = 0; i < 2; i++)
		config.nets[i] = (struct net_config){ .kind = NET_PASST_RUNNING,
						      .name = address.sun_path };
	init();
	ck_assert_uint_eq(machine.nr_virtios, 2);
	ck_assert_uint_eq(pci_get_16(&machine.virtios[0].pci, PCI_DEVICE_ID), 0x1041);
	ck_assert_uint_eq(pci_get_16(&machine.virtios[0].pci, PCI_CLASS_DEVICE), 0x0200);
	ck_assert_str_eq(machine.nets[1].name, "net1");
	/* Addresses that nobody has chosen are two, and the same each time. */
	uint8_t macs[2][VIRTIO_NET_MAC_SIZE];
	for (unsigned int i = 0; i < 2; i++) {
		memcpy(macs[i], machine.nets[i].card.mac, sizeof(macs[i]));
		ck_assert_uint_eq(macs[i][0] & 3, 2);
	}
	ck_assert_mem_ne(macs[0], macs[1], sizeof(macs[0]));
	ck_assert_int_eq(machine_set_link(&machine, "net1", false), 0);
	ck_assert(machine.nets[0].card.link_up && !machine.nets[1].card.link_up);
	ck_assert_int_eq(machine_set_link(&machine, "net2", false), -ENODEV);
	machine_finish(&machine);
	config.nets[1].has_mac = true;
	config.nets[1].mac[5] = 7;
	init();
	ck_assert_mem_eq(macs[0], machine.nets[0].card.mac, sizeof(macs[0]));
	ck_assert_uint_eq(machine.nets[1].card.mac[5], 7);
	machine_finish(&machine);
	close(listener);
	(void)unlink(address.sun_path);
	/* One that is no good is the user's affair, and the one before it is closed. */
	(void)process_log();
	ck_assert_int_eq(machine_init(&machine, &config), -EINVAL);
	process_expect_log("nobody there? passt --socket /tmp/");
	expect_nothing_left();
	config.nets[0] = (struct net_config){ .kind = NET_TAP, .name = "no-such-tap" };
	expect_refusal(-ENODEV, "ip tuntap add dev no-such-tap mode tap");
	config.nets[0] = (struct net_config){ .kind = NET_FD, .fd = 1 };
	expect_refusal(-EINVAL, "fd=1: it is not that of a tap interface");
}
END_TEST

START_TEST(what_the_user_gave_wrong_is_told_and_leaves_nothing)
{
	config.memory = 1ull << 39; /* the processor has 39 bits */
	expect_refusal(-E2BIG, "more than half of a 39-bit address space");
	config.memory = 64 * MIB;
	config.kernel = "/nonexistent";
	expect_refusal(-EINVAL, "kernel '/nonexistent'");
	config.kernel = kernel_path;
	config.initrd = "/nonexistent";
	expect_refusal(-EINVAL, "initrd '/nonexistent'");
	config.initrd = NULL;
	config.memory = 8 * MIB; /* the kernel goes to 16 MiB */
	expect_refusal(-E2BIG, "give more --memory");
	config.memory = 64 * MIB;
	config.devices[0].name = "0000:ff:1f.7";
	config.nr_devices = 1;
	expect_refusal(-ENODEV, "0000:ff:1f.7");
	config.nr_devices = 0;
	config.serial = (struct console_config){ CONSOLE_FILE, "/nonexistent/file" };
	expect_refusal(-ENOENT, "--serial file '/nonexistent/file'");
}
END_TEST

START_TEST(the_kernel_starts_on_the_first_processor_only)
{
	fake_kvm.steps[0] = powers_off;
	ck_assert_int_eq(run(), STATUS_POWER_OFF);
	ck_assert_uint_eq(fake_kvm.vcpus[0].regs.rip, ENTRY);
	ck_assert_uint_eq(fake_kvm.vcpus[1].regs.rip, 0);
	ck_assert_str_eq(memory_ptr(&machine.map, ENTRY, 7), "kernel");
	ck_assert_mem_eq(memory_ptr(&machine.map, LAYOUT_ACPI_BASE, 8), "RSD PTR ", 8);
}
END_TEST

START_TEST(every_step_of_starting_fails_once)
{
	unsigned int n = 1;

	for (;; n++) {
		fake_kvm_init();
		fake_kvm.steps[0] = powers_off;
		init();
		fake_kvm.nr_calls = 0;
		fake_kvm.fail_at = n;
		int status = machine_run(&machine);
		const char *failed = fake_kvm.failed;
		fake_kvm.fail_at = 0;
		machine_finish(&machine);
		expect_nothing_left();
		if (!failed)
			break;
		ck_assert_int_eq(status, STATUS_FAILED);
		process_expect_log("kvm: registers of cpu 0: Input/output error");
	}
	ck_assert_uint_eq(n - 1, 4); /* two sets of registers, read and written */
}
END_TEST

/* Ending. */

START_TEST(a_guest_that_switches_itself_off_ends_with_0)
{
	fake_kvm.steps[0] = powers_off;
	ck_assert_int_eq(run(), STATUS_POWER_OFF);
	process_expect_log("guest switched itself off");
}
END_TEST

START_TEST(the_exit_port_ends_with_the_guests_own_status)
{
	config.exit_port = true;
	fake_kvm.steps[0] = exits_with_42;
	ck_assert_int_eq(run(), 42);
}
END_TEST

START_TEST(without_an_exit_port_a_write_there_is_nothing)
{
	fake_kvm.steps[0] = exits_with_42;
	fake_kvm.steps[1] = powers_off;
	ck_assert_int_eq(run(), STATUS_POWER_OFF);
}
END_TEST

START_TEST(a_reset_may_end_it)
{
	config.on_reset = ON_RESET_EXIT;
	fake_kvm.steps[0] = resets;
	ck_assert_int_eq(run(), STATUS_RESET);
}
END_TEST

START_TEST(a_panic_has_a_status_of_its_own)
{
	fake_kvm.steps[0] = panics;
	ck_assert_int_eq(run(), STATUS_PANICKED);
	process_expect_log("I guest panicked\n");
}
END_TEST

START_TEST(a_guest_with_a_crash_kernel_goes_on_and_is_reported_once_a_boot)
{
	fake_kvm.steps[0] = has_a_crash_kernel;
	fake_kvm.steps[1] = has_a_crash_kernel;
	fake_kvm.steps[2] = resets;
	fake_kvm.steps[3] = has_a_crash_kernel;
	fake_kvm.steps[4] = powers_off;
	ck_assert_int_eq(run(), STATUS_POWER_OFF);
	ck_assert_uint_eq(fake_kvm.vcpus[0].next_step, 5);
	const char *log = process_log();
	unsigned int nr_told = 0;
	for (const char *p = log; (p = strstr(p, "W guest panicked: its crash kernel")); p++)
		nr_told++;
	ck_assert_msg(nr_told == 2, "%s", log);
}
END_TEST

static unsigned int nr_crashes;

static int crashes_and_resets_and_so_on(struct kvm_run *run)
{
	if (nr_crashes++ == 100)
		return powers_off(run);
	fake_kvm.vcpus[0].next_step = 0;
	return nr_crashes % 2 ? has_a_crash_kernel(run) : resets(run);
}

START_TEST(a_guest_that_crashes_for_ever_is_not_reported_for_ever)
{
	nr_crashes = 0;
	fake_kvm.steps[0] = crashes_and_resets_and_so_on;
	ck_assert_int_eq(run(), STATUS_POWER_OFF);
	const char *log = process_log();
	unsigned int nr_told = 0;
	for (const char *p = log; (p = strstr(p, "its crash kernel")); p++)
		nr_told++;
	ck_assert_msg(nr_told == LOG_GUEST_BURST, "%s", log);
}
END_TEST

/* With a client of the control socket: what it is told while the guest runs, pauses and ends. */

static int client = -1;
static char client_path[80];
static char heard[16384];

/* Until `text` has come, in all that has come so far; false: the guest has ended without. */
static bool hear(const char *text)
{
	while (!strstr(heard, text)) {
		size_t n = strlen(heard);
		ssize_t got = recv(client, heard + n, sizeof(heard) - 1 - n, 0);
		if (got <= 0)
			return false;
		heard[n + (size_t)got] = '\0';
	}
	return true;
}

static void say(const char *command)
{
	char line[128];

	int n = snprintf(line, sizeof(line), "{\"execute\": \"%s\", \"id\": \"%s\"}\n", command,
			 command);
	ck_assert_int_eq(send(client, line, (size_t)n, MSG_NOSIGNAL), n);
}

static void init_with_client(void)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	(void)snprintf(client_path, sizeof(client_path), "%s.qmp", kernel_path);
	config.qmp = client_path;
	init();
	strcpy(address.sun_path, client_path);
	client = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	ck_assert_int_eq(connect(client, (struct sockaddr *)&address, sizeof(address)), 0);
	say("qmp_capabilities");
}

/* All that came; the machine is gone. */
static const char *hear_all(void)
{
	machine_finish(&machine);
	(void)hear("nobody says this");
	fd_close(&client);
	return heard;
}

static void expect_heard(const char *text)
{
	ck_assert_msg(strstr(heard, text) != NULL, "no %s in %s", text, heard);
}

/* A processor's: after this there is a client that wants to know. */
static void wait_for_client(void)
{
	char text[4096];
	ssize_t n;

	do {
		usleep(1000);
		n = recv(client, text, sizeof(text) - 1, MSG_PEEK | MSG_DONTWAIT);
		text[n > 0 ? n : 0] = '\0';
	} while (!strstr(text, "\"id\": \"qmp_capabilities\""));
}

static int panics_before_a_client(struct kvm_run *run)
{
	wait_for_client();
	return panics(run);
}

static int has_a_crash_kernel_before_a_client(struct kvm_run *run)
{
	wait_for_client();
	return has_a_crash_kernel(run);
}

#define EVENT(name, data) "{\"event\": \"" name "\", \"data\": {" data "}, \"timestamp\": {"
#define CAUSE(guest, reason) "\"guest\": " guest ", \"reason\": \"" reason "\""

START_TEST(clients_hear_of_a_panic)
{
	init_with_client();
	fake_kvm.steps[0] = has_a_crash_kernel_before_a_client;
	fake_kvm.steps[1] = panics_before_a_client;
	ck_assert_int_eq(machine_run(&machine), STATUS_PANICKED);
	(void)hear_all();
	expect_heard(EVENT("GUEST_CRASHLOADED", "\"action\": \"run\""));
	expect_heard(EVENT("GUEST_PANICKED", "\"action\": \"poweroff\""));
	expect_heard(EVENT("SHUTDOWN", CAUSE("true", "guest-panic")));
	ck_assert(strstr(heard, "SHUTDOWN") > strstr(heard, "GUEST_PANICKED"));
}
END_TEST

static int resets_before_a_client(struct kvm_run *run)
{
	wait_for_client();
	return resets(run);
}

START_TEST(clients_hear_why_a_guest_resets_and_ends)
{
	init_with_client();
	fake_kvm.steps[0] = resets_before_a_client;
	fake_kvm.steps[1] = powers_off;
	ck_assert_int_eq(machine_run(&machine), STATUS_POWER_OFF);
	(void)hear_all();
	expect_heard(EVENT("RESET", CAUSE("true", "guest-reset")));
	expect_heard(EVENT("SHUTDOWN", CAUSE("true", "guest-shutdown")));
	config.on_reset = ON_RESET_EXIT;
	fake_kvm_init();
	*heard = '\0';
	init_with_client();
	say("system_reset");
	ck_assert_int_eq(machine_run(&machine), STATUS_RESET);
	(void)hear_all();
	expect_heard(EVENT("SHUTDOWN", CAUSE("false", "host-qmp-system-reset")));
	ck_assert_ptr_null(strstr(heard, "\"RESET\""));
	fake_kvm_init();
	*heard = '\0';
	config.timeout = 1;
	init_with_client();
	ck_assert_int_eq(machine_run(&machine), STATUS_TIMEOUT);
	(void)hear_all();
	expect_heard(EVENT("SHUTDOWN", CAUSE("false", "host-signal")));
}
END_TEST

/* What the other thread saw while the guest was to stand still. */
static struct {
	unsigned int stopped;
	unsigned int asked;
	unsigned int reset;
	bool ran_again;
	bool heard_all;
} seen;

static unsigned int nr_parked(void)
{
	pthread_mutex_lock(&machine.gate.lock);
	unsigned int n = machine.gate.closed ? machine.gate.parked : 0;
	pthread_mutex_unlock(&machine.gate.lock);
	return n;
}

static void *stop_and_go(void *opaque)
{
	(void)opaque;
	say("stop");
	bool all = hear("\"id\": \"stop\"");
	seen.stopped = nr_parked();
	say("stop"); /* once more: nothing happens */
	kill(getpid(), SIGUSR1);
	usleep(50000);
	seen.asked = nr_parked();
	say("system_reset");
	all = all && hear("\"event\": \"RESET\"");
	usleep(50000);
	seen.reset = nr_parked();
	say("query-status");
	all = all && hear("\"id\": \"query-status\"");
	say("cont");
	all = all && hear("\"id\": \"cont\"");
	for (unsigned int i = 0; i < 1000 && !seen.ran_again; i++) {
		usleep(1000);
		seen.ran_again = nr_parked() == 0;
	}
	say("system_powerdown");
	say("quit");
	seen.heard_all = all && hear("\"id\": \"quit\"");
	return NULL;
}

START_TEST(a_stopped_guest_stays_so_whatever_happens_until_it_goes_on)
{
	pthread_t thread;

	init_with_client();
	ck_assert_int_eq(pthread_create(&thread, NULL, stop_and_go, NULL), 0);
	ck_assert_int_eq(machine_run(&machine), STATUS_FAILED);
	ck_assert_int_eq(pthread_join(thread, NULL), 0);
	ck_assert_uint_eq(seen.stopped, 2);
	ck_assert_uint_eq(seen.asked, 2);
	ck_assert_uint_eq(seen.reset, 2);
	ck_assert(seen.ran_again && seen.heard_all);
	ck_assert_uint_eq(fake_kvm.vcpus[0].nr_pauses_told, 1);
	ck_assert_uint_eq(fake_kvm.vcpus[1].nr_pauses_told, 1);
	(void)hear_all();
	char *stop = strstr(heard, "{\"event\": \"STOP\", \"timestamp\"");
	ck_assert_msg(stop && !strstr(stop + 12, "\"STOP\""), "%s", heard);
	ck_assert(strstr(heard, "\"id\": \"stop\"") > stop);
	expect_heard("\"status\": \"paused\", \"running\": false");
	expect_heard(EVENT("RESET", CAUSE("false", "host-qmp-system-reset")));
	expect_heard("{\"event\": \"RESUME\", \"timestamp\"");
	expect_heard("{\"event\": \"POWERDOWN\", \"timestamp\"");
	expect_heard(EVENT("SHUTDOWN", CAUSE("false", "host-qmp-quit")));
}
END_TEST

START_TEST(kvms_own_system_events_are_heard)
{
	fake_kvm.steps[0] = asks_kvm_to_reset;
	fake_kvm.steps[1] = asks_kvm_to_shut_down;
	ck_assert_int_eq(run(), STATUS_POWER_OFF);
	ck_assert_uint_eq(fake_kvm.nr_ioapics_set, 1);
}
END_TEST

START_TEST(a_crash_is_told_with_registers_and_has_a_status_of_its_own)
{
	static const struct {
		fake_step *step;
		const char *part;
	} cases[] = {
		{ faults_three_times, "E cpu 0: triple fault\n" },
		{ fails_to_enter, "refuses to enter the guest, reason 0x80000021\n" },
		{ cannot_be_emulated,
		  "kvm internal error 1 (an instruction it cannot emulate)" },
		{ leaves_for_no_known_reason, "E cpu 0: unknown exit, hardware reason 0x77\n" },
		{ exits_in_a_new_way, "exit reason 63, which nobody here knows\n" },
		{ exits_beyond_all_reasons, "exit reason 4294967295, which nobody" },
		{ is_an_error, "E kvm: running cpu 0: Bad address\n" },
		{ reports_a_crash, "E cpu 0: the guest reports a crash\n" },
	};

	for (unsigned int i = 0; i < nitems(cases); i++) {
		fake_kvm_init();
		fake_kvm.steps[0] = fake_kvm.steps[1] = cases[i].step;
		ck_assert_int_eq(run(), STATUS_CRASHED);
		const char *text = process_log();
		ck_assert_msg(strstr(text, cases[i].part) != NULL, "%s", text);
		ck_assert_ptr_nonnull(strstr(text, "I cpu 0: rip 0x1000000"));
		machine_finish(&machine);
		expect_nothing_left();
	}
}
END_TEST

static int faults_and_is_reset(struct kvm_run *run)
{
	struct kvm_regs regs = { .rip = 0xfff0 };
	struct kvm_sregs sregs = { .cs.base = 0xffff0000 };

	ck_assert_int_eq(kvm_set_regs(machine.vcpus[0].fd, &regs), 0);
	ck_assert_int_eq(kvm_set_sregs(machine.vcpus[0].fd, &sregs), 0);
	return faults_three_times(run);
}

START_TEST(registers_that_kvm_has_reset_are_not_passed_off_as_the_guests)
{
	fake_kvm.steps[0] = faults_and_is_reset;
	ck_assert_int_eq(run(), STATUS_CRASHED);
	ck_assert_ptr_nonnull(strstr(process_log(), "what its registers held is lost"));
}
END_TEST

START_TEST(being_interrupted_is_nothing)
{
	fake_kvm.steps[0] = is_interrupted;
	fake_kvm.steps[1] = is_interrupted;
	fake_kvm.steps[2] = powers_off;
	ck_assert_int_eq(run(), STATUS_POWER_OFF);
}
END_TEST

START_TEST(a_timeout_ends_a_guest_that_does_not)
{
	config.timeout = 1;
	ck_assert_int_eq(run(), STATUS_TIMEOUT);
	process_expect_log("--timeout of 1 s ran out");
}
END_TEST

/* A signal comes while the guest runs; it answers the button, or does not. */

static int gets_sigterm(struct kvm_run *run)
{
	kill(getpid(), SIGTERM);
	return is_interrupted(run);
}

static int waits_for_the_button(struct kvm_run *run)
{
	while (!(__atomic_load_n(&machine.power.events, __ATOMIC_SEQ_CST) & POWER_EVENT_BUTTON))
		usleep(1000);
	return powers_off(run);
}

static int gets_sigterm_again_after_the_button(struct kvm_run *run)
{
	while (!(__atomic_load_n(&machine.power.events, __ATOMIC_SEQ_CST) & POWER_EVENT_BUTTON))
		usleep(1000);
	return gets_sigterm(run);
}

START_TEST(a_signal_presses_the_power_button)
{
	fake_kvm.steps[0] = gets_sigterm;
	fake_kvm.steps[1] = waits_for_the_button;
	ck_assert_int_eq(run(), STATUS_POWER_OFF);
	ck_assert_ptr_nonnull(strstr(process_log(), "SIGTERM: pressing the power button"));
}
END_TEST

START_TEST(a_second_signal_stops)
{
	fake_kvm.steps[0] = gets_sigterm;
	fake_kvm.steps[1] = gets_sigterm_again_after_the_button;
	ck_assert_int_eq(run(), STATUS_FAILED);
	ck_assert_ptr_nonnull(strstr(process_log(), "SIGTERM: stopping"));
}
END_TEST

/* Reset. */

static int spoils_its_kernel_and_resets(struct kvm_run *run)
{
	memset(memory_ptr(&machine.map, ENTRY, 7), 0, 7);
	return resets(run);
}

START_TEST(a_reset_starts_the_guest_anew)
{
	fake_kvm.steps[0] = spoils_its_kernel_and_resets;
	fake_kvm.steps[1] = resets;
	fake_kvm.steps[2] = powers_off;
	ck_assert_int_eq(run(), STATUS_POWER_OFF);
	ck_assert_str_eq(memory_ptr(&machine.map, ENTRY, 7), "kernel");
	ck_assert_uint_eq(fake_kvm.nr_ioapics_set, 2);
	for (unsigned int i = 0; i < 2; i++)
		ck_assert_uint_eq(fake_kvm.vcpus[i].nr_mp_states, 2);
	ck_assert_uint_eq(fake_kvm.vcpus[0].regs.rip, ENTRY);
	ck_assert_uint_eq(fake_kvm.vcpus[1].regs.rip, 0);
}
END_TEST

/* For ever; the first time, and some time later, somebody wants it to end. */

static unsigned int nr_loops;

static int resets_again_and_again(struct kvm_run *run)
{
	fake_kvm.vcpus[0].next_step = 0;
	return resets(run);
}

static int resets_and_gets_sigterm_twice(struct kvm_run *run)
{
	if (nr_loops == 0 || nr_loops == 100)
		kill(getpid(), SIGTERM);
	nr_loops++;
	return resets_again_and_again(run);
}

START_TEST(a_guest_that_resets_for_ever_is_stopped_by_a_second_signal)
{
	nr_loops = 0;
	fake_kvm.steps[0] = resets_and_gets_sigterm_twice;
	ck_assert_int_eq(run(), STATUS_FAILED);
	const char *text = process_log();
	ck_assert_ptr_nonnull(strstr(text, "SIGTERM: stopping"));
	ck_assert_ptr_nonnull(strstr(text, "further resets are not reported"));
	unsigned int nr_told = 0;
	for (const char *p = text; (p = strstr(p, "guest resets")); p++)
		nr_told++;
	ck_assert_uint_eq(nr_told, LOG_GUEST_BURST);
}
END_TEST

START_TEST(a_guest_that_resets_for_ever_is_ended_by_its_timeout)
{
	config.timeout = 1;
	fake_kvm.steps[0] = resets_again_and_again;
	ck_assert_int_eq(run(), STATUS_TIMEOUT);
}
END_TEST

/* Two processors at once: the second begins when there is a request of the first one's. */

#define A_WHILE_US 50000 /* in which the event loop gets there; if not, less is proved */

static bool second_runs;

static void wait_for_second(void)
{
	while (!__atomic_load_n(&second_runs, __ATOMIC_SEQ_CST))
		usleep(1000);
}

static void wait_for_request(void)
{
	bool requested = false;

	__atomic_store_n(&second_runs, true, __ATOMIC_SEQ_CST);
	while (!requested) {
		usleep(1000);
		pthread_mutex_lock(&machine.lock);
		requested = machine.requested;
		pthread_mutex_unlock(&machine.lock);
	}
}

static int resets_beside_the_second(struct kvm_run *run)
{
	wait_for_second();
	return resets(run);
}

/* The event loop is at the reset, and goes on when this processor is parked. */
static int powers_off_in_a_reset(struct kvm_run *run)
{
	wait_for_request();
	usleep(A_WHILE_US);
	return powers_off(run);
}

START_TEST(a_guest_that_switches_itself_off_while_it_resets_does_not_start_anew)
{
	second_runs = false;
	fake_kvm.steps[0] = resets_beside_the_second;
	fake_kvm.steps[1] = faults_three_times;
	fake_kvm.second_steps[0] = powers_off_in_a_reset;
	ck_assert_int_eq(run(), STATUS_POWER_OFF);
	ck_assert_uint_eq(fake_kvm.vcpus[0].next_step, 1);
	ck_assert_uint_eq(fake_kvm.vcpus[1].next_step, 1);
}
END_TEST

/* The event loop hears of neither request before both processors are parked. */
static int powers_off_while_its_state_is_asked_for(struct kvm_run *run)
{
	wait_for_second();
	kill(getpid(), SIGUSR1);
	usleep(A_WHILE_US);
	return powers_off(run);
}

static int resets_after_the_first(struct kvm_run *run)
{
	wait_for_request();
	return resets(run);
}

START_TEST(a_guest_that_resets_while_it_switches_itself_off_does_not_start_anew)
{
	second_runs = false;
	fake_kvm.steps[0] = powers_off_while_its_state_is_asked_for;
	fake_kvm.steps[1] = faults_three_times;
	fake_kvm.second_steps[0] = resets_after_the_first;
	ck_assert_int_eq(run(), STATUS_POWER_OFF);
	ck_assert_uint_eq(fake_kvm.vcpus[0].next_step, 1);
	ck_assert_uint_eq(fake_kvm.vcpus[1].next_step, 1);
}
END_TEST

static unsigned int reset_fails_at;

static int resets_and_a_step_of_it_fails(struct kvm_run *run)
{
	fake_kvm.nr_calls = 0;
	fake_kvm.fail_at = reset_fails_at;
	return resets(run);
}

START_TEST(every_step_of_a_reset_fails_once)
{
	unsigned int n = 1;

	for (;; n++) {
		fake_kvm_init();
		reset_fails_at = n;
		fake_kvm.steps[0] = resets_and_a_step_of_it_fails;
		fake_kvm.steps[1] = powers_off;
		int status = run();
		const char *failed = fake_kvm.failed;
		fake_kvm.fail_at = 0;
		machine_finish(&machine);
		expect_nothing_left();
		if (!failed)
			break;
		ck_assert_int_eq(status, STATUS_FAILED);
		ck_assert_ptr_nonnull(strstr(process_log(), "E kvm: re"));
	}
	ck_assert_uint_eq(n - 1, 25); /* the IOAPIC, 10 for each processor, 4 to start */
}
END_TEST

/* Exits. */

static int reads_the_host_bridge(struct kvm_run *run)
{
	run->exit_reason = KVM_EXIT_MMIO;
	run->mmio.phys_addr = LAYOUT_ECAM_BASE;
	run->mmio.len = 4;
	run->mmio.is_write = 0;
	return 0;
}

static int has_read_the_host_bridge(struct kvm_run *run)
{
	static const uint8_t ids[] = { 0x36, 0x1b, 0x08, 0x00 };

	return memcmp(run->mmio.data, ids, sizeof(ids)) == 0 ? powers_off(run)
							     : fails_to_enter(run);
}

START_TEST(an_mmio_read_reaches_its_device_and_its_answer_the_guest)
{
	fake_kvm.steps[0] = reads_the_host_bridge;
	fake_kvm.steps[1] = has_read_the_host_bridge;
	ck_assert_int_eq(run(), STATUS_POWER_OFF);
}
END_TEST

static int reads_nothing_from_mmio(struct kvm_run *run)
{
	run->exit_reason = KVM_EXIT_MMIO;
	run->mmio.phys_addr = LAYOUT_MEM32_BASE;
	run->mmio.len = 7; /* in pieces of 1, 2 and 4 */
	run->mmio.is_write = 0;
	return 0;
}

static int has_read_ones(struct kvm_run *run)
{
	static const uint8_t ones[] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0 };

	return memcmp(run->mmio.data, ones, sizeof(ones)) == 0 ? powers_off(run)
							       : fails_to_enter(run);
}

START_TEST(an_mmio_access_of_odd_length_is_done_in_pieces)
{
	fake_kvm.steps[0] = reads_nothing_from_mmio;
	fake_kvm.steps[1] = has_read_ones;
	ck_assert_int_eq(run(), STATUS_POWER_OFF);
}
END_TEST

static int reads_the_line_status(struct kvm_run *run)
{
	return access_port(run, KVM_EXIT_IO_IN, LAYOUT_SERIAL_PORT + 5, 1, 1);
}

static int has_read_the_line_status(struct kvm_run *run)
{
	return *port_data(run) == 0x60 ? powers_off(run) : fails_to_enter(run);
}

START_TEST(a_port_read_reaches_its_device_and_its_answer_the_guest)
{
	fake_kvm.steps[0] = reads_the_line_status;
	fake_kvm.steps[1] = has_read_the_line_status;
	ck_assert_int_eq(run(), STATUS_POWER_OFF);
}
END_TEST

static int writes_a_string(struct kvm_run *run)
{
	memcpy(port_data(run), "hello", 5);
	return access_port(run, KVM_EXIT_IO_OUT, LAYOUT_SERIAL_PORT, 1, 5);
}

START_TEST(a_string_of_port_writes_is_done_byte_by_byte)
{
	char text[8] = "";

	config.serial = (struct console_config){ CONSOLE_FILE, serial_path };
	fake_kvm.steps[0] = writes_a_string;
	fake_kvm.steps[1] = powers_off;
	ck_assert_int_eq(run(), STATUS_POWER_OFF);
	autoclose int fd = open(serial_path, O_RDONLY | O_CLOEXEC);
	ck_assert_int_eq(read(fd, text, sizeof(text)), 5);
	ck_assert_str_eq(text, "hello");
}
END_TEST

/* Figures. */

#define FIFO_SIZE 4096

static char figures_path[80];

static const char *use_events(void)
{
	(void)snprintf(figures_path, sizeof(figures_path), "%s.figures", kernel_path);
	config.events = figures_path;
	return figures_path;
}

static const char *use_metrics(void)
{
	(void)snprintf(figures_path, sizeof(figures_path), "%s.figures", kernel_path);
	config.metrics = figures_path;
	return figures_path;
}

/* All of a file, which is removed. */
static char *take_file(const char *path)
{
	static char text[32768];
	FILE *f = fopen(path, "re");
	ck_assert_ptr_nonnull(f);
	text[fread(text, 1, sizeof(text) - 1, f)] = '\0';
	(void)fclose(f);
	ck_assert_int_eq(unlink(path), 0);
	return text;
}

/* The events in the text, as a list; each has its times, of which none is before the last one's. */
static json_t *parse_events(char *text)
{
	json_t *events = json_array();
	json_int_t before = 0;
	char *line;

	while ((line = strsep(&text, "\n")) && *line) {
		json_t *event = json_loads(line, 0, NULL);
		ck_assert_msg(json_is_object(event), "%s", line);
		json_int_t now = json_integer_value(json_object_get(event, "monotonic-us"));
		ck_assert_int_gt(now, 0);
		ck_assert_int_ge(now, before);
		before = now;
		ck_assert_int_gt(json_integer_value(json_object_get(event, "time-us")), 0);
		ck_assert_int_eq(json_array_append_new(events, event), 0);
	}
	return events;
}

/* How often there is one of that name, with that value of a key. */
static unsigned int count_events(json_t *events, const char *name, const char *key,
				 const char *value)
{
	unsigned int count = 0;
	size_t i;
	json_t *event;

	json_array_foreach(events, i, event)
	{
		const char *found = json_string_value(json_object_get(event, key));
		count +=
			strcmp(json_string_value(json_object_get(event, "event")), name) == 0 &&
			found && strcmp(found, value) == 0;
	}
	return count;
}

static int print_text(struct kvm_run *run, const char *text)
{
	memcpy(port_data(run), text, strlen(text));
	return access_port(run, KVM_EXIT_IO_OUT, LAYOUT_SERIAL_PORT, 1, (uint32_t)strlen(text));
}

static int prints(struct kvm_run *run)
{
	return print_text(
		run,
		"Linux version 6.1 (and who built it, by which compiler, of which version, "
		"of which distribution, and when: longer than a line that is kept)"
		"\r\n[    0.1] Run /sbin/in");
}

static int starts_init(struct kvm_run *run)
{
	return print_text(run, "it as init process\r\n");
}

START_TEST(events_tell_a_run_from_start_to_exit)
{
	static const char *const phases[] = { "process",     "kvm",         "ram",
					      "kernel-load", "processors",  "pinning",
					      "devices",     "first-entry", "first-output",
					      "init" };
	const char *path = use_events();

	fake_kvm.steps[0] = prints;
	fake_kvm.steps[1] = starts_init;
	fake_kvm.steps[2] = resets;
	fake_kvm.steps[3] = starts_init; /* the second time nobody wants to know */
	fake_kvm.steps[4] = exits_with_42;
	config.exit_port = true;
	ck_assert_int_eq(run(), 42);
	machine_finish(&machine);
	json_t *events = parse_events(take_file(path));
	ck_assert_uint_eq(count_events(events, "start", "version", BALLAST_VERSION), 1);
	for (unsigned int i = 0; i < nitems(phases); i++) {
		ck_assert_uint_eq(count_events(events, "phase", "name", phases[i]), 1);
		json_t *event = json_array_get(events, i + 1);
		ck_assert_str_eq(json_string_value(json_object_get(event, "name")), phases[i]);
	}
	ck_assert_uint_eq(json_array_size(events), 1 + nitems(phases) + 2);
	json_t *reset = json_array_get(events, nitems(phases) + 1);
	ck_assert_str_eq(json_string_value(json_object_get(reset, "event")), "reset");
	json_t *last = json_array_get(events, nitems(phases) + 2);
	ck_assert_str_eq(json_string_value(json_object_get(last, "event")), "exit");
	ck_assert_int_eq(json_integer_value(json_object_get(last, "status")), 42);
	json_decref(events);
	expect_nothing_left();
}
END_TEST

START_TEST(events_tell_of_a_panic_before_the_exit)
{
	const char *path = use_events();

	fake_kvm.steps[0] = panics;
	ck_assert_int_eq(run(), STATUS_PANICKED);
	machine_finish(&machine);
	json_t *events = parse_events(take_file(path));
	size_t nr = json_array_size(events);
	json_t *panic = json_array_get(events, nr - 2);
	ck_assert_str_eq(json_string_value(json_object_get(panic, "event")), "panic");
	json_t *last = json_array_get(events, nr - 1);
	ck_assert_str_eq(json_string_value(json_object_get(last, "event")), "exit");
	ck_assert_int_eq(json_integer_value(json_object_get(last, "status")), STATUS_PANICKED);
	json_decref(events);
}
END_TEST

static unsigned int count_named(json_t *events, const char *name)
{
	return count_events(events, name, "event", name);
}

START_TEST(events_tell_of_crash_kernels_as_often_as_of_resets)
{
	const char *path = use_events();

	nr_crashes = 0;
	fake_kvm.steps[0] = crashes_and_resets_and_so_on;
	ck_assert_int_eq(run(), STATUS_POWER_OFF);
	machine_finish(&machine);
	json_t *events = parse_events(take_file(path));
	ck_assert_uint_eq(count_named(events, "reset"), LOG_GUEST_BURST);
	ck_assert_uint_eq(count_named(events, "crash-loaded"), LOG_GUEST_BURST);
	ck_assert_uint_eq(count_named(events, "panic"), 0);
	json_decref(events);
}
END_TEST

START_TEST(events_tell_once_of_a_stop_and_of_its_end)
{
	static const char *const names[] = { "stop", "reset", "resume", "powerdown", "exit" };
	const char *path = use_events();
	pthread_t thread;

	init_with_client();
	ck_assert_int_eq(pthread_create(&thread, NULL, stop_and_go, NULL), 0);
	ck_assert_int_eq(machine_run(&machine), STATUS_FAILED);
	ck_assert_int_eq(pthread_join(thread, NULL), 0);
	(void)hear_all();
	json_t *events = parse_events(take_file(path));
	size_t nr = json_array_size(events);
	ck_assert_uint_ge(nr, nitems(names));
	for (size_t i = 0; i < nitems(names); i++) {
		json_t *event = json_array_get(events, nr - nitems(names) + i);
		ck_assert_str_eq(json_string_value(json_object_get(event, "event")), names[i]);
		ck_assert_uint_eq(count_named(events, names[i]), 1);
	}
	json_decref(events);
}
END_TEST

#define DEVICE "0000:01:00.0"

START_TEST(an_iommu_with_no_room_beside_memory_is_refused)
{
	fake_init();
	(void)fake_add_device(DEVICE, fake_add_group(7));
	fake.ranges[0] = (struct vfio_iova_range){ .end = 0xffffffff };
	fake.nr_ranges = 1;
	config.devices[0].name = DEVICE;
	config.nr_devices = 1;
	ck_assert_int_eq(machine_init(&machine, &config), -E2BIG);
	expect_in_log("E --memory ",
		      "M: more than half of the IOMMU's 32-bit address space; give the guest "
		      "less");
	expect_nothing_left();
	fake_finish();
}
END_TEST

static uint64_t bar_address(void)
{
	return machine.attach.devices[0].pci->pci.bars[0].address;
}

static int touches_a_bar_that_is_gone(struct kvm_run *run)
{
	uint64_t devfn = machine.attach.devices[0].pci->pci.devfn;

	io_bus_write(&machine.mmio, LAYOUT_ECAM_BASE + (devfn << 12) + PCI_COMMAND, 2,
		     PCI_COMMAND_MEMORY);
	ck_assert_uint_eq(fake_kvm_nr_slots(), 2);
	fake.devices[0].dead = true;
	return is_an_error(run);
}

static int reads_the_bar(struct kvm_run *run)
{
	ck_assert_uint_eq(fake_kvm_nr_slots(), 1);
	run->exit_reason = KVM_EXIT_MMIO;
	run->mmio.phys_addr = bar_address();
	run->mmio.len = 4;
	run->mmio.is_write = 0;
	return 0;
}

static int has_read_ones_of_the_bar(struct kvm_run *run)
{
	static const uint8_t ones[] = { 0xff, 0xff, 0xff, 0xff };

	ck_assert_mem_eq(run->mmio.data, ones, sizeof(ones));
	return powers_off(run);
}

START_TEST(a_guest_goes_on_without_a_device_that_is_gone)
{
	fake_init();
	struct fake_device *dev = fake_add_device(DEVICE, fake_add_group(7));
	fake_set_bar(dev, 0, 0, 4096, VFIO_REGION_INFO_FLAG_MMAP);
	config.devices[0].name = DEVICE;
	config.nr_devices = 1;
	fake_kvm.steps[0] = touches_a_bar_that_is_gone;
	fake_kvm.steps[1] = reads_the_bar;
	fake_kvm.steps[2] = has_read_ones_of_the_bar;
	ck_assert_int_eq(run(), STATUS_POWER_OFF);
	expect_in_log("W vfio: " DEVICE ": its memory does not answer the processor",
		      "I guest switched itself off");
	machine_finish(&machine);
	fake_finish();
}
END_TEST

START_TEST(a_device_in_trouble_is_told_and_one_wanted_back_as_well)
{
	const char *path = use_events();

	fake_init();
	struct fake_device *dev = fake_add_device(DEVICE, fake_add_group(7));
	dev->irqs[VFIO_PCI_ERR_IRQ_INDEX].count = 1;
	dev->irqs[VFIO_PCI_REQ_IRQ_INDEX].count = 1;
	config.devices[0].name = DEVICE;
	config.nr_devices = 1;
	fake_kvm.steps[0] = gets_sigterm;
	fake_kvm.steps[1] = gets_sigterm_again_after_the_button;
	init();
	eventfd_signal(machine.attach.devices[0].req.fd);
	ck_assert_int_eq(machine_run(&machine), STATUS_FAILED);
	machine_finish(&machine);
	expect_in_log("W vfio: the host asks for " DEVICE
		      " back; it gets it when the guest lets go of it, which it is asked to",
		      "I SIGTERM: stopping");
	json_t *events = parse_events(take_file(path));
	ck_assert_uint_eq(count_events(events, "attached", "device", DEVICE), 1);
	ck_assert_uint_eq(count_events(events, "device-wanted-back", "device", DEVICE), 1);
	ck_assert_uint_eq(count_named(events, "device-error"), 0);
	json_decref(events);

	memset(fake_kvm.steps, 0, sizeof(fake_kvm.steps));
	init();
	eventfd_signal(machine.attach.devices[0].err.fd);
	ck_assert_int_eq(machine_run(&machine), STATUS_FAILED);
	machine_finish(&machine);
	expect_in_log("E vfio: " DEVICE " reports an error it does not recover from",
		      "stopping the guest");
	events = parse_events(take_file(path));
	ck_assert_uint_eq(count_events(events, "device-error", "device", DEVICE), 1);
	json_decref(events);

	config.devices[0].on_error = DEVICE_ERROR_DETACHES;
	init();
	eventfd_signal(machine.attach.devices[0].err.fd);
	machine.attach.devices[0].err.ready(&machine.attach.devices[0].err, EPOLLIN);
	expect_in_log("E vfio: " DEVICE " reports an error it does not recover from",
		      "taking it from the guest");
	ck_assert_ptr_null(machine.attach.devices[0].pci);
	ck_assert_uint_eq(reclaim_inhibitors(&machine.reclaim), 0);
	machine_finish(&machine);
	events = parse_events(take_file(path));
	ck_assert_uint_eq(count_events(events, "device-error", "device", DEVICE), 1);
	ck_assert_uint_eq(count_events(events, "detached", "device", DEVICE), 1);
	json_decref(events);
	fake_finish();
}
END_TEST

/* Devices that come and go. */

#define SECOND "0000:02:00.0"
#define BALLOON_GPA (32 * MIB)

/* What must be as it was when a device has come and gone, or has not come. */
struct holdings {
	unsigned int fds, slots, irqfds, routes, groups, inhibitors, pinners, on_bus, maps;
	uint64_t held, reclaimed, pinned;
	uint32_t removable;
};

static struct holdings look(void)
{
	struct reclaim_figures f;
	struct holdings h = {
		.fds = process_nr_fds(),
		.slots = fake_kvm_nr_slots(),
		.irqfds = fake_kvm.nr_irqfds,
		.routes = fake_kvm.nr_routes,
		.groups = fake_kvm.nr_groups,
		.maps = fake.nr_maps,
		.pinned = vfio_pinned(&machine.vfio),
		.removable = machine.hotplug.removable,
	};

	reclaim_figures(&machine.reclaim, &f);
	h.inhibitors = f.nr_inhibitors;
	h.pinners = f.nr_pinners;
	h.held = f.held;
	h.reclaimed = f.reclaimed;
	for (unsigned int i = 0; i < PCI_NR_DEVFNS; i++)
		h.on_bus += machine.pci.devices[i] != NULL;
	return h;
}

static void expect_same(const struct holdings *before)
{
	const struct holdings now = look();

	ck_assert_uint_eq(now.fds, before->fds);
	ck_assert_uint_eq(now.slots, before->slots);
	ck_assert_uint_eq(now.irqfds, before->irqfds);
	ck_assert_uint_eq(now.routes, before->routes);
	ck_assert_uint_eq(now.groups, before->groups);
	ck_assert_uint_eq(now.inhibitors, before->inhibitors);
	ck_assert_uint_eq(now.pinners, before->pinners);
	ck_assert_uint_eq(now.on_bus, before->on_bus);
	ck_assert_uint_eq(now.maps, before->maps);
	ck_assert_uint_eq(now.held, before->held);
	ck_assert_uint_eq(now.reclaimed, before->reclaimed);
	ck_assert_uint_eq(now.pinned, before->pinned);
	ck_assert_uint_eq(now.removable, before->removable);
}

/* A guest with 8 MiB in its balloon, and a device on the host with a BAR, an INTx pin and MSI. */
static void init_with_balloon(void)
{
	fake_init();
	struct fake_device *dev = fake_add_device(DEVICE, fake_add_group(7));
	dev->irqs[VFIO_PCI_ERR_IRQ_INDEX].count = 1;
	dev->irqs[VFIO_PCI_REQ_IRQ_INDEX].count = 1;
	dev->irqs[VFIO_PCI_INTX_IRQ_INDEX].count = 1;
	dev->config[PCI_INTERRUPT_PIN] = 1;
	fake_set_bar(dev, 0, 0, 4096, VFIO_REGION_INFO_FLAG_MMAP);
	config.has_balloon = true;
	init();
	ck_assert_int_eq(reclaim_take(&machine.reclaim, BALLOON_GPA, 8 * MIB), 0);
}

/* Among lines of what went well so far. */
static void expect_logged(const char *part)
{
	const char *log = process_log();

	ck_assert_msg(strstr(log, part), "no \"%s\" in \"%s\"", part, log);
}

static struct attach_result attached;
static bool has_ended;

static void ended(void *opaque, const struct attach_result *result)
{
	ck_assert_ptr_eq(opaque, &has_ended);
	ck_assert(!has_ended);
	attached = *result;
	has_ended = true;
}

static void begin_attach(const struct attach_request *request)
{
	has_ended = false;
	attach_add(&machine, request, ended, &has_ended);
}

/* To its end, which takes steps. */
static int attach_by(const struct attach_request *request, uint64_t *ret_back)
{
	struct event_source *step = &machine.attach.step;

	begin_attach(request);
	while (!has_ended)
		step->ready(step, EPOLLIN);
	*ret_back = attached.back;
	if (attached.r < 0)
		ck_assert_str_ne(attached.reason, "");
	return attached.r;
}

static int attach_some(const char *host, uint64_t *ret_back)
{
	const struct attach_request request = { .host = host };

	fake_forget_record();
	return attach_by(&request, ret_back);
}

static void let_go(void)
{
	attach_ejected(&machine, machine.attach.devices[0].pci->pci.devfn >> 3);
	attach_take_out(&machine);
}

START_TEST(a_device_comes_and_goes_500_times)
{
	uint64_t back = 0;

	init_with_balloon();
	ck_assert_int_eq(attach_some(DEVICE, &back), 0);
	let_go(); /* what knows of groups is made once, and stays */
	const struct holdings before = look();
	ck_assert_uint_eq(before.reclaimed, 8 * MIB);
	ck_assert_uint_eq(before.removable, 0);
	for (unsigned int i = 0; i < 500; i++) {
		ck_assert_int_eq(attach_some(DEVICE, &back), 0);
		ck_assert_uint_eq(back, 8 * MIB);
		const struct holdings with = look();
		ck_assert_uint_eq(with.inhibitors, 1);
		ck_assert_uint_eq(with.reclaimed, 0);
		ck_assert_uint_eq(with.held, 8 * MIB);
		ck_assert_uint_eq(with.pinned, config.memory);
		ck_assert_uint_eq(with.on_bus, before.on_bus + 1);
		ck_assert_uint_ne(with.removable, 0);
		if (i % 2)
			let_go();
		else
			ck_assert_int_eq(attach_remove(&machine, "01:00.0", DETACH_BY_FORCE),
					 0);
		expect_same(&before);
	}
	ck_assert_int_eq(fake.containers[0].fd, 0);
	(void)process_log();
	machine_finish(&machine);
	fake_finish();
}
END_TEST

/* The guest reads which slots it is asked for; and answers, which may be late. */
static void read_what_is_asked(void)
{
	(void)io_bus_read(&machine.pio, LAYOUT_HOTPLUG_PORT + 4, 4);
}

START_TEST(a_late_answer_does_not_take_what_has_come_since)
{
	struct vfio_pci **pci = &machine.attach.devices[0].pci;
	uint64_t back = 0;

	init_with_balloon();
	ck_assert_int_eq(attach_some(DEVICE, &back), 0);
	const uint8_t first = (*pci)->pci.devfn;
	ck_assert_int_eq(attach_remove(&machine, DEVICE, DETACH_BY_FORCE), 0);
	read_what_is_asked();
	ck_assert_int_eq(attach_some(DEVICE, &back), 0);
	const uint8_t second = (*pci)->pci.devfn;
	ck_assert_uint_ne(second, first);
	io_bus_write(&machine.pio, LAYOUT_HOTPLUG_PORT + 8, 4, 1u << (first >> 3));
	attach_take_out(&machine);
	ck_assert_ptr_nonnull(*pci);
	/* It has answered: the slot can be had again. One that was asked twice answers twice. */
	for (unsigned int i = 0; i < 2; i++) {
		ck_assert_int_eq(attach_remove(&machine, DEVICE, DETACH_ASKS), 0);
		read_what_is_asked();
	}
	for (unsigned int i = 0; i < 2; i++) {
		io_bus_write(&machine.pio, LAYOUT_HOTPLUG_PORT + 8, 4, 1u << (second >> 3));
		attach_take_out(&machine);
		ck_assert_int_eq(!*pci, i == 0);
		if (i == 0)
			ck_assert_int_eq(attach_some(DEVICE, &back), 0);
		ck_assert_uint_eq((*pci)->pci.devfn, first);
	}
	machine_finish(&machine);
	(void)process_log();
	fake_finish();
}
END_TEST

/* Loop within: VFIO's calls, then KVM's. */
START_TEST(every_step_of_an_attach_that_fails_leaves_all_as_it_was)
{
	uint64_t back = 0;

	init_with_balloon();
	ck_assert_int_eq(attach_some(DEVICE, &back), 0);
	let_go();
	const struct holdings before = look();
	for (unsigned int kvms = 0; kvms < 2; kvms++) {
		unsigned int n = 0, nr_failed = 0;
		bool failed = true;
		for (; failed; n++) {
			fake.nr_calls = 0;
			fake.failed = false;
			fake.fail_at = kvms ? 0 : n + 1;
			fake_kvm.nr_calls = 0;
			fake_kvm.failed = NULL;
			fake_kvm.fail_at = kvms ? n + 1 : 0;
			(void)process_log();
			int r = attach_some(DEVICE, &back);
			fake.fail_at = fake_kvm.fail_at = 0;
			failed = kvms ? fake_kvm.failed != NULL : fake.failed;
			nr_failed += r < 0;
			if (r < 0)
				expect_logged("E vfio: ");
			else
				let_go();
			expect_same(&before);
		}
		/* All but, of VFIO's, the reset and a map of the BAR. */
		ck_assert_uint_eq(nr_failed, kvms ? n - 1 : n - 1 - 2);
		ck_assert_uint_ge(nr_failed, kvms ? 1 : 20);
	}
	machine_finish(&machine);
	fake_finish();
}
END_TEST

/* As a host with next to nothing to spare would say it. */
START_TEST(what_the_host_has_no_memory_for_is_not_attached)
{
	static const char poor[] = "MemTotal: 16 kB\nMemAvailable: 4 kB\nSwapFree: 4 kB\n";
	uint64_t back = 0;

	init_with_balloon();
	ck_assert_int_eq(attach_some(DEVICE, &back), 0);
	let_go();
	const struct holdings before = look();
	autoclose int fd = memfd_create("meminfo", MFD_CLOEXEC);
	ck_assert_int_eq(write(fd, poor, sizeof(poor) - 1), sizeof(poor) - 1);
	autoclose int nothing = memfd_create("statm", MFD_CLOEXEC);
	int meminfo = machine.host_memory.meminfo;
	int statm = machine.host_memory.statm;
	ck_assert_int_ge(meminfo, 0);
	ck_assert_int_ge(statm, 0);
	machine.host_memory.meminfo = fd;
	machine.host_memory.statm = nothing;
	for (unsigned int coordinate = 0; coordinate < 2; coordinate++) {
		machine.vfio.config.coordinate = coordinate;
		(void)process_log();
		ck_assert_int_eq(attach_some(DEVICE, &back), -ENOMEM);
		expect_logged("MiB more have to be pinned for it, and the host has 0 MiB");
	}
	machine.vfio.config.coordinate = false;
	machine.host_memory.statm = statm;
	machine.host_memory.meminfo = meminfo;
	ck_assert_int_eq(close(fd), 0);
	ck_assert_int_eq(close(nothing), 0);
	fd = nothing = -1;
	expect_same(&before);
	ck_assert_int_eq(attach_some(DEVICE, &back), 0);
	let_go();
	machine_finish(&machine);
	fake_finish();
}
END_TEST

/* Whether the automatic gives a guest more that says it has nothing left: is it believed? */
static bool is_believed(time_t age, int64_t updated)
{
	struct virtio_balloon *b = &machine.balloon;
	struct virtio_balloon_state state;

	ck_assert_int_eq(virtio_balloon_set_target(b, 32 * MIB), 0);
	b->stats.values[6] = 0; /* available memory */
	b->stats.arrived = now_seconds() - age;
	b->stats.updated = updated;
	machine.auto_timer.ready(&machine.auto_timer, 0);
	virtio_balloon_get_state(b, &state);
	return state.target < 32 * MIB;
}

START_TEST(how_old_statistics_are_no_clock_that_is_set_says)
{
	config.memory = 128 * MIB;
	config.auto_balloon.on = true;
	init_with_balloon();
	ck_assert(is_believed(0, time(NULL)));
	ck_assert(is_believed(0, time(NULL) - 3600)); /* since then it was set forward */
	ck_assert(!is_believed(60, time(NULL)));      /* or back, by a minute */
	ck_assert(!is_believed(60, time(NULL) - 60));
	machine_finish(&machine);
	fake_finish();
}
END_TEST

static bool is_present(gpa_t gpa)
{
	unsigned char present = 0;

	ck_assert_int_eq(mincore((char *)machine.ram.host + gpa, 4096, &present), 0);
	return present & 1;
}

static bool tick_is_due(void)
{
	struct itimerspec left;

	ck_assert_int_eq(timerfd_gettime(machine.balloon.rest_timer.fd, &left), 0);
	return left.it_value.tv_sec || left.it_value.tv_nsec;
}

/* With the policy coordinated: what is live, and without an inhibitor. */
START_TEST(what_is_live_is_present_before_it_is_pinned_and_others_have_their_turn)
{
	const struct attach_request request = { .host = DEVICE };
	struct event_source *step = &machine.attach.step;

	config.memory = 128 * MIB; /* two steps */
	config.policy = RECLAIM_COORDINATED;
	init_with_balloon();
	(void)reclaim_tick(&machine.reclaim);
	const struct holdings before = look();
	ck_assert_uint_eq(before.reclaimed, 8 * MIB);
	begin_attach(&request);
	ck_assert(!has_ended);
	step->ready(step, EPOLLIN);
	ck_assert(!has_ended);
	ck_assert_int_eq(fake.containers[0].fd, 0);
	ck_assert_uint_eq(look().inhibitors, before.inhibitors);
	ck_assert(is_present(BALLOON_GPA - 4096));
	ck_assert(!is_present(BALLOON_GPA));
	ck_assert(is_present(64 * MIB - 4096));
	ck_assert(!is_present(64 * MIB));
	/* The balloon goes on. */
	ck_assert_int_eq(reclaim_take(&machine.reclaim, 2 * BALLOON_GPA, 4 * MIB), 0);
	ck_assert_uint_eq(look().reclaimed, 12 * MIB);
	ck_assert_int_eq(reclaim_give_back(&machine.reclaim, BALLOON_GPA, 8 * MIB), 0);
	step->ready(step, EPOLLIN);
	ck_assert(has_ended);
	ck_assert_int_eq(attached.r, 0);
	ck_assert_uint_eq(attached.back, 0); /* what came back was not for the device */
	ck_assert_uint_eq(look().pinned, 124 * MIB);
	ck_assert_uint_eq(look().inhibitors, before.inhibitors);
	ck_assert_int_eq(reclaim_give_back(&machine.reclaim, 2 * BALLOON_GPA, 4 * MIB), 0);
	ck_assert_uint_eq(look().pinned, 128 * MIB);
	let_go();
	ck_assert_uint_eq(look().pinned, 0);
	ck_assert_uint_eq(look().reclaimed, 0);
	machine_finish(&machine);
	fake_finish();
}
END_TEST

/* A hole in RAM stands for a host without memory, in the second step. */
START_TEST(a_step_that_finds_no_memory_ends_it_and_gives_back_what_the_first_made_present)
{
	const struct attach_request request = { .host = DEVICE };
	struct event_source *step = &machine.attach.step;
	struct event_source *rest = &machine.balloon.rest_timer;

	config.memory = 128 * MIB; /* two steps */
	config.policy = RECLAIM_COORDINATED;
	init_with_balloon();
	ck_assert_int_eq(reclaim_take(&machine.reclaim, BALLOON_GPA - MIB, MIB), 0);
	(void)reclaim_tick(&machine.reclaim);
	const struct holdings before = look();
	ck_assert_uint_eq(before.reclaimed, 9 * MIB);
	char *page = (char *)machine.ram.host + 96 * MIB;
	ck_assert_int_eq(munmap(page, 4096), 0);
	begin_attach(&request);
	step->ready(step, EPOLLIN);
	/* Half a granule would not stay with the host if a device pinned. */
	ck_assert_uint_eq(look().reclaimed, 8 * MIB);
	ck_assert(is_present(BALLOON_GPA - MIB));
	(void)process_log();
	step->ready(step, EPOLLIN);
	ck_assert(has_ended);
	ck_assert_int_lt(attached.r, 0);
	ck_assert_ptr_nonnull(strstr(attached.reason, "no memory for what is to be pinned"));
	ck_assert(tick_is_due());
	rest->ready(rest, EPOLLIN);
	ck_assert(!is_present(BALLOON_GPA - MIB));
	expect_same(&before);
	ck_assert_ptr_eq(mmap(page, 4096, PROT_READ | PROT_WRITE,
			      MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS, -1, 0),
			 page);
	(void)process_log();
	machine_finish(&machine);
	fake_finish();
}
END_TEST

/* A guest of two steps, of which a device has come and gone. */
static struct holdings init_for_two_steps(enum reclaim_policy policy)
{
	uint64_t back = 0;

	config.memory = 128 * MIB;
	config.policy = policy;
	init_with_balloon();
	ck_assert_int_eq(attach_some(DEVICE, &back), 0);
	let_go();
	return look();
}

/* All begins anew: what the balloon gave to the host comes back as well. */
START_TEST(a_policy_that_is_switched_to_inhibit_while_a_device_is_on_its_way_counts)
{
	const struct attach_request request = { .host = DEVICE };
	struct event_source *step = &machine.attach.step;
	const struct holdings before = init_for_two_steps(RECLAIM_COORDINATED);

	begin_attach(&request);
	step->ready(step, EPOLLIN);
	ck_assert_int_eq(machine_set_policy(&machine, RECLAIM_INHIBIT), 0);
	step->ready(step, EPOLLIN);
	ck_assert_uint_eq(look().inhibitors, before.inhibitors + 1);
	ck_assert_uint_eq(look().reclaimed, 0);
	for (unsigned int i = 0; i < 2; i++) {
		ck_assert(!has_ended);
		step->ready(step, EPOLLIN);
	}
	ck_assert(has_ended);
	ck_assert_int_eq(attached.r, 0);
	ck_assert_uint_eq(attached.back, 8 * MIB);
	ck_assert_uint_eq(look().pinned, 128 * MIB);
	let_go();
	expect_same(&before);
	machine_finish(&machine);
	fake_finish();
}
END_TEST

/* And back: what the balloon holds goes to the host again, and stays there. */
START_TEST(a_policy_that_is_switched_to_coordinated_while_a_device_is_on_its_way_counts)
{
	const struct attach_request request = { .host = DEVICE };
	struct event_source *step = &machine.attach.step;
	const struct holdings before = init_for_two_steps(RECLAIM_INHIBIT);

	ck_assert_uint_eq(before.reclaimed, 8 * MIB);
	begin_attach(&request);
	step->ready(step, EPOLLIN);
	ck_assert_uint_eq(look().inhibitors, before.inhibitors + 1);
	ck_assert_uint_eq(look().reclaimed, 0);
	ck_assert_int_eq(machine_set_policy(&machine, RECLAIM_COORDINATED), 0);
	step->ready(step, EPOLLIN);
	ck_assert_uint_eq(look().inhibitors, before.inhibitors);
	for (unsigned int i = 0; i < 2; i++) {
		ck_assert(!has_ended);
		step->ready(step, EPOLLIN);
	}
	ck_assert(has_ended);
	ck_assert_int_eq(attached.r, 0);
	ck_assert_uint_eq(look().reclaimed, 8 * MIB);
	ck_assert(!is_present(BALLOON_GPA));
	ck_assert_uint_eq(look().pinned, 120 * MIB);
	let_go();
	expect_same(&before);
	machine_finish(&machine);
	fake_finish();
}
END_TEST

/* With initial= its container sleeps until it is used. */
START_TEST(for_a_device_that_maps_late_nothing_is_made_present)
{
	const struct attach_request request = { .host = DEVICE };

	config.memory = 128 * MIB;
	config.policy = RECLAIM_COORDINATED;
	config.balloon_keep = 64 * MIB;
	init_with_balloon();
	begin_attach(&request);
	ck_assert(has_ended);
	ck_assert_int_eq(attached.r, 0);
	ck_assert_uint_eq(look().pinned, 0);
	let_go();
	machine_finish(&machine);
	fake_finish();
}
END_TEST

/* Of a device that goes the balloon hears, and looks at what it holds in parts of huge pages. */
START_TEST(what_the_balloon_holds_in_parts_goes_a_second_after_the_device)
{
	uint64_t back = 0;

	init_with_balloon();
	ck_assert_int_eq(attach_some(DEVICE, &back), 0);
	ck_assert_int_eq(reclaim_take(&machine.reclaim, BALLOON_GPA - MIB, MIB), 0);
	ck_assert(!tick_is_due());
	let_go();
	ck_assert_uint_eq(look().reclaimed, 8 * MIB);
	ck_assert(tick_is_due());
	machine.balloon.rest_timer.ready(&machine.balloon.rest_timer, EPOLLIN);
	ck_assert_uint_eq(look().reclaimed, 9 * MIB);
	machine_finish(&machine);
	fake_finish();
}
END_TEST

START_TEST(what_an_attach_takes_may_be_opened_by_others)
{
	struct vfio_opened opened = {
		.name = DEVICE, .group = 7, .group_fd = -1, .container_fd = -1
	};
	const struct attach_request request = { .host = DEVICE, .id = "it", .opened = &opened };
	uint64_t back = 0;

	init_with_balloon();
	ck_assert_int_eq(attach_some(DEVICE, &back), 0);
	let_go();
	(void)process_log();
	const struct holdings before = look();
	ck_assert_int_eq(attach_by(&request, &back), -EBUSY);
	expect_logged("attach " DEVICE ": no descriptor of /dev/vfio/7 came with it");
	ck_assert_int_eq(vfio_open_group(7, &opened.group_fd), 0);
	ck_assert_int_eq(attach_by(&request, &back), -EBADF);
	expect_logged("no descriptor of /dev/vfio/vfio came with it");
	expect_same(&before);
	ck_assert_int_eq(vfio_open_group(7, &opened.group_fd), 0);
	ck_assert_int_eq(vfio_open_container(&opened.container_fd), 0);
	fake_forget_record();
	ck_assert_int_eq(attach_by(&request, &back), 0);
	ck_assert_int_eq(opened.group_fd, -1);
	ck_assert_int_eq(opened.container_fd, -1);
	ck_assert_uint_eq(fake_count("open_group") + fake_count("open_container"), 0);
	/* It is called as was asked for, and has its own name as well. */
	ck_assert_str_eq(machine.attach.devices[0].id, "it");
	(void)process_log();
	ck_assert_int_eq(attach_by(&request, &back), -EEXIST);
	expect_logged(DEVICE ": it is assigned already");
	ck_assert_int_eq(attach_remove(&machine, "other", DETACH_BY_FORCE), -ENODEV);
	ck_assert_int_eq(attach_remove(&machine, "it", DETACH_BY_FORCE), 0);
	expect_same(&before);
	(void)process_log();
	machine.sandbox.config.mode = SANDBOX_ON;
	ck_assert_int_eq(attach_some(DEVICE, &back), -EPERM);
	expect_logged("the sandbox opens nothing: use ballast ctl attach");
	machine.sandbox.config.mode = SANDBOX_OFF;
	machine_finish(&machine);
	fake_finish();
}
END_TEST

/* Loop within: one container takes both groups, or each has its own. */
START_TEST(the_balloon_moves_while_a_device_is_on_its_way)
{
	const struct attach_request request = { .host = DEVICE };
	struct event_source *step = &machine.attach.step;
	uint64_t back = 0;

	config.memory = 96 * MIB; /* two steps */
	init_with_balloon();
	ck_assert_int_eq(attach_some(DEVICE, &back), 0);
	let_go();
	const struct holdings before = look();
	begin_attach(&request);
	ck_assert(!has_ended);
	ck_assert_uint_eq(look().inhibitors, 1);
	ck_assert_uint_eq(look().reclaimed, 0);
	step->ready(step, EPOLLIN);
	ck_assert(!has_ended);
	ck_assert_int_eq(fake.containers[0].fd, 0);
	ck_assert_int_eq(reclaim_take(&machine.reclaim, 2 * BALLOON_GPA, 4 * MIB), 0);
	ck_assert_uint_eq(look().held, 12 * MIB);
	ck_assert_uint_eq(look().reclaimed, 0);
	/* One at a time. */
	struct attach_result first = attached;
	attach_add(&machine, &request, ended, &has_ended);
	ck_assert_int_eq(attached.r, -EBUSY);
	has_ended = false;
	attached = first;
	step->ready(step, EPOLLIN);
	ck_assert(has_ended);
	ck_assert_int_eq(attached.r, 0);
	ck_assert_uint_eq(attached.back, 8 * MIB);
	ck_assert_uint_eq(look().inhibitors, 1);
	let_go();
	ck_assert_uint_eq(look().reclaimed, 12 * MIB);
	ck_assert_int_eq(reclaim_give_back(&machine.reclaim, 2 * BALLOON_GPA, 4 * MIB), 0);
	expect_same(&before);
	/* Who asked goes; then the guest ends in the middle of it. */
	begin_attach(&request);
	attach_forget(&machine.attach, &before);
	attach_forget(&machine.attach, &has_ended);
	step->ready(step, EPOLLIN);
	step->ready(step, EPOLLIN);
	ck_assert(!has_ended);
	ck_assert_ptr_nonnull(machine.attach.devices[0].pci);
	let_go();
	begin_attach(&request);
	machine_finish(&machine);
	ck_assert(!has_ended);
	(void)process_log();
	fake_finish();
}
END_TEST

START_TEST(a_second_group_comes_and_the_first_goes)
{
	uint64_t back = 0;

	init_with_balloon();
	(void)fake_add_device(SECOND, fake_add_group(9));
	ck_assert_int_eq(attach_some(DEVICE, &back), 0);
	let_go();
	const struct holdings before = look();
	for (unsigned int refuses = 0; refuses < 2; refuses++) {
		fake.refuses_sharing = refuses;
		ck_assert_int_eq(attach_some(DEVICE, &back), 0);
		ck_assert_uint_eq(back, 8 * MIB);
		ck_assert_int_eq(attach_some(SECOND, &back), 0);
		ck_assert_uint_eq(back, 0);
		ck_assert_uint_eq(look().inhibitors, 2);
		ck_assert_uint_eq(look().pinners, 1 + refuses);
		ck_assert_int_eq(attach_remove(&machine, DEVICE, DETACH_BY_FORCE), 0);
		/* The other one still pins. */
		ck_assert_uint_eq(look().reclaimed, 0);
		ck_assert_uint_eq(look().pinned, config.memory);
		ck_assert_int_eq(attach_remove(&machine, SECOND, DETACH_BY_FORCE), 0);
		expect_same(&before);
	}
	(void)process_log();
	machine_finish(&machine);
	fake_finish();
}
END_TEST

static int lets_go_of_slots(struct kvm_run *run)
{
	uint32_t slots = machine.hotplug.removable;

	memcpy(port_data(run), &slots, sizeof(slots));
	return access_port(run, KVM_EXIT_IO_OUT, LAYOUT_HOTPLUG_PORT + 8, 4, 1);
}

START_TEST(a_guest_lets_go_of_a_device_while_it_runs)
{
	const char *path = use_events();
	uint64_t back = 0;

	fake_kvm.steps[0] = lets_go_of_slots;
	fake_kvm.steps[1] = powers_off;
	init_with_balloon();
	ck_assert_int_eq(attach_some(DEVICE, &back), 0);
	ck_assert_uint_ne(machine.hotplug.appeared, 0);
	ck_assert_int_eq(attach_remove(&machine, DEVICE, DETACH_ASKS), 0);
	ck_assert_uint_ne(machine.hotplug.asked, 0);
	/* It may be asked again, and has its time anew. */
	machine.attach.devices[0].seconds_left = 1;
	ck_assert_int_eq(attach_remove(&machine, DEVICE, DETACH_ASKS), 0);
	ck_assert_uint_eq(machine.attach.devices[0].seconds_left, ATTACH_EJECT_SECONDS);
	ck_assert_int_eq(machine_run(&machine), STATUS_POWER_OFF);
	ck_assert_ptr_null(machine.attach.devices[0].pci);
	ck_assert_uint_eq(look().inhibitors, 0);
	ck_assert_uint_eq(fake.nr_maps, 0);
	machine_finish(&machine);
	json_t *events = parse_events(take_file(path));
	ck_assert_uint_eq(count_events(events, "attached", "device", DEVICE), 1);
	ck_assert_uint_eq(count_events(events, "detach-asked", "device", DEVICE), 2);
	ck_assert_uint_eq(count_events(events, "detached", "device", DEVICE), 1);
	json_decref(events);
	(void)process_log();
	fake_finish();
}
END_TEST

START_TEST(a_reset_lets_go_of_what_was_asked_for_and_of_nothing_else)
{
	uint64_t back = 0;

	fake_kvm.steps[0] = resets;
	fake_kvm.steps[1] = powers_off;
	init_with_balloon();
	(void)fake_add_device(SECOND, fake_add_group(9));
	ck_assert_int_eq(attach_some(DEVICE, &back), 0);
	ck_assert_int_eq(attach_some(SECOND, &back), 0);
	ck_assert_int_eq(attach_remove(&machine, DEVICE, DETACH_ASKS), 0);
	ck_assert_int_eq(machine_run(&machine), STATUS_POWER_OFF);
	ck_assert_ptr_null(machine.attach.devices[0].pci);
	ck_assert_ptr_nonnull(machine.attach.devices[1].pci);
	ck_assert_uint_eq(look().inhibitors, 1);
	(void)process_log();
	machine_finish(&machine);
	fake_finish();
}
END_TEST

static int switches_dma_on_and_resets(struct kvm_run *run)
{
	uint64_t devfn = machine.attach.devices[0].pci->pci.devfn;

	fake.devices[0].dma = memory_ptr(&machine.map, ENTRY, 7);
	io_bus_write(&machine.mmio, LAYOUT_ECAM_BASE + (devfn << 12) + PCI_COMMAND, 2,
		     PCI_COMMAND_MASTER);
	return resets(run);
}

START_TEST(a_device_at_dma_is_stopped_before_the_kernel_is_loaded_anew)
{
	uint64_t back = 0;

	fake_kvm.steps[0] = switches_dma_on_and_resets;
	fake_kvm.steps[1] = powers_off;
	init_with_balloon();
	ck_assert_int_eq(attach_some(DEVICE, &back), 0);
	ck_assert_int_eq(machine_run(&machine), STATUS_POWER_OFF);
	ck_assert_uint_eq(fake_count("dma " DEVICE), 1);
	ck_assert_str_eq(memory_ptr(&machine.map, ENTRY, 7), "kernel");
	(void)process_log();
	machine_finish(&machine);
	fake_finish();
}
END_TEST

/* The timer's second is over. */
static void tick(void)
{
	const struct itimerspec soon = { .it_value.tv_nsec = 1 };
	struct event_source *timer = &machine.attach.timer;
	struct pollfd fd = { .fd = timer->fd, .events = POLLIN };

	ck_assert_int_eq(timerfd_settime(timer->fd, 0, &soon, NULL), 0);
	ck_assert_int_eq(poll(&fd, 1, -1), 1);
	timer->ready(timer, EPOLLIN);
}

START_TEST(a_guest_is_reminded_of_what_it_has_not_read_and_asked_again)
{
	struct itimerspec left;
	uint64_t back = 0;

	init_with_balloon();
	ck_assert_int_eq(attach_some(DEVICE, &back), 0);
	machine.power.events = 0; /* as if the interrupt had come to nobody */
	tick();
	ck_assert_uint_eq(machine.power.events, POWER_EVENT_HOTPLUG);
	machine.hotplug.appeared = 0;
	tick();
	ck_assert_int_eq(timerfd_gettime(machine.attach.timer.fd, &left), 0);
	ck_assert_int_eq(left.it_interval.tv_sec, 0);
	ck_assert_int_eq(attach_remove(&machine, DEVICE, DETACH_ASKS), 0);
	machine.hotplug.asked = 0; /* read, and nothing came of it */
	for (unsigned int i = 0; i < 9; i++)
		tick();
	ck_assert_uint_eq(machine.hotplug.asked, 0);
	tick();
	ck_assert_uint_ne(machine.hotplug.asked, 0);
	machine_finish(&machine);
	(void)process_log();
	fake_finish();
}
END_TEST

#define IT                                                         \
	"\"device\": \"it\", \"path\": \"/machine/peripheral/it\"" \
	", \"x-ballast\": {\"host\": \"" DEVICE "\"}"

/* Who asked for it by its name knows of no id. */
START_TEST(clients_hear_of_a_device_by_its_id_and_by_its_name)
{
	const struct attach_request request = { .host = DEVICE, .id = "it" };
	struct epoll_event e;
	uint64_t back = 0;

	fake_init();
	(void)fake_add_device(DEVICE, fake_add_group(7));
	init_with_client();
	while (epoll_wait(machine.loop.epoll_fd, &e, 1, 0) == 1) {
		struct event_source *source = e.data.ptr;
		source->ready(source, e.events);
	}
	ck_assert_int_eq(attach_by(&request, &back), 0);
	ck_assert_int_eq(attach_remove(&machine, DEVICE, DETACH_ASKS), 0);
	for (unsigned int i = 0; i < ATTACH_EJECT_SECONDS; i++)
		tick();
	let_go();
	(void)hear_all();
	expect_heard(EVENT("DEVICE_UNPLUG_GUEST_ERROR", IT));
	expect_heard(EVENT("DEVICE_DELETED", IT));
	(void)process_log();
	fake_finish();
}
END_TEST

START_TEST(a_guest_that_does_not_let_go_is_told_of)
{
	const char *path = use_events();
	struct itimerspec left;
	uint64_t back = 0;

	init_with_balloon();
	ck_assert_int_eq(attach_some(DEVICE, &back), 0);
	ck_assert_int_eq(attach_remove(&machine, DEVICE, DETACH_ASKS), 0);
	for (unsigned int i = 0; i < ATTACH_EJECT_SECONDS; i++) {
		(void)process_log();
		tick();
		ck_assert_int_eq(timerfd_gettime(machine.attach.timer.fd, &left), 0);
		ck_assert_int_eq(left.it_interval.tv_sec, i + 1 < ATTACH_EJECT_SECONDS);
	}
	expect_logged("W vfio: the guest has not let go of " DEVICE " within 30 s: it stays");
	ck_assert_ptr_nonnull(machine.attach.devices[0].pci);
	/* It may yet. */
	let_go();
	ck_assert_ptr_null(machine.attach.devices[0].pci);
	machine_finish(&machine);
	json_t *events = parse_events(take_file(path));
	ck_assert_uint_eq(count_events(events, "detach-timeout", "device", DEVICE), 1);
	json_decref(events);
	(void)process_log();
	fake_finish();
}
END_TEST

START_TEST(events_name_who_inhibits_and_what_is_asked_for)
{
	static const char owner[] = "kvm without synchronous mmu";
	const char *path = use_events();

	config.has_balloon = true;
	config.memory = 128 * MIB;
	fake_kvm.absent = KVM_CAP_SYNC_MMU;
	fake_kvm.steps[0] = powers_off;
	init();
	ck_assert_int_eq(machine_set_memory(&machine, 96 * MIB), 0);
	machine_power_down(&machine);
	ck_assert_int_eq(machine_run(&machine), STATUS_POWER_OFF);
	machine_finish(&machine);
	char *text = take_file(path);
	ck_assert_ptr_nonnull(strstr(text, "\"event\":\"balloon-target\""));
	ck_assert_ptr_nonnull(strstr(text, "\"bytes\":33554432"));
	ck_assert_ptr_nonnull(strstr(text, "\"event\":\"powerdown\""));
	json_t *events = parse_events(text);
	ck_assert_uint_eq(count_events(events, "inhibitor-raised", "owner", owner), 1);
	ck_assert_uint_eq(count_events(events, "inhibitor-lowered", "owner", owner), 1);
	json_decref(events);
}
END_TEST

START_TEST(events_tell_of_a_device_that_cannot_be_attached)
{
	const char *path = use_events();

	config.devices[0].name = "no such device";
	config.nr_devices = 1;
	ck_assert_int_lt(machine_init(&machine, &config), 0);
	process_expect_log("no such device");
	json_t *events = parse_events(take_file(path));
	ck_assert_uint_eq(count_events(events, "attach-failure", "device", "no such device"),
			  1);
	json_t *last = json_array_get(events, json_array_size(events) - 1);
	ck_assert_int_eq(json_integer_value(json_object_get(last, "status")), STATUS_USAGE);
	json_decref(events);
}
END_TEST

START_TEST(events_are_appended_and_a_pipe_may_be_slow)
{
	char buffer[FIFO_SIZE];
	const char *path = use_events();

	ck_assert_int_eq(mkfifo(path, 0600), 0);
	ck_assert_int_eq(machine_init(&machine, &config), -ENXIO);
	process_expect_log("nobody reads that pipe");
	int reader = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	ck_assert_int_eq(fcntl(reader, F_SETPIPE_SZ, FIFO_SIZE), FIFO_SIZE);
	init();
	for (unsigned int i = 0; i < 1000; i++)
		figures_event(&machine.figures, "test", NULL);
	ck_assert_int_gt(read(reader, buffer, sizeof(buffer)), 0);
	ck_assert_int_eq(read(reader, buffer, sizeof(buffer)), -1);
	figures_event(&machine.figures, "test", json_pack("{s:i}", "x", 5));
	ssize_t n = read(reader, buffer, sizeof(buffer) - 1);
	ck_assert_int_gt(n, 0);
	buffer[n] = '\0';
	ck_assert_ptr_nonnull(strstr(buffer, "\"x\":5"));
	const char *lost = strstr(buffer, "\"lost\":");
	ck_assert_ptr_nonnull(lost);
	ck_assert_int_gt(atoi(lost + 7), 900);
	ck_assert_int_lt(atoi(lost + 7), 1020);
	figures_event(&machine.figures, "test", NULL);
	n = read(reader, buffer, sizeof(buffer) - 1);
	buffer[n] = '\0';
	ck_assert_ptr_null(strstr(buffer, "lost"));
	machine_finish(&machine);
	close(reader);
	ck_assert_int_eq(unlink(path), 0);
}
END_TEST

static volatile sig_atomic_t hasty_reader;

static void stop_reading(int signal)
{
	(void)signal;
	close(hasty_reader);
	hasty_reader = -1;
}

/* The kernel signals what has come before the write that brought it returns. */
START_TEST(a_reader_of_events_may_go_away_at_once)
{
	const char *path = use_events();
	const struct sigaction action = { .sa_handler = stop_reading,
					  .sa_flags = (int)SA_RESETHAND };

	(void)signal(SIGPIPE, SIG_DFL);
	ck_assert_int_eq(sigaction(SIGIO, &action, NULL), 0);
	ck_assert_int_eq(mkfifo(path, 0600), 0);
	hasty_reader = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	ck_assert_int_eq(fcntl(hasty_reader, F_SETOWN, getpid()), 0);
	ck_assert_int_eq(fcntl(hasty_reader, F_SETFL, O_NONBLOCK | O_ASYNC), 0);
	init();
	ck_assert_int_eq(hasty_reader, -1);
	ck_assert_uint_gt(machine.figures.nr_lost, 0);
	machine_finish(&machine);
	ck_assert_int_eq(unlink(path), 0);
}
END_TEST

START_TEST(half_an_event_is_a_line_of_its_own)
{
	const char *path = use_events();
	struct rlimit limit, less;
	struct stat st;

	init();
	ck_assert_int_eq(getrlimit(RLIMIT_FSIZE, &limit), 0);
	ck_assert_int_eq(stat(path, &st), 0);
	less = (struct rlimit){ (rlim_t)st.st_size + 10, limit.rlim_max };
	ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &less), 0);
	figures_event(&machine.figures, "half", NULL);
	figures_event(&machine.figures, "none", NULL);
	ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
	figures_event(&machine.figures, "whole", NULL);
	figures_event(&machine.figures, "next", NULL);
	machine_finish(&machine);
	const char *text = take_file(path) + st.st_size;
	ck_assert_ptr_eq(strstr(text, "{\"event\":\"\n{\"event\":\"whole\""), text);
	ck_assert_ptr_nonnull(strstr(text, "\"lost\":2}\n{\"event\":\"next\""));
}
END_TEST

START_TEST(of_resets_for_ever_the_first_are_events)
{
	const char *path = use_events();

	nr_loops = 0;
	fake_kvm.steps[0] = resets_and_gets_sigterm_twice;
	ck_assert_int_eq(run(), STATUS_FAILED);
	ck_assert_uint_gt(machine.nr_resets, 2 * LOG_GUEST_BURST);
	machine_finish(&machine);
	char *text = take_file(path);
	const char *last = NULL;
	unsigned int nr_told = 0;
	for (const char *p = text; (p = strstr(p, "\"reset\"")); p++, nr_told++)
		last = p;
	ck_assert_uint_eq(nr_told, LOG_GUEST_BURST);
	ck_assert_ptr_eq(strchr(last, '\n'), strstr(text, "\"last-told\":true}") + 17);
}
END_TEST

/* Every line is a comment or a figure: NAME[{LABEL="..."}] NUMBER. */
static void expect_metrics(const char *text)
{
	for (const char *p = text; *p;) {
		size_t size = strcspn(p, "\n");
		ck_assert_int_eq(p[size], '\n');
		const char *number = memrchr(p, ' ', size);
		if (*p != '#') {
			ck_assert_int_eq(strncmp(p, "ballast_", 8), 0);
			ck_assert_uint_eq(strspn(number + 1, "0123456789"),
					  (size_t)(p + size - number - 1));
		}
		p += size + 1;
	}
}

START_TEST(metrics_are_those_of_the_end)
{
	static const char *const lines[] = {
		"ballast_ram_bytes 134217728\n",
		"ballast_balloon_target_bytes 67108864\n",
		"ballast_inhibitor{owner=\"kvm without synchronous mmu\"} 1\n",
		"ballast_inhibitor{owner=\"a\\\"b\\\\c\\nd\"} 1\n",
		"ballast_inhibitors 2\n",
		"ballast_reclaim_policy{policy=\"inhibit\"} 1\n",
		"ballast_reclaim_policy{policy=\"direct\"} 0\n",
		"ballast_reclaim_taken_bytes_total{policy=\"inhibit\"} 3145728\n",
		"ballast_balloon_held_back_bytes 3145728\n",
		"ballast_vcpu_exits_total{cpu=\"0\",reason=\"io\"} 2\n",
		"ballast_resets_total 1\n",
		"ballast_boot_phase_microseconds{phase=\"ram\"} ",
	};
	const char *path = use_metrics();
	struct inhibitor other = { 0 };
	char beside[96];

	config.has_balloon = true;
	config.balloon_keep = 64 * MIB;
	config.memory = 128 * MIB;
	fake_kvm.absent = KVM_CAP_SYNC_MMU;
	fake_kvm.steps[0] = resets;
	fake_kvm.steps[1] = powers_off;
	init();
	machine_run(&machine);
	ck_assert_int_eq(reclaim_take(&machine.reclaim, 0x2000000, 3 * MIB), 0);
	inhibitor_raise(&machine.reclaim, &other, "a\"b\\c\nd");
	figures_end(&machine.figures);
	inhibitor_lower(&machine.reclaim, &other);
	const char *text = take_file(path);
	for (unsigned int i = 0; i < nitems(lines); i++)
		ck_assert_msg(strstr(text, lines[i]), "%s in %s", lines[i], text);
	expect_metrics(text);
	(void)snprintf(beside, sizeof(beside), "%s.new", path);
	ck_assert_int_eq(access(beside, F_OK), -1);
	/* From now on it cannot be written: that is told once, and the guest goes on. */
	(void)process_log();
	ck_assert_int_eq(mkdir(path, 0700), 0);
	figures_end(&machine.figures);
	process_expect_log("W --metrics");
	figures_end(&machine.figures);
	process_expect_no_log();
	ck_assert_int_eq(access(beside, F_OK), -1);
	ck_assert_int_eq(rmdir(path), 0);
}
END_TEST

START_TEST(figures_that_cannot_be_written_are_refused)
{
	config.metrics = "/tmp/no/such/folder/file";
	expect_refusal(-ENOENT, "--metrics '/tmp/no/such/folder/file': No such file");
	config.metrics = "/tmp";
	expect_refusal(-EINVAL, "--metrics '/tmp': is there and no regular file");
	config.metrics = NULL;
	config.events = "/tmp";
	expect_refusal(-EISDIR, "--events '/tmp': Is a directory");
}
END_TEST

START_TEST(metrics_replace_only_a_regular_file)
{
	const char *path = use_metrics();
	struct stat st;
	char beside[96];

	(void)snprintf(beside, sizeof(beside), "%s.new", path);
	ck_assert_int_eq(symlink("/dev/null", path), 0);
	expect_refusal(-EINVAL, "is there and no regular file");
	ck_assert(lstat(path, &st) == 0 && S_ISLNK(st.st_mode));
	ck_assert_int_eq(unlink(path), 0);
	ck_assert_int_eq(mkfifo(path, 0600), 0);
	expect_refusal(-EINVAL, "is there and no regular file");
	ck_assert(lstat(path, &st) == 0 && S_ISFIFO(st.st_mode));
	/* Nor beside it, where nothing is written into, waited for or removed. */
	ck_assert_int_eq(rename(path, beside), 0);
	expect_refusal(-EEXIST, "--metrics '");
	ck_assert(lstat(beside, &st) == 0 && S_ISFIFO(st.st_mode));
	ck_assert_int_eq(unlink(beside), 0);
	ck_assert_int_eq(symlink(kernel_path, beside), 0);
	expect_refusal(-EEXIST, "--metrics '");
	ck_assert(lstat(beside, &st) == 0 && S_ISLNK(st.st_mode));
	ck_assert_int_eq(unlink(beside), 0);
	/* Half a file of a run that was killed, and a whole one, are replaced. */
	ck_assert_int_eq(close(open(beside, O_WRONLY | O_CREAT | O_CLOEXEC, 0400)), 0);
	ck_assert_int_eq(close(open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0400)), 0);
	init();
	ck_assert_int_eq(access(beside, F_OK), -1);
	machine_finish(&machine);
	expect_metrics(take_file(path));
}
END_TEST

/* A file descriptor for each step: one too few, wherever that strikes, leaves nothing. */
START_TEST(every_file_of_figures_may_be_one_too_many)
{
	struct rlimit limit, less;
	unsigned int nr_refused = 0;
	int r = -EMFILE;

	config.metrics = use_events();
	char events[96];
	(void)snprintf(events, sizeof(events), "%s.log", config.metrics);
	config.events = events;
	ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &limit), 0);
	for (rlim_t n = fds_before; r < 0; n++) {
		fake_kvm_init(); /* it counts all vCPUs there ever were */
		less = (struct rlimit){ n, limit.rlim_max };
		ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &less), 0);
		r = machine_init(&machine, &config);
		ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
		if (r < 0) {
			const char *log = process_log();
			nr_refused += strstr(log, "--events") || strstr(log, "--metrics") ||
				      strstr(log, "timer for figures");
			expect_nothing_left();
		}
	}
	ck_assert_uint_ge(nr_refused, 2);
	machine_finish(&machine);
	(void)unlink(config.metrics);
	(void)unlink(config.events);
}
END_TEST

START_TEST(nothing_is_listened_to_unless_somebody_wants_to_know)
{
	fake_kvm.steps[0] = prints;
	fake_kvm.steps[1] = powers_off;
	init();
	ck_assert_ptr_null(machine.figures.machine);
	ck_assert_ptr_eq(machine.serial.port.backend.opaque, &machine.serial_console);
	ck_assert_int_eq(machine_run(&machine), STATUS_POWER_OFF);
	machine_finish(&machine);
	log_set_level(LOG_DEBUG);
	fake_kvm_init();
	fake_kvm.steps[0] = prints;
	fake_kvm.steps[1] = powers_off;
	ck_assert_int_eq(run(), STATUS_POWER_OFF);
	expect_in_log("D boot, in ms: process ", ", first-output ");
}
END_TEST

/* The sandbox: in a process of its own, which cannot look at itself any more. */

static int status_in_sandbox(void)
{
	const struct rlimit no_core = { 0, 0 };
	int status = -1;

	pid_t pid = fork();
	if (pid == 0) {
		(void)setrlimit(RLIMIT_CORE, &no_core);
		status = machine_init(&machine, &config) < 0 ? 99 : machine_run(&machine);
		machine_finish(&machine);
		_exit(status);
	}
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	return status;
}

START_TEST(in_the_sandbox_it_lives_and_leaves_nothing)
{
	char console[96];
	char qmp[96];

	(void)snprintf(qmp, sizeof(qmp), "%s.qmp", kernel_path);
	(void)snprintf(console, sizeof(console), "%s.console", kernel_path);
	config.sandbox = SANDBOX_ON;
	config.has_balloon = true;
	config.has_console = true;
	config.console = (struct console_config){ CONSOLE_UNIX, console };
	config.serial = (struct console_config){ CONSOLE_UNIX, serial_path };
	config.qmp = qmp;
	config.disks[config.nr_disks++] =
		(struct virtio_blk_options){ .path = kernel_path, .readonly = true };
	const char *path = use_metrics();
	fake_kvm.steps[0] = prints;
	fake_kvm.steps[1] = resets;
	fake_kvm.steps[2] = powers_off;
	int status = status_in_sandbox();
	const char *log = process_log();
	ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == STATUS_POWER_OFF, "%d: %s",
		      status, log);
	ck_assert_ptr_null(strstr(log, "E sandbox"));
	ck_assert_ptr_null(strstr(log, "--metrics"));
	ck_assert_int_lt(access(qmp, F_OK), 0);
	ck_assert_int_lt(access(console, F_OK), 0);
	ck_assert_int_lt(access(serial_path, F_OK), 0);
	ck_assert_ptr_nonnull(strstr(take_file(path), "ballast_resets_total 1\n"));
}
END_TEST

static char user_folder[72];
static char given[4][96]; /* what --user has; the last one's a file */

static bool is_nobodys(const char *path)
{
	const struct passwd *nobody = getpwnam("nobody");
	struct stat st;

	return lstat(path, &st) == 0 && st.st_uid == nobody->pw_uid &&
	       st.st_gid == nobody->pw_gid;
}

static int looks_whose_they_are(struct kvm_run *run)
{
	for (unsigned int i = 0; i < nitems(given); i++) {
		if (!is_nobodys(given[i]))
			_exit((int)(90 + i));
	}
	return powers_off(run);
}

static void use_user(void)
{
	static const char *const names[] = { "qmp", "serial", "console", "figures" };
	const struct passwd *nobody = getpwnam("nobody");

	/* A folder as /tmp is: what is there is its owner's to remove or replace. */
	(void)snprintf(user_folder, sizeof(user_folder), "%s.folder", kernel_path);
	ck_assert_int_eq(mkdir(user_folder, 0700), 0);
	ck_assert_int_eq(chmod(user_folder, 01777), 0);
	for (unsigned int i = 0; i < nitems(given); i++)
		(void)snprintf(given[i], sizeof(given[i]), "%s/%s", user_folder, names[i]);
	config.user = (struct sandbox_user){ "nobody", nobody->pw_uid, nobody->pw_gid };
	config.has_console = true;
	config.qmp = given[0];
	config.serial = (struct console_config){ CONSOLE_UNIX, given[1] };
	config.console = (struct console_config){ CONSOLE_UNIX, given[2] };
	config.metrics = given[3];
}

START_TEST(what_start_has_made_is_the_users)
{
	if (geteuid() != 0)
		return;
	use_user();
	fake_kvm.steps[0] = looks_whose_they_are;
	int status = status_in_sandbox();
	const char *log = process_log();
	ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == STATUS_POWER_OFF, "%d: %s",
		      status, log);
	ck_assert_ptr_null(strstr(log, "--metrics"));
	for (unsigned int i = 0; i < 3; i++)
		ck_assert_int_lt(access(given[i], F_OK), 0);
	ck_assert(is_nobodys(given[3]));
	ck_assert_ptr_nonnull(strstr(take_file(given[3]), "ballast_"));
	ck_assert_int_eq(rmdir(user_folder), 0);
}
END_TEST

static unsigned int chown_that_fails;

int __real_fchown(int fd, uid_t uid, gid_t gid);
int __wrap_fchown(int fd, uid_t uid, gid_t gid);
int __real_fchownat(int folder, const char *path, uid_t uid, gid_t gid, int flags);
int __wrap_fchownat(int folder, const char *path, uid_t uid, gid_t gid, int flags);

static bool chown_fails(void)
{
	errno = EPERM;
	return chown_that_fails > 0 && --chown_that_fails == 0;
}

int __wrap_fchown(int fd, uid_t uid, gid_t gid)
{
	return chown_fails() ? -1 : __real_fchown(fd, uid, gid);
}

int __wrap_fchownat(int folder, const char *path, uid_t uid, gid_t gid, int flags)
{
	return chown_fails() ? -1 : __real_fchownat(folder, path, uid, gid, flags);
}

START_TEST(what_cannot_be_given_to_the_user_is_a_refusal)
{
	static const char *const steps[] = { "--metrics '", "the socket '", "the socket '",
					     "the socket '" };
	static const unsigned int order[] = { 3, 0, 1, 2 };

	if (geteuid() != 0)
		return;
	use_user();
	for (unsigned int i = 0; i < nitems(steps); i++) {
		char line[160];
		chown_that_fails = i + 1;
		ck_assert_int_eq(run_or_refuse(), STATUS_FAILED);
		ck_assert_uint_eq(chown_that_fails, 0);
		(void)snprintf(line, sizeof(line), "%s%s': Operation not", steps[i],
			       given[order[i]]);
		process_expect_log(line);
		machine_finish(&machine);
		expect_nothing_left();
		ck_assert_uint_eq(geteuid(), 0);
		for (unsigned int k = 0; k < 3; k++)
			ck_assert_int_lt(access(given[k], F_OK), 0);
		ck_assert_int_eq(access(given[3], F_OK), i == 0 ? -1 : 0);
		fake_kvm_init();
	}
	/* What is not there any more cannot be given either. */
	init();
	ck_assert_int_eq(unlink(given[0]), 0);
	ck_assert_int_eq(symlink(kernel_path, given[0]), 0);
	ck_assert_int_eq(machine_run(&machine), STATUS_FAILED);
	process_expect_log("giving it the socket");
	machine_finish(&machine);
	ck_assert(!is_nobodys(kernel_path) && !is_nobodys(given[0]));
	ck_assert_int_eq(unlink(given[0]), 0);
	ck_assert_int_eq(unlink(given[3]), 0);
	ck_assert_int_eq(rmdir(user_folder), 0);
}
END_TEST

static int breaks_out(struct kvm_run *run)
{
	(void)socket(AF_INET, SOCK_STREAM, 0);
	return powers_off(run);
}

START_TEST(a_vcpu_that_breaks_out_does_not_come_far)
{
	if (__sanitizer_set_report_fd)
		return; /* there is none then */
	config.sandbox = SANDBOX_ON;
	fake_kvm.steps[0] = breaks_out;
	int status = status_in_sandbox();
	ck_assert_msg(WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS, "%d", status);
	process_expect_log("E sandbox: vcpu 00: system call socket (41) is not on its list");
}
END_TEST

static unsigned int load_that_fails;

int __real_seccomp_load(scmp_filter_ctx filter);
int __wrap_seccomp_load(scmp_filter_ctx filter);

int __wrap_seccomp_load(scmp_filter_ctx filter)
{
	bool fails = load_that_fails > 0 && --load_that_fails == 0;

	return fails ? -EINVAL : __real_seccomp_load(filter);
}

/* Logging only: then this process can still look for what is left. */
START_TEST(without_one_of_its_filters_it_does_not_start)
{
	static const char *const threads[] = { "vcpu 00", "vcpu 01", "event loop" };

	if (__sanitizer_set_report_fd)
		return;
	config.sandbox = SANDBOX_LOG;
	for (unsigned int i = 0; i < nitems(threads); i++) {
		char line[64];
		load_that_fails = i + 1;
		fake_kvm.steps[0] = powers_off;
		ck_assert_int_eq(run(), STATUS_FAILED);
		(void)snprintf(line, sizeof(line), "E sandbox: the filter of %s", threads[i]);
		process_expect_log(line);
		machine_finish(&machine);
		expect_nothing_left();
		fake_kvm_init();
	}
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		building_and_finishing_leaves_nothing,
		every_step_of_building_fails_once,
		a_balloon_is_the_last_of_the_devices_and_leaves_nothing,
		what_was_taken_is_told_with_who_inhibits_at_the_end,
		the_unsafe_experiment_is_warned_about_at_each_start,
		the_user_may_ask_for_memory_at_run_time,
		every_step_of_building_a_balloon_fails_once,
		fds_that_run_out_at_any_moment_leave_nothing,
		disks_come_in_their_order_and_leave_nothing,
		a_disk_that_is_none_is_told,
		every_step_of_building_a_disk_fails_once,
		a_virtio_console_follows_the_terminals_window,
		a_console_that_cannot_be_opened_is_named,
		every_capability_that_is_needed_is_named,
		a_kvm_that_cannot_be_opened_is_told_with_the_remedy,
		a_kvm_without_synchronous_mmu_raises_an_inhibitor,
		ram_beyond_2_gib_is_a_second_slot_of_the_same_block,
		network_cards_are_on_the_bus_and_leave_nothing,
		what_the_user_gave_wrong_is_told_and_leaves_nothing,
		the_kernel_starts_on_the_first_processor_only,
		every_step_of_starting_fails_once,
		a_guest_that_switches_itself_off_ends_with_0,
		the_exit_port_ends_with_the_guests_own_status,
		without_an_exit_port_a_write_there_is_nothing,
		a_reset_may_end_it,
		a_panic_has_a_status_of_its_own,
		a_guest_with_a_crash_kernel_goes_on_and_is_reported_once_a_boot,
		a_guest_that_crashes_for_ever_is_not_reported_for_ever,
		clients_hear_of_a_panic,
		clients_hear_why_a_guest_resets_and_ends,
		a_stopped_guest_stays_so_whatever_happens_until_it_goes_on,
		kvms_own_system_events_are_heard,
		a_crash_is_told_with_registers_and_has_a_status_of_its_own,
		registers_that_kvm_has_reset_are_not_passed_off_as_the_guests,
		being_interrupted_is_nothing,
		a_timeout_ends_a_guest_that_does_not,
		a_signal_presses_the_power_button,
		a_second_signal_stops,
		a_reset_starts_the_guest_anew,
		a_guest_that_resets_for_ever_is_stopped_by_a_second_signal,
		a_guest_that_resets_for_ever_is_ended_by_its_timeout,
		a_guest_that_switches_itself_off_while_it_resets_does_not_start_anew,
		a_guest_that_resets_while_it_switches_itself_off_does_not_start_anew,
		every_step_of_a_reset_fails_once,
		an_mmio_read_reaches_its_device_and_its_answer_the_guest,
		an_mmio_access_of_odd_length_is_done_in_pieces,
		a_port_read_reaches_its_device_and_its_answer_the_guest,
		a_string_of_port_writes_is_done_byte_by_byte,
		events_tell_a_run_from_start_to_exit,
		events_tell_of_a_panic_before_the_exit,
		events_tell_of_crash_kernels_as_often_as_of_resets,
		events_tell_once_of_a_stop_and_of_its_end,
		an_iommu_with_no_room_beside_memory_is_refused,
		a_guest_goes_on_without_a_device_that_is_gone,
		a_device_in_trouble_is_told_and_one_wanted_back_as_well,
		a_device_comes_and_goes_500_times,
		a_late_answer_does_not_take_what_has_come_since,
		every_step_of_an_attach_that_fails_leaves_all_as_it_was,
		what_the_host_has_no_memory_for_is_not_attached,
		how_old_statistics_are_no_clock_that_is_set_says,
		what_is_live_is_present_before_it_is_pinned_and_others_have_their_turn,
		a_step_that_finds_no_memory_ends_it_and_gives_back_what_the_first_made_present,
		a_policy_that_is_switched_to_inhibit_while_a_device_is_on_its_way_counts,
		a_policy_that_is_switched_to_coordinated_while_a_device_is_on_its_way_counts,
		for_a_device_that_maps_late_nothing_is_made_present,
		what_the_balloon_holds_in_parts_goes_a_second_after_the_device,
		what_an_attach_takes_may_be_opened_by_others,
		the_balloon_moves_while_a_device_is_on_its_way,
		a_second_group_comes_and_the_first_goes,
		a_guest_lets_go_of_a_device_while_it_runs,
		a_reset_lets_go_of_what_was_asked_for_and_of_nothing_else,
		a_device_at_dma_is_stopped_before_the_kernel_is_loaded_anew,
		a_guest_is_reminded_of_what_it_has_not_read_and_asked_again,
		clients_hear_of_a_device_by_its_id_and_by_its_name,
		a_guest_that_does_not_let_go_is_told_of,
		events_name_who_inhibits_and_what_is_asked_for,
		events_tell_of_a_device_that_cannot_be_attached,
		events_are_appended_and_a_pipe_may_be_slow,
		a_reader_of_events_may_go_away_at_once,
		half_an_event_is_a_line_of_its_own,
		of_resets_for_ever_the_first_are_events,
		metrics_are_those_of_the_end,
		metrics_replace_only_a_regular_file,
		figures_that_cannot_be_written_are_refused,
		every_file_of_figures_may_be_one_too_many,
		nothing_is_listened_to_unless_somebody_wants_to_know,
		in_the_sandbox_it_lives_and_leaves_nothing,
		what_start_has_made_is_the_users,
		what_cannot_be_given_to_the_user_is_a_refusal,
		a_vcpu_that_breaks_out_does_not_come_far,
		without_one_of_its_filters_it_does_not_start,
	};
	return run_tests("vmm_machine", setup, teardown, tests, nitems(tests));
}
