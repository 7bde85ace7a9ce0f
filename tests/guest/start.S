/* SPDX-License-Identifier: MIT */
/*
 * start.S - from the PVH entry, and from a start-up IPI, into C in long mode: the first 4 GiB
 * mapped to themselves, interrupts off, a stack for each processor.
 */
#include "tests/guest/start.h"

#define CR0_PE_PG $0x80000001
#define CR4_PAE $0x20
#define MSR_EFER $0xc0000080
#define EFER_LME $0x100

	.section .note.pvh, "a", @note
	.balign 4
	.long 4, 4, 18 /* name size, value size, XEN_ELFNOTE_PHYS32_ENTRY */
	.asciz "Xen"
	.long start

	.macro enter_long_mode
	mov	$pml4, %eax
	mov	%eax, %cr3
	mov	%cr4, %eax
	or	CR4_PAE, %eax
	mov	%eax, %cr4
	mov	MSR_EFER, %ecx
	rdmsr
	or	EFER_LME, %eax
	wrmsr
	mov	%cr0, %eax
	or	CR0_PE_PG, %eax
	mov	%eax, %cr0
	.endm

	.macro load_data_segments
	mov	$GDT_DATA, %eax
	mov	%eax, %ds
	mov	%eax, %es
	mov	%eax, %ss
	mov	%eax, %fs
	mov	%eax, %gs
	.endm

	.text
	.code32
	.globl start
start:
	/* What the monitor handed over, before any of it changes. */
	mov	%ebx, entry_state + ENTRY_INFO
	mov	%cr0, %eax
	mov	%eax, entry_state + ENTRY_CR0
	mov	%cr4, %eax
	mov	%eax, entry_state + ENTRY_CR4
	mov	MSR_EFER, %ecx
	rdmsr
	mov	%eax, entry_state + ENTRY_EFER
	mov	$stack_end, %esp
	pushf
	popl	entry_state + ENTRY_FLAGS
	cld
	enter_long_mode
	lgdt	gdt_pointer
	ljmp	$GDT_CODE, $start_64
	.code64
start_64:
	load_data_segments
	mov	$stack_end, %esp
	call	guest_start
	ud2

	/* Copied to AP_START; runs there in real mode, with cs at its own first byte. */
	.code16
	.globl ap_code, ap_code_end
ap_code:
	cli
	cld
	mov	%cs, %ax
	mov	%ax, %ds
	lgdtl	ap_gdt_pointer - ap_code
	mov	%cr0, %eax
	or	$1, %eax
	mov	%eax, %cr0
	ljmpl	$GDT_CODE_32, $ap_start
	.balign 4
ap_gdt_pointer:
	.word gdt_end - gdt - 1
	.long gdt
ap_code_end:

	.code32
ap_start:
	mov	$GDT_DATA, %eax
	mov	%eax, %ds
	enter_long_mode
	ljmp	$GDT_CODE, $ap_start_64
	.code64
ap_start_64:
	load_data_segments
	/* The next stack that is free. */
	mov	$1, %edi
	lock xadd %edi, ap_count
	inc	%edi
	mov	%edi, %eax
	shl	$AP_STACK_SHIFT, %eax
	lea	ap_stacks(%eax), %esp
	call	guest_start_ap
	ud2

	/* One entry a vector: number, error code (0 where the processor has none), then C. */
	.balign 16
	.globl vectors
vectors:
	.set i, 0
	.rept NR_VECTORS
	.balign VECTOR_SIZE
	.if !(i == 8 || (i >= 10 && i <= 14) || i == 17 || i == 21 || i == 29 || i == 30)
	push	$0
	.endif
	push	$i
	jmp	interrupted
	.set i, i + 1
	.endr
interrupted:
	push	%rax
	push	%rcx
	push	%rdx
	push	%rbx
	push	%rbp
	push	%rsi
	push	%rdi
	push	%r8
	push	%r9
	push	%r10
	push	%r11
	push	%r12
	push	%r13
	push	%r14
	push	%r15
	mov	%rsp, %rdi
	cld
	call	guest_interrupt
	pop	%r15
	pop	%r14
	pop	%r13
	pop	%r12
	pop	%r11
	pop	%r10
	pop	%r9
	pop	%r8
	pop	%rdi
	pop	%rsi
	pop	%rbp
	pop	%rbx
	pop	%rdx
	pop	%rcx
	pop	%rax
	add	$16, %rsp
	iretq

	.data
	.balign 8
gdt:
	.quad 0
	.quad 0x00af9b000000ffff /* GDT_CODE */
	.quad 0x00cf93000000ffff /* GDT_DATA */
	.quad 0x00cf9b000000ffff /* GDT_CODE_32 */
gdt_end:
gdt_pointer:
	.word gdt_end - gdt - 1
	.long gdt

	.balign 4
	.globl entry_state
entry_state:
	.fill ENTRY_SIZE, 1, 0
ap_count:
	.long 0

	/* Made by the assembler: filling them in would take a software KVM longer than a test. */
	.balign 4096
	.globl pml4
pml4:
	.quad pdpt + 3
	.fill 511, 8, 0
pdpt:
	.set i, 0
	.rept 4
	.quad page_directories + i * 4096 + 3
	.set i, i + 1
	.endr
	.fill 508, 8, 0
page_directories:
	.set i, 0
	.rept 2048
	.quad i << 21 | 0x83
	.set i, i + 1
	.endr

	.bss
	.balign 16
stack:
	.fill 16384, 1, 0
stack_end:
ap_stacks:
	.fill 16 << AP_STACK_SHIFT, 1, 0

	.section .note.GNU-stack, "", @progbits
