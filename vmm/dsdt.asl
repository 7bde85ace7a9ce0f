/* SPDX-License-Identifier: MIT */
/*
 * dsdt.asl - what ACPI cannot say in fixed tables: the PCI root bridge with its windows and
 * interrupt routing and hot-plug, the legacy devices, the power button, S5. Numbers come from
 * layout.h.
 */
#define __ASL__
#include "vmm/layout.h"

/* Slot 0 is the host bridge's. */
#define FOR_EACH_SLOT(DO) \
	DO (01, 1) DO (02, 2) DO (03, 3) DO (04, 4) DO (05, 5) DO (06, 6) DO (07, 7) DO (08, 8) \
	DO (09, 9) DO (10, 10) DO (11, 11) DO (12, 12) DO (13, 13) DO (14, 14) DO (15, 15) \
	DO (16, 16) DO (17, 17) DO (18, 18) DO (19, 19) DO (20, 20) DO (21, 21) DO (22, 22) \
	DO (23, 23) DO (24, 24) DO (25, 25) DO (26, 26) DO (27, 27) DO (28, 28) DO (29, 29) \
	DO (30, 30) DO (31, 31)

/* No _STA: whether a slot holds something, its config space says. */
#define SLOT(NAME, NUMBER) \
	Device (S##NAME) \
	{ \
		Name (_ADR, NUMBER << 16) \
		Name (_SUN, NUMBER) \
		Method (_RMV) { Return ((PRMV >> NUMBER) & 1) } \
		Method (_EJ0, 1) { PRMV = 1 << NUMBER } \
	}

#define TELL_SLOT(NAME, NUMBER) \
	If (Local0 & (1 << NUMBER)) { Notify (S##NAME, 1) } \
	If (Local1 & (1 << NUMBER)) { Notify (S##NAME, 3) }

DefinitionBlock ("dsdt.aml", "DSDT", 2, "BALLST", "BALLAST ", 1)
{
	/* POWER_SLEEP_TYPE_S5 of devices/power.h */
	Name (_S5, Package () { 5, 0, 0, 0 })

	Scope (_SB)
	{
		/* Filled in by vmm/acpi.c: the 64-bit window follows CPU and IOMMU. */
		OperationRegion (WNDB, SystemMemory, LAYOUT_WINDOW_BLOCK, 32)
		Field (WNDB, QWordAcc, NoLock, Preserve)
		{
			WMIN, 64,
			WLEN, 64
		}

		Device (PCI0)
		{
			Name (_HID, EisaId ("PNP0A08"))
			Name (_CID, EisaId ("PNP0A03"))
			Name (_UID, 0)
			Name (_SEG, 0)
			Name (_BBN, 0)

			Name (RBUF, ResourceTemplate ()
			{
				WordBusNumber (ResourceProducer, MinFixed, MaxFixed, PosDecode,
					0, 0, 0, 0, 1)
				IO (Decode16, 0xcf8, 0xcf8, 1, 8)
				WordIO (ResourceProducer, MinFixed, MaxFixed, PosDecode, EntireRange,
					0, LAYOUT_IO_BASE, LAYOUT_IO_LAST, 0, LAYOUT_IO_SIZE)
				DWordMemory (ResourceProducer, PosDecode, MinFixed, MaxFixed,
					NonCacheable, ReadWrite,
					0, LAYOUT_MEM32_BASE, LAYOUT_MEM32_LAST, 0,
					LAYOUT_MEM32_SIZE)
				QWordMemory (ResourceProducer, PosDecode, MinFixed, MaxFixed,
					Cacheable, ReadWrite, 0, 0, 0, 0, 0, , , W64)
			})
			CreateQWordField (RBUF, W64._MIN, WMI)
			CreateQWordField (RBUF, W64._MAX, WMA)
			CreateQWordField (RBUF, W64._LEN, WLE)

			Method (_CRS, 0, Serialized)
			{
				WMI = WMIN
				WLE = WLEN
				WMA = WMIN + WLEN - 1
				Return (RBUF)
			}

			/* The guest's kernel may run whatever PCI Express feature it likes. */
			Method (_OSC, 4, Serialized)
			{
				CreateDWordField (Arg3, 0, STAT)
				If (Arg0 == ToUUID ("33DB4D5B-1FF7-401C-9657-7441C03DD766"))
				{
					If (Arg1 != 1)
					{
						STAT = STAT | 0x08
					}
				}
				Else
				{
					STAT = STAT | 0x04
				}
				Return (Arg3)
			}

			/* pci_intx_gsi() in devices/pci.c: 16 + (slot + pin) % 8, pin from 0 */
			Method (_PRT, 0, Serialized)
			{
				Local0 = Package (128) {}
				Local1 = 0
				While (Local1 < 128)
				{
					Local2 = Local1 >> 2
					Local3 = Local1 & 3
					Local4 = Package (4) { 0, 0, 0, 0 }
					Local4[0] = (Local2 << 16) | 0xffff
					Local4[1] = Local3
					Local4[3] = 16 + ((Local2 + Local3) & 7)
					Local0[Local1] = Local4
					Local1++
				}
				Return (Local0)
			}

			/* devices/hotplug.h: what came, what shall go, what may go and has gone */
			OperationRegion (HOTP, SystemIO, LAYOUT_HOTPLUG_PORT, 12)
			Field (HOTP, DWordAcc, NoLock, WriteAsZeros)
			{
				PCAM, 32,
				PASK, 32,
				PRMV, 32
			}

			FOR_EACH_SLOT (SLOT)

			/* A device check where something came, an eject request where it shall go */
			Method (TELL, 0, Serialized)
			{
				Local0 = PCAM
				Local1 = PASK
				FOR_EACH_SLOT (TELL_SLOT)
			}
		}

		/* What no device owns, so that nobody else takes it. */
		Device (MRES)
		{
			Name (_HID, EisaId ("PNP0C02"))
			Name (_CRS, ResourceTemplate ()
			{
				Memory32Fixed (ReadWrite, LAYOUT_ECAM_BASE, LAYOUT_ECAM_SIZE)
				IO (Decode16, LAYOUT_POWER_PORT, LAYOUT_POWER_PORT, 1, 16)
			})
		}

		Device (COM1)
		{
			Name (_HID, EisaId ("PNP0501"))
			Name (_UID, 1)
			Name (_CRS, ResourceTemplate ()
			{
				IO (Decode16, LAYOUT_SERIAL_PORT, LAYOUT_SERIAL_PORT, 1, 8)
				Interrupt (ResourceConsumer, Edge, ActiveHigh, Exclusive)
				{
					LAYOUT_SERIAL_GSI
				}
			})
		}

		Device (RTC)
		{
			Name (_HID, EisaId ("PNP0B00"))
			Name (_CRS, ResourceTemplate ()
			{
				IO (Decode16, 0x70, 0x70, 1, 2)
			})
		}

		/* pvpanic: by ACPI rather than PCI, so that no boot pays for config space to be scanned. */
		Device (PVPN)
		{
			Name (_HID, "QEMU0001")
			Name (_CRS, ResourceTemplate ()
			{
				IO (Decode16, LAYOUT_PANIC_PORT, LAYOUT_PANIC_PORT, 1, 1)
			})
		}

		Device (PWRB)
		{
			Name (_HID, EisaId ("PNP0C0C"))
			Name (_UID, 0)
		}

		Device (GED)
		{
			Name (_HID, "ACPI0013")
			Name (_UID, 0)
			Name (_CRS, ResourceTemplate ()
			{
				Interrupt (ResourceConsumer, Edge, ActiveHigh, Exclusive)
				{
					LAYOUT_POWER_GSI
				}
			})
			OperationRegion (EVTR, SystemIO, LAYOUT_POWER_EVENT_PORT, 1)
			Field (EVTR, ByteAcc, NoLock, Preserve)
			{
				EVTS, 8
			}
			Method (_EVT, 1, Serialized)
			{
				Local0 = EVTS
				If (Local0 & 1)
				{
					Notify (PWRB, 0x80)
				}
				If (Local0 & 2)
				{
					\_SB.PCI0.TELL ()
				}
			}
		}
	}
}
