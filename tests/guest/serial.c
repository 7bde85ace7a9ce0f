/* SPDX-License-Identifier: MIT */
/*
 * serial.c - the 16550: registers, loopback, interrupts, output, input; and bytes that go
 * nowhere when nobody is connected.
 */
#include <linux/serial_reg.h>

#include "tests/guest/guest.h"

#define PORT LAYOUT_SERIAL_PORT
#define VECTOR 0x40
#define THRE (UART_LSR_THRE | UART_LSR_TEMT)

/* What `serial=` says. */
enum { REGISTERS, ECHO, NOBODY };

static volatile uint32_t interrupts;

static void handle(void)
{
	interrupts++;
	apic_eoi();
}

static uint8_t reg(unsigned int index)
{
	return in8((uint16_t)(PORT + index));
}

static void set(unsigned int index, uint8_t value)
{
	out8((uint16_t)(PORT + index), value);
}

static void registers_keep_values(void)
{
	set(UART_SCR, 0x5a);
	CHECK_EQ(reg(UART_SCR), 0x5a);
	set(UART_LCR, UART_LCR_DLAB | UART_LCR_WLEN8);
	set(UART_DLL, 1);
	set(UART_DLM, 2);
	CHECK_EQ(reg(UART_DLL), 1);
	CHECK_EQ(reg(UART_DLM), 2);
	set(UART_LCR, UART_LCR_WLEN8);
	CHECK_EQ(reg(UART_IER), 0);
	set(UART_IER, 0xf0); /* only four exist */
	CHECK_EQ(reg(UART_IER), 0);
	CHECK_EQ(reg(UART_IIR), UART_IIR_NO_INT);
	set(UART_FCR, UART_FCR_ENABLE_FIFO);
	CHECK_EQ(reg(UART_IIR), 0xc0 | UART_IIR_NO_INT); /* as a 16550A answers */
	CHECK_EQ(reg(UART_LSR), THRE);
	CHECK_EQ(reg(UART_MSR) & 0xf0, UART_MSR_DCD | UART_MSR_DSR | UART_MSR_CTS);
}

static void loopback_comes_back(void)
{
	set(UART_MCR, UART_MCR_LOOP | UART_MCR_OUT2 | UART_MCR_RTS);
	CHECK_EQ(reg(UART_MSR) & 0xf0, UART_MSR_DCD | UART_MSR_CTS);
	for (unsigned int i = 0; i < 16; i++)
		set(UART_TX, (uint8_t)(0x30 + i));
	CHECK_EQ(reg(UART_LSR) & UART_LSR_OE, 0);
	set(UART_TX, 'x'); /* the seventeenth finds no room */
	CHECK(reg(UART_LSR) & UART_LSR_OE);
	CHECK_EQ(reg(UART_LSR) & UART_LSR_OE, 0);
	for (unsigned int i = 0; i < 16; i++) {
		CHECK(reg(UART_LSR) & UART_LSR_DR);
		CHECK_EQ(reg(UART_RX), 0x30 + i);
	}
	CHECK_EQ(reg(UART_LSR) & UART_LSR_DR, 0);
	set(UART_TX, 'y');
	set(UART_FCR, UART_FCR_ENABLE_FIFO | UART_FCR_CLEAR_RCVR);
	CHECK_EQ(reg(UART_LSR) & UART_LSR_DR, 0);
	set(UART_MCR, 0);
}

static void transmitter_interrupts(void)
{
	interrupts = 0;
	set(UART_IER, UART_IER_THRI); /* empty as it is, at once */
	wait_for(&interrupts, 1);
	CHECK_EQ(interrupts, 1);
	CHECK_EQ(reg(UART_IIR), 0xc0 | UART_IIR_THRI);
	CHECK_EQ(reg(UART_IIR), 0xc0 | UART_IIR_NO_INT); /* reading answers it */
	for (uint32_t i = 0; i < 5; i++) {
		set(UART_TX, (uint8_t)('a' + i));
		wait_for(&interrupts, 2 + i);
		CHECK_EQ(interrupts, 2 + i);
		CHECK_EQ(reg(UART_IIR), 0xc0 | UART_IIR_THRI);
	}
	/* Enabled again, an empty transmitter says so again: this is how drivers get going. */
	set(UART_IER, 0);
	set(UART_IER, UART_IER_THRI);
	wait_for(&interrupts, 7);
	CHECK_EQ(interrupts, 7);
	set(UART_IER, 0);
	set(UART_TX, '\n');
	wait_a_while();
	CHECK_EQ(interrupts, 7);
}

static void receiver_interrupts(void)
{
	interrupts = 0;
	set(UART_IER, UART_IER_RDI);
	set(UART_MCR, UART_MCR_LOOP);
	set(UART_TX, 'z');
	wait_for(&interrupts, 1);
	CHECK_EQ(interrupts, 1);
	CHECK_EQ(reg(UART_IIR) & 0x0f, UART_IIR_RDI);
	CHECK_EQ(reg(UART_RX), 'z');
	CHECK_EQ(reg(UART_IIR) & 0x0f, UART_IIR_NO_INT);
	set(UART_MCR, 0);
	set(UART_IER, 0);
}

/* By interrupts, as a driver would; what arrives goes back inverted. */
static void echo(void)
{
	unsigned int done = 0;
	uint32_t seen = 0;

	interrupts = 0;
	set(UART_FCR, UART_FCR_ENABLE_FIFO);
	set(UART_IER, UART_IER_RDI);
	/* Before the socket's client is there, output is dropped: it speaks first. */
	wait_for(&interrupts, 1);
	CHECK_EQ(reg(UART_RX), 'h');
	seen = interrupts;
	print("ready\n");
	while (done < SERIAL_INPUT_SIZE) {
		uint32_t from = milliseconds();
		while (interrupts == seen && milliseconds() - from < WAIT_MS) {
		}
		CHECK(interrupts != seen);
		seen = interrupts;
		while (reg(UART_LSR) & UART_LSR_DR) {
			uint8_t byte = reg(UART_RX);
			while (!(reg(UART_LSR) & UART_LSR_THRE)) {
			}
			set(UART_TX, (uint8_t)~byte);
			done++;
		}
	}
	CHECK_EQ(reg(UART_LSR) & UART_LSR_OE, 0);
}

int guest_main(void)
{
	interrupt_handle(VECTOR, handle);
	ioapic_route(LAYOUT_SERIAL_GSI, VECTOR, 0, 0);
	interrupts_on();
	switch (option("serial")) {
	case REGISTERS:
		registers_keep_values();
		loopback_comes_back();
		transmitter_interrupts();
		receiver_interrupts();
		print("the end\n");
		break;
	case ECHO: echo(); break;
	default:
		for (unsigned int i = 0; i < 400; i++)
			print("nobody hears this\n");
	}
	return 0;
}
