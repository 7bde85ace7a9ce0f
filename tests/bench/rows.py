"""What tests/bench/run measures, on the lab host: a function for each of its names."""

import contextlib
import glob
import json
import mmap
import os
import re
import signal
import statistics
import struct
import subprocess
import tempfile
import time

import host
from monitors import MONITORS

MIB = 1 << 20
OURS = MONITORS[0]
QEMU = [monitor.name for monitor in MONITORS if monitor.name.startswith("QEMU")]
SECONDS = 200  # more than any boot takes here
TRIES = 3  # of what the emulated processor may have crashed
TRACING = "/sys/kernel/tracing"
HUGE_PAGES = "/sys/kernel/mm/transparent_hugepage/enabled"
HOST, GUEST, PORT = "192.168.77.1", "192.168.77.2", "7700"
# Exit codes of AMD's processors (APM 2, appendix C), Intel's have others.
CLASSES = {0x60: "interrupt", 0x64: "interrupt window", 0x72: "CPUID", 0x78: "HLT", 0x7b: "port I/O", 0x7c: "MSR",
           0x81: "VMMCALL", 0x14: "CR4", 0x65: "CR0", 0x89: "WBINVD", 0x400: "page fault"}
# What is where on a PC: from, to, what; the first that fits.
PLACES = {
    "port": ((0x20, 0x21, "PIC"), (0xa0, 0xa1, "PIC"), (0x40, 0x43, "PIT"), (0x61, 0x61, "PIT"), (0x60, 0x64, "keyboard"),
             (0x70, 0x71, "RTC"), (0x3f8, 0x3ff, "serial"), (0xcf8, 0xcff, "PCI configuration"), (0x510, 0x51b, "fw_cfg"),
             (0x402, 0x402, "SeaBIOS's log"), (0x600, 0x63f, "ACPI")),
    "memory": ((0xfec00000, 0xfec00fff, "IO-APIC"), (0xfed00000, 0xfed003ff, "HPET"), (0xfee00000, 0xfeefffff, "APIC")),
    "MSR": ((0x6e0, 0x6e0, "TSC deadline"), (0x800, 0x8ff, "x2APIC"), (0x200, 0x2ff, "MTRR and PAT")),
}
FALLOCATE = 285  # system call
ADVICE = {4, 8, 9}  # madvise's DONTNEED, FREE, REMOVE
KVM_EXIT_IO = 2
MAP_DMA = 0x3b71
POPULATE_WRITE = 23  # advice of madvise


def say(text):
    print(f"[{time.monotonic():5.0f} s] {text}", flush=True)


def measure(name, rounds):
    """The columns and rows of one name: what is measured, its unit, a value for each column, the aim, whether it was met."""
    rows = []
    few = max(1, rounds // 10)
    columns = globals()[name](rows, rounds if name == "boot" else few) or [
        monitor.name for monitor in MONITORS if any(row["values"].get(monitor.name) is not None for row in rows)]
    return {"columns": columns, "rows": rows, "commands": Run.commands}


def add(rows, text, unit, values, aim="", met=None, note=""):
    rows.append({"row": text, "unit": unit, "values": values, "aim": aim, "met": met, "note": note})
    say(f"{text}: {listed(values)} {unit}")


def at_most(values, part, others=tuple(QEMU)):
    """Whether ours is at most such a part of the least of theirs."""
    theirs = [values[name] for name in others if values.get(name) is not None]
    return values[OURS.name] is not None and bool(theirs) and values[OURS.name] <= part * min(theirs)


def listed(values):
    return ", ".join(f"{name} {value:.4g}" for name, value in values.items() if value is not None)


def those(*needs):
    """The monitors that can do all of these, by the names of Monitor's methods."""
    return [monitor for monitor in MONITORS if all(getattr(monitor, need)("x") is not None for need in needs)]


def again(what, attempt):
    """The emulated processor crashes a guest, or hangs it, now and then."""
    for left in range(TRIES - 1, -1, -1):
        try:
            return attempt()
        except Exception as error:  # pylint: disable=broad-exception-caught # whatever a crash leads to
            say(f"{what}: failed, {left} tries left: {type(error).__name__}: {error}")
    return None


def in_turns(rounds, what, attempt, monitors=tuple(MONITORS)):
    """The median of each thing that attempt(monitor) measures, by monitor: {thing: {monitor: value}}.

    Who is first in a turn is last in the next: the lab is not the same after a guest as before it.
    """
    found, able = {monitor.name: [] for monitor in monitors}, list(monitors)
    for turn in range(1, rounds + 1):
        for monitor in list(able) if turn % 2 else list(reversed(able)):
            values = again(f"{monitor.name}, {what}", lambda monitor=monitor: attempt(monitor))
            if not values:
                able.remove(monitor)
                continue
            found[monitor.name].append(values)
            say(f"{monitor.name}, {what}, turn {turn}: {json.dumps(values)}")
    things = {thing: None for values in found.values() for each in values for thing in each}
    return {thing: {name: statistics.median(each.get(thing, 0) for each in values) if values else None
                    for name, values in found.items()} for thing in things}


# -- what is looked at --------------------------------------------------------------------------------------------


class Histogram:
    """Counts of a trace event by its fields, in the kernel."""

    def __init__(self, event, keys, more=""):
        self.path = f"{TRACING}/events/{event}"
        self.fields = keys.count(",") + 1
        self.trigger = f"hist:keys={keys}:size=16384{more}"
        for words in ("!" + self.trigger, self.trigger):
            try:
                host.write(f"{self.path}/trigger", words + "\n")
            except OSError:
                pass  # it was not there, or is still
        self.before = self._now()

    def _now(self):
        found = {}
        for line in host.read(f"{self.path}/hist").splitlines():
            key = re.match(r"\{ (.*?)\} (.*)", line)
            if key and len(numbers(key[1])) == self.fields:  # else it is another histogram's of the event
                found[numbers(key[1])] = numbers(key[2])
        return found

    def remove(self):
        host.write(f"{self.path}/trigger", f"!{self.trigger}\n")

    def grown(self):
        """What each key had more since the beginning: hits, and sums."""
        now = self._now()
        return {key: [value - old for value, old in zip(values, self.before.get(key, [0] * len(values)))]
                for key, values in now.items()}


def numbers(text):
    return tuple(map(int, re.findall(r": *(-?\d+)", text)))


class FirstEntry:
    """When a guest was entered for the first time since, by the kernel's monotonic clock."""

    def __init__(self):
        # The first events are kept, not the last: there is room for few.
        for name, value in (("trace_clock", "mono"), ("options/overwrite", "0"), ("buffer_size_kb", "8"), ("trace", ""),
                            ("events/kvm/kvm_entry/enable", "1"), ("tracing_on", "1")):
            host.write(f"{TRACING}/{name}", value + "\n")

    def after(self, began, process):
        """How long after that it was. Waits for it as long as the process is there."""
        deadline = time.monotonic() + SECONDS
        while True:
            ended = process.poll() is not None
            times = re.findall(r" (\d+\.\d+): kvm_entry:", host.read(f"{TRACING}/trace"))
            if times:
                host.write(f"{TRACING}/events/kvm/kvm_entry/enable", "0\n")
                host.write(f"{TRACING}/trace", "\n")
                return min(map(float, times)) - began
            if ended or time.monotonic() > deadline:
                raise host.GuestFailed("it was never entered")
            time.sleep(0.2)


def timed(call, field, only):
    """Those of a system call by a field of it: how many, and microseconds in them."""
    event, enter = f"timed_{call}", f"syscalls/sys_enter_{call}"
    if event not in host.read(f"{TRACING}/synthetic_events"):
        with open(os.open(f"{TRACING}/synthetic_events", os.O_WRONLY), "w", encoding="ascii") as file:  # truncated, it forgets
            file.write(f"{event} u64 us; u64 number\n")
        host.write(f"{TRACING}/events/{enter}/trigger", "hist:keys=common_pid:began=common_timestamp.usecs,"
                   f"number={field}:clock=mono if {only}\n")
        host.write(f"{TRACING}/events/syscalls/sys_exit_{call}/trigger", "hist:keys=common_pid:"
                   "us=common_timestamp.usecs-$began,n=$number:clock=mono:"
                   f"onmatch({enter.replace('/', '.')}).{event}($us,$n)\n")
    return Histogram(f"synthetic/{event}", "number", ":vals=us")


def seconds_in(histogram):
    """The sum of a timed() one: modulo 2^64, since a call can end before it began, by the clock of another processor."""
    return sum(us for _, us in histogram.grown().values()) % (1 << 64) / 1e6


def own_memory(pid):
    """MiB that are a process's own: its Pss without the guest's RAM, which is in mappings of 128 MiB at least."""
    total = 0
    for mapping in host.read(f"/proc/{pid}/smaps").split("VmFlags:")[:-1]:
        size_of_it, pss = (int(re.search(rf"^{name}: +(\d+)", mapping, re.MULTILINE)[1]) for name in ("Size", "Pss"))
        total += pss if size_of_it < 128 << 10 else 0
    return total / 1024


class Run(host.Guest):
    """One guest of a monitor's. Stopped at its init's first word, if so wanted, with what it has cost until then."""

    commands = {}

    def __init__(self, monitor, *args, stop=False, **more):
        self.monitor = monitor
        self.stop = stop
        self.cost = None
        self.began = time.monotonic()
        super().__init__(*args, kernel=host.VMLINUX, **more)
        Run.commands[monitor.name] = self.process.args

    def _command(self, kernel, cmdline, cpus, memory):
        return self.monitor.command(kernel, host.INITRD, cmdline, cpus, memory)

    def _understand(self, line):
        if self.stop and line.startswith("kernel "):
            seconds = time.monotonic() - self.began
            self.process.send_signal(signal.SIGSTOP)
            stats = host.Counters(self.process.pid).stats
            self.cost = {"seconds": seconds, "own": own_memory(self.process.pid), "exits": stats["exits"],
                         "outside": stats["io_exits"] + stats["mmio_exits"], "mmio": stats["mmio_exits"]}
        super()._understand(line)


def boot_once(monitor, *args, **more):
    """Boots to the guest's init; what that cost."""
    entry = FirstEntry()
    with Run(monitor, *args, stop=True, **more) as guest:
        start = entry.after(guest.began, guest.process)
        guest.hear("kernel ", SECONDS)
        return {**guest.cost, "start": start}


@contextlib.contextmanager
def obeying(monitor, *args, **more):
    with Run(monitor, *args, run="obey", **more) as guest:
        guest.hear("listening", SECONDS)
        yield guest


@contextlib.contextmanager
def with_balloon(monitor, *args, policy=False, **more):
    """A guest of 1.5 GiB with a balloon, and what speaks to its monitor."""
    with tempfile.TemporaryDirectory() as folder:
        with obeying(monitor, *monitor.balloon(f"{folder}/socket", policy), *args, memory="1536M", **more) as guest:
            yield guest, host.Qmp(f"{folder}/socket")


def balloon_takes(qmp, mib):
    """Waits until all but so much of a guest of 1.5 GiB is its own."""
    qmp.ask("balloon", {"value": (1536 - mib) * MIB})
    deadline = time.monotonic() + SECONDS
    while qmp.ask("query-balloon")["actual"] != (1536 - mib) * MIB:
        if time.monotonic() > deadline:
            raise host.GuestFailed(f"the balloon did not take {mib} MiB in {SECONDS} s")
        time.sleep(0.5)


# -- the rows -----------------------------------------------------------------------------------------------------


def size(rows, _):
    """Without debug information, as packages are."""
    programs, libraries = {}, {}
    for monitor in MONITORS:
        with tempfile.NamedTemporaryFile() as copy:
            subprocess.run(["strip", "-o", copy.name, monitor.binary], check=True)
            programs[monitor.name] = os.path.getsize(copy.name) / MIB
        ldd = subprocess.run(["ldd", monitor.binary], stdout=subprocess.PIPE, text=True, check=True).stdout
        libraries[monitor.name] = [os.path.getsize(path) for path in re.findall(r"(/\S+) \(", ldd)]
    add(rows, "binary, stripped", "MiB", programs)
    add(rows, "its shared libraries", "MiB", {name: sum(sizes) / MIB for name, sizes in libraries.items()})
    add(rows, "its shared libraries", "files", {name: len(sizes) for name, sizes in libraries.items()})


def bare(rows, rounds):
    """A guest of a few instructions: it reads a port that nobody has so many times, and ends itself by port 0xf4."""
    def attempt(monitor):
        values, reads = {}, 50000
        for count in (1, reads):
            with tempfile.NamedTemporaryFile(suffix=".elf") as kernel:
                kernel.write(pvh_kernel(count))
                kernel.flush()
                entry, began = FirstEntry(), time.monotonic()
                process = subprocess.Popen(monitor.command(kernel.name, None, "", 1, "256M") + monitor.exit_port(),
                                           stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                _, status, usage = os.wait4(process.pid, 0)
                process.returncode = status
                if not os.WIFEXITED(status):
                    raise host.GuestFailed(f"{monitor.name} ended with {status}")
                seconds, start = time.monotonic() - began, entry.after(began, process)
                values[count] = {"start": start, "seconds": seconds - start, "cpu": usage.ru_utime + usage.ru_stime}
        scale = os.wait4(os.posix_spawn("/bin/true", ["true"], {}), 0)[2]
        return {"start": values[1]["start"] * 1000, "cpu": values[1]["cpu"] * 1000,
                "scale": (scale.ru_utime + scale.ru_stime) * 1000,
                "trip": (values[reads]["seconds"] - values[1]["seconds"]) / (reads - 1) * 1e6}

    found = in_turns(3 * rounds, "a bare guest", attempt)
    add(rows, "execve to the guest's first instruction", "ms", found["start"])
    add(rows, "CPU time of start, one exit and end", "ms", found["cpu"], "< 10 ms", found["cpu"][OURS.name] < 10)
    add(rows, "CPU time of /bin/true, just after it: what this host takes for next to nothing", "ms", found["scale"])
    add(rows, "an exit to the monitor and back (a port nobody has)", "us", found["trip"])


def pvh_kernel(reads):
    """An ELF file with a PVH entry: mov ecx, reads; loop: in al, 0x81; dec ecx; jnz loop; mov al, 42; out 0xf4, al; hlt."""
    base, offset = 0x100000, 0x1000
    code = b"\xb9" + struct.pack("<I", reads) + b"\xe4\x81\x49\x75\xfb\xb0\x2a\xe6\xf4\xf4\xeb\xfd"
    note = struct.pack("<III4sQ", 4, 8, 18, b"Xen", base)
    header = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 2, 62, 1, base, 64, 0, 0, 64, 56, 2, 64, 0, 0)
    load = struct.pack("<IIQQQQQQ", 1, 5, offset, base, base, len(code), len(code), 0x1000)
    notes = struct.pack("<IIQQQQQQ", 4, 4, offset + 0x100, 0, 0, len(note), len(note), 4)
    return (header + load + notes).ljust(offset, b"\0") + code.ljust(0x100, b"\0") + note


def boot(rows, rounds):
    for cpus in (1, 2):
        found = in_turns(rounds, f"{cpus} vCPUs", lambda monitor, cpus=cpus: boot_once(monitor, cpus=cpus))
        boots = found["seconds"]
        add(rows, f"execve to init, {cpus} vCPU", "s", boots, "<= 0.7 of QEMU's best", at_most(boots, 0.7))
        add(rows, f"of it execve to the first instruction, {cpus} vCPU", "s", found["start"])
        add(rows, f"exits, {cpus} vCPU", "exits", found["exits"])
        add(rows, f"of them port I/O and MMIO, {cpus} vCPU", "exits", found["outside"], "<= 1/10 of q35's",
            at_most(found["outside"], 0.1, ["QEMU q35"]), f"MMIO: {listed(found['mmio'])}")
        if cpus == 1:
            add(rows, "own memory (Pss without guest RAM), 1 vCPU", "MiB", found["own"], "<= 2 MiB",
                (found["own"][OURS.name] or 99) <= 2)


def exits(rows, _):
    found = in_turns(1, "exits until init", exits_once)
    most = {name: max(value or 0 for value in values.values()) for name, values in found.items()}
    kinds = ["reason", *PLACES]
    for name in sorted(found, key=lambda name: (kinds.index(name.split(":")[0]), -most[name])):
        if most[name] >= 20:
            add(rows, name, "exits" if name.startswith("reason") else "accesses", found[name])


def exits_once(monitor):
    """Why a guest exits until its init, by the processor's reason, and by what it reads and writes then."""
    seen = {"reason": Histogram("kvm/kvm_exit", "exit_reason"), "port": Histogram("kvm/kvm_pio", "port"),
            "memory": Histogram("kvm/kvm_mmio", "gpa", " if type != 0"), "MSR": Histogram("kvm/kvm_msr", "ecx")}
    boot_once(monitor)
    counts = {}
    for kind, histogram in seen.items():
        for (key,), hits in histogram.grown().items():
            name = CLASSES.get(key, f"code {key:#x}") if kind == "reason" else next(
                (name for first, last, name in PLACES[kind] if first <= key <= last), "other")
            counts[f"{kind}: {name}"] = counts.get(f"{kind}: {name}", 0) + hits[0]
        histogram.remove()
    return {name: hits for name, hits in counts.items() if hits}


def interrupts(rows, _):
    def attempt(monitor):
        with obeying(monitor, *monitor.device(host.EDU)) as guest:
            guest.ask('test_edu_msi "$(echo /sys/bus/pci/drivers/ballast_edu/0*)" edu0', SECONDS)
            before, after = (guest.samples[(1, f"edu0/msi-{when}")] for when in ("before", "after"))
            console = after.user_exits.get(KVM_EXIT_IO, 0) - before.user_exits.get(KVM_EXIT_IO, 0)
            return {"exits": after.since(before, "exits"), "console": console,
                    "other": after.since(before, "user_exits") - console}

    host.bind(host.EDU, "vfio-pci")
    host.count_user_exits()
    found = in_turns(1, "10,000 MSI", attempt, those("device"))
    add(rows, "exits, 10,000 MSI", "exits", found["exits"])
    add(rows, "to user space, by port I/O (what the guest says on its serial console)", "exits", found["console"])
    add(rows, "to user space, all other", "exits", found["other"], "0", found["other"][OURS.name] == 0)


def attach(rows, rounds):
    """A guest that starts with a device: all is mapped before it is entered, or what is live when the device comes to use."""
    def attempt(monitor, memory, keep):
        entry = FirstEntry()
        ioctls = timed("ioctl", "cmd", "cmd >= 0x3b64 && cmd <= 0x3bff")  # VFIO's
        populate = timed("madvise", "behavior", f"behavior == {POPULATE_WRITE}")
        with tempfile.TemporaryDirectory() as folder, Run(
                monitor, *(monitor.balloon(f"{folder}/socket", True, keep) if keep else []), *monitor.device(host.EDU),
                run="obey", memory=memory, cmdline="ballast.balloon_first=yes") as guest:
            start = entry.after(guest.began, guest.process)
            if keep:
                guest.hear("listening", 2 * SECONDS)
            grown = ioctls.grown()
            return {"start": start, "ioctls": sum(hits for hits, _ in grown.values()), "maps": grown.get((MAP_DMA,), (0, 0))[0],
                    "pinning": seconds_in(ioctls) + seconds_in(populate), "populate": seconds_in(populate)}

    host.bind(host.EDU, "vfio-pci")
    # Or who is given a page for the first time pays for the emulator, which has none of it yet.
    with mmap.mmap(-1, (host.available_memory() - 512 * MIB) // MIB * MIB) as memory:
        memory.madvise(POPULATE_WRITE)
    sizes = [("1G", "1G", None), ("4G", "4G", None)]
    if os.path.exists(f"{host.IMAGES}/config"):  # of guest-images/kernel, which has no modules
        say("left out: 4G, 512M of it live. The device's driver is built in: it does not wait until the balloon is full")
    else:
        sizes.append(("4G, 512M of it live", "4G", 512))
    for what, memory, keep in sizes:
        able = [monitor for monitor in those("device") if not keep or monitor.balloon("x", True, keep)]
        found = in_turns(rounds, f"attach, {what}", lambda monitor, more=(memory, keep): attempt(monitor, *more), able)
        if keep:
            aim = ("<= 1/4 of that for 4G", bool(found["pinning"][OURS.name] and found["pinning"][OURS.name] <= whole / 4))
        else:
            whole = found["pinning"][OURS.name] or 0
            aim = ("<= QEMU", at_most(found["start"], 1))
            add(rows, f"{what}: execve to the first instruction", "s", found["start"], *aim)
        add(rows, f"{what}: in VFIO's ioctls, and in madvise to make pages present", "s", found["pinning"],
            *(aim if keep else ()), note=f"the latter: {listed(found['populate'])}")
        add(rows, f"{what}: VFIO's ioctls", "calls", found["ioctls"], "" if keep else "<= QEMU",
            None if keep else at_most(found["ioctls"], 1), f"to map: {listed(found['maps'])}")


def usage(pid, calls, madvise):
    """What a process has used so far: CPU milliseconds, exits, and system calls, of which some discard."""
    used, threads = {"cpu": 0, "exits": host.Counters(pid).stats["exits"]}, set()
    for folder in glob.glob(f"/proc/{pid}/task/*"):
        threads.add(int(os.path.basename(folder)))
        stat = host.read(f"{folder}/stat").rsplit(")", 1)[1].split()
        user, system, guest = (int(stat[field - 3]) * 10 for field in (14, 15, 43))
        used["cpu"] += user + system - guest
    by_number = [(number, hits[0]) for (number, thread), hits in calls.grown().items() if thread in threads]
    used["calls"] = sum(hits for _, hits in by_number)
    used["discards"] = sum(hits for number, hits in by_number if number == FALLOCATE) + sum(
        hits[0] for (thread, advice), hits in madvise.grown().items() if thread in threads and advice in ADVICE)
    return used


def balloon(rows, rounds):
    """1 GiB that the guest has touched, so that the host has pages to give back; in small pages, and as on hosts that have huge ones."""
    def attempt(monitor):
        calls = Histogram("raw_syscalls/sys_enter", "id,common_pid")
        madvise = Histogram("syscalls/sys_enter_madvise", "common_pid,behavior")
        found = {}
        with with_balloon(monitor) as (guest, qmp):
            guest.send("oracle hold 1024")
            guest.hear("oracle holding", SECONDS)
            guest.ask("")
            for phase, mib in (("inflate", 1024), ("deflate", 0)):
                time.sleep(2)
                before = usage(guest.process.pid, calls, madvise)
                balloon_takes(qmp, mib)
                time.sleep(2)  # parts of huge pages may go later
                after = usage(guest.process.pid, calls, madvise)
                found.update({f"{phase} {name}": after[name] - before[name] for name in after})
        return found

    for pages, where in (("never", "4 KiB pages"), ("madvise", "2 MiB pages")):
        # The lab is started without huge pages, which its emulator bears only for a while.
        host.write(HUGE_PAGES, pages)
        found = in_turns(rounds, f"balloon, {where}", attempt, those("balloon"))
        host.write(HUGE_PAGES, "never")
        for phase in ("inflate", "deflate"):
            what = f"{where}, {phase}"
            add(rows, f"{what}: CPU time, not in the guest", "ms", found[f"{phase} cpu"], "<= 1/5 of QEMU's",
                at_most(found[f"{phase} cpu"], 0.2))
            add(rows, f"{what}: the guest's exits", "exits", found[f"{phase} exits"])
            add(rows, f"{what}: system calls", "calls", found[f"{phase} calls"], "<= 1/10 of QEMU's",
                at_most(found[f"{phase} calls"], 0.1))
            if phase == "inflate":
                discards = found[f"{phase} discards"]
                add(rows, f"{what}: of them madvise and fallocate that discard", "calls", discards, "<= 1/10 of QEMU's",
                    at_most(discards, 0.1))


def coordinated(rows, rounds):
    def attempt(monitor):
        with with_balloon(monitor, *monitor.device(host.EDU), policy=True) as (_, qmp):
            found = [host.available_memory()]
            for mib in (1024, 0):
                balloon_takes(qmp, mib)
                time.sleep(3)  # granules rest
                found.append(host.available_memory())
        return {"back": (found[1] - found[0]) / MIB, "left": (found[2] - found[0]) / MIB}

    host.bind(host.EDU, "vfio-pci")
    found = in_turns(rounds, "balloon with a device", attempt, those("balloon", "device"))
    add(rows, "1 GiB inflated: the host has so much more memory", "MiB", found["back"], ">= 90% of 1024",
        (found["back"][OURS.name] or 0) >= 0.9 * 1024)
    add(rows, "deflated again: so much is left of it", "MiB", found["left"])


def wakes(rows, rounds):
    """A disk that is read a request at a time, from tmpfs: its driver's kicks by ioeventfd, its interrupts by irqfd."""
    disk = "/dev/shm/disk.img"
    make_disk(disk, 64)
    events = ("kvm/kvm_exit", "kvm/kvm_mmio", "raw_syscalls/sys_exit", "raw_syscalls/sys_enter", "kvm/kvm_msi_set_irq",
              "kvm/kvm_inj_virq", "kvm/kvm_entry")
    for event, only in (("enter", "id == 1"), ("exit", "id == 232 || id == 271")):  # write; epoll_wait, ppoll
        host.write(f"{TRACING}/events/raw_syscalls/sys_{event}/filter", only + "\n")

    def attempt(monitor):
        with obeying(monitor, *monitor.disks([disk])) as guest:
            read = "load disk /dev/vda read random 4096 1 "
            guest.ask(read + "100", SECONDS)
            for name, value in (("trace_clock", "mono"), ("buffer_size_kb", "8192"), ("trace", "")):
                host.write(f"{TRACING}/{name}", value + "\n")
            for value in "10":
                for event in events:
                    host.write(f"{TRACING}/events/{event}/enable", value + "\n")
                if value == "1":
                    guest.ask(read + "200", SECONDS)
            return ways(host.read(f"{TRACING}/trace"), os.listdir(f"/proc/{guest.process.pid}/task"))

    found = in_turns(rounds, "kicks and interrupts", attempt, those("disks"))
    for way, values in found.items():
        add(rows, way, "us", values)


def ways(trace, threads):
    """The median microseconds that each part of a kick and of an interrupt took."""
    at, found = {}, {}

    def passed(text, since, now):
        if since in at:
            found.setdefault(text, []).append((now - at.pop(since)) * 1e6)

    for thread, now, event, text in re.findall(r"-(\d+) +\[.* (\d+\.\d+): (\w+):(.*)", trace):
        now = float(now)
        if thread not in threads:
            continue
        if event == "kvm_exit":
            at["exit"] = now
        elif event == "kvm_mmio" and "mmio write" in text and "gpa 0xfee00" not in text:
            passed("kick: from the exit to KVM's look for an ioeventfd", "exit", now)
            at["kick"] = now
        elif event == "sys_exit":
            passed("kick: from there to the handler, whose poll returns", "kick", now)
        elif event == "sys_enter":
            at["written"] = now
        elif event == "kvm_msi_set_irq":
            passed("interrupt: from the write to an eventfd to KVM's MSI", "written", now)
            at.update({"raised": now, "vector": re.search(r"vec (\d+)", text)[1]})
        elif event == "kvm_inj_virq" and int(text.split()[1], 0) == int(at.get("vector", 0)):
            at["injected"] = now
        elif event == "kvm_entry" and at.pop("injected", None):
            passed("interrupt: from there to the guest's entry with it", "raised", now)
    return {text: statistics.median(each) for text, each in found.items()}


def loads():
    """What the guest's disk and card are made to do: its name, and the guest's command (guest-images/load.c)."""
    for verb in ("read", "write"):
        yield f"disk: random {verb} of 4 KiB, 1 at once", f"load disk /dev/vda {verb} random 4096 1 2000"
        yield f"disk: random {verb} of 4 KiB, 32 at once", f"load disk /dev/vda {verb} random 4096 32 4000"
        yield f"disk: sequential {verb} of 256 KiB, 4 at once", f"load disk /dev/vda {verb} sequential {256 << 10} 4 1024"
    yield "net: a byte there and back", f"load ask {HOST} {PORT} 2000"
    yield "net: stream to the host", f"load send {HOST} {PORT} 256"
    yield "net: stream from the host", f"load take {HOST} {PORT} 256"


def devices(rows, rounds):
    """A file on tmpfs, and a tap by vhost-net; past the guest's page cache."""
    disk = "/dev/shm/disk.img"
    make_disk(disk, 512)
    for command in ("ip tuntap add dev tap1 mode tap", f"ip addr add {HOST}/24 dev tap1", "ip link set tap1 up"):
        subprocess.run(command.split(), check=True)
    host.count_user_exits()

    def attempt(monitor):
        found = {}
        with obeying(monitor, *monitor.disks([disk]), *monitor.net("tap1"), memory="512M", cpus=2) as guest:
            guest.ask(f"ip link set eth0 up && ip addr add {GUEST}/24 dev eth0")
            for label, command in loads():
                before = host.Counters(guest.process.pid)
                answer = " ".join(guest.ask(command, 2 * SECONDS))
                after = host.Counters(guest.process.pid)
                requests, size_of_all, ns = map(int, re.search(r"requests=(\d+) bytes=(\d+) ns=(\d+)", answer).groups())
                found[label] = (size_of_all / MIB if wide(label) else requests) * 1e9 / ns
                found[label + " exits"] = after.since(before, "exits") / requests
                found[label + " user"] = after.since(before, "user_exits") / requests
        return found

    with subprocess.Popen([f"{host.IMAGES}/load", "serve", PORT]) as server:
        found = in_turns(max(2, rounds), "disk and network", attempt, those("disks", "net"))
        server.kill()
    for label, _ in loads():
        values = found[label]
        add(rows, label, "MiB/s" if wide(label) else "requests/s", values, ">= QEMU",
            (values[OURS.name] or 0) >= max(values.get(name) or 0 for name in QEMU),
            f"exits a request: {listed(found[label + ' exits'])}; to user space: {listed(found[label + ' user'])}")


def wide(label):
    return "stream" in label or "sequential" in label


def make_disk(path, mib):
    with open(path, "wb") as file:
        for _ in range(mib):
            file.write(os.urandom(4096) * 256)


def scaling(rows, rounds):
    """RAM and vCPUs with a bare guest, disks with Linux, whose driver has their queues set up."""
    paths = [f"/dev/shm/disk-{number}.img" for number in range(8)]
    for path in paths:
        make_disk(path, 1)

    def start_bare(monitor, cpus, memory):
        with tempfile.NamedTemporaryFile(suffix=".elf") as kernel:
            kernel.write(pvh_kernel(1))
            kernel.flush()
            entry, began = FirstEntry(), time.monotonic()
            with subprocess.Popen(monitor.command(kernel.name, None, "", cpus, memory), stdin=subprocess.DEVNULL,
                                  stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
                try:
                    return {"start": entry.after(began, process), "own": own_memory(process.pid)}
                finally:
                    process.kill()

    sizes = [(f"RAM: {memory}", start_bare, MONITORS, (1, memory)) for memory in ("256M", "1G", "4G")]
    sizes += [(f"vCPUs: {cpus}", start_bare, MONITORS, (cpus, "256M")) for cpus in (1, 2, 4)]
    sizes += [(f"disks: {count}", lambda monitor, count: boot_once(monitor, *monitor.disks(paths[:count])), those("disks"),
               (count,)) for count in (1, 4, 8)]
    for what, attempt, able, size_of_it in sizes:
        found = in_turns(rounds if attempt != start_bare else 3 * rounds, what,
                         lambda monitor, attempt=attempt, values=size_of_it: attempt(monitor, *values), able)
        add(rows, f"{what}: execve to the first instruction", "ms", {
            name: start and start * 1000 for name, start in found["start"].items()})
        add(rows, f"{what}: own memory", "MiB", found["own"])
        if "outside" in found:
            add(rows, f"{what}: port I/O and MMIO until init", "exits", found["outside"])


def granules(rows, _):
    """One guest each: half of its memory, fresh; then, aged by files that came and went, a quarter, in three ways."""
    states = ("fresh", "aged", "more", "compacted")
    subprocess.run(["modprobe", "vfio_iommu_type1"], check=True)
    host.write("/sys/module/vfio_iommu_type1/parameters/dma_entry_limit", str(1 << 20))
    host.bind(host.EDU, "vfio-pci")
    ram, quarter = 1536 * MIB, 384 * MIB

    def attempt(granule):
        with tempfile.TemporaryDirectory() as folder, obeying(
                OURS, "--balloon", f"policy=coordinated,granule={granule}", "--qmp", f"unix:{folder}/socket",
                *OURS.device(host.EDU), memory="1536M") as guest:
            control = host.Balloon(f"{folder}/socket")

            def fill(held, wanted=None):
                memory = control.keep(ram - held)[1]
                control.keep(ram)
                time.sleep(3)  # what has come back rests for two seconds at the most
                return 100 * memory["reclaimed"] / (wanted or memory["held"])

            found = {"fresh": fill(2 * quarter)}
            guest.ask("mkdir /age && mount -t tmpfs -o size=90% age /age")
            guest.ask(f"cd /age && oracle age {ram // 2 // MIB} 60", 600)
            found.update(aged=fill(quarter), more=fill(quarter * 4 // 3, quarter))
            guest.ask("echo 1 >/proc/sys/vm/compact_memory", SECONDS)
            return {**found, "compacted": fill(quarter)}

    for granule in ("4K", "64K", "256K", "2M"):
        found = again(f"granules of {granule}", lambda granule=granule: attempt(granule)) or {}
        aim = (">= 99 fresh", found.get("fresh", 0) >= 99) if granule == "2M" else ("", None)
        add(rows, f"granules of {granule}", "%", found, *aim, "of what the balloon held; more: a third more asked than wanted")
    return list(states)
