"""The lab's chapter about devices that come and go while the guest runs, with a balloon in it."""

import contextlib
import ctypes
import os
import random
import resource
import subprocess
import threading
import time

from balloon import MIB, finish, guest_with_balloon, inflate, wait_until
from checks import GUEST_SECONDS, check, check_confined, check_guest_tests, expected_results, figure
from coordinated import WITHOUT_LIMITLESS_LOCKING
from host import BALLAST, EDU, NVME, PAIR, GuestFailed, Qmp, available_memory, bind, group_of, left_behind

CYCLES = 2
LOAD_SECONDS = int(os.environ.get("SOAK_SECONDS", 30))
KEEP = 192 * MIB
EJECT_SECONDS = 180  # more than a guest takes here, so that a hang ends
PIDFD_GETFD = 438  # pidfd_getfd, which Python has not
COMMAND = (7 << 40) + 4  # in the file of a VFIO device: its config space's command register
# In the guest: what each edu says to its driver, once that is so, or after a while.
WAIT_FOR_EDUS = ("find_edus() {{ for d in /sys/bus/pci/drivers/ballast_edu/0*; do [ ! -e $d ] || cat $d/identity; done; }}; "
                 "n=0; until [ \"$(echo $(find_edus))\" = \"{}\" ] || [ $((n += 1)) -gt 200 ]; do sleep 0.2; done; "
                 "tell edu $(find_edus)")
# Likewise: each nvme goes through a function reset; the disk can be read; it is read for ever.
RESET_DISK = "for d in /sys/bus/pci/drivers/nvme/0*; do echo 1 >$d/reset || exit 1; done"
READ_DISK = "[ $(dd if=/dev/nvme0n1 bs=1M count=16 iflag=direct status=none | wc -c) = 16777216 ]"
KEEP_READING = "(while :; do dd if=/dev/nvme0n1 of=/dev/null bs=1M iflag=direct; done) >/dev/null 2>&1 &"


def ctl(balloon, *words):
    """`ballast ctl` as people use it: its status, and all that it prints."""
    run = subprocess.run([BALLAST, "ctl", balloon.path, *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                         stderr=subprocess.STDOUT, text=True, timeout=EJECT_SECONDS, check=False)
    print(f"  ctl {' '.join(words)}: {' | '.join(run.stdout.splitlines())}", flush=True)
    return run.returncode, run.stdout.strip()


def must(prefix, balloon, *words):
    status, said = ctl(balloon, *words)
    if status != 0:
        raise GuestFailed(f"{prefix}: ctl {' '.join(words)}: {status}, {said}")
    return said


def load_driver(guest, device):
    """Once the guest has found the device, as udev would."""
    guest.ask(f"n=0; until grep -q {device} /sys/bus/pci/devices/*/device || [ $((n += 1)) -gt 200 ]; do sleep 0.2; done; "
              "load_drivers", 180)


def holdings(guest, balloon):
    """What must be the same before a device comes and after it has gone."""
    memory = balloon.memory()
    return {"fds": len(os.listdir(f"/proc/{guest.process.pid}/fd")), "pinned": memory["pinned"],
            "inhibited-by": memory["held-back"]["inhibited-by"], "held": memory["held"], "reclaimed": memory["reclaimed"],
            "dma": balloon.ask_qmp("x-ballast-query-dma-map"), "slots": slots(balloon)}


def settled(guest, balloon):
    """When nobody pins any more: parts of huge pages go to the host within a second, or more where it is busy."""
    return wait_until(lambda now: now["reclaimed"] == now["held"], lambda: holdings(guest, balloon), 60)


def slots(balloon):
    return [device["qdev_id"] for device in balloon.ask_qmp("query-pci")[0]["devices"]]


def slot_of(balloon, name):
    return next(device["slot"] for device in balloon.ask_qmp("query-pci")[0]["devices"] if device["qdev_id"] == name)


def check_edu(name, guest, nr, answer="0x010000ed"):
    """The guest's driver has so many, and each answers."""
    answers = " ".join([answer] * nr)
    said = guest.ask(WAIT_FOR_EDUS.format(answers), 120)
    check(name, said == [answers], said)


@contextlib.contextmanager
def device_of(pid):
    """The file of the one VFIO device that a process has open, as our own."""
    number = next(fd for fd in os.listdir(f"/proc/{pid}/fd") if "vfio-device" in os.readlink(f"/proc/{pid}/fd/{fd}"))
    process = os.pidfd_open(pid)
    device = ctypes.CDLL(None, use_errno=True).syscall(PIDFD_GETFD, process, int(number), 0)
    os.close(process)
    if device < 0:
        raise OSError(ctypes.get_errno(), "pidfd_getfd")
    try:
        yield device
    finally:
        os.close(device)


def comes_and_goes(prefix, guest, balloon):
    """A part-full balloon; edu comes, works, and goes; the host's memory goes and comes with it."""
    memory = inflate(prefix, balloon, KEEP)[1]
    check(f"{prefix}/direct", memory["reclaimed"] == memory["held"], memory)
    before = None
    for cycle in range(1, CYCLES + 1):
        at = f"{prefix}/cycle{cycle}"
        said = must(at, balloon, "attach", EDU)
        memory = balloon.memory()
        check(f"{at}/came-back", f"{memory['held'] >> 20} MiB less" in said, said)
        check(f"{at}/inhibited", memory["held-back"]["inhibited-by"] == [f"vfio group {group_of(EDU)}"] and
              memory["reclaimed"] == 0 and memory["pinned"] == memory["ram"], memory)
        if cycle == 1:
            load_driver(guest, "0x11e8")
        check_edu(f"{at}/driver", guest, True)
        if cycle == 1:
            guest.ask("interrupts=300; test_edu", 300)
            check_guest_tests(at, guest, 1, list(expected_results(["edu"], 1, 1, False)))
        free = available_memory()
        must(at, balloon, "detach", EDU)
        check_edu(f"{at}/gone-in-guest", guest, False)
        after = settled(guest, balloon)
        check(f"{at}/balanced", before in (None, after), f"{before}, {after}")
        check(f"{at}/nobody-pins", after["pinned"] == 0 and after["inhibited-by"] == [] and after["dma"] == [] and
              EDU not in after["slots"], after)
        check(f"{at}/given-to-host", after["reclaimed"] == after["held"] > 0, after)
        if cycle == 1:
            rise = wait_until(lambda rise: rise > after["held"] * 0.8, lambda: available_memory() - free, 20)
            figure(f"{at}/host-memory-rose", rise, "bytes")
            check(f"{at}/host-memory", rise > after["held"] * 0.8, f"{rise >> 20} MiB of {after['held'] >> 20}")
        before = after
    left = left_behind(EDU)
    check(f"{prefix}/given-back", left is None, left)
    return before


def cannot_come(prefix, guest, balloon, before):
    """Not all of RAM may be locked: all is as it was."""
    limits = resource.prlimit(guest.process.pid, resource.RLIMIT_MEMLOCK, (64 * MIB, resource.RLIM_INFINITY))
    status, said = ctl(balloon, "attach", EDU)
    resource.prlimit(guest.process.pid, resource.RLIMIT_MEMLOCK, limits)
    check(f"{prefix}/refused", status == 1 and len(said.splitlines()) == 1 and "RLIMIT_MEMLOCK" in said, said)
    after = settled(guest, balloon)
    check(f"{prefix}/as-before", after == before, f"{before}, {after}")
    status, said = ctl(balloon, "detach", EDU)
    check(f"{prefix}/none-to-detach", status == 1 and f"no device '{EDU}'" in said, said)


def guest_starts_anew(prefix, guest, balloon):
    """
    It resets with devices assigned, which it has again: edu, which has no reset; two on one bus, which have only that bus's;
    nvme, which has FLR, and is at DMA. Then with edu on its way out, which it has no more.
    """
    for nr, bdf in enumerate((EDU, *PAIR), 1):
        must(prefix, balloon, "attach", bdf)
        check_edu(f"{prefix}/has-{nr}", guest, nr)
    unreset = [line for line in guest.errors if "reset works" in line and any(bdf in line for bdf in PAIR)]
    check(f"{prefix}/neighbour-spared", len(unreset) == 1 and PAIR[1] in unreset[0], unreset)
    must(prefix, balloon, "attach", NVME)
    guest.ask("wait_for /dev/nvme0n1 || wait_for /dev/nvme0n1", 120)
    guest.ask(f"({RESET_DISK}) && wait_for /dev/nvme0n1 && {READ_DISK}", 120)
    guest.send(f"{KEEP_READING} sleep 2; reboot -f")
    guest.hear("listening", GUEST_SECONDS)
    check_edu(f"{prefix}/has-them-again", guest, 3)
    guest.ask(f"wait_for /dev/nvme0n1 && {READ_DISK}", 120)
    again = [line for line in guest.errors if "reset works" in line and any(bdf in line for bdf in PAIR)]
    check(f"{prefix}/reset-by-bus", again == unreset, again)
    client = Qmp(balloon.path)
    must(prefix, balloon, "stop")
    balloon.ask_qmp("device_del", {"id": EDU})
    must(prefix, balloon, "reset")
    must(prefix, balloon, "cont")
    guest.hear("listening", GUEST_SECONDS)
    events = client.events()
    check(f"{prefix}/let-go-by-reset", events.index("DEVICE_DELETED") < events.index("RESET"), events)
    client.close()
    check_edu(f"{prefix}/gone-in-guest", guest, 2)


def taken(prefix, guest, balloon):
    """By force, from a guest that stands still; what comes before it has heard of that does not go with it."""
    must(prefix, balloon, "attach", EDU)
    check_edu(f"{prefix}/driver", guest, True)
    must(prefix, balloon, "stop")
    must(prefix, balloon, "detach", EDU, "--force")
    check(f"{prefix}/by-force", balloon.memory()["pinned"] == 0, balloon.memory())
    must(prefix, balloon, "cont")
    check_edu(f"{prefix}/force-told-to-guest", guest, False)
    must(prefix, balloon, "attach", EDU)
    check_edu(f"{prefix}/comes-again", guest, True)
    before = slot_of(balloon, EDU)
    must(prefix, balloon, "stop")
    must(prefix, balloon, "detach", EDU, "--force")
    must(prefix, balloon, "attach", EDU)
    must(prefix, balloon, "cont")
    guest.ask(f"n=0; while [ -e /sys/bus/pci/devices/0000:00:{before:02x}.0 ] && [ $((n += 1)) -le 200 ]; do sleep 0.2; done", 120)
    check_edu(f"{prefix}/another-came", guest, True)
    check(f"{prefix}/another-slot", slot_of(balloon, EDU) != before, before)
    must(prefix, balloon, "detach", EDU)
    check_edu(f"{prefix}/gone-in-guest", guest, False)
    return before


def stops_answering(prefix, guest, balloon, slot):
    """
    Somebody else switches its memory off while the guest has it mapped: KVM finds nothing there but SIGBUS, as of a device that
    is pulled out. The guest reads ones, and goes on; and what answers again it reads again. It comes into the slot that the guest
    did let go of.
    """
    must(prefix, balloon, "attach", EDU)
    check(f"{prefix}/slot-again", slot_of(balloon, EDU) == slot, slot)
    check_edu(f"{prefix}/mapped", guest, True)
    with device_of(guest.process.pid) as device:
        command = os.pread(device, 2, COMMAND)
        os.pwrite(device, bytes(2), COMMAND)
        check_edu(f"{prefix}/reads-ones", guest, True, "0xffffffff")
        told = [line for line in guest.errors if f"{EDU}: its memory does not answer the processor" in line]
        check(f"{prefix}/told-once", len(told) == 1, guest.errors[-5:])
        os.pwrite(device, command, COMMAND)
        check_edu(f"{prefix}/answers-again", guest, True)
    must(prefix, balloon, "detach", EDU)


def under_load(prefix, guest, balloon):
    """nvme, which has come too, is at work while the balloon moves and edu comes and goes: no byte differs."""
    must(prefix, balloon, "attach", NVME)
    load_driver(guest, "0x0010")
    guest.ask("wait_for /dev/nvme0n1 || wait_for /dev/nvme0n1", 120)
    ended = threading.Event()
    seed = int(time.time())
    dice = random.Random(seed)
    done = {"moves": 0, "cycles": 0, "wrong": []}

    def move():
        while not ended.is_set():
            # How far it gets in its time is the guest's, which is busy.
            ctl(balloon, "balloon", str(dice.randrange(150, 384) * MIB))
            done["moves"] += 1
            ended.wait(dice.random() * 2)

    def plug():
        while not ended.is_set():
            for word in ("attach", "detach"):
                status, said = ctl(balloon, word, EDU)
                if status != 0:
                    done["wrong"].append(said)
                ended.wait(dice.random() * 2)
            done["cycles"] += 1

    def keep_at(work):
        try:
            work()
        except Exception as error:  # a thread that ended early has proved nothing
            done["wrong"].append(repr(error))

    threads = [threading.Thread(target=keep_at, args=(work,)) for work in (move, plug)]
    guest.send(f"run_oracle load --seed {seed % 1000} --seconds {LOAD_SECONDS}")
    guest.hear("oracle loading", 120)
    for thread in threads:
        thread.start()
    try:
        lines = guest.hear_end(LOAD_SECONDS + 300)
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    text = next(line for line in lines if line.startswith("compared nvme-load"))
    words = dict(word.split("=") for word in text.split()[2:])
    figure(f"{prefix}/checked", words["bytes"], "bytes")
    figure(f"{prefix}/mismatched", words["mismatched"], f"pages of {words['pages']}")
    figure(f"{prefix}/cycles", done["cycles"], f"and {done['moves']} moves of the balloon (random seed {seed})")
    check(f"{prefix}/equal", int(words["mismatched"]) == 0 < int(words["bytes"]), text)
    check(f"{prefix}/cycles-done", done["cycles"] > 1 and done["moves"] > 0 and not done["wrong"], done)
    must(prefix, balloon, "detach", NVME)
    balloon.keep(KEEP)


def too_large(prefix):
    """Most of its memory it has never touched, and it is more than the host has: pinning it would be somebody's end."""
    with guest_with_balloon(memory=f"{(available_memory() >> 20) + 512}M") as (guest, balloon):
        before = holdings(guest, balloon)
        status, said = ctl(balloon, "attach", EDU)
        check(f"{prefix}/told", status == 1 and "MiB more have to be pinned for it, and the host has" in said, f"{status}, {said}")
        after = holdings(guest, balloon)
        check(f"{prefix}/as-before", after == before, f"{before}, {after}")
        guest.ask("true")
        finish(prefix, guest)


def hot_plug():
    """A guest with a balloon, and no device; edu comes and goes, in every way."""
    for bdf in (EDU, NVME, *PAIR):
        bind(bdf, "vfio-pci")
    prefix = "hot-plug"
    # For cannot_come(); a sanitizer's build keeps its privileges.
    with guest_with_balloon(memory="384M", wrapper=WITHOUT_LIMITLESS_LOCKING) as (guest, balloon):
        check_confined(prefix, guest.process)
        before = comes_and_goes(f"{prefix}/comes-and-goes", guest, balloon)
        cannot_come(f"{prefix}/cannot-come", guest, balloon, before)
        slot = taken(f"{prefix}/taken", guest, balloon)
        stops_answering(f"{prefix}/stops-answering", guest, balloon, slot)
        under_load(f"{prefix}/load", guest, balloon)
        after = holdings(guest, balloon)
        check(f"{prefix}/balanced", {**after, "held": 0, "reclaimed": 0} == {**before, "held": 0, "reclaimed": 0},
              f"{before}, {after}")
        guest_starts_anew(f"{prefix}/anew", guest, balloon)
        finish(prefix, guest)
    too_large(f"{prefix}/too-large")
    for bdf in (EDU, NVME, *PAIR):
        left = left_behind(bdf)
        check(f"{prefix}/given-back/{bdf}", left is None, left)


CHAPTERS = [hot_plug]
