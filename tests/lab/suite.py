#!/usr/bin/python3
"""The lab's tests, run on the lab host by ./run: one lab, many guests.

Prints PASS, FAIL, SKIP and FIGURE lines. What only the machine outside can check it prints as OUTSIDE lines.
"""

import os
import re
import resource
import signal
import shutil
import subprocess
import sys
import tempfile
import time

from host import (BALLAST, EDU, NET, NVME, PAIR, VMLINUX, VMLINUZ, Guest, bind, count_user_exits, left_behind,
                  write)

# Warnings of the guest's kernel that are the guest's or the lab's own, with the reason. Everything else is a complaint
# about the machine that Ballast shows it.
NOT_OURS = [
    (r"ballast_edu: (loading out-of-tree module|module verification failed)", "our test driver is no part of Debian's kernel"),
    (r"Unstable clock detected, switching default tracing clock|If you want to keep using the local clock|"
     r"^\s*\"trace_clock=local\"|on the kernel command line", "the lab's emulated CPU has no invariant TSC"),
    (r"clocksource: (timekeeping watchdog on CPU\d+: Marking clocksource 'tsc' as unstable|.*'kvm-clock' |.*'tsc' cs_nsec)",
     "the lab host calibrates its emulated TSC a per cent off when the machine is busy, and kvm-clock follows it"),
    (r"hrtimer: interrupt took \d+ ns", "the lab is slow, and shares the machine's processors"),
]

# What the guest's tests report for each boot, by test; a guest that dies early so fails by name.
EXPECTED = {
    "edu": ["identity", "liveness", "factorial", "msi-few", "msi", "msi-to-cpu{cpu}", "msi-affinity-cpu{cpu}", "intx",
            "dma-low"],
    "nvme": ["driver", "read-back", "msix-cpu{cpu}"],
    "net": ["link", "dhcp", "16MiB-out", "16MiB-in", "driver"],
}

GUEST_SECONDS = 240  # more than any boot takes here, so that a hang ends


def say(kind, name, text=""):
    print(f"{kind} {name}{': ' if text and kind != 'FIGURE' else ' ' if text else ''}{text}", flush=True)


def check(name, passed, why=""):
    say("PASS" if passed else "FAIL", name, "" if passed else why)
    return passed


def figure(name, value, unit):
    say("FIGURE", name, f"{value} {unit}")


def expected_results(tests, cpus, edus, high):
    for test in tests:
        names = EXPECTED[test] + (["dma-high"] if test == "edu" and high else [])
        owners = [f"edu{number}" for number in range(edus)] if test == "edu" else [test]
        for owner in owners:
            for name in names:
                for cpu in range(cpus) if "{cpu}" in name else [0]:
                    yield f"{owner}/{name.format(cpu=cpu)}"


def check_guest_tests(prefix, guest, boots, expected):
    """One line for each result that a boot must report."""
    for boot in range(1, boots + 1):
        seen = {name: (passed, text) for number, name, passed, text in guest.results if number == boot}
        at = f"{prefix}/boot{boot}" if boots > 1 else prefix
        missing = [name for name in expected if name not in seen]
        for name in expected:
            passed, text = seen.pop(name, (False, "not reported"))
            check(f"{at}/{name}", passed, text + (f"; {guest.last_words()}" if [name] == missing[:1] else ""))
        for name, (passed, text) in seen.items():
            check(f"{at}/{name}", passed, text)


def check_complaints(prefix, guest):
    """Warnings and errors of the guest's kernel: printed all, failed for those with no reason of their own."""
    ours = []
    for line in guest.complaints:
        text = re.sub(r"^<\d+>\[ *[\d.]+\] ?", "", line)
        reason = next((reason for pattern, reason in NOT_OURS if re.search(pattern, text)), None)
        print(f"  guest's dmesg: {text}" + (f"  [not ours: {reason}]" if reason else ""), flush=True)
        if reason is None:
            ours.append(text)
    check(f"{prefix}/dmesg", not ours, f"{len(ours)} lines, first: {ours[0] if ours else ''}")


def check_power_off(prefix, guest, seconds=GUEST_SECONDS, status=0):
    seen = guest.finish(seconds)
    check(f"{prefix}/exit-status", seen == status, f"{seen}, expected {status}; {guest.last_words()}")


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
    """The ELF kernel by its PVH entry, 1 CPU, little memory."""
    for memory in ("128M", "256M,backing=memfd"):
        name = f"pvh/{memory.replace(',backing=', '-')}"
        guest = Guest(kernel=VMLINUX, memory=memory, cmdline="ballast.tests=")
        check(f"{name}/boots", guest.wait_for("sample boot-1", GUEST_SECONDS), guest.last_words())
        check_power_off(name, guest)
        check_complaints(name, guest)


def hugetlb():
    """Guest memory of 2 MiB pages, with a device that reaches into it."""
    bind(EDU, "vfio-pci")
    write("/proc/sys/vm/nr_hugepages", "128")
    guest = Guest("--device", EDU, memory="256M,backing=hugetlb", cmdline="ballast.tests=edu ballast.interrupts=100")
    check_power_off("hugetlb", guest)
    check_guest_tests("hugetlb", guest, 1, list(expected_results(["edu"], 1, 1, False)))
    write("/proc/sys/vm/nr_hugepages", "0")


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
    """How a run ends: a reset that is an exit, a time limit, the power button."""
    guest = Guest("--on-reset", "exit", run="reboot", kernel=VMLINUX)
    check_power_off("on-reset-exit", guest, status=32)

    guest = Guest("--timeout", "15", run="wait", kernel=VMLINUX)
    check_power_off("timeout", guest, status=124)

    guest = Guest(run="wait", kernel=VMLINUX)
    check("power-button/boots", guest.wait_for("waiting", GUEST_SECONDS), guest.last_words())
    guest.press_power_button()
    check("power-button/pressed", guest.wait_for("power button pressed", 60), guest.last_words())
    check_power_off("power-button", guest, 60)


def host_asks():
    """The host wants its device back while the guest runs; and somebody wants to know what the guest is at."""
    bind(EDU, "vfio-pci")
    guest = Guest("--device", EDU, run="wait", kernel=VMLINUX)
    check("host-asks/boots", guest.wait_for("waiting", GUEST_SECONDS), guest.last_words())
    guest.process.send_signal(signal.SIGUSR1)
    check("host-asks/registers", guest.wait_for_error("cpu 0: rip", 30), guest.last_words())
    with subprocess.Popen(["sh", "-c", f"echo {EDU} >/sys/bus/pci/drivers/vfio-pci/unbind"]) as unbinding:
        check("host-asks/heard", guest.wait_for_error(f"the host asks for {EDU} back", 60), guest.last_words())
        time.sleep(12)  # the kernel asks again after ten seconds
        asked = sum("asks for" in line for line in guest.errors)
        check("host-asks/said-once", asked == 1, f"{asked} times")
        check("host-asks/guest-goes-on", guest.process.poll() is None, guest.last_words())
        guest.press_power_button()
        check_power_off("host-asks", guest, 60)
        check("host-asks/given-back", unbinding.wait(60) == 0, "the unbinding failed")


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


CHAPTERS = [all_devices, small_pvh, hugetlb, one_group, endings, host_asks, refusals]


def main():
    wanted = sys.argv[1:] or [chapter.__name__ for chapter in CHAPTERS]
    for chapter in CHAPTERS:
        if chapter.__name__ not in wanted:
            continue
        print(f"-- {chapter.__name__}: {chapter.__doc__.splitlines()[0]}", flush=True)
        try:
            chapter()
        except Exception as error:  # the other chapters still have something to tell
            check(chapter.__name__, False, f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
