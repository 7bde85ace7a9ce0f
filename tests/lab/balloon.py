"""The lab's chapters about the balloon: does it keep CPU and device in one memory, and does the host get what it is told?

What the host got is measured as its available memory, or as free pages of hugetlb's pool: never as a process's resident set,
which pinned pages leave without being free.
"""

import contextlib
import re
import tempfile
import time

from checks import GUEST_SECONDS, check, check_complaints, check_power_off, figure
from host import BALLOON_SECONDS, EDU, NVME, Balloon, Guest, GuestFailed, available_memory, bind, group_of, host_memory, write

MIB = 1 << 20
CHECK_SECONDS = 600  # for the oracle's comparisons
WITH_DEVICES = ["cpu", "nvme-out", "edu-out", "nvme-in", "edu-in"]


@contextlib.contextmanager
def guest_with_balloon(*args, options="on", cmdline="", memory="512M", wrapper=(), heard="listening"):
    """A guest that obeys, once that was heard of it, and its balloon."""
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/socket"
        with Guest("--balloon", options, "--qmp", f"unix:{path}", *args, run="obey", cmdline=cmdline, memory=memory,
                   wrapper=wrapper) as guest:
            guest.hear(heard, GUEST_SECONDS)
            yield guest, Balloon(path)


def finish(prefix, guest, not_ours=()):
    guest.send("show_complaints; poweroff -f")
    check_power_off(prefix, guest)
    check_complaints(prefix, guest, not_ours)


def fill(guest, seed, left_out=64 * MIB):
    """Starts the oracle and has it fill the guest's memory; returns how many bytes that were. So much it will not compare."""
    guest.send(f"run_oracle --seed {seed} --floor {left_out // MIB}")
    return int(guest.hear("oracle filled", CHECK_SECONDS)[-1].split()[-1])


def compare(prefix, guest, ways):
    """Has the oracle compare; returns pages, bytes and mismatched by way."""
    guest.send("")
    seen = {}
    for line in guest.hear_end(CHECK_SECONDS):
        hit = re.match(r"compared (\S+) pages=(\d+) bytes=(\d+) mismatched=(\d+)", line)
        if hit:
            seen[hit[1]] = dict(zip(("pages", "bytes", "mismatched"), map(int, hit.groups()[1:])))
            figure(f"{prefix}/{hit[1]}/checked", hit[3], "bytes")
            figure(f"{prefix}/{hit[1]}/mismatched", hit[4], f"pages of {hit[2]}")
    check(f"{prefix}/compared", list(seen) == ways, f"{list(seen)} instead of {ways}")
    return seen


def check_equal(prefix, seen, least):
    """Nothing differed, in so many bytes at least (by edu: a few pages)."""
    for way, found in seen.items():
        check(f"{prefix}/{way}/equal", found["mismatched"] == 0, f"{found['mismatched']} of {found['pages']} pages differ")
        if not way.startswith("edu"):
            check(f"{prefix}/{way}/enough", found["bytes"] >= least, f"{found['bytes'] >> 20} MiB, wanted {least >> 20}")


def inflate(prefix, guest_balloon, keep, free=available_memory):
    """The guest is to keep so much; returns what ctl said, the figures, and by how much the host's memory rose."""
    before, began = free(), time.monotonic()
    said, memory = guest_balloon.keep(keep)
    figure(f"{prefix}/inflate-seconds", f"{time.monotonic() - began:.1f}", "s (in the lab's time)")
    time.sleep(1)
    rise = free() - before
    for name in ("held", "reclaimed"):
        figure(f"{prefix}/{name}", memory[name], "bytes")
    figure(f"{prefix}/host-memory-rose", rise, "bytes")
    check(f"{prefix}/held", memory["held"] == memory["target"] == memory["ram"] - keep, memory)
    return said, memory, rise


def check_given_back(prefix, guest_balloon):
    memory = guest_balloon.keep(guest_balloon.memory()["ram"])[1]
    check(f"{prefix}/given-back", memory["held"] == memory["reclaimed"] == 0, memory)


def wait_until(what, question, seconds):
    """Waits for a true answer, and returns it; the last one if the time runs out."""
    deadline = time.monotonic() + seconds
    while True:
        answer = question()
        if what(answer) or time.monotonic() > deadline:
            return answer
        time.sleep(0.3)


# -- with devices -------------------------------------------------------------------------------------------------


def oracle_inhibit():
    """edu and nvme assigned: the balloon comes and goes, no byte differs, and the host is told that it gains nothing."""
    devices = (EDU, NVME)
    owners = [f"vfio group {group_of(bdf)}" for bdf in devices]
    for bdf in devices:
        bind(bdf, "vfio-pci")
    prefix = "oracle-inhibit"
    with guest_with_balloon("--device", ",".join(devices), options="reporting=on", memory="1536M") as (guest, balloon):
        fill(guest, 11)
        said, memory, rise = inflate(prefix, balloon, 256 * MIB)
        print(f"  ctl balloon: {' | '.join(said.splitlines())}", flush=True)
        print(f"  ctl memory: {' | '.join(balloon.ctl(balloon.path, 'memory').splitlines())}", flush=True)
        check(f"{prefix}/nothing-reclaimed", memory["reclaimed"] == 0, memory)
        check(f"{prefix}/held-back", memory["held-back"]["bytes"] == memory["held"], memory["held-back"])
        check(f"{prefix}/by-whom", sorted(memory["held-back"]["inhibited-by"]) == sorted(owners), memory["held-back"])
        check(f"{prefix}/pinned", memory["pinned"] == memory["ram"], f"{memory['pinned']} of {memory['ram']}")
        check(f"{prefix}/no-discard", all(counts["calls"] == 0 for counts in memory["discards"].values()), memory["discards"])
        check(f"{prefix}/host-memory", abs(rise) < memory["held"] // 50, f"rose by {rise >> 20} MiB")
        check(f"{prefix}/ctl-says", "gains nothing" in said and all(owner in said for owner in owners), said)
        told = [sum(owner in line for line in guest.errors if "balloon" in line or "gain" in line) for owner in owners]
        check(f"{prefix}/log-says-once", told == [1, 1], f"{told} times: {guest.errors}")
        check_given_back(prefix, balloon)
        check_equal(prefix, compare(prefix, guest, WITH_DEVICES), 1 << 30)
        # All that the oracle held was free twice: much of it was reported, on a queue that is numbered as Linux counts.
        memory = wait_until(lambda memory: memory["reports"]["taken"] > 256 * MIB, balloon.memory, 30)
        check(f"{prefix}/free-pages-reported", memory["reports"]["taken"] > 256 * MIB, memory)
        check(f"{prefix}/no-report-discards", memory["reports"]["bytes"] == memory["reports"]["calls"] == 0, memory["reports"])
        check_stats(prefix, guest, balloon)
        finish(prefix, guest)


def oracle_unsafe():
    """The same, but what is pinned is discarded all the same: the oracle must see that."""
    for bdf in (EDU, NVME):
        bind(bdf, "vfio-pci")
    prefix = "oracle-unsafe"
    with guest_with_balloon("--device", f"{EDU},{NVME}", "--experiment", "unsafe-reclaim") as (guest, balloon):
        check(f"{prefix}/warned", any(re.match("W .*unsafe", line) for line in guest.errors), guest.errors)
        fill(guest, 12)
        said, memory, _ = inflate(prefix, balloon, 256 * MIB)
        print(f"  ctl balloon: {' | '.join(said.splitlines())}", flush=True)
        check(f"{prefix}/discarded", memory["discards"]["unsafe"]["bytes"] > 0, memory["discards"])
        check(f"{prefix}/nothing-counts-as-reclaimed", memory["reclaimed"] == 0, memory)
        check_given_back(prefix, balloon)
        seen = compare(prefix, guest, WITH_DEVICES)
        for way in WITH_DEVICES[1:]:
            check(f"{prefix}/{way}/seen", seen.get(way, {"mismatched": 0})["mismatched"] > 0, "no page differs")
        check(f"{prefix}/cpu/equal", seen.get("cpu", {"mismatched": 1})["mismatched"] == 0, seen)
        guest.send("poweroff -f")
        check_power_off(prefix, guest)


# -- without devices ----------------------------------------------------------------------------------------------


def check_reclaimed(prefix, memory, rise):
    """The host has what it was told it has, but for what the guest had never touched before it gave it up."""
    reclaimed = memory["reclaimed"]
    check(f"{prefix}/host-memory", abs(rise - reclaimed) <= reclaimed // 20,
          f"rose by {rise >> 20} MiB, {reclaimed >> 20} MiB were reclaimed")
    check(f"{prefix}/by-nobody", memory["held-back"]["inhibited-by"] == [], memory["held-back"])


def check_stats(prefix, guest, balloon):
    """Statistics, asked for: twice, so that the second cannot be the first's."""
    before = balloon.ask("stats")
    after = balloon.ask("stats")
    check(f"{prefix}/stats-asked-anew", after["updates"] > before["updates"], f"{before['updates']}, {after['updates']}")
    stats = after["stats"]
    for name, tag in (("MemTotal", "stat-total-memory"), ("MemAvailable", "stat-available-memory"),
                      ("MemFree", "stat-free-memory")):
        inside = int(guest.ask(f"meminfo {name}")[-1])
        check(f"{prefix}/{tag}", abs(stats.get(tag, 0) - inside) < 16 * MIB, f"{stats.get(tag)}, in the guest {inside}")


def check_targets(prefix, balloon):
    """Up and down, several times; not by much, since each page that comes back is a fault in an emulated host."""
    ram = balloon.memory()["ram"]
    for wanted in (128 * MIB, 32 * MIB, 96 * MIB, 4096, 0, 128 * MIB):
        memory = balloon.keep(ram - wanted)[1]
        check(f"{prefix}/target/{wanted >> 10}KiB",
              memory["held"] == memory["reclaimed"] == memory["target"] == wanted, memory)


def check_rebind(prefix, guest, balloon):
    """The driver gives the device up, with a full balloon, and comes back."""
    wanted = balloon.memory()["target"]
    guest.ask("balloon_driver unbind")
    memory = balloon.memory()
    check(f"{prefix}/unbound", memory["held"] == memory["reclaimed"] == memory["actual"] == 0 and not
          memory["driver"]["running"], memory)
    check(f"{prefix}/target-stays", memory["target"] == wanted, memory)
    guest.ask("balloon_driver bind")
    memory = balloon.wait(wanted, BALLOON_SECONDS)
    check(f"{prefix}/bound-again", memory["held"] == memory["reclaimed"] == wanted, memory)


def check_reboot(prefix, guest, balloon):
    """The guest starts anew, with a full balloon, which nobody deflates."""
    wanted = balloon.memory()["target"]
    guest.send("reboot -f")
    memory = wait_until(lambda memory: memory["held"] == 0, balloon.memory, 60)
    check(f"{prefix}/reboot-gives-back", memory["held"] == memory["reclaimed"] == memory["actual"] == 0, memory)
    guest.hear("listening", GUEST_SECONDS)
    memory = balloon.wait(wanted, BALLOON_SECONDS)
    check(f"{prefix}/filled-again-after-reboot", memory["held"] == memory["reclaimed"] == wanted, memory)


def balloon_direct():
    """No device: the host gets what is said, and no byte differs; targets, statistics, driver and guest come and go."""
    prefix = "direct"
    with guest_with_balloon(memory="1536M") as (guest, balloon):
        fill(guest, 13)
        said, memory, rise = inflate(prefix, balloon, 256 * MIB)
        check_reclaimed(prefix, memory, rise)
        check(f"{prefix}/ctl-says-nothing-of-loss", "gains nothing" not in said, said)
        calls = memory["discards"]["direct"]["calls"]
        figure(f"{prefix}/discard-calls-per-GiB", round(calls / (memory["reclaimed"] / (1 << 30))), "calls")
        check_given_back(prefix, balloon)
        check_equal(prefix, compare(prefix, guest, ["cpu"]), 1 << 30)
        check_stats(prefix, guest, balloon)
        check_targets(prefix, balloon)
        check_rebind(prefix, guest, balloon)
        check_reboot(prefix, guest, balloon)
        finish(prefix, guest)


def balloon_memfd():
    """Memory from a memfd: punched holes really go back."""
    prefix = "memfd"
    with guest_with_balloon(memory="512M,backing=memfd") as (guest, balloon):
        fill(guest, 14)
        _, memory, rise = inflate(prefix, balloon, 224 * MIB)
        check_reclaimed(prefix, memory, rise)
        check_given_back(prefix, balloon)
        check_equal(prefix, compare(prefix, guest, ["cpu"]), 256 * MIB)
        finish(prefix, guest)


def balloon_hugetlb():
    """Memory of 2 MiB pages, which no element of Linux's completes: pages go back to the pool all the same."""
    prefix = "balloon-hugetlb"
    write("/proc/sys/vm/nr_hugepages", "256")
    try:
        with guest_with_balloon(memory="512M,backing=hugetlb") as (guest, balloon):
            fill(guest, 15)
            _, memory, rise = inflate(prefix, balloon, 224 * MIB, lambda: host_memory("HugePages_Free") * 2 * MIB)
            check(f"{prefix}/reclaimed", memory["reclaimed"] > memory["held"] // 2, memory)
            check_reclaimed(prefix, memory, rise)
            check(f"{prefix}/incomplete", memory["held-back"]["incomplete"] == memory["held-back"]["bytes"] ==
                  memory["held"] - memory["reclaimed"], memory)
            check_given_back(prefix, balloon)
            check_equal(prefix, compare(prefix, guest, ["cpu"]), 256 * MIB)
            finish(prefix, guest)
    finally:
        write("/proc/sys/vm/nr_hugepages", "0")


# -- features -----------------------------------------------------------------------------------------------------


def hold(guest, size):
    """The guest holds that much memory, in use."""
    guest.send(f"oracle hold {size // MIB}")
    guest.hear("oracle holding", 120)


def let_go(prefix, guest):
    """It looks whether all is as it was, and frees it."""
    guest.send("")
    text = guest.hear_end(120)[-1]
    check(f"{prefix}/kept-its-memory", text.endswith("mismatched=0"), text)


def balloon_reporting():
    """Reports of free pages, a target from the start, and memory taken out of the balloon rather than a process killed."""
    prefix, size = "reporting", 256 * MIB
    with guest_with_balloon(options="reporting=on,deflate-on-oom=on,initial=448M") as (guest, balloon):
        memory = balloon.wait(64 * MIB, BALLOON_SECONDS)
        check(f"{prefix}/target-from-the-start", memory["held"] == memory["reclaimed"] == 64 * MIB, memory)
        balloon.keep(memory["ram"])

        hold(guest, size)
        time.sleep(5)  # what was free all the time is reported first
        reported, before = balloon.memory()["reports"], available_memory()
        let_go(prefix, guest)
        memory = wait_until(lambda memory: memory["reports"]["bytes"] - reported["bytes"] >= size * 9 // 10, balloon.memory, 90)
        time.sleep(1)
        rise, grown = available_memory() - before, memory["reports"]["bytes"] - reported["bytes"]
        figure(f"{prefix}/reported-and-discarded", grown, "bytes")
        figure(f"{prefix}/host-memory-rose", rise, "bytes")
        check(f"{prefix}/reported", grown >= size * 9 // 10, memory["reports"])
        check(f"{prefix}/host-memory", rise >= size * 9 // 10, f"rose by {rise >> 20} MiB of {size >> 20}")
        hold(guest, size)  # what was reported comes back without a word
        let_go(f"{prefix}/again", guest)

        memory = balloon.keep(256 * MIB)[1]
        free = int(guest.ask("meminfo MemAvailable")[-1])
        hold(guest, free + 24 * MIB)
        after = balloon.memory()
        figure(f"{prefix}/deflated-on-oom", memory["actual"] - after["actual"], "bytes")
        check(f"{prefix}/deflated-on-oom", after["held"] == after["actual"] < memory["actual"], after)
        let_go(f"{prefix}/oom", guest)
        finish(prefix, guest)


def balloon_poison():
    """A guest that poisons free pages: a report discards nothing, since zeros would come back for the poison."""
    prefix = "poison"
    with guest_with_balloon(options="reporting=on", cmdline="page_poison=1", memory="256M") as (guest, balloon):
        hold(guest, 64 * MIB)
        let_go(prefix, guest)
        memory = wait_until(lambda memory: memory["elements"]["reporting"] > 0, balloon.memory, 60)
        check(f"{prefix}/reports-come", memory["elements"]["reporting"] > 0, memory)
        check(f"{prefix}/no-report-discards", memory["reports"]["bytes"] == memory["reports"]["calls"] == 0, memory["reports"])
        memory = balloon.keep(192 * MIB)[1]
        check(f"{prefix}/held", memory["held"] == memory["reclaimed"] == 64 * MIB, memory)
        hold(guest, 16 * MIB)
        let_go(f"{prefix}/again", guest)
        check_given_back(prefix, balloon)
        finish(prefix, guest)


CHAPTERS = [oracle_inhibit, oracle_unsafe, balloon_direct, balloon_memfd, balloon_hugetlb, balloon_reporting, balloon_poison]
