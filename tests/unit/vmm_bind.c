/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>

#include "tests/fakes/host_tree.h"
#include "tests/fakes/process.h"
#include "vfio/uapi.h"
#include "vmm/bind.h"
#include "vmm/host_pci.h"

#define BRIDGE "0000:00:1c.0"
#define CARD "0000:01:00.0"  /* an interface, eth0 */
#define SOUND "0000:01:00.1" /* in its group */
#define USB "0000:01:00.2"   /* in its group, without a driver */
#define DISK "0000:02:00.0"  /* alone */
#define LOOSE "0000:03:00.0" /* in no group */
#define RECORDS "run/ballast/bind/"
#define TAP "sys/devices/virtual/net/"
#define ROUTE "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\n"
#define DEFAULT_BY(name) name "\t00000000\t0101A8C0\t0003\t0\t0\t0\t00000000\t0\n"

static char *printed;
static size_t printed_size;
static unsigned int nr_groups_opened;

/* In the place of vfio/uapi.c's. */
int __wrap_vfio_open_group(unsigned int group, int *ret_fd);
int __wrap_vfio_open_group(unsigned int group, int *ret_fd)
{
	(void)ret_fd;
	ck_assert(group == 7 || group == 8);
	nr_groups_opened++;
	return tree.open_error;
}

static void build(void)
{
	tree_init();
	tree_add_driver("vfio-pci");
	tree_add_function("pci0000:00/" BRIDGE, 0x060400, 7, "pcieport");
	tree_add_function("pci0000:00/" BRIDGE "/" CARD, 0x020000, 7, "e1000e");
	tree_add_function("pci0000:00/" BRIDGE "/" SOUND, 0x040300, 7, "snd_hda_intel");
	tree_add_function("pci0000:00/" BRIDGE "/" USB, 0x0c0330, 7, NULL);
	tree_add_function("pci0000:00/" DISK, 0x010802, 8, "nvme");
	tree_add_function("pci0000:00/" LOOSE, 0x020000, -1, "e1000e");
	tree_write("sys/bus/pci/drivers_probe", "");
	tree_write("proc/self/mountinfo", "1 0 0:5 / /proc rw - proc proc rw\nnonsense\n");
	tree_write("proc/swaps", "Filename Type Size Used Priority\n");
	tree_write("proc/net/route", ROUTE);
}

static void setup(void)
{
	process_keep_log();
	stdout = open_memstream(&printed, &printed_size);
	build();
}

static void teardown(void)
{
	tree_finish();
}

static int bind_one(const char *name)
{
	return bind_devices(tree.root, &name, 1, BIND_CAREFULLY);
}

static int force_one(const char *name)
{
	return bind_devices(tree.root, &name, 1, BIND_FORCED);
}

static int unbind_one(const char *name)
{
	return unbind_devices(tree.root, &name, 1);
}

static void expect_printed(const char *part)
{
	ck_assert_int_eq(fflush(stdout), 0);
	ck_assert_msg(strstr(printed, part) != NULL, "no \"%s\" in \"%s\"", part, printed);
}

static bool is_as_before(void)
{
	return strcmp(tree_driver(CARD), "e1000e") == 0 &&
	       strcmp(tree_driver(SOUND), "snd_hda_intel") == 0 && !*tree_driver(USB) &&
	       strcmp(tree_driver(DISK), "nvme") == 0 && !*tree_override(CARD) &&
	       !*tree_override(SOUND) && !*tree_override(USB) && !*tree_override(DISK);
}

/* And nothing is remembered. */
static void expect_as_before(void)
{
	struct host_names records = { 0 };

	ck_assert_str_eq(tree_driver(BRIDGE), "pcieport");
	ck_assert(is_as_before());
	if (host_list(tree.root, &records, RECORDS) >= 0)
		ck_assert_uint_eq(records.nr, 0);
}

static void expect_refusal(const char *name, int error, const char *part)
{
	ck_assert_int_eq(bind_one(name), error);
	process_expect_log(part);
	expect_as_before();
}

START_TEST(the_whole_group_goes_to_vfio_pci_but_for_bridges_and_what_is_free)
{
	ck_assert_int_eq(bind_one(CARD), 0);
	process_expect_no_log();
	ck_assert_str_eq(tree_driver(CARD), "vfio-pci");
	ck_assert_str_eq(tree_driver(SOUND), "vfio-pci");
	ck_assert_str_eq(tree_driver(USB), "");
	ck_assert_str_eq(tree_driver(BRIDGE), "pcieport");
	ck_assert_str_eq(tree_driver(DISK), "nvme");
	ck_assert_str_eq(tree_read(RECORDS CARD), "driver e1000e\noverride ");
	expect_printed(CARD ": bound to vfio-pci, was e1000e\n" SOUND
			    ": bound to vfio-pci, was snd_hda_intel\n");
	ck_assert_int_eq(unbind_one(CARD), 0);
	expect_printed(CARD ": given back to e1000e\n");
	expect_as_before();
}
END_TEST

START_TEST(what_pci_stub_has_stays_with_it)
{
	tree_add_function("pci0000:00/" BRIDGE "/0000:01:00.3", 0x0c8000, 7, "pci-stub");
	ck_assert_int_eq(bind_one(CARD), 0);
	process_expect_no_log();
	ck_assert_str_eq(tree_driver(SOUND), "vfio-pci");
	ck_assert_str_eq(tree_driver("0000:01:00.3"), "pci-stub");
}
END_TEST

START_TEST(a_device_is_called_as_users_call_it)
{
	ck_assert_int_eq(bind_one("2:0.0"), 0);
	ck_assert_str_eq(tree_driver(DISK), "vfio-pci");
	ck_assert_int_eq(unbind_one("/sys/bus/pci/devices/" DISK "/"), 0);
	expect_as_before();
}
END_TEST

START_TEST(several_at_once_and_the_same_twice)
{
	static const char *const names[] = { DISK, CARD, DISK, SOUND };

	ck_assert_int_eq(bind_devices(tree.root, names, 4, BIND_CAREFULLY), 0);
	ck_assert_str_eq(tree_driver(DISK), "vfio-pci");
	ck_assert_str_eq(tree_driver(SOUND), "vfio-pci");
	ck_assert_int_eq(unbind_devices(tree.root, names, 4), 0);
	expect_as_before();
}
END_TEST

START_TEST(without_a_driver_before_it_has_none_after)
{
	ck_assert_int_eq(bind_one(USB), 0);
	ck_assert_str_eq(tree_driver(USB), "vfio-pci");
	expect_printed(USB ": bound to vfio-pci, was without a driver\n");
	ck_assert_int_eq(unbind_one(USB), 0);
	expect_printed(USB ": given back to no driver\n");
	expect_as_before();
}
END_TEST

START_TEST(bind_twice_is_fine_and_remembers_the_first)
{
	ck_assert_int_eq(bind_one(CARD), 0);
	ck_assert_int_eq(bind_one(CARD), 0);
	process_expect_no_log();
	expect_printed(CARD ": bound to vfio-pci already\n");
	ck_assert_int_eq(unbind_one(CARD), 0);
	expect_as_before();
}
END_TEST

/* By hand, or by a rescan, without ballast unbind. */
static void give_disk_to(const char *driver)
{
	char path[64];

	(void)snprintf(path, sizeof(path), "sys/bus/pci/drivers/%s", driver);
	tree_add_driver(driver);
	tree_link("sys/bus/pci/devices/" DISK "/driver", path);
	tree_write("sys/bus/pci/devices/" DISK "/driver_override", "(null)\n");
}

START_TEST(what_is_remembered_of_a_device_that_the_host_has_again_is_old)
{
	ck_assert_int_eq(bind_one(DISK), 0);
	give_disk_to("other");
	ck_assert_int_eq(bind_one(DISK), 0);
	ck_assert_str_eq(tree_driver(DISK), "vfio-pci");
	ck_assert_str_eq(tree_read(RECORDS DISK), "driver other\noverride ");
	ck_assert_int_eq(unbind_one(DISK), 0);
	ck_assert_str_eq(tree_driver(DISK), "other");
	ck_assert_str_eq(tree_override(DISK), "");
}
END_TEST

START_TEST(a_device_that_the_host_has_again_comes_back_if_vfio_pci_does_not_take_it)
{
	ck_assert_int_eq(bind_one(DISK), 0);
	give_disk_to("nvme");
	tree.vfio_refuses = true;
	expect_refusal(DISK, -EIO, "bind " DISK ": vfio-pci did not take it");
}
END_TEST

/* This time vfio-pci takes it; or it does not. */
START_TEST(an_override_that_a_bind_cut_short_has_left_is_not_remembered)
{
	for (unsigned int refuses = 0; refuses < 2; refuses++) {
		tree_write(RECORDS DISK, "driver nvme\noverride \n");
		tree_write("sys/bus/pci/devices/" DISK "/driver_override", "vfio-pci\n");
		tree.vfio_refuses = refuses;
		ck_assert_int_eq(bind_one(DISK), refuses ? -EIO : 0);
		if (!refuses)
			ck_assert_int_eq(unbind_one(DISK), 0);
		expect_as_before();
	}
}
END_TEST

START_TEST(what_others_have_bound_stays_theirs)
{
	tree_remove("sys/bus/pci/devices/" DISK "/driver");
	tree_link("sys/bus/pci/devices/" DISK "/driver", "sys/bus/pci/drivers/vfio-pci");
	ck_assert_int_eq(bind_one(DISK), 0);
	ck_assert(!host_has(tree.root, RECORDS DISK));
	ck_assert_int_eq(unbind_one(DISK), -ENOENT);
	process_expect_log("unbind " DISK ": it is bound to vfio-pci, but not by ballast bind");
	ck_assert_str_eq(tree_driver(DISK), "vfio-pci");
}
END_TEST

START_TEST(an_override_of_driverctl_is_told_and_kept)
{
	tree_write("etc/driverctl.d/" CARD, "e1000e\n");
	tree_write("sys/bus/pci/devices/" CARD "/driver_override", "e1000e\n");
	ck_assert_int_eq(bind_one(CARD), 0);
	ck_assert_str_eq(tree_override(CARD), "vfio-pci");
	ck_assert_str_eq(tree_read("etc/driverctl.d/" CARD), "e1000e");
	expect_printed(CARD ": driverctl has an override for it, which stays: e1000e");
	ck_assert_int_eq(unbind_one(CARD), 0);
	ck_assert_str_eq(tree_override(CARD), "e1000e");
	ck_assert_str_eq(tree_driver(CARD), "e1000e");
}
END_TEST

START_TEST(what_cannot_be_bound_is_refused)
{
	expect_refusal("eth0", -EINVAL, "'eth0': a PCI device is called 0000:01:00.0");
	expect_refusal("01234567-89ab-cdef-0123-456789abcdef", -EINVAL,
		       "a PCI device is called");
	expect_refusal("0000:09:00.0", -ENODEV,
		       "0000:09:00.0: not on this host (see lspci -D)");
	expect_refusal(BRIDGE, -EINVAL, "bind " BRIDGE ": it is a bridge");
	expect_refusal(LOOSE, -EOPNOTSUPP,
		       "bind " LOOSE ": no IOMMU stands before it: ballast "
		       "doctor " LOOSE);
	tree.vfio_refuses = true;
	expect_refusal(CARD, -EIO, "bind " CARD ": vfio-pci did not take it (see dmesg)");
	tree.vfio_refuses = false;
	tree_remove("sys/bus/pci/drivers/vfio-pci");
	expect_refusal(CARD, -ENOENT, "vfio-pci is not loaded: modprobe vfio-pci");
}
END_TEST

START_TEST(a_second_one_that_fails_takes_the_first_back)
{
	static const char *const names[] = { DISK, "0000:09:00.0" };

	ck_assert_int_eq(bind_devices(tree.root, names, 2, BIND_CAREFULLY), -ENODEV);
	expect_as_before();
}
END_TEST

/* Disks */

static void expect_disk_guarded(const char *user)
{
	char part[256];

	(void)snprintf(part, sizeof(part),
		       "bind " DISK ": this host's %s depends on it; --force", user);
	expect_refusal(DISK, -EBUSY, part);
}

/* nvme0n1 with partitions 1 and 2, of the numbers 259:1 and 259:2. */
static void add_disk(const char *path)
{
	char file[256];
	char to[256];

	(void)snprintf(file, sizeof(file), "sys/devices/%s/nvme0n1p2/partition", path);
	tree_write(file, "2\n");
	(void)snprintf(to, sizeof(to), "sys/devices/%s/nvme0n1p2", path);
	tree_link("sys/dev/block/259:2", to);
	tree_link("sys/class/block/nvme0n1p2", to);
	tree_write("dev/nvme0n1p2", "");
}

START_TEST(the_disk_of_root_and_others_that_a_host_needs_is_not_taken)
{
	static const char *const points[] = { "/", "/boot", "/boot/efi", "/usr" };
	char text[256];
	char user[64];

	add_disk("pci0000:00/" DISK "/nvme/nvme0/nvme0n1");
	for (unsigned int i = 0; i < nitems(points); i++) {
		(void)snprintf(text, sizeof(text),
			       "30 1 259:2 / %s rw,noatime shared:1 - ext4 /dev/nvme0n1p2 rw\n",
			       points[i]);
		tree_write("proc/self/mountinfo", text);
		(void)snprintf(user, sizeof(user), "mount %s", points[i]);
		expect_disk_guarded(user);
	}
	tree_write("proc/self/mountinfo", "30 1 259:2 / /srv rw - ext4 /dev/nvme0n1p2 rw\n");
	ck_assert_int_eq(bind_one(DISK), 0);
}
END_TEST

static void expect_unknown_guarded(const char *user)
{
	char part[256];

	(void)snprintf(part, sizeof(part),
		       "bind " DISK ": it is for disks, and which of them this host's %s is on "
		       "cannot be told; --force",
		       user);
	expect_refusal(DISK, -EBUSY, part);
}

START_TEST(all_disks_of_a_btrfs_are_guarded)
{
	static const char mount[] = "30 1 0:25 / / rw - btrfs /dev/disk/root rw\n";

	add_disk("pci0000:00/" DISK "/nvme/nvme0/nvme0n1");
	tree_folder("sys/devices/pci0000:00/0000:05:00.0/virtio0/block/vda");
	tree_link("sys/class/block/vda",
		  "sys/devices/pci0000:00/0000:05:00.0/virtio0/block/vda");
	tree_write("dev/vda", "");
	tree_write("proc/self/mountinfo", mount);
	tree_link("dev/disk/root", "dev/nvme0n1p2");
	expect_disk_guarded("mount /"); /* by its source */
	tree_link("dev/disk/root", "dev/vda");
	expect_unknown_guarded("mount /");
	tree_folder("sys/fs/btrfs/features");
	tree_link("sys/fs/btrfs/other/devices/nvme0n1p2", "sys/class/block/nvme0n1p2");
	tree_link("sys/fs/btrfs/this/devices/vda", "sys/class/block/vda");
	ck_assert_int_eq(bind_one(DISK), 0);
	ck_assert_int_eq(unbind_one(DISK), 0);
	tree_link("sys/fs/btrfs/this/devices/nvme0n1p2", "sys/class/block/nvme0n1p2");
	expect_disk_guarded("mount /");
}
END_TEST

START_TEST(where_the_disks_cannot_be_told_nothing_for_disks_is_taken)
{
	static const char *const unknown[] = {
		"0:25 / / rw - overlay overlay rw\n",
		"0:25 / / rw - zfs rpool/ROOT/pve-1 rw\n",
		"0:25 / / rw - btrfs /dev/gone rw\n",
		"0:25 / / rw - bcachefs /dev/vda:/dev/vdb rw\n",
		"7:0 / / rw - ext4 /dev/gone rw\n",
	};
	static const char *const without[] = { "tmpfs", "ramfs", "rootfs",   "autofs",
					       "nfs",   "nfs4",  "virtiofs", "9p" };
	char text[128];

	for (unsigned int i = 0; i < nitems(without); i++) {
		(void)snprintf(text, sizeof(text), "30 1 0:25 / / rw - %s x rw\n", without[i]);
		tree_write("proc/self/mountinfo", text);
		ck_assert_int_eq(bind_one(DISK), 0);
		ck_assert_int_eq(unbind_one(DISK), 0);
	}
	for (unsigned int i = 0; i < nitems(unknown); i++) {
		(void)snprintf(text, sizeof(text), "30 1 %s", unknown[i]);
		tree_write("proc/self/mountinfo", text);
		expect_unknown_guarded("mount /");
	}
	ck_assert_int_eq(bind_one(CARD), 0);
	process_expect_no_log();
	ck_assert_int_eq(force_one(DISK), 0);
	process_expect_log("bind " DISK
			   ": perhaps this host's mount / depends on it: going on");
	ck_assert_str_eq(tree_driver(DISK), "vfio-pci");
}
END_TEST

START_TEST(what_cannot_be_looked_at_is_forced_all_the_same)
{
	tree_link("sys/devices/virtual/block/dm-0/slaves/dm-0",
		  "sys/devices/virtual/block/dm-0");
	tree_link("sys/class/block/dm-0", "sys/devices/virtual/block/dm-0");
	tree_link("sys/dev/block/253:0", "sys/devices/virtual/block/dm-0");
	tree_write("proc/self/mountinfo", "30 1 253:0 / / rw - ext4 /dev/mapper/root rw\n");
	expect_refusal(DISK, -ELOOP, "learn from /proc/self/mountinfo what the host needs");
	ck_assert_int_eq(force_one(DISK), 0);
	process_expect_log("learn from /proc/self/mountinfo what the host needs: ");
	ck_assert_str_eq(tree_driver(DISK), "vfio-pci");
}
END_TEST

START_TEST(disks_made_of_disks_are_followed_down)
{
	add_disk("pci0000:00/" DISK "/nvme/nvme0/nvme0n1");
	tree_link("sys/devices/virtual/block/md0/slaves/nvme0n1p2",
		  "sys/class/block/nvme0n1p2");
	tree_write("sys/devices/virtual/block/md0/md0p1/partition", "1\n");
	tree_link("sys/class/block/md0p1", "sys/devices/virtual/block/md0/md0p1");
	tree_link("sys/devices/virtual/block/dm-0/slaves/md0p1", "sys/class/block/md0p1");
	tree_link("sys/dev/block/253:0", "sys/devices/virtual/block/dm-0");
	tree_write("proc/self/mountinfo", "30 1 253:0 / / rw - ext4 /dev/mapper/root rw\n");
	expect_disk_guarded("mount /");
	/* No disk is made of itself; whoever says so is not believed. */
	tree_link("sys/class/block/md0p1", "sys/devices/virtual/block/dm-0");
	expect_refusal(DISK, -ELOOP, "learn from /proc/self/mountinfo what the host needs");
}
END_TEST

/* The device that files of the tree are on is number 259:2's. */
static void put_files_on_disk(void)
{
	struct stat status;
	char path[64];

	add_disk("pci0000:00/" DISK "/nvme/nvme0/nvme0n1");
	ck_assert_int_eq(stat(tree.root, &status), 0);
	(void)snprintf(path, sizeof(path), "sys/dev/block/%u:%u", major(status.st_dev),
		       minor(status.st_dev));
	tree_link(path, "sys/class/block/nvme0n1p2");
}

START_TEST(a_loop_device_is_on_the_disk_that_its_file_is_on)
{
	static const char loop[] = "sys/devices/virtual/block/loop3";
	static const char backing[] = "sys/devices/virtual/block/loop3/loop/backing_file";

	put_files_on_disk();
	tree_write("images/root.img", "");
	tree_write(backing, "/images/root.img\n");
	tree_write("sys/devices/virtual/block/loop3/loop3p1/partition", "1\n");
	tree_link("sys/dev/block/7:3", loop);
	tree_link("sys/dev/block/259:5", "sys/devices/virtual/block/loop3/loop3p1");
	tree_write("proc/self/mountinfo", "30 1 7:3 / / rw - ext4 /dev/loop3 rw\n");
	expect_disk_guarded("mount /");
	tree_write("proc/self/mountinfo", "30 1 259:5 / /boot rw - ext4 /dev/loop3p1 rw\n");
	expect_disk_guarded("mount /boot");
	/* With encryption between. */
	tree_link("sys/devices/virtual/block/dm-1/slaves/loop3", loop);
	tree_link("sys/class/block/loop3", loop);
	tree_link("sys/dev/block/253:1", "sys/devices/virtual/block/dm-1");
	tree_write("proc/self/mountinfo", "30 1 253:1 / / rw - ext4 /dev/mapper/root rw\n");
	expect_disk_guarded("mount /");
	/* A file that is gone may have been anywhere. */
	tree_write(backing, "/images/root.img (deleted)\n");
	expect_unknown_guarded("mount /");
	tree_remove(backing);
	expect_unknown_guarded("mount /");
}
END_TEST

START_TEST(a_virtual_disk_of_unknown_make_may_be_on_any)
{
	static const struct {
		const char *name;
		bool is_free;
	} cases[] = { { "zd16", false },  { "nbd0", false }, { "zram0", true },
		      { "zram1", false }, { "ram1", true },  { "ramses", false } };
	char path[64];
	char text[64];

	tree_folder("sys/devices/virtual/block/zram0");
	tree_write("sys/devices/virtual/block/zram0/backing_dev", "none\n");
	tree_folder("sys/devices/virtual/block/zram1");
	tree_write("sys/devices/virtual/block/zram1/backing_dev", "/dev/sda2\n");
	for (unsigned int i = 0; i < nitems(cases); i++) {
		(void)snprintf(path, sizeof(path), "sys/devices/virtual/block/%s",
			       cases[i].name);
		tree_folder(path);
		tree_link("sys/dev/block/230:16", path);
		(void)snprintf(text, sizeof(text), "30 1 230:16 / / rw - ext4 /dev/%s rw\n",
			       cases[i].name);
		tree_write("proc/self/mountinfo", text);
		if (!cases[i].is_free) {
			expect_unknown_guarded("mount /");
			continue;
		}
		ck_assert_int_eq(bind_one(DISK), 0);
		ck_assert_int_eq(unbind_one(DISK), 0);
	}
}
END_TEST

START_TEST(an_nvme_with_several_paths_is_found_by_its_controllers)
{
	add_disk("virtual/nvme-subsystem/nvme-subsys0/nvme0n1");
	tree_folder("sys/devices/pci0000:00/" DISK "/nvme/nvme0");
	tree_link("sys/devices/virtual/nvme-subsystem/nvme-subsys0/nvme0",
		  "sys/devices/pci0000:00/" DISK "/nvme/nvme0");
	tree_write("proc/self/mountinfo", "30 1 259:2 / / rw - ext4 /dev/nvme0n1p2 rw\n");
	expect_disk_guarded("mount /");
}
END_TEST

START_TEST(swap_is_not_taken)
{
	put_files_on_disk();
	tree_write("proc/swaps", "Filename Type Size Used Priority\n"
				 "/dev/nvme0n1p2 partition 8388604 0 -2\n");
	expect_disk_guarded("swap");
	tree_write("swapfile", "");
	tree_write("proc/swaps", "Filename Type Size Used Priority\n/swapfile file 84 0 -2\n");
	expect_disk_guarded("swap");
	ck_assert_int_eq(force_one(DISK), 0);
	process_expect_log("bind " DISK
			   ": this host's swap depends on it: going on, by --force");
	ck_assert_str_eq(tree_driver(DISK), "vfio-pci");
}
END_TEST

/* Links */

static void add_interface(const char *name, const char *path)
{
	char file[128];
	char to[256];

	(void)snprintf(file, sizeof(file), "sys/class/net/%s", name);
	(void)snprintf(to, sizeof(to), "sys/devices/%s/operstate", path);
	tree_write(to, "up\n");
	*strrchr(to, '/') = '\0';
	tree_link(file, to);
}

static void add_interfaces(void)
{
	add_interface("eth0", "pci0000:00/" BRIDGE "/" CARD "/net/eth0");
	add_interface("eth1", "pci0000:00/" LOOSE "/net/eth1");
	add_interface("br0", "virtual/net/br0");
	add_interface("tun0", "virtual/net/tun0");
	tree_link(TAP "br0/lower_eth0", "sys/class/net/eth0");
}

static void expect_link_guarded(const char *interface)
{
	char part[256];

	(void)snprintf(part, sizeof(part),
		       "bind " CARD
		       ": this host's only network link, %s, depends on it; --force",
		       interface);
	expect_refusal(SOUND, -EBUSY, part);
}

START_TEST(the_only_link_is_not_taken_not_even_by_its_group)
{
	add_interfaces();
	tree_write("proc/net/route", ROUTE DEFAULT_BY("eth0"));
	expect_link_guarded("eth0");
	tree_write("proc/net/route", ROUTE DEFAULT_BY("br0") DEFAULT_BY("gone"));
	expect_link_guarded("br0");
	/* A tunnel goes by some other. */
	tree_write("proc/net/route", ROUTE DEFAULT_BY("tun0") DEFAULT_BY("eth0"));
	expect_link_guarded("eth0");
	ck_assert_int_eq(force_one(CARD), 0);
	process_expect_log("bind " CARD ": this host's only network link, eth0, depends on it: "
			   "going on, by --force");
}
END_TEST

START_TEST(the_only_link_may_be_one_of_ipv6)
{
	add_interfaces();
	tree_write(
		"proc/net/ipv6_route",
		"fe800000000000000000000000000000 40 00000000000000000000000000000000 00 "
		"00000000000000000000000000000000 00000100 00000001 00000000 00000001 eth1\n"
		"00000000000000000000000000000000 00 00000000000000000000000000000000 00 "
		"fe800000000000000000000000000001 00000400 00000001 00000000 00000003 eth0\n");
	expect_link_guarded("eth0");
}
END_TEST

START_TEST(one_of_two_links_may_be_taken_as_long_as_the_other_is_up)
{
	add_interfaces();
	tree_write("proc/net/route", ROUTE DEFAULT_BY("eth0") DEFAULT_BY("eth1"));
	tree_write("sys/class/net/eth1/operstate", "down\n");
	expect_link_guarded("eth0");
	tree_write("sys/class/net/eth1/operstate", "up\n");
	ck_assert_int_eq(bind_one(CARD), 0);
}
END_TEST

START_TEST(without_a_default_route_the_last_link_that_is_up_is_not_taken)
{
	add_interfaces();
	tree_write("proc/net/route", ROUTE DEFAULT_BY("tun0"));
	tree_remove("sys/class/net/br0");
	tree_write("sys/class/net/eth1/operstate", "down\n");
	expect_link_guarded("eth0");
	tree_write("sys/class/net/eth0/operstate", "unknown\n");
	expect_link_guarded("eth0");
	tree_write("sys/class/net/eth1/operstate", "unknown\n");
	ck_assert_int_eq(bind_one(CARD), 0);
	ck_assert_int_eq(unbind_one(CARD), 0);
	tree_write("sys/class/net/eth0/operstate", "down\n");
	tree_write("sys/class/net/eth1/operstate", "down\n");
	ck_assert_int_eq(bind_one(CARD), 0);
	process_expect_no_log();
}
END_TEST

START_TEST(a_virtual_function_needs_its_physical_one)
{
	tree_add_function("pci0000:00/" BRIDGE "/0000:01:10.0", 0x020000, 9, "iavf");
	tree_link("sys/bus/pci/devices/0000:01:10.0/physfn", "sys/bus/pci/devices/" CARD);
	add_interface("vf0", "pci0000:00/" BRIDGE "/0000:01:10.0/net/vf0");
	tree_write("proc/net/route", ROUTE DEFAULT_BY("vf0"));
	expect_link_guarded("vf0");
}
END_TEST

START_TEST(an_interface_may_have_hundreds_of_others_on_it)
{
	char path[128];

	add_interfaces();
	for (unsigned int i = 0; i < 300; i++) {
		(void)snprintf(path, sizeof(path), TAP "br0/upper_vlan%u", i);
		tree_folder(path);
		(void)snprintf(path, sizeof(path), "tap%u", i);
		add_interface(path, "virtual/net/tun0");
	}
	tree_write("proc/net/route", ROUTE DEFAULT_BY("br0"));
	expect_link_guarded("br0");
	tree_write("proc/net/route", ROUTE);
	ck_assert_int_eq(bind_one(CARD), 0);
}
END_TEST

/* With others, and the kernel */

static void bind_the_disk_first(void)
{
	tree.before_lock = NULL;
	ck_assert_int_eq(bind_one(DISK), 0);
}

START_TEST(what_another_command_did_before_the_lock_is_seen)
{
	tree.before_lock = bind_the_disk_first;
	ck_assert_int_eq(bind_one(DISK), 0);
	process_expect_no_log();
	expect_printed(DISK ": bound to vfio-pci already\n");
	ck_assert_int_eq(unbind_one(DISK), 0);
	expect_as_before();
}
END_TEST

START_TEST(what_the_kernel_says_is_not_the_users_fault)
{
	static const int errors[] = { -ENODEV, -EINVAL };

	for (unsigned int i = 0; i < nitems(errors); i++) {
		tree.write_error = errors[i];
		ck_assert_int_eq(bind_one(DISK), -EIO);
		ck_assert(is_as_before());
		tree.write_error = 0;
		ck_assert_int_eq(bind_one(DISK), 0);
		tree.write_error = errors[i];
		ck_assert_int_eq(unbind_one(DISK), -EIO);
		tree.write_error = 0;
		ck_assert_int_eq(unbind_one(DISK), 0);
		expect_as_before();
	}
}
END_TEST

/* The way back */

START_TEST(what_was_not_bound_is_not_unbound)
{
	ck_assert_int_eq(unbind_one(CARD), -ENOENT);
	process_expect_log("unbind " CARD
			   ": it is not bound by ballast bind: its driver is e1000e");
	ck_assert_int_eq(unbind_one(USB), -ENOENT);
	process_expect_log("its driver is none");
	ck_assert_int_eq(unbind_one("0000:09:00.0"), -ENODEV);
	process_expect_log("0000:09:00.0: not on this host");
	ck_assert_int_eq(unbind_one("eth0"), -EINVAL);
	process_expect_log("'eth0': a PCI device is called");
	ck_assert(!host_has(tree.root, "run"));
}
END_TEST

START_TEST(what_a_guest_has_is_not_unbound)
{
	ck_assert_int_eq(bind_one(CARD), 0);
	tree.open_error = -EBUSY;
	ck_assert_int_eq(unbind_one(CARD), -EBUSY);
	process_expect_log("unbind " CARD ": a guest, or another process, has its group 7");
	ck_assert_uint_eq(nr_groups_opened, 1);
	ck_assert_str_eq(tree_driver(CARD), "vfio-pci");
	ck_assert(host_has(tree.root, RECORDS CARD));
}
END_TEST

START_TEST(what_a_guest_has_is_not_unbound_by_one_of_its_group_that_has_no_driver)
{
	ck_assert_int_eq(bind_one(CARD), 0);
	tree_remove("sys/bus/pci/devices/" CARD "/driver"); /* as if bind was cut short */
	tree.open_error = -EBUSY;
	ck_assert_int_eq(unbind_one(CARD), -EBUSY);
	process_expect_log("unbind " CARD ": a guest, or another process, has its group 7");
	ck_assert_str_eq(tree_driver(SOUND), "vfio-pci");
	ck_assert_str_eq(tree_driver(CARD), "");
	ck_assert(host_has(tree.root, RECORDS CARD));
	ck_assert(host_has(tree.root, RECORDS SOUND));
	/* The guest has ended. */
	tree.open_error = 0;
	ck_assert_int_eq(unbind_one(CARD), 0);
	expect_as_before();
}
END_TEST

START_TEST(a_driver_that_is_gone_is_named_and_the_record_kept)
{
	ck_assert_int_eq(bind_one(DISK), 0);
	tree_remove("sys/bus/pci/drivers/nvme");
	nr_groups_opened = 0;
	tree_remove("sys/bus/pci/devices/" DISK "/driver");
	ck_assert_int_eq(unbind_one(DISK), -ENOENT);
	process_expect_log("unbind " DISK
			   ": its driver nvme is not loaded: modprobe it, and again "
			   "ballast unbind " DISK);
	tree_add_driver("nvme");
	ck_assert_int_eq(unbind_one(DISK), 0);
	expect_as_before();
}
END_TEST

START_TEST(a_device_that_is_gone_is_forgotten)
{
	ck_assert_int_eq(bind_one(USB), 0);
	tree_remove("sys/bus/pci/devices/" USB);
	ck_assert_int_eq(unbind_one(USB), 0);
	process_expect_log("unbind " USB ": it is gone from this host: forgetting it");
	ck_assert(!host_has(tree.root, RECORDS USB));
}
END_TEST

START_TEST(a_damaged_record_is_told)
{
	static const char *const texts[] = {
		"", "driver e1000e", "override x\ndriver y",
		"driver "
		"0123456789012345678901234567890123456789012345678901"
		"234567890123456789\noverride \n"
	};

	tree_folder(RECORDS ".");
	for (unsigned int i = 0; i < nitems(texts); i++) {
		tree_write(RECORDS CARD, texts[i]);
		ck_assert_int_eq(unbind_one(CARD), -EPROTO);
		process_expect_log(CARD ": /run/ballast/bind/" CARD " is damaged: delete it");
		ck_assert_int_eq(bind_one(CARD), -EPROTO);
		process_expect_log("is damaged");
		ck_assert(is_as_before());
	}
}
END_TEST

/* Each step fails, and each is where it is cut short */

static void rebuild(void)
{
	tree_finish();
	build();
	add_interfaces();
	tree_write("proc/net/route", ROUTE DEFAULT_BY("eth1") DEFAULT_BY("eth0"));
	tree_write("etc/driverctl.d/" CARD, "e1000e\n");
}

START_TEST(whatever_step_fails_all_is_as_before_or_done)
{
	unsigned int n = 0;
	unsigned int nr_failures = 0;

	/* A LOOSE with an interface has no group: the link that stays. */
	do {
		rebuild();
		tree.fail_at = ++n;
		int r = bind_one(CARD);
		if (r < 0) {
			nr_failures++;
			expect_as_before();
			ck_assert_msg(*process_log(), "step %u failed in silence", n);
			continue;
		}
		(void)process_log();
		ck_assert_str_eq(tree_driver(CARD), "vfio-pci");
		ck_assert_str_eq(tree_driver(SOUND), "vfio-pci");
		tree.fail_at = 0;
		ck_assert_int_eq(unbind_one(CARD), 0);
		expect_as_before();
	} while (tree.nr_steps >= n);
	ck_assert_uint_gt(nr_failures, 40);
}
END_TEST

START_TEST(wherever_unbind_fails_it_can_be_done_again)
{
	unsigned int n = 0;
	unsigned int nr_failures = 0;

	do {
		rebuild();
		ck_assert_int_eq(bind_one(CARD), 0);
		tree.nr_steps = 0;
		tree.fail_at = ++n;
		int r = unbind_one(CARD);
		bool reached = tree.nr_steps >= n;
		tree.fail_at = 0;
		nr_failures += r < 0;
		const char *log = process_log();
		ck_assert_msg(r >= 0 || *log, "step %u failed in silence", n);
		if (r < 0) {
			/* One of the two may be back already. */
			const char *left = host_has(tree.root, RECORDS CARD) ? CARD : SOUND;
			ck_assert_int_eq(unbind_one(left), 0);
		}
		ck_assert(is_as_before());
		if (!reached)
			break;
	} while (true);
	ck_assert_uint_gt(nr_failures, 20);
}
END_TEST

START_TEST(wherever_bind_is_cut_short_unbind_restores)
{
	unsigned int nr_restored = 0;
	int status = 0;

	for (unsigned int n = 1; n < 1000; n++) {
		rebuild();
		pid_t child = fork();
		if (child == 0) {
			tree.fail_at = n;
			tree.dies = true;
			_exit(bind_one(CARD) < 0 ? 2 : 1);
		}
		ck_assert_int_eq(waitpid(child, &status, 0), child);
		ck_assert(WIFEXITED(status) && WEXITSTATUS(status) < 2);
		if (WEXITSTATUS(status) == 1)
			break; /* it got through */
		bool remembered = host_has(tree.root, RECORDS CARD);
		ck_assert(remembered || is_as_before());
		if (!remembered)
			continue;
		nr_restored++;
		ck_assert_int_eq(unbind_one(CARD), 0);
		ck_assert(is_as_before());
		/* And bind would have gone on. */
		ck_assert_int_eq(bind_one(CARD), 0);
		ck_assert_str_eq(tree_driver(SOUND), "vfio-pci");
	}
	ck_assert_int_eq(WEXITSTATUS(status), 1);
	ck_assert_uint_gt(nr_restored, 10);
}
END_TEST

#define NOBODY 65534

START_TEST(who_is_not_root_is_told_to_be)
{
	char path[128];
	int status = 0;

	tree_folder("run");
	(void)snprintf(path, sizeof(path), "%s/run", tree.root);
	ck_assert_int_eq(chmod(path, 0555), 0);
	ck_assert_int_eq(chmod(tree.root, 0755), 0);
	pid_t child = fork();
	if (child == 0)
		_exit(geteuid() == 0 && setuid(NOBODY) < 0 ? 2
		      : bind_one(CARD) == -EACCES          ? 0
							   : 1);
	ck_assert_int_eq(waitpid(child, &status, 0), child);
	ck_assert(WIFEXITED(status));
	ck_assert_int_eq(WEXITSTATUS(status), 0);
	process_expect_log("bind: /run/ballast/bind: be root (sudo ballast bind): Permission "
			   "denied");
	ck_assert_int_eq(chmod(path, 0755), 0);
	expect_as_before();
}
END_TEST

#define MOST 128

START_TEST(so_many_at_once_are_too_many)
{
	char *argv[MOST + 3] = { NULL };
	char word[] = "bind";
	char card[] = CARD;
	const char *names[] = { CARD, DISK };
	char path[128];

	argv[0] = word;
	for (unsigned int i = 1; i <= MOST + 1; i++)
		argv[i] = card;
	ck_assert_int_eq(bind_main(MOST + 2, argv), 2);
	process_expect_log("bind: '" CARD "': at most 128 devices at once");
	/* Or with their groups: of this there were two before. */
	for (unsigned int i = 2; i < MOST; i++) {
		(void)snprintf(path, sizeof(path), "pci0000:00/" BRIDGE "/0000:01:%02x.%u",
			       i / 8 + 1, i % 8);
		tree_add_function(path, 0x020000, 7, "e1000e");
	}
	ck_assert_int_eq(bind_devices(tree.root, names, 2, BIND_CAREFULLY), -E2BIG);
	process_expect_log(DISK ": more than 128 devices at once");
	expect_as_before();
}
END_TEST

START_TEST(interfaces_that_cannot_be_listed_are_told)
{
	tree_remove("sys/class/net");
	tree_write("sys/class/net", "");
	expect_refusal(CARD, -ENOTDIR, "learn from /sys/class/net what the host needs");
	ck_assert_int_eq(force_one(CARD), 0);
	process_expect_log("W bind: learn from /sys/class/net what the host needs: Not a "
			   "directory: going on, by --force");
}
END_TEST

START_TEST(the_command_line_is_looked_at)
{
	static const struct {
		const char *words[4];
		const char *part;
	} cases[] = {
		{ { "bind" }, "it is ballast bind 0000:01:00.0" },
		{ { "unbind" }, "it is ballast unbind 0000:01:00.0" },
		{ { "bind", "--colour", CARD }, "bind: option '--colour': there are --force" },
		{ { "unbind", "--force", CARD }, "unbind: option '--force': there is --help" },
		{ { "bind", "--force" }, "it is ballast bind" },
	};

	for (unsigned int i = 0; i < nitems(cases); i++) {
		char words[4][32];
		char *argv[5] = { NULL };
		int argc = 0;
		for (; argc < 4 && cases[i].words[argc]; argc++) {
			(void)snprintf(words[argc], sizeof(words[argc]), "%s",
				       cases[i].words[argc]);
			argv[argc] = words[argc];
		}
		ck_assert_int_eq(
			argv[0][0] == 'b' ? bind_main(argc, argv) : unbind_main(argc, argv), 2);
		process_expect_log(cases[i].part);
	}
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		the_whole_group_goes_to_vfio_pci_but_for_bridges_and_what_is_free,
		what_pci_stub_has_stays_with_it,
		a_device_is_called_as_users_call_it,
		several_at_once_and_the_same_twice,
		without_a_driver_before_it_has_none_after,
		bind_twice_is_fine_and_remembers_the_first,
		what_is_remembered_of_a_device_that_the_host_has_again_is_old,
		a_device_that_the_host_has_again_comes_back_if_vfio_pci_does_not_take_it,
		an_override_that_a_bind_cut_short_has_left_is_not_remembered,
		what_others_have_bound_stays_theirs,
		an_override_of_driverctl_is_told_and_kept,
		what_cannot_be_bound_is_refused,
		a_second_one_that_fails_takes_the_first_back,
		the_disk_of_root_and_others_that_a_host_needs_is_not_taken,
		all_disks_of_a_btrfs_are_guarded,
		where_the_disks_cannot_be_told_nothing_for_disks_is_taken,
		what_cannot_be_looked_at_is_forced_all_the_same,
		disks_made_of_disks_are_followed_down,
		a_loop_device_is_on_the_disk_that_its_file_is_on,
		a_virtual_disk_of_unknown_make_may_be_on_any,
		an_nvme_with_several_paths_is_found_by_its_controllers,
		swap_is_not_taken,
		the_only_link_is_not_taken_not_even_by_its_group,
		the_only_link_may_be_one_of_ipv6,
		one_of_two_links_may_be_taken_as_long_as_the_other_is_up,
		without_a_default_route_the_last_link_that_is_up_is_not_taken,
		a_virtual_function_needs_its_physical_one,
		an_interface_may_have_hundreds_of_others_on_it,
		what_another_command_did_before_the_lock_is_seen,
		what_the_kernel_says_is_not_the_users_fault,
		what_was_not_bound_is_not_unbound,
		what_a_guest_has_is_not_unbound,
		what_a_guest_has_is_not_unbound_by_one_of_its_group_that_has_no_driver,
		a_driver_that_is_gone_is_named_and_the_record_kept,
		a_device_that_is_gone_is_forgotten,
		a_damaged_record_is_told,
		whatever_step_fails_all_is_as_before_or_done,
		wherever_unbind_fails_it_can_be_done_again,
		wherever_bind_is_cut_short_unbind_restores,
		who_is_not_root_is_told_to_be,
		so_many_at_once_are_too_many,
		interfaces_that_cannot_be_listed_are_told,
		the_command_line_is_looked_at,
	};

	return run_tests("vmm_bind", setup, teardown, tests, nitems(tests));
}
