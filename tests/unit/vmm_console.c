/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <linux/serial_reg.h>

#include "base/fd.h"

#include "devices/serial.h"
#include "devices/virtio_console.h"
#include "tests/fakes/process.h"
#include "tests/fakes/virtio_driver.h"
#include "tests/fakes/wires.h"
#include "vmm/console.h"

#define BASE 0x3f8u
#define CTRL_A "\x01"

static struct event_loop loop;
static struct event_source stopper;
static struct io_bus pio;
static struct fake_wires wires;
static struct serial serial;
static struct console console;
static struct virtio_driver driver;
static struct virtio_console hvc;
static char directory[64];
static char path[96];
static unsigned int fds_before;
static unsigned int nr_stops;
static unsigned int nr_buttons;

/* A signal that stops who changes a terminal from the background: what became of it then. */
int __real_tcsetattr(int fd, int actions, const struct termios *mode);
int __wrap_tcsetattr(int fd, int actions, const struct termios *mode);
static bool background_stops[2]; /* when it went raw, and back */
static unsigned int nr_modes_set;

static bool background_stops_us(void)
{
	sigset_t mask;

	ck_assert_int_eq(pthread_sigmask(SIG_BLOCK, NULL, &mask), 0);
	return sigismember(&mask, SIGTTOU) == 0;
}

int __wrap_tcsetattr(int fd, int actions, const struct termios *mode)
{
	ck_assert_uint_lt(nr_modes_set, nitems(background_stops));
	background_stops[nr_modes_set++] = background_stops_us();
	return __real_tcsetattr(fd, actions, mode);
}

static void stopper_ready(struct event_source *source, uint32_t events)
{
	(void)events;
	(void)eventfd_take(source->fd);
	event_loop_stop(&loop);
}

static void commanded(void *opaque, enum console_command command)
{
	ck_assert_ptr_eq(opaque, &loop);
	if (command == CONSOLE_STOP)
		nr_stops++;
	else
		nr_buttons++;
}

static void setup(void)
{
	process_keep_log();
	ck_assert(signal(SIGPIPE, SIG_IGN) != SIG_ERR); /* as machine_init() does */
	(void)strcpy(directory, "/tmp/ballast-console-XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(directory));
	(void)snprintf(path, sizeof(path), "%s/console", directory);
	ck_assert_int_eq(event_loop_init(&loop), 0);
	stopper.ready = stopper_ready;
	ck_assert_int_eq(eventfd_create(&stopper.fd), 0);
	ck_assert_int_eq(event_loop_add(&loop, &stopper, EPOLLIN), 0);
	io_bus_init(&pio);
	fake_wires_init(&wires);
	fds_before = process_nr_fds();
}

/* After which nothing of the console is left, whatever the test did. */
static void teardown(void)
{
	console_finish(&console);
	serial_finish(&serial);
	virtio_console_finish(&hvc);
	if (driver.ram.host)
		driver_finish(&driver);
	console_finish(&console);
	ck_assert_uint_eq(process_nr_fds(), fds_before);
	(void)unlink(path);
	(void)rmdir(directory);
}

static int init(enum console_kind kind)
{
	const struct console_config config = { kind, path };

	return console_init(&console, &loop, "--serial", &config, commanded, &loop);
}

static void start(enum console_kind kind)
{
	ck_assert_int_eq(init(kind), 0);
	const struct port_backend backend = console_backend(&console);
	ck_assert_int_eq(serial_init(&serial, &pio, &wires.wires, BASE, 4, &backend), 0);
	ck_assert_int_eq(console_connect(&console, &serial.port), 0);
}

/* Runs the loop until nobody is ready any more. One that never comes to rest spins. */
static void settle(void)
{
	struct pollfd p = { .fd = loop.epoll_fd, .events = POLLIN };

	for (unsigned int rounds = 0; poll(&p, 1, 5) == 1; rounds++) {
		ck_assert_msg(rounds < 200, "the loop spins");
		eventfd_signal(stopper.fd);
		loop.stopped = false;
		event_loop_run(&loop);
	}
}

static bool guest_can_write(void)
{
	return io_bus_read(&pio, BASE + UART_LSR, 1) & UART_LSR_THRE;
}

static void guest_writes(const char *text)
{
	for (; *text; text++) {
		ck_assert(guest_can_write());
		io_bus_write(&pio, BASE + UART_TX, 1, (uint8_t)*text);
	}
}

/* The guest takes what the port holds. */
static const char *guest_reads(void)
{
	static char text[SERIAL_FIFO_SIZE + 1];
	size_t n = 0;

	while (n < SERIAL_FIFO_SIZE && io_bus_read(&pio, BASE + UART_LSR, 1) & UART_LSR_DR)
		text[n++] = (char)io_bus_read(&pio, BASE + UART_RX, 1);
	text[n] = '\0';
	return text;
}

/* What can be read from an fd now. */
static const char *read_all(int fd)
{
	static char text[4096];
	struct pollfd p = { .fd = fd, .events = POLLIN };
	size_t n = 0;

	while (n < sizeof(text) - 1 && poll(&p, 1, 0) == 1) {
		ssize_t got = read(fd, text + n, sizeof(text) - 1 - n);
		if (got <= 0)
			break;
		n += (size_t)got;
	}
	text[n] = '\0';
	return text;
}

static void write_all(int fd, const char *text)
{
	ck_assert_int_eq(write(fd, text, strlen(text)), strlen(text));
}

/* No console. */

START_TEST(with_none_output_is_dropped)
{
	start(CONSOLE_NONE);
	for (unsigned int i = 0; i < 100; i++)
		guest_writes("to nobody");
	settle();
	ck_assert(guest_can_write());
}
END_TEST

START_TEST(finishing_a_zeroed_one_does_nothing)
{
	struct console zeroed = { 0 };

	console_finish(&zeroed);
	ck_assert_uint_eq(process_nr_fds(), fds_before);
}
END_TEST

/* File. */

START_TEST(a_file_gets_what_the_guest_writes_and_nothing_else)
{
	char text[64] = "";
	struct stat st;

	int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	write_all(fd, "what was there before");
	close(fd);
	start(CONSOLE_FILE);
	guest_writes("hello\n");
	settle();
	fd = open(path, O_RDONLY | O_CLOEXEC);
	ck_assert_int_eq(read(fd, text, sizeof(text)), 6);
	ck_assert_int_eq(fstat(fd, &st), 0);
	close(fd);
	ck_assert_str_eq(text, "hello\n");
	ck_assert_uint_eq(st.st_mode & 0777, 0600);
}
END_TEST

START_TEST(a_file_that_cannot_be_opened_is_named)
{
	(void)strcat(path, "/none/at/all");
	ck_assert_int_eq(init(CONSOLE_FILE), -ENOENT);
	process_expect_log("console: --serial file '");
}
END_TEST

START_TEST(a_pipe_that_is_full_makes_the_guest_wait)
{
	char bytes[4096];

	ck_assert_int_eq(mkfifo(path, 0600), 0);
	int reader = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	ck_assert_int_ge(reader, 0);
	start(CONSOLE_FILE);
	unsigned int written = 0;
	while (guest_can_write() && written < 1000000) {
		io_bus_write(&pio, BASE + UART_TX, 1, 'a' + written % 26);
		written++;
	}
	settle();
	ck_assert(!guest_can_write());
	unsigned int nr_read = 0;
	for (;;) {
		ssize_t n = read(reader, bytes, sizeof(bytes));
		if (n <= 0)
			break;
		for (ssize_t i = 0; i < n; i++)
			ck_assert(bytes[i] == (char)('a' + nr_read++ % 26));
		settle();
	}
	ck_assert_uint_eq(nr_read, written); /* none is lost */
	ck_assert(guest_can_write());
	close(reader);
}
END_TEST

START_TEST(a_full_pipe_whose_reader_went_away_holds_nobody_up)
{
	ck_assert_int_eq(mkfifo(path, 0600), 0);
	int reader = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	start(CONSOLE_FILE);
	while (guest_can_write())
		io_bus_write(&pio, BASE + UART_TX, 1, 'x');
	close(reader);
	settle();
	ck_assert(guest_can_write());
	guest_writes("into nothing");
	settle();
}
END_TEST

/* Socket. */

static int try_socket(void)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	ck_assert_int_ge(fd, 0);
	return fd;
}

static void connect_to_path(int fd)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	(void)snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
	ck_assert_int_eq(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
}

static int ask_for_connection(void)
{
	int fd = try_socket();

	connect_to_path(fd);
	return fd;
}

static int connect_client(void)
{
	int fd = ask_for_connection();

	settle();
	return fd;
}

START_TEST(a_socket_is_for_its_owner_and_goes_with_the_console)
{
	struct stat st;

	(void)umask(0); /* which would let everybody in */
	start(CONSOLE_UNIX);
	ck_assert_int_eq(stat(path, &st), 0);
	ck_assert(S_ISSOCK(st.st_mode));
	ck_assert_uint_eq(st.st_mode & 0777, 0600);
	console_finish(&console);
	ck_assert_int_lt(stat(path, &st), 0);
}
END_TEST

START_TEST(a_client_talks_with_the_guest)
{
	start(CONSOLE_UNIX);
	int client = connect_client();
	guest_writes("login: ");
	ck_assert_str_eq(read_all(client), "login: ");
	write_all(client, "root");
	settle();
	ck_assert_str_eq(guest_reads(), "root");
	close(client);
	settle();
}
END_TEST

START_TEST(who_is_there_before_the_guest_starts_sees_its_first_words)
{
	ck_assert_int_eq(init(CONSOLE_UNIX), 0);
	int client = ask_for_connection();
	const struct port_backend backend = console_backend(&console);
	ck_assert_int_eq(serial_init(&serial, &pio, &wires.wires, BASE, 4, &backend), 0);
	ck_assert_int_eq(console_connect(&console, &serial.port), 0);
	guest_writes("first words");
	ck_assert_str_eq(read_all(client), "first words");
	close(client);
	settle();
}
END_TEST

START_TEST(without_a_client_output_is_dropped)
{
	start(CONSOLE_UNIX);
	guest_writes("to nobody");
	settle();
	int client = connect_client();
	ck_assert_str_eq(read_all(client), "");
	guest_writes("to somebody");
	ck_assert_str_eq(read_all(client), "to somebody");
	close(client);
	settle();
	guest_writes("to nobody again");
}
END_TEST

START_TEST(the_next_client_waits_for_the_first_to_leave)
{
	start(CONSOLE_UNIX);
	int first = connect_client();
	int second = connect_client();
	guest_writes("1");
	ck_assert_str_eq(read_all(second), "");
	write_all(second, "b");
	settle();
	ck_assert_str_eq(guest_reads(), "");
	ck_assert_str_eq(read_all(first), "1");
	close(first);
	settle();
	ck_assert_str_eq(guest_reads(), "b");
	guest_writes("2");
	ck_assert_str_eq(read_all(second), "2");
	close(second);
	settle();
}
END_TEST

START_TEST(clients_come_and_go_and_leave_nothing)
{
	start(CONSOLE_UNIX);
	unsigned int fds = process_nr_fds();
	for (unsigned int i = 0; i < 20; i++) {
		int client = connect_client();
		guest_writes("x");
		close(client);
		settle();
	}
	ck_assert_uint_eq(process_nr_fds(), fds);
}
END_TEST

START_TEST(with_no_fd_to_be_had_a_client_waits_until_another_comes_or_goes)
{
	start(CONSOLE_UNIX);
	int first = try_socket();
	int second = try_socket();
	process_forbid_fds();
	connect_to_path(first);
	settle(); /* does not spin */
	process_allow_fds();
	process_expect_log("W console: a client has to wait: Too many open files");
	connect_to_path(second);
	settle();
	guest_writes("1");
	ck_assert_str_eq(read_all(first), "1");
	/* Those of the first come free. */
	process_forbid_fds();
	close(first);
	settle();
	guest_writes("2");
	process_allow_fds();
	ck_assert_str_eq(read_all(second), "2");
	process_expect_no_log();
	close(second);
	settle();
}
END_TEST

START_TEST(input_waits_until_the_guest_has_room)
{
	static const char text[] = "the quick brown fox jumps over the lazy dog, twice a day";
	char received[128] = "";

	start(CONSOLE_UNIX);
	int client = connect_client();
	write_all(client, text);
	settle();
	while (strlen(received) < strlen(text)) {
		const char *piece = guest_reads();
		ck_assert_uint_gt(strlen(piece), 0);
		strcat(received, piece);
		settle();
	}
	ck_assert_str_eq(received, text);
	close(client);
	settle();
}
END_TEST

START_TEST(a_client_that_hangs_up_with_input_waiting_is_read_to_the_end)
{
	start(CONSOLE_UNIX);
	int client = connect_client();
	write_all(client, "0123456789abcdefGHI");
	close(client);
	settle(); /* and does not spin meanwhile */
	ck_assert_str_eq(guest_reads(), "0123456789abcdef");
	settle();
	ck_assert_str_eq(guest_reads(), "GHI");
	client = connect_client();
	guest_writes("next");
	ck_assert_str_eq(read_all(client), "next");
	close(client);
	settle();
}
END_TEST

START_TEST(a_client_that_left_what_nobody_reads_makes_way_for_the_next)
{
	char much[8192];

	memset(much, 'm', sizeof(much) - 1);
	much[sizeof(much) - 1] = '\0';
	for (unsigned int i = 0; i < 4; i++) {
		if (i == 0)
			start(CONSOLE_UNIX);
		int client = connect_client();
		settle();
		guest_writes("word");
		ck_assert_str_eq(read_all(client), "word");
		write_all(client, much);
		if (i % 2) /* it goes before the queue is found full, and after */
			settle();
		close(client);
		settle();
	}
}
END_TEST

/* The kernel tells no more of an output that had to wait once, unless it is asked to again. */
START_TEST(a_client_that_was_slow_and_left_what_nobody_reads_makes_way_for_the_next)
{
	static char much[2 * CONSOLE_QUEUE_SIZE + 1];

	start(CONSOLE_UNIX);
	int client = connect_client();
	while (guest_can_write())
		io_bus_write(&pio, BASE + UART_TX, 1, 'x');
	while (*read_all(client))
		settle();
	ck_assert(guest_can_write());
	memset(much, 'm', sizeof(much) - 1);
	write_all(client, much);
	settle();
	ck_assert(console.input_waits);
	close(client);
	settle();
	client = connect_client();
	guest_writes("word");
	ck_assert_str_eq(read_all(client), "word");
	close(client);
	settle();
}
END_TEST

START_TEST(clearing_a_full_port_lets_input_flow_again)
{
	start(CONSOLE_UNIX);
	int client = connect_client();
	write_all(client, "0123456789abcdefGHI");
	settle();
	io_bus_write(&pio, BASE + UART_FCR, 1, UART_FCR_ENABLE_FIFO | UART_FCR_CLEAR_RCVR);
	settle();
	ck_assert_str_eq(guest_reads(), "GHI");
	close(client);
	settle();
}
END_TEST

START_TEST(a_client_that_does_not_read_makes_the_guest_wait_and_loses_nothing)
{
	unsigned int written = 0;
	unsigned int nr_read = 0;
	char bytes[4096];

	start(CONSOLE_UNIX);
	int client = connect_client();
	while (guest_can_write() && written < 10000000)
		io_bus_write(&pio, BASE + UART_TX, 1, 'a' + written++ % 26);
	settle();
	ck_assert(!guest_can_write());
	while (nr_read < written) {
		ssize_t n = recv(client, bytes, sizeof(bytes), MSG_DONTWAIT);
		ck_assert_int_gt(n, 0);
		for (ssize_t i = 0; i < n; i++)
			ck_assert(bytes[i] == (char)('a' + nr_read++ % 26));
		if (nr_read + sizeof(bytes) > written)
			settle();
	}
	ck_assert(guest_can_write());
	close(client);
	settle();
}
END_TEST

START_TEST(a_client_that_leaves_while_the_guest_waits_sets_it_free)
{
	start(CONSOLE_UNIX);
	int client = connect_client();
	while (guest_can_write())
		io_bus_write(&pio, BASE + UART_TX, 1, 'x');
	close(client);
	settle();
	ck_assert(guest_can_write());
}
END_TEST

START_TEST(a_control_a_from_a_client_is_the_guests)
{
	start(CONSOLE_UNIX);
	int client = connect_client();
	write_all(client, CTRL_A "x");
	settle();
	ck_assert_str_eq(guest_reads(), CTRL_A "x");
	ck_assert_uint_eq(nr_stops, 0);
	close(client);
	settle();
}
END_TEST

START_TEST(a_socket_path_that_is_taken_is_named)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	close(fd);
	ck_assert_int_eq(init(CONSOLE_UNIX), -EEXIST);
	process_expect_log("console' (it is no socket: remove it, or choose another path)");
	struct stat st;
	ck_assert_int_eq(stat(path, &st), 0); /* it is not ours to remove */
}
END_TEST

/* As of one that was killed. Of one that lives it is left. */
START_TEST(a_socket_that_nobody_listens_at_is_replaced)
{
	struct console second;
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	const struct console_config config = { CONSOLE_UNIX, path };

	(void)snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	ck_assert_int_eq(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	close(fd);
	ck_assert_int_eq(init(CONSOLE_UNIX), 0);
	process_expect_no_log();
	ck_assert_int_eq(console_init(&second, &loop, "--console", &config, commanded, &loop),
			 -EADDRINUSE);
	process_expect_log("console' (another program serves it: choose another path): Add");
	ck_assert_int_eq(access(path, F_OK), 0);
	console_finish(&console);
	ck_assert_int_lt(access(path, F_OK), 0);
}
END_TEST

START_TEST(a_socket_path_that_is_too_long_is_refused)
{
	char longer[200];
	const struct console_config config = { CONSOLE_UNIX, longer };

	memset(longer, 'x', sizeof(longer) - 1);
	longer[sizeof(longer) - 1] = '\0';
	ck_assert_int_eq(console_init(&console, &loop, "--serial", &config, commanded, &loop),
			 -EINVAL);
	process_expect_log("(at most 107 bytes, please)");
	longer[108] = '\0';
	ck_assert_int_eq(console_init(&console, &loop, "--serial", &config, commanded, &loop),
			 -EINVAL);
	process_expect_log("(at most 107 bytes, please)");
}
END_TEST

/* Standard input and output. */

/* Puts fds into the place of 0 and 1; the console does not own those. */
static void set_stdio(int in, int out)
{
	ck_assert_int_eq(dup2(in, STDIN_FILENO), STDIN_FILENO);
	ck_assert_int_eq(dup2(out, STDOUT_FILENO), STDOUT_FILENO);
	close(in);
	if (out != in)
		close(out);
	fds_before = process_nr_fds();
}

START_TEST(pipes_carry_the_console_and_no_escapes)
{
	int in[2], out[2];

	ck_assert_int_eq(pipe2(in, O_CLOEXEC), 0);
	ck_assert_int_eq(pipe2(out, O_CLOEXEC), 0);
	set_stdio(in[0], out[1]);
	start(CONSOLE_STDIO);
	guest_writes("hello");
	ck_assert_str_eq(read_all(out[0]), "hello");
	write_all(in[1], CTRL_A "x");
	settle();
	ck_assert_str_eq(guest_reads(), CTRL_A "x");
	ck_assert_uint_eq(nr_stops, 0);
}
END_TEST

START_TEST(the_end_of_standard_input_is_no_end_of_output)
{
	int in[2], out[2];

	ck_assert_int_eq(pipe2(in, O_CLOEXEC), 0);
	ck_assert_int_eq(pipe2(out, O_CLOEXEC), 0);
	set_stdio(in[0], out[1]);
	start(CONSOLE_STDIO);
	write_all(in[1], "last");
	close(in[1]);
	fds_before--;
	settle();
	ck_assert_str_eq(guest_reads(), "last");
	settle();
	guest_writes("still here");
	ck_assert_str_eq(read_all(out[0]), "still here");
}
END_TEST

START_TEST(a_full_port_at_the_end_of_standard_input_does_not_spin)
{
	int in[2], out[2];

	ck_assert_int_eq(pipe2(in, O_CLOEXEC), 0);
	ck_assert_int_eq(pipe2(out, O_CLOEXEC), 0);
	set_stdio(in[0], out[1]);
	start(CONSOLE_STDIO);
	write_all(in[1], "0123456789abcdefGHI");
	close(in[1]);
	fds_before--;
	settle();
	ck_assert_str_eq(guest_reads(), "0123456789abcdef");
	settle();
	ck_assert_str_eq(guest_reads(), "GHI");
}
END_TEST

START_TEST(dev_null_and_regular_files_give_no_input_and_take_output)
{
	char text[8] = "";

	int file = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	int reader = open(path, O_RDONLY | O_CLOEXEC);
	set_stdio(open("/dev/null", O_RDWR | O_CLOEXEC), file);
	start(CONSOLE_STDIO);
	settle();
	guest_writes("out");
	ck_assert_int_eq(pread(reader, text, sizeof(text), 0), 3);
	ck_assert_str_eq(text, "out");
	ck_assert_uint_eq(process_nr_fds(),
			  fds_before + 2); /* the serial port's eventfd, and ours */
}
END_TEST

START_TEST(a_reader_that_goes_away_is_no_error)
{
	int in[2], out[2];

	ck_assert_int_eq(pipe2(in, O_CLOEXEC), 0);
	ck_assert_int_eq(pipe2(out, O_CLOEXEC), 0);
	set_stdio(in[0], out[1]);
	start(CONSOLE_STDIO);
	guest_writes("heard");
	close(out[0]);
	fds_before--;
	settle();
	guest_writes("not heard");
	settle();
	ck_assert(guest_can_write());
	process_expect_no_log();
}
END_TEST

/* Terminal. */

static int terminal; /* the user's end */

static void start_terminal(void)
{
	terminal = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
	ck_assert_int_ge(terminal, 0);
	ck_assert_int_eq(grantpt(terminal), 0);
	ck_assert_int_eq(unlockpt(terminal), 0);
	int fd = open(ptsname(terminal), O_RDWR | O_NOCTTY | O_CLOEXEC);
	ck_assert_int_ge(fd, 0);
	set_stdio(fd, fd);
}

static struct termios mode(void)
{
	struct termios t;

	ck_assert_int_eq(tcgetattr(STDIN_FILENO, &t), 0);
	return t;
}

/* Between the two ends of a terminal a thread of the kernel's carries the bytes. */
static void await_bytes(int fd, size_t size)
{
	int available = 0;

	for (unsigned int i = 0; i < 5000 && available < (int)size; i++) {
		ck_assert_int_eq(ioctl(fd, FIONREAD, &available), 0);
		usleep(1000);
	}
	ck_assert_int_eq(available, size);
}

static void type(const char *text)
{
	write_all(terminal, text);
	await_bytes(STDIN_FILENO, strlen(text));
	settle();
}

START_TEST(a_terminal_goes_raw_on_connecting_and_back_at_the_end)
{
	start_terminal();
	struct termios before = mode();
	ck_assert_int_eq(init(CONSOLE_STDIO), 0);
	struct termios opened = mode();
	ck_assert_uint_eq(opened.c_lflag, before.c_lflag); /* not yet: errors are printed */
	ck_assert_int_eq(console_connect(&console, &serial.port), 0);
	ck_assert_uint_eq(mode().c_lflag & (ICANON | ECHO | ISIG), 0);
	ck_assert_uint_eq(mode().c_oflag, before.c_oflag); /* our log goes there, too */
	console_finish(&console);
	struct termios after = mode();
	ck_assert_uint_eq(after.c_lflag, before.c_lflag);
	ck_assert_uint_eq(after.c_iflag, before.c_iflag);
	ck_assert_uint_eq(after.c_oflag, before.c_oflag);
}
END_TEST

/* Not before its end: who starts it in the background wants it to wait for the terminal. */
START_TEST(at_its_end_it_is_not_stopped_for_being_in_the_background)
{
	start_terminal();
	start(CONSOLE_STDIO);
	console_finish(&console);
	ck_assert_uint_eq(nr_modes_set, 2);
	ck_assert(background_stops[0]);
	ck_assert(!background_stops[1]);
	ck_assert(background_stops_us()); /* it is as before */
}
END_TEST

START_TEST(what_is_typed_reaches_the_guest_byte_by_byte)
{
	start_terminal();
	start(CONSOLE_STDIO);
	type("ls\r\x03\x04");
	ck_assert_str_eq(guest_reads(), "ls\r\x03\x04");
	guest_writes("file");
	await_bytes(terminal, 4);
	ck_assert_str_eq(read_all(terminal), "file");
}
END_TEST

START_TEST(control_a_x_stops_and_p_presses_the_button)
{
	start_terminal();
	start(CONSOLE_STDIO);
	type(CTRL_A "x");
	ck_assert_uint_eq(nr_stops, 1);
	type(CTRL_A);
	type("p");
	ck_assert_uint_eq(nr_buttons, 1);
	type("x");
	ck_assert_uint_eq(nr_stops, 1);
	ck_assert_str_eq(guest_reads(), "x");
}
END_TEST

START_TEST(control_a_itself_is_sent_by_doubling_it_or_a)
{
	start_terminal();
	start(CONSOLE_STDIO);
	type(CTRL_A "a");
	type(CTRL_A CTRL_A);
	type("b");
	ck_assert_str_eq(guest_reads(), CTRL_A CTRL_A "b");
}
END_TEST

START_TEST(control_a_and_any_other_key_prints_the_keys)
{
	start_terminal();
	start(CONSOLE_STDIO);
	type(CTRL_A "h");
	process_expect_log("Ctrl-A x stop");
	type(CTRL_A "z");
	process_expect_log("Ctrl-A x stop");
	ck_assert_str_eq(guest_reads(), "");
}
END_TEST

START_TEST(an_escape_gets_through_a_port_that_the_guest_does_not_read)
{
	start_terminal();
	start(CONSOLE_STDIO);
	type("0123456789abcdefGHIJK");
	type(CTRL_A "x");
	ck_assert_uint_eq(nr_stops, 1);
	ck_assert_str_eq(guest_reads(), "0123456789abcdef");
}
END_TEST

START_TEST(what_is_pasted_before_the_guest_reads_waits_for_it)
{
	start_terminal();
	start(CONSOLE_STDIO);
	type("0123456789abcdefGHIJKLMNOPQRSTUVwxyz");
	ck_assert_str_eq(guest_reads(), "0123456789abcdef");
	settle();
	ck_assert_str_eq(guest_reads(), "GHIJKLMNOPQRSTUV");
	type("!");
	ck_assert_str_eq(guest_reads(), "wxyz!");
}
END_TEST

START_TEST(an_escape_gets_through_a_queue_that_is_full)
{
	static char much[CONSOLE_QUEUE_SIZE];

	start_terminal();
	start(CONSOLE_STDIO);
	memset(much, 'x', sizeof(much) - 1);
	for (unsigned int i = 0; i < 8; i++) {
		much[sizeof(much) / 8] = '\0'; /* a terminal takes no more at once */
		type(much);
	}
	type("xxxxxxxxxxxxxxxxxxxx");
	ck_assert_uint_eq(console.queued, CONSOLE_QUEUE_SIZE);
	type(CTRL_A "x");
	ck_assert_uint_eq(nr_stops, 1);
}
END_TEST

START_TEST(a_terminal_that_hangs_up_holds_nobody_up)
{
	start_terminal();
	start(CONSOLE_STDIO);
	(void)signal(SIGHUP, SIG_IGN);
	close(terminal);
	fds_before--;
	settle();
	guest_writes("into nothing");
	settle();
	ck_assert(guest_can_write());
}
END_TEST

/* A virtio console in the serial port's place. */

#define OUTPUT DRIVER_POOL
#define INPUT (2 * DRIVER_POOL)
#define MUCH (4 * DRIVER_POOL)
enum { RECEIVEQ, TRANSMITQ };

static void start_hvc(enum console_kind kind)
{
	ck_assert_int_eq(init(kind), 0);
	const struct port_backend backend = console_backend(&console);
	driver_init(&driver);
	ck_assert_int_eq(virtio_console_init(&hvc, &driver.map, &loop, &backend, NULL), 0);
	driver_take(&driver, &hvc.virtio);
	driver_start(&driver, UINT64_MAX);
	ck_assert_int_eq(console_connect(&console, &hvc.port), 0);
}

static void hvc_sends(gpa_t gpa, uint32_t size)
{
	const struct driver_buffer buffer = { gpa, size, false };

	(void)driver_add(&driver, TRANSMITQ, &buffer, 1);
	driver_kick(&driver, TRANSMITQ);
}

static void hvc_writes(const char *text)
{
	memcpy(driver_at(&driver, OUTPUT, strlen(text)), text, strlen(text));
	hvc_sends(OUTPUT, (uint32_t)strlen(text));
}

static void hvc_gives_buffer(uint32_t size)
{
	const struct driver_buffer buffer = { INPUT, size, true };

	(void)driver_add(&driver, RECEIVEQ, &buffer, 1);
	driver_kick(&driver, RECEIVEQ);
	settle();
}

/* How often what was sent was answered since the last time. */
static unsigned int nr_answers(void)
{
	unsigned int n = 0;
	uint16_t head;
	uint32_t written;

	while (driver_take_used(&driver, TRANSMITQ, &head, &written))
		n++;
	return n;
}

/* Of the buffer; 0: it did not come back. */
static uint32_t nr_received(void)
{
	uint16_t head;
	uint32_t written = 0;

	(void)driver_take_used(&driver, RECEIVEQ, &head, &written);
	return written;
}

START_TEST(a_client_talks_with_a_virtio_console)
{
	start_hvc(CONSOLE_UNIX);
	int client = connect_client();
	hvc_writes("login: ");
	ck_assert_str_eq(read_all(client), "login: ");
	ck_assert_uint_eq(nr_answers(), 1);
	write_all(client, "root\r");
	settle();
	ck_assert_uint_eq(nr_received(), 0);
	hvc_gives_buffer(2);
	ck_assert_uint_eq(nr_received(), 2);
	hvc_gives_buffer(100);
	ck_assert_uint_eq(nr_received(), 3);
	ck_assert_mem_eq(driver_at(&driver, INPUT, 3), "ot\r", 3);
	hvc_gives_buffer(100);
	write_all(client, "ls\r");
	settle();
	ck_assert_uint_eq(nr_received(), 3);
	close(client);
	settle();
}
END_TEST

START_TEST(input_for_many_small_buffers_comes_without_a_kick_each)
{
	const struct driver_buffer buffer = { INPUT, 1, true };

	start_hvc(CONSOLE_UNIX);
	int client = connect_client();
	for (unsigned int i = 0; i < driver.queues[RECEIVEQ].size; i++)
		(void)driver_add(&driver, RECEIVEQ, &buffer, 1);
	char text[201];
	memset(text, 'x', 200);
	text[200] = '\0';
	write_all(client, text);
	settle();
	for (unsigned int i = 0; i < driver.queues[RECEIVEQ].size; i++)
		ck_assert_uint_eq(nr_received(), 1);
	hvc_gives_buffer(1000);
	ck_assert_uint_eq(nr_received(), 200 - driver.queues[RECEIVEQ].size);
	close(client);
	settle();
}
END_TEST

static uint8_t *fill_much(uint32_t size)
{
	uint8_t *bytes = driver_at(&driver, MUCH, size);

	for (uint32_t i = 0; i < size; i++)
		bytes[i] = (uint8_t)('a' + (i + i / 4096) % 26);
	return bytes;
}

START_TEST(a_client_that_is_slow_makes_a_virtio_queue_wait_and_loses_nothing)
{
	const uint32_t size = 1 << 20;
	uint8_t piece[4096];
	uint32_t nr_read = 0;

	start_hvc(CONSOLE_UNIX);
	const uint8_t *bytes = fill_much(size);
	int client = connect_client();
	hvc_sends(MUCH, size);
	settle();
	ck_assert_uint_eq(nr_answers(), 0);
	while (nr_read < size) {
		ssize_t n = recv(client, piece, sizeof(piece), MSG_DONTWAIT);
		if (n < 0)
			settle(); /* the rest comes */
		if (n > 0)
			ck_assert_mem_eq(piece, bytes + nr_read, n);
		nr_read += n > 0 ? (uint32_t)n : 0;
	}
	settle();
	ck_assert_uint_eq(nr_answers(), 1);
	process_expect_no_log();
	close(client);
	settle();
}
END_TEST

START_TEST(a_client_that_leaves_sets_a_virtio_queue_free)
{
	start_hvc(CONSOLE_UNIX);
	(void)fill_much(1 << 20);
	int client = connect_client();
	hvc_sends(MUCH, 1 << 20);
	settle();
	ck_assert_uint_eq(nr_answers(), 0);
	close(client);
	settle();
	ck_assert_uint_eq(nr_answers(), 1);
}
END_TEST

/* The terminal's file is one that blocks, and the event loop must not. */
static void expect_terminal_to_wait(const char *pattern)
{
	const uint32_t size = 1 << 18;
	uint32_t nr_read = 0;

	start_terminal();
	start_hvc(CONSOLE_STDIO);
	uint8_t *bytes = fill_much(size);
	if (pattern)
		memset(bytes, *pattern, size);
	hvc_sends(MUCH, size);
	settle();
	ck_assert_uint_eq(nr_answers(), 0);
	while (nr_answers() == 0) {
		ck_assert_uint_lt(nr_read, 3 * size);
		nr_read += (uint32_t)strlen(read_all(terminal));
		settle();
	}
	process_expect_no_log();
}

START_TEST(a_terminal_that_is_slow_makes_a_virtio_queue_wait)
{
	expect_terminal_to_wait(NULL);
}
END_TEST

/* Each of which is two bytes on a terminal. */
START_TEST(a_terminal_that_is_slow_takes_line_feeds_too)
{
	expect_terminal_to_wait("\n");
}
END_TEST

START_TEST(a_terminal_is_a_virtio_consoles_as_well)
{
	start_terminal();
	start_hvc(CONSOLE_STDIO);
	hvc_gives_buffer(100);
	type(CTRL_A "xls");
	ck_assert_uint_eq(nr_stops, 1);
	ck_assert_uint_eq(nr_received(), 2);
	hvc_writes("file");
	await_bytes(terminal, 4);
	ck_assert_str_eq(read_all(terminal), "file");
}
END_TEST

/* Whose place to write at is shared: it is not opened a second time. */
START_TEST(standard_output_that_is_a_file_gets_it_all)
{
	static const char before[] = "before ";
	char text[5007 + 1];

	int file = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	int reader = open(path, O_RDONLY | O_CLOEXEC);
	write_all(file, before);
	set_stdio(open("/dev/null", O_RDWR | O_CLOEXEC), file);
	start_hvc(CONSOLE_STDIO);
	const uint8_t *bytes = fill_much(5000);
	hvc_sends(MUCH, 5000);
	settle();
	ck_assert_uint_eq(nr_answers(), 1);
	ck_assert_int_eq(pread(reader, text, sizeof(text), 0), 5007);
	ck_assert_mem_eq(text, before, 7);
	ck_assert_mem_eq(text + 7, bytes, 5000);
}
END_TEST

START_TEST(two_ports_have_a_back_end_each)
{
	struct console other;
	char other_path[128];
	const struct console_config config = { CONSOLE_FILE, other_path };
	char text[64] = "";

	(void)snprintf(other_path, sizeof(other_path), "%s.log", path);
	ck_assert_int_eq(console_init(&other, &loop, "--console", &config, commanded, &loop),
			 0);
	const struct port_backend backend = console_backend(&other);
	driver_init(&driver);
	ck_assert_int_eq(virtio_console_init(&hvc, &driver.map, &loop, &backend, NULL), 0);
	driver_take(&driver, &hvc.virtio);
	start(CONSOLE_UNIX);
	ck_assert_int_eq(console_connect(&other, &hvc.port), 0);
	driver_start(&driver, 0);
	int client = connect_client();
	guest_writes("serial");
	hvc_writes("virtio");
	settle();
	ck_assert_str_eq(read_all(client), "serial");
	int fd = open(other_path, O_RDONLY | O_CLOEXEC);
	ck_assert_int_eq(read(fd, text, sizeof(text)), 6);
	ck_assert_str_eq(text, "virtio");
	close(fd);
	close(client);
	settle();
	virtio_console_finish(&hvc);
	console_finish(&other);
	(void)unlink(other_path);
}
END_TEST

START_TEST(an_error_names_the_option)
{
	const struct console_config config = { CONSOLE_FILE, "/none/at/all" };

	ck_assert_int_eq(console_init(&console, &loop, "--console", &config, commanded, &loop),
			 -ENOENT);
	process_expect_log("console: --console file '/none/at/all'");
}
END_TEST

START_TEST(a_window_is_the_terminals_on_either_side)
{
	const struct console_config stdio = { CONSOLE_STDIO, NULL };
	const struct console_config file = { CONSOLE_FILE, path };
	const struct winsize size = { .ws_col = 100, .ws_row = 30 };
	struct winsize got;
	int out[2];

	start_terminal();
	ck_assert_int_eq(ioctl(terminal, TIOCSWINSZ, &size), 0);
	ck_assert(!console_get_window(&file, &got));
	ck_assert(console_get_window(&stdio, &got));
	ck_assert_uint_eq(got.ws_col, 100);
	ck_assert_uint_eq(got.ws_row, 30);
	ck_assert_int_eq(pipe2(out, O_CLOEXEC), 0);
	ck_assert_int_eq(dup2(out[1], STDOUT_FILENO), STDOUT_FILENO);
	got = (struct winsize){ 0 };
	ck_assert(console_get_window(&stdio, &got)); /* ballast | tee log */
	ck_assert_uint_eq(got.ws_col, 100);
	ck_assert_int_eq(dup2(out[0], STDIN_FILENO), STDIN_FILENO);
	ck_assert(!console_get_window(&stdio, &got));
	close(out[0]);
	close(out[1]);
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		with_none_output_is_dropped,
		finishing_a_zeroed_one_does_nothing,
		a_file_gets_what_the_guest_writes_and_nothing_else,
		a_file_that_cannot_be_opened_is_named,
		a_pipe_that_is_full_makes_the_guest_wait,
		a_full_pipe_whose_reader_went_away_holds_nobody_up,
		a_socket_is_for_its_owner_and_goes_with_the_console,
		a_client_talks_with_the_guest,
		who_is_there_before_the_guest_starts_sees_its_first_words,
		without_a_client_output_is_dropped,
		the_next_client_waits_for_the_first_to_leave,
		clients_come_and_go_and_leave_nothing,
		with_no_fd_to_be_had_a_client_waits_until_another_comes_or_goes,
		input_waits_until_the_guest_has_room,
		a_client_that_hangs_up_with_input_waiting_is_read_to_the_end,
		a_client_that_left_what_nobody_reads_makes_way_for_the_next,
		a_client_that_was_slow_and_left_what_nobody_reads_makes_way_for_the_next,
		clearing_a_full_port_lets_input_flow_again,
		a_client_that_does_not_read_makes_the_guest_wait_and_loses_nothing,
		a_client_that_leaves_while_the_guest_waits_sets_it_free,
		a_control_a_from_a_client_is_the_guests,
		a_socket_path_that_is_taken_is_named,
		a_socket_that_nobody_listens_at_is_replaced,
		a_socket_path_that_is_too_long_is_refused,
		pipes_carry_the_console_and_no_escapes,
		the_end_of_standard_input_is_no_end_of_output,
		a_full_port_at_the_end_of_standard_input_does_not_spin,
		dev_null_and_regular_files_give_no_input_and_take_output,
		a_reader_that_goes_away_is_no_error,
		a_terminal_goes_raw_on_connecting_and_back_at_the_end,
		at_its_end_it_is_not_stopped_for_being_in_the_background,
		what_is_typed_reaches_the_guest_byte_by_byte,
		control_a_x_stops_and_p_presses_the_button,
		control_a_itself_is_sent_by_doubling_it_or_a,
		control_a_and_any_other_key_prints_the_keys,
		an_escape_gets_through_a_port_that_the_guest_does_not_read,
		what_is_pasted_before_the_guest_reads_waits_for_it,
		an_escape_gets_through_a_queue_that_is_full,
		a_terminal_that_hangs_up_holds_nobody_up,
		a_client_talks_with_a_virtio_console,
		input_for_many_small_buffers_comes_without_a_kick_each,
		a_client_that_is_slow_makes_a_virtio_queue_wait_and_loses_nothing,
		a_client_that_leaves_sets_a_virtio_queue_free,
		a_terminal_that_is_slow_makes_a_virtio_queue_wait,
		a_terminal_that_is_slow_takes_line_feeds_too,
		a_terminal_is_a_virtio_consoles_as_well,
		standard_output_that_is_a_file_gets_it_all,
		two_ports_have_a_back_end_each,
		an_error_names_the_option,
		a_window_is_the_terminals_on_either_side,
	};
	return run_tests("vmm_console", setup, teardown, tests, nitems(tests));
}
