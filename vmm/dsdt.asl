/* SPDX-License-Identifier: MIT */
/*
 * dsdt.asl - what ACPI cannot say in fixed tables: the PCI root bridge with its windows and
 * interrupt routing, the legacy devices, the power button, S5. Numbers come from layout.h.
 */
#define __ASL__
#include "vmm/layout.h"

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
		}

		/* What no device owns, so that nobody else takes it. */
		Device (MRES)
		{
			Name (_HID, EisaId ("PNP0C02"))
			Name (_CRS, ResourceTemplate ()
			{
				Memory32Fixed (ReadWrite, LAYOUT_ECAM_BASE, LAYOUT_ECAM_SIZE)
				IO (Decode16, LAYOUT_POWER_PORT, LAYOUT_POWER_PORT, 1, 4)
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
			}
		}
	}
}
