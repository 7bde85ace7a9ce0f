#!/usr/bin/python3
"""The lab's tests, run on the lab host by ./run: one lab, many guests.

Prints NEXT to be told a chapter, PASS, FAIL, SKIP and FIGURE lines, and ENDED after each chapter. What only the machine outside
can check it prints as OUTSIDE lines.
"""

import itertools
import os
import re
import resource
import signal
import shutil
import stat
import subprocess
import sys
import tempfile
import time

import balloon
import clients
import coordinated
import debian
import devices
import faults
import host_setup
import hotplug
import mdev
from checks import (GUEST_SECONDS, check, check_complaints, check_confined, check_guest_tests, check_power_off, check_sanitizer,
                    expected_results, failures, figure, say)
from host import (BALLAST, EDU, INITRD, NET, NVME, PAIR, VMLINUX, VMLINUZ, Guest, GuestFailed, bind, count_user_exits, group_of,
                  left_behind, read, write)


# -- the guests ---------------------------------------------------------------------------------------------------


def all_devices():
    """edu, nvme and e1000e at once, three groups, 2 CPUs, memory on both sides of the hole, a reboot in between."""
    for bdf in (EDU, NVME, NET):
        bind(bdf, "vfio-pci")
    tests, boots = ["edu", "nvme", "net"], 2
    count_user_exits()
    began = time.monotonic()
    guest = Guest("--device", f"{EDU},{NVME},{NET}", cpus=2, memory="2560M",
                  cmdline=f"ballast.tests={','.join(tests)} ballast.boots={boots} ballast.mark=all{time.time_ns()}")
    for boot in range(1, boots + 1):
        guest.wait_for(f"sample boot-{boot}", GUEST_SECONDS)
        figure(f"all/boot{boot}/seconds", f"{time.monotonic() - began:.1f}", "s (from start, in the lab's time)")
        guest.wait_for("done", GUEST_SECONDS)
    check_power_off("all", guest)
    check_guest_tests("all", guest, boots, list(expected_results(tests, 2, 1, True)))
    for line in guest.devices:
        print(f"  guest's device: {line}", flush=True)
    check_complaints("all", guest)
    check("all/nvme-bytes-reported", len(guest.bytes) == boots, f"{len(guest.bytes)} times")
    for text in guest.bytes:
        say("OUTSIDE", "nvme-bytes", text)
    say("OUTSIDE", "net-out", "")
    exit_figures(guest)
    for bdf in (EDU, NVME, NET):
        left = left_behind(bdf)
        check(f"all/given-back/{bdf}", left is None, left)


def exit_figures(guest):
    """What the boot and 10,000 interrupts cost in exits."""
    booted = guest.samples.get((1, "boot-1"))
    if booted:
        for name in ("exits", "user_exits", "io_exits", "mmio_exits", "irq_injections", "halt_exits"):
            figure(f"all/boot/{name}", booted.stats.get(name, 0), "exits" if name != "irq_injections" else "interrupts")
    for kind, count in (("msi", 10000), ("intx", 1000)):
        before, after = (guest.samples.get((1, f"edu0/{kind}-{when}")) for when in ("before", "after"))
        if not (before and after):
            check(f"all/{kind}-exits", False, "the guest did not get there")
            continue
        for name in ("exits", "user_exits", "io_exits", "mmio_exits"):
            figure(f"all/{count}-{kind}/{name}", after.since(before, name), "exits")
        # The guest's own: a few lines on the serial console, a port exit for each byte, and timers.
        user = after.since(before, "user_exits")
        if kind == "msi":
            check("all/msi-without-user-exits", user < count // 10,
                  f"{user} exits to user space during {count} MSI, by reason: "
                  f"{ {key: value - before.user_exits.get(key, 0) for key, value in after.user_exits.items()} }")


def small_pvh():
    """The ELF kernel by its PVH entry, 1 CPU, little memory, from a memfd. (Guests of `endings` have it of the usual kind.)"""
    guest = Guest(kernel=VMLINUX, memory="128M,backing=memfd", cmdline="ballast.tests=")
    check("pvh/128M-memfd/boots", guest.wait_for("sample boot-1", GUEST_SECONDS), guest.last_words())
    check_power_off("pvh/128M-memfd", guest)
    check_complaints("pvh/128M-memfd", guest)


def one_group():
    """Two devices of one group in one guest."""
    for bdf in PAIR:
        bind(bdf, "vfio-pci")
    guest = Guest("--device", ",".join(PAIR), memory="256M", cmdline="ballast.tests=edu ballast.interrupts=1000")
    check_power_off("one-group", guest)
    check_guest_tests("one-group", guest, 1, list(expected_results(["edu"], 1, 2, False)))
    # Neither has a reset of its own: only the bus that both are on has.
    unreset = [line for line in guest.errors if "reset works" in line]
    check("one-group/reset-by-bus", not unreset, " | ".join(unreset))
    for bdf in PAIR:
        left = left_behind(bdf)
        check(f"one-group/given-back/{bdf}", left is None, left)


def endings():
    """How a run ends: a reset that is an exit, a time limit. (The power button: see host_asks.)"""
    guest = Guest("--on-reset", "exit", run="reboot", kernel=VMLINUX)
    check_power_off("on-reset-exit", guest, status=32)

    guest = Guest("--timeout", "5", run="wait", kernel=VMLINUX)
    check_power_off("timeout", guest, status=124)


def host_asks():
    """The host wants its device back while the guest runs; somebody wants to know what that is at, and presses the button."""
    bind(EDU, "vfio-pci")
    guest = Guest("--device", EDU, run="wait", kernel=VMLINUX)
    check("host-asks/boots", guest.wait_for("waiting", GUEST_SECONDS), guest.last_words())
    guest.process.send_signal(signal.SIGUSR1)
    check("host-asks/registers", guest.wait_for_error("cpu 0: rip", 30), guest.last_words())
    with subprocess.Popen(["sh", "-c", f"echo {EDU} >/sys/bus/pci/drivers/vfio-pci/unbind"]) as unbinding:
        check("host-asks/heard", guest.wait_for_error(f"the host asks for {EDU} back", 60), guest.last_words())
        check("host-asks/given-back", unbinding.wait(180) == 0, "the unbinding failed")
        asked = sum("asks for" in line for line in guest.errors)
        check("host-asks/said-once", asked == 1, f"{asked} times")
        check("host-asks/guest-goes-on", guest.process.poll() is None, guest.last_words())
        guest.press_power_button()
        check("power-button/pressed", guest.wait_for("power button pressed", 60), guest.last_words())
        check_power_off("power-button", guest, 60)


# -- errors of the user -------------------------------------------------------------------------------------------


def refused(name, args, *patterns, wrapper=(), limit=None, memory="256M", devices=(), ballast=BALLAST, kernel=VMLINUZ):
    """Ballast must refuse: status 1 or 2, one line that tells all that the patterns want, nothing left behind."""
    command = [*wrapper, ballast, "run", "--kernel", kernel, "--memory", memory, "--timeout", "60", *args]
    try:
        run = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=90, preexec_fn=limit,
                             check=False)
    except subprocess.TimeoutExpired:
        check(f"refused/{name}", False, "it went on")
        return
    # Information and warnings of what went well so far ("I ", "W ") may come before it.
    lines = [line for line in run.stderr.decode(errors="replace").splitlines() if not re.match("[IW] ", line)]
    text = " | ".join(lines)
    print(f"  {name}: {text}", flush=True)
    wrong = []
    if run.returncode not in (1, 2):
        wrong.append(f"exit status {run.returncode}")
    if len(lines) != 1:
        wrong.append(f"{len(lines)} lines instead of one")
    wrong += [f"does not tell /{pattern}/" for pattern in patterns if not re.search(pattern, text)]
    wrong += [left for left in map(left_behind, devices) if left]
    check(f"refused/{name}", not wrong, f"{', '.join(wrong)}: {text}")


def refusals():
    """What a user may get wrong with devices."""
    refused("unknown-device", ["--device", "0000:00:1e.7"], "0000:00:1e.7")

    bind(NVME, "nvme")
    refused("other-driver", ["--device", NVME], re.escape(NVME), r"\bnvme\b", "vfio-pci")

    bind(PAIR[0], "vfio-pci")
    bind(PAIR[1], "uio_pci_generic")
    refused("group-not-viable", ["--device", PAIR[0]], re.escape(PAIR[0]), re.escape(PAIR[1]), "uio_pci_generic")
    bind(PAIR[1], "vfio-pci")

    bind(EDU, "vfio-pci")
    allowed = 64 << 20
    refused("memlock", ["--device", EDU], rf"{allowed}|64 ?M", rf"{256 << 20}|256 ?M",
            wrapper=["setpriv", "--bounding-set", "-ipc_lock", "--inh-caps", "-ipc_lock"],
            limit=lambda: resource.setrlimit(resource.RLIMIT_MEMLOCK, (allowed, allowed)), devices=[EDU])

    # Copies, since a user without rights may not get at the originals.
    copies = tempfile.mkdtemp()
    os.chmod(copies, 0o755)
    refused("no-permission-on-kvm", [], "/dev/kvm", wrapper=["setpriv", "--reuid", "65534", "--clear-groups"],
            ballast=shutil.copy(BALLAST, copies), kernel=shutil.copy(VMLINUZ, copies))
    refused("device-twice", ["--device", f"{EDU},{EDU}"], re.escape(EDU), devices=[EDU])

    bind(EDU, None)
    refused("no-driver", ["--device", EDU], re.escape(EDU), "vfio-pci")
    bind(EDU, "vfio-pci")


class OrdinaryGuest(Guest):
    """Of a user who may use /dev/kvm and the group, and lock the guest's memory; from copies, since others may be out of reach."""

    def __init__(self, folder, *args, **more):
        os.chmod(folder, 0o755)
        self.folder = folder
        allowed = (256 << 20) + (64 << 20)
        super().__init__(*args, wrapper=["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"],
                         limit=lambda: resource.setrlimit(resource.RLIMIT_MEMLOCK, (allowed, allowed)), **more)

    def _command(self, kernel, cmdline, cpus, memory):
        return [shutil.copy(word, self.folder) if word in (BALLAST, kernel, INITRD) else word
                for word in super()._command(kernel, cmdline, cpus, memory)]


def ordinary_user():
    """An assigned device for somebody who is not root: the nodes are his, and the limit suffices. Locked up all the same."""
    bind(EDU, "vfio-pci")
    node = f"/dev/vfio/{group_of(EDU)}"
    mode = stat.S_IMODE(os.stat("/dev/kvm").st_mode)
    os.chown(node, 65534, 65534)
    os.chmod("/dev/kvm", 0o666)
    try:
        with tempfile.TemporaryDirectory() as folder, \
                OrdinaryGuest(folder, "--device", EDU, run="obey", cmdline="ballast.interrupts=1000") as guest:
            check("ordinary/boots", guest.wait_for("listening", GUEST_SECONDS), guest.last_words())
            check_confined("ordinary", guest.process, 65534)
            guest.send("test_edu; poweroff -f")
            check_power_off("ordinary", guest)
            check_guest_tests("ordinary", guest, 1, list(expected_results(["edu"], 1, 1, False)))
    finally:
        os.chmod("/dev/kvm", mode)
        os.chown(node, 0, 0)
    left = left_behind(EDU)
    check("ordinary/given-back", left is None, left)


CHAPTERS = [all_devices, small_pvh, one_group, endings, host_asks, refusals, ordinary_user, *balloon.CHAPTERS,
            *mdev.CHAPTERS, *coordinated.CHAPTERS, *debian.CHAPTERS, *devices.CHAPTERS, *hotplug.CHAPTERS, *host_setup.CHAPTERS,
            *clients.CHAPTERS, *faults.CHAPTERS]


AGAIN = 2  # how often a chapter may come again


def run(chapter):
    """The emulated host crashes a guest, loses it or does it wrong now and then: then its chapter counts for nothing and comes again.

    What is wrong with Ballast comes again, too; what came but once is there to be read, as a NOTE.
    """
    for _ in range(AGAIN if os.environ.get("LAB_EMULATED") else 0):
        before = len(failures)
        try:
            chapter()
            if len(failures) == before:
                return
            print(f"AGAIN {chapter.__name__}: failed: {', '.join(failures[before:])}", flush=True)
        except Exception as error:
            print(f"AGAIN {chapter.__name__}: {type(error).__name__}: {error}", flush=True)
    chapter()


def chapters():
    """Those that the machine outside names: it is asked for the next when one is over."""
    by_name = {chapter.__name__: chapter for chapter in CHAPTERS}
    for number in itertools.count():
        print(f"NEXT {number}", flush=True)
        path = f"{os.environ['LAB_SHARED']}/chapter-{number}"
        while not os.path.exists(path):
            time.sleep(0.1)
        name = read(path)
        if not name:
            return
        yield by_name[name]


def main():
    for chapter in chapters():
        print(f"-- {chapter.__name__}: {chapter.__doc__.splitlines()[0]}", flush=True)
        try:
            run(chapter)
        except Exception as error:  # the other chapters still have something to tell
            check(chapter.__name__, False, f"{type(error).__name__}: {error}")
        check_sanitizer(chapter.__name__)
        print("ENDED", flush=True)


if __name__ == "__main__":
    main()
