/* SPDX-License-Identifier: MIT */
/*
 * guest.h - what a bare-metal guest has to stand on: long mode, a serial port to say what went
 * wrong, interrupts, the other processors, PCI config space.
 *
 * A guest is one file with a guest_main(). What that returns is its exit status: 0 is good. A
 * CHECK that does not hold prints a line on the serial port and ends with status 1, a fault
 * that no handler expects ends with 3.
 *
 * Threads: guest_main() runs on the first processor, what smp_start() is given on the others.
 */
#ifndef TESTS_GUEST_GUEST_H
#define TESTS_GUEST_GUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tests/guest/contract.h"
#include "vmm/layout.h"

#define nitems(array) (sizeof(array) / sizeof((array)[0]))

int guest_main(void);

/* Ending and checking */

_Noreturn void guest_exit(uint8_t status);
_Noreturn void guest_fail(const char *where, const char *what);
_Noreturn void guest_fail_values(const char *where, const char *what, uint64_t got,
				 uint64_t want);

#define TEXT_OF_(x) #x
#define TEXT_OF(x) TEXT_OF_(x)
#define HERE __FILE_NAME__ ":" TEXT_OF(__LINE__)

#define CHECK(condition)                              \
	do {                                          \
		if (!(condition))                     \
			guest_fail(HERE, #condition); \
	} while (0)

#define CHECK_EQ(got, want)                                                      \
	do {                                                                     \
		uint64_t got_ = (uint64_t)(got);                                 \
		uint64_t want_ = (uint64_t)(want);                               \
		if (got_ != want_)                                               \
			guest_fail_values(HERE, #got " == " #want, got_, want_); \
	} while (0)

/* On the serial port, polled. */
void print(const char *text);
void print_hex(uint64_t n);

/* What was handed over at the PVH entry. */

struct entry_state {
	uint32_t info; /* address of the start info */
	uint32_t cr0;
	uint32_t cr4;
	uint32_t efer;
	uint32_t flags;
};

struct start_info {
	uint32_t magic;
	uint32_t version;
	uint32_t flags;
	uint32_t nr_modules;
	uint64_t modules;
	uint64_t cmdline;
	uint64_t rsdp;
	uint64_t memory_map;
	uint32_t memory_map_entries;
	uint32_t reserved;
};

struct start_info_memory {
	uint64_t address;
	uint64_t size;
	uint32_t type; /* 1 RAM, 2 reserved */
	uint32_t reserved;
};

extern struct entry_state entry_state;
extern uint8_t image_end[]; /* the first byte behind this guest */

const struct start_info *start_info(void);
/* The number behind "name=" on the command line; fails if there is none. */
uint64_t option(const char *name);
/* Whether that is this word. */
bool option_is(const char *name, const char *word);

/* Processor and buses */

static inline uint8_t in8(uint16_t port)
{
	uint8_t v;
	__asm__ volatile("inb %1, %0" : "=a"(v) : "Nd"(port) : "memory");
	return v;
}

static inline uint16_t in16(uint16_t port)
{
	uint16_t v;
	__asm__ volatile("inw %1, %0" : "=a"(v) : "Nd"(port) : "memory");
	return v;
}

static inline uint32_t in32(uint16_t port)
{
	uint32_t v;
	__asm__ volatile("inl %1, %0" : "=a"(v) : "Nd"(port) : "memory");
	return v;
}

static inline void out8(uint16_t port, uint8_t v)
{
	__asm__ volatile("outb %0, %1" : : "a"(v), "Nd"(port) : "memory");
}

static inline void out16(uint16_t port, uint16_t v)
{
	__asm__ volatile("outw %0, %1" : : "a"(v), "Nd"(port) : "memory");
}

static inline void out32(uint16_t port, uint32_t v)
{
	__asm__ volatile("outl %0, %1" : : "a"(v), "Nd"(port) : "memory");
}

/* One instruction each, of exactly that width, which is what a MMIO exit shows. */

static inline uint8_t read8(uint64_t at)
{
	uint8_t v;
	__asm__ volatile("movb (%1), %0" : "=q"(v) : "r"(at) : "memory");
	return v;
}

static inline uint16_t read16(uint64_t at)
{
	uint16_t v;
	__asm__ volatile("movw (%1), %0" : "=r"(v) : "r"(at) : "memory");
	return v;
}

static inline uint32_t read32(uint64_t at)
{
	uint32_t v;
	__asm__ volatile("movl (%1), %0" : "=r"(v) : "r"(at) : "memory");
	return v;
}

static inline uint64_t read64(uint64_t at)
{
	uint64_t v;
	__asm__ volatile("movq (%1), %0" : "=r"(v) : "r"(at) : "memory");
	return v;
}

static inline void write8(uint64_t at, uint8_t v)
{
	__asm__ volatile("movb %0, (%1)" : : "q"(v), "r"(at) : "memory");
}

static inline void write16(uint64_t at, uint16_t v)
{
	__asm__ volatile("movw %0, (%1)" : : "r"(v), "r"(at) : "memory");
}

static inline void write32(uint64_t at, uint32_t v)
{
	__asm__ volatile("movl %0, (%1)" : : "r"(v), "r"(at) : "memory");
}

static inline void write64(uint64_t at, uint64_t v)
{
	__asm__ volatile("movq %0, (%1)" : : "r"(v), "r"(at) : "memory");
}

static inline uint64_t rdmsr(uint32_t index)
{
	uint32_t low;
	uint32_t high;
	__asm__ volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(index));
	return low | (uint64_t)high << 32;
}

static inline void wrmsr(uint32_t index, uint64_t v)
{
	__asm__ volatile("wrmsr" : : "c"(index), "a"((uint32_t)v), "d"((uint32_t)(v >> 32)));
}

struct cpuid {
	uint32_t a, b, c, d;
};

static inline struct cpuid cpuid(uint32_t leaf, uint32_t subleaf)
{
	struct cpuid r;
	__asm__ volatile("cpuid"
			 : "=a"(r.a), "=b"(r.b), "=c"(r.c), "=d"(r.d)
			 : "a"(leaf), "c"(subleaf));
	return r;
}

static inline uint64_t rdtsc(void)
{
	uint32_t low;
	uint32_t high;
	__asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
	return low | (uint64_t)high << 32;
}

static inline void interrupts_on(void)
{
	__asm__ volatile("sti" : : : "memory");
}

static inline void interrupts_off(void)
{
	__asm__ volatile("cli" : : : "memory");
}

/* Waits for an interrupt; they are on afterwards. */
static inline void halt(void)
{
	__asm__ volatile("sti; hlt" : : : "memory");
}

/* Maps the 2 MiB page of `address`, which is at 4 GiB or above, to itself. */
void map_high(uint64_t address);

/* Waiting, by the host's clock. */

/* For what must come: of a device under a sanitizer, on an emulated host. */
#define WAIT_MS 10000u

uint32_t milliseconds(void);
/* Until *count is `want`, or a good while has passed: the caller checks. */
void wait_for(const volatile uint32_t *count, uint32_t want);
/* Long enough that an interrupt on its way has arrived. */
void wait_a_while(void);

/* Asking the host, by QMP (the machine has a balloon). */

/* Goes on when there is an answer, which may be an error. */
void ask(const char *request);
/* What the last answer says at these keys, "return held"; HOST_NO_VALUE if they are not there. */
uint64_t answer(const char *keys);

/* Interrupts: vectors 32 to NR_VECTORS - 1 are anybody's. */

void interrupt_handle(unsigned int vector, void (*handler)(void));
/* The next fault of this vector goes on at `resume` instead of ending the guest. */
void fault_expect(unsigned int vector, void *resume);

#define APIC_ID 0x20
#define APIC_VERSION 0x30
#define APIC_TPR 0x80
#define APIC_EOI 0xb0
#define APIC_SPURIOUS 0xf0
#define APIC_IRR 0x200 /* 32 vectors each 0x10 */
#define APIC_ICR_LOW 0x300
#define APIC_ICR_HIGH 0x310
#define APIC_LVT_TIMER 0x320
#define APIC_LVT_LINT0 0x350
#define APIC_TIMER_COUNT 0x380
#define APIC_TIMER_DIVIDE 0x3e0
#define APIC_ENABLED 0x1ff

uint32_t apic_read(uint32_t offset);
void apic_write(uint32_t offset, uint32_t value);
unsigned int apic_id(void);
void apic_enable(void);
void apic_eoi(void);
/* `command` is the low half of the interrupt command register. */
void apic_send(unsigned int id, uint32_t command);

#define IOAPIC_LEVEL 0x8000u
#define IOAPIC_ACTIVE_LOW 0x2000u
#define IOAPIC_MASKED 0x10000u
#define IOAPIC_REMOTE_IRR 0x4000u

/* Redirection entry of `pin`: to the processor with this APIC id; flags as above. */
void ioapic_route(unsigned int pin, unsigned int vector, unsigned int id, uint32_t flags);
/* The entry's low half. */
uint32_t ioapic_entry(unsigned int pin);

/* The other processors */

/*
 * Starts all others by INIT and start-up IPI, one after the other; each runs `main` with its
 * APIC id, its local APIC enabled and interrupts off, and waits with them off when it returns.
 */
void smp_start(unsigned int nr_cpus, void (*main)(unsigned int id));
unsigned int smp_arrived(void);

/* PCI config space by ECAM; devfn = slot << 3 | function. */

#define SLOT(slot) ((unsigned int)(slot) << 3)

uint64_t ecam(unsigned int devfn, unsigned int offset);
uint32_t config_read(unsigned int devfn, unsigned int offset);
void config_write(unsigned int devfn, unsigned int offset, uint32_t value);
/* The command register: PCI_COMMAND_IO, ... */
void config_command(unsigned int devfn, uint16_t value);
/* Where BAR `bar`'s registers say it is, flags taken off. */
uint64_t bar_address(unsigned int devfn, unsigned int bar);
void bar_move(unsigned int devfn, unsigned int bar, uint64_t address);

#endif /* TESTS_GUEST_GUEST_H */
