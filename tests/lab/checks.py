"""What the lab's tests report, and how they judge what a guest said."""

import glob
import os
import re

from host import REPORTS, GuestFailed

# Warnings of the guest's kernel that are the guest's or the lab's own, with the reason. Everything else is a complaint
# about the machine that Ballast shows it.
NOT_OURS = [
    (r"ballast_edu: (loading out-of-tree module|module verification failed)", "our test driver is no part of Debian's kernel"),
    (r"Unstable clock detected, switching default tracing clock|If you want to keep using the local clock|"
     r"^\s*\"trace_clock=local\"|on the kernel command line", "the lab's emulated CPU has no invariant TSC"),
    (r"clocksource: (Long readout interval|timekeeping watchdog on CPU\d+: Marking clocksource 'tsc' as unstable|"
     r".*'kvm-clock' |.*'tsc' cs_nsec)",
     "the lab host calibrates its emulated TSC a per cent off when the machine is busy, and kvm-clock follows it"),
    (r"hrtimer: interrupt took \d+ ns", "the lab is slow, and shares the machine's processors"),
]

# What the guest's tests report for each boot, by test; a guest that dies early so fails by name.
EXPECTED = {
    "edu": ["identity", "liveness", "factorial", "msi-few", "msi", "msi-moves-to-cpu{cpu}", "msi-to-cpu{cpu}",
            "msi-affinity-cpu{cpu}", "intx", "dma-low"],
    "nvme": ["driver", "read-back", "msix-cpu{cpu}"],
    "net": ["link", "dhcp", "16MiB-out", "16MiB-in", "driver"],
}

CRASHED = 33  # Ballast's exit status after a triple fault
GUEST_SECONDS = 150  # more than any boot takes here, so that a hang ends


def say(kind, name, text=""):
    print(f"{kind} {name}{': ' if text and kind != 'FIGURE' else ' ' if text else ''}{text}", flush=True)


failures = []  # the names of the checks that failed


def check(name, passed, why=""):
    say("PASS" if passed else "FAIL", name, "" if passed else why)
    if not passed:
        failures.append(name)
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


def check_confined(prefix, process, uid=0):
    """Each thread of a Ballast whose guest runs is in the sandbox, and has no privileges."""
    if REPORTS:
        say("SKIP", f"{prefix}/confined", "with a sanitizer in it Ballast has no sandbox")
        return
    wanted = {"Uid": str(uid), "CapEff": "0000000000000000", "CapPrm": "0000000000000000", "NoNewPrivs": "1", "Seccomp": "2"}
    names = set()
    for path in glob.glob(f"/proc/{process.pid}/task/*/status"):
        try:
            with open(path, encoding="ascii") as file:
                lines = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
        except (FileNotFoundError, ProcessLookupError):
            continue  # the thread is gone
        names.add(lines["Name"])
        seen = {key: lines.get(key, "").split("\t")[0] for key in wanted}
        check(f"{prefix}/confined/{lines['Name']}", seen == wanted, seen)
    check(f"{prefix}/confined", {"ballast", "vcpu 00"} <= names, f"of its threads only {sorted(names)} were seen")


def check_complaints(prefix, guest, not_ours=()):
    """Warnings and errors of the guest's kernel: printed all, failed for those with no reason of their own."""
    ours = []
    for line in guest.complaints:
        text = re.sub(r"^<\d+>\[ *[\d.]+\] ?", "", line)
        reason = next((reason for pattern, reason in (*NOT_OURS, *not_ours) if re.search(pattern, text)), None)
        print(f"  guest's dmesg: {text}" + (f"  [not ours: {reason}]" if reason else ""), flush=True)
        if reason is None:
            ours.append(text)
    check(f"{prefix}/dmesg", not ours, f"{len(ours)} lines, first: {ours[0] if ours else ''}")


def check_power_off(prefix, guest, seconds=GUEST_SECONDS, status=0):
    seen = guest.finish(seconds)
    if seen == CRASHED != status:
        raise GuestFailed(f"{prefix}: it crashed: {guest.last_words()}")
    check(f"{prefix}/exit-status", seen == status, f"{seen}, expected {status}; {guest.last_words()}")


def check_sanitizer(chapter):
    """If there is one: it has reported nothing, of none of the Ballasts that the chapter ran."""
    if not REPORTS:
        return
    paths = glob.glob(f"{REPORTS}/report*")
    for path in paths:
        with open(path, encoding="utf-8", errors="replace") as file:
            for line in file:
                print(f"  {line.rstrip()}", flush=True)
        os.unlink(path)
    check(f"{chapter}/sanitizer", not paths, f"{len(paths)} processes are reported of, see above")
