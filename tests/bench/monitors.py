"""The monitors that tests/bench/run measures: what it has to know of each, and no more."""

import os


class Monitor:
    """To have another one measured: a subclass, added to MONITORS below.

    command() must be there: what starts it with an ELF kernel (entered by PVH), an initramfs (None: none) and a kernel command
    line, ttyS0 on standard input and output; `memory` is as 256M. Its process is then the monitor itself. All else returns
    more words for that command, or None where it cannot; rows that need them leave it out.
    """

    name = "?"
    binary = "?"

    def command(self, kernel, initrd, cmdline, cpus, memory):
        raise NotImplementedError

    def exit_port(self):
        """A byte written to port 0xf4 ends it, with any status."""

    def device(self, bdf):
        """A PCI device that is bound to vfio-pci."""

    def balloon(self, socket, coordinated=False, keep=None):
        """A balloon, and a QMP socket that knows balloon and query-balloon.

        Coordinated: what is in the balloon goes to the host though a device is assigned; a monitor that has no such thing gives
        it the balloon it has. Keep: so many MiB are the guest's from the start, and no device has the rest: None without that.
        """

    def disks(self, paths):
        """Files as virtio-blk, through the host's page cache."""

    def net(self, tap):
        """A tap by vhost-net, as virtio-net."""


class Ballast(Monitor):
    name = "Ballast"
    binary = os.environ.get("BALLAST", "build/vmm/ballast")

    def command(self, kernel, initrd, cmdline, cpus, memory):
        return [self.binary, "run", "--kernel", kernel, *(["--initrd", initrd] if initrd else []), "--cmdline", cmdline,
                "--cpus", str(cpus), "--memory", memory, "--serial", "stdio"]

    def exit_port(self):
        return ["--exit-port"]

    def device(self, bdf):
        return ["--device", bdf]

    def balloon(self, socket, coordinated=False, keep=None):
        policy = "coordinated" if coordinated else "inhibit"
        return ["--balloon", f"policy={policy}" + (f",initial={keep}M" if keep else ""), "--qmp", f"unix:{socket}"]

    def disks(self, paths):
        return [word for path in paths for word in ("--disk", f"path={path}")]

    def net(self, tap):
        return ["--net", f"tap={tap}"]


class QemuMicrovm(Monitor):
    name = "QEMU microvm"
    binary = "/usr/bin/qemu-system-x86_64"
    machine = "microvm,x-option-roms=off,rtc=on"  # without a clock Linux asks port 0x71 20,000 times whether it ticks

    def command(self, kernel, initrd, cmdline, cpus, memory):
        return [self.binary, "-accel", "kvm", "-cpu", "host", "-machine", self.machine, "-nodefaults", "-no-user-config",
                "-vga", "none", "-display", "none", "-no-reboot", "-name", "guest,debug-threads=on", "-serial", "stdio",
                "-kernel", kernel, *(["-initrd", initrd] if initrd else []), "-append", cmdline, "-smp", str(cpus),
                "-m", memory]

    def exit_port(self):
        return ["-device", "isa-debug-exit,iobase=0xf4,iosize=1"]


class QemuQ35(QemuMicrovm):
    name = "QEMU q35"
    machine = "q35"

    def device(self, bdf):
        return ["-device", f"vfio-pci,host={bdf}"]

    def balloon(self, socket, coordinated=False, keep=None):
        return None if keep else ["-device", "virtio-balloon-pci", "-qmp", f"unix:{socket},server=on,wait=off"]

    def disks(self, paths):
        return [word for number, path in enumerate(paths) for word in (
            "-drive", f"if=none,id=d{number},format=raw,file={path},cache=writeback,aio=io_uring",
            "-device", f"virtio-blk-pci,drive=d{number}")]

    def net(self, tap):
        return ["-netdev", f"tap,id=n,ifname={tap},script=no,downscript=no,vhost=on",
                "-device", "virtio-net-pci,netdev=n,romfile="]


MONITORS = [Ballast(), QemuQ35(), QemuMicrovm()]
