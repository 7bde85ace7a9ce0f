/* SPDX-License-Identifier: MIT */
/*
 * reset.c - the reset register gives back a machine as new, around RAM that stays.
 *
 * The first boot makes a mess of everything that has state and resets; the second finds, by a
 * mark in RAM that no loader touches, that it is the second, and looks for the mess.
 */
#include <linux/pci_regs.h>
#include <linux/serial_reg.h>

#include "tests/guest/guest.h"

#define MARK 0x90000 /* in RAM, left alone by the loader */
#define MARK_VALUE 0x6d61726b00000000
#define RESET (LAYOUT_POWER_PORT + 2)
#define DEV SLOT(TEST_SLOT_A)
#define VECTOR_MSIX 0x40
#define VECTOR_TIMER 0x41
#define VECTOR_BUTTON 0x42

#define MSR_APIC_BASE 0x1b
#define MSR_SYSENTER_CS 0x174
#define MSR_SYSENTER_EIP 0x176
#define MSR_PAT 0x277
#define MSR_STAR 0xc0000081
#define MSR_LSTAR 0xc0000082
#define MSR_SFMASK 0xc0000084
#define MSR_FS_BASE 0xc0000100
#define MSR_KERNEL_GS_BASE 0xc0000102
#define APIC_TIMER_PERIODIC 0x20000

/* What a first boot found; behind the mark, so that the second can compare. */
struct found {
	uint64_t mark; /* MARK_VALUE | boots so far */
	uint64_t tsc;
	uint64_t msrs[16];
	uint32_t config[64];
	uint32_t apic[64];
	struct entry_state entry;
};

static const uint32_t msrs[] = { MSR_APIC_BASE, MSR_SYSENTER_CS, MSR_SYSENTER_EIP,
				 MSR_PAT,       MSR_STAR,        MSR_LSTAR,
				 MSR_SFMASK,    MSR_FS_BASE,     MSR_KERNEL_GS_BASE };

static struct found *const found = (struct found *)MARK;
static volatile uint32_t stray;
static uint32_t initialised = 0x600d;
static uint32_t zeroed;
static volatile uint32_t ap_runs;
static volatile bool ready_for_reset;

/* Nothing that was asked for before the reset may arrive after it. */
static void count_stray(void)
{
	stray++;
	apic_eoi();
}

static void look(struct found *f)
{
	for (unsigned int i = 0; i < nitems(msrs); i++)
		f->msrs[i] = rdmsr(msrs[i]);
	for (unsigned int i = 0; i < nitems(f->config); i++)
		f->config[i] = config_read(DEV, 4 * i);
	/* But for the timer's count, which runs, and for the spurious vector, ours already. */
	for (unsigned int i = 0; i < nitems(f->apic); i++)
		f->apic[i] = i * 16 == 0x390 ? 0 : apic_read(i * 16);
	f->entry = entry_state;
}

static void check_same(const char *what, uint32_t index, uint64_t got, uint64_t want)
{
	if (got == want)
		return;
	print(what);
	print(" ");
	print_hex(index);
	print(": ");
	guest_fail_values(HERE, "as at power-on", got, want);
}

static void compare(const struct found *before, const struct found *now)
{
	for (unsigned int i = 0; i < nitems(msrs); i++)
		check_same("msr", msrs[i], now->msrs[i], before->msrs[i]);
	for (unsigned int i = 0; i < nitems(before->config); i++)
		check_same("config", 4 * i, now->config[i], before->config[i]);
	for (unsigned int i = 0; i < nitems(before->apic); i++)
		check_same("apic", 16 * i, now->apic[i], before->apic[i]);
	CHECK_EQ(now->entry.cr0, before->entry.cr0);
	CHECK_EQ(now->entry.cr4, before->entry.cr4);
	CHECK_EQ(now->entry.efer, before->entry.efer);
	CHECK_EQ(now->entry.flags, before->entry.flags);
	CHECK_EQ(now->entry.info, before->entry.info);
}

static void check_devices(void)
{
	uint64_t registers = bar_address(DEV, TEST_BAR_REGISTERS);

	/* The config address port and the serial port, as a fresh one. */
	CHECK_EQ(in32(0xcf8), 0);
	CHECK_EQ(in8(LAYOUT_SERIAL_PORT + UART_IER), 0);
	CHECK_EQ(in8(LAYOUT_SERIAL_PORT + UART_LCR), 0);
	CHECK_EQ(in8(LAYOUT_SERIAL_PORT + UART_MCR), 0);
	CHECK_EQ(in8(LAYOUT_SERIAL_PORT + UART_SCR), 0);
	CHECK_EQ(in8(LAYOUT_SERIAL_PORT + UART_LSR), UART_LSR_THRE | UART_LSR_TEMT);
	CHECK_EQ(in8(LAYOUT_SERIAL_PORT + UART_IIR), UART_IIR_NO_INT);
	CHECK_EQ(in8(LAYOUT_POWER_EVENT_PORT), 0);
	for (unsigned int pin = 0; pin < 24; pin++)
		CHECK(ioapic_entry(pin) & IOAPIC_MASKED);
	/* BARs are off, at their first places, and the function was reset. */
	CHECK_EQ(read32(registers), 0xffffffff);
	config_command(DEV, PCI_COMMAND_MEMORY);
	CHECK_EQ(read32(registers), TEST_IDENTITY(TEST_SLOT_A, TEST_BAR_REGISTERS));
	CHECK_EQ(read32(registers + TEST_RESETS), 1 + (found->mark & 0xff));
	uint64_t wide = bar_address(DEV, TEST_BAR_WIDE);
	map_high(wide);
	for (unsigned int i = 0; i < TEST_MSIX_VECTORS; i++) {
		CHECK_EQ(read64(wide + TEST_MSIX_TABLE + 16 * i), 0);
		CHECK_EQ(read32(wide + TEST_MSIX_TABLE + 16 * i + 12), 1);
	}
	CHECK_EQ(read64(wide + TEST_MSIX_PBA), 0);
	config_command(DEV, 0);
}

static void check_loaded(void)
{
	/* The loader's work, done again, and the image's bytes as they were built. */
	CHECK_EQ(initialised, 0x600d);
	CHECK_EQ(zeroed, 0);
	CHECK_EQ(start_info()->magic, 0x336ec578);
	CHECK(option("cpus") >= 2);
	CHECK_EQ(read8(start_info()->rsdp), 'R');
}

static void mess_up_msrs(void)
{
	wrmsr(MSR_SYSENTER_CS, 0x1234);
	wrmsr(MSR_SYSENTER_EIP, 0x5678);
	wrmsr(MSR_PAT, 0x0007010600070106);
	wrmsr(MSR_STAR, 0x0013000800000000);
	wrmsr(MSR_LSTAR, 0x123456);
	wrmsr(MSR_SFMASK, 0x700);
	wrmsr(MSR_FS_BASE, 0x7777);
	wrmsr(MSR_KERNEL_GS_BASE, 0x8888);
}

/* Interrupts on their way from every source, with nobody who takes them. */
static void mess_up_interrupts(uint64_t registers, uint64_t wide)
{
	interrupts_off();
	apic_write(APIC_TPR, 0xf0);
	apic_write(APIC_TIMER_DIVIDE, 0xb);
	apic_write(APIC_LVT_TIMER, VECTOR_TIMER | APIC_TIMER_PERIODIC);
	apic_write(APIC_TIMER_COUNT, 100000);
	apic_write(APIC_LVT_LINT0, 0x700);
	ioapic_route(LAYOUT_POWER_GSI, VECTOR_BUTTON, 0, 0);
	ioapic_route(LAYOUT_SERIAL_GSI, VECTOR_BUTTON, 1, 0);
	out32(HOST_PRESS, 1);
	write32(wide + TEST_MSIX_TABLE, LAYOUT_LAPIC_BASE);
	write32(wide + TEST_MSIX_TABLE + 8, VECTOR_MSIX);
	write32(wide + TEST_MSIX_TABLE + 12, 0);
	write16(ecam(DEV, TEST_MSIX_CAP + PCI_MSIX_FLAGS), PCI_MSIX_FLAGS_ENABLE);
	write32(registers + TEST_RAISE_MSIX, 0);
	write32(registers + TEST_RAISE_MSIX, 1); /* masked, and so pending */
}

static void mess_up_devices(void)
{
	uint64_t registers = bar_address(DEV, TEST_BAR_REGISTERS);
	uint64_t wide = bar_address(DEV, TEST_BAR_WIDE);

	config_command(DEV, PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	config_write(DEV, TEST_CONFIG_SCRATCH, 0x12345678);
	write8(ecam(DEV, PCI_CACHE_LINE_SIZE), 0x10);
	write8(ecam(DEV, PCI_INTERRUPT_LINE), 0x33);
	mess_up_interrupts(registers, wide);
	bar_move(DEV, TEST_BAR_REGISTERS, LAYOUT_MEM32_BASE + 0x5000000);
	bar_move(DEV, TEST_BAR_WIDE, LAYOUT_MEM32_BASE + 0x6000000);
	bar_move(DEV, TEST_BAR_IO, 0x9000);
	out32(0xcf8, 0x80000000 | DEV << 8);
	out8(LAYOUT_SERIAL_PORT + UART_IER, UART_IER_RDI | UART_IER_THRI);
	out8(LAYOUT_SERIAL_PORT + UART_MCR, UART_MCR_LOOP | UART_MCR_OUT2);
	out8(LAYOUT_SERIAL_PORT + UART_LCR, UART_LCR_WLEN8);
	out8(LAYOUT_SERIAL_PORT + UART_SCR, 0x77);
	out8(LAYOUT_SERIAL_PORT + UART_TX, 'x');
}

static void mess_up_memory(void)
{
	initialised = 0xbad;
	zeroed = 0xbad;
	write8(start_info()->rsdp, 'X');
	((struct start_info *)start_info())->magic = 0;
}

static void reset(void)
{
	out8(RESET, 1);
	for (;;)
		__asm__ volatile("pause");
}

/* Each boot ends in its own way: who resets, and what the other is at just then. */
static bool ap_resets(uint64_t boot)
{
	return boot & 1;
}

static void be_busy(uint64_t boot)
{
	for (;;) {
		switch (boot >> 1 & 3) {
		case 0: halt(); break;
		case 1: (void)milliseconds(); break;
		case 2: (void)read64(LAYOUT_HOLE_BASE); break;
		default: __asm__ volatile("pause");
		}
	}
}

static void run_ap(unsigned int id)
{
	uint64_t boot = found->mark - MARK_VALUE;

	CHECK_EQ(id, 1);
	wrmsr(MSR_LSTAR, 0x4444);
	ap_runs++;
	if (!ap_resets(boot))
		be_busy(boot);
	while (!ready_for_reset) {
	}
	wait_a_while();
	reset();
}

static void go_down(uint64_t boot)
{
	smp_start(2, run_ap);
	wait_for(&ap_runs, 1);
	CHECK_EQ(ap_runs, 1);
	CHECK_EQ(smp_arrived(), 1);
	mess_up_msrs();
	mess_up_devices();
	mess_up_memory();
	found->mark++;
	ready_for_reset = true;
	if (ap_resets(boot))
		be_busy(boot);
	reset();
}

int guest_main(void)
{
	uint64_t boots = found->mark - MARK_VALUE;
	struct found now = { 0 };

	interrupt_handle(VECTOR_MSIX, count_stray);
	interrupt_handle(VECTOR_TIMER, count_stray);
	interrupt_handle(VECTOR_BUTTON, count_stray);
	check_loaded();
	if (boots > 100) {
		CHECK_EQ(found->mark, 0); /* fresh RAM is zero */
		look(found);
		found->mark = MARK_VALUE;
		check_devices();
		boots = 0;
	} else {
		look(&now);
		compare(found, &now);
		check_devices();
		CHECK(rdtsc() > found->tsc); /* time goes on */
	}
	interrupts_on();
	wait_a_while();
	interrupts_off();
	CHECK_EQ(stray, 0);
	found->tsc = rdtsc();
	if (boots == option("resets"))
		return 0;
	go_down(boots);
	return 1;
}
