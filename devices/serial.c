/* SPDX-License-Identifier: MIT */
#include "devices/serial.h"

#include <string.h>

#include <linux/serial_reg.h>

#include "base/trace.h"

#define NR_PORTS 8u

static unsigned int rx_trigger(const struct serial *s)
{
	static const unsigned int levels[] = { 1, 4, 8, 14 };

	return s->fcr & UART_FCR_ENABLE_FIFO ? levels[s->fcr >> 6] : 1;
}

/* IIR's identification bits for the most urgent enabled cause. */
static uint8_t interrupt_cause(const struct serial *s)
{
	if ((s->ier & UART_IER_RLSI) && s->rx_overrun)
		return UART_IIR_RLSI;
	if ((s->ier & UART_IER_RDI) && s->rx_count >= rx_trigger(s))
		return UART_IIR_RDI;
	if ((s->ier & UART_IER_RDI) && s->rx_count > 0)
		return UART_IIR_RX_TIMEOUT;
	if ((s->ier & UART_IER_THRI) && s->thre_pending)
		return UART_IIR_THRI;
	return UART_IIR_NO_INT;
}

/*
 * The interrupt controller sees edges only: one for each time that the first cause appears.
 * A driver therefore asks IIR until no cause is left, as it must with the real part.
 */
static void update_irq(struct serial *s)
{
	bool wanted = interrupt_cause(s) != UART_IIR_NO_INT;

	if (wanted && !s->irq_asserted)
		irq_raise(&s->irq);
	s->irq_asserted = wanted;
}

static void flush_tx(struct serial *s)
{
	if (s->tx_count == 0)
		return;
	size_t sent = s->port.backend.transmit(s->port.backend.opaque, s->tx, s->tx_count);
	s->tx_count -= (unsigned int)sent;
	memmove(s->tx, s->tx + sent, s->tx_count);
	if (s->tx_count == 0)
		s->thre_pending = true;
}

static void write_thr(struct serial *s, uint8_t byte)
{
	if (s->mcr & UART_MCR_LOOP) {
		if (s->rx_count < SERIAL_FIFO_SIZE)
			s->rx[s->rx_count++] = byte;
		else
			s->rx_overrun = true;
		s->thre_pending = true;
		return;
	}
	/* A guest that does not wait for THRE loses the oldest byte, as on the real part. */
	if (s->tx_count == SERIAL_FIFO_SIZE)
		memmove(s->tx, s->tx + 1, --s->tx_count);
	s->tx[s->tx_count++] = byte;
	s->thre_pending = false;
	update_irq(s); /* the line falls here, so that it can rise again below */
	flush_tx(s);
}

static uint8_t read_rbr(struct serial *s)
{
	uint8_t byte = 0;

	if (s->rx_count > 0) {
		byte = s->rx[0];
		memmove(s->rx, s->rx + 1, --s->rx_count);
	}
	return byte;
}

static uint8_t read_iir(struct serial *s)
{
	uint8_t cause = interrupt_cause(s);

	/* Reading it answers a THRE interrupt. */
	if (cause == UART_IIR_THRI)
		s->thre_pending = false;
	return (uint8_t)(cause | (s->fcr & UART_FCR_ENABLE_FIFO ? 0xc0 : 0));
}

static uint8_t read_lsr(struct serial *s)
{
	uint8_t lsr = 0;

	if (s->rx_count > 0)
		lsr |= UART_LSR_DR;
	if (s->rx_overrun)
		lsr |= UART_LSR_OE;
	if (s->tx_count == 0)
		lsr |= UART_LSR_THRE | UART_LSR_TEMT;
	s->rx_overrun = false;
	return lsr;
}

static uint8_t read_msr(const struct serial *s)
{
	uint8_t msr = 0;

	if (!(s->mcr & UART_MCR_LOOP))
		return UART_MSR_DCD | UART_MSR_DSR | UART_MSR_CTS;
	if (s->mcr & UART_MCR_RTS)
		msr |= UART_MSR_CTS;
	if (s->mcr & UART_MCR_DTR)
		msr |= UART_MSR_DSR;
	if (s->mcr & UART_MCR_OUT1)
		msr |= UART_MSR_RI;
	if (s->mcr & UART_MCR_OUT2)
		msr |= UART_MSR_DCD;
	return msr;
}

static uint8_t read_register(struct serial *s, uint64_t offset)
{
	bool dlab = s->lcr & UART_LCR_DLAB;

	switch (offset) {
	case UART_RX: return dlab ? s->dll : read_rbr(s);
	case UART_IER: return dlab ? s->dlm : s->ier;
	case UART_IIR: return read_iir(s);
	case UART_LCR: return s->lcr;
	case UART_MCR: return s->mcr;
	case UART_LSR: return read_lsr(s);
	case UART_MSR: return read_msr(s);
	default: return s->scr;
	}
}

static void write_ier(struct serial *s, uint8_t value)
{
	bool thri_was_off = !(s->ier & UART_IER_THRI);

	s->ier = value & 0x0f;
	/* Enabling the THRE interrupt with an empty transmitter raises it at once. */
	if (thri_was_off && (s->ier & UART_IER_THRI) && s->tx_count == 0)
		s->thre_pending = true;
}

static void write_fcr(struct serial *s, uint8_t value)
{
	if (value & UART_FCR_CLEAR_RCVR)
		s->rx_count = 0;
	s->fcr = value & (UART_FCR_ENABLE_FIFO | UART_FCR_DMA_SELECT | UART_FCR_TRIGGER_MASK);
}

static void write_register(struct serial *s, uint64_t offset, uint8_t value)
{
	bool dlab = s->lcr & UART_LCR_DLAB;

	switch (offset) {
	case UART_TX:
		if (dlab)
			s->dll = value;
		else
			write_thr(s, value);
		break;
	case UART_IER:
		if (dlab)
			s->dlm = value;
		else
			write_ier(s, value);
		break;
	case UART_FCR: write_fcr(s, value); break;
	case UART_LCR: s->lcr = value; break;
	case UART_MCR: s->mcr = value & 0x1f; break;
	case UART_SCR: s->scr = value; break;
	default: break; /* LSR and MSR are read-only */
	}
}

/* In loopback nothing comes in from outside. */
static size_t room(const struct serial *s)
{
	return s->mcr & UART_MCR_LOOP ? 0 : SERIAL_FIFO_SIZE - s->rx_count;
}

/* A wide access is that many byte accesses, as the ISA bridge would split it. */
static uint64_t serial_read(void *opaque, uint64_t offset, unsigned int size)
{
	struct serial *s = opaque;
	uint64_t value = 0;

	TRACE(serial_read, offset, size);
	pthread_mutex_lock(&s->lock);
	size_t room_before = room(s);
	for (unsigned int i = 0; i < size; i++)
		value |= (uint64_t)read_register(s, offset + i) << (8 * i);
	bool more_room = room(s) > room_before;
	update_irq(s);
	pthread_mutex_unlock(&s->lock);
	if (more_room)
		s->port.backend.receive_ready(s->port.backend.opaque);
	return value;
}

static void serial_write(void *opaque, uint64_t offset, unsigned int size, uint64_t value)
{
	struct serial *s = opaque;

	TRACE(serial_write, offset, value);
	pthread_mutex_lock(&s->lock);
	size_t room_before = room(s);
	for (unsigned int i = 0; i < size; i++)
		write_register(s, offset + i, (uint8_t)(value >> (8 * i)));
	bool more_room = room(s) > room_before;
	update_irq(s);
	pthread_mutex_unlock(&s->lock);
	if (more_room)
		s->port.backend.receive_ready(s->port.backend.opaque);
}

static const struct io_ops serial_ops = { .read = serial_read, .write = serial_write };

static struct serial *serial_of(struct port *port)
{
	return container_of(port, struct serial, port);
}

static size_t serial_receive(struct port *port, const uint8_t *bytes, size_t size)
{
	struct serial *s = serial_of(port);

	pthread_mutex_lock(&s->lock);
	size_t taken = size < room(s) ? size : room(s);
	memcpy(s->rx + s->rx_count, bytes, taken);
	s->rx_count += (unsigned int)taken;
	update_irq(s);
	pthread_mutex_unlock(&s->lock);
	return taken;
}

static void serial_transmit_ready(struct port *port)
{
	struct serial *s = serial_of(port);

	pthread_mutex_lock(&s->lock);
	flush_tx(s);
	update_irq(s);
	pthread_mutex_unlock(&s->lock);
}

static const struct port_ops serial_port_ops = {
	.receive = serial_receive,
	.transmit_ready = serial_transmit_ready,
};

static void set_power_on_state(struct serial *s)
{
	s->ier = s->lcr = s->mcr = s->fcr = s->scr = s->dlm = 0;
	s->dll = 12; /* 9600 baud */
	s->rx_count = s->tx_count = 0;
	s->rx_overrun = s->thre_pending = s->irq_asserted = false;
}

int serial_init(struct serial *s, struct io_bus *pio, struct wires *wires, uint16_t base,
		uint32_t gsi, const struct port_backend *backend)
{
	*s = (struct serial){ .port = { &serial_port_ops, *backend } };
	int r = irq_init(&s->irq, wires);
	if (r < 0)
		goto fail;
	r = irq_connect_edge(&s->irq, gsi);
	if (r < 0)
		goto fail;
	s->ports = (struct io_region){
		.base = base,
		.size = NR_PORTS,
		.ops = &serial_ops,
		.opaque = s,
	};
	r = io_bus_add(pio, &s->ports);
	if (r < 0)
		goto fail;
	pthread_mutex_init(&s->lock, NULL);
	s->pio = pio;
	set_power_on_state(s);
	return 0;
fail:
	irq_finish(&s->irq);
	*s = (struct serial){ 0 };
	return r;
}

void serial_finish(struct serial *s)
{
	if (!s->pio)
		return;
	io_bus_remove(s->pio, &s->ports);
	flush_tx(s);
	irq_finish(&s->irq);
	pthread_mutex_destroy(&s->lock);
	*s = (struct serial){ 0 };
}

void serial_reset(struct serial *s)
{
	pthread_mutex_lock(&s->lock);
	flush_tx(s);
	size_t room_before = room(s);
	set_power_on_state(s);
	bool more_room = room(s) > room_before;
	pthread_mutex_unlock(&s->lock);
	if (more_room)
		s->port.backend.receive_ready(s->port.backend.opaque);
}
