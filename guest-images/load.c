/* SPDX-License-Identifier: MIT */
/*
 * load.c - work for a disk or a network card, and how long it took. For benchmarks.
 *
 *	load disk DEVICE read|write random|sequential SIZE DEPTH COUNT
 *		COUNT requests of SIZE bytes, DEPTH of them under way at once, past the page cache
 *	load serve PORT            the other end of what follows, for ever
 *	load ask HOST PORT COUNT   a byte there and a byte back, COUNT times, one after the other
 *	load send HOST PORT MIB    a stream there
 *	load take HOST PORT MIB    a stream back
 *
 * Prints one line, "ballast: load KIND requests=N bytes=N ns=N", by the guest's monotonic clock.
 * Exit status: 0, or 1 and a line that says what failed.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include <linux/aio_abi.h>
#include <linux/fs.h>

#define MAX_DEPTH 256
#define CHUNK (256u << 10)

static uint64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void tell(const char *kind, uint64_t requests, uint64_t bytes, uint64_t since)
{
	printf("ballast: load %s requests=%" PRIu64 " bytes=%" PRIu64 " ns=%" PRIu64 "\n", kind,
	       requests, bytes, now() - since);
}

static uint64_t number(const char *text)
{
	char *end;
	uint64_t n = strtoull(text, &end, 10);

	if (*end || end == text || n == 0)
		errx(1, "'%s' is no number", text);
	return n;
}

/* Disk */

struct disk {
	int fd;
	aio_context_t context;
	uint16_t opcode;
	int random;
	uint64_t size;   /* of a request */
	uint64_t places; /* that the device has for one */
	uint64_t next;
	uint64_t state; /* of the random numbers, the same ones each time */
	struct iocb requests[MAX_DEPTH];
};

static void submit(struct disk *d, struct iocb *request)
{
	uint64_t place = d->next++;

	if (d->random) {
		d->state = d->state * 6364136223846793005u + 1442695040888963407u;
		place = d->state >> 20;
	}
	request->aio_offset = (int64_t)(place % d->places * d->size);
	if (syscall(SYS_io_submit, d->context, 1, &request) != 1)
		err(1, "io_submit");
}

static int run_disk(char **words)
{
	static struct disk d;
	struct io_event events[MAX_DEPTH];
	uint64_t depth = number(words[4]), count = number(words[5]), submitted = 0, done = 0;
	uint64_t device_size;
	void *memory;

	d.opcode = strcmp(words[1], "write") == 0 ? IOCB_CMD_PWRITE : IOCB_CMD_PREAD;
	d.random = strcmp(words[2], "random") == 0;
	d.size = number(words[3]);
	d.fd = open(words[0], O_RDWR | O_DIRECT);
	if (d.fd < 0 || ioctl(d.fd, BLKGETSIZE64, &device_size) < 0)
		err(1, "%s", words[0]);
	d.places = device_size / d.size;
	if (depth > MAX_DEPTH || d.places == 0)
		errx(1, "a depth of at most %d, and a device for it, please", MAX_DEPTH);
	if (posix_memalign(&memory, 4096, depth * d.size) != 0)
		errx(1, "no memory");
	memset(memory, 0x5a, depth * d.size);
	if (syscall(SYS_io_setup, MAX_DEPTH, &d.context) < 0)
		err(1, "io_setup");
	uint64_t since = now();
	for (; submitted < depth && submitted < count; submitted++) {
		d.requests[submitted] = (struct iocb){
			.aio_fildes = (uint32_t)d.fd,
			.aio_lio_opcode = d.opcode,
			.aio_buf = (uint64_t)(uintptr_t)((char *)memory + submitted * d.size),
			.aio_nbytes = d.size,
		};
		submit(&d, &d.requests[submitted]);
	}
	while (done < count) {
		long n = syscall(SYS_io_getevents, d.context, 1, MAX_DEPTH, events, NULL);
		if (n < 0)
			err(1, "io_getevents");
		for (long i = 0; i < n; i++, done++) {
			if (events[i].res != (int64_t)d.size)
				errx(1, "a request ended with %lld", (long long)events[i].res);
			if (submitted < count) {
				submit(&d, (struct iocb *)(uintptr_t)events[i].obj);
				submitted++;
			}
		}
	}
	tell("disk", done, done * d.size, since);
	return 0;
}

/* Network. The client's first byte says what it wants: 'a'sk, 's'end or 't'ake. */

static void must_write(int fd, const void *bytes, size_t size)
{
	for (const char *at = bytes; size > 0;) {
		ssize_t n = write(fd, at, size);
		if (n <= 0)
			err(1, "write");
		at += n;
		size -= (size_t)n;
	}
}

static void must_read(int fd, void *bytes, size_t size)
{
	for (char *at = bytes; size > 0;) {
		ssize_t n = read(fd, at, size);
		if (n <= 0)
			err(1, "read");
		at += n;
		size -= (size_t)n;
	}
}

static void serve_client(int fd)
{
	static char chunk[CHUNK];
	uint64_t size;
	char what;

	must_read(fd, &what, 1);
	if (what == 'a') {
		while (read(fd, chunk, 1) == 1)
			must_write(fd, chunk, 1);
		return;
	}
	must_read(fd, &size, sizeof(size));
	for (uint64_t n; size > 0; size -= n) {
		n = size < sizeof(chunk) ? size : sizeof(chunk);
		if (what == 's')
			must_read(fd, chunk, n);
		else
			must_write(fd, chunk, n);
	}
	must_write(fd, "!", 1); /* all is there */
}

static int serve(uint16_t port)
{
	const struct sockaddr_in any = { .sin_family = AF_INET, .sin_port = htons(port) };
	const int one = 1;
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (fd < 0 || bind(fd, (const struct sockaddr *)&any, sizeof(any)) < 0 ||
	    listen(fd, 8) < 0)
		err(1, "port %u", port);
	signal(SIGCHLD, SIG_IGN);
	for (;;) {
		int client = accept(fd, NULL, NULL);
		if (client < 0)
			continue;
		setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
		if (fork() == 0) {
			serve_client(client);
			_exit(0);
		}
		close(client);
	}
}

static int reach(const char *host, uint16_t port)
{
	struct sockaddr_in there = { .sin_family = AF_INET, .sin_port = htons(port) };
	const int one = 1;
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	if (inet_pton(AF_INET, host, &there.sin_addr) != 1)
		errx(1, "'%s' is no IPv4 address", host);
	if (fd < 0 || connect(fd, (const struct sockaddr *)&there, sizeof(there)) < 0)
		err(1, "%s", host);
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	return fd;
}

static int run_ask(char **words)
{
	int fd = reach(words[0], (uint16_t)number(words[1]));
	uint64_t count = number(words[2]);
	char byte = 'x';

	must_write(fd, "a", 1);
	uint64_t since = now();
	for (uint64_t i = 0; i < count; i++) {
		must_write(fd, &byte, 1);
		must_read(fd, &byte, 1);
	}
	tell("ask", count, count, since);
	return 0;
}

static int run_stream(char **words, char what)
{
	static char chunk[CHUNK];
	int fd = reach(words[0], (uint16_t)number(words[1]));
	uint64_t size = number(words[2]) << 20, chunks = size / CHUNK;

	must_write(fd, &what, 1);
	uint64_t since = now();
	must_write(fd, &size, sizeof(size));
	for (uint64_t i = 0; i < chunks; i++) {
		if (what == 's')
			must_write(fd, chunk, sizeof(chunk));
		else
			must_read(fd, chunk, sizeof(chunk));
	}
	must_read(fd, chunk, 1);
	tell(what == 's' ? "send" : "take", chunks, size, since);
	return 0;
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";

	if (strcmp(what, "disk") == 0 && argc == 8)
		return run_disk(argv + 2);
	if (strcmp(what, "serve") == 0 && argc == 3)
		return serve((uint16_t)number(argv[2]));
	if (strcmp(what, "ask") == 0 && argc == 5)
		return run_ask(argv + 2);
	if (strcmp(what, "send") == 0 && argc == 5)
		return run_stream(argv + 2, 's');
	if (strcmp(what, "take") == 0 && argc == 5)
		return run_stream(argv + 2, 't');
	errx(1, "wrong usage; see the head of load.c");
}
