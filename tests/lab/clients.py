"""Chapter on the control socket: its answers beside a real QEMU's, and a client that nobody here wrote."""

import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
import time

from checks import GUEST_SECONDS, check, check_power_off, say
from host import VMLINUX, Guest, GuestFailed

FOLDER = "/dev/shm/ballast-clients"
BALLOON = "/machine/peripheral/balloon0"

# What both are asked, in this order: by name, with arguments.
SHARED = [
    ("query-version", {}), ("query-status", {}), ("query-memory-size-summary", {}), ("query-cpus-fast", {}),
    ("query-balloon", {}), ("query-pci", {}), ("balloon", {"value": 128 << 20}),
    ("qom-list", {"path": "/machine/peripheral"}), ("qom-get", {"path": BALLOON, "property": "guest-stats"}),
    ("qom-get", {"path": BALLOON, "property": "guest-stats-polling-interval"}),
    ("qom-set", {"path": BALLOON, "property": "guest-stats-polling-interval", "value": 2}),
    ("cont", {}), ("stop", {}), ("query-status", {}), ("stop", {}), ("cont", {}),
    # A guest that runs would switch itself off, sooner or later than the rest is asked.
    ("stop", {}), ("system_powerdown", {}),
    # And what both refuse.
    ("no-such-command", {}), ("balloon", {}), ("balloon", {"value": "much"}), ("balloon", {"value": 1, "more": 2}),
    ("qom-get", {"path": "/nowhere", "property": "a"}), ("qom-get", {"path": BALLOON, "property": "nothing"}),
    ("qom-set", {"path": BALLOON, "property": "guest-stats-polling-interval", "value": -1}),
    ("device_add", {"driver": "no-such-driver"}), ("device_del", {"id": "nothing"}),
    ("query-commands", {}),
]
# Members that the schema of QEMU calls optional, or that stand for devices of QEMU's own.
OPTIONAL = {"desc", "irq", "prefetch", "mem_type_64", "die-id", "node-id", "cluster-id", "pci_bridge"}


def shape(value):
    """The members of an answer and the types of what they hold; of a list, those of all its items."""
    if isinstance(value, dict):
        return {(name, inner) for name, item in value.items() if name not in OPTIONAL
                for inner in [()] + sorted(shape(item))}
    if isinstance(value, list):
        return set().union(*map(shape, value)) if value else set()
    return {(type(value).__name__,)}


class Client:
    """One that remembers the answers, and the events between them."""

    def __init__(self, path, seconds):
        deadline = time.monotonic() + seconds
        while True:
            self.socket = socket.socket(socket.AF_UNIX)
            try:
                self.socket.connect(path)
                break
            except OSError:
                self.socket.close()
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)
        self.socket.settimeout(120)
        self.stream = self.socket.makefile("rw")
        self.greeting = json.loads(self.stream.readline())
        self.events = {}
        self.ask("qmp_capabilities")

    def ask(self, name, **arguments):
        request = {"execute": name, "id": [name, 1]}
        if arguments:
            request["arguments"] = arguments
        self.stream.write(json.dumps(request) + "\n")
        self.stream.flush()
        while True:
            line = self.stream.readline()
            if not line:
                raise GuestFailed(f"{name}: hung up without an answer")
            answer = json.loads(line)
            if "event" not in answer:
                return answer
            self.events[answer["event"]] = answer

    def drain(self):
        """Events up to its end; one that ends with a newline of ours unread resets the connection."""
        try:
            while line := self.stream.readline():
                answer = json.loads(line)
                if "event" in answer:
                    self.events[answer["event"]] = answer
        except ConnectionResetError:
            pass


def outcome(answer):
    return answer["error"]["class"] if "error" in answer else "return"


def compare(ours, qemus):
    check("clients/greeting", shape(ours.greeting) >= shape(qemus.greeting) - shape({"QMP": {"capabilities": ["oob"]}}),
          f"{ours.greeting}, QEMU: {qemus.greeting}")
    for number, (name, arguments) in enumerate(SHARED):
        mine, theirs = ours.ask(name, **arguments), qemus.ask(name, **arguments)
        where = f"clients/{number}-{name}"
        same = outcome(mine) == outcome(theirs) and mine["id"] == theirs["id"]
        if name == "query-commands":
            theirs_only = {command["name"] for command in theirs["return"]}
            strange = {command["name"] for command in mine["return"]} - theirs_only
            same = same and all(command.startswith("x-ballast-") for command in strange)
        elif same and "return" in mine:
            # All that QEMU says is there, with the same types; there may be more.
            same = shape(theirs["return"]) <= shape(mine["return"])
        check(where, same, f"{mine}, QEMU: {theirs}")
    for client in (ours, qemus):
        client.ask("system_reset")
        deadline = time.monotonic() + 60
        while "RESET" not in client.events and time.monotonic() < deadline:
            client.ask("query-status")
            time.sleep(0.2)
        client.ask("quit")
        client.drain()
    for name in ("STOP", "RESUME", "POWERDOWN", "RESET", "SHUTDOWN"):
        mine, theirs = ours.events.get(name, {}), qemus.events.get(name, {})
        same = shape(mine) == shape(theirs) and mine.get("data") == theirs.get("data")
        check(f"clients/event-{name}", mine and same, f"{mine}, QEMU: {theirs}")


def check_foreign_client(path):
    """socat brings the bytes, jq reads the answers: both Debian's."""
    if not (shutil.which("socat") and shutil.which("jq")):
        say("SKIP", "clients/socat-jq", "socat and jq are not installed")
        return
    requests = '{"execute":"qmp_capabilities"}{"execute":"query-status","id":7}\n{"execute": "stop"}\n{"execute": "cont"}\n'
    pipe = f"socat -t 5 - UNIX-CONNECT:{path} | jq -c 'if .event then .event elif .QMP then \"QMP\" else .return.status // .id end'"
    run = subprocess.run(["bash", "-c", "set -o pipefail; " + pipe], input=requests, capture_output=True, text=True, timeout=60,
                         check=False)
    check("clients/socat-jq", run.returncode == 0 and run.stdout.split() ==
          ['"QMP"', "null", '"running"', '"STOP"', "null", '"RESUME"', "null"], run.stdout + run.stderr)


async def converse(path):
    """What a client of QEMU's own library hears: events, answers and a refusal."""
    from qemu.qmp import ExecuteError, QMPClient  # pylint: disable=import-outside-toplevel,import-error

    client = QMPClient()
    heard = []
    await client.connect(path)
    try:
        with client.listener(("STOP", "RESUME")) as events:
            for command in ("stop", "cont"):
                await client.execute(command)
                heard.append((await asyncio.wait_for(events.get(), 30))["event"])
                heard.append((await client.execute("query-status"))["status"])
        memory = (await client.execute("query-memory-size-summary"))["base-memory"]
        heard.append(await client.execute("balloon", {"value": memory}))
        heard.append((await client.execute("query-balloon"))["actual"] == memory)
        try:
            await client.execute("no-such-command")
        except ExecuteError as refusal:
            heard.append(refusal.error_class)
    finally:
        await client.disconnect()
    return heard


def check_qemus_library(path):
    """QEMU's own library for Python, asyncio and all, and its shell for people."""
    library = os.environ.get("BALLAST_QMP")
    if not library:
        say("SKIP", "clients/qemu.qmp", "guest-images/qemu-qmp could not fetch QEMU's source (see above)")
        return
    sys.path.append(library)
    heard = asyncio.run(asyncio.wait_for(converse(path), 120))
    check("clients/qemu.qmp", heard == ["STOP", "paused", "RESUME", "running", {}, True, "CommandNotFound"], heard)
    lines = "query-status\nqom-list path=/machine/peripheral\nballoon value=much\n"
    shell = subprocess.run([sys.executable, "-m", "qemu.qmp.qmp_shell", path], input=lines, capture_output=True, text=True,
                           timeout=120, check=False, env={"PYTHONPATH": library, "HOME": FOLDER})
    answers = [json.loads(line.removeprefix("(QEMU) ")) for line in shell.stdout.splitlines() if line.startswith("(QEMU) {")]
    check("clients/qmp-shell", shell.returncode == 0 and len(answers) == 3 and answers[0]["return"]["status"] == "running" and
          answers[1]["return"] and answers[2]["error"]["class"] == "GenericError", shell.stdout + shell.stderr)


def qmp_clients():
    """The same requests to Ballast and to a QEMU: outcome, members, types and events; clients of others."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    os.mkdir(FOLDER)
    ours, theirs = f"{FOLDER}/ballast", f"{FOLDER}/qemu"
    qemu = subprocess.Popen(["qemu-system-x86_64", "-S", "-accel", "tcg", "-machine", "q35", "-nodefaults", "-display", "none",
                             "-m", "256", "-smp", "2", "-device", "virtio-balloon-pci,id=balloon0", "-serial", "none",
                             "-monitor", "none", "-qmp", f"unix:{theirs},server=on,wait=off"], stdin=subprocess.DEVNULL)
    try:
        with Guest("--balloon", "on", "--qmp", f"unix:{ours}", run="wait", kernel=VMLINUX, cpus=2) as guest:
            check("clients/boots", guest.wait_for("waiting", GUEST_SECONDS), guest.last_words())
            check_foreign_client(ours)
            check_qemus_library(ours)
            compare(Client(ours, 10), Client(theirs, 60))
            check_power_off("clients", guest, 60, status=1)
    finally:
        qemu.kill()
        qemu.wait()
        shutil.rmtree(FOLDER, ignore_errors=True)


def guest_panics():
    """A panic of the guest's kernel is an exit status and an event."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    os.mkdir(FOLDER)
    path = f"{FOLDER}/ballast"
    with Guest("--qmp", f"unix:{path}", run="obey", kernel=VMLINUX) as guest:
        guest.hear("listening", GUEST_SECONDS)
        client = Client(path, 10)
        guest.send("echo c >/proc/sysrq-trigger")
        client.drain()
        check("panic/events", client.events.get("GUEST_PANICKED", {}).get("data") == {"action": "poweroff"} and
              client.events.get("SHUTDOWN", {}).get("data") == {"guest": True, "reason": "guest-panic"}, client.events)
        check_power_off("panic", guest, 60, status=34)
        check("panic/log", any("guest panicked" in line for line in guest.errors), guest.last_words())
    shutil.rmtree(FOLDER, ignore_errors=True)


CHAPTERS = [qmp_clients, guest_panics]
