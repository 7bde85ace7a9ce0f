"""The lab's chapters about a mediated device: one whose driver pins what it uses may go along with the balloon.

The device is an edu, made up by guest-images/mdev/ballast_mdev.ko on the lab host: guest and oracle know no other.
"""

import contextlib
import os
import subprocess

from balloon import (MIB, check_equal, check_given_back, check_reclaimed, compare, fill, finish, guest_with_balloon,
                     inflate)
from checks import check
from host import BALLAST, EDU, IMAGES, VMLINUX, bind, read, write

UUID = "83b8f4f2-509f-482f-bc1e-e6bfe0fa1001"
MDEV = f"/sys/bus/mdev/devices/{UUID}"
TYPE = "/sys/class/mdev_bus/ballast_mdev/mdev_supported_types/ballast_mdev-edu"
WAYS = ["cpu", "edu-out", "edu-in"]


@contextlib.contextmanager
def made_mdev(prefix):
    """The mdev, for as long as it is needed."""
    subprocess.run(["modprobe", "-a", "mdev", "vfio_iommu_type1"], check=True)
    subprocess.run(["insmod", f"{IMAGES}/ballast_mdev.ko"], check=True)
    try:
        write(f"{TYPE}/create", UUID)
        yield
        # Fails while somebody has it open.
        write(f"{MDEV}/remove", "1")
        check(f"{prefix}/mdev-given-back", read(f"{TYPE}/available_instances").strip() == "4")
    finally:
        if os.path.exists(MDEV):
            write(f"{MDEV}/remove", "1")
        subprocess.run(["rmmod", "ballast_mdev"], check=True)


def mdev_allowed():
    """balloon=allowed: the host gets what the balloon takes, and the device finds the bytes that the CPU does."""
    prefix = "mdev-allowed"
    with made_mdev(prefix):
        with guest_with_balloon("--device", f"{UUID},balloon=allowed") as (guest, balloon):
            check(f"{prefix}/log", any(line.endswith("the balloon is allowed") for line in guest.errors), guest.errors)
            fill(guest, 21)
            said, memory, rise = inflate(prefix, balloon, 256 * MIB)
            check_reclaimed(prefix, memory, rise)
            check(f"{prefix}/all-reclaimed", memory["reclaimed"] == memory["held"], memory)
            check(f"{prefix}/nothing-pinned", memory["pinned"] == 0, memory)
            check(f"{prefix}/ctl-says-nothing-of-loss", "gains nothing" not in said, said)
            check_given_back(prefix, balloon)
            check_equal(prefix, compare(prefix, guest, WAYS), 256 * MIB)
            finish(prefix, guest)


def mdev_inhibits():
    """Without it the same device inhibits; and a function of hardware may not have it."""
    prefix = "mdev-inhibits"
    with made_mdev(prefix):
        with guest_with_balloon("--device", UUID) as (guest, balloon):
            memory = inflate(prefix, balloon, 256 * MIB)[1]
            group = os.path.basename(os.readlink(f"{MDEV}/iommu_group"))
            check(f"{prefix}/nothing-reclaimed", memory["reclaimed"] == 0, memory)
            check(f"{prefix}/by-whom", memory["held-back"]["inhibited-by"] == [f"vfio group {group}"], memory)
            check(f"{prefix}/pinned", memory["pinned"] == memory["ram"], memory)
            check_given_back(prefix, balloon)
            finish(prefix, guest)
    bind(EDU, "vfio-pci")
    run = subprocess.run([BALLAST, "run", "--kernel", VMLINUX, "--device", f"{EDU},balloon=allowed"],
                         capture_output=True, text=True, check=False)
    check(f"{prefix}/function-refused", run.returncode == 2 and "for mdevs alone" in run.stderr and
          run.stderr.count("\n") == 1, f"{run.returncode}: {run.stderr}")


CHAPTERS = [mdev_allowed, mdev_inhibits]
