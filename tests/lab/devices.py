"""Chapters on Ballast's own devices: what a guest uses every day. Disk, network, entropy."""

import os
import socket
import subprocess
import threading
import time

from checks import GUEST_SECONDS, check, check_power_off, figure
from host import Balloon, Counters, Guest, count_user_exits

FOLDER = "/dev/shm/ballast-devices"
MIB = 1 << 20
SIZE = 256 * MIB
HOST, GUEST_ADDRESS = "192.168.78.1", "192.168.78.2"


def run(*words, **more):
    return subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, **more)


def must(*words):
    done = run(*words)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(words)}: {done.stdout} {done.stderr}")
    return done.stdout


def make_tap(name):
    must("modprobe", "-a", "tun", "vhost_net")
    if not os.path.exists(f"/sys/class/net/{name}"):
        must("ip", "tuntap", "add", "dev", name, "mode", "tap")
        must("ip", "addr", "add", f"{HOST}/24", "dev", name)
        must("ip", "link", "set", name, "up")


class Listener:
    """A TCP port that takes one stream into a file, or sends one out of a file."""

    def __init__(self, port, path, sends):
        self.socket = socket.create_server((HOST, port))
        self.path, self.sends = path, sends
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self):
        connection, _ = self.socket.accept()
        with connection:
            if self.sends:
                with open(self.path, "rb") as file:
                    connection.sendfile(file)
                return
            with open(self.path, "wb") as file:
                while piece := connection.recv(MIB):
                    file.write(piece)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def wait(self):
        self.thread.join(GUEST_SECONDS)
        return not self.thread.is_alive()


def same_bytes(name, seen, expected, size=SIZE):
    done = run("cmp", "-n", str(size), seen, expected)
    check(name, done.returncode == 0, done.stdout + done.stderr)


def wait_until(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.5)
    return False


def disk_and_network():
    """256 MiB from disk to network and from network to disk, without an exit a request; a disk that grows; a link that goes; a reboot."""
    os.makedirs(FOLDER, exist_ok=True)
    source, sink, there, control = (f"{FOLDER}/{name}" for name in ("source", "sink", "there", "control"))
    with open(source, "wb") as file:
        for _ in range(SIZE // MIB):
            file.write(os.urandom(MIB))
    with open(sink, "wb") as file:
        file.truncate(SIZE)
    make_tap("tap0")
    count_user_exits()
    with Guest("--disk", f"path={source},readonly=on,serial=the-source", "--disk", f"path={sink}", "--net", "tap=tap0",
               "--rng", "on", "--qmp", f"unix:{control}", run="obey", memory="512M", cpus=2) as guest:
        guest.hear("listening", GUEST_SECONDS)
        look_at_devices(guest)
        guest.ask(f"ip link set eth0 up && ip addr add {GUEST_ADDRESS}/24 dev eth0 && ping -c 1 -w 20 {HOST}")
        transfer(guest, source, sink, there)
        grow_and_discard(guest, sink)
        pull_link(guest, control)
        # With requests under way: the guest's memory is loaded anew only when they are through.
        guest.send("(while :; do dd if=/dev/vda of=/dev/null bs=1M iflag=direct; done) >/dev/null 2>&1 & sleep 2; reboot -f")
        guest.hear("listening", GUEST_SECONDS)
        check("devices/reboot-under-load", guest.ask("cat /sys/block/vda/size") is not None)
        guest.ask("[ $(dd if=/dev/vda bs=1M count=16 iflag=direct status=none | wc -c) = 16777216 ]")
        guest.send("poweroff -f")
        check_power_off("devices", guest)
    for path in (source, sink, there):
        os.unlink(path)


def answer(guest, command):
    """The first line of what the command prints."""
    guest.send(f"tell answer $({command})")
    lines = guest.hear("obeyed", 60)
    return next((line.partition(" ")[2] for line in lines if line.startswith("answer")), "")


def look_at_devices(guest):
    for name, command, wanted in (
            ("serial", "cat /sys/block/vda/serial", "the-source"), ("read-only", "cat /sys/block/vda/ro", "1"),
            ("writable", "cat /sys/block/vdb/ro", "0"), ("size", "cat /sys/block/vda/size", str(SIZE // 512)),
            ("queue-a-cpu", "ls /sys/block/vda/mq | wc -l", "2"), ("flush", "cat /sys/block/vdb/queue/write_cache", "write back"),
            ("rng", "cat /sys/class/misc/hw_random/rng_current", "virtio_rng.0"),
            ("rng-bytes", "head -c 100 /dev/hwrng | wc -c", "100")):
        seen = answer(guest, command)
        check(f"devices/{name}", seen == wanted, f"'{seen}', expected '{wanted}'")


def transfer(guest, source, sink, there):
    """The bytes are compared on the host, outside of the guest that moved them."""
    before = Counters(guest.process.pid)
    with Listener(7001, there, False) as listener:
        guest.ask(f"load push {HOST} 7001 </dev/vda", GUEST_SECONDS)
        check("devices/disk-to-network-ends", listener.wait(), "the stream has no end")
    same_bytes("devices/disk-to-network", there, source)
    with Listener(7002, source, True) as listener:
        guest.ask(f"load pull {HOST} 7002 /dev/vdb", GUEST_SECONDS)
        check("devices/network-to-disk-ends", listener.wait(), "the stream has no end")
    same_bytes("devices/network-to-disk", sink, source)
    after = Counters(guest.process.pid)
    requests = sum(int(answer(guest, f"awk '{{ print $1 + $5 }}' /sys/block/{disk}/stat")) for disk in ("vda", "vdb"))
    user = after.since(before, "user_exits")
    figure("devices/disk-requests", requests, "requests")
    figure("devices/user-exits", user, "exits to user space, the serial console's included")
    # A few lines of the console, an exit a byte; none for a kick or an interrupt.
    check("devices/no-user-exit-a-request", user < 600 and requests > 256, f"{user} exits, {requests} requests")


def grow_and_discard(guest, sink):
    os.truncate(sink, SIZE + 64 * MIB)
    grown = wait_until(lambda: answer(guest, "cat /sys/block/vdb/size") == str((SIZE + 64 * MIB) // 512))
    check("devices/disk-grows", grown, answer(guest, "cat /sys/block/vdb/size"))
    blocks = os.stat(sink).st_blocks * 512
    guest.ask("blkdiscard -o 0 -l 134217728 /dev/vdb && sync", 120)
    less = blocks - os.stat(sink).st_blocks * 512
    check("devices/discard-gives-back", less == 128 * MIB, f"{less} bytes")
    guest.ask("[ $(dd if=/dev/vdb bs=1M count=128 iflag=direct status=none | tr -d '\\000' | wc -c) = 0 ]", 120)


def pull_link(guest, control):
    ctl = Balloon(control)  # any of ctl's commands
    for word, carrier in (("off", "0"), ("on", "1")):
        ctl.ctl(control, "link", "net0", word)
        seen = wait_until(lambda wanted=carrier: answer(guest, "cat /sys/class/net/eth0/carrier") == wanted)
        check(f"devices/link-{word}", seen, f"not seen by the guest: {guest.last_words()}")
    guest.ask(f"ping -c 1 -w 30 {HOST}")


CHAPTERS = [disk_and_network]
