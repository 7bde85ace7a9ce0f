"""Chapters on faults of the host: calls that fail, disks that are full or broken, too little memory, a monitor that is killed,
a device that goes.
"""

import contextlib
import os
import re
import subprocess
import tempfile

from balloon import MIB, finish, guest_with_balloon, inflate, wait_until
from checks import GUEST_SECONDS, check, check_power_off, figure, say
from coordinated import taken_from_host
from debian import make_scsi
from devices import make_tap, must, run
from host import (BALLAST, BALLOON_SECONDS, EDU, PCI, REPORTS, VMLINUX, Balloon, Guest, bind, left_behind, read, write)

FOLDER = "/dev/shm/ballast-faults"
BUILD = os.path.dirname(os.path.dirname(BALLAST))
CGROUPS = "/sys/fs/cgroup"
OUR_CGROUP = f"{CGROUPS}/ballast-faults"
IN_CGROUP = ("sh", "-c", f'echo $$ >{OUR_CGROUP}/cgroup.procs && exec "$@"', "sh")
# The kernel would kill whoever is over the limit; who may not be killed is refused.
NOT_TO_BE_KILLED = ("sh", "-c", f'echo $$ >{OUR_CGROUP}/cgroup.procs && echo -1000 >/proc/self/oom_score_adj && exec "$@"', "sh")


def faults():
    """Each system call that a device needs fails once; those that all guests need are failed by the suite of bare-metal guests."""
    program = f"{BUILD}/tests/faults/faults"
    if not os.path.exists(program):
        say("SKIP", "faults/device", f"there is no {program}")
        return
    bind(EDU, "vfio-pci")
    done = run(program, BALLAST, f"{BUILD}/tests/guest", EDU)
    for line in done.stdout.splitlines():
        print(f"  faults: {line}", flush=True)
    hit = re.search(r"(?m)^fault points tried (\d+), survived (\d+), refused (\d+)$", done.stdout)
    check("faults/device", done.returncode == 0, f"status {done.returncode}: {done.stderr[-300:]}")
    check("faults/device/enough", hit and int(hit[1]) > 20, "too few points")
    figure("faults/device/points", hit[1] if hit else 0, f"tried{', %s survived, %s refused' % hit.groups()[1:] if hit else ''}")
    left = left_behind(EDU)
    check("faults/device/given-back", left is None, left)


# -- disks --------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def small_file_system(name, size):
    """A folder that is full after so many bytes."""
    path = f"{FOLDER}/{name}"
    os.makedirs(path, exist_ok=True)
    must("mount", "-t", "tmpfs", "-o", f"size={size}", "none", path)
    try:
        yield path
    finally:
        must("umount", path)


# Writes 128 KiB at a time, each with a flush, and tells which were acknowledged: by their number is what they are full of.
WRITE = ("for i in $(seq 0 11); do yes $i | head -c 131072 >/tmp/piece; "
         "dd if=/tmp/piece of=/dev/{0} bs=128k seek=$i conv=fsync,notrunc 2>/dev/null && tell acknowledged $i || tell refused $i; done")


def write_and_compare(guest, name, disk, image):
    """What was acknowledged is on the host's side; what was not, was refused, and not all of it was."""
    guest.send(WRITE.format(disk))
    words = [line.split() for line in guest.hear("obeyed", GUEST_SECONDS)]
    good, bad = ([int(word[1]) for word in words if word[0] == verb] for verb in ("acknowledged", "refused"))
    check(f"faulty-disks/{name}/full", good and bad, f"{len(good)} acknowledged, {len(bad)} refused")
    with open(image, "rb") as file:
        wrong = []
        for piece in good:
            file.seek(piece * 131072)
            if file.read(131072) != (f"{piece}\n" * 65536)[:131072].encode():
                wrong.append(piece)
    check(f"faulty-disks/{name}/acknowledged-is-there", not wrong, f"{wrong} of {good}")


def faulty_disks():
    """A file on a full file system (ENOSPC), a loop device on one (EIO, told by the flush), a SCSI disk with bad sectors (EIO)."""
    os.makedirs(FOLDER, exist_ok=True)
    must("modprobe", "loop")
    with small_file_system("file", MIB) as plain, small_file_system("loop", MIB) as below, contextlib.ExitStack() as stack:
        for path in (f"{plain}/disk", f"{below}/disk"):
            with open(path, "wb") as file:
                file.truncate(32 * MIB)
        loop = must("losetup", "--show", "--find", f"{below}/disk").strip()
        stack.callback(must, "losetup", "--detach", loop)
        scsi = make_scsi()
        stack.callback(must, "modprobe", "-r", "scsi_debug")
        write("/sys/bus/pseudo/drivers/scsi_debug/opts", "2")  # medium errors at 0x1234 and the nine sectors behind it
        with Guest("--disk", f"path={plain}/disk", "--disk", f"path={loop}", "--disk", f"path={scsi},direct=on", run="obey",
                   memory="256M") as guest:
            guest.hear("listening", GUEST_SECONDS)
            write_and_compare(guest, "file", "vda", f"{plain}/disk")
            write_and_compare(guest, "loop", "vdb", f"{below}/disk")
            for sector, wanted in ((0x1000, True), (0x1234, False), (0x1300, True)):
                guest.send(f"dd if=/dev/vdc of=/dev/null bs=512 count=8 skip={sector} iflag=direct 2>/dev/null")
                seen = guest.hear("obeyed", 60)[-1] == "obeyed 0"
                check(f"faulty-disks/scsi/sector-{sector:#x}", seen == wanted, f"read: {seen}")
            guest.send("poweroff -f")
            check_power_off("faulty-disks", guest)
            for name, pattern, most in (("file", rf"{plain}/disk': a write at \d+: No space left", 17),
                                        ("loop", rf"{loop}': data may be lost.* flush: ", 1), ("scsi", rf"{scsi}': a read at ", 17)):
                told = [line for line in guest.errors if re.search(pattern, line)]
                check(f"faulty-disks/{name}/told", 1 <= len(told) <= most, f"{len(told)} lines: {guest.errors}")


# -- memory -------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def memory_cgroup(most):
    if not os.path.exists(f"{CGROUPS}/cgroup.controllers"):
        must("mount", "-t", "cgroup2", "none", CGROUPS)
    write(f"{CGROUPS}/cgroup.subtree_control", "+memory")
    os.makedirs(OUR_CGROUP, exist_ok=True)
    write(f"{OUR_CGROUP}/memory.max", str(most))
    try:
        yield
    finally:
        os.rmdir(OUR_CGROUP)


def check_refused(name, wrapper, *patterns):
    """No device for a guest of 512 MiB: one line that tells why, and nothing is left."""
    done = run(*wrapper, BALLAST, "run", "--kernel", VMLINUX, "--memory", "512M", "--serial", "none", "--timeout", "20", "--device",
               EDU)
    lines = [line for line in done.stderr.splitlines() if not re.match("[IW] ", line)]
    print(f"  {name}: {' | '.join(lines)}", flush=True)
    check(f"little-memory/{name}", done.returncode == 1 and len(lines) == 1 and
          all(re.search(pattern, lines[0]) for pattern in patterns), f"status {done.returncode}: {lines}")
    left = left_behind(EDU)
    check(f"little-memory/{name}/given-back", left is None, left)


def little_memory():
    """Too little for what a device pins: of the host's, or of a memory cgroup's, from the start or when a balloon gives back."""
    bind(EDU, "vfio-pci")
    with taken_from_host(300 * MIB):
        check_refused("host", (), "the host has \\d+ MiB", "--memory")
    if REPORTS:
        say("SKIP", "little-memory/cgroup", "a sanitizer's own memory is in it: more than it may have, or needed when there is none")
        return
    with memory_cgroup(256 * MIB):
        check_refused("cgroup", IN_CGROUP, f"the memory cgroup {OUR_CGROUP[len(CGROUPS):]} has \\d+ MiB", "--memory")
    prefix = "little-memory/deflate"
    with memory_cgroup(1 << 30):
        with guest_with_balloon("--device", EDU, options="policy=coordinated", memory="256M", wrapper=NOT_TO_BE_KILLED) as (
                guest, balloon):
            inflate(prefix, balloon, 192 * MIB)
            write(f"{OUR_CGROUP}/memory.max", str(int(read(f"{OUR_CGROUP}/memory.current")) + 16 * MIB))
            balloon.ctl(balloon.path, "balloon", "256M")
            memory = wait_until(lambda memory: memory["deflates"]["waiting"] == 1 and memory["deflates"]["retries"] > 2,
                                balloon.memory, 60)
            check(f"{prefix}/waits", memory["deflates"]["waiting"] == 1 and memory["deflates"]["retries"] > 2, memory["deflates"])
            check(f"{prefix}/log", sum("no host memory for a deflate" in line for line in guest.errors) == 1, guest.errors)
            check(f"{prefix}/guest-goes-on", balloon.ask("stats")["stats"].get("stat-total-memory", 0) > 0, "no statistics")
            write(f"{OUR_CGROUP}/memory.max", "max")
            memory = balloon.wait(0, BALLOON_SECONDS)
            check(f"{prefix}/recovers", memory["held"] == memory["reclaimed"] == 0 and memory["pinned"] == memory["ram"], memory)
            finish(prefix, guest)


# -- ends that nobody asked for -----------------------------------------------------------------------------------


def killed_and_gone():
    """kill -9 with all there is, under load, and the same again at once; then the device is taken from the host while it is used."""
    bind(EDU, "vfio-pci")
    os.makedirs(FOLDER, exist_ok=True)
    make_tap("tap0")
    must("modprobe", "loop")
    with tempfile.TemporaryDirectory() as folder, open(f"{FOLDER}/disk", "wb") as file:
        file.truncate(64 * MIB)
        loop = must("losetup", "--show", "--find", f"{FOLDER}/disk").strip()
        control = Balloon(f"{folder}/control")
        args = ("--device", EDU, "--qmp", f"unix:{folder}/control", "--console", f"unix={folder}/console", "--metrics",
                f"{folder}/metrics", "--balloon", "policy=coordinated", "--disk", f"path={loop},direct=on", "--net", "tap=tap0")
        try:
            with Guest(*args, run="obey") as guest:
                guest.hear("listening", GUEST_SECONDS)
                guest.send("(while :; do dd if=/dev/zero of=/dev/vda bs=1M count=32 oflag=direct; done) >/dev/null 2>&1 & sleep 2")
                guest.hear("obeyed", 60)
                guest.process.kill()
                guest.process.wait()
                check("killed/sockets-are-there", os.path.exists(f"{folder}/console"), os.listdir(folder))
                with Guest(*args, run="wait") as again:
                    gone(again, control)
            check("killed/nothing-left", sorted(os.listdir(folder)) == ["metrics"], os.listdir(folder))
        finally:
            must("losetup", "--detach", loop)


def gone(guest, control):
    """It has started, where another was killed. Its device goes."""
    def answers():
        return guest.process.poll() is not None or run(BALLAST, "ctl", control.path, "status").returncode == 0
    wait_until(bool, answers, 60)
    check("killed/starts-again", guest.process.poll() is None, guest.last_words())
    with subprocess.Popen(["sh", "-c", f"echo 1 >{PCI}/devices/{EDU}/remove"]) as removing:
        check("gone/heard", guest.wait_for_error(f"the host asks for {EDU} back", 60), guest.last_words())
        check("gone/guest-goes-on", "running" in control.ctl(control.path, "status"), guest.last_words())
        control.ctl(control.path, "quit")
        check_power_off("gone", guest, status=1)
        check("gone/removed", removing.wait(60) == 0 and not os.path.exists(f"{PCI}/devices/{EDU}"), "it is still there")
    write(f"{PCI}/rescan", "1")
    wait_until(bool, lambda: os.path.exists(f"{PCI}/devices/{EDU}"), 30)
    bind(EDU, "vfio-pci")
    left = left_behind(EDU)
    check("gone/comes-back", left is None, left)


CHAPTERS = [faults, faulty_disks, little_memory, killed_and_gone]
