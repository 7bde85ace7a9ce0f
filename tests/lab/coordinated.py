"""The lab's chapters about the coordinated policy: a device is assigned, and the host gets what the balloon holds."""

import contextlib
import pwd
import random
import resource
import subprocess
import threading
import time

from balloon import (MIB, WITH_DEVICES, check_equal, check_given_back, check_reclaimed, compare, fill,
                     finish, guest_with_balloon, hold, inflate, let_go, wait_until)
from checks import GUEST_SECONDS, check, check_confined, check_guest_tests, expected_results, figure
from host import (BALLAST, BALLOON_SECONDS, EDU, INITRD, NVME, VMLINUX, VMLINUZ, GuestFailed, Qmp, available_memory, bind,
                  dma_faults, host_memory, put_on_disk, read, write)

ENTRIES = "/sys/module/vfio_iommu_type1/parameters/dma_entry_limit"
WITHOUT_LIMITLESS_LOCKING = ("setpriv", "--bounding-set", "-ipc_lock", "--inh-caps", "-ipc_lock")


def bind_all():
    for bdf in (EDU, NVME):
        bind(bdf, "vfio-pci")


def check_coordinated(prefix, memory, rise=None, part=0.9):
    """So much at least of what is held was reclaimed, the host has it, and the rest is pinned.

    A small guest is soon fragmented; a fresh one of some size has to give up more (tests/bench/run has the figures).
    """
    check(f"{prefix}/policy", memory["policy"] == "coordinated" and memory["held-back"]["inhibited-by"] == [], memory)
    check(f"{prefix}/reclaimed", memory["reclaimed"] >= memory["held"] * part,
          f"{memory['reclaimed'] >> 20} MiB of {memory['held'] >> 20}")
    check(f"{prefix}/pinned", memory["pinned"] == memory["ram"] - memory["reclaimed"], memory)
    check(f"{prefix}/held-back", memory["held-back"]["bytes"] == memory["held-back"]["incomplete"] ==
          memory["held"] - memory["reclaimed"], memory["held-back"])
    figure(f"{prefix}/held-back-by-fragmentation", memory["held-back"]["incomplete"], "bytes")
    if rise is not None:
        check_reclaimed(prefix, memory, rise)


def oracle_coordinated():
    """edu and nvme assigned: the balloon comes and goes, no byte differs, and the host has what it is told it has."""
    bind_all()
    prefix = "oracle-coordinated"
    with guest_with_balloon("--device", f"{EDU},{NVME}", options="policy=coordinated,reporting=on,deflate-on-oom=on",
                            memory="1536M") as (guest, balloon):
        fill(guest, 31)
        said, memory, rise = inflate(prefix, balloon, 256 * MIB)
        print(f"  ctl balloon: {' | '.join(said.splitlines())}", flush=True)
        print(f"  ctl memory: {' | '.join(balloon.ctl(balloon.path, 'memory').splitlines())}", flush=True)
        check(f"{prefix}/ctl-says-nothing-of-loss", "gains nothing" not in said, said)
        check_coordinated(prefix, memory, rise, part=0.99)
        check_given_back(prefix, balloon)
        memory = balloon.memory()
        check(f"{prefix}/all-pinned-again", memory["pinned"] == memory["ram"], memory)
        check(f"{prefix}/granules", memory["granules"]["released"] == memory["granules"]["restored"] > 500 and
              memory["granules"]["not-released"] == memory["granules"]["not-restored"] == 0, memory["granules"])
        seen = compare(prefix, guest, WITH_DEVICES)
        check_equal(prefix, seen, 1 << 30)
        checked = sum(found["bytes"] for found in seen.values())
        memory = balloon.memory()
        check(f"{prefix}/no-report-discards", memory["reports"]["taken"] > 256 * MIB and
              memory["reports"]["bytes"] == memory["reports"]["calls"] == 0, memory["reports"])
        checked += load(prefix, guest, balloon)
        figure(f"{prefix}/checked-in-all", checked, "bytes")
        check(f"{prefix}/checked-enough", checked >= 4 << 30, f"{checked >> 20} MiB")
        finish(prefix, guest)


def load(prefix, guest, balloon, seconds=60):
    """The disk is at work while the balloon goes up and down at random; returns how many bytes were compared."""
    moves = []
    ended = threading.Event()
    seed = int(time.time())
    dice = random.Random(seed)

    def move():
        while not ended.is_set():
            balloon.ctl(balloon.path, "balloon", str(dice.randrange(200, 1536) * MIB))
            moves.append(balloon.memory())
            ended.wait(dice.random() * 2)

    mover = threading.Thread(target=move)
    guest.send(f"run_oracle load --seed {seed % 1000} --seconds {seconds}")
    guest.hear("oracle loading", 60)
    before = balloon.memory()["granules"]
    mover.start()
    try:
        lines = guest.hear_end(seconds + 300)
    finally:
        ended.set()
        mover.join()
    text = next(line for line in lines if line.startswith("compared nvme-load"))
    words = dict(word.split("=") for word in text.split()[2:])
    after = balloon.memory()["granules"]
    figure(f"{prefix}/load/moves-of-the-balloon", len(moves), f"(random seed {seed})")
    figure(f"{prefix}/load/granules-released", after["released"] - before["released"], "granules")
    figure(f"{prefix}/load/checked", words["bytes"], "bytes")
    figure(f"{prefix}/load/mismatched", words["mismatched"], f"pages of {words['pages']}")
    check(f"{prefix}/load/equal", int(words["mismatched"]) == 0 < int(words["bytes"]), text)
    check(f"{prefix}/load/balloon-moved", after["released"] - before["released"] > 100 and
          after["restored"] - before["restored"] > 100, f"{before}, {after}")
    check(f"{prefix}/load/books", all(memory["reclaimed"] <= memory["held"] and
          memory["pinned"] == memory["ram"] - memory["reclaimed"] for memory in moves), moves)
    return int(words["bytes"])


def coordinated_life():
    """Driver unbound, guest rebooted, with a full balloon; the policy changed while the guest runs."""
    bind_all()
    prefix = "coordinated-life"
    # As somebody who could lock nothing, were it not for the limit that was lifted before.
    with guest_with_balloon("--device", f"{EDU},{NVME}", "--user", "nobody") as (guest, balloon):
        check_confined(prefix, guest.process, pwd.getpwnam("nobody").pw_uid)
        memory = inflate(prefix, balloon, 256 * MIB)[1]
        check(f"{prefix}/inhibited", memory["reclaimed"] == 0 and len(memory["held-back"]["inhibited-by"]) == 2, memory)
        owners = memory["held-back"]["inhibited-by"]

        before = available_memory()
        balloon.ctl(balloon.path, "policy", "coordinated")
        time.sleep(1)
        memory = balloon.memory()
        check_coordinated(f"{prefix}/switched", memory, available_memory() - before)
        balloon.ctl(balloon.path, "policy", "inhibit")
        memory = wait_until(lambda memory: memory["reclaimed"] == 0, balloon.memory, 60)
        check(f"{prefix}/switched-back", memory["reclaimed"] == 0 and memory["pinned"] == memory["ram"] and
              memory["held-back"]["inhibited-by"] == owners, memory)
        # What the issue of the balloon asks of a reset: inhibitors unchanged, everything given back.
        guest.send("reboot -f")
        memory = wait_until(lambda memory: memory["held"] == 0, balloon.memory, 60)
        check(f"{prefix}/reboot-inhibited", memory["held"] == 0 and memory["pinned"] == memory["ram"] and
              memory["held-back"]["inhibited-by"] == owners, memory)
        guest.hear("listening", GUEST_SECONDS)
        memory = balloon.wait(256 * MIB, BALLOON_SECONDS)
        balloon.ctl(balloon.path, "policy", "coordinated")

        memory = wait_until(lambda memory: memory["reclaimed"] > 0, balloon.memory, 10)
        check_coordinated(f"{prefix}/again", memory)
        rebind(prefix, guest, balloon)
        reboot(prefix, guest, balloon)
        fill(guest, 32)
        balloon.keep(512 * MIB)
        check_equal(prefix, compare(prefix, guest, WITH_DEVICES), 128 * MIB)
        finish(prefix, guest)


def rebind(prefix, guest, balloon):
    """The driver gives the device up, with a full balloon, and comes back."""
    guest.ask("balloon_driver unbind")
    memory = balloon.memory()
    check(f"{prefix}/unbound", memory["held"] == memory["reclaimed"] == 0 and memory["pinned"] == memory["ram"], memory)
    guest.ask("balloon_driver bind")
    memory = balloon.wait(256 * MIB, BALLOON_SECONDS)
    memory = wait_until(lambda memory: memory["held-back"]["resting"] == 0, balloon.memory, 10)
    check_coordinated(f"{prefix}/bound-again", memory)


def reboot(prefix, guest, balloon):
    """The guest starts anew; no vCPU of it runs before every granule is live again."""
    guest.send("reboot -f")
    memory = wait_until(lambda memory: memory["held"] == 0, balloon.memory, 60)
    check(f"{prefix}/reboot-gives-back", memory["held"] == memory["reclaimed"] == 0 and memory["pinned"] == memory["ram"],
          memory)
    guest.hear("listening", GUEST_SECONDS)
    balloon.wait(256 * MIB, BALLOON_SECONDS)
    memory = wait_until(lambda memory: memory["held-back"]["resting"] == 0, balloon.memory, 10)
    check_coordinated(f"{prefix}/filled-again", memory)


def coordinated_kexec():
    """Another kernel goes on where one was, with a balloon half full that nobody has given back.

    A kernel that resets it on the way, as Debian's does since 2025, has no balloon left; here that is prevented. Then what it
    holds stays unmapped for devices until the new kernel resets it, which Linux does when virtio_pci looks at it; the CPU may
    use all of it at once. Devices must not: this guest loads their drivers after that. None is at DMA in between, since Linux
    takes each function's right to be before it starts another kernel.
    """
    bind_all()
    prefix, keep = "kexec", 288 * MIB
    faults = dma_faults()
    with guest_with_balloon("--device", f"{EDU},{NVME}", options="policy=coordinated") as (guest, balloon):
        before = inflate(prefix, balloon, keep)[1]
        check_coordinated(prefix, before)
        kernel, initrd = 16 * MIB, 32 * MIB
        guest.send(f"start_kernel {kernel} {put_on_disk(VMLINUZ, kernel)} {initrd} {put_on_disk(INITRD, initrd)}")
        guest.hear("listening", GUEST_SECONDS)
        check(f"{prefix}/no-reset", not any("guest resets" in line for line in guest.errors), guest.errors)
        memory = balloon.memory()
        check(f"{prefix}/nothing-given-back-yet", memory["held"] == before["held"] and
              memory["reclaimed"] == before["reclaimed"] and memory["pinned"] == before["pinned"], f"{before}, {memory}")

        # More than was not in the balloon: what is in it now must outlive that it is given back.
        guest.ask("start_holding 336", 120)
        guest.ask("modprobe virtio_pci")
        memory = balloon.memory()
        check(f"{prefix}/reset-gives-back", memory["held"] == memory["reclaimed"] == memory["actual"] == 0 and
              memory["pinned"] == memory["ram"], memory)
        check(f"{prefix}/all-restored", memory["granules"]["restored"] == memory["granules"]["released"] > 90 and
              memory["granules"]["not-restored"] == 0, memory["granules"])
        text = guest.ask("end_holding", 120)[-1]
        check(f"{prefix}/kept-its-memory", text.endswith("mismatched=0"), text)

        guest.ask("load_drivers", 120)
        balloon.wait(memory["ram"] - keep, BALLOON_SECONDS)
        memory = wait_until(lambda memory: memory["held-back"]["resting"] == 0, balloon.memory, 10)
        check_coordinated(f"{prefix}/filled-again", memory)
        check_given_back(prefix, balloon)
        fill(guest, 36)
        check_equal(prefix, compare(prefix, guest, WITH_DEVICES), 256 * MIB)
        check(f"{prefix}/no-dma-faults", dma_faults() == faults, f"{dma_faults() - faults} told")
        finish(prefix, guest, [("Spurious LAPIC timer interrupt", "the timer of the kernel before, which was still running")])


@contextlib.contextmanager
def taken_from_host(left):
    """The host has only so much available, the rest being huge pages that nobody uses."""
    # Memory that is in pieces, or a cache's, makes no huge pages.
    for knob, value in (("drop_caches", 3), ("compact_memory", 1),
                        ("nr_hugepages", (host_memory("MemAvailable") - left) // (2 * MIB))):
        write(f"/proc/sys/vm/{knob}", str(value))
    try:
        if host_memory("MemAvailable") > 2 * left:
            raise GuestFailed(f"the lab host has {host_memory('MemAvailable') >> 20} MiB that cannot be taken from it")
        yield
    finally:
        write("/proc/sys/vm/nr_hugepages", "0")


def coordinated_auto():
    """auto=on: while the host is short an idle guest gives memory up, which it gets back when it needs it itself."""
    bind_all()
    prefix = "auto"
    with guest_with_balloon("--device", f"{EDU},{NVME}", options="policy=coordinated,auto=on,min=192M") as (guest, balloon):
        memory = balloon.memory()
        check(f"{prefix}/on", memory["auto"]["enabled"] and memory["auto"]["min"] == 192 * MIB, memory["auto"])
        with taken_from_host(host_memory("MemTotal") // 25):
            before, began = available_memory(), time.monotonic()
            memory = wait_until(lambda memory: memory["actual"] >= 100 * MIB, balloon.memory, 180)
            figure(f"{prefix}/seconds-to-100-MiB", f"{time.monotonic() - began:.0f}", "s (in the lab's time)")
            check(f"{prefix}/guest-gives-up", memory["actual"] >= 100 * MIB and
                  memory["auto"]["last-change"] == "host-tight", memory)
            check(f"{prefix}/host-gets-it", memory["reclaimed"] >= memory["held"] * 0.8 and
                  available_memory() - before > 64 * MIB, f"{available_memory() - before >> 20} MiB more, {memory}")
            print(f"  ctl memory: {' | '.join(balloon.ctl(balloon.path, 'memory').splitlines())}", flush=True)
        # All but a little of what it has: it is short, whatever the host's state.
        targets = [balloon.memory()["target"]]
        hold(guest, int(guest.ask("meminfo MemAvailable")[-1]) - 40 * MIB)
        memory = wait_until(lambda memory: targets.append(memory["target"]) or memory["auto"]["last-change"] == "guest-short",
                            balloon.memory, 60)
        check(f"{prefix}/guest-gets-more", memory["auto"]["last-change"] == "guest-short" and
              memory["target"] < max(targets), f"{targets}, {memory}")
        let_go(prefix, guest)
        # And what is left once it is asked for: then the automatic has nothing to say any more.
        balloon.ctl(balloon.path, "balloon", "512M")
        memory = balloon.wait(0, BALLOON_SECONDS)
        check(f"{prefix}/given-back", memory["held"] == memory["reclaimed"] == memory["target"] == 0 and
              memory["pinned"] == memory["ram"] and not memory["auto"]["enabled"], memory)
        fill(guest, 37, left_out=224 * MIB)
        check_equal(prefix, compare(prefix, guest, WITH_DEVICES), 128 * MIB)
        finish(prefix, guest)


def coordinated_hugetlb():
    """Memory of 2 MiB pages, which devices reach into: pages go back to the host's pool, and come from it again."""
    bind_all()
    prefix = "coordinated-hugetlb"
    write("/proc/sys/vm/nr_hugepages", "256")
    try:
        with guest_with_balloon("--device", f"{EDU},{NVME}", options="policy=coordinated", memory="512M,backing=hugetlb") as (
                guest, balloon):
            fill(guest, 38)
            free = host_memory("HugePages_Free")
            _, memory, rise = inflate(prefix, balloon, 224 * MIB, lambda: host_memory("HugePages_Free") * 2 * MIB)
            check(f"{prefix}/all-was-taken", free == 0, f"{free} pages were free before")
            check_coordinated(prefix, memory, rise, part=0.8)
            check(f"{prefix}/pages-are-free", rise == memory["reclaimed"], f"{rise >> 21} pages, {memory}")
            check_given_back(prefix, balloon)
            memory = balloon.memory()
            check(f"{prefix}/all-pinned-again", memory["pinned"] == memory["ram"] and
                  host_memory("HugePages_Free") == 0, memory)
            check_equal(prefix, compare(prefix, guest, WITH_DEVICES), 256 * MIB)
            guest.ask("interrupts=100; test_edu", 120)
            finish(prefix, guest)
            check_guest_tests(prefix, guest, 1, list(expected_results(["edu"], 1, 1, False)))
    finally:
        write("/proc/sys/vm/nr_hugepages", "0")


def coordinated_no_memory():
    """No more may be locked when the balloon is to give back: nothing is acknowledged, nothing lost, and then it goes on."""
    bind_all()
    prefix = "no-memory"
    with guest_with_balloon("--device", f"{EDU},{NVME}", options="policy=coordinated", wrapper=WITHOUT_LIMITLESS_LOCKING) as (
            guest, balloon):
        fill(guest, 33)
        memory = inflate(prefix, balloon, 256 * MIB)[1]
        check_coordinated(prefix, memory)
        limit = memory["pinned"] + 32 * MIB
        pid = guest.process.pid
        resource.prlimit(pid, resource.RLIMIT_MEMLOCK, (limit, resource.RLIM_INFINITY))
        qmp = Qmp(balloon.path)
        balloon.ctl(balloon.path, "balloon", "512M")
        memory = wait_until(lambda memory: memory["deflates"]["waiting"] == 1 and memory["deflates"]["retries"] > 2,
                            balloon.memory, 60)
        check(f"{prefix}/waits", memory["deflates"]["waiting"] == 1 and memory["deflates"]["retries"] > 2, memory["deflates"])
        check(f"{prefix}/not-restored", memory["granules"]["not-restored"] > 0, memory["granules"])
        check(f"{prefix}/pinned-no-more-than-allowed", memory["pinned"] <= limit, memory)
        check(f"{prefix}/log", sum("no host memory for a deflate" in line for line in guest.errors) == 1, guest.errors)
        stats = balloon.ask("stats")  # the guest's other work goes on
        check(f"{prefix}/guest-goes-on", stats["stats"].get("stat-total-memory", 0) > 0, stats)
        resource.prlimit(pid, resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        memory = balloon.wait(0, BALLOON_SECONDS)
        check(f"{prefix}/recovers", memory["held"] == memory["reclaimed"] == 0 and memory["pinned"] == memory["ram"], memory)
        events = [name for name in qmp.events() if name != "BALLOON_CHANGE"]
        check(f"{prefix}/events", events[:1] == ["X_BALLAST_MEMORY_WAITS"] and events[-1:] == ["X_BALLAST_MEMORY_SERVED"],
              events)
        check_equal(prefix, compare(prefix, guest, WITH_DEVICES), 256 * MIB)
        finish(prefix, guest)


def start_small():
    """initial=: nothing is mapped before a device may use DMA, and then only what is not in the balloon."""
    bind_all()
    prefix = "start-small"
    with small_guest(prefix, "policy=coordinated,initial=256M") as (guest, balloon):
        memory = balloon.memory()
        check(f"{prefix}/pinned-follows-what-is-used", memory["pinned"] < 320 * MIB, memory)
        check(f"{prefix}/never-mapped", memory["granules"]["released"] == 0, memory["granules"])
        check_coordinated(prefix, memory)
        guest.send("run_oracle load --seconds 20")
        text = guest.hear_end(120)[-1]
        check(f"{prefix}/disk-works", text.startswith("compared nvme-load") and text.endswith("mismatched=0"), text)
        check_given_back(prefix, balloon)
        fill(guest, 34, left_out=512 * MIB)
        inflate(f"{prefix}/again", balloon, 640 * MIB)
        check_given_back(f"{prefix}/again", balloon)
        check_equal(prefix, compare(prefix, guest, WITH_DEVICES), 320 * MIB)
        finish(prefix, guest)
    # What it would have cost otherwise. Side by side, in one lab.
    prefix = "start-mapping-everything"
    with small_guest(prefix, "policy=coordinated") as (guest, balloon):
        memory = balloon.memory()
        check(f"{prefix}/pinned", memory["pinned"] == memory["ram"], memory)
        finish(prefix, guest)


@contextlib.contextmanager
def small_guest(prefix, options):
    """A guest that loads its balloon's driver first, once it is up; and figures of what its start cost."""
    began = time.monotonic()
    with guest_with_balloon("--device", f"{EDU},{NVME}", options=options, memory="1G", cmdline="ballast.balloon_first=yes",
                            heard="kernel") as (guest, balloon):
        figure(f"{prefix}/until-the-guest's-init", f"{time.monotonic() - began:.1f}", "s (in the lab's time)")
        memory = balloon.memory()
        figure(f"{prefix}/pinned-at-its-init", memory["pinned"], f"bytes of {memory['ram']}")
        guest.hear("listening", GUEST_SECONDS)
        memory = balloon.memory()
        figure(f"{prefix}/pinned-when-the-guest-is-up", memory["pinned"], f"bytes of {memory['ram']}")
        yield guest, balloon


def granule_sizes():
    """Other sizes of granules; and more of them than the IOMMU has entries for."""
    bind_all()
    prefix = "granules"
    for size in ("64K", "auto"):
        with guest_with_balloon("--device", f"{EDU},{NVME}", options=f"policy=coordinated,granule={size}", memory="448M") as (
                guest, balloon):
            fill(guest, 35)
            memory, rise = inflate(f"{prefix}/{size}", balloon, 192 * MIB)[1:]
            figure(f"{prefix}/{size}/granule", memory["granules"]["size"], "bytes")
            check_coordinated(f"{prefix}/{size}", memory, rise)
            check_given_back(f"{prefix}/{size}", balloon)
            check_equal(f"{prefix}/{size}", compare(f"{prefix}/{size}", guest, WITH_DEVICES), 128 * MIB)
            finish(f"{prefix}/{size}", guest)
    entries = read(ENTRIES)
    write(ENTRIES, "200")
    try:
        run = subprocess.run([BALLAST, "run", "--kernel", VMLINUX, "--device", EDU, "--memory", "512M", "--balloon",
                              "granule=1M"], capture_output=True, text=True, check=False)
        check(f"{prefix}/too-many", run.returncode == 2 and run.stderr.count("\n") == 1 and
              "512 MiB of RAM are 512 granules" in run.stderr and "has 200: granule=4M does" in run.stderr,
              f"{run.returncode}: {run.stderr}")
    finally:
        write(ENTRIES, entries)


CHAPTERS = [oracle_coordinated, coordinated_life, coordinated_kexec, coordinated_auto, coordinated_hugetlb,
            coordinated_no_memory, start_small, granule_sizes]
