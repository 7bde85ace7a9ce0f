/* SPDX-License-Identifier: MIT */
/*
 * multiboot.S - the smallest start of a Multiboot kernel: its header, a stack, and what the
 * monitor handed over, to C, in 32-bit protected mode.
 */
	.section .multiboot, "a"
	.balign 4
	.long 0x1badb002
	.long 3 /* page alignment, memory information */
	.long -(0x1badb002 + 3)

	.text
	.code32
	.globl start
start:
	mov	$stack_end, %esp
	mov	%eax, %edi
	pushf
	pop	%edx
	mov	%cr0, %ecx
	push	%edx
	push	%ecx
	push	%ebx
	push	%edi
	call	multiboot_main
	ud2

	.bss
	.balign 16
	.fill 4096, 1, 0
stack_end:

	.section .note.GNU-stack, "", @progbits
