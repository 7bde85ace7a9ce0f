/* SPDX-License-Identifier: MIT */
#include "tests/guest/guest.h"

#include <linux/pci_regs.h>
#include <linux/serial_reg.h>

#include "tests/guest/start.h"

#define STATUS_CHECK 1
#define STATUS_FAULT 3
#define NR_HIGH_TABLES 32u
#define PAGE_PRESENT_WRITE 3u
#define PAGE_LARGE 0x80u
#define QUIET_MS 10u

#define ICR_INIT 0x4500u
#define ICR_STARTUP 0x4600u
#define ICR_PENDING 0x1000u

struct frame {
	uint64_t registers[15];
	uint64_t vector;
	uint64_t error;
	uint64_t rip, cs, rflags, rsp, ss;
};

struct idt_entry {
	uint16_t offset_low;
	uint16_t selector;
	uint8_t ist;
	uint8_t type;
	uint16_t offset_middle;
	uint32_t offset_high;
	uint32_t reserved;
};

extern uint8_t vectors[];
extern uint8_t ap_code[];
extern uint8_t ap_code_end[];
extern uint64_t pml4[512];

void guest_start(void);
void guest_start_ap(unsigned int index);
void guest_interrupt(struct frame *frame);

/* The compiler may call these on its own. */
void *memcpy(void *to, const void *from, size_t size);
void *memset(void *to, int byte, size_t size);

static struct idt_entry idt[NR_VECTORS];
static void (*handlers[NR_VECTORS])(void);
static void *volatile fault_resume;
static volatile unsigned int fault_vector;
static uint64_t high_tables[NR_HIGH_TABLES][512] __attribute__((aligned(4096)));
static unsigned int high_tables_used;
static void (*ap_main)(unsigned int id);
static volatile uint32_t ap_arrived;

void *memcpy(void *to, const void *from, size_t size)
{
	void *p = to;
	__asm__ volatile("rep movsb" : "+D"(p), "+S"(from), "+c"(size) : : "memory");
	return to;
}

void *memset(void *to, int byte, size_t size)
{
	void *p = to;
	__asm__ volatile("rep stosb" : "+D"(p), "+c"(size) : "a"(byte) : "memory");
	return to;
}

void guest_exit(uint8_t status)
{
	for (;;)
		out8(LAYOUT_EXIT_PORT, status);
}

void print(const char *text)
{
	for (; *text; text++) {
		while (!(in8(LAYOUT_SERIAL_PORT + UART_LSR) & UART_LSR_THRE)) {
		}
		out8(LAYOUT_SERIAL_PORT, (uint8_t)*text);
	}
}

void print_hex(uint64_t n)
{
	char text[19] = "0x";
	unsigned int at = 2;

	for (int shift = 60; shift >= 0; shift -= 4) {
		unsigned int digit = n >> shift & 15;
		if (digit || at > 2 || shift == 0)
			text[at++] = "0123456789abcdef"[digit];
	}
	text[at] = '\0';
	print(text);
}

void guest_fail(const char *where, const char *what)
{
	/* Whatever the guest has done to the port: 8n1, no loopback. */
	out8(LAYOUT_SERIAL_PORT + UART_LCR, UART_LCR_WLEN8);
	out8(LAYOUT_SERIAL_PORT + UART_MCR, 0);
	print("FAIL ");
	print(where);
	print(": ");
	print(what);
	print("\n");
	guest_exit(STATUS_CHECK);
}

void guest_fail_values(const char *where, const char *what, uint64_t got, uint64_t want)
{
	out8(LAYOUT_SERIAL_PORT + UART_LCR, UART_LCR_WLEN8);
	out8(LAYOUT_SERIAL_PORT + UART_MCR, 0);
	print("got ");
	print_hex(got);
	print(", want ");
	print_hex(want);
	print("\n");
	guest_fail(where, what);
}

const struct start_info *start_info(void)
{
	return (const struct start_info *)(uint64_t)entry_state.info;
}

/* What stands behind "name=". */
static const char *option_text(const char *name)
{
	const char *p = (const char *)start_info()->cmdline;

	while (*p) {
		const char *n = name;
		while (*n && *p == *n) {
			n++;
			p++;
		}
		if (*n == '\0' && *p == '=')
			return p + 1;
		while (*p && *p != ' ')
			p++;
		while (*p == ' ')
			p++;
	}
	guest_fail("option", name);
}

uint64_t option(const char *name)
{
	uint64_t value = 0;

	for (const char *p = option_text(name); *p >= '0' && *p <= '9'; p++)
		value = value * 10 + (uint64_t)(*p - '0');
	return value;
}

bool option_is(const char *name, const char *word)
{
	const char *p = option_text(name);

	while (*word && *p == *word) {
		p++;
		word++;
	}
	return *word == '\0' && (*p == '\0' || *p == ' ');
}

/* Memory */

static uint64_t *next_table(uint64_t *entry)
{
	if (!*entry) {
		CHECK(high_tables_used < NR_HIGH_TABLES);
		*entry = (uint64_t)high_tables[high_tables_used++] | PAGE_PRESENT_WRITE;
	}
	return (uint64_t *)(*entry & ~0xfffull);
}

void map_high(uint64_t address)
{
	uint64_t *pdpt = next_table(&pml4[address >> 39 & 511]);
	uint64_t *directory = next_table(&pdpt[address >> 30 & 511]);

	directory[address >> 21 & 511] =
		(address & ~0x1fffffull) | PAGE_PRESENT_WRITE | PAGE_LARGE;
}

/* Waiting */

uint32_t milliseconds(void)
{
	return in32(HOST_CLOCK);
}

void wait_for(const volatile uint32_t *count, uint32_t want)
{
	uint32_t from = milliseconds();

	while (*count != want && milliseconds() - from < WAIT_MS) {
	}
}

void wait_a_while(void)
{
	uint32_t from = milliseconds();

	while (milliseconds() - from < QUIET_MS) {
	}
}

/* Asking the host */

void ask(const char *request)
{
	out32(HOST_ASK, (uint32_t)(uint64_t)request);
}

uint64_t answer(const char *keys)
{
	out32(HOST_FIND, (uint32_t)(uint64_t)keys);
	return in32(HOST_VALUE_LOW) | (uint64_t)in32(HOST_VALUE_HIGH) << 32;
}

/* Interrupts */

void guest_interrupt(struct frame *frame)
{
	if (fault_resume && frame->vector == fault_vector) {
		frame->rip = (uint64_t)fault_resume;
		fault_resume = NULL;
		return;
	}
	if (frame->vector < nitems(handlers) && handlers[frame->vector]) {
		handlers[frame->vector]();
		return;
	}
	print("FAULT vector ");
	print_hex(frame->vector);
	print(" error ");
	print_hex(frame->error);
	print(" rip ");
	print_hex(frame->rip);
	print(" rsp ");
	print_hex(frame->rsp);
	print("\n");
	guest_exit(STATUS_FAULT);
}

void interrupt_handle(unsigned int vector, void (*handler)(void))
{
	handlers[vector] = handler;
}

void fault_expect(unsigned int vector, void *resume)
{
	fault_vector = vector;
	fault_resume = resume;
}

static void fill_idt(void)
{
	for (unsigned int i = 0; i < NR_VECTORS; i++) {
		uint32_t at = (uint32_t)(uint64_t)(vectors + i * VECTOR_SIZE);
		idt[i].offset_low = (uint16_t)at;
		idt[i].offset_middle = (uint16_t)(at >> 16);
		idt[i].selector = GDT_CODE;
		idt[i].type = 0x8e;
	}
}

static void load_idt(void)
{
	struct {
		uint16_t limit;
		uint64_t base;
	} __attribute__((packed)) pointer = { sizeof(idt) - 1, (uint64_t)idt };

	__asm__ volatile("lidt %0" : : "m"(pointer));
}

uint32_t apic_read(uint32_t offset)
{
	return read32(LAYOUT_LAPIC_BASE + offset);
}

void apic_write(uint32_t offset, uint32_t value)
{
	write32(LAYOUT_LAPIC_BASE + offset, value);
}

unsigned int apic_id(void)
{
	return apic_read(APIC_ID) >> 24;
}

void apic_enable(void)
{
	apic_write(APIC_SPURIOUS, APIC_ENABLED);
}

void apic_eoi(void)
{
	apic_write(APIC_EOI, 0);
}

void apic_send(unsigned int id, uint32_t command)
{
	apic_write(APIC_ICR_HIGH, id << 24);
	apic_write(APIC_ICR_LOW, command);
	while (apic_read(APIC_ICR_LOW) & ICR_PENDING) {
	}
}

static void ioapic_write(uint32_t index, uint32_t value)
{
	write32(LAYOUT_IOAPIC_BASE, index);
	write32(LAYOUT_IOAPIC_BASE + 0x10, value);
}

void ioapic_route(unsigned int pin, unsigned int vector, unsigned int id, uint32_t flags)
{
	ioapic_write(0x10 + 2 * pin, IOAPIC_MASKED);
	ioapic_write(0x11 + 2 * pin, id << 24);
	ioapic_write(0x10 + 2 * pin, vector | flags);
}

uint32_t ioapic_entry(unsigned int pin)
{
	write32(LAYOUT_IOAPIC_BASE, 0x10 + 2 * pin);
	return read32(LAYOUT_IOAPIC_BASE + 0x10);
}

/* The other processors */

void guest_start_ap(unsigned int index)
{
	(void)index;
	load_idt();
	apic_enable();
	__atomic_fetch_add(&ap_arrived, 1, __ATOMIC_SEQ_CST);
	ap_main(apic_id());
	for (;;)
		__asm__ volatile("cli; hlt");
}

void smp_start(unsigned int nr_cpus, void (*main)(unsigned int id))
{
	ap_main = main;
	memcpy((void *)AP_START, ap_code, (size_t)(ap_code_end - ap_code));
	for (unsigned int id = 1; id < nr_cpus; id++) {
		apic_send(id, ICR_INIT);
		apic_send(id, ICR_STARTUP | AP_START >> 12);
		wait_for(&ap_arrived, id);
	}
}

unsigned int smp_arrived(void)
{
	return ap_arrived;
}

/* PCI */

uint64_t ecam(unsigned int devfn, unsigned int offset)
{
	return LAYOUT_ECAM_BASE + ((uint64_t)devfn << 12) + offset;
}

uint32_t config_read(unsigned int devfn, unsigned int offset)
{
	return read32(ecam(devfn, offset));
}

void config_write(unsigned int devfn, unsigned int offset, uint32_t value)
{
	write32(ecam(devfn, offset), value);
}

void config_command(unsigned int devfn, uint16_t value)
{
	write16(ecam(devfn, PCI_COMMAND), value);
}

static unsigned int bar_register(unsigned int bar)
{
	return PCI_BASE_ADDRESS_0 + 4 * bar;
}

uint64_t bar_address(unsigned int devfn, unsigned int bar)
{
	uint32_t low = config_read(devfn, bar_register(bar));

	if (low & PCI_BASE_ADDRESS_SPACE_IO)
		return low & PCI_BASE_ADDRESS_IO_MASK;
	uint64_t address = low & ~0xfull;
	if (low & PCI_BASE_ADDRESS_MEM_TYPE_64)
		address |= (uint64_t)config_read(devfn, bar_register(bar) + 4) << 32;
	return address;
}

void bar_move(unsigned int devfn, unsigned int bar, uint64_t address)
{
	uint32_t low = config_read(devfn, bar_register(bar));

	config_write(devfn, bar_register(bar), (uint32_t)address);
	if ((low & PCI_BASE_ADDRESS_SPACE_IO) == 0 && (low & PCI_BASE_ADDRESS_MEM_TYPE_64))
		config_write(devfn, bar_register(bar) + 4, (uint32_t)(address >> 32));
}

void guest_start(void)
{
	fill_idt();
	load_idt();
	apic_enable();
	guest_exit((uint8_t)guest_main());
}
