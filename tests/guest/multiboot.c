/* SPDX-License-Identifier: MIT */
/*
 * multiboot.c - a Multiboot kernel looks at what it was handed, in the manner of kvm-unit-tests:
 * it says so on the serial port and ends with a status by the exit port, 0 if all is right.
 */
#include <stdint.h>

#include "vmm/layout.h"

#define MAGIC 0x2badb002u
#define CR0_PE 0x1u
#define CR0_PG 0x80000000u
#define FLAGS_IF 0x200u
#define LINE_STATUS 5u
#define TRANSMITTER_EMPTY 0x20u

/* Multiboot 0.6.96, 3.3, as far as it is looked at. */
struct info {
	uint32_t flags;
	uint32_t mem_lower;
	uint32_t mem_upper;
	uint32_t boot_device;
	uint32_t cmdline;
	uint32_t nr_modules;
	uint32_t modules;
	uint32_t symbols[4];
	uint32_t map_size;
	uint32_t map;
};

struct memory {
	uint32_t size;
	uint32_t address[2];
	uint32_t length[2];
	uint32_t type;
};

void multiboot_main(uint32_t magic, const struct info *info, uint32_t cr0, uint32_t flags);

static uint32_t zeros[16]; /* of the part of a segment that is not in the file */

static void out8(uint16_t port, uint8_t value)
{
	__asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

static uint8_t in8(uint16_t port)
{
	uint8_t value;

	__asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
	return value;
}

static void print(const char *text)
{
	for (; *text; text++) {
		while (!(in8(LAYOUT_SERIAL_PORT + LINE_STATUS) & TRANSMITTER_EMPTY)) {
		}
		out8(LAYOUT_SERIAL_PORT, (uint8_t)*text);
	}
}

/* All 32 bits, as kvm-unit-tests do. */
__attribute__((noreturn)) static void end(uint32_t status)
{
	__asm__ volatile("outl %0, %1" : : "a"(status), "Nd"((uint16_t)LAYOUT_EXIT_PORT));
	for (;;)
		__asm__ volatile("hlt");
}

static void check(int good, const char *what)
{
	if (good)
		return;
	print("FAIL ");
	print(what);
	print("\n");
	end(1);
}

/* The number after `key`, which is one of the words; the first word is the kernel's path. */
static uint32_t option(const char *cmdline, const char *key)
{
	uint32_t value = 0;

	check(*cmdline != '\0' && *cmdline != ' ', "first word of the command line");
	for (; *cmdline; cmdline++) {
		unsigned int n = 0;
		while (key[n] && cmdline[n + 1] == key[n])
			n++;
		if (*cmdline != ' ' || key[n])
			continue;
		for (cmdline += n + 1; *cmdline >= '0' && *cmdline <= '9'; cmdline++)
			value = value * 10 + (uint32_t)(*cmdline - '0');
		return value;
	}
	check(0, key);
	return 0;
}

/* There is RAM of exactly this size from 1 MiB on. */
static int has_memory(const struct info *info, uint32_t size)
{
	uint32_t at = info->map;

	while (at < info->map + info->map_size) {
		const struct memory *m = (const struct memory *)at;
		if (m->type == 1 && m->address[0] == LAYOUT_KERNEL_BASE && m->address[1] == 0)
			return m->length[0] == size && m->length[1] == 0;
		at += m->size + 4;
	}
	return 0;
}

void multiboot_main(uint32_t magic, const struct info *info, uint32_t cr0, uint32_t flags)
{
	check(magic == MAGIC, "magic");
	check((cr0 & (CR0_PE | CR0_PG)) == CR0_PE, "protected mode without paging");
	check(!(flags & FLAGS_IF), "interrupts off");
	for (unsigned int i = 0; i < sizeof(zeros) / sizeof(zeros[0]); i++)
		check(((volatile uint32_t *)zeros)[i] == 0, "zeros");
	check((info->flags & 0x45) == 0x45, "flags");
	check(info->mem_lower == 640, "lower memory");
	uint32_t size = option((const char *)info->cmdline, "memory=") - LAYOUT_KERNEL_BASE;
	check(info->mem_upper == size >> 10, "upper memory");
	check(has_memory(info, size), "memory map");
	print("multiboot\n");
	end(option((const char *)info->cmdline, "status="));
}
