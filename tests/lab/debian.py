"""The chapter on a whole Debian as guest: what people who are no testers do with a disk, a network and consoles."""

import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time

from checks import GUEST_SECONDS, check, figure
from devices import must, run
from host import BALLAST, GuestFailed

FOLDER = "/dev/shm/ballast-debian"
# What passt is to pass on: an interface that leads nowhere. The guest gets its address, and reaches the host by the router's.
HOST, ROUTER, PORT = "192.168.79.2", "192.168.79.1", 7004
PACKAGES = ["ethtool", "fdisk", "less"]  # which the guest can do without for a while
TREES = ["/usr/share", "/usr/lib/x86_64-linux-gnu", "/etc"]  # some thousand files
PROMPT = "# "
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
        self.expect(r"login: ")
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
    """One run with the disk."""

    def __init__(self, folder, disk, *args):
        self.process = subprocess.Popen(
            [BALLAST, "run", "--kernel", f"{folder}/vmlinuz", "--initrd", f"{folder}/initrd", "--memory", "768M", "--cpus", "2",
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


def debian():
    """Logins on ttyS0 and hvc0, an address by passt, the packaged unit and udev rule, packages that go and come, fsck; killed while it writes: what was flushed is there."""
    image = os.environ.get("BALLAST_DEBIAN")
    if not image:
        check("debian", False, "BALLAST_DEBIAN names no folder that guest-images/debian made")
        return
    shutil.rmtree(FOLDER, ignore_errors=True)
    os.makedirs(f"{FOLDER}/packages")
    disk, packages = f"{FOLDER}/disk", f"{FOLDER}/packages.img"
    must("cp", "--sparse=always", f"{image}/disk.img", disk)
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
    mode = serial.do("systemctl start ballast@x ballast@nobody && sleep 2 && stat -c 'mode %a' /run/ballast/guests/x")
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


def everyday(image, disk, packages):
    hvc, began = f"{FOLDER}/hvc0", time.monotonic()
    with Debian(image, disk, "--disk", f"path={packages},readonly=on", "--net", "passt", "--console", f"unix={hvc}") as guest:
        serial = guest.serial
        serial.log_in()
        figure("debian/until-login", f"{time.monotonic() - began:.0f}", "s (in the lab's time)")
        state = serial.do("systemctl is-system-running --wait || systemctl --failed")
        check("debian/login-on-ttyS0", "running" in state.split(), state)
        console = connect(hvc)
        console.send("")
        console.log_in()
        check("debian/login-on-hvc0", "/dev/hvc0" in console.do("tty"), console.text[-200:])
        network(serial)
        serial.do("mount -o ro /dev/vdb /mnt")
        packaged(serial)
        churn(serial)
        console.send("systemctl poweroff")
        status = guest.process.wait(GUEST_SECONDS)
        check("debian/powers-off", status == 0, f"{status}: {guest.errors[-3:]}")
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


CHAPTERS = [debian]
