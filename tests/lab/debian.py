"""Chapters on a whole Debian as guest: what people who are no testers do with disks, a network and consoles."""

import glob
import hashlib
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time

from checks import GUEST_SECONDS, check, check_guest_tests, check_power_off, expected_results, figure, say
from devices import MIB, must, run, wait_until
from host import BALLAST, EDU, Guest, GuestFailed, bind, read

FOLDER = "/dev/shm/ballast-debian"
# What passt is to pass on: an interface that leads nowhere. The guest gets its address, and reaches the host by the router's.
HOST, ROUTER, PORT = "192.168.79.2", "192.168.79.1", 7004
PACKAGES = ["ethtool", "fdisk", "less"]  # which the guest can do without for a while
TREES = ["/usr/share", "/usr/lib/x86_64-linux-gnu", "/etc"]  # some thousand files
PROMPT = "# "
LOGIN_SECONDS = 180  # a boot says nothing before, and has taken 107
PANIC = "end Kernel panic"
FLUSHES = 12  # files that are in the guest's fsync's word before the monitor is killed


class Console:
    """A console of the guest's, on a stream socket or on two pipes: what comes is kept, and looked for."""

    def __init__(self, reads, writes):
        self.text = ""
        self.at = 0  # up to here it was looked at
        self.writes = writes
        self.more = threading.Condition()
        threading.Thread(target=self._hear, args=(reads,), daemon=True).start()

    def _hear(self, reads):
        while piece := os.read(reads, 4096):
            with self.more:
                self.text += piece.decode(errors="replace").replace("\r", "")
                self.more.notify_all()

    def expect(self, pattern, seconds=GUEST_SECONDS):
        """Waits for a match, goes behind it, and returns it."""
        deadline = time.monotonic() + seconds
        with self.more:
            while not (hit := re.compile(pattern).search(self.text, self.at)):
                if time.monotonic() > deadline or PANIC in self.text:
                    print("\n".join(f"  console: {line}" for line in self.text.splitlines()[-60:]), flush=True)
                    raise GuestFailed(f"no /{pattern}/ in {seconds} s after: {self.text[-300:]!r}")
                self.more.wait(0.5)
            self.at = hit.end()
            return hit

    def send(self, line):
        os.write(self.writes, line.encode() + b"\n")

    def log_in(self):
        self.expect(r"login: ", LOGIN_SECONDS)
        self.send("root")
        self.expect(PROMPT)

    def do(self, command, seconds=GUEST_SECONDS):
        """A command, which has to succeed; returns what it printed."""
        # The terminal shows the command too, where the mark and its status are apart.
        self.send(f"{command}; echo 'the status is' $?")
        begin = self.at
        hit = self.expect(r"(?m)^the status is (\d+)$", seconds)
        output = self.text[begin:hit.start()]
        if hit[1] != "0":
            raise GuestFailed(f"'{command}': status {hit[1]}: {output[-500:]!r}")
        return output


class Debian:
    """One run with the disk: by Debian's kernel and the initrd, or by another kernel alone."""

    def __init__(self, folder, disk, *args, kernel=None):
        boot = [kernel] if kernel else [f"{folder}/vmlinuz", "--initrd", f"{folder}/initrd"]
        self.process = subprocess.Popen(
            [BALLAST, "run", "--kernel", *boot, "--memory", "768M", "--cpus", "2",
             "--cmdline", "console=ttyS0 quiet root=/dev/vda", "--disk", f"path={disk}", "--rng", "on", *args],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.serial = Console(self.process.stdout.fileno(), self.process.stdin.fileno())
        self.errors = []
        self.reader = threading.Thread(target=lambda: self.errors.extend(self.process.stderr), daemon=True)
        self.reader.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.reader.join(10)


def connect(path):
    """To a console on a socket."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        fd = os.dup(client.fileno())
    return Console(fd, fd)


def copy_disk():
    """What guest-images/debian made, and a copy of its disk in a folder of ours."""
    image = os.environ.get("BALLAST_DEBIAN")
    if not image:
        raise RuntimeError("BALLAST_DEBIAN names no folder that guest-images/debian made")
    shutil.rmtree(FOLDER, ignore_errors=True)
    os.makedirs(FOLDER)
    must("cp", "--sparse=always", f"{image}/disk.img", f"{FOLDER}/disk")
    return image, f"{FOLDER}/disk"


def debian():
    """Logins on ttyS0 and hvc0, an address by passt, the packaged unit and udev rule, packages that go and come, fsck; killed while it writes: what was flushed is there."""
    image, disk = copy_disk()
    packages = f"{FOLDER}/packages.img"
    put_packages(image, packages)
    make_way_out()
    try:
        everyday(image, disk, packages)
        killed(image, disk)
    finally:
        shutil.rmtree(FOLDER)
        must("ip", "link", "del", "lab-out")


# In the place of ballast, to be started by the unit and told to go.
STAND_IN = """#!/bin/sh
trap 'echo pressed >>$RUNTIME_DIRECTORY/../said; exit 0' TERM
echo "$*" in $PWD, locks $(ulimit -l) >$RUNTIME_DIRECTORY/../said
sleep 1000 &
wait
"""


def packaged(serial):
    """The unit and the udev rule that are installed with ballast, as systemd and udev take them."""
    serial.do("install -m 755 /mnt/ballast /usr/bin && cp /mnt/ballast@.service /etc/systemd/system && mkdir /etc/ballast && "
              "touch /etc/ballast/x.json && systemctl daemon-reload")
    said = serial.do("systemd-analyze verify --man=no ballast@x.service 2>&1 | sed 's/^/verdict: /'")
    check("debian/unit-verifies", not re.search("(?m)^verdict: .*ballast@", said), said)
    mode = serial.do("systemctl start ballast@x ballast@nobody && "
                     "timeout 60 sh -c 'until [ -s /run/ballast/guests/said ]; do sleep 1; done' && "
                     "stat -c 'mode %a' /run/ballast/guests/x")
    check("debian/unit-has-its-folder", "\nmode 750\n" in mode, mode)
    serial.do("systemctl stop ballast@x")
    seen = serial.do("cat /run/ballast/guests/said; systemctl is-failed ballast@x ballast@nobody || true")
    check("debian/unit-runs", "run --config /etc/ballast/x.json in /etc/ballast, locks unlimited\npressed\ninactive\ninactive\n"
          in seen, seen)
    # As a device that is there is called.
    serial.do("sed 's/\"kvm\", SUB/\"cpu_dma_latency\", SUB/' /mnt/60-ballast.rules >/etc/udev/rules.d/60-ballast.rules && "
              "udevadm control --reload && udevadm trigger --settle --action=change /dev/cpu_dma_latency")
    seen = serial.do("stat -c '%G %a' /dev/cpu_dma_latency")
    check("debian/udev-rule", "\nkvm 660\n" in seen, seen)
    complaints = serial.do("journalctl -b -o cat _COMM=systemd-udevd | grep ballast.rules || true")
    check("debian/udev-rule-is-whole", "ballast.rules:" not in complaints, complaints)


def put_packages(image, packages):
    """A file system of packages' files, and of what ballast's own installs, as a second disk."""
    os.mkdir(f"{FOLDER}/packages")
    with open("packaging/ballast@.service", encoding="ascii") as unit, \
            open(f"{FOLDER}/packages/ballast@.service", "w", encoding="ascii") as file:
        file.write(unit.read().replace("@bindir@", "/usr/bin"))
    shutil.copy("packaging/60-ballast.rules", f"{FOLDER}/packages")
    with open(f"{FOLDER}/packages/ballast", "w", encoding="ascii") as file:
        file.write(STAND_IN)
    kept = f"{os.environ['BALLAST_CACHE']}/debian-packages"
    with open(f"{image}/packages", encoding="ascii") as file:
        versions = dict(line.strip().split("=") for line in file)
    for name in PACKAGES:
        must("sh", "-c", f"cp {kept}/{name}_{versions[name].replace(':', '%3a')}_*.deb {FOLDER}/packages/{name}.deb")
    must("mke2fs", "-q", "-t", "ext4", "-d", f"{FOLDER}/packages", packages, "32M")


def make_way_out():
    must("ip", "link", "add", "lab-out", "type", "dummy")
    must("ip", "addr", "add", f"{HOST}/24", "dev", "lab-out")
    must("ip", "link", "set", "lab-out", "up")
    must("ip", "route", "add", "default", "via", ROUTER, "dev", "lab-out")


def fsck(disk):
    """Has all that is wrong found, and nothing mended: so the journal must be empty."""
    done = run("e2fsck", "-fn", disk)
    return done.returncode == 0, f"{done.returncode}: {done.stdout[-300:]} {done.stderr[-300:]}"


def log_in_twice(name, guest, hvc, began):
    """On the serial console and on the virtio console, which is returned."""
    guest.serial.log_in()
    figure(f"{name}/until-login", f"{time.monotonic() - began:.0f}", "s (in the lab's time)")
    state = guest.serial.do("systemctl is-system-running --wait || systemctl --failed")
    check(f"{name}/login-on-ttyS0", "running" in state.split(), state)
    console = connect(hvc)
    console.send("")
    console.log_in()
    check(f"{name}/login-on-hvc0", "/dev/hvc0" in console.do("tty"), console.text[-200:])
    return console


def power_off(name, guest, console):
    console.send("systemctl poweroff")
    status = guest.process.wait(GUEST_SECONDS)
    check(f"{name}/powers-off", status == 0, f"{status}: {guest.errors[-3:]}")


def everyday(image, disk, packages):
    hvc, began = f"{FOLDER}/hvc0", time.monotonic()
    with Debian(image, disk, "--disk", f"path={packages},readonly=on", "--net", "passt", "--console", f"unix={hvc}") as guest:
        serial, console = guest.serial, log_in_twice("debian", guest, hvc, began)
        network(serial)
        serial.do("mount -o ro /dev/vdb /mnt")
        packaged(serial)
        churn(serial)
        power_off("debian", guest, console)
    check("debian/fsck", *fsck(disk))


def network(serial):
    serial.do("ballast-wait-for-network", 120)
    address = serial.do("ip -4 -o addr show scope global")
    check("debian/address-by-passt", f" {HOST}/" in address, address)
    with socket.create_server(("127.0.0.1", PORT)) as listener:
        def answer():
            with listener.accept()[0] as peer:
                peer.sendall(b"from the host\n")
        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        heard = serial.do(f"cat </dev/tcp/{ROUTER}/{PORT}", 120)
        check("debian/reaches-the-host", "\nfrom the host\n" in heard, heard)


def churn(serial):
    """Packages go and come, and thousands of small files."""
    serial.do(f"dpkg --remove --force-depends {' '.join(PACKAGES)}")
    check("debian/packages-gone", "0" in serial.do("ls /usr/bin/less /usr/sbin/ethtool 2>/dev/null | wc -l").split(), "")
    serial.do("dpkg --install /mnt/*.deb")
    seen = serial.do(f"dpkg --verify {' '.join(PACKAGES)} | grep -v ' /usr/share/' | wc -l")
    check("debian/packages-whole", "0" in seen.split(), seen)
    serial.do(f"mkdir /root/churn && cp -a {' '.join(TREES)} /root/churn && sync && echo 3 >/proc/sys/vm/drop_caches")
    serial.do(" && ".join(f"diff -r --no-dereference {tree} /root/churn/{os.path.basename(tree)}" for tree in TREES))
    serial.do("rm -r /root/churn && sync && fstrim /")
    serial.do("umount /mnt")


# Each file's name and sum are told once it and its folder are on the disk; besides, others write what is never flushed.
WRITER = ("(while :; do head -c 400000 /dev/urandom >/var/tmp/unflushed$((RANDOM % 20)); done) & "
          "for i in $(seq 1000); do head -c $((RANDOM * 9 + 1)) /dev/urandom >/root/file$i; sync /root/file$i /root; "
          "echo flushed file$i $(sha256sum </root/file$i); done")


def killed(image, disk):
    flushed = {}
    with Debian(image, disk) as guest:
        serial = guest.serial
        serial.log_in()
        serial.send(WRITER)
        while len(flushed) < FLUSHES:
            hit = serial.expect(r"(?m)^flushed (file\d+) ([0-9a-f]{64}) ")
            flushed[hit[1]] = hit[2]
        guest.process.send_signal(signal.SIGKILL)
        guest.process.wait()
    done = run("e2fsck", "-p", disk)  # replays the journal
    check("debian/killed/journal", done.returncode in (0, 1), f"{done.returncode}: {done.stdout} {done.stderr}")
    check("debian/killed/fsck", *fsck(disk))
    wrong = []
    for name, expected in flushed.items():
        must("debugfs", "-R", f"dump /root/{name} {FOLDER}/{name}", disk)
        seen = must("sha256sum", f"{FOLDER}/{name}").split()[0]
        if seen != expected:
            wrong.append(name)
    check("debian/killed/flushed-data", not wrong, f"these differ: {wrong}")
    figure("debian/killed/flushed-files", len(flushed), "files, whose flush had been acknowledged")


# -- the host's block devices as disks ----------------------------------------------------------------------------

LOOPS = [(block, direct) for block in ("512", "4096") for direct in ("off", "on")]
DEVICE_SIZE = 64 * MIB  # the first half for a file system, the other as it is
SCSI = "/sys/bus/pseudo/drivers/scsi_debug/adapter*/host*/target*/*/block/*"
LIMITS = ("logical_block_size", "physical_block_size", "minimum_io_size", "optimal_io_size")


def limits_of(device):
    return [read(f"/sys/block/{os.path.basename(device)}/queue/{name}").strip() for name in LIMITS]


def make_loop(path, block):
    with open(path, "wb") as file:
        file.truncate(DEVICE_SIZE)
    return must("losetup", "--show", "--find", "--sector-size", block, path).strip()


def make_scsi():
    """A disk whose physical blocks are larger, and that prefers requests of half a MiB."""
    must("modprobe", "sd_mod")
    must("modprobe", "scsi_debug", "dev_size_mb=64", "sector_size=512", "physblk_exp=3", "opt_blks=1024", "lbpu=1", "lbpws=1",
         "delay=0")
    if not wait_until(lambda: glob.glob(SCSI)):
        raise RuntimeError("scsi_debug makes no disk")
    return f"/dev/{os.path.basename(glob.glob(SCSI)[0])}"


def block_devices():
    """Loop devices and a SCSI disk of the host: block sizes, a file system, discard, zeros, growth; the bytes are there."""
    image, disk = copy_disk()
    must("modprobe", "loop")
    disks = []  # name, device, its bytes, direct
    try:
        for block, direct in LOOPS:
            path = f"{FOLDER}/loop{block}-{direct}"
            disks.append((f"loop/{block}/direct-{direct}", make_loop(path, block), path, direct))
        scsi = make_scsi()
        disks.append(("scsi", scsi, scsi, "on"))
        readonly = make_loop(f"{FOLDER}/readonly", "4096")
        must("dd", "if=/dev/urandom", f"of={readonly}", "bs=1M", "count=64", "conv=fsync")
        use_disks(image, disk, disks, readonly)
    finally:
        must("losetup", "--detach-all")
        run("modprobe", "-r", "scsi_debug")
        shutil.rmtree(FOLDER)


def use_disks(image, disk, disks, readonly):
    args = [word for _, device, _, direct in disks for word in ("--disk", f"path={device},direct={direct}")]
    letters = "bcdefghijk"
    sums = {}
    with Debian(image, disk, *args, "--disk", f"path={readonly},readonly=on,direct=on") as guest:
        serial = guest.serial
        serial.log_in()
        for letter, (name, device, _, _) in zip(letters, disks):
            seen = serial.do(f"cd /sys/block/vd{letter}/queue && cat {' '.join(LIMITS)}; cd").split()[-4:]
            check(f"block/{name}/limits", seen == limits_of(device), f"{seen}, on the host {limits_of(device)}")
            sums[name] = fill(serial, f"/dev/vd{letter}")
        check("block/scsi/physical-blocks", limits_of(disks[-1][1]) == ["512", "4096", "4096", "524288"],
              str(limits_of(disks[-1][1])))
        grow(serial, disks[0])
        look_only(serial, f"/dev/vd{letters[len(disks)]}", readonly)
        power_off("block", guest, serial)
    for name, _, path, _ in disks:
        check_bytes(name, path, sums[name])


def fill(serial, disk):
    """A file system with a file, whose sum is returned; behind it a pattern, with a MiB of zeros in it and one discarded."""
    seen = serial.do(f"mkfs.ext4 -qF {disk} 32M && mount {disk} /mnt && head -c 8M /dev/urandom >/mnt/data && sync && "
                     "sha256sum </mnt/data && fstrim /mnt && umount /mnt")
    serial.do(f"yes | dd of={disk} bs=1M seek=40 count=8 iflag=fullblock oflag=direct status=none && "
              f"blkdiscard -fz -o 41M -l 1M {disk} && blkdiscard -fo 43M -l 1M {disk} && blockdev --flushbufs {disk}")
    return re.search("[0-9a-f]{64}", seen)[0]


def grow(serial, device):
    name, loop, path, _ = device
    os.truncate(path, DEVICE_SIZE + 32 * MIB)
    must("losetup", "--set-capacity", loop)
    serial.do(f"until [ $(cat /sys/block/vdb/size) = {(DEVICE_SIZE + 32 * MIB) // 512} ]; do sleep 1; done", 60)
    serial.do("echo grown | dd of=/dev/vdb bs=1M seek=90 conv=fsync status=none")
    with open(path, "rb") as file:
        file.seek(90 * MIB)
        seen = file.read(6)
    check(f"block/{name}/grows", seen == b"grown\n", f"{seen!r}")


def look_only(serial, disk, readonly):
    expected = must("sha256sum", readonly).split()[0]
    check("block/readonly/bytes", expected in serial.do(f"sha256sum {disk}"), "the sums differ")
    serial.do(f"! dd if=/dev/zero of={disk} bs=4096 count=1 oflag=direct")
    check("block/readonly/is-told", "1" in serial.do(f"blockdev --getro {disk}").split(), "")


def check_bytes(name, path, expected):
    """Of the device, or the file behind it, when the guest is gone."""
    must("debugfs", "-R", f"dump /data {FOLDER}/data", path)
    with open(f"{FOLDER}/data", "rb") as file:
        check(f"block/{name}/file", hashlib.sha256(file.read()).hexdigest() == expected, "the sums differ")
    check(f"block/{name}/fsck", *fsck(path))
    pattern = b"y\n" * (MIB // 2)
    with open(path, "rb") as file:
        file.seek(40 * MIB)
        wrong = [at for at in range(40, 48) if file.read(MIB) != (bytes(MIB) if at in (41, 43) else pattern)]
        check(f"block/{name}/bytes", not wrong, f"these MiB are not what they should be: {wrong}")
        if path.startswith(FOLDER):
            holes = [at for at in (41, 43) if os.lseek(file.fileno(), at * MIB, os.SEEK_HOLE) == at * MIB]
            check(f"block/{name}/discard-gives-back", holes == [43], f"holes at {holes} MiB")


# -- another kernel -----------------------------------------------------------------------------------------------


def own_kernel():
    """The kernel of guest-images/kernel boots Debian without an initrd, and the tests' own guest without modules."""
    kernel = os.environ.get("BALLAST_KERNEL")
    if not kernel:
        say("SKIP", "own-kernel", "guest-images/kernel has built none, and that takes longer than all of these tests may")
        return
    image, disk = copy_disk()
    hvc, began = f"{FOLDER}/hvc0", time.monotonic()
    with Debian(image, disk, "--console", f"unix={hvc}", kernel=f"{kernel}/vmlinuz") as guest:
        console = log_in_twice("own-kernel", guest, hvc, began)
        check("own-kernel/release", "-ballast" in guest.serial.do("uname -r"), guest.serial.text[-200:])
        power_off("own-kernel", guest, console)
    shutil.rmtree(FOLDER)
    bind(EDU, "vfio-pci")
    guest = Guest("--device", EDU, kernel=f"{kernel}/vmlinux", cmdline="ballast.tests=edu ballast.interrupts=1000")
    check_power_off("own-kernel/guest", guest)
    check_guest_tests("own-kernel/guest", guest, 1, list(expected_results(["edu"], 1, 1, False)))


CHAPTERS = [debian, block_devices, own_kernel]
