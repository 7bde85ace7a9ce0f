/* SPDX-License-Identifier: MIT */
/*
 * console.h - where a port of the guest's, serial or virtio, comes out: this terminal, a file, a
 * UNIX socket. Two of them are not both to have the terminal.
 *
 * A terminal is put into raw mode and back. Ctrl-A then starts a command: x stops (first the
 * power button, then at once), p presses the power button, a sends a Ctrl-A, h lists these.
 * A socket serves one client at a time; without one, output is dropped, as on a port with no
 * cable. Output is written only where poll(2) says that there is room.
 *
 * What is typed ahead of the guest waits in a queue of 4 KiB. When that is full a pipe or a
 * socket waits too, while from a terminal only commands are still heard.
 *
 * Threads: output from any vCPU; the rest on the event loop. Takes console->lock, which is
 * innermost.
 */
#ifndef VMM_CONSOLE_H
#define VMM_CONSOLE_H

#include <pthread.h>
#include <termios.h>

#include <sys/ioctl.h>

#include "base/event_loop.h"

#include "devices/port.h"
#include "vmm/local_socket.h"

enum console_kind { CONSOLE_NONE, CONSOLE_STDIO, CONSOLE_FILE, CONSOLE_UNIX };

struct console_config {
	enum console_kind kind;
	const char *path; /* of the file or socket; borrowed */
};

#define CONSOLE_QUEUE_SIZE 4096u

enum console_command { CONSOLE_STOP, CONSOLE_POWER_BUTTON };

struct console {
	struct event_loop *loop; /* borrowed; NULL: not initialised */
	struct port *port;       /* borrowed; NULL before console_connect() */
	const char *option;      /* borrowed; what the user calls it, for logs */
	struct console_config config;
	pthread_mutex_t lock;
	int in_fd;  /* lock; -1: no input */
	int out_fd; /* lock; -1: output is dropped */
	int own_fd; /* owned: the file, the socket's client, standard output again; -1 */
	struct local_socket socket;
	struct event_source input;
	struct event_source output;  /* fd owned: out_fd again, as epoll tells fds apart */
	struct event_source clients; /* the socket's fd; -1 */
	struct event_source room;    /* fd owned: the guest has read, the queue may go on */
	uint8_t queue[CONSOLE_QUEUE_SIZE];
	size_t queued;    /* atomic; written on the event loop */
	bool input_waits; /* for room in the queue: not in the event loop */
	bool raw;         /* saved_termios is to be restored */
	bool escape;      /* the last byte was Ctrl-A */
	struct termios saved_termios;
	void (*command)(void *opaque, enum console_command command);
	void *opaque;
};

/*
 * Opens what config names, `option` of the command line; `command` is called on the event loop. The
 * errno of open; -EINVAL: the path is too long for a socket; else as local_socket_listen(). Logged.
 */
must_check int console_init(struct console *console, struct event_loop *loop,
			    const char *option, const struct console_config *config,
			    void (*command)(void *opaque, enum console_command command),
			    void *opaque);
/* Restores the terminal, removes the socket. Accepts a zeroed object. */
void console_finish(struct console *console);

/* What the port is to be initialised with. */
struct port_backend console_backend(struct console *console);
/* The port is there: input may flow; a terminal goes raw only now. -errno; logged. */
must_check int console_connect(struct console *console, struct port *port);

/* The size of the window that this is in; false: it is in none. SIGWINCH says that it changed. */
bool console_get_window(const struct console_config *config, struct winsize *ret);

#endif /* VMM_CONSOLE_H */
