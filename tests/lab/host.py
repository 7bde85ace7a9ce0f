"""The lab host's side of a test: devices bound and given back, guests run, listened to and told what to do, counters read."""

import glob
import json
import os
import queue
import re
import signal
import socket
import subprocess
import tempfile
import threading
import time

BALLAST = os.environ.get("BALLAST", "build/vmm/ballast")
IMAGES = os.environ["BALLAST_IMAGES"]
VMLINUZ = f"{IMAGES}/vmlinuz"
VMLINUX = f"{IMAGES}/vmlinux"
INITRD = f"{IMAGES}/guest.cpio"
EDU, NVME, NET = (os.environ[name] for name in ("LAB_EDU", "LAB_NVME", "LAB_NET"))
PAIR = os.environ["LAB_PAIR"].split()
NVME_IMAGE = os.environ["LAB_SHARED"] + "/nvme.img"

PCI = "/sys/bus/pci"
USER_EXITS = "/sys/kernel/tracing/events/kvm/kvm_userspace_exit"


def watch_sanitizers():
    """Has a sanitizer that is built into Ballast report into files of a new folder, which is any user's; None if there is none."""
    with open(BALLAST, "rb") as file:
        program = file.read()
    if b"__asan_init" not in program and b"__tsan_init" not in program:
        return None
    folder = tempfile.mkdtemp(prefix="reports-")
    os.chmod(folder, 0o1777)
    for name in ("ASAN", "LSAN", "UBSAN", "TSAN"):
        os.environ[f"{name}_OPTIONS"] = f"log_path={folder}/report:print_stacktrace=1"
    return folder


REPORTS = watch_sanitizers()


def write(path, text):
    with open(path, "w", encoding="ascii") as file:
        file.write(text)


def read(path):
    with open(path, encoding="ascii", errors="replace") as file:
        return file.read()


# -- devices ------------------------------------------------------------------------------------------------------


def driver_of(bdf):
    link = f"{PCI}/devices/{bdf}/driver"
    return os.path.basename(os.readlink(link)) if os.path.islink(link) else None


def group_of(bdf):
    return os.path.basename(os.readlink(f"{PCI}/devices/{bdf}/iommu_group"))


def bind(bdf, driver):
    """Gives the device to a driver (None: to no driver at all)."""
    if driver_of(bdf) == driver:
        return
    if driver:
        subprocess.run(["modprobe", driver], check=True)
    if driver_of(bdf):
        write(f"{PCI}/devices/{bdf}/driver/unbind", bdf)
    write(f"{PCI}/devices/{bdf}/driver_override", (driver or "none") + "\n")
    write(f"{PCI}/drivers_probe", bdf)
    if driver_of(bdf) != driver:
        raise RuntimeError(f"{bdf} did not bind to {driver}")


def put_on_disk(path, offset):
    """Puts a file's bytes on the nvme disk behind the back of whoever has it now; returns how many those are."""
    with open(path, "rb") as file, open(NVME_IMAGE, "r+b") as disk:
        disk.seek(offset)
        return disk.write(file.read())


def dma_faults():
    """What the IOMMU has refused devices until now, by the lab host's log: at most, since it counts each line that tells."""
    log = subprocess.run(["dmesg"], stdout=subprocess.PIPE, text=True, errors="replace", check=True).stdout
    return len(re.findall(r"DMAR: \[DMA.*fault addr", log))


def left_behind(bdf):
    """What a finished run still holds of the device: a group that is in use cannot be opened a second time."""
    try:
        os.close(os.open(f"/dev/vfio/{group_of(bdf)}", os.O_RDWR))
        return None
    except OSError as error:
        return f"group {group_of(bdf)}: {error.strerror}"


# -- counters -----------------------------------------------------------------------------------------------------


def count_user_exits():
    """Has the kernel count every return of KVM_RUN to user space, by reason."""
    for trigger in ("!hist:keys=reason", "hist:keys=reason"):
        try:
            write(f"{USER_EXITS}/trigger", trigger + "\n")
        except OSError:
            pass


class Counters:
    """KVM's statistics of one VM, and the exits to user space (of all VMs: one runs at a time) at one moment."""

    def __init__(self, pid):
        self.stats = {}
        for folder in glob.glob(f"/sys/kernel/debug/kvm/{pid}-*"):
            for name in os.listdir(folder):
                if os.path.isfile(f"{folder}/{name}"):
                    text = read(f"{folder}/{name}").strip()
                    if text.isdigit():
                        self.stats[name] = int(text)
        try:
            histogram = read(f"{USER_EXITS}/hist")
        except OSError:
            histogram = ""
        hits = re.findall(r"reason: *(\d+) *} hitcount: *(\d+)", histogram)
        self.user_exits = {int(reason): int(count) for reason, count in hits}
        self.stats["user_exits"] = sum(self.user_exits.values())

    def since(self, before, name):
        return self.stats.get(name, 0) - before.stats.get(name, 0)


def host_memory(name):
    """A value of /proc/meminfo: bytes, or pages where it has no unit."""
    value, unit = re.search(rf"^{name}: *(\d+)( kB)?$", read("/proc/meminfo"), re.MULTILINE).groups()
    return int(value) * (1024 if unit else 1)


def available_memory():
    """MemAvailable, and the free pages that it leaves out: those on the processors' own lists, tens of MiB."""
    lists = re.findall(r"^ *count: (\d+)$", read("/proc/zoneinfo"), re.MULTILINE)
    return host_memory("MemAvailable") + 4096 * sum(map(int, lists))


# -- guests -------------------------------------------------------------------------------------------------------


class GuestFailed(Exception):
    """It ended, or did not do in time, or did wrong, what it was told to."""


class Guest:
    """One run of Ballast, its serial console on our pipes. As a context it is surely gone in the end."""

    def __init__(self, *args, run="tests", kernel=VMLINUZ, cmdline="", cpus=1, memory="256M", wrapper=(), limit=None):
        words = f"console=ttyS0 quiet loglevel=1 panic=-1 ballast.run={run} {cmdline}".split()
        command = [*wrapper, *self._command(kernel, " ".join(words), cpus, memory), *args]
        self.results = []   # (boot, name, passed, text) in order
        self.devices = []
        self.bytes = []     # what nvme-bytes said
        self.complaints = []
        self.samples = {}
        self.lines = []
        self.boot = 1
        self.in_dmesg = False
        self.waiting = queue.Queue()
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE if run == "obey" else subprocess.DEVNULL,
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=limit)
        self.errors = []
        self.threads = [threading.Thread(target=self._hear, daemon=True),
                        threading.Thread(target=self._hear_errors, daemon=True)]
        for thread in self.threads:
            thread.start()

    def _command(self, kernel, cmdline, cpus, memory):
        return [BALLAST, "run", "--kernel", kernel, "--initrd", INITRD, "--cmdline", cmdline, "--cpus", str(cpus),
                "--memory", memory, "--serial", "stdio"]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
            self.finish(10)

    def _hear_errors(self):
        for line in self.process.stderr:
            self.errors.append(line.decode(errors="replace").rstrip())

    def _hear(self):
        for line in self.process.stdout:
            line = line.decode(errors="replace").strip("\r\n")
            self.lines.append(line)
            if line.startswith("ballast: "):
                if not self.in_dmesg:
                    print(f"  guest: {line[len('ballast: '):]}", flush=True)
                self._understand(line[len("ballast: "):])
            elif self.in_dmesg:
                self.complaints.append(line)

    def _understand(self, line):
        verb, _, rest = line.partition(" ")
        name, _, text = rest.partition(" ")
        if verb in ("ok", "FAIL"):
            self.results.append((self.boot, name, verb == "ok", text))
        elif verb == "device":
            self.devices.append(rest)
        elif verb == "nvme-bytes":
            self.bytes.append(rest)
        elif verb == "sample":
            self.samples[(self.boot, name)] = Counters(self.process.pid)
        elif verb == "dmesg":
            self.in_dmesg = name == "begin"
        elif verb == "done":
            self.boot += 1
        self.waiting.put(line)

    def wait_for(self, start, seconds):
        """Waits for a "ballast:" line that starts so; False if the guest ends or the time is over before."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                if self.waiting.get(timeout=0.5).startswith(start):
                    return True
            except queue.Empty:
                if self.process.poll() is not None and self.waiting.empty():
                    return False
        return False

    # -- a guest that obeys (run="obey") --

    def send(self, line):
        """One line for its console: a command, or something for one that is under way."""
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def hear(self, start, seconds):
        """The "ballast:" lines up to and with the first that starts so."""
        lines = []
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                lines.append(self.waiting.get(timeout=0.5))
                if lines[-1].startswith(start):
                    return lines
                if lines[-1].startswith(("obeyed", "FAIL")):
                    raise GuestFailed(f"'{lines[-1]}' instead of '{start}'")
            except queue.Empty:
                if self.process.poll() is not None and self.waiting.empty():
                    raise GuestFailed(f"no '{start}', it ended: {self.last_words()}") from None
        # Where it hangs: Ballast prints its registers, and what it exited for.
        self.process.send_signal(signal.SIGUSR1)
        time.sleep(2)
        state = " | ".join(line for line in self.errors[-60:] if re.match(r"I cpu \d+: (rip|\d+ exits)", line))
        raise GuestFailed(f"no '{start}' in {seconds} s: {self.last_words()} | {state}")

    def ask(self, command, seconds=60):
        """Has it do a command, successfully; returns what that answered."""
        self.send(command)
        return self.hear_end(seconds)

    def hear_end(self, seconds=60):
        """Hears a command to its end, which must be a success; returns what it answered."""
        lines = self.hear("obeyed", seconds)
        if lines[-1] != "obeyed 0":
            raise GuestFailed(" | ".join(lines[-3:]))
        return [line.partition(" ")[2] for line in lines[:-1]]

    def wait_for_error(self, part, seconds):
        """Waits for a line of Ballast's log with this in it."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if any(part in line for line in self.errors):
                return True
            time.sleep(0.2)
        return False

    def press_power_button(self):
        self.process.send_signal(signal.SIGTERM)

    def finish(self, seconds):
        """Waits for the end; returns the exit status, or None if it had to be killed."""
        try:
            status = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            status = None
        for thread in self.threads:
            thread.join(10)
        return status

    def last_words(self):
        """A line or two for a failure's text."""
        return " | ".join((self.lines[-2:] + self.errors[-3:])[-4:])


# -- the balloon --------------------------------------------------------------------------------------------------


BALLOON_SECONDS = 60  # more than a balloon rests here while it changes, so that a hang ends


class Balloon:
    """A guest's balloon, by its control socket and the command that people use."""

    def __init__(self, path):
        self.path = path

    def ctl(self, *words):
        """What `ballast ctl` prints."""
        run = subprocess.run([BALLAST, "ctl", *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
                             check=False)
        if run.returncode != 0:
            raise GuestFailed(f"ballast ctl {' '.join(words)}: status {run.returncode}, {run.stderr.strip()}")
        return run.stdout

    def memory(self):
        return self.ask("memory")

    def ask(self, command):
        """What the control socket returns to a command of ctl's."""
        return json.loads(self.ctl("--json", self.path, command))["return"]

    def ask_qmp(self, command, arguments=None):
        """What a command of QMP's returns, over a connection of its own."""
        client = Qmp(self.path)
        try:
            return client.ask(command, arguments)
        finally:
            client.close()

    def wait(self, bytes_held, seconds):
        """Waits until the guest says that so much is in its balloon, or nothing has moved for that long; returns the figures.

        They are those of when the last parts of huge pages have gone to the host, which takes a second.
        """
        actual = None
        while True:
            memory = self.memory()
            if memory["actual"] == bytes_held:
                rests = time.monotonic() + 10
                while memory["policy"] == "direct" and memory["held-back"]["resting"] and time.monotonic() < rests:
                    time.sleep(0.3)
                    memory = self.memory()
                return memory
            if memory["actual"] != actual:
                actual, deadline = memory["actual"], time.monotonic() + seconds
            elif time.monotonic() > deadline:
                raise GuestFailed(f"{bytes_held >> 20} MiB wanted in the balloon, {actual >> 20} for {seconds} s: {memory}")
            time.sleep(0.5)

    def keep(self, size, seconds=BALLOON_SECONDS):
        """The guest is to keep so many bytes; returns what ctl said, and the figures once it does."""
        said = self.ctl(self.path, "balloon", str(size))
        memory = self.memory()
        return said, self.wait(memory["ram"] - size, seconds)


class Qmp:
    """A client of the control socket that stays connected, for the events. QEMU's is alike."""

    def __init__(self, path):
        self.names = []
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(300)
        self.socket.connect(path)
        self.stream = self.socket.makefile("rw")
        self.stream.readline()  # the greeting
        self.stream.write('{"execute": "qmp_capabilities"}\n')
        self.stream.flush()
        self.stream.readline()

    def ask(self, command, arguments=None):
        """What it returns; the names of events that come before that are kept."""
        self.stream.write(json.dumps({"execute": command, **({"arguments": arguments} if arguments else {})}) + "\n")
        self.stream.flush()
        while True:
            line = json.loads(self.stream.readline())
            if "error" in line:
                raise GuestFailed(f"{command}: {line['error']}")
            if "return" in line:
                return line["return"]
            self.names.append(line["event"])

    def events(self):
        """The names of those that have come until now."""
        self.ask("query-status")
        names, self.names = self.names, []
        return names

    def close(self):
        self.stream.close()
        self.socket.close()
