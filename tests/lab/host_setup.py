"""Chapters on setting a host up: ballast doctor, and devices that ballast bind takes and ballast unbind gives back."""

import json
import os
import resource
import signal
import subprocess
import time

from checks import GUEST_SECONDS, check
from host import BALLAST, EDU, NET, NVME, PAIR, PCI, VMLINUX, Guest, bind, driver_of, group_of, left_behind, read, write

RECORDS = "/run/ballast/bind"
ENTRIES = "/sys/module/vfio_iommu_type1/parameters/dma_entry_limit"
# This host's root is an overlay, of which nobody can tell what disk it is on. One that does not see that mount may take disks.
WITHOUT_ROOT = ["unshare", "--mount", "sh", "-c", 'grep -v " / / " /proc/self/mountinfo >/run/mountinfo && '
                'mount --bind /run/mountinfo /proc/$$/mountinfo && exec "$@"', "sh"]
WITHOUT_LOCK = ["setpriv", "--bounding-set", "-ipc_lock", "--inh-caps", "-ipc_lock"]


def ballast(*words, wrapper=(), limit=None):
    return subprocess.run([*wrapper, BALLAST, *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120,
                          check=False, preexec_fn=limit)


def expect(name, status, part, *words, wrapper=()):
    """A command that ends with this status and says this."""
    done = ballast(*words, wrapper=wrapper)
    said = (done.stdout + done.stderr).strip()
    check(name, done.returncode == status and part in said, f"status {done.returncode}, no '{part}': {said}")


def override_of(bdf):
    text = read(f"{PCI}/devices/{bdf}/driver_override").strip()
    return "" if text == "(null)" else text


def check_state(name, bdf, driver, override=None):
    seen = (driver_of(bdf), override_of(bdf) if override is not None else None)
    check(name, seen == (driver, override), f"{bdf} has {seen}, not {(driver, override)}")


def give_to(bdf, driver):
    """With no override, as if it were the driver's own choice."""
    bind(bdf, driver)
    write(f"{PCI}/devices/{bdf}/driver_override", "\n")


# -- doctor -------------------------------------------------------------------------------------------------------


class Diagnosis:
    """What doctor says of a guest with these devices, and whether ballast run agrees."""

    def __init__(self, name, *devices, memory="256M", wrapper=(), limit=None):
        self.name = name
        done = ballast("doctor", "--json", "--memory", memory, *devices, wrapper=wrapper, limit=limit)
        self.document = json.loads(done.stdout)
        starts = self.document["starts"]
        check(f"doctor/{name}/status", done.returncode == (0 if starts else 1), f"{done.returncode}, starts: {starts}")
        for bad in (one for one in self.document["checks"] if one["status"] != "ok"):
            print(f"  doctor: {bad['status']} {bad['subject']} {bad['check']}: {bad['text']} -> {bad['remedy']}", flush=True)
        # A guest that starts has until the time limit, then it ends with 124.
        words = ["run", "--kernel", VMLINUX, "--memory", memory, "--serial", "none", "--timeout", "1"]
        for device in devices:
            words += ["--device", device]
        run = ballast(*words, wrapper=wrapper, limit=limit)
        check(f"doctor/{name}/run-agrees", (run.returncode not in (1, 2)) == starts,
              f"doctor says {starts}, run ends with {run.returncode}: {run.stderr.strip()[-300:]}")
        for device in devices:
            if driver_of(device) == "vfio-pci" and os.access(f"/dev/vfio/{group_of(device)}", os.R_OK) and name != "in-use":
                left = left_behind(device)
                check(f"doctor/{name}/nothing-left/{device}", left is None, left)

    def find(self, subject, what):
        return next((one for one in self.document["checks"] if (one["subject"], one["check"]) == (subject, what)), {})

    def expect(self, subject, what, status, part=""):
        one = self.find(subject, what)
        check(f"doctor/{self.name}/{subject}/{what}", one.get("status") == status and part in one.get("text", ""),
              f"not {status}, '{part}': {one}")


def doctor():
    """What doctor says of this host and its devices is what ballast run meets."""
    for bdf in (EDU, NVME, NET, *PAIR):
        bind(bdf, "vfio-pci")
    good = Diagnosis("good", EDU, NVME, NET)
    check("doctor/good/starts", good.document["starts"], good.document["problems"])
    for what in ("kvm", "hardware", "iommu", "vfio", "memory", "interrupt-remapping", "memlock", "dma-entries"):
        good.expect("host", what, "ok")
    good.expect("host", "nested", "warning", "virtual machine")
    for bdf in (EDU, NVME, NET):
        for what in ("device", "driver", "group", "open", "bars", "msi-x", "iova"):
            good.expect(bdf, what, "ok")
    good.expect(EDU, "bars", "ok", f"0: {1 << 20} bytes (32-bit)")
    for bdf, most in ((EDU, 0), (NVME, 2048), (NET, 5)):
        vectors = good.find(bdf, "msi-x")["facts"]["vectors"]
        check(f"doctor/vectors/{bdf}", (vectors > 0) == (most > 0) and vectors <= most, vectors)

    Diagnosis("pair", *PAIR).expect(PAIR[0], "group", "ok", PAIR[1])
    Diagnosis("missing", "0000:00:1e.7").expect("0000:00:1e.7", "device", "problem", "not on this host")

    bind(NVME, "nvme")
    Diagnosis("driver", NVME).expect(NVME, "driver", "problem", "nvme")
    bind(PAIR[1], "uio_pci_generic")
    Diagnosis("not-viable", PAIR[0]).expect(PAIR[0], "group", "problem", f"{PAIR[1]} (uio_pci_generic)")
    bind(PAIR[1], "vfio-pci")

    group = os.open(f"/dev/vfio/{group_of(EDU)}", os.O_RDWR)
    try:
        Diagnosis("in-use", EDU).expect(EDU, "open", "problem", "another process has it")
    finally:
        os.close(group)

    allowed = 64 << 20
    locked = Diagnosis("memlock", EDU, wrapper=WITHOUT_LOCK,
                       limit=lambda: resource.setrlimit(resource.RLIMIT_MEMLOCK, (allowed, allowed)))
    locked.expect("host", "memlock", "problem", f"{256 << 20} bytes must be locked, {allowed} may be")

    entries = read(ENTRIES).strip()
    write(ENTRIES, "100")
    try:
        Diagnosis("entries", EDU).expect("host", "dma-entries", "warning", "100 available")
    finally:
        write(ENTRIES, entries)


# -- bind and unbind ----------------------------------------------------------------------------------------------


def bind_and_unbind():
    """Devices go to vfio-pci with their group, and back to what they had; what the host needs stays."""
    one_device()
    whole_group()
    cut_short()
    in_use()
    swap_is_guarded()
    link_is_guarded()


def one_device():
    give_to(NVME, "nvme")
    expect("bind/unknown-disks", 1, "which of them this host's mount / is on cannot be told; --force", "bind", NVME)
    check_state("bind/unknown-disks/state", NVME, "nvme", "")
    expect("bind/unknown-disks/forced", 0, "was nvme", "bind", "--force", NVME)
    expect("unbind/unknown-disks", 0, "given back to nvme", "unbind", NVME)
    expect("bind/one", 0, "bound to vfio-pci, was nvme", "bind", NVME, wrapper=WITHOUT_ROOT)
    check_state("bind/one/state", NVME, "vfio-pci", "vfio-pci")
    check("bind/one/record", os.path.exists(f"{RECORDS}/{NVME}"), os.listdir(RECORDS))
    expect("bind/twice", 0, "bound to vfio-pci already", "bind", NVME[5:], wrapper=WITHOUT_ROOT)
    expect("bind/doctor-agrees", 0, "would start", "doctor", "--memory", "128M", NVME)
    expect("unbind/one", 0, "given back to nvme", "unbind", NVME)
    check_state("unbind/one/state", NVME, "nvme", "")
    check("unbind/one/record", not os.path.exists(f"{RECORDS}/{NVME}"), os.listdir(RECORDS))
    expect("unbind/twice", 1, "not bound by ballast bind: its driver is nvme", "unbind", NVME)


def whole_group():
    for bdf in PAIR:
        bind(bdf, "uio_pci_generic")
    expect("bind/group", 0, f"{PAIR[1]}: bound to vfio-pci", "bind", PAIR[0])
    for bdf in PAIR:
        check_state(f"bind/group/{bdf}", bdf, "vfio-pci", "vfio-pci")
    expect("unbind/group", 0, f"{PAIR[0]}: given back to uio_pci_generic", "unbind", PAIR[1])
    for bdf in PAIR:
        check_state(f"unbind/group/{bdf}", bdf, "uio_pci_generic", "uio_pci_generic")


def cut_short():
    """As bind leaves it that dies between taking it from one and giving it to the other."""
    give_to(NVME, "nvme")
    expect("bind/cut-short", 0, "was nvme", "bind", NVME, wrapper=WITHOUT_ROOT)
    write(f"{PCI}/devices/{NVME}/driver/unbind", NVME)
    check_state("bind/cut-short/half", NVME, None, "vfio-pci")
    expect("unbind/cut-short", 0, "given back to nvme", "unbind", NVME)
    check_state("unbind/cut-short/state", NVME, "nvme", "")


def in_use():
    bind(EDU, None)
    write(f"{PCI}/devices/{EDU}/driver_override", "\n")
    expect("bind/without-driver", 0, "was without a driver", "bind", EDU)
    with Guest("--device", EDU, run="wait", kernel=VMLINUX) as guest:
        check("bind/guest", guest.wait_for("waiting", GUEST_SECONDS), guest.last_words())
        expect("unbind/in-use", 1, "a guest, or another process, has its group", "unbind", EDU)
        check_state("unbind/in-use/state", EDU, "vfio-pci", "vfio-pci")
        guest.process.send_signal(signal.SIGTERM)
        check("bind/guest-ends", guest.finish(GUEST_SECONDS) == 0, guest.last_words())
    expect("unbind/after-use", 0, "given back to no driver", "unbind", EDU)
    check_state("unbind/after-use/state", EDU, None, "")


def swap_is_guarded():
    give_to(NVME, "nvme")
    disk = "/dev/nvme0n1"
    deadline = time.monotonic() + 30
    while not os.path.exists(disk) and time.monotonic() < deadline:  # its namespace is found in the background
        time.sleep(0.2)
    subprocess.run(["mkswap", "-q", disk], check=True)
    subprocess.run(["swapon", disk], check=True)
    try:
        expect("bind/swap", 1, "this host's swap depends on it", "bind", NVME, wrapper=WITHOUT_ROOT)
        check_state("bind/swap/state", NVME, "nvme", "")
    finally:
        subprocess.run(["swapoff", disk], check=True)
    expect("bind/no-swap", 0, "was nvme", "bind", NVME, wrapper=WITHOUT_ROOT)
    expect("unbind/no-swap", 0, "given back", "unbind", NVME)


def link_is_guarded():
    give_to(NET, "e1000e")
    interface = os.listdir(f"{PCI}/devices/{NET}/net")[0]
    for words in (["link", "set", interface, "up"], ["addr", "add", "10.0.2.15/24", "dev", interface],
                  ["route", "add", "default", "via", "10.0.2.2"]):
        subprocess.run(["ip", *words], check=True)
    deadline = time.monotonic() + 30
    while read(f"/sys/class/net/{interface}/operstate").strip() != "up" and time.monotonic() < deadline:  # it negotiates
        time.sleep(0.2)
    expect("bind/link", 1, f"only network link, {interface}, depends on it", "bind", NET)
    check_state("bind/link/state", NET, "e1000e", "")
    expect("bind/link/forced", 0, "was e1000e", "bind", "--force", NET)
    expect("unbind/link", 0, "given back to e1000e", "unbind", NET)
    check_state("unbind/link/state", NET, "e1000e", "")


CHAPTERS = [doctor, bind_and_unbind]
