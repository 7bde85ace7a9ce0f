/* SPDX-License-Identifier: MIT */
#include "vmm/console.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>

#include <sys/socket.h>
#include <sys/stat.h>

#include "base/fd.h"
#include "base/log.h"

#define CTRL_A 0x01
/* Bytes that hardly ever block after poll(2) has said yes, where the file's mode is not ours. */
#define SHARED_PIECE 128u

/* Output */

/* Or broken, of which only a write says how. */
static bool writable_now(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLOUT };
	return poll(&p, 1, 0) == 1;
}

/* What there is room for now. Nobody reads any more: all of it, the guest shall not wait. */
static size_t write_some(const struct console *c, const uint8_t *bytes, size_t size)
{
	if (!writable_now(c->out_fd))
		return 0;
	ssize_t n = c->config.kind == CONSOLE_UNIX
			    ? send(c->out_fd, bytes, size, MSG_NOSIGNAL | MSG_DONTWAIT)
			    : write(c->out_fd, bytes, size);
	if (n >= 0)
		return (size_t)n;
	return errno == EAGAIN || errno == EINTR ? 0 : size;
}

static size_t console_transmit(void *opaque, const uint8_t *bytes, size_t size)
{
	struct console *c = opaque;
	size_t taken = 0;

	pthread_mutex_lock(&c->lock);
	while (c->out_fd >= 0 && taken < size) {
		size_t n = size - taken;
		if (c->out_fd == STDOUT_FILENO && n > SHARED_PIECE)
			n = SHARED_PIECE;
		n = write_some(c, bytes + taken, n);
		if (n == 0)
			break;
		taken += n;
	}
	if (c->out_fd < 0)
		taken = size;
	else if (taken < size && c->output.fd >= 0)
		event_loop_modify(c->loop, &c->output, EPOLLOUT | EPOLLONESHOT);
	pthread_mutex_unlock(&c->lock);
	return taken;
}

/* Now, or as soon as the event loop is about to wait, whoever waits to be let in is let in. */
static void watch_clients(struct console *c)
{
	event_loop_modify(c->loop, &c->clients, EPOLLIN | EPOLLET);
}

/* One that is gone, of which there is still something to read: the next need not wait for that. */
static void look_at_hangup(struct console *c, uint32_t events)
{
	if (c->config.kind == CONSOLE_UNIX && c->input_waits && (events & EPOLLHUP))
		watch_clients(c);
}

static void output_ready(struct event_source *source, uint32_t events)
{
	struct console *c = container_of(source, struct console, output);

	look_at_hangup(c, events);
	/*
	 * A hang-up is still to be heard of, once. If a vCPU has begun to wait meanwhile, it does so
	 * again by what follows.
	 */
	if (events == EPOLLOUT)
		event_loop_modify(c->loop, source, EPOLLONESHOT);
	if (c->port)
		c->port->ops->transmit_ready(c->port);
}

/* Input */

/* On a vCPU's thread: the event loop does the rest. */
static void console_receive_ready(void *opaque)
{
	struct console *c = opaque;

	if (__atomic_load_n(&c->queued, __ATOMIC_SEQ_CST) > 0)
		eventfd_signal(c->room.fd);
}

/* True if there was room for it in the queue. */
static bool queue_byte(struct console *c, uint8_t byte)
{
	if (c->queued == sizeof(c->queue))
		return false;
	c->queue[c->queued] = byte;
	__atomic_store_n(&c->queued, c->queued + 1, __ATOMIC_SEQ_CST);
	return true;
}

/* What the guest has room for; it says when it has more. */
static void feed_guest(struct console *c)
{
	size_t n = c->port->ops->receive(c->port, c->queue, c->queued);

	memmove(c->queue, c->queue + n, c->queued - n);
	__atomic_store_n(&c->queued, c->queued - n, __ATOMIC_SEQ_CST);
}

static void run_escape(struct console *c, uint8_t byte)
{
	switch (byte) {
	case 'x': c->command(c->opaque, CONSOLE_STOP); break;
	case 'p': c->command(c->opaque, CONSOLE_POWER_BUTTON); break;
	case 'a':
	case CTRL_A: (void)queue_byte(c, CTRL_A); break; /* or it is lost, as any other */
	default: log_info("console: Ctrl-A x stop, p power button, a send Ctrl-A, h this help");
	}
}

static void take_input(struct console *c, const uint8_t *bytes, size_t size)
{
	for (size_t i = 0; i < size; i++) {
		if (c->escape) {
			c->escape = false;
			run_escape(c, bytes[i]);
		} else if (c->raw && bytes[i] == CTRL_A) {
			c->escape = true;
		} else {
			(void)queue_byte(c, bytes[i]); /* only a terminal's is ever refused */
		}
	}
	feed_guest(c);
}

static void stop_input(struct console *c)
{
	pthread_mutex_lock(&c->lock);
	if (c->input.fd >= 0 && !c->input_waits)
		event_loop_remove(c->loop, &c->input);
	c->input_waits = false;
	c->input.fd = -1;
	c->in_fd = -1;
	pthread_mutex_unlock(&c->lock);
}

static void drop_client(struct console *c)
{
	stop_input(c);
	pthread_mutex_lock(&c->lock);
	event_source_close(&c->output, c->loop);
	c->out_fd = -1;
	fd_close(&c->own_fd);
	pthread_mutex_unlock(&c->lock);
	if (c->port)
		c->port->ops->transmit_ready(
			c->port); /* what waited for the client goes nowhere */
	watch_clients(c);
}

static void input_ready(struct event_source *source, uint32_t events)
{
	struct console *c = container_of(source, struct console, input);
	uint8_t bytes[512];
	size_t room = sizeof(c->queue) - c->queued;

	if (room == 0 && !c->raw) {
		event_loop_remove(c->loop, &c->input);
		c->input_waits = true;
		look_at_hangup(c, events);
		return;
	}
	/* An escape command must get through to us even if nothing gets to the guest. */
	if (room == 0 || room > sizeof(bytes))
		room = sizeof(bytes);
	ssize_t n = read(c->in_fd, bytes, room);
	if (n > 0)
		take_input(c, bytes, (size_t)n);
	else if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
		if (c->config.kind == CONSOLE_UNIX)
			drop_client(c);
		else
			stop_input(c);
	}
}

/* The guest has read. */
static void room_ready(struct event_source *source, uint32_t events)
{
	struct console *c = container_of(source, struct console, room);

	(void)events;
	(void)eventfd_take(source->fd);
	if (!c->port)
		return;
	feed_guest(c);
	if (c->input_waits && c->queued < sizeof(c->queue)) {
		c->input_waits = false;
		if (event_loop_add(c->loop, &c->input, EPOLLIN) < 0)
			stop_input(c);
	}
}

/*
 * in_fd and out_fd are set: starts to listen to both. EPOLLONESHOT where nothing is waited for,
 * since a hang-up would be reported for ever otherwise.
 */
static int start_io(struct console *c)
{
	int r = 0;

	pthread_mutex_lock(&c->lock);
	if (c->in_fd >= 0) {
		c->input.fd = c->in_fd;
		r = event_loop_add(c->loop, &c->input, EPOLLIN);
		if (r < 0) /* a regular file or /dev/null: no input from there */
			c->input.fd = c->in_fd = -1;
	}
	if (c->out_fd >= 0) {
		c->output.fd = fcntl(c->out_fd, F_DUPFD_CLOEXEC, 3);
		r = c->output.fd < 0 ? -errno
				     : event_loop_add(c->loop, &c->output, EPOLLONESHOT);
		if (r == -EPERM) { /* a regular file is never full */
			fd_close(&c->output.fd);
			r = 0;
		}
	}
	pthread_mutex_unlock(&c->lock);
	return r < 0 && r != -EPERM ? log_err(r, "console: event loop") : 0;
}

/*
 * With no fd to be had a client stays in the queue: it is looked at again when another comes or
 * goes, not all the time.
 */
static void client_ready(struct event_source *source, uint32_t events)
{
	struct console *c = container_of(source, struct console, clients);

	(void)events;
	if (c->own_fd >= 0)
		drop_client(c); /* see look_at_hangup() */
	int fd = accept4(c->socket.fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (fd < 0 && (errno == EMFILE || errno == ENFILE || errno == ENOMEM)) {
		log_warn("console: a client has to wait: %s", strerror(errno));
		return;
	}
	if (fd < 0) {
		watch_clients(c);
		return;
	}
	/* One at a time; the next waits in the queue. */
	event_loop_modify(c->loop, &c->clients, 0);
	pthread_mutex_lock(&c->lock);
	c->own_fd = fd;
	c->in_fd = fd;
	c->out_fd = fd;
	pthread_mutex_unlock(&c->lock);
	if (start_io(c) < 0)
		drop_client(c);
}

/* Opening */

/*
 * Standard output once more, so that not blocking is only our affair and not that of all who
 * share it. -1: not a file's, where two places to write at are one too many; nor a socket's, and
 * not that of a terminal of another user's: then as it is.
 */
static int open_output(void)
{
	struct stat st;

	if (fstat(STDOUT_FILENO, &st) < 0 || S_ISREG(st.st_mode))
		return -1;
	return open("/proc/self/fd/1", O_WRONLY | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
}

static int open_stdio(struct console *c)
{
	c->in_fd = STDIN_FILENO;
	c->own_fd = open_output();
	c->out_fd = c->own_fd >= 0 ? c->own_fd : STDOUT_FILENO;
	if (!isatty(STDIN_FILENO) || tcgetattr(STDIN_FILENO, &c->saved_termios) < 0)
		return start_io(c);
	struct termios raw = c->saved_termios;
	cfmakeraw(&raw);
	raw.c_oflag = c->saved_termios.c_oflag; /* our own log goes there too */
	if (tcsetattr(STDIN_FILENO, TCSANOW, &raw) < 0)
		return log_err(-errno, "console: raw mode");
	c->raw = true;
	return start_io(c);
}

static int open_file(struct console *c)
{
	c->own_fd = open(c->config.path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NONBLOCK,
			 0600);
	if (c->own_fd < 0)
		return log_err(-errno, "console: %s file '%s'", c->option, c->config.path);
	c->out_fd = c->own_fd;
	return start_io(c);
}

static int open_socket(struct console *c)
{
	int r = local_socket_listen(&c->socket, c->config.path, 4);

	if (r < 0) {
		(void)log_err(r, "console: %s socket '%s'%s", c->option, c->config.path,
			      local_socket_remedy(r));
		return r == -ENAMETOOLONG ? -EINVAL : r; /* the user's affair */
	}
	c->clients.fd = c->socket.fd;
	r = event_loop_add(c->loop, &c->clients, EPOLLIN | EPOLLET);
	return r < 0 ? log_err(r, "console: event loop") : 0;
}

int console_init(struct console *c, struct event_loop *loop, const char *option,
		 const struct console_config *config,
		 void (*command)(void *opaque, enum console_command command), void *opaque)
{
	int r = 0;

	*c = (struct console){
		.loop = loop,
		.option = option,
		.config = *config,
		.in_fd = -1,
		.out_fd = -1,
		.own_fd = -1,
		.socket = { .fd = -1, .folder = -1 },
		.input = { .fd = -1, .ready = input_ready },
		.output = { .fd = -1, .ready = output_ready },
		.clients = { .fd = -1, .ready = client_ready },
		.room = { .fd = -1, .ready = room_ready },
		.command = command,
		.opaque = opaque,
	};
	pthread_mutex_init(&c->lock, NULL);
	r = event_source_open(&c->room, loop);
	if (r < 0) {
		console_finish(c);
		return log_err(r, "console: event loop");
	}
	switch (config->kind) {
	case CONSOLE_NONE: break;
	case CONSOLE_STDIO: break; /* when there is a port to talk to */
	case CONSOLE_FILE: r = open_file(c); break;
	case CONSOLE_UNIX: r = open_socket(c); break;
	}
	if (r < 0)
		console_finish(c);
	return r;
}

/* Who was stopped and goes on in the background would be stopped half-way through its end. */
static void restore_terminal(struct console *c)
{
	sigset_t output, before;

	sigemptyset(&output);
	sigaddset(&output, SIGTTOU);
	(void)pthread_sigmask(SIG_BLOCK, &output, &before);
	(void)tcsetattr(STDIN_FILENO, TCSANOW, &c->saved_termios); /* or it is gone */
	(void)pthread_sigmask(SIG_SETMASK, &before, NULL);
}

void console_finish(struct console *c)
{
	if (!c->loop)
		return;
	c->port = NULL;
	if (c->raw)
		restore_terminal(c);
	stop_input(c);
	event_source_close(&c->output, c->loop);
	fd_close(&c->own_fd);
	event_loop_remove(c->loop, &c->clients);
	local_socket_close(&c->socket);
	event_source_close(&c->room, c->loop);
	pthread_mutex_destroy(&c->lock);
	*c = (struct console){ 0 };
}

struct port_backend console_backend(struct console *c)
{
	return (struct port_backend){
		.transmit = console_transmit,
		.receive_ready = console_receive_ready,
		.opaque = c,
	};
}

int console_connect(struct console *c, struct port *port)
{
	c->port = port;
	/* Who is there before the guest starts shall see its first words. */
	if (c->config.kind == CONSOLE_UNIX)
		client_ready(&c->clients, EPOLLIN);
	return c->config.kind == CONSOLE_STDIO ? open_stdio(c) : 0;
}

/* Of the output if that is a terminal: the input may be a pipe, or the other way round. */
bool console_get_window(const struct console_config *config, struct winsize *ret)
{
	return config->kind == CONSOLE_STDIO && (ioctl(STDOUT_FILENO, TIOCGWINSZ, ret) >= 0 ||
						 ioctl(STDIN_FILENO, TIOCGWINSZ, ret) >= 0);
}
