/* SPDX-License-Identifier: MIT */
/*
 * contract.h - what the runner and its guests agree on: the test device's registers, the host
 * port, the words of the command line. Included by both sides; numbers only.
 */
#ifndef TESTS_GUEST_CONTRACT_H
#define TESTS_GUEST_CONTRACT_H

/*
 * The test device, once in each of the slots below. Every BAR starts with its identity, so
 * that a guest sees which one answers; the I/O BAR's and the memory BARs' other bytes are
 * plain storage unless named here.
 */
#define TEST_VENDOR 0x7e57u
#define TEST_DEVICE 0xba11u
#define TEST_CLASS 0xff0000
#define TEST_SLOT_A 1
#define TEST_SLOT_B 5
#define TEST_IDENTITY(slot, bar) (0x7e570000u | (slot) << 8 | (bar))

/* Config space: bytes the guest may write, in the standard and in the extended part. */
#define TEST_CONFIG_SCRATCH 0x80
#define TEST_CONFIG_SCRATCH_SIZE 8
#define TEST_CONFIG_EXTENDED 0x2e4
#define TEST_CONFIG_EXTENDED_SIZE 4

#define TEST_BAR_REGISTERS 0 /* 32-bit memory */
#define TEST_BAR_REGISTERS_SIZE 0x1000
#define TEST_BAR_IO 1
#define TEST_BAR_IO_SIZE 0x20
#define TEST_BAR_WIDE 2 /* 64-bit memory, and so 3 as well */
#define TEST_BAR_WIDE_SIZE 0x10000
#define TEST_BAR_OTHER 4 /* 32-bit memory */
#define TEST_BAR_OTHER_SIZE 0x1000
/* 32-bit memory that the guest reaches without the runner, as it does an assigned device's. */
#define TEST_BAR_MAPPED 5
#define TEST_BAR_MAPPED_SIZE 0x1000
#define TEST_MAPPED_WORD 0x8 /* read: TEST_MAPPED, unless the access trapped */
#define TEST_MAPPED 0x3a993d00u

/* BAR 0; 4 bytes each but for LAST_VALUE's 8. */
#define TEST_RAISE_MSIX 0x10 /* write: this vector */
#define TEST_SET_INTX 0x14   /* write: asserts the level until TEST_CLEAR_INTX */
#define TEST_CLEAR_INTX 0x18
#define TEST_RESAMPLES 0x1c /* read: how often the EOI came back */
#define TEST_LAST_BAR 0x20  /* read: the last write that did not go to BAR 0: which BAR, */
#define TEST_LAST_OFFSET 0x24
#define TEST_LAST_SIZE 0x28
#define TEST_LAST_VALUE 0x30
#define TEST_NR_WRITES 0x38 /* read: how many of them there were */
#define TEST_RESETS 0x3c    /* read: function resets since the machine was built */
#define TEST_STORAGE 0x40

/* BAR 2 */
#define TEST_MSIX_VECTORS 4
#define TEST_MSIX_CAP 0x40
#define TEST_MSIX_TABLE 0x8000
#define TEST_MSIX_PBA 0xc000

/* The host port: things a guest asks of its runner. 4 bytes each. */
#define HOST_PORT 0x700
#define HOST_PORT_SIZE 0x24
#define HOST_CLOCK 0x700      /* read: milliseconds that pass on the host */
#define HOST_PRESS 0x704      /* write: presses the power button */
#define HOST_ASK 0x708        /* write: address of a QMP request; goes on when it is answered */
#define HOST_FIND 0x70c       /* write: address of keys, "held-back bytes", into that answer */
#define HOST_VALUE_LOW 0x710  /* read: the number found there; */
#define HOST_VALUE_HIGH 0x714 /* 0 and 1 for false and true, 0 for what is no number */
#define HOST_RESIZE 0x718     /* write: the disk's image is that many bytes from now on */
#define HOST_UNPLUG 0x71c /* write: the guest is asked to let go of the test device in slot B */
#define HOST_PLUG 0x720   /* write: one comes into slot B */
/* A hot-plug controller for these two, of the runner's own; the registers of devices/hotplug.h. */
#define HOST_HOTPLUG 0x724
#define HOST_NO_VALUE 0xffffffffffffffffull
#define HOST_TEXT_SIZE 128 /* of what is asked and found, and its NUL */

/*
 * The disk: each sector is full of one byte. What a guest that may write leaves in one of them the
 * runner finds there.
 */
#define DISK_SIZE 0x800000u
#define DISK_BYTE(sector) ((sector)*7 + 1)
#define DISK_PROOF_SECTOR 1000u
#define DISK_PROOF_BYTE 0xb7

/* Ethernet type of the frames that come back: for experiments, nobody else's. */
#define NET_TYPE 0x88b5

/* What serial-socket's runner sends and wants back. */
#define SERIAL_INPUT_SIZE 600

/* What a virtio console sends a file: CONSOLE_SIZE bytes of these. */
#define CONSOLE_SIZE 4000003u
#define CONSOLE_BYTE(i) ((uint8_t)((i)*7u + ((i) >> 8)))
/* Bytes that wait for a guest that takes them now and then. */
#define CONSOLE_INPUT_SIZE 16384

#endif /* TESTS_GUEST_CONTRACT_H */
