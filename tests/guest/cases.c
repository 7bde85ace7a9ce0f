/* SPDX-License-Identifier: MIT */
#include "tests/guest/cases.h"

#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <sys/ioctl.h>
#include <sys/socket.h>

#include "tests/guest/contract.h"

#define MIB (1ull << 20)
#define GIB (1ull << 30)

/* What comes instead, the guest's complaint perhaps, goes to stderr, which is the log. */
static bool receive_exactly(int fd, const uint8_t *want, size_t size)
{
	uint8_t byte = 0;
	size_t i = 0;

	while (i < size && read(fd, &byte, 1) == 1 && byte == want[i])
		i++;
	if (i == size)
		return true;
	fprintf(stderr, "socket or terminal: %zu of %zu bytes came, then: ", i, size);
	do
		fputc(byte, stderr);
	while (read(fd, &byte, 1) == 1);
	return false;
}

/* Says hello, waits for "ready", sends more than any FIFO holds, wants it back inverted. */
static bool echo_peer(int fd)
{
	static const uint8_t ready[] = "ready\n";
	uint8_t bytes[SERIAL_INPUT_SIZE];

	for (unsigned int i = 0; i < sizeof(bytes); i++)
		bytes[i] = (uint8_t)(i * 7);
	if (send(fd, "h", 1, MSG_NOSIGNAL) != 1 ||
	    !receive_exactly(fd, ready, sizeof(ready) - 1) ||
	    send(fd, bytes, sizeof(bytes), MSG_NOSIGNAL) != (ssize_t)sizeof(bytes))
		return false;
	for (unsigned int i = 0; i < sizeof(bytes); i++)
		bytes[i] = (uint8_t)~bytes[i];
	return receive_exactly(fd, bytes, sizeof(bytes));
}

/* Tells the guest that it is there, and reads nothing until the guest is gone. */
static bool stuck_peer(int fd)
{
	struct pollfd p = { .fd = fd };

	return send(fd, "h", 1, MSG_NOSIGNAL) == 1 && poll(&p, 1, -1) == 1 &&
	       (p.revents & POLLHUP);
}

/* What was sent before resets, as far as it went, and then what was said last. */
static bool reset_peer(int fd)
{
	static const uint8_t end[] = "the end\n";
	uint8_t byte = 'x';

	if (send(fd, "h", 1, MSG_NOSIGNAL) != 1)
		return false;
	while (byte == 'x' && recv(fd, &byte, 1, 0) == 1) {
	}
	if (byte == end[0] && receive_exactly(fd, end + 1, sizeof(end) - 2))
		return true;
	fprintf(stderr, "console: '%c' came after the x\n", byte);
	return false;
}

/* Much input, and then whatever comes. */
static bool talkative_peer(int fd)
{
	uint8_t bytes[CONSOLE_INPUT_SIZE];

	memset(bytes, 'i', sizeof(bytes));
	if (send(fd, bytes, sizeof(bytes), MSG_NOSIGNAL) != (ssize_t)sizeof(bytes))
		return false;
	while (recv(fd, bytes, sizeof(bytes), 0) > 0) {
	}
	return true;
}

/* At a terminal: its window changes when the guest is ready for that. */
static bool window_peer(int fd)
{
	static const uint8_t ready[] = "ready\r\n";
	static const uint8_t size[] = "132x043\r\n";
	const struct winsize window = { .ws_col = 132, .ws_row = 43 };

	return receive_exactly(fd, ready, sizeof(ready) - 1) &&
	       ioctl(fd, TIOCSWINSZ, &window) == 0 && kill(getpid(), SIGWINCH) == 0 &&
	       receive_exactly(fd, size, sizeof(size) - 1) && write(fd, "q", 1) == 1;
}

static const struct virtio_balloon_config plain_balloon;
static const struct virtio_balloon_config reporting_balloon = {
	.reporting = true,
	.deflate_on_oom = true,
};

static const struct virtio_blk_options plain_disk = { .serial = "mest1" };
static const struct virtio_blk_options readonly_disk = { .readonly = true };

#define BLK(part) .guest = "blk", .options = "part=" part, .cpus = 2, .disk = &plain_disk

#define NET_MAC .has_mac = true, .mac = { 0x02, 0, 0, 0x12, 0x34, 0x56 }
static const struct net_config stream_net = { .kind = NET_PASST_RUNNING, NET_MAC };
static const struct net_config tap_net = { .kind = NET_TAP,
					   .vhost = VIRTIO_NET_VHOST_OFF,
					   NET_MAC };
static const struct net_config vhost_net = { .kind = NET_TAP,
					     .vhost = VIRTIO_NET_VHOST_ON,
					     NET_MAC };

#define NET(part, where) .guest = "net", .options = "part=" part, .net = &(where)
#define BALLOON(part) .guest = "balloon", .options = "part=" part, .balloon = &plain_balloon
#define HOSTILE(part) .guest = "hostile", .options = "part=" part, .balloon = &plain_balloon

#define RNG(part) .guest = "rng", .options = "part=" part, .rng = true
#define CONSOLE(part, where) .guest = "console", .options = "part=" part, .console = where

/* With every device there is. */
#define STORM(part)                                                               \
	.guest = "storm", .options = "part=" part, .balloon = &reporting_balloon, \
	.disk = &plain_disk, .net = &stream_net, .rng = true, .console = CONSOLE_FILE

const struct test_case cases[] = {
	{ .name = "ports", .guest = "ports" },
	{ .name = "mmio", .guest = "mmio" },
	{ .name = "config", .guest = "config" },
	{ .name = "bars", .guest = "bars" },
	{ .name = "moves", .guest = "moves", .cpus = 3 },
	{ .name = "hotplug", .guest = "hotplug", .cpus = 2 },
	{ .name = "msix", .guest = "msix", .cpus = 2 },
	{ .name = "intx", .guest = "intx", .options = "exact=0" },
	{ .name = "intx-exact", .guest = "intx", .options = "exact=1", .hardware = true },
	{ .name = "smp-1", .guest = "smp" },
	{ .name = "smp-2", .guest = "smp", .cpus = 2 },
	{ .name = "smp-4", .guest = "smp", .cpus = 4 },
	{ .name = "smp-16", .guest = "smp", .cpus = 16 },
	{ .name = "reset",
	  .guest = "reset",
	  .options = "resets=9",
	  .cpus = 2,
	  .logs = { "I guest resets" } },
	/* Most processors were never started. */
	{ .name = "reset-16", .guest = "reset", .options = "resets=2", .cpus = 16 },
	{ .name = "reset-exit",
	  .guest = "power",
	  .options = "end=2",
	  .on_reset = ON_RESET_EXIT,
	  .status = STATUS_RESET,
	  .output = "now\n" },
	{ .name = "power-off",
	  .guest = "power",
	  .options = "end=1",
	  .status = STATUS_POWER_OFF,
	  .output = "now\n",
	  .logs = { "I guest switched itself off" } },
	{ .name = "power-button", .guest = "power", .options = "end=3" },
	{ .name = "timeout",
	  .guest = "power",
	  .options = "end=4",
	  .timeout = 1,
	  .status = STATUS_TIMEOUT,
	  .logs = { "--timeout of 1 s ran out" } },
	{ .name = "exit-42", .guest = "power", .options = "end=0 status=42", .status = 42 },
	{ .name = "exit-255", .guest = "power", .options = "end=0 status=255", .status = 255 },
	{ .name = "panic",
	  .guest = "power",
	  .options = "end=5",
	  .status = STATUS_PANICKED,
	  .output = "now\n",
	  .logs = { "I guest panicked\n" } },
	{ .name = "panic-crash-kernel",
	  .guest = "power",
	  .options = "end=6 status=7",
	  .status = 7,
	  .logs = { "W guest panicked: its crash kernel takes over" } },
	{ .name = "multiboot-32",
	  .guest = "multiboot",
	  .options = "status=42",
	  .status = 42,
	  .output = "multiboot\n" },
	{ .name = "multiboot-64",
	  .guest = "multiboot64",
	  .options = "status=43",
	  .status = 43,
	  .output = "multiboot\n" },
	{ .name = "triple-fault",
	  .guest = "crash",
	  .options = "crash=0",
	  .status = STATUS_CRASHED,
	  .logs = { "E cpu 0: triple fault", "I cpu 0: cr0 0x" },
	  .registers = { "I cpu 0: rip 0x10", "rax 0xdeadbeef" } },
	{ .name = "triple-fault-of-ap",
	  .guest = "crash",
	  .options = "crash=1",
	  .cpus = 2,
	  .status = STATUS_CRASHED,
	  .logs = { "E cpu 1: triple fault" },
	  .registers = { "I cpu 1: rip 0x10" } },
	{ .name = "internal-error",
	  .guest = "crash",
	  .options = "crash=2",
	  .status = STATUS_CRASHED,
	  .logs = { "E cpu 0: kvm internal error", "I cpu 0: rip 0xc3000000" } },
	{ .name = "serial-file",
	  .guest = "serial",
	  .options = "serial=0",
	  .output = "abcde\nthe end\n" },
	{ .name = "serial-socket",
	  .guest = "serial",
	  .options = "serial=1",
	  .serial = CONSOLE_UNIX,
	  .peer = echo_peer },
	{ .name = "serial-nobody",
	  .guest = "serial",
	  .options = "serial=2",
	  .serial = CONSOLE_UNIX },
	{ .name = "rtc", .guest = "rtc" },
	{ .name = "acpi-1", .guest = "acpi" },
	{ .name = "acpi-16", .guest = "acpi", .cpus = 16, .memory = 5 * GIB },
	{ .name = "ram-64m", .guest = "ram" },
	{ .name = "ram-2g", .guest = "ram", .memory = 2 * GIB },
	{ .name = "ram-5g", .guest = "ram", .memory = 5 * GIB },
	{ .name = "ram-memfd-64m", .guest = "ram", .backing = RAM_MEMFD },
	{ .name = "ram-memfd-5g", .guest = "ram", .backing = RAM_MEMFD, .memory = 5 * GIB },
	{ .name = "ram-hugetlb-64m", .guest = "ram", .backing = RAM_HUGETLB },
	{ .name = "blk-identity", BLK("identity") },
	{ .name = "blk-transfer", BLK("transfer") },
	{ .name = "blk-queues", BLK("queues") },
	{ .name = "blk-readonly",
	  .guest = "blk",
	  .options = "part=readonly",
	  .disk = &readonly_disk },
	{ .name = "blk-grow",
	  BLK("grow"),
	  .logs = { "has grown to 9437184 bytes", "has shrunk to 1048576 bytes" } },
	{ .name = "blk-reset", BLK("reset") },
	{ .name = "blk-reboot", BLK("reboot"), .logs = { "I guest resets" } },
	{ .name = "blk-hostile",
	  BLK("hostile"),
	  .logs = { "a request with no place for its status", "a malformed queue",
		    "a request with a buffer outside of RAM" } },
	{ .name = "balloon-identity", BALLOON("identity") },
	{ .name = "balloon-pages", BALLOON("pages") },
	{ .name = "balloon-pages-memfd", BALLOON("pages"), .backing = RAM_MEMFD },
	{ .name = "balloon-pages-hugetlb", BALLOON("huge"), .backing = RAM_HUGETLB },
	{ .name = "balloon-msix", BALLOON("msix") },
	{ .name = "balloon-intx", BALLOON("intx"), .memory = 128 * MIB },
	{ .name = "balloon-target",
	  BALLOON("target keep=100663296"),
	  .memory = 128 * MIB,
	  .balloon_keep = 96 * MIB,
	  .logs = { "I balloon: the guest is asked to keep 96 of 128 MiB",
		    "I balloon: the guest is asked to keep 112 of 128 MiB" } },
	{ .name = "balloon-actual", BALLOON("actual") },
	{ .name = "balloon-stats", BALLOON("stats") },
	{ .name = "balloon-reporting",
	  .guest = "balloon",
	  .options = "part=reporting",
	  .balloon = &reporting_balloon },
	{ .name = "balloon-reporting-memfd",
	  .guest = "balloon",
	  .options = "part=reporting",
	  .backing = RAM_MEMFD,
	  .balloon = &reporting_balloon },
	{ .name = "balloon-reset", BALLOON("reset") },
	{ .name = "balloon-reboot", BALLOON("reboot"), .logs = { "I guest resets" } },
	{ .name = "balloon-figures",
	  .guest = "balloon",
	  .options = "part=figures",
	  .balloon = &reporting_balloon,
	  .logs = { "I balloon: target 0 MiB, held 3 MiB, reclaimed 3 MiB, held back 0 MiB "
		    "(inhibited by nobody), pinned 0 MiB",
		    "I balloon: policy direct: took 4 MiB, discarded 4 MiB in 1 calls, 0 failed",
		    "I balloon: free pages reported: 2 MiB, discarded 2 MiB in 1 calls" } },
	{ .name = "balloon-hostile-numbers", HOSTILE("numbers") },
	{ .name = "balloon-hostile-chains", HOSTILE("chains") },
	{ .name = "balloon-hostile-queues", HOSTILE("queues") },
	{ .name = "balloon-hostile-stats", HOSTILE("stats") },
	{ .name = "balloon-hostile-reports",
	  .guest = "hostile",
	  .options = "part=reports",
	  .balloon = &reporting_balloon },
	{ .name = "balloon-hostile-registers", HOSTILE("registers") },
	{ .name = "balloon-hostile-bar", HOSTILE("bar") },
	{ .name = "balloon-hostile-smp", HOSTILE("smp rounds=2000"), .cpus = 2 },
	{ .name = "net-echo", NET("echo buffer=2048 largest=9000", stream_net) },
	{ .name = "net-echo-large", NET("echo buffer=8192 largest=60000", stream_net) },
	{ .name = "net-intx", NET("intx buffer=2048", stream_net) },
	{ .name = "net-link", NET("link buffer=2048", stream_net) },
	{ .name = "net-reset", NET("reset buffer=2048", stream_net) },
	{ .name = "net-reboot",
	  NET("reboot buffer=2048", stream_net),
	  .logs = { "I guest resets" } },
	{ .name = "net-hostile", NET("hostile buffer=2048", stream_net) },
	{ .name = "net-tap-echo", NET("echo buffer=2048 largest=1514", tap_net) },
	{ .name = "net-tap-intx", NET("intx buffer=2048", tap_net) },
	{ .name = "net-tap-link", NET("link buffer=2048", tap_net) },
	{ .name = "net-tap-reset", NET("reset buffer=2048", tap_net) },
	{ .name = "net-tap-reboot",
	  NET("reboot buffer=2048", tap_net),
	  .logs = { "I guest resets" } },
	{ .name = "net-tap-hostile", NET("hostile buffer=2048", tap_net) },
	{ .name = "net-vhost-echo", NET("echo buffer=2048 largest=1514", vhost_net) },
	{ .name = "net-vhost-intx", NET("intx buffer=2048", vhost_net) },
	{ .name = "net-vhost-link", NET("link buffer=2048", vhost_net) },
	{ .name = "net-vhost-reset", NET("reset buffer=2048", vhost_net) },
	{ .name = "net-vhost-reboot",
	  NET("reboot buffer=2048", vhost_net),
	  .logs = { "I guest resets" } },
	{ .name = "rng-fill", RNG("fill") },
	{ .name = "rng-rings", RNG("rings") },
	{ .name = "rng-hostile",
	  RNG("hostile"),
	  .logs = { "rng: a malformed queue", "rng: a buffer outside of RAM" } },
	{ .name = "rng-reset", RNG("reset") },
	{ .name = "rng-reboot", RNG("reboot"), .logs = { "I guest resets" } },
	{ .name = "console-identity",
	  CONSOLE("identity", CONSOLE_FILE),
	  .console_output = "no driver\na driver\nboth\nthe end\n" },
	{ .name = "console-file",
	  CONSOLE("file", CONSOLE_FILE),
	  .console_bytes = CONSOLE_SIZE },
	{ .name = "console-echo", CONSOLE("echo", CONSOLE_UNIX), .peer = echo_peer },
	{ .name = "console-stuck",
	  CONSOLE("stuck", CONSOLE_UNIX),
	  .peer = stuck_peer,
	  .logs = { "console: nobody reads, dropping output" } },
	{ .name = "console-reset", CONSOLE("reset", CONSOLE_UNIX), .peer = reset_peer },
	{ .name = "console-reboot",
	  CONSOLE("reboot", CONSOLE_UNIX),
	  .peer = reset_peer,
	  .logs = { "I guest resets" } },
	{ .name = "console-window", CONSOLE("window", CONSOLE_STDIO), .peer = window_peer },
	{ .name = "console-hostile",
	  CONSOLE("hostile", CONSOLE_UNIX),
	  .peer = talkative_peer,
	  .logs = { "console: a malformed queue", "console: output outside of RAM" } },
	{ .name = "storm", STORM("one rounds=400"), .timeout = 40 },
	{ .name = "storm-roles", STORM("roles rounds=100"), .cpus = 4, .timeout = 40 },
	{ .name = "storm-reboot",
	  STORM("reboot rounds=40"),
	  .cpus = 2,
	  .timeout = 40,
	  .logs = { "I guest resets" } },
};

const unsigned int nr_cases = nitems(cases);
