/* SPDX-License-Identifier: MIT */
/*
 * start.h - what start.S and guest.c share; numbers only, for the assembler too.
 */
#ifndef TESTS_GUEST_START_H
#define TESTS_GUEST_START_H

#define GDT_CODE 0x08
#define GDT_DATA 0x10
#define GDT_CODE_32 0x18

#define NR_VECTORS 96
#define VECTOR_SIZE 16

/* Offsets into entry_state; 4 bytes each. */
#define ENTRY_INFO 0
#define ENTRY_CR0 4
#define ENTRY_CR4 8
#define ENTRY_EFER 12
#define ENTRY_FLAGS 16
#define ENTRY_SIZE 20

/* Free RAM below 640 KiB: nothing of the loader's is above 0x30000. */
#define AP_START 0x40000
#define AP_STACK_SHIFT 13

#endif /* TESTS_GUEST_START_H */
