"""The lab's chapters about the coordinated policy: a device is assigned, and the host gets what the balloon holds."""

import random
import resource
import subprocess
import threading
import time

from balloon import (MIB, WITH_DEVICES, check_equal, check_given_back, check_reclaimed, compare, fill,
                     finish, guest_with_balloon, inflate, wait_until)
from checks import GUEST_SECONDS, check, figure
from host import BALLAST, BALLOON_SECONDS, EDU, NVME, VMLINUX, Qmp, available_memory, bind, read, write

ENTRIES = "/sys/module/vfio_iommu_type1/parameters/dma_entry_limit"
WITHOUT_LIMITLESS_LOCKING = ("setpriv", "--bounding-set", "-ipc_lock", "--inh-caps", "-ipc_lock")


def bind_all():
    for bdf in (EDU, NVME):
        bind(bdf, "vfio-pci")


def check_coordinated(prefix, memory, rise=None, part=0.9):
    """So much at least of what is held was reclaimed, the host has it, and the rest is pinned.

    A small guest is soon fragmented; a fresh one of some size has to give up more (tests/bench/yield has the figures).
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
    with guest_with_balloon("--device", f"{EDU},{NVME}") as (guest, balloon):
        memory = inflate(prefix, balloon, 256 * MIB)[1]
        check(f"{prefix}/inhibited", memory["reclaimed"] == 0 and len(memory["held-back"]["inhibited-by"]) == 2, memory)
        owners = memory["held-back"]["inhibited-by"]

        before = available_memory()
        balloon.ctl(balloon.path, "policy", "coordinated")
        time.sleep(1)
        memory = balloon.memory()
        check_coordinated(f"{prefix}/switched", memory, available_memory() - before)
        balloon.ctl(balloon.path, "policy", "inhibit")
        memory = balloon.memory()
        check(f"{prefix}/switched-back", memory["reclaimed"] == 0 and memory["pinned"] == memory["ram"] and
              memory["held-back"]["inhibited-by"] == owners, memory)
        # What the issue of the balloon asks of a reset: inhibitors unchanged, everything given back.
        guest.send("reboot -f")
        memory = wait_until(lambda memory: memory["held"] == 0, balloon.memory, 60)
        check(f"{prefix}/reboot-inhibited", memory["held"] == 0 and memory["pinned"] == memory["ram"] and
              memory["held-back"]["inhibited-by"] == owners, memory)
        guest.hear("listening", 240)
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
    guest.hear("listening", 240)
    balloon.wait(256 * MIB, BALLOON_SECONDS)
    memory = wait_until(lambda memory: memory["held-back"]["resting"] == 0, balloon.memory, 10)
    check_coordinated(f"{prefix}/filled-again", memory)


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
        events = qmp.events()
        check(f"{prefix}/events", events[:1] == ["X_BALLAST_MEMORY_WAITS"] and events[-1:] == ["X_BALLAST_MEMORY_SERVED"],
              events)
        check_equal(prefix, compare(prefix, guest, WITH_DEVICES), 256 * MIB)
        finish(prefix, guest)


def start_small():
    """initial=: nothing is mapped before a device may use DMA, and then only what is not in the balloon."""
    bind_all()
    prefix = "start-small"
    with guest_with_balloon("--device", f"{EDU},{NVME}", options="policy=coordinated,initial=256M", memory="1536M",
                            cmdline="ballast.balloon_first=yes") as (guest, balloon):
        memory = balloon.memory()
        figure(f"{prefix}/pinned-when-the-guest-is-up", memory["pinned"], f"bytes of {memory['ram']}")
        check(f"{prefix}/never-mapped", memory["granules"]["released"] == 0, memory["granules"])
        check_coordinated(prefix, memory)
        guest.send("run_oracle load --seconds 20")
        text = guest.hear_end(120)[-1]
        check(f"{prefix}/disk-works", text.startswith("compared nvme-load") and text.endswith("mismatched=0"), text)
        check_given_back(prefix, balloon)
        fill(guest, 34)
        inflate(f"{prefix}/again", balloon, 768 * MIB)
        check_given_back(f"{prefix}/again", balloon)
        check_equal(prefix, compare(prefix, guest, WITH_DEVICES), 1 << 30)
        finish(prefix, guest)


def start_costs():
    """What a start costs: mapping everything, and with the balloon filled first. Side by side, in one lab."""
    bind_all()
    pinned = {}
    for name, options in (("mapping-everything", "policy=coordinated"), ("initial-256M", "policy=coordinated,initial=256M")):
        began = time.monotonic()
        with guest_with_balloon("--device", f"{EDU},{NVME}", options=options, memory="2G", cmdline="ballast.balloon_first=yes",
                                heard="kernel") as (guest, balloon):
            figure(f"start/{name}/until-the-guest's-init", f"{time.monotonic() - began:.1f}", "s (in the lab's time)")
            memory = balloon.memory()
            figure(f"start/{name}/pinned-at-its-init", memory["pinned"], f"bytes of {memory['ram']}")
            guest.hear("listening", GUEST_SECONDS)
            pinned[name] = balloon.memory()["pinned"]
            figure(f"start/{name}/pinned-when-it-is-up", pinned[name], f"bytes of {memory['ram']}")
            finish(f"start/{name}", guest)
    check("start/pinned-follows-what-is-used", pinned["initial-256M"] < 320 * MIB < pinned["mapping-everything"] == 2 << 30, pinned)


def granule_sizes():
    """Other sizes of granules; and more of them than the IOMMU has entries for."""
    bind_all()
    prefix = "granules"
    for size in ("64K", "auto"):
        with guest_with_balloon("--device", f"{EDU},{NVME}", options=f"policy=coordinated,granule={size}", memory="640M") as (
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


CHAPTERS = [oracle_coordinated, coordinated_life, coordinated_no_memory, start_small, start_costs, granule_sizes]
