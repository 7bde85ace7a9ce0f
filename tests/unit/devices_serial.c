/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <string.h>

#include <linux/serial_reg.h>

#include "devices/serial.h"
#include "tests/fakes/process.h"
#include "tests/fakes/wires.h"

#define BASE 0x3f8u
#define GSI 4u

static struct io_bus pio;
static struct fake_wires wires;
static struct serial serial;

/* The far end: takes `takes` bytes at most until told otherwise. */
static char sent[256];
static size_t nr_sent;
static size_t takes = SIZE_MAX;
static unsigned int nr_ready; /* calls of receive_ready */

static size_t far_transmit(void *opaque, const uint8_t *bytes, size_t size)
{
	ck_assert_ptr_eq(opaque, sent);
	size_t n = size < takes ? size : takes;
	ck_assert_uint_lt(nr_sent + n, sizeof(sent));
	memcpy(sent + nr_sent, bytes, n);
	nr_sent += n;
	takes -= takes == SIZE_MAX ? 0 : n;
	return n;
}

static void far_receive_ready(void *opaque)
{
	ck_assert_ptr_eq(opaque, sent);
	nr_ready++;
}

static const struct port_backend backend = {
	.transmit = far_transmit,
	.receive_ready = far_receive_ready,
	.opaque = sent,
};

static void setup(void)
{
	io_bus_init(&pio);
	fake_wires_init(&wires);
	ck_assert_int_eq(serial_init(&serial, &pio, &wires.wires, BASE, GSI, &backend), 0);
}

static unsigned int get(unsigned int reg)
{
	return (unsigned int)io_bus_read(&pio, BASE + reg, 1);
}

static void set(unsigned int reg, unsigned int value)
{
	io_bus_write(&pio, BASE + reg, 1, value);
}

/* How many bytes of it found room. */
static size_t offer(const char *text)
{
	return serial.port.ops->receive(&serial.port, (const uint8_t *)text, strlen(text));
}

static void receive(const char *text)
{
	ck_assert_uint_eq(offer(text), strlen(text));
}

static void transmit_ready(void)
{
	serial.port.ops->transmit_ready(&serial.port);
}

/* The only way to too much input. */
static void loop_back(const char *text)
{
	set(UART_MCR, UART_MCR_LOOP);
	for (; *text; text++)
		set(UART_TX, (uint8_t)*text);
	set(UART_MCR, 0);
}

static unsigned int nr_interrupts(void)
{
	return fake_wires_take(&wires, GSI);
}

static unsigned int cause(void)
{
	return get(UART_IIR) & 0x0f;
}

START_TEST(power_on_state_is_that_of_the_data_sheet)
{
	ck_assert_uint_eq(get(UART_IER), 0);
	ck_assert_uint_eq(get(UART_IIR), UART_IIR_NO_INT);
	ck_assert_uint_eq(get(UART_LCR), 0);
	ck_assert_uint_eq(get(UART_MCR), 0);
	ck_assert_uint_eq(get(UART_LSR), UART_LSR_THRE | UART_LSR_TEMT);
	ck_assert_uint_eq(get(UART_MSR), UART_MSR_DCD | UART_MSR_DSR | UART_MSR_CTS);
	ck_assert_uint_eq(nr_interrupts(), 0);
}
END_TEST

START_TEST(registers_keep_the_bits_they_have)
{
	set(UART_IER, 0xff);
	ck_assert_uint_eq(get(UART_IER), 0x0f);
	set(UART_MCR, 0xff);
	ck_assert_uint_eq(get(UART_MCR), 0x1f);
	set(UART_SCR, 0x5a);
	ck_assert_uint_eq(get(UART_SCR), 0x5a);
	set(UART_LCR, 0x03);
	ck_assert_uint_eq(get(UART_LCR), 0x03);
	set(UART_LSR, 0);
	set(UART_MSR, 0);
	ck_assert_uint_eq(get(UART_LSR), UART_LSR_THRE | UART_LSR_TEMT);
}
END_TEST

START_TEST(the_divisor_is_behind_dlab)
{
	set(UART_IER, UART_IER_RDI);
	set(UART_LCR, UART_LCR_DLAB);
	ck_assert_uint_eq(get(UART_DLL), 12);
	ck_assert_uint_eq(get(UART_DLM), 0);
	set(UART_DLL, 1);
	set(UART_DLM, 2);
	ck_assert_uint_eq(get(UART_DLL), 1);
	ck_assert_uint_eq(get(UART_DLM), 2);
	set(UART_LCR, 0);
	ck_assert_uint_eq(get(UART_IER), UART_IER_RDI);
	ck_assert_uint_eq(nr_sent, 0);
}
END_TEST

START_TEST(what_is_written_is_sent)
{
	set(UART_TX, 'h');
	set(UART_TX, 'i');
	ck_assert_str_eq(sent, "hi");
	ck_assert_uint_eq(get(UART_LSR), UART_LSR_THRE | UART_LSR_TEMT);
}
END_TEST

START_TEST(what_is_received_is_read_in_order)
{
	receive("abc");
	ck_assert_uint_eq(get(UART_LSR) & UART_LSR_DR, UART_LSR_DR);
	ck_assert_uint_eq(get(UART_RX), 'a');
	ck_assert_uint_eq(get(UART_RX), 'b');
	ck_assert_uint_eq(get(UART_RX), 'c');
	ck_assert_uint_eq(get(UART_LSR) & UART_LSR_DR, 0);
	ck_assert_uint_eq(get(UART_RX), 0);
}
END_TEST

START_TEST(reading_makes_room_and_says_so)
{
	ck_assert_uint_eq(offer("0123456789abcdefX"), SERIAL_FIFO_SIZE);
	ck_assert_uint_eq(offer("X"), 0);
	ck_assert_uint_eq(get(UART_LSR) & (UART_LSR_DR | UART_LSR_OE), UART_LSR_DR);
	ck_assert_uint_eq(nr_ready, 0);
	ck_assert_uint_eq(get(UART_RX), '0');
	ck_assert_uint_eq(nr_ready, 1);
	ck_assert_uint_eq(offer("gh"), 1);
}
END_TEST

START_TEST(clearing_the_receiver_makes_room_and_says_so)
{
	receive("0123456789abcdef");
	set(UART_FCR, UART_FCR_ENABLE_FIFO | UART_FCR_CLEAR_RCVR);
	ck_assert_uint_eq(get(UART_LSR) & UART_LSR_DR, 0);
	ck_assert_uint_eq(nr_ready, 1);
	receive("0123456789abcdef");
}
END_TEST

START_TEST(leaving_loopback_makes_room_and_says_so)
{
	set(UART_MCR, UART_MCR_LOOP);
	ck_assert_uint_eq(offer("x"), 0);
	ck_assert_uint_eq(nr_ready, 0);
	set(UART_MCR, 0);
	ck_assert_uint_eq(nr_ready, 1);
	receive("0123456789abcdef");
}
END_TEST

START_TEST(a_reset_makes_room_and_says_so)
{
	receive("0123456789abcdef");
	serial_reset(&serial);
	ck_assert_uint_eq(nr_ready, 1);
}
END_TEST

START_TEST(no_interrupt_is_raised_that_is_not_enabled)
{
	loop_back("0123456789abcdefg");
	set(UART_TX, 'x');
	ck_assert_uint_eq(cause(), UART_IIR_NO_INT);
	ck_assert_uint_eq(nr_interrupts(), 0);
}
END_TEST

START_TEST(received_data_interrupts_until_read)
{
	set(UART_IER, UART_IER_RDI);
	receive("a");
	ck_assert_uint_eq(nr_interrupts(), 1);
	ck_assert_uint_eq(cause(), UART_IIR_RDI);
	receive("b");
	ck_assert_uint_eq(nr_interrupts(), 0); /* the line is up already */
	(void)get(UART_RX);
	ck_assert_uint_eq(cause(), UART_IIR_RDI);
	(void)get(UART_RX);
	ck_assert_uint_eq(cause(), UART_IIR_NO_INT);
	receive("c");
	ck_assert_uint_eq(nr_interrupts(), 1);
}
END_TEST

START_TEST(below_the_fifo_level_data_waits_for_the_timeout)
{
	static const struct {
		unsigned int trigger;
		unsigned int level;
	} cases[] = {
		{ UART_FCR_TRIGGER_1, 1 },
		{ UART_FCR_TRIGGER_4, 4 },
		{ UART_FCR_TRIGGER_8, 8 },
		{ UART_FCR_TRIGGER_14, 14 },
	};

	set(UART_IER, UART_IER_RDI);
	for (unsigned int i = 0; i < nitems(cases); i++) {
		set(UART_FCR, UART_FCR_ENABLE_FIFO | UART_FCR_CLEAR_RCVR | cases[i].trigger);
		for (unsigned int n = 1; n < cases[i].level; n++) {
			receive("x");
			ck_assert_uint_eq(get(UART_IIR), 0xc0 | UART_IIR_RX_TIMEOUT);
		}
		receive("x");
		ck_assert_uint_eq(get(UART_IIR), 0xc0 | UART_IIR_RDI);
	}
}
END_TEST

START_TEST(too_much_input_is_lost_and_reported_once)
{
	set(UART_IER, UART_IER_RLSI);
	receive("0123456789abcdef");
	ck_assert_uint_eq(nr_interrupts(), 0);
	loop_back("X");
	ck_assert_uint_eq(nr_interrupts(), 1);
	ck_assert_uint_eq(cause(), UART_IIR_RLSI);
	ck_assert_uint_eq(get(UART_LSR) & UART_LSR_OE, UART_LSR_OE);
	ck_assert_uint_eq(get(UART_LSR) & UART_LSR_OE, 0);
	ck_assert_uint_eq(cause(), UART_IIR_NO_INT);
	for (const char *p = "0123456789abcdef"; *p; p++)
		ck_assert_uint_eq(get(UART_RX), (unsigned int)*p);
}
END_TEST

START_TEST(an_overrun_comes_before_data_and_data_before_an_empty_transmitter)
{
	loop_back("0123456789abcdefX");
	set(UART_IER, UART_IER_RLSI | UART_IER_RDI | UART_IER_THRI);
	ck_assert_uint_eq(cause(), UART_IIR_RLSI);
	(void)get(UART_LSR);
	ck_assert_uint_eq(cause(), UART_IIR_RDI);
	for (unsigned int i = 0; i < SERIAL_FIFO_SIZE; i++)
		(void)get(UART_RX);
	ck_assert_uint_eq(cause(), UART_IIR_THRI);
	ck_assert_uint_eq(cause(), UART_IIR_NO_INT);
}
END_TEST

START_TEST(enabling_the_empty_transmitter_interrupts_at_once)
{
	set(UART_IER, UART_IER_THRI);
	ck_assert_uint_eq(nr_interrupts(), 1);
	set(UART_IER, UART_IER_THRI | UART_IER_RDI);
	ck_assert_uint_eq(nr_interrupts(), 0);
}
END_TEST

START_TEST(asking_for_the_cause_answers_the_empty_transmitter)
{
	set(UART_IER, UART_IER_THRI);
	ck_assert_uint_eq(cause(), UART_IIR_THRI);
	ck_assert_uint_eq(cause(), UART_IIR_NO_INT);
	ck_assert_uint_eq(nr_interrupts(), 1);
}
END_TEST

START_TEST(each_byte_sent_is_an_edge_of_its_own)
{
	set(UART_IER, UART_IER_THRI);
	(void)nr_interrupts();
	for (unsigned int i = 0; i < 5; i++) {
		set(UART_TX, 'x'); /* not asking for the cause in between */
		ck_assert_uint_eq(nr_interrupts(), 1);
	}
	ck_assert_uint_eq(cause(), UART_IIR_THRI);
	set(UART_TX, 'x');
	ck_assert_uint_eq(nr_interrupts(), 1);
}
END_TEST

START_TEST(what_the_far_end_does_not_take_waits_and_the_guest_sees_it)
{
	takes = 0;
	set(UART_IER, UART_IER_THRI);
	(void)cause();
	(void)nr_interrupts();
	set(UART_TX, 'h');
	set(UART_TX, 'i');
	ck_assert_uint_eq(get(UART_LSR) & (UART_LSR_THRE | UART_LSR_TEMT), 0);
	ck_assert_uint_eq(cause(), UART_IIR_NO_INT);
	ck_assert_uint_eq(nr_interrupts(), 0);
	takes = 1;
	transmit_ready();
	ck_assert_str_eq(sent, "h");
	ck_assert_uint_eq(get(UART_LSR) & UART_LSR_THRE, 0);
	takes = SIZE_MAX;
	transmit_ready();
	ck_assert_str_eq(sent, "hi");
	ck_assert_uint_eq(nr_interrupts(), 1);
	ck_assert_uint_eq(cause(), UART_IIR_THRI);
}
END_TEST

START_TEST(a_guest_that_does_not_wait_loses_the_oldest)
{
	takes = 0;
	for (unsigned int i = 0; i < SERIAL_FIFO_SIZE + 4; i++)
		set(UART_TX, 'a' + i);
	takes = SIZE_MAX;
	transmit_ready();
	ck_assert_str_eq(sent, "efghijklmnopqrst");
}
END_TEST

START_TEST(loopback_sends_to_itself_and_to_nobody_else)
{
	set(UART_MCR, UART_MCR_LOOP);
	set(UART_IER, UART_IER_RDI);
	set(UART_TX, 'x');
	ck_assert_uint_eq(nr_sent, 0);
	ck_assert_uint_eq(nr_interrupts(), 1);
	ck_assert_uint_eq(get(UART_RX), 'x');
}
END_TEST

START_TEST(loopback_overruns_too)
{
	set(UART_MCR, UART_MCR_LOOP);
	for (unsigned int i = 0; i <= SERIAL_FIFO_SIZE; i++)
		set(UART_TX, 'x');
	ck_assert_uint_eq(get(UART_LSR) & UART_LSR_OE, UART_LSR_OE);
}
END_TEST

START_TEST(loopback_ties_the_modem_lines_together)
{
	static const struct {
		unsigned int mcr;
		unsigned int msr;
	} cases[] = {
		{ 0, 0 },
		{ UART_MCR_RTS, UART_MSR_CTS },
		{ UART_MCR_DTR, UART_MSR_DSR },
		{ UART_MCR_OUT1, UART_MSR_RI },
		{ UART_MCR_OUT2, UART_MSR_DCD },
		{ 0x0f, 0xf0 },
	};

	for (unsigned int i = 0; i < nitems(cases); i++) {
		set(UART_MCR, UART_MCR_LOOP | cases[i].mcr);
		ck_assert_uint_eq(get(UART_MSR), cases[i].msr);
	}
}
END_TEST

START_TEST(a_wide_access_is_that_many_bytes)
{
	receive("a");
	set(UART_IER, 0x05);
	ck_assert_uint_eq(io_bus_read(&pio, BASE, 2), 0x0561);
	io_bus_write(&pio, BASE + UART_LCR, 2, 0x0203);
	ck_assert_uint_eq(get(UART_LCR), 0x03);
	ck_assert_uint_eq(get(UART_MCR), 0x02);
}
END_TEST

START_TEST(reset_is_power_on_again_and_offers_waiting_output_once_more)
{
	takes = 0;
	set(UART_TX, 'x');
	receive("in");
	set(UART_IER, 0x0f);
	set(UART_MCR, 0x0b);
	takes = SIZE_MAX;
	serial_reset(&serial);
	ck_assert_str_eq(sent, "x");
	ck_assert_uint_eq(get(UART_IER), 0);
	ck_assert_uint_eq(get(UART_MCR), 0);
	ck_assert_uint_eq(get(UART_LSR), UART_LSR_THRE | UART_LSR_TEMT);
	ck_assert_uint_eq(get(UART_LSR) & UART_LSR_DR, 0);
	(void)nr_interrupts();
	set(UART_IER, UART_IER_RDI);
	receive("y");
	ck_assert_uint_eq(nr_interrupts(), 1);
}
END_TEST

START_TEST(reset_drops_output_that_nobody_takes)
{
	takes = 0;
	set(UART_TX, 'x');
	serial_reset(&serial);
	takes = SIZE_MAX;
	transmit_ready();
	ck_assert_uint_eq(nr_sent, 0);
	ck_assert_uint_eq(get(UART_LSR), UART_LSR_THRE | UART_LSR_TEMT);
}
END_TEST

START_TEST(starting_fails_at_each_step_and_nothing_is_left)
{
	struct io_region taken = { .base = BASE + 7, .size = 1 };
	struct serial other;

	serial_finish(&serial);
	serial_finish(&serial);
	unsigned int fds = process_nr_fds();
	process_forbid_fds();
	int r = serial_init(&other, &pio, &wires.wires, BASE, GSI, &backend);
	process_allow_fds();
	ck_assert_int_eq(r, -EMFILE);
	wires.nr_calls = 0;
	wires.fail_at = 1;
	ck_assert_int_eq(serial_init(&other, &pio, &wires.wires, BASE, GSI, &backend), -EIO);
	ck_assert_int_eq(io_bus_add(&pio, &taken), 0);
	ck_assert_int_eq(serial_init(&other, &pio, &wires.wires, BASE, GSI, &backend), -EEXIST);
	io_bus_remove(&pio, &taken);
	serial_finish(&other);
	ck_assert(list_empty(&pio.regions));
	ck_assert_uint_eq(wires.nr_irqfds, 0);
	ck_assert_uint_eq(process_nr_fds(), fds);
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		power_on_state_is_that_of_the_data_sheet,
		registers_keep_the_bits_they_have,
		the_divisor_is_behind_dlab,
		what_is_written_is_sent,
		what_is_received_is_read_in_order,
		reading_makes_room_and_says_so,
		clearing_the_receiver_makes_room_and_says_so,
		leaving_loopback_makes_room_and_says_so,
		a_reset_makes_room_and_says_so,
		no_interrupt_is_raised_that_is_not_enabled,
		received_data_interrupts_until_read,
		below_the_fifo_level_data_waits_for_the_timeout,
		too_much_input_is_lost_and_reported_once,
		an_overrun_comes_before_data_and_data_before_an_empty_transmitter,
		enabling_the_empty_transmitter_interrupts_at_once,
		asking_for_the_cause_answers_the_empty_transmitter,
		each_byte_sent_is_an_edge_of_its_own,
		what_the_far_end_does_not_take_waits_and_the_guest_sees_it,
		a_guest_that_does_not_wait_loses_the_oldest,
		loopback_sends_to_itself_and_to_nobody_else,
		loopback_overruns_too,
		loopback_ties_the_modem_lines_together,
		a_wide_access_is_that_many_bytes,
		reset_is_power_on_again_and_offers_waiting_output_once_more,
		reset_drops_output_that_nobody_takes,
		starting_fails_at_each_step_and_nothing_is_left,
	};
	return run_tests("devices_serial", setup, NULL, tests, nitems(tests));
}
