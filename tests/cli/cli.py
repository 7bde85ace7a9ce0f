#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""The ballast command as a user meets it: what it says to wrong input, and what it leaves behind.

    cli.py BALLAST FOLDER-OF-GUESTS [TEST...]

A refusal is one line on stderr that starts with "E ", names the value that is wrong and says
what would be right; exit status 2 if the user gave something wrong, 1 if something of the host
is missing. No file, no process and no terminal mode is left behind.
"""

import fcntl
import json
import os
import pty
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
import unittest
from xml.etree import ElementTree

USAGE = 2
FAILED = 1
TIMEOUT = 20
NOBODY = 65534
MIB = 1 << 20
F_SETPIPE_SZ = 1031

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BALLAST = ""
GUESTS = ""


def kvm_missing():
    try:
        os.close(os.open("/dev/kvm", os.O_RDWR))
    except OSError as e:
        return f"/dev/kvm: {e.strerror}"
    return None


# Runs what follows where /dev is empty. For root.
HIDING_DEV = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /dev && exec "$@"', "sh")


def guest(name):
    return os.path.join(GUESTS, name + ".elf")


# Kernels, made byte by byte so that each is wrong in one way.


def elf(entry=0x100000, note=True, load=None, **changes):
    """An ELF64 of one page with a PVH note; load: (offset, address, file size, memory size)."""
    f = {"elf_class": 2, "machine": 62, "phoff": 64, "phentsize": 56, "name": b"Xen\0"}
    f.update(changes)
    load = load or (4096, 0x100000, 4096, 4096)
    head = struct.pack("<4sBBB9xHHIQQQIHHHHHH", b"\x7fELF", f["elf_class"], 1, 1, 2, f["machine"], 1,
                       entry, f["phoff"], 0, 0, 64, f["phentsize"], 2 if note else 1, 0, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 1, 7, load[0], load[1], load[1], load[2], load[3], 4096)
    notes = struct.pack("<III4sI", 4, 4, 18, f["name"], entry)
    table = struct.pack("<IIQQQQQQ", 4, 4, 512, 0, 0, f.get("note_size", len(notes)), 0, 4)
    return (head + segment + table).ljust(512, b"\0") + notes.ljust(4096 - 512, b"\0") + \
        b"\xf4" * 4096


def bzimage(size=16384, **changes):
    """A bzImage that is all right but for its code; the names are those of boot.rst."""
    fields = {"setup_sects": (0x1f1, "B", 3), "syssize": (0x1f4, "I", (size - 2048) // 16),
              "boot_flag": (0x1fe, "H", 0xaa55), "header": (0x202, "4s", b"HdrS"),
              "version": (0x206, "H", 0x20f), "initrd_addr_max": (0x22c, "I", 0x7fffffff),
              "kernel_alignment": (0x230, "I", 0x200000), "relocatable": (0x234, "B", 1),
              "xloadflags": (0x236, "H", 1), "cmdline_size": (0x238, "I", 2047),
              "pref_address": (0x258, "Q", 0x1000000), "init_size": (0x260, "I", MIB)}
    image = bytearray(size)
    for name, (offset, kind, value) in fields.items():
        struct.pack_into("<" + kind, image, offset, changes.get(name, value))
    return bytes(image)


class CliTest(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="ballast-cli-")
        self.addCleanup(shutil.rmtree, self.folder)
        os.chmod(self.folder, 0o755)
        master, slave = pty.openpty()
        self.master, self.terminal = master, slave
        self.addCleanup(os.close, master)
        self.addCleanup(os.close, slave)

    def path(self, name, content=None):
        path = os.path.join(self.folder, name)
        if content is not None:
            with open(path, "wb") as f:
                f.write(content)
        return path

    def start(self, args, wrapper=(), **kwargs):
        """ballast on our terminal, in a session of its own."""
        streams = {"stdin": self.terminal, "stdout": self.terminal, "stderr": subprocess.PIPE}
        streams.update(kwargs)
        process = subprocess.Popen([*wrapper, BALLAST, *args], cwd=self.folder,
                                   start_new_session=True, **streams)
        self.addCleanup(process.stderr.close)
        self.addCleanup(self.kill, process)
        return process

    def kill(self, process):
        if process.poll() is None:
            process.kill()
            process.wait()

    def output_on_terminal(self):
        ready, _, _ = select.select([self.master], [], [], 0)
        return os.read(self.master, 65536) if ready else b""

    def finish(self, process):
        """Waits for it; what it printed on stderr. None of its session is left."""
        _, err = process.communicate(timeout=TIMEOUT)
        with self.assertRaises(ProcessLookupError, msg="a process is left behind"):
            os.killpg(process.pid, 0)
        return err.decode()

    def timeline(self, *args):
        return subprocess.run([os.path.join(ROOT, "packaging/ballast-timeline"), *args], capture_output=True, timeout=TIMEOUT,
                              text=True, check=False)

    def refused(self, status, args, *words, wrapper=()):
        """Runs `ballast ARGS`, which must be refused in one line that has all the words."""
        files = sorted(os.listdir(self.folder))
        mode = termios.tcgetattr(self.terminal)
        process = self.start(args, wrapper)
        err = self.finish(process)
        with self.subTest(args=[a[:60] for a in args], stderr=err):
            self.assertEqual(process.returncode, status)
            self.assertEqual(err.count("\n"), 1, "one line, please")
            self.assertTrue(err.startswith("E "), "an error starts with E")
            for word in words:
                self.assertIn(word, err)
            self.assertEqual(self.output_on_terminal(), b"")
            self.assertEqual(termios.tcgetattr(self.terminal), mode, "the terminal's mode")
            self.assertEqual(sorted(os.listdir(self.folder)), files, "files are left behind")

    def kernel_refused(self, content, *words, args=()):
        kernel = self.path("kernel", content)
        self.refused(USAGE, ["run", "--kernel", kernel, *args], kernel, *words)


class Options(CliTest):
    def test_commands(self):
        self.refused(USAGE, [], "command", "ballast run", "--help")
        self.refused(USAGE, ["start"], "'start'", "ballast run", "--help")
        self.refused(USAGE, ["run"], "--kernel", "--help")
        self.refused(USAGE, ["run", "--kernel"], "--kernel", "value", "--help")
        self.refused(USAGE, ["run", "--kernel", "k", "--bogus"], "--bogus", "--help")
        self.refused(USAGE, ["run", "--kernel", "k", "--bogus=1"], "--bogus", "--help")
        self.refused(USAGE, ["run", "--kernel", "k", "-x"], "-x", "--help")
        self.refused(USAGE, ["run", "--kernel", "k", "more"], "'more'", "--help")

    def test_missing_values(self):
        for option in ("--initrd", "--cmdline", "--cpus", "--memory", "--device", "--balloon",
                       "--disk", "--qmp", "--experiment", "--serial", "--console", "--on-reset",
                       "--timeout", "--config", "--metrics", "--events", "--trace", "--sandbox", "--user"):
            self.refused(USAGE, ["run", "--kernel", "k", option], option, "value", "--help")

    def test_values(self):
        wrong = {
            "--memory": ["", "0", "-1", "M", "12Q", "1.5G", "64 M", "0x100000", "1M", "5000000",
                         "9T", "16384T", "99999999999999999999", "18446744073709551615",
                         "17592186044416M"],
            "--cpus": ["", "0", "17", "-1", "two", "1K", "4294967297", "99999999999999999999"],
            "--timeout": ["", "0", "-5", "soon", "1s", "31536001", "18446744073709551616"],
            "--serial": ["", "tty", "file", "file=", "unix", "unix=", "stdio=x"],
            "--console": ["", "pty", "hvc0", "file=", "unix:/tmp/x", "stdio,none"],
            "--on-reset": ["", "stop", "reboot", "reset,exit"],
            "--qmp": ["", "unix", "unix:", "tcp:4444", "/tmp/x", "unix=/tmp/x"],
            "--experiment": ["", "unsafe", "unsafe-reclaim,more", "on"],
            "--sandbox": ["", "yes", "on,log"],
            "--user": ["", "no-such-user", "4294967295"],
        }
        right = {"--memory": ("M",), "--cpus": ("1 to 16",), "--timeout": ("1 to 31536000",),
                 "--serial": ("stdio", "none", "file=PATH", "unix=PATH"),
                 "--console": ("stdio", "none", "file=PATH", "unix=PATH"),
                 "--on-reset": ("reset", "exit"), "--qmp": ("unix:PATH",),
                 "--experiment": ("unsafe-reclaim",), "--sandbox": ("on", "off", "log"), "--user": ("no such user",)}
        for option, values in wrong.items():
            for value in values:
                self.refused(USAGE, ["run", "--kernel", "k", option, value], option,
                             f"'{value}'", *right[option])

    def test_memory_keys(self):
        run = ["run", "--kernel", "k", "--memory"]
        self.refused(USAGE, run + ["1G,backing=floppy"], "'floppy'", "anon", "memfd", "hugetlb")
        self.refused(USAGE, run + ["1G,backing="], "--memory", "anon", "memfd", "hugetlb")
        self.refused(USAGE, run + ["1G,colour=red"], "'colour=red'", "backing=")

    def test_devices(self):
        run = ["run", "--kernel", "k"]
        self.refused(USAGE, run + ["--device", ""], "--device")
        self.refused(USAGE, run + ["--device", "0000:01:00.0,,"], "--device")
        many = ",".join(f"0000:01:{i:02x}.0" for i in range(32))
        self.refused(USAGE, run + ["--device", many], "--device", "'0000:01:1f.0'", "31")

    def test_balloon_allowed(self):
        run = ["run", "--kernel", "k", "--device"]
        for key in ("balloon=maybe", "balloon=", "balloon", "colour=red", "balloon=allowed=x"):
            if "=" in key:
                self.refused(USAGE, run + ["0000:01:00.0," + key], "--device", f"'{key}'",
                             "balloon=allowed")
        for value in ("balloon=maybe", "balloon=allowed", "balloon=allowed,01:00.0"):
            self.refused(USAGE, run + [value], "--device", "balloon=allowed")

    def test_balloon_keys(self):
        run = ["run", "--kernel", "k", "--memory", "256M", "--balloon"]
        for value in ("", "off", "yes", "on,", "colour=red", "stats", "initial", "reporting",
                      "stats=5,,reporting=on", "on,colour=red", "=", "=on"):
            self.refused(USAGE, run + [value], "--balloon", "initial=SIZE", "stats=SECONDS",
                         "reporting=on", "deflate-on-oom=on")
        for value in ("", "-1", "soon", "1K", "31536001", "18446744073709551616"):
            self.refused(USAGE, run + ["stats=" + value], "--balloon", f"'{value}'", "31536000")
        for key in ("reporting", "deflate-on-oom"):
            for value in ("", "yes", "1", "ON"):
                self.refused(USAGE, run + [f"{key}={value}"], "--balloon", key, f"'{value}'",
                             "one of: off on")
        for value in ("", "M", "-1", "12Q", "99999999999999999999"):
            self.refused(USAGE, run + ["initial=" + value], "--balloon", f"'{value}'", "M")
        for value in ("63M", "1", "257M", "1T"):
            self.refused(USAGE, run + ["initial=" + value], "--balloon", "initial=", "64M", "256M")
        # However small the guest, it may keep all it has, and no less.
        small = ["run", "--kernel", "k", "--memory", "32M", "--balloon"]
        self.refused(USAGE, small + ["initial=31M"], "--balloon", "initial=", "32M")

    def test_two_on_one_terminal(self):
        self.refused(USAGE, ["run", "--kernel", "k", "--serial", "stdio", "--console", "stdio"],
                     "--serial stdio", "--console stdio", "only one")

    def test_balloon_reporting_and_hugetlb(self):
        self.refused(USAGE, ["run", "--kernel", "k", "--memory", "64M,backing=hugetlb", "--balloon",
                             "reporting=on"], "--balloon", "reporting", "hugetlb")

    def test_disk_keys(self):
        run = ["run", "--kernel", "k", "--disk"]
        for value in ("", "/a.img", "path=", "path", "path=a,colour=red", "path=a,b", "on"):
            self.refused(USAGE, run + [value], "--disk", "path=FILE", "comma", "readonly=on",
                         "direct=on", "serial=TEXT")
        self.refused(USAGE, run + ["readonly=on"], "--disk", "path=FILE")
        for key in ("readonly", "direct"):
            for value in ("", "yes", "1", "ON"):
                self.refused(USAGE, run + [f"path=a,{key}={value}"], "--disk", key, f"'{value}'",
                             "one of: off on")
        for value in ("", "x" * 21, "two words", "\x01", "\u00fc"):
            self.refused(USAGE, run + [f"path=a,serial={value}"], "--disk", "serial=", "1 to 20")
        self.refused(USAGE, ["run", "--kernel", "k"] + 17 * ["--disk", "path=a"], "--disk", "16")

    def test_net(self):
        run = ["run", "--kernel", "k", "--net"]
        for value in ("", "user", "tap", "passt=", "mac=02:00:00:00:00:01"):
            self.refused(USAGE, run + [value], "--net", "tap=NAME", "fd=N", "passt")
        for mac in ("", "02:00:00:00:00", "02:00:00:00:00:0g", "00:00:00:00:00:00"):
            self.refused(USAGE, run + ["passt,mac=" + mac], "--net", f"'{mac}'", "02:00:00:12:34:56")
        self.refused(USAGE, run + ["passt,mac=03:00:00:00:00:01"], "--net", "even")
        self.refused(USAGE, run + ["tap=" + "x" * 16], "--net", "x" * 16, "15")
        self.refused(USAGE, run + ["tap=t,queues=17"], "--net", "'17'", "16")
        self.refused(USAGE, run + ["tap=t,vhost=yes"], "--net", "'yes'", "auto")
        self.refused(USAGE, run + ["passt,queues=2"], "--net", "queues=2", "tap=NAME")
        self.refused(USAGE, run + ["tap=t,model=e1000"], "--net", "'model'", "mac=")

    def test_help_fits_one_screen(self):
        for args in (["--help"], ["-h"], ["help"], ["run", "--help"]):
            r = subprocess.run([BALLAST, *args], capture_output=True, timeout=TIMEOUT, text=True)
            self.assertEqual((r.returncode, r.stderr), (0, ""))
            lines = r.stdout.splitlines()
            self.assertLessEqual(len(lines), 40)
            for line in lines:
                self.assertLessEqual(len(line.expandtabs()), 80, line)
            for option in ("--kernel", "--initrd", "--cmdline", "--cpus", "--memory", "--device",
                           "--balloon", "--disk", "--net", "--qmp", "--experiment", "--serial",
                           "--console", "--on-reset", "--timeout", "--exit-port", "--version",
                           "--config", "--print-config", "--metrics", "--events", "--trace", "ballast ctl",
                           "ballast doctor|bind|unbind"):
                self.assertIn(option, r.stdout)

    def test_config_file(self):
        config = self.path("vm.json")
        for content, words in (
                ("", ("line 1", "expected")),
                ('{"kernel": "k",}', ("line 1",)),
                ("[]", ("JSON object",)),
                ('{"kernel": "k", "memroy": "1G"}', ("'memroy'", "options of ballast run")),
                ('{"kernel": "k", "memory": "lots"}', ("--memory", "'lots'", "512M")),
                ('{"kernel": "k", "cpus": 17}', ("--cpus", "'17'", "1 to 16")),
                ('{"kernel": "k", "cpus": {}}', ("'cpus'", "{}", "a number")),
                ('{"kernel": ["k"]}', ("'kernel'", '["k"]', "a string")),
                ('{"kernel": "k", "disk": {"path": "a,b"}}', ("disk", "'a,b'", "comma")),
                ('{"kernel": "k", "exit-port": 1}', ("'exit-port'", "value 1", "true or false")),
                ('{"kernel": "k", "config": "more"}', ("'config'", "command line"))):
            self.path("vm.json", content.encode())
            self.refused(USAGE, ["run", "--config", config], f"'{config}'", *words)
        self.refused(USAGE, ["run", "--config", self.path("no")], f"'{self.path('no')}'", "No such file")
        self.refused(USAGE, ["run", "--config", self.folder], f"'{self.folder}'", "directory")

    def print_config(self, *args):
        r = subprocess.run([BALLAST, "run", *args, "--print-config"], capture_output=True,
                           timeout=TIMEOUT, text=True, check=False)
        self.assertEqual((r.returncode, r.stderr), (0, ""))
        return r.stdout

    def test_figures_that_cannot_be_written(self):
        run = ["run", "--kernel", self.path("kernel", elf())]
        nowhere = self.path("no/such/folder")
        for option in ("--metrics", "--events", "--trace"):
            self.refused(FAILED, run + [option, nowhere], option, f"'{nowhere}'", "No such file")
        self.refused(USAGE, run + ["--metrics", self.folder], f"'{self.folder}'", "no regular file")
        self.refused(FAILED, run + ["--events", self.folder], f"'{self.folder}'", "directory")
        fifo = self.path("fifo")
        os.mkfifo(fifo)
        self.refused(FAILED, run + ["--events", fifo], f"'{fifo}'", "nobody reads")
        self.refused(USAGE, run + ["--trace", fifo], f"'{fifo}'", "no regular file")

    def test_what_is_no_trace_has_no_timeline(self):
        for file, words in ((self.path("text", b"no trace"), "this is no trace"), (self.path("none"), "No such file"),
                            (self.path("short", b"BALLTRC\0" + b"\1" * 100), "cut short")):
            r = self.timeline(file)
            self.assertEqual((r.returncode, r.stdout), (1, ""))
            self.assertIn(words, r.stderr)
            self.assertIn(file, r.stderr)
            self.assertEqual(r.stderr.count("\n"), 1)
        self.assertIn("usage: ballast-timeline", self.timeline("--help").stdout)

    def test_steps_are_static_probes(self):
        if not os.path.exists("/usr/include/x86_64-linux-gnu/sys/sdt.h") and not os.path.exists("/usr/include/sys/sdt.h"):
            self.skipTest("no <sys/sdt.h>")
        notes = subprocess.run(["readelf", "-n", BALLAST], capture_output=True, timeout=TIMEOUT, text=True, check=True).stdout
        names = {line.split()[1] for line in notes.splitlines() if line.strip().startswith("Name: ")}
        self.assertIn("Provider: ballast", notes)
        for name in ("ram_discard", "ram_populate", "vfio_map_dma", "vfio_unmap_dma", "reclaim_take", "reclaim_give_back",
                     "attach_device", "handle_exit", "inhibitor_raise"):
            self.assertIn(name, names)

    def test_printed_config_is_read_again(self):
        text = self.print_config("--kernel", "k", "--memory", "1G,backing=memfd", "--disk",
                                 "path=a,readonly=on", "--disk", "path=b", "--balloon", "stats=5",
                                 "--net", "passt", "--serial", "file=/tmp/x")
        config = json.loads(text)
        self.assertEqual(config["memory"], {"size": "1G", "backing": "memfd"})
        self.assertEqual(config["disk"], [{"path": "a", "readonly": True}, {"path": "b"}])
        self.assertEqual(config["cpus"], 1)
        path = self.path("vm.json", text.encode())
        self.assertEqual(self.print_config("--config", path), text)
        changed = json.loads(self.print_config("--cpus", "2", "--disk", "path=c", "--config", path))
        self.assertEqual(changed["cpus"], 2)
        self.assertEqual([d["path"] for d in changed["disk"]], ["a", "b", "c"])

    def test_completion(self):
        for shell in ("bash", "zsh"):
            r = subprocess.run([BALLAST, "--completion", shell], capture_output=True,
                               timeout=TIMEOUT, text=True, check=False)
            self.assertEqual((r.returncode, r.stderr), (0, ""))
            self.assertIn("--kernel", r.stdout)
        self.refused(USAGE, ["--completion", "fish"], "'fish'", "bash or zsh")

    def complete(self, line):
        """What bash offers at the end of a line, once it has read our completion."""
        script = f"""source <({BALLAST} --completion bash)
            COMP_LINE={line!r} COMP_POINT={len(line)} words=({line})
            [[ $COMP_LINE != *' ' ]] || words+=('')
            COMP_WORDS=("${{words[@]}}") COMP_CWORD=$((${{#words[@]}} - 1))
            _ballast; printf '%s\n' "${{COMPREPLY[@]}}"
            """
        r = subprocess.run(["bash", "-c", script], capture_output=True, timeout=TIMEOUT, text=True,
                           cwd=self.folder, check=False)
        self.assertEqual((r.returncode, r.stderr), (0, ""))
        return r.stdout.split()

    def test_bash_completes(self):
        self.path("vmlinuz", b"")
        self.assertEqual(self.complete("ballast ru"), ["run"])
        self.assertEqual(self.complete("ballast ctl vm"), ["vmlinuz"])
        self.assertEqual(self.complete("ballast ctl vmlinuz st"), ["status", "stats", "stop"])
        self.assertEqual(self.complete("ballast ctl --json vmlinuz sto"), ["stop"])
        self.assertEqual(self.complete("ballast ctl vmlinuz policy "), ["inhibit", "coordinated"])
        self.assertEqual(self.complete("ballast ctl vmlinuz link "), [])
        self.assertEqual(self.complete("ballast ctl a=b link net0 o"), ["on", "off"])
        self.assertEqual(self.complete("ballast ctl vmlinuz stop "), [])
        self.assertEqual(self.complete("ballast ctl vmlinuz auto on "), [])
        self.assertEqual(self.complete("ballast run --ker"), ["--kernel"])
        self.assertEqual(self.complete("ballast run --kernel vm"), ["vmlinuz"])
        self.assertEqual(self.complete("ballast run --cmdline "), [])
        self.assertEqual(self.complete("ballast run --on-reset "), ["reset", "exit"])
        self.assertEqual(self.complete("ballast run --on-reset e"), ["exit"])
        self.assertEqual(self.complete("ballast run --serial f"), ["file="])
        # What follows a = is a word of its own to bash.
        self.assertEqual(self.complete("ballast run --serial file=vm"), ["vmlinuz"])
        self.assertEqual(self.complete("ballast run --disk pa"), ["path="])
        self.assertEqual(self.complete("ballast run --disk path=vm"), ["vmlinuz"])
        self.assertEqual(self.complete("ballast run --disk path=a,rea"), ["a,readonly=on"])
        self.assertEqual(self.complete("ballast run --balloon on,policy=c"), ["coordinated"])
        self.assertEqual(self.complete("ballast run --kernel k --experiment "), ["unsafe-reclaim"])
        devices = sorted(os.listdir("/sys/bus/pci/devices"))
        self.assertEqual(self.complete("ballast bind "), ["--force", "--help", *devices])
        self.assertEqual(self.complete("ballast ctl vmlinuz attach "), devices)
        self.assertEqual(self.complete("ballast unbind --"), ["--help"])
        self.assertEqual(self.complete("ballast doctor --m"), ["--memory"])
        self.assertEqual(self.complete("ballast doctor --memory "), [])
        for bdf in devices[:1]:  # what follows a : likewise
            self.assertEqual(self.complete(f"ballast bind --force {bdf[:-1]}"),
                             [d.split(":")[-1] for d in devices if d.startswith(bdf[:-1])])

    def test_version(self):
        r = subprocess.run([BALLAST, "--version"], capture_output=True, timeout=TIMEOUT, text=True)
        self.assertEqual((r.returncode, r.stderr), (0, ""))
        self.assertRegex(r.stdout, r"^ballast \d+\.\d+\.\d+\n$")


class HostSetup(CliTest):
    """ballast doctor, bind and unbind, as far as they get without a device to take."""

    def test_usage(self):
        for command in ("bind", "unbind"):
            self.refused(USAGE, [command], command, f"ballast {command} 0000:01:00.0", "--help")
            self.refused(USAGE, [command, "--colour", "01:00.0"], command, "'--colour'", "--help")
            self.refused(USAGE, [command, "-x"], command, "'-x'", "--help")
        self.refused(USAGE, ["unbind", "--force", "01:00.0"], "'--force'", "--help")
        self.refused(USAGE, ["unbind", "eth0"], "'eth0'", "0000:01:00.0")
        for size in ("", "0", "lots", "1K", "9T"):
            self.refused(USAGE, ["doctor", "--memory", size], "--memory", f"'{size}'", "M")
            self.refused(USAGE, ["doctor", f"--memory={size}"], "--memory", f"'{size}'", "M")
        self.refused(USAGE, ["doctor", "--memory"], "--memory", "M")
        self.refused(USAGE, ["doctor", "--yaml"], "'--yaml'", "--json", "--memory", "--help")
        self.refused(USAGE, ["doctor", "eth0"], "'eth0'", "0000:01:00.0")
        self.refused(USAGE, ["doctor", "01:00.0", "0000:01:00.0"], "'0000:01:00.0'", "once")
        self.refused(USAGE, ["doctor", *(f"01:{i:02x}.0" for i in range(32))], "'01:1f.0'", "31")

    def test_help(self):
        for command, words in (("doctor", ("--json", "--memory SIZE", "BDF")),
                               ("bind", ("--force", "BDF", "/run/ballast/bind", "modprobe vfio-pci")),
                               ("unbind", ("BDF", "driver_override"))):
            for option in ("--help", "-h"):
                r = subprocess.run([BALLAST, command, option], capture_output=True, timeout=TIMEOUT,
                                   text=True)
                self.assertEqual((r.returncode, r.stderr), (0, ""))
                for line in r.stdout.splitlines():
                    self.assertLessEqual(len(line), 80, line)
                for word in (f"Usage: ballast {command}", *words):
                    self.assertIn(word, r.stdout)

    def test_output_that_cannot_be_written(self):
        for args in (["doctor"], ["doctor", "--help"], ["bind", "--help"], ["unbind", "--help"],
                     ["run", "--kernel", "k", "--print-config"]):
            with open("/dev/full", "wb") as full, self.subTest(args=args):
                r = subprocess.run([BALLAST, *args], stdout=full, stderr=subprocess.PIPE, timeout=TIMEOUT,
                                   text=True, check=False)
                self.assertEqual(r.returncode, FAILED)
                self.assertRegex(r.stderr, r"^E .*(standard output|--print-config): .*\n$")

    def test_nobody_has_bound_it(self):
        for bdf in sorted(os.listdir("/sys/bus/pci/devices"))[:1]:
            self.refused(FAILED, ["unbind", bdf], bdf, "not by ballast bind" if os.path.exists(
                f"/sys/bus/pci/drivers/vfio-pci/{bdf}") else "not bound by ballast bind")
        self.refused(USAGE, ["unbind", "ffff:ff:1f.7"], "ffff:ff:1f.7", "lspci -D")

    def doctor(self, *args, wrapper=()):
        """The exit status, and what it says."""
        r = subprocess.run([*wrapper, BALLAST, "doctor", *args], capture_output=True, timeout=TIMEOUT, text=True)
        self.assertEqual(r.stderr, "")
        return r.returncode, r.stdout

    def test_doctor(self):
        """Whatever this host is: both outputs, and the exit status, say the same of it."""
        for args in ([], ["ffff:ff:1f.7"], ["--memory", "7T"]):
            status, text = self.doctor(*args)
            json_status, document = self.doctor("--json", *args)
            document = json.loads(document)
            self.assertEqual(status, json_status)
            self.assertEqual(status, 0 if document["starts"] else 1)
            self.assertEqual(document["problems"], text.count("\nproblem ") + text.startswith("problem "))
            for check in document["checks"]:
                self.assertIn(f"{check['subject']} {check['check']}: ", text)
                if check["status"] != "ok":
                    self.assertTrue(check["remedy"])
        status, text = self.doctor("ffff:ff:1f.7")
        self.assertEqual(status, 1)
        self.assertIn("problem  ffff:ff:1f.7 device: not on this host", text)

    def test_doctor_without_kvm(self):
        hidden = () if kvm_missing() else HIDING_DEV
        if hidden and subprocess.run([*hidden, "true"], capture_output=True, check=False).returncode != 0:
            self.skipTest("mounts are not allowed here, to hide /dev/kvm")
        status, text = self.doctor(wrapper=hidden)
        self.assertEqual(status, 1)
        self.assertRegex(text, r"problem  host kvm: .*/dev/kvm.*\n +-> .*(modprobe|usermod)")


class Control(CliTest):
    """ballast ctl, as far as it gets without a guest."""

    def test_usage(self):
        path = self.path("nobody")
        self.refused(USAGE, ["ctl"], "ctl", "ballast ctl SOCKET COMMAND", "--help")
        self.refused(USAGE, ["ctl", path], "ctl", "ballast ctl SOCKET COMMAND", "--help")
        for command in ("", "explode", "BALLOON", "query-balloon"):
            self.refused(USAGE, ["ctl", path, command], f"'{command}'", "balloon", "memory", "stats",
                         "powerdown", "quit")
        for command in ("status", "memory", "stats", "stop", "cont", "reset", "powerdown", "quit"):
            self.refused(USAGE, ["ctl", path, command, "more"], command, "'more'")
        self.refused(USAGE, ["ctl", path, "balloon", "1G", "more"], "balloon", "'more'")
        self.refused(USAGE, ["ctl", path, "balloon"], "balloon", "512M")
        for size in ("", "0", "M", "1.5G", "64 M", "12Q", "8388608T", "99999999999999999999"):
            self.refused(USAGE, ["ctl", path, "balloon", size], f"'{size}'", "512M")
        for option in ("--yaml", "-x", "-1G"):
            self.refused(USAGE, ["ctl", option, path, "memory"], f"'{option}'", "--json", "--help")
            self.refused(USAGE, ["ctl", path, "memory", option], f"'{option}'", "--json", "--help")

    def test_help(self):
        for args in (["ctl", "--help"], ["ctl", "-h"], ["ctl", "x", "y", "z", "--help"]):
            r = subprocess.run([BALLAST, *args], capture_output=True, timeout=TIMEOUT, text=True)
            self.assertEqual((r.returncode, r.stderr), (0, ""))
            for word in ("balloon SIZE", "memory", "stats", "powerdown", "quit", "--json"):
                self.assertIn(word, r.stdout)

    def test_nobody_listens(self):
        for option in ([], ["--json"]):
            self.refused(FAILED, ["ctl", *option, self.path("nobody"), "memory"],
                         f"'{self.path('nobody')}'", "nobody listens", "--qmp")
        with socket.socket(socket.AF_UNIX) as s:
            s.bind(self.path("dead"))
        self.refused(FAILED, ["ctl", self.path("dead"), "quit"], f"'{self.path('dead')}'",
                     "nobody listens")
        plain = self.path("notes", b"dear diary")
        self.refused(FAILED, ["ctl", plain, "memory"], f"'{plain}'")
        self.refused(FAILED, ["ctl", self.folder, "memory"], f"'{self.folder}'")
        self.refused(FAILED, ["ctl", self.path("x" * 200), "memory"], "x" * 200)
        self.refused(FAILED, ["ctl", "", "memory"], "''")

    @unittest.skipIf(os.getuid() != 0, "needs root, to become somebody else")
    def test_the_socket_is_somebody_elses(self):
        path = self.path("roots")
        with socket.socket(socket.AF_UNIX) as s:
            s.bind(path)
            s.listen()
            os.chmod(path, 0o600)
            self.refused(FAILED, ["ctl", path, "status"], f"'{path}'", "another user's", "or root",
                         wrapper=somebody_else(self))

    def peer(self, answer):
        """Somebody who listens, but is no ballast: sends this, and hangs up."""
        path = self.path("peer")
        listener = socket.socket(socket.AF_UNIX)
        self.addCleanup(listener.close)
        listener.bind(path)
        listener.listen()

        def serve():
            with listener.accept()[0] as client:
                client.sendall(answer)
                client.shutdown(socket.SHUT_WR)
                while client.recv(4096):
                    pass

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        self.addCleanup(thread.join)
        return path

    def test_listener_that_is_another_program(self):
        for answer, *words in ((b"", "hung up"), (b"SSH-2.0-OpenSSH\r\n", "does not speak QMP"),
                               (b"[1, 2]\n", "does not speak QMP"), (b"{\"QMP\": {}}\n", "hung up"),
                               (b"{\"error\": {\"desc\": \"too many\"}}\n", "too many"),
                               (b"\xff\xfe\0\n" * 100, "does not speak QMP")):
            path = self.peer(answer)
            self.refused(FAILED, ["ctl", path, "memory"], f"'{path}'", *words)
            os.unlink(path)


class Files(CliTest):
    """What can be told without /dev/kvm."""

    def test_kernel_and_initrd(self):
        empty = self.path("empty", b"")
        good = self.path("good", elf())
        missing = self.path("missing")
        fifo = self.path("fifo")
        os.mkfifo(fifo)
        for option, rest in (("--kernel", []), ("--initrd", ["--kernel", good])):
            what = option[2:]
            self.refused(USAGE, ["run", *rest, option, missing], what, f"'{missing}'", "No such file")
            self.refused(USAGE, ["run", *rest, option, ""], what, "''")
            self.refused(USAGE, ["run", *rest, option, empty], what, f"'{empty}'", "empty")
            for odd in (self.folder, fifo, "/dev/zero"):
                self.refused(USAGE, ["run", *rest, option, odd], what, f"'{odd}'", "regular file")

    @unittest.skipIf(os.getuid() != 0, "needs root, to become somebody else")
    def test_unreadable_kernel(self):
        kernel = self.path("kernel", elf())
        os.chmod(kernel, 0o600)
        self.refused(USAGE, ["run", "--kernel", kernel], f"'{kernel}'", "Permission denied",
                     wrapper=somebody_else(self))


def somebody_else(test):
    """A wrapper that runs ballast as nobody, from a place that nobody can reach."""
    copy = test.path("ballast")
    shutil.copy(BALLAST, copy)
    # The copy is named by $0, what was to be run is dropped.
    return ("setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups", "sh", "-c",
            'shift; exec "$0" "$@"', copy)


@unittest.skipIf(kvm_missing(), kvm_missing())
class Kernels(CliTest):
    """Kernels are looked into only once there is a machine to put them in."""

    def test_no_kernel_at_all(self):
        self.kernel_refused(b"x", "neither a bzImage nor an ELF")
        self.kernel_refused(bytes(range(256)) * 64, "neither a bzImage nor an ELF")
        self.kernel_refused(b"\x7fELF", "neither a bzImage nor an ELF")
        self.kernel_refused(bzimage(header=b"hdrS"), "neither a bzImage nor an ELF")
        self.kernel_refused(bzimage(boot_flag=0x55aa), "neither a bzImage nor an ELF")

    def test_damaged_elf(self):
        self.kernel_refused(elf(note=False), "PVH", "CONFIG_PVH=y", "bzImage")
        self.kernel_refused(elf(name=b"Zen\0"), "PVH", "CONFIG_PVH=y", "bzImage")
        self.kernel_refused(elf(note_size=8), "PVH", "CONFIG_PVH=y", "bzImage")
        self.kernel_refused(elf(note_size=1 << 40), "PVH", "CONFIG_PVH=y", "bzImage")
        self.kernel_refused(elf(elf_class=1), "for x86")
        self.kernel_refused(elf(machine=3), "for x86")
        self.kernel_refused(elf(phentsize=32), "for x86")
        self.kernel_refused(elf()[:100], "truncated")
        self.kernel_refused(elf()[:6000], "truncated")
        self.kernel_refused(elf(phoff=1 << 20), "truncated")
        self.kernel_refused(elf(phoff=(1 << 64) - 8), "truncated")

    def test_elf_segments_out_of_place(self):
        self.kernel_refused(elf(load=(4096, 0x1000, 4096, 4096)), "0x1000", "1 MiB")
        self.kernel_refused(elf(load=(4096, 1 << 20, 4096, 100)), "0x100000")
        self.kernel_refused(elf(load=(4096, (1 << 64) - 4096, 4096, 8192)), "1 MiB")
        self.kernel_refused(elf(load=(4096, 1 << 20, 4096, 1 << 62)), "--memory")
        self.kernel_refused(elf(load=(4096, 600 * MIB, 4096, 4096)), "--memory")
        self.kernel_refused(elf(load=(4096, (1 << 32) + MIB, 4096, 4096)), "--memory",
                            args=["--memory", "5G"])

    def test_damaged_bzimage(self):
        self.kernel_refused(bzimage(version=0x204), "2.04", "64-bit")
        self.kernel_refused(bzimage(xloadflags=0), "64-bit")
        self.kernel_refused(bzimage()[:8192], "truncated", "8192", "16384")
        self.kernel_refused(bzimage(syssize=0xffffffff), "truncated")
        self.kernel_refused(bzimage(setup_sects=200), "truncated")
        self.kernel_refused(bzimage(init_size=0), "damaged")
        self.kernel_refused(bzimage(pref_address=0, relocatable=0), "damaged")
        self.kernel_refused(bzimage(pref_address=(1 << 64) - 4096, relocatable=0), "damaged")
        self.kernel_refused(bzimage(init_size=0x7ffff000), "--memory")
        self.kernel_refused(bzimage(pref_address=1 << 40, relocatable=0), "--memory")
        self.kernel_refused(bzimage(pref_address=1 << 40, kernel_alignment=0), "--memory")
        self.refused(USAGE, ["run", "--kernel", self.path("kernel", bzimage(cmdline_size=4))],
                     "--cmdline", "4")

    def test_too_large(self):
        kernel = self.path("kernel", elf())
        initrd = self.path("initrd", b"")
        os.truncate(initrd, 100 * MIB)
        self.refused(USAGE, ["run", "--kernel", kernel, "--initrd", initrd, "--memory", "64M"],
                     f"'{initrd}'", "102400 KiB", "--memory")
        image = self.path("bzimage", bzimage(initrd_addr_max=0))
        self.refused(USAGE, ["run", "--kernel", image, "--initrd", initrd], f"'{initrd}'")
        self.refused(USAGE, ["run", "--kernel", kernel, "--cmdline", "x" * 70000], "--cmdline", "70000")

    def test_sparse_kernel_larger_than_memory(self):
        kernel = self.path("kernel", bzimage())
        os.truncate(kernel, 1 << 32)
        self.refused(USAGE, ["run", "--kernel", kernel, "--memory", "128M"], f"'{kernel}'", "--memory")


@unittest.skipIf(kvm_missing(), kvm_missing())
class Host(CliTest):
    """Things that this machine has or has not."""

    def run_args(self, *more):
        return ["run", "--kernel", self.path("kernel", elf()), *more]

    def test_memory_that_no_host_has(self):
        self.refused(FAILED, self.run_args("--memory", "500G,backing=hugetlb"), "--memory",
                     "nr_hugepages")

    def test_hugetlb_of_odd_size(self):
        self.refused(USAGE, self.run_args("--memory", "5M,backing=hugetlb"), "--memory", "2M")

    def test_unknown_devices(self):
        self.refused(USAGE, self.run_args("--device", "0000:ff:1f.7"), "0000:ff:1f.7", "lspci")
        self.refused(USAGE, self.run_args("--device", "ff:1f.7"), "ff:1f.7", "lspci")
        for name in ("eth0", "0000:01:00", "01:00.8", "0000:01:20.0", "../../etc", "0000:01:00.0x",
                     "/sys/bus/pci/devices", "10000:01:00.00", "gggg:01:00.0"):
            self.refused(USAGE, self.run_args("--device", name), name, "0000:01:00.0")

    def test_socket_is_taken_back(self):
        self.refused(USAGE, self.run_args("--serial", "unix=" + self.path("serial"), "--device",
                                          "0000:ff:1f.7"), "0000:ff:1f.7")
        self.refused(USAGE, ["run", "--kernel", self.path("k", b"x"), "--serial",
                             "unix=" + self.path("serial")], "neither")

    def test_disks(self):
        def refused(disk, *words):
            self.refused(USAGE, self.run_args("--disk", "path=" + disk), *words)

        nowhere = self.path("no.img")
        refused(nowhere, f"'{nowhere}'", "No such file")
        refused(self.folder, f"'{self.folder}'", "neither a file nor a block device")
        refused("/dev/null", "'/dev/null'", "neither a file nor a block device")
        image = self.path("disk.img", b"x" * 4096)
        with open(image, "r+b") as f:
            lock = struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0)
            fcntl.fcntl(f, 37, lock)  # F_OFD_SETLK
            refused(image, f"'{image}'", "in use", "readonly=on")
            refused(image + ",readonly=on", f"'{image}'", "in use")
        with open(image, "rb") as f:
            self.assertEqual(f.read(), b"x" * 4096)
        self.refused(USAGE, self.run_args("--disk", "path=" + image, "--disk", "path=" + image),
                     f"'{image}'", "in use")

    @unittest.skipUnless(os.geteuid() == 0 and shutil.which("setpriv"), "needs root and setpriv")
    def test_disk_that_may_not_be_written(self):
        image = self.path("disk.img", b"x" * 4096)
        os.chmod(image, 0o444)
        self.refused(USAGE, self.run_args("--disk", "path=" + image), f"'{image}'", "readonly=on",
                     wrapper=["setpriv", "--bounding-set=-dac_override", "--inh-caps=-all"])

    def test_qmp_paths(self):
        def args(path):
            return self.run_args("--balloon", "on", "--qmp", "unix:" + path)

        long = self.path("x" * 200)
        self.refused(USAGE, args(long), "qmp", f"'{long}'", "107")
        nowhere = self.path("no/such/folder")
        self.refused(FAILED, args(nowhere), "qmp", f"'{nowhere}'", "No such file")
        plain = self.path("notes", b"dear diary")
        self.refused(FAILED, args(plain), "qmp", f"'{plain}'", "no socket")
        with open(plain, "rb") as f:
            self.assertEqual(f.read(), b"dear diary")
        self.refused(FAILED, args(self.folder), "qmp", f"'{self.folder}'", "no socket")
        with socket.socket(socket.AF_UNIX) as s:
            s.bind(self.path("taken"))
            s.listen()
            self.refused(FAILED, args(self.path("taken")), "qmp", f"'{self.path('taken')}'",
                         "another path")
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(self.path("taken"))  # it is still the other program's

    def test_qmp_socket_is_taken_back(self):
        """What fails after it was made: the kernel is looked into last."""
        self.refused(USAGE, ["run", "--kernel", self.path("k", b"x"), "--balloon", "on", "--qmp",
                             "unix:" + self.path("qmp")], "neither")

    def test_balloon_allowed_is_for_mdevs(self):
        """Refused before its driver is looked at, and so with any PCI device."""
        found = self.pci_devices()
        if not found:
            self.skipTest("no PCI device on this machine")
        for more in ([], ["--balloon", "on"]):
            self.refused(USAGE, self.run_args("--device", found[0] + ",balloon=allowed", *more),
                         found[0], "balloon=allowed", "mdev")

    def pci_devices(self):
        folder = "/sys/bus/pci/devices"
        return sorted(os.listdir(folder)) if os.path.isdir(folder) else []

    def driver(self, bdf):
        link = f"/sys/bus/pci/devices/{bdf}/driver"
        return os.path.basename(os.readlink(link)) if os.path.islink(link) else None

    def test_device_with_a_driver(self):
        """Nothing is done to the device: it is refused before its group is looked for."""
        found = [d for d in self.pci_devices() if self.driver(d) not in (None, "vfio-pci")]
        if not found:
            self.skipTest("no PCI device with a driver on this machine")
        bdf, driver = found[0], self.driver(found[0])
        self.refused(FAILED, self.run_args("--device", bdf), bdf, driver, "vfio-pci", "ballast bind " + bdf)
        self.refused(FAILED, self.run_args("--device", bdf[5:]), bdf, driver)
        self.refused(FAILED, self.run_args("--device", "/sys/bus/pci/devices/" + bdf), bdf, driver)
        self.assertEqual(self.driver(bdf), driver)

    def test_device_without_a_driver(self):
        found = [d for d in self.pci_devices() if self.driver(d) is None]
        if not found:
            self.skipTest("no PCI device without a driver on this machine")
        self.refused(FAILED, self.run_args("--device", found[0]), found[0], "no driver",
                     "ballast bind " + found[0])

    def test_device_without_iommu_group(self):
        found = [d for d in self.pci_devices() if self.driver(d) == "vfio-pci" and
                 not os.path.exists(f"/sys/bus/pci/devices/{d}/iommu_group")]
        if not found:
            self.skipTest("no PCI device of this machine is bound to vfio-pci without a group")
        self.refused(FAILED, self.run_args("--device", found[0]), found[0], "IOMMU")

    def test_serial_paths(self):
        long = self.path("x" * 200)
        self.refused(USAGE, self.run_args("--serial", "unix=" + long), long, "107")
        nowhere = self.path("no/such/folder")
        self.refused(FAILED, self.run_args("--serial", "unix=" + nowhere), f"'{nowhere}'", "No such file")
        self.refused(FAILED, self.run_args("--serial", "file=" + nowhere), f"'{nowhere}'", "No such file")
        self.refused(FAILED, self.run_args("--serial", "file=" + self.folder), f"'{self.folder}'",
                     "directory")

    def test_console_paths(self):
        long = self.path("x" * 200)
        self.refused(USAGE, self.run_args("--console", "unix=" + long), "--console", long, "107")
        nowhere = self.path("no/such/folder")
        self.refused(FAILED, self.run_args("--console", "file=" + nowhere), "--console",
                     f"'{nowhere}'", "No such file")
        path = self.path("both")
        self.refused(FAILED, self.run_args("--serial", "unix=" + path, "--console", "unix=" + path),
                     "--console", f"'{path}'", "in use")
        self.assertFalse(os.path.exists(path), "the socket is left behind")

    def test_serial_socket_in_use(self):
        path = self.path("serial")
        with socket.socket(socket.AF_UNIX) as s:
            s.bind(path)
            s.listen()
            self.refused(FAILED, self.run_args("--serial", "unix=" + path), f"'{path}'", "in use",
                         "another program")
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(path)  # it is still the other program's
        plain = self.path("notes", b"dear diary")
        self.refused(FAILED, self.run_args("--serial", "unix=" + plain), f"'{plain}'")
        with open(plain, "rb") as f:
            self.assertEqual(f.read(), b"dear diary")


@unittest.skipIf(os.getuid() != 0, "needs root, to hide /dev/kvm and to become somebody else")
class NoKvm(CliTest):
    def test_no_dev_kvm(self):
        if subprocess.run([*HIDING_DEV, "true"], capture_output=True, check=False).returncode != 0:
            self.skipTest("mounts are not allowed here")
        self.refused(FAILED, ["run", "--kernel", self.path("kernel", elf())], "/dev/kvm", "kvm_intel",
                     "kvm_amd", "firmware", wrapper=HIDING_DEV)

    @unittest.skipIf(kvm_missing(), kvm_missing())
    def test_no_permission(self):
        if os.stat("/dev/kvm").st_mode & 0o006 == 0o006:
            self.skipTest("/dev/kvm is open to everybody here")
        self.refused(FAILED, ["run", "--kernel", self.path("kernel", elf())], "/dev/kvm",
                     "Permission denied", "usermod -aG", wrapper=somebody_else(self))


@unittest.skipIf(kvm_missing(), kvm_missing())
class Running(CliTest):
    """A guest is there: the terminal, the signals, and what is left when it ends."""

    HANG = ("--cmdline", "end=4")

    def run_guest(self, name, *args, **kwargs):
        return self.start(["run", "--kernel", guest(name), "--memory", "64M", "--exit-port", *args],
                          **kwargs)

    def wait_for(self, what, condition):
        end = time.monotonic() + TIMEOUT
        while not condition():
            self.assertLess(time.monotonic(), end, what)
            time.sleep(0.01)

    def is_raw(self):
        return not termios.tcgetattr(self.terminal)[3] & termios.ICANON

    def test_exit_status_is_the_guests(self):
        mode = termios.tcgetattr(self.terminal)
        process = self.run_guest("power", "--cmdline", "end=0 status=42")
        self.assertEqual(self.finish(process), "")
        self.assertEqual(process.returncode, 42)
        self.assertEqual(termios.tcgetattr(self.terminal), mode)

    def test_escape_key_stops_and_gives_the_terminal_back(self):
        mode = termios.tcgetattr(self.terminal)
        process = self.run_guest("power", *self.HANG)
        self.wait_for("raw mode", self.is_raw)
        os.write(self.master, b"\x01h")
        self.assertIn(b"Ctrl-A x", process.stderr.readline())
        os.write(self.master, b"\x01x")
        self.assertIn(b"power button", process.stderr.readline())
        self.assertIsNone(process.poll())
        os.write(self.master, b"\x01x")
        self.assertIn("stopping", self.finish(process))
        self.assertEqual(process.returncode, FAILED)
        self.assertEqual(termios.tcgetattr(self.terminal), mode)

    def test_second_signal_stops(self):
        path = self.path("serial")
        for sign in (signal.SIGTERM, signal.SIGINT):
            process = self.run_guest("power", *self.HANG, "--serial", "unix=" + path)
            self.wait_for("the socket", lambda: os.path.exists(path))
            process.send_signal(sign)
            self.assertIn(b"power button", process.stderr.readline())
            self.assertIsNone(process.poll())
            process.send_signal(sign)
            self.assertIn("stopping", self.finish(process))
            self.assertEqual(process.returncode, FAILED)
            self.assertFalse(os.path.exists(path), "the socket is left behind")

    def test_output_waits_for_a_slow_reader(self):
        reader, writer = os.pipe()
        fcntl.fcntl(writer, F_SETPIPE_SZ, 4096)
        process = self.run_guest("serial", "--cmdline", "serial=2", stdin=subprocess.DEVNULL,
                                 stdout=writer)
        os.close(writer)
        with self.assertRaises(subprocess.TimeoutExpired, msg="it did not wait"):
            process.wait(0.5)
        with os.fdopen(reader, "rb") as f:
            output = f.read()
        self.assertEqual(output, b"nobody hears this\n" * 400)
        self.assertEqual(self.finish(process), "")
        self.assertEqual(process.returncode, 0)

    def test_reader_goes_away(self):
        """`ballast run ... | head`: the guest goes on to its end."""
        reader, writer = os.pipe()
        process = self.run_guest("serial", "--cmdline", "serial=2", stdin=subprocess.DEVNULL,
                                 stdout=writer)
        os.close(writer)
        os.read(reader, 10)
        os.close(reader)
        self.finish(process)
        self.assertEqual(process.returncode, 0)

    def test_crash_prints_registers(self):
        process = self.run_guest("crash", "--cmdline", "crash=0")
        err = self.finish(process)
        self.assertEqual(process.returncode, 33)
        self.assertIn("E cpu 0: triple fault", err)
        self.assertIn("rip 0x", err)

    def ctl(self, *args):
        r = subprocess.run([BALLAST, "ctl", *args], capture_output=True, timeout=TIMEOUT, text=True,
                           check=False)
        return r.returncode, r.stdout, r.stderr

    def start_with_balloon(self, *args):
        path = self.path("qmp")
        process = self.run_guest("power", *self.HANG, "--memory", "128M", "--qmp", "unix:" + path, *args)
        self.wait_for("the control socket", lambda: self.ctl(path, "memory")[0] == 0)
        return process, path

    def test_control_socket(self):
        process, path = self.start_with_balloon("--balloon", "initial=96M")
        self.assertEqual(os.stat(path).st_mode & 0o777, 0o600)
        status, out, err = self.ctl(path, "memory")
        self.assertEqual((status, err), (0, ""))
        self.assertRegex(out, r"(?m)^target +32 MiB")
        self.assertRegex(out, r"(?m)^held +0 MiB")
        self.assertRegex(out, r"(?m)^driver +not running")
        status, out, err = self.ctl("--json", path, "memory")
        self.assertEqual((status, err), (0, ""))
        self.assertEqual(json.loads(out)["return"]["target"], 32 * MIB)
        self.assertEqual(self.ctl(path, "balloon", "112M")[0], 0)
        self.assertRegex(self.ctl(path, "memory")[1], r"(?m)^target +16 MiB")
        self.assertEqual(self.ctl(path, "balloon", "4T")[0], 0)
        self.assertRegex(self.ctl(path, "memory")[1], r"(?m)^target +0 MiB")
        status, out, err = self.ctl(path, "balloon", "16M")
        self.assertEqual((status, out, err.count("\n")), (FAILED, "", 1))
        status, out, err = self.ctl(path, "stats")  # the guest has no driver
        self.assertEqual((status, out, err.count("\n")), (FAILED, "", 1))
        self.assertEqual(self.ctl(path, "powerdown")[0], 0)
        self.assertIsNone(process.poll())  # the guest does not mind the button
        self.assertEqual(self.ctl(path, "quit")[0], 0)
        err = self.finish(process)
        self.assertEqual(process.returncode, FAILED)
        self.assertIn("I balloon: target 0 MiB, held 0 MiB, reclaimed 0 MiB, held back 0 MiB", err)
        self.assertFalse(os.path.exists(path), "the socket is left behind")

    def test_control_socket_of_a_guest_that_was_killed(self):
        """The next one takes its place."""
        process, path = self.start_with_balloon("--balloon", "on")
        self.kill(process)
        self.assertTrue(os.path.exists(path))
        process, path = self.start_with_balloon("--balloon", "on")
        self.assertEqual(self.ctl(path, "quit"), (0, "the guest is ended\n", ""))
        self.finish(process)
        self.assertFalse(os.path.exists(path))

    def test_stop_status_and_reset(self):
        process, path = self.start_with_balloon()
        status, out, err = self.ctl(path, "status")
        self.assertEqual((status, err), (0, ""))
        self.assertRegex(out, r"(?m)^status +running$")
        self.assertRegex(out, r"(?m)^memory +128 MiB$")
        threads = re.search(r"(?m)^cpus +1, threads (\d+)$", out)
        self.assertTrue(os.path.exists(f"/proc/{process.pid}/task/{threads[1]}"), out)
        self.assertRegex(out, r"(?m)^pci +00\.0 +1b36:0008")
        self.assertEqual(self.ctl(path, "stop"), (0, "the guest is stopped\n", ""))
        status, out, err = self.ctl("--json", path, "status")
        self.assertEqual((status, err), (0, ""))
        self.assertEqual(json.loads(out)["query-status"]["status"], "paused")
        self.assertEqual(self.ctl(path, "reset")[0], 0)
        self.assertRegex(self.ctl(path, "status")[1], r"(?m)^status +paused$")
        self.assertEqual(self.ctl(path, "cont"), (0, "the guest goes on\n", ""))
        self.assertRegex(self.ctl(path, "status")[1], r"(?m)^status +running$")
        for command in ("attach", "detach"):
            status, out, err = self.ctl(path, command, "0000:01:00.0")
            self.assertEqual((status, out, err.count("\n")), (FAILED, "", 1), command)
        self.assertEqual(self.ctl(path, "quit"), (0, "the guest is ended\n", ""))
        self.assertIn("guest resets", self.finish(process))

    def test_multiboot(self):
        """As kvm-unit-tests are: a 32-bit ELF, the serial port, the exit port."""
        for name, status in (("multiboot", 0), ("multiboot64", 3)):
            process = self.run_guest(name, "--cmdline", f"memory={64 * MIB} status={status}", stdout=subprocess.PIPE,
                                     stdin=subprocess.DEVNULL)
            out, err = process.communicate(timeout=TIMEOUT)
            process.stdout.close()
            self.assertEqual((process.returncode, out, err), (status, b"multiboot\n", b""))

    def test_control_socket_without_a_balloon(self):
        process, path = self.start_with_balloon()
        self.assertIn("none", self.ctl(path, "memory")[1])
        for args in (["balloon", "96M"], ["stats"]):
            status, out, err = self.ctl(path, *args)
            self.assertEqual((status, out, err.count("\n")), (FAILED, "", 1))
            self.assertIn("--balloon", err)
        self.assertEqual(self.ctl(path, "quit")[0], 0)
        self.assertNotIn("balloon", self.finish(process))

    def test_experiment_warns_at_every_start(self):
        process = self.run_guest("power", "--experiment", "unsafe-reclaim", "--cmdline",
                                 "end=0 status=0")
        err = self.finish(process)
        self.assertEqual(process.returncode, 0)
        self.assertEqual(err.count("W "), 1, err)
        self.assertIn("unsafe-reclaim", err)
        self.assertIn("corrupt", err)

    def test_figures(self):
        events, metrics = self.path("events"), self.path("metrics")
        trace = self.path("trace")
        process = self.run_guest("power", "--cmdline", "end=0 status=7", "--events", events,
                                 "--metrics", metrics, "--trace", trace)
        self.assertEqual(self.finish(process), "")
        r = self.timeline(trace)
        self.assertEqual((r.returncode, r.stderr), (0, ""))
        for name in ("handle_exit", "io_bus_write", "memory_map_add", "slots_region_add", "ram_init"):
            self.assertRegex(r.stdout, rf"(?m)^{name} +[1-9]")
        with open(trace + ".svg", encoding="ascii") as f:
            picture = f.read()
        ElementTree.fromstring(picture)
        for text in ("vcpu 00", "main", "handle_exit(0x0, 0x2)"):
            self.assertIn(text, picture)
        self.assertIn("in it", self.timeline("--events", "dma*", trace).stderr)
        with open(events, encoding="utf-8") as f:
            log = [json.loads(line) for line in f]
        self.assertEqual((log[0]["event"], log[-1]["event"], log[-1]["status"]), ("start", "exit", 7))
        names = [e["name"] for e in log if e["event"] == "phase"]
        self.assertEqual(names[:8], ["process", "kvm", "ram", "kernel-load", "processors", "pinning",
                                     "devices", "first-entry"])
        with open(metrics, encoding="utf-8") as f:
            text = f.read()
        self.assertIn("ballast_ram_bytes 67108864\n", text)
        self.assertRegex(text, r'(?m)^ballast_vcpu_exits_total\{cpu="0",reason="io"\} [1-9]\d*$')

    def test_initrd_is_handed_over(self):
        initrd = self.path("initrd", b"ramdisk" * 1000)
        process = self.run_guest("power", "--initrd", initrd, "--cmdline", "end=0 status=7")
        self.finish(process)
        self.assertEqual(process.returncode, 7)


class Result(unittest.TextTestResult):
    """Names what was skipped and why, on stdout, where the test command looks."""

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        print(f"{test}: skipped: {reason}")


def main():
    global BALLAST, GUESTS
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    BALLAST, GUESTS = (os.path.abspath(p) for p in sys.argv[1:3])
    # The session's signals as ballast is to find them, whoever started this.
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    unittest.main(argv=[sys.argv[0], *sys.argv[3:]],
                  testRunner=unittest.TextTestRunner(resultclass=Result))


if __name__ == "__main__":
    main()
